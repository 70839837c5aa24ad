/* SPDX-License-Identifier: Apache-2.0 */
/* Equality groups and weights against GLPK, which gets the groups as equality constraints and the
 * weighted sum as its objective, and knows nothing of merging or of the places of quantities. */
#include "solver_glpk.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

enum { UNITS = 24, CANDIDATES = 7 };

/* Some units lose some of their candidates. */
static void thin(struct mb_problem *problem, uint64_t *state)
{
    for (size_t u = 0; u < problem->unit_count; u++) {
        struct mb_unit *unit = &problem->units[u];
        size_t kept = 0;
        for (size_t c = 0; c < unit->candidate_count; c++)
            if (c == 0 || random_unit(state) < 0.85)
                unit->candidates[kept++] = unit->candidates[c];
        unit->candidate_count = kept;
    }
}

static void draw_groups(size_t *group, uint64_t *state)
{
    const size_t groups = 4 + random_next(state) % UNITS;
    for (size_t u = 0; u < UNITS; u++)
        group[u] = random_next(state) % groups;
}

struct weighed {
    double factor[MB_QUANTITY_COUNT];
};

static double weighed_cost(const struct mb_problem *problem, size_t unit, size_t candidate,
                           void *user)
{
    const struct weighed *weighed = user;
    double sum = 0;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        sum += weighed->factor[q] * *quantity_of(&problem->units[unit].candidates[candidate], q);
    return sum;
}

static void check_choice(const struct mb_problem *problem, const struct mb_budget *budget,
                         const size_t *group, const size_t *choice)
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        double total = problem->fixed[q];
        for (size_t u = 0; u < problem->unit_count; u++)
            total += *quantity_of(&problem->units[u].candidates[choice[u]], q);
        if (budget->max[q] > 0)
            assert_true(total <= budget->max[q] * (1 + 1e-12));
    }
    for (size_t a = 0; a < problem->unit_count; a++)
        for (size_t b = 0; b < a; b++)
            if (group[a] == group[b])
                assert_int_equal(problem->units[a].candidates[choice[a]].format,
                                 problem->units[b].candidates[choice[b]].format);
}

/* Two limits: on the quantities beside the objective, or, with weights, on any two. */
static struct mb_budget draw_budget(const struct mb_problem *problem, int first, uint64_t *state)
{
    struct mb_budget budget = {{0}};
    for (int l = 0; l < 2; l++) {
        const int q = (first + 1 + l) % MB_QUANTITY_COUNT;
        budget.max[q] = limit_between(problem, q, 0.15 + 0.4 * random_unit(state));
    }
    return budget;
}

static void groups_agree_with_equality_constraints(void **unused)
{
    (void)unused;
    int solved = 0, infeasible = 0, costs = 0;
    glp_term_out(GLP_OFF);
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t state = 0xbf58476d1ce4e5b9u * (seed + 1);
        struct mb_problem *problem = problem_random(
            UNITS, CANDIDATES, seed % 2 ? FIGURES_LIKE_MODELS : FIGURES_WHOLE, &state);
        size_t group[UNITS], alone[UNITS], choice[UNITS], merged[UNITS];
        int minimize = (int)(seed % MB_QUANTITY_COUNT);
        struct mb_grouping grouping;
        struct mb_solution solution, free_choice;
        thin(problem, &state);
        draw_groups(group, &state);
        for (size_t u = 0; u < UNITS; u++)
            alone[u] = u;
        const struct mb_budget budget = draw_budget(problem, minimize, &state);
        assert_int_equal(mb_group_units(problem, group, &grouping, NULL), MB_OK);
        const enum mb_status status = mb_solve(grouping.problem, (enum mb_quantity)minimize,
                                               &budget, 0, 0, &solution, NULL, NULL);
        const double best = glpk_solve(problem, glpk_quantity, &minimize, &budget, group).best;
        if (isinf(best)) {
            assert_int_equal(status, MB_ERR_INFEASIBLE);
            infeasible++;
        } else {
            assert_int_equal(status, MB_OK);
            mb_grouping_expand(problem, &grouping, solution.choice, choice);
            check_choice(problem, &budget, group, choice);
            double total[MB_QUANTITY_COUNT];
            mb_problem_totals(problem, choice, total);
            if (fabs(total[minimize] - best) > 1e-6 * fmax(1, best))
                fail_msg("seed %llu: GLPK finds %.12g, merging %.12g", (unsigned long long)seed,
                         best, total[minimize]);
            assert_true(mb_grouping_merge(problem, &grouping, choice, merged));
            assert_memory_equal(merged, solution.choice,
                                grouping.problem->unit_count * sizeof *merged);
            /* To share a format never gains. */
            assert_int_equal(mb_solve(problem, (enum mb_quantity)minimize, &budget, 0, 0,
                                      &free_choice, NULL, NULL),
                             MB_OK);
            assert_true(free_choice.total[minimize] <= total[minimize] * (1 + 1e-9));
            costs += free_choice.total[minimize] < total[minimize] * (1 - 1e-9);
            mb_solution_free(&free_choice);
            solved++;
        }
        mb_solution_free(&solution);
        mb_grouping_free(&grouping);
        /* Groups of one change nothing. */
        assert_int_equal(mb_group_units(problem, alone, &grouping, NULL), MB_OK);
        assert_int_equal(grouping.problem->unit_count, UNITS);
        for (size_t u = 0; u < UNITS; u++)
            assert_int_equal(grouping.problem->units[u].candidate_count,
                             problem->units[u].candidate_count);
        mb_grouping_free(&grouping);
        mb_problem_free(problem);
    }
    print_message("%d solved alike (%d at a cost), %d infeasible for both\n", solved, costs,
                  infeasible);
    assert_true(solved >= 100);
    assert_true(costs >= 80);
    assert_true(infeasible >= 5);
}

