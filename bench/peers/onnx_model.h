/* SPDX-License-Identifier: Apache-2.0 */
/* A one-node ONNX model around a quantized matrix, as bytes. */
#ifndef MIXBIT_BENCH_ONNX_MODEL_H
#define MIXBIT_BENCH_ONNX_MODEL_H

#include "mixbit/format.h"

#include <stdbool.h>
#include <stddef.h>

enum { MB_ONNX_GROUP = 32 };

/* Bits of MatMulNBits that hold this format's weights without loss; 0: none does. */
unsigned mb_onnx_bits(enum mb_format format);

/* The model x[m][k] -> y[m][n] of one com.microsoft::MatMulNBits node with the weights of `blocks`
 * (GGUF bytes, q4_0 or q8_0): the same codes in another order, the same scales as f32, no zero
 * points. Free *model. false: out of memory. */
bool mb_onnx_matmul(enum mb_format format, size_t n, size_t k, const void *blocks,
                    unsigned char **model, size_t *bytes);

#endif
