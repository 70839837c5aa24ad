/* SPDX-License-Identifier: Apache-2.0 */
/* Costs of a forecast brought in line with rows that were measured (solver/calibrate.h): products
 * by what each row's took, the fixed part by the median of what was left of a token. */
#include "cli/compare.h"

#include "solver/calibrate.h"
#include "tuner/measure.h"

#include <math.h>
#include <stdlib.h>

static double products_ns(const struct mb_assignment *row, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? row->speed.decode_matmul_ns
                                          : row->speed.prefill_matmul_ns;
}

static double rest_ns(const struct mb_assignment *row, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? row->speed.decode_ns - row->speed.decode_matmul_ns
                                          : row->speed.prefill_ns - row->speed.prefill_matmul_ns;
}

/* Rows and trials that were timed and are made of the problem's candidates. `choices` holds
 * unit_count for each. */
static size_t timed_mixes(const struct mb_forecast *forecast, const struct mb_problem *problem,
                          const struct mb_comparison *comparison, enum mb_quantity quantity,
                          size_t *choices, struct mb_timed_mix *mixes)
{
    size_t count = 0;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct mb_assignment *row = &comparison->rows[i];
        size_t *choice = choices + count * problem->unit_count;
        if (row->measured && mb_forecast_choice(forecast, problem, &row->mix, choice))
            mixes[count++] = (struct mb_timed_mix){choice, products_ns(row, quantity)};
    }
    for (size_t i = 0; i < comparison->trial_count; i++) {
        const struct mb_trial *trial = &comparison->trials[i];
        const double ns = trial->time[quantity].products_ns;
        size_t *choice = choices + count * problem->unit_count;
        if (ns > 0 && mb_forecast_choice(forecast, problem, &trial->mix, choice))
            mixes[count++] = (struct mb_timed_mix){choice, ns};
    }
    return count;
}

static enum mb_status calibrate_products(struct mb_forecast *forecast,
                                         const struct mb_comparison *comparison)
{
    enum mb_status status = MB_OK;
    for (int r = 0; r < MB_RESIDENCY_COUNT && status == MB_OK; r++) {
        struct mb_problem *problem = forecast->problem[r];
        if (problem == NULL)
            continue;
        const size_t most = comparison->count + comparison->trial_count;
        size_t *choices = calloc(most * problem->unit_count + 1, sizeof *choices);
        struct mb_timed_mix *mixes = calloc(most + 1, sizeof *mixes);
        status = choices != NULL && mixes != NULL ? MB_OK : MB_ERR_MEMORY;
        for (int q = MB_QUANTITY_DECODE; q <= MB_QUANTITY_PREFILL && status == MB_OK; q++) {
            const size_t count =
                timed_mixes(forecast, problem, comparison, (enum mb_quantity)q, choices, mixes);
            status = mb_problem_calibrate(problem, (enum mb_quantity)q, mixes, count);
        }
        free(choices);
        free(mixes);
    }
    return status;
}

static enum mb_status calibrate_rest(struct mb_forecast *forecast,
                                     const struct mb_comparison *comparison,
                                     enum mb_quantity quantity, double *fixed)
{
    double *rests = calloc(comparison->count + 1, sizeof *rests);
    size_t count = 0;
    if (rests == NULL)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < comparison->count; i++) {
        const double rest = rest_ns(&comparison->rows[i], quantity);
        if (comparison->rows[i].measured && isfinite(rest))
            rests[count++] = rest;
    }
    const double rest = count > 0 ? mb_median(rests, count) : 0;
    if (rest > 0) {
        *fixed = rest;
        for (int r = 0; r < MB_RESIDENCY_COUNT; r++)
            if (forecast->problem[r] != NULL)
                forecast->problem[r]->fixed[quantity] = rest;
    }
    free(rests);
    return MB_OK;
}

enum mb_status mb_forecast_calibrate(struct mb_forecast *forecast,
                                     const struct mb_comparison *comparison)
{
    enum mb_status status = calibrate_products(forecast, comparison);
    if (status == MB_OK)
        status =
            calibrate_rest(forecast, comparison, MB_QUANTITY_DECODE, &forecast->fixed.decode_ns);
    if (status == MB_OK)
        status =
            calibrate_rest(forecast, comparison, MB_QUANTITY_PREFILL, &forecast->fixed.prefill_ns);
    return status;
}
