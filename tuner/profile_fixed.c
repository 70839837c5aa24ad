/* SPDX-License-Identifier: Apache-2.0 */
/* What models cost beside their matrix products on a profile's device. A solver adds it to what the
 * entries say; kept here, it is the same at every call, and no call has to run the model for it. */
#include "tuner/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MODELS_MOST = 10000, SCALE_MOST = 100 };

bool mb_fixed_cost_is_valid(const struct mb_fixed_cost *cost, const char **why)
{
    const struct {
        const char *key;
        double value;
    } figures[] = {{"decode_ns", cost->decode_ns},
                   {"prefill_ns", cost->prefill_ns},
                   {"kv_bytes", cost->kv_bytes}};
    *why = NULL;
    if (cost->model[0] == '\0' || memchr(cost->model, '\0', sizeof cost->model) == NULL)
        *why = "model";
    else if (cost->threads == 0 || cost->threads > 65536)
        *why = "threads";
    else if (cost->context == 0 || cost->context > (size_t)1 << 40)
        *why = "context";
    for (size_t i = 0; i < sizeof figures / sizeof figures[0] && *why == NULL; i++)
        if (!isfinite(figures[i].value) || figures[i].value < 0 || figures[i].value > 1e15)
            *why = figures[i].key;
    if (*why == NULL && !(cost->decode_scale >= 0 && cost->decode_scale <= SCALE_MOST))
        *why = "decode_scale";
    if (*why == NULL && !(cost->prefill_scale >= 0 && cost->prefill_scale <= SCALE_MOST))
        *why = "prefill_scale";
    return *why == NULL;
}

const struct mb_fixed_cost *mb_profile_fixed_cost(const struct mb_profile *profile,
                                                  const struct mb_fixed_cost *key)
{
    for (size_t i = 0; i < profile->fixed_count; i++) {
        const struct mb_fixed_cost *found = &profile->fixed[i];
        if (strcmp(found->model, key->model) == 0 && found->threads == key->threads &&
            found->context == key->context && found->revision == key->revision)
            return found;
    }
    return NULL;
}

size_t mb_profile_fixed_count(const struct mb_profile *profile) { return profile->fixed_count; }

const struct mb_fixed_cost *mb_profile_fixed_at(const struct mb_profile *profile, size_t i)
{
    return i < profile->fixed_count ? &profile->fixed[i] : NULL;
}

enum mb_status mb_profile_put_fixed_cost(struct mb_profile *profile,
                                         const struct mb_fixed_cost *cost)
{
    const char *why;
    if (!mb_fixed_cost_is_valid(cost, &why))
        return MB_ERR_ARGUMENT;
    const struct mb_fixed_cost *found = mb_profile_fixed_cost(profile, cost);
    if (found != NULL) {
        profile->fixed[found - profile->fixed] = *cost;
        return MB_OK;
    }
    if (profile->fixed_count >= MODELS_MOST)
        return MB_ERR_ARGUMENT;
    struct mb_fixed_cost *grown =
        realloc(profile->fixed, (profile->fixed_count + 1) * sizeof *grown);
    if (grown == NULL)
        return MB_ERR_MEMORY;
    profile->fixed = grown;
    profile->fixed[profile->fixed_count++] = *cost;
    return MB_OK;
}
