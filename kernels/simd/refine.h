/* SPDX-License-Identifier: Apache-2.0 */
/* Coordinate descent on the blocks of a row (kernels/feedback.h), once per ISA level.
 *
 * With g = H e at hand, any change of values by a vector v in a few columns changes the error by
 * v H v - 2 v g, which needs only those columns' part of H. So a code moves to the value nearest to
 * q_j + g_j / H_jj, the best that it alone can do; a group's scale is tried at its neighbours, with
 * the codes rounded anew under each; a super-block's scales are refitted to the codes. Each step is
 * taken when it lowers the error, so the error only falls, and at the end no code can lower it by
 * itself. Within a block g is kept up to date; for all other columns it follows once per block, for
 * 16 rows at once.
 *
 * Codes are moved one after the other, but few move: a register of them is looked at, the first
 * that moves does, and those behind it are looked at again. */
#ifndef MIXBIT_KERNELS_SIMD_REFINE_H
#define MIXBIT_KERNELS_SIMD_REFINE_H

#include "kernels/feedback.h"
#include "kernels/simd/multiply.h"
#include "kernels/simd/nearest.h"

enum { REFINE_BLOCK = 256, GROUP_ROUNDS = 2, BLOCK_ROUNDS = 4 };

/* One row's block. Codes are kept as floats. */
struct block {
    const struct mb_lattice *lattice;
    struct mb_block_fields fields; /* but for the codes */
    float code[REFINE_BLOCK], value[REFINE_BLOCK], gradient[REFINE_BLOCK];
    const float *h, *diagonal; /* the block's part of H */
    size_t stride;
};

/* A group as it could be. */
struct trial {
    unsigned first, count; /* columns of the block */
    float scale, offset;
    float code[REFINE_BLOCK], value[REFINE_BLOCK], gradient[REFINE_BLOCK];
};

/* The error must fall by more than rounding could pretend. */
static bool lowers(float change, float scale) { return change < -1e-6f * scale; }

MB_LANE_INLINE void subtract(float *gradient, const float *h, float step, size_t n)
{
    for (size_t i = 0; i < n; i += F_LANES)
        f_store(gradient + i, f_load(gradient + i) - step * f_load(h + i));
}

/* gradient -= steps H for `registers` registers of columns; n steps, one after the other. */
MB_LANE_INLINE void subtract_tile(float *gradient, const float *h, size_t stride,
                                  const float *steps, size_t n, const size_t registers)
{
    f_lanes g[8];
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        g[v] = f_load(gradient + v * F_LANES);
    for (size_t i = 0; i < n; i++, h += stride)
#pragma GCC unroll 8
        for (size_t v = 0; v < registers; v++)
            g[v] -= steps[i] * f_load(h + v * F_LANES);
#pragma GCC unroll 8
    for (size_t v = 0; v < registers; v++)
        f_store(gradient + v * F_LANES, g[v]);
}

/* The same for all of n columns, a multiple of 16. */
static void subtract_all(float *gradient, const float *h, size_t stride, const float *steps,
                         size_t n)
{
    enum { WIDE = F_LANES == 16 ? 64 : 32 };
    size_t c = 0;
    for (; c + WIDE <= n; c += WIDE)
        subtract_tile(gradient + c, h + c, stride, steps, n, WIDE / F_LANES);
    for (; c < n; c += 16)
        subtract_tile(gradient + c, h + c, stride, steps, n, 16 / F_LANES);
}

/* Columns of a block or a group: their codes, values, gradient and part of H. */
struct columns {
    float *code, *value, *gradient;
    const float *h, *diagonal;
    size_t stride, count;
};

/* Columns [from, from + F_LANES): each code in turn moves where it is best; false when none
 * moved. */
