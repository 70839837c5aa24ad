/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of the grid formats, w = d * sc * level, where the levels of 4 or 8 weights together
 * have to be an entry of a grid, sc = 1 + 2 s is odd, and signs are free or nearly so: a block per
 * lane, once per ISA level.
 *
 * Under a scale the error of an entry is a sum over its weights, so of two halves: all halves there
 * could be are priced first (the sums of two quarters), then an entry costs one addition. Entries
 * that share their upper half are a run; the least of each run is kept, and which entry that was is
 * looked up at the end. That finds the best entry of all, by importance; ggml looks among
 * neighbours of the rounded vector.
 *
 * Around it the search is that of encode_scale.h: places of the peak, refits, then d for all
 * groups, each group the best of the nearest three sub-scales. */
#ifndef MIXBIT_KERNELS_SIMD_ENCODE_GRID_H
#define MIXBIT_KERNELS_SIMD_ENCODE_GRID_H

#include "kernels/grids.h"
#include "kernels/simd/samples.h"

struct grid_shape {
    const struct mb_grid *grid;
    const float *level;      /* magnitudes in units of the scale; iq1: -1, 0, 1 shifted */
    unsigned group, highest; /* weights per sub-scale; largest s */
    bool even_signs;         /* 8 weights have an even number of minuses */
    unsigned shift_run;      /* iq1: weights that are shifted together; 0: levels have signs */
    float first, last;       /* places of the peak, in levels */
};

/* Two bits could tell four levels, there are three. */
enum { GRID_LEVELS = 3, GRID_PLACES = 5 };
#define IQ1_SHIFT 0.125f
static const float iq1_levels[2][GRID_LEVELS] = {{-1 + IQ1_SHIFT, IQ1_SHIFT, 1 + IQ1_SHIFT},
                                                 {-1 - IQ1_SHIFT, -IQ1_SHIFT, 1 - IQ1_SHIFT}};
static const float iq2_levels[] = {1, 3.125f, 5.375f},
                   iq3_xxs_levels[] = {1, 3, 5, 7, 9, 11, 13, 15.5f},
                   iq3_s_levels[] = {1, 3, 5, 7, 9, 11, 13, 15};
static const struct grid_shape grid_shapes[] = {
    [MB_GRID_IQ1_S] = {&mb_grid_iq1_s, NULL, 32, 7, false, 32, 0.9f, 3.0f},
    [MB_GRID_IQ1_M] = {&mb_grid_iq1_s, NULL, 16, 7, false, 8, 0.9f, 2.6f},
    [MB_GRID_IQ2_XXS] = {&mb_grid_iq2_xxs, iq2_levels, 32, 15, true, 0, 4.0f, 8.0f},
    [MB_GRID_IQ2_XS] = {&mb_grid_iq2_xs, iq2_levels, 16, 15, true, 0, 3.7f, 7.2f},
    [MB_GRID_IQ2_S] = {&mb_grid_iq2_s, iq2_levels, 16, 15, false, 0, 3.7f, 7.2f},
    [MB_GRID_IQ3_XXS] = {&mb_grid_iq3_xxs, iq3_xxs_levels, 32, 15, true, 0, 12.0f, 19.0f},
    [MB_GRID_IQ3_S] = {&mb_grid_iq3_s, iq3_s_levels, 32, 15, false, 0, 12.0f, 19.0f},
};

/* ---- the best entry ---- */

/* The entry of each lane, with its sum of w * (level^2 - 2 * level * x): the error less sum w x^2.
 */
struct grid_choice {
    f_lanes cost;
    uint16_t entry[F_LANES];
};

MB_LANE_INLINE void price_levels(const float *level, unsigned levels, const float *x,
                                 const float *w, f_lanes *price)
{
    const f_lanes weight = f_load(w), twice = 2.0f * f_load(x);
    for (unsigned l = 0; l < levels; l++)
        price[l] = weight * level[l] * (level[l] - twice);
}

