/* SPDX-License-Identifier: Apache-2.0 */
/* Measures of damage from logits: see measures.h. */
#include "model/measures.h"

#include "model/statistics.h"
#include "model/vector.h"

#include <math.h>

void mb_measure_row(const struct mb_vector *vector, const float *x, double x_sum, const float *y,
                    size_t vocabulary, int target, double kl, double measures[MB_ROW_MEASURES])
{
    const double y_sum = vector->log_sum_exp(y, vocabulary);
    struct mb_vector_difference d;
    vector->differ(x, x_sum, y, y_sum, vocabulary, &d);
    /* 1 - xy / (|x| |y|), from the difference: a small angle keeps its digits. */
    const double lengths = sqrt(d.xx) - sqrt(d.yy), product = 2 * sqrt(d.xx) * sqrt(d.yy);
    const double cosine = product > 0 ? (d.noise - lengths * lengths) / product : 0;
    measures[MB_MEASURE_KL] = kl;
    measures[MB_MEASURE_REVERSE] = d.reverse;
    measures[MB_MEASURE_JS] = d.jensen_shannon;
    measures[MB_MEASURE_SQNR] = d.noise;
    measures[MB_MEASURE_COSINE] = cosine > 0 ? cosine : 0;
    measures[MB_MEASURE_PPL] = (y_sum - (double)y[target]) - (x_sum - (double)x[target]);
    measures[MB_MEASURE_CODED] = d.coded;
    measures[MB_MEASURE_SIGNAL] = d.xx;
}

void mb_measure_windows(const double *rows, const size_t *offsets, size_t windows, double *means)
{
    const size_t tokens = offsets[windows];
    double signal = 0;
    for (size_t i = 0; i < tokens; i++)
        signal += rows[MB_MEASURE_SIGNAL * tokens + i] / (double)tokens;
    for (size_t m = 0; m < MB_MEASURE_COUNT; m++)
        for (size_t w = 0; w < windows; w++) {
            double sum = 0;
            for (size_t i = offsets[w]; i < offsets[w + 1]; i++)
                sum += rows[m * tokens + i];
            sum /= (double)(offsets[w + 1] - offsets[w]);
            means[m * windows + w] = m == MB_MEASURE_SQNR && signal > 0 ? sum / signal : sum;
        }
}

struct mb_loss mb_measure_loss(const double *means, const size_t *offsets, size_t windows)
{
    double mean = 0;
    for (size_t w = 0; w < windows; w++)
        mean += means[w] * (double)(offsets[w + 1] - offsets[w]) / (double)offsets[windows];
    const double half = windows > 1 ? mb_interval(means, windows) : fabs(mean);
    return (struct mb_loss){.known = 1,
                            .mean = mean < 0 ? 0 : mean,
                            .low = mean - half < 0 ? 0 : mean - half,
                            .high = mean + half < 0 ? 0 : mean + half};
}
