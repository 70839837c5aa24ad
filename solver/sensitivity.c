/* SPDX-License-Identifier: Apache-2.0 */
/* The sensitivity table and its file, "mixbit-sensitivity" version 1. A table is units x formats,
 * row by row; an entry that was never probed is null in the file, so that "unknown" cannot be
 * mistaken for "costs nothing". Loading is all or nothing: a table is built only once every number
 * in the file has passed. */
#include "mixbit/sensitivity.h"
#include "solver/numbers.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SCHEMA "mixbit-sensitivity"
#define MAX_FILE_BYTES ((size_t)256 << 20)

void mb_sensitivity_free(struct mb_sensitivity *table)
{
    if (table == NULL)
        return;
    if (table->units != NULL)
        for (size_t i = 0; i < table->unit_count; i++)
            free(table->units[i]);
    free(table->units);
    free(table->formats);
    free(table->losses);
    free(table);
}

enum mb_status mb_sensitivity_create(size_t units, const char *const *names, size_t formats,
                                     const enum mb_format *format_list,
                                     struct mb_sensitivity **table)
{
    *table = NULL;
    size_t entries;
    if (units == 0 || formats == 0)
        return MB_ERR_ARGUMENT;
    if (!mb_mul_size(units, formats, &entries))
        return MB_ERR_MEMORY;
    struct mb_sensitivity *made = calloc(1, sizeof *made);
    if (made == NULL)
        return MB_ERR_MEMORY;
    made->unit_count = units;
    made->format_count = formats;
    made->units = calloc(units, sizeof *made->units);
    made->formats = calloc(formats, sizeof *made->formats);
    made->losses = calloc(entries, sizeof *made->losses);
    enum mb_status status = MB_ERR_MEMORY;
    if (made->units == NULL || made->formats == NULL || made->losses == NULL)
        goto out;
    for (size_t i = 0; i < units; i++) {
        made->units[i] = strdup(names[i]);
        if (made->units[i] == NULL)
            goto out;
    }
    memcpy(made->formats, format_list, formats * sizeof *made->formats);
    *table = made;
    return MB_OK;
out:
    mb_sensitivity_free(made);
    return status;
}

struct mb_loss *mb_sensitivity_at(const struct mb_sensitivity *table, const char *unit,
                                  enum mb_format format)
{
    size_t column = 0;
    while (column < table->format_count && table->formats[column] != format)
        column++;
    if (column == table->format_count)
        return NULL;
    for (size_t row = 0; row < table->unit_count; row++)
        if (strcmp(table->units[row], unit) == 0)
            return &table->losses[row * table->format_count + column];
    return NULL;
}

/* ---- writing ---- */

static bool loss_is_sound(const struct mb_loss *loss)
{
    const double numbers[] = {loss->mean, loss->low, loss->high, loss->weight_error};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!isfinite(numbers[i]) || numbers[i] < 0)
            return false;
    return true;
}

static json_t *loss_to_json(const struct mb_loss *loss)
{
    if (!loss->known)
        return json_null();
    return json_pack("[f,f,f,f]", loss->mean, loss->low, loss->high, loss->weight_error);
}

static json_t *units_to_json(const struct mb_sensitivity *table, struct mb_error *error)
{
    json_t *units = json_array();
    for (size_t row = 0; units != NULL && row < table->unit_count; row++) {
        json_t *losses = json_array();
        for (size_t column = 0; column < table->format_count; column++) {
            const struct mb_loss *loss = &table->losses[row * table->format_count + column];
            if (loss->known && !loss_is_sound(loss)) {
                const struct mb_format_info *info = mb_format_info(table->formats[column]);
                mb_error_set(error, MB_ERR_ARGUMENT, -1,
                             "sensitivity of %s in %s: expected finite numbers of 0 or more, found "
                             "mean %g, low %g, high %g, weight error %g",
                             table->units[row], info != NULL ? info->name : "?", loss->mean,
                             loss->low, loss->high, loss->weight_error);
                json_decref(losses);
                json_decref(units);
                return NULL;
            }
            json_array_append_new(losses, loss_to_json(loss));
        }
        json_array_append_new(units,
                              json_pack("{s:s,s:o}", "name", table->units[row], "loss", losses));
    }
    if (units == NULL || json_array_size(units) != table->unit_count) {
        mb_error_set(error, MB_ERR_ARGUMENT, -1,
                     "cannot write the sensitivity table: a unit name is not valid UTF-8");
        json_decref(units);
        return NULL;
    }
    return units;
}

