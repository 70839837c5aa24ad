/* SPDX-License-Identifier: Apache-2.0 */
/* What this plug-in knows of ONNX Runtime's interface for execution providers, in the manner of
 * ort_abi.h: slots by number, and the three structs that a provider hands over.
 *
 * Providers can be loaded since version 22 of the interface. Version 24 is the first in which they
 * can bring kernels of single nodes (GetKernelRegistry) that pack weights (PrePackWeight), and its
 * structs are restated here up to their last member of that version; a host that is older is
 * refused. Numbers as in ONNX Runtime's onnxruntime_ep_c_api.h and onnxruntime_c_api.h (MIT
 * licence); run with 1.24.1, 1.28.0 and 1.32.0, refused in 1.23.2. */
#ifndef MIXBIT_PLUGIN_ORT_PROVIDER_ABI_H
#define MIXBIT_PLUGIN_ORT_PROVIDER_ABI_H

#include "ort_abi.h"

#include <stdbool.h>

enum {
    ORT_PROVIDER_VERSION = 24,
    ORT_LOG_INFO = 1,
    ORT_ATTRIBUTE_INTEGER = 1,
    ORT_DEVICE_CPU = 0,
};

/* Opaque to this plug-in. */
struct ort_device; /* hardware */
struct ort_provider_device;
struct ort_pairs;
struct ort_graph;
struct ort_node;
struct ort_value_info;
struct ort_attribute;
struct ort_support; /* what a provider says that it serves of a graph */
struct ort_registry;
struct ort_definition_builder;
struct ort_definition; /* of a kernel */
struct ort_data_type;
struct ort_allocator;
struct ort_shared_weights;
struct ort_transfer;
struct ort_stream;
struct ort_provider_table; /* an array of function pointers */

/* More of the table that a version of the interface is. */
#define MB_ORT_GRAPH_SLOTS(ROW)                                                                    \
    ROW(272, struct ort_status *, ReadOpAttr,                                                      \
        (const struct ort_attribute *, int type, void *data, size_t bytes, size_t *needed))        \
    ROW(307, int, HardwareDevice_Type, (const struct ort_device *))                                \
    ROW(317, const struct ort_provider_table *, GetEpApi, (void))                                  \
    ROW(326, struct ort_status *, ValueInfo_GetInitializerValue,                                   \
        (const struct ort_value_info *, const struct ort_value **))                                \
    ROW(331, struct ort_status *, ValueInfo_IsConstantInitializer,                                 \
        (const struct ort_value_info *, bool *is))                                                 \
    ROW(332, struct ort_status *, ValueInfo_IsFromOuterScope,                                      \
        (const struct ort_value_info *, bool *is))                                                 \
    ROW(344, struct ort_status *, Graph_GetNumNodes, (const struct ort_graph *, size_t *count))    \
    ROW(345, struct ort_status *, Graph_GetNodes,                                                  \
        (const struct ort_graph *, const struct ort_node **nodes, size_t count))                   \
    ROW(349, struct ort_status *, Node_GetName, (const struct ort_node *, const char **name))      \
    ROW(350, struct ort_status *, Node_GetOperatorType,                                            \
        (const struct ort_node *, const char **type))                                              \
    ROW(351, struct ort_status *, Node_GetDomain, (const struct ort_node *, const char **domain))  \
    ROW(353, struct ort_status *, Node_GetNumInputs, (const struct ort_node *, size_t *count))     \
    ROW(354, struct ort_status *, Node_GetInputs,                                                  \
        (const struct ort_node *, const struct ort_value_info **inputs, size_t count))             \
    ROW(361, struct ort_status *, Node_GetAttributeByName,                                         \
        (const struct ort_node *, const char *name, const struct ort_attribute **))

