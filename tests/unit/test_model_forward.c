/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass. Oracles: the training framework's probabilities (models/expected.json) and
 * llama.cpp's logits of a model with every odd shape (scripts/make_golden_logits.py); beyond them,
 * that results do not depend on threads, batches, caches or the way weights came in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dispatch/dispatch.h"
#include "model/network.h"
#include "model/vector.h"
#include "support/support.h"
#include "unit/network_support.h"

static json_t *load_json(const char *path)
{
    json_t *root = NULL;
    struct mb_error error;
    if (mb_json_load(path, 1 << 22, &root, &error) != MB_OK)
        fail_msg("%s", error.message);
    return root;
}

/* ---- the training framework ---- */

static double check_top5(const json_t *top5, const float *logits, size_t vocabulary)
{
    double worst = 0;
    assert_int_equal(json_array_size(top5), 5);
    for (size_t i = 0; i < 5; i++) {
        const json_t *pair = json_array_get(top5, i);
        const size_t id = (size_t)json_integer_value(json_array_get(pair, 0));
        const double expected = json_real_value(json_array_get(pair, 1));
        const double found = ns_log_p(logits, vocabulary, id);
        worst = fmax(worst, fabs(found - expected));
    }
    return worst;
}

static void check_probabilities(const json_t *models, const char *path)
{
    const json_t *expected = json_object_get(models, strchr(path, '/') + 1);
    const json_t *prompt = json_object_get(expected, "prompt_ids"),
                 *greedy = json_object_get(expected, "greedy_continuation_ids"),
                 *positions = json_object_get(expected, "top5_after_prompt_position"),
                 *steps = json_object_get(expected, "top5_greedy_steps");
    const size_t length = json_array_size(prompt), more = json_array_size(greedy);
    assert_true(length > 8 && more > 4);
    struct mb_windows windows = {.count = 1, .window = length + more};
    windows.tokens = malloc(windows.window * sizeof *windows.tokens);
    for (size_t i = 0; i < length + more; i++)
        windows.tokens[i] = (int32_t)json_integer_value(
            i < length ? json_array_get(prompt, i) : json_array_get(greedy, i - length));

    struct mb_model *model = ns_open(path);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_KERNEL, NULL);
    float *logits = ns_run(network, &windows, 0, 2048);
    double worst = 0;
    for (size_t i = 0; i < json_array_size(positions); i++)
        worst = fmax(worst, check_top5(json_array_get(positions, i), logits + i * 2048, 2048));
    for (size_t i = 0; i < json_array_size(steps); i++)
        worst = fmax(worst,
                     check_top5(json_array_get(steps, i), logits + (length - 1 + i) * 2048, 2048));
    /* The file has four digits. */
    if (!(worst < 1e-4))
        fail_msg("%s: log-probabilities are off by up to %g", path, worst);
    free(logits);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_expected_probabilities(void **state)
{
    (void)state;
    json_t *root = load_json("models/expected.json");
    check_probabilities(json_object_get(root, "models"), TINY_MODEL);
    check_probabilities(json_object_get(root, "models"), HYBRID_MODEL);
    json_decref(root);
}

/* ---- llama.cpp on odd shapes ---- */

static struct mb_windows odd_windows(void)
{
    json_t *root = load_json("tests/golden/logits/odd-llama.json");
    const json_t *sequences = json_object_get(root, "tokens");
    struct mb_windows windows = {.count = json_array_size(sequences),
                                 .window = json_array_size(json_array_get(sequences, 0))};
    windows.tokens = malloc(windows.count * windows.window * sizeof *windows.tokens);
    for (size_t i = 0; i < windows.count * windows.window; i++)
        windows.tokens[i] = (int32_t)json_integer_value(
            json_array_get(json_array_get(sequences, i / windows.window), i % windows.window));
    json_decref(root);
    return windows;
}

/* Models with every odd shape, one per architecture, and how far from llama.cpp's logits ours may
 * be, relative to the largest. */
static const struct odd {
    const char *name;
    double bound;
} odds[] = {
    {"llama", 2e-5}, {"granitehybrid", 2e-5}, {"mamba2", 2e-5}, {"mamba", 2e-5},
    {"qwen3", 2e-5}, {"qwen3moe", 2e-5},      {"gemma3", 5e-4}, /* its GELU comes from a table of
                                                                   f16 there */
};
enum { ODDS = sizeof odds / sizeof odds[0] };

