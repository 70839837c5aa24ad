/* SPDX-License-Identifier: Apache-2.0 */
/* k-means on a line.
 *
 * Sorted points, equal values merged, prefix sums of w, w x and w x^2: the cost of any interval is
 * then three differences. best[c][i] = min over j of best[c - 1][j] + cost(j, i), and the smallest
 * best j never falls as i grows (the cost satisfies the quadrangle inequality; Wu 1991, Grønlund et
 * al. 2017), so a layer is filled by halving: log2(points) passes over it. Layers are kept as
 * splits, so every smaller clustering is read off the same table. */
#include "kernels/kmeans.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct point {
    double value, weight;
};

/* The scratch, cut up. Arrays of sums have an entry in front of the first point. */
struct solver {
    struct point *points;
    size_t count;  /* distinct values with weight */
    double origin; /* subtracted from values, so that sums of squares keep their digits */
    double *w, *wx, *wxx, *before, *layer;
    uint32_t *splits; /* [clusters][count + 1]: where the last cluster begins */
};

static size_t scratch_bytes(size_t points, size_t clusters)
{
    return points * sizeof(struct point) + 5 * (points + 1) * sizeof(double) +
           clusters * (points + 1) * sizeof(uint32_t);
}

size_t mb_kmeans_scratch(size_t points, size_t clusters)
{
    const size_t limit = SIZE_MAX / 64;
    if (points >= UINT32_MAX || clusters >= limit || points + 1 > limit / (clusters + 1))
        return 0;
    return scratch_bytes(points, clusters);
}

static void cut_scratch(struct solver *s, size_t points, void *scratch)
{
    s->points = scratch;
    s->w = (double *)(s->points + points);
    s->wx = s->w + points + 1;
    s->wxx = s->wx + points + 1;
    s->before = s->wxx + points + 1;
    s->layer = s->before + points + 1;
    s->splits = (uint32_t *)(s->layer + points + 1);
}

