/* SPDX-License-Identifier: Apache-2.0 */
/* mb_solve: the best mix under limits, proven, and what to ask for instead when there is none.
 *
 * Lagrangian prices give a bound and a first mix; items that cannot be in a better mix are dropped;
 * the breadth-first search runs with growing width until nothing was cut. Limits hold strictly on
 * totals summed in unit order; a mix within 1e-11 (relative) of a limit on times or loss may be
 * passed over, limits on whole numbers (bytes) are exact to the last one. */
#include "solver/knapsack.h"
#include "solver/numbers.h"
#include "solver/solve.h"
#include "support/support.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDING 1e-12 /* of a limit: what summation order may do to a total */
#define NEAREST_TOLERANCE 1e-4
#define NEAREST_LIMIT_S 1.0

void mb_solution_free(struct mb_solution *solution)
{
    if (solution == NULL)
        return;
    free(solution->choice);
    solution->choice = NULL;
}

/* ---- one knapsack ---- */

/* What is left after thinning when nothing has to be searched: every class at its cheapest. */
static void take_cheapest(struct mb_knapsack *knapsack)
{
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        size_t best = class->first;
        for (size_t i = class->first; i < class->first + class->count; i++)
            if (knapsack->items[i].cost < knapsack->items[best].cost)
                best = i;
        knapsack->decided[class->unit] = knapsack->items[best].candidate;
    }
    memcpy(knapsack->trial, knapsack->decided, knapsack->problem->unit_count * sizeof(size_t));
    mb_knapsack_offer(knapsack);
}

static bool close_enough(const struct mb_knapsack *knapsack, double bound, double gap)
{
    const double upper = mb_knapsack_upper(knapsack);
    return bound >= upper - (knapsack->found ? fmax(gap, 1e-12) : 1e-12) * fabs(upper);
}

/* Search with growing width. *bound is proven for every mix within the scaled capacities. */
static enum mb_status search_widening(struct mb_knapsack *knapsack, double gap,
                                      uint64_t deadline_ns, double *bound)
{
    *bound = -INFINITY;
    for (size_t width = 64;; width *= 8) {
        double lambda[MB_MAX_CAPACITIES], proven;
        if (knapsack->class_count == 0 || knapsack->capacities == 0) {
            take_cheapest(knapsack);
            break;
        }
        if (!mb_dual_solve(knapsack, lambda, &proven))
            break;
        *bound = fmax(*bound, fmin(proven, mb_knapsack_upper(knapsack)));
        mb_knapsack_greedy(knapsack, lambda);
        if (close_enough(knapsack, *bound, gap))
            return MB_OK;
        const size_t classes = knapsack->class_count, capacities = knapsack->capacities;
        if (!mb_knapsack_fix(knapsack, lambda))
            break;
        if (classes != knapsack->class_count || capacities != knapsack->capacities) {
            width /= 8; /* smaller than it was: prices first */
            continue;
        }
        bool complete;
        const enum mb_status status =
            mb_search(knapsack, lambda, width, gap, deadline_ns, &proven, &complete);
        if (status != MB_OK)
            return status;
        *bound = fmax(*bound, fmin(proven, mb_knapsack_upper(knapsack)));
        if (complete || close_enough(knapsack, *bound, gap) || width >= MB_SEARCH_WIDTH ||
            mb_now_ns() > deadline_ns)
            return MB_OK;
    }
    *bound = mb_knapsack_upper(knapsack); /* nothing better is left */
    return MB_OK;
}

static enum mb_status solve_once(const struct mb_problem *problem, enum mb_quantity minimize,
                                 const double limit[MB_QUANTITY_COUNT], const size_t *seed,
                                 double slack, double gap, uint64_t deadline_ns,
                                 struct mb_outcome *outcome, bool *rejected)
{
    struct mb_knapsack *knapsack;
    bool possible;
    double bound = INFINITY;
    *rejected = false;
    enum mb_status status =
        mb_knapsack_create(problem, minimize, limit, slack, &knapsack, &possible);
    if (status != MB_OK)
        return status;
    if (seed != NULL) {
        memcpy(knapsack->trial, seed, problem->unit_count * sizeof *seed);
        mb_knapsack_offer(knapsack);
        knapsack->rejected = false;
    }
    if (possible)
        status = search_widening(knapsack, gap, deadline_ns, &bound);
    if (status == MB_OK) {
        *rejected = knapsack->rejected;
        outcome->nodes += knapsack->nodes;
        outcome->found = knapsack->found;
        outcome->proven = knapsack->found || bound >= mb_knapsack_upper(knapsack);
        outcome->cost = knapsack->best_cost;
        outcome->bound = bound;
        if (knapsack->found) {
            free(outcome->choice);
            outcome->choice = knapsack->best;
            knapsack->best = NULL;
        }
    }
    mb_knapsack_free(knapsack);
    return status;
}

