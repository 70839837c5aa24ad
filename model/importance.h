/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of importance: whose weights count for which rows.
 *
 * A tensor's rows are those of one matrix behind the other (one, unless it is a stack of experts),
 * and each matrix has k weights of its own. All that quantizes a tensor's rows - files, mixes in
 * memory, probes - goes through mb_quantize_rows, so that their bits agree. */
#ifndef MIXBIT_MODEL_IMPORTANCE_H
#define MIXBIT_MODEL_IMPORTANCE_H

#include "kernels/feedback.h"
#include "mixbit/model.h"

#include <stdbool.h>

/* What rounding may know of the rows that a tensor multiplies; all zero: nothing. */
struct mb_encoding {
    const float *importance;                 /* of the tensor, [matrices][k]; NULL: none */
    const struct mb_second_moments *moments; /* of the one matrix that the rows are of; NULL: none.
                                                They go before importance. */
    size_t sweeps; /* of mb_refine_stored after the encoder, where moments hold h */
};

static inline size_t mb_tensor_matrices(const struct mb_tensor *tensor)
{
    return tensor->n / (size_t)tensor->ne[1];
}

/* The k weights that count for a row, of a tensor's [matrices][k]; NULL: none. */
static inline const float *mb_importance_of(const struct mb_tensor *tensor, const float *importance,
                                            size_t row)
{
    return importance ? importance + row / (size_t)tensor->ne[1] * tensor->k : NULL;
}

/* Rows [row0, row1) of a tensor, given as floats, in another format. With moments rounding is with
 * feedback, and of values that are not finite none is taken: MB_ERR_ARGUMENT, as without. */
enum mb_status mb_quantize_rows(const struct mb_tensor *tensor, enum mb_format format,
                                const struct mb_encoding *encoding, size_t row0, size_t row1,
                                const float *floats, void *out);
/* `rows` rows of blocks, of one matrix, brought nearer to floats by moments that hold h. */
enum mb_status mb_refine_stored(enum mb_format format, const struct mb_encoding *encoding,
                                size_t rows, const float *floats, void *blocks);

/* None known of any tensor yet; NULL: out of memory. */
struct mb_importance *mb_importance_create(const struct mb_model *model);
/* Room for the weights and rows of tensor i. */
bool mb_importance_add(struct mb_importance *importance, const struct mb_model *model, size_t i);
/* Weights of one matrix of tensor i from sums of squares over `rows` rows. */
void mb_importance_set(struct mb_importance *importance, const struct mb_model *model, size_t i,
                       size_t matrix, const double *sums, size_t rows);
/* Of all weights; "none" where there are none. */
void mb_importance_hash(const struct mb_model *model, const float *const *weights, char hex[33]);

#endif
