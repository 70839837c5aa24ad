/* SPDX-License-Identifier: Apache-2.0 */
/* Weights for tests of encoders: the same in every run. */
#ifndef MIXBIT_TESTS_MADE_UP_ROWS_H
#define MIXBIT_TESTS_MADE_UP_ROWS_H

#include <stdint.h>
#include <stdlib.h>

static uint32_t rows_state = 7;
static float next_float(void)
{
    return (float)(int32_t)(rows_state = rows_state * 1664525u + 1013904223u) * 0x1p-31f;
}

/* Heavier tails than uniform, columns of different size. */
static float *make_rows(size_t n, size_t k)
{
    float *rows = malloc(n * k * sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < n * k; i++)
        rows[i] = next_float() * next_float() * next_float() * (float)(1 + i % k % 5);
    return rows;
}

#endif
