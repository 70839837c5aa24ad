/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens per time: one token at the end of a context, and 512 tokens at once.
 *
 * Networks take turns (tuner/measure.c), so that whatever the machine does meanwhile happens to all
 * of them. A sample is several tokens of one network in a row: its weights are then where they are
 * when it runs alone. Logits of every position are made, in prefill too; that is what evaluation
 * runs and what predictions count. What keys and values hold is random: attention takes the same
 * time for any. */
#include "model/network.h"

#include "model/statistics.h"
#include "support/support.h"
#include "tuner/measure.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PREFILL = 512, SAMPLE_NS = 20000000, BUDGET_NS = 500000000, LEAST_SAMPLES = 3 };

/* What all cases of one call share. */
struct watch {
    const struct mb_progress *progress;
    double done, total;
    const char *note;
    float *logits; /* one buffer for all: nobody reads them */
    bool stopped;
    enum mb_status status;
};

struct timing {
    struct watch *watch;
    struct mb_run *run;
    struct mb_cache cache;
    int32_t *ids;
    /* share of the time that went into products, one per sample */
    float *shares;
    size_t share_count, share_room;
};

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void timing_free(struct timing *timing)
{
    mb_run_destroy(timing->run);
    mb_cache_free(&timing->cache);
    free(timing->ids);
    free(timing->shares);
    *timing = (struct timing){0};
}

/* A run of `sequences` x `tokens` behind `past` tokens of cache (0: no cache). */
static enum mb_status timing_init(struct timing *timing, struct watch *watch,
                                  struct mb_network *network, size_t sequences, size_t tokens,
                                  size_t past, struct mb_error *error)
{
    const size_t rows = sequences * tokens;
    uint32_t state = 1;
    *timing = (struct timing){.watch = watch};
    enum mb_status status = mb_run_create(network, rows, past + tokens, &timing->run, error);
    if (status != MB_OK)
        return status;
    timing->ids = malloc(rows * sizeof *timing->ids);
    if (!timing->ids || (past && mb_cache_create(network, past + tokens, &timing->cache) != MB_OK))
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t i = 0; i < rows; i++)
        timing->ids[i] = (int32_t)(next_random(&state) % network->vocabulary);
    const size_t floats = timing->cache.bytes / sizeof(float);
    const size_t keys =
        network->layers * network->kv_heads * network->head_dim * timing->cache.capacity;
    for (size_t i = 0; i < floats; i++)
        *(i < keys ? timing->cache.keys + i : timing->cache.values + (i - keys)) =
            (float)next_random(&state) / (float)(1 << 23) - 1.0f;
    timing->run->ids = timing->ids;
    timing->run->sequences = sequences;
    timing->run->tokens = tokens;
    timing->run->past = past;
    timing->run->cache = past ? &timing->cache : NULL;
    timing->run->timed = true;
    return MB_OK;
}

static void keep_share(struct timing *timing, float share)
{
    if (timing->share_count == timing->share_room) {
        const size_t room = timing->share_room ? 2 * timing->share_room : 64;
        float *grown = realloc(timing->shares, room * sizeof *grown);
        if (grown == NULL)
            return; /* the median does without it */
        timing->shares = grown;
        timing->share_room = room;
    }
    timing->shares[timing->share_count++] = share;
}

/* One sample. After a stop or a failure the rest of the measurement has to pass quickly, but not in
 * no time: the clock's owner would go on doubling. */
static void run_sample(void *arg, size_t iterations)
{
    struct timing *timing = arg;
    struct watch *watch = timing->watch;
    struct mb_run *run = timing->run;
    if (!watch->stopped &&
        mb_progress_report(watch->progress, watch->done, watch->total, watch->note) != MB_OK)
        watch->stopped = true;
    if (watch->stopped || watch->status != MB_OK) {
        const struct timespec pause = {.tv_nsec = SAMPLE_NS};
        nanosleep(&pause, NULL);
        return;
    }
    run->matmul_ns = 0;
    const uint64_t start = mb_clock_monotonic.now_ns(mb_clock_monotonic.user);
    for (size_t i = 0; i < iterations && watch->status == MB_OK; i++) {
        watch->status = mb_run_steps(run, 0, run->network->step_count);
        if (watch->status == MB_OK)
            watch->status = mb_run_head(run, 0, run->rows, watch->logits);
    }
    const uint64_t total = mb_clock_monotonic.now_ns(mb_clock_monotonic.user) - start;
    keep_share(timing, total ? (float)run->matmul_ns / (float)total : 0.0f);
}

