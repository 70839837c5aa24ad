/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments and their factor (kernels/gram.h), once per ISA level.
 *
 * X is packed in panels of 16 columns, so that a tile of sums reads two short streams that stay in
 * L1. A tile is 16 columns of H in registers by as many rows as there are registers for: 16 with
 * AVX-512, else 4, in halves where even 4 x 16 are too many. Every sum goes through the rows of X
 * in order, whatever the tile. */
#ifndef MIXBIT_KERNELS_SIMD_GRAM_H
#define MIXBIT_KERNELS_SIMD_GRAM_H

#include "kernels/gram.h"
#include "kernels/simd/lanes.h"

#include <math.h>

enum {
    GRAM_ROWS = F_LANES == 16 ? 16 : 4,
    GRAM_REGISTERS = F_LANES == 16 ? 1 : 2,
    GRAM_COLUMNS = GRAM_REGISTERS * F_LANES
};

static void gram_add_tile(float *h, size_t stride, const float *left, const float *right,
                          size_t rows, float sign)
{
    f_lanes sum[GRAM_ROWS][GRAM_REGISTERS] = {{{0}}};
    for (size_t r = 0; r < rows; r++, left += MB_GRAM_PANEL, right += MB_GRAM_PANEL) {
        f_lanes x[GRAM_REGISTERS];
#pragma GCC unroll 2
        for (size_t c = 0; c < GRAM_REGISTERS; c++)
            x[c] = f_load(right + c * F_LANES);
#pragma GCC unroll 16
        for (size_t i = 0; i < GRAM_ROWS; i++)
#pragma GCC unroll 2
            for (size_t c = 0; c < GRAM_REGISTERS; c++)
                sum[i][c] += left[i] * x[c];
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < GRAM_ROWS; i++)
#pragma GCC unroll 2
        for (size_t c = 0; c < GRAM_REGISTERS; c++) {
            float *at = h + i * stride + c * F_LANES;
            f_store(at, f_load(at) + sign * sum[i][c]);
        }
}

static void gram_add_panel(float *h, size_t stride, size_t panel, const float *packed, size_t rows,
                           float sign)
{
    const float *left = packed + panel * rows * MB_GRAM_PANEL;
    for (size_t p = 0; p <= panel; p++)
        for (size_t c = 0; c < MB_GRAM_PANEL; c += GRAM_COLUMNS)
            for (size_t i = 0; i < MB_GRAM_PANEL; i += GRAM_ROWS)
                gram_add_tile(h + (panel * MB_GRAM_PANEL + i) * stride + p * MB_GRAM_PANEL + c,
                              stride, left + i, packed + p * rows * MB_GRAM_PANEL + c, rows, sign);
}

static void gram_add(float *h, size_t stride, size_t k, const float *packed, size_t rows,
                     float sign, size_t first, size_t last)
{
    const size_t panels = k / MB_GRAM_PANEL;
    for (size_t pair = first; pair < last; pair++) {
        const size_t mirror = panels - 1 - pair;
        gram_add_panel(h, stride, pair, packed, rows, sign);
        if (mirror != pair)
            gram_add_panel(h, stride, mirror, packed, rows, sign);
    }
}

static void gram_cross(float *c, size_t k, const float *left, const float *right, size_t rows,
                       size_t first, size_t last)
{
    for (size_t panel = first; panel < last; panel++)
        for (size_t p = 0; p < k / MB_GRAM_PANEL; p++)
            for (size_t j = 0; j < MB_GRAM_PANEL; j += GRAM_COLUMNS)
                for (size_t i = 0; i < MB_GRAM_PANEL; i += GRAM_ROWS)
                    gram_add_tile(c + (panel * MB_GRAM_PANEL + i) * k + p * MB_GRAM_PANEL + j, k,
                                  left + panel * rows * MB_GRAM_PANEL + i,
                                  right + p * rows * MB_GRAM_PANEL + j, rows, 1.0f);
}

/* From the last row to the first: once a row of M is known, what is left of H is H - M_j^T M_j. */
static bool gram_factor_rows(float *h, size_t k, size_t row0, size_t row1)
{
    for (size_t j = row1; j-- > row0;) {
        float *row = h + j * k;
        if (!(row[j] > 0.0f) || !isfinite(row[j]))
            return false;
        const float root = sqrtf(row[j]), inverse = 1.0f / root;
        row[j] = root;
        for (size_t c = 0; c < j; c++)
            row[c] *= inverse;
        for (size_t i = row0; i < j; i++) {
            float *other = h + i * k;
            const float factor = row[i];
            size_t c = 0;
            for (; c + F_LANES <= i + 1; c += F_LANES)
                f_store(other + c, f_load(other + c) - factor * f_load(row + c));
            for (; c <= i; c++)
                other[c] -= factor * row[c];
        }
    }
    return true;
}

/* v - factor * u for one entry of 16 right-hand sides */
static void gram_subtract(float *v, float factor, const float *u)
{
#pragma GCC unroll 4
    for (size_t c = 0; c < MB_GRAM_PANEL; c += F_LANES)
        f_store(v + c, f_load(v + c) - factor * f_load(u + c));
}

static void gram_solve(const float *factor, size_t k, float *v)
{
    for (size_t j = k; j-- > 0;) /* the transpose of N, from below */
        for (size_t i = 0; i < j; i++)
            gram_subtract(v + i * MB_GRAM_PANEL, factor[j * k + i], v + j * MB_GRAM_PANEL);
    for (size_t j = 0; j < k; j++)
        for (size_t c = 0; c < MB_GRAM_PANEL; c++)
            v[j * MB_GRAM_PANEL + c] /= factor[j * k + j];
    for (size_t j = 1; j < k; j++) /* N, from above */
        for (size_t i = 0; i < j; i++)
            gram_subtract(v + j * MB_GRAM_PANEL, factor[j * k + i], v + i * MB_GRAM_PANEL);
}

#endif
