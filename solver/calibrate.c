/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration of times by measured mixes (calibrate.h): a Kalman filter without a clock.
 *
 * The state is one deviation for each format in each shape. A mix sees their mean, weighted by
 * their parts of its time. */
#include "solver/calibrate.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static const double machine_variance = 0.5 * 0.5, format_variance = 0.08 * 0.08,
                    entry_variance = 0.05 * 0.05, mix_variance = 0.004 * 0.004, least_factor = 0.1;

/* A format in a shape: all its candidates share one time. */
struct entry {
    enum mb_format format;
    size_t n, k;
    int is_output;
};

struct filter {
    size_t entries;
    struct entry *entry;
    size_t **of;               /* [unit][candidate]: its entry */
    double *mean, *covariance; /* of the deviations */
    double *seen, *gain;       /* of one mix */
};

static double *time_of(struct mb_candidate *candidate, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? &candidate->decode_ns : &candidate->prefill_ns;
}

static size_t find_entry(struct filter *f, const struct mb_unit *unit, enum mb_format format)
{
    for (size_t e = 0; e < f->entries; e++) {
        const struct entry *known = &f->entry[e];
        if (known->format == format && known->n == unit->n && known->k == unit->k &&
            known->is_output == unit->is_output)
            return e;
    }
    f->entry[f->entries] = (struct entry){format, unit->n, unit->k, unit->is_output};
    return f->entries++;
}

static bool list_entries(struct filter *f, const struct mb_problem *problem)
{
    size_t most = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        most += problem->units[u].candidate_count;
    f->entry = calloc(most + 1, sizeof *f->entry);
    f->of = calloc(problem->unit_count + 1, sizeof *f->of);
    bool complete = f->entry != NULL && f->of != NULL;
    for (size_t u = 0; complete && u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        f->of[u] = calloc(unit->candidate_count + 1, sizeof **f->of);
        complete = f->of[u] != NULL;
        for (size_t c = 0; complete && c < unit->candidate_count; c++)
            f->of[u][c] = find_entry(f, unit, unit->candidates[c].format);
    }
    return complete;
}

static bool begin(struct filter *f, const struct mb_problem *problem)
{
    if (!list_entries(f, problem))
        return false;
    const size_t n = f->entries;
    f->mean = calloc(n + 1, sizeof *f->mean);
    f->covariance = calloc(n * n + 1, sizeof *f->covariance);
    f->seen = calloc(n + 1, sizeof *f->seen);
    f->gain = calloc(n + 1, sizeof *f->gain);
    if (f->mean == NULL || f->covariance == NULL || f->seen == NULL || f->gain == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            f->covariance[i * n + j] =
                machine_variance +
                (f->entry[i].format == f->entry[j].format ? format_variance : 0.0) +
                (i == j ? entry_variance : 0.0);
    return true;
}

/* What a mix sees of the deviations, and its time by the table; 0: it has none. */
static double look(struct filter *f, const struct mb_problem *problem, enum mb_quantity quantity,
                   const struct mb_timed_mix *mix)
{
    double time = 0;
    for (size_t i = 0; i < f->entries; i++)
        f->seen[i] = 0;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const size_t c = mix->choice[u];
        const double part = *time_of(&problem->units[u].candidates[c], quantity);
        f->seen[f->of[u][c]] += part;
        time += part;
    }
    for (size_t i = 0; time > 0 && i < f->entries; i++)
        f->seen[i] /= time;
    return time;
}

static void update(struct filter *f, double deviation)
{
    const size_t n = f->entries;
    double expected = 0, variance = mix_variance;
    for (size_t i = 0; i < n; i++) {
        f->gain[i] = 0;
        for (size_t j = 0; j < n; j++)
            f->gain[i] += f->covariance[i * n + j] * f->seen[j];
        expected += f->mean[i] * f->seen[i];
    }
    for (size_t i = 0; i < n; i++)
        variance += f->gain[i] * f->seen[i];
    for (size_t i = 0; i < n; i++) {
        f->mean[i] += f->gain[i] / variance * (deviation - expected);
        for (size_t j = 0; j < n; j++)
            f->covariance[i * n + j] -= f->gain[i] * f->gain[j] / variance;
    }
}

static void end(struct filter *f, const struct mb_problem *problem)
{
    for (size_t u = 0; f->of != NULL && u < problem->unit_count; u++)
        free(f->of[u]);
    free(f->of);
    free(f->entry);
    free(f->mean);
    free(f->covariance);
    free(f->seen);
    free(f->gain);
}

enum mb_status mb_problem_calibrate(struct mb_problem *problem, enum mb_quantity quantity,
                                    const struct mb_timed_mix *mixes, size_t count)
{
    struct filter f = {.entries = 0};
    const bool complete = begin(&f, problem);
    for (size_t i = 0; complete && i < count; i++) {
        const double time = look(&f, problem, quantity, &mixes[i]);
        const double deviation = mixes[i].products_ns / time - 1;
        if (time > 0 && mixes[i].products_ns > 0 && isfinite(deviation))
            update(&f, deviation);
    }
    for (size_t u = 0; complete && u < problem->unit_count; u++)
        for (size_t c = 0; c < problem->units[u].candidate_count; c++)
            *time_of(&problem->units[u].candidates[c], quantity) *=
                fmax(least_factor, 1 + f.mean[f.of[u][c]]);
    end(&f, problem);
    return complete ? MB_OK : MB_ERR_MEMORY;
}
