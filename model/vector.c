/* SPDX-License-Identifier: Apache-2.0 */
/* Three copies of vector_body.h: what every CPU of the architecture has, AVX2, AVX-512; and the
 * choice among them.
 *
 * The copies carry their instruction set as a function attribute, so this file is compiled without
 * ISA flags and nothing of it runs where it may not. GCC's and Clang's vector types are used here
 * and nowhere else above the kernels: they are what keeps the lanes, and so the bits, the same
 * everywhere. No fused multiply-add: the baseline has none. */
#include "model/vector.h"

#include "dispatch/dispatch.h"

#include <math.h>
#include <string.h>

#define MB_CLONE(name) name##_baseline
#define MB_LANES 4
#define MB_TARGET
#define MB_INLINE inline __attribute__((always_inline))
#include "model/vector_body.h"
#undef MB_CLONE
#undef MB_LANES
#undef MB_TARGET
#undef MB_INLINE

#if defined(__x86_64__)
#define MB_CLONE(name) name##_avx2
#define MB_LANES 8
#define MB_TARGET __attribute__((target("avx2")))
#define MB_INLINE inline __attribute__((always_inline, target("avx2")))
#include "model/vector_body.h"
#undef MB_CLONE
#undef MB_LANES
#undef MB_TARGET
#undef MB_INLINE

#define MB_AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#define MB_CLONE(name) name##_avx512
#define MB_LANES 16
#define MB_TARGET __attribute__((target(MB_AVX512)))
#define MB_INLINE inline __attribute__((always_inline, target(MB_AVX512)))
#include "model/vector_body.h"
#undef MB_CLONE
#undef MB_LANES
#undef MB_TARGET
#undef MB_INLINE
#endif

const struct mb_vector *mb_vector_at(size_t i)
{
#if defined(__x86_64__)
    const uint32_t has = mb_cpu_features();
    const uint32_t wide = MB_CPU_AVX512F | MB_CPU_AVX512BW | MB_CPU_AVX512DQ | MB_CPU_AVX512VL;
    switch (i) {
    case 0: return &set_baseline;
    case 1: return has & MB_CPU_AVX2 ? &set_avx2 : NULL;
    case 2: return (has & wide) == wide ? &set_avx512 : NULL;
    default: return NULL;
    }
#else
    return i == 0 ? &set_baseline : NULL;
#endif
}

const struct mb_vector *mb_vector(void)
{
    size_t i = 0;
#if defined(__x86_64__)
    const uint32_t allowed = mb_isa_allowed_mask();
    if (allowed & (1u << MB_ISA_AVX512VNNI) && mb_vector_at(2))
        i = 2;
    else if (allowed & (1u << MB_ISA_AVX2) && mb_vector_at(1))
        i = 1;
#endif
    return mb_vector_at(i);
}
