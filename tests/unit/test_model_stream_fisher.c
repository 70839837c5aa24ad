/* SPDX-License-Identifier: Apache-2.0 */
/* What errors of the residual stream cost, and rows that answer for each other. Oracles: the
 * covariance of the output's rows under the model's probabilities in f64, tr(F E H E^T) in f64 of
 * what was rounded with and without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/encode.h"
#include "model/encoder.h"
#include "model/network.h"
#include "model/stream_fisher.h"
#include "support/memory.h"
#include "unit/moments_support.h"

enum { WINDOWS = 16, WINDOW = 64, TOKENS = WINDOWS * WINDOW, K = 256 };

static struct mb_run *create_run(struct ms_calibration *c)
{
    struct mb_run *run = NULL;
    struct mb_error error;
    assert_int_equal(mb_run_create(c->network, TOKENS, WINDOW, &run, &error), MB_OK);
    run->ids = c->windows.tokens;
    run->sequences = WINDOWS;
    run->tokens = WINDOW;
    return run;
}

static float *factor_of(struct ms_calibration *c)
{
    struct mb_run *run = create_run(c);
    float *factor = NULL;
    struct mb_error error;
    if (mb_stream_fisher(&run, 1, NULL, 1, &factor, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_non_null(factor);
    mb_run_destroy(run);
    return factor;
}

/* N^T D N. */
static double *product_of(const float *factor)
{
    double *f = calloc(K * K, sizeof *f);
    assert_non_null(f);
    for (size_t r = 0; r < K; r++)
        for (size_t i = 0; i <= r; i++)
            for (size_t j = 0; j <= r; j++)
                f[i * K + j] += (double)factor[r * K + r] *
                                (i < r ? (double)factor[r * K + i] : 1.0) *
                                (j < r ? (double)factor[r * K + j] : 1.0);
    return f;
}

/* E[J^T (diag(p) - p p^T) J], and a part of its mean diagonal on its diagonal. */
static double *exact_of(struct ms_calibration *c)
{
    const struct mb_network *network = c->network;
    const size_t v = network->vocabulary;
    const struct mb_tensor *output =
        mb_model_tensor_at(c->model, network->matrices[network->output].tensor);
    const float *gains = network->vectors[network->steps[network->step_count - 1].vector];
    struct mb_run *run = create_run(c);
    float *w = malloc(v * K * sizeof *w), *logits = malloc(v * sizeof *logits);
    double *f = calloc(K * K, sizeof *f), *likely = calloc(v, sizeof *likely);
    assert_true(w && logits && f && likely);
    assert_int_equal(mb_dequantize(output->format, output->data, v, K, w), MB_OK);
    for (size_t i = 0; i < v * K; i++)
        w[i] *= gains[i % K];
    assert_int_equal(mb_run_steps(run, 0, network->step_count), MB_OK);
    for (size_t r = 0; r < TOKENS; r++) {
        double squares = 0, sum = 0, mean[K] = {0};
        assert_int_equal(mb_run_head(run, r, 1, logits), MB_OK);
        for (size_t i = 0; i < K; i++)
            squares += pow((double)run->slots[MB_SLOT_HIDDEN][r * K + i], 2) / K;
        for (size_t t = 0; t < v; t++)
            sum += exp((double)logits[t]);
        for (size_t t = 0; t < v; t++) {
            const double p = exp((double)logits[t]) / sum;
            likely[t] += p / squares / TOKENS;
            for (size_t i = 0; i < K; i++)
                mean[i] += p * (double)w[t * K + i];
        }
        for (size_t i = 0; i < K * K; i++)
            f[i] -= mean[i / K] * mean[i % K] / squares / TOKENS;
    }
    for (size_t t = 0; t < v; t++)
        for (size_t i = 0; i < K * K; i++)
            f[i] += likely[t] * (double)w[t * K + i / K] * (double)w[t * K + i % K];
    mb_run_destroy(run);
    free(w);
    free(logits);
    free(likely);
    return f;
}

static double trace_of(const double *f)
{
    double trace = 0;
    for (size_t i = 0; i < K; i++)
        trace += f[i * K + i];
    return trace;
}

/* Eight draws at each of a thousand positions: entries are right within some percent of the whole.
 * They are damped as moments are, and then by a tenth of the mean diagonal. */
static void test_against_exact(void **state)
{
    (void)state;
    struct ms_calibration c;
    ms_set_up(&c, TINY_MODEL, WINDOWS, WINDOW, 512, 2, 0);
    float *factor = factor_of(&c);
    double *drawn = product_of(factor), *exact = exact_of(&c), wrong = 0, size = 0;
    double damping[K], mean = 0;
    for (size_t i = 0; i < K; i++) {
        damping[i] = ms_damping(exact, K + 1, K, 8.0 * TOKENS, i);
        mean += (exact[i * K + i] + damping[i]) / K;
    }
    for (size_t i = 0; i < K; i++)
        exact[i * K + i] += damping[i] + 0.1 * mean;
    assert_true(fabs(trace_of(drawn) / trace_of(exact) - 1) < 0.05);
    for (size_t i = 0; i < K * K; i++) {
        const double e = drawn[i] - exact[i];
        wrong += e * e;
        size += exact[i] * exact[i];
    }
    if (!(sqrt(wrong / size) < 0.15))
        fail_msg("%g", sqrt(wrong / size));
    free(drawn);
    free(exact);
    mb_free_aligned(factor);
    ms_tear_down(&c);
}

