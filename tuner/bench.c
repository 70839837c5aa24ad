/* SPDX-License-Identifier: Apache-2.0 */
/* One row of `mixbit bench`: a product, timed, checked, and set beside the limit it meets first.
 *
 * The limit may have been measured in another phase of the machine. Peaks are known per cycle, and
 * the clock is timed in turns with the product: the row is judged by the peak at its own clock.
 * Reading has no such tie to the clock, and memory that others use too changes its speed by half
 * within a second: where reading is the bound, a loop that only reads the same copies of the
 * weights runs before and behind every sample of the product, and the row is judged by the median
 * of those ratios. A row that still seems to exceed its limit has both measured again, one right
 * after the other, before it counts as a fault of the probe. */
#include "tuner/tuner.h"
#include "tuner/limits.h"
#include "tuner/measure.h"
#include "tuner/space.h"
#include "tuner/workload.h"

#include <stdio.h>
#include <string.h>

enum { SECOND_LOOKS = 3 };
static const double fraction_most = 1.02;
static const double scout_ns = 20e6; /* of each way to read */

const char *mb_limit_name(enum mb_limit limit)
{
    static const char *const names[] = {"read", "dot", "fma"};
    return (unsigned)limit < sizeof names / sizeof names[0] ? names[limit] : NULL;
}

static void run_product(void *arg, size_t iterations) { mb_workload_run(arg, iterations); }

/* Reading what the product reads. From memory half the set away from where the product goes on, or
 * one would find the other's lines in the cache. */
struct reading {
    const struct mb_workload *workload;
    struct mb_read_buffer buffer;
    struct mb_read_case best;
};

static void run_reading(void *arg, size_t iterations)
{
    struct reading *r = arg;
    struct mb_read_buffer *b = &r->buffer;
    const size_t slices = b->bytes / b->slice;
    const size_t at = r->workload->cursor * r->workload->copy_bytes / b->slice;
    b->cursor = (at + slices / 2) % slices * b->slice;
    mb_read_case_run(&r->best, iterations);
}

static bool open_reading(const struct mb_workload *w, enum mb_residency residency,
                         struct reading *reading)
{
    struct mb_rate rate;
    *reading = (struct reading){.workload = w,
                                .buffer = {.threads = w->threads,
                                           .data = w->weights.data,
                                           .bytes = w->copies * w->copy_bytes,
                                           .readers = mb_threads_count(w->threads)}};
    return mb_read_buffer_shape(&reading->buffer, residency) &&
           mb_read_case_best(&reading->buffer, scout_ns, &reading->best, &rate) == MB_OK;
}

/* What a row runs into first, by limits. */
static double bound_of(const struct mb_bench_row *row, const struct mb_limits *limits, bool *reads)
{
    const struct mb_kernel *kernel = mb_registry_find(row->kernel);
    const struct mb_shape shape = {row->n, row->k};
    return mb_space_bound_ns(kernel, row->format, &shape, row->m, limits, row->residency, reads);
}

/* With what is timed beside it, as far as that can be. `limits` say whether reading is the bound;
 * NULL: nobody asks. */
static enum mb_status time_product(struct mb_workload *workload, const struct mb_limits *limits,
                                   double effort_s, struct mb_bench_row *row,
                                   struct mb_beside *beside)
{
    struct mb_clock_case clock;
    struct reading reading;
    bool reads = false;
    const bool with_clock = mb_clock_case_init(&clock, workload->threads);
    if (limits != NULL)
        (void)bound_of(row, limits, &reads);
    const bool with_reading = reads && open_reading(workload, row->residency, &reading);
    struct mb_timed timed[2] = {{.run = run_product, .arg = workload}};
    const struct mb_measure_options options = {.budget_ns = 1e9 * (effort_s > 0 ? effort_s : 0.1)};
    struct mb_measurement results[2];
    timed[1] = (struct mb_timed){.run = mb_clock_case_run, .arg = &clock};
    enum mb_status status = mb_measure(timed, 1 + with_clock, &options, results);
    if (status == MB_OK)
        status = workload->status;
    if (status != MB_OK)
        return status;
    row->median_ns = results[0].median_ns;
    *beside = (struct mb_beside){.clock_ghz =
                                     with_clock ? mb_clock_case_ghz(&clock, results[1].min_ns) : 0};
    if (with_reading) {
        const struct mb_timed beside_it = {.run = run_reading, .arg = &reading};
        double ratio;
        status = mb_measure_ratio(&timed[0], &beside_it, &options, &ratio);
        if (status == MB_OK)
            status = workload->status;
        if (status != MB_OK)
            return status;
        beside->read_gbps = mb_read_case_gbps(&reading.best, ratio * row->median_ns);
    }
    row->mad_ns = results[0].mad_ns;
    row->min_ns = results[0].min_ns;
    row->gmacs = (double)row->m * (double)row->n * (double)row->k / row->median_ns;
    row->weight_gbps =
        (double)row->n * (double)mb_format_row_bytes(row->format, row->k) / row->median_ns;
    return MB_OK;
}

