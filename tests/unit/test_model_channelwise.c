/* SPDX-License-Identifier: Apache-2.0 */
/* The channel-wise encoder: what it says that an encoding takes is what a writer of bits makes of
 * it, and a reader of those bits alone gives the same rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "channelwise_bits.h"
#include "model/channelwise_encoder.h"

static void test_bytes(void **state)
{
    (void)state;
    static const struct mb_channelwise_options kinds[] = {
        {.bits = 3.2, .activation_outliers = 0.0045, .error_outliers = 0.0005, .plain = true},
        {.bits = 3.2, .axis = MB_CHANNELS_OF_OUTPUT, .byte_codebook = true},
        {.bits = 3,
         .scope = MB_SCOPE_TENSOR,
         .scale_columns = 32,
         .palette = 0x3e,
         .rule = MB_WIDTHS_BY_ERROR,
         .error_outliers = 0.002},
        {.bits = 3.5,
         .scope = MB_SCOPE_BLOCK,
         .scope_size = 5,
         .scale_columns = MB_SCALE_OF_ROW,
         .spread = 0.1,
         .byte_codebook = true},
        {.axis = MB_CHANNELS_OF_OUTPUT,
         .bits = 4,
         .palette = 1u << 4,
         .codes = MB_CODES_UNIFORM,
         .scope = MB_SCOPE_GROUP,
         .scope_size = 32},
        {.axis = MB_CHANNELS_OF_OUTPUT,
         .bits = 3,
         .palette = 1u << 3,
         .codes = MB_CODES_UNIFORM_MIN,
         .scope = MB_SCOPE_GROUP,
         .scope_size = 64},
        {.axis = MB_CHANNELS_OF_OUTPUT, .bits = 4, .palette = 1u << 4, .codes = MB_CODES_LOG},
        {.axis = MB_CHANNELS_OF_OUTPUT,
         .bits = 3,
         .palette = 1u << 3,
         .codes = MB_CODES_LLOYD,
         .scope = MB_SCOPE_TENSOR,
         .scale_columns = 64},
        {.bits = 7.5, .rule = MB_WIDTHS_BY_ERROR},
    };
    static const size_t shapes[][2] = {{40, 96}, {1, 70}, {33, 1}, {7, 4100}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            const size_t n = shapes[s][0], k = shapes[s][1];
            float *rows = make_rows(n, k), *activations = make_activations(k);
            struct mb_channelwise c = encode(rows, n, k, activations, &kinds[i]);
            check_stored(&c);
            mb_channelwise_free(&c);
            free(rows);
            free(activations);
        }
}

/* ---- the target ---- */

static void test_target(void **state)
{
    (void)state;
    static const struct mb_channelwise_options kinds[] = {
        {.byte_codebook = true, .activation_outliers = 0.001, .error_outliers = 0.0001},
        {.scope = MB_SCOPE_TENSOR,
         .scale_columns = 128,
         .rule = MB_WIDTHS_BY_ERROR,
         .palette = 0x1e},
    };
    static const size_t lengths[] = {64, 576, 1536, 4096};
    for (size_t l = 0; l < 4; l++) {
        const size_t k = lengths[l], n = 320;
        float *rows = make_rows(n, k), *activations = make_activations(k);
        for (size_t i = 0; i < 2; i++)
            /* 4096 columns are slow to fit; their steps are the smallest */
            for (double bits = 2.25; bits <= 4; bits += k == 4096 ? 1.75 : 0.25) {
                struct mb_channelwise_options options = kinds[i];
                options.bits = bits;
                options.rounds = 1;
                struct mb_channelwise c = encode(rows, n, k, activations, &options);
                if (!c.reached || fabs(mb_channelwise_bits(&c) - bits) > 0.01)
                    fail_msg("kind %zu, k %zu: %.4f bits for %.2f", i, k, mb_channelwise_bits(&c),
                             bits);
                mb_channelwise_free(&c);
            }
        free(rows);
        free(activations);
    }
}

static void test_out_of_reach(void **state)
{
    (void)state;
    float *rows = make_rows(64, 64);
    struct mb_channelwise_options options = {.bits = 2.25}; /* f16 codebooks alone take 1 bit */
    struct mb_channelwise c = encode(rows, 64, 64, NULL, &options);
    assert_false(c.reached);
    assert_true(mb_channelwise_bits(&c) > 3);
    mb_channelwise_free(&c);
    options = (struct mb_channelwise_options){.bits = 12, .palette = 1u << 2 | 1u << 3};
    c = encode(rows, 64, 64, NULL, &options);
    assert_false(c.reached);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(c.widths[c.width[i]], 3);
    mb_channelwise_free(&c);
    free(rows);
}

