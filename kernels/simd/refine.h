/* SPDX-License-Identifier: Apache-2.0 */
/* Coordinate descent on the blocks of a row (kernels/feedback.h), once per ISA level.
 *
 * With g = H e at hand, any change of values by a vector v in a few columns changes the error by
 * v H v - 2 v g, which needs only those columns' part of H. So a code moves to the value nearest to
 * q_j + g_j / H_jj, the best that it alone can do; a group's scale is tried at its neighbours, with
 * the codes rounded anew under each; a super-block's scales are refitted to the codes. Each step is
 * taken when it lowers the error, so the error only falls, and at the end no code can lower it by
 * itself. Within a block g is kept up to date; for all other columns it follows once per block, for
 * 16 rows at once. */
#ifndef MIXBIT_KERNELS_SIMD_REFINE_H
#define MIXBIT_KERNELS_SIMD_REFINE_H

#include "kernels/feedback.h"
#include "kernels/simd/multiply.h"
#include "kernels/simd/refine_scales.h"

enum { BLOCK_ROUNDS = 4 };

/* ---- a block, a row ---- */

static void refine_codes(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    const struct columns all = {b->level,   b->value,  b->gradient, b->h,
                                b->inverse, b->stride, l->block};
    unsigned unsettled = l->block;
    for (unsigned round = 0; round < BLOCK_ROUNDS && unsettled > 0; round++) {
        unsigned last = 0;
        for (unsigned c = 0; c < (last > 0 ? l->block : unsettled); c += F_LANES)
            if (settle_some(l, &all, c, &b->scales[c / l->group]))
                last = c + F_LANES;
        unsettled = last;
    }
}

static void refine_block(struct block *b)
{
    refine_codes(b);
    for (unsigned g = 0; g < b->lattice->block / b->lattice->group; g++)
        refine_group(b, g);
    if (mb_scale_two_level(b->lattice->kind))
        refine_super_scales(b);
    refine_codes(b);
}

/* e H e of 16 rows, e and g as lanes. */
static void errors_of(const float *e, const float *g, size_t k, double error[MB_FEEDBACK_LANES])
{
    enum { LANES = MB_FEEDBACK_LANES };
    for (size_t l = 0; l < LANES; l++)
        error[l] = 0.0;
    for (size_t c = 0; c < k; c++)
        for (size_t l = 0; l < LANES; l++)
            error[l] += (double)e[c * LANES + l] * (double)g[c * LANES + l];
}

/* Errors of blocks as lanes, and their gradient. */
static void measure(const struct mb_lattice *l, const float *w, size_t rows,
                    const struct mb_second_moments *moments, const void *blocks, float *e, float *g)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const size_t k = moments->k, row_bytes = k / l->block * l->block_bytes;
    memset(e, 0, LANES * k * sizeof *e);
    memset(g, 0, LANES * k * sizeof *g);
    for (size_t r = 0; r < rows; r++)
        for (size_t b = 0; b < k; b += l->block) {
            float value[REFINE_BLOCK];
            l->ops->dequantize_row((const uint8_t *)blocks + r * row_bytes +
                                       b / l->block * l->block_bytes,
                                   value, l->block);
            for (size_t c = 0; c < l->block; c++)
                e[(b + c) * LANES + r] = w[r * k + b + c] - value[c];
        }
    multiply_all(moments->h, k, 0, k, k, e, g);
}

/* One row's block in place; the changes of its values go to `steps` and, subtracted, to e. */
static void sweep_row(struct block *b, uint8_t *stored, size_t r, const float *g, float *e,
                      float *steps)
{
    const struct mb_lattice *l = b->lattice;
    float before[REFINE_BLOCK];
    l->ops->split(stored, &b->fields);
    for (unsigned group = 0; group < l->block / l->group; group++)
        (void)scales_under(l, &b->fields, group, &b->scales[group]);
    for (size_t c = 0; c < l->block; c++) {
        const struct scales *s = &b->scales[c / l->group];
        b->level[c] = mb_lattice_level(l, b->fields.code[c]);
        b->value[c] = before[c] = s->scale * b->level[c] + s->offset;
        b->gradient[c] = g[c * MB_FEEDBACK_LANES + r];
    }
    refine_block(b);
    for (size_t c = 0; c < l->block; c++)
        b->fields.code[c] = mb_lattice_code(l, b->level[c]);
    l->ops->join(&b->fields, stored);
    for (size_t c = 0; c < l->block; c++) {
        const float step = b->value[c] - before[c];
        steps[c * MB_FEEDBACK_LANES + r] = step;
        e[c * MB_FEEDBACK_LANES + r] -= step;
    }
}

