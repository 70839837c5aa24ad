/* SPDX-License-Identifier: Apache-2.0 */
/* Networks whose products are integer-only: what a product gives is the f32 product within the
 * steps of its grids, a view of some rows gives the bits of the whole, and the next choice of a
 * simulation is not touched by this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/integer.h"
#include "model/schemes.h"
#include "network_support.h"
#include "support/support.h"

struct fixture {
    struct mb_model *model;
    struct mb_windows windows;
    struct mb_simulation *simulation;
    struct mb_network *network;
    struct mb_integer_ranges *ranges;
};

static struct fixture set_up(const char *path)
{
    struct fixture f = {.model = ns_open(path), .windows = ns_windows(2, 32, 2048)};
    struct mb_error error;
    if (mb_simulation_create(f.model, NULL, &f.simulation, &error) != MB_OK)
        fail_msg("%s", error.message);
    f.network = mb_simulation_network(f.simulation);
    if (mb_integer_ranges_collect(f.network, &f.windows, NULL, &f.ranges, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_null(f.network->rounding);
    mb_simulation_calibrate(f.simulation, NULL, f.ranges, NULL);
    return f;
}

static void take_down(struct fixture *f)
{
    mb_simulation_destroy(f->simulation);
    mb_integer_ranges_free(f->ranges);
    mb_windows_free(&f->windows);
    mb_model_close(f->model);
}

static float *floats(size_t count)
{
    float *made = malloc(count * sizeof *made);
    assert_non_null(made);
    return made;
}

/* One matrix with rows of its own, on x within what it saw: the input's step, the weights' step and
 * the output's step are all that separates it from f64. */
static void check_product(struct fixture *f, size_t matrix, struct mb_integer_products *products)
{
    enum { ROWS = 3 };
    const struct mb_matrix *of = &f->network->matrices[matrix];
    const struct mb_rounding *rounding = mb_integer_products_rounding(products);
    const size_t n = of->n, k = of->k;
    float *w = floats(n * k), *x = floats(ROWS * (k + 1)), *y = floats(ROWS * n);
    uint32_t state = 7;
    for (size_t i = 0; i < n * k; i++)
        w[i] = (float)(int32_t)(state = state * 1664525u + 1013904223u) * 0x1p-36f;
    for (size_t i = 0; i < ROWS * (k + 1); i++)
        x[i] = (float)(int32_t)(state = state * 1664525u + 1013904223u) * 0x1p-33f;
    assert_int_equal(rounding->multiply(rounding->user, &of->weights, x, k + 1, ROWS, y),
                     MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_integer_products_store(products, matrix, w), MB_OK);
    assert_int_equal(rounding->multiply(rounding->user, &of->weights, x, k + 1, ROWS, y), MB_OK);
    /* Steps are not visible from here: the largest ranges that this model's inputs and outputs have
     * (|x| < 20, |y| < 40) bound them. */
    const double input_half = 20.0 / 255, output_half = 40.0 / 255;
    double error = 0, square = 0;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t j = 0; j < n; j++) {
            double exact = 0, sizes = 0, largest = 0;
            for (size_t i = 0; i < k; i++) {
                exact += (double)x[r * (k + 1) + i] * (double)w[j * k + i];
                sizes += fabs((double)w[j * k + i]);
                largest = fmax(largest, fabs((double)w[j * k + i]));
            }
            const double off = fabs((double)y[r * n + j] - exact);
            assert_true(off <= output_half + input_half * sizes + 0.25 * (double)k * largest / 254);
            error += off * off;
            square += exact * exact;
        }
    assert_true(error < square); /* not merely zeros */
    /* A view of the rows from 16 on. */
    size_t bytes;
    struct mb_weights view = of->weights;
    float *part = floats(ROWS * (n - 16));
    assert_int_equal(mb_pack_size(view.format, 16, k, &bytes), MB_OK);
    view.data = (uint8_t *)view.data + bytes;
    view.n = n - 16;
    assert_int_equal(rounding->multiply(rounding->user, &view, x, k + 1, ROWS, part), MB_OK);
    for (size_t r = 0; r < ROWS; r++)
        assert_memory_equal(part + r * (n - 16), y + r * n + 16, (n - 16) * sizeof *y);
    free(w);
    free(x);
    free(y);
    free(part);
}

