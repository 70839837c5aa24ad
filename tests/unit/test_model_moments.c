/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments of a model's activations, and files made with them. Oracles: sums in f64 over the
 * rows themselves, importance for the diagonal, another limit of memory, other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/encoder.h"
#include "model/importance.h"
#include "model/network.h"
#include "unit/moments_support.h"

#define EXPERTS_MODEL "tests/golden/logits/odd-qwen3moe.gguf"
enum { WINDOWS = 6, WINDOW = 64, TOKENS = WINDOWS * WINDOW };

static const struct mb_second_moments *get(struct ms_calibration *f, const char *name,
                                           size_t matrix)
{
    const struct mb_second_moments *found;
    struct mb_error error;
    if (mb_moments_get(f->moments, ns_index_of(f->model, name), matrix, NULL, 0, 1, &found,
                       &error) != MB_OK)
        fail_msg("%s", error.message);
    return found;
}

/* ---- the numbers ---- */

struct rows {
    size_t matrix, count, k;
    float *x;
};

static void keep_rows(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                      size_t stride, size_t rows)
{
    struct rows *kept = user;
    (void)run;
    (void)expert;
    if (matrix != kept->matrix)
        return;
    for (size_t r = 0; r < rows; r++)
        memcpy(kept->x + (kept->count + r) * kept->k, x + r * stride, kept->k * sizeof *x);
    kept->count += rows;
}

static void test_against_rows(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, WINDOWS, WINDOW, 64, 0, 0);
    struct mb_error error;
    const size_t tensor = ns_index_of(f.model, "blk.2.attn_q.weight");
    struct rows rows = {.k = 256};
    while (f.network->matrices[rows.matrix].tensor != tensor)
        rows.matrix++;
    rows.x = malloc(TOKENS * rows.k * sizeof *rows.x);
    assert_non_null(rows.x);
    assert_int_equal(
        mb_observe(f.network, &f.windows, f.network->step_count, keep_rows, &rows, NULL, &error),
        MB_OK);
    assert_int_equal(rows.count, TOKENS);
    const struct mb_second_moments *found = get(&f, "blk.2.attn_q.weight", 0);
    assert_non_null(found);
    assert_int_equal(found->k, rows.k);
    double diagonal[256] = {0};
    for (size_t i = 0; i < TOKENS * rows.k; i++)
        diagonal[i % rows.k] += (double)rows.x[i] * (double)rows.x[i] / TOKENS;
    for (size_t i = 0; i < rows.k; i++)
        for (size_t j = 0; j < rows.k; j++) {
            double sum = i == j ? ms_damping(diagonal, 1, rows.k, TOKENS, i) : 0;
            for (size_t r = 0; r < TOKENS; r++)
                sum += (double)rows.x[r * rows.k + i] * (double)rows.x[r * rows.k + j] / TOKENS;
            const double scale =
                sqrt((double)found->diagonal[i]) * sqrt((double)found->diagonal[j]);
            assert_true(fabs(sum - (double)found->h[i * rows.k + j]) < 1e-5 * scale);
        }
    free(rows.x);
    ms_tear_down(&f);
}

/* Matrices of one input share theirs, the head and what is tied to nothing have their own or none;
 * a limit of next to nothing makes passes, not other numbers, and neither do threads. */
static void test_limit_and_threads(void **state)
{
    (void)state;
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.0.attn_k.weight",
                                        "blk.0.attn_v.weight", "blk.0.ffn_down.weight",
                                        "blk.1.ffn_up.weight", "output.weight"};
    struct ms_calibration all, few;
    ms_set_up(&all, TINY_MODEL, 14, WINDOW, 64, 0, 0);
    ms_set_up(&few, TINY_MODEL, 14, WINDOW, 64, 3, 1);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct mb_second_moments *a = get(&all, names[i], 0), *b = get(&few, names[i], 0);
        assert_true(a != NULL && b != NULL && a->h != NULL && b->h != NULL);
        assert_memory_equal(a->h, b->h, a->k * a->k * sizeof *a->h);
        assert_memory_equal(a->factor, b->factor, a->k * a->k * sizeof *a->factor);
        assert_memory_equal(a->variances, b->variances, a->k * sizeof *a->variances);
    }
    assert_int_equal(mb_moments_passes(all.moments), 1);
    assert_int_equal(mb_moments_passes(few.moments), 4);
    assert_null(get(&all, "token_embd.weight", 0));
    assert_int_equal(mb_moments_scarce(all.moments), 0);
    ms_tear_down(&all);
    ms_tear_down(&few);
}

