/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's 2-bit grid formats: 256 weights, eight of them one entry of a grid.
 *
 *   iq2_xxs   0: d f16 | 2: [8] { index[4], signs u32 }
 *             groups of 32; signs: 4 times 7 bits for 8 signs, then s in bits 28-31
 *   iq2_xs    0: d f16 | 2: index u16[32] | 66: scales[8]
 *             groups of 16; index: bits 0-8 the entry, bits 9-15 the 8 signs
 *   iq2_s     0: d f16 | 2: index[32] | 34: signs[32] | 66: high[8] | 74: scales[8]
 *             groups of 16; bits 2i .. 2i + 1 of high[h] are bits 8-9 of index[4 * h + i]
 *
 * w = d * sc * level / 8 with levels 8, 25, 43 and sc = 1 + 2 s odd; s of group g of 16 in bits 0-3
 * of scales[g / 2] (even g) or 4-7. Grids, levels and codes: kernels/grids.h. */
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"
#include "kernels/grids.h"

/* -43 -25 -8, two that no grid has, 8 25 43, plus the bias of 43. */
const uint8_t mb_table_grid2[16] = {0, 18, 35, 43, 43, 51, 68, 86};

static void split_scales(const uint8_t scales[8], int16_t sub_scale[16])
{
    for (unsigned g = 0; g < 16; g++)
        sub_scale[g] = (int16_t)(1 + 2 * (scales[g / 2] >> g % 2 * 4 & 15));
}

static void join_scales(const int16_t sub_scale[16], uint8_t scales[8])
{
    for (unsigned i = 0; i < 8; i++)
        scales[i] = (uint8_t)((sub_scale[2 * i] / 2 & 15) | (sub_scale[2 * i + 1] / 2 & 15) << 4);
}

static void iq2_xxs_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq2_xxs *block = src;
    for (unsigned g = 0; g < 8; g++) {
        const uint32_t word = mb_load_u32(block->group[g].signs);
        fields->sub_scale[g] = (int16_t)(1 + 2 * (word >> 28));
        for (unsigned i = 0; i < 4; i++)
            mb_grid_split(&mb_grid_iq2_xxs, block->group[g].index[i],
                          mb_signs_from_seven(word >> 7 * i & 127), fields->code + 32 * g + 8 * i);
    }
    fields->d = mb_load_u16(block->d);
}

static void iq2_xxs_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq2_xxs *block = dst;
    for (unsigned g = 0; g < 8; g++) {
        uint32_t word = ((uint32_t)fields->sub_scale[g] / 2 & 15) << 28;
        for (unsigned i = 0; i < 4; i++) {
            unsigned signs;
            block->group[g].index[i] =
                (uint8_t)mb_grid_join(&mb_grid_iq2_xxs, fields->code + 32 * g + 8 * i, &signs);
            word |= (uint32_t)(signs & 127) << 7 * i;
        }
        mb_store_u32(block->group[g].signs, word);
    }
    mb_store_u16(block->d, fields->d);
}

static void iq2_xs_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq2_xs *block = src;
    for (unsigned i = 0; i < 32; i++) {
        const unsigned word = mb_load_u16(block->index[i]);
        mb_grid_split(&mb_grid_iq2_xs, word & 511, mb_signs_from_seven(word >> 9),
                      fields->code + 8 * i);
    }
    split_scales(block->scales, fields->sub_scale);
    fields->d = mb_load_u16(block->d);
}

static void iq2_xs_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq2_xs *block = dst;
    for (unsigned i = 0; i < 32; i++) {
        unsigned signs;
        const unsigned index = mb_grid_join(&mb_grid_iq2_xs, fields->code + 8 * i, &signs);
        mb_store_u16(block->index[i], (uint16_t)(index | (signs & 127) << 9));
    }
    join_scales(fields->sub_scale, block->scales);
    mb_store_u16(block->d, fields->d);
}

static void iq2_s_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq2_s *block = src;
    for (unsigned i = 0; i < 32; i++) {
        const unsigned high = block->high[i / 4] >> i % 4 * 2 & 3u;
        mb_grid_split(&mb_grid_iq2_s, block->index[i] | high << 8, block->signs[i],
                      fields->code + 8 * i);
    }
    split_scales(block->scales, fields->sub_scale);
    fields->d = mb_load_u16(block->d);
}

static void iq2_s_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq2_s *block = dst;
    memset(block->high, 0, sizeof block->high);
    for (unsigned i = 0; i < 32; i++) {
        unsigned signs;
        const unsigned index = mb_grid_join(&mb_grid_iq2_s, fields->code + 8 * i, &signs);
        block->index[i] = (uint8_t)index;
        block->high[i / 4] |= (uint8_t)(index >> 8 << i % 4 * 2);
        block->signs[i] = (uint8_t)signs;
    }
    join_scales(fields->sub_scale, block->scales);
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(iq2_xxs, 256, MB_CODING_GRID2, MB_SCALE_G32X2)
MB_DEFINE_DEQUANTIZE_ROW(iq2_xs, 256, MB_CODING_GRID2, MB_SCALE_G16X2)
MB_DEFINE_DEQUANTIZE_ROW(iq2_s, 256, MB_CODING_GRID2, MB_SCALE_G16X2)

const struct mb_format_ops mb_ops_IQ2_XXS = {
    iq2_xxs_dequantize_row, NULL, MB_SEARCH_GRID(IQ2_XXS, 32), iq2_xxs_split, iq2_xxs_join};
const struct mb_format_ops mb_ops_IQ2_XS = {iq2_xs_dequantize_row, NULL, MB_SEARCH_GRID(IQ2_XS, 16),
                                            iq2_xs_split, iq2_xs_join};
const struct mb_format_ops mb_ops_IQ2_S = {iq2_s_dequantize_row, NULL, MB_SEARCH_GRID(IQ2_S, 16),
                                           iq2_s_split, iq2_s_join};
