/* SPDX-License-Identifier: Apache-2.0 */
/* llama.cpp's files of log-probabilities. Oracles: a file and the figures of llama-perplexity
 * (scripts/make_golden_files.py), the same evaluation against logits in memory, the format's
 * arithmetic done plainly here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fuzz/exercise.h"
#include "model/reference.h"
#include "model/vector.h"
#include "support/support.h"
#include "unit/gguf_builder.h"
#include "unit/network_support.h"

#include "fuzz/mutations.h"

#define GOLDEN "tests/golden/logits/tiny-llama"
enum { TINY_WORDS = 2048 };

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("no number '%s'", key);
    return json_number_value(value);
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("found %.9g, expected %.9g within %g", found, expected, tolerance);
}

/* Ours in f32, llama.cpp's with activations rounded to f16: that, and the digits it prints, are all
 * that may differ. */
static void test_llama_perplexity(void **state)
{
    (void)state;
    json_t *golden;
    struct mb_error error;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    assert_int_equal(mb_json_load(GOLDEN ".json", 1 << 16, &golden, &error), MB_OK);
    const json_t *rows = json_object_get(golden, "windows");
    assert_true(mb_reference_is_file(GOLDEN ".base"));
    assert_true(json_array_size(rows) >= 4);
    for (size_t count = 1; count <= json_array_size(rows); count++) {
        struct mb_windows windows;
        struct mb_reference *reference;
        struct mb_evaluation e = {.size = sizeof e};
        assert_int_equal(
            mb_reference_open(GOLDEN ".base", model, count, &windows, &reference, &error), MB_OK);
        assert_int_equal(windows.count, count);
        assert_int_equal(windows.window, 32);
        assert_int_equal(mb_evaluate_against(network, reference, &windows, NULL, &e, &error),
                         MB_OK);
        const json_t *expected = json_array_get(rows, count - 1);
        assert_int_equal(e.tokens, 15 * count);
        assert_near(e.perplexity, number(expected, "ppl"), 1e-3 * e.perplexity);
        assert_near(e.perplexity_error, number(expected, "ppl_error"), 2e-3 * e.perplexity_error);
        assert_near(e.log_ratio, number(expected, "log_ratio"), 6e-4);
        assert_near(e.log_ratio_error, number(expected, "log_ratio_error"), 2e-4);
        assert_near(e.kl_mean, number(expected, "kl_mean"), 1e-5 + 2e-3 * e.kl_mean);
        assert_near(e.kl_error, number(expected, "kl_error"), 1e-5 + 5e-3 * e.kl_error);
        assert_near(e.same_top, number(expected, "same_top"), 1.01e-5);
        mb_evaluation_free(&e);
        mb_reference_destroy(reference);
        mb_windows_free(&windows);
    }
    json_decref(golden);
    mb_network_destroy(network);
    mb_model_close(model);
}

/* llama.cpp's rows, decoded and encoded again, are the bits they were, up to one code where its
 * rounding met a tie. */
static void test_encoder(void **state)
{
    (void)state;
    struct mb_logits_file file;
    struct mb_error error;
    static float log_p[TINY_WORDS];
    assert_int_equal(mb_logits_open(GOLDEN ".base", &file, &error), MB_OK);
    assert_int_equal(file.vocabulary, TINY_WORDS);
    uint8_t *row = malloc(file.row_bytes);
    for (size_t r = 0; r < file.windows * file.scored; r++) {
        const uint8_t *theirs = file.rows + r * file.row_bytes;
        mb_logits_decode(&file, r, log_p);
        double sum = 0;
        for (size_t i = 0; i < TINY_WORDS; i++)
            sum += exp((double)log_p[i]);
        assert_near(sum, 1, 2e-4); /* they are probabilities */
        mb_logits_encode(log_p, 0.0, TINY_WORDS, row);
        float scale[2], least[2];
        memcpy(&scale[0], theirs, 4), memcpy(&scale[1], row, 4);
        memcpy(&least[0], theirs + 4, 4), memcpy(&least[1], row + 4, 4);
        assert_near((double)scale[1], (double)scale[0], 1e-6 * (double)scale[0]);
        assert_near((double)least[1], (double)least[0], 1e-6 * -(double)least[0]);
        for (size_t i = 0; i < TINY_WORDS; i++) {
            const int a = theirs[8 + 2 * i] | theirs[9 + 2 * i] << 8,
                      b = row[8 + 2 * i] | row[9 + 2 * i] << 8;
            assert_true(abs(a - b) <= 1);
        }
    }
    free(row);
    mb_logits_close(&file);
}

