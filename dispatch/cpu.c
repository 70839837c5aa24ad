/* SPDX-License-Identifier: Apache-2.0 */
/* What the CPU can do and the operating system lets us use.
 *
 * On x86 a CPUID bit alone is not enough: wide registers exist for a process only when the OS saves
 * them across context switches, which XGETBV tells (Intel SDM vol. 1, 13.3 and 14.3). On ARM the OS
 * answers through the auxiliary vector. */
#include "dispatch/dispatch.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

enum {
    XCR0_AVX = 0x06,    /* xmm and upper ymm halves */
    XCR0_AVX512 = 0xe6, /* and opmask, upper zmm halves, zmm16-31 */
};

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool bit(uint32_t word, unsigned index) { return (word >> index & 1) != 0; }

/* AMX is left out: its tile state needs a permission per process, which the level that uses it has
 * to ask for. */
static uint32_t detect(void)
{
    uint32_t a, b, c, d, a7, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) /* 27: OSXSAVE, XGETBV may be used */
        return 0;
    const uint64_t xcr0 = read_xcr0();
    if ((xcr0 & XCR0_AVX) != XCR0_AVX || !bit(c, 28))
        return 0;
    uint32_t found = 0;
    found |= bit(c, 12) ? MB_CPU_FMA : 0;
    found |= bit(c, 29) ? MB_CPU_F16C : 0;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return found;
    found |= bit(b7, 5) ? MB_CPU_AVX2 : 0;
    uint32_t a71, b71, c71, d71;
    if (a7 >= 1 && __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71)) {
        found |= bit(a71, 4) ? MB_CPU_AVXVNNI : 0;
        found |= bit(a71, 5) ? MB_CPU_AVX512BF16 : 0;
    }
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512 || !bit(b7, 16))
        return found & ~(uint32_t)MB_CPU_AVX512BF16;
    found |= MB_CPU_AVX512F;
    found |= bit(b7, 17) ? MB_CPU_AVX512DQ : 0;
    found |= bit(b7, 30) ? MB_CPU_AVX512BW : 0;
    found |= bit(b7, 31) ? MB_CPU_AVX512VL : 0;
    found |= bit(c7, 1) ? MB_CPU_AVX512VBMI : 0;
    found |= bit(c7, 11) ? MB_CPU_AVX512VNNI : 0;
    return found;
}

void mb_cpu_identify(struct mb_device_info *info)
{
    uint32_t r[4];
    if (!__get_cpuid(0, &r[0], &r[1], &r[2], &r[3]))
        return;
    memcpy(info->vendor, &r[1], 4);
    memcpy(info->vendor + 4, &r[3], 4);
    memcpy(info->vendor + 8, &r[2], 4);
    info->vendor[12] = '\0';
    if (__get_cpuid(1, &r[0], &r[1], &r[2], &r[3])) {
        const uint32_t family = r[0] >> 8 & 15, model = r[0] >> 4 & 15;
        info->stepping = r[0] & 15;
        info->family = family == 15 ? family + (r[0] >> 20 & 255) : family;
        info->model = family == 6 || family == 15 ? model | (r[0] >> 12 & 0xf0) : model;
    }
    char brand[49] = "";
    for (uint32_t leaf = 0; leaf < 3; leaf++)
        if (__get_cpuid(0x80000002u + leaf, &r[0], &r[1], &r[2], &r[3]))
            memcpy(brand + 16 * leaf, r, 16);
    const char *start =
        brand + strspn(brand, " "); /* some brands are padded on the left, some on the right */
    size_t length = strlen(start);
    while (length > 0 && start[length - 1] == ' ')
        length--;
    memcpy(info->name, start, length);
    info->name[length] = '\0';
}

#elif defined(__aarch64__) && defined(__linux__)
#include <stdio.h>
#include <sys/auxv.h>

/* Bits of the Linux AArch64 ABI (Documentation/arch/arm64/elf_hwcaps.rst). */
enum { HWCAP_BIT_ASIMD = 1, HWCAP_BIT_CPUID = 11, HWCAP_BIT_ASIMDDP = 20, HWCAP2_BIT_I8MM = 13 };

