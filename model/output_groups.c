/* SPDX-License-Identifier: Apache-2.0 */
/* K-means over directions of output rows, and probabilities summed over its groups
 * (output_groups.h).
 *
 * Scores of all rows against the centers are one product of the output matrix with the centers as
 * its inputs. */
#include "model/output_groups.h"

#include "model/gguf.h"
#include "support/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_GROUPS = 64, LEAST_ROWS = 32, ROUNDS = 6, CHUNK = 64 };
static const size_t MOST_FLOATS = (size_t)1 << 27;

size_t mb_output_groups_most(const struct mb_network *network)
{
    const struct mb_matrix *output = &network->matrices[network->output];
    const size_t by_rows = output->n / LEAST_ROWS, by_room = MOST_FLOATS / output->k / output->k;
    size_t most = by_rows < by_room ? by_rows : by_room;
    most = most < MOST_GROUPS ? most : MOST_GROUPS;
    const bool apart = network->output != network->embedding;
    return apart && most > 1 && output->format != MB_FORMAT_NONE && output->weights.data != NULL
               ? most
               : 0;
}

struct division {
    const struct mb_network *network;
    const struct mb_matrix *output;
    size_t count;
    float *centers;  /* [count][k] */
    float *scores;   /* [count][n] */
    float *inverses; /* [n]: of the rows' lengths */
    float *rows;     /* CHUNK of them */
    size_t *sizes;   /* [count] */
};

/* Rows [row0, row1) as floats, each of length 1 (or 0). */
static enum mb_status read_directions(const struct division *d, size_t row0, size_t row1)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(d->network->model, d->output->tensor);
    const size_t k = tensor->k, bytes = mb_format_row_bytes(tensor->format, k);
    const enum mb_status status = mb_dequantize(
        tensor->format, (const uint8_t *)tensor->data + row0 * bytes, row1 - row0, k, d->rows);
    for (size_t r = row0; r < row1 && status == MB_OK; r++) {
        float *row = d->rows + (r - row0) * k;
        double sum = 0.0;
        for (size_t c = 0; c < k; c++)
            sum += (double)row[c] * (double)row[c];
        d->inverses[r] = sum > 0.0 && isfinite(sum) ? (float)(1.0 / sqrt(sum)) : 0.0f;
        for (size_t c = 0; c < k; c++)
            row[c] = d->inverses[r] != 0.0f ? row[c] * d->inverses[r] : 0.0f;
    }
    return status;
}

/* Centers are the means of their rows; one without rows stays. */
static enum mb_status move_centers(struct division *d, const uint16_t *of_row)
{
    const size_t n = d->output->n, k = d->output->k;
    enum mb_status status = MB_OK;
    for (size_t g = 0; g < d->count; g++)
        if (d->sizes[g] > 0)
            memset(d->centers + g * k, 0, k * sizeof *d->centers);
    for (size_t r = 0; r < n && status == MB_OK; r += CHUNK) {
        const size_t end = n - r < CHUNK ? n : r + CHUNK;
        status = read_directions(d, r, end);
        for (size_t i = r; i < end && status == MB_OK; i++) {
            float *center = d->centers + of_row[i] * k;
            for (size_t c = 0; c < k; c++)
                center[c] += d->rows[(i - r) * k + c];
        }
    }
    for (size_t g = 0; g < d->count; g++)
        for (size_t c = 0; c < k && d->sizes[g] > 0; c++)
            d->centers[g * k + c] /= (float)d->sizes[g];
    return status;
}

/* Every row goes to the center that is nearest to its direction. */
static enum mb_status assign(struct division *d, uint16_t *of_row)
{
    const size_t n = d->output->n, k = d->output->k;
    const enum mb_status status =
        mb_matmul(d->network->threads, &d->output->weights, d->centers, d->count, k, d->scores, n);
    memset(d->sizes, 0, d->count * sizeof *d->sizes);
    for (size_t g = 0; g < d->count; g++) {
        double square = 0.0;
        for (size_t c = 0; c < k; c++)
            square += (double)d->centers[g * k + c] * (double)d->centers[g * k + c];
        float *scores = d->scores + g * n, *best = d->scores;
        for (size_t r = 0; r < n; r++) {
            const float score = scores[r] * d->inverses[r] - 0.5f * (float)square;
            if (g == 0 || score > best[r]) {
                best[r] = score;
                of_row[r] = (uint16_t)g;
            }
        }
    }
    for (size_t r = 0; r < n; r++)
        d->sizes[of_row[r]]++;
    return status;
}

