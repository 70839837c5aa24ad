/* SPDX-License-Identifier: Apache-2.0 */
/* The channel-wise encoder under second moments: what outputs lose with feedback, and what of that
 * another code, level or scale could still take off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "channelwise_bits.h"
#include "model/channelwise_encoder.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_feedback),
        cmocka_unit_test(test_descent),
        cmocka_unit_test(test_row_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
