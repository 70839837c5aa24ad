/* SPDX-License-Identifier: Apache-2.0 */
/* Running the list of steps on a batch of tokens.
 *
 * A run holds one batch at one step. All rows of a batch go through a matrix together, whatever
 * sequence they belong to, since the matrix product is what takes the time; only attention and
 * positions know about sequences. Every row's result is independent of the rows beside it, bit for
 * bit, so how text is cut into batches never shows. */
#include "mixbit/codebook.h"
#include "model/channelwise.h"
#include "model/network.h"
#include "model/offload.h"

#include "model/vector.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS = 512, HEAD_BYTES = 16 << 20 };

enum mb_status mb_run_create(struct mb_network *network, size_t rows, size_t tokens,
                             struct mb_run **run, struct mb_error *error)
{
    struct mb_run *made = calloc(1, sizeof *made);
    bool complete = made != NULL;
    *run = NULL;
    if (complete) {
        *made = (struct mb_run){.network = network,
                                .vector = mb_vector(),
                                .row_room = rows,
                                .scratch_floats = mb_attention_scratch(network, tokens)};
        const size_t threads = network->threads ? mb_threads_count(network->threads) : 1;
        const size_t scan = mb_scan_scratch(network);
        size_t bytes;
        const size_t route = mb_route_scratch(network);
        if (made->scratch_floats < scan)
            made->scratch_floats = scan;
        if (made->scratch_floats < route)
            made->scratch_floats = route;
        for (size_t i = 0; i < MB_SLOT_COUNT; i++) {
            complete = complete && mb_mul_size(rows, network->slot_width[i], &bytes) &&
                       mb_mul_size(bytes, sizeof(float), &bytes) &&
                       (made->slots[i] = mb_alloc_aligned(bytes)) != NULL;
        }
        complete = complete && mb_mul_size(made->scratch_floats, threads * sizeof(float), &bytes) &&
                   (made->scratch = mb_alloc_aligned(bytes)) != NULL &&
                   mb_rope_grow(network, tokens) == MB_OK;
    }
    if (!complete) {
        mb_run_destroy(made);
        return mb_error_set(error, MB_ERR_MEMORY, -1,
                            "out of memory for the activations of %zu tokens; use a shorter window",
                            rows);
    }
    *run = made;
    return MB_OK;
}

void mb_run_destroy(struct mb_run *run)
{
    if (run == NULL)
        return;
    for (size_t i = 0; i < MB_SLOT_COUNT; i++)
        mb_free_aligned(run->slots[i]);
    mb_free_aligned(run->prepared);
    mb_free_aligned(run->gathered);
    mb_free_aligned(run->scratch);
    free(run);
}

/* ---- steps on rows ---- */

struct row_task {
    struct mb_run *run;
    const struct mb_step *step;
    enum mb_status status;
};

static void embed_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct row_task *task = arg;
    struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const struct mb_matrix *matrix = &network->matrices[network->embedding];
    const struct mb_replacement *other = run->replacement;
    const bool replaced = other && other->rows && other->matrix == network->embedding;
    const size_t k = matrix->k, row_bytes = mb_format_row_bytes(matrix->format, k);
    uint8_t *unpacked = matrix->rows || matrix->encoded ? NULL : malloc(row_bytes);
    for (size_t row = first; row < last; row++) {
        float *out = run->slots[task->step->out] + row * k;
        const size_t id = (size_t)run->ids[row];
        if (replaced) {
            memcpy(out, other->rows + id * k, k * sizeof *out);
        } else if (matrix->encoded != NULL) {
            mb_channelwise_decode(matrix->encoded, id, id + 1, out);
        } else if (matrix->rows != NULL) {
            mb_dequantize(matrix->format, (const uint8_t *)matrix->rows + id * row_bytes, 1, k,
                          out);
        } else if (unpacked != NULL) {
            mb_unpack_rows(&matrix->weights, id, id + 1, unpacked);
            mb_dequantize(matrix->format, unpacked, 1, k, out);
        } else {
            task->status = MB_ERR_MEMORY; /* all who write it write the same */
        }
    }
    free(unpacked);
    const float scale = task->step->scale;
    if (scale != 0.0f && scale != 1.0f)
        for (float *x = run->slots[task->step->out] + first * k,
                   *end = run->slots[task->step->out] + last * k;
             x < end; x++)
            *x *= scale;
}

