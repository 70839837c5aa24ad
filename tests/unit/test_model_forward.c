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

static void test_expected_probabilities(void **state)
{
    (void)state;
    json_t *root = load_json("models/expected.json");
    const json_t *expected =
        json_object_get(json_object_get(root, "models"), "tiny-llama.f16.gguf");
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

    struct mb_model *model = ns_open(TINY_MODEL);
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
        fail_msg("log-probabilities are off by up to %g", worst);
    free(logits);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
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

static void test_golden_logits(void **state)
{
    (void)state;
    struct mb_windows windows = odd_windows();
    struct mb_model *model = ns_open(ODD_MODEL);
    char *golden;
    size_t bytes;
    struct mb_error error;
    assert_int_equal(
        mb_file_read("tests/golden/logits/odd-llama.f32", 1 << 20, &golden, &bytes, &error), MB_OK);
    const size_t count = windows.count * windows.window * 64;
    assert_int_equal(bytes, count * sizeof(float));
    for (int numerics = 0; numerics < 2; numerics++) {
        struct mb_network *network = ns_network(model, NULL, (enum mb_numerics)numerics, NULL);
        float *logits = ns_run(network, &windows, 0, 64);
        double worst = 0, size = 0;
        for (size_t i = 0; i < count; i++) {
            float expected;
            memcpy(&expected, golden + i * sizeof expected, sizeof expected);
            worst = fmax(worst, fabs((double)logits[i] - (double)expected));
            size = fmax(size, fabs((double)expected));
        }
        assert_true(size > 5);
        if (!(worst < 2e-5 * size))
            fail_msg("logits of up to %g are off by up to %g", size, worst);
        free(logits);
        mb_network_destroy(network);
    }
    free(golden);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- independence ---- */

static void assert_same_floats(const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("entry %zu: %.9g and %.9g", i, (double)a[i], (double)b[i]);
}

static void test_threads_and_batches(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    /* More rows than a batch holds, so that windows land in several. */
    struct mb_windows windows = ns_windows(30, 40, 64), one = {.count = 1, .window = 40};
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q4_0);
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
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
    mb_threads_destroy(threads);
    mb_model_close(model);
    mb_windows_free(&windows);
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

static void test_decoding_equals_prefill(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_KERNEL, NULL);
    struct mb_windows windows = ns_windows(1, 70, 64);
    float *all = ns_run(network, &windows, 0, 64), logits[64];
    struct mb_cache cache;
    struct mb_run *run;
    assert_int_equal(mb_cache_create(network, 70, &cache), MB_OK);
    assert_int_equal(mb_run_create(network, 1, 70, &run, NULL), MB_OK);
    run->sequences = run->tokens = 1;
    run->cache = &cache;
    for (size_t t = 0; t < 70; t++) {
        run->ids = windows.tokens + t;
        run->past = t;
        assert_int_equal(mb_run_steps(run, 0, network->step_count), MB_OK);
        assert_int_equal(mb_run_head(run, 0, 1, logits), MB_OK);
        assert_same_floats(logits, all + t * 64, 64);
    }
    mb_run_destroy(run);
    mb_cache_free(&cache);
    free(all);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_mix_equals_written_file(void **state)
{
    (void)state;
    static const enum mb_format tried[] = {MB_FORMAT_Q4_0, MB_FORMAT_Q8_0, MB_FORMAT_F16};
    struct mb_model *model = ns_open(ODD_MODEL);
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
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- vector arithmetic ---- */

static void fill(float *x, size_t n, float scale, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) / (float)(1 << 23) - 1.0f) * scale;
    }
}

/* Everything a set computes, in one array, to compare bits between sets. */
static size_t run_set(const struct mb_vector *set, size_t n, float *out)
{
    enum { ROWS = 3, KEYS = 64 };
    float x[256], y[256], keys[KEYS * 48], values[KEYS * 48], s[ROWS * KEYS];
    size_t at = 0;
    fill(x, 256, 4.0f, (uint32_t)n);
    fill(y, 256, 20.0f, (uint32_t)n + 1);
    fill(keys, KEYS * 48, 1.0f, 3);
    fill(values, KEYS * 48, 1.0f, 4);
    set->rms_norm(out + at, x, y, n, 1e-5f), at += n;
    memcpy(out + at, y, n * sizeof *y);
    set->swiglu(out + at, x, n), at += n;
    memcpy(out + at, x, n * sizeof *x);
    set->add(out + at, y, n), at += n;
    const size_t dim = n < 40 ? n : 40;
    for (size_t rows = 1; rows <= ROWS; rows++) {
        set->scores(s, KEYS, x, 40, rows, keys, dim, KEYS, 0.3f);
        for (size_t r = 0; r < rows; r++)
            set->softmax(s + r * KEYS, 40 + r, KEYS);
        memcpy(out + at, s, rows * KEYS * sizeof *s), at += rows * KEYS;
        set->weigh(out + at, 48, s, KEYS, rows, values, 48, dim, 50), at += rows * 48;
    }
    const double sum = set->log_sum_exp(y, n), cross = set->cross(y, sum, x, n);
    memcpy(out + at, &sum, sizeof sum), at += 2;
    memcpy(out + at, &cross, sizeof cross), at += 2;
    out[at++] = (float)set->argmax(y, n);
    return at;
}

