/* SPDX-License-Identifier: Apache-2.0 */
/* Mixes rounded layer after layer. Oracles: the normal equations in f64 over the activations that
 * two networks really have, whole forward passes of what was made, other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/network.h"
#include "model/sequential.h"
#include "unit/moments_support.h"

enum { WINDOWS = 12, WINDOW = 64, TOKENS = WINDOWS * WINDOW };

struct fixture {
    struct ms_calibration c;
    struct mb_encoder *base, *made;
    enum mb_format *formats;
};

static void set_up(struct fixture *f, const char *path, size_t threads, enum mb_format format,
                   size_t vocabulary)
{
    *f = (struct fixture){0};
    ms_set_up(&f->c, path, WINDOWS, WINDOW, vocabulary, threads, 0);
    f->base = mb_encoder_create(f->c.model, f->c.moments, NULL, 1, 0, f->c.threads);
    assert_non_null(f->base);
    f->formats = ns_uniform(f->c.model, format);
}

static void make_as(struct fixture *f, bool whole)
{
    const struct mb_sequential_options options = {.formats = f->formats, .whole = whole};
    struct mb_error error;
    f->made = mb_sequential_create(f->c.network, f->base, &options);
    assert_non_null(f->made);
    if (mb_sequential_run(f->c.network, f->made, &options, &error) != MB_OK)
        fail_msg("%s", error.message);
}

static void make(struct fixture *f) { make_as(f, false); }

static void tear_down(struct fixture *f)
{
    mb_encoder_destroy(f->made);
    mb_encoder_destroy(f->base);
    free(f->formats);
    ms_tear_down(&f->c);
}

static const void *rows_of(struct fixture *f, struct mb_encoder *encoder, size_t tensor)
{
    const void *rows;
    struct mb_error error;
    if (mb_encoder_rows(encoder, tensor, f->formats[tensor], NULL, 0, 1, &rows, &error) != MB_OK)
        fail_msg("%s", error.message);
    return rows;
}

static struct mb_network *network_of(struct fixture *f, struct mb_encoder *encoder,
                                     enum mb_numerics numerics)
{
    struct mb_network *network = NULL;
    struct mb_error error;
    if (mb_network_create_encoded(f->c.model, f->formats, encoder, numerics, f->c.threads, NULL,
                                  &network, &error) != MB_OK)
        fail_msg("%s", error.message);
    return network;
}

/* ---- what a matrix is brought to ---- */

struct place {
    size_t step, product;
};

static struct place place_of(const struct mb_network *network, size_t tensor)
{
    for (size_t s = 0; s < network->step_count; s++)
        for (size_t p = 0; p < network->steps[s].product_count; p++)
            if (network->matrices[network->steps[s].products[p].matrix].tensor == tensor)
                return (struct place){s, p};
    fail_msg("no such product");
    return (struct place){0};
}

static struct mb_run *run_to(struct mb_network *network, const struct mb_windows *windows,
                             size_t steps)
{
    struct mb_run *run = NULL;
    struct mb_error error;
    assert_int_equal(mb_run_create(network, TOKENS, WINDOW, &run, &error), MB_OK);
    run->ids = windows->tokens;
    run->sequences = WINDOWS;
    run->tokens = WINDOW;
    assert_int_equal(mb_run_steps(run, 0, steps), MB_OK);
    return run;
}

/* Layer 0 is of 2 bits, the tensor itself of f32, so that nothing rounds it. Then the mean of
 * (output of the source - output of the mix) x'^T is the columns' damping times what the tensor was
 * changed by: the normal equations of the damped least squares. With `stream` the output is the
 * residual stream behind the product's addition. */
