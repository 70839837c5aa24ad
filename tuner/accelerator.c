/* SPDX-License-Identifier: Apache-2.0 */
/* See accelerator.h. A device has its own memory and its own queue, so nothing of the CPU's search
 * (levels, residencies, threads) carries over but the workload, the clock and the verdict: weights
 * are made and judged by tuner/workload.c, and candidates take turns in tuner/measure.c. */
#include "tuner/accelerator.h"
#include "support/support.h"
#include "tuner/measure.h"
#include "tuner/profile.h"
#include "tuner/task.h"
#include "tuner/trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KERNELS_MOST = 32 };
static const double candidate_ns = 20e6; /* of one candidate at one point */
static const double prepare_ns = 2e6;    /* of preparing and bringing over alone */
static const double loser_ratio = 1.25;  /* slower than this times the leader: no more turns */
static const double typical_bits = 4.5;  /* of a plan, when the model's size is asked for */

struct job {
    struct mb_profile *profile;
    struct mb_accelerator *accelerator;
    const struct mb_tune_options *options;
    struct mb_tune_task task;
    struct mb_arena arena;
    uint64_t end_ns; /* 0: no time limit */
    double done, total;
    struct mb_error *error;
};

struct contender {
    struct mb_trial *trial;
    struct mb_backend_kernel kernel;
    double error;
};

static bool out_of_time(const struct job *job)
{
    return job->end_ns != 0 && mb_now_ns() >= job->end_ns;
}

/* ---- on the device ---- */

static void write_input(void *arg, size_t iterations)
{
    for (size_t i = 0; i < iterations; i++)
        mb_trial_write(arg);
}

static void run_contender(void *arg, size_t iterations)
{
    const struct contender *c = arg;
    for (size_t i = 0; i < iterations; i++)
        mb_trial_call(c->trial, &c->kernel);
}

/* Copies that add up to the model. */
static size_t working_set(const struct job *job, enum mb_format format)
{
    const double bits = mb_format_info(format)->bits;
    return (size_t)(job->task.total_weights / 8 * (bits > typical_bits ? bits : typical_bits));
}

/* ---- one point ---- */

struct point {
    enum mb_format format;
    struct mb_shape shape;
    size_t m;
};

static struct mb_cost key_of(const struct point *point, const struct mb_backend_kernel *kernel)
{
    const struct mb_shape shape = point->shape;
    struct mb_cost cost = {.revision = kernel->revision,
                           .format = point->format,
                           .n = shape.n,
                           .k = shape.k,
                           .m = point->m,
                           .threads = MB_ACCELERATOR_THREADS,
                           .activation = mb_format_info(point->format)->activation,
                           .residency = MB_ACCELERATOR_RESIDENCY,
                           .bytes = shape.n * mb_format_row_bytes(point->format, shape.k)};
    memcpy(cost.knobs, kernel->knobs, sizeof cost.knobs);
    snprintf(cost.kernel, sizeof cost.kernel, "%s", kernel->name);
    return cost;
}

static enum mb_status check(struct contender *c, const struct mb_backend_kernel *spoiler,
                            const struct point *point, struct mb_profile *profile, bool *right)
{
    int failed = 0;
    const enum mb_status status = mb_trial_check(c->trial, &c->kernel, spoiler, &c->error, &failed);
    *right = status == MB_OK && !failed;
    if (!failed)
        return status;
    struct mb_cost cost = key_of(point, &c->kernel);
    cost.error = c->error;
    cost.failed = 1;
    mb_log(MB_LOG_WARNING, "%s gives wrong results for %s (relative error %.2g); it is not used",
           cost.kernel, mb_format_info(cost.format)->name, c->error);
    return mb_profile_put(profile, &cost);
}

static enum mb_status take_turns(struct contender *contenders, size_t count,
                                 const struct point *point, struct mb_profile *profile)
{
    struct mb_trial *trial = contenders[0].trial;
    struct mb_timed timed[KERNELS_MOST];
    struct mb_measurement results[KERNELS_MOST], input;
    struct mb_clock clock = mb_clock_monotonic;
    clock.disturbances = NULL; /* to wait for a device is to be off the processor */
    for (size_t i = 0; i < count; i++)
        timed[i] = (struct mb_timed){run_contender, &contenders[i]};
    const struct mb_timed preparing = {write_input, trial};
    struct mb_measure_options options = {.clock = &clock, .budget_ns = prepare_ns};
    enum mb_status status = mb_measure(&preparing, 1, &options, &input);
    options.budget_ns = candidate_ns;
    options.drop_ratio = loser_ratio;
    if (status == MB_OK)
        status = mb_measure(timed, count, &options, results);
    if (status == MB_OK)
        status = trial->status;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        struct mb_cost cost = key_of(point, &contenders[i].kernel);
        cost.median_ns = results[i].median_ns;
        cost.mad_ns = results[i].mad_ns;
        cost.min_ns = results[i].min_ns;
        cost.prepare_ns = fmin(input.median_ns, cost.median_ns);
        cost.error = contenders[i].error;
        status = mb_profile_put(profile, &cost);
    }
    return status;
}

/* Whether the fastest kernel at another shape, all else alike, was this one. */
static bool was_best(const struct mb_profile *profile, const struct mb_cost *here,
                     struct mb_shape elsewhere)
{
    const struct mb_cost *best = NULL;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        if (cost->format == here->format && cost->m == here->m && cost->n == elsewhere.n &&
            cost->k == elsewhere.k && profile->entries[i].current && !cost->failed &&
            (best == NULL || cost->median_ns < best->median_ns))
            best = cost;
    }
    return best != NULL && strcmp(best->kernel, here->kernel) == 0 &&
           memcmp(best->knobs, here->knobs, sizeof best->knobs) == 0;
}