/* Prices of all that half an entry can be, x in units of the scale, by its bits. A quarter is 2
 * weights of 3 levels or one of 8. */
MB_LANE_INLINE void price_half(const float *level, f_line *x, f_line *w, const unsigned bits,
                               f_line *half)
{
    f_lanes quarter[2][16];
    for (unsigned q = 0; q < 2; q++) {
        if (bits == 3) {
            price_levels(level, 8, x[q], w[q], quarter[q]);
            continue;
        }
        f_lanes low[GRID_LEVELS], high[GRID_LEVELS];
        price_levels(level, GRID_LEVELS, x[2 * q], w[2 * q], low);
        price_levels(level, GRID_LEVELS, x[2 * q + 1], w[2 * q + 1], high);
        for (unsigned h = 0; h < GRID_LEVELS; h++)
            for (unsigned l = 0; l < GRID_LEVELS; l++)
                quarter[q][h << 2 | l] = low[l] + high[h];
    }
    const unsigned count = bits == 3 ? 8 : 11, quarter_bits = bits == 3 ? 3 : 4;
    for (unsigned h = 0; h < count; h++)
        for (unsigned l = 0; l < count; l++)
            if (bits == 3 || (h % 4 < GRID_LEVELS && l % 4 < GRID_LEVELS))
                f_store(half[h << quarter_bits | l], quarter[0][l] + quarter[1][h]);
}

/* The least cost in a run whose upper half costs `high`. */
MB_LANE_INLINE f_lanes least_of_run(const struct mb_grid *grid, unsigned run, f_line *low,
                                    f_lanes high, unsigned mask)
{
    const uint16_t *entry = grid->entries + grid->runs[run],
                   *end = grid->entries + grid->runs[run + 1];
    f_lanes least = f_all(INFINITY), other = least;
    for (; end - entry >= 2; entry += 2) {
        least = f_min(high + f_load(low[entry[0] & mask]), least);
        other = f_min(high + f_load(low[entry[1] & mask]), other);
    }
    if (entry < end)
        least = f_min(high + f_load(low[*entry & mask]), least);
    return f_min(other, least);
}

/* The entries whose costs were found; of equal ones the first. */
MB_LANE_INLINE void look_up(const struct mb_grid *grid, unsigned half_bits, f_line *low,
                            f_line *high, f_lanes run, struct grid_choice *choice)
{
    f_line runs, costs;
    f_store(runs, run);
    f_store(costs, choice->cost);
    for (unsigned lane = 0; lane < F_LANES; lane++) {
        const uint16_t *entry = grid->entries + grid->runs[(unsigned)runs[lane]];
        const uint16_t *last = grid->entries + grid->runs[(unsigned)runs[lane] + 1] - 1;
        const float upper = high[*entry >> half_bits][lane];
        while (entry < last && upper + low[*entry & ((1u << half_bits) - 1)][lane] != costs[lane])
            entry++;
        choice->entry[lane] = *entry;
    }
}

/* Of entries that cost the same, those of the run with the cheapest upper half come first, then
 * those that come first. */
MB_LANE_INLINE struct grid_choice find_entries(const struct mb_grid *grid, const float *level,
                                               f_line *x, f_line *w, const unsigned weights,
                                               const unsigned bits)
{
    const unsigned half_bits = bits * weights / 2, mask = (1u << half_bits) - 1;
    _Alignas(sizeof(f_lanes)) f_line low[256];
    _Alignas(sizeof(f_lanes)) f_line high[256];
    price_half(level, x, w, bits, low);
    price_half(level, x + weights / 2, w + weights / 2, bits, high);
    f_lanes cheapest = f_load(high[grid->entries[0] >> half_bits]);
    f_lanes best = least_of_run(grid, 0, low, cheapest, mask), first_cost = best;
    f_lanes best_run = {0}, first_run = {0};
    for (unsigned run = 1; run < grid->run_count; run++) {
        const f_lanes upper = f_load(high[grid->entries[grid->runs[run]] >> half_bits]);
        const f_lanes cost = least_of_run(grid, run, low, upper, mask), number = f_all((float)run);
        const f_mask cheaper = f_less(upper, cheapest), better = f_less(cost, best);
        cheapest = f_min(upper, cheapest);
        first_cost = f_choose(cheaper, cost, first_cost);
        first_run = f_choose(cheaper, number, first_run);
        best = f_min(cost, best);
        best_run = f_choose(better, number, best_run);
    }
    struct grid_choice choice = {.cost = best};
    look_up(grid, half_bits, low, high, f_choose(f_less(best, first_cost), best_run, first_run),
            &choice);
    return choice;
}

