/* SPDX-License-Identifier: Apache-2.0 */
/* Integer-only products as cases of mixbit-bench. */
#ifndef MIXBIT_BENCH_INTEGER_H
#define MIXBIT_BENCH_INTEGER_H

#include "bench/copies.h"
#include "mixbit/integer.h"

struct bench_integer {
    struct mb_integer_weights weights; /* the first of the copies */
    struct bench_copies copies;
    size_t m;
    int8_t *x, *y;
    struct mb_threads *threads;
};
/* Random weights and input; `set_bytes` of copies to rotate through. MB_ERR_VERIFY when the kernel
 * does not give the reference's bits. */
enum mb_status bench_integer_create(struct bench_integer *product, size_t n, size_t k, size_t m,
                                    size_t set_bytes, struct mb_threads *threads);
void bench_integer_run(struct bench_integer *product, size_t iterations);
void bench_integer_free(struct bench_integer *product);

#endif
