/* SPDX-License-Identifier: Apache-2.0 */
/* What a test sets and reads in the test driver: its symbol test_driver_control, found in the
 * library that the loader opened. Zero is a well-behaved integrated GPU. */
#ifndef MIXBIT_TESTS_LEVEL_ZERO_CONTROL_H
#define MIXBIT_TESTS_LEVEL_ZERO_CONTROL_H

#include <level_zero/ze_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum live_kind {
    LIVE_CONTEXT,
    LIVE_QUEUE,
    LIVE_LIST,
    LIVE_POOL,
    LIVE_EVENT,
    LIVE_MODULE,
    LIVE_LOG,
    LIVE_KERNEL,
    LIVE_MEMORY,
    LIVE_KINDS
};

struct test_driver_control {
    /* Set by a test. */
    bool is_discrete; /* memory of its own, which the host cannot touch */
    bool no_device;   /* the driver lists none */
    bool not_a_gpu;
    bool no_clock;           /* no timestamps */
    unsigned spilling;       /* so many kernels, from now on, spill */
    uint64_t largest_buffer; /* 0: the OpenCL device's */
    uint32_t local_bytes;    /* 0: 64 KiB */
    const char
        *failing_call; /* "MemAllocShared": it fails, with failure, after so many that don't */
    ze_result_t failure;
    unsigned failing_after;

    /* Kept by the driver. */
    size_t live[LIVE_KINDS]; /* objects that nobody destroyed */
    size_t launches, copies, executed_lists;
    size_t last_groups;  /* of the last launch, along the rows of activations */
    size_t complaints;   /* wrong uses so far, each an error code as well */
    char complaint[160]; /* the first of them */
};

#endif
