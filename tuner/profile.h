/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a profile, shared by what stores it (profile.c), what writes and reads it
 * (profile_json.c) and what looks costs up (profile_cost.c). */
#ifndef MIXBIT_TUNER_PROFILE_H
#define MIXBIT_TUNER_PROFILE_H

#include "mixbit/profile.h"
#include <stdbool.h>

struct mb_profile_entry {
    struct mb_cost cost;
    bool current; /* the kernel exists in this build with this revision */
};

struct mb_profile {
    struct mb_device_info device;
    struct mb_limits limits;
    size_t count, capacity;
    struct mb_profile_entry *entries;
};

/* Looks the kernel up in the registry; what put and load set `current` from. */
bool mb_cost_is_current(const struct mb_cost *cost);
/* Whether all numbers are in their documented ranges; `why` names the first that is not. */
bool mb_cost_is_valid(const struct mb_cost *cost, const char **why);
/* Order by key (everything up to `residency`); 0: same key. */
int mb_cost_compare_keys(const struct mb_cost *a, const struct mb_cost *b);
/* The entry with this key, or NULL. */
const struct mb_profile_entry *mb_profile_find(const struct mb_profile *profile,
                                               const struct mb_cost *key);
/* Append without looking for the key: for a loader that checks keys itself. */
enum mb_status mb_profile_append(struct mb_profile *profile, const struct mb_cost *cost);

#endif
