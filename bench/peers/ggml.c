/* SPDX-License-Identifier: Apache-2.0 */
/* ggml, llama.cpp's tensor library, through its public C interface: one mul_mat graph per copy of
 * the weights, computed by the CPU backend.
 *
 * Every ggml object stays opaque; only ggml_init's parameters are passed by value. Two variants:
 * "plain" keeps the GGUF bytes, where large products take ggml's tiled path; "repack" is what
 * llama.cpp does on loading: the first extra buffer type of the CPU device that takes the product.
 * Activations are quantized inside mul_mat, as they are in use. One thread pool serves all
 * products, as in llama.cpp: without one, builds without OpenMP start threads for every graph. */
#include "bench/peers/peer.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TYPE_F32 = 0,
    DEVICE_CPU = 0,
    STATUS_SUCCESS = 0,
    GRAPH_NODES = 8,        /* one product: a node, two leaves */
    POOL_PARAMETERS = 8192, /* room for a struct that ggml fills itself */
};

struct init_params {
    size_t mem_size;
    void *mem_buffer;
    bool no_alloc;
};
struct feature {
    const char *name, *value;
};
typedef void (*log_function)(int level, const char *text, void *user);

/* MB_EACH_SYMBOL(X): X(result, name, parameters). */
#define MB_EACH_SYMBOL(X)                                                                          \
    X(const char *, ggml_version, (void))                                                          \
    X(void, ggml_log_set, (log_function function, void *user))                                     \
    X(const char *, ggml_type_name, (int type))                                                    \
    X(size_t, ggml_row_size, (int type, int64_t k))                                                \
    X(size_t, ggml_tensor_overhead, (void))                                                        \
    X(size_t, ggml_graph_overhead_custom, (size_t size, bool grads))                               \
    X(void *, ggml_init, (struct init_params parameters))                                          \
    X(void, ggml_free, (void *context))                                                            \
    X(void *, ggml_new_tensor_2d, (void *context, int type, int64_t k, int64_t rows))              \
    X(void *, ggml_mul_mat, (void *context, void *weights, void *x))                               \
    X(void *, ggml_new_graph_custom, (void *context, size_t size, bool grads))                     \
    X(void, ggml_build_forward_expand, (void *graph, void *tensor))                                \
    X(void, ggml_threadpool_params_init, (void *parameters, int threads))                          \
    X(void, ggml_backend_load_all_from_path, (const char *folder))                                 \
    X(void *, ggml_backend_dev_by_type, (int type))                                                \
    X(void *, ggml_backend_dev_init, (void *device, const char *parameters))                       \
    X(void *, ggml_backend_dev_backend_reg, (void *device))                                        \
    X(void *, ggml_backend_dev_buffer_type, (void *device))                                        \
    X(bool, ggml_backend_dev_supports_op, (void *device, const void *tensor))                      \
    X(void *, ggml_backend_reg_get_proc_address, (void *registry, const char *name))               \
    X(void *, ggml_backend_buft_alloc_buffer, (void *buffer_type, size_t bytes))                   \
    X(size_t, ggml_backend_buft_get_alignment, (void *buffer_type))                                \
    X(size_t, ggml_backend_buft_get_alloc_size, (void *buffer_type, const void *tensor))           \
    X(void *, ggml_backend_buffer_get_base, (void *buffer))                                        \
    X(void, ggml_backend_buffer_set_usage, (void *buffer, int usage))                              \
    X(void, ggml_backend_buffer_free, (void *buffer))                                              \
    X(void *, ggml_backend_cpu_buffer_from_ptr, (void *memory, size_t bytes))                      \
    X(int, ggml_backend_tensor_alloc, (void *buffer, void *tensor, void *address))                 \
    X(void, ggml_backend_tensor_set,                                                               \
      (void *tensor, const void *data, size_t offset, size_t bytes))                               \
    X(int, ggml_backend_graph_compute, (void *backend, void *graph))                               \
    X(void, ggml_backend_free, (void *backend))

