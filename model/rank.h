/* SPDX-License-Identifier: Apache-2.0 */
/* Rank agreement of two lists of numbers: Spearman's rho, Kendall's tau-b, and tau-b over signs
 * that the caller decides, so that differences inside an interval count as ties. */
#ifndef MIXBIT_MODEL_RANK_H
#define MIXBIT_MODEL_RANK_H

#include <stddef.h>

/* All three are in [-1, 1], and NaN where a list has no two different values, or out of memory. */

/* Pearson's correlation of the ranks; equal values share the mean of their ranks. */
double mb_spearman(const double *x, const double *y, size_t count);
/* (concordant - discordant) / sqrt((pairs - ties in x) (pairs - ties in y)), by Knight's algorithm:
 * n log n. Source: Knight, A computer method for calculating Kendall's tau with ungrouped data,
 * JASA 61 (1966). */
double mb_kendall(const double *x, const double *y, size_t count);
/* The order of items i and j: below 0, 0 (a tie) or above 0; the negative of that of j and i. */
typedef int (*mb_order_fn)(const void *user, size_t i, size_t j);
/* For any two such orders, whose ties need not be transitive; n^2. */
struct mb_order_agreement {
    double tau;     /* tau-b */
    double decided; /* (agree - disagree) / all, over the pairs that neither side ties */
    double share;   /* of those pairs in all */
};
struct mb_order_agreement mb_kendall_orders(size_t count, mb_order_fn x, const void *x_user,
                                            mb_order_fn y, const void *y_user);

#endif
