/* SPDX-License-Identifier: Apache-2.0 */
/* ARMv8.0: the tiles of this level, and nothing else. Register plan and limits are in
 * kernels/simd/matmul.h, the instructions in verbs_neon.h. */
#include "kernels/kernel.h"

#if defined(__aarch64__)
#include "kernels/arm/verbs_neon.h"
#define MB_INSTANCE_ISA neon
#define MB_INSTANCE_ID MB_ISA_NEON
/* 3 x 4 registers: 12 dots, 12 int16 sums of 2 columns, 3 of activations; f (or s) are in memory
 * half of the time, which a chain of 8 quads hides. */
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 4, 16)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 32) X(__VA_ARGS__, 4, 16)
#define MB_GEMM_TILE 3, 16
#define MB_GEMM_FLOAT_TILE 6, 16
#define MB_INTEGER_TILE 3, 16
#define MB_CODEBOOK_TILE 4, 16
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_neon = {NULL, 0, NULL};
#endif
