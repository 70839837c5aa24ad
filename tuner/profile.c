/* SPDX-License-Identifier: Apache-2.0 */
/* A profile in memory: the device it belongs to, that device's limits, and a list of costs with
 * unique keys. How far it applies to the machine that runs: profile_match.c.
 *
 * An entry counts only while the kernel it timed still exists with the revision it had; the others
 * are kept (another build may know them) and never used. */
#include "tuner/profile.h"
#include "dispatch/backend.h"
#include "dispatch/dispatch.h"
#include "support/support.h"
#include "tuner/space.h"

#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const residency_names[MB_RESIDENCY_COUNT] = {"L2", "L3", "memory"};

const char *mb_residency_name(enum mb_residency residency)
{
    return (unsigned)residency < MB_RESIDENCY_COUNT ? residency_names[residency] : NULL;
}

/* A cyclic walk through more than a cache holds evicts every line before its next use, so a level
 * counts only with room to spare: half of the private L2s (activations and y live there too), three
 * quarters of the L3 (shared with everything else). */
enum mb_residency mb_residency_of(const struct mb_device_info *device, size_t total_bytes,
                                  size_t threads)
{
    const double total = (double)total_bytes;
    const double l2 = (double)device->l2_bytes * (double)(threads > 0 ? threads : 1);
    if (device->l2_bytes > 0 && total <= l2 / 2)
        return MB_RESIDENCY_L2;
    if (device->l3_bytes > 0 && total <= (double)device->l3_bytes * 3 / 4)
        return MB_RESIDENCY_L3;
    return MB_RESIDENCY_MEMORY;
}

enum mb_status mb_profile_create(struct mb_profile **profile)
{
    struct mb_device_info device = {.size = sizeof device};
    *profile = NULL;
    const enum mb_status status = mb_device_info(&device);
    return status == MB_OK ? mb_profile_create_for(&device, profile) : status;
}

enum mb_status mb_profile_create_for(const struct mb_device_info *device,
                                     struct mb_profile **profile)
{
    *profile = calloc(1, sizeof **profile);
    if (*profile == NULL)
        return MB_ERR_MEMORY;
    (*profile)->device = *device;
    return MB_OK;
}

bool mb_profile_is_of_cpu(const struct mb_profile *profile)
{
    return strcmp(profile->device.backend, mb_backend_cpu.name) == 0;
}

void mb_profile_free(struct mb_profile *profile)
{
    if (profile == NULL)
        return;
    free(profile->entries);
    free(profile->fixed);
    free(profile);
}

const struct mb_device_info *mb_profile_device(const struct mb_profile *profile)
{
    return &profile->device;
}

struct mb_limits *mb_profile_limits(struct mb_profile *profile) { return &profile->limits; }

size_t mb_profile_count(const struct mb_profile *profile) { return profile->count; }

const struct mb_cost *mb_profile_at(const struct mb_profile *profile, size_t i)
{
    return i < profile->count ? &profile->entries[i].cost : NULL;
}

bool mb_cost_is_current(const struct mb_cost *cost)
{
    const struct mb_kernel *kernel = mb_registry_find(cost->kernel);
    if (kernel == NULL)
        return mb_backend_has_kernel(cost->kernel, cost->revision, cost->format);
    return mb_space_fits(kernel, cost->format, cost->m) &&
           mb_space_revision(kernel, cost->format) == cost->revision;
}

bool mb_entry_is_usable(const struct mb_profile_entry *entry, bool here, uint32_t mask)
{
    if (!entry->current || entry->cost.failed)
        return false;
    const struct mb_kernel *kernel = here ? mb_registry_find(entry->cost.kernel) : NULL;
    return !here || (kernel != NULL && (mask >> kernel->isa & 1) != 0);
}

static bool time_is_sane(double ns) { return isfinite(ns) && ns >= 0 && ns <= 1e15; }

static bool knobs_are_valid(const struct mb_cost *cost)
{
    /* A run of weights sizes every thread's workspace; the others are only unreasonable. */
    static const size_t most[MB_KNOB_COUNT] = {[MB_KNOB_K_BLOCK] = 1 << 16,
                                               [MB_KNOB_PREFETCH] = 1 << 24,
                                               [MB_KNOB_STEP] = 1 << 20,
                                               [MB_KNOB_SPLIT] = 1 << 10};
    for (size_t i = 0; i < MB_KNOB_COUNT; i++)
        if (cost->knobs[i] > most[i])
            return false;
    return true;
}

