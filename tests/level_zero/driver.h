/* SPDX-License-Identifier: Apache-2.0 */
/* A Level Zero driver for tests: the real loader opens it, and it runs SPIR-V on an OpenCL device
 * that takes SPIR-V, a CPU. It reports one GPU and is stricter than one:
 *
 *   - nothing runs before somebody waits, and commands that no barrier parts run in reverse order;
 *   - memory of a discrete device cannot be touched by the host, and new memory holds 0xa5;
 *   - what is not in live memory, not closed, not set or not there is an error and a complaint.
 *
 * Only what dispatch/level_zero_api.h lists is here; the loader answers for the rest. */
#ifndef MIXBIT_TESTS_LEVEL_ZERO_DRIVER_H
#define MIXBIT_TESTS_LEVEL_ZERO_DRIVER_H

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include "level_zero/control.h"

#include <level_zero/ze_ddi.h>

/* row(group, field): zeDeviceGet is (Device, Get). */
#define DRIVER_CALLS(row)                                                                          \
    row(, Init) row(Driver, Get) row(Driver, GetApiVersion) row(Driver, GetProperties)             \
        row(Device, Get) row(Device, GetProperties) row(Device, GetComputeProperties) row(         \
            Device, GetModuleProperties) row(Device, GetMemoryProperties)                          \
            row(Device, GetCacheProperties) row(Device, GetCommandQueueGroupProperties) row(       \
                Context, Create) row(Context, Destroy) row(Mem, AllocDevice) row(Mem, AllocShared) \
                row(Mem, AllocHost) row(Mem, Free) row(CommandQueue, Create)                       \
                    row(CommandQueue, Destroy) row(CommandQueue, ExecuteCommandLists)              \
                        row(CommandQueue, Synchronize) row(CommandList, Create) row(               \
                            CommandList, Destroy) row(CommandList, Close) row(CommandList, Reset)  \
                            row(CommandList, AppendBarrier) row(CommandList, AppendMemoryCopy)     \
                                row(CommandList, AppendLaunchKernel) row(EventPool, Create)        \
                                    row(EventPool, Destroy) row(Event, Create) row(Event, Destroy) \
                                        row(Event, HostReset) row(Event, QueryKernelTimestamp)     \
                                            row(Module, Create) row(Module, Destroy)               \
                                                row(ModuleBuildLog, GetString)                     \
                                                    row(ModuleBuildLog, Destroy)                   \
                                                        row(Kernel, Create) row(Kernel, Destroy)   \
                                                            row(Kernel, SetGroupSize)              \
                                                                row(Kernel, SetArgumentValue)      \
                                                                    row(Kernel, GetProperties)
#define DRIVER_PROTOTYPE(group, field) __typeof__(ze##group##field) driver_##group##field;
DRIVER_CALLS(DRIVER_PROTOTYPE)
#undef DRIVER_PROTOTYPE

#define OPENCL_CALLS(row)                                                                          \
    row(clGetPlatformIDs) row(clGetDeviceIDs) row(clGetDeviceInfo) row(clCreateContext)            \
        row(clCreateCommandQueueWithProperties) row(clReleaseCommandQueue)                         \
            row(clCreateProgramWithIL) row(clBuildProgram) row(clGetProgramBuildInfo)              \
                row(clReleaseProgram) row(clCreateKernel) row(clReleaseKernel) row(clSetKernelArg) \
                    row(clSetKernelArgSVMPointer) row(clEnqueueNDRangeKernel) row(clFinish)

/* The one device: where SPIR-V runs. */
struct opencl {
#define OPENCL_MEMBER(name) __typeof__(name) *name;
    OPENCL_CALLS(OPENCL_MEMBER)
#undef OPENCL_MEMBER
    cl_device_id id;
    cl_context context;
};
extern struct opencl opencl;

extern struct test_driver_control test_driver_control;

/* The code that a call of this name is to fail with now; success: it is to work. */
ze_result_t driver_injected(const char *name);
/* Keep what was done wrong; the code back. */
ze_result_t driver_complain(ze_result_t code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The first lines of every call. */
#define ENTER(name)                                                                                \
    do {                                                                                           \
        const ze_result_t injected = driver_injected(name);                                        \
        if (injected != ZE_RESULT_SUCCESS)                                                         \
            return injected;                                                                       \
    } while (0)
#define NEED(pointer)                                                                              \
    do {                                                                                           \
        if ((pointer) == NULL)                                                                     \
            return driver_complain(ZE_RESULT_ERROR_INVALID_NULL_POINTER, "%s: %s is NULL",         \
                                   __func__, #pointer);                                            \
    } while (0)

/* ---- memory (driver_memory.c) ---- */

/* Whether [at, at + bytes) lies in one live allocation. */
bool driver_is_live(const void *at, size_t bytes);
/* Let the host in, while work runs as the device, or keep it out again. */
void driver_open_memory(bool open);

/* ---- kernels (driver_modules.c) ---- */

enum { ARGUMENTS_MOST = 32, ARGUMENT_BYTES = 8 };
enum argument_kind { BY_VALUE, GLOBAL_POINTER, LOCAL_SIZE };
struct argument {
    enum argument_kind kind;
    bool is_set;
    size_t bytes;
    uint8_t value[ARGUMENT_BYTES];
};
struct kernel {
    cl_kernel kernel;
    uint32_t group[3], subgroup, spilled_bytes, argument_count;
    struct argument arguments[ARGUMENTS_MOST];
};

/* ---- events (driver_commands.c) ---- */

struct event {
    bool is_signalled;
    uint64_t begin_ns, end_ns;
};

#endif
