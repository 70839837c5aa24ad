/* SPDX-License-Identifier: Apache-2.0 */
/* Which nodes of a graph the provider takes: MatMulNBits whose weights are constants of the graph
 * itself, and that pass the very checks that creating a kernel makes. Everything else is left to
 * the host, which has a kernel of its own for it; the log says why (at the level of information,
 * which is not shown unless asked for). */
#include "provider.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A node of the graph and what its inputs are. */
struct candidate {
    const struct mb_ort_provider *provider;
    const struct ort_node *node;
    const char *name;
    const struct ort_value_info *inputs[MB_ORT_INPUTS]; /* NULL: left out */
};

static bool is_matmul(const struct mb_ort_provider_host *host, const struct ort_node *node)
{
    const char *type = NULL, *domain = NULL;
    return mb_ort_succeeds(&host->api, host->graph.Node_GetOperatorType(node, &type)) &&
           mb_ort_succeeds(&host->api, host->graph.Node_GetDomain(node, &domain)) && type != NULL &&
           domain != NULL && strcmp(type, "MatMulNBits") == 0 &&
           strcmp(domain, "com.microsoft") == 0;
}

static struct ort_status *read_candidate(struct candidate *c)
{
    const struct mb_ort_provider_host *host = c->provider->host;
    size_t count = 0;
    struct ort_status *status = host->graph.Node_GetName(c->node, &c->name);
    c->name = status == NULL && c->name != NULL ? c->name : "";
    if (status == NULL)
        status = host->graph.Node_GetNumInputs(c->node, &count);
    if (status == NULL && count > MB_ORT_INPUTS)
        status = mb_ort_error(&host->api, ORT_NOT_IMPLEMENTED, "MatMulNBits '%s' has %zu inputs",
                              c->name, count);
    return status != NULL ? status : host->graph.Node_GetInputs(c->node, c->inputs, count);
}

static bool read_integer(const struct mb_ort_source *source, const char *name, int64_t *value)
{
    const struct candidate *c = source->from;
    const struct ort_graph_api *graph = &c->provider->host->graph;
    const struct ort_attribute *attribute = NULL;
    size_t bytes = 0;
    return mb_ort_succeeds(source->api,
                           graph->Node_GetAttributeByName(c->node, name, &attribute)) &&
           attribute != NULL &&
           mb_ort_succeeds(source->api, graph->ReadOpAttr(attribute, ORT_ATTRIBUTE_INTEGER, value,
                                                          sizeof *value, &bytes));
}

/* An input that may be missing. A constant is described; another is an error where it `has_to_be`
 * one. Constants of an outer graph are none to a kernel, up to version 1.28 at least. */
static struct ort_status *read_input(const struct candidate *c, size_t index, bool has_to_be,
                                     struct mb_ort_tensor *tensor)
{
    const struct mb_ort_provider_host *host = c->provider->host;
    const struct ort_value_info *info = c->inputs[index];
    const struct ort_value *value = NULL;
    bool is_constant = false, is_outer = false;
    *tensor = (struct mb_ort_tensor){.value = NULL};
    if (info == NULL)
        return NULL;
    struct ort_status *status = host->graph.ValueInfo_IsConstantInitializer(info, &is_constant);
    if (status == NULL)
        status = host->graph.ValueInfo_IsFromOuterScope(info, &is_outer);
    if (status == NULL && (!is_constant || is_outer))
        return !has_to_be ? NULL
                          : mb_ort_error(&host->api, ORT_NOT_IMPLEMENTED,
                                         "MatMulNBits '%s': input %zu is no constant of its graph",
                                         c->name, index);
    if (status == NULL)
        status = host->graph.ValueInfo_GetInitializerValue(info, &value);
    return status != NULL || value == NULL ? status : mb_ort_describe(&host->api, value, tensor);
}

/* Why a node is not served; NULL: it is. */
static struct ort_status *judge(struct candidate *c)
{
    const struct ort_api *api = &c->provider->host->api;
    struct mb_ort_node node;
    struct mb_ort_inputs inputs;
    struct mb_ort_tensor bias;
    struct mb_ort_tensor *const weights[] = {&inputs.b, &inputs.scales, &inputs.zero_points,
                                             &inputs.groups};
    struct ort_status *status = read_candidate(c);
    for (size_t i = 0; i < sizeof weights / sizeof *weights && status == NULL; i++)
        status = read_input(c, MB_ORT_B + i, true, weights[i]);
    if (status == NULL)
        status = read_input(c, MB_ORT_BIAS, false, &bias);
    if (status != NULL)
        return status;
    const int type = inputs.scales.type; /* that of activations, by the operator's definition */
    if (type != ORT_TYPE_FLOAT && type != ORT_TYPE_FLOAT16)
        return mb_ort_error(api, ORT_NOT_IMPLEMENTED, "MatMulNBits '%s': element type %d", c->name,
                            type);
    const struct mb_ort_source source = {c->name, api, c, read_integer};
    status = mb_ort_read_node(api, &source, type, c->provider->wish, &node);
    if (status == NULL)
        status = mb_ort_check_inputs(api, &node, &inputs);
    return status != NULL || bias.value == NULL ? status : mb_ort_check_bias(api, &node, &bias);
}

static void log_left(const struct mb_ort_provider *provider, const struct ort_status *why)
{
    const struct ort_api *api = &provider->host->api;
    char text[3 * MB_ORT_TEXT];
    (void)snprintf(text, sizeof text, "mixbit leaves a node to the host: %s",
                   api->GetErrorMessage(why));
    (void)mb_ort_succeeds(api, api->Logger_LogMessage(provider->logger, ORT_LOG_INFO, text,
                                                      "mixbit", 0, "MatMulNBits"));
}

static struct ort_status *claim(const struct mb_ort_provider *provider, const struct ort_node *node,
                                struct ort_support *support)
{
    const struct mb_ort_provider_host *host = provider->host;
    const struct ort_definition *definition = NULL;
    struct candidate c = {.provider = provider, .node = node};
    struct ort_status *why = judge(&c);
    if (why != NULL) {
        log_left(provider, why);
        host->api.ReleaseStatus(why);
        return NULL;
    }
    /* Without a kernel for it the host would not make the session. */
    struct ort_status *status =
        host->provider.EpGraphSupportInfo_LookUpKernel(support, node, &definition);
    return status != NULL || definition == NULL
               ? status
               : host->provider.EpGraphSupportInfo_AddSingleNode(support, node);
}

struct ort_status *mb_ort_claim_nodes(const struct mb_ort_provider *provider,
                                      const struct ort_graph *graph, struct ort_support *support)
{
    const struct mb_ort_provider_host *host = provider->host;
    size_t count = 0;
    struct ort_status *status = host->graph.Graph_GetNumNodes(graph, &count);
    if (status != NULL || count == 0)
        return status;
    const struct ort_node **nodes = calloc(count, sizeof *nodes);
    if (nodes == NULL)
        return mb_ort_error(&host->api, ORT_FAIL, "mixbit: out of memory");
    status = host->graph.Graph_GetNodes(graph, nodes, count);
    for (size_t i = 0; i < count && status == NULL; i++)
        if (is_matmul(host, nodes[i]))
            status = claim(provider, nodes[i], support);
    free(nodes);
    return status;
}
