/* SPDX-License-Identifier: Apache-2.0 */
/* See workload.h. Data are Gaussian and seeded: power and prefetching depend on data, and a check
 * that fails should fail again. */
#include "tuner/workload.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PERIOD_N = MB_WORKLOAD_WEIGHT_PERIOD,
    PERIOD_M = MB_WORKLOAD_ACTIVATION_PERIOD,
    PREPARE_ALONE = 1 << 13, /* fewer values are prepared by one thread (dispatch/parallel.c) */
};

/* One output off by this many error bounds is wrong, not rounded: with a million Gaussian errors of
 * half the bound the largest is near three bounds. */
static const double outlier_bounds = 16;

static const double coarse_bound = 0.03; /* Gaussian activations with one scale a row of 64 k */

static const size_t memory_set_least = (size_t)1 << 30;

size_t mb_working_set_bytes(const struct mb_device_info *device, enum mb_residency residency,
                            size_t threads)
{
    const size_t l2 = (device->l2_bytes > 0 ? device->l2_bytes : (size_t)1 << 18) * threads;
    const size_t l3 = device->l3_bytes;
    size_t set = l2 / 2;
    if (residency == MB_RESIDENCY_L3) {
        set = 4 * l2;
        if (set > l3 / 2 && l3 > 0)
            set = l3 / 2;
    } else if (residency == MB_RESIDENCY_MEMORY) {
        set = 4 * l3 > memory_set_least ? 4 * l3 : memory_set_least;
        if (device->memory_bytes > 0 && set > device->memory_bytes / 4)
            set = device->memory_bytes / 4;
    }
    return set;
}

void mb_arena_free(struct mb_arena *arena)
{
    mb_free_aligned(arena->data);
    *arena = (struct mb_arena){NULL, 0};
}

bool mb_arena_reserve(struct mb_arena *arena, size_t bytes)
{
    if (arena->bytes >= bytes)
        return true;
    mb_arena_free(arena);
    arena->data = mb_alloc_aligned(bytes);
    arena->bytes = arena->data != NULL ? bytes : 0;
    return arena->data != NULL;
}

/* xorshift64*, and the sum of twelve uniforms for a Gaussian: no library call, same everywhere. */
static float next_gaussian(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        sum += (double)((*state * UINT64_C(2685821657736338717)) >> 40) / (double)(1 << 24);
    }
    return (float)sum;
}

static void fill_gaussian(float *values, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        values[i] = next_gaussian(&seed);
}

void mb_workload_fill_exact(struct mb_workload *w, const float *weights, size_t rows)
{
    for (size_t r = 0; r < PERIOD_M && r < w->m_capacity; r++)
        for (size_t j = 0; j < rows; j++) {
            double sum = 0;
            for (size_t i = 0; i < w->k; i++)
                sum += (double)w->x[r * w->k + i] * (double)weights[j * w->k + i];
            w->exact[r * PERIOD_N + j] = sum;
        }
}

/* Quantize the distinct rows, pack them over and over into the first copy, copy that. */
static enum mb_status fill_weights(struct mb_workload *w)
{
    const size_t rows = w->n < PERIOD_N ? w->n : PERIOD_N;
    const size_t row_bytes = mb_format_row_bytes(w->format, w->k);
    enum mb_status status = MB_ERR_MEMORY;
    float *values = malloc(rows * w->k * sizeof *values);
    uint8_t *blocks = malloc(rows * row_bytes);
    if (values == NULL || blocks == NULL)
        goto out;
    fill_gaussian(values, rows * w->k, 1);
    status = mb_quantize(w->format, values, rows, w->k, NULL, blocks);
    for (size_t j = 0; j < w->n && status == MB_OK; j += rows)
        status = mb_pack_rows(&w->weights, blocks, j, j + rows < w->n ? j + rows : w->n);
    if (status == MB_OK)
        status = mb_dequantize(w->format, blocks, rows, w->k, values);
    if (status != MB_OK)
        goto out;
    mb_workload_fill_exact(w, values, rows);
out:
    free(values);
    free(blocks);
    return status;
}

