/* SPDX-License-Identifier: Apache-2.0 */
/* The trade-off curve: one exact solve per limit on the second quantity.
 *
 * Its ends are solved first: the least of `against` whatever it costs, and the least of `minimize`
 * whatever it takes. Limits between them are spaced geometrically, since loss falls by a factor per
 * bit. Each point is solved twice, the second time for the least `against` at the cost that the
 * first one found, so that ties do not leave dominated points. */
#include "solver/solve.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POINT_LIMIT_S 0.5
#define ROUNDING 1e-12

struct front {
    enum mb_quantity minimize, against;
    struct mb_solution *list;
    size_t count;
};

/* Take a point unless it is dominated; drop what it dominates. Keeps `against` ascending. */
static void add_point(struct front *front, struct mb_solution *point)
{
    const double cost = point->total[front->minimize], used = point->total[front->against];
    size_t kept = 0, at = 0;
    for (size_t i = 0; i < front->count; i++)
        if (front->list[i].total[front->minimize] <= cost &&
            front->list[i].total[front->against] <= used) {
            mb_solution_free(point);
            return;
        }
    for (size_t i = 0; i < front->count; i++) {
        if (front->list[i].total[front->minimize] >= cost &&
            front->list[i].total[front->against] >= used)
            mb_solution_free(&front->list[i]);
        else
            front->list[kept++] = front->list[i];
    }
    while (at < kept && front->list[at].total[front->against] < used)
        at++;
    memmove(front->list + at + 1, front->list + at, (kept - at) * sizeof *front->list);
    front->list[at] = *point;
    front->count = kept + 1;
}

/* Least `first` under the limits, then the least of the other quantity among those mixes. The
 * outcome's bound is that of front->minimize. */
static enum mb_status solve_point(const struct front *front, const struct mb_problem *problem,
                                  enum mb_quantity first, const double limit[MB_QUANTITY_COUNT],
                                  const size_t *seed, struct mb_outcome *outcome)
{
    const enum mb_quantity second = first == front->minimize ? front->against : front->minimize;
    enum mb_status status = mb_solve_limits(problem, first, limit, seed, 0, POINT_LIMIT_S, outcome);
    if (status != MB_OK || !outcome->found)
        return status;
    double tied[MB_QUANTITY_COUNT];
    struct mb_outcome settled;
    memcpy(tied, limit, sizeof tied);
    tied[first] = fmin(limit[first], outcome->cost * (1 + ROUNDING));
    status = mb_solve_limits(problem, second, tied, outcome->choice, 0, POINT_LIMIT_S, &settled);
    outcome->nodes += settled.nodes;
    if (status == MB_OK && settled.found) {
        free(outcome->choice);
        outcome->choice = settled.choice;
        settled.choice = NULL;
        if (second == front->minimize)
            outcome->bound = settled.bound;
    }
    free(settled.choice);
    return status;
}

static enum mb_status solve_and_add(struct front *front, const struct mb_problem *problem,
                                    enum mb_quantity first, const double limit[MB_QUANTITY_COUNT],
                                    const size_t *seed)
{
    struct mb_outcome outcome;
    struct mb_solution point;
    enum mb_status status = solve_point(front, problem, first, limit, seed, &outcome);
    if (status == MB_OK && !outcome.found)
        status = MB_ERR_INFEASIBLE;
    if (status != MB_OK) {
        free(outcome.choice);
        return status;
    }
    mb_solution_fill(problem, front->minimize, &outcome, &point);
    add_point(front, &point);
    return MB_OK;
}

enum mb_status mb_solve_front(const struct mb_problem *problem, enum mb_quantity minimize,
                              enum mb_quantity against, const struct mb_budget *budget,
                              size_t points, struct mb_solution **solutions, size_t *count,
                              struct mb_error *error)
{
    double limit[MB_QUANTITY_COUNT];
    *solutions = NULL;
    *count = 0;
    enum mb_status status = mb_check_arguments(problem, minimize, budget, limit, error);
    if (status != MB_OK)
        return status;
    if ((int)against < 0 || against >= MB_QUANTITY_COUNT || against == minimize || points < 2)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "trade-off curve: expected two different quantities and at least 2 "
                            "points, found %d, %d and %zu",
                            (int)minimize, (int)against, points);
    struct front front = {.minimize = minimize, .against = against};
    front.list = calloc(points + 1, sizeof *front.list);
    if (front.list == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu points", points);
    status = solve_and_add(&front, problem, against, limit, NULL);
    if (status == MB_ERR_INFEASIBLE) {
        /* The plain solver has the words. */
        struct mb_solution none;
        free(front.list);
        status = mb_solve(problem, against, budget, 0, POINT_LIMIT_S, &none, NULL, error);
        mb_solution_free(&none);
        return status == MB_OK ? MB_ERR_INFEASIBLE : status;
    }
    if (status == MB_OK)
        status = solve_and_add(&front, problem, minimize, limit, NULL);
    const double low = front.list[0].total[against];
    const double high = front.count > 0 ? front.list[front.count - 1].total[against] : low;
    for (size_t i = 1; status == MB_OK && high > low && i + 1 < points; i++) {
        const double part = (double)i / (double)(points - 1);
        double narrowed[MB_QUANTITY_COUNT];
        memcpy(narrowed, limit, sizeof narrowed);
        narrowed[against] = low > 0 ? low * pow(high / low, part) : low + part * (high - low);
        status = solve_and_add(&front, problem, minimize, narrowed, front.list[0].choice);
    }
    if (status != MB_OK) {
        for (size_t i = 0; i < front.count; i++)
            mb_solution_free(&front.list[i]);
        free(front.list);
        return mb_error_set(error, status, -1, "the trade-off curve could not be solved: %s",
                            mb_status_string(status));
    }
    *solutions = front.list;
    *count = front.count;
    return MB_OK;
}
