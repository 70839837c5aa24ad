/* SPDX-License-Identifier: Apache-2.0 */
/* See gpu_device.h. */
#include "dispatch/gpu_device.h"
#include "dispatch/codebook.h"
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run of whole panels in a buffer of its own. */
struct part {
    void *buffer;
    size_t n0, n1;
};
struct mb_backend_weights {
    struct mb_backend_device *device;
    const struct mb_format_info *info;   /* of all codebook matrices the same */
    struct mb_codebook_weights codebook; /* the host's; size 0: it is none */
    size_t n, k, count;
    size_t stored_k; /* k, of a codebook matrix with what pads its runs */
    struct part parts[];
};
struct mb_backend_input {
    struct mb_backend_device *device;
    struct mb_activations rows; /* where the host prepares them */
    void *buffer;
    size_t bytes;
    bool in_place;                              /* which is in the buffer itself */
    const struct mb_codebook_weights *codebook; /* what they are prepared for; NULL: a type */
    size_t floats_at;                           /* of those: where activations as they are begin */
};
struct mb_backend_output {
    struct mb_backend_device *device;
    size_t m, n;
    void *buffer;
};

/* ---- errors ---- */

enum mb_status mb_gpu_fail(const struct mb_backend_device *device, enum mb_status status,
                           const char *what, const char *code, struct mb_error *error)
{
    return mb_error_set(error, status, -1, "%s:%zu (%s): %s: %s", device->calls->backend,
                        device->index, device->name, what, code);
}

enum mb_status mb_gpu_no_memory(const struct mb_backend_device *device, struct mb_error *error)
{
    return mb_gpu_fail(device, MB_ERR_MEMORY, "out of memory", "on the host", error);
}

/* The first line that says "error", else the first there is. */
enum mb_status mb_gpu_build_failed(const struct mb_backend_device *device, const char *code,
                                   const char *log, struct mb_error *error)
{
    const char *text = log != NULL ? log : "", *at = strstr(text, "error");
    while (at != NULL && at > text && at[-1] != '\n')
        at--;
    at = at != NULL ? at : text + strspn(text, " \n");
    const int length = (int)strcspn(at, "\n");
    char what[256];
    (void)snprintf(what, sizeof what, "%.*s", length > 0 ? length : 12,
                   length > 0 ? at : "no build log");
    return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                        "%s:%zu (%s): a kernel does not build: %s: %.200s", device->calls->backend,
                        device->index, device->name, code, what);
}

/* ---- weights ---- */

void mb_gpu_free_weights(struct mb_backend_weights *weights)
{
    if (weights == NULL)
        return;
    for (size_t i = 0; i < weights->count; i++)
        if (weights->parts[i].buffer != NULL)
            weights->device->calls->free_buffer(weights->device, weights->parts[i].buffer);
    free(weights);
}

/* `most` panels in a buffer, 0 being refused. */
static enum mb_status cut_into_parts(struct mb_backend_device *device,
                                     const struct mb_format_info *info, size_t n, size_t k,
                                     size_t panel_bytes, size_t most,
                                     struct mb_backend_weights **made, struct mb_error *error)
{
    const size_t panels = (n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    const enum mb_status status = mb_gpu_check_shape(n, k, 1, error);
    if (status != MB_OK)
        return status;
    if (most == 0)
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "%s:%zu (%s): 16 rows of k %zu take %zu bytes, the largest buffer "
                            "has %zu",
                            device->calls->backend, device->index, device->name, k, panel_bytes,
                            device->buffer_bytes);
    const size_t count = (panels + most - 1) / most;
    struct mb_backend_weights *w = calloc(1, sizeof *w + count * sizeof w->parts[0]);
    if (w == NULL)
        return mb_gpu_no_memory(device, error);
    w->device = device;
    w->info = info;
    w->n = n;
    w->k = w->stored_k = k;
    w->count = count;
    for (size_t i = 0; i < count; i++) {
        const size_t first = i * most, end = first + most < panels ? first + most : panels;
        w->parts[i].n0 = first * MB_PANEL_ROWS;
        w->parts[i].n1 = end < panels ? end * MB_PANEL_ROWS : n;
    }
    *made = w;
    return MB_OK;
}

