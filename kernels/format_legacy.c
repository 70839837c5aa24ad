/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's one-level formats: blocks of 32 weights with an f16 scale of their own.
 *
 *   q4_0   0: d f16 | 2: nibbles[16]                               w = d * (code - 8)
 *   q4_1   0: d f16 | 2: min f16 | 4: nibbles[16]                  w = d * code + min
 *   q5_0   0: d f16 | 2: high u32 | 6: nibbles[16]                 w = d * (code - 16)
 *   q5_1   0: d f16 | 2: min f16 | 4: high u32 | 8: nibbles[16]    w = d * code + min
 *   q8_0   0: d f16 | 2: codes i8[32]                              w = d * code
 *
 * nibbles[j]: bits 0-3 are weight j, bits 4-7 weight j + 16. high: bit j is bit 4 of weight j's
 * code. q8_0's codes are signed in the file and unsigned, plus 128, in the fields. */
#include "kernels/bitfields.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"

static void split_high_bits(const uint8_t high[4], uint8_t code[32])
{
    for (unsigned j = 0; j < 32; j++)
        code[j] |= (uint8_t)((high[j / 8] >> j % 8 & 1) << 4);
}

static void join_high_bits(const uint8_t code[32], uint8_t high[4])
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned bits = 0;
        for (unsigned j = 0; j < 8; j++)
            bits |= (unsigned)(code[8 * i + j] >> 4 & 1) << j;
        high[i] = (uint8_t)bits;
    }
}

static void q4_0_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q4_0 *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    fields->d = mb_load_u16(block->d);
}

static void q4_0_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q4_0 *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    mb_store_u16(block->d, fields->d);
}

static void q4_1_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q4_1 *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    fields->d = mb_load_u16(block->d);
    fields->dmin = mb_load_u16(block->min);
}

static void q4_1_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q4_1 *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    mb_store_u16(block->d, fields->d);
    mb_store_u16(block->min, fields->dmin);
}

static void q5_0_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q5_0 *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    split_high_bits(block->high, fields->code);
    fields->d = mb_load_u16(block->d);
}

static void q5_0_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q5_0 *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    join_high_bits(fields->code, block->high);
    mb_store_u16(block->d, fields->d);
}

static void q5_1_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q5_1 *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    split_high_bits(block->high, fields->code);
    fields->d = mb_load_u16(block->d);
    fields->dmin = mb_load_u16(block->min);
}

static void q5_1_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q5_1 *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    join_high_bits(fields->code, block->high);
    mb_store_u16(block->d, fields->d);
    mb_store_u16(block->min, fields->dmin);
}

static void q8_0_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_q8_0 *block = src;
    for (unsigned j = 0; j < 32; j++)
        fields->code[j] = block->codes[j] ^ 0x80;
    fields->d = mb_load_u16(block->d);
}

static void q8_0_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_q8_0 *block = dst;
    for (unsigned j = 0; j < 32; j++)
        block->codes[j] = fields->code[j] ^ 0x80;
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(q4_0, 32, MB_CODING_B4, MB_SCALE_G32)
MB_DEFINE_DEQUANTIZE_ROW(q4_1, 32, MB_CODING_B4, MB_SCALE_G32MIN)
MB_DEFINE_DEQUANTIZE_ROW(q5_0, 32, MB_CODING_B5, MB_SCALE_G32)
MB_DEFINE_DEQUANTIZE_ROW(q5_1, 32, MB_CODING_B5, MB_SCALE_G32MIN)
MB_DEFINE_DEQUANTIZE_ROW(q8_0, 32, MB_CODING_B8, MB_SCALE_G32)

const struct mb_format_ops mb_ops_Q4_0 = {
    q4_0_dequantize_row, NULL, MB_SEARCH_SCALE(MB_LEVELS_INTEGER(-8, 7)), q4_0_split, q4_0_join};
const struct mb_format_ops mb_ops_Q4_1 = {q4_1_dequantize_row, NULL, MB_SEARCH_MIN(15), q4_1_split,
                                          q4_1_join};
const struct mb_format_ops mb_ops_Q5_0 = {
    q5_0_dequantize_row, NULL, MB_SEARCH_SCALE(MB_LEVELS_INTEGER(-16, 15)), q5_0_split, q5_0_join};
const struct mb_format_ops mb_ops_Q5_1 = {q5_1_dequantize_row, NULL, MB_SEARCH_MIN(31), q5_1_split,
                                          q5_1_join};
const struct mb_format_ops mb_ops_Q8_0 = {q8_0_dequantize_row, NULL,
                                          MB_SEARCH_SCALE(MB_LEVELS_INTEGER(-128, 127)), q8_0_split,
                                          q8_0_join};
