/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders with a minimum, w = d * code + min and w = d * sc * code - dmin * m: a block per lane,
 * once per ISA level.
 *
 * For codes q a group's error is a quadratic in scale and offset whose coefficients are sum w q,
 * sum w q^2 and sum w x q beside constants of the group: a 2 x 2 system gives the best pair. The
 * search lays the code range over the group's own range, shrunk from both ends (clipping the
 * extremes buys finer steps; the fewer the codes the more), keeps the best, and alternates
 * assignment and refit. Super-blocks then choose d and dmin for all groups, each group the pair
 * (sc, m) whose own assignment errs least among the nearest nine, and d, dmin are refitted together
 * to those choices. */
#ifndef MIXBIT_KERNELS_SIMD_ENCODE_MIN_H
#define MIXBIT_KERNELS_SIMD_ENCODE_MIN_H

#include "kernels/simd/samples.h"

struct min_moments {
    f_lanes q, qq, xq;
};

/* What a group's codes can't change. */
struct min_sums {
    f_lanes w, x;
};

struct min_fit {
    f_lanes scale, offset, gain;
    struct min_moments m;
};

/* A group of `n` weights, 16 or 32, in all blocks. */
struct min_group {
    f_line *x, *w;
    unsigned n;
    float high;
    struct min_sums sums;
};

MB_LANE_INLINE struct min_moments min_add(struct min_moments a, struct min_moments b)
{
    return (struct min_moments){a.q + b.q, a.qq + b.qq, a.xq + b.xq};
}

MB_LANE_INLINE struct min_moments min_partial(const struct min_group *g, const unsigned n,
                                              unsigned first, f_lanes inverse, f_lanes offset)
{
    struct min_moments sum = {{0}, {0}, {0}};
#pragma GCC unroll 4
    for (unsigned j = 0; j < n; j += 8) {
        const f_lanes x = f_load(g->x[first + j]), w = f_load(g->w[first + j]);
        const f_lanes q = f_round(f_clamp((x - offset) * inverse, (f_lanes){0}, f_all(g->high)));
        const f_lanes wq = w * q;
        const struct min_moments m = {wq, wq * q, wq * x};
        sum = j == 0 ? m : min_add(sum, m);
    }
    return sum;
}

MB_LANE_INLINE struct min_moments min_assign_group(const struct min_group *g, const unsigned n,
                                                   f_lanes inverse, f_lanes offset)
{
    struct min_moments pair[4];
    /* SUM_PARTIALS; not unrolled, or the compiler keeps more sums than there are registers. */
#pragma GCC unroll 1
    for (unsigned i = 0; i < 4; i++)
        pair[i] = min_add(min_partial(g, n, i, inverse, offset),
                          min_partial(g, n, i + 4, inverse, offset));
    return min_add(min_add(pair[0], pair[2]), min_add(pair[1], pair[3]));
}

/* Constants for the group let the loops above unroll. */
static struct min_moments min_assign(const struct min_group *g, f_lanes inverse, f_lanes offset)
{
    return g->n == 16 ? min_assign_group(g, 16, inverse, offset)
                      : min_assign_group(g, 32, inverse, offset);
}

MB_LANE_INLINE struct min_sums min_sum(f_line *x, f_line *w, unsigned n)
{
    f_lanes sw[8], sx[8];
    for (unsigned l = 0; l < 8; l++) {
        sw[l] = f_load(w[l]);
        sx[l] = sw[l] * f_load(x[l]);
        for (unsigned i = l + 8; i < n; i += 8) {
            const f_lanes weight = f_load(w[i]);
            sw[l] += weight;
            sx[l] += weight * f_load(x[i]);
        }
    }
#define W(l) sw[l]
#define X(l) sx[l]
    return (struct min_sums){SUM_PARTIALS(W), SUM_PARTIALS(X)};
#undef W
#undef X
}

MB_LANE_INLINE struct min_group min_group_of(struct samples *s, unsigned g, unsigned n, float high)
{
    f_line *x = s->x + g * n, *w = s->w + g * n;
    return (struct min_group){x, w, n, high, min_sum(x, w, n)};
}

/* How much of sum w x^2 the values scale * q + offset explain. */
MB_LANE_INLINE f_lanes min_gain(const struct min_moments *m, const struct min_sums *sums,
                                f_lanes scale, f_lanes offset)
{
    return scale * (2.0f * m->xq - scale * m->qq - 2.0f * offset * m->q) +
           offset * (2.0f * sums->x - offset * sums->w);
}

MB_LANE_INLINE f_lanes not_above_zero(f_lanes v) { return f_min((f_lanes){0}, v); }

MB_LANE_INLINE struct min_moments min_choose(f_mask mask, struct min_moments a,
                                             struct min_moments b)
{
    return (struct min_moments){f_choose(mask, a.q, b.q), f_choose(mask, a.qq, b.qq),
                                f_choose(mask, a.xq, b.xq)};
}