MB_LANE_INLINE bool settle_some(const struct mb_lattice *l, const struct columns *a, size_t from,
                                f_lanes scale, f_lanes offset)
{
    const f_lanes diagonal = f_load(a->diagonal + from);
    f_lanes code = f_load(a->code + from), value = f_load(a->value + from);
    f_lanes gradient = f_load(a->gradient + from);
    unsigned left = (1u << F_LANES) - 1;
    bool moved = false;
    while (left != 0) {
        const f_lanes wanted = value + gradient / diagonal;
        f_lanes near, there;
        f_nearest(l, scale, offset, wanted, &near, &there);
        /* Another code may have the same value. */
        const f_mask better =
            f_both(f_differ(near, code), f_less(f_abs(there - wanted), f_abs(value - wanted)));
        const unsigned moves = f_bits(better) & left;
        if (moves == 0)
            break;
        const unsigned i = (unsigned)__builtin_ctz(moves);
        float steps[F_LANES];
        f_store(steps, there - value);
        const float *h = a->h + (from + i) * a->stride;
        gradient -= steps[i] * f_load(h + from); /* sooner than from memory */
        subtract(a->gradient, h, steps[i], a->count);
        code = f_choose(f_only(i), near, code);
        value = f_choose(f_only(i), there, value);
        left &= ~1u << i;
        moved = true;
    }
    if (moved) {
        f_store(a->code + from, code);
        f_store(a->value + from, value);
    }
    return moved;
}

/* The group under other scales, codes at first where the values were. A round need not look at what
 * was looked at after the last move of the one before: it is settled until something moves again.
 */
static void begin_trial(const struct block *b, struct trial *t, float scale, float offset)
{
    const f_lanes scales = f_all(scale), offsets = f_all(offset);
    const float *h = b->h + t->first * b->stride + t->first;
    float steps[REFINE_BLOCK];
    t->scale = scale;
    t->offset = offset;
    memcpy(t->gradient, b->gradient + t->first, t->count * sizeof *t->gradient);
    for (unsigned i = 0; i < t->count; i += F_LANES) {
        const f_lanes old = f_load(b->value + t->first + i);
        f_lanes code, value;
        f_nearest(b->lattice, scales, offsets, old, &code, &value);
        f_store(t->code + i, code);
        f_store(t->value + i, value);
        f_store(steps + i, value - old);
    }
    subtract_all(t->gradient, h, b->stride, steps, t->count);
    const struct columns group = {t->code,   t->value, t->gradient, h, b->diagonal + t->first,
                                  b->stride, t->count};
    unsigned unsettled = t->count;
    for (unsigned round = 0; round < GROUP_ROUNDS && unsettled > 0; round++) {
        unsigned last = 0;
        for (unsigned i = 0; i < (last > 0 ? t->count : unsettled); i += F_LANES)
            if (settle_some(b->lattice, &group, i, scales, offsets))
                last = i + F_LANES;
        unsettled = last;
    }
}

/* How a trial changes the error: v H v - 2 v g = -v (g + g'), as g' = g - H v. */
static float change_of(const struct block *b, const struct trial *t, float *scale)
{
    float change = 0.0f, sum = 0.0f;
    for (unsigned i = 0; i < t->count; i += F_LANES) {
        const f_lanes g = f_load(b->gradient + t->first + i);
        const f_lanes v = f_load(t->value + i) - f_load(b->value + t->first + i);
        float changes[F_LANES], sizes[F_LANES];
        f_store(changes, v * (g + f_load(t->gradient + i)));
        f_store(sizes, f_abs(v * g));
        for (unsigned lane = 0; lane < F_LANES; lane++) {
            change -= changes[lane];
            sum += sizes[lane];
        }
    }
    *scale = sum;
    return change;
}

/* ---- the scales of a group ---- */

/* Best of several ways to store a group's scales. */
struct choice {
    float code[REFINE_BLOCK], value[REFINE_BLOCK];
    float change;
    int16_t sub_scale, sub_min;
    uint16_t d, dmin;
};