static void test_rows(void **state)
{
    (void)state;
    /* An odd vocabulary is padded; the span ends 16 below the best; equal logits have no scale. */
    const float logits[] = {3.0f, -1.0f, 2.5f, -40.0f, 3.0f}, same[] = {7.0f, 7.0f, 7.0f};
    uint8_t row[32];
    memset(row, 0xee, sizeof row);
    assert_int_equal(mb_logits_row_bytes(5), 8 + 12);
    assert_int_equal(mb_logits_row_bytes(4), 8 + 8);
    double sum = 0;
    for (size_t i = 0; i < 5; i++)
        sum += exp((double)logits[i]);
    mb_logits_encode(logits, log(sum), 5, row);
    struct mb_logits_file file = {.vocabulary = 5, .row_bytes = 20, .rows = row};
    float log_p[5];
    mb_logits_decode(&file, 0, log_p);
    for (size_t i = 0; i < 5; i++) {
        const double exact = (double)logits[i] - log(sum), floor = -13.0 - log(sum);
        assert_near((double)log_p[i], exact > floor ? exact : floor, 8.0 / 65535 + 2e-6);
    }
    assert_true(row[18] == 0 && row[19] == 0 && row[20] == 0xee);
    mb_logits_encode(same, 7.0 + log(3), 3, row);
    file = (struct mb_logits_file){.vocabulary = 3, .row_bytes = 16, .rows = row};
    mb_logits_decode(&file, 0, log_p);
    for (size_t i = 0; i < 3; i++)
        assert_near((double)log_p[i], -log(3), 1e-6);
}

/* llama.cpp's formula, done plainly: the stored probabilities as they are, those of e^-16 or less
 * left out. They don't sum to 1, and the formula shows it. */
