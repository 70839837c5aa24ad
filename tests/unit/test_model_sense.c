/* SPDX-License-Identifier: Apache-2.0 */
/* Sensing. Oracles: a full forward pass with the tensor replaced (the mix that is written to
 * files), bit for bit for restarts, and KL divergence computed plainly in f64 from its logits for
 * the table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/probe.h"
#include "model/statistics.h"
#include "model/vector.h"
#include "support/support.h"
#include "unit/network_support.h"

enum { VOCABULARY = 64, WINDOWS = 7, WINDOW = 22 };

static enum mb_format *only(const struct mb_model *model, size_t tensor, enum mb_format format)
{
    const size_t count = mb_model_tensor_count(model);
    enum mb_format *formats = malloc(count * sizeof *formats);
    for (size_t i = 0; i < count; i++)
        formats[i] =
            i == tensor ? mb_format_fit(format, mb_model_tensor_at(model, i)->k) : MB_FORMAT_NONE;
    return formats;
}

/* ---- restarts ---- */

/* KL of every scored row from two full passes, with the arithmetic of the library. */
static void full_kl(const struct mb_prober *prober, const float *base, const float *changed,
                    double *kl)
{
    const size_t *offsets = mb_prober_offsets(prober);
    const struct mb_vector *vector = mb_vector();
    for (size_t w = 0; w < WINDOWS; w++)
        for (size_t i = offsets[w]; i < offsets[w + 1]; i++) {
            const size_t row = w * WINDOW + mb_prober_position(prober, i);
            struct mb_row_score score;
            mb_score_row(vector, changed + row * VOCABULARY, base + row * VOCABULARY,
                         vector->log_sum_exp(base + row * VOCABULARY, VOCABULARY), VOCABULARY, -1,
                         &score);
            kl[i] = score.kl;
        }
}

/* With one tensor quantized and floats around it, a network of either numerics is what its probe
 * stands for. What products' outputs change by, `errors` [matrix], is the same however much is
 * kept: made with the most, compared with less. */
