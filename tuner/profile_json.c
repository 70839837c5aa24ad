/* SPDX-License-Identifier: Apache-2.0 */
/* The profile file: JSON, schema "mixbit-profile" version 2 (docs/profile-format.md).
 *
 *   { "schema": "mixbit-profile", "version": 2, "device": {...}, "limits": {...},
 *     "entries": [...], "fixed": [...] }
 *
 * Reading is all or nothing. A file comes from anywhere, so every value is checked for type, range
 * and meaning before the first one counts; what this version doesn't know is refused by schema, not
 * guessed at. ISA levels are named, not numbered: their order is this build's own affair. */
#include "dispatch/backend.h"
#include "dispatch/dispatch.h"
#include "support/support.h"
#include "tuner/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char schema_name[] = "mixbit-profile";
enum { SCHEMA_VERSION = 2, ENTRIES_MOST = 1000000 };
static const size_t file_bytes_most = (size_t)1 << 30;

/* Where a value is found in the file, for messages: the path and what lies around the key. */
struct place {
    char text[640];
    struct mb_error *error;
};

/* ---- writing ---- */

static json_t *device_to_json(const struct mb_device_info *device)
{
    json_t *kinds = json_array();
    for (size_t i = 0; i < device->core_kinds && i < MB_MAX_CORE_KINDS; i++)
        json_array_append_new(kinds, json_pack("{s:s, s:I}", "name", device->kinds[i].name, "cores",
                                               (json_int_t)device->kinds[i].cores));
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, "
                     "s:s, s:s, s:s}",
                     "key", device->key, "name", device->name, "vendor", device->vendor, "family",
                     (json_int_t)device->family, "model", (json_int_t)device->model, "stepping",
                     (json_int_t)device->stepping, "features", device->features, "cores",
                     (json_int_t)device->cores, "threads", (json_int_t)device->threads,
                     "core_kinds", kinds, "l1d_bytes", (json_int_t)device->l1d_bytes, "l2_bytes",
                     (json_int_t)device->l2_bytes, "l3_bytes", (json_int_t)device->l3_bytes,
                     "l3_shared_by", (json_int_t)device->l3_shared_by, "memory_bytes",
                     (json_int_t)device->memory_bytes, "os", device->os, "build", device->build,
                     "backend", device->backend);
}

static json_t *by_residency(const double values[MB_RESIDENCY_COUNT])
{
    json_t *object = json_object();
    for (size_t i = 0; i < MB_RESIDENCY_COUNT; i++)
        json_object_set_new(object, mb_residency_name((enum mb_residency)i), json_real(values[i]));
    return object;
}

static json_t *by_isa(const double values[MB_MAX_ISA])
{
    json_t *object = json_object();
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        if (values[i] > 0)
            json_object_set_new(object, mb_isa_name((enum mb_isa)i), json_real(values[i]));
    return object;
}

static json_t *limits_to_json(const struct mb_limits *limits)
{
    const struct mb_limit_cycles *cycles = &limits->per_cycle;
    json_t *per_cycle =
        json_pack("{s:o, s:o, s:o, s:o, s:o}", "read", by_residency(cycles->read), "read_1",
                  by_residency(cycles->read_1), "dot", by_isa(cycles->dot), "dot_exact",
                  by_isa(cycles->dot_exact), "fma", by_isa(cycles->fma));
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:o}", "threads",
                     (json_int_t)limits->threads, "read_gbps", by_residency(limits->read_gbps),
                     "read_gbps_1", by_residency(limits->read_gbps_1), "dot_gmacs",
                     by_isa(limits->dot_gmacs), "dot_exact_gmacs", by_isa(limits->dot_exact_gmacs),
                     "fma_gmacs", by_isa(limits->fma_gmacs), "dispatch_ns", limits->dispatch_ns,
                     "clock_ghz", limits->clock_ghz, "per_cycle", per_cycle);
}

/* Only those that say something: most entries have one or two. */
static json_t *knobs_to_json(const size_t knobs[MB_KNOB_COUNT])
{
    json_t *object = json_object();
    for (size_t i = 0; i < MB_KNOB_COUNT; i++)
        if (knobs[i] != 0)
            json_object_set_new(object, mb_knob_name((enum mb_knob)i),
                                json_integer((json_int_t)knobs[i]));
    return object;
}