/* ---- 8 weights under a scale ---- */

struct grid_moments {
    f_lanes xq, qq;
};

/* A group of all blocks, and what an assignment leaves of it when there is room. */
struct grid_group {
    const struct grid_shape *shape;
    f_line *x, *w; /* x: magnitudes where levels have signs */
    uint8_t (*signs)[F_LANES];
};

MB_LANE_INLINE void add_levels(struct grid_moments *m, f_line *x, f_line *w, const uint16_t *entry,
                               const float *level, const unsigned weights, const unsigned bits)
{
    for (unsigned j = 0; j < weights; j++) {
        f_line levels;
        for (unsigned lane = 0; lane < F_LANES; lane++)
            levels[lane] = level[entry[lane] >> bits * j & ((1u << bits) - 1)];
        const f_lanes q = f_load(levels), wq = f_load(w[j]) * q;
        m->xq += wq * f_load(x[j]);
        m->qq += wq * q;
    }
}

MB_LANE_INLINE void scale_lines(f_line *x, f_lanes inverse, f_line *scaled)
{
    for (unsigned j = 0; j < 8; j++)
        f_store(scaled[j], f_load(x[j]) * inverse);
}

/* iq1: `run` weights with their best common shift. */
static struct grid_moments assign_shifted(const struct grid_group *g, unsigned at, f_lanes inverse,
                                          uint8_t (*code)[F_LANES])
{
    const f_lanes zero = {0};
    const unsigned run = g->shape->shift_run;
    struct grid_moments m[2] = {{zero, zero}, {zero, zero}};
    struct grid_choice choice[2][4];
    f_lanes cost[2] = {zero, zero};
    for (unsigned i = 0; i < run; i += 8) {
        f_line *x = g->x + at + i, *w = g->w + at + i;
        f_line scaled[8];
        scale_lines(x, inverse, scaled);
        for (unsigned down = 0; down < 2; down++) {
            struct grid_choice *c = &choice[down][i / 8];
            *c = find_entries(&mb_grid_iq1_s, iq1_levels[down], scaled, w, 8, 2);
            cost[down] += c->cost;
            add_levels(&m[down], x, w, c->entry, iq1_levels[down], 8, 2);
        }
    }
    const f_mask down = f_less(cost[1], cost[0]);
    for (unsigned i = 0; code != NULL && i < run; i += 8)
        for (unsigned lane = 0; lane < F_LANES; lane++) {
            const bool is_down = f_bits(down) >> lane & 1;
            uint8_t codes[8];
            mb_grid1_split(mb_grid_find(&mb_grid_iq1_s, choice[is_down][i / 8].entry[lane]),
                           is_down, codes);
            for (unsigned j = 0; j < 8; j++)
                code[at + i + j][lane] = codes[j];
        }
    return (struct grid_moments){f_choose(down, m[1].xq, m[0].xq),
                                 f_choose(down, m[1].qq, m[0].qq)};
}

