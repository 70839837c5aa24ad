/* SPDX-License-Identifier: Apache-2.0 */
/* ggml as a device: a runtime that keeps its own kernels is measured, planned for and evaluated
 * like a device of its own, through the adapter that benches use (ggml.c). What runs is what
 * llama.cpp runs: weights repacked where its CPU backend has a repacked layout for them, else as
 * GGUF stores them; activations quantized inside each product.
 *
 * Which ggml is a matter of MIXBIT_GGML (docs/measuring.md, "Peers"). It multiplies on the same
 * cores as ours, with as many threads as there are physical ones. */
#include "bench/peers/peer.h"
#include "dispatch/backend.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REVISION = 1 };

struct mb_backend_device {
    size_t threads;
    struct mb_host_clock clock;
};
/* One copy, and what its next product is bound to. */
struct mb_backend_weights {
    enum mb_format format;
    size_t n, k, m;
    void *product;
    const float *x;
    float *y;
};
struct mb_backend_input {
    size_t m, k;
    float *x;
};
struct mb_backend_output {
    size_t m, n;
    float *y;
};

/* Opened once and never closed, since ggml keeps threads and registrations. */
static struct {
    bool tried, open;
    struct mb_peer_info info;
    char why[MB_PEER_TEXT];
} library;

static enum mb_status refuse(enum mb_status status, const char *why, struct mb_error *error)
{
    return mb_error_set(error, status, -1, "ggml: %s", why);
}

static enum mb_status list(size_t *count, struct mb_error *error)
{
    if (!library.tried)
        library.open = mb_peer_ggml.open(&library.info, library.why);
    library.tried = true;
    *count = library.open ? 1 : 0;
    return library.open
               ? MB_OK
               : mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "no ggml library: %s", library.why);
}

/* The CPU, and the library on it: another version, or one built for other instructions, is another
 * device as far as costs are concerned. */
static enum mb_status describe(size_t index, struct mb_device_info *info, struct mb_error *error)
{
    struct mb_device_info cpu = {.size = sizeof cpu};
    size_t count;
    enum mb_status status = list(&count, error);
    if (status == MB_OK && index >= count)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1, "ggml:%zu: there is one, ggml:0", index);
    if (status == MB_OK && mb_device_info(&cpu) != MB_OK)
        status = refuse(MB_ERR_DEVICE, "this machine could not be identified", error);
    if (status != MB_OK)
        return status;
    char text[1024];
    *info = cpu;
    (void)snprintf(info->backend, sizeof info->backend, "ggml");
    (void)snprintf(info->name, sizeof info->name, "ggml %.40s on %.60s", library.info.version,
                   cpu.name);
    (void)snprintf(info->features, sizeof info->features, "%s", library.info.system);
    (void)snprintf(text, sizeof text, "ggml/%s/%s/%s", cpu.key, library.info.version,
                   library.info.system);
    mb_hash_bytes(text, strlen(text), info->key);
    return MB_OK;
}

static enum mb_status open_ggml(size_t index, struct mb_backend_device **device,
                                struct mb_error *error)
{
    struct mb_device_info info = {.size = sizeof info};
    const enum mb_status status = describe(index, &info, error);
    if (status != MB_OK)
        return status;
    *device = calloc(1, sizeof **device);
    if (*device == NULL)
        return refuse(MB_ERR_MEMORY, "out of memory", error);
    (*device)->threads = info.kinds[0].cores > 0 ? info.kinds[0].cores : 1;
    return MB_OK;
}

static void close_ggml(struct mb_backend_device *device) { free(device); }

static void name_kernel(enum mb_format format, char *name, size_t bytes)
{
    (void)snprintf(name, bytes, "mul_mat_%s_ggml", mb_format_info(format)->name);
}

static bool kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel)
{
    (void)device;
    if (i > 0 || n == 0 || m == 0 || mb_format_row_bytes(format, k) == 0 ||
        !mb_peer_ggml.has(format))
        return false;
    *kernel = (struct mb_backend_kernel){.revision = REVISION};
    name_kernel(format, kernel->name, sizeof kernel->name);
    return true;
}

static bool is_current(const char *kernel, unsigned revision, enum mb_format format)
{
    char name[72];
    name_kernel(format, name, sizeof name);
    return revision == REVISION && strcmp(kernel, name) == 0;
}

static void free_weights(struct mb_backend_weights *weights)
{
    if (weights == NULL)
        return;
    mb_peer_ggml.destroy(weights->product);
    free(weights);
}