/* Some mix within all limits, or the proof that there is none: the least of a limited quantity, up
 * to its limit. Under a plain objective that search would have nothing to cut by until it found a
 * first mix. */
static enum mb_status solve_feasible(const struct mb_problem *problem,
                                     const double limit[MB_QUANTITY_COUNT], uint64_t deadline_ns,
                                     struct mb_outcome *outcome)
{
    int pivot = -1;
    bool rejected;
    memset(outcome, 0, sizeof *outcome);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (!isinf(limit[q]))
            pivot = q;
    if (pivot < 0)
        return MB_OK;
    const enum mb_status status = solve_once(problem, (enum mb_quantity)pivot, limit, NULL,
                                             ROUNDING, 1, deadline_ns, outcome, &rejected);
    outcome->proven = outcome->proven && !rejected;
    return status;
}

enum mb_status mb_solve_limits(const struct mb_problem *problem, enum mb_quantity minimize,
                               const double limit[MB_QUANTITY_COUNT], const size_t *seed,
                               double gap, double time_limit_s, struct mb_outcome *outcome)
{
    memset(outcome, 0, sizeof *outcome);
    const uint64_t start = mb_now_ns();
    const uint64_t deadline = time_limit_s > 0 && time_limit_s < 1e9
                                  ? start + (uint64_t)(time_limit_s * 1e9)
                                  : UINT64_MAX;
    struct mb_outcome feasible = {0};
    bool rejected = false;
    enum mb_status status = MB_OK;
    if (seed == NULL && isinf(limit[minimize])) {
        status = solve_feasible(problem, limit, deadline, &feasible);
        outcome->nodes = feasible.nodes;
        if (status != MB_OK || (!feasible.found && feasible.proven))
            goto out;
        seed = feasible.choice;
    }
    status =
        solve_once(problem, minimize, limit, seed, ROUNDING, gap, deadline, outcome, &rejected);
    if (status == MB_OK && rejected) {
        /* Some mix held the limits but for rounding, and may have hidden others: narrow them. The
         * bound of the wider problem stays valid. */
        const double bound = outcome->bound;
        size_t *first = outcome->choice;
        outcome->choice = NULL;
        status = solve_once(problem, minimize, limit, first != NULL ? first : seed, -ROUNDING, gap,
                            deadline, outcome, &rejected);
        free(first);
        outcome->bound = fmin(outcome->bound, bound);
    }
out:
    free(feasible.choice);
    if (status == MB_OK && !outcome->found)
        outcome->proven = outcome->proven || (feasible.proven && !feasible.found);
    if (status != MB_OK) {
        free(outcome->choice);
        outcome->choice = NULL;
    }
    return status;
}

/* ---- what to ask for instead ---- */

/* Share of the limits that a mix takes: the greatest of total / limit. */
static double share_of(const struct mb_problem *problem, const size_t *choice,
                       const double limit[MB_QUANTITY_COUNT])
{
    double total[MB_QUANTITY_COUNT], share = 0;
    mb_problem_totals(problem, choice, total);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (!isinf(limit[q]))
            share = fmax(share, total[q] / limit[q]);
    return share;
}

static double least_total(const struct mb_problem *problem, enum mb_quantity quantity,
                          size_t *choice)
{
    double total[MB_QUANTITY_COUNT];
    for (size_t i = 0; i < problem->unit_count; i++) {
        const struct mb_unit *unit = &problem->units[i];
        choice[i] = 0;
        for (size_t c = 1; c < unit->candidate_count; c++)
            if (mb_candidate_value(&unit->candidates[c], quantity) <
                mb_candidate_value(&unit->candidates[choice[i]], quantity))
                choice[i] = c;
    }
    mb_problem_totals(problem, choice, total);
    return total[quantity];
}

/* The least share t such that some mix holds t times every limit: bisection between what each
 * quantity needs alone and the best mix seen, deciding each step by a solve. */
