/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments of rows of activations, H = X^T X, and their factor.
 *
 * The error of a quantized row q of weights w, seen at the outputs, is e H e^T with e = w - q. With
 * H = N^T D N, where N is lower triangular with ones on its diagonal and D is diagonal, that is
 * sum_j D_j (w_j + sum_{i<j} N_ji e_i - q_j)^2: column by column, from the left, what the errors
 * made so far ask of the next weight. (The same numbers as GPTQ's Cholesky factor of the inverse,
 * arXiv 2210.17323, without the inverse; QuIP's LDLQ, arXiv 2307.13304, writes it so.)
 *
 * Everything is f32 and a matrix lies whole in [k][k], k a multiple of 16. Adding X^T X is the one
 * thing that takes time, in collecting (sign 1) and in factoring (the rows already made, sign -1).
 * It is split over threads by pairs of panels; every sum has one order, whatever the threads. */
#ifndef MIXBIT_KERNELS_GRAM_H
#define MIXBIT_KERNELS_GRAM_H

#include <stdbool.h>
#include <stddef.h>

/* Columns of a panel, and rows that are added at once. */
enum { MB_GRAM_PANEL = 16, MB_GRAM_ROWS = 128 };

/* Floats of `rows` packed rows of k columns: [k / 16][rows][16]. */
static inline size_t mb_gram_packed(size_t k, size_t rows) { return k * rows; }
void mb_gram_pack(const float *x, size_t stride, size_t rows, size_t k, float *packed);
/* Pairs of panels of the first k columns: what mb_gram_add can be split by. */
static inline size_t mb_gram_pairs(size_t k) { return (k / MB_GRAM_PANEL + 1) / 2; }
/* h += sign * X^T X in the lower triangle of the first k rows, for pairs [first, last) of panels
 * (each with its mirror image, so that pairs are of equal work). Row i of h starts at h + i *
 * stride. Above the diagonal, entries within the diagonal panel are overwritten as well. */
void mb_gram_add(float *h, size_t stride, size_t k, const float *packed, size_t rows, float sign,
                 size_t first, size_t last);
/* c[n][k] += L^T X for panels [first, last) of L's n columns, as many packed rows of either: what
 * one set of columns says of another. */
void mb_gram_cross(float *c, size_t k, const float *left, const float *right, size_t rows,
                   size_t first, size_t last);
/* Copies the lower triangle above the diagonal. */
void mb_gram_mirror(float *h, size_t k);

/* Rows [row0, row1) of the factor, in place, when the rows from row1 on are made and have been
 * subtracted: entries left of row0 are ready to be packed and subtracted. Rows are M with
 * H = M^T M until mb_gram_unit. False: a pivot is not positive; h is then of no use. */
bool mb_gram_factor_rows(float *h, size_t k, size_t row0, size_t row1);
/* From M to N below the diagonal and D on it, in place. */
void mb_gram_unit(float *h, size_t k);
/* v[k][16] becomes x with H x = v, for 16 right-hand sides; factor as mb_gram_unit leaves it. */
void mb_gram_solve(const float *factor, size_t k, float *v);

#endif
