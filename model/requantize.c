/* SPDX-License-Identifier: Apache-2.0 */
/* The weights of a probe: one matrix as another format would return it, ready to multiply in f32 or
 * by the format's own kernel. The same walk measures how far it went from the source. */
#include "model/probe.h"

#include "model/channelwise_blob.h"
#include "model/importance.h"
#include "model/schemes.h"
#include "support/support.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL = 16 };

/* Squared errors and squares of a row, weighted by importance and by activations. */
struct row_sums {
    double error, square, output_error, output_square;
};

struct job {
    const struct mb_tensor *tensor;
    enum mb_format format;
    const float *importance, *activations;
    const uint8_t *encoded;             /* its rows or records in `format`; NULL: encode them */
    const struct mb_channelwise *books; /* of all its matrices, read from records; NULL: rows */
    struct mb_requantized *out;
    struct row_sums *rows; /* so that sums do not depend on the threads */
    uint8_t *made;         /* records, where none were at hand */
    atomic_int status, inexact;
};

struct buffers {
    uint8_t *stored;
    float *source, *result;
};

static void compare_row(const struct job *job, size_t row, const float *w, const float *v)
{
    const float *importance = mb_importance_of(job->tensor, job->importance, row),
                *activations = mb_importance_of(job->tensor, job->activations, row);
    struct row_sums sums = {0};
    for (size_t c = 0; c < job->tensor->k; c++) {
        const double weight = importance ? (double)importance[c] : 1.0;
        const double difference = (double)w[c] - (double)v[c];
        const double output = activations ? (double)activations[c] : 1.0;
        sums.error += weight * difference * difference;
        sums.square += weight * (double)w[c] * (double)w[c];
        sums.output_error += output * difference * difference;
        sums.output_square += output * (double)w[c] * (double)w[c];
    }
    job->rows[row] = sums;
}

static void read_books(const struct job *job, size_t row0, size_t row1, float *rows)
{
    const size_t each = job->books->n, k = job->tensor->k;
    for (size_t row = row0; row < row1; row++)
        mb_channelwise_decode(&job->books[row / each], row % each, row % each + 1,
                              rows + (row - row0) * k);
}

static enum mb_status do_panel(struct job *job, size_t row0, size_t row1, struct buffers *b)
{
    const struct mb_tensor *tensor = job->tensor;
    const size_t k = tensor->k, rows = row1 - row0;
    const uint8_t *data =
        (const uint8_t *)tensor->data + row0 * mb_format_row_bytes(tensor->format, k);
    enum mb_status status = mb_dequantize(tensor->format, data, rows, k, b->source);
    const float *result = b->source;
    const void *stored = b->stored;
    if (status == MB_OK && job->books != NULL) {
        read_books(job, row0, row1, b->result);
        result = b->result;
    } else if (status == MB_OK && job->format != MB_FORMAT_NONE) {
        const struct mb_encoding encoding = {.importance = job->importance};
        if (job->encoded != NULL)
            stored = job->encoded + row0 * mb_format_row_bytes(job->format, k);
        else
            status =
                mb_quantize_rows(tensor, job->format, &encoding, row0, row1, b->source, b->stored);
        if (status == MB_OK)
            status = mb_dequantize(job->format, stored, rows, k, b->result);
        result = b->result;
    }
    if (status != MB_OK)
        return status;
    for (size_t r = 0; r < rows; r++) {
        const float *w = b->source + r * k, *v = result + r * k;
        compare_row(job, row0 + r, w, v);
        for (size_t c = 0; c < k; c++)
            if (w[c] != v[c]) {
                atomic_store(&job->inexact, 1);
                break;
            }
    }
    if (job->out->rows != NULL)
        memcpy(job->out->rows + row0 * k, result, rows * k * sizeof *result);
    if (job->out->weights.data == NULL || job->out->weights.format == MB_FORMAT_NONE)
        return MB_OK;
    const bool as_stored = job->out->weights.format != MB_FORMAT_F32;
    return mb_pack_rows(&job->out->weights, as_stored ? stored : result, row0, row1);
}

static void do_panels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const size_t k = job->tensor->k, n = job->tensor->n;
    const size_t stored = job->format == MB_FORMAT_NONE || job->books != NULL
                              ? 1
                              : mb_format_row_bytes(job->format, k) * PANEL;
    struct buffers b = {malloc(stored), malloc(PANEL * k * sizeof(float)),
                        malloc(PANEL * k * sizeof(float))};
    enum mb_status status = b.stored && b.source && b.result ? MB_OK : MB_ERR_MEMORY;
    for (size_t panel = first; panel < last && status == MB_OK; panel++) {
        const size_t end = (panel + 1) * PANEL;
        status = do_panel(job, panel * PANEL, end < n ? end : n, &b);
    }
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
    free(b.stored);
    free(b.source);
    free(b.result);
}

static enum mb_status allocate(const struct mb_network *network, size_t index,
                               enum mb_format packed, struct mb_requantized *out)
{
    const struct mb_matrix *matrix = &network->matrices[index];
    const bool looked_up = index == network->embedding;
    size_t bytes = 0;
    enum mb_status status =
        packed == MB_FORMAT_NONE ? MB_OK : mb_pack_size(packed, matrix->n, matrix->k, &bytes);
    if (status != MB_OK)
        return status;
    if (looked_up) {
        out->rows = malloc(matrix->n * matrix->k * sizeof *out->rows);
        if (out->rows == NULL)
            return MB_ERR_MEMORY;
    }
    const bool products = !looked_up || index == network->output;
    if (products && packed == MB_FORMAT_NONE) { /* books come with their records */
        out->weights =
            (struct mb_weights){sizeof out->weights, MB_FORMAT_NONE, matrix->n, matrix->k, NULL};
    } else if (products) {
        void *data = mb_alloc_aligned(bytes);
        if (data == NULL)
            return MB_ERR_MEMORY;
        status = mb_weights_init(&out->weights, packed, matrix->n, matrix->k, data);
    }
    out->replacement = (struct mb_replacement){
        .matrix = index,
        .weights = products ? &out->weights : NULL,
        .rows = out->rows,
    };
    return status;
}

