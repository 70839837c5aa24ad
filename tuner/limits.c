/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine can do at most: read, multiply, hand work to threads.
 *
 * A limit is the fastest of several loops in their fastest sample, since what the machine managed
 * once it can do; kernels, which are judged by their medians, must stay below. Each sample runs
 * for some 100 us inside the threads, so that handing it out doesn't count.
 *
 * The fastest loop then takes turns with a chain of additions, which tells the clock: rates per
 * cycle don't depend on the phase that the machine is in. */
#include "tuner/limits.h"
#include "dispatch/dispatch.h"
#include "support/support.h"
#include "tuner/measure.h"
#include "tuner/workload.h"

#include <string.h>

enum { VARIANTS_MOST = 16, READ_UNIT = 4096 };

static const double inner_ns = 200e3;               /* of one run in the threads */
static const size_t memory_slice = (size_t)1 << 26; /* what one run reads of a gigabyte */

/* ---- a loop and the clock ---- */

static void clock_part(void *arg, size_t index, size_t count)
{
    const struct mb_clock_case *c = arg;
    (void)index;
    (void)count;
    (void)mb_clock_loop(c->inner);
}

void mb_clock_case_run(void *arg, size_t iterations)
{
    struct mb_clock_case *c = arg;
    for (size_t i = 0; i < iterations; i++)
        mb_threads_run(c->threads, clock_part, c);
}

bool mb_clock_case_init(struct mb_clock_case *clock, struct mb_threads *threads)
{
    *clock = (struct mb_clock_case){threads, (size_t)(inner_ns * 3 / MB_CLOCK_CYCLES)}; /* 3 GHz */
    return mb_clock_loop(1);
}

double mb_clock_case_ghz(const struct mb_clock_case *clock, double min_ns)
{
    return (double)clock->inner * MB_CLOCK_CYCLES / min_ns;
}

/* One way to run into a limit: `work` bytes or products of all `threads` per iteration. */
struct limit_case {
    struct mb_timed timed;
    double work;
};

/* The best of the cases, each in its fastest sample; then that one and the clock in turns. */
static enum mb_status measure_limit(const struct limit_case *cases, size_t count,
                                    struct mb_threads *threads, double budget_ns,
                                    struct mb_rate *rate, size_t *chosen)
{
    struct mb_timed timed[VARIANTS_MOST] = {{0}};
    struct mb_measurement results[VARIANTS_MOST];
    for (size_t i = 0; i < count; i++)
        timed[i] = cases[i].timed;
    struct mb_measure_options options = {
        .budget_ns = budget_ns, .samples_max = 32, .drop_ratio = 1.3};
    enum mb_status status = mb_measure(timed, count, &options, results);
    if (status != MB_OK)
        return status;
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (cases[i].work / results[i].min_ns > cases[best].work / results[best].min_ns)
            best = i;
    *chosen = best;
    *rate = (struct mb_rate){.value = cases[best].work / results[best].min_ns};
    struct mb_clock_case clock;
    if (!mb_clock_case_init(&clock, threads))
        return MB_OK;
    timed[0] = cases[best].timed;
    timed[1] = (struct mb_timed){mb_clock_case_run, &clock};
    options.drop_ratio = 0;
    status = mb_measure(timed, 2, &options, results);
    if (status != MB_OK)
        return status;
    const double beside = cases[best].work / results[0].min_ns;
    rate->clock_ghz = mb_clock_case_ghz(&clock, results[1].min_ns);
    rate->per_cycle = beside / rate->clock_ghz / (double)mb_threads_count(threads);
    if (beside > rate->value)
        rate->value = beside;
    return MB_OK;
}

/* ---- reading ---- */

static void read_part(void *arg, size_t index, size_t count)
{
    const struct mb_read_case *c = arg;
    const struct mb_read_buffer *b = c->buffer;
    if (index >= b->readers)
        return;
    (void)count;
    const size_t each = b->slice / b->readers;
    for (size_t pass = 0; pass < b->passes; pass++)
        c->read(b->data + b->cursor + index * each, each, c->streams, c->ahead);
}

void mb_read_case_run(void *arg, size_t iterations)
{
    const struct mb_read_case *c = arg;
    struct mb_read_buffer *b = c->buffer;
    for (size_t i = 0; i < iterations; i++) {
        mb_threads_run(b->threads, read_part, arg);
        b->cursor = b->cursor + 2 * b->slice <= b->bytes ? b->cursor + b->slice : 0;
    }
}

double mb_read_case_gbps(const struct mb_read_case *c, double ns)
{
    return (double)c->buffer->slice * (double)c->buffer->passes / ns;
}

struct fill_job {
    uint8_t *data;
    size_t bytes;
};

/* First touch by the thread that reads, and no page that is still the shared zero page. */
static void fill_part(void *arg, size_t index, size_t count)
{
    const struct fill_job *job = arg;
    const size_t begin = job->bytes / count * index;
    memset(job->data + begin, 0x5a, index + 1 == count ? job->bytes - begin : job->bytes / count);
}

