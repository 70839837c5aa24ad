/* SPDX-License-Identifier: Apache-2.0 */
/* Branch and bound, breadth first: after each class a list of partial mixes.
 *
 * A partial mix is bounded by its cost plus the Lagrangian value of the classes to come, at several
 * prices: together these cut the relaxation's value as a function of the capacity left, so a
 * partial mix is judged by the capacity that it really has. The choices that the prices favour also
 * complete it, which finds mixes early. Dominance merges what bounds cannot. The list is cut to a
 * width; the least bound among what was cut is what stays unproven. */
#include "solver/knapsack.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PRICES 24 /* around the best ones */
#define MORE_PRICES 8   /* of partial mixes on the way */
#define MAX_PRICES (FIRST_PRICES + MORE_PRICES)
#define MAX_TRAIL ((size_t)16 << 20)
#define NO_PARENT UINT32_MAX

struct state {
    double cost, use[MB_MAX_CAPACITIES], bound;
    uint32_t parent, item, trail; /* trail: its own entry, once it is kept */
};

/* How a partial mix came about: its last item, and what it extends. */
struct trail {
    uint32_t parent, item;
};

struct states {
    struct state *list;
    size_t count, room;
};

/* The classes from each one on, at one price vector. */
struct suffix {
    double cost, use[MB_MAX_CAPACITIES], value;
};

struct search {
    struct mb_knapsack *knapsack;
    size_t classes, prices, first_prices, replaced;
    size_t *order;
    struct mb_class *ordered;
    double lambda[MAX_PRICES][MB_MAX_CAPACITIES];
    struct suffix *suffix[MAX_PRICES];  /* [classes + 1] each */
    size_t *pick[MAX_PRICES];           /* [classes] item by class */
    double (*least)[MB_MAX_CAPACITIES]; /* least use from each class on */
    struct trail *trail;
    size_t trail_count, trail_room;
    double gap, dropped; /* least bound of what was dropped though it might be better */
    bool cut;            /* some of it because of the width, or of the time */
    uint64_t deadline_ns;
};

/* ---- prices ---- */

static void add_price(struct search *search, const double *lambda)
{
    if (search->prices < FIRST_PRICES)
        memcpy(search->lambda[search->prices++], lambda, sizeof search->lambda[0]);
}

/* Around the best prices: what a partial mix with more, or less, left than average would pay. */
static void choose_prices(struct search *search, const double *lambda)
{
    static const double factors[3][10] = {{0.3, 0.55, 0.75, 0.88, 0.95, 1.05, 1.14, 1.33, 1.8, 3},
                                          {0.5, 0.8, 0.93, 1.08, 1.25, 2},
                                          {0.5, 0.85, 1.18, 2}};
    static const size_t counts[3] = {10, 6, 4};
    const size_t capacities = search->knapsack->capacities;
    double shifted[MB_MAX_CAPACITIES];
    add_price(search, lambda);
    for (size_t r = 0; r < capacities; r++)
        for (size_t f = 0; f < counts[capacities - 1]; f++) {
            memcpy(shifted, lambda, sizeof shifted);
            shifted[r] *= factors[capacities - 1][f];
            if (lambda[r] > 0)
                add_price(search, shifted);
        }
    for (size_t f = 0; capacities > 1 && f < 2; f++) {
        for (size_t r = 0; r < capacities; r++)
            shifted[r] = lambda[r] * (f == 0 ? 0.8 : 1.25);
        add_price(search, shifted);
    }
}

/* ---- preparing ---- */

struct rank {
    double regret;
    size_t class;
};

static int by_regret(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->regret != y->regret)
        return x->regret < y->regret ? -1 : 1;
    return x->class < y->class ? -1 : x->class > y->class;
}

/* Classes whose second choice costs least come first: what is left then has one clear choice per
 * class, and the relaxation of that is nearly exact. (The other way round needed three to five
 * times the nodes on 200 x 12 under three limits.) */
