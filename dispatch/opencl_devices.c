/* SPDX-License-Identifier: Apache-2.0 */
/* Which OpenCL devices there are, and what is worth knowing of each: every device of every
 * platform, GPUs and others, numbered in the loader's order. */
#ifdef MIXBIT_OPENCL
#include "dispatch/opencl_api.h"
#include "support/support.h"

#include <stdio.h>
#include <string.h>

enum { DEVICES_MOST = 32, PLATFORMS_MOST = 16, TEXT_BYTES = 128 };

struct found {
    size_t count;
    cl_device_id at[DEVICES_MOST];
};

static enum mb_status find_devices(const struct mb_opencl_api *cl, struct found *found,
                                   struct mb_error *error)
{
    cl_platform_id platforms[PLATFORMS_MOST];
    cl_uint count = 0;
    found->count = 0;
    const cl_int code = cl->clGetPlatformIDs(PLATFORMS_MOST, platforms, &count);
    if (code != CL_SUCCESS || count == 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "the OpenCL loader knows no platform (%s): no driver is installed",
                            code != CL_SUCCESS ? mb_opencl_error_name(code) : "none listed");
    count = count < PLATFORMS_MOST ? count : PLATFORMS_MOST;
    for (cl_uint p = 0; p < count; p++) {
        cl_uint devices = 0;
        const cl_uint room = (cl_uint)(DEVICES_MOST - found->count);
        if (room > 0 && cl->clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, room,
                                           found->at + found->count, &devices) == CL_SUCCESS)
            found->count += devices < room ? devices : room;
    }
    return found->count > 0 ? MB_OK
                            : mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                           "%u OpenCL platform%s without a device", count,
                                           count == 1 ? "" : "s");
}

enum mb_status mb_opencl_find(size_t index, const struct mb_opencl_api **cl, cl_device_id *id,
                              struct mb_error *error)
{
    struct found found;
    enum mb_status status = mb_opencl_api(cl, error);
    if (status == MB_OK)
        status = find_devices(*cl, &found, error);
    if (status != MB_OK)
        return status;
    if (index >= found.count)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "there is no opencl:%zu: %zu device%s found", index, found.count,
                            found.count == 1 ? "" : "s");
    *id = found.at[index];
    return MB_OK;
}

enum mb_status mb_opencl_list(size_t *count, struct mb_error *error)
{
    const struct mb_opencl_api *cl;
    struct found found;
    *count = 0;
    enum mb_status status = mb_opencl_api(&cl, error);
    if (status == MB_OK)
        status = find_devices(cl, &found, error);
    if (status == MB_OK)
        *count = found.count;
    return status;
}

void mb_opencl_text(const struct mb_opencl_api *cl, cl_device_id id, cl_device_info what,
                    char *text, size_t bytes)
{
    char full[4096] = "";
    if (cl->clGetDeviceInfo(id, what, sizeof full - 1, full, NULL) != CL_SUCCESS)
        full[0] = '\0';
    full[sizeof full - 1] = '\0';
    const char *from = full + strspn(full, " ");
    (void)snprintf(text, bytes, "%.*s", (int)bytes - 1, from);
}

/* Integers of every width that OpenCL has; 0: the device does not tell. */
uint64_t mb_opencl_number(const struct mb_opencl_api *cl, cl_device_id id, cl_device_info what)
{
    union {
        uint32_t narrow;
        uint64_t wide;
    } value = {.wide = 0};
    size_t bytes = 0;
    if (cl->clGetDeviceInfo(id, what, sizeof value, &value, &bytes) != CL_SUCCESS)
        return 0;
    return bytes == sizeof value.narrow ? value.narrow : value.wide;
}

static bool has_extension(const struct mb_opencl_api *cl, cl_device_id id, const char *name)
{
    char text[4096];
    mb_opencl_text(cl, id, CL_DEVICE_EXTENSIONS, text, sizeof text);
    const size_t length = strlen(name);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at += length)
        if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

/* cl_nv_device_attribute_query. */
enum { NV_COMPUTE_CAPABILITY_MAJOR = 0x4000, NV_COMPUTE_CAPABILITY_MINOR = 0x4001 };

