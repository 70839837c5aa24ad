/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of codebook matrices: arguments are checked, columns cut into runs, and floats turned
 * into what kernels read. */
#include "dispatch/codebook.h"

#include "kernels/half.h"
#include "support/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_K = (1 << 28) - 1, ROWS = MB_PANEL_ROWS };

/* ---- parts ---- */

/* `count` elements behind what there is so far. */
static bool add_part(size_t *bytes, size_t count, size_t each, size_t *offset)
{
    size_t size;
    *offset = *bytes;
    return mb_mul_size(count, each, &size) && mb_add_size(size, 63, &size) &&
           mb_add_size(*bytes, size / 64 * 64, bytes);
}

bool mb_codebook_parts(const struct mb_codebook_weights *w, struct mb_codebook_parts *parts)
{
    const size_t panels = w->rows / ROWS + (w->rows % ROWS != 0);
    const size_t groups = w->groups > 0 ? w->groups : 1;
    size_t bytes = 0, at[9];
    if (!add_part(&bytes, w->run_count, sizeof *parts->runs, &at[0]) ||
        !add_part(&bytes, w->padded_k, sizeof *parts->index, &at[1]) ||
        !add_part(&bytes, w->padded_k / MB_CHUNK_K, sizeof *parts->factor, &at[2]) ||
        !add_part(&bytes, w->by_column ? w->padded_k : 0, sizeof *parts->unit, &at[3]) ||
        !add_part(&bytes, w->table_bytes, 1, &at[4]) ||
        !add_part(&bytes, groups, sizeof *parts->group_scale, &at[5]) ||
        !add_part(&bytes, panels + 1, sizeof *parts->outlier_first, &at[6]) ||
        !add_part(&bytes, w->outliers, sizeof *parts->outliers, &at[7]) ||
        !add_part(&bytes, panels, w->panel_bytes, &at[8]))
        return false;
    uint8_t *data = w->data;
    *parts = (struct mb_codebook_parts){.bytes = bytes};
    if (data != NULL)
        *parts = (struct mb_codebook_parts){
            .runs = (void *)(data + at[0]),
            .index = (void *)(data + at[1]),
            .factor = (void *)(data + at[2]),
            .unit = (void *)(data + at[3]),
            .tables = data + at[4],
            .group_scale = (void *)(data + at[5]),
            .outlier_first = (void *)(data + at[6]),
            .outliers = (void *)(data + at[7]),
            .panels = data + at[8],
            .bytes = bytes,
        };
    return true;
}

static bool aligned(const void *pointer) { return pointer != NULL && (uintptr_t)pointer % 64 == 0; }

enum mb_status mb_codebook_check(const struct mb_codebook_weights *w)
{
    return w == NULL || w->size != sizeof *w || !aligned(w->data) || w->row0 + w->n > w->rows
               ? MB_ERR_ARGUMENT
               : MB_OK;
}

/* ---- runs ---- */

static enum mb_status check_columns(const struct mb_codebook_columns *c)
{
    if (c == NULL || c->size != sizeof *c)
        return MB_ERR_ARGUMENT;
    if (c->n == 0 || c->k == 0 || c->k > MOST_K || c->n > SIZE_MAX - ROWS)
        return MB_ERR_SHAPE;
    if (c->bits == NULL || c->outliers > UINT32_MAX)
        return MB_ERR_ARGUMENT;
    for (size_t i = 0; i < c->k; i++)
        if (c->bits[i] < 1 || c->bits[i] > MB_CODEBOOK_MOST_BITS ||
            (c->column_levels == NULL && c->levels[c->bits[i]] == NULL) ||
            (c->group != NULL && c->group[i] >= (c->groups > 0 ? c->groups : 1)) ||
            (c->order != NULL && c->order[i] >= c->k))
            return MB_ERR_ARGUMENT;
    return MB_OK;
}

static bool same_run(const struct mb_codebook_columns *c, size_t i, size_t j)
{
    return c->bits[i] == c->bits[j] && (c->group == NULL || c->group[i] == c->group[j]);
}

/* Columns of the run that starts at column i. */
static size_t run_length(const struct mb_codebook_columns *c, size_t i)
{
    size_t end = i + 1;
    while (end < c->k && same_run(c, i, end))
        end++;
    return end - i;
}

/* Chunks of the run of `count` columns from i on, `before` being in front of it. The last run makes
 * all of them an even number, since gemm takes super-blocks of two. */
