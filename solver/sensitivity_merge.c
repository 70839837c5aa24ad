/* SPDX-License-Identifier: Apache-2.0 */
/* One table from its shards. Every shards-th unit belongs to a shard, so which file a row comes
 * from follows from its place, and a merged table holds the bits of a run without shards. */
#include "mixbit/sensitivity.h"
#include "solver/numbers.h"

#include <stdlib.h>
#include <string.h>

/* The first property in which b is of another job than a; NULL: none. */
static const char *difference(const struct mb_sensitivity *a, const struct mb_sensitivity *b)
{
    if (strcmp(a->model_hash, b->model_hash) != 0)
        return "model";
    if (strcmp(a->text_hash, b->text_hash) != 0)
        return "text";
    if (strcmp(a->importance_hash, b->importance_hash) != 0)
        return "imatrix";
    if (strcmp(a->feedback_hash, b->feedback_hash) != 0)
        return "encoder";
    if (strcmp(a->method, b->method) != 0 || strcmp(a->numerics, b->numerics) != 0)
        return "method";
    if (a->windows != b->windows || a->window != b->window || a->tokens != b->tokens)
        return "number of windows or tokens";
    if (a->shards != b->shards)
        return "number of shards";
    if (a->format_count != b->format_count ||
        memcmp(a->formats, b->formats, a->format_count * sizeof *a->formats) != 0)
        return "list of formats";
    if (a->noise_floor != b->noise_floor)
        return "noise floor";
    bool same = a->unit_count == b->unit_count;
    for (size_t u = 0; same && u < a->unit_count; u++)
        same = strcmp(a->units[u], b->units[u]) == 0;
    return same ? NULL : "list of tensors";
}

static const char *name_of(const char *const *names, size_t i)
{
    return names != NULL ? names[i] : "a table";
}

/* by_shard[s]: index of the table of shard s + 1. */
static enum mb_status place(const struct mb_sensitivity *const *tables, size_t count,
                            const char *const *names, size_t *by_shard, struct mb_error *error)
{
    const size_t shards = tables[0]->shards;
    for (size_t i = 0; i < count; i++) {
        const char *what = difference(tables[0], tables[i]);
        if (what != NULL)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "'%.120s' and '%.120s' are not of one job: another %s",
                                name_of(names, 0), name_of(names, i), what);
        size_t *slot = &by_shard[tables[i]->shard - 1];
        if (*slot != SIZE_MAX)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "shard %zu/%zu is given twice: '%.120s' and '%.120s'",
                                tables[i]->shard, shards, name_of(names, *slot), name_of(names, i));
        *slot = i;
    }
    for (size_t s = 0; s < shards; s++)
        if (by_shard[s] == SIZE_MAX)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "shard %zu/%zu is missing; sense it with --shard %zu/%zu", s + 1,
                                shards, s + 1, shards);
    return MB_OK;
}

enum mb_status mb_sensitivity_merge(const struct mb_sensitivity *const *tables, size_t count,
                                    const char *const *names, struct mb_sensitivity **table,
                                    struct mb_error *error)
{
    *table = NULL;
    for (size_t i = 0; i < count; i++)
        if (tables[i]->shards == 0 || tables[i]->shard == 0 || tables[i]->shard > tables[i]->shards)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "'%.120s' is no shard, but a whole table", name_of(names, i));
    if (count == 0 || tables[0]->shards > tables[0]->unit_count)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "no shards to merge");
    const struct mb_sensitivity *first = tables[0];
    size_t *by_shard = malloc(first->shards * sizeof *by_shard);
    struct mb_sensitivity *made = NULL;
    enum mb_status status = MB_ERR_MEMORY;
    if (by_shard != NULL) {
        memset(by_shard, 0xff, first->shards * sizeof *by_shard);
        status = place(tables, count, names, by_shard, error);
        if (status == MB_OK)
            status = mb_sensitivity_create(first->unit_count, (const char *const *)first->units,
                                           first->format_count, first->formats, &made);
    }
    if (status == MB_ERR_MEMORY)
        mb_error_set(error, status, -1, "out of memory for the sensitivity table");
    if (status == MB_OK) {
        struct mb_sensitivity header = *first;
        header.shard = header.shards = 0;
        header.units = made->units;
        header.formats = made->formats;
        header.losses = made->losses;
        *made = header;
        for (size_t u = 0; u < made->unit_count; u++)
            memcpy(&made->losses[u * made->format_count],
                   &tables[by_shard[u % first->shards]]->losses[u * made->format_count],
                   made->format_count * sizeof *made->losses);
        *table = made;
    }
    free(by_shard);
    return status;
}
