/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders without a minimum, w = d * level and w = d * sc * level: a block per lane, once per ISA
 * level.
 *
 * For levels q the error is  sum w x^2 - 2 s xq + s^2 qq,  with xq = sum w x q and qq = sum w q^2:
 * the best scale is xq / qq, and it takes away xq^2 / qq. The search maps the group's peak to a
 * range of places around the last level, on either side (the range is not symmetric), keeps the
 * best, and then alternates assignment and refit. Super-blocks then choose d for all groups, each
 * group the sub-scale whose own assignment errs least among the nearest three, and d is refitted to
 * those choices. */
#ifndef MIXBIT_KERNELS_SIMD_ENCODE_SCALE_H
#define MIXBIT_KERNELS_SIMD_ENCODE_SCALE_H

#include "kernels/simd/levels.h"
#include "kernels/simd/samples.h"

struct scale_moments {
    f_lanes xq, qq;
};

/* Moments, and how much of sum w x^2 their scale explains. */
struct scale_fit {
    f_lanes xq, qq, gain;
};

/* A group of `n` weights, 16 or 32, in all blocks. */
struct scale_group {
    f_line *x, *w;
    unsigned n;
    struct mb_levels levels;
};

MB_LANE_INLINE f_lanes nearest_level(f_lanes v, struct mb_levels levels, enum mb_level_kind kind)
{
    return kind == MB_LEVELS_OF_IQ4    ? nearest_iq4(v)
           : kind == MB_LEVELS_OF_E2M1 ? nearest_e2m1(v)
                                       : f_round(f_clamp(v, f_all(levels.low), f_all(levels.high)));
}

MB_LANE_INLINE f_lanes nearest_code(f_lanes v, struct mb_levels levels)
{
    if (levels.kind == MB_LEVELS_OF_IQ4)
        return nearest_iq4_code(v);
    if (levels.kind == MB_LEVELS_OF_E2M1)
        return nearest_e2m1_code(v);
    return f_round(f_clamp(v, f_all(levels.low), f_all(levels.high))) - levels.low;
}

MB_LANE_INLINE struct scale_moments scale_add(struct scale_moments a, struct scale_moments b)
{
    return (struct scale_moments){a.xq + b.xq, a.qq + b.qq};
}

MB_LANE_INLINE struct scale_moments scale_partial(const struct scale_group *g, const unsigned n,
                                                  unsigned first, f_lanes inverse,
                                                  enum mb_level_kind kind)
{
    struct scale_moments sum = {{0}, {0}};
#pragma GCC unroll 4
    for (unsigned j = 0; j < n; j += 8) {
        const f_lanes x = f_load(g->x[first + j]), w = f_load(g->w[first + j]);
        const f_lanes level = nearest_level(x * inverse, g->levels, kind), wq = w * level;
        const struct scale_moments m = {wq * x, wq * level};
        sum = j == 0 ? m : scale_add(sum, m);
    }
    return sum;
}

MB_LANE_INLINE struct scale_moments scale_assign_group(const struct scale_group *g,
                                                       const unsigned n, f_lanes inverse,
                                                       enum mb_level_kind kind)
{
    struct scale_moments pair[4];
    /* SUM_PARTIALS; not unrolled, or the compiler keeps more sums than there are registers. */
#pragma GCC unroll 1
    for (unsigned i = 0; i < 4; i++)
        pair[i] = scale_add(scale_partial(g, n, i, inverse, kind),
                            scale_partial(g, n, i + 4, inverse, kind));
    return scale_add(scale_add(pair[0], pair[2]), scale_add(pair[1], pair[3]));
}

/* Constants for the group and the kind of levels let the loops above unroll. */
static struct scale_moments scale_assign(const struct scale_group *g, f_lanes inverse)
{
    if (g->levels.kind == MB_LEVELS_OF_IQ4)
        return scale_assign_group(g, 32, inverse, MB_LEVELS_OF_IQ4);
    if (g->levels.kind == MB_LEVELS_OF_E2M1)
        return g->n == 16 ? scale_assign_group(g, 16, inverse, MB_LEVELS_OF_E2M1)
                          : scale_assign_group(g, 32, inverse, MB_LEVELS_OF_E2M1);
    return g->n == 16 ? scale_assign_group(g, 16, inverse, MB_LEVELS_OF_INTEGERS)
                      : scale_assign_group(g, 32, inverse, MB_LEVELS_OF_INTEGERS);
}

/* The lanes where the moments' own scale is better than the best, which it becomes. */
MB_LANE_INLINE f_mask scale_improve(struct scale_fit *best, f_mask open, struct scale_moments m)
{
    const f_mask better = f_both(open, f_less(best->gain * m.qq, m.xq * m.xq));
    best->xq = f_choose(better, m.xq, best->xq);
    best->qq = f_choose(better, m.qq, best->qq);
    best->gain = f_choose(better, m.xq * m.xq / m.qq, best->gain);
    return better;
}

