/* SPDX-License-Identifier: Apache-2.0 */
/* See measure.h for the method. Growth follows FFTW's timer, turns and early dropping Highway's
 * auto-tuner; all arithmetic is on samples per iteration. */
#include "tuner/measure.h"
#include "support/support.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    FLOOR_READINGS = 64,
    FLOOR_MULTIPLE = 4000,
    BACKWARDS_MOST = 8,
    GROWTH_TRIES = 8,
    LONG_MULTIPLE = 16,
    SAMPLES_LEAST = 3,
    SAMPLES_MOST = 64,
};

static uint64_t monotonic_now_ns(void *user)
{
    (void)user;
    return mb_now_ns();
}

/* Switches of any thread of this process, forced or not: the pool's threads wait for each other
 * spinning, so one that went to sleep waited for another that had no processor. */
static uint64_t switches(void *user)
{
    struct rusage usage;
    (void)user;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)(usage.ru_nivcsw + usage.ru_nvcsw) : 0;
}

const struct mb_clock mb_clock_monotonic = {monotonic_now_ns, switches, NULL};

static const size_t iterations_most = (size_t)1 << 40; /* a clock that stands still */

double mb_clock_floor_ns(const struct mb_clock *clock)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < FLOOR_READINGS; i++) {
        const uint64_t begin = clock->now_ns(clock->user);
        uint64_t end = begin;
        /* A coarse clock stands still for many readings; a broken one forever. */
        for (size_t tries = 0; end == begin && tries < 1000000; tries++)
            end = clock->now_ns(clock->user);
        if (end > begin && end - begin < least)
            least = end - begin;
    }
    return least == UINT64_MAX ? 1e6 : (double)least;
}

struct turn {
    const struct mb_timed *timed;
    void (*enter)(void *arg);
    double *clean, *disturbed; /* samples, per iteration */
    size_t clean_count, disturbed_count, iterations;
    double clean_ns, disturbed_ns; /* spent on them */
    double best_ns;
    bool done;
};

static uint64_t disturbances(const struct mb_clock *clock)
{
    return clock->disturbances != NULL ? clock->disturbances(clock->user) : 0;
}

/* Time of one sample; false when the clock can't be trusted. */
static bool take_sample(const struct mb_clock *clock, const struct turn *turn, double *ns,
                        bool *disturbed)
{
    if (turn->enter != NULL)
        turn->enter(turn->timed->arg);
    for (size_t tries = 0; tries < BACKWARDS_MOST; tries++) {
        const uint64_t before = disturbances(clock);
        const uint64_t begin = clock->now_ns(clock->user);
        turn->timed->run(turn->timed->arg, turn->iterations);
        const uint64_t end = clock->now_ns(clock->user);
        *disturbed = disturbances(clock) != before;
        *ns = (double)(end - begin);
        if (end >= begin)
            return true;
    }
    return false;
}

/* Double the iterations until a sample is long enough; what ran on the way is the warm-up. A
 * disturbed sample may be long for the wrong reason, so it is tried again, unless it is so long
 * that it would do in any case. */
static bool grow(const struct mb_clock *clock, struct turn *turn, double sample_ns)
{
    double ns = 0;
    bool disturbed = false;
    turn->iterations = 1;
    for (size_t tries = 0; take_sample(clock, turn, &ns, &disturbed);) {
        turn->clean_ns += ns;
        if (ns >= sample_ns) {
            if (!disturbed || ns >= LONG_MULTIPLE * sample_ns || ++tries == GROWTH_TRIES)
                return true;
            continue;
        }
        if (turn->iterations > iterations_most)
            return false;
        turn->iterations *= 2;
    }
    return false;
}

