/* SPDX-License-Identifier: Apache-2.0 */
/* How far a profile applies here: whether this machine has the device it was measured on, and
 * whether what surrounds the kernels (driver or kernel of the OS, build) is still the same. */
#include "dispatch/backend.h"
#include "tuner/profile.h"

#include <stdio.h>
#include <string.h>

/* Two devices of one key are the same device, unless a file was edited: the fields that a key is
 * made of are compared too, and the first that differs is named. */
static bool same_device(const struct mb_device_info *theirs, const struct mb_device_info *here,
                        char *why, size_t why_bytes)
{
    const struct {
        const char *what, *theirs, *here;
    } texts[] = {{"processor", theirs->name, here->name},
                 {"vendor", theirs->vendor, here->vendor},
                 {"list of features", theirs->features, here->features}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strcmp(texts[i].theirs, texts[i].here) != 0) {
            snprintf(why, why_bytes, "measured on another machine: its %s is '%s', here it is '%s'",
                     texts[i].what, texts[i].theirs, texts[i].here);
            return false;
        }
    const struct {
        const char *what;
        size_t theirs, here;
    } sizes[] = {{"family", theirs->family, here->family},
                 {"model", theirs->model, here->model},
                 {"stepping", theirs->stepping, here->stepping},
                 {"core count", theirs->cores, here->cores},
                 {"thread count", theirs->threads, here->threads},
                 {"L1 size", theirs->l1d_bytes, here->l1d_bytes},
                 {"L2 size", theirs->l2_bytes, here->l2_bytes},
                 {"L3 size", theirs->l3_bytes, here->l3_bytes}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].theirs != sizes[i].here) {
            snprintf(why, why_bytes, "measured on another machine: its %s is %zu, here it is %zu",
                     sizes[i].what, sizes[i].theirs, sizes[i].here);
            return false;
        }
    if (strcmp(theirs->key, here->key) != 0) {
        snprintf(why, why_bytes, "measured on another machine: device key %s, here %s", theirs->key,
                 here->key);
        return false;
    }
    return true;
}

enum mb_profile_match mb_profile_match(const struct mb_profile *profile, char *why,
                                       size_t why_bytes)
{
    char unused[1];
    if (why == NULL || why_bytes == 0) {
        why = unused;
        why_bytes = sizeof unused;
    }
    struct mb_device_info here = {.size = sizeof here};
    struct mb_error error = {0};
    const struct mb_device_info *theirs = &profile->device;
    if (mb_backend_like(theirs, &here, &error) != MB_OK) {
        snprintf(why, why_bytes, "%s", error.message);
        return MB_PROFILE_OTHER_MACHINE;
    }
    if (!same_device(theirs, &here, why, why_bytes))
        return MB_PROFILE_OTHER_MACHINE;
    if (strcmp(theirs->os, here.os) != 0) {
        snprintf(why, why_bytes, "measured under '%s', this is '%s'", theirs->os, here.os);
        return MB_PROFILE_STALE;
    }
    if (strcmp(theirs->build, here.build) != 0) {
        snprintf(why, why_bytes, "measured by '%s', this is '%s'", theirs->build, here.build);
        return MB_PROFILE_STALE;
    }
    snprintf(why, why_bytes, "measured on this machine by this build");
    return MB_PROFILE_EXACT;
}
