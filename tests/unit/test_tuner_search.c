/* SPDX-License-Identifier: Apache-2.0 */
/* The search: which candidates there are, and that wrong ones are caught; whole runs are in
 * test_tuner_run.c. No time that is measured here is ever compared with anything. */
#include "tests/guard.h"
#include "tuner/contest.h"
#include "tuner/peaks.h"
#include "tuner/profile.h"
#include "tuner/tuner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A profile that knows its limits already: measuring them is not what is tested. All 0, so that no
 * bound prunes anything and the entries are known in advance. */
static struct mb_profile *profile_for(size_t threads)
{
    struct mb_profile *profile;
    assert_int_equal(mb_profile_create(&profile), MB_OK);
    mb_profile_limits(profile)->threads = threads;
    return profile;
}

/* ---- candidates ---- */

static void every_format_has_candidates_that_the_dispatch_layer_would_run(void **state)
{
    (void)state;
    static const size_t ms[] = {1, 2, 5, 8, 9, 16, 17, 512};
    const struct mb_shape shape = {512, 512};
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    for (size_t f = 0; f < mb_format_count(); f++)
        for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
            const enum mb_format format = mb_format_at(f)->id;
            const size_t count =
                mb_space_candidates(format, mb_format_info(format)->activation, &shape, ms[i], NULL,
                                    MB_RESIDENCY_L3, candidates);
            assert_true(count > 0);
            for (size_t c = 0; c < count; c++) {
                const struct mb_kernel *kernel = candidates[c].kernel;
                assert_true(kernel->isa != MB_ISA_REFERENCE || count == 1);
                for (size_t d = 0; d < c; d++)
                    assert_ptr_not_equal(candidates[d].kernel, kernel);
                mb_select_set(format, &candidates[c].selection);
                assert_string_equal(mb_kernel_for(format, shape.n, shape.k, ms[i]), kernel->name);
                mb_select_set(format, NULL);
            }
        }
}

static size_t count_gemv(enum mb_format format, size_t m)
{
    const struct mb_shape shape = {512, 512};
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    const size_t count = mb_space_candidates(format, mb_format_info(format)->activation, &shape, m,
                                             NULL, MB_RESIDENCY_L3, candidates);
    size_t gemv = 0;
    for (size_t c = 0; c < count; c++)
        gemv += candidates[c].kernel->op == MB_OP_GEMV;
    return gemv;
}

/* Which of both is faster for many rows is the machine's to say; where decoding for every 8 rows
 * loses by far it isn't tried. */
static void gemv_is_tried_for_eight_times_the_rows_that_are_its_share_by_default(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_Q4_K, MB_FORMAT_F16};
    for (size_t f = 0; f < 2; f++) {
        const size_t usual = mb_select(formats[f])->crossover;
        assert_true(usual >= 16);
        assert_true(count_gemv(formats[f], usual + 1) > 0);
        assert_true(count_gemv(formats[f], 8 * usual) > 0);
        assert_int_equal(count_gemv(formats[f], 8 * usual + 1), 0);
    }
}

static void allowed_levels_bound_the_candidates(void **state)
{
    (void)state;
    const struct mb_shape shape = {512, 512};
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    struct mb_isa_info isa;
    for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++) {
        if (!isa.supported)
            continue;
        assert_int_equal(mb_isa_allow(isa.name, NULL), MB_OK);
        const size_t count = mb_space_candidates(MB_FORMAT_Q4_K, MB_ACTIVATION_I8G256, &shape, 512,
                                                 NULL, MB_RESIDENCY_L3, candidates);
        /* A level may leave formats to those it builds on: alone it has the reference there. */
        for (size_t c = 0; c < count; c++)
            assert_true(candidates[c].kernel->isa == i ||
                        candidates[c].kernel->isa == MB_ISA_REFERENCE);
        assert_int_equal(mb_isa_allow(NULL, NULL), MB_OK);
    }
}

