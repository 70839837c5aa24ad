/* SPDX-License-Identifier: Apache-2.0 */
/* What users type, one token at a time: numbers, sizes, formats. Each parser takes the whole token
 * or says what it expected; nothing is rounded, guessed or silently cut. */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static size_t smallest(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein distance without regard to case; names longer than the row buffer are far away. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 63 };
    const size_t a_length = strlen(a), b_length = strlen(b);
    if (a_length > LONGEST || b_length > LONGEST)
        return SIZE_MAX;
    size_t row[LONGEST + 1];
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            const bool same = tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[j - 1]);
            const size_t here = smallest(row[j] + 1, row[j - 1] + 1, diagonal + (same ? 0 : 1));
            diagonal = row[j];
            row[j] = here;
        }
    }
    return row[b_length];
}

const char *mb_suggest(const char *typed, const char *const *names, size_t count)
{
    const char *best = NULL;
    size_t nearest = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t far = distance(typed, names[i]);
        const size_t length = strlen(typed);
        if (length >= 2 && strncasecmp(typed, names[i], length) == 0)
            far = 1; /* an abbreviation is as good as one wrong letter */
        if (far < nearest) {
            nearest = far;
            best = names[i];
        }
    }
    const size_t allowed = strlen(typed) / 3 + 1;
    return nearest <= allowed ? best : NULL;
}

enum mb_status mb_parse_format(const char *what, const char *text, enum mb_format *format,
                               struct mb_error *error)
{
    *format = mb_format_by_name(text);
    if (*format != MB_FORMAT_NONE)
        return MB_OK;
    const char *names[64];
    char list[384] = "";
    size_t count = 0, used = 0;
    for (; mb_any_format_at(count) != NULL && count < 64; count++) {
        names[count] = mb_any_format_at(count)->name;
        const int wrote =
            snprintf(list + used, sizeof list - used, "%s%s", count > 0 ? " " : "", names[count]);
        used += wrote > 0 && (size_t)wrote < sizeof list - used ? (size_t)wrote : 0;
    }
    const char *near = mb_suggest(text, names, count);
    if (near != NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s: unknown format '%.40s', did you mean '%s'?", what, text, near);
    return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: unknown format '%.40s'; formats are %s",
                        what, text, list);
}

/* Copy the part of a comma-separated list that begins at *at; false at the end of the list. */
static bool next_part(const char **at, char *part, size_t part_bytes)
{
    if (*at == NULL)
        return false;
    const char *comma = strchr(*at, ',');
    const size_t length = comma != NULL ? (size_t)(comma - *at) : strlen(*at);
    const size_t kept = length < part_bytes ? length : part_bytes - 1;
    memcpy(part, *at, kept);
    part[kept] = '\0';
    *at = comma != NULL ? comma + 1 : NULL;
    return true;
}

static enum mb_status add_format(const char *what, enum mb_format format,
                                 struct mb_format_list *formats, struct mb_error *error)
{
    for (size_t i = 0; i < formats->count; i++)
        if (formats->at[i] == format)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: '%s' is there twice", what,
                                mb_format_info(format)->name);
    formats->at[formats->count++] = format;
    return MB_OK;
}

enum mb_status mb_parse_formats(const char *what, const char *text, struct mb_format_list *formats,
                                struct mb_error *error)
{
    *formats = (struct mb_format_list){0};
    if (strcasecmp(text, "all") == 0) {
        for (; formats->count < mb_format_count() && formats->count < 64; formats->count++)
            formats->at[formats->count] = mb_format_at(formats->count)->id;
        return MB_OK;
    }
    char part[64];
    enum mb_status status = MB_OK;
    for (const char *at = text; status == MB_OK && next_part(&at, part, sizeof part);) {
        enum mb_format format;
        const struct mb_format_info *info;
        if (strcasecmp(part, "codebooks") != 0) {
            status = mb_parse_format(what, part, &format, error);
            if (status == MB_OK)
                status = add_format(what, format, formats, error);
            continue;
        }
        for (size_t i = 0; status == MB_OK && (info = mb_any_format_at(i)) != NULL; i++)
            if (info->codebook)
                status = add_format(what, info->id, formats, error);
    }
    return status;
}

/* A finite number at the start of text; *end behind it. False when there is none. Hexadecimal,
 * "nan" and "inf" are not what people mean by a budget. */
static bool read_number(const char *text, double *number, char **end)
{
    if (!(isdigit((unsigned char)text[0]) || text[0] == '.' || text[0] == '-' || text[0] == '+'))
        return false;
    if (strpbrk(text, "xX") != NULL)
        return false;
    errno = 0;
    *number = strtod(text, end);
    return *end != text && isfinite(*number);
}

enum mb_status mb_parse_number(const char *what, const char *text, double *number,
                               struct mb_error *error)
{
    char *end;
    if (!read_number(text, number, &end) || *end != '\0')
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: expected a number, found '%.40s'",
                            what, text);
    if (!(*number > 0))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s: expected a number above zero, found '%.40s'", what, text);
    return MB_OK;
}

enum mb_status mb_parse_count(const char *what, const char *text, size_t minimum, size_t *count,
                              struct mb_error *error)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long number =
        isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (end == NULL || *end != '\0' || errno != 0 || number > SIZE_MAX / 2)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s: expected a whole number, found '%.40s'", what, text);
    if (number < minimum)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: expected %zu or more, found '%.40s'",
                            what, minimum, text);
    *count = (size_t)number;
    return MB_OK;
}

enum mb_status mb_parse_size(const char *what, const char *text, struct mb_size_limit *limit,
                             struct mb_error *error)
{
    static const struct {
        const char *suffix;
        double bytes;
    } units[] = {{"", 1},          {"B", 1},        {"K", 1e3},     {"M", 1e6},     {"G", 1e9},
                 {"T", 1e12},      {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},    {"TB", 1e12},
                 {"Ki", 1024},     {"Mi", 1048576}, {"Gi", 0x1p30}, {"Ti", 0x1p40}, {"KiB", 1024},
                 {"MiB", 1048576}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    double number;
    char *end;
    *limit = (struct mb_size_limit){0, 0};
    if (!read_number(text, &number, &end))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s: expected a size like 80M, 80Mi or 4.25bpw, found '%.40s'", what,
                            text);
    if (!(number > 0))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s: expected a size above zero, found '%.40s'", what, text);
    if (strcasecmp(end, "bpw") == 0) {
        limit->bits_per_weight = number;
        return MB_OK;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(end, units[i].suffix) == 0) {
            limit->bytes = number * units[i].bytes;
            return MB_OK;
        }
    }
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "%s: unknown unit '%.16s' in '%.40s'; M is 10^6 bytes, Mi 2^20, bpw bits "
                        "per weight",
                        what, end, text);
}
