/* SPDX-License-Identifier: Apache-2.0 */
/* Options from one table per verb: parsing, defaults and help all walk the same rows, so that help
 * can't drift from what is accepted. An option is given once (lists may repeat), is spelled in
 * full, and takes its value as `--name value`, `--name=value`, `-n value` or `-nvalue`. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COMMON(field) offsetof(struct mb_common_options, field)
static const struct mb_option common_options[] = {
    {.name = "json",
     .kind = MB_OPTION_FLAG,
     .offset = COMMON(json),
     .help = "print JSON on stdout"},
    {.name = "force",
     .letter = 'f',
     .kind = MB_OPTION_FLAG,
     .offset = COMMON(force),
     .help = "replace existing files that mixbit did not write"},
    {.name = "verbose",
     .letter = 'v',
     .kind = MB_OPTION_FLAG,
     .offset = COMMON(verbose),
     .help = "say more on stderr"},
    {.name = "quiet",
     .letter = 'q',
     .kind = MB_OPTION_FLAG,
     .offset = COMMON(quiet),
     .help = "say nothing but warnings and errors on stderr"},
    {.name = "help", .letter = 'h', .kind = MB_OPTION_FLAG, .offset = COMMON(help), .help = "this"},
    {0}};

enum { MOST_OPTIONS = 64 };

/* The row that `name` (or the letter) means, and the struct that its offset is in. */
static const struct mb_option *find_option(const struct mb_verb *verb, const char *name,
                                           char letter, bool *common)
{
    const struct mb_option *const tables[] = {verb->options, common_options};
    for (int t = 0; t < 2; t++) {
        for (const struct mb_option *o = tables[t]; o != NULL && o->name != NULL; o++) {
            if (name != NULL ? strcmp(o->name, name) == 0 : o->letter == letter) {
                *common = t == 1;
                return o;
            }
        }
    }
    return NULL;
}

enum mb_status mb_usage(struct mb_cli *cli, const char *format, ...)
{
    char text[sizeof cli->error.message];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return mb_error_set(&cli->error, MB_ERR_ARGUMENT, -1, "%s", text);
}

static enum mb_status unknown_option(struct mb_cli *cli, const char *typed)
{
    const char *names[MOST_OPTIONS];
    size_t count = 0;
    const struct mb_option *const tables[] = {cli->verb->options, common_options};
    for (int t = 0; t < 2; t++)
        for (const struct mb_option *o = tables[t]; o != NULL && o->name != NULL; o++)
            if (count < MOST_OPTIONS)
                names[count++] = o->name;
    const char *near = strncmp(typed, "--", 2) == 0 ? mb_suggest(typed + 2, names, count) : NULL;
    if (near != NULL)
        return mb_usage(cli, "unknown option '%.60s', did you mean '--%s'?", typed, near);
    return mb_usage(cli, "unknown option '%.60s'; see 'mixbit %s --help'", typed, cli->verb->name);
}

static enum mb_status store_choice(const char *what, const struct mb_option *option,
                                   const char *text, int *field, struct mb_error *error)
{
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; option->choices[i] != NULL; i++) {
        if (strcasecmp(option->choices[i], text) == 0) {
            *field = i;
            return MB_OK;
        }
        const int wrote = snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "",
                                   option->choices[i]);
        used += wrote > 0 && (size_t)wrote < sizeof list - used ? (size_t)wrote : 0;
    }
    return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: expected one of %s, found '%.40s'", what,
                        list, text);
}

static enum mb_status store_counts(const char *what, const struct mb_option *option,
                                   const char *text, struct mb_counts *counts,
                                   struct mb_error *error)
{
    counts->count = 0;
    for (const char *at = text; at != NULL;) {
        const char *comma = strchr(at, ',');
        char part[32];
        (void)snprintf(part, sizeof part, "%.*s",
                       comma != NULL ? (int)(comma - at < 31 ? comma - at : 31) : 31, at);
        if (counts->count == MB_LIST_LENGTH)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: more than %d numbers", what,
                                MB_LIST_LENGTH);
        const enum mb_status status =
            mb_parse_count(what, part, option->minimum, &counts->at[counts->count], error);
        if (status != MB_OK)
            return status;
        counts->count++;
        at = comma != NULL ? comma + 1 : NULL;
    }
    return MB_OK;
}

