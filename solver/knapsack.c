/* SPDX-License-Identifier: Apache-2.0 */
/* Setting the knapsack up, thinning it, and a first mix.
 *
 * Uses are scaled to whole numbers: bytes are ones already and stay exact; times and losses are
 * rounded to 2^-50 of what the limit leaves. What the scaled problem accepts is summed again from
 * the original figures in unit order, and only that sum decides whether a limit holds. */
#include "solver/knapsack.h"
#include "solver/solve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double mb_candidate_value(const struct mb_candidate *candidate, enum mb_quantity quantity)
{
    switch (quantity) {
    case MB_QUANTITY_LOSS: return candidate->loss;
    case MB_QUANTITY_DECODE: return candidate->decode_ns;
    case MB_QUANTITY_PREFILL: return candidate->prefill_ns;
    default: return candidate->bytes;
    }
}

void mb_problem_totals(const struct mb_problem *problem, const size_t *choice,
                       double total[MB_QUANTITY_COUNT])
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        total[q] = problem->fixed[q];
        for (size_t i = 0; i < problem->unit_count; i++)
            total[q] +=
                mb_candidate_value(&problem->units[i].candidates[choice[i]], (enum mb_quantity)q);
    }
}

double mb_knapsack_upper(const struct mb_knapsack *knapsack)
{
    /* A mix right at the objective's own limit is still wanted. */
    return knapsack->found ? knapsack->best_cost : knapsack->limit[knapsack->minimize] * (1 + 1e-9);
}

void mb_knapsack_free(struct mb_knapsack *knapsack)
{
    if (knapsack == NULL)
        return;
    free(knapsack->classes);
    free(knapsack->items);
    free(knapsack->decided);
    free(knapsack->best);
    free(knapsack->trial);
    free(knapsack);
}

bool mb_knapsack_offer(struct mb_knapsack *knapsack)
{
    double total[MB_QUANTITY_COUNT];
    mb_problem_totals(knapsack->problem, knapsack->trial, total);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (total[q] > knapsack->limit[q]) {
            if (q != (int)knapsack->minimize)
                knapsack->rejected = true;
            return false;
        }
    const double cost = total[knapsack->minimize];
    if (knapsack->found && cost >= knapsack->best_cost)
        return false;
    knapsack->found = true;
    knapsack->best_cost = cost;
    memcpy(knapsack->best, knapsack->trial, knapsack->problem->unit_count * sizeof(size_t));
    return true;
}

/* ---- setting up ---- */

struct extent {
    double least, most; /* sums over units of the least and greatest value */
    bool whole;         /* every value is a whole number that doubles add exactly */
};

static struct extent quantity_extent(const struct mb_problem *problem, enum mb_quantity quantity)
{
    struct extent extent = {problem->fixed[quantity], problem->fixed[quantity],
                            floor(problem->fixed[quantity]) == problem->fixed[quantity]};
    for (size_t i = 0; i < problem->unit_count; i++) {
        double least = INFINITY, most = 0;
        for (size_t c = 0; c < problem->units[i].candidate_count; c++) {
            const double value = mb_candidate_value(&problem->units[i].candidates[c], quantity);
            least = fmin(least, value);
            most = fmax(most, value);
            extent.whole = extent.whole && floor(value) == value;
        }
        extent.least += least;
        extent.most += most;
    }
    extent.whole = extent.whole && extent.most < 0x1p52;
    return extent;
}

