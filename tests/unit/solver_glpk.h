/* SPDX-License-Identifier: Apache-2.0 */
/* GLPK as the oracle of the solver's tests: the same problem as a mixed integer program, equality
 * groups as constraints, and what its linear relaxation looks like. */
#ifndef MIXBIT_TEST_SOLVER_GLPK_H
#define MIXBIT_TEST_SOLVER_GLPK_H

#include "solver_random.h"

#include <glpk.h>
#include <math.h>

struct glpk_answer {
    double best;       /* of the objective, fixed part left out; INFINITY: infeasible */
    int active_limits; /* limits that bind in the relaxation */
    bool fractional;   /* the relaxation is no mix */
};

typedef double (*glpk_cost)(const struct mb_problem *problem, size_t unit, size_t candidate,
                            void *user);

static inline double glpk_quantity(const struct mb_problem *problem, size_t unit, size_t candidate,
                                   void *user)
{
    return *quantity_of(&problem->units[unit].candidates[candidate], *(int *)user);
}

/* Row "unit a in this format exactly when unit b is", for every candidate of a. */
static inline void glpk_tie(glp_prob *linear, const struct mb_problem *problem, const int *first,
                            size_t a, size_t b)
{
    for (size_t c = 0; c < problem->units[a].candidate_count; c++) {
        int columns[3] = {0, first[a] + (int)c}, count = 1;
        const double values[3] = {0, 1, -1};
        for (size_t d = 0; d < problem->units[b].candidate_count; d++)
            if (problem->units[b].candidates[d].format == problem->units[a].candidates[c].format)
                columns[++count] = first[b] + (int)d;
        const int row = glp_add_rows(linear, 1);
        glp_set_row_bnds(linear, row, GLP_FX, 0, 0);
        glp_set_mat_row(linear, row, count, columns, values);
    }
}

/* `group` (NULL: none): units with the same number share a format. */
static inline struct glpk_answer glpk_solve(const struct mb_problem *problem, glpk_cost cost,
                                            void *user, const struct mb_budget *budget,
                                            const size_t *group)
{
    glp_prob *linear = glp_create_prob();
    const int units = (int)problem->unit_count;
    int *first = calloc(problem->unit_count + 1, sizeof *first);
    glp_set_obj_dir(linear, GLP_MIN);
    glp_add_rows(linear, units + MB_QUANTITY_COUNT);
    for (int i = 1; i <= units; i++)
        glp_set_row_bnds(linear, i, GLP_FX, 1, 1);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        glp_set_row_bnds(linear, units + 1 + q, budget->max[q] > 0 ? GLP_UP : GLP_FR, 0,
                         budget->max[q] - problem->fixed[q]);
    for (int i = 0; i < units; i++)
        for (size_t c = 0; c < problem->units[i].candidate_count; c++) {
            struct mb_candidate *candidate = &problem->units[i].candidates[c];
            int rows[2 + MB_QUANTITY_COUNT] = {0, i + 1};
            double values[2 + MB_QUANTITY_COUNT] = {0, 1};
            for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
                rows[2 + q] = units + 1 + q;
                values[2 + q] = *quantity_of(candidate, q);
            }
            const int column = glp_add_cols(linear, 1);
            first[i] = c == 0 ? column : first[i];
            glp_set_col_kind(linear, column, GLP_BV);
            glp_set_obj_coef(linear, column, cost(problem, (size_t)i, c, user));
            glp_set_mat_col(linear, column, 1 + MB_QUANTITY_COUNT, rows, values);
        }
    for (size_t a = 0; group != NULL && a < problem->unit_count; a++)
        for (size_t b = 0; b < problem->unit_count; b++)
            if (a != b && group[a] == group[b])
                glpk_tie(linear, problem, first, a, b);
    struct glpk_answer answer = {.best = INFINITY};
    glp_smcp relaxed;
    glp_init_smcp(&relaxed);
    relaxed.msg_lev = GLP_MSG_OFF;
    if (glp_simplex(linear, &relaxed) == 0 && glp_get_status(linear) == GLP_OPT) {
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            answer.active_limits += glp_get_row_stat(linear, units + 1 + q) == GLP_NU &&
                                    fabs(glp_get_row_dual(linear, units + 1 + q)) > 1e-9;
        for (int column = 1; column <= glp_get_num_cols(linear); column++) {
            const double x = glp_get_col_prim(linear, column);
            answer.fractional = answer.fractional || (x > 1e-6 && x < 1 - 1e-6);
        }
    }
    glp_iocp parameters;
    glp_init_iocp(&parameters);
    parameters.presolve = GLP_ON;
    parameters.msg_lev = GLP_MSG_OFF;
    if (glp_intopt(linear, &parameters) == 0 && glp_mip_status(linear) == GLP_OPT)
        answer.best = glp_mip_obj_val(linear);
    glp_delete_prob(linear);
    free(first);
    return answer;
}

#endif
