/* SPDX-License-Identifier: Apache-2.0 */
/* The Level Zero loader, opened at run time: a machine without one just has no such device.
 *
 * Calls are those of version 1.3, which Debian's loader and every driver since 2022 have.
 * MIXBIT_LEVEL_ZERO names another library than libze_loader.so.1. */
#ifndef MIXBIT_DISPATCH_LEVEL_ZERO_API_H
#define MIXBIT_DISPATCH_LEVEL_ZERO_API_H

#include <level_zero/ze_api.h>

#include "mixbit/device.h"

#include <stdbool.h>

/* row(verb): what follows "ze" in a name. */
#define MB_LEVEL_ZERO_CALLS(row)                                                                   \
    row(Init) row(DriverGet) row(DriverGetApiVersion) row(DriverGetProperties) row(DeviceGet) row( \
        DeviceGetProperties) row(DeviceGetComputeProperties) row(DeviceGetModuleProperties)        \
        row(DeviceGetMemoryProperties) row(DeviceGetCacheProperties)                               \
            row(DeviceGetCommandQueueGroupProperties) row(ContextCreate) row(ContextDestroy) row(  \
                CommandQueueCreate) row(CommandQueueDestroy) row(CommandQueueExecuteCommandLists)  \
                row(CommandQueueSynchronize) row(CommandListCreate) row(CommandListDestroy)        \
                    row(CommandListClose) row(CommandListReset) row(CommandListAppendBarrier)      \
                        row(CommandListAppendMemoryCopy) row(CommandListAppendLaunchKernel)        \
                            row(EventPoolCreate) row(EventPoolDestroy) row(EventCreate)            \
                                row(EventDestroy) row(EventHostReset)                              \
                                    row(EventQueryKernelTimestamp) row(MemAllocDevice)             \
                                        row(MemAllocShared) row(MemAllocHost) row(MemFree)         \
                                            row(ModuleCreate) row(ModuleDestroy)                   \
                                                row(ModuleBuildLogGetString)                       \
                                                    row(ModuleBuildLogDestroy) row(KernelCreate)   \
                                                        row(KernelDestroy) row(KernelSetGroupSize) \
                                                            row(KernelSetArgumentValue)            \
                                                                row(KernelGetProperties)

struct mb_level_zero_api {
#define MB_LEVEL_ZERO_MEMBER(verb) __typeof__(ze##verb) *verb;
    MB_LEVEL_ZERO_CALLS(MB_LEVEL_ZERO_MEMBER)
#undef MB_LEVEL_ZERO_MEMBER
};

/* The calls, found and initialised once per process. MB_ERR_UNSUPPORTED and why there are none;
 * after a failed zeInit nothing may be called, so then there are none either. */
enum mb_status mb_level_zero_api(const struct mb_level_zero_api **api, struct mb_error *error);
/* "ZE_RESULT_ERROR_DEVICE_LOST", or the number. */
const char *mb_level_zero_error_name(ze_result_t code);

/* ---- devices (level_zero_devices.c): list and describe as backend.h has them ---- */

struct mb_level_zero_device {
    const struct mb_level_zero_api *ze;
    ze_driver_handle_t driver;
    ze_device_handle_t id;
    ze_device_properties_t properties;
    ze_device_compute_properties_t compute;
};

enum mb_status mb_level_zero_list(size_t *count, struct mb_error *error);
enum mb_status mb_level_zero_describe(size_t index, struct mb_device_info *info,
                                      struct mb_error *error);
/* The index-th GPU; MB_ERR_ARGUMENT when there are fewer. */
enum mb_status mb_level_zero_find(size_t index, struct mb_level_zero_device *device,
                                  struct mb_error *error);
/* Groups that run at once: Xe cores. */
size_t mb_level_zero_units(const struct mb_level_zero_device *device);

#endif
