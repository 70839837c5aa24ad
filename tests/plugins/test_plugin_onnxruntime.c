/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX Runtime plug-in, driven through its operator's table as the host drives it: loading and
 * refusals, products of every kind against f64, models that are wrong, threads, unloading. */
#include "onnx_harness.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- loading --------------------------------------------------------------------------------- */

static void test_refuses_old_hosts(void **state)
{
    (void)state;
    struct plugin p = open_plugin();
    fake.newest = 16;
    assert_error(p.register_ops(&p.options, &fake_base), "needs ONNX Runtime 1.17");
    fake.newest = 17;
    assert_ok(p.register_ops(&p.options, &fake_base));
    unload(&p);
}

static void test_settings(void **state)
{
    (void)state;
    struct plugin p = open_plugin();
    p.options.entries[0].key = "mixbit.accuracy";
    p.options.entries[0].value = "best";
    assert_error(p.register_ops(&p.options, &fake_base), "'best' is none of node, int8");
    p.options.entries[0].value = "a word that is far longer than any of those that there are";
    assert_error(p.register_ops(&p.options, &fake_base), "too small");
    p.options.entries[0].key = NULL;
    setenv("MIXBIT_ONNXRUNTIME_ACCURACY", "float", 1);
    assert_error(p.register_ops(&p.options, &fake_base), "MIXBIT_ONNXRUNTIME_ACCURACY 'float'");
    unsetenv("MIXBIT_ONNXRUNTIME_ACCURACY");
    unload(&p);
    setenv("MIXBIT_ISA", "abacus", 1);
    p = open_plugin();
    assert_error(p.register_ops(&p.options, &fake_base), "MIXBIT_ISA");
    unsetenv("MIXBIT_ISA");
    unload(&p);
}

static void test_declares_all_inputs(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    assert_string_equal(p.options.domain->name, "com.microsoft");
    assert_int_equal(p.options.domain->count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct ort_custom_op *op = p.options.domain->operators[i];
        const int type = i == FLOATS ? ORT_TYPE_FLOAT : ORT_TYPE_FLOAT16;
        const int types[FAKE_INPUTS] = {
            type, ORT_TYPE_UINT8, type, ORT_TYPE_UNDEFINED, ORT_TYPE_INT32, type};
        assert_int_equal(op->version, 17);
        assert_true(op->infer_shape == NULL); /* see the plug-in's library.c */
        assert_string_equal(op->get_name(op), "MatMulNBits");
        assert_string_equal(op->get_provider(op), "CPUExecutionProvider");
        assert_int_equal(op->get_input_count(op), FAKE_INPUTS);
        assert_int_equal(op->get_output_count(op), 1);
        assert_int_equal(op->get_output_type(op, 0), type);
        assert_int_equal(op->get_output_characteristic(op, 0), ORT_REQUIRED);
        for (size_t input = 0; input < FAKE_INPUTS; input++) {
            assert_int_equal(op->get_input_type(op, input), types[input]);
            assert_int_equal(op->get_input_characteristic(op, input),
                             input < ZEROS ? ORT_REQUIRED : ORT_OPTIONAL);
            assert_int_equal(op->get_input_memory_type(op, input), ORT_MEMORY_DEFAULT);
        }
    }
    unload(&p);
}

/* ---- products of nodes ----------------------------------------------------------------------- */

static double product_error(const struct plugin *p, const struct node *node)
{
    void *kernel = NULL;
    struct ort_kernel_context context = context_of(node);
    assert_ok(create(p, node, &kernel));
    const struct ort_custom_op *op = operator_of(p, node);
    assert_ok(op->compute_v2(kernel, &context));
    const double error = error_of(node, &context.output);
    free(context.output.data);
    op->destroy_kernel(kernel);
    return error;
}

static void check_product(const struct plugin *p, const struct node *node, int64_t level)
{
    const double error = product_error(p, node);
    if (!(error <= bound_of(node, level)))
        fail_msg("%zu bits, block %zu, zeros %d, level %d, %zu x %zu x %zu: error %g", node->bits,
                 node->block, (int)node->zeros, (int)level, node->m, node->n, node->k, error);
}

/* ---- products -------------------------------------------------------------------------------- */