/* 0 where nothing was better than nothing. */
MB_LANE_INLINE f_lanes scale_of(const struct scale_fit *fit)
{
    return f_choose(f_less((f_lanes){0}, fit->qq), fit->xq / fit->qq, (f_lanes){0});
}

MB_LANE_INLINE f_lanes peak_of(const struct scale_group *g)
{
    f_lanes peak = {0};
    for (unsigned i = 0; i < g->n; i++)
        peak = f_max(f_abs(f_load(g->x[i])), peak);
    return peak;
}

static struct scale_fit scale_fit_group(const struct scale_group *g)
{
    const f_lanes zero = {0}, peak = peak_of(g);
    struct scale_fit best = {zero, zero, zero};
    const f_mask open = f_not(f_less(peak, f_all(NEGLIGIBLE)));
    if (f_bits(open) == 0)
        return best;
    /* Places of the peak, in steps of a quarter code: from just inside the range to well beyond it,
     * where the peak is clipped so that the others have finer steps. Importance that spares the
     * peak makes that pay. */
    const float code = g->levels.kind == MB_LEVELS_OF_IQ4 ? g->levels.high / 7.0f : 1.0f;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int i = -2; i <= 14; i++) {
            const float place = g->levels.high + 0.25f * (float)i * code;
            (void)scale_improve(&best, open, scale_assign(g, (float)sign * place / peak));
        }
    f_mask improving = open;
    for (int i = 0; i < GROUP_REFITS && f_bits(improving) != 0; i++)
        improving = scale_improve(&best, improving, scale_assign(g, 1.0f / scale_of(&best)));
    return best;
}

MB_LANE_INLINE f_lanes inverse_or_zero(f_lanes scale)
{
    const f_lanes zero = {0};
    return f_choose(f_differ(scale, zero), 1.0f / scale, zero);
}

MB_LANE_INLINE void scale_write_codes(const struct scale_group *g, f_lanes scale,
                                      uint8_t (*code)[F_LANES])
{
    const f_lanes inverse = inverse_or_zero(scale);
    for (unsigned i = 0; i < g->n; i++)
        f_store_bytes(code[i], nearest_code(f_load(g->x[i]) * inverse, g->levels));
}

/* d * level. */
static void encode_scale(const struct mb_search *search, const struct sources *from,
                         struct encoded *to)
{
    struct samples s;
    take_samples(from, &s);
    const struct scale_group g = {s.x, s.w, 32, search->levels};
    const struct scale_fit fit = scale_fit_group(&g);
    const f_lanes d = store_scales(scale_of(&fit), &s, to->d);
    scale_write_codes(&g, d, to->code);
}

/* The sub-scale of a group under d, and what its assignment gives. */
struct scale_choice {
    f_lanes sub, gain;
    struct scale_moments m;
};

static struct scale_choice choose_sub_scale(const struct scale_group *g, f_lanes d, f_lanes near,
                                            float sub_limit)
{
    const f_lanes zero = {0}, low = f_all(-sub_limit), high = f_all(sub_limit - 1.0f);
    struct scale_choice best = {zero, zero, {zero, zero}};
    for (int step = -1; step <= 1; step++) {
        const f_lanes sub = f_clamp(near + (float)step, low, high), scale = d * sub;
        const struct scale_moments m = scale_assign(g, 1.0f / scale);
        const f_lanes gain = scale * (2.0f * m.xq - scale * m.qq);
        const f_mask better = f_both(f_differ(scale, zero), f_less(best.gain, gain));
        best.sub = f_choose(better, sub, best.sub);
        best.gain = f_choose(better, gain, best.gain);
        best.m.xq = f_choose(better, m.xq, best.m.xq);
        best.m.qq = f_choose(better, m.qq, best.m.qq);
    }
    return best;
}