/* Fewer rows than columns: the diagonal alone, which is importance and its damping; an expert that
 * no row reaches: nothing. */
static void test_scarce(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, EXPERTS_MODEL, 3, 10, 64, 0, 0);
    struct mb_importance *importance = NULL;
    struct mb_error error;
    assert_int_equal(mb_importance_collect(f.network, &f.windows, NULL, &importance, &error),
                     MB_OK);
    const size_t gate = ns_index_of(f.model, "blk.0.ffn_gate_exps.weight");
    size_t reached = 0, missed = 0;
    for (size_t e = 0; e < mb_tensor_matrices(mb_model_tensor_at(f.model, gate)); e++) {
        const struct mb_second_moments *found = get(&f, "blk.0.ffn_gate_exps.weight", e);
        assert_int_equal(found == NULL, importance->rows[gate][e] == 0);
        missed += found == NULL;
        if (found == NULL)
            continue;
        reached++;
        assert_null(found->h);
        assert_null(found->factor);
        const float *weights = importance->weights[gate] + e * found->k;
        double *squares = malloc(found->k * sizeof *squares);
        assert_non_null(squares);
        for (size_t c = 0; c < found->k; c++)
            squares[c] = (double)weights[c];
        for (size_t c = 0; c < found->k; c++) {
            const double expected =
                squares[c] + ms_damping(squares, 1, found->k, (double)importance->rows[gate][e], c);
            assert_true(fabs((double)found->diagonal[c] - expected) < 1e-4 * expected);
        }
        free(squares);
    }
    assert_true(reached > 0);
    assert_int_equal(mb_moments_scarce(f.moments), reached + missed);
    /* A file comes of it all the same, whose experts are what search by that diagonal makes. */
    enum mb_format *formats = ns_uniform(f.model, MB_FORMAT_Q4_0);
    char path[64];
    ns_temporary(path);
    struct mb_convert_options options = {.size = sizeof options, .moments = f.moments, .sweeps = 1};
    assert_int_equal(mb_convert(f.model, formats, path, &options, &error), MB_OK);
    struct mb_model *made = ns_open(path);
    const struct mb_tensor *from = mb_model_tensor_at(f.model, gate),
                           *to = mb_model_tensor_at(made, gate);
    const size_t each = (size_t)from->ne[1], bytes = mb_format_row_bytes(to->format, to->k);
    float *w = malloc(each * from->k * sizeof *w);
    uint8_t *expected = malloc(each * bytes);
    assert_true(w != NULL && expected != NULL);
    for (size_t e = 0; e < mb_tensor_matrices(from); e++) {
        const struct mb_second_moments *found = get(&f, "blk.0.ffn_gate_exps.weight", e);
        assert_int_equal(
            mb_dequantize(from->format,
                          (const uint8_t *)from->data + e * each * from->bytes / from->n, each,
                          from->k, w),
            MB_OK);
        assert_int_equal(mb_quantize(to->format, w, each, to->k,
                                     found != NULL ? found->diagonal : NULL, expected),
                         MB_OK);
        assert_memory_equal(expected, (const uint8_t *)to->data + e * each * bytes, each * bytes);
    }
    free(w);
    free(expected);
    free(formats);
    mb_model_close(made);
    unlink(path);
    mb_importance_free(importance);
    ms_tear_down(&f);
}

/* ---- files ---- */

static int stop_at_once(void *user, double done, double total, const char *note)
{
    (void)done;
    (void)total;
    (void)note;
    return --*(int *)user < 0;
}

static enum mb_format *some_of(const struct mb_model *model, enum mb_format format)
{
    enum mb_format *formats = ns_uniform(model, format);
    for (size_t i = 0; i < mb_model_tensor_count(model); i++)
        if (mb_model_tensor_at(model, i)->layer > 0 ||
            mb_model_tensor_at(model, i)->role == MB_ROLE_OUTPUT)
            formats[i] = MB_FORMAT_NONE;
    return formats;
}

