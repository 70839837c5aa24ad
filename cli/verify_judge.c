/* SPDX-License-Identifier: Apache-2.0 */
/* Predictions of `mixbit verify` against measurements.
 *
 * What is fitted - the fixed part of a token's time, the phase of the machine, the line from summed
 * to measured loss - comes from mixes that are not judged, measured in turns with those that are. A
 * machine that shares its cores with others is a tenth slower or faster from one hour to the next,
 * in everything: that is no error of a profile, and `plan` takes it out as well, by its uniform
 * rows. */
#include "cli/verify.h"
#include "model/rank.h"
#include "tuner/measure.h"

#include <math.h>
#include <stdlib.h>

const char *const mb_verify_keys[MB_VERIFY_TIMES] = {"decode_ns", "decode_matmul_ns", "prefill_ns",
                                                     "prefill_matmul_ns"};

static const char *const titles[MB_VERIFY_TIMES] = {"decode", "decode, matrix products", "prefill",
                                                    "prefill, matrix products"};

void mb_verification_free(struct mb_verification *verification)
{
    free(verification->mixes);
    *verification = (struct mb_verification){0};
}

static void measured_times(const struct mb_assignment *row, double times[MB_VERIFY_TIMES])
{
    times[MB_VERIFY_DECODE] = row->speed.decode_ns;
    times[MB_VERIFY_DECODE_MATMUL] = row->speed.decode_matmul_ns;
    times[MB_VERIFY_PREFILL] = row->speed.prefill_ns;
    times[MB_VERIFY_PREFILL_MATMUL] = row->speed.prefill_matmul_ns;
}

/* Half-width of a sum of losses. They were measured on the same windows, so they may all be off the
 * same way: half-widths are added as they are, which bounds any correlation. */
static double sum_half(const struct mb_forecast *forecast, const struct mb_mix *mix)
{
    const struct mb_problem *problem = NULL;
    double half = 0;
    for (int r = 0; r < MB_RESIDENCY_COUNT && problem == NULL; r++)
        problem = forecast->problem[r];
    for (size_t u = 0; problem != NULL && u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = mb_mix_format(forecast->model, mix, unit->tensor);
        for (size_t c = 0; c < unit->candidate_count; c++) {
            const struct mb_candidate *candidate = &unit->candidates[c];
            if (candidate->format == format)
                half += candidate->loss_high - candidate->loss;
        }
    }
    return half;
}