static json_t *cost_to_json(const struct mb_cost *cost)
{
    return json_pack(
        "{s:s, s:I, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:o, s:f, s:f, s:f, s:f, s:I, s:f, s:b}",
        "kernel", cost->kernel, "revision", (json_int_t)cost->revision, "format",
        mb_format_info(cost->format)->name, "n", (json_int_t)cost->n, "k", (json_int_t)cost->k, "m",
        (json_int_t)cost->m, "threads", (json_int_t)cost->threads, "activation",
        mb_activation_name(cost->activation), "residency", mb_residency_name(cost->residency),
        "knobs", knobs_to_json(cost->knobs), "median_ns", cost->median_ns, "mad_ns", cost->mad_ns,
        "min_ns", cost->min_ns, "prepare_ns", cost->prepare_ns, "bytes", (json_int_t)cost->bytes,
        "error", cost->error, "failed", cost->failed != 0);
}

static json_t *fixed_to_json(const struct mb_profile *profile)
{
    json_t *all = json_array();
    for (size_t i = 0; i < profile->fixed_count; i++) {
        const struct mb_fixed_cost *cost = &profile->fixed[i];
        json_t *object =
            json_pack("{s:s, s:I, s:I, s:I, s:b, s:f, s:f, s:f}", "model", cost->model, "threads",
                      (json_int_t)cost->threads, "context", (json_int_t)cost->context, "revision",
                      (json_int_t)cost->revision, "rough", cost->rough != 0, "decode_ns",
                      cost->decode_ns, "prefill_ns", cost->prefill_ns, "kv_bytes", cost->kv_bytes);
        if (cost->decode_scale > 0)
            json_object_set_new(object, "decode_scale", json_real(cost->decode_scale));
        if (cost->prefill_scale > 0)
            json_object_set_new(object, "prefill_scale", json_real(cost->prefill_scale));
        json_array_append_new(all, object);
    }
    return all;
}

enum mb_status mb_profile_save(const struct mb_profile *profile, const char *path,
                               struct mb_error *error)
{
    enum mb_status status = MB_ERR_MEMORY;
    json_t *entries = json_array();
    for (size_t i = 0; i < profile->count; i++)
        if (json_array_append_new(entries, cost_to_json(&profile->entries[i].cost)) != 0)
            goto out;
    json_t *root = json_pack("{s:s, s:i, s:o, s:o, s:f, s:o, s:O}", "schema", schema_name,
                             "version", SCHEMA_VERSION, "device", device_to_json(&profile->device),
                             "limits", limits_to_json(&profile->limits), "max_error",
                             profile->max_error > 0 ? profile->max_error : 1, "fixed",
                             fixed_to_json(profile), "entries", entries);
    if (root == NULL)
        goto out;
    status = mb_json_save(path, root, error);
    json_decref(root);
out:
    json_decref(entries);
    if (status == MB_ERR_MEMORY)
        (void)mb_error_set(error, status, -1, "%s: out of memory while writing the profile", path);
    return status;
}

/* ---- reading ---- */

static enum mb_status refuse(const struct place *place, const char *key, const char *what)
{
    return mb_error_set(place->error, MB_ERR_FILE, -1, "%s: key '%s': %s", place->text, key, what);
}

static enum mb_status read_text(const json_t *object, const char *key, char *text, size_t bytes,
                                const struct place *place)
{
    const char *found;
    const enum mb_status status = mb_json_string(object, key, &found, place->text, place->error);
    if (status != MB_OK)
        return status;
    const size_t length = strlen(found);
    if (length >= bytes || length != json_string_length(json_object_get(object, key)))
        return refuse(place, key, "the text is too long or holds a NUL");
    memcpy(text, found, length + 1);
    return MB_OK;
}

static enum mb_status read_u32(const json_t *object, const char *key, uint32_t *value,
                               const struct place *place)
{
    size_t wide;
    const enum mb_status status = mb_json_size(object, key, &wide, place->text, place->error);
    if (status != MB_OK)
        return status;
    if (wide > UINT32_MAX)
        return refuse(place, key, "expected at most 32 bits");
    *value = (uint32_t)wide;
    return MB_OK;
}

