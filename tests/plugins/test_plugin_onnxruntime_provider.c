/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX Runtime plug-in as an execution provider, driven through its tables as the host drives
 * it: refusals, devices, which nodes of a graph it takes, packing after which the host's copy of
 * the weights is gone, the bits of the library of operators, the end. */
#include "fake_ort_provider.h"
#include "mixbit/mixbit.h"
#include "onnx_harness.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct ort_status *(*create_fn)(const char *, const struct ort_base *,
                                        const struct ort_logger *, struct ort_factory **, size_t,
                                        size_t *);
typedef struct ort_status *(*release_fn)(struct ort_factory *);

/* The library and, where they were made, its factory and a session's provider. */
struct host {
    void *library;
    create_fn create;
    release_fn release;
    struct ort_session_options options;
    struct ort_factory *factory;
    struct ort_provider *provider;
    const struct ort_registry *registry;
};

static const struct node plain = {.n = 81,
                                  .k = 256,
                                  .m = 5,
                                  .bits = 4,
                                  .block = 32,
                                  .zeros = PACKED,
                                  .type = ORT_TYPE_FLOAT,
                                  .level = 4,
                                  .with_groups = true,
                                  .with_bias = true};

/* ---- loading --------------------------------------------------------------------------------- */

static struct host open_library(void)
{
    struct host host = {.library = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL)};
    assert_non_null(host.library);
    find_function(host.library, "CreateEpFactories", &host.create);
    find_function(host.library, "ReleaseEpFactory", &host.release);
    return host;
}

static struct ort_status *create_factory(struct host *host)
{
    struct ort_factory *factories[4] = {NULL};
    size_t count = 9;
    struct ort_status *status = host->create("mixbit", &fake_base, NULL, factories, 4, &count);
    assert_int_equal(count, status == NULL ? 1 : 0);
    host->factory = factories[0];
    return status;
}

static struct ort_status *create_provider(struct host *host)
{
    return host->factory->create_provider(host->factory, NULL, NULL, 0, &host->options,
                                          (const struct ort_logger *)(const void *)&fake,
                                          &host->provider);
}

/* A session; `key` is an entry that it has, NULL: none. */
static struct host open_session(const char *key, const char *value)
{
    struct host host = open_library();
    host.options.entries[0].key = key;
    host.options.entries[0].value = value;
    assert_ok(create_factory(&host));
    assert_ok(create_provider(&host));
    assert_ok(host.provider->get_kernel_registry(host.provider, &host.registry));
    return host;
}

static void close_session(struct host *host)
{
    if (host->provider != NULL)
        host->factory->release_provider(host->factory, host->provider);
    if (host->factory != NULL)
        assert_ok(host->release(host->factory));
    assert_int_equal(dlclose(host->library), 0);
}

static void test_refuses_hosts(void **state)
{
    (void)state;
    struct host host = open_library();
    struct ort_factory *factory = NULL;
    size_t count = 1;
    fake.newest = 23;
    assert_error(create_factory(&host), "provider needs ONNX Runtime 1.24 or later; this is 1.9.8");
    fake.newest = 24;
    fake.has_no_providers = true;
    assert_error(create_factory(&host), "lacks the interface for providers");
    fake.has_no_providers = false;
    fake.empty_slot = 18;
    assert_error(create_factory(&host), "lacks CreateKernelRegistry");
    fake.empty_slot = 0;
    assert_error(host.create("mixbit", &fake_base, NULL, &factory, 0, &count), "memory");
    assert_int_equal(count, 0);
    assert_ok(create_factory(&host));
    close_session(&host);
    setenv("MIXBIT_ISA", "abacus", 1);
    host = open_library();
    assert_error(create_factory(&host), "MIXBIT_ISA");
    unsetenv("MIXBIT_ISA");
    close_session(&host);
}