static enum mb_status upload(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error)
{
    char why[MB_PEER_TEXT] = "";
    if (!mb_peer_ggml.has(weights->format))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "ggml %s has no %s",
                            library.info.version, mb_format_info(weights->format)->name);
    struct mb_backend_weights *w = calloc(1, sizeof *w);
    void *blocks = malloc(weights->n * mb_format_row_bytes(weights->format, weights->k));
    enum mb_status status = w != NULL && blocks != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_unpack_rows(weights, 0, weights->n, blocks);
    if (status == MB_OK) {
        const struct mb_peer_matrix matrix = {.format = weights->format,
                                              .n = weights->n,
                                              .k = weights->k,
                                              .copies = 1,
                                              .threads = device->threads,
                                              .blocks = blocks};
        *w = (struct mb_backend_weights){
            .format = weights->format, .n = weights->n, .k = weights->k};
        for (size_t v = mb_peer_ggml.variants; v-- > 0 && w->product == NULL;) /* repack first */
            w->product = mb_peer_ggml.create(v, &matrix, why);
        if (w->product == NULL)
            status = MB_ERR_MEMORY;
    }
    free(blocks);
    if (status != MB_OK) {
        free_weights(w);
        return refuse(status, why[0] != '\0' ? why : mb_status_string(status), error);
    }
    *uploaded = w;
    return MB_OK;
}

static float *alloc_floats(size_t rows, size_t columns)
{
    size_t count, bytes;
    return mb_mul_size(rows, columns, &count) && mb_mul_size(count, sizeof(float), &bytes)
               ? mb_alloc_aligned(bytes)
               : NULL;
}

static void input_free(struct mb_backend_input *input)
{
    if (input != NULL)
        mb_free_aligned(input->x);
    free(input);
}

/* Rows as they are, whatever type the format asks for: ggml quantizes them itself. */
static enum mb_status input_create(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error)
{
    (void)device;
    (void)type;
    struct mb_backend_input *made = calloc(1, sizeof *made);
    if (made != NULL)
        *made = (struct mb_backend_input){m, k, alloc_floats(m, k)};
    if (made == NULL || made->x == NULL) {
        input_free(made);
        return refuse(MB_ERR_MEMORY, "no memory for activations", error);
    }
    *input = made;
    return MB_OK;
}

static enum mb_status input_write(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error)
{
    if (m > input->m)
        return refuse(MB_ERR_SHAPE, "more rows than the input has room for", error);
    for (size_t r = 0; r < m; r++)
        memcpy(input->x + r * input->k, x + r * x_stride, input->k * sizeof *x);
    return MB_OK;
}

static void output_free(struct mb_backend_output *output)
{
    if (output != NULL)
        mb_free_aligned(output->y);
    free(output);
}

static enum mb_status output_create(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error)
{
    (void)device;
    struct mb_backend_output *made = calloc(1, sizeof *made);
    if (made != NULL)
        *made = (struct mb_backend_output){m, n, alloc_floats(m, n)};
    if (made == NULL || made->y == NULL) {
        output_free(made);
        return refuse(MB_ERR_MEMORY, "no memory for results", error);
    }
    *output = made;
    return MB_OK;
}

static enum mb_status output_read(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error)
{
    if (m > output->m)
        return refuse(MB_ERR_SHAPE, "more rows than the output has", error);
    for (size_t r = 0; r < m; r++)
        memcpy(y + r * y_stride, output->y + r * output->n, output->n * sizeof *y);
    return MB_OK;
}

/* A graph is made when weights meet other buffers or another m than the last time. */
static enum mb_status multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error)
{
    struct mb_backend_weights *w = (struct mb_backend_weights *)(uintptr_t)product->weights;
    const struct mb_backend_input *input = product->input;
    const struct mb_backend_output *output = product->output;
    const size_t m = product->m;
    char why[MB_PEER_TEXT] = "";
    if (m == 0 || m > input->m || m > output->m || input->k != w->k || output->n != w->n)
        return refuse(MB_ERR_SHAPE, "weights, input and output do not fit each other", error);
    if (w->x != input->x || w->y != output->y || w->m != m) {
        if (!mb_peer_ggml.bind(w->product, input->x, m, output->y, why))
            return refuse(MB_ERR_MEMORY, why, error);
        w->x = input->x;
        w->y = output->y;
        w->m = m;
    }
    mb_host_clock_begin(&device->clock);
    const bool done = mb_peer_ggml.run(w->product);
    mb_host_clock_end(&device->clock);
    return done ? MB_OK : refuse(MB_ERR_DEVICE, "it reports that a product failed", error);
}

static enum mb_status finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error)
{
    (void)error;
    const double taken_ns = mb_host_clock_take(&device->clock);
    if (busy_ns != NULL)
        *busy_ns = taken_ns;
    return MB_OK;
}

const struct mb_backend mb_backend_ggml = {
    .name = "ggml",
    .error_bound = 0.05,
    .list = list,
    .describe = describe,
    .open = open_ggml,
    .close = close_ggml,
    .kernel_at = kernel_at,
    .is_current = is_current,
    .upload = upload,
    .free_weights = free_weights,
    .input_create = input_create,
    .input_write = input_write,
    .input_free = input_free,
    .output_create = output_create,
    .output_read = output_read,
    .output_free = output_free,
    .multiply = multiply,
    .finish = finish,
};
