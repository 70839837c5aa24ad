/* SPDX-License-Identifier: Apache-2.0 */
/* Equality groups by hand (fall-backs of different row lengths, what members lack), KL Lens's
 * allocators by hand and beside the exact solver, and what runtimes can do. That merging is exact
 * is test_solver_oracle_groups.c's. */
#include "solver_random.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

/* Rows of 576 (no multiple of 256), of 1536, and a unit alone. */
static struct mb_problem *two_lengths(void)
{
    struct mb_problem *problem = problem_create(3, 3);
    const struct mb_candidate narrow[] = {{MB_FORMAT_Q5_0, 55, 5, 5, 0.5, 0.4, 0.6},
                                          {MB_FORMAT_Q8_0, 85, 8, 8, 0.1, 0, 0.2},
                                          {MB_FORMAT_F16, 160, 16, 16, 0, 0, 0}};
    const struct mb_candidate wide[] = {{MB_FORMAT_Q4_K, 45, 4, 4, 0.7, 0.6, 0.8},
                                        {MB_FORMAT_Q6_K, 66, 6, 6, 0.2, 0.1, 0.3},
                                        {MB_FORMAT_F16, 160, 16, 16, 0, 0, 0}};
    problem->units[0].k = 576;
    problem->units[1].k = 1536;
    problem->units[2].k = 1536;
    strcpy(problem->units[0].name, "blk.0.attn_q.weight");
    strcpy(problem->units[1].name, "blk.0.ffn_down.weight");
    memcpy(problem->units[0].candidates, narrow, sizeof narrow);
    memcpy(problem->units[1].candidates, wide, sizeof wide);
    memcpy(problem->units[2].candidates, wide, sizeof wide);
    return problem;
}

static void members_fall_back_each_at_its_own_row_length(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_lengths();
    const size_t group[] = {7, 7, 2};
    struct mb_grouping grouping;
    problem->fixed[MB_QUANTITY_BYTES] = 11;
    assert_int_equal(mb_group_units(problem, group, &grouping, NULL), MB_OK);
    const struct mb_problem *merged = grouping.problem;
    assert_int_equal(merged->unit_count, 2);
    assert_true(merged->fixed[MB_QUANTITY_BYTES] == 11);
    /* q4_K is q5_0 in rows of 576, q6_K is q8_0; q5_0 and q8_0 themselves the wide rows don't have.
     */
    const struct mb_unit *unit = &merged->units[0];
    assert_string_equal(unit->name, "blk.0.attn_q.weight");
    assert_int_equal(unit->candidate_count, 3);
    const struct {
        enum mb_format format;
        double bytes, loss, low, high;
    } expected[] = {{MB_FORMAT_F16, 320, 0, 0, 0},
                    {MB_FORMAT_Q4_K, 100, 1.2, 1.0, 1.4},
                    {MB_FORMAT_Q6_K, 151, 0.3, 0.1, 0.5}};
    for (size_t e = 0; e < 3; e++) {
        const struct mb_candidate *found = NULL;
        for (size_t c = 0; c < 3; c++)
            if (unit->candidates[c].format == expected[e].format)
                found = &unit->candidates[c];
        assert_non_null(found);
        assert_true(found->bytes == expected[e].bytes);
        assert_true(fabs(found->loss - expected[e].loss) < 1e-12);
        assert_true(fabs(found->loss_low - expected[e].low) < 1e-12);
        assert_true(fabs(found->loss_high - expected[e].high) < 1e-12);
    }
    for (size_t c = 0; c < 3; c++) {
        size_t merged_choice[] = {c, 1}, choice[3], back[2];
        mb_grouping_expand(problem, &grouping, merged_choice, choice);
        assert_int_equal(problem->units[0].candidates[choice[0]].format,
                         mb_format_fit(unit->candidates[c].format, 576));
        assert_int_equal(problem->units[1].candidates[choice[1]].format,
                         mb_format_fit(unit->candidates[c].format, 1536));
        assert_int_equal(choice[2], 1);
        assert_true(mb_grouping_merge(problem, &grouping, choice, back));
        assert_memory_equal(back, merged_choice, sizeof back);
    }
    /* q5_0 beside q6_K is no format of the group's. */
    const size_t apart[] = {0, 1, 0};
    size_t back[2];
    assert_false(mb_grouping_merge(problem, &grouping, apart, back));
    mb_grouping_free(&grouping);
    mb_problem_free(problem);
}

static void a_group_without_a_common_format_is_named(void **unused)
{
    (void)unused;
    struct mb_problem *problem = two_lengths();
    const size_t group[] = {0, 0, 1};
    struct mb_grouping grouping;
    struct mb_error error;
    problem->units[0].candidate_count = 1; /* q5_0, as a pin leaves it */
    problem->units[1].candidates++;        /* q6_K and f16 */
    problem->units[1].candidate_count = 2;
    assert_int_equal(mb_group_units(problem, group, &grouping, &error), MB_ERR_ARGUMENT);
    assert_null(grouping.problem);
    assert_non_null(strstr(error.message, "blk.0.attn_q.weight and blk.0.ffn_down.weight"));
    problem->units[1].candidates--;
    mb_problem_free(problem);
}

