/* SPDX-License-Identifier: Apache-2.0 */
/* Tokenizers against llama.cpp's: tests/golden/tokenizer holds what llama-tokenize made of the same
 * texts and tricky strings (scripts/make_golden_tokens.py). Windows against the rules of its
 * perplexity tool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mixbit/model.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "support/support.h"
#include "unit/gguf_builder.h"

#define GOLDEN "tests/golden/tokenizer/"
#define TINY "models/tiny-llama.f16.gguf"

static json_t *load_golden(const char *path)
{
    json_t *root = NULL;
    struct mb_error error;
    if (mb_json_load(path, 1 << 26, &root, &error) != MB_OK)
        fail_msg("%s", error.message);
    return root;
}

static struct mb_model *open_model(const char *path)
{
    struct mb_model *model = NULL;
    struct mb_error error;
    if (mb_model_open(path, &model, &error) != MB_OK)
        fail_msg("%s", error.message);
    return model;
}

static struct mb_tokenizer *make_tokenizer(const struct mb_model *model)
{
    struct mb_tokenizer *tokenizer = NULL;
    struct mb_error error;
    if (mb_tokenizer_create(model, &tokenizer, &error) != MB_OK)
        fail_msg("%s", error.message);
    return tokenizer;
}

/* ---- comparing ---- */

static void check_ids(const struct mb_tokenizer *tokenizer, const char *text, size_t bytes,
                      const json_t *expected, const char *what)
{
    int32_t *ids = NULL;
    size_t count = 0;
    struct mb_error error;
    assert_int_equal(mb_tokenize(tokenizer, text, bytes, &ids, &count, &error), MB_OK);
    for (size_t i = 0; i < count && i < json_array_size(expected); i++)
        if (ids[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s: token %zu is %d, llama.cpp has %d", what, i, (int)ids[i],
                     (int)json_integer_value(json_array_get(expected, i)));
    if (count != json_array_size(expected))
        fail_msg("%s: %zu tokens, llama.cpp has %zu", what, count, json_array_size(expected));
    free(ids);
}

static size_t unhex(const char *hex, char *bytes)
{
    size_t count = 0;
    for (; hex[2 * count] != '\0'; count++) {
        unsigned value;
        assert_int_equal(sscanf(hex + 2 * count, "%2x", &value), 1);
        bytes[count] = (char)value;
    }
    return count;
}

/* `changed` (may be NULL) holds the ids that differ from those in `strings`. */
static void check_strings(const struct mb_tokenizer *tokenizer, const json_t *strings,
                          const json_t *changed, const char *what)
{
    assert_true(json_array_size(strings) > 50);
    for (size_t i = 0, next = 0; i < json_array_size(strings); i++) {
        const json_t *row = json_array_get(strings, i), *other = json_array_get(changed, next);
        const char *hex = json_string_value(json_object_get(row, "hex"));
        const json_t *ids = json_object_get(row, "ids");
        if (other != NULL && json_integer_value(json_object_get(other, "at")) == (json_int_t)i) {
            ids = json_object_get(other, "ids");
            next++;
        }
        char *text = malloc(strlen(hex) + 1), name[160];
        assert_non_null(text);
        (void)snprintf(name, sizeof name, "%s, string %zu (%.60s)", what, i, hex);
        check_ids(tokenizer, text, unhex(hex, text), ids, name);
        free(text);
    }
}

static uint64_t fnv1a(const int32_t *ids, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < 4 * count; i++)
        hash = (hash ^ ((uint32_t)ids[i / 4] >> (8 * (i % 4)) & 0xff)) * 0x100000001b3u;
    return hash;
}

static void check_texts(const struct mb_tokenizer *tokenizer, const json_t *texts)
{
    assert_int_equal(json_array_size(texts), 2);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *row = json_array_get(texts, i);
        const char *path = json_string_value(json_object_get(row, "path"));
        char *text = NULL, hash[17];
        size_t bytes = 0, count = 0;
        int32_t *ids = NULL;
        assert_int_equal(mb_file_read(path, 1 << 24, &text, &bytes, NULL), MB_OK);
        assert_int_equal(mb_tokenize(tokenizer, text, bytes, &ids, &count, NULL), MB_OK);
        const json_t *first = json_object_get(row, "first");
        for (size_t t = 0; t < json_array_size(first); t++)
            assert_int_equal(ids[t], json_integer_value(json_array_get(first, t)));
        assert_int_equal(count, json_integer_value(json_object_get(row, "count")));
        (void)snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv1a(ids, count));
        assert_string_equal(hash, json_string_value(json_object_get(row, "fnv1a")));
        free(text);
        free(ids);
    }
}

