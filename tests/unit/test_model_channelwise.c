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

/* ---- feedback ---- */

/* Mean products of columns that hang together: each is its own noise and half of the one before. */
static float *make_moments(size_t k, double common)
{
    float *h = malloc(k * k * sizeof *h);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++)
            h[i * k + j] = (float)pow(common, fabs((double)i - (double)j)) *
                           sqrtf((float)(1 + i % 5)) * sqrtf((float)(1 + j % 5));
    return h;
}

/* What the outputs lose: e H e^T over the rows. */
static double output_error(const struct mb_channelwise *c, const float *rows, const float *h)
{
    float *decoded = malloc(c->n * c->k * sizeof *decoded);
    double error = 0;
    mb_channelwise_decode(c, 0, c->n, decoded);
    for (size_t r = 0; r < c->n; r++)
        for (size_t i = 0; i < c->k; i++)
            for (size_t j = 0; j < c->k; j++)
                error += (double)(rows[r * c->k + i] - decoded[r * c->k + i]) *
                         (double)h[i * c->k + j] *
                         (double)(rows[r * c->k + j] - decoded[r * c->k + j]);
    free(decoded);
    return error;
}

static void test_feedback(void **state)
{
    (void)state;
    static const struct mb_channelwise_options kinds[] = {
        {.bits = 3, .scope = MB_SCOPE_TENSOR, .scale_columns = 32, .rule = MB_WIDTHS_BY_ERROR},
        {.bits = 3, .byte_codebook = true, .error_outliers = 0.01},
        {.bits = 3,
         .palette = 1u << 3,
         .axis = MB_CHANNELS_OF_OUTPUT,
         .codes = MB_CODES_UNIFORM_MIN,
         .scope = MB_SCOPE_GROUP,
         .scope_size = 32}};
    const size_t n = 48, k = 80;
    float *rows = make_rows(n, k), *activations = malloc(k * sizeof *activations);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (int common = 0; common < 2; common++) {
            float *h = make_moments(k, common ? 0.9 : 0);
            for (size_t c = 0; c < k; c++)
                activations[c] = h[c * k + c];
            struct mb_channelwise_options options = kinds[i];
            struct mb_channelwise without = encode(rows, n, k, activations, &options);
            options.feedback = true;
            struct mb_channelwise blind = encode(rows, n, k, activations, &options);
            options.moments = h;
            struct mb_channelwise with = encode(rows, n, k, activations, &options);
            check_stored(&with);
            assert_memory_equal(without.codes, blind.codes, n * k);
            assert_int_equal(mb_channelwise_total(&without.bytes),
                             mb_channelwise_total(&with.bytes));
            const double before = output_error(&without, rows, h),
                         after = output_error(&with, rows, h);
            if (!common) /* nothing to make up with */
                assert_memory_equal(without.codes, with.codes, n * k);
            else if (after > 0.7 * before)
                fail_msg("kind %zu: %g with feedback, %g without", i, after, before);
            mb_channelwise_free(&without);
            mb_channelwise_free(&blind);
            mb_channelwise_free(&with);
            free(h);
        }
    free(rows);
    free(activations);
}

/* The least error that changing one code of a row can lead to, over what the row has. */
static double best_change(const struct mb_channelwise *c, const float *rows, const float *h,
                          size_t row)
{
    const size_t k = c->k;
    double *error = malloc(k * sizeof *error), total = 0, best = 0;
    float *decoded = malloc(k * sizeof *decoded);
    mb_channelwise_decode(c, row, row + 1, decoded);
    for (size_t i = 0; i < k; i++)
        error[i] = (double)rows[row * k + i] - (double)decoded[i];
    for (size_t i = 0; i < k; i++) {
        double asked = 0;
        for (size_t j = 0; j < k; j++)
            asked += (double)h[i * k + j] * error[j];
        total += error[i] * asked;
        const float *levels = mb_levels_at(c, i, row);
        const double scale = (double)mb_scale_at(c, row, i);
        for (size_t code = 0; code < (size_t)1 << c->widths[c->width[i]]; code++) {
            const double by = (double)decoded[i] - scale * (double)levels[code];
            const double change = 2 * by * asked + by * by * (double)h[i * k + i];
            best = change < best ? change : best;
        }
    }
    free(error);
    free(decoded);
    return -best / total;
}

/* The least error that *value, moved either way by `by`, leads to, over what there is. */
static double best_move(const struct mb_channelwise *c, const float *rows, const float *h,
                        float *value, float by)
{
    const float was = *value;
    const double total = output_error(c, rows, h);
    double least = INFINITY;
    for (int sign = -1; sign < 2; sign += 2) {
        *value = was + (float)sign * by;
        least = fmin(least, output_error(c, rows, h));
    }
    *value = was;
    return least / total;
}

