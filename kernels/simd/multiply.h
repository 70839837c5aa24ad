/* SPDX-License-Identifier: Apache-2.0 */
/* What rounding with feedback spends its time on: a matrix times the errors of 16 rows, once per
 * ISA level. Errors lie [k][16], one lane per row, so that a coefficient serves 16 rows and sums
 * run along lanes. */
#ifndef MIXBIT_KERNELS_SIMD_MULTIPLY_H
#define MIXBIT_KERNELS_SIMD_MULTIPLY_H

#include "kernels/simd/lanes.h"

#include <stdint.h>

/* Rows at once; registers of a line of them; lines of sums that are kept in registers. */
enum {
    MB_FEEDBACK_LANES = 16,
    LINE_REGISTERS = MB_FEEDBACK_LANES / F_LANES,
    LINES = 8 / LINE_REGISTERS
};

/* out[c] += sign * sum of a[c][i] * x[i] for columns c in [c0, c1), a multiple of 8 of them. i is
 * [0, count), or the numbers in `index`, and x then has a line for each; row c of a starts at a + c
 * * stride. */
MB_LANE_INLINE void lines_multiply(const float *a, size_t stride, size_t c0, size_t c1,
                                   const uint16_t *index, size_t count, float sign, const float *x,
                                   float *out)
{
    for (size_t c = c0; c < c1; c += LINES) {
        f_lanes sum[LINES][LINE_REGISTERS] = {{{0}}};
        const float *first = a + c * stride;
        for (size_t i = 0; i < count; i++) {
            const float *column = first + (index != NULL ? index[i] : i);
            f_lanes line[LINE_REGISTERS];
#pragma GCC unroll 4
            for (size_t v = 0; v < LINE_REGISTERS; v++)
                line[v] = f_load(x + i * MB_FEEDBACK_LANES + v * F_LANES);
#pragma GCC unroll 8
            for (size_t j = 0; j < LINES; j++)
#pragma GCC unroll 4
                for (size_t v = 0; v < LINE_REGISTERS; v++)
                    sum[j][v] += column[j * stride] * line[v];
        }
#pragma GCC unroll 8
        for (size_t j = 0; j < LINES; j++)
#pragma GCC unroll 4
            for (size_t v = 0; v < LINE_REGISTERS; v++) {
                float *at = out + (c + j) * MB_FEEDBACK_LANES + v * F_LANES;
                f_store(at, f_load(at) + sign * sum[j][v]);
            }
    }
}

static void multiply_all(const float *a, size_t stride, size_t c0, size_t c1, size_t count,
                         const float *x, float *out)
{
    lines_multiply(a, stride, c0, c1, NULL, count, 1.0f, x, out);
}

/* The same for the columns of a that are named, subtracted. */
static void multiply_some(const float *a, size_t stride, size_t c1, const uint16_t *index,
                          size_t count, const float *x, float *out)
{
    lines_multiply(a, stride, 0, c1, index, count, -1.0f, x, out);
}

#endif
