/* SPDX-License-Identifier: Apache-2.0 */
/* The encoder of the grid formats: w = d * sc * level, where the levels of 4 or 8 weights together
 * have to be an entry of a grid, sc = 1 + 2 s is odd, and signs are free or nearly so.
 *
 * Under a scale the error of an entry is a sum over its weights, so of two halves: all halves there
 * could be are priced first (the sums of two quarters), then an entry costs one addition, and a run
 * of entries that share their upper half is skipped when that half with the cheapest lower one is
 * dearer than what was found. That finds the best entry of all, by importance, at the price of a
 * few dozen additions a weight; ggml looks among neighbours of the rounded vector.
 *
 * Around it the search is that of encode_scale.c: places of the peak, refits, then d for all
 * groups, each group the best of the nearest three sub-scales. */
#include "kernels/encode_search.h"
#include "kernels/grids.h"

struct shape {
    const struct mb_grid *grid;
    const float *level;      /* magnitudes in units of the scale; iq1: -1, 0, 1 shifted */
    unsigned group, highest; /* weights per sub-scale; largest s */
    bool even_signs;         /* 8 weights have an even number of minuses */
    unsigned shift_run;      /* iq1: weights that are shifted together; 0: levels have signs */
    float first, last;       /* places of the peak, in levels */
};

/* Two bits could tell four levels, there are three: the fourth is too dear to be chosen. */
#define TOO_DEAR 1e10f
static const float iq2_levels[] = {1, 3.125f, 5.375f, TOO_DEAR},
                   iq3_xxs_levels[] = {1, 3, 5, 7, 9, 11, 13, 15.5f},
                   iq3_s_levels[] = {1, 3, 5, 7, 9, 11, 13, 15};
static const struct shape shapes[] = {
    [MB_GRID_IQ1_S] = {&mb_grid_iq1_s, NULL, 32, 7, false, 32, 0.9f, 3.0f},
    [MB_GRID_IQ1_M] = {&mb_grid_iq1_s, NULL, 16, 7, false, 8, 0.9f, 2.6f},
    [MB_GRID_IQ2_XXS] = {&mb_grid_iq2_xxs, iq2_levels, 32, 15, true, 0, 4.0f, 8.0f},
    [MB_GRID_IQ2_XS] = {&mb_grid_iq2_xs, iq2_levels, 16, 15, true, 0, 3.7f, 7.2f},
    [MB_GRID_IQ2_S] = {&mb_grid_iq2_s, iq2_levels, 16, 15, false, 0, 3.7f, 7.2f},
    [MB_GRID_IQ3_XXS] = {&mb_grid_iq3_xxs, iq3_xxs_levels, 32, 15, true, 0, 12.0f, 19.0f},
    [MB_GRID_IQ3_S] = {&mb_grid_iq3_s, iq3_s_levels, 32, 15, false, 0, 12.0f, 19.0f},
};
enum { PLACES = 5 };
#define IQ1_SHIFT 0.125f

/* ---- the best entry ---- */

struct choice {
    float cost; /* sum of w * (level^2 - 2 * level * x): the error less sum w x^2 */
    unsigned entry;
};

/* Prices of all that half an entry could be, x in units of the scale. A quarter is 2 weights of 4
 * levels or one of 8. */
static inline void price_half(const float *restrict level, const float *restrict x,
                              const float *restrict w, unsigned bits, float *restrict half)
{
    const unsigned count = bits == 2 ? 16 : 8;
    float quarter[2][16];
    for (unsigned q = 0; q < 2; q++) {
        float price[2][8];
        const unsigned weights = bits == 2 ? 2 : 1;
        for (unsigned i = 0; i < weights; i++)
            for (unsigned l = 0; l < 1u << bits; l++)
                price[i][l] =
                    w[weights * q + i] * level[l] * (level[l] - 2.0f * x[weights * q + i]);
        for (unsigned c = 0; c < count; c++)
            quarter[q][c] = bits == 2 ? price[0][c & 3] + price[1][c >> 2] : price[0][c];
    }
    for (unsigned high = 0; high < count; high++)
        for (unsigned low = 0; low < count; low++)
            half[high * count + low] = quarter[0][low] + quarter[1][high];
}

