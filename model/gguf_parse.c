/* SPDX-License-Identifier: Apache-2.0 */
/* Parses the metadata of one GGUF part out of its mapping. The one idea: a cursor that can only
 * move forward within the file; every length is compared with what is left before it is used or
 * allocated for, so no claim of the file costs more memory than a few times its size. */
#include "model/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NAME_BYTES = 1023,
    MIN_PAIR_BYTES = 8 + 1 + 4 + 1,     /* key length, key, type, value */
    MIN_INFO_BYTES = 8 + 1 + 4 + 4 + 8, /* name length, name, dimensions, type, offset */
    FIRST_ROOM = 64
};

struct cursor {
    const uint8_t *data;
    size_t bytes, at;
    const char *path;
    struct mb_error *error;
};

static enum mb_status fail(const struct cursor *c, size_t where, const char *format, ...)
    MB_PRINTF(3, 4);

static enum mb_status fail(const struct cursor *c, size_t where, const char *format, ...)
{
    char text[320];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return mb_error_set(c->error, MB_ERR_FILE, (int64_t)where, "'%s', byte %zu: %s", c->path, where,
                        text);
}

static enum mb_status no_memory(const struct cursor *c)
{
    return mb_error_set(c->error, MB_ERR_MEMORY, -1, "out of memory while reading '%s'", c->path);
}

static size_t left(const struct cursor *c) { return c->bytes - c->at; }

static enum mb_status take(struct cursor *c, size_t bytes, const char *what, uint64_t *value)
{
    if (left(c) < bytes)
        return fail(c, c->at, "the file ends inside %s; it is incomplete, fetch it again", what);
    *value = mb_gguf_little_endian(c->data + c->at, bytes);
    c->at += bytes;
    return MB_OK;
}

/* A length-prefixed key or name, copied; free() it. */
static enum mb_status take_name(struct cursor *c, const char *what, char **name)
{
    const size_t where = c->at;
    uint64_t length = 0;
    const enum mb_status status = take(c, 8, what, &length);
    if (status != MB_OK)
        return status;
    if (length == 0 || length > MAX_NAME_BYTES)
        return fail(c, where, "%s has %" PRIu64 " bytes, expected 1 to %d; the file is damaged",
                    what, length, MAX_NAME_BYTES);
    if (length > left(c))
        return fail(c, where, "the file ends inside %s; it is incomplete, fetch it again", what);
    if (memchr(c->data + c->at, 0, (size_t)length) != NULL)
        return fail(c, where, "%s contains a zero byte; the file is damaged", what);
    *name = malloc((size_t)length + 1);
    if (*name == NULL)
        return no_memory(c);
    memcpy(*name, c->data + c->at, (size_t)length);
    (*name)[length] = '\0';
    c->at += (size_t)length;
    return MB_OK;
}

struct mb_printable mb_printable(const char *text)
{
    struct mb_printable out;
    size_t i = 0;
    for (; i < 60 && text[i] != '\0'; i++)
        out.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    if (text[i] != '\0')
        for (size_t dots = 0; dots < 3; dots++)
            out.text[i++] = '.';
    out.text[i] = '\0';
    return out;
}

/* Room for one more element; doubles, so memory follows what has really been parsed. */
static bool grow(void **array, size_t used, size_t *room, size_t element_bytes)
{
    if (used < *room)
        return true;
    const size_t wanted = *room == 0 ? FIRST_ROOM : *room * 2;
    size_t bytes;
    if (wanted < *room || !mb_mul_size(wanted, element_bytes, &bytes))
        return false;
    void *larger = realloc(*array, bytes);
    if (larger == NULL)
        return false;
    *array = larger;
    *room = wanted;
    return true;
}

/* ---- key-value pairs ---- */

