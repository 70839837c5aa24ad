/* SPDX-License-Identifier: Apache-2.0 */
/* From the encoder's order of storage (channel by channel) to that of the kernels (row by row): the
 * columns' widths, order and scale groups are the encoder's own. */
#include "model/codebook_products.h"

#include "kernels/half.h"
#include "model/rounding.h"
#include "support/support.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- one matrix ---- */

bool mb_codebook_has_kernel(const struct mb_channelwise_options *options, bool one_width)
{
    const bool by_column = options->axis == MB_CHANNELS_OF_INPUT;
    return options->scope == MB_SCOPE_TENSOR ? by_column || one_width
                                             : options->scope == MB_SCOPE_CHANNEL && by_column;
}

/* How columns are stored. */
struct layout {
    struct mb_codebook_columns columns;
    uint32_t *order, *group;
    uint8_t *bits;
    float *levels; /* of all columns, where each has a codebook */
    struct mb_codebook_outlier_at *outliers;
};

static void free_layout(struct layout *l)
{
    free(l->levels);
    free(l->order);
    free(l->group);
    free(l->bits);
    free(l->outliers);
}

/* Those of the columns one behind the other, as they are stored. */
static bool gather_levels(const struct mb_channelwise *c, struct layout *l)
{
    size_t count = 0;
    for (size_t i = 0; i < c->k; i++)
        count += (size_t)1 << l->bits[i];
    float *to = l->levels = malloc(count * sizeof *l->levels);
    for (size_t i = 0; to != NULL && i < c->k; i++) {
        const size_t levels = (size_t)1 << l->bits[i];
        memcpy(to, c->levels + c->first_level[c->first_cell[l->order[i]]], levels * sizeof *to);
        to += levels;
    }
    l->columns.column_levels = l->levels;
    return to != NULL;
}

static bool lay_out(const struct mb_channelwise *c, struct layout *l)
{
    const bool by_column = c->options.axis == MB_CHANNELS_OF_INPUT;
    *l = (struct layout){.order = malloc(c->k * sizeof *l->order),
                         .group = malloc(c->k * sizeof *l->group),
                         .bits = malloc(c->k),
                         .outliers = malloc((c->outlier_count + 1) * sizeof *l->outliers)};
    if (!l->order || !l->group || !l->bits || !l->outliers)
        return false;
    l->columns = (struct mb_codebook_columns){.size = sizeof l->columns,
                                              .n = c->n,
                                              .k = c->k,
                                              .order = l->order,
                                              .bits = l->bits,
                                              .group = l->group,
                                              .groups = c->scale_groups,
                                              .outliers = c->outlier_count};
    for (size_t i = 0; i < c->k; i++) {
        const uint32_t column = by_column ? c->order[i] : (uint32_t)i;
        const size_t channel = by_column ? column : 0;
        const unsigned bits = c->widths[c->width[channel]];
        l->order[i] = column;
        l->bits[i] = (uint8_t)bits;
        l->group[i] = c->scale_groups > 0 ? c->scale_of[column] : 0;
        l->columns.levels[bits] = c->levels + c->first_level[c->first_cell[channel]];
    }
    for (size_t i = 0; i < c->n * c->scale_groups; i++)
        if (c->scales[i] > l->columns.largest_scale)
            l->columns.largest_scale = c->scales[i];
    for (size_t i = 0; i < c->outlier_count; i++)
        l->outliers[i] = (struct mb_codebook_outlier_at){c->outliers[i].row, c->outliers[i].column,
                                                         mb_half_to_float(c->outliers[i].half)};
    return c->options.scope != MB_SCOPE_CHANNEL || gather_levels(c, l);
}

enum { ROWS = 16 }; /* of a panel, which no two threads share */

struct packing {
    const struct mb_channelwise *encoded;
    const struct mb_codebook_weights *weights;
    atomic_int status;
};

/* Codes of 16 rows at a time, by column. */
static void pack_panels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct packing *packing = arg;
    const struct mb_channelwise *c = packing->encoded;
    const bool by_column = c->options.axis == MB_CHANNELS_OF_INPUT;
    uint8_t *codes = malloc(ROWS * c->k);
    enum mb_status status = codes != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t panel = first; panel < last && status == MB_OK; panel++) {
        const size_t row0 = panel * ROWS, row1 = row0 + ROWS < c->n ? row0 + ROWS : c->n;
        for (size_t column = 0; column < c->k; column++)
            for (size_t row = row0; row < row1; row++)
                codes[(row - row0) * c->k + column] =
                    by_column ? mb_code_at(c, column, row) : mb_code_at(c, row, column);
        const float *scales = c->scale_groups > 0 ? c->scales + row0 * c->scale_groups : NULL;
        status = mb_codebook_pack_rows(packing->weights, codes, scales, row0, row1);
    }
    free(codes);
    if (status != MB_OK)
        atomic_store(&packing->status, (int)status);
}

static enum mb_status pack_rows(const struct mb_channelwise *c, struct mb_threads *threads,
                                const struct mb_codebook_weights *weights)
{
    struct packing packing = {.encoded = c, .weights = weights};
    mb_split(threads, (c->n + ROWS - 1) / ROWS, 8 * c->n * c->k, pack_panels, &packing);
    return (enum mb_status)atomic_load(&packing.status);
}

