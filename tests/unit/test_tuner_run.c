/* SPDX-License-Identifier: Apache-2.0 */
/* Whole runs of the tuner: they leave a time for every product, can stop and go on, and refuse what
 * they can't do. No time that is measured here is ever compared with anything nearer than a million
 * times as much. */
#include "tests/guard.h"
#include "tuner/drift.h"
#include "tuner/profile.h"
#include "tuner/tuner.h"
#include "tuner/workload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
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

struct stopper {
    size_t reports, stop_at;
    double done, total;
};

static int stop_after(void *user, double done, double total, const char *note)
{
    struct stopper *stopper = user;
    assert_non_null(note);
    if (!(done >= stopper->done && done <= total))
        fail_msg("'%s': %g of %g after %g", note, done, total, stopper->done);
    stopper->done = done;
    stopper->total = total;
    return ++stopper->reports == stopper->stop_at;
}

static const enum mb_format two_formats[] = {MB_FORMAT_Q4_0, MB_FORMAT_F16};
static const struct mb_shape two_shapes[] = {{48, 64}, {32, 96}, {48, 64}};
static const size_t two_ms[] = {1, 3};

static struct mb_tune_options small_options(void)
{
    return (struct mb_tune_options){.size = sizeof(struct mb_tune_options),
                                    .shapes = two_shapes,
                                    .shape_count = 3,
                                    .formats = two_formats,
                                    .format_count = 2,
                                    .ms = two_ms,
                                    .m_count = 2};
}

/* A sound time for all that small_options() asks for. */
static void expect_every_product(const struct mb_profile *profile)
{
    const enum mb_residency residency = mb_residency_of(mb_profile_device(profile), 100, 1);
    for (size_t s = 0; s < 2; s++)
        for (size_t f = 0; f < 2; f++)
            for (size_t i = 0; i < 2; i++) {
                struct mb_cost cost;
                assert_int_equal(mb_profile_cost(profile, two_formats[f], two_shapes[s].n,
                                                 two_shapes[s].k, two_ms[i], 1, residency, &cost),
                                 MB_COST_EXACT);
                assert_true(cost.error <= mb_format_info(two_formats[f])->error_bound);
                assert_true(cost.prepare_ns <= cost.median_ns);
            }
}

static void a_run_leaves_an_entry_for_every_point_and_goes_on_where_it_stopped(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    struct stopper stopper = {.stop_at = 4};
    const struct mb_progress progress = {stop_after, &stopper};
    options.progress = &progress;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_INTERRUPTED);
    const size_t first = mb_profile_count(profile);
    assert_true(first > 0);
    const struct mb_cost kept = *mb_profile_at(profile, 0); /* done: not measured again */

    stopper = (struct stopper){0};
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_true(stopper.done == stopper.total && stopper.total >= 8);
    assert_true(mb_profile_count(profile) > first);
    assert_memory_equal(&kept, mb_profile_at(profile, 0), sizeof kept);
    expect_every_product(profile);
    const size_t whole = mb_profile_count(profile);
    stopper = (struct stopper){0};
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), whole);
    assert_memory_equal(&kept, mb_profile_at(profile, 0), sizeof kept);
    mb_profile_free(profile);
}

/* Codebook matrices: one kernel, so one entry a point, on shapes that no block size divides too. */
static void codebook_matrices_get_a_time_and_keep_it(void **state)
{
    (void)state;
    static const struct mb_shape shapes[] = {{48, 70}, {33, 257}};
    static const enum mb_format formats[] = {MB_FORMAT_CB2, MB_FORMAT_CB3_25, MB_FORMAT_CB4};
    static const size_t ms[] = {1, 40};
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    options.shapes = shapes;
    options.shape_count = 2;
    options.formats = formats;
    options.format_count = 3;
    options.ms = ms;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
        assert_int_equal(mb_profile_count(profile), 2 * 3 * 2);
    }
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        const struct mb_cost *cost = mb_profile_at(profile, i);
        assert_string_equal(cost->kernel, mb_kernel_for(cost->format, cost->n, cost->k, cost->m));
        assert_true(!cost->failed && mb_cost_is_current(cost) && cost->median_ns > 0);
        assert_true(cost->error > 0 && cost->error <= mb_format_info(cost->format)->error_bound);
        assert_true(cost->prepare_ns == 0); /* what q prepares is of no use to k */
    }
    mb_profile_apply(profile);
    mb_profile_free(profile);
}

