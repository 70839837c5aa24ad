/* SPDX-License-Identifier: Apache-2.0 */
/* Products with matrices whose columns have codes of different widths: 1 to 8 bits each, chosen per
 * column, mixed freely. All codes of one width share a codebook, or every column has one of its
 * own; a weight is
 *
 *   w[row][column] = scale[row][group of the column] * level[width of the column, or column][code]
 *
 * and single weights may have something added to them. That is how mixed precision by channel
 * stores a matrix (CMPQ, arXiv 2410.13056, has a codebook per channel): docs/method.md, and
 * docs/schemes.md for what it loses.
 *
 * Columns are multiplied in the order that they are given in; activations are gathered into it when
 * they are prepared, so they belong to one matrix. Nothing else costs time: outputs are in place.
 *
 * Numeric  levels are kept as whole numbers in a unit per codebook, the best of those that give the
 * largest one 64 to 127, of 3 bits 32 to 63, of fewer 16 to 31: at most half a unit is lost. Scales
 * are kept in f16 times a power of two for the matrix: 2^-11 relative down to 2^-29 of the largest,
 * less exact below. Activations, by column times the unit of its codebook, are int8 with a scale
 * per 32 values, in the order of storage; dots are exact. The same bits on every ISA, for every m,
 * range and number of threads. */
#ifndef MIXBIT_CODEBOOK_H
#define MIXBIT_CODEBOOK_H

#include "matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MB_CODEBOOK_MOST_BITS = 8 };

/** How the columns of w[n][k] are stored. Columns of one width and one group should follow each
 * other: each change of either starts a run, padded to a multiple of 32. Widths of 6 and 7 bits
 * take 8, with codebooks by column 5 does too. */
struct mb_codebook_columns {
    uint32_t size;         /* sizeof(struct mb_codebook_columns) */
    size_t n, k;           /* k < 2^28 */
    const uint32_t *order; /* [k]: which column is i-th, each once; NULL: as they are */
    const uint8_t *bits;   /* [k]: width of the i-th */
    const uint32_t *group; /* [k]: which of its row's scales the i-th has; NULL: the first */
    size_t groups;         /* scales of a row; 0: none, levels are the weights */
    float largest_scale;   /* no scale exceeds it; of no account where groups is 0 */
    const float *levels[MB_CODEBOOK_MOST_BITS + 1]; /* levels[b]: 2^b, where b is a width in use */
    size_t outliers;            /* weights that something is added to (mb_codebook_pack_outliers) */
    const float *column_levels; /* 2^bits[i] for each i, one behind the other: codebooks of the
                                   columns; NULL: `levels` are */
};

/** A packed matrix w[n][k]. `data` is 64-byte aligned and mb_codebook_size() bytes long. What is
 * below `data` is the library's. */
struct mb_codebook_weights {
    uint32_t size; /* sizeof(struct mb_codebook_weights) */
    size_t n, k, groups, outliers;
    void *data;
    size_t run_count, padded_k, panel_bytes, table_bytes, rows, row0;
    float scale_unit;
    int by_column; /* codebooks are the columns' own */
};

/** Bytes of a packed matrix. MB_ERR_SHAPE when n or k is 0, k too large, or a size overflows;
 * MB_ERR_ARGUMENT for a width, a group or a codebook that is not there. */
MB_API enum mb_status mb_codebook_size(const struct mb_codebook_columns *columns, size_t *bytes);

/**
 * Describe a packed matrix over the caller's memory, and write there what is not of single rows:
 * order, codebooks. *columns may go afterwards.
 * @return as mb_codebook_size; MB_ERR_ARGUMENT for data that is not 64-byte aligned too, for an
 * order that is none, and for a level or a largest scale that is not finite.
 */
MB_API enum mb_status mb_codebook_init(struct mb_codebook_weights *weights,
                                       const struct mb_codebook_columns *columns, void *data);