static struct mb_model *open_odd(size_t i)
{
    char path[96];
    snprintf(path, sizeof path, "tests/golden/logits/odd-%s.gguf", odds[i].name);
    return ns_open(path);
}

static void check_golden(size_t odd, const struct mb_windows *windows, const float *golden)
{
    struct mb_model *model = open_odd(odd);
    const size_t count = windows->count * windows->window * 64;
    for (int numerics = 0; numerics < 2; numerics++) {
        struct mb_network *network = ns_network(model, NULL, (enum mb_numerics)numerics, NULL);
        float *logits = ns_run(network, windows, 0, 64);
        double worst = 0, size = 0;
        for (size_t i = 0; i < count; i++) {
            worst = fmax(worst, fabs((double)logits[i] - (double)golden[i]));
            size = fmax(size, fabs((double)golden[i]));
        }
        assert_true(size > 3);
        if (!(worst < odds[odd].bound * size))
            fail_msg("%s: logits of up to %g are off by up to %g", odds[odd].name, size, worst);
        free(logits);
        mb_network_destroy(network);
    }
    mb_model_close(model);
}

static void test_golden_logits(void **state)
{
    (void)state;
    struct mb_windows windows = odd_windows();
    for (size_t i = 0; i < ODDS; i++) {
        char path[96], *golden;
        size_t bytes;
        struct mb_error error;
        snprintf(path, sizeof path, "tests/golden/logits/odd-%s.f32", odds[i].name);
        assert_int_equal(mb_file_read(path, 1 << 20, &golden, &bytes, &error), MB_OK);
        assert_int_equal(bytes, windows.count * windows.window * 64 * sizeof(float));
        check_golden(i, &windows, (const float *)(const void *)golden);
        free(golden);
    }
    mb_windows_free(&windows);
}

/* ---- independence ---- */

static void assert_same_floats(const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("entry %zu: %.9g and %.9g", i, (double)a[i], (double)b[i]);
}

static void check_threads_and_batches(struct mb_model *model, struct mb_threads *threads)
{
    /* More rows than a batch holds, so that windows land in several. */
    struct mb_windows windows = ns_windows(30, 40, 64), one = {.count = 1, .window = 40};
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q4_0);
    struct mb_network *alone = ns_network(model, formats, MB_NUMERICS_KERNEL, NULL),
                      *pooled = ns_network(model, formats, MB_NUMERICS_KERNEL, threads);
    float *a = ns_run(alone, &windows, 0, 64), *b = ns_run(pooled, &windows, 0, 64),
          *half = ns_run(pooled, &windows, 20, 64);
    assert_same_floats(a, b, 30 * 40 * 64);
    for (size_t w = 0; w < 30; w++) {
        assert_same_floats(half + w * 20 * 64, a + (w * 40 + 20) * 64, 20 * 64);
        one.tokens = windows.tokens + w * 40;
        float *single = ns_run(alone, &one, 0, 64);
        assert_same_floats(single, a + w * 40 * 64, 40 * 64);
        free(single);
    }
    free(a);
    free(b);
    free(half);
    free(formats);
    mb_network_destroy(alone);
    mb_network_destroy(pooled);
    mb_windows_free(&windows);
}

static void test_threads_and_batches(void **state)
{
    (void)state;
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    for (size_t i = 0; i < ODDS; i++) {
        struct mb_model *model = open_odd(i);
        check_threads_and_batches(model, threads);
        mb_model_close(model);
    }
    mb_threads_destroy(threads);
}

