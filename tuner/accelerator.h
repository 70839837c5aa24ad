/* SPDX-License-Identifier: Apache-2.0 */
/* The tuner of devices other than the CPU. */
#ifndef MIXBIT_TUNER_ACCELERATOR_H
#define MIXBIT_TUNER_ACCELERATOR_H

#include "dispatch/backend.h"

/* Entries of a device other than the CPU: its units are one "thread", and weights are in its
 * memory. */
enum { MB_ACCELERATOR_THREADS = 1 };
#define MB_ACCELERATOR_RESIDENCY MB_RESIDENCY_MEMORY

/**
 * mb_tune for such a device; the profile is its own (mb_profile_create_for). A cost is what a
 * product takes when the host waits for it: activations prepared and brought over, the kernel, the
 * results brought back. All kernels that the backend offers are tried at one shape a format, the
 * default and the best of those at the others.
 *
 * The CPU's options of residency, error limit and threads mean nothing here and are ignored. A
 * stale profile starts over; MB_ERR_STALE for another device's. At the time limit every product
 * still gets one figure.
 */
enum mb_status mb_tune_accelerator(struct mb_profile *profile, struct mb_accelerator *accelerator,
                                   const struct mb_tune_options *options, struct mb_error *error);

#endif