/* 8 weights with signs. */
MB_LANE_INLINE struct grid_moments assign_signed(const struct grid_group *g, unsigned at,
                                                 f_lanes inverse, const unsigned weights,
                                                 const unsigned bits, uint8_t (*code)[F_LANES])
{
    struct grid_moments m = {{0}, {0}};
    const struct grid_shape *shape = g->shape;
    f_line scaled[8];
    scale_lines(g->x + at, inverse, scaled);
    for (unsigned i = 0; i < 8; i += weights) {
        f_line *w = g->w + at + i;
        const struct grid_choice choice =
            find_entries(shape->grid, shape->level, scaled + i, w, weights, bits);
        add_levels(&m, g->x + at + i, w, choice.entry, shape->level, weights, bits);
        for (unsigned j = 0; code != NULL && j < weights; j++)
            for (unsigned lane = 0; lane < F_LANES; lane++)
                code[at + i + j][lane] =
                    mb_grid_code(shape->grid, choice.entry[lane] >> bits * j & ((1u << bits) - 1),
                                 g->signs[at / 8][lane] >> (i + j) & 1);
    }
    return m;
}

static struct grid_moments assign_8x2(const struct grid_group *g, unsigned at, f_lanes inverse,
                                      uint8_t (*code)[F_LANES])
{
    return assign_signed(g, at, inverse, 8, 2, code);
}

static struct grid_moments assign_4x3(const struct grid_group *g, unsigned at, f_lanes inverse,
                                      uint8_t (*code)[F_LANES])
{
    return assign_signed(g, at, inverse, 4, 3, code);
}

/* Moments of a group under a positive scale, and its codes when there is room for them. */
static struct grid_moments grid_assign(const struct grid_group *g, f_lanes inverse,
                                       uint8_t (*code)[F_LANES])
{
    const struct grid_shape *shape = g->shape;
    struct grid_moments sum = {{0}, {0}};
    for (unsigned i = 0; i < shape->group; i += shape->shift_run ? shape->shift_run : 8) {
        const struct grid_moments m = (shape->shift_run         ? assign_shifted
                                       : shape->grid->bits == 2 ? assign_8x2
                                                                : assign_4x3)(g, i, inverse, code);
        sum.xq += m.xq;
        sum.qq += m.qq;
    }
    return sum;
}

/* Magnitudes of 8 weights, in place, and their minuses; where the number of these has to be even,
 * the weight whose sign costs least turns. */
MB_LANE_INLINE void take_signs(f_line *x, f_line *w, bool even, uint8_t signs[F_LANES])
{
    const f_lanes zero = {0}, one = f_all(1.0f);
    f_lanes minuses = zero, odd = zero, cheapest = zero, least = zero;
    for (unsigned j = 0; j < 8; j++) {
        const f_mask minus = f_less(f_load(x[j]), zero);
        const f_lanes size = f_abs(f_load(x[j])), cost = f_load(w[j]) * size * size;
        const f_mask cheaper = f_less(cost, least);
        minuses += f_choose(minus, f_all((float)(1u << j)), zero);
        odd = f_choose(minus, one - odd, odd);
        least = j == 0 ? cost : f_min(cost, least);
        cheapest = j == 0 ? zero : f_choose(cheaper, f_all((float)j), cheapest);
        f_store(x[j], size);
    }
    f_line bits, turned;
    f_store(bits, minuses);
    f_store(turned, f_choose(f_less(zero, odd), cheapest, f_all(8.0f)));
    for (unsigned lane = 0; lane < F_LANES; lane++) {
        const unsigned j = (unsigned)turned[lane];
        signs[lane] = (uint8_t)bits[lane];
        if (even && j < 8) {
            signs[lane] ^= (uint8_t)(1u << j);
            x[j][lane] = -x[j][lane];
        }
    }
}

/* ---- scales ---- */

struct grid_fit {
    f_lanes scale, gain, qq;
};

