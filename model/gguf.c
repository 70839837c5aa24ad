/* SPDX-License-Identifier: Apache-2.0 */
/* Opens GGUF models, whole or split into parts, and answers questions about their metadata.
 *
 * Parts of a split model are named PREFIX-00001-of-0000N.gguf and carry split.no (0-based) and
 * split.count. Metadata counts from the first part only; tensors come from all of them. */
#include "model/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SUFFIX_BYTES = sizeof "-00001-of-00002.gguf" - 1, MAX_PARTS = 99999 };

void mb_model_close(struct mb_model *model)
{
    if (model == NULL)
        return;
    for (size_t i = 0; i < model->tensor_count; i++) {
        union {
            const char *read_only;
            void *any;
        } name = {.read_only = model->tensors[i].name};
        free(name.any);
    }
    for (size_t i = 0; i < model->part_count; i++) {
        mb_mapping_close(&model->parts[i].mapping);
        free(model->parts[i].path);
    }
    mb_gguf_free_pairs(model->pairs, model->pair_count);
    free(model->tensors);
    free(model->infos);
    free(model->by_name);
    free(model->parts);
    free(model->path);
    free(model);
}

static enum mb_status no_memory(const char *path, struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while reading '%s'", path);
}

/* ---- parts ---- */

/* What the name of part `number` (from 1) of `count` ends in; both fit five digits. */
struct suffix {
    char text[SUFFIX_BYTES + 1];
};

static struct suffix part_suffix(uint64_t number, uint64_t count)
{
    struct suffix suffix = {"-00000-of-00000.gguf"};
    for (size_t digit = 0; digit < 5; digit++) {
        suffix.text[5 - digit] = (char)('0' + number % 10);
        suffix.text[14 - digit] = (char)('0' + count % 10);
        number /= 10;
        count /= 10;
    }
    return suffix;
}

static bool ends_in(const char *path, const struct suffix *suffix)
{
    const size_t length = strlen(path);
    return length >= SUFFIX_BYTES && strcmp(path + length - SUFFIX_BYTES, suffix->text) == 0;
}

static enum mb_status open_part(struct mb_model *model, const char *path,
                                struct mb_gguf_split *split, struct mb_error *error)
{
    const size_t index = model->part_count;
    struct mb_gguf_part *part = &model->parts[index];
    part->path = strdup(path);
    if (part->path == NULL)
        return no_memory(path, error);
    model->part_count++;
    const enum mb_status status = mb_mapping_open(path, &part->mapping, error);
    return status == MB_OK ? mb_gguf_parse_part(model, index, split, error) : status;
}

static enum mb_status open_next_part(struct mb_model *model, char *path, uint64_t count,
                                     struct mb_error *error)
{
    const uint64_t number = model->part_count; /* 0-based, as split.no is */
    const uint32_t alignment = model->alignment;
    const struct suffix suffix = part_suffix(number + 1, count);
    memcpy(path + strlen(path) - SUFFIX_BYTES, suffix.text, SUFFIX_BYTES);
    struct mb_gguf_split split = {0, 0, 0};
    enum mb_status status = open_part(model, path, &split, error);
    model->alignment = alignment;
    if (status == MB_OK && (split.number != number || split.count != count))
        status = mb_error_set(error, MB_ERR_FILE, 0,
                              "'%s' says it is part %" PRIu64 " of %" PRIu64 ", expected %" PRIu64
                              " of %" PRIu64 "; the parts do not belong together",
                              path, split.number + 1, split.count, number + 1, count);
    return status;
}

static enum mb_status open_parts(struct mb_model *model, const char *path, struct mb_error *error)
{
    model->parts = calloc(1, sizeof *model->parts);
    if (model->parts == NULL)
        return no_memory(path, error);
    struct mb_gguf_split split = {0, 0, 0};
    enum mb_status status = open_part(model, path, &split, error);
    if (status != MB_OK || split.count <= 1)
        return status;
    if (split.count > MAX_PARTS)
        return mb_error_set(error, MB_ERR_FILE, 0,
                            "'%s' claims %" PRIu64 " parts, at most %d are possible; the file is "
                            "damaged",
                            path, split.count, MAX_PARTS);
    if (split.number != 0)
        return mb_error_set(error, MB_ERR_FILE, 0,
                            "'%s' is part %" PRIu64 " of %" PRIu64 " of a split model; open the "
                            "first part, whose name ends in -00001-of-%05" PRIu64 ".gguf",
                            path, split.number + 1, split.count, split.count);
    const struct suffix first = part_suffix(1, split.count);
    if (!ends_in(path, &first))
        return mb_error_set(error, MB_ERR_FILE, 0,
                            "'%s' is the first of %" PRIu64 " parts, so its name must end in "
                            "-00001-of-%05" PRIu64 ".gguf for the others to be found",
                            path, split.count, split.count);

