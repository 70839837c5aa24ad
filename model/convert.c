/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a model with some tensors in other formats. The one idea: a batch of rows at a time goes
 * mapping -> f32 -> new format, each thread taking its own rows of the batch, so memory depends on
 * the number of threads and not on the model; tensors that stay as they are are copied byte for
 * byte. */
#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/moments.h"
#include "model/schemes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    CHUNK_WEIGHTS = 1 << 18, /* per thread and batch: 1 MiB of floats, some 50 ms of the slowest
                                encoder, so that an interrupt is noticed */
    COPY_BYTES = 8 << 20
};

struct conversion {
    const struct mb_model *model;
    const struct mb_convert_options *options;
    struct mb_encoder *encoder; /* NULL: there are no moments, or only to refine by */
    struct mb_gguf_output output;
    int32_t *types;
    double done, total; /* weights */
    struct mb_error *error;
};

/* ---- the target ---- */

static bool is_same_file(const struct stat *a, const char *path)
{
    struct stat b;
    return stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

static bool is_ours(const char *path)
{
    struct mb_model *model = NULL;
    if (mb_model_open(path, &model, NULL) != MB_OK)
        return false;
    bool ours = false;
    for (size_t i = 0; i < model->pair_count && !ours; i++)
        ours = strncmp(model->pairs[i].key, "mixbit.", 7) == 0;
    mb_model_close(model);
    return ours;
}

enum mb_status mb_gguf_check_target(const struct mb_model *model, const char *path, int force,
                                    struct mb_error *error)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return MB_OK; /* what else may be wrong with it shows when it is created */
    for (size_t i = 0; i < model->part_count; i++)
        if (is_same_file(&info, model->parts[i].path))
            return mb_error_set(error, MB_ERR_IO, -1,
                                "'%s' is the model that is being read; choose another name for the "
                                "output",
                                path);
    if (S_ISREG(info.st_mode) && !force && !is_ours(path))
        return mb_error_set(error, MB_ERR_IO, -1,
                            "'%s' exists and was not written by mixbit; choose another name, or "
                            "force its replacement",
                            path);
    return MB_OK;
}

/* ---- the types ---- */

/* ggml's name for what most of the quantizable weights are stored as (of all weights when none is
 * quantizable). */
static int32_t most_used_file_type(const struct mb_model *model, const int32_t *types)
{
    enum { TYPES = 64 };
    double weights[TYPES] = {0.0}, rest[TYPES] = {0.0};
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct mb_tensor *t = &model->tensors[i];
        double *sums = t->quantizable ? weights : rest;
        if (types[i] < TYPES)
            sums[types[i]] += (double)t->n * (double)t->k;
    }
    int32_t best = -1;
    for (int32_t type = 0; type < TYPES; type++)
        if (weights[type] > 0.0 && (best < 0 || weights[type] > weights[best]))
            best = type;
    for (int32_t type = 0; best < 0 && type < TYPES; type++)
        if (rest[type] > 0.0)
            best = type;
    const struct mb_ggml_type *type = mb_ggml_type(best);
    return type == NULL ? -1 : type->file_type;
}

enum mb_status mb_check_change(const struct mb_model *model, const struct mb_tensor *t,
                               enum mb_format format, struct mb_error *error)
{
    const struct mb_format_info *info = mb_format_info(format);
    const struct mb_printable name = mb_printable(t->name);
    if (info == NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "tensor '%s': %d is no format of this library", name.text, (int)format);
    if (t->format == MB_FORMAT_NONE)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "tensor '%s' of '%s' is stored as %s, which cannot be read; leave it "
                            "as it is",
                            name.text, model->path, mb_ggml_type(t->type)->name);
    if (mb_format_row_bytes(format, t->k) == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "tensor '%s' has rows of %zu weights, no multiple of %s's block of %u; "
                            "choose %s",
                            name.text, t->k, info->name, (unsigned)info->block_k,
                            mb_format_info(mb_format_fit(format, t->k))->name);
    if (info->block_k > 1 && !t->quantizable)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "tensor '%s' cannot be stored as %s: no runtime reads this kind of "
                            "tensor quantized",
                            name.text, info->name);
    return MB_OK;
}