#define MB_FIELD(result, name, parameters) result(*name) parameters;
#define MB_SYMBOL(result, name, parameters) {#name, offsetof(struct functions, name)},
struct functions {
    MB_EACH_SYMBOL(MB_FIELD)
};
static const struct mb_peer_symbol symbols[] = {MB_EACH_SYMBOL(MB_SYMBOL)};
enum { USAGE_WEIGHTS = 1, SYMBOL_COUNT = sizeof symbols / sizeof symbols[0] };

/* What the CPU backend hands out by name: it may be a module of its own. */
struct cpu_functions {
    void (*set_n_threads)(void *backend, int threads);
    void **(*get_extra_bufts)(void *device);
    struct feature *(*get_features)(void *registry);
    void *(*threadpool_new)(void *parameters);
    void (*threadpool_free)(void *pool);
    void (*set_threadpool)(void *backend, void *pool);
    void (*threadpool_pause)(void *pool); /* NULL where the backend is a module */
};

static struct {
    struct functions f;
    struct cpu_functions cpu;
    void *device, *backend, *pool;
    size_t threads; /* of backend and pool */
} ggml;

struct product {
    struct mb_peer_matrix matrix;
    void *context, *buffer; /* of the weights */
    void **weights;         /* [copies] */
    void *step_context, *x_buffer, *y_buffer;
    void **graphs; /* [copies] */
    size_t cursor;
};

/* ---- finding it ---- */

static void be_silent(int level, const char *text, void *user)
{
    (void)level;
    (void)text;
    (void)user;
}