static enum mb_status nearest_share(const struct mb_problem *problem,
                                    const double limit[MB_QUANTITY_COUNT], double *share)
{
    size_t *choice = calloc(problem->unit_count + 1, sizeof *choice);
    if (choice == NULL)
        return MB_ERR_MEMORY;
    double low = 0, high = INFINITY;
    int set = 0, pivot = -1;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        if (isinf(limit[q]))
            continue;
        set++;
        pivot = q;
        low = fmax(low, least_total(problem, (enum mb_quantity)q, choice) / limit[q]);
        high = fmin(high, share_of(problem, choice, limit));
    }
    enum mb_status status = MB_OK;
    while (status == MB_OK && set > 1 && high - low > NEAREST_TOLERANCE * high) {
        const double middle = low + (high - low) / 2;
        double tried[MB_QUANTITY_COUNT];
        struct mb_outcome outcome;
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            tried[q] = middle * limit[q];
        status = mb_solve_limits(problem, (enum mb_quantity)pivot, tried, NULL,
                                 NEAREST_TOLERANCE / 10, NEAREST_LIMIT_S / 16, &outcome);
        if (status == MB_OK && outcome.found)
            high = fmin(high, share_of(problem, outcome.choice, limit));
        else
            low = middle;
        free(outcome.choice);
    }
    *share = high;
    free(choice);
    return status;
}

static void append(char *text, size_t bytes, const char *addition)
{
    const size_t length = strlen(text);
    if (length + 1 < bytes)
        strncat(text, addition, bytes - length - 1);
}

/* "A", "A and B", "A, B and C" of the limits that are set. */
static void list_limits(const double values[MB_QUANTITY_COUNT], bool loosen, char *text,
                        size_t bytes)
{
    int set = 0, told = 0;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        set += !isinf(values[q]);
    text[0] = '\0';
    for (int q = MB_QUANTITY_COUNT - 1; q >= 0; q--) {
        char one[64];
        if (isinf(values[q]))
            continue;
        if (told++ > 0)
            append(text, bytes, told == set ? " and " : ", ");
        mb_quantity_text((enum mb_quantity)q, values[q], loosen, one, sizeof one);
        append(text, bytes, one);
    }
}

/* The limits that cannot be met even alone, each with what can. False when there is none. */
static bool tell_impossible(const struct mb_problem *problem, const double limit[MB_QUANTITY_COUNT],
                            size_t *choice, char *text, size_t bytes)
{
    static const char *const ask[] = {"stays within", "reaches", "reaches", "fits"};
    static const char *const best[] = {"the least is", "the fastest is", "the fastest is",
                                       "the smallest is"};
    text[0] = '\0';
    for (int q = MB_QUANTITY_COUNT - 1; q >= 0; q--) {
        const double least =
            isinf(limit[q]) ? 0 : least_total(problem, (enum mb_quantity)q, choice);
        if (isinf(limit[q]) || least <= limit[q])
            continue;
        char asked[64], possible[64], line[200];
        mb_quantity_text((enum mb_quantity)q, limit[q], false, asked, sizeof asked);
        mb_quantity_text((enum mb_quantity)q, least, true, possible, sizeof possible);
        snprintf(line, sizeof line, "%sno mix %s %s: %s %s", text[0] != '\0' ? "; " : "", ask[q],
                 asked, best[q], possible);
        append(text, bytes, line);
    }
    return text[0] != '\0';
}

