/* SPDX-License-Identifier: Apache-2.0 */
/* Mixes that are as fast as a reference that was measured.
 *
 * A prediction is off by a percent or more, and for the solver's own picks rather too fast. So
 * mixes are tried: solved for limits about the reference's predicted time, timed in turns with it
 * (decode alone where prefill is not held too, with weights that are quick to make: seconds), and
 * the forecast's times and the limits brought in line with what that showed; then solved again,
 * until nothing new comes out. Only those that lose least at a few speeds about the reference's are
 * evaluated. */
#include "cli/planning.h"

#include <math.h>
#include <stdlib.h>

/* Limits of a round, as fractions of the reference's time beyond it. */
static const double slack[] = {0.0, 0.007, 0.025};
/* Measured, the speeds for which the best trial is kept, the strictest first: a mix that is truly
 * as fast may be measured half a percent slower, and what a few percent would gain is worth a
 * mention. */
static const double kept[] = {0.0, 0.007, 0.03};

enum { ROUNDS = 4, SLACKS = sizeof slack / sizeof *slack, KEPT = sizeof kept / sizeof *kept };
_Static_assert((int)KEPT <= (int)MB_PLANNING_LIMITS, "candidates have room for each");

/* Solutions beside the comparison's trials, in the same order. */
struct trials {
    struct mb_planning_candidate of[ROUNDS * SLACKS];
    size_t count;
};

static bool is_tried(const struct mb_comparison *comparison, const struct mb_mix *pending,
                     size_t count, const struct mb_mix *mix)
{
    bool found = false;
    for (size_t i = 0; i < comparison->trial_count; i++)
        found = found || mb_mix_same(comparison->model, &comparison->trials[i].mix, mix);
    for (size_t i = 0; i < count; i++)
        found = found || mb_mix_same(comparison->model, &pending[i], mix);
    return found;
}

/* A mix's time over the reference's, as the forecast has them now. */
static double predicted_ratio(const struct mb_planning *run, const struct mb_mix *mix,
                              enum mb_quantity quantity)
{
    double total[MB_QUANTITY_COUNT], reference[MB_QUANTITY_COUNT];
    mb_forecast_mix(&run->forecast, &run->comparison.rows[run->reference].mix, reference);
    mb_forecast_mix(&run->forecast, mix, total);
    return total[quantity] / reference[quantity];
}

/* By how much of the reference's time mixes take longer than the sum of their products says: a
 * second type of activations is prepared, other code runs at every product. It is in no product's
 * own time, and 0 before anything was tried. */
static double cost_of_mixing(const struct mb_planning *run, enum mb_quantity quantity)
{
    const struct mb_comparison *c = &run->comparison;
    double sum = 0;
    for (size_t i = 0; i < c->trial_count; i++)
        sum +=
            c->trials[i].time[quantity].ratio - predicted_ratio(run, &c->trials[i].mix, quantity);
    return c->trial_count > 0 ? sum / (double)c->trial_count : 0;
}

/* What the limits give under the forecast as it is now, and was not tried yet. */
static enum mb_status solve_round(struct mb_planning *run, const struct mb_budget *budget,
                                  struct trials *trials, struct mb_mix *mixes, size_t *count)
{
    double reference[MB_QUANTITY_COUNT];
    enum mb_status status = MB_OK;
    mb_forecast_mix(&run->forecast, &run->comparison.rows[run->reference].mix, reference);
    *count = 0;
    for (size_t i = 0; i < SLACKS; i++) {
        struct mb_planning_candidate made = {.rival = MB_PLANNING_NO_RIVAL};
        struct mb_budget limits = *budget;
        for (int q = MB_QUANTITY_DECODE; q <= MB_QUANTITY_PREFILL; q++)
            if (mb_planning_holds(run, (enum mb_quantity)q))
                limits.max[q] =
                    reference[q] * (1 + slack[i] - cost_of_mixing(run, (enum mb_quantity)q));
        status = mb_planning_solve_for(run, &limits, &made, &mixes[*count]);
        if (status == MB_ERR_INFEASIBLE)
            continue;
        if (status != MB_OK)
            break;
        if (is_tried(&run->comparison, mixes, *count, &mixes[*count])) {
            mb_mix_free(&mixes[*count]);
            mb_plan_free(made.plan);
        } else {
            trials->of[trials->count++] = made;
            (*count)++;
        }
    }
    return status; /* that of the widest limit: it says what is missing */
}

/* From the profile's times anew: what is known is counted once. */
static enum mb_status recalibrate(struct mb_planning *run)
{
    struct mb_forecast forecast = {.model = NULL};
    enum mb_status status =
        mb_forecast_create(run->cli, run->model, &run->forecast_request, &forecast);
    if (status == MB_OK)
        status = mb_forecast_calibrate(&forecast, &run->comparison);
    if (status != MB_OK) {
        mb_forecast_free(&forecast);
        return status;
    }
    mb_forecast_free(&run->forecast);
    run->forecast = forecast;
    return MB_OK;
}

