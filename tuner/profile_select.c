/* SPDX-License-Identifier: Apache-2.0 */
/* The other question to a profile: how should this format be run?
 *
 * A configuration is a kernel with its knobs. Of all that were timed at some m, the one that is
 * nearest to the best on average over the places (shape, threads, residency) wins; but knobs have
 * to earn being turned: the default ones stay while they are within 2 %, which is what two visits
 * of the same configuration differ by. */
#include "dispatch/dispatch.h"
#include "tuner/profile.h"

#include <math.h>
#include <string.h>

enum { GEMV_SLOTS = 8, MS_MOST = 16, CONFIGS_MOST = 64 };
static const double simple_ratio = 0.98;

/* The score is the mean over all places in question of best time / this one's time; where the
 * configuration was never timed it counts 0, for it was out of the running there. */
struct score {
    struct mb_config config;
    double sum;
};

bool mb_cost_same_place(const struct mb_cost *a, const struct mb_cost *b)
{
    return a->n == b->n && a->k == b->k && a->threads == b->threads && a->residency == b->residency;
}

static bool in_question(const struct mb_profile_entry *entry, const struct mb_question *q)
{
    const struct mb_cost *cost = &entry->cost;
    return cost->format == q->format && cost->activation == q->activation && cost->m == q->m &&
           (q->place == NULL || mb_cost_same_place(cost, q->place)) &&
           mb_entry_is_usable(entry, true, mb_isa_allowed_mask()) &&
           (q->ops >> mb_registry_find(cost->kernel)->op & 1) != 0;
}

static double best_ns_at(const struct mb_profile *profile, const struct mb_question *question,
                         const struct mb_cost *place)
{
    struct mb_question here = *question;
    double best = INFINITY;
    here.place = place;
    for (size_t i = 0; i < profile->count; i++)
        if (in_question(&profile->entries[i], &here))
            best = fmin(best, profile->entries[i].cost.median_ns);
    return best;
}

static size_t collect_scores(const struct mb_profile *profile, const struct mb_question *question,
                             struct score scores[CONFIGS_MOST])
{
    size_t count = 0;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        if (!in_question(&profile->entries[i], question))
            continue;
        struct mb_config config = {.kernel = mb_registry_find(cost->kernel)};
        memcpy(config.knobs, cost->knobs, sizeof config.knobs);
        size_t s = 0;
        while (s < count && !mb_config_equal(&scores[s].config, &config))
            s++;
        if (s == CONFIGS_MOST)
            continue;
        if (s == count)
            scores[count++] = (struct score){config, 0};
        scores[s].sum += best_ns_at(profile, question, cost) / cost->median_ns;
    }
    return count;
}

bool mb_config_equal(const struct mb_config *a, const struct mb_config *b)
{
    return a->kernel == b->kernel && memcmp(a->knobs, b->knobs, sizeof a->knobs) == 0;
}

bool mb_profile_best_config(const struct mb_profile *profile, const struct mb_question *question,
                            struct mb_config *config)
{
    struct score scores[CONFIGS_MOST];
    const size_t count = collect_scores(profile, question, scores);
    if (count == 0)
        return false;
    size_t best = 0;
    for (size_t s = 1; s < count; s++)
        if (scores[s].sum > scores[best].sum)
            best = s;
    *config = scores[best].config;
    const struct mb_selection usual = mb_select_default(question->format, question->activation);
    struct mb_config simple = *config;
    mb_space_knobs(&usual, simple.kernel, question->m, simple.knobs);
    for (size_t s = 0; s < count; s++)
        if (mb_config_equal(&scores[s].config, &simple) &&
            scores[s].sum >= simple_ratio * scores[best].sum)
            *config = simple;
    return true;
}

/* Distinct m's measured for a format, ascending. */
static size_t measured_ms(const struct mb_profile *profile, enum mb_format format,
                          enum mb_activation activation, size_t ms[MS_MOST])
{
    size_t count = 0;
    for (size_t i = 0; i < profile->count; i++) {
        const size_t m = profile->entries[i].cost.m;
        const struct mb_question question = {
            .format = format, .activation = activation, .m = m, .ops = MB_ALL_OPS};
        size_t at = 0;
        while (at < count && ms[at] < m)
            at++;
        if (!in_question(&profile->entries[i], &question) || (at < count && ms[at] == m) ||
            count == MS_MOST)
            continue;
        memmove(ms + at + 1, ms + at, (count - at) * sizeof *ms);
        ms[at] = m;
        count++;
    }
    return count;
}

