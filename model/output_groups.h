/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of the output matrix in groups, and how much each group counts at a row of activations.
 *
 * An error e of one logit costs p (1 - p) e^2 / 2 nats of KL divergence, to second order, where p
 * is that token's probability: the diagonal of the softmax's Fisher information. So an output row's
 * second moments are those of the inputs weighed by it, of the places where its token is likely,
 * not of all alike. k x k numbers for each row would be too many; rows of one direction are likely
 * in the same places, and share theirs. Directions are grouped by k-means on the sphere, from rows
 * spread over the vocabulary; tokens in their own order, or by how frequent they are, gain a third
 * of it.
 *
 * Threads  the network's; results do not depend on them.
 * Memory   while groups are made, count x n floats. */
#ifndef MIXBIT_MODEL_OUTPUT_GROUPS_H
#define MIXBIT_MODEL_OUTPUT_GROUPS_H

#include "model/network.h"

struct mb_output_groups {
    size_t count;     /* 0: none */
    size_t *order;    /* [n]: the output's rows, group after group, in their own order within one */
    size_t *ends;     /* [count]: where a group ends in `order`; none is empty */
    uint16_t *of_row; /* [n] */
};

/* How many there may be, as many as have moments of some 512 MB; 0: too few rows or too much
 * memory for two, or an output whose rows are looked up as well. */
size_t mb_output_groups_most(const struct mb_network *network);
/* For a network of MB_NUMERICS_F32. MB_ERR_MEMORY. */
enum mb_status mb_output_groups_create(const struct mb_network *network, size_t most,
                                       struct mb_output_groups *groups);
void mb_output_groups_free(struct mb_output_groups *groups);
/* weights[rows][count]: the mean of p (1 - p) over a group's rows, at `rows` inputs of the head.
 * logits: rows x vocabulary floats, for its use. (The slope of a cap on logits is left out.) */
enum mb_status mb_output_groups_weigh(const struct mb_output_groups *groups, struct mb_run *run,
                                      const float *normed, size_t rows, float *logits,
                                      float *weights);

#endif
