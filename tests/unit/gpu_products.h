/* SPDX-License-Identifier: Apache-2.0 */
/* Products on a GPU backend against the CPU's, whose bits are the reference's: equal where k is in
 * one part, within rounding where it is split. The tests of every backend are these. */
#ifndef MIXBIT_TESTS_GPU_PRODUCTS_H
#define MIXBIT_TESTS_GPU_PRODUCTS_H

#include "unit/opencl_support.h"

#include "unit/gpu_device.h" /* behind what has parameters of that name */

#include <math.h>

/* RMS over RMS of the expected; NaN where a result is. */
static double relative_error(const struct product *p, size_t m)
{
    double wrong = 0, power = 0;
    for (size_t i = 0; i < m * p->n; i++) {
        wrong += pow((double)p->y[i] - (double)p->expected[i], 2);
        power += pow((double)p->expected[i], 2);
    }
    return sqrt(wrong / power);
}

static void check(const struct product *p, const struct mb_backend_kernel *kernel, size_t m)
{
    const bool one_part =
        kernel->knobs[MB_KNOB_SPLIT] == 1 || strncmp(kernel->name, "gemm_", 5) == 0;
    const bool same = memcmp(p->y, p->expected, m * p->n * sizeof *p->y) == 0;
    const double error = relative_error(p, m);
    /* The order of a few float sums: far below the format's bound, which quantization sets. */
    if (one_part ? same : error < 1e-5 && error < p->info->error_bound)
        return;
    fail_msg("%s, split %zu: %s m %zu n %zu k %zu is off by %g", kernel->name,
             kernel->knobs[MB_KNOB_SPLIT], p->info->name, m, p->n, p->k, error);
}

/* Three super-blocks, or an odd number of blocks that ends inside one. */
static size_t odd_k(const struct mb_format_info *info)
{
    return info->block_k == 1 ? 77 : info->block_k == 256 ? 768 : info->block_k * 7;
}

static void test_every_format(void **state)
{
    (void)state;
    static const size_t ms[] = {1, 2, 4, 8, 16, 64, 512};
    for (size_t f = 0; f < mb_format_count(); f++) {
        struct product p;
        struct on_device on;
        struct mb_error error = {0};
        product_create(&p, mb_format_at(f), 53, odd_k(mb_format_at(f)), 512);
        if (device_create(gpu, device, &p, &on, &error) != MB_OK)
            fail_msg("%s: %s", p.info->name, error.message);
        for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
            struct mb_backend_kernel kernel;
            assert_true(gpu->kernel_at(device, p.info->id, p.n, p.k, ms[i], 0, &kernel));
            if (device_multiply(gpu, device, &p, &on, NULL, ms[i], &error) != MB_OK)
                fail_msg("%s: %s", kernel.name, error.message);
            check(&p, &kernel, ms[i]);
        }
        device_free(gpu, &on);
        product_free(&p);
    }
}

/* All tiles of one product, at each of a few numbers of rows off the tile. */
static void all_tiles(enum mb_format format, size_t n, size_t k, size_t m)
{
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    struct mb_backend_kernel kernel;
    size_t split = 0, count = 0;
    product_create(&p, mb_format_info(format), n, k, m);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    for (; gpu->kernel_at(device, format, n, k, m, count, &kernel); count++) {
        if (device_multiply(gpu, device, &p, &on, &kernel, m, &error) != MB_OK)
            fail_msg("%s: %s", kernel.name, error.message);
        check(&p, &kernel, m);
        split += kernel.knobs[MB_KNOB_SPLIT] > 1;
    }
    assert_true(count > 3 && split > 1);
    device_free(gpu, &on);
    product_free(&p);
}

static void test_every_tile(void **state)
{
    (void)state;
    all_tiles(MB_FORMAT_Q4_K, 53, 2048, 3);
    all_tiles(MB_FORMAT_IQ4_NL, 17, 416, 37);
    all_tiles(MB_FORMAT_F16, 1, 301, 2);
}