static bool order_classes(struct search *search)
{
    const struct mb_knapsack *knapsack = search->knapsack;
    struct rank *ranks = calloc(search->classes, sizeof *ranks);
    if (ranks == NULL)
        return false;
    for (size_t c = 0; c < search->classes; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        double first = INFINITY, second = INFINITY;
        for (size_t i = class->first; i < class->first + class->count; i++) {
            double priced = knapsack->items[i].cost;
            for (size_t r = 0; r < knapsack->capacities; r++)
                priced += search->lambda[0][r] * knapsack->items[i].use[r];
            if (priced < first) {
                second = first;
                first = priced;
            } else if (priced < second) {
                second = priced;
            }
        }
        ranks[c] = (struct rank){second - first, c};
    }
    qsort(ranks, search->classes, sizeof *ranks, by_regret);
    for (size_t c = 0; c < search->classes; c++)
        search->order[c] = ranks[c].class;
    free(ranks);
    return true;
}

/* Fill in what price p makes of the classes from `first` on. */
static void fill_suffix(struct search *search, size_t p, size_t first)
{
    const struct mb_knapsack *knapsack = search->knapsack;
    mb_dual_value(knapsack, search->lambda[p], search->pick[p]);
    memset(&search->suffix[p][search->classes], 0, sizeof(struct suffix));
    for (size_t layer = search->classes; layer-- > first;) {
        const struct mb_item *item = &knapsack->items[search->pick[p][search->order[layer]]];
        const struct suffix *next = &search->suffix[p][layer + 1];
        struct suffix *here = &search->suffix[p][layer];
        here->cost = next->cost + item->cost;
        here->value = next->value + item->cost;
        for (size_t r = 0; r < knapsack->capacities; r++) {
            here->use[r] = next->use[r] + item->use[r];
            here->value += search->lambda[p][r] * item->use[r];
        }
    }
}

static void fill_least(struct search *search)
{
    const struct mb_knapsack *knapsack = search->knapsack;
    memset(search->least[search->classes], 0, sizeof search->least[0]);
    for (size_t layer = search->classes; layer-- > 0;) {
        const struct mb_class *class = &search->ordered[layer];
        for (size_t r = 0; r < knapsack->capacities; r++) {
            double least = INFINITY;
            for (size_t i = class->first; i < class->first + class->count; i++)
                least = fmin(least, knapsack->items[i].use[r]);
            search->least[layer][r] = search->least[layer + 1][r] + least;
        }
    }
}

static void search_free(struct search *search)
{
    for (size_t p = 0; p < MAX_PRICES; p++) {
        free(search->suffix[p]);
        free(search->pick[p]);
    }
    free(search->order);
    free(search->ordered);
    free(search->least);
    free(search->trail);
}

static bool search_prepare(struct search *search, const double *lambda)
{
    search->classes = search->knapsack->class_count;
    choose_prices(search, lambda);
    search->first_prices = search->prices;
    search->order = calloc(search->classes, sizeof *search->order);
    search->ordered = calloc(search->classes, sizeof *search->ordered);
    search->least = calloc(search->classes + 1, sizeof *search->least);
    bool ready = search->order != NULL && search->ordered != NULL && search->least != NULL;
    for (size_t p = 0; p < search->prices + MORE_PRICES; p++) {
        search->suffix[p] = calloc(search->classes + 1, sizeof **search->suffix);
        search->pick[p] = calloc(search->classes, sizeof **search->pick);
        ready = ready && search->suffix[p] != NULL && search->pick[p] != NULL;
    }
    if (!ready || !order_classes(search))
        return false;
    for (size_t layer = 0; layer < search->classes; layer++)
        search->ordered[layer] = search->knapsack->classes[search->order[layer]];
    for (size_t p = 0; p < search->prices; p++)
        fill_suffix(search, p, 0);
    fill_least(search);
    return true;
}