/* What a product is timed beside reads the very bytes that it multiplies by, of either kind. */
static void weights_of_a_workload_are_where_its_products_read_them(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_Q4_0, MB_FORMAT_CB2_5};
    for (size_t i = 0; i < 2; i++) {
        struct mb_workload workload;
        struct mb_arena arena = {NULL, 0};
        struct mb_error error;
        double off;
        int failed;
        assert_int_equal(
            mb_workload_create(&workload, formats[i], 40, 96, 3, 1 << 18, NULL, &arena, &error),
            MB_OK);
        assert_true(workload.copies > 1 && workload.weights.data == arena.data);
        assert_int_equal(workload.weights.format, formats[i]);
        if (mb_format_is_codebook(formats[i]))
            assert_ptr_equal(workload.books.data, arena.data);
        for (size_t copy = 0; copy < workload.copies; copy++) {
            assert_int_equal(mb_workload_check(&workload, &off, &failed), MB_OK);
            assert_false(failed);
        }
        memset(arena.data, 0, workload.copy_bytes); /* the first copy alone */
        workload.cursor = 0;
        (void)mb_workload_check(&workload, &off, &failed);
        assert_true(failed);
        mb_workload_free(&workload);
        mb_arena_free(&arena);
    }
}

/* A time limit leaves the search out, never a product without a time. */
static void a_run_that_is_out_of_time_leaves_one_figure_for_every_product(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    options.time_limit_s = 1e-9;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), 2 * 2 * 2); /* shapes, formats, m */
    expect_every_product(profile);
    /* With time, the search goes on from there. */
    options.time_limit_s = 0;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_true(mb_profile_count(profile) > 2 * 2 * 2);
    mb_profile_free(profile);
}

/* With the tuner's own m: knobs and crossover at one shape, and a second run finds all decided. */
static void a_default_run_searches_knobs_and_places_the_crossover(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    static const struct mb_shape shapes[] = {{96, 512}, {32, 512}};
    struct mb_tune_options options = small_options();
    options.shapes = shapes;
    options.shape_count = 2;
    options.format_count = 1;
    options.ms = NULL;
    options.thread_counts = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    const struct mb_selection usual = mb_select_default(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32);
    size_t crossover = 0, prefetches = 0, k_blocks = 0, others = 0;
    const char *many[2] = {NULL, NULL}; /* of 512 rows at the other shape: gemv, gemm */
    for (size_t i = 0; i < mb_profile_count(profile); i++) {
        const struct mb_cost *cost = mb_profile_at(profile, i);
        const bool few = cost->m == 1 || cost->m == 512;
        assert_false(cost->failed);
        assert_true(few || cost->n == 96);
        crossover += cost->m == 64;
        prefetches += cost->m == 8 && strncmp(cost->kernel, "gemv", 4) == 0 &&
                      cost->knobs[MB_KNOB_PREFETCH] != usual.prefetch;
        k_blocks += cost->m == 512 && strncmp(cost->kernel, "gemm", 4) == 0 &&
                    cost->knobs[MB_KNOB_K_BLOCK] != usual.gemm.k_block;
        others += cost->threads != 1;
        const char **one = &many[strncmp(cost->kernel, "gemm", 4) == 0];
        if (cost->m == 512 && cost->n == 32) {
            assert_true(*one == NULL || strcmp(*one, cost->kernel) == 0);
            *one = cost->kernel;
        }
    }
    assert_true(crossover >= 2); /* gemv and gemm */
    assert_non_null(many[1]);
    assert_true(prefetches >= 4 && k_blocks >= 1);
    struct mb_device_info device = {.size = sizeof device};
    assert_int_equal(mb_device_info(&device), MB_OK);
    assert_true(device.cores == 1 || others > 0);
    const size_t whole = mb_profile_count(profile);
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), whole);
    mb_profile_free(profile);
}