static enum mb_status take_strings(struct cursor *c, struct mb_gguf_pair *pair)
{
    const size_t start = c->at;
    pair->offsets = malloc((size_t)pair->count * sizeof *pair->offsets);
    if (pair->offsets == NULL && pair->count > 0)
        return no_memory(c);
    for (uint64_t i = 0; i < pair->count; i++) {
        uint64_t length = 0;
        const size_t where = c->at;
        const enum mb_status status = take(c, 8, "an array of strings", &length);
        if (status != MB_OK)
            return status;
        if (length > left(c))
            return fail(c, where,
                        "string %" PRIu64 " of key '%s' claims %" PRIu64
                        " bytes, %zu are left; the file is damaged or incomplete",
                        i, mb_printable(pair->key).text, length, left(c));
        pair->offsets[i] = where - start;
        c->at += (size_t)length;
    }
    pair->value_bytes = c->at - start;
    return MB_OK;
}

static enum mb_status take_array(struct cursor *c, struct mb_gguf_pair *pair)
{
    uint64_t element = 0;
    const size_t where = c->at;
    enum mb_status status = take(c, 4, "an array's type", &element);
    if (status == MB_OK)
        status = take(c, 8, "an array's length", &pair->count);
    if (status != MB_OK)
        return status;
    if (element >= MB_GGUF_TYPE_COUNT || element == MB_GGUF_ARRAY)
        return fail(c, where, "key '%s' is an array of %s (type %" PRIu64 "); %s",
                    mb_printable(pair->key).text,
                    element == MB_GGUF_ARRAY ? "arrays" : "an unknown type", element,
                    "GGUF 3 has no such array, the file is damaged");
    pair->element = (uint32_t)element;
    /* A string takes at least its length field. */
    const size_t each = element == MB_GGUF_STRING ? 8 : mb_gguf_scalar_bytes((uint32_t)element);
    if (pair->count > left(c) / each)
        return fail(c, where,
                    "key '%s' claims %" PRIu64
                    " elements, more than the rest of the file holds; it is damaged or incomplete",
                    mb_printable(pair->key).text, pair->count);
    pair->value = c->data + c->at;
    if (element == MB_GGUF_STRING)
        return take_strings(c, pair);
    pair->value_bytes = (size_t)pair->count * each;
    c->at += pair->value_bytes;
    return MB_OK;
}

static enum mb_status take_text(struct cursor *c, struct mb_gguf_pair *pair)
{
    const size_t where = c->at;
    uint64_t length = 0;
    const enum mb_status status = take(c, 8, "a string", &length);
    if (status != MB_OK)
        return status;
    if (length > left(c))
        return fail(c, where,
                    "the string of key '%s' claims %" PRIu64
                    " bytes, %zu are left; the file is damaged or incomplete",
                    mb_printable(pair->key).text, length, left(c));
    pair->value = c->data + where;
    pair->value_bytes = 8 + (size_t)length;
    pair->text = malloc((size_t)length + 1);
    if (pair->text == NULL)
        return no_memory(c);
    memcpy(pair->text, c->data + c->at, (size_t)length);
    pair->text[length] = '\0';
    c->at += (size_t)length;
    return MB_OK;
}

static enum mb_status take_pair(struct cursor *c, struct mb_gguf_pair *pair)
{
    *pair = (struct mb_gguf_pair){.raw = c->data + c->at, .count = 1};
    enum mb_status status = take_name(c, "a metadata key", &pair->key);
    uint64_t type = 0;
    const size_t type_at = c->at;
    if (status == MB_OK)
        status = take(c, 4, "a metadata value's type", &type);
    if (status != MB_OK)
        return status;
    if (type >= MB_GGUF_TYPE_COUNT)
        return fail(c, type_at,
                    "key '%s' has value type %" PRIu64 ", the last one known is %d; the file is "
                    "damaged or of a newer kind",
                    mb_printable(pair->key).text, type, MB_GGUF_TYPE_COUNT - 1);
    pair->type = pair->element = (uint32_t)type;
    pair->value = c->data + c->at;
    if (type == MB_GGUF_ARRAY) {
        status = take_array(c, pair);
    } else if (type == MB_GGUF_STRING) {
        status = take_text(c, pair);
    } else {
        pair->value_bytes = mb_gguf_scalar_bytes(pair->type);
        if (left(c) < pair->value_bytes)
            return fail(c, c->at, "the file ends inside the value of '%s'; it is incomplete",
                        mb_printable(pair->key).text);
        c->at += pair->value_bytes;
    }
    pair->raw_bytes = (size_t)(c->data + c->at - pair->raw);
    return status;
}