/* Wider codes go where they should. */
static void test_widths(void **state)
{
    (void)state;
    const size_t n = 64, k = 80;
    float *rows = make_rows(n, k), *activations = make_activations(k);
    for (int rule = MB_WIDTHS_BY_NORM; rule <= MB_WIDTHS_BY_ERROR; rule++) {
        const struct mb_channelwise_options options = {
            .bits = 2.6, .rule = (enum mb_width_rule)rule, .scope = MB_SCOPE_TENSOR};
        struct mb_channelwise c = encode(rows, n, k, activations, &options);
        double mean[2] = {0}, count[2] = {0};
        for (size_t i = 0; i < k; i++) {
            mean[activations[i] > 1] += (double)c.widths[c.width[i]];
            count[activations[i] > 1]++;
            for (size_t j = 0; rule == MB_WIDTHS_BY_NORM && j < k; j++)
                if (activations[i] > activations[j])
                    assert_true(c.width[i] >= c.width[j]);
        }
        assert_true(mean[1] / count[1] > mean[0] / count[0] + 0.5);
        mb_channelwise_free(&c);
    }
    free(rows);
    free(activations);
}

/* ---- error ---- */

static double error_with(const float *rows, const float *activations, size_t n, size_t k,
                         const struct mb_channelwise_options *options)
{
    struct mb_channelwise c = encode(rows, n, k, activations, options);
    float *decoded = malloc(n * k * sizeof *decoded);
    double error = 0, square = 0;
    mb_channelwise_decode(&c, 0, n, decoded);
    for (size_t i = 0; i < n * k; i++) {
        const double off = (double)rows[i] - (double)decoded[i];
        error += (double)activations[i % k] * off * off;
        square += (double)activations[i % k] * (double)rows[i] * (double)rows[i];
    }
    const double relative = sqrt(error / square);
    assert_true(fabs(relative - c.error) < 1e-5 * relative);
    mb_channelwise_free(&c);
    free(decoded);
    return relative;
}

/* Widths that change at multiples of 32 channels, by either rule: as many bits as without, within
 * half of 32 channels' at each change, and little more error than so many bits cost. */
static void test_aligned(void **unused)
{
    (void)unused;
    enum { N = 40, K = 320 };
    size_t mixed = 0;
    float *rows = make_rows(N, K), *activations = make_activations(K);
    for (int rule = 0; rule < 2; rule++)
        for (double bits = 2; bits < 4; bits += 0.3) {
            struct mb_channelwise_options options = {.bits = bits,
                                                     .palette = 0x3e,
                                                     .rule = (enum mb_width_rule)rule,
                                                     .scope = MB_SCOPE_TENSOR,
                                                     .scale_columns = 128};
            struct mb_channelwise free_widths = encode(rows, N, K, activations, &options);
            options.align = 32;
            struct mb_channelwise encoded = encode(rows, N, K, activations, &options);
            size_t above = 0, changes = 0;
            for (size_t w = encoded.width_count; w-- > 0;) {
                const size_t before = above;
                for (size_t c = 0; c < K; c++)
                    above += encoded.width[c] == w;
                assert_int_equal(above % 32, 0);
                changes += above > before;
            }
            mixed += changes > 1;
            assert_true(fabs(mb_channelwise_bits(&encoded) - bits) < 32.0 / K);
            assert_true(log2(encoded.error / free_widths.error) <
                        mb_channelwise_bits(&free_widths) - mb_channelwise_bits(&encoded) + 0.1);
            mb_channelwise_free(&encoded);
            mb_channelwise_free(&free_widths);
        }
    assert_true(mixed >= 10);
    free(rows);
    free(activations);
}

