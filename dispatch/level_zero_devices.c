/* SPDX-License-Identifier: Apache-2.0 */
/* Which Level Zero devices there are, and what is worth knowing of each: every GPU of every driver,
 * numbered in the loader's order. A GPU of several tiles is one device; its driver spreads work. */
#ifdef MIXBIT_LEVEL_ZERO
#include "dispatch/level_zero_api.h"
#include "support/support.h"

#include <stdio.h>
#include <string.h>

enum { DEVICES_MOST = 32, DRIVERS_MOST = 8, MEMORIES_MOST = 8, CACHES_MOST = 8, INTEL = 0x8086 };

struct found {
    size_t count;
    uint32_t drivers;
    struct mb_level_zero_device at[DEVICES_MOST];
};

static bool is_gpu(const struct mb_level_zero_api *ze, struct mb_level_zero_device *device)
{
    /* Of this version timerResolution is ticks per second. */
    device->properties = (ze_device_properties_t){.stype = ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES_1_2};
    device->compute =
        (ze_device_compute_properties_t){.stype = ZE_STRUCTURE_TYPE_DEVICE_COMPUTE_PROPERTIES};
    return ze->DeviceGetProperties(device->id, &device->properties) == ZE_RESULT_SUCCESS &&
           device->properties.type == ZE_DEVICE_TYPE_GPU &&
           ze->DeviceGetComputeProperties(device->id, &device->compute) == ZE_RESULT_SUCCESS;
}

static void find_of_driver(const struct mb_level_zero_api *ze, ze_driver_handle_t driver,
                           struct found *found)
{
    ze_device_handle_t ids[DEVICES_MOST];
    uint32_t count = DEVICES_MOST;
    if (ze->DeviceGet(driver, &count, ids) != ZE_RESULT_SUCCESS)
        return;
    for (uint32_t i = 0; i < count && found->count < DEVICES_MOST; i++) {
        struct mb_level_zero_device *device = &found->at[found->count];
        *device = (struct mb_level_zero_device){.ze = ze, .driver = driver, .id = ids[i]};
        found->count += is_gpu(ze, device);
    }
}

static enum mb_status find_devices(struct found *found, struct mb_error *error)
{
    const struct mb_level_zero_api *ze;
    ze_driver_handle_t drivers[DRIVERS_MOST];
    found->count = 0;
    found->drivers = DRIVERS_MOST;
    const enum mb_status status = mb_level_zero_api(&ze, error);
    if (status != MB_OK)
        return status;
    const ze_result_t code = ze->DriverGet(&found->drivers, drivers);
    if (code != ZE_RESULT_SUCCESS || found->drivers == 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "the Level Zero loader lists no driver (%s)",
                            code != ZE_RESULT_SUCCESS ? mb_level_zero_error_name(code) : "none");
    for (uint32_t i = 0; i < found->drivers && i < DRIVERS_MOST; i++)
        find_of_driver(ze, drivers[i], found);
    return found->count > 0
               ? MB_OK
               : mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "%u Level Zero driver%s without a GPU",
                              found->drivers, found->drivers == 1 ? "" : "s");
}

enum mb_status mb_level_zero_find(size_t index, struct mb_level_zero_device *device,
                                  struct mb_error *error)
{
    struct found found;
    const enum mb_status status = find_devices(&found, error);
    if (status != MB_OK)
        return status;
    if (index >= found.count)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "there is no level-zero:%zu: %zu device%s found", index, found.count,
                            found.count == 1 ? "" : "s");
    *device = found.at[index];
    return MB_OK;
}

enum mb_status mb_level_zero_list(size_t *count, struct mb_error *error)
{
    struct found found;
    const enum mb_status status = find_devices(&found, error);
    *count = status == MB_OK ? found.count : 0;
    return status;
}

size_t mb_level_zero_units(const struct mb_level_zero_device *device)
{
    return (size_t)device->properties.numSlices * device->properties.numSubslicesPerSlice;
}

/* "level-zero gpu integrated fp16 dp4a subgroups-8 subgroups-16" */
static void describe_features(const struct mb_level_zero_device *device, char *text, size_t bytes)
{
    ze_device_module_properties_t module = {.stype = ZE_STRUCTURE_TYPE_DEVICE_MODULE_PROPERTIES};
    if (device->ze->DeviceGetModuleProperties(device->id, &module) != ZE_RESULT_SUCCESS)
        module.flags = 0;
    const bool integrated = (device->properties.flags & ZE_DEVICE_PROPERTY_FLAG_INTEGRATED) != 0;
    size_t used = (size_t)snprintf(text, bytes, "level-zero gpu %s%s%s",
                                   integrated ? "integrated" : "discrete",
                                   (module.flags & ZE_DEVICE_MODULE_FLAG_FP16) != 0 ? " fp16" : "",
                                   (module.flags & ZE_DEVICE_MODULE_FLAG_DP4A) != 0 ? " dp4a" : "");
    for (uint32_t i = 0; i < device->compute.numSubGroupSizes && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, " subgroups-%u",
                                 device->compute.subGroupSizes[i]);
}

