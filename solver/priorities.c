/* SPDX-License-Identifier: Apache-2.0 */
/* The weighted mode: memory, latency and accuracy added up in the user's proportion.
 *
 * Every quantity is divided by a span, so that weights mean shares of what there is to gain. The
 * sum over units is linear in the choice: without limits each unit takes its least one, with limits
 * the exact solver minimises it in the place of a quantity that has none. Constants (each unit's
 * least value) are left in, since they move no choice. Weighing per layer is APreQEL's idea
 * (arXiv 2603.23575), reconstructed from its abstract; the exact form under budgets is ours. */
#include "solver/numbers.h"
#include "solver/solve.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TIE 1e-12 /* of a sum: what rounding may tell apart */

/* What one unit's figures are multiplied by. */
struct factors {
    double of[MB_QUANTITY_COUNT];
};

static double unit_span(const struct mb_unit *unit, enum mb_quantity quantity)
{
    double least = INFINITY, most = 0;
    for (size_t c = 0; c < unit->candidate_count; c++) {
        const double value = mb_candidate_value(&unit->candidates[c], quantity);
        least = fmin(least, value);
        most = fmax(most, value);
    }
    return most - least;
}

static double model_span(const struct mb_problem *problem, enum mb_quantity quantity)
{
    double span = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        span += unit_span(&problem->units[u], quantity);
    return span;
}

/* Weights with 1 as the largest. */
static enum mb_status normalize_weights(const double weight[MB_QUANTITY_COUNT],
                                        double normalized[MB_QUANTITY_COUNT],
                                        struct mb_error *error)
{
    double most = 0;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        if (!isfinite(weight[q]) || weight[q] < 0)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "weight of %s: expected a finite number of 0 or more, found %g",
                                mb_quantity_key((enum mb_quantity)q), weight[q]);
        most = fmax(most, weight[q]);
    }
    if (most <= 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "all weights are 0: give one thing that matters");
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        normalized[q] = weight[q] / most;
    return MB_OK;
}

/* What each unit contributes to the loss, not yet divided by the largest; one that has no choice
 * nothing. */
static enum mb_status contribution_of(const struct mb_unit *unit, enum mb_format format,
                                      double *contribution, struct mb_error *error)
{
    *contribution = format == MB_FORMAT_NONE ? unit_span(unit, MB_QUANTITY_LOSS) : 0;
    if (format == MB_FORMAT_NONE || unit->candidate_count == 1)
        return MB_OK;
    for (size_t c = 0; c < unit->candidate_count; c++)
        if (unit->candidates[c].format == format ||
            unit->candidates[c].format == mb_format_fit(format, unit->k)) {
            *contribution = unit->candidates[c].loss;
            return MB_OK;
        }
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "contribution: %s has no loss in %s; name a format that is a candidate",
                        unit->name, mb_format_info(format)->name);
}

static enum mb_status fill_unit_factors(const struct mb_problem *reference,
                                        const struct mb_weighting *weighting, const double *weight,
                                        struct factors *factors, struct mb_error *error)
{
    double most = 0;
    for (size_t u = 0; u < reference->unit_count; u++) {
        double contribution = 0;
        const enum mb_status status =
            contribution_of(&reference->units[u], weighting->contribution, &contribution, error);
        if (status != MB_OK)
            return status;
        factors[u].of[MB_QUANTITY_LOSS] = contribution;
        most = fmax(most, contribution);
    }
    for (size_t u = 0; u < reference->unit_count; u++)
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            const double span = unit_span(&reference->units[u], (enum mb_quantity)q);
            double share = weight[q];
            if (q == MB_QUANTITY_LOSS)
                share = most > 0 ? weight[q] * (factors[u].of[q] / most) : 0;
            factors[u].of[q] = span > 0 ? share / span : 0;
        }
    return MB_OK;
}

/* [unit_count] factors; free(). */
static enum mb_status make_factors(const struct mb_problem *problem,
                                   const struct mb_weighting *weighting, struct factors **made,
                                   struct mb_error *error)
{
    const struct mb_problem *reference =
        weighting->reference != NULL ? weighting->reference : problem;
    double weight[MB_QUANTITY_COUNT];
    *made = NULL;
    enum mb_status status = normalize_weights(weighting->weight, weight, error);
    if (status != MB_OK)
        return status;
    if (reference->unit_count != problem->unit_count)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "weights: the reference has %zu units, the problem %zu",
                            reference->unit_count, problem->unit_count);
    struct factors *factors = calloc(problem->unit_count + 1, sizeof *factors);
    if (factors == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while solving");
    if (weighting->normalization == MB_NORMALIZE_UNIT) {
        status = fill_unit_factors(reference, weighting, weight, factors, error);
    } else {
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            const double span = model_span(reference, (enum mb_quantity)q);
            for (size_t u = 0; u < problem->unit_count; u++)
                factors[u].of[q] = span > 0 ? weight[q] / span : 0;
        }
    }
    if (status != MB_OK)
        free(factors);
    else
        *made = factors;
    return status;
}

static double weigh(const struct factors *factors, const struct mb_candidate *candidate)
{
    double sum = 0;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        sum += factors->of[q] * mb_candidate_value(candidate, (enum mb_quantity)q);
    return sum;
}

static double weigh_all(const struct mb_problem *problem, const struct factors *factors,
                        const size_t *choice)
{
    double sum = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        sum += weigh(&factors[u], &problem->units[u].candidates[choice[u]]);
    return sum;
}

