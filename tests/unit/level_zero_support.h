/* SPDX-License-Identifier: Apache-2.0 */
/* The test driver behind the real loader: what tests of Level Zero need. */
#ifndef MIXBIT_TESTS_LEVEL_ZERO_SUPPORT_H
#define MIXBIT_TESTS_LEVEL_ZERO_SUPPORT_H

#include "dispatch/backend.h"
#include "level_zero/control.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct test_driver_control *driver;

/* Before the first call of Level Zero. False, and the reason on stderr, where the loader, or an
 * OpenCL that takes SPIR-V, is missing. `tests` go untested then. */
static inline bool driver_open(size_t tests)
{
    struct mb_error error = {0};
    size_t count;
    (void)setenv("ZE_ENABLE_ALT_DRIVERS", MIXBIT_TEST_DRIVER, 1);
    const enum mb_status status = mb_backend_level_zero.list(&count, &error);
    void *library = dlopen(MIXBIT_TEST_DRIVER, RTLD_NOW | RTLD_NOLOAD);
    if (status == MB_OK && library != NULL)
        driver = dlsym(library, "test_driver_control");
    if (driver != NULL)
        return true;
    (void)fprintf(stderr,
                  "SKIPPED %zu tests of Level Zero products: %s. They need libze1, and Intel's "
                  "OpenCL for CPUs (./quickstart test --full)\n",
                  tests, error.message);
    return false;
}

/* A well-behaved device again. */
static inline int driver_reset(void **state)
{
    (void)state;
    *driver = (struct test_driver_control){0};
    return 0;
}

/* Nothing was used wrongly and nothing is left. */
static inline int driver_is_clean(void **state)
{
    (void)state;
    if (driver->complaints > 0)
        print_error("%zu wrong uses, the first: %s\n", driver->complaints, driver->complaint);
    for (size_t i = 0; i < LIVE_KINDS; i++)
        if (driver->live[i] > 0)
            print_error("%zu live objects of kind %zu\n", driver->live[i], i);
    for (size_t i = 0; i < LIVE_KINDS; i++)
        if (driver->live[i] > 0)
            return -1;
    return driver->complaints > 0 ? -1 : 0;
}

#endif