static int by_value(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

/* Sorted distinct points with their weights, and the prefix sums. */
static enum mb_status load(struct solver *s, const float *values, const float *weights,
                           size_t points)
{
    bool weighted = false;
    for (size_t i = 0; i < points; i++) {
        const float weight = weights ? weights[i] : 1.0f;
        if (!isfinite(values[i]) || !isfinite(weight) || weight < 0)
            return MB_ERR_ARGUMENT;
        weighted = weighted || weight > 0;
    }
    size_t kept = 0;
    for (size_t i = 0; i < points; i++) {
        const double weight = weighted && weights ? (double)weights[i] : 1.0;
        if (weight > 0)
            s->points[kept++] = (struct point){(double)values[i], weight};
    }
    qsort(s->points, kept, sizeof *s->points, by_value);
    s->count = 0;
    for (size_t i = 0; i < kept; i++)
        if (s->count > 0 && s->points[s->count - 1].value == s->points[i].value)
            s->points[s->count - 1].weight += s->points[i].weight;
        else
            s->points[s->count++] = s->points[i];
    double all = 0, sum = 0;
    for (size_t i = 0; i < s->count; i++) {
        all += s->points[i].weight;
        sum += s->points[i].weight * s->points[i].value;
    }
    s->origin = sum / all;
    s->w[0] = s->wx[0] = s->wxx[0] = 0;
    for (size_t i = 0; i < s->count; i++) {
        const double x = s->points[i].value - s->origin, w = s->points[i].weight;
        s->w[i + 1] = s->w[i] + w;
        s->wx[i + 1] = s->wx[i] + w * x;
        s->wxx[i + 1] = s->wxx[i] + w * x * x;
    }
    return MB_OK;
}

/* Of points [first, last) as one cluster. */
static double cost(const struct solver *s, size_t first, size_t last)
{
    const double w = s->w[last] - s->w[first], x = s->wx[last] - s->wx[first];
    const double error = s->wxx[last] - s->wxx[first] - x * x / w;
    return error > 0 && last - first > 1 ? error : 0;
}

static float mean(const struct solver *s, size_t first, size_t last)
{
    const double w = s->w[last] - s->w[first], x = s->wx[last] - s->wx[first];
    return (float)(s->origin + x / w);
}

/* layer[i] for i in [low, high], whose splits lie in [from, to]; `clusters` are made of i points.
 */
static void fill(struct solver *s, uint32_t *splits, size_t clusters, size_t low, size_t high,
                 size_t from, size_t to)
{
    while (low <= high) {
        const size_t middle = low + (high - low) / 2;
        const size_t last = to < middle - 1 ? to : middle - 1;
        size_t best = from;
        double least = INFINITY;
        for (size_t j = from; j <= last; j++) {
            const double error = s->before[j] + cost(s, j, middle);
            if (error < least) {
                least = error;
                best = j;
            }
        }
        s->layer[middle] = least;
        splits[middle] = (uint32_t)best;
        if (middle > low)
            fill(s, splits, clusters, low, middle - 1, from, best);
        low = middle + 1;
        from = best;
    }
}

/* All layers up to `clusters`, which are fewer than the points; a clustering's error is that of its
 * layer's last entry. */
static void solve(struct solver *s, size_t clusters, struct mb_clustering *clusterings,
                  size_t count)
{
    const size_t n = s->count, row = n + 1;
    for (size_t i = 0; i <= n; i++) {
        s->layer[i] = i > 0 ? cost(s, 0, i) : 0;
        s->splits[i] = 0;
    }
    for (size_t c = 1;; c++) {
        for (size_t k = 0; k < count; k++)
            if (clusterings[k].clusters == c)
                clusterings[k].error = s->layer[n];
        if (c == clusters)
            return;
        double *other = s->before;
        s->before = s->layer;
        s->layer = other;
        /* c + 1 clusters have that many points at least */
        fill(s, s->splits + c * row, c + 1, c + 1, n, c, n - 1);
    }
}

static void read_off(const struct solver *s, struct mb_clustering *clustering)
{
    size_t last = s->count;
    for (size_t c = clustering->clusters; c-- > 0;) {
        const size_t first = c > 0 ? s->splits[c * (s->count + 1) + last] : 0;
        clustering->centroids[c] = mean(s, first, last);
        last = first;
    }
}

/* As many clusters as values, or more. */
static void keep_all(const struct solver *s, struct mb_clustering *clustering)
{
    for (size_t c = 0; c < clustering->clusters; c++)
        clustering->centroids[c] = (float)s->points[c < s->count ? c : s->count - 1].value;
    clustering->error = 0;
}

enum mb_status mb_kmeans(const float *values, const float *weights, size_t points,
                         struct mb_clustering *clusterings, size_t count, void *scratch)
{
    struct solver s = {0};
    size_t most = 0;
    if (points == 0 || count == 0)
        return MB_ERR_ARGUMENT;
    for (size_t k = 0; k < count; k++)
        if (clusterings[k].clusters == 0)
            return MB_ERR_ARGUMENT;
    cut_scratch(&s, points, scratch);
    const enum mb_status status = load(&s, values, weights, points);
    if (status != MB_OK)
        return status;
    for (size_t k = 0; k < count; k++)
        if (clusterings[k].clusters < s.count && clusterings[k].clusters > most)
            most = clusterings[k].clusters;
    if (most > 0)
        solve(&s, most, clusterings, count);
    for (size_t k = 0; k < count; k++)
        if (clusterings[k].clusters < s.count)
            read_off(&s, &clusterings[k]);
        else
            keep_all(&s, &clusterings[k]);
    return MB_OK;
}

/* One assignment and new means; whether any centroid moved. A cluster that nothing is nearest to
 * stays where it was. */
static bool move(const struct solver *s, struct mb_clustering *clustering)
{
    bool moved = false;
    size_t first = 0;
    float *centroids = clustering->centroids;
    for (size_t c = 0; c < clustering->clusters; c++) {
        size_t last = c + 1 < clustering->clusters ? first : s->count;
        while (last < s->count && s->points[last].value - (double)centroids[c] <=
                                      (double)centroids[c + 1] - s->points[last].value)
            last++;
        if (last > first) {
            const float centroid = mean(s, first, last);
            moved = moved || centroid != centroids[c];
            centroids[c] = centroid;
        }
        first = last;
    }
    return moved;
}

enum mb_status mb_kmeans_lloyd(const float *values, const float *weights, size_t points,
                               size_t rounds, struct mb_clustering *clustering, void *scratch)
{
    struct solver s = {0};
    if (points == 0 || clustering->clusters == 0)
        return MB_ERR_ARGUMENT;
    cut_scratch(&s, points, scratch);
    const enum mb_status status = load(&s, values, weights, points);
    if (status != MB_OK)
        return status;
    const size_t clusters = clustering->clusters;
    if (clusters >= s.count) {
        keep_all(&s, clustering);
        return MB_OK;
    }
    for (size_t c = 0; c < clusters; c++)
        clustering->centroids[c] = (float)s.points[(2 * c + 1) * s.count / (2 * clusters)].value;
    for (size_t r = 0; r < rounds && move(&s, clustering); r++)
        continue;
    clustering->error = 0;
    for (size_t i = 0; i < s.count; i++) {
        const float value = (float)s.points[i].value;
        const size_t at = mb_nearest_centroid(clustering->centroids, clusters, value);
        const double distance = s.points[i].value - (double)clustering->centroids[at];
        clustering->error += s.points[i].weight * distance * distance;
    }
    return MB_OK;
}