static void compare_with_limit(const struct mb_limits *limits, struct mb_bench_row *row)
{
    bool reads;
    const double bound_ns = bound_of(row, limits, &reads);
    const bool floats = mb_coding_is_float(mb_format_info(row->format)->coding);
    row->limit = reads ? MB_LIMIT_READ : floats ? MB_LIMIT_FMA : MB_LIMIT_DOT;
    row->fraction = bound_ns / row->median_ns;
}

/* Peaks at another clock than they were measured at, those that are known per cycle. */
static void move_to_clock(struct mb_limits *limits, double clock_ghz)
{
    const struct mb_limit_cycles *cycles = &limits->per_cycle;
    const double scale = clock_ghz * (double)limits->threads;
    for (size_t i = 0; i < MB_MAX_ISA && clock_ghz > 0; i++) {
        if (cycles->dot[i] > 0)
            limits->dot_gmacs[i] = cycles->dot[i] * scale;
        if (cycles->dot_exact[i] > 0)
            limits->dot_exact_gmacs[i] = cycles->dot_exact[i] * scale;
        if (cycles->fma[i] > 0)
            limits->fma_gmacs[i] = cycles->fma[i] * scale;
    }
}

static void raise(double *value, const struct mb_rate *to)
{
    if (to->value > *value)
        *value = to->value;
}

/* Measure the limit of this row once more and keep the better figure. */
static enum mb_status look_again(const struct mb_bench_row *row, struct mb_threads *threads,
                                 struct mb_limits *limits)
{
    const enum mb_isa isa = mb_registry_find(row->kernel)->isa;
    const double budget_ns = 50e6;
    struct mb_rate found = {0};
    enum mb_status status = MB_OK;
    if (row->limit == MB_LIMIT_READ) {
        status = mb_limit_read_gbps(threads, row->residency, true, budget_ns, &found);
        raise(&limits->read_gbps[row->residency], &found);
    } else if (row->limit == MB_LIMIT_FMA) {
        status = mb_limit_peak_gmacs(threads, isa, MB_PEAK_FMA, budget_ns, &found);
        raise(&limits->fma_gmacs[isa], &found);
    } else {
        status = mb_limit_peak_gmacs(threads, isa, MB_PEAK_DOT, budget_ns, &found);
        raise(&limits->dot_gmacs[isa], &found);
        if (status == MB_OK)
            status = mb_limit_peak_gmacs(threads, isa, MB_PEAK_DOT_EXACT, budget_ns, &found);
        raise(&limits->dot_exact_gmacs[isa], &found);
    }
    return status;
}