/* Every variant is another way to run the same product, and the dispatch layer takes it. */
static void knobs_change_how_a_product_runs_and_not_its_bits(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_Q4_0, MB_FORMAT_Q4_K, MB_FORMAT_F16};
    static const size_t ms[] = {1, 3, 8, 40};
    const struct mb_shape shape = {500, 1536};
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    for (size_t f = 0; f < 3; f++) {
        struct mb_arena arena = {NULL, 0};
        struct mb_workload w;
        struct mb_error error;
        size_t seen[MB_KNOB_COUNT] = {0};
        assert_int_equal(
            mb_workload_create(&w, formats[f], shape.n, shape.k, 40, 0, threads, &arena, &error),
            MB_OK);
        float *expected = malloc(40 * shape.n * sizeof *expected);
        assert_non_null(expected);
        for (size_t i = 0; i < 4; i++) {
            struct mb_tune_candidate from[MB_CANDIDATES_MAX], variants[MB_CANDIDATES_MAX];
            const size_t count =
                mb_space_candidates(formats[f], mb_format_info(formats[f])->activation, &shape,
                                    ms[i], NULL, MB_RESIDENCY_L3, from);
            w.m = ms[i];
            mb_workload_run(&w, 1);
            memcpy(expected, w.y, ms[i] * shape.n * sizeof *expected);
            for (size_t c = 0; c < count; c++)
                for (unsigned knob = 0; knob < MB_KNOB_COUNT; knob++) {
                    const size_t others = mb_space_variants(&from[c], (enum mb_knob)knob,
                                                            formats[f], &shape, ms[i], 2, variants);
                    seen[knob] += others;
                    for (size_t v = 0; v < others; v++) {
                        size_t knobs[MB_KNOB_COUNT];
                        assert_int_not_equal(variants[v].knobs[knob], from[c].knobs[knob]);
                        mb_select_set(formats[f], &variants[v].selection);
                        mb_space_knobs(mb_select(formats[f]), from[c].kernel, ms[i], knobs);
                        assert_memory_equal(knobs, variants[v].knobs, sizeof knobs);
                        memset(w.y, 0xff, ms[i] * shape.n * sizeof *w.y);
                        mb_workload_run(&w, 1);
                        assert_int_equal(w.status, MB_OK);
                        assert_memory_equal(w.y, expected, ms[i] * shape.n * sizeof *expected);
                    }
                }
            mb_select_set(formats[f], NULL);
        }
        for (size_t knob = 0; knob < MB_KNOB_COUNT; knob++)
            assert_true(seen[knob] > 0 || knob == MB_KNOB_SPLIT); /* which only GPUs have */
        free(expected);
        mb_workload_free(&w);
        mb_arena_free(&arena);
    }
    mb_threads_destroy(threads);
}

static void knobs_that_make_no_difference_are_left_out(void **state)
{
    (void)state;
    const struct mb_shape small = {32, 256}, large = {4096, 4096};
    struct mb_tune_candidate from[MB_CANDIDATES_MAX], variants[MB_CANDIDATES_MAX];
    for (size_t i = 0; i < 2; i++) {
        const size_t count = mb_space_candidates(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, &small,
                                                 i == 0 ? 1 : 512, NULL, 0, from);
        for (size_t c = 0; c < count; c++) {
            if (i == 1 && from[c].kernel->op != MB_OP_GEMM)
                continue;
            /* One run of k; one thread takes all; gemm asks for nothing ahead. */
            for (unsigned knob = 0; knob < MB_KNOB_COUNT; knob++) {
                const size_t others =
                    mb_space_variants(&from[c], (enum mb_knob)knob, MB_FORMAT_Q4_0, &small,
                                      i == 0 ? 1 : 512, 1, variants);
                assert_int_equal(others > 0, knob == MB_KNOB_PREFETCH && i == 0);
            }
            assert_true(mb_space_variants(&from[c], MB_KNOB_STEP, MB_FORMAT_Q4_0, &large,
                                          i == 0 ? 1 : 512, 2, variants) > 0);
        }
    }
}

static void the_bound_is_the_slower_of_reading_and_multiplying(void **state)
{
    (void)state;
    struct mb_limits limits = {.threads = 1};
    const struct mb_kernel *kernel = mb_select(MB_FORMAT_Q8_0)->gemm.gemm;
    const struct mb_shape shape = {1000, 320};
    bool reads = false;
    limits.read_gbps[MB_RESIDENCY_MEMORY] = 10;
    limits.dot_gmacs[kernel->isa] = 1e6; /* 8-bit codes are bound by the exact chain */
    limits.dot_exact_gmacs[kernel->isa] = 100;
    /* 340000 bytes at 10 a nanosecond. */
    assert_true(fabs(mb_space_bound_ns(kernel, MB_FORMAT_Q8_0, &shape, 1, &limits,
                                       MB_RESIDENCY_MEMORY, &reads) -
                     34000) < 1e-6);
    assert_true(reads);
    /* 64 * 320000 products at 100 a nanosecond. */
    assert_true(fabs(mb_space_bound_ns(kernel, MB_FORMAT_Q8_0, &shape, 64, &limits,
                                       MB_RESIDENCY_MEMORY, &reads) -
                     204800) < 1e-6);
    assert_false(reads);
    assert_true(mb_space_bound_ns(kernel, MB_FORMAT_Q8_0, &shape, 64, &limits, MB_RESIDENCY_L2,
                                  &reads) == 204800);
}

