/* SPDX-License-Identifier: Apache-2.0 */
/* The ggml plug-in, driven through its tables as ggml drives it: loading and refusals, transfers in
 * any pieces, products and mixtures of experts against f64, what it leaves to the host, unloading.
 */
#include "drive.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- loading ------------------------------------------------------------------------------ */

static void assert_refused(void *library, const char *reason)
{
    fake_log_clear();
    assert_null(call_init(library));
    if (strstr(fake_log, reason) == NULL)
        fail_msg("the log says '%s', not '%s'", fake_log, reason);
}

static void test_refuses_unknown_hosts(void **state)
{
    (void)state;
    void *library = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    const struct fake_settings usual = fake;
    static const char *const versions[] = {"0.9.0", "0.25.4", "1.0.0", "0.26.0", "junk", ""};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        fake.version = versions[i];
        assert_refused(library, "is not one of the versions");
    }
    fake.version = FAKE_OTHER_VERSION;
    assert_refused(library, "a patched copy?");
    fake = usual;
    fake.tensor_bytes += 8;
    assert_refused(library, "a patched copy?");
    fake = usual;
    fake.lacks_mul_mat = true;
    assert_refused(library, "lacks operations");
    fake = usual;
    assert_non_null(call_init(library));
    assert_int_equal(dlclose(library), 0);
}

static size_t count_threads(void)
{
    size_t count = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += entry->d_name[0] != '.';
    (void)closedir(folder);
    return count;
}

/* A thread that was joined may still be listed: the kernel tells who waits before it takes it out.
 */
static size_t count_threads_until(size_t wanted)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    size_t count = count_threads();
    for (int i = 0; i < 10000 && count != wanted; i++) {
        (void)nanosleep(&pause, NULL);
        count = count_threads();
    }
    return count;
}

static void test_unloads(void **state)
{
    (void)state;
    const size_t threads = count_threads();
    for (int round = 0; round < 3; round++) {
        struct plugin p = load(PLUGIN);
        void *backend = p.device->init_backend(p.device, NULL);
        struct ggml_tensor w = fake_tensor(MB_FORMAT_Q4_0, 256, 512, 1, 1);
        struct matrix m = make_weights(&p, &w);
        struct ggml_tensor x = make_floats(256, 4, 1, NULL);
        struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT, &w, &x, NULL);
        set_threads(&p, backend, 3);
        assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_OK);
        assert_true(count_threads() > threads);
        check_product(&y, &m);
        free_backend(backend);
        assert_int_equal(count_threads_until(threads), threads);
        ggml_backend_buffer_free(w.buffer);
        assert_int_equal(dlclose(p.library), 0);
        free_matrix(&m);
        free(x.data);
        free(y.data);
    }
}

static void test_two_copies(void **state)
{
    (void)state;
    char path[] = "/tmp/mixbit-plugin-XXXXXX";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    (void)close(file);
    char command[1024];
    (void)snprintf(command, sizeof command, "cp '%s' '%s'", PLUGIN, path);
    assert_int_equal(system(command), 0);
    struct plugin one = load(PLUGIN), two = load(path), again = load(PLUGIN);
    assert_ptr_equal(one.reg, again.reg);
    assert_ptr_not_equal(one.reg, two.reg);
    struct ggml_tensor w = fake_tensor(MB_FORMAT_Q4_0, 64, 32, 1, 1);
    struct matrix m = make_weights(&one, &w);
    struct ggml_tensor x = make_floats(64, 1, 1, NULL);
    struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT, &w, &x, NULL);
    assert_true(one.device->supports_op(one.device, &y));
    assert_false(two.device->supports_op(two.device, &y));
    ggml_backend_buffer_free(w.buffer);
    free_matrix(&m);
    free(x.data);
    free(y.data);
    (void)dlclose(two.library);
    (void)dlclose(again.library);
    (void)dlclose(one.library);
    assert_int_equal(unlink(path), 0);
}

/* ---- device and buffers ------------------------------------------------------------------- */