/* Decide which limits can bind and how each is scaled. False: one cannot be met at all. */
static bool set_capacities(struct mb_knapsack *knapsack, double slack,
                           double scale[MB_MAX_CAPACITIES])
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        if (q == (int)knapsack->minimize || isinf(knapsack->limit[q]))
            continue;
        const enum mb_quantity quantity = (enum mb_quantity)q;
        const struct extent extent = quantity_extent(knapsack->problem, quantity);
        const double room = knapsack->limit[q] - extent.least;
        if (room < -1e-12 * knapsack->limit[q])
            return false;
        if (extent.most <= knapsack->limit[q] * (1 - 1e-12))
            continue;
        const size_t r = knapsack->capacities++;
        knapsack->quantity[r] = quantity;
        int exponent = 0;
        frexp(fmax(room, 1e-12 * knapsack->limit[q]), &exponent);
        scale[r] = extent.whole ? 1 : ldexp(1, 50 - exponent);
        const double widened = extent.whole ? room : room + slack * knapsack->limit[q];
        knapsack->capacity[r] = floor(widened * scale[r]);
        if (knapsack->capacity[r] < 0)
            return false;
    }
    return true;
}

/* a is as good as b everywhere; of two alike the first stays. */
static bool dominates(const struct mb_item *a, const struct mb_item *b, size_t capacities)
{
    bool better = a->cost < b->cost;
    if (a->cost > b->cost)
        return false;
    for (size_t r = 0; r < capacities; r++) {
        if (a->use[r] > b->use[r])
            return false;
        better = better || a->use[r] < b->use[r];
    }
    return better || a < b;
}

static void remove_dominated(const struct mb_knapsack *knapsack, struct mb_class *class)
{
    struct mb_item *items = knapsack->items + class->first;
    size_t kept = 0;
    for (size_t i = 0; i < class->count; i++) {
        /* Dominance is transitive and has no cycles, so marked items may still rule others out. */
        bool drop = false;
        for (size_t j = 0; j < class->count && !drop; j++)
            drop = j != i && dominates(&items[j], &items[i], knapsack->capacities);
        if (drop)
            items[i].candidate = SIZE_MAX;
    }
    for (size_t i = 0; i < class->count; i++)
        if (items[i].candidate != SIZE_MAX)
            items[kept++] = items[i];
    class->count = kept;
}

static bool fill_class(struct mb_knapsack *knapsack, size_t unit, size_t first,
                       const double scale[MB_MAX_CAPACITIES])
{
    const struct mb_unit *source = &knapsack->problem->units[unit];
    struct mb_class *class = &knapsack->classes[unit];
    double least[MB_MAX_CAPACITIES];
    for (size_t r = 0; r < knapsack->capacities; r++) {
        least[r] = INFINITY;
        for (size_t c = 0; c < source->candidate_count; c++)
            least[r] =
                fmin(least[r], mb_candidate_value(&source->candidates[c], knapsack->quantity[r]));
    }
    *class = (struct mb_class){.unit = unit, .first = first, .count = 0};
    for (size_t c = 0; c < source->candidate_count; c++) {
        struct mb_item *item = &knapsack->items[first + class->count];
        *item = (struct mb_item){
            .cost = mb_candidate_value(&source->candidates[c], knapsack->minimize), .candidate = c};
        bool fits = true;
        for (size_t r = 0; r < knapsack->capacities; r++) {
            const double value = mb_candidate_value(&source->candidates[c], knapsack->quantity[r]);
            item->use[r] = nearbyint((value - least[r]) * scale[r]);
            fits = fits && item->use[r] <= knapsack->capacity[r];
        }
        if (fits)
            class->count++;
    }
    remove_dominated(knapsack, class);
    return class->count > 0;
}

/* Settle the classes with one item: their use leaves the capacities, their cost joins the base. */
static void settle_single(struct mb_knapsack *knapsack)
{
    size_t kept = 0;
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        if (class->count > 1) {
            knapsack->classes[kept++] = *class;
            continue;
        }
        const struct mb_item *item = &knapsack->items[class->first];
        knapsack->decided[class->unit] = item->candidate;
        knapsack->base_cost += item->cost;
        for (size_t r = 0; r < knapsack->capacities; r++)
            knapsack->capacity[r] -= item->use[r];
    }
    knapsack->class_count = kept;
}

