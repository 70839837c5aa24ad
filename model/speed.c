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
 *
 * Where the figures of a call are compared with predictions and not with each other, that is not
 * enough: with thirty networks of a third of a second a round outlasts the phases. There each
 * sample has one of the first network before and behind it, and its time is counted in those.
 *
 * What the cache holds is random: attention and scans take the same time for any. */
#include "model/network.h"

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
    struct pace *pace;           /* of the kind of run that is timed; NULL: not asked for */
    bool stopped;
    enum mb_status status;
};

/* One round of a network. */
struct sample {
    double ns, matmul_ns; /* of one run */
    size_t pace;          /* which sample of the pace was taken right before it */
    bool disturbed;       /* a thread was without a processor meanwhile */
};

struct timing {
    struct watch *watch;
    struct mb_run *run;
    struct mb_cache cache; /* its own; empty where the stage has some for all */
    int32_t *ids;
    uint32_t *scored;       /* rows of the last tokens; NULL: all rows have logits */
    size_t repeats;         /* runs in an iteration: what makes a sample long enough */
    struct sample *samples; /* of each round; NULL: not kept */
    double *ns;             /* of each round, per token: the caller's when all went well */
    size_t round, rounds;
};

/* The first network once more, before every sample of any: what the machine did meanwhile. */
struct pace {
    struct timing timing;
    struct sample *samples; /* in the order of time */
    size_t count, room;
    struct sample typical; /* their medians */
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
    free(timing->samples);
    free(timing->ns);
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

/* So many runs of a network in a row. */
static struct sample time_runs(struct timing *timing, size_t runs)
{
    struct watch *watch = timing->watch;
    struct mb_run *run = timing->run;
    const struct mb_clock *clock = &mb_clock_monotonic;
    run->matmul_ns = 0;
    const uint64_t disturbances = clock->disturbances(clock->user);
    const uint64_t start = clock->now_ns(clock->user);
    for (size_t i = 0; i < runs && watch->status == MB_OK; i++) {
        watch->status = mb_run_steps(run, 0, run->network->step_count);
        if (watch->status == MB_OK)
            watch->status = mb_run_head(run, 0, run->rows, watch->logits);
    }
    const uint64_t total = clock->now_ns(clock->user) - start;
    return (struct sample){.ns = (double)total / (double)runs,
                           .matmul_ns = (double)run->matmul_ns / (double)runs,
                           .pace = watch->pace != NULL ? watch->pace->count - 1 : 0,
                           .disturbed = clock->disturbances(clock->user) != disturbances};
}

/* One sample; kept while there are rounds to keep. After a stop or a failure the rest of the
 * measurement has to pass quickly, but not in no time: the clock's owner would go on doubling. */
static void run_sample(void *arg, size_t iterations)
{
    struct timing *timing = arg;
    struct watch *watch = timing->watch;
    if (!watch->stopped &&
        mb_progress_report(watch->progress, watch->done, watch->total, watch->note) != MB_OK)
        watch->stopped = true;
    if (watch->stopped || watch->status != MB_OK) {
        const struct timespec pause = {.tv_nsec = DECODE_SAMPLE_NS};
        nanosleep(&pause, NULL);
        return;
    }
    const struct sample sample = time_runs(timing, iterations * timing->repeats);
    if (timing->round < timing->rounds)
        timing->samples[timing->round++] = sample;
}

/* Decoding starts behind other networks' samples: one token brings its weights and keys back into
 * the caches. For 512 tokens at once that is no matter. */
static void warm_up(struct timing *timing)
{
    if (timing->run->cache == NULL || timing->watch->status != MB_OK)
        return;
    go_on_stage(timing);
    timing->watch->status = mb_run_steps(timing->run, 0, timing->run->network->step_count);
    if (timing->watch->status == MB_OK)
        timing->watch->status = mb_run_head(timing->run, 0, 1, timing->watch->logits);
}

/* What comes before a sample: the pace, and a warm-up. */
static void enter(void *arg)
{
    struct timing *timing = arg;
    struct pace *pace = timing->watch->pace;
    if (timing->watch->stopped)
        return;
    if (pace != NULL && timing->round < timing->rounds && pace->count < pace->room) {
        pace->timing.round = timing->round; /* the same place */
        warm_up(&pace->timing);
        pace->samples[pace->count++] = time_runs(&pace->timing, pace->timing.repeats);
    }
    warm_up(timing);
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
                                               .enter = enter};
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
        timing->samples = calloc(room, sizeof *timing->samples);
        timing->ns = calloc(room, sizeof *timing->ns);
        if (timing->samples == NULL || timing->ns == NULL)
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
        memmove(timing->samples + first, timing->samples + first + 1,
                rounds * sizeof *timing->samples);
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
    const struct sample *samples = timing->samples + first;
    size_t clean = 0, used = 0;
    struct figures figures;
    for (size_t i = 0; i < count; i++)
        clean += !samples[i].disturbed;
    const bool all = clean < LEAST_ROUNDS;
    for (size_t i = 0; i < count; i++)
        if (all || !samples[i].disturbed)
            scratch[used++] = samples[i].ns;
    figures.ns = mb_median(scratch, used);
    for (size_t i = 0; i < used; i++)
        scratch[i] = fabs(scratch[i] - figures.ns);
    figures.mad_ns = mb_median(scratch, used);
    used = 0;
    for (size_t i = 0; i < count; i++)
        if (all || !samples[i].disturbed)
            scratch[used++] = samples[i].ns > 0 ? samples[i].matmul_ns / samples[i].ns : 0;
    figures.matmul_ns = figures.ns * mb_median(scratch, used);
    return figures;
}

