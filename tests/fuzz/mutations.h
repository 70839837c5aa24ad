/* SPDX-License-Identifier: Apache-2.0 */
/* Deterministic damage to a small file: every truncation, every field set to extreme values, 2000
 * flips of one to three bits. What is done with each is the test's; sanitizers watch. Include
 * unit/gguf_builder.h first. */
#ifndef MIXBIT_TESTS_MUTATIONS_H
#define MIXBIT_TESTS_MUTATIONS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether the file at `path` was accepted. */
typedef int (*mutation_fn)(const char *path, const void *user);

struct mutations {
    const uint8_t *data;
    size_t bytes;
    size_t header; /* fields are tried before it; 0: everywhere */
    mutation_fn run;
    const void *user;
};

static inline size_t mutation_try(const struct mutations *m, const uint8_t *data, size_t bytes)
{
    const char *path = gb_scratch("mutated");
    gb_save_bytes(path, data, bytes);
    const size_t accepted = (size_t)m->run(path, m->user);
    (void)remove(path);
    return accepted;
}

/* How many truncations are accepted. */
static inline size_t mutation_truncate(const struct mutations *m)
{
    size_t accepted = 0;
    for (size_t bytes = 0; bytes < m->bytes; bytes++)
        accepted += mutation_try(m, m->data, bytes);
    return accepted;
}

static inline void mutation_extremes(const struct mutations *m)
{
    static const uint64_t values[] = {
        0,          1,          17,         0x7f800000, 0x7fc00000, 0x7fffffff,       0xbf800000,
        0xff800000, 0x80000000, UINT32_MAX, INT64_MAX,  UINT64_MAX, (uint64_t)1 << 60};
    const size_t end = m->header > 0 ? m->header : m->bytes;
    uint8_t *copy = malloc(m->bytes);
    if (copy == NULL)
        abort();
    for (size_t at = 0; at + 8 <= end; at++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++)
            for (size_t bytes = 4; bytes <= 8; bytes += 4) {
                memcpy(copy, m->data, m->bytes);
                for (size_t i = 0; i < bytes; i++)
                    copy[at + i] = (uint8_t)(values[v] >> (8 * i));
                (void)mutation_try(m, copy, m->bytes);
            }
    free(copy);
}

static inline void mutation_flips(const struct mutations *m)
{
    uint64_t random = 20261126; /* splitmix64, so that every run tries the same bits */
    uint8_t *copy = malloc(m->bytes);
    if (copy == NULL)
        abort();
    for (size_t i = 0; i < 2000; i++) {
        memcpy(copy, m->data, m->bytes);
        for (size_t f = 0; f <= i % 3; f++) {
            random += 0x9e3779b97f4a7c15u;
            uint64_t mixed = (random ^ random >> 30) * 0xbf58476d1ce4e5b9u;
            mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
            mixed ^= mixed >> 31;
            copy[mixed / 8 % m->bytes] ^= (uint8_t)(1u << mixed % 8);
        }
        (void)mutation_try(m, copy, m->bytes);
    }
    free(copy);
}

#endif