static void a_revision_changes_with_every_body_and_not_with_the_mask(void **state)
{
    (void)state;
    const struct mb_kernel *gemm = mb_select(MB_FORMAT_Q4_K)->gemm.gemm;
    const unsigned revision = mb_space_revision(gemm, MB_FORMAT_Q4_K);
    struct mb_kernel newer = *gemm;
    newer.revision++;
    assert_int_equal(mb_space_revision(&newer, MB_FORMAT_Q4_K), revision + 1);
    assert_true(revision > gemm->revision); /* decode and prepare take part */
    assert_int_equal(mb_isa_allow("reference", NULL), MB_OK);
    assert_int_equal(mb_space_revision(gemm, MB_FORMAT_Q4_K), revision);
    assert_int_equal(mb_isa_allow(NULL, NULL), MB_OK);
}

/* ---- wrong kernels ---- */

/* The reference kernel, to be spoilt. */
static const struct mb_kernel *a_kernel(enum mb_op op)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (kernel->op == op && kernel->isa == MB_ISA_REFERENCE &&
            mb_space_fits(kernel, MB_FORMAT_Q4_0, op == MB_OP_GEMV ? 1 : 64))
            return kernel;
    return NULL;
}

static size_t wrong_row, wrong_column; /* where the next two kernels are wrong, once */

/* Right but for one output, which is off by its own size. */
static void gemv_wrong_once(const struct mb_gemv_args *args)
{
    a_kernel(MB_OP_GEMV)->fn.gemv(args);
    if (args->n > wrong_column)
        args->y[wrong_column] *= 2;
}

static void gemv_lazy(const struct mb_gemv_args *args) { (void)args; } /* writes nothing */

static void gemm_wrong_row(const struct mb_gemm_args *args)
{
    a_kernel(MB_OP_GEMM)->fn.gemm(args);
    if (args->m > wrong_row)
        args->y[wrong_row * args->y_stride] = 1e30f;
}

static void wrong_results_are_failures(void **state)
{
    (void)state;
    struct mb_arena arena = {NULL, 0};
    struct mb_workload workload;
    struct mb_error error;
    double rms;
    int failed;
    assert_int_equal(
        mb_workload_create(&workload, MB_FORMAT_Q4_0, 200, 128, 64, 0, NULL, &arena, &error),
        MB_OK);
    assert_int_equal(mb_workload_check(&workload, &rms, &failed), MB_OK);
    assert_false(failed);
    /* int8 activations cost some 0.4 %: neither nothing nor more than the bound. */
    assert_true(rms > 0.001 && rms <= mb_format_info(MB_FORMAT_Q4_0)->error_bound);

    struct mb_kernel gemm = *a_kernel(MB_OP_GEMM);
    struct mb_selection selection = *mb_select(MB_FORMAT_Q4_0);
    gemm.fn.gemm = gemm_wrong_row;
    selection.gemm.gemm = &gemm;
    selection.crossover = 16;
    for (wrong_row = 0; wrong_row < 64; wrong_row += 21) {
        mb_select_set(MB_FORMAT_Q4_0, &selection);
        assert_int_equal(mb_workload_check(&workload, &rms, &failed), MB_OK);
        assert_true(failed);
    }
    struct mb_kernel gemv = *a_kernel(MB_OP_GEMV);
    gemv.fn.gemv = gemv_wrong_once;
    selection.gemv[0] = &gemv;
    mb_select_set(MB_FORMAT_Q4_0, &selection);
    workload.m = 1;
    for (wrong_column = 0; wrong_column < 16; wrong_column += 5) {
        assert_int_equal(mb_workload_check(&workload, &rms, &failed), MB_OK);
        assert_true(failed);
    }
    gemv.fn.gemv = gemv_lazy;
    assert_int_equal(mb_workload_check(&workload, &rms, &failed), MB_OK);
    assert_true(failed);
    assert_true(isfinite(rms));
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_workload_free(&workload);
    mb_arena_free(&arena);
}

