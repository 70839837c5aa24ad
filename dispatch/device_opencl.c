/* SPDX-License-Identifier: Apache-2.0 */
/* OpenCL devices: the calls of OpenCL 1.2 behind the table of backend.h. What to run is decided in
 * gpu.c; here are a context, one in-order queue with profiling, buffers, and a cache of kernels,
 * each built from source when it is first needed.
 *
 * Weights may be larger than the device's largest buffer (a quarter of its memory is common): they
 * are cut between panels into as many buffers as it takes, and a product is one launch for each. */
#include "dispatch/backend.h"

#ifdef MIXBIT_OPENCL
#include "dispatch/gpu.h"
#include "dispatch/opencl_api.h"
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct program {
    struct program *next;
    char options[MB_GPU_OPTIONS_BYTES];
    cl_program program;
    cl_kernel kernel;
};

struct mb_backend_device {
    const struct mb_opencl_api *cl;
    size_t index;
    char name[128];
    cl_device_id id;
    cl_context context;
    cl_command_queue queue;
    struct mb_gpu_limits limits;
    size_t buffer_bytes; /* of the largest buffer */
    struct program *programs;
    cl_event first, last; /* of the kernels since the last finish; NULL: none */
};

/* A run of whole panels in a buffer of its own. */
struct part {
    cl_mem buffer;
    size_t n0, n1;
};
struct mb_backend_weights {
    struct mb_backend_device *device;
    const struct mb_format_info *info;
    size_t n, k, count;
    struct part parts[];
};
struct mb_backend_input {
    struct mb_backend_device *device;
    struct mb_activations rows; /* on the host */
    cl_mem buffer;
};
struct mb_backend_output {
    struct mb_backend_device *device;
    size_t m, n;
    cl_mem buffer;
};

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

static enum mb_status fail(const struct mb_backend_device *device, enum mb_status status,
                           cl_int code, const char *what, struct mb_error *error)
{
    return mb_error_set(error, status, -1, "opencl:%zu (%s): %s: %s", device->index, device->name,
                        what, mb_opencl_error_name(code));
}

static enum mb_status no_memory(const struct mb_backend_device *device, struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "opencl:%zu (%s): out of memory on the host",
                        device->index, device->name);
}

/* ---- opening ---- */

static void close_device(struct mb_backend_device *device);

static enum mb_status open_device(size_t index, struct mb_backend_device **device,
                                  struct mb_error *error)
{
    struct mb_backend_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "opencl:%zu: out of memory", index);
    enum mb_status status = mb_opencl_find(index, &d->cl, &d->id, error);
    if (status != MB_OK) {
        free(d);
        return status;
    }
    const struct mb_opencl_api *cl = d->cl;
    cl_int code;
    d->index = index;
    mb_opencl_text(cl, d->id, CL_DEVICE_NAME, d->name, sizeof d->name);
    d->limits = (struct mb_gpu_limits){
        .group_items = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_WORK_GROUP_SIZE),
        .local_bytes = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_LOCAL_MEM_SIZE),
        .compute_units = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_COMPUTE_UNITS),
        .is_cpu = (mb_opencl_number(cl, d->id, CL_DEVICE_TYPE) & CL_DEVICE_TYPE_CPU) != 0,
        .dot_packed = mb_opencl_has_packed_dot(cl, d->id),
    };
    d->buffer_bytes = (size_t)mb_opencl_number(cl, d->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    d->context = cl->clCreateContext(NULL, 1, &d->id, NULL, NULL, &code);
    if (d->context != NULL)
        d->queue = cl->clCreateCommandQueue(d->context, d->id, CL_QUEUE_PROFILING_ENABLE, &code);
    if (d->queue == NULL) {
        status = fail(d, status_of(code), code, "cannot be opened", error);
        close_device(d);
        return status;
    }
    *device = d;
    return MB_OK;
}

static void forget_events(struct mb_backend_device *d)
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
    const struct mb_opencl_api *cl = device->cl;
    if (device->queue != NULL)
        (void)cl->clFinish(device->queue);
    forget_events(device);
    for (struct program *p = device->programs, *next; p != NULL; p = next) {
        next = p->next;
        (void)cl->clReleaseKernel(p->kernel);
        (void)cl->clReleaseProgram(p->program);
        free(p);
    }
    if (device->queue != NULL)
        (void)cl->clReleaseCommandQueue(device->queue);
    if (device->context != NULL)
        (void)cl->clReleaseContext(device->context);
    free(device);
}

/* ---- kernels ---- */