static enum mb_status fit(struct mb_cli *cli, const struct mb_comparison *comparison, size_t fits,
                          struct mb_verification *verification)
{
    double *numbers = malloc((6 * fits + 1) * sizeof *numbers);
    if (numbers == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    double *sums = numbers, *losses = sums + fits, *decode = losses + fits,
           *prefill = decode + fits, *decode_phase = prefill + fits,
           *prefill_phase = decode_phase + fits;
    for (size_t i = 0; i < fits; i++) {
        const struct mb_assignment *row = &comparison->rows[i];
        sums[i] = row->predicted[MB_QUANTITY_LOSS];
        losses[i] = row->evaluation.kl_mean;
        decode[i] = row->speed.decode_ns - row->speed.decode_matmul_ns;
        prefill[i] = row->speed.prefill_ns - row->speed.prefill_matmul_ns;
        decode_phase[i] = row->speed.decode_matmul_ns / row->predicted_decode_matmul_ns;
        prefill_phase[i] = row->speed.prefill_matmul_ns / row->predicted_prefill_matmul_ns;
    }
    verification->additivity = mb_additivity_fit(sums, losses, fits);
    verification->fixed_ns[0] = mb_median(decode, fits);
    verification->fixed_ns[1] = mb_median(prefill, fits);
    verification->phase[0] = mb_median(decode_phase, fits);
    verification->phase[1] = mb_median(prefill_phase, fits);
    free(numbers);
    return MB_OK;
}

enum mb_status mb_verify_predict(struct mb_cli *cli, const struct mb_comparison *comparison,
                                 const struct mb_forecast *forecast, size_t fits,
                                 struct mb_verification *verification)
{
    verification->count = comparison->count - fits;
    verification->mixes = calloc(verification->count + 1, sizeof *verification->mixes);
    if (verification->mixes == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    const enum mb_status status = fit(cli, comparison, fits, verification);
    for (size_t i = 0; status == MB_OK && i < verification->count; i++) {
        struct mb_verified *mix = &verification->mixes[i];
        mix->row = &comparison->rows[fits + i];
        measured_times(mix->row, mix->measured);
        const double decode = verification->phase[0] * mix->row->predicted_decode_matmul_ns;
        const double prefill = verification->phase[1] * mix->row->predicted_prefill_matmul_ns;
        mix->predicted[MB_VERIFY_DECODE_MATMUL] = decode;
        mix->predicted[MB_VERIFY_DECODE] = decode + verification->fixed_ns[0];
        mix->predicted[MB_VERIFY_PREFILL_MATMUL] = prefill;
        mix->predicted[MB_VERIFY_PREFILL] = prefill + verification->fixed_ns[1];
        mix->kl_sum = mix->row->predicted[MB_QUANTITY_LOSS];
        mix->kl_sum_half = sum_half(forecast, &mix->row->mix);
        mix->kl = mb_additivity_predict(&verification->additivity, mix->kl_sum);
        mix->kl_half = mb_additivity_half(&verification->additivity, mix->kl_sum, mix->kl_sum_half);
    }
    return status;
}

static double relative(double predicted, double measured) { return fabs(predicted / measured - 1); }

static void time_errors(const struct mb_verification *v, int time, double factor, double *room,
                        double *median, double *worst)
{
    *worst = 0;
    for (size_t i = 0; i < v->count; i++) {
        room[i] = relative(v->mixes[i].predicted[time] / factor, v->mixes[i].measured[time]);
        *worst = room[i] > *worst ? room[i] : *worst;
    }
    *median = mb_median(room, v->count);
}

void mb_verify_summarize(struct mb_verification *v)
{
    double *errors = calloc(3 * (v->count + 1), sizeof *errors);
    if (errors == NULL)
        return; /* zeroed figures miss every limit that is a least one */
    double *kl = errors + v->count + 1, *truth = kl + v->count + 1;
    for (int t = 0; t < MB_VERIFY_TIMES; t++) {
        for (size_t i = 0; i < v->count; i++)
            errors[i] = v->mixes[i].predicted[t] / v->mixes[i].measured[t];
        v->factor[t] = mb_median(errors, v->count);
        time_errors(v, t, 1, errors, &v->median[t], &v->worst[t]);
        time_errors(v, t, v->factor[t], errors, &v->spread_median[t], &v->spread_worst[t]);
    }
    size_t covered = 0;
    for (size_t i = 0; i < v->count; i++) {
        kl[i] = v->mixes[i].kl;
        truth[i] = v->mixes[i].row->evaluation.kl_mean;
        covered += fabs(kl[i] - truth[i]) <= v->mixes[i].kl_half;
        errors[i] = v->mixes[i].kl_half / kl[i];
    }
    v->coverage = (double)covered / (double)v->count;
    v->half_width = mb_median(errors, v->count);
    v->rank_correlation = mb_spearman(kl, truth, v->count);
    for (size_t i = 0; i < v->count; i++)
        errors[i] = relative(kl[i], truth[i]);
    v->kl_median = mb_median(errors, v->count);
    for (size_t i = 0; i < v->count; i++)
        errors[i] = relative(v->mixes[i].kl_sum, truth[i]);
    v->kl_sum_median = mb_median(errors, v->count);
    free(errors);
}

/* ---- output ---- */

static json_t *mix_json(const struct mb_model *model, const struct mb_verified *mix)
{
    const struct mb_assignment *row = mix->row;
    json_t *predicted = json_pack("{s:f, s:f, s:f, s:f, s:f}", "bytes", row->bytes, "kl", mix->kl,
                                  "kl_low", fmax(0, mix->kl - mix->kl_half), "kl_high",
                                  mix->kl + mix->kl_half, "kl_sum", mix->kl_sum);
    double low, high;
    mb_kl_interval(row, &low, &high);
    json_t *measured = json_pack("{s:f, s:f, s:f, s:f}", "bytes", row->bytes, "kl",
                                 row->evaluation.kl_mean, "kl_low", low, "kl_high", high);
    for (int t = 0; t < MB_VERIFY_TIMES; t++) {
        (void)json_object_set_new(predicted, mb_verify_keys[t], json_real(mix->predicted[t]));
        (void)json_object_set_new(measured, mb_verify_keys[t], json_real(mix->measured[t]));
    }
    json_t *tensors = json_object();
    for (size_t i = 0; i < row->mix.count; i++)
        if (row->mix.formats[i] != MB_FORMAT_NONE)
            (void)json_object_set_new(tensors, mb_model_tensor_at(model, i)->name,
                                      json_string(mb_format_info(row->mix.formats[i])->name));
    return json_pack("{s:s, s:o, s:o, s:o}", "name", row->mix.name, "predicted", predicted,
                     "measured", measured, "tensors", tensors);
}

static json_t *summary_json(const struct mb_verification *v)
{
    json_t *summary = json_object();
    for (int t = 0; t < MB_VERIFY_TIMES; t++)
        (void)json_object_set_new(
            summary, mb_verify_keys[t],
            json_pack("{s:f, s:f, s:f, s:f, s:f}", "median_error", v->median[t], "worst_error",
                      v->worst[t], "factor", v->factor[t], "median_error_without_factor",
                      v->spread_median[t], "worst_error_without_factor", v->spread_worst[t]));
    (void)json_object_set_new(summary, "kl",
                              json_pack("{s:f, s:f, s:f, s:f, s:f}", "rank_correlation",
                                        v->rank_correlation, "coverage", v->coverage, "half_width",
                                        v->half_width, "median_error", v->kl_median,
                                        "sum_median_error", v->kl_sum_median));
    (void)json_object_set_new(summary, "additivity",
                              json_pack("{s:f, s:f, s:f, s:I}", "offset", v->additivity.offset,
                                        "scale", v->additivity.scale, "error", v->additivity.error,
                                        "mixes", (json_int_t)v->additivity.count));
    (void)json_object_set_new(
        summary, "fixed",
        json_pack("{s:f, s:f}", "decode_ns", v->fixed_ns[0], "prefill_ns", v->fixed_ns[1]));
    (void)json_object_set_new(
        summary, "phase", json_pack("{s:f, s:f}", "decode", v->phase[0], "prefill", v->phase[1]));
    return summary;
}

static void print_mixes(const struct mb_verification *v)
{
    static const char *const heads[MB_VERIFY_TIMES] = {"decode ns", "of it matmul", "prefill ns",
                                                       "of it matmul"};
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "name", "mix", MB_ALIGN_LEFT);
    mb_table_column(table, "megabytes", "MB", MB_ALIGN_RIGHT);
    for (int t = 0; t < MB_VERIFY_TIMES; t++) {
        mb_table_column(table, mb_verify_keys[t], heads[t], MB_ALIGN_RIGHT);
        mb_table_column(table, mb_verify_keys[t], "off %", MB_ALIGN_RIGHT);
    }
    mb_table_column(table, "kl", "KL", MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted", "predicted", MB_ALIGN_RIGHT);
    mb_table_column(table, "half", "+-", MB_ALIGN_RIGHT);
    for (size_t i = 0; i < v->count; i++) {
        const struct mb_verified *mix = &v->mixes[i];
        mb_table_text(table, mix->row->mix.name);
        mb_table_number(table, mix->row->bytes / 1e6, "%.3f");
        for (int t = 0; t < MB_VERIFY_TIMES; t++) {
            mb_table_number(table, mix->measured[t], "%.0f");
            mb_table_number(table, 100 * (mix->predicted[t] / mix->measured[t] - 1), "%+.1f");
        }
        mb_table_number(table, mix->row->evaluation.kl_mean, "%.5f");
        mb_table_number(table, mix->kl, "%.5f");
        mb_table_number(table, mix->kl_half, "%.5f");
    }
    mb_table_print(table, stdout);
    mb_table_free(table);
}

/* One line for a figure and its limit; true when it holds. */
static bool judge(struct mb_cli *cli, const char *what, double value, bool most, double limit,
                  char *missed, size_t room)
{
    const bool holds = most ? value <= limit : value >= limit;
    if (!cli->common.json)
        (void)printf("  %-36s %8.3f  (at %s %g)%s\n", what, value, most ? "most" : "least", limit,
                     holds ? "" : "  missed");
    if (!holds && missed[0] == '\0')
        (void)snprintf(missed, room, "%s is %.3f, the limit is %g", what, value, limit);
    return holds;
}

static size_t judge_all(struct mb_cli *cli, const struct mb_verification *v,
                        const struct mb_verify_limits *limits, char *missed, size_t room)
{
    size_t misses = 0;
    for (int t = 0; t < MB_VERIFY_TIMES; t++) {
        char what[64];
        (void)snprintf(what, sizeof what, "%s: median error %%", titles[t]);
        misses += !judge(cli, what, 100 * v->median[t], true, limits->median_error, missed, room);
        (void)snprintf(what, sizeof what, "%s: worst error %%", titles[t]);
        misses += !judge(cli, what, 100 * v->worst[t], true, limits->worst_error, missed, room);
    }
    misses += !judge(cli, "KL: rank correlation", v->rank_correlation, false,
                     limits->rank_correlation, missed, room);
    misses += !judge(cli, "KL: coverage of the interval %", 100 * v->coverage, false,
                     limits->coverage, missed, room);
    misses += !judge(cli, "KL: half-width of the interval %", 100 * v->half_width, true,
                     limits->half_width, missed, room);
    return misses;
}

enum mb_status mb_verify_print(struct mb_cli *cli, const struct mb_model *model,
                               const struct mb_verification *v, size_t seed,
                               const struct mb_verify_limits *limits)
{
    char missed[160] = "";
    enum mb_status status = MB_OK;
    if (!cli->common.json) {
        print_mixes(v);
        (void)printf("products take %.3f of the profile's time in decode and %.3f in prefill, by "
                     "%zu other mixes: predictions are brought to that\n",
                     v->phase[0], v->phase[1], v->additivity.count);
        for (int t = 0; t < MB_VERIFY_TIMES; t++)
            (void)printf("%s: predicted over measured %.3f; without this common factor off by "
                         "%.1f %% (median), %.1f %% (worst)\n",
                         titles[t], v->factor[t], 100 * v->spread_median[t],
                         100 * v->spread_worst[t]);
        (void)printf("%zu mixes of seed %zu; fitted on %zu others: KL = %.2e + %.3f x sum, +- "
                     "%.1f %%; without the fit its median error is %.1f %%, with it %.1f %%\n",
                     v->count, seed, v->additivity.count, v->additivity.offset, v->additivity.scale,
                     100 * v->additivity.error, 100 * v->kl_sum_median, 100 * v->kl_median);
    }
    const size_t misses = judge_all(cli, v, limits, missed, sizeof missed);
    if (cli->common.json) {
        json_t *mixes = json_array();
        for (size_t i = 0; i < v->count; i++)
            (void)json_array_append_new(mixes, mix_json(model, &v->mixes[i]));
        status = mb_print_json(cli, json_pack("{s:s, s:I, s:o, s:o}", "schema", "mixbit-verify",
                                              "seed", (json_int_t)seed, "mixes", mixes, "summary",
                                              summary_json(v)));
    }
    if (status == MB_OK && misses > 0)
        status = mb_error_set(&cli->error, MB_ERR_VERIFY, -1, "%zu of 11 limits missed: %s", misses,
                              missed);
    return status;
}
