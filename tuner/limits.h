/* SPDX-License-Identifier: Apache-2.0 */
/* The limits one by one: what mb_limits_measure is made of, for a bench that doubts one of them. */
#ifndef MIXBIT_TUNER_LIMITS_H
#define MIXBIT_TUNER_LIMITS_H

#include "tuner/peaks.h"
#include "mixbit/profile.h"

/* Read bandwidth of all threads at a residency: the best of the allowed levels' loops, streams and
 * prefetch distances, budget_ns each. `all` false: one thread. */
enum mb_status mb_limit_read_gbps(struct mb_threads *threads, enum mb_residency residency, bool all,
                                  double budget_ns, double *gbps);
/* Products of all threads at a level's peak; 0 when the level has no such loop. */
enum mb_status mb_limit_peak_gmacs(struct mb_threads *threads, enum mb_isa isa,
                                   enum mb_peak_kind kind, double budget_ns, double *gmacs);

#endif