static struct mb_cost *cost_of(struct mb_profile *profile, enum mb_format format, size_t m)
{
    for (size_t i = 0; i < profile->count; i++)
        if (profile->entries[i].cost.format == format && profile->entries[i].cost.m == m)
            return &profile->entries[i].cost;
    fail_msg("no entry of %s at m = %zu", mb_format_info(format)->name, m);
    return NULL;
}

static void what_is_new_is_brought_to_the_phase_of_what_was_there(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    options.format_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    /* As if it had been measured in an hour in which all took a million times as long. */
    for (size_t i = 0; i < profile->count; i++) {
        struct mb_cost *cost = &profile->entries[i].cost;
        cost->median_ns *= 1e6;
        cost->min_ns *= 1e6;
    }
    const struct mb_cost kept = profile->entries[0].cost;
    options.format_count = 2;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_memory_equal(&kept, &profile->entries[0].cost, sizeof kept);
    expect_every_product(profile);
    for (size_t i = 0; i < 2; i++)
        assert_true(cost_of(profile, two_formats[1], two_ms[i])->median_ns > 1e7);
    mb_profile_free(profile);
}

static void drift_is_told_by_residency_and_the_nearest_m(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    struct mb_tune_task task;
    struct mb_drift drift;
    assert_int_equal(mb_tune_task_init(&task, &options, &error), MB_OK);
    const enum mb_residency residency = mb_residency_of(mb_profile_device(profile), 100, 1);
    const unsigned all = (1u << MB_RESIDENCY_COUNT) - 1;
    /* An empty profile has no phase. */
    mb_drift_begin(&drift, profile, &task, all, 1);
    assert_int_equal(drift.count, 0);
    options.format_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    /* The best of the one format, at its larger shape, for each m; nothing at other residencies or
     * on other threads. */
    mb_drift_begin(&drift, profile, &task, all, 2);
    assert_int_equal(drift.count, 0);
    mb_drift_begin(&drift, profile, &task, all, 1);
    assert_int_equal(drift.count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(drift.points[i].kept.m, two_ms[i]);
        assert_int_equal(drift.points[i].kept.residency, residency);
        assert_true(drift.points[i].best_ns == 0);
        assert_true(drift.points[i].kept.n * drift.points[i].kept.k == 48 * 64 ||
                    drift.points[i].kept.n * drift.points[i].kept.k == 32 * 96);
    }
    /* New ones, all of 100 ns: at m 1 the machine is half as fast, at m 3 a quarter. */
    struct mb_cost made = profile->entries[0].cost;
    made.format = MB_FORMAT_Q8_0;
    made.bytes = made.n * mb_format_row_bytes(made.format, made.k);
    made.median_ns = made.min_ns = made.mad_ns = made.prepare_ns = 100;
    static const size_t ms[] = {1, 2, 64, 1};
    const enum mb_residency elsewhere =
        residency == MB_RESIDENCY_MEMORY ? MB_RESIDENCY_L2 : MB_RESIDENCY_MEMORY;
    for (size_t i = 0; i < 4; i++) {
        made.m = ms[i];
        made.residency = i < 3 ? residency : elsewhere;
        assert_int_equal(mb_profile_put(profile, &made), MB_OK);
    }
    const struct mb_cost kept = profile->entries[0].cost;
    const size_t first = profile->count - 4;
    mb_drift_settle(&drift, profile, 1); /* not visited: nothing is known */
    for (size_t i = 0; i < 4; i++)
        assert_true(profile->entries[first + i].cost.median_ns == 100);
    drift.points[0].best_ns = 2 * drift.points[0].kept.median_ns;
    drift.points[1].best_ns = 4 * drift.points[1].kept.median_ns;
    mb_drift_settle(&drift, profile, 2); /* other threads */
    assert_true(profile->entries[first].cost.median_ns == 100);
    mb_drift_settle(&drift, profile, 1);
    static const double expected[] = {50, 25, 25, 100};
    for (size_t i = 0; i < 4; i++) {
        const struct mb_cost *cost = &profile->entries[first + i].cost;
        assert_float_equal(cost->median_ns, expected[i], 1e-9);
        assert_float_equal(cost->min_ns, expected[i], 1e-9);
        assert_float_equal(cost->mad_ns, expected[i], 1e-9);
        assert_float_equal(cost->prepare_ns, expected[i], 1e-9);
    }
    assert_memory_equal(&kept, &profile->entries[0].cost, sizeof kept);
    /* Within what timing tells apart. */
    made.m = 1;
    made.residency = residency;
    assert_int_equal(mb_profile_put(profile, &made), MB_OK);
    drift.points[0].best_ns = 1.02 * drift.points[0].kept.median_ns;
    drift.points[1].best_ns = 0;
    mb_drift_settle(&drift, profile, 1);
    assert_true(profile->entries[first].cost.median_ns == 100);
    mb_tune_task_free(&task);
    mb_profile_free(profile);
}

