/* SPDX-License-Identifier: Apache-2.0 */
/* Products with one of several matrices per row: mixtures of experts.
 *
 * y[token][slot] = x[token][slot or 0] * w[ids[token][slot]]^T. Rows are prepared once, then sorted
 * by expert; an expert that several rows ask for gets their prepared records side by side and gives
 * its results into a scratch, from where they are spread; an expert with one row, which is all of
 * them when one token is generated, reads and writes in place. 16 experts are one dispatch. */
#include "buffer.h"
#include "compute.h"

#include <string.h>

enum { GROUP = 16, ALIGNMENT = 64 };

struct experts {
    const struct ggml_tensor *node;
    struct mb_activations input; /* all rows of x */
    size_t slots, tokens, count; /* ids is [tokens][slots]; `count` experts */
    size_t *begin;               /* [count + 1]: where an expert's rows start in `rows` */
    size_t *rows;                /* [tokens * slots]: token * slots + slot, sorted by expert */
};

/* Experts [first, end) of a dispatch, and where their rows are gathered. */
struct batch {
    const struct experts *all;
    uint8_t *gathered; /* prepared records of rows [row0, row1) */
    float *outputs;
    size_t row0, row1;
};

static int32_t expert_of(const struct ggml_tensor *ids, size_t token, size_t slot)
{
    const uint8_t *row = (const uint8_t *)ids->data + token * ids->nb[1];
    int32_t expert;
    memcpy(&expert, row + slot * sizeof expert, sizeof expert);
    return expert;
}

/* Count, then place: a stable sort of rows by expert. */
static enum mb_status sort_rows(struct experts *e)
{
    const struct ggml_tensor *ids = e->node->src[2];
    memset(e->begin, 0, (e->count + 1) * sizeof *e->begin);
    for (size_t token = 0; token < e->tokens; token++)
        for (size_t slot = 0; slot < e->slots; slot++) {
            const int32_t expert = expert_of(ids, token, slot);
            if (expert < 0 || (size_t)expert >= e->count)
                return MB_ERR_ARGUMENT;
            e->begin[expert + 1]++;
        }
    for (size_t i = 0; i < e->count; i++)
        e->begin[i + 1] += e->begin[i];
    for (size_t token = 0; token < e->tokens; token++)
        for (size_t slot = 0; slot < e->slots; slot++)
            e->rows[e->begin[expert_of(ids, token, slot)]++] = token * e->slots + slot;
    for (size_t i = e->count; i > 0; i--) /* placing has moved every start to the next one's */
        e->begin[i] = e->begin[i - 1];
    e->begin[0] = 0;
    return MB_OK;
}

static uint8_t *record_of(const struct experts *e, size_t row)
{
    const bool shared = e->node->src[1]->ne[1] == 1;
    return (uint8_t *)e->input.data + (shared ? row / e->slots : row) * e->input.row_bytes;
}

static float *output_of(const struct experts *e, size_t row)
{
    uint8_t *y = e->node->data;
    return (float *)(void *)(y + row / e->slots * e->node->nb[2] + row % e->slots * e->node->nb[1]);
}

static void gather(void *arg, size_t index, size_t count)
{
    const struct batch *b = arg;
    const size_t rows = b->row1 - b->row0, bytes = b->all->input.row_bytes;
    for (size_t i = rows * index / count; i < rows * (index + 1) / count; i++)
        memcpy(b->gathered + i * bytes, record_of(b->all, b->all->rows[b->row0 + i]), bytes);
}

static void spread(void *arg, size_t index, size_t count)
{
    const struct batch *b = arg;
    const size_t rows = b->row1 - b->row0, n = (size_t)b->all->node->ne[0];
    for (size_t i = rows * index / count; i < rows * (index + 1) / count; i++)
        memcpy(output_of(b->all, b->all->rows[b->row0 + i]), b->outputs + i * n, n * sizeof(float));
}

