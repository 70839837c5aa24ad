/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's formats below 2 bits: 256 weights, eight of them one entry of a grid of levels -1, 0, 1,
 * all shifted up or down by an eighth.
 *
 *   iq1_s   0: d f16 | 2: index[32] | 34: high u16[8]
 *           groups of 32; high[g]: 4 times 3 bits above index[4 * g ..], s in bits 12-14, bit 15:
 * down iq1_m   0: index[32] | 32: high[16] | 48: scales u16[4] groups of 16; nibble i of high: bits
 * 0-2 above index[i], bit 3: down, for 8 weights; scales[g / 4]: s of group g in 3 bits from bit 3
 * * (g % 4); bits 12-15 of all four together are d f16
 *
 * w = d * sc * (level +- 1/8) with sc = 1 + 2 s odd. Grid and codes: kernels/grids.h. */
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"
#include "kernels/grids.h"

/* In eighths -9 -7 -1, two that do not occur, 1 7 9, plus the bias of 9. */
const uint8_t mb_table_grid1[16] = {0, 2, 8, 9, 9, 10, 16, 18};

static void iq1_s_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq1_s *block = src;
    for (unsigned g = 0; g < 8; g++) {
        const unsigned high = mb_load_u16(block->high[g]);
        fields->sub_scale[g] = (int16_t)(1 + 2 * (high >> 12 & 7));
        for (unsigned i = 0; i < 4; i++)
            mb_grid1_split(block->index[4 * g + i] | (high >> 3 * i & 7) << 8, high >> 15,
                           fields->code + 32 * g + 8 * i);
    }
    fields->d = mb_load_u16(block->d);
}

static void iq1_s_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq1_s *block = dst;
    for (unsigned g = 0; g < 8; g++) {
        unsigned high = (unsigned)(fields->sub_scale[g] / 2 & 7) << 12;
        bool down = false;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned index = mb_grid1_join(fields->code + 32 * g + 8 * i, &down);
            block->index[4 * g + i] = (uint8_t)index;
            high |= index >> 8 << 3 * i;
        }
        mb_store_u16(block->high[g], (uint16_t)(high | (unsigned)down << 15));
    }
    mb_store_u16(block->d, fields->d);
}

static void iq1_m_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq1_m *block = src;
    unsigned d = 0;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned scales = mb_load_u16(block->scales[i]);
        d |= scales >> 12 << 4 * i;
        for (unsigned g = 0; g < 4; g++)
            fields->sub_scale[4 * i + g] = (int16_t)(1 + 2 * (scales >> 3 * g & 7));
    }
    for (unsigned i = 0; i < 32; i++) {
        const unsigned high = block->high[i / 2] >> i % 2 * 4;
        mb_grid1_split(block->index[i] | (high & 7) << 8, high >> 3 & 1, fields->code + 8 * i);
    }
    fields->d = (uint16_t)d;
}

static void iq1_m_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq1_m *block = dst;
    for (unsigned i = 0; i < 4; i++) {
        unsigned scales = (fields->d >> 4 * i & 15u) << 12;
        for (unsigned g = 0; g < 4; g++)
            scales |= (unsigned)(fields->sub_scale[4 * i + g] / 2 & 7) << 3 * g;
        mb_store_u16(block->scales[i], (uint16_t)scales);
    }
    memset(block->high, 0, sizeof block->high);
    for (unsigned i = 0; i < 32; i++) {
        bool down;
        const unsigned index = mb_grid1_join(fields->code + 8 * i, &down);
        block->index[i] = (uint8_t)index;
        block->high[i / 2] |= (uint8_t)((index >> 8 | (unsigned)down << 3) << i % 2 * 4);
    }
}

MB_DEFINE_DEQUANTIZE_ROW(iq1_s, 256, MB_CODING_GRID1, MB_SCALE_G32X2)
MB_DEFINE_DEQUANTIZE_ROW(iq1_m, 256, MB_CODING_GRID1, MB_SCALE_G16X2)

const struct mb_format_ops mb_ops_IQ1_S = {iq1_s_dequantize_row, NULL, MB_SEARCH_GRID(IQ1_S, 32),
                                           iq1_s_split, iq1_s_join};
const struct mb_format_ops mb_ops_IQ1_M = {iq1_m_dequantize_row, NULL, MB_SEARCH_GRID(IQ1_M, 16),
                                           iq1_m_split, iq1_m_join};
