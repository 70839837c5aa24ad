/* SPDX-License-Identifier: Apache-2.0 */
/* ARMv8.2 with dot products: the tiles of this level, and nothing else. Register plan and limits
 * are in kernels/simd/matmul.h, the instructions in verbs_dotprod.h. */
#include "kernels/kernel.h"

#if defined(__aarch64__)
#include "kernels/arm/verbs_dotprod.h"
#define MB_INSTANCE_ISA dotprod
#define MB_INSTANCE_ID MB_ISA_DOTPROD
/* 3 x 4 registers: 12 dots, 12 f (or s), 3 of activations, 4 codes are 31 of 32. Four rows of gemv
 * have 16 dots and hold some of their f in memory. */
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 4, 16)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 32) X(__VA_ARGS__, 4, 16)
#define MB_GEMM_TILE 3, 16
#define MB_GEMM_FLOAT_TILE 6, 16
#define MB_INTEGER_TILE 6, 16
#define MB_CODEBOOK_TILE 4, 16
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_dotprod = {NULL, 0, NULL};
#endif