static void try_fields(const struct block *b, struct mb_block_fields *fields, unsigned g,
                       struct trial *t, struct choice *choice)
{
    float scale, offset, noise;
    mb_fields_group(fields, b->lattice->coding, b->lattice->kind, g, &scale, &offset);
    if (!isfinite(scale) || !isfinite(offset))
        return;
    begin_trial(b, t, scale, offset);
    const float change = change_of(b, t, &noise);
    if (!(change < choice->change) || !lowers(change, noise))
        return;
    memcpy(choice->code, t->code, t->count * sizeof *t->code);
    memcpy(choice->value, t->value, t->count * sizeof *t->value);
    choice->change = change;
    choice->sub_scale = fields->sub_scale[g];
    choice->sub_min = fields->sub_min[g];
    choice->d = fields->d;
    choice->dmin = fields->dmin;
}

/* The range of stored sub-scales; sub-mins have the same where there are any. */
static void sub_range(enum mb_scale_kind kind, int *low, int *high)
{
    *low = 0;
    switch (kind) {
    case MB_SCALE_G16X2MIN: *high = 15; break;
    case MB_SCALE_G32X2MIN: *high = 63; break;
    case MB_SCALE_G16X2S6:
    case MB_SCALE_G32X2: *low = -32, *high = 31; break;
    case MB_SCALE_G16X2: *low = -128, *high = 127; break;
    case MB_SCALE_G32E8: *high = 252; break;
    default: *low = 1, *high = 126; break; /* UE4M3 */
    }
}

/* Neighbours of a sub-scale and its sub-min, or of a scale of one byte. */
static void try_neighbours(struct block *b, unsigned g, struct trial *t, struct choice *choice)
{
    struct mb_block_fields *fields = &b->fields;
    const int sub = fields->sub_scale[g], min = fields->sub_min[g];
    const bool has_min = mb_scale_has_min(b->lattice->kind);
    int low, high;
    sub_range(b->lattice->kind, &low, &high);
    for (int i = -1; i <= 1; i++)
        for (int j = has_min ? -1 : 0; j <= (has_min ? 1 : 0); j++) {
            if ((i == 0 && j == 0) || sub + i < low || sub + i > high ||
                (has_min && (min + j < 0 || min + j > high)))
                continue;
            fields->sub_scale[g] = (int16_t)(sub + i);
            if (has_min)
                fields->sub_min[g] = (int16_t)(min + j);
            try_fields(b, fields, g, t, choice);
        }
    fields->sub_scale[g] = (int16_t)sub;
    if (has_min)
        fields->sub_min[g] = (int16_t)min;
}

/* Sums of a least squares fit of values u * x + v * y to what the gradient asks for. */
struct fit {
    float xx, xy, yy, gx, gy;
};

/* A product of rows of H with x, n of them: dot products in 8 partial sums, as many rows at a time
 * as there are registers for their sums. */
static void products_of(const float *h, size_t stride, const float *x, size_t n, float *product)
{
    enum { REGISTERS = 8 / F_PART, ROWS = 8 / REGISTERS };
    for (size_t i = 0; i < n; i += ROWS, h += ROWS * stride) {
        f_part sum[ROWS][REGISTERS] = {{{0}}};
        for (size_t c = 0; c < n; c += 8)
#pragma GCC unroll 2
            for (size_t v = 0; v < REGISTERS; v++) {
                const f_part right = f_load_part(x + c + v * F_PART);
#pragma GCC unroll 8
                for (size_t r = 0; r < ROWS; r++)
                    sum[r][v] += f_load_part(h + r * stride + c + v * F_PART) * right;
            }
#pragma GCC unroll 8
        for (size_t r = 0; r < ROWS; r++)
            product[i + r] = f_fold(sum[r]);
    }
}

/* x' H x and the like over n columns, a multiple of 8; y NULL: none. */
static struct fit fit_of(const float *h, size_t stride, const float *gradient, const float *x,
                         const float *y, size_t n)
{
    struct fit f = {0};
    float hx[REFINE_BLOCK], hy[REFINE_BLOCK];
    products_of(h, stride, x, n, hx);
    if (y != NULL)
        products_of(h, stride, y, n, hy);
    for (size_t i = 0; i < n; i++) {
        f.xx += x[i] * hx[i];
        f.gx += x[i] * gradient[i];
        if (y != NULL) {
            f.xy += y[i] * hx[i];
            f.yy += y[i] * hy[i];
            f.gy += y[i] * gradient[i];
        }
    }
    return f;
}

