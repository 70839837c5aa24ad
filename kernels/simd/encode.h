/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of any format from their weights (struct mb_encode_ops), once per ISA level. */
#ifndef MIXBIT_KERNELS_SIMD_ENCODE_H
#define MIXBIT_KERNELS_SIMD_ENCODE_H

#include "kernels/simd/encode_grid.h"
#include "kernels/simd/encode_min.h"
#include "kernels/simd/encode_scale.h"
#include "kernels/simd/encode_ternary.h"

/* As many blocks as there are lanes. */
static void encode_lanes(const struct mb_search *search, const struct sources *from,
                         struct encoded *to)
{
    switch (search->kind) {
    case MB_SEARCHES_SCALE: encode_scale(search, from, to); break;
    case MB_SEARCHES_MIN: encode_min(search, from, to); break;
    case MB_SEARCHES_SCALE_X2: encode_scale_x2(search, from, to); break;
    case MB_SEARCHES_MIN_X2: encode_min_x2(search, from, to); break;
    case MB_SEARCHES_TERNARY: encode_ternary(from, to); break;
    case MB_SEARCHES_GRID: encode_grid(search, from, to); break;
    case MB_SEARCHES_E8M0: encode_e8m0(search, from, to); break;
    default: encode_ue4m3(search, from, to); break;
    }
}

MB_LANE_INLINE void take_lane(const struct encoded *e, unsigned lane, unsigned n, unsigned groups,
                              struct mb_block_fields *fields)
{
    for (unsigned i = 0; i < n; i++)
        fields->code[i] = e->code[i][lane];
    for (unsigned g = 0; g < groups; g++) {
        fields->sub_scale[g] = (int16_t)e->sub_scale[g][lane];
        fields->sub_min[g] = (int16_t)e->sub_min[g][lane];
    }
    fields->d = e->d[lane];
    fields->dmin = e->dmin[lane];
}

static void search_lanes(const struct sources *from, const struct mb_format_ops *ops,
                         size_t block_bytes, uint8_t *dst)
{
    const unsigned groups = from->n / ops->search->group;
    struct mb_block_fields fields;
    struct encoded encoded;
    memset(&encoded, 0, sizeof encoded);
    memset(&fields, 0, sizeof fields);
    encode_lanes(ops->search, from, &encoded);
    for (unsigned b = 0; b < from->count; b++) {
        take_lane(&encoded, b, from->n, groups, &fields);
        ops->join(&fields, dst + b * block_bytes);
    }
}

static void search_blocks(enum mb_format format, const float *x, size_t blocks,
                          const float *importance, size_t k, void *dst)
{
    const struct mb_format_info *info = mb_format_info(format);
    const struct mb_format_ops *ops = mb_format_ops(format);
    uint8_t *out = dst;
    size_t column = 0;
    for (size_t done = 0; done < blocks;) {
        struct sources from = {.n = info->block_k};
        for (; from.count < F_LANES && done < blocks; from.count++, done++) {
            from.x[from.count] = x + done * from.n;
            from.importance[from.count] = importance != NULL ? importance + column : NULL;
            column = column + from.n < k ? column + from.n : 0;
        }
        search_lanes(&from, ops, info->block_bytes, out);
        out += from.count * info->block_bytes;
    }
}

#endif
