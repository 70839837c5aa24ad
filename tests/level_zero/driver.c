/* SPDX-License-Identifier: Apache-2.0 */
/* See driver.h: the driver, its device and their properties, and what goes wrong on demand. */
#include "level_zero/driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PLATFORMS_MOST = 8, DEVICES_MOST = 8, GROUP_ITEMS = 1024, LOCAL_BYTES = 65536 };
static const uint64_t ticks_per_second = 1000000000;

__attribute__((visibility("default"))) struct test_driver_control test_driver_control;
struct opencl opencl;
static int the_driver, the_device, the_context; /* what handles point to */

ze_result_t driver_injected(const char *name)
{
    struct test_driver_control *c = &test_driver_control;
    if (c->failing_call == NULL || strcmp(name, c->failing_call) != 0)
        return ZE_RESULT_SUCCESS;
    if (c->failing_after > 0) {
        c->failing_after--;
        return ZE_RESULT_SUCCESS;
    }
    return c->failure;
}

ze_result_t driver_complain(ze_result_t code, const char *format, ...)
{
    struct test_driver_control *c = &test_driver_control;
    if (c->complaints++ == 0) {
        va_list list;
        va_start(list, format);
        (void)vsnprintf(c->complaint, sizeof c->complaint, format, list);
        va_end(list);
    }
    return code;
}

/* ---- the OpenCL device ---- */

static bool find_calls(void)
{
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    bool all = library != NULL;
#define FIND(name)                                                                                 \
    *(void **)(void *)&opencl.name = all ? dlsym(library, #name) : NULL;                           \
    all = all && opencl.name != NULL;
    OPENCL_CALLS(FIND)
#undef FIND
    return all;
}

static bool takes_spirv(cl_device_id id)
{
    char versions[256] = "";
    return opencl.clGetDeviceInfo(id, CL_DEVICE_IL_VERSION, sizeof versions - 1, versions, NULL) ==
               CL_SUCCESS &&
           strstr(versions, "SPIR-V") != NULL;
}

static bool open_first(cl_platform_id platform)
{
    cl_device_id devices[DEVICES_MOST];
    cl_uint count = 0;
    if (opencl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, DEVICES_MOST, devices, &count) !=
        CL_SUCCESS)
        return false;
    for (cl_uint i = 0; i < count && i < DEVICES_MOST; i++) {
        cl_int code;
        if (!takes_spirv(devices[i]))
            continue;
        opencl.id = devices[i];
        opencl.context = opencl.clCreateContext(NULL, 1, &devices[i], NULL, NULL, &code);
        if (opencl.context != NULL)
            return true;
    }
    return false;
}

ze_result_t driver_Init(ze_init_flags_t flags)
{
    cl_platform_id platforms[PLATFORMS_MOST];
    cl_uint count = 0;
    (void)flags;
    ENTER("Init");
    if (opencl.context != NULL)
        return ZE_RESULT_SUCCESS;
    if (!find_calls() || opencl.clGetPlatformIDs(PLATFORMS_MOST, platforms, &count) != CL_SUCCESS)
        return ZE_RESULT_ERROR_UNINITIALIZED;
    for (cl_uint i = 0; i < count && i < PLATFORMS_MOST; i++)
        if (open_first(platforms[i]))
            return ZE_RESULT_SUCCESS;
    return ZE_RESULT_ERROR_UNINITIALIZED;
}

static uint64_t opencl_number(cl_device_info what)
{
    cl_ulong value = 0; /* narrower ones fill its low half */
    (void)opencl.clGetDeviceInfo(opencl.id, what, sizeof value, &value, NULL);
    return value;
}

/* ---- lists of one ---- */

