/* SPDX-License-Identifier: Apache-2.0 */
/* sense: what each tensor loses in each format, measured; resumable through the journal beside the
 * output. */
#include "cli/option_rows.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

struct options {
    const char *text, *output;
    struct mb_format_list formats;
    size_t windows, window, threads;
    int effort, numerics;
};

/* Per format: the sum over tensors, which is what a uniform file should lose, and the tensor that
 * loses most. */
static void print_summary(const struct mb_sensitivity *table)
{
    struct mb_table *text = mb_table_create();
    mb_table_column(text, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(text, "sum", "sum of KL", MB_ALIGN_RIGHT);
    mb_table_column(text, "worst", "largest", MB_ALIGN_RIGHT);
    mb_table_column(text, "tensor", "in", MB_ALIGN_LEFT);
    for (size_t f = 0; f < table->format_count; f++) {
        double sum = 0, worst = -INFINITY;
        size_t where = 0, known = 0;
        for (size_t u = 0; u < table->unit_count; u++) {
            const struct mb_loss *loss = &table->losses[u * table->format_count + f];
            if (!loss->known)
                continue;
            known++;
            sum += loss->mean;
            if (loss->mean > worst) {
                worst = loss->mean;
                where = u;
            }
        }
        const struct mb_format_info *info = mb_format_info(table->formats[f]);
        if (known == 0 || info == NULL)
            continue;
        mb_table_text(text, info->name);
        mb_table_number(text, sum, "%.5f");
        mb_table_number(text, worst, "%.5f");
        mb_table_text(text, table->units[where]);
    }
    (void)printf("%zu tensors, %zu windows of %zu tokens, %zu scored; KL in nats per token, noise "
                 "floor %.1e\n",
                 table->unit_count, table->windows, table->window, table->tokens,
                 table->noise_floor);
    mb_table_print(text, stdout);
    mb_table_free(text);
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_model *model = NULL;
    struct mb_threads *threads = NULL;
    struct mb_sensitivity *table = NULL;
    char *output = NULL;
    enum mb_status status = MB_OK;
    if (options->text == NULL)
        return mb_usage(cli, "--text is missing: a file of plain text to run the model on");
    status = mb_model_open(cli->positionals[0], &model, &cli->error);
    if (options->output == NULL)
        output = mb_path_beside(cli->positionals[0], ".sensitivity.json");
    const char *where = options->output != NULL ? options->output : output;
    if (status == MB_OK && where == NULL)
        status = mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    if (status == MB_OK)
        status = mb_step_check_output(cli, where);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status == MB_OK) {
        const struct mb_sense_request request = {.text = options->text,
                                                 .windows = options->windows,
                                                 .window = options->window,
                                                 .effort = options->effort,
                                                 .numerics = (enum mb_numerics)options->numerics,
                                                 .formats = &options->formats,
                                                 .output = where,
                                                 .threads = threads};
        status = mb_step_sense(cli, model, &request, &table);
    }
    if (status == MB_OK && cli->common.json) {
        json_t *root;
        status = mb_json_load(where, (size_t)1 << 30, &root, &cli->error);
        if (status == MB_OK)
            status = mb_print_json(cli, root);
    } else if (status == MB_OK) {
        print_summary(table);
        (void)printf("%s\n", where);
    }
    mb_sensitivity_free(table);
    mb_threads_destroy(threads);
    mb_model_close(model);
    free(output);
    return status;
}

static const struct mb_option table[] = {
    MB_TEXT_ROW(struct options, text,
                "plain text to run the model on; evaluate on another one later"),
    MB_FORMATS_ROW(struct options, formats,
                   "candidates, comma-separated (default: all but floats and what the file is in)"),
    MB_WINDOWS_ROW(struct options, windows, "windows to run (default: 4 or 5 quick, 16 normal)", 1),
    MB_WINDOW_ROW(struct options, window, "256"),
    MB_EFFORT_ROW(struct options, effort),
    MB_NUMERICS_ROW(struct options, numerics,
                    "the probed tensor as its own kernel runs it, rounded activations included, or "
                    "dequantized in f32",
                    "f32"),
    MB_OUTPUT_ROW(struct options, output,
                  "the table (default: MODEL.sensitivity.json here); the journal is beside it"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_sense = {
    .name = "sense",
    .summary = "measure what each tensor loses in each format",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Every tensor is quantized alone and the model's predictions are compared with the "
               "unquantized model's: KL divergence in nats per token, with an interval over "
               "windows. Ctrl-C loses at most one probe; the same command goes on.",
    .example = "mixbit sense model.f16.gguf --text calib.txt -o sensitivity.json",
    .run = run,
};
