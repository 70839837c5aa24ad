/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens per time: one token at the end of a context, and 512 tokens at once.
 *
 * Networks take turns (tuner/measure.c), so that whatever the machine does meanwhile happens to all
 * of them; a round is one sample of each. A virtual machine changes its speed for seconds at a
 * time, so there are several sweeps, decode and prefill in turns, and the best one counts, as it
 * does for the products that predictions are made of (tuner/search.c). A sample is several tokens
 * of one network in a row, with an untimed one before them: its weights are then where they are
 * when it runs alone. Samples are short, so that the rounds of a pair lie close together. Logits of
 * every position are made, in prefill too; that is what evaluation runs and what predictions count.
 * What the cache holds is random: attention and scans take the same time for any. */
#include "model/network.h"

#include "model/statistics.h"
#include "support/support.h"
#include "tuner/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PREFILL = 512,
    SWEEPS = 3,
    DECODE_SAMPLE_NS = 5000000,
    PREFILL_SAMPLE_NS = 20000000,
    SWEEP_NS = 400000000, /* a sweep takes at least this long, however few networks there are */
    /* Of one network's sweep, beyond the least rounds: long samples are steady by themselves. */
    DECODE_MOST_NS = 2000000000,
    PREFILL_MOST_NS = 150000000,
    MOST_REPEATS = 1 << 20,
    DECODE_ROUNDS = 4, /* to one of prefill: as much time for either */
    LEAST_ROUNDS = 3,
    PLACES = 16,
    STAGE_BYTES = 128 << 20, /* of all places */
};

/* Room for a network's packed weights, and keys and values. */
struct place {
    void *weights;
    struct mb_cache cache;
};

/* What all cases of one call share. */
struct watch {
    const struct mb_progress *progress;
    double done, total;
    const char *note;
    float *logits;               /* one buffer for all: nobody reads them */
    struct place places[PLACES]; /* what all networks decode from, each of a round from the same */
    size_t count;                /* of places; 0: networks decode from their own memory */
    bool stopped;
    enum mb_status status;
};

struct timing {
    struct watch *watch;
    struct mb_run *run;
    struct mb_cache cache; /* its own; empty where the stage has some for all */
    int32_t *ids;
    uint32_t *scored;       /* rows of the last tokens; NULL: all rows have logits */
    size_t repeats;         /* runs in an iteration: what makes a sample long enough */
    double *ns, *matmul_ns; /* of one run, per round; NULL: not kept */
    bool *disturbed;        /* a thread was without a processor meanwhile */
    size_t round, rounds;
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
    free(timing->scored);
    free(timing->ns);
    free(timing->matmul_ns);
    free(timing->disturbed);
    *timing = (struct timing){0};
}

static enum mb_status make_cache(struct mb_network *network, size_t positions,
                                 struct mb_cache *cache)
{
    uint32_t state = 1;
    const enum mb_status status = mb_cache_create(network, positions, cache);
    for (size_t i = 0; status == MB_OK && i < cache->floats; i++)
        cache->data[i] = (float)next_random(&state) / (float)(1 << 23) - 1.0f;
    return status;
}

/* ---- the stage ----
 *
 * Where weights, keys and values lie in memory decides which of them share a cache's sets, and is
 * worth up to five percent of a token of a model that just fits it: more than formats differ by,
 * and another format gains elsewhere. So small networks of one model decode from the same memory,
 * and from other memory in each round. Large ones are not in the caches anyway. */

static enum mb_status set_stage(struct watch *watch, struct mb_network *const *networks,
                                size_t count, size_t positions)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (networks[i]->model != networks[0]->model)
            return MB_OK;
        bytes = networks[i]->packed_bytes > bytes ? networks[i]->packed_bytes : bytes;
    }
    if (bytes == 0 || bytes > STAGE_BYTES / 4)
        return MB_OK;
    do {
        struct place *place = &watch->places[watch->count];
        place->weights = mb_alloc_aligned(bytes);
        if (place->weights == NULL || make_cache(networks[0], positions, &place->cache) != MB_OK)
            return MB_ERR_MEMORY;
        watch->count++;
    } while (watch->count < PLACES &&
             (watch->count + 1) * (bytes + watch->places[0].cache.bytes) <= STAGE_BYTES);
    return MB_OK;
}

static void free_stage(struct watch *watch)
{
    for (size_t i = 0; i < PLACES; i++) {
        mb_free_aligned(watch->places[i].weights);
        mb_cache_free(&watch->places[i].cache);
    }
}

