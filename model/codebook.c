/* SPDX-License-Identifier: Apache-2.0 */
/* Fitting one codebook: k-means by dynamic programming, or a fixed table times a step, whose step
 * is sought by least squares from several ways to clip. */
#include "model/codebook.h"

#include "kernels/half.h"
#include "kernels/kmeans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LEVELS = 1 << MB_MOST_CODE_BITS, LLOYD_ROUNDS = 50, CLIPS = 8 };

struct mb_codebook_room {
    struct mb_points points;
    void *scratch; /* of k-means */
};

struct mb_codebook_room *mb_codebook_room_create(unsigned bits)
{
    const size_t points = MB_CODEBOOK_POINTS;
    const unsigned most = bits < MB_MOST_CODE_BITS ? bits : MB_MOST_CODE_BITS - 1;
    struct mb_codebook_room *room = calloc(1, sizeof *room);
    if (room == NULL)
        return NULL;
    room->points.values = malloc(points * sizeof(float));
    room->points.weights = malloc(points * sizeof(float));
    room->points.sums = malloc(points * sizeof(double));
    room->points.sums_weight = malloc(points * sizeof(double));
    room->scratch = malloc(mb_kmeans_scratch(points, (size_t)1 << most));
    if (room->points.values && room->points.weights && room->points.sums &&
        room->points.sums_weight && room->scratch)
        return room;
    mb_codebook_room_free(room);
    return NULL;
}

void mb_codebook_room_free(struct mb_codebook_room *room)
{
    if (room == NULL)
        return;
    free(room->points.values);
    free(room->points.weights);
    free(room->points.sums);
    free(room->points.sums_weight);
    free(room->scratch);
    free(room);
}

void mb_codebook_begin(struct mb_codebook_room *room, size_t expected, double low, double high)
{
    struct mb_points *p = &room->points;
    p->count = 0;
    p->binned = expected > MB_CODEBOOK_POINTS && high > low ? MB_CODEBOOK_POINTS : 0;
    p->low = low;
    p->high = high;
    for (size_t i = 0; i < p->binned; i++)
        p->sums[i] = p->sums_weight[i] = 0;
}

void mb_codebook_add(struct mb_codebook_room *room, float value, float weight)
{
    struct mb_points *p = &room->points;
    if (p->binned > 0) {
        const double at = ((double)value - p->low) / (p->high - p->low) * (double)p->binned;
        const size_t bin = at >= (double)p->binned ? p->binned - 1 : at > 0 ? (size_t)at : 0;
        p->sums[bin] += (double)weight * (double)value;
        p->sums_weight[bin] += (double)weight;
    } else if (p->count < MB_CODEBOOK_POINTS) {
        p->values[p->count] = value;
        p->weights[p->count++] = weight;
    }
}

/* Bins become points at their means; the heaviest weighs 1, so that no sum leaves f32. */
static void finish(struct mb_points *p)
{
    double most = 0;
    for (size_t i = 0; i < p->binned; i++)
        most = p->sums_weight[i] > most ? p->sums_weight[i] : most;
    for (size_t i = 0; i < p->binned; i++)
        if (p->sums_weight[i] > 0) {
            p->values[p->count] = (float)(p->sums[i] / p->sums_weight[i]);
            p->weights[p->count++] = (float)(p->sums_weight[i] / most);
        }
}

/* ---- tables times a step ---- */

static void table_of(enum mb_code_kind kind, unsigned bits, float *table)
{
    const int levels = 1 << bits, half = levels / 2;
    for (int i = 0; i < levels; i++)
        table[i] = kind == MB_CODES_UNIFORM       ? (float)(i - half)
                   : kind == MB_CODES_UNIFORM_MIN ? (float)i
                   : i < half                     ? -ldexpf(1.0f, -i)
                                                  : ldexpf(1.0f, i + 1 - levels);
}

void mb_codebook_levels(enum mb_code_kind kind, unsigned bits, const uint16_t step[2],
                        float *levels)
{
    const size_t count = (size_t)1 << bits;
    const float d = mb_half_to_float(step[0]), low = mb_half_to_float(step[1]);
    float table[MOST_LEVELS];
    table_of(kind, bits, table);
    for (size_t i = 0; i < count; i++)
        levels[i] = d * table[d < 0 ? count - 1 - i : i] + low;
}

/* Weighted sums over the points with the codes that `levels` give. */
struct fit_sums {
    double w, wt, wtt, wx, wxt, error;
};

static struct fit_sums sum_up(const struct mb_points *p, const float *levels, const float *table,
                              size_t count, bool reversed)
{
    struct fit_sums s = {0};
    for (size_t i = 0; i < p->count; i++) {
        const size_t code = mb_nearest_centroid(levels, count, p->values[i]);
        const double w = (double)p->weights[i], x = (double)p->values[i];
        const double t = (double)table[reversed ? count - 1 - code : code];
        const double off = x - (double)levels[code];
        s.w += w;
        s.wt += w * t;
        s.wtt += w * t * t;
        s.wx += w * x;
        s.wxt += w * x * t;
        s.error += w * off * off;
    }
    return s;
}

