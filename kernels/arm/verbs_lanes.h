/* SPDX-License-Identifier: Apache-2.0 */
/* The dots of levels that have a dot product instruction, which adds four products to each int32:
 * exact whatever the codes, with no chains to watch. It takes its activations by lane: a register
 * holds those of four quads, and the instruction picks one. That is one load where LD1R would be
 * four, each with a vector operation on large cores.
 *
 * The level defines V_DOT_LANE(sum, code, four, lane) before it includes this. */
#ifndef MIXBIT_KERNELS_ARM_VERBS_LANES_H
#define MIXBIT_KERNELS_ARM_VERBS_LANES_H

#include "kernels/arm/verbs_common.h"

typedef struct {
    int8x16_t four; /* quads 4 i to 4 i + 3 */
    unsigned lane;
} v_act;
typedef v_int v_partial;

/* The activations of quad `quad` behind p, where a group starts. Of the four loads of the same 16
 * bytes the compiler keeps one. */
MB_INLINE v_act v_load_act(const uint8_t *p, unsigned quad)
{
    return (v_act){v_s8(v_load(p + quad / 4 * 16)), quad % 4};
}

/* ---- dots: v_dot_first, v_dot_next up to v_dot_chain times, v_dot_fold ---- */

MB_INLINE unsigned v_dot_registers(unsigned registers) { return registers; }
MB_INLINE unsigned v_dot_chain(unsigned max_code) { return (void)max_code, 8; }
/* The lane is a part of the instruction, hence one call for each; it is a constant after inlining.
 */
MB_INLINE v_partial v_dot_next(v_partial partial, v_code code, v_act act, unsigned max_code)
{
    (void)max_code;
    switch (act.lane) {
    case 0: return V_DOT_LANE(partial, code, act.four, 0);
    case 1: return V_DOT_LANE(partial, code, act.four, 1);
    case 2: return V_DOT_LANE(partial, code, act.four, 2);
    default: return V_DOT_LANE(partial, code, act.four, 3);
    }
}
MB_INLINE v_partial v_dot_first(v_int start, v_code code, v_act act, unsigned max_code)
{
    return v_dot_next(start, code, act, max_code);
}
MB_INLINE v_int v_dot_fold(v_int start, v_partial partial, unsigned max_code)
{
    return (void)start, (void)max_code, partial;
}
/* For ISAs that take signs apart; never reached here. */
MB_INLINE v_partial v_dot_flipped(v_code code, v_act act) { return (void)act, code; }

#endif