/* Have a network's next sample run from this round's place. */
static void go_on_stage(struct timing *timing)
{
    struct watch *watch = timing->watch;
    if (watch->count == 0)
        return;
    struct place *place = &watch->places[timing->round % watch->count];
    mb_network_move(timing->run->network, place->weights);
    timing->run->cache = &place->cache;
}

/* ---- runs ---- */

/* A run of `sequences` x `tokens` behind `past` tokens of cache (0: no cache). */
static enum mb_status timing_init(struct timing *timing, struct watch *watch,
                                  struct mb_network *network, size_t sequences, size_t tokens,
                                  size_t past, struct mb_error *error)
{
    const size_t rows = sequences * tokens;
    uint32_t state = 1;
    *timing = (struct timing){.watch = watch, .repeats = 1};
    enum mb_status status = mb_run_create(network, rows, past + tokens, &timing->run, error);
    if (status != MB_OK)
        return status;
    timing->ids = malloc(rows * sizeof *timing->ids);
    if (timing->ids == NULL ||
        (past && watch->count == 0 && make_cache(network, past + tokens, &timing->cache) != MB_OK))
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t i = 0; i < rows; i++)
        timing->ids[i] = (int32_t)(next_random(&state) % network->vocabulary);
    timing->run->ids = timing->ids;
    timing->run->sequences = sequences;
    timing->run->tokens = tokens;
    timing->run->past = past;
    timing->run->cache = past == 0           ? NULL
                         : watch->count == 0 ? &timing->cache
                                             : &watch->places[0].cache;
    timing->run->timed = true;
    return MB_OK;
}

/* Logits of the last token of each sequence alone. */
static enum mb_status keep_last(struct timing *timing, struct mb_error *error)
{
    struct mb_run *run = timing->run;
    timing->scored = malloc(run->sequences * sizeof *timing->scored);
    if (timing->scored == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t i = 0; i < run->sequences; i++)
        timing->scored[i] = (uint32_t)((i + 1) * run->tokens - 1);
    run->scored = timing->scored;
    run->scored_count = run->sequences;
    return MB_OK;
}

/* One sample; kept while there are rounds to keep. After a stop or a failure the rest of the
 * measurement has to pass quickly, but not in no time: the clock's owner would go on doubling. */
static void run_sample(void *arg, size_t iterations)
{
    struct timing *timing = arg;
    struct watch *watch = timing->watch;
    struct mb_run *run = timing->run;
    const struct mb_clock *clock = &mb_clock_monotonic;
    const size_t runs = iterations * timing->repeats;
    if (!watch->stopped &&
        mb_progress_report(watch->progress, watch->done, watch->total, watch->note) != MB_OK)
        watch->stopped = true;
    if (watch->stopped || watch->status != MB_OK) {
        const struct timespec pause = {.tv_nsec = DECODE_SAMPLE_NS};
        nanosleep(&pause, NULL);
        return;
    }
    run->matmul_ns = 0;
    const uint64_t disturbances = clock->disturbances(clock->user);
    const uint64_t start = clock->now_ns(clock->user);
    for (size_t i = 0; i < runs && watch->status == MB_OK; i++) {
        watch->status = mb_run_steps(run, 0, run->network->step_count);
        if (watch->status == MB_OK)
            watch->status = mb_run_head(run, 0, run->rows, watch->logits);
    }
    const uint64_t total = clock->now_ns(clock->user) - start;
    if (timing->round >= timing->rounds)
        return;
    timing->disturbed[timing->round] = clock->disturbances(clock->user) != disturbances;
    timing->ns[timing->round] = (double)total / (double)runs;
    timing->matmul_ns[timing->round++] = (double)run->matmul_ns / (double)runs;
}

/* Decoding starts behind other networks' samples: one token brings its weights and keys back into
 * the caches. For 512 tokens at once that is no matter. */
static void warm_up(void *arg)
{
    struct timing *timing = arg;
    if (timing->run->cache == NULL || timing->watch->stopped || timing->watch->status != MB_OK)
        return;
    go_on_stage(timing);
    timing->watch->status = mb_run_steps(timing->run, 0, timing->run->network->step_count);
    if (timing->watch->status == MB_OK)
        timing->watch->status = mb_run_head(timing->run, 0, 1, timing->watch->logits);
}

/* One sample of every network in each of `rounds` turns. Samples are exactly that many: what was
 * disturbed is for run_sample to note, since rounds must stay paired. */
