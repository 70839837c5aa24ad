/* SPDX-License-Identifier: Apache-2.0 */
/* The dots of ARMv8.0, which has no dot product: SMULL and SMLAL multiply 8 signed codes by 8
 * signed activations into int16, one sum per row and k. Two of them make a register of codes; when
 * a chain ends, ADDP adds neighbours (8 sums, 2 per row) and SADALP adds those pairs into int32.
 *
 * Exact: activations are within 127, and an int16 holds 32767. A chain of c products of codes up to
 * `max` leaves at most c * max * 127 in a sum and twice that after ADDP:
 *
 *   max 15: 8 products, 2 * 8 * 15 * 127 = 30480; 31: 4, 31496; 63: 2, 32004; 127: 1, 32258
 *
 * Codes up to 255 are decoded as int8 (minus 128): 1 product, 2 * 128 * 127 = 32512. So a 4-bit
 * group of 32 costs 16 multiplications and 2 additions per register, 8-bit codes 16 and 16. Longer
 * chains with a widening before ADDP cost the same: 4 operations instead of 2 twice. */
#ifndef MIXBIT_KERNELS_ARM_VERBS_NEON_H
#define MIXBIT_KERNELS_ARM_VERBS_NEON_H

#if !defined(__ARM_NEON)
#error "compile this file with the flags that kernels/isa.def gives for neon"
#endif

#include "kernels/arm/verbs_common.h"

#define V_SIGNED_CODES 1

typedef v_code v_act; /* four activations in every lane */
typedef struct {
    int16x8_t low, high; /* rows 0 and 1, rows 2 and 3: 4 k each */
} v_partial;

/* The activations of quad `quad` behind p. Volatile, or the compiler would load those of a whole
 * group once for all columns, into more registers than there are. */
MB_INLINE v_act v_load_act(const uint8_t *p, unsigned quad)
{
    v_act act;
    __asm__ volatile("ld1r {%0.4s}, %1" : "=w"(act) : "Q"(*(const v_dword *)(p + 4 * quad)));
    return act;
}

/* ---- dots: v_dot_first, v_dot_next up to v_dot_chain times, v_dot_fold ---- */

/* A partial sum is two registers, so columns go through their chains one register at a time. */
MB_INLINE unsigned v_dot_registers(unsigned registers) { return registers / 2; }
MB_INLINE unsigned v_dot_chain(unsigned max_code)
{
    return max_code <= 15 ? 8 : max_code <= 31 ? 4 : max_code <= 63 ? 2 : 1;
}
MB_INLINE v_partial v_dot_first(v_int start, v_code code, v_act act, unsigned max_code)
{
    (void)start, (void)max_code; /* added by the fold: int16 has no room for it */
    const int8x16_t w = v_s8(code), x = v_s8(act);
    return (v_partial){vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)};
}
MB_INLINE v_partial v_dot_next(v_partial partial, v_code code, v_act act, unsigned max_code)
{
    (void)max_code;
    const int8x16_t w = v_s8(code), x = v_s8(act);
    return (v_partial){vmlal_s8(partial.low, vget_low_s8(w), vget_low_s8(x)),
                       vmlal_high_s8(partial.high, w, x)};
}
MB_INLINE v_int v_dot_fold(v_int start, v_partial partial, unsigned max_code)
{
    return (void)max_code, vpadalq_s16(start, vpaddq_s16(partial.low, partial.high));
}
MB_INLINE v_partial v_dot_flipped(v_code code, v_act act)
{
    return v_dot_first(v_zero(), code, act, 255);
}

#endif
