/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit plan: the whole loop on one model - measure, sense, solve, write, measure again.
 *
 * Every link can be interrupted: the profile lies in the cache folder, the sensitivity table and
 * its journal in the output folder, and a second run goes on where the first one stopped. What is
 * recommended has been measured on text that was not used for sensing, beside every uniform format
 * and preset. */
#include "cli/compare.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct plan_options {
    const char *output, *text, *eval_text, *profile;
    int effort;
    size_t windows, window, eval_windows, context, threads, repeats;
    struct mb_format_list formats;
    struct mb_budget_options budget;
};

static const struct mb_option options[] = {
    {.name = "output",
     .letter = 'o',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct plan_options, output),
     .value = "DIR",
     .fallback = "out",
     .help = "folder for everything that is written"},
    MB_BUDGET_OPTION_ROWS(struct plan_options, budget),
    {.name = "text",
     .letter = 't',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct plan_options, text),
     .value = "FILE",
     .help = "text to sense on (default: the calibration text that comes with mixbit)"},
    {.name = "eval-text",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct plan_options, eval_text),
     .value = "FILE",
     .help = "other text to measure on (default: the held-out text that comes with mixbit)"},
    {.name = "effort",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct plan_options, effort),
     .choices = mb_effort_names,
     .fallback = "normal",
     .help = "how much text to sense on; quick scores 1,024 tokens"},
    {.name = "windows",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, windows),
     .value = "N",
     .help = "windows of text to sense on",
     .minimum = 2},
    {.name = "window",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, window),
     .value = "TOKENS",
     .help = "tokens in a window",
     .minimum = 8},
    {.name = "eval-windows",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, eval_windows),
     .value = "N",
     .help = "windows of text to measure on",
     .minimum = 2},
    {.name = "formats",
     .letter = 'f',
     .kind = MB_OPTION_FORMATS,
     .offset = offsetof(struct plan_options, formats),
     .value = "LIST",
     .help = "candidate formats (default: every quantized one)"},
    {.name = "ctx",
     .letter = 'c',
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, context),
     .value = "TOKENS",
     .fallback = "512",
     .help = "context at whose end decoding is timed",
     .minimum = 1},
    {.name = "threads",
     .letter = 'j',
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, threads),
     .value = "N",
     .fallback = "0",
     .help = "threads (0: one per core of the fastest kind)",
     .minimum = 0},
    {.name = "repeats",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct plan_options, repeats),
     .value = "N",
     .fallback = "7",
     .help = "rounds of timing in each of three sweeps",
     .minimum = 1},
    {.name = "profile",
     .letter = 'p',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct plan_options, profile),
     .value = "FILE",
     .help = "cost profile (default: this device's, measured when it is missing)"},
    {.name = NULL},
};

enum { NOTES = 8 };

/* Everything a run holds; freed in one place. */
struct plan_run {
    struct mb_cli *cli;
    const struct plan_options *options;
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_device_info device;
    struct mb_windows held_out;
    struct mb_profile *profile;
    struct mb_sensitivity *table;
    struct mb_format_list formats;
    struct mb_forecast_request forecast_request;
    struct mb_forecast forecast;
    struct mb_comparison comparison;
    struct mb_plan *plan;
    struct mb_solution *front;
    size_t front_count;
    enum mb_residency residency;
    size_t chosen; /* row of the plan, then of what is recommended */
    char objective[200], base[96];
    char *text, *eval_text;
    char notes[NOTES][300];
    size_t note_count;
};

static void add_note(struct plan_run *run, const char *text)
{
    if (run->note_count < NOTES)
        snprintf(run->notes[run->note_count++], sizeof run->notes[0], "%s", text);
}

static enum mb_status choose_text(struct plan_run *run, const char *given, const char *name,
                                  const char *option, char **path)
{
    *path = given ? strdup(given) : mb_bundled_text(name);
    return *path ? MB_OK
                 : mb_usage(run->cli,
                            "%s: the text that comes with mixbit (%s) was not found; name a file",
                            option, name);
}

/* ---- opening: everything that can be wrong with the input is found before minutes of work
 * --------------------- */

static const char *const outputs[] = {
    "profile.json",         "sensitivity.json",        "plan.json",  "mixed.gguf",
    "recipe.llama.cpp.txt", "recipe.ik_llama.cpp.txt", "report.html"};

