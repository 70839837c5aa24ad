/* SPDX-License-Identifier: Apache-2.0 */
/* The solver without the words: what mb_solve and mb_solve_front share. Limits are INFINITY where
 * there is none. */
#ifndef MIXBIT_SOLVER_SOLVE_H
#define MIXBIT_SOLVER_SOLVE_H

#include "mixbit/plan.h"
#include <stdbool.h>

#define MB_SEARCH_WIDTH ((size_t)1 << 18)

struct mb_outcome {
    bool found, proven; /* proven: best within the gap, or none exists */
    size_t *choice;     /* free() */
    double cost, bound;
    size_t nodes;
};

/* `seed` (NULL allowed) is a mix to start from. MB_OK with found false: infeasible, or (not proven)
 * nothing found in time. */
enum mb_status mb_solve_limits(const struct mb_problem *problem, enum mb_quantity minimize,
                               const double limit[MB_QUANTITY_COUNT], const size_t *seed,
                               double gap, double time_limit_s, struct mb_outcome *outcome);
/* Check problem, objective and budget; turn the budget into limits. */
enum mb_status mb_check_arguments(const struct mb_problem *problem, enum mb_quantity minimize,
                                  const struct mb_budget *budget, double limit[MB_QUANTITY_COUNT],
                                  struct mb_error *error);
/* Takes outcome->choice. */
void mb_solution_fill(const struct mb_problem *problem, enum mb_quantity minimize,
                      struct mb_outcome *outcome, struct mb_solution *solution);
double mb_candidate_value(const struct mb_candidate *candidate, enum mb_quantity quantity);

#endif
