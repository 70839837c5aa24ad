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
        f_lanes distance[16], levels[16], codes[16];
#pragma GCC unroll 16
        for (unsigned c = 0; c < 16; c++) {
            codes[c] = f_all((float)c);
            levels[c] = f_all(mb_lattice_level(l, (uint8_t)c));
            distance[c] = f_abs(place - levels[c]);
        }
        /* In pairs, the first unless the second is nearer: four comparisons wait for each other. */
#pragma GCC unroll 4
        for (unsigned step = 1; step < 16; step *= 2)
#pragma GCC unroll 8
            for (unsigned c = 0; c < 16; c += 2 * step) {
                const f_mask nearer = f_less(distance[c + step], distance[c]);
                distance[c] = f_choose(nearer, distance[c + step], distance[c]);
                levels[c] = f_choose(nearer, levels[c + step], levels[c]);
                codes[c] = f_choose(nearer, codes[c + step], codes[c]);
            }
        best = codes[0];
        level = levels[0];
    }
    *code = best;
    *value = scale * level + offset;
}

#endif
