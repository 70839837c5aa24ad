/* SPDX-License-Identifier: Apache-2.0 */
/* The tuner's loop: a contest for every format at every shape and m.
 *
 * A point (format, shape, m, residency) is done when all its candidates have entries; so a stopped
 * run goes on where it stopped, and a new kernel costs only its own points. Shapes come in order of
 * their share of the model: when time runs out, what was measured explains most of it.
 *
 * Machines have slow phases of seconds (a virtual one shares its cores with neighbours), in which
 * everything takes half as long again. A table that mixes phases would rank formats by when they
 * had their turn. So the points are visited in sweeps, and each keeps its best visit. */
#include "support/support.h"
#include "tuner/contest.h"
#include "tuner/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMATS_MOST = 64, MS_MOST = 32, SWEEPS_LEAST = 2, SWEEPS_MOST = 3 };
static const size_t default_ms[] = {1, 512};
static const double typical_bits = 4.5;  /* of a plan: what decides where weights live */
static const double candidate_ns = 20e6; /* of one candidate in one visit, if no limit presses */
static const double long_run_ns = 15e9;  /* after this long two sweeps are far enough apart */

/* What one workload serves. */
struct cell {
    enum mb_residency residency;
    enum mb_format format;
    struct mb_shape shape;
    uint32_t fresh; /* bit i: ms[i] was measured in this run */
};

struct tuning {
    struct mb_profile *profile;
    const struct mb_tune_options *options;
    struct mb_device_info device;
    size_t threads;
    struct mb_shape *shapes; /* distinct, the largest share of the model first */
    size_t shape_count;
    double total_weights;
    const size_t *ms;
    size_t m_count, m_most;
    enum mb_format formats[FORMATS_MOST];
    size_t format_count;
    unsigned residencies;
    struct cell *cells;
    size_t cell_count;
    double budget_ns, done, total;
    uint64_t begin_ns, end_ns; /* end 0: no time limit */
    struct mb_arena arena;
    struct mb_error *error;
};

/* ---- what to measure ---- */

struct share {
    struct mb_shape shape;
    double weights; /* of all its occurrences */
};

static int compare_shares(const void *a, const void *b)
{
    const struct share *left = a, *right = b;
    return (left->weights < right->weights) - (left->weights > right->weights);
}

static enum mb_status collect_shapes(struct tuning *t)
{
    const struct mb_tune_options *o = t->options;
    struct share *shares = calloc(o->shape_count, sizeof *shares);
    t->shapes = calloc(o->shape_count, sizeof *t->shapes);
    size_t count = 0;
    if (shares == NULL || t->shapes == NULL) {
        free(shares);
        return MB_ERR_MEMORY;
    }
    for (size_t i = 0; i < o->shape_count; i++) {
        const struct mb_shape shape = o->shapes[i];
        const double weights = (double)shape.n * (double)shape.k;
        size_t at = 0;
        while (at < count && (shares[at].shape.n != shape.n || shares[at].shape.k != shape.k))
            at++;
        shares[at].shape = shape;
        shares[at].weights += weights;
        count = at == count ? count + 1 : count;
        t->total_weights += weights;
    }
    qsort(shares, count, sizeof *shares, compare_shares);
    for (size_t i = 0; i < count; i++)
        t->shapes[i] = shares[i].shape;
    t->shape_count = count;
    free(shares);
    return MB_OK;
}

static enum mb_status collect_formats(struct tuning *t)
{
    const struct mb_tune_options *o = t->options;
    const size_t count = o->formats != NULL ? o->format_count : mb_format_count();
    if (count == 0 || count > FORMATS_MOST)
        return mb_error_set(t->error, MB_ERR_ARGUMENT, -1, "cannot tune %zu formats", count);
    for (size_t i = 0; i < count; i++) {
        t->formats[i] = o->formats != NULL ? o->formats[i] : mb_format_at(i)->id;
        if (mb_format_info(t->formats[i]) == NULL)
            return mb_error_set(t->error, MB_ERR_ARGUMENT, -1, "cannot tune unknown format %d",
                                (int)t->formats[i]);
    }
    t->format_count = count;
    return MB_OK;
}

static enum mb_status check_options(const struct mb_tune_options *o, struct mb_error *error)
{
    if (o == NULL || o->size != sizeof *o || o->shapes == NULL || o->shape_count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "nothing to tune: no shapes were given");
    for (size_t i = 0; i < o->shape_count; i++)
        if (o->shapes[i].n == 0 || o->shapes[i].k == 0)
            return mb_error_set(error, MB_ERR_SHAPE, -1, "cannot tune a shape of n %zu, k %zu",
                                o->shapes[i].n, o->shapes[i].k);
    if (!(o->total_weights >= 0 && o->total_weights < 1e15))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "cannot tune a model of %g weights",
                            o->total_weights);
    for (size_t i = 0; o->ms != NULL && i < o->m_count; i++)
        if (o->ms[i] == 0 || i == MS_MOST)
            return mb_error_set(error, MB_ERR_SHAPE, -1,
                                i == MS_MOST ? "cannot tune more than 32 values of m"
                                             : "cannot tune m 0");
    return MB_OK;
}

static enum mb_status collect_cells(struct tuning *t)
{
    t->cells = calloc(MB_RESIDENCY_COUNT * t->shape_count * t->format_count, sizeof *t->cells);
    if (t->cells == NULL)
        return MB_ERR_MEMORY;
    for (size_t r = 0; r < MB_RESIDENCY_COUNT; r++)
        for (size_t s = 0; s < t->shape_count && (t->residencies >> r & 1) != 0; s++)
            for (size_t f = 0; f < t->format_count; f++)
                /* Otherwise stored in its fall-back format, which is measured as such. */
                if (mb_format_row_bytes(t->formats[f], t->shapes[s].k) != 0)
                    t->cells[t->cell_count++] = (struct cell){.residency = (enum mb_residency)r,
                                                              .format = t->formats[f],
                                                              .shape = t->shapes[s]};
    t->total = (double)(t->cell_count * t->m_count * SWEEPS_MOST);
    return MB_OK;
}

