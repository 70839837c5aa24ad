/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders without a minimum: w = d * level, and w = d * sc * level.
 *
 * For levels q the error is  sum w x^2 - 2 s xq + s^2 qq,  with xq = sum w x q and qq = sum w q^2:
 * the best scale is xq / qq, and it takes away xq^2 / qq. The search maps the group's peak to a
 * range of places around the last level, on either side (the range is not symmetric), keeps the
 * best, and then alternates assignment and refit. Super-blocks then choose d for all groups, each
 * group the sub-scale whose own assignment errs least among the nearest three, and d is refitted to
 * those choices. */
#include "kernels/encode_search.h"

struct moments {
    float xq, qq;
};

/* A scale and how much of sum w x^2 it explains. */
struct scale_fit {
    float scale, gain, qq;
};

/* Midpoints between neighbouring levels of iq4, and the steps between them. Counting the midpoints
 * below a value finds its code, adding up their steps its level: no branch and no table, so a
 * compiler runs four values at a time. */
#define FOR_EACH_MIDPOINT(M)                                                                       \
    M(-115.5f, 23)                                                                                 \
    M(-93.5f, 21)                                                                                  \
    M(-74.0f, 18)                                                                                  \
    M(-57.0f, 16)                                                                                  \
    M(-42.0f, 14)                                                                                  \
    M(-28.5f, 13)                                                                                  \
    M(-16.0f, 12)                                                                                  \
    M(-4.5f, 11)                                                                                   \
    M(7.0f, 12)                                                                                    \
    M(19.0f, 12)                                                                                   \
    M(31.5f, 13)                                                                                   \
    M(45.5f, 15)                                                                                   \
    M(61.0f, 16)                                                                                   \
    M(79.0f, 20)                                                                                   \
    M(101.0f, 24)

#define ADD_STEP(midpoint, step) +(value > midpoint ? (float)step : 0.0f)
#define ADD_ONE(midpoint, step) +(value > midpoint)

static inline float nearest_iq4(float value) { return -127.0f FOR_EACH_MIDPOINT(ADD_STEP); }

/* The same for the magnitudes of E2M1. */
#define FOR_EACH_E2M1_MIDPOINT(M)                                                                  \
    M(0.5f, 1)                                                                                     \
    M(1.5f, 1)                                                                                     \
    M(2.5f, 1)                                                                                     \
    M(3.5f, 1)                                                                                     \
    M(5.0f, 2)                                                                                     \
    M(7.0f, 2)                                                                                     \
    M(10.0f, 4)

static inline float nearest_e2m1(float signed_value)
{
    const float value = fabsf(signed_value);
    return copysignf(0.0f FOR_EACH_E2M1_MIDPOINT(ADD_STEP), signed_value);
}

static inline uint8_t nearest_e2m1_code(float signed_value)
{
    const float value = fabsf(signed_value);
    const unsigned magnitude = 0 FOR_EACH_E2M1_MIDPOINT(ADD_ONE);
    return (uint8_t)(magnitude > 0 && signed_value < 0.0f ? magnitude + 8 : magnitude);
}

static inline uint8_t nearest_code(float value, struct mb_levels levels)
{
    if (levels.kind == MB_LEVELS_OF_IQ4)
        return (uint8_t)(0 FOR_EACH_MIDPOINT(ADD_ONE));
    if (levels.kind == MB_LEVELS_OF_E2M1)
        return nearest_e2m1_code(value);
    return (uint8_t)(int)(round_nearest(clamp(value, levels.low, levels.high)) - levels.low);
}

static inline struct moments assign_group(const float *x, const float *w, unsigned n, float inverse,
                                          struct mb_levels levels, enum mb_level_kind kind)
{
    float level[32], xq[LANES] = {0}, qq[LANES] = {0};
    for (unsigned i = 0; i < n; i++)
        level[i] = kind == MB_LEVELS_OF_IQ4 ? nearest_iq4(x[i] * inverse)
                   : kind == MB_LEVELS_OF_E2M1
                       ? nearest_e2m1(x[i] * inverse)
                       : round_nearest(clamp(x[i] * inverse, levels.low, levels.high));
    for (unsigned i = 0; i < n; i += LANES)
        for (unsigned l = 0; l < LANES; l++) {
            const float wq = w[i + l] * level[i + l];
            xq[l] += wq * x[i + l];
            qq[l] += wq * level[i + l];
        }
    return (struct moments){sum_lanes(xq), sum_lanes(qq)};
}

