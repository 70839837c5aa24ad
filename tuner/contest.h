/* SPDX-License-Identifier: Apache-2.0 */
/* One point of the search: candidates for the same product, right before fast.
 *
 * Every candidate is checked first; a wrong one is recorded as failed and never timed. The most
 * promising right one is looked at briefly, and what can't beat that even in theory is left out.
 * The rest take turns on the same copies of the weights. A revisit times the leaders once more and
 * keeps the better visit of each. */
#ifndef MIXBIT_TUNER_CONTEST_H
#define MIXBIT_TUNER_CONTEST_H

#include "tuner/space.h"
#include "tuner/workload.h"

struct mb_contest {
    struct mb_profile *profile; /* gets an entry for every candidate that was timed or failed */
    enum mb_format format;
    struct mb_shape shape;
    size_t m, threads;
    enum mb_residency residency;
    struct mb_tune_candidate *candidates; /* most promising first */
    size_t count;
    double budget_ns; /* of one candidate's timing */
    bool revisit;     /* entries exist: no checks, leaders only */
};

/* Nothing is left to measure: every candidate has a current entry, or a bound above what the best
 * entry took. */
bool mb_contest_is_decided(const struct mb_contest *contest);

/* Run it on a workload of the same format and shape, with room for m rows. Leaves the last
 * candidate selected. The candidates are reordered. */
enum mb_status mb_contest_run(struct mb_contest *contest, struct mb_workload *workload);

#endif
