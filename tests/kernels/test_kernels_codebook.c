/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices through their public functions, on every ISA level, against the weights
 * themselves in f64: scale times level plus what is added. All that separates a product from that
 * is the rounding of its activations, of levels to their unit and of scales to f16, which is
 * bounded term by term. Then what must not depend on m, range, threads or level, degenerate
 * columns, and what is refused. */
#include "kernels/harness.h"
#include "mixbit/codebook.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "kernels/alone.h"

enum { WIDTHS = MB_CODEBOOK_MOST_BITS + 1, MOST_LEVELS = 256 };

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(memory);
    return memset(memory, 0x5a, bytes + 64 - bytes % 64);
}

struct product {
    size_t m, n, k, groups;
    float levels[WIDTHS][MOST_LEVELS];
    struct mb_codebook_columns columns;
    struct mb_codebook_weights weights;
    uint32_t *order, *group;
    uint8_t *bits, *codes;
    float *scales, *x;
    struct mb_codebook_outlier_at *outliers;
    double *exact, *bound; /* [m][n] */
};

/* No fmax: gcc 12 for ARM fails at a chain of those. */
static double larger(double a, double b) { return a > b ? a : b; }

static double largest_of(const float *levels, unsigned bits)
{
    double largest = 0;
    for (size_t i = 0; i < (size_t)1 << bits; i++)
        largest = larger(largest, fabs((double)levels[i]));
    return largest;
}

/* Products and how far off they may be. Activations are rounded per 32 columns of a run, the
 * largest of which is not above the row's largest. */
