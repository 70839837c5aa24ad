/* SPDX-License-Identifier: Apache-2.0 */
/* See driver.h: modules and kernels. What kinds of arguments a kernel has is read from the SPIR-V:
 * OpenCL does not tell it of programs that come as such. */
#include "level_zero/driver.h"

#include <stdlib.h>
#include <string.h>

struct module {
    cl_program program;
    uint32_t *words;
    size_t count;
};
struct build_log {
    char *text;
};

/* Opcodes and operands of SPIR-V that matter here. */
enum {
    MAGIC = 0x07230203,
    HEADER_WORDS = 5,
    OP_ENTRY_POINT = 15,
    OP_EXECUTION_MODE = 16,
    OP_TYPE_POINTER = 32,
    OP_FUNCTION = 54,
    OP_FUNCTION_PARAMETER = 55,
    OP_FUNCTION_END = 56,
    MODE_SUBGROUP_SIZE = 35,
    STORAGE_WORKGROUP = 4,
    STORAGE_CROSS_WORKGROUP = 5
};

static enum argument_kind kind_of(const uint32_t *storage, uint32_t bound, uint32_t type)
{
    const uint32_t class = type < bound ? storage[type] : 0;
    return class == STORAGE_CROSS_WORKGROUP ? GLOBAL_POINTER
           : class == STORAGE_WORKGROUP     ? LOCAL_SIZE
                                            : BY_VALUE;
}

/* False: no such kernel, or not SPIR-V. storage[id]: 1 + class of pointer types, else 0. */
static bool scan(const struct module *m, const char *name, struct kernel *k)
{
    const uint32_t *w = m->words;
    const uint32_t bound = m->count > HEADER_WORDS ? w[3] : 0;
    uint32_t entry = 0;
    bool inside = false;
    uint32_t *storage = calloc((size_t)bound + 1, sizeof *storage);
    for (size_t at = HEADER_WORDS, words; storage != NULL && at < m->count; at += words) {
        words = w[at] >> 16;
        if (words == 0 || words > m->count - at)
            break;
        switch (w[at] & 0xffff) {
        case OP_ENTRY_POINT:
            entry = strcmp((const char *)&w[at + 3], name) == 0 ? w[at + 2] : entry;
            break;
        case OP_EXECUTION_MODE:
            if (w[at + 1] == entry && w[at + 2] == MODE_SUBGROUP_SIZE)
                k->subgroup = w[at + 3];
            break;
        case OP_TYPE_POINTER:
            if (w[at + 1] < bound)
                storage[w[at + 1]] = w[at + 2];
            break;
        case OP_FUNCTION: inside = w[at + 2] == entry; break;
        case OP_FUNCTION_PARAMETER:
            if (inside && k->argument_count < ARGUMENTS_MOST)
                k->arguments[k->argument_count++].kind = kind_of(storage, bound, w[at + 1]);
            break;
        case OP_FUNCTION_END: inside = false; break;
        default: break;
        }
    }
    free(storage);
    return entry != 0;
}

/* ---- modules ---- */

static char *log_of(cl_program program)
{
    size_t length = 0;
    (void)opencl.clGetProgramBuildInfo(program, opencl.id, CL_PROGRAM_BUILD_LOG, 0, NULL, &length);
    char *text = calloc(1, length + 1);
    if (text != NULL && length > 0)
        (void)opencl.clGetProgramBuildInfo(program, opencl.id, CL_PROGRAM_BUILD_LOG, length, text,
                                           NULL);
    return text;
}

