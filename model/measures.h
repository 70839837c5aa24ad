/* SPDX-License-Identifier: Apache-2.0 */
/* Every measure of damage that a probe's logits give, beside KL: one pass over both rows.
 *
 * All are 0 for no change. KL, reverse KL, Jensen-Shannon and the perplexity change are nats per
 * token; noise over signal (the inverse of SQNR) and 1 - cosine are ratios. */
#ifndef MIXBIT_MODEL_MEASURES_H
#define MIXBIT_MODEL_MEASURES_H

#include "mixbit/sensitivity.h"

/* The first ones are the methods of a table, in their order. */
enum mb_measure {
    MB_MEASURE_KL = MB_METHOD_KL,
    MB_MEASURE_REVERSE = MB_METHOD_REVERSE,
    MB_MEASURE_JS = MB_METHOD_JS,
    MB_MEASURE_SQNR = MB_METHOD_SQNR,
    MB_MEASURE_COSINE = MB_METHOD_COSINE,
    MB_MEASURE_PPL = MB_METHOD_PPL,
    MB_MEASURE_CODED, /* KL Lens's "forward" as its code has it: for comparison only */
    MB_MEASURE_COUNT,
    /* Rows keep the signal that the noise is divided by as well. */
    MB_MEASURE_SIGNAL = MB_MEASURE_COUNT,
    MB_ROW_MEASURES
};

struct mb_vector;
/* Of one row: x is the base's logits with log-sum-exp x_sum, y the probe's, `target` the token that
 * follows, `kl` what was computed already. MB_MEASURE_SQNR is the noise, undivided. */
void mb_measure_row(const struct mb_vector *vector, const float *x, double x_sum, const float *y,
                    size_t vocabulary, int target, double kl, double measures[MB_ROW_MEASURES]);
/* From rows [MB_ROW_MEASURES][tokens] to means per window, [MB_MEASURE_COUNT][windows]; window w
 * has rows [offsets[w], offsets[w + 1]). */
void mb_measure_windows(const double *rows, const size_t *offsets, size_t windows, double *means);
/* The loss that window means say: mean over tokens, interval over windows; below 0 becomes 0. With
 * one window the interval is as wide as the loss: there is nothing to compare. */
struct mb_loss mb_measure_loss(const double *means, const size_t *offsets, size_t windows);

#endif
