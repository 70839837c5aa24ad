/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices on a Level Zero device, through the real loader, on the test driver
 * (tests/level_zero), as a GPU that shares the host's memory and as one that has its own. Without
 * the loader or an OpenCL that takes SPIR-V it is skipped, which ctest shows. */
#include "unit/gpu_codebooks.h"
#include "unit/level_zero_device.h"

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
