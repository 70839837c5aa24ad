/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of `mixbit plan`: what is solved, what is measured beside it, and which of them is
 * recommended. Predictions propose, measured rows decide. */
#include "cli/planning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Without a budget, decode is held to what the reference measures, not to a prediction. */
static void describe_objective(struct mb_planning *run, const struct mb_budget *budget,
                               const char *reference)
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
        char part[96];
        if (q == MB_QUANTITY_BYTES)
            snprintf(part, sizeof part, "%.3f MB or less", max / 1e6);
        else if (q == MB_QUANTITY_LOSS)
            snprintf(part, sizeof part, "a KL of %.5f or less", max);
        else if (q == MB_QUANTITY_DECODE && reference)
            snprintf(part, sizeof part, "decode measured no slower than uniform %s", reference);
        else
            snprintf(part, sizeof part, "%s at %.0f tok/s or more",
                     q == MB_QUANTITY_DECODE ? "decode" : "prefill", 1e9 / max);
        at += (size_t)snprintf(text + at, room - at, "%s%s", join, part);
        join = ", ";
    }
    if (reference && at < room)
        snprintf(text + at, room - at,
                 " (no budget was given: 4.5 bits per weight, the fastest uniform format of 4 bits "
                 "or more)");
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
    const struct mb_planning_candidate *plan = &run->candidates[run->candidate_count - 1];
    const struct mb_problem *problem = run->forecast.problem[plan->residency];
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
    const double size = plan->plan->total[MB_QUANTITY_BYTES];
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

/* Solve under one budget and take the plan's mix over as a row; one that an earlier solution found
 * already is dropped. */
static enum mb_status add_candidate(struct mb_planning *run, const struct mb_forecast *forecast,
                                    const struct mb_budget *budget, const char *name)
{
    struct mb_planning_candidate made = {.plan = NULL};
    struct mb_mix mix;
    enum mb_status status =
        mb_forecast_solve(run->cli, forecast, mb_minimize_quantity(run->options->budget.minimize),
                          budget, run->options->budget.max_ram.bytes, &made.plan, &made.residency);
    if (status == MB_OK)
        status = mb_mix_plan(run->cli, run->model, made.plan, &mix);
    if (status == MB_OK) {
        snprintf(mix.name, sizeof mix.name, "%s", name);
        status = mb_comparison_add(&run->comparison, &mix, MB_ROW_PLAN, &run->forecast, &made.row);
    }
    for (size_t i = 0; status == MB_OK && i < run->candidate_count; i++)
        if (run->candidates[i].row == made.row) {
            mb_plan_free(made.plan);
            return MB_OK;
        }
    if (status == MB_OK)
        run->candidates[run->candidate_count++] = made;
    else
        mb_plan_free(made.plan);
    return status;
}

/* A prediction is off by a percent or more, either way. So plans are solved for several decode
 * limits, the predicted speed of the reference and below; measuring tells which of them keep up.
 * `kind` goes into the names. */
static enum mb_status add_limits(struct mb_planning *run, const struct mb_forecast *forecast,
                                 const struct mb_budget *budget, const char *kind)
{
    static const double slack[MB_PLANNING_LIMITS] = {0.000, 0.005, 0.010, 0.020};
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < MB_PLANNING_LIMITS; i++) {
        struct mb_budget limits = *budget;
        char name[48];
        limits.max[MB_QUANTITY_DECODE] *= 1 + slack[i];
        snprintf(name, sizeof name, "plan (%.1f %%%s)", 100 * slack[i], kind);
        status = add_candidate(run, forecast, &limits, name);
        if (status != MB_OK && status != MB_ERR_INFEASIBLE)
            return status;
    }
    return status; /* that of the widest limit: it says what is missing */
}

/* The same limits with formats of the reference's activation type only: products that share an
 * input then share its preparation, and a second one, which the sum over tensors cannot see, never
 * happens. It is a percent of a small model's token. */