static int compare_doubles(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

double mb_median(double *values, size_t count)
{
    if (count == 0)
        return (double)NAN;
    qsort(values, count, sizeof *values, compare_doubles);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* Undisturbed samples, and all of them when those are too few to say anything. */
static struct mb_measurement summarize(struct turn *turn, size_t least)
{
    struct mb_measurement result = {.iterations = turn->iterations};
    double *samples = turn->clean;
    size_t count = turn->clean_count;
    if (count < least) {
        memmove(samples + count, turn->disturbed, turn->disturbed_count * sizeof *samples);
        count += turn->disturbed_count; /* one array has room for both */
        turn->disturbed_count = 0;
    }
    result.samples = count;
    result.disturbed = turn->disturbed_count;
    result.median_ns = mb_median(samples, count);
    result.min_ns = samples[0];
    for (size_t i = 0; i < count; i++)
        samples[i] = fabs(samples[i] - result.median_ns);
    result.mad_ns = mb_median(samples, count);
    return result;
}

/* The smallest median so far. */
static double leader_ns(const struct turn *turns, size_t count, double *scratch)
{
    double leader = INFINITY;
    for (size_t i = 0; i < count; i++)
        if (turns[i].clean_count > 0) {
            memcpy(scratch, turns[i].clean, turns[i].clean_count * sizeof *scratch);
            leader = fmin(leader, mb_median(scratch, turns[i].clean_count));
        }
    return leader;
}

/* One round: every case that still takes turns gets one sample, another one first each time: what
 * comes first, or behind a case that leaves little in the caches, is slower by percents. */
static enum mb_status take_round(const struct mb_clock *clock, struct turn *turns, size_t count,
                                 size_t round)
{
    for (size_t i = 0; i < count; i++) {
        struct turn *turn = &turns[(round + i) % count];
        double ns;
        bool disturbed;
        if (turn->done)
            continue;
        if (!take_sample(clock, turn, &ns, &disturbed))
            return MB_ERR_DEVICE;
        const double each_ns = ns / (double)turn->iterations;
        if (disturbed) {
            turn->disturbed[turn->disturbed_count++] = each_ns;
            turn->disturbed_ns += ns;
            continue;
        }
        turn->clean[turn->clean_count++] = each_ns;
        turn->clean_ns += ns;
        turn->best_ns = fmin(turn->best_ns, each_ns);
    }
    return MB_OK;
}

struct bounds {
    size_t least, most;
    double budget_ns, drop_ratio;
};

/* Whether a case has enough samples, or won't get more that are worth it. */
static bool is_done(const struct turn *turn, const struct bounds *bounds, double limit_ns)
{
    if (turn->clean_count + turn->disturbed_count < bounds->least)
        return false;
    if (turn->disturbed_count >= bounds->most || turn->disturbed_ns >= bounds->budget_ns)
        return true; /* the machine is busy: make do */
    if (turn->clean_count < bounds->least)
        return false;
    return turn->clean_count >= bounds->most || turn->clean_ns >= bounds->budget_ns ||
           turn->best_ns > limit_ns;
}

static enum mb_status run_turns(const struct mb_clock *clock, double sample_ns,
                                const struct bounds *bounds, struct turn *turns, size_t count,
                                double *scratch)
{
    for (size_t i = 0; i < count; i++)
        if (!grow(clock, &turns[i], sample_ns))
            return MB_ERR_DEVICE;
    size_t round = 0;
    for (size_t left = count; left > 0; round++) {
        const enum mb_status status = take_round(clock, turns, count, round);
        if (status != MB_OK)
            return status;
        const double limit_ns = bounds->drop_ratio > 0 && count > 1
                                    ? bounds->drop_ratio * leader_ns(turns, count, scratch)
                                    : INFINITY;
        left = 0;
        for (size_t i = 0; i < count; i++) {
            turns[i].done = turns[i].done || is_done(&turns[i], bounds, limit_ns);
            left += !turns[i].done;
        }
    }
    return MB_OK;
}

enum mb_status mb_measure(const struct mb_timed *cases, size_t count,
                          const struct mb_measure_options *options, struct mb_measurement *results)
{
    if (count == 0)
        return MB_ERR_ARGUMENT;
    const struct mb_clock *clock = options->clock != NULL ? options->clock : &mb_clock_monotonic;
    struct bounds bounds = {.least =
                                options->samples_min > 0 ? options->samples_min : SAMPLES_LEAST,
                            .most = options->samples_max > 0 ? options->samples_max : SAMPLES_MOST,
                            .budget_ns = options->budget_ns > 0 ? options->budget_ns : 50e6,
                            .drop_ratio = options->drop_ratio};
    if (bounds.most < bounds.least)
        bounds.most = bounds.least;
    const double sample_ns =
        options->sample_ns > 0 ? options->sample_ns : FLOOR_MULTIPLE * mb_clock_floor_ns(clock);
    const size_t room = bounds.most;
    enum mb_status status = MB_ERR_MEMORY;
    struct turn *turns = calloc(count, sizeof *turns);
    /* Per case clean samples, then disturbed ones; the last row is scratch. */
    double *samples = calloc(count + 1, 2 * room * sizeof *samples);
    if (turns == NULL || samples == NULL)
        goto out;
    for (size_t i = 0; i < count; i++) {
        double *own = samples + i * 2 * room;
        turns[i] = (struct turn){.timed = &cases[i],
                                 .enter = options->enter,
                                 .clean = own,
                                 .disturbed = own + room,
                                 .best_ns = INFINITY};
    }
    status = run_turns(clock, sample_ns, &bounds, turns, count, samples + count * 2 * room);
    for (size_t i = 0; i < count && status == MB_OK; i++)
        results[i] = summarize(&turns[i], bounds.least);
out:
    free(samples);
    free(turns);
    return status;
}

/* Ratios of `most` pairs at most, while the budget lasts; returns how many there are, 0 when the
 * clock can't be trusted. */
static size_t take_pairs(const struct mb_clock *clock, struct turn *timed, struct turn *beside,
                         double before, size_t least, size_t most, double budget_ns, double *ratios)
{
    double own, behind, spent = 0;
    bool disturbed;
    size_t count = 0;
    for (; count < most && (count < least || spent < budget_ns); count++) {
        if (!take_sample(clock, timed, &own, &disturbed) ||
            !take_sample(clock, beside, &behind, &disturbed) || own == 0)
            return 0;
        ratios[count] =
            (before + behind) / 2 / (double)beside->iterations / (own / (double)timed->iterations);
        spent += own + behind;
        before = behind;
    }
    return count;
}

enum mb_status mb_measure_ratio(const struct mb_timed *timed, const struct mb_timed *beside,
                                const struct mb_measure_options *options, double *ratio)
{
    const struct mb_clock *clock = options->clock != NULL ? options->clock : &mb_clock_monotonic;
    const size_t least = options->samples_min > 0 ? options->samples_min : SAMPLES_LEAST;
    const size_t asked = options->samples_max > 0 ? options->samples_max : SAMPLES_MOST;
    const size_t most = asked > least ? asked : least;
    const double sample_ns =
        options->sample_ns > 0 ? options->sample_ns : FLOOR_MULTIPLE * mb_clock_floor_ns(clock);
    struct turn own = {.timed = timed, .enter = options->enter},
                other = {.timed = beside, .enter = options->enter};
    double before;
    bool disturbed;
    if (!grow(clock, &other, sample_ns) || !take_sample(clock, &other, &before, &disturbed) ||
        !grow(clock, &own, fmax(sample_ns, before)) ||
        !take_sample(clock, &other, &before, &disturbed))
        return MB_ERR_DEVICE;
    double *ratios = calloc(most, sizeof *ratios);
    if (ratios == NULL)
        return MB_ERR_MEMORY;
    const size_t count = take_pairs(clock, &own, &other, before, least, most,
                                    options->budget_ns > 0 ? options->budget_ns : 50e6, ratios);
    *ratio = mb_median(ratios, count);
    free(ratios);
    return count > 0 ? MB_OK : MB_ERR_DEVICE;
}