enum mb_status mb_sensitivity_save(const struct mb_sensitivity *table, const char *path,
                                   struct mb_error *error)
{
    struct mb_error found = {.status = MB_ERR_MEMORY};
    if (!isfinite(table->noise_floor) || table->noise_floor < 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "sensitivity noise floor: expected a finite number of 0 or more, "
                            "found %g",
                            table->noise_floor);
    json_t *formats = json_array();
    for (size_t i = 0; i < table->format_count; i++) {
        const struct mb_format_info *info = mb_format_info(table->formats[i]);
        if (info == NULL) {
            json_decref(formats);
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "sensitivity column %zu: unknown format id %d", i,
                                (int)table->formats[i]);
        }
        json_array_append_new(formats, json_string(info->name));
    }
    json_t *units = units_to_json(table, &found);
    if (units == NULL) {
        json_decref(formats);
        if (error != NULL)
            *error = found;
        return found.status;
    }
    if (table->shards > 0 && (table->shard == 0 || table->shard > table->shards)) {
        json_decref(formats);
        json_decref(units);
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "shard %zu of %zu: there is no such part",
                            table->shard, table->shards);
    }
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:f,s:o,s:o}", "schema", SCHEMA, "version",
                  1, "model", table->model_hash, "text", table->text_hash, "method", table->method,
                  "numerics", table->numerics, "windows", (json_int_t)table->windows, "window",
                  (json_int_t)table->window, "tokens", (json_int_t)table->tokens, "noise_floor",
                  table->noise_floor, "formats", formats, "units", units);
    if (root == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while writing '%s'", path);
    if (table->importance_hash[0] != '\0')
        json_object_set_new(root, "importance", json_string(table->importance_hash));
    if (table->feedback_hash[0] != '\0')
        json_object_set_new(root, "feedback", json_string(table->feedback_hash));
    if (table->shards > 0)
        json_object_set_new(
            root, "shard", json_pack("[I,I]", (json_int_t)table->shard, (json_int_t)table->shards));
    const enum mb_status status = mb_json_save(path, root, error);
    json_decref(root);
    return status;
}

/* ---- reading ---- */

