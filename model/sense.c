/* SPDX-License-Identifier: Apache-2.0 */
/* The sensitivity table: every quantizable matrix in every candidate format, one probe each.
 *
 * Probes go in the order in which a token meets the matrices, since the prober only walks forward;
 * what the journal holds already is not run. Every number of a probe depends on model, text and
 * settings alone, never on threads, chunks, memory or what was resumed: an interrupted job ends
 * with the table of an uninterrupted one. Source: KL Lens (arXiv 2604.13440) with the KL taken
 * forward; restart and interval are ours. */
#include "model/sense.h"

#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/statistics.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Raised when a change of arithmetic makes old journals incomparable. */
enum { METHOD_REVISION = 1 };

const struct mb_tensor *mb_sense_tensor(const struct mb_sense_job *job, size_t unit)
{
    return mb_model_tensor_at(job->model, job->units[unit].tensor);
}

bool mb_sense_owns(const struct mb_sense_job *job, size_t unit)
{
    return job->options->shards == 0 || unit % job->options->shards == job->options->shard - 1;
}

const float *mb_sense_importance(const struct mb_sense_job *job, size_t unit)
{
    return job->options->importance ? job->options->importance[job->units[unit].tensor] : NULL;
}

size_t mb_sense_values(const struct mb_sense_options *options)
{
    return MB_MEASURE_COUNT * options->windows->count + 1;
}

/* ---- what there is to do ---- */

/* What its entries are. Formats are no part of it, more of them extend a job, but where the
 * surrogate chooses among them. */
static void describe_entries(const struct mb_sense_job *s, char text[64])
{
    if (s->options->method != MB_METHOD_SURROGATE) {
        (void)snprintf(text, 64, "%s", s->measure_all ? "measures" : "kl");
        return;
    }
    char method[32], formats[33];
    mb_method_describe(MB_METHOD_SURROGATE, s->options->surrogate_probes, method);
    mb_hash_bytes(s->options->formats, s->options->format_count * sizeof *s->options->formats,
                  formats);
    (void)snprintf(text, 64, "%s of %.16s", method, formats);
}

/* One line that says which job a journal belongs to. */
static enum mb_status describe(const struct mb_sense_job *s, char *settings, size_t bytes,
                               struct mb_error *error)
{
    const struct mb_windows *windows = s->options->windows;
    char entries[64], tokens[33], importance[33];
    describe_entries(s, entries);
    mb_hash_bytes(windows->tokens, windows->count * windows->window * sizeof *windows->tokens,
                  tokens);
    mb_importance_hash(s->model, s->options->importance, importance);
    struct mb_encoder *encoder = s->options->encoder;
    const char *model = mb_model_hash(s->model);
    if (model == NULL || model[0] == '\0')
        return mb_error_set(error, MB_ERR_IO, -1, "cannot read '%s' to its end",
                            mb_model_path(s->model));
    snprintf(settings, bytes,
             "%s %s revision %d, model %s, tokens %s, windows %zu x %zu, score %zu, importance "
             "%s%s%s",
             entries, mb_numerics_name(s->options->numerics), METHOD_REVISION, model, tokens,
             windows->count, windows->window, s->options->score_tokens, importance,
             encoder != NULL ? ", feedback " : "", encoder != NULL ? mb_encoder_hash(encoder) : "");
    return MB_OK;
}

static int by_target(const void *a, const void *b)
{
    const struct mb_target *x = &((const struct mb_sense_unit *)a)->target,
                           *y = &((const struct mb_sense_unit *)b)->target;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    if (x->step != y->step)
        return x->step < y->step ? -1 : 1;
    return (x->product > y->product) - (x->product < y->product);
}

