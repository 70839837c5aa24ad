/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a graph.
 *
 * What comes here is a run of products whose weights lie in our buffers, with views between them.
 * Neighbours that do not read each other's results (q, k and v; gate and up) are one dispatch, and
 * an input that several of them read is prepared once. That holds within one call only: nothing
 * tells whether a tensor still has the content that it had in the call before. */
#include "compute.h"
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

enum { GROUP = 16, ALIGNMENT = 64, PREPARE_ALONE = 1 << 14 };

/* A product as the library sees it. */
struct product {
    const struct ggml_tensor *node;
    struct mb_weights weights;
    const float *x;
    size_t m, x_stride;
    float *y;
    size_t y_stride;
};

void *mb_ggml_scratch(struct mb_ggml_scratch *scratch, size_t bytes)
{
    if (scratch->bytes < bytes) {
        free(scratch->data);
        scratch->bytes = 0;
        scratch->data =
            bytes > SIZE_MAX - ALIGNMENT
                ? NULL
                : aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        if (scratch->data != NULL)
            scratch->bytes = bytes;
    }
    return scratch->data;
}

/* ---- which nodes -------------------------------------------------------------------------- */

static size_t elements(const struct ggml_tensor *t)
{
    return (size_t)t->ne[0] * (size_t)t->ne[1] * (size_t)t->ne[2] * (size_t)t->ne[3];
}

static bool has_elements(const struct ggml_tensor *t)
{
    return t->ne[0] > 0 && t->ne[1] > 0 && t->ne[2] > 0 && t->ne[3] > 0;
}

/* Rows of floats that lie a fixed number of floats apart over all dimensions. */
static bool is_rows(const struct ggml_tensor *t)
{
    const bool matrix = t->ne[2] == 1 && t->ne[3] == 1;
    return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float) && t->nb[1] % sizeof(float) == 0 &&
           t->nb[1] >= (size_t)t->ne[0] * sizeof(float) &&
           (matrix ||
            (t->nb[2] == t->nb[1] * (size_t)t->ne[1] && t->nb[3] == t->nb[2] * (size_t)t->ne[2]));
}

static bool can_prepare(const struct mb_ggml_packing *packing)
{
    size_t bytes;
    return mb_activations_size(mb_matmul_activation(packing->format->id), 1, packing->k, &bytes) ==
           MB_OK;
}

/* Weights that lie nowhere yet are asked about by hosts that will put them where we want them. */
static bool is_weights(const struct ggml_tensor *w, struct mb_ggml_packing *packing)
{
    return mb_ggml_packing_of(w, packing) && can_prepare(packing) &&
           (mb_ggml_is_ours(w) || (w->buffer == NULL && mb_ggml_op_of(w) == MB_GGML_OP_NOTHING));
}

bool mb_ggml_supports(const struct ggml_tensor *node)
{
    const enum mb_ggml_op op = mb_ggml_op_of(node);
    if (op == MB_GGML_OP_NOTHING)
        return true;
    const struct ggml_tensor *w = node->src[0], *x = node->src[1], *ids = node->src[2];
    struct mb_ggml_packing packing;
    if (op == MB_GGML_OP_OTHER || w == NULL || x == NULL || !is_weights(w, &packing) ||
        !is_rows(x) || !is_rows(node) || !has_elements(x) || !has_elements(node))
        return false;
    if (op == MB_GGML_OP_MUL_MAT)
        return packing.matrices == 1 && x->ne[0] == w->ne[0] && node->ne[0] == w->ne[1] &&
               elements(node) / packing.n == elements(x) / packing.k;
    return ids != NULL && ids->type == GGML_TYPE_I32 && ids->nb[0] == sizeof(int32_t) &&
           ids->ne[2] == 1 && ids->ne[3] == 1 && w->ne[3] == 1 && x->ne[3] == 1 &&
           node->ne[3] == 1 && x->ne[0] == w->ne[0] && node->ne[0] == w->ne[1] &&
           ids->ne[0] == node->ne[1] && ids->ne[1] == node->ne[2] && x->ne[2] == ids->ne[1] &&
           (x->ne[1] == 1 || x->ne[1] == ids->ne[0]);
}

/* ---- products ----------------------------------------------------------------------------- */

