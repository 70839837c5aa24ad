/* SPDX-License-Identifier: Apache-2.0 */
/* Peak and read loops for 64-bit ARM: the instructions of the levels on independent accumulators in
 * registers, 24 where an instruction of latency 4 issues four times a cycle on large cores, and
 * loads of pairs.
 *
 * The instructions that a level brings are let through by the assembler's .arch_extension, since
 * this file is compiled for the baseline; they run only on levels that the machine supports. */
#include "tuner/peaks.h"

#if defined(__aarch64__)

#include <arm_neon.h>

enum { STREAM_STEP = 256, ACCUMULATORS = 24 };

#define CLOBBERS                                                                                   \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", \
        "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v26", "v27", "v28", "v29", \
        "v30", "v31"

/* v24 and v25 are the operands, v0 to v23 the accumulators. */
#define ON_24(on)                                                                                  \
    on(0) on(1) on(2) on(3) on(4) on(5) on(6) on(7) on(8) on(9) on(10) on(11) on(12) on(13) on(14) \
        on(15) on(16) on(17) on(18) on(19) on(20) on(21) on(22) on(23)
#define SDOT(i) "sdot v" #i ".4s, v24.16b, v25.4b[1]\n\t"
#define USDOT(i) "usdot v" #i ".4s, v24.16b, v25.4b[1]\n\t"
#define FMLA(i) "fmla v" #i ".4s, v24.4s, v25.s[1]\n\t"
#define SMLAL(i) "smlal v" #i ".8h, v24.8b, v25.8b\n\t"

/* Three registers of 8-bit codes, so that small cores need not wait: 16 products to int16 in v26 to
 * v31, neighbours added, pairs to int32. */
#define SMULL(low, high)                                                                           \
    "smull v" #low ".8h, v24.8b, v25.8b\n\tsmull2 v" #high ".8h, v24.16b, v25.16b\n\t"
#define ADDP(low, high) "addp v" #low ".8h, v" #low ".8h, v" #high ".8h\n\t"
#define SADALP(sum, low) "sadalp v" #sum ".4s, v" #low ".8h\n\t"
#define EXACT_3(i, j, k)                                                                           \
    SMULL(26, 27)                                                                                  \
    SMULL(28, 29)                                                                                  \
    SMULL(30, 31) ADDP(26, 27) ADDP(28, 29) ADDP(30, 31) SADALP(i, 26) SADALP(j, 28) SADALP(k, 30)
#define EXACT_24                                                                                   \
    EXACT_3(0, 1, 2)                                                                               \
    EXACT_3(3, 4, 5)                                                                               \
    EXACT_3(6, 7, 8)                                                                               \
    EXACT_3(9, 10, 11)                                                                             \
    EXACT_3(12, 13, 14) EXACT_3(15, 16, 17) EXACT_3(18, 19, 20) EXACT_3(21, 22, 23)

/* `iterations` times `text`, on bytes of 63, floats of 0.75; the loop's own two instructions issue
 * beside it. */
#define LOOP(extension, text)                                                                      \
    do {                                                                                           \
        register int8x16_t w __asm__("v24") = vdupq_n_s8(63), x __asm__("v25") = vdupq_n_s8(63);   \
        for (size_t i = 0; i < iterations; i++)                                                    \
            __asm__ volatile(extension text : : "w"(w), "w"(x) : CLOBBERS);                        \
    } while (0)

static void neon_dot(size_t iterations) { LOOP("", ON_24(SMLAL)); }
static void neon_dot_exact(size_t iterations) { LOOP("", EXACT_24); }
static void neon_fma(size_t iterations) { LOOP("", ON_24(FMLA)); }
static void dotprod_dot(size_t iterations)
{
    LOOP(".arch armv8.2-a\n\t.arch_extension dotprod\n\t", ON_24(SDOT));
}
static void i8mm_dot(size_t iterations)
{
    LOOP(".arch armv8.2-a\n\t.arch_extension i8mm\n\t", ON_24(USDOT));
}

static const struct mb_peak peaks[] = {
    {MB_ISA_NEON, MB_PEAK_DOT, neon_dot, ACCUMULATORS * 8},
    {MB_ISA_NEON, MB_PEAK_DOT_EXACT, neon_dot_exact, ACCUMULATORS * 16},
    {MB_ISA_NEON, MB_PEAK_FMA, neon_fma, ACCUMULATORS * 4},
    {MB_ISA_DOTPROD, MB_PEAK_DOT, dotprod_dot, ACCUMULATORS * 16},
    {MB_ISA_DOTPROD, MB_PEAK_DOT_EXACT, dotprod_dot, ACCUMULATORS * 16},
    {MB_ISA_DOTPROD, MB_PEAK_FMA, neon_fma, ACCUMULATORS * 4},
    {MB_ISA_I8MM, MB_PEAK_DOT, i8mm_dot, ACCUMULATORS * 16},
    {MB_ISA_I8MM, MB_PEAK_DOT_EXACT, i8mm_dot, ACCUMULATORS * 16},
    {MB_ISA_I8MM, MB_PEAK_FMA, neon_fma, ACCUMULATORS * 4},
};
const struct mb_peak_table mb_peaks_arm = {peaks, sizeof peaks / sizeof peaks[0]};

/* Loads into registers that nobody reads: a dependent instruction would only take an issue slot. */
static void read_pairs(const uint8_t *data, size_t bytes, size_t streams, size_t ahead)
{
    const size_t each = bytes / streams;
    for (size_t at = 0; at < each; at += STREAM_STEP)
        for (size_t s = 0; s < streams; s++) {
            const uint8_t *p = data + s * each + at;
            if (ahead > 0)
                for (size_t line = 0; line < STREAM_STEP; line += 64)
                    __builtin_prefetch(p + ahead + line);
            __asm__ volatile("ldp q0, q1, [%0]\n\tldp q2, q3, [%0, 32]\n\tldp q4, q5, [%0, 64]\n\t"
                             "ldp q6, q7, [%0, 96]\n\tldp q16, q17, [%0, 128]\n\t"
                             "ldp q18, q19, [%0, 160]\n\tldp q20, q21, [%0, 192]\n\t"
                             "ldp q22, q23, [%0, 224]"
                             :
                             : "r"(p)
                             : CLOBBERS);
        }
}

mb_read_fn mb_read_loop_arm(enum mb_isa isa)
{
    return isa == MB_ISA_NEON || isa == MB_ISA_DOTPROD || isa == MB_ISA_I8MM ? read_pairs : NULL;
}

#else

const struct mb_peak_table mb_peaks_arm = {NULL, 0};

mb_read_fn mb_read_loop_arm(enum mb_isa isa)
{
    (void)isa;
    return NULL;
}

#endif