static void check_probes(struct mb_model *model, struct mb_network *network,
                         const struct mb_windows *windows, enum mb_numerics numerics, size_t limit,
                         int economy, double *errors)
{
    struct mb_prober *prober;
    struct mb_error error;
    const struct mb_prober_options options = {
        .windows = windows, .score_tokens = 50, .memory_limit_bytes = limit};
    if (mb_prober_create(network, &options, &prober, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_int_equal(mb_prober_economy(prober), economy);
    assert_int_equal(mb_prober_tokens(prober), 50);
    float *base = ns_run(network, windows, 0, VOCABULARY);
    double kl[50], expected[50], total = 0;
    /* Matrices were listed in the order in which a token meets them. */
    for (size_t m = 0; m < network->matrix_count; m++) {
        const struct mb_target target = mb_target_of(network, m);
        enum mb_format *formats = only(model, network->matrices[m].tensor, MB_FORMAT_Q4_0);
        struct mb_network *mixed = ns_network(model, formats, numerics, NULL);
        float *changed = ns_run(mixed, windows, 0, VOCABULARY);
        struct mb_requantized weights;
        full_kl(prober, base, changed, expected);
        assert_int_equal(mb_prober_seek(prober, &target, &error), MB_OK);
        assert_int_equal(mb_requantize(network, m, formats[network->matrices[m].tensor], numerics,
                                       NULL, NULL, NULL, 0, &weights, &error),
                         MB_OK);
        if (target.kind == MB_TARGET_PRODUCT) {
            double changes;
            assert_int_equal(
                mb_prober_product_error(prober, &target, &weights.replacement, &changes, &error),
                MB_OK);
            if (economy == 0)
                errors[m] = changes;
            assert_true(changes > 0 && changes < 1 && changes == errors[m]);
        }
        memset(kl, 0xff, sizeof kl);
        assert_int_equal(
            mb_prober_run(prober, &target, &weights.replacement, NULL, NULL, kl, &error), MB_OK);
        assert_memory_equal(kl, expected, sizeof kl);
        for (size_t i = 0; i < 50; i++)
            total += kl[i];
        mb_requantized_free(&weights);
        mb_network_destroy(mixed);
        free(changed);
        free(formats);
    }
    assert_true(total > 0.1);
    free(base);
    mb_prober_destroy(prober);
}

static void test_restarts(void **state)
{
    (void)state;
    static const char *const odds[] = {"llama", "granitehybrid", "mamba2", "mamba",
                                       "qwen3", "qwen3moe",      "gemma3"};
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    for (size_t i = 0; i < sizeof odds / sizeof odds[0]; i++) {
        char path[96];
        snprintf(path, sizeof path, "tests/golden/logits/odd-%s.gguf", odds[i]);
        struct mb_model *model = ns_open(path);
        struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, threads);
        /* What is kept at the least: the residual stream of all rows, its end of those scored. */
        const size_t least = (WINDOWS * WINDOW + 50) * network->width * sizeof(float),
                     logits = 50 * VOCABULARY * sizeof(float);
        double *errors = calloc(network->matrix_count, sizeof *errors);
        const size_t limits[] = {0, least + logits, least};
        for (int numerics = 0; numerics < 2; numerics++)
            for (int economy = 0; economy < 3; economy++)
                check_probes(model, network, &windows, (enum mb_numerics)numerics, limits[economy],
                             economy, errors);
        free(errors);
        mb_network_destroy(network);
        mb_model_close(model);
    }
    mb_threads_destroy(threads);
    mb_windows_free(&windows);
}

/* The embedded model has what the odd one lacks: an output matrix of its own. */
static void test_untied_output(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(2, 16, 2048);
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_prober *prober;
    struct mb_error error;
    const struct mb_prober_options options = {.windows = &windows};
    assert_int_equal(mb_prober_create(network, &options, &prober, &error), MB_OK);
    assert_int_equal(mb_prober_tokens(prober), 2 * 7);
    float *base = ns_run(network, &windows, 0, 2048);
    const size_t matrices[] = {network->embedding, network->output};
    for (size_t i = 0; i < 2; i++) {
        const struct mb_target target = mb_target_of(network, matrices[i]);
        assert_int_equal(target.kind, i ? MB_TARGET_HEAD : MB_TARGET_EMBEDDING);
        enum mb_format *formats =
            only(model, network->matrices[matrices[i]].tensor, MB_FORMAT_Q2_K);
        struct mb_network *mixed = ns_network(model, formats, MB_NUMERICS_F32, NULL);
        float *changed = ns_run(mixed, &windows, 0, 2048);
        struct mb_requantized weights;
        double kl[14], total = 0;
        assert_int_equal(mb_requantize(network, matrices[i], MB_FORMAT_Q2_K, MB_NUMERICS_F32, NULL,
                                       NULL, NULL, 0, &weights, &error),
                         MB_OK);
        assert_int_equal(
            mb_prober_run(prober, &target, &weights.replacement, NULL, NULL, kl, &error), MB_OK);
        for (size_t r = 0; r < 14; r++) {
            const size_t row = r / 7 * 16 + mb_prober_position(prober, r);
            const double expected = ns_kl(base + row * 2048, changed + row * 2048, 2048);
            assert_true(fabs(kl[r] - expected) < 1e-10 + 1e-9 * expected);
            total += kl[r];
        }
        assert_true(total > 0.05);
        mb_requantized_free(&weights);
        mb_network_destroy(mixed);
        free(changed);
        free(formats);
    }
    free(base);
    mb_prober_destroy(prober);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- the table ---- */

static const enum mb_format candidates[] = {MB_FORMAT_Q8_0, MB_FORMAT_Q4_0, MB_FORMAT_Q4_K,
                                            MB_FORMAT_Q5_0, MB_FORMAT_F32};
enum { CANDIDATES = sizeof candidates / sizeof candidates[0] };

static struct mb_sense_options sense_options(const struct mb_windows *windows)
{
    return (struct mb_sense_options){.size = sizeof(struct mb_sense_options),
                                     .numerics = MB_NUMERICS_F32,
                                     .windows = windows,
                                     .formats = candidates,
                                     .format_count = CANDIDATES};
}

static struct mb_sensitivity *sense(struct mb_model *model, const struct mb_sense_options *options)
{
    struct mb_sensitivity *table = NULL;
    struct mb_error error;
    if (mb_sense(model, options, &table, &error) != MB_OK)
        fail_msg("%s", error.message);
    return table;
}

/* Mean over the second halves and the interval over windows, plainly. */
static void expect_loss(const struct mb_windows *windows, const float *base, const float *changed,
                        struct mb_loss *loss)
{
    const size_t half = WINDOW / 2, scored = WINDOW - 1 - half;
    double means[WINDOWS] = {0}, mean = 0, squares = 0;
    for (size_t w = 0; w < windows->count; w++) {
        for (size_t t = half; t + 1 < WINDOW; t++) {
            const size_t at = (w * WINDOW + t) * VOCABULARY;
            means[w] += ns_kl(base + at, changed + at, VOCABULARY) / (double)scored;
        }
        mean += means[w] / WINDOWS;
    }
    for (size_t w = 0; w < WINDOWS; w++)
        squares += (means[w] - mean) * (means[w] - mean);
    const double half_width = 2.4469 * sqrt(squares / (WINDOWS - 1) / WINDOWS); /* t of 6 */
    loss->mean = mean;
    loss->low = fmax(0, mean - half_width);
    loss->high = mean + half_width;
}

static void check_table(enum mb_numerics numerics)
{
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_sense_options options = sense_options(&windows);
    options.numerics = numerics;
    struct mb_sensitivity *table = sense(model, &options);
    assert_int_equal(table->unit_count, 15);
    assert_int_equal(table->format_count, CANDIDATES);
    assert_int_equal(table->windows, WINDOWS);
    assert_int_equal(table->window, WINDOW);
    assert_int_equal(table->tokens, WINDOWS * 10);
    assert_string_equal(table->model_hash, mb_model_hash(model));
    assert_string_equal(table->text_hash, "hand-made");
    assert_string_equal(table->method, "kl");
    assert_string_equal(table->numerics, mb_numerics_name(numerics));
    assert_true(table->noise_floor >= 0 && table->noise_floor < 1e-12);

    float *base = ns_run(network, &windows, 0, VOCABULARY);
    for (size_t u = 0; u < table->unit_count; u++) {
        const struct mb_tensor *tensor = mb_model_tensor_find(model, table->units[u]);
        assert_non_null(tensor);
        const size_t index = (size_t)(tensor - mb_model_tensor_at(model, 0));
        const struct mb_loss *row = table->losses + u * CANDIDATES;
        for (size_t c = 0; c < CANDIDATES; c++) {
            struct mb_loss expected = {0};
            enum mb_format *formats = only(model, index, candidates[c]);
            struct mb_network *mixed = ns_network(model, formats, numerics, NULL);
            float *changed = ns_run(mixed, &windows, 0, VOCABULARY);
            expect_loss(&windows, base, changed, &expected);
            assert_true(row[c].known);
            assert_true(fabs(row[c].mean - expected.mean) < 1e-12 + 1e-9 * expected.mean);
            assert_true(fabs(row[c].low - expected.low) < 1e-12 + 1e-4 * expected.mean);
            assert_true(fabs(row[c].high - expected.high) < 1e-12 + 1e-4 * expected.mean);
            free(changed);
            free(formats);
            mb_network_destroy(mixed);
        }
        /* q4_K does not fit any row here: what falls back alike loses alike. */
        if (tensor->k == 32)
            assert_memory_equal(&row[2], &row[3], sizeof *row);
        assert_true(row[4].mean == 0 && row[4].weight_error == 0); /* the source format */
        if (tensor->k == 32)
            assert_true(row[0].weight_error < row[3].weight_error &&
                        row[3].weight_error < row[1].weight_error);
    }
    free(base);
    mb_sensitivity_free(table);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_table(void **state)
{
    (void)state;
    check_table(MB_NUMERICS_F32);
    check_table(MB_NUMERICS_KERNEL);
}

/* A format that keeps every weight loses nothing, and says so without a run. */
static void test_exact_format(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(2, WINDOW, 2048);
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_requantized weights;
    struct mb_error error;
    assert_int_equal(mb_requantize(network, network->output, MB_FORMAT_F32, MB_NUMERICS_F32, NULL,
                                   NULL, NULL, 0, &weights, &error),
                     MB_OK);
    assert_true(weights.exact && weights.error == 0);
    mb_requantized_free(&weights);
    assert_int_equal(mb_requantize(network, network->output, MB_FORMAT_Q8_0, MB_NUMERICS_F32, NULL,
                                   NULL, NULL, 0, &weights, &error),
                     MB_OK);
    assert_true(!weights.exact && weights.error > 1e-4 && weights.error < 1e-2);
    mb_requantized_free(&weights);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_scored_positions(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    static const struct {
        size_t wanted, tokens, first;
    } cases[] = {{0, 70, 11}, {70, 70, 11}, {69, 69, 11}, {30, 30, 11},
                 {7, 7, 11},  {1, 7, 11},   {71, 147, 0}, {100000, 147, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mb_prober *prober;
        struct mb_error error;
        const struct mb_prober_options options = {.windows = &windows,
                                                  .score_tokens = cases[i].wanted};
        assert_int_equal(mb_prober_create(network, &options, &prober, &error), MB_OK);
        assert_int_equal(mb_prober_tokens(prober), cases[i].tokens);
        const size_t *offsets = mb_prober_offsets(prober);
        assert_int_equal(offsets[0], 0);
        assert_int_equal(offsets[WINDOWS], cases[i].tokens);
        for (size_t w = 0; w < WINDOWS; w++) {
            const size_t count = offsets[w + 1] - offsets[w];
            assert_in_range(count, cases[i].tokens / WINDOWS, cases[i].tokens / WINDOWS + 1);
            for (size_t r = offsets[w]; r < offsets[w + 1]; r++) {
                const size_t position = mb_prober_position(prober, r);
                assert_in_range(position, cases[i].first, WINDOW - 2);
                assert_true(r == offsets[w] || position > mb_prober_position(prober, r - 1));
            }
        }
        mb_prober_destroy(prober);
    }
    struct mb_sense_options options = sense_options(&windows);
    options.format_count = 1;
    options.score_tokens = 71;
    struct mb_sensitivity *table = sense(model, &options);
    assert_int_equal(table->tokens, 147);
    mb_sensitivity_free(table);
    mb_network_destroy(network);
    mb_model_close(model);
    mb_windows_free(&windows);
}

/* ---- interrupting, resuming, refusing ---- */

struct stopper {
    int calls, stop_at;
    double last, total;
};

static int count_and_stop(void *user, double done, double total, const char *note)
{
    struct stopper *s = user;
    assert_non_null(note);
    if (strcmp(note, "base distribution") != 0) {
        assert_true(done >= s->last - 1e-6 * total && done <= total * (1 + 1e-12));
        assert_true(s->total == 0 || s->total == total);
        s->last = done;
        s->total = total;
    }
    return ++s->calls == s->stop_at;
}

static void assert_same_table(const struct mb_sensitivity *a, const struct mb_sensitivity *b)
{
    assert_int_equal(a->unit_count, b->unit_count);
    assert_int_equal(a->format_count, b->format_count);
    assert_memory_equal(&a->noise_floor, &b->noise_floor, sizeof a->noise_floor);
    for (size_t i = 0; i < a->unit_count * a->format_count; i++) {
        assert_int_equal(a->losses[i].known, b->losses[i].known);
        assert_memory_equal(&a->losses[i].mean, &b->losses[i].mean, 4 * sizeof(double));
    }
}

static void check_resume(enum mb_method method)
{
    char path[64];
    ns_temporary(path);
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    struct mb_sense_options options = sense_options(&windows);
    options.method = method;
    options.surrogate_probes = 1;
    struct mb_sensitivity *whole = sense(model, &options), *resumed = NULL;
    struct mb_error error;
    options.journal_path = path;
    /* Stop ever later; every attempt gets some probes further, with other threads and memory. */
    int interrupted = 0;
    enum mb_status status = MB_ERR_INTERRUPTED;
    for (int stop = 1; status == MB_ERR_INTERRUPTED; stop += 3) {
        struct stopper stopper = {.stop_at = stop};
        const struct mb_progress progress = {count_and_stop, &stopper};
        options.progress = &progress;
        options.threads = stop % 2 ? threads : NULL;
        options.memory_limit_bytes = stop % 3 ? 0 : 45000;
        status = mb_sense(model, &options, &resumed, &error);
        interrupted += status == MB_ERR_INTERRUPTED;
        assert_true((resumed != NULL) == (status == MB_OK));
    }
    if (status != MB_OK)
        fail_msg("%s", error.message);
    assert_true(interrupted > 3);
    assert_same_table(whole, resumed);
    mb_sensitivity_free(resumed);

    /* Finished: nothing runs any more. A format more runs that format alone. */
    struct stopper idle = {.stop_at = 1};
    const struct mb_progress progress = {count_and_stop, &idle};
    options.progress = &progress;
    assert_int_equal(mb_sense(model, &options, &resumed, &error), MB_OK);
    assert_int_equal(idle.calls, 0);
    assert_same_table(whole, resumed);
    mb_sensitivity_free(resumed);
    const enum mb_format more[] = {MB_FORMAT_Q8_0, MB_FORMAT_Q4_1};
    options.formats = more;
    options.format_count = 2;
    options.progress = NULL;
    if (method == MB_METHOD_SURROGATE) { /* that chose among others: another job */
        assert_int_equal(mb_sense(model, &options, &resumed, &error), MB_ERR_STALE);
    } else {
        resumed = sense(model, &options);
        assert_memory_equal(&resumed->losses[2].mean, &whole->losses[CANDIDATES].mean,
                            sizeof(double));
        assert_true(resumed->losses[1].known && resumed->losses[1].mean > 0);
        mb_sensitivity_free(resumed);
    }

    /* Another text, another job. */
    windows.tokens[3] ^= 1;
    assert_int_equal(mb_sense(model, &options, &resumed, &error), MB_ERR_STALE);
    assert_null(resumed);
    assert_non_null(strstr(error.message, path));
    unlink(path);
    mb_sensitivity_free(whole);
    mb_threads_destroy(threads);
    mb_model_close(model);
    mb_windows_free(&windows);
}

static void test_interrupt_and_resume(void **state)
{
    (void)state;
    check_resume(MB_METHOD_KL);
    check_resume(MB_METHOD_SURROGATE);
}

static void test_refusals(void **state)
{
    (void)state;
    struct mb_windows windows = ns_windows(WINDOWS, WINDOW, VOCABULARY);
    struct mb_model *model = ns_open(ODD_MODEL);
    struct mb_sensitivity *table = NULL;
    struct mb_error error;
    struct mb_sense_options options = sense_options(&windows);
    options.memory_limit_bytes = 1000;
    assert_int_equal(mb_sense(model, &options, &table, &error), MB_ERR_MEMORY);
    assert_non_null(strstr(error.message, "fewer windows"));
    options = sense_options(&windows);
    options.format_count = 0;
    assert_int_equal(mb_sense(model, &options, &table, &error), MB_ERR_ARGUMENT);
    const enum mb_format unknown = (enum mb_format)99;
    options.formats = &unknown;
    options.format_count = 1;
    assert_int_equal(mb_sense(model, &options, &table, &error), MB_ERR_ARGUMENT);
    options = sense_options(&windows);
    windows.tokens[0] = VOCABULARY;
    assert_int_equal(mb_sense(model, &options, &table, &error), MB_ERR_ARGUMENT);
    assert_null(table);
    mb_model_close(model);
    mb_windows_free(&windows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restarts),
        cmocka_unit_test(test_untied_output),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_exact_format),
        cmocka_unit_test(test_scored_positions),
        cmocka_unit_test(test_interrupt_and_resume),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
