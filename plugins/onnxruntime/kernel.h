/* SPDX-License-Identifier: Apache-2.0 */
/* One MatMulNBits node of a session. */
#ifndef MIXBIT_PLUGIN_ORT_KERNEL_H
#define MIXBIT_PLUGIN_ORT_KERNEL_H

#include "node.h"

/* Weights that are constant are packed now. `type` is that of A; *kernel is to be destroyed. */
struct ort_status *mb_ort_create_kernel(const struct ort_table *table,
                                        const struct ort_kernel_info *info, int type,
                                        enum mb_ort_accuracy wish, void **kernel);
/* Re-entrant, as the host may run a session on several threads. */
struct ort_status *mb_ort_compute(void *kernel, struct ort_kernel_context *context);
void mb_ort_destroy_kernel(void *kernel);

#endif
