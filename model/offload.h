/* SPDX-License-Identifier: Apache-2.0 */
/* A network whose products run on another device than the CPU, everything else staying here.
 *
 * Each matrix is uploaded once. A product brings its input over, waits, and brings the result back,
 * because what follows it is the CPU's; that is what the device's profile measures as well. Weights
 * that were not uploaded (one expert of a mixture, a matrix replaced for a probe) are multiplied on
 * the CPU. */
#ifndef MIXBIT_MODEL_OFFLOAD_H
#define MIXBIT_MODEL_OFFLOAD_H

#include "model/network.h"

struct mb_accelerator;
struct mb_offload;

/* Where products run. The accelerator stays open as long as the network lives. */
struct mb_offload_target {
    struct mb_accelerator *accelerator; /* NULL: the CPU, nothing is done, as without a target */
    const struct mb_profile *profile;   /* whose best kernels are taken at m = 1 and for many rows;
                                           NULL: the backend's default ones */
};
/* Upload the network's matrices; its products run there from now on. Numerics are those of the
 * formats' own kernels: MB_ERR_UNSUPPORTED for a network in f32. MB_ERR_MEMORY when the device has
 * no room. */
enum mb_status mb_network_offload(struct mb_network *network,
                                  const struct mb_offload_target *target, struct mb_error *error);
void mb_offload_free(struct mb_offload *offload); /* NULL allowed */

/* Whether all of these are on the device. */
bool mb_offload_has(const struct mb_offload *offload, size_t count,
                    const struct mb_weights *const *weights);
/* mb_run_multiply on the device. What a device says of a failure is logged. */
enum mb_status mb_offload_multiply(struct mb_offload *offload, const float *x, size_t x_stride,
                                   size_t rows, size_t count,
                                   const struct mb_weights *const *weights, float *const *y);

#endif