/* What `own`, the best way to run m rows, has to say about the selection for all m: gemm speaks for
 * all rows it serves, gemv for its slot, for one row (the step) or for several (prefetching).
 * Called with rising m: the last word is that of the most rows. */
static void merge(struct mb_selection *selection, const struct mb_selection *own, enum mb_op op,
                  size_t m)
{
    const size_t slot = m < GEMV_SLOTS ? m - 1 : GEMV_SLOTS - 1;
    if (op == MB_OP_GEMM) {
        selection->gemm = own->gemm;
        selection->gemm_step = own->gemm_step;
        return;
    }
    selection->gemv[slot] = own->gemv[slot];
    if (m == 1) {
        selection->gemv_step = own->gemv_step;
        selection->row_prefetch = own->row_prefetch;
    } else if (m <= GEMV_SLOTS) {
        selection->prefetch = own->prefetch;
    }
}

/* Between the largest m where gemv won and the smallest where gemm did, the default stands. */
static void apply_format(const struct mb_profile *profile, enum mb_format format)
{
    size_t ms[MS_MOST];
    const enum mb_activation activation = mb_profile_activation(profile, format);
    const size_t count = measured_ms(profile, format, activation, ms);
    if (count == 0)
        return;
    struct mb_selection selection = mb_select_default(format, activation), own;
    size_t gemv_until = 0, gemm_from = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        const struct mb_question question = {
            .format = format, .activation = activation, .m = ms[i], .ops = MB_ALL_OPS};
        struct mb_config config;
        if (!mb_profile_best_config(profile, &question, &config) ||
            !mb_space_selection(config.kernel, format, ms[i], config.knobs, &own))
            continue;
        merge(&selection, &own, config.kernel->op, ms[i]);
        if (config.kernel->op == MB_OP_GEMV)
            gemv_until = ms[i];
        else if (ms[i] < gemm_from)
            gemm_from = ms[i];
    }
    if (selection.crossover >= gemm_from)
        selection.crossover = gemm_from - 1;
    if (selection.crossover < gemv_until)
        selection.crossover = gemv_until;
    mb_select_set(format, &selection);
}

void mb_profile_apply(const struct mb_profile *profile)
{
    if (!mb_profile_is_of_cpu(profile) ||
        mb_profile_match(profile, NULL, 0) == MB_PROFILE_OTHER_MACHINE)
        return;
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++)
        apply_format(profile, info->id);
}

/* ---- threads ---- */

/* Of the places where this many threads were timed at m, all but the number of threads kept. */
static bool same_but_threads(const struct mb_cost *a, const struct mb_cost *b)
{
    struct mb_cost moved = *a;
    moved.threads = b->threads;
    return mb_cost_same_place(&moved, b) && a->format == b->format &&
           a->activation == b->activation && a->m == b->m;
}

static double best_ns_of(const struct mb_profile *profile, const struct mb_cost *place)
{
    const struct mb_question q = {.format = place->format,
                                  .activation = place->activation,
                                  .m = place->m,
                                  .ops = MB_ALL_OPS,
                                  .place = place};
    return best_ns_at(profile, &q, place);
}

size_t mb_profile_threads(const struct mb_profile *profile, size_t m)
{
    double best_ns = INFINITY;
    size_t best = 0;
    const struct mb_cost *place = NULL;
    for (size_t i = 0; i < profile->count; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        for (size_t j = 0; j < i && place == NULL && cost->m == m; j++)
            if (profile->entries[j].cost.threads != cost->threads &&
                same_but_threads(&profile->entries[j].cost, cost))
                place = cost;
    }
    for (size_t i = 0; i < profile->count && place != NULL; i++) {
        const struct mb_cost *cost = &profile->entries[i].cost;
        if (!same_but_threads(cost, place))
            continue;
        const double ns = best_ns_of(profile, cost);
        const bool clear = ns < simple_ratio * best_ns, even = ns * simple_ratio <= best_ns;
        if (clear || (even && cost->threads < best)) {
            best = cost->threads;
            best_ns = ns;
        }
    }
    return isinf(best_ns) ? 0 : best;
}
