/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of f32 lanes for code that is compiled once per ISA level and has to give the same bits
 * on all of them: as wide as the level that includes this, with its own comparisons and choices.
 * Sums and products are the compiler's operators, each rounded by itself; nothing is fused and
 * nothing is estimated. */
#ifndef MIXBIT_KERNELS_SIMD_LANES_H
#define MIXBIT_KERNELS_SIMD_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MB_LANE_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
typedef __m512 f_lanes;
typedef __mmask16 f_mask;
enum { F_LANES = 16 };
MB_LANE_INLINE f_mask f_less(f_lanes a, f_lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
MB_LANE_INLINE f_mask f_differ(f_lanes a, f_lanes b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
MB_LANE_INLINE f_mask f_both(f_mask a, f_mask b) { return a & b; }
MB_LANE_INLINE f_mask f_not(f_mask a) { return (f_mask)~a; }
MB_LANE_INLINE f_lanes f_choose(f_mask mask, f_lanes a, f_lanes b)
{
    return _mm512_mask_blend_ps(mask, b, a);
}
/* The value or zero. */
MB_LANE_INLINE f_lanes f_keep(f_mask mask, f_lanes v) { return _mm512_maskz_mov_ps(mask, v); }
MB_LANE_INLINE unsigned f_bits(f_mask mask) { return mask; }
MB_LANE_INLINE f_lanes f_truncate(f_lanes v) { return _mm512_cvtepi32_ps(_mm512_cvttps_epi32(v)); }
MB_LANE_INLINE f_lanes f_abs(f_lanes v) { return _mm512_abs_ps(v); }
/* To the nearest integer, ties to even; |v| < 2^22. The sign of a zero is the level's own. */
MB_LANE_INLINE f_lanes f_round(f_lanes v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MB_LANE_INLINE f_lanes f_max(f_lanes a, f_lanes b) { return _mm512_max_ps(a, b); }
MB_LANE_INLINE f_lanes f_min(f_lanes a, f_lanes b) { return _mm512_min_ps(a, b); }
MB_LANE_INLINE void f_store_bytes(uint8_t *p, f_lanes v)
{
    _mm_storeu_si128((__m128i_u *)p, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v)));
}
#elif defined(__AVX2__)
#include <immintrin.h>
typedef __m256 f_lanes;
typedef __m256 f_mask;
enum { F_LANES = 8 };
MB_LANE_INLINE f_mask f_less(f_lanes a, f_lanes b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
MB_LANE_INLINE f_mask f_differ(f_lanes a, f_lanes b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
MB_LANE_INLINE f_mask f_both(f_mask a, f_mask b) { return _mm256_and_ps(a, b); }
MB_LANE_INLINE f_mask f_not(f_mask a) { return (f_mask) ~(__m256i)a; }
MB_LANE_INLINE f_lanes f_choose(f_mask mask, f_lanes a, f_lanes b)
{
    return _mm256_blendv_ps(b, a, mask);
}
MB_LANE_INLINE f_lanes f_keep(f_mask mask, f_lanes v) { return _mm256_and_ps(mask, v); }
MB_LANE_INLINE unsigned f_bits(f_mask mask) { return (unsigned)_mm256_movemask_ps(mask); }
MB_LANE_INLINE f_lanes f_truncate(f_lanes v) { return _mm256_cvtepi32_ps(_mm256_cvttps_epi32(v)); }
MB_LANE_INLINE f_lanes f_abs(f_lanes v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
MB_LANE_INLINE f_lanes f_round(f_lanes v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
MB_LANE_INLINE f_lanes f_max(f_lanes a, f_lanes b) { return _mm256_max_ps(a, b); }
MB_LANE_INLINE f_lanes f_min(f_lanes a, f_lanes b) { return _mm256_min_ps(a, b); }
MB_LANE_INLINE void f_store_bytes(uint8_t *p, f_lanes v)
{
    const __m256i dwords = _mm256_cvttps_epi32(v);
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));
    _mm_storel_epi64((__m128i_u *)p, _mm_packus_epi16(words, words));
}
#else
/* What every CPU of the architecture has. */
typedef float f_lanes __attribute__((vector_size(16)));
typedef int f_mask __attribute__((vector_size(16)));
enum { F_LANES = 4 };
MB_LANE_INLINE f_mask f_less(f_lanes a, f_lanes b) { return a < b; }
MB_LANE_INLINE f_mask f_differ(f_lanes a, f_lanes b) { return a != b; }
MB_LANE_INLINE f_mask f_both(f_mask a, f_mask b) { return a & b; }
MB_LANE_INLINE f_mask f_not(f_mask a) { return ~a; }
MB_LANE_INLINE f_lanes f_choose(f_mask mask, f_lanes a, f_lanes b)
{
    return (f_lanes)((mask & (f_mask)a) | (~mask & (f_mask)b));
}
MB_LANE_INLINE f_lanes f_keep(f_mask mask, f_lanes v) { return (f_lanes)(mask & (f_mask)v); }
/* Two additions round as they are told, on any CPU. */
MB_LANE_INLINE f_lanes f_round(f_lanes v) { return (v + 0x1.8p23f) - 0x1.8p23f; }
#if defined(__SSE2__)
#include <emmintrin.h>
MB_LANE_INLINE unsigned f_bits(f_mask mask) { return (unsigned)_mm_movemask_ps((__m128)mask); }
MB_LANE_INLINE f_lanes f_max(f_lanes a, f_lanes b) { return _mm_max_ps(a, b); }
MB_LANE_INLINE f_lanes f_min(f_lanes a, f_lanes b) { return _mm_min_ps(a, b); }
#else
MB_LANE_INLINE f_lanes f_max(f_lanes a, f_lanes b) { return f_choose(f_less(b, a), a, b); }
MB_LANE_INLINE f_lanes f_min(f_lanes a, f_lanes b) { return f_choose(f_less(a, b), a, b); }
MB_LANE_INLINE unsigned f_bits(f_mask mask)
{
    const f_mask place = {1, 2, 4, 8}, bit = mask & place;
    return (unsigned)(bit[0] | bit[1] | bit[2] | bit[3]);
}
#endif
MB_LANE_INLINE f_lanes f_truncate(f_lanes v)
{
    return __builtin_convertvector(__builtin_convertvector(v, f_mask), f_lanes);
}
MB_LANE_INLINE f_lanes f_abs(f_lanes v) { return (f_lanes)((f_mask)v & 0x7fffffff); }
MB_LANE_INLINE void f_store_bytes(uint8_t *p, f_lanes v)
{
    const f_mask dwords = __builtin_convertvector(v, f_mask);
    for (unsigned lane = 0; lane < F_LANES; lane++)
        p[lane] = (uint8_t)dwords[lane];
}
#endif

MB_LANE_INLINE f_lanes f_load(const float *p)
{
    f_lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}
MB_LANE_INLINE void f_store(float *p, f_lanes v) { memcpy(p, &v, sizeof v); }
/* Less zero, not plus zero: -0 stays what it is. */
MB_LANE_INLINE f_lanes f_all(float x) { return x - (f_lanes){0}; }
/* f_max: a > b ? a : b; f_min: a < b ? a : b. What is no number becomes `low`. */
MB_LANE_INLINE f_lanes f_clamp(f_lanes v, f_lanes low, f_lanes high)
{
    return f_min(f_max(v, low), high);
}
/* The lane of that number, and no other. */
MB_LANE_INLINE f_mask f_only(unsigned lane)
{
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (f_mask)(1u << lane);
#else
    static const float numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
    return f_less(f_abs(f_load(numbers) - (float)lane), f_all(0.5f));
#endif
}

/* A dot product in 8 partial sums: registers of them, and how it ends. */
#if defined(__AVX2__)
typedef __m256 f_part;
enum { F_PART = 8 };
MB_LANE_INLINE float f_fold(const f_part *sum)
{
    const __m128 four = _mm256_castps256_ps128(*sum) + _mm256_extractf128_ps(*sum, 1);
    const __m128 two = four + _mm_movehl_ps(four, four);
    return two[0] + two[1];
}
#else
typedef f_lanes f_part;
enum { F_PART = 4 };
MB_LANE_INLINE float f_fold(const f_part *sum)
{
    const f_part four = sum[0] + sum[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}
#endif
MB_LANE_INLINE f_part f_load_part(const float *p)
{
    f_part v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