enum mb_status mb_weighted_sum(const struct mb_problem *problem,
                               const struct mb_weighting *weighting, const size_t *choice,
                               double *sum, struct mb_error *error)
{
    struct factors *factors;
    const enum mb_status status = make_factors(problem, weighting, &factors, error);
    if (status == MB_OK)
        *sum = weigh_all(problem, factors, choice);
    free(factors);
    return status;
}

/* Less of the sum; of equal sums less loss, bytes, decode time, prefill time. */
static bool is_better(const struct factors *factors, const struct mb_candidate *a,
                      const struct mb_candidate *b)
{
    static const enum mb_quantity order[] = {MB_QUANTITY_LOSS, MB_QUANTITY_BYTES,
                                             MB_QUANTITY_DECODE, MB_QUANTITY_PREFILL};
    const double x = weigh(factors, a), y = weigh(factors, b);
    if (fabs(x - y) > TIE * fmax(x, y))
        return x < y;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const double left = mb_candidate_value(a, order[i]);
        const double right = mb_candidate_value(b, order[i]);
        if (left < right || left > right)
            return left < right;
    }
    return false;
}

static void take_least(const struct mb_problem *problem, const struct factors *factors,
                       size_t *choice)
{
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        choice[u] = 0;
        for (size_t c = 1; c < unit->candidate_count; c++)
            if (is_better(&factors[u], &unit->candidates[c], &unit->candidates[choice[u]]))
                choice[u] = c;
    }
}

static double *value_in(struct mb_candidate *candidate, enum mb_quantity quantity)
{
    switch (quantity) {
    case MB_QUANTITY_LOSS: return &candidate->loss;
    case MB_QUANTITY_DECODE: return &candidate->decode_ns;
    case MB_QUANTITY_PREFILL: return &candidate->prefill_ns;
    default: return &candidate->bytes;
    }
}

/* A copy of the problem in which the weighted sum stands in the place of `quantity`. */
static struct mb_problem *with_sums(const struct mb_problem *problem, const struct factors *factors,
                                    enum mb_quantity quantity)
{
    struct mb_problem *copy = calloc(1, sizeof *copy);
    if (copy == NULL)
        return NULL;
    *copy = *problem;
    copy->fixed[quantity] = 0;
    copy->units = calloc(problem->unit_count + 1, sizeof *copy->units);
    for (size_t u = 0; copy->units != NULL && u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        copy->units[u] = *unit;
        copy->units[u].candidates = calloc(unit->candidate_count, sizeof *unit->candidates);
        if (copy->units[u].candidates == NULL) {
            mb_problem_free(copy);
            return NULL;
        }
        for (size_t c = 0; c < unit->candidate_count; c++) {
            struct mb_candidate *candidate = &copy->units[u].candidates[c];
            *candidate = unit->candidates[c];
            *value_in(candidate, quantity) = weigh(&factors[u], &unit->candidates[c]);
        }
    }
    if (copy->units == NULL)
        mb_problem_free(copy);
    return copy->units != NULL ? copy : NULL;
}

/* Under limits: the exact solver, with the sum in the place of a quantity that has no limit. */
static enum mb_status solve_limited(const struct mb_problem *problem, const struct factors *factors,
                                    const struct mb_budget *budget, double gap, double time_limit_s,
                                    struct mb_solution *solution, struct mb_budget *nearest,
                                    struct mb_error *error)
{
    int spare = 0;
    while (spare < MB_QUANTITY_COUNT && budget->max[spare] > 0)
        spare++;
    if (spare == MB_QUANTITY_COUNT)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "weights go with up to three budgets; there are budgets on size, "
                            "decode, prefill and loss: leave one out");
    struct mb_problem *copy = with_sums(problem, factors, (enum mb_quantity)spare);
    if (copy == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while solving");
    const enum mb_status status = mb_solve(copy, (enum mb_quantity)spare, budget, gap, time_limit_s,
                                           solution, nearest, error);
    mb_problem_free(copy);
    if (status == MB_OK)
        mb_problem_totals(problem, solution->choice, solution->total);
    return status;
}

enum mb_status mb_solve_weighted(const struct mb_problem *problem,
                                 const struct mb_weighting *weighting,
                                 const struct mb_budget *budget, double gap, double time_limit_s,
                                 struct mb_solution *solution, struct mb_budget *nearest,
                                 struct mb_error *error)
{
    double limit[MB_QUANTITY_COUNT];
    struct factors *factors = NULL;
    memset(solution, 0, sizeof *solution);
    enum mb_status status = mb_check_arguments(problem, MB_QUANTITY_LOSS, budget, limit, error);
    if (status == MB_OK)
        status = make_factors(problem, weighting, &factors, error);
    if (status != MB_OK)
        return status;
    size_t *choice = calloc(problem->unit_count + 1, sizeof *choice);
    if (choice == NULL) {
        free(factors);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while solving");
    }
    take_least(problem, factors, choice);
    mb_problem_totals(problem, choice, solution->total);
    bool fits = true;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        fits = fits && solution->total[q] <= limit[q];
    if (fits) {
        solution->choice = choice;
        solution->objective = solution->bound = weigh_all(problem, factors, choice);
    } else {
        free(choice);
        status =
            solve_limited(problem, factors, budget, gap, time_limit_s, solution, nearest, error);
    }
    free(factors);
    return status;
}