static size_t first_panel(const struct part *part) { return part->n0 / MB_PANEL_ROWS; }
static size_t last_panel(const struct part *part)
{
    return (part->n1 + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
}

/* A buffer of `head` bytes and the part's panels. */
static enum mb_status upload_part(struct mb_backend_weights *w, struct part *part, const void *head,
                                  size_t head_bytes, const uint8_t *panels, size_t panel_bytes,
                                  struct mb_error *error)
{
    const struct mb_gpu_calls *calls = w->device->calls;
    const size_t first = first_panel(part), bytes = (last_panel(part) - first) * panel_bytes;
    enum mb_status status = calls->create_buffer(w->device, head_bytes + bytes,
                                                 "no memory for weights", &part->buffer, error);
    if (status == MB_OK && head_bytes > 0)
        status =
            calls->write(w->device, part->buffer, 0, head, head_bytes, "uploading weights", error);
    return status == MB_OK
               ? calls->write(w->device, part->buffer, head_bytes, panels + first * panel_bytes,
                              bytes, "uploading weights", error)
               : status;
}

static enum mb_status hand_over(enum mb_status status, struct mb_backend_weights *w,
                                struct mb_backend_weights **uploaded)
{
    if (status == MB_OK)
        *uploaded = w;
    else
        mb_gpu_free_weights(w);
    return status;
}

enum mb_status mb_gpu_upload(struct mb_backend_device *device, const struct mb_weights *weights,
                             struct mb_backend_weights **uploaded, struct mb_error *error)
{
    const size_t panel_bytes = mb_panel_bytes(weights->format, weights->k);
    const size_t most = panel_bytes > 0 ? device->buffer_bytes / panel_bytes : 0;
    struct mb_backend_weights *w = NULL;
    enum mb_status status = cut_into_parts(device, mb_format_info(weights->format), weights->n,
                                           weights->k, panel_bytes, most, &w, error);
    for (size_t i = 0; status == MB_OK && i < w->count; i++)
        status = upload_part(w, &w->parts[i], NULL, 0, weights->data, panel_bytes, error);
    return hand_over(status, w, uploaded);
}

static enum mb_status upload_codebook_part(struct mb_backend_weights *w, struct part *part,
                                           struct mb_error *error)
{
    const struct mb_codebook_weights *book = &w->codebook;
    const size_t first = first_panel(part), last = last_panel(part);
    const size_t head_bytes = mb_gpu_codebook_bytes(book, first, last);
    struct mb_codebook_parts parts;
    uint8_t *head = malloc(head_bytes);
    if (head == NULL)
        return mb_gpu_no_memory(w->device, error);
    (void)mb_codebook_parts(book, &parts);
    mb_gpu_codebook_write(book, first, last, head);
    const enum mb_status status = upload_part(
        w, part, head, head_bytes, parts.panels + book->row0 / MB_PANEL_ROWS * book->panel_bytes,
        book->panel_bytes, error);
    free(head);
    return status;
}

enum mb_status mb_gpu_upload_codebook(struct mb_backend_device *device,
                                      const struct mb_codebook_weights *weights,
                                      struct mb_backend_weights **uploaded, struct mb_error *error)
{
    const size_t panels = (weights->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    const size_t head =
        mb_codebook_check(weights) == MB_OK ? mb_gpu_codebook_bytes(weights, 0, panels) : 0;
    const size_t room = device->buffer_bytes > head ? device->buffer_bytes - head : 0;
    struct mb_backend_weights *w = NULL;
    if (head == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "a codebook matrix that is none, or too large");
    enum mb_status status =
        cut_into_parts(device, mb_format_info((enum mb_format)MB_BACKEND_CODEBOOK), weights->n,
                       weights->k, weights->panel_bytes, room / weights->panel_bytes, &w, error);
    if (status == MB_OK) {
        w->codebook = *weights;
        w->stored_k = weights->padded_k;
    }
    for (size_t i = 0; status == MB_OK && i < w->count; i++)
        status = upload_codebook_part(w, &w->parts[i], error);
    return hand_over(status, w, uploaded);
}

/* ---- inputs and outputs ---- */

static enum mb_status create_buffer(struct mb_backend_device *device, size_t bytes,
                                    const char *what, void **buffer, struct mb_error *error)
{
    if (bytes > device->buffer_bytes)
        return mb_gpu_fail(device, MB_ERR_MEMORY, what, "more than the largest buffer", error);
    return device->calls->create_buffer(device, bytes, what, buffer, error);
}

void mb_gpu_input_free(struct mb_backend_input *input)
{
    if (input == NULL)
        return;
    if (input->buffer != NULL)
        input->device->calls->free_buffer(input->device, input->buffer);
    if (!input->in_place)
        mb_free_aligned(input->rows.data);
    free(input);
}

/* Room on the device, and on the host where it is not the same. */
static enum mb_status make_room(struct mb_backend_device *device, size_t bytes,
                                struct mb_backend_input **input, struct mb_error *error)
{
    struct mb_backend_input *made = calloc(1, sizeof *made);
    if (made == NULL)
        return mb_gpu_no_memory(device, error);
    made->device = device;
    made->bytes = bytes;
    enum mb_status status =
        create_buffer(device, bytes, "no memory for activations", &made->buffer, error);
    void *data = status == MB_OK ? device->calls->host_view(device, made->buffer) : NULL;
    made->in_place = data != NULL;
    if (data == NULL && status == MB_OK)
        data = mb_alloc_aligned(bytes);
    if (status == MB_OK && data == NULL)
        status = mb_gpu_no_memory(device, error);
    made->rows.data = data;
    if (status == MB_OK)
        *input = made;
    else
        mb_gpu_input_free(made);
    return status;
}

/* Rows are prepared by the CPU's kernels: the same bits that a product on the CPU reads. */
enum mb_status mb_gpu_input_create(struct mb_backend_device *device, enum mb_activation type,
                                   size_t m, size_t k, struct mb_backend_input **input,
                                   struct mb_error *error)
{
    size_t bytes;
    struct mb_backend_input *made = NULL;
    enum mb_status status = mb_activations_size(type, m, k, &bytes);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "activations of m %zu, k %zu: %s", m, k,
                            mb_status_string(status));
    status = make_room(device, bytes, &made, error);
    if (status != MB_OK)
        return status;
    status = mb_activations_init(&made->rows, type, m, k, made->rows.data);
    if (status == MB_OK)
        *input = made;
    else
        mb_gpu_input_free(made);
    return status;
}

enum mb_status mb_gpu_input_of_codebook(const struct mb_backend_weights *weights, size_t m,
                                        struct mb_backend_input **input, struct mb_error *error)
{
    size_t bytes;
    enum mb_status status = mb_codebook_activations_size(&weights->codebook, m, &bytes);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "activations of m %zu, k %zu: %s", m, weights->k,
                            mb_status_string(status));
    if (*input != NULL && (*input)->bytes < bytes) {
        mb_gpu_input_free(*input);
        *input = NULL;
    }
    if (*input == NULL)
        status = make_room(weights->device, bytes, input, error);
    if (status != MB_OK)
        return status;
    (*input)->codebook = &weights->codebook;
    (*input)->rows.type = weights->info->activation;
    (*input)->rows.m = m;
    (*input)->rows.k = weights->k;
    return MB_OK;
}

