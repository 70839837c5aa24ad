/* SPDX-License-Identifier: Apache-2.0 */
/* Networks: from an open model, and possibly a mix of formats, to packed weights and a list of
 * steps.
 *
 * A mixed tensor is dequantized, quantized again and packed a few rows at a time on all threads, by
 * the same calls that write a file, so a mix measured here has the bits of the mix on disk. */
#include "model/network.h"
#include "model/offload.h"

#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "support/support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PACK_ROWS = 16, /* rows a thread packs at once: one panel, which no two threads share */
    LINE_BYTES = 64 /* what weights are aligned to */
};

struct split {
    size_t count;
    void (*task)(void *arg, size_t first, size_t last, size_t thread);
    void *arg;
};

static void run_split(void *arg, size_t index, size_t count)
{
    const struct split *split = arg;
    const size_t first = split->count * index / count, last = split->count * (index + 1) / count;
    if (first < last)
        split->task(split->arg, first, last, index);
}

void mb_split(struct mb_threads *threads, size_t count, size_t work,
              void (*task)(void *arg, size_t first, size_t last, size_t thread), void *arg)
{
    struct split split = {count, task, arg};
    if (threads == NULL || count < 2 || work < MB_WORTH_A_DISPATCH)
        run_split(&split, 0, 1);
    else
        mb_threads_run(threads, run_split, &split);
}

enum mb_status mb_rows_as(const struct mb_tensor *tensor, enum mb_format format,
                          const float *importance, size_t row0, size_t row1, float *scratch,
                          void *out)
{
    const size_t row_bytes = mb_format_row_bytes(tensor->format, tensor->k);
    const uint8_t *src = (const uint8_t *)tensor->data + row0 * row_bytes;
    if (format == tensor->format) {
        memcpy(out, src, (row1 - row0) * row_bytes);
        return MB_OK;
    }
    enum mb_status status = mb_dequantize(tensor->format, src, row1 - row0, tensor->k, scratch);
    const struct mb_encoding encoding = {.importance = importance};
    if (status == MB_OK)
        status = mb_quantize_rows(tensor, format, &encoding, row0, row1, scratch, out);
    return status;
}

struct rows_as {
    const struct mb_tensor *tensor;
    enum mb_format format;
    const float *importance;
    uint8_t *out;
    atomic_int status;
};

static void panels_as(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct rows_as *job = arg;
    const size_t n = job->tensor->n, k = job->tensor->k;
    float *floats = malloc(PACK_ROWS * k * sizeof *floats);
    enum mb_status status = floats != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t panel = first; panel < last && status == MB_OK; panel++) {
        const size_t row = panel * PACK_ROWS, end = row + PACK_ROWS < n ? row + PACK_ROWS : n;
        status = mb_rows_as(job->tensor, job->format, job->importance, row, end, floats,
                            job->out + row * mb_format_row_bytes(job->format, k));
    }
    free(floats);
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
}

enum mb_status mb_all_rows_as(const struct mb_tensor *tensor, enum mb_format format,
                              const float *importance, struct mb_threads *threads, void *out)
{
    struct rows_as job = {.tensor = tensor, .format = format, .importance = importance, .out = out};
    mb_split(threads, (tensor->n + PACK_ROWS - 1) / PACK_ROWS, 64 * tensor->n * tensor->k,
             panels_as, &job);
    return (enum mb_status)atomic_load(&job.status);
}

enum mb_format mb_f32_format(enum mb_format format)
{
    return mb_matmul_supports(format, MB_ACTIVATION_F32) ? format : MB_FORMAT_F32;
}

/* ---- packing ---- */

struct pack {
    const struct mb_tensor *tensor;
    struct mb_matrix *matrix;
    const float *importance; /* of the tensor; NULL: none */
    const uint8_t *encoded;  /* its rows in the matrix's format; NULL: encode them */
    bool products;           /* pack for products */
    atomic_int status;
};

