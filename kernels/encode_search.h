/* SPDX-License-Identifier: Apache-2.0 */
/* What both encoders (encode_scale.c, encode_min.c) search with: a block brought to a common range,
 * the moments of an assignment of codes, and scales rounded to f16.
 *
 * The one idea: for fixed codes the error is a quadratic in scale and offset, and its coefficients
 * are a handful of sums. So a candidate costs one pass over the group, its best scale and its error
 * follow in closed form.
 *
 * Numbers are the same on every machine: products and sums are rounded one by one (no contraction,
 * f32 evaluation), and sums run in LANES fixed partial sums, which a compiler may vectorise but not
 * reorder. */
#ifndef MIXBIT_KERNELS_ENCODE_SEARCH_H
#define MIXBIT_KERNELS_ENCODE_SEARCH_H

#include "kernels/encode.h"
#include "kernels/half.h"

#include <assert.h>
#include <float.h>
#include <math.h>

static_assert(FLT_EVAL_METHOD == 0,
              "f32 arithmetic must be rounded to f32: the encoders' results depend on it");

/* Rounds of assignment and refit. One more of each lowers errors by some 0.1 % at most. */
enum { GROUP_REFITS = 2, SUPERBLOCK_PASSES = 2 };
enum { LANES = 8, BLOCK_MAX = 256 };

/* Below this, in a sample's unit, differences are invisible after any format's rounding; quotients
 * stay finite. */
#define NEGLIGIBLE 0x1p-60f

/* A block with its largest magnitude in [1, 2) and its importance 1 on average. */
struct sample {
    float x[BLOCK_MAX], w[BLOCK_MAX];
    float unit; /* a power of two: weight = x * unit */
};

static inline float sum_lanes(const float lane[LANES])
{
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static inline float clamp(float value, float low, float high)
{
    const float raised = value > low ? value : low;
    return raised < high ? raised : high;
}

/* To the nearest integer, ties to even; |value| < 2^22. Two additions vectorise on any ISA, rintf
 * does not. */
static inline float round_nearest(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

/* False when the block is zero for every format: all magnitudes below 2^-40, and f16 scales end at
 * 2^-24. */
static inline bool take_sample(const float *x, const float *importance, unsigned n,
                               struct sample *sample)
{
    float peak = 0.0f, heaviest = 0.0f;
    for (unsigned i = 0; i < n; i++) {
        peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
        if (importance)
            heaviest = importance[i] > heaviest ? importance[i] : heaviest;
    }
    if (peak < 0x1p-40f)
        return false;
    sample->unit = mb_float_from_bits(mb_float_bits(peak) & 0x7f800000u);
    float mean = 0.0f; /* relative to the heaviest, so that no sum overflows */
    for (unsigned i = 0; i < n; i++) {
        sample->x[i] =
            x[i] / sample->unit; /* exact; the inverse of 2^127 would not be a normal number */
        sample->w[i] = heaviest > 0.0f ? importance[i] / heaviest : 1.0f;
        mean += sample->w[i];
    }
    /* Columns that were never active still get a code near their value: a floor too small to cost
     * the others. */
    const float to_mean = (float)n / mean;
    for (unsigned i = 0; i < n; i++)
        sample->w[i] = sample->w[i] * to_mean + 1e-6f;
    return true;
}

/* Round a scale to the f16 that is stored; returns what a reader will see, in the sample's unit. */
static inline float store_scale(float scale, float unit, uint16_t *half)
{
    *half = mb_half_within((double)(scale * unit));
    return mb_half_to_float(*half) / unit;
}

/* The factor d >= 0 or < 0 and integers in [low, high] that bring d * integer nearest to the
 * values, by weight: tries factors that map the largest value to the end of the range and around
 * it, each with its least squares refit. */
static inline float fit_factor(const float *value, const float *weight, unsigned n, int low,
                               int high)
{
    float peak = 0.0f;
    for (unsigned i = 0; i < n; i++)
        peak = fabsf(value[i]) > peak ? fabsf(value[i]) : peak;
    if (peak == 0.0f)
        return 0.0f;
    float best = 0.0f, factor = 0.0f;
    for (int sign = low < 0 ? -1 : 1; sign <= 1; sign += 2)
        for (int step = -8; step <= 8; step++) {
            const float end = sign < 0 ? (float)-low : (float)high;
            const float inverse = (float)sign * (end + 0.1f * (float)step) / peak;
            float vl = 0.0f, ll = 0.0f;
            for (unsigned i = 0; i < n; i++) {
                const float l = round_nearest(clamp(value[i] * inverse, (float)low, (float)high));
                vl += weight[i] * value[i] * l;
                ll += weight[i] * l * l;
            }
            if (vl * vl > best * ll) {
                best = vl * vl / ll;
                factor = vl / ll;
            }
        }
    return factor;
}

#endif
