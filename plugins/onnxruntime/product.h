/* SPDX-License-Identifier: Apache-2.0 */
/* Multiplying by a node's packed weights, on the host's threads. */
#ifndef MIXBIT_PLUGIN_ORT_PRODUCT_H
#define MIXBIT_PLUGIN_ORT_PRODUCT_H

#include "pack.h"

/* y[m][n] = x[m][k] * w' + bias. x and y are of the node's type, rows without gaps; bias is f32 or
 * NULL. */
struct mb_ort_product {
    const struct mb_ort_node *node;
    const struct mb_ort_weights *weights;
    const float *bias;
    const void *x;
    void *y;
    size_t m;
};

/* Runs task(arg, index) for every index below total on the threads of the session that `context`
 * belongs to, in any order and by as many threads as are free. */
void mb_ort_for_each(const struct ort_api *api, const struct ort_kernel_context *context,
                     size_t total, void (*task)(void *arg, size_t index), void *arg);

/* Re-entrant. y is not to be used after an error. */
enum mb_status mb_ort_multiply_rows(const struct ort_api *api,
                                    const struct ort_kernel_context *context,
                                    const struct mb_ort_product *product);

#endif
