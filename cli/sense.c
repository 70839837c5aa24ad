/* SPDX-License-Identifier: Apache-2.0 */
/* sense: what each tensor loses in each format, measured; resumable through the journal beside the
 * output. Runs whole or in shards that `sense merge` puts together again. */
#include "cli/option_rows.h"
#include "model/agreement.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *text, *output, *shard, *imatrix;
    struct mb_format_list formats;
    size_t windows, window, threads, surrogate;
    int effort, numerics, method, encoder;
    bool compare;
};

/* Per format: the sum over tensors, which is what a uniform file should lose, and the tensor that
 * loses most. */
static void print_summary(const struct mb_sensitivity *table)
{
    struct mb_table *text = mb_table_create();
    const bool is_kl = strcmp(table->method, mb_method_name(MB_METHOD_KL)) == 0;
    char sum_title[48];
    (void)snprintf(sum_title, sizeof sum_title, "sum of %s", is_kl ? "KL" : table->method);
    mb_table_column(text, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(text, "sum", sum_title, MB_ALIGN_RIGHT);
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
    (void)printf("%zu tensors, %zu windows of %zu tokens, %zu scored; %s, noise floor of KL %.1e\n",
                 table->unit_count, table->windows, table->window, table->tokens,
                 is_kl ? "KL in nats per token" : table->method, table->noise_floor);
    mb_table_print(text, stdout);
    mb_table_free(text);
}

/* ---- methods against each other ---- */

/* Mean tau over models that arXiv 2604.13440 gives (its table of methods), NaN where it has none.
 */
static double published(const char *name)
{
    static const struct {
        const char *name;
        double tau;
    } rows[] = {{"reverse", 0.7911}, {"sqnr", 0.7111}, {"forward as coded", -0.1275}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, name) == 0)
            return rows[i].tau;
    return (double)NAN;
}

static enum mb_status print_agreement(struct mb_cli *cli, const struct mb_measures *measures)
{
    struct mb_agreement rows[MB_AGREEMENT_ROWS];
    const enum mb_status status = mb_agreement(measures, rows, &cli->error);
    if (status != MB_OK)
        return status;
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "method", "method", MB_ALIGN_LEFT);
    mb_table_column(table, "tau", "tau", MB_ALIGN_RIGHT);
    mb_table_column(table, "tau_low", "from", MB_ALIGN_RIGHT);
    mb_table_column(table, "tau_high", "to", MB_ALIGN_RIGHT);
    mb_table_column(table, "tau_ties", "with ties", MB_ALIGN_RIGHT);
    mb_table_column(table, "decided", "decided pairs", MB_ALIGN_RIGHT);
    mb_table_column(table, "decided_share", "of all", MB_ALIGN_RIGHT);
    mb_table_column(table, "tau_tensors", "tensors only", MB_ALIGN_RIGHT);
    mb_table_column(table, "tau_published", "published", MB_ALIGN_RIGHT);
    for (size_t i = 0; i < MB_AGREEMENT_ROWS; i++) {
        const struct mb_agreement *row = &rows[i];
        mb_table_text(table, row->name);
        mb_table_number(table, row->tau, "%.3f");
        mb_table_number(table, row->low, "%.3f");
        mb_table_number(table, row->high, "%.3f");
        mb_table_number(table, row->tied, "%.3f");
        mb_table_number(table, row->decided, "%.3f");
        mb_table_number(table, row->decided_share, "%.3f");
        mb_table_number(table, row->units, "%.3f");
        mb_table_number(table, published(row->name), "%.4f");
    }
    enum mb_status printed = MB_OK;
    if (cli->common.json) {
        printed = mb_print_json(cli, json_pack("{s:s, s:I, s:I, s:o}", "schema", "mixbit-agreement",
                                               "entries", (json_int_t)measures->entry_count,
                                               "windows", (json_int_t)measures->windows, "methods",
                                               mb_table_json(table)));
    } else {
        (void)printf("Kendall's tau-b against the true change of ln perplexity, %zu entries "
                     "(tensor x format), %zu windows:\n",
                     measures->entry_count, measures->windows);
        mb_table_print(table, stdout);
    }
    mb_table_free(table);
    return printed;
}

/* ---- the verb ---- */

static enum mb_status parse_shard(struct mb_cli *cli, const char *text,
                                  struct mb_sense_request *request)
{
    char extra;
    if (text == NULL)
        return MB_OK;
    if (sscanf(text, "%zu/%zu%c", &request->shard, &request->shards, &extra) != 2 ||
        request->shard == 0 || request->shard > request->shards || text[0] == '-')
        return mb_usage(cli, "--shard: expected PART/PARTS like 2/8, found '%.40s'", text);
    return MB_OK;
}

static enum mb_status check(struct mb_cli *cli, const struct options *options)
{
    if (cli->positional_count > 1)
        return mb_usage(cli, "sense takes one model; 'mixbit sense merge A B ... -o OUT' takes "
                             "shards");
    if (options->text == NULL)
        return mb_usage(cli, "--text is missing: a file of plain text to run the model on");
    if (options->surrogate > 0 && options->method != MB_METHOD_KL &&
        options->method != MB_METHOD_SURROGATE)
        return mb_usage(cli, "--surrogate is a method of its own: leave out --method");
    if (options->compare && (options->shard != NULL || options->surrogate > 0 ||
                             options->method >= MB_METHOD_WEIGHT_ERROR))
        return mb_usage(cli, "--compare runs every probe: leave out --shard, --surrogate and "
                             "methods without probes");
    return MB_OK;
}

