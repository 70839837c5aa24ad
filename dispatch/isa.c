/* SPDX-License-Identifier: Apache-2.0 */
/* Which ISA levels may be used: those that the CPU and the OS offer, cut down to the list in
 * MIXBIT_ISA or mb_isa_allow.
 *
 * Levels are feature bundles that each state what they need; what is detected and what is allowed
 * are kept apart, so that one knob lets tests and users run every lower path on a better machine.
 */
#include "dispatch/dispatch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t required; /* enum mb_cpu_feature bits */
} levels[MB_ISA_COUNT] = {
#define MB_ISA_ROW(id, name, required, ...) {#name, required},
#include "kernels/isa.def"
};

static const uint32_t all_levels = (1u << MB_ISA_COUNT) - 1;
static _Atomic uint32_t requested = (1u << MB_ISA_COUNT) - 1;

static pthread_once_t environment_once = PTHREAD_ONCE_INIT;
static struct mb_error environment_error; /* MB_OK when MIXBIT_ISA is unset or names known levels */

const char *mb_isa_name(enum mb_isa isa) { return isa < MB_ISA_COUNT ? levels[isa].name : NULL; }

bool mb_isa_is_supported(enum mb_isa isa)
{
    return mb_registry_level_count(isa) > 0 &&
           (mb_cpu_features() & levels[isa].required) == levels[isa].required;
}

static uint32_t supported_mask(void)
{
    uint32_t mask = 0;
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        mask |= mb_isa_is_supported((enum mb_isa)i) ? 1u << i : 0;
    return mask;
}

static size_t find_level(const char *name, size_t length)
{
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        if (strlen(levels[i].name) == length && memcmp(levels[i].name, name, length) == 0)
            return i;
    return MB_ISA_COUNT;
}

static void list_levels(char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < MB_ISA_COUNT && used < bytes; i++) {
        const int wrote =
            snprintf(text + used, bytes - used, "%s%s", i > 0 ? " " : "", levels[i].name);
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

/* "avx2, avx512vnni" -> mask; `origin` says in the error where the list came from. */
static enum mb_status parse(const char *list, const char *origin, uint32_t *mask,
                            struct mb_error *error)
{
    uint32_t found = 1u << MB_ISA_REFERENCE;
    for (const char *at = list; *at != '\0';) {
        at += strspn(at, ", ");
        const size_t length = strcspn(at, ", ");
        if (length == 0)
            break;
        const size_t level = find_level(at, length);
        if (level == MB_ISA_COUNT) {
            char known[256];
            list_levels(known, sizeof known);
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "%s: unknown ISA level '%.*s'; known are: %s", origin,
                                (int)(length < 64 ? length : 64), at, known);
        }
        found |= 1u << level;
        at += length;
    }
    *mask = found;
    return MB_OK;
}

static void read_environment(void)
{
    const char *list = getenv("MIXBIT_ISA");
    if (list == NULL || list[0] == '\0')
        return;
    uint32_t mask = 1u << MB_ISA_REFERENCE;
    if (parse(list, "MIXBIT_ISA", &mask, &environment_error) != MB_OK) {
        mb_log(MB_LOG_WARNING, "%s", environment_error.message);
    } else if ((mask & ~supported_mask()) != 0) {
        for (size_t i = 0; i < MB_ISA_COUNT; i++)
            if ((mask >> i & 1) != 0 && !mb_isa_is_supported((enum mb_isa)i))
                mb_log(MB_LOG_WARNING, "MIXBIT_ISA: this machine has no %s; the level is left out",
                       levels[i].name);
    }
    atomic_store(&requested, mask);
}

enum mb_status mb_isa_environment(struct mb_error *error)
{
    (void)pthread_once(&environment_once, read_environment);
    if (environment_error.status != MB_OK && error != NULL)
        *error = environment_error;
    return environment_error.status;
}

uint32_t mb_isa_allowed_mask(void)
{
    (void)mb_isa_environment(NULL);
    return (atomic_load(&requested) & supported_mask()) | 1u << MB_ISA_REFERENCE;
}

void mb_isa_set_allowed_mask(uint32_t mask)
{
    (void)mb_isa_environment(NULL); /* or the environment would undo this later */
    atomic_store(&requested, (mask & all_levels) | 1u << MB_ISA_REFERENCE);
    mb_select_clear();
}

enum mb_status mb_isa_allow(const char *list, struct mb_error *error)
{
    uint32_t mask = all_levels;
    if (list != NULL && list[0] != '\0') {
        const enum mb_status status = parse(list, "ISA list", &mask, error);
        if (status != MB_OK)
            return status;
    }
    mb_isa_set_allowed_mask(mask);
    return MB_OK;
}

enum mb_status mb_isa_info(size_t i, struct mb_isa_info *info)
{
    if (i >= MB_ISA_COUNT || info == NULL)
        return MB_ERR_ARGUMENT;
    *info = (struct mb_isa_info){.name = levels[i].name,
                                 .supported = mb_isa_is_supported((enum mb_isa)i)};
    info->allowed = (mb_isa_allowed_mask() >> i & 1) != 0;
    if (mb_registry_level_count((enum mb_isa)i) == 0) {
        snprintf(info->why, sizeof info->why, "this build has no kernels for it");
    } else if (!info->supported) {
        char missing[96];
        mb_cpu_feature_names(levels[i].required & ~mb_cpu_features(), missing, sizeof missing);
        snprintf(info->why, sizeof info->why, "the CPU or the OS lacks %s", missing);
    } else if (!info->allowed) {
        snprintf(info->why, sizeof info->why, "not in MIXBIT_ISA or the list of allowed levels");
    }
    return MB_OK;
}