/* The table that GetEpApi returns. */
#define MB_ORT_PROVIDER_SLOTS(ROW)                                                                 \
    ROW(0, struct ort_status *, CreateEpDevice,                                                    \
        (struct ort_factory *, const struct ort_device *, const struct ort_pairs *metadata,        \
         const struct ort_pairs *options, struct ort_provider_device **))                          \
    ROW(3, struct ort_status *, EpGraphSupportInfo_AddSingleNode,                                  \
        (struct ort_support *, const struct ort_node *))                                           \
    ROW(18, struct ort_status *, CreateKernelRegistry, (struct ort_registry **))                   \
    ROW(19, void, ReleaseKernelRegistry, (struct ort_registry *))                                  \
    ROW(20, struct ort_status *, KernelRegistry_AddKernel,                                         \
        (struct ort_registry *, const struct ort_definition *,                                     \
         struct ort_status *(*create)(void *state, const struct ort_kernel_info *,                 \
                                      struct ort_kernel **),                                       \
         void *state))                                                                             \
    ROW(21, struct ort_status *, CreateKernelDefBuilder, (struct ort_definition_builder **))       \
    ROW(22, void, ReleaseKernelDefBuilder, (struct ort_definition_builder *))                      \
    ROW(23, struct ort_status *, KernelDefBuilder_SetOperatorType,                                 \
        (struct ort_definition_builder *, const char *type))                                       \
    ROW(24, struct ort_status *, KernelDefBuilder_SetDomain,                                       \
        (struct ort_definition_builder *, const char *domain))                                     \
    ROW(25, struct ort_status *, KernelDefBuilder_SetSinceVersion,                                 \
        (struct ort_definition_builder *, int first, int last))                                    \
    ROW(26, struct ort_status *, KernelDefBuilder_SetExecutionProvider,                            \
        (struct ort_definition_builder *, const char *name))                                       \
    ROW(29, struct ort_status *, KernelDefBuilder_AddTypeConstraint,                               \
        (struct ort_definition_builder *, const char *name,                                        \
         const struct ort_data_type *const *types, size_t count))                                  \
    ROW(32, struct ort_status *, KernelDefBuilder_Build,                                           \
        (struct ort_definition_builder *, struct ort_definition **))                               \
    ROW(33, void, ReleaseKernelDef, (struct ort_definition *))                                     \
    ROW(40, struct ort_status *, GetTensorDataType, (int type, const struct ort_data_type **))     \
    ROW(41, struct ort_status *, EpGraphSupportInfo_LookUpKernel,                                  \
        (struct ort_support *, const struct ort_node *, const struct ort_definition **))

struct ort_factory;
struct ort_kernel;
#define ROW(slot, result, name, parameters) result(*name) parameters;
struct ort_graph_api {
    MB_ORT_GRAPH_SLOTS(ROW)
};
struct ort_provider_api {
    MB_ORT_PROVIDER_SLOTS(ROW)
};
#undef ROW

/* A kernel of one node of a session. */
struct ort_kernel {
    uint32_t version;
    uint32_t flags; /* 0 */
    struct ort_status *(*compute)(struct ort_kernel *, struct ort_kernel_context *);
    void (*release)(struct ort_kernel *);
    /* For each constant input, in their order, after all kernels were created. What is packed the
     * host may free. */
    struct ort_status *(*pack_weight)(struct ort_kernel *, const struct ort_value *, int input,
                                      struct ort_allocator *, struct ort_shared_weights *,
                                      bool *is_packed);
    struct ort_status *(*set_shared_weight)(struct ort_kernel *, const void *const *data,
                                            const size_t *bytes, size_t count, int input);
};

/* A provider of one session. Members that may be left out and are have no type here. */
struct ort_provider {
    uint32_t version;
    const char *(*get_name)(const struct ort_provider *);
    struct ort_status *(*get_capability)(struct ort_provider *, const struct ort_graph *,
                                         struct ort_support *);
    void (*left_out[10])(void); /* of providers that compile graphs, move data, have streams */
    struct ort_status *(*get_kernel_registry)(struct ort_provider *, const struct ort_registry **);
    void (*is_concurrent_run_supported)(void); /* left out: it is */
};

struct ort_factory {
    uint32_t version;
    const char *(*get_name)(const struct ort_factory *);
    const char *(*get_vendor)(const struct ort_factory *);
    struct ort_status *(*get_supported_devices)(struct ort_factory *,
                                                const struct ort_device *const *devices,
                                                size_t count,
                                                struct ort_provider_device **provider_devices,
                                                size_t most, size_t *found);
    struct ort_status *(*create_provider)(struct ort_factory *,
                                          const struct ort_device *const *devices,
                                          const struct ort_pairs *const *metadata, size_t count,
                                          const struct ort_session_options *,
                                          const struct ort_logger *, struct ort_provider **);
    void (*release_provider)(struct ort_factory *, struct ort_provider *);
    uint32_t (*get_vendor_id)(const struct ort_factory *);
    const char *(*get_version)(const struct ort_factory *);
    void (*left_out[3])(void); /* compiled models; allocators, twice */
    struct ort_status *(*create_data_transfer)(struct ort_factory *, struct ort_transfer **);
    bool (*is_stream_aware)(const struct ort_factory *);
    void (*left_out_too[5])(void); /* streams, devices that don't fit, graphics, operators twice */
};

#endif