static void test_vector_sets_agree(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 100; n += n < 40 ? 1 : 19)
        for (size_t i = 1; mb_vector_at(i) != NULL; i++) {
            static float a[2048], b[2048];
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            const size_t count = run_set(mb_vector_at(0), n, a);
            assert_true(count < 2048);
            run_set(mb_vector_at(i), n, b);
            assert_same_floats(a, b, count);
        }
}

static void test_vector_accuracy(void **state)
{
    (void)state;
    enum { N = 77 };
    const struct mb_vector *set = mb_vector();
    float x[N], w[N], up[N], out[N], padded[96];
    for (uint32_t seed = 1; seed < 50; seed++) {
        const float scale = (float)seed;
        double squares = 0, top = -INFINITY, sum = 0;
        fill(x, N, scale, seed);
        fill(w, N, 1.0f, seed + 1);
        fill(up, N, 1.0f, seed + 2);
        for (size_t i = 0; i < N; i++) {
            squares += (double)x[i] * (double)x[i];
            top = fmax(top, (double)x[i]);
        }
        for (size_t i = 0; i < N; i++)
            sum += exp((double)x[i] - top);
        set->rms_norm(out, x, w, N, 1e-5f);
        for (size_t i = 0; i < N; i++) {
            const double expected = (double)x[i] / sqrt(squares / N + 1e-5) * (double)w[i];
            assert_true(fabs((double)out[i] - expected) <= 5e-7 * fabs(expected));
        }
        memcpy(out, x, sizeof out);
        set->swiglu(out, up, N);
        for (size_t i = 0; i < N; i++) {
            const double expected = (double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i];
            assert_true(fabs((double)out[i] - expected) <= 1e-6 * fabs(expected) + 1e-37);
        }
        memcpy(padded, x, sizeof x);
        set->softmax(padded, N, 96);
        for (size_t i = 0; i < 96; i++) {
            /* The difference itself is rounded to f32. */
            const double expected = i < N ? exp((double)(x[i] - (float)top)) / sum : 0.0;
            assert_true(fabs((double)padded[i] - expected) <= 1e-6 * expected + 1e-37);
        }
        assert_true(fabs(set->log_sum_exp(x, N) - (top + log(sum))) < 1e-13 * (1 + fabs(top)));
    }
}

/* ---- bad input ---- */

static enum mb_status create(const char *path, struct mb_error *error)
{
    struct mb_model *model = NULL;
    struct mb_network *network = NULL;
    enum mb_status status = mb_model_open(path, &model, error);
    if (status == MB_OK)
        status = mb_network_create(model, MB_NUMERICS_KERNEL, NULL, &network, error);
    mb_network_destroy(network);
    mb_model_close(model);
    return status;
}

static void test_unknown_architecture(void **state)
{
    (void)state;
    struct mb_error error;
    assert_int_equal(create("models/tiny-hybrid.f16.gguf", &error), MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "architecture 'granitehybrid' is not supported yet "
                                          "(supported: llama)"));
}

struct damage {
    const char *key;  /* what to find in the file */
    size_t skip;      /* bytes from its end to where to write */
    const char *with; /* what to write */
    size_t bytes;
    enum mb_status status;
    const char *says;
};

/* Scalars stand 4 bytes (their type) behind their key. */
#define U32(k, v, status, says)                                                                    \
    {                                                                                              \
        "llama." k, 4, v, 4, status, says                                                          \
    }
