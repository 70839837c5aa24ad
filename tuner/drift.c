/* SPDX-License-Identifier: Apache-2.0 */
/* See drift.h. */
#include "tuner/drift.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static const double quick_weights = 1 << 24; /* of a product that is soon timed */
static const double noticed = 1.05;

static bool is_best(const struct mb_profile *profile, const struct mb_cost *cost)
{
    const struct mb_question question = {.format = cost->format,
                                         .activation = cost->activation,
                                         .m = cost->m,
                                         .ops = MB_ALL_OPS,
                                         .place = cost};
    struct mb_config config;
    return mb_profile_best_config(profile, &question, &config) &&
           strcmp(config.kernel->name, cost->kernel) == 0 &&
           memcmp(config.knobs, cost->knobs, sizeof cost->knobs) == 0;
}

/* The larger the better, as far as it is quick; the task's own shapes before all others. */
static double merit(const struct mb_tune_task *task, const struct mb_cost *cost)
{
    const double weights = (double)cost->n * (double)cost->k;
    double value = weights <= quick_weights ? weights : quick_weights / weights;
    for (size_t s = 0; s < task->shape_count; s++)
        if (task->shapes[s].n == cost->n && task->shapes[s].k == cost->k)
            value += 2 * quick_weights;
    return value;
}

static bool has_format(const struct mb_drift *drift, size_t first, enum mb_format format)
{
    for (size_t i = first; i < drift->count; i++)
        if (drift->points[i].kept.format == format)
            return true;
    return false;
}

/* The most meritorious entry at this residency and m whose format has no point yet; NULL: none. */
static const struct mb_cost *next_point(const struct mb_drift *drift, size_t first,
                                        const struct mb_profile *profile,
                                        const struct mb_tune_task *task,
                                        enum mb_residency residency, size_t m, size_t threads)
{
    const struct mb_cost *best = NULL;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_profile_entry *entry = &profile->entries[i];
        const struct mb_cost *cost = &entry->cost;
        if (cost->residency == residency && cost->m == m && cost->threads == threads &&
            mb_entry_is_usable(entry, true, mb_isa_allowed_mask()) &&
            !has_format(drift, first, cost->format) &&
            (best == NULL || merit(task, cost) > merit(task, best)) && is_best(profile, cost))
            best = cost;
    }
    return best;
}

void mb_drift_begin(struct mb_drift *drift, struct mb_profile *profile,
                    const struct mb_tune_task *task, unsigned residencies, size_t threads)
{
    drift->count = 0;
    for (size_t i = 0; i < profile->count; i++)
        profile->entries[i].fresh = false;
    for (size_t r = 0; r < MB_RESIDENCY_COUNT; r++)
        for (size_t i = 0; i < task->m_count && (residencies >> r & 1) != 0; i++) {
            const size_t first = drift->count;
            while (drift->count < MB_DRIFT_POINTS_MOST && drift->count < first + MB_DRIFT_POINTS) {
                const struct mb_cost *cost = next_point(drift, first, profile, task,
                                                        (enum mb_residency)r, task->ms[i], threads);
                if (cost == NULL)
                    break;
                drift->points[drift->count++] = (struct mb_drift_point){.kept = *cost};
            }
        }
}

/* How many times as long products take now, by the points of the m nearest to this one; 0: there
 * are none. */
static double ratio_at(const struct mb_drift *drift, enum mb_residency residency, size_t m)
{
    double nearest = INFINITY, sum = 0, count = 0;
    for (size_t i = 0; i < drift->count; i++) {
        const struct mb_drift_point *point = &drift->points[i];
        const double distance = fabs(log((double)point->kept.m / (double)m));
        if (point->kept.residency != residency || !(point->best_ns > 0) || distance > nearest)
            continue;
        if (distance < nearest)
            sum = count = 0;
        nearest = distance;
        sum += log(point->best_ns / point->kept.median_ns);
        count++;
    }
    return count > 0 ? exp(sum / count) : 0;
}

void mb_drift_settle(const struct mb_drift *drift, struct mb_profile *profile, size_t threads)
{
    double most = 1;
    for (size_t i = 0; i < profile->count; i++) {
        struct mb_cost *cost = &profile->entries[i].cost;
        const double ratio = ratio_at(drift, cost->residency, cost->m);
        if (!profile->entries[i].fresh || cost->failed || cost->threads != threads || ratio == 0 ||
            fabs(log(ratio)) < log(noticed))
            continue;
        cost->median_ns /= ratio;
        cost->mad_ns /= ratio;
        cost->min_ns /= ratio;
        cost->prepare_ns /= ratio;
        most = fabs(log(ratio)) > fabs(log(most)) ? ratio : most;
    }
    if (most != 1)
        mb_log(MB_LOG_INFO,
               "products take up to %.2f times as long as when this profile was begun: new times "
               "are brought to what they would have been then",
               most);
}
