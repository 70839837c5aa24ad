/* SPDX-License-Identifier: Apache-2.0 */
/* The solver against GLPK's branch and cut, and against trying every mix.
 *
 * Random problems of 30 units x 8 candidates, every quantity as the objective, one to three limits,
 * some of which cannot be met: both must find the same cost, or both none. MIXBIT_TEST_PROBLEMS
 * sets how many (1,000); a quarter as many have ties, and are smaller because ties make GLPK slow.
 * Of the 1,000, 300 or more have two binding limits and a relaxation that is no mix. Tiny problems
 * are enumerated, which also checks the nearest budget of an infeasible one. */
#include "solver_glpk.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

static void check_limits(const struct mb_problem *problem, const struct mb_budget *budget,
                         const struct mb_solution *solution)
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        double total = problem->fixed[q];
        for (size_t i = 0; i < problem->unit_count; i++)
            total += *quantity_of(&problem->units[i].candidates[solution->choice[i]], q);
        assert_true(total == solution->total[q]);
        if (budget->max[q] > 0)
            assert_true(total <= budget->max[q]);
    }
}

struct tally {
    int solved, infeasible, two_limits, binding, hard;
};

static void compare_with_glpk(uint64_t seed, bool tied, struct tally *tally)
{
    uint64_t state = 0x9e3779b97f4a7c15u * (seed + 1);
    const enum figures figures = tied       ? seed % 2 ? FIGURES_DUPLICATES : FIGURES_TIES
                                 : seed % 2 ? FIGURES_LIKE_MODELS
                                            : FIGURES_WHOLE;
    struct mb_problem *problem = problem_random(tied ? 14 : 30, tied ? 6 : 8, figures, &state);
    int minimize = (int)(seed / 4 % MB_QUANTITY_COUNT);
    const int limits = 1 + (int)(seed % 5 + 1) / 2 % 3;
    struct mb_budget budget = {{0}};
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        problem->fixed[q] = seed % 3 == 0 ? random_whole(&state, 50) : 0;
    for (int l = 0; l < limits; l++) {
        const int q = (minimize + 1 + l) % MB_QUANTITY_COUNT;
        budget.max[q] = limit_between(problem, q, 0.1 + 0.4 * random_unit(&state));
    }
    struct mb_solution solution;
    struct mb_error error = {.message = ""};
    const enum mb_status status =
        mb_solve(problem, (enum mb_quantity)minimize, &budget, 0, 0, &solution, NULL, &error);
    const struct glpk_answer answer = glpk_solve(problem, glpk_quantity, &minimize, &budget, NULL);
    const double best = answer.best + problem->fixed[minimize];
    if (isinf(best)) {
        assert_int_equal(status, MB_ERR_INFEASIBLE);
        assert_true(strstr(error.message, "no mix") != NULL);
        tally->infeasible++;
    } else {
        assert_int_equal(status, MB_OK);
        check_limits(problem, &budget, &solution);
        if (fabs(solution.total[minimize] - best) > 1e-6 * fmax(1, best))
            fail_msg("seed %llu: GLPK finds %.12g, mb_solve %.12g", (unsigned long long)seed, best,
                     solution.total[minimize]);
        assert_true(solution.gap == 0);
        tally->solved++;
        tally->two_limits += limits >= 2;
        tally->hard += answer.active_limits >= 2 && answer.fractional;
        for (int l = 0; l < limits; l++) {
            struct mb_budget without = budget;
            struct mb_solution relaxed;
            without.max[(minimize + 1 + l) % MB_QUANTITY_COUNT] = 0;
            assert_int_equal(
                mb_solve(problem, (enum mb_quantity)minimize, &without, 0, 0, &relaxed, NULL, NULL),
                MB_OK);
            assert_true(relaxed.total[minimize] <= solution.total[minimize] * (1 + 1e-9));
            tally->binding += relaxed.total[minimize] < solution.total[minimize];
            mb_solution_free(&relaxed);
        }
        mb_solution_free(&solution);
    }
    mb_problem_free(problem);
}

