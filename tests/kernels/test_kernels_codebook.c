/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices through their public functions, on every ISA level, against f64
 * (codebook_product.h); and what must not depend on m, range, threads or level. */
#include "kernels/codebook_product.h"

#include "kernels/alone.h"

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
    {1, 16, 3, 0, 0, 1u << 2 | BY_COLUMN, true},
    {2, 33, 50, 0, 5, 1u << 3 | BY_COLUMN, true},
    {3, 40, 130, 32, 0, 1u << 4 | BY_COLUMN, true},
    {5, 31, 90, 0, 3, 0x13e | BY_COLUMN, false},
    {1, 50, 1200, 128, 50, 0x1c | BY_COLUMN, true},
    {33, 35, 2100, 0, 9, 0x1fe | BY_COLUMN, true},
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_level_multiplies),
        cmocka_unit_test(test_all_ways_give_the_same_bits),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_levels_have_a_kernel),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_levels_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