MB_LANE_INLINE f_mask grid_improve(struct grid_fit *best, f_mask open, struct grid_moments m)
{
    const f_mask better =
        f_both(f_both(open, f_less((f_lanes){0}, m.xq)), f_less(best->gain * m.qq, m.xq * m.xq));
    best->scale = f_choose(better, m.xq / m.qq, best->scale);
    best->gain = f_choose(better, m.xq * m.xq / m.qq, best->gain);
    best->qq = f_choose(better, m.qq, best->qq);
    return better;
}

static struct grid_fit grid_fit_scale(const struct grid_group *g)
{
    const f_lanes zero = {0};
    const struct grid_shape *shape = g->shape;
    struct grid_fit best = {zero, zero, zero};
    f_lanes peak = zero;
    for (unsigned i = 0; i < shape->group; i++)
        peak = f_max(f_abs(f_load(g->x[i])), peak);
    const f_mask open = f_not(f_less(peak, f_all(NEGLIGIBLE)));
    if (f_bits(open) == 0)
        return best;
    const float step = (shape->last - shape->first) / (float)(GRID_PLACES - 1);
    for (unsigned i = 0; i < GRID_PLACES; i++)
        (void)grid_improve(&best, open,
                           grid_assign(g, (shape->first + step * (float)i) / peak, NULL));
    f_mask improving = f_less(zero, best.scale);
    for (unsigned i = 0; f_bits(improving) != 0 && i < GROUP_REFITS; i++)
        improving = grid_improve(&best, improving, grid_assign(g, 1.0f / best.scale, NULL));
    return best;
}

/* The s whose 1 + 2 s is nearest to a multiple. */
MB_LANE_INLINE f_lanes nearest_s(f_lanes multiple, unsigned highest)
{
    return f_round(f_clamp(0.5f * (multiple - 1.0f), (f_lanes){0}, f_all((float)highest)));
}

/* d so that d * (1 + 2 s) comes nearest to the scales, by weight. */
static f_lanes fit_odd_factor(const f_lanes *scale, const f_lanes *weight, unsigned n,
                              unsigned highest)
{
    const f_lanes zero = {0};
    f_lanes peak = zero, best = zero, factor = zero;
    for (unsigned i = 0; i < n; i++)
        peak = f_max(scale[i], peak);
    for (int step = -8; step <= 8; step++) {
        const f_lanes inverse = ((float)(2 * highest + 1) + 0.25f * (float)step) / peak;
        f_lanes vl = zero, ll = zero;
        for (unsigned i = 0; i < n; i++) {
            const f_lanes l = 1.0f + 2.0f * nearest_s(scale[i] * inverse, highest);
            vl += weight[i] * scale[i] * l;
            ll += weight[i] * l * l;
        }
        const f_mask better = f_less(best * ll, vl * vl);
        best = f_choose(better, vl * vl / ll, best);
        factor = f_choose(better, vl / ll, factor);
    }
    return f_choose(f_less(zero, peak), factor, zero);
}

struct grid_sub_choice {
    f_lanes s, gain;
    struct grid_moments m;
};

static struct grid_sub_choice choose_s(const struct grid_group *g, f_lanes d, f_lanes near)
{
    const f_lanes zero = {0}, highest = f_all((float)g->shape->highest);
    struct grid_sub_choice best = {near, f_all(-INFINITY), {zero, zero}};
    for (int step = -1; step <= 1; step++) {
        const f_lanes s = near + (float)step, scale = d * (1.0f + 2.0f * s);
        const struct grid_moments m = grid_assign(g, 1.0f / scale, NULL);
        const f_lanes gain = scale * (2.0f * m.xq - scale * m.qq);
        const f_mask inside = f_both(f_not(f_less(s, zero)), f_not(f_less(highest, s)));
        const f_mask better = f_both(inside, f_less(best.gain, gain));
        best.s = f_choose(better, s, best.s);
        best.gain = f_choose(better, gain, best.gain);
        best.m.xq = f_choose(better, m.xq, best.m.xq);
        best.m.qq = f_choose(better, m.qq, best.m.qq);
    }
    return best;
}

