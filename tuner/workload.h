/* SPDX-License-Identifier: Apache-2.0 */
/* One matrix to multiply by, at one residency, with everything a timing and a check need: copies of
 * the packed weights that the product walks through in turn, activations, and exact results.
 *
 * Residency is made by rotation: each product takes the next copy, so a copy is read again only
 * after the whole working set went by. Exactness is cheap because rows repeat: weight rows with
 * period 67, activation rows with period 7 (primes, so that every lane and tile position meets
 * every distinct row), which leaves 469 dot products to do in f64 and still judges every output. */
#ifndef MIXBIT_TUNER_WORKLOAD_H
#define MIXBIT_TUNER_WORKLOAD_H

#include "dispatch/dispatch.h"
#include "mixbit/codebook.h"
#include "tuner/tuner.h"

enum { MB_WORKLOAD_WEIGHT_PERIOD = 67, MB_WORKLOAD_ACTIVATION_PERIOD = 7 };

/* Bytes that all copies together should have to be at home in a residency: half of the L2s, some
 * L2s but at most half of the L3, four L3s and at least 1 GB (a quarter of the memory at most). */
size_t mb_working_set_bytes(const struct mb_device_info *device, enum mb_residency residency,
                            size_t threads);

/* Make room for copies, old content lost; false when out of memory. */
bool mb_arena_reserve(struct mb_arena *arena, size_t bytes);

struct mb_workload {
    enum mb_format format;
    size_t n, k, m, m_capacity; /* m: rows of the next product, at most m_capacity */
    struct mb_threads *threads;
    struct mb_weights weights;        /* .data: the first copy */
    struct mb_codebook_weights books; /* over the same bytes, of formats of codebooks */
    size_t copies, copy_bytes, cursor;
    float *x, *y;
    double *exact; /* [activation period][weight period] */
    struct mb_activations activations;
    enum mb_status status; /* of the products so far; the first failure stays */
};

/**
 * Make weights (Gaussian, quantized), packed copies in *arena, activations for up to m rows, and
 * the exact products. `working_set` 0: one copy.
 * MB_ERR_SHAPE when k does not fit the format, MB_ERR_MEMORY. Free with mb_workload_free.
 */
enum mb_status mb_workload_create(struct mb_workload *workload, enum mb_format format, size_t n,
                                  size_t k, size_t m, size_t working_set,
                                  struct mb_threads *threads, struct mb_arena *arena,
                                  struct mb_error *error);
void mb_workload_free(struct mb_workload *workload);

/* What weights of any kind have in common: activations, outputs, and room in the arena for as many
 * copies of `packed` bytes as the working set has; then exact results of `rows` distinct rows. */
enum mb_status mb_workload_room(struct mb_workload *workload, size_t packed, size_t working_set,
                                struct mb_arena *arena);
void mb_workload_fill_exact(struct mb_workload *workload, const float *weights, size_t rows);
/* A codebook matrix in its first copy (workload_codebook.c): of columns as wide as the encoder
 * makes them for the format's bits, of random codes. */
enum mb_status mb_workload_make_books(struct mb_workload *workload, size_t working_set,
                                      struct mb_arena *arena);

/* `iterations` products with what the dispatch layer selects, each on the next copy. */
void mb_workload_run(struct mb_workload *workload, size_t iterations);
/* `iterations` preparations of the m activation rows, spread over threads as a product does it. */
void mb_workload_prepare(struct mb_workload *workload, size_t iterations);

/* Results that somebody computed from the same weights and activations ([m][n]) against the exact
 * ones: *error is RMS over RMS of the exact, *worst the largest single one over the same; NaN where
 * a result is. */
void mb_workload_compare(const struct mb_workload *workload, const float *y, double *error,
                         double *worst);
/* The same as a verdict: *failed is set when the error is above `bound` or any single output is off
 * by far more than rounding; *error is finite, as a profile wants it. */
void mb_workload_judge_results(const struct mb_workload *workload, const float *y, double bound,
                               double *error, int *failed);
/* One product, compared with the exact one: *error is RMS over RMS of the exact; *failed is set
 * when that is above the format's bound (0.03 where a profile or a candidate set another type of
 * activations than the default) or any single output is off by far more than rounding. */
enum mb_status mb_workload_check(struct mb_workload *workload, double *error, int *failed);

/* What was timed in turns with a product: the clock, which peaks are moved to, and reading the same
 * weights, at the pace of the product's median. 0: unknown. */
struct mb_beside {
    double clock_ghz, read_gbps;
};

/* Set limit and fraction of a row whose times and kernel are known (tuner/bench.c). MB_ERR_VERIFY
 * with the reason when it stays above the limit after both were measured again; row->fraction is
 * then that of the last look. */
enum mb_status mb_workload_judge(struct mb_workload *workload, const struct mb_limits *limits,
                                 double effort_s, const struct mb_beside *beside,
                                 struct mb_bench_row *row, struct mb_error *error);

#endif
