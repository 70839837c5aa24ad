/* SPDX-License-Identifier: Apache-2.0 */
/* Codebooks: the clustering of numbers on a line that has the least weighted squared error.
 *
 * On a line clusters are intervals of the sorted points, so the best clustering into c of them is a
 * shortest path, found exactly by dynamic programming: no seed, no restarts, the same bits every
 * time. Lloyd's iteration, which papers on k-means codebooks use, is here to be compared with. */
#ifndef MIXBIT_KERNELS_KMEANS_H
#define MIXBIT_KERNELS_KMEANS_H

#include "mixbit/status.h"

/* One wanted clustering: `clusters` of at least 1; centroids[clusters], ascending, and the weighted
 * sum of squared distances are filled. With fewer distinct values than clusters the last centroid
 * repeats and the error is 0. */
struct mb_clustering {
    size_t clusters;
    float *centroids;
    double error;
};

/* Bytes of scratch for `points` and clusterings of up to `clusters`; 0: too large to count. */
size_t mb_kmeans_scratch(size_t points, size_t clusters);

/* Solve all `count` clusterings of the same points in one go: that of the most clusters holds the
 * others. Weights are non-negative, NULL: 1 each; points without weight have no say, unless all are
 * without. Costs clusters * points * log2(points). scratch is 16-byte aligned, nothing is
 * allocated. MB_ERR_ARGUMENT: no points, no clusters, a value or weight that is not finite or a
 * negative weight. */
enum mb_status mb_kmeans(const float *values, const float *weights, size_t points,
                         struct mb_clustering *clusterings, size_t count, void *scratch);

/* Lloyd's iteration from centroids at equal steps of rank, until nothing moves or `rounds` are
 * over. As mb_kmeans otherwise. */
enum mb_status mb_kmeans_lloyd(const float *values, const float *weights, size_t points,
                               size_t rounds, struct mb_clustering *clustering, void *scratch);

/* Index of the centroid that is nearest to a value; the lower of two. Centroids ascend. Halving
 * without branches: which way it goes is a coin's toss, and all that encodes by levels calls it for
 * every weight. */
static inline size_t mb_nearest_centroid(const float *centroids, size_t clusters, float value)
{
    size_t first = 0; /* the nearest is in [first, first + clusters) */
    while (clusters > 1) {
        const size_t half = clusters / 2;
        const float *edge = centroids + first + half;
        first += value - edge[-1] > edge[0] - value ? half : 0;
        clusters -= half;
    }
    return first;
}

#endif
