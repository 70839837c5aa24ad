/* SPDX-License-Identifier: Apache-2.0 */
/* A tensor as codebook matrices: each of its matrices encoded by itself, and all of them as the
 * records that files hold (channelwise_blob.h), whether they go into one or into a network. */
#include "model/channelwise_blob.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/schemes.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

const struct mb_scheme *mb_scheme_of_codebooks(bool draft)
{
    return mb_scheme_by_name(draft ? "packed-uniform" : "packed-feedback");
}

struct mb_scheme_job mb_codebook_job(enum mb_format format, bool draft, const float *importance,
                                     struct mb_threads *threads)
{
    return (struct mb_scheme_job){.scheme = mb_scheme_of_codebooks(draft),
                                  .bits = mb_format_info(format)->bits,
                                  .within = true,
                                  .importance = importance,
                                  .threads = threads};
}

/* Append the record of an encoded matrix. */
static enum mb_status append(const struct mb_channelwise *encoded, bool stacked, uint8_t **records,
                             size_t *bytes)
{
    const size_t more = mb_channelwise_total(&encoded->bytes);
    uint8_t *longer = realloc(*records, *bytes + more);
    if (longer == NULL)
        return MB_ERR_MEMORY;
    mb_blob_write(encoded, stacked, longer + *bytes);
    *records = longer;
    *bytes += more;
    return MB_OK;
}

static void count(const struct mb_scheme *scheme, const struct mb_channelwise *encoded,
                  struct mb_scheme_size *size)
{
    mb_scheme_count_parts(size, encoded);
    size->weights += (double)encoded->n * (double)encoded->k;
    size->unreached += !scheme->one_width && !encoded->reached;
    size->square_errors += encoded->error * encoded->error;
    size->matrices++;
}

/* read: room for a matrix, unless the job brings its rows. */
static enum mb_status encode_all(const struct mb_scheme_job *given, const struct mb_tensor *tensor,
                                 size_t index, float *read, uint8_t **records, size_t *bytes,
                                 struct mb_scheme_size *size, struct mb_error *error)
{
    const size_t each = (size_t)tensor->ne[1], matrices = mb_tensor_matrices(tensor);
    const size_t matrix_bytes = tensor->bytes / matrices;
    struct mb_scheme_job job = *given;
    enum mb_status status = MB_OK;
    for (size_t m = 0; m < matrices && status == MB_OK; m++) {
        struct mb_channelwise encoded;
        status =
            mb_progress_report(job.progress, job.done, job.total, mb_printable(tensor->name).text);
        if (status != MB_OK)
            return mb_error_set(error, status, -1, "stopped at tensor '%s'",
                                mb_printable(tensor->name).text);
        if (read != NULL)
            status = mb_dequantize(tensor->format, (const uint8_t *)tensor->data + m * matrix_bytes,
                                   each, tensor->k, read);
        if (status == MB_OK)
            status = mb_scheme_encode(&job, tensor, index, m, read != NULL ? read : job.rows,
                                      &encoded, error);
        if (status != MB_OK)
            break;
        status = append(&encoded, tensor->dims > 2, records, bytes);
        if (size != NULL)
            count(job.scheme, &encoded, size);
        mb_channelwise_free(&encoded);
        job.done += (double)each * (double)tensor->k;
    }
    return status;
}

enum mb_status mb_scheme_records(const struct mb_scheme_job *job, const struct mb_tensor *tensor,
                                 size_t index, uint8_t **records, size_t *bytes,
                                 struct mb_scheme_size *size, struct mb_error *error)
{
    *records = NULL;
    *bytes = 0;
    if (!mb_blob_holds(&job->scheme->options, job->scheme->one_width))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "scheme '%s' cannot be stored: no kernel multiplies by it",
                            job->scheme->name);
    float *read =
        job->rows == NULL ? malloc((size_t)tensor->ne[1] * tensor->k * sizeof *read) : NULL;
    const enum mb_status status =
        read != NULL || job->rows != NULL
            ? encode_all(job, tensor, index, read, records, bytes, size, error)
            : MB_ERR_MEMORY;
    free(read);
    if (status != MB_OK) {
        free(*records);
        *records = NULL;
    }
    /* Files and what activations are have their own words. */
    if (status == MB_OK || status == MB_ERR_INTERRUPTED || status == MB_ERR_FILE)
        return status;
    return mb_error_set(error, status, -1, "tensor '%s' cannot be stored by codebooks: %s%s",
                        mb_printable(tensor->name).text, mb_status_string(status),
                        status == MB_ERR_ARGUMENT ? " (it holds infinite or undefined weights)"
                                                  : "");
}