enum mb_status mb_workload_room(struct mb_workload *w, size_t packed, size_t working_set,
                                struct mb_arena *arena)
{
    w->copy_bytes = (packed + 63) / 64 * 64;
    w->copies = working_set / w->copy_bytes > 1 ? working_set / w->copy_bytes : 1;
    const size_t k = w->k, m = w->m_capacity, distinct = m < PERIOD_M ? m : PERIOD_M;
    size_t x_bytes, y_bytes, copies_bytes;
    if (!mb_mul_size(m * sizeof(float), k, &x_bytes) ||
        !mb_mul_size(m * sizeof(float), w->n, &y_bytes) ||
        !mb_mul_size(w->copies, w->copy_bytes, &copies_bytes))
        return MB_ERR_SHAPE;
    w->x = mb_alloc_aligned(x_bytes);
    w->y = mb_alloc_aligned(y_bytes);
    w->exact = calloc((size_t)PERIOD_M * PERIOD_N, sizeof *w->exact);
    if (w->x == NULL || w->y == NULL || w->exact == NULL || !mb_arena_reserve(arena, copies_bytes))
        return MB_ERR_MEMORY;
    memset(w->y, 0, y_bytes);
    fill_gaussian(w->x, distinct * k, 2);
    for (size_t r = distinct; r < m; r++)
        memcpy(w->x + r * k, w->x + (r - PERIOD_M) * k, k * sizeof(float));
    return MB_OK;
}

static enum mb_status make_weights(struct mb_workload *w, size_t working_set,
                                   struct mb_arena *arena)
{
    size_t packed, activation_bytes = 0;
    enum mb_status status = mb_pack_size(w->format, w->n, w->k, &packed);
    if (status != MB_OK)
        return status;
    for (int a = 0; a < MB_ACTIVATION_COUNT; a++) { /* room for any type that may be chosen */
        const enum mb_activation type = (enum mb_activation)a;
        size_t bytes = 0;
        if (!mb_matmul_supports(w->format, type))
            continue;
        status = mb_activations_size(type, w->m_capacity, w->k, &bytes);
        if (status != MB_OK)
            return status;
        activation_bytes = bytes > activation_bytes ? bytes : activation_bytes;
    }
    w->activations.data = mb_alloc_aligned(activation_bytes);
    if (w->activations.data == NULL)
        return MB_ERR_MEMORY;
    status = mb_workload_room(w, packed, working_set, arena);
    if (status == MB_OK)
        status = mb_weights_init(&w->weights, w->format, w->n, w->k, arena->data);
    return status == MB_OK ? fill_weights(w) : status;
}

enum mb_status mb_workload_create(struct mb_workload *workload, enum mb_format format, size_t n,
                                  size_t k, size_t m, size_t working_set,
                                  struct mb_threads *threads, struct mb_arena *arena,
                                  struct mb_error *error)
{
    *workload = (struct mb_workload){
        .format = format, .n = n, .k = k, .m = m, .m_capacity = m, .threads = threads};
    enum mb_status status = mb_format_info(format) == NULL ? MB_ERR_ARGUMENT
                            : n == 0 || k == 0 || m == 0   ? MB_ERR_SHAPE
                                                           : MB_OK;
    if (status == MB_OK)
        status = mb_format_is_codebook(format)
                     ? mb_workload_make_books(workload, working_set, arena)
                     : make_weights(workload, working_set, arena);
    for (size_t i = 1; i < workload->copies && status == MB_OK; i++)
        memcpy((uint8_t *)arena->data + i * workload->copy_bytes, arena->data,
               workload->copy_bytes);
    if (status == MB_OK)
        return MB_OK;
    mb_workload_free(workload);
    return mb_error_set(error, status, -1, "cannot measure %s at m %zu, n %zu, k %zu: %s",
                        mb_format_info(format) != NULL ? mb_format_info(format)->name
                                                       : "an unknown format",
                        m, n, k, mb_status_string(status));
}

void mb_workload_free(struct mb_workload *workload)
{
    mb_free_aligned(workload->x);
    mb_free_aligned(workload->y);
    mb_free_aligned(workload->activations.data);
    free(workload->exact);
    workload->x = workload->y = NULL;
    workload->exact = NULL;
    workload->activations.data = NULL;
}

