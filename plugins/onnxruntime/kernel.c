/* SPDX-License-Identifier: Apache-2.0 */
/* See kernel.h. Weights are constants in all but odd models. Where they are not, or could not be
 * asked for, each call packs what it is given, which takes far longer than the product: the log
 * says so, once. */
#include "kernel.h"
#include "product.h"
#include "scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kernel {
    struct ort_api api;
    struct mb_ort_node node;
    bool is_packed;
    struct mb_ort_weights weights; /* where is_packed */
    float *bias;                   /* [n], where it is a constant */
};

/* ---- creation -------------------------------------------------------------------------------- */

/* Whether the node has an input; a missing one in the middle has no name. */
static bool has_input(const struct ort_api *api, const struct ort_kernel_info *info, size_t index)
{
    char name[MB_ORT_TEXT] = "";
    size_t count = 0, bytes = sizeof name;
    if (!mb_ort_succeeds(api, api->KernelInfo_GetInputCount(info, &count)) || index >= count)
        return false;
    /* A name that is too long for the buffer is one. */
    return !mb_ort_succeeds(api, api->KernelInfo_GetInputName(info, index, name, &bytes)) ||
           name[0] != '\0';
}

/* *is_there: a constant, described; else *is_ready is cleared unless the node lacks the input. */
static struct ort_status *read_constant(const struct ort_api *api,
                                        const struct ort_kernel_info *info, size_t index,
                                        struct mb_ort_tensor *tensor, bool *is_ready)
{
    const struct ort_value *value = NULL;
    int is_constant = 0;
    *tensor = (struct mb_ort_tensor){.value = NULL};
    if (!has_input(api, info, index))
        return NULL;
    if (mb_ort_succeeds(
            api, api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value)) &&
        is_constant != 0 && value != NULL)
        return mb_ort_describe(api, value, tensor);
    *is_ready = false;
    return NULL;
}

static void warn(const struct ort_api *api, const struct ort_kernel_info *info,
                 const struct mb_ort_node *node)
{
    const struct ort_logger *logger = NULL;
    char text[MB_ORT_TEXT];
    (void)snprintf(text, sizeof text,
                   "mixbit: the weights of MatMulNBits '%s' are no constants: they are packed anew "
                   "in every run, which is slow",
                   node->name);
    if (mb_ort_succeeds(api, api->KernelInfo_GetLogger(info, &logger)) && logger != NULL)
        (void)mb_ort_succeeds(
            api, api->Logger_LogMessage(logger, ORT_LOG_WARNING, text, "mixbit", 0, "MatMulNBits"));
}

/* A bias as floats. */
static struct ort_status *read_bias(const struct kernel *kernel, const struct mb_ort_tensor *bias,
                                    float *out)
{
    const struct mb_ort_node *node = &kernel->node;
    struct ort_status *status = mb_ort_check_bias(&kernel->api, node, bias);
    if (status == NULL)
        mb_ort_read_floats(node->type, bias->data, node->n, out);
    return status;
}

static struct ort_status *out_of_memory(const struct kernel *kernel)
{
    return mb_ort_error(&kernel->api, ORT_FAIL, "MatMulNBits '%s': out of memory",
                        kernel->node.name);
}

struct ort_status *mb_ort_pack_kernel(void *argument, const struct ort_kernel_info *info)
{
    struct kernel *kernel = argument;
    const struct ort_api *api = &kernel->api;
    struct mb_ort_inputs inputs;
    struct mb_ort_tensor bias;
    struct mb_ort_tensor *const weights[] = {&inputs.b, &inputs.scales, &inputs.zero_points,
                                             &inputs.groups};
    bool is_ready = true, has_bias = true;
    struct ort_status *status = NULL;
    for (size_t i = 0; i < sizeof weights / sizeof *weights && status == NULL; i++)
        status = read_constant(api, info, MB_ORT_B + i, weights[i], &is_ready);
    if (status == NULL)
        status = read_constant(api, info, MB_ORT_BIAS, &bias, &has_bias);
    if (status != NULL)
        return status;
    if (bias.value != NULL) {
        kernel->bias = malloc(kernel->node.n * sizeof *kernel->bias);
        status =
            kernel->bias == NULL ? out_of_memory(kernel) : read_bias(kernel, &bias, kernel->bias);
    }
    if (status == NULL && !is_ready)
        warn(api, info, &kernel->node);
    if (status != NULL || !is_ready)
        return status;
    status = mb_ort_check_inputs(api, &kernel->node, &inputs);
    if (status == NULL)
        status = mb_ort_pack(api, &kernel->node, &inputs, &kernel->weights);
    kernel->is_packed = status == NULL;
    return status;
}

