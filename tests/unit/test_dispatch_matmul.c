/* SPDX-License-Identifier: Apache-2.0 */
/* The public matmul's manners: what it refuses, that a refusal touches nothing, packing in any
 * pieces, groups of matrices. Its numbers are tests/kernels/test_kernels_matmul.c. */
#include "dispatch/dispatch.h"
#include "support/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void *allocate(size_t bytes)
{
    void *memory = mb_alloc_aligned(bytes + 64);
    assert_non_null(memory);
    return memset(memory, 0, bytes + 64);
}

static uint32_t random_state = 1;
static uint32_t random_bits(void) { return random_state = random_state * 1664525u + 1013904223u; }
static float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static struct mb_weights make_weights(enum mb_format format, size_t n, size_t k, uint8_t **rows)
{
    struct mb_weights weights;
    size_t bytes;
    float *w = allocate(n * k * sizeof(float));
    uint8_t *source = allocate(n * mb_format_row_bytes(format, k));
    for (size_t i = 0; i < n * k; i++)
        w[i] = random_float();
    assert_int_equal(mb_quantize(format, w, n, k, NULL, source), MB_OK);
    assert_int_equal(mb_pack_size(format, n, k, &bytes), MB_OK);
    assert_int_equal(mb_weights_init(&weights, format, n, k, allocate(bytes)), MB_OK);
    assert_int_equal(mb_pack_rows(&weights, source, 0, n), MB_OK);
    mb_free_aligned(w);
    if (rows != NULL)
        *rows = source;
    else
        mb_free_aligned(source);
    return weights;
}

static float *make_x(size_t m, size_t k)
{
    float *x = allocate(m * k * sizeof *x);
    for (size_t i = 0; i < m * k; i++)
        x[i] = random_float();
    return x;
}

static struct mb_activations make_activations(enum mb_activation type, size_t m, size_t k,
                                              const float *x)
{
    struct mb_activations activations;
    size_t bytes;
    assert_int_equal(mb_activations_size(type, m, k, &bytes), MB_OK);
    assert_int_equal(mb_activations_init(&activations, type, m, k, allocate(bytes)), MB_OK);
    assert_int_equal(mb_activations_prepare(&activations, x, k, 0, m), MB_OK);
    return activations;
}

static void test_sizes(void **state)
{
    (void)state;
    size_t bytes = 7;
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 1, 32, &bytes), MB_OK);
    assert_true(bytes > 0 && bytes % 64 == 0);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 1, 33, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_K, 1, 128, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 0, 32, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 1, 0, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_NONE, 1, 32, &bytes), MB_ERR_ARGUMENT);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_0, 1, 32, NULL), MB_ERR_ARGUMENT);
    /* products that would wrap */
    assert_int_equal(mb_pack_size(MB_FORMAT_F32, SIZE_MAX, 4096, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_F32, (size_t)1 << 60, (size_t)1 << 40, &bytes),
                     MB_ERR_SHAPE);
    assert_int_equal(mb_pack_size(MB_FORMAT_Q8_0, 16, SIZE_MAX / 32 * 32, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_size(MB_ACTIVATION_I8G32, SIZE_MAX, 4096, &bytes),
                     MB_ERR_SHAPE);
    assert_int_equal(mb_activations_size(MB_ACTIVATION_F32, 1, SIZE_MAX, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_size(MB_ACTIVATION_I8G32, 1, 48, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_size(MB_ACTIVATION_I8G256, 1, 48, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_size(MB_ACTIVATION_F32, 1, 5, &bytes), MB_OK);
    assert_int_equal(mb_activations_size((enum mb_activation)99, 1, 32, &bytes), MB_ERR_ARGUMENT);
}

static void test_refusals_touch_nothing(void **state)
{
    (void)state;
    enum { N_ROWS = 40, K = 64, M_ROWS = 2 };
    const struct mb_weights w = make_weights(MB_FORMAT_Q4_0, N_ROWS, K, NULL);
    float *x = make_x(M_ROWS, K), *y = allocate(M_ROWS * N_ROWS * sizeof(float));
    const struct mb_activations a = make_activations(MB_ACTIVATION_I8G32, M_ROWS, K, x);
    uint8_t *workspace = allocate(1 << 20);
    size_t bytes;
    assert_int_equal(mb_workspace_size(&w, &a, &bytes), MB_OK);
    assert_true(bytes <= 1 << 20);

    assert_int_equal(mb_matmul_range(&w, &a, 8, 16, y, N_ROWS, workspace), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 39, y, N_ROWS, workspace), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 48, y, N_ROWS, workspace), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_range(&w, &a, 32, 16, y, N_ROWS, workspace), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 16, y, N_ROWS - 1, workspace), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 16, NULL, N_ROWS, workspace), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 16, y, N_ROWS, workspace + 8), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_range(&w, &a, 0, 16, y, N_ROWS, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_range(NULL, &a, 0, 16, y, N_ROWS, workspace), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_range(&w, NULL, 0, 16, y, N_ROWS, workspace), MB_ERR_ARGUMENT);
    struct mb_weights broken = w;
    broken.size = 4;
    assert_int_equal(mb_matmul_range(&broken, &a, 0, 16, y, N_ROWS, workspace), MB_ERR_ARGUMENT);
    broken = w;
    broken.k = 96;
    assert_int_equal(mb_matmul_range(&broken, &a, 0, 16, y, N_ROWS, workspace), MB_ERR_SHAPE);
    broken = w;
    broken.format = MB_FORMAT_F32;
    assert_int_equal(mb_matmul_range(&broken, &a, 0, 16, y, N_ROWS, workspace), MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_workspace_size(&broken, &a, &bytes), MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_matmul(NULL, &w, x, 0, K, y, N_ROWS), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul(NULL, &w, x, 2, K - 1, y, N_ROWS), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul(NULL, &w, x, 2, K, y, N_ROWS - 1), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul(NULL, &w, NULL, 1, K, y, N_ROWS), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul(NULL, &w, x, 1, K, NULL, N_ROWS), MB_ERR_ARGUMENT);
    for (size_t i = 0; i < M_ROWS * N_ROWS; i++)
        assert_true(y[i] == 0);

    assert_int_equal(mb_matmul_range(&w, &a, 16, 16, y, N_ROWS, workspace),
                     MB_OK); /* an empty range is no error */
    assert_int_equal(mb_matmul_range(&w, &a, 32, 40, y, N_ROWS, workspace), MB_OK);
    for (size_t j = 0; j < N_ROWS; j++) /* only the range is written */
        assert_int_equal(y[j] != 0, j >= 32);
    assert_int_equal(mb_weights_init(&broken, MB_FORMAT_Q4_0, 1, 32, workspace + 4),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_weights_init(&broken, MB_FORMAT_Q4_0, 1, 32, NULL), MB_ERR_ARGUMENT);
    assert_int_equal(mb_activations_prepare(&a, x, K, 1, 3), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_prepare(&a, x, K - 1, 0, 2), MB_ERR_SHAPE);
    assert_int_equal(mb_activations_prepare(&a, NULL, K, 0, 1), MB_ERR_ARGUMENT);
    mb_free_aligned(workspace);
    mb_free_aligned(a.data);
    mb_free_aligned(w.data);
    mb_free_aligned(x);
    mb_free_aligned(y);
}