/* ---- lists ---- */

static bool push_state(struct states *states, const struct state *state)
{
    if (states->count == states->room) {
        const size_t room = states->room == 0 ? 1024 : 2 * states->room;
        struct state *list = realloc(states->list, room * sizeof *list);
        if (list == NULL)
            return false;
        states->list = list;
        states->room = room;
    }
    states->list[states->count++] = *state;
    return true;
}

/* Remember how the states that are kept came about. */
static bool push_trails(struct search *search, struct states *states)
{
    if (search->trail_count + states->count > search->trail_room) {
        const size_t room = 2 * (search->trail_count + states->count);
        struct trail *trail = realloc(search->trail, room * sizeof *trail);
        if (trail == NULL)
            return false;
        search->trail = trail;
        search->trail_room = room;
    }
    for (size_t i = 0; i < states->count; i++) {
        struct state *state = &states->list[i];
        search->trail[search->trail_count] = (struct trail){state->parent, state->item};
        state->trail = (uint32_t)search->trail_count++;
    }
    return true;
}

/* Bring the `width` states of least bound to the front (Hoare's selection; the order that results
 * depends on the list alone) and cut the rest off. */
static void cut_states(struct search *search, struct states *states, size_t width)
{
    struct state *list = states->list;
    size_t low = 0, high = states->count;
    while (high - low > 1) {
        const double pivot = list[low + (high - low) / 2].bound;
        size_t i = low, j = high - 1;
        for (;;) {
            while (list[i].bound < pivot)
                i++;
            while (list[j].bound > pivot)
                j--;
            if (i >= j)
                break;
            const struct state swap = list[i];
            list[i++] = list[j];
            list[j--] = swap;
        }
        const size_t split = list[i].bound < pivot ? i + 1 : i;
        if (split <= low || split >= high)
            break;
        if (width <= split)
            high = split;
        else
            low = split;
        if (low >= width || high <= width)
            break;
    }
    for (size_t i = width; i < states->count; i++)
        search->dropped = fmin(search->dropped, list[i].bound);
    states->count = width;
    search->cut = true;
}

static int by_use(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    for (size_t r = 0; r < MB_MAX_CAPACITIES; r++)
        if (x->use[r] != y->use[r])
            return x->use[r] < y->use[r] ? -1 : 1;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    return x->item < y->item ? -1 : x->item > y->item;
}

static bool state_dominates(const struct state *a, const struct state *b)
{
    return a->cost <= b->cost && a->use[0] <= b->use[0] && a->use[1] <= b->use[1] &&
           a->use[2] <= b->use[2];
}

/* Sorted by use, whatever dominates a state stands before it. One capacity: comparing with the
 * cheapest so far is exact. More: with the cheapest and with the latest few, which finds most. */
static void merge_states(struct states *states, size_t capacities)
{
    enum { WINDOW = 24 };
    struct state *list = states->list;
    size_t kept = 0, cheapest[8] = {0}, marks = 0;
    if (states->count == 0)
        return;
    qsort(list, states->count, sizeof *list, by_use);
    for (size_t i = 0; i < states->count; i++) {
        bool drop = false;
        for (size_t k = 0; k < marks && !drop; k++)
            drop = state_dominates(&list[cheapest[k]], &list[i]);
        for (size_t back = 1; capacities > 1 && back <= WINDOW && back <= kept && !drop; back++)
            drop = state_dominates(&list[kept - back], &list[i]);
        if (drop)
            continue;
        list[kept] = list[i];
        if (marks == 0 || list[kept].cost < list[cheapest[0]].cost) {
            const size_t most = capacities > 1 ? 8 : 1;
            marks = marks < most ? marks + 1 : most;
            memmove(cheapest + 1, cheapest, (marks - 1) * sizeof *cheapest);
            cheapest[0] = kept;
        }
        kept++;
    }
    states->count = kept;
}

/* ---- one layer ---- */