static void test_says_what_it_is(void **state)
{
    (void)state;
    struct host host = open_session(NULL, NULL);
    const struct ort_device graphics = {1}, cpu = {ORT_DEVICE_CPU}, other = {2};
    const struct ort_device *const devices[] = {&graphics, &cpu, &other};
    struct ort_provider_device *found[4] = {NULL};
    struct ort_transfer *transfer = (struct ort_transfer *)(void *)&host;
    size_t count = 9;
    struct ort_factory *f = host.factory;
    assert_int_equal(f->version, 24);
    assert_string_equal(f->get_name(f), "MixbitExecutionProvider");
    assert_string_equal(f->get_vendor(f), "mixbit");
    assert_int_equal(f->get_vendor_id(f), 0);
    assert_string_equal(f->get_version(f), mb_version());
    assert_false(f->is_stream_aware(f));
    assert_ok(f->create_data_transfer(f, &transfer));
    assert_null(transfer);
    assert_ok(f->get_supported_devices(f, devices, 3, found, 4, &count));
    assert_int_equal(count, 1);
    assert_ptr_equal(found[0]->device, &cpu);
    assert_ptr_equal(found[0]->factory, f);
    free(found[0]);
    assert_ok(f->get_supported_devices(f, devices, 3, found, 0, &count));
    assert_int_equal(count, 0);
    assert_int_equal(host.provider->version, 24);
    assert_string_equal(host.provider->get_name(host.provider), "MixbitExecutionProvider");
    assert_int_equal(host.registry->count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct ort_definition *d = &host.registry->rows[i].definition;
        assert_string_equal(d->type, "MatMulNBits");
        assert_string_equal(d->domain, "com.microsoft");
        assert_string_equal(d->provider, "MixbitExecutionProvider");
        assert_string_equal(d->constraint, "T1");
        assert_int_equal(d->element_type, i == 0 ? ORT_TYPE_FLOAT : ORT_TYPE_FLOAT16);
        assert_int_equal(d->first, 1);
        assert_int_equal(d->last, 1);
    }
    close_session(&host);
}

static void test_settings(void **state)
{
    (void)state;
    struct host host = open_library();
    assert_ok(create_factory(&host));
    host.options.entries[0].key = "ep.mixbitexecutionprovider.accuracy";
    host.options.entries[0].value = "best";
    assert_error(create_provider(&host), "accuracy 'best' is none of node, int8");
    host.options.entries[0].key = "mixbit.accuracy";
    assert_error(create_provider(&host), "mixbit.accuracy 'best' is none");
    /* The provider's own option comes first. */
    host.options.entries[1].key = "ep.mixbitexecutionprovider.accuracy";
    host.options.entries[1].value = "f32";
    assert_ok(create_provider(&host));
    host.factory->release_provider(host.factory, host.provider);
    host.options = (struct ort_session_options){.domain = NULL};
    setenv("MIXBIT_ONNXRUNTIME_ACCURACY", "float", 1);
    assert_error(create_provider(&host), "MIXBIT_ONNXRUNTIME_ACCURACY 'float'");
    unsetenv("MIXBIT_ONNXRUNTIME_ACCURACY");
    fake.add_fails = true;
    assert_error(create_provider(&host), "no room for a kernel");
    assert_null(host.provider);
    close_session(&host);
}

/* ---- claims ---------------------------------------------------------------------------------- */

static size_t claims(const struct host *host, const struct ort_graph *graph)
{
    struct ort_support support = {.registry = host->registry};
    assert_ok(host->provider->get_capability(host->provider, graph, &support));
    for (size_t i = 0; i < support.count; i++)
        assert_ptr_equal(support.claimed[i], graph->nodes[i]); /* tests put them first */
    return support.count;
}

/* The node is left to the host; the log says `why`, NULL: nothing. */
static void assert_left(const struct host *host, const struct ort_node *node, const char *why)
{
    const struct ort_graph graph = {{node}, 1};
    fake.logged = 0;
    assert_int_equal(claims(host, &graph), 0);
    assert_int_equal(fake.logged, why != NULL);
    if (why != NULL && strstr(fake.log, why) == NULL)
        fail_msg("the log is '%s', not '%s'", fake.log, why);
}

