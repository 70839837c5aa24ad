/* SPDX-License-Identifier: Apache-2.0 */
/* OpenCL devices: the calls of OpenCL 1.2 behind those of gpu_device.h. A context, one in-order
 * queue with profiling, buffers, and a cache of kernels, each built from source when it is first
 * needed. */
#include "dispatch/gpu_device.h"

#ifdef MIXBIT_OPENCL
#include "dispatch/opencl_api.h"

#include <stdlib.h>
#include <string.h>

/* What is written in small pieces, activations, is copied here, so that no writer waits. */
enum { STAGING_BYTES = 1 << 20 };

struct program {
    struct program *next;
    char options[MB_GPU_OPTIONS_BYTES];
    cl_program program;
    cl_kernel kernel;
};

struct device {
    struct mb_backend_device gpu; /* first */
    const struct mb_opencl_api *cl;
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;
    struct program *programs;
    cl_event first, last; /* of the kernels since the last finish; NULL: none */
    size_t staged;        /* bytes of staging on their way since then */
    uint8_t staging[STAGING_BYTES];
};

static struct device *own(struct mb_backend_device *device) { return (struct device *)device; }

/* ---- errors ---- */

/* The status that a code means. Drivers report a lost device as exhausted resources, so a queue
 * that refuses to finish is MB_ERR_DEVICE whatever it says. */
static enum mb_status status_of(cl_int code)
{
    switch (code) {
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
    case CL_OUT_OF_RESOURCES:
    case CL_OUT_OF_HOST_MEMORY:
    case CL_INVALID_BUFFER_SIZE: return MB_ERR_MEMORY;
    default: return MB_ERR_DEVICE;
    }
}

static enum mb_status fail(const struct device *d, enum mb_status status, cl_int code,
                           const char *what, struct mb_error *error)
{
    return mb_gpu_fail(&d->gpu, status, what, mb_opencl_error_name(code), error);
}

/* ---- opening ---- */

static const struct mb_gpu_calls opencl_calls;
static void close_device(struct mb_backend_device *device);

static enum mb_status open_device(size_t index, struct mb_backend_device **device,
                                  struct mb_error *error)
{
    struct device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "opencl:%zu: out of memory", index);
    enum mb_status status = mb_opencl_find(index, &d->cl, &d->id, error);
    if (status != MB_OK) {
        free(d);
        return status;
    }
    const struct mb_opencl_api *cl = d->cl;
    cl_int code;
    d->gpu.calls = &opencl_calls;
    d->gpu.index = index;
    mb_opencl_text(cl, d->id, CL_DEVICE_NAME, d->gpu.name, sizeof d->gpu.name);
    d->gpu.limits = (struct mb_gpu_limits){
        .group_items = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_WORK_GROUP_SIZE),
        .local_bytes = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_LOCAL_MEM_SIZE),
        .compute_units = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_COMPUTE_UNITS),
        .is_cpu = (mb_opencl_number(cl, d->id, CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU) != 0,
        .build = mb_opencl_build(cl, d->id),
    };
    d->gpu.buffer_bytes = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    d->context = cl->clCreateContext(NULL, 1, &d->id, NULL, NULL, &code);
    if (d->context != NULL)
        d->queue = cl->clCreateCommandQueue(d->context, d->id, CL_QUEUE_PROFILING_ENABLE, &code);
    if (d->queue == NULL) {
        status = fail(d, status_of(code), code, "cannot be opened", error);
        close_device(&d->gpu);
        return status;
    }
    *device = &d->gpu;
    return MB_OK;
}

static void forget_events(struct device *d)
{
    if (d->last != NULL && d->last != d->first)
        (void)d->cl->clReleaseEvent(d->last);
    if (d->first != NULL)
        (void)d->cl->clReleaseEvent(d->first);
    d->first = d->last = NULL;
}

static void close_device(struct mb_backend_device *device)
{
    if (device == NULL)
        return;
    struct device *d = own(device);
    const struct mb_opencl_api *cl = d->cl;
    if (d->queue != NULL)
        (void)cl->clFinish(d->queue);
    forget_events(d);
    for (struct program *p = d->programs, *next; p != NULL; p = next) {
        next = p->next;
        (void)cl->clReleaseKernel(p->kernel);
        (void)cl->clReleaseProgram(p->program);
        free(p);
    }
    if (d->queue != NULL)
        (void)cl->clReleaseCommandQueue(d->queue);
    if (d->context != NULL)
        (void)cl->clReleaseContext(d->context);
    free(d);
}

