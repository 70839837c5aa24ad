/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's K-quants: super-blocks of 256 weights in groups of 16 or 32, integer sub-scales per group,
 * f16 scales above.
 *
 *   q2_K   0: scales u8[16] | 16: pairs[64] | 80: d f16 | 82: dmin f16
 *          w = (d * sc) * code - (dmin * m), groups of 16; scales[g]: bits 0-3 sc, bits 4-7 m
 *   q3_K   0: high[32] | 32: pairs[64] | 96: scales[12] | 108: d f16
 *          w = (d * sc) * (code - 4), groups of 16; sc is 6 bits, stored plus 32
 *   q4_K   0: d f16 | 2: dmin f16 | 4: scales[12] | 16: nibbles[128]
 *          w = (d * sc) * code - (dmin * m), groups of 32; sc, m are 6 bits
 *   q5_K   0: d f16 | 2: dmin f16 | 4: scales[12] | 16: high[32] | 48: nibbles[128]
 *          w as q4_K, with a fifth bit in the codes
 *   q6_K   0: nibbles[128] | 128: pairs[64] | 192: scales i8[16] | 208: d f16
 *          w = (d * sc) * (code - 32), groups of 16
 *
 * Codes. Bits of several runs of weights lie on top of each other, weight l of every run in byte l:
 *   pairs[32 * h + l]         bits 2r .. 2r + 1: weight 128 * h + 32 * r + l
 *                             (bits 0-1 of its code; q6_K: bits 4-5)
 *   nibbles[32 * c + l]       bits 0-3: weight 64 * c + l, bits 4-7: weight 64 * c + 32 + l, l < 32
 *   q6_K: nibbles[64 * h + l] bits 0-3: weight 128 * h + l, bits 4-7: 128 * h + 64 + l, l < 64
 *   high[l]                   bit r: top bit of weight 32 * r + l (q3_K: bit 2, q5_K: bit 4)
 *
 * Six-bit sub-scales in 12 bytes:
 *   q3_K         group g < 8: low nibble in bits 0-3 of byte g, group g + 8 in bits 4-7 of byte g;
 *                high pair of any group g: from bit 2 * (g / 4) of byte 8 + g % 4
 *   q4_K, q5_K   groups 0-3: sc in bits 0-5 of byte g, m in bits 0-5 of byte g + 4;
 *                groups 4-7: low nibble of sc in bits 0-3 of byte g + 4, of m in bits 4-7;
 *                high pair of sc in bits 6-7 of byte g - 4, of m in bits 6-7 of byte g */
#include "kernels/bitfields.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"

static void split_high(const uint8_t high[32], unsigned bit, uint8_t code[256])
{
    for (unsigned r = 0; r < 8; r++)
        for (unsigned l = 0; l < 32; l++)
            code[32 * r + l] |= (uint8_t)((high[l] >> r & 1) << bit);
}

static void join_high(const uint8_t code[256], unsigned bit, uint8_t high[32])
{
    for (unsigned l = 0; l < 32; l++) {
        unsigned bits = 0;
        for (unsigned r = 0; r < 8; r++)
            bits |= (code[32 * r + l] >> bit & 1u) << r;
        high[l] = (uint8_t)bits;
    }
}

/* The 12 bytes of q4_K and q5_K. */
static void split_six_bit_scales(const uint8_t scales[12], struct mb_block_fields *fields)
{
    for (unsigned g = 0; g < 4; g++) {
        fields->sub_scale[g] = scales[g] & 63;
        fields->sub_min[g] = scales[g + 4] & 63;
        fields->sub_scale[g + 4] = (int16_t)((scales[g + 8] & 15) | scales[g] >> 6 << 4);
        fields->sub_min[g + 4] = (int16_t)(scales[g + 8] >> 4 | scales[g + 4] >> 6 << 4);
    }
}

static void join_six_bit_scales(const struct mb_block_fields *fields, uint8_t scales[12])
{
    for (unsigned g = 0; g < 4; g++) {
        scales[g] = (uint8_t)(fields->sub_scale[g] | fields->sub_scale[g + 4] >> 4 << 6);
        scales[g + 4] = (uint8_t)(fields->sub_min[g] | fields->sub_min[g + 4] >> 4 << 6);
        scales[g + 8] =
            (uint8_t)((fields->sub_scale[g + 4] & 15) | (fields->sub_min[g + 4] & 15) << 4);
    }
}

static void q2_K_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q2_K *block = src;
    memset(fields->code, 0, sizeof fields->code);
    mb_split_pairs(block->pairs, 0, fields->code);
    for (unsigned g = 0; g < 16; g++) {
        fields->sub_scale[g] = block->scales[g] & 15;
        fields->sub_min[g] = block->scales[g] >> 4;
    }
    fields->d = mb_load_u16(block->d);
    fields->dmin = mb_load_u16(block->dmin);
}

static void q2_K_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q2_K *block = dst;
    mb_join_pairs(fields->code, 0, block->pairs);
    for (unsigned g = 0; g < 16; g++)
        block->scales[g] = (uint8_t)(fields->sub_scale[g] | fields->sub_min[g] << 4);
    mb_store_u16(block->d, fields->d);
    mb_store_u16(block->dmin, fields->dmin);
}

