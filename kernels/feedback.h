/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding that knows what a row of weights is multiplied by: the second moments H of its inputs.
 *
 * Both functions lower e H e^T, e = w - q, for 16 rows of a matrix at a time, and leave a row of
 * the format's own blocks, as any encoder does. mb_feedback_rows makes them: every block is encoded
 * from weights that already answer for the errors to their left, then its codes are rounded one
 * after the other, each under the errors before it (GPTQ, arXiv 2210.17323). mb_refine_rows takes
 * blocks that are there and changes one code, one scale or one super-block's scales after the
 * other, keeping what lowers the error: cyclic coordinate descent. Formats whose codes come from a
 * grid have no codes that change alone, so they have neither. (Encoding their blocks whole, each
 * under the errors of the blocks before, was tried: what a block cannot answer for within itself
 * piles up, tenfold where columns hang together.)
 *
 * Threads  none; rows are independent, and so are results of how they are split.
 * Memory   mb_feedback_scratch floats of the caller's, some 130 KB of stack.
 * Numeric  f32, sums in one fixed order. */
#ifndef MIXBIT_KERNELS_FEEDBACK_H
#define MIXBIT_KERNELS_FEEDBACK_H

#include "kernels/panel.h"

#include <stddef.h>

/* What both need to know of H; rows of [k][k] f32. */
struct mb_second_moments {
    size_t k;
    const float *h;         /* H, symmetric, its diagonal positive; mb_refine_rows alone needs it */
    const float *factor;    /* N below the diagonal (kernels/gram.h); mb_feedback_rows alone */
    const float *variances; /* [k]: D, what is left of a column once those before it are known */
    const float *diagonal;  /* [k]: of H; for encoders that take importance */
};

/* Whether codes of the format can change one by one. */
bool mb_feedback_by_code(enum mb_format format);
/* Floats of scratch for rows of k. */
size_t mb_feedback_scratch(size_t k);
/* w is [rows][k], finite, rows <= 16, k a multiple of the format's block; dst gets their blocks.
 * Formats of both: those of mb_feedback_by_code. An ISA level has its own (struct mb_encode_ops).
 */
void mb_feedback_rows(enum mb_format format, const float *w, size_t rows,
                      const struct mb_second_moments *moments, void *dst, float *scratch);
/* `blocks` are w's, in `format`, and stay as they are where nothing lowers a row's error; errors
 * [rows] gets what it is in the end, e H e. */
void mb_refine_rows(enum mb_format format, const float *w, size_t rows,
                    const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                    double *errors, float *scratch);

#endif
