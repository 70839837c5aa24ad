/* SPDX-License-Identifier: Apache-2.0 */
/* Plans as values and as files, "mixbit-plan" version 1. An entry names its tensor and format and
 * what that should cost; totals are kept beside them, so a reader needs no profile to compare a
 * plan with what is measured later. "groups" is there only when something had to share a format.
 * Loading is all or nothing. */
#include "mixbit/plan.h"
#include "solver/numbers.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA "mixbit-plan"
#define MAX_FILE_BYTES ((size_t)64 << 20)

static struct mb_plan *plan_alloc(size_t count)
{
    struct mb_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return NULL;
    plan->entries = calloc(count, sizeof *plan->entries);
    plan->count = count;
    if (plan->entries == NULL) {
        free(plan);
        return NULL;
    }
    return plan;
}

void mb_plan_free(struct mb_plan *plan)
{
    if (plan == NULL)
        return;
    free(plan->entries);
    free(plan);
}

enum mb_status mb_plan_from_solution(const struct mb_problem *problem,
                                     const struct mb_solution *solution, struct mb_plan **plan)
{
    *plan = NULL;
    if (problem->unit_count == 0 || solution->choice == NULL)
        return MB_ERR_ARGUMENT;
    struct mb_plan *made = plan_alloc(problem->unit_count);
    if (made == NULL)
        return MB_ERR_MEMORY;
    memcpy(made->total, solution->total, sizeof made->total);
    memcpy(made->fixed, problem->fixed, sizeof made->fixed);
    made->gap = solution->gap;
    for (size_t i = 0; i < problem->unit_count; i++) {
        const struct mb_unit *unit = &problem->units[i];
        struct mb_plan_entry *entry = &made->entries[i];
        if (solution->choice[i] >= unit->candidate_count) {
            mb_plan_free(made);
            return MB_ERR_ARGUMENT;
        }
        const struct mb_candidate *chosen = &unit->candidates[solution->choice[i]];
        memcpy(entry->name, unit->name, sizeof entry->name);
        entry->format = chosen->format;
        entry->bytes = chosen->bytes;
        entry->decode_ns = chosen->decode_ns;
        entry->prefill_ns = chosen->prefill_ns;
        entry->loss = chosen->loss;
        const char *kernel = NULL;
        if (!unit->is_embedding || unit->is_output)
            kernel = mb_kernel_for(chosen->format, unit->n, unit->k, 1);
        snprintf(entry->kernel, sizeof entry->kernel, "%s", kernel != NULL ? kernel : "");
    }
    *plan = made;
    return MB_OK;
}

/* ---- writing ---- */

static json_t *quantities_to_json(const double values[MB_QUANTITY_COUNT])
{
    json_t *object = json_object();
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        json_object_set_new(object, mb_quantity_key((enum mb_quantity)q), json_real(values[q]));
    return object;
}

static json_t *entry_to_json(const struct mb_plan_entry *entry)
{
    const struct mb_format_info *info = mb_format_info(entry->format);
    if (info == NULL)
        return NULL;
    return json_pack("{s:s,s:s,s:f,s:f,s:f,s:f,s:s}", "name", entry->name, "format", info->name,
                     "bytes", entry->bytes, "decode_ns", entry->decode_ns, "prefill_ns",
                     entry->prefill_ns, "loss", entry->loss, "kernel", entry->kernel);
}

/* What a later measurement of the matrix products alone compares with: totals without the fixed
 * part. Derived, so it is not read back. */
static json_t *products_to_json(const struct mb_plan *plan)
{
    json_t *object = json_object();
    static const enum mb_quantity times[] = {MB_QUANTITY_DECODE, MB_QUANTITY_PREFILL};
    for (size_t t = 0; t < 2; t++)
        json_object_set_new(object, mb_quantity_key(times[t]),
                            json_real(plan->total[times[t]] - plan->fixed[times[t]]));
    return object;
}

