/* SPDX-License-Identifier: Apache-2.0 */
/* Costs of a forecast brought in line with rows that were measured.
 *
 * The times of a profile were taken one format after the other, and a machine whose speed wanders
 * by a few percent meanwhile makes some formats look faster than others: more than what plans
 * differ by. Rows are timed in turns, so between them the formats' times are right. Each format's
 * times are multiplied by the mean of measured over predicted of the rows that it is part of,
 * weighted by the square of its part, so that uniform rows decide. */
#include "cli/compare.h"

#include "model/statistics.h"

#include <math.h>
#include <stdlib.h>

enum { FORMATS_MOST = 64 };

static double *time_of(struct mb_candidate *candidate, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? &candidate->decode_ns : &candidate->prefill_ns;
}

static double predicted(const struct mb_assignment *row, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? row->predicted_decode_matmul_ns
                                          : row->predicted_prefill_matmul_ns;
}

static double measured(const struct mb_assignment *row, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? row->speed.decode_matmul_ns
                                          : row->speed.prefill_matmul_ns;
}

static double measured_rest(const struct mb_assignment *row, enum mb_quantity quantity)
{
    return quantity == MB_QUANTITY_DECODE ? row->speed.decode_ns - row->speed.decode_matmul_ns
                                          : row->speed.prefill_ns - row->speed.prefill_matmul_ns;
}

/* Part of a row's predicted time that each format has. */
static void parts_of(const struct mb_forecast *forecast, const struct mb_problem *problem,
                     const struct mb_assignment *row, enum mb_quantity quantity,
                     double parts[FORMATS_MOST])
{
    double sum = 0;
    for (size_t f = 0; f < FORMATS_MOST; f++)
        parts[f] = 0;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = mb_mix_format(forecast->model, &row->mix, unit->tensor);
        for (size_t c = 0; c < unit->candidate_count; c++)
            if (unit->candidates[c].format == format && (size_t)format < FORMATS_MOST) {
                parts[format] += *time_of(&unit->candidates[c], quantity);
                sum += *time_of(&unit->candidates[c], quantity);
            }
    }
    for (size_t f = 0; f < FORMATS_MOST && sum > 0; f++)
        parts[f] /= sum;
}

/* Multiply every candidate's time of a quantity by its format's factor (0: unknown, unchanged). */
static void scale(struct mb_forecast *forecast, enum mb_quantity quantity,
                  const double factor[FORMATS_MOST], double rest_ns)
{
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++) {
        struct mb_problem *problem = forecast->problem[r];
        for (size_t u = 0; problem != NULL && u < problem->unit_count; u++)
            for (size_t c = 0; c < problem->units[u].candidate_count; c++) {
                struct mb_candidate *candidate = &problem->units[u].candidates[c];
                const size_t format = (size_t)candidate->format;
                if (format < FORMATS_MOST && factor[format] > 0)
                    *time_of(candidate, quantity) *= factor[format];
            }
        if (problem != NULL && rest_ns > 0)
            problem->fixed[quantity] = rest_ns;
    }
    double *fixed =
        quantity == MB_QUANTITY_DECODE ? &forecast->fixed.decode_ns : &forecast->fixed.prefill_ns;
    if (rest_ns > 0)
        *fixed = rest_ns;
}

static enum mb_status calibrate(struct mb_forecast *forecast, const struct mb_problem *problem,
                                const struct mb_comparison *comparison, enum mb_quantity quantity)
{
    double weight[FORMATS_MOST] = {0}, factor[FORMATS_MOST] = {0}, parts[FORMATS_MOST];
    double *rest = calloc(comparison->count + 1, sizeof *rest);
    size_t count = 0;
    if (rest == NULL)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct mb_assignment *row = &comparison->rows[i];
        const double ratio = measured(row, quantity) / predicted(row, quantity);
        if (!row->measured || !isfinite(ratio) || !(ratio > 0))
            continue; /* formats that nothing is known of */
        parts_of(forecast, problem, row, quantity, parts);
        for (size_t f = 0; f < FORMATS_MOST; f++) {
            weight[f] += parts[f] * parts[f];
            factor[f] += parts[f] * parts[f] * ratio;
        }
        rest[count++] = measured_rest(row, quantity);
    }
    for (size_t f = 0; f < FORMATS_MOST; f++)
        factor[f] = weight[f] > 0 ? factor[f] / weight[f] : 0;
    scale(forecast, quantity, factor, count > 0 ? mb_median(rest, count) : 0);
    free(rest);
    return MB_OK;
}

enum mb_status mb_forecast_calibrate(struct mb_forecast *forecast,
                                     const struct mb_comparison *comparison)
{
    const struct mb_problem *problem = NULL;
    for (int r = 0; r < MB_RESIDENCY_COUNT && problem == NULL; r++)
        problem = forecast->problem[r];
    if (problem == NULL)
        return MB_OK;
    const enum mb_status status = calibrate(forecast, problem, comparison, MB_QUANTITY_DECODE);
    return status == MB_OK ? calibrate(forecast, problem, comparison, MB_QUANTITY_PREFILL) : status;
}
