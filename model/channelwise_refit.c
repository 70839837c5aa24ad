/* SPDX-License-Identifier: Apache-2.0 */
/* Levels under the codes that there are and the errors of whole rows. What a row costs is e H e^T
 * with e = w - S l, l all levels of the tensor and S what picks and scales them: a least squares of
 * some dozens of unknowns, whose normal equations are sums over rows,
 *
 *   sum(S^T H S) change = sum(S^T H e)
 *
 * so some hundred rows, evenly spread, say what all would. Blocks of them are summed apart and in
 * order: threads change no bit. */
#include "model/channelwise_encoder.h"

#include "kernels/half.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLED = 512, BLOCK = 16, MOST_LEVELS = 128 };
static const double DAMPING = 1e-4; /* of the mean diagonal, for levels that few weights have */

struct mb_refit {
    struct mb_encoder *e;
    size_t levels, stride;
    double *sums; /* [levels][levels], then what is asked of each */
};

bool mb_can_refit(const struct mb_encoder *e)
{
    const struct mb_channelwise *out = e->out;
    const struct mb_channelwise_options *o = &out->options;
    return o->scope == MB_SCOPE_TENSOR && o->codes == MB_CODES_KMEANS && !o->byte_codebook &&
           out->widths[out->width_count - 1] < 8 && o->activation_outliers == 0 &&
           o->error_outliers == 0 && out->first_level[out->cell_count] <= MOST_LEVELS;
}

struct mb_refit *mb_refit_create(struct mb_encoder *e)
{
    struct mb_refit *r = malloc(sizeof *r);
    const size_t levels = e->out->first_level[e->out->cell_count];
    if (r == NULL)
        return NULL;
    *r = (struct mb_refit){.e = e,
                           .levels = levels,
                           .stride = (e->out->n + SAMPLED - 1) / SAMPLED,
                           .sums = calloc(levels * (levels + 1), sizeof *r->sums)};
    if (r->sums == NULL) {
        free(r);
        return NULL;
    }
    return r;
}

void mb_refit_free(struct mb_refit *r)
{
    if (r != NULL)
        free(r->sums);
    free(r);
}

struct job {
    const struct mb_refit *refit;
    const float *h;
    const size_t *rows; /* NULL: as they are */
    size_t count;       /* of those that are looked at */
    double *blocks;
    bool *failed; /* [blocks] */
};

static void add_row(const struct job *job, size_t row, double *sums, uint16_t *level, float *scale,
                    float *error, float *picked)
{
    const struct mb_encoder *e = job->refit->e;
    const struct mb_channelwise *out = e->out;
    const size_t k = out->k, levels = job->refit->levels;
    mb_read_errors(e, row, error);
    for (size_t c = 0; c < k; c++) {
        level[c] = (uint16_t)mb_level_of(out, row, c);
        scale[c] = mb_scale_at(out, row, c);
    }
    for (size_t c = 0; c < k; c++) {
        const float *own = job->h + c * k;
        double *to = sums + (size_t)level[c] * levels;
        float asked = 0;
        memset(picked, 0, levels * sizeof *picked);
        for (size_t j = 0; j < k; j++)
            asked += own[j] * error[j];
        for (size_t j = 0; j < k; j++)
            picked[level[j]] += own[j] * scale[j];
        for (size_t l = 0; l < levels; l++)
            to[l] += (double)scale[c] * (double)picked[l];
        sums[levels * levels + level[c]] += (double)scale[c] * (double)asked;
    }
}

static void add_blocks(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct job *job = arg;
    const size_t k = job->refit->e->out->k, levels = job->refit->levels;
    float *floats = malloc((2 * k + levels) * sizeof *floats);
    uint16_t *level = malloc(k * sizeof *level);
    for (size_t b = first; b < last; b++) {
        job->failed[b] = floats == NULL || level == NULL;
        for (size_t i = b * BLOCK; i < (b + 1) * BLOCK && i < job->count && !job->failed[b]; i++) {
            const size_t at = i * job->refit->stride;
            add_row(job, job->rows != NULL ? job->rows[at] : at,
                    job->blocks + b * levels * (levels + 1), level, floats, floats + k,
                    floats + 2 * k);
        }
    }
    free(floats);
    free(level);
}

enum mb_status mb_refit_add(struct mb_refit *r, const float *h, const size_t *rows, size_t count)
{
    const size_t each = r->levels * (r->levels + 1), k = r->e->out->k;
    struct job job = {.refit = r, .h = h, .rows = rows};
    job.count = (count + r->stride - 1) / r->stride;
    const size_t blocks = (job.count + BLOCK - 1) / BLOCK;
    job.blocks = calloc(blocks * each, sizeof *job.blocks);
    job.failed = calloc(blocks, sizeof *job.failed);
    enum mb_status status = job.blocks != NULL && job.failed != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        mb_split(r->e->threads, blocks, 2 * job.count * k * k, add_blocks, &job);
    for (size_t b = 0; b < blocks && status == MB_OK; b++) {
        status = job.failed[b] ? MB_ERR_MEMORY : MB_OK;
        for (size_t i = 0; i < each; i++)
            r->sums[i] += job.blocks[b * each + i];
    }
    free(job.blocks);
    free(job.failed);
    return status;
}

/* Cholesky, in place: what is asked for becomes the solution. False: not positive. */
static bool solve(double *a, double *b, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        for (size_t i = j; i < n; i++) {
            double sum = a[i * n + j];
            for (size_t p = 0; p < j; p++)
                sum -= a[i * n + p] * a[j * n + p];
            if (i == j && !(sum > 0))
                return false;
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
        for (size_t p = 0; p < j; p++)
            b[j] -= a[j * n + p] * b[p];
        b[j] /= a[j * n + j];
    }
    for (size_t j = n; j-- > 0;) {
        for (size_t p = j + 1; p < n; p++)
            b[j] -= a[p * n + j] * b[p];
        b[j] /= a[j * n + j];
    }
    return true;
}

/* A codebook's levels, if they still ascend: codes count on it. */
static bool move(float *levels, const double *change, size_t count)
{
    float moved[1 << MB_MOST_CODE_BITS];
    for (size_t i = 0; i < count; i++) {
        const int half = mb_half_within((double)levels[i] + change[i]);
        moved[i] = mb_half_to_float((uint16_t)half);
        if (!isfinite(moved[i]) || (i > 0 && !(moved[i] >= moved[i - 1])))
            return false;
    }
    const bool moves = memcmp(levels, moved, count * sizeof *levels) != 0;
    memcpy(levels, moved, count * sizeof *levels);
    return moves;
}

bool mb_refit_apply(struct mb_refit *r)
{
    struct mb_channelwise *out = r->e->out;
    const size_t n = r->levels;
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += r->sums[i * n + i];
    for (size_t i = 0; i < n; i++)
        r->sums[i * n + i] += DAMPING * trace / (double)n;
    if (!(trace > 0) || !isfinite(trace) || !solve(r->sums, r->sums + n * n, n))
        return false;
    bool moved = false;
    for (size_t cell = 0; cell < out->cell_count; cell++) {
        const size_t first = out->first_level[cell], count = out->first_level[cell + 1] - first;
        moved |= move(out->levels + first, r->sums + n * n + first, count);
    }
    return moved;
}
