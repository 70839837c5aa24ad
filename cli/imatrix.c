/* SPDX-License-Identifier: Apache-2.0 */
/* imatrix: collect importance by running the model over a text, as a file that every verb that
 * rounds weights and llama.cpp's tools read. */
#include "cli/option_rows.h"
#include "model/importance.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *text, *output;
    size_t windows, window, threads;
};

/* Matrices that no row reached: experts of a mixture that the text has no use for. */
static size_t unreached(const struct mb_importance *importance, const struct mb_model *model,
                        size_t *matrices)
{
    size_t none = 0;
    *matrices = 0;
    for (size_t i = 0; i < importance->tensor_count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const size_t count = mb_tensor_matrices(tensor);
        for (size_t m = 0; importance->weights[i] != NULL && m < count; m++)
            none += importance->rows[i][m] == 0;
        *matrices += importance->weights[i] != NULL ? count : 0;
    }
    return none;
}

static enum mb_status print_result(struct mb_cli *cli, const struct mb_model *model,
                                   const struct mb_importance *importance, const char *output)
{
    size_t tensors = 0, matrices;
    for (size_t i = 0; i < importance->tensor_count; i++)
        tensors += importance->weights[i] != NULL;
    const size_t none = unreached(importance, model, &matrices);
    if (none > 0)
        mb_warn(cli,
                "%zu of %zu matrices met no row of the text: experts that it does not use; they "
                "are rounded without importance, and more text may reach them",
                none, matrices);
    if (cli->common.json)
        return mb_print_json(cli,
                             json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "output", output,
                                       "hash", importance->hash, "tensors", (json_int_t)tensors,
                                       "matrices", (json_int_t)matrices, "unreached",
                                       (json_int_t)none, "windows", (json_int_t)importance->chunks,
                                       "window", (json_int_t)importance->chunk));
    (void)printf("%s: %zu tensors, %zu windows of %zu tokens\n", output, tensors,
                 importance->chunks, importance->chunk);
    return MB_OK;
}

static enum mb_status collect(struct mb_cli *cli, struct mb_model *model,
                              const struct mb_windows *windows, struct mb_threads *threads,
                              struct mb_importance **importance)
{
    struct mb_network *network = NULL;
    enum mb_status status =
        mb_network_create(model, MB_NUMERICS_F32, threads, &network, &cli->error);
    if (status != MB_OK)
        return status;
    mb_stage_begin(cli, "collecting over %zu windows of %zu tokens", windows->count,
                   windows->window);
    status =
        mb_importance_collect(network, windows, mb_stage_progress(cli), importance, &cli->error);
    mb_stage_end(cli);
    mb_network_destroy(network);
    return status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_model *model = NULL;
    struct mb_threads *threads = NULL;
    struct mb_windows windows = {0};
    struct mb_importance *importance = NULL;
    char *beside = mb_path_beside(cli->positionals[0], ".imatrix.gguf");
    const char *output = options->output != NULL ? options->output : beside;
    enum mb_status status = output == NULL
                                ? mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory")
                                : mb_step_open(cli, cli->positionals[0], &model);
    if (status == MB_OK)
        status =
            mb_step_windows(cli, model, options->text, options->window, options->windows, &windows);
    if (status == MB_OK)
        status = mb_step_check_output(cli, output);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status == MB_OK)
        status = collect(cli, model, &windows, threads, &importance);
    if (status == MB_OK)
        status = mb_importance_save(importance, model, output, options->text, &cli->error);
    if (status == MB_OK)
        status = print_result(cli, model, importance, output);
    mb_importance_free(importance);
    mb_windows_free(&windows);
    mb_threads_destroy(threads);
    mb_model_close(model);
    free(beside);
    return status;
}

static const struct mb_option table[] = {
    MB_TEXT_ROW(struct options, text,
                "plain text to run the model on; evaluate on another one later"),
    MB_WINDOWS_ROW(struct options, windows, "windows at most (default: the whole text)", 1),
    {.name = "window",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, window),
     .value = "TOKENS",
     .help = "tokens per window, all of which count (default: 512, or the model's context)",
     .minimum = 4},
    MB_OUTPUT_ROW(struct options, output, "the GGUF imatrix (default: MODEL.imatrix.gguf here)"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_imatrix = {
    .name = "imatrix",
    .summary = "collect what columns of weights matter, for better rounding",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Runs the model in f32 and adds up the squared activations that every column of "
               "every matrix meets. The file is llama.cpp's GGUF imatrix: 'quantize', 'sense', "
               "'plan' and 'verify' take it with --imatrix, and so does llama-quantize.",
    .example = "mixbit imatrix model.f16.gguf --text calib.txt -o imatrix.gguf",
    .run = run,
};
