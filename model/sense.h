/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of sensing: a job and what its files share.
 *
 * sense.c runs probes in the order of the list and keeps them in the journal; sense_weights.c gets
 * weight errors; sense_surrogate.c chooses what the surrogate probes and estimates the rest;
 * sense_table.c turns all of it into a table of one method. */
#ifndef MIXBIT_MODEL_SENSE_H
#define MIXBIT_MODEL_SENSE_H

#include "model/journal.h"
#include "model/measures.h"
#include "model/probe.h"

struct mb_sense_unit {
    size_t matrix, tensor;
    struct mb_target target;
};

struct mb_sense_job {
    struct mb_model *model;
    const struct mb_sense_options *options;
    bool measure_all; /* every measure of a probe is kept, not KL alone */
    struct mb_network *network;
    struct mb_prober *prober; /* NULL until a probe has to run */
    struct mb_journal *journal;
    struct mb_sense_unit *units; /* in the order of the list */
    size_t unit_count;
    struct mb_importance *activations; /* what every column adds to an output; NULL: not needed */
    double *errors;             /* squared output errors, [unit][candidate]; NULL: not needed */
    double *weight_errors;      /* RMS of weight errors over that of weights, of the surrogate */
    bool *chosen;               /* what the surrogate probes, [unit][candidate]; NULL: everything */
    size_t *offsets;            /* scored rows before each window, [windows + 1] */
    double *kl, *rows, *values; /* of a probe: per scored row; all measures; what is journalled */
    double done, total;         /* cost */
    double probe_cost;
    char note[128];
};

/* Numbers that the journal keeps of a probe when all measures are: those of every window, and the
 * squared output error behind them. */
size_t mb_sense_values(const struct mb_sense_options *options);

const struct mb_tensor *mb_sense_tensor(const struct mb_sense_job *job, size_t unit);
/* Whether a unit belongs to this run's shard. */
bool mb_sense_owns(const struct mb_sense_job *job, size_t unit);
/* What is stored when a candidate is asked for; MB_FORMAT_NONE: nothing changes, no loss. */
enum mb_format mb_sense_stored(const struct mb_sense_job *job, size_t unit, size_t candidate);
/* Whether the candidate is the first that is stored as its format: later ones share its entry. */
bool mb_sense_first(const struct mb_sense_job *job, size_t unit, size_t candidate);
const float *mb_sense_importance(const struct mb_sense_job *job, size_t unit);
/* The weights of a probe, as this job rounds them. */
enum mb_status mb_sense_requantize(struct mb_sense_job *job, size_t unit, enum mb_format format,
                                   enum mb_numerics numerics, struct mb_requantized *weights,
                                   struct mb_error *error);

/* Collect activations and the output error of every candidate (sense_weights.c). */
enum mb_status mb_sense_collect(struct mb_sense_job *job, struct mb_error *error);
enum mb_status mb_sense_weigh(struct mb_sense_job *job, struct mb_error *error);

/* ---- the surrogate (sense_surrogate.c) ---- */

/* How many candidates of a unit are probed. */
size_t mb_sense_probes(const struct mb_sense_job *job, size_t unit);
/* Room for all units' errors and choices. */
enum mb_status mb_sense_prepare(struct mb_sense_job *job, struct mb_error *error);
/* Errors of the unit's candidates, and which are probed: spread evenly over them, ordered by error.
 * The prober stands at the unit. */
enum mb_status mb_sense_choose(struct mb_sense_job *job, size_t unit, struct mb_error *error);
/* Loss of a candidate that was not probed, from those of its unit that were: a power of the squared
 * output error between the two nearest probes, in proportion to it with one probe. */
struct mb_loss mb_sense_estimate(const struct mb_sense_job *job, size_t unit, size_t candidate);

/* The table of options->method from what the journal holds (sense_table.c). */
enum mb_status mb_sense_table(const struct mb_sense_job *job, struct mb_sensitivity **table,
                              struct mb_error *error);

/* ---- all measures ---- */

/* Every measure of every probe: what methods are compared with. Entries are probes, not cells:
 * candidates that are stored alike are one. */
struct mb_measures {
    size_t entry_count, windows;
    struct mb_measured {
        char tensor[96];
        int role;
        enum mb_format format;
        double output_error; /* squared, relative */
    } * entries;
    double *values;  /* [entry][MB_MEASURE_COUNT][windows] */
    size_t *offsets; /* scored tokens before each window, [windows + 1] */
};
void mb_measures_free(struct mb_measures *measures);
/* mb_sense for any method that comes from logits, and all measures beside it; journals are those of
 * that method. */
enum mb_status mb_sense_measures(struct mb_model *model, const struct mb_sense_options *options,
                                 struct mb_sensitivity **table, struct mb_measures **measures,
                                 struct mb_error *error);
enum mb_status mb_sense_collect_measures(const struct mb_sense_job *job,
                                         struct mb_measures **measures, struct mb_error *error);

#endif
