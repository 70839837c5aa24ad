/* SPDX-License-Identifier: Apache-2.0 */
/* RoPE and causal grouped-query attention, over whole windows or one token behind a cache.
 *
 * Keys are kept in blocks of 32, transposed inside: 32 keys meet one query entry as full registers,
 * and a pass over them reads one stream. Both cases run the same sums in the same order: a token
 * decoded behind a cache gets the bits it gets inside a window. */
#include "model/network.h"

#include "dispatch/dispatch.h"
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
    const size_t alone = MB_QUERY_BLOCK + network->head_dim + round_up(network->head_dim, 16);
    return padded * (alone > network->heads ? alone : network->heads);
}

/* Keys and values of one head: where they are, or where the new ones go. */
struct head_cache {
    float *keys, *values;
    size_t values_stride;
};

static struct head_cache cached_head(const struct mb_run *run, const struct mb_step *step,
                                     size_t kv_head)
{
    const struct mb_cache *all = run->cache;
    const size_t index = step->cached * run->network->kv_heads + kv_head;
    return (struct head_cache){.keys = all->keys + index * run->network->head_dim * all->capacity,
                               .values = all->values + index * all->values_stride * all->capacity,
                               .values_stride = all->values_stride};
}

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

/* Whole blocks of keys that a query who sees `visible` of them has left behind its window. */
static size_t keys_passed(size_t visible, size_t window)
{
    return window && visible > window ? (visible - window) / MB_KEY_BLOCK * MB_KEY_BLOCK : 0;
}

/* Of the first `length` scores those in the window, or all, become weights. */
static void weights_of(const struct mb_vector *vector, float *s, size_t length, size_t padded,
                       size_t window)
{
    for (size_t j = 0; window && j + window < length; j++)
        s[j] = -INFINITY;
    vector->softmax(s, length, padded);
}

/* Blocks of keys that no query's window reaches are passed over; of those in between, the scores
 * before the window become nothing. */
static void attend_block(const struct mb_run *run, const struct head_cache *cache,
                         const struct query_block *q, size_t window, float *s)
{
    const size_t dim = run->network->head_dim, fewest = q->visible - q->less * (q->rows - 1);
    const size_t passed = keys_passed(fewest, window);
    const size_t visible = q->visible - passed, padded = round_up(visible, MB_KEY_BLOCK);
    const struct mb_vector *vector = run->vector;
    vector->scores(s, padded, run->slots[MB_SLOT_QUERY] + q->at, q->stride, q->rows,
                   cache->keys + passed * dim, dim, padded, run->network->attention_scale);
    for (size_t r = 0; r < q->rows; r++)
        weights_of(vector, s + r * padded, visible - q->less * (q->rows - 1 - r), padded, window);
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
        if (run->cache != NULL)
            cache = cached_head(run, task->step, kv_head);
        append(run, sequence, kv_head, &cache);
        attend_group(run, sequence, kv_head, &cache, task->step->window, s);
    }
}

/* ---- one token among threads that its key/value heads don't divide by ---- */

/* Parts [first, last) of all heads' parts, `each` a head, as one run of parts per head. */
typedef void (*part_fn)(const struct step_task *task, size_t kv_head, size_t begin, size_t end);
static void for_parts(const struct step_task *task, size_t each, size_t index, size_t count,
                      part_fn run_part)
{
    const size_t total = task->run->network->kv_heads * each;
    const size_t last = total * (index + 1) / count;
    for (size_t part = total * index / count, some; part < last; part += some) {
        const size_t begin = part % each;
        some = last - part < each - begin ? last - part : each - begin;
        run_part(task, part / each, begin, begin + some);
    }
}

/* What the token sees: keys passed over, the others, and their scores' room. */
struct sight {
    size_t passed, visible, padded;
};
static struct sight sight_of(const struct step_task *task)
{
    const size_t seen = task->run->past + 1, passed = keys_passed(seen, task->step->window);
    return (struct sight){passed, seen - passed, round_up(seen - passed, MB_KEY_BLOCK)};
}

static void score_blocks(const struct step_task *task, size_t kv_head, size_t begin, size_t end)
{
    const struct mb_run *run = task->run;
    const struct sight sight = sight_of(task);
    const size_t dim = run->network->head_dim, group = run->network->heads / run->network->kv_heads;
    const float *keys =
        cached_head(run, task->step, kv_head).keys + (sight.passed + begin * MB_KEY_BLOCK) * dim;
    for (size_t h = 0; h < group; h += MB_QUERY_BLOCK) {
        const size_t head = kv_head * group + h, left = group - h;
        run->vector->scores(run->scratch + head * sight.padded + begin * MB_KEY_BLOCK, sight.padded,
                            run->slots[MB_SLOT_QUERY] + head * dim, dim,
                            left < MB_QUERY_BLOCK ? left : MB_QUERY_BLOCK, keys, dim,
                            (end - begin) * MB_KEY_BLOCK, run->network->attention_scale);
    }
}

enum { VALUE_COLUMNS = 16 };
static void weigh_columns(const struct step_task *task, size_t kv_head, size_t begin, size_t end)
{
    const struct mb_run *run = task->run;
    const struct sight sight = sight_of(task);
    const size_t dim = run->network->head_dim, group = run->network->heads / run->network->kv_heads;
    const struct head_cache cache = cached_head(run, task->step, kv_head);
    const size_t column = begin * VALUE_COLUMNS, to = end * VALUE_COLUMNS;
    for (size_t h = 0; h < group; h += MB_QUERY_BLOCK) {
        const size_t head = kv_head * group + h, left = group - h;
        run->vector->weigh(run->slots[MB_SLOT_ATTENDED] + head * dim + column, dim,
                           run->scratch + head * sight.padded, sight.padded,
                           left < MB_QUERY_BLOCK ? left : MB_QUERY_BLOCK,
                           cache.values + sight.passed * cache.values_stride + column,
                           cache.values_stride, (to < dim ? to : dim) - column, sight.visible);
    }
}

/* The same sums in the same order as a head by itself. */
static void attend_together(void *arg, size_t index, size_t count)
{
    const struct step_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const struct sight sight = sight_of(task);
    for_parts(task, sight.padded / MB_KEY_BLOCK, index, count, score_blocks);
    mb_threads_barrier(network->threads);
    for (size_t h = network->heads * index / count; h < network->heads * (index + 1) / count; h++)
        weights_of(run->vector, run->scratch + h * sight.padded, sight.visible, sight.padded,
                   task->step->window);
    mb_threads_barrier(network->threads);
    for_parts(task, run->cache->values_stride / VALUE_COLUMNS, index, count, weigh_columns);
}

void mb_run_attend(struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    struct step_task task = {run, step};
    const size_t work = run->rows * (run->past + run->tokens) * network->slot_width[MB_SLOT_QUERY];
    const bool is_one = run->cache != NULL && run->rows == 1;
    if (!is_one || work < MB_WORTH_A_DISPATCH ||
        network->kv_heads % mb_threads_count(network->threads) == 0) {
        mb_split(network->threads, run->sequences * network->kv_heads, work, attend_heads, &task);
        return;
    }
    for (size_t h = 0; h < network->kv_heads; h++) {
        const struct head_cache cache = cached_head(run, step, h);
        append(run, 0, h, &cache);
    }
    mb_threads_run(network->threads, attend_together, &task);
}
