/* SPDX-License-Identifier: Apache-2.0 */
/* An encoded matrix as bytes, and back: the record of docs/codebook-files.md, which is what struct
 * mb_channelwise_bytes counts. Bytes that are read are hostile by assumption. */
#ifndef MIXBIT_MODEL_CHANNELWISE_BLOB_H
#define MIXBIT_MODEL_CHANNELWISE_BLOB_H

#include "model/channelwise.h"

/* Whether a matrix that is encoded so has a record: kernels for it are what decides. */
bool mb_blob_holds(const struct mb_channelwise_options *options, bool one_width);

/* The record, mb_channelwise_total(&encoded->bytes) long; codes must be in memory. `stacked`: its
 * tensor is a stack of matrices. */
void mb_blob_write(const struct mb_channelwise *encoded, bool stacked, uint8_t *out);

struct mb_blob_shape {
    size_t n, k, bytes; /* bytes: of the record */
    bool stacked;
};
/* What the record at the front of data[bytes] is of, from its header and map: it is all there.
 * MB_ERR_FILE: error->where is the byte, from `data` on, that is wrong. */
enum mb_status mb_blob_measure(const uint8_t *data, size_t bytes, struct mb_blob_shape *shape,
                               struct mb_error *error);
/**
 * The record at the front of data[bytes] as an encoded matrix, checked to the last bit. Its codes
 * stay where they are, so `data` must outlive it.
 *
 * Memory   some bytes per scale, per column and per outlier, none per code.
 * @return MB_OK, MB_ERR_FILE (as above), MB_ERR_MEMORY. Nothing is to be freed on error.
 */
enum mb_status mb_blob_read(const uint8_t *data, size_t bytes, struct mb_channelwise *encoded,
                            struct mb_error *error);

#endif