    struct mb_gguf_part *parts = realloc(model->parts, (size_t)split.count * sizeof *parts);
    char *name = strdup(path);
    if (parts != NULL) {
        model->parts = parts;
        memset(parts + 1, 0, ((size_t)split.count - 1) * sizeof *parts);
    }
    if (parts == NULL || name == NULL) {
        free(name);
        return no_memory(path, error);
    }
    while (status == MB_OK && model->part_count < split.count)
        status = open_next_part(model, name, split.count, error);
    free(name);
    if (status == MB_OK && split.tensors != UINT64_MAX && split.tensors != model->tensor_count)
        status = mb_error_set(error, MB_ERR_FILE, 0,
                              "'%s' announces %" PRIu64 " tensors in all parts, they hold %zu; the "
                              "parts do not belong together",
                              path, split.tensors, model->tensor_count);
    return status;
}

/* ---- the index of names ---- */

static int compare_names(const void *a, const void *b)
{
    const struct mb_tensor *const *left = a, *const *right = b;
    const int order = strcmp((*left)->name, (*right)->name);
    if (order != 0)
        return order;
    return *left < *right ? -1 : *left > *right;
}

static enum mb_status index_names(struct mb_model *model, struct mb_error *error)
{
    const size_t count = model->tensor_count;
    const struct mb_tensor **sorted = calloc(count + 1, sizeof *sorted);
    model->by_name = calloc(count + 1, sizeof *model->by_name);
    enum mb_status status = MB_OK;
    if (sorted == NULL || model->by_name == NULL) {
        status = no_memory(model->path, error);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        sorted[i] = &model->tensors[i];
    qsort(sorted, count, sizeof *sorted, compare_names);
    for (size_t i = 0; i < count; i++) {
        model->by_name[i] = (size_t)(sorted[i] - model->tensors);
        if (i > 0 && strcmp(sorted[i - 1]->name, sorted[i]->name) == 0) {
            const uint64_t where = model->infos[model->by_name[i]].at;
            status = mb_error_set(error, MB_ERR_FILE, (int64_t)where,
                                  "'%s', byte %" PRIu64 ": tensor '%s' occurs twice; the file is "
                                  "damaged",
                                  model->path, where, mb_printable(sorted[i]->name).text);
            goto out;
        }
    }
out:
    free(sorted);
    return status;
}

enum mb_status mb_model_open(const char *path, struct mb_model **model, struct mb_error *error)
{
    *model = NULL;
    struct mb_model *m = calloc(1, sizeof *m);
    if (m == NULL || (m->path = strdup(path)) == NULL) {
        free(m);
        return no_memory(path, error);
    }
    enum mb_status status = open_parts(m, path, error);
    if (status == MB_OK)
        status = mb_codebook_tensors_mark(m, error);
    if (status == MB_OK)
        status = index_names(m, error);
    if (status != MB_OK) {
        mb_model_close(m);
        return status;
    }
    for (size_t i = 0; i < m->tensor_count; i++)
        mb_tensor_classify(&m->tensors[i], mb_model_architecture(m));
    *model = m;
    return MB_OK;
}

/* ---- questions ---- */

const char *mb_model_path(const struct mb_model *model) { return model->path; }

const char *mb_model_architecture(const struct mb_model *model)
{
    const char *name = mb_model_string(model, "general.architecture", "");
    return strcmp(name, MB_CODEBOOK_ARCHITECTURE) == 0
               ? mb_model_string(model, MB_CODEBOOK_ARCHITECTURE_KEY, name)
               : name;
}

uint64_t mb_model_file_bytes(const struct mb_model *model)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->part_count; i++)
        bytes += model->parts[i].mapping.bytes;
    return bytes;
}

