/* SPDX-License-Identifier: Apache-2.0 */
/* The surrogate: a few formats of each tensor are probed, the others follow from what they do to
 * the product's own output.
 *
 * Small changes cost a KL in proportion to the square of what they change in the output, whatever
 * format made them; so one probe gives a tensor's factor, and a second one says how far the
 * proportion holds. The output's change takes one product on the rows that the prober has at hand,
 * where a probe takes all that follows. It knows what the weights' own error does not: how columns
 * hang together, what feedback makes of that, what rounded activations add. An embedding and the
 * head are probed in every format: the one is no product, the other is all that follows. */
#include "model/sense.h"

#include "support/support.h"

#include <math.h>
#include <stdlib.h>

static size_t probes_asked(const struct mb_sense_job *job)
{
    return job->options->surrogate_probes > 0 ? job->options->surrogate_probes
                                              : MB_SURROGATE_PROBES;
}

static bool is_product(const struct mb_sense_job *job, size_t unit)
{
    return job->units[unit].target.kind == MB_TARGET_PRODUCT;
}

static bool is_entry(const struct mb_sense_job *job, size_t unit, size_t candidate)
{
    return mb_sense_stored(job, unit, candidate) != MB_FORMAT_NONE &&
           mb_sense_first(job, unit, candidate);
}

size_t mb_sense_probes(const struct mb_sense_job *job, size_t unit)
{
    size_t entries = 0;
    for (size_t c = 0; c < job->options->format_count; c++)
        entries += is_entry(job, unit, c);
    return is_product(job, unit) && entries > probes_asked(job) ? probes_asked(job) : entries;
}

enum mb_status mb_sense_prepare(struct mb_sense_job *job, struct mb_error *error)
{
    const size_t cells = job->unit_count * job->options->format_count;
    job->errors = calloc(cells, sizeof *job->errors);
    job->weight_errors = calloc(cells, sizeof *job->weight_errors);
    job->chosen = calloc(cells, sizeof *job->chosen);
    if (job->errors == NULL || job->weight_errors == NULL || job->chosen == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    return MB_OK;
}

static enum mb_status measure_errors(struct mb_sense_job *job, size_t unit, struct mb_error *error)
{
    const size_t formats = job->options->format_count;
    for (size_t c = 0; c < formats; c++) {
        struct mb_requantized weights;
        if (!is_entry(job, unit, c))
            continue;
        enum mb_status status = mb_sense_requantize(job, unit, mb_sense_stored(job, unit, c),
                                                    job->options->numerics, &weights, error);
        if (status != MB_OK)
            return status;
        job->weight_errors[unit * formats + c] = weights.error;
        status =
            mb_prober_product_error(job->prober, &job->units[unit].target, &weights.replacement,
                                    &job->errors[unit * formats + c], error);
        mb_requantized_free(&weights);
        if (status != MB_OK)
            return status;
    }
    return MB_OK;
}

/* Candidates of a unit that need an entry, ascending by error, what has none last; returns how
 * many. */
static size_t order_candidates(const struct mb_sense_job *job, size_t unit, size_t *order)
{
    const size_t formats = job->options->format_count;
    const double *errors = &job->errors[unit * formats];
    size_t count = 0;
    for (size_t c = 0; c < formats; c++) {
        if (!is_entry(job, unit, c))
            continue;
        size_t at = count++;
        for (; at > 0 && !(errors[order[at - 1]] <= errors[c]) && !isnan(errors[c]); at--)
            order[at] = order[at - 1];
        order[at] = c;
    }
    return count;
}

/* One probe is the middle one. Of more the last has the largest error: what lies between two is
 * told well, and what lies below the least loses little; but a power fitted below, carried on to
 * formats of three times the error, once gave a tensor's 2 bits three times their loss. */
static size_t probe_place(size_t i, size_t probes, size_t count)
{
    return probes == 1 ? count / 2 : count - 1 - (probes - 1 - i) * count / probes;
}

enum mb_status mb_sense_choose(struct mb_sense_job *job, size_t unit, struct mb_error *error)
{
    const size_t formats = job->options->format_count, probes = mb_sense_probes(job, unit);
    size_t *order = malloc(formats * sizeof *order);
    enum mb_status status =
        order != NULL ? MB_OK : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    if (status == MB_OK && is_product(job, unit))
        status = measure_errors(job, unit, error);
    const size_t count = status == MB_OK ? order_candidates(job, unit, order) : 0;
    for (size_t i = 0; count > 0 && i < probes; i++)
        job->chosen[unit * formats + order[probe_place(i, probes, count)]] = true;
    free(order);
    return status;
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
    const size_t cell = unit * job->options->format_count + candidate;
    const double error = job->errors[cell];
    struct point near, other;
    if (error == 0)
        return (struct mb_loss){.known = 1};
    neighbours(job, unit, error, &near, &other);
    if (near.loss == NULL)
        return (struct mb_loss){.mean = NAN};
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
                            .weight_error = job->weight_errors[cell]};
}
