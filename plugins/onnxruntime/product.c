/* SPDX-License-Identifier: Apache-2.0 */
/* See product.h.
 *
 * Work is cut into many small tasks, each of which needs nothing but what the step before left: the
 * host's loop promises neither how many of its threads take part nor that they do at the same time,
 * so nothing may wait for another task. First rows of activations are prepared, then every (part of
 * the weights, block of rows) is a product of its own.
 *
 * Accuracy beyond int8 comes from several int8 rows for one row of activations: the first is the
 * row rounded to int8, the next what the rounding has left, and so on; their products are added up.
 * Each takes 1/254 of the largest of 32 off the error, and all read the weights once. */
#include "product.h"
#include "scratch.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    ALIGNMENT = 64,
    BLOCK_ROWS = 128,
    LANES = 8,               /* of loops that compilers turn into vectors */
    SLAB_ROWS = 1024,        /* prepared at a time: bounds the memory for activations */
    ROWS_PER_TASK = 4,       /* of preparing */
    PREPARE_ALONE = 1 << 14, /* activations, */
    MULTIPLY_ALONE = 1 << 18 /* products that are not worth a wake-up */
};

/* One slab of rows. */
struct slab {
    const struct mb_ort_product *product;
    size_t row0, m, terms;
    uint8_t *rows; /* int8 records; of a block: all first terms, all second terms ... */
    uint8_t *sums; /* records of sums of activations over a block of weights, where there is a
                      shift */
    size_t row_bytes, sum_bytes;
    _Atomic int status;
};

static size_t aligned(size_t bytes) { return mb_ort_round_up(bytes, ALIGNMENT); }

static size_t terms_of(enum mb_ort_accuracy accuracy)
{
    return accuracy == MB_ORT_INT8 ? 1 : accuracy == MB_ORT_FLOAT ? 3 : 2;
}

static void note(struct slab *slab, enum mb_status status)
{
    if (status != MB_OK)
        atomic_store(&slab->status, (int)status);
}

/* ---- activations ----------------------------------------------------------------------------- */

/* Where a row's record of a term lies. */
static uint8_t *record_of(const struct slab *slab, size_t row, size_t term)
{
    const size_t first = row / BLOCK_ROWS * BLOCK_ROWS, left = slab->m - first;
    const size_t rows = left < BLOCK_ROWS ? left : BLOCK_ROWS;
    return slab->rows + (first * slab->terms + term * rows + (row - first)) * slab->row_bytes;
}

static const void *input_row(const struct slab *slab, size_t row)
{
    const struct mb_ort_node *node = slab->product->node;
    return (const uint8_t *)slab->product->x +
           (slab->row0 + row) * node->k * mb_ort_float_bytes(node->type);
}

/* A row of activations as the packed columns want them. `room` is for k floats. */
static void gather_row(const struct slab *slab, size_t row, float *room, float *out)
{
    const struct mb_ort_node *node = slab->product->node;
    const struct mb_ort_columns *columns = &slab->product->weights->columns;
    const void *in = input_row(slab, row);
    if (columns->source == NULL) {
        mb_ort_read_floats(node->type, in, node->k, out);
        memset(out + node->k, 0, (columns->count - node->k) * sizeof *out);
        return;
    }
    mb_ort_read_floats(node->type, in, node->k, room);
    for (size_t i = 0; i < columns->count; i++)
        out[i] = columns->source[i] == MB_ORT_NOTHING ? 0.0f : room[columns->source[i]];
}

/* Round 32 activations to int8 with one scale: `term` gets the rounded values, `rest` keeps what is
 * left. The library rounds `term` to just these codes again. */
static void split_group(float rest[MB_ORT_GROUP], float term[MB_ORT_GROUP])
{
    static const float to_integer =
        0x1.8p23f; /* adding and subtracting it rounds to nearest even */
    float lanes[LANES] = {0.0f}, most = 0.0f;
    for (size_t i = 0; i < MB_ORT_GROUP; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float size = fabsf(rest[i + j]);
            lanes[j] = size > lanes[j] ? size : lanes[j];
        }
    for (size_t j = 0; j < LANES; j++)
        most = lanes[j] > most ? lanes[j] : most;
    const float scale = most < 0x1p-120f ? 0.0f : most / 127.0f;
    const float inverse = most < 0x1p-120f ? 0.0f : 127.0f / most;
    for (size_t i = 0; i < MB_ORT_GROUP; i++) {
        const float code = (rest[i] * inverse + to_integer) - to_integer;
        term[i] = code * scale;
        rest[i] -= term[i];
    }
}

