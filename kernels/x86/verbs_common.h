/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs that every x86 level has in common: broadcasts, prefetches, and the sub-scales of q3_K,
 * which all of them unpack with 256-bit instructions. */
#ifndef MIXBIT_KERNELS_X86_VERBS_COMMON_H
#define MIXBIT_KERNELS_X86_VERBS_COMMON_H

#include "kernels/kernel.h"
#include <immintrin.h>
#include <string.h>

#define MB_INLINE static inline __attribute__((always_inline))

/* A dword anywhere. The aliasing type makes a broadcast of it one load; a copy through a general
 * register would go through the shuffle port. */
typedef int32_t __attribute__((may_alias, aligned(1))) v_dword;

/* Columns that go through a chain of dots together: all, since a partial sum is one register. */
MB_INLINE unsigned v_dot_registers(unsigned registers) { return registers; }

/* Subnormal operands and results of floats count as zero (MXCSR's DAZ and FTZ) until they are
 * restored to what is returned. The statements are of memory, so loads and stores between stay
 * there, and with them what is computed from the one for the other. */
MB_INLINE unsigned v_flush_subnormals(void)
{
    unsigned before, on;
    __asm__ volatile("stmxcsr %0" : "=m"(before));
    on = before | 0x8040;
    __asm__ volatile("ldmxcsr %0" : : "m"(on) : "memory");
    return before;
}
MB_INLINE void v_restore_subnormals(unsigned before)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(before) : "memory");
}

/* Bring a line into L1; ask L2 for one. */
MB_INLINE void v_touch(const void *p) { _mm_prefetch(p, _MM_HINT_T0); }
MB_INLINE void v_fetch(const void *p) { _mm_prefetch(p, _MM_HINT_T1); }

/* The sixteen 6-bit sub-scales of a super-block (g16x2s6) as int8, even groups first: out[g % 2][g
 * / 2][row]. Two pairs of groups share 16 bytes of high bits, so a ymm holds both: the upper lane's
 * are 4 bits further up. */
MB_INLINE void v_sub_scales6(const uint8_t *sub_scale, int8_t out[2][8][16])
{
    const __m256i lane_shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
    const __m256i low_mask = _mm256_set1_epi8(0x0f), high_mask = _mm256_set1_epi8(0x30),
                  bias = _mm256_set1_epi8(32);
    for (unsigned i = 0; i < 4; i++) {
        const __m256i low = _mm256_loadu_si256((const void *)(sub_scale + 32 * i));
        const __m128i shared = _mm_loadu_si128((const void *)(sub_scale + 128 + 16 * i));
        const __m256i high = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(shared), lane_shift);
        const __m256i even_high = _mm256_and_si256(_mm256_slli_epi16(high, 4), high_mask);
        const __m256i odd_high = _mm256_and_si256(_mm256_slli_epi16(high, 2), high_mask);
        const __m256i even = _mm256_or_si256(_mm256_and_si256(low, low_mask), even_high);
        const __m256i odd =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), low_mask), odd_high);
        _mm256_storeu_si256((void *)out[0][2 * i], _mm256_sub_epi8(even, bias));
        _mm256_storeu_si256((void *)out[1][2 * i], _mm256_sub_epi8(odd, bias));
    }
}

#endif
