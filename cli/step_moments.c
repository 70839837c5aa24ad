/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration: the model made ready to run over a text, so that second moments of its activations
 * can be collected when they are asked for. */
#include "cli/steps.h"
#include "model/sequential.h"

#include <string.h>

const char *const mb_encoder_names[] = {"search", "feedback", NULL};
const char *const mb_file_encoder_names[] = {"search", "feedback", "sequential", NULL};

enum mb_status mb_step_calibrate(struct mb_cli *cli, struct mb_model *model,
                                 const struct mb_calibration_options *options,
                                 struct mb_threads *threads, struct mb_calibration *calibration)
{
    *calibration = (struct mb_calibration){0};
    if (options->memory.bits_per_weight > 0)
        return mb_usage(cli, "--memory is a number of bytes, like 2G");
    enum mb_status status = mb_step_windows(cli, model, options->text, options->window,
                                            options->windows, &calibration->windows);
    if (status == MB_OK)
        status =
            mb_network_create(model, MB_NUMERICS_F32, threads, &calibration->network, &cli->error);
    if (status == MB_OK)
        status =
            mb_moments_create(calibration->network, &calibration->windows,
                              (size_t)options->memory.bytes, &calibration->moments, &cli->error);
    if (status == MB_OK)
        mb_note(cli, "calibrating on %zu windows of %zu tokens", calibration->windows.count,
                calibration->windows.window);
    return status;
}

enum mb_status mb_step_encoder(struct mb_cli *cli, struct mb_model *model,
                               const struct mb_calibration_options *options,
                               const struct mb_importance *importance, struct mb_threads *threads,
                               struct mb_calibration *calibration)
{
    const enum mb_status status = mb_step_calibrate(cli, model, options, threads, calibration);
    if (status != MB_OK)
        return status;
    calibration->encoder = mb_encoder_create(model, calibration->moments,
                                             mb_step_weights(importance), MB_SWEEPS, 0, threads);
    return calibration->encoder != NULL
               ? MB_OK
               : mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
}

enum mb_status mb_step_sequential(struct mb_cli *cli, const enum mb_format *formats, size_t tokens,
                                  struct mb_calibration *calibration)
{
    const struct mb_sequential_options options = {.formats = formats, .tokens = tokens};
    calibration->sequential =
        mb_sequential_create(calibration->network, calibration->encoder, &options);
    return calibration->sequential != NULL
               ? MB_OK
               : mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
}

enum mb_status mb_step_round_sequentially(struct mb_cli *cli, const enum mb_format *formats,
                                          size_t tokens, struct mb_calibration *calibration)
{
    const struct mb_sequential_options options = {
        .formats = formats, .tokens = tokens, .progress = mb_stage_progress(cli)};
    mb_stage_begin(cli, "rounding layer after layer, each under the errors before it");
    const enum mb_status status =
        mb_sequential_run(calibration->network, calibration->sequential, &options, &cli->error);
    mb_stage_end(cli);
    return status;
}

enum mb_status mb_step_check_encoder(struct mb_cli *cli, const char *what, const char *hash,
                                     const struct mb_encoder *encoder)
{
    if (strcmp(hash, encoder != NULL ? mb_encoder_hash(encoder) : "") == 0)
        return MB_OK;
    return mb_error_set(
        &cli->error, MB_ERR_STALE, -1,
        hash[0] == '\0' ? "%s was made for weights rounded by search; leave out --encoder feedback"
        : encoder == NULL
            ? "%s was made for weights rounded with feedback; give --encoder feedback and the "
              "text that it was calibrated on"
            : "%s was made for weights rounded with feedback on another text, or with other "
              "windows or importance",
        what);
}

void mb_calibration_free(struct mb_calibration *calibration)
{
    mb_encoder_destroy(calibration->sequential);
    mb_encoder_destroy(calibration->encoder);
    mb_moments_destroy(calibration->moments);
    mb_network_destroy(calibration->network);
    mb_windows_free(&calibration->windows);
    *calibration = (struct mb_calibration){0};
}
