/* SPDX-License-Identifier: Apache-2.0 */
/* llama.cpp's imatrix files.
 *
 *   GGUF    general.type = "imatrix"; per tensor NAME two of f32: NAME.in_sum2 [matrices][k], sums
 *           of squares, and NAME.counts [matrices][1], rows behind them
 *   older   i32 entries; per entry i32 length, name, i32 calls, i32 values, f32[values] (mean
 *           squares x calls); then, not always, i32 chunks, i32 length, name of the text
 *
 * Sums over counts are the weights. A count of 0 is an expert that no row reached: all its columns
 * weigh 1, as in llama.cpp's quantizer. The older files have no magic: what is no GGUF is read as
 * one, and the first entry tells. */
#include "model/gguf.h"
#include "model/importance.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUMS ".in_sum2"
#define COUNTS ".counts"

enum { MAX_NAME_BYTES = 1023 };

struct reader {
    const char *path;
    const struct mb_model *model;
    struct mb_importance *importance;
    size_t entries, strangers; /* all; of tensors that the model does not have */
    char stranger[64];         /* the first of them */
    double *sums;              /* of one matrix */
    size_t sums_room;
    struct mb_error *error;
};

/* One entry as both formats have it: values [counts][values / counts], unaligned floats. */
struct entry {
    const char *name;
    const uint8_t *values, *counts; /* counts NULL: `count` serves all values */
    size_t value_count, count_count;
    double count;
    int64_t where;
};

static enum mb_status refuse(const struct reader *r, int64_t where, const char *format, ...)
    MB_PRINTF(3, 4);

static enum mb_status refuse(const struct reader *r, int64_t where, const char *format, ...)
{
    char text[320];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return mb_error_set(r->error, MB_ERR_FILE, where, "'%s': %s", r->path, text);
}

static double float_at(const uint8_t *floats, size_t i)
{
    return mb_gguf_number(MB_GGUF_F32, floats + 4 * i).real;
}

/* ---- one entry ---- */

static enum mb_status take_matrix(struct reader *r, const struct entry *e, size_t tensor,
                                  size_t matrix)
{
    const size_t k = mb_model_tensor_at(r->model, tensor)->k,
                 each = e->value_count / e->count_count;
    const double count = e->counts ? round(float_at(e->counts, matrix * k / each)) : e->count;
    if (!(count >= 0 && count < 0x1p52))
        return refuse(r, e->where, "'%s' has a count of %g; the file is damaged",
                      mb_printable(e->name).text, count);
    if (k > r->sums_room) {
        double *sums = realloc(r->sums, k * sizeof *sums);
        if (sums == NULL)
            return mb_error_set(r->error, MB_ERR_MEMORY, -1, "out of memory for an imatrix");
        r->sums = sums;
        r->sums_room = k;
    }
    for (size_t c = 0; c < k; c++) {
        r->sums[c] = float_at(e->values, matrix * k + c);
        if (!(r->sums[c] >= 0) || !isfinite(r->sums[c]))
            return refuse(r, e->where,
                          "'%s' has %g as a sum of squares; the file is damaged, or was made with "
                          "a damaged model",
                          mb_printable(e->name).text, r->sums[c]);
    }
    mb_importance_set(r->importance, r->model, tensor, matrix, r->sums, (size_t)count);
    return MB_OK;
}

