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

static inline float mb_lattice_value(const struct mb_lattice *l, float scale, float offset,
                                     uint8_t code)
{
    return scale * mb_lattice_level(l, code) + offset;
}

/* The code whose value is nearest; a scale of 0 has the code of level 0. */
static inline uint8_t mb_lattice_nearest(const struct mb_lattice *l, float scale, float offset,
                                         float value)
{
    const float place = scale != 0.0f ? (value - offset) / scale : 0.0f;
    if (l->table == NULL) {
        const float code = place + (float)l->bias;
        if (!(code > 0.0f))
            return 0;
        return code < (float)l->last ? (uint8_t)(code + 0.5f) : (uint8_t)l->last;
    }
    uint8_t best = 0;
    float least = INFINITY;
    for (uint8_t code = 0; code < 16; code++) {
        const float distance = fabsf(place - mb_lattice_level(l, code));
        if (distance < least) {
            least = distance;
            best = code;
        }
    }
    return best;
}

#endif