/* Up to 16 experts that have rows, from *expert on. */
static enum mb_status run_batch(struct mb_ggml_compute *compute, struct mb_threads *pool,
                                const struct experts *e, size_t *expert)
{
    const size_t n = (size_t)e->node->ne[0], limit = mb_ggml_is_ours(e->node->src[0]) ? GROUP : 1;
    size_t chosen[GROUP], used = 0;
    struct batch batch = {.all = e, .row0 = e->begin[*expert]};
    for (; *expert < e->count && used < limit; ++*expert)
        if (e->begin[*expert + 1] > e->begin[*expert])
            chosen[used++] = *expert;
    batch.row1 = e->begin[*expert];
    const size_t rows = batch.row1 - batch.row0;
    if (rows == 0)
        return MB_OK;
    const bool in_place = rows == used; /* one row each */
    if (!in_place) {
        batch.gathered = mb_ggml_scratch(&compute->gathered, rows * e->input.row_bytes);
        batch.outputs = mb_ggml_scratch(&compute->outputs, rows * n * sizeof(float));
        if (batch.gathered == NULL || batch.outputs == NULL)
            return MB_ERR_MEMORY;
        mb_threads_run(pool, gather, &batch);
    }
    struct mb_weights weights[GROUP];
    struct mb_activations inputs[GROUP];
    const struct mb_weights *w[GROUP];
    const struct mb_activations *a[GROUP];
    float *y[GROUP];
    size_t y_stride[GROUP];
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < used && status == MB_OK; i++) {
        const size_t row = e->begin[chosen[i]], m = e->begin[chosen[i] + 1] - row;
        inputs[i] = e->input;
        inputs[i].m = m;
        inputs[i].data = in_place ? record_of(e, e->rows[row])
                                  : batch.gathered + (row - batch.row0) * e->input.row_bytes;
        y[i] = in_place ? output_of(e, e->rows[row]) : batch.outputs + (row - batch.row0) * n;
        y_stride[i] = n;
        w[i] = &weights[i];
        a[i] = &inputs[i];
        status = mb_ggml_weights_of(compute, e->node->src[0], chosen[i], &weights[i]);
    }
    if (status == MB_OK)
        status = mb_matmul_group(pool, used, w, a, y, y_stride);
    if (status == MB_OK && !in_place)
        mb_threads_run(pool, spread, &batch);
    return status;
}

enum mb_status mb_ggml_experts(struct mb_ggml_compute *compute, struct mb_threads *pool,
                               const struct ggml_tensor *node)
{
    const struct ggml_tensor *w = node->src[0], *x = node->src[1];
    struct experts e = {.node = node,
                        .slots = (size_t)node->ne[1],
                        .tokens = (size_t)node->ne[2],
                        .count = (size_t)w->ne[2]};
    const enum mb_activation type = mb_matmul_activation((enum mb_format)w->type);
    const size_t m = (size_t)x->ne[1] * (size_t)x->ne[2], rows = e.slots * e.tokens;
    size_t bytes;
    enum mb_status status = mb_activations_size(type, m, (size_t)x->ne[0], &bytes);
    if (status != MB_OK)
        return status;
    void *room = mb_ggml_scratch(&compute->activations, bytes);
    e.begin = mb_ggml_scratch(&compute->lists, (e.count + 1 + rows) * sizeof *e.begin);
    if (room == NULL || e.begin == NULL)
        return MB_ERR_MEMORY;
    e.rows = e.begin + e.count + 1;
    status = sort_rows(&e);
    if (status == MB_OK)
        status = mb_activations_init(&e.input, type, m, (size_t)x->ne[0], room);
    if (status == MB_OK)
        status = mb_ggml_prepare(pool, &e.input, x->data, x->nb[1] / sizeof(float));
    for (size_t expert = 0; expert < e.count && status == MB_OK;)
        status = run_batch(compute, pool, &e, &expert);
    return status;
}