/* Constants for the group and the kind of levels let the loops above unroll and vectorise: half the
 * time. */
static struct moments assign(const float *x, const float *w, unsigned n, float inverse,
                             struct mb_levels levels)
{
    if (levels.kind == MB_LEVELS_OF_IQ4)
        return assign_group(x, w, 32, inverse, levels, MB_LEVELS_OF_IQ4);
    if (levels.kind == MB_LEVELS_OF_E2M1)
        return n == 16 ? assign_group(x, w, 16, inverse, levels, MB_LEVELS_OF_E2M1)
                       : assign_group(x, w, 32, inverse, levels, MB_LEVELS_OF_E2M1);
    return n == 16 ? assign_group(x, w, 16, inverse, levels, MB_LEVELS_OF_INTEGERS)
                   : assign_group(x, w, 32, inverse, levels, MB_LEVELS_OF_INTEGERS);
}

static inline bool improve(struct scale_fit *best, struct moments m)
{
    if (!(m.xq * m.xq > best->gain * m.qq))
        return false;
    *best = (struct scale_fit){m.xq / m.qq, m.xq * m.xq / m.qq, m.qq};
    return true;
}

static inline struct scale_fit fit_scale(const float *x, const float *w, unsigned n,
                                         struct mb_levels levels)
{
    float peak = 0.0f;
    for (unsigned i = 0; i < n; i++)
        peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    struct scale_fit best = {0};
    if (peak < NEGLIGIBLE)
        return best;
    /* Places of the peak, in steps of a quarter code: from just inside the range to well beyond it,
     * where the peak is clipped so that the others have finer steps. Importance that spares the
     * peak makes that pay. */
    const float code = levels.kind == MB_LEVELS_OF_IQ4 ? levels.high / 7.0f : 1.0f;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int i = -2; i <= 14; i++) {
            const float place = levels.high + 0.25f * (float)i * code;
            improve(&best, assign(x, w, n, (float)sign * place / peak, levels));
        }
    for (int i = 0; i < GROUP_REFITS; i++)
        if (!improve(&best, assign(x, w, n, 1.0f / best.scale, levels)))
            break;
    return best;
}

static inline void write_codes(const float *x, unsigned n, float scale, struct mb_levels levels,
                               uint8_t *code)
{
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (unsigned i = 0; i < n; i++)
        code[i] = nearest_code(x[i] * inverse, levels);
}

void mb_encode_scale(const float *x, const float *importance, struct mb_levels levels,
                     struct mb_block_fields *fields)
{
    struct sample s;
    fields->d = 0;
    if (!take_sample(x, importance, 32, &s))
        memset(&s, 0, sizeof s), s.unit = 1.0f;
    const float d = store_scale(fit_scale(s.x, s.w, 32, levels).scale, s.unit, &fields->d);
    write_codes(s.x, 32, d, levels, fields->code);
}

/* The sub-scale of a group under d, and what its assignment gives. */
struct group_choice {
    int sub;
    float gain;
    struct moments m;
};

static inline struct group_choice choose_sub_scale(const float *x, const float *w, unsigned n,
                                                   struct mb_levels levels, float d, float near,
                                                   int limit)
{
    struct group_choice best = {0};
    for (int step = -1; step <= 1; step++) {
        const float sub = clamp(near + (float)step, (float)-limit, (float)(limit - 1));
        const float scale = d * sub;
        if (scale == 0.0f)
            continue;
        const struct moments m = assign(x, w, n, 1.0f / scale, levels);
        const float gain = scale * (2.0f * m.xq - scale * m.qq);
        if (gain > best.gain)
            best = (struct group_choice){(int)sub, gain, m};
    }
    return best;
}

