/* SPDX-License-Identifier: Apache-2.0 */
/* Calibration: the model made ready to run over a text, so that second moments of its activations
 * can be collected while a file is written. */
#include "model/moments.h"

#include "cli/steps.h"

const char *const mb_encoder_names[] = {"search", "feedback", NULL};

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

void mb_calibration_free(struct mb_calibration *calibration)
{
    mb_moments_destroy(calibration->moments);
    mb_network_destroy(calibration->network);
    mb_windows_free(&calibration->windows);
    *calibration = (struct mb_calibration){0};
}
