/* SPDX-License-Identifier: Apache-2.0 */
/* Outputs of `mixbit plan`: the files of the output folder, and the comparison on stdout. */
#include "cli/planning.h"

#include <stdlib.h>
#include <string.h>

const char *const mb_planning_outputs[MB_PLANNING_OUTPUTS] = {
    "profile.json",         "sensitivity.json",        "plan.json",  "mixed.gguf",
    "recipe.llama.cpp.txt", "recipe.ik_llama.cpp.txt", "report.html"};

static enum mb_status write_report(struct mb_planning *run, const char *path)
{
    struct mb_report_row *rows = mb_comparison_report_rows(&run->comparison);
    struct mb_report_row *front = calloc(run->front_count + 1, sizeof *front);
    const char *notes[MB_PLANNING_NOTES];
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

/* A runtime that can't have this mix gets no recipe, and an older one at this place goes. */
static enum mb_status write_recipe(struct mb_planning *run, size_t i, enum mb_runtime runtime,
                                   const char *path)
{
    struct mb_cli *cli = run->cli;
    char *command = NULL;
    const enum mb_status status = mb_recipe_write(run->plan, runtime, path, &command, &cli->error);
    free(command);
    if (status != MB_ERR_UNSUPPORTED)
        return status;
    mb_warn(cli, "%s is not written: %s", mb_planning_outputs[i], cli->error.message);
    cli->error = (struct mb_error){0};
    (void)remove(path);
    run->unwritten |= 1u << i;
    return MB_OK;
}

/* With the fixed part that the plan rests on, so that `solve` with this file starts from it too. */
static enum mb_status write_profile(struct mb_planning *run, const char *path)
{
    const enum mb_status status = mb_profile_put_fixed_cost(run->profile, &run->forecast.fixed);
    if (status != MB_OK)
        return mb_error_set(&run->cli->error, status, -1, "%s: cannot note the fixed cost: %s",
                            path, mb_status_string(status));
    return mb_profile_save(run->profile, path, &run->cli->error);
}

/* The blocks that were measured. */
struct mb_convert_request mb_planning_file(struct mb_planning *run, const char *path)
{
    return (struct mb_convert_request){
        .mix = &run->comparison.rows[run->chosen].mix,
        .plan = run->plan,
        .sensed_hash = run->table->text_hash,
        .importance = run->importance,
        .calibration = run->calibration.encoder != NULL ? &run->calibration : NULL,
        .sweeps = MB_SWEEPS,
        .threads = run->threads,
        .output = path};
}

static enum mb_status write_model(struct mb_planning *run, const char *path)
{
    const struct mb_convert_request request = mb_planning_file(run, path);
    return run->is_written ? MB_OK : mb_step_convert(run->cli, run->model, &request);
}

static enum mb_status write_one(struct mb_planning *run, size_t i, const char *path)
{
    struct mb_cli *cli = run->cli;
    switch (i) {
    case 0: return write_profile(run, path);
    case 1: return MB_OK; /* sensing wrote it */
    case 2: return mb_plan_save(run->plan, path, &cli->error);
    case 3: return write_model(run, path);
    case 4: return write_recipe(run, i, MB_RUNTIME_LLAMA_CPP, path);
    case 5: return write_recipe(run, i, MB_RUNTIME_IK_LLAMA_CPP, path);
    default: return write_report(run, path);
    }
}

/* A file that no other program runs says so where its numbers are read. */
static void tell_readers(struct mb_planning *run)
{
    size_t books = 0;
    char text[200];
    for (size_t i = 0; i < run->plan->count; i++)
        books += mb_format_is_codebook(run->plan->entries[i].format);
    if (books == 0)
        return;
    snprintf(text, sizeof text,
             "%zu tensors are codebook matrices: 'mixbit eval' runs mixed.gguf, other programs "
             "refuse it.",
             books);
    mb_planning_note(run, text);
    mb_note(run->cli, "%s", text);
}

enum mb_status mb_planning_write(struct mb_planning *run)
{
    enum mb_status status = MB_OK;
    tell_readers(run);
    for (size_t i = 0; i < MB_PLANNING_OUTPUTS && status == MB_OK; i++) {
        char *path = mb_path_join(run->options->output, mb_planning_outputs[i]);
        status = path ? write_one(run, i, path) : MB_ERR_MEMORY;
        free(path);
    }
    return status;
}

enum mb_status mb_planning_print(struct mb_planning *run)
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
        for (size_t i = 0; i < MB_PLANNING_OUTPUTS; i++)
            if (!(run->unwritten >> i & 1))
                printf(" %s", mb_planning_outputs[i]);
        printf("\n");
    }
    mb_table_free(table);
    return status;
}
