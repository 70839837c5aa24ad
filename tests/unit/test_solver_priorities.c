/* SPDX-License-Identifier: Apache-2.0 */
/* The weighted mode at its corners (one weight alone), between them (nothing moves the wrong way),
 * under ties, under budgets (every mix tried), and what it refuses. */
#include "solver_random.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

static struct mb_weighting weights(double memory, double decode, double prefill, double accuracy,
                                   enum mb_normalization normalization)
{
    const struct mb_weighting weighting = {.weight = {[MB_QUANTITY_LOSS] = accuracy,
                                                      [MB_QUANTITY_DECODE] = decode,
                                                      [MB_QUANTITY_PREFILL] = prefill,
                                                      [MB_QUANTITY_BYTES] = memory},
                                           .normalization = normalization,
                                           .contribution = MB_FORMAT_NONE};
    return weighting;
}

static struct mb_solution solve(const struct mb_problem *problem,
                                const struct mb_weighting *weighting,
                                const struct mb_budget *budget)
{
    struct mb_solution solution;
    struct mb_error error = {.message = ""};
    if (mb_solve_weighted(problem, weighting, budget, 0, 0, &solution, NULL, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_true(solution.gap == 0);
    return solution;
}

static const enum mb_normalization both[] = {MB_NORMALIZE_MODEL, MB_NORMALIZE_UNIT};

static void one_weight_alone_takes_the_least_of_its_quantity(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t state = 0x9fb21c651e98df25u * seed;
        struct mb_problem *problem = problem_random(20, 7, (enum figures)(seed % 4), &state);
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            for (int n = 0; n < 2; n++) {
                struct mb_weighting weighting = weights(0, 0, 0, 0, both[n]);
                weighting.weight[q] = 0.1 + random_unit(&state);
                struct mb_solution solution = solve(problem, &weighting, NULL);
                for (size_t u = 0; u < problem->unit_count; u++) {
                    struct mb_unit *unit = &problem->units[u];
                    const double taken = *quantity_of(&unit->candidates[solution.choice[u]], q);
                    for (size_t c = 0; c < unit->candidate_count; c++)
                        assert_true(taken <= *quantity_of(&unit->candidates[c], q));
                }
                mb_solution_free(&solution);
            }
        mb_problem_free(problem);
    }
}

static void of_equal_sums_the_one_that_loses_less_is_taken(void **unused)
{
    (void)unused;
    struct mb_problem *problem = problem_create(1, 4);
    const struct mb_candidate candidates[] = {{MB_FORMAT_Q4_1, 5, 10, 10, 0.3, 0, 0},
                                              {MB_FORMAT_Q4_0, 4, 20, 10, 0.3, 0, 0},
                                              {MB_FORMAT_Q4_K, 4, 30, 10, 0.1, 0, 0},
                                              {MB_FORMAT_IQ4_NL, 4, 25, 10, 0.1, 0, 0}};
    memcpy(problem->units[0].candidates, candidates, sizeof candidates);
    for (int n = 0; n < 2; n++) {
        /* Three have 4 bytes, two of them 0.1 of loss: the faster one. */
        struct mb_weighting weighting = weights(1, 0, 0, 0, both[n]);
        struct mb_solution solution = solve(problem, &weighting, NULL);
        assert_int_equal(solution.choice[0], 3);
        mb_solution_free(&solution);
        /* Prefill is the same for all. */
        weighting = weights(0, 0, 7, 0, both[n]);
        solution = solve(problem, &weighting, NULL);
        assert_int_equal(solution.choice[0], 3);
        mb_solution_free(&solution);
    }
    mb_problem_free(problem);
}

/* From one corner to another: what gains weight never grows, what loses it never shrinks. */
static void moving_weight_moves_totals_one_way(void **unused)
{
    (void)unused;
    static const int pairs[][2] = {{MB_QUANTITY_BYTES, MB_QUANTITY_LOSS},
                                   {MB_QUANTITY_DECODE, MB_QUANTITY_LOSS},
                                   {MB_QUANTITY_BYTES, MB_QUANTITY_PREFILL},
                                   {MB_QUANTITY_DECODE, MB_QUANTITY_PREFILL}};
    size_t moved = 0;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        uint64_t state = 0xe7037ed1a0b428dbu * seed;
        struct mb_problem *problem = problem_random(12, 6, FIGURES_LIKE_MODELS, &state);
        const int *pair = pairs[seed % 4];
        struct mb_budget budget = {{0}};
        /* Every second time under a budget on a third quantity. */
        if (seed % 2 == 0)
            for (int q = 1; q < MB_QUANTITY_COUNT; q++)
                if (q != pair[0] && q != pair[1])
                    budget.max[q] = limit_between(problem, q, 0.4);
        double last[2] = {INFINITY, -INFINITY};
        for (int step = 0; step <= 20; step++) {
            struct mb_weighting weighting = weights(0, 0, 0, 0, MB_NORMALIZE_MODEL);
            weighting.weight[pair[0]] = step;
            weighting.weight[pair[1]] = 20 - step;
            struct mb_solution solution = solve(problem, &weighting, &budget);
            const double now[2] = {solution.total[pair[0]], solution.total[pair[1]]};
            assert_true(now[0] <= last[0] * (1 + 1e-9));
            assert_true(step == 0 || now[1] >= last[1] * (1 - 1e-9));
            moved += step > 0 && now[0] < last[0];
            memcpy(last, now, sizeof last);
            mb_solution_free(&solution);
        }
        mb_problem_free(problem);
    }
    assert_true(moved >= 24 * 3);
}

