/* SPDX-License-Identifier: Apache-2.0 */
/* recipe: the same mix in the words of another runtime's quantizer, for people who convert with
 * that. */
#include "cli/option_rows.h"
#include "cli/recipe.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *output, *check;
    int runtime;
};

/* Recipes are files to the library; without -o, one that goes away again. free(). */
static char *temporary_path(struct mb_cli *cli)
{
    const char *folder = getenv("TMPDIR");
    char *path =
        mb_path_join(folder != NULL && folder[0] != '\0' ? folder : "/tmp", "mixbit-recipe-XXXXXX");
    const int descriptor = path != NULL ? mkstemp(path) : -1;
    if (descriptor >= 0) {
        (void)close(descriptor);
        return path;
    }
    free(path);
    (void)mb_error_set(&cli->error, MB_ERR_IO, -1,
                       "cannot create a temporary file; set TMPDIR, or use -o FILE");
    return NULL;
}

/* The tool refuses such tensors, after minutes of work on the others. */
static void warn_of_importance(struct mb_cli *cli, const struct mb_plan *plan,
                               enum mb_runtime runtime)
{
    const char *first = NULL;
    size_t count = 0;
    for (size_t i = 0; i < plan->count; i++)
        if (mb_runtime_needs_importance(runtime, plan->entries[i].name, plan->entries[i].format) &&
            count++ == 0)
            first = plan->entries[i].name;
    if (count > 0)
        mb_warn(cli,
                "%zu tensors (%s the first) are in formats that %s makes only with --imatrix; "
                "'mixbit solve --runtime %s' does without",
                count, first, mb_runtime_names[runtime], mb_runtime_names[runtime]);
}

static enum mb_status print_check(struct mb_cli *cli, const struct mb_plan *plan,
                                  const struct mb_recipe_check *check)
{
    size_t i;
    json_t *difference;
    const size_t count = json_array_size(check->differences);
    if (count == 0) {
        mb_note(cli, "llama-quantize would make of all %zu tensors what the plan says",
                plan->count);
        return MB_OK;
    }
    json_array_foreach(check->differences, i, difference)
    {
        const char *planned = json_string_value(json_object_get(difference, "planned"));
        const char *made = json_string_value(json_object_get(difference, "made"));
        mb_warn(cli, "%s: planned %s, llama-quantize: %s",
                json_string_value(json_object_get(difference, "tensor")),
                planned != NULL ? planned : "nothing", made != NULL ? made : "no such tensor");
    }
    return mb_error_set(&cli->error, MB_ERR_VERIFY, -1,
                        "llama-quantize would make %zu of %zu tensors otherwise than planned",
                        count, plan->count);
}

static enum mb_status check_options(struct mb_cli *cli, const struct options *options)
{
    if (options->check != NULL && options->runtime != MB_RUNTIME_LLAMA_CPP)
        return mb_usage(cli, "--check goes with --for llama.cpp: it runs llama-quantize's dry run");
    return options->output != NULL ? mb_step_check_output(cli, options->output) : MB_OK;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    const enum mb_runtime runtime = (enum mb_runtime)options->runtime;
    struct mb_recipe_check check = {0};
    struct mb_plan *plan = NULL;
    char *command = NULL, *text = NULL, *temporary = NULL;
    size_t bytes;
    enum mb_status status = check_options(cli, options);
    if (status == MB_OK)
        status = mb_plan_load(cli->positionals[0], &plan, &cli->error);
    if (status == MB_OK && options->output == NULL && (temporary = temporary_path(cli)) == NULL)
        status = MB_ERR_IO;
    const char *path = temporary != NULL ? temporary : options->output;
    if (status == MB_OK)
        status = mb_recipe_write(plan, runtime, path, &command, &cli->error);
    if (status == MB_OK)
        status = mb_file_read(path, (size_t)64 << 20, &text, &bytes, &cli->error);
    if (status == MB_OK && options->check != NULL)
        status = mb_recipe_check(cli, plan, path, options->check, &check);
    if (status == MB_OK && cli->common.json)
        status = mb_print_json(cli, json_pack("{s:s, s:s*, s:s, s:s*, s:O*}", "runtime",
                                              mb_runtime_names[options->runtime], "output",
                                              options->output, "recipe", text, "command", command,
                                              "differences", check.differences));
    else if (status == MB_OK && options->output == NULL)
        (void)fputs(text, stdout);
    else if (status == MB_OK && command != NULL)
        (void)printf("%s\n", command);
    if (status == MB_OK)
        warn_of_importance(cli, plan, runtime);
    if (status == MB_OK && options->check != NULL)
        status = print_check(cli, plan, &check);
    if (temporary != NULL)
        (void)remove(temporary);
    json_decref(check.differences);
    free(temporary);
    free(command);
    free(text);
    mb_plan_free(plan);
    return status;
}

static const struct mb_option table[] = {
    {.name = "for",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct options, runtime),
     .choices = mb_runtime_names,
     .help = "whose words: a --tensor-type-file, or a --custom-q argument",
     .fallback = "llama.cpp"},
    MB_OUTPUT_ROW(struct options, output,
                  "write the recipe there and print the command that uses it (default: print the "
                  "recipe)"),
    {.name = "check",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, check),
     .value = "MODEL",
     .help = "run llama-quantize --dry-run on the model with the recipe (from PATH or the folder "
             "MIXBIT_LLAMA_BIN) and compare tensor by tensor; status 4 where they differ"},
    {0}};

const struct mb_verb mb_verb_recipe = {
    .name = "recipe",
    .summary = "say a plan in the words of llama.cpp's or ik_llama.cpp's quantizer",
    .positionals = "PLAN",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .example = "mixbit recipe plan.json --for llama.cpp -o types.txt --check model.gguf",
    .run = run,
};