static void test_products(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    static const size_t bits[] = {2, 4, 8}, blocks[] = {16, 32, 64, 256}, rows[] = {1, 7, 130};
    static const int64_t levels[] = {0, 2, 4};
    for (size_t i = 0; i < 3 * 4 * 3 * 3 * 2; i++) {
        struct node node = {.n = 81,
                            .k = 256,
                            .m = rows[i % 3],
                            .bits = bits[i / 3 % 3],
                            .block = blocks[i / 9 % 4],
                            .zeros = (enum zeros)(i / 36 % 3),
                            .type = i % 2 == 0 ? ORT_TYPE_FLOAT : ORT_TYPE_FLOAT16,
                            .level = levels[i / 108 % 2 + i % 2],
                            .with_bias = i % 5 == 0,
                            .with_groups = i % 7 == 0};
        make_node(&node);
        check_product(&p, &node, node.level);
        free_node(&node);
    }
    unload(&p);
}

static void test_odd_shapes(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    static const struct {
        size_t n, k, m, block;
    } shapes[] = {{1, 1, 1, 16},    {1, 33, 2, 32},     {17, 200, 3, 128},
                  {700, 40, 1, 64}, {16, 64, 1030, 32}, {33, 31, 5, 256}};
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        struct node node = {.n = shapes[i / 2].n,
                            .k = shapes[i / 2].k,
                            .m = shapes[i / 2].m,
                            .block = shapes[i / 2].block,
                            .bits = 4,
                            .zeros = PACKED,
                            .type = ORT_TYPE_FLOAT,
                            .level = i % 2 == 0 ? 0 : 4};
        make_node(&node);
        check_product(&p, &node, node.level);
        free_node(&node);
    }
    unload(&p);
}

/* Scales that f16 does not hold, and the user's word on accuracy. */
static void test_scales_and_wishes(void **state)
{
    (void)state;
    static const struct {
        const char *word;
        int64_t level;
    } wishes[] = {{"node", 1}, {"int8", 4}, {"f16", 2}, {"int16", 0}, {"f32", STRICT}};
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        const struct plugin p = load(wishes[i].word);
        for (double scale = 1e-12; scale < 1e12; scale *= 1e4) {
            struct node node = {.n = 20,
                                .k = 96,
                                .m = 3,
                                .bits = 4,
                                .block = 32,
                                .zeros = FLOAT,
                                .type = ORT_TYPE_FLOAT,
                                .level = 1,
                                .scale = scale};
            make_node(&node);
            check_product(&p, &node, wishes[i].level);
            free_node(&node);
        }
        unload(&p);
    }
}

/* Sessions at the same time, each with a wish of its own. */
static void test_two_wishes(void **state)
{
    (void)state;
    const struct plugin strict = load("f32"), coarse = load("int8");
    struct node node = {.n = 40,
                        .k = 256,
                        .m = 3,
                        .bits = 4,
                        .block = 32,
                        .zeros = PACKED,
                        .type = ORT_TYPE_FLOAT,
                        .level = 2};
    make_node(&node);
    check_product(&strict, &node, STRICT);
    check_product(&coarse, &node, 4);
    assert_true(product_error(&coarse, &node) > bound_of(&node, 2));
    check_product(&strict, &node, STRICT);
    unload(&coarse);
    check_product(&strict, &node, STRICT);
    free_node(&node);
    unload(&strict);
}

static float output_at(const struct ort_kernel_context *context, size_t i)
{
    return ((const float *)context->output.data)[i];
}

/* What is no number makes outputs of its row of weights so, and no others; among activations it
 * counts as nothing. */
static void test_not_numbers(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    for (int64_t level = 0; level <= 4; level += 2)
        for (enum zeros zeros = NONE; zeros <= FLOAT; zeros++) {
            struct node node = {.n = 20,
                                .k = 64,
                                .m = 2,
                                .bits = 4,
                                .block = 32,
                                .zeros = zeros,
                                .type = ORT_TYPE_FLOAT,
                                .level = level};
            make_node(&node);
            ((float *)node.values[SCALES].data)[2 * 5] = NAN;
            ((float *)node.values[SCALES].data)[2 * 6 + 1] = INFINITY;
            ((float *)node.values[A].data)[64 + 3] = NAN;
            ((float *)node.values[A].data)[64 + 40] = INFINITY;
            void *kernel = NULL;
            struct ort_kernel_context context = context_of(&node);
            assert_ok(create(&p, &node, &kernel));
            assert_ok(operator_of(&p, &node)->compute_v2(kernel, &context));
            for (size_t i = 0; i < 20; i++)
                assert_int_equal(isfinite(output_at(&context, i)) != 0, i != 5 && i != 6);
            free(context.output.data);
            operator_of(&p, &node)->destroy_kernel(kernel);
            free_node(&node);
        }
    unload(&p);
}

