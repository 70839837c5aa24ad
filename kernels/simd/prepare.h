/* SPDX-License-Identifier: Apache-2.0 */
/* One row of f32 activations into its record: int8 codes, scales and sums, written once on the
 * verbs of an ISA.
 *
 * The rounding is kernel.h's to the bit: one multiply by the inverse, round to nearest even (what
 * is no number becomes 0). Sums per 16 come free with the codes. The last group may be short: it
 * goes through a padded copy, and whole padding groups are zero. */
#ifndef MIXBIT_KERNELS_SIMD_PREPARE_H
#define MIXBIT_KERNELS_SIMD_PREPARE_H

#include "kernels/kernel.h"

/* The largest magnitude of `count` values, which are a multiple of V_LANES. */
MB_INLINE float mb_largest(const float *x, size_t count)
{
    v_float max = v_zero_float();
    for (size_t i = 0; i < count; i += V_LANES)
        max = v_abs_max(v_load_float(x + i), max);
    return v_reduce_max(max);
}

MB_INLINE void mb_prepare_i8(const float *x, size_t k, void *row, const enum mb_activation type)
{
    const unsigned group = mb_activation_group(type);
    const struct mb_activation_layout at = mb_activation_layout(type, k);
    /* k is a multiple of 32, whatever the group. */
    const float row_amax = type == MB_ACTIVATION_I8ROW ? mb_largest(x, k) : 0;
    uint8_t *record = row;
    int8_t *code = row;
    float *scale = (void *)(record + at.scale), *scaled_sum = (void *)(record + at.scaled_sum);
    int16_t *sum32 = (void *)(record + at.sum32), *sum16 = (void *)(record + at.sum16);
    _Alignas(64) float padded[256];
    for (size_t at_k = 0; at_k < at.padded_k; at_k += group) {
        const float *group_x = x + at_k;
        if (at_k + group > k) {
            const size_t rest = k > at_k ? k - at_k : 0;
            memset(padded, 0, group * sizeof *padded);
            if (rest)
                memcpy(padded, group_x, rest * sizeof *padded);
            group_x = padded;
        }
        const float amax = type == MB_ACTIVATION_I8ROW ? row_amax : mb_largest(group_x, group);
        const float inverse = amax >= 0x1p-120f ? 127.0f / amax : 0;
        scale[at_k / group] = amax / 127.0f;
        for (unsigned i = 0; i < group; i += 32) {
            const size_t k0 = at_k + i;
            const int low = v_quantize16(group_x + i, inverse, code + k0);
            const int high = v_quantize16(group_x + i + 16, inverse, code + k0 + 16);
            sum16[k0 / 16] = (int16_t)low, sum16[k0 / 16 + 1] = (int16_t)high;
            sum32[k0 / 32] = (int16_t)(low + high);
            if (type == MB_ACTIVATION_I8G32)
                scaled_sum[k0 / 32] = scale[k0 / 32] * (float)(low + high);
        }
    }
}

/* Rounded to bf16, and a zero behind an odd row. */
MB_INLINE void mb_prepare_bf16(const float *x, size_t k, void *row)
{
    uint16_t *out = row;
    size_t i = 0;
    for (; i + V_LANES <= k; i += V_LANES)
        v_store_bf16(out + i, v_load_float(x + i));
    if (i == k)
        return;
    float rest[V_LANES] = {0};
    uint16_t rounded[V_LANES];
    memcpy(rest, x + i, (k - i) * sizeof *rest);
    v_store_bf16(rounded, v_load_float(rest));
    memcpy(out + i, rounded, (k - i + k % 2) * sizeof *rounded);
}

/* The body of every prepare_* kernel. */
MB_INLINE void mb_prepare(const float *x, size_t k, void *row, const enum mb_activation type)
{
    if (type == MB_ACTIVATION_F32) {
        memcpy(row, x, k * sizeof *x);
        if (k % 2)
            ((float *)row)[k] = 0;
    } else if (type == MB_ACTIVATION_BF16) {
        mb_prepare_bf16(x, k, row);
    } else {
        mb_prepare_i8(x, k, row, type);
    }
}

#endif
