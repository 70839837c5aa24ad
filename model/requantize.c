/* SPDX-License-Identifier: Apache-2.0 */
/* The weights of a probe: one matrix as another format would return it, ready to multiply in f32 or
 * by the format's own kernel. The same walk measures how far it went from the source. */
#include "model/probe.h"

#include "model/importance.h"
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
    const uint8_t *encoded; /* the tensor's rows in `format`; NULL: encode them */
    struct mb_requantized *out;
    struct row_sums *rows; /* so that sums do not depend on the threads */
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

static enum mb_status do_panel(struct job *job, size_t row0, size_t row1, struct buffers *b)
{
    const struct mb_tensor *tensor = job->tensor;
    const size_t k = tensor->k, rows = row1 - row0;
    const uint8_t *data =
        (const uint8_t *)tensor->data + row0 * mb_format_row_bytes(tensor->format, k);
    enum mb_status status = mb_dequantize(tensor->format, data, rows, k, b->source);
    const float *result = b->source;
    const void *stored = b->stored;
    if (status == MB_OK && job->format != MB_FORMAT_NONE) {
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
    if (job->out->weights.data == NULL)
        return MB_OK;
    const bool as_stored = job->out->weights.format != MB_FORMAT_F32;
    return mb_pack_rows(&job->out->weights, as_stored ? stored : result, row0, row1);
}

static void do_panels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const size_t k = job->tensor->k, n = job->tensor->n;
    const size_t stored =
        job->format == MB_FORMAT_NONE ? 1 : mb_format_row_bytes(job->format, k) * PANEL;
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
    size_t bytes;
    enum mb_status status = mb_pack_size(packed, matrix->n, matrix->k, &bytes);
    if (status != MB_OK)
        return status;
    if (looked_up) {
        out->rows = malloc(matrix->n * matrix->k * sizeof *out->rows);
        if (out->rows == NULL)
            return MB_ERR_MEMORY;
    }
    if (!looked_up || index == network->output) {
        void *data = mb_alloc_aligned(bytes);
        if (data == NULL)
            return MB_ERR_MEMORY;
        status = mb_weights_init(&out->weights, packed, matrix->n, matrix->k, data);
    }
    out->replacement = (struct mb_replacement){
        .matrix = index,
        .weights = out->weights.data ? &out->weights : NULL,
        .rows = out->rows,
    };
    return status;
}

enum mb_status mb_requantize(const struct mb_network *network, size_t index, enum mb_format format,
                             enum mb_numerics numerics, const float *importance,
                             const float *activations, const void *encoded,
                             struct mb_requantized *out, struct mb_error *error)
{
    const bool own_kernel = numerics == MB_NUMERICS_KERNEL && format != MB_FORMAT_NONE;
    const struct mb_tensor *tensor =
        mb_model_tensor_at(network->model, network->matrices[index].tensor);
    struct job job = {.tensor = tensor,
                      .format = format,
                      .importance = importance,
                      .activations = activations,
                      .encoded = encoded,
                      .out = out};
    *out = (struct mb_requantized){0};
    enum mb_status status = allocate(network, index, own_kernel ? format : MB_FORMAT_F32, out);
    job.rows = calloc(tensor->n, sizeof *job.rows);
    if (status == MB_OK && job.rows == NULL)
        status = MB_ERR_MEMORY;
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
    mb_free_aligned(requantized->weights.data);
    free(requantized->rows);
    *requantized = (struct mb_requantized){0};
}
