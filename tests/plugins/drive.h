/* SPDX-License-Identifier: Apache-2.0 */
/* The plug-in as a host drives it: through its tables. With it, tensors to feed it and products in
 * f64 to hold it against. */
#ifndef MIXBIT_TEST_DRIVE_H
#define MIXBIT_TEST_DRIVE_H

#include "fake_ggml.h"
#include "mixbit/mixbit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum {
    CLEAR_SLOT = FAKE_SLOTS - 2,
    BACKEND_TABLE = FAKE_SLOTS == 9 ? 14 : 16,
    GRAPH_COMPUTE = FAKE_SLOTS == 9 ? 10 : 12,
};

struct plugin {
    void *library;
    struct ggml_reg *reg;
    struct ggml_device *device;
    struct ggml_buffer_type *type;
};

/* Quantized rows of random floats, and their values. */
struct matrix {
    uint8_t *rows;
    float *values;
};

/* RMS of what is off over RMS of the product in f64, for one row of activations. */
struct off {
    double error, exact;
};

size_t bytes_of(const struct ggml_tensor *t);
struct ggml_reg *call_init(void *library);
struct plugin load(const char *path);
int32_t compute(void *backend, struct fake_graph *graph);
void free_backend(void *backend);
struct ggml_device *device_of(void *backend);
void set_threads(const struct plugin *p, void *backend, int count);
void set_bytes(struct ggml_tensor *t, const void *data, size_t offset, size_t size);
void get_bytes(const struct ggml_tensor *t, void *data, size_t offset, size_t size);
void allocate(const struct plugin *p, struct ggml_tensor *t);
struct matrix make_matrix(const struct ggml_tensor *t);
void free_matrix(struct matrix *m);
struct matrix make_weights(const struct plugin *p, struct ggml_tensor *t);
/* Formats of formats.def that the host does not have in blocks under this name. */
bool is_skipped(size_t i);
struct ggml_tensor make_floats(int64_t n0, int64_t n1, int64_t n2, struct ggml_buffer *host);
struct ggml_tensor make_product(int32_t op, struct ggml_tensor *w, struct ggml_tensor *x,
                                struct ggml_buffer *host);
void add_row(struct off *off, const float *w, const float *x, const float *y, size_t n, size_t k);
void assert_close(const struct off *off, int32_t format);
void check_product(const struct ggml_tensor *y, const struct matrix *w);
float random_float(void);
void ggml_backend_buffer_free(struct ggml_buffer *buffer);

#endif
