/* SPDX-License-Identifier: Apache-2.0 */
/* Importance: the mean squared activation of every column of every matrix's input. A weight in a
 * column that is mostly small may be rounded worse than one in a column that is not.
 *
 * All positions count, as in llama.cpp's imatrix. Columns are split over the threads, rows are
 * added in order, so the sums do not depend on the number of threads. */
#include "model/importance.h"

#include "dispatch/dispatch.h"
#include "kernels/encode.h"
#include "model/network.h"
#include "model/vector.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows ---- */

/* What the encoders themselves refuse. */
static bool all_finite(const float *x, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite = finite && isfinite(x[i]);
    return finite;
}

enum { BATCH = 16 };

/* What a thread needs for 16 rows. */
struct feedback {
    enum mb_format format;
    const struct mb_encoding *encoding;
    const struct mb_encode_ops *ops;
    size_t row_bytes;
    float *scratch;
    uint8_t *other; /* blocks of 16 rows */
};

static void encode_batch(const struct feedback *f, size_t rows, const float *w, uint8_t *blocks)
{
    const struct mb_second_moments *moments = f->encoding->moments;
    double errors[BATCH];
    f->ops->feedback_rows(f->format, w, rows, moments, blocks, f->scratch);
    if (f->encoding->sweeps > 0)
        f->ops->refine_rows(f->format, w, rows, moments, f->encoding->sweeps, blocks, errors,
                            f->scratch);
}

/* From the blocks at hand and from blocks made anew, which ends in another minimum: the lower one
 * of each row is kept. */
static void refine_batch(const struct feedback *f, size_t rows, const float *w, uint8_t *blocks)
{
    const struct mb_second_moments *moments = f->encoding->moments;
    double errors[BATCH], others[BATCH];
    f->ops->refine_rows(f->format, w, rows, moments, f->encoding->sweeps, blocks, errors,
                        f->scratch);
    f->ops->feedback_rows(f->format, w, rows, moments, f->other, f->scratch);
    f->ops->refine_rows(f->format, w, rows, moments, f->encoding->sweeps, f->other, others,
                        f->scratch);
    for (size_t r = 0; r < rows; r++)
        if (others[r] < errors[r] || !isfinite(errors[r]))
            memcpy(blocks + r * f->row_bytes, f->other + r * f->row_bytes, f->row_bytes);
}

static enum mb_status run_feedback(enum mb_format format, const struct mb_encoding *encoding,
                                   bool encode, size_t rows, const float *floats, void *blocks)
{
    const size_t k = encoding->moments->k, row_bytes = mb_format_row_bytes(format, k);
    struct feedback f = {format, encoding, mb_select_encode(), row_bytes, NULL, NULL};
    if (!all_finite(floats, rows * k))
        return MB_ERR_ARGUMENT;
    f.scratch = mb_alloc_aligned(mb_feedback_scratch(k) * sizeof *f.scratch);
    f.other = malloc(BATCH * row_bytes);
    const bool complete = f.scratch != NULL && f.other != NULL;
    for (size_t row = 0; complete && row < rows; row += BATCH)
        (encode ? encode_batch : refine_batch)(&f, rows - row < BATCH ? rows - row : BATCH,
                                               floats + row * k,
                                               (uint8_t *)blocks + row * row_bytes);
    mb_free_aligned(f.scratch);
    free(f.other);
    return complete ? MB_OK : MB_ERR_MEMORY;
}

static bool is_blocks(enum mb_format format) { return mb_format_info(format)->block_k > 1; }

enum mb_status mb_quantize_rows(const struct mb_tensor *tensor, enum mb_format format,
                                const struct mb_encoding *encoding, size_t row0, size_t row1,
                                const float *floats, void *out)
{
    const size_t each = (size_t)tensor->ne[1], row_bytes = mb_format_row_bytes(format, tensor->k);
    const struct mb_second_moments *moments = encoding->moments;
    if (moments != NULL && is_blocks(format))
        return moments->h != NULL && mb_feedback_by_code(format)
                   ? run_feedback(format, encoding, true, row1 - row0, floats, out)
                   : mb_quantize(format, floats, row1 - row0, tensor->k, moments->diagonal, out);
    if (encoding->importance == NULL)
        return mb_quantize(format, floats, row1 - row0, tensor->k, NULL, out);
    enum mb_status status = MB_OK;
    for (size_t row = row0, end; row < row1 && status == MB_OK; row = end) {
        end = (row / each + 1) * each < row1 ? (row / each + 1) * each : row1;
        status = mb_quantize(format, floats + (row - row0) * tensor->k, end - row, tensor->k,
                             mb_importance_of(tensor, encoding->importance, row),
                             (uint8_t *)out + (row - row0) * row_bytes);
    }
    return status;
}

enum mb_status mb_refine_stored(enum mb_format format, const struct mb_encoding *encoding,
                                size_t rows, const float *floats, void *blocks)
{
    return run_feedback(format, encoding, false, rows, floats, blocks);
}

/* ---- the data ---- */

void mb_importance_free(struct mb_importance *importance)
{
    if (importance == NULL)
        return;
    for (size_t i = 0; i < importance->tensor_count; i++) {
        if (importance->weights != NULL)
            free(importance->weights[i]);
        if (importance->rows != NULL)
            free(importance->rows[i]);
    }
    free(importance->weights);
    free(importance->rows);
    free(importance);
}

struct mb_importance *mb_importance_create(const struct mb_model *model)
{
    const size_t count = mb_model_tensor_count(model);
    struct mb_importance *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->tensor_count = count;
    made->weights = calloc(count + 1, sizeof *made->weights);
    made->rows = calloc(count + 1, sizeof *made->rows);
    if (made->weights != NULL && made->rows != NULL)
        return made;
    mb_importance_free(made);
    return NULL;
}

