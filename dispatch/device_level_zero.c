/* SPDX-License-Identifier: Apache-2.0 */
/* Level Zero GPUs: the calls of Level Zero 1.3 behind those of gpu_device.h.
 *
 * Work is recorded in command lists of a few commands each, which go to one queue when they are
 * full or somebody waits; there are several, so that one is recorded while another runs. The
 * interface promises no order of commands, so a barrier stands before each. A GPU with memory of
 * its own is written and read through a staging buffer of the host's; one that shares the host's
 * memory is written in place. Kernels are SPIR-V of the build, finished by the driver when first
 * needed; each has an event that keeps its times, where the driver has them. */
#include "dispatch/gpu_device.h"

#ifdef MIXBIT_LEVEL_ZERO
#include "dispatch/level_zero_api.h"
#include "support/memory.h"

#include <stdlib.h>
#include <string.h>

enum {
    LISTS = 4,
    LIST_COMMANDS = 16,
    EVENTS = LISTS * LIST_COMMANDS,
    ALIGNMENT = 64,
    STAGING_BYTES = 4 << 20,
    GROUPS_MOST = 16, /* of command queues */
};

struct program {
    struct program *next;
    const struct mb_gpu_module *source;
    ze_module_handle_t module;
    ze_kernel_handle_t kernel;
    bool spills;
};

struct device {
    struct mb_backend_device gpu; /* first */
    struct mb_level_zero_device of;
    const struct mb_level_zero_api *ze;
    ze_context_handle_t context;
    uint32_t queue_group;
    ze_command_queue_handle_t queue;
    ze_command_list_handle_t lists[LISTS];
    size_t recording, commands; /* the list that is recorded, and how many commands it has */
    size_t sent;                /* lists that the queue has and nobody waited for */
    ze_event_pool_handle_t pool;
    ze_event_handle_t events[EVENTS];
    size_t signalled; /* events in use since the last wait, the first kernel's in front */
    bool is_integrated;
    uint8_t *staging;
    size_t staged; /* bytes of it that queued copies still read */
    struct program *programs;
    /* Of the kernels since the last finish: ticks, or else the host's clock. */
    bool has_begun, has_ticks;
    uint64_t begin_ticks, end_ticks, tick_mask;
    struct mb_host_clock clock;
    double tick_ns;
};

static struct device *own(struct mb_backend_device *device) { return (struct device *)device; }

/* ---- errors ---- */

static enum mb_status status_of(ze_result_t code)
{
    switch (code) {
    case ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY:
    case ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY:
    case ZE_RESULT_ERROR_UNSUPPORTED_SIZE: return MB_ERR_MEMORY;
    default: return MB_ERR_DEVICE;
    }
}

static enum mb_status fail(const struct device *d, ze_result_t code, const char *what,
                           struct mb_error *error)
{
    return mb_gpu_fail(&d->gpu, status_of(code), what, mb_level_zero_error_name(code), error);
}

/* ---- opening ---- */

static const struct mb_gpu_calls level_zero_calls;
static void close_device(struct mb_backend_device *device);

/* A group of queues that computes; a queue that computes copies as well. */
static ze_result_t find_queue_group(struct device *d)
{
    ze_command_queue_group_properties_t groups[GROUPS_MOST];
    uint32_t count = GROUPS_MOST;
    for (size_t i = 0; i < GROUPS_MOST; i++)
        groups[i] = (ze_command_queue_group_properties_t){
            .stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES};
    const ze_result_t code = d->ze->DeviceGetCommandQueueGroupProperties(d->of.id, &count, groups);
    if (code != ZE_RESULT_SUCCESS)
        return code;
    for (uint32_t i = 0; i < count && i < GROUPS_MOST; i++)
        if ((groups[i].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE) != 0) {
            d->queue_group = i;
            return ZE_RESULT_SUCCESS;
        }
    return ZE_RESULT_ERROR_UNSUPPORTED_FEATURE;
}

