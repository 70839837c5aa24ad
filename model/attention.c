/* SPDX-License-Identifier: Apache-2.0 */
/* RoPE and causal grouped-query attention, over whole windows or one token behind a cache.
 *
 * Keys are kept in blocks of 32, transposed inside: 32 keys meet one query entry as full registers,
 * and a pass over them reads one stream. Both cases run the same sums in the same order: a token
 * decoded behind a cache gets the bits it gets inside a window. */
#include "model/network.h"

#include "model/vector.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

/* ---- RoPE ---- */

/* Angles in f64: position * scale * base^(-2i / dim) / factor_i. */
static enum mb_status grow_table(const struct mb_network *network, struct mb_rope *rope,
                                 size_t positions)
{
    if (positions <= rope->positions)
        return MB_OK;
    const size_t pairs = rope->dim / 2;
    size_t entries, bytes;
    if (!mb_mul_size(positions, 2 * pairs, &entries) ||
        !mb_mul_size(entries, sizeof *rope->table, &bytes))
        return MB_ERR_MEMORY;
    float *table = realloc(rope->table, bytes);
    if (table == NULL)
        return MB_ERR_MEMORY;
    rope->table = table;
    for (size_t i = 0; i < pairs; i++) {
        double frequency = rope->scale * pow(rope->base, -2.0 * (double)i / (2.0 * (double)pairs));
        if (rope->factors != MB_NO_VECTOR)
            frequency /= (double)network->vectors[rope->factors][i];
        for (size_t p = rope->positions; p < positions; p++) {
            const double angle = (double)p * frequency;
            table[(p * pairs + i) * 2] = (float)cos(angle);
            table[(p * pairs + i) * 2 + 1] = (float)sin(angle);
        }
    }
    rope->positions = positions;
    return MB_OK;
}

enum mb_status mb_rope_grow(struct mb_network *network, size_t positions)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < MB_MAX_ROPES && status == MB_OK; i++)
        if (network->ropes[i].dim > 0)
            status = grow_table(network, &network->ropes[i], positions);
    return status;
}

struct step_task {
    struct mb_run *run;
    const struct mb_step *step;
};

static void rotate_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct step_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const struct mb_rope *rope = &network->ropes[task->step->rope];
    const size_t width = network->slot_width[task->step->out], head = network->head_dim;
    /* Of a pair, and from one pair to the next. */
    const size_t apart = rope->halves ? rope->dim / 2 : 1, next = rope->halves ? 1 : 2;
    for (size_t row = first; row < last; row++) {
        const size_t position = run->past + row % run->tokens;
        const float *table = rope->table + position * rope->dim;
        float *x = run->slots[task->step->out] + row * width;
        for (float *end = x + width; x < end; x += head)
            for (size_t i = 0; i < rope->dim / 2; i++) {
                float *pair = x + i * next;
                const float a = pair[0], b = pair[apart], c = table[2 * i], s = table[2 * i + 1];
                pair[0] = a * c - b * s;
                pair[apart] = a * s + b * c;
            }
    }
}

void mb_run_rope(struct mb_run *run, const struct mb_step *step)
{
    struct step_task task = {run, step};
    mb_split(run->network->threads, run->rows, run->rows * run->network->slot_width[step->out] * 2,
             rotate_rows, &task);
}

/* ---- the cache ---- */

enum mb_status mb_cache_create(const struct mb_network *network, size_t positions,
                               struct mb_cache *cache)
{
    const struct mb_state_space *ssm = &network->ssm;
    const size_t heads = network->attending * network->kv_heads;
    *cache = (struct mb_cache){.capacity = round_up(positions, MB_KEY_BLOCK),
                               .values_stride = round_up(network->head_dim, 16)};
    const size_t keys = heads * network->head_dim * cache->capacity,
                 values = heads * cache->values_stride * cache->capacity,
                 inputs = network->scanning ? network->scanning * (ssm->taps - 1) *
                                                  network->slot_width[MB_SLOT_CONVOLVED]
                                            : 0,
                 states = network->scanning * mb_scan_state(network);
    cache->floats = keys + values + inputs + states;
    cache->bytes = cache->floats * sizeof *cache->data;
    cache->data = mb_alloc_aligned(cache->bytes ? cache->bytes : 1);
    if (cache->data == NULL) {
        mb_cache_free(cache);
        return MB_ERR_MEMORY;
    }
    memset(cache->data, 0, cache->bytes);
    cache->keys = cache->data;
    cache->values = cache->keys + keys;
    cache->states = cache->values + values;
    cache->inputs = cache->states + states;
    return MB_OK;
}

void mb_cache_free(struct mb_cache *cache)
{
    mb_free_aligned(cache->data);
    *cache = (struct mb_cache){0};
}

/* ---- attention ---- */

size_t mb_attention_scratch(const struct mb_network *network, size_t positions)
{
    const size_t padded = round_up(positions, MB_KEY_BLOCK);
    return padded * (MB_QUERY_BLOCK + network->head_dim + round_up(network->head_dim, 16));
}

/* Keys and values of one head: where they are, or where the new ones go. */
struct head_cache {
    float *keys, *values;
    size_t values_stride;
};