/* The steps along x and y that take most off the error; false where they are not determined. */
static bool solve_fit(struct fit f, float *u, float *v)
{
    const float determinant = f.xx * f.yy - f.xy * f.xy;
    *v = 0.0f;
    if (determinant > 1e-5f * f.xx * f.yy) {
        *u = (f.gx * f.yy - f.gy * f.xy) / determinant;
        *v = (f.gy * f.xx - f.gx * f.xy) / determinant;
    } else if (f.xx > 0.0f) {
        *u = f.gx / f.xx;
    } else {
        return false;
    }
    return isfinite(*u) && isfinite(*v);
}

static float half(float value, uint16_t *bits)
{
    *bits = mb_half_within((double)value);
    return mb_half_to_float(*bits);
}

/* One scale in f16 for the group: as it is and somewhat smaller and larger, codes rounded under it,
 * refitted to these codes. */
static void try_halves(struct block *b, unsigned g, struct trial *t, struct choice *choice)
{
    static const float factors[] = {1.0f, 0.85f, 0.92f, 0.96f, 1.04f, 1.08f, 1.15f};
    const struct mb_lattice *l = b->lattice;
    const bool has_min = mb_scale_has_min(l->kind);
    const struct mb_block_fields old = b->fields;
    const float d = mb_half_to_float(old.d), min = mb_half_to_float(old.dmin);
    float x[REFINE_BLOCK], ones[REFINE_BLOCK];
    for (unsigned i = 0; i < t->count; i++)
        ones[i] = 1.0f;
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        /* About the middle of the range, where there is a minimum. */
        const float scale = d * factors[f],
                    offset = has_min ? min + 0.5f * (float)l->last * (d - scale) : 0.0f;
        begin_trial(b, t, scale * mb_coding_unit(l->coding), offset);
        for (unsigned i = 0; i < t->count; i++)
            x[i] = mb_lattice_level(l, (uint8_t)t->code[i]) * mb_coding_unit(l->coding);
        float u, v;
        if (!solve_fit(fit_of(b->h + t->first * b->stride + t->first, b->stride, t->gradient, x,
                              has_min ? ones : NULL, t->count),
                       &u, &v))
            continue;
        (void)half(scale + u, &b->fields.d);
        if (has_min)
            (void)half(offset + v, &b->fields.dmin);
        try_fields(b, &b->fields, g, t, choice);
    }
    b->fields.d = old.d;
    b->fields.dmin = old.dmin;
}

static void take(struct block *b, unsigned g, const struct choice *choice)
{
    const unsigned count = b->lattice->group;
    for (unsigned i = 0; i < count; i++) {
        const unsigned c = g * count + i;
        const float step = choice->value[i] - b->value[c];
        if (step != 0.0f)
            subtract(b->gradient, b->h + c * b->stride, step, b->lattice->block);
        b->value[c] = choice->value[i];
        b->code[c] = choice->code[i];
    }
    b->fields.sub_scale[g] = choice->sub_scale;
    b->fields.sub_min[g] = choice->sub_min;
    b->fields.d = choice->d;
    b->fields.dmin = choice->dmin;
}

static void refine_group(struct block *b, unsigned g)
{
    const struct mb_lattice *l = b->lattice;
    struct trial t;
    struct choice choice;
    t.first = g * l->group;
    t.count = l->group;
    choice.change = 0.0f;
    if (mb_scale_two_level(l->kind) || mb_scale_number(l->kind) != MB_NUMBER_F16)
        try_neighbours(b, g, &t, &choice);
    else
        try_halves(b, g, &t, &choice);
    if (choice.change < 0.0f)
        take(b, g, &choice);
}

/* ---- the scales of a super-block ---- */

