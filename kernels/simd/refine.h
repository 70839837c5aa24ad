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
/* By how much of a block's error other scales must lower it: less is not worth the columns of H
 * that each of the changed values costs. */
#define LEAST_GAIN 2e-4f

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

/* e H e of a row. */
static double error_of(const float *e, const float *g, size_t k)
{
    double sums[8] = {0}, error = 0.0;
    for (size_t c = 0; c < k; c += 8)
        for (size_t i = 0; i < 8; i++)
            sums[i] += (double)e[c + i] * (double)g[c + i];
    for (size_t i = 0; i < 8; i++)
        error += sums[i];
    return error;
}

/* Errors of blocks and their gradient: [16][k], while lanes is room for both as multiply_all takes
 * and makes them. */
static void measure(const struct mb_lattice *l, const float *w, size_t rows,
                    const struct mb_second_moments *moments, const void *blocks, float *e, float *g,
                    float *lanes)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const size_t k = moments->k, row_bytes = k / l->block * l->block_bytes;
    float *right = lanes, *product = lanes + LANES * k;
    memset(lanes, 0, 2 * LANES * k * sizeof *lanes);
    for (size_t r = 0; r < rows; r++) {
        l->ops->dequantize_row((const uint8_t *)blocks + r * row_bytes, e + r * k, k);
        for (size_t c = 0; c < k; c++) {
            e[r * k + c] = w[r * k + c] - e[r * k + c];
            right[c * LANES + r] = e[r * k + c];
        }
    }
    multiply_all(moments->h, k, 0, k, k, right, product);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < k; c++)
            g[r * k + c] = product[c * LANES + r];
}

/* How the values of a row's block changed: the columns that did. */
struct steps {
    size_t count;
    uint16_t column[REFINE_BLOCK];
    float step[REFINE_BLOCK];
};

/* One row's block in place; e and g are its columns' own. */
static void sweep_row(struct block *b, uint8_t *stored, float *g, float *e, struct steps *steps)
{
    const struct mb_lattice *l = b->lattice;
    float before[REFINE_BLOCK];
    l->ops->split(stored, &b->fields);
    for (unsigned group = 0, c = 0; group < l->block / l->group; group++) {
        struct scales *s = &b->scales[group];
        (void)scales_under(l, &b->fields, group, s);
        for (const unsigned end = c + l->group; c < end; c++) {
            b->level[c] = mb_lattice_level(l, b->fields.code[c]);
            b->value[c] = before[c] = s->scale * b->level[c] + s->offset;
        }
    }
    b->least = LEAST_GAIN * dot(e, g, l->block);
    memcpy(b->gradient, g, l->block * sizeof *g);
    refine_block(b);
    for (size_t c = 0; c < l->block; c++)
        b->fields.code[c] = mb_lattice_code(l, b->level[c]);
    l->ops->join(&b->fields, stored);
    memcpy(g, b->gradient, l->block * sizeof *g);
    steps->count = 0;
    for (size_t c = 0; c < l->block; c++) {
        const float step = b->value[c] - before[c];
        steps->column[steps->count] = (uint16_t)c;
        steps->step[steps->count] = step;
        steps->count += step != 0.0f;
        e[c] -= step;
    }
}

/* gradient -= steps H for `registers` registers of columns. */
MB_LANE_INLINE void follow_tile(float *gradient, const float *h, size_t stride,
                                const struct steps *steps, const size_t registers)
{
    f_lanes g[8];
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        g[v] = f_load(gradient + v * F_LANES);
    for (size_t i = 0; i < steps->count; i++) {
        const float *line = h + steps->column[i] * stride;
#pragma GCC unroll 8
        for (size_t v = 0; v < registers; v++)
            g[v] -= steps->step[i] * f_load(line + v * F_LANES);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        f_store(gradient + v * F_LANES, g[v]);
}

/* Columns [c, end) of `follow`. */
static void follow_columns(float *g, size_t k, const float *h, size_t block,
                           const struct steps *steps, size_t rows, bool copied, size_t c,
                           size_t end)
{
    enum { WIDE = F_LANES == 16 ? 64 : 32 };
    float tile[REFINE_BLOCK * WIDE];
    for (; c + WIDE <= end; c += WIDE) {
        for (size_t i = 0; copied && i < block; i++)
            memcpy(tile + i * WIDE, h + i * k + c, WIDE * sizeof *tile);
        for (size_t r = 0; r < rows; r++)
            follow_tile(g + r * k + c, copied ? tile : h + c, copied ? WIDE : k, &steps[r],
                        WIDE / F_LANES);
    }
    for (; c < end; c += 16)
        for (size_t r = 0; r < rows; r++)
            follow_tile(g + r * k + c, h + c, k, &steps[r], 16 / F_LANES);
}

/* The gradient of all other columns follows the steps of the block at `at`, whose rows of H are h.
 * Rows change other columns, so each has its own list of them; what they share is the tile of H,
 * which stays in L1 while all rows go through it. Lines of a block of 256 would push each other out
 * of there (they are a multiple of 64 lines apart for many k), so its tiles are copied, unless few
 * are read. */
static void follow(float *g, size_t k, const float *h, size_t at, size_t block,
                   const struct steps *steps, size_t rows)
{
    size_t total = 0;
    for (size_t r = 0; r < rows; r++)
        total += steps[r].count;
    const bool copied = block > 64 && total > 2 * block;
    follow_columns(g, k, h, block, steps, rows, copied, 0, at);
    follow_columns(g, k, h, block, steps, rows, copied, at + block, k);
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
                  uint8_t *blocks, size_t row_bytes, float *e, float *g, bool again)
{
    const size_t k = moments->k;
    float inverse[REFINE_BLOCK], ones[REFINE_BLOCK];
    struct steps steps[MB_FEEDBACK_LANES];
    struct block b = {.lattice = l, .inverse = inverse, .ones = ones, .stride = k, .again = again};
    for (size_t at = 0; at < k; at += l->block) {
        uint8_t *stored = blocks + at / l->block * l->block_bytes;
        b.h = moments->h + at * k + at;
        look_at_block(&b, inverse, ones);
        for (size_t r = 0; r < rows; r++)
            sweep_row(&b, stored + r * row_bytes, g + r * k + at, e + r * k + at, &steps[r]);
        follow(g, k, moments->h + at * k, at, l->block, steps, rows);
    }
}

static void refine_rows(enum mb_format format, const float *w, size_t rows,
                        const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                        double *errors, float *scratch)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const struct mb_lattice l = mb_lattice_of(format);
    const size_t k = moments->k, row_bytes = k / l.block * l.block_bytes;
    float *e = scratch, *g = scratch + LANES * k, *lanes = scratch + 2 * LANES * k;
    uint8_t *made = (uint8_t *)lanes;
    double before[LANES];
    measure(&l, w, rows, moments, blocks, e, g, lanes);
    for (size_t r = 0; r < rows; r++)
        before[r] = error_of(e + r * k, g + r * k, k);
    memcpy(made, blocks, rows * row_bytes);
    for (size_t s = 0; s < sweeps; s++)
        sweep(&l, rows, moments, made, row_bytes, e, g, s > 0);
    for (size_t r = 0; r < rows; r++) {
        const double after = error_of(e + r * k, g + r * k, k);
        const bool lower = after < before[r];
        errors[r] = lower ? after : before[r];
        if (lower)
            memcpy((uint8_t *)blocks + r * row_bytes, made + r * row_bytes, row_bytes);
    }
}

#endif
