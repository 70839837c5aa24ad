/* SPDX-License-Identifier: Apache-2.0 */
/* The plan's file rounded with feedback (kernels/feedback.h): the same formats and bytes, less
 * loss.
 *
 * Sensing and the comparison round weight by weight, since feedback would cost seconds for every
 * tensor and format: what is predicted is an upper estimate for such a file, and the choice between
 * formats is made as if all gained alike. So the file is measured as a file, and what it loses is
 * said beside the row that it was planned as. */
#include "cli/planning.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* KL of the written file from the model, on the held-out text. */
static enum mb_status measure(struct mb_planning *run, const char *path)
{
    struct mb_cli *cli = run->cli;
    struct mb_model *file = NULL;
    struct mb_network *network = NULL, *base = NULL;
    struct mb_assignment row = {.evaluation.size = sizeof row.evaluation};
    mb_stage_begin(cli, "evaluating %s", path);
    enum mb_status status = mb_model_open(path, &file, &cli->error);
    if (status == MB_OK)
        status = mb_network_create(file, MB_NUMERICS_KERNEL, run->threads, &network, &cli->error);
    if (status == MB_OK)
        status = mb_network_create(run->model, MB_NUMERICS_F32, run->threads, &base, &cli->error);
    if (status == MB_OK)
        status = mb_evaluate(network, base, &run->held_out, mb_stage_progress(cli), &row.evaluation,
                             &cli->error);
    mb_stage_end(cli);
    if (status == MB_OK) {
        const double planned = run->comparison.rows[run->chosen].evaluation.kl_mean;
        double low, high;
        mb_kl_interval(&row, &low, &high);
        run->written_kl = row.evaluation.kl_mean;
        run->written_perplexity = row.evaluation.perplexity;
        (void)snprintf(run->written, sizeof run->written,
                       "mixed.gguf is rounded with feedback: KL %.5f (%.5f to %.5f), where the "
                       "same formats rounded weight by weight, as in the table, have %.5f; "
                       "perplexity %.3f.",
                       run->written_kl, low, high, planned, run->written_perplexity);
        mb_planning_note(run, run->written);
    }
    mb_evaluation_free(&row.evaluation);
    mb_network_destroy(base);
    mb_network_destroy(network);
    mb_model_close(file);
    return status;
}

enum mb_status mb_planning_write_model(struct mb_planning *run, const char *path)
{
    const bool feedback = run->options->encoder == MB_ENCODER_FEEDBACK;
    const struct mb_calibration_options options = {.text = run->text,
                                                   .window = run->options->window};
    struct mb_calibration calibration = {0};
    enum mb_status status = MB_OK;
    if (feedback)
        status = mb_step_calibrate(run->cli, run->model, &options, run->threads, &calibration);
    if (status == MB_OK)
        status = mb_step_convert(
            run->cli, run->model,
            &(struct mb_convert_request){.mix = &run->comparison.rows[run->chosen].mix,
                                         .plan = run->plan,
                                         .sensed_hash = run->table->text_hash,
                                         .importance = run->importance,
                                         .calibration = feedback ? &calibration : NULL,
                                         .sweeps = MB_SWEEPS,
                                         .threads = run->threads,
                                         .output = path});
    mb_calibration_free(&calibration);
    return status == MB_OK && feedback ? measure(run, path) : status;
}
