/* SPDX-License-Identifier: Apache-2.0 */
/* Products with codebook matrices on top of their kernels. Activations are gathered into the order
 * of the matrix here, quantized by the kernel for i8g32 and given the units of its levels; few rows
 * are multiplied as they stand in panels, many are decoded to what q8_0 decodes to. */
#include "dispatch/codebook.h"

#include "dispatch/alone.h"
#include "dispatch/matmul.h"
#include "support/memory.h"

#include <string.h>

enum {
    ROWS = MB_PANEL_ROWS,
    GATHERED = 1024,         /* values at a time: in L1, beside what they become */
    PREPARE_ALONE = 1 << 13, /* preparing so few values is done before a thread has heard of it */
};

const char *mb_codebook_kernel(void) { return mb_select_alone(MB_OP_CODEBOOK)->name; }

void mb_codebook_explain(void (*line)(void *user, const char *text), void *user)
{
    mb_explain_alone(MB_OP_CODEBOOK, line, user);
}

static bool aligned(const void *pointer) { return pointer != NULL && (uintptr_t)pointer % 64 == 0; }

static size_t panels_of(size_t n) { return n / ROWS + (n % ROWS != 0); }

enum mb_status mb_codebook_view(const struct mb_codebook_weights *weights, size_t n0, size_t n1,
                                struct mb_codebook_weights *view)
{
    const enum mb_status status = mb_codebook_check(weights);
    if (status != MB_OK || view == NULL)
        return status != MB_OK ? status : MB_ERR_ARGUMENT;
    if (n0 >= n1 || n1 > weights->n || n0 % ROWS != 0 || (n1 % ROWS != 0 && n1 != weights->n))
        return MB_ERR_SHAPE;
    *view = *weights;
    view->row0 += n0;
    view->n = n1 - n0;
    return MB_OK;
}

/* ---- activations ---- */

/* m records of i8g32, then [m][chunks] bias sums, then, for outliers, [m][k] floats. */
struct operands {
    struct mb_activation_layout layout;
    size_t chunks, bias, x, bytes;
};

static bool operands_of(const struct mb_codebook_weights *w, size_t m, struct operands *o)
{
    o->layout = mb_activation_layout(MB_ACTIVATION_I8G32, w->padded_k);
    o->chunks = w->padded_k / MB_CHUNK_K;
    size_t bias, x;
    if (!mb_mul_size(m, o->layout.row_bytes, &o->bias) ||
        !mb_mul_size(m, o->chunks * sizeof(int32_t), &bias) || !mb_add_size(bias, 63, &bias) ||
        !mb_add_size(o->bias, bias / 64 * 64, &o->x) ||
        !mb_mul_size(m, w->outliers > 0 ? w->k * sizeof(float) : 0, &x))
        return false;
    return mb_add_size(o->x, x, &o->bytes);
}

enum mb_status mb_codebook_activations_size(const struct mb_codebook_weights *weights, size_t m,
                                            size_t *bytes)
{
    struct operands o;
    const enum mb_status status = mb_codebook_check(weights);
    if (status != MB_OK || bytes == NULL)
        return status != MB_OK ? status : MB_ERR_ARGUMENT;
    if (m == 0 || !operands_of(weights, m, &o))
        return MB_ERR_SHAPE;
    *bytes = o.bytes;
    return MB_OK;
}

size_t mb_codebook_floats_at(const struct mb_codebook_weights *weights, size_t m)
{
    struct operands o;
    return operands_of(weights, m, &o) ? o.x : 0;
}

/* Only the end of a run is padded, so most chunks need not look. */
static void gather(const float *x, const uint32_t *index, size_t count, float *gathered)
{
    for (size_t i = 0; i < count; i += MB_CHUNK_K, index += MB_CHUNK_K, gathered += MB_CHUNK_K) {
        if (index[MB_CHUNK_K - 1] != UINT32_MAX)
            for (size_t j = 0; j < MB_CHUNK_K; j++)
                gathered[j] = x[index[j]];
        else
            for (size_t j = 0; j < MB_CHUNK_K; j++)
                gathered[j] = index[j] != UINT32_MAX ? x[index[j]] : 0;
    }
}

