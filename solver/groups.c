/* SPDX-License-Identifier: Apache-2.0 */
/* Equality groups: units that must share a format are merged into one before solving.
 *
 * A merged candidate is a format that every member can have, each in what the format falls back to
 * at its own row length; its figures are sums. So an equality constraint costs the solver nothing:
 * there are fewer units, and what is optimal for them is optimal among the mixes that hold it. */
#include "mixbit/plan.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The unit's candidate for a format asked of its group; SIZE_MAX: none. */
static size_t candidate_for(const struct mb_unit *unit, enum mb_format asked)
{
    const enum mb_format stored = mb_format_fit(asked, unit->k);
    for (size_t c = 0; c < unit->candidate_count; c++)
        if (unit->candidates[c].format == stored)
            return c;
    return SIZE_MAX;
}

/* Two formats that every member stores alike are one candidate. */
static bool is_known(const struct mb_unit *merged, const struct mb_problem *problem,
                     const size_t *unit_of, size_t index, enum mb_format asked)
{
    for (size_t c = 0; c < merged->candidate_count; c++) {
        bool same = true;
        for (size_t u = 0; same && u < problem->unit_count; u++)
            same = unit_of[u] != index ||
                   mb_format_fit(merged->candidates[c].format, problem->units[u].k) ==
                       mb_format_fit(asked, problem->units[u].k);
        if (same)
            return true;
    }
    return false;
}

/* Add the format to merged unit `index` when all its members have it. */
static void add_format(const struct mb_problem *problem, const size_t *unit_of, size_t index,
                       enum mb_format asked, struct mb_unit *merged)
{
    struct mb_candidate sum = {.format = asked};
    for (size_t u = 0; u < problem->unit_count; u++) {
        if (unit_of[u] != index)
            continue;
        const size_t c = candidate_for(&problem->units[u], asked);
        if (c == SIZE_MAX)
            return;
        const struct mb_candidate *one = &problem->units[u].candidates[c];
        sum.bytes += one->bytes;
        sum.decode_ns += one->decode_ns;
        sum.prefill_ns += one->prefill_ns;
        sum.loss += one->loss;
        sum.loss_low += one->loss_low;
        sum.loss_high += one->loss_high;
    }
    if (!is_known(merged, problem, unit_of, index, asked))
        merged->candidates[merged->candidate_count++] = sum;
}

/* Number groups in the order of their first members; how many there are. */
static size_t number_groups(const struct mb_problem *problem, const size_t *group, size_t *unit_of)
{
    size_t count = 0;
    for (size_t u = 0; u < problem->unit_count; u++) {
        size_t first = 0;
        while (group[first] != group[u])
            first++;
        unit_of[u] = first == u ? count++ : unit_of[first];
    }
    return count;
}

static enum mb_status merge_unit(const struct mb_problem *problem, const size_t *unit_of,
                                 size_t index, struct mb_unit *merged, struct mb_error *error)
{
    size_t members = 0, room = 0, last = 0;
    merged->is_embedding = 1;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        if (unit_of[u] != index)
            continue;
        if (members++ == 0) {
            memcpy(merged->name, unit->name, sizeof merged->name);
            merged->tensor = unit->tensor;
            merged->n = unit->n;
            merged->k = unit->k;
        }
        merged->is_embedding = merged->is_embedding && unit->is_embedding;
        merged->is_output = merged->is_output || unit->is_output;
        room += unit->candidate_count;
        last = u;
    }
    merged->candidates = calloc(room + 1, sizeof *merged->candidates);
    if (merged->candidates == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu candidates", room);
    for (size_t u = 0; u < problem->unit_count; u++)
        for (size_t c = 0; unit_of[u] == index && c < problem->units[u].candidate_count; c++)
            add_format(problem, unit_of, index, problem->units[u].candidates[c].format, merged);
    if (merged->candidate_count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "%s and %s are to share a format, but no candidate is one that all %zu "
                            "tensors of their group can have: pins and exclusions leave none",
                            merged->name, problem->units[last].name, members);
    return MB_OK;
}

enum mb_status mb_group_units(const struct mb_problem *problem, const size_t *group,
                              struct mb_grouping *grouping, struct mb_error *error)
{
    struct mb_problem *merged = calloc(1, sizeof *merged);
    size_t *unit_of = calloc(problem->unit_count + 1, sizeof *unit_of);
    *grouping = (struct mb_grouping){.problem = merged, .unit_of = unit_of};
    if (merged != NULL)
        merged->units = calloc(problem->unit_count + 1, sizeof *merged->units);
    if (merged == NULL || merged->units == NULL || unit_of == NULL) {
        mb_grouping_free(grouping);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu units",
                            problem->unit_count);
    }
    merged->unit_count = number_groups(problem, group, unit_of);
    memcpy(merged->fixed, problem->fixed, sizeof merged->fixed);
    enum mb_status status = MB_OK;
    for (size_t i = 0; status == MB_OK && i < merged->unit_count; i++)
        status = merge_unit(problem, unit_of, i, &merged->units[i], error);
    if (status != MB_OK)
        mb_grouping_free(grouping);
    return status;
}

void mb_grouping_free(struct mb_grouping *grouping)
{
    if (grouping == NULL)
        return;
    mb_problem_free(grouping->problem);
    free(grouping->unit_of);
    *grouping = (struct mb_grouping){NULL, NULL};
}

void mb_grouping_expand(const struct mb_problem *problem, const struct mb_grouping *grouping,
                        const size_t *merged, size_t *choice)
{
    for (size_t u = 0; u < problem->unit_count; u++) {
        const size_t index = grouping->unit_of[u];
        const struct mb_unit *unit = &grouping->problem->units[index];
        choice[u] = candidate_for(&problem->units[u], unit->candidates[merged[index]].format);
    }
}

int mb_grouping_merge(const struct mb_problem *problem, const struct mb_grouping *grouping,
                      const size_t *choice, size_t *merged)
{
    for (size_t i = 0; i < grouping->problem->unit_count; i++) {
        const struct mb_unit *unit = &grouping->problem->units[i];
        size_t c = 0;
        for (; c < unit->candidate_count; c++) {
            bool same = true;
            for (size_t u = 0; same && u < problem->unit_count; u++)
                same = grouping->unit_of[u] != i ||
                       candidate_for(&problem->units[u], unit->candidates[c].format) == choice[u];
            if (same)
                break;
        }
        if (c == unit->candidate_count)
            return 0;
        merged[i] = c;
    }
    return 1;
}