static enum mb_status take_turns(struct timing *timings, size_t count, double sample_ns,
                                 size_t rounds, struct mb_measurement *results,
                                 struct mb_error *error)
{
    const struct mb_clock clock = {.now_ns = mb_clock_monotonic.now_ns};
    const struct mb_measure_options options = {.clock = &clock,
                                               .sample_ns = sample_ns,
                                               .budget_ns = INFINITY,
                                               .samples_min = rounds,
                                               .samples_max = rounds,
                                               .enter = warm_up};
    const struct watch *watch = timings->watch;
    struct mb_timed *cases = calloc(count, sizeof *cases);
    enum mb_status status = cases != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; i < count && status == MB_OK; i++)
        cases[i] = (struct mb_timed){run_sample, &timings[i]};
    if (status == MB_OK)
        status = mb_measure(cases, count, &options, results);
    for (size_t i = 0; i < count; i++)
        mb_network_move(timings[i].run->network, NULL); /* off the stage, stopped or not */
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

/* Find how many runs make a sample; lower *rounds, though not below `least`, where samples of large
 * models take long by themselves, more than most_ns in a sweep; make room for all of them. */
static enum mb_status prepare_rounds(struct timing *timings, size_t count, double sample_ns,
                                     double most_ns, size_t least, size_t *rounds,
                                     struct mb_measurement *results, struct mb_error *error)
{
    const enum mb_status status = take_turns(timings, count, sample_ns, 1, results, error);
    double round_ns = 0;
    for (size_t i = 0; i < count && status == MB_OK; i++)
        round_ns += results[i].median_ns * (double)results[i].iterations;
    while (status == MB_OK && *rounds > least &&
           (double)*rounds * round_ns > fmax((double)count * most_ns, SWEEP_NS))
        --*rounds;
    const size_t room = SWEEPS * *rounds + 1;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        struct timing *timing = &timings[i];
        timing->repeats = results[i].iterations;
        timing->ns = calloc(room, sizeof *timing->ns);
        timing->matmul_ns = calloc(room, sizeof *timing->matmul_ns);
        timing->disturbed = calloc(room, sizeof *timing->disturbed);
        if (timing->ns == NULL || timing->matmul_ns == NULL || timing->disturbed == NULL)
            return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    }
    return status;
}

/* The next `rounds` rounds of every network. An iteration is a whole sample already, so the one
 * with which mb_measure finds that out is a round as well; it warms a sweep of decoding up, and is
 * not kept there. */
static enum mb_status sweep(struct timing *timings, size_t count, size_t rounds,
                            struct mb_measurement *results, struct mb_error *error)
{
    const bool warms = timings->run->cache != NULL;
    for (size_t i = 0; i < count; i++)
        timings[i].rounds = timings[i].round + rounds + warms;
    const enum mb_status status =
        take_turns(timings, count, 1, warms ? rounds : rounds - 1, results, error);
    for (size_t i = 0; warms && i < count && status == MB_OK; i++) {
        struct timing *timing = &timings[i];
        const size_t first = timing->round - rounds - 1;
        memmove(timing->ns + first, timing->ns + first + 1, rounds * sizeof *timing->ns);
        memmove(timing->matmul_ns + first, timing->matmul_ns + first + 1,
                rounds * sizeof *timing->matmul_ns);
        memmove(timing->disturbed + first, timing->disturbed + first + 1,
                rounds * sizeof *timing->disturbed);
        timing->round--;
    }
    return status;
}

/* ---- results ---- */

struct figures {
    double ns, mad_ns, matmul_ns;
};

/* Medians of rounds [first, first + count), the undisturbed ones when there are enough; scratch
 * holds as many. The product part is the median share of the same samples. */
static struct figures summarize(const struct timing *timing, size_t first, size_t count,
                                double *scratch)
{
    size_t clean = 0, used = 0;
    struct figures figures;
    for (size_t i = first; i < first + count; i++)
        clean += !timing->disturbed[i];
    const bool all = clean < LEAST_ROUNDS;
    for (size_t i = first; i < first + count; i++)
        if (all || !timing->disturbed[i])
            scratch[used++] = timing->ns[i];
    figures.ns = mb_median(scratch, used);
    for (size_t i = 0; i < used; i++)
        scratch[i] = fabs(scratch[i] - figures.ns);
    figures.mad_ns = mb_median(scratch, used);
    used = 0;
    for (size_t i = first; i < first + count; i++)
        if (all || !timing->disturbed[i])
            scratch[used++] = timing->ns[i] > 0 ? timing->matmul_ns[i] / timing->ns[i] : 0;
    figures.matmul_ns = figures.ns * mb_median(scratch, used);
    return figures;
}

