/* SPDX-License-Identifier: Apache-2.0 */
/* Google Benchmark for C: the only door to it, so that one file of the project is C++. */
#ifndef MIXBIT_BENCH_SHIM_H
#define MIXBIT_BENCH_SHIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct shim_case {
    /* Called before timing, possibly several times; what it returns goes to run. NULL: skip, with
     * the reason in *why. */
    void *(*set_up)(void *arg, const char **why);
    void (*run)(void *ready, size_t iterations);
    void *arg;
    double macs, bytes; /* of one iteration */
    double bound_s;     /* no iteration can take less; 0: unknown */
};

/* The case must live until shim_run returns. */
void shim_register(const char *name, const struct shim_case *bench);

/* Take the flags that Google Benchmark knows out of argv. */
void shim_initialize(int *argc, char **argv);
/* Run what was registered and passes the filter; returns the exit status. */
int shim_run(void);

#ifdef __cplusplus
}
#endif
#endif