static enum mb_status read_formats(const json_t *root, const char *path, enum mb_format **formats,
                                   size_t *count, struct mb_error *error)
{
    const json_t *list = json_object_get(root, "formats");
    *count = json_array_size(list);
    if (!json_is_array(list) || *count == 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: key 'formats': expected a list of format names", path);
    *formats = calloc(*count, sizeof **formats);
    if (*formats == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "%s: out of memory", path);
    for (size_t i = 0; i < *count; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        const enum mb_format format = name != NULL ? mb_format_by_name(name) : MB_FORMAT_NONE;
        if (format == MB_FORMAT_NONE)
            return mb_error_set(error, MB_ERR_FILE, -1,
                                "%s: key 'formats', item %zu: unknown format '%.60s'", path, i,
                                name != NULL ? name : "(not a string)");
        for (size_t j = 0; j < i; j++)
            if ((*formats)[j] == format)
                return mb_error_set(error, MB_ERR_FILE, -1,
                                    "%s: key 'formats': '%s' is listed twice", path, name);
        (*formats)[i] = format;
    }
    return MB_OK;
}

static enum mb_status read_names(const json_t *units, const char *path, const char **names,
                                 struct mb_error *error)
{
    json_t *seen = json_object();
    enum mb_status status = MB_OK;
    for (size_t i = 0; status == MB_OK && i < json_array_size(units); i++) {
        status = mb_json_string(json_array_get(units, i), "name", &names[i], path, error);
        if (status != MB_OK)
            break;
        if (json_object_get(seen, names[i]) != NULL)
            status = mb_error_set(error, MB_ERR_FILE, -1,
                                  "%s: key 'units': '%.95s' is listed twice", path, names[i]);
        else
            json_object_set_new(seen, names[i], json_true());
    }
    json_decref(seen);
    return status;
}

static enum mb_status read_loss(const json_t *cell, const char *path, const char *unit,
                                const char *format, struct mb_loss *loss, struct mb_error *error)
{
    memset(loss, 0, sizeof *loss);
    if (json_is_null(cell))
        return MB_OK;
    double *const fields[] = {&loss->mean, &loss->low, &loss->high, &loss->weight_error};
    if (json_array_size(cell) != 4)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: loss of %.95s in %s: expected null or [mean, low, high, weight "
                            "error]",
                            path, unit, format);
    for (size_t i = 0; i < 4; i++) {
        const json_t *number = json_array_get(cell, i);
        *fields[i] = json_number_value(number);
        if (!json_is_number(number) || !isfinite(*fields[i]) || *fields[i] < 0)
            return mb_error_set(error, MB_ERR_FILE, -1,
                                "%s: loss of %.95s in %s: expected four finite numbers of 0 or "
                                "more",
                                path, unit, format);
    }
    loss->known = 1;
    return MB_OK;
}

static enum mb_status read_rows(const json_t *units, const char *path, struct mb_sensitivity *table,
                                struct mb_error *error)
{
    for (size_t row = 0; row < table->unit_count; row++) {
        const json_t *cells = json_object_get(json_array_get(units, row), "loss");
        if (json_array_size(cells) != table->format_count)
            return mb_error_set(error, MB_ERR_FILE, -1,
                                "%s: key 'loss' of %.95s: expected %zu entries, one per format, "
                                "found %zu",
                                path, table->units[row], table->format_count,
                                json_array_size(cells));
        for (size_t column = 0; column < table->format_count; column++) {
            const enum mb_status status =
                read_loss(json_array_get(cells, column), path, table->units[row],
                          mb_format_info(table->formats[column])->name,
                          &table->losses[row * table->format_count + column], error);
            if (status != MB_OK)
                return status;
        }
    }
    return MB_OK;
}

static enum mb_status read_header(const json_t *root, const char *path,
                                  struct mb_sensitivity *table, struct mb_error *error)
{
    const struct {
        const char *key;
        char *text;
        size_t bytes;
    } texts[] = {{"model", table->model_hash, sizeof table->model_hash},
                 {"text", table->text_hash, sizeof table->text_hash},
                 {"method", table->method, sizeof table->method},
                 {"numerics", table->numerics, sizeof table->numerics}};
    const struct {
        const char *key;
        size_t *value;
    } sizes[] = {
        {"windows", &table->windows}, {"window", &table->window}, {"tokens", &table->tokens}};
    enum mb_status status = MB_OK;
    for (size_t i = 0; status == MB_OK && i < sizeof texts / sizeof *texts; i++)
        status = mb_json_text(root, texts[i].key, texts[i].text, texts[i].bytes, path, error);
    for (size_t i = 0; status == MB_OK && i < sizeof sizes / sizeof *sizes; i++)
        status = mb_json_size(root, sizes[i].key, sizes[i].value, path, error);
    if (status == MB_OK)
        status = mb_json_cost(root, "noise_floor", &table->noise_floor, path, error);
    if (status == MB_OK && json_object_get(root, "importance") != NULL)
        status = mb_json_text(root, "importance", table->importance_hash,
                              sizeof table->importance_hash, path, error);
    if (status == MB_OK && json_object_get(root, "feedback") != NULL)
        status = mb_json_text(root, "feedback", table->feedback_hash, sizeof table->feedback_hash,
                              path, error);
    const json_t *shard = json_object_get(root, "shard");
    if (status != MB_OK || shard == NULL)
        return status;
    const json_int_t part = json_integer_value(json_array_get(shard, 0));
    const json_int_t parts = json_integer_value(json_array_get(shard, 1));
    if (json_array_size(shard) != 2 || part < 1 || parts < part ||
        parts > (json_int_t)table->unit_count)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: key 'shard': expected [part, parts] of at most %zu parts", path,
                            table->unit_count);
    table->shard = (size_t)part;
    table->shards = (size_t)parts;
    return MB_OK;
}

enum mb_status mb_sensitivity_load(const char *path, struct mb_sensitivity **table,
                                   struct mb_error *error)
{
    *table = NULL;
    json_t *root = NULL;
    enum mb_format *formats = NULL;
    const char **names = NULL;
    struct mb_sensitivity *made = NULL;
    size_t format_count;
    enum mb_status status = mb_json_load(path, MAX_FILE_BYTES, &root, error);
    if (status != MB_OK)
        return status;
    status = mb_json_schema(root, SCHEMA, 1, path, error);
    if (status != MB_OK)
        goto out;
    status = read_formats(root, path, &formats, &format_count, error);
    if (status != MB_OK)
        goto out;
    const json_t *units = json_object_get(root, "units");
    const size_t unit_count = json_array_size(units);
    if (unit_count == 0) {
        status = mb_error_set(error, MB_ERR_FILE, -1,
                              "%s: key 'units': expected a list of at least one unit", path);
        goto out;
    }
    names = calloc(unit_count, sizeof *names);
    if (names == NULL) {
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "%s: out of memory", path);
        goto out;
    }
    status = read_names(units, path, names, error);
    if (status != MB_OK)
        goto out;
    status = mb_sensitivity_create(unit_count, names, format_count, formats, &made);
    if (status != MB_OK) {
        mb_error_set(error, status, -1, "%s: out of memory", path);
        goto out;
    }
    status = read_header(root, path, made, error);
    if (status == MB_OK)
        status = read_rows(units, path, made, error);
    if (status == MB_OK) {
        *table = made;
        made = NULL;
    }
out:
    mb_sensitivity_free(made);
    free(names);
    free(formats);
    json_decref(root);
    return status;
}