static inline float least(const float *half, unsigned count)
{
    float lane[LANES];
    for (unsigned l = 0; l < LANES; l++)
        lane[l] = half[l];
    for (unsigned i = LANES; i < count; i += LANES)
        for (unsigned l = 0; l < LANES; l++)
            lane[l] = half[i + l] < lane[l] ? half[i + l] : lane[l];
    float smallest = lane[0];
    for (unsigned l = 1; l < LANES; l++)
        smallest = lane[l] < smallest ? lane[l] : smallest;
    return smallest;
}

static inline void scan_run(const struct mb_grid *grid, unsigned run, const float *low, float high,
                            unsigned mask, struct choice *best)
{
    for (unsigned e = grid->runs[run]; e < grid->runs[run + 1]; e++) {
        const float cost = high + low[grid->entries[e] & mask];
        if (cost < best->cost)
            *best = (struct choice){cost, grid->entries[e]};
    }
}

static inline struct choice find_entry(const struct mb_grid *grid, const float *level,
                                       const float *x, const float *w, unsigned weights,
                                       unsigned bits)
{
    const unsigned half_bits = bits * weights / 2, mask = (1u << half_bits) - 1;
    float low[256], high[256];
    price_half(level, x, w, bits, low);
    price_half(level, x + weights / 2, w + weights / 2, bits, high);
    const float cheapest = least(low, mask + 1);
    float price[82];
    unsigned first = 0;
    for (unsigned run = 0; run < grid->run_count; run++) {
        price[run] = high[grid->entries[grid->runs[run]] >> half_bits];
        first = price[run] < price[first] ? run : first;
    }
    struct choice best = {INFINITY, grid->entries[0]};
    scan_run(grid, first, low, price[first], mask, &best);
    for (unsigned run = 0; run < grid->run_count; run++)
        if (price[run] + cheapest < best.cost)
            scan_run(grid, run, low, price[run], mask, &best);
    return best;
}

/* ---- 8 weights under a scale ---- */

struct moments {
    float xq, qq;
};

static inline void add_moments(struct moments *m, const float *x, const float *w, unsigned entry,
                               const float *level, unsigned bits, unsigned weights)
{
    for (unsigned j = 0; j < weights; j++) {
        const float q = level[entry >> bits * j & ((1u << bits) - 1)];
        m->xq += w[j] * q * x[j];
        m->qq += w[j] * q * q;
    }
}

/* Magnitudes and minuses; where their number has to be even, the weight whose sign costs least
 * turns. */
static inline unsigned take_signs(const float *x, const float *w, bool even, float size[8])
{
    unsigned signs = 0, minuses = 0, cheapest = 0;
    for (unsigned j = 0; j < 8; j++) {
        const unsigned minus = x[j] < 0.0f;
        size[j] = fabsf(x[j]);
        signs |= minus << j;
        minuses += minus;
        if (w[j] * size[j] * size[j] < w[cheapest] * size[cheapest] * size[cheapest])
            cheapest = j;
    }
    if (even && minuses % 2) {
        signs ^= 1u << cheapest;
        size[cheapest] = -size[cheapest];
    }
    return signs;
}

/* iq1: 8 weights, levels shifted one way; x in units of the scale. */
static inline struct choice find_shifted(const float *x, const float *w, bool down, float level[4])
{
    for (unsigned l = 0; l < 3; l++)
        level[l] = (float)((int)l - 1) + (down ? -IQ1_SHIFT : IQ1_SHIFT);
    level[3] = TOO_DEAR;
    return find_entry(&mb_grid_iq1_s, level, x, w, 8, 2);
}

