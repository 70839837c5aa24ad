/* SPDX-License-Identifier: Apache-2.0 */
/* Which nodes of a graph this plug-in computes, and computing them. */
#ifndef MIXBIT_PLUGIN_GGML_COMPUTE_H
#define MIXBIT_PLUGIN_GGML_COMPUTE_H

#include "host.h"
#include "team.h"

/* Memory that grows and is kept from graph to graph; 64-byte aligned. */
struct mb_ggml_scratch {
    void *data;
    size_t bytes;
};

struct mb_ggml_compute {
    struct mb_ggml_team team;
    size_t threads; /* as the host said last; 0: it has not */
    bool (*abort)(void *user);
    void *abort_user;
    struct mb_ggml_scratch activations, gathered, outputs, packed, lists;
};

bool mb_ggml_supports(const struct ggml_tensor *node);
/* All nodes in order; GGML_OK or the host's code of what went wrong, the reason logged. */
int mb_ggml_compute_graph(struct mb_ggml_compute *compute, struct ggml_graph *graph);
void mb_ggml_compute_end(struct mb_ggml_compute *compute);

/* `bytes` of a scratch; NULL: out of memory. What it held is lost when it grows. */
void *mb_ggml_scratch(struct mb_ggml_scratch *scratch, size_t bytes);
/* Matrix `i` of a node's weights, packed: where they lie, or, when the host keeps them in its own
 * layout, packed now into the scratch. */
enum mb_status mb_ggml_weights_of(struct mb_ggml_compute *compute, const struct ggml_tensor *tensor,
                                  size_t i, struct mb_weights *weights);
/* Prepare all rows of x, x_stride floats apart, on the pool's threads where it pays. */
enum mb_status mb_ggml_prepare(struct mb_threads *pool, const struct mb_activations *activations,
                               const float *x, size_t x_stride);
/* A product with one of several matrices per row (compute_experts.c). */
enum mb_status mb_ggml_experts(struct mb_ggml_compute *compute, struct mb_threads *pool,
                               const struct ggml_tensor *node);

#endif
