/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of `mixbit verify`: mixes that were predicted and measured, and what is judged of them. */
#ifndef MIXBIT_CLI_VERIFY_H
#define MIXBIT_CLI_VERIFY_H

#include "cli/compare.h"
#include "model/additivity.h"

/* Times that are predicted: whole tokens and their matrix products. */
enum mb_verify_time {
    MB_VERIFY_DECODE,
    MB_VERIFY_DECODE_MATMUL,
    MB_VERIFY_PREFILL,
    MB_VERIFY_PREFILL_MATMUL,
    MB_VERIFY_TIMES
};
extern const char *const mb_verify_keys[MB_VERIFY_TIMES]; /* "decode_ns" ... */

/* What a summary has to reach; percentages as such. */
struct mb_verify_limits {
    double median_error, worst_error; /* of times, % */
    double rank_correlation, coverage, half_width;
};

/* A mix, predicted before it was measured. */
struct mb_verified {
    const struct mb_assignment *row;
    double predicted[MB_VERIFY_TIMES], measured[MB_VERIFY_TIMES];
    double kl_sum, kl_sum_half; /* single losses added, and the half-width of that sum */
    double kl, kl_half;         /* corrected, with its 95 % interval */
};

struct mb_verification {
    struct mb_verified *mixes;
    size_t count;
    struct mb_additivity additivity;
    double fixed_ns[2]; /* decode, prefill: what is no matrix product */
    double phase[2];    /* decode, prefill: what products take now over what the profile says */
    /* summary */
    double median[MB_VERIFY_TIMES], worst[MB_VERIFY_TIMES]; /* relative errors */
    /* Predicted over measured, the median over mixes, and the errors without this common factor: a
     * machine that is slower or faster today than when it was profiled has a factor, while errors
     * that differ from mix to mix are the prediction's. */
    double factor[MB_VERIFY_TIMES], spread_median[MB_VERIFY_TIMES], spread_worst[MB_VERIFY_TIMES];
    double rank_correlation, coverage, half_width; /* half_width: median, relative */
    double kl_median, kl_sum_median; /* relative errors with and without the correction */
};

/* Fill in what was measured of rows [0, fits), which are not judged, and predict the rows behind
 * them. The forecast is the one that the rows were added with, made without a fixed part. */
enum mb_status mb_verify_predict(struct mb_cli *cli, const struct mb_comparison *comparison,
                                 const struct mb_forecast *forecast, size_t fits,
                                 struct mb_verification *verification);
void mb_verify_summarize(struct mb_verification *verification);
void mb_verification_free(struct mb_verification *verification);

/* Print, as JSON or text; MB_ERR_VERIFY names what misses its limit. */
enum mb_status mb_verify_print(struct mb_cli *cli, const struct mb_model *model,
                               const struct mb_verification *verification, size_t seed,
                               const struct mb_verify_limits *limits);

#endif
