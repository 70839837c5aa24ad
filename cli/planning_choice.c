/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of `mixbit plan`: what is solved, what is measured beside it, and which of them is
 * recommended. Predictions propose, measured rows decide. */
#include "cli/planning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void describe_objective(struct mb_planning *run, const struct mb_budget *budget,
                               const char *fastest)
{
    static const char *const names[] = {"loss", "decode time", "prefill time", "size"};
    char *text = run->objective;
    const size_t room = sizeof run->objective;
    size_t at = (size_t)snprintf(text, room, "least %s",
                                 names[mb_minimize_quantity(run->options->budget.minimize)]);
    const char *join = " with ";
    for (int q = 0; q < MB_QUANTITY_COUNT && at < room; q++) {
        const double max = budget->max[q];
        if (!(max > 0))
            continue;
        char part[64];
        if (q == MB_QUANTITY_BYTES)
            snprintf(part, sizeof part, "%.3f MB or less", max / 1e6);
        else if (q == MB_QUANTITY_LOSS)
            snprintf(part, sizeof part, "a KL of %.5f or less", max);
        else
            snprintf(part, sizeof part, "%s at %.0f tok/s or more",
                     q == MB_QUANTITY_DECODE ? "decode" : "prefill", 1e9 / max);
        at += (size_t)snprintf(text + at, room - at, "%s%s", join, part);
        join = ", ";
    }
    if (fastest && at < room)
        snprintf(
            text + at, room - at,
            " (no budget was given: 4.5 bits per weight, no slower than uniform %s to within 3 %%)",
            fastest);
}

static enum mb_status mix_of_solution(struct mb_planning *run, const struct mb_problem *problem,
                                      const struct mb_solution *solution, const char *name,
                                      struct mb_mix *mix)
{
    *mix = (struct mb_mix){.kind = MB_MIX_PLAN, .count = mb_model_tensor_count(run->model)};
    snprintf(mix->name, sizeof mix->name, "%s", name);
    mix->formats = malloc(mix->count * sizeof *mix->formats);
    if (!mix->formats)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        mix->formats[unit->tensor] = unit->candidates[solution->choice[u]].format;
    }
    return MB_OK;
}

/* The curve without a size limit, and the two points on it nearest below and above the plan's size
 * (but not next to it). */
static enum mb_status add_neighbours(struct mb_planning *run, const struct mb_budget *budget)
{
    const struct mb_problem *problem = run->forecast.problem[run->residency];
    const enum mb_quantity minimize = mb_minimize_quantity(run->options->budget.minimize);
    const enum mb_quantity against =
        minimize == MB_QUANTITY_BYTES ? MB_QUANTITY_LOSS : MB_QUANTITY_BYTES;
    struct mb_budget along = *budget;
    along.max[against] = 0;
    if (!mb_budget_given(&run->options->budget))
        along.max[MB_QUANTITY_DECODE] = 0;
    enum mb_status status = mb_solve_front(problem, minimize, against, &along, 40, &run->front,
                                           &run->front_count, &run->cli->error);
    if (status == MB_ERR_INFEASIBLE) {
        run->front_count = 0;
        status = MB_OK;
    }
    const double size = run->plan->total[MB_QUANTITY_BYTES];
    size_t below = SIZE_MAX, above = SIZE_MAX;
    for (size_t i = 0; i < run->front_count; i++) {
        const double bytes = run->front[i].total[MB_QUANTITY_BYTES];
        if (bytes < size * 0.96)
            below = i;
        if (bytes > size * 1.04 && above == SIZE_MAX)
            above = i;
    }
    const size_t neighbours[2] = {below, above};
    for (int i = 0; i < 2 && status == MB_OK; i++) {
        struct mb_mix mix;
        if (neighbours[i] == SIZE_MAX)
            continue;
        status = mix_of_solution(run, problem, &run->front[neighbours[i]],
                                 i ? "larger plan" : "smaller plan", &mix);
        if (status == MB_OK)
            status =
                mb_comparison_add(&run->comparison, &mix, MB_ROW_NEIGHBOUR, &run->forecast, NULL);
    }
    return status;
}