/* Moments of `run` weights with their best common shift. */
static struct moments assign_shifted(const float *x, const float *w, unsigned run, float inverse,
                                     uint8_t *code)
{
    struct moments m[2] = {{0, 0}, {0, 0}};
    float cost[2] = {0, 0}, scaled[8], level[4];
    unsigned entry[2][4];
    for (unsigned i = 0; i < run; i += 8) {
        for (unsigned j = 0; j < 8; j++)
            scaled[j] = x[i + j] * inverse;
        for (unsigned down = 0; down < 2; down++) {
            const struct choice choice = find_shifted(scaled, w + i, down, level);
            entry[down][i / 8] = choice.entry;
            cost[down] += choice.cost;
            add_moments(&m[down], x + i, w + i, choice.entry, level, 2, 8);
        }
    }
    const unsigned down = cost[1] < cost[0];
    for (unsigned i = 0; code && i < run; i += 8)
        mb_grid1_split(mb_grid_find(&mb_grid_iq1_s, entry[down][i / 8]), down, code + i);
    return m[down];
}

/* Moments of 8 weights with signs. */
static inline struct moments assign_signed(const struct shape *shape, const float *x,
                                           const float *w, float inverse, unsigned weights,
                                           unsigned bits, uint8_t *code)
{
    struct moments m = {0, 0};
    float size[8], scaled[8];
    const unsigned signs = take_signs(x, w, shape->even_signs, size);
    for (unsigned j = 0; j < 8; j++)
        scaled[j] = size[j] * inverse;
    for (unsigned i = 0; i < 8; i += weights) {
        const unsigned entry =
            find_entry(shape->grid, shape->level, scaled + i, w + i, weights, bits).entry;
        add_moments(&m, size + i, w + i, entry, shape->level, bits, weights);
        if (code)
            mb_grid_split(shape->grid, mb_grid_find(shape->grid, entry), signs >> i, code + i);
    }
    return m;
}

/* Moments of a group under a positive scale, and its codes when there is room for them. */
static struct moments assign(const struct shape *shape, const float *x, const float *w,
                             float inverse, uint8_t *code)
{
    struct moments sum = {0, 0};
    const unsigned run = shape->shift_run ? shape->shift_run : 8;
    for (unsigned i = 0; i < shape->group; i += run) {
        uint8_t *at = code ? code + i : NULL;
        const struct moments m = shape->shift_run ? assign_shifted(x + i, w + i, run, inverse, at)
                                 : shape->grid->bits == 2
                                     ? assign_signed(shape, x + i, w + i, inverse, 8, 2, at)
                                     : assign_signed(shape, x + i, w + i, inverse, 4, 3, at);
        sum.xq += m.xq;
        sum.qq += m.qq;
    }
    return sum;
}

/* ---- scales ---- */

struct scale_fit {
    float scale, gain, qq;
};

static bool improve(struct scale_fit *best, struct moments m)
{
    if (!(m.xq > 0.0f && m.xq * m.xq > best->gain * m.qq))
        return false;
    *best = (struct scale_fit){m.xq / m.qq, m.xq * m.xq / m.qq, m.qq};
    return true;
}

static struct scale_fit fit_scale(const struct shape *shape, const float *x, const float *w)
{
    float peak = 0.0f;
    for (unsigned i = 0; i < shape->group; i++)
        peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    struct scale_fit best = {0};
    if (peak < NEGLIGIBLE)
        return best;
    const float step = (shape->last - shape->first) / (float)(PLACES - 1);
    for (unsigned i = 0; i < PLACES; i++)
        improve(&best, assign(shape, x, w, (shape->first + step * (float)i) / peak, NULL));
    for (unsigned i = 0; best.scale > 0.0f && i < GROUP_REFITS; i++)
        if (!improve(&best, assign(shape, x, w, 1.0f / best.scale, NULL)))
            break;
    return best;
}

/* The s whose 1 + 2 s is nearest to a multiple. */
static int nearest_s(float multiple, unsigned highest)
{
    return (int)round_nearest(clamp(0.5f * (multiple - 1.0f), 0.0f, (float)highest));
}

