/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments and their factor (gram.h): the parts that take no time, and the others
 * (simd/gram.h) as every CPU of the architecture can run them. */
#include "kernels/gram.h"

#include "kernels/simd/gram.h"

enum { PANEL = MB_GRAM_PANEL };

void mb_gram_pack(const float *x, size_t stride, size_t rows, size_t k, float *packed)
{
    for (size_t p = 0; p < k / PANEL; p++)
        for (size_t r = 0; r < rows; r++, packed += PANEL)
            memcpy(packed, x + r * stride + p * PANEL, PANEL * sizeof *packed);
}

void mb_gram_add(float *h, size_t stride, size_t k, const float *packed, size_t rows, float sign,
                 size_t first, size_t last)
{
    gram_add(h, stride, k, packed, rows, sign, first, last);
}

void mb_gram_cross(float *c, size_t k, const float *left, const float *right, size_t rows,
                   size_t first, size_t last)
{
    gram_cross(c, k, left, right, rows, first, last);
}

void mb_gram_mirror(float *h, size_t k)
{
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < i; j++)
            h[j * k + i] = h[i * k + j];
}

bool mb_gram_factor_rows(float *h, size_t k, size_t row0, size_t row1)
{
    return gram_factor_rows(h, k, row0, row1);
}

void mb_gram_solve(const float *factor, size_t k, float *v) { gram_solve(factor, k, v); }

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