static uint64_t memory_bytes(const struct mb_level_zero_device *device)
{
    ze_device_memory_properties_t memories[MEMORIES_MOST];
    uint32_t count = MEMORIES_MOST;
    uint64_t total = 0;
    for (size_t i = 0; i < MEMORIES_MOST; i++)
        memories[i] =
            (ze_device_memory_properties_t){.stype = ZE_STRUCTURE_TYPE_DEVICE_MEMORY_PROPERTIES};
    if (device->ze->DeviceGetMemoryProperties(device->id, &count, memories) != ZE_RESULT_SUCCESS)
        return 0;
    for (uint32_t i = 0; i < count && i < MEMORIES_MOST; i++)
        total += memories[i].totalSize;
    return total;
}

/* The largest: an L2, or what stands for one. */
static uint64_t cache_bytes(const struct mb_level_zero_device *device)
{
    ze_device_cache_properties_t caches[CACHES_MOST];
    uint32_t count = CACHES_MOST;
    uint64_t most = 0;
    for (size_t i = 0; i < CACHES_MOST; i++)
        caches[i] =
            (ze_device_cache_properties_t){.stype = ZE_STRUCTURE_TYPE_DEVICE_CACHE_PROPERTIES};
    if (device->ze->DeviceGetCacheProperties(device->id, &count, caches) != ZE_RESULT_SUCCESS)
        return 0;
    for (uint32_t i = 0; i < count && i < CACHES_MOST; i++)
        most = caches[i].cacheSize > most ? caches[i].cacheSize : most;
    return most;
}

static void describe_driver(const struct mb_level_zero_device *device, char *text, size_t bytes)
{
    ze_driver_properties_t driver = {.stype = ZE_STRUCTURE_TYPE_DRIVER_PROPERTIES};
    ze_api_version_t version = 0;
    (void)device->ze->DriverGetProperties(device->driver, &driver);
    (void)device->ze->DriverGetApiVersion(device->driver, &version);
    (void)snprintf(text, bytes, "Level Zero %u.%u, driver %u", ZE_MAJOR_VERSION(version),
                   ZE_MINOR_VERSION(version), driver.driverVersion);
}

/* A profile is of this device when name, vendor, id and size agree; the driver makes it stale. */
enum mb_status mb_level_zero_describe(size_t index, struct mb_device_info *info,
                                      struct mb_error *error)
{
    struct mb_level_zero_device device;
    struct mb_device_info cpu = {.size = sizeof cpu};
    enum mb_status status = mb_level_zero_find(index, &device, error);
    if (status == MB_OK && info->size != sizeof *info)
        status = MB_ERR_ARGUMENT;
    if (status != MB_OK)
        return status;
    const ze_device_properties_t *of = &device.properties;
    *info = (struct mb_device_info){.size = sizeof *info,
                                    .backend = "level-zero",
                                    .family = of->deviceId,
                                    .cores = mb_level_zero_units(&device),
                                    .core_kinds = 1};
    (void)snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, of->name);
    if (of->vendorId == INTEL)
        (void)snprintf(info->vendor, sizeof info->vendor, "Intel");
    else
        (void)snprintf(info->vendor, sizeof info->vendor, "vendor 0x%04x", of->vendorId);
    describe_features(&device, info->features, sizeof info->features);
    describe_driver(&device, info->os, sizeof info->os);
    info->threads = info->cores;
    info->kinds[0].cores = info->cores;
    (void)snprintf(info->kinds[0].name, sizeof info->kinds[0].name, "compute unit");
    info->l2_bytes = (size_t)cache_bytes(&device);
    info->memory_bytes = (size_t)memory_bytes(&device);
    if (mb_device_info(&cpu) == MB_OK)
        (void)snprintf(info->build, sizeof info->build, "%s", cpu.build);
    char text[1024];
    (void)snprintf(text, sizeof text, "level-zero/%s/%s/%s/%u/%zu/%zu", info->vendor, info->name,
                   info->features, info->family, info->cores, info->l2_bytes);
    mb_hash_bytes(text, strlen(text), info->key);
    return MB_OK;
}
#else
typedef int mb_level_zero_devices_are_not_in_this_build; /* C wants a declaration in every file */
#endif
