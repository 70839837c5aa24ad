/* SPDX-License-Identifier: Apache-2.0 */
/* A ggml backend: the matrix products of an unmodified llama.cpp on this library's kernels.
 *
 *   GGML_BACKEND_PATH=/path/to/libggml-mixbit.so llama-cli -m model.gguf
 *
 * The device is an accelerator: the host puts weights into its buffers before any other kind,
 * without being asked to, and never counts it as a GPU. Everything but products stays with the
 * host's CPU backend, which can't read these buffers. Activations therefore must not lie in them:
 * a backend works on a second device, which the host never lists, whose buffers are plain host
 * memory. Only a host that has put nothing into our buffers by the time it asks for a backend gets
 * one whose own buffers are the packed kind: it means to put its weights there through the backend
 * (test-backend-ops does). */
#include "buffer.h"
#include "compute.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int ggml_backend_score(void);
EXPORT struct ggml_reg *ggml_backend_init(void);

struct backend {
    struct ggml_backend_head head; /* what the host sees */
    struct mb_ggml_compute compute;
};

static struct ggml_reg registry;
static struct ggml_device listed, on_host_memory;
static struct mb_device_info machine;

/* ---- backend ------------------------------------------------------------------------------ */

static const char *backend_name(void *backend)
{
    (void)backend;
    return "mixbit";
}

static void backend_free(void *argument)
{
    struct backend *backend = argument;
    mb_ggml_compute_end(&backend->compute);
    free(backend);
}

static int32_t graph_compute(void *backend, struct ggml_graph *graph)
{
    return mb_ggml_compute_graph(&((struct backend *)backend)->compute, graph);
}

static void set_n_threads(void *backend, int count)
{
    ((struct backend *)backend)->compute.threads = count > 0 ? (size_t)count : 0;
}

static void set_abort_callback(void *argument, bool (*callback)(void *), void *user)
{
    struct backend *backend = argument;
    backend->compute.abort = callback;
    backend->compute.abort_user = user;
}

static void *init_backend(struct ggml_device *device, const char *params)
{
    (void)device;
    (void)params;
    static uint8_t guid[16] = "mixbit-ggml-0001";
    struct backend *backend = calloc(1, sizeof *backend);
    if (backend == NULL)
        return NULL;
    const struct mb_ggml_layout *layout = &mb_ggml_host.layout;
    struct ggml_device *works_on = mb_ggml_buffers_live() > 0 ? &on_host_memory : &listed;
    backend->head.guid = &guid;
    backend->head.slot[SLOT_BACKEND_NAME] = (mb_ggml_fn)backend_name;
    backend->head.slot[SLOT_BACKEND_FREE] = (mb_ggml_fn)backend_free;
    backend->head.slot[layout->graph_compute] = (mb_ggml_fn)graph_compute;
    memcpy(&backend->head.slot[layout->backend_slots], &works_on, sizeof works_on);
    return backend;
}

/* ---- device ------------------------------------------------------------------------------- */

static const char *device_name(struct ggml_device *device)
{
    (void)device;
    return "mixbit";
}

static const char *device_description(struct ggml_device *device)
{
    (void)device;
    return machine.name;
}

static void device_memory(struct ggml_device *device, size_t *available, size_t *total)
{
    (void)device;
    mb_ggml_memory(available, total);
}

static int32_t device_type(struct ggml_device *device)
{
    (void)device;
    return GGML_DEVICE_ACCEL;
}

/* Capabilities stay as the host has cleared them: none. */
static void device_props(struct ggml_device *device, struct ggml_device_props *props)
{
    props->name = device_name(device);
    props->description = device_description(device);
    device_memory(device, &props->memory_free, &props->memory_total);
    props->type = device_type(device);
    props->device_id = NULL;
}

static struct ggml_buffer_type *packed_type(struct ggml_device *device)
{
    (void)device;
    return mb_ggml_buffer_type(NULL);
}

static struct ggml_buffer_type *host_type(struct ggml_device *device)
{
    (void)device;
    return mb_ggml_host.ggml_backend_cpu_buffer_type();
}

static bool supports_op(struct ggml_device *device, const struct ggml_tensor *op)
{
    (void)device;
    return mb_ggml_supports(op);
}

static bool supports_buffer_type(struct ggml_device *device, struct ggml_buffer_type *type)
{
    (void)device;
    return type == mb_ggml_buffer_type(NULL) || mb_ggml_host.ggml_backend_buft_is_host(type);
}

static bool offload_op(struct ggml_device *device, const struct ggml_tensor *op)
{
    (void)device;
    (void)op;
    return false;
}

static void make_device(struct ggml_device *device,
                        struct ggml_buffer_type *(*type)(struct ggml_device *))
{
    *device = (struct ggml_device){
        .get_name = device_name,
        .get_description = device_description,
        .get_memory = device_memory,
        .get_type = device_type,
        .get_props = device_props,
        .init_backend = init_backend,
        .get_buffer_type = type,
        .supports_op = supports_op,
        .supports_buft = supports_buffer_type,
        .offload_op = offload_op,
        .reg = &registry,
    };
}

