/* SPDX-License-Identifier: Apache-2.0 */
/* The Lagrangian dual of the knapsack: prices on capacities, and the bound they prove.
 *
 * For given prices the classes separate, so a bound costs one pass over the items. The best prices
 * come from column generation (Dantzig and Wolfe 1960): a master problem mixes the choices seen so
 * far so that the capacities hold on average; its dual values are the next prices, and the choice
 * that they favour is the next column. The basis has at most four rows, so it is inverted afresh
 * each time. Every bound is evaluated exactly: an early stop costs tightness, never validity. */
#include "solver/knapsack.h"

#include <math.h>
#include <string.h>

#define MAX_ROWS (MB_MAX_CAPACITIES + 1)
#define MAX_ITERATIONS 400
#define OVERRUN_PRICE 1e6 /* of using more than a capacity, where all costs together are 1 */
#define TOLERANCE 1e-11

struct column {
    double row[MAX_ROWS], cost;
};

struct master {
    size_t rows;
    struct column basis[MAX_ROWS];
    double inverse[MAX_ROWS][MAX_ROWS];
};

/* cost and use of the choice that is best at these prices */
static double best_choice(const struct mb_knapsack *knapsack, const double *lambda, double *cost,
                          double use[MB_MAX_CAPACITIES], size_t *pick)
{
    double value = 0;
    *cost = 0;
    memset(use, 0, MB_MAX_CAPACITIES * sizeof *use);
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        const struct mb_item *best = NULL;
        double least = INFINITY;
        for (size_t i = class->first; i < class->first + class->count; i++) {
            const struct mb_item *item = &knapsack->items[i];
            double priced = item->cost;
            for (size_t r = 0; r < knapsack->capacities; r++)
                priced += lambda[r] * item->use[r];
            if (priced < least) {
                least = priced;
                best = item;
            }
        }
        value += least;
        *cost += best->cost;
        for (size_t r = 0; r < knapsack->capacities; r++)
            use[r] += best->use[r];
        if (pick != NULL)
            pick[c] = (size_t)(best - knapsack->items);
    }
    return value;
}

double mb_dual_value(const struct mb_knapsack *knapsack, const double lambda[MB_MAX_CAPACITIES],
                     size_t *pick)
{
    double cost, use[MB_MAX_CAPACITIES];
    double value = knapsack->base_cost + best_choice(knapsack, lambda, &cost, use, pick);
    for (size_t r = 0; r < knapsack->capacities; r++)
        value -= lambda[r] * knapsack->capacity[r];
    return value;
}

/* Gauss-Jordan with row pivoting; false when singular. */
static bool invert_basis(struct master *master)
{
    const size_t rows = master->rows;
    double a[MAX_ROWS][2 * MAX_ROWS] = {{0}};
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < rows; j++)
            a[i][j] = master->basis[j].row[i];
        a[i][rows + i] = 1;
    }
    for (size_t p = 0; p < rows; p++) {
        size_t pivot = p;
        for (size_t i = p + 1; i < rows; i++)
            if (fabs(a[i][p]) > fabs(a[pivot][p]))
                pivot = i;
        if (fabs(a[pivot][p]) < 1e-13)
            return false;
        for (size_t j = 0; j < 2 * rows; j++) {
            const double swap = a[p][j];
            a[p][j] = a[pivot][j];
            a[pivot][j] = swap;
        }
        for (size_t j = 2 * rows; j-- > 0;)
            a[p][j] /= a[p][p];
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 2 * rows; i != p && j-- > 0;)
                a[i][j] -= a[i][p] * a[p][j];
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < rows; j++)
            master->inverse[i][j] = a[i][rows + j];
    return true;
}

static struct column slack_column(size_t r, bool overrun)
{
    struct column column = {{0}, overrun ? OVERRUN_PRICE : 0};
    column.row[r] = overrun ? -1 : 1;
    return column;
}

