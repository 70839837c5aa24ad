/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of AVX2, FMA and F16C: what decode.h, matmul.h and prepare.h are written on.
 *
 * One ymm is half a quad of a panel: 8 rows x 4 k of codes, 8 int32 or 8 f32. vpmaddubsw multiplies
 * 32 unsigned codes by 32 signed activations and adds pairs into saturating int16. How many such
 * products may be chained before they are widened (vpmaddwd with ones) follows from the largest
 * code, activations being within 127:
 *
 *   codes to 15: 8 products, 8 * 2 * 15 * 127 = 30480; to 31: 4, 31496; to 63: 2, 32004; to 127: 1
 *
 * so a 4-bit group of 32 costs 8 multiplies, 7 adds (any port) and one widening. Codes up to 255
 * could saturate in one product; they are kept signed instead, and the sign moves to the activation
 * (|w| * sign(a, w) is within 2 * 128 * 127 = 32512).
 * Ports: two multiplies a cycle (Intel p0 p1, two of four on Zen), shared with the fmas and
 * vpsignb; broadcasts are loads. */
#ifndef MIXBIT_KERNELS_X86_VERBS_AVX2_H
#define MIXBIT_KERNELS_X86_VERBS_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with the flags that kernels/isa.def gives for avx2"
#endif

#include "kernels/x86/verbs_ymm.h"

/* Codes that reach 255 are decoded as int8 (minus 128), so they need no bias.
 */
#define V_SIGNED_CODES 1
/* There is no s8 x s8 multiplication: gemm takes signed codes apart beforehand (v_dot_flipped). */
#define V_FLIPPED_SIGNS 1

/* A dot is exact only for codes as low as they are. */
#define V_WIDE_DOT 0
#define V_LOW_DOT 1 /* and as cheap */
MB_INLINE v_code v_code_sub(v_code a, v_code b) { return _mm256_sub_epi8(a, b); }

/* ---- dots: v_dot_first, v_dot_next up to v_dot_chain times, v_dot_fold ---- */

/* A sum where it is written: without this the compiler makes trees of the
 * chains, and spills all their leaves. */
MB_INLINE v_int v_pin(v_int v)
{
    __asm__("" : "+x"(v));
    return v;
}
MB_INLINE unsigned v_dot_chain(unsigned max_code)
{
    return max_code <= 15 ? 8 : max_code <= 31 ? 4 : max_code <= 63 ? 2 : 1;
}
MB_INLINE v_int v_dot_first(v_int start, v_code code, v_code act, unsigned max_code)
{
    (void)start; /* added by the fold: int16 has no room for it */
    return max_code <= 127
               ? _mm256_maddubs_epi16(code, act)
               : _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(act, code));
}
MB_INLINE v_int v_dot_next(v_int partial, v_code code, v_code act, unsigned max_code)
{
    return v_pin(_mm256_add_epi16(partial, v_dot_first(partial, code, act, max_code)));
}
/* A signed code's dot in gemm, where signs are worth preparing: |w| * (a xor -(w < 0)) is |w| * ~a
 * = -|w| * a - |w| for negative codes, short of w * a by |w|, which is summed beforehand. The xor
 * runs on any port, the sign on two. */
MB_INLINE v_int v_dot_flipped(v_code code, v_code act)
{
    const v_code negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), code);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_xor_si256(act, negative));
}
/* sum + |w| of the negative codes. */
MB_INLINE v_int v_sum_negatives(v_int sum, v_code code)
{
    const v_code negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), code);
    const v_code size = _mm256_and_si256(_mm256_abs_epi8(code), negative);
    const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
MB_INLINE v_int v_dot_fold(v_int start, v_int partial, unsigned max_code)
{
    return (void)max_code,
           v_pin(_mm256_add_epi32(start, _mm256_madd_epi16(partial, _mm256_set1_epi16(1))));
}

#endif
