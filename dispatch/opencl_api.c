/* SPDX-License-Identifier: Apache-2.0 */
/* See opencl_api.h. The library stays open: drivers have threads of their own, which do not survive
 * their code. */
#ifdef MIXBIT_OPENCL
#include "dispatch/opencl_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mb_opencl_api calls;
static struct mb_error failure; /* MB_OK: calls are there */

static void find(void *library, const char *name, void **call)
{
    *call = dlsym(library, name);
    if (*call == NULL && failure.status == MB_OK)
        (void)mb_error_set(&failure, MB_ERR_UNSUPPORTED, -1, "the OpenCL loader has no %s", name);
}

static void open_library(void)
{
    const char *named = getenv("MIXBIT_OPENCL");
    const char *path = named != NULL && named[0] != '\0' ? named : "libOpenCL.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        (void)mb_error_set(&failure, MB_ERR_UNSUPPORTED, -1, "no OpenCL loader: %s",
                           why != NULL ? why : path);
        return;
    }
    void *call;
#define FIND(name)                                                                                 \
    find(library, #name, &call);                                                                   \
    *(void **)(void *)&calls.name = call;
    MB_OPENCL_CALLS(FIND)
#undef FIND
}

enum mb_status mb_opencl_api(const struct mb_opencl_api **api, struct mb_error *error)
{
    (void)pthread_once(&once, open_library);
    *api = &calls;
    return failure.status == MB_OK ? MB_OK
                                   : mb_error_set(error, failure.status, -1, "%s", failure.message);
}

const char *mb_opencl_error_name(cl_int code)
{
    static _Thread_local char number[32];
    switch (code) {
#define NAME(code)                                                                                 \
    case code: return #code;
        NAME(CL_DEVICE_NOT_FOUND)
        NAME(CL_DEVICE_NOT_AVAILABLE)
        NAME(CL_COMPILER_NOT_AVAILABLE)
        NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE)
        NAME(CL_OUT_OF_RESOURCES)
        NAME(CL_OUT_OF_HOST_MEMORY)
        NAME(CL_BUILD_PROGRAM_FAILURE)
        NAME(CL_INVALID_VALUE)
        NAME(CL_INVALID_DEVICE)
        NAME(CL_INVALID_BUILD_OPTIONS)
        NAME(CL_INVALID_BUFFER_SIZE)
        NAME(CL_INVALID_KERNEL_ARGS)
        NAME(CL_INVALID_WORK_GROUP_SIZE)
        NAME(CL_INVALID_WORK_ITEM_SIZE)
        NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
#undef NAME
    case -1001: return "CL_PLATFORM_NOT_FOUND_KHR";
    default: (void)snprintf(number, sizeof number, "OpenCL error %d", code); return number;
    }
}
#else
typedef int mb_opencl_is_not_in_this_build; /* C wants a declaration in every file */
#endif
