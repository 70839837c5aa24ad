/* SPDX-License-Identifier: Apache-2.0 */
/* Plans from a forecast. Each residency class is solved under its own size bound, and the best plan
 * that is not larger than its class is kept. Groups are merged right before a solve and taken apart
 * behind it, so that everything else sees tensors. */
#include "cli/forecast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RAM_ROUNDS = 8, SOLVE_SECONDS = 30 };

/* Largest size that still has residency r or a faster one. */
static double residency_limit(const struct mb_forecast *forecast, enum mb_residency r, double most)
{
    double low = 0, high = most;
    if (mb_forecast_residency(forecast, most) <= r)
        return most;
    for (int i = 0; i < 60 && high - low > 1; i++) {
        const double middle = (low + high) / 2;
        if (mb_forecast_residency(forecast, middle) <= r)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- one problem, groups and aims honoured ---- */

/* The problem that is really solved: groups merged. Free with mb_grouping_free. */
static enum mb_status merge_groups(struct mb_cli *cli, const struct mb_forecast *forecast,
                                   const struct mb_problem *problem, struct mb_grouping *grouping,
                                   const struct mb_problem **solved)
{
    *grouping = (struct mb_grouping){NULL, NULL};
    *solved = problem;
    if (forecast->group == NULL)
        return MB_OK;
    const enum mb_status status = mb_group_units(problem, forecast->group, grouping, &cli->error);
    if (status == MB_OK)
        *solved = grouping->problem;
    return status;
}

/* A choice of groups as one of tensors. */
static enum mb_status take_apart(struct mb_cli *cli, const struct mb_problem *problem,
                                 const struct mb_grouping *grouping, struct mb_solution *solution)
{
    if (grouping->problem == NULL)
        return MB_OK;
    size_t *choice = calloc(problem->unit_count + 1, sizeof *choice);
    if (choice == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    mb_grouping_expand(problem, grouping, solution->choice, choice);
    free(solution->choice);
    solution->choice = choice;
    return MB_OK;
}

/* Weights as the aim has them; spans are those of the slowest class, so that sums under different
 * classes compare. */
static enum mb_status weigh_like(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 struct mb_grouping *reference, struct mb_weighting *weighting)
{
    *weighting = forecast->aim.weighting;
    return merge_groups(cli, forecast, mb_forecast_problem(forecast, MB_RESIDENCY_MEMORY),
                        reference, &weighting->reference);
}

/* `aimed`: by the forecast's aim; otherwise `minimize` is made small. */
static enum mb_status solve_problem(struct mb_cli *cli, const struct mb_forecast *forecast,
                                    const struct mb_problem *problem, bool aimed,
                                    enum mb_quantity minimize, const struct mb_budget *budget,
                                    struct mb_solution *solution)
{
    struct mb_grouping grouping, reference = {NULL, NULL};
    const struct mb_problem *solved;
    enum mb_status status = merge_groups(cli, forecast, problem, &grouping, &solved);
    if (status != MB_OK)
        return status;
    if (aimed && forecast->aim.weighted) {
        struct mb_weighting weighting;
        status = weigh_like(cli, forecast, &reference, &weighting);
        if (status == MB_OK)
            status = mb_solve_weighted(solved, &weighting, budget, 0, SOLVE_SECONDS, solution, NULL,
                                       &cli->error);
        mb_grouping_free(&reference);
    } else if (aimed && forecast->aim.greedy) {
        struct mb_kl_lens_options options = forecast->aim.kl_lens;
        options.max_bytes = budget->max[MB_QUANTITY_BYTES];
        status = mb_solve_kl_lens(solved, &options, solution, &cli->error);
    } else {
        status = mb_solve(solved, minimize, budget, 0, SOLVE_SECONDS, solution, NULL, &cli->error);
    }
    if (status == MB_OK)
        status = take_apart(cli, problem, &grouping, solution);
    mb_grouping_free(&grouping);
    return status;
}

/* What the aim makes small, of a choice in a class: for comparing classes. */
static enum mb_status aimed_value(struct mb_cli *cli, const struct mb_forecast *forecast,
                                  enum mb_residency r, enum mb_quantity minimize,
                                  const struct mb_solution *solution, double *value)
{
    *value = solution->total[minimize];
    if (!forecast->aim.weighted)
        return MB_OK;
    const struct mb_problem *problem = forecast->problem[r], *solved;
    struct mb_grouping grouping, reference = {NULL, NULL};
    struct mb_weighting weighting;
    size_t *merged = calloc(problem->unit_count + 1, sizeof *merged);
    enum mb_status status = merge_groups(cli, forecast, problem, &grouping, &solved);
    if (status == MB_OK)
        status = weigh_like(cli, forecast, &reference, &weighting);
    if (status == MB_OK && merged == NULL)
        status = mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    if (status == MB_OK && grouping.problem != NULL)
        (void)mb_grouping_merge(problem, &grouping, solution->choice, merged);
    if (status == MB_OK)
        status = mb_weighted_sum(solved, &weighting,
                                 grouping.problem != NULL ? merged : solution->choice, value,
                                 &cli->error);
    mb_grouping_free(&grouping);
    mb_grouping_free(&reference);
    free(merged);
    return status;
}

/* ---- a class ---- */

static void mix_of_plan(const struct mb_forecast *forecast, const struct mb_problem *problem,
                        const struct mb_solution *solution, struct mb_mix *mix)
{
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = unit->candidates[solution->choice[u]].format;
        if (format != mb_model_tensor_at(forecast->model, unit->tensor)->format)
            mix->formats[unit->tensor] = format;
    }
}

/* What a solution takes in memory: packed weights and the key-value cache. */
static double ram_of(const struct mb_forecast *forecast, const struct mb_problem *problem,
                     const struct mb_solution *solution, struct mb_mix *mix)
{
    mix_of_plan(forecast, problem, solution, mix);
    return mb_mix_packed_bytes(forecast->model, mix) + forecast->fixed.kv_bytes;
}

/* Say what --max-ram would have to be: what the smallest mix within the other budgets takes. */
static enum mb_status ram_infeasible(struct mb_cli *cli, const struct mb_forecast *forecast,
                                     const struct mb_problem *problem,
                                     const struct mb_budget *budget, double max_ram_bytes,
                                     struct mb_mix *mix)
{
    struct mb_solution smallest = {0};
    const enum mb_status status =
        solve_problem(cli, forecast, problem, false, MB_QUANTITY_BYTES, budget, &smallest);
    if (status != MB_OK)
        return status;
    const double needed = ram_of(forecast, problem, &smallest, mix);
    mb_solution_free(&smallest);
    return mb_error_set(&cli->error, MB_ERR_INFEASIBLE, -1,
                        "no mix fits --max-ram %.3f MB: the smallest takes %.3f MB, of which the "
                        "key-value cache is %.3f MB; raise the limit or lower --ctx",
                        max_ram_bytes / 1e6, needed / 1e6, forecast->fixed.kv_bytes / 1e6);
}

/* Solve one class; with a memory limit, again under a smaller size until the packed weights fit:
 * packing pads, by an amount that depends on the formats chosen. */
static enum mb_status solve_class(struct mb_cli *cli, const struct mb_forecast *forecast,
                                  enum mb_residency r, enum mb_quantity minimize,
                                  const struct mb_budget *budget, double max_ram_bytes,
                                  struct mb_solution *solution)
{
    const struct mb_problem *problem = forecast->problem[r];
    struct mb_budget limits = *budget;
    const size_t count = mb_model_tensor_count(forecast->model);
    struct mb_mix mix = {.count = count, .formats = calloc(count + 1, sizeof *mix.formats)};
    if (mix.formats == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    enum mb_status status = MB_ERR_INFEASIBLE;
    for (int round = 0;; round++) {
        const bool hopeless = round == RAM_ROUNDS || limits.max[MB_QUANTITY_BYTES] < 0;
        if (!hopeless)
            status = solve_problem(cli, forecast, problem, true, minimize, &limits, solution);
        if (round > 0 && (hopeless || status == MB_ERR_INFEASIBLE))
            status = ram_infeasible(cli, forecast, problem, budget, max_ram_bytes, &mix);
        if (hopeless || status != MB_OK || max_ram_bytes <= 0)
            break;
        const double over = ram_of(forecast, problem, solution, &mix) - max_ram_bytes;
        if (over <= 0)
            break;
        limits.max[MB_QUANTITY_BYTES] = solution->total[MB_QUANTITY_BYTES] - over;
        if (limits.max[MB_QUANTITY_BYTES] == 0)
            limits.max[MB_QUANTITY_BYTES] = -1; /* 0 would mean no limit */
        mb_solution_free(solution);
    }
    mb_mix_free(&mix);
    return status;
}

/* A solution that turned out smaller than its class is predicted where its own size puts it. The
 * problems differ in times only, so a choice means the same in each. */
static enum mb_residency settle(const struct mb_forecast *forecast, enum mb_residency r,
                                struct mb_solution *solution)
{
    const double bytes = mb_walked_bytes(forecast->problem[r], solution->choice);
    const enum mb_residency own = mb_forecast_residency(forecast, bytes);
    if (own == r || forecast->problem[own] == NULL)
        return r;
    mb_problem_totals(forecast->problem[own], solution->choice, solution->total);
    return own;
}

static bool size_is_free(const struct mb_forecast *forecast, const struct mb_budget *budget)
{
    return forecast->aim.weighted && budget->max[MB_QUANTITY_LOSS] > 0 &&
           budget->max[MB_QUANTITY_DECODE] > 0 && budget->max[MB_QUANTITY_PREFILL] > 0;
}

/* The user's limits, and the size that keeps a mix within class r. Slower classes have larger
 * mixes. Weights need one quantity without a limit: when all others have one, size stays free, and
 * a mix that turns out to be too large for its class is no answer. */
static struct mb_budget class_limits(const struct mb_forecast *forecast, enum mb_residency r,
                                     const struct mb_budget *budget)
{
    const double unlimited = 1e15;
    struct mb_budget limits = *budget;
    const double fixed = forecast->problem[r]->fixed[MB_QUANTITY_BYTES];
    const double bound = residency_limit(forecast, r, unlimited);
    double *bytes = &limits.max[MB_QUANTITY_BYTES];
    if (bound < unlimited && !size_is_free(forecast, budget) &&
        (*bytes == 0 || *bytes > fixed + bound))
        *bytes = fixed + bound;
    return limits;
}

static bool fits_class(const struct mb_forecast *forecast, enum mb_residency r,
                       const struct mb_solution *solution)
{
    const double bytes = mb_walked_bytes(forecast->problem[r], solution->choice);
    return mb_forecast_residency(forecast, bytes) <= r;
}

static enum mb_status make_plan(struct mb_cli *cli, const struct mb_forecast *forecast,
                                enum mb_residency r, enum mb_quantity minimize,
                                const struct mb_budget *budget, const struct mb_solution *solution,
                                struct mb_plan **plan)
{
    enum mb_status status = mb_plan_from_solution(forecast->problem[r], solution, plan);
    if (status != MB_OK)
        return mb_error_set(&cli->error, status, -1, "cannot make a plan: %s",
                            mb_status_string(status));
    (*plan)->budget = *budget;
    static const char *const objectives[MB_QUANTITY_COUNT] = {"kl", "decode", "prefill", "size"};
    (void)snprintf((*plan)->model_hash, sizeof(*plan)->model_hash, "%s",
                   mb_model_hash(forecast->model));
    const struct mb_aim *aim = &forecast->aim;
    (void)snprintf((*plan)->objective, sizeof(*plan)->objective, "%s",
                   aim->objective[0] != '\0' ? aim->objective : objectives[minimize]);
    (void)snprintf((*plan)->groups, sizeof(*plan)->groups, "%s", aim->groups);
    memcpy((*plan)->importance_hash, forecast->importance_hash, sizeof(*plan)->importance_hash);
    memcpy((*plan)->feedback_hash, forecast->feedback_hash, sizeof(*plan)->feedback_hash);
    if (forecast->profile != NULL)
        (void)snprintf((*plan)->device_key, sizeof(*plan)->device_key, "%s",
                       mb_profile_device(forecast->profile)->key);
    return MB_OK;
}

enum mb_status mb_forecast_solve(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, const struct mb_budget *budget,
                                 double max_ram_bytes, struct mb_plan **plan,
                                 enum mb_residency *residency)
{
    enum mb_status result = MB_ERR_INFEASIBLE;
    struct mb_error reason = {0};
    double best = INFINITY;
    *plan = NULL;
    for (int i = MB_RESIDENCY_COUNT - 1; i >= 0; i--) { /* slow to fast: large mixes first */
        const enum mb_residency r = (enum mb_residency)i;
        struct mb_solution solution = {0};
        if (forecast->problem[r] == NULL)
            continue;
        /* The allocators know nothing of times: any class gives the same answer. */
        const struct mb_budget limits =
            forecast->aim.greedy ? *budget : class_limits(forecast, r, budget);
        enum mb_status status =
            solve_class(cli, forecast, r, minimize, &limits, max_ram_bytes, &solution);
        if (status == MB_ERR_INFEASIBLE) {
            if (reason.status == MB_OK) /* the class of large mixes says it for the user's budget */
                reason = cli->error;
            continue;
        }
        if (status == MB_OK && size_is_free(forecast, budget) &&
            !fits_class(forecast, r, &solution)) {
            mb_solution_free(&solution);
            if (reason.status == MB_OK)
                (void)mb_error_set(&reason, MB_ERR_INFEASIBLE, -1,
                                   "the best mix for these weights is too large for the caches "
                                   "that its speeds were predicted for; leave one budget out");
            continue;
        }
        const enum mb_residency own = status == MB_OK ? settle(forecast, r, &solution) : r;
        double value = INFINITY;
        if (status == MB_OK)
            status = aimed_value(cli, forecast, own, minimize, &solution, &value);
        if (status == MB_OK && value < best) {
            best = value;
            mb_plan_free(*plan);
            *plan = NULL;
            status = make_plan(cli, forecast, own, minimize, budget, &solution, plan);
            *residency = own;
            result = status;
        }
        mb_solution_free(&solution);
        if (status != MB_OK) {
            mb_plan_free(*plan);
            *plan = NULL;
            return status;
        }
        if (forecast->aim.greedy)
            break;
    }
    if (result == MB_ERR_INFEASIBLE)
        cli->error = reason;
    else
        cli->error = (struct mb_error){0};
    return result;
}

/* ---- the trade-off curve ---- */

struct curve {
    struct mb_plan **plans;
    size_t count;
};

/* Insertion sort: a curve has tens of points. */
static void sort_curve(struct curve *curve, enum mb_quantity against)
{
    for (size_t i = 1; i < curve->count; i++)
        for (size_t j = i;
             j > 0 && curve->plans[j]->total[against] < curve->plans[j - 1]->total[against]; j--) {
            struct mb_plan *held = curve->plans[j];
            curve->plans[j] = curve->plans[j - 1];
            curve->plans[j - 1] = held;
        }
}

/* Drop what costs more in `against` without being better in `minimize`. */
static void drop_dominated(struct curve *curve, enum mb_quantity minimize)
{
    double best = INFINITY;
    size_t kept = 0;
    for (size_t i = 0; i < curve->count; i++) {
        if (curve->plans[i]->total[minimize] < best) {
            best = curve->plans[i]->total[minimize];
            curve->plans[kept++] = curve->plans[i];
        } else {
            mb_plan_free(curve->plans[i]);
        }
    }
    curve->count = kept;
}

enum mb_status mb_forecast_class_front(struct mb_cli *cli, const struct mb_forecast *forecast,
                                       enum mb_residency r, enum mb_quantity minimize,
                                       enum mb_quantity against, const struct mb_budget *budget,
                                       size_t points, struct mb_solution **solutions, size_t *count)
{
    const struct mb_problem *problem = forecast->problem[r], *solved;
    struct mb_grouping grouping;
    *solutions = NULL;
    *count = 0;
    enum mb_status status = merge_groups(cli, forecast, problem, &grouping, &solved);
    if (status == MB_OK)
        status = mb_solve_front(solved, minimize, against, budget, points, solutions, count,
                                &cli->error);
    for (size_t i = 0; status == MB_OK && i < *count; i++)
        status = take_apart(cli, problem, &grouping, &(*solutions)[i]);
    for (size_t i = 0; status != MB_OK && i < *count; i++)
        mb_solution_free(&(*solutions)[i]);
    if (status != MB_OK) {
        free(*solutions);
        *solutions = NULL;
        *count = 0;
    }
    mb_grouping_free(&grouping);
    return status;
}

static enum mb_status add_class(struct mb_cli *cli, const struct mb_forecast *forecast,
                                enum mb_residency r, enum mb_quantity minimize,
                                enum mb_quantity against, const struct mb_budget *budget,
                                size_t points, struct curve *curve)
{
    struct mb_solution *solutions = NULL;
    size_t count = 0;
    const struct mb_budget limits = class_limits(forecast, r, budget);
    enum mb_status status = mb_forecast_class_front(cli, forecast, r, minimize, against, &limits,
                                                    points, &solutions, &count);
    struct mb_plan **grown = NULL;
    if (status == MB_OK) {
        grown = realloc(curve->plans, (curve->count + count + 1) * sizeof(struct mb_plan *));
        if (grown == NULL)
            status = mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
        else
            curve->plans = grown;
    }
    for (size_t i = 0; i < count; i++) {
        if (status == MB_OK) {
            const enum mb_residency own = settle(forecast, r, &solutions[i]);
            status = make_plan(cli, forecast, own, minimize, budget, &solutions[i],
                               &curve->plans[curve->count]);
            curve->count += status == MB_OK;
        }
        mb_solution_free(&solutions[i]);
    }
    free(solutions);
    return status;
}

enum mb_status mb_forecast_front(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, enum mb_quantity against,
                                 const struct mb_budget *budget, size_t points,
                                 struct mb_plan ***plans, size_t *count)
{
    struct curve curve = {0};
    struct mb_error reason = {0};
    enum mb_status status = MB_OK;
    for (int i = MB_RESIDENCY_COUNT - 1; i >= 0 && status == MB_OK; i--) {
        if (forecast->problem[i] == NULL)
            continue;
        status = add_class(cli, forecast, (enum mb_residency)i, minimize, against, budget, points,
                           &curve);
        if (status == MB_ERR_INFEASIBLE) {
            reason = reason.status == MB_OK ? cli->error : reason;
            status = MB_OK;
        }
    }
    if (status == MB_OK && curve.count == 0) {
        cli->error = reason;
        status = MB_ERR_INFEASIBLE;
    }
    if (status != MB_OK) {
        for (size_t i = 0; i < curve.count; i++)
            mb_plan_free(curve.plans[i]);
        free(curve.plans);
        return status;
    }
    cli->error = (struct mb_error){0};
    sort_curve(&curve, against);
    drop_dominated(&curve, minimize);
    *plans = curve.plans;
    *count = curve.count;
    return MB_OK;
}
