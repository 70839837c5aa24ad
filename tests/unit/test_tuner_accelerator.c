/* SPDX-License-Identifier: Apache-2.0 */
/* Tuning and running on a device other than the CPU, without one: the CPU's own functions under the
 * names of GPU kernels, of which one is right, one writes nothing, and one can be told to fail. */
#include "dispatch/gpu.h"
#include "tests/guard.h"
#include "tuner/accelerator.h"
#include "tuner/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { KERNELS = 2 };
static size_t products;
static bool device_is_lost, none_is_right;

/* Of GPU kernels in this build. */
static unsigned revision(void)
{
    const struct mb_gpu_tile tile = {MB_GPU_GEMV, 1, 2, 1};
    struct mb_backend_kernel kernel;
    mb_gpu_describe(mb_format_info(MB_FORMAT_Q4_0), &tile, "opencl", &kernel);
    return kernel.revision;
}

static bool kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel)
{
    const struct mb_format_info *info = mb_format_info(format);
    (void)device;
    (void)n;
    (void)k;
    (void)m;
    if (i >= KERNELS)
        return false;
    *kernel = (struct mb_backend_kernel){.revision = revision(), .own = {(unsigned)i}};
    (void)snprintf(kernel->name, sizeof kernel->name, "gemv_%s_%s_%s_%zux16_opencl",
                   mb_coding_name(info->coding), mb_scale_kind_name(info->scale),
                   mb_activation_name(info->activation), i + 1);
    return true;
}

static enum mb_status multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error)
{
    products++;
    if (device_is_lost)
        return mb_error_set(error, MB_ERR_DEVICE, -1, "made-up:0: the device is lost");
    if (product->kernel->own[0] == 1 || none_is_right)
        return MB_OK; /* this one writes nothing */
    struct mb_backend_product plain = *product;
    plain.kernel = NULL;
    return mb_backend_cpu.multiply(device, &plain, error);
}

static struct mb_backend made_up;
static struct mb_accelerator accelerator;

static int open_made_up(void **state)
{
    struct mb_error error;
    (void)state;
    made_up = mb_backend_cpu;
    made_up.kernel_at = kernel_at;
    made_up.multiply = multiply;
    accelerator = (struct mb_accelerator){.backend = &made_up,
                                          .info = {.size = sizeof accelerator.info,
                                                   .name = "made up",
                                                   .os = "driver 1",
                                                   .key = "0123",
                                                   .memory_bytes = (size_t)1 << 26,
                                                   .backend = "opencl"}};
    products = 0;
    device_is_lost = false;
    return made_up.open(0, &accelerator.device, &error) == MB_OK ? 0 : -1;
}

static int close_made_up(void **state)
{
    (void)state;
    made_up.close(accelerator.device);
    return 0;
}

static const enum mb_format formats[] = {MB_FORMAT_Q4_0, MB_FORMAT_F16};
static const struct mb_shape shapes[] = {{48, 64}, {32, 96}, {48, 64}};
static const size_t ms[] = {1, 5};

static struct mb_tune_options small_options(void)
{
    return (struct mb_tune_options){.size = sizeof(struct mb_tune_options),
                                    .shapes = shapes,
                                    .shape_count = 3,
                                    .formats = formats,
                                    .format_count = 2,
                                    .ms = ms,
                                    .m_count = 2};
}

/* A profile with all that small_options() asks for. */
static struct mb_profile *tuned(void)
{
    struct mb_profile *profile;
    struct mb_error error;
    const struct mb_tune_options options = small_options();
    assert_int_equal(mb_profile_create_for(&accelerator.info, &profile), MB_OK);
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_OK);
    return profile;
}

/* Every product has a time of the right kernel; the one that writes nothing is known as wrong where
 * kernels are compared, and was not tried elsewhere. */