/* ---- KL Lens's allocators ---- */

/* By ascending loss: u1 q8 .01, u0 q8 .02, u1 q4 .05, u2 q8 .1, u0 q4 .3, u2 q4 .9. */
static struct mb_problem *three_units(void)
{
    struct mb_problem *problem = problem_create(3, 3);
    const double eight[] = {0.02, 0.01, 0.1}, four[] = {0.3, 0.05, 0.9};
    for (size_t u = 0; u < 3; u++) {
        const struct mb_candidate candidates[] = {{MB_FORMAT_F16, 160, 16, 16, 0, 0, 0},
                                                  {MB_FORMAT_Q8_0, 85, 8, 8, eight[u], 0, 0},
                                                  {MB_FORMAT_Q4_0, 45, 4, 4, four[u], 0, 0}};
        memcpy(problem->units[u].candidates, candidates, sizeof candidates);
    }
    return problem;
}

static void expect_mix(const struct mb_kl_lens_options *options, size_t a, size_t b, size_t c)
{
    struct mb_problem *problem = three_units();
    struct mb_solution solution;
    assert_int_equal(mb_solve_kl_lens(problem, options, &solution, NULL), MB_OK);
    assert_int_equal(solution.choice[0], a);
    assert_int_equal(solution.choice[1], b);
    assert_int_equal(solution.choice[2], c);
    assert_true(solution.bound == 0);
    assert_true(solution.objective == solution.total[MB_QUANTITY_LOSS]);
    mb_solution_free(&solution);
    mb_problem_free(problem);
}

static void cuts_take_what_is_before_them(void **unused)
{
    (void)unused;
    struct mb_kl_lens_options options = {.kind = MB_KL_LENS_B, .cuts = 5};
    /* Six entries, segments of (6 - 1) / 5 = 1; the last entry is in none. */
    static const size_t expected[][3] = {{0, 1, 0}, {1, 1, 0}, {1, 2, 0}, {1, 2, 1}, {2, 2, 1}};
    for (size_t cut = 1; cut <= 5; cut++) {
        options.cut = cut;
        expect_mix(&options, expected[cut - 1][0], expected[cut - 1][1], expected[cut - 1][2]);
    }
    options.cut = 0;
    options.max_bytes = 300; /* cut 3: 85 + 45 + 160 */
    expect_mix(&options, 1, 2, 0);
    /* Two segments of 2: entries 0 to 1, and 0 to 3. */
    options = (struct mb_kl_lens_options){.kind = MB_KL_LENS_B, .cuts = 2, .cut = 2};
    expect_mix(&options, 1, 2, 1);
}

static void the_guard_compounds_or_stays(void **unused)
{
    (void)unused;
    /* Each step against the mix before it: ln 1.1 = 0.0953 lets all but the last two pass. */
    struct mb_kl_lens_options options = {.kind = MB_KL_LENS_A};
    expect_mix(&options, 1, 2, 0);
    /* 0.1 passes 1.2, and so does 0.28 = 0.3 - 0.02 pass 1.33 (0.285). */
    options.gamma = 1.33;
    expect_mix(&options, 2, 2, 1);
    /* Against the start all together may reach 0.285: .02 + .05 + .1; not .3 as well. */
    options.fixed_reference = 1;
    expect_mix(&options, 1, 2, 1);
    /* It stops as soon as it fits. */
    options = (struct mb_kl_lens_options){.kind = MB_KL_LENS_A, .gamma = 100, .max_bytes = 405};
    expect_mix(&options, 0, 1, 0);
}

static void an_allocator_that_does_not_get_there_says_so(void **unused)
{
    (void)unused;
    struct mb_problem *problem = three_units();
    struct mb_solution solution;
    struct mb_error error;
    struct mb_kl_lens_options options = {.kind = MB_KL_LENS_A, .max_bytes = 200e6};
    for (size_t u = 0; u < 3; u++)
        for (size_t c = 0; c < 3; c++)
            problem->units[u].candidates[c].bytes *= 1e6;
    assert_int_equal(mb_solve_kl_lens(problem, &options, &solution, &error), MB_ERR_INFEASIBLE);
    assert_non_null(strstr(error.message, "ends at 290 MB"));
    assert_null(solution.choice);
    options = (struct mb_kl_lens_options){.kind = MB_KL_LENS_B, .cut = 11};
    assert_int_equal(mb_solve_kl_lens(problem, &options, &solution, &error), MB_ERR_ARGUMENT);
    options = (struct mb_kl_lens_options){.kind = MB_KL_LENS_A, .gamma = NAN};
    assert_int_equal(mb_solve_kl_lens(problem, &options, &solution, &error), MB_ERR_ARGUMENT);
    options.gamma = 0.5;
    assert_int_equal(mb_solve_kl_lens(problem, &options, &solution, &error), MB_ERR_ARGUMENT);
    mb_problem_free(problem);
}

