/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_ort_provider.h. A kernel serves a node when its name, its domain and the type of the
 * node's scales are those of its definition. */
#include "fake_ort_provider.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 50 /* in version 24 */, SCALES = 2 };

/* ---- graphs ---------------------------------------------------------------------------------- */

struct ort_attribute {
    int64_t value;
};

struct ort_node fake_node_of(const struct ort_kernel_info *info)
{
    struct ort_node node = {
        .type = "MatMulNBits", .domain = "com.microsoft", .info = info, .count = info->count};
    for (size_t i = 0; i < FAKE_INPUTS; i++)
        node.inputs[i] = (struct ort_value_info){info->inputs[i], info->is_constant[i], false};
    return node;
}

/* Attributes live in the kernel's description: what is handed out points at their values. */
static struct ort_status *Node_GetAttributeByName(const struct ort_node *node, const char *name,
                                                  const struct ort_attribute **attribute)
{
    *attribute = NULL;
    for (size_t i = 0; i < FAKE_ATTRIBUTES; i++)
        if (node->info->attributes[i].name != NULL &&
            strcmp(node->info->attributes[i].name, name) == 0) {
            *attribute =
                (const struct ort_attribute *)(const void *)&node->info->attributes[i].value;
            return NULL;
        }
    return fake_error(ORT_FAIL, "no such attribute");
}

static struct ort_status *ReadOpAttr(const struct ort_attribute *attribute, int type, void *data,
                                     size_t bytes, size_t *needed)
{
    *needed = sizeof attribute->value;
    if (type != ORT_ATTRIBUTE_INTEGER || bytes < *needed)
        return fake_error(ORT_INVALID_ARGUMENT, "not so");
    memcpy(data, &attribute->value, sizeof attribute->value);
    return NULL;
}

static struct ort_status *ValueInfo_GetInitializerValue(const struct ort_value_info *info,
                                                        const struct ort_value **value)
{
    *value = info->is_constant ? info->value : NULL;
    return NULL;
}

static struct ort_status *ValueInfo_IsConstantInitializer(const struct ort_value_info *info,
                                                          bool *is)
{
    *is = info->is_constant;
    return NULL;
}

static struct ort_status *ValueInfo_IsFromOuterScope(const struct ort_value_info *info, bool *is)
{
    *is = info->is_outer;
    return NULL;
}

static struct ort_status *Graph_GetNumNodes(const struct ort_graph *graph, size_t *count)
{
    *count = graph->count;
    return NULL;
}

static struct ort_status *Graph_GetNodes(const struct ort_graph *graph,
                                         const struct ort_node **nodes, size_t count)
{
    memcpy(nodes, graph->nodes, count * sizeof *nodes);
    return NULL;
}

static struct ort_status *Node_GetName(const struct ort_node *node, const char **name)
{
    *name = node->info->name;
    return NULL;
}

static struct ort_status *Node_GetOperatorType(const struct ort_node *node, const char **type)
{
    *type = node->type;
    return NULL;
}

static struct ort_status *Node_GetDomain(const struct ort_node *node, const char **domain)
{
    *domain = node->domain;
    return NULL;
}

static struct ort_status *Node_GetNumInputs(const struct ort_node *node, size_t *count)
{
    *count = node->count;
    return NULL;
}

static struct ort_status *Node_GetInputs(const struct ort_node *node,
                                         const struct ort_value_info **inputs, size_t count)
{
    if (count != node->count)
        return fake_error(ORT_INVALID_ARGUMENT, "another number of inputs");
    for (size_t i = 0; i < count; i++)
        inputs[i] = node->inputs[i].value != NULL ? &node->inputs[i] : NULL;
    return NULL;
}

static int HardwareDevice_Type(const struct ort_device *device) { return device->type; }

/* ---- definitions of kernels ------------------------------------------------------------------ */

struct ort_definition_builder {
    struct ort_definition definition;
};

static struct ort_status *CreateEpDevice(struct ort_factory *factory,
                                         const struct ort_device *device,
                                         const struct ort_pairs *metadata,
                                         const struct ort_pairs *options,
                                         struct ort_provider_device **made)
{
    (void)metadata;
    (void)options;
    *made = malloc(sizeof **made);
    **made = (struct ort_provider_device){factory, device};
    return NULL;
}

static struct ort_status *CreateKernelRegistry(struct ort_registry **registry)
{
    *registry = calloc(1, sizeof **registry);
    fake.registries++;
    return NULL;
}

static void ReleaseKernelRegistry(struct ort_registry *registry)
{
    fake.registries -= registry != NULL;
    free(registry);
}

