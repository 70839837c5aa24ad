/* SPDX-License-Identifier: Apache-2.0 */
/* The tuner's loop: a contest for every format at every shape and m.
 *
 * A point (format, shape, m, residency) is done when all its candidates have entries; so a stopped
 * run goes on where it stopped, and a new kernel costs only its own points. Shapes come in order of
 * their share of the model: when time runs out, what was measured explains most of it.
 *
 * Machines have slow phases of seconds (a virtual one shares its cores with neighbours), in which
 * everything takes half as long again. A table that mixes phases would rank formats by when they
 * had their turn. So the points are visited in sweeps, and each keeps its best visit; a run that
 * adds to what another one measured in its hour visits some of that too (drift.h).
 *
 * Knobs are searched at one shape a format (where the model lives in that format, the shape with
 * the largest share that is not huge), and there a few more m place the crossover from gemv to
 * gemm; everywhere else what was found is confirmed beside the default. */
#include "support/support.h"
#include "tuner/contest.h"
#include "tuner/drift.h"
#include "tuner/profile.h"
#include "tuner/task.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEPS_LEAST = 2, SWEEPS_MOST = 3 };
/* The first lies within one gemv call: what prefetching is set for. */
static const size_t crossover_ms[] = {8, 16, 32, 64, 128};
enum { CROSSOVER_MS = sizeof crossover_ms / sizeof crossover_ms[0] };
static const double search_weights = 1 << 24; /* of a shape that is quick enough to search on */
static const double search_share = 0.4;       /* of a candidate's time, if it is only compared */
static const double typical_bits = 4.5;       /* of a plan: what decides where weights live */
static const double candidate_ns = 20e6; /* of one candidate in one visit, if no limit presses */
static const double long_run_ns = 15e9;  /* after this long two sweeps are far enough apart */

/* What one workload serves. */
struct cell {
    enum mb_residency residency;
    enum mb_format format;
    enum mb_activation activation;
    struct mb_shape shape;
    bool search;    /* this format's knobs, here */
    uint64_t fresh; /* bit i: point i was measured in this run */
};

struct tuning {
    struct mb_profile *profile;
    const struct mb_tune_options *options;
    struct mb_device_info device;
    struct mb_threads *pool;
    size_t threads;
    const struct mb_limits *limits; /* that bound this many threads; NULL: none do */
    struct mb_tune_task task;
    unsigned residencies;
    struct cell *cells;
    size_t cell_count;
    double budget_ns, done, total;
    uint64_t begin_ns, end_ns; /* end 0: no time limit */
    struct mb_arena arena;
    struct mb_drift drift;
    struct mb_error *error;
};

/* ---- what to measure ---- */

/* One for every activation type that may be chosen: side by side, so that they meet the same phase
 * of the machine. */
static void add_cells(struct tuning *t, enum mb_residency residency, enum mb_format format,
                      struct mb_shape shape)
{
    for (size_t a = 0; a < MB_ACTIVATION_COUNT; a++) {
        const enum mb_activation activation = (enum mb_activation)a;
        if (activation == mb_format_info(format)->activation ||
            (t->profile->max_error != 1 && mb_matmul_supports(format, activation)))
            t->cells[t->cell_count++] = (struct cell){
                .residency = residency, .format = format, .activation = activation, .shape = shape};
    }
}

static enum mb_status collect_cells(struct tuning *t)
{
    t->cells = calloc(MB_RESIDENCY_COUNT * t->task.shape_count * t->task.format_count *
                          MB_ACTIVATION_COUNT,
                      sizeof *t->cells);
    if (t->cells == NULL)
        return MB_ERR_MEMORY;
    for (size_t r = 0; r < MB_RESIDENCY_COUNT; r++)
        for (size_t s = 0; s < t->task.shape_count && (t->residencies >> r & 1) != 0; s++)
            for (size_t f = 0; f < t->task.format_count; f++)
                /* Otherwise stored in its fall-back format, which is measured as such. */
                if (mb_format_row_bytes(t->task.formats[f], t->task.shapes[s].k) != 0)
                    add_cells(t, (enum mb_residency)r, t->task.formats[f], t->task.shapes[s]);
    return MB_OK;
}

