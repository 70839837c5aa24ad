/* SPDX-License-Identifier: Apache-2.0 */
/* Random problems for the solver's tests: a seeded generator (xorshift64*), and problems whose
 * figures are small whole numbers or reals, with or without ties. */
#ifndef MIXBIT_TEST_SOLVER_RANDOM_H
#define MIXBIT_TEST_SOLVER_RANDOM_H

#include "mixbit/plan.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static inline double random_unit(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

static inline double random_whole(uint64_t *state, double most)
{
    return (double)(random_next(state) % (uint64_t)(most + 1));
}

static inline double *quantity_of(struct mb_candidate *candidate, int quantity)
{
    double *const fields[] = {&candidate->loss, &candidate->decode_ns, &candidate->prefill_ns,
                              &candidate->bytes};
    return fields[quantity];
}

enum figures {
    FIGURES_WHOLE,      /* 0 .. 1000 */
    FIGURES_TIES,       /* 0 .. 3: many ties and zeros */
    FIGURES_DUPLICATES, /* every second candidate repeats the one before it */
    FIGURES_LIKE_MODELS /* more bits cost more and lose less; reals */
};

static inline struct mb_problem *problem_create(size_t units, size_t candidates)
{
    struct mb_problem *problem = calloc(1, sizeof *problem);
    problem->unit_count = units;
    problem->units = calloc(units, sizeof *problem->units);
    for (size_t i = 0; i < units; i++) {
        struct mb_unit *unit = &problem->units[i];
        snprintf(unit->name, sizeof unit->name, "blk.%zu.ffn_up.weight", i);
        unit->n = unit->k = 256;
        unit->candidate_count = candidates;
        unit->candidates = calloc(candidates, sizeof *unit->candidates);
        for (size_t c = 0; c < candidates; c++)
            unit->candidates[c].format = mb_format_at(c % mb_format_count())->id;
    }
    return problem;
}

static inline struct mb_problem *problem_random(size_t units, size_t candidates,
                                                enum figures figures, uint64_t *state)
{
    struct mb_problem *problem = problem_create(units, candidates);
    for (size_t i = 0; i < units; i++) {
        const double size = 1 + 9 * random_unit(state), loss = 0.01 + random_unit(state);
        for (size_t c = 0; c < candidates; c++) {
            struct mb_candidate *candidate = &problem->units[i].candidates[c];
            const double bits = 2 + 6 * random_unit(state);
            for (int q = 0; q < MB_QUANTITY_COUNT; q++) {
                double *value = quantity_of(candidate, q);
                if (figures == FIGURES_DUPLICATES && c % 2 == 1)
                    *value = *quantity_of(&problem->units[i].candidates[c - 1], q);
                else if (figures == FIGURES_LIKE_MODELS)
                    *value = (q == MB_QUANTITY_LOSS ? 1e3 * loss / (bits * bits * bits)
                                                    : 10 * size * bits) *
                             (0.7 + 0.6 * random_unit(state));
                else
                    *value = random_whole(state, figures == FIGURES_TIES ? 3 : 1000);
            }
        }
    }
    return problem;
}

/* Sum over units of the least, or greatest, value of a quantity. */
static inline double extreme_total(const struct mb_problem *problem, int quantity, bool most)
{
    double total = problem->fixed[quantity];
    for (size_t i = 0; i < problem->unit_count; i++) {
        double best = *quantity_of(&problem->units[i].candidates[0], quantity);
        for (size_t c = 1; c < problem->units[i].candidate_count; c++) {
            const double value = *quantity_of(&problem->units[i].candidates[c], quantity);
            if (most ? value > best : value < best)
                best = value;
        }
        total += best;
    }
    return total;
}

/* A limit `share` of the way from the least to the greatest total, between whole numbers so that
 * no solver's tolerance matters. */
static inline double limit_between(const struct mb_problem *problem, int quantity, double share)
{
    const double least = extreme_total(problem, quantity, false);
    const double most = extreme_total(problem, quantity, true);
    return (double)(int64_t)(least + share * (most - least)) + 0.5;
}

#endif
