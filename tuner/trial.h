/* SPDX-License-Identifier: Apache-2.0 */
/* One matrix on a device other than the CPU, with what tuning and benching it need alike: copies
 * that a product walks through in turn, so that weights come from the device's memory and not from
 * its caches, an input, an output, and exact results (tuner/workload.h) to judge a kernel by. */
#ifndef MIXBIT_TUNER_TRIAL_H
#define MIXBIT_TUNER_TRIAL_H

#include "dispatch/backend.h"
#include "tuner/workload.h"

enum { MB_TRIAL_COPIES = 64 };

struct mb_trial {
    const struct mb_accelerator *accelerator;
    struct mb_workload workload; /* .m: rows of the next product */
    struct mb_backend_weights *copies[MB_TRIAL_COPIES];
    size_t copy_count, cursor;
    struct mb_backend_input *input;
    struct mb_backend_output *output;
    float *zeros;          /* [m][k] */
    enum mb_status status; /* of the products so far; the first failure stays */
    struct mb_error *error;
};

/* What may be taken of a device's memory to read from where `wanted` bytes are: at most a GiB, and
 * a quarter of the memory. */
size_t mb_trial_room(const struct mb_accelerator *accelerator, size_t wanted);

/* Products of up to m rows. Copies add up to about `set` bytes, but at most to mb_trial_room, and
 * there are at most 64. Packed copies on the host are in *arena. MB_ERR_SHAPE,
 * MB_ERR_MEMORY, or what the device refused. */
enum mb_status mb_trial_open(struct mb_trial *trial, const struct mb_accelerator *accelerator,
                             enum mb_format format, struct mb_shape shape, size_t m, size_t set,
                             struct mb_arena *arena, struct mb_error *error);
void mb_trial_close(struct mb_trial *trial);

/* Bring the activations over. */
void mb_trial_write(struct mb_trial *trial);
/* Queue one product, on the next copy. */
void mb_trial_multiply(struct mb_trial *trial, const struct mb_backend_kernel *kernel);
/* A product as a host sees it: activations over, the product, results back. */
void mb_trial_call(struct mb_trial *trial, const struct mb_backend_kernel *kernel);

/* One product, compared with the exact one, after the results were filled with those of zeros: a
 * kernel that writes nothing must not pass because an earlier one was right. `spoiler`: a kernel
 * that can do that. */
enum mb_status mb_trial_check(struct mb_trial *trial, const struct mb_backend_kernel *kernel,
                              const struct mb_backend_kernel *spoiler, double *error, int *failed);

#endif
