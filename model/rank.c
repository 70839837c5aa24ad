/* SPDX-License-Identifier: Apache-2.0 */
/* Rank correlations. Kendall's tau counts the pairs that two lists put in different orders, which
 * is the number of exchanges that a merge sort of one list makes once the other is sorted. */
#include "model/rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    double x, y;
};

static int by_x_then_y(const void *a, const void *b)
{
    const struct pair *p = a, *q = b;
    if (p->x != q->x)
        return p->x < q->x ? -1 : 1;
    return (p->y > q->y) - (p->y < q->y);
}

static struct pair *sorted_pairs(const double *x, const double *y, size_t count)
{
    struct pair *pairs = malloc((count + 1) * sizeof *pairs);
    for (size_t i = 0; pairs != NULL && i < count; i++)
        pairs[i] = (struct pair){x[i], y[i]};
    if (pairs != NULL)
        qsort(pairs, count, sizeof *pairs, by_x_then_y);
    return pairs;
}

/* ---- Spearman ---- */

/* pairs are sorted by x; y says where the rank goes. */
static void give_ranks(const struct pair *pairs, size_t count, double *ranks)
{
    for (size_t first = 0, last; first < count; first = last) {
        last = first + 1;
        while (last < count && pairs[last].x == pairs[first].x)
            last++;
        for (size_t i = first; i < last; i++)
            ranks[(size_t)pairs[i].y] = (double)(first + last - 1) / 2;
    }
}

static double *ranks_of(const double *values, size_t count)
{
    double *ranks = calloc(count + 1, sizeof *ranks);
    for (size_t i = 0; ranks != NULL && i < count; i++)
        ranks[i] = (double)i;
    struct pair *pairs = ranks != NULL ? sorted_pairs(values, ranks, count) : NULL;
    if (pairs != NULL)
        give_ranks(pairs, count, ranks);
    else
        free(ranks), ranks = NULL;
    free(pairs);
    return ranks;
}

double mb_spearman(const double *x, const double *y, size_t count)
{
    double *a = ranks_of(x, count), *b = ranks_of(y, count);
    double aa = 0, bb = 0, ab = 0;
    const double mean = ((double)count - 1) / 2;
    for (size_t i = 0; a != NULL && b != NULL && i < count; i++) {
        aa += (a[i] - mean) * (a[i] - mean);
        bb += (b[i] - mean) * (b[i] - mean);
        ab += (a[i] - mean) * (b[i] - mean);
    }
    free(a);
    free(b);
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : (double)NAN;
}

/* ---- Kendall ---- */

/* Sort `from` by y, by merging; returns the exchanges. `room` has space for all. */
static double merge_sort(struct pair *from, struct pair *room, size_t count)
{
    if (count < 2)
        return 0;
    const size_t half = count / 2;
    double exchanges = merge_sort(from, room, half) + merge_sort(from + half, room, count - half);
    for (size_t left = 0, right = half, out = 0; out < count; out++) {
        if (left < half && (right == count || from[left].y <= from[right].y)) {
            room[out] = from[left++];
        } else {
            exchanges += (double)(half - left);
            room[out] = from[right++];
        }
    }
    memcpy(from, room, count * sizeof *from);
    return exchanges;
}

static double pairs_of(size_t count) { return (double)count * ((double)count - 1) / 2; }

double mb_kendall(const double *x, const double *y, size_t count)
{
    struct pair *pairs = sorted_pairs(x, y, count), *room = malloc((count + 1) * sizeof *room);
    double tau = (double)NAN, x_ties = 0, y_ties = 0, both = 0;
    if (pairs == NULL || room == NULL)
        goto out;
    for (size_t i = 0, same = 0, equal = 0; i < count; i++) {
        same = i > 0 && pairs[i].x == pairs[i - 1].x ? same + 1 : 0;
        equal = same > 0 && pairs[i].y == pairs[i - 1].y ? equal + 1 : 0;
        x_ties += (double)same;
        both += (double)equal;
    }
    const double discordant = merge_sort(pairs, room, count);
    for (size_t i = 1, same = 0; i < count; i++) {
        same = pairs[i].y == pairs[i - 1].y ? same + 1 : 0;
        y_ties += (double)same;
    }
    const double all = pairs_of(count), concordant = all - x_ties - y_ties + both - discordant;
    if (all > x_ties && all > y_ties)
        tau = (concordant - discordant) / (sqrt(all - x_ties) * sqrt(all - y_ties));
out:
    free(pairs);
    free(room);
    return tau;
}

struct mb_order_agreement mb_kendall_orders(size_t count, mb_order_fn x, const void *x_user,
                                            mb_order_fn y, const void *y_user)
{
    double sum = 0, xs = 0, ys = 0, both = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t j = i + 1; j < count; j++) {
            const int a = x(x_user, i, j), b = y(y_user, i, j);
            xs += a != 0;
            ys += b != 0;
            both += a != 0 && b != 0;
            sum += (double)((a > 0) - (a < 0)) * (double)((b > 0) - (b < 0));
        }
    return (struct mb_order_agreement){.tau = xs > 0 && ys > 0 ? sum / (sqrt(xs) * sqrt(ys))
                                                               : (double)NAN,
                                       .decided = both > 0 ? sum / both : (double)NAN,
                                       .share = count > 1 ? both / pairs_of(count) : 0};
}
