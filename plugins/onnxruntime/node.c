/* SPDX-License-Identifier: Apache-2.0 */
/* See node.h. Everything that comes from a model is checked here, once: files are not trusted, and
 * neither are shapes that the host has not looked at, since this library's declaration of the
 * operator has replaced its own. */
#include "node.h"

#include <string.h>

enum { BLOCK_LEAST = 16, BLOCK_MOST = 1 << 16 };

static struct ort_status *read_size(const struct ort_api *api, const struct mb_ort_source *source,
                                    const struct mb_ort_node *node, const char *name, size_t *size)
{
    int64_t value = 0;
    if (!source->read_integer(source, name, &value))
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': attribute %s is missing or no integer", node->name,
                            name);
    if (value <= 0)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': attribute %s is %lld; it has to be positive",
                            node->name, name, (long long)value);
    *size = (size_t)value;
    return NULL;
}

static int64_t read_optional(const struct mb_ort_source *source, const char *name)
{
    int64_t value = 0;
    return source->read_integer(source, name, &value) ? value : 0;
}

/* ONNX Runtime's levels: 0 not set, 1 f32, 2 f16, 3 bf16, 4 int8. Under 0 and 1 the built-in kernel
 * computes in f32, much slower; 16 bits are what takes no longer than that, many rows included, and
 * is still far below what the weights have lost. */
static enum mb_ort_accuracy accuracy_of(int64_t level)
{
    return level == 4 ? MB_ORT_INT8 : level == 2 || level == 3 ? MB_ORT_HALF : MB_ORT_INT16;
}

struct ort_status *mb_ort_read_node(const struct ort_api *api, const struct mb_ort_source *source,
                                    int type, enum mb_ort_accuracy wish, struct mb_ort_node *node)
{
    *node = (struct mb_ort_node){.type = type};
    memcpy(node->name, source->name, strnlen(source->name, sizeof node->name - 1));
    const struct {
        const char *name;
        size_t *value;
    } sizes[] = {
        {"K", &node->k}, {"N", &node->n}, {"bits", &node->bits}, {"block_size", &node->block}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct ort_status *status = read_size(api, source, node, sizes[i].name, sizes[i].value);
        if (status != NULL)
            return status;
    }
    if (node->bits != 2 && node->bits != 4 && node->bits != 8)
        return mb_ort_error(api, ORT_NOT_IMPLEMENTED,
                            "MatMulNBits '%s': bits is %zu; 2, 4 and 8 are served", node->name,
                            node->bits);
    if (node->block < BLOCK_LEAST || node->block > BLOCK_MOST ||
        (node->block & (node->block - 1)) != 0)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': block_size is %zu; a power of two from %d to %d is "
                            "served",
                            node->name, node->block, BLOCK_LEAST, BLOCK_MOST);
    if (read_optional(source, "weight_prepacked") != 0)
        return mb_ort_error(api, ORT_NOT_IMPLEMENTED,
                            "MatMulNBits '%s': its weights are in a layout for CUDA "
                            "(weight_prepacked); the plain layout is served",
                            node->name);
    if (node->n > INT32_MAX || node->k > INT32_MAX)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': a matrix of %zu x %zu is too large", node->name,
                            node->n, node->k);
    node->blocks = (node->k + node->block - 1) / node->block;
    node->row = node->blocks * (node->block * node->bits / 8);
    node->accuracy =
        wish != MB_ORT_AS_NODE ? wish : accuracy_of(read_optional(source, "accuracy_level"));
    return NULL;
}

struct ort_status *mb_ort_check_bias(const struct ort_api *api, const struct mb_ort_node *node,
                                     const struct mb_ort_tensor *bias)
{
    if (bias->type == node->type && bias->elements == node->n && bias->data != NULL)
        return NULL;
    return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                        "MatMulNBits '%s': bias has %zu elements of type %d; N is %zu and A of "
                        "type %d",
                        node->name, bias->elements, bias->type, node->n, node->type);
}

bool mb_ort_has_packed_zeros(const struct mb_ort_inputs *inputs)
{
    return inputs->zero_points.value != NULL && inputs->zero_points.type == ORT_TYPE_UINT8;
}

static struct ort_status *check(const struct ort_api *api, const struct mb_ort_node *node,
                                const char *name, const struct mb_ort_tensor *tensor, int type,
                                size_t elements)
{
    if (tensor->value == NULL || tensor->data == NULL)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT, "MatMulNBits '%s': input %s is missing",
                            node->name, name);
    if (tensor->type != type)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': input %s is of element type %d, not %d", node->name,
                            name, tensor->type, type);
    if (tensor->elements != elements)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': input %s has %zu elements; %zu x %zu weights of %zu "
                            "bits in blocks of %zu have %zu",
                            node->name, name, tensor->elements, node->n, node->k, node->bits,
                            node->block, elements);
    return NULL;
}

static struct ort_status *check_groups(const struct ort_api *api, const struct mb_ort_node *node,
                                       const struct mb_ort_tensor *groups)
{
    const size_t padded = node->blocks * node->block;
    struct ort_status *status = check(api, node, "g_idx", groups, ORT_TYPE_INT32,
                                      groups->elements == padded ? padded : node->k);
    for (size_t i = 0; i < node->k && status == NULL; i++) {
        const int32_t group = ((const int32_t *)groups->data)[i];
        if (group < 0 || (size_t)group >= node->blocks)
            status = mb_ort_error(api, ORT_INVALID_ARGUMENT,
                                  "MatMulNBits '%s': g_idx[%zu] is %d; there are %zu groups",
                                  node->name, i, group, node->blocks);
    }
    return status;
}

struct ort_status *mb_ort_check_inputs(const struct ort_api *api, const struct mb_ort_node *node,
                                       const struct mb_ort_inputs *inputs)
{
    struct ort_status *status =
        check(api, node, "B", &inputs->b, ORT_TYPE_UINT8, node->n * node->row);
    if (status == NULL)
        status = check(api, node, "scales", &inputs->scales, node->type, node->n * node->blocks);
    if (status == NULL && mb_ort_has_packed_zeros(inputs))
        status = check(api, node, "zero_points", &inputs->zero_points, ORT_TYPE_UINT8,
                       node->n * ((node->blocks * node->bits + 7) / 8));
    else if (status == NULL && inputs->zero_points.value != NULL)
        status = check(api, node, "zero_points", &inputs->zero_points, node->type,
                       node->n * node->blocks);
    if (status == NULL && inputs->groups.value != NULL)
        status = check_groups(api, node, &inputs->groups);
    return status;
}
