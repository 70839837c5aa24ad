/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the dispatch layer: what the tuner and the tests need beyond the public headers.
 *
 * Registry = every kernel of every compiled ISA table. Selection = one choice per (format, m
 * class), made by walking the registry in the order of isa.def; a profile or MIXBIT_KERNEL
 * overrides it. */
#ifndef MIXBIT_DISPATCH_H
#define MIXBIT_DISPATCH_H

#include "kernels/kernel.h"
#include "mixbit/device.h"
#include "mixbit/matmul.h"

/* CPU features (enum mb_cpu_feature bits) that the CPU has and the OS saves; constant after the
 * first call. */
uint32_t mb_cpu_features(void);

/* Bit mask of allowed ISA levels (1 << enum mb_isa). */
uint32_t mb_isa_allowed_mask(void);
void mb_isa_set_allowed_mask(uint32_t mask); /* tests and tuner; clipped to what is supported */
const char *mb_isa_name(enum mb_isa isa);

size_t mb_registry_count(void);
const struct mb_kernel *mb_registry_at(size_t i);
const struct mb_kernel *mb_registry_find(const char *name);

/* What runs one matmul: prepare for the activations, gemv for m <= crossover (in chunks of
 * gemv->mr), gemm above. */
struct mb_selection {
    const struct mb_kernel *prepare;
    const struct mb_kernel *gemv[8]; /* candidates by mr; gemv[i] serves m = i + 1 (the smallest mr
                                        >= i + 1, or chunks) */
    struct mb_gemm_plan gemm;
    size_t crossover; /* largest m that gemv serves */
};

/* The selection for a format with its default activation type under the allowed mask; never fails
 * for a known format, since reference fills every slot. Cached; cheap. */
const struct mb_selection *mb_select(enum mb_format format);
/* Force a kernel into every slot it fits (tuner, MIXBIT_KERNEL); NULL lifts all overrides. Clears
 * the cache. */
enum mb_status mb_select_override(const struct mb_kernel *kernel);
/* Set by a profile that applies: crossover and kernels for a format. */
void mb_select_set(enum mb_format format, const struct mb_selection *selection);

/* mb_matmul_range with an explicit selection, what the tuner measures. */
enum mb_status mb_matmul_range_with(const struct mb_selection *selection,
                                    const struct mb_weights *weights,
                                    const struct mb_activations *activations, size_t n0, size_t n1,
                                    float *y, size_t y_stride, void *workspace);
size_t mb_workspace_bytes_with(const struct mb_selection *selection,
                               const struct mb_weights *weights, size_t m);

/* hwloc: caches, cores, kinds; fills the topology part of *info. */
enum mb_status mb_topology_fill(struct mb_device_info *info);

#endif
