/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned memory, sizes that cannot overflow, and the clock (memory.c). Apart from support.h, so
 * that kernels and dispatch build where there is no JSON library. */
#ifndef MIXBIT_SUPPORT_MEMORY_H
#define MIXBIT_SUPPORT_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 64-byte aligned, huge pages advised above 2 MiB; free with mb_free_aligned. */
void *mb_alloc_aligned(size_t bytes);
void mb_free_aligned(void *memory);
/* Zeros, [rows][columns]; NULL: no memory, or more than there are addresses. */
float *mb_alloc_floats(size_t rows, size_t columns);
/* a * b and a + b; false on overflow. */
bool mb_mul_size(size_t a, size_t b, size_t *result);
bool mb_add_size(size_t a, size_t b, size_t *result);

/* What the machine could give to a program now, in bytes; a guess of 1 GiB where it does not say.
 */
size_t mb_free_memory(void);

/* Monotonic; for progress and journals. What measures is tuner/measure.c. */
uint64_t mb_now_ns(void);

#endif
