/* SPDX-License-Identifier: Apache-2.0 */
/* Scales of rows, or of groups of a row's columns: what weights are divided by before they share a
 * codebook.
 *
 * A group's scale is one byte, 16 steps to the octave: no step is more than 2.2 % away, which is
 * less than what a scale loses by being off its best by as much. All that is near the first guess
 * is tried, under the levels that its codes really have. */
#include "model/channelwise_encoder.h"

#include "kernels/half.h"
#include "kernels/kmeans.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { TOP_CODE = 255, OCTAVE = 16 };

/* 2^(i / 16) */
static const float sixteenth[OCTAVE] = {1.0f,        1.04427378f, 1.09050773f, 1.13878863f,
                                        1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
                                        1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f,
                                        1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};

float mb_scale_of_code(float top, int code)
{
    if (code <= 0)
        return 0;
    const int below = TOP_CODE - code; /* sixteenths below the top */
    const int octaves = (below + OCTAVE - 1) / OCTAVE;
    return ldexpf(top, -octaves) * sixteenth[octaves * OCTAVE - below];
}

static int code_of_scale(float top, float scale)
{
    if (!(scale > 0))
        return 0;
    int code = TOP_CODE + (int)lrint(OCTAVE * log2((double)scale / (double)top));
    return code < 1 ? 1 : code > TOP_CODE ? TOP_CODE : code;
}

static float value_of(const struct mb_channelwise *out, int code)
{
    return out->options.scale_columns == MB_SCALE_OF_ROW ? mb_half_to_float((uint16_t)code)
                                                         : mb_scale_of_code(out->scale_top, code);
}

int mb_nearest_scale(const struct mb_channelwise *out, float scale)
{
    return out->options.scale_columns == MB_SCALE_OF_ROW ? mb_half_within((double)scale)
                                                         : code_of_scale(out->scale_top, scale);
}

void mb_set_scale(struct mb_channelwise *out, size_t at, int code)
{
    out->scale_codes[at] = (uint16_t)code;
    out->scales[at] = value_of(out, code);
}

static float rms(const struct mb_encoder *e, size_t row, size_t group)
{
    const struct mb_channelwise *out = e->out;
    double sum = 0, weight = 0, plain = 0;
    size_t count = 0;
    for (size_t j = e->group_first[group]; j < e->group_first[group + 1]; j++) {
        const size_t c = e->columns[j], at = mb_place_of(out, row, c);
        if (e->outlier[at])
            continue;
        const double square = (double)e->x[at] * (double)e->x[at];
        sum += (double)e->fitted[c] * square;
        weight += (double)e->fitted[c];
        plain += square;
        count++;
    }
    if (sum > 0)
        return (float)sqrt(sum / weight);
    return count > 0 ? (float)sqrt(plain / (double)count) : 0; /* no column was ever active */
}

void mb_begin_scales(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    out->scale_top = 0;
    for (size_t row = 0; row < out->n; row++)
        for (size_t g = 0; g < out->scale_groups; g++) {
            const float scale = rms(e, row, g);
            out->scales[row * out->scale_groups + g] = scale;
            out->scale_top = scale > out->scale_top ? scale : out->scale_top;
        }
    /* room for scales that turn out larger than the RMS */
    out->scale_top = out->scale_top < FLT_MAX / 2 ? 2 * out->scale_top : FLT_MAX;
    for (size_t i = 0; i < out->n * out->scale_groups; i++)
        mb_set_scale(out, i, mb_nearest_scale(out, out->scales[i]));
}

/* ---- refining ---- */

/* One group's weights with the levels that each may have. */
struct entry {
    float x, weight;
    const float *levels;
    size_t count;
};

struct job {
    struct mb_encoder *e;
    int reach;
};

static size_t collect(const struct mb_encoder *e, size_t row, size_t group, struct entry *entries)
{
    const struct mb_channelwise *out = e->out;
    const bool columns = out->options.axis == MB_CHANNELS_OF_INPUT;
    size_t count = 0;
    for (size_t j = e->group_first[group]; j < e->group_first[group + 1]; j++) {
        const size_t c = e->columns[j], channel = columns ? c : row, i = columns ? row : c;
        if (e->outlier[channel * out->length + i])
            continue;
        entries[count++] = (struct entry){e->x[channel * out->length + i], e->fitted[c],
                                          mb_levels_at(out, channel, i),
                                          (size_t)1 << out->widths[out->width[channel]]};
    }
    return count;
}

static double error_of(const struct entry *entries, size_t count, float scale)
{
    double error = 0;
    const float inverse = 1 / scale;
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = &entries[i];
        const float x = entry->x * inverse;
        const float off =
            scale * (x - entry->levels[mb_nearest_centroid(entry->levels, entry->count, x)]);
        error += (double)entry->weight * (double)off * (double)off;
    }
    return error;
}

/* A scale `step` sixteenths of an octave from what a group has. */
static int near(const struct mb_channelwise *out, size_t at, int step)
{
    if (out->options.scale_columns != MB_SCALE_OF_ROW)
        return out->scale_codes[at] + step;
    const int octaves = (step + OCTAVE * 4) / OCTAVE - 4;
    const float by = ldexpf(sixteenth[step - octaves * OCTAVE], octaves);
    return mb_half_within((double)(out->scales[at] * by));
}

struct best {
    double error;
    int code, step;
};

static void try_step(const struct mb_encoder *e, size_t at, const struct entry *entries,
                     size_t count, int step, struct best *best)
{
    const struct mb_channelwise *out = e->out;
    const bool of_row = out->options.scale_columns == MB_SCALE_OF_ROW;
    const int code = near(out, at, step);
    if (!of_row && (code < 1 || code > TOP_CODE))
        return;
    const float scale = value_of(out, code);
    if (!(scale > 0))
        return;
    const double error = error_of(entries, count, scale);
    if (error < best->error)
        *best = (struct best){error, code, step};
}

/* Every third step of the reach, then those beside the best. */
static void refine_group(const struct mb_encoder *e, size_t at, const struct entry *entries,
                         size_t count, int reach)
{
    struct best best = {INFINITY, e->out->scale_codes[at], 0};
    for (int step = -reach; step <= reach && e->out->scales[at] > 0; step += 3)
        try_step(e, at, entries, count, step, &best);
    const int middle = best.step;
    for (int step = middle - 2; step <= middle + 2 && e->out->scales[at] > 0; step++)
        if (step != middle)
            try_step(e, at, entries, count, step, &best);
    mb_set_scale(e->out, at, best.code);
}

static void refine_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const struct mb_encoder *e = job->e;
    const size_t groups = e->out->scale_groups;
    struct entry *entries = malloc(e->out->k * sizeof *entries);
    /* Without memory scales stay as they are, which is right, only not the best. */
    for (size_t row = first; entries != NULL && row < last; row++)
        for (size_t g = 0; g < groups; g++) {
            const size_t count = collect(e, row, g, entries);
            refine_group(e, row * groups + g, entries, count, job->reach);
        }
    free(entries);
}

void mb_refine_scales(struct mb_encoder *e, int reach)
{
    struct job job = {e, reach};
    mb_split(e->threads, e->out->n, 64 * e->out->n * e->out->k, refine_rows, &job);
}