/* Levels and scales have been fitted to the codes: none is far from where it is best. */
static void check_fitted(struct mb_channelwise *c, const float *rows, const float *h)
{
    for (size_t cell = 0; cell < c->cell_count; cell++) {
        const size_t first = c->first_level[cell], end = c->first_level[cell + 1];
        const float step = (c->levels[end - 1] - c->levels[first]) / (float)(end - first);
        for (size_t l = first; l < end; l++) {
            const double least = best_move(c, rows, h, &c->levels[l], 0.1f * step);
            if (least < 1)
                fail_msg("cell %zu: level %zu moved leaves %g", cell, l - first, least);
        }
    }
    for (size_t i = 0; i < c->n * c->scale_groups; i++) { /* to the scale beside it */
        const double least = best_move(c, rows, h, &c->scales[i], 0.0443f * c->scales[i]);
        if (least < 0.99998)
            fail_msg("scale %zu moved leaves %.8g", i, least);
    }
}

/* What one code could still gain is next to nothing: sweeps end where rows have settled. */
static void test_descent(void **state)
{
    (void)state;
    const size_t n = 48, k = 80;
    float *rows = make_rows(n, k), *h = make_moments(k, 0.9);
    float *activations = malloc(k * sizeof *activations);
    for (size_t c = 0; c < k; c++)
        activations[c] = h[c * k + c];
    const struct mb_channelwise_options options = {.bits = 3,
                                                   .scope = MB_SCOPE_TENSOR,
                                                   .scale_columns = 32,
                                                   .rule = MB_WIDTHS_BY_ERROR,
                                                   .feedback = true,
                                                   .moments = h};
    struct mb_channelwise c = encode(rows, n, k, activations, &options);
    size_t settled = 0;
    for (size_t row = 0; row < n; row++) {
        const double gain = best_change(&c, rows, h, row);
        settled += gain < 1e-4;
        if (gain > 0.03)
            fail_msg("row %zu: one code would gain %g", row, gain);
    }
    if (settled < n - n / 4)
        fail_msg("%zu of %zu rows have settled", settled, n);
    check_fitted(&c, rows, h);
    mb_channelwise_free(&c);
    free(activations);
    free(h);
    free(rows);
}

static enum mb_status moments_of(void *user, size_t group, const float **h)
{
    const float *const *moments = user;
    *h = moments[group];
    return group < 3 ? MB_OK : MB_ERR_ARGUMENT;
}

/* Rows of a group are those that its moments give all rows; without any, those of all rows'. */
static void test_row_groups(void **state)
{
    (void)state;
    const size_t n = 48, k = 80,
                 order[48] = {5,  47, 0,  46, 1,  45, 2,  44, 3,  43, 4,  42, 6,  41, 7,  40,
                              8,  39, 9,  38, 10, 37, 11, 36, 12, 35, 13, 34, 14, 33, 15, 32,
                              16, 31, 17, 30, 18, 29, 19, 28, 20, 27, 21, 26, 22, 25, 23, 24};
    static const size_t ends[] = {7, 30, 48};
    float *rows = make_rows(n, k), *activations = malloc(k * sizeof *activations);
    float *h[] = {make_moments(k, 0.9), make_moments(k, 0.5), make_moments(k, 0.7)};
    const float *own[] = {h[0], h[1], NULL};
    const struct mb_row_groups groups = {3, order, ends, moments_of, own};
    for (size_t c = 0; c < k; c++)
        activations[c] = h[0][c * k + c];
    struct mb_channelwise_options options = {.bits = 3,
                                             .scope = MB_SCOPE_TENSOR,
                                             .scale_columns = 32,
                                             .feedback = true,
                                             .moments = h[2],
                                             .groups = &groups};
    struct mb_channelwise grouped = encode(rows, n, k, activations, &options);
    options.groups = NULL;
    for (size_t g = 0; g < 3; g++) {
        options.moments = h[g];
        struct mb_channelwise alone = encode(rows, n, k, activations, &options);
        for (size_t i = g > 0 ? ends[g - 1] : 0; i < ends[g]; i++)
            for (size_t c = 0; c < k; c++)
                assert_int_equal(mb_code_at(&grouped, c, order[i]),
                                 mb_code_at(&alone, c, order[i]));
        mb_channelwise_free(&alone);
        free(h[g]);
    }
    mb_channelwise_free(&grouped);
    free(activations);
    free(rows);
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
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_target),
        cmocka_unit_test(test_out_of_reach), cmocka_unit_test(test_widths),
        cmocka_unit_test(test_aligned),      cmocka_unit_test(test_each_option_helps),
        cmocka_unit_test(test_degenerate),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_feedback),     cmocka_unit_test(test_descent),
        cmocka_unit_test(test_row_groups),   cmocka_unit_test(test_within),
        cmocka_unit_test(test_extremes),     cmocka_unit_test(test_same_every_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
