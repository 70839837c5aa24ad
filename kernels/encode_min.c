/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders with a minimum: w = d * code + min, and w = d * sc * code - dmin * m.
 *
 * For codes q a group's error is a quadratic in scale and offset whose coefficients are sum w q,
 * sum w q^2 and sum w x q beside constants of the group: a 2 x 2 system gives the best pair. The
 * search lays the code range over the group's own range, shrunk from both ends (clipping the
 * extremes buys finer steps; the fewer the codes the more), keeps the best, and alternates
 * assignment and refit. Super-blocks then choose d and dmin for all groups, each group the pair
 * (sc, m) whose own assignment errs least among the nearest nine, and d, dmin are refitted together
 * to those choices. */
#include "kernels/encode_search.h"

struct moments {
    float q, qq, xq;
};

/* What a group's codes can't change. */
struct group_sums {
    float w, x;
};

struct min_fit {
    float scale, offset, gain;
    struct moments m;
};

static inline struct group_sums sum_group(const float *x, const float *w, unsigned n)
{
    float sw[LANES] = {0}, sx[LANES] = {0};
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned l = 0; l < LANES; l++) {
            sw[l] += w[i + l];
            sx[l] += w[i + l] * x[i + l];
        }
    return (struct group_sums){sum_lanes(sw), sum_lanes(sx)};
}

static inline struct moments assign_group(const float *x, const float *w, unsigned n, float inverse,
                                          float offset, float high)
{
    float q1[LANES] = {0}, q2[LANES] = {0}, xq[LANES] = {0};
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned l = 0; l < LANES; l++) {
            const float q = round_nearest(clamp((x[i + l] - offset) * inverse, 0.0f, high));
            const float wq = w[i + l] * q;
            q1[l] += wq;
            q2[l] += wq * q;
            xq[l] += wq * x[i + l];
        }
    return (struct moments){sum_lanes(q1), sum_lanes(q2), sum_lanes(xq)};
}

/* Constants for the group let the loops above unroll and vectorise. */
static struct moments assign(const float *x, const float *w, unsigned n, float inverse,
                             float offset, float high)
{
    return n == 16 ? assign_group(x, w, 16, inverse, offset, high)
                   : assign_group(x, w, 32, inverse, offset, high);
}

/* How much of sum w x^2 the values scale * q + offset explain. */
static inline float gain_of(struct moments m, struct group_sums sums, float scale, float offset)
{
    return scale * (2.0f * m.xq - scale * m.qq - 2.0f * offset * m.q) +
           offset * (2.0f * sums.x - offset * sums.w);
}

/* Refit scale and offset to an assignment made under `assigned`; with `negative`, the offset may
 * not be above zero. One code for all that count leaves the offset undetermined: it then stays. */
static inline bool improve(struct min_fit *best, struct moments m, struct group_sums sums,
                           float assigned, bool negative)
{
    if (!(m.qq > 0.0f))
        return false;
    const float determinant = sums.w * m.qq - m.q * m.q;
    const bool solvable = determinant > 1e-5f * sums.w * m.qq;
    float offset = solvable ? (sums.x * m.qq - m.q * m.xq) / determinant : assigned;
    if (negative && offset > 0.0f)
        offset = 0.0f;
    const float scale = (m.xq - offset * m.q) / m.qq;
    const float gain = gain_of(m, sums, scale, offset);
    if (!(gain > best->gain) || !(scale > 0.0f))
        return false;
    *best = (struct min_fit){scale, offset, gain, m};
    return true;
}

