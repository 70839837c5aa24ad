/* SPDX-License-Identifier: Apache-2.0 */
/* Products on a Level Zero device, through the real loader, on the test driver (tests/level_zero),
 * which runs the SPIR-V that is in the library on a CPU: once as a GPU that shares the host's
 * memory and once as one that has its own. Without the loader or an OpenCL that takes SPIR-V it is
 * skipped, which ctest shows. This says that kernels and calls are right, nothing of an Intel GPU.
 */
#include "unit/gpu_products.h"
#include "unit/level_zero_device.h"

static void test_describe(void **state)
{
    (void)state;
    struct mb_device_info info = {.size = sizeof info};
    struct mb_error error = {0};
    assert_int_equal(gpu->describe(0, &info, &error), MB_OK);
    assert_string_equal(info.backend, "level-zero");
    assert_string_equal(info.vendor, "Intel");
    assert_non_null(strstr(info.features, is_discrete ? "discrete fp16" : "integrated fp16"));
    assert_non_null(strstr(info.features, "subgroups-16"));
    assert_string_equal(info.os, "Level Zero 1.3, driver 7");
    assert_true(info.cores > 0 && info.memory_bytes > 0 && info.l2_bytes == 1 << 20);
    assert_int_equal(gpu->describe(1, &info, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "there is no level-zero:1: 1 device found"));
}

/* More products than lists and events hold, and more bytes than the staging buffer: each result is
 * that of its own input. */
static void test_long_queue(void **state)
{
    (void)state;
    enum { INPUTS = 3, TIMES = 100 };
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    struct mb_backend_output *outputs[TIMES];
    product_create(&p, mb_format_info(MB_FORMAT_Q8_0), 16, 32, INPUTS);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    for (size_t i = 0; i < TIMES; i++) {
        assert_int_equal(gpu->output_create(device, 1, p.n, &outputs[i], &error), MB_OK);
        const float *x = p.x + i % INPUTS * p.k;
        assert_int_equal(gpu->input_write(on.input, x, p.k, 1, &error), MB_OK);
        const struct mb_backend_product product = {NULL, on.weights, on.input, outputs[i], 1};
        assert_int_equal(gpu->multiply(device, &product, &error), MB_OK);
    }
    for (size_t i = 0; i < TIMES; i++) {
        assert_int_equal(gpu->output_read(outputs[i], p.y, p.n, 1, &error), MB_OK);
        assert_memory_equal(p.y, p.expected + i % INPUTS * p.n, p.n * sizeof *p.y);
        gpu->output_free(outputs[i]);
    }
    device_free(gpu, &on);
    product_free(&p);
    product_create(&p, mb_format_info(MB_FORMAT_F32), 1100, 2048, 600); /* 8.6 MB, and 2.5 back */
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 600, &error), MB_OK);
    struct mb_backend_kernel kernel;
    assert_true(gpu->kernel_at(device, MB_FORMAT_F32, p.n, p.k, 600, 0, &kernel));
    check(&p, &kernel, 600);
    device_free(gpu, &on);
    product_free(&p);
    assert_int_equal(driver->copies > 0, is_discrete);
}

/* Rows apart from each other in the caller's memory. */
static void test_strided_results(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 20, 64, 3);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 3, &error), MB_OK);
    float *y = calloc(3 * 32, sizeof *y);
    assert_int_equal(gpu->output_read(on.output, y, 32, 3, &error), MB_OK);
    for (size_t r = 0; r < 3; r++) {
        assert_memory_equal(y + r * 32, p.expected + r * p.n, p.n * sizeof *y);
        assert_true(y[r * 32 + p.n] == 0);
    }
    free(y);
    device_free(gpu, &on);
    product_free(&p);
}

/* A driver that has no clock for kernels, as Intel's when it only records: the host's is used. */
static void test_without_a_clock(void **state)
{
    driver->no_clock = true;
    test_busy_time(state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {
        GPU_PRODUCT_TESTS(TEST),    TEST(test_describe),        TEST(test_long_queue),
        TEST(test_strided_results), TEST(test_without_a_clock),
    };
    /* Of the other kind of device what depends on it: kernels are the same, and take long to build.
     */
    const struct CMUnitTest others[] = {
        TEST(test_odd_shapes), TEST(test_repeats_are_bitwise_equal), TEST(test_describe),
        TEST(test_long_queue), TEST(test_strided_results),
    };
    gpu = &mb_backend_level_zero;
    if (!driver_open(sizeof tests / sizeof tests[0] + sizeof others / sizeof others[0]))
        return 77;
    int failed = cmocka_run_group_tests_name("integrated", tests, NULL, NULL);
    is_discrete = true;
    failed += cmocka_run_group_tests_name("discrete", others, NULL, NULL);
    return failed;
}