/* ---- codebook matrices ---- */

static void free_books(struct mb_channelwise *books, size_t count)
{
    for (size_t i = 0; books != NULL && i < count; i++)
        mb_channelwise_free(&books[i]);
    free(books);
}

/* The matrices of a tensor out of their records, and, where products are made by codes, packed. */
static enum mb_status open_books(const struct mb_network *network, const uint8_t *records,
                                 size_t bytes, size_t count, struct mb_requantized *out,
                                 struct mb_channelwise **opened, struct mb_error *error)
{
    struct mb_channelwise *books = calloc(count, sizeof *books);
    struct mb_codebook_weights *packed = NULL;
    const bool products = out->weights.format == MB_FORMAT_NONE;
    size_t at = 0, packed_bytes;
    enum mb_status status = books != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK && products) {
        out->weights.data = packed = calloc(count + 1, sizeof *packed); /* 0 ends the array */
        status = packed != NULL ? MB_OK : MB_ERR_MEMORY;
    }
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        status = mb_blob_read(records + at, bytes - at, &books[i], error);
        if (status != MB_OK)
            break;
        at += mb_channelwise_total(&books[i].bytes);
        if (products)
            status =
                mb_codebook_pack_encoded(&books[i], network->threads, &packed[i], &packed_bytes);
        if (status != MB_OK && products)
            packed[i] = (struct mb_codebook_weights){0};
    }
    *opened = books;
    return status;
}

/* Opened as they are at hand, or made now. */
static enum mb_status find_books(const struct mb_network *network, struct job *job,
                                 size_t encoded_bytes, struct mb_channelwise **books,
                                 struct mb_error *error)
{
    const struct mb_tensor *tensor = job->tensor;
    uint8_t *made = NULL;
    const uint8_t *records = job->encoded;
    enum mb_status status = MB_OK;
    if (records == NULL) {
        const size_t index = (size_t)(tensor - mb_model_tensor_at(network->model, 0));
        const struct mb_scheme_job scheme =
            mb_codebook_job(job->format, false, job->importance, network->threads);
        status = mb_scheme_records(&scheme, tensor, index, &made, &encoded_bytes, NULL, error);
        records = made;
    }
    if (status == MB_OK)
        status = open_books(network, records, encoded_bytes, mb_tensor_matrices(tensor), job->out,
                            books, error);
    job->books = *books;
    job->made = made; /* codes stay where they were read */
    return status;
}

enum mb_status mb_requantize(const struct mb_network *network, size_t index, enum mb_format format,
                             enum mb_numerics numerics, const float *importance,
                             const float *activations, const void *encoded, size_t encoded_bytes,
                             struct mb_requantized *out, struct mb_error *error)
{
    const bool own_kernel = numerics == MB_NUMERICS_KERNEL && format != MB_FORMAT_NONE;
    const bool by_codebooks = mb_format_is_codebook(format);
    struct mb_channelwise *books = NULL;
    const struct mb_tensor *tensor =
        mb_model_tensor_at(network->model, network->matrices[index].tensor);
    struct job job = {.tensor = tensor,
                      .format = format,
                      .importance = importance,
                      .activations = activations,
                      .encoded = encoded,
                      .out = out};
    *out = (struct mb_requantized){0};
    const enum mb_format packed = !own_kernel    ? MB_FORMAT_F32
                                  : by_codebooks ? MB_FORMAT_NONE
                                                 : format;
    enum mb_status status = allocate(network, index, packed, out);
    job.rows = calloc(tensor->n, sizeof *job.rows);
    if (status == MB_OK && job.rows == NULL)
        status = MB_ERR_MEMORY;
    if (status == MB_OK && by_codebooks)
        status = find_books(network, &job, encoded_bytes, &books, error);
    if (status == MB_OK) {
        mb_split(network->threads, (tensor->n + PANEL - 1) / PANEL, 16 * tensor->n * tensor->k,
                 do_panels, &job);
        status = (enum mb_status)atomic_load(&job.status);
    }
    struct row_sums all = {0};
    for (size_t row = 0; status == MB_OK && row < tensor->n; row++) {
        all.error += job.rows[row].error;
        all.square += job.rows[row].square;
        all.output_error += job.rows[row].output_error;
        all.output_square += job.rows[row].output_square;
    }
    out->error = all.square > 0 ? sqrt(all.error / all.square) : 0;
    out->output_error = all.output_square > 0 ? sqrt(all.output_error / all.output_square) : 0;
    out->exact = !atomic_load(&job.inexact);
    free(job.rows);
    free_books(books, mb_tensor_matrices(tensor));
    free(job.made);
    if (status != MB_OK) {
        mb_requantized_free(out);
        const struct mb_format_info *info = mb_format_info(format);
        return mb_error_set(error, status, -1, "tensor '%s' cannot be quantized to %s: %s%s",
                            tensor->name, info ? info->name : "f32", mb_status_string(status),
                            status == MB_ERR_ARGUMENT ? " (it holds infinite or undefined weights)"
                                                      : "");
    }
    return MB_OK;
}

void mb_requantized_free(struct mb_requantized *requantized)
{
    if (requantized->weights.format == MB_FORMAT_NONE)
        mb_codebooks_free(requantized->weights.data);
    else
        mb_free_aligned(requantized->weights.data);
    free(requantized->rows);
    *requantized = (struct mb_requantized){0};
}