/* Points of a cell: all m that were asked for and, where knobs are searched and the choice of m is
 * ours, those that place the crossover. */
static size_t point_count(const struct tuning *t, const struct cell *cell)
{
    return t->task.m_count + (cell->search && t->task.ms_are_ours ? CROSSOVER_MS : 0);
}

static size_t point_m(const struct tuning *t, size_t i)
{
    return i < t->task.m_count ? t->task.ms[i] : crossover_ms[i - t->task.m_count];
}

static double weights_of(const struct cell *cell)
{
    return (double)cell->shape.n * (double)cell->shape.k;
}

/* Where a format's knobs are searched: at the residency that the model has in this format (or the
 * nearest that is measured), the first shape that is quick, else the smallest. NULL: no shape fits.
 */
static struct cell *search_cell(const struct tuning *t, enum mb_format format,
                                enum mb_activation activation)
{
    const double bits = mb_format_info(format)->bits;
    const int home =
        (int)mb_residency_of(&t->device, (size_t)(t->task.total_weights * bits / 8), t->threads);
    struct cell *best = NULL;
    for (size_t i = 0; i < t->cell_count; i++) {
        struct cell *cell = &t->cells[i];
        if (cell->format != format || cell->activation != activation)
            continue;
        const int distance = abs((int)cell->residency - home);
        const int best_distance = best != NULL ? abs((int)best->residency - home) : INT_MAX;
        if (distance < best_distance ||
            (distance == best_distance && weights_of(best) > search_weights &&
             weights_of(cell) < weights_of(best)))
            best = cell;
    }
    return best;
}

/* Search cells come first: the others confirm what was found there. */
static void order_cells(struct tuning *t)
{
    size_t first = 0;
    for (size_t f = 0; f < t->task.format_count; f++)
        for (size_t a = 0; a < MB_ACTIVATION_COUNT; a++) {
            struct cell *cell = search_cell(t, t->task.formats[f], (enum mb_activation)a);
            if (cell != NULL)
                cell->search = !mb_format_is_codebook(cell->format);
        }
    for (size_t i = 0; i < t->cell_count; i++)
        if (t->cells[i].search) {
            const struct cell moved = t->cells[i];
            memmove(&t->cells[first + 1], &t->cells[first], (i - first) * sizeof moved);
            t->cells[first++] = moved;
        }
    t->total = 0;
    for (size_t i = 0; i < t->cell_count; i++)
        t->total += (double)(point_count(t, &t->cells[i]) * SWEEPS_MOST);
}

static enum mb_status begin(struct tuning *t)
{
    const struct mb_tune_options *o = t->options;
    t->begin_ns = mb_now_ns();
    enum mb_status status = mb_select_environment(t->error);
    if (status == MB_OK)
        status = mb_device_info(&t->device);
    if (status == MB_OK)
        status = mb_tune_task_init(&t->task, o, t->error);
    if (status != MB_OK)
        return status;
    t->residencies = o->residencies & ((1u << MB_RESIDENCY_COUNT) - 1);
    if (t->residencies == 0)
        t->residencies =
            1u << mb_residency_of(&t->device, (size_t)(t->task.total_weights * typical_bits / 8),
                                  t->threads);
    status = collect_cells(t);
    if (status == MB_OK)
        order_cells(t);
    t->budget_ns = candidate_ns;
    if (o->time_limit_s > 0 && t->total > 0) {
        t->end_ns = t->begin_ns + (uint64_t)(o->time_limit_s * 1e9);
        /* Two candidates a point, and half of the time is set-up and checks. */
        const double fair_ns = o->time_limit_s * 1e9 / t->total / 4;
        t->budget_ns = fair_ns < candidate_ns ? fair_ns : candidate_ns;
    }
    return status;
}

/* ---- one cell ---- */

static bool out_of_time(const struct tuning *t)
{
    return t->end_ns != 0 && mb_now_ns() >= t->end_ns;
}

