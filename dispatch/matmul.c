/* SPDX-License-Identifier: Apache-2.0 */
/* The public matmul on top of the kernels: shapes are checked here, once; below this file
 * everything is trusted.
 *
 * A range of outputs is computed in one of two ways. Few rows (m <= crossover): the fused gemv
 * reads the packed weights once per chunk of rows. Many: panels are decoded into the workspace and
 * multiplied by the gemm tile. Both start from -bias * (sum of activations), which depends on the
 * rows alone and is made once per call. */
#include "dispatch/matmul.h"
#include "support/memory.h"

#include <string.h>

static size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

static bool aligned(const void *pointer) { return pointer != NULL && (uintptr_t)pointer % 64 == 0; }

/* ---- packed weights ---- */

enum mb_status mb_pack_size(enum mb_format format, size_t n, size_t k, size_t *bytes)
{
    if (bytes == NULL || mb_format_info(format) == NULL)
        return MB_ERR_ARGUMENT;
    if (mb_format_is_codebook(format))
        return MB_ERR_UNSUPPORTED;
    if (n == 0 || k == 0 || n > SIZE_MAX - MB_PANEL_ROWS || mb_format_row_bytes(format, k) == 0)
        return MB_ERR_SHAPE;
    const size_t panel_bytes = mb_panel_bytes(format, k);
    if (panel_bytes == 0 ||
        !mb_mul_size(round_up(n, MB_PANEL_ROWS) / MB_PANEL_ROWS, panel_bytes, bytes))
        return MB_ERR_SHAPE;
    return MB_OK;
}

enum mb_status mb_weights_init(struct mb_weights *weights, enum mb_format format, size_t n,
                               size_t k, void *data)
{
    size_t bytes;
    if (weights == NULL || !aligned(data))
        return MB_ERR_ARGUMENT;
    const enum mb_status status = mb_pack_size(format, n, k, &bytes);
    if (status == MB_OK)
        *weights = (struct mb_weights){
            .size = sizeof *weights, .format = format, .n = n, .k = k, .data = data};
    return status;
}

static enum mb_status check_weights(const struct mb_weights *weights)
{
    return weights == NULL || weights->size != sizeof *weights || !aligned(weights->data) ||
                   mb_format_info(weights->format) == NULL || mb_format_is_codebook(weights->format)
               ? MB_ERR_ARGUMENT
               : MB_OK;
}

enum mb_status mb_pack_rows(const struct mb_weights *weights, const void *src, size_t row0,
                            size_t row1)
{
    const enum mb_status status = check_weights(weights);
    if (status != MB_OK || row0 > row1 || row1 > weights->n)
        return status != MB_OK ? status : MB_ERR_SHAPE;
    if (row0 == row1)
        return MB_OK;
    if (src == NULL)
        return MB_ERR_ARGUMENT;
    mb_panel_pack_rows(weights->format, weights->n, weights->k, src, row0, row1, weights->data);
    return MB_OK;
}

enum mb_status mb_unpack_rows(const struct mb_weights *weights, size_t row0, size_t row1, void *dst)
{
    const enum mb_status status = check_weights(weights);
    if (status != MB_OK || row0 > row1 || row1 > weights->n)
        return status != MB_OK ? status : MB_ERR_SHAPE;
    if (row0 == row1)
        return MB_OK;
    if (dst == NULL)
        return MB_ERR_ARGUMENT;
    mb_panel_unpack_rows(weights->format, weights->n, weights->k, weights->data, row0, row1, dst);
    return MB_OK;
}

/* ---- activations ---- */

enum mb_status mb_activations_size(enum mb_activation type, size_t m, size_t k, size_t *bytes)
{
    if (bytes == NULL || mb_select_prepare(type) == NULL)
        return MB_ERR_ARGUMENT;
    if (m == 0 || k == 0 || k > SIZE_MAX / 16 || k % mb_activation_step(type) != 0)
        return MB_ERR_SHAPE;
    return mb_mul_size(m, mb_activation_layout(type, k).row_bytes, bytes) ? MB_OK : MB_ERR_SHAPE;
}

