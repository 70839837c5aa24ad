/* SPDX-License-Identifier: Apache-2.0 */
/* See driver.h: the tables that the loader asks for. It wants every one of them to be there; what
 * is not set in one is unsupported. */
#include "level_zero/driver.h"

#include <level_zero/zes_ddi.h>
#include <level_zero/zet_ddi.h>

/* Tables only grow at the end, so any 1.x that has what is set here will do. */
#define TABLE(getter, type, ...)                                                                   \
    ZE_DLLEXPORT ze_result_t ZE_APICALL getter(ze_api_version_t version, type *table)              \
    {                                                                                              \
        if (table == NULL)                                                                         \
            return ZE_RESULT_ERROR_INVALID_NULL_POINTER;                                           \
        if (ZE_MAJOR_VERSION(version) != 1 || ZE_MINOR_VERSION(version) < 3)                       \
            return ZE_RESULT_ERROR_UNSUPPORTED_VERSION;                                            \
        __VA_ARGS__                                                                                \
        return ZE_RESULT_SUCCESS;                                                                  \
    }
#define SET(group, field) table->pfn##field = driver_##group##field;
#define EMPTY(group, name) TABLE(ze##group##ProcAddrTable, name##_dditable_t, )

TABLE(zeGetGlobalProcAddrTable, ze_global_dditable_t, SET(, Init))
TABLE(zeGetDriverProcAddrTable, ze_driver_dditable_t,
      SET(Driver, Get) SET(Driver, GetApiVersion) SET(Driver, GetProperties))
TABLE(zeGetDeviceProcAddrTable, ze_device_dditable_t,
      SET(Device, Get) SET(Device, GetProperties) SET(Device, GetComputeProperties)
          SET(Device, GetModuleProperties) SET(Device, GetMemoryProperties)
              SET(Device, GetCacheProperties) SET(Device, GetCommandQueueGroupProperties))
TABLE(zeGetContextProcAddrTable, ze_context_dditable_t, SET(Context, Create) SET(Context, Destroy))
TABLE(zeGetMemProcAddrTable, ze_mem_dditable_t,
      SET(Mem, AllocDevice) SET(Mem, AllocShared) SET(Mem, AllocHost) SET(Mem, Free))
TABLE(zeGetCommandQueueProcAddrTable, ze_command_queue_dditable_t,
      SET(CommandQueue, Create) SET(CommandQueue, Destroy) SET(CommandQueue, ExecuteCommandLists)
          SET(CommandQueue, Synchronize))
TABLE(zeGetCommandListProcAddrTable, ze_command_list_dditable_t,
      SET(CommandList, Create) SET(CommandList, Destroy) SET(CommandList, Close)
          SET(CommandList, Reset) SET(CommandList, AppendBarrier) SET(CommandList, AppendMemoryCopy)
              SET(CommandList, AppendLaunchKernel))
TABLE(zeGetEventPoolProcAddrTable, ze_event_pool_dditable_t,
      SET(EventPool, Create) SET(EventPool, Destroy))
TABLE(zeGetEventProcAddrTable, ze_event_dditable_t,
      SET(Event, Create) SET(Event, Destroy) SET(Event, HostReset) SET(Event, QueryKernelTimestamp))
TABLE(zeGetModuleProcAddrTable, ze_module_dditable_t, SET(Module, Create) SET(Module, Destroy))
TABLE(zeGetModuleBuildLogProcAddrTable, ze_module_build_log_dditable_t,
      SET(ModuleBuildLog, GetString) SET(ModuleBuildLog, Destroy))
TABLE(zeGetKernelProcAddrTable, ze_kernel_dditable_t,
      SET(Kernel, Create) SET(Kernel, Destroy) SET(Kernel, SetGroupSize)
          SET(Kernel, SetArgumentValue) SET(Kernel, GetProperties))

EMPTY(GetImage, ze_image)
EMPTY(GetFence, ze_fence)
EMPTY(GetSampler, ze_sampler)
EMPTY(GetPhysicalMem, ze_physical_mem)
EMPTY(GetVirtualMem, ze_virtual_mem)
EMPTY(tGetDevice, zet_device)
EMPTY(tGetContext, zet_context)
EMPTY(tGetCommandList, zet_command_list)
EMPTY(tGetModule, zet_module)
EMPTY(tGetKernel, zet_kernel)
EMPTY(tGetMetricGroup, zet_metric_group)
EMPTY(tGetMetric, zet_metric)
EMPTY(tGetMetricStreamer, zet_metric_streamer)
EMPTY(tGetMetricQueryPool, zet_metric_query_pool)
EMPTY(tGetMetricQuery, zet_metric_query)
EMPTY(tGetDebug, zet_debug)
EMPTY(GetDeviceExp, ze_device_exp)
EMPTY(GetEventExp, ze_event_exp)
EMPTY(GetImageExp, ze_image_exp)
EMPTY(GetKernelExp, ze_kernel_exp)
EMPTY(GetFabricEdgeExp, ze_fabric_edge_exp)
EMPTY(GetFabricVertexExp, ze_fabric_vertex_exp)
EMPTY(tGetMetricGroupExp, zet_metric_group_exp)
EMPTY(tGetTracerExp, zet_tracer_exp)
EMPTY(sGetDriver, zes_driver)
EMPTY(sGetDevice, zes_device)
EMPTY(sGetScheduler, zes_scheduler)
EMPTY(sGetPerformanceFactor, zes_performance_factor)
EMPTY(sGetPower, zes_power)
EMPTY(sGetFrequency, zes_frequency)
EMPTY(sGetEngine, zes_engine)
EMPTY(sGetStandby, zes_standby)
EMPTY(sGetFirmware, zes_firmware)
EMPTY(sGetMemory, zes_memory)
EMPTY(sGetFabricPort, zes_fabric_port)
EMPTY(sGetTemperature, zes_temperature)
EMPTY(sGetPsu, zes_psu)
EMPTY(sGetFan, zes_fan)
EMPTY(sGetLed, zes_led)
EMPTY(sGetRas, zes_ras)
EMPTY(sGetDiagnostics, zes_diagnostics)
