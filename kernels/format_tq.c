/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's ternary formats: a weight is -d, 0 or d, one d for 256 weights.
 *
 *   tq2_0   0: pairs[64] | 64: d f16
 *           w = d * (code - 1); a code of 3, 2 d, is read but never written
 *   tq1_0   0: fives[48] | 48: fours[4] | 52: d f16
 *           the same, 5 weights in a byte
 *
 * A byte of tq1_0 is a fraction in base 3, its first weight leading: digits t give
 * ceil(256 / 243 * sum t_n 3^(4 - n)), and the next digit is what 3 * byte carries out of 8 bits.
 * 243 of 256 bytes are digits that way; the rest read as one of these, and never come back. Byte j
 * of a run of bytes holds weights j, j + run, j + 2 run .. of the run's: runs of 32, of 16, and of
 * 4 (`fours`: only four digits, the fifth is 0). pairs: kernels/bitfields.h. */
#include "kernels/bitfields.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"

static void split_digits(const uint8_t *bytes, unsigned run, unsigned digits, uint8_t *code)
{
    for (unsigned j = 0; j < run; j++) {
        unsigned rest = bytes[j];
        for (unsigned n = 0; n < digits; n++) {
            rest = (rest & 255) * 3;
            code[n * run + j] = (uint8_t)(rest >> 8);
        }
    }
}

static void join_digits(const uint8_t *code, unsigned run, unsigned digits, uint8_t *bytes)
{
    for (unsigned j = 0; j < run; j++) {
        unsigned sum = 0;
        for (unsigned n = 0; n < 5; n++)
            sum = 3 * sum + (n < digits ? code[n * run + j] % 3u : 0);
        bytes[j] = (uint8_t)((256 * sum + 242) / 243);
    }
}

static void tq1_0_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_tq1_0 *block = src;
    split_digits(block->fives, 32, 5, fields->code);
    split_digits(block->fives + 32, 16, 5, fields->code + 160);
    split_digits(block->fours, 4, 4, fields->code + 240);
    fields->d = mb_load_u16(block->d);
}

static void tq1_0_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_tq1_0 *block = dst;
    join_digits(fields->code, 32, 5, block->fives);
    join_digits(fields->code + 160, 16, 5, block->fives + 32);
    join_digits(fields->code + 240, 4, 4, block->fours);
    mb_store_u16(block->d, fields->d);
}

static void tq2_0_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_tq2_0 *block = src;
    memset(fields->code, 0, sizeof fields->code);
    mb_split_pairs(block->pairs, 0, fields->code);
    fields->d = mb_load_u16(block->d);
}

static void tq2_0_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_tq2_0 *block = dst;
    mb_join_pairs(fields->code, 0, block->pairs);
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(tq1_0, 256, MB_CODING_B2, MB_SCALE_G256)
MB_DEFINE_DEQUANTIZE_ROW(tq2_0, 256, MB_CODING_B2, MB_SCALE_G256)

const struct mb_format_ops mb_ops_TQ1_0 = {tq1_0_dequantize_row, NULL, MB_SEARCH_TERNARY,
                                           tq1_0_split, tq1_0_join};
const struct mb_format_ops mb_ops_TQ2_0 = {tq2_0_dequantize_row, NULL, MB_SEARCH_TERNARY,
                                           tq2_0_split, tq2_0_join};
