/* SPDX-License-Identifier: Apache-2.0 */
/* How well each measure orders tensors and formats, judged by the true change of perplexity.
 *
 * The truth is noisy: over some thousand tokens the perplexity change of a good format is smaller
 * than its own error. So tau is given three ways: over all pairs, with differences inside their
 * interval counted as ties, and over the pairs alone that neither side leaves open. */
#ifndef MIXBIT_MODEL_AGREEMENT_H
#define MIXBIT_MODEL_AGREEMENT_H

#include "model/sense.h"

enum { MB_AGREEMENT_ROWS = MB_MEASURE_COUNT }; /* measures but perplexity, and the weight error */

struct mb_agreement {
    const char *name;
    double tau, low, high; /* tau-b over all entries; 95 % interval, bootstrap over windows */
    double tied;           /* tau-b, differences inside their paired interval as ties */
    double decided;        /* (agree - disagree) / both, over pairs that both sides order */
    double decided_share;  /* of all pairs */
    double units; /* tau-b over tensors in one format, embedding and output left out, averaged over
                     formats: what KL Lens reports */
};
/* NaN where there is nothing to order. Resamples are seeded: the same figures every time. */
enum mb_status mb_agreement(const struct mb_measures *measures,
                            struct mb_agreement rows[MB_AGREEMENT_ROWS], struct mb_error *error);

#endif
