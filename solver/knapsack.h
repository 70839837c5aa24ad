/* SPDX-License-Identifier: Apache-2.0 */
/* The multiple-choice knapsack inside mb_solve: one item per class, least cost, up to three
 * capacities. Costs are absolute (the fixed part is in base_cost); uses are measured from each
 * class's least and held as whole numbers in doubles, so that their sums are exact in any order. */
#ifndef MIXBIT_SOLVER_KNAPSACK_H
#define MIXBIT_SOLVER_KNAPSACK_H

#include "mixbit/plan.h"
#include <stdbool.h>

#define MB_MAX_CAPACITIES 3

struct mb_item {
    double cost, use[MB_MAX_CAPACITIES];
    size_t candidate; /* in its unit */
};

struct mb_class {
    size_t unit, first, count; /* items[first .. first + count) */
};

struct mb_knapsack {
    const struct mb_problem *problem;
    enum mb_quantity minimize;
    double limit[MB_QUANTITY_COUNT];              /* INFINITY: none */
    size_t capacities;                            /* those that can bind */
    enum mb_quantity quantity[MB_MAX_CAPACITIES]; /* of each capacity */
    double capacity[MB_MAX_CAPACITIES];           /* left for uses, scaled as they are */
    double base_cost;                             /* fixed cost and that of decided units */
    size_t class_count;                           /* units still open */
    struct mb_class *classes;
    struct mb_item *items;
    size_t *decided; /* [unit_count] candidate of the units that are no longer open */
    /* the best mix found */
    bool found;
    double best_cost;
    size_t *best; /* [unit_count] */
    size_t *trial;
    bool rejected; /* a mix was within the scaled capacities but above a limit as summed */
    size_t nodes;
};

/* What a better mix has to beat: the best cost found, or the objective's own limit. */
double mb_knapsack_upper(const struct mb_knapsack *knapsack);

/* `slack` widens (or narrows) capacities that are not whole numbers, in parts of the limit. False
 * when some unit has no item that fits. */
enum mb_status mb_knapsack_create(const struct mb_problem *problem, enum mb_quantity minimize,
                                  const double limit[MB_QUANTITY_COUNT], double slack,
                                  struct mb_knapsack **knapsack, bool *possible);
void mb_knapsack_free(struct mb_knapsack *knapsack);

/* Take knapsack->trial as the best mix when its direct sums hold every limit and it is cheaper. */
bool mb_knapsack_offer(struct mb_knapsack *knapsack);
/* Drop items whose Lagrangian bound shows that no better mix holds them; settle classes that have
 * one item left. False: a class has none left, so the best mix found is optimal. */
bool mb_knapsack_fix(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES]);
/* A first mix: the Lagrangian's choice, repaired until it fits, then improved item by item. */
void mb_knapsack_greedy(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES]);

/* ---- dual.c ---- */

/* Least of cost + lambda . use over one item per class, less lambda . capacity: a lower bound of
 * every mix for any lambda >= 0. `pick` (may be NULL) gets the item of each class. */
double mb_dual_value(const struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES],
                     size_t *pick);
/* The lambda with the greatest bound, that of the linear relaxation. False: the relaxation, and so
 * the problem, is infeasible. */
bool mb_dual_solve(const struct mb_knapsack *knapsack, double lambda[MB_MAX_CAPACITIES],
                   double *bound);

/* ---- search.c ---- */

/* One pass over the classes, keeping at most `width` partial mixes. *bound: no mix is cheaper than
 * that (or than the best found); *complete: nothing but what bounds and dominance exclude was
 * dropped. `gap`: partial mixes that cannot gain more than this share are not followed. */
enum mb_status mb_search(struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES],
                         size_t width, double gap, uint64_t deadline_ns, double *bound,
                         bool *complete);

#endif
