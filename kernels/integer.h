/* SPDX-License-Identifier: Apache-2.0 */
/* Products of integers alone: int8 rows in, int8 rows out, nothing in floats once weights are
 * packed. An output is
 *
 *   acc = bias + sum_k w * (x - zx)                exact in int32
 *   y   = saturate(zy + floor((acc * mantissa + 2^(shift - 1)) / 2^shift))
 *
 * the second line exact in int64: one rounding, to nearest, ties towards plus infinity. mantissa in
 * [2^30, 2^31), shift in [21, 63]; each row of w has its own. Source: Jacob et al. 2018, arXiv
 * 1712.05877, section 2.2 (multiplier) and appendix B (why codes of weights end at -127: a product
 * is within 127 * 128, so that NEON adds two of them in int16). Theirs rounds twice, this once.
 *
 * Panel: 16 rows in P16K4 of coding b8 (panel.h), k padded to 16 with codes of 0, behind one
 * header:
 *
 *   [ start ][ negatives ][ mantissa ][ shift ]    int32 [16] each
 *   [ k / 4 ][ 16 ][ 4 ]                           code + 128
 *
 *   start      bias - zx * sum of the row's codes: what acc is where every x is 0
 *   negatives  sum of |code| over its negative codes: what dots with signs taken apart leave out
 *
 * Nothing has to be decoded, so one body serves any number of rows. */
#ifndef MIXBIT_KERNELS_INTEGER_H
#define MIXBIT_KERNELS_INTEGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MB_INTEGER_ROWS = 16,          /* of a panel */
    MB_INTEGER_STEP = 16,          /* k is padded to a multiple */
    MB_INTEGER_MOST_K = 1 << 16,   /* 127 * 255 * k stays below 2^31 */
    MB_INTEGER_LEAST_SHIFT = 21,   /* a multiplier of 512: any acc but 0 saturates */
    MB_INTEGER_LARGEST_SHIFT = 63, /* a multiplier that gives 0 for every acc */
};

struct mb_integer_header {
    int32_t start[MB_INTEGER_ROWS], negatives[MB_INTEGER_ROWS], mantissa[MB_INTEGER_ROWS],
        shift[MB_INTEGER_ROWS];
};

/* y[r][j] for r < m and j < n. x is [m][k]; nothing behind a row's k values or an output row's n is
 * touched. */
struct mb_integer_args {
    const uint8_t *panels; /* 64-byte aligned */
    size_t panel_bytes;
    size_t k, n, m;
    const int8_t *x;
    size_t x_stride;
    int32_t zero; /* zy */
    int8_t *y;
    size_t y_stride;
};
typedef void (*mb_integer_fn)(const struct mb_integer_args *args);

/* The rule above, after acc. */
static inline int8_t mb_integer_requantize(int32_t acc, int32_t mantissa, int32_t shift,
                                           int32_t zero)
{
    const int64_t half = INT64_C(1) << (shift - 1);
    const int64_t y = zero + (((int64_t)acc * mantissa + half) >> shift); /* rounds down */
    return (int8_t)(y < -128 ? -128 : y > 127 ? 127 : y);
}

/* mantissa * 2^-shift for a multiplier >= 0, to 31 bits; what is too large or too small for a
 * mantissa gets one with the same outputs. */
void mb_integer_multiplier(double multiplier, int32_t *mantissa, int32_t *shift);

static inline size_t mb_integer_padded_k(size_t k)
{
    return (k + MB_INTEGER_STEP - 1) / MB_INTEGER_STEP * MB_INTEGER_STEP;
}
static inline size_t mb_integer_panel_bytes(size_t k) /* k <= MB_INTEGER_MOST_K */
{
    return sizeof(struct mb_integer_header) + mb_integer_padded_k(k) * MB_INTEGER_ROWS;
}

/* Whether no input can take acc out of int32. */
bool mb_integer_fits(const int8_t *codes, size_t k, int64_t bias, int32_t input_zero);
/* One row into its lane of a panel; codes within 127 that mb_integer_fits. */
void mb_integer_pack_lane(uint8_t *panel, size_t lane, const int8_t *codes, size_t k, int32_t bias,
                          int32_t input_zero, double multiplier);
/* Rows that a matrix does not have. */
void mb_integer_clear_lane(uint8_t *panel, size_t lane, size_t k);

/* The meaning of all kernels of this kind. */
void mb_integer_reference(const struct mb_integer_args *args);

#endif