/* One panel's rows: as the mixed file would hold them, then kept, packed, or both. */
static enum mb_status pack_rows(struct pack *pack, size_t row0, size_t row1, void *scratch,
                                float *floats)
{
    struct mb_matrix *matrix = pack->matrix;
    const size_t row_bytes = mb_format_row_bytes(matrix->format, matrix->k);
    const void *stored = scratch;
    enum mb_status status = MB_OK;
    if (pack->encoded != NULL)
        stored = pack->encoded + row0 * row_bytes;
    else
        status =
            mb_rows_as(pack->tensor, matrix->format, pack->importance, row0, row1, floats, scratch);
    if (status == MB_OK && matrix->owned_rows != NULL)
        memcpy((uint8_t *)matrix->owned_rows + row0 * row_bytes, stored, (row1 - row0) * row_bytes);
    if (status != MB_OK || !pack->products)
        return status;
    if (matrix->weights.format == matrix->format)
        return mb_pack_rows(&matrix->weights, stored, row0, row1);
    status = mb_dequantize(matrix->format, stored, row1 - row0, matrix->k, floats);
    return status == MB_OK ? mb_pack_rows(&matrix->weights, floats, row0, row1) : status;
}

static void pack_panels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct pack *pack = arg;
    const struct mb_matrix *matrix = pack->matrix;
    void *stored = malloc(PACK_ROWS * mb_format_row_bytes(matrix->format, matrix->k));
    float *floats = malloc(PACK_ROWS * matrix->k * sizeof *floats);
    enum mb_status status = stored && floats ? MB_OK : MB_ERR_MEMORY;
    for (size_t panel = first; panel < last && status == MB_OK; panel++) {
        const size_t row0 = panel * PACK_ROWS, end = row0 + PACK_ROWS;
        status = pack_rows(pack, row0, end < matrix->n ? end : matrix->n, stored, floats);
    }
    if (status != MB_OK)
        atomic_store(&pack->status, (int)status);
    free(stored);
    free(floats);
}

/* ---- room for the weights ----
 *
 * All packed matrices lie in one block, in the order in which a token reads them. It gets huge
 * pages, which a block of each would be too small for: decoding then walks fewer page tables, and
 * as addresses within a huge page spread evenly over the sets of a cache, how fast a network is
 * depends less on which pages it happened to get. */

bool mb_network_multiplies(const struct mb_network *network, size_t index)
{
    return index != network->embedding || index == network->output;
}

/* In the file, or in the mix. */
static bool is_by_codebooks(const struct mb_network *network, const struct mb_matrix *matrix)
{
    return mb_codebook_matrices(network->model, matrix->tensor) > 0 ||
           mb_format_is_codebook(matrix->format);
}

/* As it is packed; NONE: as codebooks, which bring memory of their own. */
static enum mb_format packed_format(const struct mb_network *network,
                                    const struct mb_matrix *matrix)
{
    const bool books = is_by_codebooks(network, matrix);
    if (network->numerics == MB_NUMERICS_F32)
        return books ? MB_FORMAT_F32 : mb_f32_format(matrix->format);
    return books ? MB_FORMAT_NONE : matrix->format;
}

/* The place of each matrix in the block, or without one its size. */
static enum mb_status place_weights(struct mb_network *network, void *block, size_t *total)
{
    enum mb_status status = MB_OK;
    *total = 0;
    for (size_t i = 0; i < network->matrix_count && status == MB_OK; i++) {
        struct mb_matrix *matrix = &network->matrices[i];
        const enum mb_format format = packed_format(network, matrix);
        size_t bytes;
        if (!mb_network_multiplies(network, i) || format == MB_FORMAT_NONE)
            continue;
        status = mb_pack_size(format, matrix->n, matrix->k, &bytes);
        if (status == MB_OK && block != NULL)
            status = mb_weights_init(&matrix->weights, format, matrix->n, matrix->k,
                                     (uint8_t *)block + *total);
        if (status == MB_OK && (!mb_add_size(bytes, LINE_BYTES - 1, &bytes) ||
                                !mb_add_size(*total, bytes - bytes % LINE_BYTES, total)))
            status = MB_ERR_SHAPE;
    }
    return status;
}

static enum mb_status allocate_weights(struct mb_network *network, struct mb_error *error)
{
    size_t total;
    enum mb_status status = place_weights(network, NULL, &total);
    if (status == MB_OK && total > 0) {
        network->packed = mb_alloc_aligned(total);
        status = network->packed ? place_weights(network, network->packed, &total) : MB_ERR_MEMORY;
    }
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "cannot make room for %s's weights: %s",
                            mb_model_path(network->model), mb_status_string(status));
    network->packed_bytes = total;
    network->bytes += total;
    return MB_OK;
}

void mb_network_move(struct mb_network *network, void *block)
{
    size_t total;
    if (network->packed == NULL)
        return;
    if (block != NULL)
        memcpy(block, network->packed, network->packed_bytes);
    (void)place_weights(network, block != NULL ? block : network->packed, &total);
}