static ze_result_t create_events(struct device *d)
{
    const ze_event_pool_desc_t pool = {.stype = ZE_STRUCTURE_TYPE_EVENT_POOL_DESC,
                                       .flags = ZE_EVENT_POOL_FLAG_KERNEL_TIMESTAMP |
                                                ZE_EVENT_POOL_FLAG_HOST_VISIBLE,
                                       .count = EVENTS};
    ze_result_t code = d->ze->EventPoolCreate(d->context, &pool, 1, &d->of.id, &d->pool);
    for (uint32_t i = 0; i < EVENTS && code == ZE_RESULT_SUCCESS; i++) {
        const ze_event_desc_t event = {
            .stype = ZE_STRUCTURE_TYPE_EVENT_DESC, .index = i, .signal = ZE_EVENT_SCOPE_FLAG_HOST};
        code = d->ze->EventCreate(d->pool, &event, &d->events[i]);
    }
    return code;
}

static ze_result_t create_queue(struct device *d)
{
    const ze_context_desc_t context = {.stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC};
    ze_result_t code = d->ze->ContextCreate(d->of.driver, &context, &d->context);
    if (code == ZE_RESULT_SUCCESS)
        code = find_queue_group(d);
    const ze_command_queue_desc_t queue = {.stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC,
                                           .ordinal = d->queue_group,
                                           .mode = ZE_COMMAND_QUEUE_MODE_ASYNCHRONOUS};
    const ze_command_list_desc_t list = {.stype = ZE_STRUCTURE_TYPE_COMMAND_LIST_DESC,
                                         .commandQueueGroupOrdinal = d->queue_group};
    if (code == ZE_RESULT_SUCCESS)
        code = d->ze->CommandQueueCreate(d->context, d->of.id, &queue, &d->queue);
    for (size_t i = 0; i < LISTS && code == ZE_RESULT_SUCCESS; i++)
        code = d->ze->CommandListCreate(d->context, d->of.id, &list, &d->lists[i]);
    return code == ZE_RESULT_SUCCESS ? create_events(d) : code;
}

static ze_result_t create_staging(struct device *d)
{
    const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
    void *staging = NULL;
    const ze_result_t code =
        d->is_integrated
            ? ZE_RESULT_SUCCESS
            : d->ze->MemAllocHost(d->context, &host, STAGING_BYTES, ALIGNMENT, &staging);
    d->staging = staging;
    return code;
}

/* How the device's clock counts: old drivers tell nanoseconds a tick in spite of the version of the
 * structure, and no clock ticks as slowly as a million times a second. */
static void read_clock(struct device *d)
{
    const uint64_t told = d->of.properties.timerResolution;
    const uint32_t bits = d->of.properties.kernelTimestampValidBits;
    d->tick_ns = told >= 1000000 ? 1e9 / (double)told : (double)told;
    d->tick_mask = bits < 64 ? ((uint64_t)1 << bits) - 1 : UINT64_MAX;
}

static enum mb_status open_device(size_t index, struct mb_backend_device **device,
                                  struct mb_error *error)
{
    struct device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "level-zero:%zu: out of memory", index);
    const enum mb_status status = mb_level_zero_find(index, &d->of, error);
    if (status != MB_OK) {
        free(d);
        return status;
    }
    d->ze = d->of.ze;
    d->gpu.calls = &level_zero_calls;
    d->gpu.index = index;
    memcpy(d->gpu.name, d->of.properties.name, sizeof d->gpu.name - 1);
    d->gpu.limits = (struct mb_gpu_limits){.group_items = d->of.compute.maxTotalGroupSize,
                                           .local_bytes = d->of.compute.maxSharedLocalMemory,
                                           .compute_units = mb_level_zero_units(&d->of),
                                           .build = MB_GPU_SPIRV};
    d->gpu.buffer_bytes = (size_t)d->of.properties.maxMemAllocSize;
    d->is_integrated = (d->of.properties.flags & ZE_DEVICE_PROPERTY_FLAG_INTEGRATED) != 0;
    read_clock(d);
    ze_result_t code = create_queue(d);
    if (code == ZE_RESULT_SUCCESS)
        code = create_staging(d);
    if (code != ZE_RESULT_SUCCESS) {
        const enum mb_status failed = fail(d, code, "cannot be opened", error);
        close_device(&d->gpu);
        return failed;
    }
    *device = &d->gpu;
    return MB_OK;
}