static void test_weights_that_change(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    for (size_t input = B; input < FAKE_INPUTS; input++) {
        struct node node = {.n = 20,
                            .k = 96,
                            .m = 3,
                            .bits = 4,
                            .block = 32,
                            .zeros = PACKED,
                            .type = ORT_TYPE_FLOAT,
                            .with_groups = true,
                            .with_bias = true};
        make_node(&node);
        node.info.is_constant[input] = false;
        fake.logged = 0;
        check_product(&p, &node, node.level);
        assert_int_equal(fake.logged, input == BIAS ? 0 : 1);
        if (input != BIAS)
            assert_non_null(strstr(fake.log, "no constants"));
        free_node(&node);
    }
    unload(&p);
}

static void test_empty_input(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    struct node node = {.n = 20, .k = 64, .m = 1, .bits = 4, .block = 32, .type = ORT_TYPE_FLOAT};
    make_node(&node);
    node.values[A].rank = 3;
    memcpy(node.values[A].dimensions, (const int64_t[]){2, 0, 64}, 3 * sizeof(int64_t));
    void *kernel = NULL;
    struct ort_kernel_context context = context_of(&node);
    assert_ok(create(&p, &node, &kernel));
    assert_ok(operator_of(&p, &node)->compute_v2(kernel, &context));
    assert_int_equal(context.output.rank, 3);
    assert_int_equal(context.output.dimensions[1], 0);
    assert_int_equal(context.output.dimensions[2], 20);
    free(context.output.data);
    operator_of(&p, &node)->destroy_kernel(kernel);
    free_node(&node);
    unload(&p);
}

/* ---- models that are wrong ------------------------------------------------------------------- */

static void test_wrong_attributes(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    static const struct {
        size_t attribute;
        int64_t value;
        const char *message;
    } cases[] = {
        {0, 0, "K is 0"},
        {0, -5, "K is -5"},
        {0, 128, "elements"},
        {0, INT64_MAX, "too large"},
        {1, 0, "N is 0"},
        {1, 21, "elements"},
        {1, INT64_MAX, "too large"},
        {2, 3, "bits is 3"},
        {2, 8, "elements"},
        {2, INT64_MIN, "bits is"},
        {3, 8, "block_size is 8"},
        {3, 48, "block_size is 48"},
        {3, INT64_MAX, "block_size is"},
        {3, 64, "elements"},
    };
    struct node node = {
        .n = 20, .k = 96, .m = 1, .bits = 4, .block = 32, .type = ORT_TYPE_FLOAT, .zeros = PACKED};
    make_node(&node);
    void *kernel = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t right = node.info.attributes[cases[i].attribute].value;
        node.info.attributes[cases[i].attribute].value = cases[i].value;
        assert_error(create(&p, &node, &kernel), cases[i].message);
        assert_null(kernel);
        node.info.attributes[cases[i].attribute].value = right;
    }
    for (size_t i = 0; i < 4; i++) {
        const char *name = node.info.attributes[i].name;
        node.info.attributes[i].name = "other";
        assert_error(create(&p, &node, &kernel), "is missing");
        node.info.attributes[i].name = name;
    }
    node.info.attributes[5].name = "weight_prepacked";
    node.info.attributes[5].value = 1;
    assert_error(create(&p, &node, &kernel), "CUDA");
    free_node(&node);
    unload(&p);
}

static void test_wrong_inputs(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    struct node node = {.n = 20,
                        .k = 96,
                        .m = 2,
                        .bits = 4,
                        .block = 32,
                        .type = ORT_TYPE_FLOAT,
                        .zeros = PACKED,
                        .with_groups = true,
                        .with_bias = true};
    make_node(&node);
    void *kernel = NULL;
    for (size_t i = B; i < FAKE_INPUTS; i++) { /* of another size, type, rank */
        struct ort_value *value = &node.values[i];
        const struct ort_value right = *value;
        value->dimensions[1]++;
        assert_error(create(&p, &node, &kernel), "elements");
        *value = right;
        value->type = i == ZEROS ? ORT_TYPE_FLOAT16 : 11;
        assert_error(create(&p, &node, &kernel), "type");
        *value = right;
        value->rank = 9;
        assert_error(create(&p, &node, &kernel), "9 dimensions");
        *value = right;
    }
    int32_t *groups = node.values[GROUPS].data;
    for (size_t i = 0; i < 2; i++) {
        const int32_t right = groups[5];
        groups[5] = i == 0 ? -1 : 3;
        assert_error(create(&p, &node, &kernel), "g_idx[5] is");
        groups[5] = right;
    }
    for (size_t i = B; i <= SCALES; i++) {
        node.info.inputs[i] = NULL;
        assert_error(create(&p, &node, &kernel), "is missing");
        node.info.inputs[i] = &node.values[i];
    }
    free_node(&node);
    unload(&p);
}