static enum mb_status check_outputs(struct plan_run *run)
{
    enum mb_status status = mb_directory_create(run->options->output, &run->cli->error);
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs && status == MB_OK; i++) {
        char *path = mb_path_join(run->options->output, outputs[i]);
        status = path ? mb_step_check_output(run->cli, path) : MB_ERR_MEMORY;
        free(path);
    }
    return status;
}

static enum mb_status open_inputs(struct plan_run *run)
{
    const struct plan_options *o = run->options;
    struct mb_windows sensed = {.tokens = NULL};
    struct mb_cli *cli = run->cli;
    enum mb_status status = mb_model_open(cli->positionals[0], &run->model, &cli->error);
    if (status == MB_OK)
        status = choose_text(run, o->text, "calib.txt", "--text", &run->text);
    if (status == MB_OK)
        status = choose_text(run, o->eval_text, "heldout.txt", "--eval-text", &run->eval_text);
    if (status == MB_OK)
        status = mb_step_threads(cli, o->threads, &run->threads);
    run->device.size = sizeof run->device;
    if (status == MB_OK)
        status = mb_device_info(&run->device);
    const size_t most = o->eval_windows ? o->eval_windows : o->effort == MB_EFFORT_QUICK ? 8 : 64;
    if (status == MB_OK)
        status = mb_step_windows(cli, run->model, run->eval_text, o->window, most, &run->held_out);
    if (status == MB_OK)
        status = mb_step_windows(cli, run->model, run->text, o->window, 2, &sensed);
    if (status == MB_OK)
        status = mb_step_check_texts(cli, sensed.text_hash, run->held_out.text_hash);
    mb_windows_free(&sensed);
    if (status == MB_OK)
        status = check_outputs(run);
    if (status != MB_OK)
        return status;

    run->formats = o->formats;
    if (!run->formats.count)
        mb_default_formats(run->model, &run->formats);
    const struct mb_format_info *majority = mb_format_info(mb_majority_quantized(run->model));
    snprintf(run->base, sizeof run->base, "the %s file given%s",
             majority ? majority->name : "float", majority ? ", which is itself quantized" : "");
    if (majority) {
        char text[300];
        snprintf(text, sizeof text,
                 "KL is relative to the given %s file, not to the model it was made from; %s "
                 "itself is left out "
                 "of the candidates, because keeping everything would be no loss and no answer.",
                 majority->name, majority->name);
        add_note(run, text);
        mb_note(cli, "%s", text);
    }
    return MB_OK;
}

/* ---- solving
 * --------------------------------------------------------------------------------------------------
 */

static void describe_objective(struct plan_run *run, const struct mb_budget *budget,
                               const char *fastest)
{
    static const char *const names[] = {"loss", "decode time", "prefill time", "size"};
    char *text = run->objective;
    const size_t room = sizeof run->objective;
    size_t at = (size_t)snprintf(text, room, "least %s",
                                 names[mb_minimize_quantity(run->options->budget.minimize)]);
    const char *join = " with ";
    for (int q = 0; q < MB_QUANTITY_COUNT && at < room; q++) {
        const double max = budget->max[q];
        if (!(max > 0))
            continue;
        char part[64];
        if (q == MB_QUANTITY_BYTES)
            snprintf(part, sizeof part, "%.3f MB or less", max / 1e6);
        else if (q == MB_QUANTITY_LOSS)
            snprintf(part, sizeof part, "a KL of %.5f or less", max);
        else
            snprintf(part, sizeof part, "%s at %.0f tok/s or more",
                     q == MB_QUANTITY_DECODE ? "decode" : "prefill", 1e9 / max);
        at += (size_t)snprintf(text + at, room - at, "%s%s", join, part);
        join = ", ";
    }
    if (fastest && at < room)
        snprintf(
            text + at, room - at,
            " (no budget was given: 4.5 bits per weight, no slower than uniform %s to within 3 %%)",
            fastest);
}

static enum mb_status mix_of_solution(struct plan_run *run, const struct mb_problem *problem,
                                      const struct mb_solution *solution, const char *name,
                                      struct mb_mix *mix)
{
    *mix = (struct mb_mix){.kind = MB_MIX_PLAN, .count = mb_model_tensor_count(run->model)};
    snprintf(mix->name, sizeof mix->name, "%s", name);
    mix->formats = malloc(mix->count * sizeof *mix->formats);
    if (!mix->formats)
        return MB_ERR_MEMORY;
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        mix->formats[unit->tensor] = unit->candidates[solution->choice[u]].format;
    }
    return MB_OK;
}