/* What the copies of one matrix add up to: where the model itself lives at this residency, as much
 * as the model, at the format's own size or that of a typical mix, whichever is more (a few tensors
 * of 2 bits don't make a mix small). Of a set not much larger than the L3 a part stays in it, the
 * smaller the more else a token walks through. */
static size_t working_set(const struct tuning *t, enum mb_format format,
                          enum mb_residency residency)
{
    const size_t usual = mb_working_set_bytes(&t->device, residency, t->threads);
    const double bits = mb_format_info(format)->bits;
    const double model = t->task.total_weights / 8 * (bits > typical_bits ? bits : typical_bits);
    if (mb_residency_of(&t->device, (size_t)model, t->threads) != residency)
        return usual;
    if (residency != MB_RESIDENCY_MEMORY)
        return (size_t)model;
    const double all = model + t->options->other_bytes;
    return all > (double)usual ? usual : (size_t)all;
}

/* Where the knobs of this cell's format were searched; false: nowhere. */
static bool search_place(const struct tuning *t, const struct cell *cell, struct mb_cost *place)
{
    const struct cell *from = t->cells;
    while (from < t->cells + t->cell_count &&
           (!from->search || from->format != cell->format || from->activation != cell->activation))
        from++;
    if (from == t->cells + t->cell_count)
        return false;
    *place = (struct mb_cost){.n = from->shape.n,
                              .k = from->shape.k,
                              .threads = mb_threads_count(t->options->threads),
                              .residency = from->residency};
    return true;
}

/* Products of many rows take long: above the crossover points a shape times, of each operation, the
 * kernel alone that was found best where the format's knobs were searched. A shape that has been
 * timed stays with its kernel: what is best there may change with every sweep. */
static void keep_found(const struct tuning *t, const struct cell *cell, struct mb_contest *contest)
{
    const struct mb_cost own = mb_contest_place(contest);
    struct mb_cost search;
    size_t left = 0;
    if (cell->search || contest->m <= crossover_ms[CROSSOVER_MS - 1] ||
        !search_place(t, cell, &search))
        return;
    for (size_t c = 0; c < contest->count; c++) {
        const struct mb_kernel *kernel = contest->candidates[c].kernel;
        struct mb_question question = {.format = cell->format,
                                       .activation = cell->activation,
                                       .m = contest->m,
                                       .ops = 1 << kernel->op,
                                       .place = &own};
        struct mb_config config;
        bool known = mb_profile_best_config(t->profile, &question, &config);
        question.place = &search;
        known = known || mb_profile_best_config(t->profile, &question, &config);
        if (!known || config.kernel == kernel)
            contest->candidates[left++] = contest->candidates[c];
    }
    contest->count = left;
}

/* What was found at the format's search cell, to be confirmed: its best gemv and gemm at this m.
 * Crossover points take the gemv of 8 rows and the gemm of the most, whose knobs they share. */
static void add_found(const struct tuning *t, const struct cell *cell, size_t i,
                      struct mb_contest *contest)
{
    struct mb_cost place;
    if (!search_place(t, cell, &place))
        return;
    static const enum mb_op ops[] = {MB_OP_GEMV, MB_OP_GEMM};
    for (size_t o = 0; o < 2; o++) {
        struct mb_question question = {.format = cell->format,
                                       .activation = cell->activation,
                                       .m = contest->m,
                                       .ops = 1 << ops[o],
                                       .place = &place};
        if (i >= t->task.m_count)
            question.m = ops[o] == MB_OP_GEMM ? t->task.m_most : crossover_ms[0];
        struct mb_config config;
        struct mb_tune_candidate *found = &contest->candidates[contest->count];
        if (contest->count == MB_CANDIDATES_MAX ||
            !mb_profile_best_config(t->profile, &question, &config) ||
            !mb_space_candidate(config.kernel, cell->format, &cell->shape, contest->m, config.knobs,
                                t->limits, cell->residency, found))
            continue;
        bool known = false;
        for (size_t c = 0; c < contest->count && !known; c++)
            known = contest->candidates[c].kernel == found->kernel &&
                    memcmp(contest->candidates[c].knobs, found->knobs, sizeof found->knobs) == 0;
        contest->count += !known;
    }
}