/* At the bytes that a cut comes to, the exact solver loses no more; often less. */
static void the_exact_solver_is_never_behind(void **unused)
{
    (void)unused;
    int better = 0, points = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        uint64_t state = 0x8ebc6af09c88c6e3u * seed;
        struct mb_problem *problem = problem_random(30, 6, FIGURES_LIKE_MODELS, &state);
        for (size_t cut = 1; cut <= 10; cut++) {
            const struct mb_kl_lens_options options = {.kind = MB_KL_LENS_B, .cut = cut};
            struct mb_solution greedy, exact;
            assert_int_equal(mb_solve_kl_lens(problem, &options, &greedy, NULL), MB_OK);
            const struct mb_budget budget = {
                {[MB_QUANTITY_BYTES] = greedy.total[MB_QUANTITY_BYTES]}};
            assert_int_equal(mb_solve(problem, MB_QUANTITY_LOSS, &budget, 0, 0, &exact, NULL, NULL),
                             MB_OK);
            assert_true(exact.total[MB_QUANTITY_LOSS] <=
                        greedy.total[MB_QUANTITY_LOSS] * (1 + 1e-12));
            better += exact.total[MB_QUANTITY_LOSS] < 0.9 * greedy.total[MB_QUANTITY_LOSS];
            points++;
            mb_solution_free(&greedy);
            mb_solution_free(&exact);
        }
        mb_problem_free(problem);
    }
    assert_true(better >= points / 4);
}

/* ---- runtimes ---- */

static void runtimes_load_convert_and_refuse(void **unused)
{
    (void)unused;
    for (size_t f = 0; f < mb_format_count(); f++)
        assert_true(mb_runtime_loads(MB_RUNTIME_LLAMA_CPP, mb_format_at(f)->id));
    assert_false(mb_runtime_loads(MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_TQ2_0));
    assert_true(mb_runtime_loads(MB_RUNTIME_IK_LLAMA_CPP, MB_FORMAT_IQ4_XS));
    assert_false(mb_runtime_loads(MB_RUNTIME_LLAMA_CPP, MB_FORMAT_NONE));
    static const struct {
        enum mb_runtime runtime;
        const char *tensor;
        enum mb_format format;
        int needs;
    } cases[] = {
        {MB_RUNTIME_LLAMA_CPP, "blk.0.ffn_up.weight", MB_FORMAT_IQ2_XXS, 1},
        {MB_RUNTIME_LLAMA_CPP, "blk.0.ffn_up.weight", MB_FORMAT_IQ3_XXS, 1},
        {MB_RUNTIME_LLAMA_CPP, "output.weight", MB_FORMAT_IQ2_XXS, 1},
        {MB_RUNTIME_LLAMA_CPP, "output.weight", MB_FORMAT_IQ3_XXS, 0},
        {MB_RUNTIME_LLAMA_CPP, "token_embd.weight", MB_FORMAT_IQ2_S, 0},
        {MB_RUNTIME_LLAMA_CPP, "blk.0.ffn_up.weight", MB_FORMAT_IQ3_S, 0},
        {MB_RUNTIME_LLAMA_CPP, "blk.0.ffn_up.weight", MB_FORMAT_Q2_K, 0},
        {MB_RUNTIME_IK_LLAMA_CPP, "blk.0.ffn_up.weight", MB_FORMAT_IQ3_XXS, 0},
        {MB_RUNTIME_IK_LLAMA_CPP, "token_embd.weight", MB_FORMAT_IQ2_S, 1},
        {MB_RUNTIME_IK_LLAMA_CPP, "token_embd.weight", MB_FORMAT_IQ1_M, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(
            mb_runtime_needs_importance(cases[i].runtime, cases[i].tensor, cases[i].format),
            cases[i].needs);
    assert_true(mb_runtime_converts(MB_RUNTIME_LLAMA_CPP, "blk.0.ssm_in.weight"));
    assert_false(mb_runtime_converts(MB_RUNTIME_LLAMA_CPP, "blk.0.ssm_conv1d.weight"));
    assert_false(mb_runtime_converts(MB_RUNTIME_LLAMA_CPP, "blk.0.ffn_gate_inp.weight"));
    assert_false(mb_runtime_converts(MB_RUNTIME_IK_LLAMA_CPP, "blk.0.ssm_a"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_fall_back_each_at_its_own_row_length),
        cmocka_unit_test(a_group_without_a_common_format_is_named),
        cmocka_unit_test(cuts_take_what_is_before_them),
        cmocka_unit_test(the_guard_compounds_or_stays),
        cmocka_unit_test(an_allocator_that_does_not_get_there_says_so),
        cmocka_unit_test(the_exact_solver_is_never_behind),
        cmocka_unit_test(runtimes_load_convert_and_refuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
