/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding with feedback (kernels/feedback.h), from the left to the right of 16 rows, once per ISA
 * level.
 *
 * A block's targets are its weights plus what the errors before it ask for: targets = w + N e. The
 * format's own search chooses scales for them, weighted by D; then code j is the one nearest to its
 * target, and its error goes into the targets to its right. One column waits for the one before it,
 * so all of it goes by rows: a lane is a row. */
#ifndef MIXBIT_KERNELS_SIMD_FEEDBACK_H
#define MIXBIT_KERNELS_SIMD_FEEDBACK_H

#include "kernels/feedback.h"
#include "kernels/simd/encode.h"
#include "kernels/simd/multiply.h"
#include "kernels/simd/nearest.h"

enum { FEEDBACK_BLOCK = 256, PARTIAL_SUMS = 8 };

/* A block of 16 rows; lines of rows. */
struct feedback_block {
    float weight[FEEDBACK_BLOCK][MB_FEEDBACK_LANES], level[FEEDBACK_BLOCK][MB_FEEDBACK_LANES];
    float scale[FEEDBACK_BLOCK / 16][MB_FEEDBACK_LANES],
        inverse[FEEDBACK_BLOCK / 16][MB_FEEDBACK_LANES],
        offset[FEEDBACK_BLOCK / 16][MB_FEEDBACK_LANES];
    struct mb_block_fields fields[MB_FEEDBACK_LANES];
};

/* What the errors of columns [0, 8 * eights + left) ask of the next, whose row of N is `n`: a dot
 * product in 8 partial sums. */
MB_LANE_INLINE f_lanes feedback_dot(const float *n, const float *error, size_t eights,
                                    const unsigned left)
{
    f_lanes sum[PARTIAL_SUMS] = {{0}};
    for (size_t i = 0; i < eights;
         i++, n += PARTIAL_SUMS, error += PARTIAL_SUMS * MB_FEEDBACK_LANES)
#pragma GCC unroll 8
        for (unsigned s = 0; s < PARTIAL_SUMS; s++)
            sum[s] += n[s] * f_load(error + s * MB_FEEDBACK_LANES);
#pragma GCC unroll 8
    for (unsigned s = 0; s < left; s++)
        sum[s] += n[s] * f_load(error + s * MB_FEEDBACK_LANES);
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* Column 8 * eights + left of a block; target and error are lines of the block's first column. */
MB_LANE_INLINE void feedback_column(const struct mb_lattice *l, struct feedback_block *b,
                                    size_t lane, const float *target, const float *n, size_t stride,
                                    float *error, size_t eights, const unsigned left)
{
    const size_t c = PARTIAL_SUMS * eights + left, g = c / l->group, line = c * MB_FEEDBACK_LANES;
    const f_lanes weight = f_load(b->weight[c] + lane);
    const f_lanes wanted =
        (weight + f_load(target + line)) + feedback_dot(n + c * stride, error, eights, left);
    const f_lanes offset = f_load(b->offset[g] + lane);
    const f_lanes level = f_nearest(l, (wanted - offset) * f_load(b->inverse[g] + lane));
    const f_lanes value = f_load(b->scale[g] + lane) * level + offset;
    f_store(b->level[c] + lane, level);
    f_store(error + line, weight - value);
}

/* Rounds the codes of a block whose scales are chosen. */
static void feedback_round(const struct mb_lattice *l, struct feedback_block *b,
                           const float *targets, const float *n, size_t stride, float *errors)
{
    for (size_t lane = 0; lane < MB_FEEDBACK_LANES; lane += F_LANES)
        for (size_t e = 0; e < l->block / PARTIAL_SUMS; e++) {
            const float *target = targets + lane;
            float *error = errors + lane;
            feedback_column(l, b, lane, target, n, stride, error, e, 0);
            feedback_column(l, b, lane, target, n, stride, error, e, 1);
            feedback_column(l, b, lane, target, n, stride, error, e, 2);
            feedback_column(l, b, lane, target, n, stride, error, e, 3);
            feedback_column(l, b, lane, target, n, stride, error, e, 4);
            feedback_column(l, b, lane, target, n, stride, error, e, 5);
            feedback_column(l, b, lane, target, n, stride, error, e, 6);
            feedback_column(l, b, lane, target, n, stride, error, e, 7);
        }
}

/* The scales of a block of each row, for its targets; row r of the weights starts at source + r *
 * stride. */
static void feedback_scales(enum mb_format format, const struct mb_lattice *l,
                            struct feedback_block *b, size_t rows, const float *source,
                            size_t stride, const float *targets, const float *variances)
{
    float target[MB_FEEDBACK_LANES * FEEDBACK_BLOCK];
    uint8_t stored[MB_FEEDBACK_LANES * FEEDBACK_BLOCK];
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < l->block; c++) {
            b->weight[c][r] = source[r * stride + c];
            target[r * l->block + c] = source[r * stride + c] + targets[c * MB_FEEDBACK_LANES + r];
        }
    search_blocks(format, target, rows, variances, l->block, stored);
    for (size_t r = 0; r < rows; r++) {
        l->ops->split(stored + r * l->block_bytes, &b->fields[r]);
        for (unsigned g = 0; g < l->block / l->group; g++)
            mb_fields_group(&b->fields[r], l->coding, l->kind, g, &b->scale[g][r],
                            &b->offset[g][r]);
    }
    for (unsigned g = 0; g < l->block / l->group; g++)
        for (size_t lane = 0; lane < MB_FEEDBACK_LANES; lane += F_LANES)
            f_store(b->inverse[g] + lane, f_inverse(f_load(b->scale[g] + lane)));
}

static void feedback_rows(enum mb_format format, const float *w, size_t rows,
                          const struct mb_second_moments *moments, void *dst, float *scratch)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const struct mb_lattice l = mb_lattice_of(format);
    const size_t k = moments->k, row_bytes = k / l.block * l.block_bytes;
    float *errors = scratch, *targets = scratch + LANES * k;
    struct feedback_block block;
    memset(scratch, 0, 2 * LANES * k * sizeof *scratch);
    memset(&block, 0, sizeof block);
    for (size_t at = 0; at < k; at += l.block) {
        uint8_t *stored = (uint8_t *)dst + at / l.block * l.block_bytes;
        multiply_all(moments->factor, k, at, at + l.block, at, errors, targets);
        feedback_scales(format, &l, &block, rows, w + at, k, targets + at * LANES,
                        moments->variances + at);
        feedback_round(&l, &block, targets + at * LANES, moments->factor + at * k + at, k,
                       errors + at * LANES);
        for (size_t r = 0; r < rows; r++) {
            for (size_t c = 0; c < l.block; c++)
                block.fields[r].code[c] = mb_lattice_code(&l, block.level[c][r]);
            l.ops->join(&block.fields[r], stored + r * row_bytes);
        }
    }
}

#endif
