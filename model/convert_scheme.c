/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a model's tensors as codebook matrices, all that can be quantized or those of a mix whose
 * formats say so. How long a record is shows when the matrix is encoded, long after the header was
 * written: sizes and offsets are put there at the end, so that no more than one tensor is held at a
 * time. */
#include "model/channelwise_blob.h"
#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/network.h"
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
    double done, total; /* weights */
    struct mb_scheme_size *size;
    struct mb_error *error;
};

static enum mb_status stopped(const struct writing *w, const struct mb_tensor *tensor)
{
    return mb_error_set(w->error, MB_ERR_INTERRUPTED, -1,
                        "stopped at tensor '%s'; nothing was written",
                        mb_printable(tensor->name).text);
}

/* The format that a mix gives tensor i; NONE: it stays, or there is no mix. */
static enum mb_format format_of(const struct writing *w, size_t i)
{
    return w->options->formats != NULL ? w->options->formats[i] : MB_FORMAT_NONE;
}

static bool is_by_codebooks(const struct writing *w, size_t i)
{
    return w->options->formats != NULL ? mb_format_is_codebook(format_of(w, i))
                                       : w->model->tensors[i].quantizable != 0;
}

/* As rows of another format than the file's. */
static enum mb_status plan_rows(struct writing *w, size_t i)
{
    struct mb_tensor *to = &w->stored.tensors[i];
    const enum mb_format format = format_of(w, i);
    const enum mb_status status = mb_check_change(w->model, to, format, w->error);
    if (status == MB_OK) {
        w->types[i] = to->type = (int32_t)format;
        to->bytes = to->n * mb_format_row_bytes(format, to->k);
    }
    return status;
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
    if (!is_by_codebooks(w, i))
        return format_of(w, i) == MB_FORMAT_NONE || format_of(w, i) == from->format
                   ? MB_OK
                   : plan_rows(w, i);
    if (!from->quantizable)
        return mb_error_set(
            w->error, MB_ERR_ARGUMENT, -1,
            "tensor '%s' cannot be stored by codebooks: it is no matrix of products", name.text);
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

/* ---- tensors ---- */

/* Records of tensor i, made without an encoder; free(). */
static enum mb_status make_records(struct writing *w, size_t i, void **made, size_t *bytes)
{
    const struct mb_scheme_file_options *o = w->options;
    const float *importance = o->importance != NULL ? o->importance[i] : NULL;
    struct mb_scheme_job job = {
        .scheme = o->scheme, .bits = o->bits, .importance = importance, .threads = o->threads};
    if (o->formats != NULL)
        job = mb_codebook_job(format_of(w, i), false, importance, o->threads);
    job.moments = o->moments;
    job.progress = o->progress;
    job.done = w->done;
    job.total = w->total;
    uint8_t *records;
    const enum mb_status status =
        mb_scheme_records(&job, &w->model->tensors[i], i, &records, bytes, w->size, w->error);
    *made = records;
    return status;
}

/* Its rows in another format, likewise. */
static enum mb_status make_rows(struct writing *w, size_t i, void **made, size_t *bytes)
{
    const struct mb_tensor *from = &w->model->tensors[i];
    const float *const *importance = w->options->importance;
    *bytes = w->stored.tensors[i].bytes;
    *made = malloc(*bytes);
    const enum mb_status status =
        *made != NULL
            ? mb_all_rows_as(from, format_of(w, i), importance != NULL ? importance[i] : NULL,
                             w->options->threads, *made)
            : MB_ERR_MEMORY;
    return status == MB_OK
               ? MB_OK
               : mb_error_set(w->error, status, -1, "tensor '%s' cannot be quantized to %s: %s",
                              mb_printable(from->name).text, mb_format_info(format_of(w, i))->name,
                              mb_status_string(status));
}

static enum mb_status write_new(struct writing *w, size_t i)
{
    struct mb_tensor *to = &w->stored.tensors[i];
    const struct mb_scheme_file_options *o = w->options;
    void *made = NULL;
    const void *data;
    size_t bytes;
    enum mb_status status;
    if (o->encoder != NULL) {
        status = mb_encoder_stored(o->encoder, i, format_of(w, i), false, o->progress, w->done,
                                   w->total, &data, &bytes, w->error);
    } else {
        status = is_by_codebooks(w, i) ? make_records(w, i, &made, &bytes)
                                       : make_rows(w, i, &made, &bytes);
        data = made;
    }
    if (status == MB_OK)
        status = mb_file_write(w->output.file, data, bytes);
    if (status == MB_OK && is_by_codebooks(w, i)) {
        const struct mb_tensor *from = &w->model->tensors[i];
        if (o->formats != NULL && bytes > from->n * mb_format_row_bytes(format_of(w, i), from->k))
            mb_log(MB_LOG_WARNING, "tensor '%s' is too small for %s: it takes %.2f bits a weight",
                   mb_printable(from->name).text, mb_format_info(format_of(w, i))->name,
                   8 * (double)bytes / ((double)from->n * (double)from->k));
        to->ne[0] = to->bytes = to->k = bytes;
    }
    free(made);
    return status;
}

static enum mb_status write_tensor(struct writing *w, size_t i)
{
    const struct mb_tensor *from = &w->model->tensors[i];
    enum mb_status status =
        mb_progress_report(w->options->progress, w->done, w->total, mb_printable(from->name).text);
    if (status == MB_OK && w->types[i] != from->type)
        status = write_new(w, i);
    else if (status == MB_OK)
        status = mb_file_write(w->output.file, from->data, from->bytes);
    if (status == MB_ERR_INTERRUPTED)
        return stopped(w, from);
    w->done += (double)from->n * (double)from->k;
    return status == MB_OK ? mb_gguf_write_padding(&w->output) : status;
}

/* ---- the file ---- */

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
    const bool mixed = w->options->formats != NULL;
    const char *const own[] = {"general.architecture",
                               MB_CODEBOOK_ARCHITECTURE,
                               MB_CODEBOOK_ARCHITECTURE_KEY,
                               mb_model_architecture(w->model),
                               MB_CODEBOOK_SCHEME_KEY,
                               mixed ? mb_scheme_of_codebooks(false)->name
                                     : w->options->scheme->name,
                               MB_CODEBOOK_BITS_KEY,
                               bits};
    for (; used < sizeof own / sizeof own[0] - (mixed ? 2 : 0); used++)
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
    if (options->formats == NULL &&
        !mb_blob_holds(&options->scheme->options, options->scheme->one_width))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "scheme '%s' cannot be stored: no kernel multiplies by it",
                            options->scheme->name);
    if (options->moments != NULL)
        mb_moments_divide(options->moments);
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
    if (size->matrices > 0)
        size->error = sqrt(size->square_errors / (double)size->matrices);
    free(w.stored.tensors);
    free(w.names);
    free(w.types);
    return status;
}