static void test_claims(void **state)
{
    (void)state;
    struct host host = open_session(NULL, NULL);
    struct node halves = plain, fed = plain, bare = plain;
    halves.type = ORT_TYPE_FLOAT16;
    bare.zeros = NONE;
    bare.with_groups = bare.with_bias = false;
    struct node *const all[] = {&halves, &fed, &bare};
    for (size_t i = 0; i < 3; i++)
        make_node(all[i]);
    fed.info.is_constant[BIAS] = false; /* is read in every run, as A is */
    bare.info.count = 3;
    struct ort_node nodes[5];
    struct ort_graph graph = {.count = 5};
    for (size_t i = 0; i < 5; i++) {
        nodes[i] = fake_node_of(&all[i % 3]->info);
        graph.nodes[i] = &nodes[i];
    }
    nodes[3].type = "MatMul";
    nodes[4].domain = "";
    assert_int_equal(claims(&host, &graph), 3);
    assert_int_equal(fake.logged, 0);
    assert_left(&host, &nodes[3], NULL);
    assert_left(&host, &nodes[4], NULL);
    graph.count = 0;
    assert_int_equal(claims(&host, &graph), 0);
    struct ort_registry empty = {.count = 0};
    struct ort_support support = {.registry = &empty};
    graph.count = 1;
    assert_ok(host.provider->get_capability(host.provider, &graph, &support));
    assert_int_equal(support.count, 0);
    for (size_t i = 0; i < 3; i++)
        free_node(all[i]);
    close_session(&host);
}

static void test_leaves_inputs(void **state)
{
    (void)state;
    struct host host = open_session(NULL, NULL);
    struct node node = plain;
    make_node(&node);
    for (size_t i = B; i <= GROUPS; i++) {
        struct ort_node other = fake_node_of(&node.info);
        other.inputs[i].is_constant = false;
        assert_left(&host, &other, "is no constant of its graph");
        other = fake_node_of(&node.info);
        other.inputs[i].is_outer = true;
        assert_left(&host, &other, "is no constant of its graph");
    }
    for (size_t i = B; i < FAKE_INPUTS; i++) {
        const struct ort_node same = fake_node_of(&node.info);
        node.values[i].dimensions[1]++;
        assert_left(&host, &same, "elements");
        node.values[i].dimensions[1]--;
        const int type = node.values[i].type;
        node.values[i].type = 16; /* bf16 */
        assert_left(&host, &same, "type");
        node.values[i].type = type;
    }
    for (size_t i = B; i <= SCALES; i++) {
        struct ort_node other = fake_node_of(&node.info);
        other.inputs[i].value = NULL;
        assert_left(&host, &other, i == B ? "input B is missing" : "type");
    }
    struct ort_node other = fake_node_of(&node.info);
    other.count = 7;
    assert_left(&host, &other, "has 7 inputs");
    other.count = FAKE_INPUTS;
    ((int32_t *)node.values[GROUPS].data)[5] = 99;
    assert_left(&host, &other, "g_idx[5] is 99");
    free_node(&node);
    close_session(&host);
}

