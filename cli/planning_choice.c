/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of `mixbit plan`: what is solved, and what is measured beside it. Predictions propose,
 * measured rows decide (planning_verdict.c). */
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
    size_t at = (size_t)snprintf(
        text, room, "least %s",
        run->aim.weighted ? "sum by " : names[mb_minimize_quantity(run->options->budget.minimize)]);
    if (run->aim.weighted)
        at += (size_t)snprintf(text + at, room - at, "%s", run->aim.objective);
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
        else if (reference)
            snprintf(part, sizeof part, "%s measured no slower than uniform %s",
                     q == MB_QUANTITY_DECODE ? "decode" : "prefill", reference);
        else
            snprintf(part, sizeof part, "%s at %.0f tok/s or more",
                     q == MB_QUANTITY_DECODE ? "decode" : "prefill", 1e9 / max);
        at += (size_t)snprintf(text + at, room - at, "%s%s", join, part);
        join = ", ";
    }
    if (run->aim.groups[0] != '\0' && at < room)
        at += (size_t)snprintf(text + at, room - at, "; one format each: %s", run->aim.groups);
    if (reference && run->as_fast_as == MB_FORMAT_NONE && at < room)
        snprintf(text + at, room - at,
                 " (no budget was given: 4.5 bits per weight, the fastest uniform format of 4 bits "
                 "or more; of those as fast, the one that loses least)");
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

/* Limit the speeds that are held to the reference to a fraction of some times. */
static void hold(const struct mb_planning *run, const double *times, double fraction,
                 struct mb_budget *budget)
{
    for (int q = MB_QUANTITY_DECODE; q <= MB_QUANTITY_PREFILL; q++)
        if (mb_planning_holds(run, (enum mb_quantity)q))
            budget->max[q] = fraction * times[q];
}

/* The curve without a size limit, and the two points on it nearest below and above the plan's size
 * (but not next to it). */
