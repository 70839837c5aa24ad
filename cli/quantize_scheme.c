/* SPDX-License-Identifier: Apache-2.0 */
/* quantize --scheme: a model whose matrices are stored as codebook matrices, fitted to what the
 * model multiplies on a text, as eval --schemes simulates it. */
#include "cli/schemes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LEAST_BITS = 1, MOST_BITS = 16 };

enum mb_status mb_scheme_check_stored(struct mb_cli *cli, const char *name, double bits)
{
    const char *names[64];
    size_t count = 0;
    for (size_t i = 0; i < mb_scheme_count() && count < 64; i++)
        if (mb_scheme_has_kernel(mb_scheme_at(i)))
            names[count++] = mb_scheme_at(i)->name;
    const struct mb_scheme *scheme = mb_scheme_by_name(name);
    const char *near = mb_suggest(name, names, count);
    if (scheme == NULL && near != NULL)
        return mb_usage(cli, "--scheme: unknown scheme '%.40s', did you mean '%s'?", name, near);
    if (scheme == NULL)
        return mb_usage(cli,
                        "--scheme: unknown scheme '%.40s'; `mixbit eval --help` has the list, "
                        "formats are written by --format",
                        name);
    if (!mb_scheme_has_kernel(scheme))
        return mb_usage(
            cli,
            "--scheme: '%.40s' has no stored form, since no kernel reads it; those of "
            "columns with a codebook for each width or each column have (packed-feedback, cmpq)",
            name);
    if (bits == 0)
        return mb_usage(cli, "--scheme needs --bits: bits per weight to reach, like 2.5");
    if (bits < LEAST_BITS || bits > MOST_BITS)
        return mb_usage(cli, "--bits: expected a number from %d to %d, found %g", LEAST_BITS,
                        MOST_BITS, bits);
    return MB_OK;
}

/* ---- writing ---- */

/* What matrices are fitted to. */
struct fitting {
    struct mb_calibration calibration;
    struct mb_importance *collected;
    const struct mb_importance *importance;
    char *text;
};

static void fitting_free(struct fitting *fitting)
{
    mb_importance_free(fitting->collected);
    mb_calibration_free(&fitting->calibration);
    free(fitting->text);
}

/* The model is run where importance is not at hand, and where errors are fed back. */
static enum mb_status fit_to(struct mb_cli *cli, struct mb_model *model,
                             const struct mb_scheme_file_request *request, struct fitting *fitting)
{
    struct mb_calibration_options options = request->calibration;
    fitting->importance = request->importance;
    if (request->importance != NULL && !request->scheme->options.feedback)
        return options.text == NULL
                   ? MB_OK
                   : mb_usage(cli, "--text is of no use to '%s' beside --imatrix: leave out either",
                              request->scheme->name);
    enum mb_status status = mb_step_text(cli, options.text, "calib.txt", "--text", &fitting->text);
    options.text = fitting->text;
    if (status == MB_OK)
        status = mb_step_calibrate(cli, model, &options, request->threads, &fitting->calibration);
    if (status != MB_OK || request->importance != NULL)
        return status;
    mb_stage_begin(cli, "collecting importance");
    status = mb_importance_collect(fitting->calibration.network, &fitting->calibration.windows,
                                   mb_stage_progress(cli), &fitting->collected, &cli->error);
    mb_stage_end(cli);
    fitting->importance = fitting->collected;
    return status;
}

static enum mb_status write(struct mb_cli *cli, struct mb_model *model,
                            const struct mb_scheme_file_request *request,
                            const struct fitting *fitting, struct mb_scheme_size *size)
{
    const struct mb_importance *importance = fitting->importance;
    const char *keys[16];
    size_t used = 0;
#define MB_ADD_KEY(key, value) (keys[used++] = (key), keys[used++] = (value))
    MB_ADD_KEY("mixbit.version", mb_version());
    MB_ADD_KEY("mixbit.source", mb_model_hash(model));
    MB_ADD_KEY("mixbit.importance", importance->hash);
    if (importance->text_hash[0] != '\0')
        MB_ADD_KEY("mixbit.importance_text", importance->text_hash);
    if (request->sensed_hash != NULL && request->sensed_hash[0] != '\0')
        MB_ADD_KEY("mixbit.sensed_text", request->sensed_hash);
    if (request->scheme->options.feedback)
        MB_ADD_KEY("mixbit.feedback_text", fitting->calibration.windows.text_hash);
#undef MB_ADD_KEY
    keys[used] = NULL;
    const struct mb_scheme_file_options options = {
        .scheme = request->scheme,
        .bits = request->bits,
        .importance = mb_step_weights(importance),
        .moments = request->scheme->options.feedback ? fitting->calibration.moments : NULL,
        .threads = request->threads,
        .progress = mb_stage_progress(cli),
        .extra_keys = keys,
        .force = cli->common.force};
    mb_stage_begin(cli, "quantizing to %s", request->output);
    const enum mb_status status =
        mb_convert_scheme(model, request->output, &options, size, &cli->error);
    mb_stage_end(cli);
    if (status == MB_OK && size->unreached > 0)
        mb_warn(cli, "%zu matrices have no widths that come to %g bits: they took the nearest",
                size->unreached, request->bits);
    return status;
}

static enum mb_status print_result(struct mb_cli *cli, const struct mb_model *model,
                                   const struct mb_scheme_file_request *request,
                                   const struct mb_scheme_size *size)
{
    struct stat info;
    char new_size[32], old_size[32];
    size_t quantized = 0;
    const size_t tensors = mb_model_tensor_count(model);
    for (size_t i = 0; i < tensors; i++)
        quantized += mb_model_tensor_at(model, i)->quantizable != 0;
    const double bytes = stat(request->output, &info) == 0 ? (double)info.st_size : 0;
    const double before = (double)mb_model_file_bytes(model);
    if (cli->common.json)
        return mb_print_json(
            cli, json_pack("{s:s, s:s, s:f, s:I, s:I, s:I, s:I, s:I}", "output", request->output,
                           "mix", request->scheme->name, "bits_per_weight", mb_scheme_bits(size),
                           "bytes", (json_int_t)bytes, "source_bytes", (json_int_t)before,
                           "tensors", (json_int_t)tensors, "quantized", (json_int_t)quantized,
                           "unreached", (json_int_t)size->unreached));
    (void)printf("%s: %s (from %s), %zu of %zu tensors converted (%s, %.3f bits per weight)\n",
                 request->output, mb_text_bytes(bytes, new_size), mb_text_bytes(before, old_size),
                 quantized, tensors, request->scheme->name, mb_scheme_bits(size));
    return MB_OK;
}

enum mb_status mb_quantize_scheme(struct mb_cli *cli, struct mb_model *model,
                                  const struct mb_scheme_file_request *request)
{
    struct fitting fitting = {0};
    struct mb_scheme_size size;
    enum mb_status status = fit_to(cli, model, request, &fitting);
    if (status == MB_OK)
        status = write(cli, model, request, &fitting, &size);
    if (status == MB_OK)
        status = print_result(cli, model, request, &size);
    fitting_free(&fitting);
    return status;
}