static enum mb_status take_entry(struct reader *r, const struct entry *e)
{
    const struct mb_tensor *tensor = mb_model_tensor_find(r->model, e->name);
    r->entries++;
    if (tensor == NULL) {
        if (r->strangers++ == 0)
            memcpy(r->stranger, mb_printable(e->name).text, sizeof r->stranger);
        return MB_OK;
    }
    if (!tensor->quantizable)
        return MB_OK;
    const size_t index = (size_t)(tensor - mb_model_tensor_at(r->model, 0));
    const size_t matrices = mb_tensor_matrices(tensor);
    if (r->importance->weights[index] != NULL)
        return refuse(r, e->where, "'%s' occurs twice; the file is damaged",
                      mb_printable(e->name).text);
    if (e->value_count != matrices * tensor->k)
        return refuse(r, e->where,
                      "'%s' has %zu values, the model's tensor needs %zu (%zu x %zu columns); it "
                      "is the imatrix of another model",
                      mb_printable(e->name).text, e->value_count, matrices * tensor->k, matrices,
                      tensor->k);
    if (e->count_count != 1 && e->count_count != matrices)
        return refuse(r, e->where, "'%s' has %zu counts for %zu matrices; the file is damaged",
                      mb_printable(e->name).text, e->count_count, matrices);
    if (!mb_importance_add(r->importance, r->model, index))
        return mb_error_set(r->error, MB_ERR_MEMORY, -1, "out of memory for an imatrix");
    enum mb_status status = MB_OK;
    for (size_t m = 0; m < matrices && status == MB_OK; m++)
        status = take_matrix(r, e, index, m);
    return status;
}

/* ---- GGUF ---- */

static bool ends_in(const char *name, const char *suffix)
{
    const size_t length = strlen(name), end = strlen(suffix);
    return length > end && strcmp(name + length - end, suffix) == 0;
}

/* The tensor of the same entry with the other suffix; NULL: none. */
static const struct mb_tensor *partner(const struct mb_model *file, const char *name,
                                       const char *suffix, const char *other)
{
    char wanted[MAX_NAME_BYTES + sizeof SUMS];
    (void)snprintf(wanted, sizeof wanted, "%.*s%s", (int)(strlen(name) - strlen(suffix)), name,
                   other);
    return mb_model_tensor_find(file, wanted);
}

static enum mb_status take_pair(struct reader *r, const struct mb_model *file,
                                const struct mb_tensor *sums)
{
    char name[MAX_NAME_BYTES + 1];
    (void)snprintf(name, sizeof name, "%.*s", (int)(strlen(sums->name) - strlen(SUMS)), sums->name);
    const struct mb_tensor *counts = partner(file, sums->name, SUMS, COUNTS);
    if (counts == NULL)
        return refuse(r, 0, "'%s' has sums and no counts; the file is damaged",
                      mb_printable(name).text);
    if (sums->format != MB_FORMAT_F32 || counts->format != MB_FORMAT_F32)
        return refuse(r, 0, "'%s': sums and counts must be f32; the file is damaged",
                      mb_printable(name).text);
    const struct entry entry = {.name = name,
                                .values = sums->data,
                                .counts = counts->data,
                                .value_count = sums->n * sums->k,
                                .count_count = counts->n * counts->k};
    return take_entry(r, &entry);
}

static enum mb_status read_gguf(struct reader *r)
{
    struct mb_model *file;
    enum mb_status status = mb_model_open(r->path, &file, r->error);
    if (status != MB_OK)
        return status;
    const char *type = mb_model_string(file, "general.type", "model");
    if (strcmp(type, "imatrix") != 0)
        status = refuse(r, 0,
                        "it is a GGUF of type '%s', expected 'imatrix'; 'mixbit imatrix' "
                        "makes one",
                        mb_printable(type).text);
    for (size_t i = 0; i < mb_model_tensor_count(file) && status == MB_OK; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(file, i);
        if (ends_in(tensor->name, SUMS))
            status = take_pair(r, file, tensor);
        else if (ends_in(tensor->name, COUNTS) && !partner(file, tensor->name, COUNTS, SUMS))
            status = refuse(r, 0, "'%s' has no sums beside it; the file is damaged",
                            mb_printable(tensor->name).text);
    }
    r->importance->chunks = (size_t)mb_model_uint(file, "imatrix.chunk_count", 0);
    r->importance->chunk = (size_t)mb_model_uint(file, "imatrix.chunk_size", 0);
    (void)snprintf(r->importance->text_hash, sizeof r->importance->text_hash, "%s",
                   mb_model_string(file, "mixbit.text", ""));
    mb_model_close(file);
    return status;
}

/* ---- the older binary ---- */

struct cursor {
    const uint8_t *data;
    size_t bytes, at;
};

