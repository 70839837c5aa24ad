/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments and their factor (gram.h).
 *
 * X is packed in panels of 16 columns, so that a tile of 4 x 16 sums reads two short streams that
 * stay in L1; a compiler keeps half of the tile in registers at a time. The factor goes from the
 * last row to the first: once a row of M is known, what is left of H is H - M_j^T M_j, which for
 * some rows together is the same sum. */
#include "kernels/gram.h"

#include <math.h>
#include <string.h>

enum { PANEL = MB_GRAM_PANEL, TILE = 4, HALF = 8 };

void mb_gram_pack(const float *x, size_t stride, size_t rows, size_t k, float *packed)
{
    for (size_t p = 0; p < k / PANEL; p++)
        for (size_t r = 0; r < rows; r++, packed += PANEL)
            memcpy(packed, x + r * stride + p * PANEL, PANEL * sizeof *packed);
}

/* 4 rows of H by 8 columns. */
static void add_tile(float *h, size_t stride, const float *left, const float *right, size_t rows,
                     float sign)
{
    float sum[TILE][HALF] = {{0}};
    for (size_t r = 0; r < rows; r++, left += PANEL, right += PANEL)
        for (size_t i = 0; i < TILE; i++)
            for (size_t c = 0; c < HALF; c++)
                sum[i][c] += left[i] * right[c];
    for (size_t i = 0; i < TILE; i++)
        for (size_t c = 0; c < HALF; c++)
            h[i * stride + c] += sign * sum[i][c];
}

static void add_panel(float *h, size_t stride, size_t panel, const float *packed, size_t rows,
                      float sign)
{
    const float *left = packed + panel * rows * PANEL;
    for (size_t p = 0; p <= panel; p++)
        for (size_t half = 0; half < PANEL; half += HALF)
            for (size_t i = 0; i < PANEL; i += TILE)
                add_tile(h + (panel * PANEL + i) * stride + p * PANEL + half, stride, left + i,
                         packed + p * rows * PANEL + half, rows, sign);
}

void mb_gram_add(float *h, size_t stride, size_t k, const float *packed, size_t rows, float sign,
                 size_t first, size_t last)
{
    const size_t panels = k / PANEL;
    for (size_t pair = first; pair < last; pair++) {
        const size_t mirror = panels - 1 - pair;
        add_panel(h, stride, pair, packed, rows, sign);
        if (mirror != pair)
            add_panel(h, stride, mirror, packed, rows, sign);
    }
}

void mb_gram_mirror(float *h, size_t k)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < i; j++)
            h[j * k + i] = h[i * k + j];
}

bool mb_gram_factor_rows(float *h, size_t k, size_t row0, size_t row1)
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
            for (size_t c = 0; c <= i; c++)
                other[c] -= factor * row[c];
        }
    }
    return true;
}

void mb_gram_unit(float *h, size_t k)
{
    for (size_t j = 0; j < k; j++) {
        float *row = h + j * k;
        const float inverse = 1.0f / row[j];
        for (size_t c = 0; c < j; c++)
            row[c] *= inverse;
        row[j] *= row[j];
    }
}
