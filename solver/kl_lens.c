/* SPDX-License-Identifier: Apache-2.0 */
/* KL Lens's two allocators (arXiv 2604.13440) on our table, to be compared with the exact solver.
 *
 * Both are greedy along one list of (unit, format) entries by ascending loss. The paper has two
 * widths and fp16; here every format is an entry, and one that would not make its unit smaller is
 * passed over, which is what "a later 4-bit entry overwrites an earlier 8-bit one" comes to. The
 * paper's guard re-measures perplexity after each step; from a table it can only be predicted:
 * ln perplexity moves with the sum of losses. A reconstruction, then; what is open is an option. */
#include "solver/solve.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAPER_GAMMA 1.10
#define PAPER_CUTS 10

struct entry {
    size_t unit, candidate;
    double loss;
};

static int by_loss(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->loss < y->loss || x->loss > y->loss)
        return x->loss < y->loss ? -1 : 1;
    if (x->unit != y->unit)
        return x->unit < y->unit ? -1 : 1;
    return x->candidate < y->candidate ? -1 : x->candidate > y->candidate;
}

static const struct mb_candidate *at(const struct mb_problem *problem, size_t unit, size_t c)
{
    return &problem->units[unit].candidates[c];
}

/* Every unit where it loses least, of equal ones the smaller; the other candidates as the list. */
static size_t start(const struct mb_problem *problem, size_t *choice, struct entry *list)
{
    size_t count = 0;
    for (size_t u = 0; u < problem->unit_count; u++) {
        choice[u] = 0;
        for (size_t c = 1; c < problem->units[u].candidate_count; c++) {
            const struct mb_candidate *one = at(problem, u, c), *best = at(problem, u, choice[u]);
            if (one->loss < best->loss || (one->loss <= best->loss && one->bytes < best->bytes))
                choice[u] = c;
        }
        for (size_t c = 0; c < problem->units[u].candidate_count; c++)
            if (c != choice[u])
                list[count++] = (struct entry){u, c, at(problem, u, c)->loss};
    }
    qsort(list, count, sizeof *list, by_loss);
    return count;
}

/* Take an entry that makes its unit smaller; keeps the totals. */
static bool take(const struct mb_problem *problem, const struct entry *entry, size_t *choice,
                 double *bytes)
{
    const double now = at(problem, entry->unit, choice[entry->unit])->bytes;
    const double next = at(problem, entry->unit, entry->candidate)->bytes;
    if (next >= now)
        return false;
    *bytes += next - now;
    choice[entry->unit] = entry->candidate;
    return true;
}

static double total_bytes(const struct mb_problem *problem, const size_t *choice)
{
    double total[MB_QUANTITY_COUNT];
    mb_problem_totals(problem, choice, total);
    return total[MB_QUANTITY_BYTES];
}

/* A: while the predicted perplexity stays within gamma of the reference. */
static bool walk_guarded(const struct mb_problem *problem, const struct mb_kl_lens_options *options,
                         const struct entry *list, size_t count, size_t *choice)
{
    const double most = log(options->gamma > 0 ? options->gamma : PAPER_GAMMA);
    double bytes = total_bytes(problem, choice), above = 0; /* ln perplexity over the reference */
    for (size_t i = 0; i < count; i++) {
        if (options->max_bytes > 0 && bytes <= options->max_bytes)
            break;
        const double loss = at(problem, list[i].unit, choice[list[i].unit])->loss;
        const double step = list[i].loss - loss;
        if (above + step > most || !take(problem, &list[i], choice, &bytes))
            continue;
        above = options->fixed_reference ? above + step : 0;
    }
    return options->max_bytes <= 0 || bytes <= options->max_bytes;
}

/* B: everything before a cut. */
static bool walk_to_cut(const struct mb_problem *problem, const struct mb_kl_lens_options *options,
                        const struct entry *list, size_t count, size_t *choice)
{
    const size_t cuts = options->cuts > 0 ? options->cuts : PAPER_CUTS;
    const size_t segment = count > 0 ? (count - 1) / cuts : 0;
    double bytes = total_bytes(problem, choice);
    size_t i = 0;
    for (size_t cut = 1; cut <= cuts; cut++) {
        for (; i < cut * segment; i++)
            (void)take(problem, &list[i], choice, &bytes);
        if (cut == options->cut)
            return options->max_bytes <= 0 || bytes <= options->max_bytes;
        if (options->cut == 0 && options->max_bytes > 0 && bytes <= options->max_bytes)
            return true;
    }
    return options->max_bytes <= 0;
}

enum mb_status mb_solve_kl_lens(const struct mb_problem *problem,
                                const struct mb_kl_lens_options *options,
                                struct mb_solution *solution, struct mb_error *error)
{
    double limit[MB_QUANTITY_COUNT];
    const struct mb_budget budget = {{[MB_QUANTITY_BYTES] = options->max_bytes}};
    memset(solution, 0, sizeof *solution);
    enum mb_status status = mb_check_arguments(problem, MB_QUANTITY_LOSS, &budget, limit, error);
    if (status != MB_OK)
        return status;
    const size_t cuts = options->cuts > 0 ? options->cuts : PAPER_CUTS;
    if (options->cut > cuts || isnan(options->gamma) || options->gamma < 0 ||
        (options->gamma > 0 && options->gamma < 1))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "KL Lens: expected gamma of 1 or more and a cut of at most %zu, found "
                            "%g and %zu",
                            cuts, options->gamma, options->cut);
    size_t items = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        items += problem->units[u].candidate_count;
    size_t *choice = calloc(problem->unit_count + 1, sizeof *choice);
    struct entry *list = calloc(items + 1, sizeof *list);
    if (choice == NULL || list == NULL) {
        free(choice);
        free(list);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while solving");
    }
    const size_t count = start(problem, choice, list);
    const bool fits = options->kind == MB_KL_LENS_A
                          ? walk_guarded(problem, options, list, count, choice)
                          : walk_to_cut(problem, options, list, count, choice);
    free(list);
    mb_problem_totals(problem, choice, solution->total);
    if (!fits) {
        const char *instead = options->kind == MB_KL_LENS_A ? " or gamma" : "";
        status = mb_error_set(error, MB_ERR_INFEASIBLE, -1,
                              "KL Lens's allocator ends at %.6g MB, above the budget of %.6g MB; "
                              "raise the budget%s",
                              solution->total[MB_QUANTITY_BYTES] / 1e6, options->max_bytes / 1e6,
                              options->cut > 0 ? " or take a later cut" : instead);
        free(choice);
        return status;
    }
    solution->choice = choice;
    solution->objective = solution->total[MB_QUANTITY_LOSS];
    solution->gap = solution->objective > 0; /* nothing is proven: the bound is 0 */
    return MB_OK;
}