/* The best sweep's figures per token, and all rounds for the caller to keep. */
static struct figures finish(struct timing *timing, size_t rounds, double *scratch, double **kept)
{
    const double tokens = (double)(timing->run->sequences * timing->run->tokens);
    struct figures best = {.ns = INFINITY};
    for (size_t first = 0; first < SWEEPS * rounds; first += rounds) {
        const struct figures figures = summarize(timing, first, rounds, scratch);
        if (figures.ns < best.ns)
            best = figures;
    }
    for (size_t i = 0; i < SWEEPS * rounds; i++)
        timing->ns[i] /= tokens;
    *kept = timing->ns;
    timing->ns = NULL;
    return (struct figures){best.ns / tokens, best.mad_ns / tokens, best.matmul_ns / tokens};
}

static void finish_decode(struct timing *timing, size_t rounds, double *scratch,
                          struct mb_speed *speed)
{
    free(speed->decode_rounds);
    const struct figures figures = finish(timing, rounds, scratch, &speed->decode_rounds);
    speed->decode_ns = figures.ns;
    speed->decode_mad_ns = figures.mad_ns;
    speed->decode_matmul_ns = figures.matmul_ns;
    speed->decode_round_count = SWEEPS * rounds;
    speed->kv_bytes = timing->run->cache->bytes;
}

static void finish_prefill(struct timing *timing, size_t rounds, double *scratch,
                           struct mb_speed *speed)
{
    free(speed->prefill_rounds);
    const struct figures figures = finish(timing, rounds, scratch, &speed->prefill_rounds);
    speed->prefill_ns = figures.ns;
    speed->prefill_mad_ns = figures.mad_ns;
    speed->prefill_matmul_ns = figures.matmul_ns;
    speed->prefill_round_count = SWEEPS * rounds;
}

void mb_speed_free(struct mb_speed *speed)
{
    free(speed->decode_rounds);
    free(speed->prefill_rounds);
    speed->decode_rounds = speed->prefill_rounds = NULL;
    speed->decode_round_count = speed->prefill_round_count = 0;
}

/* ---- both kinds of runs ---- */

enum kind { DECODE_KIND, PREFILL_KIND, KINDS };

static enum mb_status start(struct timing *timings, struct mb_network *const *networks,
                            const struct mb_speed *speeds, size_t count, size_t context,
                            enum kind kind, struct watch *watch, struct mb_error *error)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const size_t room = networks[i]->context < PREFILL ? networks[i]->context : PREFILL;
        const size_t sequences = (PREFILL + room - 1) / room;
        status = kind == DECODE_KIND
                     ? timing_init(&timings[i], watch, networks[i], 1, 1, context - 1, error)
                     : timing_init(&timings[i], watch, networks[i], sequences, PREFILL / sequences,
                                   0, error);
        if (status == MB_OK && kind == PREFILL_KIND && speeds[i].last_logits)
            status = keep_last(&timings[i], error);
    }
    return status;
}

