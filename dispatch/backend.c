/* SPDX-License-Identifier: Apache-2.0 */
/* The list of backends, and how a user names a device. */
#include "dispatch/backend.h"

#include <stdio.h>
#include <string.h>

static const struct mb_backend *const backends[] = {&mb_backend_cpu, &mb_backend_opencl};
enum { BACKENDS = sizeof backends / sizeof backends[0] };

const struct mb_backend *mb_backend_at(size_t i) { return i < BACKENDS ? backends[i] : NULL; }

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
    for (size_t i = 0; i < BACKENDS; i++) {
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
    for (size_t i = 0, used = 0; i < BACKENDS && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                                 backends[i]->name);
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "unknown device '%s': expected one of %s, with :N for the N-th of a kind",
                        text, known);
}
