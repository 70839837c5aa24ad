/* SPDX-License-Identifier: Apache-2.0 */
/* Windows without a text: what is in them, that a seed says all, and that what the model writes is
 * likelier to it than chance. */
#include "mixbit/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL MIXBIT_SOURCE_DIR "/models/tiny-llama.f16.gguf"
enum { WINDOW = 32, COUNT = 6 };

static struct mb_model *open_model(void)
{
    struct mb_model *model;
    assert_int_equal(mb_model_open(MODEL, &model, NULL), MB_OK);
    return model;
}

static void check_tokens(const struct mb_model *model, const struct mb_windows *windows)
{
    const size_t vocabulary = mb_model_array_count(model, "tokenizer.ggml.tokens");
    const int32_t bos = (int32_t)mb_model_uint(model, "tokenizer.ggml.bos_token_id", 0);
    assert_int_equal(windows->count, COUNT);
    assert_int_equal(windows->window, WINDOW);
    assert_int_equal(strlen(windows->text_hash), 32);
    for (size_t i = 0; i < (size_t)COUNT * WINDOW; i++) {
        const int32_t id = windows->tokens[i];
        assert_true(id >= 0 && (size_t)id < vocabulary);
        if (i % WINDOW == 0)
            assert_int_equal(id, bos);
        else
            assert_true((int)mb_model_array_number(model, "tokenizer.ggml.token_type",
                                                   (size_t)id) != 3); /* control */
    }
}

static bool same(const struct mb_windows *a, const struct mb_windows *b)
{
    const bool tokens =
        memcmp(a->tokens, b->tokens, (size_t)COUNT * WINDOW * sizeof *a->tokens) == 0;
    assert_int_equal(tokens, strcmp(a->text_hash, b->text_hash) == 0);
    return tokens;
}

static void random_windows_follow_their_seed(void **state)
{
    (void)state;
    struct mb_model *model = open_model();
    struct mb_windows a, b, c;
    assert_int_equal(mb_windows_random(model, WINDOW, COUNT, 7, &a, NULL), MB_OK);
    assert_int_equal(mb_windows_random(model, WINDOW, COUNT, 7, &b, NULL), MB_OK);
    assert_int_equal(mb_windows_random(model, WINDOW, COUNT, 8, &c, NULL), MB_OK);
    check_tokens(model, &a);
    assert_true(same(&a, &b));
    assert_false(same(&a, &c));
    mb_windows_free(&c);
    assert_int_equal(mb_windows_random(model, 0, 0, 7, &c, NULL), MB_OK);
    assert_int_equal(c.count, MB_MADE_WINDOWS);
    assert_int_equal(c.window, 256); /* the model's context */
    mb_windows_free(&a);
    mb_windows_free(&b);
    mb_windows_free(&c);
    mb_model_close(model);
}

static double perplexity(struct mb_network *network, const struct mb_windows *windows)
{
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    assert_int_equal(mb_evaluate(network, NULL, windows, NULL, &evaluation, NULL), MB_OK);
    const double found = evaluation.perplexity;
    mb_evaluation_free(&evaluation);
    return found;
}

static int stop(void *user, double done, double total, const char *note)
{
    (void)done, (void)total, (void)note;
    return ++*(int *)user > 2;
}

static void a_model_writes_what_it_finds_likely(void **state)
{
    (void)state;
    struct mb_model *model = open_model();
    struct mb_windows random, made[3];
    struct mb_network *network = NULL;
    assert_int_equal(mb_windows_random(model, WINDOW, COUNT, 1, &random, NULL), MB_OK);
    for (size_t i = 0; i < 3; i++) {
        struct mb_threads *threads;
        assert_int_equal(mb_threads_create(1 + i % 2, &threads), MB_OK);
        assert_int_equal(mb_network_create(model, MB_NUMERICS_KERNEL, threads, &network, NULL),
                         MB_OK);
        assert_int_equal(
            mb_windows_generate(network, WINDOW, COUNT, i < 2 ? 1 : 2, NULL, &made[i], NULL),
            MB_OK);
        check_tokens(model, &made[i]);
        if (i == 0) /* vocabulary: 2048 */
            assert_true(perplexity(network, &random) > 2048);
        assert_true(perplexity(network, &made[i]) < 300);
        mb_network_destroy(network);
        mb_threads_destroy(threads);
    }
    assert_true(same(&made[0], &made[1])); /* whatever the number of threads */
    assert_false(same(&made[0], &made[2]));
    for (size_t i = 0; i < 3; i++)
        mb_windows_free(&made[i]);
    mb_windows_free(&random);

    int calls = 0;
    const struct mb_progress progress = {.report = stop, .user = &calls};
    struct mb_error error;
    assert_int_equal(mb_network_create(model, MB_NUMERICS_KERNEL, NULL, &network, NULL), MB_OK);
    assert_int_equal(mb_windows_generate(network, WINDOW, COUNT, 1, &progress, &random, &error),
                     MB_ERR_INTERRUPTED);
    assert_null(random.tokens);
    mb_network_destroy(network);
    mb_model_close(model);
}