static void check_normal_equations(const char *path, const char *name, bool stream, double scale)
{
    struct fixture f;
    set_up(&f, path, 2, MB_FORMAT_Q2_K, 64);
    const size_t tensor = ns_index_of(f.c.model, name);
    for (size_t i = 0; i < mb_model_tensor_count(f.c.model); i++)
        if (mb_model_tensor_at(f.c.model, i)->layer != 0)
            f.formats[i] = MB_FORMAT_NONE;
    f.formats[tensor] = MB_FORMAT_F32;
    make_as(&f, true);
    struct mb_network *mixed = network_of(&f, f.made, MB_NUMERICS_F32);
    const struct place at = place_of(f.c.network, tensor);
    const struct mb_step *step = &f.c.network->steps[at.step];
    const size_t end = at.step + (stream ? 2 : 1);
    const enum mb_slot slot = stream ? MB_SLOT_HIDDEN : step->products[at.product].out;
    struct mb_run *source = run_to(f.c.network, &f.c.windows, end),
                  *run = run_to(mixed, &f.c.windows, end);
    const struct mb_tensor *t = mb_model_tensor_at(f.c.model, tensor);
    const float *made = rows_of(&f, f.made, tensor), *x = run->slots[step->in];
    const size_t k = t->k, n = t->n, stride = f.c.network->slot_width[step->in];
    float *w = malloc(n * k * sizeof *w);
    assert_int_equal(mb_dequantize(t->format, t->data, n, k, w), MB_OK);
    double moved = 0, size = 0, worst = 0, largest = 0;
    /* Joining the stream, a token counts by the size of its row there, as the next norm has it. */
    double weight[TOKENS], *squares_of = calloc(k, sizeof *squares_of);
    assert_non_null(squares_of);
    for (size_t r = 0; r < TOKENS; r++) {
        double squares = 0;
        for (size_t i = 0; stream && i < n; i++)
            squares +=
                (double)source->slots[slot][r * n + i] * (double)source->slots[slot][r * n + i];
        weight[r] = stream ? (double)n / squares / TOKENS : 1.0 / TOKENS;
        for (size_t j = 0; j < k; j++)
            squares_of[j] += weight[r] * (double)x[r * stride + j] * (double)x[r * stride + j];
    }
    for (size_t i = 0; i < n; i += 7)
        for (size_t j = 0; j < k; j++) {
            double sum = 0;
            for (size_t r = 0; r < TOKENS; r++)
                sum +=
                    ((double)source->slots[slot][r * n + i] - (double)run->slots[slot][r * n + i]) *
                    (double)x[r * stride + j] * weight[r] / scale;
            const double damping = ms_damping(squares_of, 1, k, TOKENS, j);
            const double change = (double)made[i * k + j] - (double)w[i * k + j];
            moved += change * change;
            size += (double)w[i * k + j] * (double)w[i * k + j];
            worst = fmax(worst, fabs(sum - damping * change));
            largest = fmax(largest, fabs(damping * change));
        }
    assert_true(moved > 1e-5 * size); /* it was corrected at all */
    assert_true(worst < 2e-3 * largest);
    free(squares_of);
    free(w);
    mb_run_destroy(source);
    mb_run_destroy(run);
    mb_network_destroy(mixed);
    tear_down(&f);
}

static void test_corrections(void **state)
{
    (void)state;
    check_normal_equations(TINY_MODEL, "blk.1.attn_k.weight", false, 1);
    check_normal_equations(TINY_MODEL, "blk.1.attn_output.weight", true, 1);
    check_normal_equations(TINY_MODEL, "blk.1.ffn_down.weight", true, 1);
    check_normal_equations(HYBRID_MODEL, "blk.1.ssm_in.weight", false, 1);
}

/* ---- whole mixes ---- */

static double loss_of(struct fixture *f, struct mb_encoder *encoder,
                      const struct mb_windows *windows)
{
    struct mb_network *network = network_of(f, encoder, MB_NUMERICS_KERNEL);
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    struct mb_error error;
    if (mb_evaluate(network, f->c.network, windows, NULL, &evaluation, &error) != MB_OK)
        fail_msg("%s", error.message);
    const double loss = evaluation.kl_mean;
    mb_evaluation_free(&evaluation);
    mb_network_destroy(network);
    return loss;
}

/* On text: the first windows are calibrated on, others evaluated. */
static void check_loss(const char *path, enum mb_format format, double most)
{
    struct mb_windows held_out;
    struct mb_error error;
    struct fixture f;
    set_up(&f, path, 2, format, 64);
    mb_windows_free(&f.c.windows);
    assert_int_equal(
        mb_windows_load(f.c.model, "models/calib.txt", WINDOW, 40, &f.c.windows, &error), MB_OK);
    assert_int_equal(
        mb_windows_load(f.c.model, "models/heldout.txt", WINDOW, 20, &held_out, &error), MB_OK);
    make(&f);
    const double alone = loss_of(&f, f.base, &held_out), made = loss_of(&f, f.made, &held_out);
    if (!(made < most * alone))
        fail_msg("%s: %g, with tensors alone %g", path, made, alone);
    assert_string_not_equal(mb_encoder_hash(f.made), mb_encoder_hash(f.base));
    mb_windows_free(&held_out);
    tear_down(&f);
}