/* The same budgets with the candidates of one activation type only. Products that share an input
 * (q, k and v) then share its preparation and one dispatch, which the sum over tensors cannot see;
 * measuring tells which plan is better. */
static enum mb_status add_variants(struct mb_planning *run, const struct mb_budget *budget,
                                   const struct mb_forecast_request *request)
{
    static const enum mb_activation types[] = {MB_ACTIVATION_I8G256, MB_ACTIVATION_I8G32};
    enum mb_status status = MB_OK;
    for (size_t t = 0; t < sizeof types / sizeof *types && status == MB_OK; t++) {
        struct mb_forecast_request same = *request;
        struct mb_format_list formats = {.count = 0};
        for (size_t i = 0; i < run->formats.count; i++)
            if (mb_format_info(run->formats.at[i])->activation == types[t])
                formats.at[formats.count++] = run->formats.at[i];
        if (formats.count == 0 || formats.count == run->formats.count)
            continue;
        same.formats = &formats;
        struct mb_forecast forecast = {.model = NULL};
        struct mb_plan *plan = NULL;
        struct mb_mix mix;
        enum mb_residency residency;
        status = mb_forecast_create(run->cli, run->model, &same, &forecast);
        if (status == MB_OK)
            status = mb_forecast_solve(run->cli, &forecast,
                                       mb_minimize_quantity(run->options->budget.minimize), budget,
                                       run->options->budget.max_ram.bytes, &plan, &residency);
        if (status == MB_OK)
            status = mb_mix_plan(run->cli, run->model, plan, &mix);
        if (status == MB_OK) {
            snprintf(mix.name, sizeof mix.name, "plan (%s)", mb_activation_name(types[t]));
            status = mb_comparison_add(&run->comparison, &mix, MB_ROW_PLAN, &run->forecast, NULL);
        }
        mb_plan_free(plan);
        mb_forecast_free(&forecast);
        if (status == MB_ERR_INFEASIBLE)
            status = MB_OK; /* fewer candidates may not meet what all of them do */
    }
    return status;
}

/* Rows of at most the source's size (larger ones answer nothing), then the plan, then its
 * neighbours: a plan that is a uniform format keeps that name. */
enum mb_status mb_planning_solve(struct mb_planning *run)
{
    struct mb_cli *cli = run->cli;
    struct mb_mix *mixes = NULL, mix;
    size_t count = 0;
    struct mb_budget budget = {{0}};
    const char *fastest = NULL;
    enum mb_status status = mb_mix_list(cli, run->model, &run->formats, &mixes, &count);
    if (status != MB_OK)
        return status;
    if (mb_budget_given(&run->options->budget))
        status = mb_budget_resolve(cli, &run->forecast, &run->options->budget, &budget);
    else
        mb_budget_default(&run->forecast, mixes, count, &budget, &fastest);
    if (status == MB_OK)
        status = mb_forecast_solve(cli, &run->forecast,
                                   mb_minimize_quantity(run->options->budget.minimize), &budget,
                                   run->options->budget.max_ram.bytes, &run->plan, &run->residency);
    if (status == MB_OK)
        describe_objective(run, &budget, fastest);
    for (size_t i = 0; i < count; i++) {
        const enum mb_row_kind kind =
            mixes[i].kind == MB_MIX_PRESET ? MB_ROW_PRESET : MB_ROW_UNIFORM;
        if (status == MB_OK &&
            mb_mix_bytes(run->model, &mixes[i]) <= (double)mb_model_file_bytes(run->model))
            status = mb_comparison_add(&run->comparison, &mixes[i], kind, &run->forecast, NULL);
        else
            mb_mix_free(&mixes[i]);
    }
    free(mixes);
    if (status == MB_OK)
        status = mb_mix_plan(cli, run->model, run->plan, &mix);
    if (status == MB_OK)
        status =
            mb_comparison_add(&run->comparison, &mix, MB_ROW_PLAN, &run->forecast, &run->chosen);
    if (status == MB_OK)
        status = add_variants(run, &budget, &run->forecast_request);
    return status == MB_OK ? add_neighbours(run, &budget) : status;
}

