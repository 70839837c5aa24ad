/* SPDX-License-Identifier: Apache-2.0 */
/* quantize: write a model as a plan, a uniform format, one of llama.cpp's presets or a scheme with
 * codebooks says. The file appears whole or not at all, and says in its metadata what made it. */
#include "cli/option_rows.h"
#include "cli/schemes.h"

#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

struct options {
    const char *plan, *preset, *output, *format, *scheme, *sensitivity, *imatrix;
    double bits;
    int encoder;
    struct mb_calibration_options calibration;
    size_t threads;
};

static enum mb_status check_options(struct mb_cli *cli, const struct options *options)
{
    const int ways = (options->plan != NULL) + (options->preset != NULL) +
                     (options->format != NULL) + (options->scheme != NULL);
    if (ways == 0)
        return mb_usage(cli, "say what to write: --plan FILE, --format NAME, --preset NAME or "
                             "--scheme NAME");
    if (ways > 1)
        return mb_usage(cli, "--plan, --format, --preset and --scheme exclude each other");
    if (options->output == NULL)
        return mb_usage(cli, "-o is missing: the file to write");
    if (options->scheme != NULL && options->encoder != MB_ENCODER_SEARCH)
        return mb_usage(cli,
                        "--encoder is for formats; schemes with error feedback are named after "
                        "it (packed-feedback)");
    if (options->scheme != NULL)
        return mb_scheme_check_stored(cli, options->scheme, options->bits);
    if (options->bits > 0)
        return mb_usage(cli, "--bits goes with --scheme");
    if (options->encoder != MB_ENCODER_SEARCH && options->calibration.text == NULL)
        return mb_usage(cli, "--encoder %s needs --text: a file of plain text to run the model on",
                        mb_file_encoder_names[options->encoder]);
    if (options->encoder == MB_ENCODER_SEARCH && options->calibration.text != NULL)
        return mb_usage(cli, "--text is for --encoder feedback or sequential and --scheme; "
                             "importance comes by --imatrix");
    return MB_OK;
}

/* Source and output must differ: the source is mapped while the output is written. */
static enum mb_status check_distinct(struct mb_cli *cli, const char *source, const char *output)
{
    struct stat a, b;
    if (stat(source, &a) == 0 && stat(output, &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino)
        return mb_usage(cli, "the output '%s' is the model itself; choose another name", output);
    return MB_OK;
}

static enum mb_status make_mix(struct mb_cli *cli, struct mb_model *model,
                               const struct options *options, const struct mb_plan *plan,
                               struct mb_mix *mix)
{
    if (plan != NULL)
        return mb_mix_plan(cli, model, plan, mix);
    if (options->preset != NULL)
        return mb_mix_preset(cli, model, options->preset, mix);
    enum mb_format format;
    const enum mb_status status =
        mb_parse_format("--format", options->format, &format, &cli->error);
    return status == MB_OK ? mb_mix_uniform(cli, model, format, mix) : status;
}

static enum mb_status print_result(struct mb_cli *cli, const struct mb_model *model,
                                   const struct mb_mix *mix, const char *output)
{
    struct stat info;
    size_t changed = 0;
    for (size_t i = 0; i < mix->count; i++)
        changed += mix->formats[i] != MB_FORMAT_NONE;
    const double bytes = stat(output, &info) == 0 ? (double)info.st_size : 0;
    const double before = (double)mb_model_file_bytes(model);
    if (cli->common.json)
        return mb_print_json(
            cli, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "output", output, "mix", mix->name,
                           "bytes", (json_int_t)bytes, "source_bytes", (json_int_t)before,
                           "tensors", (json_int_t)mix->count, "quantized", (json_int_t)changed));
    char new_size[32], old_size[32];
    (void)printf("%s: %s (from %s), %zu of %zu tensors converted (%s)\n", output,
                 mb_text_bytes(bytes, new_size), mb_text_bytes(before, old_size), changed,
                 mix->count, mix->name);
    return MB_OK;
}

