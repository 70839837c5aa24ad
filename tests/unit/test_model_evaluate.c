/* SPDX-License-Identifier: Apache-2.0 */
/* Perplexity, KL divergence and importance. Oracles: llama-perplexity's figures
 * (scripts/make_golden_logits.py), the same statistics computed plainly in f64 here, and published
 * quantiles of Student's t. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/statistics.h"
#include "support/support.h"
#include "tuner/measure.h"
#include "unit/network_support.h"

/* ---- statistics ---- */

static void test_statistics(void **state)
{
    (void)state;
    static const struct {
        size_t degrees;
        double t;
    } quantiles[] = {{1, 12.706}, {2, 4.303},  {5, 2.571},  {10, 2.228},
                     {11, 2.201}, {15, 2.131}, {30, 2.042}, {120, 1.980}};
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++)
        assert_true(fabs(mb_student(quantiles[i].degrees) - quantiles[i].t) < 6e-4);

    const double two[] = {1.0, 3.0}; /* mean 2, standard deviation sqrt 2, error 1 */
    assert_true(fabs(mb_interval(two, 2) - 12.7062) < 1e-3);
    assert_true(mb_interval(two, 1) == 0.0);

    const float sorted[] = {0, 1, 2, 3, 4};
    assert_true(mb_percentile(sorted, 5, 0.5) == 2.0);
    assert_true(mb_percentile(sorted, 5, 0.9) == 3.6);
    assert_true(mb_percentile(sorted, 5, 1.0) == 4.0);
    assert_true(mb_percentile(sorted, 5, 0.0) == 0.0);

    /* x = y + constant: the difference of the means is certain, the means are not. */
    struct mb_sums sums = {0};
    for (int i = 0; i < 10; i++)
        mb_sums_add(&sums, i * i + 2, i * i);
    assert_true(fabs(mb_sums_mean_x(&sums) - 30.5) < 1e-12);
    assert_true(mb_sums_error_x(&sums) > 5 && mb_sums_error_difference(&sums) < 1e-6);
}

/* ---- against a plain computation ---- */

struct plain {
    double nll, nll_error, reference_nll, kl, kl_error, ratio_error, same, window_kl[8];
    double sorted[8 * 64];
    size_t tokens;
};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double standard_error(const double *x, size_t n)
{
    double mean = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    return sqrt(squares / (double)n / (double)(n - 1)); /* llama.cpp divides by n (n - 1) */
}

static size_t first_largest(const float *x, size_t n)
{
    size_t at = 0;
    for (size_t i = 1; i < n; i++)
        at = x[i] > x[at] ? i : at;
    return at;
}

static struct plain compute_plainly(const struct mb_windows *windows, const float *own,
                                    const float *reference, size_t vocabulary)
{
    static double nll[8 * 64], difference[8 * 64];
    struct plain p = {0};
    const size_t window = windows->window, half = window / 2;
    for (size_t w = 0; w < windows->count; w++)
        for (size_t t = half; t + 1 < window; t++) {
            const float *a = own + (w * window + t) * vocabulary,
                        *b = reference + (w * window + t) * vocabulary;
            const size_t target = (size_t)windows->tokens[w * window + t + 1];
            nll[p.tokens] = -ns_log_p(a, vocabulary, target);
            const double other = -ns_log_p(b, vocabulary, target);
            difference[p.tokens] = nll[p.tokens] - other;
            p.sorted[p.tokens] = ns_kl(b, a, vocabulary);
            p.window_kl[w] += p.sorted[p.tokens] / (double)(window - 1 - half);
            p.nll += nll[p.tokens];
            p.reference_nll += other;
            p.kl += p.sorted[p.tokens];
            p.same += first_largest(a, vocabulary) == first_largest(b, vocabulary);
            p.tokens++;
        }
    const double n = (double)p.tokens;
    p.nll /= n, p.reference_nll /= n, p.kl /= n, p.same /= n;
    p.nll_error = standard_error(nll, p.tokens);
    p.kl_error = standard_error(p.sorted, p.tokens);
    p.ratio_error = standard_error(difference, p.tokens);
    qsort(p.sorted, p.tokens, sizeof *p.sorted, ascending);
    return p;
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("found %.12g, expected %.12g", found, expected);
}

