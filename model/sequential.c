/* SPDX-License-Identifier: Apache-2.0 */
/* Two runs side by side, step by step, and what a matrix is to come near to (sequential.h).
 *
 * A step's products are grouped by how many columns of its input they read: such a group shares H',
 * its factor and G = E[(x - x') x'^T] H'^-1, so a matrix costs W G and its own rounding. The runs
 * are cut into parts of some thousand tokens that take each step one after the other: what is kept
 * is the slots of all parts, and an interrupt is noticed between two of them. */
#include "model/sequential.h"

#include "dispatch/dispatch.h"
#include "kernels/encode.h"
#include "kernels/gram.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/network.h"
#include "model/probe.h"
#include "model/stream_fisher.h"
#include "support/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised when a change of arithmetic makes earlier blocks other ones. */
enum { SEQUENTIAL_REVISION = 6 };
enum { PART_TOKENS = 2048, SIDES = MB_GRAM_PANEL };

/* Sums over every other window. */
struct half {
    size_t rows;
    float *h, *cross; /* as in struct sums */
};

/* What the inputs of a group said. */
struct sums {
    size_t k, rows;
    struct half halves[2];
    size_t stream;       /* columns of the residual stream, 0 where it takes no part */
    float *h, *factor;   /* [k][k] */
    float *cross;        /* [k + stream][k]: x - x' and h - h' by x' */
    float *left, *right; /* packed rows */
    float *differences;  /* MB_GRAM_ROWS rows of x', of x - x', or of h - h' */
    float *sides;        /* per thread, of the solver */
    float *variances, *diagonal;
    struct mb_weights by;
    void *by_data;
    float shrink[2]; /* of what x - x' and h - h' say */
};

struct sequential {
    struct mb_network *network;
    struct mb_encoder *encoder;
    const struct mb_sequential_options *options;
    const struct mb_windows *windows;
    size_t used, per_part, parts; /* windows */
    int32_t *ids;
    struct mb_run **source, **mixed;
    float *between;     /* factor of what errors of the stream cost; NULL: each entry by itself */
    double done, total; /* multiplications of products */
    struct mb_error *error;
};

/* ---- which windows ---- */

static size_t bytes_of_token(const struct mb_network *network)
{
    size_t floats = 0;
    for (size_t i = 0; i < MB_SLOT_COUNT; i++)
        floats += network->slot_width[i];
    return 2 * floats * sizeof(float);
}

static size_t windows_used(const struct mb_network *network, const struct mb_windows *windows,
                           const struct mb_sequential_options *options)
{
    const size_t tokens = options->tokens > 0 ? options->tokens : MB_SEQUENTIAL_TOKENS;
    const size_t limit = options->memory_limit > 0 ? options->memory_limit : mb_free_memory() / 2;
    const size_t room = limit / bytes_of_token(network) / windows->window;
    size_t used = (tokens + windows->window - 1) / windows->window;
    used = used < room ? used : room;
    used = used < windows->count ? used : windows->count;
    return used > 0 ? used : 1;
}

struct mb_encoder *mb_sequential_create(const struct mb_network *network, struct mb_encoder *base,
                                        const struct mb_sequential_options *options)
{
    const struct mb_windows *windows = mb_encoder_windows(base);
    char what[100];
    (void)snprintf(what, sizeof what, "sequential %d, windows %zu", SEQUENTIAL_REVISION,
                   windows_used(network, windows, options));
    return mb_encoder_create_over(base, what);
}

/* ---- the runs ---- */

static enum mb_status create_runs(struct sequential *s)
{
    const struct mb_windows *w = s->windows;
    s->used = windows_used(s->network, w, s->options);
    s->per_part = PART_TOKENS / w->window > 0 ? PART_TOKENS / w->window : 1;
    s->parts = (s->used + s->per_part - 1) / s->per_part;
    s->ids = malloc(s->used * w->window * sizeof *s->ids);
    s->source = calloc(s->parts + 1, sizeof(struct mb_run *));
    s->mixed = calloc(s->parts + 1, sizeof(struct mb_run *));
    if (s->ids == NULL || s->source == NULL || s->mixed == NULL)
        return mb_error_set(s->error, MB_ERR_MEMORY, -1, "out of memory for %zu windows", s->used);
    for (size_t i = 0; i < s->used; i++)
        memcpy(s->ids + i * w->window, w->tokens + i * w->count / s->used * w->window,
               w->window * sizeof *s->ids);
    for (size_t part = 0; part < 2 * s->parts; part++) {
        struct mb_run **run = (part % 2 ? s->mixed : s->source) + part / 2;
        const size_t first = part / 2 * s->per_part;
        const size_t count = s->used - first < s->per_part ? s->used - first : s->per_part;
        const enum mb_status status =
            mb_run_create(s->network, count * w->window, w->window, run, s->error);
        if (status != MB_OK)
            return status;
        (*run)->ids = s->ids + first * w->window;
        (*run)->sequences = count;
        (*run)->tokens = w->window;
    }
    return MB_OK;
}

