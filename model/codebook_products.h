/* SPDX-License-Identifier: Apache-2.0 */
/* A network whose products are made by the kernels for codebook matrices (mixbit/codebook.h), from
 * what the channel-wise encoder stores: what `eval --schemes NAME+kernel` runs, beside the same
 * weights read back as floats. */
#ifndef MIXBIT_MODEL_CODEBOOK_PRODUCTS_H
#define MIXBIT_MODEL_CODEBOOK_PRODUCTS_H

#include "mixbit/codebook.h"
#include "model/channelwise.h"
#include "model/network.h"

/* Whether there are kernels for what these options store: a codebook for each width that all of the
 * matrix shares, and widths by column, or one for all (`one_width`); or a codebook for each column.
 */
bool mb_codebook_has_kernel(const struct mb_channelwise_options *options, bool one_width);

/**
 * Pack an encoded matrix, on `threads` (NULL: this one).
 *
 * Memory  weights->data, `bytes` of it, is the caller's to free (mb_free_aligned).
 * @return MB_OK, MB_ERR_MEMORY, MB_ERR_UNSUPPORTED: there is no kernel for how it is stored.
 */
enum mb_status mb_codebook_pack_encoded(const struct mb_channelwise *encoded,
                                        struct mb_threads *threads,
                                        struct mb_codebook_weights *weights, size_t *bytes);

/* Matrices that are packed so; `rounding` is what the network points to. Others multiply as usual.
 */
struct mb_codebook_products;
enum mb_status mb_codebook_products_create(const struct mb_network *network,
                                           struct mb_codebook_products **products);
void mb_codebook_products_free(struct mb_codebook_products *products);
const struct mb_rounding *
mb_codebook_products_rounding(const struct mb_codebook_products *products);
/* Pack rows [row0, row0 + encoded->n) of matrix `matrix`, a stack being several such; `bytes` is
 * what they take. A matrix that is looked up and never multiplied is left out, and *bytes 0.
 * Failures as above. */
enum mb_status mb_codebook_products_store(struct mb_codebook_products *products, size_t matrix,
                                          size_t row0, const struct mb_channelwise *encoded,
                                          size_t *bytes);

#endif
