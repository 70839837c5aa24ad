/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of a packed matrix, as many as the residency asks for, multiplied by in turn: for weights
 * that serve no format. (Those of formats are the tuner's workload.) */
#ifndef MIXBIT_BENCH_COPIES_H
#define MIXBIT_BENCH_COPIES_H

#include "support/support.h"

#include <stdint.h>
#include <string.h>

struct bench_copies {
    uint8_t *data; /* the first, 64-byte aligned; NULL: out of memory */
    size_t count, bytes, next;
};

/* Room for copies of `bytes` that add up to set_bytes, at least for one. */
static inline struct bench_copies bench_copies_create(size_t bytes, size_t set_bytes)
{
    const size_t each = (bytes + 63) / 64 * 64, count = set_bytes / each + (set_bytes % each != 0);
    struct bench_copies c = {.count = count > 0 ? count : 1, .bytes = each};
    c.data = mb_alloc_aligned(c.count * each);
    return c;
}

/* Once the first is packed. */
static inline void bench_copies_fill(struct bench_copies *c)
{
    for (size_t i = 1; i < c->count; i++)
        memcpy(c->data + i * c->bytes, c->data, c->bytes);
}

static inline void *bench_copies_next(struct bench_copies *c)
{
    uint8_t *data = c->data + c->next * c->bytes;
    c->next = (c->next + 1) % c->count;
    return data;
}

static inline uint32_t bench_next_bits(uint32_t *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

#endif
