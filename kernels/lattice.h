/* SPDX-License-Identifier: Apache-2.0 */
/* The values that a weight of a block can have once its scales are chosen: scale * level(code) +
 * offset. What is the same for all formats whose codes are chosen one by one. */
#ifndef MIXBIT_KERNELS_LATTICE_H
#define MIXBIT_KERNELS_LATTICE_H

#include "kernels/fields.h"

#include <math.h>
#include <string.h>

enum { MB_LATTICE_STEPS = 15 };

struct mb_lattice {
    const struct mb_format_ops *ops;
    enum mb_coding coding;
    enum mb_scale_kind kind;
    unsigned block, group; /* weights */
    size_t block_bytes;
    int bias, last;       /* the largest code */
    const uint8_t *table; /* of 16 decoded codes, or NULL: the codes are the levels plus a bias */
    /* Of a table: its lowest level, by how much each next one is higher, and what a place must
     * exceed to be nearer to that; the code of each level, at level + 128. */
    float lowest, step[MB_LATTICE_STEPS], middle[MB_LATTICE_STEPS];
    uint8_t code_of[256];
};

/* A code's value in units of the scale. */
static inline float mb_lattice_level(const struct mb_lattice *l, uint8_t code)
{
    return (float)((l->table != NULL ? l->table[code] : code) - l->bias);
}
/* The first code of a level. */
static inline uint8_t mb_lattice_code(const struct mb_lattice *l, float level)
{
    return l->table != NULL ? l->code_of[(int)level + 128] : (uint8_t)((int)level + l->bias);
}

/* Of two levels that are equally near the one that comes first in the table counts. */
static inline void mb_lattice_order(struct mb_lattice *l)
{
    int order[256]; /* 1 + the first code of a level */
    memset(order, 0, sizeof order);
    for (int code = 15; code >= 0; code--)
        order[l->table[code] - l->bias + 128] = code + 1;
    int before = -1, steps = 0;
    for (int at = 0; at < 256; at++) {
        if (order[at] == 0)
            continue;
        l->code_of[at] = (uint8_t)(order[at] - 1);
        if (before < 0) {
            l->lowest = (float)(at - 128);
        } else {
            const float middle = 0.5f * (float)(at + before) - 128.0f;
            l->step[steps] = (float)(at - before);
            l->middle[steps++] = order[before] < order[at] ? middle : nextafterf(middle, -INFINITY);
        }
        before = at;
    }
    for (; steps < MB_LATTICE_STEPS; steps++)
        l->middle[steps] = INFINITY;
}

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
    if (l.table != NULL)
        mb_lattice_order(&l);
    return l;
}

#endif