static inline struct min_fit fit_min(const float *x, const float *w, unsigned n, int high,
                                     bool negative, struct group_sums sums)
{
    float least = x[0], most = x[0];
    for (unsigned i = 1; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    if (negative && least > 0.0f)
        least = 0.0f;
    /* One value for all: the offset alone. */
    struct min_fit best = {0};
    best.offset = sums.x / sums.w;
    if (negative && best.offset > 0.0f)
        best.offset = 0.0f;
    best.gain = best.offset * (2.0f * sums.x - best.offset * sums.w);
    if (!(most - least > NEGLIGIBLE))
        return best;
    /* Either end from half a code (a quarter, with few codes) outside of the range to three times
     * that inside. */
    const float step = (most - least) / (float)high * (high > 3 ? 0.5f : 0.25f);
    for (int i = -1; i <= 3; i++)
        for (int j = -1; j <= 3; j++) {
            const float low = least + (float)i * step, range = most - (float)j * step - low;
            if (range > 0.0f)
                improve(&best, assign(x, w, n, (float)high / range, low, (float)high), sums, low,
                        negative);
        }
    for (int i = 0; i < GROUP_REFITS && best.scale > 0.0f; i++)
        if (!improve(&best, assign(x, w, n, 1.0f / best.scale, best.offset, (float)high), sums,
                     best.offset, negative))
            break;
    return best;
}

static inline void write_codes(const float *x, unsigned n, float scale, float offset, float high,
                               uint8_t *code)
{
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (unsigned i = 0; i < n; i++)
        code[i] = (uint8_t)round_nearest(clamp((x[i] - offset) * inverse, 0.0f, high));
}

void mb_encode_min(const float *x, const float *importance, int high,
                   struct mb_block_fields *fields)
{
    struct sample s;
    fields->d = fields->dmin = 0;
    memset(fields->code, 0, 32);
    if (!take_sample(x, importance, 32, &s))
        return;
    const struct group_sums sums = sum_group(s.x, s.w, 32);
    const struct min_fit fit = fit_min(s.x, s.w, 32, high, false, sums);
    /* The minimum makes up for the rounding of d, to zero if need be. */
    const float d = store_scale(fit.scale, s.unit, &fields->d);
    const struct moments m =
        assign(s.x, s.w, 32, d > 0.0f ? 1.0f / d : 0.0f, fit.offset, (float)high);
    const float min = store_scale((sums.x - d * m.q) / sums.w, s.unit, &fields->dmin);
    write_codes(s.x, 32, d, min, (float)high, fields->code);
}

struct group_choice {
    int sub_scale, sub_min;
    float gain;
    struct moments m;
};

/* Among the nearest sub-scales, with the nearest sub-mins of each, the pair whose assignment
 * explains most. */
static inline struct group_choice choose_pair(const float *x, const float *w, unsigned n, int high,
                                              struct group_sums sums, float d, float dmin,
                                              struct min_fit near, int sub_high)
{
    struct group_choice best = {.gain = -INFINITY};
    const float limit = (float)sub_high;
    const float sub = d > 0.0f ? round_nearest(clamp(near.scale / d, 0.0f, limit)) : 0.0f;
    for (int i = -1; i <= 1; i++) {
        const float sc = clamp(sub + (float)i, 0.0f, limit), scale = d * sc;
        const float offset = (sums.x - scale * near.m.q) / sums.w;
        const float min = dmin > 0.0f ? round_nearest(clamp(-offset / dmin, 0.0f, limit)) : 0.0f;
        for (int j = -1; j <= 1; j++) {
            const float m = clamp(min + (float)j, 0.0f, limit);
            const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            const struct moments moments = assign(x, w, n, inverse, -dmin * m, (float)high);
            const float gain = gain_of(moments, sums, scale, -dmin * m);
            if (gain > best.gain)
                best = (struct group_choice){(int)sc, (int)m, gain, moments};
        }
    }
    return best;
}

/* Least squares for d and dmin given every group's integers: a 2 x 2 system over the super-block.
 */
struct super_system {
    float ss, sm, mm, xs, xm;
};

static inline void add_group(struct super_system *a, const struct group_choice *choice,
                             struct group_sums sums)
{
    const float sc = (float)choice->sub_scale, m = (float)choice->sub_min;
    a->ss += sc * sc * choice->m.qq;
    a->sm += sc * m * choice->m.q;
    a->mm += m * m * sums.w;
    a->xs += sc * choice->m.xq;
    a->xm += m * sums.x;
}

static inline void solve_super(const struct super_system *a, float *d, float *dmin)
{
    const float determinant = a->ss * a->mm - a->sm * a->sm;
    if (determinant > 1e-6f * a->ss * a->mm) {
        const float scale = (a->xs * a->mm - a->xm * a->sm) / determinant;
        const float min = (a->xs * a->sm - a->xm * a->ss) / determinant;
        if (scale > 0.0f && min > 0.0f)
            *d = scale, *dmin = min;
    } else if (a->ss > 0.0f && a->mm == 0.0f && a->xs > 0.0f) {
        *d = a->xs / a->ss;
    }
}

void mb_encode_min_x2(const float *x, const float *importance, int high, unsigned group,
                      int sub_high, struct mb_block_fields *fields)
{
    struct sample s;
    memset(fields, 0, sizeof *fields);
    if (!take_sample(x, importance, 256, &s))
        return;
    const unsigned groups = 256 / group;
    struct group_sums sums[16];
    struct min_fit fit[16];
    float scale[16], scale_weight[16], min[16], min_weight[16];
    for (unsigned g = 0; g < groups; g++) {
        const float *xg = s.x + g * group, *wg = s.w + g * group;
        sums[g] = sum_group(xg, wg, group);
        fit[g] = fit_min(xg, wg, group, high, true, sums[g]);
        scale[g] = fit[g].scale;
        scale_weight[g] = fit[g].m.qq;
        min[g] = -fit[g].offset;
        min_weight[g] = sums[g].w;
    }
    float d = fit_factor(scale, scale_weight, groups, 0, sub_high);
    float dmin = fit_factor(min, min_weight, groups, 0, sub_high);
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        struct super_system system = {0};
        d = store_scale(d, s.unit, &fields->d);
        dmin = store_scale(dmin, s.unit, &fields->dmin);
        for (unsigned g = 0; g < groups; g++) {
            const float *xg = s.x + g * group, *wg = s.w + g * group;
            const struct group_choice choice =
                choose_pair(xg, wg, group, high, sums[g], d, dmin, fit[g], sub_high);
            fields->sub_scale[g] = (int16_t)choice.sub_scale;
            fields->sub_min[g] = (int16_t)choice.sub_min;
            fit[g].scale = d * (float)choice.sub_scale;
            fit[g].m = choice.m;
            add_group(&system, &choice, sums[g]);
        }
        if (pass + 1 < SUPERBLOCK_PASSES)
            solve_super(&system, &d, &dmin);
    }
    for (unsigned g = 0; g < groups; g++)
        write_codes(s.x + g * group, group, d * (float)fields->sub_scale[g],
                    -dmin * (float)fields->sub_min[g], (float)high, fields->code + g * group);
}