/* Every key written, every number finite: json_real refuses the others and leaves its key out. */
static bool quantities_are_complete(const json_t *object)
{
    return json_object_size(object) == MB_QUANTITY_COUNT;
}

enum mb_status mb_plan_save(const struct mb_plan *plan, const char *path, struct mb_error *error)
{
    enum mb_status status = MB_OK;
    json_t *entries = json_array();
    json_t *budget = quantities_to_json(plan->budget.max);
    json_t *total = quantities_to_json(plan->total);
    json_t *fixed = quantities_to_json(plan->fixed);
    json_t *root = json_object();
    for (size_t i = 0; status == MB_OK && i < plan->count; i++) {
        json_t *entry = entry_to_json(&plan->entries[i]);
        if (entry == NULL || json_array_append_new(entries, entry) != 0)
            status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                  "plan entry %zu (%.95s): expected a known format, finite numbers "
                                  "and names in UTF-8",
                                  i, plan->entries[i].name);
    }
    if (status == MB_OK && (!quantities_are_complete(budget) || !quantities_are_complete(total) ||
                            !quantities_are_complete(fixed) || !isfinite(plan->gap)))
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                              "plan: expected finite budgets, totals and gap");
    if (status == MB_OK &&
        (json_object_set_new(root, "schema", json_string(SCHEMA)) != 0 ||
         json_object_set_new(root, "version", json_integer(1)) != 0 ||
         json_object_set_new(root, "model", json_string(plan->model_hash)) != 0 ||
         json_object_set_new(root, "device", json_string(plan->device_key)) != 0 ||
         json_object_set_new(root, "objective", json_string(plan->objective)) != 0 ||
         json_object_set_new(root, "gap", json_real(plan->gap)) != 0 ||
         json_object_set(root, "budget", budget) != 0 ||
         json_object_set(root, "total", total) != 0 || json_object_set(root, "fixed", fixed) != 0 ||
         json_object_set_new(root, "matmul", products_to_json(plan)) != 0 ||
         json_object_set(root, "tensors", entries) != 0 ||
         (plan->groups[0] != '\0' &&
          json_object_set_new(root, "groups", json_string(plan->groups)) != 0) ||
         (plan->importance_hash[0] != '\0' &&
          json_object_set_new(root, "importance", json_string(plan->importance_hash)) != 0) ||
         (plan->feedback_hash[0] != '\0' &&
          json_object_set_new(root, "feedback", json_string(plan->feedback_hash)) != 0)))
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while writing '%s'", path);
    if (status == MB_OK)
        status = mb_json_save(path, root, error);
    json_decref(root);
    json_decref(entries);
    json_decref(budget);
    json_decref(total);
    json_decref(fixed);
    return status;
}

/* ---- reading ---- */

static enum mb_status read_quantities(const json_t *root, const char *key, const char *path,
                                      double values[MB_QUANTITY_COUNT], struct mb_error *error)
{
    const json_t *object = json_object_get(root, key);
    if (!json_is_object(object))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: key '%s': expected an object with loss, decode_ns, prefill_ns and "
                            "bytes",
                            path, key);
    enum mb_status status = MB_OK;
    for (int q = 0; status == MB_OK && q < MB_QUANTITY_COUNT; q++)
        status =
            mb_json_cost(object, mb_quantity_key((enum mb_quantity)q), &values[q], path, error);
    return status;
}