enum mb_status mb_ggml_weights_of(struct mb_ggml_compute *compute, const struct ggml_tensor *tensor,
                                  size_t i, struct mb_weights *weights)
{
    struct mb_ggml_packing packing;
    if (!mb_ggml_packing_of(tensor, &packing) || i >= packing.matrices || tensor->data == NULL)
        return MB_ERR_UNSUPPORTED;
    if (mb_ggml_is_ours(tensor))
        return mb_ggml_weights(&packing, tensor->data, i, weights);
    void *room = mb_ggml_scratch(&compute->packed, packing.stride);
    enum mb_status status =
        room == NULL ? MB_ERR_MEMORY : mb_ggml_weights(&packing, room, 0, weights);
    if (status == MB_OK)
        status =
            mb_pack_rows(weights, (const uint8_t *)tensor->data + i * packing.n * packing.row_bytes,
                         0, packing.n);
    return status;
}

struct preparing {
    const struct mb_activations *activations;
    const float *x;
    size_t x_stride;
};

static void prepare_part(void *arg, size_t index, size_t count)
{
    const struct preparing *p = arg;
    const size_t m = p->activations->m;
    (void)mb_activations_prepare(p->activations, p->x, p->x_stride, m * index / count,
                                 m * (index + 1) / count);
}

enum mb_status mb_ggml_prepare(struct mb_threads *pool, const struct mb_activations *activations,
                               const float *x, size_t x_stride)
{
    struct preparing preparing = {activations, x, x_stride};
    if (activations->m * activations->k <= PREPARE_ALONE)
        return mb_activations_prepare(activations, x, x_stride, 0, activations->m);
    mb_threads_run(pool, prepare_part, &preparing);
    return MB_OK;
}

static enum mb_status describe(struct mb_ggml_compute *compute, const struct ggml_tensor *node,
                               struct product *product)
{
    const struct ggml_tensor *x = node->src[1];
    *product = (struct product){
        .node = node,
        .x = x->data,
        .m = elements(x) / (size_t)x->ne[0],
        .x_stride = x->nb[1] / sizeof(float),
        .y = node->data,
        .y_stride = node->nb[1] / sizeof(float),
    };
    return mb_ggml_weights_of(compute, node->src[0], 0, &product->weights);
}

static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    const uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    return first < second + b_bytes && second < first + a_bytes;
}

/* Whether a product can run beside the others: it reads none of their results and writes over none.
 * It may write over their inputs, which are prepared by then. */
static bool is_independent(const struct product *product, const struct product *others,
                           size_t count)
{
    const size_t x_bytes = product->m * product->x_stride * sizeof(float);
    const size_t y_bytes = product->m * product->y_stride * sizeof(float);
    for (size_t i = 0; i < count; i++) {
        const size_t bytes = others[i].m * others[i].y_stride * sizeof(float);
        if (overlap(product->x, x_bytes, others[i].y, bytes) ||
            overlap(product->y, y_bytes, others[i].y, bytes))
            return false;
    }
    return true;
}

static bool same_input(const struct product *a, const struct product *b)
{
    return a->x == b->x && a->m == b->m && a->x_stride == b->x_stride &&
           a->weights.k == b->weights.k &&
           mb_matmul_activation(a->weights.format) == mb_matmul_activation(b->weights.format);
}

/* Prepare every input once; `inputs` gets one entry per product, which may be equal. */
static enum mb_status prepare_inputs(struct mb_ggml_compute *compute, struct mb_threads *pool,
                                     const struct product *products, size_t count,
                                     struct mb_activations *own,
                                     const struct mb_activations **inputs)
{
    size_t at[GROUP], total = 0;
    for (size_t i = 0; i < count; i++) {
        size_t same = 0, bytes;
        while (!same_input(&products[i], &products[same]))
            same++;
        inputs[i] = &own[same];
        at[i] = total;
        if (same < i)
            continue;
        const enum mb_status status =
            mb_activations_size(mb_matmul_activation(products[i].weights.format), products[i].m,
                                products[i].weights.k, &bytes);
        if (status != MB_OK)
            return status;
        total += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    uint8_t *room = mb_ggml_scratch(&compute->activations, total);
    enum mb_status status = room == NULL ? MB_ERR_MEMORY : MB_OK;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        if (inputs[i] != &own[i])
            continue;
        status = mb_activations_init(&own[i], mb_matmul_activation(products[i].weights.format),
                                     products[i].m, products[i].weights.k, room + at[i]);
        if (status == MB_OK)
            status = mb_ggml_prepare(pool, &own[i], products[i].x, products[i].x_stride);
    }
    return status;
}