/* ---- registry ----------------------------------------------------------------------------- */

static const char *registry_name(struct ggml_reg *reg)
{
    (void)reg;
    return "mixbit";
}

static size_t device_count(struct ggml_reg *reg)
{
    (void)reg;
    return 1;
}

static struct ggml_device *get_device(struct ggml_reg *reg, size_t index)
{
    (void)reg;
    return index == 0 ? &listed : NULL;
}

static mb_ggml_fn get_proc_address(struct ggml_reg *reg, const char *name)
{
    (void)reg;
    if (strcmp(name, "ggml_backend_set_n_threads") == 0)
        return (mb_ggml_fn)set_n_threads;
    if (strcmp(name, "ggml_backend_set_abort_callback") == 0)
        return (mb_ggml_fn)set_abort_callback;
    return NULL;
}

/* ---- loading ------------------------------------------------------------------------------ */

/* The name of the best level that may be used; NULL when it is the portable code alone. */
static const char *best_level(void)
{
    const char *best = NULL;
    struct mb_isa_info isa = {.name = NULL};
    for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++)
        if (isa.allowed && strcmp(isa.name, "reference") != 0)
            best = isa.name;
    return best;
}

int ggml_backend_score(void)
{
    if (best_level() != NULL)
        return 1;
    (void)fprintf(stderr, "ggml-mixbit: no vector instructions that may be used (mixbit probe "
                          "--why): the host's own kernels are faster\n");
    return 0;
}

/* A profile that 'mixbit tune' has left, or that MIXBIT_PROFILE names. One that can't be read, or
 * is another machine's, is said and left: products are right without. */
static void apply_profile(void)
{
    char *path = mb_profile_default_path(), why[256] = "";
    struct mb_profile *profile = NULL;
    struct mb_error error = {.message = ""};
    if (path == NULL)
        return;
    if (access(path, F_OK) != 0) {
        if (getenv("MIXBIT_PROFILE") != NULL)
            mb_ggml_log(GGML_LOG_WARN, "there is no profile at '%s'", path);
    } else if (mb_profile_load(path, &profile, &error) != MB_OK) {
        mb_ggml_log(GGML_LOG_WARN, "profile '%s' is not used: %s", path, error.message);
    } else if (mb_profile_match(profile, why, sizeof why) == MB_PROFILE_OTHER_MACHINE) {
        mb_ggml_log(GGML_LOG_WARN, "profile '%s' is not used: %s", path, why);
    } else if (strcmp(mb_profile_device(profile)->backend, "cpu") != 0) {
        mb_ggml_log(GGML_LOG_WARN, "profile '%s' is not used: it is of a device of kind %s", path,
                    mb_profile_device(profile)->backend);
    } else {
        mb_profile_apply(profile);
        mb_ggml_log(GGML_LOG_INFO, "kernels as in profile '%s'", path);
    }
    mb_profile_free(profile);
    free(path);
}

/* One product: settings from the environment that can't be honoured show here, not in a graph. */
static bool works(void)
{
    enum { N = 16, K = 32, BLOCK = 18 };
    static const uint8_t rows[N * BLOCK];
    static const float x[K];
    struct mb_weights weights;
    float y[N];
    size_t bytes = 0;
    enum mb_status status = mb_pack_size(MB_FORMAT_Q4_0, N, K, &bytes);
    void *data = status == MB_OK ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    if (data == NULL)
        status = status == MB_OK ? MB_ERR_MEMORY : status;
    else
        status = mb_weights_init(&weights, MB_FORMAT_Q4_0, N, K, data);
    if (status == MB_OK)
        status = mb_pack_rows(&weights, rows, 0, N);
    if (status == MB_OK)
        status = mb_matmul(NULL, &weights, x, 1, K, y, N);
    free(data);
    if (status != MB_OK)
        mb_ggml_log(GGML_LOG_ERROR,
                    "the library refuses to multiply (%s): look at MIXBIT_ISA and MIXBIT_KERNEL, "
                    "and at 'mixbit probe --why'",
                    mb_status_string(status));
    return status == MB_OK;
}

struct ggml_reg *ggml_backend_init(void)
{
    static bool ready;
    if (ready)
        return &registry;
    if (!mb_ggml_host_find(__builtin_return_address(0)))
        return NULL;
    machine.size = sizeof machine;
    (void)mb_device_info(&machine);
    apply_profile();
    if (!works())
        return NULL;
    make_device(&listed, packed_type);
    make_device(&on_host_memory, host_type);
    (void)mb_ggml_buffer_type(&listed);
    registry = (struct ggml_reg){
        .api_version = GGML_API_VERSION,
        .get_name = registry_name,
        .get_device_count = device_count,
        .get_device = get_device,
        .get_proc_address = get_proc_address,
    };
    ready = true;
    const char *level = best_level();
    mb_ggml_log(GGML_LOG_INFO, "mixbit %s in ggml %s, kernels up to %s", mb_version(),
                mb_ggml_host.ggml_version(), level != NULL ? level : "reference");
    return &registry;
}
