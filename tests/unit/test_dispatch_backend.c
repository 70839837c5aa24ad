/* SPDX-License-Identifier: Apache-2.0 */
/* The table of backends: names, the CPU behind it, and what GPU kernels are built with. */
#include "dispatch/gpu.h"
#include "unit/opencl_support.h"

static void test_names(void **state)
{
    (void)state;
    const struct mb_backend *backend;
    struct mb_error error;
    size_t index;
    assert_int_equal(mb_backend_parse("cpu", &backend, &index, &error), MB_OK);
    assert_true(backend == &mb_backend_cpu && index == 0);
    assert_int_equal(mb_backend_parse("opencl:12", &backend, &index, &error), MB_OK);
    assert_true(backend == &mb_backend_opencl && index == 12);
    assert_int_equal(mb_backend_parse("level-zero:3", &backend, &index, &error), MB_OK);
    assert_true(backend == &mb_backend_level_zero && index == 3);
    static const char *const wrong[] = {
        "", "cuda", "cpu:", "cpu:x", "cpu:-1", "opencl:99999", "openc", "opencl:1x", ":0"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(mb_backend_parse(wrong[i], &backend, &index, &error), MB_ERR_ARGUMENT);
        assert_true(error.message[0] != '\0');
    }
    for (size_t i = 0; mb_backend_at(i) != NULL; i++)
        assert_true(mb_backend_at(i)->name != NULL && mb_backend_at(i)->list != NULL);
}

static void test_cpu(void **state)
{
    (void)state;
    const struct mb_backend *cpu = &mb_backend_cpu;
    struct mb_backend_device *device;
    struct mb_backend_kernel kernel;
    struct product p;
    struct on_device on;
    struct mb_error error;
    size_t count;
    double busy_ns;
    assert_int_equal(cpu->list(&count, &error), MB_OK);
    assert_int_equal(count, 1);
    assert_int_equal(cpu->open(1, &device, &error), MB_ERR_ARGUMENT);
    assert_int_equal(cpu->open(0, &device, &error), MB_OK);
    product_create(&p, mb_format_info(MB_FORMAT_Q4_K), 53, 512, 9);
    assert_int_equal(device_create(cpu, device, &p, &on, &error), MB_OK);
    assert_true(cpu->kernel_at(device, MB_FORMAT_Q4_K, p.n, p.k, p.m, 0, &kernel));
    assert_string_equal(kernel.name, mb_kernel_for(MB_FORMAT_Q4_K, p.n, p.k, p.m));
    assert_false(cpu->kernel_at(device, MB_FORMAT_Q4_K, p.n, p.k, p.m, 1, &kernel));
    assert_int_equal(device_multiply(cpu, device, &p, &on, NULL, p.m, &error), MB_OK);
    assert_memory_equal(p.y, p.expected, p.m * p.n * sizeof *p.y);
    assert_int_equal(cpu->finish(device, &busy_ns, &error), MB_OK);
    assert_true(busy_ns > 0);
    assert_int_equal(device_multiply(cpu, device, &p, &on, NULL, p.m + 1, &error), MB_ERR_SHAPE);
    device_free(cpu, &on);
    cpu->close(device);
    product_free(&p);
}

/* Every format's options are whole, and every tile fits the device it was chosen for. */
static void test_tiles_and_options(void **state)
{
    (void)state;
    static const struct mb_gpu_limits devices[] = {
        {.group_items = 1024, .local_bytes = 65536, .compute_units = 160},
        {.group_items = 1024, .local_bytes = 49152, .compute_units = 132, .build = MB_GPU_NVIDIA},
        {.group_items = 4096, .local_bytes = 524288, .compute_units = 2, .is_cpu = true},
        {.group_items = 64, .local_bytes = 16384, .compute_units = 1000}};
    static const size_t ms[] = {1, 2, 3, 8, 9, 16, 17, 512};
    for (size_t d = 0; d < sizeof devices / sizeof devices[0]; d++)
        for (size_t f = 0; f < mb_format_count(); f++)
            for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
                const struct mb_format_info *info = mb_format_at(f);
                struct mb_gpu_tile tiles[MB_GPU_TILES_MAX];
                const size_t count = mb_gpu_tiles(&devices[d], info, 4096, 4096, ms[i], tiles);
                assert_true(count > 0);
                for (size_t t = 0; t < count; t++) {
                    char options[MB_GPU_OPTIONS_BYTES];
                    struct mb_backend_kernel kernel;
                    for (int b = MB_GPU_PLAIN; b <= MB_GPU_SPIRV; b++) {
                        mb_gpu_options(info, &tiles[t], (enum mb_gpu_build)b, options);
                        assert_true(strlen(options) + 1 < MB_GPU_OPTIONS_BYTES);
                    }
                    mb_gpu_describe(info, &tiles[t], "opencl", &kernel);
                    const struct mb_gpu_tile back = mb_gpu_tile_of(&kernel);
                    assert_memory_equal(&back, &tiles[t], sizeof back);
                    assert_true(16 * tiles[t].panels * tiles[t].split <= devices[d].group_items);
                    for (size_t other = 0; other < t; other++)
                        assert_memory_not_equal(&tiles[other], &tiles[t], sizeof tiles[t]);
                }
            }
}