/* ---- kernels ---- */

static char *build_log(const struct device *d, cl_program program)
{
    size_t length = 0;
    char *log = NULL;
    if (d->cl->clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &length) ==
        CL_SUCCESS)
        log = calloc(1, length + 1);
    if (log != NULL && d->cl->clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, length,
                                                    log, NULL) != CL_SUCCESS)
        log[0] = '\0';
    return log;
}

static enum mb_status build(struct device *d, struct program *p, struct mb_error *error)
{
    const char *source = mb_gpu_source;
    cl_int code;
    p->program = d->cl->clCreateProgramWithSource(d->context, 1, &source, NULL, &code);
    if (p->program == NULL)
        return fail(d, status_of(code), code, "a kernel's source was refused", error);
    code = d->cl->clBuildProgram(p->program, 1, &d->id, p->options, NULL, NULL);
    if (code != CL_SUCCESS) {
        char *log = build_log(d, p->program);
        const enum mb_status status =
            mb_gpu_build_failed(&d->gpu, mb_opencl_error_name(code), log, error);
        free(log);
        return status;
    }
    p->kernel = d->cl->clCreateKernel(p->program, "multiply", &code);
    return p->kernel != NULL
               ? MB_OK
               : fail(d, MB_ERR_UNSUPPORTED, code, "a built kernel is not there", error);
}

static enum mb_status get_kernel(struct device *d, const struct mb_format_info *info,
                                 const struct mb_gpu_tile *tile, cl_kernel *kernel,
                                 struct mb_error *error)
{
    char options[MB_GPU_OPTIONS_BYTES];
    mb_gpu_options(info, tile, d->gpu.limits.build, options);
    for (const struct program *p = d->programs; p != NULL; p = p->next)
        if (strcmp(p->options, options) == 0) {
            *kernel = p->kernel;
            return MB_OK;
        }
    struct program *p = calloc(1, sizeof *p);
    if (p == NULL)
        return mb_gpu_no_memory(&d->gpu, error);
    memcpy(p->options, options, sizeof options);
    const enum mb_status status = build(d, p, error);
    if (status != MB_OK) {
        if (p->program != NULL)
            (void)d->cl->clReleaseProgram(p->program);
        free(p);
        return status;
    }
    p->next = d->programs;
    d->programs = p;
    *kernel = p->kernel;
    return MB_OK;
}

/* ---- buffers ---- */

static enum mb_status create_buffer(struct mb_backend_device *device, size_t bytes,
                                    const char *what, void **buffer, struct mb_error *error)
{
    const struct device *d = own(device);
    cl_int code;
    *buffer = d->cl->clCreateBuffer(d->context, CL_MEM_READ_WRITE, bytes, NULL, &code);
    return *buffer != NULL ? MB_OK : fail(d, status_of(code), code, what, error);
}

static void free_buffer(struct mb_backend_device *device, void *buffer)
{
    (void)own(device)->cl->clReleaseMemObject(buffer);
}

static void *no_host_view(struct mb_backend_device *device, void *buffer)
{
    (void)device;
    (void)buffer;
    return NULL;
}

static enum mb_status write_buffer(struct mb_backend_device *device, void *buffer, size_t at,
                                   const void *from, size_t bytes, const char *what,
                                   struct mb_error *error)
{
    struct device *d = own(device);
    const bool small = bytes <= STAGING_BYTES - d->staged;
    if (small) {
        from = memcpy(d->staging + d->staged, from, bytes);
        d->staged += bytes;
    }
    const cl_int code = d->cl->clEnqueueWriteBuffer(d->queue, buffer, small ? CL_FALSE : CL_TRUE,
                                                    at, bytes, from, 0, NULL, NULL);
    return code == CL_SUCCESS ? MB_OK : fail(d, status_of(code), code, what, error);
}

static enum mb_status finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error);

static enum mb_status read_buffer(struct mb_backend_device *device, void *buffer, size_t at,
                                  size_t bytes, void *to, struct mb_error *error)
{
    const struct device *d = own(device);
    /* Queued behind the kernels, so there is one wait for both. */
    const cl_int code =
        d->cl->clEnqueueReadBuffer(d->queue, buffer, CL_TRUE, at, bytes, to, 0, NULL, NULL);
    const enum mb_status status = finish(device, NULL, error);
    if (status != MB_OK)
        return status;
    return code == CL_SUCCESS ? MB_OK : fail(d, MB_ERR_DEVICE, code, "reading results", error);
}