/* Two units, one hard and one soft, and formats that are small, fast and accurate in turn: the
 * mix is in front of every uniform assignment in something, and behind none in everything. */
static void a_mix_that_no_uniform_type_dominates(void **unused)
{
    (void)unused;
    struct mb_problem *problem = problem_create(2, 3);
    const struct mb_candidate hard[] = {{MB_FORMAT_Q8_0, 80, 60, 60, 0.01, 0, 0},
                                        {MB_FORMAT_Q4_0, 40, 30, 30, 0.90, 0, 0},
                                        {MB_FORMAT_Q2_K, 20, 50, 90, 2.00, 0, 0}};
    const struct mb_candidate soft[] = {{MB_FORMAT_Q8_0, 80, 60, 60, 0.001, 0, 0},
                                        {MB_FORMAT_Q4_0, 40, 30, 30, 0.002, 0, 0},
                                        {MB_FORMAT_Q2_K, 20, 50, 90, 0.020, 0, 0}};
    memcpy(problem->units[0].candidates, hard, sizeof hard);
    memcpy(problem->units[1].candidates, soft, sizeof soft);
    for (int n = 0; n < 2; n++) {
        const struct mb_weighting weighting = weights(1, 1, 0, 4, both[n]);
        struct mb_solution solution = solve(problem, &weighting, NULL);
        assert_int_equal(solution.choice[0], 0);
        assert_int_equal(solution.choice[1], 1);
        for (size_t c = 0; c < 3; c++) {
            const size_t uniform[] = {c, c};
            double total[MB_QUANTITY_COUNT];
            bool ahead = false;
            mb_problem_totals(problem, uniform, total);
            for (int q = 0; q < MB_QUANTITY_COUNT; q++)
                ahead = ahead || solution.total[q] < total[q];
            assert_true(ahead);
        }
        mb_solution_free(&solution);
    }
    mb_problem_free(problem);
}

/* ---- by layer: spans of a unit's own, times its contribution ---- */

static void a_layer_is_weighed_by_its_own_spans_and_its_contribution(void **unused)
{
    (void)unused;
    struct mb_problem *problem = problem_create(2, 2);
    /* Large and small unit, alike but for scale; the first contributes 4, the second 1. */
    const struct mb_candidate first[] = {{MB_FORMAT_Q8_0, 8000, 60, 60, 0, 0, 0},
                                         {MB_FORMAT_Q4_0, 4000, 30, 30, 4, 0, 0}};
    const struct mb_candidate second[] = {{MB_FORMAT_Q8_0, 8, 60, 60, 0, 0, 0},
                                          {MB_FORMAT_Q4_0, 4, 30, 30, 1, 0, 0}};
    memcpy(problem->units[0].candidates, first, sizeof first);
    memcpy(problem->units[1].candidates, second, sizeof second);
    /* In its own span q4_0 saves all of a unit's memory: 2 against accuracy 5 x 1 and 5 x 1/4. */
    struct mb_weighting weighting = weights(2, 0, 0, 5, MB_NORMALIZE_UNIT);
    struct mb_solution solution = solve(problem, &weighting, NULL);
    assert_int_equal(solution.choice[0], 0);
    assert_int_equal(solution.choice[1], 1);
    mb_solution_free(&solution);
    /* In the model's span the second unit's 4 bytes are nothing. */
    weighting.normalization = MB_NORMALIZE_MODEL;
    solution = solve(problem, &weighting, NULL);
    assert_int_equal(solution.choice[1], 0);
    mb_solution_free(&solution);
    /* A contribution named by a format in which the second contributes most turns it round. */
    problem->units[0].candidates[0].loss = 1;
    problem->units[1].candidates[0].loss = 8;
    problem->units[1].candidates[1].loss = 9;
    weighting = weights(2, 0, 0, 5, MB_NORMALIZE_UNIT);
    weighting.contribution = MB_FORMAT_Q8_0;
    solution = solve(problem, &weighting, NULL);
    assert_int_equal(solution.choice[0], 1);
    assert_int_equal(solution.choice[1], 0);
    mb_solution_free(&solution);
    /* A pinned unit needs no loss in that format: it has no choice to weigh. */
    problem->units[0].candidates[0].format = MB_FORMAT_F16;
    problem->units[0].candidate_count = 1;
    solution = solve(problem, &weighting, NULL);
    assert_int_equal(solution.choice[0], 0);
    assert_int_equal(solution.choice[1], 0);
    mb_solution_free(&solution);
    mb_problem_free(problem);
}

/* ---- under budgets ---- */