static void collect_ms(struct tuning *t)
{
    const struct mb_tune_options *o = t->options;
    const bool given = o->ms != NULL && o->m_count > 0;
    t->ms = given ? o->ms : default_ms;
    t->m_count = given ? o->m_count : sizeof default_ms / sizeof default_ms[0];
    for (size_t i = 0; i < t->m_count; i++)
        t->m_most = t->ms[i] > t->m_most ? t->ms[i] : t->m_most;
}

static enum mb_status begin(struct tuning *t)
{
    const struct mb_tune_options *o = t->options;
    t->begin_ns = mb_now_ns();
    enum mb_status status = mb_select_environment(t->error);
    if (status == MB_OK)
        status = mb_device_info(&t->device);
    if (status == MB_OK)
        status = collect_formats(t);
    if (status == MB_OK)
        status = collect_shapes(t);
    if (status != MB_OK)
        return status;
    collect_ms(t);
    if (o->total_weights > 0)
        t->total_weights = o->total_weights;
    t->residencies = o->residencies & ((1u << MB_RESIDENCY_COUNT) - 1);
    if (t->residencies == 0)
        t->residencies = 1u << mb_residency_of(
                             &t->device, (size_t)(t->total_weights * typical_bits / 8), t->threads);
    status = collect_cells(t);
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
 * of 2 bits don't make a mix small). */
static size_t working_set(const struct tuning *t, enum mb_format format,
                          enum mb_residency residency)
{
    const size_t usual = mb_working_set_bytes(&t->device, residency, t->threads);
    const double bits = mb_format_info(format)->bits;
    const double model = t->total_weights / 8 * (bits > typical_bits ? bits : typical_bits);
    if (mb_residency_of(&t->device, (size_t)model, t->threads) != residency)
        return usual;
    return residency == MB_RESIDENCY_MEMORY && model > (double)usual ? usual : (size_t)model;
}

/* Whether this visit has something to do; then *contest is ready to run. */
static bool open_contest(struct tuning *t, struct cell *cell, size_t i, bool revisit,
                         struct mb_contest *contest)
{
    if (revisit && (cell->fresh >> i & 1) == 0)
        return false;
    mb_select_set(cell->format, NULL);
    contest->m = t->ms[i];
    contest->count = mb_space_candidates(cell->format, &cell->shape, t->ms[i], &t->profile->limits,
                                         cell->residency, contest->candidates);
    if (!revisit && mb_contest_is_decided(contest))
        return false;
    cell->fresh |= 1u << i;
    return true;
}

/* All m of a cell; the workload is made when the first of them needs it. */
static enum mb_status visit(struct tuning *t, struct cell *cell, bool revisit)
{
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    struct mb_contest contest = {.profile = t->profile,
                                 .format = cell->format,
                                 .shape = cell->shape,
                                 .threads = t->threads,
                                 .residency = cell->residency,
                                 .candidates = candidates,
                                 .budget_ns = t->budget_ns,
                                 .revisit = revisit};
    struct mb_workload workload;
    bool ready = false;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < t->m_count && status == MB_OK && !out_of_time(t); i++) {
        char note[96];
        snprintf(note, sizeof note, "%s %zux%zu m %zu", mb_format_info(cell->format)->name,
                 cell->shape.n, cell->shape.k, t->ms[i]);
        status = mb_progress_report(t->options->progress, t->done++, t->total, note);
        if (status != MB_OK || !open_contest(t, cell, i, revisit, &contest))
            continue;
        if (!ready) {
            status = mb_workload_create(&workload, cell->format, cell->shape.n, cell->shape.k,
                                        t->m_most, working_set(t, cell->format, cell->residency),
                                        t->options->threads, &t->arena, t->error);
            ready = status == MB_OK;
        }
        if (status == MB_OK)
            status = mb_contest_run(&contest, &workload);
    }
    if (ready)
        mb_workload_free(&workload);
    mb_select_set(cell->format, NULL);
    return status;
}

/* ---- all cells ---- */

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
        for (size_t i = 0; i < t->cell_count && status == MB_OK && !out_of_time(t); i++)
            status = visit(t, &t->cells[i], round > 0);
    }
    return status == MB_OK ? mb_progress_report(t->options->progress, t->total, t->total, "tuned")
                           : status;
}

enum mb_status mb_tune(struct mb_profile *profile, const struct mb_tune_options *options,
                       struct mb_error *error)
{
    enum mb_status status = check_options(options, error);
    if (status != MB_OK)
        return status;
    struct tuning t = {.profile = profile,
                       .options = options,
                       .device = {.size = sizeof(struct mb_device_info)},
                       .threads = mb_threads_count(options->threads),
                       .error = error};
    char why[512];
    const enum mb_profile_match match = mb_profile_match(profile, why, sizeof why);
    if (match == MB_PROFILE_OTHER_MACHINE)
        return mb_error_set(error, MB_ERR_STALE, -1,
                            "this profile can't be added to here: %s; start a new one", why);
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
    if (status == MB_OK)
        status = sweep(&t);
    mb_arena_free(&t.arena);
    free(t.cells);
    free(t.shapes);
    if (status == MB_ERR_INTERRUPTED)
        return mb_error_set(error, status, -1,
                            "tuning was stopped; what was measured is kept, run it again to go on");
    return status;
}