/* Values [k0, k0 + count) in the order of storage, of one row, into its record. The kernel writes a
 * record of its own, whose parts go where the row has them. */
static void prepare_some(const struct mb_kernel *kernel, bool by_column,
                         const struct mb_codebook_parts *parts, const struct operands *o,
                         const float *x, size_t k0, size_t count, uint8_t *record, int32_t *bias)
{
    _Alignas(64) float gathered[GATHERED];
    _Alignas(64) uint8_t made[2 * GATHERED];
    const struct mb_activation_layout own = mb_activation_layout(MB_ACTIVATION_I8G32, count);
    const size_t chunk0 = k0 / MB_CHUNK_K, chunks = count / MB_CHUNK_K;
    gather(x, parts->index + k0, count, gathered);
    for (size_t i = 0; i < count && by_column; i++)
        gathered[i] *= parts->unit[k0 + i];
    kernel->fn.prepare(gathered, count, made);
    const float *scale = (const float *)(const void *)(made + own.scale);
    const int16_t *sum = (const int16_t *)(const void *)(made + own.sum32);
    float *to = (float *)(void *)(record + o->layout.scale) + chunk0;
    memcpy(record + k0, made, count);
    memcpy((int16_t *)(void *)(record + o->layout.sum32) + chunk0, sum, chunks * sizeof *sum);
    for (size_t c = 0; c < chunks; c++) {
        to[c] = scale[c] * parts->factor[chunk0 + c];
        bias[chunk0 + c] = -128 * sum[c];
    }
}

static void prepare_row(const struct mb_codebook_weights *w, const struct mb_codebook_parts *parts,
                        const struct operands *o, const float *x, size_t row, uint8_t *activations)
{
    const struct mb_kernel *kernel = mb_select_prepare(MB_ACTIVATION_I8G32);
    uint8_t *record = activations + row * o->layout.row_bytes;
    int32_t *bias = (int32_t *)(void *)(activations + o->bias) + row * o->chunks;
    for (size_t k0 = 0; k0 < w->padded_k; k0 += GATHERED)
        prepare_some(kernel, w->by_column, parts, o, x, k0,
                     w->padded_k - k0 < GATHERED ? w->padded_k - k0 : GATHERED, record, bias);
    if (w->outliers > 0)
        memcpy((float *)(void *)(activations + o->x) + row * w->k, x, w->k * sizeof *x);
}

enum mb_status mb_codebook_prepare(const struct mb_codebook_weights *weights, const float *x,
                                   size_t m, size_t x_stride, size_t row0, size_t row1,
                                   void *activations)
{
    struct mb_codebook_parts parts;
    struct operands o;
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = mb_codebook_check(weights);
    if (status != MB_OK)
        return status;
    if (m == 0 || row0 > row1 || row1 > m || (m > 1 && x_stride < weights->k) ||
        !operands_of(weights, m, &o))
        return MB_ERR_SHAPE;
    if (!aligned(activations) || (x == NULL && row0 < row1))
        return MB_ERR_ARGUMENT;
    (void)mb_codebook_parts(weights, &parts);
    for (size_t row = row0; row < row1; row++)
        prepare_row(weights, &parts, &o, x + row * x_stride, row, activations);
    return MB_OK;
}

/* ---- products ---- */

/* A product that is ready to run, range by range. */
struct product {
    const struct mb_kernel *kernel;
    const struct mb_selection *selection; /* of q8_0: decoded chunks are its own */
    struct mb_codebook book;
    struct mb_gemm_plan gemm;
    struct mb_activation_layout layout;
    struct mb_codebook_args args; /* of the whole matrix; pointers to the above are set at a run */
};

