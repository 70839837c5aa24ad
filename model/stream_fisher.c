/* SPDX-License-Identifier: Apache-2.0 */
/* Differences between rows of tokens that the model draws, and their second moments
 * (stream_fisher.h). */
#include "model/stream_fisher.h"

#include "dispatch/dispatch.h"
#include "kernels/encode.h"
#include "kernels/gram.h"
#include "model/gguf.h"
#include "model/moments.h"
#include "support/memory.h"
#include "support/support.h"

#include <math.h>
#include <stdatomic.h>

enum { MOST_TOKENS = 4096, TOKENS = 128, PAIRS = 8 };
static const float DAMPING = 0.1f; /* of the mean diagonal: later layers turn errors about */

struct fisher {
    struct mb_network *network;
    const struct mb_tensor *output;
    const float *gains; /* of the last norm; NULL: 1 */
    size_t width, rows; /* differences in all */
    float *h, *packed;
    float *logits; /* [TOKENS][vocabulary] */
    float *pairs;  /* [TOKENS * PAIRS][width] */
    float *spare;  /* [threads][width] */
};

/* The norm that the head reads; NULL: the network ends in another way. */
static const struct mb_step *last_norm(const struct mb_network *network)
{
    const struct mb_step *last =
        network->step_count > 0 ? &network->steps[network->step_count - 1] : NULL;
    const bool plain = last != NULL && last->kind == MB_STEP_NORM && last->in == MB_SLOT_HIDDEN &&
                       last->out == MB_SLOT_NORMED && last->group == 0;
    return plain ? last : NULL;
}

static bool allocate(struct fisher *f, float **factor)
{
    const size_t threads = f->network->threads ? mb_threads_count(f->network->threads) : 1;
    f->h = mb_alloc_floats(f->width, f->width);
    *factor = mb_alloc_floats(f->width, f->width);
    f->packed = mb_alloc_floats(f->width, MB_GRAM_ROWS);
    f->logits = mb_alloc_floats(TOKENS, f->network->vocabulary);
    f->pairs = mb_alloc_floats(TOKENS * PAIRS, f->width);
    f->spare = mb_alloc_floats(threads, f->width);
    return f->h && *factor && f->packed && f->logits && f->pairs && f->spare;
}

static void release(struct fisher *f)
{
    float *const all[] = {f->h, f->packed, f->logits, f->pairs, f->spare};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        mb_free_aligned(all[i]);
}

/* ---- drawing ---- */

struct batch {
    struct fisher *fisher;
    const float *hidden; /* rows of width */
    uint64_t first;      /* of them, counted over all: what the draws are seeded with */
    atomic_int status;
};

/* In place, from logits to sums of what is likely up to each. */
static void accumulate(float *p, size_t n)
{
    float highest = p[0];
    double sum = 0.0;
    for (size_t i = 1; i < n; i++)
        highest = p[i] > highest ? p[i] : highest;
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(sum += (double)expf(p[i] - highest));
}