/* The same for any number of threads, and nothing where there is no such norm or too few rows. */
static void test_threads_and_limits(void **state)
{
    (void)state;
    struct ms_calibration one, three;
    ms_set_up(&one, TINY_MODEL, WINDOWS, WINDOW, 64, 0, 0);
    ms_set_up(&three, TINY_MODEL, WINDOWS, WINDOW, 64, 3, 0);
    float *a = factor_of(&one), *b = factor_of(&three), *none = a;
    assert_memory_equal(a, b, K * K * sizeof *a);
    struct mb_run *run = create_run(&one);
    struct mb_error error;
    run->sequences = 1; /* 64 rows */
    assert_int_equal(mb_stream_fisher(&run, 1, NULL, 1, &none, &error), MB_OK);
    assert_null(none);
    run->sequences = WINDOWS;
    one.network->steps[one.network->step_count - 1].group = K / 2;
    assert_int_equal(mb_stream_fisher(&run, 1, NULL, 1, &none, &error), MB_OK);
    assert_null(none);
    mb_run_destroy(run);
    mb_free_aligned(a);
    mb_free_aligned(b);
    ms_tear_down(&one);
    ms_tear_down(&three);
}

/* tr(F E H E^T) of a tensor as it was made. */
static double cost_of(struct ms_calibration *c, size_t tensor, enum mb_format format,
                      const void *rows, const double *f, const float *h)
{
    const struct mb_tensor *t = mb_model_tensor_at(c->model, tensor);
    const size_t n = t->n, k = t->k;
    float *w = malloc(n * k * sizeof *w), *q = malloc(n * k * sizeof *q);
    double *eh = calloc(n * k, sizeof *eh), cost = 0;
    assert_true(w && q && eh && n == K);
    assert_int_equal(mb_dequantize(t->format, t->data, n, k, w), MB_OK);
    assert_int_equal(mb_dequantize(format, rows, n, k, q), MB_OK);
    for (size_t i = 0; i < n * k; i++)
        w[i] -= q[i];
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < k; j++)
                eh[r * k + j] += (double)w[r * k + i] * (double)h[i * k + j];
    for (size_t r = 0; r < n; r++)
        for (size_t s = 0; s < n; s++)
            for (size_t i = 0; i < k; i++)
                cost += f[r * K + s] * eh[r * k + i] * (double)w[s * k + i];
    free(w);
    free(q);
    free(eh);
    return cost;
}

static void test_rows_answer(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_Q4_K, MB_FORMAT_Q2_K};
    struct ms_calibration c;
    struct mb_error error;
    ms_set_up(&c, TINY_MODEL, WINDOWS, WINDOW, 512, 2, 0);
    float *factor = factor_of(&c);
    double *f = product_of(factor);
    const size_t tensor = ns_index_of(c.model, "blk.1.attn_output.weight");
    float *zeros = calloc(K * K, sizeof *zeros);
    void *data;
    size_t bytes;
    struct mb_weights by;
    assert_int_equal(mb_pack_size(MB_FORMAT_F32, K, K, &bytes), MB_OK);
    data = mb_alloc_aligned(bytes);
    assert_int_equal(mb_weights_init(&by, MB_FORMAT_F32, K, K, data), MB_OK);
    assert_int_equal(mb_pack_rows(&by, zeros, 0, K), MB_OK);
    for (size_t i = 0; i < 2; i++) {
        double cost[2];
        for (size_t answers = 0; answers < 2; answers++) {
            struct mb_encoder *base = mb_encoder_create(c.model, c.moments, NULL, 2, 0, c.threads);
            struct mb_encoder *made = mb_encoder_create_over(base, "test");
            const struct mb_correction correction = {.by = &by, .between = answers ? factor : NULL};
            const struct mb_second_moments *moments;
            const void *rows;
            assert_int_equal(mb_moments_get(c.moments, tensor, 0, NULL, 0, 1, &moments, &error),
                             MB_OK);
            assert_int_equal(
                mb_encoder_make(made, tensor, formats[i], moments, &correction, NULL, 0, 1, &error),
                MB_OK);
            assert_int_equal(mb_encoder_rows(made, tensor, formats[i], NULL, 0, 1, &rows, &error),
                             MB_OK);
            cost[answers] = cost_of(&c, tensor, formats[i], rows, f, moments->h);
            mb_encoder_destroy(made);
            mb_encoder_destroy(base);
        }
        print_message("%g of %g\n", cost[1], cost[0]);
        if (!(cost[1] < 0.8 * cost[0]))
            fail_msg("%s: %g, without answers %g", mb_format_info(formats[i])->name, cost[1],
                     cost[0]);
    }
    mb_free_aligned(data);
    free(zeros);
    free(f);
    mb_free_aligned(factor);
    ms_tear_down(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_exact),
        cmocka_unit_test(test_threads_and_limits),
        cmocka_unit_test(test_rows_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
