/* SPDX-License-Identifier: Apache-2.0 */
/* The machine: CPU features and ISA levels, caches and cores, and which kernels serve which format.
 */
#ifndef MIXBIT_DEVICE_H
#define MIXBIT_DEVICE_H

#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MB_MAX_CORE_KINDS 4
#define MB_MAX_ISA 16

/** What is known about this CPU, or about another device of this machine. Strings are
 * NUL-terminated and never NULL; sizes are 0 when unknown. */
struct mb_device_info {
    uint32_t size;  /* sizeof(struct mb_device_info), set by the caller */
    char name[128]; /* brand string */
    char vendor[32];
    uint32_t family, model, stepping;
    char features[512];    /* space-separated, as the OS lets us use them */
    size_t cores, threads; /* allowed to this process (affinity and cgroup respected) */
    size_t core_kinds;
    struct {
        char name[32];
        size_t cores;
    } kinds[MB_MAX_CORE_KINDS];
    size_t l1d_bytes, l2_bytes, l3_bytes; /* l1d and l2 of one core; l3 of all caches reachable */
    size_t l3_shared_by;                  /* cores per L3 */
    size_t memory_bytes;
    char os[128];     /* kernel name and release */
    char build[128];  /* library version, compiler */
    char key[64];     /* hex digest of what must match for a profile to be of this device */
    char backend[16]; /* what runs products on it: "cpu", "opencl", "level-zero" */
};

/** Fill *info for this machine. Re-entrant; the first call detects (about 20 ms), later ones copy.
 */
MB_API enum mb_status mb_device_info(struct mb_device_info *info);

/** One ISA level of this build. */
struct mb_isa_info {
    const char *name;
    int supported; /* CPU and OS offer all it needs */
    int allowed;   /* supported, and in MIXBIT_ISA when that is set */
    char why[128]; /* why not, "" when allowed */
};

/** The i-th level in the order of isa.def; MB_ERR_ARGUMENT past the end. */
MB_API enum mb_status mb_isa_info(size_t i, struct mb_isa_info *info);

/**
 * Restrict the levels to a comma-separated list ("avx2,avx512vnni"; NULL or "" lifts it).
 * `reference` is always allowed. MIXBIT_ISA does the same from outside. MB_ERR_ARGUMENT (with the
 * known names in *error) on an unknown name. Not thread-safe: call it before, or between, matmuls.
 */
MB_API enum mb_status mb_isa_allow(const char *list, struct mb_error *error);

/** Name of the kernel that would serve this (static string), NULL when k does not fit the format. m
 * picks gemv or gemm. */
MB_API const char *mb_kernel_for(enum mb_format format, size_t n, size_t k, size_t m);

/** Why each kernel for a format was taken or rejected, one line each, through `line`. What `probe
 * --why` prints. */
MB_API void mb_kernel_explain(enum mb_format format, size_t m,
                              void (*line)(void *user, const char *text), void *user);

#ifdef __cplusplus
}
#endif
#endif
