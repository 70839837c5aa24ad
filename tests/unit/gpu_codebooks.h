/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices on a GPU backend against the CPU's products, whose bits are the reference's:
 * equal where k is in one part, within rounding where it is split. The tests of every backend are
 * these. */
#ifndef MIXBIT_TESTS_GPU_CODEBOOKS_H
#define MIXBIT_TESTS_GPU_CODEBOOKS_H

#include "kernels/codebook_product.h"
#include "unit/gpu_device.h"

#include <stdio.h>

enum { ANY = MB_BACKEND_CODEBOOK };

struct on_device {
    struct mb_backend_weights *weights;
    struct mb_backend_input *input;
    struct mb_backend_output *output;
    float *expected, *y;
};

static void bring_over(const struct product *p, struct on_device *on)
{
    struct mb_error error = {0};
    *on = (struct on_device){.expected = allocate(p->m * p->n * sizeof(float)),
                             .y = allocate(p->m * p->n * sizeof(float))};
    assert_int_equal(mb_codebook_matmul(NULL, &p->weights, p->x, p->m, p->k, on->expected, p->n),
                     MB_OK);
    if (gpu->upload_codebook(device, &p->weights, &on->weights, &error) != MB_OK ||
        gpu->input_of_codebook(on->weights, p->m, &on->input, &error) != MB_OK ||
        gpu->output_create(device, p->m, p->n, &on->output, &error) != MB_OK)
        fail_msg("%s", error.message);
}

static void free_on_device(struct on_device *on)
{
    gpu->output_free(on->output);
    gpu->input_free(on->input);
    gpu->free_weights(on->weights);
    free(on->expected);
    free(on->y);
}

/* The first m rows through `kernel`. */
static void check_kernel(const struct product *p, struct on_device *on,
                         const struct mb_backend_kernel *kernel, size_t m)
{
    struct mb_error error = {0};
    const struct mb_backend_product product = {kernel, on->weights, on->input, on->output, m};
    memset(on->y, 0xff, m * p->n * sizeof *on->y);
    if (gpu->input_write(on->input, p->x, p->k, m, &error) != MB_OK ||
        gpu->multiply(device, &product, &error) != MB_OK ||
        gpu->output_read(on->output, on->y, p->n, m, &error) != MB_OK)
        fail_msg("%s", error.message);
    double wrong = 0, power = 0;
    for (size_t i = 0; i < m * p->n; i++) {
        wrong += pow((double)on->y[i] - (double)on->expected[i], 2);
        power += pow((double)on->expected[i], 2);
    }
    const bool one_part =
        kernel->knobs[MB_KNOB_SPLIT] == 1 || strncmp(kernel->name, "gemm_", 5) == 0;
    const bool same = memcmp(on->y, on->expected, m * p->n * sizeof *on->y) == 0;
    if (!(one_part ? same : sqrt(wrong / power) < 1e-5))
        fail_msg("%s, split %zu: m %zu n %zu k %zu is off by %g", kernel->name,
                 kernel->knobs[MB_KNOB_SPLIT], m, p->n, p->k, sqrt(wrong / power));
}

/* Default kernels of a few numbers of rows. */
static void check_product(size_t n, size_t k, unsigned palette, bool sorted, size_t group,
                          size_t outliers, struct rng *rng)
{
    static const size_t ms[] = {1, 2, 4, 8, 16, 64};
    struct product p;
    struct on_device on;
    struct mb_backend_kernel kernel;
    make_product(&p, 64, n, k, palette, sorted, group, outliers, rng);
    bring_over(&p, &on);
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
        assert_true(gpu->kernel_at(device, (enum mb_format)ANY, n, k, ms[i], 0, &kernel));
        check_kernel(&p, &on, &kernel, ms[i]);
    }
    free_on_device(&on);
    free_product(&p);
}

/* Each width by itself, of both kinds, with and without what is kept beside codes. */
static void test_every_width(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    for (unsigned bits = 1; bits <= MB_CODEBOOK_MOST_BITS; bits++) {
        check_product(53, 200, 1u << bits, true, 64, bits % 2 ? 70 : 0, &rng);
        check_product(53, 200, 1u << bits | BY_COLUMN, true, 0, bits % 2 ? 0 : 70, &rng);
    }
}

