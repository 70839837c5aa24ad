/* SPDX-License-Identifier: Apache-2.0 */
/* See driver.h: events, lists, the queue. A list is an array of commands; executing one copies them
 * to the queue, and waiting for the queue runs them. */
#include "level_zero/driver.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum command_kind { BARRIER, COPY, LAUNCH };
struct command {
    enum command_kind kind;
    struct event *signal;
    void *to; /* copy */
    const void *from;
    size_t bytes;
    struct kernel kernel; /* launch: as it was when it was appended */
    size_t groups[3];
};
struct commands {
    struct command *at;
    size_t count, room;
};
struct list {
    struct commands commands;
    bool is_closed;
};
struct queue {
    cl_command_queue queue;
    struct commands pending;
};
struct pool {
    struct event *events;
    uint32_t count;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void append(struct commands *to, const struct command *command)
{
    if (to->count == to->room) {
        to->room = to->room > 0 ? 2 * to->room : 16;
        to->at = realloc(to->at, to->room * sizeof *to->at);
    }
    to->at[to->count++] = *command;
}

/* ---- events ---- */

ze_result_t driver_EventPoolCreate(ze_context_handle_t context, const ze_event_pool_desc_t *desc,
                                   uint32_t device_count, ze_device_handle_t *devices,
                                   ze_event_pool_handle_t *pool)
{
    ENTER("EventPoolCreate");
    NEED(context);
    NEED(desc);
    NEED(pool);
    (void)device_count;
    (void)devices;
    struct pool *made = calloc(1, sizeof *made);
    made->events = calloc(desc->count, sizeof *made->events);
    made->count = desc->count;
    test_driver_control.live[LIVE_POOL]++;
    *pool = (ze_event_pool_handle_t)(void *)made;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_EventPoolDestroy(ze_event_pool_handle_t pool)
{
    ENTER("EventPoolDestroy");
    NEED(pool);
    struct pool *p = (struct pool *)(void *)pool;
    free(p->events);
    free(p);
    test_driver_control.live[LIVE_POOL]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_EventCreate(ze_event_pool_handle_t pool, const ze_event_desc_t *desc,
                               ze_event_handle_t *event)
{
    ENTER("EventCreate");
    NEED(pool);
    NEED(desc);
    NEED(event);
    const struct pool *p = (const struct pool *)(void *)pool;
    if (desc->index >= p->count)
        return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "event %u of %u", desc->index,
                               p->count);
    test_driver_control.live[LIVE_EVENT]++;
    *event = (ze_event_handle_t)(void *)&p->events[desc->index];
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_EventDestroy(ze_event_handle_t event)
{
    ENTER("EventDestroy");
    NEED(event);
    test_driver_control.live[LIVE_EVENT]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_EventHostReset(ze_event_handle_t event)
{
    ENTER("EventHostReset");
    NEED(event);
    ((struct event *)(void *)event)->is_signalled = false;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_EventQueryKernelTimestamp(ze_event_handle_t event,
                                             ze_kernel_timestamp_result_t *result)
{
    ENTER("EventQueryKernelTimestamp");
    NEED(event);
    NEED(result);
    const struct event *e = (const struct event *)(void *)event;
    if (!e->is_signalled || test_driver_control.no_clock)
        return ZE_RESULT_NOT_READY;
    result->global.kernelStart = e->begin_ns & UINT32_MAX; /* as many bits as are valid */
    result->global.kernelEnd = e->end_ns & UINT32_MAX;
    result->context = result->global;
    return ZE_RESULT_SUCCESS;
}

/* ---- lists ---- */

ze_result_t driver_CommandListCreate(ze_context_handle_t context, ze_device_handle_t device,
                                     const ze_command_list_desc_t *desc,
                                     ze_command_list_handle_t *list)
{
    ENTER("CommandListCreate");
    NEED(context);
    NEED(device);
    NEED(desc);
    NEED(list);
    if (desc->commandQueueGroupOrdinal != 1)
        return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "list of group %u",
                               desc->commandQueueGroupOrdinal);
    *list = (ze_command_list_handle_t)calloc(1, sizeof(struct list));
    test_driver_control.live[LIVE_LIST]++;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandListDestroy(ze_command_list_handle_t list)
{
    ENTER("CommandListDestroy");
    NEED(list);
    struct list *l = (struct list *)(void *)list;
    free(l->commands.at);
    free(l);
    test_driver_control.live[LIVE_LIST]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandListClose(ze_command_list_handle_t list)
{
    ENTER("CommandListClose");
    NEED(list);
    ((struct list *)(void *)list)->is_closed = true;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandListReset(ze_command_list_handle_t list)
{
    ENTER("CommandListReset");
    NEED(list);
    struct list *l = (struct list *)(void *)list;
    l->is_closed = false;
    l->commands.count = 0;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t append_to(ze_command_list_handle_t list, struct command *command,
                             ze_event_handle_t signal, uint32_t waits)
{
    struct list *l = (struct list *)(void *)list;
    if (l->is_closed)
        return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "appended to a closed list");
    if (waits > 0)
        return driver_complain(ZE_RESULT_ERROR_UNSUPPORTED_FEATURE, "waits for events");
    command->signal = (struct event *)(void *)signal;
    append(&l->commands, command);
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandListAppendBarrier(ze_command_list_handle_t list, ze_event_handle_t signal,
                                            uint32_t waits, ze_event_handle_t *events)
{
    ENTER("CommandListAppendBarrier");
    NEED(list);
    (void)events;
    return append_to(list, &(struct command){.kind = BARRIER}, signal, waits);
}

ze_result_t driver_CommandListAppendMemoryCopy(ze_command_list_handle_t list, void *to,
                                               const void *from, size_t bytes,
                                               ze_event_handle_t signal, uint32_t waits,
                                               ze_event_handle_t *events)
{
    ENTER("CommandListAppendMemoryCopy");
    NEED(list);
    (void)events;
    if (!driver_is_live(to, bytes) || !driver_is_live(from, bytes))
        return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT,
                               "a copy of %zu bytes beyond memory", bytes);
    return append_to(list, &(struct command){.kind = COPY, .to = to, .from = from, .bytes = bytes},
                     signal, waits);
}

ze_result_t driver_CommandListAppendLaunchKernel(ze_command_list_handle_t list,
                                                 ze_kernel_handle_t kernel,
                                                 const ze_group_count_t *groups,
                                                 ze_event_handle_t signal, uint32_t waits,
                                                 ze_event_handle_t *events)
{
    ENTER("CommandListAppendLaunchKernel");
    NEED(list);
    NEED(kernel);
    NEED(groups);
    (void)events;
    const struct kernel *k = (const struct kernel *)(void *)kernel;
    if (k->group[0] == 0)
        return driver_complain(ZE_RESULT_ERROR_INVALID_GROUP_SIZE_DIMENSION, "no group size");
    for (uint32_t i = 0; i < k->argument_count; i++)
        if (!k->arguments[i].is_set)
            return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "argument %u is not set", i);
    return append_to(list,
                     &(struct command){
                         .kind = LAUNCH,
                         .kernel = *k,
                         .groups = {groups->groupCountX, groups->groupCountY, groups->groupCountZ}},
                     signal, waits);
}

/* ---- the queue ---- */

ze_result_t driver_CommandQueueCreate(ze_context_handle_t context, ze_device_handle_t device,
                                      const ze_command_queue_desc_t *desc,
                                      ze_command_queue_handle_t *queue)
{
    ENTER("CommandQueueCreate");
    NEED(context);
    NEED(device);
    NEED(desc);
    NEED(queue);
    cl_int code;
    if (desc->ordinal != 1)
        return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "queue of group %u",
                               desc->ordinal);
    struct queue *made = calloc(1, sizeof *made);
    made->queue = opencl.clCreateCommandQueueWithProperties(opencl.context, opencl.id, NULL, &code);
    test_driver_control.live[LIVE_QUEUE]++;
    *queue = (ze_command_queue_handle_t)(void *)made;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandQueueDestroy(ze_command_queue_handle_t queue)
{
    ENTER("CommandQueueDestroy");
    NEED(queue);
    struct queue *q = (struct queue *)(void *)queue;
    if (q->pending.count > 0 && test_driver_control.failing_call == NULL)
        (void)driver_complain(ZE_RESULT_SUCCESS, "a queue destroyed with work in it");
    (void)opencl.clReleaseCommandQueue(q->queue);
    free(q->pending.at);
    free(q);
    test_driver_control.live[LIVE_QUEUE]--;
    return ZE_RESULT_SUCCESS;
}

ze_result_t driver_CommandQueueExecuteCommandLists(ze_command_queue_handle_t queue, uint32_t count,
                                                   ze_command_list_handle_t *lists,
                                                   ze_fence_handle_t fence)
{
    ENTER("CommandQueueExecuteCommandLists");
    NEED(queue);
    NEED(lists);
    (void)fence;
    for (uint32_t i = 0; i < count; i++) {
        const struct list *l = (const struct list *)(void *)lists[i];
        if (!l->is_closed)
            return driver_complain(ZE_RESULT_ERROR_INVALID_ARGUMENT, "executed an open list");
        for (size_t c = 0; c < l->commands.count; c++)
            append(&((struct queue *)(void *)queue)->pending, &l->commands.at[c]);
        test_driver_control.executed_lists++;
    }
    return ZE_RESULT_SUCCESS;
}

static cl_int launch(struct queue *q, const struct command *command)
{
    const struct kernel *k = &command->kernel;
    const size_t local[3] = {k->group[0], k->group[1], k->group[2]};
    const size_t global[3] = {command->groups[0] * local[0], command->groups[1] * local[1],
                              command->groups[2] * local[2]};
    cl_int code = CL_SUCCESS;
    for (uint32_t i = 0; i < k->argument_count && code == CL_SUCCESS; i++) {
        const struct argument *a = &k->arguments[i];
        void *pointer;
        memcpy(&pointer, a->value, sizeof pointer);
        code = a->kind == GLOBAL_POINTER
                   ? opencl.clSetKernelArgSVMPointer(k->kernel, i, pointer)
                   : opencl.clSetKernelArg(k->kernel, i, a->bytes,
                                           a->kind == LOCAL_SIZE ? NULL : a->value);
    }
    if (code == CL_SUCCESS)
        code = opencl.clEnqueueNDRangeKernel(q->queue, k->kernel, 3, NULL, global, local, 0, NULL,
                                             NULL);
    return code == CL_SUCCESS ? opencl.clFinish(q->queue) : code;
}

static ze_result_t run(struct queue *q, const struct command *command)
{
    const uint64_t begin_ns = now_ns();
    cl_int code = CL_SUCCESS;
    if (command->kind == COPY) {
        test_driver_control.copies++;
        memmove(command->to, command->from, command->bytes);
    } else if (command->kind == LAUNCH) {
        test_driver_control.launches++;
        test_driver_control.last_groups = command->groups[1];
        code = launch(q, command);
    }
    if (command->signal != NULL)
        *command->signal = (struct event){true, begin_ns, now_ns()};
    return code == CL_SUCCESS
               ? ZE_RESULT_SUCCESS
               : driver_complain(ZE_RESULT_ERROR_DEVICE_LOST, "OpenCL cannot launch: %d", code);
}

ze_result_t driver_CommandQueueSynchronize(ze_command_queue_handle_t queue, uint64_t timeout)
{
    ENTER("CommandQueueSynchronize");
    NEED(queue);
    (void)timeout;
    struct queue *q = (struct queue *)(void *)queue;
    const struct commands *pending = &q->pending;
    ze_result_t code = ZE_RESULT_SUCCESS;
    driver_open_memory(true);
    for (size_t from = 0, to; from < pending->count; from = to + 1) {
        to = from;
        while (to < pending->count && pending->at[to].kind != BARRIER)
            to++;
        for (size_t i = to; i-- > from && code == ZE_RESULT_SUCCESS;)
            code = run(q, &pending->at[i]);
    }
    q->pending.count = 0;
    driver_open_memory(false);
    return code;
}
