/* SPDX-License-Identifier: Apache-2.0 */
/* What rounding with feedback spends its time on: a matrix times the errors of 16 rows. Errors lie
 * [k][16], one lane per row, so that a coefficient serves 16 rows and sums run along lanes. */
#ifndef MIXBIT_KERNELS_FEEDBACK_LANES_H
#define MIXBIT_KERNELS_FEEDBACK_LANES_H

#include "kernels/panel.h"

#include <stddef.h>
#include <string.h>

enum { MB_FEEDBACK_LANES = 16 };

/* out[c] += sign * sum of a[c][i] * x[i] over i in [i0, i1), for columns c in [c0, c1), an even
 * number of them; row c of a starts at a + c * stride, out and x at column 0. */
static inline void mb_lanes_multiply(const float *a, size_t stride, size_t c0, size_t c1, size_t i0,
                                     size_t i1, float sign, const float *x, float *out)
{
    enum { LANES = MB_FEEDBACK_LANES };
    for (size_t c = c0; c < c1; c += 2) {
        float sum[2][LANES] = {{0}};
        const float *a0 = a + c * stride, *a1 = a0 + stride;
        for (size_t i = i0; i < i1; i++)
            for (size_t l = 0; l < LANES; l++) {
                sum[0][l] += a0[i] * x[i * LANES + l];
                sum[1][l] += a1[i] * x[i * LANES + l];
            }
        for (size_t l = 0; l < LANES; l++) {
            out[c * LANES + l] += sign * sum[0][l];
            out[(c + 1) * LANES + l] += sign * sum[1][l];
        }
    }
}

/* One dot product in 8 partial sums. */
static inline float mb_dot(const float *a, const float *b, size_t n)
{
    float sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++)
            sum[l] += a[i + l] * b[i + l];
    for (; i < n; i++)
        sum[i % 8] += a[i] * b[i];
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

#endif