/* The curve without a size limit, and the two points on it nearest below and above the plan's size
 * (but not next to it). */
static enum mb_status add_neighbours(struct plan_run *run, const struct mb_budget *budget)
{
    const struct mb_problem *problem = run->forecast.problem[run->residency];
    const enum mb_quantity minimize = mb_minimize_quantity(run->options->budget.minimize);
    const enum mb_quantity against =
        minimize == MB_QUANTITY_BYTES ? MB_QUANTITY_LOSS : MB_QUANTITY_BYTES;
    struct mb_budget along = *budget;
    along.max[against] = 0;
    if (!mb_budget_given(&run->options->budget))
        along.max[MB_QUANTITY_DECODE] = 0;
    enum mb_status status = mb_solve_front(problem, minimize, against, &along, 40, &run->front,
                                           &run->front_count, &run->cli->error);
    if (status == MB_ERR_INFEASIBLE) {
        run->front_count = 0;
        status = MB_OK;
    }
    const double size = run->plan->total[MB_QUANTITY_BYTES];
    size_t below = SIZE_MAX, above = SIZE_MAX;
    for (size_t i = 0; i < run->front_count; i++) {
        const double bytes = run->front[i].total[MB_QUANTITY_BYTES];
        if (bytes < size * 0.96)
            below = i;
        if (bytes > size * 1.04 && above == SIZE_MAX)
            above = i;
    }
    const size_t neighbours[2] = {below, above};
    for (int i = 0; i < 2 && status == MB_OK; i++) {
        struct mb_mix mix;
        if (neighbours[i] == SIZE_MAX)
            continue;
        status = mix_of_solution(run, problem, &run->front[neighbours[i]],
                                 i ? "larger plan" : "smaller plan", &mix);
        if (status == MB_OK)
            status =
                mb_comparison_add(&run->comparison, &mix, MB_ROW_NEIGHBOUR, &run->forecast, NULL);
    }
    return status;
}

/* The same budgets with the candidates of one activation type only. Products that share an input
 * (q, k and v) then share its preparation and one dispatch, which the sum over tensors cannot see;
 * measuring tells which plan is better. */
static enum mb_status add_variants(struct plan_run *run, const struct mb_budget *budget,
                                   const struct mb_forecast_request *request)
{
    static const enum mb_activation types[] = {MB_ACTIVATION_I8G256, MB_ACTIVATION_I8G32};
    enum mb_status status = MB_OK;
    for (size_t t = 0; t < sizeof types / sizeof *types && status == MB_OK; t++) {
        struct mb_forecast_request same = *request;
        struct mb_format_list formats = {.count = 0};
        for (size_t i = 0; i < run->formats.count; i++)
            if (mb_format_info(run->formats.at[i])->activation == types[t])
                formats.at[formats.count++] = run->formats.at[i];
        if (formats.count == 0 || formats.count == run->formats.count)
            continue;
        same.formats = &formats;
        struct mb_forecast forecast = {.model = NULL};
        struct mb_plan *plan = NULL;
        struct mb_mix mix;
        enum mb_residency residency;
        status = mb_forecast_create(run->cli, run->model, &same, &forecast);
        if (status == MB_OK)
            status = mb_forecast_solve(run->cli, &forecast,
                                       mb_minimize_quantity(run->options->budget.minimize), budget,
                                       run->options->budget.max_ram.bytes, &plan, &residency);
        if (status == MB_OK)
            status = mb_mix_plan(run->cli, run->model, plan, &mix);
        if (status == MB_OK) {
            snprintf(mix.name, sizeof mix.name, "plan (%s)", mb_activation_name(types[t]));
            status = mb_comparison_add(&run->comparison, &mix, MB_ROW_PLAN, &run->forecast, NULL);
        }
        mb_plan_free(plan);
        mb_forecast_free(&forecast);
        if (status == MB_ERR_INFEASIBLE)
            status = MB_OK; /* fewer candidates may not meet what all of them do */
    }
    return status;
}

/* Rows of at most the source's size (larger ones answer nothing), then the plan, then its
 * neighbours: a plan that is a uniform format keeps that name. */