static enum mb_status pack_matrix(struct mb_network *network, size_t index,
                                  const struct mb_progress *progress, double done, double total,
                                  struct mb_error *error)
{
    struct mb_matrix *matrix = &network->matrices[index];
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, matrix->tensor);
    const bool looked_up = index == network->embedding;
    if (is_by_codebooks(network, matrix))
        return mb_network_pack_codebooks(network, index, progress, done, total, error);
    const bool products = mb_network_multiplies(network, index);
    struct pack pack = {.tensor = tensor,
                        .matrix = matrix,
                        .importance =
                            network->importance ? network->importance[matrix->tensor] : NULL,
                        .products = products};
    enum mb_status status = MB_OK;
    if (network->encoder != NULL && matrix->format != tensor->format) {
        const void *rows;
        status = (network->draft ? mb_encoder_draft : mb_encoder_rows)(
            network->encoder, matrix->tensor, matrix->format, progress, done, total, &rows, error);
        if (status != MB_OK)
            return status;
        pack.encoded = rows;
    }
    if (looked_up && matrix->format == tensor->format)
        matrix->rows = tensor->data;
    /* A mixed embedding is kept as rows, unless its packed form can give the same rows back. */
    const bool kept_packed = products && network->numerics == MB_NUMERICS_KERNEL;
    if (looked_up && matrix->rows == NULL && !kept_packed) {
        matrix->owned_rows = malloc(matrix->n * mb_format_row_bytes(matrix->format, matrix->k));
        matrix->rows = matrix->owned_rows;
        status = matrix->owned_rows ? MB_OK : MB_ERR_MEMORY;
    }
    if (looked_up && !products)
        network->bytes += matrix->n * mb_format_row_bytes(matrix->format, matrix->k);
    if (status == MB_OK && (products || matrix->owned_rows != NULL)) {
        mb_split(network->threads, (matrix->n + PACK_ROWS - 1) / PACK_ROWS, matrix->n * matrix->k,
                 pack_panels, &pack);
        status = (enum mb_status)atomic_load(&pack.status);
    }
    if (status != MB_OK)
        return mb_error_set(error, status, -1,
                            status == MB_ERR_ARGUMENT
                                ? "tensor '%s' cannot be quantized: it holds infinite or undefined "
                                  "weights (%s)"
                                : "tensor '%s' cannot be packed: %s",
                            tensor->name, mb_status_string(status));
    return MB_OK;
}

/* ---- the network ---- */

/* A tensor that the list does not use would be left out of the arithmetic silently. */
static enum mb_status check_claimed(const struct mb_network *network, struct mb_error *error)
{
    for (size_t i = 0; i < mb_model_tensor_count(network->model); i++)
        if (!network->claimed[i])
            return mb_error_set(
                error, MB_ERR_UNSUPPORTED, -1,
                "%s: tensor '%s' has no place in architecture '%s' as it is supported here",
                mb_model_path(network->model), mb_model_tensor_at(network->model, i)->name,
                mb_model_architecture(network->model));
    return MB_OK;
}

static enum mb_status pack_all(struct mb_network *network, const struct mb_progress *progress,
                               struct mb_error *error)
{
    double total = 0, done = 0;
    const enum mb_status room = allocate_weights(network, error);
    if (room != MB_OK)
        return room;
    for (size_t i = 0; i < network->matrix_count; i++)
        total += (double)network->matrices[i].n * (double)network->matrices[i].k;
    for (size_t i = 0; i < network->matrix_count; i++) {
        const struct mb_matrix *matrix = &network->matrices[i];
        const char *name = mb_model_tensor_at(network->model, matrix->tensor)->name;
        enum mb_status status = mb_progress_report(progress, done, total, name);
        if (status != MB_OK)
            return mb_error_set(error, status, -1, "interrupted while the weights were packed");
        status = pack_matrix(network, i, progress, done, total, error);
        if (status != MB_OK)
            return status;
        done += (double)matrix->n * (double)matrix->k;
    }
    if (mb_progress_report(progress, done, total, "packed") != MB_OK)
        return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                            "interrupted while the weights were packed");
    return MB_OK;
}

