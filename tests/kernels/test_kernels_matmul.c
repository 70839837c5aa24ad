/* SPDX-License-Identifier: Apache-2.0 */
/* The public matmul at every ISA level against two independent oracles in f64: the product of
 * dequantized weights and the given activations (the documented error bound), and of dequantized
 * weights and the prepared activations (which leaves nothing but f32 rounding). Levels, splits and
 * thread counts must not change a bit. */
#include "kernels/half.h"
#include "kernels/harness.h"
#include "support/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { N = 53, M = 33, Y_STRIDE = N + 3 };
static const size_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 25, 33};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

struct problem {
    const struct mb_format_info *info;
    size_t k;
    float *x;        /* [M][k] */
    double *exact;   /* [M][N], dequantized weights x given activations */
    double *rounded; /* [M][N], dequantized weights x prepared activations */
    struct mb_weights weights;
    struct mb_activations activations; /* prepared by the reference */
};

static void *allocate(size_t bytes)
{
    void *memory = mb_alloc_aligned(bytes + 64);
    assert_non_null(memory);
    return memset(memory, 0, bytes + 64);
}

/* Activation r, column c as the kernels see it: code times scale. */
static double prepared_value(const struct problem *p, size_t r, size_t c)
{
    const struct mb_activation_layout layout = mb_activation_layout(p->info->activation, p->k);
    const uint8_t *row = (const uint8_t *)p->activations.data + r * layout.row_bytes;
    if (p->info->activation == MB_ACTIVATION_F32)
        return (double)((const float *)(const void *)row)[c];
    if (p->info->activation == MB_ACTIVATION_BF16)
        return (double)mb_bf16_to_float(((const uint16_t *)(const void *)row)[c]);
    const size_t group = mb_activation_group(p->info->activation);
    return (double)((const int8_t *)row)[c] *
           (double)((const float *)(const void *)(row + layout.scale))[c / group];
}

static void make_oracles(struct problem *p, const float *w)
{
    p->exact = allocate(M * N * sizeof(double));
    p->rounded = allocate(M * N * sizeof(double));
    for (size_t r = 0; r < M; r++)
        for (size_t c = 0; c < p->k; c++) {
            const double x = (double)p->x[r * p->k + c], q = prepared_value(p, r, c);
            for (size_t j = 0; j < N; j++) {
                p->exact[r * N + j] += x * (double)w[j * p->k + c];
                p->rounded[r * N + j] += q * (double)w[j * p->k + c];
            }
        }
}

static void problem_create(struct problem *p, const struct mb_format_info *info, uint64_t seed)
{
    struct rng rng = rng_seed(seed ^ (uint64_t)info->id);
    size_t bytes;
    *p = (struct problem){.info = info,
                          .k = info->block_k == 1 ? 333
                                                  : info->block_k * (info->block_k == 32 ? 21 : 3)};
    const size_t row_bytes = mb_format_row_bytes(info->id, p->k);
    p->x = allocate(M * p->k * sizeof(float));
    float *w = allocate(N * p->k * sizeof(float));
    uint8_t *rows = allocate(N * row_bytes);
    for (size_t i = 0; i < M * p->k; i++)
        p->x[i] = rng_gauss(&rng);
    for (size_t i = 0; i < N * p->k; i++)
        w[i] = 0.05f * rng_gauss(&rng);
    assert_int_equal(mb_quantize(info->id, w, N, p->k, NULL, rows), MB_OK);
    assert_int_equal(mb_dequantize(info->id, rows, N, p->k, w), MB_OK);

    assert_int_equal(mb_pack_size(info->id, N, p->k, &bytes), MB_OK);
    assert_int_equal(mb_weights_init(&p->weights, info->id, N, p->k, allocate(bytes)), MB_OK);
    assert_int_equal(mb_pack_rows(&p->weights, rows, 0, N), MB_OK);
    assert_int_equal(mb_activations_size(info->activation, M, p->k, &bytes), MB_OK);
    assert_int_equal(
        mb_activations_init(&p->activations, info->activation, M, p->k, allocate(bytes)), MB_OK);
    mb_isa_set_allowed_mask(0);
    assert_int_equal(mb_activations_prepare(&p->activations, p->x, p->k, 0, M), MB_OK);
    make_oracles(p, w);
    mb_free_aligned(w);
    mb_free_aligned(rows);
}

