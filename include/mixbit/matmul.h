/* SPDX-License-Identifier: Apache-2.0 */
/* The third door: matrix multiplication on packed weights, for any runtime. Unstable until 1.0.
 *
 *   pack once      mb_weights_init, mb_pack_size, mb_pack_rows
 *   per layer      mb_activations_init, mb_activations_prepare   (shared by every matmul that reads
 * the same input) per thread     mb_matmul_range over its own range of outputs, with its own
 * workspace
 *
 * Nothing allocates, nothing starts threads, every struct is caller-owned and may be copied.
 * mb_matmul at the end is the convenience form on the library's own threads.
 *
 * The same inputs give the same bits on every ISA, for every split of n and m and every thread
 * count (kernels/kernel.h states the arithmetic). */
#ifndef MIXBIT_MATMUL_H
#define MIXBIT_MATMUL_H

#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A packed weight matrix w[n][k]. `data` is 64-byte aligned and mb_pack_size() bytes long. */
struct mb_weights {
    uint32_t size; /* sizeof(struct mb_weights) */
    enum mb_format format;
    size_t n, k;
    void *data;
};

/** Prepared activations x[m][k]: m row records of row_bytes each, 64-byte aligned. */
struct mb_activations {
    uint32_t size; /* sizeof(struct mb_activations) */
    enum mb_activation type;
    size_t m, k;
    size_t row_bytes;
    void *data;
};

/** Bytes of the packed form of an n x k matrix; MB_ERR_SHAPE when k is no multiple of the format's
 * block or it overflows; MB_ERR_UNSUPPORTED for formats of codebook matrices, which pack themselves
 * (codebook.h). */
MB_API enum mb_status mb_pack_size(enum mb_format format, size_t n, size_t k, size_t *bytes);

/** Describe a packed matrix over the caller's memory (not touched). MB_ERR_ARGUMENT when data is
 * not 64-byte aligned. */
MB_API enum mb_status mb_weights_init(struct mb_weights *weights, enum mb_format format, size_t n,
                                      size_t k, void *data);

/**
 * Pack rows [row0, row1): src holds those rows in GGUF's own layout, row0 first.
 * Memory   touches only the bytes of the panels that hold these rows; padding lanes are zeroed with
 * the last row. Threads  re-entrant for ranges that share no panel of 16 rows.
 */
MB_API enum mb_status mb_pack_rows(const struct mb_weights *weights, const void *src, size_t row0,
                                   size_t row1);

/** The inverse of mb_pack_rows: the canonical GGUF bytes of rows [row0, row1). */
MB_API enum mb_status mb_unpack_rows(const struct mb_weights *weights, size_t row0, size_t row1,
                                     void *dst);

/** The type of activations that a format is multiplied by unless the caller says otherwise: its
 * default (mb_format_info), or what a profile that was applied chose within its error limit. */
MB_API enum mb_activation mb_matmul_activation(enum mb_format format);
/** Whether a format can be multiplied by activations of this type: by its default type always. */
MB_API bool mb_matmul_supports(enum mb_format format, enum mb_activation activation);

/** Bytes that m prepared rows of k activations take; MB_ERR_SHAPE when k is no multiple of 32
 * (int8 types; floats take any k). */
MB_API enum mb_status mb_activations_size(enum mb_activation type, size_t m, size_t k,
                                          size_t *bytes);
MB_API enum mb_status mb_activations_init(struct mb_activations *activations,
                                          enum mb_activation type, size_t m, size_t k, void *data);

/**
 * Quantize (or round, or copy) rows [row0, row1) of x, row-major f32, x_stride floats apart, x
 * pointing at row 0. Numeric  amax / 127 per group, round to nearest even. Non-finite inputs give
 * an unspecified but defined row (no trap). Threads  re-entrant for disjoint row ranges.
 */
MB_API enum mb_status mb_activations_prepare(const struct mb_activations *activations,
                                             const float *x, size_t x_stride, size_t row0,
                                             size_t row1);

/** Bytes of workspace one thread needs for mb_matmul_range on these operands (any range); may be 0.
 */
MB_API enum mb_status mb_workspace_size(const struct mb_weights *weights,
                                        const struct mb_activations *activations, size_t *bytes);

