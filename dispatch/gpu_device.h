/* SPDX-License-Identifier: Apache-2.0 */
/* A GPU behind the table of backend.h, whatever interface it is called through: shapes, parts of
 * weights, prepared activations and the order of calls are the same for all. An interface brings a
 * few calls (struct mb_gpu_calls) on buffers and kernels; the functions here are the rows of its
 * table.
 *
 * Weights may be larger than a device's largest buffer (a quarter of its memory is common): they
 * are cut between panels into as many buffers as it takes, and a product is one launch for each. */
#ifndef MIXBIT_DISPATCH_GPU_DEVICE_H
#define MIXBIT_DISPATCH_GPU_DEVICE_H

#include "dispatch/gpu.h"

/* What an interface brings. All calls are in order: what is queued later sees what was queued
 * before. `what` says in an error message what was to be done. */
struct mb_gpu_calls {
    const char *backend; /* as users write it */
    bool is_ahead;       /* kernels are SPIR-V of the build: tiles without it are not offered */

    enum mb_status (*create_buffer)(struct mb_backend_device *device, size_t bytes,
                                    const char *what, void **buffer, struct mb_error *error);
    void (*free_buffer)(struct mb_backend_device *device, void *buffer);
    /* Where the host may write the buffer itself as soon as nothing is queued; NULL: nowhere. */
    void *(*host_view)(struct mb_backend_device *device, void *buffer);
    /* The host's memory may change as soon as this returns. */
    enum mb_status (*write)(struct mb_backend_device *device, void *buffer, size_t at,
                            const void *from, size_t bytes, const char *what,
                            struct mb_error *error);
    /* Waits for what is queued. */
    enum mb_status (*read)(struct mb_backend_device *device, void *buffer, size_t at, size_t bytes,
                           void *to, struct mb_error *error);
    /* Buffers: weights, activations, results. */
    enum mb_status (*launch)(struct mb_backend_device *device, const struct mb_format_info *info,
                             const struct mb_gpu_tile *tile, const struct mb_gpu_launch *launch,
                             void *const buffers[3], struct mb_error *error);
    enum mb_status (*finish)(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error);
    /* Whether the tile's kernel, built for the device, is what the tile was made for, so that it
     * may be taken unasked. NULL: every one is. */
    enum mb_status (*suits)(struct mb_backend_device *device, const struct mb_format_info *info,
                            const struct mb_gpu_tile *tile, bool *suits, struct mb_error *error);
};

/* What every interface's device starts with. */
struct mb_backend_device {
    const struct mb_gpu_calls *calls;
    size_t index;
    char name[128];
    struct mb_gpu_limits limits;
    size_t buffer_bytes; /* of the largest buffer */
};

/* "opencl:0 (name): what: code", and the status back. */
enum mb_status mb_gpu_fail(const struct mb_backend_device *device, enum mb_status status,
                           const char *what, const char *code, struct mb_error *error);
enum mb_status mb_gpu_no_memory(const struct mb_backend_device *device, struct mb_error *error);
/* MB_ERR_UNSUPPORTED: a kernel that does not build, with the line of its log (NULL: none) that says
 * why. */
enum mb_status mb_gpu_build_failed(const struct mb_backend_device *device, const char *code,
                                   const char *log, struct mb_error *error);

/* ---- rows of the table in backend.h ---- */

bool mb_gpu_kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel);
enum mb_status mb_gpu_upload(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error);
enum mb_status mb_gpu_upload_codebook(struct mb_backend_device *device,
                                      const struct mb_codebook_weights *weights,
                                      struct mb_backend_weights **uploaded, struct mb_error *error);
void mb_gpu_free_weights(struct mb_backend_weights *weights);
enum mb_status mb_gpu_input_create(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error);
enum mb_status mb_gpu_input_of_codebook(const struct mb_backend_weights *weights, size_t m,
                                        struct mb_backend_input **input, struct mb_error *error);
enum mb_status mb_gpu_input_write(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error);
void mb_gpu_input_free(struct mb_backend_input *input);
enum mb_status mb_gpu_output_create(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error);
enum mb_status mb_gpu_output_read(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error);
void mb_gpu_output_free(struct mb_backend_output *output);
enum mb_status mb_gpu_multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error);
enum mb_status mb_gpu_finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error);
enum mb_status mb_gpu_read_memory(struct mb_backend_device *device, size_t *set, size_t piece,
                                  size_t passes, double *busy_ns, struct mb_error *error);

/* The rows that are the same for every interface. */
#define MB_GPU_ROWS                                                                                \
    .kernel_at = mb_gpu_kernel_at, .upload = mb_gpu_upload,                                        \
    .upload_codebook = mb_gpu_upload_codebook, .free_weights = mb_gpu_free_weights,                \
    .input_create = mb_gpu_input_create, .input_of_codebook = mb_gpu_input_of_codebook,            \
    .input_write = mb_gpu_input_write, .input_free = mb_gpu_input_free,                            \
    .output_create = mb_gpu_output_create, .output_read = mb_gpu_output_read,                      \
    .output_free = mb_gpu_output_free, .multiply = mb_gpu_multiply, .finish = mb_gpu_finish,       \
    .read_memory = mb_gpu_read_memory

/* The table of an interface that this build lacks the headers of: it has no device and says why.
 * Nothing else is ever called. */
#define MB_GPU_NOT_BUILT(table, user_name, why)                                                    \
    static enum mb_status list_none(size_t *count, struct mb_error *error)                         \
    {                                                                                              \
        *count = 0;                                                                                \
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "%s", why);                             \
    }                                                                                              \
    static enum mb_status describe_none(size_t index, struct mb_device_info *info,                 \
                                        struct mb_error *error)                                    \
    {                                                                                              \
        (void)index;                                                                               \
        (void)info;                                                                                \
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "%s", why);                             \
    }                                                                                              \
    static enum mb_status open_none(size_t index, struct mb_backend_device **device,               \
                                    struct mb_error *error)                                        \
    {                                                                                              \
        (void)index;                                                                               \
        (void)device;                                                                              \
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "%s", why);                             \
    }                                                                                              \
    const struct mb_backend table = {                                                              \
        .name = user_name, .list = list_none, .describe = describe_none, .open = open_none}

#endif