/* The parts first, so that a moved installation finds them; RTLD_LOCAL throughout. */
static void *open_in(const char *folder, char path[MB_PEER_PATH])
{
    static const char *const parts[] = {"libggml-base.so", "libggml-cpu.so"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (mb_peer_find_file(folder, parts[i], path))
            (void)dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!mb_peer_find_file(folder, "libggml.so", path))
        return NULL;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static const char *last_dl_error(void)
{
    const char *text = dlerror();
    return text != NULL ? text : "no libggml.so in it";
}

static void *open_given(const char *given, char path[MB_PEER_PATH], char why[MB_PEER_TEXT])
{
    const bool folder = mb_peer_is_folder(given);
    (void)dlerror();
    snprintf(path, MB_PEER_PATH, "%s", given);
    void *library = folder ? open_in(given, path) : dlopen(given, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        (void)mb_peer_refuse(why, "MIXBIT_GGML=%s cannot be opened: %s", given, last_dl_error());
    return library;
}

static void *open_installed(char path[MB_PEER_PATH], char why[MB_PEER_TEXT])
{
    static const char *const names[] = {"libggml.so", "libggml.so.0"};
    char package[MB_PEER_PATH - 8], folder[MB_PEER_PATH];
    void *library = NULL;
    if (mb_peer_python_folder("llama_cpp", folder)) {
        snprintf(package, sizeof package, "%.*s", (int)sizeof package - 1, folder);
        snprintf(folder, sizeof folder, "%s/lib", package);
        library = open_in(folder, path);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0] && library == NULL; i++) {
        snprintf(path, MB_PEER_PATH, "%s", names[i]);
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (library == NULL)
        (void)mb_peer_refuse(why,
                             "not found: no Python package llama_cpp, no libggml.so in the "
                             "library path; set MIXBIT_GGML to the folder that holds libggml.so");
    return library;
}

/* One function of the CPU backend; false when it isn't there. */
static bool take(void *registry, const char *name, void *slot)
{
    void *address = ggml.f.ggml_backend_reg_get_proc_address(registry, name);
    memcpy(slot, &address, sizeof address);
    return address != NULL;
}

static bool open_device(void *library, const char *path, char why[MB_PEER_TEXT])
{
    char folder[MB_PEER_PATH];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    ggml.device = ggml.f.ggml_backend_dev_by_type(DEVICE_CPU);
    if (ggml.device == NULL && slash != NULL) {
        *slash = '\0'; /* backends are modules beside the library */
        ggml.f.ggml_backend_load_all_from_path(folder);
        ggml.device = ggml.f.ggml_backend_dev_by_type(DEVICE_CPU);
    }
    if (ggml.device == NULL)
        return mb_peer_refuse(why, "%s has no CPU backend", path);
    void *registry = ggml.f.ggml_backend_dev_backend_reg(ggml.device);
    if (!take(registry, "ggml_backend_set_n_threads", &ggml.cpu.set_n_threads) ||
        !take(registry, "ggml_backend_dev_get_extra_bufts", &ggml.cpu.get_extra_bufts) ||
        !take(registry, "ggml_backend_get_features", &ggml.cpu.get_features) ||
        !take(registry, "ggml_threadpool_new", &ggml.cpu.threadpool_new) ||
        !take(registry, "ggml_threadpool_free", &ggml.cpu.threadpool_free) ||
        !take(registry, "ggml_backend_cpu_set_threadpool", &ggml.cpu.set_threadpool))
        return mb_peer_refuse(why, "%s: its CPU backend lacks a function that this adapter needs",
                              path);
    void *pause = dlsym(library, "ggml_threadpool_pause");
    memcpy(&ggml.cpu.threadpool_pause, &pause, sizeof pause);
    return true;
}

static void describe_system(char text[MB_PEER_TEXT])
{
    const struct feature *feature =
        ggml.cpu.get_features(ggml.f.ggml_backend_dev_backend_reg(ggml.device));
    size_t length = 0;
    text[0] = '\0';
    for (; feature != NULL && feature->name != NULL && length < MB_PEER_TEXT; feature++) {
        const bool plain = feature->value == NULL || strcmp(feature->value, "1") == 0;
        const int written =
            snprintf(text + length, MB_PEER_TEXT - length, "%s%s%s%s", length > 0 ? " " : "",
                     feature->name, plain ? "" : "=", plain ? "" : feature->value);
        length += written > 0 ? (size_t)written : 0;
    }
}

static bool open_ggml(struct mb_peer_info *info, char why[MB_PEER_TEXT])
{
    const char *given = getenv("MIXBIT_GGML"), *missing;
    void *library = given != NULL && given[0] != '\0' ? open_given(given, info->path, why)
                                                      : open_installed(info->path, why);
    if (library == NULL)
        return false;
    /* Never closed: ggml keeps threads and registrations. */
    if (!mb_peer_bind_symbols(library, symbols, SYMBOL_COUNT, &ggml.f, &missing))
        return mb_peer_refuse(why, "%s is no ggml that this adapter knows: %s is missing",
                              info->path, missing);
    ggml.f.ggml_log_set(be_silent, NULL);
    if (!open_device(library, info->path, why))
        return false;
    snprintf(info->version, sizeof info->version, "%s", ggml.f.ggml_version());
    describe_system(info->system);
    return true;
}

/* GGUF's type ids are ggml's own; the name and the size are asked for all the same. */
static bool has(enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (info->codebook) /* whose number means nothing there */
        return false;
    const char *name = ggml.f.ggml_type_name((int)format);
    return name != NULL && strcmp(name, info->name) == 0 &&
           ggml.f.ggml_row_size((int)format, info->block_k) == info->block_bytes;
}

/* ---- products ---- */

static bool start_threads(size_t threads)
{
    _Alignas(64) char parameters[POOL_PARAMETERS] = {0};
    if (ggml.backend != NULL && ggml.threads == threads)
        return true;
    if (ggml.backend != NULL)
        ggml.f.ggml_backend_free(ggml.backend);
    if (ggml.pool != NULL)
        ggml.cpu.threadpool_free(ggml.pool);
    ggml.f.ggml_threadpool_params_init(parameters, (int)threads);
    ggml.backend = ggml.f.ggml_backend_dev_init(ggml.device, NULL);
    ggml.pool = ggml.cpu.threadpool_new(parameters);
    ggml.threads = threads;
    if (ggml.backend == NULL || ggml.pool == NULL)
        return false;
    ggml.cpu.set_n_threads(ggml.backend, (int)threads);
    ggml.cpu.set_threadpool(ggml.backend, ggml.pool);
    return true;
}

static void *new_context(size_t tensors, size_t graphs)
{
    const struct init_params parameters = {
        .mem_size = tensors * ggml.f.ggml_tensor_overhead() +
                    graphs * ggml.f.ggml_graph_overhead_custom(GRAPH_NODES, false) + 4096,
        .no_alloc = true};
    return ggml.f.ggml_init(parameters);
}

static void free_weights(struct product *p)
{
    if (p->buffer != NULL)
        ggml.f.ggml_backend_buffer_free(p->buffer);
    if (p->context != NULL)
        ggml.f.ggml_free(p->context);
    p->buffer = p->context = NULL;
}

/* Tensors for all copies in one buffer of this type, not filled yet. */
static bool place_weights(struct product *p, void *buffer_type)
{
    const struct mb_peer_matrix *matrix = &p->matrix;
    p->context = new_context(matrix->copies + 2, 0);
    if (p->context == NULL)
        return false;
    for (size_t i = 0; i < matrix->copies; i++)
        p->weights[i] = ggml.f.ggml_new_tensor_2d(p->context, (int)matrix->format,
                                                  (int64_t)matrix->k, (int64_t)matrix->n);
    const size_t alignment = ggml.f.ggml_backend_buft_get_alignment(buffer_type);
    const size_t bytes = ggml.f.ggml_backend_buft_get_alloc_size(buffer_type, p->weights[0]);
    const size_t stride = (bytes + alignment - 1) / alignment * alignment;
    p->buffer = ggml.f.ggml_backend_buft_alloc_buffer(buffer_type, stride * matrix->copies);
    if (p->buffer == NULL)
        return false;
    ggml.f.ggml_backend_buffer_set_usage(p->buffer, USAGE_WEIGHTS);
    char *base = ggml.f.ggml_backend_buffer_get_base(p->buffer);
    for (size_t i = 0; i < matrix->copies; i++)
        if (ggml.f.ggml_backend_tensor_alloc(p->buffer, p->weights[i], base + i * stride) !=
            STATUS_SUCCESS)
            return false;
    return true;
}

/* Whether the device multiplies by weights that lie where they do now. */
static bool is_supported(const struct product *p)
{
    void *x = ggml.f.ggml_new_tensor_2d(p->context, TYPE_F32, (int64_t)p->matrix.k, 1);
    return ggml.f.ggml_backend_dev_supports_op(ggml.device,
                                               ggml.f.ggml_mul_mat(p->context, p->weights[0], x));
}

static bool place_repacked(struct product *p)
{
    void **buffer_types = ggml.cpu.get_extra_bufts(ggml.device);
    for (; buffer_types != NULL && *buffer_types != NULL; buffer_types++) {
        if (place_weights(p, *buffer_types) && is_supported(p))
            return true;
        free_weights(p);
    }
    return false;
}

static void free_step(struct product *p)
{
    if (p->x_buffer != NULL)
        ggml.f.ggml_backend_buffer_free(p->x_buffer);
    if (p->y_buffer != NULL)
        ggml.f.ggml_backend_buffer_free(p->y_buffer);
    if (p->step_context != NULL)
        ggml.f.ggml_free(p->step_context);
    p->x_buffer = p->y_buffer = p->step_context = NULL;
}

static void destroy(void *product)
{
    struct product *p = product;
    if (p == NULL)
        return;
    free_step(p);
    free_weights(p);
    free(p->weights);
    free(p->graphs);
    free(p);
}

enum { PLAIN, REPACK };
static const char *const variant_names[] = {"plain", "repack"};

static void *create(size_t variant, const struct mb_peer_matrix *matrix, char why[MB_PEER_TEXT])
{
    struct product *p = calloc(1, sizeof *p);
    if (p == NULL)
        goto no_memory;
    p->matrix = *matrix;
    p->weights = calloc(matrix->copies, sizeof *p->weights);
    p->graphs = calloc(matrix->copies, sizeof *p->graphs);
    if (p->weights == NULL || p->graphs == NULL || !start_threads(matrix->threads))
        goto no_memory;
    if (variant == REPACK && !place_repacked(p)) {
        (void)mb_peer_refuse(why, "no repacked layout for %s here",
                             mb_format_info(matrix->format)->name);
        destroy(p);
        return NULL;
    }
    if (variant == PLAIN && !place_weights(p, ggml.f.ggml_backend_dev_buffer_type(ggml.device)))
        goto no_memory;
    for (size_t i = 0; i < matrix->copies; i++)
        ggml.f.ggml_backend_tensor_set(p->weights[i], matrix->blocks, 0,
                                       matrix->n * mb_format_row_bytes(matrix->format, matrix->k));
    return p;
no_memory:
    destroy(p);
    (void)mb_peer_refuse(why, "out of memory for %zu copies of the weights", matrix->copies);
    return NULL;
}

static bool bind(void *product, const float *x, size_t m, float *y, char why[MB_PEER_TEXT])
{
    struct product *p = product;
    const struct mb_peer_matrix *matrix = &p->matrix;
    free_step(p);
    p->cursor = 0;
    p->step_context = new_context(matrix->copies + 1, matrix->copies);
    /* ggml has no const: x is an operand and stays as it is. */
    p->x_buffer =
        ggml.f.ggml_backend_cpu_buffer_from_ptr((void *)(uintptr_t)x, m * matrix->k * sizeof *x);
    p->y_buffer = ggml.f.ggml_backend_cpu_buffer_from_ptr(y, m * matrix->n * sizeof *y);
    if (p->step_context == NULL || p->x_buffer == NULL || p->y_buffer == NULL)
        return mb_peer_refuse(why, "out of memory");
    void *operand =
        ggml.f.ggml_new_tensor_2d(p->step_context, TYPE_F32, (int64_t)matrix->k, (int64_t)m);
    int status = ggml.f.ggml_backend_tensor_alloc(p->x_buffer, operand, (void *)(uintptr_t)x);
    for (size_t i = 0; i < matrix->copies && status == STATUS_SUCCESS; i++) {
        void *result = ggml.f.ggml_mul_mat(p->step_context, p->weights[i], operand);
        status = ggml.f.ggml_backend_tensor_alloc(p->y_buffer, result, y);
        p->graphs[i] = ggml.f.ggml_new_graph_custom(p->step_context, GRAPH_NODES, false);
        ggml.f.ggml_build_forward_expand(p->graphs[i], result);
    }
    return status == STATUS_SUCCESS || mb_peer_refuse(why, "its tensors cannot be placed");
}

static bool run(void *product)
{
    struct product *p = product;
    void *graph = p->graphs[p->cursor];
    p->cursor = p->cursor + 1 < p->matrix.copies ? p->cursor + 1 : 0;
    return ggml.f.ggml_backend_graph_compute(ggml.backend, graph) == STATUS_SUCCESS;
}

/* Threads of ggml's own pool poll for some 100 ms after a graph; the next graph wakes a paused
 * pool. OpenMP builds have no such threads. */
static void rest(void *product)
{
    (void)product;
    if (ggml.cpu.threadpool_pause != NULL && ggml.pool != NULL)
        ggml.cpu.threadpool_pause(ggml.pool);
}

const struct mb_peer mb_peer_ggml = {
    .name = "ggml",
    .variants = sizeof variant_names / sizeof variant_names[0],
    .variant_names = variant_names,
    .open = open_ggml,
    .has = has,
    .create = create,
    .bind = bind,
    .run = run,
    .rest = rest,
    .destroy = destroy,
};
