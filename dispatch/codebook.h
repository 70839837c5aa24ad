/* SPDX-License-Identifier: Apache-2.0 */
/* Where the parts of a packed codebook matrix lie in its memory: what packing writes and products
 * read. Every part starts at a multiple of 64 bytes. */
#ifndef MIXBIT_DISPATCH_CODEBOOK_H
#define MIXBIT_DISPATCH_CODEBOOK_H

#include "kernels/codebook.h"
#include "mixbit/codebook.h"

struct mb_codebook_parts {
    struct mb_codebook_run *runs;
    uint32_t *index;       /* [padded_k]: the column there, UINT32_MAX: none */
    float *factor;         /* [padded_k / 32]: what scales of activations are multiplied by */
    float *unit;           /* [padded_k]: what activations are multiplied by; by column only */
    uint8_t *tables;       /* what codes become, those of b8 as they are packed; 64-byte aligned */
    uint32_t *group_scale; /* [groups or 1]: bytes from the start of a panel; 0: not in use */
    uint32_t *outlier_first; /* [panels + 1] */
    struct mb_codebook_outlier *outliers;
    uint8_t *panels;
    size_t bytes;
};

/* From the fields that are there before any memory is (data may be NULL); false: sizes overflow. */
bool mb_codebook_parts(const struct mb_codebook_weights *weights, struct mb_codebook_parts *parts);
/* In activations of m rows: where those begin that are as they were. */
size_t mb_codebook_floats_at(const struct mb_codebook_weights *weights, size_t m);
/* MB_OK for weights that init has made. */
enum mb_status mb_codebook_check(const struct mb_codebook_weights *weights);

#endif
