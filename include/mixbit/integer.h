/* SPDX-License-Identifier: Apache-2.0 */
/* Integer-only products: int8 rows in, int8 rows out, int32 sums and fixed-point requantization
 * between them; once a matrix is packed nothing is a float any more. For chains of products with
 * static (calibrated) activation scales, and for machines whose floats are slow.
 *
 * A grid says what an int8 code stands for: scale * (code - zero). Weights have one scale a row and
 * no zero point. With input grid (sx, zx), output grid (sy, zy) and the scale sw of an output row,
 *
 *   acc = bias + sum_k w[k] * (x[k] - zx)                        exact in int32
 *   y   = saturate(zy + floor((acc * mantissa + 2^(shift - 1)) / 2^shift))
 *
 * where mantissa * 2^-shift is sx * sw / sy to 31 bits (mantissa in [2^30, 2^31), shift in [21,
 * 63], nearest even) and saturate cuts to [-128, 127]: rounded once, to nearest, ties towards plus
 * infinity. The same bits on every ISA, for every m, range and number of threads.
 *
 * Source: Jacob et al. 2018, arXiv 1712.05877, sections 2.1, 2.2 and 2.4; docs/method.md. */
#ifndef MIXBIT_INTEGER_H
#define MIXBIT_INTEGER_H

#include "matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Codes c in [-128, 127] stand for scale * (c - zero). scale > 0 and finite, zero in [-128, 127].
 */
struct mb_integer_grid {
    float scale;
    int32_t zero;
};

/** A packed matrix w[n][k]. `data` is 64-byte aligned and mb_integer_size() bytes long. */
struct mb_integer_weights {
    uint32_t size; /* sizeof(struct mb_integer_weights) */
    size_t n, k;
    struct mb_integer_grid input, output;
    void *data;
};

/**
 * The grid that covers [least, most] and has a code for 0: 255 steps. A range that does not hold 0
 * is extended to it; one that is empty after that gets a scale of 1.
 * @return MB_OK, MB_ERR_ARGUMENT (not finite, or least > most).
 */
MB_API enum mb_status mb_integer_grid_of(float least, float most, struct mb_integer_grid *grid);

/** Codes of `count` floats: x / scale rounded to nearest even, plus zero, saturated; NaN becomes
 * the zero point. The entry of a chain. MB_ERR_ARGUMENT for an invalid grid. */
MB_API enum mb_status mb_integer_quantize(const struct mb_integer_grid *grid, const float *x,
                                          size_t count, int8_t *codes);
/** What codes stand for: the exit of a chain. */
MB_API enum mb_status mb_integer_dequantize(const struct mb_integer_grid *grid, const int8_t *codes,
                                            size_t count, float *x);

/** Bytes of a packed n x k matrix. MB_ERR_SHAPE when n or k is 0, k above 65536 (up to there no dot
 * leaves int32), or the size overflows. */
MB_API enum mb_status mb_integer_size(size_t n, size_t k, size_t *bytes);

/** Describe a packed matrix over the caller's memory (not touched). MB_ERR_ARGUMENT for an invalid
 * grid or data that is not 64-byte aligned. */
MB_API enum mb_status mb_integer_init(struct mb_integer_weights *weights, size_t n, size_t k,
                                      const struct mb_integer_grid *input,
                                      const struct mb_integer_grid *output, void *data);

/**
 * Quantize and pack rows [row0, row1): `rows` [row1 - row0][k] f32, `bias` [row1 - row0] f32 in
 * units of the output, NULL for none.
 *
 * Numeric  scale of a row: its largest magnitude / 127, nearest even; larger where a bias would not
 *          fit int32 otherwise (its weights are next to nothing beside it). Rows of zeros give the
 *          bias alone.
 * Memory   touches only the panels of 16 rows that hold these; packing the last row also fills the
 *          padding.
 * Threads  re-entrant for ranges that share no panel.
 * @return MB_OK, MB_ERR_SHAPE (range), MB_ERR_ARGUMENT (a weight or a bias is not finite),
 * MB_ERR_MEMORY; nothing is packed on error.
 */
MB_API enum mb_status mb_integer_pack_rows(const struct mb_integer_weights *weights,
                                           const float *rows, const float *bias, size_t row0,
                                           size_t row1);

/**
 * Pack rows [row0, row1) that are quantized already: codes [row1 - row0][k] within [-127, 127],
 * scales [row1 - row0] >= 0 (0: every output of the row is the zero point), bias [row1 - row0] in
 * units of input scale * row scale, NULL for none. Memory and threads as above.
 * @return MB_OK, MB_ERR_SHAPE (range), MB_ERR_ARGUMENT: a code of -128, a scale that is negative or
 * not finite, or a row that some input could take out of int32; nothing is packed on error.
 */
MB_API enum mb_status mb_integer_pack_codes(const struct mb_integer_weights *weights,
                                            const int8_t *codes, const float *scales,
                                            const int32_t *bias, size_t row0, size_t row1);

/**
 * Multiply: y[r][j] for every row r < m and n0 <= j < n1, as above.
 *
 * Shapes   x is [m][k] codes of the input grid, x_stride >= k apart; y points at column 0 of row 0,
 *          rows y_stride >= n apart, codes of the output grid; n0 a multiple of 16, n1 one or n.
 * Memory   y must overlap nothing; nothing behind a row's k or n entries is touched; no workspace,
 *          nothing is allocated.
 * Threads  re-entrant; callers split n into ranges.
 * @return MB_OK, MB_ERR_SHAPE, MB_ERR_ARGUMENT (and what MIXBIT_ISA or MIXBIT_KERNEL is refused
 * with); y is untouched on error.
 */
MB_API enum mb_status mb_integer_range(const struct mb_integer_weights *weights, const int8_t *x,
                                       size_t m, size_t x_stride, size_t n0, size_t n1, int8_t *y,
                                       size_t y_stride);

/** All columns, on the pool's threads (NULL: this one). */
MB_API enum mb_status mb_integer_matmul(struct mb_threads *threads,
                                        const struct mb_integer_weights *weights, const int8_t *x,
                                        size_t m, size_t x_stride, int8_t *y, size_t y_stride);

/** Name of the kernel that serves these products (static string). */
MB_API const char *mb_integer_kernel(void);

/** Why each kernel for these products was taken or rejected, one line each, as mb_kernel_explain.
 */
MB_API void mb_integer_explain(void (*line)(void *user, const char *text), void *user);

#ifdef __cplusplus
}
#endif
#endif
