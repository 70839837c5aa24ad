/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices on an OpenCL device, PoCL on a machine without a GPU; without any device it is
 * skipped, which ctest shows. */
#include "unit/gpu_codebooks.h"

int main(void)
{
    struct mb_error error = {0};
    const struct CMUnitTest tests[] = {GPU_CODEBOOK_TESTS(cmocka_unit_test)};
    gpu = &mb_backend_opencl;
    if (gpu->open(0, &device, &error) != MB_OK) {
        (void)fprintf(stderr, "SKIPPED %zu tests of codebook matrices on OpenCL: %s\n",
                      sizeof tests / sizeof tests[0], error.message);
        return 77;
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->close(device);
    return failed;
}