/* What the last `count` trials came to. */
static void tell(const struct mb_planning *run, const struct trials *trials, size_t count)
{
    for (size_t i = trials->count - count; run->cli->common.verbose && i < trials->count; i++) {
        const struct mb_trial_time *time = run->comparison.trials[i].time;
        mb_note(run->cli, "tried: KL %.5f predicted, decode takes %.3f (%.3f to %.3f) of its time",
                trials->of[i].plan->total[MB_QUANTITY_LOSS], time[MB_QUANTITY_DECODE].ratio,
                time[MB_QUANTITY_DECODE].low, time[MB_QUANTITY_DECODE].high);
        if (mb_planning_holds(run, MB_QUANTITY_PREFILL))
            mb_note(run->cli, "and prefill %.3f (%.3f to %.3f)", time[MB_QUANTITY_PREFILL].ratio,
                    time[MB_QUANTITY_PREFILL].low, time[MB_QUANTITY_PREFILL].high);
    }
}

static enum mb_status try_rounds(struct mb_planning *run, const struct mb_budget *budget,
                                 const struct mb_compare_options *options, struct trials *trials)
{
    struct mb_compare_options longer = *options;
    enum mb_status status = MB_OK;
    longer.repeats *= MB_PLANNING_LONGER;
    for (size_t round = 0; round < ROUNDS && status == MB_OK; round++) {
        struct mb_mix mixes[SLACKS] = {{.formats = NULL}};
        size_t count;
        status = solve_round(run, budget, trials, mixes, &count);
        if (status == MB_ERR_INFEASIBLE && trials->count > 0)
            status = MB_OK; /* by the times as they are now; what was tried stays */
        if (status == MB_OK && count == 0)
            break;
        if (status == MB_OK) {
            mb_stage_begin(run->cli, "trying %zu mixes for the speed of uniform %s", count,
                           run->comparison.rows[run->reference].mix.name);
            status = mb_comparison_try(run->cli, &run->comparison, &longer, mixes, count);
            mb_stage_end(run->cli);
        }
        if (status == MB_OK)
            tell(run, trials, count);
        for (size_t i = 0; i < SLACKS; i++)
            mb_mix_free(&mixes[i]);
        if (status == MB_OK)
            status = recalibrate(run);
    }
    return status;
}

/* What a trial took over the reference: the worse of what is held. */
static double time_of(const struct mb_planning *run, size_t trial)
{
    const struct mb_trial_time *time = run->comparison.trials[trial].time;
    const double decode = time[MB_QUANTITY_DECODE].ratio;
    return mb_planning_holds(run, MB_QUANTITY_PREFILL)
               ? fmax(decode, time[MB_QUANTITY_PREFILL].ratio)
               : decode;
}

/* Of the trials that took no more than `most` of the reference's time, the best; where there is
 * none, the fastest with `any`, else trials->count. */
static size_t best_within(const struct mb_planning *run, const struct trials *trials, double most,
                          bool any)
{
    const enum mb_quantity minimize = mb_minimize_quantity(run->options->budget.minimize);
    size_t best = trials->count, fastest = trials->count;
    for (size_t i = 0; i < trials->count; i++) {
        const double value = trials->of[i].plan->total[minimize];
        if (time_of(run, i) <= most &&
            (best == trials->count || value < trials->of[best].plan->total[minimize]))
            best = i;
        if (fastest == trials->count || time_of(run, i) < time_of(run, fastest))
            fastest = i;
    }
    return best == trials->count && any ? fastest : best;
}

static enum mb_status keep_best(struct mb_planning *run, struct trials *trials)
{
    enum mb_status status = MB_OK;
    size_t best[KEPT];
    for (size_t i = 0; i < KEPT; i++)
        best[i] = best_within(run, trials, 1 + kept[i], i + 1 == KEPT);
    for (size_t i = 0; i < KEPT && status == MB_OK; i++) {
        struct mb_mix mix;
        char name[48];
        if (best[i] == trials->count || trials->of[best[i]].plan == NULL)
            continue; /* none as fast, or kept for a stricter speed */
        (void)snprintf(name, sizeof name, "plan (%+.1f %% time)", 100 * kept[i]);
        status = mb_mix_plan(run->cli, run->model, trials->of[best[i]].plan, &mix);
        if (status == MB_OK)
            status = mb_planning_add(run, &trials->of[best[i]], &mix, name);
    }
    return status;
}

enum mb_status mb_planning_try(struct mb_planning *run, const struct mb_budget *budget,
                               const struct mb_compare_options *options)
{
    struct trials trials = {.count = 0};
    enum mb_status status = try_rounds(run, budget, options, &trials);
    if (status == MB_OK)
        status = keep_best(run, &trials);
    for (size_t i = 0; i < trials.count; i++)
        mb_plan_free(trials.of[i].plan);
    return status;
}
