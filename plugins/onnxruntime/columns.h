/* SPDX-License-Identifier: Apache-2.0 */
/* Which activation each column of a packed matrix is multiplied by. */
#ifndef MIXBIT_PLUGIN_ORT_COLUMNS_H
#define MIXBIT_PLUGIN_ORT_COLUMNS_H

#include "node.h"

enum { MB_ORT_GROUP = 32 };
static const uint32_t MB_ORT_NOTHING = UINT32_MAX;

struct mb_ort_columns {
    size_t count;     /* a multiple of MB_ORT_GROUP */
    uint32_t *source; /* [count]: an activation or MB_ORT_NOTHING; NULL: column i is activation i */
    uint32_t *block;  /* [count / MB_ORT_GROUP]: whose scale a group has */
};

/* `groups` is a checked g_idx or NULL. false: out of memory; free what there is. */
bool mb_ort_make_columns(const struct mb_ort_node *node, const int32_t *groups,
                         struct mb_ort_columns *columns);
void mb_ort_free_columns(struct mb_ort_columns *columns);

#endif