static enum mb_status read_entry(const json_t *object, const char *path,
                                 struct mb_plan_entry *entry, struct mb_error *error)
{
    const char *format;
    enum mb_status status =
        mb_json_text(object, "name", entry->name, sizeof entry->name, path, error);
    if (status == MB_OK)
        status = mb_json_string(object, "format", &format, path, error);
    if (status != MB_OK)
        return status;
    entry->format = mb_format_by_name(format);
    if (entry->format == MB_FORMAT_NONE)
        return mb_error_set(error, MB_ERR_FILE, -1, "%s: tensor %s: unknown format '%.60s'", path,
                            entry->name, format);
    const struct {
        const char *key;
        double *value;
    } numbers[] = {{"bytes", &entry->bytes},
                   {"decode_ns", &entry->decode_ns},
                   {"prefill_ns", &entry->prefill_ns},
                   {"loss", &entry->loss}};
    for (size_t i = 0; status == MB_OK && i < sizeof numbers / sizeof *numbers; i++)
        status = mb_json_cost(object, numbers[i].key, numbers[i].value, path, error);
    if (status == MB_OK)
        status = mb_json_text(object, "kernel", entry->kernel, sizeof entry->kernel, path, error);
    return status;
}

static enum mb_status read_entries(const json_t *list, const char *path, struct mb_plan *plan,
                                   struct mb_error *error)
{
    json_t *seen = json_object();
    enum mb_status status = MB_OK;
    for (size_t i = 0; status == MB_OK && i < plan->count; i++) {
        status = read_entry(json_array_get(list, i), path, &plan->entries[i], error);
        if (status == MB_OK && json_object_get(seen, plan->entries[i].name) != NULL)
            status = mb_error_set(error, MB_ERR_FILE, -1, "%s: tensor %s is listed twice", path,
                                  plan->entries[i].name);
        else if (status == MB_OK)
            json_object_set_new(seen, plan->entries[i].name, json_true());
    }
    json_decref(seen);
    return status;
}

enum mb_status mb_plan_load(const char *path, struct mb_plan **plan, struct mb_error *error)
{
    *plan = NULL;
    json_t *root = NULL;
    struct mb_plan *made = NULL;
    enum mb_status status = mb_json_load(path, MAX_FILE_BYTES, &root, error);
    if (status != MB_OK)
        return status;
    status = mb_json_schema(root, SCHEMA, 1, path, error);
    if (status != MB_OK)
        goto out;
    const json_t *tensors = json_object_get(root, "tensors");
    if (json_array_size(tensors) == 0) {
        status = mb_error_set(error, MB_ERR_FILE, -1,
                              "%s: key 'tensors': expected a list of at least one tensor", path);
        goto out;
    }
    made = plan_alloc(json_array_size(tensors));
    if (made == NULL) {
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "%s: out of memory", path);
        goto out;
    }
    status = mb_json_text(root, "model", made->model_hash, sizeof made->model_hash, path, error);
    if (status == MB_OK)
        status =
            mb_json_text(root, "device", made->device_key, sizeof made->device_key, path, error);
    if (status == MB_OK)
        status =
            mb_json_text(root, "objective", made->objective, sizeof made->objective, path, error);
    if (status == MB_OK && json_object_get(root, "importance") != NULL)
        status = mb_json_text(root, "importance", made->importance_hash,
                              sizeof made->importance_hash, path, error);
    if (status == MB_OK && json_object_get(root, "feedback") != NULL)
        status = mb_json_text(root, "feedback", made->feedback_hash, sizeof made->feedback_hash,
                              path, error);
    if (status == MB_OK && json_object_get(root, "groups") != NULL)
        status = mb_json_text(root, "groups", made->groups, sizeof made->groups, path, error);
    if (status == MB_OK)
        status = mb_json_cost(root, "gap", &made->gap, path, error);
    if (status == MB_OK)
        status = read_quantities(root, "budget", path, made->budget.max, error);
    if (status == MB_OK)
        status = read_quantities(root, "total", path, made->total, error);
    if (status == MB_OK)
        status = read_quantities(root, "fixed", path, made->fixed, error);
    if (status == MB_OK)
        status = read_entries(tensors, path, made, error);
    if (status == MB_OK) {
        *plan = made;
        made = NULL;
    }
out:
    mb_plan_free(made);
    json_decref(root);
    return status;
}
