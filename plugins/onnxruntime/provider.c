/* SPDX-License-Identifier: Apache-2.0 */
/* An execution provider for ONNX Runtime, on the CPU beside the built-in one:
 *
 *   onnxruntime.register_execution_provider_library("mixbit", "libonnxruntime-mixbit.so")
 *
 * It takes the nodes that it serves (capability.c) and packs their weights (registry.c). Tensors
 * lie in the host's memory, so there is nothing to allocate, to copy or to wait for. */
#include "provider.h"
#include "settings.h"

#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT struct ort_status *CreateEpFactories(const char *name, const struct ort_base *base,
                                            const struct ort_logger *logger,
                                            struct ort_factory **factories, size_t most,
                                            size_t *count);
EXPORT struct ort_status *ReleaseEpFactory(struct ort_factory *factory);

struct factory {
    struct ort_factory table; /* first: the host hands out pointers to it */
    struct mb_ort_provider_host host;
};

/* ---- the provider of a session --------------------------------------------------------------- */

static const char *provider_name(const struct ort_provider *table)
{
    (void)table;
    return MB_ORT_PROVIDER;
}

static struct ort_status *get_capability(struct ort_provider *table, const struct ort_graph *graph,
                                         struct ort_support *support)
{
    return mb_ort_claim_nodes((const struct mb_ort_provider *)(void *)table, graph, support);
}

static struct ort_status *get_kernel_registry(struct ort_provider *table,
                                              const struct ort_registry **registry)
{
    *registry = ((const struct mb_ort_provider *)(void *)table)->registry;
    return NULL;
}

static void release_provider(struct ort_factory *factory, struct ort_provider *table)
{
    struct mb_ort_provider *provider = (struct mb_ort_provider *)(void *)table;
    (void)factory;
    if (provider != NULL && provider->registry != NULL)
        provider->host->provider.ReleaseKernelRegistry(provider->registry);
    free(provider);
}

/* Whether the session does without the step in which weights are packed. */
static struct ort_status *read_packs_early(const struct ort_api *api,
                                           const struct ort_session_options *options, bool *early)
{
    static const char key[] = "session.disable_prepacking";
    char text[8] = "";
    size_t bytes = sizeof text;
    int has = 0;
    struct ort_status *status = api->HasSessionConfigEntry(options, key, &has);
    if (status == NULL && has != 0)
        status = api->GetSessionConfigEntry(options, key, text, &bytes);
    *early = strcmp(text, "1") == 0;
    return status;
}

static struct ort_status *create_provider(struct ort_factory *factory,
                                          const struct ort_device *const *devices,
                                          const struct ort_pairs *const *metadata, size_t count,
                                          const struct ort_session_options *options,
                                          const struct ort_logger *logger,
                                          struct ort_provider **created)
{
    const struct mb_ort_provider_host *host = &((const struct factory *)(void *)factory)->host;
    struct mb_ort_provider *provider = calloc(1, sizeof *provider);
    (void)devices;
    (void)metadata;
    (void)count;
    *created = NULL;
    if (provider == NULL)
        return mb_ort_error(&host->api, ORT_FAIL, "mixbit: out of memory");
    provider->table = (struct ort_provider){.version = ORT_PROVIDER_VERSION,
                                            .get_name = provider_name,
                                            .get_capability = get_capability,
                                            .get_kernel_registry = get_kernel_registry};
    provider->host = host;
    provider->logger = logger;
    /* Where the host puts an option of a provider among the session's entries. */
    struct ort_status *status = mb_ort_read_accuracy(
        &host->api, options, "ep.mixbitexecutionprovider.accuracy", &provider->wish);
    if (status == NULL)
        status = read_packs_early(&host->api, options, &provider->packs_early);
    if (status == NULL)
        status = mb_ort_make_registry(provider);
    if (status == NULL)
        *created = &provider->table;
    else
        release_provider(factory, &provider->table);
    return status;
}

/* ---- the factory ----------------------------------------------------------------------------- */

static const char *factory_name(const struct ort_factory *factory)
{
    (void)factory;
    return MB_ORT_PROVIDER;
}

static const char *get_vendor(const struct ort_factory *factory)
{
    (void)factory;
    return "mixbit";
}

static uint32_t get_vendor_id(const struct ort_factory *factory)
{
    (void)factory;
    return 0; /* of no maker of devices */
}

static const char *get_version(const struct ort_factory *factory)
{
    (void)factory;
    return mb_version();
}

static struct ort_status *get_supported_devices(struct ort_factory *factory,
                                                const struct ort_device *const *devices,
                                                size_t count,
                                                struct ort_provider_device **provider_devices,
                                                size_t most, size_t *found)
{
    const struct mb_ort_provider_host *host = &((const struct factory *)(void *)factory)->host;
    struct ort_status *status = NULL;
    *found = 0;
    for (size_t i = 0; i < count && *found < most && status == NULL; i++) {
        if (host->graph.HardwareDevice_Type(devices[i]) != ORT_DEVICE_CPU)
            continue;
        status = host->provider.CreateEpDevice(factory, devices[i], NULL, NULL,
                                               &provider_devices[*found]);
        *found += status == NULL;
    }
    return status;
}

static struct ort_status *create_data_transfer(struct ort_factory *factory,
                                               struct ort_transfer **transfer)
{
    (void)factory;
    *transfer = NULL;
    return NULL;
}

static bool is_stream_aware(const struct ort_factory *factory)
{
    (void)factory;
    return false;
}

/* Some members have to be there though they say nothing: hosts call them without a look. */
static const struct ort_factory factory_table = {
    .version = ORT_PROVIDER_VERSION,
    .get_name = factory_name,
    .get_vendor = get_vendor,
    .get_supported_devices = get_supported_devices,
    .create_provider = create_provider,
    .release_provider = release_provider,
    .get_vendor_id = get_vendor_id,
    .get_version = get_version,
    .create_data_transfer = create_data_transfer,
    .is_stream_aware = is_stream_aware,
};

/* The tables of a host of a version that is new enough. */
static struct ort_status *bind(struct mb_ort_provider_host *host)
{
    const char *missing = mb_ort_bind_graph(host->table, &host->graph);
    if (missing == NULL) {
        const struct ort_provider_table *table = host->graph.GetEpApi();
        missing = table == NULL ? "the interface for providers"
                                : mb_ort_bind_provider(table, &host->provider);
    }
    return missing == NULL ? mb_ort_try_product(&host->api)
                           : mb_ort_error(&host->api, ORT_NOT_IMPLEMENTED,
                                          "mixbit's execution provider can't be used: this build "
                                          "of ONNX Runtime lacks %s",
                                          missing);
}

struct ort_status *CreateEpFactories(const char *name, const struct ort_base *base,
                                     const struct ort_logger *logger,
                                     struct ort_factory **factories, size_t most, size_t *count)
{
    struct mb_ort_provider_host host;
    (void)name;
    (void)logger;
    *count = 0;
    struct ort_status *status = mb_ort_connect(
        base, ORT_PROVIDER_VERSION, "mixbit's execution provider", &host.table, &host.api);
    if (status == NULL)
        status = bind(&host);
    if (status != NULL)
        return status;
    struct factory *factory = most > 0 ? calloc(1, sizeof *factory) : NULL;
    if (factory == NULL)
        return mb_ort_error(&host.api, ORT_FAIL, "mixbit: out of memory");
    *factory = (struct factory){.table = factory_table, .host = host};
    factories[0] = &factory->table;
    *count = 1;
    return NULL;
}

struct ort_status *ReleaseEpFactory(struct ort_factory *factory)
{
    free(factory);
    return NULL;
}