enum mb_status mb_activations_init(struct mb_activations *activations, enum mb_activation type,
                                   size_t m, size_t k, void *data)
{
    size_t bytes;
    if (activations == NULL || !aligned(data))
        return MB_ERR_ARGUMENT;
    const enum mb_status status = mb_activations_size(type, m, k, &bytes);
    if (status == MB_OK)
        *activations = (struct mb_activations){.size = sizeof *activations,
                                               .type = type,
                                               .m = m,
                                               .k = k,
                                               .row_bytes = bytes / m,
                                               .data = data};
    return status;
}

static enum mb_status check_activations(const struct mb_activations *activations)
{
    return activations == NULL || activations->size != sizeof *activations ||
                   !aligned(activations->data) || activations->m == 0
               ? MB_ERR_ARGUMENT
               : MB_OK;
}

enum mb_status mb_activations_prepare(const struct mb_activations *activations, const float *x,
                                      size_t x_stride, size_t row0, size_t row1)
{
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = check_activations(activations);
    if (status != MB_OK)
        return status;
    if (row0 > row1 || row1 > activations->m || (activations->m > 1 && x_stride < activations->k))
        return MB_ERR_SHAPE;
    const struct mb_kernel *kernel = mb_select_prepare(activations->type);
    if (kernel == NULL || (x == NULL && row0 < row1))
        return MB_ERR_ARGUMENT;
    uint8_t *rows = activations->data;
    for (size_t r = row0; r < row1; r++)
        kernel->fn.prepare(x + r * x_stride, activations->k, rows + r * activations->row_bytes);
    return MB_OK;
}

/* ---- one range ---- */

static size_t bias_groups(const struct mb_format_info *info, size_t padded_k)
{
    return mb_coding_bias(info->coding, info->scale) == 0 ? 0
                                                          : padded_k / mb_scale_group(info->scale);
}

static size_t padded_k(const struct mb_format_info *info, size_t k)
{
    return round_up(k, mb_scale_superblock_k(info->scale));
}

static size_t bias_bytes(const struct mb_format_info *info, size_t k, size_t m)
{
    return round_up(m * bias_groups(info, padded_k(info, k)) * sizeof(int32_t), 64);
}

size_t mb_workspace_bytes_with(const struct mb_selection *selection,
                               const struct mb_weights *weights, size_t m)
{
    const struct mb_format_info *info = mb_format_info(weights->format);
    const size_t gemm = m > selection->crossover ? mb_gemm_workspace_bytes(&selection->gemm) : 0;
    return bias_bytes(info, weights->k, m) + round_up(gemm, 64);
}

enum mb_status mb_check_operands(const struct mb_weights *weights,
                                 const struct mb_activations *activations)
{
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = check_weights(weights);
    if (status == MB_OK)
        status = check_activations(activations);
    if (status != MB_OK)
        return status;
    if (weights->k != activations->k || weights->n == 0)
        return MB_ERR_SHAPE;
    return mb_matmul_supports(weights->format, activations->type) ? MB_OK : MB_ERR_UNSUPPORTED;
}

enum mb_status mb_workspace_size(const struct mb_weights *weights,
                                 const struct mb_activations *activations, size_t *bytes)
{
    const enum mb_status status = mb_check_operands(weights, activations);
    if (status != MB_OK || bytes == NULL)
        return status != MB_OK ? status : MB_ERR_ARGUMENT;
    *bytes = mb_workspace_bytes_with(mb_select_as(weights->format, activations->type), weights,
                                     activations->m);
    return MB_OK;
}

/* -bias * sum of q over each group, for every row: int32 [m][groups]. Groups of more than 32 add up
 * sums of 32. */
static void fill_bias(const struct mb_format_info *info, const struct mb_activation_layout *layout,
                      const struct mb_activations *activations, size_t groups, int32_t *out)
{
    const int32_t bias = mb_coding_bias(info->coding, info->scale);
    const size_t group = mb_scale_group(info->scale), parts = group > 32 ? group / 32 : 1;
    const size_t sums = group == 16 ? layout->sum16 : layout->sum32;
    for (size_t r = 0; r < activations->m; r++) {
        const uint8_t *row = (const uint8_t *)activations->data + r * activations->row_bytes;
        const int16_t *sum = (const int16_t *)(const void *)(row + sums);
        for (size_t g = 0; g < groups; g++) {
            int32_t total = 0;
            for (size_t i = 0; i < parts; i++)
                total += sum[g * parts + i];
            out[r * groups + g] = -bias * total;
        }
    }
}