static enum mb_status load_tokens(const char *text, size_t window, size_t most,
                                  struct mb_windows *windows, struct mb_error *error)
{
    char path[] = "/tmp/mixbit-tokens-XXXXXX";
    const int descriptor = mkstemp(path);
    struct mb_model *model = open_model();
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, text, strlen(text)), strlen(text));
    close(descriptor);
    const enum mb_status status = mb_windows_load_tokens(model, path, window, most, windows, error);
    (void)remove(path);
    mb_model_close(model);
    return status;
}

static void token_files_are_read(void **state)
{
    (void)state;
    struct mb_windows windows;
    assert_int_equal(load_tokens("[5, 6,7 ,8]\n9\t10 11 2047 4", 4, 0, &windows, NULL), MB_OK);
    const int32_t expected[] = {5, 6, 7, 8, 9, 10, 11, 2047};
    assert_int_equal(windows.count, 2);
    assert_memory_equal(windows.tokens, expected, sizeof expected);
    mb_windows_free(&windows);
    assert_int_equal(load_tokens("1 2 3 4 5 6 7 8", 4, 1, &windows, NULL), MB_OK);
    assert_int_equal(windows.count, 1);
    mb_windows_free(&windows);
    const struct {
        const char *text, *says;
    } wrong[] = {{"", "0 tokens"},
                 {"1 2 3", "3 tokens"},
                 {"1 2 2048 4", "token 3"},
                 {"1 -2 3 4", "token 2"},
                 {"1 2 3 99999999999999999999", "token 4"},
                 {"1 2 - 4", "token 3"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct mb_error error;
        assert_int_equal(load_tokens(wrong[i].text, 4, 0, &windows, &error), MB_ERR_FILE);
        assert_non_null(strstr(error.message, wrong[i].says));
        assert_null(windows.tokens);
    }
}

/* A model without a tokenizer still has its numbers of tokens. */
static void models_without_a_tokenizer_run(void **state)
{
    (void)state;
    struct mb_model *model;
    struct mb_network *network;
    struct mb_windows windows;
    assert_int_equal(
        mb_model_open(MIXBIT_SOURCE_DIR "/tests/golden/logits/odd-llama.gguf", &model, NULL),
        MB_OK);
    assert_int_equal(mb_windows_random(model, WINDOW, COUNT, 1, &windows, NULL), MB_OK);
    bool all[64] = {false};
    for (size_t i = 0; i < (size_t)WINDOW * COUNT; i++) {
        assert_in_range(windows.tokens[i], 0, 63);
        all[windows.tokens[i]] = true;
    }
    size_t seen = 0;
    for (size_t i = 0; i < 64; i++)
        seen += all[i];
    assert_true(seen > 50);
    mb_windows_free(&windows);
    assert_int_equal(mb_network_create(model, MB_NUMERICS_F32, NULL, &network, NULL), MB_OK);
    assert_int_equal(mb_windows_generate(network, WINDOW, 1, 1, NULL, &windows, NULL), MB_OK);
    mb_windows_free(&windows);
    mb_network_destroy(network);
    mb_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_windows_follow_their_seed),
        cmocka_unit_test(a_model_writes_what_it_finds_likely),
        cmocka_unit_test(token_files_are_read),
        cmocka_unit_test(models_without_a_tokenizer_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
