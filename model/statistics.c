/* SPDX-License-Identifier: Apache-2.0 */
/* Means, errors, percentiles and intervals; the KL divergence of one row of logits.
 *
 * KL(p || q) = sum p_i (x_i - y_i) - lse(x) + lse(y) for logits x, y and lse = ln sum exp. All of
 * it is f64 on f32 logits: the first-order terms of a small difference cancel exactly, and what is
 * left is the square of the difference, however small. The sum is over the whole vocabulary;
 * llama.cpp leaves out entries below e^-16 and stores the reference in 16 bits, which moves its
 * mean by some 1e-6. */
#include "model/statistics.h"

#include "model/vector.h"

#include <math.h>
#include <stdlib.h>

void mb_sums_add(struct mb_sums *sums, double x, double y)
{
    sums->count++;
    sums->x += x;
    sums->xx += x * x;
    sums->y += y;
    sums->yy += y * y;
    sums->xy += x * y;
}

static double mean(double sum, size_t count) { return count ? sum / (double)count : 0.0; }

double mb_sums_mean_x(const struct mb_sums *sums) { return mean(sums->x, sums->count); }
double mb_sums_mean_y(const struct mb_sums *sums) { return mean(sums->y, sums->count); }

/* Covariance of the means of a and b: (mean(ab) - mean(a) mean(b)) / (n - 1). */
static double covariance(double a, double b, double ab, size_t count)
{
    if (count < 2)
        return 0.0;
    return (mean(ab, count) - mean(a, count) * mean(b, count)) / (double)(count - 1);
}

static double root(double variance) { return variance > 0.0 ? sqrt(variance) : 0.0; }

double mb_sums_error_x(const struct mb_sums *sums)
{
    return root(covariance(sums->x, sums->x, sums->xx, sums->count));
}

double mb_sums_error_y(const struct mb_sums *sums)
{
    return root(covariance(sums->y, sums->y, sums->yy, sums->count));
}

double mb_sums_error_difference(const struct mb_sums *sums)
{
    return root(covariance(sums->x, sums->x, sums->xx, sums->count) +
                covariance(sums->y, sums->y, sums->yy, sums->count) -
                2.0 * covariance(sums->x, sums->y, sums->xy, sums->count));
}

static int compare(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void mb_sort_floats(float *values, size_t count) { qsort(values, count, sizeof *values, compare); }

double mb_percentile(const float *sorted, size_t count, double fraction)
{
    if (count == 0)
        return 0.0;
    const double rank = fraction * (double)(count - 1);
    const size_t below = (size_t)rank;
    if (below + 1 >= count)
        return (double)sorted[count - 1];
    const double part = rank - (double)below;
    return (1.0 - part) * (double)sorted[below] + part * (double)sorted[below + 1];
}

double mb_student(size_t degrees)
{
    /* Abramowitz and Stegun, table 26.10; beyond it their expansion 26.7.5 is exact to 1e-4. */
    static const double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706,
                                   2.4469,  2.3646, 2.3060, 2.2622, 2.2281};
    const double z = 1.959963984540054;
    if (degrees == 0)
        return 0.0;
    if (degrees <= sizeof table / sizeof table[0])
        return table[degrees - 1];
    const double n = (double)degrees, z2 = z * z;
    const double g1 = z * (z2 + 1) / 4, g2 = z * ((5 * z2 + 16) * z2 + 3) / 96,
                 g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384;
    return z + g1 / n + g2 / (n * n) + g3 / (n * n * n);
}

double mb_interval(const double *values, size_t count)
{
    if (count < 2)
        return 0.0;
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    const double center = sum / (double)count;
    for (size_t i = 0; i < count; i++)
        squares += (values[i] - center) * (values[i] - center);
    return mb_student(count - 1) * sqrt(squares / (double)(count - 1) / (double)count);
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median lies between the values of ranks r and n + 1 - r unless fewer than r of n values fall
 * on one side of it, each with probability 1/2: twice the binomial tail up to r - 1 is the risk. */
void mb_median_interval(double *values, size_t count, double *low, double *high)
{
    size_t rank = 0;
    double tail = 0;
    qsort(values, count, sizeof *values, compare_doubles);
    while (rank < count / 2) {
        const double n = (double)count, r = (double)rank;
        tail += exp(lgamma(n + 1) - lgamma(r + 1) - lgamma(n - r + 1) - n * log(2));
        if (2 * tail > 0.05)
            break;
        rank++;
    }
    *low = rank > 0 ? values[rank - 1] : -(double)INFINITY;
    *high = rank > 0 ? values[count - rank] : (double)INFINITY;
}

void mb_score_row(const struct mb_vector *vector, const float *y, const float *reference,
                  double reference_sum, size_t vocabulary, int target, struct mb_row_score *score)
{
    const double sum = vector->log_sum_exp(y, vocabulary);
    *score = (struct mb_row_score){0};
    if (target >= 0)
        score->nll = sum - (double)y[target];
    if (reference == NULL)
        return;
    if (target >= 0) {
        score->reference_nll = reference_sum - (double)reference[target];
        score->same_top = vector->argmax(y, vocabulary) == vector->argmax(reference, vocabulary);
    }
    score->kl = vector->cross(reference, reference_sum, y, vocabulary) + (sum - reference_sum);
}
