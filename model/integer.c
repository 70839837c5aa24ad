/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges are seen where products are made: the hook multiplies in f32 and looks at both sides. The
 * same hook later makes the products of integers. */
#include "model/integer.h"

#include "model/rounding.h"
#include "support/support.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- ranges ---- */

struct range {
    float least, most;
};

struct mb_integer_ranges {
    const struct mb_network *network;
    const struct mb_progress *progress;
    size_t windows;
    struct range *input, *output; /* per matrix; least > most: nothing was seen */
};

void mb_integer_ranges_free(struct mb_integer_ranges *ranges)
{
    if (ranges == NULL)
        return;
    free(ranges->input);
    free(ranges->output);
    free(ranges);
}

static void see(struct range *range, const float *x, size_t stride, size_t width, size_t rows)
{
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < width; i++) {
            const float value = x[row * stride + i];
            range->least = value < range->least ? value : range->least;
            range->most = value > range->most ? value : range->most;
        }
}

static enum mb_status multiply_and_see(void *user, const struct mb_weights *weights, const float *x,
                                       size_t stride, size_t rows, float *y)
{
    struct mb_integer_ranges *ranges = user;
    const size_t matrix = mb_rounding_matrix(ranges->network, weights);
    if (matrix == ranges->network->matrix_count)
        return MB_ERR_UNSUPPORTED;
    const enum mb_status status =
        mb_matmul(ranges->network->threads, weights, x, rows, stride, y, weights->n);
    if (status == MB_OK) {
        see(&ranges->input[matrix], x, stride, weights->k, rows);
        see(&ranges->output[matrix], y, weights->n, weights->n, rows);
    }
    return status;
}

static int next_window(void *user, size_t window, size_t position, size_t count,
                       const float *logits, size_t vocabulary)
{
    const struct mb_integer_ranges *ranges = user;
    (void)count, (void)logits, (void)vocabulary;
    if (position > 0)
        return 0;
    return mb_progress_report(ranges->progress, (double)window, (double)ranges->windows,
                              "ranges of inputs and outputs") != MB_OK;
}

enum mb_status mb_integer_ranges_collect(struct mb_network *network,
                                         const struct mb_windows *windows,
                                         const struct mb_progress *progress,
                                         struct mb_integer_ranges **ranges, struct mb_error *error)
{
    const size_t count = network->matrix_count;
    const struct mb_rounding *before = network->rounding;
    struct mb_integer_ranges *made = calloc(1, sizeof *made);
    *ranges = NULL;
    if (made != NULL) {
        *made = (struct mb_integer_ranges){.network = network,
                                           .progress = progress,
                                           .windows = windows->count,
                                           .input = malloc((count + 1) * sizeof *made->input),
                                           .output = malloc((count + 1) * sizeof *made->output)};
    }
    if (made == NULL || made->input == NULL || made->output == NULL) {
        mb_integer_ranges_free(made);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for activation ranges");
    }
    for (size_t i = 0; i < count; i++)
        made->input[i] = made->output[i] = (struct range){INFINITY, -INFINITY};
    const struct mb_rounding watching = {.multiply = multiply_and_see, .user = made};
    network->rounding = &watching;
    const enum mb_status status = mb_network_logits(network, windows, 0, next_window, made, error);
    network->rounding = before;
    if (status == MB_OK)
        *ranges = made;
    else
        mb_integer_ranges_free(made);
    return status;
}

/* ---- products ---- */

struct mb_integer_products {
    struct mb_rounding rounding;
    const struct mb_network *network;
    const struct mb_integer_ranges *ranges;
    struct mb_integer_weights *weights; /* per matrix; data NULL: not packed */
};

void mb_integer_products_free(struct mb_integer_products *products)
{
    if (products == NULL)
        return;
    for (size_t i = 0; products->weights != NULL && i < products->network->matrix_count; i++)
        mb_free_aligned(products->weights[i].data);
    free(products->weights);
    free(products);
}

const struct mb_rounding *mb_integer_products_rounding(const struct mb_integer_products *products)
{
    return &products->rounding;
}

struct convert {
    const struct mb_integer_weights *weights;
    const float *x;
    size_t stride;
    int8_t *in, *out;
    float *y;
};