static void add_sums(const struct mb_ort_columns *columns, const float *term, float *sums)
{
    for (size_t g = 0; g < columns->count / MB_ORT_GROUP; g++) {
        float lanes[LANES] = {0.0f}, sum = 0.0f;
        for (size_t i = 0; i < MB_ORT_GROUP; i += LANES)
            for (size_t j = 0; j < LANES; j++)
                lanes[j] += term[g * MB_ORT_GROUP + i + j];
        for (size_t j = 0; j < LANES; j++)
            sum += lanes[j];
        sums[columns->block[g]] += sum;
    }
}

static enum mb_status prepare_record(enum mb_activation type, size_t k, const float *values,
                                     void *record)
{
    struct mb_activations one;
    const enum mb_status status = mb_activations_init(&one, type, 1, k, record);
    return status == MB_OK ? mb_activations_prepare(&one, values, k, 0, 1) : status;
}

/* `room`: three rows of columns (or k, if more), then one of sums. */
static enum mb_status prepare_row(const struct slab *slab, size_t row, float *room)
{
    const struct mb_ort_weights *weights = slab->product->weights;
    const size_t count = weights->columns.count, k = slab->product->node->k;
    const size_t width = k > count ? k : count;
    float *rest = room, *term = room + width, *sums = room + 3 * width;
    enum mb_status status = MB_OK;
    gather_row(slab, row, room + 2 * width, rest);
    if (slab->terms == 1 && !weights->has_shift)
        return prepare_record(MB_ACTIVATION_I8G32, count, rest, record_of(slab, row, 0));
    for (size_t b = 0; b < weights->blocks; b++)
        sums[b] = 0.0f;
    for (size_t t = 0; t < slab->terms && status == MB_OK; t++) {
        for (size_t i = 0; i < count; i += MB_ORT_GROUP)
            split_group(rest + i, term + i);
        if (weights->has_shift)
            add_sums(&weights->columns, term, sums);
        status = prepare_record(MB_ACTIVATION_I8G32, count, term, record_of(slab, row, t));
    }
    if (weights->has_shift && status == MB_OK)
        status = prepare_record(MB_ACTIVATION_F32, weights->blocks, sums,
                                slab->sums + row * slab->sum_bytes);
    return status;
}

/* Rows that the library can read where they are. */
static bool is_plain_input(const struct slab *slab)
{
    const struct mb_ort_node *node = slab->product->node;
    const struct mb_ort_weights *weights = slab->product->weights;
    return slab->terms == 1 && node->type == ORT_TYPE_FLOAT && !weights->has_shift &&
           weights->columns.source == NULL && weights->columns.count == node->k;
}

static void prepare_rows(void *arg, size_t index)
{
    struct slab *slab = arg;
    const struct mb_ort_weights *weights = slab->product->weights;
    const size_t count = weights->columns.count, k = slab->product->node->k;
    const size_t begin = index * ROWS_PER_TASK,
                 end = begin + ROWS_PER_TASK < slab->m ? begin + ROWS_PER_TASK : slab->m;
    if (is_plain_input(slab)) {
        for (size_t r = begin; r < end; r++)
            note(slab,
                 prepare_record(MB_ACTIVATION_I8G32, k, input_row(slab, r), record_of(slab, r, 0)));
        return;
    }
    struct mb_ort_scratch *room =
        mb_ort_borrow((3 * (k > count ? k : count) + weights->blocks) * sizeof(float));
    for (size_t r = begin; r < end && room != NULL; r++)
        note(slab, prepare_row(slab, r, room->data));
    note(slab, room != NULL ? MB_OK : MB_ERR_MEMORY);
    mb_ort_return(room);
}

/* ---- products -------------------------------------------------------------------------------- */

/* One part of the weights times one block of rows. */
struct tile {
    const struct slab *slab;
    size_t part, n0, n, row0, m;
};

/* What a tile's products are written to before they are added up. */
struct buffers {
    float *main, *fine, *shift; /* [terms][m][n], [m][n], [m][n] */
    void *workspace;
};

static enum mb_status multiply(const struct mb_weights *w, enum mb_activation type, size_t m,
                               void *records, float *y, size_t y_stride, void *workspace)
{
    struct mb_activations x;
    const enum mb_status status = mb_activations_init(&x, type, m, w->k, records);
    return status == MB_OK ? mb_matmul_range(w, &x, 0, w->n, y, y_stride, workspace) : status;
}

