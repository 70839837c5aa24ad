/* SPDX-License-Identifier: Apache-2.0 */
/* Importance: the mean squared activation of every column of every matrix's input. A weight in a
 * column that is mostly small may be rounded worse than one in a column that is not.
 *
 * All positions count, as in llama.cpp's imatrix. Columns are split over the threads, rows are
 * added in order, so the sums do not depend on the number of threads. */
#include "model/network.h"

#include "model/vector.h"

#include <stdio.h>
#include <stdlib.h>

struct collector {
    struct mb_network *network;
    double **sums; /* per matrix, [k]; NULL: not collected */
    size_t *rows;
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

static void observe(void *user, struct mb_run *run, size_t matrix, const float *x, size_t stride,
                    size_t rows)
{
    struct collector *c = user;
    const size_t k = c->network->matrices[matrix].k;
    if (c->sums[matrix] == NULL)
        return;
    struct addition addition = {run, c->sums[matrix], x, rows, stride};
    mb_split(c->network->threads, k, rows * k, add_columns, &addition);
    c->rows[matrix] += rows;
}

static bool collector_init(struct collector *c, struct mb_network *network)
{
    const size_t count = network->matrix_count;
    *c =
        (struct collector){network, calloc(count, sizeof *c->sums), calloc(count, sizeof *c->rows)};
    bool complete = c->sums != NULL && c->rows != NULL;
    for (size_t i = 0; complete && i < count; i++) {
        const struct mb_matrix *matrix = &network->matrices[i];
        if (mb_model_tensor_at(network->model, matrix->tensor)->quantizable)
            complete = (c->sums[i] = calloc(matrix->k, sizeof **c->sums)) != NULL;
    }
    return complete;
}

static void collector_free(struct collector *c)
{
    for (size_t i = 0; c->sums != NULL && i < c->network->matrix_count; i++)
        free(c->sums[i]);
    free(c->sums);
    free(c->rows);
}

static enum mb_status run_windows(struct collector *c, const struct mb_windows *windows,
                                  const struct mb_progress *progress, struct mb_error *error)
{
    struct mb_network *network = c->network;
    const size_t chunk = mb_windows_per_chunk(windows, 0);
    struct mb_run *run;
    enum mb_status status =
        mb_run_create(network, chunk * windows->window, windows->window, &run, error);
    if (status != MB_OK)
        return status;
    run->tokens = windows->window;
    run->observe = observe;
    run->observe_user = c;
    for (size_t w = 0; w < windows->count && status == MB_OK; w += chunk) {
        char note[64];
        snprintf(note, sizeof note, "window %zu of %zu", w, windows->count);
        if (mb_progress_report(progress, (double)w, (double)windows->count, note) != MB_OK) {
            status =
                mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                             "interrupted at window %zu of %zu; run it again", w, windows->count);
            break;
        }
        run->ids = windows->tokens + w * windows->window;
        run->sequences = windows->count - w < chunk ? windows->count - w : chunk;
        status = mb_run_steps(run, 0, network->step_count);
        /* The head's input, without the head's product: nothing reads the logits. */
        observe(c, run, network->output, run->slots[MB_SLOT_NORMED], network->width, run->rows);
        if (status != MB_OK)
            mb_error_set(error, status, -1, "the forward pass failed: %s",
                         mb_status_string(status));
    }
    mb_run_destroy(run);
    return status;
}

static float *means(const struct collector *c, size_t matrix)
{
    const size_t k = c->network->matrices[matrix].k;
    float *out = malloc(k * sizeof *out);
    for (size_t i = 0; out != NULL && i < k; i++)
        out[i] = (float)(c->sums[matrix][i] / (double)c->rows[matrix]);
    return out;
}

enum mb_status mb_importance_collect(struct mb_network *network, const struct mb_windows *windows,
                                     const struct mb_progress *progress, float ***importance,
                                     struct mb_error *error)
{
    *importance = NULL;
    enum mb_status status = mb_windows_check(network, windows, error);
    if (status != MB_OK)
        return status;
    struct collector c;
    float **made = calloc(mb_model_tensor_count(network->model), sizeof *made);
    bool complete = collector_init(&c, network) && made != NULL;
    if (complete)
        status = run_windows(&c, windows, progress, error);
    for (size_t i = 0; complete && status == MB_OK && i < network->matrix_count; i++)
        if (c.sums[i] != NULL && c.rows[i] > 0)
            complete = (made[network->matrices[i].tensor] = means(&c, i)) != NULL;
    if (!complete)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for an importance matrix");
    collector_free(&c);
    if (status != MB_OK) {
        mb_importance_free(network->model, made);
        return status;
    }
    *importance = made;
    return MB_OK;
}

void mb_importance_free(const struct mb_model *model, float **importance)
{
    for (size_t i = 0; importance != NULL && i < mb_model_tensor_count(model); i++)
        free(importance[i]);
    free(importance);
}
