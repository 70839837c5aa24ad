/* SPDX-License-Identifier: Apache-2.0 */
/* Measures beside KL, the tables made of them, shards, the surrogate, and the judgement of methods.
 * Oracles: formulas computed plainly from whole distributions in long double, full forward passes,
 * and hand-made measures whose tau is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/agreement.h"
#include "model/probe.h"
#include "model/vector.h"
#include "support/support.h"
#include "unit/network_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 64, WINDOWS = 5, WINDOW = 22 };
static const enum mb_format candidates[] = {MB_FORMAT_Q8_0, MB_FORMAT_Q4_0, MB_FORMAT_Q5_0};
enum { CANDIDATES = sizeof candidates / sizeof candidates[0] };

static void softmax(const float *x, size_t n, long double *p)
{
    long double sum = 0, max = (long double)x[0];
    for (size_t i = 1; i < n; i++)
        max = (long double)x[i] > max ? (long double)x[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += p[i] = expl((long double)x[i] - max);
    for (size_t i = 0; i < n; i++)
        p[i] /= sum;
}

static void close_to(double found, long double expected)
{
    if (fabsl((long double)found - expected) > 1e-12L + 1e-9L * fabsl(expected))
        fail_msg("found %.17g, expected %.17Lg", found, expected);
}

static void check_row(const struct mb_vector *vector, const float *x, const float *y, size_t n)
{
    long double p[100], q[100], reverse = 0, shannon = 0, noise = 0, xx = 0, yy = 0, xy = 0,
                                coded = 0;
    double measures[MB_ROW_MEASURES];
    softmax(x, n, p);
    softmax(y, n, q);
    for (size_t i = 0; i < n; i++) {
        const long double m = (p[i] + q[i]) / 2, a = (long double)x[i], b = (long double)y[i];
        reverse += q[i] * logl(q[i] / p[i]);
        shannon += (p[i] * logl(p[i] / m) + q[i] * logl(q[i] / m)) / 2;
        coded += expl(p[i]) * (p[i] - logl(q[i]));
        noise += (a - b) * (a - b);
        xx += a * a;
        yy += b * b;
        xy += a * b;
    }
    mb_measure_row(vector, x, vector->log_sum_exp(x, n), y, n, (int)(n / 2), 0.5, measures);
    assert_true(measures[MB_MEASURE_KL] == 0.5);
    close_to(measures[MB_MEASURE_REVERSE], reverse);
    close_to(measures[MB_MEASURE_JS], shannon);
    close_to(measures[MB_MEASURE_SQNR], noise);
    close_to(measures[MB_MEASURE_SIGNAL], xx);
    close_to(measures[MB_MEASURE_COSINE], 1 - xy / sqrtl(xx * yy));
    close_to(measures[MB_MEASURE_PPL], logl(p[n / 2] / q[n / 2]));
    close_to(measures[MB_MEASURE_CODED], coded);
}

static void test_rows(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (size_t n = 1; n <= 100; n++) {
        float x[100], y[100];
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            x[i] = (float)(int32_t)(seed >> 32) / 2e8f;
            y[i] = x[i] + (float)(int16_t)(seed >> 16) / (n % 3 ? 1e5f : 1e4f);
        }
        double first[MB_ROW_MEASURES];
        mb_measure_row(mb_vector_at(0), x, mb_vector_at(0)->log_sum_exp(x, n), y, n, 0, 0, first);
        for (size_t i = 0; mb_vector_at(i) != NULL; i++) {
            double same[MB_ROW_MEASURES];
            check_row(mb_vector_at(i), x, y, n);
            mb_measure_row(mb_vector_at(i), x, mb_vector_at(i)->log_sum_exp(x, n), y, n, 0, 0,
                           same);
            assert_memory_equal(first, same, sizeof same); /* bits don't depend on the CPU */
        }
        mb_measure_row(mb_vector(), x, mb_vector()->log_sum_exp(x, n), x, n, 0, 0, first);
        for (int m = MB_MEASURE_REVERSE; m <= MB_MEASURE_PPL; m++)
            assert_true(fabs(first[m]) < 1e-14);
    }
}

