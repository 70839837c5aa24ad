/* SPDX-License-Identifier: Apache-2.0 */
/* Codes chosen one column after the other, each making up for the errors of those before it
 * (model/moments.h), then each anew under the errors of all others, a few times over: what came
 * early could not know what would be left. Between two times each scale is refitted to the codes,
 * and behind them the levels of all rows, for another few. Widths stay as they were chosen; loud
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

enum { SWEEPS = 4, REFITS = 2 };

struct ranked {
    float effect;
    uint32_t column;
};

struct job {
    struct mb_encoder *e;
    const uint32_t *order; /* of columns */
    const float *moments, *factors;
    const size_t *rows; /* those at hand; NULL: all, as they are */
    bool coded;         /* rows have codes to begin with */
    struct mb_refit *refit;
    atomic_int status;
};

static int by_effect(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->effect != y->effect)
        return x->effect < y->effect ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
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
    out->codes[mb_place_of(out, row, column)] = (uint8_t)code;
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
        const size_t at = mb_place_of(e->out, row, column);
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

/* A group's scale under its codes and the errors of all others, where it has no outliers: with l
 * the levels, s + l (H e) / l H l is best. */
static bool adjust_scale(const struct job *job, size_t row, size_t group, float *asked,
                         float *errors, float *level)
{
    struct mb_encoder *e = job->e;
    struct mb_channelwise *out = e->out;
    const size_t k = out->k, at = row * out->scale_groups + group;
    const uint32_t *columns = e->columns + e->group_first[group];
    const size_t count = e->group_first[group + 1] - e->group_first[group];
    const float before = out->scales[at];
    double asks = 0, costs = 0;
    if (!(before > 0))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (e->outlier[mb_place_of(out, row, columns[i])])
            return false;
        level[i] = out->levels[mb_level_of(out, row, columns[i])];
    }
    for (size_t i = 0; i < count; i++) {
        const float *own = job->moments + (size_t)columns[i] * k;
        float sum = 0;
        for (size_t j = 0; j < count; j++)
            sum += own[columns[j]] * level[j];
        costs += (double)level[i] * (double)sum;
        asks += (double)level[i] * (double)asked[columns[i]];
    }
    const double wanted = costs > 0 ? (double)before + asks / costs : 0;
    if (!(wanted > 0)) /* scales are not negative, and 0 is for groups of zeros */
        return false;
    const int code = mb_nearest_scale(out, (float)wanted), old = out->scale_codes[at];
    if (code == 0 || code == old)
        return false;
    mb_set_scale(out, at, code);
    const double more = (double)out->scales[at] - (double)before;
    if (!(2 * more * asks > more * more * costs)) {
        mb_set_scale(out, at, old);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        const float *own = job->moments + (size_t)columns[i] * k, change = -(float)more * level[i];
        errors[columns[i]] += change;
        for (size_t j = 0; j < k; j++)
            asked[j] += change * own[j];
    }
    return true;
}

/* The row's errors cost e^T H e. Weight after weight is given the code that costs least while all
 * others stay; asked = H e. */
static void descend_row(const struct job *job, size_t row, float *asked, float *errors,
                        float *level)
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
            const size_t at = mb_place_of(e->out, row, column);
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
        for (size_t g = 0; g < e->out->scale_groups; g++)
            changed |= adjust_scale(job, row, g, asked, errors, level);
    }
}

static void round_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const size_t k = job->e->out->k;
    float *scratch = malloc(3 * k * sizeof *scratch);
    if (scratch == NULL)
        atomic_store(&job->status, MB_ERR_MEMORY);
    for (size_t i = first; scratch != NULL && i < last; i++) {
        const size_t row = job->rows != NULL ? job->rows[i] : i;
        if (job->coded)
            mb_read_errors(job->e, row, scratch + k);
        else
            round_row(job, row, scratch, scratch + k);
        descend_row(job, row, scratch, scratch + k, scratch + 2 * k);
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

/* `count` rows under one matrix's moments; or what their levels should be, where that is asked. */
static enum mb_status assign_rows(struct job *job, size_t count)
{
    const size_t k = job->e->out->k;
    if (job->refit != NULL)
        return mb_refit_add(job->refit, job->moments, job->rows, count);
    float *factors = job->coded ? NULL : factors_of(job->e, job->moments, job->order);
    if (factors == NULL && !job->coded)
        return MB_ERR_MEMORY;
    job->factors = factors;
    mb_split(job->e->threads, count, count * k * k / 8, round_rows, job);
    free(factors);
    return (enum mb_status)atomic_load(&job->status);
}

static enum mb_status assign_all(struct job *job)
{
    const struct mb_channelwise_options *o = &job->e->out->options;
    const struct mb_row_groups *groups = o->groups;
    enum mb_status status = MB_OK;
    job->moments = o->moments;
    if (groups == NULL)
        return assign_rows(job, job->e->out->n);
    for (size_t g = 0; g < groups->count && status == MB_OK; g++) {
        const size_t first = g > 0 ? groups->ends[g - 1] : 0;
        status = groups->moments(groups->user, g, &job->moments);
        if (status == MB_OK && job->moments == NULL)
            job->moments = o->moments;
        job->rows = groups->order + first;
        if (status == MB_OK && groups->ends[g] > first)
            status = assign_rows(job, groups->ends[g] - first);
    }
    return status;
}

/* Levels for the codes, then codes for the levels. */
static enum mb_status refit(struct job *job, bool *moved)
{
    job->refit = mb_refit_create(job->e);
    enum mb_status status = job->refit != NULL ? assign_all(job) : MB_ERR_MEMORY;
    *moved = status == MB_OK && mb_refit_apply(job->refit);
    mb_refit_free(job->refit);
    job->refit = NULL;
    job->coded = true;
    return *moved ? assign_all(job) : status;
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
    if (status == MB_OK)
        status = assign_all(&job);
    bool moved = mb_can_refit(e);
    for (size_t i = 0; i < REFITS && moved && status == MB_OK; i++)
        status = refit(&job, &moved);
    free(order);
    free(ranked);
    return status;
}