static ze_result_t keep_log(ze_module_build_log_handle_t *handle, char *text)
{
    struct build_log *log = handle != NULL ? calloc(1, sizeof *log) : NULL;
    if (log == NULL) {
        free(text);
        return ZE_RESULT_SUCCESS;
    }
    log->text = text;
    *handle = (ze_module_build_log_handle_t)(void *)log;
    test_driver_control.live[LIVE_LOG]++;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ModuleCreate(ze_context_handle_t context, ze_device_handle_t device,
                                const ze_module_desc_t *desc, ze_module_handle_t *module,
                                ze_module_build_log_handle_t *log)
{
    NEED(context);
    NEED(device);
    NEED(desc);
    NEED(module);
    const ze_result_t injected = driver_injected("ModuleCreate");
    if (injected != ZE_RESULT_SUCCESS) {
        if (injected == ZE_RESULT_ERROR_MODULE_BUILD_FAILURE)
            (void)keep_log(log, strdup("warning: a line before\nerror: out of registers\n"));
        return injected;
    }
    if (desc->format != ZE_MODULE_FORMAT_IL_SPIRV || desc->inputSize < 4 * HEADER_WORDS ||
        *(const uint32_t *)(const void *)desc->pInputModule != MAGIC)
        return driver_complain(ZE_RESULT_ERROR_INVALID_NATIVE_BINARY, "ModuleCreate: no SPIR-V");
    cl_int code;
    struct module *m = calloc(1, sizeof *m);
    m->count = desc->inputSize / 4;
    m->words = malloc(desc->inputSize);
    memcpy(m->words, desc->pInputModule, desc->inputSize);
    m->program =
        opencl.clCreateProgramWithIL(opencl.context, desc->pInputModule, desc->inputSize, &code);
    if (code == CL_SUCCESS)
        code = opencl.clBuildProgram(m->program, 1, &opencl.id, "", NULL, NULL);
    if (m->program != NULL)
        (void)keep_log(log, log_of(m->program));
    if (code != CL_SUCCESS) {
        if (m->program != NULL)
            (void)opencl.clReleaseProgram(m->program);
        free(m->words);
        free(m);
        return driver_complain(ZE_RESULT_ERROR_MODULE_BUILD_FAILURE, "OpenCL refuses: %d", code);
    }
    test_driver_control.live[LIVE_MODULE]++;
    *module = (ze_module_handle_t)(void *)m;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ModuleDestroy(ze_module_handle_t module)
{
    ENTER("ModuleDestroy");
    NEED(module);
    struct module *m = (struct module *)(void *)module;
    (void)opencl.clReleaseProgram(m->program);
    free(m->words);
    free(m);
    test_driver_control.live[LIVE_MODULE]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ModuleBuildLogGetString(ze_module_build_log_handle_t handle, size_t *bytes,
                                           char *text)
{
    ENTER("ModuleBuildLogGetString");
    NEED(handle);
    NEED(bytes);
    const struct build_log *log = (const struct build_log *)(void *)handle;
    const char *from = log->text != NULL ? log->text : "";
    const size_t length = strlen(from) + 1;
    if (text != NULL)
        memcpy(text, from, *bytes < length ? *bytes : length);
    *bytes = length;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_ModuleBuildLogDestroy(ze_module_build_log_handle_t handle)
{
    ENTER("ModuleBuildLogDestroy");
    NEED(handle);
    struct build_log *log = (struct build_log *)(void *)handle;
    free(log->text);
    free(log);
    test_driver_control.live[LIVE_LOG]--;
    return ZE_RESULT_SUCCESS;
}

/* ---- kernels ---- */

ze_result_t driver_KernelCreate(ze_module_handle_t module, const ze_kernel_desc_t *desc,
                                ze_kernel_handle_t *kernel)
{
    ENTER("KernelCreate");
    NEED(module);
    NEED(desc);
    NEED(kernel);
    const struct module *m = (const struct module *)(void *)module;
    struct kernel *k = calloc(1, sizeof *k);
    cl_int code = CL_INVALID_KERNEL_NAME;
    if (scan(m, desc->pKernelName, k))
        k->kernel = opencl.clCreateKernel(m->program, desc->pKernelName, &code);
    if (code != CL_SUCCESS) {
        free(k);
        return driver_complain(ZE_RESULT_ERROR_INVALID_KERNEL_NAME, "no kernel %s",
                               desc->pKernelName);
    }
    if (test_driver_control.spilling > 0) {
        test_driver_control.spilling--;
        k->spilled_bytes = 1024;
    }
    test_driver_control.live[LIVE_KERNEL]++;
    *kernel = (ze_kernel_handle_t)(void *)k;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_KernelDestroy(ze_kernel_handle_t kernel)
{
    ENTER("KernelDestroy");
    NEED(kernel);
    struct kernel *k = (struct kernel *)(void *)kernel;
    (void)opencl.clReleaseKernel(k->kernel);
    free(k);
    test_driver_control.live[LIVE_KERNEL]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_KernelSetGroupSize(ze_kernel_handle_t kernel, uint32_t x, uint32_t y, uint32_t z)
{
    ENTER("KernelSetGroupSize");
    NEED(kernel);
    struct kernel *k = (struct kernel *)(void *)kernel;
    if (x == 0 || y == 0 || z == 0 || (uint64_t)x * y * z > 1024)
        return driver_complain(ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION, "group of %u %u %u", x,
                               y, z);
    k->group[0] = x;
    k->group[1] = y;
    k->group[2] = z;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_KernelSetArgumentValue(ze_kernel_handle_t kernel, uint32_t i, size_t bytes,
                                          const void *value)
{
    ENTER("KernelSetArgumentValue");
    NEED(kernel);
    struct kernel *k = (struct kernel *)(void *)kernel;
    struct argument *a = &k->arguments[i];
    if (i >= k->argument_count)
        return driver_complain(ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_INDEX, "argument %u", i);
    if ((a->kind == LOCAL_SIZE) != (value == NULL) || bytes == 0 ||
        (value != NULL && bytes > ARGUMENT_BYTES) ||
        (a->kind == GLOBAL_POINTER && bytes != sizeof(void *)))
        return driver_complain(ZE_RESULT_ERROR_INVALID_KERNEL_ARGUMENT_SIZE,
                               "argument %u of %zu bytes", i, bytes);
    a->is_set = true;
    a->bytes = bytes;
    if (value != NULL)
        memcpy(a->value, value, bytes);
    const void *pointer = NULL;
    if (a->kind == GLOBAL_POINTER)
        memcpy(&pointer, value, sizeof pointer);
    return a->kind != GLOBAL_POINTER || driver_is_live(pointer, 1)
               ? ZE_RESULT_SUCCESS
               : driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "argument %u is not in memory",
                                 i);
}

ze_result_t driver_KernelGetProperties(ze_kernel_handle_t kernel,
                                       ze_kernel_properties_t *properties)
{
    ENTER("KernelGetProperties");
    NEED(kernel);
    NEED(properties);
    const struct kernel *k = (const struct kernel *)(void *)kernel;
    *properties = (ze_kernel_properties_t){.stype = properties->stype,
                                           .pNext = properties->pNext,
                                           .numKernelArgs = k->argument_count,
                                           .requiredSubgroupSize = k->subgroup,
                                           .maxSubgroupSize = k->subgroup,
                                           .spillMemSize = k->spilled_bytes};
    return ZE_RESULT_SUCCESS;
}
