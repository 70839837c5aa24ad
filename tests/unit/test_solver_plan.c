/* SPDX-License-Identifier: Apache-2.0 */
/* mb_solve at its edges (limits met exactly, impossible ones and what is said of them, arguments
 * out of range, time limits), and plans as files. */
#include "solver_files.h"
#include "solver_random.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>

/* Two units, q8_0 or q4_0: 8 MB or 4 MB each; 4 ms or 3 ms to decode; the first loses 0.2, the
 * second 0.1 in q4_0. */
static struct mb_problem *two_units(void)
{
    struct mb_problem *problem = problem_create(2, 2);
    for (size_t i = 0; i < 2; i++) {
        struct mb_unit *unit = &problem->units[i];
        unit->candidates[0] = (struct mb_candidate){MB_FORMAT_Q8_0, 8e6, 4e6, 4e5, 0, 0, 0};
        unit->candidates[1] = (struct mb_candidate){
            MB_FORMAT_Q4_0, 4e6, 3e6, 5e5, i == 0 ? 0.2 : 0.1, 0, i == 0 ? 0.3 : 0.2};
    }
    problem->fixed[MB_QUANTITY_BYTES] = 1e6;
    problem->fixed[MB_QUANTITY_DECODE] = 1e6;
    return problem;
}

static struct mb_budget limits(double loss, double decode, double prefill, double bytes)
{
    const struct mb_budget budget = {{[MB_QUANTITY_LOSS] = loss,
                                      [MB_QUANTITY_DECODE] = decode,
                                      [MB_QUANTITY_PREFILL] = prefill,
                                      [MB_QUANTITY_BYTES] = bytes}};
    return budget;
}

static void limits_hold_to_the_last_byte(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_units();
    struct mb_solution solution;
    const struct {
        double bytes;
        size_t first, second;
        double loss;
    } cases[] = {{17e6, 0, 0, 0},
                 {17e6 - 1, 0, 1, 0.1},
                 {13e6, 0, 1, 0.1},
                 {13e6 - 1, 1, 1, 0.3},
                 {9e6, 1, 1, 0.3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct mb_budget budget = limits(0, 0, 0, cases[i].bytes);
        assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, NULL),
                         MB_OK);
        assert_int_equal(solution.choice[0], cases[i].first);
        assert_int_equal(solution.choice[1], cases[i].second);
        assert_true(fabs(solution.total[MB_QUANTITY_LOSS] - cases[i].loss) < 1e-15);
        assert_true(solution.total[MB_QUANTITY_BYTES] <= cases[i].bytes);
        assert_true(solution.gap == 0);
        assert_true(solution.bound == solution.total[MB_QUANTITY_LOSS]);
        mb_solution_free(&solution);
    }
    mb_problem_free(problem);
}

static void every_quantity_can_be_minimised(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_units();
    struct mb_solution solution;
    const double least[MB_QUANTITY_COUNT] = {0, 7e6, 8e5, 9e6};
    for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
        assert_int_equal(mb_solve(problem, (enum mb_quantity)q, NULL, 0, 0, &solution, NULL, NULL),
                         MB_OK);
        assert_true(solution.total[q] == least[q]);
        mb_solution_free(&solution);
    }
    /* A limit on the objective holds too. */
    struct mb_budget budget = limits(0.15, 0, 0, 13e6);
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, NULL),
                     MB_OK);
    mb_solution_free(&solution);
    budget.max[MB_QUANTITY_LOSS] = 0.05;
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, NULL),
                     MB_ERR_INFEASIBLE);
    assert_null(solution.choice);
    mb_problem_free(problem);
}

static void expect_infeasible(const struct mb_problem *problem, struct mb_budget budget,
                              struct mb_budget *nearest, const char *words)
{
    struct mb_solution solution;
    struct mb_error error;
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, nearest, &error),
                     MB_ERR_INFEASIBLE);
    assert_int_equal(error.status, MB_ERR_INFEASIBLE);
    if (strstr(error.message, words) == NULL)
        fail_msg("expected '%s' in: %s", words, error.message);
    assert_null(solution.choice);
}