static void problem_destroy(struct problem *p)
{
    mb_free_aligned(p->x);
    mb_free_aligned(p->exact);
    mb_free_aligned(p->rounded);
    mb_free_aligned(p->weights.data);
    mb_free_aligned(p->activations.data);
}

/* y of the first m rows at the allowed levels, prepared there as well, in ranges of `range`
 * columns. */
static void multiply(const struct problem *p, size_t m, size_t range, float *y)
{
    size_t bytes;
    struct mb_activations activations;
    assert_int_equal(mb_activations_size(p->info->activation, m, p->k, &bytes), MB_OK);
    assert_int_equal(
        mb_activations_init(&activations, p->info->activation, m, p->k, allocate(bytes)), MB_OK);
    assert_int_equal(mb_activations_prepare(&activations, p->x, p->k, 0, m), MB_OK);
    assert_int_equal(mb_workspace_size(&p->weights, &activations, &bytes), MB_OK);
    void *workspace = allocate(bytes);
    memset(workspace, 0xff, bytes); /* NaN: what was there must not matter */
    for (size_t n0 = 0; n0 < N; n0 += range)
        assert_int_equal(mb_matmul_range(&p->weights, &activations, n0,
                                         n0 + range < N ? n0 + range : N, y, Y_STRIDE, workspace),
                         MB_OK);
    mb_free_aligned(workspace);
    mb_free_aligned(activations.data);
}

static double relative_rms(const float *y, const double *exact)
{
    double error = 0, size = 0;
    for (size_t r = 0; r < M; r++)
        for (size_t j = 0; j < N; j++) {
            const double difference = (double)y[r * Y_STRIDE + j] - exact[r * N + j];
            error += difference * difference;
            size += exact[r * N + j] * exact[r * N + j];
        }
    return sqrt(error / size);
}

static void assert_same(const struct problem *p, const char *what, size_t m, const float *y,
                        const float *expected)
{
    for (size_t r = 0; r < m; r++)
        if (memcmp(y + r * Y_STRIDE, expected + r * Y_STRIDE, N * sizeof *y) != 0)
            fail_msg("%s x %s, %s, m=%zu: row %zu differs from the reference", p->info->name,
                     mb_activation_name(p->info->activation), what, m, r);
}

static void check_level(const struct problem *p, uint32_t mask, const float *expected)
{
    float *y = allocate(M * Y_STRIDE * sizeof(float));
    char what[32];
    mb_isa_set_allowed_mask(mask);
    snprintf(what, sizeof what, "levels %#x", mb_isa_allowed_mask());
    for (size_t i = 0; i < ROW_COUNTS; i += test_is_quick() ? 3 : 1) {
        memset(y, 0xff, M * Y_STRIDE * sizeof *y);
        multiply(p, row_counts[i], N, y);
        assert_same(p, what, row_counts[i], y, expected);
    }
    for (size_t range = 16; range < N; range += 16)
        for (size_t m = 1; m <= M; m += 16) {
            memset(y, 0xff, M * Y_STRIDE * sizeof *y);
            multiply(p, m, range, y);
            assert_same(p, "split into ranges", m, y, expected);
        }
    mb_free_aligned(y);
}

/* The format's own for its default type; other types may be half as coarse again. */
static double error_bound(const struct mb_format_info *info)
{
    const bool usual = info->activation == mb_format_info(info->id)->activation;
    return usual ? info->error_bound : 1.5 * info->error_bound;
}

static void test_every_format_and_level(void **state)
{
    (void)state;
    const uint64_t seed = rng_test_seed();
    print_message("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; data_product(i) != NULL; i++) {
        struct problem p;
        problem_create(&p, data_product(i), seed);
        float *expected = allocate(M * Y_STRIDE * sizeof(float));
        mb_isa_set_allowed_mask(0);
        multiply(&p, M, N, expected);
        const double error = relative_rms(expected, p.exact),
                     rounding = relative_rms(expected, p.rounded);
        print_message("%-7s %-6s error %.2e (bound %.0e), of which f32 rounding %.1e\n",
                      p.info->name, mb_activation_name(p.info->activation), error,
                      p.info->error_bound, rounding);
        assert_true(error < error_bound(p.info));
        assert_true(rounding < 1e-6);
        check_level(&p, 0, expected);
        for (uint32_t isa = 1; isa < MB_ISA_COUNT; isa++) {
            if (!mb_isa_is_supported((enum mb_isa)isa))
                continue;
            check_level(&p, 1u << isa, expected); /* this level on its own */
            if (!test_is_quick())
                check_level(&p, (2u << isa) - 1, expected); /* and with those below it */
        }
        mb_isa_set_allowed_mask(UINT32_MAX);
        mb_free_aligned(expected);
        problem_destroy(&p);
    }
}

