/* SPDX-License-Identifier: Apache-2.0 */
/* Tables with a JSON twin. A cell keeps both what people read and the exact value, so that the two
 * outputs of a verb come from one place. Widths are counted in code points; the terminal's width is
 * respected by cutting the longest texts first and, when that is not enough, leaving out columns
 * from the right and saying so. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 32, NARROWEST = 10, GAP = 2 };
enum cell_kind { CELL_NONE, CELL_TEXT, CELL_NUMBER, CELL_COUNT };

struct cell {
    enum cell_kind kind;
    bool marked; /* of a row's first cell: the row is bold */
    double number;
    size_t count;
    char *text;
};

struct mb_table {
    size_t columns, cells, room;
    struct {
        const char *key, *title;
        enum mb_align align;
    } column[MOST_COLUMNS];
    struct cell *cell;
};

static void *need(void *memory)
{
    if (memory == NULL) {
        (void)fputs("mixbit: error: out of memory\n", stderr);
        exit(MB_EXIT_FAILED);
    }
    return memory;
}

struct mb_table *mb_table_create(void) { return need(calloc(1, sizeof(struct mb_table))); }

void mb_table_free(struct mb_table *table)
{
    if (table == NULL)
        return;
    for (size_t i = 0; i < table->cells; i++)
        free(table->cell[i].text);
    free(table->cell);
    free(table);
}

void mb_table_column(struct mb_table *table, const char *key, const char *title,
                     enum mb_align align)
{
    if (table->columns == MOST_COLUMNS)
        return;
    table->column[table->columns].key = key;
    table->column[table->columns].title = title;
    table->column[table->columns++].align = align;
}

static struct cell *next_cell(struct mb_table *table)
{
    if (table->cells == table->room) {
        table->room = table->room > 0 ? 2 * table->room : 256;
        table->cell = need(realloc(table->cell, table->room * sizeof *table->cell));
    }
    struct cell *cell = &table->cell[table->cells++];
    memset(cell, 0, sizeof *cell);
    return cell;
}

void mb_table_text(struct mb_table *table, const char *text)
{
    struct cell *cell = next_cell(table);
    cell->kind = CELL_TEXT;
    cell->text = need(strdup(text));
}

void mb_table_none(struct mb_table *table) { next_cell(table)->text = need(strdup("-")); }

/* The formats are literals of the verbs; the pragma is for compilers that can't see that. */
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#endif
void mb_table_number(struct mb_table *table, double number, const char *format)
{
    if (!isfinite(number)) {
        mb_table_none(table);
        return;
    }
    struct cell *cell = next_cell(table);
    cell->kind = CELL_NUMBER;
    cell->number = number;
    char text[64];
    (void)snprintf(text, sizeof text, format, number);
    cell->text = need(strdup(text));
}
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

void mb_table_count(struct mb_table *table, size_t count)
{
    struct cell *cell = next_cell(table);
    cell->kind = CELL_COUNT;
    cell->count = count;
    char text[32];
    (void)snprintf(text, sizeof text, "%zu", count);
    cell->text = need(strdup(text));
}

void mb_table_mark(struct mb_table *table)
{
    if (table->cells >= table->columns && table->columns > 0)
        table->cell[table->cells - table->columns].marked = true;
}

/* ---- text ---- */