void mb_gguf_free_pairs(struct mb_gguf_pair *pairs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(pairs[i].key);
        free(pairs[i].text);
        free(pairs[i].offsets);
    }
    free(pairs);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct mb_gguf_pair *const *left_pair = a, *const *right_pair = b;
    const int order = strcmp((*left_pair)->key, (*right_pair)->key);
    if (order != 0)
        return order;
    return (*left_pair)->raw < (*right_pair)->raw ? -1 : 1;
}

static enum mb_status check_keys(const struct cursor *c, struct mb_gguf_pair *pairs, size_t count)
{
    if (count < 2)
        return MB_OK;
    struct mb_gguf_pair **sorted = malloc(count * sizeof *sorted);
    if (sorted == NULL)
        return no_memory(c);
    for (size_t i = 0; i < count; i++)
        sorted[i] = &pairs[i];
    qsort(sorted, count, sizeof *sorted, compare_pairs);
    enum mb_status status = MB_OK;
    for (size_t i = 1; i < count && status == MB_OK; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
            status = fail(c, (size_t)(sorted[i]->raw - c->data),
                          "key '%s' occurs twice; the file is damaged",
                          mb_printable(sorted[i]->key).text);
    free(sorted);
    return status;
}

static enum mb_status take_pairs(struct cursor *c, uint64_t claimed, struct mb_gguf_pair **pairs,
                                 size_t *count)
{
    size_t room = 0;
    void *array = NULL;
    enum mb_status status = MB_OK;
    *count = 0;
    for (uint64_t i = 0; i < claimed && status == MB_OK; i++) {
        if (!grow(&array, *count, &room, sizeof **pairs)) {
            status = no_memory(c);
            break;
        }
        struct mb_gguf_pair *pair = (struct mb_gguf_pair *)array + *count;
        status = take_pair(c, pair);
        ++*count; /* a half-parsed pair is freed with the others */
    }
    *pairs = array;
    return status == MB_OK ? check_keys(c, *pairs, *count) : status;
}

/* ---- tensor infos ---- */

static enum mb_status check_shape(const struct cursor *c, size_t where, struct mb_tensor *t)
{
    const struct mb_ggml_type *type = mb_ggml_type(t->type);
    const struct mb_printable name = mb_printable(t->name);
    if (type == NULL)
        return fail(c, where,
                    "tensor '%s' has ggml type %" PRId32
                    ", which is unknown or was removed; convert the model anew",
                    name.text, t->type);
    size_t elements = 1;
    t->n = 1;
    for (size_t d = 0; d < MB_GGUF_MAX_DIMS; d++) {
        if (t->ne[d] == 0 || t->ne[d] > SIZE_MAX ||
            !mb_mul_size(elements, (size_t)t->ne[d], &elements))
            return fail(c, where, "tensor '%s' has an impossible dimension of %" PRIu64 "; %s",
                        name.text, t->ne[d], "the file is damaged");
        if (d > 0)
            t->n *= (size_t)t->ne[d];
    }
    t->k = (size_t)t->ne[0];
    if (t->k % type->block_k != 0)
        return fail(c, where,
                    "tensor '%s' has rows of %zu weights, no multiple of %s's block of %" PRIu32
                    "; the file is damaged",
                    name.text, t->k, type->name, type->block_k);
    if (!mb_mul_size(elements / type->block_k, type->block_bytes, &t->bytes))
        return fail(c, where, "the size of tensor '%s' overflows; the file is damaged", name.text);
    t->format =
        mb_format_info((enum mb_format)t->type) != NULL ? (enum mb_format)t->type : MB_FORMAT_NONE;
    return MB_OK;
}

static enum mb_status take_info(struct cursor *c, struct mb_tensor *t, struct mb_gguf_info *info)
{
    *t = (struct mb_tensor){.layer = -1, .format = MB_FORMAT_NONE};
    *info = (struct mb_gguf_info){.at = c->at};
    char *name = NULL;
    enum mb_status status = take_name(c, "a tensor's name", &name);
    t->name = name;
    uint64_t dims = 0, type = 0;
    if (status == MB_OK)
        status = take(c, 4, "a tensor's dimensions", &dims);
    if (status != MB_OK)
        return status;
    if (dims > MB_GGUF_MAX_DIMS)
        return fail(c, c->at - 4,
                    "tensor '%s' has %" PRIu64 " dimensions, at most %d are allowed; the file is "
                    "damaged",
                    mb_printable(name).text, dims, MB_GGUF_MAX_DIMS);
    t->dims = (uint32_t)dims;
    for (size_t d = 0; d < MB_GGUF_MAX_DIMS; d++)
        t->ne[d] = 1;
    for (size_t d = 0; d < dims && status == MB_OK; d++)
        status = take(c, 8, "a tensor's dimensions", &t->ne[d]);
    if (status == MB_OK)
        status = take(c, 4, "a tensor's type", &type);
    if (status == MB_OK)
        status = take(c, 8, "a tensor's offset", &info->offset);
    if (status != MB_OK)
        return status;
    /* Ids beyond INT32_MAX are unknown types whatever their sign. */
    t->type = type > INT32_MAX ? -1 : (int32_t)type;
    return check_shape(c, (size_t)info->at, t);
}

/* Offsets count from the data section, which starts at the next multiple of the alignment. Tensors
 * follow each other in the order of their infos: ggml demands that, and it excludes overlaps. */
static enum mb_status place_tensors(struct cursor *c, struct mb_model *model, size_t first)
{
    const size_t alignment = model->alignment;
    size_t start, end = 0;
    if (!mb_add_size(c->at, alignment - 1, &start))
        return fail(c, c->at, "the data section's start overflows; the file is damaged");
    start -= start % alignment;
    for (size_t i = first; i < model->tensor_count; i++) {
        struct mb_tensor *t = &model->tensors[i];
        const struct mb_gguf_info *info = &model->infos[i];
        const size_t where = (size_t)info->at;
        const struct mb_printable name = mb_printable(t->name);
        if (info->offset % alignment != 0)
            return fail(c, where,
                        "tensor '%s' starts at %" PRIu64
                        " of the data section, no multiple of the alignment %zu",
                        name.text, info->offset, alignment);
        if (start > c->bytes || info->offset > c->bytes - start ||
            t->bytes > c->bytes - start - (size_t)info->offset)
            return fail(c, where,
                        "tensor '%s' needs %zu bytes at %" PRIu64
                        " of the data section, beyond the file's %zu bytes; the file is "
                        "incomplete, fetch it again",
                        name.text, t->bytes, info->offset, c->bytes);
        if (info->offset < end)
            return fail(c, where, "tensor '%s' overlaps the one before it; the file is damaged",
                        name.text);
        end = (size_t)info->offset + t->bytes;
        t->data = c->data + start + (size_t)info->offset;
    }
    return MB_OK;
}

static enum mb_status take_infos(struct cursor *c, struct mb_model *model, uint64_t claimed)
{
    const size_t first = model->tensor_count;
    enum mb_status status = MB_OK;
    for (uint64_t i = 0; i < claimed && status == MB_OK; i++) {
        void *tensors = model->tensors, *infos = model->infos;
        const bool room =
            grow(&tensors, model->tensor_count, &model->tensor_room, sizeof *model->tensors) &&
            grow(&infos, model->tensor_count, &model->info_room, sizeof *model->infos);
        model->tensors = tensors;
        model->infos = infos;
        if (!room)
            return no_memory(c);
        const size_t at = model->tensor_count++; /* a half-parsed one is freed with the others */
        status = take_info(c, &model->tensors[at], &model->infos[at]);
    }
    return status == MB_OK ? place_tensors(c, model, first) : status;
}

/* ---- a part ---- */

static enum mb_status take_header(struct cursor *c, uint64_t *tensors, uint64_t *pairs)
{
    if (c->bytes == 0)
        return fail(c, 0, "the file is empty, expected a GGUF model");
    if (c->bytes < 4 || memcmp(c->data, "GGUF", 4) != 0)
        return fail(c, 0,
                    "not a GGUF file (it does not begin with \"GGUF\"); convert the model to "
                    "GGUF first");
    c->at = 4;
    uint64_t version = 0;
    enum mb_status status = take(c, 4, "the header", &version);
    if (status == MB_OK && (version & 0xffff) == 0)
        return fail(c, 4, "a big-endian GGUF file; only little-endian ones are read, convert it");
    if (status == MB_OK && version != 2 && version != 3)
        return fail(c, 4,
                    "GGUF version %" PRIu64 "; versions 2 and 3 are read, convert the model "
                    "anew",
                    version);
    if (status == MB_OK)
        status = take(c, 8, "the header", tensors);
    if (status == MB_OK)
        status = take(c, 8, "the header", pairs);
    if (status != MB_OK)
        return status;
    if (*tensors > left(c) / MIN_INFO_BYTES)
        return fail(c, 8,
                    "the header claims %" PRIu64
                    " tensors, more than a file of %zu bytes can hold; it is damaged or incomplete",
                    *tensors, c->bytes);
    if (*pairs > left(c) / MIN_PAIR_BYTES)
        return fail(c, 16,
                    "the header claims %" PRIu64 " metadata pairs, more than a file of %zu bytes "
                    "can hold; it is damaged or incomplete",
                    *pairs, c->bytes);
    return MB_OK;
}

static const struct mb_gguf_pair *find_pair(const struct mb_gguf_pair *pairs, size_t count,
                                            const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(pairs[i].key, key) == 0)
            return &pairs[i];
    return NULL;
}

