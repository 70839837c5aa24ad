/* SPDX-License-Identifier: Apache-2.0 */
/* The nearest level of a table of floats, for a register of values at once: the encoders' innermost
 * step, once per ISA level. Ties go to the lower level (E2M1: the smaller magnitude), and what is
 * no number to the first.
 *
 * Without shuffles that take an index every midpoint between two levels is compared with. AVX2's
 * takes one of 8: a binary search of three or four steps. AVX-512's takes one of 32, and buckets 8
 * wide (E2M1: 1 wide) hold one midpoint of iq4 at most: one comparison decides. */
#ifndef MIXBIT_KERNELS_SIMD_LEVELS_H
#define MIXBIT_KERNELS_SIMD_LEVELS_H

#include "kernels/simd/lanes.h"

#include <math.h>

/* Midpoints between neighbouring levels, and the steps between them. Counting the midpoints below a
 * value finds its code, adding up their steps its level. */
#define FOR_EACH_IQ4_MIDPOINT(M)                                                                   \
    M(-115.5f, 23)                                                                                 \
    M(-93.5f, 21)                                                                                  \
    M(-74.0f, 18)                                                                                  \
    M(-57.0f, 16)                                                                                  \
    M(-42.0f, 14)                                                                                  \
    M(-28.5f, 13)                                                                                  \
    M(-16.0f, 12)                                                                                  \
    M(-4.5f, 11)                                                                                   \
    M(7.0f, 12)                                                                                    \
    M(19.0f, 12)                                                                                   \
    M(31.5f, 13)                                                                                   \
    M(45.5f, 15)                                                                                   \
    M(61.0f, 16)                                                                                   \
    M(79.0f, 20)                                                                                   \
    M(101.0f, 24)
/* The same for the magnitudes of E2M1. */
#define FOR_EACH_E2M1_MIDPOINT(M)                                                                  \
    M(0.5f, 1)                                                                                     \
    M(1.5f, 1)                                                                                     \
    M(2.5f, 1)                                                                                     \
    M(3.5f, 1)                                                                                     \
    M(5.0f, 2)                                                                                     \
    M(7.0f, 2)                                                                                     \
    M(10.0f, 4)

/* Small integers: their sums are exact in any order. */
#define ADD_STEP(midpoint, step) +f_choose(f_less(f_all(midpoint), v), f_all(step), zero)
#define ADD_ONE(midpoint, step) +f_choose(f_less(f_all(midpoint), v), f_all(1.0f), zero)

MB_LANE_INLINE f_lanes nearest_iq4_code(f_lanes v)
{
    const f_lanes zero = {0};
    return zero FOR_EACH_IQ4_MIDPOINT(ADD_ONE);
}

MB_LANE_INLINE f_lanes nearest_e2m1_code(f_lanes value)
{
    const f_lanes zero = {0}, v = f_abs(value);
    const f_lanes magnitude = zero FOR_EACH_E2M1_MIDPOINT(ADD_ONE);
    return f_choose(f_both(f_less(zero, magnitude), f_less(value, zero)), magnitude + 8.0f,
                    magnitude);
}

#if defined(__AVX512F__) && defined(__AVX512DQ__)

MB_LANE_INLINE f_lanes nearest_iq4(f_lanes v)
{
    /* Of [8 b - 128, 8 b - 120): the midpoint in it, and the levels on its sides. */
    static const float midpoint[32] = {
        INFINITY, -115.5f,  INFINITY, INFINITY, -93.5f,   INFINITY, -74.0f,   INFINITY,
        -57.0f,   INFINITY, -42.0f,   INFINITY, -28.5f,   INFINITY, -16.0f,   -4.5f,
        7.0f,     INFINITY, 19.0f,    31.5f,    INFINITY, 45.5f,    INFINITY, 61.0f,
        INFINITY, 79.0f,    INFINITY, INFINITY, 101.0f,   INFINITY, INFINITY, INFINITY};
    static const float below[32] = {-127, -127, -104, -104, -104, -83, -83, -65, -65, -49, -49,
                                    -35,  -35,  -22,  -22,  -10,  1,   13,  13,  25,  38,  38,
                                    53,   53,   69,   69,   89,   89,  89,  113, 113, 113};
    static const float above[32] = {-127, -104, -104, -104, -83, -83, -65, -65, -49, -49, -35,
                                    -35,  -22,  -22,  -10,  1,   13,  13,  25,  38,  38,  53,
                                    53,   69,   69,   89,   89,  89,  113, 113, 113, 113};
#define PICK(table) _mm512_permutex2var_ps(f_load(table), bucket, f_load((table) + 16))
    const f_lanes place = (f_clamp(v, f_all(-128.0f), f_all(127.0f)) + 128.0f) * 0.125f;
    const __m512i bucket = _mm512_cvttps_epi32(place);
    return f_choose(f_less(PICK(midpoint), v), PICK(above), PICK(below));
#undef PICK
}

