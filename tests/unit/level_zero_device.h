/* SPDX-License-Identifier: Apache-2.0 */
/* The test driver's device, opened for each test: as a GPU that shares the host's memory, or as one
 * that has its own. */
#ifndef MIXBIT_TESTS_LEVEL_ZERO_DEVICE_H
#define MIXBIT_TESTS_LEVEL_ZERO_DEVICE_H

#include "unit/gpu_device.h"
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

#endif
