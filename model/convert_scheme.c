/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a model's quantizable tensors as codebook matrices. How long a record is shows when the
 * matrix is encoded, long after the header was written: sizes and offsets are put there at the end,
 * so that no more than one matrix is held at a time. */
#include "model/channelwise_blob.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/schemes.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MOST = 63 }; /* ggml reads no longer ones */

struct writing {
    struct mb_model *model;
    const struct mb_scheme_file_options *options;
    struct mb_gguf_output output;
    struct mb_model stored; /* the model as the file has it: tensors are its own */
    char (*names)[NAME_MOST + 1];
    int32_t *types;
    double done, total, errors; /* weights; sum of squares */
    size_t matrices;
    struct mb_scheme_size *size;
    struct mb_error *error;
};

static enum mb_status report(const struct writing *w, const struct mb_tensor *tensor)
{
    return mb_progress_report(w->options->progress, w->done, w->total,
                              mb_printable(tensor->name).text) == MB_OK
               ? MB_OK
               : mb_error_set(w->error, MB_ERR_INTERRUPTED, -1,
                              "stopped at tensor '%s'; nothing was written",
                              mb_printable(tensor->name).text);
}

/* What becomes of tensor i; of how many bytes its data will be is not known yet. */
static enum mb_status plan_tensor(struct writing *w, size_t i)
{
    const struct mb_tensor *from = &w->model->tensors[i];
    struct mb_tensor *to = &w->stored.tensors[i];
    const struct mb_printable name = mb_printable(from->name);
    *to = *from;
    w->types[i] = from->type;
    w->total += (double)from->n * (double)from->k;
    if (!from->quantizable)
        return MB_OK;
    if (from->format == MB_FORMAT_NONE)
        return mb_error_set(w->error, MB_ERR_UNSUPPORTED, -1,
                            "tensor '%s' of '%s' is stored as %s, which cannot be read; start from "
                            "a float file",
                            name.text, w->model->path, mb_ggml_type(from->type)->name);
    if (from->ne[3] > 1 || strlen(from->name) + sizeof MB_CODEBOOK_SUFFIX > sizeof w->names[i])
        return mb_error_set(w->error, MB_ERR_UNSUPPORTED, -1,
                            "tensor '%s' has too long a name, or too many dimensions, for a "
                            "codebook tensor",
                            name.text);
    (void)snprintf(w->names[i], sizeof w->names[i], "%s%s", from->name, MB_CODEBOOK_SUFFIX);
    to->name = w->names[i];
    to->dims = 1;
    to->ne[0] = to->ne[1] = to->ne[2] = to->n = to->k = 1;
    w->types[i] = to->type = MB_GGML_TYPE_I8;
    return MB_OK;
}

static enum mb_status plan_file(struct writing *w)
{
    const size_t count = w->model->tensor_count;
    w->stored = *w->model;
    w->stored.tensors = calloc(count + 1, sizeof *w->stored.tensors);
    w->names = calloc(count + 1, sizeof *w->names);
    w->types = calloc(count + 1, sizeof *w->types);
    if (w->stored.tensors == NULL || w->names == NULL || w->types == NULL)
        return mb_error_set(w->error, MB_ERR_MEMORY, -1, "out of memory for %zu tensors", count);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++)
        status = plan_tensor(w, i);
    return status;
}

/* Keep the record of an encoded matrix. */
static enum mb_status write_record(struct writing *w, struct mb_tensor *to, bool stacked,
                                   const struct mb_channelwise *encoded)
{
    const size_t bytes = mb_channelwise_total(&encoded->bytes);
    uint8_t *record = malloc(bytes);
    if (record == NULL)
        return MB_ERR_MEMORY;
    mb_blob_write(encoded, stacked, record);
    const enum mb_status status = mb_file_write(w->output.file, record, bytes);
    free(record);
    to->k += bytes;
    mb_scheme_count_parts(w->size, encoded);
    w->size->weights += (double)encoded->n * (double)encoded->k;
    w->size->unreached += !w->options->scheme->one_width && !encoded->reached;
    w->errors += encoded->error * encoded->error;
    w->matrices++;
    return status;
}