/* Its samples' medians; scratch holds as many. */
static void summarize_pace(struct pace *pace, double *scratch)
{
    for (size_t i = 0; i < pace->count; i++)
        scratch[i] = pace->samples[i].ns;
    pace->typical.ns = mb_median(scratch, pace->count);
    for (size_t i = 0; i < pace->count; i++)
        scratch[i] = pace->samples[i].matmul_ns;
    pace->typical.matmul_ns = mb_median(scratch, pace->count);
}

/* How much longer than usual the pace took around a sample: the mean of before and behind. */
static double slowness(double before, double behind, double typical)
{
    return before > 0 && behind > 0 && typical > 0 ? (before + behind) / 2 / typical : 1;
}

/* Each sample as it would have been at the typical pace. Products and all else have their own:
 * neighbours that use the memory slow the one and not the other. */
static void take_out(const struct pace *pace, struct timing *timing, size_t count)
{
    const struct sample *typical = &pace->typical;
    for (size_t i = 0; i < count; i++) {
        struct sample *sample = &timing->samples[i];
        const struct sample *before = &pace->samples[sample->pace],
                            *behind = before + (sample->pace + 1 < pace->count);
        const double products = slowness(before->matmul_ns, behind->matmul_ns, typical->matmul_ns);
        const double rest = slowness(before->ns - before->matmul_ns, behind->ns - behind->matmul_ns,
                                     typical->ns - typical->matmul_ns);
        sample->ns = sample->matmul_ns / products + (sample->ns - sample->matmul_ns) / rest;
        sample->matmul_ns /= products;
    }
}

/* The best sweep's figures per token - or, where the pace is known, those of all rounds. The rounds
 * are put in place of *kept. */
static struct figures finish(struct timing *timing, size_t rounds, struct pace *pace,
                             double *scratch, double **kept, size_t *kept_count)
{
    const double tokens = (double)(timing->run->sequences * timing->run->tokens);
    const size_t all = SWEEPS * rounds, together = pace != NULL ? all : rounds;
    struct figures best = {.ns = INFINITY};
    if (pace != NULL)
        take_out(pace, timing, all);
    for (size_t first = 0; first < all; first += together) {
        const struct figures figures = summarize(timing, first, together, scratch);
        if (figures.ns < best.ns)
            best = figures;
    }
    for (size_t i = 0; i < all; i++)
        timing->ns[i] = timing->samples[i].ns / tokens;
    free(*kept);
    *kept = timing->ns;
    *kept_count = all;
    timing->ns = NULL;
    return (struct figures){best.ns / tokens, best.mad_ns / tokens, best.matmul_ns / tokens};
}