static void test_device(void **state)
{
    const struct plugin *p = *state;
    struct ggml_device *d = p->device;
    assert_string_equal(p->reg->get_name(p->reg), "mixbit");
    assert_string_equal(d->get_name(d), "mixbit");
    assert_int_equal(d->get_type(d), GGML_DEVICE_ACCEL);
    assert_null(p->reg->get_device(p->reg, 1));
    assert_null(p->reg->get_proc_address(p->reg, "no_such_function"));
    size_t available = 0, total = 0;
    d->get_memory(d, &available, &total);
    assert_true(available > 0 && available <= total);
    struct ggml_device_props props = {.name = NULL};
    d->get_props(d, &props);
    assert_string_equal(props.name, "mixbit");
    assert_int_equal(props.type, GGML_DEVICE_ACCEL);
    assert_true(p->type->is_host == NULL || !p->type->is_host(p->type));
    assert_true(d->supports_buft(d, p->type));

    /* Weights loaded first: activations stay in host memory. Nothing loaded: weights will come
     * through the backend. */
    void *early = d->init_backend(d, NULL);
    struct ggml_tensor w = fake_tensor(MB_FORMAT_Q8_0, 64, 16, 1, 1);
    allocate(p, &w);
    void *late = d->init_backend(d, NULL);
    assert_ptr_equal(device_of(early)->get_buffer_type(device_of(early)), p->type);
    struct ggml_buffer_type *type = device_of(late)->get_buffer_type(device_of(late));
    assert_true(type != p->type && type->is_host(type));
    free_backend(early);
    free_backend(late);
    ggml_backend_buffer_free(w.buffer);
}

static void test_memory(void **state)
{
    const struct plugin *p = *state;
    for (size_t i = 0; i < mb_format_count(); i++) {
        if (is_skipped(i))
            continue;
        const enum mb_format format = mb_format_at(i)->id;
        const struct ggml_tensor w = fake_tensor((int32_t)format, 512, 40, 3, 1);
        size_t bytes;
        assert_int_equal(mb_pack_size(format, 40, 512, &bytes), MB_OK);
        const size_t packed = 3 * bytes, plain = bytes_of(&w);
        assert_int_equal(p->type->get_alloc_size(p->type, &w), packed > plain ? packed : plain);
    }
    fake_log_clear();
    assert_null(p->type->alloc_buffer(p->type, (size_t)1 << 50));
    assert_non_null(strstr(fake_log, "does not fit"));
    assert_null(p->type->alloc_buffer(p->type, SIZE_MAX - 10));
}

static void test_transfers_in_pieces(void **state)
{
    const struct plugin *p = *state;
    static const size_t pieces[] = {1u << 20, 1000, 333, 37};
    for (size_t i = 0; i < mb_format_count(); i++) {
        if (is_skipped(i))
            continue;
        struct ggml_tensor w = fake_tensor((int32_t)mb_format_at(i)->id, 512, 21, 2, 1);
        struct matrix m = make_matrix(&w);
        const size_t bytes = bytes_of(&w);
        uint8_t *back = malloc(bytes);
        for (size_t s = 0; s < sizeof pieces / sizeof *pieces; s++) {
            allocate(p, &w);
            /* from the end to the start: rows are not there yet when their tails arrive */
            for (size_t end = bytes; end > 0;) {
                const size_t size = pieces[s] < end ? pieces[s] : end;
                set_bytes(&w, m.rows + end - size, end - size, size);
                end -= size;
            }
            memset(back, 0xa5, bytes);
            for (size_t at = 0; at < bytes; at += pieces[s])
                get_bytes(&w, back + at, at, pieces[s] < bytes - at ? pieces[s] : bytes - at);
            assert_memory_equal(back, m.rows, bytes);
            ggml_backend_buffer_free(w.buffer);
        }
        free(back);
        free_matrix(&m);
    }
}