static uint32_t run_chunks(const struct mb_codebook_columns *c, size_t i, size_t count,
                           uint64_t before)
{
    const uint32_t chunks = (uint32_t)((count + MB_CHUNK_K - 1) / MB_CHUNK_K);
    return i + count == c->k && (before + chunks) % 2 != 0 ? chunks + 1 : chunks;
}

/* Widths that are looked up as they are multiplied; others are as they are packed. */
static bool is_narrow(bool by_column, unsigned bits)
{
    return bits <= (by_column ? MB_CODEBOOK_COLUMN_NARROW : MB_CODEBOOK_NARROW);
}

static enum mb_coding coding_of(bool by_column, unsigned bits)
{
    const unsigned first = by_column ? MB_CODING_CC1 : MB_CODING_CB1;
    return is_narrow(by_column, bits) ? (enum mb_coding)(first + bits - 1) : MB_CODING_B8;
}

/* Bytes of the table of one column, or of a width; where that of column j of a run begins. */
static size_t table_size(bool by_column, unsigned bits)
{
    if (!is_narrow(by_column, bits))
        return (size_t)1 << bits;
    return by_column ? mb_coding_quad_table(coding_of(by_column, bits)) / 4 : MB_CODEBOOK_TABLE;
}
static size_t table_at(bool by_column, const struct mb_codebook_run *run, size_t j)
{
    const enum mb_coding coding = (enum mb_coding)run->coding;
    if (!by_column)
        return run->table;
    return run->table + (coding == MB_CODING_B8
                             ? j << run->bits
                             : j / 4 * mb_coding_quad_table(coding) + (j % 4 << run->bits));
}
static size_t aligned_size(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Where the table of a width begins, all widths being there. */
static size_t width_table(unsigned bits)
{
    size_t at = 0;
    for (unsigned b = 1; b < bits; b++)
        at += aligned_size(table_size(false, b));
    return at;
}

/* The largest number of pairs of groups that a panel can have scales of, all being in use. */
static size_t pairs_of(const struct mb_codebook_columns *c)
{
    return c->groups > 0 ? (c->groups + 1) / 2 : 1;
}

/* Run, chunk and byte counts; false: a panel does not fit 32 bits. Scales of groups that are not in
 * use are counted, and have no place. */
static bool measure(const struct mb_codebook_columns *c, struct mb_codebook_weights *w)
{
    const bool by_column = c->column_levels != NULL;
    uint64_t chunks = 0, tables = 0, bytes = (uint64_t)pairs_of(c) * MB_CODEBOOK_SCALES;
    *w = (struct mb_codebook_weights){.size = sizeof *w,
                                      .by_column = by_column,
                                      .n = c->n,
                                      .k = c->k,
                                      .groups = c->groups,
                                      .outliers = c->outliers,
                                      .rows = c->n};
    if (c->groups > MOST_K)
        return false;
    for (size_t i = 0, count; i < c->k; i += count) {
        count = run_length(c, i);
        const uint32_t more = run_chunks(c, i, count, chunks);
        w->run_count++;
        chunks += more;
        bytes += (uint64_t)more *
                 mb_superblock_layout(coding_of(by_column, c->bits[i]), MB_SCALE_G32).chunk_bytes;
        tables +=
            by_column ? aligned_size((size_t)more * MB_CHUNK_K * table_size(true, c->bits[i])) : 0;
    }
    if (bytes > UINT32_MAX || tables > UINT32_MAX || chunks * MB_CHUNK_K > MOST_K)
        return false;
    w->table_bytes = by_column ? (size_t)tables : width_table(MB_CODEBOOK_MOST_BITS + 1);
    w->padded_k = (size_t)chunks * MB_CHUNK_K;
    w->panel_bytes = (size_t)bytes;
    return true;
}

enum mb_status mb_codebook_size(const struct mb_codebook_columns *columns, size_t *bytes)
{
    struct mb_codebook_weights weights;
    struct mb_codebook_parts parts;
    const enum mb_status status = bytes != NULL ? check_columns(columns) : MB_ERR_ARGUMENT;
    if (status != MB_OK)
        return status;
    if (!measure(columns, &weights) || !mb_codebook_parts(&weights, &parts))
        return MB_ERR_SHAPE;
    *bytes = parts.bytes;
    return MB_OK;
}

/* Where the scales of a group lie: the next half of a pair, of which `halves` are taken. `at` is
 * where the panel ends so far. */
static uint32_t place_scales(uint32_t *group_scale, size_t *halves, uint32_t *pair, uint32_t *at)
{
    if (*group_scale == UINT32_MAX) {
        if (*halves % 2 == 0) {
            *pair = *at;
            *at += MB_CODEBOOK_SCALES;
        }
        *group_scale = *pair + (uint32_t)(*halves % 2) * MB_CODEBOOK_SCALES / 2;
        ++*halves;
    }
    return *group_scale;
}

static void cut_runs(const struct mb_codebook_columns *c, const struct mb_codebook_parts *parts,
                     float scale_unit)
{
    const bool by_column = c->column_levels != NULL;
    struct mb_codebook_run *run = parts->runs;
    uint32_t at = 0, chunk = 0, pair = 0;
    size_t halves = 0, table = 0;
    for (size_t g = 0; g < (c->groups > 0 ? c->groups : 1); g++)
        parts->group_scale[g] = UINT32_MAX;
    for (size_t i = 0, count; i < c->k; i += count, run++) {
        const unsigned bits = c->bits[i];
        const enum mb_coding coding = coding_of(by_column, bits);
        count = run_length(c, i);
        run->scale = place_scales(&parts->group_scale[c->group != NULL ? c->group[i] : 0], &halves,
                                  &pair, &at);
        run->codes = at;
        run->chunk = chunk;
        run->chunks = run_chunks(c, i, count, chunk);
        run->table = (uint32_t)(by_column ? table : width_table(bits));
        run->coding = (uint16_t)coding;
        run->bits = (uint16_t)bits;
        at += run->chunks * mb_superblock_layout(coding, MB_SCALE_G32).chunk_bytes;
        table += aligned_size((size_t)run->chunks * MB_CHUNK_K * table_size(true, bits));
        for (uint32_t j = 0; j < run->chunks * MB_CHUNK_K; j++)
            parts->index[(size_t)chunk * MB_CHUNK_K + j] = j >= count         ? UINT32_MAX
                                                           : c->order != NULL ? c->order[i + j]
                                                                              : (uint32_t)(i + j);
        for (uint32_t j = 0; j < run->chunks; j++, chunk++)
            parts->factor[chunk] = scale_unit;
    }
}

/* Marks every column in the index; false: one is not there, or twice. */
static bool is_order(const struct mb_codebook_columns *c, uint32_t *marks)
{
    for (size_t i = 0; i < c->k; i++)
        marks[i] = 0;
    for (size_t i = 0; i < c->k && c->order != NULL; i++)
        if (marks[c->order[i]]++ > 0)
            return false;
    return true;
}

/* ---- codebooks ---- */

/* One codebook as bytes, and its unit. */
static enum mb_status make_table(const float *levels, unsigned bits, uint8_t *table, float *unit)
{
    const size_t count = (size_t)1 << bits;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(levels[i]))
            return MB_ERR_ARGUMENT;
    *unit = mb_codebook_unit(levels, bits);
    for (size_t i = 0; i < count; i++)
        table[i] = mb_codebook_level(levels[i], *unit, bits);
    return MB_OK;
}