void mb_workload_run(struct mb_workload *workload, size_t iterations)
{
    struct mb_workload *w = workload;
    struct mb_weights weights = w->weights;
    struct mb_codebook_weights books = w->books;
    const bool by_codebooks = mb_format_is_codebook(w->format);
    for (size_t i = 0; i < iterations; i++) {
        weights.data = (uint8_t *)w->weights.data + w->cursor * w->copy_bytes;
        books.data = weights.data;
        w->cursor = w->cursor + 1 < w->copies ? w->cursor + 1 : 0;
        const enum mb_status status =
            by_codebooks ? mb_codebook_matmul(w->threads, &books, w->x, w->m, w->k, w->y, w->n)
                         : mb_matmul(w->threads, &weights, w->x, w->m, w->k, w->y, w->n);
        if (status != MB_OK && workload->status == MB_OK)
            workload->status = status;
    }
}

static void prepare_part(void *arg, size_t index, size_t count)
{
    const struct mb_workload *w = arg;
    if (mb_format_is_codebook(w->format)) {
        (void)mb_codebook_prepare(&w->books, w->x, w->m_capacity, w->k, w->m * index / count,
                                  w->m * (index + 1) / count, w->activations.data);
        return;
    }
    (void)mb_activations_prepare(&w->activations, w->x, w->k, w->m * index / count,
                                 w->m * (index + 1) / count);
}

void mb_workload_prepare(struct mb_workload *workload, size_t iterations)
{
    const enum mb_status status =
        mb_format_is_codebook(workload->format)
            ? MB_OK
            : mb_activations_init(&workload->activations, mb_matmul_activation(workload->format),
                                  workload->m_capacity, workload->k, workload->activations.data);
    if (status != MB_OK) {
        workload->status = status;
        return;
    }
    const bool alone = workload->m < mb_threads_count(workload->threads) ||
                       workload->m * workload->k <= PREPARE_ALONE;
    for (size_t i = 0; i < iterations; i++) {
        if (alone)
            prepare_part(workload, 0, 1);
        else
            mb_threads_run(workload->threads, prepare_part, workload);
    }
}

void mb_workload_compare(const struct mb_workload *workload, const float *y, double *error,
                         double *worst)
{
    const struct mb_workload *w = workload;
    double wrong = 0, power = 0;
    *worst = 0;
    for (size_t r = 0; r < w->m; r++)
        for (size_t j = 0; j < w->n; j++) {
            const double exact = w->exact[r % PERIOD_M * PERIOD_N + j % PERIOD_N];
            const double off = fabs((double)y[r * w->n + j] - exact);
            wrong += off * off;
            power += exact * exact;
            *worst = off > *worst || isnan(off) ? off : *worst;
        }
    const double rms = sqrt(power / ((double)w->m * (double)w->n));
    *error = power > 0 ? sqrt(wrong / power) : 0;
    *worst = power > 0 ? *worst / rms : *worst;
}

void mb_workload_judge_results(const struct mb_workload *workload, const float *y, double bound,
                               double *error, int *failed)
{
    double worst;
    mb_workload_compare(workload, y, error, &worst);
    /* Written so that a NaN anywhere fails. */
    *failed = !(*error <= bound) || !(worst <= outlier_bounds * bound);
    if (!isfinite(*error))
        *error = 1e9; /* what a profile can hold */
}

enum mb_status mb_workload_check(struct mb_workload *workload, double *error, int *failed)
{
    const struct mb_workload *w = workload;
    const struct mb_format_info *info = mb_format_info(w->format);
    const double usual_bound = info->error_bound;
    /* Other types of activations may be coarser: what is far off is wrong, what is near is for the
     * error limit to judge. */
    const double bound =
        mb_matmul_activation(w->format) == info->activation ? usual_bound : coarse_bound;
    /* Outputs that nobody writes must not pass because an earlier product was right. */
    memset(w->y, 0xff, w->m * w->n * sizeof *w->y);
    mb_workload_run(workload, 1);
    if (w->status == MB_OK)
        mb_workload_judge_results(w, w->y, bound, error, failed);
    return w->status;
}