static void test_views_and_other_transfers(void **state)
{
    const struct plugin *p = *state;
    struct ggml_tensor w = fake_tensor(MB_FORMAT_Q6_K, 256, 48, 1, 1);
    struct matrix m = make_weights(p, &w);
    struct ggml_tensor view = fake_tensor(MB_FORMAT_Q6_K, 256, 20, 1, 1);
    view.view_src = &w;
    view.view_offs = 7 * w.nb[1];
    view.buffer = w.buffer;
    view.data = (uint8_t *)w.data + view.view_offs; /* as ggml sets it: not where the rows lie */
    uint8_t *back = malloc(bytes_of(&w));
    get_bytes(&view, back, 0, bytes_of(&view));
    assert_memory_equal(back, m.rows + view.view_offs, bytes_of(&view));
    fake_log_clear();
    get_bytes(&w, back, bytes_of(&w) - 10, 10);
    assert_string_equal(fake_log, "");
    set_bytes(&w, m.rows, bytes_of(&w) - 10, 20); /* a host's fault: said, not written */
    assert_non_null(strstr(fake_log, "behind the tensor"));

    ((void (*)(struct ggml_buffer *, struct ggml_tensor *, uint8_t, size_t,
               size_t))fake_buffer_slot(w.buffer, SLOT_MEMSET))(w.buffer, &w, 0, 100, 5000);
    memset(m.rows + 100, 0, 5000);
    get_bytes(&w, back, 0, 5100);
    assert_memory_equal(back, m.rows, 5100);
    ((void (*)(struct ggml_buffer *, uint8_t))fake_buffer_slot(w.buffer, CLEAR_SLOT))(w.buffer, 0);
    get_bytes(&w, back, 0, bytes_of(&w));
    struct mb_format_info const *info = mb_format_info(MB_FORMAT_Q6_K);
    float values[256];
    assert_int_equal(mb_dequantize(info->id, back, 1, 256, values), MB_OK);
    for (size_t i = 0; i < 256; i++)
        assert_true(values[i] == 0);

    struct ggml_tensor floats = fake_tensor(GGML_TYPE_F32, 32, 3, 1, 1);
    float in[96], out[96];
    for (size_t i = 0; i < 96; i++)
        in[i] = random_float();
    allocate(p, &floats);
    set_bytes(&floats, in, 0, sizeof in);
    assert_memory_equal(floats.data, in, sizeof in);
    get_bytes(&floats, out, 4, sizeof out - 4);
    assert_memory_equal(out, in + 1, sizeof in - 4);
    ggml_backend_buffer_free(floats.buffer);
    ggml_backend_buffer_free(w.buffer);
    free(back);
    free_matrix(&m);
}

/* ---- products ----------------------------------------------------------------------------- */

static void test_products(void **state)
{
    const struct plugin *p = *state;
    struct ggml_buffer *host = NULL;
    static const int64_t ms[] = {1, 2, 7, 33, 130};
    void *backend = p->device->init_backend(p->device, NULL);
    for (size_t i = 0; i < mb_format_count(); i++) {
        if (is_skipped(i))
            continue;
        struct ggml_tensor w = fake_tensor((int32_t)mb_format_at(i)->id, 512, 131, 1, 1);
        struct matrix m = make_weights(p, &w);
        for (size_t j = 0; j < sizeof ms / sizeof *ms; j++) {
            struct ggml_tensor x = make_floats(512, ms[j], 1, host);
            struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT, &w, &x, host);
            assert_true(p->device->supports_op(p->device, &y));
            set_threads(p, backend, j % 2 == 0 ? 2 : 1);
            assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_OK);
            check_product(&y, &m);
            free(x.data);
            free(y.data);
        }
        ggml_backend_buffer_free(w.buffer);
        free_matrix(&m);
    }
    free_backend(backend);
}

/* q, k and v of one input, of two formats; a product of the first one's result; a node that is not
 * to be computed; an input over 3 dimensions, and rows with a gap. */
static void test_graph(void **state)
{
    const struct plugin *p = *state;
    void *backend = p->device->init_backend(p->device, NULL);
    set_threads(p, backend, 2);
    for (int64_t rows = 1; rows <= 40; rows += 39) {
        struct ggml_tensor q = fake_tensor(MB_FORMAT_Q4_K, 256, 256, 1, 1);
        struct ggml_tensor k = fake_tensor(MB_FORMAT_Q4_K, 256, 64, 1, 1);
        struct ggml_tensor v = fake_tensor(MB_FORMAT_Q8_0, 256, 65, 1, 1);
        struct matrix mq = make_weights(p, &q), mk = make_weights(p, &k), mv = make_weights(p, &v);
        struct ggml_tensor x = make_floats(256, rows, 1, NULL),
                           deep = make_floats(256, 3, rows, NULL);
        struct ggml_tensor wide = make_floats(300, rows, 1, NULL);
        wide.ne[0] = 256;
        struct ggml_tensor yq = make_product(FAKE_OP_MUL_MAT, &q, &x, NULL);
        struct ggml_tensor view = yq, yk = make_product(FAKE_OP_MUL_MAT, &k, &x, NULL);
        struct ggml_tensor yv = make_product(FAKE_OP_MUL_MAT, &v, &x, NULL);
        struct ggml_tensor next = make_product(FAKE_OP_MUL_MAT, &k, &yq, NULL);
        struct ggml_tensor ydeep = make_product(FAKE_OP_MUL_MAT, &v, &deep, NULL);
        struct ggml_tensor ywide = make_product(FAKE_OP_MUL_MAT, &q, &wide, NULL);
        struct ggml_tensor idle = make_product(FAKE_OP_MUL_MAT, &k, &x, NULL);
        view.op = FAKE_OP_VIEW;
        idle.flags = 0;
        const float before = *(float *)idle.data;
        struct fake_graph graph = {{&yq, &view, &yk, &idle, &yv, &next, &ydeep, &ywide}, 8};
        assert_int_equal(compute(backend, &graph), GGML_OK);
        check_product(&yq, &mq);
        check_product(&yk, &mk);
        check_product(&yv, &mv);
        check_product(&next, &mk);
        check_product(&ydeep, &mv);
        check_product(&ywide, &mq);
        assert_true(*(float *)idle.data == before);
        struct ggml_tensor *const all[] = {&x,  &deep, &wide,  &yq,    &yk,
                                           &yv, &next, &ydeep, &ywide, &idle};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]->data);
        ggml_backend_buffer_free(q.buffer);
        ggml_backend_buffer_free(k.buffer);
        ggml_backend_buffer_free(v.buffer);
        free_matrix(&mq);
        free_matrix(&mk);
        free_matrix(&mv);
    }
    free_backend(backend);
}

