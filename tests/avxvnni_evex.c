/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-VNNI level as AVX-512's encoding of the same instruction, for CPUs that have just that
 * one: the same source with other compile flags, and a CPU that claims the feature. */
#include "kernels/x86/avxvnni.c"

uint32_t __real_mb_cpu_features(void);
uint32_t __wrap_mb_cpu_features(void);
uint32_t __wrap_mb_cpu_features(void)
{
    const uint32_t found = __real_mb_cpu_features();
    const uint32_t same = MB_CPU_AVX512VL | MB_CPU_AVX512VNNI;
    return (found & same) == same ? found | MB_CPU_AVXVNNI : found;
}
