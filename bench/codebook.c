/* SPDX-License-Identifier: Apache-2.0 */
/* A packed matrix of random codes, copied until it is as large as the residency asks for, and a
 * check against the reference before anything is timed. As other formats' cases, a run prepares its
 * activations. */
#include "bench/codebook.h"

#include "dispatch/dispatch.h"
#include "tuner/made_columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* mixed: what error gives columns at 3 bits, roughly. */
static const struct bench_codebook_mix mixes[] = {
    {"cb2", false, {[2] = 1}},
    {"cb3", false, {[3] = 1}},
    {"cb4", false, {[4] = 1}},
    {"cb-mixed", false, {[1] = 0.1, [2] = 0.2, [3] = 0.4, [4] = 0.2, [5] = 0.1}},
    {"cc2", true, {[2] = 1}},
    {"cc3", true, {[3] = 1}},
    {"cc4", true, {[4] = 1}},
    {"cc-mixed", true, {[2] = 0.25, [3] = 0.5, [4] = 0.25}},
};

const struct bench_codebook_mix *bench_codebook_mix(size_t i)
{
    return i < sizeof mixes / sizeof *mixes ? &mixes[i] : NULL;
}

struct shares {
    const struct bench_codebook_mix *mix;
    size_t k;
};

static unsigned width_of(const void *arg, size_t column)
{
    const struct shares *s = arg;
    double end = 0;
    unsigned b = MB_CODEBOOK_MOST_BITS;
    for (; b > 1; b--) {
        end += s->mix->share[b];
        if ((double)column < end * (double)s->k - 0.5)
            break;
    }
    return b;
}

static enum mb_status lay_out(struct mb_made_columns *made, const struct bench_codebook_mix *mix,
                              size_t n, size_t k)
{
    const struct shares shares = {mix, k};
    *made = (struct mb_made_columns){.bits = NULL};
    return mb_columns_make(made, n, k, mix->by_column, width_of, &shares);
}

enum mb_status bench_codebook_bytes(const struct bench_codebook_mix *mix, size_t n, size_t k,
                                    size_t *bytes)
{
    struct mb_made_columns layout;
    enum mb_status status = lay_out(&layout, mix, n, k);
    if (status == MB_OK)
        status = mb_codebook_size(&layout.columns, bytes);
    mb_columns_free(&layout);
    return status;
}

static enum mb_status pack(struct bench_codebook *p, const struct mb_made_columns *l,
                           uint32_t *state)
{
    const size_t k = p->weights.k;
    uint8_t *codes = malloc(k);
    float *scales = malloc((l->columns.groups + 1) * sizeof *scales);
    enum mb_status status = codes != NULL && scales != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t row = 0; row < p->weights.n && status == MB_OK; row++) {
        for (size_t i = 0; i < k; i++)
            codes[i] = (uint8_t)(bench_next_bits(state) >> (32 - l->bits[i]));
        for (size_t g = 0; g < l->columns.groups; g++)
            scales[g] = (float)(bench_next_bits(state) >> 8) * 0x1p-24f;
        status = mb_codebook_pack_rows(&p->weights, codes, scales, row, row + 1);
    }
    free(codes);
    free(scales);
    return status;
}

/* The first panels, all rows, on the reference. */
static enum mb_status verify(struct bench_codebook *p)
{
    const size_t n = p->weights.n < 64 ? p->weights.n : 64;
    struct mb_codebook_weights view;
    float *expected = malloc(p->m * n * sizeof *expected);
    enum mb_status status = expected != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_codebook_view(&p->weights, 0, n, &view);
    if (status == MB_OK)
        status = mb_select_override(mb_registry_find("codebook_i8g32_8x16_reference"));
    if (status == MB_OK)
        status = mb_codebook_matmul(NULL, &view, p->x, p->m, view.k, expected, n);
    (void)mb_select_override(NULL);
    bench_codebook_run(p, 1);
    for (size_t r = 0; r < p->m && status == MB_OK; r++)
        if (memcmp(expected + r * n, p->y + r * p->weights.n, n * sizeof *expected) != 0)
            status = MB_ERR_VERIFY;
    free(expected);
    return status;
}

/* Memory and the first copy. */
static enum mb_status make(struct bench_codebook *p, const struct mb_made_columns *l,
                           size_t set_bytes)
{
    const size_t n = l->columns.n, k = l->columns.k;
    uint32_t state = 1;
    size_t bytes;
    enum mb_status status = mb_codebook_size(&l->columns, &bytes);
    if (status != MB_OK)
        return status;
    p->copies = bench_copies_create(bytes, set_bytes);
    p->x = malloc(p->m * k * sizeof *p->x);
    p->y = malloc(p->m * n * sizeof *p->y);
    if (p->copies.data == NULL || p->x == NULL || p->y == NULL)
        return MB_ERR_MEMORY;
    status = mb_codebook_init(&p->weights, &l->columns, p->copies.data);
    if (status == MB_OK)
        status = pack(p, l, &state);
    for (size_t i = 0; i < p->m * k; i++)
        p->x[i] = (float)(int32_t)bench_next_bits(&state) * 0x1p-31f;
    if (status == MB_OK)
        bench_copies_fill(&p->copies);
    return status;
}

enum mb_status bench_codebook_create(struct bench_codebook *p, const struct bench_codebook_mix *mix,
                                     size_t n, size_t k, size_t m, size_t set_bytes,
                                     struct mb_threads *threads)
{
    struct mb_made_columns layout;
    *p = (struct bench_codebook){.m = m, .threads = threads};
    enum mb_status status = lay_out(&layout, mix, n, k);
    if (status == MB_OK)
        status = make(p, &layout, set_bytes);
    if (status == MB_OK)
        status = verify(p);
    mb_columns_free(&layout);
    if (status != MB_OK)
        bench_codebook_free(p);
    return status;
}

void bench_codebook_run(struct bench_codebook *p, size_t iterations)
{
    for (size_t i = 0; i < iterations; i++) {
        struct mb_codebook_weights weights = p->weights;
        weights.data = bench_copies_next(&p->copies);
        (void)mb_codebook_matmul(p->threads, &weights, p->x, p->m, weights.k, p->y, weights.n);
    }
}

void bench_codebook_free(struct bench_codebook *p)
{
    mb_free_aligned(p->copies.data);
    free(p->x);
    free(p->y);
    *p = (struct bench_codebook){0};
}