/* ---- products ---- */

static enum mb_status launch(struct mb_backend_device *device, const struct mb_format_info *info,
                             const struct mb_gpu_tile *tile, const struct mb_gpu_launch *launch,
                             void *const buffers[3], struct mb_error *error)
{
    struct device *d = own(device);
    uint32_t numbers[MB_GPU_ARGUMENTS];
    cl_kernel kernel;
    cl_event event = NULL;
    const enum mb_status status = get_kernel(d, info, tile, &kernel, error);
    if (status != MB_OK)
        return status;
    cl_int code = CL_SUCCESS;
    memcpy(numbers, &launch->arguments, sizeof numbers);
    for (cl_uint i = 0; i < 3 && code == CL_SUCCESS; i++)
        code = d->cl->clSetKernelArg(kernel, i, sizeof(cl_mem), &buffers[i]);
    for (cl_uint i = 0; i < MB_GPU_ARGUMENTS && code == CL_SUCCESS; i++)
        code = d->cl->clSetKernelArg(kernel, 3 + i, sizeof numbers[i], &numbers[i]);
    if (code == CL_SUCCESS)
        code = d->cl->clEnqueueNDRangeKernel(d->queue, kernel, 3, NULL, launch->global,
                                             launch->local, 0, NULL, &event);
    if (code != CL_SUCCESS)
        return fail(d, status_of(code), code, "starting a kernel", error);
    if (d->last != NULL && d->last != d->first)
        (void)d->cl->clReleaseEvent(d->last);
    d->last = event;
    d->first = d->first != NULL ? d->first : event;
    return MB_OK;
}

/* From the first kernel's start to the last one's end; 0: the device does not tell. */
static double busy(const struct device *d)
{
    cl_ulong begin = 0, end = 0;
    const bool known = d->first != NULL &&
                       d->cl->clGetEventProfilingInfo(d->first, CL_PROFILING_COMMAND_START,
                                                      sizeof begin, &begin, NULL) == CL_SUCCESS &&
                       d->cl->clGetEventProfilingInfo(d->last, CL_PROFILING_COMMAND_END, sizeof end,
                                                      &end, NULL) == CL_SUCCESS;
    return known && end > begin ? (double)(end - begin) : 0;
}

/* What became of the last kernel: CL_COMPLETE, or the negative code of what stopped it. */
static cl_int outcome(const struct device *d)
{
    cl_int state = CL_COMPLETE;
    if (d->last == NULL || d->cl->clGetEventInfo(d->last, CL_EVENT_COMMAND_EXECUTION_STATUS,
                                                 sizeof state, &state, NULL) != CL_SUCCESS)
        return CL_COMPLETE;
    return state;
}

static enum mb_status finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error)
{
    struct device *d = own(device);
    cl_int code = d->cl->clFinish(d->queue);
    if (code == CL_SUCCESS)
        code = outcome(d);
    if (busy_ns != NULL)
        *busy_ns = code == CL_SUCCESS ? busy(d) : 0;
    forget_events(d);
    d->staged = 0;
    return code == CL_SUCCESS
               ? MB_OK
               : fail(d, MB_ERR_DEVICE, code, "the device failed at its work", error);
}

static bool is_current(const char *kernel, unsigned revision, enum mb_format format)
{
    return mb_gpu_is_current(kernel, revision, format, opencl_calls.backend);
}

static const struct mb_gpu_calls opencl_calls = {
    .backend = "opencl",
    .create_buffer = create_buffer,
    .free_buffer = free_buffer,
    .host_view = no_host_view,
    .write = write_buffer,
    .read = read_buffer,
    .launch = launch,
    .finish = finish,
};

const struct mb_backend mb_backend_opencl = {
    .name = "opencl",
    .list = mb_opencl_list,
    .describe = mb_opencl_describe,
    .open = open_device,
    .close = close_device,
    .is_current = is_current,
    MB_GPU_ROWS,
};

#else
MB_GPU_NOT_BUILT(mb_backend_opencl, "opencl",
                 "this build has no OpenCL devices: CL/cl.h (opencl-headers) was not there");
#endif
