/* SPDX-License-Identifier: Apache-2.0 */
/* Odd numbers at every ISA level, every format and activation type: what is zero gives zeros, and a
 * weight or a scale that is no number, or infinite, spoils the outputs of its row and no others.
 * (Activations that are no numbers: test_kernels_matmul.c; n of 0, lengths and pointers that do not
 * fit: test_dispatch_matmul.c.) */
#include "kernels/harness.h"
#include "support/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

enum { N = 35, M = 19, K = 512, ODD_ROW = 18, F16_NAN = 0x7e00, F16_INFINITY = 0x7c00 };

static void *allocate(size_t bytes)
{
    void *memory = mb_alloc_aligned(bytes + 64);
    assert_non_null(memory);
    return memset(memory, 0, bytes + 64);
}

static void multiply(const struct mb_format_info *info, const uint8_t *rows, const float *x,
                     size_t m, float *y)
{
    size_t packed, prepared, scratch;
    struct mb_weights weights;
    struct mb_activations activations;
    assert_int_equal(mb_pack_size(info->id, N, K, &packed), MB_OK);
    assert_int_equal(mb_weights_init(&weights, info->id, N, K, allocate(packed)), MB_OK);
    assert_int_equal(mb_pack_rows(&weights, rows, 0, N), MB_OK);
    assert_int_equal(mb_activations_size(info->activation, m, K, &prepared), MB_OK);
    assert_int_equal(mb_activations_init(&activations, info->activation, m, K, allocate(prepared)),
                     MB_OK);
    assert_int_equal(mb_activations_prepare(&activations, x, K, 0, m), MB_OK);
    assert_int_equal(mb_workspace_size(&weights, &activations, &scratch), MB_OK);
    void *workspace = allocate(scratch);
    assert_int_equal(mb_matmul_range(&weights, &activations, 0, N, y, N, workspace), MB_OK);
    mb_free_aligned(workspace);
    mb_free_aligned(activations.data);
    mb_free_aligned(weights.data);
}

/* The first weights of a row get this f16 scale, or are floats of it; false where scales are bytes,
 * all of which are numbers. */
static bool spoil(const struct mb_format_info *info, uint8_t *row, uint16_t half)
{
    if (mb_coding_is_float(info->coding)) {
        const uint32_t bits = half == F16_NAN ? 0x7fc00000u : 0x7f800000u;
        const uint16_t upper = (uint16_t)(bits >> 16);
        memcpy(row,
               info->id == MB_FORMAT_F32   ? (const void *)&bits
               : info->id == MB_FORMAT_F16 ? (const void *)&half
                                           : (const void *)&upper,
               info->block_bytes);
        return true;
    }
    if (mb_scale_bytes(info->scale) == 1)
        return false;
    struct mb_block_fields fields;
    mb_format_ops(info->id)->split(row, &fields);
    fields.d = half;
    mb_format_ops(info->id)->join(&fields, row);
    return true;
}

static void check_spoiled(const struct mb_format_info *info, const uint8_t *rows, const float *x,
                          size_t m, uint16_t half)
{
    const size_t row_bytes = mb_format_row_bytes(info->id, K);
    uint8_t *odd = allocate(N * row_bytes);
    float good[M * N], y[M * N];
    memcpy(odd, rows, N * row_bytes);
    multiply(info, rows, x, m, good);
    if (spoil(info, odd + ODD_ROW * row_bytes, half)) {
        multiply(info, odd, x, m, y);
        for (size_t i = 0; i < m * N; i++)
            if (i % N == ODD_ROW ? isfinite(y[i]) : memcmp(&y[i], &good[i], sizeof *y) != 0)
                fail_msg("%s x %s, m %zu, scale %#x: output %zu is %g", info->name,
                         mb_activation_name(info->activation), m, half, i % N, (double)y[i]);
    }
    mb_free_aligned(odd);
}

static void check_zeros(const struct mb_format_info *info, const uint8_t *rows,
                        const uint8_t *zero_rows, const float *x, size_t m)
{
    static const float zero_x[M * K];
    float y[M * N];
    for (int what = 0; what < 2; what++) {
        multiply(info, what == 0 ? rows : zero_rows, what == 0 ? zero_x : x, m, y);
        for (size_t i = 0; i < m * N; i++)
            if (!(y[i] == 0))
                fail_msg("%s x %s, m %zu: %s give %g", info->name,
                         mb_activation_name(info->activation), m,
                         what == 0 ? "activations of 0" : "weights of 0", (double)y[i]);
    }
}

/* `info` is a product of the level that is allowed. */
static void check_product(const struct mb_format_info *info)
{
    struct rng rng = rng_seed(rng_test_seed() ^ (uint64_t)info->id);
    const size_t row_bytes = mb_format_row_bytes(info->id, K);
    float *w = allocate(N * K * sizeof *w), *x = allocate(M * K * sizeof *x);
    uint8_t *rows = allocate(N * row_bytes), *zero_rows = allocate(N * row_bytes);
    assert_int_equal(mb_quantize(info->id, w, N, K, NULL, zero_rows), MB_OK);
    for (size_t i = 0; i < N * K; i++)
        w[i] = rng_gauss(&rng);
    for (size_t i = 0; i < M * K; i++)
        x[i] = rng_gauss(&rng);
    assert_int_equal(mb_quantize(info->id, w, N, K, NULL, rows), MB_OK);
    for (size_t m = 1; m <= M; m += M - 1) {
        check_zeros(info, rows, zero_rows, x, m);
        check_spoiled(info, rows, x, m, F16_NAN);
        check_spoiled(info, rows, x, m, F16_INFINITY);
    }
    mb_free_aligned(zero_rows);
    mb_free_aligned(rows);
    mb_free_aligned(x);
    mb_free_aligned(w);
}

static void test_odd_numbers(void **state)
{
    (void)state;
    const struct mb_format_info *info;
    for (uint32_t isa = 0; isa < MB_ISA_COUNT; isa++) {
        if (!mb_isa_is_supported((enum mb_isa)isa))
            continue;
        mb_isa_set_allowed_mask(1u << isa);
        for (size_t i = 0; (info = data_product(i)) != NULL; i++)
            check_product(info);
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_odd_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
