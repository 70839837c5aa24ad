/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 with VNNI: the instances of this level (instances.def), and nothing else. Register plan
 * and limits are in matmul.h, the instructions in verbs_avx512vnni.h. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx512vnni.h"
#define MB_INSTANCES_avx512vnni
#define MB_INSTANCE_ISA avx512vnni
#define MB_INSTANCE_ID MB_ISA_AVX512VNNI
#include "kernels/x86/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx512vnni = {NULL, 0};
#endif
