/* SPDX-License-Identifier: Apache-2.0 */
/* A random codebook matrix, packed, and its products from the weights themselves in f64: scale
 * times level plus what is added. All that separates a product from that is the rounding of its
 * activations, of levels to their unit and of scales to f16, which is bounded term by term. */
#ifndef MIXBIT_TESTS_CODEBOOK_PRODUCT_H
#define MIXBIT_TESTS_CODEBOOK_PRODUCT_H

#include "kernels/harness.h"
#include "mixbit/codebook.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { WIDTHS = MB_CODEBOOK_MOST_BITS + 1, MOST_LEVELS = 256 };

static inline void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(memory);
    return memset(memory, 0x5a, bytes + 64 - bytes % 64);
}

struct product {
    size_t m, n, k, groups;
    float levels[WIDTHS][MOST_LEVELS];
    float *column_levels, *packed_levels; /* [k][MOST_LEVELS], of the i-th; NULL: `levels` are */
    struct mb_codebook_columns columns;
    struct mb_codebook_weights weights;
    uint32_t *order, *group;
    uint8_t *bits, *codes;
    float *scales, *x;
    struct mb_codebook_outlier_at *outliers;
    double *exact, *bound; /* [m][n] */
};

/* No fmax: gcc 12 for ARM fails at a chain of those. */
static inline double larger(double a, double b) { return a > b ? a : b; }

static inline double largest_of(const float *levels, unsigned bits)
{
    double largest = 0;
    for (size_t i = 0; i < (size_t)1 << bits; i++)
        largest = larger(largest, fabs((double)levels[i]));
    return largest;
}

/* A codebook's unit is 1/127 to 1/64 of its largest level, of 3 bits 1/63 to 1/32, of fewer 1/31 to
 * 1/16. */
static inline double unit_of(const float *levels, unsigned bits)
{
    return largest_of(levels, bits) / (bits < 3 ? 16 : bits == 3 ? 32 : 64);
}

/* The codebook of the i-th column. */
static inline const float *levels_of(const struct product *p, size_t i)
{
    return p->column_levels != NULL ? p->column_levels + i * MOST_LEVELS : p->levels[p->bits[i]];
}

/* Products and how far off they may be. Activations are rounded per 32 columns of a run, the
 * largest of which is not above the row's largest; by column, each in the unit of its codebook. */
static inline void expect(struct product *p)
{
    double most = 0, widest = 0;
    for (size_t i = 0; i < p->k; i++) {
        most = larger(most, unit_of(levels_of(p, i), p->bits[i]));
        widest = larger(widest, most * (p->bits[i] < 3 ? 31 : p->bits[i] == 3 ? 63 : 127));
    }
    p->exact = allocate(p->m * p->n * sizeof *p->exact);
    p->bound = allocate(p->m * p->n * sizeof *p->bound);
    for (size_t r = 0; r < p->m; r++) {
        const float *x = p->x + r * p->k;
        double amax = 0;
        for (size_t c = 0; c < p->k; c++)
            amax = larger(amax, fabs((double)x[c]));
        for (size_t j = 0; j < p->n; j++) {
            double sum = 0, bound = 0, sizes = 0;
            for (size_t i = 0; i < p->k; i++) {
                const size_t c = p->order ? p->order[i] : i;
                const unsigned bits = p->bits[i];
                const double scale =
                    p->groups > 0 ? (double)p->scales[j * p->groups + (p->group ? p->group[i] : 0)]
                                  : 1;
                const double level = (double)levels_of(p, i)[p->codes[j * p->k + c]];
                const double unit = unit_of(levels_of(p, i), bits);
                const double steps = p->column_levels != NULL ? widest : fabs(level) + unit;
                sum += scale * level * (double)x[c];
                sizes += scale * steps * amax;
                /* half a step of the activation, half a unit of the level, scale in f16 */
                bound += scale * (steps * amax / 254 + unit / 2 * fabs((double)x[c]) +
                                  fabs(level * (double)x[c]) * 0x1p-11);
            }
            p->exact[r * p->n + j] = sum;
            p->bound[r * p->n + j] = bound + sizes * (double)p->k * 0x1p-23 + 1e-30;
        }
        for (size_t i = 0; i < p->weights.outliers; i++) {
            const struct mb_codebook_outlier_at *o = &p->outliers[i];
            p->exact[r * p->n + o->row] += (double)o->value * (double)x[o->column];
            p->bound[r * p->n + o->row] += fabs((double)o->value) * amax * 1e-5;
        }
    }
}

static inline void pack(struct product *p)
{
    size_t bytes;
    assert_int_equal(mb_codebook_size(&p->columns, &bytes), MB_OK);
    assert_int_equal(mb_codebook_init(&p->weights, &p->columns, allocate(bytes)), MB_OK);
    const size_t cut = p->n / 32 * 16;
    const float *scales = p->groups > 0 ? p->scales : NULL;
    assert_int_equal(mb_codebook_pack_rows(&p->weights, p->codes + cut * p->k,
                                           scales ? scales + cut * p->groups : NULL, cut, p->n),
                     MB_OK);
    assert_int_equal(mb_codebook_pack_rows(&p->weights, p->codes, scales, 0, cut), MB_OK);
    assert_int_equal(mb_codebook_pack_outliers(&p->weights, p->outliers), MB_OK);
}

/* A codebook for every column. */
static inline void make_column_levels(struct product *p, struct rng *rng)
{
    size_t count = 0;
    p->column_levels = allocate(p->k * MOST_LEVELS * sizeof(float));
    float *packed = allocate(p->k * MOST_LEVELS * sizeof(float));
    for (size_t i = 0; i < p->k; i++) {
        const float size = 0.1f + (float)rng_below(rng, 100) / 50;
        for (size_t l = 0; l < (size_t)1 << p->bits[i]; l++)
            packed[count++] = p->column_levels[i * MOST_LEVELS + l] = rng_gauss(rng) * size;
    }
    p->packed_levels = packed;
    p->columns.column_levels = packed;
}