bool mb_cost_is_valid(const struct mb_cost *cost, const char **why)
{
    const size_t most = (size_t)1 << 40;
    size_t bytes;
    *why = NULL;
    if (cost->kernel[0] == '\0' || memchr(cost->kernel, '\0', sizeof cost->kernel) == NULL)
        *why = "kernel";
    else if (mb_format_info(cost->format) == NULL)
        *why = "format";
    else if (cost->n == 0 || cost->n > most)
        *why = "n";
    else if (cost->k == 0 || cost->k > most || mb_format_row_bytes(cost->format, cost->k) == 0)
        *why = "k";
    else if (cost->m == 0 || cost->m > most)
        *why = "m";
    else if (cost->threads == 0 || cost->threads > 65536)
        *why = "threads";
    else if (mb_activation_name(cost->activation) == NULL)
        *why = "activation";
    else if (mb_residency_name(cost->residency) == NULL)
        *why = "residency";
    else if (!knobs_are_valid(cost))
        *why = "knobs";
    else if (!mb_mul_size(mb_format_row_bytes(cost->format, cost->k), cost->n, &bytes) ||
             cost->bytes != bytes)
        *why = "bytes";
    else if (!time_is_sane(cost->min_ns) || (!cost->failed && cost->min_ns == 0))
        *why = "min_ns";
    else if (!time_is_sane(cost->median_ns) || cost->median_ns < cost->min_ns)
        *why = "median_ns";
    else if (!time_is_sane(cost->mad_ns))
        *why = "mad_ns";
    else if (!time_is_sane(cost->prepare_ns))
        *why = "prepare_ns";
    else if (!isfinite(cost->error) || cost->error < 0)
        *why = "error";
    return *why == NULL;
}

static int compare_sizes(size_t a, size_t b) { return (a > b) - (a < b); }

int mb_cost_compare_keys(const struct mb_cost *a, const struct mb_cost *b)
{
    int order = compare_sizes((size_t)a->format, (size_t)b->format);
    if (order == 0)
        order = compare_sizes(a->n, b->n);
    if (order == 0)
        order = compare_sizes(a->k, b->k);
    if (order == 0)
        order = compare_sizes(a->m, b->m);
    if (order == 0)
        order = compare_sizes(a->threads, b->threads);
    if (order == 0)
        order = compare_sizes(a->activation, b->activation);
    if (order == 0)
        order = compare_sizes(a->residency, b->residency);
    for (size_t i = 0; i < MB_KNOB_COUNT && order == 0; i++)
        order = compare_sizes(a->knobs[i], b->knobs[i]);
    if (order == 0)
        order = strcmp(a->kernel, b->kernel);
    if (order == 0)
        order = compare_sizes(a->revision, b->revision);
    return order;
}

const struct mb_profile_entry *mb_profile_find(const struct mb_profile *profile,
                                               const struct mb_cost *key)
{
    for (size_t i = 0; i < profile->count; i++)
        if (mb_cost_compare_keys(&profile->entries[i].cost, key) == 0)
            return &profile->entries[i];
    return NULL;
}

enum mb_status mb_profile_append(struct mb_profile *profile, const struct mb_cost *cost)
{
    if (profile->count == profile->capacity) {
        const size_t capacity = profile->capacity == 0 ? 64 : profile->capacity * 2;
        struct mb_profile_entry *grown = realloc(profile->entries, capacity * sizeof *grown);
        if (grown == NULL)
            return MB_ERR_MEMORY;
        profile->entries = grown;
        profile->capacity = capacity;
    }
    profile->entries[profile->count++] = (struct mb_profile_entry){
        .cost = *cost, .current = mb_cost_is_current(cost), .fresh = true};
    return MB_OK;
}

enum mb_status mb_profile_put(struct mb_profile *profile, const struct mb_cost *cost)
{
    const char *why;
    if (!mb_cost_is_valid(cost, &why))
        return MB_ERR_ARGUMENT;
    const struct mb_profile_entry *found = mb_profile_find(profile, cost);
    if (found == NULL)
        return mb_profile_append(profile, cost);
    struct mb_profile_entry *entry = &profile->entries[found - profile->entries];
    entry->cost = *cost;
    entry->fresh = true;
    return MB_OK;
}

char *mb_profile_default_path(void)
{
    struct mb_device_info device = {.size = sizeof device};
    return mb_device_info(&device) == MB_OK ? mb_profile_path_of(&device) : NULL;
}

/* HOME, else what the user database says: services and clean environments have no HOME. It lies in
 * `room` then. NULL: neither. */
static const char *home_folder(struct passwd *entry, char *room, size_t bytes)
{
    const char *home = getenv("HOME");
    struct passwd *found = NULL;
    if (home == NULL || home[0] == '\0')
        home = getpwuid_r(getuid(), entry, room, bytes, &found) == 0 && found != NULL
                   ? found->pw_dir
                   : NULL;
    return home != NULL && home[0] != '\0' ? home : NULL;
}

char *mb_profile_path_of(const struct mb_device_info *device)
{
    const char *named = getenv("MIXBIT_PROFILE");
    if (named != NULL && named[0] != '\0')
        return strdup(named);
    const char *cache = getenv("XDG_CACHE_HOME");
    struct passwd entry;
    char room[4096];
    const char *home = home_folder(&entry, room, sizeof room);
    /* The XDG rules: a relative path in the variable is to be ignored. */
    const bool from_cache = cache != NULL && cache[0] == '/';
    if (!from_cache && home == NULL)
        return NULL;
    const char *folder = from_cache ? cache : home;
    const char *between = from_cache ? "" : "/.cache";
    const size_t bytes = strlen(folder) + strlen(device->key) + 64;
    char *path = malloc(bytes);
    if (path != NULL)
        snprintf(path, bytes, "%s%s/mixbit/profiles/%s.json", folder, between, device->key);
    return path;
}