/* From a first step: codes, least squares, codes again; keeps the best that was met. */
static void refine(const struct mb_points *p, enum mb_code_kind kind, unsigned bits, double d,
                   double low, uint16_t best[2], double *least)
{
    const size_t count = (size_t)1 << bits;
    float table[MOST_LEVELS], levels[MOST_LEVELS];
    table_of(kind, bits, table);
    for (int round = 0; round < 2; round++) {
        const uint16_t step[2] = {mb_half_within(d), mb_half_within(low)};
        mb_codebook_levels(kind, bits, step, levels);
        const struct fit_sums s = sum_up(p, levels, table, count, mb_half_to_float(step[0]) < 0);
        if (s.error < *least) {
            *least = s.error;
            memcpy(best, step, sizeof step);
        }
        const double with_low = s.w * s.wtt - s.wt * s.wt;
        if (kind == MB_CODES_UNIFORM_MIN && with_low > 0) {
            d = (s.w * s.wxt - s.wt * s.wx) / with_low;
            low = (s.wx - d * s.wt) / s.w;
        } else if (kind != MB_CODES_UNIFORM_MIN && s.wtt > 0) {
            d = s.wxt / s.wtt;
        } else {
            return;
        }
    }
}

static void fit_step(const struct mb_points *p, enum mb_code_kind kind, unsigned bits,
                     uint16_t step[2])
{
    double low = INFINITY, high = -INFINITY, least = INFINITY;
    for (size_t i = 0; i < p->count; i++) {
        low = (double)p->values[i] < low ? (double)p->values[i] : low;
        high = (double)p->values[i] > high ? (double)p->values[i] : high;
    }
    const double most = -low > high ? -low : high, half = (double)(1u << (bits - 1));
    for (int clip = 0; clip < CLIPS; clip++) {
        const double share = 1 - 0.08 * clip;
        if (kind == MB_CODES_UNIFORM_MIN) {
            const double middle = (low + high) / 2, reach = (high - low) / 2 * share;
            refine(p, kind, bits, 2 * reach / (2 * half - 1), middle - reach, step, &least);
        } else if (kind == MB_CODES_UNIFORM) {
            refine(p, kind, bits, most * share / half, 0, step, &least);
            refine(p, kind, bits, -most * share / half, 0, step, &least);
        } else {
            refine(p, kind, bits, most * share, 0, step, &least);
        }
    }
}

/* ---- k-means ---- */

/* Centroids as they are stored: f16, or int8 times an f16 scale. */
static void store_levels(bool bytes, size_t count, float *levels, uint16_t step[2])
{
    float most = 0;
    for (size_t i = 0; i < count; i++)
        most = fabsf(levels[i]) > most ? fabsf(levels[i]) : most;
    step[0] = bytes ? mb_half_within((double)most / 127) : 0;
    const float d = mb_half_to_float(step[0]);
    for (size_t i = 0; i < count; i++) {
        const float at = d > 0 ? rintf(levels[i] / d) : 0;
        levels[i] = bytes ? d * (at > 127    ? 127
                                 : at < -127 ? -127
                                             : at)
                          : mb_half_to_float(mb_half_within((double)levels[i]));
    }
}

enum mb_code_kind mb_code_kind_of(enum mb_code_kind kind, unsigned bits)
{
    const bool fitted = kind == MB_CODES_KMEANS || kind == MB_CODES_LLOYD;
    return fitted && bits == MB_MOST_CODE_BITS ? MB_CODES_UNIFORM_MIN : kind;
}

size_t mb_codebook_bits(enum mb_code_kind kind, bool byte_codebook, unsigned bits)
{
    switch (mb_code_kind_of(kind, bits)) {
    case MB_CODES_UNIFORM:
    case MB_CODES_LOG: return 16;
    case MB_CODES_UNIFORM_MIN: return 32;
    default: return byte_codebook ? 16 + ((size_t)8 << bits) : (size_t)16 << bits;
    }
}

enum mb_status mb_codebook_fit(struct mb_codebook_room *room, enum mb_code_kind kind,
                               bool byte_codebook, unsigned bits, float *levels, uint16_t step[2])
{
    const size_t count = (size_t)1 << bits;
    struct mb_points *p = &room->points;
    finish(p);
    step[0] = step[1] = 0;
    for (size_t i = 0; i < count; i++)
        levels[i] = 0;
    if (p->count == 0)
        return MB_OK;
    kind = mb_code_kind_of(kind, bits);
    if (kind != MB_CODES_KMEANS && kind != MB_CODES_LLOYD) {
        fit_step(p, kind, bits, step);
        mb_codebook_levels(kind, bits, step, levels);
        return MB_OK;
    }
    struct mb_clustering clustering = {count, levels, 0};
    const enum mb_status status =
        kind == MB_CODES_KMEANS
            ? mb_kmeans(p->values, p->weights, p->count, &clustering, 1, room->scratch)
            : mb_kmeans_lloyd(p->values, p->weights, p->count, LLOYD_ROUNDS, &clustering,
                              room->scratch);
    if (status == MB_OK)
        store_levels(byte_codebook, count, levels, step);
    return status;
}
