/* SPDX-License-Identifier: Apache-2.0 */
/* Products with codebook matrices as cases of mixbit-bench. */
#ifndef MIXBIT_BENCH_CODEBOOK_H
#define MIXBIT_BENCH_CODEBOOK_H

#include "bench/copies.h"
#include "mixbit/codebook.h"

/* Which widths a matrix has: shares of its columns; and whether each has a codebook of its own. */
struct bench_codebook_mix {
    const char *name;
    bool by_column;
    double share[MB_CODEBOOK_MOST_BITS + 1];
};
/* NULL past the last. */
const struct bench_codebook_mix *bench_codebook_mix(size_t i);

struct bench_codebook {
    struct mb_codebook_weights weights; /* the first of the copies */
    struct bench_copies copies;
    size_t m;
    float *x, *y;
    struct mb_threads *threads;
};
/* Random weights, in groups of 128 columns where the mix has scales, and random input; `set_bytes`
 * of copies to rotate through. MB_ERR_VERIFY when the kernels do not give the reference's bits. */
enum mb_status bench_codebook_create(struct bench_codebook *product,
                                     const struct bench_codebook_mix *mix, size_t n, size_t k,
                                     size_t m, size_t set_bytes, struct mb_threads *threads);
/* Bytes of one copy. */
enum mb_status bench_codebook_bytes(const struct bench_codebook_mix *mix, size_t n, size_t k,
                                    size_t *bytes);
void bench_codebook_run(struct bench_codebook *product, size_t iterations);
void bench_codebook_free(struct bench_codebook *product);

#endif