static void test_products(void **state)
{
    (void)state;
    struct fixture f = set_up(TINY_MODEL);
    struct mb_integer_products *products;
    assert_int_equal(mb_integer_products_create(f.network, f.ranges, &products), MB_OK);
    size_t checked = 0;
    for (size_t i = 0; i < f.network->matrix_count && checked < 4; i++)
        if (f.network->matrices[i].weights.data != NULL && i != f.network->output &&
            f.network->matrices[i].n > 16) {
            check_product(&f, i, products);
            checked++;
        }
    assert_int_equal(checked, 4);
    mb_integer_products_free(products);
    take_down(&f);
}

/* Looked up, never multiplied: there is nothing to pack. */
static void test_looked_up(void **state)
{
    (void)state;
    struct fixture f = set_up(TINY_MODEL);
    const struct mb_matrix *embedding = &f.network->matrices[f.network->embedding];
    struct mb_integer_products *products;
    float *rows = calloc(embedding->n * embedding->k, sizeof *rows);
    assert_non_null(rows);
    assert_int_not_equal(f.network->embedding, f.network->output);
    assert_int_equal(mb_integer_products_create(f.network, f.ranges, &products), MB_OK);
    assert_null(embedding->weights.data);
    assert_int_equal(mb_integer_products_store(products, f.network->embedding, rows), MB_OK);
    free(rows);
    mb_integer_products_free(products);
    take_down(&f);
}

static double kl_of(struct fixture *f, struct mb_reference *reference)
{
    struct mb_evaluation e = {.size = sizeof e};
    assert_int_equal(mb_evaluate_against(f->network, reference, &f->windows, NULL, &e, NULL),
                     MB_OK);
    const double kl = e.kl_mean;
    mb_evaluation_free(&e);
    return kl;
}

static void check_model(const char *path)
{
    struct fixture f = set_up(path);
    struct mb_reference *reference;
    struct mb_scheme_size size;
    const struct mb_weight_choice integer = {.format = MB_FORMAT_NONE,
                                             .feed_forward = MB_FORMAT_NONE,
                                             .integer = true},
                                  eight = {.format = MB_FORMAT_Q8_0,
                                           .feed_forward = MB_FORMAT_NONE},
                                  two = {.format = MB_FORMAT_Q2_K, .feed_forward = MB_FORMAT_NONE};
    assert_int_equal(mb_reference_create(f.network, &f.windows, NULL, &reference, NULL), MB_OK);
    assert_int_equal(mb_simulation_store(f.simulation, &eight, NULL, NULL, &size, NULL), MB_OK);
    const double before = kl_of(&f, reference);
    assert_int_equal(mb_simulation_store(f.simulation, &two, NULL, NULL, &size, NULL), MB_OK);
    const double worst = kl_of(&f, reference);
    assert_int_equal(mb_simulation_store(f.simulation, &integer, NULL, NULL, &size, NULL), MB_OK);
    const double kl = kl_of(&f, reference), again = kl_of(&f, reference);
    assert_true(kl > before && kl < worst);
    assert_true(kl == again);
    assert_true(mb_scheme_bits(&size) > 8 && mb_scheme_bits(&size) < 9);
    assert_int_equal(mb_simulation_store(f.simulation, &eight, NULL, NULL, &size, NULL), MB_OK);
    assert_true(kl_of(&f, reference) == before);
    mb_reference_destroy(reference);
    take_down(&f);
}

static void test_models(void **state)
{
    (void)state;
    check_model(TINY_MODEL);
    check_model(HYBRID_MODEL); /* a tied output */
}

static int stop(void *user, double done, double total, const char *note)
{
    (void)user, (void)total, (void)note;
    return done > 0;
}

static void test_interrupted(void **state)
{
    (void)state;
    struct mb_model *model = ns_open(TINY_MODEL);
    struct mb_windows windows = ns_windows(2, 32, 2048);
    struct mb_network *network = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
    struct mb_integer_ranges *ranges;
    const struct mb_progress progress = {stop, NULL};
    assert_int_equal(mb_integer_ranges_collect(network, &windows, &progress, &ranges, NULL),
                     MB_ERR_INTERRUPTED);
    assert_null(ranges);
    assert_null(network->rounding);
    mb_network_destroy(network);
    mb_windows_free(&windows);
    mb_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_looked_up),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_interrupted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