static void weights_agree_with_a_linear_objective(void **unused)
{
    (void)unused;
    int solved = 0, bound = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t state = 0x94d049bb133111ebu * (seed + 1);
        struct mb_problem *problem = problem_random(UNITS, CANDIDATES, FIGURES_LIKE_MODELS, &state);
        struct mb_weighting weighting = {.normalization = MB_NORMALIZE_MODEL,
                                         .contribution = MB_FORMAT_NONE};
        struct weighed weighed;
        struct mb_solution solution;
        const struct mb_budget none = {{0}};
        const struct mb_budget budget = draw_budget(problem, (int)(seed % 4), &state);
        double most = 0;
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            weighting.weight[q] = random_unit(&state) < 0.2 ? 0 : 5 * random_unit(&state);
            most = fmax(most, weighting.weight[q]);
        }
        if (most <= 0)
            weighting.weight[0] = most = 1;
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            weighed.factor[q] =
                weighting.weight[q] / most /
                (extreme_total(problem, q, true) - extreme_total(problem, q, false));
        const struct mb_budget *const budgets[] = {&none, &budget};
        for (int b = 0; b < 2; b++) {
            const enum mb_status status =
                mb_solve_weighted(problem, &weighting, budgets[b], 0, 0, &solution, NULL, NULL);
            const double best = glpk_solve(problem, weighed_cost, &weighed, budgets[b], NULL).best;
            assert_int_equal(status, isinf(best) ? MB_ERR_INFEASIBLE : MB_OK);
            if (status == MB_OK) {
                size_t alone[UNITS];
                double sum, total[MB_QUANTITY_COUNT];
                for (size_t u = 0; u < UNITS; u++)
                    alone[u] = u;
                check_choice(problem, budgets[b], alone, solution.choice);
                if (fabs(solution.objective - best) > 1e-8 * best)
                    fail_msg("seed %llu: GLPK finds %.12g, mb_solve_weighted %.12g",
                             (unsigned long long)seed, best, solution.objective);
                assert_int_equal(mb_weighted_sum(problem, &weighting, solution.choice, &sum, NULL),
                                 MB_OK);
                assert_true(fabs(sum - solution.objective) < 1e-9 * sum);
                mb_problem_totals(problem, solution.choice, total);
                assert_memory_equal(total, solution.total, sizeof total);
                solved++;
                bound += b == 1;
            }
            mb_solution_free(&solution);
        }
        mb_problem_free(problem);
    }
    print_message("%d solved alike, %d of them under two limits\n", solved, bound);
    assert_true(solved >= 300);
    assert_true(bound >= 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_agree_with_equality_constraints),
                                       cmocka_unit_test(weights_agree_with_a_linear_objective)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
