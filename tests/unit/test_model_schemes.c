/* SPDX-License-Identifier: Apache-2.0 */
/* Schemes on a whole model: what a simulation stores is what the encoders make, formats cost what
 * their files cost, and rounded activations are those of the kernels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/importance.h"
#include "model/schemes.h"
#include "network_support.h"

static struct mb_simulation *simulate(struct mb_model *model)
{
    struct mb_simulation *simulation;
    struct mb_error error;
    if (mb_simulation_create(model, NULL, &simulation, &error) != MB_OK)
        fail_msg("%s", error.message);
    return simulation;
}

static struct mb_scheme_size store(struct mb_simulation *simulation,
                                   const struct mb_weight_choice *choice)
{
    struct mb_scheme_size size;
    struct mb_error error;
    if (mb_simulation_store(simulation, choice, NULL, NULL, &size, &error) != MB_OK)
        fail_msg("%s", error.message);
    return size;
}

static struct mb_weight_choice format_choice(enum mb_format format)
{
    return (struct mb_weight_choice){.format = format, .feed_forward = MB_FORMAT_NONE};
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < mb_scheme_count(); i++) {
        const struct mb_scheme *scheme = mb_scheme_at(i);
        assert_ptr_equal(mb_scheme_by_name(scheme->name), scheme);
        assert_int_equal(mb_format_by_name(scheme->name), MB_FORMAT_NONE);
        assert_null(mb_rounding_by_name(scheme->name));
        assert_true(strlen(scheme->what) > 0);
    }
    for (size_t i = 0; i < mb_rounding_count(); i++)
        assert_ptr_equal(mb_rounding_by_name(mb_rounding_at(i)->name), mb_rounding_at(i));
    assert_null(mb_scheme_by_name("cmp"));
    assert_null(mb_rounding_by_name("a8"));
}

/* Every scheme of the table can be encoded, and those that mix widths come to the bits asked for.
 */
