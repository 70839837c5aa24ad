/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of AVX-512 with VNNI: what decode.h, matmul.h and prepare.h are written on.
 *
 * One zmm is a whole quad of a panel: 16 rows x 4 k of codes, 16 int32 or 16 f32. vpdpbusd
 * multiplies 64 unsigned codes by 64 signed activations and adds fours into int32 without
 * saturating, so a dot needs no shuffle, no sign trick and no second instruction. Its activation
 * operand is the same dword in every lane: a broadcast straight from memory, done by the load port.
 * (On Intel the second VNNI port is also the only zmm shuffle port: a vpshufd there costs a dot.)
 * Ports: Intel Xeon p0 + p5, 2 dots a cycle; Zen 4 one zmm dot or fma a cycle, conversions on other
 * pipes. */
#ifndef MIXBIT_KERNELS_X86_VERBS_AVX512VNNI_H
#define MIXBIT_KERNELS_X86_VERBS_AVX512VNNI_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) ||                   \
    !defined(__AVX512DQ__) || !defined(__AVX512VNNI__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with the flags that kernels/isa.def gives for avx512vnni"
#endif

#include "kernels/x86/verbs_common.h"

typedef __m512i v_code; /* 64 codes, or 16 int32 */
typedef __m512i v_act;  /* four activations in every lane */
typedef __m512i v_int, v_partial;
typedef __m512 v_float;

/* Rows of a panel in one register, registers of one panel, bytes of a register.
 */
enum { V_LANES = 16, V_PARTS = 1, V_BYTES = 64, V_REGISTERS = 32 };

/* Codes that reach 255 stay unsigned; their bias goes through the activation
 * sums. */
#define V_SIGNED_CODES 0
#define V_FLIPPED_SIGNS 0

/* A dot never saturates, so codes may stand higher than they are. */
#define V_WIDE_DOT 1
#define V_LOW_DOT 0

/* ---- memory ---- */

MB_INLINE v_code v_load(const void *p) { return _mm512_load_si512(p); }
/* Held in its register: not to be loaded again. */
MB_INLINE v_code v_keep(v_code v)
{
    __asm__("" : "+v"(v));
    return v;
}
MB_INLINE void v_store(void *p, v_code v) { _mm512_store_si512(p, v); }
MB_INLINE v_float v_load_float(const float *p) { return _mm512_loadu_ps(p); }
MB_INLINE void v_store_float(float *p, v_float v) { _mm512_storeu_ps(p, v); }

/* The first `count` floats only; nothing behind them is touched. */
MB_INLINE v_float v_load_some(const float *p, size_t count)
{
    return count >= V_LANES ? v_load_float(p)
                            : _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
MB_INLINE void v_store_some(float *p, v_float v, size_t count)
{
    if (count >= V_LANES)
        v_store_float(p, v);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), v);
}

/* Four bytes, one float, in every lane. */
MB_INLINE v_code v_broadcast4(const void *p) { return _mm512_set1_epi32(*(const v_dword *)p); }
/* The activations of quad `quad` behind p. */
MB_INLINE v_act v_load_act(const uint8_t *p, unsigned quad) { return v_broadcast4(p + 4 * quad); }
MB_INLINE v_float v_broadcast_float(const float *p) { return _mm512_set1_ps(*p); }

/* ---- codes ---- */

MB_INLINE v_code v_bytes(int byte) { return _mm512_set1_epi8((char)byte); }
MB_INLINE v_code v_and(v_code a, v_code b) { return _mm512_and_si512(a, b); }
MB_INLINE v_code v_xor(v_code a, v_code b) { return _mm512_xor_si512(a, b); }
MB_INLINE v_code v_or_and(v_code a, v_code b, v_code mask)
{
    return _mm512_ternarylogic_epi64(a, b, mask, 0xf8);
}
/* Shift towards bit 0 by n, or away from it by -n; bits that cross a byte are
 * masked off by the caller. */