enum mb_status mb_workload_judge(struct mb_workload *workload, const struct mb_limits *limits,
                                 double effort_s, const struct mb_beside *beside,
                                 struct mb_bench_row *row, struct mb_error *error)
{
    struct mb_limits own = *limits;
    struct mb_beside again = *beside;
    move_to_clock(&own, beside->clock_ghz);
    if (beside->read_gbps > 0)
        own.read_gbps[row->residency] = beside->read_gbps;
    compare_with_limit(&own, row);
    /* Faster than the loop beside it, and no faster than this machine can: all it does is read. */
    if (row->limit == MB_LIMIT_READ && row->fraction > fraction_most &&
        row->weight_gbps <= limits->read_gbps[row->residency])
        row->fraction = 1;
    for (int look = 0; look < SECOND_LOOKS && row->fraction > fraction_most; look++) {
        enum mb_status status = look_again(row, workload->threads, &own);
        if (status == MB_OK)
            status = time_product(workload, NULL, effort_s, row, &again);
        if (status != MB_OK)
            return status;
        compare_with_limit(&own, row);
    }
    if (row->fraction <= fraction_most)
        return MB_OK;
    return mb_error_set(error, MB_ERR_VERIFY, -1,
                        "%s runs at %.2f of the %s limit at m %zu, n %zu, k %zu, %s: the probe of "
                        "that limit is wrong, or the machine is busy; try again on an idle one",
                        row->kernel, row->fraction, mb_limit_name(row->limit), row->m, row->n,
                        row->k, mb_residency_name(row->residency));
}

/* A matrix that is larger than the cache can't be measured in it. */
static enum mb_status check_room(const struct mb_bench_case *bench,
                                 const struct mb_device_info *device, size_t threads,
                                 struct mb_error *error)
{
    const double bytes = (double)bench->n * (double)mb_format_row_bytes(bench->format, bench->k);
    const double room = bench->residency == MB_RESIDENCY_L2
                            ? (double)device->l2_bytes * (double)threads
                            : (double)device->l3_bytes;
    if (bench->residency == MB_RESIDENCY_MEMORY || room == 0 || bytes <= room)
        return MB_OK;
    return mb_error_set(error, MB_ERR_SHAPE, -1,
                        "%s at n %zu, k %zu takes %.1f MB, the %s holds %.1f MB; choose a larger "
                        "residency or a smaller shape",
                        mb_format_info(bench->format)->name, bench->n, bench->k, bytes / 1e6,
                        mb_residency_name(bench->residency), room / 1e6);
}

enum mb_status mb_bench_run(const struct mb_bench_case *bench, struct mb_threads *threads,
                            const struct mb_limits *limits, double effort_s,
                            struct mb_bench_row *row, struct mb_error *error)
{
    const struct mb_format_info *info = mb_format_info(bench->format);
    const size_t count = mb_threads_count(threads);
    if (info == NULL || mb_residency_name(bench->residency) == NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "no such format or residency");
    *row = (struct mb_bench_row){.format = bench->format,
                                 .m = bench->m,
                                 .n = bench->n,
                                 .k = bench->k,
                                 .threads = count,
                                 .residency = bench->residency,
                                 .activation = mb_matmul_activation(bench->format)};
    struct mb_device_info device = {.size = sizeof device};
    struct mb_arena own = {NULL, 0};
    struct mb_beside beside = {0};
    struct mb_workload workload;
    enum mb_status status = mb_device_info(&device);
    if (status == MB_OK)
        status = mb_select_environment(error);
    if (status == MB_OK)
        status = check_room(bench, &device, count, error);
    if (status == MB_OK)
        status = mb_workload_create(&workload, bench->format, bench->n, bench->k, bench->m,
                                    mb_working_set_bytes(&device, bench->residency, count), threads,
                                    bench->arena != NULL ? bench->arena : &own, error);
    if (status != MB_OK)
        return status;
    snprintf(row->kernel, sizeof row->kernel, "%s",
             mb_kernel_for(bench->format, bench->n, bench->k, bench->m));
    status = mb_workload_check(&workload, &row->error, &row->failed);
    if (status == MB_OK)
        status = time_product(&workload, limits, effort_s, row, &beside);
    if (status == MB_OK && row->failed)
        status = mb_error_set(
            error, MB_ERR_VERIFY, -1,
            "%s gives wrong results for %s at m %zu, n %zu, k %zu: relative error "
            "%.2g, allowed %.2g",
            row->kernel, info->name, row->m, row->n, row->k, row->error, info->error_bound);
    if (status == MB_OK && limits != NULL)
        status = mb_workload_judge(&workload, limits, effort_s, &beside, row, error);
    mb_workload_free(&workload);
    mb_arena_free(&own);
    return status;
}
