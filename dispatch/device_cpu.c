/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU as a backend: the public matmul on a pool of threads, one per core. Nothing is copied,
 * and a product is done when multiply returns. The tuner keeps its own way to the CPU's kernels
 * (registry and selections); what runs through here is what the dispatch layer would choose. */
#include "dispatch/backend.h"
#include "dispatch/dispatch.h"
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mb_backend_device {
    struct mb_threads *threads;
    struct mb_host_clock clock;
};
struct mb_backend_weights {
    struct mb_weights packed;
};
struct mb_backend_input {
    struct mb_activations activations;
};
struct mb_backend_output {
    size_t n;
    float *y;
};

static enum mb_status list(size_t *count, struct mb_error *error)
{
    (void)error;
    *count = 1;
    return MB_OK;
}

static enum mb_status describe(size_t index, struct mb_device_info *info, struct mb_error *error)
{
    const enum mb_status status = index == 0 ? mb_device_info(info) : MB_ERR_ARGUMENT;
    return status == MB_OK
               ? MB_OK
               : mb_error_set(error, status, -1, "cpu:%zu: there is one CPU, cpu:0", index);
}

static enum mb_status fail(enum mb_status status, const char *what, struct mb_error *error)
{
    return mb_error_set(error, status, -1, "cpu: %s: %s", what, mb_status_string(status));
}

static enum mb_status open_cpu(size_t index, struct mb_backend_device **device,
                               struct mb_error *error)
{
    if (index != 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "cpu:%zu: there is one CPU, cpu:0", index);
    struct mb_backend_device *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return fail(MB_ERR_MEMORY, "opening", error);
    const enum mb_status status = mb_threads_create(0, &opened->threads);
    if (status != MB_OK) {
        free(opened);
        return fail(status, "starting threads", error);
    }
    *device = opened;
    return MB_OK;
}

static void close_cpu(struct mb_backend_device *device)
{
    if (device == NULL)
        return;
    mb_threads_destroy(device->threads);
    free(device);
}

static bool kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel)
{
    (void)device;
    const char *name = mb_kernel_for(format, n, k, m);
    const struct mb_kernel *found = i == 0 && name != NULL ? mb_registry_find(name) : NULL;
    if (found == NULL)
        return false;
    *kernel = (struct mb_backend_kernel){.revision = found->revision};
    (void)snprintf(kernel->name, sizeof kernel->name, "%s", name);
    return true;
}

static enum mb_status upload(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error)
{
    (void)device;
    *uploaded = malloc(sizeof **uploaded);
    if (*uploaded == NULL)
        return fail(MB_ERR_MEMORY, "weights", error);
    (*uploaded)->packed = *weights;
    return MB_OK;
}

static void free_weights(struct mb_backend_weights *weights) { free(weights); }

static void input_free(struct mb_backend_input *input)
{
    if (input == NULL)
        return;
    mb_free_aligned(input->activations.data);
    free(input);
}

static enum mb_status input_create(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error)
{
    (void)device;
    size_t bytes;
    enum mb_status status = mb_activations_size(type, m, k, &bytes);
    if (status != MB_OK)
        return fail(status, "activations", error);
    struct mb_backend_input *made = calloc(1, sizeof *made);
    void *data = made != NULL ? mb_alloc_aligned(bytes) : NULL;
    if (data == NULL) {
        free(made);
        return fail(MB_ERR_MEMORY, "activations", error);
    }
    status = mb_activations_init(&made->activations, type, m, k, data);
    *input = made;
    return status;
}

static enum mb_status input_write(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error)
{
    const enum mb_status status = mb_activations_prepare(&input->activations, x, x_stride, 0, m);
    return status == MB_OK ? MB_OK : fail(status, "activations", error);
}

static void output_free(struct mb_backend_output *output)
{
    if (output == NULL)
        return;
    mb_free_aligned(output->y);
    free(output);
}

static enum mb_status output_create(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error)
{
    (void)device;
    size_t count, bytes;
    struct mb_backend_output *made = calloc(1, sizeof *made);
    if (made != NULL && mb_mul_size(m, n, &count) && mb_mul_size(count, sizeof(float), &bytes))
        made->y = mb_alloc_aligned(bytes);
    if (made == NULL || made->y == NULL) {
        free(made);
        return fail(MB_ERR_MEMORY, "results", error);
    }
    made->n = n;
    *output = made;
    return MB_OK;
}

static enum mb_status output_read(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error)
{
    (void)error;
    for (size_t r = 0; r < m; r++)
        memcpy(y + r * y_stride, output->y + r * output->n, output->n * sizeof *y);
    return MB_OK;
}

static enum mb_status multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error)
{
    const struct mb_weights *weights = &product->weights->packed;
    struct mb_activations rows = product->input->activations;
    if (product->m == 0 || product->m > rows.m || product->output->n != weights->n)
        return fail(MB_ERR_SHAPE, "a product", error);
    rows.m = product->m;
    const struct mb_activations *input = &rows;
    mb_host_clock_begin(&device->clock);
    const enum mb_status status =
        mb_matmul_group(device->threads, 1, &weights, &input, &product->output->y, &weights->n);
    mb_host_clock_end(&device->clock);
    return status == MB_OK ? MB_OK : fail(status, "a product", error);
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

const struct mb_backend mb_backend_cpu = {
    .name = "cpu",
    .list = list,
    .describe = describe,
    .open = open_cpu,
    .close = close_cpu,
    .kernel_at = kernel_at,
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
