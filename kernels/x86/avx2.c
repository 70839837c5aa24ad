/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2, FMA and F16C: the instances of this level (instances.def), and nothing else. Register plan
 * and limits are in matmul.h, the instructions in verbs_avx2.h. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx2.h"
#define MB_INSTANCES_avx2
#define MB_INSTANCE_ISA avx2
#define MB_INSTANCE_ID MB_ISA_AVX2
#include "kernels/x86/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx2 = {NULL, 0};
#endif
