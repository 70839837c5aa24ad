/* SPDX-License-Identifier: Apache-2.0 */
/* One probe of sensing: the KL divergence that replacing one matrix causes, restarted at that
 * matrix.
 *
 * The prober walks an unchanged network along its list of steps, over all windows, and keeps the
 * slots at the step it stands at. A probe there computes one product from the kept input, takes the
 * step's other results as they are, and runs the rest of the list: the bits are those of a full
 * forward pass. Behind, nothing is kept, so memory doesn't grow with the number of layers. */
#ifndef MIXBIT_MODEL_PROBE_H
#define MIXBIT_MODEL_PROBE_H

#include "model/network.h"

/* Where a matrix is used. */
struct mb_target {
    enum { MB_TARGET_EMBEDDING, MB_TARGET_PRODUCT, MB_TARGET_HEAD } kind;
    size_t step, product;
};
/* MB_TARGET_EMBEDDING covers a tied output too. */
struct mb_target mb_target_of(const struct mb_network *network, size_t matrix);

struct mb_prober;

struct mb_prober_options {
    const struct mb_windows *windows;
    size_t score_tokens;       /* as in mb_sense_options */
    size_t memory_limit_bytes; /* 0: half of what is free */
    /* [MB_ROW_MEASURES][scored rows], filled by every probe (model/measures.h); NULL: KL alone. */
    double *measures;
    const struct mb_progress *progress;
};
/* Runs the network once for the base. The network must be of MB_NUMERICS_F32. */
enum mb_status mb_prober_create(struct mb_network *network, const struct mb_prober_options *options,
                                struct mb_prober **prober, struct mb_error *error);
void mb_prober_destroy(struct mb_prober *prober);

/* Scored rows in all, and those of window w: [offsets[w], offsets[w + 1]). */
size_t mb_prober_tokens(const struct mb_prober *prober);
const size_t *mb_prober_offsets(const struct mb_prober *prober);
/* Scored rows before window w when `tokens` are spread over `windows`. */
size_t mb_prober_spread(size_t tokens, size_t windows, size_t w);
/* Position within its window of scored row i (it predicts the token after it). */
size_t mb_prober_position(const struct mb_prober *prober, size_t i);
/* 0: everything is kept; 1: only what a layer starts from; 2: base logits are made anew as well. */
int mb_prober_economy(const struct mb_prober *prober);

/* Multiplications of one probe: what progress is weighted by. */
double mb_prober_cost(const struct mb_prober *prober, const struct mb_target *target);

/* Walk forward so that `target` can be probed; targets come in the order of the list. */
enum mb_status mb_prober_seek(struct mb_prober *prober, const struct mb_target *target,
                              struct mb_error *error);

/* Called after every chunk with the part of the probe that is done; non-zero stops. */
typedef int (*mb_part_fn)(void *user, double part);
/* kl[i] of every scored row. */
enum mb_status mb_prober_run(struct mb_prober *prober, const struct mb_target *target,
                             const struct mb_replacement *replacement, mb_part_fn part, void *user,
                             double *kl, struct mb_error *error);

/* What a replacement does to the output of its own product, a target of MB_TARGET_PRODUCT that was
 * sought: the mean over rows of |y' - y|^2 / |y|^2, rounded activations included where its kernel
 * has them. Costs one product; the unchanged output of the last target is kept. */
enum mb_status mb_prober_product_error(struct mb_prober *prober, const struct mb_target *target,
                                       const struct mb_replacement *replacement, double *error,
                                       struct mb_error *told);

/* ---- the weights of a probe (requantize.c) ---- */

struct mb_requantized {
    struct mb_replacement replacement;
    struct mb_weights weights; /* packed in f32, or in the format for its own kernel; NONE: books,
                                  as in struct mb_matrix */
    float *rows;
    double error;        /* RMS(w - w') / RMS(w), weighted by importance when given */
    double output_error; /* the same, weighted by `activations`: what the product's output loses */
    bool exact;          /* every weight keeps its value */
};
/* dequantize(quantize(w)) of matrix `index` of the network, made ready for `numerics`; format
 * MB_FORMAT_NONE: unchanged, in f32. `importance` guides the quantizer, `activations` (what each of
 * the input's columns adds to the output) only weighs the error; both are [matrices][k] as in
 * struct mb_importance, either may be NULL. `encoded`: the rows as they are in the format already
 * (model/encoder.h), or its records, of so many bytes; NULL: they are made. */
enum mb_status mb_requantize(const struct mb_network *network, size_t index, enum mb_format format,
                             enum mb_numerics numerics, const float *importance,
                             const float *activations, const void *encoded, size_t encoded_bytes,
                             struct mb_requantized *out, struct mb_error *error);
void mb_requantized_free(struct mb_requantized *requantized);

#endif
