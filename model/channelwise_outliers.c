/* SPDX-License-Identifier: Apache-2.0 */
/* Which weights are kept beside the codes: the largest of the loudest columns before anything is
 * fitted, the farthest off when all is. */
#include "model/channelwise_encoder.h"

#include "kernels/half.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
    float score;
    size_t at;
};

static int by_score(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->at > y->at) - (x->at < y->at);
}

/* Positive floats sort as their bits do: the upper 16 of 31 make a histogram. */
static size_t bin_of(float score) { return mb_float_bits(score) >> 15; }

/* Mark the `count` of highest score; those without a positive one never are. Equal scores: the
 * first. */
static enum mb_status mark(struct mb_encoder *e, const float *scores, size_t count)
{
    enum { BINS = 65536 };
    const size_t weights = e->out->n * e->out->k;
    size_t *bins = calloc(BINS, sizeof *bins), above = 0, edge = BINS;
    if (bins == NULL)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < weights; i++)
        if (scores[i] > 0)
            bins[bin_of(scores[i])]++;
    while (edge > 0 && above + bins[edge - 1] <= count)
        above += bins[--edge];
    /* All bins from `edge` on; of the one below it, the best. */
    const size_t some = edge > 0 ? bins[edge - 1] : 0;
    struct candidate *candidates = malloc((some + 1) * sizeof *candidates);
    free(bins);
    if (candidates == NULL)
        return MB_ERR_MEMORY;
    size_t found = 0;
    for (size_t i = 0; i < weights; i++) {
        if (!(scores[i] > 0))
            continue;
        if (bin_of(scores[i]) >= edge)
            e->outlier[i] = 1;
        else if (bin_of(scores[i]) + 1 == edge)
            candidates[found++] = (struct candidate){scores[i], i};
    }
    qsort(candidates, found, sizeof *candidates, by_score);
    for (size_t i = 0; i < found && above < count; i++, above++)
        e->outlier[candidates[i].at] = 1;
    free(candidates);
    return MB_OK;
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The activation norm that the loudest columns have at least; NAN: out of memory. */
static float loud_norm(const struct mb_encoder *e)
{
    const size_t k = e->out->k;
    size_t loud = (size_t)ceil(e->out->options.outlier_channels * (double)k);
    float *norms = malloc(k * sizeof *norms);
    if (norms == NULL)
        return NAN;
    for (size_t c = 0; c < k; c++)
        norms[c] = e->effect[c];
    qsort(norms, k, sizeof *norms, descending);
    loud = loud < 1 ? 1 : loud > k ? k : loud;
    const float least = norms[loud - 1];
    free(norms);
    return least;
}

enum mb_status mb_mark_largest(struct mb_encoder *e, size_t count)
{
    const struct mb_channelwise *out = e->out;
    if (count == 0)
        return MB_OK;
    const float least = loud_norm(e);
    float *scores = malloc(out->n * out->k * sizeof *scores);
    enum mb_status status = scores && !isnan(least) ? MB_OK : MB_ERR_MEMORY;
    for (size_t c = 0; status == MB_OK && c < out->channels; c++)
        for (size_t i = 0; i < out->length; i++) {
            const size_t at = c * out->length + i;
            scores[at] = e->effect[mb_column_of(e, c, i)] >= least ? fabsf(e->x[at]) : 0;
        }
    if (status == MB_OK)
        status = mark(e, scores, count);
    free(scores);
    return status;
}

enum mb_status mb_mark_farthest(struct mb_encoder *e, size_t count)
{
    const struct mb_channelwise *out = e->out;
    float *scores = malloc(out->n * out->k * sizeof *scores);
    if (scores == NULL)
        return MB_ERR_MEMORY;
    for (size_t c = 0; c < out->channels; c++)
        for (size_t i = 0; i < out->length; i++) {
            const size_t at = c * out->length + i, column = mb_column_of(e, c, i);
            const float scale = mb_scale_at(out, mb_row_of(e, c, i), column);
            const float off = e->x[at] - scale * mb_levels_at(out, c, i)[out->codes[at]];
            scores[at] = e->outlier[at] ? 0 : e->fitted[column] * off * off;
        }
    const enum mb_status status = mark(e, scores, count);
    free(scores);
    return status;
}

enum mb_status mb_list_outliers(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    const bool columns = out->options.axis == MB_CHANNELS_OF_INPUT;
    size_t count = 0;
    for (size_t i = 0; i < out->n * out->k; i++)
        count += e->outlier[i];
    if (count == 0)
        return MB_OK;
    out->outliers = malloc(count * sizeof *out->outliers);
    if (out->outliers == NULL)
        return MB_ERR_MEMORY;
    for (size_t row = 0; row < out->n; row++)
        for (size_t column = 0; column < out->k; column++) {
            const size_t c = columns ? column : row, i = columns ? row : column;
            const size_t at = c * out->length + i;
            if (!e->outlier[at])
                continue;
            const float level = mb_levels_at(out, c, i)[out->codes[at]];
            const float coded =
                out->scale_groups > 0 ? level * mb_scale_at(out, row, column) : level;
            out->outliers[out->outlier_count++] = (struct mb_outlier){
                (uint32_t)row, (uint32_t)column, mb_half_within((double)e->x[at] - (double)coded)};
        }
    return MB_OK;
}
