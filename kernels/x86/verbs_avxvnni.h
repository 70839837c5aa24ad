/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of AVX-VNNI: 256-bit registers as in AVX2, and vpdpbusd, which adds four products of
 * unsigned codes and signed activations into int32 without saturating. Every code is exact, nothing
 * has to be widened or kept signed.
 *
 * CPUs with AVX-512 VNNI have the same instruction in another encoding; compiled for that (as the
 * tests do where AVX-VNNI is missing), the arithmetic is the same.
 * Ports: Intel P cores p0 and p1, 2 dots a cycle; Gracemont 1. */
#ifndef MIXBIT_KERNELS_X86_VERBS_AVXVNNI_H
#define MIXBIT_KERNELS_X86_VERBS_AVXVNNI_H

#if !defined(__FMA__) || !defined(__F16C__) ||                                                     \
    (!defined(__AVXVNNI__) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__)))
#error "compile this file with the flags that kernels/isa.def gives for avxvnni"
#endif

#include "kernels/x86/verbs_ymm.h"

/* Codes that reach 255 stay unsigned; their bias goes through the activation sums. */
#define V_SIGNED_CODES 0
#define V_FLIPPED_SIGNS 0

/* A dot never saturates, so codes may stand higher than they are. */
#define V_WIDE_DOT 1
#define V_LOW_DOT 0

/* ---- dots: v_dot_first, v_dot_next up to v_dot_chain times, v_dot_fold ---- */

MB_INLINE unsigned v_dot_chain(unsigned max_code) { return (void)max_code, 8; }
MB_INLINE v_int v_dot_next(v_int partial, v_code code, v_code act, unsigned max_code)
{
    (void)max_code;
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(partial, code, act);
#else
    return _mm256_dpbusd_epi32(partial, code, act);
#endif
}
MB_INLINE v_int v_dot_first(v_int start, v_code code, v_code act, unsigned max_code)
{
    return v_dot_next(start, code, act, max_code);
}
MB_INLINE v_int v_dot_fold(v_int start, v_int partial, unsigned max_code)
{
    return (void)start, (void)max_code, partial;
}
/* For ISAs with signed codes; never reached here. */
MB_INLINE v_int v_dot_flipped(v_code code, v_code act) { return (void)act, code; }
MB_INLINE v_int v_sum_negatives(v_int sum, v_code code) { return (void)code, sum; }

#endif
