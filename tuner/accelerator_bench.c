/* SPDX-License-Identifier: Apache-2.0 */
/* `bench --device`: a product by the device's own clock, beside how fast it reads memory at all.
 *
 * Two times, each a median: of products that are waited for one by one, from a kernel's start to
 * its end, which is what a kernel is judged by; and of products queued one behind the other, the
 * time of the whole run shared out, which has in it what a queue needs between two. Each product
 * takes another copy of the weights. */
#include "support/support.h"
#include "tuner/accelerator.h"
#include "tuner/measure.h"
#include "tuner/trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALONE_LEAST = 9,
    ALONE_MOST = 101,
    QUEUED_RUNS = 5,
    QUEUED_LEAST = 4,
    QUEUED_MOST = 256,
    READ_RUNS = 5,
    READ_PASSES = 4
};
static const double alone_ns = 5e6;        /* of products waited for one by one, about */
static const double run_ns = 3e6;          /* a run of queued products, about */
static const double call_budget_ns = 20e6; /* of the host's view */

/* ---- by the device's clock ---- */

static enum mb_status run_queued(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                                 size_t count, double *each_ns)
{
    double busy_ns = 0;
    for (size_t i = 0; i < count; i++)
        mb_trial_multiply(t, kernel);
    enum mb_status status = t->status;
    if (status == MB_OK)
        status = t->accelerator->backend->finish(t->accelerator->device, &busy_ns, t->error);
    *each_ns = busy_ns / (double)count;
    return status;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Runs in a budget, odd, so that there is a middle one. */
static size_t runs_in(double budget_ns, double each_ns, size_t least, size_t most)
{
    const double fit = each_ns > 0 ? budget_ns / each_ns : (double)least;
    const size_t runs = fit < (double)most ? (size_t)fit : most;
    return runs > least ? runs | 1 : least;
}

static enum mb_status time_alone(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                                 struct mb_bench_row *row)
{
    double each_ns[ALONE_MOST + 1], deviation[ALONE_MOST + 1];
    mb_trial_write(t);
    enum mb_status status = run_queued(t, kernel, 1, &each_ns[0]);
    const size_t runs = runs_in(alone_ns, each_ns[0], ALONE_LEAST, ALONE_MOST);
    for (size_t i = 0; i < runs && status == MB_OK; i++)
        status = run_queued(t, kernel, 1, &each_ns[i]);
    if (status != MB_OK)
        return status;
    qsort(each_ns, runs, sizeof each_ns[0], ascending);
    row->median_ns = each_ns[runs / 2];
    row->min_ns = each_ns[0];
    for (size_t i = 0; i < runs; i++)
        deviation[i] = fabs(each_ns[i] - row->median_ns);
    qsort(deviation, runs, sizeof deviation[0], ascending);
    row->mad_ns = deviation[runs / 2];
    return MB_OK;
}

static enum mb_status time_queued(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                                  double alone, double *queued_ns)
{
    double each_ns[QUEUED_RUNS];
    const size_t count = runs_in(run_ns, alone, QUEUED_LEAST, QUEUED_MOST);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < QUEUED_RUNS && status == MB_OK; i++)
        status = run_queued(t, kernel, count, &each_ns[i]);
    qsort(each_ns, QUEUED_RUNS, sizeof each_ns[0], ascending);
    *queued_ns = each_ns[QUEUED_RUNS / 2];
    return status;
}

/* ---- by the host's ---- */

struct call {
    struct mb_trial *trial;
    const struct mb_backend_kernel *kernel;
};

static void run_call(void *arg, size_t iterations)
{
    const struct call *call = arg;
    for (size_t i = 0; i < iterations; i++)
        mb_trial_call(call->trial, call->kernel);
}

static enum mb_status time_calls(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                                 double *call_ns)
{
    struct call call = {t, kernel};
    const struct mb_timed timed = {run_call, &call};
    struct mb_clock clock = mb_clock_monotonic;
    struct mb_measurement result = {0};
    clock.disturbances = NULL; /* to wait for a device is to be off the processor */
    const struct mb_measure_options options = {.clock = &clock, .budget_ns = call_budget_ns};
    const enum mb_status status = mb_measure(&timed, 1, &options, &result);
    *call_ns = result.median_ns;
    return status != MB_OK ? status : t->status;
}

/* ---- a row ---- */

static void fill(struct mb_bench_row *row, double read_gbps)
{
    const double bytes = (double)row->n * (double)mb_format_row_bytes(row->format, row->k);
    if (row->median_ns <= 0)
        return; /* a device without a clock */
    row->gmacs = (double)row->m * (double)row->n * (double)row->k / row->median_ns;
    row->weight_gbps = bytes / row->median_ns;
    row->limit = MB_LIMIT_READ;
    row->fraction = read_gbps > 0 ? row->weight_gbps / read_gbps : 0;
}

/* What a launch that only reads as much takes. */
static enum mb_status read_alike(const struct mb_accelerator *accelerator,
                                 struct mb_accelerator_row *row, struct mb_error *error)
{
    const size_t bytes = row->bench.n * mb_format_row_bytes(row->bench.format, row->bench.k);
    double gbps = 0;
    const enum mb_status status = mb_accelerator_read_gbps(accelerator, bytes, &gbps, error);
    row->read_ns = gbps > 0 ? (double)bytes / gbps : 0;
    return status;
}

