/* SPDX-License-Identifier: Apache-2.0 */
/* The command line's own contracts: verbs, their option tables, progress, text tables and exit
 * statuses.
 *
 * A verb is one file with one option table. Parsing, checking, --help and suggestions are all made
 * from that table, and every verb returns an enum mb_status with its error filled: main turns it
 * into one line on stderr and an exit status. Data goes to stdout, everything else to stderr. */
#ifndef MIXBIT_CLI_H
#define MIXBIT_CLI_H

#include "mixbit/mixbit.h"
#include "support/support.h"

#include <stdbool.h>
#include <stdio.h>

/* ---- exit statuses ---- */

enum mb_exit {
    MB_EXIT_DONE = 0,
    MB_EXIT_FAILED = 1,
    MB_EXIT_USAGE = 2,
    MB_EXIT_INFEASIBLE = 3,
    MB_EXIT_VERIFY = 4,
    MB_EXIT_INTERRUPTED = 130
};
int mb_exit_of(enum mb_status status);

/* ---- options (options.c) ---- */

enum mb_option_kind {
    MB_OPTION_FLAG,    /* bool */
    MB_OPTION_TEXT,    /* const char * */
    MB_OPTION_TEXTS,   /* struct mb_texts; may be repeated */
    MB_OPTION_COUNT,   /* size_t, 0 allowed only when the option's `minimum` is 0 */
    MB_OPTION_COUNTS,  /* struct mb_counts, "1,128" */
    MB_OPTION_NUMBER,  /* double, finite, > 0 */
    MB_OPTION_CHOICE,  /* int: index into `choices` */
    MB_OPTION_FORMATS, /* struct mb_format_list, "q4_K,q6_K" or "all" */
    MB_OPTION_SIZE     /* struct mb_size_limit, "80M", "80Mi", "4.25bpw" */
};

enum { MB_LIST_LENGTH = 256 };

struct mb_texts {
    size_t count;
    const char *at[MB_LIST_LENGTH];
};
struct mb_counts {
    size_t count;
    size_t at[MB_LIST_LENGTH];
};
struct mb_format_list {
    size_t count; /* 0: not given */
    enum mb_format at[64];
};
/* Bytes, or bits per weight over the weights that a uniform file would convert; 0 where not given.
 */
struct mb_size_limit {
    double bytes, bits_per_weight;
};

struct mb_option {
    const char *name; /* without the dashes; NULL ends a table */
    char letter;      /* 0: none */
    enum mb_option_kind kind;
    size_t offset;     /* of the field in the verb's options struct */
    const char *value; /* what help calls the value ("FILE") */
    const char *help;
    const char *fallback;       /* default, as the user would type it; NULL: the field stays zero */
    const char *const *choices; /* of MB_OPTION_CHOICE, NULL-terminated */
    size_t minimum;             /* of MB_OPTION_COUNT and _COUNTS */
};

/* What every verb takes besides its own table. */
struct mb_common_options {
    bool json, verbose, quiet, force, help;
};

struct mb_cli;
struct mb_verb {
    const char *name;
    const char *summary;     /* one line */
    const char *positionals; /* "MODEL", "[PROFILE...]"; shown in usage */
    size_t min_positionals, max_positionals;
    const struct mb_option *options; /* NULL-terminated */
    size_t options_bytes;
    const char *details; /* paragraphs for --help; NULL: none */
    const char *example; /* one command and what it does */
    /* Returns with cli->error filled on failure. `options` is the verb's struct, defaults in. */
    enum mb_status (*run)(struct mb_cli *cli, const void *options);
};
#define MB_VERB_ROW(name) extern const struct mb_verb mb_verb_##name;
#include "cli/verbs.def"

/* State of one run of the program. */
struct mb_cli {
    const struct mb_verb *verb;
    struct mb_common_options common;
    size_t positional_count;
    const char *positionals[MB_LIST_LENGTH];
    struct mb_error error;
};

/* Parse the arguments behind the verb into options (verb->options_bytes, zeroed, defaults put in)
 * and cli. MB_ERR_ARGUMENT with the reason and a suggestion. */
