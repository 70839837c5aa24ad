/* SPDX-License-Identifier: Apache-2.0 */
/* See offload.h. Inputs and outputs on the device are kept by type and width and grow with the
 * number of rows, so a token allocates nothing. */
#include "model/offload.h"
#include "dispatch/backend.h"
#include "support/support.h"
#include "tuner/accelerator.h"

#include <stdlib.h>
#include <string.h>

enum { BUFFERS_MOST = 64, MANY = 16, MANY_MEASURED = 512 };

struct uploaded {
    const struct mb_weights *host;
    struct mb_backend_weights *there;
    struct mb_backend_kernel one, many; /* for m = 1, and from MANY on; no name: the default */
};
struct input {
    enum mb_activation type;
    size_t k, m;
    struct mb_backend_input *there;
};
struct output {
    size_t n, m;
    struct mb_backend_output *there;
};

struct mb_offload {
    struct mb_accelerator *accelerator;
    struct uploaded *matrices;
    size_t matrix_count;
    struct input inputs[BUFFERS_MOST];
    size_t input_count;
    struct mb_backend_input *codebook_input; /* of all codebook matrices, one after the other */
    struct output outputs[BUFFERS_MOST];
    size_t output_count;
};

void mb_offload_free(struct mb_offload *offload)
{
    if (offload == NULL)
        return;
    const struct mb_backend *backend = offload->accelerator->backend;
    for (size_t i = 0; i < offload->matrix_count; i++)
        backend->free_weights(offload->matrices[i].there);
    for (size_t i = 0; i < offload->input_count; i++)
        backend->input_free(offload->inputs[i].there);
    for (size_t i = 0; i < offload->output_count; i++)
        backend->output_free(offload->outputs[i].there);
    if (offload->codebook_input != NULL)
        backend->input_free(offload->codebook_input);
    free(offload->matrices);
    free(offload);
}

/* The kernel that the profile found best; no name where it says nothing. */
static struct mb_backend_kernel best_kernel(const struct mb_offload_target *target,
                                            const struct mb_weights *w, size_t m)
{
    const struct mb_accelerator *a = target->accelerator;
    const enum mb_format format =
        w->format != MB_FORMAT_NONE ? w->format : (enum mb_format)MB_BACKEND_CODEBOOK;
    struct mb_backend_kernel kernel;
    struct mb_cost cost;
    if (target->profile != NULL &&
        mb_profile_cost(target->profile, format, w->n, w->k, m, MB_ACCELERATOR_THREADS,
                        MB_ACCELERATOR_RESIDENCY, &cost) != MB_COST_NONE)
        for (size_t i = 0; a->backend->kernel_at(a->device, format, w->n, w->k, m, i, &kernel); i++)
            if (strcmp(kernel.name, cost.kernel) == 0 &&
                memcmp(kernel.knobs, cost.knobs, sizeof cost.knobs) == 0)
                return kernel;
    return (struct mb_backend_kernel){.name = ""};
}

/* A matrix's codebooks: one, or more where it is a stack. */
static const struct mb_codebook_weights *codebooks_of(const struct mb_weights *w)
{
    return w->format == MB_FORMAT_NONE ? w->data : NULL;
}

/* Whether it is ever multiplied as a whole: experts of codebooks are not. */
static bool is_whole(const struct mb_weights *w)
{
    const struct mb_codebook_weights *books = codebooks_of(w);
    return w->data != NULL && (books == NULL || books[1].size == 0);
}

static enum mb_status upload(const struct mb_accelerator *accelerator, struct uploaded *matrix,
                             struct mb_error *error)
{
    const struct mb_backend *backend = accelerator->backend;
    const struct mb_codebook_weights *book = codebooks_of(matrix->host);
    if (book == NULL)
        return backend->upload(accelerator->device, matrix->host, &matrix->there, error);
    if (backend->upload_codebook == NULL)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s has no kernels for codebook matrices; run on the CPU",
                            accelerator->info.name);
    return backend->upload_codebook(accelerator->device, book, &matrix->there, error);
}

enum mb_status mb_network_offload(struct mb_network *network,
                                  const struct mb_offload_target *target, struct mb_error *error)
{
    if (target == NULL || target->accelerator == NULL)
        return MB_OK;
    struct mb_accelerator *accelerator = target->accelerator;
    if (network->numerics == MB_NUMERICS_F32)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s runs each format's own kernels only, not f32 arithmetic",
                            accelerator->info.name);
    struct mb_offload *offload = calloc(1, sizeof *offload);
    if (offload != NULL) {
        offload->accelerator = accelerator;
        offload->matrices = calloc(network->matrix_count + 1, sizeof *offload->matrices);
    }
    enum mb_status status = offload != NULL && offload->matrices != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status != MB_OK)
        (void)mb_error_set(error, status, -1, "out of memory for a network on %s",
                           accelerator->info.name);
    for (size_t i = 0; i < network->matrix_count && status == MB_OK; i++) {
        const struct mb_weights *host = &network->matrices[i].weights;
        struct uploaded *matrix = &offload->matrices[offload->matrix_count];
        if (!is_whole(host))
            continue;
        *matrix = (struct uploaded){.host = host,
                                    .one = best_kernel(target, host, 1),
                                    .many = best_kernel(target, host, MANY_MEASURED)};
        status = upload(accelerator, matrix, error);
        offload->matrix_count += status == MB_OK;
    }
    if (status != MB_OK) {
        mb_offload_free(offload);
        return status;
    }
    mb_offload_free(network->offload);
    network->offload = offload;
    return MB_OK;
}