/* Least total use of the open classes. */
static double least_use(const struct mb_knapsack *knapsack, size_t r)
{
    double total = 0;
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        double least = INFINITY;
        for (size_t i = class->first; i < class->first + class->count; i++)
            least = fmin(least, knapsack->items[i].use[r]);
        total += least;
    }
    return total;
}

/* Keep only each class's items of least use in capacity r, then forget that capacity. */
static void take_least(struct mb_knapsack *knapsack, size_t r)
{
    for (size_t c = 0; c < knapsack->class_count; c++) {
        struct mb_class *class = &knapsack->classes[c];
        struct mb_item *items = knapsack->items + class->first;
        double least = INFINITY;
        size_t kept = 0;
        for (size_t i = 0; i < class->count; i++)
            least = fmin(least, items[i].use[r]);
        for (size_t i = 0; i < class->count; i++)
            if (items[i].use[r] <= least)
                items[kept++] = items[i];
        class->count = kept;
        for (size_t i = 0; i < kept; i++)
            for (size_t s = r; s + 1 < knapsack->capacities; s++)
                items[i].use[s] = items[i].use[s + 1];
    }
    knapsack->capacities--;
    for (size_t s = r; s < knapsack->capacities; s++) {
        knapsack->capacity[s] = knapsack->capacity[s + 1];
        knapsack->quantity[s] = knapsack->quantity[s + 1];
    }
}

/* Settling may leave a capacity at nothing: then only items of least use fit, and the capacity has
 * nothing more to say. False: not even they fit. */
static bool drop_spent_capacities(struct mb_knapsack *knapsack)
{
    size_t r = 0;
    while (r < knapsack->capacities) {
        const double least = least_use(knapsack, r);
        if (least > knapsack->capacity[r])
            return false;
        if (least < knapsack->capacity[r]) {
            r++;
            continue;
        }
        take_least(knapsack, r);
        settle_single(knapsack);
        r = 0; /* what was settled may have spent another */
    }
    return true;
}

enum mb_status mb_knapsack_create(const struct mb_problem *problem, enum mb_quantity minimize,
                                  const double limit[MB_QUANTITY_COUNT], double slack,
                                  struct mb_knapsack **knapsack, bool *possible)
{
    *knapsack = NULL;
    *possible = false;
    size_t items = 0, units = problem->unit_count;
    for (size_t i = 0; i < units; i++)
        items += problem->units[i].candidate_count;
    struct mb_knapsack *made = calloc(1, sizeof *made);
    if (made == NULL)
        return MB_ERR_MEMORY;
    made->problem = problem;
    made->minimize = minimize;
    memcpy(made->limit, limit, sizeof made->limit);
    made->base_cost = problem->fixed[minimize];
    made->class_count = units;
    made->classes = calloc(units + 1, sizeof *made->classes);
    made->items = calloc(items + 1, sizeof *made->items);
    made->decided = calloc(units + 1, sizeof *made->decided);
    made->best = calloc(units + 1, sizeof *made->best);
    made->trial = calloc(units + 1, sizeof *made->trial);
    if (made->classes == NULL || made->items == NULL || made->decided == NULL ||
        made->best == NULL || made->trial == NULL) {
        mb_knapsack_free(made);
        return MB_ERR_MEMORY;
    }
    double scale[MB_MAX_CAPACITIES] = {1, 1, 1};
    *possible = set_capacities(made, slack, scale);
    size_t first = 0;
    for (size_t i = 0; *possible && i < units; i++) {
        *possible = fill_class(made, i, first, scale);
        first += problem->units[i].candidate_count;
    }
    if (*possible) {
        settle_single(made);
        *possible = drop_spent_capacities(made);
    }
    *knapsack = made;
    return MB_OK;
}

/* ---- thinning ---- */