static enum mb_status choose_types(struct conversion *c, const enum mb_format *formats,
                                   int32_t *file_type)
{
    const struct mb_model *model = c->model;
    c->types = malloc((model->tensor_count + 1) * sizeof *c->types);
    if (c->types == NULL)
        return mb_error_set(c->error, MB_ERR_MEMORY, -1, "out of memory for %zu tensors",
                            model->tensor_count);
    bool changed = false;
    for (size_t i = 0; i < model->tensor_count; i++) {
        const struct mb_tensor *t = &model->tensors[i];
        c->types[i] = t->type;
        c->total += (double)t->n * (double)t->k;
        if (formats[i] == MB_FORMAT_NONE || (int32_t)formats[i] == t->type)
            continue;
        const enum mb_status status = mb_check_change(model, t, formats[i], c->error);
        if (status != MB_OK)
            return status;
        c->types[i] = (int32_t)formats[i];
        changed = true;
    }
    /* A copy keeps the name of the mix that it is a copy of. */
    const uint64_t old = mb_model_uint(model, "general.file_type", UINT64_MAX);
    *file_type = !changed && old <= INT32_MAX ? (int32_t)old : most_used_file_type(model, c->types);
    return MB_OK;
}

/* ---- the data ---- */

static enum mb_status report(struct conversion *c, const struct mb_tensor *t, int32_t type,
                             double weights)
{
    char note[128];
    c->done += weights;
    (void)snprintf(note, sizeof note, "%s %s", mb_printable(t->name).text,
                   mb_ggml_type(type)->name);
    if (mb_progress_report(c->options->progress, c->done, c->total, note) == MB_OK)
        return MB_OK;
    return mb_error_set(c->error, MB_ERR_INTERRUPTED, -1,
                        "stopped while writing tensor '%s'; nothing was written",
                        mb_printable(t->name).text);
}

static enum mb_status copy_tensor(struct conversion *c, const struct mb_tensor *t)
{
    const uint8_t *data = t->data;
    const double weights_per_byte = (double)t->n * (double)t->k / (double)t->bytes;
    for (size_t at = 0; at < t->bytes;) {
        const size_t step = t->bytes - at < COPY_BYTES ? t->bytes - at : COPY_BYTES;
        enum mb_status status = mb_file_write(c->output.file, data + at, step);
        if (status == MB_OK)
            status = report(c, t, t->type, weights_per_byte * (double)step);
        if (status != MB_OK)
            return status;
        at += step;
    }
    return MB_OK;
}

/* One batch of rows; thread i of n works on every n-th part of it. */
struct batch {
    const struct mb_tensor *tensor; /* that the rows are read from */
    enum mb_format to;
    const uint8_t *source;
    const uint8_t *stored; /* the rows as they are in `to`, to be refined; NULL: encode them */
    const size_t *order;   /* of the tensor's rows, to be refined in groups; NULL: as they are */
    uint8_t *refined;      /* with an order: all rows, in their places */
    uint8_t *target;
    float *floats; /* rows * k */
    struct mb_encoding encoding;
    size_t row0, rows, k; /* row0: of the tensor */
    size_t source_row_bytes, target_row_bytes;
    enum mb_status *statuses; /* per thread */
};

