/* SPDX-License-Identifier: Apache-2.0 */
/* What the loop bodies of gemm (gemm.h) and gemv (gemv.h) have in common. They are written once on
 * the verbs of an ISA. Rows, registers of columns, coding, scale kind and largest code are
 * constants wherever these are called, so every branch on them folds.
 *
 * Both compute, group by group in ascending k (the canonical numbers of kernel.h):
 *
 *   dot[row][register]  starts from the bias sum, a broadcast; then one dot instruction per quad:
 *                       codes in a register, four activations broadcast from memory
 *   one-level           f = fma(float(dot), d * as, f), then f = fma(min, ss, f)
 *   nested              s = fma(float(dot), d, s); once per 256 weights f = fma(s, as, f)
 *   two-level           s = fma(float(dot), sc, s); once per super-block f = fma(s, d * as, f), and
 *                       the minima as int16 pairs times activation sums, one per two groups; finer
 *                       activations: sc * as per group and d per super-block, minima as floats
 *   bf16 pairs          one dot of pairs where there is an instruction, else two fma with
 *                       subnormals off
 *
 * Registers, gemm 6 x 2 on AVX-512: 12 dots, 12 f (or s), 2 codes, 1 activation, 2 scales of 32. In
 * two-level kinds f would be 12 more: it stays in y and is touched once per super-block. 3 x 2 on
 * AVX2: 6 dots, 6 f (or s), 2 codes, activation and product, all 16. Floats have no dots: 12 x 2
 * and 6 x 2. ARM's plan is in kernels/arm/<level>.c.
 *
 * Limits, per 16 columns, row and group of 32, in slots of the dot and fma ports: 8 dots, a
 * multiplication and an fma (80 % of the peak), a minimum one more (73 %); two-level 8 + 1 (89 %),
 * groups of 16 8 + 2 (80 %). */
#ifndef MIXBIT_KERNELS_SIMD_MATMUL_H
#define MIXBIT_KERNELS_SIMD_MATMUL_H

#include "kernels/simd/decode.h"

/* Of every kernel made from these bodies: raise it when a change moves their speed. */
enum { MB_BODY_REVISION = 4 };

/* The largest tiles; arrays of this size live in registers, as far as a tile uses them. */
enum { MB_TILE_ROWS = 12, MB_TILE_REGISTERS = 8 };
typedef v_int mb_tile_int[MB_TILE_ROWS][MB_TILE_REGISTERS];
typedef v_partial mb_tile_partial[MB_TILE_ROWS][MB_TILE_REGISTERS];
typedef v_float mb_tile_float[MB_TILE_ROWS][MB_TILE_REGISTERS];

/* One activation row, at the first k of the run. */
struct mb_row {
    const uint8_t *code;
    const float *x; /* f32 activations */
    const float *scale, *scaled_sum;
    const int16_t *sum; /* per group */
    const int32_t *bias;
};

MB_INLINE struct mb_row mb_row_at(const uint8_t *records, const struct mb_activation_layout *layout,
                                  const int32_t *bias_sum, size_t bias_stride, size_t r, size_t k0,
                                  const enum mb_scale_kind scale, const enum mb_activation type)
{
    const uint8_t *record = records + r * layout->row_bytes;
    const unsigned group = mb_scale_group(scale), as_group = mb_activation_group(type);
    const size_t sum = group == 16 ? layout->sum16 : layout->sum32;
    return (struct mb_row){
        .code = record + (type == MB_ACTIVATION_BF16 ? 2 * k0 : k0),
        .x = (const float *)(const void *)record + k0,
        .scale = (const float *)(const void *)(record + layout->scale) +
                 (as_group > 0 ? k0 / as_group : 0),
        .scaled_sum = (const float *)(const void *)(record + layout->scaled_sum) + k0 / 32,
        .sum = (const int16_t *)(const void *)(record + sum) + k0 / group,
        .bias = bias_sum ? bias_sum + r * bias_stride + k0 / group : NULL,
    };
}

/* Whether two-level sums take the scales of activations group by group. */
MB_INLINE bool mb_is_finer(const enum mb_scale_kind scale, const enum mb_activation type)
{
    return mb_scale_two_level(scale) && mb_activation_group(type) < 256;
}

/* Continues f with two k: a register of bf16 pairs of weights and one of activations. Without a dot
 * of pairs there are two steps, and the upper half, the second k, comes first. */
#if V_PAIR_DOT
enum { MB_PAIR_STEPS = 1 };
#else
enum { MB_PAIR_STEPS = 2 };
#endif
MB_INLINE v_float mb_pair_step(v_float f, v_code w, v_code x, const unsigned step)
{
#if V_PAIR_DOT
    return (void)step, v_dot_pair(f, w, x);
#else
    return step == 0 ? v_fma(v_pair_high(w), v_pair_high(x), f)
                     : v_fma(v_pair_low(w), v_pair_low(x), f);
#endif
}

/* Around a body: subnormals are zero for bf16 pairs, as they are for the dot of pairs. */
MB_INLINE unsigned mb_enter(const enum mb_activation type)
{
    return type == MB_ACTIVATION_BF16 && !V_PAIR_DOT ? v_flush_subnormals() : 0;
}
MB_INLINE void mb_leave(const enum mb_activation type, unsigned before)
{
    if (type == MB_ACTIVATION_BF16 && !V_PAIR_DOT)
        v_restore_subnormals(before);
}

MB_INLINE bool mb_has_bias(const enum mb_scale_kind scale, const unsigned max_code)
{
    return !mb_scale_has_min(scale) && !mb_is_signed(max_code);
}

#endif