/* Whether this visit has something to do; then *contest is ready to run. */
static bool open_contest(struct tuning *t, struct cell *cell, size_t i, bool revisit,
                         struct mb_contest *contest)
{
    if (revisit && (cell->fresh >> i & 1) == 0)
        return false;
    contest->m = point_m(t, i);
    contest->count = mb_space_candidates(cell->format, cell->activation, &cell->shape, contest->m,
                                         t->limits, cell->residency, contest->candidates);
    keep_found(t, cell, contest);
    contest->revisit = contest->keep_better = revisit;
    contest->budget_ns = t->budget_ns * (i < t->task.m_count ? 1 : search_share);
    /* A point is decided by its kernels: what was found may have moved since. */
    if (!revisit && mb_contest_is_decided(contest))
        return false;
    add_found(t, cell, i, contest);
    cell->fresh |= (uint64_t)1 << i;
    return true;
}

/* After the time is up a point still gets one figure, of what was found for the format or else of
 * the most promising candidate: without one no plan could be made for these shapes. */
static bool open_late_contest(struct tuning *t, struct cell *cell, size_t i, bool revisit,
                              struct mb_contest *contest)
{
    const struct mb_cost place = mb_contest_place(contest);
    const struct mb_question question = {.format = cell->format,
                                         .activation = cell->activation,
                                         .m = point_m(t, i),
                                         .ops = MB_ALL_OPS,
                                         .place = &place};
    struct mb_config config;
    if (revisit || i >= t->task.m_count || mb_profile_best_config(t->profile, &question, &config))
        return false;
    contest->m = question.m;
    contest->revisit = contest->keep_better = false;
    contest->budget_ns = t->budget_ns * search_share;
    contest->count = 0;
    add_found(t, cell, i, contest);
    if (contest->count == 0)
        contest->count =
            mb_space_candidates(cell->format, cell->activation, &cell->shape, contest->m, t->limits,
                                cell->residency, contest->candidates) > 0;
    return contest->count > 0;
}

/* The operations whose knobs are searched at a point; 0: none. Of the crossover points the first
 * alone, for what prefetching does to one call of gemv; more rows than that say nothing new of it.
 */
static int searched_ops(const struct tuning *t, const struct cell *cell, size_t i, bool revisit)
{
    if (!cell->search || revisit || i > t->task.m_count)
        return 0;
    if (i == t->task.m_count)
        return 1 << MB_OP_GEMV;
    return point_m(t, i) > crossover_ms[0] ? 1 << MB_OP_GEMM : MB_ALL_OPS;
}

/* Points whose costs will be asked for are visited again; the others only compare. */
static bool is_due(const struct tuning *t, const struct cell *cell, size_t i, bool revisit)
{
    return i < point_count(t, cell) && (!revisit || i < t->task.m_count);
}

/* All m of a cell; the workload is made when the first of them needs it. */
static enum mb_status visit(struct tuning *t, struct cell *cell, bool revisit)
{
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    struct mb_contest contest = {.profile = t->profile,
                                 .format = cell->format,
                                 .activation = cell->activation,
                                 .shape = cell->shape,
                                 .threads = t->threads,
                                 .residency = cell->residency,
                                 .candidates = candidates};
    struct mb_workload workload;
    bool ready = false;
    enum mb_status status = MB_OK;
    for (size_t i = 0; is_due(t, cell, i, revisit) && status == MB_OK; i++) {
        const bool late = out_of_time(t);
        char note[96];
        const bool usual = cell->activation == mb_format_info(cell->format)->activation;
        snprintf(note, sizeof note, "%s%s%s %zux%zu m %zu", mb_format_info(cell->format)->name,
                 usual ? "" : " ", usual ? "" : mb_activation_name(cell->activation), cell->shape.n,
                 cell->shape.k, point_m(t, i));
        status =
            mb_progress_report(t->options->progress, fmin(t->done++, t->total), t->total, note);
        if (status != MB_OK)
            break;
        const bool open = late ? open_late_contest(t, cell, i, revisit, &contest)
                               : open_contest(t, cell, i, revisit, &contest);
        const int ops = late ? 0 : searched_ops(t, cell, i, revisit);
        if (!open && (ops == 0 || !mb_contest_descent_is_due(&contest, ops)))
            continue;
        if (!ready) {
            status = mb_workload_create(
                &workload, cell->format, cell->shape.n, cell->shape.k, t->task.m_most,
                working_set(t, cell->format, cell->residency), t->pool, &t->arena, t->error);
            ready = status == MB_OK;
        }
        if (status == MB_OK && open)
            status = mb_contest_run(&contest, &workload);
        contest.budget_ns = t->budget_ns * search_share;
        if (status == MB_OK && ops != 0 && mb_contest_descent_is_due(&contest, ops))
            status = mb_contest_descend(&contest, ops, &workload);
    }
    if (revisit)
        t->done += (double)(point_count(t, cell) - t->task.m_count);
    if (ready)
        mb_workload_free(&workload);
    mb_select_set(cell->format, NULL);
    return status;
}