static void requantize_rows(void *arg, size_t index, size_t count)
{
    const struct batch *b = arg;
    const size_t first = b->rows * index / count, last = b->rows * (index + 1) / count;
    b->statuses[index] = MB_OK;
    if (first == last)
        return;
    float *floats = b->floats + first * b->k;
    uint8_t *target = b->target + first * b->target_row_bytes;
    enum mb_status status = MB_OK;
    for (size_t i = first, end; i < last && status == MB_OK; i = end) {
        end = b->order != NULL ? i + 1 : last;
        const size_t row = b->order != NULL ? b->order[b->row0 + i] : b->row0 + i;
        status = mb_dequantize(b->tensor->format, b->source + row * b->source_row_bytes, end - i,
                               b->k, b->floats + i * b->k);
        if (b->stored != NULL)
            memcpy(b->target + i * b->target_row_bytes, b->stored + row * b->target_row_bytes,
                   (end - i) * b->target_row_bytes);
    }
    if (status == MB_OK && b->stored == NULL)
        status = mb_quantize_rows(b->tensor, b->to, &b->encoding, b->row0 + first, b->row0 + last,
                                  floats, target);
    if (status == MB_OK && b->stored != NULL && b->encoding.moments != NULL &&
        b->encoding.moments->h != NULL)
        status = mb_refine_stored(b->to, &b->encoding, last - first, floats, target);
    for (size_t i = first; i < last && b->order != NULL; i++)
        memcpy(b->refined + b->order[b->row0 + i] * b->target_row_bytes,
               b->target + i * b->target_row_bytes, b->target_row_bytes);
    b->statuses[index] = status;
}

static enum mb_status run_batch(struct conversion *c, struct batch *batch,
                                const struct mb_tensor *t)
{
    const size_t threads = mb_threads_count(c->options->threads);
    mb_threads_run(c->options->threads, requantize_rows, batch);
    for (size_t i = 0; i < threads; i++)
        if (batch->statuses[i] == MB_ERR_ARGUMENT)
            return mb_error_set(c->error, MB_ERR_FILE, -1,
                                "tensor '%s' of '%s' holds a value that is not finite, which %s "
                                "cannot store",
                                mb_printable(t->name).text, c->model->path,
                                mb_format_info(batch->to)->name);
        else if (batch->statuses[i] != MB_OK)
            return mb_error_set(c->error, batch->statuses[i], -1, "tensor '%s' as %s: %s",
                                mb_printable(t->name).text, mb_format_info(batch->to)->name,
                                mb_status_string(batch->statuses[i]));
    return MB_OK;
}

/* Rows [b->row0, end), a batch of at most `room` at a time. */
static enum mb_status requantize_range(struct conversion *c, struct batch *b,
                                       const struct mb_tensor *t, int32_t type, size_t end,
                                       size_t room)
{
    enum mb_status status = MB_OK;
    for (; b->row0 < end && status == MB_OK; b->row0 += b->rows) {
        b->rows = end - b->row0 < room ? end - b->row0 : room;
        status = run_batch(c, b, t);
        if (status == MB_OK && b->order == NULL)
            status = mb_file_write(c->output.file, b->target, b->rows * b->target_row_bytes);
        if (status == MB_OK)
            status = report(c, t, type, (double)b->rows * (double)t->k);
    }
    return status;
}

/* Part after part of the tensor's rows, each refined under its own moments. */
static enum mb_status refine_tensor(struct conversion *c, struct batch *b,
                                    const struct mb_tensor *t, int32_t type, size_t room)
{
    const struct mb_model *model = c->options->source != NULL ? c->options->source : c->model;
    const size_t index = (size_t)(b->tensor - model->tensors), bytes = t->n * b->target_row_bytes;
    struct mb_row_parts parts;
    enum mb_status status = mb_moments_parts(c->options->moments, index, &parts, c->error);
    bool refined = false;
    if (status == MB_OK && parts.order != NULL) {
        b->order = parts.order;
        b->refined = mb_alloc_aligned(bytes);
        if (b->refined == NULL)
            status = mb_error_set(c->error, MB_ERR_MEMORY, -1, "out of memory for tensor '%s'",
                                  mb_printable(t->name).text);
    }
    for (size_t i = 0; i < parts.count && status == MB_OK; i++) {
        status = mb_moments_get(c->options->moments, index, parts.matrix + i, c->options->progress,
                                c->done, c->total, &b->encoding.moments, c->error);
        refined = refined || (b->encoding.moments != NULL && b->encoding.moments->h != NULL);
        if (status == MB_OK)
            status = requantize_range(c, b, t, type, mb_part_end(&parts, i), room);
    }
    if (status == MB_OK && b->refined != NULL)
        status = mb_file_write(c->output.file, b->refined, bytes);
    mb_free_aligned(b->refined);
    if (refined && b->stored != NULL && c->options->refined != NULL)
        ++*c->options->refined;
    return status;
}