/* Groups without rows go, the others are counted out. */
static void sort_rows(const struct division *d, struct mb_output_groups *groups)
{
    size_t at = 0, kept = 0, next[MOST_GROUPS];
    uint16_t renamed[MOST_GROUPS];
    for (size_t g = 0; g < d->count; g++) {
        if (d->sizes[g] == 0)
            continue;
        next[kept] = at;
        at += d->sizes[g];
        groups->ends[kept] = at;
        renamed[g] = (uint16_t)kept++;
    }
    groups->count = kept;
    for (size_t r = 0; r < d->output->n; r++) {
        groups->of_row[r] = renamed[groups->of_row[r]];
        groups->order[next[groups->of_row[r]]++] = r;
    }
}

static enum mb_status divide(struct division *d, struct mb_output_groups *groups)
{
    const size_t n = d->output->n, k = d->output->k;
    enum mb_status status = MB_OK;
    for (size_t r = 0; r < n && status == MB_OK; r += CHUNK)
        status = read_directions(d, r, n - r < CHUNK ? n : r + CHUNK);
    for (size_t g = 0; g < d->count && status == MB_OK; g++) {
        const size_t r = g * n / d->count;
        status = read_directions(d, r, r + 1);
        memcpy(d->centers + g * k, d->rows, k * sizeof *d->centers);
    }
    if (status == MB_OK)
        status = assign(d, groups->of_row);
    for (size_t i = 0; i < ROUNDS && status == MB_OK; i++) {
        status = move_centers(d, groups->of_row);
        if (status == MB_OK)
            status = assign(d, groups->of_row);
    }
    if (status == MB_OK)
        sort_rows(d, groups);
    return status;
}

enum mb_status mb_output_groups_create(const struct mb_network *network, size_t most,
                                       struct mb_output_groups *groups)
{
    struct division d = {
        .network = network, .output = &network->matrices[network->output], .count = most};
    const size_t n = d.output->n, k = d.output->k;
    size_t bytes;
    *groups = (struct mb_output_groups){.order = malloc(n * sizeof *groups->order),
                                        .ends = malloc(most * sizeof *groups->ends),
                                        .of_row = malloc(n * sizeof *groups->of_row)};
    d.centers = malloc(most * k * sizeof *d.centers);
    d.inverses = malloc(n * sizeof *d.inverses);
    d.rows = malloc(CHUNK * k * sizeof *d.rows);
    d.sizes = malloc(most * sizeof *d.sizes);
    if (mb_mul_size(most, n, &bytes) && mb_mul_size(bytes, sizeof *d.scores, &bytes))
        d.scores = malloc(bytes);
    enum mb_status status = MB_ERR_MEMORY;
    if (groups->order && groups->ends && groups->of_row && d.centers && d.scores && d.inverses &&
        d.rows && d.sizes)
        status = divide(&d, groups);
    free(d.centers);
    free(d.scores);
    free(d.inverses);
    free(d.rows);
    free(d.sizes);
    if (status != MB_OK)
        mb_output_groups_free(groups);
    return status;
}

void mb_output_groups_free(struct mb_output_groups *groups)
{
    free(groups->order);
    free(groups->ends);
    free(groups->of_row);
    *groups = (struct mb_output_groups){.count = 0};
}

/* ---- what they count for ---- */

struct weighing {
    const struct mb_output_groups *groups;
    size_t n;
    float *logits, *weights;
};

static void weigh_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct weighing *w = arg;
    const struct mb_output_groups *groups = w->groups;
    for (size_t r = first; r < last; r++) {
        float *p = w->logits + r * w->n, *weights = w->weights + r * groups->count;
        float highest = p[0];
        double sum = 0.0;
        for (size_t i = 1; i < w->n; i++)
            highest = p[i] > highest ? p[i] : highest;
        for (size_t i = 0; i < w->n; i++)
            sum += (double)(p[i] = expf(p[i] - highest));
        const float inverse = (float)(1.0 / sum);
        memset(weights, 0, groups->count * sizeof *weights);
        for (size_t i = 0; i < w->n; i++)
            weights[groups->of_row[i]] += p[i] * inverse * (1.0f - p[i] * inverse);
        for (size_t g = 0; g < groups->count; g++)
            weights[g] /= (float)(groups->ends[g] - (g > 0 ? groups->ends[g - 1] : 0));
    }
}

enum mb_status mb_output_groups_weigh(const struct mb_output_groups *groups, struct mb_run *run,
                                      const float *normed, size_t rows, float *logits,
                                      float *weights)
{
    const struct weighing w = {groups, run->network->vocabulary, logits, weights};
    const mb_observe_fn observe = run->observe;
    run->observe = NULL; /* it is the observer that asks */
    const enum mb_status status = mb_run_head_of(run, normed, rows, logits);
    run->observe = observe;
    if (status == MB_OK)
        mb_split(run->network->threads, rows, rows * w.n * 8, weigh_rows, (void *)(uintptr_t)&w);
    return status;
}