static void assert_matches(const struct mb_evaluation *e, const struct plain *p)
{
    assert_int_equal(e->tokens, p->tokens);
    assert_near(log(e->perplexity), p->nll, 1e-12);
    assert_near(e->perplexity_error / e->perplexity, p->nll_error, 1e-9);
    assert_near(log(e->reference_perplexity), p->reference_nll, 1e-12);
    assert_near(e->log_ratio, p->nll - p->reference_nll, 1e-12);
    assert_near(e->log_ratio_error, p->ratio_error, 1e-9);
    assert_near(e->kl_mean, p->kl, 1e-12);
    assert_near(e->kl_error, p->kl_error, 1e-10);
    assert_near(e->same_top, p->same, 1e-12);
    assert_near(e->kl_max, p->sorted[p->tokens - 1], 1e-7);
    assert_near(e->kl_min, p->sorted[0], 1e-7);
    const double rank = 0.9 * (double)(p->tokens - 1);
    const size_t below = (size_t)rank;
    assert_near(e->kl_p90,
                p->sorted[below] +
                    (rank - (double)below) * (p->sorted[below + 1] - p->sorted[below]),
                1e-7);
}

/* Ranks as in tables of confidence intervals for the median. */
static void test_median_interval(void **state)
{
    (void)state;
    static const struct {
        size_t count, low, high;
    } known[] = {{6, 1, 6}, {10, 2, 9}, {20, 6, 15}, {21, 6, 16}, {100, 40, 61}};
    double values[100], low, high;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        for (size_t i = 0; i < known[k].count; i++) /* 1 to count, out of order: 37 is coprime */
            values[i] = (double)(i * 37 % known[k].count + 1);
        mb_median_interval(values, known[k].count, &low, &high);
        assert_true(low == (double)known[k].low && high == (double)known[k].high);
    }
    for (size_t count = 0; count < 6; count++) {
        mb_median_interval(values, count, &low, &high);
        assert_true(isinf(low) && low < 0 && isinf(high) && high > 0);
    }
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
    assert_true(mb_median(odd, 3) == 2 && mb_median(even, 4) == 2.5 && isnan(mb_median(odd, 0)));
}

static void test_plain_statistics(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_windows windows = ns_windows(5, 50, 64);
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q4_0);
    struct mb_network *base = ns_network(model, NULL, MB_NUMERICS_F32, NULL),
                      *mix = ns_network(model, formats, MB_NUMERICS_KERNEL, NULL);
    float *own = ns_run(mix, &windows, 0, 64), *reference = ns_run(base, &windows, 0, 64);
    const struct plain plain = compute_plainly(&windows, own, reference, 64);
    assert_true(plain.kl > 1e-3);

    struct mb_evaluation e = {.size = sizeof e}, kept = {.size = sizeof kept};
    struct mb_reference *stored;
    struct mb_error error;
    assert_int_equal(mb_evaluate(mix, base, &windows, NULL, &e, &error), MB_OK);
    assert_matches(&e, &plain);
    double mean = 0;
    for (size_t w = 0; w < 5; w++) {
        assert_near(e.window_kl[w], plain.window_kl[w], 1e-12);
        mean += e.window_nll[w] / 5;
    }
    assert_near(mean, plain.nll, 1e-12);
    assert_int_equal(mb_reference_create(base, &windows, NULL, &stored, &error), MB_OK);
    assert_int_equal(mb_evaluate_against(mix, stored, &windows, NULL, &kept, &error), MB_OK);
    assert_matches(&kept, &plain);
    assert_memory_equal(&kept, &e, offsetof(struct mb_evaluation, window_kl));
    mb_evaluation_free(&e);
    mb_evaluation_free(&kept);

    /* A model against itself loses exactly nothing. */
    assert_int_equal(mb_evaluate_against(base, stored, &windows, NULL, &e, &error), MB_OK);
    assert_true(e.kl_mean == 0.0 && e.kl_max == 0.0 && e.same_top == 1.0 && e.log_ratio == 0.0);
    mb_evaluation_free(&e);

    windows.text_hash[0] = 'x'; /* another text */
    assert_int_equal(mb_evaluate_against(mix, stored, &windows, NULL, &e, &error), MB_ERR_ARGUMENT);
    mb_reference_destroy(stored);
    mb_reference_destroy(NULL);
    free(own);
    free(reference);
    free(formats);
    mb_network_destroy(base);
    mb_network_destroy(mix);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- llama-perplexity ---- */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void assert_ratio(double found, double expected, double low, double high)
{
    if (!(found >= low * expected && found <= high * expected))
        fail_msg("found %.6g, expected %g to %g times %.6g", found, low, high, expected);
}

