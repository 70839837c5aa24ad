/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of 256-bit registers that AVX2 and AVX-VNNI have in common: all but the dots.
 *
 * One ymm is half a quad of a panel: 8 rows x 4 k of codes, 8 int32 or 8 f32. */
#ifndef MIXBIT_KERNELS_X86_VERBS_YMM_H
#define MIXBIT_KERNELS_X86_VERBS_YMM_H

#include "kernels/x86/verbs_common.h"

typedef __m256i v_code; /* 32 codes, or 8 int32, or 16 int16 of a running dot */
typedef __m256i v_act;  /* four activations in every lane */
typedef __m256i v_int, v_partial;
typedef __m256 v_float;

/* Rows of a panel in one register, registers of one panel, bytes of a register, registers there
 * are.
 */
enum { V_LANES = 8, V_PARTS = 2, V_BYTES = 32, V_REGISTERS = 16 };

/* ---- memory ---- */

MB_INLINE v_code v_load(const void *p) { return _mm256_load_si256(p); }
/* Loading a vector again is cheaper here than what 16 registers would spill to hold it. */
MB_INLINE v_code v_keep(v_code v) { return v; }
MB_INLINE void v_store(void *p, v_code v) { _mm256_store_si256(p, v); }
MB_INLINE v_float v_load_float(const float *p) { return _mm256_loadu_ps(p); }
MB_INLINE void v_store_float(float *p, v_float v) { _mm256_storeu_ps(p, v); }

/* The first `count` floats only; nothing behind them is touched. */
MB_INLINE __m256i v_tail_mask(size_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
MB_INLINE v_float v_load_some(const float *p, size_t count)
{
    return count >= V_LANES ? v_load_float(p)
           : count          ? _mm256_maskload_ps(p, v_tail_mask(count))
                            : _mm256_setzero_ps();
}
MB_INLINE void v_store_some(float *p, v_float v, size_t count)
{
    if (count >= V_LANES)
        v_store_float(p, v);
    else if (count)
        _mm256_maskstore_ps(p, v_tail_mask(count), v);
}

/* Four bytes, one float, in every lane. */
MB_INLINE v_code v_broadcast4(const void *p) { return _mm256_set1_epi32(*(const v_dword *)p); }
/* The activations of quad `quad` behind p. */
MB_INLINE v_act v_load_act(const uint8_t *p, unsigned quad) { return v_broadcast4(p + 4 * quad); }
MB_INLINE v_float v_broadcast_float(const float *p) { return _mm256_set1_ps(*p); }

/* ---- codes ---- */

MB_INLINE v_code v_bytes(int byte) { return _mm256_set1_epi8((char)byte); }
MB_INLINE v_code v_and(v_code a, v_code b) { return _mm256_and_si256(a, b); }
MB_INLINE v_code v_xor(v_code a, v_code b) { return _mm256_xor_si256(a, b); }
MB_INLINE v_code v_or_and(v_code a, v_code b, v_code mask)
{
    return _mm256_or_si256(a, _mm256_and_si256(b, mask));
}
/* Shift towards bit 0 by n, or away from it by -n; bits that cross a byte are
 * masked off by the caller. */
MB_INLINE v_code v_shift(v_code v, int n)
{
    return n > 0 ? _mm256_srli_epi16(v, n) : n < 0 ? _mm256_slli_epi16(v, -n) : v;
}
/* The bits of `mask` after a shift towards bit 0. */
MB_INLINE v_code v_bits(v_code v, int n, int mask) { return v_and(v_shift(v, n), v_bytes(mask)); }
MB_INLINE v_code v_table(const void *table16)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(table16));
}
/* Indexes below 16; the four bits from bit n on. */
MB_INLINE v_code v_lookup(v_code table, v_code index) { return _mm256_shuffle_epi8(table, index); }
MB_INLINE v_code v_lookup_bits4(v_code table, v_code v, int n)
{
    return v_lookup(table, v_bits(v, n, 15));
}
/* Indexes below 16, into `high` where bit 7 of `selector` is set. */
#define V_LOOKUP_BY_BIT7 1
MB_INLINE v_code v_lookup_by_bit7(v_code low, v_code high, v_code index, v_code selector)
{
    return _mm256_blendv_epi8(v_lookup(low, index), v_lookup(high, index), selector);
}
#define V_LOOKUP64 0
/* Of byte i of every four: an index in [8 i, 8 i + 8) into a table in memory, in [16 i, 16 i + 16).
 * A shuffle takes the low four bits of each. */
