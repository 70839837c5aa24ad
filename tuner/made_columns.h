/* SPDX-License-Identifier: Apache-2.0 */
/* Columns of a codebook matrix that is made up to be timed: widths as somebody wants them, the
 * widest first, as the encoder stores them; levels evenly apart, scales for groups of 128 unless
 * codebooks are the columns' own. */
#ifndef MIXBIT_TUNER_MADE_COLUMNS_H
#define MIXBIT_TUNER_MADE_COLUMNS_H

#include "mixbit/codebook.h"

#include <stdbool.h>

struct mb_made_columns {
    struct mb_codebook_columns columns; /* largest_scale is 1 */
    float levels[MB_CODEBOOK_MOST_BITS + 1][1 << MB_CODEBOOK_MOST_BITS];
    uint8_t *bits;
    uint32_t *group;
    float *column_levels;
};

/* width(arg, column): falling. by_column: with a codebook for each, no scales. MB_ERR_MEMORY. Free
 * it in any case. */
enum mb_status mb_columns_make(struct mb_made_columns *made, size_t n, size_t k, bool by_column,
                               unsigned (*width)(const void *arg, size_t column), const void *arg);
void mb_columns_free(struct mb_made_columns *made);

#endif