/* The kernels to try at a point that have no figure yet. At another shape than the first (`from`)
 * those are the default and what won there, late the default alone. */
static size_t missing(const struct job *job, const struct point *point, const struct mb_shape *from,
                      struct mb_backend_kernel kernels[KERNELS_MOST])
{
    const struct mb_accelerator *a = job->accelerator;
    const struct mb_shape shape = point->shape;
    const bool late = out_of_time(job);
    size_t count = 0;
    for (size_t i = 0; count < KERNELS_MOST && (i == 0 || !late) &&
                       a->backend->kernel_at(a->device, point->format, shape.n, shape.k, point->m,
                                             i, &kernels[count]);
         i++) {
        const struct mb_cost key = key_of(point, &kernels[count]);
        const struct mb_profile_entry *entry = mb_profile_find(job->profile, &key);
        if ((entry == NULL || !entry->current) &&
            (i == 0 || from == NULL || was_best(job->profile, &key, *from)))
            count++;
    }
    return count;
}

static enum mb_status measure_point(struct job *job, const struct point *point,
                                    const struct mb_backend_kernel *kernels, size_t count,
                                    struct mb_trial *trial)
{
    struct contender contenders[KERNELS_MOST];
    size_t left = 0;
    enum mb_status status = MB_OK;
    trial->workload.m = point->m;
    for (size_t i = 0; i < count && status == MB_OK && (left == 0 || !out_of_time(job)); i++) {
        bool right = false;
        contenders[left] = (struct contender){.trial = trial, .kernel = kernels[i]};
        status = check(&contenders[left], &contenders[0].kernel, point, job->profile, &right);
        left += right;
    }
    return status == MB_OK && left > 0 ? take_turns(contenders, left, point, job->profile) : status;
}

/* ---- all points ---- */

/* The first shape, in order of share, that a format can have: where its kernels are compared. */
static const struct mb_shape *search_shape(const struct mb_tune_task *task, enum mb_format format)
{
    for (size_t s = 0; s < task->shape_count; s++)
        if (mb_format_row_bytes(format, task->shapes[s].k) != 0)
            return &task->shapes[s];
    return NULL;
}

static enum mb_status visit(struct job *job, enum mb_format format, const struct mb_shape *shape,
                            const struct mb_shape *from)
{
    struct mb_backend_kernel kernels[KERNELS_MOST];
    struct mb_trial trial;
    bool ready = false;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < job->task.m_count && status == MB_OK; i++) {
        char note[96];
        snprintf(note, sizeof note, "%s %zux%zu m %zu", mb_format_info(format)->name, shape->n,
                 shape->k, job->task.ms[i]);
        status = mb_progress_report(job->options->progress, job->done++, job->total, note);
        const struct point point = {format, *shape, job->task.ms[i]};
        const size_t count =
            status == MB_OK ? missing(job, &point, from == shape ? NULL : from, kernels) : 0;
        if (count > 0 && !ready) {
            status = mb_trial_open(&trial, job->accelerator, format, *shape, job->task.m_most,
                                   working_set(job, format), &job->arena, job->error);
            ready = status == MB_OK;
        }
        if (count > 0 && ready)
            status = measure_point(job, &point, kernels, count, &trial);
    }
    if (ready)
        mb_trial_close(&trial);
    return status;
}

static enum mb_status sweep(struct job *job)
{
    const struct mb_tune_task *task = &job->task;
    enum mb_status status = MB_OK;
    job->total = (double)(task->format_count * task->shape_count * task->m_count);
    for (int first = 1; first >= 0; first--)
        for (size_t f = 0; f < task->format_count; f++) {
            const struct mb_shape *from = search_shape(task, task->formats[f]);
            for (size_t s = 0; s < task->shape_count && status == MB_OK; s++)
                if (mb_format_row_bytes(task->formats[f], task->shapes[s].k) != 0 &&
                    (&task->shapes[s] == from) == (first != 0))
                    status = visit(job, task->formats[f], &task->shapes[s], from);
        }
    return status;
}

enum mb_status mb_tune_accelerator(struct mb_profile *profile, struct mb_accelerator *accelerator,
                                   const struct mb_tune_options *options, struct mb_error *error)
{
    struct job job = {
        .profile = profile, .accelerator = accelerator, .options = options, .error = error};
    enum mb_status status = mb_tune_check(options, error);
    if (status != MB_OK)
        return status;
    if (strcmp(profile->device.key, accelerator->info.key) != 0)
        return mb_error_set(error, MB_ERR_STALE, -1,
                            "this profile is of '%s' and can't be added to on '%s'; start a new "
                            "one",
                            profile->device.name, accelerator->info.name);
    if (strcmp(profile->device.os, accelerator->info.os) != 0 ||
        strcmp(profile->device.build, accelerator->info.build) != 0) {
        mb_log(MB_LOG_INFO, "starting over: the profile was of another driver or build");
        profile->device = accelerator->info;
        profile->count = 0;
    }
    status = mb_tune_task_init(&job.task, options, error);
    if (options->time_limit_s > 0)
        job.end_ns = mb_now_ns() + (uint64_t)(options->time_limit_s * 1e9);
    if (status == MB_OK)
        status = sweep(&job);
    if (status == MB_OK)
        status = mb_progress_report(options->progress, job.total, job.total, "tuned");
    mb_arena_free(&job.arena);
    mb_tune_task_free(&job.task);
    if (status == MB_ERR_INTERRUPTED)
        return mb_error_set(error, status, -1,
                            "tuning was stopped; what was measured is kept, run it again to go on");
    return status;
}