/* What rounding needs to know of the model's activations. */
static enum mb_status calibrate(struct mb_cli *cli, struct mb_model *model,
                                const struct options *options,
                                const struct mb_importance *importance, struct mb_threads *threads,
                                const struct mb_mix *mix, struct mb_calibration *calibration)
{
    if (options->encoder == MB_ENCODER_SEARCH)
        return MB_OK;
    if (options->encoder == MB_ENCODER_FEEDBACK)
        return mb_step_calibrate(cli, model, &options->calibration, threads, calibration);
    enum mb_status status =
        mb_step_encoder(cli, model, &options->calibration, importance, threads, calibration);
    if (status == MB_OK)
        status = mb_step_sequential(cli, mix->formats, 0, calibration);
    return status == MB_OK ? mb_step_round_sequentially(cli, mix->formats, 0, calibration) : status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_model *model = NULL;
    struct mb_plan *plan = NULL;
    struct mb_threads *threads = NULL;
    struct mb_sensitivity *table = NULL;
    struct mb_importance *importance = NULL;
    struct mb_calibration calibration = {0};
    struct mb_mix mix = {0};
    enum mb_format format;
    enum mb_status status = check_options(cli, options);
    if (status == MB_OK && options->format != NULL)
        status = mb_parse_format("--format", options->format, &format, &cli->error);
    if (status == MB_OK)
        status = mb_step_open(cli, cli->positionals[0], &model);
    if (status == MB_OK)
        status = check_distinct(cli, cli->positionals[0], options->output);
    if (status == MB_OK && options->plan != NULL)
        status = mb_plan_load(options->plan, &plan, &cli->error);
    if (status == MB_OK)
        status = mb_step_importance(cli, model, options->imatrix, &importance);
    if (status == MB_OK && plan != NULL && plan->importance_hash[0] != '\0')
        status = mb_step_check_importance(cli, "the plan", plan->importance_hash, importance);
    else if (status == MB_OK && plan != NULL && importance != NULL)
        mb_note(cli, "the plan's losses were measured without an imatrix; with this one they "
                     "should be less");
    if (status == MB_OK && plan != NULL && plan->feedback_hash[0] != '\0' &&
        options->encoder == MB_ENCODER_SEARCH)
        mb_note(cli, "the plan's losses were measured on weights rounded with feedback; without "
                     "--encoder feedback, or sequential as 'plan' writes it, the file loses more");
    if (status == MB_OK && options->sensitivity != NULL)
        status = mb_step_load_sensitivity(cli, model, options->sensitivity, &table);
    if (status == MB_OK && options->scheme == NULL)
        status = make_mix(cli, model, options, plan, &mix);
    if (status == MB_OK)
        status = mb_step_check_output(cli, options->output);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status == MB_OK && options->scheme != NULL) {
        status = mb_quantize_scheme(
            cli, model,
            &(struct mb_scheme_file_request){.scheme = mb_scheme_by_name(options->scheme),
                                             .bits = options->bits,
                                             .importance = importance,
                                             .calibration = options->calibration,
                                             .sensed_hash = table != NULL ? table->text_hash : NULL,
                                             .threads = threads,
                                             .output = options->output});
        goto out;
    }
    status = status == MB_OK
                 ? calibrate(cli, model, options, importance, threads, &mix, &calibration)
                 : status;
    if (status == MB_OK)
        status = mb_step_convert(
            cli, model,
            &(struct mb_convert_request){
                .mix = &mix,
                .plan = plan,
                .sensed_hash = table != NULL ? table->text_hash : NULL,
                .importance = importance,
                .calibration = options->encoder != MB_ENCODER_SEARCH ? &calibration : NULL,
                .sweeps = MB_SWEEPS,
                .threads = threads,
                .output = options->output});
    if (status == MB_OK)
        status = print_result(cli, model, &mix, options->output);
out:
    mb_calibration_free(&calibration);
    mb_mix_free(&mix);
    mb_sensitivity_free(table);
    mb_importance_free(importance);
    mb_threads_destroy(threads);
    mb_plan_free(plan);
    mb_model_close(model);
    return status;
}

static const struct mb_option table[] = {
    {.name = "plan",
     .letter = 'p',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, plan),
     .value = "FILE",
     .help = "a plan from 'mixbit solve' or 'mixbit plan'"},
    {.name = "format",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, format),
     .value = "NAME",
     .help = "every quantizable tensor in this format, with llama.cpp's fall-backs"},
    {.name = "preset",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, preset),
     .value = "NAME",
     .help = "one of llama.cpp's mixes, like Q4_K_M"},
    {.name = "scheme",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, scheme),
     .value = "NAME",
     .help = "matrices of codebooks, like packed-feedback: a scheme of 'mixbit eval --help' that "
             "has kernels, fitted to what the model multiplies on --text (default: the one that "
             "comes with mixbit). 'mixbit eval' runs such a file, no other program does"},
    {.name = "bits",
     .kind = MB_OPTION_NUMBER,
     .offset = offsetof(struct options, bits),
     .value = "B",
     .help = "with --scheme: bits per weight to reach, all included"},
    MB_OUTPUT_ROW(struct options, output, "the GGUF to write"),
    MB_FILE_ENCODER_ROW(struct options, encoder, "search", "all of it"),
    MB_CALIBRATION_ROWS(struct options, calibration),
    MB_IMATRIX_ROW(struct options, imatrix),
    {.name = "sensitivity",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, sensitivity),
     .value = "FILE",
     .help = "the table that the plan rests on: its text is noted in the file, so that 'mixbit "
             "eval' refuses to evaluate on it"},
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_quantize = {
    .name = "quantize",
    .summary = "write a model as a plan, a format, a preset or a scheme says",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .example = "mixbit quantize model.f16.gguf --plan plan.json -o mixed.gguf\n"
               "  mixbit quantize model.f16.gguf --scheme packed-feedback --bits 2.5 -o small.gguf",
    .run = run,
};