static void test_every_product(void **state)
{
    (void)state;
    struct mb_profile *profile = tuned();
    struct mb_error error;
    const struct mb_tune_options options = small_options();
    assert_false(mb_profile_is_of_cpu(profile));
    size_t failed = 0;
    for (size_t i = 0; i < mb_profile_count(profile); i++)
        failed += mb_profile_at(profile, i)->failed != 0;
    assert_int_equal(failed, 2 * 2);                         /* formats x m, at one shape */
    assert_int_equal(mb_profile_count(profile), 8 + failed); /* formats x shapes x m */
    for (size_t f = 0; f < 2; f++)
        for (size_t s = 0; s < 2; s++)
            for (size_t m = 0; m < 2; m++) {
                struct mb_cost cost;
                assert_int_equal(mb_profile_cost(profile, formats[f], shapes[s].n, shapes[s].k,
                                                 ms[m], MB_ACCELERATOR_THREADS,
                                                 MB_ACCELERATOR_RESIDENCY, &cost),
                                 MB_COST_EXACT);
                assert_true(cost.median_ns > 0 && !cost.failed);
                assert_true(cost.error <= mb_format_info(formats[f])->error_bound);
                assert_non_null(strstr(cost.kernel, "_1x16_opencl"));
            }
    /* Nothing is left to do. */
    const size_t before = products;
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_OK);
    assert_int_equal(products, before);
    mb_profile_free(profile);
}

/* What is said of the CPU's kernels is not said of a device's: nothing is applied or chosen. */
static void test_applies_nothing(void **state)
{
    (void)state;
    struct mb_profile *profile = tuned();
    const char *kernel = mb_kernel_for(MB_FORMAT_Q4_0, 48, 64, 1);
    mb_profile_apply(profile);
    assert_string_equal(mb_kernel_for(MB_FORMAT_Q4_0, 48, 64, 1), kernel);
    assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_0), MB_ACTIVATION_I8G32);
    assert_int_equal(mb_profile_threads(profile, 1), 0);
    mb_profile_free(profile);
}

static void test_refusals(void **state)
{
    (void)state;
    struct mb_profile *profile;
    struct mb_error error;
    struct mb_tune_options options = small_options();
    assert_int_equal(mb_profile_create(&profile), MB_OK); /* the CPU's */
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_ERR_STALE);
    assert_non_null(strstr(error.message, "made up"));
    mb_profile_free(profile);
    assert_int_equal(mb_profile_create_for(&accelerator.info, &profile), MB_OK);
    device_is_lost = true;
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_ERR_DEVICE);
    assert_non_null(strstr(error.message, "the device is lost"));
    assert_int_equal(mb_profile_count(profile), 0);
    options.shape_count = 0;
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_ERR_ARGUMENT);
    mb_profile_free(profile);
}

/* Another driver: what was measured is forgotten. */
static void test_stale(void **state)
{
    (void)state;
    struct mb_profile *profile = tuned();
    struct mb_error error;
    const struct mb_tune_options options = small_options();
    const size_t before = products, count = mb_profile_count(profile);
    (void)snprintf(accelerator.info.os, sizeof accelerator.info.os, "driver 2");
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_OK);
    assert_true(products > before);
    assert_int_equal(mb_profile_count(profile), count);
    assert_string_equal(mb_profile_device(profile)->os, "driver 2");
    mb_profile_free(profile);
}

static int stop_at_third(void *user, double done, double total, const char *note)
{
    (void)total;
    (void)note;
    (void)user;
    return done >= 2;
}

static void test_stop_and_go_on(void **state)
{
    (void)state;
    struct mb_profile *profile;
    struct mb_error error;
    const struct mb_progress progress = {.report = stop_at_third};
    struct mb_tune_options options = small_options();
    options.progress = &progress;
    assert_int_equal(mb_profile_create_for(&accelerator.info, &profile), MB_OK);
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error),
                     MB_ERR_INTERRUPTED);
    const size_t kept = mb_profile_count(profile);
    assert_true(kept > 0 && kept < 12);
    const struct mb_cost first = *mb_profile_at(profile, 0);
    options.progress = NULL;
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), 12);
    assert_true(mb_profile_at(profile, 0)->median_ns == first.median_ns);
    mb_profile_free(profile);
}