/* A rate or a time: finite, not negative, below 1e15. */
static enum mb_status read_figure(const json_t *object, const char *key, double *value,
                                  const struct place *place)
{
    const enum mb_status status = mb_json_number(object, key, value, place->text, place->error);
    if (status != MB_OK)
        return status;
    if (!isfinite(*value) || *value < 0 || *value > 1e15)
        return refuse(place, key, "expected a number from 0 to 1e15");
    return MB_OK;
}

static enum mb_status read_core_kinds(const json_t *object, struct mb_device_info *device,
                                      const struct place *place)
{
    const json_t *kinds = json_object_get(object, "core_kinds");
    if (!json_is_array(kinds) || json_array_size(kinds) > MB_MAX_CORE_KINDS)
        return refuse(place, "core_kinds", "expected an array of at most 4 objects");
    device->core_kinds = json_array_size(kinds);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < device->core_kinds && status == MB_OK; i++) {
        const json_t *kind = json_array_get(kinds, i);
        status =
            read_text(kind, "name", device->kinds[i].name, sizeof device->kinds[i].name, place);
        if (status == MB_OK)
            status =
                mb_json_size(kind, "cores", &device->kinds[i].cores, place->text, place->error);
    }
    return status;
}

static enum mb_status read_device(const json_t *object, struct mb_device_info *device,
                                  const struct place *place)
{
    struct mb_device_info *d = device;
    const struct {
        const char *key;
        char *text;
        size_t bytes;
    } texts[] = {{"key", d->key, sizeof d->key},
                 {"name", d->name, sizeof d->name},
                 {"vendor", d->vendor, sizeof d->vendor},
                 {"features", d->features, sizeof d->features},
                 {"os", d->os, sizeof d->os},
                 {"build", d->build, sizeof d->build}};
    const struct {
        const char *key;
        uint32_t *value;
    } words[] = {{"family", &d->family}, {"model", &d->model}, {"stepping", &d->stepping}};
    const struct {
        const char *key;
        size_t *value;
    } sizes[] = {{"cores", &d->cores},
                 {"threads", &d->threads},
                 {"l1d_bytes", &d->l1d_bytes},
                 {"l2_bytes", &d->l2_bytes},
                 {"l3_bytes", &d->l3_bytes},
                 {"l3_shared_by", &d->l3_shared_by},
                 {"memory_bytes", &d->memory_bytes}};
    device->size = sizeof *device;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && status == MB_OK; i++)
        status = read_text(object, texts[i].key, texts[i].text, texts[i].bytes, place);
    for (size_t i = 0; i < sizeof words / sizeof words[0] && status == MB_OK; i++)
        status = read_u32(object, words[i].key, words[i].value, place);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && status == MB_OK; i++)
        status = mb_json_size(object, sizes[i].key, sizes[i].value, place->text, place->error);
    /* Profiles from before there were other devices don't say what theirs is. */
    snprintf(d->backend, sizeof d->backend, "%s", mb_backend_cpu.name);
    if (status == MB_OK && json_object_get(object, "backend") != NULL)
        status = read_text(object, "backend", d->backend, sizeof d->backend, place);
    return status == MB_OK ? read_core_kinds(object, device, place) : status;
}

static enum mb_status read_residencies(const json_t *limits, const char *key,
                                       double values[MB_RESIDENCY_COUNT], const struct place *place)
{
    const json_t *object = json_object_get(limits, key);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < MB_RESIDENCY_COUNT && status == MB_OK; i++)
        status = read_figure(object, mb_residency_name((enum mb_residency)i), &values[i], place);
    return status;
}

/* Levels that this build does not have are left out: they bound none of its kernels. */
static enum mb_status read_isas(const json_t *limits, const char *key, double values[MB_MAX_ISA],
                                const struct place *place)
{
    const json_t *object = json_object_get(limits, key);
    if (!json_is_object(object))
        return refuse(place, key, "expected an object");
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < MB_ISA_COUNT && status == MB_OK; i++) {
        const char *name = mb_isa_name((enum mb_isa)i);
        if (json_object_get(object, name) != NULL)
            status = read_figure(object, name, &values[i], place);
    }
    return status;
}

