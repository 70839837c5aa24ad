/* SPDX-License-Identifier: Apache-2.0 */
/* See onnx_node.h. */
#include "onnx_node.h"
#include "mixbit/mixbit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t random_state = 1;

void random_restart(void) { random_state = 1; }

static uint32_t random_number(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static double random_real(void) /* -1 to 1 */ { return (double)random_number() / (1 << 23) - 1; }

static void allocate(struct ort_value *value, int type, size_t rows, size_t columns)
{
    *value = (struct ort_value){.type = type,
                                .rank = 2,
                                .dimensions = {(int64_t)rows, (int64_t)columns},
                                .data = calloc(rows * columns, fake_element_bytes(type))};
}

/* Store a number as the value's type has it; what it is then. */
static double store(struct ort_value *value, size_t i, double number)
{
    const float wanted = (float)number;
    float stored = wanted;
    if (value->type == ORT_TYPE_FLOAT16) {
        (void)mb_quantize(MB_FORMAT_F16, &wanted, 1, 1, NULL, (uint16_t *)value->data + i);
        (void)mb_dequantize(MB_FORMAT_F16, (uint16_t *)value->data + i, 1, 1, &stored);
    } else {
        ((float *)value->data)[i] = wanted;
    }
    return stored;
}

static void store_code(uint8_t *row, size_t bits, size_t i, unsigned code)
{
    row[i * bits / 8] |= (uint8_t)(code << i * bits % 8);
}

static void fill_groups(struct node *node)
{
    allocate(&node->values[GROUPS], ORT_TYPE_INT32, 1, node->k);
    int32_t *groups = node->values[GROUPS].data;
    for (size_t i = 0; i < node->k; i++)
        groups[i] = (int32_t)(i / node->block);
    for (size_t i = node->k; i-- > 1;) {
        const size_t other = random_number() % (i + 1);
        const int32_t group = groups[i];
        groups[i] = groups[other];
        groups[other] = group;
    }
}

static void fill_weights(struct node *node)
{
    const size_t row_bytes = node->blocks * node->block * node->bits / 8;
    const size_t zero_bytes = (node->blocks * node->bits + 7) / 8;
    const unsigned codes = 1u << node->bits;
    double *scale = calloc(node->n * node->blocks, sizeof *scale);
    double *zero = calloc(node->n * node->blocks, sizeof *zero);
    allocate(&node->values[B], ORT_TYPE_UINT8, node->n, row_bytes);
    allocate(&node->values[SCALES], node->type, node->n, node->blocks);
    if (node->zeros == PACKED)
        allocate(&node->values[ZEROS], ORT_TYPE_UINT8, node->n, zero_bytes);
    if (node->zeros == FLOAT)
        allocate(&node->values[ZEROS], node->type, node->n, node->blocks);
    for (size_t i = 0; i < node->n * node->blocks; i++) {
        const size_t row = i / node->blocks;
        scale[i] = store(&node->values[SCALES], i, node->scale * (1.5 + random_real()));
        zero[i] = codes / 2;
        if (node->zeros == PACKED) {
            zero[i] = random_number() % codes;
            store_code((uint8_t *)node->values[ZEROS].data + row * zero_bytes, node->bits,
                       i % node->blocks, (unsigned)zero[i]);
        } else if (node->zeros == FLOAT) {
            zero[i] = store(&node->values[ZEROS], i, codes / 2 * (1 + random_real() / 2));
        }
    }
    for (size_t r = 0; r < node->n; r++)
        for (size_t i = 0; i < node->k; i++) {
            const size_t block = node->with_groups
                                     ? (size_t)((int32_t *)node->values[GROUPS].data)[i]
                                     : i / node->block;
            const unsigned code = random_number() % codes;
            store_code((uint8_t *)node->values[B].data + r * row_bytes, node->bits, i, code);
            node->w[r * node->k + i] =
                (code - zero[r * node->blocks + block]) * scale[r * node->blocks + block];
        }
    free(scale);
    free(zero);
}

void make_node(struct node *node)
{
    node->blocks = (node->k + node->block - 1) / node->block;
    node->scale = node->scale != 0 ? node->scale : 0.01;
    node->w = calloc(node->n * node->k, sizeof *node->w);
    node->x = calloc(node->m * node->k, sizeof *node->x);
    node->b = calloc(node->n, sizeof *node->b);
    if (node->with_groups)
        fill_groups(node);
    fill_weights(node);
    allocate(&node->values[A], node->type, node->m, node->k);
    for (size_t i = 0; i < node->m * node->k; i++)
        node->x[i] = store(&node->values[A], i, random_real());
    if (node->with_bias)
        allocate(&node->values[BIAS], node->type, 1, node->n);
    for (size_t i = 0; i < node->n && node->with_bias; i++)
        node->b[i] = store(&node->values[BIAS], i, random_real());
    node->info = (struct ort_kernel_info){.name = "layer.0",
                                          .attributes = {{"K", (int64_t)node->k},
                                                         {"N", (int64_t)node->n},
                                                         {"bits", (int64_t)node->bits},
                                                         {"block_size", (int64_t)node->block},
                                                         {"accuracy_level", node->level}},
                                          .count = FAKE_INPUTS};
    for (size_t i = 0; i < FAKE_INPUTS; i++) {
        node->info.inputs[i] = node->values[i].data != NULL ? &node->values[i] : NULL;
        node->info.is_constant[i] = i != A;
    }
}

void free_node(struct node *node)
{
    for (size_t i = 0; i < FAKE_INPUTS; i++)
        free(node->values[i].data);
    free(node->w);
    free(node->x);
    free(node->b);
}

struct ort_kernel_context context_of(const struct node *node)
{
    struct ort_kernel_context context = {.count = FAKE_INPUTS};
    memcpy(context.inputs, node->info.inputs, sizeof context.inputs);
    return context;
}

static double read_output(const struct ort_value *y, size_t i)
{
    float value;
    if (y->type == ORT_TYPE_FLOAT)
        return ((float *)y->data)[i];
    (void)mb_dequantize(MB_FORMAT_F16, (uint16_t *)y->data + i, 1, 1, &value);
    return value;
}

double error_of(const struct node *node, const struct ort_value *y)
{
    double error = 0, exact = 0;
    if (fake_elements(y) != node->m * node->n)
        return INFINITY;
    for (size_t r = 0; r < node->m; r++)
        for (size_t j = 0; j < node->n; j++) {
            double sum = node->b[j];
            exact += sum * sum;
            for (size_t i = 0; i < node->k; i++) {
                const double term = node->x[r * node->k + i] * node->w[j * node->k + i];
                sum += term;
                exact += term * term;
            }
            const double off = read_output(y, r * node->n + j) - sum;
            error += off * off;
        }
    return sqrt(error / exact);
}

double bound_of(const struct node *node, int64_t level)
{
    const double rounding = node->type == ORT_TYPE_FLOAT ? 0 : 4e-4; /* of outputs */
    return rounding + (level == 4 ? 0.009 : level == 2 ? 6e-4 : level == STRICT ? 3e-6 : 4e-5);
}