/* d so that d * (1 + 2 s) comes nearest to the scales, by weight. */
static float fit_odd_factor(const float *scale, const float *weight, unsigned n, unsigned highest)
{
    float peak = 0.0f, best = 0.0f, factor = 0.0f;
    for (unsigned i = 0; i < n; i++)
        peak = scale[i] > peak ? scale[i] : peak;
    if (peak == 0.0f)
        return 0.0f;
    for (int step = -8; step <= 8; step++) {
        const float inverse = ((float)(2 * highest + 1) + 0.25f * (float)step) / peak;
        float vl = 0.0f, ll = 0.0f;
        for (unsigned i = 0; i < n; i++) {
            const float l = (float)(1 + 2 * nearest_s(scale[i] * inverse, highest));
            vl += weight[i] * scale[i] * l;
            ll += weight[i] * l * l;
        }
        if (vl * vl > best * ll) {
            best = vl * vl / ll;
            factor = vl / ll;
        }
    }
    return factor;
}

struct group_choice {
    int s;
    float gain;
    struct moments m;
};

static struct group_choice choose_s(const struct shape *shape, const float *x, const float *w,
                                    float d, int near)
{
    struct group_choice best = {.s = near, .gain = -INFINITY};
    for (int s = near - 1; s <= near + 1; s++) {
        if (s < 0 || s > (int)shape->highest)
            continue;
        const float scale = d * (float)(1 + 2 * s);
        const struct moments m = assign(shape, x, w, 1.0f / scale, NULL);
        const float gain = scale * (2.0f * m.xq - scale * m.qq);
        if (gain > best.gain)
            best = (struct group_choice){s, gain, m};
    }
    return best;
}

void mb_encode_grid(const float *x, const float *importance, enum mb_grid_format format,
                    struct mb_block_fields *fields)
{
    const struct shape *shape = &shapes[format];
    const unsigned groups = 256 / shape->group;
    struct sample s;
    memset(fields, 0, sizeof *fields);
    if (!take_sample(x, importance, 256, &s))
        memset(&s, 0, sizeof s), s.unit = 1.0f;
    float scale[16], weight[16];
    for (unsigned g = 0; g < groups; g++) {
        const struct scale_fit fit =
            fit_scale(shape, s.x + g * shape->group, s.w + g * shape->group);
        scale[g] = fit.scale;
        weight[g] = fit.qq;
    }
    float d = fit_odd_factor(scale, weight, groups, shape->highest);
    int near[16] = {0};
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        float numerator = 0.0f, denominator = 0.0f, gain = 0.0f;
        d = store_scale(d, s.unit, &fields->d);
        for (unsigned g = 0; d > 0.0f && g < groups; g++) {
            if (pass == 0)
                near[g] = nearest_s(scale[g] / d, shape->highest);
            const struct group_choice choice =
                choose_s(shape, s.x + g * shape->group, s.w + g * shape->group, d, near[g]);
            const float multiple = (float)(1 + 2 * choice.s);
            near[g] = choice.s;
            gain += choice.gain;
            numerator += multiple * choice.m.xq;
            denominator += multiple * multiple * choice.m.qq;
        }
        if (pass + 1 < SUPERBLOCK_PASSES && denominator > 0.0f && numerator > 0.0f)
            d = numerator / denominator;
        else if (!(gain > 0.0f)) /* no level is 0, and f16 has no scale so small: all is 0 then */
            d = store_scale(0.0f, s.unit, &fields->d);
    }
    for (unsigned g = 0; g < groups; g++) {
        fields->sub_scale[g] = (int16_t)(1 + 2 * near[g]);
        (void)assign(shape, s.x + g * shape->group, s.w + g * shape->group,
                     d > 0.0f ? 1.0f / (d * (float)(1 + 2 * near[g])) : 0.0f,
                     fields->code + g * shape->group);
    }
}