static ze_result_t list_one(uint32_t *count, void **at, void *handle)
{
    NEED(count);
    if (*count > 0 && at != NULL)
        at[0] = handle;
    *count = 1;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DriverGet(uint32_t *count, ze_driver_handle_t *drivers)
{
    ENTER("DriverGet");
    return list_one(count, (void **)drivers, &the_driver);
}

ze_result_t driver_DriverGetApiVersion(ze_driver_handle_t driver, ze_api_version_t *version)
{
    ENTER("DriverGetApiVersion");
    NEED(driver);
    NEED(version);
    *version = ZE_API_VERSION_1_3;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DriverGetProperties(ze_driver_handle_t driver,
                                       ze_driver_properties_t *properties)
{
    ENTER("DriverGetProperties");
    NEED(driver);
    NEED(properties);
    properties->driverVersion = 7;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DeviceGet(ze_driver_handle_t driver, uint32_t *count,
                             ze_device_handle_t *devices)
{
    ENTER("DeviceGet");
    NEED(driver);
    NEED(count);
    if (test_driver_control.no_device) {
        *count = 0;
        return ZE_RESULT_SUCCESS;
    }
    return list_one(count, (void **)devices, &the_device);
}

/* ---- properties ---- */

ze_result_t driver_DeviceGetProperties(ze_device_handle_t device,
                                       ze_device_properties_t *properties)
{
    ENTER("DeviceGetProperties");
    NEED(device);
    NEED(properties);
    const struct test_driver_control *c = &test_driver_control;
    const ze_structure_type_t type = properties->stype;
    if (type != ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES_1_2)
        return driver_complain(ZE_RESULT_ERROR_INVALID_ENUMERATION, "DeviceGetProperties: type %x",
                               (unsigned)type);
    *properties = (ze_device_properties_t){
        .stype = type,
        .pNext = properties->pNext,
        .type = c->not_a_gpu ? ZE_DEVICE_TYPE_FPGA : ZE_DEVICE_TYPE_GPU,
        .vendorId = 0x8086,
        .deviceId = 0xc0de,
        .flags = c->is_discrete ? 0 : ZE_DEVICE_PROPERTY_FLAG_INTEGRATED,
        .maxMemAllocSize =
            c->largest_buffer > 0 ? c->largest_buffer : opencl_number(CL_DEVICE_MAX_MEM_ALLOC_SIZE),
        .numThreadsPerEU = 8,
        .physicalEUSimdWidth = 8,
        .numEUsPerSubslice = 8,
        .numSubslicesPerSlice = (uint32_t)opencl_number(CL_DEVICE_MAX_COMPUTE_UNITS),
        .numSlices = 1,
        .timerResolution = ticks_per_second,
        .timestampValidBits = 64,
        .kernelTimestampValidBits = 32,
        .name = "test driver's device, a CPU"};
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DeviceGetComputeProperties(ze_device_handle_t device,
                                              ze_device_compute_properties_t *properties)
{
    ENTER("DeviceGetComputeProperties");
    NEED(device);
    NEED(properties);
    const uint32_t local = test_driver_control.local_bytes;
    *properties =
        (ze_device_compute_properties_t){.stype = properties->stype,
                                         .pNext = properties->pNext,
                                         .maxTotalGroupSize = GROUP_ITEMS,
                                         .maxGroupSizeX = GROUP_ITEMS,
                                         .maxGroupSizeY = GROUP_ITEMS,
                                         .maxGroupSizeZ = GROUP_ITEMS,
                                         .maxGroupCountX = UINT32_MAX,
                                         .maxGroupCountY = UINT32_MAX,
                                         .maxGroupCountZ = UINT32_MAX,
                                         .maxSharedLocalMemory = local > 0 ? local : LOCAL_BYTES,
                                         .numSubGroupSizes = 2,
                                         .subGroupSizes = {8, 16}};
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DeviceGetModuleProperties(ze_device_handle_t device,
                                             ze_device_module_properties_t *properties)
{
    ENTER("DeviceGetModuleProperties");
    NEED(device);
    NEED(properties);
    properties->spirvVersionSupported = ZE_MAKE_VERSION(1, 2);
    properties->flags = ZE_DEVICE_MODULE_FLAG_FP16;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DeviceGetMemoryProperties(ze_device_handle_t device, uint32_t *count,
                                             ze_device_memory_properties_t *properties)
{
    ENTER("DeviceGetMemoryProperties");
    NEED(device);
    NEED(count);
    if (*count > 0 && properties != NULL)
        properties->totalSize = opencl_number(CL_DEVICE_GLOBAL_MEM_SIZE);
    *count = 1;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_DeviceGetCacheProperties(ze_device_handle_t device, uint32_t *count,
                                            ze_device_cache_properties_t *properties)
{
    ENTER("DeviceGetCacheProperties");
    NEED(device);
    NEED(count);
    if (*count > 0 && properties != NULL)
        properties->cacheSize = 1 << 20;
    *count = 1;
    return ZE_RESULT_SUCCESS;
}

/* One that only copies stands before the one that computes. */
ze_result_t
driver_DeviceGetCommandQueueGroupProperties(ze_device_handle_t device, uint32_t *count,
                                            ze_command_queue_group_properties_t *properties)
{
    ENTER("DeviceGetCommandQueueGroupProperties");
    NEED(device);
    NEED(count);
    for (uint32_t i = 0; i < 2 && i < *count && properties != NULL; i++) {
        properties[i].flags = i == 0 ? ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY
                                     : ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY |
                                           ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE;
        properties[i].numQueues = 1;
    }
    *count = 2;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ContextCreate(ze_driver_handle_t driver, const ze_context_desc_t *desc,
                                 ze_context_handle_t *context)
{
    ENTER("ContextCreate");
    NEED(driver);
    NEED(desc);
    NEED(context);
    *context = (ze_context_handle_t)(void *)&the_context;
    test_driver_control.live[LIVE_CONTEXT]++;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ContextDestroy(ze_context_handle_t context)
{
    ENTER("ContextDestroy");
    NEED(context);
    test_driver_control.live[LIVE_CONTEXT]--;
    return ZE_RESULT_SUCCESS;
}