/* Bring a column into the basis in place of the first that would turn negative. */
static bool enter_basis(struct master *master, const struct column *column)
{
    size_t leaves = master->rows;
    double least = INFINITY;
    for (size_t j = 0; j < master->rows; j++) {
        double step = 0, level = 0;
        for (size_t i = 0; i < master->rows; i++) {
            step += master->inverse[j][i] * column->row[i];
            level += master->inverse[j][i]; /* every right-hand side is 1 */
        }
        if (step > TOLERANCE && level / step < least) {
            least = level / step;
            leaves = j;
        }
    }
    if (leaves == master->rows)
        return false;
    master->basis[leaves] = *column;
    return invert_basis(master);
}

/* Column of the choice best at prices lambda (in units of capacities and of `scale`); returns its
 * bound, less the base cost, in units of `scale`. */
static double choice_column(const struct mb_knapsack *knapsack, const double *lambda, double scale,
                            struct column *column)
{
    double raw[MB_MAX_CAPACITIES] = {0}, use[MB_MAX_CAPACITIES], cost;
    for (size_t r = 0; r < knapsack->capacities; r++)
        raw[r] = lambda[r] * scale / knapsack->capacity[r];
    double value = best_choice(knapsack, raw, &cost, use, NULL) / scale;
    memset(column, 0, sizeof *column);
    for (size_t r = 0; r < knapsack->capacities; r++) {
        column->row[r] = use[r] / knapsack->capacity[r];
        value -= lambda[r];
    }
    column->row[knapsack->capacities] = 1;
    column->cost = cost / scale;
    return value;
}

static double cost_range(const struct mb_knapsack *knapsack)
{
    double range = 0;
    for (size_t c = 0; c < knapsack->class_count; c++) {
        const struct mb_class *class = &knapsack->classes[c];
        double most = 0;
        for (size_t i = class->first; i < class->first + class->count; i++)
            most = fmax(most, knapsack->items[i].cost);
        range += most;
    }
    return range;
}

bool mb_dual_solve(const struct mb_knapsack *knapsack, double lambda[MB_MAX_CAPACITIES],
                   double *bound)
{
    const size_t capacities = knapsack->capacities;
    const double range = cost_range(knapsack), scale = range > 0 ? range : 1;
    struct master master = {.rows = capacities + 1};
    double prices[MB_MAX_CAPACITIES] = {0};
    memset(lambda, 0, MB_MAX_CAPACITIES * sizeof *lambda);
    double best = choice_column(knapsack, prices, scale, &master.basis[capacities]);
    for (size_t r = 0; r < capacities; r++)
        master.basis[r] = slack_column(r, master.basis[capacities].row[r] > 1);
    bool regular = invert_basis(&master);
    for (int i = 0; regular && i < MAX_ITERATIONS; i++) {
        double dual[MAX_ROWS] = {0};
        for (size_t row = 0; row < master.rows; row++)
            for (size_t j = 0; j < master.rows; j++)
                dual[row] += master.basis[j].cost * master.inverse[j][row];
        struct column column;
        size_t out_of_range = capacities;
        for (size_t r = 0; r < capacities; r++) {
            prices[r] = fmax(0, -dual[r]);
            if (-dual[r] < -TOLERANCE || -dual[r] > OVERRUN_PRICE * (1 + TOLERANCE))
                out_of_range = r;
        }
        if (out_of_range < capacities) {
            column = slack_column(out_of_range, -dual[out_of_range] > 0);
        } else {
            double value = choice_column(knapsack, prices, scale, &column);
            if (value > best) {
                best = value;
                for (size_t r = 0; r < capacities; r++)
                    lambda[r] = prices[r] * scale / knapsack->capacity[r];
            }
            for (size_t r = 0; r < capacities; r++)
                value += prices[r];
            if (value >= dual[capacities] - TOLERANCE)
                break;
        }
        regular = enter_basis(&master, &column);
    }
    *bound = mb_dual_value(knapsack, lambda, NULL);
    return best <= (range > 0 ? 1 : 0) + 1e-6;
}
