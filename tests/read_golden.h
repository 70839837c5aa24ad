/* SPDX-License-Identifier: Apache-2.0 */
/* Golden files read whole, and the random stream that their generators share with the tests:
 * SplitMix64 is a counter and a hash, so any draw can be had without the ones before it, and
 * scripts/make_golden_formats.py computes the same numbers with numpy. */
#ifndef MIXBIT_TESTS_READ_GOLDEN_H
#define MIXBIT_TESTS_READ_GOLDEN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The whole of <source folder>/tests/golden/<name>, one zero byte more; exits when there is none.
 */
static inline char *read_golden(const char *name, size_t *bytes)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/tests/golden/%s", MIXBIT_SOURCE_DIR, name);
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    long length = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0 &&
        fseek(file, 0, SEEK_SET) == 0 && (data = calloc(1, (size_t)length + 1)) != NULL &&
        fread(data, 1, (size_t)length, file) != (size_t)length)
        length = -1;
    if (file != NULL)
        (void)fclose(file);
    if (data == NULL || length < 0) {
        perror(path);
        exit(99);
    }
    *bytes = (size_t)length;
    return data;
}

/* Draw `index` of the stream: 64 bits. */
static inline uint64_t splitmix(uint64_t seed, uint64_t index)
{
    uint64_t z = seed + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The same draw in [0, 1), with 24 bits. */
static inline double uniform(uint64_t seed, uint64_t index)
{
    return (double)(splitmix(seed, index) >> 40) / 16777216.0;
}

/* Nearly normal: 12 uniform draws less 6, exact in f64. */
static inline double normal(uint64_t seed, uint64_t index)
{
    double sum = 0.0;
    for (uint64_t i = 0; i < 12; i++)
        sum += uniform(seed, 12 * index + i);
    return sum - 6.0;
}

static inline void random_bytes(uint64_t seed, void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)(splitmix(seed, i) >> 56);
}

#endif