static void q3_K_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q3_K *block = src;
    memset(fields->code, 0, sizeof fields->code);
    mb_split_pairs(block->pairs, 0, fields->code);
    split_high(block->high, 2, fields->code);
    for (unsigned g = 0; g < 16; g++) {
        const unsigned low = block->scales[g % 8] >> g / 8 * 4 & 15;
        const unsigned high = block->scales[8 + g % 4] >> g / 4 * 2 & 3;
        fields->sub_scale[g] = (int16_t)((int)(low | high << 4) - 32);
    }
    fields->d = mb_load_u16(block->d);
}

static void q3_K_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q3_K *block = dst;
    mb_join_pairs(fields->code, 0, block->pairs);
    join_high(fields->code, 2, block->high);
    memset(block->scales, 0, sizeof block->scales);
    for (unsigned g = 0; g < 16; g++) {
        const unsigned stored = (unsigned)(fields->sub_scale[g] + 32);
        block->scales[g % 8] |= (uint8_t)((stored & 15) << g / 8 * 4);
        block->scales[8 + g % 4] |= (uint8_t)(stored >> 4 << g / 4 * 2);
    }
    mb_store_u16(block->d, fields->d);
}

static void q4_K_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q4_K *block = src;
    mb_split_nibbles(block->nibbles, 128, 32, fields->code);
    split_six_bit_scales(block->scales, fields);
    fields->d = mb_load_u16(block->d);
    fields->dmin = mb_load_u16(block->dmin);
}

static void q4_K_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q4_K *block = dst;
    mb_join_nibbles(fields->code, 128, 32, block->nibbles);
    join_six_bit_scales(fields, block->scales);
    mb_store_u16(block->d, fields->d);
    mb_store_u16(block->dmin, fields->dmin);
}

static void q5_K_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q5_K *block = src;
    mb_split_nibbles(block->nibbles, 128, 32, fields->code);
    split_high(block->high, 4, fields->code);
    split_six_bit_scales(block->scales, fields);
    fields->d = mb_load_u16(block->d);
    fields->dmin = mb_load_u16(block->dmin);
}

static void q5_K_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q5_K *block = dst;
    mb_join_nibbles(fields->code, 128, 32, block->nibbles);
    join_high(fields->code, 4, block->high);
    join_six_bit_scales(fields, block->scales);
    mb_store_u16(block->d, fields->d);
    mb_store_u16(block->dmin, fields->dmin);
}

static void q6_K_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q6_K *block = src;
    mb_split_nibbles(block->nibbles, 128, 64, fields->code);
    mb_split_pairs(block->pairs, 4, fields->code);
    for (unsigned g = 0; g < 16; g++)
        fields->sub_scale[g] = (int8_t)block->scales[g];
    fields->d = mb_load_u16(block->d);
}

static void q6_K_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q6_K *block = dst;
    mb_join_nibbles(fields->code, 128, 64, block->nibbles);
    mb_join_pairs(fields->code, 4, block->pairs);
    for (unsigned g = 0; g < 16; g++)
        block->scales[g] = (uint8_t)fields->sub_scale[g];
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(q2_K, 256, MB_CODING_B2, MB_SCALE_G16X2MIN)
MB_DEFINE_DEQUANTIZE_ROW(q3_K, 256, MB_CODING_B3, MB_SCALE_G16X2S6)
MB_DEFINE_DEQUANTIZE_ROW(q4_K, 256, MB_CODING_B4, MB_SCALE_G32X2MIN)
MB_DEFINE_DEQUANTIZE_ROW(q5_K, 256, MB_CODING_B5, MB_SCALE_G32X2MIN)
MB_DEFINE_DEQUANTIZE_ROW(q6_K, 256, MB_CODING_B6, MB_SCALE_G16X2)

const struct mb_format_ops mb_ops_Q2_K = {q2_K_dequantize_row, NULL, MB_SEARCH_MIN_X2(3, 16, 15),
                                          q2_K_split, q2_K_join};
const struct mb_format_ops mb_ops_Q3_K = {q3_K_dequantize_row, NULL,
                                          MB_SEARCH_SCALE_X2(16, 32, MB_LEVELS_INTEGER(-4, 3)),
                                          q3_K_split, q3_K_join};
const struct mb_format_ops mb_ops_Q4_K = {q4_K_dequantize_row, NULL, MB_SEARCH_MIN_X2(15, 32, 63),
                                          q4_K_split, q4_K_join};
const struct mb_format_ops mb_ops_Q5_K = {q5_K_dequantize_row, NULL, MB_SEARCH_MIN_X2(31, 32, 63),
                                          q5_K_split, q5_K_join};
const struct mb_format_ops mb_ops_Q6_K = {q6_K_dequantize_row, NULL,
                                          MB_SEARCH_SCALE_X2(16, 128, MB_LEVELS_INTEGER(-32, 31)),
                                          q6_K_split, q6_K_join};
