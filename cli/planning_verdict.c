/* SPDX-License-Identifier: Apache-2.0 */
/* The verdict of `mixbit plan`: which of the measured rows is recommended and written. */
#include "cli/planning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The plan of a row whose formats are all candidates, by costs as they are now, with the header of
 * a solver's. */
static enum mb_status plan_of_row(struct mb_planning *run, const struct mb_assignment *row,
                                  const struct mb_planning_candidate *like, struct mb_plan **plan)
{
    const struct mb_plan *header = like->plan;
    const struct mb_problem *problem = run->forecast.problem[like->residency];
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
    memcpy((*plan)->model_hash, header->model_hash, sizeof header->model_hash);
    memcpy((*plan)->device_key, header->device_key, sizeof header->device_key);
    memcpy((*plan)->objective, header->objective, sizeof header->objective);
    memcpy((*plan)->importance_hash, header->importance_hash, sizeof header->importance_hash);
    memcpy((*plan)->feedback_hash, header->feedback_hash, sizeof header->feedback_hash);
    memcpy((*plan)->groups, header->groups, sizeof header->groups);
    (*plan)->budget = header->budget;
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

/* For the budget, and where speed is held to a reference, no slower. */
static bool keeps_up(const struct mb_planning *run, const struct mb_planning_candidate *candidate)
{
    const struct mb_assignment *rows = run->comparison.rows;
    return candidate->rival == MB_PLANNING_NO_RIVAL &&
           (run->reference == SIZE_MAX || mb_as_fast(&rows[candidate->row], &rows[run->reference],
                                                     mb_planning_holds(run, MB_QUANTITY_PREFILL)));
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

/* Recommend a row, with a plan like a candidate's. */
static enum mb_status choose(struct mb_planning *run, const struct mb_assignment *row,
                             const struct mb_planning_candidate *like)
{
    struct mb_plan *plan = NULL;
    const enum mb_status status = plan_of_row(run, row, like, &plan);
    if (status != MB_OK)
        return status;
    mb_plan_free(run->plan);
    run->plan = plan;
    run->chosen = (size_t)(row - run->comparison.rows);
    return MB_OK;
}

/* Recommend a solution of the solver. It may have been found before the costs were what they are.
 */
static enum mb_status choose_candidate(struct mb_planning *run,
                                       const struct mb_planning_candidate *candidate)
{
    const enum mb_status status = choose(run, &run->comparison.rows[candidate->row], candidate);
    if (status == MB_OK)
        run->plan->gap = candidate->plan->gap;
    return status;
}

/* Recommend a row instead. */
static enum mb_status choose_row(struct mb_planning *run, const struct mb_assignment *row)
{
    return choose(run, row, &run->candidates[0]);
}

/* Of the solver's mixes for other speeds, one that beats a row which was going to be recommended:
 * less loss at no lower speed, measured; the one with the least. NULL: none. */
static struct mb_planning_candidate *answer_to(struct mb_planning *run,
                                               const struct mb_assignment *row)
{
    const struct mb_assignment *rows = run->comparison.rows;
    const bool prefill = mb_planning_holds(run, MB_QUANTITY_PREFILL);
    struct mb_planning_candidate *best = NULL;
    for (size_t i = 0; i < run->candidate_count; i++) {
        struct mb_planning_candidate *candidate = &run->candidates[i];
        const struct mb_assignment *answer = &rows[candidate->row];
        double difference, low, high;
        mb_compare_kl(answer, row, &difference, &low, &high);
        if (answer != row && difference < 0 && mb_as_fast(answer, row, prefill) &&
            (best == NULL || answer->evaluation.kl_mean < rows[best->row].evaluation.kl_mean))
            best = candidate;
    }
    return best;
}

static bool reference_fits(const struct mb_planning *run)
{
    return run->comparison.rows[run->reference].bytes <=
           run->candidates[0].plan->budget.max[MB_QUANTITY_BYTES];
}

/* The reference keeps up with itself: a plan has to lose less, as far as the text can tell, and by
 * more than rounding layer after layer may turn round, which takes 24 to 31 % off what a mix loses
 * with its tensors rounded alone, of some mixes less than of a uniform format. */
static bool reference_is_better(const struct mb_planning *run,
                                const struct mb_planning_candidate *best)
{
    if (run->reference == SIZE_MAX || !reference_fits(run))
        return false;
    const struct mb_assignment *plan = &run->comparison.rows[best->row],
                               *reference = &run->comparison.rows[run->reference];
    const double worth = run->options->encoder == MB_ENCODER_SEQUENTIAL ? 0.93 : 1;
    double difference, low, high;
    mb_compare_kl(plan, reference, &difference, &low, &high);
    return high >= 0 ||
           measured(plan, MB_QUANTITY_LOSS) > worth * measured(reference, MB_QUANTITY_LOSS);
}

/* No plan keeps up, or none that does loses less (beaten): the reference itself, where its size is
 * within the budget; else the plan with the strictest limit comes closest. */
static enum mb_status choose_without_plan(struct mb_planning *run, bool beaten)
{
    const struct mb_assignment *reference = &run->comparison.rows[run->reference];
    const char *name = reference->mix.name;
    char text[300];
    if (beaten)
        snprintf(text, sizeof text,
                 "No mix of the solver that is as fast as uniform %s loses clearly less, "
                 "measured: it stands in for them.",
                 name);
    else
        snprintf(text, sizeof text,
                 "Every mix of the solver was slower than uniform %s, measured: %s stands in "
                 "for them.",
                 name, reference_fits(run) ? "it" : "the one that was to be fastest");
    say(run, text);
    if (reference_fits(run))
        return choose_row(run, reference);
    return choose_candidate(run, &run->candidates[0]);
}

/* Rows between which a percent of speed decides: candidates, what they are held to, and what loses
 * less than one of them at no larger size. */
static size_t contested(const struct mb_planning *run, size_t *rows)
{
    const struct mb_comparison *c = &run->comparison;
    double bytes = 0, loss = 0;
    size_t count = 0;
    for (size_t i = 0; i < run->candidate_count; i++) {
        const struct mb_assignment *row = &c->rows[run->candidates[i].row];
        bytes = fmax(bytes, row->bytes);
        loss = fmax(loss, row->evaluation.kl_mean);
    }
    if (run->reference != SIZE_MAX) { /* it stands in where no candidate keeps up */
        bytes = fmax(bytes, c->rows[run->reference].bytes);
        loss = fmax(loss, c->rows[run->reference].evaluation.kl_mean);
    }
    for (size_t i = 0; i < c->count; i++) {
        const struct mb_assignment *row = &c->rows[i];
        bool is_candidate = i == run->reference;
        for (size_t j = 0; j < run->candidate_count; j++)
            is_candidate = is_candidate || run->candidates[j].row == i;
        if (is_candidate || ((row->kind == MB_ROW_UNIFORM || row->kind == MB_ROW_PRESET) &&
                             row->bytes <= bytes && row->evaluation.kl_mean < loss))
            rows[count++] = i;
    }
    return count;
}

enum mb_status mb_planning_confirm(struct mb_planning *run,
                                   const struct mb_compare_options *options)
{
    struct mb_compare_options longer = *options;
    size_t *rows = calloc(run->comparison.count + 1, sizeof *rows);
    if (!rows)
        return MB_ERR_MEMORY;
    longer.repeats *= MB_PLANNING_LONGER;
    const size_t count = contested(run, rows);
    const enum mb_status status =
        count > 1 ? mb_comparison_time_again(run->cli, &run->comparison, &longer, rows, count)
                  : MB_OK;
    free(rows);
    return status;
}

/* Where decode is held to a reference nobody asked for: of the solver's mixes that are a little
 * slower than what is recommended, the one that loses least, and how to get it. */
static void mention_slower(struct mb_planning *run)
{
    const struct mb_assignment *rows = run->comparison.rows, *chosen = &rows[run->chosen];
    const struct mb_assignment *best = NULL;
    double ratio = 1, low, high, difference;
    char text[300];
    for (size_t i = 0; run->reference != SIZE_MAX && i < run->candidate_count; i++) {
        const struct mb_assignment *row = &rows[run->candidates[i].row];
        double time;
        mb_compare_decode(row, chosen, &time, &low, &high);
        if (row->turn != chosen->turn || row->bytes > chosen->bytes * 1.01 ||
            !(time <= 1 + MB_PLANNING_SLOWER))
            continue;
        mb_compare_kl(row, best != NULL ? best : chosen, &difference, &low, &high);
        if (high < 0) {
            best = row;
            ratio = time;
        }
    }
    if (best == NULL)
        return;
    snprintf(text, sizeof text,
             "%s loses %.0f %% less than what is recommended and takes %.1f %% longer to decode, "
             "measured: --max-size %.2fM --min-decode %.0f asks for such a mix.",
             best->mix.name, 100 * (1 - best->evaluation.kl_mean / chosen->evaluation.kl_mean),
             100 * (ratio - 1), best->bytes / 1e6 + 0.005,
             1e9 / best->predicted[MB_QUANTITY_DECODE]);
    mb_planning_note(run, text);
    mb_note(run->cli, "%s", text);
}

/* A speed that the user gave is a limit on predictions. Where the measured one falls short of it,
 * that is said, with the figure that would have asked for enough. */
static void mention_missed(struct mb_planning *run)
{
    static const struct {
        enum mb_quantity quantity;
        const char *name;
    } speeds[] = {{MB_QUANTITY_DECODE, "decode"}, {MB_QUANTITY_PREFILL, "prefill"}};
    const struct mb_assignment *chosen = &run->comparison.rows[run->chosen];
    char text[300];
    for (size_t i = 0; run->reference == SIZE_MAX && i < sizeof speeds / sizeof speeds[0]; i++) {
        const double limit_ns = run->plan->budget.max[speeds[i].quantity];
        const double off = limit_ns > 0 ? measured(chosen, speeds[i].quantity) / limit_ns : 0;
        if (!(off > 1 + MB_PLANNING_MISSED))
            continue;
        snprintf(
            text, sizeof text,
            "Measured %s is %.0f tok/s, %.0f %% below the %.0f asked for, which the prediction "
            "met: if the machine was quiet, --min-%s %.0f asks for enough.",
            speeds[i].name, 1e9 / (limit_ns * off), 100 * (1 - 1 / off), 1e9 / limit_ns,
            speeds[i].name, 1e9 * off / limit_ns);
        say(run, text);
    }
}

/* A row that may be written: one that the solver could have chosen. */
static bool is_allowed(const struct mb_planning *run, const struct mb_assignment *row)
{
    return !isnan(row->predicted[MB_QUANTITY_LOSS]) &&
           mb_forecast_allows(&run->forecast, &row->mix);
}

/* The measured rows decide: the best plan that is fast enough, unless a uniform format or preset
 * beats it. One that needs formats which the user excluded is only named. */
enum mb_status mb_planning_recommend(struct mb_planning *run)
{
    struct mb_assignment *rows = run->comparison.rows;
    struct mb_planning_candidate *best = best_candidate(run);
    const bool beaten = best && reference_is_better(run, best);
    enum mb_status status =
        best && !beaten ? choose_candidate(run, best) : choose_without_plan(run, beaten);
    if (status != MB_OK)
        return status;
    /* What takes the plan's place may itself be beaten by a row that was slower than the plan only;
     * the loss falls with every step. */
    const size_t solved = run->chosen;
    const bool prefill = mb_planning_holds(run, MB_QUANTITY_PREFILL);
    const struct mb_assignment *better =
        mb_comparison_beats(&run->comparison, &rows[run->chosen], prefill);
    while (status == MB_OK && better && is_allowed(run, better)) {
        struct mb_planning_candidate *answer = answer_to(run, better);
        status = answer ? choose_candidate(run, answer) : choose_row(run, better);
        better = mb_comparison_beats(&run->comparison, &rows[run->chosen], prefill);
    }
    if (status != MB_OK)
        return status;
    struct mb_assignment *chosen = &rows[run->chosen];
    const bool own = chosen->kind == MB_ROW_ANSWER || chosen->kind == MB_ROW_PLAN;
    char text[300];
    if (run->chosen != solved) {
        if (own)
            snprintf(text, sizeof text,
                     "The mix for this speed lost to a uniform format or preset as fast, as far "
                     "as timing can tell. Recommended and written (%s) is a mix of the solver "
                     "that is as fast as that one and loses less.",
                     chosen->mix.name);
        else
            snprintf(text, sizeof text,
                     "%s lost to %s, measured: less loss at no larger size and no lower speed. "
                     "That is what is recommended and written.",
                     rows[solved].mix.name, chosen->mix.name);
        say(run, text);
    }
    if (better) {
        snprintf(text, sizeof text,
                 "%s loses less at no larger size and no lower speed, but is a mix that --formats, "
                 "--pin, --exclude, --runtime or --group rules out.",
                 better->mix.name);
        say(run, text);
    }
    mention_slower(run);
    mention_missed(run);
    chosen->recommended = 1;
    if (own)
        snprintf(chosen->mix.name, sizeof chosen->mix.name, "plan");
    return MB_OK;
}