/**
 * Multiply: y[r][j] = sum_k x[r][k] * w[j][k] for every row r of the activations and n0 <= j < n1.
 *
 * Shapes   n0 a multiple of 16; n1 a multiple of 16 or n. y points at column 0 of row 0, y_stride
 * >= n floats. Memory   y must overlap nothing; workspace is mb_workspace_size() bytes, 64-byte
 * aligned; nothing is allocated. Threads  re-entrant; callers split n into ranges. Numeric  int32
 * dot exact; relative RMS error below mb_format_info(format)->error_bound against the dequantized
 *          product in f64, for the format's default activation type (others: coarser or finer,
 *          docs/measuring.md "Activation types").
 *          Zeros give zeros; a weight or a scale that is no number, or infinite, makes the outputs
 * of its row so, and no others. Source   layout: kernels/panel.h; arithmetic: kernels/kernel.h.
 * @return MB_OK, MB_ERR_SHAPE, MB_ERR_UNSUPPORTED (not mb_matmul_supports()); y is
 * untouched on error.
 */
MB_API enum mb_status mb_matmul_range(const struct mb_weights *weights,
                                      const struct mb_activations *activations, size_t n0,
                                      size_t n1, float *y, size_t y_stride, void *workspace);

/** Threads with their own workspace; one matmul at a time. Not thread-safe. */
struct mb_threads;

/** A pool of `count` threads, the caller included; 0 means one per physical core of the best kind
 * that is allowed. */
MB_API enum mb_status mb_threads_create(size_t count, struct mb_threads **threads);

/** Runs task(arg, index, count) for every index below count, all at the same time and index 0 on
 * the calling thread, and returns when all have returned. A host that can't have so many threads
 * now runs task(arg, 0, 1) instead. */
typedef void (*mb_threads_host)(void *user, void (*task)(void *arg, size_t index, size_t count),
                                void *arg, size_t count);

/**
 * A pool of `count` threads that belong to the host: for a runtime that has a team of its own, next
 * to which a second one would fight for the same cores. No thread is started.
 * Threads  tasks wait for one another, so `host` must have all `count` of them run at once.
 */
MB_API enum mb_status mb_threads_create_hosted(size_t count, mb_threads_host host, void *user,
                                               struct mb_threads **threads);
MB_API void mb_threads_destroy(struct mb_threads *threads);
MB_API size_t mb_threads_count(const struct mb_threads *threads);

/** Run task(arg, index, count) on every thread of the pool and return when all are done. threads
 * NULL: index 0 of 1. */
MB_API void mb_threads_run(struct mb_threads *threads,
                           void (*task)(void *arg, size_t index, size_t count), void *arg);

/** At least `bytes` of 64-byte aligned scratch memory that belongs to thread `index`; NULL when out
 * of memory. */
MB_API void *mb_threads_scratch(struct mb_threads *threads, size_t index, size_t bytes);

/**
 * The convenience form: prepare x (m rows of f32, x_stride apart) and multiply, on the pool's
 * threads (NULL: this one). Allocates its scratch once per pool. Use the pieces above when several
 * matmuls share an input.
 */
MB_API enum mb_status mb_matmul(struct mb_threads *threads, const struct mb_weights *weights,
                                const float *x, size_t m, size_t x_stride, float *y,
                                size_t y_stride);

/**
 * Up to 16 products in one dispatch (q/k/v, gate/up): y[i] gets activations[i] times weights[i].
 * The bits are those of the separate products.
 *
 * Shapes   every entry has its own n, k, m and activation type; entries of `activations` may be
 * equal, which is how products share an input, and matrices of several activation types share one
 * dispatch. Rows of y[i] lie y_stride[i] floats apart. Memory   y[i] must overlap nothing; scratch
 * is the pool's, allocated once. Threads  on the pool's (NULL: this one); activations are prepared
 * before.
 * @return MB_OK, or what mb_matmul_range returns for the first entry that does not fit;
 * MB_ERR_MEMORY; MB_ERR_ARGUMENT for more than 16. No y is touched on error.
 */
MB_API enum mb_status mb_matmul_group(struct mb_threads *threads, size_t count,
                                      const struct mb_weights *const *weights,
                                      const struct mb_activations *const *activations,
                                      float *const *y, const size_t *y_stride);

#ifdef __cplusplus
}
#endif
#endif