static uint32_t detect(void)
{
    const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
    uint32_t found = 0;
    found |= (one >> HWCAP_BIT_ASIMD & 1) != 0 ? MB_CPU_NEON : 0;
    found |= (one >> HWCAP_BIT_ASIMDDP & 1) != 0 ? MB_CPU_DOTPROD : 0;
    found |= (two >> HWCAP2_BIT_I8MM & 1) != 0 ? MB_CPU_I8MM : 0;
    return found;
}

/* MIDR_EL1, the main identification register (Arm Architecture Reference Manual). Of the first CPU
 * where the kernel tells it: with cores of several kinds the register of the core at hand would
 * change from run to run. 0: not to be had. */
static uint64_t read_midr(void)
{
    unsigned long long midr = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", "r");
    if (file != NULL) {
        if (fscanf(file, "%llx", &midr) != 1)
            midr = 0;
        (void)fclose(file);
    }
    if (midr == 0 && (getauxval(AT_HWCAP) >> HWCAP_BIT_CPUID & 1) != 0)
        __asm__("mrs %0, MIDR_EL1" : "=r"(midr)); /* emulated by the kernel */
    return midr;
}

void mb_cpu_identify(struct mb_device_info *info)
{
    static const struct {
        uint8_t code;
        const char *name;
    } implementers[] = {{0x41, "ARM"},       {0x42, "Broadcom"},  {0x43, "Cavium"},
                        {0x46, "Fujitsu"},   {0x48, "HiSilicon"}, {0x4e, "NVIDIA"},
                        {0x51, "Qualcomm"},  {0x53, "Samsung"},   {0x61, "Apple"},
                        {0x6d, "Microsoft"}, {0xc0, "Ampere"}};
    const uint64_t midr = read_midr();
    for (size_t i = 0; i < sizeof implementers / sizeof *implementers; i++)
        if (implementers[i].code == (midr >> 24 & 255))
            strcpy(info->vendor, implementers[i].name);
    info->model = midr >> 4 & 0xfff;                       /* part number */
    info->stepping = (midr >> 20 & 15) << 4 | (midr & 15); /* variant, revision: r1p2 */
}

#else
static uint32_t detect(void) { return 0; }
void mb_cpu_identify(struct mb_device_info *info) { (void)info; }
#endif

uint32_t mb_cpu_features(void)
{
    const uint32_t unknown = UINT32_MAX; /* more bits than there are features */
    static _Atomic uint32_t cached = UINT32_MAX;
    uint32_t found = atomic_load_explicit(&cached, memory_order_relaxed);
    if (found == unknown) {
        found = detect();
        atomic_store_explicit(&cached, found, memory_order_relaxed);
    }
    return found;
}

static const struct {
    uint32_t feature;
    const char *name;
} names[] = {
    {MB_CPU_AVX2, "avx2"},
    {MB_CPU_FMA, "fma"},
    {MB_CPU_F16C, "f16c"},
    {MB_CPU_AVXVNNI, "avx_vnni"},
    {MB_CPU_AVX512F, "avx512f"},
    {MB_CPU_AVX512BW, "avx512bw"},
    {MB_CPU_AVX512VL, "avx512vl"},
    {MB_CPU_AVX512DQ, "avx512dq"},
    {MB_CPU_AVX512VNNI, "avx512_vnni"},
    {MB_CPU_AVX512VBMI, "avx512_vbmi"},
    {MB_CPU_AVX512BF16, "avx512_bf16"},
    {MB_CPU_AMX_INT8, "amx_int8"},
    {MB_CPU_NEON, "neon"},
    {MB_CPU_DOTPROD, "dotprod"},
    {MB_CPU_I8MM, "i8mm"},
};

void mb_cpu_feature_names(uint32_t features, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const size_t length = strlen(names[i].name);
        if ((features & names[i].feature) == 0 || used + length + 2 > bytes)
            continue;
        if (used > 0)
            text[used++] = ' ';
        memcpy(text + used, names[i].name, length + 1);
        used += length;
    }
}