/* Refit scale and offset to an assignment made under `assigned` in the lanes that are `open`; with
 * `negative`, the offset may not be above zero. One code for all that count leaves the offset
 * undetermined: it then stays. The lanes where that is better than the best are returned. */
MB_LANE_INLINE f_mask min_improve(struct min_fit *best, f_mask open, struct min_moments m,
                                  const struct min_sums *sums, f_lanes assigned, bool negative)
{
    const f_lanes zero = {0};
    const f_lanes determinant = sums->w * m.qq - m.q * m.q;
    const f_mask solvable = f_less(1e-5f * sums->w * m.qq, determinant);
    f_lanes offset = f_choose(solvable, (sums->x * m.qq - m.q * m.xq) / determinant, assigned);
    if (negative)
        offset = not_above_zero(offset);
    const f_lanes scale = (m.xq - offset * m.q) / m.qq;
    const f_lanes gain = min_gain(&m, sums, scale, offset);
    const f_mask better = f_both(f_both(open, f_less(zero, m.qq)),
                                 f_both(f_less(best->gain, gain), f_less(zero, scale)));
    best->scale = f_choose(better, scale, best->scale);
    best->offset = f_choose(better, offset, best->offset);
    best->gain = f_choose(better, gain, best->gain);
    best->m = min_choose(better, m, best->m);
    return better;
}

static struct min_fit min_fit_group(const struct min_group *g, bool negative)
{
    const f_lanes zero = {0};
    f_lanes least = f_load(g->x[0]), most = least;
    for (unsigned i = 1; i < g->n; i++) {
        least = f_min(f_load(g->x[i]), least);
        most = f_max(f_load(g->x[i]), most);
    }
    if (negative)
        least = not_above_zero(least);
    /* One value for all: the offset alone. */
    struct min_fit best = {zero, g->sums.x / g->sums.w, zero, {zero, zero, zero}};
    if (negative)
        best.offset = not_above_zero(best.offset);
    best.gain = best.offset * (2.0f * g->sums.x - best.offset * g->sums.w);
    const f_mask open = f_less(f_all(NEGLIGIBLE), most - least);
    if (f_bits(open) == 0)
        return best;
    /* Either end from half a code (a quarter, with few codes) outside of the range to three times
     * that inside. */
    const f_lanes step = (most - least) / g->high * (g->high > 3.0f ? 0.5f : 0.25f);
    for (int i = -1; i <= 3; i++)
        for (int j = -1; j <= 3; j++) {
            const f_lanes low = least + (float)i * step, range = most - (float)j * step - low;
            const struct min_moments m = min_assign(g, g->high / range, low);
            (void)min_improve(&best, f_both(open, f_less(zero, range)), m, &g->sums, low, negative);
        }
    f_mask improving = f_both(open, f_less(zero, best.scale));
    for (int i = 0; i < GROUP_REFITS && f_bits(improving) != 0; i++)
        improving = min_improve(&best, improving, min_assign(g, 1.0f / best.scale, best.offset),
                                &g->sums, best.offset, negative);
    return best;
}

MB_LANE_INLINE void min_write_codes(const struct samples *s, unsigned first, unsigned n,
                                    f_lanes scale, f_lanes offset, float high,
                                    uint8_t (*code)[F_LANES])
{
    const f_lanes zero = {0};
    const f_lanes inverse = f_choose(f_differ(scale, zero), 1.0f / scale, zero);
    for (unsigned i = first; i < first + n; i++)
        f_store_bytes(code[i],
                      f_round(f_clamp((f_load(s->x[i]) - offset) * inverse, zero, f_all(high))));
}

/* d * code + min. */
static void encode_min(const struct mb_search *search, const struct sources *from,
                       struct encoded *to)
{
    const f_lanes zero = {0};
    struct samples s;
    take_samples(from, &s);
    const struct min_group g = min_group_of(&s, 0, 32, search->levels.high);
    const struct min_fit fit = min_fit_group(&g, false);
    /* The minimum makes up for the rounding of d, to zero if need be. */
    const f_lanes d = store_scales(fit.scale, &s, to->d);
    const f_lanes inverse = f_choose(f_less(zero, d), 1.0f / d, zero);
    const struct min_moments m = min_assign(&g, inverse, fit.offset);
    const f_lanes min = store_scales((g.sums.x - d * m.q) / g.sums.w, &s, to->dmin);
    min_write_codes(&s, 0, 32, d, min, g.high, to->code);
}

/* A pair of sub-scales for each block. */
struct min_pair {
    f_lanes sub_scale, sub_min, gain;
    struct min_moments m;
};

/* Among the nearest sub-scales, with the nearest sub-mins of each, the pair whose assignment
 * explains most. */