/* The first m rows; *bytes: what they take. */
static enum mb_status prepare(struct mb_backend_input *input, const float *x, size_t x_stride,
                              size_t m, size_t *bytes)
{
    const struct mb_codebook_weights *book = input->codebook;
    *bytes = m * input->rows.row_bytes;
    if (book == NULL)
        return mb_activations_prepare(&input->rows, x, x_stride, 0, m);
    enum mb_status status =
        m <= input->rows.m ? mb_codebook_activations_size(book, m, bytes) : MB_ERR_SHAPE;
    if (status == MB_OK)
        status = mb_codebook_prepare(book, x, m, x_stride, 0, m, input->rows.data);
    if (status == MB_OK)
        input->floats_at = mb_codebook_floats_at(book, m);
    return status;
}

enum mb_status mb_gpu_input_write(struct mb_backend_input *input, const float *x, size_t x_stride,
                                  size_t m, struct mb_error *error)
{
    struct mb_backend_device *d = input->device;
    size_t bytes;
    /* What is queued may still read the rows that are there. */
    enum mb_status status = input->in_place ? d->calls->finish(d, NULL, error) : MB_OK;
    if (status != MB_OK)
        return status;
    status = prepare(input, x, x_stride, m, &bytes);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "activations: %s", mb_status_string(status));
    return input->in_place ? MB_OK
                           : d->calls->write(d, input->buffer, 0, input->rows.data, bytes,
                                             "uploading activations", error);
}