static void test_each_option_helps(void **state)
{
    (void)state;
    const size_t n = 96, k = 128;
    float *rows = make_rows(n, k), *activations = make_activations(k);
    struct mb_channelwise_options base = {.palette = 1u << 3, .bits = 3}, other = base;
    const double usual = error_with(rows, activations, n, k, &base);
    other.activation_outliers = 0.0045;
    assert_true(error_with(rows, activations, n, k, &other) < usual);
    other = base;
    other.error_outliers = 0.0045;
    assert_true(error_with(rows, activations, n, k, &other) < 0.95 * usual);
    other = base;
    other.codes = MB_CODES_UNIFORM_MIN;
    assert_true(error_with(rows, activations, n, k, &other) > usual);
    other = base;
    other.codes = MB_CODES_LLOYD;
    assert_true(error_with(rows, activations, n, k, &other) > usual);
    /* With one codebook for all, scales are what tells rows apart, and weighting what tells
     * columns apart. */
    base.scope = MB_SCOPE_TENSOR;
    const double shared = error_with(rows, activations, n, k, &base);
    base.scale_columns = MB_SCALE_OF_ROW;
    const double by_row = error_with(rows, activations, n, k, &base);
    base.scale_columns = 32;
    const double by_group = error_with(rows, activations, n, k, &base);
    base.plain = true;
    assert_true(by_row < shared && by_group < shared);
    assert_true(error_with(rows, activations, n, k, &base) > by_group);
    free(rows);
    free(activations);
}

/* Bits that are not to be exceeded are not, and come nearest from below. */
static void test_within(void **state)
{
    (void)state;
    const size_t n = 32, k = 96;
    float *rows = make_rows(n, k), *activations = malloc(k * sizeof *activations);
    bool exceeded = false;
    for (size_t c = 0; c < k; c++)
        activations[c] = (float)(1 + c % 7);
    for (double bits = 2.5; bits < 4.1; bits += 0.25) {
        struct mb_channelwise_options options = {.bits = bits,
                                                 .palette = 0x3e,
                                                 .scope = MB_SCOPE_TENSOR,
                                                 .scale_columns = 32,
                                                 .rule = MB_WIDTHS_BY_ERROR,
                                                 .align = 32};
        struct mb_channelwise nearest = encode(rows, n, k, activations, &options);
        options.within = true;
        struct mb_channelwise within = encode(rows, n, k, activations, &options);
        exceeded = exceeded || mb_channelwise_bits(&nearest) > bits;
        assert_true(mb_channelwise_bits(&within) <= bits && within.reached);
        assert_true(mb_channelwise_bits(&nearest) > bits ||
                    mb_channelwise_bits(&within) == mb_channelwise_bits(&nearest));
        mb_channelwise_free(&nearest);
        mb_channelwise_free(&within);
    }
    assert_true(exceeded);
    free(activations);
    free(rows);
}

/* ---- little in it ---- */

static void test_degenerate(void **state)
{
    (void)state;
    enum { N = 20, K = 33 };
    static const struct mb_channelwise_options kinds[] = {
        {.bits = 3, .activation_outliers = 0.01, .error_outliers = 0.01},
        {.bits = 3, .axis = MB_CHANNELS_OF_OUTPUT, .byte_codebook = true},
        {.bits = 3, .scope = MB_SCOPE_TENSOR, .scale_columns = 16, .rule = MB_WIDTHS_BY_ERROR},
        {.bits = 3, .codes = MB_CODES_UNIFORM_MIN, .scope = MB_SCOPE_GROUP, .scope_size = 8},
        {.bits = 3, .codes = MB_CODES_UNIFORM, .palette = 1u << 3, .scale_columns = -1}};
    float rows[N * K], zero[N * K] = {0}, same[N * K], two[N * K], none[K] = {0};
    float decoded[N * K];
    for (size_t i = 0; i < (size_t)N * K; i++) {
        same[i] = 0.75f;
        two[i] = i % 3 ? -0.5f : 0.25f;
    }
    const float *inputs[] = {zero, same, two};
    for (size_t i = 0; i < 3; i++)
        for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++)
            for (size_t a = 0; a < 2; a++) {
                memcpy(rows, inputs[i], sizeof rows);
                struct mb_channelwise c = encode(rows, N, K, a ? none : NULL, &kinds[kind]);
                check_stored(&c);
                mb_channelwise_decode(&c, 0, N, decoded);
                for (size_t j = 0; j < (size_t)N * K; j++)
                    if (fabsf(decoded[j] - rows[j]) > (kind == 4 ? 0.2f : 0.02f))
                        fail_msg("input %zu, kind %zu: %g for %g", i, kind, (double)decoded[j],
                                 (double)rows[j]);
                mb_channelwise_free(&c);
            }
}

