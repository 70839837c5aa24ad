/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices on a Level Zero device, through the real loader, on the test driver
 * (tests/level_zero), as a GPU that shares the host's memory and as one that has its own. Without
 * the loader or an OpenCL that takes SPIR-V it is skipped, which ctest shows. */
#include "unit/gpu_codebooks.h"
#include "unit/level_zero_support.h"

static bool is_discrete;

static int open_device(void **state)
{
    struct mb_error error = {0};
    (void)driver_reset(state);
    driver->is_discrete = is_discrete;
    if (gpu->open(0, &device, &error) == MB_OK)
        return 0;
    print_error("%s\n", error.message);
    return -1;
}

static int close_device(void **state)
{
    gpu->close(device);
    return driver_is_clean(state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
    const struct CMUnitTest tests[] = {GPU_CODEBOOK_TESTS(TEST)};
    const struct CMUnitTest others[] = {TEST(test_views), TEST(test_an_input_for_many)};
    gpu = &mb_backend_level_zero;
    if (!driver_open(sizeof tests / sizeof tests[0] + sizeof others / sizeof others[0]))
        return 77;
    int failed = cmocka_run_group_tests_name("integrated", tests, NULL, NULL);
    is_discrete = true;
    failed += cmocka_run_group_tests_name("discrete", others, NULL, NULL);
    return failed;
}