/* tr((W - Q) H (W - Q)^T) of a tensor, by the moments of the source. */
static double error_of(struct ms_calibration *f, const struct mb_model *made, const char *name)
{
    const struct mb_tensor *from = mb_model_tensor_find(f->model, name),
                           *to = mb_model_tensor_find(made, name);
    const size_t k = from->k;
    float *w = malloc(from->n * k * sizeof *w), *q = malloc(from->n * k * sizeof *q);
    assert_true(w != NULL && q != NULL);
    assert_int_equal(mb_dequantize(from->format, from->data, from->n, k, w), MB_OK);
    assert_int_equal(mb_dequantize(to->format, to->data, to->n, k, q), MB_OK);
    const struct mb_second_moments *moments = get(f, name, 0);
    double error = 0;
    for (size_t r = 0; r < from->n; r++)
        for (size_t i = 0; i < k; i++) {
            double sum = 0;
            for (size_t j = 0; j < k; j++)
                sum += (double)moments->h[i * k + j] * (double)(w[r * k + j] - q[r * k + j]);
            error += sum * (double)(w[r * k + i] - q[r * k + i]);
        }
    free(w);
    free(q);
    return error;
}

static struct mb_model *convert(struct mb_model *model, const enum mb_format *formats,
                                const char *path, struct mb_convert_options options)
{
    struct mb_error error;
    options.size = sizeof options;
    if (mb_convert(model, formats, path, &options, &error) != MB_OK)
        fail_msg("%s", error.message);
    return ns_open(path);
}

/* Search, feedback and refining, each with less error than the one before; the same formats and
 * sizes; what is not quantized is copied; threads do not show. */
static void test_files(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, 14, WINDOW, 64, 2, 0);
    enum mb_format *formats = some_of(f.model, MB_FORMAT_Q3_K);
    char path[4][64];
    struct mb_model *made[4];
    size_t refined = 0;
    for (size_t i = 0; i < 4; i++)
        ns_temporary(path[i]);
    made[0] = convert(f.model, formats, path[0], (struct mb_convert_options){0});
    made[1] = convert(f.model, formats, path[1],
                      (struct mb_convert_options){.moments = f.moments, .threads = f.threads});
    made[2] = convert(f.model, formats, path[2],
                      (struct mb_convert_options){.moments = f.moments, .sweeps = 2});
    for (size_t i = 0; i < mb_model_tensor_count(f.model); i++)
        formats[i] = MB_FORMAT_NONE;
    made[3] = convert(made[0], formats, path[3],
                      (struct mb_convert_options){.moments = f.moments,
                                                  .sweeps = 2,
                                                  .source = f.model,
                                                  .refined = &refined,
                                                  .threads = f.threads});
    assert_int_equal(refined, 7);
    static const char *const names[] = {"blk.0.attn_k.weight", "blk.0.ffn_down.weight"};
    for (size_t n = 0; n < 2; n++) {
        double error[4];
        for (size_t i = 0; i < 4; i++)
            error[i] = error_of(&f, made[i], names[n]);
        assert_true(error[1] < 0.8 * error[0] && error[2] < error[1] && error[3] < error[1]);
    }
    for (size_t t = 0; t < mb_model_tensor_count(f.model); t++) {
        const struct mb_tensor *first = mb_model_tensor_at(made[0], t);
        for (size_t i = 1; i < 4; i++) {
            const struct mb_tensor *other = mb_model_tensor_at(made[i], t);
            assert_int_equal(first->format, other->format);
            if (first->layer != 0 || !first->quantizable) /* the embedding has no input */
                assert_memory_equal(first->data, other->data, first->bytes);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        mb_model_close(made[i]);
        unlink(path[i]);
    }
    free(formats);
    ms_tear_down(&f);
}

/* Interrupted in the first pass or later, of another source: no file, and one line. */
static void test_refusals(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, WINDOWS, WINDOW, 64, 0, 0);
    struct mb_model *other = ns_open(HYBRID_MODEL);
    enum mb_format *formats = some_of(f.model, MB_FORMAT_Q4_0);
    struct mb_error error;
    char path[64], again[64];
    ns_temporary(path);
    ns_temporary(again);
    for (int patience = 0; patience < 8; patience += 7) {
        int left = patience;
        const struct mb_progress progress = {stop_at_once, &left};
        const struct mb_convert_options options = {
            .size = sizeof options, .moments = f.moments, .progress = &progress};
        assert_int_equal(mb_convert(f.model, formats, path, &options, &error), MB_ERR_INTERRUPTED);
        assert_int_equal(access(path, F_OK), -1);
    }
    struct mb_model *made = convert(f.model, formats, path, (struct mb_convert_options){0});
    for (size_t i = 0; i < mb_model_tensor_count(f.model); i++)
        formats[i] = MB_FORMAT_NONE;
    const struct mb_convert_options options = {
        .size = sizeof options, .moments = f.moments, .source = other};
    assert_int_equal(mb_convert(made, formats, again, &options, &error), MB_ERR_FILE);
    assert_non_null(strstr(error.message, "was not made from"));
    assert_int_equal(access(again, F_OK), -1);
    mb_model_close(made);
    mb_model_close(other);
    unlink(path);
    free(formats);
    ms_tear_down(&f);
}