/* Of a split model: the hash of its parts' hashes. */
const char *mb_model_hash(struct mb_model *model)
{
    if (model->hash[0] != '\0')
        return model->hash;
    char all[33] = "";
    for (size_t i = 0; i < model->part_count; i++) {
        char pair[66];
        const struct mb_mapping *mapping = &model->parts[i].mapping;
        mb_hash_bytes(mapping->data, mapping->bytes, pair + 32);
        if (i > 0) {
            memcpy(pair, all, 32);
            mb_hash_bytes(pair, 64, all);
        } else {
            memcpy(all, pair + 32, sizeof all);
        }
    }
    memcpy(model->hash, all, sizeof all);
    return model->hash;
}

size_t mb_model_tensor_count(const struct mb_model *model) { return model->tensor_count; }

const struct mb_tensor *mb_model_tensor_at(const struct mb_model *model, size_t i)
{
    return i < model->tensor_count ? &model->tensors[i] : NULL;
}

const struct mb_tensor *mb_model_tensor_find(const struct mb_model *model, const char *name)
{
    size_t low = 0, high = model->tensor_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct mb_tensor *tensor = &model->tensors[model->by_name[middle]];
        const int order = strcmp(tensor->name, name);
        if (order == 0)
            return tensor;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

int mb_model_tied(const struct mb_model *model)
{
    return mb_model_tensor_find(model, "token_embd.weight") != NULL &&
           mb_model_tensor_find(model, "output.weight") == NULL;
}

const struct mb_gguf_pair *mb_gguf_find(const struct mb_model *model, const char *key)
{
    for (size_t i = 0; i < model->pair_count; i++)
        if (strcmp(model->pairs[i].key, key) == 0)
            return &model->pairs[i];
    return NULL;
}

static const struct mb_gguf_pair *find_scalar(const struct mb_model *model, const char *key)
{
    const struct mb_gguf_pair *pair = mb_gguf_find(model, key);
    return pair != NULL && pair->type != MB_GGUF_ARRAY && pair->type != MB_GGUF_STRING ? pair
                                                                                       : NULL;
}

uint64_t mb_model_uint(const struct mb_model *model, const char *key, uint64_t fallback)
{
    const struct mb_gguf_pair *pair = find_scalar(model, key);
    if (pair == NULL)
        return fallback;
    struct mb_gguf_number number = mb_gguf_number(pair->type, pair->value);
    return number.is_float || number.is_negative ? fallback : number.bits;
}

double mb_model_float(const struct mb_model *model, const char *key, double fallback)
{
    const struct mb_gguf_pair *pair = find_scalar(model, key);
    return pair == NULL ? fallback : mb_gguf_number(pair->type, pair->value).real;
}

const char *mb_model_string(const struct mb_model *model, const char *key, const char *fallback)
{
    const struct mb_gguf_pair *pair = mb_gguf_find(model, key);
    return pair != NULL && pair->text != NULL ? pair->text : fallback;
}

static const struct mb_gguf_pair *find_array(const struct mb_model *model, const char *key)
{
    const struct mb_gguf_pair *pair = mb_gguf_find(model, key);
    return pair != NULL && pair->type == MB_GGUF_ARRAY ? pair : NULL;
}

size_t mb_model_array_count(const struct mb_model *model, const char *key)
{
    const struct mb_gguf_pair *pair = find_array(model, key);
    return pair == NULL ? 0 : (size_t)pair->count;
}

const char *mb_model_array_string(const struct mb_model *model, const char *key, size_t i,
                                  size_t *bytes)
{
    *bytes = 0;
    const struct mb_gguf_pair *pair = find_array(model, key);
    return pair == NULL ? NULL : mb_gguf_element_string(pair, i, bytes);
}

double mb_model_array_number(const struct mb_model *model, const char *key, size_t i)
{
    const struct mb_gguf_pair *pair = find_array(model, key);
    if (pair == NULL || pair->element == MB_GGUF_STRING || i >= pair->count)
        return 0.0;
    return mb_gguf_element_number(pair, i);
}