static void test_every_scheme(void **state)
{
    (void)state;
    enum { N = 200, K = 192 };
    float *rows = malloc((size_t)N * K * sizeof *rows), activations[K];
    uint32_t seed = 3;
    for (size_t i = 0; i < (size_t)N * K; i++) {
        float sum = 0;
        for (int j = 0; j < 4; j++)
            sum += (float)((seed = seed * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
        rows[i] = sum;
    }
    for (size_t c = 0; c < K; c++)
        activations[c] = 1 + (float)(c % 7);
    for (size_t i = 0; i < mb_scheme_count(); i++) {
        const struct mb_scheme *scheme = mb_scheme_at(i);
        struct mb_channelwise_options options = scheme->options;
        struct mb_channelwise c;
        options.bits = 4;
        if (scheme->one_width)
            options.palette = 1u << 3;
        assert_int_equal(mb_channelwise_encode(rows, N, K, activations, &options, NULL, &c), MB_OK);
        const double bits = mb_channelwise_bits(&c);
        const double step = (double)options.align / K; /* so many columns change at once */
        if (scheme->one_width ? bits < 3 : fabs(bits - 4) > 0.02 + step)
            fail_msg("%s: %.3f bits", scheme->name, bits);
        assert_true(c.error > 0 && c.error < (scheme->options.codes == MB_CODES_LOG ? 0.4 : 0.3));
        mb_channelwise_free(&c);
    }
    free(rows);
}

static double kl_of(struct mb_network *network, struct mb_reference *reference,
                    const struct mb_windows *windows)
{
    struct mb_evaluation e = {.size = sizeof e};
    struct mb_error error;
    if (mb_evaluate_against(network, reference, windows, NULL, &e, &error) != MB_OK)
        fail_msg("%s", error.message);
    mb_evaluation_free(&e);
    return e.kl_mean;
}

/* A format in a simulation has the loss of the mix in f32, and with activations rounded in groups
 * of 32 that of its kernels. */
static void check_format(const char *path, enum mb_format format)
{
    struct mb_model *model = ns_open(path);
    struct mb_windows windows = ns_windows(2, 32, 2048);
    struct mb_simulation *simulation = simulate(model);
    struct mb_network *network = mb_simulation_network(simulation);
    struct mb_reference *reference;
    assert_int_equal(mb_reference_create(network, &windows, NULL, &reference, NULL), MB_OK);
    struct mb_weight_choice choice = format_choice(format);
    const struct mb_scheme_size size = store(simulation, &choice);
    const double simulated = kl_of(network, reference, &windows);
    choice.activations = mb_rounding_by_name("a8-g32");
    (void)store(simulation, &choice);
    const double rounded = kl_of(network, reference, &windows);
    enum mb_format *formats = ns_uniform(model, format);
    double bytes = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (tensor->quantizable)
            bytes += (double)(tensor->n * mb_format_row_bytes(formats[i], tensor->k));
    }
    assert_true(fabs(mb_scheme_bits(&size) * size.weights - 8 * bytes) < 1);
    for (int kernels = 0; kernels < 2; kernels++) {
        struct mb_network *mix =
            ns_network(model, formats, kernels ? MB_NUMERICS_KERNEL : MB_NUMERICS_F32, NULL);
        const double kl = kl_of(mix, reference, &windows);
        const double expected = kernels ? rounded : simulated;
        if (fabs(kl - expected) > (kernels ? 0.03 : 0.001) * kl)
            fail_msg("%s: %g simulated, %g by %s", path, expected, kl, kernels ? "kernels" : "f32");
        mb_network_destroy(mix);
    }
    assert_true(rounded != simulated);
    /* And back: the weights of the file are no loss at all. */
    choice = format_choice(MB_FORMAT_NONE);
    (void)store(simulation, &choice);
    assert_true(kl_of(network, reference, &windows) == 0);
    free(formats);
    mb_reference_destroy(reference);
    mb_simulation_destroy(simulation);
    mb_windows_free(&windows);
    mb_model_close(model);
}

static void test_formats_and_activations(void **state)
{
    (void)state;
    check_format(TINY_MODEL, MB_FORMAT_Q4_0);
    check_format(HYBRID_MODEL, MB_FORMAT_Q8_0); /* a tied output */
}

/* Where only some matrices read rounded activations, the others' products have the bits of floats.
 */
static void test_hybrid(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_windows windows = ns_windows(1, 32, 2048);
    struct mb_simulation *simulation = simulate(model);
    struct mb_network *network = mb_simulation_network(simulation);
    struct mb_reference *reference;
    assert_int_equal(mb_reference_create(network, &windows, NULL, &reference, NULL), MB_OK);
    struct mb_weight_choice choice = {.format = MB_FORMAT_Q8_0,
                                      .feed_forward = MB_FORMAT_Q4_0,
                                      .activations = mb_rounding_by_name("a8-token")};
    const double bits = 8.5, low = 4.5;
    const struct mb_scheme_size size = store(simulation, &choice);
    assert_true(mb_scheme_bits(&size) > low && mb_scheme_bits(&size) < bits);
    const double hybrid = kl_of(network, reference, &windows);
    choice.activations = NULL;
    (void)store(simulation, &choice);
    const double floats = kl_of(network, reference, &windows);
    choice.feed_forward = MB_FORMAT_NONE;
    (void)store(simulation, &choice);
    const double eight = kl_of(network, reference, &windows);
    assert_true(eight < floats && hybrid != floats && fabs(hybrid - floats) < floats);
    mb_reference_destroy(reference);
    mb_simulation_destroy(simulation);
    mb_windows_free(&windows);
    mb_model_close(model);
}

/* ---- rounding ---- */

static void test_round_int8(void **state)
{
    (void)state;
    float out[4];
    const float x[] = {127, -63.4f, 0.5f, -0.49f}, zero[] = {0, 0, 0, 0};
    mb_round_int8(x, 4, 0, out);
    assert_true(out[0] == 127 && out[1] == -63 && out[2] == 0 && out[3] == 0);
    mb_round_int8(x, 4, 63.5f, out); /* half a unit; the first is cut */
    assert_true(out[0] == 63.5f && out[1] == -63.5f && out[2] == 0.5f && out[3] == -0.5f);
    mb_round_int8(zero, 4, 0, out);
    assert_true(out[0] == 0 && out[3] == 0);
}

static void test_ranges(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_windows windows = ns_windows(1, 64, 2048);
    struct mb_simulation *simulation = simulate(model);
    struct mb_network *network = mb_simulation_network(simulation);
    struct mb_ranges *ranges;
    struct mb_importance *importance;
    struct mb_error error;
    assert_int_equal(mb_ranges_collect(network, &windows, NULL, &ranges, &error), MB_OK);
    assert_int_equal(mb_importance_collect(network, &windows, NULL, &importance, &error), MB_OK);
    size_t seen = 0;
    for (size_t i = 0; i < network->matrix_count; i++) {
        const struct mb_matrix *matrix = &network->matrices[i];
        const float most = mb_ranges_quantile(ranges, i, 1);
        const float half = mb_ranges_quantile(ranges, i, 0.5);
        const float nearly = mb_ranges_quantile(ranges, i, 0.999);
        assert_true(half <= nearly && nearly <= most);
        const float *squares = importance->weights[matrix->tensor];
        if (most == 0)
            continue;
        /* The largest square is at least the mean, and within the count of it. */
        double mean = 0;
        for (size_t c = 0; c < matrix->k; c++)
            mean += (double)squares[c] / (double)matrix->k;
        assert_true((double)most * (double)most >= mean);
        assert_true((double)most * (double)most <= 64 * mean * (double)matrix->k * 1.001);
        seen++;
    }
    assert_true(seen + 1 >= network->matrix_count); /* all but the embedding */
    mb_ranges_free(ranges);
    mb_importance_free(importance);
    mb_simulation_destroy(simulation);
    mb_windows_free(&windows);
    mb_model_close(model);
}

static int stop(void *user, double done, double total, const char *note)
{
    (void)total;
    (void)note;
    *(double *)user = done;
    return done > 0;
}

static void test_interrupted(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_simulation *simulation = simulate(model);
    double done = 0;
    const struct mb_progress progress = {stop, &done};
    const struct mb_weight_choice choice = format_choice(MB_FORMAT_Q8_0);
    struct mb_scheme_size size;
    struct mb_error error;
    assert_int_equal(mb_simulation_store(simulation, &choice, NULL, &progress, &size, &error),
                     MB_ERR_INTERRUPTED);
    assert_true(done > 0);
    mb_simulation_destroy(simulation);
    mb_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),       cmocka_unit_test(test_every_scheme),
        cmocka_unit_test(test_hybrid),      cmocka_unit_test(test_formats_and_activations),
        cmocka_unit_test(test_round_int8),  cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
