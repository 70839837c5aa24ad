/* SPDX-License-Identifier: Apache-2.0 */
/* Loops that do nothing but what a kernel can't avoid: multiply in registers, or read memory.
 *
 * They are kernels to get right: a limit that a kernel beats is no limit. So each level has several
 * shapes of the same loop, and the fastest counts. The vector ones are written in assembly
 * statements, which no compiler can hoist, merge or spill. */
#ifndef MIXBIT_TUNER_PEAKS_H
#define MIXBIT_TUNER_PEAKS_H

#include "kernels/kernel.h"

enum mb_peak_kind {
    MB_PEAK_DOT,       /* u8 x s8 with the cheapest accumulation (small codes) */
    MB_PEAK_DOT_EXACT, /* u8 x s8 for codes that use all 8 bits */
    MB_PEAK_FMA,       /* f32; of a level for bf16 pairs their dot */
    MB_PEAK_KINDS
};

/* One loop: `macs` products per iteration. */
struct mb_peak {
    enum mb_isa isa;
    enum mb_peak_kind kind;
    void (*run)(size_t iterations);
    size_t macs;
};
/* The i-th loop of this build; NULL past the end. Run only those of supported levels. */
const struct mb_peak *mb_peak_at(size_t i);

/* A chain of additions of two registers, each waiting for the one before: one a cycle on every
 * machine (immediates may be eliminated), so its time tells the clock that the other loops ran at.
 * MB_CLOCK_CYCLES in an iteration; false where there is no such loop. */
bool mb_clock_loop(size_t iterations);
enum { MB_CLOCK_CYCLES = 64 };

/* Read [data, data + bytes) once with the widest loads of the level: as `streams` parallel streams,
 * prefetching `ahead` bytes ahead of each (0: not). bytes is a multiple of 256 * streams. */
typedef void (*mb_read_fn)(const uint8_t *data, size_t bytes, size_t streams, size_t ahead);
mb_read_fn mb_read_loop(enum mb_isa isa);

/* The parts that each architecture's file brings. */
struct mb_peak_table {
    const struct mb_peak *peaks;
    size_t count;
};
extern const struct mb_peak_table mb_peaks_portable, mb_peaks_x86, mb_peaks_arm;
void mb_read_portable(const uint8_t *data, size_t bytes, size_t streams, size_t ahead);
mb_read_fn mb_read_loop_x86(enum mb_isa isa); /* NULL: none of its own */
mb_read_fn mb_read_loop_arm(enum mb_isa isa);

#endif