static void destroy_runs(struct sequential *s)
{
    for (size_t part = 0; part < s->parts; part++) {
        if (s->source != NULL)
            mb_run_destroy(s->source[part]);
        if (s->mixed != NULL)
            mb_run_destroy(s->mixed[part]);
    }
    free(s->source);
    free(s->mixed);
    free(s->ids);
    mb_free_aligned(s->between);
}

static enum mb_status report(struct sequential *s, const char *what)
{
    if (mb_progress_report(s->options->progress, s->done, s->total, what) == MB_OK)
        return MB_OK;
    return mb_error_set(s->error, MB_ERR_INTERRUPTED, -1,
                        "interrupted while layers were rounded one after the other");
}

static enum mb_status failed(struct sequential *s, enum mb_status status)
{
    return mb_error_set(s->error, status, -1, "the forward pass failed: %s",
                        mb_status_string(status));
}

/* ---- sums over the inputs of a group ---- */

static void free_sums(struct sums *sums)
{
    void *const all[] = {sums->h,           sums->factor,         sums->cross,
                         sums->left,        sums->right,          sums->differences,
                         sums->sides,       sums->variances,      sums->diagonal,
                         sums->by_data,     sums->halves[0].h,    sums->halves[0].cross,
                         sums->halves[1].h, sums->halves[1].cross};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mb_free_aligned(all[i]);
    *sums = (struct sums){.k = 0};
}

static bool allocate_sums(struct sums *sums, size_t k, size_t stream, size_t threads)
{
    const size_t widest = k > stream ? k : stream;
    *sums = (struct sums){.k = k, .stream = stream, .shrink = {1.0f, 1.0f}};
    for (size_t i = 0; i < 2; i++) {
        sums->halves[i].h = mb_alloc_floats(k, k);
        sums->halves[i].cross = mb_alloc_floats(k + stream, k);
        if (sums->halves[i].h == NULL || sums->halves[i].cross == NULL)
            return false;
    }
    sums->h = mb_alloc_floats(k, k);
    sums->factor = mb_alloc_floats(k, k);
    sums->cross = mb_alloc_floats(k + stream, k);
    sums->left = mb_alloc_floats(widest, MB_GRAM_ROWS);
    sums->right = mb_alloc_floats(k, MB_GRAM_ROWS);
    sums->differences = mb_alloc_floats(widest, MB_GRAM_ROWS);
    sums->sides = mb_alloc_floats(threads * SIDES, k);
    sums->variances = mb_alloc_floats(1, k);
    sums->diagonal = mb_alloc_floats(1, k);
    return sums->h && sums->factor && sums->cross && sums->left && sums->right &&
           sums->differences && sums->sides && sums->variances && sums->diagonal;
}

/* Where a group reads, and, with a scale, where its product goes on its way to the residual stream.
 */
struct source {
    enum mb_slot in, out;
    float scale;
};

/* MB_GRAM_ROWS rows at most, of one part. */
struct batch {
    struct sums *sums;
    struct half *half;
    float *cross; /* the rows of its that `left` is for */
    size_t columns, rows;
    float weights[MB_GRAM_ROWS]; /* of the rows: roots, since they meet in pairs */
};

static void add_squares(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct batch *b = arg;
    const struct sums *s = b->sums;
    mb_select_encode()->gram_add(b->half->h, s->k, s->k, s->right, b->rows, 1.0f, first, last);
}

static void add_cross(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct batch *b = arg;
    const struct sums *s = b->sums;
    mb_select_encode()->gram_cross(b->cross, s->k, s->left, s->right, b->rows, first, last);
}

