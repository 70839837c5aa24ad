/* SPDX-License-Identifier: Apache-2.0 */
/* refine: roundings and scales of a file that is already quantized, chosen anew by what the model's
 * layers put out. Formats, sizes and everything else stay. */
#include "cli/option_rows.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct options {
    const char *source, *output;
    struct mb_calibration_options calibration;
    size_t sweeps, threads;
};

static enum mb_status print_result(struct mb_cli *cli, const struct options *options,
                                   const struct mb_mix *mix, size_t refined)
{
    struct stat info;
    const double bytes = stat(options->output, &info) == 0 ? (double)info.st_size : 0;
    if (cli->common.json)
        return mb_print_json(cli,
                             json_pack("{s:s, s:I, s:I, s:I}", "output", options->output, "bytes",
                                       (json_int_t)bytes, "tensors", (json_int_t)mix->count,
                                       "refined", (json_int_t)refined));
    char size[32];
    (void)printf("%s: %s, %zu of %zu tensors refined\n", options->output,
                 mb_text_bytes(bytes, size), refined, mix->count);
    return MB_OK;
}

/* Every tensor as it is. */
static enum mb_status keep_all(struct mb_cli *cli, const struct mb_model *model, struct mb_mix *mix)
{
    *mix = (struct mb_mix){.name = "refined", .count = mb_model_tensor_count(model)};
    mix->formats = malloc((mix->count + 1) * sizeof *mix->formats);
    if (mix->formats == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    return MB_OK;
}

static enum mb_status check_options(struct mb_cli *cli, const struct options *options)
{
    if (options->source == NULL)
        return mb_usage(cli,
                        "--source is missing: the model that '%s' was made from, in a better "
                        "format",
                        cli->positionals[0]);
    if (options->calibration.text == NULL)
        return mb_usage(cli, "--text is missing: a file of plain text to run the source on");
    if (options->output == NULL)
        return mb_usage(cli, "-o is missing: the file to write");
    return MB_OK;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_model *model = NULL, *source = NULL;
    struct mb_threads *threads = NULL;
    struct mb_calibration calibration = {0};
    struct mb_mix mix = {0};
    size_t refined = 0;
    enum mb_status status = check_options(cli, options);
    if (status == MB_OK)
        status = mb_step_open(cli, cli->positionals[0], &model);
    if (status == MB_OK)
        status = mb_step_open(cli, options->source, &source);
    if (status == MB_OK)
        status = mb_step_check_output(cli, options->output);
    if (status == MB_OK)
        status = keep_all(cli, model, &mix);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status == MB_OK && mb_model_string(model, "mixbit.sequential", NULL) != NULL)
        mb_warn(cli,
                "'%s' was rounded layer after layer, each under the errors of those before it; "
                "refining takes each alone, so this may lose more",
                cli->positionals[0]);
    if (status == MB_OK)
        status = mb_step_calibrate(cli, source, &options->calibration, threads, &calibration);
    if (status == MB_OK)
        status = mb_step_convert(cli, model,
                                 &(struct mb_convert_request){.mix = &mix,
                                                              .calibration = &calibration,
                                                              .sweeps = options->sweeps,
                                                              .source = source,
                                                              .refined = &refined,
                                                              .threads = threads,
                                                              .output = options->output});
    if (status == MB_OK)
        status = print_result(cli, options, &mix, refined);
    mb_calibration_free(&calibration);
    mb_mix_free(&mix);
    mb_threads_destroy(threads);
    mb_model_close(source);
    mb_model_close(model);
    return status;
}

static const struct mb_option table[] = {
    {.name = "source",
     .letter = 's',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, source),
     .value = "FILE",
     .help = "the GGUF that the model was quantized from: f16, f32, bf16, or any better format"},
    MB_CALIBRATION_ROWS(struct options, calibration),
    {.name = "sweeps",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, sweeps),
     .value = "N",
     .help = "times that every rounding and scale of a row is looked at",
     .fallback = "4",
     .minimum = 1},
    MB_OUTPUT_ROW(struct options, output, "the GGUF to write"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_refine = {
    .name = "refine",
    .summary = "lower the loss of a quantized file by what its layers put out",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Runs the source over a text and chooses roundings and scales of the quantized "
               "file anew, so that what each matrix puts out comes nearer to the source's. No "
               "tensor changes its format and no byte is added. Formats whose codes come from a "
               "grid (iq1, iq2, iq3) stay as they are.",
    .example = "mixbit refine model.Q3_K_M.gguf --source model.f16.gguf --text calib.txt -o "
               "refined.gguf",
    .run = run,
};
