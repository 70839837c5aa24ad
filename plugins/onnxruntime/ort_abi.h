/* SPDX-License-Identifier: Apache-2.0 */
/* What this plug-in knows of ONNX Runtime's C interface, as far as it uses it.
 *
 * The interface is one table of functions that only ever grows at its end: a slot that existed in
 * the version asked for stays where it is, in every later release. So slots are named by number
 * here, next to the one struct that a library of operators hands over, and neither ONNX Runtime's
 * headers nor one of its releases is needed to build. Version 17 of the table is the first that has
 * all of it (constant inputs of a kernel, statuses from kernels, loops on the session's threads);
 * a host without it is refused. Numbers as in ONNX Runtime's onnxruntime_c_api.h (MIT licence);
 * run with 1.17.0 and 1.32.0. */
#ifndef MIXBIT_PLUGIN_ORT_ABI_H
#define MIXBIT_PLUGIN_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

enum {
    ORT_VERSION = 17,
    ORT_FAIL = 1,
    ORT_INVALID_ARGUMENT = 2,
    ORT_NOT_IMPLEMENTED = 9,
    ORT_LOG_WARNING = 2,
    ORT_TYPE_UNDEFINED = 0,
    ORT_TYPE_FLOAT = 1,
    ORT_TYPE_UINT8 = 2,
    ORT_TYPE_INT32 = 6,
    ORT_TYPE_FLOAT16 = 10,
    ORT_REQUIRED = 0,
    ORT_OPTIONAL = 1,
    ORT_MEMORY_DEFAULT = 0,
};

/* Opaque to this plug-in. */
struct ort_status;
struct ort_value;
struct ort_shape;
struct ort_session_options;
struct ort_domain;
struct ort_logger;
struct ort_kernel_info;
struct ort_kernel_context;
struct ort_table; /* an array of function pointers */

struct ort_base {
    const struct ort_table *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

/* ROW(slot, result, name, parameters). A status is NULL, or has to be released. */
#define MB_ORT_SLOTS(ROW)                                                                          \
    ROW(0, struct ort_status *, CreateStatus, (int code, const char *message))                     \
    ROW(2, const char *, GetErrorMessage, (const struct ort_status *))                             \
    ROW(26, struct ort_status *, CreateCustomOpDomain, (const char *name, struct ort_domain **))   \
    ROW(27, struct ort_status *, CustomOpDomain_Add,                                               \
        (struct ort_domain *, const struct ort_custom_op *))                                       \
    ROW(28, struct ort_status *, AddCustomOpDomain,                                                \
        (struct ort_session_options *, struct ort_domain *))                                       \
    ROW(51, struct ort_status *, GetTensorMutableData, (struct ort_value *, void **data))          \
    ROW(60, struct ort_status *, GetTensorElementType, (const struct ort_shape *, int *type))      \
    ROW(61, struct ort_status *, GetDimensionsCount, (const struct ort_shape *, size_t *count))    \
    ROW(62, struct ort_status *, GetDimensions,                                                    \
        (const struct ort_shape *, int64_t *dimensions, size_t count))                             \
    ROW(65, struct ort_status *, GetTensorTypeAndShape,                                            \
        (const struct ort_value *, struct ort_shape **))                                           \
    ROW(86, struct ort_status *, KernelInfoGetAttribute_int64,                                     \
        (const struct ort_kernel_info *, const char *name, int64_t *value))                        \
    ROW(88, struct ort_status *, KernelContext_GetInputCount,                                      \
        (const struct ort_kernel_context *, size_t *count))                                        \
    ROW(90, struct ort_status *, KernelContext_GetInput,                                           \
        (const struct ort_kernel_context *, size_t index, const struct ort_value **))              \
    ROW(91, struct ort_status *, KernelContext_GetOutput,                                          \
        (struct ort_kernel_context *, size_t index, const int64_t *dimensions, size_t count,       \
         struct ort_value **))                                                                     \
    ROW(93, void, ReleaseStatus, (struct ort_status *))                                            \
    ROW(99, void, ReleaseTensorTypeAndShapeInfo, (struct ort_shape *))                             \
    ROW(101, void, ReleaseCustomOpDomain, (struct ort_domain *))                                   \
    ROW(230, struct ort_status *, KernelInfo_GetInputCount,                                        \
        (const struct ort_kernel_info *, size_t *count))                                           \
    ROW(232, struct ort_status *, KernelInfo_GetInputName,                                         \
        (const struct ort_kernel_info *, size_t index, char *name, size_t *bytes))                 \
    ROW(237, struct ort_status *, HasSessionConfigEntry,                                           \
        (const struct ort_session_options *, const char *key, int *has))                           \
    ROW(238, struct ort_status *, GetSessionConfigEntry,                                           \
        (const struct ort_session_options *, const char *key, char *value, size_t *bytes))         \
    ROW(244, struct ort_status *, KernelInfo_GetNodeName,                                          \
        (const struct ort_kernel_info *, char *name, size_t *bytes))                               \
    ROW(245, struct ort_status *, KernelInfo_GetLogger,                                            \
        (const struct ort_kernel_info *, const struct ort_logger **))                              \
    ROW(247, struct ort_status *, Logger_LogMessage,                                               \
        (const struct ort_logger *, int level, const char *message, const char *file, int line,    \
         const char *function))                                                                    \
    ROW(249, struct ort_status *, KernelInfoGetConstantInput_tensor,                               \
        (const struct ort_kernel_info *, size_t index, int *is_constant,                           \
         const struct ort_value **))                                                               \
    ROW(274, struct ort_status *, KernelContext_ParallelFor,                                       \
        (const struct ort_kernel_context *, void (*task)(void *arg, size_t index), size_t total,   \
         size_t batches, void *arg))

struct ort_custom_op;
#define ROW(slot, result, name, parameters) result(*name) parameters;
struct ort_api {
    MB_ORT_SLOTS(ROW)
};
#undef ROW

/* An operator as version 17 reads it; members of later versions are not looked at. */
struct ort_custom_op {
    uint32_t version;
    void *(*create_kernel)(const struct ort_custom_op *, const struct ort_table *,
                           const struct ort_kernel_info *); /* before version 16 */
    const char *(*get_name)(const struct ort_custom_op *);
    const char *(*get_provider)(const struct ort_custom_op *);
    int (*get_input_type)(const struct ort_custom_op *, size_t index);
    size_t (*get_input_count)(const struct ort_custom_op *);
    int (*get_output_type)(const struct ort_custom_op *, size_t index);
    size_t (*get_output_count)(const struct ort_custom_op *);
    void (*compute)(void *kernel, struct ort_kernel_context *); /* before version 16 */
    void (*destroy_kernel)(void *kernel);
    int (*get_input_characteristic)(const struct ort_custom_op *, size_t index);
    int (*get_output_characteristic)(const struct ort_custom_op *, size_t index);
    int (*get_input_memory_type)(const struct ort_custom_op *, size_t index);
    int (*get_variadic_input_least)(const struct ort_custom_op *);
    int (*get_variadic_input_alike)(const struct ort_custom_op *);
    int (*get_variadic_output_least)(const struct ort_custom_op *);
    int (*get_variadic_output_alike)(const struct ort_custom_op *);
    struct ort_status *(*create_kernel_v2)(const struct ort_custom_op *, const struct ort_table *,
                                           const struct ort_kernel_info *, void **kernel);
    struct ort_status *(*compute_v2)(void *kernel, struct ort_kernel_context *);
    void (*infer_shape)(void);
    int (*get_first_version)(const struct ort_custom_op *);
    int (*get_last_version)(const struct ort_custom_op *);
};

#endif