enum mb_status mb_codebook_pack_encoded(const struct mb_channelwise *encoded,
                                        struct mb_threads *threads,
                                        struct mb_codebook_weights *weights, size_t *bytes)
{
    struct layout layout;
    if (!mb_codebook_has_kernel(&encoded->options, encoded->width_count == 1))
        return MB_ERR_UNSUPPORTED;
    enum mb_status status = lay_out(encoded, &layout) ? MB_OK : MB_ERR_MEMORY;
    void *data = NULL;
    if (status == MB_OK)
        status = mb_codebook_size(&layout.columns, bytes);
    if (status == MB_OK && (data = mb_alloc_aligned(*bytes)) == NULL)
        status = MB_ERR_MEMORY;
    if (status == MB_OK)
        status = mb_codebook_init(weights, &layout.columns, data);
    if (status == MB_OK)
        status = pack_rows(encoded, threads, weights);
    if (status == MB_OK)
        status = mb_codebook_pack_outliers(weights, layout.outliers);
    if (status != MB_OK)
        mb_free_aligned(data);
    free_layout(&layout);
    return status;
}

/* ---- a network ---- */

/* Rows [row0, row0 + weights.n) of a matrix. */
struct part {
    size_t row0;
    struct mb_codebook_weights weights;
};

struct parts {
    struct part *at; /* by row0 */
    size_t count, room;
};

struct mb_codebook_products {
    struct mb_rounding rounding;
    const struct mb_network *network;
    struct parts *matrices;
};

void mb_codebook_products_free(struct mb_codebook_products *products)
{
    if (products == NULL)
        return;
    for (size_t i = 0; products->matrices != NULL && i < products->network->matrix_count; i++) {
        for (size_t p = 0; p < products->matrices[i].count; p++)
            mb_free_aligned(products->matrices[i].at[p].weights.data);
        free(products->matrices[i].at);
    }
    free(products->matrices);
    free(products);
}

const struct mb_rounding *mb_codebook_products_rounding(const struct mb_codebook_products *products)
{
    return &products->rounding;
}

/* The packed rows [row0, row0 + n) of a matrix, which lie in one part. */
static enum mb_status find(const struct parts *parts, size_t row0, size_t n,
                           struct mb_codebook_weights *view)
{
    for (size_t p = 0; p < parts->count; p++) {
        const struct part *part = &parts->at[p];
        if (row0 >= part->row0 && row0 + n <= part->row0 + part->weights.n)
            return mb_codebook_view(&part->weights, row0 - part->row0, row0 - part->row0 + n, view);
    }
    return MB_ERR_UNSUPPORTED;
}

static enum mb_status multiply(void *user, const struct mb_weights *weights, const float *x,
                               size_t stride, size_t rows, float *y)
{
    const struct mb_codebook_products *products = user;
    const struct mb_network *network = products->network;
    const size_t matrix = mb_rounding_matrix(network, weights);
    struct mb_codebook_weights view;
    if (matrix == network->matrix_count)
        return MB_ERR_UNSUPPORTED;
    const size_t row0 = mb_rounding_row(&network->matrices[matrix].weights, weights);
    if (find(&products->matrices[matrix], row0, weights->n, &view) != MB_OK)
        return MB_ERR_UNSUPPORTED;
    return mb_codebook_matmul(network->threads, &view, x, rows, stride, y, weights->n);
}

enum mb_status mb_codebook_products_create(const struct mb_network *network,
                                           struct mb_codebook_products **products)
{
    struct mb_codebook_products *made = calloc(1, sizeof *made);
    *products = NULL;
    if (made == NULL)
        return MB_ERR_MEMORY;
    *made = (struct mb_codebook_products){
        .rounding = {.multiply = multiply, .user = made},
        .network = network,
        .matrices = calloc(network->matrix_count + 1, sizeof *made->matrices)};
    if (made->matrices == NULL) {
        mb_codebook_products_free(made);
        return MB_ERR_MEMORY;
    }
    *products = made;
    return MB_OK;
}

/* Room for one part more. */
static bool grow(struct parts *parts)
{
    if (parts->count < parts->room)
        return true;
    const size_t room = parts->room > 0 ? 2 * parts->room : 1;
    struct part *at = realloc(parts->at, room * sizeof *at);
    if (at == NULL)
        return false;
    parts->at = at;
    parts->room = room;
    return true;
}

enum mb_status mb_codebook_products_store(struct mb_codebook_products *products, size_t matrix,
                                          size_t row0, const struct mb_channelwise *encoded,
                                          size_t *bytes)
{
    struct parts *parts = &products->matrices[matrix];
    struct part part = {.row0 = row0};
    *bytes = 0;
    if (products->network->matrices[matrix].weights.data == NULL) /* looked up, never multiplied */
        return MB_OK;
    if (!grow(parts))
        return MB_ERR_MEMORY;
    const enum mb_status status =
        mb_codebook_pack_encoded(encoded, products->network->threads, &part.weights, bytes);
    if (status == MB_OK)
        parts->at[parts->count++] = part;
    return status;
}
