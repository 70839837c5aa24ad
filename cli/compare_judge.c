/* SPDX-License-Identifier: Apache-2.0 */
/* Which of two measured assignments loses less or is faster, and how sure that is: see compare.h.
 *
 * Loss is compared by pairs of windows, because the windows differ far more from each other than
 * two formats do on the same window: the interval of the difference is several times narrower than
 * either row's own. Speed is compared by pairs of rounds for the same reason: one that changes for
 * seconds moves both rows of a pair, and the median of the ratios is deaf to the single rounds in
 * which only one of them was disturbed. */
#include "cli/compare.h"
#include "model/statistics.h"
#include "tuner/measure.h"
#include <math.h>
#include <stdlib.h>

static void mean_interval(const double *values, size_t count, double *mean, double *low,
                          double *high)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    *mean = count ? sum / (double)count : NAN;
    const double half = count > 1 ? mb_interval(values, count) : INFINITY;
    *low = *mean - half;
    *high = *mean + half;
}

void mb_compare_kl(const struct mb_assignment *a, const struct mb_assignment *b, double *difference,
                   double *low, double *high)
{
    const size_t windows = a->evaluation.windows;
    double *differences = malloc((windows + 1) * sizeof *differences);
    for (size_t i = 0; differences && i < windows; i++)
        differences[i] = a->evaluation.window_kl[i] - b->evaluation.window_kl[i];
    mean_interval(differences, differences ? windows : 0, difference, low, high);
    free(differences);
}

void mb_compare_rounds(const struct mb_speed *a, const struct mb_speed *b,
                       enum mb_quantity quantity, double *ratio, double *low, double *high)
{
    const bool decode = quantity == MB_QUANTITY_DECODE;
    const double *of_a = decode ? a->decode_rounds : a->prefill_rounds,
                 *of_b = decode ? b->decode_rounds : b->prefill_rounds;
    const size_t count_a = decode ? a->decode_round_count : a->prefill_round_count,
                 count_b = decode ? b->decode_round_count : b->prefill_round_count,
                 rounds = count_a < count_b ? count_a : count_b;
    double *ratios = malloc((rounds + 1) * sizeof *ratios);
    for (size_t i = 0; ratios && i < rounds; i++)
        ratios[i] = of_a[i] / of_b[i];
    *ratio = mb_median(ratios, ratios ? rounds : 0);
    mb_median_interval(ratios, ratios ? rounds : 0, low, high);
    free(ratios);
}

void mb_compare_decode(const struct mb_assignment *a, const struct mb_assignment *b, double *ratio,
                       double *low, double *high)
{
    mb_compare_rounds(&a->speed, &b->speed, MB_QUANTITY_DECODE, ratio, low, high);
}

static bool is_no_slower(const struct mb_assignment *a, const struct mb_assignment *b,
                         enum mb_quantity quantity)
{
    double ratio, low, high;
    mb_compare_rounds(&a->speed, &b->speed, quantity, &ratio, &low, &high);
    return low <= 1;
}

bool mb_as_fast(const struct mb_assignment *a, const struct mb_assignment *b, bool prefill)
{
    return is_no_slower(a, b, MB_QUANTITY_DECODE) &&
           (!prefill || is_no_slower(a, b, MB_QUANTITY_PREFILL));
}

void mb_kl_interval(const struct mb_assignment *row, double *low, double *high)
{
    double mean;
    mean_interval(row->evaluation.window_kl, row->evaluation.windows, &mean, low, high);
}

const struct mb_assignment *mb_comparison_beats(const struct mb_comparison *comparison,
                                                const struct mb_assignment *plan, bool prefill)
{
    const struct mb_assignment *best = NULL;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct mb_assignment *row = &comparison->rows[i];
        if (row == plan || !row->measured || !plan->measured ||
            (row->kind != MB_ROW_UNIFORM && row->kind != MB_ROW_PRESET))
            continue;
        double difference, low, high;
        mb_compare_kl(plan, row, &difference, &low, &high);
        if (difference <= 0 || row->bytes > plan->bytes || !mb_as_fast(row, plan, prefill))
            continue;
        /* Rows whose loss was predicted are made of candidates; they come first. */
        const bool candidate = !isnan(row->predicted[MB_QUANTITY_LOSS]);
        const bool best_candidate = best && !isnan(best->predicted[MB_QUANTITY_LOSS]);
        if (!best || (candidate && !best_candidate) ||
            (candidate == best_candidate && row->evaluation.kl_mean < best->evaluation.kl_mean))
            best = row;
    }
    return best;
}
