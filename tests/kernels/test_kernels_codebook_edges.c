/* SPDX-License-Identifier: Apache-2.0 */
/* The edges of codebook matrices: how levels become bytes, degenerate columns and scales, what is
 * left out, and what is refused. */
#include "kernels/codebook_product.h"

/* ---- levels ---- */

static void test_levels(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    for (int round = 0; round < 200; round++) {
        float levels[32];
        const unsigned bits = 1 + (unsigned)round % 5;
        const size_t count = (size_t)1 << bits;
        const int most = bits < 3 ? 31 : bits == 3 ? 63 : 127;
        double largest = 0, off = 0, plain = 0;
        for (size_t i = 0; i < count; i++) {
            levels[i] = ldexpf(rng_gauss(&rng), round % 60 - 30);
            largest = larger(largest, fabs((double)levels[i]));
        }
        const double unit = (double)mb_codebook_unit(levels, bits);
        assert_true(unit >= largest / most * (1 - 1e-6));
        assert_true(unit <= largest * 2 / (most + 1) * (1 + 1e-6));
        for (size_t i = 0; i < count; i++) {
            const int byte = mb_codebook_level(levels[i], (float)unit, bits);
            const double error = unit * (byte - 128) - (double)levels[i], step = largest / most,
                         other = step * rint((double)levels[i] / step) - (double)levels[i];
            assert_true(byte >= 128 - most && byte <= 128 + most);
            assert_true(fabs(error) <= unit * 0.5001);
            off += error * error;
            plain += other * other;
        }
        assert_true(off <=
                    plain * 1.0001 + largest * largest * 1e-12); /* never worse than / most */
    }
    const float two[] = {-3, 3, 3, 1}, none[] = {0, 0}, tiny[] = {FLT_TRUE_MIN, -FLT_TRUE_MIN},
                huge[] = {FLT_MAX, -FLT_MAX};
    const float unit = mb_codebook_unit(two, 2); /* exact in thirds */
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(unit * (float)(mb_codebook_level(two[i], unit, 2) - 128) - two[i]) <
                    1e-5f);
    assert_true(mb_codebook_unit(none, 1) == 1);
    assert_int_equal(mb_codebook_level(0, 1, 8), 128);
    assert_int_equal(mb_codebook_level(tiny[0], mb_codebook_unit(tiny, 1), 1), 128);
    assert_true(isfinite(mb_codebook_unit(huge, 1)));
    assert_true(mb_codebook_level(huge[0], mb_codebook_unit(huge, 1), 1) >= 144);
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
        cmocka_unit_test(test_levels),       cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_refused_columns),
        cmocka_unit_test(test_refused_rows), cmocka_unit_test(test_refused_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