static bool kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel)
{
    const struct mb_format_info *info = mb_format_info(format);
    struct mb_gpu_tile tiles[MB_GPU_TILES_MAX];
    if (info == NULL || mb_format_row_bytes(format, k) == 0 ||
        mb_gpu_check_shape(n, k, m, NULL) != MB_OK ||
        i >= mb_gpu_tiles(&device->limits, info, n, k, m, tiles))
        return false;
    mb_gpu_describe(info, &tiles[i], "opencl", kernel);
    return true;
}

/* The first line of a build log that says something. */
static void build_log(const struct mb_backend_device *d, cl_program program, char *line,
                      size_t bytes)
{
    size_t length = 0;
    char *log = NULL;
    line[0] = '\0';
    if (d->cl->clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &length) ==
        CL_SUCCESS)
        log = calloc(1, length + 1);
    if (log != NULL && d->cl->clGetProgramBuildInfo(program, d->id, CL_PROGRAM_BUILD_LOG, length,
                                                    log, NULL) == CL_SUCCESS) {
        const char *at = strstr(log, "error");
        while (at != NULL && at > log && at[-1] != '\n')
            at--;
        at = at != NULL ? at : log + strspn(log, " \n");
        (void)snprintf(line, bytes, "%.*s", (int)strcspn(at, "\n"), at);
    }
    free(log);
}

static enum mb_status build(struct mb_backend_device *d, struct program *p, struct mb_error *error)
{
    const char *source = mb_gpu_source;
    cl_int code;
    p->program = d->cl->clCreateProgramWithSource(d->context, 1, &source, NULL, &code);
    if (p->program == NULL)
        return fail(d, status_of(code), code, "a kernel's source was refused", error);
    code = d->cl->clBuildProgram(p->program, 1, &d->id, p->options, NULL, NULL);
    if (code != CL_SUCCESS) {
        char line[200];
        build_log(d, p->program, line, sizeof line);
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "opencl:%zu (%s): a kernel does not build: %s: %s", d->index, d->name,
                            mb_opencl_error_name(code), line[0] != '\0' ? line : "no build log");
    }
    p->kernel = d->cl->clCreateKernel(p->program, "multiply", &code);
    return p->kernel != NULL
               ? MB_OK
               : fail(d, MB_ERR_UNSUPPORTED, code, "a built kernel is not there", error);
}

static enum mb_status get_kernel(struct mb_backend_device *d, const struct mb_format_info *info,
                                 const struct mb_gpu_tile *tile, cl_kernel *kernel,
                                 struct mb_error *error)
{
    char options[MB_GPU_OPTIONS_BYTES];
    mb_gpu_options(info, tile, d->limits.dot_packed ? MB_GPU_PACKED_DOT : MB_GPU_PLAIN, options);
    for (const struct program *p = d->programs; p != NULL; p = p->next)
        if (strcmp(p->options, options) == 0) {
            *kernel = p->kernel;
            return MB_OK;
        }
    struct program *p = calloc(1, sizeof *p);
    if (p == NULL)
        return no_memory(d, error);
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

/* ---- weights ---- */

static void free_weights(struct mb_backend_weights *weights)
{
    if (weights == NULL)
        return;
    for (size_t i = 0; i < weights->count; i++)
        if (weights->parts[i].buffer != NULL)
            (void)weights->device->cl->clReleaseMemObject(weights->parts[i].buffer);
    free(weights);
}

static enum mb_status upload_part(struct mb_backend_weights *w, struct part *part,
                                  const uint8_t *from, size_t bytes, struct mb_error *error)
{
    const struct mb_backend_device *d = w->device;
    cl_int code;
    part->buffer = d->cl->clCreateBuffer(d->context, CL_MEM_READ_ONLY, bytes, NULL, &code);
    if (part->buffer == NULL)
        return fail(d, status_of(code), code, "no memory for weights", error);
    code =
        d->cl->clEnqueueWriteBuffer(d->queue, part->buffer, CL_TRUE, 0, bytes, from, 0, NULL, NULL);
    return code == CL_SUCCESS ? MB_OK : fail(d, status_of(code), code, "uploading weights", error);
}

static enum mb_status upload(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error)
{
    const size_t panel_bytes = mb_panel_bytes(weights->format, weights->k);
    const size_t panels = (weights->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    const size_t most = panel_bytes > 0 ? device->buffer_bytes / panel_bytes : 0;
    enum mb_status status = mb_gpu_check_shape(weights->n, weights->k, 1, error);
    if (status != MB_OK)
        return status;
    if (most == 0)
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "opencl:%zu (%s): 16 rows of k %zu take %zu bytes, the largest buffer "
                            "has %zu",
                            device->index, device->name, weights->k, panel_bytes,
                            device->buffer_bytes);
    const size_t count = (panels + most - 1) / most;
    struct mb_backend_weights *w = calloc(1, sizeof *w + count * sizeof w->parts[0]);
    if (w == NULL)
        return no_memory(device, error);
    w->device = device;
    w->info = mb_format_info(weights->format);
    w->n = weights->n;
    w->k = weights->k;
    w->count = count;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const size_t first = i * most, end = first + most < panels ? first + most : panels;
        w->parts[i].n0 = first * MB_PANEL_ROWS;
        w->parts[i].n1 = end < panels ? end * MB_PANEL_ROWS : w->n;
        status = upload_part(w, &w->parts[i], (const uint8_t *)weights->data + first * panel_bytes,
                             (end - first) * panel_bytes, error);
    }
    if (status != MB_OK) {
        free_weights(w);
        return status;
    }
    *uploaded = w;
    return MB_OK;
}