static enum mb_status add_neighbours(struct mb_planning *run, const struct mb_budget *budget)
{
    const struct mb_planning_candidate *plan = &run->candidates[0];
    const struct mb_problem *problem = run->forecast.problem[plan->residency];
    const enum mb_quantity minimize = mb_minimize_quantity(run->options->budget.minimize);
    const enum mb_quantity against =
        minimize == MB_QUANTITY_BYTES ? MB_QUANTITY_LOSS : MB_QUANTITY_BYTES;
    struct mb_budget along = *budget;
    along.max[against] = 0;
    hold(run, budget->max, 0, &along); /* any speed */
    enum mb_status status =
        mb_forecast_class_front(run->cli, &run->forecast, plan->residency, minimize, against,
                                &along, 40, &run->front, &run->front_count);
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

enum mb_status mb_planning_solve_for(struct mb_planning *run, const struct mb_budget *budget,
                                     struct mb_planning_candidate *candidate, struct mb_mix *mix)
{
    enum mb_status status = mb_forecast_solve(
        run->cli, &run->forecast, mb_minimize_quantity(run->options->budget.minimize), budget,
        run->options->budget.max_ram.bytes, &candidate->plan, &candidate->residency);
    if (status == MB_OK)
        status = mb_mix_plan(run->cli, run->model, candidate->plan, mix);
    if (status != MB_OK) {
        mb_plan_free(candidate->plan);
        candidate->plan = NULL;
    }
    return status;
}

enum mb_status mb_planning_add(struct mb_planning *run, struct mb_planning_candidate *candidate,
                               struct mb_mix *mix, const char *name)
{
    const enum mb_row_kind kind =
        candidate->rival == MB_PLANNING_NO_RIVAL ? MB_ROW_PLAN : MB_ROW_ANSWER;
    snprintf(mix->name, sizeof mix->name, "%s", name);
    const enum mb_status status =
        mb_comparison_add(&run->comparison, mix, kind, &run->forecast, &candidate->row);
    bool known = status == MB_OK && candidate->row == candidate->rival;
    for (size_t i = 0; status == MB_OK && i < run->candidate_count; i++)
        known = known || run->candidates[i].row == candidate->row;
    if (status == MB_OK && !known)
        run->candidates[run->candidate_count++] = *candidate;
    else
        mb_plan_free(candidate->plan);
    candidate->plan = NULL;
    return status;
}

/* Solve under one budget and take the mix over as a row. */
static enum mb_status add_candidate(struct mb_planning *run, const struct mb_budget *budget,
                                    const char *name, size_t rival)
{
    struct mb_planning_candidate made = {.plan = NULL, .rival = rival};
    struct mb_mix mix;
    const enum mb_status status = mb_planning_solve_for(run, budget, &made, &mix);
    return status == MB_OK ? mb_planning_add(run, &made, &mix, name) : status;
}

/* Too slow, measured, to be recommended over a plan that keeps up with the reference. */
static bool is_slow(const struct mb_planning *run, const struct mb_assignment *row)
{
    double ratio, low, high;
    if (run->reference == SIZE_MAX)
        return false;
    mb_compare_decode(row, &run->comparison.rows[run->reference], &ratio, &low, &high);
    return low > 1 + MB_PLANNING_SLOWER;
}

/* The uniform or preset row within the size budget that is to lose least of those with more loss
 * than `above` and is no slow one; MB_PLANNING_NO_RIVAL: none. */
static size_t next_rival(const struct mb_planning *run, const struct mb_budget *budget,
                         double above)
{
    const struct mb_comparison *c = &run->comparison;
    size_t next = MB_PLANNING_NO_RIVAL;
    for (size_t i = 0; i < c->count; i++) {
        const struct mb_assignment *row = &c->rows[i];
        const double loss = row->predicted[MB_QUANTITY_LOSS];
        const double most = budget->max[MB_QUANTITY_BYTES];
        if ((row->kind == MB_ROW_UNIFORM || row->kind == MB_ROW_PRESET) && loss > above &&
            (most <= 0 || row->bytes <= most) && !is_slow(run, row) &&
            (next == MB_PLANNING_NO_RIVAL || loss < c->rows[next].predicted[MB_QUANTITY_LOSS]))
            next = i;
    }
    return next;
}

/* A row that is to lose less than the strictest plan may turn out to be as fast as a plan, within
 * what timing can tell, and would have to be recommended then. So each gets an answer: the best mix
 * of its own size and predicted speed, with a percent of time to spare, since a mix of activation
 * types costs what no sum over tensors holds. */
static enum mb_status add_answers(struct mb_planning *run, const struct mb_budget *budget)
{
    const double spare = 0.01;
    const size_t strictest = run->candidates[0].row;
    const double most = run->comparison.rows[strictest].predicted[MB_QUANTITY_LOSS];
    enum mb_status status = MB_OK;
    size_t rival = next_rival(run, budget, -1);
    for (size_t i = 0; i < MB_PLANNING_ANSWERS && rival != MB_PLANNING_NO_RIVAL; i++) {
        const struct mb_assignment *row = &run->comparison.rows[rival];
        const double loss = row->predicted[MB_QUANTITY_LOSS];
        char name[48];
        if (!(loss < most))
            break;
        /* The row's own prediction is older than the calibration. */
        double total[MB_QUANTITY_COUNT];
        mb_forecast_mix(&run->forecast, &row->mix, total);
        struct mb_budget limits = {.max = {[MB_QUANTITY_BYTES] = row->bytes}};
        hold(run, total, 1 - spare, &limits);
        (void)snprintf(name, sizeof name, "plan (as %.30s)", row->mix.name);
        status = add_candidate(run, &limits, name, rival);
        if (status != MB_OK && status != MB_ERR_INFEASIBLE)
            return status;
        rival = next_rival(run, budget, loss);
    }
    return MB_OK;
}

/* A budget that nothing can meet is refused before anything is measured for it. */
static enum mb_status check_budget(struct mb_planning *run)
{
    struct mb_planning_candidate any = {.plan = NULL};
    struct mb_mix mix = {.formats = NULL};
    struct mb_budget budget = {{0}};
    if (!mb_budget_given(&run->options->budget))
        return MB_OK;
    enum mb_status status =
        mb_budget_resolve(run->cli, &run->forecast, &run->options->budget, &budget);
    if (status == MB_OK)
        status = mb_planning_solve_for(run, &budget, &any, &mix);
    mb_plan_free(any.plan);
    mb_mix_free(&mix);
    return status;
}

/* Rows of at most the source's size: larger ones answer nothing. */
enum mb_status mb_planning_list(struct mb_planning *run)
{
    struct mb_mix *mixes = NULL;
    size_t count = 0;
    enum mb_status status = check_budget(run);
    if (status == MB_OK)
        status =
            mb_mix_list(run->cli, run->model, &run->formats, run->options->presets, &mixes, &count);
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
    return status;
}

/* Measured, and predicted: limits are fractions of its prediction. */
static bool may_refer(const struct mb_assignment *row, const struct mb_budget *budget)
{
    return row->measured && row->predicted[MB_QUANTITY_DECODE] > 0 &&
           mb_budget_may_refer(&row->mix, row->bytes, budget);
}

/* As fast as another of its turn: the interval reaches 1, and it is not so wide that the ratio lies
 * far off, as where the machine was busy. */
static bool is_as_fast(const struct mb_assignment *row, const struct mb_assignment *fastest)
{
    const double most = 1.01;
    double ratio, low, high;
    mb_compare_decode(row, fastest, &ratio, &low, &high);
    return row->turn == fastest->turn && low <= 1 && ratio <= most;
}

/* This row is the reference. */
static void hold_to(struct mb_planning *run, const struct mb_assignment *row,
                    struct mb_budget *budget)
{
    double total[MB_QUANTITY_COUNT];
    mb_forecast_mix(&run->forecast, &row->mix, total);
    run->reference = (size_t)(row - run->comparison.rows);
    hold(run, total, 1, budget);
}

/* The format that the user named, and the budget beside it: its size if no other was given. */
static enum mb_status refer_to_format(struct mb_planning *run, struct mb_budget *budget)
{
    const struct mb_comparison *c = &run->comparison;
    const char *name = mb_format_info(run->as_fast_as)->name;
    const enum mb_status status =
        mb_budget_resolve(run->cli, &run->forecast, &run->options->budget, budget);
    for (size_t i = 0; status == MB_OK && i < c->count; i++) {
        const struct mb_assignment *row = &c->rows[i];
        if (row->kind != MB_ROW_UNIFORM || strcmp(row->mix.name, name) != 0)
            continue;
        if (!(budget->max[MB_QUANTITY_BYTES] > 0))
            budget->max[MB_QUANTITY_BYTES] = row->bytes;
        hold_to(run, row, budget);
    }
    if (status == MB_OK && run->reference == SIZE_MAX)
        return mb_usage(run->cli,
                        "--as-fast-as: uniform %s is no smaller than the model or stores "
                        "what another format does: it has no row of its own here",
                        name);
    return status;
}

/* Without a budget: the default one, and the row that decode is held to. That is the uniform format
 * which decoded fastest, or of those as fast the one that loses least: what somebody would take who
 * has no mix. */
static void choose_reference(struct mb_planning *run, struct mb_budget *budget)
{
    const struct mb_comparison *c = &run->comparison;
    const struct mb_assignment *fastest = NULL, *best = NULL;
    mb_budget_default(run->model, budget);
    for (size_t i = 0; i < c->count; i++) {
        const struct mb_assignment *row = &c->rows[i];
        if (may_refer(row, budget) &&
            (fastest == NULL || row->speed.decode_ns < fastest->speed.decode_ns))
            fastest = row;
    }
    for (size_t i = 0; i < c->count; i++) {
        const struct mb_assignment *row = &c->rows[i];
        if (may_refer(row, budget) && is_as_fast(row, fastest) &&
            (best == NULL || row->evaluation.kl_mean < best->evaluation.kl_mean))
            best = row;
    }
    if (best != NULL)
        hold_to(run, best, budget);
}

/* The plans, then answers and neighbours: a plan that is a uniform format keeps that name. */
enum mb_status mb_planning_solve(struct mb_planning *run, const struct mb_compare_options *options)
{
    struct mb_budget budget = {{0}};
    enum mb_status status = MB_OK;
    run->reference = SIZE_MAX;
    if (run->as_fast_as != MB_FORMAT_NONE)
        status = refer_to_format(run, &budget);
    else if (mb_budget_given(&run->options->budget))
        status = mb_budget_resolve(run->cli, &run->forecast, &run->options->budget, &budget);
    else
        choose_reference(run, &budget);
    if (status != MB_OK)
        return status;
    describe_objective(run, &budget,
                       run->reference != SIZE_MAX ? run->comparison.rows[run->reference].mix.name
                                                  : NULL);
    status = run->reference != SIZE_MAX ? mb_planning_try(run, &budget, options)
                                        : add_candidate(run, &budget, "plan", MB_PLANNING_NO_RIVAL);
    if (status == MB_OK && run->reference != SIZE_MAX)
        status = add_answers(run, &budget);
    return status == MB_OK ? add_neighbours(run, &budget) : status;
}