static enum mb_status workspace_bytes(const struct mb_weights *w, enum mb_activation type, size_t m,
                                      void *records, size_t *most)
{
    struct mb_activations x;
    size_t bytes = 0;
    enum mb_status status = mb_activations_init(&x, type, m, w->k, records);
    if (status == MB_OK)
        status = mb_workspace_size(w, &x, &bytes);
    *most = bytes > *most ? bytes : *most;
    return status;
}

static bool is_plain_output(const struct slab *slab)
{
    const struct mb_ort_weights *weights = slab->product->weights;
    return slab->terms == 1 && slab->product->node->type == ORT_TYPE_FLOAT && !weights->has_shift &&
           !weights->has_fine;
}

static void *output_row(const struct tile *tile, size_t row)
{
    const struct mb_ort_product *product = tile->slab->product;
    return (uint8_t *)product->y +
           ((tile->slab->row0 + tile->row0 + row) * product->node->n + tile->n0) *
               mb_ort_float_bytes(product->node->type);
}

/* Take the row's power of two back. */
static void scale_row(const struct tile *tile, float *y)
{
    const struct mb_ort_product *product = tile->slab->product;
    const float *scale = product->weights->row_scale + tile->n0;
    for (size_t j = 0; j < tile->n && product->weights->is_scaled; j++)
        y[j] *= scale[j];
}

static void add_row(float *y, const float *more, size_t n, float factor)
{
    for (size_t j = 0; j < n; j++)
        y[j] += more[j] * factor;
}

static void finish_tile(const struct tile *tile, const struct buffers *buffers)
{
    const struct mb_ort_product *product = tile->slab->product;
    const bool plain = is_plain_output(tile->slab);
    for (size_t r = 0; r < tile->m; r++) {
        float *y = plain ? output_row(tile, r) : buffers->main + r * tile->n;
        for (size_t t = 1; t < tile->slab->terms; t++)
            add_row(y, buffers->main + (t * tile->m + r) * tile->n, tile->n, 1.0f);
        if (product->weights->has_fine)
            add_row(y, buffers->fine + r * tile->n, tile->n, 1.0f / MB_ORT_FINE);
        if (product->weights->has_shift)
            add_row(y, buffers->shift + r * tile->n, tile->n, 1.0f);
        scale_row(tile, y);
        if (product->bias != NULL)
            add_row(y, product->bias + tile->n0, tile->n, 1.0f);
        if (!plain)
            mb_ort_write_floats(product->node->type, y, tile->n, output_row(tile, r));
    }
}

/* Room for a tile; *scratch is to be returned. */
static enum mb_status make_room(const struct tile *tile, struct buffers *buffers,
                                struct mb_ort_scratch **scratch)
{
    const struct slab *slab = tile->slab;
    const struct mb_ort_weights *w = slab->product->weights;
    const bool plain = is_plain_output(slab);
    const size_t matrix = aligned(tile->m * tile->n * sizeof(float));
    const size_t main_bytes = plain ? 0 : aligned(slab->terms * tile->m * tile->n * sizeof(float));
    size_t workspace = 0;
    enum mb_status status =
        workspace_bytes(&w->main[tile->part], MB_ACTIVATION_I8G32, slab->terms * tile->m,
                        record_of(slab, tile->row0, 0), &workspace);
    if (status == MB_OK && w->has_fine)
        status = workspace_bytes(&w->fine[tile->part], MB_ACTIVATION_I8G32, tile->m,
                                 record_of(slab, tile->row0, 0), &workspace);
    if (status == MB_OK && w->has_shift)
        status = workspace_bytes(&w->shift[tile->part], MB_ACTIVATION_F32, tile->m, slab->sums,
                                 &workspace);
    if (status != MB_OK)
        return status;
    *scratch = mb_ort_borrow(main_bytes + 2 * matrix + workspace);
    if (*scratch == NULL)
        return MB_ERR_MEMORY;
    uint8_t *at = (*scratch)->data;
    buffers->main = (float *)(void *)at;
    buffers->fine = (float *)(void *)(at + main_bytes);
    buffers->shift = (float *)(void *)(at + main_bytes + matrix);
    buffers->workspace = at + main_bytes + 2 * matrix;
    return MB_OK;
}