bool mb_importance_add(struct mb_importance *importance, const struct mb_model *model, size_t i)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
    const size_t matrices = mb_tensor_matrices(tensor);
    importance->weights[i] = calloc(matrices * tensor->k, sizeof(float));
    importance->rows[i] = calloc(matrices, sizeof(size_t));
    return importance->weights[i] != NULL && importance->rows[i] != NULL;
}

void mb_importance_set(struct mb_importance *importance, const struct mb_model *model, size_t i,
                       size_t matrix, const double *sums, size_t rows)
{
    const size_t k = mb_model_tensor_at(model, i)->k;
    float *weights = importance->weights[i] + matrix * k;
    importance->rows[i][matrix] = rows;
    for (size_t c = 0; c < k; c++)
        weights[c] = rows > 0 ? (float)(sums[c] / (double)rows) : 1.0f;
}

void mb_importance_hash(const struct mb_model *model, const float *const *weights, char hex[33])
{
    memcpy(hex, "none", sizeof "none");
    for (size_t i = 0; weights != NULL && i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        char both[2][33] = {"", ""};
        if (weights[i] == NULL)
            continue;
        memcpy(both[0], hex, strlen(hex));
        mb_hash_bytes(weights[i], mb_tensor_matrices(tensor) * tensor->k * sizeof **weights,
                      both[1]);
        mb_hash_bytes(both, sizeof both, hex);
    }
}

/* ---- collecting ---- */

struct collector {
    struct mb_network *network;
    double **sums; /* per matrix [matrices][k]; NULL: not collected */
    size_t **rows; /* per matrix [matrices] */
};

struct addition {
    struct mb_run *run;
    double *sum;
    const float *x;
    size_t rows, stride;
};

static void add_columns(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct addition *a = arg;
    for (size_t row = 0; row < a->rows; row++)
        a->run->vector->add_squares(a->sum + first, a->x + row * a->stride + first, last - first);
}

static void observe(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                    size_t stride, size_t rows)
{
    struct collector *c = user;
    const size_t k = c->network->matrices[matrix].k;
    if (c->sums[matrix] == NULL)
        return;
    struct addition addition = {run, c->sums[matrix] + expert * k, x, rows, stride};
    mb_split(c->network->threads, k, rows * k, add_columns, &addition);
    c->rows[matrix][expert] += rows;
}

static const struct mb_tensor *tensor_of(const struct mb_network *network, size_t matrix)
{
    return mb_model_tensor_at(network->model, network->matrices[matrix].tensor);
}

static bool collector_init(struct collector *c, struct mb_network *network)
{
    const size_t count = network->matrix_count;
    *c =
        (struct collector){network, calloc(count, sizeof *c->sums), calloc(count, sizeof *c->rows)};
    bool complete = c->sums != NULL && c->rows != NULL;
    for (size_t i = 0; complete && i < count; i++) {
        const struct mb_tensor *tensor = tensor_of(network, i);
        if (!tensor->quantizable)
            continue;
        c->sums[i] = calloc(mb_tensor_matrices(tensor) * tensor->k, sizeof **c->sums);
        c->rows[i] = calloc(mb_tensor_matrices(tensor), sizeof **c->rows);
        complete = c->sums[i] != NULL && c->rows[i] != NULL;
    }
    return complete;
}

static void collector_free(struct collector *c)
{
    for (size_t i = 0; i < c->network->matrix_count; i++) {
        if (c->sums != NULL)
            free(c->sums[i]);
        if (c->rows != NULL)
            free(c->rows[i]);
    }
    free(c->sums);
    free(c->rows);
}

/* Only what some row reached: an embedding that is looked up and no more has no input. */
static bool take_sums(const struct collector *c, struct mb_importance *made)
{
    const struct mb_network *network = c->network;
    bool complete = true;
    for (size_t i = 0; complete && i < network->matrix_count; i++) {
        const size_t tensor = network->matrices[i].tensor, k = network->matrices[i].k;
        const size_t matrices = mb_tensor_matrices(tensor_of(network, i));
        size_t rows = 0;
        for (size_t m = 0; c->sums[i] != NULL && m < matrices; m++)
            rows += c->rows[i][m];
        if (rows == 0)
            continue;
        complete = mb_importance_add(made, network->model, tensor);
        for (size_t m = 0; complete && m < matrices; m++)
            mb_importance_set(made, network->model, tensor, m, c->sums[i] + m * k, c->rows[i][m]);
    }
    return complete;
}

enum mb_status mb_importance_collect(struct mb_network *network, const struct mb_windows *windows,
                                     const struct mb_progress *progress,
                                     struct mb_importance **importance, struct mb_error *error)
{
    *importance = NULL;
    enum mb_status status = mb_windows_check(network, windows, error);
    if (status != MB_OK)
        return status;
    struct collector c;
    struct mb_importance *made = mb_importance_create(network->model);
    bool complete = collector_init(&c, network) && made != NULL;
    if (complete)
        status = mb_observe(network, windows, network->step_count, observe, &c, progress, error);
    if (complete && status == MB_OK)
        complete = take_sums(&c, made);
    if (!complete)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an importance matrix");
    collector_free(&c);
    if (status != MB_OK) {
        mb_importance_free(made);
        return status;
    }
    made->chunks = windows->count;
    made->chunk = windows->window;
    memcpy(made->text_hash, windows->text_hash, sizeof made->text_hash);
    mb_importance_hash(network->model, (const float *const *)made->weights, made->hash);
    *importance = made;
    return MB_OK;
}
