/* SPDX-License-Identifier: Apache-2.0 */
/* Calls into the plug-in, by the slots of the layout that the program is compiled for. */
#include "drive.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t random_state = 1;
static uint32_t random_bits(void) { return random_state = random_state * 1664525u + 1013904223u; }
float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

/* ---- the plug-in's side -------------------------------------------------------------------- */

struct ggml_reg *call_init(void *library)
{
    struct ggml_reg *(*init)(void);
    void *symbol = dlsym(library, "ggml_backend_init");
    assert_non_null(symbol);
    memcpy(&init, &symbol, sizeof symbol);
    return init();
}

struct plugin load(const char *path)
{
    struct plugin p = {.library = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
    if (p.library == NULL)
        fail_msg("%s", dlerror());
    p.reg = call_init(p.library);
    assert_non_null(p.reg);
    assert_int_equal(p.reg->api_version, GGML_API_VERSION);
    assert_int_equal(p.reg->get_device_count(p.reg), 1);
    p.device = p.reg->get_device(p.reg, 0);
    p.type = p.device->get_buffer_type(p.device);
    return p;
}

int32_t compute(void *backend, struct fake_graph *graph)
{
    const struct ggml_backend_head *head = backend;
    return ((int32_t(*)(void *, struct fake_graph *))head->slot[GRAPH_COMPUTE])(backend, graph);
}

void free_backend(void *backend)
{
    const struct ggml_backend_head *head = backend;
    ((void (*)(void *))head->slot[SLOT_BACKEND_FREE])(backend);
}

struct ggml_device *device_of(void *backend)
{
    const struct ggml_backend_head *head = backend;
    struct ggml_device *device;
    memcpy(&device, &head->slot[BACKEND_TABLE], sizeof device);
    return device;
}

void set_threads(const struct plugin *p, void *backend, int count)
{
    const mb_ggml_fn set = p->reg->get_proc_address(p->reg, "ggml_backend_set_n_threads");
    assert_non_null(set);
    ((void (*)(void *, int))set)(backend, count);
}

void set_bytes(struct ggml_tensor *t, const void *data, size_t offset, size_t size)
{
    ((void (*)(struct ggml_buffer *, struct ggml_tensor *, const void *, size_t,
               size_t))fake_buffer_slot(t->buffer, SLOT_SET))(t->buffer, t, data, offset, size);
}

void get_bytes(const struct ggml_tensor *t, void *data, size_t offset, size_t size)
{
    ((void (*)(struct ggml_buffer *, const struct ggml_tensor *, void *, size_t,
               size_t))fake_buffer_slot(t->buffer, SLOT_GET))(t->buffer, t, data, offset, size);
}

size_t bytes_of(const struct ggml_tensor *t) { return t->nb[3] * (size_t)t->ne[3]; }

/* A buffer of its own for one tensor of weights. */
void allocate(const struct plugin *p, struct ggml_tensor *t)
{
    t->buffer = p->type->alloc_buffer(p->type, p->type->get_alloc_size(p->type, t));
    assert_non_null(t->buffer);
    t->data =
        ((void *(*)(struct ggml_buffer *))fake_buffer_slot(t->buffer, SLOT_GET_BASE))(t->buffer);
    assert_int_equal((uintptr_t)t->data % p->type->get_alignment(p->type), 0);
}

struct matrix make_matrix(const struct ggml_tensor *t)
{
    const size_t k = (size_t)t->ne[0], rows = bytes_of(t) / t->nb[1];
    struct matrix m = {malloc(bytes_of(t)), malloc(rows * k * sizeof(float))};
    for (size_t i = 0; i < rows * k; i++)
        m.values[i] = random_float();
    const enum mb_format format = (enum mb_format)t->type;
    assert_int_equal(mb_quantize(format, m.values, rows, k, NULL, m.rows), MB_OK);
    assert_int_equal(mb_dequantize(format, m.rows, rows, k, m.values), MB_OK);
    return m;
}

void free_matrix(struct matrix *m)
{
    free(m->rows);
    free(m->values);
}

/* Packed weights in a buffer of the plug-in. */
struct matrix make_weights(const struct plugin *p, struct ggml_tensor *t)
{
    struct matrix m = make_matrix(t);
    allocate(p, t);
    set_bytes(t, m.rows, 0, bytes_of(t));
    return m;
}

static const struct mb_format_info *block_format(size_t i)
{
    const struct mb_format_info *info = mb_format_at(i);
    return info == NULL || info->block_k > 1 ? info : NULL;
}

bool is_skipped(size_t i)
{
    const struct mb_format_info *info = block_format(i);
    return info == NULL || (int32_t)info->id == fake.renamed_type;
}

/* A tensor of floats in the host's memory. */
struct ggml_tensor make_floats(int64_t n0, int64_t n1, int64_t n2, struct ggml_buffer *host)
{
    struct ggml_tensor t = fake_tensor(GGML_TYPE_F32, n0, n1, n2, 1);
    t.buffer = host;
    t.data = malloc(bytes_of(&t));
    for (size_t i = 0; i < bytes_of(&t) / sizeof(float); i++)
        ((float *)t.data)[i] = random_float();
    return t;
}

struct ggml_tensor make_product(int32_t op, struct ggml_tensor *w, struct ggml_tensor *x,
                                struct ggml_buffer *host)
{
    struct ggml_tensor y = make_floats(w->ne[1], x->ne[1], x->ne[2], host);
    y.op = op;
    y.src[0] = w;
    y.src[1] = x;
    return y;
}

void add_row(struct off *off, const float *w, const float *x, const float *y, size_t n, size_t k)
{
    for (size_t j = 0; j < n; j++) {
        double sum = 0;
        for (size_t i = 0; i < k; i++)
            sum += (double)w[j * k + i] * (double)x[i];
        off->error += ((double)y[j] - sum) * ((double)y[j] - sum);
        off->exact += sum * sum;
    }
}

/* The bound is stated for Gaussian activations; rows here are short and uniform. */
void assert_close(const struct off *off, int32_t format)
{
    const double relative = sqrt(off->error / off->exact);
    if (!(relative < 2 * mb_format_info((enum mb_format)format)->error_bound))
        fail_msg("%s: relative error %g", mb_format_info((enum mb_format)format)->name, relative);
}

void check_product(const struct ggml_tensor *y, const struct matrix *w)
{
    struct off off = {0, 0};
    const struct ggml_tensor *x = y->src[1];
    const size_t k = (size_t)x->ne[0], n = (size_t)y->ne[0];
    for (size_t r = 0; r < (size_t)(x->ne[1] * x->ne[2]); r++)
        add_row(&off, w->values,
                (const float *)(const void *)((const uint8_t *)x->data + r * x->nb[1]),
                (const float *)(const void *)((const uint8_t *)y->data + r * y->nb[1]), n, k);
    assert_close(&off, y->src[0]->type);
}
