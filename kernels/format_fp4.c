/* SPDX-License-Identifier: Apache-2.0 */
/* ggml's 4-bit floats: a code is a sign and an E2M1, the scale of a group is one byte.
 *
 *   mxfp4   0: e E8M0 | 1: nibbles[16]
 *           w = 2^(e - 128) * level[code], 32 weights (the MX format of the Open Compute Project)
 *   nvfp4   0: scales UE4M3[4] | 4: nibbles[32]
 *           w = scale / 2 * level[code], 64 weights in groups of 16
 *
 * In each 16 bytes of nibbles, nvfp4 in each 8, bits 0-3 are the first half of the weights and bits
 * 4-7 the second. Levels are doubled E2M1, which makes them integers; scales are halved instead
 * (kernels/half.h). There are two zeros: a code survives as it is, its value does not tell them
 * apart. */
#include "kernels/bitfields.h"
#include "kernels/blocks.h"
#include "kernels/encode.h"
#include "kernels/fields.h"
#include "kernels/format.h"

/* 0 1 2 3 4 6 8 12, then their negatives, plus the bias of 12. */
const uint8_t mb_table_e2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

static void mxfp4_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_mxfp4 *block = src;
    mb_split_nibbles(block->nibbles, 16, 16, fields->code);
    fields->sub_scale[0] = block->e;
}

static void mxfp4_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_mxfp4 *block = dst;
    mb_join_nibbles(fields->code, 16, 16, block->nibbles);
    block->e = (uint8_t)fields->sub_scale[0];
}

static void nvfp4_split(const void *src, struct mb_block_fields *fields)
{
    const struct mb_block_nvfp4 *block = src;
    mb_split_nibbles(block->nibbles, 32, 8, fields->code);
    for (unsigned g = 0; g < 4; g++)
        fields->sub_scale[g] = block->scales[g];
}

static void nvfp4_join(const struct mb_block_fields *fields, void *dst)
{
    struct mb_block_nvfp4 *block = dst;
    mb_join_nibbles(fields->code, 32, 8, block->nibbles);
    for (unsigned g = 0; g < 4; g++)
        block->scales[g] = (uint8_t)fields->sub_scale[g];
}

MB_DEFINE_DEQUANTIZE_ROW(mxfp4, 32, MB_CODING_E2M1, MB_SCALE_G32E8)
MB_DEFINE_DEQUANTIZE_ROW(nvfp4, 64, MB_CODING_E2M1, MB_SCALE_G16E4)

const struct mb_format_ops mb_ops_MXFP4 = {mxfp4_dequantize_row, NULL, MB_SEARCH_E8M0, mxfp4_split,
                                           mxfp4_join};
const struct mb_format_ops mb_ops_NVFP4 = {nvfp4_dequantize_row, NULL, MB_SEARCH_UE4M3, nvfp4_split,
                                           nvfp4_join};
