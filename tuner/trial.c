/* SPDX-License-Identifier: Apache-2.0 */
/* See trial.h. */
#include "tuner/trial.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>

static const size_t room_most = (size_t)1 << 30;

static void keep_failure(struct mb_trial *trial, enum mb_status status)
{
    if (trial->status == MB_OK)
        trial->status = status;
}

void mb_trial_write(struct mb_trial *t)
{
    if (t->status == MB_OK)
        keep_failure(t, t->accelerator->backend->input_write(t->input, t->workload.x, t->workload.k,
                                                             t->workload.m, t->error));
}

void mb_trial_multiply(struct mb_trial *t, const struct mb_backend_kernel *kernel)
{
    const struct mb_backend_product product = {.kernel = kernel,
                                               .weights = t->copies[t->cursor],
                                               .input = t->input,
                                               .output = t->output,
                                               .m = t->workload.m};
    t->cursor = t->cursor + 1 < t->copy_count ? t->cursor + 1 : 0;
    if (t->status == MB_OK)
        keep_failure(t,
                     t->accelerator->backend->multiply(t->accelerator->device, &product, t->error));
}

void mb_trial_call(struct mb_trial *t, const struct mb_backend_kernel *kernel)
{
    mb_trial_write(t);
    mb_trial_multiply(t, kernel);
    if (t->status == MB_OK)
        keep_failure(t, t->accelerator->backend->output_read(
                            t->output, t->workload.y, t->workload.n, t->workload.m, t->error));
}

enum mb_status mb_trial_check(struct mb_trial *t, const struct mb_backend_kernel *kernel,
                              const struct mb_backend_kernel *spoiler, double *error, int *failed)
{
    float *const x = t->workload.x;
    t->workload.x = t->zeros;
    mb_trial_call(t, spoiler);
    t->workload.x = x;
    mb_trial_call(t, kernel);
    if (t->status == MB_OK)
        mb_workload_judge_results(&t->workload, t->workload.y,
                                  fmax(mb_format_info(t->workload.format)->error_bound,
                                       t->accelerator->backend->error_bound),
                                  error, failed);
    return t->status;
}

void mb_trial_close(struct mb_trial *t)
{
    const struct mb_backend *backend = t->accelerator->backend;
    for (size_t i = 0; i < t->copy_count; i++)
        backend->free_weights(t->copies[i]);
    backend->input_free(t->input);
    backend->output_free(t->output);
    free(t->zeros);
    mb_workload_free(&t->workload);
}

size_t mb_trial_room(const struct mb_accelerator *accelerator, size_t wanted)
{
    const size_t memory = accelerator->info.memory_bytes;
    const size_t most = memory > 0 && memory / 4 < room_most ? memory / 4 : room_most;
    return wanted < most ? wanted : most;
}

/* Bytes of all copies together. */
static size_t set_bytes(const struct mb_accelerator *accelerator, enum mb_format format,
                        struct mb_shape shape, size_t set)
{
    size_t packed;
    if (mb_pack_size(format, shape.n, shape.k, &packed) != MB_OK) /* codebooks: about so many */
        packed = shape.n * mb_format_row_bytes(format, shape.k) + 1;
    set = mb_trial_room(accelerator, set);
    return set / packed > MB_TRIAL_COPIES ? packed * MB_TRIAL_COPIES : set;
}

enum mb_status mb_trial_open(struct mb_trial *t, const struct mb_accelerator *accelerator,
                             enum mb_format format, struct mb_shape shape, size_t m, size_t set,
                             struct mb_arena *arena, struct mb_error *error)
{
    const struct mb_backend *backend = accelerator->backend;
    struct mb_backend_device *device = accelerator->device;
    *t = (struct mb_trial){.accelerator = accelerator, .error = error};
    const bool codebook = mb_format_is_codebook(format);
    if (codebook && backend->upload_codebook == NULL)
        return mb_error_set(
            error, MB_ERR_UNSUPPORTED, -1,
            "%s has no kernels for codebook matrices: leave %s out, or take the CPU",
            accelerator->info.name, mb_format_info(format)->name);
    enum mb_status status =
        mb_workload_create(&t->workload, format, shape.n, shape.k, m,
                           set_bytes(accelerator, format, shape, set), NULL, arena, error);
    if (status != MB_OK)
        return status;
    t->zeros = calloc(m * shape.k, sizeof *t->zeros);
    if (t->zeros == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory");
    struct mb_weights weights = t->workload.weights;
    struct mb_codebook_weights books = t->workload.books;
    for (size_t i = 0; i < t->workload.copies && i < MB_TRIAL_COPIES && status == MB_OK; i++) {
        books.data = weights.data =
            (uint8_t *)t->workload.weights.data + i * t->workload.copy_bytes;
        status = codebook ? backend->upload_codebook(device, &books, &t->copies[i], error)
                          : backend->upload(device, &weights, &t->copies[i], error);
        t->copy_count += status == MB_OK;
    }
    if (status == MB_OK)
        status = codebook ? backend->input_of_codebook(t->copies[0], m, &t->input, error)
                          : backend->input_create(device, mb_format_info(format)->activation, m,
                                                  shape.k, &t->input, error);
    if (status == MB_OK)
        status = backend->output_create(device, m, shape.n, &t->output, error);
    if (status != MB_OK)
        mb_trial_close(t);
    return status;
}