static enum mb_status list_units(struct mb_sense_job *s, struct mb_error *error)
{
    const struct mb_network *network = s->network;
    s->units = calloc(network->matrix_count + 1, sizeof *s->units);
    if (s->units == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    for (size_t i = 0; i < network->matrix_count; i++) {
        const size_t tensor = network->matrices[i].tensor;
        if (mb_model_tensor_at(s->model, tensor)->quantizable)
            s->units[s->unit_count++] = (struct mb_sense_unit){i, tensor, mb_target_of(network, i)};
    }
    if (s->unit_count == 0)
        return mb_error_set(error, MB_ERR_FILE, -1, "%s: no tensor can be quantized",
                            mb_model_path(s->model));
    qsort(s->units, s->unit_count, sizeof *s->units, by_target);
    return MB_OK;
}

enum mb_format mb_sense_stored(const struct mb_sense_job *s, size_t unit, size_t candidate)
{
    const struct mb_tensor *tensor = mb_sense_tensor(s, unit);
    const enum mb_format format = mb_format_fit(s->options->formats[candidate], tensor->k);
    /* What a quantized file holds already still rounds its input when its own kernel runs it. */
    const bool rounds = s->options->numerics == MB_NUMERICS_KERNEL &&
                        mb_format_info(format)->activation != MB_ACTIVATION_F32;
    return (format == tensor->format && !rounds) || format == MB_FORMAT_F32 ? MB_FORMAT_NONE
                                                                            : format;
}

bool mb_sense_first(const struct mb_sense_job *s, size_t unit, size_t candidate)
{
    const enum mb_format format = mb_sense_stored(s, unit, candidate);
    for (size_t earlier = 0; earlier < candidate; earlier++)
        if (mb_sense_stored(s, unit, earlier) == format)
            return false;
    return true;
}

/* An entry is due for the first candidate that is stored as its format. */
static bool is_due(const struct mb_sense_job *s, size_t unit, size_t candidate)
{
    const enum mb_format format = mb_sense_stored(s, unit, candidate);
    return mb_sense_owns(s, unit) && format != MB_FORMAT_NONE &&
           mb_sense_first(s, unit, candidate) &&
           mb_journal_find(s->journal, mb_sense_tensor(s, unit)->name, format) == NULL;
}

static size_t count_due_of(const struct mb_sense_job *s, size_t unit)
{
    size_t due = 0;
    for (size_t c = 0; c < s->options->format_count; c++)
        due += is_due(s, unit, c);
    return due;
}

static size_t count_due(const struct mb_sense_job *s)
{
    size_t due = mb_journal_find(s->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32) == NULL;
    for (size_t u = 0; u < s->unit_count; u++)
        due += count_due_of(s, u);
    return due;
}

/* ---- one probe ---- */

static int report_part(void *user, double part)
{
    struct mb_sense_job *s = user;
    return mb_progress_report(s->options->progress, s->done + part * s->probe_cost, s->total,
                              s->note) != MB_OK;
}

enum mb_status mb_sense_requantize(struct mb_sense_job *s, size_t unit, enum mb_format format,
                                   enum mb_numerics numerics, struct mb_requantized *weights,
                                   struct mb_error *error)
{
    const size_t tensor = s->units[unit].tensor;
    const void *encoded = NULL;
    size_t bytes = 0;
    enum mb_status status = MB_OK;
    if (s->options->encoder != NULL && format != MB_FORMAT_NONE)
        status = mb_encoder_stored(s->options->encoder, tensor, format, false, s->options->progress,
                                   s->done, s->total, &encoded, &bytes, error);
    return status == MB_OK ? mb_requantize(s->network, s->units[unit].matrix, format, numerics,
                                           mb_sense_importance(s, unit),
                                           s->activations ? s->activations->weights[tensor] : NULL,
                                           encoded, bytes, weights, error)
                           : status;
}

/* Mean over scored tokens, interval over windows. With one window there is nothing to compare: the
 * interval is then over its tokens, which hang together, and so too narrow. */
static struct mb_loss summarize(const struct mb_sense_job *s, double weight_error)
{
    const size_t windows = s->options->windows->count, tokens = mb_prober_tokens(s->prober);
    const size_t *offsets = s->offsets;
    double sum = 0;
    for (size_t w = 0; w < windows; w++) {
        double window = 0;
        for (size_t i = offsets[w]; i < offsets[w + 1]; i++)
            window += s->kl[i];
        s->values[w] = window / (double)(offsets[w + 1] - offsets[w]);
        sum += window;
    }
    const double half = windows > 1 ? mb_interval(s->values, windows) : mb_interval(s->kl, tokens);
    struct mb_loss loss = {.known = 1, .mean = sum / (double)tokens, .weight_error = weight_error};
    if (loss.mean < 0) /* rounding of a loss of zero */
        loss.mean = 0;
    loss.low = loss.mean > half ? loss.mean - half : 0;
    loss.high = loss.mean + half;
    return loss;
}

/* Requantize and run; format MB_FORMAT_NONE runs the unchanged weights whatever they are. */
static enum mb_status probe(struct mb_sense_job *s, size_t unit, enum mb_format format,
                            struct mb_loss *loss, struct mb_error *error)
{
    struct mb_requantized weights;
    const enum mb_numerics numerics = s->options->numerics;
    enum mb_status status = mb_sense_requantize(s, unit, format, numerics, &weights, error);
    if (status != MB_OK)
        return status;
    if (weights.exact && numerics == MB_NUMERICS_F32 && format != MB_FORMAT_NONE) {
        *loss = (struct mb_loss){.known = 1};
        for (size_t i = 0; s->measure_all && i < mb_sense_values(s->options); i++)
            s->values[i] = 0;
    } else {
        status = mb_prober_run(s->prober, &s->units[unit].target, &weights.replacement, report_part,
                               s, s->kl, error);
        if (status == MB_OK)
            *loss = summarize(s, weights.error);
        if (status == MB_OK && s->measure_all) {
            mb_measure_windows(s->rows, s->offsets, s->options->windows->count, s->values);
            s->values[mb_sense_values(s->options) - 1] =
                weights.output_error * weights.output_error;
        }
    }
    mb_requantized_free(&weights);
    return status;
}

/* Quantizing takes time too: as much per weight as some 100 multiplications, with feedback
 * thousands. */
static double quantizing_cost(const struct mb_sense_job *s, size_t unit)
{
    const struct mb_tensor *tensor = mb_sense_tensor(s, unit);
    return (s->options->encoder != NULL ? 5000.0 : 100.0) * (double)tensor->n * (double)tensor->k;
}

/* The surrogate has quantized a unit before its probes: what these need is made a second time, or
 * kept. */
static double probe_cost(const struct mb_sense_job *s, size_t unit)
{
    return mb_prober_cost(s->prober, &s->units[unit].target) +
           (s->chosen == NULL ? quantizing_cost(s, unit) : 0);
}

static double choosing_cost(const struct mb_sense_job *s, size_t unit)
{
    return s->chosen != NULL ? (double)count_due_of(s, unit) * quantizing_cost(s, unit) : 0;
}

static double unit_cost(const struct mb_sense_job *s, size_t unit)
{
    const size_t due = count_due_of(s, unit),
                 probes = s->chosen != NULL ? mb_sense_probes(s, unit) : due;
    return choosing_cost(s, unit) + (double)(due < probes ? due : probes) * probe_cost(s, unit);
}

static void set_note(struct mb_sense_job *s, size_t unit, const char *what)
{
    const char *name = mb_sense_tensor(s, unit)->name;
    const size_t length = strlen(name), suffix = strlen(".weight");
    const bool cut = length > suffix && strcmp(name + length - suffix, ".weight") == 0;
    snprintf(s->note, sizeof s->note, "%.*s %s", (int)(cut ? length - suffix : length), name, what);
}

static enum mb_status run_one(struct mb_sense_job *s, size_t unit, enum mb_format format,
                              struct mb_error *error)
{
    const struct mb_tensor *tensor = mb_sense_tensor(s, unit);
    const bool noise = format == MB_FORMAT_NONE;
    set_note(s, unit, noise ? "noise floor" : mb_format_info(format)->name);
    s->probe_cost = probe_cost(s, unit);
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
                             noise ? MB_FORMAT_F32 : format, &loss, s->values, error);
}