static enum mb_status solve(struct plan_run *run)
{
    struct mb_cli *cli = run->cli;
    struct mb_mix *mixes = NULL, mix;
    size_t count = 0;
    struct mb_budget budget = {{0}};
    const char *fastest = NULL;
    enum mb_status status = mb_mix_list(cli, run->model, &run->formats, &mixes, &count);
    if (status != MB_OK)
        return status;
    if (mb_budget_given(&run->options->budget))
        status = mb_budget_resolve(cli, &run->forecast, &run->options->budget, &budget);
    else
        mb_budget_default(&run->forecast, mixes, count, &budget, &fastest);
    if (status == MB_OK)
        status = mb_forecast_solve(cli, &run->forecast,
                                   mb_minimize_quantity(run->options->budget.minimize), &budget,
                                   run->options->budget.max_ram.bytes, &run->plan, &run->residency);
    if (status == MB_OK)
        describe_objective(run, &budget, fastest);
    for (size_t i = 0; i < count; i++) {
        const enum mb_row_kind kind =
            mixes[i].kind == MB_MIX_PRESET ? MB_ROW_PRESET : MB_ROW_UNIFORM;
        if (status == MB_OK &&
            mb_mix_bytes(run->model, &mixes[i]) <= (double)mb_model_file_bytes(run->model))
            status = mb_comparison_add(&run->comparison, &mixes[i], kind, &run->forecast, NULL);
        else
            mb_mix_free(&mixes[i]);
    }
    free(mixes);
    if (status == MB_OK)
        status = mb_mix_plan(cli, run->model, run->plan, &mix);
    if (status == MB_OK)
        status =
            mb_comparison_add(&run->comparison, &mix, MB_ROW_PLAN, &run->forecast, &run->chosen);
    if (status == MB_OK)
        status = add_variants(run, &budget, &run->forecast_request);
    return status == MB_OK ? add_neighbours(run, &budget) : status;
}

/* ---- judging and writing
 * -------------------------------------------------------------------------------------- */

/* The plan of a row whose formats are all candidates, with the same header as the solver's. */
static enum mb_status plan_of_row(struct plan_run *run, const struct mb_assignment *row,
                                  struct mb_plan **plan)
{
    const struct mb_problem *problem = run->forecast.problem[run->residency];
    struct mb_solution solution = {.choice = calloc(problem->unit_count + 1, sizeof(size_t))};
    if (!solution.choice)
        return MB_ERR_MEMORY;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = mb_mix_format(run->model, &row->mix, unit->tensor);
        while (solution.choice[u] + 1 < unit->candidate_count &&
               unit->candidates[solution.choice[u]].format != format)
            solution.choice[u]++;
    }
    mb_problem_totals(problem, solution.choice, solution.total);
    const enum mb_status status = mb_plan_from_solution(problem, &solution, plan);
    mb_solution_free(&solution);
    if (status != MB_OK)
        return status;
    memcpy((*plan)->model_hash, run->plan->model_hash, sizeof run->plan->model_hash);
    memcpy((*plan)->device_key, run->plan->device_key, sizeof run->plan->device_key);
    memcpy((*plan)->objective, run->plan->objective, sizeof run->plan->objective);
    (*plan)->budget = run->plan->budget;
    return MB_OK;
}

/* Of several plans under the same budgets the one that measures best: those that keep the speed
 * budget (to 5 %) first, then the least loss. Other objectives keep the solver's own. */
static size_t best_plan(const struct plan_run *run)
{
    const struct mb_assignment *rows = run->comparison.rows;
    const double limit = run->plan->budget.max[MB_QUANTITY_DECODE] * 1.05;
    size_t best = run->chosen;
    if (mb_minimize_quantity(run->options->budget.minimize) != MB_QUANTITY_LOSS)
        return best;
    for (size_t i = 0; i < run->comparison.count; i++) {
        const bool fast = limit <= 0 || rows[i].speed.decode_ns <= limit;
        const bool best_fast = limit <= 0 || rows[best].speed.decode_ns <= limit;
        if (rows[i].kind == MB_ROW_PLAN &&
            (fast != best_fast ? fast : rows[i].evaluation.kl_mean < rows[best].evaluation.kl_mean))
            best = i;
    }
    return best;
}

/* The measured rows decide: a uniform format or preset that beats the plan takes its place. One
 * that needs formats which the user excluded is only named. */
