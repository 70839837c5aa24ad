/* SPDX-License-Identifier: Apache-2.0 */
/* One MatMulNBits node of a session. */
#ifndef MIXBIT_PLUGIN_ORT_KERNEL_H
#define MIXBIT_PLUGIN_ORT_KERNEL_H

#include "node.h"

/* `type` is that of A; *kernel is to be destroyed. `packs`: at once, with mb_ort_pack_kernel. */
struct ort_status *mb_ort_create_kernel(const struct ort_table *table,
                                        const struct ort_kernel_info *info, int type,
                                        enum mb_ort_accuracy wish, bool packs, void **kernel);
/* Packs the weights where all are constants, and takes a constant bias; called once. */
struct ort_status *mb_ort_pack_kernel(void *kernel, const struct ort_kernel_info *info);
/* Whether the host's copy of an input is not read any more. */
bool mb_ort_has_packed(const void *kernel, size_t input);
/* Re-entrant, as the host may run a session on several threads. */
struct ort_status *mb_ort_compute(void *kernel, struct ort_kernel_context *context);
void mb_ort_destroy_kernel(void *kernel);

#endif