static enum mb_status run_group(struct mb_ggml_compute *compute, struct mb_threads *pool,
                                const struct product *products, size_t count)
{
    if (count == 1)
        return mb_matmul(pool, &products->weights, products->x, products->m, products->x_stride,
                         products->y, products->y_stride);
    struct mb_activations own[GROUP];
    const struct mb_activations *inputs[GROUP];
    const struct mb_weights *weights[GROUP];
    float *y[GROUP];
    size_t y_stride[GROUP];
    const enum mb_status status = prepare_inputs(compute, pool, products, count, own, inputs);
    if (status != MB_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        weights[i] = &products[i].weights;
        y[i] = products[i].y;
        y_stride[i] = products[i].y_stride;
    }
    return mb_matmul_group(pool, count, weights, inputs, y, y_stride);
}

/* ---- the graph ---------------------------------------------------------------------------- */

static bool is_skipped(const struct ggml_tensor *node)
{
    return mb_ggml_op_of(node) == MB_GGML_OP_NOTHING ||
           (mb_ggml_host.layout.compute_flag && (node->flags & GGML_FLAG_COMPUTE) == 0);
}

/* Products from node `first` on that can run at once; *next is the first node behind them. */
static enum mb_status collect(struct mb_ggml_compute *compute, struct ggml_graph *graph, int first,
                              struct product *products, size_t *count, int *next)
{
    const int nodes = mb_ggml_host.ggml_graph_n_nodes(graph);
    *count = 0;
    for (*next = first; *next < nodes && *count < GROUP; ++*next) {
        const struct ggml_tensor *node = mb_ggml_host.ggml_graph_node(graph, *next);
        if (is_skipped(node))
            continue;
        if (mb_ggml_op_of(node) != MB_GGML_OP_MUL_MAT)
            break;
        /* One scratch for weights that are packed here: such products run alone. */
        if (*count > 0 && !mb_ggml_is_ours(node->src[0]))
            break;
        const enum mb_status status = describe(compute, node, &products[*count]);
        if (status != MB_OK)
            return status;
        if (!is_independent(&products[*count], products, *count))
            break;
        ++*count;
        if (!mb_ggml_is_ours(node->src[0])) {
            ++*next;
            break;
        }
    }
    return MB_OK;
}

static int failed(const struct ggml_tensor *node, enum mb_status status)
{
    mb_ggml_log(GGML_LOG_ERROR, "%s of %.63s failed: %s", mb_ggml_host.ggml_op_name(node->op),
                node->name, mb_status_string(status));
    return status == MB_ERR_MEMORY ? GGML_NO_MEMORY : GGML_FAILED;
}

int mb_ggml_compute_graph(struct mb_ggml_compute *compute, struct ggml_graph *graph)
{
    struct mb_threads *pool = mb_ggml_team_pool(&compute->team, compute->threads);
    const int nodes = mb_ggml_host.ggml_graph_n_nodes(graph);
    for (int i = 0; i < nodes;) {
        const struct ggml_tensor *node = mb_ggml_host.ggml_graph_node(graph, i);
        if (is_skipped(node)) {
            i++;
            continue;
        }
        if (compute->abort != NULL && compute->abort(compute->abort_user))
            return GGML_ABORTED;
        struct product products[GROUP];
        size_t count;
        enum mb_status status = MB_ERR_UNSUPPORTED;
        if (mb_ggml_op_of(node) == MB_GGML_OP_MUL_MAT) {
            status = collect(compute, graph, i, products, &count, &i);
            if (status == MB_OK)
                status = run_group(compute, pool, products, count);
        } else if (mb_ggml_op_of(node) == MB_GGML_OP_MUL_MAT_ID) {
            status = mb_ggml_experts(compute, pool, node);
            i++;
        }
        if (status != MB_OK)
            return failed(node, status);
    }
    return GGML_OK;
}

void mb_ggml_compute_end(struct mb_ggml_compute *compute)
{
    struct mb_ggml_scratch *const all[] = {&compute->activations, &compute->gathered,
                                           &compute->outputs, &compute->packed, &compute->lists};
    mb_ggml_team_end(&compute->team);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->data);
}