static void test_refused(void **state)
{
    (void)state;
    float *rows = make_rows(8, 8);
    struct mb_channelwise c;
    float bad[8] = {1, 1, 1, -1, 1, 1, 1, 1};
    const struct mb_channelwise_options good = {.bits = 3};
    static const struct mb_channelwise_options wrong[] = {
        {.bits = 0},
        {.bits = NAN},
        {.bits = 3, .palette = 1},
        {.bits = 3, .palette = 1u << 9},
        {.bits = 3, .spread = 0.6},
        {.bits = 3, .scope = MB_SCOPE_GROUP},
        {.bits = 3, .scale_columns = -2},
        {.bits = 3, .error_outliers = NAN},
        {.bits = 3, .activation_outliers = -0.1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(mb_channelwise_encode(rows, 8, 8, NULL, &wrong[i], NULL, &c),
                         MB_ERR_ARGUMENT);
    assert_int_equal(mb_channelwise_encode(rows, 8, 8, bad, &good, NULL, &c), MB_ERR_ARGUMENT);
    bad[3] = NAN;
    assert_int_equal(mb_channelwise_encode(rows, 8, 8, bad, &good, NULL, &c), MB_ERR_ARGUMENT);
    assert_int_equal(mb_channelwise_encode(rows, 0, 8, NULL, &good, NULL, &c), MB_ERR_SHAPE);
    assert_int_equal(mb_channelwise_encode(rows, 8, 0, NULL, &good, NULL, &c), MB_ERR_SHAPE);
    rows[13] = NAN;
    assert_int_equal(mb_channelwise_encode(rows, 8, 8, NULL, &good, NULL, &c), MB_ERR_ARGUMENT);
    rows[13] = INFINITY;
    assert_int_equal(mb_channelwise_encode(rows, 8, 8, NULL, &good, NULL, &c), MB_ERR_ARGUMENT);
    assert_null(c.codes);
    free(rows);
}

/* Weights at the ends of what floats hold stay finite. */
static void test_extremes(void **state)
{
    (void)state;
    float rows[32 * 16];
    for (size_t i = 0; i < 32 * 16; i++)
        rows[i] = (i % 2 ? 1.0f : -1.0f) * (i % 5 ? 1e-38f : 3e38f);
    for (int columns = -1; columns <= 8; columns += 9) {
        struct mb_channelwise_options options = {
            .bits = 4, .scale_columns = columns, .scope = MB_SCOPE_TENSOR, .error_outliers = 0.01};
        struct mb_channelwise c = encode(rows, 32, 16, NULL, &options);
        float decoded[32 * 16];
        mb_channelwise_decode(&c, 0, 32, decoded);
        for (size_t i = 0; i < 32 * 16; i++)
            assert_true(isfinite(decoded[i]));
        mb_channelwise_free(&c);
    }
}

/* The same on any number of threads, and part of the rows is what all are there. */
static void test_same_every_time(void **state)
{
    (void)state;
    const size_t n = 300, k = 200;
    float *rows = make_rows(n, k), *activations = make_activations(k);
    static const struct mb_channelwise_options kinds[] = {
        {.bits = 3, .activation_outliers = 0.0045, .error_outliers = 0.0005},
        {.bits = 2.6, .scope = MB_SCOPE_TENSOR, .scale_columns = 64, .rule = MB_WIDTHS_BY_ERROR}};
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    for (size_t i = 0; i < 2; i++) {
        struct mb_channelwise a = encode(rows, n, k, activations, &kinds[i]), b;
        assert_int_equal(mb_channelwise_encode(rows, n, k, activations, &kinds[i], threads, &b),
                         MB_OK);
        assert_memory_equal(a.codes, b.codes, n * k);
        assert_memory_equal(a.width, b.width, k);
        assert_memory_equal(a.levels, b.levels, a.first_level[a.cell_count] * sizeof *a.levels);
        assert_int_equal(a.outlier_count, b.outlier_count);
        float *all = malloc(n * k * sizeof *all), *some = malloc(17 * k * sizeof *some);
        mb_channelwise_decode(&a, 0, n, all);
        mb_channelwise_decode(&b, 100, 117, some);
        assert_memory_equal(all + 100 * k, some, 17 * k * sizeof *some);
        free(all);
        free(some);
        mb_channelwise_free(&a);
        mb_channelwise_free(&b);
    }
    mb_threads_destroy(threads);
    free(rows);
    free(activations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),           cmocka_unit_test(test_target),
        cmocka_unit_test(test_out_of_reach),    cmocka_unit_test(test_widths),
        cmocka_unit_test(test_aligned),         cmocka_unit_test(test_each_option_helps),
        cmocka_unit_test(test_degenerate),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_within),          cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_same_every_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