/* Each kernel forced into the default selection, as MIXBIT_KERNEL and the tuner do: plans then mix
 * levels (decode of one, tile of another), which must not show either. */
static void test_forced_kernels(void **state)
{
    (void)state;
    static const size_t counts[] = {1, 3, 9, 33};
    for (size_t i = 0; data_product(i) != NULL; i++) {
        struct problem p;
        problem_create(&p, data_product(i), 5);
        float *expected = allocate(M * Y_STRIDE * sizeof(float)),
              *y = allocate(M * Y_STRIDE * sizeof(float));
        multiply(&p, M, N, expected);
        mb_isa_set_allowed_mask(UINT32_MAX);
        const struct mb_kernel *kernel;
        for (size_t j = 0; (kernel = mb_registry_at(j)) != NULL; j++) {
            if (!mb_kernel_fits(kernel, p.info) || !mb_isa_is_supported(kernel->isa))
                continue;
            assert_int_equal(mb_select_override(kernel), MB_OK);
            for (size_t c = test_is_quick() ? 2 : 0; c < sizeof counts / sizeof *counts; c++) {
                memset(y, 0xff, M * Y_STRIDE * sizeof *y);
                multiply(&p, counts[c], N, y);
                assert_same(&p, kernel->name, counts[c], y, expected);
            }
        }
        assert_int_equal(mb_select_override(NULL), MB_OK);
        mb_free_aligned(y);
        mb_free_aligned(expected);
        problem_destroy(&p);
    }
}

static void test_threads_do_not_change_a_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < mb_format_count(); i++) {
        struct problem p;
        problem_create(&p, mb_format_at(i), 7);
        mb_isa_set_allowed_mask(UINT32_MAX);
        float *expected = allocate(M * Y_STRIDE * sizeof(float)),
              *y = allocate(M * Y_STRIDE * sizeof(float));
        multiply(&p, M, N, expected);
        for (size_t threads = 0; threads <= 5; threads += test_is_quick() ? 3 : 1) {
            struct mb_threads *pool = NULL;
            if (threads > 0)
                assert_int_equal(mb_threads_create(threads, &pool), MB_OK);
            for (size_t j = 0; j < ROW_COUNTS; j += test_is_quick() ? 5 : 1) {
                memset(y, 0xff, M * Y_STRIDE * sizeof *y);
                assert_int_equal(mb_matmul(pool, &p.weights, p.x, row_counts[j], p.k, y, Y_STRIDE),
                                 MB_OK);
                assert_same(&p, "mb_matmul", row_counts[j], y, expected);
            }
            mb_threads_destroy(pool);
        }
        mb_free_aligned(y);
        mb_free_aligned(expected);
        problem_destroy(&p);
    }
}

static void test_not_finite_activations_do_no_harm(void **state)
{
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -1.0f};
    for (uint32_t isa = 0; isa < MB_ISA_COUNT; isa++) {
        if (!mb_isa_is_supported((enum mb_isa)isa))
            continue;
        for (size_t i = 0; data_product(i) != NULL; i++) {
            struct problem p;
            problem_create(&p, data_product(i), 11);
            mb_isa_set_allowed_mask(1u << isa);
            for (size_t j = 0; j < M * p.k; j += 1 + j % 7)
                p.x[j] = odd[j % 5];
            const size_t bytes = ((M - 1) * Y_STRIDE + N) * sizeof(float);
            struct guard guard = guard_create(bytes);
            float *y = guard_output(&guard, bytes);
            multiply(&p, M, N, y);
            multiply(&p, 3, N, y);
            assert_true(guard_left_intact(&guard, bytes));
            guard_destroy(&guard);
            problem_destroy(&p);
        }
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format_and_level),
        cmocka_unit_test(test_forced_kernels),
        cmocka_unit_test(test_threads_do_not_change_a_bit),
        cmocka_unit_test(test_not_finite_activations_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