static void test_odd_shapes(void **state)
{
    (void)state;
    static const struct {
        size_t n, m;
    } shapes[] = {{1, 1}, {16, 3}, {31, 9}, {33, 33}, {80, 31}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct product p;
        struct on_device on;
        struct mb_error error = {0};
        struct mb_backend_kernel kernel;
        product_create(&p, mb_format_info(MB_FORMAT_Q4_0), shapes[i].n, 32, shapes[i].m);
        assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
        assert_true(gpu->kernel_at(device, MB_FORMAT_Q4_0, p.n, p.k, p.m, 0, &kernel));
        assert_int_equal(device_multiply(gpu, device, &p, &on, &kernel, p.m, &error), MB_OK);
        check(&p, &kernel, p.m);
        device_free(gpu, &on);
        product_free(&p);
    }
}

/* Two runs of the same split kernel: parts are added in a fixed order. */
static void test_repeats_are_bitwise_equal(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    struct mb_backend_kernel kernel;
    size_t i = 0;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_K), 53, 2048, 3);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    do
        assert_true(gpu->kernel_at(device, MB_FORMAT_Q4_K, p.n, p.k, p.m, i++, &kernel));
    while (kernel.knobs[MB_KNOB_SPLIT] < 8);
    assert_int_equal(device_multiply(gpu, device, &p, &on, &kernel, p.m, &error), MB_OK);
    memcpy(p.expected, p.y, p.m * p.n * sizeof *p.y);
    assert_int_equal(device_multiply(gpu, device, &p, &on, &kernel, p.m, &error), MB_OK);
    assert_memory_equal(p.y, p.expected, p.m * p.n * sizeof *p.y);
    device_free(gpu, &on);
    product_free(&p);
}

/* Products are queued one behind the other, and the device's clock sees them. */
static void test_busy_time(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    double one_ns, many_ns, idle_ns;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 512, 1024, 4);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    const struct mb_backend_product product = {NULL, on.weights, on.input, on.output, 4};
    assert_int_equal(gpu->multiply(device, &product, &error), MB_OK);
    assert_int_equal(gpu->finish(device, &one_ns, &error), MB_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(gpu->multiply(device, &product, &error), MB_OK);
    assert_int_equal(gpu->finish(device, &many_ns, &error), MB_OK);
    assert_int_equal(gpu->finish(device, &idle_ns, &error), MB_OK);
    assert_true(one_ns > 0 && many_ns > 0 && idle_ns == 0);
    assert_int_equal(gpu->output_read(on.output, p.y, p.n, 4, &error), MB_OK);
    struct mb_backend_kernel kernel;
    assert_true(gpu->kernel_at(device, MB_FORMAT_Q4_0, p.n, p.k, 4, 0, &kernel));
    check(&p, &kernel, 4);
    device_free(gpu, &on);
    product_free(&p);
}

/* Memory is read, and the device's clock sees it. */
static void test_reading_memory(void **state)
{
    (void)state;
    struct mb_error error = {0};
    size_t set = ((size_t)1 << 20) + 8;
    double busy_ns = 0;
    assert_int_equal(gpu->read_memory(device, &set, 0, 2, &busy_ns, &error), MB_OK);
    assert_int_equal(set, 1 << 20); /* whole lanes' reads */
    assert_true(busy_ns > 0);
    assert_int_equal(gpu->read_memory(device, &set, 300000, 9, &busy_ns, &error), MB_OK);
    assert_true(busy_ns > 0);
}

static void test_wrong_shapes_are_refused(void **state)
{
    (void)state;
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    struct mb_backend_output *narrow;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 32, 64, 4);
    assert_int_equal(device_create(gpu, device, &p, &on, &error), MB_OK);
    assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 5, &error), MB_ERR_SHAPE);
    assert_int_equal(device_multiply(gpu, device, &p, &on, NULL, 0, &error), MB_ERR_SHAPE);
    assert_int_equal(gpu->output_create(device, 4, 16, &narrow, &error), MB_OK);
    const struct mb_backend_product other = {NULL, on.weights, on.input, narrow, 4};
    assert_int_equal(gpu->multiply(device, &other, &error), MB_ERR_SHAPE);
    assert_non_null(strstr(error.message, "another shape"));
    assert_int_equal(gpu->output_read(on.output, p.y, p.n, 5, &error), MB_ERR_SHAPE);
    gpu->output_free(narrow);
    device_free(gpu, &on);
    product_free(&p);
}

#define GPU_PRODUCT_TESTS(test)                                                                    \
    test(test_every_format), test(test_every_tile), test(test_odd_shapes),                         \
        test(test_reading_memory), test(test_repeats_are_bitwise_equal), test(test_busy_time),     \
        test(test_wrong_shapes_are_refused)

#endif