/* cross += (a - b)^T x' over the first `columns` of either; x' is packed already. */
static void add_differences(struct sequential *s, struct batch *b, const float *a,
                            const float *other, size_t stride)
{
    struct sums *sums = b->sums;
    for (size_t r = 0; r < b->rows; r++)
        for (size_t c = 0; c < b->columns; c++)
            sums->differences[r * b->columns + c] =
                b->weights[r] * (a[r * stride + c] - other[r * stride + c]);
    mb_gram_pack(sums->differences, b->columns, b->rows, b->columns, sums->left);
    mb_split(s->network->threads, b->columns / MB_GRAM_PANEL, b->rows * b->columns * sums->k,
             add_cross, b);
}

/* What joins the residual stream is divided by the stream's size at the next norm: a token of a
 * hundred times the usual size, as a first one often is, would else be all that counts. The source
 * has run the step: its stream will be h + scale * delta. */
static void weigh(struct batch *b, const float *h, const float *delta, float scale, size_t width)
{
    for (size_t r = 0; r < b->rows; r++) {
        double sum = 0.0;
        for (size_t c = r * width; h != NULL && c < (r + 1) * width; c++) {
            const double value = (double)h[c] + (double)scale * (double)delta[c];
            sum += value * value;
        }
        b->weights[r] = sum > 0.0 ? (float)(1.0 / sqrt(sum / (double)width)) : 1.0f;
    }
}

static void add_part(struct sequential *s, struct sums *sums, size_t part,
                     const struct source *from)
{
    const enum mb_slot slot = from->in;
    const struct mb_run *source = s->source[part], *mixed = s->mixed[part];
    const size_t stride = s->network->slot_width[slot],
                 width = s->network->slot_width[MB_SLOT_HIDDEN];
    for (size_t r = 0, rows; r < mixed->rows; r += rows) {
        const size_t window = r / s->windows->window, end = (window + 1) * s->windows->window;
        struct half *half = &sums->halves[window % 2];
        const float *x = mixed->slots[slot] + r * stride,
                    *stream = source->slots[MB_SLOT_HIDDEN] + r * width;
        struct batch b = {.sums = sums, .half = half, .cross = half->cross, .columns = sums->k};
        b.rows = rows = end - r < MB_GRAM_ROWS ? end - r : MB_GRAM_ROWS;
        weigh(&b, sums->stream > 0 ? stream : NULL, source->slots[from->out] + r * width,
              from->scale, width);
        for (size_t i = 0; i < b.rows; i++)
            for (size_t c = 0; c < sums->k; c++)
                sums->differences[i * sums->k + c] = b.weights[i] * x[i * stride + c];
        mb_gram_pack(sums->differences, sums->k, b.rows, sums->k, sums->right);
        mb_split(s->network->threads, mb_gram_pairs(sums->k), b.rows * sums->k * sums->k / 2,
                 add_squares, &b);
        add_differences(s, &b, source->slots[slot] + r * stride, x, stride);
        b.cross = half->cross + sums->k * sums->k;
        b.columns = sums->stream;
        if (sums->stream > 0)
            add_differences(s, &b, stream, mixed->slots[MB_SLOT_HIDDEN] + r * width, width);
        half->rows += rows;
    }
}

/* Rows [first, last) of 16 of cross, by H'^-1, in place. */
static void solve_sides(void *arg, size_t first, size_t last, size_t thread)
{
    struct sums *s = arg;
    float *v = s->sides + thread * SIDES * s->k;
    for (size_t side = first; side < last; side++) {
        float *rows = s->cross + side * SIDES * s->k;
        for (size_t j = 0; j < s->k; j++)
            for (size_t c = 0; c < SIDES; c++)
                v[j * SIDES + c] = rows[c * s->k + j];
        mb_select_encode()->gram_solve(s->factor, s->k, v);
        for (size_t j = 0; j < s->k; j++)
            for (size_t c = 0; c < SIDES; c++)
                rows[c * s->k + j] = v[j * SIDES + c];
    }
}

/* From sums over *rows rows to means: h damped and with its factor, cross by H'^-1.
 * MB_ERR_UNSUPPORTED: they say too little. */