/* The unit whose probe runs most of the network: where arithmetic noise would show most. */
static size_t noisiest_unit(const struct mb_sense_job *s)
{
    size_t unit = 0;
    while (unit + 1 < s->unit_count && s->units[unit].target.kind != MB_TARGET_PRODUCT)
        unit++;
    return unit;
}

/* The surrogate's estimates of what a unit's probes leave open. They are kept like probes: an
 * interrupted job need not choose again. */
static enum mb_status estimate_rest(struct mb_sense_job *s, size_t unit, struct mb_error *error)
{
    enum mb_status status = MB_OK;
    for (size_t c = 0; c < s->options->format_count && status == MB_OK; c++) {
        if (!is_due(s, unit, c))
            continue;
        const struct mb_loss loss = mb_sense_estimate(s, unit, c);
        status = mb_journal_append(s->journal, mb_sense_tensor(s, unit)->name,
                                   mb_sense_stored(s, unit, c), &loss, s->values, error);
    }
    return status;
}

static enum mb_status choose(struct mb_sense_job *s, size_t unit, struct mb_error *error)
{
    s->probe_cost = choosing_cost(s, unit);
    set_note(s, unit, "output errors");
    if (report_part(s, 0.0) != 0)
        return mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted; run it again to go on");
    enum mb_status status = mb_prober_seek(s->prober, &s->units[unit].target, error);
    if (status == MB_OK)
        status = mb_sense_choose(s, unit, error);
    s->done += s->probe_cost;
    return status;
}

