/* SPDX-License-Identifier: Apache-2.0 */
/* One point of the search: candidates for the same product, right before fast.
 *
 * Every candidate is checked first; a wrong one is recorded as failed and never timed. The most
 * promising right one is looked at briefly, and what can't beat that even in theory is left out.
 * The rest take turns on the same copies of the weights. A revisit times the leaders once more and
 * keeps the better visit of each.
 *
 * The descent goes on from the best kernel: knob by knob, its other values against the one held. */
#ifndef MIXBIT_TUNER_CONTEST_H
#define MIXBIT_TUNER_CONTEST_H

#include "tuner/space.h"
#include "tuner/workload.h"

struct mb_contest {
    struct mb_profile *profile; /* gets an entry for every candidate that was timed or failed */
    enum mb_format format;
    enum mb_activation activation; /* of all candidates */
    struct mb_shape shape;
    size_t m, threads;
    enum mb_residency residency;
    struct mb_tune_candidate *candidates; /* most promising first */
    size_t count;
    double budget_ns; /* of one candidate's timing */
    bool revisit;     /* entries exist: no checks, leaders only */
    bool keep_better; /* an entry that exists is replaced by a better figure only */
    bool aside;       /* nothing is put into the profile: first_ns is all that is wanted */
    double first_ns;  /* out: what the first of those that were timed took */
};

/* Where it is held, as the key of an entry has it. */
struct mb_cost mb_contest_place(const struct mb_contest *contest);

/* Nothing is left to measure: every candidate has a current entry, or a bound above what the best
 * entry took. */
bool mb_contest_is_decided(const struct mb_contest *contest);

/* Move each knob of the leader (the best that the profile knows at this point of the operations in
 * `ops`, a bit mask 1 << enum mb_op) along its values, the others held, on the same workload.
 * Overwrites contest->candidates. */
enum mb_status mb_contest_descend(struct mb_contest *contest, int ops,
                                  struct mb_workload *workload);
/* There is a knob to move, and none has been moved at this point before. */
bool mb_contest_descent_is_due(struct mb_contest *contest, int ops);

/* Run it on a workload of the same format and shape, with room for m rows. Leaves the last
 * candidate selected. The candidates are reordered. */
enum mb_status mb_contest_run(struct mb_contest *contest, struct mb_workload *workload);

#endif