static void formats_that_do_not_fit_a_shape_are_passed_over(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_profile *profile = profile_for(1);
    static const enum mb_format formats[] = {MB_FORMAT_Q4_K};
    struct mb_tune_options options = small_options();
    options.formats = formats;
    options.format_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), 0);
    mb_profile_free(profile);
}

static void bad_options_and_foreign_profiles_are_refused(void **state)
{
    (void)state;
    struct mb_error error = {.message = ""};
    struct mb_profile *profile = profile_for(1);
    struct mb_tune_options options = small_options();
    options.shape_count = 0;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_ARGUMENT);
    static const struct mb_shape nothing = {0, 64};
    options = small_options();
    options.shapes = &nothing;
    options.shape_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_SHAPE);
    static const size_t no_rows = 0;
    options = small_options();
    options.ms = &no_rows;
    options.m_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_SHAPE);
    static const enum mb_format unknown = (enum mb_format)9999;
    options = small_options();
    options.formats = &unknown;
    options.format_count = 1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_ARGUMENT);

    options = small_options();
    options.other_bytes = -1;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_ARGUMENT);

    options = small_options();
    profile->device.stepping++;
    assert_int_equal(mb_tune(profile, &options, &error), MB_ERR_STALE);
    assert_non_null(strstr(error.message, "another machine"));
    assert_int_equal(mb_profile_count(profile), 0);
    mb_profile_free(profile);
}

static void limits_that_are_stopped_leave_nothing(void **state)
{
    (void)state;
    struct stopper stopper = {.stop_at = 1};
    const struct mb_progress progress = {stop_after, &stopper};
    struct mb_limits limits = {.threads = 77};
    assert_int_equal(mb_limits_measure(NULL, 0, &progress, &limits), MB_ERR_INTERRUPTED);
    assert_int_equal(limits.threads, 77);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_leaves_an_entry_for_every_point_and_goes_on_where_it_stopped),
        cmocka_unit_test(codebook_matrices_get_a_time_and_keep_it),
        cmocka_unit_test(weights_of_a_workload_are_where_its_products_read_them),
        cmocka_unit_test(a_run_that_is_out_of_time_leaves_one_figure_for_every_product),
        cmocka_unit_test(a_default_run_searches_knobs_and_places_the_crossover),
        cmocka_unit_test(what_is_new_is_brought_to_the_phase_of_what_was_there),
        cmocka_unit_test(drift_is_told_by_residency_and_the_nearest_m),
        cmocka_unit_test(formats_that_do_not_fit_a_shape_are_passed_over),
        cmocka_unit_test(bad_options_and_foreign_profiles_are_refused),
        cmocka_unit_test(limits_that_are_stopped_leave_nothing),
    };
    return cmocka_run_group_tests_name("tuner run", tests, NULL, NULL);
}