void mb_job_init(struct mb_job *job, const struct mb_selection *selection,
                 const struct mb_weights *weights, const struct mb_activations *activations,
                 float *y, size_t y_stride, void *workspace)
{
    const struct mb_format_info *info = mb_format_info(weights->format);
    const size_t k = padded_k(info, weights->k), groups = bias_groups(info, k);
    *job = (struct mb_job){.selection = selection,
                           .layout = mb_activation_layout(activations->type, weights->k)};
    int32_t *bias_sum = groups > 0 ? workspace : NULL;
    if (bias_sum != NULL)
        fill_bias(info, &job->layout, activations, groups, bias_sum);
    job->gemm_workspace = (uint8_t *)workspace + bias_bytes(info, weights->k, activations->m);
    job->args = (struct mb_gemv_args){
        .panels = weights->data,
        .panel_bytes = mb_panel_bytes(weights->format, weights->k),
        .superblocks = k / mb_scale_superblock_k(info->scale),
        .n = weights->n,
        .activations = activations->data,
        .bias_sum = bias_sum,
        .bias_stride = groups,
        .m = activations->m,
        .y = y,
        .y_stride = y_stride,
    };
}

void mb_job_run(const struct mb_job *job, size_t n0, size_t n1)
{
    struct mb_gemv_args args = job->args;
    args.layout = &job->layout;
    args.panels += n0 / MB_PANEL_ROWS * args.panel_bytes;
    args.n = n1 - n0;
    args.y += n0;
    if (args.m > job->selection->crossover) {
        mb_gemm_run(&job->selection->gemm, &args, job->gemm_workspace);
        return;
    }
    for (size_t left = args.m; left > 0; left -= args.m) {
        const struct mb_kernel *kernel = job->selection->gemv[left < 8 ? left - 1 : 7];
        args.m = left < kernel->mr ? left : kernel->mr;
        args.prefetch = mb_selection_prefetch(job->selection, args.m);
        kernel->fn.gemv(&args);
        args.activations += args.m * job->layout.row_bytes;
        args.bias_sum += args.bias_sum != NULL ? args.m * args.bias_stride : 0;
        args.y += args.m * args.y_stride;
    }
}

size_t mb_selection_prefetch(const struct mb_selection *selection, size_t m)
{
    return m == 1 ? selection->row_prefetch : selection->prefetch;
}

size_t mb_kernel_step(const struct mb_kernel *kernel, size_t wanted)
{
    const size_t own = kernel->nr > MB_PANEL_ROWS ? kernel->nr / MB_PANEL_ROWS : 1;
    return wanted > own ? round_up(wanted, own) : own;
}

size_t mb_selection_step(const struct mb_selection *selection, size_t m)
{
    if (m > selection->crossover)
        return mb_kernel_step(selection->gemm.gemm, selection->gemm_step);
    return mb_kernel_step(selection->gemv[m < 8 ? m - 1 : 7], selection->gemv_step);
}

enum mb_status mb_matmul_range_with(const struct mb_selection *selection,
                                    const struct mb_weights *weights,
                                    const struct mb_activations *activations, size_t n0, size_t n1,
                                    float *y, size_t y_stride, void *workspace)
{
    const enum mb_status status = mb_check_operands(weights, activations);
    if (status != MB_OK)
        return status;
    if (n0 > n1 || n1 > weights->n || n0 % MB_PANEL_ROWS != 0 ||
        (n1 % MB_PANEL_ROWS != 0 && n1 != weights->n) ||
        (activations->m > 1 && y_stride < weights->n))
        return MB_ERR_SHAPE;
    if (n0 == n1)
        return MB_OK;
    if (y == NULL ||
        (mb_workspace_bytes_with(selection, weights, activations->m) > 0 && !aligned(workspace)))
        return MB_ERR_ARGUMENT;
    struct mb_job job;
    mb_job_init(&job, selection, weights, activations, y, y_stride, workspace);
    mb_job_run(&job, n0, n1);
    return MB_OK;
}

enum mb_status mb_matmul_range(const struct mb_weights *weights,
                               const struct mb_activations *activations, size_t n0, size_t n1,
                               float *y, size_t y_stride, void *workspace)
{
    const enum mb_status status = mb_check_operands(weights, activations);
    if (status != MB_OK)
        return status;
    return mb_matmul_range_with(mb_select_as(weights->format, activations->type), weights,
                                activations, n0, n1, y, y_stride, workspace);
}
