/* SPDX-License-Identifier: Apache-2.0 */
/* See host.h. */
#include "host.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void mb_ort_bind(const struct ort_table *table, struct ort_api *api)
{
    const char *slots = (const char *)table;
#define ROW(slot, result, name, parameters)                                                        \
    memcpy(&api->name, slots + (slot) * sizeof(void *), sizeof api->name);
    MB_ORT_SLOTS(ROW)
#undef ROW
}

/* The first slot that is empty, NULL: none is. */
#define ROW(slot, result, name, parameters)                                                        \
    memcpy(&api->name, slots + (slot) * sizeof(void *), sizeof api->name);                         \
    missing = missing == NULL && api->name == NULL ? #name : missing;

const char *mb_ort_bind_graph(const struct ort_table *table, struct ort_graph_api *api)
{
    const char *slots = (const char *)table, *missing = NULL;
    MB_ORT_GRAPH_SLOTS(ROW)
    return missing;
}

const char *mb_ort_bind_provider(const struct ort_provider_table *table,
                                 struct ort_provider_api *api)
{
    const char *slots = (const char *)table, *missing = NULL;
    MB_ORT_PROVIDER_SLOTS(ROW)
    return missing;
}
#undef ROW

struct ort_status *mb_ort_connect(const struct ort_base *base, uint32_t version, const char *what,
                                  const struct ort_table **table, struct ort_api *api)
{
    *table = base->get_api(version);
    mb_ort_bind(*table != NULL ? *table : base->get_api(1), api);
    if (*table != NULL)
        return NULL;
    /* The first function of every version makes a status. */
    return mb_ort_error(api, ORT_NOT_IMPLEMENTED, "%s needs ONNX Runtime 1.%u or later; this is %s",
                        what, (unsigned)version, base->get_version());
}

struct ort_status *mb_ort_error(const struct ort_api *api, int code, const char *format, ...)
{
    char text[2 * MB_ORT_TEXT];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return api->CreateStatus(code, text);
}

bool mb_ort_succeeds(const struct ort_api *api, struct ort_status *status)
{
    if (status == NULL)
        return true;
    api->ReleaseStatus(status);
    return false;
}

bool mb_ort_multiply(size_t a, size_t b, size_t *product)
{
    *product = a * b;
    return b == 0 || a <= SIZE_MAX / b;
}

/* The shape of a tensor, and how many elements that makes. */
static struct ort_status *read_shape(const struct ort_api *api, const struct ort_shape *shape,
                                     struct mb_ort_tensor *tensor)
{
    struct ort_status *status = api->GetTensorElementType(shape, &tensor->type);
    if (status == NULL)
        status = api->GetDimensionsCount(shape, &tensor->rank);
    if (status != NULL)
        return status;
    if (tensor->rank > MB_ORT_RANK)
        return mb_ort_error(api, ORT_INVALID_ARGUMENT,
                            "a tensor has %zu dimensions; MatMulNBits takes at most %d",
                            tensor->rank, MB_ORT_RANK);
    status = api->GetDimensions(shape, tensor->dimensions, tensor->rank);
    tensor->elements = 1;
    for (size_t i = 0; i < tensor->rank && status == NULL; i++)
        if (tensor->dimensions[i] < 0 ||
            !mb_ort_multiply(tensor->elements, (size_t)tensor->dimensions[i], &tensor->elements))
            status = mb_ort_error(api, ORT_INVALID_ARGUMENT, "a tensor's shape is not valid");
    return status;
}

struct ort_status *mb_ort_describe(const struct ort_api *api, const struct ort_value *value,
                                   struct mb_ort_tensor *tensor)
{
    struct ort_shape *shape = NULL;
    void *data = NULL;
    *tensor = (struct mb_ort_tensor){.value = value};
    struct ort_status *status = api->GetTensorTypeAndShape(value, &shape);
    if (status == NULL)
        status = read_shape(api, shape, tensor);
    if (shape != NULL)
        api->ReleaseTensorTypeAndShapeInfo(shape);
    /* The host has one call for tensors that are read and that are written. */
    if (status == NULL)
        status = api->GetTensorMutableData((struct ort_value *)(uintptr_t)value, &data);
    tensor->data = data;
    return status;
}

void mb_ort_read_floats(int type, const void *from, size_t count, float *to)
{
    if (type == ORT_TYPE_FLOAT)
        memcpy(to, from, count * sizeof *to);
    else
        (void)mb_dequantize(MB_FORMAT_F16, from, 1, count, to);
}

void mb_ort_write_floats(int type, const float *from, size_t count, void *to)
{
    if (type == ORT_TYPE_FLOAT)
        memcpy(to, from, count * sizeof *from);
    else
        (void)mb_quantize(MB_FORMAT_F16, from, 1, count, NULL, to);
}
