/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit verify: how far the predictions are off, on random mixes.
 *
 * More mixes are drawn than are judged: the first ones give what is fitted, the fixed part of a
 * token's time and the correction of added losses. All are measured in turns. */
#include "cli/option_rows.h"
#include "cli/verify.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_FITS = 4, WINDOWS = 64, DRAWS = 100 };

struct options {
    const char *text, *eval_text, *profile, *sensitivity, *imatrix;
    size_t mixes, fits, seed, windows, window, context, threads, repeats;
    int effort, numerics, encoder;
    struct mb_format_list formats;
    struct mb_verify_limits limits;
};

struct work {
    struct mb_cli *cli;
    const struct options *options;
    char *text, *eval_text;
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_windows held_out;
    struct mb_profile *profile;
    struct mb_sensitivity *table;
    struct mb_importance *importance;  /* NULL: none */
    struct mb_calibration calibration; /* its encoder NULL: weights are rounded by search */
    struct mb_format_list formats;
    struct mb_forecast forecast;
    struct mb_comparison comparison;
    struct mb_verification verification;
};

static enum mb_status open_inputs(struct work *work)
{
    struct mb_cli *cli = work->cli;
    const struct options *o = work->options;
    enum mb_status status = mb_step_open(cli, cli->positionals[0], &work->model);
    if (status == MB_OK)
        status = mb_step_text(cli, o->text, "calib.txt", "--text", &work->text);
    if (status == MB_OK)
        status = mb_step_text(cli, o->eval_text, "heldout.txt", "--eval-text", &work->eval_text);
    if (status == MB_OK)
        status = mb_step_threads(cli, o->threads, &work->threads);
    if (status == MB_OK)
        status = mb_step_windows(cli, work->model, work->eval_text, o->window,
                                 o->windows > 0 ? o->windows : WINDOWS, &work->held_out);
    work->formats = o->formats;
    if (status == MB_OK && work->formats.count == 0)
        mb_default_formats(work->model, &work->formats);
    if (status == MB_OK && work->formats.count < 2)
        status = mb_usage(cli, "--formats: a mix needs two formats or more");
    return status;
}

static enum mb_status open_table(struct work *work)
{
    struct mb_cli *cli = work->cli;
    const struct options *o = work->options;
    enum mb_status status = mb_step_importance(cli, work->model, o->imatrix, &work->importance);
    if (status == MB_OK && work->importance != NULL)
        status = mb_step_check_texts(cli, work->importance->text_hash, work->held_out.text_hash);
    if (status == MB_OK && o->encoder == MB_ENCODER_FEEDBACK)
        status = mb_step_encoder(
            cli, work->model,
            &(struct mb_calibration_options){.text = work->text, .window = o->window},
            work->importance, work->threads, &work->calibration);
    if (status == MB_OK && o->sensitivity != NULL)
        status = mb_step_load_sensitivity(cli, work->model, o->sensitivity, &work->table);
    if (status == MB_OK && o->sensitivity != NULL)
        status = mb_step_check_importance(cli, "the table", work->table->importance_hash,
                                          work->importance);
    if (status == MB_OK && o->sensitivity != NULL)
        return mb_step_check_encoder(cli, "the table", work->table->feedback_hash,
                                     work->calibration.encoder);
    if (status != MB_OK)
        return status;
    char *path = mb_path_beside(cli->positionals[0], ".sensitivity.json");
    const struct mb_sense_request sense = {.text = work->text,
                                           .effort = o->effort,
                                           .numerics = (enum mb_numerics)o->numerics,
                                           .formats = &work->formats,
                                           .output = path,
                                           .importance = work->importance,
                                           .encoder = work->calibration.encoder,
                                           .threads = work->threads};
    status = path != NULL ? mb_step_check_output(cli, path)
                          : mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    if (status == MB_OK)
        status = mb_step_sense(cli, work->model, &sense, &work->table);
    free(path);
    return status;
}

static enum mb_status open_tables(struct work *work)
{
    struct mb_cli *cli = work->cli;
    struct mb_format_list stored;
    mb_stored_formats(work->model, &work->formats, &stored);
    const struct mb_profile_request request = {.path = work->options->profile,
                                               .model = work->model,
                                               .formats = &stored,
                                               .threads = work->threads};
    enum mb_status status = mb_step_profile(cli, &request, &work->profile, NULL);
    if (status != MB_OK)
        return status;
    mb_profile_apply(work->profile);
    status = open_table(work);
    if (status == MB_OK)
        status = mb_step_check_texts(cli, work->table->text_hash, work->held_out.text_hash);
    if (status == MB_OK && strcmp(work->table->method, mb_method_name(MB_METHOD_KL)) != 0 &&
        strncmp(work->table->method, mb_method_name(MB_METHOD_SURROGATE), 9) != 0)
        status = mb_usage(cli,
                          "the table's method is %s; measured mixes are judged by KL, which needs "
                          "a table of method kl or surrogate",
                          work->table->method);
    /* The fixed part is zero here: what this forecast calls decode and prefill are their products.
     */
    const struct mb_forecast_request forecast = {.table = work->table,
                                                 .profile = work->profile,
                                                 .formats = &work->formats,
                                                 .threads = mb_threads_count(work->threads)};
    return status == MB_OK ? mb_forecast_create(cli, work->model, &forecast, &work->forecast)
                           : status;
}