/* Integer scalars of any width; others, and negative numbers, give the fallback. */
static uint64_t small_number(const struct mb_gguf_pair *pair, uint64_t fallback)
{
    if (pair == NULL || mb_gguf_scalar_bytes(pair->type) == 0)
        return fallback;
    const struct mb_gguf_number number = mb_gguf_number(pair->type, pair->value);
    return number.is_float || number.is_negative ? fallback : number.bits;
}

static enum mb_status read_alignment(const struct cursor *c, const struct mb_gguf_pair *pair,
                                     uint32_t *alignment)
{
    *alignment = MB_GGUF_DEFAULT_ALIGNMENT;
    if (pair == NULL)
        return MB_OK;
    const size_t where = (size_t)(pair->raw - c->data);
    if (pair->type != MB_GGUF_U32)
        return fail(c, where,
                    "general.alignment is of another type than uint32; the file is "
                    "damaged");
    *alignment = (uint32_t)mb_gguf_little_endian(pair->value, 4);
    if (*alignment == 0 || (*alignment & (*alignment - 1)) != 0)
        return fail(c, where, "general.alignment is %" PRIu32 ", expected a power of two",
                    *alignment);
    return MB_OK;
}

enum mb_status mb_gguf_parse_part(struct mb_model *model, size_t part, struct mb_gguf_split *split,
                                  struct mb_error *error)
{
    struct mb_gguf_part *p = &model->parts[part];
    struct cursor c = {p->mapping.data, p->mapping.bytes, 0, p->path, error};
    struct mb_gguf_pair *pairs = NULL;
    size_t pair_count = 0;
    enum mb_status status = take_header(&c, &p->tensor_count, &p->pair_count);
    if (status == MB_OK)
        status = take_pairs(&c, p->pair_count, &pairs, &pair_count);
    if (status == MB_OK)
        status = read_alignment(&c, find_pair(pairs, pair_count, "general.alignment"),
                                &model->alignment);
    if (status == MB_OK) {
        split->number = small_number(find_pair(pairs, pair_count, "split.no"), 0);
        split->count = small_number(find_pair(pairs, pair_count, "split.count"), 0);
        split->tensors =
            small_number(find_pair(pairs, pair_count, "split.tensors.count"), UINT64_MAX);
        status = take_infos(&c, model, p->tensor_count);
    }
    if (part == 0) {
        model->pairs = pairs;
        model->pair_count = pair_count;
    } else {
        mb_gguf_free_pairs(pairs, pair_count);
    }
    return status;
}
