/* SPDX-License-Identifier: Apache-2.0 */
/* Imatrix files and what importance does. Oracles: llama-imatrix's files
 * (scripts/make_golden_files.py), files made by hand, mb_quantize row by row, and the file that
 * mb_convert writes beside the mix in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fuzz/exercise.h"
#include "unit/gguf_builder.h"
#include "unit/network_support.h"

#include "fuzz/mutations.h"

#define EXPERTS_MODEL "tests/golden/logits/odd-qwen3moe.gguf"
#define GOLDEN "tests/golden/imatrix/tiny-llama"
enum { EXPERTS = 5, WIDTH = 32, GOLDEN_CHUNKS = 8, GOLDEN_WINDOW = 256 };

static struct mb_importance *load(const char *path, const struct mb_model *model)
{
    struct mb_importance *importance = NULL;
    struct mb_error error;
    if (mb_importance_load(path, model, &importance, &error) != MB_OK)
        fail_msg("%s", error.message);
    return importance;
}

static struct mb_importance *collect(struct mb_model *model, const struct mb_windows *windows,
                                     struct mb_threads *threads)
{
    struct mb_importance *importance = NULL;
    struct mb_error error;
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, threads);
    if (mb_importance_collect(network, windows, NULL, &importance, &error) != MB_OK)
        fail_msg("%s", error.message);
    mb_network_destroy(network);
    return importance;
}

static const float *const *weights_of(const struct mb_importance *importance)
{
    return (const float *const *)importance->weights;
}

static size_t index_of(const struct mb_model *model, const char *name)
{
    const struct mb_tensor *tensor = mb_model_tensor_find(model, name);
    assert_non_null(tensor);
    return (size_t)(tensor - mb_model_tensor_at(model, 0));
}

/* ---- against llama-imatrix ---- */

/* llama.cpp's activations are rounded to f16 for the products of an f16 model. */
static void test_llama_imatrix(void **state)
{
    (void)state;
    struct mb_threads *threads;
    struct mb_windows windows;
    struct mb_error error;
    struct mb_model *model = ns_open(TINY_MODEL);
    assert_int_equal(mb_threads_create(0, &threads), MB_OK);
    assert_int_equal(
        mb_windows_load(model, "models/calib.txt", GOLDEN_WINDOW, GOLDEN_CHUNKS, &windows, &error),
        MB_OK);
    struct mb_importance *ours = collect(model, &windows, threads),
                         *theirs = load(GOLDEN ".imatrix.gguf", model),
                         *older = load(GOLDEN ".imatrix.dat", model);
    assert_int_equal(theirs->chunks, GOLDEN_CHUNKS);
    assert_int_equal(theirs->chunk, GOLDEN_WINDOW);
    assert_int_equal(older->chunks, GOLDEN_CHUNKS);
    size_t compared = 0;
    for (size_t i = 0; i < ours->tensor_count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        assert_true((ours->weights[i] != NULL) == (theirs->weights[i] != NULL));
        assert_true((ours->weights[i] != NULL) == (older->weights[i] != NULL));
        if (ours->weights[i] == NULL)
            continue;
        assert_int_equal(theirs->rows[i][0], GOLDEN_CHUNKS * GOLDEN_WINDOW);
        assert_int_equal(ours->rows[i][0], GOLDEN_CHUNKS * GOLDEN_WINDOW);
        double sum = 0, all = 0;
        for (size_t c = 0; c < tensor->k; c++) {
            const double a = (double)ours->weights[i][c], b = (double)theirs->weights[i][c];
            if (fabs(a - b) > 0.01 * b || fabs((double)older->weights[i][c] - b) > 1e-5 * b)
                fail_msg("%s, column %zu: %g, llama-imatrix %g, its older file %g", tensor->name, c,
                         a, b, (double)older->weights[i][c]);
            sum += a;
            all += b;
        }
        assert_true(fabs(sum - all) < 2e-3 * all);
        compared++;
    }
    assert_int_equal(compared, 6 * 7 + 1);
    mb_importance_free(ours);
    mb_importance_free(theirs);
    mb_importance_free(older);
    mb_windows_free(&windows);
    mb_model_close(model);
    mb_threads_destroy(threads);
}

