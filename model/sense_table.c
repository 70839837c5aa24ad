/* SPDX-License-Identifier: Apache-2.0 */
/* The table of a finished job, for the method that was asked for. */
#include "model/sense.h"

#include "model/encoder.h"
#include "model/importance.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const mb_method_names[MB_METHOD_COUNT + 1] = {
    "kl", "reverse", "js", "sqnr", "cosine", "ppl", "weight-error", "surrogate", NULL};

const char *mb_method_name(enum mb_method method)
{
    return (unsigned)method < MB_METHOD_COUNT ? mb_method_names[method] : NULL;
}

void mb_method_describe(enum mb_method method, size_t surrogate_probes, char text[32])
{
    if (method == MB_METHOD_SURROGATE)
        snprintf(text, 32, "%s %zu", mb_method_name(method),
                 surrogate_probes > 0 ? surrogate_probes : MB_SURROGATE_PROBES);
    else
        snprintf(text, 32, "%s", mb_method_name(method));
}

static struct mb_loss loss_of(const struct mb_sense_job *job, size_t unit, size_t candidate)
{
    const enum mb_method method = job->options->method;
    const enum mb_format format = mb_sense_stored(job, unit, candidate);
    const size_t cell = unit * job->options->format_count + candidate;
    if (format == MB_FORMAT_NONE)
        return (struct mb_loss){.known = 1};
    if (method == MB_METHOD_WEIGHT_ERROR) {
        const double error = job->errors[cell];
        return (struct mb_loss){1, error, error, error, sqrt(error)};
    }
    const char *name = mb_sense_tensor(job, unit)->name;
    const struct mb_loss *found = mb_journal_find(job->journal, name, format);
    if (method == MB_METHOD_KL || method == MB_METHOD_SURROGATE)
        return *found;
    const size_t windows = job->options->windows->count;
    const double *values = mb_journal_values(job->journal, name, format);
    struct mb_loss loss = mb_measure_loss(values + (size_t)method * windows, job->offsets, windows);
    loss.weight_error = found->weight_error;
    return loss;
}

static void fill_header(const struct mb_sense_job *job, struct mb_sensitivity *table)
{
    const struct mb_windows *windows = job->options->windows;
    const struct mb_loss *noise = mb_journal_find(job->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32);
    memcpy(table->model_hash, mb_model_hash(job->model), sizeof table->model_hash);
    memcpy(table->text_hash, windows->text_hash, sizeof table->text_hash);
    if (job->options->importance != NULL)
        mb_importance_hash(job->model, job->options->importance, table->importance_hash);
    if (job->options->encoder != NULL)
        (void)snprintf(table->feedback_hash, sizeof table->feedback_hash, "%s",
                       mb_encoder_hash(job->options->encoder));
    mb_method_describe(job->options->method, job->options->surrogate_probes, table->method);
    snprintf(table->numerics, sizeof table->numerics, "%s",
             mb_numerics_name(job->options->numerics));
    table->windows = windows->count;
    table->window = windows->window;
    table->tokens = job->offsets[windows->count];
    table->noise_floor = noise != NULL ? noise->mean : 0;
    table->shard = job->options->shards > 0 ? job->options->shard : 0;
    table->shards = job->options->shards;
}

enum mb_status mb_sense_table(const struct mb_sense_job *job, struct mb_sensitivity **table,
                              struct mb_error *error)
{
    const char **names = malloc(job->unit_count * sizeof *names);
    enum mb_status status = MB_ERR_MEMORY;
    for (size_t u = 0; names != NULL && u < job->unit_count; u++)
        names[u] = mb_sense_tensor(job, u)->name;
    if (names != NULL)
        status = mb_sensitivity_create(job->unit_count, names, job->options->format_count,
                                       job->options->formats, table);
    free(names);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "out of memory for the sensitivity table");
    fill_header(job, *table);
    for (size_t u = 0; u < job->unit_count; u++)
        for (size_t c = 0; mb_sense_owns(job, u) && c < job->options->format_count; c++) {
            struct mb_loss *loss = &(*table)->losses[u * job->options->format_count + c];
            *loss = loss_of(job, u, c);
            if (!isfinite(loss->mean) || !isfinite(loss->high) || !isfinite(loss->weight_error))
                *loss = (struct mb_loss){.known = 0};
        }
    return MB_OK;
}

/* ---- all measures ---- */

void mb_measures_free(struct mb_measures *measures)
{
    if (measures == NULL)
        return;
    free(measures->entries);
    free(measures->values);
    free(measures->offsets);
    free(measures);
}

enum mb_status mb_sense_collect_measures(const struct mb_sense_job *job,
                                         struct mb_measures **measures, struct mb_error *error)
{
    const size_t windows = job->options->windows->count, formats = job->options->format_count;
    const size_t each = MB_MEASURE_COUNT * windows;
    struct mb_measures *made = calloc(1, sizeof *made);
    *measures = made;
    if (made != NULL) {
        made->windows = windows;
        made->entries = calloc(job->unit_count * formats, sizeof *made->entries);
        made->values = calloc(job->unit_count * formats * each, sizeof *made->values);
        made->offsets = calloc(windows + 1, sizeof *made->offsets);
    }
    if (made == NULL || made->entries == NULL || made->values == NULL || made->offsets == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for measures");
    memcpy(made->offsets, job->offsets, (windows + 1) * sizeof *made->offsets);
    for (size_t i = 0; i < job->unit_count * formats; i++) {
        const size_t unit = i / formats;
        const enum mb_format format = mb_sense_stored(job, unit, i % formats);
        const struct mb_tensor *tensor = mb_sense_tensor(job, unit);
        const double *values = format != MB_FORMAT_NONE && mb_sense_first(job, unit, i % formats)
                                   ? mb_journal_values(job->journal, tensor->name, format)
                                   : NULL;
        const struct mb_loss *loss =
            values != NULL ? mb_journal_find(job->journal, tensor->name, format) : NULL;
        bool sound = loss != NULL && loss->weight_error > 0; /* exact entries lose nothing */
        for (size_t v = 0; sound && v <= each; v++)
            sound = isfinite(values[v]);
        if (!sound)
            continue;
        struct mb_measured *entry = &made->entries[made->entry_count];
        snprintf(entry->tensor, sizeof entry->tensor, "%s", tensor->name);
        entry->role = (int)tensor->role;
        entry->format = format;
        entry->output_error = values[each];
        memcpy(made->values + made->entry_count++ * each, values, each * sizeof *values);
    }
    return MB_OK;
}