/* One choice of s for all groups under d, where that is not zero, with d refitted to it or, where
 * no scale gains anything, zero: no level is 0, and f16 has no scale so small. */
static f_lanes grid_pass(const struct grid_group *group, unsigned groups, f_lanes d,
                         const f_lanes *scale, f_lanes *near, bool is_first, bool is_last)
{
    const f_lanes zero = {0};
    const f_mask open = f_less(zero, d);
    f_lanes numerator = zero, denominator = zero, gain = zero;
    for (unsigned g = 0; f_bits(open) != 0 && g < groups; g++) {
        if (is_first)
            near[g] = f_choose(open, nearest_s(scale[g] / d, group->shape->highest), zero);
        const struct grid_sub_choice choice = choose_s(&group[g], d, near[g]);
        const f_lanes multiple = 1.0f + 2.0f * choice.s;
        near[g] = f_choose(open, choice.s, near[g]);
        gain += f_choose(open, choice.gain, zero);
        numerator += f_choose(open, multiple * choice.m.xq, zero);
        denominator += f_choose(open, multiple * multiple * choice.m.qq, zero);
    }
    const f_mask solvable = f_both(f_less(zero, denominator), f_less(zero, numerator));
    const f_lanes kept = f_choose(f_less(zero, gain), d, zero);
    return is_last ? kept : f_choose(solvable, numerator / denominator, kept);
}

/* A block that is zero has no importance: its codes are those of the first entry. */
MB_LANE_INLINE void take_grid_samples(const struct sources *from, const struct grid_shape *shape,
                                      struct samples *s, uint8_t (*signs)[F_LANES])
{
    const f_lanes zero = {0};
    f_lanes peak = zero;
    take_samples(from, s);
    for (unsigned i = 0; i < 256; i++)
        peak = f_max(f_abs(f_load(s->x[i])), peak);
    for (unsigned i = 0; i < 256; i++)
        f_store(s->w[i], f_choose(f_less(zero, peak), f_load(s->w[i]), zero));
    for (unsigned i = 0; shape->shift_run == 0 && i < 256; i += 8)
        take_signs(s->x + i, s->w + i, shape->even_signs, signs[i / 8]);
}

static void encode_grid(const struct mb_search *search, const struct sources *from,
                        struct encoded *to)
{
    const struct grid_shape *shape = &grid_shapes[search->grid];
    const unsigned groups = 256 / shape->group;
    const f_lanes zero = {0};
    struct samples s;
    uint8_t signs[32][F_LANES];
    struct grid_group group[GROUPS_MAX];
    f_lanes scale[GROUPS_MAX], weight[GROUPS_MAX], near[GROUPS_MAX] = {{0}};
    take_grid_samples(from, shape, &s, signs);
    for (unsigned g = 0; g < groups; g++) {
        const unsigned at = g * shape->group;
        group[g] = (struct grid_group){shape, s.x + at, s.w + at, signs + at / 8};
        const struct grid_fit fit = grid_fit_scale(&group[g]);
        scale[g] = fit.scale;
        weight[g] = fit.qq;
    }
    f_lanes d = fit_odd_factor(scale, weight, groups, shape->highest);
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        d = store_scales(d, &s, to->d);
        d = grid_pass(group, groups, d, scale, near, pass == 0, pass + 1 == SUPERBLOCK_PASSES);
    }
    f_line last;
    f_store(last, d);
    for (unsigned lane = 0; lane < F_LANES; lane++)
        to->d[lane] = last[lane] > 0.0f ? to->d[lane] : 0;
    for (unsigned g = 0; g < groups; g++) {
        const f_lanes multiple = 1.0f + 2.0f * near[g];
        store_integers(multiple, to->sub_scale[g]);
        (void)grid_assign(&group[g], f_choose(f_less(zero, d), 1.0f / (d * multiple), zero),
                          to->code + g * shape->group);
    }
}

#endif
