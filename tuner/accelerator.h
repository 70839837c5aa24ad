/* SPDX-License-Identifier: Apache-2.0 */
/* The tuner of devices other than the CPU. */
#ifndef MIXBIT_TUNER_ACCELERATOR_H
#define MIXBIT_TUNER_ACCELERATOR_H

#include "dispatch/backend.h"
#include "tuner/tuner.h"

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

/* A row of `bench --device`: weights in the device's memory. */
struct mb_accelerator_row {
    /* By the device's clock, from a kernel's start to its end. The limit is always the read one. */
    struct mb_bench_row bench;
    size_t split;     /* parts of k in a group */
    size_t kernels;   /* tried */
    double read_ns;   /* reading as many bytes, in a launch that does nothing else; 0: unknown */
    double queued_ns; /* by the same clock, of products queued one behind the other */
    double call_ns;   /* as a host sees it: activations over, the product, results back */
};

/**
 * Measure one case (its residency means nothing) with the device's default kernel, or with `search`
 * with every one it has for the product, the fastest right one being the row. read_gbps comes from
 * mb_accelerator_read_gbps; 0 leaves the fraction 0.
 * Time     about 0.1 s a kernel besides building it. Memory: mb_trial_open's.
 * @return MB_OK; MB_ERR_SHAPE, MB_ERR_MEMORY, MB_ERR_DEVICE; MB_ERR_VERIFY when no kernel is right:
 * *row is filled then.
 */
enum mb_status mb_accelerator_bench(const struct mb_accelerator *accelerator,
                                    const struct mb_bench_case *bench, bool search,
                                    double read_gbps, struct mb_accelerator_row *row,
                                    struct mb_error *error);

/* How fast the device reads its memory, in GB/s: the best of several passes over up to a GiB, or
 * over pieces of it, each a launch of its own (piece bytes; 0: all). 0: its backend does not tell.
 */
enum mb_status mb_accelerator_read_gbps(const struct mb_accelerator *accelerator, size_t piece,
                                        double *gbps, struct mb_error *error);

#endif
