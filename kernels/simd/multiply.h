/* SPDX-License-Identifier: Apache-2.0 */
/* What rounding with feedback spends its time on: a matrix times the errors of 16 rows, once per
 * ISA level. Errors lie [k][16], one lane per row, so that a coefficient serves 16 rows and sums
 * run along lanes. */
#ifndef MIXBIT_KERNELS_SIMD_MULTIPLY_H
#define MIXBIT_KERNELS_SIMD_MULTIPLY_H

#include "kernels/simd/lanes.h"

/* Rows at once; registers of a line of them; lines of sums that are kept in registers. */
enum {
    MB_FEEDBACK_LANES = 16,
    LINE_REGISTERS = MB_FEEDBACK_LANES / F_LANES,
    LINES = 8 / LINE_REGISTERS
};

/* out[c] += the sum of a[c][i] * x[i] over i in [0, count), for columns c in [c0, c1), a multiple
 * of 8 of them; row c of a starts at a + c * stride. */
static void multiply_all(const float *a, size_t stride, size_t c0, size_t c1, size_t count,
                         const float *x, float *out)
{
    for (size_t c = c0; c < c1; c += LINES) {
        f_lanes sum[LINES][LINE_REGISTERS] = {{{0}}};
        const float *column = a + c * stride;
        for (size_t i = 0; i < count; i++, column++) {
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
                f_store(at, f_load(at) + sum[j][v]);
            }
    }
}

#endif
