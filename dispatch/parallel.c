/* SPDX-License-Identifier: Apache-2.0 */
/* Matmuls on the library's own threads.
 *
 * Outputs are counted in panels of 16, over all matrices of the call. Every thread has a contiguous
 * share of them and takes it in halving pieces; who is done early helps the others (a virtual CPU
 * may vanish for milliseconds). The canonical numbers make the result independent of who computed
 * what. */
#include "dispatch/matmul.h"
#include "support/memory.h"

enum {
    GROUP_LIMIT = 16,        /* matrices per dispatch */
    ALONE_MACS = 1 << 16,    /* less work than this is done before another thread has heard of it */
    PREPARE_TWICE = 1 << 13, /* preparing so few values costs less than a barrier */
};

struct product {
    const struct mb_selection *selection;
    const struct mb_weights *weights;
    const struct mb_activations *activations;
    float *y;
    size_t y_stride;
    size_t panel0; /* panels of the products before it */
};

struct call {
    struct mb_threads *threads; /* NULL: all on this thread */
    size_t count;
    struct product products[GROUP_LIMIT];
    size_t panels; /* of all products */
    size_t macs;
    size_t step;            /* panels that a piece is a multiple of */
    size_t workspace_bytes; /* of the most demanding product; prepared activations follow it */
    uint8_t *own_workspace; /* when threads is NULL */
    const float *x;         /* mb_matmul: what to prepare first; NULL: activations are prepared */
    size_t x_stride;
    bool prepare_each; /* every thread prepares a copy of its own */
};