static void test_loss(void **state)
{
    (void)state;
    check_loss(TINY_MODEL, MB_FORMAT_Q2_K, 0.92);
    check_loss(TINY_MODEL, MB_FORMAT_IQ4_XS, 0.97);
    check_loss(TINY_MODEL, MB_FORMAT_CB2_5, 0.95);
    check_loss(HYBRID_MODEL, MB_FORMAT_Q2_K, 0.95);
}

/* The same bytes from any number of threads; what is only looked up, experts and what stays are
 * the base's. */
static void test_threads_and_rest(void **state)
{
    (void)state;
    static const char *const models[] = {
        TINY_MODEL, "tests/golden/logits/odd-llama.gguf", "tests/golden/logits/odd-gemma3.gguf",
        "tests/golden/logits/odd-qwen3moe.gguf", "tests/golden/logits/odd-mamba.gguf"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct fixture one, three;
        size_t corrected = 0;
        set_up(&one, models[i], 0, MB_FORMAT_Q4_0, 32);
        set_up(&three, models[i], 3, MB_FORMAT_Q4_0, 32);
        make(&one);
        make(&three);
        for (size_t t = 0; t < mb_model_tensor_count(one.c.model); t++) {
            const struct mb_tensor *tensor = mb_model_tensor_at(one.c.model, t);
            if (one.formats[t] == MB_FORMAT_NONE || one.formats[t] == tensor->format)
                continue;
            const size_t bytes = tensor->n * mb_format_row_bytes(one.formats[t], tensor->k);
            const void *a = rows_of(&one, one.made, t), *b = rows_of(&three, three.made, t);
            const void *base = rows_of(&one, one.base, t);
            assert_memory_equal(a, b, bytes);
            const bool same = memcmp(a, base, bytes) == 0;
            corrected += !same;
            if (tensor->role == MB_ROLE_EMBEDDING || strstr(tensor->name, "_exps") != NULL)
                assert_true(same);
        }
        assert_true(corrected > 0);
        assert_string_equal(mb_encoder_hash(one.made), mb_encoder_hash(three.made));
        tear_down(&one);
        tear_down(&three);
    }
}

static const uint8_t *records_of(struct mb_encoder *encoder, size_t tensor, size_t *bytes)
{
    const void *records;
    struct mb_error error;
    if (mb_encoder_stored(encoder, tensor, MB_FORMAT_CB3, false, NULL, 0, 1, &records, bytes,
                          &error) != MB_OK)
        fail_msg("%s", error.message);
    return records;
}

/* Codebook matrices likewise, as long as they are without. */
static void test_records(void **state)
{
    (void)state;
    struct fixture one, three;
    set_up(&one, TINY_MODEL, 0, MB_FORMAT_CB3, 64);
    set_up(&three, TINY_MODEL, 3, MB_FORMAT_CB3, 64);
    make(&one);
    make(&three);
    for (size_t t = 0; t < mb_model_tensor_count(one.c.model); t++) {
        if (one.formats[t] == MB_FORMAT_NONE)
            continue;
        size_t bytes, others, bases;
        const uint8_t *a = records_of(one.made, t, &bytes), *b = records_of(three.made, t, &others),
                      *base = records_of(one.base, t, &bases);
        const bool looked_up = mb_model_tensor_at(one.c.model, t)->role == MB_ROLE_EMBEDDING;
        assert_int_equal(bytes, others);
        assert_memory_equal(a, b, bytes);
        assert_true(fabs((double)bytes - (double)bases) < 0.03 * (double)bases);
        assert_int_equal(bytes == bases && memcmp(a, base, bytes) == 0, looked_up);
    }
    tear_down(&one);
    tear_down(&three);
}

/* ---- stopping ---- */

static int stop_after(void *user, double done, double total, const char *note)
{
    (void)note;
    assert_true(done >= 0 && done <= total);
    return --*(int *)user < 0;
}

static void test_interrupt(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, TINY_MODEL, 0, MB_FORMAT_Q4_0, 64);
    for (int patience = 0; patience < 60; patience += 19) {
        int left = patience;
        const struct mb_progress progress = {stop_after, &left};
        const struct mb_sequential_options options = {.formats = f.formats, .progress = &progress};
        struct mb_error error = {0};
        struct mb_encoder *made = mb_sequential_create(f.c.network, f.base, &options);
        assert_int_equal(mb_sequential_run(f.c.network, made, &options, &error),
                         MB_ERR_INTERRUPTED);
        assert_string_not_equal(error.message, "");
        mb_encoder_destroy(made);
    }
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_corrections),      cmocka_unit_test(test_loss),
        cmocka_unit_test(test_threads_and_rest), cmocka_unit_test(test_records),
        cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