static bool continues(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

static size_t width_of(const char *text)
{
    size_t width = 0;
    for (; *text != '\0'; text++)
        width += !continues(*text);
    return width;
}

static size_t line_width(const struct mb_table *table, const size_t *width)
{
    size_t total = 0;
    for (size_t c = 0; c < table->columns; c++)
        if (width[c] > 0)
            total += width[c] + (total > 0 ? GAP : 0);
    return total;
}

/* Column widths that fit into `room`; 0 leaves a column out. */
static void fit_columns(const struct mb_table *table, size_t room, size_t *width)
{
    for (size_t c = 0; c < table->columns; c++) {
        width[c] = table->column[c].title != NULL ? width_of(table->column[c].title) : 0;
        for (size_t i = c; table->column[c].title != NULL && i < table->cells;
             i += table->columns) {
            const size_t w = width_of(table->cell[i].text);
            width[c] = w > width[c] ? w : width[c];
        }
    }
    while (line_width(table, width) > room) {
        size_t widest = table->columns;
        for (size_t c = 0; c < table->columns; c++)
            if (table->column[c].align == MB_ALIGN_LEFT && width[c] > NARROWEST &&
                (widest == table->columns || width[c] > width[widest]))
                widest = c;
        if (widest < table->columns) {
            width[widest]--;
            continue;
        }
        size_t last = table->columns - 1;
        while (last > 0 && width[last] == 0)
            last--;
        if (last == 0)
            return;
        width[last] = 0;
    }
}

/* A text in a column, cut with "~" where it is too long. */
static void print_cell(FILE *out, const char *text, size_t width, enum mb_align align, bool last)
{
    const size_t length = width_of(text);
    const int pad = length < width ? (int)(width - length) : 0;
    if (align == MB_ALIGN_RIGHT)
        (void)fprintf(out, "%*s", pad, "");
    size_t shown = 0;
    for (const char *at = text; *at != '\0'; at++) {
        shown += !continues(*at);
        if (length > width && shown >= width) {
            (void)fputc('~', out);
            break;
        }
        (void)fputc(*at, out);
    }
    if (align == MB_ALIGN_LEFT && !last)
        (void)fprintf(out, "%*s", pad, "");
}

static size_t last_column(const struct mb_table *table, const size_t *width)
{
    size_t last = 0;
    for (size_t c = 0; c < table->columns; c++)
        if (width[c] > 0)
            last = c;
    return last;
}

/* row 0 is the titles. */
static void print_row(const struct mb_table *table, FILE *out, const size_t *width, size_t row)
{
    const size_t last = last_column(table, width);
    bool first = true;
    for (size_t c = 0; c < table->columns; c++) {
        if (width[c] == 0)
            continue;
        if (!first)
            (void)fprintf(out, "%*s", GAP, "");
        first = false;
        const char *text =
            row == 0 ? table->column[c].title : table->cell[(row - 1) * table->columns + c].text;
        print_cell(out, text, width[c], table->column[c].align, c == last);
    }
}

void mb_table_print(const struct mb_table *table, FILE *out)
{
    size_t width[MOST_COLUMNS];
    if (table->columns == 0)
        return;
    fit_columns(table, mb_terminal_width(out), width);
    const bool colours = mb_terminal_colours(out);
    const size_t rows = table->cells / table->columns;
    for (size_t r = 0; r <= rows; r++) {
        const bool bold = colours && (r == 0 || table->cell[(r - 1) * table->columns].marked);
        (void)fputs(bold ? (r == 0 ? "\033[2m" : "\033[1m") : "", out);
        print_row(table, out, width, r);
        (void)fputs(bold ? "\033[0m\n" : "\n", out);
    }
    for (size_t c = 0; c < table->columns; c++) {
        if (width[c] == 0 && table->column[c].title != NULL) {
            (void)fprintf(out, "(columns from '%s' on need a wider terminal)\n",
                          table->column[c].title);
            break;
        }
    }
}

json_t *mb_table_json(const struct mb_table *table)
{
    json_t *rows = need(json_array());
    for (size_t i = 0; table->columns > 0 && i + table->columns <= table->cells;
         i += table->columns) {
        json_t *row = need(json_object());
        for (size_t c = 0; c < table->columns; c++) {
            const struct cell *cell = &table->cell[i + c];
            json_t *value = cell->kind == CELL_TEXT     ? json_string(cell->text)
                            : cell->kind == CELL_NUMBER ? json_real(cell->number)
                            : cell->kind == CELL_COUNT  ? json_integer((json_int_t)cell->count)
                                                        : json_null();
            (void)json_object_set_new(row, table->column[c].key, need(value));
        }
        (void)json_array_append_new(rows, row);
    }
    return rows;
}

enum mb_status mb_print_json(struct mb_cli *cli, json_t *root)
{
    char *text = root != NULL ? json_dumps(root, JSON_INDENT(2) | JSON_ENCODE_ANY) : NULL;
    json_decref(root);
    if (text == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory while writing JSON");
    (void)puts(text);
    free(text);
    return MB_OK;
}

char *mb_text_bytes(double bytes, char text[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    for (; bytes >= 1000 && unit < 4; unit++)
        bytes /= 1000;
    (void)snprintf(text, 32, unit == 0 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
    return text;
}
