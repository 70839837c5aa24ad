/* SPDX-License-Identifier: Apache-2.0 */
/* Builds GGUF files byte by byte for tests: right ones, and wrong ones in ways that a library would
 * not allow. Everything is appended to one buffer; nothing is checked but memory. */
#ifndef MIXBIT_TESTS_GGUF_BUILDER_H
#define MIXBIT_TESTS_GGUF_BUILDER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct builder {
    uint8_t *data;
    size_t bytes, room;
};

static inline void gb_bytes(struct builder *b, const void *data, size_t bytes)
{
    if (b->bytes + bytes > b->room) {
        b->room = 2 * (b->bytes + bytes) + 4096;
        b->data = realloc(b->data, b->room);
        if (b->data == NULL)
            abort();
    }
    if (bytes > 0)
        memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

static inline void gb_number(struct builder *b, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t byte = (uint8_t)(value >> (8 * i));
        gb_bytes(b, &byte, 1);
    }
}

static inline void gb_u32(struct builder *b, uint32_t value) { gb_number(b, value, 4); }
static inline void gb_u64(struct builder *b, uint64_t value) { gb_number(b, value, 8); }

static inline void gb_text(struct builder *b, const char *text, size_t bytes)
{
    gb_u64(b, bytes);
    gb_bytes(b, text, bytes);
}

static inline void gb_string(struct builder *b, const char *text)
{
    gb_text(b, text, strlen(text));
}

static inline void gb_header(struct builder *b, uint32_t version, uint64_t tensors, uint64_t pairs)
{
    gb_bytes(b, "GGUF", 4);
    gb_u32(b, version);
    gb_u64(b, tensors);
    gb_u64(b, pairs);
}

static inline void gb_key(struct builder *b, const char *key, uint32_t type)
{
    gb_string(b, key);
    gb_u32(b, type);
}

static inline void gb_pair_u32(struct builder *b, const char *key, uint32_t value)
{
    gb_key(b, key, 4);
    gb_u32(b, value);
}

static inline void gb_pair_string(struct builder *b, const char *key, const char *value)
{
    gb_key(b, key, 8);
    gb_string(b, value);
}

static inline void gb_pair_bool(struct builder *b, const char *key, bool value)
{
    gb_key(b, key, 7);
    gb_number(b, value, 1);
}

/* Follow with `count` elements. */
static inline void gb_array(struct builder *b, const char *key, uint32_t element, uint64_t count)
{
    gb_key(b, key, 9);
    gb_u32(b, element);
    gb_u64(b, count);
}

static inline void gb_tensor(struct builder *b, const char *name, uint32_t dims, const uint64_t *ne,
                             uint32_t type, uint64_t offset)
{
    gb_string(b, name);
    gb_u32(b, dims);
    for (uint32_t d = 0; d < dims; d++)
        gb_u64(b, ne[d]);
    gb_u32(b, type);
    gb_u64(b, offset);
}

static inline void gb_pad(struct builder *b, size_t alignment)
{
    while (b->bytes % alignment != 0)
        gb_number(b, 0, 1);
}

static inline void gb_poke(struct builder *b, size_t at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        b->data[at + i] = (uint8_t)(value >> (8 * i));
}

static inline void gb_save_bytes(const char *path, const uint8_t *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || (bytes > 0 && fwrite(data, 1, bytes, file) != bytes) || fclose(file) != 0) {
        perror(path);
        abort();
    }
}

static inline void gb_save(const struct builder *b, const char *path)
{
    gb_save_bytes(path, b->data, b->bytes);
}

static inline void gb_free(struct builder *b)
{
    free(b->data);
    *b = (struct builder){NULL, 0, 0};
}

/* A scratch folder of this process, and a path in it (static storage). */
static inline const char *gb_scratch(const char *name)
{
    static char folder[256], path[600];
    if (folder[0] == '\0') {
        const char *base = getenv("TMPDIR");
        (void)snprintf(folder, sizeof folder, "%s/mixbit-test-XXXXXX",
                       base == NULL || strlen(base) > 200 ? "/tmp" : base);
        if (mkdtemp(folder) == NULL)
            abort();
    }
    (void)snprintf(path, sizeof path, "%s%s%s", folder, name[0] == '\0' ? "" : "/", name);
    return path;
}

#endif