/* Those of the widths, whose units go into the factors of their chunks. */
static enum mb_status make_width_tables(const struct mb_codebook_columns *c,
                                        const struct mb_codebook_weights *w,
                                        const struct mb_codebook_parts *parts)
{
    float unit[MB_CODEBOOK_MOST_BITS + 1] = {0}; /* 0: not made yet */
    for (size_t i = 0; i < w->run_count; i++) {
        const struct mb_codebook_run *run = &parts->runs[i];
        const unsigned bits = run->bits;
        const enum mb_status status =
            unit[bits] > 0
                ? MB_OK
                : make_table(c->levels[bits], bits, parts->tables + run->table, &unit[bits]);
        if (status != MB_OK)
            return status;
        for (uint32_t j = 0; j < run->chunks; j++)
            parts->factor[run->chunk + j] *= unit[bits];
    }
    return MB_OK;
}

/* Those of the columns. What pads a run has no unit, and levels of no size. */
static enum mb_status make_column_tables(const struct mb_codebook_columns *c,
                                         const struct mb_codebook_weights *w,
                                         const struct mb_codebook_parts *parts)
{
    const float *levels = c->column_levels;
    for (size_t i = 0; i < w->run_count; i++) {
        const struct mb_codebook_run *run = &parts->runs[i];
        const size_t first = (size_t)run->chunk * MB_CHUNK_K;
        for (size_t j = 0; j < (size_t)run->chunks * MB_CHUNK_K; j++) {
            parts->unit[first + j] = 0;
            if (parts->index[first + j] == UINT32_MAX)
                continue;
            const enum mb_status status = make_table(
                levels, run->bits, parts->tables + table_at(true, run, j), &parts->unit[first + j]);
            if (status != MB_OK)
                return status;
            levels += (size_t)1 << run->bits;
        }
    }
    return MB_OK;
}