/* d and dmin refitted to the codes and sub-scales, all at once. */
static void refine_super_scales(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    const bool has_min = mb_scale_has_min(l->kind);
    const float unit = mb_coding_unit(l->coding);
    float x[REFINE_BLOCK], y[REFINE_BLOCK];
    for (unsigned c = 0; c < l->block; c++) {
        const unsigned g = c / l->group;
        x[c] = unit * (float)b->fields.sub_scale[g] * mb_lattice_level(l, (uint8_t)b->code[c]);
        y[c] = has_min ? -(float)b->fields.sub_min[g] : 0.0f;
    }
    float u, v;
    if (!solve_fit(fit_of(b->h, b->stride, b->gradient, x, has_min ? y : NULL, l->block), &u, &v))
        return;
    struct mb_block_fields fields = b->fields;
    const float d = half(mb_half_to_float(fields.d) + u, &fields.d);
    const float dmin = half(mb_half_to_float(fields.dmin) + v, &fields.dmin);
    if (has_min && (d < 0.0f || dmin < 0.0f))
        return;
    float value[REFINE_BLOCK], steps[REFINE_BLOCK], gradient[REFINE_BLOCK];
    float change = 0.0f, noise = 0.0f;
    memcpy(gradient, b->gradient, l->block * sizeof *gradient);
    for (unsigned g = 0, c = 0; g < l->block / l->group; g++) {
        float scale, offset;
        mb_fields_group(&fields, l->coding, l->kind, g, &scale, &offset);
        for (const unsigned end = c + l->group; c < end; c++) {
            value[c] = scale * mb_lattice_level(l, (uint8_t)b->code[c]) + offset;
            steps[c] = value[c] - b->value[c];
        }
    }
    subtract_all(gradient, b->h, b->stride, steps, l->block);
    for (unsigned c = 0; c < l->block; c++) {
        change -= steps[c] * (b->gradient[c] + gradient[c]);
        noise += fabsf(steps[c] * b->gradient[c]);
    }
    if (!lowers(change, noise))
        return;
    b->fields = fields;
    memcpy(b->value, value, l->block * sizeof *value);
    memcpy(b->gradient, gradient, l->block * sizeof *gradient);
}

/* ---- a block, a row ---- */

static void refine_codes(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    const struct columns all = {b->code,     b->value,  b->gradient, b->h,
                                b->diagonal, b->stride, l->block};
    unsigned unsettled = l->block;
    for (unsigned round = 0; round < BLOCK_ROUNDS && unsettled > 0; round++) {
        unsigned last = 0;
        for (unsigned c = 0; c < (last > 0 ? l->block : unsettled);) {
            float scale, offset;
            mb_fields_group(&b->fields, l->coding, l->kind, c / l->group, &scale, &offset);
            for (const unsigned end = c + l->group; c < end; c += F_LANES)
                if (settle_some(l, &all, c, f_all(scale), f_all(offset)))
                    last = c + F_LANES;
        }
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
    l->ops->dequantize_row(stored, before, l->block);
    memcpy(b->value, before, l->block * sizeof *before);
    for (size_t c = 0; c < l->block; c++) {
        b->code[c] = (float)b->fields.code[c];
        b->gradient[c] = g[c * MB_FEEDBACK_LANES + r];
    }
    refine_block(b);
    for (size_t c = 0; c < l->block; c++)
        b->fields.code[c] = (uint8_t)b->code[c];
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

static void sweep(const struct mb_lattice *l, size_t rows, const struct mb_second_moments *moments,
                  uint8_t *blocks, size_t row_bytes, float *e, float *g)
{
    enum { LANES = MB_FEEDBACK_LANES };
    const size_t k = moments->k;
    float steps[REFINE_BLOCK * LANES], diagonal[REFINE_BLOCK];
    uint16_t index[REFINE_BLOCK];
    struct block b = {.lattice = l, .diagonal = diagonal, .stride = k};
    memset(steps, 0, sizeof steps);
    for (size_t at = 0; at < k; at += l->block) {
        uint8_t *stored = blocks + at / l->block * l->block_bytes;
        b.h = moments->h + at * k + at;
        for (size_t c = 0; c < l->block; c++)
            diagonal[c] = b.h[c * k + c];
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
