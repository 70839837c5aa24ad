/* SPDX-License-Identifier: Apache-2.0 */
/* The limits one by one: what mb_limits_measure is made of, for a bench that doubts one of them. */
#ifndef MIXBIT_TUNER_LIMITS_H
#define MIXBIT_TUNER_LIMITS_H

#include "tuner/peaks.h"
#include "mixbit/profile.h"

struct mb_rate {
    double value; /* GB/s or GMAC/s of all threads together */
    double
        per_cycle; /* the same a cycle and thread, of a clock timed in turns with it; 0: unknown */
    double clock_ghz; /* that clock */
};

/* Something to time in turns with something else: the clock of all threads. */
struct mb_clock_case {
    struct mb_threads *threads;
    size_t inner;
};
/* False when this architecture has no such loop. */
bool mb_clock_case_init(struct mb_clock_case *clock, struct mb_threads *threads);
void mb_clock_case_run(void *arg, size_t iterations);
double mb_clock_case_ghz(const struct mb_clock_case *clock, double min_ns);

/* Likewise: the first `readers` threads reading `data`, each its part of a slice, `passes` times an
 * iteration, then of the next slice. All cases over one buffer go on where the last one was, so
 * that none finds a slice cached by another. */
struct mb_read_buffer {
    struct mb_threads *threads;
    const uint8_t *data;
    size_t bytes, readers, slice, passes, cursor;
};
/* Slice and passes: a cache is read whole, again and again; memory in slices. Every thread's part
 * is a multiple of what four streams step by. False: too small to be read so. */
bool mb_read_buffer_shape(struct mb_read_buffer *buffer, enum mb_residency residency);

struct mb_read_case {
    struct mb_read_buffer *buffer;
    mb_read_fn read;
    size_t streams, ahead;
};
void mb_read_case_run(void *arg, size_t iterations);
double mb_read_case_gbps(const struct mb_read_case *c, double ns); /* of one iteration's time */
/* The fastest way to read a buffer: the allowed levels' loops, streams and prefetch distances, some
 * budget_ns each. */
enum mb_status mb_read_case_best(struct mb_read_buffer *buffer, double budget_ns,
                                 struct mb_read_case *best, struct mb_rate *rate);

/* Read bandwidth of all threads at a residency, as above. `all` false: one thread. */
enum mb_status mb_limit_read_gbps(struct mb_threads *threads, enum mb_residency residency, bool all,
                                  double budget_ns, struct mb_rate *rate);
/* Products of all threads at a level's peak; all 0 when the level has no such loop. */
enum mb_status mb_limit_peak_gmacs(struct mb_threads *threads, enum mb_isa isa,
                                   enum mb_peak_kind kind, double budget_ns, struct mb_rate *rate);

#endif