static void norm_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct row_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const struct mb_step *step = task->step;
    const size_t in = network->slot_width[step->in], out = network->slot_width[step->out];
    const size_t group = step->group ? step->group : out,
                 groups = step->groups ? step->groups : out / group;
    const float *weight = step->vector != MB_NO_VECTOR ? network->vectors[step->vector] : NULL;
    for (size_t row = first; row < last; row++)
        for (size_t g = 0; g < groups; g++)
            run->vector->rms_norm(run->slots[step->out] + row * out + step->at + g * group,
                                  run->slots[step->in] + row * in + step->at + g * group,
                                  weight && !step->shared ? weight + g * group : weight, group,
                                  network->eps);
}

static void add_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct row_task *task = arg;
    const struct mb_run *run = task->run;
    const size_t width = run->network->slot_width[task->step->out];
    run->vector->add(run->slots[task->step->out] + first * width,
                     run->slots[task->step->in] + first * width,
                     task->step->scale != 0.0f ? task->step->scale : 1.0f, (last - first) * width);
}

/* Gated activations: one of two slots goes through a function, the product is `out`. */
static void gate_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct row_task *task = arg;
    const struct mb_step *step = task->step;
    const struct mb_run *run = task->run;
    const size_t width = run->network->slot_width[step->out],
                 stride = run->network->slot_width[step->in];
    for (size_t row = first; row < last; row++) {
        float *out = run->slots[step->out] + row * width;
        const float *in = run->slots[step->in] + row * stride + step->at;
        if (step->kind == MB_STEP_GATE)
            run->vector->swiglu(out, in, out, width);
        else if (step->kind == MB_STEP_GEGLU)
            run->vector->geglu(out, out, in, width);
        else
            run->vector->swiglu(out, out, in, width);
    }
}

/* Scored rows move up in place: they ascend, so none is overwritten before it is read. */
static void keep_scored(struct mb_run *run, const struct mb_step *step)
{
    const enum mb_slot kept[] = {MB_SLOT_HIDDEN, step->in};
    if (run->scored == NULL)
        return;
    for (size_t s = 0; s < sizeof kept / sizeof kept[0]; s++) {
        const size_t width = run->network->slot_width[kept[s]];
        float *x = run->slots[kept[s]];
        for (size_t i = 0; i < run->scored_count; i++)
            memmove(x + i * width, x + run->scored[i] * width, width * sizeof *x);
    }
    run->rows = run->scored_count;
}

/* ---- products ---- */

/* An input in every activation type that its products ask for. */
struct inputs {
    const float *x;
    size_t k, stride, count;
    struct mb_activations types[MB_MAX_PRODUCTS];
};

static void prepare_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct inputs *inputs = arg;
    for (size_t t = 0; t < inputs->count; t++)
        (void)mb_activations_prepare(&inputs->types[t], inputs->x, inputs->stride, first, last);
}

/* The place of a type among the inputs; inputs->count when it is not there. */
static size_t place_of(const struct inputs *inputs, enum mb_activation type)
{
    size_t t = 0;
    while (t < inputs->count && inputs->types[t].type != type)
        t++;
    return t;
}

static bool grow_prepared(struct mb_run *run, size_t bytes)
{
    if (bytes > run->prepared_room) {
        mb_free_aligned(run->prepared);
        run->prepared = mb_alloc_aligned(bytes);
        run->prepared_room = run->prepared ? bytes : 0;
    }
    return run->prepared != NULL;
}

/* What a matrix is multiplied by: in f32 arithmetic floats as they are. */
static enum mb_activation type_of(const struct mb_run *run, const struct mb_weights *weights)
{
    return run->network->numerics == MB_NUMERICS_F32 &&
                   mb_matmul_supports(weights->format, MB_ACTIVATION_F32)
               ? MB_ACTIVATION_F32
               : mb_matmul_activation(weights->format);
}

/* Each type once, one behind the other in one buffer. */
static enum mb_status prepare(struct mb_run *run, const float *x, size_t x_stride, size_t rows,
                              size_t count, const struct mb_weights *const *weights,
                              struct inputs *inputs)
{
    size_t total = 0, offsets[MB_MAX_PRODUCTS];
    enum mb_status status = MB_OK;
    *inputs = (struct inputs){.x = x, .k = weights[0]->k, .stride = x_stride};
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const enum mb_activation type = type_of(run, weights[i]);
        size_t bytes = 0;
        if (place_of(inputs, type) < inputs->count)
            continue;
        status = mb_activations_size(type, rows, inputs->k, &bytes);
        offsets[inputs->count] = total;
        inputs->types[inputs->count++].type = type;
        if (status == MB_OK && !mb_add_size(total, bytes, &total))
            status = MB_ERR_SHAPE;
    }
    if (status == MB_OK && !grow_prepared(run, total))
        status = MB_ERR_MEMORY;
    for (size_t t = 0; t < inputs->count && status == MB_OK; t++)
        status = mb_activations_init(&inputs->types[t], inputs->types[t].type, rows, inputs->k,
                                     (uint8_t *)run->prepared + offsets[t]);
    if (status == MB_OK)
        mb_split(run->network->threads, rows, rows * inputs->k, prepare_rows, inputs);
    return status;
}

