/* SPDX-License-Identifier: Apache-2.0 */
/* The sensitivity table: every quantizable matrix in every candidate format, one probe each.
 *
 * Probes go in the order in which a token meets the matrices, since the prober only walks forward;
 * what the journal holds already is not run. Every number of a probe depends on model, text and
 * settings alone, never on threads, chunks, memory or what was resumed: an interrupted job ends
 * with the table of an uninterrupted one. Source: KL Lens (arXiv 2604.13440) with the KL taken
 * forward; restart and interval are ours. */
#include "model/journal.h"
#include "model/probe.h"
#include "model/statistics.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised when a change of arithmetic makes old journals incomparable. */
enum { METHOD_REVISION = 1 };

struct unit {
    size_t matrix, tensor;
    struct mb_target target;
};

struct sense {
    struct mb_model *model;
    const struct mb_sense_options *options;
    struct mb_network *network;
    struct mb_prober *prober; /* NULL until a probe has to run */
    struct mb_journal *journal;
    struct unit *units; /* in the order of the list */
    size_t unit_count;
    double *kl, *means; /* of a probe: per scored row, per window */
    double done, total; /* cost */
    double probe_cost;
    char note[128];
};

static const struct mb_tensor *tensor_of(const struct sense *s, size_t unit)
{
    return mb_model_tensor_at(s->model, s->units[unit].tensor);
}

static const float *importance_of(const struct sense *s, size_t unit)
{
    return s->options->importance ? s->options->importance[s->units[unit].tensor] : NULL;
}

/* ---- what there is to do ---- */

/* One line that says which job a journal belongs to. Formats are no part of it: more of them extend
 * a job. */
static enum mb_status describe(const struct sense *s, char *settings, size_t bytes,
                               struct mb_error *error)
{
    const struct mb_windows *windows = s->options->windows;
    char tokens[33], importance[33] = "none";
    mb_hash_bytes(windows->tokens, windows->count * windows->window * sizeof *windows->tokens,
                  tokens);
    for (size_t i = 0; s->options->importance && i < mb_model_tensor_count(s->model); i++) {
        const float *weights = s->options->importance[i];
        char both[2][33];
        if (weights == NULL)
            continue;
        memcpy(both[0], importance, sizeof importance);
        mb_hash_bytes(weights, mb_model_tensor_at(s->model, i)->k * sizeof *weights, both[1]);
        mb_hash_bytes(both, sizeof both, importance);
    }
    const char *model = mb_model_hash(s->model);
    if (model == NULL || model[0] == '\0')
        return mb_error_set(error, MB_ERR_IO, -1, "cannot read '%s' to its end",
                            mb_model_path(s->model));
    snprintf(settings, bytes,
             "kl %s revision %d, model %s, tokens %s, windows %zu x %zu, score %zu, importance %s",
             mb_numerics_name(s->options->numerics), METHOD_REVISION, model, tokens, windows->count,
             windows->window, s->options->score_tokens, importance);
    return MB_OK;
}

static int by_target(const void *a, const void *b)
{
    const struct mb_target *x = &((const struct unit *)a)->target,
                           *y = &((const struct unit *)b)->target;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    return (x->product > y->product) - (x->product < y->product);
}