static void choose(struct product *p)
{
    const struct mb_selection *s = mb_select_as(MB_FORMAT_Q8_0, MB_ACTIVATION_I8G32);
    p->kernel = mb_select_alone(MB_OP_CODEBOOK);
    p->selection = s;
    p->gemm = (struct mb_gemm_plan){
        .decode = p->kernel, .gemm = s->gemm.gemm, .k_block = s->gemm.k_block};
}

static void make_product(struct product *p, const struct mb_codebook_weights *w,
                         const void *activations, size_t m, float *y, size_t y_stride)
{
    struct mb_codebook_parts parts;
    struct operands o;
    *p = (struct product){0};
    choose(p);
    (void)mb_codebook_parts(w, &parts);
    (void)operands_of(w, m, &o);
    const uint8_t *data = activations;
    p->book =
        (struct mb_codebook){parts.runs, w->run_count, parts.tables, w->padded_k, w->by_column};
    p->layout = o.layout;
    p->args.panels = parts.panels + w->row0 / ROWS * w->panel_bytes;
    p->args.panel_bytes = w->panel_bytes;
    p->args.n = w->n;
    p->args.m = m;
    p->args.activations = data;
    p->args.bias_sum = (const int32_t *)(const void *)(data + o.bias);
    p->args.bias_stride = o.chunks;
    p->args.outliers = parts.outliers;
    p->args.outlier_first = w->outliers > 0 ? parts.outlier_first + w->row0 / ROWS : NULL;
    p->args.x = (const float *)(const void *)(data + o.x);
    p->args.x_stride = w->k;
    p->args.y = y;
    p->args.y_stride = y_stride;
}

static void run_decoded(const struct product *p, const struct mb_codebook_args *args,
                        void *workspace)
{
    struct mb_gemm_plan plan = p->gemm;
    plan.codebook = &p->book;
    mb_gemm_run(&plan,
                &(struct mb_gemv_args){
                    .panels = args->panels,
                    .panel_bytes = args->panel_bytes,
                    .n = args->n,
                    .activations = args->activations,
                    .layout = args->layout,
                    .bias_sum = args->bias_sum,
                    .bias_stride = args->bias_stride,
                    .m = args->m,
                    .y = args->y,
                    .y_stride = args->y_stride,
                },
                workspace);
    p->kernel->fn.codebook->add_outliers(args);
}

static void run(const struct product *p, size_t n0, size_t n1, void *workspace)
{
    struct mb_codebook_args args = p->args;
    args.book = &p->book;
    args.layout = &p->layout;
    args.panels += n0 / ROWS * args.panel_bytes;
    args.outlier_first += args.outlier_first != NULL ? n0 / ROWS : 0;
    args.n = n1 - n0;
    args.y += n0;
    if (args.m > p->selection->crossover) {
        run_decoded(p, &args, workspace);
        return;
    }
    for (size_t left = args.m; left > 0; left -= args.m) {
        args.m = left < p->kernel->mr ? left : p->kernel->mr;
        args.prefetch = mb_selection_prefetch(p->selection, args.m);
        p->kernel->fn.codebook->multiply(&args);
        args.activations += args.m * p->layout.row_bytes;
        args.bias_sum += args.m * args.bias_stride;
        args.x += args.m * args.x_stride;
        args.y += args.m * args.y_stride;
    }
}

static size_t workspace_bytes(size_t m)
{
    struct product p = {0};
    choose(&p);
    return m > p.selection->crossover ? (mb_gemm_workspace_bytes(&p.gemm) + 63) / 64 * 64 : 0;
}

enum mb_status mb_codebook_workspace_size(const struct mb_codebook_weights *weights, size_t m,
                                          size_t *bytes)
{
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = mb_codebook_check(weights);
    if (status != MB_OK || bytes == NULL)
        return status != MB_OK ? status : MB_ERR_ARGUMENT;
    *bytes = workspace_bytes(m);
    return m > 0 ? MB_OK : MB_ERR_SHAPE;
}

