/* SPDX-License-Identifier: Apache-2.0 */
/* Scales of a group or a super-block, changed where that lowers the error (refine.h), once per ISA
 * level.
 *
 * Under other scales the values of a group are s' level + o' for s level + o, so its gradient is
 * g - (s' - s) H level - (o' - o) H 1: two products that are made once per group and block, not a
 * product of H and all steps for each trial. Levels that are others under the new scales cost a
 * column of H each. H level of a trial follows from what its gradient became. */
#ifndef MIXBIT_KERNELS_SIMD_REFINE_SCALES_H
#define MIXBIT_KERNELS_SIMD_REFINE_SCALES_H

#include "kernels/simd/settle.h"

enum { REFINE_BLOCK = 256, REFINE_GROUPS = REFINE_BLOCK / 16, GROUP_ROUNDS = 2 };

/* One row's block. Codes are kept as levels. */
struct block {
    const struct mb_lattice *lattice;
    struct mb_block_fields fields; /* but for the codes */
    struct scales scales[REFINE_GROUPS];
    float level[REFINE_BLOCK], value[REFINE_BLOCK], gradient[REFINE_BLOCK];
    /* The block's part of H; inverse: of its diagonal; ones: H 1 within each group. */
    const float *h, *inverse, *ones;
    size_t stride;
    float least; /* by which other scales must lower the error */
    bool again;  /* not the first sweep */
};

/* A group as it is, or as it could be. product: H level within the group. */
struct group {
    struct scales scales;
    float level[REFINE_BLOCK], value[REFINE_BLOCK], gradient[REFINE_BLOCK], product[REFINE_BLOCK];
};

/* Which one; its own part of what a block has. */
struct place {
    unsigned number, count; /* columns */
    const float *h, *inverse, *ones;
};

/* The error must fall by more than rounding could pretend. */
static bool lowers(float change, float scale) { return change < -1e-6f * scale; }

/* ---- sums in 8 partial sums ---- */

enum { PART_REGISTERS = 8 / F_PART };

MB_LANE_INLINE float dot(const float *a, const float *b, size_t n)
{
    f_part sum[PART_REGISTERS] = {{0}};
    for (size_t i = 0; i < n; i += 8)
#pragma GCC unroll 2
        for (size_t v = 0; v < PART_REGISTERS; v++)
            sum[v] += f_load_part(a + i + v * F_PART) * f_load_part(b + i + v * F_PART);
    return f_fold(sum);
}

MB_LANE_INLINE float sum_of(const float *a, size_t n)
{
    f_part sum[PART_REGISTERS] = {{0}};
    for (size_t i = 0; i < n; i += 8)
#pragma GCC unroll 2
        for (size_t v = 0; v < PART_REGISTERS; v++)
            sum[v] += f_load_part(a + i + v * F_PART);
    return f_fold(sum);
}

/* How new values and their gradient change the error: v H v - 2 v g = -v (g + g'), as g' = g - H v.
 * False when it is not lower. */
MB_LANE_INLINE bool change_of(const float *value, const float *gradient, const float *new_value,
                              const float *new_gradient, size_t n, float *change)
{
    f_part sum[PART_REGISTERS] = {{0}}, size[PART_REGISTERS] = {{0}};
    for (size_t i = 0; i < n; i += 8)
#pragma GCC unroll 2
        for (size_t v = 0; v < PART_REGISTERS; v++) {
            const size_t at = i + v * F_PART;
            const f_part g = f_load_part(gradient + at),
                         step = f_load_part(new_value + at) - f_load_part(value + at);
            const f_part square = step * g * (step * g);
            sum[v] += step * (g + f_load_part(new_gradient + at));
            size[v] += square;
        }
    *change = -f_fold(sum);
    return lowers(*change, sqrtf(f_fold(size)));
}

/* ---- a group ---- */

/* Levels are kept, the gradient follows. */
MB_LANE_INLINE void scale_group(const struct group *from, const struct place *p, struct scales s,
                                struct group *to, const unsigned count)
{
    const float scale = s.scale - from->scales.scale, offset = s.offset - from->scales.offset;
    to->scales = s;
    for (unsigned i = 0; i < count; i += F_LANES) {
        const f_lanes level = f_load(from->level + i);
        f_store(to->level + i, level);
        f_store(to->value + i, s.scale * level + s.offset);
        f_store(to->gradient + i, f_load(from->gradient + i) - scale * f_load(from->product + i) -
                                      offset * f_load(p->ones + i));
    }
}