static double sum_of(const struct mb_problem *problem, const double *factor, const size_t *choice)
{
    double sum = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        for (int q = 0; q < MB_QUANTITY_COUNT; q++)
            sum += factor[q] * *quantity_of(&problem->units[u].candidates[choice[u]], q);
    return sum;
}

static void budgets_hold_and_the_sum_is_the_least(void **unused)
{
    (void)unused;
    int infeasible = 0, limited = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        uint64_t state = 0xa0761d6478bd642fu * seed;
        struct mb_problem *problem =
            problem_random(1 + seed % 5, 2 + seed % 3, (enum figures)(seed % 4), &state);
        struct mb_weighting weighting = weights(random_unit(&state), random_unit(&state),
                                                random_unit(&state), 1, MB_NORMALIZE_MODEL);
        struct mb_budget budget = {{0}};
        double factor[MB_QUANTITY_COUNT], best = INFINITY;
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            const double span = extreme_total(problem, q, true) - extreme_total(problem, q, false);
            factor[q] = span > 0 ? weighting.weight[q] / span : 0;
            if (q != (int)(seed % 4) && random_unit(&state) < 0.7)
                budget.max[q] = fmax(1, floor(limit_between(problem, q, random_unit(&state))));
        }
        size_t choice[8] = {0}, at = 0;
        while (at < problem->unit_count) {
            double total[MB_QUANTITY_COUNT];
            bool fits = true;
            mb_problem_totals(problem, choice, total);
            for (int q = 0; q < MB_QUANTITY_COUNT; q++)
                fits = fits && (budget.max[q] <= 0 || total[q] <= budget.max[q]);
            if (fits)
                best = fmin(best, sum_of(problem, factor, choice));
            for (at = 0; at < problem->unit_count; at++) {
                if (++choice[at] < problem->units[at].candidate_count)
                    break;
                choice[at] = 0;
            }
        }
        struct mb_solution solution;
        const enum mb_status status =
            mb_solve_weighted(problem, &weighting, &budget, 0, 0, &solution, NULL, NULL);
        assert_int_equal(status, isinf(best) ? MB_ERR_INFEASIBLE : MB_OK);
        if (status == MB_OK) {
            assert_true(fabs(solution.objective - best) <= 1e-9 * fmax(best, 1e-9));
            for (int q = 0; q < MB_QUANTITY_COUNT; q++)
                assert_true(budget.max[q] <= 0 || solution.total[q] <= budget.max[q]);
            limited += solution.nodes > 0;
        } else {
            infeasible++;
        }
        mb_solution_free(&solution);
        mb_problem_free(problem);
    }
    assert_true(infeasible >= 20);
    assert_true(limited >= 20);
}

static void expect_refused(const struct mb_problem *problem, struct mb_weighting weighting,
                           const struct mb_budget *budget, const char *words)
{
    struct mb_solution solution;
    struct mb_error error = {.message = ""};
    assert_int_equal(mb_solve_weighted(problem, &weighting, budget, 0, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    assert_null(solution.choice);
    if (strstr(error.message, words) == NULL)
        fail_msg("expected '%s' in: %s", words, error.message);
}

static void wrong_weights_are_refused(void **unused)
{
    (void)unused;
    uint64_t state = 1;
    struct mb_problem *problem = problem_random(3, 3, FIGURES_WHOLE, &state);
    struct mb_budget budget = {{0}};
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        budget.max[q] = fmax(1, extreme_total(problem, q, false));
    expect_refused(problem, weights(0, 0, 0, 0, MB_NORMALIZE_MODEL), NULL, "all weights are 0");
    expect_refused(problem, weights(-1, 0, 0, 1, MB_NORMALIZE_MODEL), NULL, "bytes");
    expect_refused(problem, weights(0, NAN, 0, 1, MB_NORMALIZE_MODEL), NULL, "decode_ns");
    expect_refused(problem, weights(0, 0, INFINITY, 1, MB_NORMALIZE_UNIT), NULL, "prefill_ns");
    expect_refused(problem, weights(1, 1, 1, 1, MB_NORMALIZE_MODEL), &budget, "up to three");
    struct mb_weighting weighting = weights(1, 0, 0, 1, MB_NORMALIZE_UNIT);
    weighting.contribution = MB_FORMAT_IQ1_S;
    expect_refused(problem, weighting, NULL, "blk.0.ffn_up.weight has no loss in iq1_s");
    struct mb_problem *other = problem_random(2, 3, FIGURES_WHOLE, &state);
    weighting = weights(1, 0, 0, 1, MB_NORMALIZE_MODEL);
    weighting.reference = other;
    expect_refused(problem, weighting, NULL, "reference");
    mb_problem_free(other);
    mb_problem_free(problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_weight_alone_takes_the_least_of_its_quantity),
        cmocka_unit_test(of_equal_sums_the_one_that_loses_less_is_taken),
        cmocka_unit_test(moving_weight_moves_totals_one_way),
        cmocka_unit_test(a_mix_that_no_uniform_type_dominates),
        cmocka_unit_test(a_layer_is_weighed_by_its_own_spans_and_its_contribution),
        cmocka_unit_test(budgets_hold_and_the_sum_is_the_least),
        cmocka_unit_test(wrong_weights_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