static void an_impossible_budget_is_told_in_words(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_units();
    struct mb_budget nearest;
    /* One limit: the least of that quantity. */
    expect_infeasible(problem, limits(0, 0, 0, 8e6), &nearest,
                      "no mix fits 8 MB: the smallest is 9 MB");
    assert_true(nearest.max[MB_QUANTITY_BYTES] == 9e6);
    assert_true(nearest.max[MB_QUANTITY_DECODE] == 0);
    expect_infeasible(problem, limits(0, 5e6, 0, 0), &nearest,
                      "no mix reaches 200 tok/s decode: the fastest is 142.8 tok/s decode");
    assert_true(fabs(nearest.max[MB_QUANTITY_DECODE] / 7e6 - 1) < 1e-9);
    /* Each can be met alone: all q4_0 has the bytes, but not the loss; 9 / 12 of the way up. */
    expect_infeasible(problem, limits(0.05, 0, 0, 9e6), &nearest,
                      "no mix meets 9 MB and KL 0.05 together, though each can be met alone");
    assert_true(fabs(nearest.max[MB_QUANTITY_BYTES] / 9e6 - 17.0 / 9) < 1e-3);
    assert_true(fabs(nearest.max[MB_QUANTITY_LOSS] / 0.05 - 17.0 / 9) < 1e-3);
    /* One is impossible alone: it is named, and the proportion kept for both. */
    expect_infeasible(
        problem, limits(0, 6e6, 0, 8e6), &nearest,
        "no mix fits 8 MB: the smallest is 9 MB; no mix reaches 166.667 tok/s decode: "
        "the fastest is 142.8 tok/s decode; the nearest budgets");
    assert_true(fabs(nearest.max[MB_QUANTITY_BYTES] / 8e6 - 7.0 / 6) < 1e-3);
    mb_problem_free(problem);
}

static void arguments_out_of_range_are_refused(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_units();
    struct mb_solution solution;
    struct mb_error error;
    const double wrong[] = {NAN, INFINITY, -1};
    for (size_t i = 0; i < 3; i++)
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            double *value = quantity_of(&problem->units[1].candidates[1], q);
            const double kept = *value;
            *value = wrong[i];
            assert_int_equal(
                mb_solve(problem, MB_QUANTITY_LOSS, NULL, 0, 0, &solution, NULL, &error),
                MB_ERR_ARGUMENT);
            assert_non_null(strstr(error.message, "blk.1.ffn_up.weight"));
            *value = kept;
        }
    struct mb_budget budget = limits(0, 0, 0, -5);
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    budget.max[MB_QUANTITY_BYTES] = NAN;
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_solve(problem, MB_QUANTITY_COUNT, NULL, 0, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, NULL, NAN, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    problem->units[0].candidate_count = 0;
    assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, NULL, 0, 0, &solution, NULL, &error),
                     MB_ERR_ARGUMENT);
    problem->units[0].candidate_count = 2;
    mb_problem_free(problem);
}

static void a_gap_is_proven_and_kept(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        uint64_t state = 0xa0761d6478bd642fu * seed;
        struct mb_problem *problem = problem_random(120, 10, FIGURES_LIKE_MODELS, &state);
        const struct mb_budget budget = limits(0, limit_between(problem, MB_QUANTITY_DECODE, 0.3),
                                               limit_between(problem, MB_QUANTITY_PREFILL, 0.3),
                                               limit_between(problem, MB_QUANTITY_BYTES, 0.3));
        struct mb_solution loose, again, hurried;
        assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0.01, 0, &loose, NULL, NULL),
                         MB_OK);
        assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0.01, 0, &again, NULL, NULL),
                         MB_OK);
        /* No time at all: a mix within the limits all the same, with an honest gap. */
        assert_int_equal(
            mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 1e-9, &hurried, NULL, NULL), MB_OK);
        const double cost = loose.total[MB_QUANTITY_LOSS];
        assert_true(loose.gap <= 0.01);
        assert_true(fabs(loose.gap - (cost - loose.bound) / cost) < 1e-12);
        assert_memory_equal(loose.choice, again.choice, 120 * sizeof *again.choice);
        assert_true(hurried.bound <= cost * (1 + 1e-12));
        assert_true(loose.bound <= hurried.total[MB_QUANTITY_LOSS] * (1 + 1e-12));
        for (int q = 1; q < MB_QUANTITY_COUNT; q++)
            assert_true(loose.total[q] <= budget.max[q] && hurried.total[q] <= budget.max[q]);
        mb_solution_free(&loose);
        mb_solution_free(&again);
        mb_solution_free(&hurried);
        mb_problem_free(problem);
    }
}

/* A budget taken from a mix's own totals of times (which no whole-number scale makes exact) is met
 * by that mix, whatever order its equals would sum in. */