MB_INLINE v_code v_lookup_columns8(const uint8_t *table32, v_code index)
{
    return _mm256_blend_epi16(v_lookup(v_table(table32), index),
                              v_lookup(v_table(table32 + 16), index), 0xaa);
}
MB_INLINE v_code v_lookup_columns16(const uint8_t *table64, v_code index)
{
    const v_code odd = _mm256_set1_epi16((short)0xff00);
    const v_code low = _mm256_blendv_epi8(v_lookup(v_table(table64), index),
                                          v_lookup(v_table(table64 + 16), index), odd);
    const v_code high = _mm256_blendv_epi8(v_lookup(v_table(table64 + 32), index),
                                           v_lookup(v_table(table64 + 48), index), odd);
    return _mm256_blend_epi16(low, high, 0xaa);
}

/* ---- sums of dots ---- */

/* sum + pairs of int16 . pairs of int16, for the minima. */
MB_INLINE v_int v_dot2(v_int sum, v_int a, v_int b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
MB_INLINE v_int v_int_add(v_int a, v_int b) { return _mm256_add_epi32(a, b); }
MB_INLINE v_int v_int_sra(v_int v, unsigned n) { return _mm256_srai_epi32(v, (int)n); }
MB_INLINE v_int v_zero(void) { return _mm256_setzero_si256(); }
MB_INLINE v_int v_int_and(v_int a, int b) { return _mm256_and_si256(a, _mm256_set1_epi32(b)); }
MB_INLINE v_int v_int_shift(v_int v, unsigned n) { return n ? _mm256_srli_epi32(v, (int)n) : v; }

/* ---- floats ---- */

MB_INLINE v_float v_zero_float(void) { return _mm256_setzero_ps(); }
MB_INLINE v_float v_to_float(v_int v) { return _mm256_cvtepi32_ps(v); }
MB_INLINE v_float v_mul(v_float a, v_float b) { return _mm256_mul_ps(a, b); }
MB_INLINE v_float v_fma(v_float a, v_float b, v_float c) { return _mm256_fmadd_ps(a, b, c); }
MB_INLINE v_float v_fnma(v_float a, v_float b, v_float c) { return _mm256_fnmadd_ps(a, b, c); }

/* ---- widening loads: V_LANES elements ---- */

MB_INLINE v_float v_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
/* The halves of dwords that are pairs of bf16. There is no dot of them. */
#define V_PAIR_DOT 0
MB_INLINE v_float v_pair_low(v_code v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
MB_INLINE v_float v_pair_high(v_code v)
{
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
}
/* Scales of one byte (kernels/half.h): 2^(e - 128), subnormal for e < 2; half of a UE4M3. */
MB_INLINE v_float v_load_e8m0(const void *p)
{
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    const __m256i is_subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, is_subnormal));
}
MB_INLINE v_float v_load_ue4m3(const void *p)
{
    const __m128i byte = _mm_cvtepu8_epi16(_mm_loadl_epi64(p));
    const __m128i half = _mm_slli_epi16(_mm_and_si128(byte, _mm_set1_epi16(0x7f)), 7);
    const __m128i is_zero = _mm_cmpeq_epi16(byte, _mm_set1_epi16(0x7f));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_andnot_si128(is_zero, half)), _mm256_set1_ps(128));
}
MB_INLINE v_int v_load_u16(const void *p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128(p)); }
MB_INLINE v_int v_load_u8(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
MB_INLINE v_int v_load_i8(const void *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(p)); }
/* [V_LANES][2] bytes -> [V_LANES][2] int16 */
MB_INLINE v_int v_load_u8_pairs(const void *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128(p)); }
/* The same of the high nibbles. */
MB_INLINE v_int v_load_high_pairs(const void *p)
{
    const __m128i high = _mm_srli_epi16(_mm_loadu_si128(p), 4);
    return _mm256_cvtepu8_epi16(_mm_and_si128(high, _mm_set1_epi8(15)));
}