enum mb_status mb_codebook_range(const struct mb_codebook_weights *weights, const void *activations,
                                 size_t m, size_t n0, size_t n1, float *y, size_t y_stride,
                                 void *workspace)
{
    struct operands o;
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = mb_codebook_check(weights);
    if (status != MB_OK)
        return status;
    if (m == 0 || n0 > n1 || n1 > weights->n || n0 % ROWS != 0 ||
        (n1 % ROWS != 0 && n1 != weights->n) || (m > 1 && y_stride < weights->n) ||
        !operands_of(weights, m, &o))
        return MB_ERR_SHAPE;
    if (n0 == n1)
        return MB_OK;
    if (!aligned(activations) || y == NULL || (workspace_bytes(m) > 0 && !aligned(workspace)))
        return MB_ERR_ARGUMENT;
    struct product product;
    make_product(&product, weights, activations, m, y, y_stride);
    run(&product, n0, n1, workspace);
    return MB_OK;
}

/* ---- on the pool's threads ---- */

struct call {
    struct mb_threads *threads;
    const struct mb_codebook_weights *weights;
    const float *x;
    size_t m, x_stride;
    uint8_t *activations;
    struct product product;
    uint8_t *own; /* threads NULL: activations and workspace */
    size_t activations_bytes;
};

static void prepare_part(void *arg, size_t index, size_t count)
{
    const struct call *c = arg;
    (void)mb_codebook_prepare(c->weights, c->x, c->m, c->x_stride, c->m * index / count,
                              c->m * (index + 1) / count, c->activations);
}

/* Activations lie in the first thread's memory, in front of its workspace. */
static uint8_t *memory_of(const struct call *c, size_t index, size_t bytes)
{
    return c->threads != NULL ? mb_threads_workspace(c->threads, index, bytes) : c->own;
}

static void run_panels(void *arg, size_t index, size_t begin, size_t end)
{
    const struct call *c = arg;
    const size_t n = c->weights->n, stop = end * ROWS;
    uint8_t *memory = memory_of(c, index, 0);
    run(&c->product, begin * ROWS, stop < n ? stop : n,
        memory != NULL && index == 0 ? memory + c->activations_bytes : memory);
}

static bool reserve(struct call *c, size_t workspace)
{
    const size_t threads = c->threads != NULL ? mb_threads_count(c->threads) : 1;
    size_t bytes;
    if (!mb_add_size(c->activations_bytes, workspace, &bytes))
        return false;
    c->own = c->threads == NULL ? mb_alloc_aligned(bytes) : NULL;
    for (size_t i = 1; i < threads; i++)
        if (mb_threads_workspace(c->threads, i, workspace) == NULL)
            return false;
    c->activations = memory_of(c, 0, bytes);
    return c->activations != NULL;
}

enum mb_status mb_codebook_matmul(struct mb_threads *threads,
                                  const struct mb_codebook_weights *weights, const float *x,
                                  size_t m, size_t x_stride, float *y, size_t y_stride)
{
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = mb_codebook_check(weights);
    if (status != MB_OK)
        return status;
    struct operands o;
    if (m == 0 || (m > 1 && (x_stride < weights->k || y_stride < weights->n)) ||
        !operands_of(weights, m, &o))
        return MB_ERR_SHAPE;
    if (x == NULL || y == NULL)
        return MB_ERR_ARGUMENT;
    struct call call = {.threads = threads,
                        .weights = weights,
                        .x = x,
                        .m = m,
                        .x_stride = x_stride,
                        .activations_bytes = (o.bytes + 63) / 64 * 64};
    if (!reserve(&call, workspace_bytes(m)))
        return MB_ERR_MEMORY;
    if (m == 1 || m * weights->k <= PREPARE_ALONE)
        prepare_part(&call, 0, 1);
    else
        mb_threads_run(threads, prepare_part, &call);
    make_product(&call.product, weights, call.activations, m, y, y_stride);
    const size_t step =
        m > call.product.selection->crossover ? mb_kernel_step(call.product.gemm.gemm, 1) : 1;
    mb_split_panels(threads, panels_of(weights->n), step, m * weights->n * weights->k, run_panels,
                    &call);
    mb_free_aligned(call.own);
    return MB_OK;
}
