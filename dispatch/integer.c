/* SPDX-License-Identifier: Apache-2.0 */
/* Integer-only products on top of their kernels: arguments are checked and floats are turned into
 * integers here, once; below this file everything is trusted and nothing is a float. */
#include "mixbit/integer.h"

#include "dispatch/alone.h"
#include "dispatch/matmul.h"
#include "kernels/integer.h"
#include "support/memory.h"

#include <math.h>
#include <stdlib.h>

const char *mb_integer_kernel(void) { return mb_select_alone(MB_OP_INTEGER)->name; }

void mb_integer_explain(void (*line)(void *user, const char *text), void *user)
{
    mb_explain_alone(MB_OP_INTEGER, line, user);
}

/* ---- grids ---- */

static bool is_grid(const struct mb_integer_grid *grid)
{
    return grid != NULL && isfinite(grid->scale) && grid->scale > 0 && grid->zero >= -128 &&
           grid->zero <= 127;
}

enum mb_status mb_integer_grid_of(float least, float most, struct mb_integer_grid *grid)
{
    if (grid == NULL || !isfinite(least) || !isfinite(most) || least > most)
        return MB_ERR_ARGUMENT;
    const double low = fmin((double)least, 0), high = fmax((double)most, 0);
    /* As a float, or the zero point would belong to another scale; never one that is subnormal. */
    const float scale = fmaxf((float)((high - low) / 255), 0x1p-126f);
    *grid = (struct mb_integer_grid){.scale = 1, .zero = 0};
    if (high > low)
        *grid = (struct mb_integer_grid){
            .scale = scale,
            .zero = (int32_t)fmax(-128, fmin(127, rint(-128 - low / (double)scale)))};
    return MB_OK;
}

enum mb_status mb_integer_quantize(const struct mb_integer_grid *grid, const float *x, size_t count,
                                   int8_t *codes)
{
    if (!is_grid(grid) || ((x == NULL || codes == NULL) && count > 0))
        return MB_ERR_ARGUMENT;
    for (size_t i = 0; i < count; i++) {
        const double code = rint((double)x[i] / (double)grid->scale) + grid->zero;
        codes[i] = (int8_t)(isnan(code) ? grid->zero : fmax(-128, fmin(127, code)));
    }
    return MB_OK;
}

enum mb_status mb_integer_dequantize(const struct mb_integer_grid *grid, const int8_t *codes,
                                     size_t count, float *x)
{
    if (!is_grid(grid) || ((x == NULL || codes == NULL) && count > 0))
        return MB_ERR_ARGUMENT;
    for (size_t i = 0; i < count; i++)
        x[i] = grid->scale * (float)(codes[i] - grid->zero);
    return MB_OK;
}

/* ---- packing ---- */

static size_t panels_of(size_t n) { return n / MB_INTEGER_ROWS + (n % MB_INTEGER_ROWS != 0); }

enum mb_status mb_integer_size(size_t n, size_t k, size_t *bytes)
{
    if (bytes == NULL)
        return MB_ERR_ARGUMENT;
    return n > 0 && k > 0 && k <= MB_INTEGER_MOST_K &&
                   mb_mul_size(panels_of(n), mb_integer_panel_bytes(k), bytes)
               ? MB_OK
               : MB_ERR_SHAPE;
}

static bool aligned(const void *pointer) { return pointer != NULL && (uintptr_t)pointer % 64 == 0; }

enum mb_status mb_integer_init(struct mb_integer_weights *weights, size_t n, size_t k,
                               const struct mb_integer_grid *input,
                               const struct mb_integer_grid *output, void *data)
{
    size_t bytes;
    if (weights == NULL || !is_grid(input) || !is_grid(output) || !aligned(data))
        return MB_ERR_ARGUMENT;
    const enum mb_status status = mb_integer_size(n, k, &bytes);
    if (status == MB_OK)
        *weights = (struct mb_integer_weights){.size = sizeof *weights,
                                               .n = n,
                                               .k = k,
                                               .input = *input,
                                               .output = *output,
                                               .data = data};
    return status;
}