static enum mb_status solve(struct sequential *s, struct sums *sums, size_t *rows)
{
    const size_t k = sums->k, sides = k + sums->stream;
    struct mb_threads *threads = s->network->threads;
    const float inverse = 1.0f / (float)*rows;
    for (size_t i = 0; i < sides * k; i++)
        sums->cross[i] *= inverse;
    if (!mb_moments_mean_of(sums->h, k, rows))
        return mb_error_set(s->error, MB_ERR_FILE, -1, "the model's activations are not finite");
    if (*rows == 0)
        return MB_ERR_UNSUPPORTED;
    float *packed = mb_alloc_floats(k, MB_GRAM_ROWS);
    const bool factored =
        packed != NULL && mb_moments_factor(threads, sums->h, k, sums->factor, packed);
    mb_free_aligned(packed);
    if (!factored)
        return packed == NULL ? MB_ERR_MEMORY : MB_ERR_UNSUPPORTED;
    mb_split(threads, sides / SIDES, sides * k * k, solve_sides, sums);
    return MB_OK;
}

/* Rows [k][k] as weights in f32; *data is the caller's to free. */
static enum mb_status pack_square(const float *rows, size_t k, struct mb_weights *weights,
                                  void **data)
{
    size_t bytes;
    enum mb_status status = mb_pack_size(MB_FORMAT_F32, k, k, &bytes);
    if (status == MB_OK && (*data = mb_alloc_aligned(bytes)) == NULL)
        status = MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_weights_init(weights, MB_FORMAT_F32, k, k, *data);
    return status == MB_OK ? mb_pack_rows(weights, rows, 0, k) : status;
}

/* Solved over the first half, cross explains 2 num - den of the differences in the other, when it
 * is taken whole; num / den of it is best. */
static enum mb_status validate(struct sequential *s, struct sums *sums, double num[2],
                               double den[2])
{
    const size_t k = sums->k, sides = k + sums->stream;
    const struct half *fit = &sums->halves[0], *other = &sums->halves[1];
    size_t rows = fit->rows, other_rows = other->rows;
    memcpy(sums->h, fit->h, k * k * sizeof *sums->h);
    memcpy(sums->cross, fit->cross, sides * k * sizeof *sums->cross);
    enum mb_status status = solve(s, sums, &rows);
    if (status != MB_OK)
        return status;
    float *h = mb_alloc_floats(k, k), *y = mb_alloc_floats(sides, k);
    struct mb_weights by = {.data = NULL};
    void *data = NULL;
    status = h != NULL && y != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK) {
        memcpy(h, other->h, k * k * sizeof *h);
        (void)mb_moments_mean_of(h, k, &other_rows); /* not finite: nothing is explained */
        status = pack_square(h, k, &by, &data);
    }
    if (status == MB_OK)
        status = mb_matmul(s->network->threads, &by, sums->cross, sides, k, y, k);
    for (size_t i = 0; i < sides * k && status == MB_OK; i++) {
        num[i >= k * k] += (double)sums->cross[i] * (double)other->cross[i] / (double)other->rows;
        den[i >= k * k] += (double)sums->cross[i] * (double)y[i];
    }
    mb_free_aligned(h);
    mb_free_aligned(y);
    mb_free_aligned(data);
    return status;
}

/* Of many inputs and few tokens, least squares explains more than there is: what it found counts
 * for as much as it does on windows that it was not found on. */
static enum mb_status find_shrink(struct sequential *s, struct sums *sums)
{
    double num[2] = {0}, den[2] = {0};
    const enum mb_status status = validate(s, sums, num, den);
    for (size_t i = 0; i < 2; i++) {
        const double shrink = den[i] > 0.0 ? num[i] / den[i] : 0.0;
        sums->shrink[i] = (float)(shrink > 1.0 ? 1.0 : shrink > 0.0 ? shrink : 0.0);
    }
    return status;
}

