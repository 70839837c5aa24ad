/* SPDX-License-Identifier: Apache-2.0 */
/* What all encoders search in: blocks side by side, one per lane, each brought to a common range;
 * and scales rounded to f16.
 *
 * The one idea: for fixed codes the error is a quadratic in scale and offset, and its coefficients
 * are a handful of sums. So a candidate costs one pass over the group, its best scale and its error
 * follow in closed form - for all lanes at once, with nothing added across them.
 *
 * Numbers are the same on every machine and every ISA level: products and sums are rounded one by
 * one (no contraction, f32 evaluation), in one order. A sum over a group is made of 8 partial sums,
 * weight i in sum i % 8, as files of earlier versions were made. Its first term is not added to
 * zero, which could change the sign of a zero and nothing else; no search asks for that. */
#ifndef MIXBIT_KERNELS_SIMD_SAMPLES_H
#define MIXBIT_KERNELS_SIMD_SAMPLES_H

#include "kernels/encode.h"
#include "kernels/half.h"
#include "kernels/simd/lanes.h"

#include <assert.h>
#include <float.h>
#include <math.h>

static_assert(FLT_EVAL_METHOD == 0,
              "f32 arithmetic must be rounded to f32: the encoders' results depend on it");

/* Rounds of assignment and refit. One more of each lowers errors by some 0.1 % at most. */
enum { GROUP_REFITS = 2, SUPERBLOCK_PASSES = 2 };
enum { BLOCK_MAX = 256, GROUPS_MAX = 16 };

/* Below this, in a sample's unit, differences are invisible after any format's rounding; quotients
 * stay finite. */
#define NEGLIGIBLE 0x1p-60f
/* A block whose magnitudes are all below this is zero for every format: f16 scales end at 2^-24. */
#define FAINT 0x1p-40f

typedef float f_line[F_LANES];

/* Blocks with their largest magnitude in [1, 2) and their importance 1 on average: those that are
 * zero for every format are zero, and so are lanes without a block. */
struct samples {
    _Alignas(sizeof(f_lanes)) f_line x[BLOCK_MAX];
    f_line w[BLOCK_MAX], unit; /* powers of two: weight = x * unit */
};

/* The blocks of one call, as they came. */
struct sources {
    const float *x[F_LANES], *importance[F_LANES]; /* NULL: none */
    unsigned count, n;                             /* blocks, at least one; weights of each */
};

/* What becomes of them: lines of codes and, where there are any, scales. */
struct encoded {
    uint8_t code[BLOCK_MAX][F_LANES];
    int32_t sub_scale[GROUPS_MAX][F_LANES], sub_min[GROUPS_MAX][F_LANES];
    uint16_t d[F_LANES], dmin[F_LANES];
};

/* Combined in this order, whatever there is one of per partial sum. */
#define SUM_PARTIALS(P) (((P(0) + P(4)) + (P(2) + P(6))) + ((P(1) + P(5)) + (P(3) + P(7))))

MB_LANE_INLINE void interleave(const float *const *source, unsigned count, unsigned n, f_line *to)
{
    if (count < F_LANES)
        memset(to, 0, n * sizeof *to);
    for (unsigned lane = 0; lane < count; lane++)
        for (unsigned i = 0; i < n; i++)
            to[i][lane] = source[lane][i];
}

/* Importance: columns that were never active still get a code near their value, by a floor too
 * small to cost the others. */
MB_LANE_INLINE void take_importance(const struct sources *from, struct samples *s)
{
    const unsigned n = from->n;
    if (from->importance[0] == NULL) {
        for (unsigned i = 0; i < n; i++)
            f_store(s->w[i], f_all(1.0f + 1e-6f));
        return;
    }
    const f_lanes zero = {0}, one = f_all(1.0f);
    f_lanes heaviest = zero, mean = zero; /* relative to the heaviest, so that no sum overflows */
    interleave(from->importance, from->count, n, s->w);
    for (unsigned i = 0; i < n; i++)
        heaviest = f_max(f_load(s->w[i]), heaviest);
    const f_mask some = f_less(zero, heaviest);
    for (unsigned i = 0; i < n; i++) {
        const f_lanes w = f_choose(some, f_load(s->w[i]) / heaviest, one);
        f_store(s->w[i], w);
        mean += w;
    }
    const f_lanes to_mean = (float)n / mean;
    for (unsigned i = 0; i < n; i++)
        f_store(s->w[i], f_load(s->w[i]) * to_mean + 1e-6f);
}

/* Division by the unit is exact; the inverse of 2^127 would not be a normal number. */
MB_LANE_INLINE void take_samples(const struct sources *from, struct samples *s)
{
    f_lanes peak = {0};
    interleave(from->x, from->count, from->n, s->x);
    for (unsigned i = 0; i < from->n; i++)
        peak = f_max(f_abs(f_load(s->x[i])), peak);
    f_store(s->unit, peak);
    for (unsigned lane = 0; lane < F_LANES; lane++)
        s->unit[lane] = mb_float_from_bits(mb_float_bits(s->unit[lane]) & 0x7f800000u);
    const f_mask faint = f_less(peak, f_all(FAINT));
    const f_lanes unit = f_choose(faint, f_all(1.0f), f_load(s->unit));
    f_store(s->unit, unit);
    for (unsigned i = 0; i < from->n; i++)
        f_store(s->x[i], f_choose(faint, (f_lanes){0}, f_load(s->x[i]) / unit));
    take_importance(from, s);
}

/* Round scales to the f16 that are stored; returns what a reader will see, in the samples' units.
 */
MB_LANE_INLINE f_lanes store_scales(f_lanes scale, const struct samples *s, uint16_t *half)
{
    f_line value;
    f_store(value, scale * f_load(s->unit));
    for (unsigned lane = 0; lane < F_LANES; lane++) {
        half[lane] = mb_half_within((double)value[lane]);
        value[lane] = mb_half_to_float(half[lane]);
    }
    return f_load(value) / f_load(s->unit);
}

/* The factor d >= 0 or < 0 and integers in [low, high] that bring d * integer nearest to the
 * values, by weight: tries factors that map the largest value to the end of the range and around
 * it, each with its least squares refit. */
static f_lanes fit_factor(f_line *value, f_line *weight, unsigned n, int low, int high)
{
    const f_lanes zero = {0}, least = f_all((float)low), most = f_all((float)high);
    f_lanes peak = zero, best = zero, factor = zero;
    for (unsigned i = 0; i < n; i++)
        peak = f_max(f_abs(f_load(value[i])), peak);
    for (int sign = low < 0 ? -1 : 1; sign <= 1; sign += 2)
        for (int step = -8; step <= 8; step++) {
            const float end = sign < 0 ? (float)-low : (float)high;
            const f_lanes inverse = (float)sign * (end + 0.1f * (float)step) / peak;
            f_lanes vl = zero, ll = zero;
            for (unsigned i = 0; i < n; i++) {
                const f_lanes v = f_load(value[i]), w = f_load(weight[i]);
                const f_lanes l = f_round(f_clamp(v * inverse, least, most));
                vl += w * v * l;
                ll += w * l * l;
            }
            const f_mask better = f_less(best * ll, vl * vl);
            best = f_choose(better, vl * vl / ll, best);
            factor = f_choose(better, vl / ll, factor);
        }
    return f_choose(f_less(zero, peak), factor, zero);
}

/* As integers. */
MB_LANE_INLINE void store_integers(f_lanes v, int32_t to[F_LANES])
{
    f_line value;
    f_store(value, v);
    for (unsigned lane = 0; lane < F_LANES; lane++)
        to[lane] = (int32_t)value[lane];
}

#endif