static void expect(struct product *p)
{
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
                const double level = (double)p->levels[bits][p->codes[j * p->k + c]];
                const double unit = largest_of(p->levels[bits], bits) / 64;
                sum += scale * level * (double)x[c];
                sizes += scale * (fabs(level) + unit) * amax;
                /* half a step of the activation, half a unit of the level, scale in f16 */
                bound +=
                    scale * ((fabs(level) + unit) * amax / 254 + unit / 2 * fabs((double)x[c]) +
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

static void pack(struct product *p)
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

/* Widths from `palette` (bit b: b bits), columns in random order but sorted by width where
 * `sorted`, a scale for each `group` columns (0: none). */
static void make_product(struct product *p, size_t m, size_t n, size_t k, unsigned palette,
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
    pack(p);
    expect(p);
}

static void free_product(struct product *p)
{
    void *const all[] = {p->order, p->group, p->bits,  p->codes,    p->scales,
                         p->x,     p->exact, p->bound, p->outliers, p->weights.data};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Each within its bound, and all together far within it: errors of many columns are not of one
 * sign.
 */
static void check_numbers(const struct product *p, const float *y, size_t stride)
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
static void run_range(const struct product *p, const void *activations, size_t n0, size_t n1,
                      float *y, size_t stride)
{
    size_t bytes;
    assert_int_equal(mb_codebook_workspace_size(&p->weights, p->m, &bytes), MB_OK);
    void *workspace = allocate(bytes);
    assert_int_equal(
        mb_codebook_range(&p->weights, activations, p->m, n0, n1, y, stride, workspace), MB_OK);
    free(workspace);
}

static void *prepare(const struct product *p)
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

/* ---- numbers ---- */

static const struct {
    size_t m, n, k, group, outliers;
    unsigned palette;
    bool sorted;
} cases[] = {
    {1, 1, 1, 0, 0, 1u << 2, true},
    {1, 16, 32, 32, 0, 1u << 3, true},
    {2, 17, 33, 0, 3, 1u << 4, true},
    {3, 31, 100, 16, 0, 0x3e, true},
    {8, 48, 300, 128, 7, 0x3e, true},
    {5, 33, 40, 7, 0, 0x13e, false},
    {9, 50, 161, 128, 0, 0x1fe, true},
    {17, 20, 64, 0, 0, 1u << 1, true},
    {40, 67, 1200, 128, 50, 0x13e, true},
    {33, 35, 2100, 128, 0, 0x1c, true},
    {19, 16, 75, 1, 16, 1u << 8 | 1u << 5, true},
};

static void check_level(enum mb_isa isa, float **first)
{
    struct rng rng = rng_seed(rng_test_seed());
    mb_isa_set_allowed_mask(1u << isa);
    print_message("%s: %s\n", mb_isa_name(isa), mb_codebook_kernel());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct product p;
        make_product(&p, cases[i].m, cases[i].n, cases[i].k, cases[i].palette, cases[i].sorted,
                     cases[i].group, cases[i].outliers, &rng);
        const size_t stride = p.n + 3, cut = p.n / 32 * 16;
        float *y = allocate(p.m * stride * sizeof *y), untouched;
        memset(&untouched, 0x5a, sizeof untouched);
        void *activations = prepare(&p);
        run_range(&p, activations, cut, p.n, y, stride);
        for (size_t r = 0; r < p.m; r++)
            for (size_t j = 0; j < stride; j++)
                assert_true((j >= cut && j < p.n) ||
                            memcmp(&y[r * stride + j], &untouched, sizeof untouched) == 0);
        run_range(&p, activations, 0, cut, y, stride);
        check_numbers(&p, y, stride);
        if (first[i] == NULL) { /* the first level's bits are those of all */
            first[i] = y;
            y = NULL;
        } else {
            for (size_t r = 0; r < p.m; r++)
                assert_memory_equal(y + r * stride, first[i] + r * stride, p.n * sizeof *y);
        }
        free(y);
        free(activations);
        free_product(&p);
    }
}

static void test_every_level_multiplies(void **state)
{
    (void)state;
    float *first[sizeof cases / sizeof *cases] = {NULL};
    for (int isa = 0; isa < MB_ISA_COUNT; isa++) {
        if (!mb_isa_is_supported((enum mb_isa)isa))
            print_message("skipped: %s is not supported here\n", mb_isa_name((enum mb_isa)isa));
        else
            check_level((enum mb_isa)isa, first);
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        free(first[i]);
}

/* A row alone, as one of few and as one of many (which are decoded); a view; threads. */
static void test_all_ways_give_the_same_bits(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    make_product(&p, 45, 333, 700, 0x3e, true, 128, 60, &rng);
    const size_t bytes = p.m * p.n * sizeof(float);
    float *y = allocate(bytes), *again = allocate(bytes);
    assert_int_equal(mb_codebook_matmul(NULL, &p.weights, p.x, p.m, p.k, y, p.n), MB_OK);
    check_numbers(&p, y, p.n);
    for (size_t m = 1; m <= 20; m += m == 1 ? 6 : 1)
        for (size_t r = 0; r + m <= p.m; r += 7) {
            assert_int_equal(
                mb_codebook_matmul(NULL, &p.weights, p.x + r * p.k, m, p.k, again, p.n), MB_OK);
            assert_memory_equal(again, y + r * p.n, m * p.n * sizeof *y);
        }
    for (size_t count = 1; count <= 3; count++) {
        struct mb_threads *threads;
        assert_int_equal(mb_threads_create(count, &threads), MB_OK);
        for (size_t m = 1; m <= p.m; m += 11) {
            memset(again, 0, bytes);
            assert_int_equal(mb_codebook_matmul(threads, &p.weights, p.x, m, p.k, again, p.n),
                             MB_OK);
            assert_memory_equal(again, y, m * p.n * sizeof *y);
        }
        mb_threads_destroy(threads);
    }
    struct mb_codebook_weights view;
    static const size_t ranges[][2] = {{0, 16}, {16, 64}, {320, 333}, {0, 333}};
    for (size_t i = 0; i < 4; i++) {
        const size_t n0 = ranges[i][0], n = ranges[i][1] - n0;
        assert_int_equal(mb_codebook_view(&p.weights, n0, n0 + n, &view), MB_OK);
        assert_int_equal(mb_codebook_matmul(NULL, &view, p.x, p.m, p.k, again, n), MB_OK);
        for (size_t r = 0; r < p.m; r++)
            assert_memory_equal(again + r * n, y + r * p.n + n0, n * sizeof *y);
    }
    free(y);
    free(again);
    free_product(&p);
}

/* Rows packed in any order, or again, are the same bytes; and every byte is written. */
static void test_packing(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    size_t bytes;
    make_product(&p, 1, 37, 90, 0x13e, true, 30, 0, &rng);
    assert_int_equal(mb_codebook_size(&p.columns, &bytes), MB_OK);
    struct mb_codebook_weights other;
    uint8_t *data = allocate(bytes);
    memset(data, 0, bytes);
    assert_int_equal(mb_codebook_init(&other, &p.columns, data), MB_OK);
    for (size_t row = p.n; row-- > 0;)
        assert_int_equal(mb_codebook_pack_rows(&other, p.codes + row * p.k,
                                               p.scales + row * p.groups, row, row + 1),
                         MB_OK);
    float y[37], again[37];
    assert_int_equal(mb_codebook_matmul(NULL, &p.weights, p.x, 1, p.k, y, p.n), MB_OK);
    assert_int_equal(mb_codebook_matmul(NULL, &other, p.x, 1, p.k, again, p.n), MB_OK);
    assert_memory_equal(y, again, sizeof y);
    /* 3 groups of 30 columns: some 6 bytes a row of scales, and codes of 5 and less bits mostly */
    assert_true(other.panel_bytes <= other.padded_k * 16 + 128);
    free(data);
    free_product(&p);
}

/* ---- levels ---- */

static void test_levels(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    for (int round = 0; round < 200; round++) {
        float levels[32];
        const size_t count = (size_t)1 << (1 + round % 5);
        double largest = 0, off = 0, plain = 0;
        for (size_t i = 0; i < count; i++) {
            levels[i] = ldexpf(rng_gauss(&rng), round % 60 - 30);
            largest = larger(largest, fabs((double)levels[i]));
        }
        const double unit = (double)mb_codebook_unit(levels, count);
        assert_true(unit >= largest / 127 * (1 - 1e-6) && unit <= largest / 64 * (1 + 1e-6));
        for (size_t i = 0; i < count; i++) {
            const int byte = mb_codebook_level(levels[i], (float)unit);
            const double error = unit * (byte - 128) - (double)levels[i], step = largest / 127,
                         other = step * rint((double)levels[i] / step) - (double)levels[i];
            assert_true(byte >= 1 && byte <= 255);
            assert_true(fabs(error) <= unit * 0.5001);
            off += error * error;
            plain += other * other;
        }
        assert_true(off <= plain * 1.0001 + largest * largest * 1e-12); /* never worse than / 127 */
    }
    const float two[] = {-3, 3, 3, 1}, none[] = {0, 0}, tiny[] = {FLT_TRUE_MIN, -FLT_TRUE_MIN},
                huge[] = {FLT_MAX, -FLT_MAX};
    const float unit = mb_codebook_unit(two, 4); /* exact in thirds */
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(unit * (float)(mb_codebook_level(two[i], unit) - 128) - two[i]) < 1e-5f);
    assert_true(mb_codebook_unit(none, 2) == 1);
    assert_int_equal(mb_codebook_level(0, 1), 128);
    assert_int_equal(mb_codebook_level(tiny[0], mb_codebook_unit(tiny, 2)), 128);
    assert_true(isfinite(mb_codebook_unit(huge, 2)));
    assert_true(mb_codebook_level(huge[0], mb_codebook_unit(huge, 2)) >= 192);
}

/* All equal, two values, zeros everywhere, scales far apart, one row, one column. */
static void test_degenerate(void **state)
{
    (void)state;
    enum { N = 19, K = 70, M = 18 };
    struct rng rng = rng_seed(rng_test_seed());
    for (int kind = 0; kind < 6; kind++)
        for (size_t m = 1; m <= M; m += M - 1) {
            struct product p;
            make_product(&p, m, kind == 4 ? 1 : N, kind == 5 ? 1 : K, 0x3e, true, 32, 2, &rng);
            for (unsigned bits = 1; bits < WIDTHS; bits++)
                for (size_t i = 0; i < MOST_LEVELS; i++)
                    p.levels[bits][i] = kind == 0   ? -0.75f
                                        : kind == 1 ? (i % 2 == 0 ? 0.5f : -2)
                                        : kind == 2 ? 0
                                                    : p.levels[bits][i];
            if (kind == 3)
                for (size_t i = 0; i < p.n * p.groups; i++)
                    p.scales[i] = i % 3 == 0 ? 0 : i % 3 == 1 ? 0x1p-12f : 0x1p20f;
            p.columns.largest_scale = 0x1p20f;
            free(p.weights.data);
            free(p.exact);
            free(p.bound);
            pack(&p);
            expect(&p);
            float *y = allocate(p.m * p.n * sizeof *y);
            assert_int_equal(mb_codebook_matmul(NULL, &p.weights, p.x, m, p.k, y, p.n), MB_OK);
            check_numbers(&p, y, p.n);
            free(y);
            free_product(&p);
        }
}

/* Nothing but zeros: activations, and no order or groups given. */
static void test_defaults(void **state)
{
    (void)state;
    enum { N = 5, K = 45 };
    const float levels[4] = {-1, 0, 1, 2}, x[K] = {0};
    uint8_t bits[K], codes[N * K];
    float y[N];
    memset(bits, 2, sizeof bits);
    memset(codes, 3, sizeof codes);
    const struct mb_codebook_columns columns = {
        .size = sizeof columns, .n = N, .k = K, .bits = bits, .levels = {[2] = levels}};
    struct mb_codebook_weights weights;
    size_t size;
    assert_int_equal(mb_codebook_size(&columns, &size), MB_OK);
    assert_int_equal(mb_codebook_init(&weights, &columns, allocate(size)), MB_OK);
    assert_int_equal(mb_codebook_pack_rows(&weights, codes, NULL, 0, N), MB_OK);
    assert_int_equal(mb_codebook_pack_outliers(&weights, NULL), MB_OK);
    assert_int_equal(mb_codebook_matmul(NULL, &weights, x, 1, K, y, N), MB_OK);
    for (size_t j = 0; j < N; j++)
        assert_true(y[j] == 0);
    float ones[K];
    for (size_t i = 0; i < K; i++)
        ones[i] = 1;
    assert_int_equal(mb_codebook_matmul(NULL, &weights, ones, 1, K, y, N), MB_OK);
    for (size_t j = 0; j < N; j++)
        assert_true(fabsf(y[j] - 2 * K) < 1e-3f);
    free(weights.data);
}

/* ---- choice ---- */

static const struct alone codebooks = {MB_OP_CODEBOOK,
                                       "codebook_",
                                       "codebook_i8g32_8x16_reference",
                                       "integer_b8_1x16_reference",
                                       mb_codebook_kernel,
                                       mb_codebook_explain};

static void test_levels_have_a_kernel(void **state)
{
    (void)state;
    check_levels_have(&codebooks);
}

static void test_choice(void **state)
{
    (void)state;
    check_choice(&codebooks);
}

/* A kernel of one level decodes for the gemm of another, whose bytes are signed or not. */
static void test_levels_mix(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    make_product(&p, 21, 40, 130, 0x13e, true, 64, 5, &rng);
    float *y = allocate(p.m * p.n * sizeof *y), *again = allocate(p.m * p.n * sizeof *y);
    assert_int_equal(mb_codebook_matmul(NULL, &p.weights, p.x, p.m, p.k, y, p.n), MB_OK);
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++) {
        if ((kernel->op != MB_OP_CODEBOOK && kernel->op != MB_OP_GEMM) ||
            !mb_isa_is_supported(kernel->isa))
            continue;
        assert_int_equal(mb_select_override(kernel), MB_OK);
        assert_int_equal(mb_codebook_matmul(NULL, &p.weights, p.x, p.m, p.k, again, p.n), MB_OK);
        assert_memory_equal(again, y, p.m * p.n * sizeof *y);
    }
    assert_int_equal(mb_select_override(NULL), MB_OK);
    free(y);
    free(again);
    free_product(&p);
}

/* ---- what is refused ---- */

static void test_refused_columns(void **state)
{
    (void)state;
    enum { K = 6 };
    const float levels[8] = {-1, 0, 1, 2}, wrong[8] = {0, NAN};
    const uint8_t bits[K] = {3, 3, 2, 2, 2, 2}, nine[K] = {9, 3, 3, 3, 3, 3}, zero[K] = {0};
    const uint32_t order[K] = {5, 4, 3, 2, 1, 0}, twice[K] = {0, 1, 2, 3, 4, 4},
                   beyond[K] = {0, 1, 2, 3, 4, 6}, group[K] = {0, 0, 0, 1, 1, 2};
    const struct mb_codebook_columns good = {.size = sizeof good,
                                             .n = 3,
                                             .k = K,
                                             .order = order,
                                             .bits = bits,
                                             .group = group,
                                             .groups = 3,
                                             .largest_scale = 1,
                                             .levels = {[2] = levels, [3] = levels}};
    size_t bytes;
    struct mb_codebook_weights weights;
    assert_int_equal(mb_codebook_size(&good, &bytes), MB_OK);
    assert_int_equal(mb_codebook_size(&good, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_size(NULL, &bytes), MB_ERR_ARGUMENT);
    uint8_t *data = allocate(bytes);
    assert_int_equal(mb_codebook_init(&weights, &good, data), MB_OK);
    assert_int_equal(mb_codebook_init(&weights, &good, data + 8), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_init(NULL, &good, data), MB_ERR_ARGUMENT);
#define REFUSED(expected, ...)                                                                     \
    do {                                                                                           \
        struct mb_codebook_columns bad = good;                                                     \
        __VA_ARGS__;                                                                               \
        assert_int_equal(mb_codebook_init(&weights, &bad, data), expected);                        \
    } while (0)
    REFUSED(MB_ERR_ARGUMENT, bad.size--);
    REFUSED(MB_ERR_SHAPE, bad.n = 0);
    REFUSED(MB_ERR_SHAPE, bad.k = 0);
    REFUSED(MB_ERR_SHAPE, bad.k = (size_t)1 << 28);
    REFUSED(MB_ERR_SHAPE, bad.n = SIZE_MAX / 2);
    REFUSED(MB_ERR_SHAPE, bad.groups = SIZE_MAX / 2);
    REFUSED(MB_ERR_ARGUMENT, bad.bits = NULL);
    REFUSED(MB_ERR_ARGUMENT, bad.bits = nine);
    REFUSED(MB_ERR_ARGUMENT, bad.bits = zero);
    REFUSED(MB_ERR_ARGUMENT, bad.levels[2] = NULL);
    REFUSED(MB_ERR_ARGUMENT, bad.levels[3] = wrong);
    REFUSED(MB_ERR_ARGUMENT, bad.order = twice);
    REFUSED(MB_ERR_ARGUMENT, bad.order = beyond);
    REFUSED(MB_ERR_ARGUMENT, bad.groups = 2);
    REFUSED(MB_ERR_ARGUMENT, bad.groups = 0);
    REFUSED(MB_ERR_ARGUMENT, bad.largest_scale = INFINITY);
    REFUSED(MB_ERR_ARGUMENT, bad.largest_scale = -1);
    REFUSED(MB_ERR_ARGUMENT, bad.outliers = (size_t)UINT32_MAX + 1);
#undef REFUSED
    free(data);
}

static void test_refused_rows(void **state)
{
    (void)state;
    enum { N = 18, K = 40, OUTLIERS = 3 };
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    make_product(&p, 1, N, K, 0x1c, true, 20, OUTLIERS, &rng);
    size_t bytes;
    assert_int_equal(mb_codebook_size(&p.columns, &bytes), MB_OK);
    memset((uint8_t *)p.weights.data + bytes - p.weights.panel_bytes, 0x5a, p.weights.panel_bytes);
    const uint8_t code = p.codes[N * K - 1];
    p.codes[N * K - 1] = 16;
    assert_int_equal(mb_codebook_pack_rows(&p.weights, p.codes, p.scales, 0, N), MB_ERR_ARGUMENT);
    p.codes[N * K - 1] = code;
    static const float wrong[] = {-1, NAN, INFINITY, 100};
    for (size_t i = 0; i < 4; i++) {
        const float scale = p.scales[N * 2 - 1];
        p.scales[N * 2 - 1] = wrong[i];
        assert_int_equal(mb_codebook_pack_rows(&p.weights, p.codes, p.scales, 0, N),
                         MB_ERR_ARGUMENT);
        p.scales[N * 2 - 1] = scale;
    }
    assert_int_equal(mb_codebook_pack_rows(&p.weights, NULL, p.scales, 0, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_pack_rows(&p.weights, p.codes, NULL, 0, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_pack_rows(&p.weights, p.codes, p.scales, 0, N + 1), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_pack_rows(&p.weights, p.codes, p.scales, 2, 1), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_pack_rows(NULL, p.codes, p.scales, 0, 1), MB_ERR_ARGUMENT);
    for (size_t i = 1; i <= p.weights.panel_bytes; i++)
        assert_int_equal(((uint8_t *)p.weights.data)[bytes - i], 0x5a);
    struct mb_codebook_outlier_at good[OUTLIERS];
    memcpy(good, p.outliers, sizeof good);
    for (int kind = 0; kind < 5; kind++) {
        memcpy(p.outliers, good, sizeof good);
        if (kind == 0)
            p.outliers[2].row = N;
        else if (kind == 1)
            p.outliers[0].column = K;
        else if (kind == 2)
            p.outliers[1].value = NAN;
        else if (kind == 3)
            p.outliers[1] = p.outliers[0];
        else
            p.outliers[0].row = p.outliers[2].row + 1;
        assert_int_equal(mb_codebook_pack_outliers(&p.weights, p.outliers), MB_ERR_ARGUMENT);
    }
    assert_int_equal(mb_codebook_pack_outliers(&p.weights, NULL), MB_ERR_ARGUMENT);
    memcpy(p.outliers, good, sizeof good);
    free_product(&p);
}

static void test_refused_products(void **state)
{
    (void)state;
    enum { M = 2, N = 33, K = 40 };
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    make_product(&p, M, N, K, 0x1c, true, 0, 0, &rng);
    uint8_t *activations = prepare(&p);
    struct mb_codebook_weights other;
    float y[M * N];
    size_t bytes;
    memset(y, 0x5a, sizeof y);
    const struct mb_codebook_weights *w = &p.weights;
    assert_int_equal(mb_codebook_activations_size(w, 0, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_activations_size(w, SIZE_MAX / 8, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_activations_size(w, 1, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_workspace_size(w, 0, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_workspace_size(w, 1, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_prepare(w, p.x, M, K - 1, 0, M, activations), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_prepare(w, p.x, M, K, 1, M + 1, activations), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_prepare(w, NULL, M, K, 0, M, activations), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_prepare(w, p.x, M, K, 0, M, activations + 4), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_range(w, activations, 0, 0, N, y, N, NULL), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_range(w, activations, M, 0, N + 1, y, N, NULL), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_range(w, activations, M, 8, N, y, N, NULL), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_range(w, activations, M, 0, 17, y, N, NULL), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_range(w, activations, M, 0, N, y, N - 1, NULL), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_range(w, NULL, M, 0, N, y, N, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_range(w, activations, M, 0, N, NULL, N, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_range(NULL, activations, M, 0, N, y, N, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_matmul(NULL, w, p.x, 0, K, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_matmul(NULL, w, p.x, M, K - 1, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_matmul(NULL, w, NULL, M, K, y, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_codebook_view(w, 16, 16, &other), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_view(w, 8, 16, &other), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_view(w, 0, 17, &other), MB_ERR_SHAPE);
    assert_int_equal(mb_codebook_view(w, 0, 16, NULL), MB_ERR_ARGUMENT);
    other = *w;
    other.size--;
    assert_int_equal(mb_codebook_matmul(NULL, &other, p.x, M, K, y, N), MB_ERR_ARGUMENT);
    for (size_t i = 0; i < sizeof y; i++)
        assert_int_equal(((uint8_t *)y)[i], 0x5a);
    free(activations);
    free_product(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_every_level_multiplies),
        cmocka_unit_test(test_all_ways_give_the_same_bits),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_levels_have_a_kernel),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_levels_mix),
        cmocka_unit_test(test_refused_columns),
        cmocka_unit_test(test_refused_rows),
        cmocka_unit_test(test_refused_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
