/* SPDX-License-Identifier: Apache-2.0 */
/* The level whose value is nearest, for a register of weights at once: once per ISA level.
 *
 * Levels of a table are a sum: the lowest and all steps up whose middle is exceeded. That is a
 * comparison, a mask and an addition each, and none of them waits for another; levels are small
 * integers, so that any order of them gives the same. */
#ifndef MIXBIT_KERNELS_SIMD_NEAREST_H
#define MIXBIT_KERNELS_SIMD_NEAREST_H

#include "kernels/lattice.h"
#include "kernels/simd/lanes.h"

/* What weights are multiplied by to be in units of their scale: 0, so level 0, under a scale of 0
 * and where it would be no number. */
MB_LANE_INLINE f_lanes f_inverse(f_lanes scale)
{
    const f_lanes inverse = 1.0f / scale;
    return f_keep(f_less(f_abs(inverse), f_all(INFINITY)), inverse);
}

/* Of levels that are equally near the first of the table counts, else the upper one; what is no
 * number has the lowest. */
MB_LANE_INLINE f_lanes f_nearest(const struct mb_lattice *l, f_lanes place)
{
    if (l->table == NULL) {
        const float half = (float)l->bias + 0.5f;
        const f_lanes at = f_clamp(place + half, (f_lanes){0}, f_all((float)l->last + 0.5f));
        return f_truncate(at) - (float)l->bias;
    }
    enum { SUMS = 3 };
    f_lanes sum[SUMS] = {f_all(l->lowest)};
#pragma GCC unroll 15
    for (unsigned s = 0; s < MB_LATTICE_STEPS; s++)
        sum[s % SUMS] += f_keep(f_less(f_all(l->middle[s]), place), f_all(l->step[s]));
    return sum[0] + sum[1] + sum[2];
}

#endif