static void close_device(struct mb_backend_device *device)
{
    if (device == NULL)
        return;
    struct device *d = own(device);
    const struct mb_level_zero_api *ze = d->ze;
    if (d->queue != NULL)
        (void)ze->CommandQueueSynchronize(d->queue, UINT64_MAX);
    for (struct program *p = d->programs, *next; p != NULL; p = next) {
        next = p->next;
        (void)ze->KernelDestroy(p->kernel);
        (void)ze->ModuleDestroy(p->module);
        free(p);
    }
    for (size_t i = 0; i < EVENTS; i++)
        if (d->events[i] != NULL)
            (void)ze->EventDestroy(d->events[i]);
    if (d->pool != NULL)
        (void)ze->EventPoolDestroy(d->pool);
    for (size_t i = 0; i < LISTS; i++)
        if (d->lists[i] != NULL)
            (void)ze->CommandListDestroy(d->lists[i]);
    if (d->queue != NULL)
        (void)ze->CommandQueueDestroy(d->queue);
    if (d->staging != NULL)
        (void)ze->MemFree(d->context, d->staging);
    if (d->context != NULL)
        (void)ze->ContextDestroy(d->context);
    free(d);
}

/* ---- the queue ---- */

/* The device's times of the first and the last kernel since the last wait, when it has them. */
static void read_times(struct device *d)
{
    ze_kernel_timestamp_result_t first, last;
    mb_host_clock_end(&d->clock);
    if (d->signalled == 0)
        return;
    const bool known =
        d->ze->EventQueryKernelTimestamp(d->events[0], &first) == ZE_RESULT_SUCCESS &&
        d->ze->EventQueryKernelTimestamp(d->events[d->signalled - 1], &last) == ZE_RESULT_SUCCESS;
    d->has_ticks = known && (d->has_ticks || !d->has_begun);
    if (!d->has_begun && known)
        d->begin_ticks = first.global.kernelStart;
    if (known)
        d->end_ticks = last.global.kernelEnd;
    d->has_begun = true;
}

/* Hand over what was recorded. Lists are reset by a wait, so when none is left it waits. */
static ze_result_t wait_for_all(struct device *d);
static ze_result_t submit(struct device *d)
{
    if (d->commands == 0)
        return ZE_RESULT_SUCCESS;
    mb_host_clock_begin(&d->clock);
    ze_result_t code = d->ze->CommandListClose(d->lists[d->recording]);
    if (code == ZE_RESULT_SUCCESS)
        code = d->ze->CommandQueueExecuteCommandLists(d->queue, 1, &d->lists[d->recording], NULL);
    d->commands = 0;
    d->sent++;
    d->recording++;
    return code == ZE_RESULT_SUCCESS && d->sent == LISTS ? wait_for_all(d) : code;
}

static ze_result_t wait_for_all(struct device *d)
{
    ze_result_t code = submit(d);
    if (code != ZE_RESULT_SUCCESS || d->sent == 0)
        return code;
    code = d->ze->CommandQueueSynchronize(d->queue, UINT64_MAX);
    if (code != ZE_RESULT_SUCCESS)
        return code;
    read_times(d);
    for (size_t i = 0; i < d->sent && code == ZE_RESULT_SUCCESS; i++)
        code = d->ze->CommandListReset(d->lists[i]);
    for (size_t i = 0; i < d->signalled && code == ZE_RESULT_SUCCESS; i++)
        code = d->ze->EventHostReset(d->events[i]);
    d->sent = d->recording = d->signalled = d->staged = 0;
    return code;
}

/* The list to record the next command in, behind a barrier. */
static ze_result_t next_command(struct device *d, ze_command_list_handle_t *list)
{
    ze_result_t code = d->commands == LIST_COMMANDS ? submit(d) : ZE_RESULT_SUCCESS;
    if (code == ZE_RESULT_SUCCESS && d->recording == LISTS)
        code = ZE_RESULT_ERROR_DEVICE_LOST; /* an earlier wait failed */
    if (code != ZE_RESULT_SUCCESS)
        return code;
    *list = d->lists[d->recording];
    d->commands++;
    return d->ze->CommandListAppendBarrier(*list, NULL, 0, NULL);
}