void mb_encode_scale_x2(const float *x, const float *importance, struct mb_levels levels,
                        unsigned group, int sub_limit, struct mb_block_fields *fields)
{
    struct sample s;
    memset(fields, 0, sizeof *fields);
    if (!take_sample(x, importance, 256, &s))
        memset(&s, 0, sizeof s), s.unit = 1.0f;
    const unsigned groups = 256 / group;
    float scale[16], weight[16];
    for (unsigned g = 0; g < groups; g++) {
        const struct scale_fit fit = fit_scale(s.x + g * group, s.w + g * group, group, levels);
        scale[g] = fit.scale;
        weight[g] = fit.qq;
    }
    float d = fit_factor(scale, weight, groups, -sub_limit, sub_limit - 1);
    for (unsigned pass = 0; pass < SUPERBLOCK_PASSES; pass++) {
        float numerator = 0.0f, denominator = 0.0f;
        d = store_scale(d, s.unit, &fields->d);
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        for (unsigned g = 0; g < groups; g++) {
            const float near = pass ? (float)fields->sub_scale[g]
                                    : round_nearest(clamp(scale[g] * inverse, (float)-sub_limit,
                                                          (float)(sub_limit - 1)));
            const struct group_choice choice = choose_sub_scale(s.x + g * group, s.w + g * group,
                                                                group, levels, d, near, sub_limit);
            fields->sub_scale[g] = (int16_t)choice.sub;
            numerator += (float)choice.sub * choice.m.xq;
            denominator += (float)(choice.sub * choice.sub) * choice.m.qq;
        }
        if (pass + 1 < SUPERBLOCK_PASSES && denominator > 0.0f)
            d = numerator / denominator;
    }
    for (unsigned g = 0; g < groups; g++)
        write_codes(s.x + g * group, group, d * (float)fields->sub_scale[g], levels,
                    fields->code + g * group);
}

/* ---- scales of one byte: few enough to try ---- */

/* The byte of [first, last] whose scale takes away most, and the codes under it; 0 when none takes
 * away anything. */
static uint8_t choose_byte(const float *x, const float *w, unsigned n, float unit, int first,
                           int last, float (*value)(uint8_t), uint8_t *code)
{
    int best = 0;
    float most = 0.0f;
    for (int byte = first; byte <= last; byte++) {
        const float scale = value((uint8_t)byte) / unit;
        const struct moments m = assign(x, w, n, 1.0f / scale, MB_LEVELS_E2M1);
        const float gain = scale * (2.0f * m.xq - scale * m.qq);
        if (gain > most) {
            most = gain;
            best = byte;
        }
    }
    write_codes(x, n, best ? value((uint8_t)best) / unit : 0.0f, MB_LEVELS_E2M1, code);
    return (uint8_t)best;
}

/* The peak at 4 to 8, 8 to 16 or 16 to 32, clipped at 12. Beyond 252 its level would be no f32. */
void mb_encode_e8m0(const float *x, const float *importance, struct mb_block_fields *fields)
{
    struct sample s;
    memset(fields, 0, sizeof *fields);
    if (!take_sample(x, importance, 32, &s))
        return;
    const int exponent = (int)(mb_float_bits(s.unit) >> 23) - 127;
    const int last = exponent + 126 < 252 ? exponent + 126 : 252;
    fields->sub_scale[0] =
        choose_byte(s.x, s.w, 32, s.unit, exponent + 124, last, mb_e8m0_to_float, fields->code);
}

/* From the byte that maps the peak to 12 or just above, down to a fifth of that place: all that a
 * group may prefer. */
void mb_encode_ue4m3(const float *x, const float *importance, struct mb_block_fields *fields)
{
    enum { LARGEST = 0x7e, BELOW = 3, ABOVE = 12 };
    struct sample s;
    memset(fields, 0, sizeof *fields);
    if (!take_sample(x, importance, 64, &s))
        return;
    for (unsigned g = 0; g < 4; g++) {
        float peak = 0.0f;
        for (unsigned i = 16 * g; i < 16 * g + 16; i++)
            peak = fabsf(s.x[i]) > peak ? fabsf(s.x[i]) : peak;
        /* The bits of an f16 of 2^-7 of it are the byte, and 7 more bits of mantissa. */
        const int near = mb_half_from_float(peak * s.unit / 12.0f * 0x1p-7f) >> 7;
        const int first = near - BELOW < 1 ? 1 : near - BELOW > LARGEST ? LARGEST : near - BELOW;
        const int last = near + ABOVE > LARGEST ? LARGEST : near + ABOVE;
        fields->sub_scale[g] = choose_byte(s.x + 16 * g, s.w + 16 * g, 16, s.unit, first, last,
                                           mb_ue4m3_to_float, fields->code + 16 * g);
    }
}
