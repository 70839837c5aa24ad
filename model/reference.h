/* SPDX-License-Identifier: Apache-2.0 */
/* What models are compared with, when it is not run beside them: f32 logits kept in memory, or
 * log-probabilities in a file. Both give a score per row; evaluate.c doesn't know which it has. */
#ifndef MIXBIT_MODEL_REFERENCE_H
#define MIXBIT_MODEL_REFERENCE_H

#include "model/logits_file.h"
#include "model/statistics.h"

struct mb_reference {
    size_t windows, window, vocabulary;
    char text_hash[33];
    float *logits;              /* [windows][scored][vocabulary] */
    double *sums;               /* log-sum-exp of each row */
    struct mb_logits_file file; /* instead of the two above */
};

/* Room for `rows` rows in memory. */
enum mb_status mb_reference_allocate(struct mb_reference *reference, size_t rows,
                                     struct mb_error *error);
void mb_reference_keep(struct mb_reference *reference, const struct mb_vector *vector, size_t row,
                       const float *logits);
/* Floats that scoring a row needs. */
size_t mb_reference_scratch(const struct mb_reference *reference);
void mb_reference_score(const struct mb_reference *reference, const struct mb_vector *vector,
                        size_t row, const float *y, int target, float *scratch,
                        struct mb_row_score *score);

#endif
