/* SPDX-License-Identifier: Apache-2.0 */
/* See level_zero_api.h. The library stays open: drivers have threads of their own, which do not
 * survive their code. */
#ifdef MIXBIT_LEVEL_ZERO
#include "dispatch/level_zero_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct mb_level_zero_api calls;
static struct mb_error failure; /* MB_OK: calls are there */

static void find(void *library, const char *name, void **call)
{
    *call = dlsym(library, name);
    if (*call == NULL && failure.status == MB_OK)
        (void)mb_error_set(&failure, MB_ERR_UNSUPPORTED, -1, "the Level Zero loader has no %s",
                           name);
}

static void open_library(void)
{
    const char *named = getenv("MIXBIT_LEVEL_ZERO");
    const char *path = named != NULL && named[0] != '\0' ? named : "libze_loader.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        (void)mb_error_set(&failure, MB_ERR_UNSUPPORTED, -1, "no Level Zero loader: %s",
                           why != NULL ? why : path);
        return;
    }
    void *call;
#define FIND(verb)                                                                                 \
    find(library, "ze" #verb, &call);                                                              \
    *(void **)(void *)&calls.verb = call;
    MB_LEVEL_ZERO_CALLS(FIND)
#undef FIND
    if (failure.status != MB_OK)
        return;
    const ze_result_t code = calls.Init(ZE_INIT_FLAG_GPU_ONLY);
    if (code != ZE_RESULT_SUCCESS)
        (void)mb_error_set(&failure, MB_ERR_UNSUPPORTED, -1,
                           "no Level Zero driver finds a GPU it can use: zeInit says %s",
                           mb_level_zero_error_name(code));
}

enum mb_status mb_level_zero_api(const struct mb_level_zero_api **api, struct mb_error *error)
{
    (void)pthread_once(&once, open_library);
    *api = &calls;
    return failure.status == MB_OK ? MB_OK
                                   : mb_error_set(error, failure.status, -1, "%s", failure.message);
}

const char *mb_level_zero_error_name(ze_result_t code)
{
    static _Thread_local char number[40];
    switch (code) {
#define NAME(code)                                                                                 \
    case code: return #code;
        NAME(ZE_RESULT_NOT_READY)
        NAME(ZE_RESULT_ERROR_DEVICE_LOST)
        NAME(ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY)
        NAME(ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)
        NAME(ZE_RESULT_ERROR_MODULE_BUILD_FAILURE)
        NAME(ZE_RESULT_ERROR_MODULE_LINK_FAILURE)
        NAME(ZE_RESULT_ERROR_INSUFFICIENT_PERMISSIONS)
        NAME(ZE_RESULT_ERROR_NOT_AVAILABLE)
        NAME(ZE_RESULT_ERROR_DEPENDENCY_UNAVAILABLE)
        NAME(ZE_RESULT_ERROR_UNINITIALIZED)
        NAME(ZE_RESULT_ERROR_UNSUPPORTED_VERSION)
        NAME(ZE_RESULT_ERROR_UNSUPPORTED_FEATURE)
        NAME(ZE_RESULT_ERROR_UNSUPPORTED_SIZE)
        NAME(ZE_RESULT_ERROR_INVALID_ARGUMENT)
        NAME(ZE_RESULT_ERROR_INVALID_NATIVE_BINARY)
        NAME(ZE_RESULT_ERROR_INVALID_KERNEL_NAME)
        NAME(ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_INDEX)
        NAME(ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_SIZE)
        NAME(ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION)
        NAME(ZE_RESULT_ERROR_INVALID_MODULE_UNLINKED)
#undef NAME
    default:
        (void)snprintf(number, sizeof number, "Level Zero error 0x%x", (unsigned)code);
        return number;
    }
}
#else
typedef int mb_level_zero_is_not_in_this_build; /* C wants a declaration in every file */
#endif
