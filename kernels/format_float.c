/* SPDX-License-Identifier: Apache-2.0 */
/* f32, f16 and bf16 rows, little-endian as GGUF stores them. Non-finite values are kept; importance
 * means nothing here, since rounding to nearest is already the least error for every weight. */
#include "kernels/blocks.h"
#include "kernels/half.h"
#include "kernels/format.h"

static void f32_dequantize_row(const void *src, float *dst, size_t k)
{
    const uint8_t *bytes = src;
    for (size_t i = 0; i < k; i++, bytes += 4)
        dst[i] = mb_float_from_bits(mb_load_u16(bytes) | (uint32_t)mb_load_u16(bytes + 2) << 16);
}

static void f32_quantize_row(const float *src, void *dst, size_t k)
{
    uint8_t *bytes = dst;
    for (size_t i = 0; i < k; i++, bytes += 4) {
        const uint32_t bits = mb_float_bits(src[i]);
        mb_store_u16(bytes, (uint16_t)bits);
        mb_store_u16(bytes + 2, (uint16_t)(bits >> 16));
    }
}

static void f16_dequantize_row(const void *src, float *dst, size_t k)
{
    const uint8_t *bytes = src;
    size_t i = 0;
    for (; i + 16 <= k; i += 16) /* a fixed count, which compilers vectorise at any level */
        for (size_t j = i; j < i + 16; j++)
            dst[j] = mb_half_to_float(mb_load_u16(bytes + 2 * j));
    for (; i < k; i++)
        dst[i] = mb_half_to_float(mb_load_u16(bytes + 2 * i));
}

static void f16_quantize_row(const float *src, void *dst, size_t k)
{
    uint8_t *bytes = dst;
    for (size_t i = 0; i < k; i++)
        mb_store_u16(bytes + 2 * i, mb_half_from_float(src[i]));
}

static void bf16_dequantize_row(const void *src, float *dst, size_t k)
{
    const uint8_t *bytes = src;
    for (size_t i = 0; i < k; i++)
        dst[i] = mb_bf16_to_float(mb_load_u16(bytes + 2 * i));
}

static void bf16_quantize_row(const float *src, void *dst, size_t k)
{
    uint8_t *bytes = dst;
    for (size_t i = 0; i < k; i++)
        mb_store_u16(bytes + 2 * i, mb_bf16_from_float(src[i]));
}

const struct mb_format_ops mb_ops_F32 = {f32_dequantize_row, f32_quantize_row, NULL, NULL, NULL};
const struct mb_format_ops mb_ops_F16 = {f16_dequantize_row, f16_quantize_row, NULL, NULL, NULL};
const struct mb_format_ops mb_ops_BF16 = {bf16_dequantize_row, bf16_quantize_row, NULL, NULL, NULL};
