/* SPDX-License-Identifier: Apache-2.0 */
/* Rank correlations against brute force and published values; the correction of added losses
 * against lines that are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/additivity.h"
#include "model/rank.h"
#include "model/statistics.h"

#include <math.h>
#include <stdlib.h>

static int sign_of(const void *user, size_t i, size_t j)
{
    const double *x = user;
    return (x[i] > x[j]) - (x[i] < x[j]);
}

static void test_kendall_known(void **state)
{
    (void)state;
    /* Ranks without ties: 13 of 15 pairs agree less 2. */
    const double a[] = {1, 2, 3, 4, 5, 6}, b[] = {2, 1, 3, 4, 6, 5};
    assert_float_equal(mb_kendall(a, b, 6), 11.0 / 15, 1e-14);
    const double reversed[] = {6, 5, 4, 3, 2, 1};
    assert_float_equal(mb_kendall(a, reversed, 6), -1, 0);
    /* Kendall, Rank Correlation Methods, 3.2: sums of ties 3 and 5 of 45 pairs each. */
    const double x[] = {1, 2.5, 2.5, 4.5, 4.5, 6.5, 6.5, 8, 9.5, 9.5};
    const double y[] = {1, 2, 4.5, 4.5, 4.5, 4.5, 8, 8, 8, 10};
    assert_float_equal(mb_kendall(x, y, 10), 33 / sqrt(41.0 * 36.0), 1e-14);
    const double flat[] = {3, 3, 3, 3, 3, 3};
    assert_true(isnan(mb_kendall(a, flat, 6)));
    assert_true(isnan(mb_kendall(a, b, 1)));
}

/* Knight's n log n against every pair, on lists with many ties. */
static void test_kendall_brute_force(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (size_t round = 0; round < 300; round++) {
        double x[40], y[40];
        const size_t count = 2 + round % 39;
        for (size_t i = 0; i < count; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            x[i] = (double)(seed >> 33 & 7 << round % 4);
            y[i] = (double)(seed >> 45 & 15) + (round % 2 ? x[i] : 0);
        }
        const double fast = mb_kendall(x, y, count);
        const double slow = mb_kendall_orders(count, sign_of, x, sign_of, y).tau;
        if (isnan(slow))
            assert_true(isnan(fast));
        else
            assert_float_equal(fast, slow, 1e-12);
    }
}

static void test_spearman(void **state)
{
    (void)state;
    const double a[] = {1, 2, 3, 4, 5}, b[] = {10, 100, 1000, 1e4, 1e5}, c[] = {2, 1, 4, 3, 5};
    assert_float_equal(mb_spearman(a, b, 5), 1, 1e-15);
    /* 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 24 / 120 */
    assert_float_equal(mb_spearman(a, c, 5), 0.8, 1e-15);
    /* Ties share ranks: 1, 2.5, 2.5, 4 against 1..4. */
    const double d[] = {1, 2, 2, 3}, e[] = {1, 2, 3, 4};
    assert_float_equal(mb_spearman(d, e, 4), 4.5 / sqrt(4.5 * 5), 1e-15);
    const double flat[] = {2, 2, 2, 2};
    assert_true(isnan(mb_spearman(flat, e, 4)));
}

static void test_additivity(void **state)
{
    (void)state;
    double sums[8], measured[8];
    for (size_t i = 0; i < 8; i++) {
        sums[i] = 0.001 * (double)(1 << i);
        measured[i] = 0.0002 + 1.25 * sums[i];
    }
    struct mb_additivity fit = mb_additivity_fit(sums, measured, 8);
    assert_float_equal(fit.offset, 0.0002, 1e-12);
    assert_float_equal(fit.scale, 1.25, 1e-10);
    assert_true(fit.error < 1e-9);
    assert_int_equal(fit.degrees, 6);
    /* No model error: what is left is the uncertainty of the entries, scaled. */
    assert_float_equal(mb_additivity_half(&fit, 0.01, 0.002), 0.0025, 1e-9);
    /* 10 % off, up and down in turns: s = 0.1 sqrt(8 / 6). */
    for (size_t i = 0; i < 8; i++)
        measured[i] = sums[i] * (i % 2 ? 1.1 : 0.9);
    fit = mb_additivity_fit(sums, measured, 8);
    assert_in_range((size_t)(fit.error * 1000), 90, 130);
    const double predicted = mb_additivity_predict(&fit, 0.01);
    assert_float_equal(mb_additivity_half(&fit, 0.01, 0) / predicted,
                       mb_student(6) * fit.error * sqrt(1.25), 1e-9);
    /* Independent of the entries' own uncertainty: 3, 4, 5. */
    const double model = mb_additivity_half(&fit, 0.01, 0);
    assert_float_equal(mb_additivity_half(&fit, 0.01, 0.75 * model / fit.scale), 1.25 * model,
                       1e-9);
    /* Activations never gain: an offset below zero is none. */
    for (size_t i = 0; i < 8; i++)
        measured[i] = 1.1 * sums[i] - 0.0005;
    fit = mb_additivity_fit(sums + 1, measured + 1, 7);
    assert_true(fit.offset == 0 && fit.scale > 0);
    /* Too few, or nothing to fit to: the sum as it is, and no interval. */
    fit = mb_additivity_fit(sums, measured, 2);
    assert_true(fit.offset == 0 && fit.scale == 1 && isinf(mb_additivity_half(&fit, 0.1, 0)));
    sums[3] = 0;
    assert_true(isinf(mb_additivity_fit(sums, measured, 8).error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kendall_known),
        cmocka_unit_test(test_kendall_brute_force),
        cmocka_unit_test(test_spearman),
        cmocka_unit_test(test_additivity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
