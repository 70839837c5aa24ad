/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to a profile: what does this product cost, and which kernels should serve this format?
 *
 * A cost is the best one measured at exactly this key. Where a shape was never measured, time is
 * taken as linear in the number of weights between the nearest smaller and larger shape, and as
 * proportional to it outside; farther than a factor of 64 nothing is said. */
#include "dispatch/dispatch.h"
#include "tuner/profile.h"
#include "tuner/space.h"

#include <math.h>
#include <string.h>

static const double near_factor = 64;
enum { GEMV_SLOTS = 8, MS_MOST = 16 };

/* On the machine itself a level that is not allowed now will not run; for another machine the
 * entries only order formats, so all of them count. */
static bool is_usable(const struct mb_profile_entry *entry, bool here, uint32_t mask)
{
    if (!entry->current || entry->cost.failed)
        return false;
    return !here || (mask >> mb_registry_find(entry->cost.kernel)->isa & 1) != 0;
}

static bool is_here(const struct mb_profile *profile)
{
    return mb_profile_match(profile, NULL, 0) != MB_PROFILE_OTHER_MACHINE;
}

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
    const bool here = is_here(profile);
    const uint32_t mask = mb_isa_allowed_mask();
    const double weights = (double)n * (double)k;
    const struct mb_cost *exact = NULL;
    struct neighbours near = {NULL, NULL};
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *entry = &profile->entries[i].cost;
        if (entry->format != format || entry->m != m || entry->threads != threads ||
            entry->residency != residency || !is_usable(&profile->entries[i], here, mask))
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

/* ---- what the dispatch layer should use ---- */

/* Mean over all measured places (shape, threads, residency) of best time / this kernel's time; a
 * place where the kernel was never timed counts 0, for it was out of the running there. */
struct score {
    const struct mb_kernel *kernel;
    double sum;
};

static bool same_place(const struct mb_cost *a, const struct mb_cost *b)
{
    return a->n == b->n && a->k == b->k && a->threads == b->threads && a->residency == b->residency;
}

static bool in_question(const struct mb_profile_entry *entry, enum mb_format format, size_t m,
                        uint32_t mask)
{
    return entry->cost.format == format && entry->cost.m == m && is_usable(entry, true, mask);
}

static double best_ns_at(const struct mb_profile *profile, const struct mb_cost *place,
                         uint32_t mask)
{
    double best = INFINITY;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_profile_entry *entry = &profile->entries[i];
        if (in_question(entry, place->format, place->m, mask) && same_place(&entry->cost, place) &&
            entry->cost.median_ns < best)
            best = entry->cost.median_ns;
    }
    return best;
}

/* The kernel that is best overall for format at m rows; NULL when nothing was measured. */
static const struct mb_kernel *best_kernel(const struct mb_profile *profile, enum mb_format format,
                                           size_t m, uint32_t mask)
{
    struct score scores[MB_CANDIDATES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_profile_entry *entry = &profile->entries[i];
        if (!in_question(entry, format, m, mask))
            continue;
        const struct mb_kernel *kernel = mb_registry_find(entry->cost.kernel);
        size_t s = 0;
        while (s < count && scores[s].kernel != kernel)
            s++;
        if (s == MB_CANDIDATES_MAX)
            continue;
        if (s == count)
            scores[count++] = (struct score){kernel, 0};
        scores[s].sum += best_ns_at(profile, &entry->cost, mask) / entry->cost.median_ns;
    }
    size_t best = 0;
    for (size_t s = 1; s < count; s++)
        if (scores[s].sum > scores[best].sum)
            best = s;
    return count > 0 ? scores[best].kernel : NULL;
}

/* Distinct m's measured for a format, ascending. */
static size_t measured_ms(const struct mb_profile *profile, enum mb_format format, uint32_t mask,
                          size_t ms[MS_MOST])
{
    size_t count = 0;
    for (size_t i = 0; i < profile->count; i++) {
        const size_t m = profile->entries[i].cost.m;
        size_t at = 0;
        while (at < count && ms[at] < m)
            at++;
        if (!in_question(&profile->entries[i], format, m, mask) || (at < count && ms[at] == m) ||
            count == MS_MOST)
            continue;
        memmove(ms + at + 1, ms + at, (count - at) * sizeof *ms);
        ms[at] = m;
        count++;
    }
    return count;
}

/* Between the largest m where gemv won and the smallest where gemm did, the default stands. */
static void apply_format(const struct mb_profile *profile, enum mb_format format, uint32_t mask)
{
    size_t ms[MS_MOST];
    const size_t count = measured_ms(profile, format, mask, ms);
    if (count == 0)
        return;
    mb_select_set(format, NULL);
    struct mb_selection selection = *mb_select(format);
    size_t gemv_until = 0, gemm_from = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        const struct mb_kernel *kernel = best_kernel(profile, format, ms[i], mask);
        struct mb_selection own;
        if (!mb_space_selection(kernel, format, ms[i], &own))
            continue;
        if (kernel->op == MB_OP_GEMM) {
            selection.gemm = own.gemm; /* of several, the one of the largest m stays */
            gemm_from = ms[i] < gemm_from ? ms[i] : gemm_from;
        } else {
            selection.gemv[ms[i] < GEMV_SLOTS ? ms[i] - 1 : GEMV_SLOTS - 1] = kernel;
            gemv_until = ms[i];
        }
    }
    if (selection.crossover >= gemm_from)
        selection.crossover = gemm_from - 1;
    if (selection.crossover < gemv_until)
        selection.crossover = gemv_until;
    mb_select_set(format, &selection);
}

void mb_profile_apply(const struct mb_profile *profile)
{
    if (!is_here(profile))
        return;
    const uint32_t mask = mb_isa_allowed_mask();
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++)
        apply_format(profile, info->id, mask);
}
