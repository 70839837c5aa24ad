/* SPDX-License-Identifier: Apache-2.0 */
/* A MatMulNBits node: its attributes, and its weights as the host keeps them. */
#ifndef MIXBIT_PLUGIN_ORT_NODE_H
#define MIXBIT_PLUGIN_ORT_NODE_H

#include "host.h"

/* Inputs, in the order of the operator's definition. */
enum {
    MB_ORT_A,
    MB_ORT_B,
    MB_ORT_SCALES,
    MB_ORT_ZERO_POINTS,
    MB_ORT_GROUPS, /* g_idx */
    MB_ORT_BIAS,
    MB_ORT_INPUTS
};

/* How exact a product has to be: what of the activations may be lost. Errors of a product, RMS,
 * that rounding of weights' scales included. */
enum mb_ort_accuracy {
    MB_ORT_AS_NODE, /* as the node's accuracy_level says */
    MB_ORT_INT8,    /* 8 bits per 32 activations: 5e-3 */
    MB_ORT_HALF,    /* no worse than f16 activations: 2e-4 */
    MB_ORT_INT16,   /* 16 bits: 1e-5 */
    MB_ORT_FLOAT,   /* 24 bits, as f32: 1e-6 */
};

struct mb_ort_node {
    char name[64];
    size_t n, k, bits, block;
    size_t blocks; /* along k; the last one may stand out over k */
    size_t row;    /* bytes of a row of B */
    int type;      /* of A, scales, bias and the product */
    enum mb_ort_accuracy accuracy;
};

/* The weights of a node: `value` is NULL where an optional input is missing. */
struct mb_ort_inputs {
    struct mb_ort_tensor b, scales, zero_points, groups;
};

/* Who knows a node's name and attributes: the description of a kernel, or a graph. */
struct mb_ort_source {
    const char *name;
    const struct ort_api *api;
    const void *from;
    /* false: there is no attribute of this name, or it is no integer. */
    bool (*read_integer)(const struct mb_ort_source *source, const char *name, int64_t *value);
};

/* Attributes; `wish` replaces the node's accuracy_level unless it is MB_ORT_AS_NODE. */
struct ort_status *mb_ort_read_node(const struct ort_api *api, const struct mb_ort_source *source,
                                    int type, enum mb_ort_accuracy wish, struct mb_ort_node *node);
/* Types and numbers of elements of the weights, and of a bias that there is. */
struct ort_status *mb_ort_check_inputs(const struct ort_api *api, const struct mb_ort_node *node,
                                       const struct mb_ort_inputs *inputs);
struct ort_status *mb_ort_check_bias(const struct ort_api *api, const struct mb_ort_node *node,
                                     const struct mb_ort_tensor *bias);

/* Whether there are zero points, of as many bits as the weights. */
bool mb_ort_has_packed_zeros(const struct mb_ort_inputs *inputs);
/* Code `i` of a row of B, or of a row of packed zero points: both lie low bits first. */
static inline unsigned mb_ort_code(const uint8_t *codes, size_t bits, size_t i)
{
    const size_t at = i * bits;
    return (unsigned)codes[at / 8] >> at % 8 & ((1u << bits) - 1);
}

#endif
