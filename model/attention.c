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
enum mb_status mb_rope_grow(struct mb_network *network, size_t positions)
{
    if (positions <= network->rope_positions)
        return MB_OK;
    const size_t pairs = network->rope_dim / 2;
    size_t entries, bytes;
    if (!mb_mul_size(positions, 2 * pairs, &entries) ||
        !mb_mul_size(entries, sizeof *network->rope_table, &bytes))
        return MB_ERR_MEMORY;
    float *table = realloc(network->rope_table, bytes);
    if (table == NULL)
        return MB_ERR_MEMORY;
    network->rope_table = table;
    for (size_t i = 0; i < pairs; i++) {
        double frequency =
            network->rope_scale * pow(network->rope_base, -2.0 * (double)i / (2.0 * (double)pairs));
        if (network->rope_factors != MB_NO_VECTOR)
            frequency /= (double)network->vectors[network->rope_factors][i];
        for (size_t p = network->rope_positions; p < positions; p++) {
            const double angle = (double)p * frequency;
            table[(p * pairs + i) * 2] = (float)cos(angle);
            table[(p * pairs + i) * 2 + 1] = (float)sin(angle);
        }
    }
    network->rope_positions = positions;
    return MB_OK;
}

struct rope {
    struct mb_run *run;
    enum mb_slot slot;
};

static void rotate_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct rope *rope = arg;
    const struct mb_run *run = rope->run;
    const struct mb_network *network = run->network;
    const size_t width = network->slot_width[rope->slot], head = network->head_dim,
                 rotated = network->rope_dim;
    for (size_t row = first; row < last; row++) {
        const size_t position = run->past + row % run->tokens;
        const float *table = network->rope_table + position * rotated;
        for (float *x = run->slots[rope->slot] + row * width, *end = x + width; x < end; x += head)
            for (size_t i = 0; i < rotated; i += 2) {
                const float a = x[i], b = x[i + 1], c = table[i], s = table[i + 1];
                x[i] = a * c - b * s;
                x[i + 1] = a * s + b * c;
            }
    }
}

void mb_run_rope(struct mb_run *run, enum mb_slot slot)
{
    struct rope rope = {run, slot};
    mb_split(run->network->threads, run->rows, run->rows * run->network->slot_width[slot] * 2,
             rotate_rows, &rope);
}

/* ---- the cache ---- */

enum mb_status mb_cache_create(const struct mb_network *network, size_t positions,
                               struct mb_cache *cache)
{
    const size_t heads = network->layers * network->kv_heads;
    *cache = (struct mb_cache){.capacity = round_up(positions, MB_KEY_BLOCK),
                               .values_stride = round_up(network->head_dim, 16)};
    const size_t keys = heads * network->head_dim * cache->capacity,
                 values = heads * cache->values_stride * cache->capacity;
    cache->keys = mb_alloc_aligned(keys * sizeof *cache->keys);
    cache->values = mb_alloc_aligned(values * sizeof *cache->values);
    if (cache->keys == NULL || cache->values == NULL) {
        mb_cache_free(cache);
        return MB_ERR_MEMORY;
    }
    memset(cache->keys, 0, keys * sizeof *cache->keys);
    memset(cache->values, 0, values * sizeof *cache->values);
    cache->bytes = (keys + values) * sizeof(float);
    return MB_OK;
}

void mb_cache_free(struct mb_cache *cache)
{
    mb_free_aligned(cache->keys);
    mb_free_aligned(cache->values);
    *cache = (struct mb_cache){0};
}

/* ---- attention ---- */

size_t mb_attention_scratch(const struct mb_network *network, size_t positions)
{
    const size_t padded = round_up(positions, MB_KEY_BLOCK);
    return padded * (MB_QUERY_BLOCK + network->head_dim + round_up(network->head_dim, 16));
}

struct attend {
    struct mb_run *run;
    int layer;
};

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

/* A block of queries that see up to `visible` keys; query r sees `less` * (rows - 1 - r) fewer. */
static void attend_block(const struct mb_run *run, const struct head_cache *cache, size_t at,
                         size_t stride, size_t rows, size_t visible, size_t less, float *s)
{
    const size_t dim = run->network->head_dim, padded = round_up(visible, MB_KEY_BLOCK);
    const struct mb_vector *vector = run->vector;
    vector->scores(s, padded, run->slots[MB_SLOT_QUERY] + at, stride, rows, cache->keys, dim,
                   padded, run->network->attention_scale);
    for (size_t r = 0; r < rows; r++)
        vector->softmax(s + r * padded, visible - less * (rows - 1 - r), padded);
    vector->weigh(run->slots[MB_SLOT_ATTENDED] + at, stride, s, padded, rows, cache->values,
                  cache->values_stride, dim, visible);
}

/* All query heads of one key/value head. Blocks are neighbouring positions of one head, or, for a
 * single token, the heads of the group: either way keys are read once for four queries. */
static void attend_group(const struct mb_run *run, size_t sequence, size_t kv_head,
                         const struct head_cache *cache, float *s)
{
    const struct mb_network *network = run->network;
    const size_t dim = network->head_dim, width = network->slot_width[MB_SLOT_QUERY];
    const size_t group = network->heads / network->kv_heads;
    const size_t start = sequence * run->tokens * width + kv_head * group * dim;
    for (size_t h = 0; run->tokens == 1 && h < group; h += MB_QUERY_BLOCK)
        attend_block(run, cache, start + h * dim, dim,
                     group - h < MB_QUERY_BLOCK ? group - h : MB_QUERY_BLOCK, run->past + 1, 0, s);
    for (size_t h = 0; run->tokens > 1 && h < group; h++)
        for (size_t t = 0; t < run->tokens; t += MB_QUERY_BLOCK) {
            const size_t left = run->tokens - t,
                         rows = left < MB_QUERY_BLOCK ? left : MB_QUERY_BLOCK;
            attend_block(run, cache, start + h * dim + t * width, width, rows, run->past + t + rows,
                         1, s);
        }
}

static void attend_heads(void *arg, size_t first, size_t last, size_t thread)
{
    const struct attend *attend = arg;
    const struct mb_run *run = attend->run;
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
            const size_t index = (size_t)attend->layer * network->kv_heads + kv_head;
            cache = (struct head_cache){.keys = all->keys + index * dim * all->capacity,
                                        .values = all->values +
                                                  index * all->values_stride * all->capacity,
                                        .values_stride = all->values_stride};
        }
        append(run, sequence, kv_head, &cache);
        attend_group(run, sequence, kv_head, &cache, s);
    }
}

void mb_run_attend(struct mb_run *run, int layer)
{
    const struct mb_network *network = run->network;
    struct attend attend = {run, layer};
    const size_t visible = run->past + run->tokens;
    mb_split(network->threads, run->sequences * network->kv_heads,
             run->rows * visible * network->slot_width[MB_SLOT_QUERY], attend_heads, &attend);
}
