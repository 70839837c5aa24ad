/* SPDX-License-Identifier: Apache-2.0 */
/* The buffer type: memory in which weights of known formats lie packed, all else as the host has
 * it. */
#ifndef MIXBIT_PLUGIN_GGML_BUFFER_H
#define MIXBIT_PLUGIN_GGML_BUFFER_H

#include "host.h"

/* How a tensor of weights is kept: `matrices` packed matrices of n x k, `stride` bytes apart. */
struct mb_ggml_packing {
    const struct mb_format_info *format;
    size_t n, k, matrices;
    size_t row_bytes; /* as the host stores a row */
    size_t stride;
};

/* False: not a tensor that is kept packed (floats, an unknown type, not contiguous, a view). */
bool mb_ggml_packing_of(const struct ggml_tensor *tensor, struct mb_ggml_packing *packing);
/* Describe matrix i of a tensor packed at `data`. */
enum mb_status mb_ggml_weights(const struct mb_ggml_packing *packing, void *data, size_t i,
                               struct mb_weights *weights);

struct ggml_buffer_type *mb_ggml_buffer_type(struct ggml_device *device);
/* Whether the tensor's memory is of the type above. */
bool mb_ggml_is_ours(const struct ggml_tensor *tensor);
/* Buffers that hold something now. */
size_t mb_ggml_buffers_live(void);
/* Bytes of this machine's memory, or of what its control group allows: all, and to be had now. */
void mb_ggml_memory(size_t *available, size_t *total);

#endif
