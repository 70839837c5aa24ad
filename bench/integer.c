/* SPDX-License-Identifier: Apache-2.0 */
/* A packed matrix of random codes, copied until it is as large as the residency asks for, and a
 * check of some rows against the reference before anything is timed. */
#include "bench/integer.h"

#include "dispatch/dispatch.h"
#include "kernels/integer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum mb_status pack(struct bench_integer *p, uint32_t *state)
{
    const size_t k = p->weights.k;
    const float scale = 1 / (60 * sqrtf((float)k));
    int8_t *codes = malloc(k);
    enum mb_status status = codes != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t row = 0; row < p->weights.n && status == MB_OK; row++) {
        for (size_t i = 0; i < k; i++)
            codes[i] = (int8_t)((int)((bench_next_bits(state) >> 24) * 255 / 256) - 127);
        status = mb_integer_pack_codes(&p->weights, codes, &scale, NULL, row, row + 1);
    }
    free(codes);
    return status;
}

/* The first panels, all rows. */
static enum mb_status verify(struct bench_integer *p)
{
    const size_t n = p->weights.n < 64 ? p->weights.n : 64;
    int8_t *expected = malloc(p->m * n);
    if (expected == NULL)
        return MB_ERR_MEMORY;
    mb_integer_reference(&(struct mb_integer_args){
        .panels = p->weights.data,
        .panel_bytes = mb_integer_panel_bytes(p->weights.k),
        .k = p->weights.k,
        .n = n,
        .m = p->m,
        .x = p->x,
        .x_stride = p->weights.k,
        .zero = p->weights.output.zero,
        .y = expected,
        .y_stride = n,
    });
    bench_integer_run(p, 1);
    enum mb_status status = MB_OK;
    for (size_t r = 0; r < p->m; r++)
        if (memcmp(expected + r * n, p->y + r * p->weights.n, n) != 0)
            status = MB_ERR_VERIFY;
    free(expected);
    return status;
}

enum mb_status bench_integer_create(struct bench_integer *p, size_t n, size_t k, size_t m,
                                    size_t set_bytes, struct mb_threads *threads)
{
    const struct mb_integer_grid input = {1, 3}, output = {1, -5};
    uint32_t state = 1;
    size_t bytes;
    *p = (struct bench_integer){.m = m, .threads = threads};
    enum mb_status status = mb_integer_size(n, k, &bytes);
    if (status != MB_OK)
        return status;
    p->copies = bench_copies_create(bytes, set_bytes);
    p->x = malloc(m * k);
    p->y = malloc(m * n);
    if (p->copies.data == NULL || p->x == NULL || p->y == NULL)
        status = MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_integer_init(&p->weights, n, k, &input, &output, p->copies.data);
    if (status == MB_OK)
        status = pack(p, &state);
    for (size_t i = 0; i < m * k && status == MB_OK; i++)
        p->x[i] = (int8_t)(bench_next_bits(&state) >> 24);
    if (status == MB_OK)
        bench_copies_fill(&p->copies);
    if (status == MB_OK)
        status = verify(p);
    if (status != MB_OK)
        bench_integer_free(p);
    return status;
}

void bench_integer_run(struct bench_integer *p, size_t iterations)
{
    for (size_t i = 0; i < iterations; i++) {
        struct mb_integer_weights weights = p->weights;
        weights.data = bench_copies_next(&p->copies);
        (void)mb_integer_matmul(p->threads, &weights, p->x, p->m, weights.k, p->y, weights.n);
    }
}

void bench_integer_free(struct bench_integer *p)
{
    mb_free_aligned(p->copies.data);
    free(p->x);
    free(p->y);
    *p = (struct bench_integer){0};
}