static size_t panels_of(const struct mb_weights *weights)
{
    return (weights->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
}

static size_t at_least(size_t a, size_t b) { return a > b ? a : b; }

static enum mb_status add_product(struct call *call, const struct mb_weights *weights,
                                  const struct mb_activations *activations, float *y,
                                  size_t y_stride)
{
    const enum mb_status status = mb_check_operands(weights, activations);
    if (status != MB_OK)
        return status;
    const size_t m = activations->m;
    if (y == NULL)
        return MB_ERR_ARGUMENT;
    if (m > 1 && y_stride < weights->n)
        return MB_ERR_SHAPE;
    const struct mb_selection *selection = mb_select_as(weights->format, activations->type);
    call->products[call->count++] =
        (struct product){selection, weights, activations, y, y_stride, call->panels};
    call->workspace_bytes =
        at_least(call->workspace_bytes, mb_workspace_bytes_with(selection, weights, m));
    call->step = at_least(call->step, mb_selection_step(selection, m));
    call->panels += panels_of(weights);
    call->macs += m * weights->n * weights->k;
    return MB_OK;
}

static const struct product *product_at(const struct call *call, size_t panel)
{
    size_t i = call->count - 1;
    while (call->products[i].panel0 > panel)
        i--;
    return &call->products[i];
}

/* Panels [begin, end) of the call, which may belong to several products. *current is the one that
 * *job is of. own: activations to use instead of the products' (NULL: none). */
static void run_panels(const struct call *call, const struct mb_activations *own, size_t begin,
                       size_t end, const struct product **current, struct mb_job *job,
                       void *workspace)
{
    while (begin < end) {
        const struct product *product = product_at(call, begin);
        if (product != *current)
            mb_job_init(job, product->selection, product->weights,
                        own != NULL ? own : product->activations, product->y, product->y_stride,
                        workspace);
        *current = product;
        const size_t last = product->panel0 + panels_of(product->weights),
                     stop = end < last ? end : last;
        const size_t n0 = (begin - product->panel0) * MB_PANEL_ROWS;
        const size_t n1 =
            stop == last ? product->weights->n : (stop - product->panel0) * MB_PANEL_ROWS;
        mb_job_run(job, n0, n1);
        begin = stop;
    }
}

static uint8_t *workspace_of(const struct call *call, size_t index)
{
    return call->threads == NULL ? call->own_workspace
                                 : mb_threads_workspace(call->threads, index, 0);
}

/* mb_matmul: fill *own with the product's input, prepared; false when there is nothing to prepare.
 */
static bool prepare(const struct call *call, size_t index, size_t count, struct mb_activations *own)
{
    if (call->x == NULL)
        return false;
    *own = *call->products[0].activations;
    const bool all = count == 1 || call->prepare_each;
    const size_t m = own->m, row0 = all ? 0 : m * index / count,
                 row1 = all ? m : m * (index + 1) / count;
    own->data = workspace_of(call, all ? index : 0) + call->workspace_bytes;
    (void)mb_activations_prepare(own, call->x, call->x_stride, row0, row1);
    if (!all)
        mb_threads_barrier(call->threads);
    return true;
}

static void run_part(void *arg, size_t index, size_t count)
{
    const struct call *call = arg;
    struct mb_activations prepared;
    const struct mb_activations *own = prepare(call, index, count, &prepared) ? &prepared : NULL;
    const struct product *current = NULL;
    struct mb_job job;
    void *workspace = workspace_of(call, index);
    size_t begin = 0, end = call->panels;
    if (count == 1)
        run_panels(call, own, begin, end, &current, &job, workspace);
    else
        while (mb_threads_claim(call->threads, index, call->step, &begin, &end))
            run_panels(call, own, begin, end, &current, &job, workspace);
}

/* Memory for every thread that will take part, before any of them starts. */
static bool reserve(struct call *call, size_t bytes)
{
    if (call->threads == NULL) {
        call->own_workspace = mb_alloc_aligned(bytes);
        return call->own_workspace != NULL;
    }
    for (size_t i = 0; i < mb_threads_count(call->threads); i++)
        if (mb_threads_workspace(call->threads, i, bytes) == NULL)
            return false;
    return true;
}

static void run_call(struct call *call)
{
    if (mb_threads_count(call->threads) == 1 || call->macs <= ALONE_MACS) {
        run_part(call, 0, 1);
    } else {
        mb_threads_split(call->threads, call->panels);
        if (call->x != NULL && !call->prepare_each) /* they meet at a barrier: all must come */
            mb_threads_run(call->threads, run_part, call);
        else
            mb_threads_offer(call->threads, run_part, call);
    }
    if (call->threads == NULL)
        mb_free_aligned(call->own_workspace);
}

enum mb_status mb_matmul(struct mb_threads *threads, const struct mb_weights *weights,
                         const float *x, size_t m, size_t x_stride, float *y, size_t y_stride)
{
    if (weights == NULL || weights->size != sizeof *weights ||
        mb_format_info(weights->format) == NULL || x == NULL)
        return MB_ERR_ARGUMENT;
    size_t bytes, total;
    const enum mb_activation type = mb_matmul_activation(weights->format);
    enum mb_status status = mb_activations_size(type, m, weights->k, &bytes);
    if (status != MB_OK || (m > 1 && x_stride < weights->k))
        return status != MB_OK ? status : MB_ERR_SHAPE;
    /* The data is placed when the workspace is there; until then the record only describes the
     * shape. */
    struct mb_activations activations;
    status = mb_activations_init(&activations, type, m, weights->k, weights->data);
    struct call call = {.threads = threads, .x = x, .x_stride = x_stride};
    call.prepare_each = m < mb_threads_count(threads) || m * weights->k <= PREPARE_TWICE;
    if (status == MB_OK)
        status = add_product(&call, weights, &activations, y, y_stride);
    if (status != MB_OK)
        return status;
    if (!mb_add_size(call.workspace_bytes, bytes, &total) || !reserve(&call, total))
        return MB_ERR_MEMORY;
    run_call(&call);
    return MB_OK;
}

enum mb_status mb_matmul_group(struct mb_threads *threads, size_t count,
                               const struct mb_weights *const *weights,
                               const struct mb_activations *const *activations, float *const *y,
                               const size_t *y_stride)
{
    if (count == 0)
        return MB_OK;
    if (count > GROUP_LIMIT || weights == NULL || activations == NULL || y == NULL ||
        y_stride == NULL)
        return MB_ERR_ARGUMENT;
    struct call call = {.threads = threads};
    for (size_t i = 0; i < count; i++) {
        const enum mb_status status =
            add_product(&call, weights[i], activations[i], y[i], y_stride[i]);
        if (status != MB_OK)
            return status;
    }
    if (!reserve(&call, call.workspace_bytes))
        return MB_ERR_MEMORY;
    run_call(&call);
    return MB_OK;
}