static void append(const struct mb_run *run, size_t sequence, size_t kv_head,
                   const struct head_cache *cache)
{
    const struct mb_network *network = run->network;
    const size_t dim = network->head_dim, width = network->slot_width[MB_SLOT_KEY];
    const size_t start = sequence * run->tokens * width + kv_head * dim;
    const float *k = run->slots[MB_SLOT_KEY] + start, *v = run->slots[MB_SLOT_VALUE] + start;
    for (size_t t = 0; t < run->tokens; t++) {
        const size_t position = run->past + t, block = position / MB_KEY_BLOCK;
        float *key = cache->keys + block * dim * MB_KEY_BLOCK + position % MB_KEY_BLOCK;
        for (size_t c = 0; c < dim; c++)
            key[c * MB_KEY_BLOCK] = k[t * width + c];
        memcpy(cache->values + position * cache->values_stride, v + t * width, dim * sizeof *v);
    }
}

/* Queries that attend together: where they are, how many keys the last of them sees, and how many
 * fewer each one before it. */
struct query_block {
    size_t at, stride, rows, visible, less;
};

/* Blocks of keys that no query's window reaches are passed over; of those in between, the scores
 * before the window become nothing. */
static void attend_block(const struct mb_run *run, const struct head_cache *cache,
                         const struct query_block *q, size_t window, float *s)
{
    const size_t dim = run->network->head_dim, fewest = q->visible - q->less * (q->rows - 1);
    const size_t passed =
        window && fewest > window ? (fewest - window) / MB_KEY_BLOCK * MB_KEY_BLOCK : 0;
    const size_t visible = q->visible - passed, padded = round_up(visible, MB_KEY_BLOCK);
    const struct mb_vector *vector = run->vector;
    vector->scores(s, padded, run->slots[MB_SLOT_QUERY] + q->at, q->stride, q->rows,
                   cache->keys + passed * dim, dim, padded, run->network->attention_scale);
    for (size_t r = 0; r < q->rows; r++) {
        const size_t length = visible - q->less * (q->rows - 1 - r);
        for (size_t j = 0; window && j + window < length; j++)
            s[r * padded + j] = -INFINITY;
        vector->softmax(s + r * padded, length, padded);
    }
    vector->weigh(run->slots[MB_SLOT_ATTENDED] + q->at, q->stride, s, padded, q->rows,
                  cache->values + passed * cache->values_stride, cache->values_stride, dim,
                  visible);
}

/* All query heads of one key/value head. Blocks are neighbouring positions of one head, or, for a
 * single token, the heads of the group: either way keys are read once for four queries. */
static void attend_group(const struct mb_run *run, size_t sequence, size_t kv_head,
                         const struct head_cache *cache, size_t window, float *s)
{
    const struct mb_network *network = run->network;
    const size_t dim = network->head_dim, width = network->slot_width[MB_SLOT_QUERY];
    const size_t group = network->heads / network->kv_heads;
    const size_t start = sequence * run->tokens * width + kv_head * group * dim;
    for (size_t h = 0; run->tokens == 1 && h < group; h += MB_QUERY_BLOCK) {
        const size_t left = group - h, rows = left < MB_QUERY_BLOCK ? left : MB_QUERY_BLOCK;
        const struct query_block q = {start + h * dim, dim, rows, run->past + 1, 0};
        attend_block(run, cache, &q, window, s);
    }
    for (size_t h = 0; run->tokens > 1 && h < group; h++)
        for (size_t t = 0; t < run->tokens; t += MB_QUERY_BLOCK) {
            const size_t left = run->tokens - t,
                         rows = left < MB_QUERY_BLOCK ? left : MB_QUERY_BLOCK;
            const struct query_block q = {start + h * dim + t * width, width, rows,
                                          run->past + t + rows, 1};
            attend_block(run, cache, &q, window, s);
        }
}

static void attend_heads(void *arg, size_t first, size_t last, size_t thread)
{
    const struct step_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const size_t dim = network->head_dim;
    const size_t padded = round_up(run->past + run->tokens, MB_KEY_BLOCK);
    float *s = run->scratch + thread * run->scratch_floats;
    struct head_cache cache = {.keys = s + MB_QUERY_BLOCK * padded,
                               .values_stride = round_up(dim, 16)};
    cache.values = cache.keys + dim * padded;
    if (run->cache == NULL) /* padding is read and must be finite */
        memset(cache.keys, 0, padded * (dim + cache.values_stride) * sizeof(float));
    for (size_t i = first; i < last; i++) {
        const size_t sequence = i / network->kv_heads, kv_head = i % network->kv_heads;
        if (run->cache != NULL) {
            const struct mb_cache *all = run->cache;
            const size_t index = task->step->cached * network->kv_heads + kv_head;
            cache = (struct head_cache){.keys = all->keys + index * dim * all->capacity,
                                        .values = all->values +
                                                  index * all->values_stride * all->capacity,
                                        .values_stride = all->values_stride};
        }
        append(run, sequence, kv_head, &cache);
        attend_group(run, sequence, kv_head, &cache, task->step->window, s);
    }
}

void mb_run_attend(struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    struct step_task task = {run, step};
    const size_t seen = run->past + run->tokens;
    mb_split(network->threads, run->sequences * network->kv_heads,
             run->rows * seen * network->slot_width[MB_SLOT_QUERY], attend_heads, &task);
}