static enum mb_status read_limits(const json_t *object, struct mb_limits *limits,
                                  const struct place *place)
{
    struct mb_limit_cycles *cycles = &limits->per_cycle;
    const json_t *per_cycle = json_object_get(object, "per_cycle");
    const struct {
        const json_t *from;
        const char *key;
        double *values;
    } by_residencies[] = {{object, "read_gbps", limits->read_gbps},
                          {object, "read_gbps_1", limits->read_gbps_1},
                          {per_cycle, "read", cycles->read},
                          {per_cycle, "read_1", cycles->read_1}},
      by_isas[] = {{object, "dot_gmacs", limits->dot_gmacs},
                   {object, "dot_exact_gmacs", limits->dot_exact_gmacs},
                   {object, "fma_gmacs", limits->fma_gmacs},
                   {per_cycle, "dot", cycles->dot},
                   {per_cycle, "dot_exact", cycles->dot_exact},
                   {per_cycle, "fma", cycles->fma}};
    enum mb_status status =
        mb_json_size(object, "threads", &limits->threads, place->text, place->error);
    for (size_t i = 0; i < 4 && status == MB_OK; i++)
        status = read_residencies(by_residencies[i].from, by_residencies[i].key,
                                  by_residencies[i].values, place);
    for (size_t i = 0; i < 6 && status == MB_OK; i++)
        status = read_isas(by_isas[i].from, by_isas[i].key, by_isas[i].values, place);
    if (status == MB_OK)
        status = read_figure(object, "dispatch_ns", &limits->dispatch_ns, place);
    if (status == MB_OK)
        status = read_figure(object, "clock_ghz", &limits->clock_ghz, place);
    return status;
}

/* The three values that are written as names. */
static enum mb_status read_names(const json_t *object, struct mb_cost *cost,
                                 const struct place *place)
{
    char format[32], activation[32], residency[32];
    enum mb_status status = read_text(object, "format", format, sizeof format, place);
    if (status == MB_OK)
        status = read_text(object, "activation", activation, sizeof activation, place);
    if (status == MB_OK)
        status = read_text(object, "residency", residency, sizeof residency, place);
    if (status != MB_OK)
        return status;
    cost->format = mb_format_by_name(format);
    if (cost->format == MB_FORMAT_NONE)
        return refuse(place, "format", "no format that this version knows");
    size_t i = 0;
    const char *name;
    while ((name = mb_residency_name((enum mb_residency)i)) != NULL && strcmp(name, residency) != 0)
        i++;
    if (name == NULL)
        return refuse(place, "residency", "expected \"L2\", \"L3\" or \"memory\"");
    cost->residency = (enum mb_residency)i;
    for (i = 0; i < MB_ACTIVATION_COUNT; i++)
        if (strcmp(mb_activation_name((enum mb_activation)i), activation) == 0) {
            cost->activation = (enum mb_activation)i;
            return MB_OK;
        }
    return refuse(place, "activation", "no activation type that this version knows");
}

/* One that is missing is 0; one that this version doesn't know would be another way to run. */
static enum mb_status read_knobs(const json_t *object, struct mb_cost *cost,
                                 const struct place *place)
{
    const json_t *knobs = json_object_get(object, "knobs");
    if (!json_is_object(knobs))
        return refuse(place, "knobs", "expected an object");
    size_t known = 0;
    for (size_t i = 0; i < MB_KNOB_COUNT; i++) {
        const char *name = mb_knob_name((enum mb_knob)i);
        if (json_object_get(knobs, name) == NULL)
            continue;
        const enum mb_status status =
            mb_json_size(knobs, name, &cost->knobs[i], place->text, place->error);
        if (status != MB_OK)
            return status;
        known++;
    }
    return known == json_object_size(knobs)
               ? MB_OK
               : refuse(place, "knobs", "holds one that this version does not know");
}