static void test_score(void **state)
{
    (void)state;
    struct mb_windows windows;
    struct mb_reference *reference;
    struct mb_error error;
    struct mb_model *model = ns_open(TINY_MODEL);
    static float log_p[TINY_WORDS], y[TINY_WORDS], scratch[TINY_WORDS];
    assert_int_equal(mb_reference_open(GOLDEN ".base", model, 0, &windows, &reference, &error),
                     MB_OK);
    assert_int_equal(mb_reference_scratch(reference), TINY_WORDS);
    size_t left_out = 0, off = 0;
    for (size_t row = 0; row + 1 < 60; row++) {
        mb_logits_decode(&reference->file, row + 1, y);
        mb_logits_decode(&reference->file, row, log_p);
        double sum = 0, mass = 0, kl = 0;
        for (size_t i = 0; i < TINY_WORDS; i++) {
            y[i] = 0.8f * y[i] + 30.0f; /* logits have any level */
            sum += exp((double)y[i]);
        }
        size_t least = 0;
        for (size_t i = 0; i < TINY_WORDS; i++) {
            const double p = exp((double)log_p[i]);
            least = log_p[i] < log_p[least] ? i : least;
            left_out += !(log_p[i] > -16.0f);
            if (log_p[i] > -16.0f) {
                kl += p * ((double)log_p[i] - (double)y[i] + log(sum));
                mass += p;
            }
        }
        struct mb_row_score score;
        mb_reference_score(reference, mb_vector(), row, y, (int)least, scratch, &score);
        assert_near(score.kl, kl, 1e-9 * (1 + kl));
        assert_near(score.nll, log(sum) - (double)y[least], 1e-9);
        assert_true(score.reference_nll == -(double)log_p[least]);
        off += fabs(mass - 1) > 1e-7;
    }
    assert_true(left_out > 0 && off > 50);
    mb_reference_destroy(reference);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* What we write and read again is, up to the 16 bits, what is kept in memory. */
static void test_round_trip(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_threads *threads;
    struct mb_windows text, read;
    struct mb_reference *memory, *file;
    struct mb_model *model = ns_open(TINY_MODEL);
    const char *path = gb_scratch("base");
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    assert_int_equal(mb_windows_load(model, "models/heldout.txt", 64, 5, &text, &error), MB_OK);
    struct mb_network *base = ns_network(model, NULL, MB_NUMERICS_F32, threads);
    struct mb_evaluation plain = {.size = sizeof plain},
                         e[2] = {{.size = sizeof plain}, {.size = sizeof plain}};
    const struct mb_evaluate_options save = {
        .size = sizeof save, .windows = &text, .save_path = path};
    assert_int_equal(mb_evaluate_with(base, &save, &plain, &error), MB_OK);
    assert_int_equal(mb_reference_open(path, model, 0, &read, &file, &error), MB_OK);
    assert_int_equal(read.count, text.count);
    assert_memory_equal(read.tokens, text.tokens, text.count * 64 * sizeof *text.tokens);
    assert_int_equal(mb_reference_create(base, &text, NULL, &memory, &error), MB_OK);

    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q4_K);
    struct mb_network *mix = ns_network(model, formats, MB_NUMERICS_KERNEL, threads);
    assert_int_equal(mb_evaluate_against(mix, memory, &text, NULL, &e[0], &error), MB_OK);
    assert_int_equal(mb_evaluate_against(mix, file, &read, NULL, &e[1], &error), MB_OK);
    assert_near(e[1].reference_perplexity, plain.perplexity, 1e-4 * plain.perplexity);
    assert_near(e[1].kl_mean, e[0].kl_mean, 1e-5);
    assert_near(e[1].kl_median, e[0].kl_median, 5e-5);
    assert_near(e[1].same_top, e[0].same_top, 1.01 / (double)e[0].tokens);
    assert_true(e[1].perplexity == e[0].perplexity);
    mb_evaluation_free(&e[1]);
    /* A model and its own file: what the rounding alone makes. */
    assert_int_equal(mb_evaluate_against(base, file, &read, NULL, &e[1], &error), MB_OK);
    assert_true(fabs(e[1].kl_mean) < 1e-5 && e[1].kl_max < 1e-3);
    assert_true(e[1].same_top > 0.99);
    mb_evaluation_free(&plain);
    mb_evaluation_free(&e[0]);
    mb_evaluation_free(&e[1]);
    free(formats);
    mb_network_destroy(mix);
    mb_network_destroy(base);
    mb_reference_destroy(memory);
    mb_reference_destroy(file);
    mb_windows_free(&text);
    mb_windows_free(&read);
    assert_int_equal(remove(path), 0);
    mb_model_close(model);
    mb_threads_destroy(threads);
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
    struct mb_error error;
    struct mb_model *model = ns_open(TINY_MODEL), *odd = ns_open(ODD_MODEL);
    struct mb_network *other = ns_network(odd, NULL, MB_NUMERICS_F32, NULL);
    struct mb_windows windows, many = ns_windows(200, 40, 64);
    struct mb_reference *reference;
    struct mb_evaluation e = {.size = sizeof e};
    /* A file of another vocabulary. */
    assert_int_equal(mb_reference_open(GOLDEN ".base", model, 0, &windows, &reference, &error),
                     MB_OK);
    assert_int_equal(mb_evaluate_against(other, reference, &windows, NULL, &e, &error),
                     MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "2048"));
    assert_non_null(strstr(error.message, "64"));
    mb_reference_destroy(reference);
    mb_windows_free(&windows);
    /* Interrupted, or nowhere to write: no file. */
    int calls = 0;
    const struct mb_progress progress = {stop, &calls};
    const char *path = gb_scratch("base");
    struct mb_evaluate_options save = {
        .size = sizeof save, .windows = &many, .save_path = path, .progress = &progress};
    assert_int_equal(mb_evaluate_with(other, &save, &e, &error), MB_ERR_INTERRUPTED);
    assert_int_not_equal(remove(path), 0);
    save.progress = NULL;
    save.save_path = "/dev/null/base";
    assert_int_equal(mb_evaluate_with(other, &save, &e, &error), MB_ERR_IO);
    assert_null(e.window_kl);
    mb_windows_free(&many);
    mb_network_destroy(other);
    mb_model_close(odd);
    mb_model_close(model);
}

