/* SPDX-License-Identifier: Apache-2.0 */
/* See contest.h. What is timed is mb_matmul as a network calls it: activations are prepared and the
 * work is handed to the threads within the figure, and preparing is timed once more on its own,
 * because matrices that read the same input share it. */
#include "tuner/contest.h"
#include "tuner/measure.h"
#include "tuner/profile.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double loser_ratio = 1.25; /* slower than this times the leader: no more turns */
/* A bound rules a candidate out only with room to spare: the limits behind it may come from a phase
 * of the machine in which everything took half as long again. */
static const double phase_ratio = 1.5;
/* The leader is timed again beside its variants; when it takes so much longer than before, they all
 * ran in a slower phase, and none of them could show that it is better. */
static const double same_phase_ratio = 1.1;
enum { VISITS_MOST = 3 };

static struct mb_cost key_of(const struct mb_contest *c, const struct mb_tune_candidate *candidate)
{
    struct mb_cost cost = {.revision = candidate->revision,
                           .format = c->format,
                           .n = c->shape.n,
                           .k = c->shape.k,
                           .m = c->m,
                           .threads = c->threads,
                           .activation = c->activation,
                           .residency = c->residency,
                           .bytes = c->shape.n * mb_format_row_bytes(c->format, c->shape.k)};
    memcpy(cost.knobs, candidate->knobs, sizeof cost.knobs);
    snprintf(cost.kernel, sizeof cost.kernel, "%s", candidate->kernel->name);
    return cost;
}

/* A candidate in its turn. */
struct contender {
    struct mb_workload *workload;
    const struct mb_tune_candidate *candidate;
};

/* The dispatch layer walks its registry at the first question after a change: before the clock
 * starts. */
static void enter_contender(void *arg)
{
    const struct contender *c = arg;
    mb_select_set(c->workload->format, &c->candidate->selection);
    (void)mb_select(c->workload->format);
}

static void run_contender(void *arg, size_t iterations)
{
    const struct contender *c = arg;
    mb_workload_run(c->workload, iterations);
}

static void run_prepare(void *arg, size_t iterations) { mb_workload_prepare(arg, iterations); }

static double prepare_ns(struct mb_workload *workload)
{
    const struct mb_timed timed = {.run = run_prepare, .arg = workload};
    const struct mb_measure_options options = {.budget_ns = 2e6};
    struct mb_measurement result;
    return mb_measure(&timed, 1, &options, &result) == MB_OK ? result.median_ns : 0;
}

/* What the first right candidate takes, roughly. */
static enum mb_status scout(struct mb_workload *workload, const struct mb_tune_candidate *candidate,
                            double *ns)
{
    struct contender contender = {workload, candidate};
    const struct mb_timed timed = {run_contender, &contender};
    const struct mb_measure_options options = {
        .budget_ns = 1, .samples_min = 2, .enter = enter_contender};
    struct mb_measurement result = {0};
    const enum mb_status status = mb_measure(&timed, 1, &options, &result);
    *ns = result.median_ns;
    return status;
}

/* Whether the dispatch layer will run this candidate: a kernel forced from outside (MIXBIT_KERNEL)
 * leaves only itself to be measured. */
static bool is_selected(const struct mb_workload *workload,
                        const struct mb_tune_candidate *candidate)
{
    const char *name = mb_kernel_for(workload->format, workload->n, workload->k, workload->m);
    return name != NULL && strcmp(name, candidate->kernel->name) == 0;
}

static enum mb_status record_failure(const struct mb_contest *c,
                                     const struct mb_tune_candidate *candidate, double error)
{
    struct mb_cost cost = key_of(c, candidate);
    cost.error = error;
    cost.failed = 1;
    mb_log(MB_LOG_WARNING, "%s gives wrong results for %s (relative error %.2g); it is not used",
           cost.kernel, mb_format_info(cost.format)->name, error);
    return mb_profile_put(c->profile, &cost);
}