/* ---- byte-level BPE ---- */

static void test_tiny_llama(void **state)
{
    (void)state;
    json_t *golden = load_golden(GOLDEN "tiny-llama.json");
    struct mb_model *model = open_model(json_string_value(json_object_get(golden, "model")));
    struct mb_tokenizer *tokenizer = make_tokenizer(model);
    assert_int_equal(mb_tokenizer_bos(tokenizer), 0);
    check_strings(tokenizer, json_object_get(golden, "strings"), NULL, "tiny-llama");
    check_texts(tokenizer, json_object_get(golden, "texts"));
    mb_tokenizer_destroy(tokenizer);
    mb_model_close(model);
    json_decref(golden);
}

static bool is_listed(const json_t *list, size_t value)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == (json_int_t)value)
            return true;
    return false;
}

/* A copy of the model's metadata with what `change` says replaced or dropped, and no tensors. */
static void save_variant(const struct mb_model *model, const json_t *change, const char *path)
{
    struct builder b = {NULL, 0, 0};
    uint64_t pairs = 0;
    gb_header(&b, 3, 0, 0);
    for (size_t i = 0; i < model->pair_count; i++) {
        const struct mb_gguf_pair *pair = &model->pairs[i];
        const json_t *value = json_object_get(change, pair->key);
        if (value != NULL && json_is_null(value))
            continue;
        pairs++;
        if (json_is_string(value)) {
            gb_pair_string(&b, pair->key, json_string_value(value));
        } else if (json_is_boolean(value)) {
            gb_pair_bool(&b, pair->key, json_is_true(value));
        } else if (strcmp(pair->key, "tokenizer.ggml.token_type") == 0) {
            gb_array(&b, pair->key, 5, pair->count);
            for (size_t t = 0; t < pair->count; t++)
                gb_u32(&b, is_listed(json_object_get(change, "user_defined"), t)
                               ? 4
                               : (uint32_t)mb_gguf_element_number(pair, t));
        } else {
            gb_bytes(&b, pair->raw, pair->raw_bytes);
        }
    }
    gb_poke(&b, 16, pairs, 8);
    gb_save(&b, path);
    gb_free(&b);
}

static void test_variants(void **state)
{
    (void)state;
    json_t *golden = load_golden(GOLDEN "tiny-llama.json");
    struct mb_model *model = open_model(TINY);
    const json_t *variants = json_object_get(golden, "variants");
    assert_true(json_array_size(variants) >= 15);
    for (size_t i = 0; i < json_array_size(variants); i++) {
        const json_t *variant = json_array_get(variants, i);
        const json_t *change = json_object_get(variant, "change");
        const char *path = gb_scratch("variant.gguf");
        save_variant(model, change, path);
        struct mb_model *changed = open_model(path);
        struct mb_tokenizer *tokenizer = make_tokenizer(changed);
        char *what = json_dumps(change, JSON_COMPACT);
        check_strings(tokenizer, json_object_get(golden, "strings"),
                      json_object_get(variant, "strings"), what);
        free(what);
        mb_tokenizer_destroy(tokenizer);
        mb_model_close(changed);
        assert_int_equal(remove(path), 0);
    }
    mb_model_close(model);
    json_decref(golden);
}

static void test_smollm2(void **state)
{
    (void)state;
    const char *path = getenv("MIXBIT_SMOLLM2");
    if (path == NULL || path[0] == '\0') {
        (void)fprintf(stderr,
                      "\n*** SKIPPED: set MIXBIT_SMOLLM2 to SmolLM2-135M-Instruct.Q4_1.gguf "
                      "to test its tokenizer ***\n\n");
        skip();
        return;
    }
    json_t *golden = load_golden(GOLDEN "smollm2.json");
    struct mb_model *model = open_model(path);
    struct mb_tokenizer *tokenizer = make_tokenizer(model);
    check_strings(tokenizer, json_object_get(golden, "strings"), NULL, "SmolLM2");
    check_texts(tokenizer, json_object_get(golden, "texts"));
    mb_tokenizer_destroy(tokenizer);
    mb_model_close(model);
    json_decref(golden);
}