static void encode_scale_x2(const struct mb_search *search, const struct sources *from,
                            struct encoded *to)
{
    const unsigned n = search->group, groups = 256 / n;
    const float limit = (float)search->sub_limit;
    const f_lanes zero = {0};
    struct samples s;
    f_line scale[GROUPS_MAX], weight[GROUPS_MAX];
    f_lanes near[GROUPS_MAX];
    struct scale_group group[GROUPS_MAX];
    take_samples(from, &s);
    for (unsigned g = 0; g < groups; g++) {
        group[g] = (struct scale_group){s.x + g * n, s.w + g * n, n, search->levels};
        const struct scale_fit fit = scale_fit_group(&group[g]);
        f_store(scale[g], scale_of(&fit));
        f_store(weight[g], fit.qq);
    }
    f_lanes d = fit_factor(scale, weight, groups, -search->sub_limit, search->sub_limit - 1);
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        f_lanes numerator = zero, denominator = zero;
        d = store_scales(d, &s, to->d);
        const f_lanes inverse = inverse_or_zero(d);
        for (unsigned g = 0; g < groups; g++) {
            if (pass == 0)
                near[g] = f_round(
                    f_clamp(f_load(scale[g]) * inverse, f_all(-limit), f_all(limit - 1.0f)));
            const struct scale_choice choice = choose_sub_scale(&group[g], d, near[g], limit);
            near[g] = choice.sub;
            numerator += choice.sub * choice.m.xq;
            denominator += choice.sub * choice.sub * choice.m.qq;
        }
        if (pass + 1 < SUPERBLOCK_PASSES)
            d = f_choose(f_less(zero, denominator), numerator / denominator, d);
    }
    for (unsigned g = 0; g < groups; g++) {
        store_integers(near[g], to->sub_scale[g]);
        scale_write_codes(&group[g], d * near[g], to->code + g * n);
    }
}

/* ---- scales of one byte: few enough to try ---- */

/* The byte of [first, last], lanes of integers, whose scale takes away most; 0 when none takes away
 * anything. Writes the codes under it. */
MB_LANE_INLINE void choose_bytes(const struct scale_group *g, const struct samples *s,
                                 const int first[F_LANES], const int last[F_LANES], int steps,
                                 float (*value)(uint8_t), int32_t byte[F_LANES],
                                 uint8_t (*code)[F_LANES])
{
    const f_lanes zero = {0}, unit = f_load(s->unit);
    f_lanes best = zero, most = zero, chosen = zero;
    for (int step = 0; step < steps; step++) {
        f_line at, scales, open;
        for (unsigned lane = 0; lane < F_LANES; lane++) {
            const int b = first[lane] + step;
            at[lane] = (float)b;
            open[lane] = b <= last[lane] ? 1.0f : 0.0f;
            scales[lane] = b <= last[lane] ? value((uint8_t)b) : 1.0f;
        }
        const f_lanes scale = f_load(scales) / unit;
        const struct scale_moments m = scale_assign(g, 1.0f / scale);
        const f_lanes gain = scale * (2.0f * m.xq - scale * m.qq);
        const f_mask better = f_both(f_less(zero, f_load(open)), f_less(most, gain));
        most = f_choose(better, gain, most);
        best = f_choose(better, f_load(at), best);
        chosen = f_choose(better, scale, chosen);
    }
    store_integers(best, byte);
    scale_write_codes(g, chosen, code);
}

/* The peak at 4 to 8, 8 to 16 or 16 to 32, clipped at 12. Beyond 252 its level would be no f32. */
static void encode_e8m0(const struct mb_search *search, const struct sources *from,
                        struct encoded *to)
{
    struct samples s;
    int first[F_LANES], last[F_LANES];
    take_samples(from, &s);
    for (unsigned lane = 0; lane < F_LANES; lane++) {
        const int exponent = (int)(mb_float_bits(s.unit[lane]) >> 23) - 127;
        first[lane] = exponent + 124;
        last[lane] = exponent + 126 < 252 ? exponent + 126 : 252;
    }
    const struct scale_group g = {s.x, s.w, 32, search->levels};
    choose_bytes(&g, &s, first, last, 3, mb_e8m0_to_float, to->sub_scale[0], to->code);
}

/* From the byte that maps the peak to 12 or just above, down to a fifth of that place: all that a
 * group may prefer. */
static void encode_ue4m3(const struct mb_search *search, const struct sources *from,
                         struct encoded *to)
{
    enum { LARGEST = 0x7e, BELOW = 3, ABOVE = 12 };
    struct samples s;
    take_samples(from, &s);
    for (unsigned i = 0; i < 64; i += 16) {
        const struct scale_group g = {s.x + i, s.w + i, 16, search->levels};
        f_line peak;
        int first[F_LANES], last[F_LANES];
        f_store(peak, peak_of(&g));
        for (unsigned lane = 0; lane < F_LANES; lane++) {
            /* The bits of an f16 of 2^-7 of it are the byte, and 7 more bits of mantissa. */
            const int near = mb_half_from_float(peak[lane] * s.unit[lane] / 12.0f * 0x1p-7f) >> 7;
            const int low = near - BELOW < 1 ? 1 : near - BELOW > LARGEST ? LARGEST : near - BELOW;
            first[lane] = low;
            last[lane] = near + ABOVE > LARGEST ? LARGEST : near + ABOVE;
        }
        choose_bytes(&g, &s, first, last, BELOW + ABOVE + 1, mb_ue4m3_to_float,
                     to->sub_scale[i / 16], to->code + i);
    }
}

#endif