/* Draw until there are as many different mixes as asked for. */
static enum mb_status draw(struct work *work)
{
    const struct options *o = work->options;
    const size_t wanted = o->mixes + o->fits;
    uint64_t state = o->seed;
    enum mb_status status = MB_OK;
    for (size_t tries = 0; status == MB_OK && work->comparison.count < wanted; tries++) {
        const size_t i = work->comparison.count;
        struct mb_mix mix;
        char name[32];
        if (tries == DRAWS * wanted)
            return mb_usage(work->cli, "--mixes: the model and formats allow only %zu mixes", i);
        (void)snprintf(name, sizeof name, i < o->fits ? "fit %zu" : "mix %zu",
                       i < o->fits ? i + 1 : i - o->fits + 1);
        status = mb_mix_random(work->cli, work->model, &work->formats, name, &state, &mix);
        if (status == MB_OK)
            status = mb_comparison_add(&work->comparison, &mix, MB_ROW_PLAN, &work->forecast, NULL);
    }
    return status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    struct work work = {.cli = cli, .options = given};
    struct mb_device_info device = {.size = sizeof device};
    enum mb_status status = open_inputs(&work);
    if (status == MB_OK)
        status = open_tables(&work);
    mb_comparison_init(&work.comparison, work.model);
    work.comparison.importance = mb_step_weights(work.importance);
    work.comparison.encoder = work.calibration.encoder;
    if (status == MB_OK)
        status = draw(&work);
    if (status == MB_OK)
        status = mb_device_info(&device);
    const size_t anchor = 0; /* where not all fit the memory limit, in every turn */
    const struct mb_compare_options compare = {.windows = &work.held_out,
                                               .threads = work.threads,
                                               .context = work.options->context,
                                               .repeats = work.options->repeats,
                                               .memory_limit_bytes = device.memory_bytes / 4,
                                               .paced = true,
                                               .anchor = &anchor};
    if (status == MB_OK)
        status = mb_comparison_measure(cli, &work.comparison, &compare);
    if (status == MB_OK)
        status = mb_verify_predict(cli, &work.comparison, &work.forecast, work.options->fits,
                                   &work.verification);
    if (status == MB_OK) {
        mb_verify_summarize(&work.verification);
        status = mb_verify_print(cli, work.model, &work.verification, work.options->seed,
                                 &work.options->limits);
    }
    mb_verification_free(&work.verification);
    mb_comparison_free(&work.comparison);
    mb_forecast_free(&work.forecast);
    mb_sensitivity_free(work.table);
    mb_calibration_free(&work.calibration);
    mb_importance_free(work.importance);
    mb_profile_free(work.profile);
    mb_windows_free(&work.held_out);
    mb_threads_destroy(work.threads);
    mb_model_close(work.model);
    free(work.text);
    free(work.eval_text);
    return status;
}

#define LIMIT_ROW(option, field, usual, says)                                                      \
    {                                                                                              \
        .name = option, .kind = MB_OPTION_NUMBER,                                                  \
        .offset = offsetof(struct options, limits.field), .value = "X", .fallback = usual,         \
        .help = says                                                                               \
    }

static const struct mb_option table[] = {
    {.name = "mixes",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, mixes),
     .value = "N",
     .fallback = "20",
     .minimum = 2,
     .help = "random mixes that are judged"},
    {.name = "fit",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, fits),
     .value = "N",
     .fallback = "10",
     .minimum = LEAST_FITS,
     .help = "other mixes: they give the fixed part of a token's time, what the machine's products "
             "take now over what they took for the profile, and the correction of KL"},
    {.name = "seed",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, seed),
     .value = "N",
     .fallback = "1",
     .help = "of the draw; the same mixes for the same seed, anywhere"},
    MB_TEXT_ROW(struct options, text,
                "text to sense on (default: the calibration text that comes with mixbit)"),
    {.name = "eval-text",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, eval_text),
     .value = "FILE",
     .help = "other text to measure on (default: the held-out text that comes with mixbit)"},
    {.name = "sensitivity",
     .letter = 's',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, sensitivity),
     .value = "FILE",
     .help = "table to predict from (default: MODEL.sensitivity.json here, sensed when missing)"},
    MB_IMATRIX_ROW(struct options, imatrix),
    MB_ENCODER_ROW(struct options, encoder),
    MB_PROFILE_ROW(struct options, profile,
                   "cost profile (default: this device's, measured when it is missing)"),
    MB_FORMATS_ROW(struct options, formats, "candidate formats (default: every quantized one)"),
    MB_EFFORT_ROW(struct options, effort),
    MB_NUMERICS_ROW(struct options, numerics,
                    "how a table that is missing is sensed, as in sense and plan", "kernel"),
    MB_WINDOWS_ROW(struct options, windows, "windows of text to measure on (default: 64)", 2),
    MB_WINDOW_ROW(struct options, window, "512, or the model's context"),
    MB_CONTEXT_ROW(struct options, context),
    MB_THREADS_ROW(struct options, threads),
    MB_REPEATS_ROW(struct options, repeats, "7"),
    LIMIT_ROW("median-error", median_error, "5", "limit of the median error of times, %"),
    LIMIT_ROW("worst-error", worst_error, "12", "limit of the worst error of times, %"),
    LIMIT_ROW("rank-correlation", rank_correlation, "0.95", "least Spearman's rho of KL"),
    LIMIT_ROW("coverage", coverage, "90", "least share of mixes inside the interval of KL, %"),
    LIMIT_ROW("half-width", half_width, "25", "limit of that interval's median half-width, %"),
    {0}};

const struct mb_verb mb_verb_verify = {
    .name = "verify",
    .summary = "how far the predictions are off, on random mixes",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Draws mixes of the candidate formats, predicts size, speed and loss of each from "
               "profile and sensitivity table, then measures them in turns, on text that sensing "
               "did not see. What is fitted comes from further mixes that are not judged. Exit "
               "status 4 when a limit is missed.",
    .example = "mixbit verify model.f16.gguf --mixes 20 --seed 1 --json > verify.json",
    .run = run,
};
