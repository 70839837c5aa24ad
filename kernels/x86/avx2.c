/* SPDX-License-Identifier: Apache-2.0 */
/* AVX2, FMA and F16C: the tiles of this level, and nothing else. Register plan and limits are in
 * kernels/simd/matmul.h, the instructions in verbs_avx2.h. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx2.h"
#define MB_INSTANCE_ISA avx2
#define MB_INSTANCE_ID MB_ISA_AVX2
/* 8 of 16 registers hold a half panel's dots and floats of 4 rows. */
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 4, 16)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 64) X(__VA_ARGS__, 4, 16)
#define MB_GEMM_TILE 3, 16
#define MB_GEMM_FLOAT_TILE 6, 16
#define MB_INTEGER_TILE 6, 16
#define MB_CODEBOOK_TILE 4, 16
#define MB_INSTANCE_ENCODE
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx2 = {NULL, 0, NULL};
#endif