static double median_share(struct timing *timing)
{
    mb_sort_floats(timing->shares, timing->share_count);
    return mb_percentile(timing->shares, timing->share_count, 0.5);
}

/* Time all networks in turns; results are of one run (a token, or a prefill). */
static enum mb_status measure(struct timing *timings, size_t count, size_t repeats,
                              struct watch *watch, struct mb_measurement *results,
                              struct mb_error *error)
{
    struct mb_timed *cases = calloc(count, sizeof *cases);
    if (cases == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t i = 0; i < count; i++)
        cases[i] = (struct mb_timed){run_sample, &timings[i]};
    const size_t least = repeats > LEAST_SAMPLES ? repeats : LEAST_SAMPLES;
    const struct mb_measure_options options = {.sample_ns = SAMPLE_NS,
                                               .budget_ns = BUDGET_NS,
                                               .samples_min = least,
                                               .samples_max = 4 * least};
    enum mb_status status = mb_measure(cases, count, &options, results);
    free(cases);
    if (watch->stopped)
        return mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted while measuring speed");
    if (watch->status != MB_OK)
        status = watch->status;
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "cannot measure speed: %s",
                            mb_status_string(status));
    return MB_OK;
}

static enum mb_status measure_decode(struct mb_network *const *networks, size_t count,
                                     size_t context, size_t repeats, struct watch *watch,
                                     struct timing *timings, struct mb_measurement *results,
                                     struct mb_speed *speeds, struct mb_error *error)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++)
        status = timing_init(&timings[i], watch, networks[i], 1, 1, context - 1, error);
    if (status == MB_OK)
        status = measure(timings, count, repeats, watch, results, error);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        speeds[i].decode_ns = results[i].median_ns;
        speeds[i].decode_mad_ns = results[i].mad_ns;
        speeds[i].decode_matmul_ns = results[i].median_ns * median_share(&timings[i]);
        speeds[i].kv_bytes = timings[i].cache.bytes;
    }
    for (size_t i = 0; i < count; i++)
        timing_free(&timings[i]);
    return status;
}

static enum mb_status measure_prefill(struct mb_network *const *networks, size_t count,
                                      size_t repeats, struct watch *watch, struct timing *timings,
                                      struct mb_measurement *results, struct mb_speed *speeds,
                                      struct mb_error *error)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const size_t room = networks[i]->context < PREFILL ? networks[i]->context : PREFILL;
        const size_t sequences = (PREFILL + room - 1) / room;
        status =
            timing_init(&timings[i], watch, networks[i], sequences, PREFILL / sequences, 0, error);
    }
    if (status == MB_OK)
        status = measure(timings, count, repeats, watch, results, error);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const double tokens = (double)(timings[i].run->sequences * timings[i].run->tokens);
        speeds[i].prefill_ns = results[i].median_ns / tokens;
        speeds[i].prefill_mad_ns = results[i].mad_ns / tokens;
        speeds[i].prefill_matmul_ns = speeds[i].prefill_ns * median_share(&timings[i]);
    }
    for (size_t i = 0; i < count; i++)
        timing_free(&timings[i]);
    return status;
}

enum mb_status mb_network_speed(struct mb_network *const *networks, size_t count, size_t context,
                                size_t repeats, const struct mb_progress *progress,
                                struct mb_speed *speeds, struct mb_error *error)
{
    if (count == 0 || context < 2 || context > (size_t)1 << 24)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "speed is measured at a context of 2 to %d tokens, not %zu", 1 << 24,
                            context);
    struct watch watch = {.progress = progress, .total = 2, .note = "decode"};
    size_t vocabulary = 0;
    for (size_t i = 0; i < count; i++)
        vocabulary = networks[i]->vocabulary > vocabulary ? networks[i]->vocabulary : vocabulary;
    watch.logits = mb_alloc_aligned(PREFILL * vocabulary * sizeof *watch.logits);
    struct timing *timings = calloc(count, sizeof *timings);
    struct mb_measurement *results = calloc(count, sizeof *results);
    enum mb_status status = MB_OK;
    if (timings == NULL || results == NULL || watch.logits == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t i = 0; i < count; i++)
        speeds[i] = (struct mb_speed){.size = speeds[i].size,
                                      .context = context,
                                      .weight_bytes = mb_network_bytes(networks[i])};
    if (status == MB_OK)
        status = measure_decode(networks, count, context, repeats, &watch, timings, results, speeds,
                                error);
    watch.done = 1;
    watch.note = "prefill";
    if (status == MB_OK)
        status = measure_prefill(networks, count, repeats, &watch, timings, results, speeds, error);
    mb_free_aligned(watch.logits);
    free(timings);
    free(results);
    return status;
}
