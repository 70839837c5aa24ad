/* SPDX-License-Identifier: Apache-2.0 */
/* Networks on the kernels for codebook matrices: products of what the channel-wise encoder stores
 * are those of what it reads back, in f64, but for the rounding of activations, levels and scales;
 * schemes that are stored otherwise are refused; views, stacks and the next choice of a simulation
 * are right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/codebook_products.h"
#include "made_up_rows.h"
#include "model/schemes.h"
#include "network_support.h"
#include "support/support.h"

/* y against x times what is read back: activations are off by 1/254 of the largest, levels by at
 * most 1/128 of theirs (a half unit of 64), scales by 2^-11. */
static void check_numbers(const struct mb_channelwise *encoded, const float *x, size_t m,
                          const float *y)
{
    const size_t n = encoded->n, k = encoded->k;
    float *rows = malloc(n * k * sizeof *rows);
    assert_non_null(rows);
    mb_channelwise_decode(encoded, 0, n, rows);
    double error = 0, square = 0;
    for (size_t r = 0; r < m; r++) {
        double amax = 0;
        for (size_t i = 0; i < k; i++)
            amax = fmax(amax, fabs((double)x[r * k + i]));
        for (size_t j = 0; j < n; j++) {
            double exact = 0, sizes = 0, largest = 0;
            for (size_t i = 0; i < k; i++) {
                exact += (double)rows[j * k + i] * (double)x[r * k + i];
                sizes += fabs((double)rows[j * k + i]);
                largest = fmax(largest, fabs((double)rows[j * k + i]));
            }
            const double off = fabs((double)y[r * n + j] - exact);
            error += off * off;
            square += exact * exact;
            assert_true(off <= amax * (1.02 * sizes / 254 + (double)k * 4 * largest / 128) + 1e-6);
        }
    }
    assert_true(error <= square * 1e-3); /* 3 % of all, far less than any code loses */
    free(rows);
}

static void check_scheme(const struct mb_scheme *scheme, double bits, size_t n, size_t k)
{
    enum { M = 19 };
    struct mb_channelwise_options options = scheme->options;
    struct mb_channelwise encoded;
    struct mb_codebook_weights weights;
    size_t bytes;
    options.bits = bits;
    if (scheme->one_width)
        options.palette = 1u << (unsigned)bits;
    float *rows = make_rows(n, k), *x = make_rows(M, k), *y = malloc(M * n * sizeof *y);
    assert_non_null(y);
    assert_int_equal(mb_channelwise_encode(rows, n, k, NULL, &options, NULL, &encoded), MB_OK);
    const enum mb_status status = mb_codebook_pack_encoded(&encoded, NULL, &weights, &bytes);
    if (!mb_scheme_has_kernel(scheme)) {
        assert_int_equal(status, MB_ERR_UNSUPPORTED);
    } else {
        assert_int_equal(status, MB_OK);
        assert_int_equal(mb_codebook_matmul(NULL, &weights, x, M, k, y, n), MB_OK);
        check_numbers(&encoded, x, M, y);
        float *one = malloc(n * sizeof *one);
        assert_int_equal(mb_codebook_matmul(NULL, &weights, x + k, 1, k, one, n), MB_OK);
        assert_memory_equal(one, y + n, n * sizeof *one);
        free(one);
        mb_free_aligned(weights.data);
    }
    mb_channelwise_free(&encoded);
    free(rows);
    free(x);
    free(y);
}

static void test_schemes(void **unused)
{
    (void)unused;
    size_t with = 0;
    for (size_t i = 0; i < mb_scheme_count(); i++) {
        const struct mb_scheme *scheme = mb_scheme_at(i);
        with += mb_scheme_has_kernel(scheme);
        for (double bits = 2; bits <= 4; bits += 1) {
            check_scheme(scheme, bits + 0.5, 48, 160);
            if (mb_scheme_has_kernel(scheme))
                check_scheme(scheme, bits, 35, 97); /* a multiple of nothing */
        }
    }
    assert_true(with >= 9);
    assert_true(mb_scheme_has_kernel(mb_scheme_by_name("grouped-feedback")));
    assert_true(mb_scheme_has_kernel(mb_scheme_by_name("cmpq-tensor")));
    assert_true(mb_scheme_has_kernel(mb_scheme_by_name("grouped-outliers")));
    assert_true(mb_scheme_has_kernel(mb_scheme_by_name("cmpq")));
    assert_false(mb_scheme_has_kernel(mb_scheme_by_name("cmpq-block32")));
    assert_false(mb_scheme_has_kernel(mb_scheme_by_name("cmpq-output")));
}