static void multiply_tile(void *arg, size_t index)
{
    struct slab *slab = arg;
    const struct mb_ort_weights *w = slab->product->weights;
    const size_t part = index % w->parts, row0 = index / w->parts * BLOCK_ROWS;
    const struct tile tile = {
        .slab = slab,
        .part = part,
        .n0 = part * w->part_rows,
        .n = mb_ort_part_rows(w, part),
        .row0 = row0,
        .m = slab->m - row0 < BLOCK_ROWS ? slab->m - row0 : BLOCK_ROWS,
    };
    const bool plain = is_plain_output(slab);
    struct mb_ort_scratch *scratch = NULL;
    struct buffers buffers;
    uint8_t *records = record_of(slab, row0, 0);
    enum mb_status status = make_room(&tile, &buffers, &scratch);
    if (status == MB_OK)
        status = multiply(&w->main[part], MB_ACTIVATION_I8G32, slab->terms * tile.m, records,
                          plain ? output_row(&tile, 0) : buffers.main,
                          plain ? slab->product->node->n : tile.n, buffers.workspace);
    if (status == MB_OK && w->has_fine)
        status = multiply(&w->fine[part], MB_ACTIVATION_I8G32, tile.m, records, buffers.fine,
                          tile.n, buffers.workspace);
    if (status == MB_OK && w->has_shift)
        status =
            multiply(&w->shift[part], MB_ACTIVATION_F32, tile.m,
                     slab->sums + row0 * slab->sum_bytes, buffers.shift, tile.n, buffers.workspace);
    if (status == MB_OK)
        finish_tile(&tile, &buffers);
    note(slab, status);
    mb_ort_return(scratch);
}

/* ---- all rows -------------------------------------------------------------------------------- */

void mb_ort_for_each(const struct ort_api *api, const struct ort_kernel_context *context,
                     size_t total, void (*task)(void *arg, size_t index), void *arg)
{
    if (total > 1 &&
        mb_ort_succeeds(api, api->KernelContext_ParallelFor(context, task, total, 0, arg)))
        return;
    for (size_t i = 0; i < total; i++)
        task(arg, i);
}

static void run(const struct ort_api *api, const struct ort_kernel_context *context, bool alone,
                size_t total, void (*task)(void *arg, size_t index), struct slab *slab)
{
    if (!alone) {
        mb_ort_for_each(api, context, total, task, slab);
        return;
    }
    for (size_t i = 0; i < total; i++)
        task(slab, i);
}

static void run_slab(const struct ort_api *api, const struct ort_kernel_context *context,
                     struct slab *slab)
{
    const struct mb_ort_weights *w = slab->product->weights;
    const size_t values = slab->m * slab->terms * w->columns.count;
    run(api, context, values <= PREPARE_ALONE, (slab->m + ROWS_PER_TASK - 1) / ROWS_PER_TASK,
        prepare_rows, slab);
    if (atomic_load(&slab->status) != MB_OK)
        return;
    run(api, context, values <= MULTIPLY_ALONE / w->n,
        w->parts * ((slab->m + BLOCK_ROWS - 1) / BLOCK_ROWS), multiply_tile, slab);
}

enum mb_status mb_ort_multiply_rows(const struct ort_api *api,
                                    const struct ort_kernel_context *context,
                                    const struct mb_ort_product *product)
{
    const struct mb_ort_weights *w = product->weights;
    struct slab slab = {.product = product, .terms = terms_of(product->node->accuracy)};
    enum mb_status status =
        mb_activations_size(MB_ACTIVATION_I8G32, 1, w->columns.count, &slab.row_bytes);
    if (status == MB_OK && w->has_shift)
        status = mb_activations_size(MB_ACTIVATION_F32, 1, w->blocks, &slab.sum_bytes);
    if (status != MB_OK)
        return status;
    const size_t most = product->m < SLAB_ROWS ? product->m : SLAB_ROWS;
    struct mb_ort_scratch *records =
        mb_ort_borrow(most * (slab.terms * slab.row_bytes + slab.sum_bytes));
    if (records == NULL)
        return MB_ERR_MEMORY;
    slab.rows = records->data;
    slab.sums = slab.rows + most * slab.terms * slab.row_bytes;
    for (; slab.row0 < product->m && status == MB_OK; slab.row0 += slab.m) {
        const size_t left = product->m - slab.row0;
        slab.m = left < SLAB_ROWS ? left : SLAB_ROWS;
        run_slab(api, context, &slab);
        status = (enum mb_status)atomic_load(&slab.status);
    }
    mb_ort_return(records);
    return status;
}