/* What no encoder takes, feedback does not take either. */
static void test_not_finite(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, WINDOWS, WINDOW, 64, 0, 0);
    const struct mb_second_moments *found = get(&f, "blk.0.attn_q.weight", 0);
    const struct mb_tensor *tensor = mb_model_tensor_find(f.model, "blk.0.attn_q.weight");
    const struct mb_encoding encoding = {.moments = found, .sweeps = 1};
    float w[256] = {0.5f};
    uint8_t blocks[512];
    assert_non_null(found->h);
    assert_int_equal(mb_quantize_rows(tensor, MB_FORMAT_Q4_0, &encoding, 0, 1, w, blocks), MB_OK);
    w[77] = NAN;
    assert_int_equal(mb_quantize_rows(tensor, MB_FORMAT_Q4_0, &encoding, 0, 1, w, blocks),
                     MB_ERR_ARGUMENT);
    w[77] = INFINITY;
    assert_int_equal(mb_refine_stored(MB_FORMAT_Q4_0, &encoding, 1, w, blocks), MB_ERR_ARGUMENT);
    ms_tear_down(&f);
}

/* ---- the encoder ---- */

static void assert_same_weights(const struct mb_network *network, const struct mb_network *expected)
{
    for (size_t i = 0; i < expected->matrix_count; i++) {
        const struct mb_matrix *a = &network->matrices[i], *b = &expected->matrices[i];
        size_t bytes;
        assert_int_equal(a->format, b->format);
        if (b->weights.data == NULL)
            continue;
        assert_int_equal(mb_pack_size(b->weights.format, b->n, b->k, &bytes), MB_OK);
        assert_memory_equal(a->weights.data, b->weights.data, bytes);
    }
}

/* Its rows are those of the file, kept or made again, and a network of them is the file's. */
static void encoder_is_as_files(const char *model)
{
    struct ms_calibration f;
    ms_set_up(&f, model, WINDOWS, WINDOW, 64, 2, 0);
    enum mb_format *formats = some_of(f.model, MB_FORMAT_Q4_0);
    struct mb_error error;
    char path[64];
    ns_temporary(path);
    struct mb_model *made =
        convert(f.model, formats, path,
                (struct mb_convert_options){.moments = f.moments, .sweeps = MB_SWEEPS});
    for (size_t limit = 0; limit < 2; limit++) {
        struct mb_encoder *encoder =
            mb_encoder_create(f.model, f.moments, NULL, MB_SWEEPS, limit, f.threads);
        assert_non_null(encoder);
        for (size_t i = 0; i < mb_model_tensor_count(f.model); i++) {
            const struct mb_tensor *expected = mb_model_tensor_at(made, i);
            const void *rows = NULL, *again = NULL;
            for (int time = 0; time < 2; time++) {
                again = rows;
                if (mb_encoder_rows(encoder, i, expected->format, NULL, 0, 1, &rows, &error) !=
                    MB_OK)
                    fail_msg("%s", error.message);
                assert_memory_equal(rows, expected->data, expected->bytes);
            }
            if (limit == 0 || formats[i] == MB_FORMAT_NONE)
                assert_ptr_equal(rows, again);
        }
        struct mb_network *encoded, *read = ns_network(made, NULL, MB_NUMERICS_KERNEL, NULL);
        assert_int_equal(mb_network_create_encoded(f.model, formats, encoder, MB_NUMERICS_KERNEL,
                                                   f.threads, NULL, &encoded, &error),
                         MB_OK);
        assert_same_weights(encoded, read);
        mb_network_destroy(encoded);
        mb_network_destroy(read);
        char again[64];
        ns_temporary(again);
        struct mb_model *written =
            convert(f.model, formats, again, (struct mb_convert_options){.encoder = encoder});
        for (size_t i = 0; i < mb_model_tensor_count(made); i++) {
            const struct mb_tensor *expected = mb_model_tensor_at(made, i);
            assert_memory_equal(mb_model_tensor_at(written, i)->data, expected->data,
                                expected->bytes);
        }
        mb_model_close(written);
        unlink(again);
        mb_encoder_destroy(encoder);
    }
    mb_model_close(made);
    unlink(path);
    free(formats);
    ms_tear_down(&f);
}

static void test_encoder(void **state)
{
    (void)state;
    encoder_is_as_files(TINY_MODEL);
    encoder_is_as_files(EXPERTS_MODEL);
}