static enum mb_status encode_tensor(struct writing *w, size_t i)
{
    const struct mb_tensor *from = &w->model->tensors[i];
    struct mb_tensor *to = &w->stored.tensors[i];
    const size_t each = (size_t)from->ne[1], matrix_bytes = from->bytes / (from->n / each);
    const float *const *importance = w->options->importance;
    struct mb_scheme_job job = {.scheme = w->options->scheme,
                                .bits = w->options->bits,
                                .importance = importance != NULL ? importance[i] : NULL,
                                .moments = w->options->moments,
                                .threads = w->options->threads,
                                .progress = w->options->progress,
                                .total = w->total};
    float *rows = malloc(each * from->k * sizeof *rows);
    enum mb_status status = rows != NULL ? MB_OK : MB_ERR_MEMORY;
    to->k = 0;
    for (size_t m = 0; m < mb_tensor_matrices(from) && status == MB_OK; m++) {
        struct mb_channelwise encoded;
        status = report(w, from);
        job.done = w->done;
        if (status == MB_OK)
            status = mb_dequantize(from->format, (const uint8_t *)from->data + m * matrix_bytes,
                                   each, from->k, rows);
        if (status == MB_OK)
            status = mb_scheme_encode(&job, from, i, m, rows, &encoded, w->error);
        if (status != MB_OK)
            break;
        status = write_record(w, to, from->dims > 2, &encoded);
        mb_channelwise_free(&encoded);
        w->done += (double)each * (double)from->k;
    }
    free(rows);
    to->ne[0] = to->bytes = to->k;
    /* Files and what activations are have their own words. */
    if (status == MB_OK || status == MB_ERR_INTERRUPTED || status == MB_ERR_IO ||
        status == MB_ERR_FILE)
        return status;
    return mb_error_set(w->error, status, -1, "tensor '%s' cannot be stored: %s%s",
                        mb_printable(from->name).text, mb_status_string(status),
                        status == MB_ERR_ARGUMENT ? " (it holds infinite or undefined weights)"
                                                  : "");
}

static enum mb_status write_tensor(struct writing *w, size_t i)
{
    const struct mb_tensor *from = &w->model->tensors[i];
    enum mb_status status;
    if (from->quantizable) {
        status = encode_tensor(w, i);
    } else {
        status = report(w, from);
        if (status == MB_OK)
            status = mb_file_write(w->output.file, from->data, from->bytes);
        w->done += (double)from->n * (double)from->k;
    }
    return status == MB_OK ? mb_gguf_write_padding(&w->output) : status;
}

/* Our keys and the caller's, NULL-terminated; free(). */
static const char **keys_of(const struct writing *w, char bits[32])
{
    size_t count = 0, used = 0;
    const char *const *extra = w->options->extra_keys;
    while (extra != NULL && extra[count] != NULL)
        count++;
    const char **keys = malloc((count + 9) * sizeof *keys);
    if (keys == NULL)
        return NULL;
    (void)snprintf(bits, 32, "%g", w->options->bits);
    const char *const own[] = {"general.architecture",       MB_CODEBOOK_ARCHITECTURE,
                               MB_CODEBOOK_ARCHITECTURE_KEY, mb_model_architecture(w->model),
                               MB_CODEBOOK_SCHEME_KEY,       w->options->scheme->name,
                               MB_CODEBOOK_BITS_KEY,         bits};
    for (; used < sizeof own / sizeof own[0]; used++)
        keys[used] = own[used];
    for (size_t i = 0; i < count; i++)
        keys[used++] = extra[i];
    keys[used] = NULL;
    return keys;
}

static enum mb_status write_file(struct writing *w)
{
    char bits[32];
    const char **keys = keys_of(w, bits);
    enum mb_status status =
        keys != NULL ? MB_OK : mb_error_set(w->error, MB_ERR_MEMORY, -1, "out of memory");
    w->output.codebook_version = MB_CODEBOOK_VERSION;
    if (status == MB_OK)
        status = mb_gguf_write_header(&w->output, &w->stored, w->types, -1, keys, w->error);
    for (size_t i = 0; i < w->model->tensor_count && status == MB_OK; i++)
        status = write_tensor(w, i);
    if (status == MB_OK)
        status = mb_gguf_write_infos(&w->output, &w->stored, w->types, w->error);
    free(keys);
    return status;
}

enum mb_status mb_convert_scheme(struct mb_model *model, const char *out_path,
                                 const struct mb_scheme_file_options *options,
                                 struct mb_scheme_size *size, struct mb_error *error)
{
    struct writing w = {.model = model, .options = options, .size = size, .error = error};
    *size = (struct mb_scheme_size){0};
    if (!mb_blob_holds(&options->scheme->options, options->scheme->one_width))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "scheme '%s' cannot be stored: no kernel multiplies by it",
                            options->scheme->name);
    enum mb_status status = mb_codebook_tensors_refuse(model, error);
    if (status == MB_OK)
        status = mb_gguf_check_target(model, out_path, options->force, error);
    if (status == MB_OK)
        status = plan_file(&w);
    if (status == MB_OK)
        status = mb_file_create(out_path, &w.output.file, error);
    if (status == MB_OK) {
        status = write_file(&w);
        /* A write that failed is explained by commit, which also cleans up. */
        if (status == MB_OK || status == MB_ERR_IO)
            status = mb_file_commit(w.output.file, error);
        else
            mb_file_abandon(w.output.file);
    }
    size->error = w.matrices > 0 ? sqrt(w.errors / (double)w.matrices) : 0;
    free(w.stored.tensors);
    free(w.names);
    free(w.types);
    return status;
}