/* The first whose sum is above a random part of all. */
static size_t draw(const float *sums, size_t n, uint64_t *random)
{
    const float at = sums[n - 1] * (float)((double)(mb_random_next(random) >> 11) * 0x1p-53);
    size_t low = 0, high = n - 1;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (sums[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* (w_a - w_b) diag(g) scale. */
static enum mb_status subtract(const struct fisher *f, size_t a, size_t b, float scale,
                               float *spare, float *out)
{
    const size_t bytes = mb_format_row_bytes(f->output->format, f->width);
    const uint8_t *data = f->output->data;
    enum mb_status status = mb_dequantize(f->output->format, data + a * bytes, 1, f->width, out);
    if (status == MB_OK)
        status = mb_dequantize(f->output->format, data + b * bytes, 1, f->width, spare);
    for (size_t c = 0; c < f->width && status == MB_OK; c++)
        out[c] = (out[c] - spare[c]) * scale * (f->gains != NULL ? f->gains[c] : 1.0f);
    return status;
}

static void draw_tokens(void *arg, size_t first, size_t last, size_t thread)
{
    struct batch *b = arg;
    struct fisher *f = b->fisher;
    const size_t n = f->network->vocabulary, width = f->width;
    for (size_t r = first; r < last; r++) {
        uint64_t random = b->first + r;
        const float *h = b->hidden + r * width;
        double squares = 0.0;
        for (size_t c = 0; c < width; c++)
            squares += (double)h[c] * (double)h[c];
        /* two draws differ by twice their variance */
        const float scale = squares > 0.0 ? (float)sqrt(0.5 * (double)width / squares) : 0.0f;
        float *sums = f->logits + r * n;
        accumulate(sums, n);
        for (size_t pair = 0; pair < PAIRS; pair++) {
            const size_t one = draw(sums, n, &random), other = draw(sums, n, &random);
            const enum mb_status status = subtract(f, one, other, scale, f->spare + thread * width,
                                                   f->pairs + (r * PAIRS + pair) * width);
            if (status != MB_OK)
                atomic_store(&b->status, (int)status);
        }
    }
}

static void add_pairs(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct fisher *f = arg;
    mb_select_encode()->gram_add(f->h, f->width, f->width, f->packed, MB_GRAM_ROWS, 1.0f, first,
                                 last);
}

static enum mb_status add_run(struct fisher *f, struct mb_run *run)
{
    const size_t width = f->width;
    enum mb_status status = mb_run_steps(run, 0, f->network->step_count);
    for (size_t r = 0; r + TOKENS <= run->rows && status == MB_OK; r += TOKENS) {
        struct batch b = {f, run->slots[MB_SLOT_HIDDEN] + r * width, f->rows, MB_OK};
        status = mb_run_head_of(run, run->slots[MB_SLOT_NORMED] + r * width, TOKENS, f->logits);
        if (status != MB_OK)
            break;
        mb_split(f->network->threads, TOKENS, TOKENS * f->network->vocabulary * 8, draw_tokens, &b);
        status = (enum mb_status)atomic_load(&b.status);
        for (size_t i = 0; i < TOKENS * PAIRS && status == MB_OK; i += MB_GRAM_ROWS) {
            mb_gram_pack(f->pairs + i * width, width, MB_GRAM_ROWS, width, f->packed);
            mb_split(f->network->threads, mb_gram_pairs(width), MB_GRAM_ROWS * width * width / 2,
                     add_pairs, f);
            f->rows += MB_GRAM_ROWS;
        }
    }
    return status;
}

/* ---- the whole ---- */

static bool factor_of(struct fisher *f, float *factor)
{
    const size_t k = f->width;
    if (f->rows < k || !mb_moments_mean_of(f->h, k, &f->rows) || f->rows == 0)
        return false;
    double trace = 0.0;
    for (size_t i = 0; i < k; i++)
        trace += (double)f->h[i * k + i];
    for (size_t i = 0; i < k; i++)
        f->h[i * k + i] += DAMPING * (float)(trace / (double)k);
    return mb_moments_factor(f->network->threads, f->h, k, factor, f->packed);
}

enum mb_status mb_stream_fisher(struct mb_run *const *runs, size_t count,
                                const struct mb_progress *progress, double total, float **factor,
                                struct mb_error *error)
{
    struct mb_network *network = runs[0]->network;
    const struct mb_matrix *output = &network->matrices[network->output];
    const struct mb_step *norm = last_norm(network);
    struct fisher f = {.network = network,
                       .output = mb_model_tensor_at(network->model, output->tensor),
                       .width = network->slot_width[MB_SLOT_HIDDEN]};
    *factor = NULL;
    if (norm == NULL || output->format == MB_FORMAT_NONE || output->k != f.width ||
        f.width % MB_GRAM_PANEL != 0)
        return MB_OK;
    f.gains = norm->vector != MB_NO_VECTOR ? network->vectors[norm->vector] : NULL;
    enum mb_status status = allocate(&f, factor) ? MB_OK : MB_ERR_MEMORY;
    const size_t wanted = (MOST_TOKENS + runs[0]->row_room - 1) / runs[0]->row_room;
    const size_t used = wanted < count ? wanted : count;
    for (size_t i = 0; i < used && status == MB_OK; i++)
        if (mb_progress_report(progress, 0, total, "what errors cost at the end") != MB_OK)
            status = MB_ERR_INTERRUPTED;
        else
            status = add_run(&f, runs[i * count / used]);
    const bool factored = status == MB_OK && factor_of(&f, *factor);
    release(&f);
    if (!factored) {
        mb_free_aligned(*factor);
        *factor = NULL;
    }
    return status == MB_OK
               ? MB_OK
               : mb_error_set(error, status, -1, "what errors of the residual stream cost: %s",
                              mb_status_string(status));
}