/* A power of two that takes the largest scale to [2^14, 2^15). */
static float scale_unit(const struct mb_codebook_columns *c)
{
    int exponent;
    if (c->groups == 0 || c->largest_scale == 0)
        return 1;
    (void)frexpf(c->largest_scale, &exponent);
    return ldexpf(1, exponent - 15 < -126 ? -126 : exponent - 15);
}

enum mb_status mb_codebook_init(struct mb_codebook_weights *weights,
                                const struct mb_codebook_columns *columns, void *data)
{
    struct mb_codebook_weights made;
    struct mb_codebook_parts parts;
    enum mb_status status =
        weights != NULL && aligned(data) ? check_columns(columns) : MB_ERR_ARGUMENT;
    if (status != MB_OK)
        return status;
    if (columns->groups > 0 && !(isfinite(columns->largest_scale) && columns->largest_scale >= 0))
        return MB_ERR_ARGUMENT;
    if (!measure(columns, &made))
        return MB_ERR_SHAPE;
    made.data = data;
    made.scale_unit = scale_unit(columns);
    if (!mb_codebook_parts(&made, &parts))
        return MB_ERR_SHAPE;
    if (!is_order(columns, parts.index))
        return MB_ERR_ARGUMENT;
    cut_runs(columns, &parts, made.scale_unit);
    memset(parts.tables, 128, made.table_bytes);
    status = made.by_column ? make_column_tables(columns, &made, &parts)
                            : make_width_tables(columns, &made, &parts);
    if (status != MB_OK)
        return status;
    memset(parts.outlier_first, 0, (made.n / ROWS + 2) * sizeof *parts.outlier_first);
    *weights = made;
    return MB_OK;
}

/* ---- rows ---- */

static enum mb_status check_rows(const struct mb_codebook_weights *w,
                                 const struct mb_codebook_parts *parts, const uint8_t *codes,
                                 const float *scales, size_t rows)
{
    for (size_t i = 0; i < w->run_count; i++) {
        const struct mb_codebook_run *run = &parts->runs[i];
        const size_t first = (size_t)run->chunk * MB_CHUNK_K,
                     end = first + (size_t)run->chunks * MB_CHUNK_K;
        for (size_t j = first; j < end && parts->index[j] != UINT32_MAX; j++)
            for (size_t row = 0; row < rows; row++)
                if (codes[row * w->k + parts->index[j]] >> run->bits != 0)
                    return MB_ERR_ARGUMENT;
    }
    /* 2^15 is what the largest is below. */
    for (size_t i = 0; i < rows * w->groups; i++)
        if (!(scales[i] >= 0 && scales[i] / w->scale_unit <= 0x1p15f))
            return MB_ERR_ARGUMENT;
    return MB_OK;
}

/* code: room for padded_k. `codes` NULL: a row that the matrix does not have. */
static void pack_row(const struct mb_codebook_weights *w, const struct mb_codebook_parts *parts,
                     size_t row, const uint8_t *codes, const float *scales, uint8_t *code)
{
    const struct mb_codebook book = {parts->runs, w->run_count, parts->tables, w->padded_k,
                                     w->by_column};
    uint8_t *panel = parts->panels + row / ROWS * w->panel_bytes;
    for (size_t i = 0; i < w->run_count; i++) {
        const struct mb_codebook_run *run = &parts->runs[i];
        const size_t first = (size_t)run->chunk * MB_CHUNK_K,
                     end = first + (size_t)run->chunks * MB_CHUNK_K;
        for (size_t j = first; j < end; j++) {
            const bool there = codes != NULL && parts->index[j] != UINT32_MAX;
            const uint8_t value = there ? codes[parts->index[j]] : 0;
            code[j] = run->coding == MB_CODING_B8
                          ? parts->tables[table_at(w->by_column, run, j - first) + value]
                          : value;
        }
    }
    mb_codebook_pack_lane(&book, panel, row % ROWS, code);
    for (size_t g = 0; g < (w->groups > 0 ? w->groups : 1); g++) {
        const float scale = codes == NULL ? 0 : w->groups == 0 ? 1 : scales[g] / w->scale_unit;
        if (parts->group_scale[g] != UINT32_MAX)
            mb_codebook_pack_scale(panel + parts->group_scale[g], row % ROWS,
                                   mb_half_from_float(scale));
    }
}