/* Then levels are those nearest to the values that were. */
MB_LANE_INLINE void round_group(const struct mb_lattice *l, const struct columns *a,
                                const struct scales *s, const float *wanted, const unsigned count)
{
    for (unsigned i = 0; i < count; i += F_LANES) {
        const f_lanes level = f_load(a->level + i);
        const f_lanes near = f_nearest(l, (f_load(wanted + i) - s->offset) * s->inverse);
        float steps[F_LANES];
        f_store(steps, s->scale * (near - level));
        f_store(a->level + i, near);
        f_store(a->value + i, s->scale * near + s->offset);
        for (unsigned left = f_bits(f_differ(near, level)); left != 0; left &= left - 1) {
            const unsigned c = (unsigned)__builtin_ctz(left);
            subtract(a->gradient, a->h + (i + c) * a->stride, steps[c], count);
        }
    }
}

MB_LANE_INLINE void settle_group(const struct block *b, const struct place *p, struct group *g,
                                 const float *wanted, const unsigned count)
{
    const struct columns columns = {g->level,   g->value,  g->gradient, p->h,
                                    p->inverse, b->stride, count};
    if (wanted != NULL)
        round_group(b->lattice, &columns, &g->scales, wanted, count);
    settle(b->lattice, &columns, &g->scales, count, GROUP_ROUNDS);
}

/* A group under other scales, its codes settled. wanted NULL: codes as they are at first, else
 * those nearest to these values. The usual counts are constants, so that loops have no ends. */
static void move_group(const struct block *b, const struct place *p, const struct group *from,
                       struct scales s, const float *wanted, struct group *to)
{
    if (p->count == 32) {
        scale_group(from, p, s, to, 32);
        settle_group(b, p, to, wanted, 32);
    } else if (p->count == 16) {
        scale_group(from, p, s, to, 16);
        settle_group(b, p, to, wanted, 16);
    } else {
        scale_group(from, p, s, to, p->count);
        settle_group(b, p, to, wanted, p->count);
    }
}

/* Best of several ways to store a group's scales. */
struct choice {
    struct group *group; /* NULL: as it is */
    float change;
    int16_t sub_scale, sub_min;
    uint16_t d, dmin;
};

/* What refining a group works with: as it is, trials, the best of them. */
struct trials {
    struct group now, groups[3];
    struct group *trial, *best; /* of groups */
    struct choice choice;
};

static bool scales_under(const struct mb_lattice *l, const struct mb_block_fields *fields,
                         unsigned g, struct scales *s)
{
    float scale, offset;
    mb_fields_group(fields, l->coding, l->kind, g, &scale, &offset);
    *s = scales_of(scale, offset);
    return isfinite(scale) && isfinite(offset);
}

/* The group as the block's fields have it now, from `from`; see move_group. */
static void try_fields(const struct block *b, const struct place *p, const struct group *from,
                       const float *wanted, struct trials *t)
{
    struct scales s;
    float change;
    if (!scales_under(b->lattice, &b->fields, p->number, &s))
        return;
    move_group(b, p, from, s, wanted, t->trial);
    if (!change_of(t->now.value, t->now.gradient, t->trial->value, t->trial->gradient, p->count,
                   &change) ||
        !(change < t->choice.change))
        return;
    struct group *const other = t->best;
    t->best = t->trial;
    t->trial = other;
    t->choice = (struct choice){
        t->best,     change,        b->fields.sub_scale[p->number], b->fields.sub_min[p->number],
        b->fields.d, b->fields.dmin};
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
static void try_neighbours(struct block *b, const struct place *p, struct trials *t)
{
    struct mb_block_fields *fields = &b->fields;
    const unsigned g = p->number;
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
            try_fields(b, p, &t->now, t->now.value, t);
        }
    fields->sub_scale[g] = (int16_t)sub;
    if (has_min)
        fields->sub_min[g] = (int16_t)min;
}

/* Sums of a least squares fit of values u * x + v * y to what the gradient asks for. */
struct fit {
    float xx, xy, yy, gx, gy;
};

static struct fit fit_group(const struct group *g, const struct place *p, bool has_min)
{
    struct fit fit = {.xx = dot(g->level, g->product, p->count),
                      .gx = dot(g->level, g->gradient, p->count)};
    if (has_min) {
        fit.xy = sum_of(g->product, p->count);
        fit.yy = sum_of(p->ones, p->count);
        fit.gy = sum_of(g->gradient, p->count);
    }
    return fit;
}