MB_INLINE v_code v_shift(v_code v, int n)
{
    return n > 0   ? _mm512_srli_epi16(v, (unsigned)n)
           : n < 0 ? _mm512_slli_epi16(v, (unsigned)-n)
                   : v;
}
/* The bits of `mask` after a shift towards bit 0. */
MB_INLINE v_code v_bits(v_code v, int n, int mask) { return v_and(v_shift(v, n), v_bytes(mask)); }
MB_INLINE v_code v_table(const void *table16)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128(table16));
}
/* Indexes below 16; the four bits from bit n on. */
MB_INLINE v_code v_lookup(v_code table, v_code index) { return _mm512_shuffle_epi8(table, index); }
MB_INLINE v_code v_lookup_bits4(v_code table, v_code v, int n)
{
#if defined(__AVX512VBMI__)
    return _mm512_permutexvar_epi8(v_shift(v, n), table); /* the table stands there four times */
#else
    return v_lookup(table, v_bits(v, n, 15));
#endif
}
/* Indexes below 16, into `high` where bit 7 of `selector` is set. */
#define V_LOOKUP_BY_BIT7 1
MB_INLINE v_code v_lookup_by_bit7(v_code low, v_code high, v_code index, v_code selector)
{
    return _mm512_mask_shuffle_epi8(v_lookup(low, index), _mm512_movepi8_mask(selector), high,
                                    index);
}
/* Whether a register is a table of 64, whose index ignores its upper two bits. */
#if defined(__AVX512VBMI__)
#define V_LOOKUP64 1
MB_INLINE v_code v_lookup64(v_code table, v_code index)
{
    return _mm512_permutexvar_epi8(index, table);
}
/* Bits of a where the mask has them, of b elsewhere. */
MB_INLINE v_code v_select(v_code mask, v_code a, v_code b)
{
    return _mm512_ternarylogic_epi64(mask, a, b, 0xca);
}
/* The first 2^bits entries of a table of 32, for indexes that stand `at` bits up. */
MB_INLINE v_code v_spread32(const uint8_t *table32, unsigned at, unsigned bits)
{
    static const _Alignas(64) uint8_t numbers[64] = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    const v_code table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)table32));
    return v_lookup64(table, v_bits(v_load(numbers), (int)at, (1 << bits) - 1));
}
#else
#define V_LOOKUP64 0
#endif
/* Of byte i of every four: an index in [8 i, 8 i + 8) into a table in memory, in [16 i, 16 i + 16).
 * A shuffle takes the low four bits of each. */
MB_INLINE v_code v_lookup_columns8(const uint8_t *table32, v_code index)
{
#if defined(__AVX512VBMI__)
    return v_lookup64(_mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)table32)), index);
#else
    return _mm512_mask_shuffle_epi8(v_lookup(v_table(table32), index), 0xcccccccccccccccc,
                                    v_table(table32 + 16), index);
#endif
}
MB_INLINE v_code v_lookup_columns16(const uint8_t *table64, v_code index)
{
#if defined(__AVX512VBMI__)
    return v_lookup64(v_load(table64), index);
#else
    const v_code first = v_lookup(v_table(table64), index);
    const v_code second =
        _mm512_mask_shuffle_epi8(first, 0x2222222222222222, v_table(table64 + 16), index);
    const v_code third =
        _mm512_mask_shuffle_epi8(second, 0x4444444444444444, v_table(table64 + 32), index);
    return _mm512_mask_shuffle_epi8(third, 0x8888888888888888, v_table(table64 + 48), index);
#endif
}

/* ---- dots: v_dot_first, v_dot_next up to v_dot_chain times, v_dot_fold ---- */

MB_INLINE unsigned v_dot_chain(unsigned max_code) { return (void)max_code, 8; }
MB_INLINE v_int v_dot_first(v_int start, v_code code, v_code act, unsigned max_code)
{
    return (void)max_code, _mm512_dpbusd_epi32(start, code, act);
}
MB_INLINE v_int v_dot_next(v_int partial, v_code code, v_code act, unsigned max_code)
{
    return (void)max_code, _mm512_dpbusd_epi32(partial, code, act);
}
/* For ISAs with signed codes; never reached here. */
MB_INLINE v_int v_dot_flipped(v_code code, v_code act) { return (void)act, code; }
MB_INLINE v_int v_sum_negatives(v_int sum, v_code code) { return (void)code, sum; }
MB_INLINE v_int v_dot_fold(v_int start, v_int partial, unsigned max_code)
{
    return (void)start, (void)max_code, partial;
}
/* sum + pairs of int16 . pairs of int16, for the minima. */
MB_INLINE v_int v_dot2(v_int sum, v_int a, v_int b) { return _mm512_dpwssd_epi32(sum, a, b); }
MB_INLINE v_int v_int_add(v_int a, v_int b) { return _mm512_add_epi32(a, b); }
MB_INLINE v_int v_int_sra(v_int v, unsigned n) { return _mm512_srai_epi32(v, n); }
MB_INLINE v_int v_zero(void) { return _mm512_setzero_si512(); }
MB_INLINE v_int v_int_and(v_int a, int b) { return _mm512_and_si512(a, _mm512_set1_epi32(b)); }
MB_INLINE v_int v_int_shift(v_int v, unsigned n) { return n ? _mm512_srli_epi32(v, n) : v; }

/* ---- floats ---- */

MB_INLINE v_float v_zero_float(void) { return _mm512_setzero_ps(); }
MB_INLINE v_float v_to_float(v_int v) { return _mm512_cvtepi32_ps(v); }
MB_INLINE v_float v_mul(v_float a, v_float b) { return _mm512_mul_ps(a, b); }
MB_INLINE v_float v_fma(v_float a, v_float b, v_float c) { return _mm512_fmadd_ps(a, b, c); }
MB_INLINE v_float v_fnma(v_float a, v_float b, v_float c) { return _mm512_fnmadd_ps(a, b, c); }

/* ---- widening loads: V_LANES elements ---- */