/* What is offered ahead of time is in the build, as SPIR-V. */
static void test_modules(void **state)
{
    (void)state;
    static const struct mb_gpu_limits limits = {
        .group_items = 1024, .local_bytes = 65536, .compute_units = 160};
    static const size_t ms[] = {1, 2, 3, 8, 9, 17};
    size_t ahead = 0, left_out = 0;
    for (size_t f = 0; f < mb_format_count(); f++)
        for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++) {
            const struct mb_format_info *info = mb_format_at(f);
            struct mb_gpu_tile tiles[MB_GPU_TILES_MAX];
            const size_t count = mb_gpu_tiles(&limits, info, 4096, 4096, ms[i], tiles);
            assert_true(mb_gpu_is_ahead(&tiles[0])); /* the default */
            for (size_t t = 0; t < count; t++) {
                const struct mb_gpu_module *module = mb_gpu_module(info, &tiles[t]);
                assert_int_equal(module != NULL, mb_gpu_is_ahead(&tiles[t]));
                ahead += module != NULL;
                left_out += module == NULL;
                if (module == NULL)
                    continue;
                assert_true(module->bytes % sizeof module->words[0] == 0);
                assert_int_equal(module->words[0], 0x07230203);
                struct mb_backend_kernel kernel;
                mb_gpu_describe(info, &tiles[t], "level-zero", &kernel);
                assert_true(mb_backend_has_kernel(kernel.name, kernel.revision, info->id));
            }
        }
    assert_true(ahead > 0 && left_out > 0);
}

/* A launch covers every output once: groups times what a group computes. */
static void test_launch_covers_outputs(void **state)
{
    (void)state;
    const struct mb_format_info *info = mb_format_info(MB_FORMAT_Q6_K);
    const struct mb_gpu_tile gemm = {MB_GPU_GEMM, 8, 2, 4}, gemv = {MB_GPU_GEMV, 4, 1, 8};
    const struct mb_gpu_launch many = mb_gpu_launch(info, &gemm, 100, 512, 33, 16, 53);
    assert_int_equal(many.global[0], 16 * 2); /* 37 outputs, 3 panels, 2 groups of 2 */
    assert_int_equal(many.global[1], 2 * 2);  /* 33 rows, 32 a group */
    assert_int_equal(many.global[2], 4);
    assert_int_equal(many.arguments.n, 37);
    assert_int_equal(many.arguments.panels, 3);
    assert_int_equal(many.arguments.y_offset, 16);
    assert_int_equal(many.arguments.y_stride, 100);
    assert_int_equal(many.arguments.superblocks, 2);
    const struct mb_gpu_launch few = mb_gpu_launch(info, &gemv, 100, 512, 5, 0, 100);
    assert_int_equal(few.global[0], 16 * 7);
    assert_int_equal(few.global[1], 2);
    assert_int_equal(few.local[2], 8);
}

static void test_shapes_beyond_32_bits(void **state)
{
    (void)state;
    struct mb_error error;
    assert_int_equal(mb_gpu_check_shape(1, 1, 1, &error), MB_OK);
    assert_int_equal(mb_gpu_check_shape(0, 1, 1, &error), MB_ERR_SHAPE);
    assert_int_equal(mb_gpu_check_shape(1, (size_t)1 << 29, 1, &error), MB_ERR_SHAPE);
    assert_int_equal(mb_gpu_check_shape((size_t)1 << 33, 1, 1, &error), MB_ERR_SHAPE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_tiles_and_options),
        cmocka_unit_test(test_modules),
        cmocka_unit_test(test_launch_covers_outputs),
        cmocka_unit_test(test_shapes_beyond_32_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