/* Room in the staging buffer, at most `bytes`, and the list to record the copy in. In this order:
 * a wait for a list frees the whole buffer, and what is copied later may not lie beyond its end. */
static ze_result_t stage(struct device *d, size_t bytes, ze_command_list_handle_t *list,
                         uint8_t **staging, size_t *piece)
{
    ze_result_t code = d->staged == STAGING_BYTES ? wait_for_all(d) : ZE_RESULT_SUCCESS;
    if (code == ZE_RESULT_SUCCESS)
        code = next_command(d, list);
    const size_t room = STAGING_BYTES - d->staged;
    *staging = d->staging + d->staged;
    *piece = bytes < room ? bytes : room;
    d->staged += *piece;
    return code;
}

/* From the first kernel's start to the last one's end; both clocks begin anew. */
static double take_busy(struct device *d)
{
    const double by_host_ns = mb_host_clock_take(&d->clock);
    const double by_ticks_ns =
        (double)((d->end_ticks - d->begin_ticks) & d->tick_mask) * d->tick_ns;
    const double busy_ns = !d->has_begun ? 0 : d->has_ticks ? by_ticks_ns : by_host_ns;
    d->has_begun = d->has_ticks = false;
    return busy_ns;
}

static enum mb_status finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error)
{
    struct device *d = own(device);
    const ze_result_t code = wait_for_all(d);
    const double taken_ns = take_busy(d);
    if (busy_ns != NULL)
        *busy_ns = code == ZE_RESULT_SUCCESS ? taken_ns : 0;
    return code == ZE_RESULT_SUCCESS
               ? MB_OK
               : mb_gpu_fail(device, MB_ERR_DEVICE, "the device failed at its work",
                             mb_level_zero_error_name(code), error);
}

/* ---- buffers ---- */

static enum mb_status create_buffer(struct mb_backend_device *device, size_t bytes,
                                    const char *what, void **buffer, struct mb_error *error)
{
    struct device *d = own(device);
    const ze_device_mem_alloc_desc_t here = {.stype = ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC};
    const ze_host_mem_alloc_desc_t host = {.stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC};
    const ze_result_t code =
        d->is_integrated
            ? d->ze->MemAllocShared(d->context, &here, &host, bytes, ALIGNMENT, d->of.id, buffer)
            : d->ze->MemAllocDevice(d->context, &here, bytes, ALIGNMENT, d->of.id, buffer);
    if (code == ZE_RESULT_SUCCESS)
        return MB_OK;
    *buffer = NULL;
    return fail(d, code, what, error);
}

/* What is queued may use it: unlike OpenCL's, memory goes at once. */
static void free_buffer(struct mb_backend_device *device, void *buffer)
{
    struct device *d = own(device);
    (void)wait_for_all(d);
    (void)d->ze->MemFree(d->context, buffer);
}

static void *host_view(struct mb_backend_device *device, void *buffer)
{
    return own(device)->is_integrated ? buffer : NULL;
}

static enum mb_status write_buffer(struct mb_backend_device *device, void *buffer, size_t at,
                                   const void *from, size_t bytes, const char *what,
                                   struct mb_error *error)
{
    struct device *d = own(device);
    uint8_t *to = (uint8_t *)buffer + at;
    ze_command_list_handle_t list;
    ze_result_t code = ZE_RESULT_SUCCESS;
    uint8_t *staging;
    if (d->is_integrated) {
        code = wait_for_all(d);
        if (code == ZE_RESULT_SUCCESS)
            memcpy(to, from, bytes);
        bytes = 0;
    }
    for (size_t done = 0, piece; done < bytes && code == ZE_RESULT_SUCCESS; done += piece) {
        code = stage(d, bytes - done, &list, &staging, &piece);
        if (code == ZE_RESULT_SUCCESS) {
            memcpy(staging, (const uint8_t *)from + done, piece);
            code =
                d->ze->CommandListAppendMemoryCopy(list, to + done, staging, piece, NULL, 0, NULL);
        }
    }
    return code == ZE_RESULT_SUCCESS ? MB_OK : fail(d, code, what, error);
}

