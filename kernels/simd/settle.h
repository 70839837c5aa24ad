/* SPDX-License-Identifier: Apache-2.0 */
/* Codes that move one after the other, each where it lowers the error most (refine.h), once per ISA
 * level.
 *
 * Few move: a register of them is looked at, the first that moves does, and those behind it are
 * looked at again. What is looked at most is kept as it is needed there: levels, not codes, and
 * inverses of scales and of the diagonal. */
#ifndef MIXBIT_KERNELS_SIMD_SETTLE_H
#define MIXBIT_KERNELS_SIMD_SETTLE_H

#include "kernels/simd/nearest.h"

/* Columns of a block or a group: their levels, values, gradient and part of H; inverse: of its
 * diagonal. */
struct columns {
    float *level, *value, *gradient;
    const float *h, *inverse;
    size_t stride, count;
};

/* What a value is: scale * level + offset; inverse: f_inverse of the scale. */
struct scales {
    float scale, inverse, offset;
};

static struct scales scales_of(float scale, float offset)
{
    const f_lanes inverse = f_inverse(f_all(scale));
    return (struct scales){scale, inverse[0], offset};
}

MB_LANE_INLINE void subtract(float *gradient, const float *h, float step, size_t n)
{
    for (size_t i = 0; i < n; i += F_LANES)
        f_store(gradient + i, f_load(gradient + i) - step * f_load(h + i));
}

/* gradient -= steps H for `registers` registers of columns; n steps, one after the other. */
MB_LANE_INLINE void subtract_tile(float *gradient, const float *h, size_t stride,
                                  const float *steps, size_t n, const size_t registers)
{
    f_lanes g[8];
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        g[v] = f_load(gradient + v * F_LANES);
    for (size_t i = 0; i < n; i++, h += stride)
#pragma GCC unroll 8
        for (size_t v = 0; v < registers; v++)
            g[v] -= steps[i] * f_load(h + v * F_LANES);
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        f_store(gradient + v * F_LANES, g[v]);
}

/* The same for a number of columns that is a multiple of 16. */
static void subtract_all(float *gradient, size_t columns, const float *h, size_t stride,
                         const float *steps, size_t n)
{
    enum { WIDE = F_LANES == 16 ? 64 : 32 };
    size_t c = 0;
    for (; c + WIDE <= columns; c += WIDE)
        subtract_tile(gradient + c, h + c, stride, steps, n, WIDE / F_LANES);
    for (; c < columns; c += 16)
        subtract_tile(gradient + c, h + c, stride, steps, n, 16 / F_LANES);
}

/* Columns [from, from + F_LANES): each code in turn moves where it is best; false when none
 * moved. */
MB_LANE_INLINE bool settle_some(const struct mb_lattice *l, const struct columns *a, size_t from,
                                const struct scales *s)
{
    const f_lanes inverse = f_load(a->inverse + from);
    f_lanes level = f_load(a->level + from), value = f_load(a->value + from);
    f_lanes gradient = f_load(a->gradient + from);
    unsigned left = (1u << F_LANES) - 1;
    bool moved = false;
    while (left != 0) {
        const f_lanes wanted = value + gradient * inverse;
        const f_lanes near = f_nearest(l, (wanted - s->offset) * s->inverse);
        const f_lanes there = s->scale * near + s->offset;
        const f_mask better = f_less(f_abs(there - wanted), f_abs(value - wanted));
        const unsigned moves = f_bits(better) & left;
        if (moves == 0)
            break;
        const unsigned i = (unsigned)__builtin_ctz(moves);
        float steps[F_LANES];
        f_store(steps, there - value);
        const float *h = a->h + (from + i) * a->stride;
        gradient -= steps[i] * f_load(h + from); /* sooner than from memory */
        subtract(a->gradient, h, steps[i], a->count);
        level = f_choose(f_only(i), near, level);
        value = f_choose(f_only(i), there, value);
        left = left >> i >> 1 << i << 1;
        moved = true;
    }
    if (moved) {
        f_store(a->level + from, level);
        f_store(a->value + from, value);
    }
    return moved;
}

/* Columns [0, count) under one scale, `rounds` times or until none moves. A round need not look at
 * what was looked at after the last move of the one before: it is settled until something moves
 * again. */
MB_LANE_INLINE void settle(const struct mb_lattice *l, const struct columns *a,
                           const struct scales *s, size_t count, unsigned rounds)
{
    size_t unsettled = count;
    for (unsigned round = 0; round < rounds && unsettled > 0; round++) {
        size_t last = 0;
        for (size_t i = 0; i < (last > 0 ? count : unsettled); i += F_LANES)
            if (settle_some(l, a, i, s))
                last = i + F_LANES;
        unsettled = last;
    }
}

#endif
