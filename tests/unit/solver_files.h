/* SPDX-License-Identifier: Apache-2.0 */
/* A scratch folder and small text files for the solver's tests. */
#ifndef MIXBIT_TEST_SOLVER_FILES_H
#define MIXBIT_TEST_SOLVER_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char scratch_folder[64];

static inline int scratch_create(void **unused)
{
    (void)unused;
    snprintf(scratch_folder, sizeof scratch_folder, "/tmp/mixbit-solver-XXXXXX");
    return mkdtemp(scratch_folder) == NULL;
}

static inline int scratch_remove(void **unused)
{
    (void)unused;
    return rmdir(scratch_folder); /* fails when a test, or a half-written file, left something */
}

/* Path of a file in the folder. */
static inline const char *scratch_path(const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", scratch_folder, name);
    return path;
}

/* A whole file with a NUL behind it; NULL when it cannot be read. free() it. */
static inline char *text_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    fseek(file, 0, SEEK_END);
    const long bytes = ftell(file);
    rewind(file);
    char *text = calloc(1, (size_t)bytes + 1);
    if (fread(text, 1, (size_t)bytes, file) != (size_t)bytes) {
        free(text);
        text = NULL;
    }
    fclose(file);
    return text;
}

static inline void text_write(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(text, 1, bytes, file) != bytes)
        abort();
    fclose(file);
}

/* The text with its first `from` replaced by `to`; aborts when there is none. free() it. */
static inline char *text_replace(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    if (at == NULL)
        abort();
    char *changed = calloc(1, strlen(text) + strlen(to) + 1);
    memcpy(changed, text, (size_t)(at - text));
    strcat(changed, to);
    strcat(changed, at + strlen(from));
    return changed;
}

#endif