static void test_llama_perplexity(void **state)
{
    (void)state;
    json_t *golden;
    struct mb_error error;
    struct mb_threads *threads;
    struct mb_windows windows;
    struct mb_model *model = ns_open(TINY_MODEL);
    assert_int_equal(mb_threads_create(0, &threads), MB_OK);
    assert_int_equal(mb_json_load("tests/golden/logits/kl.json", 1 << 16, &golden, &error), MB_OK);
    const size_t chunks = (size_t)number(golden, "chunks");
    assert_int_equal(mb_windows_load(model, "models/heldout.txt", 256, chunks, &windows, &error),
                     MB_OK);
    struct mb_network *base = ns_network(model, NULL, MB_NUMERICS_F32, threads);
    struct mb_reference *reference;
    struct mb_evaluation e = {.size = sizeof e};
    assert_int_equal(mb_evaluate(base, NULL, &windows, NULL, &e, &error), MB_OK);
    const json_t *f16 = json_object_get(golden, "f16");
    assert_false(e.has_reference);
    assert_near(e.perplexity, number(f16, "ppl"), 2e-4 * number(f16, "ppl"));
    assert_near(e.perplexity_error, number(f16, "ppl_error"), 1e-3);
    mb_evaluation_free(&e);
    assert_int_equal(mb_reference_create(base, &windows, NULL, &reference, &error), MB_OK);

    static const enum mb_format tried[] = {MB_FORMAT_Q8_0, MB_FORMAT_Q6_K, MB_FORMAT_Q4_K};
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        const json_t *expected = json_object_get(golden, mb_format_info(tried[i])->name);
        enum mb_format *formats = ns_uniform(model, tried[i]);
        struct mb_network *mix = ns_network(model, formats, MB_NUMERICS_KERNEL, threads);
        assert_int_equal(mb_evaluate_against(mix, reference, &windows, NULL, &e, &error), MB_OK);
        /* Our encoders lose a little less, and llama.cpp's reference run rounds activations to f16:
         * near from below, not equal. */
        assert_near(e.log_ratio, number(expected, "log_ratio"), 2 * e.log_ratio_error);
        assert_near(e.log_ratio_error, number(expected, "log_ratio_error"),
                    0.15 * e.log_ratio_error);
        assert_ratio(e.kl_mean, number(expected, "kl_mean"), 0.85, 1.03);
        assert_ratio(e.kl_error, number(expected, "kl_error"), 0.6, 1.4); /* few digits there */
        assert_ratio(e.kl_median, number(expected, "kl_median"), 0.85, 1.05);
        assert_ratio(e.kl_p99, number(expected, "kl_p99"), 0.75, 1.1);
        assert_near(e.same_top, number(expected, "same_top"), 0.008);
        mb_evaluation_free(&e);
        mb_network_destroy(mix);
        free(formats);
    }
    mb_reference_destroy(reference);
    mb_network_destroy(base);
    mb_windows_free(&windows);
    mb_model_close(model);
    mb_threads_destroy(threads);
    json_decref(golden);
}

/* ---- importance ---- */