/* Tensor `index` as the encoder has it, or makes it now. */
static enum mb_status write_encoded(struct conversion *c, size_t index)
{
    const struct mb_tensor *t = &c->model->tensors[index];
    const enum mb_format format = (enum mb_format)c->types[index];
    const void *rows;
    enum mb_status status = mb_encoder_rows(c->encoder, index, format, c->options->progress,
                                            c->done, c->total, &rows, c->error);
    if (status == MB_OK)
        status = mb_file_write(c->output.file, rows, t->n * mb_format_row_bytes(format, t->k));
    return status == MB_OK ? report(c, t, c->types[index], (double)t->n * (double)t->k) : status;
}

/* Tensor `index` of the model from `from`'s rows: the same tensor, or a better one of its kind. */
static enum mb_status requantize_tensor(struct conversion *c, size_t index,
                                        const struct mb_tensor *from)
{
    const struct mb_tensor *t = &c->model->tensors[index];
    if (c->encoder != NULL)
        return write_encoded(c, index);
    const size_t threads = mb_threads_count(c->options->threads);
    const size_t room = t->k < CHUNK_WEIGHTS ? CHUNK_WEIGHTS / t->k * threads : threads;
    const size_t rows = room < t->n ? room : t->n;
    struct batch b = {
        .tensor = from,
        .to = (enum mb_format)c->types[index],
        .source = from->data,
        .stored = from != t ? t->data : NULL,
        .encoding = {.importance =
                         c->options->importance == NULL ? NULL : c->options->importance[index],
                     .sweeps = c->options->sweeps},
        .k = t->k,
        .source_row_bytes = from->bytes / from->n,
        .statuses = calloc(threads, sizeof *b.statuses),
    };
    b.target_row_bytes = mb_format_row_bytes(b.to, t->k);
    size_t float_bytes, target_bytes;
    if (mb_mul_size(rows, t->k, &float_bytes) &&
        mb_mul_size(float_bytes, sizeof *b.floats, &float_bytes) &&
        mb_mul_size(rows, b.target_row_bytes, &target_bytes)) {
        b.floats = mb_alloc_aligned(float_bytes);
        b.target = mb_alloc_aligned(target_bytes);
    }
    enum mb_status status = MB_OK;
    if (b.statuses == NULL || b.floats == NULL || b.target == NULL)
        status = mb_error_set(c->error, MB_ERR_MEMORY, -1, "out of memory for tensor '%s'",
                              mb_printable(t->name).text);
    else if (c->options->moments != NULL)
        status = refine_tensor(c, &b, t, c->types[index], rows);
    else
        status = requantize_range(c, &b, t, c->types[index], t->n, rows);
    free(b.statuses);
    mb_free_aligned(b.floats);
    mb_free_aligned(b.target);
    return status;
}

/* Where the rows of tensor i come from: its own data, the source's that it is to come nearer to, or
 * nowhere, when it stays as it is. */
