/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit plan: the whole loop on one model - measure, sense, solve, write, measure again.
 *
 * Every link can be interrupted: the profile lies in the cache folder, the sensitivity table, its
 * journal and that of whole mixes' losses in the output folder, and a second run goes on where the
 * first one stopped. What is recommended has been measured on text that was not used for sensing,
 * beside every uniform format and preset. */
#include "cli/planning.h"
#include "cli/option_rows.h"
#include "dispatch/backend.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

static const struct mb_option options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct mb_planning_options, output),
     .value = "DIR",
     .fallback = "out",
     .help = "folder for everything that is written"},
    MB_BUDGET_OPTION_ROWS(struct mb_planning_options, budget),
    {.name = "as-fast-as",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct mb_planning_options, as_fast_as),
     .value = "FORMAT",
     .help = "decode and prefill measured no slower than the uniform format's, timed in turns with "
             "it; where --max-size is not given, of at most its size"},
    MB_TEXT_ROW(struct mb_planning_options, text,
                "text to sense on (default: the calibration text that comes with mixbit)"),
    {.name = "eval-text",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct mb_planning_options, eval_text),
     .value = "FILE",
     .help = "other text to measure on (default: the held-out text that comes with mixbit)"},
    MB_EFFORT_ROW(struct mb_planning_options, effort),
    MB_NUMERICS_ROW(
        struct mb_planning_options, numerics,
        "what a probe measures: a format as its own kernel runs it, or as dequantized in f32",
        "kernel"),
    {.name = "surrogate",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct mb_planning_options, surrogate),
     .value = "N|all",
     .help = "formats to probe per tensor; the others follow from what each does to the tensor's "
             "own product (default: 1 with quick effort, else 2); all: probe every one"},
    MB_WINDOWS_ROW(struct mb_planning_options, windows, "windows of text to sense on", 2),
    MB_WINDOW_ROW(struct mb_planning_options, window, "256"),
    {.name = "eval-windows",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct mb_planning_options, eval_windows),
     .value = "N",
     .help = "windows of text to measure on",
     .minimum = 2},
    MB_FORMATS_ROW(
        struct mb_planning_options, formats,
        "candidate formats (default: every quantized one of llama.cpp's); codebooks: cb2 to "
        "cb4 too, in files that mixbit alone runs"),
    {.name = "presets",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct mb_planning_options, presets),
     .value = "LIST",
     .help = "llama.cpp's mixes to measure beside the plan, comma-separated, or none (default: "
             "all)"},
    MB_FILE_ENCODER_ROW(struct mb_planning_options, encoder, "sequential", "what is written"),
    MB_IMATRIX_ROW(struct mb_planning_options, imatrix),
    MB_CONTEXT_ROW(struct mb_planning_options, context),
    MB_THREADS_ROW(struct mb_planning_options, threads),
    MB_REPEATS_ROW(struct mb_planning_options, repeats, "5"),
    MB_DEVICE_ROW(struct mb_planning_options, device, "device to plan for"),
    MB_PROFILE_ROW(struct mb_planning_options, profile,
                   "cost profile (default: this device's, measured when it is missing)"),
    {.name = NULL},
};

/* A time that the profile lacks is found now, with a table that knows no loss, and not after
 * minutes of sensing. */
static enum mb_status check_times(struct mb_planning *run, struct mb_forecast_request request)
{
    struct mb_sensitivity *table = NULL;
    struct mb_forecast forecast = {.model = NULL};
    size_t count = 0;
    struct mb_unit_source *sources = mb_unit_sources(run->model, &count);
    const char **names = calloc(count + 1, sizeof *names);
    enum mb_status status = sources != NULL && names != NULL ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; status == MB_OK && i < count; i++)
        names[i] = sources[i].name;
    if (status == MB_OK)
        status = mb_sensitivity_create(count, names, run->formats.count, run->formats.at, &table);
    for (size_t i = 0; status == MB_OK && i < count * run->formats.count; i++)
        table->losses[i] = (struct mb_loss){.known = 1};
    request.table = table;
    if (status == MB_OK)
        status = mb_forecast_create(run->cli, run->model, &request, &forecast);
    mb_forecast_free(&forecast);
    mb_sensitivity_free(table);
    free(sources);
    free(names);
    return status;
}

static enum mb_status measure_and_sense(struct mb_planning *run)
{
    const struct mb_planning_options *o = run->options;
    struct mb_cli *cli = run->cli;
    struct mb_format_list stored;
    mb_stored_formats(run->model, &run->formats, &stored);
    const struct mb_profile_request profile = {.path = o->profile,
                                               .model = run->model,
                                               .formats = &stored,
                                               .threads = run->threads,
                                               .accelerator = run->target.accelerator};
    enum mb_status status = mb_step_profile(cli, &profile, &run->profile, NULL);
    if (status != MB_OK)
        return status;
    mb_profile_apply(run->profile);
    run->target.profile = run->profile;
    run->forecast_request = (struct mb_forecast_request){.profile = run->profile,
                                                         .formats = &run->formats,
                                                         .constraints = &o->budget.constraints,
                                                         .aim = &run->aim,
                                                         .threads = mb_threads_count(run->threads)};
    status = check_times(run, run->forecast_request);
    const struct mb_calibration_options calibration = {.text = run->text, .window = o->window};
    if (status == MB_OK && o->encoder != MB_ENCODER_SEARCH)
        status = mb_step_encoder(cli, run->model, &calibration, run->importance, run->threads,
                                 &run->calibration);
    if (status != MB_OK)
        return status;
    run->comparison.encoder = run->calibration.encoder;
    char *table_path = mb_path_join(o->output, "sensitivity.json");
    const struct mb_sense_request sense = {.text = run->text,
                                           .windows = o->windows,
                                           .window = o->window,
                                           .effort = o->effort,
                                           .numerics = (enum mb_numerics)o->numerics,
                                           .formats = &run->formats,
                                           .output = table_path,
                                           .importance = run->importance,
                                           .encoder = run->calibration.encoder,
                                           .threads = run->threads,
                                           .method = run->method,
                                           .surrogate_probes = run->probes};
    status = table_path ? mb_step_sense(cli, run->model, &sense, &run->table) : MB_ERR_MEMORY;
    free(table_path);
    run->forecast_request.table = run->table;
    if (status == MB_OK)
        status = mb_step_fixed_cost(cli, run->model, run->threads, run->profile, &run->target,
                                    o->context, true, &run->forecast_request.fixed, NULL);
    if (status == MB_OK)
        status = mb_forecast_create(cli, run->model, &run->forecast_request, &run->forecast);
    return status;
}