bool mb_read_buffer_shape(struct mb_read_buffer *buffer, enum mb_residency residency)
{
    const size_t unit = READ_UNIT * buffer->readers;
    const size_t slice = residency == MB_RESIDENCY_MEMORY && buffer->bytes > 2 * memory_slice
                             ? memory_slice
                             : buffer->bytes;
    buffer->slice = slice / unit * unit;
    if (buffer->slice == 0)
        return false;
    /* 40 bytes a nanosecond and thread is about what an L2 gives. */
    const double pass_ns = (double)buffer->slice / (double)buffer->readers / 40;
    buffer->passes = pass_ns < inner_ns ? (size_t)(inner_ns / pass_ns) + 1 : 1;
    return true;
}

enum mb_status mb_read_case_best(struct mb_read_buffer *buffer, double budget_ns,
                                 struct mb_read_case *best, struct mb_rate *rate)
{
    static const size_t streams[] = {1, 2, 4}, aheads[] = {0, 1024};
    struct mb_read_case cases[VARIANTS_MOST];
    struct limit_case limits[VARIANTS_MOST];
    size_t count = 0, chosen = 0;
    for (size_t isa = MB_ISA_COUNT; isa-- > 0;) {
        const mb_read_fn read = mb_read_loop((enum mb_isa)isa);
        if ((mb_isa_allowed_mask() >> isa & 1) == 0 || (read == mb_read_portable && count > 0) ||
            (count > 0 && read == cases[count - 1].read)) /* levels share loops */
            continue;
        for (size_t v = 0; v < 6 && count < VARIANTS_MOST; v++) {
            cases[count] = (struct mb_read_case){buffer, read, streams[v % 3], aheads[v / 3]};
            limits[count] = (struct limit_case){{mb_read_case_run, &cases[count]},
                                                (double)buffer->slice * (double)buffer->passes};
            count++;
        }
    }
    const enum mb_status status =
        measure_limit(limits, count, buffer->threads, budget_ns, rate, &chosen);
    *best = cases[chosen];
    return status;
}

/* Both counts of readers over one buffer: filling a gigabyte costs more than reading it. */
static enum mb_status read_both(struct mb_threads *threads, enum mb_residency residency,
                                double budget_ns, struct mb_rate *all, struct mb_rate *one)
{
    struct mb_device_info device = {.size = sizeof device};
    enum mb_status status = mb_device_info(&device);
    if (status != MB_OK)
        return status;
    const size_t count = mb_threads_count(threads);
    struct mb_read_buffer buffer = {.threads = threads, .readers = count};
    struct mb_read_case best;
    buffer.bytes = mb_working_set_bytes(&device, residency, count);
    uint8_t *data = mb_alloc_aligned(buffer.bytes);
    if (data == NULL)
        return MB_ERR_MEMORY;
    struct fill_job job = {data, buffer.bytes};
    mb_threads_run(threads, fill_part, &job);
    buffer.data = data;
    if (all != NULL) {
        *all = (struct mb_rate){0};
        if (mb_read_buffer_shape(&buffer, residency))
            status = mb_read_case_best(&buffer, budget_ns, &best, all);
    }
    if (status == MB_OK && one != NULL) {
        buffer.threads = NULL;
        buffer.readers = 1;
        buffer.cursor = 0;
        if (residency == MB_RESIDENCY_L2) /* of one core now */
            buffer.bytes /= count;
        *one = (struct mb_rate){0};
        if (mb_read_buffer_shape(&buffer, residency))
            status = mb_read_case_best(&buffer, budget_ns, &best, one);
    }
    mb_free_aligned(data);
    return status;
}

enum mb_status mb_limit_read_gbps(struct mb_threads *threads, enum mb_residency residency, bool all,
                                  double budget_ns, struct mb_rate *rate)
{
    return read_both(threads, residency, budget_ns, all ? rate : NULL, all ? NULL : rate);
}

/* ---- multiplying ---- */

struct peak_case {
    struct mb_threads *threads;
    const struct mb_peak *peak;
    size_t inner;
};

static void peak_part(void *arg, size_t index, size_t count)
{
    const struct peak_case *c = arg;
    (void)index;
    (void)count;
    c->peak->run(c->inner);
}

static void peak_run(void *arg, size_t iterations)
{
    struct peak_case *c = arg;
    for (size_t i = 0; i < iterations; i++)
        mb_threads_run(c->threads, peak_part, c);
}