/* Time one kernel and keep it if it is the fastest that is right, or the first. */
static enum mb_status contend(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                              const struct mb_backend_kernel *first, struct mb_accelerator_row *row,
                              struct mb_backend_kernel *best)
{
    struct mb_bench_row now = row->bench;
    enum mb_status status = mb_trial_check(t, kernel, first, &now.error, &now.failed);
    if (status == MB_OK)
        status = time_alone(t, kernel, &now);
    if (status != MB_OK)
        return status;
    mb_log(MB_LOG_DEBUG, "%s, split %zu: %.2f us", kernel->name, kernel->knobs[MB_KNOB_SPLIT],
           now.median_ns / 1e3);
    if (now.failed)
        mb_log(MB_LOG_WARNING, "%s, split %zu, gives wrong results (relative error %.2g)",
               kernel->name, kernel->knobs[MB_KNOB_SPLIT], now.error);
    const bool better =
        row->bench.failed ? !now.failed : !now.failed && now.median_ns < row->bench.median_ns;
    if (row->kernels++ == 0 || better) {
        row->bench = now;
        row->split = kernel->knobs[MB_KNOB_SPLIT];
        (void)snprintf(row->bench.kernel, sizeof row->bench.kernel, "%s", kernel->name);
        *best = *kernel;
    }
    return MB_OK;
}

enum mb_status mb_accelerator_bench(const struct mb_accelerator *accelerator,
                                    const struct mb_bench_case *bench, bool search,
                                    double read_gbps, struct mb_accelerator_row *row,
                                    struct mb_error *error)
{
    const struct mb_backend *backend = accelerator->backend;
    const struct mb_format_info *info = mb_format_info(bench->format);
    struct mb_backend_kernel kernel, first, best = {.name = ""};
    struct mb_arena own = {NULL, 0};
    struct mb_trial trial;
    if (info == NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "no such format");
    *row = (struct mb_accelerator_row){.bench = {.format = bench->format,
                                                 .m = bench->m,
                                                 .n = bench->n,
                                                 .k = bench->k,
                                                 .threads = MB_ACCELERATOR_THREADS,
                                                 .residency = MB_ACCELERATOR_RESIDENCY,
                                                 .activation = info->activation}};
    enum mb_status status =
        mb_trial_open(&trial, accelerator, bench->format, (struct mb_shape){bench->n, bench->k},
                      bench->m, SIZE_MAX, bench->arena != NULL ? bench->arena : &own, error);
    if (status != MB_OK) {
        mb_arena_free(&own);
        return status;
    }
    for (size_t i = 0; status == MB_OK && (i == 0 || search) &&
                       backend->kernel_at(accelerator->device, bench->format, bench->n, bench->k,
                                          bench->m, i, &kernel);
         i++) {
        first = i == 0 ? kernel : first;
        status = contend(&trial, &kernel, &first, row, &best);
    }
    if (status == MB_OK && row->kernels == 0)
        status = mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                              "%s has no kernel for %s at m %zu, "
                              "n %zu, k %zu",
                              accelerator->info.name, info->name, bench->m, bench->n, bench->k);
    if (status == MB_OK)
        status = time_queued(&trial, &best, row->bench.median_ns, &row->queued_ns);
    if (status == MB_OK)
        status = time_calls(&trial, &best, &row->call_ns);
    if (status == MB_OK)
        fill(&row->bench, read_gbps);
    if (status == MB_OK && read_gbps > 0)
        status = read_alike(accelerator, row, error);
    if (status == MB_OK && row->bench.failed)
        status = mb_error_set(error, MB_ERR_VERIFY, -1,
                              "%s gives wrong results for %s at m %zu, n %zu, k %zu: relative "
                              "error %.2g, allowed %.2g",
                              row->bench.kernel, info->name, bench->m, bench->n, bench->k,
                              row->bench.error, info->error_bound);
    mb_trial_close(&trial);
    mb_arena_free(&own);
    return status;
}

enum mb_status mb_accelerator_read_gbps(const struct mb_accelerator *accelerator, size_t piece,
                                        double *gbps, struct mb_error *error)
{
    const struct mb_backend *backend = accelerator->backend;
    const size_t room = mb_trial_room(accelerator, SIZE_MAX);
    enum mb_status status = MB_OK;
    *gbps = 0;
    for (int i = 0; i < READ_RUNS && status == MB_OK && backend->read_memory != NULL; i++) {
        size_t set = room;
        const size_t passes =
            piece > 0 ? runs_in((double)set, (double)piece, READ_PASSES, QUEUED_MOST) : READ_PASSES;
        double busy_ns = 0;
        status = backend->read_memory(accelerator->device, &set, piece, passes, &busy_ns, error);
        const double bytes = (double)(piece > 0 && piece < set ? piece : set) * (double)passes;
        if (status == MB_OK && busy_ns > 0 && bytes / busy_ns > *gbps)
            *gbps = bytes / busy_ns;
    }
    return status;
}