/* A time limit that is over at once: one figure each, of the default kernel. */
static void test_late(void **state)
{
    (void)state;
    struct mb_profile *profile;
    struct mb_error error;
    struct mb_tune_options options = small_options();
    options.time_limit_s = 1e-9;
    assert_int_equal(mb_profile_create_for(&accelerator.info, &profile), MB_OK);
    assert_int_equal(mb_tune_accelerator(profile, &accelerator, &options, &error), MB_OK);
    assert_int_equal(mb_profile_count(profile), 8);
    mb_profile_free(profile);
}

/* The row of a search is the fastest that is right, not the one that writes nothing. */
static void test_bench(void **state)
{
    (void)state;
    const struct mb_bench_case bench = {.format = MB_FORMAT_Q4_0, .n = 48, .k = 64, .m = 3};
    struct mb_accelerator_row row;
    struct mb_error error;
    double gbps;
    assert_int_equal(mb_accelerator_bench(&accelerator, &bench, true, 0, &row, &error), MB_OK);
    assert_int_equal(row.kernels, KERNELS);
    assert_non_null(strstr(row.bench.kernel, "_1x16_opencl"));
    assert_true(!row.bench.failed && row.bench.error < mb_format_info(bench.format)->error_bound);
    assert_true(row.bench.median_ns > 0 && row.queued_ns > 0 && row.call_ns > 0);
    assert_true(row.bench.fraction == 0 && row.read_ns == 0); /* nobody says how fast it reads */
    assert_int_equal(mb_accelerator_bench(&accelerator, &bench, false, 10, &row, &error), MB_OK);
    assert_int_equal(row.kernels, 1);
    assert_true(row.bench.fraction == row.bench.weight_gbps / 10);
    assert_int_equal(mb_accelerator_read_gbps(&accelerator, 0, &gbps, &error), MB_OK);
    assert_true(gbps == 0);
}

static void test_bench_faults(void **state)
{
    (void)state;
    struct mb_bench_case bench = {.format = MB_FORMAT_Q4_0, .n = 48, .k = 64, .m = 3};
    struct mb_accelerator_row row;
    struct mb_error error;
    none_is_right = true;
    assert_int_equal(mb_accelerator_bench(&accelerator, &bench, true, 0, &row, &error),
                     MB_ERR_VERIFY);
    assert_true(row.bench.failed);
    assert_non_null(strstr(error.message, "wrong results"));
    none_is_right = false;
    device_is_lost = true;
    assert_int_equal(mb_accelerator_bench(&accelerator, &bench, true, 0, &row, &error),
                     MB_ERR_DEVICE);
    device_is_lost = false;
    bench.k = 33;
    assert_int_equal(mb_accelerator_bench(&accelerator, &bench, true, 0, &row, &error),
                     MB_ERR_SHAPE);
}

/* A kernel that is none of this build's counts for nothing. */
static void test_current(void **state)
{
    (void)state;
    struct mb_cost cost = {.kernel = "gemv_b4_g32_i8g32_1x32_opencl",
                           .revision = revision(),
                           .format = MB_FORMAT_Q4_0,
                           .m = 1};
    assert_true(mb_cost_is_current(&cost));
    cost.revision++;
    assert_false(mb_cost_is_current(&cost));
    cost.revision--;
    cost.format = MB_FORMAT_Q5_0;
    assert_false(mb_cost_is_current(&cost));
    cost.format = MB_FORMAT_Q4_0;
    (void)snprintf(cost.kernel, sizeof cost.kernel, "gemv_b4_g32_i8g32_1x32_cuda");
    assert_false(mb_cost_is_current(&cost));
    (void)snprintf(cost.kernel, sizeof cost.kernel, "opencl");
    assert_false(mb_cost_is_current(&cost));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_product, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_applies_nothing, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_refusals, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_stale, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_stop_and_go_on, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_late, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_bench, open_made_up, close_made_up),
        cmocka_unit_test_setup_teardown(test_bench_faults, open_made_up, close_made_up),
        cmocka_unit_test(test_current),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