static enum mb_status print(struct mb_cli *cli, const char *where,
                            const struct mb_sensitivity *table, const struct mb_measures *measures)
{
    if (measures != NULL)
        return print_agreement(cli, measures);
    if (cli->common.json) {
        json_t *root;
        const enum mb_status status = mb_json_load(where, (size_t)1 << 30, &root, &cli->error);
        return status == MB_OK ? mb_print_json(cli, root) : status;
    }
    print_summary(table);
    (void)printf("%s\n", where);
    return MB_OK;
}

static enum mb_status run_sense(struct mb_cli *cli, const struct options *options)
{
    struct mb_model *model = NULL;
    struct mb_threads *threads = NULL;
    struct mb_sensitivity *table = NULL;
    struct mb_measures *measures = NULL;
    struct mb_importance *importance = NULL;
    struct mb_calibration calibration = {0};
    char *output = NULL;
    struct mb_sense_request request = {
        .text = options->text,
        .windows = options->windows,
        .window = options->window,
        .effort = options->effort,
        .numerics = (enum mb_numerics)options->numerics,
        .formats = &options->formats,
        .method = options->surrogate > 0 ? MB_METHOD_SURROGATE : (enum mb_method)options->method,
        .surrogate_probes = options->surrogate,
        .measures = options->compare ? &measures : NULL};
    enum mb_status status = check(cli, options);
    if (status == MB_OK)
        status = parse_shard(cli, options->shard, &request);
    if (status == MB_OK)
        status = mb_step_open(cli, cli->positionals[0], &model);
    if (options->output == NULL)
        output = mb_path_beside(cli->positionals[0], ".sensitivity.json");
    request.output = options->output != NULL ? options->output : output;
    if (status == MB_OK && request.output == NULL)
        status = mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    if (status == MB_OK)
        status = mb_step_check_output(cli, request.output);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    request.threads = threads;
    if (status == MB_OK)
        status = mb_step_importance(cli, model, options->imatrix, &importance);
    request.importance = importance;
    if (status == MB_OK && options->encoder == MB_ENCODER_FEEDBACK)
        status = mb_step_encoder(
            cli, model,
            &(struct mb_calibration_options){.text = options->text, .window = options->window},
            importance, threads, &calibration);
    request.encoder = calibration.encoder;
    if (status == MB_OK)
        status = mb_step_sense(cli, model, &request, &table);
    if (status == MB_OK)
        status = print(cli, request.output, table, measures);
    mb_measures_free(measures);
    mb_sensitivity_free(table);
    mb_calibration_free(&calibration);
    mb_importance_free(importance);
    mb_threads_destroy(threads);
    mb_model_close(model);
    free(output);
    return status;
}

static enum mb_status run_merge(struct mb_cli *cli, const struct options *options)
{
    struct mb_sensitivity *table = NULL;
    if (options->output == NULL || cli->positional_count < 2)
        return mb_usage(cli, "expected 'mixbit sense merge SHARD... -o OUT'");
    enum mb_status status = mb_step_check_output(cli, options->output);
    if (status == MB_OK)
        status = mb_step_merge(cli, cli->positionals + 1, cli->positional_count - 1, &table);
    if (status == MB_OK)
        status = mb_sensitivity_save(table, options->output, &cli->error);
    if (status == MB_OK)
        status = print(cli, options->output, table, NULL);
    mb_sensitivity_free(table);
    return status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    return strcmp(cli->positionals[0], "merge") == 0 ? run_merge(cli, given)
                                                     : run_sense(cli, given);
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
    {.name = "method",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct options, method),
     .choices = mb_method_names,
     .fallback = "kl",
     .help = "what a loss is; docs/sensing.md explains each"},
    {.name = "surrogate",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, surrogate),
     .value = "N",
     .minimum = 1,
     .help = "probe N formats per tensor; the others follow from what each does to the tensor's "
             "own product"},
    {.name = "compare",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, compare),
     .help = "run every method; print Kendall's tau of each against the true perplexity change"},
    MB_IMATRIX_ROW(struct options, imatrix),
    MB_ENCODER_ROW(struct options, encoder),
    {.name = "shard",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, shard),
     .value = "I/N",
     .help = "part I of N of the work; 'sense merge' joins the parts"},
    MB_OUTPUT_ROW(struct options, output,
                  "the table (default: MODEL.sensitivity.json here); the journal is beside it"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_sense = {
    .name = "sense",
    .summary = "measure what each tensor loses in each format",
    .positionals = "MODEL | merge SHARD...",
    .min_positionals = 1,
    .max_positionals = MB_LIST_LENGTH,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Every tensor is quantized alone and the model's predictions are compared with the "
               "unquantized model's: KL divergence in nats per token, with an interval over "
               "windows. Ctrl-C loses at most one probe; the same command goes on. "
               "'mixbit sense merge s1.json s2.json -o s.json' joins shards.",
    .example = "mixbit sense model.f16.gguf --text calib.txt -o sensitivity.json",
    .run = run,
};
