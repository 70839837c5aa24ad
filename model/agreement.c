/* SPDX-License-Identifier: Apache-2.0 */
/* Kendall's tau of every measure against the true change of perplexity: see agreement.h. */
#include "model/agreement.h"

#include "model/rank.h"
#include "model/statistics.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RESAMPLES = 400 };

/* One measure of all entries, per window; the weight error is the same in all of them. */
struct series {
    const struct mb_measures *measures;
    int measure; /* MB_MEASURE_COUNT: the weight error */
};

static double at(const struct series *s, size_t entry, size_t window)
{
    const struct mb_measures *m = s->measures;
    if (s->measure == MB_MEASURE_COUNT)
        return m->entries[entry].output_error;
    return m->values[(entry * MB_MEASURE_COUNT + (size_t)s->measure) * m->windows + window];
}

/* Means over windows, each as often as times[w] says. */
static void means(const struct series *s, const double *times, double *out)
{
    const struct mb_measures *m = s->measures;
    double all = 0;
    for (size_t w = 0; w < m->windows; w++)
        all += times[w] * (double)(m->offsets[w + 1] - m->offsets[w]);
    for (size_t e = 0; e < m->entry_count; e++) {
        out[e] = 0;
        for (size_t w = 0; w < m->windows; w++)
            out[e] += at(s, e, w) * times[w] * (double)(m->offsets[w + 1] - m->offsets[w]) / all;
    }
}

/* Order of two entries by the paired difference over windows; 0 inside its interval. */
static int paired_order(const void *user, size_t i, size_t j)
{
    const struct series *s = user;
    const size_t windows = s->measures->windows;
    double sum = 0, squares = 0;
    for (size_t w = 0; w < windows; w++) {
        const double difference = at(s, i, w) - at(s, j, w);
        sum += difference;
        squares += difference * difference;
    }
    const double n = (double)windows, mean = sum / n;
    const double spread = squares / n - mean * mean;
    const double half =
        windows > 1 && spread > 0 ? mb_student(windows - 1) * sqrt(spread / (n - 1)) : 0;
    return (mean > half) - (mean < -half);
}

/* tau within each format, averaged. */
static double over_units(const struct mb_measures *m, const double *x, const double *truth,
                         double *a, double *b)
{
    double sum = 0;
    size_t formats = 0;
    const struct mb_format_info *info;
    for (size_t f = 0; (info = mb_any_format_at(f)) != NULL; f++) {
        size_t count = 0;
        for (size_t e = 0; e < m->entry_count; e++) {
            const struct mb_measured *entry = &m->entries[e];
            if (entry->format != info->id || entry->role == MB_ROLE_OUTPUT ||
                entry->role == MB_ROLE_EMBEDDING)
                continue;
            a[count] = x[e];
            b[count++] = truth[e];
        }
        const double tau = count > 1 ? mb_kendall(a, b, count) : (double)NAN;
        if (isnan(tau))
            continue;
        sum += tau;
        formats++;
    }
    return formats > 0 ? sum / (double)formats : (double)NAN;
}

static void bootstrap(const struct series *x, const struct series *truth, double *times, double *a,
                      double *b, struct mb_agreement *row)
{
    const size_t windows = x->measures->windows, count = x->measures->entry_count;
    float taus[RESAMPLES];
    uint64_t state = 1;
    row->low = row->high = (double)NAN;
    for (size_t r = 0; r < RESAMPLES; r++) {
        memset(times, 0, windows * sizeof *times);
        for (size_t w = 0; w < windows; w++)
            times[mb_random_below(&state, windows)] += 1;
        means(x, times, a);
        means(truth, times, b);
        taus[r] = (float)mb_kendall(a, b, count);
        if (isnan(taus[r]))
            return;
    }
    mb_sort_floats(taus, RESAMPLES);
    row->low = mb_percentile(taus, RESAMPLES, 0.025);
    row->high = mb_percentile(taus, RESAMPLES, 0.975);
}

enum mb_status mb_agreement(const struct mb_measures *measures,
                            struct mb_agreement rows[MB_AGREEMENT_ROWS], struct mb_error *error)
{
    const size_t count = measures->entry_count, windows = measures->windows;
    const struct series truth = {measures, MB_MEASURE_PPL};
    double *room = calloc(4 * count + 2 * windows + 1, sizeof *room);
    if (room == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for comparing methods");
    double *x = room, *y = x + count, *a = y + count, *b = a + count, *once = b + count;
    for (size_t w = 0; w < windows; w++)
        once[w] = 1;
    means(&truth, once, y);
    size_t r = 0;
    for (int m = 0; m <= MB_MEASURE_COUNT; m++) {
        if (m == MB_MEASURE_PPL)
            continue;
        const struct series series = {measures, m};
        struct mb_agreement *row = &rows[r++];
        *row = (struct mb_agreement){.name = m == MB_MEASURE_COUNT ? "weight-error"
                                             : m == MB_MEASURE_CODED
                                                 ? "forward as coded"
                                                 : mb_method_name((enum mb_method)m)};
        means(&series, once, x);
        row->tau = mb_kendall(x, y, count);
        row->units = over_units(measures, x, y, a, b);
        const struct mb_order_agreement pairs =
            mb_kendall_orders(count, paired_order, &series, paired_order, &truth);
        row->tied = pairs.tau;
        row->decided = pairs.decided;
        row->decided_share = pairs.share;
        bootstrap(&series, &truth, once + windows, a, b, row);
    }
    free(room);
    return MB_OK;
}