/* A step of u along x and v along y adds `cost`, a square, and takes `gain` off the error. */
static void weigh(const struct fit *f, float u, float v, float *cost, float *gain)
{
    *cost = u * (u * f->xx + 2.0f * v * f->xy) + v * v * f->yy;
    *gain = 2.0f * (u * f->gx + v * f->gy);
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

/* H level of a trial: its gradient fell by scale * H * (what was added to its levels). */
static void find_product(const struct group *from, const struct place *p, struct group *to)
{
    const float scale = to->scales.scale - from->scales.scale,
                offset = to->scales.offset - from->scales.offset;
    for (unsigned i = 0; i < p->count; i += F_LANES) {
        const f_lanes product = f_load(from->product + i);
        const f_lanes start =
            f_load(from->gradient + i) - scale * product - offset * f_load(p->ones + i);
        f_store(to->product + i, product + (start - f_load(to->gradient + i)) * to->scales.inverse);
    }
}

/* The group under a scale in f16 that is refitted to codes: those of `start`. */
static void try_fit(struct block *b, const struct place *p, const struct group *start,
                    struct trials *t)
{
    const bool has_min = mb_scale_has_min(b->lattice->kind);
    float u, v;
    if (!solve_fit(fit_group(start, p, has_min), &u, &v))
        return;
    (void)half((start->scales.scale + u) / mb_coding_unit(b->lattice->coding), &b->fields.d);
    if (has_min)
        (void)half(start->scales.offset + v, &b->fields.dmin);
    try_fields(b, p, start, NULL, t);
}

/* One scale in f16 for the group, refitted to its codes as they are and as they are when rounded
 * under somewhat smaller and larger scales. Those farthest away seldom win, and hardly ever in
 * later sweeps. */
static void try_halves(struct block *b, const struct place *p, struct trials *t)
{
    static const float factors[] = {0.96f, 1.04f, 0.92f, 1.08f};
    const struct mb_lattice *l = b->lattice;
    const struct mb_block_fields old = b->fields;
    const struct scales *now = &t->now.scales;
    const float last = mb_scale_has_min(l->kind) ? (float)l->last : 0.0f;
    struct group *start = &t->groups[2];
    if (now->inverse == 0.0f)
        return;
    try_fit(b, p, &t->now, t);
    for (size_t f = 0; f < (b->again ? 2 : sizeof factors / sizeof *factors); f++) {
        /* About the middle of the range, where there is a minimum. */
        const float scale = now->scale * factors[f];
        const struct scales s = scales_of(scale, now->offset + 0.5f * last * (now->scale - scale));
        move_group(b, p, &t->now, s, t->now.value, start);
        find_product(&t->now, p, start);
        try_fit(b, p, start, t);
    }
    b->fields.d = old.d;
    b->fields.dmin = old.dmin;
}

static void take(struct block *b, const struct place *p, const struct choice *choice)
{
    const unsigned first = p->number * p->count;
    float steps[REFINE_BLOCK];
    for (unsigned i = 0; i < p->count; i += F_LANES)
        f_store(steps + i, f_load(choice->group->value + i) - f_load(b->value + first + i));
    subtract_all(b->gradient, b->lattice->block, b->h + first * b->stride, b->stride, steps,
                 p->count);
    memcpy(b->value + first, choice->group->value, p->count * sizeof *b->value);
    memcpy(b->level + first, choice->group->level, p->count * sizeof *b->level);
    b->scales[p->number] = choice->group->scales;
    b->fields.sub_scale[p->number] = choice->sub_scale;
    b->fields.sub_min[p->number] = choice->sub_min;
    b->fields.d = choice->d;
    b->fields.dmin = choice->dmin;
}

static void refine_group(struct block *b, unsigned g)
{
    const struct mb_lattice *l = b->lattice;
    const unsigned first = g * l->group;
    const struct place p = {g, l->group, b->h + first * b->stride + first, b->inverse + first,
                            b->ones + first};
    struct trials t;
    float negative[REFINE_BLOCK];
    t.trial = &t.groups[0];
    t.best = &t.groups[1];
    t.choice = (struct choice){0};
    t.now.scales = b->scales[g];
    memcpy(t.now.level, b->level + first, p.count * sizeof *t.now.level);
    memcpy(t.now.value, b->value + first, p.count * sizeof *t.now.value);
    memcpy(t.now.gradient, b->gradient + first, p.count * sizeof *t.now.gradient);
    memset(t.now.product, 0, p.count * sizeof *t.now.product);
    for (unsigned i = 0; i < p.count; i += F_LANES)
        f_store(negative + i, -f_load(t.now.level + i));
    subtract_all(t.now.product, p.count, p.h, b->stride, negative, p.count);
    if (mb_scale_two_level(l->kind) || mb_scale_number(l->kind) != MB_NUMBER_F16)
        try_neighbours(b, &p, &t);
    else
        try_halves(b, &p, &t);
    if (t.choice.group != NULL && t.choice.change < -b->least)
        take(b, &p, &t.choice);
}

/* ---- the scales of a super-block ---- */

/* What x H x and the like need of a product of H with x, n of it: the part of each row left of its
 * columns' eight twice and those eight once, as H is symmetric. Dot products in 8 partial sums, as
 * many rows at a time as there are registers for their sums. */
static void products_of(const float *h, size_t stride, const float *x, size_t n, float *product)
{
    enum { ROWS = 8 / PART_REGISTERS };
    for (size_t i = 0; i < n; i += ROWS, h += ROWS * stride) {
        const size_t eight = i / 8 * 8;
        f_part sum[ROWS][PART_REGISTERS] = {{{0}}};
        for (size_t c = 0; c < eight + 8; c += 8) {
            if (c == eight)
#pragma GCC unroll 8
                for (size_t r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                    for (size_t v = 0; v < PART_REGISTERS; v++)
                        sum[r][v] += sum[r][v];
#pragma GCC unroll 2
            for (size_t v = 0; v < PART_REGISTERS; v++) {
                const f_part right = f_load_part(x + c + v * F_PART);
#pragma GCC unroll 8
                for (size_t r = 0; r < ROWS; r++)
                    sum[r][v] += f_load_part(h + r * stride + c + v * F_PART) * right;
            }
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < ROWS; r++)
            product[i + r] = f_fold(sum[r]);
    }
}

/* Of values u * x + v * y in a block. */
static struct fit fit_block(const struct block *b, const float *x, const float *y, bool has_min)
{
    const size_t n = b->lattice->block;
    float hx[REFINE_BLOCK], hy[REFINE_BLOCK];
    products_of(b->h, b->stride, x, n, hx);
    struct fit fit = {.xx = dot(x, hx, n), .gx = dot(x, b->gradient, n)};
    if (has_min) {
        products_of(b->h, b->stride, y, n, hy);
        fit.xy = 0.5f * (dot(y, hx, n) + dot(x, hy, n));
        fit.yy = dot(y, hy, n);
        fit.gy = dot(y, b->gradient, n);
    }
    return fit;
}

/* d and dmin refitted to the codes and sub-scales, all at once. */
static void refine_super_scales(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    const bool has_min = mb_scale_has_min(l->kind);
    float x[REFINE_BLOCK], y[REFINE_BLOCK];
    for (unsigned g = 0, c = 0; g < l->block / l->group; g++) {
        const float scale = mb_coding_unit(l->coding) * (float)b->fields.sub_scale[g];
        for (const unsigned end = c + l->group; c < end; c += F_LANES) {
            f_store(x + c, scale * f_load(b->level + c));
            f_store(y + c, f_all(-(float)b->fields.sub_min[g]));
        }
    }
    const struct fit fit = fit_block(b, x, y, has_min);
    struct mb_block_fields fields = b->fields;
    const float d = mb_half_to_float(fields.d), dmin = mb_half_to_float(fields.dmin);
    float u, v;
    if (!solve_fit(fit, &u, &v))
        return;
    const float new_d = half(d + u, &fields.d), new_min = half(dmin + v, &fields.dmin);
    if (has_min && (new_d < 0.0f || new_min < 0.0f))
        return;
    float cost, gain;
    weigh(&fit, new_d - d, has_min ? new_min - dmin : 0.0f, &cost, &gain);
    if (!(cost - gain < -b->least))
        return;
    float value[REFINE_BLOCK], steps[REFINE_BLOCK], gradient[REFINE_BLOCK], change;
    struct scales scales[REFINE_GROUPS];
    memcpy(gradient, b->gradient, l->block * sizeof *gradient);
    for (unsigned g = 0, c = 0; g < l->block / l->group; g++) {
        (void)scales_under(l, &fields, g, &scales[g]);
        for (const unsigned end = c + l->group; c < end; c += F_LANES) {
            f_store(value + c, scales[g].scale * f_load(b->level + c) + scales[g].offset);
            f_store(steps + c, f_load(value + c) - f_load(b->value + c));
        }
    }
    subtract_all(gradient, l->block, b->h, b->stride, steps, l->block);
    if (!change_of(b->value, b->gradient, value, gradient, l->block, &change))
        return;
    b->fields = fields;
    memcpy(b->scales, scales, sizeof scales);
    memcpy(b->value, value, l->block * sizeof *value);
    memcpy(b->gradient, gradient, l->block * sizeof *gradient);
}

#endif