static void check_experts(const struct ggml_tensor *y, const struct matrix *w)
{
    const struct ggml_tensor *x = y->src[1], *ids = y->src[2];
    const size_t k = (size_t)x->ne[0], n = (size_t)y->ne[0];
    struct off off = {0, 0};
    for (size_t token = 0; token < (size_t)y->ne[2]; token++)
        for (size_t slot = 0; slot < (size_t)y->ne[1]; slot++) {
            const int32_t expert =
                ((const int32_t *)ids->data)[token * (ids->nb[1] / sizeof(int32_t)) + slot];
            const float *row = (const float *)x->data +
                               (token * (size_t)x->ne[1] + (x->ne[1] == 1 ? 0 : slot)) * k;
            add_row(&off, w->values + (size_t)expert * n * k, row,
                    (const float *)y->data + (token * (size_t)y->ne[1] + slot) * n, n, k);
        }
    assert_close(&off, y->src[0]->type);
}

static void test_experts(void **state)
{
    const struct plugin *p = *state;
    static const int32_t types[] = {MB_FORMAT_Q4_K, MB_FORMAT_IQ4_NL};
    static const struct {
        int64_t experts, slots, tokens, inputs;
    } shapes[] = {{5, 2, 1, 1},  {5, 2, 1, 2},   {5, 2, 9, 2},
                  {3, 1, 40, 1}, {40, 4, 30, 1}, {24, 20, 1, 1}};
    void *backend = p->device->init_backend(p->device, NULL);
    set_threads(p, backend, 2);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            struct ggml_tensor w = fake_tensor(types[i], 256, 35, shapes[s].experts, 1);
            struct matrix m = make_weights(p, &w);
            struct ggml_tensor x = make_floats(256, shapes[s].inputs, shapes[s].tokens, NULL);
            struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT_ID, &w, &x, NULL);
            free(y.data);
            struct ggml_tensor shape = make_floats(35, shapes[s].slots, shapes[s].tokens, NULL);
            memcpy(y.ne, shape.ne, sizeof y.ne);
            memcpy(y.nb, shape.nb, sizeof y.nb);
            y.data = shape.data;
            /* ids are columns of a wider matrix, as argsort leaves them */
            struct ggml_tensor ids =
                fake_tensor(GGML_TYPE_I32, shapes[s].slots, shapes[s].tokens, 1, 1);
            ids.nb[0] = sizeof(int32_t);
            ids.nb[1] = (size_t)shapes[s].experts * sizeof(int32_t);
            int32_t *numbers =
                calloc((size_t)(shapes[s].experts * shapes[s].tokens), sizeof *numbers);
            for (int64_t t = 0; t < shapes[s].tokens; t++)
                for (int64_t slot = 0; slot < shapes[s].slots; slot++)
                    numbers[t * shapes[s].experts + slot] =
                        (int32_t)((t * 7 + slot * 3 + (t % 3)) % shapes[s].experts);
            ids.data = numbers;
            y.src[2] = &ids;
            assert_true(p->device->supports_op(p->device, &y));
            assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_OK);
            check_experts(&y, &m);
            numbers[0] = (int32_t)shapes[s].experts; /* one past the last */
            fake_log_clear();
            assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_FAILED);
            assert_non_null(strstr(fake_log, "MUL_MAT_ID"));
            numbers[0] = -1;
            assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_FAILED);
            free(numbers);
            free(x.data);
            free(y.data);
            ggml_backend_buffer_free(w.buffer);
            free_matrix(&m);
        }
    free_backend(backend);
}

/* ---- what is left to the host ------------------------------------------------------------- */

