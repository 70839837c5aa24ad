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
 *   two-level           s = fma(float(dot), sc, s); once per super-block f = fma(s, d * as, f), and
 *                       the minima as int16 pairs times activation sums, one per two groups
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
enum { MB_BODY_REVISION = 3 };

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
                                  const enum mb_scale_kind scale)
{
    const uint8_t *record = records + r * layout->row_bytes;
    const unsigned group = mb_scale_group(scale);
    const size_t sum = group == 16 ? layout->sum16 : layout->sum32;
    return (struct mb_row){
        .code = record + k0,
        .x = (const float *)(const void *)record + k0,
        .scale = (const float *)(const void *)(record + layout->scale) +
                 k0 / mb_scale_activation_group(scale),
        .scaled_sum = (const float *)(const void *)(record + layout->scaled_sum) + k0 / 32,
        .sum = (const int16_t *)(const void *)(record + sum) + k0 / group,
        .bias = bias_sum ? bias_sum + r * bias_stride + k0 / group : NULL,
    };
}

MB_INLINE bool mb_has_bias(const enum mb_scale_kind scale, const unsigned max_code)
{
    return !mb_scale_has_min(scale) && !mb_is_signed(max_code);
}

#endif