static void finish_decode(struct timing *timing, size_t rounds, struct pace *pace, double *scratch,
                          struct mb_speed *speed)
{
    const struct figures figures =
        finish(timing, rounds, pace, scratch, &speed->decode_rounds, &speed->decode_round_count);
    speed->decode_ns = figures.ns;
    speed->decode_mad_ns = figures.mad_ns;
    speed->decode_matmul_ns = figures.matmul_ns;
    speed->kv_bytes = timing->run->cache->bytes;
}

static void finish_prefill(struct timing *timing, size_t rounds, struct pace *pace, double *scratch,
                           struct mb_speed *speed)
{
    const struct figures figures =
        finish(timing, rounds, pace, scratch, &speed->prefill_rounds, &speed->prefill_round_count);
    speed->prefill_ns = figures.ns;
    speed->prefill_mad_ns = figures.mad_ns;
    speed->prefill_matmul_ns = figures.matmul_ns;
}

/* ---- both kinds of runs ---- */

enum kind { DECODE_KIND, PREFILL_KIND, KINDS };

static enum mb_status init_kind(struct timing *timing, struct watch *watch,
                                struct mb_network *network, const struct mb_speed *speed,
                                size_t context, enum kind kind, struct mb_error *error)
{
    const size_t room = network->context < PREFILL ? network->context : PREFILL;
    const size_t sequences = (PREFILL + room - 1) / room;
    if (kind == DECODE_KIND)
        return timing_init(timing, watch, network, 1, 1, context - 1, error);
    const enum mb_status status =
        timing_init(timing, watch, network, sequences, PREFILL / sequences, 0, error);
    return status == MB_OK && speed->last_logits ? keep_last(timing, error) : status;
}

/* As long a sample as the network's own, and room for one before each of all networks'. */
static enum mb_status start_pace(struct pace *pace, const struct timing *first, size_t count,
                                 size_t rounds, const struct mb_speed *speed, size_t context,
                                 enum kind kind, struct mb_error *error)
{
    pace->room = count * SWEEPS * (rounds + 1);
    pace->samples = calloc(pace->room, sizeof *pace->samples);
    if (pace->samples == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    const enum mb_status status =
        init_kind(&pace->timing, first->watch, first->run->network, speed, context, kind, error);
    pace->timing.repeats = first->repeats;
    return status;
}

static enum mb_status check(size_t count, const struct mb_speed_options *options,
                            struct mb_error *error)
{
    if (count == 0 || options->context < 2 || options->context > (size_t)1 << 24)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "speed is measured at a context of 2 to %d tokens, not %zu", 1 << 24,
                            options->context);
    if (options->repeats > MOST_REPEATS)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%zu rounds of timing are more than %d",
                            options->repeats, MOST_REPEATS);
    return MB_OK;
}