static void test_mixes_and_odd_shapes(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    check_product(37, 700, 0x1fe, true, 128, 300, &rng);
    check_product(64, 700, 0x1fe, false, 100, 0, &rng); /* runs of a column or two */
    check_product(33, 300, 0x1e | BY_COLUMN, true, 0, 33, &rng);
    check_product(1, 1, 1u << 3, true, 1, 1, &rng);
    check_product(16, 33, 1u << 2 | BY_COLUMN, true, 0, 5, &rng);
}

/* All tiles, one of which splits k where a row has many outliers. */
static void test_every_tile(void **state)
{
    (void)state;
    static const size_t ms[] = {3, 37};
    struct rng rng = rng_seed(rng_test_seed());
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
        struct product p;
        struct on_device on;
        struct mb_backend_kernel kernel;
        size_t count = 0;
        make_product(&p, ms[i], 53, 2048, 0x3c, true, 128, 900, &rng);
        bring_over(&p, &on);
        while (gpu->kernel_at(device, (enum mb_format)ANY, p.n, p.k, ms[i], count, &kernel)) {
            check_kernel(&p, &on, &kernel, ms[i]);
            count++;
        }
        assert_true(count > 3);
        free_on_device(&on);
        free_product(&p);
    }
}

/* Rows of a matrix that start inside it, whose outliers are theirs. */
static void test_views(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    struct on_device on;
    struct mb_backend_kernel kernel;
    make_product(&p, 2, 80, 160, 0x1e, true, 32, 200, &rng);
    struct product part = p;
    assert_int_equal(mb_codebook_view(&p.weights, 32, 64, &part.weights), MB_OK);
    part.n = 32;
    bring_over(&part, &on);
    assert_true(gpu->kernel_at(device, (enum mb_format)ANY, part.n, part.k, 2, 0, &kernel));
    check_kernel(&part, &on, &kernel, 2);
    free_on_device(&on);
    free_product(&p);
}

/* One input serves one matrix after another, and grows. */
static void test_an_input_for_many(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    static const size_t ks[] = {300, 40, 900};
    struct mb_backend_input *input = NULL;
    struct mb_error error = {0};
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        struct product p;
        struct on_device on;
        struct mb_backend_kernel kernel;
        make_product(&p, 1 + i, 20, ks[i], 0x1e, true, 32, i == 1 ? 0 : 30, &rng);
        bring_over(&p, &on);
        gpu->input_free(on.input);
        assert_int_equal(gpu->input_of_codebook(on.weights, p.m, &input, &error), MB_OK);
        on.input = input;
        assert_true(gpu->kernel_at(device, (enum mb_format)ANY, p.n, p.k, p.m, 0, &kernel));
        check_kernel(&p, &on, &kernel, p.m);
        on.input = NULL;
        free_on_device(&on);
        free_product(&p);
    }
    gpu->input_free(input);
}

/* Nothing is queued of what does not fit, and the reason is given. */
static void test_what_is_wrong_is_refused(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct product p;
    struct on_device on;
    struct mb_error error = {0};
    struct mb_backend_input *other;
    make_product(&p, 2, 16, 64, 1u << 4, true, 32, 0, &rng);
    bring_over(&p, &on);
    assert_int_equal(gpu->input_write(on.input, p.x, p.k, 3, &error), MB_ERR_SHAPE);
    assert_int_equal(gpu->input_write(on.input, p.x, p.k, 2, &error), MB_OK);
    const struct mb_backend_product many = {NULL, on.weights, on.input, on.output, 3};
    assert_int_equal(gpu->multiply(device, &many, &error), MB_ERR_SHAPE);
    /* activations of the type, but of no matrix */
    assert_int_equal(gpu->input_create(device, MB_ACTIVATION_I8G32, 2, 64, &other, &error), MB_OK);
    assert_int_equal(gpu->input_write(other, p.x, p.k, 2, &error), MB_OK);
    const struct mb_backend_product plain = {NULL, on.weights, other, on.output, 2};
    assert_int_equal(gpu->multiply(device, &plain, &error), MB_ERR_SHAPE);
    assert_non_null(strstr(error.message, "another shape"));
    struct mb_backend_weights *none;
    const struct mb_codebook_weights empty = {0};
    assert_int_equal(gpu->upload_codebook(device, &empty, &none, &error), MB_ERR_SHAPE);
    gpu->input_free(other);
    free_on_device(&on);
    free_product(&p);
}

#define GPU_CODEBOOK_TESTS(test)                                                                   \
    test(test_every_width), test(test_mixes_and_odd_shapes), test(test_every_tile),                \
        test(test_views), test(test_an_input_for_many), test(test_what_is_wrong_is_refused)

#endif