void mb_gpu_output_free(struct mb_backend_output *output)
{
    if (output == NULL)
        return;
    if (output->buffer != NULL)
        output->device->calls->free_buffer(output->device, output->buffer);
    free(output);
}

enum mb_status mb_gpu_output_create(struct mb_backend_device *device, size_t m, size_t n,
                                    struct mb_backend_output **output, struct mb_error *error)
{
    size_t count, bytes;
    if (m == 0 || n == 0 || !mb_mul_size(m, n, &count) ||
        !mb_mul_size(count, sizeof(float), &bytes))
        return mb_error_set(error, MB_ERR_SHAPE, -1, "results of m %zu, n %zu", m, n);
    struct mb_backend_output *made = calloc(1, sizeof *made);
    if (made == NULL)
        return mb_gpu_no_memory(device, error);
    *made = (struct mb_backend_output){.device = device, .m = m, .n = n};
    const enum mb_status status =
        create_buffer(device, bytes, "no memory for results", &made->buffer, error);
    if (status != MB_OK) {
        mb_gpu_output_free(made);
        return status;
    }
    *output = made;
    return MB_OK;
}

enum mb_status mb_gpu_output_read(struct mb_backend_output *output, float *y, size_t y_stride,
                                  size_t m, struct mb_error *error)
{
    struct mb_backend_device *d = output->device;
    const size_t row = output->n * sizeof(float);
    enum mb_status status = MB_OK;
    if (m == 0 || m > output->m || (m > 1 && y_stride < output->n))
        return mb_error_set(error, MB_ERR_SHAPE, -1, "reading %zu of %zu rows", m, output->m);
    const size_t runs = y_stride == output->n ? 1 : m; /* dense rows come in one piece */
    for (size_t r = 0; r < runs && status == MB_OK; r++)
        status = d->calls->read(d, output->buffer, r * row, runs == 1 ? m * row : row,
                                y + r * y_stride, error);
    return status;
}

/* ---- products ---- */

/* The i-th tile that the interface has a kernel for. */
bool mb_gpu_kernel_at(const struct mb_backend_device *device, enum mb_format format, size_t n,
                      size_t k, size_t m, size_t i, struct mb_backend_kernel *kernel)
{
    const struct mb_format_info *info = mb_format_info(format);
    struct mb_gpu_tile tiles[MB_GPU_TILES_MAX];
    if (info == NULL || mb_format_row_bytes(format, k) == 0 ||
        mb_gpu_check_shape(n, k, m, NULL) != MB_OK)
        return false;
    const size_t count = mb_gpu_tiles(&device->limits, info, n, k, m, tiles);
    for (size_t t = 0; t < count; t++)
        if ((!device->calls->is_ahead || mb_gpu_is_ahead(&tiles[t])) && i-- == 0) {
            mb_gpu_describe(info, &tiles[t], device->calls->backend, kernel);
            return true;
        }
    return false;
}

/* The first tile that suits, or the first if none does. */
static enum mb_status choose_kernel(struct mb_backend_device *device,
                                    const struct mb_backend_weights *w, size_t m,
                                    struct mb_backend_kernel *kernel, struct mb_error *error)
{
    const struct mb_gpu_calls *calls = device->calls;
    for (size_t i = 0; mb_gpu_kernel_at(device, w->info->id, w->n, w->k, m, i, kernel); i++) {
        const struct mb_gpu_tile tile = mb_gpu_tile_of(kernel);
        bool suits = true;
        const enum mb_status status =
            calls->suits != NULL ? calls->suits(device, w->info, &tile, &suits, error) : MB_OK;
        if (status != MB_OK || suits)
            return status;
    }
    if (mb_gpu_kernel_at(device, w->info->id, w->n, w->k, m, 0, kernel))
        return MB_OK;
    return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                        "%s:%zu (%s): no kernel fits its work-groups or local memory",
                        calls->backend, device->index, device->name);
}