/* Put a value into its field. `fields` is the struct that the option's offset belongs to. */
static enum mb_status store(const struct mb_option *option, const char *text, void *fields,
                            struct mb_error *error)
{
    void *field = (char *)fields + option->offset;
    char what[64];
    (void)snprintf(what, sizeof what, "--%s", option->name);
    switch (option->kind) {
    case MB_OPTION_FLAG: *(bool *)field = true; return MB_OK;
    case MB_OPTION_TEXT:
        if (text[0] == '\0')
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: the value is empty", what);
        *(const char **)field = text;
        return MB_OK;
    case MB_OPTION_TEXTS: {
        struct mb_texts *texts = field;
        if (texts->count == MB_LIST_LENGTH)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: given more than %d times", what,
                                MB_LIST_LENGTH);
        texts->at[texts->count++] = text;
        return MB_OK;
    }
    case MB_OPTION_COUNT: return mb_parse_count(what, text, option->minimum, field, error);
    case MB_OPTION_COUNTS: return store_counts(what, option, text, field, error);
    case MB_OPTION_NUMBER: return mb_parse_number(what, text, field, error);
    case MB_OPTION_CHOICE: return store_choice(what, option, text, field, error);
    case MB_OPTION_FORMATS: return mb_parse_formats(what, text, field, error);
    case MB_OPTION_SIZE: return mb_parse_size(what, text, field, error);
    }
    return MB_ERR_ARGUMENT;
}

/* Which options were given already; a set over both tables' rows. */
struct given {
    size_t count;
    const struct mb_option *at[MOST_OPTIONS];
};

static enum mb_status check_once(struct mb_cli *cli, struct given *given,
                                 const struct mb_option *option)
{
    if (option->kind == MB_OPTION_TEXTS || option->kind == MB_OPTION_FLAG)
        return MB_OK;
    for (size_t i = 0; i < given->count; i++)
        if (given->at[i] == option)
            return mb_usage(cli, "--%s is given twice; which value is meant?", option->name);
    if (given->count < MOST_OPTIONS)
        given->at[given->count++] = option;
    return MB_OK;
}

/* One argument that begins with a dash, and the value behind it; *i moves over what was used. */
static enum mb_status parse_option(struct mb_cli *cli, int argc, char *const *argv, int *i,
                                   struct given *given, void *options)
{
    const char *argument = argv[*i];
    const char *value = NULL;
    const struct mb_option *option;
    bool common = false;
    if (argument[1] == '-') {
        char name[64];
        const char *equals = strchr(argument, '=');
        const size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
        (void)snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), argument);
        option = find_option(cli->verb, name + 2, 0, &common);
        if (option == NULL)
            return unknown_option(cli, name);
        value = equals != NULL ? equals + 1 : NULL;
    } else {
        option = find_option(cli->verb, NULL, argument[1], &common);
        if (option == NULL || (option->kind == MB_OPTION_FLAG && argument[2] != '\0'))
            return unknown_option(cli, argument);
        value = argument[2] != '\0' ? argument + 2 : NULL;
    }
    if (option->kind == MB_OPTION_FLAG && value != NULL)
        return mb_usage(cli, "--%s takes no value", option->name);
    if (option->kind != MB_OPTION_FLAG && value == NULL) {
        if (*i + 1 >= argc)
            return mb_usage(cli, "--%s needs a value (%s)", option->name, option->value);
        value = argv[++*i];
    }
    const enum mb_status status = check_once(cli, given, option);
    if (status != MB_OK)
        return status;
    return store(option, value, common ? (void *)&cli->common : options, &cli->error);
}

static enum mb_status check_positionals(struct mb_cli *cli)
{
    const struct mb_verb *verb = cli->verb;
    if (cli->positional_count < verb->min_positionals)
        return mb_usage(cli, "%s is missing; usage: mixbit %s %s",
                        verb->max_positionals == 1 ? verb->positionals : "an argument", verb->name,
                        verb->positionals);
    if (cli->positional_count > verb->max_positionals)
        return mb_usage(cli, "unexpected argument '%.60s'; usage: mixbit %s %s",
                        cli->positionals[verb->max_positionals], verb->name,
                        verb->positionals != NULL ? verb->positionals : "[options]");
    return MB_OK;
}

