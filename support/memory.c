/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned memory, arithmetic on sizes that cannot wrap, and the clock.
 *
 * Large blocks are aligned to 2 MiB and offered to the kernel as huge pages: a weight stream of
 * tens of gigabytes per second would otherwise walk a page table every 4 KiB. */
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 64, HUGE_PAGE_BYTES = 2 << 20 };

void *mb_alloc_aligned(size_t bytes)
{
    const size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : LINE_BYTES;
    size_t padded;
    if (!mb_add_size(bytes == 0 ? 1 : bytes, alignment - 1, &padded))
        return NULL;
    padded -= padded % alignment; /* aligned_alloc wants a multiple */
    void *memory = aligned_alloc(alignment, padded);
#ifdef MADV_HUGEPAGE
    /* Advice only: refused where huge pages are off. What was in use before has small pages until
     * they are given back. */
    if (memory != NULL && alignment == HUGE_PAGE_BYTES &&
        madvise(memory, padded, MADV_HUGEPAGE) == 0)
        (void)madvise(memory, padded, MADV_DONTNEED);
#endif
    return memory;
}

void mb_free_aligned(void *memory) { free(memory); }

float *mb_alloc_floats(size_t rows, size_t columns)
{
    size_t bytes;
    if (!mb_mul_size(rows, columns, &bytes) || !mb_mul_size(bytes, sizeof(float), &bytes))
        return NULL;
    float *made = mb_alloc_aligned(bytes);
    if (made != NULL)
        memset(made, 0, bytes);
    return made;
}

bool mb_mul_size(size_t a, size_t b, size_t *result)
{
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *result = a * b;
    return true;
}

bool mb_add_size(size_t a, size_t b, size_t *result)
{
    if (a > SIZE_MAX - b)
        return false;
    *result = a + b;
    return true;
}

size_t mb_free_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kib = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    if (file != NULL)
        fclose(file);
    if (kib > 0)
        return (size_t)kib * 1024;
    const long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (size_t)pages * (size_t)size : (size_t)1 << 30;
}

uint64_t mb_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
