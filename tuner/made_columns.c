/* SPDX-License-Identifier: Apache-2.0 */
/* See made_columns.h. */
#include "tuner/made_columns.h"

#include <stdlib.h>

enum { GROUP = 128 };

/* The levels of its width for every column. */
static enum mb_status repeat_levels(struct mb_made_columns *made)
{
    size_t count = 0, at = 0;
    for (size_t i = 0; i < made->columns.k; i++)
        count += (size_t)1 << made->bits[i];
    made->column_levels = malloc(count * sizeof *made->column_levels);
    if (made->column_levels == NULL)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < made->columns.k; i++)
        for (size_t level = 0; level < (size_t)1 << made->bits[i]; level++)
            made->column_levels[at++] = made->levels[made->bits[i]][level];
    made->columns.column_levels = made->column_levels;
    return MB_OK;
}

enum mb_status mb_columns_make(struct mb_made_columns *made, size_t n, size_t k, bool by_column,
                               unsigned (*width)(const void *arg, size_t column), const void *arg)
{
    made->bits = malloc(k);
    made->group = malloc(k * sizeof *made->group);
    if (made->bits == NULL || made->group == NULL)
        return MB_ERR_MEMORY;
    made->columns = (struct mb_codebook_columns){.size = sizeof made->columns,
                                                 .n = n,
                                                 .k = k,
                                                 .bits = made->bits,
                                                 .group = by_column ? NULL : made->group,
                                                 .groups = by_column ? 0 : (k + GROUP - 1) / GROUP,
                                                 .largest_scale = 1};
    for (size_t i = 0; i < k; i++) {
        made->bits[i] = (uint8_t)width(arg, i);
        made->group[i] = (uint32_t)(i / GROUP);
    }
    for (unsigned b = 1; b <= MB_CODEBOOK_MOST_BITS; b++) {
        const double count = (double)(1u << b);
        for (size_t i = 0; i < (size_t)1 << b; i++)
            made->levels[b][i] = (float)((2 * (double)i + 1) / count - 1);
        made->columns.levels[b] = made->levels[b];
    }
    return by_column ? repeat_levels(made) : MB_OK;
}

void mb_columns_free(struct mb_made_columns *made)
{
    free(made->bits);
    free(made->group);
    free(made->column_levels);
}
