/* SPDX-License-Identifier: Apache-2.0 */
/* Small things that every layer above the kernels shares: atomic files, JSON, hashing, growing
 * strings. No policy. */
#ifndef MIXBIT_SUPPORT_H
#define MIXBIT_SUPPORT_H

#include "mixbit/status.h"
#include "support/memory.h"
#include <jansson.h>

/* ---- files (file.c) ---- */

/* A file that appears whole or not at all: written to a temporary neighbour, synced, renamed by
 * commit. */
struct mb_file;
/* Refuses a directory or a special file at `path`; the folder must exist and be writable. */
enum mb_status mb_file_create(const char *path, struct mb_file **file, struct mb_error *error);
enum mb_status mb_file_write(struct mb_file *file, const void *data,
                             size_t bytes); /* errors are kept until commit */
uint64_t mb_file_tell(const struct mb_file *file);
/* Go on at a place that was written before: what follows replaces what is there. */
void mb_file_seek(struct mb_file *file, uint64_t at);
enum mb_status mb_file_commit(struct mb_file *file,
                              struct mb_error *error); /* frees *file in every case */
void mb_file_abandon(struct mb_file *file);            /* NULL allowed */

/* Whole file to memory (NUL added behind, not counted); refuses more than max_bytes. free() it. */
enum mb_status mb_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes,
                            struct mb_error *error);

/* Read-only mapping of a whole file; *data NULL for an empty file. */
struct mb_mapping {
    const uint8_t *data;
    size_t bytes;
};
enum mb_status mb_mapping_open(const char *path, struct mb_mapping *mapping,
                               struct mb_error *error);
void mb_mapping_close(struct mb_mapping *mapping);

/* mkdir -p. */
enum mb_status mb_directory_create(const char *path, struct mb_error *error);

/* ---- hashes (hash.c): xxHash XXH3-128 as 32 hex digits ---- */
/* splitmix64 (Steele, Lea, Flood 2014): the same numbers for a seed on every machine. */
static inline uint64_t mb_random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static inline size_t mb_random_below(uint64_t *state, size_t count)
{
    return (size_t)(mb_random_next(state) % count);
}

void mb_hash_bytes(const void *data, size_t bytes, char hex[33]);

/* ---- JSON (json.c): jansson with one-line errors that say where ---- */
enum mb_status mb_json_load(const char *path, size_t max_bytes, json_t **root,
                            struct mb_error *error);
/* Atomic, sorted keys, two-space indent, trailing newline. */
enum mb_status mb_json_save(const char *path, const json_t *root, struct mb_error *error);
/* Typed access: MB_ERR_FILE with `path: key 'x': expected a number, found a string`. A missing
 * key is an error; ask json_object_get first for an optional one. */
enum mb_status mb_json_number(const json_t *object, const char *key, double *value,
                              const char *path, struct mb_error *error);
enum mb_status mb_json_size(const json_t *object, const char *key, size_t *value, const char *path,
                            struct mb_error *error);
enum mb_status mb_json_string(const json_t *object, const char *key, const char **value,
                              const char *path, struct mb_error *error);

#endif
