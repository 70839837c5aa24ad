/* SPDX-License-Identifier: Apache-2.0 */
/* Tensors encoded with feedback (kernels/feedback.h), each once for all that ask for it.
 *
 * Feedback costs seconds for a tensor and format, and a plan asks for the same pair many times: for
 * its probe, for the uniform format, for presets and for every mix. So blocks are kept, as far as
 * memory allows. They are those that mb_convert writes with the same moments, importance and
 * sweeps.
 *
 * Rows of an output that is not the embedding answer to where their own tokens are likely
 * (model/output_groups.h). */
#ifndef MIXBIT_MODEL_ENCODER_H
#define MIXBIT_MODEL_ENCODER_H

#include "model/moments.h"

/* Of coordinate descent after rounding, where the user does not say: later ones change little. */
enum { MB_SWEEPS = 4 };

struct mb_encoder;

/* For tensors of `model`, the one that the moments are of; importance as in mb_convert, for what
 * met no rows. Both must stay. memory_limit: bytes of blocks that are kept, 0: a quarter of what
 * is free. NULL: out of memory. */
struct mb_encoder *mb_encoder_create(struct mb_model *model, struct mb_moments *moments,
                                     const float *const *importance, size_t sweeps,
                                     size_t memory_limit, struct mb_threads *threads);
/* One that has all that `base` has, which must stay, in front of which come the blocks that
 * mb_encoder_make makes; `what` is what they depend on besides. NULL: out of memory. */
struct mb_encoder *mb_encoder_create_over(struct mb_encoder *base, const char *what);
void mb_encoder_destroy(struct mb_encoder *encoder);
/* What its blocks depend on besides model and format: the text, importance, sweeps. */
const char *mb_encoder_hash(const struct mb_encoder *encoder);
/* The text that its moments are of. */
const struct mb_windows *mb_encoder_windows(const struct mb_encoder *encoder);

/* All rows of a tensor in `format`, as a GGUF file holds them; valid until the next call. May run
 * the model. `progress` (NULL allowed) hears of it at `done` of `total`, and may stop it.
 * MB_ERR_ARGUMENT: weights that are not finite. */
enum mb_status mb_encoder_rows(struct mb_encoder *encoder, size_t tensor, enum mb_format format,
                               const struct mb_progress *progress, double done, double total,
                               const void **rows, struct mb_error *error);
/* Rows to be timed, not evaluated: those of mb_encoder_rows where they are kept, else ones that are
 * rounded by search, in a fraction of the time and without the model. Products take the same time
 * for any values. */
enum mb_status mb_encoder_draft(struct mb_encoder *encoder, size_t tensor, enum mb_format format,
                                const struct mb_progress *progress, double done, double total,
                                const void **rows, struct mb_error *error);

/* A tensor as a file has it: rows as above, or in a format of codebook matrices records
 * (model/schemes.h), made under the same moments and kept alike; `draft`: to be timed. */
enum mb_status mb_encoder_stored(struct mb_encoder *encoder, size_t tensor, enum mb_format format,
                                 bool draft, const struct mb_progress *progress, double done,
                                 double total, const void **data, size_t *bytes,
                                 struct mb_error *error);

/* What the rows of a matrix are to come near to: not w, but w + w by + added. */
struct mb_correction {
    const struct mb_weights *by; /* f32, k x k: row j is what column j gets of every column */
    const float *added;          /* [n][k]; NULL: none */
    const float *between;        /* [n][n]: a factor (kernels/gram.h) of what errors of two rows
                                    cost together; NULL: each row by itself, as
                                    rows in groups are, and those of codebook matrices */
};
/* Make, and keep, the rows (or records) of a tensor of one matrix, corrected, under moments of the
 * caller's; the output's, which are in groups, under the encoder's own. As mb_encoder_rows
 * otherwise. */
enum mb_status mb_encoder_make(struct mb_encoder *encoder, size_t tensor, enum mb_format format,
                               const struct mb_second_moments *moments,
                               const struct mb_correction *correction,
                               const struct mb_progress *progress, double done, double total,
                               struct mb_error *error);

#endif
