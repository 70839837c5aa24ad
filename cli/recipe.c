/* SPDX-License-Identifier: Apache-2.0 */
/* recipe: the same mix in the words of another runtime's quantizer, for people who convert with
 * that. */
#include "cli/option_rows.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *output;
    int runtime;
};

/* Without -o the recipe goes to stdout: by way of a file, since recipes are files to the library.
 */
static enum mb_status print_recipe(struct mb_cli *cli, const struct mb_plan *plan,
                                   enum mb_runtime runtime, char **text, char **command)
{
    const char *folder = getenv("TMPDIR");
    size_t bytes;
    char *path =
        mb_path_join(folder != NULL && folder[0] != '\0' ? folder : "/tmp", "mixbit-recipe-XXXXXX");
    const int descriptor = path != NULL ? mkstemp(path) : -1;
    enum mb_status status = MB_OK;
    if (descriptor < 0) {
        free(path);
        return mb_error_set(&cli->error, MB_ERR_IO, -1,
                            "cannot create a temporary file; set TMPDIR, or use -o FILE");
    }
    (void)close(descriptor);
    status = mb_recipe_write(plan, runtime, path, command, &cli->error);
    if (status == MB_OK)
        status = mb_file_read(path, (size_t)64 << 20, text, &bytes, &cli->error);
    (void)remove(path);
    free(path);
    return status;
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

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    const enum mb_runtime runtime = (enum mb_runtime)options->runtime;
    struct mb_plan *plan = NULL;
    char *command = NULL, *text = NULL;
    size_t bytes;
    enum mb_status status = mb_plan_load(cli->positionals[0], &plan, &cli->error);
    if (status == MB_OK && options->output != NULL) {
        status = mb_step_check_output(cli, options->output);
        if (status == MB_OK)
            status = mb_recipe_write(plan, runtime, options->output, &command, &cli->error);
        if (status == MB_OK)
            status = mb_file_read(options->output, (size_t)64 << 20, &text, &bytes, &cli->error);
    } else if (status == MB_OK) {
        status = print_recipe(cli, plan, runtime, &text, &command);
    }
    if (status == MB_OK && cli->common.json)
        status = mb_print_json(cli, json_pack("{s:s, s:s*, s:s, s:s*}", "runtime",
                                              mb_runtime_names[options->runtime], "output",
                                              options->output, "recipe", text, "command", command));
    else if (status == MB_OK && options->output == NULL)
        (void)fputs(text, stdout);
    else if (status == MB_OK && command != NULL)
        (void)printf("%s\n", command);
    if (status == MB_OK)
        warn_of_importance(cli, plan, runtime);
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
    {0}};

const struct mb_verb mb_verb_recipe = {
    .name = "recipe",
    .summary = "say a plan in the words of llama.cpp's or ik_llama.cpp's quantizer",
    .positionals = "PLAN",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .example = "mixbit recipe plan.json --for llama.cpp -o types.txt",
    .run = run,
};