/* Widths that change at multiples of 32 columns leave nothing to pad. */
static void test_packed(void **unused)
{
    (void)unused;
    for (double bits = 2.25; bits < 4; bits += 0.25) {
        struct mb_channelwise_options options = mb_scheme_by_name("packed")->options;
        struct mb_channelwise encoded;
        struct mb_codebook_weights weights;
        size_t bytes;
        options.bits = bits;
        float *rows = make_rows(32, 576);
        assert_int_equal(mb_channelwise_encode(rows, 32, 576, NULL, &options, NULL, &encoded),
                         MB_OK);
        assert_int_equal(mb_codebook_pack_encoded(&encoded, NULL, &weights, &bytes), MB_OK);
        assert_int_equal(weights.padded_k, 576);
        mb_free_aligned(weights.data);
        mb_channelwise_free(&encoded);
        free(rows);
    }
}

/* Widths of 8 bits, matrices of one row, one column, zeros. */
static void test_degenerate(void **unused)
{
    (void)unused;
    static const size_t shapes[][2] = {{1, 40}, {20, 1}, {17, 33}, {16, 32}};
    for (size_t s = 0; s < 4; s++)
        for (int zeros = 0; zeros < 2; zeros++) {
            const size_t n = shapes[s][0], k = shapes[s][1];
            const struct mb_channelwise_options options = {.bits = 5,
                                                           .axis = MB_CHANNELS_OF_INPUT,
                                                           .palette = 1u << 2 | 1u << 8,
                                                           .scope = MB_SCOPE_TENSOR,
                                                           .scale_columns = 16};
            struct mb_channelwise encoded;
            struct mb_codebook_weights weights;
            size_t bytes;
            float *rows = make_rows(n, k), *x = make_rows(3, k), y[3 * 20];
            if (zeros)
                memset(rows, 0, n * k * sizeof *rows);
            assert_int_equal(mb_channelwise_encode(rows, n, k, NULL, &options, NULL, &encoded),
                             MB_OK);
            assert_int_equal(mb_codebook_pack_encoded(&encoded, NULL, &weights, &bytes), MB_OK);
            assert_int_equal(mb_codebook_matmul(NULL, &weights, x, 3, k, y, n), MB_OK);
            if (zeros)
                for (size_t i = 0; i < 3 * n; i++)
                    assert_true(y[i] == 0);
            else
                check_numbers(&encoded, x, 3, y);
            mb_free_aligned(weights.data);
            mb_channelwise_free(&encoded);
            free(rows);
            free(x);
        }
}

/* ---- a network ---- */

/* A matrix stored in two parts, as a stack of experts is: each by itself, views of either, nothing
 * for a view across. */