bool mb_knapsack_fix(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES])
{
    const double upper = mb_knapsack_upper(knapsack);
    if (isinf(upper))
        return true;
    const double bound = mb_dual_value(knapsack, lambda, NULL);
    const double margin = upper - bound - 1e-12 * fabs(upper);
    for (size_t c = 0; c < knapsack->class_count; c++) {
        struct mb_class *class = &knapsack->classes[c];
        struct mb_item *items = knapsack->items + class->first;
        double least = INFINITY;
        for (int round = 0; round < 2; round++) {
            size_t kept = 0;
            for (size_t i = 0; i < class->count; i++) {
                double priced = items[i].cost;
                for (size_t r = 0; r < knapsack->capacities; r++)
                    priced += lambda[r] * items[i].use[r];
                if (round == 0)
                    least = fmin(least, priced);
                else if (priced - least < margin)
                    items[kept++] = items[i];
            }
            if (round == 1)
                class->count = kept;
        }
        if (class->count == 0)
            return false;
    }
    settle_single(knapsack);
    return drop_spent_capacities(knapsack);
}

/* ---- a first mix ---- */

static void offer_picks(struct mb_knapsack *knapsack, const size_t *pick)
{
    memcpy(knapsack->trial, knapsack->decided, knapsack->problem->unit_count * sizeof(size_t));
    for (size_t c = 0; c < knapsack->class_count; c++)
        knapsack->trial[knapsack->classes[c].unit] = knapsack->items[pick[c]].candidate;
    mb_knapsack_offer(knapsack);
}

/* How far above the capacities, in parts of them. */
static double overrun(const struct mb_knapsack *knapsack, const double *use)
{
    double over = 0;
    for (size_t r = 0; r < knapsack->capacities; r++)
        over += fmax(0, use[r] / knapsack->capacity[r] - 1);
    return over;
}

/* The exchange of one item that is best: while over capacity, least cost per overrun removed; then
 * the greatest saving per capacity taken, both in parts of the capacities. */
static bool best_exchange(const struct mb_knapsack *knapsack, const size_t *pick,
                          const double *lambda, const double *use, size_t *which, size_t *item)
{
    const double over = overrun(knapsack, use);
    double best = INFINITY;
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        const struct mb_item *now = &knapsack->items[pick[c]];
        for (size_t i = class->first; i < class->first + class->count; i++) {
            const struct mb_item *next = &knapsack->items[i];
            double after[MB_MAX_CAPACITIES], priced = next->cost - now->cost;
            for (size_t r = 0; r < knapsack->capacities; r++) {
                after[r] = use[r] + next->use[r] - now->use[r];
                if (over > 0)
                    priced += lambda[r] * (next->use[r] - now->use[r]);
            }
            const double removed = over - overrun(knapsack, after);
            double rate;
            if (over > 0)
                rate = removed > 1e-15 ? fmax(priced, 0) / removed : INFINITY;
            else
                rate = removed >= 0 && priced < 0 ? priced : INFINITY;
            if (rate < best) {
                best = rate;
                *which = c;
                *item = i;
            }
        }
    }
    return !isinf(best);
}

void mb_knapsack_greedy(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES])
{
    size_t *pick = calloc(knapsack->class_count + 1, sizeof *pick);
    if (pick == NULL)
        return;
    double use[MB_MAX_CAPACITIES] = {0};
    mb_dual_value(knapsack, lambda, pick);
    for (size_t c = 0; c < knapsack->class_count; c++)
        for (size_t r = 0; r < knapsack->capacities; r++)
            use[r] += knapsack->items[pick[c]].use[r];
    size_t which = 0, item = 0;
    for (size_t step = 0; step < 4 * knapsack->class_count + 16; step++) {
        if (!best_exchange(knapsack, pick, lambda, use, &which, &item))
            break;
        for (size_t r = 0; r < knapsack->capacities; r++)
            use[r] += knapsack->items[item].use[r] - knapsack->items[pick[which]].use[r];
        pick[which] = item;
    }
    if (overrun(knapsack, use) <= 0)
        offer_picks(knapsack, pick);
    free(pick);
}