static enum mb_status check_weights(const struct mb_integer_weights *weights)
{
    size_t bytes;
    if (weights == NULL || weights->size != sizeof *weights || !aligned(weights->data) ||
        !is_grid(&weights->input) || !is_grid(&weights->output))
        return MB_ERR_ARGUMENT;
    return mb_integer_size(weights->n, weights->k, &bytes);
}

static enum mb_status check_rows(const struct mb_integer_weights *weights, const void *rows,
                                 size_t row0, size_t row1)
{
    const enum mb_status status = check_weights(weights);
    if (status != MB_OK)
        return status;
    if (row0 > row1 || row1 > weights->n)
        return MB_ERR_SHAPE;
    return rows == NULL && row0 < row1 ? MB_ERR_ARGUMENT : MB_OK;
}

static void pack_row(const struct mb_integer_weights *weights, size_t row, const int8_t *codes,
                     int32_t bias, double scale)
{
    uint8_t *panel =
        (uint8_t *)weights->data + row / MB_INTEGER_ROWS * mb_integer_panel_bytes(weights->k);
    const double multiplier = (double)weights->input.scale * scale / (double)weights->output.scale;
    mb_integer_pack_lane(panel, row % MB_INTEGER_ROWS, codes, weights->k, bias, weights->input.zero,
                         multiplier);
    for (size_t lane = row % MB_INTEGER_ROWS + 1; row + 1 == weights->n && lane < MB_INTEGER_ROWS;
         lane++)
        mb_integer_clear_lane(panel, lane, weights->k);
}

/* Codes of a row, in the scale that is returned; its bias in that times the input's. */
static double quantize_row(const struct mb_integer_weights *weights, const float *row, double bias,
                           int8_t *codes, int32_t *integer_bias)
{
    const double room = INT32_MAX - 127.0 * 255.0 * (double)weights->k,
                 sx = (double)weights->input.scale;
    double largest = 0;
    for (size_t i = 0; i < weights->k; i++) /* no fmax: gcc 12 for ARM fails at a sum of those */
        largest = fabs((double)row[i]) > largest ? fabs((double)row[i]) : largest;
    const double scale = fmax(largest / 127, fabs(bias) / sx / room);
    for (size_t i = 0; i < weights->k; i++)
        codes[i] = (int8_t)(scale > 0 ? fmax(-127, fmin(127, rint((double)row[i] / scale))) : 0);
    *integer_bias = scale > 0 ? (int32_t)fmax(-room, fmin(room, rint(bias / scale / sx))) : 0;
    return scale;
}

enum mb_status mb_integer_pack_rows(const struct mb_integer_weights *weights, const float *rows,
                                    const float *bias, size_t row0, size_t row1)
{
    const enum mb_status status = check_rows(weights, rows, row0, row1);
    if (status != MB_OK || row0 == row1)
        return status;
    const size_t k = weights->k;
    for (size_t i = 0; i < (row1 - row0) * k; i++)
        if (!isfinite(rows[i]))
            return MB_ERR_ARGUMENT;
    for (size_t i = 0; bias != NULL && i < row1 - row0; i++)
        if (!isfinite(bias[i]))
            return MB_ERR_ARGUMENT;
    int8_t *codes = malloc(k);
    if (codes == NULL)
        return MB_ERR_MEMORY;
    for (size_t row = row0; row < row1; row++) {
        int32_t integer_bias;
        const double scale =
            quantize_row(weights, rows + (row - row0) * k,
                         bias != NULL ? (double)bias[row - row0] : 0, codes, &integer_bias);
        pack_row(weights, row, codes, integer_bias, scale);
    }
    free(codes);
    return MB_OK;
}