const struct mb_weights *mb_run_weights(const struct mb_run *run, size_t matrix)
{
    const struct mb_replacement *other = run->replacement;
    return other && other->weights && other->matrix == matrix
               ? other->weights
               : &run->network->matrices[matrix].weights;
}

/* In one dispatch, whatever activation types they take. */
static enum mb_status multiply_formats(struct mb_run *run, const float *x, size_t x_stride,
                                       size_t rows, size_t count,
                                       const struct mb_weights *const *weights, float *const *y)
{
    const struct mb_activations *activations[MB_MAX_PRODUCTS];
    size_t stride[MB_MAX_PRODUCTS];
    struct inputs inputs;
    const enum mb_status status = prepare(run, x, x_stride, rows, count, weights, &inputs);
    for (size_t i = 0; i < count; i++) {
        activations[i] = &inputs.types[place_of(&inputs, type_of(run, weights[i]))];
        stride[i] = weights[i]->n;
    }
    return status == MB_OK
               ? mb_matmul_group(run->network->threads, count, weights, activations, y, stride)
               : status;
}

/* Matrices of codebooks one by one: each has an order of columns that it wants its input in. */
static enum mb_status multiply_here(struct mb_run *run, const float *x, size_t x_stride,
                                    size_t rows, size_t count,
                                    const struct mb_weights *const *weights, float *const *y)
{
    const struct mb_weights *others[MB_MAX_PRODUCTS];
    float *others_y[MB_MAX_PRODUCTS];
    size_t other_count = 0;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        if (weights[i]->format == MB_FORMAT_NONE) {
            status = mb_codebook_matmul(run->network->threads, weights[i]->data, x, rows, x_stride,
                                        y[i], weights[i]->n);
        } else {
            others[other_count] = weights[i];
            others_y[other_count++] = y[i];
        }
    }
    return status == MB_OK && other_count > 0
               ? multiply_formats(run, x, x_stride, rows, other_count, others, others_y)
               : status;
}

/* Each matrix may want the input rounded in its own way. */
static enum mb_status multiply_rounded(struct mb_run *run, const float *x, size_t x_stride,
                                       size_t rows, size_t count,
                                       const struct mb_weights *const *weights, float *const *y)
{
    const struct mb_rounding *rounding = run->network->rounding;
    float *rounded = malloc(rows * weights[0]->k * sizeof *rounded);
    enum mb_status status = rounded ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const struct mb_weights *const *w = &weights[i];
        if (rounding->multiply != NULL)
            status = rounding->multiply(rounding->user, *w, x, x_stride, rows, y[i]);
        if (rounding->multiply != NULL && status != MB_ERR_UNSUPPORTED)
            continue;
        const bool is_rounded = rounding->round != NULL &&
                                rounding->round(rounding->user, *w, x, x_stride, rows, rounded);
        status = is_rounded ? multiply_here(run, rounded, (*w)->k, rows, 1, w, &y[i])
                            : multiply_here(run, x, x_stride, rows, 1, w, &y[i]);
    }
    free(rounded);
    return status;
}

/* Products that read one input. */
enum mb_status mb_run_multiply(struct mb_run *run, const float *x, size_t x_stride, size_t rows,
                               size_t count, const struct mb_weights *const *weights,
                               float *const *y)
{
    const uint64_t start = run->timed ? mb_now_ns() : 0;
    struct mb_offload *offload = run->network->offload;
    if (count == 0)
        return MB_OK;
    const enum mb_status status =
        mb_offload_has(offload, count, weights)
            ? mb_offload_multiply(offload, x, x_stride, rows, count, weights, y)
        : run->network->rounding != NULL
            ? multiply_rounded(run, x, x_stride, rows, count, weights, y)
            : multiply_here(run, x, x_stride, rows, count, weights, y);
    if (run->timed)
        run->matmul_ns += mb_now_ns() - start;
    return status;
}