static void a_wrong_candidate_is_recorded_and_never_ranked(void **state)
{
    (void)state;
    struct mb_profile *profile = profile_for(1);
    struct mb_arena arena = {NULL, 0};
    struct mb_workload workload;
    struct mb_error error;
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    struct mb_contest contest = {.profile = profile,
                                 .format = MB_FORMAT_Q4_0,
                                 .shape = {48, 64},
                                 .m = 1,
                                 .threads = 1,
                                 .residency = MB_RESIDENCY_L2,
                                 .candidates = candidates,
                                 .budget_ns = 1};
    contest.count = mb_space_candidates(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, &contest.shape, 1,
                                        NULL, MB_RESIDENCY_L2, candidates);
    const size_t right = contest.count;
    struct mb_kernel wrong = *a_kernel(MB_OP_GEMV);
    wrong.name = "gemv_b4_g32_i8g32_1x16_wrong";
    wrong.fn.gemv = gemv_lazy; /* faster than any */
    candidates[contest.count] = candidates[0];
    candidates[contest.count].kernel = &wrong;
    candidates[contest.count].selection.gemv[0] = &wrong;
    contest.count++;
    assert_false(mb_contest_is_decided(&contest));
    assert_int_equal(
        mb_workload_create(&workload, MB_FORMAT_Q4_0, 48, 64, 1, 0, NULL, &arena, &error), MB_OK);
    assert_int_equal(mb_contest_run(&contest, &workload), MB_OK);
    assert_int_equal(contest.count, right);
    assert_int_equal(mb_profile_count(profile), right + 1);
    size_t failures = 0;
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        const struct mb_cost *cost = mb_profile_at(profile, i);
        failures += cost->failed != 0;
        assert_int_equal(cost->failed != 0, strcmp(cost->kernel, wrong.name) == 0);
        assert_true(cost->failed ? cost->median_ns == 0 : cost->median_ns > 0);
        assert_true(cost->failed ? cost->error > 0.5 : cost->error < 0.009);
    }
    assert_int_equal(failures, 1);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_workload_free(&workload);
    mb_arena_free(&arena);
    mb_profile_free(profile);
}

static void set_times(struct mb_profile *profile, double ns)
{
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        struct mb_cost cost = *mb_profile_at(profile, i);
        cost.median_ns = cost.min_ns = ns;
        cost.prepare_ns = 0;
        assert_int_equal(mb_profile_put(profile, &cost), MB_OK);
    }
}

static void a_revisit_keeps_the_better_figure_of_the_leaders(void **state)
{
    (void)state;
    struct mb_profile *profile = profile_for(1);
    struct mb_arena arena = {NULL, 0};
    struct mb_workload workload;
    struct mb_error error;
    struct mb_tune_candidate candidates[MB_CANDIDATES_MAX];
    struct mb_contest contest = {.profile = profile,
                                 .format = MB_FORMAT_Q4_0,
                                 .shape = {48, 64},
                                 .m = 1,
                                 .threads = 1,
                                 .residency = MB_RESIDENCY_L2,
                                 .candidates = candidates,
                                 .budget_ns = 1};
    assert_int_equal(
        mb_workload_create(&workload, MB_FORMAT_Q4_0, 48, 64, 1, 0, NULL, &arena, &error), MB_OK);
    for (size_t round = 0; round < 4; round++) {
        contest.revisit = round > 0;
        contest.count = mb_space_candidates(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, &contest.shape, 1,
                                            NULL, MB_RESIDENCY_L2, candidates);
        const size_t count = contest.count;
        assert_int_equal(mb_contest_run(&contest, &workload), MB_OK);
        assert_int_equal(mb_profile_count(profile), count);
        for (size_t i = 0; i < count; i++) {
            const double ns = mb_profile_at(profile, i)->median_ns;
            if (round == 1) /* slower before: all are replaced */
                assert_true(ns < 1e14);
            else if (round == 2) /* faster before: all stay */
                assert_true(ns == 1e-3);
            else if (round ==
                     3) /* the first leads, the last was fast once: no other is timed again */
                assert_true(i == 0 || i + 1 == count ? ns < 1e13 : ns == 1e14);
        }
        set_times(profile, round == 1 ? 1e-3 : 1e14);
        if (round == 2) {
            struct mb_cost leader = *mb_profile_at(profile, 0);
            leader.median_ns = leader.min_ns = 1e13;
            assert_int_equal(mb_profile_put(profile, &leader), MB_OK);
            struct mb_cost once = *mb_profile_at(profile, count - 1);
            once.min_ns = 1e13;
            assert_int_equal(mb_profile_put(profile, &once), MB_OK);
        }
    }
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_workload_free(&workload);
    mb_arena_free(&arena);
    mb_profile_free(profile);
}