enum mb_status mb_integer_pack_codes(const struct mb_integer_weights *weights, const int8_t *codes,
                                     const float *scales, const int32_t *bias, size_t row0,
                                     size_t row1)
{
    const enum mb_status status = check_rows(weights, codes, row0, row1);
    if (status != MB_OK || row0 == row1)
        return status;
    if (scales == NULL)
        return MB_ERR_ARGUMENT;
    const size_t k = weights->k;
    for (size_t i = 0; i < row1 - row0; i++) {
        if (!isfinite(scales[i]) || scales[i] < 0)
            return MB_ERR_ARGUMENT;
        for (size_t c = 0; c < k; c++)
            if (codes[i * k + c] < -127)
                return MB_ERR_ARGUMENT;
        if (!mb_integer_fits(codes + i * k, k, bias != NULL ? bias[i] : 0, weights->input.zero))
            return MB_ERR_ARGUMENT;
    }
    for (size_t i = 0; i < row1 - row0; i++)
        pack_row(weights, row0 + i, codes + i * k, bias != NULL ? bias[i] : 0, (double)scales[i]);
    return MB_OK;
}

/* ---- products ---- */

static enum mb_status check_product(const struct mb_integer_weights *weights, const int8_t *x,
                                    size_t m, size_t x_stride, const int8_t *y, size_t y_stride)
{
    enum mb_status status = mb_select_environment(NULL);
    if (status == MB_OK)
        status = check_weights(weights);
    if (status != MB_OK)
        return status;
    if (m == 0 || (m > 1 && (x_stride < weights->k || y_stride < weights->n)))
        return MB_ERR_SHAPE;
    return x == NULL || y == NULL ? MB_ERR_ARGUMENT : MB_OK;
}

static void run(const struct mb_kernel *kernel, const struct mb_integer_weights *weights,
                const int8_t *x, size_t m, size_t x_stride, size_t n0, size_t n1, int8_t *y,
                size_t y_stride)
{
    const size_t panel_bytes = mb_integer_panel_bytes(weights->k);
    const struct mb_integer_args args = {
        .panels = (const uint8_t *)weights->data + n0 / MB_INTEGER_ROWS * panel_bytes,
        .panel_bytes = panel_bytes,
        .k = weights->k,
        .n = n1 - n0,
        .m = m,
        .x = x,
        .x_stride = x_stride,
        .zero = weights->output.zero,
        .y = y + n0,
        .y_stride = y_stride,
    };
    kernel->fn.integer(&args);
}

enum mb_status mb_integer_range(const struct mb_integer_weights *weights, const int8_t *x, size_t m,
                                size_t x_stride, size_t n0, size_t n1, int8_t *y, size_t y_stride)
{
    const enum mb_status status = check_product(weights, x, m, x_stride, y, y_stride);
    if (status != MB_OK)
        return status;
    if (n0 > n1 || n1 > weights->n || n0 % MB_INTEGER_ROWS != 0 ||
        (n1 % MB_INTEGER_ROWS != 0 && n1 != weights->n))
        return MB_ERR_SHAPE;
    if (n0 < n1)
        run(mb_select_alone(MB_OP_INTEGER), weights, x, m, x_stride, n0, n1, y, y_stride);
    return MB_OK;
}

struct call {
    const struct mb_kernel *kernel;
    const struct mb_integer_weights *weights;
    const int8_t *x;
    size_t m, x_stride;
    int8_t *y;
    size_t y_stride;
};

static void run_panels(void *arg, size_t index, size_t begin, size_t end)
{
    const struct call *c = arg;
    const size_t n = c->weights->n, stop = end * MB_INTEGER_ROWS;
    (void)index;
    run(c->kernel, c->weights, c->x, c->m, c->x_stride, begin * MB_INTEGER_ROWS,
        stop < n ? stop : n, c->y, c->y_stride);
}

enum mb_status mb_integer_matmul(struct mb_threads *threads,
                                 const struct mb_integer_weights *weights, const int8_t *x,
                                 size_t m, size_t x_stride, int8_t *y, size_t y_stride)
{
    const enum mb_status status = check_product(weights, x, m, x_stride, y, y_stride);
    if (status != MB_OK)
        return status;
    struct call call = {mb_select_alone(MB_OP_INTEGER), weights, x, m, x_stride, y, y_stride};
    mb_split_panels(threads, panels_of(weights->n), mb_kernel_step(call.kernel, 1),
                    m * weights->n * weights->k, run_panels, &call);
    return MB_OK;
}
