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
/* Names of the features in a mask, space-separated. */
void mb_cpu_feature_names(uint32_t features, char *text, size_t bytes);
/* Fills vendor, brand, family, model and stepping of *info, where CPUID tells them. */
void mb_cpu_identify(struct mb_device_info *info);

/* Bit mask of allowed ISA levels (1 << enum mb_isa). */
uint32_t mb_isa_allowed_mask(void);
void mb_isa_set_allowed_mask(uint32_t mask); /* tests and tuner; clipped to what is supported */
const char *mb_isa_name(enum mb_isa isa);
bool mb_isa_is_supported(enum mb_isa isa); /* in this build, and offered by CPU and OS */
/* MB_ERR_ARGUMENT and the reason when MIXBIT_ISA holds an unknown name. */
enum mb_status mb_isa_environment(struct mb_error *error);

size_t mb_registry_count(void);
const struct mb_kernel *mb_registry_at(size_t i);
const struct mb_kernel *mb_registry_find(const char *name);
size_t mb_registry_level_count(enum mb_isa isa); /* kernels of one level; 0: not in this build */
/* What a level has for encoding (kernels/encode.h); NULL: nothing of its own. */
const struct mb_encode_ops *mb_registry_encode(enum mb_isa isa);
/* The fastest of those that are allowed. */
const struct mb_encode_ops *mb_select_encode(void);

/* What runs one matmul: prepare for the activations, gemv for m <= crossover (in chunks of
 * gemv->mr), gemm above. */
struct mb_selection {
    enum mb_activation activation; /* of all its kernels */
    const struct mb_kernel *prepare;
    const struct mb_kernel *gemv[8]; /* candidates by mr; gemv[i] serves m = i + 1 (the smallest mr
                                        >= i + 1, or chunks) */
    struct mb_gemm_plan gemm;
    size_t crossover;              /* largest m that gemv serves */
    size_t prefetch, row_prefetch; /* bytes that gemv asks for ahead of its stream at several rows
                                      and at one; 0: none */
    size_t gemv_step, gemm_step; /* panels that a thread takes at once at least; rounded up to what
                                    the kernel has in flight */
};

/* The selection for a format under the allowed mask, with its default activation type or the one
 * that a profile chose; never fails for a known format, since reference fills every slot. Cached;
 * cheap. */
const struct mb_selection *mb_select(enum mb_format format);
/* With activations of this type; NULL when the format can't be multiplied by them. */
const struct mb_selection *mb_select_as(enum mb_format format, enum mb_activation activation);
/* Without any profile, for a known format and a type that it can be multiplied by; made anew at
 * every call. */
struct mb_selection mb_select_default(enum mb_format format, enum mb_activation activation);
/* The prepare kernel of an activation type. */
const struct mb_kernel *mb_select_prepare(enum mb_activation activation);
/* MB_OK, or the reason when MIXBIT_ISA or MIXBIT_KERNEL cannot be honoured (an unknown name): every
 * public entry point that multiplies returns it. */
enum mb_status mb_select_environment(struct mb_error *error);
/* Whether a kernel can take its part in a matmul of this format with its activation type. */
bool mb_kernel_fits(const struct mb_kernel *kernel, const struct mb_format_info *info);
/* The row of a known format with another activation type in it. */
struct mb_format_info mb_format_as(enum mb_format format, enum mb_activation activation);
void mb_select_clear(void); /* forget cached choices; the next mb_select makes them anew */
/* Force a kernel into every slot it fits (tuner, MIXBIT_KERNEL); NULL lifts all overrides. Clears
 * the cache. */
enum mb_status mb_select_override(const struct mb_kernel *kernel);
/* The kernel of the override or of MIXBIT_KERNEL; NULL: none. */
const struct mb_kernel *mb_select_forced(void);
/* Set by a profile that applies: activation type, crossover and kernels for a format (NULL ones
 * keep the default); a NULL selection lifts it. */
void mb_select_set(enum mb_format format, const struct mb_selection *selection);

/* mb_matmul_range with an explicit selection, what the tuner measures. */
enum mb_status mb_matmul_range_with(const struct mb_selection *selection,
                                    const struct mb_weights *weights,
                                    const struct mb_activations *activations, size_t n0, size_t n1,
                                    float *y, size_t y_stride, void *workspace);
size_t mb_workspace_bytes_with(const struct mb_selection *selection,
                               const struct mb_weights *weights, size_t m);

/* As mb_threads_run, for tasks that claim their work: threads that have not come by the time the
 * caller has finished (a virtual CPU may be away for milliseconds) are not waited for and do not
 * run the task at all. */
void mb_threads_offer(struct mb_threads *threads,
                      void (*task)(void *arg, size_t index, size_t count), void *arg);
/* Inside a task of mb_threads_run: wait until every thread of the pool has come here. */
void mb_threads_barrier(struct mb_threads *threads);
/* Memory of thread `index` for the library's own matmuls, apart from the public scratch. */
void *mb_threads_workspace(struct mb_threads *threads, size_t index, size_t bytes);
/* Split units [0, total) over the pool: before a run, from the thread that starts it. */
void mb_threads_split(struct mb_threads *threads, size_t total);
/* The next piece for thread `index`, in multiples of `step` units: from its own contiguous share
 * first, then from the shares of slower threads. False when nothing is left. */
bool mb_threads_claim(struct mb_threads *threads, size_t index, size_t step, size_t *begin,
                      size_t *end);

/* hwloc: caches, cores, kinds; fills the topology part of *info. */
enum mb_status mb_topology_fill(struct mb_device_info *info);

#endif