/* The first matrices read attn_norm(embedding of the token): computed here from the file alone. */
static void test_importance(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_windows windows = ns_windows(3, 30, 64);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_error error;
    struct mb_importance *importance;
    float embedding[64 * 32], norm[32];
    const struct mb_tensor *table = mb_model_tensor_find(model, "token_embd.weight"),
                           *weight = mb_model_tensor_find(model, "blk.0.attn_norm.weight");
    assert_int_equal(mb_dequantize(table->format, table->data, 64, 32, embedding), MB_OK);
    assert_int_equal(mb_dequantize(weight->format, weight->data, 1, 32, norm), MB_OK);
    double expected[32] = {0};
    for (size_t i = 0; i < 90; i++) {
        const float *x = embedding + windows.tokens[i] * 32;
        double squares = 0;
        for (size_t c = 0; c < 32; c++)
            squares += (double)x[c] * (double)x[c];
        for (size_t c = 0; c < 32; c++)
            expected[c] += pow((double)x[c] * (double)norm[c], 2) / (squares / 32 + 1e-6) / 90;
    }
    assert_int_equal(mb_importance_collect(network, &windows, NULL, &importance, &error), MB_OK);
    size_t collected = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const float *weights = importance->weights[i];
        assert_true((weights != NULL) == (tensor->quantizable != 0));
        assert_true(weights == NULL || importance->rows[i][0] == 90);
        collected += weights != NULL;
        const bool first = strcmp(tensor->name, "blk.0.attn_q.weight") == 0 ||
                           strcmp(tensor->name, "blk.0.attn_v.weight") == 0;
        for (size_t c = 0; first && c < 32; c++)
            assert_near((double)weights[c], expected[c], 1e-5 * expected[c]);
        for (size_t c = 0; weights != NULL && c < tensor->k; c++)
            assert_true(weights[c] > 0);
    }
    assert_int_equal(collected, 2 * 7 + 1);
    assert_int_equal(importance->chunks, 3);
    assert_int_equal(importance->chunk, 30);
    assert_string_equal(importance->text_hash, windows.text_hash);
    mb_importance_free(importance);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- bad input ---- */

static int stop(void *user, double done, double total, const char *note)
{
    (void)done, (void)total, (void)note;
    return ++*(int *)user >= 2;
}

static void test_stops_and_refusals(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL), *tiny = ns_open(TINY_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL),
                      *other = ns_network(tiny, NULL, MB_NUMERICS_F32, NULL);
    struct mb_windows windows = ns_windows(40, 40, 64);
    struct mb_evaluation e = {.size = sizeof e};
    struct mb_reference *reference = NULL;
    struct mb_importance *importance = NULL;
    struct mb_error error;
    int calls = 0;
    const struct mb_progress progress = {stop, &calls};
    assert_int_equal(mb_evaluate(network, NULL, &windows, &progress, &e, &error),
                     MB_ERR_INTERRUPTED);
    assert_int_equal(calls, 2);
    assert_null(e.window_kl);
    calls = 0;
    assert_int_equal(mb_reference_create(network, &windows, &progress, &reference, &error),
                     MB_ERR_INTERRUPTED);
    assert_null(reference);
    calls = 0;
    assert_int_equal(mb_importance_collect(network, &windows, &progress, &importance, &error),
                     MB_ERR_INTERRUPTED);
    assert_null(importance);
    assert_int_equal(mb_evaluate(network, other, &windows, NULL, &e, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "2048"));
    windows.window = 3;
    assert_int_equal(mb_evaluate(network, NULL, &windows, NULL, &e, &error), MB_ERR_ARGUMENT);
    windows.count = 0;
    assert_int_equal(mb_evaluate(network, NULL, &windows, NULL, &e, &error), MB_ERR_ARGUMENT);
    mb_network_destroy(network);
    mb_network_destroy(other);
    mb_model_close(model);
    mb_model_close(tiny);
    mb_windows_free(&windows);
}

