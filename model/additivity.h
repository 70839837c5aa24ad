/* SPDX-License-Identifier: Apache-2.0 */
/* From the sum of single losses to the loss of a mix.
 *
 * Losses are sensed one tensor at a time, with f32 activations, on one text; a mix has them all at
 * once, its kernels round activations too, and it is judged on another text. Measured on a few
 * mixes, that is well described by loss = offset + scale * sum: the offset is what the activations
 * lose in any mix, the scale is interaction and text. What the line leaves over, relative to the
 * prediction, is the model's error. */
#ifndef MIXBIT_MODEL_ADDITIVITY_H
#define MIXBIT_MODEL_ADDITIVITY_H

#include <stddef.h>

struct mb_additivity {
    double offset, scale;  /* offset >= 0, nats per token */
    double error;          /* standard deviation of measured / predicted - 1 */
    size_t count, degrees; /* mixes it was fitted on; of them, free ones */
};

/* Least squares of measured / sum: relative errors count alike, so that a mix of little loss weighs
 * as much as one of much. With fewer than 3 mixes nothing is fitted: offset 0, scale 1, error
 * infinite. */
struct mb_additivity mb_additivity_fit(const double *sums, const double *measured, size_t count);
double mb_additivity_predict(const struct mb_additivity *fit, double sum);
/* Half the width of the 95 % interval for one more mix: the model's error (Student's t, the
 * uncertainty of the fit included) and `sum_half`, the half-width of the sum from the intervals of
 * its entries, as the two independent errors that they are. */
double mb_additivity_half(const struct mb_additivity *fit, double sum, double sum_half);

#endif
