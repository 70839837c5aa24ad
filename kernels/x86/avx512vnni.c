/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 with VNNI: the tiles of this level, and nothing else. Register plan and limits are in
 * kernels/simd/matmul.h, the instructions in verbs_avx512vnni.h. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx512vnni.h"
#define MB_INSTANCE_ISA avx512vnni
#define MB_INSTANCE_ID MB_ISA_AVX512VNNI
/* Two panels share a broadcast: on Zen 4, where one costs a cycle of the load port, a fifth faster
 * from L2; from memory two streams are slower. The tuner decides, one is the default. */
#define MB_GEMV_TILES(X, ...) X(__VA_ARGS__, 1, 32) X(__VA_ARGS__, 1, 16) X(__VA_ARGS__, 8, 16)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 64) X(__VA_ARGS__, 8, 32)
#define MB_GEMM_TILE 6, 32
#define MB_GEMM_FLOAT_TILE 12, 32
#define MB_INTEGER_TILE 12, 32
#define MB_CODEBOOK_TILE 8, 16
#define MB_INSTANCE_ENCODE
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx512vnni = {NULL, 0, NULL};
#endif