static bool read_integer(const struct mb_ort_source *source, const char *name, int64_t *value)
{
    return mb_ort_succeeds(source->api,
                           source->api->KernelInfoGetAttribute_int64(source->from, name, value));
}

/* The node of a kernel: its name and attributes. */
static struct ort_status *read_node(struct kernel *kernel, const struct ort_kernel_info *info,
                                    int type, enum mb_ort_accuracy wish)
{
    char name[MB_ORT_TEXT] = "";
    size_t bytes = sizeof name;
    if (!mb_ort_succeeds(&kernel->api, kernel->api.KernelInfo_GetNodeName(info, name, &bytes)))
        name[0] = '\0';
    const struct mb_ort_source source = {name, &kernel->api, info, read_integer};
    return mb_ort_read_node(&kernel->api, &source, type, wish, &kernel->node);
}

struct ort_status *mb_ort_create_kernel(const struct ort_table *table,
                                        const struct ort_kernel_info *info, int type,
                                        enum mb_ort_accuracy wish, bool packs, void **created)
{
    struct kernel *kernel = calloc(1, sizeof *kernel);
    struct ort_api api;
    *created = NULL;
    mb_ort_bind(table, &api);
    if (kernel == NULL)
        return mb_ort_error(&api, ORT_FAIL, "MatMulNBits: out of memory");
    kernel->api = api;
    mb_ort_scratch_join();
    struct ort_status *status = read_node(kernel, info, type, wish);
    if (status == NULL && packs)
        status = mb_ort_pack_kernel(kernel, info);
    if (status == NULL)
        *created = kernel;
    else
        mb_ort_destroy_kernel(kernel);
    return status;
}

bool mb_ort_has_packed(const void *argument, size_t input)
{
    const struct kernel *kernel = argument;
    return input == MB_ORT_BIAS ? kernel->bias != NULL
                                : kernel->is_packed && input >= MB_ORT_B && input <= MB_ORT_GROUPS;
}

void mb_ort_destroy_kernel(void *argument)
{
    struct kernel *kernel = argument;
    if (kernel == NULL)
        return;
    mb_ort_free_weights(&kernel->weights);
    free(kernel->bias);
    free(kernel);
    mb_ort_scratch_leave();
}

/* ---- a run ----------------------------------------------------------------------------------- */

static struct ort_status *read_input(const struct ort_api *api,
                                     const struct ort_kernel_context *context, size_t index,
                                     struct mb_ort_tensor *tensor)
{
    const struct ort_value *value = NULL;
    size_t count = 0;
    *tensor = (struct mb_ort_tensor){.value = NULL};
    struct ort_status *status = api->KernelContext_GetInputCount(context, &count);
    if (status == NULL && index < count)
        status = api->KernelContext_GetInput(context, index, &value);
    return status != NULL || value == NULL ? status : mb_ort_describe(api, value, tensor);
}

static struct ort_status *check_a(const struct kernel *kernel, const struct mb_ort_tensor *a)
{
    const struct mb_ort_node *node = &kernel->node;
    if (a->value == NULL || a->type != node->type)
        return mb_ort_error(&kernel->api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': input A is missing or of element type %d, not %d",
                            node->name, a->type, node->type);
    if (a->rank == 0 || a->dimensions[a->rank - 1] != (int64_t)node->k)
        return mb_ort_error(&kernel->api, ORT_INVALID_ARGUMENT,
                            "MatMulNBits '%s': the last dimension of A is %lld; K is %zu",
                            node->name, a->rank == 0 ? 0LL : (long long)a->dimensions[a->rank - 1],
                            node->k);
    return NULL;
}

