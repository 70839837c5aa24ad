/* SPDX-License-Identifier: Apache-2.0 */
/* The list of backends, and how a user names a device. */
#include "dispatch/backend.h"
#include "support/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BACKENDS_MOST = 8 };
static const struct mb_backend *backends[BACKENDS_MOST] = {&mb_backend_cpu, &mb_backend_opencl,
                                                           &mb_backend_level_zero};
static size_t backend_count = 3;

const struct mb_backend *mb_backend_at(size_t i) { return i < backend_count ? backends[i] : NULL; }

void mb_backend_register(const struct mb_backend *backend)
{
    if (backend_count < BACKENDS_MOST)
        backends[backend_count++] = backend;
}

bool mb_backend_has_kernel(const char *kernel, unsigned revision, enum mb_format format)
{
    for (size_t i = 0; i < backend_count; i++)
        if (backends[i]->is_current != NULL && backends[i]->is_current(kernel, revision, format))
            return true;
    return false;
}

void mb_host_clock_begin(struct mb_host_clock *clock)
{
    if (clock->begin_ns == 0)
        clock->begin_ns = mb_now_ns();
}

void mb_host_clock_end(struct mb_host_clock *clock) { clock->end_ns = mb_now_ns(); }

double mb_host_clock_take(struct mb_host_clock *clock)
{
    const double busy_ns = (double)(clock->end_ns - clock->begin_ns);
    *clock = (struct mb_host_clock){0, 0};
    return busy_ns;
}

/* Digits alone, at most four. */
static bool parse_index(const char *text, size_t *index)
{
    const size_t digits = strspn(text, "0123456789");
    *index = 0;
    for (size_t i = 0; i < digits; i++)
        *index = *index * 10 + (size_t)(text[i] - '0');
    return digits > 0 && digits <= 4 && text[digits] == '\0';
}

enum mb_status mb_backend_parse(const char *text, const struct mb_backend **backend, size_t *index,
                                struct mb_error *error)
{
    const char *colon = strchr(text, ':');
    const size_t length = colon != NULL ? (size_t)(colon - text) : strlen(text);
    *index = 0;
    for (size_t i = 0; i < backend_count; i++) {
        if (strlen(backends[i]->name) != length || strncmp(text, backends[i]->name, length) != 0)
            continue;
        if (colon != NULL && !parse_index(colon + 1, index))
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "device '%s': expected a number behind '%s:'", text,
                                backends[i]->name);
        *backend = backends[i];
        return MB_OK;
    }
    char known[128] = "";
    for (size_t i = 0, used = 0; i < backend_count && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                                 backends[i]->name);
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "unknown device '%s': expected one of %s, with :N for the N-th of a kind",
                        text, known);
}

enum mb_status mb_accelerator_open(const char *text, struct mb_accelerator **accelerator,
                                   struct mb_error *error)
{
    const struct mb_backend *backend = &mb_backend_cpu;
    size_t index = 0, count;
    *accelerator = NULL;
    enum mb_status status = text != NULL ? mb_backend_parse(text, &backend, &index, error) : MB_OK;
    if (status != MB_OK)
        return status;
    if (backend == &mb_backend_cpu) {
        struct mb_device_info info = {.size = sizeof info};
        return backend->describe(index, &info, error);
    }
    status = backend->list(&count, error);
    struct mb_accelerator *opened = status == MB_OK ? calloc(1, sizeof *opened) : NULL;
    if (status == MB_OK && opened == NULL)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for device '%s'", text);
    if (status != MB_OK)
        return status;
    opened->backend = backend;
    opened->info.size = sizeof opened->info;
    status = backend->describe(index, &opened->info, error);
    if (status == MB_OK)
        status = backend->open(index, &opened->device, error);
    if (status == MB_OK)
        *accelerator = opened;
    else
        free(opened);
    return status;
}

void mb_accelerator_close(struct mb_accelerator *accelerator)
{
    if (accelerator == NULL)
        return;
    accelerator->backend->close(accelerator->device);
    free(accelerator);
}

static const struct mb_backend *backend_named(const char *name)
{
    for (size_t i = 0; i < backend_count; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

enum mb_status mb_backend_like(const struct mb_device_info *theirs, struct mb_device_info *here,
                               struct mb_error *error)
{
    const struct mb_backend *backend = backend_named(theirs->backend);
    size_t count = 0;
    if (backend == NULL)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "this mixbit has no '%.15s' devices",
                            theirs->backend);
    enum mb_status status = backend->list(&count, error);
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        here->size = sizeof *here;
        status = backend->describe(i, here, error);
        if (status == MB_OK && strcmp(here->key, theirs->key) == 0)
            return MB_OK;
    }
    if (status == MB_OK && count == 0)
        status = mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "there is no %s device here",
                              backend->name);
    return status == MB_OK && count > 1 ? backend->describe(0, here, error) : status;
}