/* Where words end, worked out by hand from the rules: what the vocabulary at hand cannot show. */
static void test_words(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *text, *words;
    } rows[] = {
        {"gpt-2", "It's 42  days\n\n later!", "It|'s| 42| | days|\n\n| later|!"},
        {"gpt-2", "a\xe1\xa0\x8e.", "a|\xe1\xa0\x8e."}, /* U+180E is no white space */
        {"gpt-2", "a\xc2\x85.", "a|\xc2\x85|."},        /* U+0085 is */
        {"gpt-2",
         "a\xc2\xa0\xe3\x80\x80"
         "b",
         "a|\xc2\xa0|\xe3\x80\x80|b"},
        {"gpt-2", "IT'S", "IT|'|S"},
        {"smollm", "x 123", "x| |1|2|3"},
        {"llama-bpe", "IT'S'\xc5\xbfx", "IT|'S|'\xc5\xbfx"}, /* U+017F is no S */
        {"llama-bpe", "12345 ...\n\n  x", "123|45| ...\n\n| | x"},
        {"qwen2", "12\tx  \r\n y", "1|2|\tx|  \r\n| y"},
        {"qwen2", "cafe\xcc\x81s", "cafe|\xcc\x81s"},
        {"qwen35", "cafe\xcc\x81s", "cafe\xcc\x81s"},
        {"gpt-4o", "fooBar HTTPServer's", "foo|Bar| HTTPServer's"},
        {"tekken", "fooBar12", "foo|Bar|1|2"},
        {"falcon", "a1234,b", "a|123|4|,|b"},
        {"default", "a1234 $b", "a|123|4| |$|b"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mb_split *split = NULL;
        struct mb_span *spans = NULL;
        size_t count = 0, used = 0;
        char words[128];
        const uint8_t *text = (const uint8_t *)rows[i].text;
        assert_int_equal(mb_split_create(mb_split_find(rows[i].pre), &split, NULL), MB_OK);
        assert_int_equal(mb_split_text(split, text, strlen(rows[i].text), &spans, &count, NULL),
                         MB_OK);
        for (size_t w = 0; w < count; w++) {
            if (w > 0)
                words[used++] = '|';
            memcpy(words + used, text + spans[w].start, spans[w].end - spans[w].start);
            used += spans[w].end - spans[w].start;
        }
        words[used] = '\0';
        if (strcmp(words, rows[i].words) != 0)
            fail_msg("%s: '%s', wanted '%s'", rows[i].pre, words, rows[i].words);
        free(spans);
        mb_split_destroy(split);
    }
}

static void expect_refusal(const json_t *change, const char *wanted)
{
    struct mb_model *model = open_model(TINY), *changed = NULL;
    struct mb_tokenizer *tokenizer = NULL;
    struct mb_error error = {.message = ""};
    const char *path = gb_scratch("refused.gguf");
    save_variant(model, change, path);
    changed = open_model(path);
    assert_int_equal(mb_tokenizer_create(changed, &tokenizer, &error), MB_ERR_UNSUPPORTED);
    assert_null(tokenizer);
    if (strstr(error.message, wanted) == NULL)
        fail_msg("'%s' does not name '%s'", error.message, wanted);
    mb_model_close(changed);
    mb_model_close(model);
    assert_int_equal(remove(path), 0);
}

static void test_unknown_is_an_error(void **state)
{
    (void)state;
    static const char *const pres[] = {"gpt-3", "gpt", "llama-bpe ", "smollm starcoder", "kimi-k2"};
    for (size_t i = 0; i < sizeof pres / sizeof pres[0]; i++) {
        json_t *change = json_pack("{s:s}", "tokenizer.ggml.pre", pres[i]);
        expect_refusal(change, pres[i]);
        json_decref(change);
    }
    json_t *change = json_pack("{s:s}", "tokenizer.ggml.model", "bert");
    expect_refusal(change, "bert");
    json_decref(change);
    change = json_pack("{s:n}", "tokenizer.ggml.model");
    expect_refusal(change, "no tokenizer");
    json_decref(change);
}

static void expect_damaged(const json_t *change)
{
    struct mb_model *model = open_model(TINY), *changed = NULL;
    struct mb_tokenizer *tokenizer = NULL;
    struct mb_error error = {.message = ""};
    const char *path = gb_scratch("damaged.gguf");
    save_variant(model, change, path);
    changed = open_model(path);
    assert_int_equal(mb_tokenizer_create(changed, &tokenizer, &error), MB_ERR_FILE);
    assert_true(strlen(error.message) > 20);
    mb_model_close(changed);
    mb_model_close(model);
    assert_int_equal(remove(path), 0);
}

static void test_damaged_vocabulary(void **state)
{
    (void)state;
    static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *change = json_pack("{s:s}", keys[i], "text");
        expect_damaged(change);
        json_decref(change);
        change = json_pack("{s:n}", keys[i]);
        expect_damaged(change);
        json_decref(change);
    }
}

/* ---- SentencePiece ---- */