/* The mix that extends `parent` by `item` and ends as price p would have it. */
static void offer_completion(struct search *search, const struct state *parent, size_t item,
                             size_t layer, size_t p)
{
    struct mb_knapsack *knapsack = search->knapsack;
    memcpy(knapsack->trial, knapsack->decided, knapsack->problem->unit_count * sizeof(size_t));
    size_t at = layer;
    uint32_t step = parent->trail;
    knapsack->trial[knapsack->classes[search->order[at]].unit] = knapsack->items[item].candidate;
    while (at-- > 0) {
        knapsack->trial[knapsack->classes[search->order[at]].unit] =
            knapsack->items[search->trail[step].item].candidate;
        step = search->trail[step].parent;
    }
    for (size_t l = layer + 1; l < search->classes; l++) {
        const size_t class = search->order[l];
        knapsack->trial[knapsack->classes[class].unit] =
            knapsack->items[search->pick[p][class]].candidate;
    }
    mb_knapsack_offer(knapsack);
}

/* Below this bound a partial mix is followed; between it and the upper bound it is dropped for the
 * gap's sake. */
static double threshold(const struct search *search)
{
    const double upper = mb_knapsack_upper(search->knapsack);
    if (isinf(upper))
        return upper;
    return upper - (search->knapsack->found ? fmax(search->gap, 1e-12) : 1e-12) * fabs(upper);
}

/* Extend a state by an item: the new state's figures and bound. False: it cannot fit or cannot be
 * better. */
static bool extend_state(struct search *search, const struct state *parent, size_t item_index,
                         size_t layer, struct state *state)
{
    struct mb_knapsack *knapsack = search->knapsack;
    const struct mb_item *item = &knapsack->items[item_index];
    const size_t capacities = knapsack->capacities;
    *state = *parent;
    state->parent = parent->trail;
    state->item = (uint32_t)item_index;
    state->cost += item->cost;
    double left[MB_MAX_CAPACITIES];
    for (size_t r = 0; r < capacities; r++) {
        state->use[r] += item->use[r];
        left[r] = knapsack->capacity[r] - state->use[r];
        if (left[r] < search->least[layer + 1][r])
            return false;
    }
    double bound = parent->bound;
    for (size_t p = 0; p < search->prices; p++) {
        const struct suffix *rest = &search->suffix[p][layer + 1];
        double value = state->cost + rest->value;
        bool fits = state->cost + rest->cost < mb_knapsack_upper(knapsack);
        for (size_t r = 0; r < capacities; r++) {
            value -= search->lambda[p][r] * left[r];
            fits = fits && rest->use[r] <= left[r];
        }
        bound = fmax(bound, value);
        if (fits)
            offer_completion(search, parent, item_index, layer, p);
    }
    state->bound = bound;
    const double least = threshold(search);
    if (bound < least)
        return true;
    if (bound < mb_knapsack_upper(knapsack) * (1 - 1e-12))
        search->dropped = fmin(search->dropped, bound);
    return false;
}

static enum mb_status extend_layer(struct search *search, const struct states *from,
                                   struct states *to, size_t layer, size_t width)
{
    const struct mb_class *class = &search->ordered[layer];
    to->count = 0;
    for (size_t s = 0; s < from->count; s++) {
        const struct state *parent = &from->list[s];
        if (s % 1024 == 1023 && mb_now_ns() > search->deadline_ns) {
            for (size_t rest = s; rest < from->count; rest++)
                search->dropped = fmin(search->dropped, from->list[rest].bound);
            search->cut = true;
            break;
        }
        for (size_t i = class->first; i < class->first + class->count; i++) {
            struct state state;
            search->knapsack->nodes++;
            if (!extend_state(search, parent, i, layer, &state))
                continue;
            if (!push_state(to, &state))
                return MB_ERR_MEMORY;
        }
        if (to->count > 4 * width + 4096) {
            merge_states(to, search->knapsack->capacities);
            if (to->count > 2 * width + 2048)
                cut_states(search, to, width);
        }
    }
    merge_states(to, search->knapsack->capacities);
    if (to->count > width)
        cut_states(search, to, width);
    return push_trails(search, to) ? MB_OK : MB_ERR_MEMORY;
}

