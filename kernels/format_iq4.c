/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's 4-bit codebook formats: a code is an index into 16 fixed levels, dense near zero where
 * weights are.
 *
 *   iq4_nl   0: d f16 | 2: nibbles[16]
 *            w = d * level[code], 32 weights
 *   iq4_xs   0: d f16 | 2: scales_high u16 | 4: scales_low[4] | 8: nibbles[128]
 *            w = (d * sc) * level[code], 256 weights in groups of 32; sc is 6 bits, stored plus 32:
 *            low nibble of group g from bit 4 * (g % 2) of scales_low[g / 2],
 *            high pair from bit 2 * g of scales_high
 *
 * In each 16 bytes of nibbles, bits 0-3 of byte j are weight j and bits 4-7 weight j + 16. */
#include "kernels/bitfields.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"

/* The levels -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, plus the bias of 128. */
const uint8_t mb_table_iq4[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                  129, 141, 153, 166, 181, 197, 217, 241};

static void iq4_nl_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq4_nl *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    fields->d = mb_load_u16(block->d);
}

static void iq4_nl_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq4_nl *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    mb_store_u16(block->d, fields->d);
}

static void iq4_xs_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq4_xs *block = src;
    const unsigned scales_high = mb_load_u16(block->scales_high);
    mb_split_nibbles(block->nibbles, 128, 16, fields->code);
    for (unsigned g = 0; g < 8; g++) {
        const unsigned low = block->scales_low[g / 2] >> g % 2 * 4 & 15;
        fields->sub_scale[g] = (int16_t)((int)(low | (scales_high >> 2 * g & 3) << 4) - 32);
    }
    fields->d = mb_load_u16(block->d);
}

static void iq4_xs_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq4_xs *block = dst;
    unsigned scales_high = 0;
    mb_join_nibbles(fields->code, 128, 16, block->nibbles);
    memset(block->scales_low, 0, sizeof block->scales_low);
    for (unsigned g = 0; g < 8; g++) {
        const unsigned stored = (unsigned)(fields->sub_scale[g] + 32);
        block->scales_low[g / 2] |= (uint8_t)((stored & 15) << g % 2 * 4);
        scales_high |= stored >> 4 << 2 * g;
    }
    mb_store_u16(block->scales_high, (uint16_t)scales_high);
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(iq4_nl, 32, MB_CODING_LUT4, MB_SCALE_G32)
MB_DEFINE_DEQUANTIZE_ROW(iq4_xs, 256, MB_CODING_LUT4, MB_SCALE_G32X2)

const struct mb_format_ops mb_ops_IQ4_NL = {
    iq4_nl_dequantize_row, NULL, MB_SEARCH_SCALE(MB_LEVELS_IQ4), iq4_nl_split, iq4_nl_join};
const struct mb_format_ops mb_ops_IQ4_XS = {iq4_xs_dequantize_row, NULL,
                                            MB_SEARCH_SCALE_X2(32, 32, MB_LEVELS_IQ4), iq4_xs_split,
                                            iq4_xs_join};
