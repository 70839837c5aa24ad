/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 VBMI on top of VNNI, for codings with a table only: vpermb ignores the upper two bits of
 * an index, and a table of 16 repeated four times makes two more of them irrelevant, so a nibble
 * needs no mask. Everything else is avx512vnni's. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx512vnni.h"
#define MB_INSTANCE_ISA avx512vbmi
#define MB_INSTANCE_ID MB_ISA_AVX512VBMI
#define MB_INSTANCE_TABLES_ONLY
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 32) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 8, 16)
#define MB_CODEBOOK_TILE 8, 16
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx512vbmi = {NULL, 0, NULL};
#endif