/* From sums to H', its factor and the corrections. MB_ERR_UNSUPPORTED: they say too little. */
static enum mb_status finish_sums(struct sequential *s, struct sums *sums, float scale)
{
    const size_t k = sums->k, sides = k + sums->stream;
    float *turned = sums->halves[0].h; /* G transposed, in a place that is free by then */
    enum mb_status status = MB_OK;
    sums->rows = sums->halves[0].rows + sums->halves[1].rows;
    if (sums->rows < k)
        return MB_ERR_UNSUPPORTED;
    if (!s->options->whole && sums->halves[1].rows > 0)
        status = find_shrink(s, sums);
    for (size_t i = 0; i < k * k; i++)
        sums->h[i] = sums->halves[0].h[i] + sums->halves[1].h[i];
    for (size_t i = 0; i < sides * k; i++)
        sums->cross[i] = sums->halves[0].cross[i] + sums->halves[1].cross[i];
    if (status == MB_OK)
        status = solve(s, sums, &sums->rows);
    if (status != MB_OK)
        return status;
    for (size_t i = 0; i < k; i++) {
        sums->variances[i] = sums->factor[i * k + i];
        sums->diagonal[i] = sums->h[i * k + i];
        for (size_t j = 0; j < k; j++)
            turned[j * k + i] = sums->shrink[0] * sums->cross[i * k + j];
    }
    for (size_t i = k * k; i < sides * k; i++)
        sums->cross[i] *= sums->shrink[1] / scale;
    return pack_square(turned, k, &sums->by, &sums->by_data);
}

/* ---- rounding ---- */

/* The format that a matrix is to get; MB_FORMAT_NONE: it stays. */
static enum mb_format target_of(const struct sequential *s, size_t matrix)
{
    const size_t tensor = s->network->matrices[matrix].tensor;
    const enum mb_format format = s->options->formats[tensor];
    return format == mb_model_tensor_at(s->network->model, tensor)->format ? MB_FORMAT_NONE
                                                                           : format;
}

/* Whether sums over its inputs lead anywhere. */
static bool is_corrected(const struct sequential *s, size_t matrix)
{
    const enum mb_format format = target_of(s, matrix);
    return format != MB_FORMAT_NONE && matrix != s->network->embedding &&
           s->network->matrices[matrix].k % (2 * MB_GRAM_PANEL) == 0;
}

static enum mb_status round_group(struct sequential *s, const size_t *matrices, size_t count,
                                  const struct source *from)
{
    const struct mb_network *network = s->network;
    const size_t k = network->matrices[matrices[0]].k;
    const size_t width = network->slot_width[MB_SLOT_HIDDEN];
    const size_t stream = from->scale != 0.0f && width % MB_GRAM_PANEL == 0 ? width : 0;
    const size_t threads = network->threads ? mb_threads_count(network->threads) : 1;
    struct sums sums;
    enum mb_status status = allocate_sums(&sums, k, stream, threads) ? MB_OK : MB_ERR_MEMORY;
    for (size_t part = 0; part < s->parts && status == MB_OK; part++) {
        add_part(s, &sums, part, from);
        status = report(s, "what layers read");
    }
    if (status == MB_OK)
        status = finish_sums(s, &sums, from->scale);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        const struct mb_second_moments moments = {.k = k,
                                                  .h = sums.h,
                                                  .factor = sums.factor,
                                                  .variances = sums.variances,
                                                  .diagonal = sums.diagonal};
        const struct mb_correction correction = {.by = &sums.by,
                                                 .added = stream > 0 ? sums.cross + k * k : NULL,
                                                 .between = stream > 0 ? s->between : NULL};
        status = mb_encoder_make(s->encoder, network->matrices[matrices[i]].tensor,
                                 target_of(s, matrices[i]), &moments, &correction,
                                 s->options->progress, s->done, s->total, s->error);
    }
    free_sums(&sums);
    if (status == MB_ERR_MEMORY)
        return mb_error_set(s->error, status, -1,
                            "out of memory for the second moments of %zu columns", k);
    return status == MB_ERR_UNSUPPORTED ? MB_OK : status; /* then they are the base's */
}

/* Scale of the residual stream's addition that follows a step; 0: its products go elsewhere. */
static float stream_scale(const struct mb_network *network, size_t index)
{
    const struct mb_step *step = &network->steps[index], *next = step + 1;
    if (index + 1 >= network->step_count || step->product_count != 1 || next->kind != MB_STEP_ADD ||
        next->out != MB_SLOT_HIDDEN || next->in != step->products[0].out)
        return 0.0f;
    return next->scale != 0.0f ? next->scale : 1.0f;
}

static enum mb_status round_step(struct sequential *s, size_t index)
{
    const struct mb_step *step = &s->network->steps[index];
    const struct source from = {step->in, step->products[0].out, stream_scale(s->network, index)};
    bool taken[MB_MAX_PRODUCTS] = {false};
    enum mb_status status = MB_OK;
    for (size_t p = 0; p < step->product_count && status == MB_OK; p++) {
        size_t group[MB_MAX_PRODUCTS], count = 0;
        for (size_t q = p; q < step->product_count; q++) {
            const size_t matrix = step->products[q].matrix;
            if (taken[q] || !is_corrected(s, matrix) ||
                s->network->matrices[matrix].k != s->network->matrices[step->products[p].matrix].k)
                continue;
            taken[q] = true;
            group[count++] = matrix;
        }
        if (count > 0)
            status = round_group(s, group, count, &from);
    }
    return status;
}

