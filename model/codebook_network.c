/* SPDX-License-Identifier: Apache-2.0 */
/* Codebook matrices in a network, of a file or of a mix that asks for them: packed for their own
 * kernels, or read back as floats where arithmetic is to be in f32. An embedding is looked up in
 * its record, row by row. */
#include "model/channelwise_blob.h"
#include "model/codebook_products.h"
#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/network.h"
#include "model/schemes.h"
#include "support/support.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { PANEL_ROWS = 16 };

void mb_codebooks_free(struct mb_codebook_weights *books)
{
    for (size_t i = 0; books != NULL && books[i].size > 0; i++)
        mb_free_aligned(books[i].data);
    free(books);
}

void mb_network_free_codebooks(struct mb_matrix *matrix)
{
    if (matrix->weights.format == MB_FORMAT_NONE) {
        mb_codebooks_free(matrix->weights.data);
        matrix->weights.data = NULL;
    }
    if (matrix->encoded != NULL)
        mb_channelwise_free(matrix->encoded);
    free(matrix->encoded);
    matrix->encoded = NULL;
}

/* ---- read back as floats ---- */

struct reading {
    const struct mb_channelwise *encoded;
    const struct mb_weights *weights;
    size_t row0; /* of the matrix in its stack */
    atomic_int status;
};

static void read_panels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct reading *r = arg;
    const size_t n = r->encoded->n;
    float *rows = malloc(PANEL_ROWS * r->encoded->k * sizeof *rows);
    enum mb_status status = rows != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t panel = first; panel < last && status == MB_OK; panel++) {
        const size_t row = panel * PANEL_ROWS, end = row + PANEL_ROWS < n ? row + PANEL_ROWS : n;
        mb_channelwise_decode(r->encoded, row, end, rows);
        status = mb_pack_rows(r->weights, rows, r->row0 + row, r->row0 + end);
    }
    free(rows);
    if (status != MB_OK)
        atomic_store(&r->status, (int)status);
}

static enum mb_status read_back(struct mb_network *network, const struct mb_channelwise *encoded,
                                const struct mb_weights *weights, size_t row0)
{
    struct reading reading = {.encoded = encoded, .weights = weights, .row0 = row0};
    mb_split(network->threads, (encoded->n + PANEL_ROWS - 1) / PANEL_ROWS,
             8 * encoded->n * encoded->k, read_panels, &reading);
    return (enum mb_status)atomic_load(&reading.status);
}

/* ---- a tensor ---- */

/* A tensor's records. */
struct records {
    const uint8_t *data;
    size_t bytes, count;
    void *made; /* data, where it is to be freed */
};

/* Those of the file, or the ones that a mix asks for. */
static enum mb_status find_records(struct mb_network *network, const struct mb_matrix *matrix,
                                   const struct mb_progress *progress, double done, double total,
                                   struct records *records, struct mb_error *error)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, matrix->tensor);
    const void *kept;
    uint8_t *made = NULL;
    enum mb_status status;
    *records = (struct records){.data = tensor->data,
                                .bytes = tensor->bytes,
                                .count = mb_codebook_matrices(network->model, matrix->tensor)};
    if (records->count > 0)
        return MB_OK;
    records->count = mb_tensor_matrices(tensor);
    if (network->encoder != NULL) {
        status = mb_encoder_stored(network->encoder, matrix->tensor, matrix->format, network->draft,
                                   progress, done, total, &kept, &records->bytes, error);
    } else {
        struct mb_scheme_job job = mb_codebook_job(
            matrix->format, network->draft,
            network->importance ? network->importance[matrix->tensor] : NULL, network->threads);
        job.progress = progress;
        job.done = done;
        job.total = total;
        status =
            mb_scheme_records(&job, tensor, matrix->tensor, &made, &records->bytes, NULL, error);
        kept = made;
    }
    records->made = made;
    records->data = kept;
    return status;
}

/* Room for products with `count` matrices. Floats have their place among the network's other
 * weights. */