enum mb_gpu_build mb_opencl_build(const struct mb_opencl_api *cl, cl_device_id id)
{
    char version[TEXT_BYTES]; /* "OpenCL C 3.0 ..." */
    mb_opencl_text(cl, id, CL_DEVICE_OPENCL_C_VERSION, version, sizeof version);
    if (strncmp(version, "OpenCL C 3", 10) == 0 &&
        has_extension(cl, id, "cl_khr_integer_dot_product"))
        return MB_GPU_PACKED_DOT;
    /* Products of four bytes came with 6.1. */
    const bool nvidia = has_extension(cl, id, "cl_nv_device_attribute_query");
    const uint64_t capability = nvidia
                                    ? mb_opencl_number(cl, id, NV_COMPUTE_CAPABILITY_MAJOR) * 10 +
                                          mb_opencl_number(cl, id, NV_COMPUTE_CAPABILITY_MINOR)
                                    : 0;
    return capability >= 61 ? MB_GPU_NVIDIA : MB_GPU_PLAIN;
}

/* A profile is of this device when kind, name, vendor and units agree; the driver makes it stale.
 */
enum mb_status mb_opencl_describe(size_t index, struct mb_device_info *info, struct mb_error *error)
{
    const struct mb_opencl_api *cl;
    cl_device_id id;
    enum mb_status status = mb_opencl_find(index, &cl, &id, error);
    struct mb_device_info cpu = {.size = sizeof cpu};
    if (status == MB_OK && info->size != sizeof *info)
        status = MB_ERR_ARGUMENT;
    if (status != MB_OK)
        return status;
    const uint64_t type = mb_opencl_number(cl, id, CL_DEVICE_TYPE);
    const enum mb_gpu_build build = mb_opencl_build(cl, id);
    char version[TEXT_BYTES], driver[TEXT_BYTES];
    *info = (struct mb_device_info){.size = sizeof *info, .backend = "opencl"};
    mb_opencl_text(cl, id, CL_DEVICE_NAME, info->name, sizeof info->name);
    mb_opencl_text(cl, id, CL_DEVICE_VENDOR, info->vendor, sizeof info->vendor);
    mb_opencl_text(cl, id, CL_DEVICE_VERSION, version, sizeof version);
    mb_opencl_text(cl, id, CL_DRIVER_VERSION, driver, sizeof driver);
    (void)snprintf(info->features, sizeof info->features, "opencl %s%s%s%s",
                   (type & CL_DEVICE_TYPE_GPU) != 0   ? "gpu"
                   : (type & CL_DEVICE_TYPE_CPU) != 0 ? "cpu"
                                                      : "accelerator",
                   mb_opencl_number(cl, id, CL_DEVICE_HOST_UNIFIED_MEMORY) != 0 ? " unified-memory"
                                                                                : "",
                   has_extension(cl, id, "cl_khr_fp16") ? " fp16" : "",
                   build == MB_GPU_PACKED_DOT ? " packed-dot"
                   : build == MB_GPU_NVIDIA   ? " dp4a"
                                              : "");
    (void)snprintf(info->os, sizeof info->os, "%.60s, driver %.50s", version, driver);
    info->family = (uint32_t)mb_opencl_number(cl, id, CL_DEVICE_VENDOR_ID);
    info->cores = info->threads = (size_t)mb_opencl_number(cl, id, CL_DEVICE_MAX_COMPUTE_UNITS);
    info->core_kinds = 1;
    info->kinds[0].cores = info->cores;
    (void)snprintf(info->kinds[0].name, sizeof info->kinds[0].name, "compute unit");
    info->l2_bytes = (size_t)mb_opencl_number(cl, id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE);
    info->memory_bytes = (size_t)mb_opencl_number(cl, id, CL_DEVICE_GLOBAL_MEM_SIZE);
    if (mb_device_info(&cpu) == MB_OK)
        (void)snprintf(info->build, sizeof info->build, "%s", cpu.build);
    char text[1024];
    (void)snprintf(text, sizeof text, "opencl/%s/%s/%s/%u/%zu/%zu", info->vendor, info->name,
                   info->features, info->family, info->cores, info->l2_bytes);
    mb_hash_bytes(text, strlen(text), info->key);
    return MB_OK;
}
#else
typedef int mb_opencl_devices_are_not_in_this_build; /* C wants a declaration in every file */
#endif
