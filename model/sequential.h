/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding a mix layer after layer, each under the errors of all that come before it.
 *
 * Feedback (kernels/feedback.h) brings a matrix's outputs near to the source's on the source's own
 * inputs. In a quantized model the inputs are others: x', not x. Once the formats of all tensors
 * are known, they are rounded in the order in which the model runs, and a matrix is brought near to
 * what makes W' x' come closest to W x: W' = W + W E[(x - x') x'^T] H'^-1, H' = E[x' x'^T], rounded
 * under H' (asymmetric calibration: GPTAQ, arXiv 2504.02692; its closed form differs, it takes the
 * term into the feedback of each column). A matrix that adds to the residual stream, h' + W' x',
 * takes over what the stream lacks as well: E[(h - h') x'^T] H'^-1 more; and its rows answer for
 * the errors of the rows before them (model/stream_fisher.h). All of it is forward passes.
 *
 * Two runs stand at the same step, one of the source and one of what is rounded so far, over all
 * windows that memory has room for. A tensor that is only looked up, experts, an output that is the
 * embedding too, and inputs that met fewer rows than columns stay as the encoder has them.
 *
 * Threads  the network's; results do not depend on them.
 * Memory   activations of two runs, rows of one step's matrices in f32, some ten k x k of an
 * input.
 */
#ifndef MIXBIT_MODEL_SEQUENTIAL_H
#define MIXBIT_MODEL_SEQUENTIAL_H

#include "model/encoder.h"

struct mb_sequential_options {
    const enum mb_format *formats; /* per tensor; MB_FORMAT_NONE: stays */
    size_t tokens;                 /* of the base's text, spread over it; 0: MB_SEQUENTIAL_TOKENS */
    size_t memory_limit;           /* bytes of activations; 0: half of what is free */
    bool
        whole; /* corrections as least squares has them, however little other text bears them out */
    const struct mb_progress *progress;
};

/* All of a text of 37,000 take 2.6 % more off tiny-llama's loss, in twice the time. */
enum { MB_SEQUENTIAL_TOKENS = 16384 };

/* An encoder over `base`, which must stay, that has none of the mix's tensors yet but the name that
 * their losses are kept under; `network` runs the source in f32. NULL: out of memory. */
struct mb_encoder *mb_sequential_create(const struct mb_network *network, struct mb_encoder *base,
                                        const struct mb_sequential_options *options);
/* Make them, with the same options. MB_ERR_INTERRUPTED, MB_ERR_MEMORY, MB_ERR_FILE: activations are
 * not finite. */
enum mb_status mb_sequential_run(struct mb_network *network, struct mb_encoder *encoder,
                                 const struct mb_sequential_options *options,
                                 struct mb_error *error);

#endif
