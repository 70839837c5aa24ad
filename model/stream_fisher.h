/* SPDX-License-Identifier: Apache-2.0 */
/* What errors of the residual stream cost, one entry against another.
 *
 * An error d of the last layer's stream h moves the logits by J d, J = W diag(g) / rms(h), W the
 * output matrix and g the weights of the norm before it, and costs d J^T (diag(p) - p p^T) J d / 2
 * nats of KL divergence to second order, p being the model's probabilities: d F d / 2 in the mean.
 * (That h's own size moves with d is left out.) An error of an earlier layer gets there by the same
 * stream, with what later layers make of it on top, so F is taken for that of all layers. Rows of
 * a matrix that adds to the stream are then not independent: e H e^T of each is not the whole loss,
 * tr(F E H E^T) is, and a row can answer for the errors of the rows before it as a column does for
 * the columns before it (two-sided feedback, as in YAQA, arXiv 2505.22988, which gets its F from
 * backward passes).
 *
 * diag(p) - p p^T is the covariance of the rows of W under p: so F is the second moments of halved
 * differences between rows of two tokens drawn from p, some at each position, the same ones in
 * every run.
 *
 * Threads  the network's; results do not depend on them.
 * Memory   three width x width, 128 rows of logits. */
#ifndef MIXBIT_MODEL_STREAM_FISHER_H
#define MIXBIT_MODEL_STREAM_FISHER_H

#include "model/network.h"

/* *factor[width][width]: of the damped F, as mb_moments_factor makes it; the caller's to free with
 * mb_free_aligned. NULL where the graph has no such end, or its numbers are not finite. Runs all
 * steps of some of the `count` runs, whose batches are set; `progress` hears of it at 0 of `total`.
 * MB_ERR_MEMORY, MB_ERR_INTERRUPTED. */
enum mb_status mb_stream_fisher(struct mb_run *const *runs, size_t count,
                                const struct mb_progress *progress, double total, float **factor,
                                struct mb_error *error);

#endif
