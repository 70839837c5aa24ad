/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-VNNI: the tiles of this level, and nothing else. Register plan and limits are in
 * kernels/simd/matmul.h, the instructions in verbs_avxvnni.h. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avxvnni.h"
#define MB_INSTANCE_ISA avxvnni
#define MB_INSTANCE_ID MB_ISA_AVXVNNI
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 4, 16)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 64) X(__VA_ARGS__, 4, 16)
#define MB_GEMM_TILE 3, 16
#define MB_GEMM_FLOAT_TILE 6, 16
#define MB_INTEGER_TILE 6, 16
#define MB_CODEBOOK_TILE 4, 16
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_avxvnni = {NULL, 0, NULL};
#endif
