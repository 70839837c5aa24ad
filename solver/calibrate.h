/* SPDX-License-Identifier: Apache-2.0 */
/* Times of a problem brought in line with whole mixes that were measured.
 *
 * A time is taken alone, in a machine whose speed wanders by percents within seconds, so each is
 * off by some, and a solver that looks for the fastest choice finds those that are off in its
 * favour: what it picks is slower than it believes. Sums over mixes, timed in turns, say how far
 * off the times are: uniform mixes for each format, and the mixes that a solver picked for the very
 * times that it picked them for. */
#ifndef MIXBIT_SOLVER_CALIBRATE_H
#define MIXBIT_SOLVER_CALIBRATE_H

#include "mixbit/plan.h"

/* A mix and how long its products took, all of them, on a machine of one speed. */
struct mb_timed_mix {
    const size_t *choice; /* [unit_count] */
    double products_ns;
};

/* Multiplies the times of `quantity` (decode or prefill) by the factors that are likeliest after
 * the mixes, all at once: a factor is 1 before, give or take half for the machine, 8 % for a format
 * and 5 % for a format in one shape, and a mix is timed to 0.4 % (a linear model with Gaussian
 * errors; one update per mix). A mix without a time is passed over. MB_ERR_MEMORY. */
enum mb_status mb_problem_calibrate(struct mb_problem *problem, enum mb_quantity quantity,
                                    const struct mb_timed_mix *mixes, size_t count);

#endif