/* What figures of two networks say of each other and of sizes, paced or not; freed. */
static void check_speeds(struct mb_network *const networks[2], int paced)
{
    const struct mb_speed_options options = {
        .size = sizeof options, .context = 200, .repeats = 3, .paced = paced};
    struct mb_speed speeds[2] = {{.size = sizeof speeds[0]}, {.size = sizeof speeds[0]}};
    struct mb_error error;
    assert_int_equal(mb_network_speed(networks, 2, &options, speeds, &error), MB_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(speeds[i].weight_bytes, mb_network_bytes(networks[i]));
        assert_int_equal(speeds[i].context, 200);
        assert_true(speeds[i].decode_ns > 0 && speeds[i].prefill_ns > 0);
        assert_true(speeds[i].decode_matmul_ns > 0 &&
                    speeds[i].decode_matmul_ns < speeds[i].decode_ns);
        assert_true(speeds[i].prefill_matmul_ns > 0 &&
                    speeds[i].prefill_matmul_ns < speeds[i].prefill_ns);
        /* 2 layers x 2 heads x 200 positions x (12 + 12) floats are the least. */
        assert_true(speeds[i].kv_bytes >= 2 * 2 * 200 * 24 * 4);
    }
    assert_true(speeds[1].weight_bytes < speeds[0].weight_bytes);
    /* Rounds are paired: as many of each network. The figure is the median of some of them. */
    assert_int_equal(speeds[0].decode_round_count, speeds[1].decode_round_count);
    assert_int_equal(speeds[0].prefill_round_count, speeds[1].prefill_round_count);
    assert_true(speeds[0].decode_round_count >= 6 && speeds[0].prefill_round_count >= 6);
    for (size_t i = 0; i < 2; i++) {
        const double *kinds[] = {speeds[i].decode_rounds, speeds[i].prefill_rounds};
        const double figures[] = {speeds[i].decode_ns, speeds[i].prefill_ns};
        const size_t counts[] = {speeds[i].decode_round_count, speeds[i].prefill_round_count};
        for (size_t kind = 0; kind < 2; kind++) {
            double least = INFINITY, most = 0;
            for (size_t r = 0; r < counts[kind]; r++) {
                assert_true(isfinite(kinds[kind][r]) && kinds[kind][r] > 0);
                least = fmin(least, kinds[kind][r]);
                most = fmax(most, kinds[kind][r]);
            }
            assert_true(figures[kind] >= least * (1 - 1e-12) &&
                        figures[kind] <= most * (1 + 1e-12));
        }
        mb_speed_free(&speeds[i]);
        assert_null(speeds[i].decode_rounds);
        mb_speed_free(&speeds[i]); /* twice does no harm */
    }
}

/* Speed is not timed here: only what it says about sizes, and that stopping works. */
static void test_speed_fields(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q8_0);
    struct mb_network *networks[2] = {ns_network(model, NULL, MB_NUMERICS_KERNEL, NULL),
                                      ns_network(model, formats, MB_NUMERICS_KERNEL, NULL)};
    struct mb_speed speeds[2] = {{.size = sizeof speeds[0]}, {.size = sizeof speeds[0]}};
    struct mb_error error;
    int calls = 0;
    const struct mb_progress progress = {stop, &calls};
    struct mb_speed_options options = {.size = sizeof options, .context = 200, .repeats = 3};
    int32_t ids[8] = {5, 4, 3, 2, 1, 6, 7, 8};
    const struct mb_windows windows = {.tokens = ids, .count = 1, .window = 8};
    struct mb_evaluation before[2], after[2];
    for (size_t i = 0; i < 2; i++) {
        before[i] = after[i] = (struct mb_evaluation){.size = sizeof before[i]};
        assert_int_equal(mb_evaluate(networks[i], NULL, &windows, NULL, &before[i], &error), MB_OK);
    }
    check_speeds(networks, 0);
    check_speeds(networks, 1);
    options.progress = &progress;
    assert_int_equal(mb_network_speed(networks, 2, &options, speeds, &error), MB_ERR_INTERRUPTED);
    /* Weights are where they were, after a stop too. */
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(mb_evaluate(networks[i], NULL, &windows, NULL, &after[i], &error), MB_OK);
        assert_true(before[i].perplexity == after[i].perplexity);
        mb_evaluation_free(&before[i]);
        mb_evaluation_free(&after[i]);
    }
    options = (struct mb_speed_options){.size = sizeof options, .context = 1, .repeats = 3};
    assert_int_equal(mb_network_speed(networks, 2, &options, speeds, &error), MB_ERR_ARGUMENT);
    options.context = 200;
    options.repeats = SIZE_MAX / 2;
    assert_int_equal(mb_network_speed(networks, 2, &options, speeds, &error), MB_ERR_ARGUMENT);
    mb_network_destroy(networks[0]);
    mb_network_destroy(networks[1]);
    free(formats);
    mb_model_close(model);
}