static void assert_rows(enum mb_status status, const void *rows, const struct mb_tensor *expected)
{
    assert_int_equal(status, MB_OK);
    assert_memory_equal(rows, expected->data, expected->bytes);
}

/* A draft is what search writes, until there are blocks with feedback; those never are a draft. */
static void test_encoder_drafts(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, WINDOWS, WINDOW, 64, 2, 0);
    enum mb_format *formats = some_of(f.model, MB_FORMAT_Q4_0);
    struct mb_error error;
    char paths[2][64];
    ns_temporary(paths[0]);
    ns_temporary(paths[1]);
    struct mb_model *fed =
        convert(f.model, formats, paths[0],
                (struct mb_convert_options){.moments = f.moments, .sweeps = MB_SWEEPS});
    struct mb_model *searched =
        convert(f.model, formats, paths[1], (struct mb_convert_options){.sweeps = MB_SWEEPS});
    for (size_t limit = 0; limit < 2; limit++) {
        struct mb_encoder *encoder =
            mb_encoder_create(f.model, f.moments, NULL, MB_SWEEPS, limit, f.threads);
        struct mb_network *draft, *read = ns_network(searched, NULL, MB_NUMERICS_KERNEL, NULL);
        assert_non_null(encoder);
        assert_int_equal(
            mb_network_create_draft(f.model, formats, encoder, f.threads, NULL, &draft, &error),
            MB_OK);
        assert_same_weights(draft, read);
        for (size_t i = 0; i < mb_model_tensor_count(f.model); i++) {
            const struct mb_tensor *by_feedback = mb_model_tensor_at(fed, i);
            const struct mb_tensor *by_search = mb_model_tensor_at(searched, i);
            const enum mb_format format = by_feedback->format;
            const void *rows = NULL;
            enum mb_status status = mb_encoder_draft(encoder, i, format, NULL, 0, 1, &rows, &error);
            assert_rows(status, rows, by_search);
            status = mb_encoder_rows(encoder, i, format, NULL, 0, 1, &rows, &error);
            assert_rows(status, rows, by_feedback);
            status = mb_encoder_draft(encoder, i, format, NULL, 0, 1, &rows, &error);
            assert_rows(status, rows, limit == 0 ? by_feedback : by_search);
        }
        mb_network_destroy(draft);
        mb_network_destroy(read);
        mb_encoder_destroy(encoder);
    }
    mb_model_close(fed);
    mb_model_close(searched);
    unlink(paths[0]);
    unlink(paths[1]);
    free(formats);
    ms_tear_down(&f);
}

/* A hash for what the blocks depend on; an interrupt is heard; no rows of a wrong length. */
static void test_encoder_edges(void **state)
{
    (void)state;
    struct ms_calibration f;
    ms_set_up(&f, TINY_MODEL, WINDOWS, WINDOW, 64, 0, 0);
    struct mb_encoder *encoder = mb_encoder_create(f.model, f.moments, NULL, 2, 0, NULL);
    struct mb_encoder *same = mb_encoder_create(f.model, f.moments, NULL, 2, 1, NULL);
    struct mb_encoder *other = mb_encoder_create(f.model, f.moments, NULL, 3, 0, NULL);
    assert_true(encoder != NULL && same != NULL && other != NULL);
    assert_string_equal(mb_encoder_hash(encoder), mb_encoder_hash(same));
    assert_string_not_equal(mb_encoder_hash(encoder), mb_encoder_hash(other));
    const size_t tensor = ns_index_of(f.model, "blk.0.ffn_down.weight");
    struct mb_error error;
    const void *rows;
    for (int patience = 0; patience < 2; patience++) {
        int left = patience;
        const struct mb_progress progress = {stop_at_once, &left};
        assert_int_equal(
            mb_encoder_rows(encoder, tensor, MB_FORMAT_Q3_K, &progress, 0, 1, &rows, &error),
            MB_ERR_INTERRUPTED);
    }
    assert_int_equal(mb_encoder_rows(encoder, tensor, MB_FORMAT_Q3_K, NULL, 0, 1, &rows, &error),
                     MB_OK);
    mb_encoder_destroy(encoder);
    mb_encoder_destroy(same);
    mb_encoder_destroy(other);
    ms_tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_rows),  cmocka_unit_test(test_limit_and_threads),
        cmocka_unit_test(test_scarce),        cmocka_unit_test(test_files),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_encoder),       cmocka_unit_test(test_encoder_drafts),
        cmocka_unit_test(test_encoder_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
