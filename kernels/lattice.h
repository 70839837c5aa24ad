/* SPDX-License-Identifier: Apache-2.0 */
/* The values that a weight of a block can have once its scales are chosen: scale * level(code) +
 * offset. What is the same for all formats whose codes are chosen one by one. */
#ifndef MIXBIT_KERNELS_LATTICE_H
#define MIXBIT_KERNELS_LATTICE_H

#include "kernels/fields.h"

#include <math.h>

struct mb_lattice {
    const struct mb_format_ops *ops;
    enum mb_coding coding;
    enum mb_scale_kind kind;
    unsigned block, group; /* weights */
    size_t block_bytes;
    int bias, last;       /* the largest code */
    const uint8_t *table; /* of 16 decoded codes, or NULL */
};

static inline struct mb_lattice mb_lattice_of(enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    struct mb_lattice l = {.ops = mb_format_ops(format),
                           .coding = info->coding,
                           .kind = info->scale,
                           .block = info->block_k,
                           .group = mb_scale_group(info->scale),
                           .block_bytes = info->block_bytes,
                           .bias = mb_coding_bias(info->coding, info->scale),
                           .last = (1 << mb_coding_bits(info->coding)) - 1,
                           .table = mb_coding_table(info->coding)};
    if (info->scale == MB_SCALE_G256)
        l.last = 2; /* ternary: the fourth code is read but never written */
    return l;
}

/* A code's value in units of the scale. */
static inline float mb_lattice_level(const struct mb_lattice *l, uint8_t code)
{
    return (float)((l->table != NULL ? l->table[code] : code) - l->bias);
}

#endif