static enum mb_status list_units(struct sense *s, struct mb_error *error)
{
    const struct mb_network *network = s->network;
    s->units = calloc(network->matrix_count + 1, sizeof *s->units);
    if (s->units == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    for (size_t i = 0; i < network->matrix_count; i++) {
        const size_t tensor = network->matrices[i].tensor;
        if (mb_model_tensor_at(s->model, tensor)->quantizable)
            s->units[s->unit_count++] = (struct unit){i, tensor, mb_target_of(network, i)};
    }
    if (s->unit_count == 0)
        return mb_error_set(error, MB_ERR_FILE, -1, "%s: no tensor can be quantized",
                            mb_model_path(s->model));
    qsort(s->units, s->unit_count, sizeof *s->units, by_target);
    return MB_OK;
}

/* What is stored when `asked` for the unit; MB_FORMAT_NONE: nothing changes and no probe is due. */
static enum mb_format stored_format(const struct sense *s, size_t unit, enum mb_format asked)
{
    const struct mb_tensor *tensor = tensor_of(s, unit);
    const enum mb_format format = mb_format_fit(asked, tensor->k);
    /* What a quantized file holds already still rounds its input when its own kernel runs it. */
    const bool rounds = s->options->numerics == MB_NUMERICS_KERNEL &&
                        mb_format_info(format)->activation != MB_ACTIVATION_F32;
    return (format == tensor->format && !rounds) || format == MB_FORMAT_F32 ? MB_FORMAT_NONE
                                                                            : format;
}

/* A probe is due for the first candidate that is stored as `format`. */
static bool is_due(const struct sense *s, size_t unit, size_t candidate)
{
    const enum mb_format format = stored_format(s, unit, s->options->formats[candidate]);
    if (format == MB_FORMAT_NONE ||
        mb_journal_find(s->journal, tensor_of(s, unit)->name, format) != NULL)
        return false;
    for (size_t earlier = 0; earlier < candidate; earlier++)
        if (stored_format(s, unit, s->options->formats[earlier]) == format)
            return false;
    return true;
}

static size_t count_due(const struct sense *s)
{
    size_t due = mb_journal_find(s->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32) == NULL;
    for (size_t u = 0; u < s->unit_count; u++)
        for (size_t c = 0; c < s->options->format_count; c++)
            due += is_due(s, u, c);
    return due;
}

/* ---- one probe ---- */

static int report_part(void *user, double part)
{
    struct sense *s = user;
    return mb_progress_report(s->options->progress, s->done + part * s->probe_cost, s->total,
                              s->note) != MB_OK;
}

/* Mean over scored tokens, interval over windows. With one window there is nothing to compare: the
 * interval is then over its tokens, which hang together, and so too narrow. */
static struct mb_loss summarize(const struct sense *s, double weight_error)
{
    const size_t windows = s->options->windows->count, tokens = mb_prober_tokens(s->prober);
    const size_t *offsets = mb_prober_offsets(s->prober);
    double sum = 0;
    for (size_t w = 0; w < windows; w++) {
        double window = 0;
        for (size_t i = offsets[w]; i < offsets[w + 1]; i++)
            window += s->kl[i];
        s->means[w] = window / (double)(offsets[w + 1] - offsets[w]);
        sum += window;
    }
    const double half = windows > 1 ? mb_interval(s->means, windows) : mb_interval(s->kl, tokens);
    struct mb_loss loss = {.known = 1, .mean = sum / (double)tokens, .weight_error = weight_error};
    if (loss.mean < 0) /* rounding of a loss of zero */
        loss.mean = 0;
    loss.low = loss.mean > half ? loss.mean - half : 0;
    loss.high = loss.mean + half;
    return loss;
}

/* Requantize and run; format MB_FORMAT_NONE runs the unchanged weights whatever they are. */
static enum mb_status probe(struct sense *s, size_t unit, enum mb_format format,
                            struct mb_loss *loss, struct mb_error *error)
{
    struct mb_requantized weights;
    const enum mb_numerics numerics = s->options->numerics;
    enum mb_status status = mb_requantize(s->network, s->units[unit].matrix, format, numerics,
                                          importance_of(s, unit), &weights, error);
    if (status != MB_OK)
        return status;
    if (weights.exact && numerics == MB_NUMERICS_F32 && format != MB_FORMAT_NONE) {
        *loss = (struct mb_loss){.known = 1};
    } else {
        status = mb_prober_run(s->prober, &s->units[unit].target, &weights.replacement, report_part,
                               s, s->kl, error);
        if (status == MB_OK)
            *loss = summarize(s, weights.error);
    }
    mb_requantized_free(&weights);
    return status;
}

/* Quantizing takes time too: as much per weight as some 100 multiplications. */
static double cost_of(const struct sense *s, size_t unit)
{
    const struct mb_tensor *tensor = tensor_of(s, unit);
    return mb_prober_cost(s->prober, &s->units[unit].target) +
           100.0 * (double)tensor->n * (double)tensor->k;
}

static void set_note(struct sense *s, size_t unit, const char *what)
{
    const char *name = tensor_of(s, unit)->name;
    const size_t length = strlen(name), suffix = strlen(".weight");
    const bool cut = length > suffix && strcmp(name + length - suffix, ".weight") == 0;
    snprintf(s->note, sizeof s->note, "%.*s %s", (int)(cut ? length - suffix : length), name, what);
}

static enum mb_status run_one(struct sense *s, size_t unit, enum mb_format format,
                              struct mb_error *error)
{
    const struct mb_tensor *tensor = tensor_of(s, unit);
    const bool noise = format == MB_FORMAT_NONE;
    set_note(s, unit, noise ? "noise floor" : mb_format_info(format)->name);
    s->probe_cost = cost_of(s, unit);
    if (report_part(s, 0.0) != 0)
        return mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted; run it again to go on");
    enum mb_status status = mb_prober_seek(s->prober, &s->units[unit].target, error);
    struct mb_loss loss;
    if (status == MB_OK)
        status = probe(s, unit, format, &loss, error);
    if (status != MB_OK)
        return status;
    if (!isfinite(loss.mean))
        mb_log(MB_LOG_WARNING, "%s in %s: the output is not finite; the entry is left unknown",
               tensor->name, noise ? "f32" : mb_format_info(format)->name);
    s->done += s->probe_cost;
    return mb_journal_append(s->journal, noise ? MB_JOURNAL_NOISE : tensor->name,
                             noise ? MB_FORMAT_F32 : format, &loss, error);
}

/* The unit whose probe runs most of the network: where arithmetic noise would show most. */
static size_t noisiest_unit(const struct sense *s)
{
    size_t unit = 0;
    while (unit + 1 < s->unit_count && s->units[unit].target.kind != MB_TARGET_PRODUCT)
        unit++;
    return unit;
}

static enum mb_status run_probes(struct sense *s, struct mb_error *error)
{
    const size_t formats = s->options->format_count, noise_unit = noisiest_unit(s);
    const bool noise_due = mb_journal_find(s->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32) == NULL;
    s->total = noise_due ? cost_of(s, noise_unit) : 0;
    for (size_t u = 0; u < s->unit_count; u++)
        for (size_t c = 0; c < formats; c++)
            s->total += is_due(s, u, c) ? cost_of(s, u) : 0;
    enum mb_status status = MB_OK;
    for (size_t u = 0; u < s->unit_count && status == MB_OK; u++) {
        if (u == noise_unit && noise_due)
            status = run_one(s, u, MB_FORMAT_NONE, error);
        for (size_t c = 0; c < formats && status == MB_OK; c++)
            if (is_due(s, u, c))
                status = run_one(s, u, stored_format(s, u, s->options->formats[c]), error);
    }
    if (status == MB_OK &&
        mb_progress_report(s->options->progress, s->total, s->total, "done") != MB_OK)
        status = mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted; run it again to go on");
    return status;
}

static enum mb_status run_due(struct sense *s, struct mb_error *error)
{
    const struct mb_prober_options options = {
        .windows = s->options->windows,
        .score_tokens = s->options->score_tokens,
        .memory_limit_bytes = s->options->memory_limit_bytes,
        .progress = s->options->progress,
    };
    enum mb_status status = mb_prober_create(s->network, &options, &s->prober, error);
    if (status != MB_OK)
        return status;
    s->kl = malloc(mb_prober_tokens(s->prober) * sizeof *s->kl);
    s->means = malloc(s->options->windows->count * sizeof *s->means);
    if (s->kl == NULL || s->means == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    return run_probes(s, error);
}

/* ---- the table ---- */

/* Scored tokens without a prober, for a job that the journal finishes. */
static size_t scored_tokens(const struct mb_sense_options *options)
{
    const size_t windows = options->windows->count, window = options->windows->window;
    const size_t half = windows * (window - 1 - window / 2), wanted = options->score_tokens;
    if (wanted == 0)
        return half;
    if (wanted > half)
        return windows * (window - 1);
    return wanted < windows ? windows : wanted;
}

static enum mb_status make_table(const struct sense *s, struct mb_sensitivity **table,
                                 struct mb_error *error)
{
    const struct mb_windows *windows = s->options->windows;
    const char **names = malloc(s->unit_count * sizeof *names);
    enum mb_status status = MB_ERR_MEMORY;
    for (size_t u = 0; names != NULL && u < s->unit_count; u++)
        names[u] = tensor_of(s, u)->name;
    if (names != NULL)
        status = mb_sensitivity_create(s->unit_count, names, s->options->format_count,
                                       s->options->formats, table);
    free(names);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "out of memory for the sensitivity table");
    struct mb_sensitivity *made = *table;
    memcpy(made->model_hash, mb_model_hash(s->model), sizeof made->model_hash);
    memcpy(made->text_hash, windows->text_hash, sizeof made->text_hash);
    snprintf(made->method, sizeof made->method, "kl");
    snprintf(made->numerics, sizeof made->numerics, "%s", mb_numerics_name(s->options->numerics));
    made->windows = windows->count;
    made->window = windows->window;
    made->tokens = scored_tokens(s->options);
    made->noise_floor = mb_journal_find(s->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32)->mean;
    for (size_t u = 0; u < s->unit_count; u++)
        for (size_t c = 0; c < s->options->format_count; c++) {
            const enum mb_format format = stored_format(s, u, s->options->formats[c]);
            struct mb_loss *loss = &made->losses[u * s->options->format_count + c];
            *loss = format == MB_FORMAT_NONE
                        ? (struct mb_loss){.known = 1}
                        : *mb_journal_find(s->journal, tensor_of(s, u)->name, format);
            if (!isfinite(loss->mean) || !isfinite(loss->high) || !isfinite(loss->weight_error))
                *loss = (struct mb_loss){.known = 0};
        }
    return MB_OK;
}

static enum mb_status check_options(const struct mb_sense_options *options, struct mb_error *error)
{
    if (options->windows == NULL || options->windows->count == 0 || options->windows->window < 4)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "sensing needs windows of at least 4 tokens");
    if (options->format_count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "sensing needs at least one format");
    for (size_t i = 0; i < options->format_count; i++)
        if (mb_format_info(options->formats[i]) == NULL)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "format number %d is none of ours",
                                (int)options->formats[i]);
    return MB_OK;
}

enum mb_status mb_sense(struct mb_model *model, const struct mb_sense_options *options,
                        struct mb_sensitivity **table, struct mb_error *error)
{
    struct sense s = {.model = model, .options = options};
    char settings[512];
    *table = NULL;
    enum mb_status status = check_options(options, error);
    if (status == MB_OK)
        status = mb_network_create(model, MB_NUMERICS_F32, options->threads, &s.network, error);
    if (status == MB_OK)
        status = mb_windows_check(s.network, options->windows, error);
    if (status == MB_OK)
        status = list_units(&s, error);
    if (status == MB_OK)
        status = describe(&s, settings, sizeof settings, error);
    if (status == MB_OK)
        status = mb_journal_open(options->journal_path, settings, &s.journal, error);
    if (status == MB_OK && count_due(&s) > 0)
        status = run_due(&s, error);
    if (status == MB_OK)
        status = make_table(&s, table, error);
    mb_prober_destroy(s.prober);
    mb_journal_close(s.journal);
    mb_network_destroy(s.network);
    free(s.units);
    free(s.kl);
    free(s.means);
    return status;
}
