/* SPDX-License-Identifier: Apache-2.0 */
/* The dots of ARMv8.2 with the dot product extension: SDOT multiplies 16 signed codes by 16 signed
 * activations and adds fours into int32.
 *
 * Exact: codes up to 127 are the same signed or not and start from the bias sum; codes up to 255
 * are decoded as int8 (minus 128), which is the weight itself, with no bias. A group of 32 products
 * of at most 128 * 127 is far within int32. Rates: two a cycle on Cortex-A76 and Neoverse N1, four
 * on X2 and V1, one on A55. */
#ifndef MIXBIT_KERNELS_ARM_VERBS_DOTPROD_H
#define MIXBIT_KERNELS_ARM_VERBS_DOTPROD_H

#if !defined(__ARM_FEATURE_DOTPROD)
#error "compile this file with the flags that kernels/isa.def gives for dotprod"
#endif

#include <arm_neon.h>

#define V_SIGNED_CODES 1
#define V_DOT_LANE(sum, code, four, lane) vdotq_laneq_s32(sum, v_s8(code), four, lane)
#include "kernels/arm/verbs_lanes.h"

#endif