/* `kinds` 1: decode only. */
static enum mb_status time_kinds(struct mb_network *const *networks, size_t count, size_t context,
                                 size_t repeats, size_t kinds, const struct mb_progress *progress,
                                 struct mb_speed *speeds, struct mb_error *error)
{
    if (count == 0 || context < 2 || context > (size_t)1 << 24)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "speed is measured at a context of 2 to %d tokens, not %zu", 1 << 24,
                            context);
    if (repeats > MOST_REPEATS)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%zu rounds of timing are more than %d",
                            repeats, MOST_REPEATS);
    const size_t alone = SWEEP_NS / PREFILL_SAMPLE_NS / count;
    const size_t least = alone > LEAST_ROUNDS ? alone : LEAST_ROUNDS;
    const size_t turns = repeats > least ? repeats : least;
    size_t rounds[KINDS] = {DECODE_ROUNDS * turns, turns};
    /* In all as many as asked for, and two of each sweep. */
    const size_t fewest = repeats > 2 * SWEEPS ? (repeats + SWEEPS - 1) / SWEEPS : 2;
    static const double sample_ns[KINDS] = {DECODE_SAMPLE_NS, PREFILL_SAMPLE_NS};
    static const double most_ns[KINDS] = {DECODE_MOST_NS, PREFILL_MOST_NS};
    static const char *const notes[KINDS] = {"decode", "prefill"};
    struct watch watch = {.progress = progress, .total = (double)(kinds * SWEEPS)};
    size_t vocabulary = 0;
    for (size_t i = 0; i < count; i++)
        vocabulary = networks[i]->vocabulary > vocabulary ? networks[i]->vocabulary : vocabulary;
    watch.logits = mb_alloc_aligned(PREFILL * vocabulary * sizeof *watch.logits);
    struct timing *timings = calloc(kinds * count, sizeof *timings); /* all of a kind in a row */
    struct mb_measurement *results = calloc(count, sizeof *results);
    double *scratch = calloc(rounds[DECODE_KIND], sizeof *scratch);
    enum mb_status status = MB_OK;
    if (timings == NULL || results == NULL || scratch == NULL || watch.logits == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    if (status == MB_OK && set_stage(&watch, networks, count, context) != MB_OK)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t kind = 0; kind < kinds && status == MB_OK; kind++) {
        struct timing *own = timings + kind * count;
        status = start(own, networks, speeds, count, context, (enum kind)kind, &watch, error);
        if (status == MB_OK)
            status = prepare_rounds(own, count, sample_ns[kind], most_ns[kind], fewest,
                                    &rounds[kind], results, error);
    }
    for (size_t part = 0; part < kinds * SWEEPS && status == MB_OK; part++) {
        const size_t kind = part % kinds;
        watch.done = (double)part;
        watch.note = notes[kind];
        status = sweep(timings + kind * count, count, rounds[kind], results, error);
    }
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        finish_decode(&timings[i], rounds[DECODE_KIND], scratch, &speeds[i]);
        if (kinds > PREFILL_KIND)
            finish_prefill(&timings[count + i], rounds[PREFILL_KIND], scratch, &speeds[i]);
    }
    for (size_t i = 0; timings != NULL && i < kinds * count; i++)
        timing_free(&timings[i]);
    free_stage(&watch);
    mb_free_aligned(watch.logits);
    free(timings);
    free(results);
    free(scratch);
    return status;
}

enum mb_status mb_network_speed(struct mb_network *const *networks, size_t count, size_t context,
                                size_t repeats, const struct mb_progress *progress,
                                struct mb_speed *speeds, struct mb_error *error)
{
    for (size_t i = 0; i < count; i++)
        speeds[i] = (struct mb_speed){.size = speeds[i].size,
                                      .last_logits = speeds[i].last_logits,
                                      .context = context,
                                      .weight_bytes = mb_network_bytes(networks[i])};
    return time_kinds(networks, count, context, repeats, KINDS, progress, speeds, error);
}

enum mb_status mb_network_speed_again(struct mb_network *const *networks, size_t count,
                                      size_t context, size_t repeats, bool prefill,
                                      const struct mb_progress *progress, struct mb_speed *speeds,
                                      struct mb_error *error)
{
    return time_kinds(networks, count, context, repeats, prefill ? KINDS : PREFILL_KIND, progress,
                      speeds, error);
}

/* Geometric mean of the ratios of one figure, which stands at `offset` in both. */
static double mean_ratio(const struct mb_speed *again, const struct mb_speed *first, size_t count,
                         size_t offset)
{
    double sum = 0, known = 0;
    for (size_t i = 0; i < count; i++) {
        const double now = *(const double *)(const void *)((const char *)&again[i] + offset);
        const double then = *(const double *)(const void *)((const char *)&first[i] + offset);
        if (now > 0 && then > 0) {
            sum += log(now / then);
            known++;
        }
    }
    return known > 0 ? exp(sum / known) : 1;
}

static void divide(double *values, size_t count, double factor)
{
    for (size_t i = 0; i < count; i++)
        values[i] /= factor;
}

double mb_speed_bring_back(struct mb_speed *speeds, size_t count, const struct mb_speed *first,
                           const struct mb_speed *again, size_t known)
{
#define RATIO(field) mean_ratio(again, first, known, offsetof(struct mb_speed, field))
    const double decode = RATIO(decode_ns), decode_matmul = RATIO(decode_matmul_ns),
                 prefill = RATIO(prefill_ns), prefill_matmul = RATIO(prefill_matmul_ns);
#undef RATIO
    for (size_t i = 0; i < count; i++) {
        struct mb_speed *speed = &speeds[i];
        divide(&speed->decode_ns, 1, decode);
        divide(&speed->decode_mad_ns, 1, decode);
        divide(&speed->decode_matmul_ns, 1, decode_matmul);
        divide(speed->decode_rounds, speed->decode_round_count, decode);
        divide(&speed->prefill_ns, 1, prefill);
        divide(&speed->prefill_mad_ns, 1, prefill);
        divide(&speed->prefill_matmul_ns, 1, prefill_matmul);
        divide(speed->prefill_rounds, speed->prefill_round_count, prefill);
    }
    return decode;
}