MB_LANE_INLINE f_lanes nearest_e2m1(f_lanes value)
{
    /* Of [b, b + 1). */
    static const float midpoint[16] = {0.5f,     1.5f,     2.5f,     3.5f,     INFINITY, 5.0f,
                                       INFINITY, 7.0f,     INFINITY, INFINITY, 10.0f,    INFINITY,
                                       INFINITY, INFINITY, INFINITY, INFINITY};
    static const float below[16] = {0, 1, 2, 3, 4, 4, 6, 6, 8, 8, 8, 12, 12, 12, 12, 12};
    static const float above[16] = {1, 2, 3, 4, 4, 6, 6, 8, 8, 8, 12, 12, 12, 12, 12, 12};
#define PICK(table) _mm512_permutexvar_ps(bucket, f_load(table))
    const f_lanes v = f_abs(value);
    const __m512i bucket = _mm512_cvttps_epi32(f_clamp(v, (f_lanes){0}, f_all(15.0f)));
    const f_lanes magnitude = f_choose(f_less(PICK(midpoint), v), PICK(above), PICK(below));
    return f_choose(f_less(value, (f_lanes){0}), -magnitude, magnitude);
#undef PICK
}

#elif defined(__AVX2__)

/* One step of a search: twice the index, and one more where the value is above its midpoint. */
MB_LANE_INLINE __m256i search_step(f_lanes v, const float midpoint[8], __m256i index)
{
    const f_mask above = f_less(_mm256_permutevar8x32_ps(f_load(midpoint), index), v);
    return _mm256_sub_epi32(_mm256_add_epi32(index, index), _mm256_castps_si256(above));
}

MB_LANE_INLINE f_lanes nearest_iq4(f_lanes v)
{
    static const float second[8] = {-57.0f, 45.5f}, third[8] = {-93.5f, -28.5f, 19.0f, 79.0f};
    static const float fourth[8] = {-115.5f, -74.0f, -42.0f, -16.0f, 7.0f, 31.5f, 61.0f, 101.0f};
    static const float low[8] = {-127, -104, -83, -65, -49, -35, -22, -10},
                       high[8] = {1, 13, 25, 38, 53, 69, 89, 113};
    const f_mask upper = f_less(f_all(-4.5f), v);
    __m256i index = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(upper));
    index = search_step(v, second, index);
    index = search_step(v, third, index);
    index = search_step(v, fourth, index);
    return f_choose(upper, _mm256_permutevar8x32_ps(f_load(high), index),
                    _mm256_permutevar8x32_ps(f_load(low), index));
}

MB_LANE_INLINE f_lanes nearest_e2m1(f_lanes value)
{
    static const float second[8] = {1.5f, 7.0f}, third[8] = {0.5f, 2.5f, 5.0f, 10.0f};
    static const float levels[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    const f_lanes v = f_abs(value);
    const f_mask upper = f_less(f_all(3.5f), v);
    __m256i index = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(upper));
    index = search_step(v, second, index);
    index = search_step(v, third, index);
    const f_lanes magnitude = _mm256_permutevar8x32_ps(f_load(levels), index);
    return f_choose(f_less(value, (f_lanes){0}), -magnitude, magnitude);
}

#else

MB_LANE_INLINE f_lanes nearest_iq4(f_lanes v)
{
    const f_lanes zero = {0};
    return f_all(-127.0f) FOR_EACH_IQ4_MIDPOINT(ADD_STEP);
}

MB_LANE_INLINE f_lanes nearest_e2m1(f_lanes value)
{
    const f_lanes zero = {0}, v = f_abs(value);
    const f_lanes magnitude = zero FOR_EACH_E2M1_MIDPOINT(ADD_STEP);
    return f_choose(f_less(value, zero), -magnitude, magnitude);
}

#endif

#endif
