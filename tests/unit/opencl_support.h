/* SPDX-License-Identifier: Apache-2.0 */
/* One product on a device beside the same on the CPU: what tests of backends need. */
#ifndef MIXBIT_TESTS_OPENCL_SUPPORT_H
#define MIXBIT_TESTS_OPENCL_SUPPORT_H

#include "dispatch/backend.h"
#include "kernels/panel.h"
#include "support/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A matrix, rows of activations, and where their product goes. */
struct product {
    const struct mb_format_info *info;
    size_t n, k, m; /* m: room for rows */
    struct mb_weights weights;
    float *x, *expected, *y;
};

static inline float next_value(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)(*state >> 8) / (float)(1 << 23) - 1.0f;
}

/* Values in [-1, 1), the same for the same shape. */
static inline void product_create(struct product *p, const struct mb_format_info *info, size_t n,
                                  size_t k, size_t m)
{
    uint32_t state = (uint32_t)(n * 31 + k * 7 + (size_t)info->id);
    size_t bytes;
    *p = (struct product){.info = info, .n = n, .k = k, .m = m};
    float *w = malloc(n * k * sizeof *w);
    void *blocks = malloc(n * mb_format_row_bytes(info->id, k));
    p->x = malloc(m * k * sizeof *p->x);
    p->expected = malloc(m * n * sizeof *p->expected);
    p->y = malloc(m * n * sizeof *p->y);
    assert_int_equal(mb_pack_size(info->id, n, k, &bytes), MB_OK);
    void *data = mb_alloc_aligned(bytes);
    assert_true(w != NULL && blocks != NULL && p->x != NULL && p->expected != NULL &&
                p->y != NULL && data != NULL);
    for (size_t i = 0; i < n * k; i++)
        w[i] = next_value(&state);
    for (size_t i = 0; i < m * k; i++)
        p->x[i] = next_value(&state);
    assert_int_equal(mb_quantize(info->id, w, n, k, NULL, blocks), MB_OK);
    assert_int_equal(mb_weights_init(&p->weights, info->id, n, k, data), MB_OK);
    assert_int_equal(mb_pack_rows(&p->weights, blocks, 0, n), MB_OK);
    free(w);
    free(blocks);
    assert_int_equal(mb_matmul(NULL, &p->weights, p->x, m, k, p->expected, n), MB_OK);
}

static inline void product_free(struct product *p)
{
    mb_free_aligned(p->weights.data);
    free(p->x);
    free(p->expected);
    free(p->y);
}

/* What lives on the device for it. */
struct on_device {
    struct mb_backend_weights *weights;
    struct mb_backend_input *input;
    struct mb_backend_output *output;
};

static inline enum mb_status device_create(const struct mb_backend *backend,
                                           struct mb_backend_device *device,
                                           const struct product *p, struct on_device *on,
                                           struct mb_error *error)
{
    *on = (struct on_device){NULL, NULL, NULL};
    enum mb_status status = backend->upload(device, &p->weights, &on->weights, error);
    if (status == MB_OK)
        status = backend->input_create(device, p->info->activation, p->m, p->k, &on->input, error);
    if (status == MB_OK)
        status = backend->input_write(on->input, p->x, p->k, p->m, error);
    if (status == MB_OK)
        status = backend->output_create(device, p->m, p->n, &on->output, error);
    return status;
}

static inline void device_free(const struct mb_backend *backend, const struct on_device *on)
{
    backend->output_free(on->output);
    backend->input_free(on->input);
    backend->free_weights(on->weights);
}

/* The first m rows through `kernel` into p->y, which holds no old results. */
static inline enum mb_status device_multiply(const struct mb_backend *backend,
                                             struct mb_backend_device *device, struct product *p,
                                             const struct on_device *on,
                                             const struct mb_backend_kernel *kernel, size_t m,
                                             struct mb_error *error)
{
    const struct mb_backend_product product = {kernel, on->weights, on->input, on->output, m};
    memset(p->y, 0xff, p->m * p->n * sizeof *p->y);
    const enum mb_status status = backend->multiply(device, &product, error);
    return status == MB_OK ? backend->output_read(on->output, p->y, p->n, m, error) : status;
}

/* What one small product says, with the first device opened and closed around it. */
static inline enum mb_status open_and_multiply(const struct mb_backend *backend,
                                               struct mb_error *error)
{
    struct mb_backend_device *opened = NULL;
    struct product p;
    struct on_device on;
    *error = (struct mb_error){0};
    enum mb_status status = backend->open(0, &opened, error);
    if (status != MB_OK)
        return status;
    product_create(&p, mb_format_info(MB_FORMAT_Q4_0), 16, 64, 1);
    status = device_create(backend, opened, &p, &on, error);
    if (status == MB_OK)
        status = device_multiply(backend, opened, &p, &on, NULL, 1, error);
    device_free(backend, &on);
    backend->close(opened);
    product_free(&p);
    return status;
}

#endif