static void test_wrong_runs(void **state)
{
    (void)state;
    const struct plugin p = load(NULL);
    struct node node = {
        .n = 20, .k = 96, .m = 2, .bits = 4, .block = 32, .type = ORT_TYPE_FLOAT, .zeros = PACKED};
    make_node(&node);
    const struct ort_custom_op *op = operator_of(&p, &node);
    void *kernel = NULL;
    assert_ok(create(&p, &node, &kernel));
    struct ort_kernel_context context = context_of(&node);
    node.values[A].dimensions[1] = 95;
    assert_error(op->compute_v2(kernel, &context), "last dimension of A is 95; K is 96");
    node.values[A].dimensions[1] = 96;
    node.values[A].rank = 0;
    assert_error(op->compute_v2(kernel, &context), "last dimension");
    node.values[A].rank = 2;
    node.values[A].type = ORT_TYPE_FLOAT16;
    assert_error(op->compute_v2(kernel, &context), "input A");
    node.values[A].type = ORT_TYPE_FLOAT;
    context.inputs[A] = NULL;
    assert_error(op->compute_v2(kernel, &context), "input A is missing");
    context = context_of(&node);
    fake.output_fails = true;
    assert_error(op->compute_v2(kernel, &context), "no memory for an output");
    fake.output_fails = false;
    op->destroy_kernel(kernel);

    node.info.is_constant[B] = false; /* checked when they come */
    assert_ok(create(&p, &node, &kernel));
    node.values[B].dimensions[1]--;
    assert_error(op->compute_v2(kernel, &context), "input B has");
    free(context.output.data);
    op->destroy_kernel(kernel);
    op->destroy_kernel(NULL);
    free_node(&node);
    unload(&p);
}

/* ---- threads --------------------------------------------------------------------------------- */

struct runner {
    const struct ort_custom_op *op;
    void *kernel;
    const struct node *node;
    struct ort_kernel_context context;
};

static void *run_kernel(void *argument)
{
    struct runner *runner = argument;
    for (int i = 0; i < 20; i++) {
        free(runner->context.output.data);
        if (runner->op->compute_v2(runner->kernel, &runner->context) != NULL)
            return runner;
    }
    return NULL;
}

/* Two sessions, each run by two threads at a time: all outputs have the same bits, those of a host
 * without loops as well. */
static void test_threads(void **state)
{
    (void)state;
    struct plugin sessions[] = {load(NULL), load(NULL)};
    struct node node = {.n = 300,
                        .k = 256,
                        .m = 9,
                        .bits = 4,
                        .block = 32,
                        .type = ORT_TYPE_FLOAT,
                        .zeros = PACKED,
                        .with_bias = true};
    struct runner runners[5];
    pthread_t threads[4];
    void *kernels[2], *failed;
    make_node(&node);
    assert_ok(create(&sessions[0], &node, &kernels[0]));
    assert_ok(create(&sessions[1], &node, &kernels[1]));
    for (size_t i = 0; i < 5; i++)
        runners[i] = (struct runner){operator_of(&sessions[i % 2], &node), kernels[i % 2], &node,
                                     context_of(&node)};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_kernel, &runners[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_true(fake.loops > 0);
    fake.loop_fails = true;
    assert_null(run_kernel(&runners[4]));
    assert_true(error_of(&node, &runners[0].context.output) <= bound_of(&node, 0));
    for (size_t i = 0; i < 5; i++) {
        assert_memory_equal(runners[i].context.output.data, runners[0].context.output.data,
                            node.m * node.n * sizeof(float));
        if (i > 0)
            free(runners[i].context.output.data);
    }
    free(runners[0].context.output.data);
    for (size_t i = 0; i < 2; i++) {
        runners[i].op->destroy_kernel(kernels[i]);
        unload(&sessions[i]);
    }
    free_node(&node);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_refuses_old_hosts), TEST(test_settings),         TEST(test_declares_all_inputs),
        TEST(test_products),          TEST(test_odd_shapes),       TEST(test_scales_and_wishes),
        TEST(test_two_wishes),        TEST(test_not_numbers),      TEST(test_weights_that_change),
        TEST(test_empty_input),       TEST(test_wrong_attributes), TEST(test_wrong_inputs),
        TEST(test_wrong_runs),        TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