static struct min_pair choose_pair(const struct min_group *g, f_lanes d, f_lanes dmin,
                                   const struct min_fit *near, float sub_limit)
{
    const f_lanes zero = {0}, limit = f_all(sub_limit);
    struct min_pair best = {zero, zero, f_all(-INFINITY), {zero, zero, zero}};
    const f_lanes sub =
        f_choose(f_less(zero, d), f_round(f_clamp(near->scale / d, zero, limit)), zero);
    for (int i = -1; i <= 1; i++) {
        const f_lanes sc = f_clamp(sub + (float)i, zero, limit), scale = d * sc;
        const f_lanes offset = (g->sums.x - scale * near->m.q) / g->sums.w;
        const f_lanes inverse = f_choose(f_less(zero, scale), 1.0f / scale, zero);
        const f_lanes min =
            f_choose(f_less(zero, dmin), f_round(f_clamp(-offset / dmin, zero, limit)), zero);
        for (int j = -1; j <= 1; j++) {
            const f_lanes m = f_clamp(min + (float)j, zero, limit), down = -dmin * m;
            const struct min_moments moments = min_assign(g, inverse, down);
            const f_lanes gain = min_gain(&moments, &g->sums, scale, down);
            const f_mask better = f_less(best.gain, gain);
            best.sub_scale = f_choose(better, sc, best.sub_scale);
            best.sub_min = f_choose(better, m, best.sub_min);
            best.gain = f_choose(better, gain, best.gain);
            best.m = min_choose(better, moments, best.m);
        }
    }
    return best;
}

/* Least squares for d and dmin given every group's integers: a 2 x 2 system over the super-block.
 */
struct min_system {
    f_lanes ss, sm, mm, xs, xm;
};

MB_LANE_INLINE void min_add_group(struct min_system *a, const struct min_pair *pair,
                                  const struct min_sums *sums)
{
    const f_lanes sc = pair->sub_scale, m = pair->sub_min;
    a->ss += sc * sc * pair->m.qq;
    a->sm += sc * m * pair->m.q;
    a->mm += m * m * sums->w;
    a->xs += sc * pair->m.xq;
    a->xm += m * sums->x;
}

MB_LANE_INLINE void min_solve(const struct min_system *a, f_lanes *d, f_lanes *dmin)
{
    const f_lanes zero = {0};
    const f_lanes determinant = a->ss * a->mm - a->sm * a->sm;
    const f_mask solvable = f_less(1e-6f * a->ss * a->mm, determinant);
    const f_lanes scale = (a->xs * a->mm - a->xm * a->sm) / determinant;
    const f_lanes min = (a->xs * a->sm - a->xm * a->ss) / determinant;
    const f_mask both = f_both(solvable, f_both(f_less(zero, scale), f_less(zero, min)));
    /* Without any minimum, d alone. */
    const f_mask some = f_both(f_less(zero, a->ss), f_less(zero, a->xs));
    const f_lanes alone = f_choose(f_differ(a->mm, zero), *d, f_choose(some, a->xs / a->ss, *d));
    *d = f_choose(both, scale, f_choose(solvable, *d, alone));
    *dmin = f_choose(both, min, *dmin);
}

static void encode_min_x2(const struct mb_search *search, const struct sources *from,
                          struct encoded *to)
{
    const unsigned n = search->group, groups = 256 / n;
    const float high = search->levels.high, limit = (float)search->sub_limit;
    struct samples s;
    struct min_group group[GROUPS_MAX];
    struct min_fit fit[GROUPS_MAX];
    f_line scale[GROUPS_MAX], scale_weight[GROUPS_MAX], min[GROUPS_MAX], min_weight[GROUPS_MAX];
    struct min_pair pair[GROUPS_MAX];
    take_samples(from, &s);
    for (unsigned g = 0; g < groups; g++) {
        group[g] = min_group_of(&s, g, n, high);
        fit[g] = min_fit_group(&group[g], true);
        f_store(scale[g], fit[g].scale);
        f_store(scale_weight[g], fit[g].m.qq);
        f_store(min[g], -fit[g].offset);
        f_store(min_weight[g], group[g].sums.w);
    }
    f_lanes d = fit_factor(scale, scale_weight, groups, 0, search->sub_limit);
    f_lanes dmin = fit_factor(min, min_weight, groups, 0, search->sub_limit);
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        struct min_system system = {{0}, {0}, {0}, {0}, {0}};
        d = store_scales(d, &s, to->d);
        dmin = store_scales(dmin, &s, to->dmin);
        for (unsigned g = 0; g < groups; g++) {
            pair[g] = choose_pair(&group[g], d, dmin, &fit[g], limit);
            fit[g].scale = d * pair[g].sub_scale;
            fit[g].m = pair[g].m;
            min_add_group(&system, &pair[g], &group[g].sums);
        }
        if (pass + 1 < SUPERBLOCK_PASSES)
            min_solve(&system, &d, &dmin);
    }
    for (unsigned g = 0; g < groups; g++) {
        store_integers(pair[g].sub_scale, to->sub_scale[g]);
        store_integers(pair[g].sub_min, to->sub_min[g]);
        min_write_codes(&s, g * n, n, d * pair[g].sub_scale, -dmin * pair[g].sub_min, high,
                        to->code);
    }
}

#endif
