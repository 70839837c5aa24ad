/* SPDX-License-Identifier: Apache-2.0 */
/* The backend that a program of tests is about, with an open device. */
#ifndef MIXBIT_TESTS_GPU_DEVICE_H
#define MIXBIT_TESTS_GPU_DEVICE_H

#include "dispatch/backend.h"

static const struct mb_backend *gpu; /* set by main */
static struct mb_backend_device *device;

#endif