static enum mb_status read_buffer(struct mb_backend_device *device, void *buffer, size_t at,
                                  size_t bytes, void *to, struct mb_error *error)
{
    struct device *d = own(device);
    const uint8_t *from = (const uint8_t *)buffer + at;
    ze_command_list_handle_t list;
    enum mb_status status = MB_OK;
    uint8_t *staging;
    if (d->is_integrated) {
        status = finish(device, NULL, error);
        if (status == MB_OK)
            memcpy(to, from, bytes);
        bytes = 0;
    }
    for (size_t done = 0, piece; done < bytes && status == MB_OK; done += piece) {
        ze_result_t code = stage(d, bytes - done, &list, &staging, &piece);
        if (code == ZE_RESULT_SUCCESS)
            code = d->ze->CommandListAppendMemoryCopy(list, staging, from + done, piece, NULL, 0,
                                                      NULL);
        status = code == ZE_RESULT_SUCCESS ? finish(device, NULL, error)
                                           : fail(d, code, "reading results", error);
        if (status == MB_OK)
            memcpy((uint8_t *)to + done, staging, piece);
    }
    return status;
}

/* ---- kernels ---- */

static char *read_log(const struct device *d, ze_module_build_log_handle_t handle)
{
    size_t length = 0;
    char *log = NULL;
    if (handle == NULL)
        return NULL;
    if (d->ze->ModuleBuildLogGetString(handle, &length, NULL) == ZE_RESULT_SUCCESS)
        log = calloc(1, length + 1);
    if (log != NULL && d->ze->ModuleBuildLogGetString(handle, &length, log) != ZE_RESULT_SUCCESS)
        log[0] = '\0';
    (void)d->ze->ModuleBuildLogDestroy(handle);
    return log;
}

/* Whether values that should be in registers are kept in memory. */
static bool spills(const struct device *d, const struct program *p)
{
    ze_kernel_properties_t properties = {.stype = ZE_STRUCTURE_TYPE_KERNEL_PROPERTIES};
    return d->ze->KernelGetProperties(p->kernel, &properties) == ZE_RESULT_SUCCESS &&
           properties.spillMemSize > 0;
}

static enum mb_status build(struct device *d, struct program *p, struct mb_error *error)
{
    const ze_module_desc_t module = {.stype = ZE_STRUCTURE_TYPE_MODULE_DESC,
                                     .format = ZE_MODULE_FORMAT_IL_SPIRV,
                                     .inputSize = p->source->bytes,
                                     .pInputModule = (const uint8_t *)p->source->words,
                                     .pBuildFlags = ""};
    const ze_kernel_desc_t kernel = {.stype = ZE_STRUCTURE_TYPE_KERNEL_DESC,
                                     .pKernelName = "multiply"};
    ze_module_build_log_handle_t handle = NULL;
    ze_result_t code = d->ze->ModuleCreate(d->context, d->of.id, &module, &p->module, &handle);
    char *log = read_log(d, handle);
    if (code == ZE_RESULT_SUCCESS)
        code = d->ze->KernelCreate(p->module, &kernel, &p->kernel);
    else
        p->module = NULL;
    enum mb_status status = MB_OK;
    if (code != ZE_RESULT_SUCCESS) {
        status = status_of(code) == MB_ERR_MEMORY ? fail(d, code, "no memory for a kernel", error)
                 : code == ZE_RESULT_ERROR_DEVICE_LOST
                     ? fail(d, code, "building a kernel", error)
                     : mb_gpu_build_failed(&d->gpu, mb_level_zero_error_name(code),
                                           p->module == NULL ? log : NULL, error);
        if (p->module != NULL)
            (void)d->ze->ModuleDestroy(p->module);
    }
    free(log);
    return status;
}

static enum mb_status get_program(struct device *d, const struct mb_format_info *info,
                                  const struct mb_gpu_tile *tile, const struct program **program,
                                  struct mb_error *error)
{
    const struct mb_gpu_module *source = mb_gpu_module(info, tile);
    if (source == NULL)
        return mb_gpu_fail(&d->gpu, MB_ERR_UNSUPPORTED, info->name,
                           "this build has no SPIR-V of it", error);
    for (const struct program *p = d->programs; p != NULL; p = p->next)
        if (p->source == source) {
            *program = p;
            return MB_OK;
        }
    struct program *p = calloc(1, sizeof *p);
    if (p == NULL)
        return mb_gpu_no_memory(&d->gpu, error);
    p->source = source;
    const enum mb_status status = build(d, p, error);
    if (status != MB_OK) {
        free(p);
        return status;
    }
    p->spills = spills(d, p);
    p->next = d->programs;
    d->programs = p;
    *program = p;
    return MB_OK;
}