static enum mb_status tell_infeasible(const struct mb_problem *problem,
                                      const double limit[MB_QUANTITY_COUNT], bool proven,
                                      struct mb_budget *nearest, struct mb_error *error)
{
    double share, wanted[MB_QUANTITY_COUNT];
    char alone[300], asked[200], possible[200];
    int set = 0;
    enum mb_status status = nearest_share(problem, limit, &share);
    size_t *choice = calloc(problem->unit_count + 1, sizeof *choice);
    if (status != MB_OK || choice == NULL) {
        free(choice);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while solving");
    }
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        set += !isinf(limit[q]);
        /* Upwards by the rounding that a sum of times may have; whole bytes stay whole. */
        wanted[q] = share * limit[q] * (1 + 4 * DBL_EPSILON);
        if (q == MB_QUANTITY_BYTES && !isinf(wanted[q]))
            wanted[q] = ceil(wanted[q] * (1 - 8 * DBL_EPSILON));
        else
            wanted[q] *= 1 + 10 * ROUNDING;
        if (nearest != NULL)
            nearest->max[q] = isinf(limit[q]) ? 0 : wanted[q];
    }
    const bool impossible = tell_impossible(problem, limit, choice, alone, sizeof alone);
    free(choice);
    list_limits(limit, false, asked, sizeof asked);
    list_limits(wanted, true, possible, sizeof possible);
    if (set == 1)
        return mb_error_set(error, MB_ERR_INFEASIBLE, -1, "%s", alone);
    if (impossible)
        return mb_error_set(error, MB_ERR_INFEASIBLE, -1,
                            "%s; the nearest budgets in the proportion of %s are %s", alone, asked,
                            possible);
    return mb_error_set(error, MB_ERR_INFEASIBLE, -1,
                        "%s %s together, though each can be met alone: the nearest budgets in that "
                        "proportion are %s",
                        proven ? "no mix meets" : "no mix was found in time that meets", asked,
                        possible);
}

/* ---- the public function ---- */

static enum mb_status check_problem(const struct mb_problem *problem, struct mb_error *error)
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (!isfinite(problem->fixed[q]) || problem->fixed[q] < 0)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "fixed %s: expected a finite number of 0 or more, found %g",
                                mb_quantity_key((enum mb_quantity)q), problem->fixed[q]);
    for (size_t i = 0; i < problem->unit_count; i++) {
        const struct mb_unit *unit = &problem->units[i];
        if (unit->candidate_count == 0)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s has no candidate format",
                                unit->name);
        for (size_t c = 0; c < unit->candidate_count; c++)
            for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
                const double value = mb_candidate_value(&unit->candidates[c], (enum mb_quantity)q);
                if (!isfinite(value) || value < 0)
                    return mb_error_set(
                        error, MB_ERR_ARGUMENT, -1,
                        "%s, candidate %zu: %s: expected a finite number of 0 or more, found %g",
                        unit->name, c, mb_quantity_key((enum mb_quantity)q), value);
            }
    }
    return MB_OK;
}

enum mb_status mb_check_arguments(const struct mb_problem *problem, enum mb_quantity minimize,
                                  const struct mb_budget *budget, double limit[MB_QUANTITY_COUNT],
                                  struct mb_error *error)
{
    if ((int)minimize < 0 || minimize >= MB_QUANTITY_COUNT)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "unknown objective %d", (int)minimize);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        const double max = budget != NULL ? budget->max[q] : 0;
        if (isnan(max) || max < 0)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "budget on %s: expected a number of 0 or more, found %g",
                                mb_quantity_key((enum mb_quantity)q), max);
        limit[q] = max > 0 ? max : INFINITY;
    }
    return check_problem(problem, error);
}

void mb_solution_fill(const struct mb_problem *problem, enum mb_quantity minimize,
                      struct mb_outcome *outcome, struct mb_solution *solution)
{
    memset(solution, 0, sizeof *solution);
    solution->choice = outcome->choice;
    outcome->choice = NULL;
    mb_problem_totals(problem, solution->choice, solution->total);
    const double cost = solution->total[minimize];
    solution->bound = fmin(outcome->bound, cost);
    solution->gap = cost > 0 ? (cost - solution->bound) / cost : 0;
    if (solution->gap < 2e-12) {
        solution->gap = 0;
        solution->bound = cost;
    }
    solution->nodes = outcome->nodes;
    solution->objective = cost;
}

enum mb_status mb_solve(const struct mb_problem *problem, enum mb_quantity minimize,
                        const struct mb_budget *budget, double gap, double time_limit_s,
                        struct mb_solution *solution, struct mb_budget *nearest,
                        struct mb_error *error)
{
    double limit[MB_QUANTITY_COUNT];
    memset(solution, 0, sizeof *solution);
    enum mb_status status = mb_check_arguments(problem, minimize, budget, limit, error);
    if (status != MB_OK)
        return status;
    if (!(gap >= 0))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "gap: expected 0 or more, found %g", gap);
    struct mb_outcome outcome;
    status = mb_solve_limits(problem, minimize, limit, NULL, gap, time_limit_s, &outcome);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "out of memory while solving");
    if (outcome.found) {
        mb_solution_fill(problem, minimize, &outcome, solution);
        return MB_OK;
    }
    return tell_infeasible(problem, limit, outcome.proven, nearest, error);
}