/* Keep what is right and may win. */
static enum mb_status weed(struct mb_contest *c, struct mb_workload *workload, double *errors)
{
    size_t left = 0;
    double reached_ns, reachable_ns = 0;
    for (size_t i = 0; i < c->count; i++) {
        double error;
        int failed;
        if (reachable_ns > 0 && c->candidates[i].bound_ns > reachable_ns * phase_ratio)
            continue;
        mb_select_set(workload->format, &c->candidates[i].selection);
        if (!is_selected(workload, &c->candidates[i]))
            continue;
        enum mb_status status = mb_workload_check(workload, &error, &failed);
        if (status == MB_OK && failed) {
            status = record_failure(c, &c->candidates[i], error);
        } else if (status == MB_OK) {
            errors[left] = error;
            c->candidates[left++] = c->candidates[i];
            if (left == 1) {
                status = scout(workload, &c->candidates[0], &reached_ns);
                /* A set not much larger than the L3 is partly read from it, faster than memory's
                 * limit allows: such a bound says nothing. */
                reachable_ns = fmax(reached_ns, c->candidates[0].bound_ns);
            }
        }
        if (status != MB_OK)
            return status;
    }
    c->count = left;
    return MB_OK;
}

/* Keep the candidates that have an entry which may still win; their errors come from there. One
 * sample that was fast is enough: on a busy machine a median says as much of it as of the kernel.
 */
static void keep_leaders(struct mb_contest *c, double *errors)
{
    const struct mb_profile_entry *entries[MB_CANDIDATES_MAX];
    double best_ns = INFINITY;
    for (size_t i = 0; i < c->count; i++) {
        const struct mb_cost key = key_of(c, &c->candidates[i]);
        entries[i] = mb_profile_find(c->profile, &key);
        if (entries[i] != NULL && !entries[i]->cost.failed)
            best_ns = fmin(best_ns, entries[i]->cost.median_ns);
    }
    size_t left = 0;
    for (size_t i = 0; i < c->count; i++)
        if (entries[i] != NULL && !entries[i]->cost.failed &&
            entries[i]->cost.min_ns <= best_ns * loser_ratio) {
            errors[left] = entries[i]->cost.error;
            c->candidates[left++] = c->candidates[i];
        }
    c->count = left;
}

static enum mb_status record(const struct mb_contest *c, const struct mb_cost *cost)
{
    const struct mb_profile_entry *before =
        c->revisit || c->keep_better ? mb_profile_find(c->profile, cost) : NULL;
    if (before != NULL && before->cost.median_ns <= cost->median_ns)
        return MB_OK;
    return mb_profile_put(c->profile, cost);
}

static enum mb_status take_turns(struct mb_contest *c, struct mb_workload *workload,
                                 const double *errors)
{
    struct contender contenders[MB_CANDIDATES_MAX];
    struct mb_timed timed[MB_CANDIDATES_MAX];
    struct mb_measurement results[MB_CANDIDATES_MAX];
    for (size_t i = 0; i < c->count; i++) {
        contenders[i] = (struct contender){workload, &c->candidates[i]};
        timed[i] = (struct mb_timed){run_contender, &contenders[i]};
    }
    enter_contender(&contenders[0]);
    const double preparing_ns = prepare_ns(workload);
    const struct mb_measure_options options = {
        .budget_ns = c->budget_ns, .drop_ratio = loser_ratio, .enter = enter_contender};
    enum mb_status status = mb_measure(timed, c->count, &options, results);
    if (status == MB_OK)
        status = workload->status;
    c->first_ns = status == MB_OK ? results[0].median_ns : 0;
    for (size_t i = 0; i < c->count && status == MB_OK; i++) {
        struct mb_cost cost = key_of(c, &c->candidates[i]);
        cost.median_ns = results[i].median_ns;
        cost.mad_ns = results[i].mad_ns;
        cost.min_ns = results[i].min_ns;
        /* What is prepared for a matrix of codebooks no other one reads. */
        cost.prepare_ns = mb_format_is_codebook(c->format) ? 0 : fmin(preparing_ns, cost.median_ns);
        cost.error = errors[i];
        status = c->aside ? MB_OK : record(c, &cost);
    }
    return status;
}

enum mb_status mb_contest_run(struct mb_contest *contest, struct mb_workload *workload)
{
    double errors[MB_CANDIDATES_MAX];
    workload->m = contest->m;
    enum mb_status status = MB_OK;
    if (contest->revisit)
        keep_leaders(contest, errors);
    else
        status = weed(contest, workload, errors);
    if (status == MB_OK && contest->count > 0)
        status = take_turns(contest, workload, errors);
    return status;
}