static enum mb_status make_room(const struct mb_network *network, struct mb_matrix *matrix,
                                size_t count)
{
    if (network->numerics != MB_NUMERICS_KERNEL)
        return MB_OK;
    /* one more, which ends the array */
    void *books = calloc(count + 1, sizeof(struct mb_codebook_weights));
    matrix->weights =
        (struct mb_weights){sizeof matrix->weights, MB_FORMAT_NONE, matrix->n, matrix->k, books};
    return books != NULL ? MB_OK : MB_ERR_MEMORY;
}

/* Matrix `index` of a stack, for products. */
static enum mb_status pack(struct mb_network *network, struct mb_matrix *matrix, size_t index,
                           const struct mb_channelwise *encoded)
{
    if (network->numerics != MB_NUMERICS_KERNEL)
        return read_back(network, encoded, &matrix->weights, index * encoded->n);
    struct mb_codebook_weights *books = matrix->weights.data;
    size_t bytes = 0;
    const enum mb_status status =
        mb_codebook_pack_encoded(encoded, network->threads, &books[index], &bytes);
    if (status != MB_OK)
        books[index] = (struct mb_codebook_weights){0};
    network->bytes += bytes;
    return status;
}

static enum mb_status pack_stack(struct mb_network *network, struct mb_matrix *matrix,
                                 const struct records *records, bool products, bool looked_up,
                                 struct mb_error *inner)
{
    struct mb_channelwise encoded;
    enum mb_status status = products ? make_room(network, matrix, records->count) : MB_OK;
    size_t at = 0;
    for (size_t i = 0; i < records->count && status == MB_OK; i++) {
        status = mb_blob_read(records->data + at, records->bytes - at, &encoded, inner);
        inner->where += (int64_t)at;
        if (status != MB_OK)
            break;
        at += mb_channelwise_total(&encoded.bytes);
        if (products)
            status = pack(network, matrix, i, &encoded);
        if (looked_up && status == MB_OK) {
            matrix->encoded = malloc(sizeof *matrix->encoded);
            status = matrix->encoded != NULL ? MB_OK : MB_ERR_MEMORY;
        }
        if (looked_up && status == MB_OK)
            *matrix->encoded = encoded; /* handed over; an embedding is one matrix */
        else
            mb_channelwise_free(&encoded);
    }
    return status;
}

/* An embedding is looked up in what it was read from: in the file, or here. */
static enum mb_status keep_records(struct mb_matrix *matrix, struct records *records)
{
    matrix->owned_rows = records->made != NULL ? records->made : malloc(records->bytes);
    if (matrix->owned_rows == NULL)
        return MB_ERR_MEMORY;
    if (records->made == NULL)
        memcpy(matrix->owned_rows, records->data, records->bytes);
    records->data = matrix->owned_rows;
    records->made = NULL;
    return MB_OK;
}

enum mb_status mb_network_pack_codebooks(struct mb_network *network, size_t index,
                                         const struct mb_progress *progress, double done,
                                         double total, struct mb_error *error)
{
    struct mb_matrix *matrix = &network->matrices[index];
    const struct mb_tensor *tensor = mb_model_tensor_at(network->model, matrix->tensor);
    const bool looked_up = index == network->embedding;
    const bool products = mb_network_multiplies(network, index);
    struct records records;
    struct mb_error inner = {0};
    enum mb_status status = find_records(network, matrix, progress, done, total, &records, error);
    if (status != MB_OK)
        return status;
    if (looked_up && records.data != tensor->data)
        status = keep_records(matrix, &records);
    if (status == MB_OK)
        status = pack_stack(network, matrix, &records, products, looked_up, &inner);
    if (!products)
        network->bytes += records.bytes;
    free(records.made);
    if (status == MB_ERR_FILE)
        return mb_codebook_tensor_wrong(network->model, tensor, (size_t)inner.where, inner.message,
                                        error);
    return status == MB_OK
               ? MB_OK
               : mb_error_set(error, status, -1, "tensor '%s' of codebooks cannot be packed: %s",
                              mb_printable(tensor->name).text, mb_status_string(status));
}
