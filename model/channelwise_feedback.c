/* SPDX-License-Identifier: Apache-2.0 */
/* Codes chosen one column after the other, each making up for the errors of those before it
 * (model/moments.h), then each anew under the errors of all others, a few times over: what came
 * early could not know what would be left. Levels, scales and widths stay as they were fitted; loud
 * columns come first, while there are still many behind them to make up for theirs. */
#include "model/channelwise_encoder.h"
#include "model/moments.h"

#include "kernels/gram.h"
#include "kernels/half.h"
#include "kernels/kmeans.h"
#include "support/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEPS = 4 };

struct ranked {
    float effect;
    uint32_t column;
};

struct job {
    struct mb_encoder *e;
    const uint32_t *order; /* of columns */
    const float *moments, *factors;
    const size_t *rows; /* those at hand; NULL: all, as they are */
    atomic_int status;
};

static int by_effect(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->effect != y->effect)
        return x->effect < y->effect ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
}

static size_t place_of(const struct mb_channelwise *out, size_t row, size_t column)
{
    return out->options.axis == MB_CHANNELS_OF_INPUT ? column * out->length + row
                                                     : row * out->length + column;
}

/* The code of a weight that is to be `wanted`; what it stands for. */
static float choose(struct mb_encoder *e, size_t row, size_t column, float wanted)
{
    struct mb_channelwise *out = e->out;
    const bool columns = out->options.axis == MB_CHANNELS_OF_INPUT;
    const size_t channel = columns ? column : row, i = columns ? row : column;
    const float scale = mb_scale_at(out, row, column), *levels = mb_levels_at(out, channel, i);
    const size_t count = (size_t)1 << out->widths[out->width[channel]];
    const size_t code = mb_nearest_centroid(levels, count, scale > 0 ? wanted / scale : 0);
    out->codes[place_of(out, row, column)] = (uint8_t)code;
    return out->scale_groups > 0 ? scale * levels[code] : levels[code];
}

/* errors[column]: what each weight of the row was, less what it became. */
static void round_row(const struct job *job, size_t row, float *target, float *errors)
{
    struct mb_encoder *e = job->e;
    const size_t k = e->out->k;
    memset(target, 0, k * sizeof *target);
    for (size_t c = 0; c < k; c++) {
        const uint32_t column = job->order[c];
        const size_t at = place_of(e->out, row, column);
        const float w = e->x[at], wanted = w + target[c];
        float got = choose(e, row, column, wanted);
        if (e->outlier[at]) {
            e->x[at] = wanted; /* what is kept beside the code */
            got += mb_half_to_float(mb_half_within((double)wanted - (double)got));
        }
        const float error = w - got, *factor = job->factors + c * k;
        errors[column] = error;
        for (size_t j = c + 1; j < k; j++)
            target[j] += error * factor[j];
    }
}

/* The row's errors cost e^T H e. Weight after weight is given the code that costs least while all
 * others stay; asked = H e. */
static void descend_row(const struct job *job, size_t row, float *asked, float *errors)
{
    struct mb_encoder *e = job->e;
    const size_t k = e->out->k;
    const float *h = job->moments;
    memset(asked, 0, k * sizeof *asked);
    for (size_t c = 0; c < k; c++)
        for (size_t j = 0; j < k; j++)
            asked[j] += errors[c] * h[c * k + j];
    bool changed = true;
    for (size_t sweep = 0; sweep < SWEEPS && changed; sweep++) {
        changed = false;
        for (size_t c = 0; c < k; c++) {
            const uint32_t column = job->order[c];
            const size_t at = place_of(e->out, row, column);
            const float *own = h + (size_t)column * k, before = errors[column];
            const uint8_t code = e->out->codes[at];
            if (e->outlier[at] || !(own[column] > 0))
                continue;
            const float best = asked[column] / own[column] - before; /* of minus its error */
            errors[column] = e->x[at] - choose(e, row, column, e->x[at] + best);
            if (e->out->codes[at] == code) {
                errors[column] = before;
                continue;
            }
            const float more = errors[column] - before;
            for (size_t j = 0; j < k; j++)
                asked[j] += more * own[j];
            changed = true;
        }
    }
}

static void round_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const size_t k = job->e->out->k;
    float *scratch = malloc(2 * k * sizeof *scratch);
    if (scratch == NULL)
        atomic_store(&job->status, MB_ERR_MEMORY);
    for (size_t i = first; scratch != NULL && i < last; i++) {
        const size_t row = job->rows != NULL ? job->rows[i] : i;
        round_row(job, row, scratch, scratch + k);
        descend_row(job, row, scratch, scratch + k);
    }
    free(scratch);
}

/* N of kernels/gram.h for columns in this order, transposed: what the error of column c asks of
 * those behind it is row c. NULL: out of memory, or moments that have no factor. */
static float *factors_of(const struct mb_encoder *e, const float *moments, const uint32_t *order)
{
    const size_t k = e->out->k;
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

/* `count` rows under one matrix's moments. */
static enum mb_status assign_rows(struct job *job, size_t count)
{
    const size_t k = job->e->out->k;
    float *factors = factors_of(job->e, job->moments, job->order);
    if (factors == NULL)
        return MB_ERR_MEMORY;
    job->factors = factors;
    mb_split(job->e->threads, count, count * k * k / 8, round_rows, job);
    free(factors);
    return (enum mb_status)atomic_load(&job->status);
}

static enum mb_status assign_groups(struct job *job, const struct mb_row_groups *groups)
{
    enum mb_status status = MB_OK;
    for (size_t g = 0; g < groups->count && status == MB_OK; g++) {
        const size_t first = g > 0 ? groups->ends[g - 1] : 0;
        status = groups->moments(groups->user, g, &job->moments);
        if (status == MB_OK && job->moments == NULL)
            job->moments = job->e->out->options.moments;
        job->rows = groups->order + first;
        if (status == MB_OK && groups->ends[g] > first)
            status = assign_rows(job, groups->ends[g] - first);
    }
    return status;
}

enum mb_status mb_assign_with_feedback(struct mb_encoder *e)
{
    const size_t k = e->out->k;
    const struct mb_channelwise_options *o = &e->out->options;
    struct ranked *ranked = malloc(k * sizeof *ranked);
    uint32_t *order = malloc(k * sizeof *order);
    struct job job = {.e = e, .order = order, .moments = o->moments};
    enum mb_status status = ranked && order ? MB_OK : MB_ERR_MEMORY;
    for (size_t c = 0; status == MB_OK && c < k; c++)
        ranked[c] = (struct ranked){e->effect[c], (uint32_t)c};
    if (status == MB_OK) {
        qsort(ranked, k, sizeof *ranked, by_effect);
        for (size_t c = 0; c < k; c++)
            order[c] = ranked[c].column;
    }
    if (status == MB_OK)
        status = o->groups != NULL ? assign_groups(&job, o->groups) : assign_rows(&job, e->out->n);
    free(order);
    free(ranked);
    return status;
}
