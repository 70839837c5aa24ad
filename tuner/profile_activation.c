/* SPDX-License-Identifier: Apache-2.0 */
/* Which type of activations a profile runs a format with.
 *
 * The default type has the accuracy that llama.cpp has. Another one counts only where its error is
 * at most `max_error` times that of the default, at every place where both were measured, and then
 * the fastest is chosen: by the geometric mean of times over those places (each at its best
 * kernel), with the 2 % to spare that two visits of one kernel differ by. Below 1 the limit asks
 * for more accuracy than the default has, which is then out of the running, unless nothing meets
 * it. */
#include "dispatch/dispatch.h"
#include "tuner/profile.h"

#include <math.h>
#include <string.h>

static const double clear_ratio = 0.98;

/* The best entry of the type where `like` was measured; NULL: there is none. */
static const struct mb_cost *best_at(const struct mb_profile *profile, const struct mb_cost *like,
                                     enum mb_activation activation)
{
    const struct mb_cost *best = NULL;
    const uint32_t mask = mb_isa_allowed_mask();
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        if (cost->format == like->format && cost->activation == activation && cost->m == like->m &&
            mb_cost_same_place(cost, like) &&
            mb_entry_is_usable(&profile->entries[i], true, mask) &&
            (best == NULL || cost->median_ns < best->median_ns))
            best = cost;
    }
    return best;
}

/* How many times as long products take with the type; false when it is nowhere measured beside the
 * default, or is beyond the limit anywhere. */
static bool compare(const struct mb_profile *profile, const struct mb_format_info *info,
                    enum mb_activation activation, double *ratio)
{
    double sum = 0;
    size_t places = 0;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        if (cost->format != info->id || cost->activation != activation ||
            best_at(profile, cost, activation) != cost)
            continue;
        const struct mb_cost *usual = best_at(profile, cost, info->activation);
        if (usual == NULL)
            continue;
        if (cost->error > profile->max_error * usual->error)
            return false;
        sum += log(cost->median_ns / usual->median_ns);
        places++;
    }
    *ratio = places > 0 ? exp(sum / (double)places) : 0;
    return places > 0;
}

void mb_profile_settle(struct mb_profile *profile)
{
    const struct mb_format_info *info;
    if (!(profile->max_error > 0))
        profile->max_error = 1;
    memset(profile->chosen, 0, sizeof profile->chosen);
    if (!mb_profile_is_of_cpu(profile))
        return;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++) {
        double best = profile->max_error < 1 ? INFINITY : clear_ratio, ratio;
        for (size_t a = 0; a < MB_ACTIVATION_COUNT && profile->max_error != 1; a++)
            if (a != (size_t)info->activation &&
                compare(profile, info, (enum mb_activation)a, &ratio) && ratio < best) {
                best = ratio;
                profile->chosen[info->id] = (uint8_t)(a + 1);
            }
    }
}

enum mb_activation mb_profile_activation(const struct mb_profile *profile, enum mb_format format)
{
    const uint8_t chosen = profile->chosen[format];
    return chosen > 0 ? (enum mb_activation)(chosen - 1) : mb_format_info(format)->activation;
}