enum mb_status mb_run_products(struct mb_run *run, size_t index, unsigned mask)
{
    const struct mb_network *network = run->network;
    const struct mb_step *step = &network->steps[index];
    const struct mb_weights *weights[MB_MAX_PRODUCTS];
    float *out[MB_MAX_PRODUCTS];
    const size_t stride = network->slot_width[step->in]; /* a matrix may read the first k alone */
    size_t count = 0;
    if (step->kind == MB_STEP_EXPERTS)
        return mb_run_experts(run, step, mask);
    for (size_t i = 0; i < step->product_count; i++)
        if (mask & 1u << i) {
            weights[count] = mb_run_weights(run, step->products[i].matrix);
            out[count++] = run->slots[step->products[i].out];
            if (run->observe != NULL)
                run->observe(run->observe_user, run, step->products[i].matrix, 0,
                             run->slots[step->in], stride, run->rows);
        }
    enum mb_status status =
        mb_run_multiply(run, run->slots[step->in], stride, run->rows, count, weights, out);
    for (size_t i = 0; i < step->product_count && status == MB_OK; i++) {
        const struct mb_product *product = &step->products[i];
        if (!(mask & 1u << i) || product->bias == MB_NO_VECTOR)
            continue;
        const size_t n = network->slot_width[product->out];
        for (size_t row = 0; row < run->rows; row++)
            run->vector->add(run->slots[product->out] + row * n, network->vectors[product->bias],
                             1.0f, n);
    }
    return status;
}

enum mb_status mb_run_steps(struct mb_run *run, size_t from, size_t to)
{
    const struct mb_network *network = run->network;
    enum mb_status status = MB_OK;
    if (from == 0)
        run->rows = run->sequences * run->tokens;
    for (size_t i = from; i < to && status == MB_OK; i++) {
        const struct mb_step *step = &network->steps[i];
        struct row_task task = {run, step, MB_OK};
        const size_t entries = run->rows * network->slot_width[step->out];
        switch (step->kind) {
        case MB_STEP_EMBED:
            mb_split(network->threads, run->rows, 4 * entries, embed_rows, &task);
            status = task.status;
            break;
        case MB_STEP_NORM: mb_split(network->threads, run->rows, entries, norm_rows, &task); break;
        case MB_STEP_PRODUCTS:
        case MB_STEP_EXPERTS: status = mb_run_products(run, i, ~0u); break;
        case MB_STEP_ROUTE: mb_run_route(run, step); break;
        case MB_STEP_ROPE: mb_run_rope(run, step); break;
        case MB_STEP_ATTEND: mb_run_attend(run, step); break;
        case MB_STEP_CONVOLVE: mb_run_convolve(run, step); break;
        case MB_STEP_SOFTPLUS: mb_run_softplus(run, step); break;
        case MB_STEP_SCAN: mb_run_scan(run, step); break;
        case MB_STEP_SCORE: keep_scored(run, step); break;
        case MB_STEP_ADD:
            mb_split(network->threads, run->rows, entries / 2, add_rows, &task);
            break;
        case MB_STEP_SWIGLU:
        case MB_STEP_GEGLU:
        case MB_STEP_GATE:
            mb_split(network->threads, run->rows, 4 * entries, gate_rows, &task);
            break;
        }
    }
    return status;
}

/* ---- the head ---- */

struct logits_task {
    const struct mb_run *run;
    float *logits;
};

static void finish_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct logits_task *task = arg;
    const struct mb_network *network = task->run->network;
    const size_t n = network->vocabulary;
    for (float *x = task->logits + first * n, *end = task->logits + last * n; x < end; x += n) {
        for (size_t i = 0; network->logit_scale != 0.0f && i < n; i++)
            x[i] *= network->logit_scale;
        if (network->logit_cap != 0.0f)
            task->run->vector->softcap(x, network->logit_cap, n);
    }
}

enum mb_status mb_run_head_of(struct mb_run *run, const float *normed, size_t count, float *logits)
{
    const struct mb_network *network = run->network;
    const struct mb_weights *weights = mb_run_weights(run, network->output);
    if (run->observe != NULL)
        run->observe(run->observe_user, run, network->output, 0, normed, network->width, count);
    const enum mb_status status =
        mb_run_multiply(run, normed, network->width, count, 1, &weights, &logits);
    struct logits_task task = {run, logits};
    if (status == MB_OK && (network->logit_scale != 0.0f || network->logit_cap != 0.0f))
        mb_split(network->threads, count, count * network->vocabulary * 4, finish_rows, &task);
    return status;
}

