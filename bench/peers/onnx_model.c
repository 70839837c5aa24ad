/* SPDX-License-Identifier: Apache-2.0 */
/* See onnx_model.h. ONNX is a protobuf schema; a writer needs two of its wire types: a field is a
 * tag (number << 3 | type) and either a varint or a length and bytes. Messages nest as bytes, so
 * they are built from the inside out. Field numbers are those of onnx.proto.
 *
 *   q4_0  f16 d, 16 bytes: byte i holds weight i (low) and i + 16 (high), code - 8
 *   q8_0  f16 d, 32 signed bytes
 *   ONNX  byte i of a group holds weight 2 i (low) and 2 i + 1 (high), code - 8; or one byte each,
 *         code - 128; scales apart, f32 */
#include "bench/peers/onnx_model.h"
#include "support/support.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct message {
    unsigned char *data;
    size_t bytes, room;
    bool failed;
};

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };
enum { MODEL_IR_VERSION = 1, MODEL_GRAPH = 7, MODEL_OPSET = 8 };
enum { OPSET_DOMAIN = 1, OPSET_VERSION = 2 };
enum { GRAPH_NODE = 1, GRAPH_NAME = 2, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12 };
enum { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_OPERATOR = 4, NODE_ATTRIBUTE = 5, NODE_DOMAIN = 7 };
enum { ATTRIBUTE_NAME = 1, ATTRIBUTE_INTEGER = 3, ATTRIBUTE_TYPE = 20 };
enum { TENSOR_DIMENSION = 1, TENSOR_TYPE = 2, TENSOR_NAME = 8, TENSOR_RAW = 9 };
enum { VALUE_NAME = 1, VALUE_TYPE = 2, TYPE_TENSOR = 1, TENSOR_ELEMENT = 1, TENSOR_SHAPE = 2 };
enum { SHAPE_DIMENSION = 1, DIMENSION_VALUE = 1, DIMENSION_NAME = 2 };
enum { ELEMENT_FLOAT = 1, ELEMENT_UINT8 = 2, ATTRIBUTE_IS_INTEGER = 2 };
enum { IR_VERSION = 8, OPSET = 17, ACCURACY_INT8 = 4 };

static void put(struct message *to, const void *data, size_t bytes)
{
    if (to->bytes + bytes > to->room && !to->failed) {
        const size_t room = 2 * (to->bytes + bytes) + 64;
        unsigned char *grown = realloc(to->data, room);
        to->failed = grown == NULL;
        to->data = grown != NULL ? grown : to->data;
        to->room = grown != NULL ? room : to->room;
    }
    if (to->failed)
        return;
    memcpy(to->data + to->bytes, data, bytes);
    to->bytes += bytes;
}

static void put_varint(struct message *to, uint64_t value)
{
    unsigned char text[10];
    size_t length = 0;
    for (; value >= 0x80; value >>= 7)
        text[length++] = (unsigned char)(value | 0x80);
    text[length++] = (unsigned char)value;
    put(to, text, length);
}

static void put_number(struct message *to, unsigned field, uint64_t value)
{
    put_varint(to, field << 3 | WIRE_VARINT);
    put_varint(to, value);
}

static void put_bytes(struct message *to, unsigned field, const void *data, size_t bytes)
{
    put_varint(to, field << 3 | WIRE_BYTES);
    put_varint(to, bytes);
    put(to, data, bytes);
}

static void put_text(struct message *to, unsigned field, const char *text)
{
    put_bytes(to, field, text, strlen(text));
}

/* Ends the inner message. */
static void put_message(struct message *to, unsigned field, struct message *inner)
{
    put_bytes(to, field, inner->data, inner->bytes);
    to->failed = to->failed || inner->failed;
    free(inner->data);
    *inner = (struct message){0};
}

static void put_attribute(struct message *node, const char *name, uint64_t value)
{
    struct message attribute = {0};
    put_text(&attribute, ATTRIBUTE_NAME, name);
    put_number(&attribute, ATTRIBUTE_INTEGER, value);
    put_number(&attribute, ATTRIBUTE_TYPE, ATTRIBUTE_IS_INTEGER);
    put_message(node, NODE_ATTRIBUTE, &attribute);
}

static void put_node(struct message *graph, unsigned bits, size_t n, size_t k)
{
    struct message node = {0};
    put_text(&node, NODE_INPUT, "x");
    put_text(&node, NODE_INPUT, "w");
    put_text(&node, NODE_INPUT, "scales");
    put_text(&node, NODE_OUTPUT, "y");
    put_text(&node, NODE_OPERATOR, "MatMulNBits");
    put_text(&node, NODE_DOMAIN, "com.microsoft");
    put_attribute(&node, "K", k);
    put_attribute(&node, "N", n);
    put_attribute(&node, "bits", bits);
    put_attribute(&node, "block_size", MB_ONNX_GROUP);
    put_attribute(&node, "accuracy_level", ACCURACY_INT8);
    put_message(graph, GRAPH_NODE, &node);
}