/* ---- prices on the way ---- */

/* Bound the list by one more price; drop what that rules out. */
static void bound_states(struct search *search, struct states *states, size_t layer, size_t p)
{
    const struct mb_knapsack *knapsack = search->knapsack;
    const double least = threshold(search), upper = mb_knapsack_upper(knapsack);
    size_t kept = 0;
    for (size_t i = 0; i < states->count; i++) {
        struct state *state = &states->list[i];
        double value = state->cost + search->suffix[p][layer].value;
        for (size_t r = 0; r < knapsack->capacities; r++)
            value -= search->lambda[p][r] * (knapsack->capacity[r] - state->use[r]);
        state->bound = fmax(state->bound, value);
        if (state->bound < least)
            states->list[kept++] = *state;
        else if (state->bound < upper * (1 - 1e-12))
            search->dropped = fmin(search->dropped, state->bound);
    }
    states->count = kept;
}

/* Solve the relaxation of what some of the partial mixes have left, and add its prices: far from
 * the average mix, the first prices bound poorly. */
static void add_prices_on_the_way(struct search *search, struct states *states, size_t layer)
{
    enum { FEWEST = 400 };
    if (states->count < FEWEST || search->classes - layer < 2)
        return;
    const size_t samples = states->count < 4000 ? 1 : states->count < 30000 ? 3 : 6;
    for (size_t s = 0; s < samples && states->count > 0; s++) {
        const struct state state = states->list[(2 * s + 1) * states->count / (2 * samples)];
        struct mb_knapsack rest = *search->knapsack;
        double lambda[MB_MAX_CAPACITIES], bound;
        rest.classes = search->ordered + layer;
        rest.class_count = search->classes - layer;
        rest.base_cost = state.cost;
        for (size_t r = 0; r < rest.capacities; r++)
            rest.capacity[r] = fmax(1, rest.capacity[r] - state.use[r]);
        mb_dual_solve(&rest, lambda, &bound);
        if (bound <= state.bound * (1 + 1e-6))
            continue;
        const size_t p = search->first_prices + search->replaced++ % MORE_PRICES;
        memcpy(search->lambda[p], lambda, sizeof search->lambda[p]);
        if (search->prices <= p)
            search->prices = p + 1;
        fill_suffix(search, p, layer);
        bound_states(search, states, layer, p);
    }
}

enum mb_status mb_search(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES],
                         size_t width, double gap, uint64_t deadline_ns, double *bound,
                         bool *complete)
{
    struct search search = {
        .knapsack = knapsack, .gap = gap, .dropped = INFINITY, .deadline_ns = deadline_ns};
    struct states from = {0}, to = {0};
    enum mb_status status = MB_ERR_MEMORY;
    if (!search_prepare(&search, lambda))
        goto out;
    const struct state root = {.cost = knapsack->base_cost, .bound = -INFINITY, .trail = NO_PARENT};
    if (!push_state(&from, &root))
        goto out;
    status = MB_OK;
    for (size_t layer = 0; status == MB_OK && layer < search.classes && from.count > 0; layer++) {
        if (search.trail_count > MAX_TRAIL || mb_now_ns() > deadline_ns) {
            cut_states(&search, &from, 0);
            break;
        }
        add_prices_on_the_way(&search, &from, layer);
        status = extend_layer(&search, &from, &to, layer, width);
        const struct states swap = from;
        from = to;
        to = swap;
    }
    *complete = !search.cut;
    *bound = fmin(search.dropped, mb_knapsack_upper(knapsack));
out:
    free(from.list);
    free(to.list);
    search_free(&search);
    return status;
}
