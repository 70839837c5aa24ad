/* SPDX-License-Identifier: Apache-2.0 */
/* f16, bf16 and the scales of one byte to and from f32 in integer arithmetic: the same bits on
 * every machine, whatever its conversion instructions, rounding mode for subnormals or
 * flush-to-zero setting. Rounding is to nearest even. */
#ifndef MIXBIT_KERNELS_HALF_H
#define MIXBIT_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t mb_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float mb_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Signalling NaNs become quiet, as the conversion instructions make them. All three cases are
 * computed and selected by masks: without control flow, rows of halves convert four at a time. */
static inline float mb_half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t normal = (magnitude << 13) + (112u << 23); /* the bias grows from 15 to 127 */
    const uint32_t subnormal = mb_float_bits((float)(int32_t)magnitude * 0x1p-24f);
    const uint32_t is_subnormal = 0u - (magnitude < 0x400u);
    const uint32_t is_special = 0u - (magnitude >= 0x7c00u), is_nan = 0u - (magnitude > 0x7c00u);
    return mb_float_from_bits(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal) |
                              (0x7f800000u & is_special) | (0x400000u & is_nan));
}

/* Beyond the range gives infinity; any NaN gives the quiet NaN of its sign. */
static inline uint16_t mb_half_from_float(float value)
{
    const uint32_t bits = mb_float_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x47800000u) /* 65536 and above */
        return sign | 0x7c00u;
    /* 2^-14 and above: f16 normal; a carry moves into the exponent, up to infinity. */
    if (magnitude >= 0x38800000u)
        return sign | (uint16_t)((magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13);
    /* Subnormal: adding 0.5 rounds to multiples of 2^-24, the last place of f32 numbers in [0.5,
     * 1). */
    const float shifted = mb_float_from_bits(magnitude) + 0.5f;
    return sign | (uint16_t)(mb_float_bits(shifted) - 0x3f000000u);
}

/* Scales of one byte, halved as ggml halves them: its codes for them are doubled E2M1 values.
 *
 * E8M0: 2^(e - 128). 255, NaN by the definition of MX, is 2^127 like any other exponent. */
static inline float mb_e8m0_to_float(uint8_t e)
{
    return mb_float_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* UE4M3: 4 bits of exponent with a bias of 7, 3 of mantissa; 127 is 0 and the top bit has no
 * meaning. Read as the bits of an f16 it is too small by 2^8. */
static inline float mb_ue4m3_to_float(uint8_t byte)
{
    return byte == 0x7f ? 0.0f : mb_half_to_float((uint16_t)((byte & 0x7f) << 7)) * 128.0f;
}

static inline float mb_bf16_to_float(uint16_t value)
{
    return mb_float_from_bits((uint32_t)value << 16);
}

static inline uint16_t mb_bf16_from_float(float value)
{
    const uint32_t bits = mb_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 |
                          0x40u); /* quiet, so that a payload in the low half stays a NaN */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* To the nearest f16, cut to its range. */
static inline uint16_t mb_half_within(double value)
{
    return mb_half_from_float((float)(value > 65504 ? 65504 : value < -65504 ? -65504 : value));
}

#endif
