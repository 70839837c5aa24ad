/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX Runtime that loaded this plug-in: its functions, its errors, its tensors. */
#ifndef MIXBIT_PLUGIN_ORT_HOST_H
#define MIXBIT_PLUGIN_ORT_HOST_H

#include "mixbit/mixbit.h"
#include "ort_provider_abi.h"

#include <stdbool.h>

enum { MB_ORT_RANK = 8, MB_ORT_TEXT = 256 };

/* A tensor's type, shape and memory; it belongs to the host. */
struct mb_ort_tensor {
    const struct ort_value *value;
    const void *data;
    int type;
    size_t rank;
    int64_t dimensions[MB_ORT_RANK];
    size_t elements;
};

/* Reads the slots of the host's table. */
void mb_ort_bind(const struct ort_table *table, struct ort_api *api);
/* The same of what providers need; the name of a slot that is empty, NULL where none is. */
const char *mb_ort_bind_graph(const struct ort_table *table, struct ort_graph_api *api);
const char *mb_ort_bind_provider(const struct ort_provider_table *table,
                                 struct ort_provider_api *api);
/* The table of a version, its slots read. An error on a host that is older; `what` needs it. */
struct ort_status *mb_ort_connect(const struct ort_base *base, uint32_t version, const char *what,
                                  const struct ort_table **table, struct ort_api *api);
/* A status for the host with a message of one line; `code` as in ort_abi.h. */
struct ort_status *mb_ort_error(const struct ort_api *api, int code, const char *format, ...)
    MB_PRINTF(3, 4);
/* Whether a call succeeded; a failure's status is released. */
bool mb_ort_succeeds(const struct ort_api *api, struct ort_status *status);
/* Describe a tensor. More than MB_ORT_RANK dimensions, or what is no dense tensor of fixed-size
 * elements, is an error. */
struct ort_status *mb_ort_describe(const struct ort_api *api, const struct ort_value *value,
                                   struct mb_ort_tensor *tensor);

/* *product = a * b; false when it overflows. */
bool mb_ort_multiply(size_t a, size_t b, size_t *product);
static inline size_t mb_ort_round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

/* Rows of floats of the host's types, f32 and f16, read into and written from f32. */
static inline size_t mb_ort_float_bytes(int type) { return type == ORT_TYPE_FLOAT16 ? 2 : 4; }
void mb_ort_read_floats(int type, const void *from, size_t count, float *to);
void mb_ort_write_floats(int type, const float *from, size_t count, void *to);

#endif
