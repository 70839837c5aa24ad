/* SPDX-License-Identifier: Apache-2.0 */
/* Checked reading of JSON numbers and strings, and quantities as people write them. Times are kept
 * in ns per token and told as tokens per second, since that is how budgets are given. */
#include "solver/numbers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum mb_status mb_json_schema(const json_t *root, const char *schema, size_t version,
                              const char *path, struct mb_error *error)
{
    const char *found;
    size_t number;
    enum mb_status status = mb_json_string(root, "schema", &found, path, error);
    if (status != MB_OK)
        return status;
    if (strcmp(found, schema) != 0)
        return mb_error_set(error, MB_ERR_FILE, -1, "%s: this is a '%.40s' file, expected '%s'",
                            path, found, schema);
    status = mb_json_size(root, "version", &number, path, error);
    if (status != MB_OK)
        return status;
    if (number != version)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: %s version %zu, this program reads version %zu; make it again",
                            path, schema, number, version);
    return MB_OK;
}

enum mb_status mb_json_text(const json_t *object, const char *key, char *text, size_t bytes,
                            const char *path, struct mb_error *error)
{
    const char *found;
    const enum mb_status status = mb_json_string(object, key, &found, path, error);
    if (status != MB_OK)
        return status;
    const size_t length = strlen(found);
    if (length >= bytes)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: key '%s': expected at most %zu characters, found %zu", path, key,
                            bytes - 1, length);
    memcpy(text, found, length + 1);
    return MB_OK;
}

enum mb_status mb_json_cost(const json_t *object, const char *key, double *value, const char *path,
                            struct mb_error *error)
{
    double found;
    const enum mb_status status = mb_json_number(object, key, &found, path, error);
    if (status != MB_OK)
        return status;
    if (!isfinite(found) || found < 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: key '%s': expected a finite number of 0 or more, found %g", path,
                            key, found);
    *value = found;
    return MB_OK;
}

const char *mb_quantity_key(enum mb_quantity quantity)
{
    switch (quantity) {
    case MB_QUANTITY_LOSS: return "loss";
    case MB_QUANTITY_DECODE: return "decode_ns";
    case MB_QUANTITY_PREFILL: return "prefill_ns";
    case MB_QUANTITY_BYTES: return "bytes";
    default: return "";
    }
}

/* To four significant digits, up or down. */
static double round_digits(double value, bool up)
{
    if (!(value > 0) || isinf(value))
        return value;
    const double unit = pow(10, floor(log10(value)) - 3);
    const double scaled = value / unit, near = nearbyint(scaled);
    /* A value that has four digits already is not pushed on by the division's rounding. */
    const double whole = fabs(scaled - near) < 1e-9 ? near : up ? ceil(scaled) : floor(scaled);
    return whole * unit;
}

void mb_quantity_text(enum mb_quantity quantity, double value, bool loosen, char *text,
                      size_t bytes)
{
    const bool rate = quantity == MB_QUANTITY_DECODE || quantity == MB_QUANTITY_PREFILL;
    double shown = rate ? 1e9 / value : quantity == MB_QUANTITY_BYTES ? value / 1e6 : value;
    if (loosen)
        shown = round_digits(shown, !rate);
    if (quantity == MB_QUANTITY_LOSS)
        snprintf(text, bytes, "KL %.6g", shown);
    else if (quantity == MB_QUANTITY_BYTES)
        snprintf(text, bytes, "%.6g MB", shown);
    else
        snprintf(text, bytes, "%.6g tok/s %s", shown,
                 quantity == MB_QUANTITY_DECODE ? "decode" : "prefill");
}
