/* SPDX-License-Identifier: Apache-2.0 */
/* Columns of a packed matrix, so that 32 neighbours always share a scale. They do where blocks are
 * that wide and in order. Else (g_idx, blocks of 16) columns are sorted by block and every block is
 * filled up to a multiple of 32 with columns that nothing is multiplied by: activations are
 * gathered in that order, and all else is as ever. */
#include "columns.h"

#include <stdlib.h>

static size_t block_of(const struct mb_ort_node *node, const int32_t *groups, size_t column)
{
    return groups != NULL ? (size_t)groups[column] : column / node->block;
}

static bool is_in_order(const struct mb_ort_node *node, const int32_t *groups)
{
    if (node->block < MB_ORT_GROUP)
        return false;
    for (size_t i = 0; i < node->k && groups != NULL; i++)
        if ((size_t)groups[i] != i / node->block)
            return false;
    return true;
}

static bool allocate(struct mb_ort_columns *columns, bool with_source)
{
    columns->block = malloc(columns->count / MB_ORT_GROUP * sizeof *columns->block);
    columns->source = with_source ? malloc(columns->count * sizeof *columns->source) : NULL;
    return columns->block != NULL && (columns->source != NULL || !with_source);
}

/* `next` has the place of each block's next column. */
static void sort(const struct mb_ort_node *node, const int32_t *groups, size_t *next,
                 struct mb_ort_columns *columns)
{
    size_t at = 0;
    for (size_t b = 0; b < node->blocks; b++) {
        const size_t width = mb_ort_round_up(next[b], MB_ORT_GROUP);
        for (size_t i = at; i < at + width; i++) {
            columns->source[i] = MB_ORT_NOTHING;
            columns->block[i / MB_ORT_GROUP] = (uint32_t)b;
        }
        next[b] = at;
        at += width;
    }
    for (size_t i = 0; i < node->k; i++)
        columns->source[next[block_of(node, groups, i)]++] = (uint32_t)i;
}

bool mb_ort_make_columns(const struct mb_ort_node *node, const int32_t *groups,
                         struct mb_ort_columns *columns)
{
    *columns = (struct mb_ort_columns){.count = mb_ort_round_up(node->k, MB_ORT_GROUP)};
    if (is_in_order(node, groups)) {
        if (!allocate(columns, false))
            return false;
        for (size_t i = 0; i < columns->count; i += MB_ORT_GROUP)
            columns->block[i / MB_ORT_GROUP] = (uint32_t)(i / node->block);
        return true;
    }
    size_t *widths = calloc(node->blocks, sizeof *widths);
    if (widths == NULL)
        return false;
    for (size_t i = 0; i < node->k; i++)
        widths[block_of(node, groups, i)]++;
    columns->count = 0;
    for (size_t b = 0; b < node->blocks; b++)
        columns->count += mb_ort_round_up(widths[b], MB_ORT_GROUP);
    const bool ok = allocate(columns, true);
    if (ok)
        sort(node, groups, widths, columns);
    free(widths);
    return ok;
}

void mb_ort_free_columns(struct mb_ort_columns *columns)
{
    free(columns->source);
    free(columns->block);
    *columns = (struct mb_ort_columns){0};
}