/* Two windows of 5 tokens (2 scored each) and 3 words. */
static void build(struct builder *b)
{
    gb_bytes(b, "_logits_", 8);
    gb_u32(b, 5), gb_u32(b, 3), gb_u32(b, 2);
    for (uint32_t i = 0; i < 10; i++)
        gb_u32(b, i % 3);
    for (size_t row = 0; row < 4; row++) {
        static const float logits[] = {1, 2, 3};
        uint8_t stored[16];
        mb_logits_encode(logits, 3.4076059644443806, 3, stored);
        gb_bytes(b, stored, sizeof stored);
    }
}

static void refuse(const struct builder *b, const char *wanted)
{
    struct mb_logits_file file;
    struct mb_error error = {.message = ""};
    const char *path = gb_scratch("case");
    gb_save(b, path);
    const enum mb_status status = mb_logits_open(path, &file, &error);
    assert_null(file.mapping.data);
    if (status != MB_ERR_FILE || strstr(error.message, wanted) == NULL ||
        strstr(error.message, path) == NULL)
        fail_msg("status %d: '%s' (wanted '%s')", (int)status, error.message, wanted);
    assert_int_equal(remove(path), 0);
}

static void test_damage(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint32_t value;
        const char *wanted;
    } rows[] = {{0, 0x676f6c2e, "no file of log-probabilities"},
                {8, 0, "claims"},
                {8, 3, "claims"},
                {8, 0xffffffff, "claims"},
                {12, 0, "claims"},
                {12, 0x80000000, "claims"},
                {16, 0, "claims"},
                {8, 6, "need"},
                {12, 5, "need"},
                {12, 0x7fffffff, "need"},
                {16, 3, "need"},
                {16, 0x7fffffff, "need"},
                {60, 0x7fc00000, "row 0 of window 0"},  /* a scale that is no number */
                {76, 0xbf800000, "row 1 of window 0"},  /* below 0 */
                {92, 0x7f800000, "row 0 of window 1"},  /* infinite */
                {96, 0x3f800000, "row 0 of window 1"},  /* e^1 is no probability */
                {112, 0xff800000, "row 1 of window 1"}, /* ln 0 is not stored */
                {108, 0x3f800000, "row 1 of window 1"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct builder b = {NULL, 0, 0};
        build(&b);
        gb_poke(&b, rows[i].at, rows[i].value, 4);
        refuse(&b, rows[i].wanted);
        gb_free(&b);
    }
    struct builder b = {NULL, 0, 0};
    build(&b);
    gb_u32(&b, 0); /* more than there should be */
    refuse(&b, "need");
    gb_free(&b);
}

static int run_mutation(const char *path, const void *user)
{
    (void)user;
    return exercise_logits(path);
}

static void test_mutations(void **state)
{
    (void)state;
    struct builder b = {NULL, 0, 0};
    build(&b);
    assert_int_equal(exercise_logits("tests/fuzz/seeds/logits.base"), 1);
    const struct mutations m = {b.data, b.bytes, 0, run_mutation, NULL};
    assert_int_equal(mutation_try(&m, b.data, b.bytes), 1);
    assert_int_equal(mutation_truncate(&m), 0);
    mutation_extremes(&m);
    mutation_flips(&m);
    gb_free(&b);
}

static int remove_scratch(void **state)
{
    (void)state;
    return remove(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_perplexity),
        cmocka_unit_test(test_encoder),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_stops_and_refusals),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
