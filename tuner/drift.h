/* SPDX-License-Identifier: Apache-2.0 */
/* What an earlier run measured, timed again beside what is new.
 *
 * A machine that shares its cores and memory with others is half as fast in one hour as in the
 * next, and a profile grows over hours: a model here, a format there. Formats would then be ranked
 * by when they had their turn. So a run that adds to a profile times a few of its products again,
 * by the same rule as the new ones, each keeping its best visit; what those take longer than they
 * did, the new ones are taken to take longer too. */
#ifndef MIXBIT_TUNER_DRIFT_H
#define MIXBIT_TUNER_DRIFT_H

#include "tuner/profile.h"
#include "tuner/task.h"

enum { MB_DRIFT_POINTS = 3, MB_DRIFT_POINTS_MOST = MB_DRIFT_POINTS * 16 };

struct mb_drift {
    struct mb_drift_point {
        struct mb_cost kept; /* as the profile has it */
        double best_ns;      /* of this run's visits; 0: none */
    } points[MB_DRIFT_POINTS_MOST];
    size_t count;
};

/* The best entries of up to MB_DRIFT_POINTS formats for each residency (a bit mask) and m of the
 * task, at its shapes if it has them there. Marks all entries as known before. */
void mb_drift_begin(struct mb_drift *drift, struct mb_profile *profile,
                    const struct mb_tune_task *task, unsigned residencies, size_t threads);

/* Bring every entry that was put since mb_drift_begin, on so many threads, to the phase of those
 * before: of its residency and m, or the nearest m that has points. Residencies without a visited
 * point stay as they are, and so does what moved by less than timing tells. */
void mb_drift_settle(const struct mb_drift *drift, struct mb_profile *profile, size_t threads);

#endif
