/* SPDX-License-Identifier: Apache-2.0 */
/* Inputs of `mixbit plan`: model, texts, threads, candidates, and an output folder that may be
 * written to. */
#include "cli/planning.h"
#include "dispatch/backend.h"

#include <stdlib.h>
#include <string.h>

void mb_planning_note(struct mb_planning *run, const char *text)
{
    if (run->note_count < MB_PLANNING_NOTES)
        snprintf(run->notes[run->note_count++], sizeof run->notes[0], "%s", text);
}

static enum mb_status check_outputs(struct mb_planning *run)
{
    enum mb_status status = mb_directory_create(run->options->output, &run->cli->error);
    for (size_t i = 0; i < MB_PLANNING_OUTPUTS && status == MB_OK; i++) {
        char *path = mb_path_join(run->options->output, mb_planning_outputs[i]);
        status = path ? mb_step_check_output(run->cli, path) : MB_ERR_MEMORY;
        free(path);
    }
    return status;
}

static enum mb_status choose_method(struct mb_planning *run)
{
    const char *text = run->options->surrogate;
    run->method = text != NULL && strcmp(text, "all") == 0 ? MB_METHOD_KL : MB_METHOD_SURROGATE;
    run->probes = run->options->effort == MB_EFFORT_QUICK ? 1 : 2;
    return text != NULL && run->method == MB_METHOD_SURROGATE
               ? mb_parse_count("--surrogate", text, 1, &run->probes, &run->cli->error)
               : MB_OK;
}

static bool is_candidate(const struct mb_planning *run, enum mb_format format)
{
    for (size_t f = 0; f < run->formats.count; f++)
        if (run->formats.at[f] == format)
            return true;
    return false;
}

/* Formats that options name are among the candidates, and --as-fast-as is the only speed. */
static enum mb_status check_named(struct mb_planning *run)
{
    const struct mb_planning_options *o = run->options;
    const enum mb_format contribution = run->aim.weighting.contribution;
    if (contribution != MB_FORMAT_NONE && !is_candidate(run, contribution))
        return mb_usage(run->cli, "--contribution: expected one of the candidate formats");
    if (o->as_fast_as == NULL)
        return MB_OK;
    run->as_fast_as = mb_format_by_name(o->as_fast_as);
    if (!is_candidate(run, run->as_fast_as))
        return mb_usage(run->cli, "--as-fast-as: expected one of the candidate formats");
    if (o->budget.min_decode > 0 || o->budget.min_prefill > 0 || o->budget.weights != NULL)
        return mb_usage(run->cli, "--as-fast-as says which speed is enough: it goes without "
                                  "--min-decode, --min-prefill and --weights");
    return MB_OK;
}

enum mb_status mb_planning_open(struct mb_planning *run)
{
    const struct mb_planning_options *o = run->options;
    struct mb_windows sensed = {.tokens = NULL};
    struct mb_cli *cli = run->cli;
    enum mb_status status = mb_aim_resolve(cli, &o->budget, &run->aim);
    if (status == MB_OK)
        status = choose_method(run);
    if (status == MB_OK)
        status = mb_presets_check(cli, o->presets);
    if (status == MB_OK)
        status = mb_step_open(cli, cli->positionals[0], &run->model);
    if (status == MB_OK)
        status = mb_step_text(cli, o->text, "calib.txt", "--text", &run->text);
    if (status == MB_OK)
        status = mb_step_text(cli, o->eval_text, "heldout.txt", "--eval-text", &run->eval_text);
    if (status == MB_OK)
        status = mb_step_threads(cli, o->threads, &run->threads);
    run->device.size = sizeof run->device;
    if (status == MB_OK)
        status = mb_device_info(&run->device);
    if (status == MB_OK)
        status = mb_accelerator_open(o->device, &run->target.accelerator, &cli->error);
    if (status == MB_OK && run->target.accelerator != NULL)
        run->device = run->target.accelerator->info;
    const size_t most = o->eval_windows ? o->eval_windows : o->effort == MB_EFFORT_QUICK ? 8 : 64;
    if (status == MB_OK)
        status = mb_step_windows(cli, run->model, run->eval_text, o->window, most, &run->held_out);
    if (status == MB_OK && !mb_text_is_made(run->text))
        status = mb_step_windows(cli, run->model, run->text, o->window, 2, &sensed);
    if (status == MB_OK)
        status = mb_step_check_texts(cli, sensed.text_hash, run->held_out.text_hash);
    mb_windows_free(&sensed);
    if (status == MB_OK)
        status = mb_step_importance(cli, run->model, o->imatrix, &run->importance);
    if (status == MB_OK && run->importance != NULL)
        status = mb_step_check_texts(cli, run->importance->text_hash, run->held_out.text_hash);
    if (status == MB_OK)
        status = check_outputs(run);
    if (status != MB_OK)
        return status;

    if (run->importance != NULL)
        mb_planning_note(run, "Everything compared was rounded with an imatrix; presets are "
                              "llama.cpp's mixes for a run without one.");
    run->formats = o->formats;
    if (!run->formats.count)
        mb_default_formats(run->model, &run->formats);
    status = mb_constraints_check(cli, run->model, &o->budget.constraints, run->importance != NULL,
                                  &run->formats);
    if (status == MB_OK)
        status = check_named(run);
    if (status != MB_OK)
        return status;
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
        mb_planning_note(run, text);
        mb_note(cli, "%s", text);
    }
    return MB_OK;
}