/* ---- all cells ---- */

static enum mb_status visit_point(struct tuning *t, struct mb_drift_point *point)
{
    const struct mb_cost *kept = &point->kept;
    struct mb_tune_candidate candidate;
    struct mb_contest contest = {.profile = t->profile,
                                 .format = kept->format,
                                 .activation = kept->activation,
                                 .shape = {.n = kept->n, .k = kept->k},
                                 .m = kept->m,
                                 .threads = t->threads,
                                 .residency = kept->residency,
                                 .candidates = &candidate,
                                 .count = 1,
                                 .budget_ns = t->budget_ns,
                                 .revisit = true,
                                 .aside = true};
    struct mb_workload workload;
    if (!mb_space_candidate(mb_registry_find(kept->kernel), kept->format, &contest.shape, kept->m,
                            kept->knobs, t->limits, kept->residency, &candidate))
        return MB_OK;
    enum mb_status status = mb_progress_report(t->options->progress, fmin(t->done, t->total),
                                               t->total, "what was measured before");
    if (status == MB_OK)
        status = mb_workload_create(&workload, kept->format, kept->n, kept->k, kept->m,
                                    working_set(t, kept->format, kept->residency), t->pool,
                                    &t->arena, t->error);
    if (status != MB_OK)
        return status;
    status = mb_contest_run(&contest, &workload);
    if (contest.first_ns > 0 && (point->best_ns == 0 || contest.first_ns < point->best_ns))
        point->best_ns = contest.first_ns;
    mb_workload_free(&workload);
    mb_select_set(kept->format, NULL);
    return status;
}

/* Once it is known that there is something new to compare with. */
static enum mb_status visit_points(struct tuning *t)
{
    bool fresh = false;
    for (size_t i = 0; i < t->profile->count && !fresh; i++)
        fresh = t->profile->entries[i].fresh;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < t->drift.count && fresh && status == MB_OK; i++)
        status = visit_point(t, &t->drift.points[i]);
    return status;
}

/* One allocation for the largest working set: growing it would fault the same pages in again. */
static void reserve_arena(struct tuning *t)
{
    size_t most = 0;
    for (size_t i = 0; i < t->cell_count; i++) {
        const size_t set = working_set(t, t->cells[i].format, t->cells[i].residency);
        most = set > most ? set : most;
    }
    (void)mb_arena_reserve(&t->arena, most); /* too much: each workload asks for what it needs */
}

static enum mb_status sweep(struct tuning *t)
{
    enum mb_status status = MB_OK;
    reserve_arena(t);
    for (size_t round = 0; round < SWEEPS_MOST && status == MB_OK; round++) {
        if (round >= SWEEPS_LEAST && (double)(mb_now_ns() - t->begin_ns) > long_run_ns)
            break;
        for (size_t i = 0; i < t->cell_count && status == MB_OK; i++)
            if (round == 0 || !out_of_time(t))
                status = visit(t, &t->cells[i], round > 0);
        if (status == MB_OK && (round == 0 || !out_of_time(t)))
            status = visit_points(t);
    }
    mb_drift_settle(&t->drift, t->profile, t->threads);
    return status;
}