enum mb_status mb_codebook_pack_rows(const struct mb_codebook_weights *weights,
                                     const uint8_t *codes, const float *scales, size_t row0,
                                     size_t row1)
{
    struct mb_codebook_parts parts;
    enum mb_status status = mb_codebook_check(weights);
    if (status != MB_OK || row0 > row1 || row1 > weights->n)
        return status != MB_OK ? status : MB_ERR_SHAPE;
    if (row0 == row1)
        return MB_OK;
    if (codes == NULL || (scales == NULL && weights->groups > 0))
        return MB_ERR_ARGUMENT;
    (void)mb_codebook_parts(weights, &parts);
    status = check_rows(weights, &parts, codes, scales, row1 - row0);
    if (status != MB_OK)
        return status;
    uint8_t *code = malloc(weights->padded_k);
    if (code == NULL)
        return MB_ERR_MEMORY;
    for (size_t row = row0; row < row1; row++)
        pack_row(weights, &parts, weights->row0 + row, codes + (row - row0) * weights->k,
                 weights->groups > 0 ? scales + (row - row0) * weights->groups : NULL, code);
    const size_t end = weights->row0 + row1;
    for (size_t row = end; end == weights->rows && row % ROWS != 0; row++)
        pack_row(weights, &parts, row, NULL, NULL, code);
    free(code);
    return MB_OK;
}

/* ---- outliers ---- */

/* Those of a panel, [first, end) of `from`, in turns: one of each row, then the next one of each,
 * so that sums of one row are not made one right after the other. */
static void place_outliers(const struct mb_codebook_outlier_at *from, size_t first, size_t end,
                           struct mb_codebook_outlier *to)
{
    size_t next[ROWS + 1];
    for (size_t row = 0, i = first; row <= ROWS; row++) {
        while (i < end && from[i].row % ROWS < row)
            i++;
        next[row] = i;
    }
    size_t stop[ROWS];
    for (size_t row = 0; row < ROWS; row++)
        stop[row] = next[row + 1];
    for (size_t left = end - first; left > 0;)
        for (size_t row = 0; row < ROWS; row++)
            if (next[row] < stop[row]) {
                const struct mb_codebook_outlier_at *o = &from[next[row]++];
                *to++ = (struct mb_codebook_outlier){o->column * ROWS + (uint32_t)row, o->value};
                left--;
            }
}

enum mb_status mb_codebook_pack_outliers(const struct mb_codebook_weights *weights,
                                         const struct mb_codebook_outlier_at *outliers)
{
    struct mb_codebook_parts parts;
    const enum mb_status status = mb_codebook_check(weights);
    if (status != MB_OK || weights->n != weights->rows ||
        (outliers == NULL && weights->outliers > 0))
        return status != MB_OK ? status : MB_ERR_ARGUMENT;
    for (size_t i = 0; i < weights->outliers; i++) {
        const struct mb_codebook_outlier_at *o = &outliers[i];
        if (o->row >= weights->n || o->column >= weights->k || !isfinite(o->value) ||
            (i > 0 && (o[-1].row > o->row || (o[-1].row == o->row && o[-1].column >= o->column))))
            return MB_ERR_ARGUMENT;
    }
    (void)mb_codebook_parts(weights, &parts);
    size_t first = 0;
    for (size_t p = 0; p * ROWS < weights->n; p++) {
        size_t end = first;
        while (end < weights->outliers && outliers[end].row / ROWS == p)
            end++;
        parts.outlier_first[p] = (uint32_t)first;
        place_outliers(outliers, first, end, parts.outliers + first);
        parts.outlier_first[p + 1] = (uint32_t)end;
        first = end;
    }
    return MB_OK;
}