static void copies_are_walked_through_in_turn(void **state)
{
    (void)state;
    struct mb_arena arena = {NULL, 0};
    struct mb_workload w;
    struct mb_error error;
    double rms;
    int failed;
    size_t packed;
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 64, 64, &packed), MB_OK);
    assert_int_equal(
        mb_workload_create(&w, MB_FORMAT_Q4_0, 64, 64, 1, 3 * packed + 100, NULL, &arena, &error),
        MB_OK);
    assert_int_equal(w.copies, 3);
    mb_workload_run(&w, 4);
    assert_int_equal(w.cursor, 1);
    /* All copies hold the same weights: a product on each of them is right. */
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(mb_workload_check(&w, &rms, &failed), MB_OK);
        assert_false(failed);
    }
    /* A damaged copy is met when its turn comes. */
    memset((uint8_t *)w.weights.data + 2 * w.copy_bytes, 0x55, packed);
    size_t failures = 0;
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(mb_workload_check(&w, &rms, &failed), MB_OK);
        failures += failed != 0;
    }
    assert_int_equal(failures, 2);
    mb_workload_free(&w);
    assert_int_equal(mb_workload_create(&w, MB_FORMAT_Q4_K, 64, 64, 1, 0, NULL, &arena, &error),
                     MB_ERR_SHAPE);
    mb_arena_free(&arena);
}

static void working_sets_are_at_home_in_their_residency(void **state)
{
    (void)state;
    const size_t mi = 1 << 20;
    struct mb_device_info device = {
        .l2_bytes = mi, .l3_bytes = 32 * mi, .memory_bytes = 24 * 1024 * mi};
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_L2, 2), mi);
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_L3, 2), 8 * mi);
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_L3, 8), 16 * mi);
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_MEMORY, 2), 1024 * mi);
    device.l3_bytes = 320 * mi;
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_MEMORY, 2), 1280 * mi);
    device.memory_bytes = 2048 * mi;
    assert_int_equal(mb_working_set_bytes(&device, MB_RESIDENCY_MEMORY, 2), 512 * mi);
}

/* ---- one row of bench ---- */

static void a_bench_row_is_consistent(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_bench_row row;
    struct mb_bench_case bench = {
        .format = MB_FORMAT_Q4_K, .n = 96, .k = 256, .m = 3, .residency = MB_RESIDENCY_L2};
    assert_int_equal(mb_bench_run(&bench, NULL, NULL, 1e-9, &row, &error), MB_OK);
    assert_string_equal(row.kernel, mb_kernel_for(MB_FORMAT_Q4_K, 96, 256, 3));
    assert_true(row.n == 96 && row.k == 256 && row.m == 3 && row.threads == 1);
    assert_int_equal(row.activation, MB_ACTIVATION_I8G256);
    assert_true(fabs(row.gmacs * row.median_ns / (96.0 * 256 * 3) - 1) < 1e-9);
    assert_true(fabs(row.weight_gbps * row.median_ns / (96 * 144.0) - 1) < 1e-9);
    assert_true(row.error > 0 && row.error < 0.012 && !row.failed && row.fraction == 0);

    /* Limits that nothing can reach: reading was timed beside the row and stands in for them. */
    struct mb_limits limits = {.threads = 1};
    for (size_t i = 0; i < MB_MAX_ISA; i++)
        limits.dot_gmacs[i] = limits.dot_exact_gmacs[i] = limits.fma_gmacs[i] = 1e9;
    limits.read_gbps[MB_RESIDENCY_L2] = 1e5;
    assert_int_equal(mb_bench_run(&bench, NULL, &limits, 1e-9, &row, &error), MB_OK);
    assert_int_equal(row.limit, MB_LIMIT_READ);
    assert_true(row.fraction * row.median_ns > 96 * 144 / 1e5 && row.fraction <= 1.02);

    bench.n = (size_t)1 << 24;
    assert_int_equal(mb_bench_run(&bench, NULL, NULL, 1e-9, &row, &error), MB_ERR_SHAPE);
    bench.n = 96;
    bench.k = 100;
    assert_int_equal(mb_bench_run(&bench, NULL, NULL, 1e-9, &row, &error), MB_ERR_SHAPE);
    bench.format = (enum mb_format)9999;
    assert_int_equal(mb_bench_run(&bench, NULL, NULL, 1e-9, &row, &error), MB_ERR_ARGUMENT);
}