static enum mb_status add_candidates(struct mb_planning *run, const struct mb_budget *budget,
                                     enum mb_format reference)
{
    const enum mb_activation type = mb_format_info(reference)->activation;
    struct mb_forecast_request request = run->forecast_request;
    struct mb_format_list formats = {.count = 0};
    struct mb_forecast forecast = {.model = NULL};
    char kind[32];
    enum mb_status status = add_limits(run, &run->forecast, budget, "");
    for (size_t i = 0; i < run->formats.count; i++)
        if (mb_format_info(run->formats.at[i])->activation == type)
            formats.at[formats.count++] = run->formats.at[i];
    if (status == MB_OK && formats.count < run->formats.count) {
        request.formats = &formats;
        snprintf(kind, sizeof kind, ", %s", mb_activation_name(type));
        status = mb_forecast_create(run->cli, run->model, &request, &forecast);
        if (status == MB_OK)
            status = add_limits(run, &forecast, budget, kind);
        mb_forecast_free(&forecast);
        if (status == MB_ERR_INFEASIBLE)
            status = MB_OK; /* fewer candidates may not meet what all of them do */
    }
    return status;
}

/* Rows of at most the source's size (larger ones answer nothing), then the plans, then their
 * neighbours: a plan that is a uniform format keeps that name. */
enum mb_status mb_planning_solve(struct mb_planning *run)
{
    struct mb_cli *cli = run->cli;
    struct mb_mix *mixes = NULL;
    size_t count = 0, fastest = SIZE_MAX;
    struct mb_budget budget = {{0}};
    enum mb_format reference = MB_FORMAT_NONE;
    run->reference = SIZE_MAX;
    enum mb_status status = mb_mix_list(cli, run->model, &run->formats, &mixes, &count);
    if (status != MB_OK)
        return status;
    if (mb_budget_given(&run->options->budget))
        status = mb_budget_resolve(cli, &run->forecast, &run->options->budget, &budget);
    else
        fastest = mb_budget_default(&run->forecast, mixes, count, &budget);
    if (fastest < count)
        reference = mb_format_by_name(mixes[fastest].name);
    if (status == MB_OK)
        describe_objective(run, &budget, fastest < count ? mixes[fastest].name : NULL);
    for (size_t i = 0; i < count; i++) {
        const enum mb_row_kind kind =
            mixes[i].kind == MB_MIX_PRESET ? MB_ROW_PRESET : MB_ROW_UNIFORM;
        if (status == MB_OK && (i == fastest || mb_mix_bytes(run->model, &mixes[i]) <=
                                                    (double)mb_model_file_bytes(run->model)))
            status = mb_comparison_add(&run->comparison, &mixes[i], kind, &run->forecast,
                                       i == fastest ? &run->reference : NULL);
        else
            mb_mix_free(&mixes[i]);
    }
    free(mixes);
    if (status == MB_OK)
        status = run->reference != SIZE_MAX ? add_candidates(run, &budget, reference)
                                            : add_candidate(run, &run->forecast, &budget, "plan");
    return status == MB_OK ? add_neighbours(run, &budget) : status;
}

/* ---- judging ---- */

/* The plan of a row whose formats are all candidates, with the same header as a solver's. */
static enum mb_status plan_of_row(struct mb_planning *run, const struct mb_assignment *row,
                                  struct mb_plan **plan)
{
    const struct mb_planning_candidate *first = &run->candidates[0];
    /* The first candidate's plan may have moved to run->plan already. */
    const struct mb_plan *like = run->plan != NULL ? run->plan : first->plan;
    const struct mb_problem *problem = run->forecast.problem[first->residency];
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
    memcpy((*plan)->model_hash, like->model_hash, sizeof like->model_hash);
    memcpy((*plan)->device_key, like->device_key, sizeof like->device_key);
    memcpy((*plan)->objective, like->objective, sizeof like->objective);
    (*plan)->budget = like->budget;
    return MB_OK;
}

static double measured(const struct mb_assignment *row, enum mb_quantity quantity)
{
    switch (quantity) {
    case MB_QUANTITY_LOSS: return row->evaluation.kl_mean;
    case MB_QUANTITY_DECODE: return row->speed.decode_ns;
    case MB_QUANTITY_PREFILL: return row->speed.prefill_ns;
    default: return row->bytes;
    }
}

static bool keeps_up(const struct mb_planning *run, const struct mb_planning_candidate *candidate)
{
    const struct mb_assignment *rows = run->comparison.rows;
    return run->reference == SIZE_MAX ||
           mb_decodes_no_slower(&rows[candidate->row], &rows[run->reference]);
}

/* Of several losses that the text cannot tell apart, the fastest plan's. */
static struct mb_planning_candidate *fastest_as_good(struct mb_planning *run,
                                                     struct mb_planning_candidate *best)
{
    const struct mb_assignment *rows = run->comparison.rows;
    struct mb_planning_candidate *fastest = best;
    for (size_t i = 0; i < run->candidate_count; i++) {
        struct mb_planning_candidate *candidate = &run->candidates[i];
        double difference, low, high;
        mb_compare_kl(&rows[candidate->row], &rows[best->row], &difference, &low, &high);
        if (low <= 0 && keeps_up(run, candidate) &&
            rows[candidate->row].speed.decode_ns < rows[fastest->row].speed.decode_ns)
            fastest = candidate;
    }
    return fastest;
}

