/* SPDX-License-Identifier: Apache-2.0 */
/* Codes chosen one column after the other, each making up for the errors of those before it
 * (model/moments.h). Levels, scales and widths stay as they were fitted; loud columns come first,
 * while there are still many behind them to make up for theirs. */
#include "model/channelwise_encoder.h"
#include "model/moments.h"

#include "kernels/gram.h"
#include "kernels/half.h"
#include "kernels/kmeans.h"
#include "support/memory.h"

#include <stdatomic.h>
#include <stdlib.h>

struct ranked {
    float effect;
    uint32_t column;
};

struct job {
    struct mb_encoder *e;
    const uint32_t *order;
    const float *factors;
    atomic_int status;
};

static int by_effect(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->effect != y->effect)
        return x->effect < y->effect ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
}

static void round_row(const struct job *job, size_t row, float *target)
{
    struct mb_encoder *e = job->e;
    const struct mb_channelwise *out = e->out;
    const bool columns = out->options.axis == MB_CHANNELS_OF_INPUT;
    const size_t k = out->k;
    for (size_t c = 0; c < k; c++)
        target[c] = 0;
    for (size_t c = 0; c < k; c++) {
        const uint32_t column = job->order[c];
        const size_t channel = columns ? column : row, i = columns ? row : column;
        const size_t at = channel * out->length + i;
        const float w = e->x[at], wanted = w + target[c];
        const float scale = mb_scale_at(out, row, column), *levels = mb_levels_at(out, channel, i);
        const size_t count = (size_t)1 << out->widths[out->width[channel]];
        out->codes[at] =
            (uint8_t)mb_nearest_centroid(levels, count, scale > 0 ? wanted / scale : 0);
        float got = out->scale_groups > 0 ? scale * levels[out->codes[at]] : levels[out->codes[at]];
        if (e->outlier[at]) {
            e->x[at] = wanted; /* what is kept beside the code */
            got += mb_half_to_float(mb_half_within((double)wanted - (double)got));
        }
        const float error = w - got, *factor = job->factors + c * k;
        for (size_t j = c + 1; j < k; j++)
            target[j] += error * factor[j];
    }
}

static void round_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    float *target = malloc(job->e->out->k * sizeof *target);
    if (target == NULL)
        atomic_store(&job->status, MB_ERR_MEMORY);
    for (size_t row = first; target != NULL && row < last; row++)
        round_row(job, row, target);
    free(target);
}

/* N of kernels/gram.h for columns in this order, transposed: what the error of column c asks of
 * those behind it is row c. NULL: out of memory, or moments that have no factor. */
static float *factors_of(const struct mb_encoder *e, const uint32_t *order)
{
    const size_t k = e->out->k;
    const float *moments = e->out->options.moments;
    float *ordered = malloc(k * k * sizeof *ordered), *n = mb_alloc_aligned(k * k * sizeof *n);
    float *packed = mb_alloc_aligned(mb_gram_packed(k, MB_GRAM_ROWS) * sizeof *packed);
    bool made = ordered != NULL && n != NULL && packed != NULL;
    for (size_t i = 0; made && i < k; i++)
        for (size_t j = 0; j < k; j++)
            ordered[i * k + j] = moments[(size_t)order[i] * k + order[j]];
    made = made && mb_moments_factor(e->threads, ordered, k, n, packed);
    for (size_t c = 0; made && c < k; c++)
        for (size_t j = c + 1; j < k; j++)
            ordered[c * k + j] = n[j * k + c];
    mb_free_aligned(packed);
    mb_free_aligned(n);
    if (!made) {
        free(ordered);
        ordered = NULL;
    }
    return ordered;
}

enum mb_status mb_assign_with_feedback(struct mb_encoder *e)
{
    const size_t k = e->out->k;
    struct ranked *ranked = malloc(k * sizeof *ranked);
    uint32_t *order = malloc(k * sizeof *order);
    struct job job = {.e = e, .order = order};
    enum mb_status status = ranked && order ? MB_OK : MB_ERR_MEMORY;
    for (size_t c = 0; status == MB_OK && c < k; c++)
        ranked[c] = (struct ranked){e->effect[c], (uint32_t)c};
    if (status == MB_OK) {
        qsort(ranked, k, sizeof *ranked, by_effect);
        for (size_t c = 0; c < k; c++)
            order[c] = ranked[c].column;
    }
    float *factors = status == MB_OK ? factors_of(e, order) : NULL;
    if (factors == NULL)
        status = MB_ERR_MEMORY;
    job.factors = factors;
    if (status == MB_OK) {
        mb_split(e->threads, e->out->n, e->out->n * k * k / 8, round_rows, &job);
        status = (enum mb_status)atomic_load(&job.status);
    }
    free(factors);
    free(order);
    free(ranked);
    return status;
}
