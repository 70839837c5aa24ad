/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that ends at a page which must not be touched: one byte read or written past the end is a
 * SIGSEGV at the very instruction that does it. What lies before an array is filled with a canary,
 * which catches writes to the left. */
#ifndef MIXBIT_TESTS_GUARD_H
#define MIXBIT_TESTS_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GUARD_CANARY = 0xc5 };

struct guard {
    uint8_t *start, *end; /* usable bytes; the page at `end` is inaccessible */
    size_t mapped;
};

static inline struct guard guard_create(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t usable = (bytes + page) / page * page; /* at least one byte more than asked for */
    uint8_t *start =
        mmap(NULL, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + usable, page, PROT_NONE) != 0) {
        perror("guard_create");
        exit(99);
    }
    memset(start, GUARD_CANARY, usable);
    return (struct guard){start, start + usable, usable + page};
}

static inline void guard_destroy(struct guard *guard)
{
    if (guard->start != NULL)
        (void)munmap(guard->start, guard->mapped);
    *guard = (struct guard){NULL, NULL, 0};
}

/* Where an array of `bytes` has to start to end at the guard page. */
static inline void *guard_at(const struct guard *guard, size_t bytes)
{
    if (bytes > (size_t)(guard->end - guard->start)) {
        fprintf(stderr, "guard_at: %zu bytes asked of %zu\n", bytes,
                (size_t)(guard->end - guard->start));
        exit(99);
    }
    return guard->end - bytes;
}

static inline void *guard_copy(const struct guard *guard, const void *data, size_t bytes)
{
    return bytes > 0 ? memmove(guard_at(guard, bytes), data, bytes) : guard->end;
}

/* Room for an output of `bytes`, itself and what lies before it filled with canaries. */
static inline void *guard_output(const struct guard *guard, size_t bytes)
{
    memset(guard->start, GUARD_CANARY, (size_t)(guard->end - guard->start));
    return guard_at(guard, bytes);
}

static inline bool guard_is_canary(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != GUARD_CANARY)
            return false;
    return true;
}

/* Whether nothing was written before an output of `bytes` that guard_output gave. */
static inline bool guard_left_intact(const struct guard *guard, size_t bytes)
{
    return guard_is_canary(guard->start, (size_t)(guard->end - guard->start) - bytes);
}

#endif