/* ---- experts ---- */

static void test_experts(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_windows windows = ns_windows(3, 30, 64);
    struct mb_importance *importance = collect(model, &windows, NULL);
    const size_t gate = index_of(model, "blk.0.ffn_gate_exps.weight"),
                 up = index_of(model, "blk.0.ffn_up_exps.weight"),
                 router = index_of(model, "blk.0.ffn_gate_inp.weight");
    const float *w = importance->weights[gate];
    size_t rows = 0;
    assert_null(importance->weights[router]); /* never quantized */
    for (size_t e = 0; e < EXPERTS; e++) {
        rows += importance->rows[gate][e];
        assert_int_equal(importance->rows[gate][e], importance->rows[up][e]);
        assert_memory_equal(w + e * WIDTH, importance->weights[up] + e * WIDTH,
                            WIDTH * sizeof *w); /* the same input */
        if (e > 0)
            assert_memory_not_equal(w, w + e * WIDTH, WIDTH * sizeof *w);
    }
    assert_int_equal(rows, 3 * 90); /* three experts for each of the rows */
    mb_importance_free(importance);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* What was collected is what is read again; the sums are f32. */
static void test_round_trip(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_windows windows = ns_windows(2, 20, 64);
    struct mb_importance *made = collect(model, &windows, NULL);
    /* An expert that no row reached. */
    const size_t down = index_of(model, "blk.1.ffn_down_exps.weight");
    made->rows[down][3] = 0;
    const char *path = gb_scratch("imatrix.gguf");
    assert_int_equal(mb_importance_save(made, model, path, "some text", &error), MB_OK);
    struct mb_importance *read = load(path, model);
    for (size_t i = 0; i < made->tensor_count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        assert_true((made->weights[i] != NULL) == (read->weights[i] != NULL));
        for (size_t c = 0; made->weights[i] != NULL && c < mb_tensor_matrices(tensor) * tensor->k;
             c++) {
            const bool none = i == down && c / tensor->k == 3;
            const double expected = none ? 1.0 : (double)made->weights[i][c];
            assert_int_equal(read->rows[i][c / tensor->k], made->rows[i][c / tensor->k]);
            assert_true(fabs((double)read->weights[i][c] - expected) <= 1.3e-7 * expected);
        }
    }
    assert_int_equal(read->chunks, 2);
    assert_int_equal(read->chunk, 20);
    assert_string_equal(read->text_hash, windows.text_hash);
    /* As a GGUF: what llama.cpp looks for. */
    struct mb_model *file = ns_open(path);
    size_t bytes;
    assert_string_equal(mb_model_string(file, "general.type", ""), "imatrix");
    assert_int_equal(mb_model_array_count(file, "imatrix.datasets"), 1);
    const char *dataset = mb_model_array_string(file, "imatrix.datasets", 0, &bytes);
    assert_int_equal(bytes, strlen("some text"));
    assert_memory_equal(dataset, "some text", bytes);
    const struct mb_tensor *sums = mb_model_tensor_find(file, "blk.1.ffn_down_exps.weight.in_sum2"),
                           *counts =
                               mb_model_tensor_find(file, "blk.1.ffn_down_exps.weight.counts");
    assert_true(sums != NULL && sums->ne[0] == WIDTH && sums->ne[1] == EXPERTS);
    assert_true(counts != NULL && counts->ne[0] == 1 && counts->ne[1] == EXPERTS);
    mb_model_close(file);
    assert_int_equal(remove(path), 0);
    mb_importance_free(made);
    mb_importance_free(read);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* ---- use ---- */

/* The mix in memory, the file, and every expert's rows by its own weights: the same bits. */
static void test_mix_equals_file(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_threads *threads;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_windows windows = ns_windows(2, 30, 64);
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    struct mb_importance *importance = collect(model, &windows, NULL);
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_Q4_0);
    const char *path = gb_scratch("mix.gguf");
    const struct mb_convert_options options = {
        .size = sizeof options, .threads = threads, .importance = weights_of(importance)};
    assert_int_equal(mb_convert(model, formats, path, &options, &error), MB_OK);
    struct mb_model *written = ns_open(path);

    const size_t down = index_of(model, "blk.0.ffn_down_exps.weight");
    const struct mb_tensor *from = mb_model_tensor_at(model, down),
                           *to = mb_model_tensor_at(written, down);
    const size_t row_bytes = mb_format_row_bytes(MB_FORMAT_Q4_0, WIDTH);
    uint8_t *one = malloc(WIDTH * row_bytes);
    size_t differing = 0;
    for (size_t e = 0; e < EXPERTS; e++) {
        const float *rows = (const float *)from->data + e * WIDTH * WIDTH;
        const uint8_t *stored = (const uint8_t *)to->data + e * WIDTH * row_bytes;
        assert_int_equal(mb_quantize(MB_FORMAT_Q4_0, rows, WIDTH, WIDTH,
                                     importance->weights[down] + e * WIDTH, one),
                         MB_OK);
        assert_memory_equal(stored, one, WIDTH * row_bytes);
        assert_int_equal(mb_quantize(MB_FORMAT_Q4_0, rows, WIDTH, WIDTH, NULL, one), MB_OK);
        differing += memcmp(stored, one, WIDTH * row_bytes) != 0;
    }
    assert_int_equal(differing, EXPERTS); /* or importance would show nowhere */
    free(one);

    struct mb_network *mix = NULL, *file = ns_network(written, NULL, MB_NUMERICS_KERNEL, threads);
    assert_int_equal(mb_network_create_mix(model, formats, weights_of(importance),
                                           MB_NUMERICS_KERNEL, threads, NULL, &mix, &error),
                     MB_OK);
    float *a = ns_run(mix, &windows, 0, 64), *b = ns_run(file, &windows, 0, 64);
    assert_memory_equal(a, b, 60 * 64 * sizeof *a);
    free(a);
    free(b);
    mb_network_destroy(mix);
    mb_network_destroy(file);
    mb_model_close(written);
    assert_int_equal(remove(path), 0);
    free(formats);
    mb_importance_free(importance);
    mb_windows_free(&windows);
    mb_model_close(model);
    mb_threads_destroy(threads);
}

/* Sensing with importance: another journal, another table, and it says which. */
static void test_sense(void **state)
{
    (void)state;
    struct mb_error error;
    char journal[64], hash[33];
    ns_temporary(journal);
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_windows windows = ns_windows(2, 16, 64);
    struct mb_importance *importance = collect(model, &windows, NULL);
    const enum mb_format formats[] = {MB_FORMAT_Q4_0};
    struct mb_sensitivity *table[2];
    struct mb_sense_options options = {
        .size = sizeof options, .windows = &windows, .formats = formats, .format_count = 1};
    for (size_t i = 0; i < 2; i++) {
        options.importance = i > 0 ? weights_of(importance) : NULL;
        assert_int_equal(mb_sense(model, &options, &table[i], &error), MB_OK);
    }
    mb_importance_hash(model, weights_of(importance), hash);
    assert_string_equal(hash, importance->hash);
    assert_string_equal(table[0]->importance_hash, "");
    assert_string_equal(table[1]->importance_hash, hash);
    size_t differing = 0;
    for (size_t u = 0; u < table[0]->unit_count; u++)
        differing += table[0]->losses[u].mean != table[1]->losses[u].mean;
    assert_true(differing > table[0]->unit_count / 2);
    /* A journal of the one is none of the other. */
    mb_sensitivity_free(table[1]);
    options.journal_path = journal;
    assert_int_equal(mb_sense(model, &options, &table[1], &error), MB_OK);
    options.importance = NULL;
    struct mb_sensitivity *none = NULL;
    assert_int_equal(mb_sense(model, &options, &none, &error), MB_ERR_STALE);
    (void)remove(journal);
    mb_sensitivity_free(table[0]);
    mb_sensitivity_free(table[1]);
    mb_importance_free(importance);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* An expert's error counts by what it adds to the output: its rows times their mean squares. */
static void test_weight_error(void **state)
{
    (void)state;
    struct mb_error error;
    struct mb_sensitivity *table = NULL;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_windows windows = ns_windows(2, 16, 64);
    struct mb_importance *activations = collect(model, &windows, NULL);
    const enum mb_format format = MB_FORMAT_Q4_0;
    const struct mb_sense_options options = {.size = sizeof options,
                                             .windows = &windows,
                                             .formats = &format,
                                             .format_count = 1,
                                             .method = MB_METHOD_WEIGHT_ERROR};
    assert_int_equal(mb_sense(model, &options, &table, &error), MB_OK);
    const size_t down = index_of(model, "blk.0.ffn_down_exps.weight");
    const struct mb_tensor *tensor = mb_model_tensor_at(model, down);
    const float *w = tensor->data;
    float *v = malloc(tensor->n * tensor->k * sizeof *v);
    uint8_t *stored = malloc(tensor->n * mb_format_row_bytes(format, tensor->k));
    assert_int_equal(mb_quantize(format, w, tensor->n, tensor->k, NULL, stored), MB_OK);
    assert_int_equal(mb_dequantize(format, stored, tensor->n, tensor->k, v), MB_OK);
    double lost = 0, all = 0;
    for (size_t i = 0; i < tensor->n * tensor->k; i++) {
        const size_t e = i / (WIDTH * WIDTH), c = i % WIDTH;
        const double weight =
            (double)activations->weights[down][e * WIDTH + c] * (double)activations->rows[down][e];
        lost += weight * pow((double)w[i] - (double)v[i], 2);
        all += weight * pow((double)w[i], 2);
    }
    const struct mb_loss *loss = mb_sensitivity_at(table, tensor->name, format);
    assert_true(loss != NULL && fabs(loss->mean - lost / all) < 1e-5 * loss->mean);
    free(v);
    free(stored);
    mb_sensitivity_free(table);
    mb_importance_free(activations);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* ---- files by hand ---- */

/* An entry of a stack of experts: its sums are 1, 2, 3 ... in every expert. */
struct hand {
    const char *name, *type;
    uint64_t k, matrices, counts;
    float count[8];
    uint32_t sums_type;
    bool no_counts, no_sums;
    float spoiled; /* instead of the second sum, unless 0 */
};

static void put_float(struct builder *b, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gb_u32(b, bits);
}

static void build_gguf(struct builder *b, const struct hand *hand)
{
    char name[128];
    const uint64_t sums[2] = {hand->k, hand->matrices}, counts[2] = {1, hand->counts};
    gb_header(b, 3, 2 - hand->no_counts - hand->no_sums, 1);
    gb_pair_string(b, "general.type", hand->type);
    const uint64_t at = hand->no_sums ? 0 : (hand->k * hand->matrices * 4 + 31) / 32 * 32;
    (void)snprintf(name, sizeof name, "%s.in_sum2", hand->name);
    if (!hand->no_sums)
        gb_tensor(b, name, 2, sums, hand->sums_type, 0);
    (void)snprintf(name, sizeof name, "%s.counts", hand->name);
    if (!hand->no_counts)
        gb_tensor(b, name, 2, counts, 0, at);
    gb_pad(b, 32);
    for (uint64_t i = 0; !hand->no_sums && i < hand->k * hand->matrices; i++)
        put_float(b, i == 1 && hand->spoiled != 0 ? hand->spoiled : (float)(i % hand->k + 1));
    gb_pad(b, 32);
    for (uint64_t i = 0; !hand->no_counts && i < hand->counts; i++)
        put_float(b, hand->count[i]);
    gb_pad(b, 32);
}

#define STACK "blk.0.ffn_up_exps.weight"
static const struct hand right = {.name = STACK,
                                  .type = "imatrix",
                                  .k = WIDTH,
                                  .matrices = EXPERTS,
                                  .counts = EXPERTS,
                                  .count = {1, 2, 0, 4, 0.6f}};

static void test_counts(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    const size_t stack = index_of(model, STACK);
    struct hand hand = right;
    for (size_t single = 0; single < 2; single++) {
        struct builder b = {NULL, 0, 0};
        if (single) { /* older GGUFs have one count for all */
            hand.counts = 1;
            hand.count[0] = 4;
        }
        build_gguf(&b, &hand);
        const char *path = gb_scratch("hand.gguf");
        gb_save(&b, path);
        struct mb_importance *importance = load(path, model);
        static const double divisors[2][EXPERTS] = {{1, 2, 0, 4, 1}, {4, 4, 4, 4, 4}};
        for (size_t e = 0; e < EXPERTS; e++)
            for (size_t c = 0; c < WIDTH; c++) {
                const double by = divisors[single][e];
                const double expected = by > 0 ? (double)(c + 1) / by : 1.0;
                assert_true((double)importance->weights[stack][e * WIDTH + c] == expected);
            }
        assert_int_equal(importance->rows[stack][2], single ? 4 : 0);
        mb_importance_free(importance);
        assert_int_equal(remove(path), 0);
        gb_free(&b);
    }
    mb_model_close(model);
}

static void refuse(const struct builder *b, const struct mb_model *model, const char *wanted)
{
    struct mb_importance *importance = NULL;
    struct mb_error error = {.message = ""};
    const char *path = gb_scratch("case");
    gb_save(b, path);
    const enum mb_status status = mb_importance_load(path, model, &importance, &error);
    assert_null(importance);
    if (status != MB_ERR_FILE || strstr(error.message, wanted) == NULL ||
        strstr(error.message, path) == NULL)
        fail_msg("status %d: '%s' (wanted '%s')", (int)status, error.message, wanted);
    assert_int_equal(remove(path), 0);
}

static void test_refusals(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct {
        struct hand hand;
        const char *wanted;
    } rows[] = {{right, "type 'model'"},         {right, "has sums and no counts"},
                {right, "has no sums"},          {right, "another model"},
                {right, "another model"},        {right, "3 counts for 5 matrices"},
                {right, "must be f32"},          {right, "sum of squares"},
                {right, "sum of squares"},       {right, "sum of squares"},
                {right, "count of -1"},          {right, "count of inf"},
                {right, "none of its 1 entries"}};
    rows[0].hand.type = "model";
    rows[1].hand.no_counts = true;
    rows[2].hand.no_sums = true;
    rows[3].hand.k = 64;
    rows[4].hand.matrices = 4;
    rows[5].hand.counts = 3;
    rows[6].hand.sums_type = 26; /* i32 */
    rows[7].hand.spoiled = -1.0f;
    rows[8].hand.spoiled = INFINITY;
    rows[9].hand.spoiled = NAN;
    rows[10].hand.count[1] = -1.0f;
    rows[11].hand.count[1] = INFINITY;
    rows[12].hand.name = "blk.99.ffn_up.weight";
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct builder b = {NULL, 0, 0};
        build_gguf(&b, &rows[i].hand);
        refuse(&b, model, rows[i].wanted);
        gb_free(&b);
    }
    mb_model_close(model);
}

/* ---- the older binary ---- */

static void put_entry(struct builder *b, const char *name, uint32_t calls, uint32_t values)
{
    gb_u32(b, (uint32_t)strlen(name));
    gb_bytes(b, name, strlen(name));
    gb_u32(b, calls);
    gb_u32(b, values);
    for (uint32_t i = 0; i < values; i++)
        put_float(b, (float)(i + 1));
}

static void build_binary(struct builder *b)
{
    gb_u32(b, 3);
    put_entry(b, STACK, 2, EXPERTS * WIDTH);
    put_entry(b, "blk.0.attn_q.weight", 0, WIDTH);
    put_entry(b, "blk.7.attn_q.weight", 3, 5); /* of no tensor of the model */
    gb_u32(b, 12);
    gb_u32(b, 4);
    gb_bytes(b, "text", 4);
}

static void test_binary(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct builder b = {NULL, 0, 0};
    build_binary(&b);
    const char *path = gb_scratch("older.dat");
    gb_save(&b, path);
    struct mb_importance *importance = load(path, model);
    const float *stack = importance->weights[index_of(model, STACK)],
                *q = importance->weights[index_of(model, "blk.0.attn_q.weight")];
    for (size_t i = 0; i < EXPERTS * WIDTH; i++)
        assert_true(stack[i] == (float)(i + 1) / 2);
    for (size_t i = 0; i < WIDTH; i++)
        assert_true(q[i] == (float)(i + 1)); /* no calls: as it is */
    assert_int_equal(importance->chunks, 12);
    mb_importance_free(importance);
    gb_save_bytes(path, b.data, b.bytes - 12); /* what is behind the entries may be missing */
    importance = load(path, model);
    assert_int_equal(importance->chunks, 0);
    mb_importance_free(importance);
    assert_int_equal(remove(path), 0);

    struct builder bad = {NULL, 0, 0};
    gb_bytes(&bad, "", 0);
    refuse(&bad, model, "neither");
    gb_bytes(&bad, "a text, and no imatrix", 22);
    refuse(&bad, model, "neither");
    gb_free(&bad);
    gb_u32(&bad, 2);
    put_entry(&bad, STACK, 2, EXPERTS * WIDTH);
    put_entry(&bad, STACK, 2, EXPERTS * WIDTH);
    refuse(&bad, model, "occurs twice");
    gb_free(&bad);
    gb_u32(&bad, 1);
    put_entry(&bad, "blk.0.attn_q.weight", 1, WIDTH + 1);
    refuse(&bad, model, "another model");
    gb_free(&bad);
    gb_free(&b);
    mb_model_close(model);
}

/* ---- mutations ---- */

static int run_mutation(const char *path, const void *user) { return exercise_imatrix(path, user); }

static void test_mutations(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    assert_int_equal(exercise_imatrix("tests/fuzz/seeds/imatrix.gguf", model), 1);
    assert_int_equal(exercise_imatrix("tests/fuzz/seeds/imatrix.dat", model), 1);
    struct builder b = {NULL, 0, 0};
    build_gguf(&b, &right);
    struct mutations m = {b.data, b.bytes, 280, run_mutation, model};
    assert_int_equal(mutation_try(&m, b.data, b.bytes), 1);
    assert_int_equal(mutation_truncate(&m), 32 - 4 * EXPERTS); /* the padding at the end */
    mutation_extremes(&m);
    mutation_flips(&m);
    gb_free(&b);

    build_binary(&b);
    m = (struct mutations){b.data, b.bytes, 0, run_mutation, model};
    assert_int_equal(mutation_try(&m, b.data, b.bytes), 1);
    assert_int_equal(mutation_truncate(&m), 12); /* what is behind the entries */
    mutation_extremes(&m);
    mutation_flips(&m);
    gb_free(&b);
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
        cmocka_unit_test(test_llama_imatrix), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_mix_equals_file),
        cmocka_unit_test(test_weight_error),  cmocka_unit_test(test_sense),
        cmocka_unit_test(test_counts),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_binary),        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, remove_scratch);
}