static void test_parts(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_simulation *simulation;
    struct mb_codebook_products *products;
    assert_int_equal(mb_simulation_create(model, NULL, &simulation, NULL), MB_OK);
    struct mb_network *network = mb_simulation_network(simulation);
    assert_int_equal(mb_codebook_products_create(network, &products), MB_OK);
    const struct mb_rounding *rounding = mb_codebook_products_rounding(products);
    size_t matrix = 0, bytes, panel;
    while (network->matrices[matrix].weights.data == NULL || network->matrices[matrix].n < 96)
        matrix++;
    const struct mb_matrix *of = &network->matrices[matrix];
    const size_t n = of->n, k = of->k, first = 48;
    struct mb_channelwise_options options = mb_scheme_by_name("grouped")->options;
    struct mb_channelwise encoded[2];
    options.bits = 3;
    float *rows = make_rows(n, k), *x = make_rows(2, k), *y = malloc(2 * n * sizeof *y);
    assert_int_equal(mb_channelwise_encode(rows, first, k, NULL, &options, NULL, &encoded[0]),
                     MB_OK);
    assert_int_equal(
        mb_channelwise_encode(rows + first * k, n - first, k, NULL, &options, NULL, &encoded[1]),
        MB_OK);
    assert_int_equal(rounding->multiply(rounding->user, &of->weights, x, k, 2, y),
                     MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_codebook_products_store(products, matrix, 0, &encoded[0], &bytes), MB_OK);
    assert_true(bytes > first * k * 3 / 8);
    assert_int_equal(mb_codebook_products_store(products, matrix, first, &encoded[1], &bytes),
                     MB_OK);
    assert_int_equal(rounding->multiply(rounding->user, &of->weights, x, k, 2, y),
                     MB_ERR_UNSUPPORTED);
    struct mb_weights view = of->weights;
    assert_int_equal(mb_pack_size(view.format, 16, k, &panel), MB_OK);
    view.n = first;
    assert_int_equal(rounding->multiply(rounding->user, &view, x, k, 2, y), MB_OK);
    check_numbers(&encoded[0], x, 2, y);
    view.data = (uint8_t *)of->weights.data + first / 16 * panel;
    view.n = n - first;
    assert_int_equal(rounding->multiply(rounding->user, &view, x, k, 2, y), MB_OK);
    check_numbers(&encoded[1], x, 2, y);
    /* looked up, never multiplied */
    assert_null(network->matrices[network->embedding].weights.data);
    assert_int_equal(
        mb_codebook_products_store(products, network->embedding, 0, &encoded[0], &bytes), MB_OK);
    assert_int_equal(bytes, 0);
    mb_channelwise_free(&encoded[0]);
    mb_channelwise_free(&encoded[1]);
    free(rows);
    free(x);
    free(y);
    mb_codebook_products_free(products);
    mb_simulation_destroy(simulation);
    mb_model_close(model);
}

static double kl_of(struct mb_simulation *simulation, struct mb_reference *reference,
                    const struct mb_windows *windows)
{
    struct mb_evaluation e = {.size = sizeof e};
    assert_int_equal(
        mb_evaluate_against(mb_simulation_network(simulation), reference, windows, NULL, &e, NULL),
        MB_OK);
    const double kl = e.kl_mean;
    mb_evaluation_free(&e);
    return kl;
}

/* The kernels' own rounding is small beside the scheme's loss, there, and gone with the next
 * choice. */
static void check_model(const char *path)
{
    struct mb_model *model = ns_open(path);
    struct mb_windows windows = ns_windows(2, 32, 2048);
    struct mb_simulation *simulation;
    struct mb_reference *reference;
    struct mb_scheme_size size;
    struct mb_weight_choice choice = {.format = MB_FORMAT_NONE,
                                      .feed_forward = MB_FORMAT_NONE,
                                      .scheme = mb_scheme_by_name("grouped"),
                                      .bits = 3};
    assert_int_equal(mb_simulation_create(model, NULL, &simulation, NULL), MB_OK);
    assert_int_equal(
        mb_reference_create(mb_simulation_network(simulation), &windows, NULL, &reference, NULL),
        MB_OK);
    assert_int_equal(mb_simulation_store(simulation, &choice, NULL, NULL, &size, NULL), MB_OK);
    const double simulated = kl_of(simulation, reference, &windows);
    const double bits = mb_scheme_bits(&size);
    choice.kernel = true;
    assert_int_equal(mb_simulation_store(simulation, &choice, NULL, NULL, &size, NULL), MB_OK);
    const double kl = kl_of(simulation, reference, &windows);
    assert_true(kl != simulated && fabs(kl - simulated) < 0.05 * simulated);
    assert_true(kl_of(simulation, reference, &windows) == kl);
    /* rows of 256 columns in five widths: each padded, and as many bytes of order as of a row */
    assert_true(mb_scheme_bits(&size) > bits && mb_scheme_bits(&size) < bits + 1.2);
    choice.kernel = false;
    assert_int_equal(mb_simulation_store(simulation, &choice, NULL, NULL, &size, NULL), MB_OK);
    assert_true(kl_of(simulation, reference, &windows) == simulated);
    mb_reference_destroy(reference);
    mb_simulation_destroy(simulation);
    mb_windows_free(&windows);
    mb_model_close(model);
}

static void test_models(void **unused)
{
    (void)unused;
    check_model(TINY_MODEL);
    check_model(HYBRID_MODEL); /* a tied output */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemes),    cmocka_unit_test(test_packed),
        cmocka_unit_test(test_degenerate), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