static void test_leaves_the_rest(void **state)
{
    const struct plugin *p = *state;
    struct ggml_device *d = p->device;
    struct ggml_tensor w = fake_tensor(MB_FORMAT_Q4_0, 256, 64, 1, 1);
    allocate(p, &w);
    struct ggml_tensor x = make_floats(256, 4, 3, NULL);
    struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT, &w, &x, NULL);
    assert_true(d->supports_op(d, &y));
    struct ggml_tensor other = y;
    other.op = FAKE_OP_ADD;
    assert_false(d->supports_op(d, &other));
    other = fake_tensor(GGML_TYPE_F32, 4, 4, 1, 1);
    assert_true(d->supports_op(d, &other)); /* a leaf */

    struct ggml_tensor bad = x;
    y.src[1] = &bad;
    bad.type = MB_FORMAT_F16;
    assert_false(d->supports_op(d, &y));
    bad = x;
    bad.nb[2] += 4; /* planes with a gap */
    assert_false(d->supports_op(d, &y));
    bad = x;
    bad.nb[0] = 8;
    assert_false(d->supports_op(d, &y));
    bad = x;
    bad.nb[1] = 100; /* rows that overlap */
    assert_false(d->supports_op(d, &y));
    y.src[1] = &x;

    struct ggml_tensor weights = w;
    y.src[0] = &weights;
    weights.view_src = &w;
    assert_false(d->supports_op(d, &y));
    weights = w;
    weights.ne[2] = 3;
    weights.nb[3] *= 3;
    assert_false(d->supports_op(d, &y));
    weights = w;
    weights.nb[1] *= 2;
    assert_false(d->supports_op(d, &y));
    weights = w;
    weights.type = GGML_TYPE_F32;
    assert_false(d->supports_op(d, &y));
    weights.type = 1000;
    assert_false(d->supports_op(d, &y));
    weights.type = -3;
    assert_false(d->supports_op(d, &y));
    weights = fake_tensor(fake.renamed_type, 256, 64, 1, 1);
    weights.buffer = w.buffer;
    assert_false(d->supports_op(d, &y)); /* the host calls another format by this number */
    weights = w;
    weights.buffer = fake_host_buffer(64);
    assert_false(d->supports_op(d, &y)); /* the host keeps them */
    ggml_backend_buffer_free(weights.buffer);

    void *backend = d->init_backend(d, NULL);
    y.src[0] = &w;
    y.op = FAKE_OP_ADD;
    fake_log_clear();
    assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_FAILED);
    assert_non_null(strstr(fake_log, "OTHER"));
    free_backend(backend);
    ggml_backend_buffer_free(w.buffer);
    free(x.data);
    free(y.data);
}

static bool stop_now(void *user)
{
    ++*(int *)user;
    return true;
}

static void test_aborts(void **state)
{
    const struct plugin *p = *state;
    void *backend = p->device->init_backend(p->device, NULL);
    const mb_ggml_fn set = p->reg->get_proc_address(p->reg, "ggml_backend_set_abort_callback");
    struct ggml_tensor w = fake_tensor(MB_FORMAT_Q4_0, 64, 32, 1, 1);
    struct matrix m = make_weights(p, &w);
    struct ggml_tensor x = make_floats(64, 1, 1, NULL);
    struct ggml_tensor y = make_product(FAKE_OP_MUL_MAT, &w, &x, NULL);
    int calls = 0;
    ((void (*)(void *, bool (*)(void *), void *))set)(backend, stop_now, &calls);
    assert_int_equal(compute(backend, &(struct fake_graph){{&y}, 1}), GGML_ABORTED);
    assert_int_equal(calls, 1);
    free_backend(backend);
    ggml_backend_buffer_free(w.buffer);
    free_matrix(&m);
    free(x.data);
    free(y.data);
}

static struct plugin shared;

static int load_shared(void **state)
{
    fake.renamed_type = MB_FORMAT_Q5_1;
    shared = load(PLUGIN);
    *state = &shared;
    return 0;
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(test_refuses_unknown_hosts),
        cmocka_unit_test(test_unloads),
        cmocka_unit_test(test_two_copies),
    };
    const struct CMUnitTest loaded[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_transfers_in_pieces),
        cmocka_unit_test(test_views_and_other_transfers),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_graph),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_leaves_the_rest),
        cmocka_unit_test(test_aborts),
    };
    (void)unsetenv("MIXBIT_PROFILE");
    (void)setenv("XDG_CACHE_HOME", "/nonexistent", 1);
    const int failed = cmocka_run_group_tests(alone, NULL, NULL);
    return failed + cmocka_run_group_tests(loaded, load_shared, NULL);
}
