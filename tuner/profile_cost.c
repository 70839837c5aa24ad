/* SPDX-License-Identifier: Apache-2.0 */
/* A question to a profile: what does this product cost?
 *
 * A cost is the best one measured at exactly this key. Where a shape was never measured, time is
 * taken as linear in the number of weights between the nearest smaller and larger shape, and as
 * proportional to it outside; farther than a factor of 64 nothing is said. */
#include "dispatch/dispatch.h"
#include "tuner/profile.h"

#include <math.h>

static const double near_factor = 64;

/* The nearest measured shapes on both sides of a number of weights, the cheaper of equals. */
struct neighbours {
    const struct mb_cost *below, *above;
};

static double weights_of(const struct mb_cost *cost) { return (double)cost->n * (double)cost->k; }

static void consider(struct neighbours *near, const struct mb_cost *cost, double weights)
{
    const double w = weights_of(cost);
    if (w > weights * near_factor || w * near_factor < weights)
        return;
    const struct mb_cost **side = w <= weights ? &near->below : &near->above;
    const double distance = fabs(w - weights);
    const double held = *side != NULL ? fabs(weights_of(*side) - weights) : INFINITY;
    if (distance < held || (distance == held && cost->median_ns < (*side)->median_ns))
        *side = cost;
}

/* From the nearest shape(s) to the wanted one. Preparing goes with k alone. */
static void interpolate(const struct neighbours *near, double weights, struct mb_cost *cost)
{
    const size_t n = cost->n, k = cost->k, bytes = cost->bytes;
    const struct mb_cost *below = near->below, *above = near->above;
    const bool between = below != NULL && above != NULL;
    const struct mb_cost *nearest = below != NULL ? below : above;
    if (between && weights_of(above) - weights < weights - weights_of(below))
        nearest = above;
    double scale = weights / weights_of(nearest);
    if (between) {
        const double at = (weights - weights_of(below)) / (weights_of(above) - weights_of(below));
        scale =
            (below->median_ns + at * (above->median_ns - below->median_ns)) / nearest->median_ns;
    }
    const double prepare_scale = (double)k / (double)nearest->k;
    *cost = *nearest;
    cost->n = n;
    cost->k = k;
    cost->bytes = bytes;
    cost->median_ns *= scale;
    cost->mad_ns *= scale;
    cost->min_ns *= scale;
    cost->prepare_ns *= prepare_scale;
    if (cost->prepare_ns > cost->median_ns)
        cost->prepare_ns = cost->median_ns;
}

enum mb_cost_quality mb_profile_cost(const struct mb_profile *profile, enum mb_format format,
                                     size_t n, size_t k, size_t m, size_t threads,
                                     enum mb_residency residency, struct mb_cost *cost)
{
    const bool here = mb_profile_is_of_cpu(profile) &&
                      mb_profile_match(profile, NULL, 0) != MB_PROFILE_OTHER_MACHINE;
    const uint32_t mask = mb_isa_allowed_mask();
    const enum mb_activation activation = mb_profile_activation(profile, format);
    const double weights = (double)n * (double)k;
    const struct mb_cost *exact = NULL;
    struct neighbours near = {NULL, NULL};
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *entry = &profile->entries[i].cost;
        if (entry->format != format || entry->activation != activation || entry->m != m ||
            entry->threads != threads || entry->residency != residency ||
            !mb_entry_is_usable(&profile->entries[i], here, mask))
            continue;
        if (entry->n == n && entry->k == k &&
            (exact == NULL || entry->median_ns < exact->median_ns))
            exact = entry;
        consider(&near, entry, weights);
    }
    if (exact != NULL) {
        *cost = *exact;
        return MB_COST_EXACT;
    }
    const size_t row_bytes = mb_format_row_bytes(format, k);
    if (row_bytes == 0 || n == 0 || (near.below == NULL && near.above == NULL))
        return MB_COST_NONE;
    *cost = (struct mb_cost){.n = n, .k = k, .bytes = row_bytes * n};
    interpolate(&near, weights, cost);
    return MB_COST_INTERPOLATED;
}