/* Two networks take 1.5 times as long as in the first turn, one 1.65 times: all come back by their
 * geometric mean, products by their own, and prefill, the same in both, stays. The last was not in
 * the first turn. */
static void test_second_turn(void **state)
{
    (void)state;
    enum { COUNT = 4, KNOWN = 3 };
    const double then[KNOWN] = {100, 200, 400}, now[COUNT] = {150, 300, 660, 90};
    const double whole = 1.5 * cbrt(1.1), products = 2;
    double decode[COUNT][2], prefill[COUNT][1];
    struct mb_speed first[KNOWN], speeds[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        decode[i][0] = now[i] - 1, decode[i][1] = now[i] + 2, prefill[i][0] = 8;
        speeds[i] = (struct mb_speed){.size = sizeof speeds[i],
                                      .decode_ns = now[i],
                                      .decode_mad_ns = 3,
                                      .decode_matmul_ns = 80,
                                      .prefill_ns = 7,
                                      .decode_rounds = decode[i],
                                      .decode_round_count = 2,
                                      .prefill_rounds = prefill[i],
                                      .prefill_round_count = 1};
        if (i < KNOWN)
            first[i] = (struct mb_speed){
                .decode_ns = then[i], .decode_matmul_ns = 80 / products, .prefill_ns = 7};
    }
    assert_near(mb_speed_bring_back(speeds, COUNT, first, speeds, KNOWN), whole, 1e-12);
    for (size_t i = 0; i < COUNT; i++) {
        assert_near(speeds[i].decode_ns, now[i] / whole, 1e-9);
        assert_near(speeds[i].decode_mad_ns, 3 / whole, 1e-9);
        assert_near(speeds[i].decode_matmul_ns, 80 / products, 1e-9);
        assert_near(decode[i][0], (now[i] - 1) / whole, 1e-9);
        assert_near(decode[i][1], (now[i] + 2) / whole, 1e-9);
        assert_true(speeds[i].prefill_ns == 7 && prefill[i][0] == 8);
        assert_true(speeds[i].prefill_mad_ns == 0 && speeds[i].prefill_matmul_ns == 0);
    }
    /* An anchor beside them, at a third of its first speed, prefill at half. */
    const struct mb_speed anchor = {.decode_ns = 10, .prefill_ns = 20},
                          later = {.decode_ns = 30, .prefill_ns = 40};
    const double before = speeds[0].decode_ns, kept = speeds[1].decode_ns;
    assert_near(mb_speed_bring_back(speeds, 1, &anchor, &later, 1), 3, 1e-12);
    assert_near(speeds[0].decode_ns, before / 3, 1e-9);
    assert_near(prefill[0][0], 4, 1e-9);
    assert_true(speeds[1].decode_ns == kept);
    assert_true(mb_speed_bring_back(speeds, 2, NULL, NULL, 0) == 1 && speeds[1].decode_ns == kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics),       cmocka_unit_test(test_median_interval),
        cmocka_unit_test(test_plain_statistics), cmocka_unit_test(test_llama_perplexity),
        cmocka_unit_test(test_importance),       cmocka_unit_test(test_stops_and_refusals),
        cmocka_unit_test(test_speed_fields),     cmocka_unit_test(test_second_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