static enum mb_status run_unit(struct mb_sense_job *s, size_t unit, struct mb_error *error)
{
    const size_t formats = s->options->format_count;
    enum mb_status status = MB_OK;
    if (s->chosen != NULL && count_due_of(s, unit) > 0)
        status = choose(s, unit, error);
    for (size_t c = 0; c < formats && status == MB_OK; c++)
        if (is_due(s, unit, c) && (s->chosen == NULL || s->chosen[unit * formats + c]))
            status = run_one(s, unit, mb_sense_stored(s, unit, c), error);
    return status == MB_OK && s->chosen != NULL ? estimate_rest(s, unit, error) : status;
}

static enum mb_status run_probes(struct mb_sense_job *s, struct mb_error *error)
{
    const size_t noise_unit = noisiest_unit(s);
    const bool noise_due = mb_journal_find(s->journal, MB_JOURNAL_NOISE, MB_FORMAT_F32) == NULL;
    s->total = noise_due ? probe_cost(s, noise_unit) : 0;
    for (size_t u = 0; u < s->unit_count; u++)
        s->total += unit_cost(s, u);
    enum mb_status status = MB_OK;
    for (size_t u = 0; u < s->unit_count && status == MB_OK; u++) {
        if (u == noise_unit && noise_due)
            status = run_one(s, u, MB_FORMAT_NONE, error);
        if (status == MB_OK)
            status = run_unit(s, u, error);
    }
    if (status == MB_OK &&
        mb_progress_report(s->options->progress, s->total, s->total, "done") != MB_OK)
        status = mb_error_set(error, MB_ERR_INTERRUPTED, -1, "interrupted; run it again to go on");
    return status;
}

static enum mb_status run_due(struct mb_sense_job *s, struct mb_error *error)
{
    const size_t tokens = s->offsets[s->options->windows->count];
    s->kl = malloc(tokens * sizeof *s->kl);
    s->values = malloc(mb_sense_values(s->options) * sizeof *s->values);
    if (s->measure_all)
        s->rows = calloc(MB_ROW_MEASURES * tokens, sizeof *s->rows);
    if (s->kl == NULL || s->values == NULL || (s->measure_all && s->rows == NULL))
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    const struct mb_prober_options options = {
        .windows = s->options->windows,
        .score_tokens = s->options->score_tokens,
        .memory_limit_bytes = s->options->memory_limit_bytes,
        .measures = s->rows,
        .progress = s->options->progress,
    };
    const enum mb_status status = mb_prober_create(s->network, &options, &s->prober, error);
    return status == MB_OK ? run_probes(s, error) : status;
}

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