/* ---- judging ---- */

/* The plan of a row whose formats are all candidates, with the same header as the solver's. */
static enum mb_status plan_of_row(struct mb_planning *run, const struct mb_assignment *row,
                                  struct mb_plan **plan)
{
    const struct mb_problem *problem = run->forecast.problem[run->residency];
    struct mb_solution solution = {.choice = calloc(problem->unit_count + 1, sizeof(size_t))};
    if (!solution.choice)
        return MB_ERR_MEMORY;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = mb_mix_format(run->model, &row->mix, unit->tensor);
        while (solution.choice[u] + 1 < unit->candidate_count &&
               unit->candidates[solution.choice[u]].format != format)
            solution.choice[u]++;
    }
    mb_problem_totals(problem, solution.choice, solution.total);
    const enum mb_status status = mb_plan_from_solution(problem, &solution, plan);
    mb_solution_free(&solution);
    if (status != MB_OK)
        return status;
    memcpy((*plan)->model_hash, run->plan->model_hash, sizeof run->plan->model_hash);
    memcpy((*plan)->device_key, run->plan->device_key, sizeof run->plan->device_key);
    memcpy((*plan)->objective, run->plan->objective, sizeof run->plan->objective);
    (*plan)->budget = run->plan->budget;
    return MB_OK;
}

/* Of several plans under the same budgets the one that measures best: those that keep the speed
 * budget (to 5 %) first, then the least loss. Other objectives keep the solver's own. */
static size_t best_plan(const struct mb_planning *run)
{
    const struct mb_assignment *rows = run->comparison.rows;
    const double limit = run->plan->budget.max[MB_QUANTITY_DECODE] * 1.05;
    size_t best = run->chosen;
    if (mb_minimize_quantity(run->options->budget.minimize) != MB_QUANTITY_LOSS)
        return best;
    for (size_t i = 0; i < run->comparison.count; i++) {
        const bool fast = limit <= 0 || rows[i].speed.decode_ns <= limit;
        const bool best_fast = limit <= 0 || rows[best].speed.decode_ns <= limit;
        if (rows[i].kind == MB_ROW_PLAN &&
            (fast != best_fast ? fast : rows[i].evaluation.kl_mean < rows[best].evaluation.kl_mean))
            best = i;
    }
    return best;
}

/* The measured rows decide: a uniform format or preset that beats the plan takes its place. One
 * that needs formats which the user excluded is only named. */
enum mb_status mb_planning_recommend(struct mb_planning *run)
{
    struct mb_assignment *rows = run->comparison.rows;
    const size_t solved = run->chosen;
    run->chosen = best_plan(run);
    if (run->chosen != solved) {
        struct mb_plan *plan = NULL;
        const enum mb_status status = plan_of_row(run, &rows[run->chosen], &plan);
        if (status != MB_OK)
            return status;
        mb_plan_free(run->plan);
        run->plan = plan;
    }
    const struct mb_assignment *better = mb_comparison_beats(&run->comparison, &rows[run->chosen]);
    if (better && isnan(better->predicted[MB_QUANTITY_LOSS])) {
        char text[300];
        snprintf(text, sizeof text,
                 "%s loses less at no larger size and no lower speed, but uses formats that "
                 "--formats excludes.",
                 better->mix.name);
        mb_planning_note(run, text);
        mb_warn(run->cli, "%s", text);
    } else if (better) {
        char text[300];
        snprintf(text, sizeof text,
                 "The solver's mix lost to %s, measured: less loss at no larger size and no lower "
                 "speed. What is "
                 "recommended and written is %s.",
                 better->mix.name, better->mix.name);
        mb_planning_note(run, text);
        mb_warn(run->cli, "%s", text);
        struct mb_plan *plan = NULL;
        const enum mb_status status = plan_of_row(run, better, &plan);
        if (status != MB_OK)
            return status;
        mb_plan_free(run->plan);
        run->plan = plan;
        run->chosen = (size_t)(better - rows);
    }
    rows[run->chosen].recommended = 1;
    return MB_OK;
}