static enum mb_status time_kinds(struct mb_network *const *networks, size_t count,
                                 const struct mb_speed_options *options, struct mb_speed *speeds,
                                 struct mb_error *error)
{
    const size_t context = options->context, repeats = options->repeats;
    const size_t kinds = options->decode_only ? PREFILL_KIND : KINDS;
    const size_t alone = SWEEP_NS / PREFILL_SAMPLE_NS / count;
    const size_t least = alone > LEAST_ROUNDS ? alone : LEAST_ROUNDS;
    const size_t turns = repeats > least ? repeats : least;
    size_t rounds[KINDS] = {DECODE_ROUNDS * turns, turns};
    /* In all as many as asked for, and two of each sweep. */
    const size_t fewest = repeats > 2 * SWEEPS ? (repeats + SWEEPS - 1) / SWEEPS : 2;
    static const double sample_ns[KINDS] = {DECODE_SAMPLE_NS, PREFILL_SAMPLE_NS};
    static const double most_ns[KINDS] = {DECODE_MOST_NS, PREFILL_MOST_NS};
    static const char *const notes[KINDS] = {"decode", "prefill"};
    struct watch watch = {.progress = options->progress, .total = (double)(kinds * SWEEPS)};
    struct pace paces[KINDS] = {0};
    size_t vocabulary = 0;
    for (size_t i = 0; i < count; i++)
        vocabulary = networks[i]->vocabulary > vocabulary ? networks[i]->vocabulary : vocabulary;
    watch.logits = mb_alloc_aligned(PREFILL * vocabulary * sizeof *watch.logits);
    struct timing *timings = calloc(kinds * count, sizeof *timings); /* all of a kind in a row */
    struct mb_measurement *results = calloc(count, sizeof *results);
    double *scratch = calloc(count * SWEEPS * (rounds[DECODE_KIND] + 1), sizeof *scratch);
    enum mb_status status = MB_OK;
    if (timings == NULL || results == NULL || scratch == NULL || watch.logits == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    if (status == MB_OK && set_stage(&watch, networks, count, context) != MB_OK)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while measuring speed");
    for (size_t kind = 0; kind < kinds && status == MB_OK; kind++) {
        struct timing *own = timings + kind * count;
        for (size_t i = 0; i < count && status == MB_OK; i++)
            status = init_kind(&own[i], &watch, networks[i], &speeds[i], context, (enum kind)kind,
                               error);
        if (status == MB_OK)
            status = prepare_rounds(own, count, sample_ns[kind], most_ns[kind], fewest,
                                    &rounds[kind], results, error);
        if (status == MB_OK && options->paced)
            status = start_pace(&paces[kind], own, count, rounds[kind], &speeds[0], context,
                                (enum kind)kind, error);
    }
    for (size_t part = 0; part < kinds * SWEEPS && status == MB_OK; part++) {
        const size_t kind = part % kinds;
        watch.done = (double)part;
        watch.note = notes[kind];
        watch.pace = options->paced ? &paces[kind] : NULL;
        status = sweep(timings + kind * count, count, rounds[kind], results, error);
    }
    for (size_t kind = 0; kind < kinds && status == MB_OK; kind++) {
        if (options->paced)
            summarize_pace(&paces[kind], scratch);
        for (size_t i = 0; i < count; i++)
            (kind == DECODE_KIND ? finish_decode : finish_prefill)(
                &timings[kind * count + i], rounds[kind], options->paced ? &paces[kind] : NULL,
                scratch, &speeds[i]);
    }
    for (size_t i = 0; timings != NULL && i < kinds * count; i++)
        timing_free(&timings[i]);
    for (size_t kind = 0; kind < KINDS; kind++) {
        timing_free(&paces[kind].timing);
        free(paces[kind].samples);
    }
    free_stage(&watch);
    mb_free_aligned(watch.logits);
    free(timings);
    free(results);
    free(scratch);
    return status;
}

enum mb_status mb_network_speed(struct mb_network *const *networks, size_t count,
                                const struct mb_speed_options *options, struct mb_speed *speeds,
                                struct mb_error *error)
{
    for (size_t i = 0; i < count; i++)
        speeds[i] = (struct mb_speed){.size = speeds[i].size,
                                      .last_logits = speeds[i].last_logits,
                                      .context = options->context,
                                      .weight_bytes = mb_network_bytes(networks[i])};
    return mb_network_speed_again(networks, count, options, speeds, error);
}

enum mb_status mb_network_speed_again(struct mb_network *const *networks, size_t count,
                                      const struct mb_speed_options *options,
                                      struct mb_speed *speeds, struct mb_error *error)
{
    const enum mb_status status = check(count, options, error);
    return status == MB_OK ? time_kinds(networks, count, options, speeds, error) : status;
}
