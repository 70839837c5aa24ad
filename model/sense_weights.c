/* SPDX-License-Identifier: Apache-2.0 */
/* Losses without a probe: the error of the weights, weighted by the activations they meet. */
#include "model/sense.h"

#include "model/importance.h"
#include "model/network.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Mean squares become parts of the sum over all rows: an expert that few rows reach adds little to
 * the output, one that none reaches nothing. */
static void share_rows(const struct mb_model *model, struct mb_importance *activations, size_t i)
{
    const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
    const size_t matrices = mb_tensor_matrices(tensor);
    size_t all = 0;
    for (size_t m = 0; m < matrices; m++)
        all += activations->rows[i][m];
    for (size_t c = 0; c < matrices * tensor->k; c++) {
        const double share = (double)activations->rows[i][c / tensor->k] / (double)all;
        activations->weights[i][c] = (float)((double)activations->weights[i][c] * share);
    }
}

enum mb_status mb_sense_collect(struct mb_sense_job *job, struct mb_error *error)
{
    const enum mb_status status = mb_importance_collect(
        job->network, job->options->windows, job->options->progress, &job->activations, error);
    for (size_t i = 0; status == MB_OK && i < job->activations->tensor_count; i++)
        if (job->activations->weights[i] != NULL)
            share_rows(job->model, job->activations, i);
    return status;
}

enum mb_status mb_sense_weigh(struct mb_sense_job *job, struct mb_error *error)
{
    const size_t formats = job->options->format_count, cells = job->unit_count * formats;
    job->errors = calloc(cells, sizeof *job->errors);
    if (job->errors == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    for (size_t i = 0; i < cells; i++) {
        const size_t unit = i / formats, candidate = i % formats;
        const enum mb_format format = mb_sense_stored(job, unit, candidate);
        struct mb_requantized weights;
        if (mb_progress_report(job->options->progress, (double)i, (double)cells, "weight errors") !=
            MB_OK)
            return mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                "interrupted; run it again to go on");
        if (!mb_sense_owns(job, unit) || format == MB_FORMAT_NONE)
            continue;
        enum mb_status status =
            mb_sense_requantize(job, unit, format, job->options->numerics, &weights, error);
        if (status != MB_OK)
            return status;
        job->errors[i] = weights.output_error * weights.output_error;
        mb_requantized_free(&weights);
    }
    return MB_OK;
}
