/* SPDX-License-Identifier: Apache-2.0 */
/* A node's weights in this library's layout.
 *
 * MatMulNBits stores w = scale * (code - zero point), the zero point an integer or a float. What
 * that becomes (always groups of 32, wider blocks repeat their scale):
 *
 *   zero points       accuracy    2 bits   4 bits   8 bits
 *   none, or middle   any         q4_0     q4_0     q8_0
 *   integers          int8        q4_0     q4_1     q8_0 + shift
 *   integers          better      q4_0     q5_0     q8_0 + shift
 *   floats            int8        q4_1     q4_1     q8_0 + shift
 *   floats            better      q4_0 + shift      q8_0 + shift
 *
 * Codes are exact in all of them. q4_1's minimum is -zero point * scale in f16, off by at most
 * 2^-11 of itself. "shift" is a second, small product, sum over blocks of (scale * (middle - zero
 * point)) * (sum of the block's activations), in f16 beside int8 activations and in f32 otherwise.
 *
 * Scales become f16, 2^-11 of themselves at most; a row whose scales f16 does not hold well is
 * multiplied by a power of two, which is taken back from its outputs. Where 16 bits or more of
 * activations count and scales are not exactly f16, a "fine" matrix of the same codes holds what is
 * missing, 2^11 times as large. */
#ifndef MIXBIT_PLUGIN_ORT_PACK_H
#define MIXBIT_PLUGIN_ORT_PACK_H

#include "columns.h"

static const float MB_ORT_FINE = 2048.0f;

struct mb_ort_weights {
    struct mb_ort_columns columns;
    enum mb_format format;
    bool has_shift, has_fine, is_scaled;
    /* Parts of part_rows rows (the last may be shorter), each packed by itself. */
    size_t n, blocks, part_rows, parts;
    struct mb_weights *main, *fine, *shift; /* [parts] */
    float *row_scale; /* [n]: what outputs are multiplied by; read where is_scaled */
    void *memory;
};

/* Pack checked inputs. Memory: some 0.6 (4 bits) to 1.1 bytes per weight, freed by
 * mb_ort_free_weights; *weights is empty after an error. */
struct ort_status *mb_ort_pack(const struct ort_api *api, const struct mb_ort_node *node,
                               const struct mb_ort_inputs *inputs, struct mb_ort_weights *weights);
void mb_ort_free_weights(struct mb_ort_weights *weights);

/* Rows of part `i`. */
static inline size_t mb_ort_part_rows(const struct mb_ort_weights *weights, size_t i)
{
    const size_t left = weights->n - i * weights->part_rows;
    return left < weights->part_rows ? left : weights->part_rows;
}

#endif
