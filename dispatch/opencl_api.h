/* SPDX-License-Identifier: Apache-2.0 */
/* The OpenCL loader, opened at run time: a machine without one just has no such device.
 *
 * Only calls of OpenCL 1.2 are used. MIXBIT_OPENCL names another library than libOpenCL.so.1. */
#ifndef MIXBIT_DISPATCH_OPENCL_API_H
#define MIXBIT_DISPATCH_OPENCL_API_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include "dispatch/gpu.h"
#include "mixbit/device.h"

#include <stdbool.h>

#define MB_OPENCL_CALLS(row)                                                                       \
    row(clGetPlatformIDs) row(clGetPlatformInfo) row(clGetDeviceIDs) row(clGetDeviceInfo)          \
        row(clCreateContext) row(clReleaseContext) row(clCreateCommandQueue)                       \
            row(clReleaseCommandQueue) row(clCreateBuffer) row(clReleaseMemObject)                 \
                row(clEnqueueWriteBuffer) row(clEnqueueReadBuffer) row(clCreateProgramWithSource)  \
                    row(clBuildProgram) row(clGetProgramBuildInfo) row(clReleaseProgram)           \
                        row(clCreateKernel) row(clReleaseKernel) row(clSetKernelArg)               \
                            row(clGetKernelWorkGroupInfo) row(clEnqueueNDRangeKernel) row(clFlush) \
                                row(clFinish) row(clGetEventInfo) row(clGetEventProfilingInfo)     \
                                    row(clReleaseEvent)

struct mb_opencl_api {
#define MB_OPENCL_MEMBER(name) __typeof__(name) *name;
    MB_OPENCL_CALLS(MB_OPENCL_MEMBER)
#undef MB_OPENCL_MEMBER
};

/* The calls, found once per process. MB_ERR_UNSUPPORTED and why there are none. */
enum mb_status mb_opencl_api(const struct mb_opencl_api **api, struct mb_error *error);
/* "CL_OUT_OF_RESOURCES", or the number. */
const char *mb_opencl_error_name(cl_int code);

/* ---- devices (opencl_devices.c): list and describe as backend.h has them ---- */

enum mb_status mb_opencl_list(size_t *count, struct mb_error *error);
enum mb_status mb_opencl_describe(size_t index, struct mb_device_info *info,
                                  struct mb_error *error);
/* The index-th device; MB_ERR_ARGUMENT when there are fewer. */
enum mb_status mb_opencl_find(size_t index, const struct mb_opencl_api **cl, cl_device_id *id,
                              struct mb_error *error);
/* A text without leading blanks, cut to `bytes`; "": the device does not tell. */
void mb_opencl_text(const struct mb_opencl_api *cl, cl_device_id id, cl_device_info what,
                    char *text, size_t bytes);
/* An integer of whatever width OpenCL has for it; 0: the device does not tell. */
uint64_t mb_opencl_number(const struct mb_opencl_api *cl, cl_device_id id, cl_device_info what);
/* How kernels are built for the device: with packed products where its OpenCL C knows them, with
 * NVIDIA's instructions where it has those. */
enum mb_gpu_build mb_opencl_build(const struct mb_opencl_api *cl, cl_device_id id);

#endif