static enum mb_status recommend(struct plan_run *run)
{
    struct mb_assignment *rows = run->comparison.rows;
    const size_t solved = run->chosen;
    run->chosen = best_plan(run);
    if (run->chosen != solved) {
        struct mb_plan *plan = NULL;
        const enum mb_status status = plan_of_row(run, &rows[run->chosen], &plan);
        if (status != MB_OK)
            return status;
        mb_plan_free(run->plan);
        run->plan = plan;
    }
    const struct mb_assignment *better = mb_comparison_beats(&run->comparison, &rows[run->chosen]);
    if (better && isnan(better->predicted[MB_QUANTITY_LOSS])) {
        char text[300];
        snprintf(text, sizeof text,
                 "%s loses less at no larger size and no lower speed, but uses formats that "
                 "--formats excludes.",
                 better->mix.name);
        add_note(run, text);
        mb_warn(run->cli, "%s", text);
    } else if (better) {
        char text[300];
        snprintf(text, sizeof text,
                 "The solver's mix lost to %s, measured: less loss at no larger size and no lower "
                 "speed. What is "
                 "recommended and written is %s.",
                 better->mix.name, better->mix.name);
        add_note(run, text);
        mb_warn(run->cli, "%s", text);
        struct mb_plan *plan = NULL;
        const enum mb_status status = plan_of_row(run, better, &plan);
        if (status != MB_OK)
            return status;
        mb_plan_free(run->plan);
        run->plan = plan;
        run->chosen = (size_t)(better - rows);
    }
    rows[run->chosen].recommended = 1;
    return MB_OK;
}

static enum mb_status write_report(struct plan_run *run, const char *path)
{
    struct mb_report_row *rows = mb_comparison_report_rows(&run->comparison);
    struct mb_report_row *front = calloc(run->front_count + 1, sizeof *front);
    const char *notes[NOTES];
    for (size_t i = 0; i < run->note_count; i++)
        notes[i] = run->notes[i];
    for (size_t i = 0; front && i < run->front_count; i++) {
        front[i].bytes = run->front[i].total[MB_QUANTITY_BYTES];
        front[i].predicted_kl = run->front[i].total[MB_QUANTITY_LOSS];
    }
    const char *slash = strrchr(mb_model_path(run->model), '/');
    const struct mb_report report = {
        .model_name = slash ? slash + 1 : mb_model_path(run->model),
        .model_path = mb_model_path(run->model),
        .architecture = mb_model_architecture(run->model),
        .objective = run->objective,
        .base = run->base,
        .device = &run->device,
        .profile = run->profile,
        .threads = mb_threads_count(run->threads),
        .sensitivity = run->table,
        .plan = run->plan,
        .rows = rows,
        .row_count = run->comparison.count,
        .front = front,
        .front_count = run->front_count,
        .notes = notes,
        .note_count = run->note_count,
    };
    const enum mb_status status =
        rows && front ? mb_report_write(&report, path, &run->cli->error) : MB_ERR_MEMORY;
    free(rows);
    free(front);
    return status;
}

static enum mb_status write_one(struct plan_run *run, size_t i, const char *path)
{
    struct mb_cli *cli = run->cli;
    char *command = NULL;
    enum mb_status status = MB_OK;
    switch (i) {
    case 0: return mb_profile_save(run->profile, path, &cli->error);
    case 1: return MB_OK; /* sensing wrote it */
    case 2: return mb_plan_save(run->plan, path, &cli->error);
    case 3:
        return mb_step_convert(cli, run->model, &run->comparison.rows[run->chosen].mix, run->plan,
                               run->table->text_hash, run->threads, path);
    case 4:
        status = mb_recipe_write(run->plan, MB_RUNTIME_LLAMA_CPP, path, &command, &cli->error);
        break;
    case 5:
        status = mb_recipe_write(run->plan, MB_RUNTIME_IK_LLAMA_CPP, path, &command, &cli->error);
        break;
    default: return write_report(run, path);
    }
    free(command);
    return status;
}

static enum mb_status write_outputs(struct plan_run *run)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs && status == MB_OK; i++) {
        char *path = mb_path_join(run->options->output, outputs[i]);
        status = path ? write_one(run, i, path) : MB_ERR_MEMORY;
        free(path);
    }
    return status;
}