/* ---- inputs and outputs ---- */

static enum mb_status create_buffer(struct mb_backend_device *d, size_t bytes, const char *what,
                                    cl_mem *buffer, struct mb_error *error)
{
    cl_int code = CL_INVALID_BUFFER_SIZE;
    *buffer = bytes <= d->buffer_bytes
                  ? d->cl->clCreateBuffer(d->context, CL_MEM_READ_WRITE, bytes, NULL, &code)
                  : NULL;
    return *buffer != NULL ? MB_OK : fail(d, status_of(code), code, what, error);
}

static void input_free(struct mb_backend_input *input)
{
    if (input == NULL)
        return;
    if (input->buffer != NULL)
        (void)input->device->cl->clReleaseMemObject(input->buffer);
    mb_free_aligned(input->rows.data);
    free(input);
}

/* Rows are prepared by the CPU's kernels: the same bits that a product on the CPU reads. */
static enum mb_status input_create(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error)
{
    size_t bytes;
    enum mb_status status = mb_activations_size(type, m, k, &bytes);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "activations of m %zu, k %zu: %s", m, k,
                            mb_status_string(status));
    struct mb_backend_input *made = calloc(1, sizeof *made);
    void *data = made != NULL ? mb_alloc_aligned(bytes) : NULL;
    if (data == NULL) {
        free(made);
        return no_memory(device, error);
    }
    made->device = device;
    made->rows.data = data;
    status = mb_activations_init(&made->rows, type, m, k, data);
    if (status == MB_OK)
        status = create_buffer(device, bytes, "no memory for activations", &made->buffer, error);
    if (status != MB_OK) {
        input_free(made);
        return status;
    }
    *input = made;
    return MB_OK;
}

static enum mb_status input_write(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error)
{
    const struct mb_backend_device *d = input->device;
    const enum mb_status status = mb_activations_prepare(&input->rows, x, x_stride, 0, m);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "activations: %s", mb_status_string(status));
    const cl_int code =
        d->cl->clEnqueueWriteBuffer(d->queue, input->buffer, CL_TRUE, 0, m * input->rows.row_bytes,
                                    input->rows.data, 0, NULL, NULL);
    return code == CL_SUCCESS ? MB_OK
                              : fail(d, status_of(code), code, "uploading activations", error);
}

static void output_free(struct mb_backend_output *output)
{
    if (output == NULL)
        return;
    if (output->buffer != NULL)
        (void)output->device->cl->clReleaseMemObject(output->buffer);
    free(output);
}

static enum mb_status output_create(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error)
{
    size_t count, bytes;
    if (m == 0 || n == 0 || !mb_mul_size(m, n, &count) ||
        !mb_mul_size(count, sizeof(float), &bytes))
        return mb_error_set(error, MB_ERR_SHAPE, -1, "results of m %zu, n %zu", m, n);
    struct mb_backend_output *made = calloc(1, sizeof *made);
    if (made == NULL)
        return no_memory(device, error);
    *made = (struct mb_backend_output){.device = device, .m = m, .n = n};
    const enum mb_status status =
        create_buffer(device, bytes, "no memory for results", &made->buffer, error);
    if (status != MB_OK) {
        output_free(made);
        return status;
    }
    *output = made;
    return MB_OK;
}

static enum mb_status finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error);