static struct ort_status *KernelRegistry_AddKernel(
    struct ort_registry *registry, const struct ort_definition *definition,
    struct ort_status *(*create)(void *state, const struct ort_kernel_info *, struct ort_kernel **),
    void *state)
{
    if (fake.add_fails)
        return fake_error(ORT_FAIL, "no room for a kernel");
    registry->rows[registry->count].definition = *definition;
    registry->rows[registry->count].create = create;
    registry->rows[registry->count++].state = state;
    return NULL;
}

static struct ort_status *CreateKernelDefBuilder(struct ort_definition_builder **builder)
{
    *builder = calloc(1, sizeof **builder);
    fake.builders++;
    return NULL;
}

static void ReleaseKernelDefBuilder(struct ort_definition_builder *builder)
{
    fake.builders -= builder != NULL;
    free(builder);
}

static struct ort_status *KernelDefBuilder_SetOperatorType(struct ort_definition_builder *builder,
                                                           const char *type)
{
    (void)snprintf(builder->definition.type, sizeof builder->definition.type, "%s", type);
    return NULL;
}

static struct ort_status *KernelDefBuilder_SetDomain(struct ort_definition_builder *builder,
                                                     const char *domain)
{
    (void)snprintf(builder->definition.domain, sizeof builder->definition.domain, "%s", domain);
    return NULL;
}

static struct ort_status *KernelDefBuilder_SetSinceVersion(struct ort_definition_builder *builder,
                                                           int first, int last)
{
    builder->definition.first = first;
    builder->definition.last = last;
    return NULL;
}

static struct ort_status *
KernelDefBuilder_SetExecutionProvider(struct ort_definition_builder *builder, const char *name)
{
    (void)snprintf(builder->definition.provider, sizeof builder->definition.provider, "%s", name);
    return NULL;
}

static struct ort_status *
KernelDefBuilder_AddTypeConstraint(struct ort_definition_builder *builder, const char *name,
                                   const struct ort_data_type *const *types, size_t count)
{
    struct ort_definition *definition = &builder->definition;
    (void)snprintf(definition->constraint, sizeof definition->constraint, "%s", name);
    definition->element_type = count == 1 ? types[0]->type : ORT_TYPE_UNDEFINED;
    return NULL;
}

static struct ort_status *KernelDefBuilder_Build(struct ort_definition_builder *builder,
                                                 struct ort_definition **definition)
{
    *definition = malloc(sizeof **definition);
    **definition = builder->definition;
    fake.definitions++;
    return NULL;
}

static void ReleaseKernelDef(struct ort_definition *definition)
{
    fake.definitions -= definition != NULL;
    free(definition);
}

static struct ort_status *GetTensorDataType(int type, const struct ort_data_type **data_type)
{
    static const struct ort_data_type types[] = {{ORT_TYPE_FLOAT}, {ORT_TYPE_FLOAT16}};
    *data_type = &types[type == ORT_TYPE_FLOAT16];
    return NULL;
}

/* ---- claims ---------------------------------------------------------------------------------- */

static struct ort_status *EpGraphSupportInfo_LookUpKernel(struct ort_support *support,
                                                          const struct ort_node *node,
                                                          const struct ort_definition **definition)
{
    *definition = NULL;
    for (size_t i = 0; i < support->registry->count; i++) {
        const struct ort_definition *row = &support->registry->rows[i].definition;
        if (strcmp(row->type, node->type) == 0 && strcmp(row->domain, node->domain) == 0 &&
            row->element_type == node->inputs[SCALES].value->type)
            *definition = row;
    }
    return NULL;
}

static struct ort_status *EpGraphSupportInfo_AddSingleNode(struct ort_support *support,
                                                           const struct ort_node *node)
{
    support->claimed[support->count++] = node;
    return NULL;
}

/* ---- the tables ------------------------------------------------------------------------------ */

#define ROW(slot, result, name, parameters)                                                        \
    {                                                                                              \
        result(*function) parameters = name;                                                       \
        memcpy(&slots[slot], &function, sizeof function);                                          \
    }

static const struct ort_provider_table *GetEpApi(void)
{
    static void (*slots[SLOTS])(void);
    for (size_t i = 0; i < SLOTS; i++)
        slots[i] = fake_not_there;
    MB_ORT_PROVIDER_SLOTS(ROW)
    if (fake.empty_slot != 0)
        slots[fake.empty_slot] = NULL;
    return fake.has_no_providers ? NULL : (const struct ort_provider_table *)(const void *)slots;
}

void fake_fill_graph_slots(void (**slots)(void)) { MB_ORT_GRAPH_SLOTS(ROW) }
