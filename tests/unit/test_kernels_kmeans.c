/* SPDX-License-Identifier: Apache-2.0 */
/* k-means on a line against every way to cut the sorted points, and on input that has too little in
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/kmeans.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 12 };

static uint32_t state32 = 1;
static uint32_t next(void) { return (state32 = state32 * 1664525u + 1013904223u) >> 8; }

static enum mb_status solve(const float *values, const float *weights, size_t points,
                            size_t clusters, float *centroids, double *error)
{
    void *scratch = malloc(mb_kmeans_scratch(points, clusters));
    struct mb_clustering c = {clusters, centroids, -1};
    const enum mb_status status = mb_kmeans(values, weights, points, &c, 1, scratch);
    *error = c.error;
    free(scratch);
    return status;
}

/* Error of one interval about its mean, added up plainly. */
static double spread(const double *x, const double *w, size_t first, size_t last)
{
    double all = 0, sum = 0, error = 0;
    for (size_t i = first; i < last; i++) {
        all += w[i];
        sum += w[i] * x[i];
    }
    for (size_t i = first; i < last && all > 0; i++)
        error += w[i] * (x[i] - sum / all) * (x[i] - sum / all);
    return error;
}

/* The least error over all ways to cut [first, n) into at most `clusters` intervals. */
static double least(const double *x, const double *w, size_t first, size_t n, size_t clusters)
{
    double best = spread(x, w, first, n);
    for (size_t cut = first + 1; clusters > 1 && cut < n; cut++) {
        const double error = spread(x, w, first, cut) + least(x, w, cut, n, clusters - 1);
        best = error < best ? error : best;
    }
    return best;
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Values of a coarse grid, so that equal ones are common; distinct ones carry the weight. */
static void test_against_all_cuts(void **state)
{
    (void)state;
    for (int trial = 0; trial < 400; trial++) {
        const size_t n = 1 + next() % MOST, clusters = 1 + next() % 5;
        const unsigned grid = trial % 2 ? 8 : 4096;
        float values[MOST], weights[MOST], centroids[5];
        double x[MOST], w[MOST], error, pairs[MOST][2];
        for (size_t i = 0; i < n; i++) {
            values[i] = (float)((int)(next() % grid) - (int)grid / 2) * 0.0625f + 100.0f;
            weights[i] = trial % 3 ? (float)(next() % 5) * 0.5f : 1.0f;
        }
        float all = 0;
        for (size_t i = 0; i < n; i++)
            all += weights[i];
        for (size_t i = 0; i < n; i++) {
            pairs[i][0] = (double)values[i];
            pairs[i][1] = all > 0 ? (double)weights[i] : 1.0;
        }
        qsort(pairs, n, sizeof pairs[0], ascending);
        for (size_t i = 0; i < n; i++) {
            x[i] = pairs[i][0];
            w[i] = pairs[i][1];
        }
        assert_int_equal(solve(values, weights, n, clusters, centroids, &error), MB_OK);
        const double expected = least(x, w, 0, n, clusters);
        if (fabs(error - expected) > 1e-9 * (1 + expected))
            fail_msg("trial %d: %zu points, %zu clusters: %.12g, by all cuts %.12g", trial, n,
                     clusters, error, expected);
        /* The centroids do have that error. */
        double again = 0;
        for (size_t i = 0; i < n; i++) {
            const size_t at = mb_nearest_centroid(centroids, clusters, (float)x[i]);
            again += w[i] * pow(x[i] - (double)centroids[at], 2);
        }
        assert_true(again <= expected + 1e-4 * (1 + expected));
        for (size_t c = 1; c < clusters; c++)
            assert_true(centroids[c] >= centroids[c - 1]);
    }
}

/* Several counts at once are those of one by one, and Lloyd never does better. */
static void test_together_and_lloyd(void **state)
{
    (void)state;
    enum { POINTS = 700 };
    float values[POINTS], weights[POINTS], a[4], b[8], c[16], alone[16], lloyd[16];
    for (size_t i = 0; i < POINTS; i++) {
        values[i] = (float)(int)(next() % 2001 - 1000) * (float)(next() % 100) * 1e-3f;
        weights[i] = (float)(next() % 100) * 0.01f;
    }
    void *scratch = malloc(mb_kmeans_scratch(POINTS, 16));
    struct mb_clustering all[] = {{4, a, 0}, {16, c, 0}, {8, b, 0}};
    assert_int_equal(mb_kmeans(values, weights, POINTS, all, 3, scratch), MB_OK);
    assert_true(all[1].error < all[2].error && all[2].error < all[0].error);
    for (size_t i = 0; i < 3; i++) {
        double error;
        assert_int_equal(solve(values, weights, POINTS, all[i].clusters, alone, &error), MB_OK);
        assert_true(error == all[i].error);
        assert_memory_equal(alone, all[i].centroids, all[i].clusters * sizeof *alone);
        struct mb_clustering other = {all[i].clusters, lloyd, 0};
        assert_int_equal(mb_kmeans_lloyd(values, weights, POINTS, 100, &other, scratch), MB_OK);
        assert_true(other.error >= all[i].error * (1 - 1e-6));
        assert_true(other.error < 2 * all[i].error);
    }
    free(scratch);
}

static void test_little_in_it(void **state)
{
    (void)state;
    float centroids[8];
    double error;
    const float same[] = {0.5f, 0.5f, 0.5f}, two[] = {2, -1, 2, -1, -1}, one[] = {-3};
    assert_int_equal(solve(same, NULL, 3, 4, centroids, &error), MB_OK);
    assert_true(error == 0);
    for (size_t c = 0; c < 4; c++)
        assert_true(centroids[c] == 0.5f);
    assert_int_equal(solve(two, NULL, 5, 4, centroids, &error), MB_OK);
    assert_true(error == 0 && centroids[0] == -1 && centroids[1] == 2 && centroids[3] == 2);
    assert_int_equal(solve(one, NULL, 1, 1, centroids, &error), MB_OK);
    assert_true(error == 0 && centroids[0] == -3);
    /* Points without weight have no say, unless none has weight. */
    const float none[] = {0, 0, 0, 0, 0}, some[] = {0, 1, 0, 3, 0};
    assert_int_equal(solve(two, none, 5, 2, centroids, &error), MB_OK);
    assert_true(error == 0 && centroids[0] == -1 && centroids[1] == 2);
    assert_int_equal(solve(two, some, 5, 2, centroids, &error), MB_OK);
    assert_true(error == 0 && centroids[0] == -1 && centroids[1] == -1);
}

static void test_refused(void **state)
{
    (void)state;
    float centroids[2];
    double error;
    const float good[] = {1, 2}, bad[] = {1, NAN}, huge[] = {INFINITY, 1}, negative[] = {1, -1};
    assert_int_equal(solve(good, NULL, 0, 2, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(solve(good, NULL, 2, 0, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(solve(bad, NULL, 2, 2, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(solve(huge, NULL, 2, 2, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(solve(good, bad, 2, 2, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(solve(good, negative, 2, 2, centroids, &error), MB_ERR_ARGUMENT);
    assert_int_equal(mb_kmeans_scratch(SIZE_MAX / 2, 16), 0);
    assert_int_equal(mb_kmeans_scratch(1000, SIZE_MAX / 2), 0);
}

static void test_nearest(void **state)
{
    (void)state;
    const float centroids[] = {-2, -1, 0, 0, 3};
    const struct {
        float value;
        size_t at;
    } cases[] = {{-9, 0}, {-1.5f, 0}, {-1.4f, 1}, {-0.2f, 2}, {0, 2}, {1.5f, 3}, {1.6f, 4}, {9, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t at = mb_nearest_centroid(centroids, 5, cases[i].value);
        assert_true(centroids[at] == centroids[cases[i].at]);
    }
    assert_int_equal(mb_nearest_centroid(centroids, 1, 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_all_cuts), cmocka_unit_test(test_together_and_lloyd),
        cmocka_unit_test(test_little_in_it),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