/* q, k and v of three activation types run in one dispatch; alone they give the same bits. */
static void test_mixed_products(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum mb_format format;
    } mixed[] = {{"blk.0.attn_q.weight", MB_FORMAT_Q4_K},
                 {"blk.0.attn_k.weight", MB_FORMAT_Q4_0},
                 {"blk.0.attn_v.weight", MB_FORMAT_F16}};
    static const enum mb_slot slots[] = {MB_SLOT_QUERY, MB_SLOT_KEY, MB_SLOT_VALUE};
    struct mb_model *model = ns_open(TINY_MODEL);
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q8_0);
    for (size_t i = 0; i < mb_model_tensor_count(model); i++)
        for (size_t j = 0; j < 3; j++)
            if (strcmp(mb_model_tensor_at(model, i)->name, mixed[j].name) == 0)
                formats[i] = mixed[j].format;
    for (size_t count = 0; count <= 3; count++) {
        struct mb_threads *threads = NULL;
        if (count > 0)
            assert_int_equal(mb_threads_create(count, &threads), MB_OK);
        struct mb_network *network = ns_network(model, formats, MB_NUMERICS_KERNEL, threads);
        size_t at = 0;
        while (network->steps[at].kind != MB_STEP_PRODUCTS)
            at++;
        assert_int_equal(network->steps[at].product_count, 3);
        for (size_t rows = 1; rows <= 65; rows += 32) {
            struct mb_windows windows = ns_windows(1, rows, 500);
            struct mb_run *run;
            struct mb_error error;
            float *kept[3];
            assert_int_equal(mb_run_create(network, rows, rows, &run, &error), MB_OK);
            run->ids = windows.tokens;
            run->sequences = 1;
            run->tokens = rows;
            assert_int_equal(mb_run_steps(run, 0, at + 1), MB_OK);
            for (size_t j = 0; j < 3; j++) {
                const size_t bytes = rows * network->slot_width[slots[j]] * sizeof(float);
                kept[j] = memcpy(malloc(bytes), run->slots[slots[j]], bytes);
                memset(run->slots[slots[j]], 0, bytes);
            }
            for (unsigned j = 0; j < 3; j++)
                assert_int_equal(mb_run_products(run, at, 1u << j), MB_OK);
            for (size_t j = 0; j < 3; j++) {
                assert_same_floats(kept[j], run->slots[slots[j]],
                                   rows * network->slot_width[slots[j]]);
                free(kept[j]);
            }
            mb_run_destroy(run);
            mb_windows_free(&windows);
        }
        mb_network_destroy(network);
        mb_threads_destroy(threads);
    }
    free(formats);
    mb_model_close(model);
}

/* Steps of one or several tokens behind a cache: what is kept of keys, convolutions and states
 * gives the bits of a whole window. */
static void check_decoding(struct mb_model *model, size_t at_once, size_t tokens, size_t count)
{
    struct mb_threads *threads = NULL;
    assert_int_equal(mb_threads_create(count, &threads), MB_OK);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_KERNEL, threads);
    struct mb_windows windows = ns_windows(1, tokens, 64);
    float *all = ns_run(network, &windows, 0, 64), logits[64];
    struct mb_cache cache;
    struct mb_run *run;
    assert_int_equal(mb_cache_create(network, tokens, &cache), MB_OK);
    assert_int_equal(mb_run_create(network, at_once, tokens, &run, NULL), MB_OK);
    run->sequences = 1;
    run->cache = &cache;
    for (size_t t = 0; t < tokens; t += run->tokens) {
        run->tokens = tokens - t < at_once ? tokens - t : at_once;
        run->ids = windows.tokens + t;
        run->past = t;
        assert_int_equal(mb_run_steps(run, 0, network->step_count), MB_OK);
        for (size_t i = 0; i < run->tokens; i++) {
            assert_int_equal(mb_run_head(run, i, 1, logits), MB_OK);
            assert_same_floats(logits, all + (t + i) * 64, 64);
        }
    }
    mb_run_destroy(run);
    mb_cache_free(&cache);
    if (count > 1 && network->attending > 0) /* late tokens are shared among the threads */
        assert_true(tokens * network->slot_width[MB_SLOT_QUERY] > 2 * MB_WORTH_A_DISPATCH);
    free(all);
    mb_network_destroy(network);
    mb_threads_destroy(threads);
    mb_windows_free(&windows);
}

static void test_decoding_equals_prefill(void **state)
{
    (void)state;
    for (size_t i = 0; i < ODDS; i++) {
        struct mb_model *model = open_odd(i);
        for (size_t at_once = 1; at_once <= 7; at_once++)
            check_decoding(model, at_once, 70, 1);
        for (size_t threads = 2; threads <= 3; threads++)
            check_decoding(model, 1, 1500, threads);
        mb_model_close(model);
    }
}