static void totals_of_a_mix_are_a_budget_that_can_be_met(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t state = 0xe7037ed1a0b428dbu * seed;
        struct mb_problem *problem = problem_create(12, 4);
        size_t choice[12];
        for (size_t i = 0; i < 12; i++) {
            choice[i] = random_next(&state) % 4;
            for (size_t c = 0; c < 4; c++) /* every unit the same times, other losses */
                problem->units[i].candidates[c] =
                    (struct mb_candidate){MB_FORMAT_Q4_0,
                                          1,
                                          0.1 + 0.7 * (double)c,
                                          0.3 / (1 + (double)c),
                                          random_unit(&state) / (1 + (double)c),
                                          0,
                                          0};
        }
        struct mb_budget budget = {{0}};
        double total[MB_QUANTITY_COUNT];
        mb_problem_totals(problem, choice, total);
        budget.max[MB_QUANTITY_DECODE] = total[MB_QUANTITY_DECODE];
        struct mb_solution solution;
        assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &solution, NULL, NULL),
                         MB_OK);
        assert_true(solution.total[MB_QUANTITY_DECODE] <= budget.max[MB_QUANTITY_DECODE]);
        mb_solution_free(&solution);
        mb_problem_free(problem);
    }
}

/* ---- plan files ---- */

static struct mb_plan *make_plan(void)
{
    struct mb_problem *problem = two_units();
    const struct mb_budget budget = limits(0, 9.5e6, 0, 13e6);
    struct mb_solution solution;
    struct mb_plan *plan;
    problem->units[0].is_embedding = 1;
    problem->units[0].candidates[0].loss = 1.0 / 3;
    assert_int_equal(mb_solve(problem, MB_QUANTITY_BYTES, &budget, 0, 0, &solution, NULL, NULL),
                     MB_OK);
    assert_int_equal(mb_plan_from_solution(problem, &solution, &plan), MB_OK);
    assert_int_equal(plan->count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct mb_candidate *chosen = &problem->units[i].candidates[solution.choice[i]];
        assert_string_equal(plan->entries[i].name, problem->units[i].name);
        assert_int_equal(plan->entries[i].format, chosen->format);
        assert_true(plan->entries[i].bytes == chosen->bytes);
        assert_true(plan->entries[i].decode_ns == chosen->decode_ns);
        assert_true(plan->entries[i].prefill_ns == chosen->prefill_ns);
        assert_true(plan->entries[i].loss == chosen->loss);
    }
    assert_string_equal(plan->entries[0].kernel, ""); /* only looked up */
    assert_true(plan->entries[1].kernel[0] != '\0');
    assert_memory_equal(plan->total, solution.total, sizeof plan->total);
    assert_memory_equal(plan->fixed, problem->fixed, sizeof plan->fixed);
    strcpy(plan->model_hash, "0123456789abcdef0123456789abcdef");
    strcpy(plan->device_key, "xeon");
    strcpy(plan->objective, "weights memory=1,latency=2,accuracy=3");
    strcpy(plan->groups, "qkv blk.#.ffn_*");
    strcpy(plan->importance_hash, "89abcdef0123456789abcdef01234567");
    plan->budget = budget;
    plan->gap = 1.0 / 7;
    mb_solution_free(&solution);
    mb_problem_free(problem);
    return plan;
}