/**
 * Pack rows [row0, row1): codes [row1 - row0][k] by column (not by place in the order), scales
 * [row1 - row0][groups] (NULL where groups is 0).
 *
 * Memory   touches only the panels of 16 rows that hold these; packing the last row also fills the
 *          padding. Allocates 1 byte per column while it works.
 * Threads  re-entrant for ranges that share no panel.
 * @return MB_OK, MB_ERR_SHAPE (range), MB_ERR_ARGUMENT (a code beyond its width; a scale that is
 * negative, not finite or above the largest), MB_ERR_MEMORY; nothing is packed on error.
 */
MB_API enum mb_status mb_codebook_pack_rows(const struct mb_codebook_weights *weights,
                                            const uint8_t *codes, const float *scales, size_t row0,
                                            size_t row1);

/** One weight that `value` is added to. */
struct mb_codebook_outlier_at {
    uint32_t row, column;
    float value;
};
/** All of them, weights->outliers, by row, then by column. Before the first product, and not from
 * two threads. MB_ERR_ARGUMENT: out of range, out of order, or not finite. */
MB_API enum mb_status mb_codebook_pack_outliers(const struct mb_codebook_weights *weights,
                                                const struct mb_codebook_outlier_at *outliers);

/** Rows [n0, n1) as a matrix of their own, over the same memory; n0 a multiple of 16, n1 one or n.
 */
MB_API enum mb_status mb_codebook_view(const struct mb_codebook_weights *weights, size_t n0,
                                       size_t n1, struct mb_codebook_weights *view);

/** Bytes of m rows of activations, prepared for this matrix. */
MB_API enum mb_status mb_codebook_activations_size(const struct mb_codebook_weights *weights,
                                                   size_t m, size_t *bytes);
/**
 * Prepare rows [row0, row1) of x[m][k], x_stride apart, for this matrix. `activations` is 64-byte
 * aligned. Threads: re-entrant for ranges that share no row. A view has the activations of its
 * whole.
 */
MB_API enum mb_status mb_codebook_prepare(const struct mb_codebook_weights *weights, const float *x,
                                          size_t m, size_t x_stride, size_t row0, size_t row1,
                                          void *activations);

/** Bytes that mb_codebook_range needs for m rows, per thread; 64-byte aligned. */
MB_API enum mb_status mb_codebook_workspace_size(const struct mb_codebook_weights *weights,
                                                 size_t m, size_t *bytes);
/**
 * Multiply: y[r][j] for every row r < m and n0 <= j < n1.
 *
 * Shapes   y points at column 0 of row 0, rows y_stride >= n apart; n0 a multiple of 16, n1 one or
 *          n.
 * Memory   y must overlap nothing; nothing is allocated.
 * Threads  re-entrant; callers split n into ranges, each thread with a workspace of its own.
 * @return MB_OK, MB_ERR_SHAPE, MB_ERR_ARGUMENT (and what MIXBIT_ISA or MIXBIT_KERNEL is refused
 * with); y is untouched on error.
 */
MB_API enum mb_status mb_codebook_range(const struct mb_codebook_weights *weights,
                                        const void *activations, size_t m, size_t n0, size_t n1,
                                        float *y, size_t y_stride, void *workspace);

/** The convenience form: prepare x (m rows, x_stride apart) and multiply, on the pool's threads
 * (NULL: this one). Allocates its scratch once per pool. */
MB_API enum mb_status mb_codebook_matmul(struct mb_threads *threads,
                                         const struct mb_codebook_weights *weights, const float *x,
                                         size_t m, size_t x_stride, float *y, size_t y_stride);

/** Name of the kernel that serves these products (static string); many rows are decoded by it and
 * multiplied by that of q8_0. */
MB_API const char *mb_codebook_kernel(void);

/** Why each kernel for these products was taken or rejected, one line each, as mb_kernel_explain.
 */
MB_API void mb_codebook_explain(void (*line)(void *user, const char *text), void *user);

#ifdef __cplusplus
}
#endif
#endif