static void agrees_with_glpk(void **unused)
{
    (void)unused;
    const char *wanted = getenv("MIXBIT_TEST_PROBLEMS");
    const int problems = wanted != NULL ? atoi(wanted) : 1000;
    struct tally tally = {0}, ties = {0};
    glp_term_out(GLP_OFF);
    for (int seed = 0; seed < problems; seed++)
        compare_with_glpk((uint64_t)seed, false, &tally);
    for (int seed = 0; seed < problems / 4; seed++)
        compare_with_glpk((uint64_t)seed, true, &ties);
    print_message(
        "%d problems: %d solved alike (%d with two or three limits, %d limits binding, %d "
        "with two binding at once and a fractional relaxation), %d infeasible for both; "
        "with ties %d and %d\n",
        problems, tally.solved, tally.two_limits, tally.binding, tally.hard, tally.infeasible,
        ties.solved, ties.infeasible);
    assert_true(tally.solved >= problems * 8 / 10);
    assert_true(tally.two_limits >= problems / 2);
    assert_true(tally.binding >= problems / 2);
    assert_true(tally.hard >= problems * 3 / 10);
    assert_true(tally.infeasible + ties.infeasible >= problems / 100);
}

/* ---- trying every mix ---- */

struct exhaustive {
    double best, share; /* least cost within the limits; least share of the limits that fits */
};

static struct exhaustive try_every_mix(const struct mb_problem *problem, int minimize,
                                       const struct mb_budget *budget)
{
    struct exhaustive result = {INFINITY, INFINITY};
    size_t choice[8] = {0};
    for (;;) {
        double total[MB_QUANTITY_COUNT], share = 0;
        mb_problem_totals(problem, choice, total);
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            if (budget->max[q] > 0)
                share = fmax(share, total[q] / budget->max[q]);
        if (share <= 1)
            result.best = fmin(result.best, total[minimize]);
        result.share = fmin(result.share, share);
        size_t i = 0;
        while (i < problem->unit_count && ++choice[i] == problem->units[i].candidate_count)
            choice[i++] = 0;
        if (i == problem->unit_count)
            return result;
    }
}

static void agrees_with_every_mix(void **unused)
{
    (void)unused;
    int infeasible = 0;
    for (uint64_t seed = 0; seed < 600; seed++) {
        uint64_t state = 0xd1b54a32d192ed03u * (seed + 1);
        const size_t units = 1 + seed % 6, candidates = 1 + seed / 6 % 4;
        struct mb_problem *problem =
            problem_random(units, candidates, (enum figures)(seed % 4), &state);
        const int minimize = (int)(seed / 8 % MB_QUANTITY_COUNT);
        struct mb_budget budget = {{0}}, nearest = {{0}};
        /* Limits at whole numbers, the objective's own among them: equality must count as held. */
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            if (random_unit(&state) < 0.6)
                budget.max[q] = fmax(1, floor(limit_between(problem, q, random_unit(&state))));
        const struct exhaustive expected = try_every_mix(problem, minimize, &budget);
        struct mb_solution solution;
        const enum mb_status status =
            mb_solve(problem, (enum mb_quantity)minimize, &budget, 0, 0, &solution, &nearest, NULL);
        if (isinf(expected.best)) {
            assert_int_equal(status, MB_ERR_INFEASIBLE);
            infeasible++;
            for (int q = 0; q < MB_QUANTITY_COUNT; q++)
                if (budget.max[q] > 0) {
                    const double share = nearest.max[q] / budget.max[q];
                    const double whole_byte = q == MB_QUANTITY_BYTES ? 1 / budget.max[q] : 0;
                    assert_true(share >= expected.share * (1 - 1e-12));
                    assert_true(share <= expected.share * (1 + 2e-4) + whole_byte);
                }
            assert_int_equal(mb_solve(problem, (enum mb_quantity)minimize, &nearest, 0, 0,
                                      &solution, NULL, NULL),
                             MB_OK);
        } else {
            assert_int_equal(status, MB_OK);
            if (fabs(solution.total[minimize] - expected.best) > 1e-9 * expected.best)
                fail_msg("seed %llu: best of all mixes %.12g, mb_solve %.12g",
                         (unsigned long long)seed, expected.best, solution.total[minimize]);
        }
        check_limits(problem, status == MB_OK ? &budget : &nearest, &solution);
        mb_solution_free(&solution);
        mb_problem_free(problem);
    }
    assert_true(infeasible >= 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_every_mix),
                                       cmocka_unit_test(agrees_with_glpk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
