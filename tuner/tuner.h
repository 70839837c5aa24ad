/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the tuner layer: what the command line and mixbit-bench need beyond mixbit/profile.h.
 *
 * One row of `mixbit bench` is one product y = x * w on the pool's threads, timed by measure.c,
 * checked against f64, and set beside the limit of this machine that it runs into first. */
#ifndef MIXBIT_TUNER_H
#define MIXBIT_TUNER_H

#include "mixbit/profile.h"

struct mb_arena {
    void *data;
    size_t bytes;
};

struct mb_bench_case {
    enum mb_format format;
    size_t n, k, m;
    enum mb_residency residency;
    struct mb_arena *arena; /* memory that rows share (zeroed at first, mb_arena_free at the end: a
                               gigabyte is then faulted in once); NULL: the row has its own */
};
void mb_arena_free(struct mb_arena *arena);

/* What bounds a product: reading the weights, or multiplying them. */
enum mb_limit { MB_LIMIT_READ, MB_LIMIT_DOT, MB_LIMIT_FMA };
const char *mb_limit_name(enum mb_limit limit); /* "read", "dot", "fma" */

/* A row of `bench --json`, in the document's own words. */
struct mb_bench_row {
    enum mb_format format;
    size_t m, n, k, threads;
    enum mb_residency residency;
    char kernel[72];
    enum mb_activation activation;
    double median_ns, mad_ns, min_ns; /* activation preparation and dispatch included */
    double gmacs;                     /* m * n * k / median_ns */
    double weight_gbps;               /* weight bytes in GGUF form / median_ns */
    enum mb_limit limit;
    double fraction; /* of that limit: lower bound of the time / median_ns */
    double error;    /* RMS relative, against f64 */
    int failed;      /* 1: wrong results; the times mean nothing */
};

/**
 * Measure one case on the pool (NULL: this thread) with the kernels that the dispatch layer selects
 * now. `limits` comes from mb_limits_measure on the same pool in this process; NULL leaves limit
 * and fraction 0.
 * Time     about effort_s seconds (0: 0.1) besides set-up.
 * Memory   a working set of the residency: half the L2s, some L2s, or about 1 GB for memory.
 * @return MB_OK; MB_ERR_SHAPE (k does not fit the format), MB_ERR_MEMORY; MB_ERR_VERIFY when the
 * product is wrong, or when the row exceeds its limit by more than 2 % even after the limit was
 * measured again beside it: *row is filled, *error says which.
 */
enum mb_status mb_bench_run(const struct mb_bench_case *bench, struct mb_threads *threads,
                            const struct mb_limits *limits, double effort_s,
                            struct mb_bench_row *row, struct mb_error *error);

#endif