/* Weights of this run, for a node that has no packed ones. */
static struct ort_status *pack_now(const struct kernel *kernel,
                                   const struct ort_kernel_context *context,
                                   struct mb_ort_weights *weights)
{
    const struct ort_api *api = &kernel->api;
    struct mb_ort_inputs inputs;
    struct mb_ort_tensor *const all[] = {&inputs.b, &inputs.scales, &inputs.zero_points,
                                         &inputs.groups};
    struct ort_status *status = NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all && status == NULL; i++)
        status = read_input(api, context, MB_ORT_B + i, all[i]);
    if (status == NULL)
        status = mb_ort_check_inputs(api, &kernel->node, &inputs);
    return status != NULL ? status : mb_ort_pack(api, &kernel->node, &inputs, weights);
}

/* The bias of this run; *scratch is to be returned. */
static struct ort_status *bias_now(const struct kernel *kernel,
                                   const struct ort_kernel_context *context,
                                   struct mb_ort_scratch **scratch, const float **bias)
{
    struct mb_ort_tensor tensor;
    *bias = kernel->bias;
    if (*bias != NULL)
        return NULL;
    struct ort_status *status = read_input(&kernel->api, context, MB_ORT_BIAS, &tensor);
    if (status != NULL || tensor.value == NULL)
        return status;
    *scratch = mb_ort_borrow(kernel->node.n * sizeof **bias);
    if (*scratch == NULL)
        return out_of_memory(kernel);
    *bias = (*scratch)->data;
    return read_bias(kernel, &tensor, (*scratch)->data);
}

static struct ort_status *make_output(const struct kernel *kernel,
                                      struct ort_kernel_context *context,
                                      const struct mb_ort_tensor *a, void **y)
{
    int64_t dimensions[MB_ORT_RANK];
    struct ort_value *value = NULL;
    memcpy(dimensions, a->dimensions, sizeof dimensions);
    dimensions[a->rank - 1] = (int64_t)kernel->node.n;
    struct ort_status *status =
        kernel->api.KernelContext_GetOutput(context, 0, dimensions, a->rank, &value);
    if (status != NULL || value == NULL) /* nobody wants the product */
        return status;
    return kernel->api.GetTensorMutableData(value, y);
}

struct ort_status *mb_ort_compute(void *argument, struct ort_kernel_context *context)
{
    const struct kernel *kernel = argument;
    struct mb_ort_tensor a;
    struct mb_ort_weights packed = {.format = MB_FORMAT_NONE};
    struct mb_ort_scratch *scratch = NULL;
    struct mb_ort_product product = {.node = &kernel->node,
                                     .weights = kernel->is_packed ? &kernel->weights : &packed};
    struct ort_status *status = read_input(&kernel->api, context, MB_ORT_A, &a);
    if (status == NULL)
        status = check_a(kernel, &a);
    if (status == NULL)
        status = make_output(kernel, context, &a, &product.y);
    if (status != NULL || a.elements == 0 || product.y == NULL)
        return status;
    product.x = a.data;
    product.m = a.elements / kernel->node.k;
    status = bias_now(kernel, context, &scratch, &product.bias);
    if (status == NULL && !kernel->is_packed)
        status = pack_now(kernel, context, &packed);
    if (status == NULL) {
        const enum mb_status result = mb_ort_multiply_rows(&kernel->api, context, &product);
        if (result != MB_OK)
            status = mb_ort_error(&kernel->api, ORT_FAIL, "MatMulNBits '%s': %s", kernel->node.name,
                                  mb_status_string(result));
    }
    mb_ort_return(scratch);
    mb_ort_free_weights(&packed);
    return status;
}
