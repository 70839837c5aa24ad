/* SPDX-License-Identifier: Apache-2.0 */
/* The code whose value is nearest, for a register of weights at once: once per ISA level. Codes are
 * kept as floats, which hold them exactly. */
#ifndef MIXBIT_KERNELS_SIMD_NEAREST_H
#define MIXBIT_KERNELS_SIMD_NEAREST_H

#include "kernels/lattice.h"
#include "kernels/simd/lanes.h"

/* Codes and their values; under a scale of 0 the code of level 0. Of levels that are equally near
 * the first of the table counts, else the upper one. */
MB_LANE_INLINE void f_nearest(const struct mb_lattice *l, f_lanes scale, f_lanes offset,
                              f_lanes wanted, f_lanes *code, f_lanes *value)
{
    const f_lanes zero = {0};
    const f_lanes place = f_choose(f_differ(scale, zero), (wanted - offset) / scale, zero);
    f_lanes best, level;
    if (l->table == NULL) {
        const f_lanes last = f_all((float)l->last), at = place + (float)l->bias;
        best = f_choose(f_less(at, last), at + 0.5f, last);
        best = f_truncate(f_choose(f_less(zero, at), best, zero)); /* what is no number is code 0 */
        level = best - (float)l->bias;
    } else {
        f_lanes least = f_all(INFINITY);
        best = zero;
        level = f_all(mb_lattice_level(l, 0));
        for (uint8_t c = 0; c < 16; c++) {
            const f_lanes here = f_all(mb_lattice_level(l, c)), distance = f_abs(place - here);
            const f_mask nearer = f_less(distance, least);
            least = f_choose(nearer, distance, least);
            level = f_choose(nearer, here, level);
            best = f_choose(nearer, f_all((float)c), best);
        }
    }
    *code = best;
    *value = scale * level + offset;
}

#endif