enum mb_status mb_options_parse(struct mb_cli *cli, int argc, char *const *argv, void *options);
void mb_options_help(const struct mb_verb *verb, FILE *out);
/* The name closest to `typed`, NULL when none is near. */
const char *mb_suggest(const char *typed, const char *const *names, size_t count);

/* One token of a user's input each; MB_ERR_ARGUMENT with what was expected. `what` names the
 * option in messages ("--format"). */
enum mb_status mb_parse_format(const char *what, const char *text, enum mb_format *format,
                               struct mb_error *error);
enum mb_status mb_parse_formats(const char *what, const char *text, struct mb_format_list *formats,
                                struct mb_error *error);
enum mb_status mb_parse_size(const char *what, const char *text, struct mb_size_limit *limit,
                             struct mb_error *error);
enum mb_status mb_parse_number(const char *what, const char *text, double *number,
                               struct mb_error *error);
enum mb_status mb_parse_count(const char *what, const char *text, size_t minimum, size_t *count,
                              struct mb_error *error);

/* Usage errors of a verb: fills cli->error, returns MB_ERR_ARGUMENT. */
enum mb_status mb_usage(struct mb_cli *cli, const char *format, ...) MB_PRINTF(2, 3);

/* ---- interruption (main.c) ---- */

/* Set by the first Ctrl-C (or SIGTERM, SIGHUP); the second one kills. */
bool mb_interrupted(void);

/* ---- progress and messages (progress.c) ---- */

/* A stage of work: on a terminal a bar with the time left, elsewhere one line when it begins (and
 * one every 30 s with --verbose). --quiet silences both. Stages do not nest. */
void mb_stage_begin(struct mb_cli *cli, const char *format, ...) MB_PRINTF(2, 3);
void mb_stage_end(struct mb_cli *cli);
/* The callback for the library's long jobs, valid for the whole run; asks to stop once interrupted.
 */
const struct mb_progress *mb_stage_progress(struct mb_cli *cli);

/* One line on stderr each, past the bar: notes can be silenced by --quiet, warnings can't. */
void mb_note(struct mb_cli *cli, const char *format, ...) MB_PRINTF(2, 3);
void mb_warn(struct mb_cli *cli, const char *format, ...) MB_PRINTF(2, 3);

/* Terminal of a stream: width in columns (SIZE_MAX when it is none), colours wanted. */
size_t mb_terminal_width(FILE *stream);
bool mb_terminal_colours(FILE *stream);

/* ---- tables (table.c) ---- */

/* Rows of typed cells, printed aligned for people or as a JSON array of objects. */
struct mb_table;
enum mb_align { MB_ALIGN_LEFT, MB_ALIGN_RIGHT };
struct mb_table *mb_table_create(void); /* out of memory ends the program with one line */
void mb_table_free(struct mb_table *table);
/* key: of the JSON; title: of the text column, NULL: the column is in the JSON only. */
void mb_table_column(struct mb_table *table, const char *key, const char *title,
                     enum mb_align align);
/* Cells fill rows from left to right; a row is complete after as many cells as columns. */
void mb_table_text(struct mb_table *table, const char *text);
/* format prints the number for people ("%.2f"); NaN is "-" and null. */
void mb_table_number(struct mb_table *table, double number, const char *format);
void mb_table_count(struct mb_table *table, size_t count);
void mb_table_none(struct mb_table *table); /* "-", null */
/* Show the row that was just completed in bold, where the terminal can. */
void mb_table_mark(struct mb_table *table);
/* Aligned text; cut to the terminal's width: long texts first, then columns from the right. */
void mb_table_print(const struct mb_table *table, FILE *out);
json_t *mb_table_json(const struct mb_table *table);

/* A JSON document on stdout (consumes root). */
enum mb_status mb_print_json(struct mb_cli *cli, json_t *root);
/* A number of bytes for people: "11.61 MB" (M is 10^6). Returns text. */
char *mb_text_bytes(double bytes, char text[32]);

#endif
