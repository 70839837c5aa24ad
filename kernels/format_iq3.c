/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's 3-bit grid formats: 256 weights in groups of 32, four weights are one entry of a grid.
 *
 *   iq3_xxs   0: d f16 | 2: index[64] | 66: signs u32[8]
 *             w = d * sc * level / 4, sc = 1 + 2 s odd; signs[g]: 4 times 7 bits for 8 signs, then
 * s in bits 28-31 iq3_s     0: d f16 | 2: index[64] | 66: high[8] | 74: signs[32] | 106: scales[4]
 *             w = d * sc * level; bit i of high[g] is bit 8 of index[8 * g + i]; s of group g in
 *             bits 0-3 of scales[g / 2] (even g) or 4-7
 *
 * Grids, levels and codes: kernels/grids.h. */
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"
#include "kernels/grids.h"

/* The levels halved (units of half a d), 31 as the middle; and the odd levels around 15. */
const uint8_t mb_table_grid3[16] = {0, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 62};
const uint8_t mb_table_odd[16] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};

static void iq3_xxs_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq3_xxs *block = src;
    for (unsigned g = 0; g < 8; g++) {
        const uint32_t word = mb_load_u32(block->signs[g]);
        fields->sub_scale[g] = (int16_t)(1 + 2 * (word >> 28));
        for (unsigned i = 0; i < 4; i++) {
            const unsigned signs = mb_signs_from_seven(word >> 7 * i & 127);
            const uint8_t *index = block->index + 8 * g + 2 * i;
            uint8_t *code = fields->code + 32 * g + 8 * i;
            mb_grid_split(&mb_grid_iq3_xxs, index[0], signs, code);
            mb_grid_split(&mb_grid_iq3_xxs, index[1], signs >> 4, code + 4);
        }
    }
    fields->d = mb_load_u16(block->d);
}

static void iq3_xxs_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq3_xxs *block = dst;
    for (unsigned g = 0; g < 8; g++) {
        uint32_t word = ((uint32_t)fields->sub_scale[g] / 2 & 15) << 28;
        for (unsigned i = 0; i < 4; i++) {
            unsigned low, high;
            uint8_t *index = block->index + 8 * g + 2 * i;
            const uint8_t *code = fields->code + 32 * g + 8 * i;
            index[0] = (uint8_t)mb_grid_join(&mb_grid_iq3_xxs, code, &low);
            index[1] = (uint8_t)mb_grid_join(&mb_grid_iq3_xxs, code + 4, &high);
            word |= (uint32_t)((low | high << 4) & 127) << 7 * i;
        }
        mb_store_u32(block->signs[g], word);
    }
    mb_store_u16(block->d, fields->d);
}

static void iq3_s_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_iq3_s *block = src;
    for (unsigned g = 0; g < 8; g++) {
        fields->sub_scale[g] = (int16_t)(1 + 2 * (block->scales[g / 2] >> g % 2 * 4 & 15));
        for (unsigned i = 0; i < 8; i++) {
            const unsigned index = block->index[8 * g + i] | (block->high[g] >> i & 1u) << 8;
            mb_grid_split(&mb_grid_iq3_s, index, block->signs[4 * g + i / 2] >> i % 2 * 4,
                          fields->code + 32 * g + 4 * i);
        }
    }
    fields->d = mb_load_u16(block->d);
}

static void iq3_s_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_iq3_s *block = dst;
    memset(block, 0, sizeof *block);
    for (unsigned g = 0; g < 8; g++) {
        block->scales[g / 2] |= (uint8_t)((fields->sub_scale[g] / 2 & 15) << g % 2 * 4);
        for (unsigned i = 0; i < 8; i++) {
            unsigned signs;
            const unsigned index =
                mb_grid_join(&mb_grid_iq3_s, fields->code + 32 * g + 4 * i, &signs);
            block->index[8 * g + i] = (uint8_t)index;
            block->high[g] |= (uint8_t)(index >> 8 << i);
            block->signs[4 * g + i / 2] |= (uint8_t)(signs << i % 2 * 4);
        }
    }
    mb_store_u16(block->d, fields->d);
}

MB_DEFINE_DEQUANTIZE_ROW(iq3_xxs, 256, MB_CODING_GRID3, MB_SCALE_G32X2)
MB_DEFINE_DEQUANTIZE_ROW(iq3_s, 256, MB_CODING_ODD4, MB_SCALE_G32X2)

const struct mb_format_ops mb_ops_IQ3_XXS = {
    iq3_xxs_dequantize_row, NULL, MB_SEARCH_GRID(IQ3_XXS, 32), iq3_xxs_split, iq3_xxs_join};
const struct mb_format_ops mb_ops_IQ3_S = {iq3_s_dequantize_row, NULL, MB_SEARCH_GRID(IQ3_S, 32),
                                           iq3_s_split, iq3_s_join};