MB_INLINE v_float v_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
/* The halves of dwords that are pairs of bf16, and their dot: two fma, the upper half's first, in
 * one instruction (kernel.h). */
MB_INLINE v_float v_pair_low(v_code v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
MB_INLINE v_float v_pair_high(v_code v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
}
#if defined(__AVX512BF16__)
#define V_PAIR_DOT 1
MB_INLINE v_float v_dot_pair(v_float f, v_code w, v_code x)
{
    return _mm512_dpbf16_ps(f, (__m512bh)w, (__m512bh)x);
}
#else
#define V_PAIR_DOT 0
#endif
/* Scales of one byte (kernels/half.h): 2^(e - 128), subnormal for e < 2; half of a UE4M3. */
MB_INLINE v_float v_load_e8m0(const void *p)
{
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    const __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(
        _mm512_mask_sllv_epi32(normal, is_subnormal, _mm512_set1_epi32(0x00200000), e));
}
MB_INLINE v_float v_load_ue4m3(const void *p)
{
    const __m256i byte = _mm256_cvtepu8_epi16(_mm_loadu_si128(p));
    const __m256i half = _mm256_slli_epi16(_mm256_and_si256(byte, _mm256_set1_epi16(0x7f)), 7);
    const __mmask16 is_number = _mm256_cmpneq_epi16_mask(byte, _mm256_set1_epi16(0x7f));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_maskz_mov_epi16(is_number, half)),
                         _mm512_set1_ps(128));
}
MB_INLINE v_int v_load_u16(const void *p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p)); }
MB_INLINE v_int v_load_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
MB_INLINE v_int v_load_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
/* [V_LANES][2] bytes -> [V_LANES][2] int16 */
MB_INLINE v_int v_load_u8_pairs(const void *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(p));
}
/* The same of the high nibbles. */
MB_INLINE v_int v_load_high_pairs(const void *p)
{
    const __m256i high = _mm256_srli_epi16(_mm256_loadu_si256(p), 4);
    return _mm512_cvtepu8_epi16(_mm256_and_si256(high, _mm256_set1_epi8(15)));
}

/* ---- integer-only outputs ---- */

/* In every lane zero + floor((acc * mantissa + 2^(shift - 1)) / 2^shift), saturated to int8
 * (kernels/integer.h): 64 bits at a time, even and odd lanes apart. */
MB_INLINE v_int v_requantize_half(v_int acc, v_int mantissa, v_int shift, int32_t zero)
{
    const __m512i half =
        _mm512_sllv_epi64(_mm512_set1_epi64(1), _mm512_sub_epi64(shift, _mm512_set1_epi64(1)));
    const __m512i y =
        _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(acc, mantissa), half), shift);
    const __m512i clamped = _mm512_max_epi64(_mm512_min_epi64(y, _mm512_set1_epi64(127 - zero)),
                                             _mm512_set1_epi64(-128 - zero));
    return _mm512_add_epi64(clamped, _mm512_set1_epi64(zero));
}
MB_INLINE v_int v_requantize(v_int acc, v_int mantissa, v_int shift, int32_t zero)
{
    const __m512i low = _mm512_set1_epi64(0xffffffff);
    const v_int even = v_requantize_half(acc, mantissa, _mm512_and_si512(shift, low), zero);
    const v_int odd = v_requantize_half(_mm512_srli_epi64(acc, 32), _mm512_srli_epi64(mantissa, 32),
                                        _mm512_srli_epi64(shift, 32), zero);
    return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}
/* The first `count` lanes as bytes. */
MB_INLINE void v_store_bytes(int8_t *p, v_int v, size_t count)
{
    if (count >= V_LANES)
        _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(v));
    else
        _mm_mask_storeu_epi8(p, (__mmask16)((1u << count) - 1), _mm512_cvtepi32_epi8(v));
}

/* ---- preparing activations ---- */

/* 16 floats as bf16, round to nearest even; a NaN stays one, quiet. (vcvtneps2bf16 would make zeros
 * of subnormals.) */
MB_INLINE void v_store_bf16(void *p, v_float x)
{
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    const __m512i last = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
    const __m512i half =
        _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                             upper, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(half));
}

MB_INLINE v_float v_abs_max(v_float x, v_float max)
{
    return _mm512_max_ps(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x),
                                                              _mm512_set1_epi32(0x7fffffff))),
                         max);
}
MB_INLINE float v_reduce_max(v_float v) { return _mm512_reduce_max_ps(v); }
/* 16 floats -> 16 int8 at p, round to nearest even, what is no number is 0;
 * returns their sum. */
MB_INLINE int v_quantize16(const float *x, float inverse, int8_t *p)
{
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse));
    const __m512i q =
        _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(scaled, scaled, _CMP_ORD_Q), scaled);
    const __m128i bytes = _mm512_cvtsepi32_epi8(q);
    _mm_storeu_si128((__m128i *)p, bytes);
    /* Of bytes that are 128 more, since those are summed without signs. */
    const __m128i sum =
        _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 2) - 16 * 128;
}

#endif
