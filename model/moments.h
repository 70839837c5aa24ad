/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments of the inputs of a model's matrices, collected when they are asked for.
 *
 * A matrix of k columns needs k x k numbers, a model's hundreds of times what its activations take:
 * so they are kept as far as a limit of memory allows, one pass over the text for as many matrices
 * as fit, in the order of the file. Matrices that multiply the same rows (q, k and v; gate and up)
 * share theirs. */
#ifndef MIXBIT_MODEL_MOMENTS_H
#define MIXBIT_MODEL_MOMENTS_H

#include "kernels/feedback.h"
#include "mixbit/model.h"

#include <stdbool.h>

struct mb_moments;

/* For the matrices of `network`, over `windows`; both must stay. memory_limit 0: half of what is
 * free. Nothing runs yet. */
enum mb_status mb_moments_create(struct mb_network *network, const struct mb_windows *windows,
                                 size_t memory_limit, struct mb_moments **moments,
                                 struct mb_error *error);
void mb_moments_destroy(struct mb_moments *moments);
/* What they are collected over. */
const struct mb_windows *mb_moments_windows(const struct mb_moments *moments);

/* What is known of the rows that matrix `matrix` of tensor `tensor` multiplies (a tensor of the
 * network's model), valid until the next call. Of a matrix that met fewer rows than it has columns
 * only the diagonal counts: all else is then NULL. *found is NULL where it met none: a tensor
 * that is only looked up, an expert without rows; or where its rows are of no size that blocks
 * have. May run the model: `progress` hears of it at `done` of `total`.
 * MB_ERR_FILE: activations are not finite. MB_ERR_MEMORY, MB_ERR_INTERRUPTED. */
enum mb_status mb_moments_get(struct mb_moments *moments, size_t tensor, size_t matrix,
                              const struct mb_progress *progress, double done, double total,
                              const struct mb_second_moments **found, struct mb_error *error);
/* H alone, for those who factor it in an order of their own; NULL where mb_moments_get has none. */
enum mb_status mb_moments_mean(struct mb_moments *moments, size_t tensor, size_t matrix,
                               const struct mb_progress *progress, double done, double total,
                               const float **h, struct mb_error *error);
/* Rows of a tensor by parts that have moments of their own: its matrices, or groups of rows. */
struct mb_row_parts {
    size_t count;
    size_t matrix;       /* of part 0, to mb_moments_get; part i is matrix + i */
    const size_t *order; /* the rows, part after part; NULL: in their own order */
    const size_t *ends;  /* [count]: where a part ends; NULL: each has `each` rows */
    size_t each;
};
static inline size_t mb_part_end(const struct mb_row_parts *parts, size_t part)
{
    return parts->ends != NULL ? parts->ends[part] : (part + 1) * parts->each;
}
/* From now on rows of the output matrix are in groups (model/output_groups.h), each with moments of
 * the inputs weighed by where its rows are likely; matrix 0 is what it was, of all rows and inputs
 * alike. */
void mb_moments_divide(struct mb_moments *moments);
/* Those of a tensor; they stay as long as the moments. MB_ERR_MEMORY. */
enum mb_status mb_moments_parts(struct mb_moments *moments, size_t tensor,
                                struct mb_row_parts *parts, struct mb_error *error);
/* Passes over the text so far, and inputs that were asked for and met too few rows; matrices that
 * multiply the same rows share one. */
size_t mb_moments_passes(const struct mb_moments *moments);
size_t mb_moments_scarce(const struct mb_moments *moments);
/* From sums over `rows` rows in the lower triangle to the damped mean, all of the matrix. *rows is
 * 0 where nothing ever went through the columns. False: not finite. */
bool mb_moments_mean_of(float *h, size_t k, size_t *rows);
/* made[k][k]: H = N^T D N, N below the diagonal and D on it, with ever more damping as long as
 * rounding makes a pivot negative; false when that does not help. packed: mb_gram_packed(k,
 * MB_GRAM_ROWS) floats. */
bool mb_moments_factor(struct mb_threads *threads, const float *h, size_t k, float *made,
                       float *packed);

#endif
