/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding with feedback (feedback.h), from the left to the right of a row.
 *
 * A block's targets are its weights plus what the errors before it ask for: targets = w + N e. The
 * format's own search chooses scales for them, weighted by D; then code j is the one nearest to its
 * target, and its error goes into the targets to its right. Inside of a block that is done row by
 * row; what all earlier blocks ask for is a product for 16 rows at once. */
#include "kernels/feedback.h"

#include "kernels/feedback_lanes.h"
#include "kernels/lattice.h"

enum { LANES = MB_FEEDBACK_LANES, BLOCK_MAX = 256 };

bool mb_feedback_by_code(enum mb_format format)
{
    switch (mb_format_info(format)->coding) {
    case MB_CODING_B2:
    case MB_CODING_B3:
    case MB_CODING_B4:
    case MB_CODING_B5:
    case MB_CODING_B6:
    case MB_CODING_B8:
    case MB_CODING_LUT4:
    case MB_CODING_E2M1: return true;
    default: return false;
    }
}

/* Errors and targets (or gradients) of 16 rows, and their blocks, which are no larger than floats.
 */
size_t mb_feedback_scratch(size_t k) { return 3 * LANES * k; }

/* Rounds the codes of a block whose scales are chosen; w, target and error are the block's, n its
 * rows of N, from the block's first column on. */
static void round_block(const struct mb_lattice *l, struct mb_block_fields *fields, const float *w,
                        const float *target, const float *n, size_t stride, float *error)
{
    for (unsigned g = 0, c = 0; g < l->block / l->group; g++) {
        float scale, offset;
        mb_fields_group(fields, l->coding, l->kind, g, &scale, &offset);
        for (const unsigned end = c + l->group; c < end; c++) {
            const float wanted = target[c] + mb_dot(n + c * stride, error, c);
            fields->code[c] = mb_lattice_nearest(l, scale, offset, wanted);
            error[c] = w[c] - mb_lattice_value(l, scale, offset, fields->code[c]);
        }
    }
}

void mb_feedback_rows(enum mb_format format, const float *w, size_t rows,
                      const struct mb_second_moments *moments, void *dst, float *scratch)
{
    const struct mb_lattice l = mb_lattice_of(format);
    const size_t k = moments->k, row_bytes = k / l.block * l.block_bytes;
    float *errors = scratch, *targets = scratch + LANES * k;
    memset(scratch, 0, mb_feedback_scratch(k) * sizeof *scratch);
    for (size_t b = 0; b < k; b += l.block) {
        mb_lanes_multiply(moments->factor, k, b, b + l.block, 0, b, 1.0f, errors, targets);
        for (size_t r = 0; r < rows; r++) {
            const float *source = w + r * k + b;
            uint8_t *block = (uint8_t *)dst + r * row_bytes + b / l.block * l.block_bytes;
            float target[BLOCK_MAX], error[BLOCK_MAX];
            for (size_t c = 0; c < l.block; c++)
                target[c] = source[c] + targets[(b + c) * LANES + r];
            l.ops->quantize_row(target, moments->variances + b, block, l.block);
            struct mb_block_fields fields;
            l.ops->split(block, &fields);
            round_block(&l, &fields, source, target, moments->factor + b * k + b, k, error);
            l.ops->join(&fields, block);
            for (size_t c = 0; c < l.block; c++)
                errors[(b + c) * LANES + r] = error[c];
        }
    }
}