/* With slack: the time that ruled a candidate out was another sample than the entry's. */
bool mb_contest_is_decided(const struct mb_contest *contest)
{
    double best_ns = INFINITY, least_missing_ns = INFINITY;
    for (size_t i = 0; i < contest->count; i++) {
        const struct mb_cost key = key_of(contest, &contest->candidates[i]);
        const struct mb_profile_entry *entry = mb_profile_find(contest->profile, &key);
        if (entry == NULL || !entry->current)
            least_missing_ns = fmin(least_missing_ns, contest->candidates[i].bound_ns);
        else if (!entry->cost.failed)
            best_ns = fmin(best_ns, entry->cost.median_ns);
    }
    return isinf(least_missing_ns) || least_missing_ns > best_ns / 2;
}

struct mb_cost mb_contest_place(const struct mb_contest *contest)
{
    return (struct mb_cost){.n = contest->shape.n,
                            .k = contest->shape.k,
                            .threads = contest->threads,
                            .residency = contest->residency};
}

/* The leader and, behind it, the variants of one knob become the candidates. False when there is
 * nothing to compare. Several rows in gemv have no say in the step: it is set for one row. */
static bool open_knob(struct mb_contest *c, int ops, enum mb_knob knob)
{
    const struct mb_cost place = mb_contest_place(c);
    const struct mb_question question = {
        .format = c->format, .activation = c->activation, .m = c->m, .ops = ops, .place = &place};
    struct mb_config config;
    if (!mb_profile_best_config(c->profile, &question, &config) ||
        (knob == MB_KNOB_STEP && config.kernel->op == MB_OP_GEMV && c->m > 1) ||
        !mb_space_candidate(config.kernel, c->format, &c->shape, c->m, config.knobs, NULL,
                            c->residency, &c->candidates[0]))
        return false;
    c->count = 1 + mb_space_variants(&c->candidates[0], knob, c->format, &c->shape, c->m,
                                     c->threads, c->candidates + 1);
    return c->count > 1;
}

enum mb_status mb_contest_descend(struct mb_contest *contest, int ops, struct mb_workload *workload)
{
    enum mb_status status = MB_OK;
    contest->revisit = false;
    contest->keep_better = true; /* the leader had its turn already */
    for (unsigned knob = 0; knob < MB_KNOB_COUNT && status == MB_OK; knob++)
        for (int visits = 0; visits < VISITS_MOST && status == MB_OK; visits++) {
            if (!open_knob(contest, ops, (enum mb_knob)knob))
                break;
            const struct mb_cost key = key_of(contest, &contest->candidates[0]);
            const double before_ns = mb_profile_find(contest->profile, &key)->cost.median_ns;
            status = mb_contest_run(contest, workload);
            if (contest->first_ns <= before_ns * same_phase_ratio)
                break;
        }
    return status;
}

/* Asked of all entries, not of the leader's: which kernel leads may have changed since. */
bool mb_contest_descent_is_due(struct mb_contest *contest, int ops)
{
    const struct mb_cost place = mb_contest_place(contest);
    const struct mb_selection usual = mb_select_default(contest->format, contest->activation);
    bool movable = false;
    for (unsigned knob = 0; knob < MB_KNOB_COUNT && !movable; knob++)
        movable = open_knob(contest, ops, (enum mb_knob)knob);
    for (size_t i = 0; i < contest->profile->count && movable; i++) {
        const struct mb_cost *cost = &contest->profile->entries[i].cost;
        const struct mb_kernel *kernel = mb_registry_find(cost->kernel);
        size_t knobs[MB_KNOB_COUNT];
        if (kernel == NULL || cost->format != contest->format ||
            cost->activation != contest->activation || cost->m != contest->m ||
            (ops >> kernel->op & 1) == 0 || !mb_cost_same_place(cost, &place))
            continue;
        mb_space_knobs(&usual, kernel, cost->m, knobs);
        movable = memcmp(knobs, cost->knobs, sizeof knobs) == 0;
    }
    return movable;
}