/* Leaves the lines in which some row changed, with their numbers in `index`; returns how many. A
 * line of zeros would add zeros: H is finite. */
static size_t keep_changed(float *steps, size_t n, uint16_t *index)
{
    size_t count = 0;
    for (size_t c = 0; c < n; c++) {
        const float *line = steps + c * MB_FEEDBACK_LANES;
        bool changed = false;
        for (size_t r = 0; r < MB_FEEDBACK_LANES; r++)
            changed |= line[r] != 0.0f;
        if (!changed)
            continue;
        memmove(steps + count * MB_FEEDBACK_LANES, line, MB_FEEDBACK_LANES * sizeof *line);
        index[count++] = (uint16_t)c;
    }
    return count;
}

/* What all rows need to know of a block of H. */
static void look_at_block(const struct block *b, float *inverse, float *ones)
{
    const unsigned group = b->lattice->group;
    float all[REFINE_BLOCK];
    for (unsigned c = 0; c < b->lattice->block; c++) {
        inverse[c] = 1.0f / b->h[c * b->stride + c];
        all[c] = -1.0f;
        ones[c] = 0.0f;
    }
    for (unsigned c = 0; c < b->lattice->block; c += group)
        subtract_all(ones + c, group, b->h + c * b->stride + c, b->stride, all, group);
}

static void sweep(const struct mb_lattice *l, size_t rows, const struct mb_second_moments *moments,
                  uint8_t *blocks, size_t row_bytes, float *e, float *g)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const size_t k = moments->k;
    float steps[REFINE_BLOCK * LANES], inverse[REFINE_BLOCK], ones[REFINE_BLOCK];
    uint16_t index[REFINE_BLOCK];
    struct block b = {.lattice = l, .inverse = inverse, .ones = ones, .stride = k};
    memset(steps, 0, sizeof steps);
    for (size_t at = 0; at < k; at += l->block) {
        uint8_t *stored = blocks + at / l->block * l->block_bytes;
        b.h = moments->h + at * k + at;
        look_at_block(&b, inverse, ones);
        for (size_t r = 0; r < rows; r++)
            sweep_row(&b, stored + r * row_bytes, r, g + at * LANES, e + at * LANES, steps);
        const size_t changed = keep_changed(steps, l->block, index);
        if (changed > 0)
            multiply_some(moments->h + at, k, k, index, changed, steps, g);
    }
}

static void refine_rows(enum mb_format format, const float *w, size_t rows,
                        const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                        double *errors, float *scratch)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const struct mb_lattice l = mb_lattice_of(format);
    const size_t k = moments->k, row_bytes = k / l.block * l.block_bytes;
    float *e = scratch, *g = scratch + LANES * k;
    double before[LANES], after[LANES];
    uint8_t *made = (uint8_t *)(g + LANES * k);
    memcpy(made, blocks, rows * row_bytes);
    measure(&l, w, rows, moments, made, e, g);
    errors_of(e, g, k, before);
    for (size_t s = 0; s < sweeps; s++)
        sweep(&l, rows, moments, made, row_bytes, e, g);
    measure(&l, w, rows, moments, made, e, g);
    errors_of(e, g, k, after);
    for (size_t r = 0; r < rows; r++) {
        const bool lower = after[r] < before[r];
        errors[r] = lower ? after[r] : before[r];
        if (lower)
            memcpy((uint8_t *)blocks + r * row_bytes, made + r * row_bytes, row_bytes);
    }
}

#endif
