/* SPDX-License-Identifier: Apache-2.0 */
/* The statistics of evaluation and sensing: llama.cpp's definitions where it has one. */
#ifndef MIXBIT_MODEL_STATISTICS_H
#define MIXBIT_MODEL_STATISTICS_H

#include <stddef.h>

/* Running sums of one quantity, or of two that belong together. */
struct mb_sums {
    size_t count;
    double x, xx, y, yy, xy;
};
void mb_sums_add(struct mb_sums *sums, double x, double y);
double mb_sums_mean_x(const struct mb_sums *sums);
double mb_sums_mean_y(const struct mb_sums *sums);
/* Standard errors of the means, n - 1 in the denominator; 0 for fewer than two values. */
double mb_sums_error_x(const struct mb_sums *sums);
double mb_sums_error_y(const struct mb_sums *sums);
/* Standard error of mean(x) - mean(y), the covariance taken into account. */
double mb_sums_error_difference(const struct mb_sums *sums);

/* Ascending, for percentiles. */
void mb_sort_floats(float *values, size_t count);
/* Between the two nearest ranks, linearly; fraction in [0, 1]. */
double mb_percentile(const float *sorted, size_t count, double fraction);

/* Half the width of the 95 % confidence interval of the mean of `count` values (Student's t); 0 for
 * fewer than two. */
double mb_interval(const double *values, size_t count);
/* The 97.5 % quantile of Student's t. */
double mb_student(size_t degrees);
/* Confidence interval of the median of at least 95 %, from order statistics: no assumption about
 * the distribution, and single bad values don't widen it. Sorts. Infinite for fewer than six. */
void mb_median_interval(double *values, size_t count, double *low, double *high);

/* What one row of logits says about the token that follows, and about another model's row. */
struct mb_row_score {
    double nll, reference_nll; /* -ln p(target) */
    double kl;                 /* KL(reference || this) in nats */
    int same_top;
};
struct mb_vector;
/* Score row y against `reference` (NULL: nll only; reference_sum is its log-sum-exp). target -1: KL
 * only. */
void mb_score_row(const struct mb_vector *vector, const float *y, const float *reference,
                  double reference_sum, size_t vocabulary, int target, struct mb_row_score *score);

#endif
