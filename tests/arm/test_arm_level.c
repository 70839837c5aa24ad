/* SPDX-License-Identifier: Apache-2.0 */
/* Which level a CPU is given, and that its peak loops run: started under emulated CPUs, each with
 * the part number and the name of the level that has to serve every format there. */
#include "dispatch/dispatch.h"
#include "tuner/peaks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_level(const struct mb_kernel *kernel, const char *level)
{
    return strcmp(mb_isa_name(kernel->isa), level) == 0;
}

/* Loops of the level: at least one of each kind, which end. */
static size_t missing_loops(const char *level)
{
    static _Alignas(64) uint8_t data[4096];
    size_t found[MB_PEAK_KINDS] = {0}, missing = 0;
    const struct mb_peak *peak;
    for (size_t i = 0; (peak = mb_peak_at(i)) != NULL; i++)
        if (strcmp(mb_isa_name(peak->isa), level) == 0) {
            peak->run(3);
            mb_read_loop(peak->isa)(data, sizeof data, 2, 64);
            missing += mb_read_loop(peak->isa) == mb_read_portable;
            found[peak->kind] += peak->macs > 0;
        }
    for (size_t kind = 0; kind < MB_PEAK_KINDS; kind++)
        missing += found[kind] == 0;
    return missing;
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: test_arm_level PART LEVEL\n");
        return 2;
    }
    const char *level = arguments[2];
    const unsigned long part = strtoul(arguments[1], NULL, 0);
    struct mb_device_info cpu = {.size = sizeof cpu};
    mb_cpu_identify(&cpu);
    if (part != 0 && (cpu.model != part || strcmp(cpu.vendor, "ARM") != 0)) {
        printf("FAILED the CPU is %s 0x%x, not ARM 0x%lx\n", cpu.vendor, cpu.model, part);
        return 1;
    }
    const struct mb_format_info *info;
    size_t formats = 0, wrong = 0;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++, formats++) {
        const struct mb_selection *s = mb_select(info->id);
        const struct mb_kernel *used[] = {s->prepare, s->gemv[0], s->gemv[7], s->gemm.decode,
                                          s->gemm.gemm};
        for (size_t j = 0; j < sizeof used / sizeof *used; j++)
            if (!is_level(used[j], level)) {
                printf("FAILED %s is served by %s, not by a kernel of '%s'\n", info->name,
                       used[j]->name, level);
                wrong++;
            }
    }
    const size_t missing = missing_loops(level);
    printf("%s 0x%x: %zu formats, %zu kernels of another level than %s, %zu peak loops missing\n",
           cpu.vendor, cpu.model, formats, wrong, level, missing);
    return formats > 0 && wrong == 0 && missing == 0 ? 0 : 1;
}