static enum mb_status check_formats(const struct mb_model *model, const enum mb_format *formats,
                                    struct mb_error *error)
{
    for (size_t i = 0; formats != NULL && i < mb_model_tensor_count(model); i++)
        if (formats[i] != MB_FORMAT_NONE && mb_format_info(formats[i]) == NULL)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "the mix gives tensor '%s' format number %d, which is none of ours",
                                mb_model_tensor_at(model, i)->name, (int)formats[i]);
    return MB_OK;
}

/* How the weights of a network are rounded: by an encoder, or where there is none by search. */
struct rounding {
    const float *const *importance;
    struct mb_encoder *encoder;
    bool draft;
};

static enum mb_status create(struct mb_model *model, const enum mb_format *formats,
                             const struct rounding *rounding, enum mb_numerics numerics,
                             struct mb_threads *threads, const struct mb_progress *progress,
                             struct mb_network **network, struct mb_error *error)
{
    const struct mb_architecture *architecture;
    *network = NULL;
    enum mb_status status = mb_architecture_find(model, &architecture, error);
    if (status == MB_OK)
        status = check_formats(model, formats, error);
    if (status != MB_OK)
        return status;
    struct mb_network *made = calloc(1, sizeof *made);
    const size_t tensors = mb_model_tensor_count(model);
    if (made != NULL)
        *made = (struct mb_network){.model = model,
                                    .threads = threads,
                                    .numerics = numerics,
                                    .formats = formats,
                                    .importance = rounding->importance,
                                    .encoder = rounding->encoder,
                                    .draft = rounding->draft,
                                    .claimed = calloc(tensors + 1, sizeof *made->claimed)};
    if (made == NULL || made->claimed == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a network");
    if (status == MB_OK)
        status = architecture->build(made, error);
    if (status == MB_OK)
        status = check_claimed(made, error);
    if (status == MB_OK)
        status = pack_all(made, progress, error);
    if (status != MB_OK) {
        mb_network_destroy(made);
        return status;
    }
    made->formats = NULL;
    made->importance = NULL;
    made->encoder = NULL;
    *network = made;
    return MB_OK;
}

enum mb_status mb_network_create_mix(struct mb_model *model, const enum mb_format *formats,
                                     const float *const *importance, enum mb_numerics numerics,
                                     struct mb_threads *threads, const struct mb_progress *progress,
                                     struct mb_network **network, struct mb_error *error)
{
    const struct rounding rounding = {.importance = importance};
    return create(model, formats, &rounding, numerics, threads, progress, network, error);
}

enum mb_status mb_network_create_encoded(struct mb_model *model, const enum mb_format *formats,
                                         struct mb_encoder *encoder, enum mb_numerics numerics,
                                         struct mb_threads *threads,
                                         const struct mb_progress *progress,
                                         struct mb_network **network, struct mb_error *error)
{
    const struct rounding rounding = {.encoder = encoder};
    return create(model, formats, &rounding, numerics, threads, progress, network, error);
}

enum mb_status mb_network_create_draft(struct mb_model *model, const enum mb_format *formats,
                                       struct mb_encoder *encoder, struct mb_threads *threads,
                                       const struct mb_progress *progress,
                                       struct mb_network **network, struct mb_error *error)
{
    const struct rounding rounding = {.encoder = encoder, .draft = true};
    return create(model, formats, &rounding, MB_NUMERICS_KERNEL, threads, progress, network, error);
}

const char *const mb_numerics_names[] = {"kernel", "f32", NULL};

const char *mb_numerics_name(enum mb_numerics numerics)
{
    return mb_numerics_names[numerics == MB_NUMERICS_F32];
}

enum mb_status mb_network_create(struct mb_model *model, enum mb_numerics numerics,
                                 struct mb_threads *threads, struct mb_network **network,
                                 struct mb_error *error)
{
    return mb_network_create_mix(model, NULL, NULL, numerics, threads, NULL, network, error);
}

void mb_network_destroy(struct mb_network *network)
{
    if (network == NULL)
        return;
    mb_offload_free(network->offload);
    for (size_t i = 0; i < network->matrix_count; i++) {
        mb_network_free_codebooks(&network->matrices[i]);
        free(network->matrices[i].owned_rows);
    }
    for (size_t i = 0; i < network->vector_count; i++)
        free(network->vectors[i]);
    mb_free_aligned(network->packed);
    free(network->matrices);
    free(network->vectors);
    free(network->steps);
    free(network->claimed);
    for (size_t i = 0; i < MB_MAX_ROPES; i++)
        free(network->ropes[i].table);
    free(network);
}

size_t mb_network_bytes(const struct mb_network *network) { return network->bytes; }
