/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of w = d * t with t in -1, 0, 1: exact least squares, once per ISA level.
 *
 * For the weights that are not 0 the best d is sum w |x| / sum w over them, and takes away
 * (sum w |x|)^2 / sum w of the error. Whatever d is, those weights are the largest ones (above
 * d / 2), so the best of all choices is among the 256 prefixes of the weights in falling order:
 * each block is sorted, then the sums run in all lanes at once. */
#ifndef MIXBIT_KERNELS_SIMD_ENCODE_TERNARY_H
#define MIXBIT_KERNELS_SIMD_ENCODE_TERNARY_H

#include "kernels/simd/samples.h"

struct ranked {
    uint32_t key; /* rises as the magnitude falls */
    uint32_t at;
};

/* By a byte of the key, equal ones in the order they have. */
MB_LANE_INLINE void sort_by_byte(const struct ranked *from, struct ranked *to, unsigned shift)
{
    uint16_t place[256] = {0};
    unsigned sum = 0;
    for (unsigned i = 0; i < 256; i++)
        place[from[i].key >> shift & 255]++;
    for (unsigned b = 0; b < 256; b++) {
        const unsigned count = place[b];
        place[b] = (uint16_t)sum;
        sum += count;
    }
    for (unsigned i = 0; i < 256; i++)
        to[place[from[i].key >> shift & 255]++] = from[i];
}

/* Magnitudes and importance of one lane, largest first; of equal ones the earlier. */
static void sort_lane(const struct samples *s, unsigned lane, f_line *size, f_line *w)
{
    struct ranked ranked[256], other[256];
    for (unsigned i = 0; i < 256; i++)
        ranked[i] = (struct ranked){0x7fffffffu - (mb_float_bits(s->x[i][lane]) & 0x7fffffffu), i};
    sort_by_byte(ranked, other, 0);
    sort_by_byte(other, ranked, 8);
    sort_by_byte(ranked, other, 16);
    sort_by_byte(other, ranked, 24);
    for (unsigned i = 0; i < 256; i++) {
        size[i][lane] = fabsf(s->x[ranked[i].at][lane]);
        w[i][lane] = s->w[ranked[i].at][lane];
    }
}

/* Without importance all weights count the same, and magnitudes are all there is to be sorted: a
 * bitonic network, all lanes at once. */
MB_LANE_INLINE void sort_lanes(f_line *size)
{
    for (unsigned run = 2; run <= 256; run *= 2)
        for (unsigned step = run / 2; step > 0; step /= 2)
            for (unsigned pair = 0; pair < 128; pair++) {
                const unsigned low = pair / step * step * 2 + pair % step, high = low + step;
                const f_lanes a = f_load(size[low]), b = f_load(size[high]);
                const bool rising = low & run;
                f_store(size[rising ? high : low], f_max(a, b));
                f_store(size[rising ? low : high], f_min(a, b));
            }
}

MB_LANE_INLINE void sort_samples(struct samples *s, const struct sources *from, f_line *size,
                                 f_line *w)
{
    for (unsigned i = 0; i < 256; i++) {
        f_store(size[i], f_abs(f_load(s->x[i])));
        f_store(w[i], f_load(s->w[i]));
    }
    if (from->importance[0] == NULL)
        sort_lanes(size);
    else
        for (unsigned lane = 0; lane < from->count; lane++)
            sort_lane(s, lane, size, w);
}

static void encode_ternary(const struct sources *from, struct encoded *to)
{
    const f_lanes zero = {0}, one = f_all(1.0f);
    struct samples s;
    _Alignas(sizeof(f_lanes)) f_line size[256];
    _Alignas(sizeof(f_lanes)) f_line w[256];
    f_lanes xs = zero, ws = zero, best = zero, scale = zero;
    take_samples(from, &s);
    sort_samples(&s, from, size, w);
    for (unsigned i = 0; i < 256; i++) {
        xs += f_load(w[i]) * f_load(size[i]);
        ws += f_load(w[i]);
        const f_mask better = f_less(best * ws, xs * xs);
        best = f_choose(better, xs * xs / ws, best);
        scale = f_choose(better, xs / ws, scale);
    }
    const f_lanes half = 0.5f * store_scales(scale, &s, to->d);
    for (unsigned i = 0; i < 256; i++) {
        const f_lanes x = f_load(s.x[i]);
        f_store_bytes(to->code[i], one + f_choose(f_less(half, f_abs(x)),
                                                  f_choose(f_less(x, zero), -one, one), zero));
    }
}

#endif