static void save_spm(const json_t *tokens, json_t *change, const char *path)
{
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 0, 5 + json_object_size(change));
    gb_pair_string(&b, "general.architecture", "llama");
    gb_pair_string(&b, "tokenizer.ggml.model", "llama");
    gb_array(&b, "tokenizer.ggml.tokens", 8, json_array_size(tokens));
    for (size_t i = 0; i < json_array_size(tokens); i++)
        gb_string(&b, json_string_value(json_array_get(json_array_get(tokens, i), 0)));
    gb_array(&b, "tokenizer.ggml.scores", 6, json_array_size(tokens));
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const float score = (float)json_integer_value(json_array_get(json_array_get(tokens, i), 1));
        uint32_t word;
        memcpy(&word, &score, sizeof word);
        gb_u32(&b, word);
    }
    gb_array(&b, "tokenizer.ggml.token_type", 5, json_array_size(tokens));
    for (size_t i = 0; i < json_array_size(tokens); i++)
        gb_u32(&b, (uint32_t)json_integer_value(json_array_get(json_array_get(tokens, i), 2)));
    const char *key;
    json_t *value;
    json_object_foreach(change, key, value) gb_pair_bool(&b, key, json_is_true(value));
    gb_save(&b, path);
    gb_free(&b);
}

static void test_spm(void **state)
{
    (void)state;
    json_t *golden = load_golden(GOLDEN "spm.json");
    const json_t *variants = json_object_get(golden, "variants");
    assert_int_equal(json_array_size(variants), 3);
    for (size_t i = 0; i < json_array_size(variants); i++) {
        const json_t *variant = json_array_get(variants, i);
        const char *path = gb_scratch("spm.gguf");
        save_spm(json_object_get(golden, "tokens"), json_object_get(variant, "change"), path);
        struct mb_model *model = open_model(path);
        struct mb_tokenizer *tokenizer = make_tokenizer(model);
        assert_int_equal(mb_tokenizer_bos(tokenizer), i == 2 ? -1 : 1);
        check_strings(tokenizer, json_object_get(variant, "strings"), NULL, "SentencePiece");
        check_texts(tokenizer, json_object_get(variant, "texts"));
        mb_tokenizer_destroy(tokenizer);
        mb_model_close(model);
        assert_int_equal(remove(path), 0);
    }
    json_decref(golden);
}

/* ---- any ---- */

static void test_empty_text(void **state)
{
    (void)state;
    struct mb_model *model = open_model(TINY);
    struct mb_tokenizer *tokenizer = make_tokenizer(model);
    int32_t *ids = NULL;
    size_t count = 7;
    assert_int_equal(mb_tokenize(tokenizer, "", 0, &ids, &count, NULL), MB_OK);
    assert_int_equal(count, 1);
    assert_int_equal(ids[0], 0);
    free(ids);
    mb_tokenizer_destroy(tokenizer);
    mb_model_close(model);
}

/* Merging must not be quadratic: a word of a million letters would take hours then. */
static void test_one_long_word(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    struct mb_model *model = open_model(TINY);
    struct mb_tokenizer *tokenizer = make_tokenizer(model);
    char *text = malloc(BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < BYTES; i++)
        text[i] = "etaoinshrdlu"[(i * i + i / 7) % 12];
    int32_t *ids = NULL;
    size_t count = 0;
    assert_int_equal(mb_tokenize(tokenizer, text, BYTES, &ids, &count, NULL), MB_OK);
    assert_true(count > BYTES / 16 && count < BYTES);
    free(ids);
    free(text);
    mb_tokenizer_destroy(tokenizer);
    mb_model_close(model);
}

/* Every rule on long runs of one kind of character: no pattern may recurse or backtrack its way
 * through them (a stack that overflows or quadratic time would show). */
static void test_long_runs(void **state)
{
    (void)state;
    enum { BYTES = 60000 };
    static const char *const units[] = {"a", "A",  "aA", "1",  " ",        "\n",           " \n",
                                        ".", "a1", "'s", " .", "\xc3\xa9", "\xe4\xb8\xad", "\xff"};
    static const char *const pres[] = {"gpt-2",  "smollm", "llama-bpe", "qwen2",  "qwen35",
                                       "tekken", "gpt-4o", "falcon",    "default"};
    struct mb_model *model = open_model(TINY);
    char *text = malloc(BYTES);
    assert_non_null(text);
    for (size_t p = 0; p < sizeof pres / sizeof pres[0]; p++) {
        json_t *change = json_pack("{s:s}", "tokenizer.ggml.pre", pres[p]);
        const char *path = gb_scratch("runs.gguf");
        save_variant(model, change, path);
        struct mb_model *changed = open_model(path);
        struct mb_tokenizer *tokenizer = make_tokenizer(changed);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            const size_t length = strlen(units[u]);
            for (size_t i = 0; i < BYTES; i++)
                text[i] = units[u][i % length];
            int32_t *ids = NULL;
            size_t count = 0;
            struct mb_error error;
            if (mb_tokenize(tokenizer, text, BYTES, &ids, &count, &error) != MB_OK)
                fail_msg("%s, run %zu: %s", pres[p], u, error.message);
            assert_true(count > 1);
            free(ids);
        }
        mb_tokenizer_destroy(tokenizer);
        mb_model_close(changed);
        assert_int_equal(remove(path), 0);
        json_decref(change);
    }
    free(text);
    mb_model_close(model);
}

