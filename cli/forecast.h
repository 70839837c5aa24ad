/* SPDX-License-Identifier: Apache-2.0 */
/* What predicting (forecast.c, llama_bench.c) and solving (forecast_solve.c) share: residency
 * follows from size. */
#ifndef MIXBIT_CLI_FORECAST_H
#define MIXBIT_CLI_FORECAST_H

#include "cli/steps.h"

/* The number of threads that a profile's times are kept under, where `threads` run. */
size_t mb_cost_threads(const struct mb_profile *profile, size_t threads);
/* MB_ERR_UNSUPPORTED when some tensor has a type that can't be read. */
enum mb_status mb_check_sources(struct mb_cli *cli, const struct mb_model *model,
                                const struct mb_unit_source *sources, size_t count);
/* Bytes a token's pass walks through, for a choice of formats. */
double mb_walked_bytes(const struct mb_problem *problem, const size_t *choice);
/* Where weights of so many bytes are. */
enum mb_residency mb_forecast_residency(const struct mb_forecast *forecast, double bytes);
/* The problem for residency r, or the nearest slower one that there is, or the nearest at all. */
const struct mb_problem *mb_forecast_problem(const struct mb_forecast *forecast,
                                             enum mb_residency r);

#endif
