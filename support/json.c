/* SPDX-License-Identifier: Apache-2.0 */
/* JSON files through jansson: whole files only, atomic writes, and errors of one line that say
 * file, line and key. Duplicate keys are refused: which of two budgets was meant is not ours to
 * guess. */
#include "support/support.h"

#include <math.h>
#include <stdlib.h>

enum mb_status mb_json_load(const char *path, size_t max_bytes, json_t **root,
                            struct mb_error *error)
{
    char *text;
    size_t bytes;
    *root = NULL;
    enum mb_status status = mb_file_read(path, max_bytes, &text, &bytes, error);
    if (status != MB_OK)
        return status;
    json_error_t where;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    free(text);
    if (*root == NULL)
        return mb_error_set(
            error, MB_ERR_FILE, where.line,
            "%s:%d: not valid JSON: %s; the file is cut short or damaged, write it again", path,
            where.line, where.text);
    return MB_OK;
}

enum mb_status mb_json_save(const char *path, const json_t *root, struct mb_error *error)
{
    char *text = json_dumps(root, JSON_SORT_KEYS | JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (text == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while writing '%s'", path);
    struct mb_file *file;
    enum mb_status status = mb_file_create(path, &file, error);
    if (status == MB_OK) {
        size_t bytes = 0;
        while (text[bytes] != '\0')
            bytes++;
        mb_file_write(file, text, bytes);
        mb_file_write(file, "\n", 1);
        status = mb_file_commit(file, error);
    }
    free(text);
    return status;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_NULL: return "null";
    default: return "a boolean";
    }
}

/* The value under key, or NULL with the error told. */
static const json_t *require(const json_t *object, const char *key, const char *expected,
                             const char *path, struct mb_error *error)
{
    if (!json_is_object(object)) {
        mb_error_set(error, MB_ERR_FILE, -1, "%s: key '%s': expected an object around it, found %s",
                     path, key, object != NULL ? type_name(object) : "nothing");
        return NULL;
    }
    const json_t *value = json_object_get(object, key);
    if (value == NULL)
        mb_error_set(error, MB_ERR_FILE, -1, "%s: key '%s': expected %s, found nothing", path, key,
                     expected);
    return value;
}

static enum mb_status mismatch(const json_t *value, const char *key, const char *expected,
                               const char *path, struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_FILE, -1, "%s: key '%s': expected %s, found %s", path, key,
                        expected, type_name(value));
}

enum mb_status mb_json_number(const json_t *object, const char *key, double *value,
                              const char *path, struct mb_error *error)
{
    const json_t *found = require(object, key, "a number", path, error);
    if (found == NULL)
        return MB_ERR_FILE;
    if (!json_is_number(found) || !isfinite(json_number_value(found)))
        return mismatch(found, key, "a number", path, error);
    *value = json_number_value(found);
    return MB_OK;
}

enum mb_status mb_json_size(const json_t *object, const char *key, size_t *value, const char *path,
                            struct mb_error *error)
{
    const json_t *found = require(object, key, "a non-negative integer", path, error);
    if (found == NULL)
        return MB_ERR_FILE;
    if (!json_is_integer(found))
        return mismatch(found, key, "a non-negative integer", path, error);
    const json_int_t integer = json_integer_value(found);
    if (integer < 0 || (uint64_t)integer > SIZE_MAX)
        return mb_error_set(
            error, MB_ERR_FILE, -1,
            "%s: key '%s': expected a non-negative integer, found %" JSON_INTEGER_FORMAT, path, key,
            integer);
    *value = (size_t)integer;
    return MB_OK;
}

enum mb_status mb_json_string(const json_t *object, const char *key, const char **value,
                              const char *path, struct mb_error *error)
{
    const json_t *found = require(object, key, "a string", path, error);
    if (found == NULL)
        return MB_ERR_FILE;
    if (!json_is_string(found))
        return mismatch(found, key, "a string", path, error);
    *value = json_string_value(found);
    return MB_OK;
}