/* Speeds are of the moment, and measured by every run; losses are not. */
static enum mb_status open_losses(struct mb_planning *run)
{
    char *path = mb_path_join(run->options->output, "losses.journal");
    if (path == NULL)
        return mb_error_set(&run->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    const struct mb_losses_request request = {.path = path,
                                              .model = run->model,
                                              .windows = &run->held_out,
                                              .importance = mb_step_weights(run->importance),
                                              .device = run->device.key};
    const enum mb_status status =
        mb_losses_open(&request, &run->comparison.losses, &run->cli->error);
    free(path);
    return status;
}

static enum mb_status run_plan(struct mb_cli *cli, const void *typed)
{
    struct mb_planning run = {
        .cli = cli, .options = typed, .reference = SIZE_MAX, .as_fast_as = MB_FORMAT_NONE};
    enum mb_status status = mb_planning_open(&run);
    mb_comparison_init(&run.comparison, run.model);
    run.comparison.importance = mb_step_weights(run.importance);
    if (status == MB_OK)
        status = measure_and_sense(&run);
    if (status == MB_OK)
        status = open_losses(&run);
    if (status == MB_OK)
        status = mb_planning_list(&run);
    const struct mb_compare_options compare = {.windows = &run.held_out,
                                               .threads = run.threads,
                                               .target = &run.target,
                                               .context = run.options->context,
                                               .repeats = run.options->repeats,
                                               .memory_limit_bytes = run.device.memory_bytes / 8,
                                               .prefill = run.as_fast_as != MB_FORMAT_NONE,
                                               .anchor = &run.reference};
    if (status == MB_OK)
        status = mb_comparison_measure(cli, &run.comparison, &compare);
    if (status == MB_OK)
        status = mb_forecast_calibrate(&run.forecast, &run.comparison);
    if (status == MB_OK)
        status = mb_planning_solve(&run, &compare);
    if (status == MB_OK)
        status = mb_comparison_measure(cli, &run.comparison, &compare);
    if (status == MB_OK)
        status = mb_planning_confirm(&run, &compare);
    if (status == MB_OK)
        status = mb_planning_recommend(&run);
    if (status == MB_OK)
        status = mb_planning_round(&run, &compare);
    if (status == MB_OK)
        status = mb_comparison_search(
            cli, &run.comparison, &compare,
            fmax(run.comparison.rows[run.chosen].bytes, run.plan->budget.max[MB_QUANTITY_BYTES]));
    if (status == MB_OK)
        status = mb_planning_write(&run);
    if (status == MB_OK)
        status = mb_planning_print(&run);

    mb_losses_close(run.comparison.losses);
    mb_comparison_free(&run.comparison);
    mb_forecast_free(&run.forecast);
    for (size_t i = 0; i < run.front_count; i++)
        mb_solution_free(&run.front[i]);
    free(run.front);
    for (size_t i = 0; i < run.candidate_count; i++)
        mb_plan_free(run.candidates[i].plan);
    mb_plan_free(run.plan);
    mb_sensitivity_free(run.table);
    mb_calibration_free(&run.calibration);
    mb_importance_free(run.importance);
    mb_profile_free(run.profile);
    mb_accelerator_close(run.target.accelerator);
    mb_windows_free(&run.held_out);
    mb_threads_destroy(run.threads);
    mb_model_close(run.model);
    free(run.text);
    free(run.eval_text);
    return status;
}

const struct mb_verb mb_verb_plan = {
    .name = "plan",
    .summary = "measure, sense, solve, write and verify: a mix for this machine",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = options,
    .options_bytes = sizeof(struct mb_planning_options),
    .details = "Writes profile.json, sensitivity.json, plan.json, mixed.gguf, recipes for "
               "llama.cpp and ik_llama.cpp "
               "and report.html into the output folder, and prints the plan beside every uniform "
               "format and preset, "
               "measured. Without a budget: least loss at 4.5 bits per weight, decoding no slower "
               "than the fastest "
               "uniform format of 4 bits or more (of those as fast, the one that loses least), as "
               "far as timing can tell. --as-fast-as q4_K holds it to that format "
               "instead, and prefill too. Interrupted runs go on where they stopped, "
               "by the journals there (losses.journal stays: a later run evaluates what is new to "
               "it).",
    .example = "mixbit plan model.f16.gguf --max-size 4.25bpw --min-decode 20 -o out",
    .run = run_plan,
};