static const struct damage damages[] = {
    U32("attention.head_count", "\0\0\0\0", MB_ERR_FILE, "head_count"),
    U32("attention.head_count", "\xff\xff\xff\xff", MB_ERR_FILE, "head_count"),
    U32("attention.head_count", "\x08\0\0\0", MB_ERR_FILE, "attn_q"),
    U32("attention.head_count_kv", "\x03\0\0\0", MB_ERR_FILE, "evenly"),
    U32("attention.head_count_kv", "\x04\0\0\0", MB_ERR_FILE, "attn_k"),
    U32("attention.head_count_kv", "\x08\0\0\0", MB_ERR_FILE, "head_count_kv"),
    U32("attention.key_length", "\x0e\0\0\0", MB_ERR_UNSUPPORTED, "heads of 14"),
    U32("attention.key_length", "\x01\0\0\0", MB_ERR_FILE, "key_length"),
    U32("attention.value_length", "\0\0\0\x80", MB_ERR_FILE, "value_length"),
    U32("block_count", "\xff\xff\xff\x7f", MB_ERR_FILE, "block_count"),
    U32("block_count", "\x03\0\0\0", MB_ERR_FILE, "blk.2.attn_norm"),
    U32("block_count", "\x01\0\0\0", MB_ERR_UNSUPPORTED, "blk.1."),
    U32("embedding_length", "\x30\0\0\0", MB_ERR_FILE, "token_embd"),
    U32("embedding_length", "\0\0\0\0", MB_ERR_FILE, "embedding_length"),
    U32("rope.dimension_count", "\x0b\0\0\0", MB_ERR_FILE, "even"),
    U32("rope.dimension_count", "\x0e\0\0\0", MB_ERR_FILE, "dimension_count"),
    U32("rope.dimension_count", "\x0a\0\0\0", MB_ERR_FILE, "rope_freqs"),
    U32("rope.freq_base", "\0\0\xc0\x7f", MB_ERR_FILE, "freq_base"), /* NaN */
    U32("rope.freq_base", "\0\0\x80\xff", MB_ERR_FILE, "freq_base"), /* -infinity */
    U32("rope.scaling.factor", "\0\0\x80\xbf", MB_ERR_FILE, "scaling.factor"),
    U32("attention.layer_norm_rms_epsilon", "\0\0\x80\xbf", MB_ERR_FILE, "epsilon"),
    U32("attention.layer_norm_rms_epsilon", "\0\0\xc0\x7f", MB_ERR_FILE, "epsilon"),
    U32("context_length", "\0\0\0\0", MB_ERR_FILE, "context_length"),
    {"llama.attention.head_coun", 0, "u", 1, MB_ERR_FILE, "missing"},
    {"llama.rope.scaling.type", 12, "yarnly", 6, MB_ERR_UNSUPPORTED, "yarnly"},
    {"blk.1.ffn_up.weigh", 0, "s", 1, MB_ERR_FILE, "blk.1.ffn_up.weight"},
    {"blk.1.ffn_up.bia", 0, "z", 1, MB_ERR_UNSUPPORTED, "blk.1.ffn_up.biaz"},
};

static void test_hostile_hyperparameters(void **state)
{
    (void)state;
    char *good, path[64];
    size_t bytes;
    struct mb_error error;
    assert_int_equal(mb_file_read(ODD_MODEL, 1 << 20, &good, &bytes, &error), MB_OK);
    ns_temporary(path);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        const struct damage *d = &damages[i];
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        char *at = memmem(bad, bytes, d->key, strlen(d->key));
        assert_non_null(at);
        memcpy(at + strlen(d->key) + d->skip, d->with, d->bytes);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bad, 1, bytes, file), bytes);
        fclose(file);
        free(bad);
        error.message[0] = '\0';
        const enum mb_status status = create(path, &error);
        if (status != d->status || strstr(error.message, d->says) == NULL)
            fail_msg("damage %zu (%s): status %d, %s", i, d->key, (int)status, error.message);
    }
    unlink(path);
    free(good);
}

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
        mb_network_create_mix(model, formats, MB_NUMERICS_KERNEL, NULL, NULL, &none, &error),
        MB_ERR_SHAPE);
    assert_non_null(strstr(error.message, "blk.0.ffn_up.weight"));
    formats[0] = (enum mb_format)77;
    assert_int_equal(
        mb_network_create_mix(model, formats, MB_NUMERICS_KERNEL, NULL, NULL, &none, &error),
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
        cmocka_unit_test(test_vector_sets_agree),
        cmocka_unit_test(test_vector_accuracy),
        cmocka_unit_test(test_unknown_architecture),
        cmocka_unit_test(test_hostile_hyperparameters),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