enum mb_status mb_run_head(struct mb_run *run, size_t row0, size_t count, float *logits)
{
    return mb_run_head_of(
        run, run->slots[MB_SLOT_NORMED] + row0 * run->network->slot_width[MB_SLOT_NORMED], count,
        logits);
}

/* ---- windows ---- */

enum mb_status mb_windows_check(const struct mb_network *network, const struct mb_windows *windows,
                                struct mb_error *error)
{
    if (windows == NULL || windows->count == 0 || windows->window < 2 ||
        windows->window > UINT32_MAX / windows->count)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "no windows to run: at least one of two tokens is needed");
    for (size_t i = 0; i < windows->count * windows->window; i++)
        if (windows->tokens[i] < 0 || (size_t)windows->tokens[i] >= network->vocabulary)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "token %d is outside the model's vocabulary of %zu; tokenize the "
                                "text with this model",
                                (int)windows->tokens[i], network->vocabulary);
    return MB_OK;
}

size_t mb_windows_per_chunk(const struct mb_windows *windows, size_t rows)
{
    const size_t wanted = rows ? rows : CHUNK_ROWS;
    const size_t fit = wanted / windows->window;
    return fit < 1 ? 1 : fit > windows->count ? windows->count : fit;
}

size_t mb_scored_rows(size_t windows, size_t window, size_t from, size_t last, uint32_t *rows)
{
    size_t count = 0;
    for (size_t w = 0; w < windows; w++)
        for (size_t t = from; t < last; t++)
            rows[count++] = (uint32_t)(w * window + t);
    return count;
}

size_t mb_head_rows(const struct mb_network *network)
{
    const size_t rows = HEAD_BYTES / (network->vocabulary * sizeof(float));
    return rows < 32 ? 32 : rows;
}

/* Hand over one chunk's logits window by window, made a few rows at a time. */
static enum mb_status emit(struct mb_run *run, size_t window0, size_t from, size_t per_window,
                           float *block, mb_logits_fn logits, void *user)
{
    const size_t vocabulary = run->network->vocabulary, room = mb_head_rows(run->network);
    for (size_t row = 0; row < run->rows;) {
        const size_t count = run->rows - row < room ? run->rows - row : room;
        const enum mb_status status = mb_run_head(run, row, count, block);
        if (status != MB_OK)
            return status;
        for (size_t done = 0; done < count;) {
            const size_t at = (row + done) % per_window;
            const size_t left = per_window - at, some = left < count - done ? left : count - done;
            if (logits(user, window0 + (row + done) / per_window, from + at, some,
                       block + done * vocabulary, vocabulary) != 0)
                return MB_ERR_INTERRUPTED;
            done += some;
        }
        row += count;
    }
    return MB_OK;
}

enum mb_status mb_network_logits(struct mb_network *network, const struct mb_windows *windows,
                                 size_t from, mb_logits_fn logits, void *user,
                                 struct mb_error *error)
{
    enum mb_status status = mb_windows_check(network, windows, error);
    if (status != MB_OK)
        return status;
    if (from >= windows->window)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "position %zu is outside of a window of %zu tokens", from,
                            windows->window);
    const size_t window = windows->window, chunk = mb_windows_per_chunk(windows, 0);
    struct mb_run *run = NULL;
    float *block = mb_alloc_aligned(mb_head_rows(network) * network->vocabulary * sizeof *block);
    uint32_t *rows = malloc(chunk * window * sizeof *rows);
    status = block && rows ? mb_run_create(network, chunk * window, window, &run, error)
                           : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for logits");
    for (size_t w = 0; w < windows->count && status == MB_OK; w += chunk) {
        run->ids = windows->tokens + w * window;
        run->sequences = windows->count - w < chunk ? windows->count - w : chunk;
        run->tokens = window;
        run->scored = rows;
        run->scored_count = mb_scored_rows(run->sequences, window, from, window, rows);
        status = mb_run_steps(run, 0, network->step_count);
        if (status == MB_OK)
            status = emit(run, w, from, window - from, block, logits, user);
        if (status != MB_OK)
            mb_error_set(error, status, -1,
                         status == MB_ERR_INTERRUPTED ? "stopped by the receiver of the logits"
                                                      : "the forward pass failed: %s",
                         mb_status_string(status));
    }
    mb_run_destroy(run);
    mb_free_aligned(block);
    free(rows);
    return status;
}