/* ---- integer-only outputs ---- */

/* In every lane zero + floor((acc * mantissa + 2^(shift - 1)) / 2^shift), saturated to int8
 * (kernels/integer.h): 64 bits at a time, even and odd lanes apart. There is no arithmetic shift of
 * 64 bits: what is shifted is 2^63 more, and 2^(63 - shift) comes off afterwards. */
MB_INLINE v_int v_requantize_half(v_int acc, v_int mantissa, v_int shift, int32_t zero)
{
    const __m256i top = _mm256_set1_epi64x(INT64_MIN), one = _mm256_set1_epi64x(1);
    const __m256i half = _mm256_sllv_epi64(one, _mm256_sub_epi64(shift, one));
    const __m256i sum = _mm256_add_epi64(_mm256_mul_epi32(acc, mantissa), half);
    const __m256i y = _mm256_sub_epi64(_mm256_srlv_epi64(_mm256_xor_si256(sum, top), shift),
                                       _mm256_srlv_epi64(top, shift));
    const __m256i most = _mm256_set1_epi64x(127 - zero), least = _mm256_set1_epi64x(-128 - zero);
    const __m256i below = _mm256_blendv_epi8(y, most, _mm256_cmpgt_epi64(y, most));
    const __m256i clamped = _mm256_blendv_epi8(below, least, _mm256_cmpgt_epi64(least, below));
    return _mm256_add_epi64(clamped, _mm256_set1_epi64x(zero));
}
MB_INLINE v_int v_requantize(v_int acc, v_int mantissa, v_int shift, int32_t zero)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    const v_int even = v_requantize_half(acc, mantissa, _mm256_and_si256(shift, low), zero);
    const v_int odd = v_requantize_half(_mm256_srli_epi64(acc, 32), _mm256_srli_epi64(mantissa, 32),
                                        _mm256_srli_epi64(shift, 32), zero);
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
/* The first `count` lanes as bytes. */
MB_INLINE void v_store_bytes(int8_t *p, v_int v, size_t count)
{
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    if (count >= V_LANES) {
        _mm_storel_epi64((__m128i *)(void *)p, bytes);
        return;
    }
    int8_t some[16];
    _mm_storeu_si128((__m128i *)(void *)some, bytes);
    memcpy(p, some, count);
}

/* ---- preparing activations ---- */

/* V_LANES floats as bf16, round to nearest even; a NaN stays one, quiet. */
MB_INLINE void v_store_bf16(void *p, v_float x)
{
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i last = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i half = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, is_nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0xd8);
    _mm_storeu_si128(p, _mm256_castsi256_si128(packed));
}

MB_INLINE v_float v_abs_max(v_float x, v_float max)
{
    return _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), max);
}
MB_INLINE float v_reduce_max(v_float v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
/* 8 floats -> 8 int32, round to nearest even, what is no number is 0. */
MB_INLINE __m256i v_round(__m256 x)
{
    return _mm256_and_si256(_mm256_cvtps_epi32(x),
                            _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q)));
}
/* 16 floats -> 16 int8 at p; returns their sum. */
MB_INLINE int v_quantize16(const float *x, float inverse, int8_t *p)
{
    const __m256 scale = _mm256_set1_ps(inverse);
    const __m256i a = v_round(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
    const __m256i b = v_round(_mm256_mul_ps(_mm256_loadu_ps(x + 8), scale));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(low, high));
    __m128i sum = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
    sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
    return _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1);
}

#endif
