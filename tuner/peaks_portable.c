/* SPDX-License-Identifier: Apache-2.0 */
/* Peak loops in plain C, for the reference level and for machines without loops of their own. The
 * compiler vectorizes them for its baseline, as it does the reference kernels. */
#include "tuner/peaks.h"

enum { LANES = 256, STREAM_STEP = 256 };

static _Thread_local volatile uint64_t sink; /* keeps results alive */

static void dot_plain(size_t iterations)
{
    int16_t a[LANES] = {0}, b[LANES] = {0};
    int32_t sums[LANES / 8] = {0};
    a[0] = (int16_t)iterations;
    for (size_t it = 0; it < iterations; it++) {
        /* Or the products would be the same every time; of both signs in turns, so that no sum
         * grows beyond its type. */
        b[it % LANES] = it / LANES % 2 ? -1 : 1;
        for (size_t g = 0; g < LANES / 8; g++)
            for (size_t i = 0; i < 8; i++)
                sums[g] += (int32_t)a[g * 8 + i] * b[g * 8 + i];
    }
    int64_t total = 0;
    for (size_t g = 0; g < LANES / 8; g++)
        total += sums[g];
    sink = (uint64_t)total;
}

static void fma_plain(size_t iterations)
{
    float sums[LANES] = {0};
    const float x = 1.0f / (float)(iterations + 1);
    for (size_t it = 0; it < iterations; it++) {
        const float w = (float)(it & 15);
        for (size_t i = 0; i < LANES; i++)
            sums[i] += w * x;
    }
    float total = 0;
    for (size_t i = 0; i < LANES; i++)
        total += sums[i];
    sink = (uint64_t)total;
}

static const struct mb_peak peaks[] = {
    {MB_ISA_REFERENCE, MB_PEAK_DOT, dot_plain, LANES},
    {MB_ISA_REFERENCE, MB_PEAK_DOT_EXACT, dot_plain, LANES},
    {MB_ISA_REFERENCE, MB_PEAK_FMA, fma_plain, LANES},
};
const struct mb_peak_table mb_peaks_portable = {peaks, sizeof peaks / sizeof peaks[0]};

/* Four, four times, four times. */
#define FOUR(text) text text text text
bool mb_clock_loop(size_t iterations)
{
#if defined(__x86_64__)
    uint64_t sum = 0, one = 1;
    for (size_t i = 0; i < iterations; i++)
        __asm__ volatile(FOUR(FOUR(FOUR("add %1, %0\n\t"))) : "+r"(sum) : "r"(one) : "cc");
    return true;
#elif defined(__aarch64__)
    uint64_t sum = 0, one = 1;
    for (size_t i = 0; i < iterations; i++)
        __asm__ volatile(FOUR(FOUR(FOUR("add %0, %0, %1\n\t"))) : "+r"(sum) : "r"(one));
    return true;
#else
    (void)iterations;
    return false;
#endif
}

const struct mb_peak *mb_peak_at(size_t i)
{
    const struct mb_peak_table *const tables[] = {&mb_peaks_portable, &mb_peaks_x86, &mb_peaks_arm};
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        if (i < tables[t]->count)
            return &tables[t]->peaks[i];
        i -= tables[t]->count;
    }
    return NULL;
}

void mb_read_portable(const uint8_t *data, size_t bytes, size_t streams, size_t ahead)
{
    (void)ahead;
    const size_t each = bytes / streams;
    uint64_t sums[8] = {0};
    for (size_t at = 0; at < each; at += STREAM_STEP)
        for (size_t s = 0; s < streams; s++) {
            const uint64_t *words = (const uint64_t *)(const void *)(data + s * each + at);
            for (size_t i = 0; i < STREAM_STEP / sizeof *words; i++)
                sums[i % 8] += words[i];
        }
    for (size_t i = 0; i < 8; i++)
        sink = sink + sums[i];
}

mb_read_fn mb_read_loop(enum mb_isa isa)
{
    const mb_read_fn x86 = mb_read_loop_x86(isa), arm = mb_read_loop_arm(isa);
    return x86 != NULL ? x86 : arm != NULL ? arm : mb_read_portable;
}