static struct mb_sensitivity *sense(struct mb_model *model, const struct mb_windows *windows,
                                    enum mb_method method, size_t probes, size_t shard,
                                    size_t shards)
{
    struct mb_sensitivity *table = NULL;
    struct mb_error error;
    const struct mb_sense_options options = {.size = sizeof options,
                                             .windows = windows,
                                             .formats = candidates,
                                             .format_count = CANDIDATES,
                                             .numerics = MB_NUMERICS_F32,
                                             .method = method,
                                             .surrogate_probes = probes,
                                             .shard = shard,
                                             .shards = shards};
    if (mb_sense(model, &options, &table, &error) != MB_OK)
        fail_msg("%s", error.message);
    return table;
}

/* KL and its reverse exchange base and probe; the rest is ordered by damage. */
static void test_methods(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    float *base = ns_run(network, &windows, 0, VOCABULARY);
    struct mb_sensitivity *reverse = sense(model, &windows, MB_METHOD_REVERSE, 0, 0, 0);
    assert_string_equal(reverse->method, "reverse");
    for (size_t u = 0; u < reverse->unit_count; u += 3) {
        enum mb_format *formats = calloc(mb_model_tensor_count(model), sizeof(enum mb_format));
        const struct mb_tensor *tensor = mb_model_tensor_find(model, reverse->units[u]);
        for (size_t i = 0; i < mb_model_tensor_count(model); i++)
            formats[i] = MB_FORMAT_NONE;
        formats[tensor - mb_model_tensor_at(model, 0)] = mb_format_fit(MB_FORMAT_Q4_0, tensor->k);
        struct mb_network *mixed = ns_network(model, formats, MB_NUMERICS_F32, NULL);
        float *changed = ns_run(mixed, &windows, 0, VOCABULARY);
        double mean = 0;
        for (size_t w = 0; w < WINDOWS; w++)
            for (size_t t = WINDOW / 2; t + 1 < WINDOW; t++) {
                const size_t at = (w * WINDOW + t) * VOCABULARY;
                mean += ns_kl(changed + at, base + at, VOCABULARY) / (WINDOWS * 10);
            }
        assert_true(fabs(reverse->losses[u * CANDIDATES + 1].mean - mean) < 1e-12 + 1e-9 * mean);
        free(changed);
        free(formats);
        mb_network_destroy(mixed);
    }
    for (enum mb_method method = MB_METHOD_KL; method < MB_METHOD_COUNT; method++) {
        struct mb_sensitivity *table = sense(model, &windows, method, 0, 0, 0);
        double sums[CANDIDATES] = {0};
        for (size_t i = 0; i < table->unit_count * CANDIDATES; i++) {
            assert_true(table->losses[i].known && table->losses[i].mean >= 0);
            assert_true(table->losses[i].low <= table->losses[i].mean &&
                        table->losses[i].mean <= table->losses[i].high);
            sums[i % CANDIDATES] += table->losses[i].mean;
        }
        if (method != MB_METHOD_PPL) /* whose sign is chance on 50 tokens of nonsense */
            assert_true(sums[0] < sums[2] && sums[2] < sums[1]);
        mb_sensitivity_free(table);
    }
    free(base);
    mb_sensitivity_free(reverse);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void same_loss(const struct mb_loss *a, const struct mb_loss *b)
{
    assert_int_equal(a->known, b->known);
    assert_true(a->mean == b->mean && a->low == b->low && a->high == b->high &&
                a->weight_error == b->weight_error);
}

/* What every candidate does to the output of every matrix, plainly: the mean over rows of
 * |(w' - w) x|^2 / |w x + bias|^2. */
struct plain_errors {
    struct mb_model *model;
    double *sums; /* [matrix][candidate] */
};

static double squares(const float *w, const float *x, const float *bias, size_t n, size_t k)
{
    double sum = 0;
    for (size_t r = 0; r < n; r++) {
        double y = bias != NULL ? (double)bias[r] : 0;
        for (size_t c = 0; c < k; c++)
            y += (double)w[r * k + c] * (double)x[c];
        sum += y * y;
    }
    return sum;
}

static void add_errors(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                       size_t stride, size_t rows)
{
    struct plain_errors *p = user;
    const struct mb_tensor *t = mb_model_tensor_at(p->model, run->network->matrices[matrix].tensor);
    const size_t n = t->n, k = t->k;
    float *w = malloc(n * k * sizeof *w), *v = malloc(n * k * sizeof *v);
    const struct mb_target target = mb_target_of(run->network, matrix);
    const int vector = target.kind == MB_TARGET_PRODUCT
                           ? run->network->steps[target.step].products[target.product].bias
                           : MB_NO_VECTOR;
    const float *bias = vector != MB_NO_VECTOR ? run->network->vectors[vector] : NULL;
    (void)expert;
    assert_int_equal(mb_dequantize(t->format, t->data, n, k, w), MB_OK);
    for (size_t f = 0; f < CANDIDATES && t->quantizable; f++) {
        const enum mb_format format = mb_format_fit(candidates[f], k);
        void *blocks = malloc(n * mb_format_row_bytes(format, k));
        assert_int_equal(mb_quantize(format, w, n, k, NULL, blocks), MB_OK);
        assert_int_equal(mb_dequantize(format, blocks, n, k, v), MB_OK);
        for (size_t i = 0; i < n * k; i++)
            v[i] -= w[i];
        for (size_t r = 0; r < rows; r++)
            p->sums[matrix * CANDIDATES + f] +=
                squares(v, x + r * stride, NULL, n, k) / squares(w, x + r * stride, bias, n, k);
        free(blocks);
    }
    free(w);
    free(v);
}

/* With as many probes as candidates the surrogate is the exact table; with one, losses are in
 * proportion to output errors, and what is no product is exact. */
static void test_surrogate(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_error error;
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_sensitivity *exact = sense(model, &windows, MB_METHOD_KL, 0, 0, 0);
    struct mb_sensitivity *all = sense(model, &windows, MB_METHOD_SURROGATE, CANDIDATES, 0, 0);
    struct mb_sensitivity *one = sense(model, &windows, MB_METHOD_SURROGATE, 1, 0, 0);
    struct plain_errors plain = {model, calloc(network->matrix_count * CANDIDATES, sizeof(double))};
    assert_int_equal(
        mb_observe(network, &windows, network->step_count, add_errors, &plain, NULL, &error),
        MB_OK);
    struct mb_sensitivity *two = sense(model, &windows, MB_METHOD_SURROGATE, 2, 0, 0);
    size_t estimated = 0;
    assert_string_equal(one->method, "surrogate 1");
    for (size_t i = 0; i < exact->unit_count * CANDIDATES; i++) {
        const size_t probed = i / CANDIDATES * CANDIDATES + 2; /* q5_0: the middle by error */
        const struct mb_tensor *tensor = mb_model_tensor_find(model, exact->units[i / CANDIDATES]);
        size_t m = 0;
        while (mb_model_tensor_at(model, network->matrices[m].tensor) != tensor)
            m++;
        const struct mb_target target = mb_target_of(network, m);
        same_loss(&all->losses[i], &exact->losses[i]);
        /* Nothing is carried on beyond the largest error. */
        const double *by = plain.sums + m * CANDIDATES;
        bool largest = true;
        for (size_t c = 0; c < CANDIDATES; c++)
            largest = largest && by[c] <= by[i % CANDIDATES];
        if (largest)
            same_loss(&two->losses[i], &exact->losses[i]);
        if (i == probed || target.kind != MB_TARGET_PRODUCT) {
            same_loss(&one->losses[i], &exact->losses[i]);
            continue;
        }
        const double expected = exact->losses[probed].mean * by[i % CANDIDATES] / by[2];
        if (target.step < mb_score_step(network)) { /* behind it the prober has scored rows only */
            assert_true(fabs(one->losses[i].mean - expected) <= 1e-4 * expected);
            estimated++;
        }
        assert_true(one->losses[i].weight_error == exact->losses[i].weight_error);
    }
    assert_true(estimated > 10);
    mb_sensitivity_free(two);
    free(plain.sums);
    mb_network_destroy(network);
    mb_sensitivity_free(exact);
    mb_sensitivity_free(all);
    mb_sensitivity_free(one);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_shards(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_error error;
    struct mb_sensitivity *whole = sense(model, &windows, MB_METHOD_KL, 0, 0, 0), *merged = NULL;
    struct mb_sensitivity *parts[3];
    for (size_t s = 0; s < 3; s++)
        parts[s] = sense(model, &windows, MB_METHOD_KL, 0, s + 1, 3);
    const struct mb_sensitivity *list[] = {parts[2], parts[0], parts[1], parts[1]};
    assert_int_equal(mb_sensitivity_merge(list, 3, NULL, &merged, &error), MB_OK);
    assert_int_equal(merged->shards, 0);
    assert_true(merged->noise_floor == whole->noise_floor);
    for (size_t i = 0; i < whole->unit_count * CANDIDATES; i++)
        same_loss(&merged->losses[i], &whole->losses[i]);
    mb_sensitivity_free(merged);
    assert_int_equal(mb_sensitivity_merge(list, 2, NULL, &merged, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "2/3 is missing"));
    assert_int_equal(mb_sensitivity_merge(list, 4, NULL, &merged, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "given twice"));
    parts[1]->text_hash[0] ^= 1;
    assert_int_equal(mb_sensitivity_merge(list, 3, NULL, &merged, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "another text"));
    list[0] = whole;
    assert_int_equal(mb_sensitivity_merge(list, 1, NULL, &merged, &error), MB_ERR_ARGUMENT);
    assert_null(merged);
    for (size_t s = 0; s < 3; s++)
        mb_sensitivity_free(parts[s]);
    mb_sensitivity_free(whole);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* Entries e with a perplexity change of e: a measure that grows with e has tau 1, one that falls
 * -1; what differs by less than it wanders over windows is tied. */
static void test_agreement(void **state)
{
    (void)state;
    enum { ENTRIES = 6, COUNT = 4 };
    struct mb_measured entries[ENTRIES];
    double values[ENTRIES][MB_MEASURE_COUNT][COUNT];
    size_t offsets[COUNT + 1] = {0, 10, 20, 30, 40};
    for (size_t e = 0; e < ENTRIES; e++) {
        entries[e] = (struct mb_measured){.format = e % 2 ? MB_FORMAT_Q4_0 : MB_FORMAT_Q8_0,
                                          .role = MB_ROLE_FFN_UP,
                                          .output_error = 1.0 / (double)(e + 1)};
        for (size_t m = 0; m < MB_MEASURE_COUNT; m++)
            for (size_t w = 0; w < COUNT; w++)
                values[e][m][w] = (double)e + 0.01 * (double)w;
        for (size_t w = 0; w < COUNT; w++) /* pairs (0, 1), (2, 3), (4, 5) are not told apart */
            values[e][MB_MEASURE_JS][w] =
                (double)(e / 2) + (e % 2 ? 0.1 * (w % 2 ? 1.1 : -1.0) : 0);
    }
    const struct mb_measures measures = {ENTRIES, COUNT, entries, &values[0][0][0], offsets};
    struct mb_agreement rows[MB_AGREEMENT_ROWS];
    struct mb_error error;
    assert_int_equal(mb_agreement(&measures, rows, &error), MB_OK);
    for (size_t r = 0; r < MB_AGREEMENT_ROWS; r++) {
        const bool js = strcmp(rows[r].name, "js") == 0;
        const double expected = strcmp(rows[r].name, "weight-error") == 0 ? -1 : 1;
        assert_float_equal(rows[r].tau, expected, 1e-12);
        assert_float_equal(rows[r].units, expected, 1e-12);
        assert_float_equal(rows[r].decided, expected, 1e-12);
        assert_float_equal(rows[r].decided_share, js ? 12.0 / 15 : 1, 1e-12);
        assert_float_equal(rows[r].tied, js ? 12 / sqrt(12.0 * 15) : expected, 1e-12);
        if (!js)
            assert_true(rows[r].low == rows[r].high);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_methods),
        cmocka_unit_test(test_surrogate), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_agreement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