enum mb_status mb_gpu_multiply(struct mb_backend_device *device,
                               const struct mb_backend_product *product, struct mb_error *error)
{
    const struct mb_backend_weights *w = product->weights;
    const struct mb_backend_input *input = product->input;
    const struct mb_backend_output *output = product->output;
    struct mb_backend_kernel usual;
    const struct mb_backend_kernel *chosen = product->kernel;
    enum mb_status status = MB_OK;
    if (product->m == 0 || product->m > input->rows.m || product->m > output->m ||
        input->rows.k != w->k || output->n != w->n || input->rows.type != w->info->activation ||
        (input->codebook != NULL ? input->codebook->padded_k : 0) != w->codebook.padded_k)
        return mb_error_set(error, MB_ERR_SHAPE, -1,
                            "%zu rows of %s times %s [%zu][%zu]: input or output are of another "
                            "shape",
                            product->m, mb_activation_name(input->rows.type), w->info->name, w->n,
                            w->k);
    if (chosen == NULL) {
        status = choose_kernel(device, w, product->m, &usual, error);
        chosen = &usual;
    }
    if (status != MB_OK)
        return status;
    const struct mb_gpu_tile tile = mb_gpu_tile_of(chosen);
    for (size_t i = 0; i < w->count && status == MB_OK; i++) {
        const struct part *part = &w->parts[i];
        struct mb_gpu_launch grid =
            mb_gpu_launch(w->info, &tile, w->n, w->stored_k, product->m, part->n0, part->n1);
        if (input->codebook != NULL)
            grid.arguments.scaled_sum_at = (uint32_t)input->floats_at;
        void *const buffers[3] = {part->buffer, input->buffer, output->buffer};
        status = device->calls->launch(device, w->info, &tile, &grid, buffers, error);
    }
    return status;
}

enum mb_status mb_gpu_finish(struct mb_backend_device *device, double *busy_ns,
                             struct mb_error *error)
{
    return device->calls->finish(device, busy_ns, error);
}

/* ---- memory ---- */

enum mb_status mb_gpu_read_memory(struct mb_backend_device *device, size_t *set, size_t piece,
                                  size_t passes, double *busy_ns, struct mb_error *error)
{
    const struct mb_gpu_calls *calls = device->calls;
    const struct mb_format_info *info = mb_format_info(MB_FORMAT_F32);
    void *memory = NULL, *result = NULL;
    if (*set > device->buffer_bytes)
        *set = device->buffer_bytes;
    *set = *set / MB_GPU_READ_BYTES * MB_GPU_READ_BYTES;
    piece = piece == 0 || piece > *set ? *set : piece / MB_GPU_READ_BYTES * MB_GPU_READ_BYTES;
    enum mb_status status = calls->create_buffer(device, *set, "no memory to read", &memory, error);
    if (status == MB_OK)
        status = calls->create_buffer(device, sizeof(float), "no memory to read", &result, error);
    void *const buffers[3] = {memory, memory, result};
    /* The first pass, of all, builds the kernel, and brings the buffer to be where a driver puts
     * that off. */
    for (size_t i = 0, at = 0; i <= passes && status == MB_OK; i++) {
        const struct mb_gpu_launch launch =
            mb_gpu_read_launch(&device->limits, at, i == 0 ? *set : piece);
        status = calls->launch(device, info, &mb_gpu_read_tile, &launch, buffers, error);
        if (i == 0 && status == MB_OK)
            status = calls->finish(device, NULL, error);
        else
            at = at + 2 * piece <= *set ? at + piece : 0;
    }
    if (status == MB_OK)
        status = calls->finish(device, busy_ns, error);
    if (memory != NULL)
        calls->free_buffer(device, memory);
    if (result != NULL)
        calls->free_buffer(device, result);
    return status;
}
