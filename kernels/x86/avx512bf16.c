/* SPDX-License-Identifier: Apache-2.0 */
/* AVX-512 BF16 on top of VNNI: bf16 weights with bf16 activations, and nothing else. vdpbf16ps
 * multiplies 16 pairs and adds both products to a float: twice the multiplications of an fma (32 a
 * cycle on Zen 4). The panel has the pairs as they are wanted, so gemm reads it where it is. */
#include "kernels/kernel.h"

#if defined(__x86_64__)
#include "kernels/x86/verbs_avx512vnni.h"
#define MB_INSTANCE_ISA avx512bf16
#define MB_INSTANCE_ID MB_ISA_AVX512BF16
#define MB_INSTANCE_BF16_ONLY
#define MB_GEMV_TILES(X, ...)
#define MB_GEMV_FLOAT_TILES(X, ...) X(__VA_ARGS__, 1, 64) X(__VA_ARGS__, 8, 32)
#define MB_GEMM_FLOAT_TILE 12, 32
#include "kernels/simd/instances.h"
#else
const struct mb_kernel_table mb_kernels_avx512bf16 = {NULL, 0, NULL};
#endif
