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

/* Read bandwidth of all threads at a residency: the best of the allowed levels' loops, streams and
 * prefetch distances, budget_ns each. `all` false: one thread. */
enum mb_status mb_limit_read_gbps(struct mb_threads *threads, enum mb_residency residency, bool all,
                                  double budget_ns, struct mb_rate *rate);
/* Products of all threads at a level's peak; all 0 when the level has no such loop. */
enum mb_status mb_limit_peak_gmacs(struct mb_threads *threads, enum mb_isa isa,
                                   enum mb_peak_kind kind, double budget_ns, struct mb_rate *rate);

#endif