/* ---- products ---- */

static ze_result_t set_arguments(const struct device *d, ze_kernel_handle_t kernel,
                                 const struct mb_gpu_launch *launch, void *const buffers[3],
                                 size_t group_bytes)
{
    uint32_t numbers[MB_GPU_ARGUMENTS];
    memcpy(numbers, &launch->arguments, sizeof numbers);
    ze_result_t code = d->ze->KernelSetGroupSize(
        kernel, (uint32_t)launch->local[0], (uint32_t)launch->local[1], (uint32_t)launch->local[2]);
    for (uint32_t i = 0; i < 3 && code == ZE_RESULT_SUCCESS; i++)
        code = d->ze->KernelSetArgumentValue(kernel, i, sizeof buffers[i], &buffers[i]);
    for (uint32_t i = 0; i < MB_GPU_ARGUMENTS && code == ZE_RESULT_SUCCESS; i++)
        code = d->ze->KernelSetArgumentValue(kernel, 3 + i, sizeof numbers[i], &numbers[i]);
    return code == ZE_RESULT_SUCCESS
               ? d->ze->KernelSetArgumentValue(kernel, 3 + MB_GPU_ARGUMENTS, group_bytes, NULL)
               : code;
}

static enum mb_status launch(struct mb_backend_device *device, const struct mb_format_info *info,
                             const struct mb_gpu_tile *tile, const struct mb_gpu_launch *launch,
                             void *const buffers[3], struct mb_error *error)
{
    struct device *d = own(device);
    const struct program *program = NULL;
    ze_command_list_handle_t list;
    const enum mb_status status = get_program(d, info, tile, &program, error);
    if (status != MB_OK)
        return status;
    const ze_group_count_t groups = {(uint32_t)(launch->global[0] / launch->local[0]),
                                     (uint32_t)(launch->global[1] / launch->local[1]),
                                     (uint32_t)(launch->global[2] / launch->local[2])};
    ze_result_t code =
        set_arguments(d, program->kernel, launch, buffers, mb_gpu_group_bytes(info, tile));
    if (code == ZE_RESULT_SUCCESS)
        code = next_command(d, &list);
    if (code == ZE_RESULT_SUCCESS)
        code = d->ze->CommandListAppendLaunchKernel(list, program->kernel, &groups,
                                                    d->events[d->signalled], 0, NULL);
    if (code != ZE_RESULT_SUCCESS)
        return fail(d, code, "starting a kernel", error);
    d->signalled++;
    return MB_OK;
}

static enum mb_status suits(struct mb_backend_device *device, const struct mb_format_info *info,
                            const struct mb_gpu_tile *tile, bool *suits, struct mb_error *error)
{
    const struct program *program = NULL;
    const enum mb_status status = get_program(own(device), info, tile, &program, error);
    *suits = status == MB_OK && !program->spills;
    return status;
}

static bool is_current(const char *kernel, unsigned revision, enum mb_format format)
{
    return mb_gpu_is_current(kernel, revision, format, level_zero_calls.backend);
}

static const struct mb_gpu_calls level_zero_calls = {
    .backend = "level-zero",
    .is_ahead = true,
    .create_buffer = create_buffer,
    .free_buffer = free_buffer,
    .host_view = host_view,
    .write = write_buffer,
    .read = read_buffer,
    .launch = launch,
    .finish = finish,
    .suits = suits,
};

const struct mb_backend mb_backend_level_zero = {
    .name = "level-zero",
    .list = mb_level_zero_list,
    .describe = mb_level_zero_describe,
    .open = open_device,
    .close = close_device,
    .is_current = is_current,
    MB_GPU_ROWS,
};

#else
MB_GPU_NOT_BUILT(
    mb_backend_level_zero, "level-zero",
    "this build has no Level Zero devices: level_zero/ze_api.h (libze-dev) was not there");
#endif
