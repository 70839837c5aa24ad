/* SPDX-License-Identifier: Apache-2.0 */
/* Coordinate descent on the blocks of a row (feedback.h).
 *
 * With g = H e at hand, any change of values by a vector v in a few columns changes the error by
 * v H v - 2 v g, which needs only those columns' part of H. So a code moves to the value nearest to
 * q_j + g_j / H_jj, the best that it alone can do; a group's scale is tried at its neighbours, with
 * the codes rounded anew under each; a super-block's scales are refitted to the codes. Each step is
 * taken when it lowers the error, so the error only falls, and at the end no code can lower it by
 * itself. Within a block g is kept up to date; for all other columns it follows once per block, for
 * 16 rows at once. */
#include "kernels/feedback.h"

#include "kernels/feedback_lanes.h"
#include "kernels/lattice.h"

enum { LANES = MB_FEEDBACK_LANES, BLOCK_MAX = 256, GROUP_ROUNDS = 2, BLOCK_ROUNDS = 4 };

/* One row's block. */
struct block {
    const struct mb_lattice *lattice;
    struct mb_block_fields fields;
    float value[BLOCK_MAX], gradient[BLOCK_MAX];
    const float *h; /* the block's part of H */
    size_t stride;
};

/* A group as it could be. */
struct trial {
    unsigned first, count; /* columns of the block */
    float scale, offset;
    uint8_t code[BLOCK_MAX];
    float value[BLOCK_MAX], gradient[BLOCK_MAX];
};

/* The error must fall by more than rounding could pretend. */
static bool lowers(float change, float scale) { return change < -1e-6f * scale; }

static void subtract(float *gradient, const float *h, float step, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gradient[i] -= step * h[i];
}

/* One round over the codes of a trial; false when none changed. */
static bool round_codes(const struct block *b, struct trial *t)
{
    bool changed = false;
    for (unsigned i = 0; i < t->count; i++) {
        const float *h = b->h + (t->first + i) * b->stride + t->first;
        const float wanted = t->value[i] + t->gradient[i] / h[i];
        const uint8_t code = mb_lattice_nearest(b->lattice, t->scale, t->offset, wanted);
        if (code == t->code[i])
            continue;
        const float value = mb_lattice_value(b->lattice, t->scale, t->offset, code);
        if (!(fabsf(value - wanted) < fabsf(t->value[i] - wanted)))
            continue; /* another code of the same value */
        subtract(t->gradient, h, value - t->value[i], t->count);
        t->code[i] = code;
        t->value[i] = value;
        changed = true;
    }
    return changed;
}

/* The group under other scales, codes at first where the values were. */
static void begin_trial(const struct block *b, struct trial *t, float scale, float offset)
{
    t->scale = scale;
    t->offset = offset;
    memcpy(t->gradient, b->gradient + t->first, t->count * sizeof *t->gradient);
    for (unsigned i = 0; i < t->count; i++) {
        const float old = b->value[t->first + i];
        t->code[i] = mb_lattice_nearest(b->lattice, scale, offset, old);
        t->value[i] = mb_lattice_value(b->lattice, scale, offset, t->code[i]);
    }
    for (unsigned i = 0; i < t->count; i++)
        subtract(t->gradient, b->h + (t->first + i) * b->stride + t->first,
                 t->value[i] - b->value[t->first + i], t->count);
    for (unsigned round = 0; round < GROUP_ROUNDS && round_codes(b, t); round++)
        ;
}

/* How a trial changes the error: v H v - 2 v g = -v (g + g'), as g' = g - H v. */
static float change_of(const struct block *b, const struct trial *t, float *scale)
{
    float change = 0.0f, sum = 0.0f;
    for (unsigned i = 0; i < t->count; i++) {
        const float v = t->value[i] - b->value[t->first + i];
        change -= v * (b->gradient[t->first + i] + t->gradient[i]);
        sum += fabsf(v * b->gradient[t->first + i]);
    }
    *scale = sum;
    return change;
}

static void take(struct block *b, const struct trial *t)
{
    for (unsigned i = 0; i < t->count; i++) {
        const unsigned c = t->first + i;
        const float step = t->value[i] - b->value[c];
        if (step != 0.0f)
            subtract(b->gradient, b->h + c * b->stride, step, b->lattice->block);
        b->value[c] = t->value[i];
        b->fields.code[c] = t->code[i];
    }
}

/* ---- the scales of a group ---- */