/* ---- windows ---- */

static void test_windows(void **state)
{
    (void)state;
    json_t *golden = load_golden(GOLDEN "tiny-llama.json");
    const json_t *text = json_array_get(json_object_get(golden, "texts"), 0);
    const size_t tokens = (size_t)json_integer_value(json_object_get(text, "count"));
    struct mb_model *model = open_model(TINY);
    struct mb_windows windows;
    /* The model's context is 256, shorter than the usual 512. The golden count includes BOS, and
     * the newline at the end of the file that windows leave out. */
    assert_int_equal(mb_windows_load(model, "models/heldout.txt", 0, 0, &windows, NULL), MB_OK);
    assert_int_equal(windows.window, 256);
    assert_int_equal(windows.count, (tokens - 1) / 256);
    for (size_t w = 0; w < windows.count; w++)
        assert_int_equal(windows.tokens[w * 256], 0);
    const json_t *first = json_object_get(text, "first");
    for (size_t i = 0; i < json_array_size(first); i++)
        assert_int_equal(windows.tokens[i], json_integer_value(json_array_get(first, i)));
    assert_int_equal(strlen(windows.text_hash), 32);
    char hash[33];
    memcpy(hash, windows.text_hash, sizeof hash);
    mb_windows_free(&windows);

    assert_int_equal(mb_windows_load(model, "models/heldout.txt", 60, 3, &windows, NULL), MB_OK);
    assert_int_equal(windows.window, 60);
    assert_int_equal(windows.count, 3);
    assert_string_equal(windows.text_hash, hash);
    /* The second window starts where the first ends, but for its first token. */
    for (size_t i = 61; i < 64; i++)
        assert_int_equal(windows.tokens[i], json_integer_value(json_array_get(first, i)));
    mb_windows_free(&windows);

    assert_int_equal(mb_windows_load(model, "models/calib.txt", 0, 1, &windows, NULL), MB_OK);
    assert_string_not_equal(windows.text_hash, hash);
    mb_windows_free(&windows);
    mb_model_close(model);
    json_decref(golden);
}

static void test_short_text(void **state)
{
    (void)state;
    struct mb_model *model = open_model(TINY);
    struct mb_windows windows;
    struct mb_error error = {.message = ""};
    const char *path = gb_scratch("short.txt");
    gb_save_bytes(path, (const uint8_t *)"the end\n", 8);
    assert_int_equal(mb_windows_load(model, path, 0, 0, &windows, &error), MB_ERR_FILE);
    assert_null(windows.tokens);
    assert_non_null(strstr(error.message, "256")); /* needed */
    int32_t *ids = NULL;
    size_t count = 0;
    struct mb_tokenizer *tokenizer = make_tokenizer(model);
    assert_int_equal(mb_tokenize(tokenizer, "the end", 7, &ids, &count, NULL), MB_OK);
    char has[32];
    (void)snprintf(has, sizeof has, "%zu tokens", count);
    assert_non_null(strstr(error.message, has)); /* there are */
    free(ids);
    mb_tokenizer_destroy(tokenizer);
    gb_save_bytes(path, NULL, 0);
    assert_int_equal(mb_windows_load(model, path, 0, 0, &windows, &error), MB_ERR_FILE);
    assert_int_equal(remove(path), 0);
    assert_int_equal(mb_windows_load(model, path, 0, 0, &windows, &error), MB_ERR_IO);
    mb_model_close(model);
}

static int remove_scratch(void **state)
{
    (void)state;
    return remove(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_llama),
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_unknown_is_an_error),
        cmocka_unit_test(test_damaged_vocabulary),
        cmocka_unit_test(test_spm),
        cmocka_unit_test(test_empty_text),
        cmocka_unit_test(test_one_long_word),
        cmocka_unit_test(test_long_runs),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_short_text),
    };
    return cmocka_run_group_tests_name("model_tokenizer", tests, NULL, remove_scratch);
}