static void check_mix(struct mb_model *model)
{
    static const enum mb_format tried[] = {MB_FORMAT_Q4_0, MB_FORMAT_Q8_0, MB_FORMAT_F16};
    struct mb_windows windows = ns_windows(3, 24, 64);
    for (size_t f = 0; f < sizeof tried / sizeof tried[0]; f++) {
        char path[64];
        struct mb_error error;
        ns_temporary(path);
        enum mb_format *formats = ns_uniform(model, tried[f]);
        const struct mb_convert_options options = {.size = sizeof options};
        if (mb_convert(model, formats, path, &options, &error) != MB_OK)
            fail_msg("%s", error.message);
        struct mb_model *written = ns_open(path);
        for (int numerics = 0; numerics < 2; numerics++) {
            struct mb_network *a = ns_network(model, formats, (enum mb_numerics)numerics, NULL),
                              *b = ns_network(written, NULL, (enum mb_numerics)numerics, NULL);
            float *x = ns_run(a, &windows, 0, 64), *y = ns_run(b, &windows, 0, 64);
            assert_same_floats(x, y, 3 * 24 * 64);
            assert_int_equal(mb_network_bytes(a), mb_network_bytes(b));
            free(x);
            free(y);
            mb_network_destroy(a);
            mb_network_destroy(b);
        }
        mb_model_close(written);
        unlink(path);
        free(formats);
    }
    mb_windows_free(&windows);
}

static void test_mix_equals_written_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < ODDS; i++) {
        struct mb_model *model = open_odd(i);
        check_mix(model);
        mb_model_close(model);
    }
}

/* ---- bad input ---- */

static int stop_at_once(void *user, size_t window, size_t first, size_t count, const float *logits,
                        size_t vocabulary)
{
    (void)window, (void)first, (void)count, (void)logits, (void)vocabulary;
    return ++*(int *)user;
}

static void test_bad_arguments(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_KERNEL, NULL), *none;
    struct mb_windows windows = ns_windows(2, 20, 64);
    struct mb_error error;
    int calls = 0;
    assert_int_equal(mb_network_logits(network, &windows, 0, stop_at_once, &calls, &error),
                     MB_ERR_INTERRUPTED);
    assert_int_equal(calls, 1);
    assert_int_equal(mb_network_logits(network, &windows, 20, stop_at_once, &calls, &error),
                     MB_ERR_ARGUMENT);
    windows.tokens[7] = 64;
    assert_int_equal(mb_network_logits(network, &windows, 0, stop_at_once, &calls, &error),
                     MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "64"));
    windows.tokens[7] = -1;
    assert_int_equal(mb_network_logits(network, &windows, 0, stop_at_once, &calls, &error),
                     MB_ERR_ARGUMENT);
    assert_int_equal(calls, 1);

    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q8_0);
    for (size_t i = 0; i < mb_model_tensor_count(model); i++)
        if (strcmp(mb_model_tensor_at(model, i)->name, "blk.0.ffn_up.weight") == 0)
            formats[i] = MB_FORMAT_Q4_K; /* rows of 32 */
    assert_int_equal(
        mb_network_create_mix(model, formats, NULL, MB_NUMERICS_KERNEL, NULL, NULL, &none, &error),
        MB_ERR_SHAPE);
    assert_non_null(strstr(error.message, "blk.0.ffn_up.weight"));
    formats[0] = (enum mb_format)77;
    assert_int_equal(
        mb_network_create_mix(model, formats, NULL, MB_NUMERICS_KERNEL, NULL, NULL, &none, &error),
        MB_ERR_ARGUMENT);
    free(formats);
    mb_network_destroy(network);
    mb_network_destroy(NULL);
    mb_model_close(model);
    mb_windows_free(&windows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expected_probabilities),
        cmocka_unit_test(test_golden_logits),
        cmocka_unit_test(test_threads_and_batches),
        cmocka_unit_test(test_mixed_products),
        cmocka_unit_test(test_decoding_equals_prefill),
        cmocka_unit_test(test_mix_equals_written_file),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