static bool take_i32(struct cursor *c, int64_t least, int64_t most, size_t *value)
{
    if (c->bytes - c->at < 4)
        return false;
    const uint32_t bits = (uint32_t)mb_gguf_little_endian(c->data + c->at, 4);
    const int64_t number = bits > INT32_MAX ? (int64_t)bits - ((int64_t)1 << 32) : (int64_t)bits;
    *value = (size_t)number;
    c->at += 4;
    return number >= least && number <= most;
}

static enum mb_status take_binary_entry(struct reader *r, struct cursor *c)
{
    char name[MAX_NAME_BYTES + 1];
    const int64_t where = (int64_t)c->at;
    size_t length, calls, values;
    if (!take_i32(c, 1, MAX_NAME_BYTES, &length) || c->bytes - c->at < length ||
        memchr(c->data + c->at, 0, length) != NULL)
        return refuse(r, where,
                      "byte %" PRId64 ": expected a tensor's name; it is no imatrix, or "
                      "damaged",
                      where);
    memcpy(name, c->data + c->at, length);
    name[length] = '\0';
    c->at += length;
    if (!take_i32(c, 0, INT32_MAX, &calls) || !take_i32(c, 1, INT32_MAX, &values) ||
        (c->bytes - c->at) / 4 < values)
        return refuse(r, (int64_t)c->at,
                      "byte %zu: the values of '%s' are missing; the file is incomplete", c->at,
                      mb_printable(name).text);
    const struct entry entry = {.name = name,
                                .values = c->data + c->at,
                                .value_count = values,
                                .count_count = 1,
                                /* 0 calls: the values are the means already */
                                .count = calls > 0 ? (double)calls : 1.0,
                                .where = where};
    c->at += 4 * values;
    return take_entry(r, &entry);
}

static enum mb_status read_binary(struct reader *r, const struct mb_mapping *mapping)
{
    struct cursor c = {mapping->data, mapping->bytes, 0};
    size_t entries, chunks;
    if (!take_i32(&c, 1, INT32_MAX, &entries) || entries > c.bytes / 17)
        return refuse(r, 0, "it is neither a GGUF nor an imatrix of the older kind");
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < entries && status == MB_OK; i++)
        status = take_binary_entry(r, &c);
    if (status == MB_OK && take_i32(&c, 0, INT32_MAX, &chunks))
        r->importance->chunks = chunks;
    return status;
}

/* ---- both ---- */

static enum mb_status check_coverage(const struct reader *r)
{
    size_t known = 0;
    for (size_t i = 0; i < r->importance->tensor_count; i++)
        known += r->importance->weights[i] != NULL;
    if (known == 0)
        return refuse(r, 0,
                      "none of its %zu entries is a tensor of '%s'; it is the imatrix of "
                      "another model",
                      r->entries, mb_model_path(r->model));
    if (r->strangers > 0)
        mb_log(MB_LOG_WARNING,
               "%s: %zu of its %zu entries, '%s' among them, are no tensors of the model; is it "
               "the imatrix of another one?",
               r->path, r->strangers, r->entries, r->stranger);
    return MB_OK;
}

enum mb_status mb_importance_load(const char *path, const struct mb_model *model,
                                  struct mb_importance **importance, struct mb_error *error)
{
    struct reader r = {.path = path, .model = model, .error = error};
    struct mb_mapping mapping = {NULL, 0};
    *importance = NULL;
    enum mb_status status = mb_mapping_open(path, &mapping, error);
    if (status != MB_OK)
        return status;
    r.importance = mb_importance_create(model);
    if (r.importance == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an imatrix");
    else if (mapping.bytes >= 4 && memcmp(mapping.data, "GGUF", 4) == 0)
        status = read_gguf(&r);
    else
        status = read_binary(&r, &mapping);
    if (status == MB_OK)
        status = check_coverage(&r);
    mb_mapping_close(&mapping);
    free(r.sums);
    if (status != MB_OK) {
        mb_importance_free(r.importance);
        return status;
    }
    mb_importance_hash(model, (const float *const *)r.importance->weights, r.importance->hash);
    *importance = r.importance;
    return MB_OK;
}
