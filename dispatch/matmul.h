/* SPDX-License-Identifier: Apache-2.0 */
/* One matrix product, checked and ready to run range by range: what matmul.c makes and parallel.c
 * spreads over threads. */
#ifndef MIXBIT_DISPATCH_MATMUL_H
#define MIXBIT_DISPATCH_MATMUL_H

#include "dispatch/dispatch.h"

struct mb_job {
    const struct mb_selection *selection;
    struct mb_activation_layout layout;
    struct mb_gemv_args args; /* of the whole matrix; args.layout is set when it runs */
    void *gemm_workspace;
};

/* MB_OK when the two fit together and MIXBIT_ISA, MIXBIT_KERNEL are sound. */
enum mb_status mb_check_operands(const struct mb_weights *weights,
                                 const struct mb_activations *activations);

/* Operands are checked; workspace has mb_workspace_bytes_with() bytes. Fills the bias sums. */
void mb_job_init(struct mb_job *job, const struct mb_selection *selection,
                 const struct mb_weights *weights, const struct mb_activations *activations,
                 float *y, size_t y_stride, void *workspace);
/* Columns [n0, n1) of all rows. Two threads may run one job's args, each with a workspace of its
 * own. */
void mb_job_run(const struct mb_job *job, size_t n0, size_t n1);
/* Panels that a thread takes at once: as many as wanted, rounded up to what the kernel has in
 * flight.
 */
size_t mb_kernel_step(const struct mb_kernel *kernel, size_t wanted);
/* The same for the kernel that serves m rows. */
size_t mb_selection_step(const struct mb_selection *selection, size_t m);
/* Bytes that gemv of m rows asks for ahead of its stream. */
size_t mb_selection_prefetch(const struct mb_selection *selection, size_t m);

#endif