/* A host may upload rows in any chunks and order, and read any rows back. */
static void test_packing_in_pieces(void **state)
{
    (void)state;
    enum { N_ROWS = 53, K = 512 };
    static const size_t cuts[] = {53, 40, 37, 16, 3, 0};
    for (size_t f = 0; f < mb_format_count(); f++) {
        const enum mb_format format = mb_format_at(f)->id;
        uint8_t *rows;
        const struct mb_weights whole = make_weights(format, N_ROWS, K, &rows);
        const size_t row_bytes = mb_format_row_bytes(format, K);
        size_t bytes;
        assert_int_equal(mb_pack_size(format, N_ROWS, K, &bytes), MB_OK);
        struct mb_weights pieces = whole;
        pieces.data = memset(allocate(bytes), 0xee, bytes);
        for (size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; i++)
            assert_int_equal(
                mb_pack_rows(&pieces, rows + cuts[i + 1] * row_bytes, cuts[i + 1], cuts[i]), MB_OK);
        uint8_t *back = allocate(N_ROWS * row_bytes);
        for (size_t i = 0; i + 1 < sizeof cuts / sizeof *cuts; i++)
            assert_int_equal(
                mb_unpack_rows(&pieces, cuts[i + 1], cuts[i], back + cuts[i + 1] * row_bytes),
                MB_OK);
        assert_memory_equal(back, rows, N_ROWS * row_bytes);
        assert_int_equal(mb_pack_rows(&whole, rows, 5, 54), MB_ERR_SHAPE);
        assert_int_equal(mb_pack_rows(&whole, rows, 6, 5), MB_ERR_SHAPE);
        assert_int_equal(mb_pack_rows(&whole, NULL, 0, 1), MB_ERR_ARGUMENT);
        assert_int_equal(mb_pack_rows(&whole, NULL, 5, 5), MB_OK);
        assert_int_equal(mb_unpack_rows(&whole, 0, 54, back), MB_ERR_SHAPE);
        mb_free_aligned(back);
        mb_free_aligned(rows);
        mb_free_aligned(whole.data);
        mb_free_aligned(pieces.data);
    }
}

/* Groups give what single calls give, for matrices of other sizes, formats and activation types, on
 * any pool. */