static void a_bench_of_a_wrong_kernel_fails(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_bench_row row;
    const struct mb_bench_case bench = {
        .format = MB_FORMAT_Q4_0, .n = 96, .k = 256, .m = 1, .residency = MB_RESIDENCY_L2};
    struct mb_selection selection = *mb_select(MB_FORMAT_Q4_0);
    struct mb_kernel lazy = *a_kernel(MB_OP_GEMV);
    lazy.fn.gemv = gemv_lazy;
    selection.gemv[0] = &lazy;
    mb_select_set(MB_FORMAT_Q4_0, &selection);
    assert_int_equal(mb_bench_run(&bench, NULL, NULL, 1e-9, &row, &error), MB_ERR_VERIFY);
    assert_true(row.failed);
    assert_non_null(strstr(error.message, "wrong results"));
    mb_select_set(MB_FORMAT_Q4_0, NULL);
}

/* ---- probes ---- */

static void every_supported_level_has_its_peak_loops(void **state)
{
    (void)state;
    for (size_t isa = 0; isa < MB_ISA_COUNT; isa++) {
        size_t loops[MB_PEAK_KINDS] = {0};
        const struct mb_peak *peak;
        if (!mb_isa_is_supported((enum mb_isa)isa))
            continue;
        for (size_t i = 0; (peak = mb_peak_at(i)) != NULL; i++) {
            if (peak->isa != isa)
                continue;
            assert_true(peak->macs > 0);
            peak->run(3);
            loops[peak->kind]++;
        }
        for (size_t kind = 0; kind < MB_PEAK_KINDS; kind++)
            assert_true(loops[kind] > 0);
    }
}

/* Bytes before the buffer's end are all there is: the next one is a fault. */
static void read_loops_stay_in_their_buffer(void **state)
{
    (void)state;
    const size_t bytes = 8192;
    struct guard guard = guard_create(bytes);
    for (size_t isa = 0; isa < MB_ISA_COUNT; isa++)
        if (mb_isa_is_supported((enum mb_isa)isa))
            for (size_t streams = 1; streams <= 4; streams *= 2)
                for (size_t ahead = 0; ahead <= 4096; ahead += 1024)
                    mb_read_loop((enum mb_isa)isa)(guard.end - bytes, bytes, streams, ahead);
    guard_destroy(&guard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_has_candidates_that_the_dispatch_layer_would_run),
        cmocka_unit_test(gemv_is_tried_for_eight_times_the_rows_that_are_its_share_by_default),
        cmocka_unit_test(allowed_levels_bound_the_candidates),
        cmocka_unit_test(knobs_change_how_a_product_runs_and_not_its_bits),
        cmocka_unit_test(knobs_that_make_no_difference_are_left_out),
        cmocka_unit_test(the_bound_is_the_slower_of_reading_and_multiplying),
        cmocka_unit_test(a_revision_changes_with_every_body_and_not_with_the_mask),
        cmocka_unit_test(wrong_results_are_failures),
        cmocka_unit_test(a_wrong_candidate_is_recorded_and_never_ranked),
        cmocka_unit_test(a_revisit_keeps_the_better_figure_of_the_leaders),
        cmocka_unit_test(copies_are_walked_through_in_turn),
        cmocka_unit_test(working_sets_are_at_home_in_their_residency),
        cmocka_unit_test(a_bench_row_is_consistent),
        cmocka_unit_test(a_bench_of_a_wrong_kernel_fails),
        cmocka_unit_test(every_supported_level_has_its_peak_loops),
        cmocka_unit_test(read_loops_stay_in_their_buffer),
    };
    return cmocka_run_group_tests_name("tuner search", tests, NULL, NULL);
}