/* ---- stepping ---- */

/* A step of both runs, the mixed one with product `product` (or the embedding) as it is rounded. */
static enum mb_status run_replaced(struct sequential *s, size_t index, size_t product,
                                   size_t matrix)
{
    const enum mb_format format = target_of(s, matrix);
    const bool embeds = s->network->steps[index].kind == MB_STEP_EMBED;
    struct mb_requantized as = {.rows = NULL};
    const void *stored = NULL;
    size_t bytes;
    enum mb_status status = MB_OK;
    if (format != MB_FORMAT_NONE) {
        status =
            mb_encoder_stored(s->encoder, s->network->matrices[matrix].tensor, format, false,
                              s->options->progress, s->done, s->total, &stored, &bytes, s->error);
        if (status == MB_OK)
            status = mb_requantize(s->network, matrix, format, MB_NUMERICS_F32, NULL, NULL, stored,
                                   bytes, &as, s->error);
    }
    for (size_t part = 0; part < s->parts && status == MB_OK; part++) {
        struct mb_run *run = s->mixed[part];
        run->replacement = format != MB_FORMAT_NONE ? &as.replacement : NULL;
        status = embeds ? mb_run_steps(run, index, index + 1)
                        : mb_run_products(run, index, 1u << product);
        run->replacement = NULL;
        status = status == MB_OK ? report(s, "layers") : failed(s, status);
    }
    mb_requantized_free(&as);
    return status;
}

static double work_of(const struct mb_network *network, const struct mb_step *step)
{
    double work = 0;
    for (size_t p = 0; p < step->product_count; p++) {
        const struct mb_matrix *matrix = &network->matrices[step->products[p].matrix];
        work += (double)matrix->n * (double)matrix->k;
    }
    return work;
}

static enum mb_status do_step(struct sequential *s, size_t index)
{
    const struct mb_step *step = &s->network->steps[index];
    const bool multiplies = step->kind == MB_STEP_PRODUCTS || step->kind == MB_STEP_EXPERTS;
    enum mb_status status = MB_OK;
    for (size_t part = 0; part < s->parts && status == MB_OK; part++) {
        status = mb_run_steps(s->source[part], index, index + 1);
        if (status == MB_OK && !multiplies && step->kind != MB_STEP_EMBED)
            status = mb_run_steps(s->mixed[part], index, index + 1);
        status = status == MB_OK ? report(s, "layers") : failed(s, status);
    }
    if (status == MB_OK && step->kind == MB_STEP_PRODUCTS)
        status = round_step(s, index);
    if (status == MB_OK && step->kind == MB_STEP_EMBED)
        status = run_replaced(s, index, 0, s->network->embedding);
    for (size_t p = 0; multiplies && p < step->product_count && status == MB_OK; p++)
        status = run_replaced(s, index, p, step->products[p].matrix);
    s->done += work_of(s->network, step);
    return status;
}

enum mb_status mb_sequential_run(struct mb_network *network, struct mb_encoder *encoder,
                                 const struct mb_sequential_options *options,
                                 struct mb_error *error)
{
    struct sequential s = {.network = network,
                           .encoder = encoder,
                           .options = options,
                           .windows = mb_encoder_windows(encoder),
                           .error = error};
    const struct mb_matrix *head = &network->matrices[network->output];
    for (size_t i = 0; i < network->step_count; i++)
        s.total += work_of(network, &network->steps[i]);
    s.total += (double)head->n * (double)head->k;
    enum mb_status status = create_runs(&s);
    if (status == MB_OK)
        status = mb_stream_fisher(s.source, s.parts, options->progress, s.total, &s.between, error);
    for (size_t i = 0; i < network->step_count && status == MB_OK; i++)
        status = do_step(&s, i);
    if (status == MB_OK && is_corrected(&s, network->output))
        status = round_group(&s, &network->output, 1, &(struct source){.in = MB_SLOT_NORMED});
    destroy_runs(&s);
    return status;
}