static void round_rows(void *arg, size_t first, size_t last, size_t thread)
{
    const struct convert *c = arg;
    const size_t k = c->weights->k;
    (void)thread;
    for (size_t row = first; row < last; row++)
        (void)mb_integer_quantize(&c->weights->input, c->x + row * c->stride, k, c->in + row * k);
}

static void read_rows(void *arg, size_t first, size_t last, size_t thread)
{
    const struct convert *c = arg;
    const size_t n = c->weights->n;
    (void)thread;
    (void)mb_integer_dequantize(&c->weights->output, c->out + first * n, (last - first) * n,
                                c->y + first * n);
}

/* The part of a packed matrix that a view of its f32 weights is, which begins with a panel. */
static struct mb_integer_weights view_of(const struct mb_integer_weights *all,
                                         const struct mb_weights *whole,
                                         const struct mb_weights *view)
{
    struct mb_integer_weights part = *all;
    size_t panel = 1; /* bytes of 16 rows */
    (void)mb_integer_size(16, all->k, &panel);
    part.data = (uint8_t *)all->data + mb_rounding_row(whole, view) / 16 * panel;
    part.n = view->n;
    return part;
}

static enum mb_status multiply(void *user, const struct mb_weights *weights, const float *x,
                               size_t stride, size_t rows, float *y)
{
    const struct mb_integer_products *products = user;
    const struct mb_network *network = products->network;
    const size_t matrix = mb_rounding_matrix(network, weights);
    if (matrix == network->matrix_count || products->weights[matrix].data == NULL)
        return MB_ERR_UNSUPPORTED;
    const struct mb_integer_weights part =
        view_of(&products->weights[matrix], &network->matrices[matrix].weights, weights);
    int8_t *in = malloc(rows * part.k), *out = malloc(rows * part.n);
    struct convert convert = {&part, x, stride, in, out, y};
    enum mb_status status = in != NULL && out != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK) {
        mb_split(network->threads, rows, 8 * rows * part.k, round_rows, &convert);
        status = mb_integer_matmul(network->threads, &part, in, rows, part.k, out, part.n);
    }
    if (status == MB_OK)
        mb_split(network->threads, rows, 2 * rows * part.n, read_rows, &convert);
    free(in);
    free(out);
    return status;
}

enum mb_status mb_integer_products_create(const struct mb_network *network,
                                          const struct mb_integer_ranges *ranges,
                                          struct mb_integer_products **products)
{
    struct mb_integer_products *made = calloc(1, sizeof *made);
    *products = NULL;
    if (made == NULL)
        return MB_ERR_MEMORY;
    *made = (struct mb_integer_products){
        .rounding = {.multiply = multiply, .user = made},
        .network = network,
        .ranges = ranges,
        .weights = calloc(network->matrix_count + 1, sizeof *made->weights)};
    if (made->weights == NULL) {
        mb_integer_products_free(made);
        return MB_ERR_MEMORY;
    }
    *products = made;
    return MB_OK;
}

enum mb_status mb_integer_products_store(struct mb_integer_products *products, size_t matrix,
                                         const float *rows)
{
    const struct mb_matrix *of = &products->network->matrices[matrix];
    const struct range *input = &products->ranges->input[matrix],
                       *output = &products->ranges->output[matrix];
    struct mb_integer_weights *weights = &products->weights[matrix];
    struct mb_integer_grid in, out;
    size_t bytes;
    mb_free_aligned(weights->data);
    weights->data = NULL;
    if (of->weights.data == NULL) /* looked up, never multiplied */
        return MB_OK;
    if (mb_integer_grid_of(input->least, input->most, &in) != MB_OK ||
        mb_integer_grid_of(output->least, output->most, &out) != MB_OK ||
        mb_integer_size(of->n, of->k, &bytes) != MB_OK)
        return MB_ERR_UNSUPPORTED;
    uint8_t *data = mb_alloc_aligned(bytes);
    if (data == NULL)
        return MB_ERR_MEMORY;
    struct mb_integer_weights made;
    enum mb_status status = mb_integer_init(&made, of->n, of->k, &in, &out, data);
    if (status == MB_OK)
        status = mb_integer_pack_rows(&made, rows, NULL, 0, of->n);
    if (status == MB_OK)
        *weights = made;
    else
        mb_free_aligned(data);
    return status;
}