static const struct uploaded *find(const struct mb_offload *offload, const struct mb_weights *host)
{
    for (size_t i = 0; i < offload->matrix_count; i++)
        if (offload->matrices[i].host == host)
            return &offload->matrices[i];
    return NULL;
}

bool mb_offload_has(const struct mb_offload *offload, size_t count,
                    const struct mb_weights *const *weights)
{
    for (size_t i = 0; i < count; i++)
        if (offload == NULL || find(offload, weights[i]) == NULL)
            return false;
    return true;
}

/* ---- buffers ---- */

static enum mb_status input_for(struct mb_offload *o, enum mb_activation type, size_t k, size_t m,
                                struct mb_backend_input **found, struct mb_error *error)
{
    const struct mb_backend *backend = o->accelerator->backend;
    size_t i = 0;
    while (i < o->input_count && (o->inputs[i].type != type || o->inputs[i].k != k))
        i++;
    if (i == BUFFERS_MOST)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "more than %d widths", BUFFERS_MOST);
    struct input *input = &o->inputs[i];
    enum mb_status status = MB_OK;
    if (i == o->input_count || input->m < m) {
        struct mb_backend_input *there;
        status = backend->input_create(o->accelerator->device, type, m, k, &there, error);
        if (status != MB_OK)
            return status;
        if (i < o->input_count)
            backend->input_free(input->there);
        *input = (struct input){type, k, m, there};
        o->input_count += i == o->input_count;
    }
    *found = input->there;
    return status;
}

static enum mb_status output_for(struct mb_offload *o, size_t n, size_t m,
                                 struct mb_backend_output **found, struct mb_error *error)
{
    const struct mb_backend *backend = o->accelerator->backend;
    size_t i = 0;
    while (i < o->output_count && o->outputs[i].n != n)
        i++;
    if (i == BUFFERS_MOST)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "more than %d widths", BUFFERS_MOST);
    struct output *output = &o->outputs[i];
    if (i == o->output_count || output->m < m) {
        struct mb_backend_output *there;
        const enum mb_status status =
            backend->output_create(o->accelerator->device, m, n, &there, error);
        if (status != MB_OK)
            return status;
        if (i < o->output_count)
            backend->output_free(output->there);
        *output = (struct output){n, m, there};
        o->output_count += i == o->output_count;
    }
    *found = output->there;
    return MB_OK;
}

/* What a matrix reads: the others of its type read the same, a codebook matrix has its own. */
static enum mb_status input_of(struct mb_offload *o, const struct uploaded *matrix, size_t rows,
                               struct mb_backend_input **input, struct mb_error *error)
{
    const struct mb_weights *w = matrix->host;
    if (codebooks_of(w) == NULL)
        return input_for(o, mb_format_info(w->format)->activation, w->k, rows, input, error);
    const enum mb_status status =
        o->accelerator->backend->input_of_codebook(matrix->there, rows, &o->codebook_input, error);
    *input = o->codebook_input;
    return status;
}

static bool read_alike(const struct mb_weights *a, const struct mb_weights *b)
{
    return a->format != MB_FORMAT_NONE && b->format != MB_FORMAT_NONE &&
           mb_format_info(a->format)->activation == mb_format_info(b->format)->activation;
}

/* One product; its input is there already when the one before it read the same type. */
static enum mb_status multiply(struct mb_offload *o, const float *x, size_t x_stride, size_t rows,
                               const struct mb_weights *weights, bool fresh, float *y,
                               struct mb_error *error)
{
    const struct mb_backend *backend = o->accelerator->backend;
    const struct uploaded *matrix = find(o, weights);
    const struct mb_backend_kernel *kernel = rows == 1 ? &matrix->one : &matrix->many;
    struct mb_backend_product product = {.weights = matrix->there, .m = rows};
    struct mb_backend_input *input = NULL;
    struct mb_backend_output *output = NULL;
    enum mb_status status = input_of(o, matrix, rows, &input, error);
    if (status == MB_OK && fresh)
        status = backend->input_write(input, x, x_stride, rows, error);
    if (status == MB_OK)
        status = output_for(o, weights->n, rows, &output, error);
    if (status != MB_OK)
        return status;
    if ((rows == 1 || rows >= MANY) && kernel->name[0] != '\0')
        product.kernel = kernel;
    product.input = input;
    product.output = output;
    status = backend->multiply(o->accelerator->device, &product, error);
    return status == MB_OK ? backend->output_read(output, y, weights->n, rows, error) : status;
}

enum mb_status mb_offload_multiply(struct mb_offload *offload, const float *x, size_t x_stride,
                                   size_t rows, size_t count,
                                   const struct mb_weights *const *weights, float *const *y)
{
    struct mb_error error = {0};
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        bool fresh = true;
        for (size_t j = 0; j < i; j++)
            fresh = fresh && !read_alike(weights[j], weights[i]);
        status = multiply(offload, x, x_stride, rows, weights[i], fresh, y[i], &error);
    }
    if (status != MB_OK)
        mb_log(MB_LOG_WARNING, "%s", error.message);
    return status;
}