/* f32 [m][columns], m left open. */
static void put_value(struct message *graph, unsigned field, const char *name, size_t columns)
{
    struct message rows = {0}, width = {0}, shape = {0}, tensor = {0}, type = {0}, value = {0};
    put_text(&rows, DIMENSION_NAME, "m");
    put_number(&width, DIMENSION_VALUE, columns);
    put_message(&shape, SHAPE_DIMENSION, &rows);
    put_message(&shape, SHAPE_DIMENSION, &width);
    put_number(&tensor, TENSOR_ELEMENT, ELEMENT_FLOAT);
    put_message(&tensor, TENSOR_SHAPE, &shape);
    put_message(&type, TYPE_TENSOR, &tensor);
    put_text(&value, VALUE_NAME, name);
    put_message(&value, VALUE_TYPE, &type);
    put_message(graph, field, &value);
}

static void put_tensor(struct message *graph, const char *name, unsigned element,
                       const size_t *shape, size_t rank, const void *data, size_t bytes)
{
    struct message tensor = {0};
    for (size_t i = 0; i < rank; i++)
        put_number(&tensor, TENSOR_DIMENSION, shape[i]);
    put_number(&tensor, TENSOR_TYPE, element);
    put_text(&tensor, TENSOR_NAME, name);
    put_bytes(&tensor, TENSOR_RAW, data, bytes);
    put_message(graph, GRAPH_INITIALIZER, &tensor);
}

static void put_opset(struct message *model, const char *domain, uint64_t version)
{
    struct message opset = {0};
    put_text(&opset, OPSET_DOMAIN, domain);
    put_number(&opset, OPSET_VERSION, version);
    put_message(model, MODEL_OPSET, &opset);
}

unsigned mb_onnx_bits(enum mb_format format)
{
    return format == MB_FORMAT_Q4_0 ? 4 : format == MB_FORMAT_Q8_0 ? 8 : 0;
}

static void convert_group(unsigned bits, const uint8_t *codes, uint8_t *out)
{
    for (size_t i = 0; i < MB_ONNX_GROUP / 2 && bits == 4; i++) {
        const size_t a = 2 * i, b = a + 1, half = MB_ONNX_GROUP / 2;
        const unsigned low = a < half ? codes[a] & 15u : codes[a - half] >> 4;
        const unsigned high = b < half ? codes[b] & 15u : codes[b - half] >> 4;
        out[i] = (uint8_t)(low | high << 4);
    }
    for (size_t i = 0; i < MB_ONNX_GROUP && bits == 8; i++)
        out[i] = codes[i] ^ 0x80;
}

bool mb_onnx_matmul(enum mb_format format, size_t n, size_t k, const void *blocks,
                    unsigned char **model, size_t *bytes)
{
    const unsigned bits = mb_onnx_bits(format);
    const size_t groups = k / MB_ONNX_GROUP, count = n * groups;
    const size_t code_bytes = MB_ONNX_GROUP * bits / 8, block_bytes = code_bytes + 2;
    uint8_t *codes = malloc(count * code_bytes);
    float *scales = malloc(count * sizeof *scales);
    struct message graph = {0}, whole = {0};
    if (codes == NULL || scales == NULL) {
        whole.failed = true;
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        const uint8_t *block = (const uint8_t *)blocks + i * block_bytes;
        (void)mb_dequantize(MB_FORMAT_F16, block, 1, 1, &scales[i]);
        convert_group(bits, block + 2, codes + i * code_bytes);
    }
    put_node(&graph, bits, n, k);
    put_text(&graph, GRAPH_NAME, "product");
    put_tensor(&graph, "w", ELEMENT_UINT8, (const size_t[]){n, groups, code_bytes}, 3, codes,
               count * code_bytes);
    put_tensor(&graph, "scales", ELEMENT_FLOAT, (const size_t[]){n, groups}, 2, scales,
               count * sizeof *scales);
    put_value(&graph, GRAPH_INPUT, "x", k);
    put_value(&graph, GRAPH_OUTPUT, "y", n);
    put_number(&whole, MODEL_IR_VERSION, IR_VERSION);
    put_opset(&whole, "", OPSET);
    put_opset(&whole, "com.microsoft", 1);
    put_message(&whole, MODEL_GRAPH, &graph);
out:
    free(codes);
    free(scales);
    free(graph.data);
    *model = whole.data;
    *bytes = whole.bytes;
    if (!whole.failed)
        return true;
    free(whole.data);
    *model = NULL;
    return false;
}
