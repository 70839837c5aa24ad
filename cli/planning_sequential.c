/* SPDX-License-Identifier: Apache-2.0 */
/* The last link of `mixbit plan`: the recommended mix, rounded for good.
 *
 * Sensing, uniform formats and every mix tried have each tensor rounded alone, once for all that
 * use it. Only of the one mix that is written are all formats known, so only there can a layer
 * answer for the errors of those before it (model/sequential.h). */
#include "cli/planning.h"
#include "model/encoder.h"
#include "model/sequential.h"

#include <stdlib.h>
#include <string.h>

/* Half of the usual: on a model of 135 million weights 4 minutes instead of 8, of 2 cores. */
enum { QUICK_TOKENS = MB_SEQUENTIAL_TOKENS / 2 };
enum { NAME_BYTES = sizeof((struct mb_mix *)NULL)->name };

static bool is_own(const struct mb_assignment *row)
{
    return row->kind != MB_ROW_UNIFORM && row->kind != MB_ROW_PRESET;
}

/* The last row is `alone`'s mix as it would be written: which of them is. */
static void choose_rounding(struct mb_planning *run, struct mb_assignment *alone)
{
    struct mb_assignment *written = &run->comparison.rows[run->comparison.count - 1];
    double difference, low, high;
    char text[300];
    mb_compare_kl(written, alone, &difference, &low, &high);
    if (difference < 0) {
        snprintf(text, sizeof text,
                 "Written is %s, rounded layer after layer: KL %.5f. Each tensor rounded alone, as "
                 "in the other rows, it loses %.5f.",
                 is_own(alone) ? "this mix" : alone->mix.name, written->evaluation.kl_mean,
                 alone->evaluation.kl_mean);
        if (is_own(alone))
            snprintf(alone->mix.name, NAME_BYTES, "plan, by tensor");
        snprintf(written->mix.name, NAME_BYTES, "plan");
        alone->recommended = 0;
        written->recommended = 1;
        run->chosen = run->comparison.count - 1;
    } else {
        snprintf(text, sizeof text,
                 "Rounded layer after layer, %s loses no less (KL %.5f): it is written as each "
                 "tensor alone is rounded.",
                 alone->mix.name, written->evaluation.kl_mean);
        snprintf(written->mix.name, NAME_BYTES, "%.30s by layer", alone->mix.name);
        mb_encoder_destroy(run->calibration.sequential);
        run->calibration.sequential = NULL;
        run->is_written = false;
    }
    mb_planning_note(run, text);
    mb_note(run->cli, "%s", text);
}

/* The very file is there, of an earlier run, and so is what it loses. */
static bool is_done(struct mb_planning *run)
{
    struct mb_mix mix = run->comparison.rows[run->chosen].mix;
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    char *path = mb_path_join(run->options->output, "mixed.gguf");
    struct mb_convert_request request = mb_planning_file(run, path);
    snprintf(mix.name, sizeof mix.name, "plan");
    request.mix = &mix;
    const bool done = path != NULL && mb_step_is_written(run->model, &request) &&
                      mb_losses_find(run->comparison.losses, mix.formats,
                                     run->calibration.sequential, &evaluation);
    mb_evaluation_free(&evaluation);
    free(path);
    return done;
}

enum mb_status mb_planning_round(struct mb_planning *run, const struct mb_compare_options *options)
{
    if (run->options->encoder != MB_ENCODER_SEQUENTIAL)
        return MB_OK;
    const enum mb_format *formats = run->comparison.rows[run->chosen].mix.formats;
    const size_t tokens = run->options->effort == MB_EFFORT_QUICK ? QUICK_TOKENS : 0;
    enum mb_status status = mb_step_sequential(run->cli, formats, tokens, &run->calibration);
    if (status != MB_OK)
        return status;
    run->is_written = is_done(run);
    if (!run->is_written)
        status = mb_step_round_sequentially(run->cli, formats, tokens, &run->calibration);
    if (status == MB_OK)
        status = mb_comparison_round_again(run->cli, &run->comparison, options, run->chosen,
                                           run->calibration.sequential, MB_ROW_WRITTEN);
    if (status == MB_OK)
        choose_rounding(run, &run->comparison.rows[run->chosen]);
    return status;
}