static enum mb_status output_read(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error)
{
    const struct mb_backend_device *d = output->device;
    const size_t row = output->n * sizeof(float);
    if (m == 0 || m > output->m || (m > 1 && y_stride < output->n))
        return mb_error_set(error, MB_ERR_SHAPE, -1, "reading %zu of %zu rows", m, output->m);
    enum mb_status status = finish(output->device, NULL, error);
    const size_t runs = y_stride == output->n ? 1 : m; /* dense rows come in one piece */
    for (size_t r = 0; r < runs && status == MB_OK; r++) {
        const cl_int code =
            d->cl->clEnqueueReadBuffer(d->queue, output->buffer, CL_TRUE, r * row,
                                       runs == 1 ? m * row : row, y + r * y_stride, 0, NULL, NULL);
        if (code != CL_SUCCESS)
            status = fail(d, MB_ERR_DEVICE, code, "reading results", error);
    }
    return status;
}

/* ---- products ---- */

static enum mb_status launch(struct mb_backend_device *d, cl_kernel kernel, const cl_mem buffers[3],
                             const struct mb_gpu_launch *launch, struct mb_error *error)
{
    uint32_t numbers[MB_GPU_ARGUMENTS];
    cl_int code = CL_SUCCESS;
    cl_event event = NULL;
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

static enum mb_status multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error)
{
    const struct mb_backend_weights *w = product->weights;
    const struct mb_backend_input *input = product->input;
    const struct mb_backend_output *output = product->output;
    struct mb_backend_kernel usual;
    const struct mb_backend_kernel *chosen = product->kernel;
    cl_kernel kernel = NULL;
    if (product->m == 0 || product->m > input->rows.m || product->m > output->m ||
        input->rows.k != w->k || output->n != w->n || input->rows.type != w->info->activation)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "%zu rows of %s times %s [%zu][%zu]: input or output are of another "
                            "shape",
                            product->m, mb_activation_name(input->rows.type), w->info->name, w->n,
                            w->k);
    if (chosen == NULL) {
        if (!kernel_at(device, w->info->id, w->n, w->k, product->m, 0, &usual))
            return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                "opencl:%zu (%s): no kernel fits its work-groups or local memory",
                                device->index, device->name);
        chosen = &usual;
    }
    const struct mb_gpu_tile tile = mb_gpu_tile_of(chosen);
    enum mb_status status = get_kernel(device, w->info, &tile, &kernel, error);
    for (size_t i = 0; i < w->count && status == MB_OK; i++) {
        const struct part *part = &w->parts[i];
        const struct mb_gpu_launch grid =
            mb_gpu_launch(w->info, &tile, w->n, w->k, product->m, part->n0, part->n1);
        status =
            launch(device, kernel, (const cl_mem[3]){part->buffer, input->buffer, output->buffer},
                   &grid, error);
    }
    return status;
}

/* From the first kernel's start to the last one's end; 0: the device does not tell. */
static double busy(const struct mb_backend_device *d)
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
static cl_int outcome(const struct mb_backend_device *d)
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
    cl_int code = device->cl->clFinish(device->queue);
    if (code == CL_SUCCESS)
        code = outcome(device);
    if (busy_ns != NULL)
        *busy_ns = code == CL_SUCCESS ? busy(device) : 0;
    forget_events(device);
    return code == CL_SUCCESS
               ? MB_OK
               : fail(device, MB_ERR_DEVICE, code, "the device failed at its work", error);
}

static bool is_current(const char *kernel, unsigned revision, enum mb_format format)
{
    return mb_gpu_is_current(kernel, revision, format, mb_backend_opencl.name);
}

const struct mb_backend mb_backend_opencl = {
    .name = "opencl",
    .list = mb_opencl_list,
    .describe = mb_opencl_describe,
    .open = open_device,
    .close = close_device,
    .kernel_at = kernel_at,
    .is_current = is_current,
    .upload = upload,
    .free_weights = free_weights,
    .input_create = input_create,
    .input_write = input_write,
    .input_free = input_free,
    .output_create = output_create,
    .output_read = output_read,
    .output_free = output_free,
    .multiply = multiply,
    .finish = finish,
};

#else
/* Without the headers nothing can be opened, so nothing else is ever called. */
static enum mb_status none(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                        "this build has no OpenCL devices: CL/cl.h (opencl-headers) was not there");
}
static enum mb_status list(size_t *count, struct mb_error *error)
{
    *count = 0;
    return none(error);
}
static enum mb_status describe(size_t index, struct mb_device_info *info, struct mb_error *error)
{
    (void)index;
    (void)info;
    return none(error);
}
static enum mb_status open_device(size_t index, struct mb_backend_device **device,
                                  struct mb_error *error)
{
    (void)index;
    (void)device;
    return none(error);
}
const struct mb_backend mb_backend_opencl = {
    .name = "opencl", .list = list, .describe = describe, .open = open_device};
#endif