static void test_leaves_attributes(void **state)
{
    (void)state;
    struct host host = open_session(NULL, NULL);
    struct node node = plain;
    make_node(&node);
    const struct ort_node same = fake_node_of(&node.info);
    static const struct {
        size_t attribute;
        int64_t value;
        const char *why;
    } cases[] = {{0, 0, "K is 0"}, {1, 80, "elements"}, {2, 3, "bits is 3"}, {3, 48, "is 48"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t right = node.info.attributes[cases[i].attribute].value;
        node.info.attributes[cases[i].attribute].value = cases[i].value;
        assert_left(&host, &same, cases[i].why);
        node.info.attributes[cases[i].attribute].value = right;
    }
    node.info.attributes[5].name = "weight_prepacked";
    node.info.attributes[5].value = 1;
    assert_left(&host, &same, "CUDA");
    node.info.attributes[5].value = 0;
    node.info.attributes[1].name = "other";
    assert_left(&host, &same, "N is missing");
    free_node(&node);
    close_session(&host);
}

/* ---- kernels --------------------------------------------------------------------------------- */

static struct ort_status *create_kernel(const struct host *host, const struct node *node,
                                        struct ort_kernel **kernel)
{
    const size_t row = node->type == ORT_TYPE_FLOAT ? FLOATS : HALVES;
    return host->registry->rows[row].create(host->registry->rows[row].state, &node->info, kernel);
}

/* As the host does it: constant inputs in their order, and what was packed is freed. */
static void pack_kernel(struct ort_kernel *kernel, struct node *node)
{
    assert_non_null(kernel->pack_weight);
    assert_null(kernel->set_shared_weight);
    for (int i = 0; i < FAKE_INPUTS; i++) {
        const struct ort_value *value = node->info.inputs[i];
        bool is_packed = i == A;
        if (value == NULL || !node->info.is_constant[i])
            continue;
        assert_ok(kernel->pack_weight(kernel, value, i, NULL, NULL, &is_packed));
        assert_true(is_packed);
        free(node->values[i].data);
        node->values[i] = (struct ort_value){.type = node->values[i].type};
        node->info.inputs[i] = NULL;
    }
}

/* The node's product by the operator of the library: what a kernel of the provider has to be bit
 * for bit. */
static void *wanted(const struct node *node, const char *accuracy)
{
    const struct plugin p = load(accuracy);
    const struct ort_custom_op *op = operator_of(&p, node);
    struct ort_kernel_context context = context_of(node);
    void *kernel = NULL;
    assert_ok(create(&p, node, &kernel));
    assert_ok(op->compute_v2(kernel, &context));
    assert_true(error_of(node, &context.output) <=
                bound_of(node, accuracy != NULL ? STRICT : node->level));
    op->destroy_kernel(kernel);
    unload(&p);
    return context.output.data;
}

static void check_run(struct ort_kernel *kernel, const struct node *node, const void *right)
{
    struct ort_kernel_context context = context_of(node);
    assert_ok(kernel->compute(kernel, &context));
    assert_memory_equal(context.output.data, right,
                        node->m * node->n * fake_element_bytes(node->type));
    free(context.output.data);
}

static void test_products(void **state)
{
    (void)state;
    struct host host = open_session(NULL, NULL);
    static const size_t bits[] = {2, 4, 8}, rows[] = {1, 7, 130};
    for (size_t i = 0; i < 3 * 3 * 3 * 2; i++) {
        struct node node = plain;
        node.bits = bits[i % 3];
        node.m = rows[i / 3 % 3];
        node.zeros = (enum zeros)(i / 9 % 3);
        node.type = i / 27 == 0 ? ORT_TYPE_FLOAT : ORT_TYPE_FLOAT16;
        node.level = i % 2 == 0 ? 4 : 0;
        node.block = i % 4 == 0 ? 16 : 32;
        node.with_groups = i % 5 == 0;
        node.with_bias = i % 7 == 0;
        make_node(&node);
        void *right = wanted(&node, NULL);
        const struct ort_node in_graph = fake_node_of(&node.info);
        const struct ort_graph graph = {{&in_graph}, 1};
        struct ort_kernel *kernel = NULL;
        assert_int_equal(claims(&host, &graph), 1);
        assert_ok(create_kernel(&host, &node, &kernel));
        assert_int_equal(kernel->version, 24);
        assert_int_equal(kernel->flags, 0);
        pack_kernel(kernel, &node);
        check_run(kernel, &node, right);
        check_run(kernel, &node, right);
        kernel->release(kernel);
        free(right);
        free_node(&node);
    }
    assert_int_equal(fake.logged, 0);
    close_session(&host);
}

/* A session, a node like `plain` for it, and what the library of operators makes of that. */
struct scene {
    struct host host;
    struct node node;
    void *right;
    struct ort_kernel *kernel;
};

static void open_scene(struct scene *s, const char *key, const char *setting, const char *accuracy)
{
    *s = (struct scene){.host = open_session(key, setting), .node = plain};
    make_node(&s->node);
    s->right = wanted(&s->node, accuracy);
}

static void close_scene(struct scene *s)
{
    free(s->right);
    free_node(&s->node);
    close_session(&s->host);
}

static void test_accuracy_option(void **state)
{
    (void)state;
    struct scene s;
    open_scene(&s, "ep.mixbitexecutionprovider.accuracy", "f32", "f32");
    assert_ok(create_kernel(&s.host, &s.node, &s.kernel));
    pack_kernel(s.kernel, &s.node);
    check_run(s.kernel, &s.node, s.right);
    s.kernel->release(s.kernel);
    close_scene(&s);
}

/* A bias that comes with each run, an A that is a constant: neither is packed, both are read. */
static void test_inputs_that_stay(void **state)
{
    (void)state;
    struct scene s;
    bool is_packed = true;
    open_scene(&s, NULL, NULL, NULL);
    s.node.info.is_constant[BIAS] = false;
    assert_ok(create_kernel(&s.host, &s.node, &s.kernel));
    pack_kernel(s.kernel, &s.node);
    for (int i = -1; i <= FAKE_INPUTS; i++) {
        const bool stays = i < B || i >= BIAS;
        is_packed = stays;
        assert_ok(
            s.kernel->pack_weight(s.kernel, s.node.info.inputs[A], i, NULL, NULL, &is_packed));
        assert_int_equal(is_packed, !stays);
    }
    check_run(s.kernel, &s.node, s.right);
    s.kernel->release(s.kernel);
    close_scene(&s);
}

/* Weights are packed at once where the session does not pack; and where they are no constants
 * after all, in every run. */
static void test_without_packing(void **state)
{
    (void)state;
    struct host early = open_session("session.disable_prepacking", "1");
    struct scene s;
    bool is_packed = true;
    open_scene(&s, "session.disable_prepacking", "0", NULL);
    s.node.info.is_constant[SCALES] = false;
    assert_ok(create_kernel(&s.host, &s.node, &s.kernel));
    assert_ok(s.kernel->pack_weight(s.kernel, s.node.info.inputs[B], B, NULL, NULL, &is_packed));
    assert_false(is_packed);
    assert_int_equal(fake.logged, 1);
    check_run(s.kernel, &s.node, s.right);
    s.kernel->release(s.kernel);
    s.node.info.is_constant[SCALES] = true;
    assert_ok(create_kernel(&early, &s.node, &s.kernel));
    for (size_t i = B; i < FAKE_INPUTS; i++)
        s.node.info.inputs[i] = NULL;
    check_run(s.kernel, &s.node, s.right);
    s.kernel->release(s.kernel);
    close_session(&early);
    close_scene(&s);
}

static void test_wrong_kernels(void **state)
{
    (void)state;
    struct scene s;
    bool is_packed = true;
    open_scene(&s, NULL, NULL, NULL);
    s.node.info.attributes[2].value = 3;
    assert_error(create_kernel(&s.host, &s.node, &s.kernel), "bits is 3");
    assert_null(s.kernel);
    s.node.info.attributes[2].value = 4;
    assert_ok(create_kernel(&s.host, &s.node, &s.kernel));
    s.node.values[ZEROS].dimensions[1]++;
    assert_error(s.kernel->pack_weight(s.kernel, s.node.info.inputs[B], B, NULL, NULL, &is_packed),
                 "input zero_points has");
    assert_false(is_packed);
    s.kernel->release(s.kernel);
    close_scene(&s);
}

/* Kernels that outlive their provider, and two sessions of one library. */
static void test_order_of_the_end(void **state)
{
    (void)state;
    struct scene s;
    struct ort_kernel *kernels[2] = {NULL};
    open_scene(&s, NULL, NULL, NULL);
    struct ort_provider *first = s.host.provider;
    assert_ok(create_kernel(&s.host, &s.node, &kernels[0]));
    assert_ok(create_provider(&s.host));
    assert_ok(s.host.provider->get_kernel_registry(s.host.provider, &s.host.registry));
    s.host.factory->release_provider(s.host.factory, first);
    assert_ok(create_kernel(&s.host, &s.node, &kernels[1]));
    bool is_packed = false;
    for (size_t i = 0; i < 2; i++) {
        assert_ok(
            kernels[i]->pack_weight(kernels[i], s.node.info.inputs[B], B, NULL, NULL, &is_packed));
        assert_true(is_packed);
        check_run(kernels[i], &s.node, s.right);
    }
    s.host.factory->release_provider(s.host.factory, s.host.provider);
    s.host.provider = NULL;
    kernels[1]->release(kernels[1]);
    check_run(kernels[0], &s.node, s.right);
    kernels[0]->release(kernels[0]);
    close_scene(&s);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_refuses_hosts),   TEST(test_says_what_it_is), TEST(test_settings),
        TEST(test_claims),          TEST(test_leaves_inputs),   TEST(test_leaves_attributes),
        TEST(test_products),        TEST(test_accuracy_option), TEST(test_inputs_that_stay),
        TEST(test_without_packing), TEST(test_wrong_kernels),   TEST(test_order_of_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