static enum mb_status print_result(struct plan_run *run)
{
    struct mb_table *table = mb_comparison_table(&run->comparison);
    enum mb_status status = MB_OK;
    if (run->cli->common.json) {
        json_t *root =
            json_pack("{s:s, s:s, s:s, s:o}", "model", mb_model_path(run->model), "objective",
                      run->objective, "base", run->base, "rows", mb_table_json(table));
        json_t *notes = json_array();
        for (size_t i = 0; i < run->note_count; i++)
            (void)json_array_append_new(notes, json_string(run->notes[i]));
        (void)json_object_set_new(root, "notes", notes);
        status = mb_print_json(run->cli, root);
    } else {
        mb_table_print(table, stdout);
        printf("\n%s: %s.\nKL is relative to %s; measured on %zu windows of %zu tokens that "
               "sensing did not see.\n",
               run->comparison.rows[run->chosen].mix.name, run->objective, run->base,
               run->held_out.count, run->held_out.window);
        printf("written to %s:", run->options->output);
        for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
            printf(" %s", outputs[i]);
        printf("\n");
    }
    mb_table_free(table);
    return status;
}

/* ---- the walk
 * -------------------------------------------------------------------------------------------------
 */

static enum mb_status measure_and_sense(struct plan_run *run)
{
    const struct plan_options *o = run->options;
    struct mb_cli *cli = run->cli;
    struct mb_format_list stored;
    mb_stored_formats(run->model, &run->formats, &stored);
    const struct mb_profile_request profile = {
        .path = o->profile, .model = run->model, .formats = &stored, .threads = run->threads};
    enum mb_status status = mb_step_profile(cli, &profile, &run->profile, NULL);
    if (status != MB_OK)
        return status;
    mb_profile_apply(run->profile);
    char *table_path = mb_path_join(o->output, "sensitivity.json");
    const struct mb_sense_request sense = {.text = run->text,
                                           .windows = o->windows,
                                           .window = o->window,
                                           .effort = o->effort,
                                           .formats = &run->formats,
                                           .output = table_path,
                                           .threads = run->threads};
    status = table_path ? mb_step_sense(cli, run->model, &sense, &run->table) : MB_ERR_MEMORY;
    free(table_path);
    run->forecast_request = (struct mb_forecast_request){.table = run->table,
                                                         .profile = run->profile,
                                                         .formats = &run->formats,
                                                         .pins = &o->budget.pins,
                                                         .threads = mb_threads_count(run->threads)};
    if (status == MB_OK)
        status = mb_step_fixed_cost(cli, run->model, run->threads, o->context,
                                    &run->forecast_request.fixed);
    if (status == MB_OK)
        status = mb_forecast_create(cli, run->model, &run->forecast_request, &run->forecast);
    return status;
}

static enum mb_status run_plan(struct mb_cli *cli, const void *typed)
{
    struct plan_run run = {.cli = cli, .options = typed};
    enum mb_status status = open_inputs(&run);
    mb_comparison_init(&run.comparison, run.model);
    if (status == MB_OK)
        status = measure_and_sense(&run);
    if (status == MB_OK)
        status = solve(&run);
    const struct mb_compare_options compare = {.windows = &run.held_out,
                                               .threads = run.threads,
                                               .context = run.options->context,
                                               .repeats = run.options->repeats,
                                               .memory_limit_bytes = run.device.memory_bytes / 8};
    if (status == MB_OK)
        status = mb_comparison_measure(cli, &run.comparison, &compare);
    if (status == MB_OK)
        status = recommend(&run);
    if (status == MB_OK)
        status = write_outputs(&run);
    if (status == MB_OK)
        status = print_result(&run);

    mb_comparison_free(&run.comparison);
    mb_forecast_free(&run.forecast);
    for (size_t i = 0; i < run.front_count; i++)
        mb_solution_free(&run.front[i]);
    free(run.front);
    mb_plan_free(run.plan);
    mb_sensitivity_free(run.table);
    mb_profile_free(run.profile);
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
    .options_bytes = sizeof(struct plan_options),
    .details = "Writes profile.json, sensitivity.json, plan.json, mixed.gguf, recipes for "
               "llama.cpp and ik_llama.cpp "
               "and report.html into the output folder, and prints the plan beside every uniform "
               "format and preset, "
               "measured. Without a budget: least loss at 4.5 bits per weight, decoding no slower "
               "than the fastest "
               "uniform format of 4 bits or more. Interrupted runs go on where they stopped.",
    .example = "mixbit plan model.f16.gguf --max-size 4.25bpw --min-decode 20 -o out",
    .run = run_plan,
};