static enum mb_status read_cost(const json_t *object, struct mb_cost *cost,
                                const struct place *place)
{
    const struct {
        const char *key;
        size_t *value;
    } sizes[] = {{"n", &cost->n},
                 {"k", &cost->k},
                 {"m", &cost->m},
                 {"threads", &cost->threads},
                 {"bytes", &cost->bytes}};
    const struct {
        const char *key;
        double *value;
    } figures[] = {{"median_ns", &cost->median_ns},
                   {"mad_ns", &cost->mad_ns},
                   {"min_ns", &cost->min_ns},
                   {"prepare_ns", &cost->prepare_ns},
                   {"error", &cost->error}};
    uint32_t revision = 0;
    enum mb_status status = read_text(object, "kernel", cost->kernel, sizeof cost->kernel, place);
    if (status == MB_OK)
        status = read_u32(object, "revision", &revision, place);
    if (status == MB_OK)
        status = read_names(object, cost, place);
    if (status == MB_OK)
        status = read_knobs(object, cost, place);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && status == MB_OK; i++)
        status = mb_json_size(object, sizes[i].key, sizes[i].value, place->text, place->error);
    for (size_t i = 0; i < sizeof figures / sizeof figures[0] && status == MB_OK; i++)
        status = read_figure(object, figures[i].key, figures[i].value, place);
    if (status != MB_OK)
        return status;
    const json_t *failed = json_object_get(object, "failed");
    if (!json_is_boolean(failed))
        return refuse(place, "failed", "expected true or false");
    cost->failed = json_is_true(failed);
    cost->revision = revision;
    const char *why;
    if (!mb_cost_is_valid(cost, &why))
        return refuse(place, why, "the value is out of range, or contradicts the others");
    return MB_OK;
}

static int compare_entries(const void *a, const void *b)
{
    const struct mb_cost *const *left = a, *const *right = b;
    return mb_cost_compare_keys(*left, *right);
}

/* Two entries of one key: which of two costs is meant is not ours to guess. */
static enum mb_status refuse_duplicates(const struct mb_profile *profile, const char *path,
                                        struct mb_error *error)
{
    const struct mb_cost **sorted = malloc((profile->count + 1) * sizeof *sorted);
    if (sorted == NULL)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < profile->count; i++)
        sorted[i] = &profile->entries[i].cost;
    qsort(sorted, profile->count, sizeof *sorted, compare_entries);
    enum mb_status status = MB_OK;
    for (size_t i = 1; i < profile->count && status == MB_OK; i++)
        if (mb_cost_compare_keys(sorted[i - 1], sorted[i]) == 0)
            status =
                mb_error_set(error, MB_ERR_FILE, -1,
                             "%s: entries: kernel '%s' at n %zu, k %zu, m %zu stands there "
                             "twice; remove one, or run `mixbit tune` again",
                             path, sorted[i]->kernel, sorted[i]->n, sorted[i]->k, sorted[i]->m);
    free(sorted);
    return status;
}

static enum mb_status read_entries(const json_t *root, struct mb_profile *profile, const char *path,
                                   struct mb_error *error)
{
    const json_t *entries = json_object_get(root, "entries");
    struct place place = {.error = error};
    snprintf(place.text, sizeof place.text, "%s", path);
    if (!json_is_array(entries) || json_array_size(entries) > ENTRIES_MOST)
        return refuse(&place, "entries", "expected an array of at most a million objects");
    for (size_t i = 0; i < json_array_size(entries); i++) {
        struct mb_cost cost = {0};
        snprintf(place.text, sizeof place.text, "%s: entries[%zu]", path, i);
        enum mb_status status = read_cost(json_array_get(entries, i), &cost, &place);
        if (status == MB_OK)
            status = mb_profile_append(profile, &cost);
        if (status != MB_OK)
            return status;
    }
    return refuse_duplicates(profile, path, error);
}

static enum mb_status read_fixed_cost(const json_t *object, struct mb_fixed_cost *cost,
                                      const struct place *place)
{
    const struct {
        const char *key;
        double *value;
    } figures[] = {{"decode_ns", &cost->decode_ns},
                   {"prefill_ns", &cost->prefill_ns},
                   {"kv_bytes", &cost->kv_bytes}},
      scales[] = {{"decode_scale", &cost->decode_scale}, {"prefill_scale", &cost->prefill_scale}};
    uint32_t revision = 0;
    enum mb_status status = read_text(object, "model", cost->model, sizeof cost->model, place);
    if (status == MB_OK)
        status = mb_json_size(object, "threads", &cost->threads, place->text, place->error);
    if (status == MB_OK)
        status = mb_json_size(object, "context", &cost->context, place->text, place->error);
    if (status == MB_OK)
        status = read_u32(object, "revision", &revision, place);
    for (size_t i = 0; i < sizeof figures / sizeof figures[0] && status == MB_OK; i++)
        status = read_figure(object, figures[i].key, figures[i].value, place);
    for (size_t i = 0; i < sizeof scales / sizeof scales[0] && status == MB_OK; i++)
        if (json_object_get(object, scales[i].key) != NULL)
            status = read_figure(object, scales[i].key, scales[i].value, place);
    const json_t *rough = json_object_get(object, "rough");
    if (status == MB_OK && !json_is_boolean(rough))
        return refuse(place, "rough", "expected true or false");
    cost->revision = revision;
    cost->rough = json_is_true(rough);
    return status;
}