enum { BY_COLUMN = 1 << 16 }; /* of a palette: codebooks are the columns' own */

/* Widths from `palette` (bit b: b bits), columns in random order but sorted by width where
 * `sorted`, a scale for each `group` columns (0: none). */
static inline void make_product(struct product *p, size_t m, size_t n, size_t k, unsigned palette,
                                bool sorted, size_t group, size_t outliers, struct rng *rng)
{
    *p =
        (struct product){.m = m, .n = n, .k = k, .groups = group > 0 ? (k + group - 1) / group : 0};
    p->order = allocate(k * sizeof *p->order);
    p->group = allocate(k * sizeof *p->group);
    p->bits = allocate(k);
    p->codes = allocate(n * k);
    p->scales = allocate((n * p->groups + 1) * sizeof *p->scales);
    p->x = allocate(m * k * sizeof *p->x);
    p->outliers = allocate((outliers + 1) * sizeof *p->outliers);
    uint8_t *width = allocate(k);
    for (size_t c = 0; c < k; c++)
        do
            width[c] = (uint8_t)(1 + rng_below(rng, 8));
        while ((palette >> width[c] & 1) == 0);
    size_t at = 0;
    for (unsigned bits = 8; bits > 0; bits--)
        for (size_t c = 0; c < k; c++)
            if (sorted ? width[c] == bits : bits == 8)
                p->order[at++] = (uint32_t)c;
    for (size_t i = 0; i < k; i++) {
        p->bits[i] = width[p->order[i]];
        p->group[i] = group > 0 ? (uint32_t)(i / group) : 0;
    }
    for (unsigned bits = 1; bits < WIDTHS; bits++)
        for (size_t i = 0; i < (size_t)1 << bits; i++)
            p->levels[bits][i] = rng_gauss(rng) * (float)bits;
    for (size_t i = 0; i < n * k; i++)
        p->codes[i] = (uint8_t)rng_below(rng, (size_t)1 << width[i % k]);
    for (size_t i = 0; i < n * p->groups; i++)
        p->scales[i] = 0.001f + (float)rng_below(rng, 1000) / 500;
    for (size_t i = 0; i < m * k; i++)
        p->x[i] = rng_gauss(rng);
    for (size_t i = 0; i < outliers; i++) /* by row, then column */
        p->outliers[i] = (struct mb_codebook_outlier_at){
            (uint32_t)(i * n / outliers), (uint32_t)(i * n % outliers * k / outliers),
            rng_gauss(rng)};
    p->columns = (struct mb_codebook_columns){.size = sizeof p->columns,
                                              .n = n,
                                              .k = k,
                                              .order = p->order,
                                              .bits = p->bits,
                                              .group = p->group,
                                              .groups = p->groups,
                                              .largest_scale = 2.001f,
                                              .outliers = outliers};
    for (unsigned bits = 1; bits < WIDTHS; bits++)
        p->columns.levels[bits] = p->levels[bits];
    free(width);
    if (palette & BY_COLUMN)
        make_column_levels(p, rng);
    pack(p);
    expect(p);
}

static inline void free_product(struct product *p)
{
    void *const all[] = {
        p->order, p->group, p->bits,     p->codes,        p->scales,        p->x,
        p->exact, p->bound, p->outliers, p->weights.data, p->column_levels, p->packed_levels};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Each within its bound, and all together far within it: errors of many columns are not of one
 * sign.
 */
static inline void check_numbers(const struct product *p, const float *y, size_t stride)
{
    double error = 0, bound = 0;
    for (size_t r = 0; r < p->m; r++)
        for (size_t j = 0; j < p->n; j++) {
            const double off = fabs((double)y[r * stride + j] - p->exact[r * p->n + j]);
            if (!(off <= p->bound[r * p->n + j]))
                fail_msg("%s, m=%zu n=%zu k=%zu: y[%zu][%zu] is %g, not %g (within %g)",
                         mb_codebook_kernel(), p->m, p->n, p->k, r, j, (double)y[r * stride + j],
                         p->exact[r * p->n + j], p->bound[r * p->n + j]);
            error += off * off;
            bound += p->bound[r * p->n + j] * p->bound[r * p->n + j];
        }
    if (p->k >= 32 && p->n >= 16 && error > 0.1 * bound)
        fail_msg("%s, m=%zu n=%zu k=%zu: off by %g of the bound", mb_codebook_kernel(), p->m, p->n,
                 p->k, sqrt(error / bound));
}

/* Columns [n0, n1) of all rows, with memory of their own. */
static inline void run_range(const struct product *p, const void *activations, size_t n0, size_t n1,
                             float *y, size_t stride)
{
    size_t bytes;
    assert_int_equal(mb_codebook_workspace_size(&p->weights, p->m, &bytes), MB_OK);
    void *workspace = allocate(bytes);
    assert_int_equal(
        mb_codebook_range(&p->weights, activations, p->m, n0, n1, y, stride, workspace), MB_OK);
    free(workspace);
}

static inline void *prepare(const struct product *p)
{
    size_t bytes;
    assert_int_equal(mb_codebook_activations_size(&p->weights, p->m, &bytes), MB_OK);
    void *activations = allocate(bytes);
    const size_t half = p->m / 2;
    assert_int_equal(mb_codebook_prepare(&p->weights, p->x, p->m, p->k, half, p->m, activations),
                     MB_OK);
    assert_int_equal(mb_codebook_prepare(&p->weights, p->x, p->m, p->k, 0, half, activations),
                     MB_OK);
    return activations;
}

#endif