static void test_groups(void **state)
{
    (void)state;
    enum { K = 512, COUNT = 6, MOST_N = 700, M_ROWS = 97 };
    static const enum mb_format formats[COUNT] = {MB_FORMAT_Q4_K,   MB_FORMAT_Q4_0, MB_FORMAT_Q6_K,
                                                  MB_FORMAT_IQ4_XS, MB_FORMAT_F16,  MB_FORMAT_Q8_0};
    static const size_t sizes[COUNT] = {MOST_N, 17, 64, 333, 50, 129};
    struct mb_weights weights[COUNT];
    const struct mb_weights *list[COUNT];
    float *y[COUNT], *x = make_x(M_ROWS, K), *expected = allocate(M_ROWS * MOST_N * sizeof(float));
    for (size_t i = 0; i < COUNT; i++) {
        weights[i] = make_weights(formats[i], sizes[i], K, NULL);
        list[i] = &weights[i];
        y[i] = allocate(M_ROWS * MOST_N * sizeof(float));
    }
    for (size_t threads = 0; threads <= 3; threads++)
        for (size_t m = 1; m <= M_ROWS; m += 48) {
            struct mb_threads *pool = NULL;
            struct mb_activations prepared[3];
            const struct mb_activations *inputs[COUNT];
            for (size_t t = 0; t < 3; t++)
                prepared[t] = make_activations((enum mb_activation)t, m, K, x);
            if (threads > 0)
                assert_int_equal(mb_threads_create(threads, &pool), MB_OK);
            for (size_t i = 0; i < COUNT; i++) {
                memset(y[i], 0, M_ROWS * MOST_N * sizeof(float));
                inputs[i] = &prepared[mb_format_info(formats[i])->activation];
            }
            assert_int_equal(mb_matmul_group(pool, COUNT, list, inputs, y, sizes), MB_OK);
            for (size_t i = 0; i < COUNT; i++) {
                assert_int_equal(mb_matmul(NULL, list[i], x, m, K, expected, sizes[i]), MB_OK);
                assert_memory_equal(y[i], expected, m * sizes[i] * sizeof(float));
            }
            mb_threads_destroy(pool);
            for (size_t t = 0; t < 3; t++)
                mb_free_aligned(prepared[t].data);
        }
    for (size_t i = 0; i < COUNT; i++) {
        mb_free_aligned(weights[i].data);
        mb_free_aligned(y[i]);
    }
    mb_free_aligned(expected);
    mb_free_aligned(x);
}

/* One entry that does not fit refuses the whole group, before anything is written. */
static void test_group_refusals(void **state)
{
    (void)state;
    enum { K = 256, N = 32 };
    const struct mb_weights q4_k = make_weights(MB_FORMAT_Q4_K, N, K, NULL),
                            q4_0 = make_weights(MB_FORMAT_Q4_0, N, K, NULL);
    const struct mb_weights *list[2] = {&q4_k, &q4_0}, *gap[2] = {&q4_k, NULL};
    float *x = make_x(2, K), first[2 * N] = {0}, second[2 * N] = {0};
    float *y[2] = {first, second}, *no_y[2] = {first, NULL};
    const size_t strides[2] = {N, N}, narrow[2] = {N, N - 1};
    const struct mb_activations a256 = make_activations(MB_ACTIVATION_I8G256, 2, K, x),
                                a32 = make_activations(MB_ACTIVATION_I8G32, 2, K, x),
                                floats = make_activations(MB_ACTIVATION_F32, 2, K, x);
    const struct mb_activations *inputs[2] = {&a256, &a32}, *swapped[2] = {&a256, &floats},
                                *missing[2] = {&a256, NULL};
    assert_int_equal(mb_matmul_group(NULL, 2, list, swapped, y, strides), MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_matmul_group(NULL, 2, list, missing, y, strides), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_group(NULL, 2, gap, inputs, y, strides), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_group(NULL, 2, list, inputs, no_y, strides), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_group(NULL, 2, list, inputs, y, narrow), MB_ERR_SHAPE);
    assert_int_equal(mb_matmul_group(NULL, 2, list, NULL, y, strides), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_group(NULL, 17, list, inputs, y, strides), MB_ERR_ARGUMENT);
    assert_int_equal(mb_matmul_group(NULL, 0, NULL, NULL, NULL, NULL), MB_OK);
    for (size_t i = 0; i < 2 * N; i++)
        assert_true(first[i] == 0 && second[i] == 0);
    mb_free_aligned(a256.data);
    mb_free_aligned(a32.data);
    mb_free_aligned(floats.data);
    mb_free_aligned(q4_k.data);
    mb_free_aligned(q4_0.data);
    mb_free_aligned(x);
}

/* One row needs no stride at all. */
static void test_one_row_ignores_strides(void **state)
{
    (void)state;
    const struct mb_weights w = make_weights(MB_FORMAT_Q8_0, 20, 32, NULL);
    float *x = make_x(1, 32), y[20], z[20];
    assert_int_equal(mb_matmul(NULL, &w, x, 1, 0, y, 0), MB_OK);
    assert_int_equal(mb_matmul(NULL, &w, x, 1, 32, z, 20), MB_OK);
    assert_memory_equal(y, z, sizeof y);
    mb_free_aligned(w.data);
    mb_free_aligned(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_refusals_touch_nothing),
        cmocka_unit_test(test_packing_in_pieces),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_group_refusals),
        cmocka_unit_test(test_one_row_ignores_strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
