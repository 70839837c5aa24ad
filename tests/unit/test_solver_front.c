/* SPDX-License-Identifier: Apache-2.0 */
/* The trade-off curve against every mix of small problems: its points are best for what they take,
 * none dominates another, and both ends are there. */
#include "solver_random.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

/* Whether some mix is as good as the point in both quantities, and better in one. */
static bool some_mix_dominates(const struct mb_problem *problem, const struct mb_budget *budget,
                               int minimize, int against, const double *point)
{
    size_t choice[8] = {0};
    for (;;) {
        double total[MB_QUANTITY_COUNT];
        mb_problem_totals(problem, choice, total);
        bool holds = true;
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            holds = holds && (budget->max[q] == 0 || total[q] <= budget->max[q]);
        if (holds && total[minimize] <= point[minimize] && total[against] <= point[against] &&
            total[minimize] + total[against] < (point[minimize] + point[against]) * (1 - 1e-12))
            return true;
        size_t i = 0;
        while (i < problem->unit_count && ++choice[i] == problem->units[i].candidate_count)
            choice[i++] = 0;
        if (i == problem->unit_count)
            return false;
    }
}

static void points_are_best_and_ascending(void **unused)
{
    (void)unused;
    size_t most = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t state = 0x8bb84b93962eacc9u * seed;
        struct mb_problem *problem =
            problem_random(6, 4, seed % 3 == 0 ? FIGURES_TIES : FIGURES_LIKE_MODELS, &state);
        struct mb_budget budget = {{0}};
        if (seed % 2 == 0)
            budget.max[MB_QUANTITY_DECODE] = limit_between(problem, MB_QUANTITY_DECODE, 0.6);
        struct mb_solution *points;
        size_t count;
        assert_int_equal(mb_solve_front(problem, MB_QUANTITY_LOSS, MB_QUANTITY_BYTES, &budget, 9,
                                        &points, &count, NULL),
                         MB_OK);
        assert_true(count >= 1 && count <= 9);
        most = count > most ? count : most;
        struct mb_solution smallest, best;
        mb_solve(problem, MB_QUANTITY_BYTES, &budget, 0, 0, &smallest, NULL, NULL);
        mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &best, NULL, NULL);
        assert_true(points[0].total[MB_QUANTITY_BYTES] == smallest.total[MB_QUANTITY_BYTES]);
        assert_true(fabs(points[count - 1].total[MB_QUANTITY_LOSS] -
                         best.total[MB_QUANTITY_LOSS]) <= 1e-9 * best.total[MB_QUANTITY_LOSS]);
        for (size_t i = 0; i < count; i++) {
            double total[MB_QUANTITY_COUNT];
            mb_problem_totals(problem, points[i].choice, total);
            assert_memory_equal(total, points[i].total, sizeof total);
            assert_false(some_mix_dominates(problem, &budget, MB_QUANTITY_LOSS, MB_QUANTITY_BYTES,
                                            points[i].total));
            if (i > 0) {
                assert_true(points[i].total[MB_QUANTITY_BYTES] >
                            points[i - 1].total[MB_QUANTITY_BYTES]);
                assert_true(points[i].total[MB_QUANTITY_LOSS] <
                            points[i - 1].total[MB_QUANTITY_LOSS]);
            }
        }
        for (size_t i = 0; i < count; i++)
            mb_solution_free(&points[i]);
        free(points);
        mb_solution_free(&smallest);
        mb_solution_free(&best);
        mb_problem_free(problem);
    }
    assert_true(most >= 7);
}

/* With a format that loses nothing among the candidates, the far end is the model as it is. */
static void a_loss_free_end_is_included(void **unused)
{
    (void)unused;
    uint64_t state = 12345;
    struct mb_problem *problem = problem_random(20, 5, FIGURES_LIKE_MODELS, &state);
    for (size_t i = 0; i < 20; i++) {
        problem->units[i].candidates[4].loss = 0;
        problem->units[i].candidates[4].bytes = 500;
    }
    struct mb_solution *points;
    size_t count;
    assert_int_equal(mb_solve_front(problem, MB_QUANTITY_LOSS, MB_QUANTITY_BYTES, NULL, 12, &points,
                                    &count, NULL),
                     MB_OK);
    assert_true(count >= 10);
    assert_true(points[count - 1].total[MB_QUANTITY_LOSS] == 0);
    assert_true(points[count - 1].total[MB_QUANTITY_BYTES] == 20 * 500);
    for (size_t i = 0; i < count; i++)
        mb_solution_free(&points[i]);
    free(points);
    mb_problem_free(problem);
}

static void what_cannot_be_drawn_is_refused(void **unused)
{
    (void)unused;
    uint64_t state = 99;
    struct mb_problem *problem = problem_random(5, 3, FIGURES_WHOLE, &state);
    struct mb_solution *points;
    struct mb_error error = {.message = ""};
    size_t count;
    assert_int_equal(mb_solve_front(problem, MB_QUANTITY_LOSS, MB_QUANTITY_LOSS, NULL, 5, &points,
                                    &count, &error),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_solve_front(problem, MB_QUANTITY_LOSS, MB_QUANTITY_BYTES, NULL, 1, &points,
                                    &count, &error),
                     MB_ERR_ARGUMENT);
    struct mb_budget budget = {{[MB_QUANTITY_DECODE] = 0.5}};
    assert_int_equal(mb_solve_front(problem, MB_QUANTITY_LOSS, MB_QUANTITY_BYTES, &budget, 5,
                                    &points, &count, &error),
                     MB_ERR_INFEASIBLE);
    assert_non_null(strstr(error.message, "the fastest is"));
    assert_null(points);
    assert_int_equal(count, 0);
    mb_problem_free(problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(points_are_best_and_ascending),
                                       cmocka_unit_test(a_loss_free_end_is_included),
                                       cmocka_unit_test(what_cannot_be_drawn_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