/* Best of several ways to store a group's scales. */
struct choice {
    struct trial best;
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
    choice->best = *t;
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

/* x' H x and the like over n columns; y NULL: none. */
static struct fit fit_of(const float *h, size_t stride, const float *gradient, const float *x,
                         const float *y, size_t n)
{
    struct fit f = {0};
    for (size_t i = 0; i < n; i++) {
        const float hx = mb_dot(h + i * stride, x, n);
        f.xx += x[i] * hx;
        f.gx += x[i] * gradient[i];
        if (y != NULL) {
            f.xy += y[i] * hx;
            f.yy += y[i] * mb_dot(h + i * stride, y, n);
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
    float x[BLOCK_MAX], ones[BLOCK_MAX];
    for (unsigned i = 0; i < t->count; i++)
        ones[i] = 1.0f;
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        /* About the middle of the range, where there is a minimum. */
        const float scale = d * factors[f],
                    offset = has_min ? min + 0.5f * (float)l->last * (d - scale) : 0.0f;
        begin_trial(b, t, scale * mb_coding_unit(l->coding), offset);
        for (unsigned i = 0; i < t->count; i++)
            x[i] = mb_lattice_level(l, t->code[i]) * mb_coding_unit(l->coding);
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

static void refine_group(struct block *b, unsigned g)
{
    const struct mb_lattice *l = b->lattice;
    struct trial t = {.first = g * l->group, .count = l->group};
    struct choice choice = {.change = 0.0f};
    if (mb_scale_two_level(l->kind) || mb_scale_number(l->kind) != MB_NUMBER_F16)
        try_neighbours(b, g, &t, &choice);
    else
        try_halves(b, g, &t, &choice);
    if (!(choice.change < 0.0f))
        return;
    take(b, &choice.best);
    b->fields.sub_scale[g] = choice.sub_scale;
    b->fields.sub_min[g] = choice.sub_min;
    b->fields.d = choice.d;
    b->fields.dmin = choice.dmin;
}

/* ---- the scales of a super-block ---- */

/* d and dmin refitted to the codes and sub-scales, all at once. */
static void refine_super_scales(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    const bool has_min = mb_scale_has_min(l->kind);
    const float unit = mb_coding_unit(l->coding);
    float x[BLOCK_MAX], y[BLOCK_MAX];
    for (unsigned c = 0; c < l->block; c++) {
        const unsigned g = c / l->group;
        x[c] = unit * (float)b->fields.sub_scale[g] * mb_lattice_level(l, b->fields.code[c]);
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
    float value[BLOCK_MAX], gradient[BLOCK_MAX], change = 0.0f, noise = 0.0f;
    memcpy(gradient, b->gradient, sizeof gradient);
    for (unsigned c = 0; c < l->block; c++) {
        float scale, offset;
        mb_fields_group(&fields, l->coding, l->kind, c / l->group, &scale, &offset);
        value[c] = mb_lattice_value(l, scale, offset, fields.code[c]);
        subtract(gradient, b->h + c * b->stride, value[c] - b->value[c], l->block);
    }
    for (unsigned c = 0; c < l->block; c++) {
        change -= (value[c] - b->value[c]) * (b->gradient[c] + gradient[c]);
        noise += fabsf((value[c] - b->value[c]) * b->gradient[c]);
    }
    if (!lowers(change, noise))
        return;
    b->fields = fields;
    memcpy(b->value, value, sizeof value);
    memcpy(b->gradient, gradient, sizeof gradient);
}

/* ---- a block, a row ---- */

static void refine_codes(struct block *b)
{
    const struct mb_lattice *l = b->lattice;
    bool changed = true;
    for (unsigned round = 0; round < BLOCK_ROUNDS && changed; round++) {
        changed = false;
        for (unsigned c = 0; c < l->block; c++) {
            float scale, offset;
            mb_fields_group(&b->fields, l->coding, l->kind, c / l->group, &scale, &offset);
            const float *h = b->h + c * b->stride;
            const float wanted = b->value[c] + b->gradient[c] / h[c];
            const uint8_t code = mb_lattice_nearest(l, scale, offset, wanted);
            const float value = mb_lattice_value(l, scale, offset, code);
            if (code == b->fields.code[c] || !(fabsf(value - wanted) < fabsf(b->value[c] - wanted)))
                continue;
            subtract(b->gradient, h, value - b->value[c], l->block);
            b->value[c] = value;
            b->fields.code[c] = code;
            changed = true;
        }
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
static void errors_of(const float *e, const float *g, size_t k, double error[LANES])
{
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
    const size_t k = moments->k, row_bytes = k / l->block * l->block_bytes;
    memset(e, 0, LANES * k * sizeof *e);
    memset(g, 0, LANES * k * sizeof *g);
    for (size_t r = 0; r < rows; r++)
        for (size_t b = 0; b < k; b += l->block) {
            float value[BLOCK_MAX];
            l->ops->dequantize_row((const uint8_t *)blocks + r * row_bytes +
                                       b / l->block * l->block_bytes,
                                   value, l->block);
            for (size_t c = 0; c < l->block; c++)
                e[(b + c) * LANES + r] = w[r * k + b + c] - value[c];
        }
    mb_lanes_multiply(moments->h, k, 0, k, 0, k, 1.0f, e, g);
}

static void sweep(const struct mb_lattice *l, size_t rows, const struct mb_second_moments *moments,
                  uint8_t *blocks, size_t row_bytes, float *e, float *g)
{
    const size_t k = moments->k;
    float steps[BLOCK_MAX * LANES];
    for (size_t at = 0; at < k; at += l->block) {
        bool changed = false;
        memset(steps, 0, sizeof steps);
        for (size_t r = 0; r < rows; r++) {
            uint8_t *stored = blocks + r * row_bytes + at / l->block * l->block_bytes;
            float before[BLOCK_MAX];
            struct block b = {.lattice = l, .h = moments->h + at * k + at, .stride = k};
            l->ops->split(stored, &b.fields);
            l->ops->dequantize_row(stored, before, l->block);
            memcpy(b.value, before, sizeof before);
            for (size_t c = 0; c < l->block; c++)
                b.gradient[c] = g[(at + c) * LANES + r];
            refine_block(&b);
            l->ops->join(&b.fields, stored);
            for (size_t c = 0; c < l->block; c++) {
                const float step = b.value[c] - before[c];
                steps[c * LANES + r] = step;
                e[(at + c) * LANES + r] -= step;
                changed = changed || step != 0.0f;
            }
        }
        if (changed)
            mb_lanes_multiply(moments->h + at, k, 0, k, 0, l->block, -1.0f, steps, g);
    }
}

void mb_refine_rows(enum mb_format format, const float *w, size_t rows,
                    const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                    double *errors, float *scratch)
{
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
