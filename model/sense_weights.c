/* SPDX-License-Identifier: Apache-2.0 */
/* Losses without a probe each: the error of the weights, weighted by the activations they meet, and
 * the surrogate that scales a few probes by it.
 *
 * Small changes of weights cost a KL in proportion to the square of what they do to the product's
 * output, whatever format made them; so one probe gives a tensor's factor, and a second one says
 * how far the proportion holds. */
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

/* ---- the surrogate ---- */

static size_t probes_of(const struct mb_sense_job *job)
{
    return job->options->surrogate_probes > 0 ? job->options->surrogate_probes
                                              : MB_SURROGATE_PROBES;
}

/* Candidates of a unit that need an entry, ascending by error; returns how many. */
static size_t order_candidates(const struct mb_sense_job *job, size_t unit, size_t *order)
{
    const size_t formats = job->options->format_count;
    const double *errors = &job->errors[unit * formats];
    size_t count = 0;
    for (size_t c = 0; c < formats; c++) {
        if (mb_sense_stored(job, unit, c) == MB_FORMAT_NONE || !mb_sense_first(job, unit, c))
            continue;
        size_t at = count++;
        for (; at > 0 && errors[order[at - 1]] > errors[c]; at--)
            order[at] = order[at - 1];
        order[at] = c;
    }
    return count;
}

enum mb_status mb_sense_choose(struct mb_sense_job *job, struct mb_error *error)
{
    const size_t formats = job->options->format_count, probes = probes_of(job);
    size_t *order = malloc(formats * sizeof *order);
    job->chosen = calloc(job->unit_count * formats, sizeof *job->chosen);
    if (order == NULL || job->chosen == NULL) {
        free(order);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    }
    for (size_t u = 0; u < job->unit_count; u++) {
        const size_t count = mb_sense_owns(job, u) ? order_candidates(job, u, order) : 0;
        for (size_t i = 0; count > 0 && i < probes; i++)
            job->chosen[u * formats + order[(2 * i + 1) * count / (2 * probes)]] = true;
    }
    free(order);
    return MB_OK;
}

/* A probed candidate as a point: squared error, loss. */
struct point {
    double error;
    const struct mb_loss *loss;
};

/* The nearest probes below and above an error (loss NULL: none), and a second one on the side that
 * has them all. */
static void neighbours(const struct mb_sense_job *job, size_t unit, double error,
                       struct point *near, struct point *other)
{
    const size_t formats = job->options->format_count;
    *near = *other = (struct point){0, NULL};
    for (size_t c = 0; c < formats; c++) {
        if (!job->chosen[unit * formats + c])
            continue;
        const struct point here = {job->errors[unit * formats + c],
                                   mb_journal_find(job->journal, mb_sense_tensor(job, unit)->name,
                                                   mb_sense_stored(job, unit, c))};
        const bool usable =
            here.error > 0 && here.loss != NULL && isfinite(here.loss->mean) && here.loss->mean > 0;
        if (!usable)
            continue;
        const double distance = fabs(log(here.error / error));
        if (near->loss == NULL || distance < fabs(log(near->error / error))) {
            *other = *near;
            *near = here;
        } else if (other->loss == NULL || distance < fabs(log(other->error / error))) {
            *other = here;
        }
    }
}

struct mb_loss mb_sense_estimate(const struct mb_sense_job *job, size_t unit, size_t candidate)
{
    const double error = job->errors[unit * job->options->format_count + candidate];
    struct point near, other;
    if (!(error > 0))
        return (struct mb_loss){.known = 1};
    neighbours(job, unit, error, &near, &other);
    if (near.loss == NULL)
        return (struct mb_loss){.known = 0};
    double power = 1;
    if (other.loss != NULL && other.error != near.error)
        power = log(other.loss->mean / near.loss->mean) / log(other.error / near.error);
    if (!(power > 0.5)) /* losses near the noise floor say little about the slope */
        power = 0.5;
    if (power > 2)
        power = 2;
    const double factor = pow(error / near.error, power);
    return (struct mb_loss){.known = 1,
                            .mean = factor * near.loss->mean,
                            .low = factor * near.loss->low,
                            .high = factor * near.loss->high,
                            .weight_error = sqrt(error)};
}
