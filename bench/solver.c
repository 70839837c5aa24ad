/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit-bench-solver: what a large problem takes mb_solve, and how good the answer is proven to
 * be.
 *
 *   mixbit-bench-solver [UNITS [CANDIDATES [SEEDS [GAP [SECONDS]]]]]
 *
 * By default 1,000 units x 20 candidates, three budgets, to a gap of 0.05 % within half a second.
 * Two kinds of figures: `model` (losses fall by a factor of four per bit, times follow bytes but
 * for a factor of each format) and `random` (nothing follows from anything). One line per problem.
 */
#include "mixbit/plan.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CANDIDATES_MOST = 64 };

static const char *const kinds[] = {"model", "random"};

/* xorshift64* */
static double unit_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (double)((*state * UINT64_C(2685821657736338717)) >> 11) * 0x1p-53;
}

static double between(uint64_t *state, double low, double high)
{
    return low + (high - low) * unit_random(state);
}

static void fill_unit(struct mb_unit *unit, int kind, const double *bits, const double *decode,
                      const double *prefill, uint64_t *state)
{
    const double weights = 1e5 * pow(10, between(state, 0, 2));
    const double loss = weights * pow(10, between(state, -7, -4));
    for (size_t c = 0; c < unit->candidate_count; c++) {
        struct mb_candidate *candidate = &unit->candidates[c];
        candidate->format = mb_format_at(c % mb_format_count())->id;
        if (kind == 1) {
            candidate->bytes = floor(between(state, 1, 1e6));
            candidate->decode_ns = between(state, 1, 1e6);
            candidate->prefill_ns = between(state, 1, 1e6);
            candidate->loss = between(state, 0, 1);
            continue;
        }
        candidate->bytes = floor(weights * bits[c] / 8);
        candidate->decode_ns = candidate->bytes / 20 * decode[c] * between(state, 0.97, 1.03);
        candidate->prefill_ns = weights / 500 * prefill[c] * between(state, 0.97, 1.03);
        candidate->loss = loss * pow(4, -bits[c]) * between(state, 0.5, 2);
    }
}

static struct mb_problem *make_problem(size_t units, size_t candidates, int kind, uint64_t seed)
{
    uint64_t state = UINT64_C(0x9e3779b97f4a7c15) * (seed + 1);
    double bits[CANDIDATES_MOST], decode[CANDIDATES_MOST], prefill[CANDIDATES_MOST];
    for (size_t c = 0; c < candidates; c++) {
        bits[c] = between(&state, 2, 8.5);
        decode[c] = between(&state, 0.7, 1.4);
        prefill[c] = between(&state, 0.6, 1.6);
    }
    struct mb_problem *problem = calloc(1, sizeof *problem);
    if (problem == NULL || (problem->units = calloc(units, sizeof *problem->units)) == NULL)
        exit(1);
    problem->unit_count = units;
    for (size_t u = 0; u < units; u++) {
        struct mb_unit *unit = &problem->units[u];
        unit->candidate_count = candidates;
        unit->candidates = calloc(candidates, sizeof *unit->candidates);
        if (unit->candidates == NULL)
            exit(1);
        fill_unit(unit, kind, bits, decode, prefill, &state);
    }
    return problem;
}

/* Totals when every unit takes its least bytes, decode time and prefill time. */
static void least_and_most(const struct mb_problem *problem, double least[MB_QUANTITY_COUNT],
                           double most[MB_QUANTITY_COUNT])
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        least[q] = most[q] = 0;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        double low[MB_QUANTITY_COUNT], high[MB_QUANTITY_COUNT];
        for (size_t c = 0; c < unit->candidate_count; c++) {
            const struct mb_candidate *one = &unit->candidates[c];
            const double values[MB_QUANTITY_COUNT] = {[MB_QUANTITY_LOSS] = one->loss,
                                                      [MB_QUANTITY_DECODE] = one->decode_ns,
                                                      [MB_QUANTITY_PREFILL] = one->prefill_ns,
                                                      [MB_QUANTITY_BYTES] = one->bytes};
            for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
                low[q] = c == 0 ? values[q] : fmin(low[q], values[q]);
                high[q] = c == 0 ? values[q] : fmax(high[q], values[q]);
            }
        }
        for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
            least[q] += low[q];
            most[q] += high[q];
        }
    }
}

static void run_one(size_t units, size_t candidates, int kind, uint64_t seed, double gap,
                    double seconds)
{
    struct mb_problem *problem = make_problem(units, candidates, kind, seed);
    double least[MB_QUANTITY_COUNT], most[MB_QUANTITY_COUNT];
    struct mb_budget budget = {{0}};
    struct mb_solution solution;
    struct mb_error error;
    least_and_most(problem, least, most);
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (q != MB_QUANTITY_LOSS)
            budget.max[q] = least[q] + 0.35 * (most[q] - least[q]);
    const uint64_t start = mb_now_ns();
    const enum mb_status status =
        mb_solve(problem, MB_QUANTITY_LOSS, &budget, gap, seconds, &solution, NULL, &error);
    const double ms = (double)(mb_now_ns() - start) / 1e6;
    if (status == MB_OK)
        printf("%-6s %4llu %9.1f %10.5f %12zu\n", kinds[kind], (unsigned long long)seed, ms,
               100 * solution.gap, solution.nodes);
    else
        printf("%-6s %4llu %9.1f %s\n", kinds[kind], (unsigned long long)seed, ms, error.message);
    fflush(stdout);
    mb_solution_free(&solution);
    mb_problem_free(problem);
}

int main(int argc, char **argv)
{
    const size_t units = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000;
    const size_t candidates = argc > 2 ? strtoul(argv[2], NULL, 10) : 20;
    const size_t seeds = argc > 3 ? strtoul(argv[3], NULL, 10) : 10;
    const double gap = argc > 4 ? strtod(argv[4], NULL) : 5e-4;
    const double seconds = argc > 5 ? strtod(argv[5], NULL) : 0.5;
    if (units == 0 || candidates == 0 || candidates > CANDIDATES_MOST || !(gap >= 0)) {
        fprintf(stderr,
                "usage: mixbit-bench-solver [UNITS [CANDIDATES [SEEDS [GAP [SECONDS]]]]], "
                "at most %d candidates\n",
                CANDIDATES_MOST);
        return 2;
    }
    printf("%zu units x %zu candidates, 3 budgets; to a gap of %g %% or %g s\n", units, candidates,
           100 * gap, seconds);
    printf("%-6s %4s %9s %10s %12s\n", "kind", "seed", "ms", "gap %", "nodes");
    for (int kind = 0; kind < 2; kind++)
        for (uint64_t seed = 0; seed < seeds; seed++)
            run_one(units, candidates, kind, seed, gap, seconds);
    return 0;
}