enum mb_status mb_limit_peak_gmacs(struct mb_threads *threads, enum mb_isa isa,
                                   enum mb_peak_kind kind, double budget_ns, struct mb_rate *rate)
{
    struct peak_case cases[VARIANTS_MOST];
    struct limit_case limits[VARIANTS_MOST];
    size_t count = 0, chosen;
    const struct mb_peak *peak;
    *rate = (struct mb_rate){0};
    for (size_t i = 0; (peak = mb_peak_at(i)) != NULL && count < VARIANTS_MOST; i++)
        if (peak->isa == isa && peak->kind == kind) {
            /* 100 products a nanosecond is a good core; a slow one just takes longer samples. */
            const size_t inner = (size_t)(inner_ns * 100) / peak->macs;
            cases[count] = (struct peak_case){threads, peak, inner};
            limits[count] = (struct limit_case){{peak_run, &cases[count]},
                                                (double)inner * (double)peak->macs *
                                                    (double)mb_threads_count(threads)};
            count++;
        }
    return count > 0 ? measure_limit(limits, count, threads, budget_ns, rate, &chosen) : MB_OK;
}

/* ---- handing out work ---- */

static void empty_task(void *arg, size_t index, size_t count)
{
    (void)arg;
    (void)index;
    (void)count;
}

static void dispatch_run(void *arg, size_t iterations)
{
    for (size_t i = 0; i < iterations; i++)
        mb_threads_run(arg, empty_task, NULL);
}

static enum mb_status measure_dispatch(struct mb_threads *threads, double budget_ns,
                                       double *dispatch_ns)
{
    const struct mb_timed timed = {.run = dispatch_run, .arg = threads};
    const struct mb_measure_options options = {.budget_ns = budget_ns};
    struct mb_measurement result;
    const enum mb_status status = mb_measure(&timed, 1, &options, &result);
    *dispatch_ns = status == MB_OK ? result.median_ns : 0;
    return status;
}

/* ---- all of them ---- */

/* Where a rate belongs. */
static void place_rate(const struct mb_rate *rate, double *value, double *per_cycle,
                       struct mb_limits *limits)
{
    *value = rate->value;
    *per_cycle = rate->per_cycle;
    if (rate->clock_ghz > limits->clock_ghz)
        limits->clock_ghz = rate->clock_ghz;
}

static enum mb_status measure_isa(struct mb_threads *threads, enum mb_isa isa, double budget_ns,
                                  struct mb_limits *limits)
{
    struct mb_limit_cycles *cycles = &limits->per_cycle;
    const struct {
        double *value, *per_cycle;
    } places[MB_PEAK_KINDS] = {
        [MB_PEAK_DOT] = {&limits->dot_gmacs[isa], &cycles->dot[isa]},
        [MB_PEAK_DOT_EXACT] = {&limits->dot_exact_gmacs[isa], &cycles->dot_exact[isa]},
        [MB_PEAK_FMA] = {&limits->fma_gmacs[isa], &cycles->fma[isa]},
    };
    enum mb_status status = MB_OK;
    for (size_t kind = 0; kind < MB_PEAK_KINDS && status == MB_OK; kind++) {
        struct mb_rate rate;
        status = mb_limit_peak_gmacs(threads, isa, (enum mb_peak_kind)kind, budget_ns, &rate);
        if (status == MB_OK)
            place_rate(&rate, places[kind].value, places[kind].per_cycle, limits);
    }
    return status;
}

static enum mb_status measure_residency(struct mb_threads *threads, enum mb_residency residency,
                                        double budget_ns, struct mb_limits *limits)
{
    struct mb_rate all, one;
    const enum mb_status status = read_both(threads, residency, budget_ns, &all, &one);
    if (status != MB_OK)
        return status;
    place_rate(&all, &limits->read_gbps[residency], &limits->per_cycle.read[residency], limits);
    place_rate(&one, &limits->read_gbps_1[residency], &limits->per_cycle.read_1[residency], limits);
    return MB_OK;
}

enum mb_status mb_limits_measure(struct mb_threads *threads, int effort,
                                 const struct mb_progress *progress, struct mb_limits *limits)
{
    const double budget_ns = 25e6 * (effort > 0 ? 1 + effort : 1);
    const double steps = MB_RESIDENCY_COUNT + MB_ISA_COUNT + 1;
    struct mb_limits found = {.threads = mb_threads_count(threads)};
    enum mb_status status = MB_OK;
    double done = 0;
    for (size_t r = 0; r < MB_RESIDENCY_COUNT && status == MB_OK; r++) {
        status = mb_progress_report(progress, done++, steps, "read bandwidth");
        if (status == MB_OK)
            status = measure_residency(threads, (enum mb_residency)r, budget_ns, &found);
    }
    for (size_t isa = 0; isa < MB_ISA_COUNT && status == MB_OK; isa++) {
        status = mb_progress_report(progress, done++, steps, "arithmetic peaks");
        if (status == MB_OK && (mb_isa_allowed_mask() >> isa & 1) != 0)
            status = measure_isa(threads, (enum mb_isa)isa, budget_ns, &found);
    }
    if (status == MB_OK)
        status = measure_dispatch(threads, budget_ns, &found.dispatch_ns);
    if (status == MB_OK)
        status = mb_progress_report(progress, steps, steps, "limits measured");
    if (status == MB_OK)
        *limits = found;
    return status;
}