/* The key came later than the version: none is none measured. */
static enum mb_status read_fixed(const json_t *root, struct mb_profile *profile, const char *path,
                                 struct mb_error *error)
{
    const json_t *all = json_object_get(root, "fixed");
    struct place place = {.error = error};
    snprintf(place.text, sizeof place.text, "%s", path);
    if (all != NULL && !json_is_array(all))
        return refuse(&place, "fixed", "expected an array of objects");
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < json_array_size(all) && status == MB_OK; i++) {
        struct mb_fixed_cost cost = {0};
        const char *why;
        snprintf(place.text, sizeof place.text, "%s: fixed[%zu]", path, i);
        status = read_fixed_cost(json_array_get(all, i), &cost, &place);
        if (status != MB_OK)
            break;
        if (!mb_fixed_cost_is_valid(&cost, &why))
            return refuse(&place, why, "the value is out of range");
        if (mb_profile_fixed_cost(profile, &cost) != NULL)
            return refuse(&place, "model", "stands there twice; run `mixbit tune` again");
        status = mb_profile_put_fixed_cost(profile, &cost);
    }
    return status == MB_ERR_ARGUMENT ? refuse(&place, "fixed", "too many objects") : status;
}

static enum mb_status check_schema(const json_t *root, const char *path, struct mb_error *error)
{
    const json_t *schema = json_object_get(root, "schema");
    const json_t *version = json_object_get(root, "version");
    if (!json_is_string(schema) || strcmp(json_string_value(schema), schema_name) != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: not a profile: expected schema \"%s\"; `mixbit tune` writes one",
                            path, schema_name);
    if (!json_is_integer(version) || json_integer_value(version) != SCHEMA_VERSION)
        return mb_error_set(
            error, MB_ERR_FILE, -1,
            "%s: profile version %" JSON_INTEGER_FORMAT
            ", this mixbit reads version %d; `mixbit tune --fresh` writes a new one",
            path, json_integer_value(version), (int)SCHEMA_VERSION);
    return MB_OK;
}

enum mb_status mb_profile_load(const char *path, struct mb_profile **profile,
                               struct mb_error *error)
{
    json_t *root;
    *profile = NULL;
    enum mb_status status = mb_json_load(path, file_bytes_most, &root, error);
    if (status != MB_OK)
        return status;
    struct mb_profile *loaded = NULL;
    status = check_schema(root, path, error);
    if (status != MB_OK)
        goto out;
    loaded = calloc(1, sizeof *loaded);
    status = loaded == NULL ? MB_ERR_MEMORY : MB_OK;
    struct place place = {.error = error};
    snprintf(place.text, sizeof place.text, "%s: device", path);
    if (status == MB_OK)
        status = read_device(json_object_get(root, "device"), &loaded->device, &place);
    snprintf(place.text, sizeof place.text, "%s: limits", path);
    if (status == MB_OK)
        status = read_limits(json_object_get(root, "limits"), &loaded->limits, &place);
    snprintf(place.text, sizeof place.text, "%s", path);
    if (status == MB_OK && json_object_get(root, "max_error") != NULL) /* the key came later */
        status = read_figure(root, "max_error", &loaded->max_error, &place);
    if (status == MB_OK)
        status = read_entries(root, loaded, path, error);
    if (status == MB_OK)
        status = read_fixed(root, loaded, path, error);
    if (status == MB_OK)
        mb_profile_settle(loaded);
out:
    json_decref(root);
    if (status == MB_OK) {
        *profile = loaded;
        return MB_OK;
    }
    mb_profile_free(loaded);
    if (status == MB_ERR_MEMORY)
        (void)mb_error_set(error, status, -1, "%s: out of memory while reading the profile", path);
    return status;
}