/* ---- the number of threads ---- */

/* Counts worth a look besides the pool's own: one, half the best kind of cores, all of that kind,
 * and with each further kind; rising, distinct. */
static size_t collect_thread_counts(const struct mb_device_info *device, size_t own,
                                    size_t counts[MB_MAX_CORE_KINDS + 2])
{
    size_t count = 0, sum = 0;
    const size_t best = device->kinds[0].cores;
    size_t wanted[MB_MAX_CORE_KINDS + 2] = {1, best / 2};
    for (size_t i = 0; i < device->core_kinds; i++)
        wanted[2 + i] = sum += device->kinds[i].cores;
    for (size_t i = 0; i < 2 + device->core_kinds; i++)
        if (wanted[i] > (count > 0 ? counts[count - 1] : 0) && wanted[i] != own)
            counts[count++] = wanted[i];
    return count;
}

/* The first search cell once more with another pool. Entries are keyed by threads. */
static enum mb_status try_threads(struct tuning *t)
{
    size_t counts[MB_MAX_CORE_KINDS + 2];
    const size_t count = collect_thread_counts(&t->device, t->threads, counts);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK && t->cell_count > 0; i++) {
        struct tuning other = *t;
        struct cell cell = {.residency = t->cells[0].residency,
                            .format = t->cells[0].format,
                            .activation = t->cells[0].activation,
                            .shape = t->cells[0].shape};
        other.threads = counts[i];
        if (counts[i] > t->threads) /* more threads may be faster than these limits say */
            other.limits = NULL;
        status = mb_threads_create(counts[i], &other.pool);
        if (status != MB_OK)
            return mb_error_set(t->error, status, -1, "cannot start %zu threads: %s", counts[i],
                                mb_status_string(status));
        for (size_t round = 0; round < SWEEPS_LEAST && status == MB_OK; round++)
            status = visit(&other, &cell, round > 0);
        t->arena = other.arena;
        mb_threads_destroy(other.pool);
    }
    return status;
}

enum mb_status mb_tune(struct mb_profile *profile, const struct mb_tune_options *options,
                       struct mb_error *error)
{
    enum mb_status status = mb_tune_check(options, error);
    if (status != MB_OK)
        return status;
    struct tuning t = {.profile = profile,
                       .options = options,
                       .device = {.size = sizeof(struct mb_device_info)},
                       .pool = options->threads,
                       .threads = mb_threads_count(options->threads),
                       .limits = &profile->limits,
                       .error = error};
    char why[512];
    const enum mb_profile_match match = mb_profile_match(profile, why, sizeof why);
    if (match == MB_PROFILE_OTHER_MACHINE)
        return mb_error_set(error, MB_ERR_STALE, -1,
                            "this profile can't be added to here: %s; start a new one", why);
    if (options->max_error > 0)
        profile->max_error = options->max_error;
    mb_profile_settle(profile);
    status = begin(&t);
    if (status == MB_OK && match == MB_PROFILE_STALE) {
        /* Half of a table from one build and half from another compares nothing. */
        mb_log(MB_LOG_INFO, "starting over: the profile was %s", why);
        profile->device = t.device;
        profile->limits = (struct mb_limits){0};
        profile->count = 0;
    }
    if (status == MB_OK && profile->limits.threads != t.threads)
        status = mb_limits_measure(options->threads, 0, NULL, &profile->limits);
    if (status == MB_OK) {
        mb_drift_begin(&t.drift, profile, &t.task, t.residencies, t.threads);
        status = sweep(&t);
    }
    if (status == MB_OK && options->thread_counts)
        status = try_threads(&t);
    mb_profile_settle(profile);
    if (status == MB_OK)
        status = mb_progress_report(options->progress, t.total, t.total, "tuned");
    mb_arena_free(&t.arena);
    free(t.cells);
    mb_tune_task_free(&t.task);
    if (status == MB_ERR_INTERRUPTED)
        return mb_error_set(error, status, -1,
                            "tuning was stopped; what was measured is kept, run it again to go on");
    return status;
}
