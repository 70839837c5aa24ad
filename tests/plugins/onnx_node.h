/* SPDX-License-Identifier: Apache-2.0 */
/* A MatMulNBits node as a model has it, with its weights and activations in f64 beside it. */
#ifndef MIXBIT_TEST_ONNX_NODE_H
#define MIXBIT_TEST_ONNX_NODE_H

#include "fake_ort.h"

enum zeros { NONE, PACKED, FLOAT };
enum { A, B, SCALES, ZEROS, GROUPS, BIAS };
enum { STRICT = -1 }; /* in place of an accuracy_level: mixbit.accuracy=f32 */

/* A node with its inputs and its weights in f64. */
struct node {
    size_t n, k, m, bits, block, blocks;
    int type;
    enum zeros zeros;
    int64_t level;
    bool with_bias, with_groups;
    double scale;
    struct ort_value values[FAKE_INPUTS];
    struct ort_kernel_info info;
    double *w, *x, *b;
};

void random_restart(void);
/* Fill a node whose shape and kind are given: weights, activations, description. */
void make_node(struct node *node);
void free_node(struct node *node);
struct ort_kernel_context context_of(const struct node *node);
/* The output's error, RMS over the RMS that a product of such terms has when their signs are
 * random: one sum may be small by chance, and what is off is not. */
double error_of(const struct node *node, const struct ort_value *y);
/* What it may be for an accuracy_level. */
double bound_of(const struct node *node, int64_t level);

#endif
