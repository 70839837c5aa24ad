/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a profile, shared by what stores it (profile.c), what writes and reads it
 * (profile_json.c) and what looks costs up (profile_cost.c). */
#ifndef MIXBIT_TUNER_PROFILE_H
#define MIXBIT_TUNER_PROFILE_H

#include "tuner/space.h"

#include <stdbool.h>

enum { MB_PROFILE_FORMATS = 64 }; /* more than the largest format id */

/* Whether its kernels are the registry's: only then do selections and activation types apply. */
bool mb_profile_is_of_cpu(const struct mb_profile *profile);

struct mb_profile_entry {
    struct mb_cost cost;
    bool current; /* the kernel exists in this build with this revision */
    bool fresh;   /* put since mb_drift_begin */
};

struct mb_profile {
    struct mb_device_info device;
    struct mb_limits limits;
    double max_error;                   /* see mb_tune_options; 0 reads as 1 */
    uint8_t chosen[MB_PROFILE_FORMATS]; /* by format: activation type plus 1; 0: the default */
    size_t count, capacity;
    struct mb_profile_entry *entries;
    size_t fixed_count;
    struct mb_fixed_cost *fixed;
};

/* Whether all numbers are in their documented ranges; `why` names the first that is not. */
bool mb_cost_is_valid(const struct mb_cost *cost, const char **why);
/* Order by key (everything up to `residency`); 0: same key. */
int mb_cost_compare_keys(const struct mb_cost *a, const struct mb_cost *b);
/* The entry with this key, or NULL. */
const struct mb_profile_entry *mb_profile_find(const struct mb_profile *profile,
                                               const struct mb_cost *key);
/* Whether an entry counts: current, right, and, `here` (on the machine itself), of a level in the
 * mask. For another machine entries only order formats, so all levels count. */
bool mb_entry_is_usable(const struct mb_profile_entry *entry, bool here, uint32_t mask);

/* Of the same shape, threads and residency. */
bool mb_cost_same_place(const struct mb_cost *a, const struct mb_cost *b);

/* A way to run a product. */
struct mb_config {
    const struct mb_kernel *kernel;
    size_t knobs[MB_KNOB_COUNT];
};
bool mb_config_equal(const struct mb_config *a, const struct mb_config *b);

enum { MB_ALL_OPS = ~0 };
struct mb_question {
    enum mb_format format;
    enum mb_activation activation;
    size_t m;
    int ops;                     /* bit mask 1 << enum mb_op */
    const struct mb_cost *place; /* shape, threads and residency; NULL: all that were measured */
};
/* The best way to run format at m rows; false when nothing that is usable here was measured. */
bool mb_profile_best_config(const struct mb_profile *profile, const struct mb_question *question,
                            struct mb_config *config);
/* Choose an activation type for every format by what is in the profile (profile_activation.c):
 * after loading, after measuring. */
void mb_profile_settle(struct mb_profile *profile);

/* As mb_cost_is_valid. */
bool mb_fixed_cost_is_valid(const struct mb_fixed_cost *cost, const char **why);

/* Append without looking for the key: for a loader that checks keys itself. */
enum mb_status mb_profile_append(struct mb_profile *profile, const struct mb_cost *cost);

#endif