enum mb_status mb_options_parse(struct mb_cli *cli, int argc, char *const *argv, void *options)
{
    memset(options, 0, cli->verb->options_bytes);
    for (const struct mb_option *o = cli->verb->options; o != NULL && o->name != NULL; o++) {
        if (o->fallback != NULL) {
            const enum mb_status status = store(o, o->fallback, options, &cli->error);
            if (status != MB_OK)
                return status;
        }
    }
    struct given given = {0};
    bool only_positionals = false;
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        if (!only_positionals && strcmp(argument, "--") == 0) {
            only_positionals = true;
        } else if (!only_positionals && argument[0] == '-' && argument[1] != '\0') {
            const enum mb_status status = parse_option(cli, argc, argv, &i, &given, options);
            if (status != MB_OK)
                return status;
        } else if (cli->positional_count < MB_LIST_LENGTH) {
            cli->positionals[cli->positional_count++] = argument;
        } else {
            return mb_usage(cli, "more than %d arguments", MB_LIST_LENGTH);
        }
    }
    return cli->common.help ? MB_OK : check_positionals(cli);
}

/* ---- help ---- */

/* `text` from column `column` on, broken between words at 80. */
static void print_wrapped(FILE *out, const char *text, int column)
{
    int at = column;
    while (*text != '\0') {
        const int word = (int)strcspn(text, " \n");
        if (at > column && at + 1 + word > 80) {
            (void)fprintf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            (void)fputc(' ', out);
            at++;
        }
        (void)fprintf(out, "%.*s", word, text);
        at += word;
        text += word;
        if (*text == '\n') {
            (void)fprintf(out, "\n%*s", column, "");
            at = column;
        }
        text += *text != '\0';
    }
    (void)fputc('\n', out);
}

static void print_option(FILE *out, const struct mb_option *option)
{
    enum { COLUMN = 28 };
    char left[96], help[512];
    int length = snprintf(left, sizeof left, "  %c%c%s--%s", option->letter != 0 ? '-' : ' ',
                          option->letter != 0 ? option->letter : ' ',
                          option->letter != 0 ? ", " : "  ", option->name);
    if (option->kind != MB_OPTION_FLAG && option->choices == NULL)
        length += snprintf(left + length, sizeof left - (size_t)length, " %s", option->value);
    for (int i = 0; option->choices != NULL && option->choices[i] != NULL; i++)
        length += snprintf(left + length, sizeof left - (size_t)length, "%c%s", i > 0 ? '|' : ' ',
                           option->choices[i]);
    (void)snprintf(
        help, sizeof help, "%s%s%s%s", option->help, option->fallback != NULL ? " (default " : "",
        option->fallback != NULL ? option->fallback : "", option->fallback != NULL ? ")" : "");
    if (length >= COLUMN)
        (void)fprintf(out, "%s\n%*s", left, COLUMN, "");
    else
        (void)fprintf(out, "%-*s", COLUMN, left);
    print_wrapped(out, help, COLUMN);
}

void mb_options_help(const struct mb_verb *verb, FILE *out)
{
    (void)fprintf(out, "mixbit %s: %s\n\nUsage: mixbit %s%s%s [options]\n", verb->name,
                  verb->summary, verb->name, verb->positionals != NULL ? " " : "",
                  verb->positionals != NULL ? verb->positionals : "");
    if (verb->details != NULL) {
        (void)fputc('\n', out);
        print_wrapped(out, verb->details, 0);
    }
    (void)fprintf(out, "\nOptions:\n");
    for (const struct mb_option *o = verb->options; o != NULL && o->name != NULL; o++)
        print_option(out, o);
    for (const struct mb_option *o = common_options; o->name != NULL; o++)
        print_option(out, o);
    (void)fprintf(out, "\nExample:\n  %s\n", verb->example);
}
