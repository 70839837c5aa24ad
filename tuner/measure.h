/* SPDX-License-Identifier: Apache-2.0 */
/* How this library measures time; the only code that does.
 *
 * A sample is `iterations` runs between two readings of the clock. Iterations double until a sample
 * is long against what the clock can't tell apart; then candidates take turns, one sample each, so
 * that whatever the machine does meanwhile it does to all of them. A sample during which a thread
 * was off its processor says more about the neighbours than about the candidate; it counts only
 * when there are too few others. The median is what is reported: a minimum rewards lucky shots, a
 * mean is at the mercy of one lost time slice. */
#ifndef MIXBIT_TUNER_MEASURE_H
#define MIXBIT_TUNER_MEASURE_H

#include "mixbit/status.h"

/* A clock of nanoseconds, and a count of what disturbed this process so far (times that one of
 * its threads was without a processor; NULL: unknown). Tests bring their own. */
struct mb_clock {
    uint64_t (*now_ns)(void *user);
    uint64_t (*disturbances)(void *user);
    void *user;
};
extern const struct mb_clock mb_clock_monotonic;

/* Something to time: run it `iterations` times in a row. */
struct mb_timed {
    void (*run)(void *arg, size_t iterations);
    void *arg;
};

struct mb_measure_options {
    const struct mb_clock *clock; /* NULL: mb_clock_monotonic */
    double sample_ns;             /* shortest sample; 0: 4000 times the clock's noise floor */
    double budget_ns;             /* of one case's undisturbed samples and its warm-up; 0: 50 ms.
                                     Disturbed ones may cost as much again */
    size_t samples_min;           /* taken even when the budget is spent; 0: 3 */
    size_t samples_max;           /* undisturbed ones; 0: 64 */
    double drop_ratio; /* a case whose best sample is above this many times the leader's median
                          stops taking turns after samples_min; 0: never */
    void (*enter)(void *arg); /* called with a case's arg before each of its samples, not timed: to
                                 select a kernel; NULL: nothing */
};

struct mb_measurement {
    double median_ns, mad_ns, min_ns; /* of one iteration */
    size_t iterations, samples;       /* a sample's iterations; samples that count */
    size_t disturbed;                 /* samples left out */
};

/* The shortest difference the clock shows, its reading included; never 0. */
double mb_clock_floor_ns(const struct mb_clock *clock);

/**
 * Time `count` cases in turns and fill results[count].
 * A sample during which the clock went backwards is thrown away; MB_ERR_DEVICE when that doesn't
 * end, or the clock doesn't advance at all. MB_ERR_MEMORY; MB_ERR_ARGUMENT without cases.
 */
enum mb_status mb_measure(const struct mb_timed *cases, size_t count,
                          const struct mb_measure_options *options, struct mb_measurement *results);

/**
 * The time of an iteration of `beside` over that of `timed`: the median over pairs. Each sample of
 * `timed` has one of `beside`, about as long, before and behind it, so a machine that changes its
 * speed between them, or is now in one phase and now in another, changes both. The budget is that
 * of all samples; drop_ratio has no meaning here. Errors are those of mb_measure.
 */
enum mb_status mb_measure_ratio(const struct mb_timed *timed, const struct mb_timed *beside,
                                const struct mb_measure_options *options, double *ratio);

/* Middle value, or the mean of the two in the middle; sorts; NaN for none. */
double mb_median(double *values, size_t count);

#endif