static enum mb_status spread_tokens(struct mb_sense_job *s, struct mb_error *error)
{
    const size_t windows = s->options->windows->count, tokens = scored_tokens(s->options);
    s->offsets = malloc((windows + 1) * sizeof *s->offsets);
    if (s->offsets == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for sensing");
    for (size_t w = 0; w <= windows; w++)
        s->offsets[w] = mb_prober_spread(tokens, windows, w);
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
    if (mb_method_name(options->method) == NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "method number %d is none of ours",
                            (int)options->method);
    if (options->shards > 0 && (options->shard == 0 || options->shard > options->shards))
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "there is no shard %zu of %zu",
                            options->shard, options->shards);
    return MB_OK;
}

/* What a job needs besides probes, and then those. */
static enum mb_status run_job(struct mb_sense_job *s, struct mb_error *error)
{
    const enum mb_method method = s->options->method;
    const bool weigh = method == MB_METHOD_WEIGHT_ERROR;
    char settings[512];
    enum mb_status status = describe(s, settings, sizeof settings, error);
    if (status == MB_OK)
        status = mb_journal_open(method == MB_METHOD_WEIGHT_ERROR ? NULL : s->options->journal_path,
                                 settings, s->measure_all ? mb_sense_values(s->options) : 0,
                                 &s->journal, error);
    if (status == MB_OK && (weigh || (s->measure_all && count_due(s) > 0)))
        status = mb_sense_collect(s, error);
    if (status == MB_OK && weigh)
        status = mb_sense_weigh(s, error);
    if (status == MB_OK && method == MB_METHOD_SURROGATE)
        status = mb_sense_prepare(s, error);
    if (status == MB_OK && method != MB_METHOD_WEIGHT_ERROR && count_due(s) > 0)
        status = run_due(s, error);
    return status;
}

static enum mb_status sense(struct mb_model *model, const struct mb_sense_options *options,
                            struct mb_sensitivity **table, struct mb_measures **measures,
                            struct mb_error *error)
{
    struct mb_sense_job s = {.model = model, .options = options};
    *table = NULL;
    s.measure_all = measures != NULL ||
                    (options->method > MB_METHOD_KL && options->method < MB_METHOD_WEIGHT_ERROR);
    enum mb_status status = check_options(options, error);
    if (status == MB_OK)
        status = mb_codebook_tensors_refuse(model, error);
    if (status == MB_OK)
        status = mb_network_create(model, MB_NUMERICS_F32, options->threads, &s.network, error);
    if (status == MB_OK)
        status = mb_windows_check(s.network, options->windows, error);
    if (status == MB_OK)
        status = list_units(&s, error);
    if (status == MB_OK && options->shards > s.unit_count)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1,
                              "%zu shards are more than the model has tensors to quantize (%zu)",
                              options->shards, s.unit_count);
    if (status == MB_OK)
        status = spread_tokens(&s, error);
    if (status == MB_OK)
        status = run_job(&s, error);
    if (status == MB_OK)
        status = mb_sense_table(&s, table, error);
    if (status == MB_OK && measures != NULL)
        status = mb_sense_collect_measures(&s, measures, error);
    mb_prober_destroy(s.prober);
    mb_journal_close(s.journal);
    mb_network_destroy(s.network);
    mb_importance_free(s.activations);
    free(s.errors);
    free(s.weight_errors);
    free(s.chosen);
    free(s.offsets);
    free(s.units);
    free(s.kl);
    free(s.rows);
    free(s.values);
    return status;
}

enum mb_status mb_sense(struct mb_model *model, const struct mb_sense_options *options,
                        struct mb_sensitivity **table, struct mb_error *error)
{
    return sense(model, options, table, NULL, error);
}

enum mb_status mb_sense_measures(struct mb_model *model, const struct mb_sense_options *options,
                                 struct mb_sensitivity **table, struct mb_measures **measures,
                                 struct mb_error *error)
{
    *measures = NULL;
    const enum mb_status status = sense(model, options, table, measures, error);
    if (status != MB_OK) {
        mb_measures_free(*measures);
        *measures = NULL;
    }
    return status;
}