static enum mb_status find_source(const struct conversion *c, size_t i,
                                  const struct mb_tensor **from)
{
    const struct mb_tensor *t = &c->model->tensors[i];
    *from = c->types[i] == t->type ? NULL : t;
    if (*from != NULL || c->options->source == NULL || !t->quantizable ||
        t->format == MB_FORMAT_NONE || mb_format_info(t->format)->block_k == 1 ||
        !mb_feedback_by_code(t->format))
        return MB_OK;
    const struct mb_tensor *source = mb_model_tensor_find(c->options->source, t->name);
    if (source == NULL || source->k != t->k || source->n != t->n || source->ne[1] != t->ne[1])
        return mb_error_set(c->error, MB_ERR_FILE, -1,
                            "'%s' was not made from '%s': tensor '%s' is not there with rows of "
                            "%zu weights",
                            c->model->path, c->options->source->path, mb_printable(t->name).text,
                            t->k);
    if (source->format != MB_FORMAT_NONE && source->format != t->format)
        *from = source;
    return MB_OK;
}

/* With codebook matrices, which are of any size (convert_scheme.c). */
static enum mb_status convert_mixed(struct mb_model *model, const enum mb_format *formats,
                                    const char *out_path, const struct mb_convert_options *options,
                                    struct mb_error *error)
{
    struct mb_scheme_size size;
    struct mb_encoder *own = NULL;
    if (options->source != NULL)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "codebook matrices cannot be refined; quantize the model anew");
    if (options->encoder == NULL && options->moments != NULL) {
        own = mb_encoder_create(model, options->moments, options->importance, options->sweeps, 1,
                                options->threads);
        if (own == NULL)
            return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory");
    }
    const struct mb_scheme_file_options file = {
        .formats = formats,
        .encoder = own != NULL ? own : options->encoder,
        .importance = options->importance,
        .threads = options->threads,
        .progress = options->progress,
        .extra_keys = options->extra_keys,
        .force = options->force,
    };
    const enum mb_status status = mb_convert_scheme(model, out_path, &file, &size, error);
    mb_encoder_destroy(own);
    return status;
}

enum mb_status mb_convert(struct mb_model *model, const enum mb_format *formats,
                          const char *out_path, const struct mb_convert_options *options,
                          struct mb_error *error)
{
    static const struct mb_convert_options defaults = {.size = sizeof defaults};
    for (size_t i = 0; i < model->tensor_count; i++)
        if (mb_format_is_codebook(formats[i]))
            return convert_mixed(model, formats, out_path, options ? options : &defaults, error);
    struct conversion c = {
        .model = model, .options = options == NULL ? &defaults : options, .error = error};
    int32_t file_type = -1;
    struct mb_encoder *own = NULL;
    enum mb_status status = mb_codebook_tensors_refuse(model, error);
    if (status == MB_OK)
        status = mb_gguf_check_target(model, out_path, c.options->force, error);
    if (status == MB_OK)
        status = choose_types(&c, formats, &file_type);
    c.encoder = c.options->encoder;
    if (status == MB_OK && c.encoder == NULL && c.options->moments != NULL &&
        c.options->source == NULL) {
        c.encoder = own = mb_encoder_create(model, c.options->moments, c.options->importance,
                                            c.options->sweeps, 1, c.options->threads);
        if (own == NULL)
            status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory");
    }
    if (c.options->moments != NULL)
        mb_moments_divide(c.options->moments);
    if (status == MB_OK)
        status = mb_file_create(out_path, &c.output.file, error);
    if (status != MB_OK)
        goto out;
    status =
        mb_gguf_write_header(&c.output, model, c.types, file_type, c.options->extra_keys, error);
    for (size_t i = 0; i < model->tensor_count && status == MB_OK; i++) {
        const struct mb_tensor *from;
        status = find_source(&c, i, &from);
        if (status == MB_OK)
            status =
                from == NULL ? copy_tensor(&c, &model->tensors[i]) : requantize_tensor(&c, i, from);
        if (status == MB_OK)
            status = mb_gguf_write_padding(&c.output);
    }
    /* A write that failed is explained by commit, which also cleans up. */
    if (status == MB_OK || status == MB_ERR_IO)
        status = mb_file_commit(c.output.file, error);
    else
        mb_file_abandon(c.output.file);
out:
    mb_encoder_destroy(own);
    free(c.types);
    return status;
}