/* Of the plans whose measured decode keeps up with the reference's, the best one; NULL: none does.
 * Without a reference there is one plan, for the limits that the user gave. */
static struct mb_planning_candidate *best_candidate(struct mb_planning *run)
{
    const struct mb_assignment *rows = run->comparison.rows;
    const enum mb_quantity minimize = mb_minimize_quantity(run->options->budget.minimize);
    struct mb_planning_candidate *best = NULL;
    for (size_t i = 0; i < run->candidate_count; i++) {
        struct mb_planning_candidate *candidate = &run->candidates[i];
        if (keeps_up(run, candidate) && (!best || measured(&rows[candidate->row], minimize) <
                                                      measured(&rows[best->row], minimize)))
            best = candidate;
    }
    return best && minimize == MB_QUANTITY_LOSS ? fastest_as_good(run, best) : best;
}

static void say(struct mb_planning *run, const char *text)
{
    mb_planning_note(run, text);
    mb_warn(run->cli, "%s", text);
}

/* Recommend a row instead of a solver's plan. */
static enum mb_status choose_row(struct mb_planning *run, const struct mb_assignment *row)
{
    struct mb_plan *plan = NULL;
    const enum mb_status status = plan_of_row(run, row, &plan);
    if (status != MB_OK)
        return status;
    mb_plan_free(run->plan);
    run->plan = plan;
    run->chosen = (size_t)(row - run->comparison.rows);
    return MB_OK;
}

/* No plan keeps up: the reference itself does, where its size is within the budget; else the plan
 * with the strictest limit comes closest. */
static enum mb_status choose_without_plan(struct mb_planning *run)
{
    const struct mb_assignment *reference = &run->comparison.rows[run->reference];
    const bool fits = reference->bytes <= run->candidates[0].plan->budget.max[MB_QUANTITY_BYTES];
    char text[300];
    snprintf(
        text, sizeof text,
        "Every mix of the solver decoded slower than uniform %s, measured. What is recommended "
        "and written is %s.",
        reference->mix.name, fits ? reference->mix.name : "the one that was to be fastest");
    say(run, text);
    if (fits)
        return choose_row(run, reference);
    run->plan = run->candidates[0].plan;
    run->candidates[0].plan = NULL;
    run->chosen = run->candidates[0].row;
    return MB_OK;
}

/* The measured rows decide: the best plan that is fast enough, unless a uniform format or preset
 * beats it. One that needs formats which the user excluded is only named. */
enum mb_status mb_planning_recommend(struct mb_planning *run)
{
    struct mb_assignment *rows = run->comparison.rows;
    struct mb_planning_candidate *best = best_candidate(run);
    enum mb_status status = MB_OK;
    if (best) {
        run->plan = best->plan;
        run->chosen = best->row;
        best->plan = NULL;
        if (rows[run->chosen].kind == MB_ROW_PLAN)
            snprintf(rows[run->chosen].mix.name, sizeof rows->mix.name, "plan");
    } else {
        status = choose_without_plan(run);
    }
    if (status != MB_OK)
        return status;
    /* What takes the plan's place may itself be beaten by a row that was slower than the plan only;
     * the loss falls with every step. */
    const size_t solved = run->chosen;
    const struct mb_assignment *better = mb_comparison_beats(&run->comparison, &rows[run->chosen]);
    while (status == MB_OK && better && !isnan(better->predicted[MB_QUANTITY_LOSS])) {
        status = choose_row(run, better);
        better = mb_comparison_beats(&run->comparison, &rows[run->chosen]);
    }
    if (status != MB_OK)
        return status;
    char text[300];
    if (run->chosen != solved) {
        snprintf(text, sizeof text,
                 "The solver's mix lost to %s, measured: less loss at no larger size and no lower "
                 "speed. That is what is recommended and written.",
                 rows[run->chosen].mix.name);
        say(run, text);
    }
    if (better) {
        snprintf(text, sizeof text,
                 "%s loses less at no larger size and no lower speed, but uses formats that "
                 "--formats excludes.",
                 better->mix.name);
        say(run, text);
    }
    rows[run->chosen].recommended = 1;
    return MB_OK;
}
