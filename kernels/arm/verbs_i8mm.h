/* SPDX-License-Identifier: Apache-2.0 */
/* The dots of ARMv8.2 with the 8-bit matrix multiply extension: USDOT multiplies 16 unsigned codes
 * by 16 signed activations and adds fours into int32, so codes stay as they are decoded, up to 255,
 * and every bias goes through the activation sums.
 *
 * Exact: a group of 32 products of at most 255 * 127 is far within int32, and so is the bias.
 *
 * Why not USMMLA, which does twice the products at the same rate: it wants 2 columns x 8 k against
 * 2 rows x 8 k. Per group of 32, 16 columns and row, in vector operations, USDOT takes 32,
 * conversion and scales 16. USMMLA takes 16, but 6 to bring rows together and results apart, the
 * same 16, and 32 / rows to zip the codes: 43 instead of 48 for 6 rows, whose 24 float registers
 * then live in memory. Only a decoded panel that is zipped already would pay (38), and that is
 * another layout. */
#ifndef MIXBIT_KERNELS_ARM_VERBS_I8MM_H
#define MIXBIT_KERNELS_ARM_VERBS_I8MM_H

#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "compile this file with the flags that kernels/isa.def gives for i8mm"
#endif

#include <arm_neon.h>

#define V_SIGNED_CODES 0
#define V_DOT_LANE(sum, code, four, lane) vusdotq_laneq_s32(sum, v_u8(code), four, lane)
#include "kernels/arm/verbs_lanes.h"

#endif