static void a_plan_comes_back_as_it_was(void **unused)
{
    (void)unused;
    struct mb_plan *plan = make_plan(), *read = NULL;
    char room[128];
    const char *path = scratch_path("plan.json", room);
    assert_int_equal(mb_plan_save(plan, path, NULL), MB_OK);
    assert_int_equal(mb_plan_load(path, &read, NULL), MB_OK);
    assert_string_equal(read->model_hash, plan->model_hash);
    assert_string_equal(read->device_key, plan->device_key);
    assert_string_equal(read->objective, plan->objective);
    assert_string_equal(read->groups, plan->groups);
    assert_string_equal(read->importance_hash, plan->importance_hash);
    assert_memory_equal(&read->budget, &plan->budget, sizeof plan->budget);
    assert_memory_equal(read->total, plan->total, sizeof plan->total);
    assert_memory_equal(read->fixed, plan->fixed, sizeof plan->fixed);
    assert_true(read->gap == plan->gap);
    assert_int_equal(read->count, plan->count);
    for (size_t i = 0; i < plan->count; i++) {
        assert_string_equal(read->entries[i].name, plan->entries[i].name);
        assert_string_equal(read->entries[i].kernel, plan->entries[i].kernel);
        assert_int_equal(read->entries[i].format, plan->entries[i].format);
        assert_true(read->entries[i].bytes == plan->entries[i].bytes);
        assert_true(read->entries[i].decode_ns == plan->entries[i].decode_ns);
        assert_true(read->entries[i].prefill_ns == plan->entries[i].prefill_ns);
        assert_true(read->entries[i].loss == plan->entries[i].loss);
    }
    /* Without groups the key is left out, as in files from before there were any. */
    char *text = text_read(path);
    assert_non_null(strstr(text, "\"groups\""));
    free(text);
    plan->groups[0] = plan->importance_hash[0] = '\0';
    assert_int_equal(mb_plan_save(plan, path, NULL), MB_OK);
    text = text_read(path);
    assert_null(strstr(text, "groups"));
    assert_null(strstr(text, "importance"));
    free(text);
    mb_plan_free(read);
    assert_int_equal(mb_plan_load(path, &read, NULL), MB_OK);
    assert_string_equal(read->groups, "");
    assert_string_equal(read->importance_hash, "");
    plan->entries[1].loss = NAN;
    assert_int_equal(mb_plan_save(plan, path, NULL), MB_ERR_ARGUMENT);
    mb_plan_free(read);
    assert_int_equal(mb_plan_load(path, &read, NULL), MB_OK); /* the old file is still there */
    mb_plan_free(read);
    mb_plan_free(plan);
    mb_plan_free(NULL);
    unlink(path);
}

static void refuse(const char *text, const char *from, const char *to, const char *said)
{
    struct mb_plan *read = (struct mb_plan *)&read;
    struct mb_error error = {.message = ""};
    char room[128];
    const char *path = scratch_path("changed.json", room);
    char *changed = text_replace(text, from, to);
    text_write(path, changed, strlen(changed));
    assert_int_equal(mb_plan_load(path, &read, &error), MB_ERR_FILE);
    assert_null(read);
    if (strstr(error.message, said) == NULL)
        fail_msg("expected '%s' in: %s", said, error.message);
    free(changed);
    unlink(path);
}

static void a_plan_with_anything_wrong_loads_nothing(void **unused)
{
    (void)unused;
    struct mb_plan *plan = make_plan(), *read;
    char room[128];
    const char *path = scratch_path("plan.json", room);
    assert_int_equal(mb_plan_save(plan, path, NULL), MB_OK);
    mb_plan_free(plan);
    char *text = text_read(path);
    refuse(text, "mixbit-plan", "mixbit-sensitivity", "mixbit-sensitivity");
    refuse(text, "\"version\": 1", "\"version\": 0", "version 0");
    refuse(text, "\"format\": \"q", "\"format\": \"x", "unknown format");
    refuse(text, "blk.1.ffn_up.weight", "blk.0.ffn_up.weight", "twice");
    refuse(text, "\"bytes\": 4000000.0", "\"bytes\": -4000000.0", "bytes");
    refuse(text, "\"bytes\": 4000000.0", "\"bytes\": \"4\"", "bytes");
    refuse(text, "\"total\"", "\"totals\"", "total");
    refuse(text, "\"gap\": 0", "\"gap\": -0", "gap");
    refuse(text, "\"model\": \"", "\"model\": \"0", "model");
    refuse(text, "\"tensors\"", "\"tensor\"", "tensors");
    refuse(text, "\"groups\": \"qkv blk.#.ffn_*\"", "\"groups\": 1", "groups");
    for (size_t bytes = 0; bytes + 2 < strlen(text); bytes += 5) {
        text_write(path, text, bytes);
        assert_int_equal(mb_plan_load(path, &read, NULL), MB_ERR_FILE);
        assert_null(read);
    }
    free(text);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_hold_to_the_last_byte),
        cmocka_unit_test(every_quantity_can_be_minimised),
        cmocka_unit_test(an_impossible_budget_is_told_in_words),
        cmocka_unit_test(arguments_out_of_range_are_refused),
        cmocka_unit_test(a_gap_is_proven_and_kept),
        cmocka_unit_test(totals_of_a_mix_are_a_budget_that_can_be_met),
        cmocka_unit_test(a_plan_comes_back_as_it_was),
        cmocka_unit_test(a_plan_with_anything_wrong_loads_nothing)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
