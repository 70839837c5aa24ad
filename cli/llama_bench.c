/* SPDX-License-Identifier: Apache-2.0 */
/* What llama.cpp takes for a token beside its matrix products, from llama-bench's own figures.
 *
 * A profile of ggml's products says what a choice of formats changes; attention, norms and the
 * handling of a graph are llama.cpp's, and nothing that calls single products meets them. What is
 * left of llama-bench's times without the products of the very file that it ran is that part. It
 * is the same for every mix of one model, so a few uniform files tell it, and their median is kept.
 *
 * llama-bench reads a prompt as runtimes do, with the logits of its last token alone: that is how
 * products of its prompt are counted here, and how `solve --last-logits` predicts others. */
#include "cli/steps.h"
#include "model/statistics.h"
#include "support/support.h"
#include "tuner/accelerator.h"
#include "tuner/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_TOKENS = 512 };
static const size_t file_most_bytes = (size_t)64 << 20;

enum kind { DECODE, PREFILL, KINDS };
static const enum mb_quantity quantity_of[KINDS] = {MB_QUANTITY_DECODE, MB_QUANTITY_PREFILL};
static const char *const names[KINDS] = {"generating", "prompt"};

/* An entry of the document that says something. */
struct run {
    const char *file;
    enum kind kind;
    double ns;      /* per token */
    size_t context; /* about what its tokens attend to */
};

struct fit {
    struct mb_cli *cli;
    struct mb_model *model;
    const struct mb_profile *profile;
    const char *path;
    size_t threads, others; /* threads; runs with another number of them */
    struct run *runs;
    size_t count;
    double *rest[KINDS]; /* of each run of a kind */
    size_t rests[KINDS];
};

static enum mb_status wrong(const struct fit *fit, size_t entry, const char *what)
{
    return mb_error_set(&fit->cli->error, MB_ERR_FILE, -1,
                        "%s: entry %zu: %s; expected what 'llama-bench -o json' prints", fit->path,
                        entry, what);
}

/* Of the samples where there are any: one slow repetition moves a mean. */
static double median_ns(const json_t *entry)
{
    const json_t *samples = json_object_get(entry, "samples_ns");
    const size_t count = json_array_size(samples);
    double *values = calloc(count + 1, sizeof *values);
    double ns = json_number_value(json_object_get(entry, "avg_ns"));
    for (size_t i = 0; values != NULL && i < count; i++)
        values[i] = json_number_value(json_array_get(samples, i));
    if (values != NULL && count > 0)
        ns = mb_median(values, count);
    free(values);
    return ns;
}

static enum mb_status read_run(struct fit *fit, const json_t *entry, size_t i)
{
    const json_t *threads = json_object_get(entry, "n_threads"),
                 *prompt = json_object_get(entry, "n_prompt"),
                 *generated = json_object_get(entry, "n_gen");
    const char *file = json_string_value(json_object_get(entry, "model_filename"));
    if (file == NULL || !json_is_integer(threads) || !json_is_integer(prompt) ||
        !json_is_integer(generated))
        return wrong(fit, i, "no model_filename, n_threads, n_prompt or n_gen");
    const json_int_t p = json_integer_value(prompt), g = json_integer_value(generated),
                     depth = json_integer_value(json_object_get(entry, "n_depth"));
    const double ns = median_ns(entry);
    if (!(ns > 0) || !isfinite(ns) || p < 0 || g < 0 || depth < 0 || p > 1 << 30 || g > 1 << 30 ||
        depth > 1 << 30)
        return wrong(fit, i, "a time or a number of tokens that cannot be");
    if ((g > 0) == (p > 0) || (p > 0 && p % PROMPT_TOKENS != 0))
        return MB_OK; /* both at once, or rows that the profile does not have */
    if (json_integer_value(threads) != (json_int_t)fit->threads) {
        fit->others++;
        return MB_OK;
    }
    fit->runs[fit->count++] = (struct run){.file = file,
                                           .kind = g > 0 ? DECODE : PREFILL,
                                           .ns = ns / (double)(g > 0 ? g : p),
                                           .context = (size_t)(depth + (g > 0 ? g : p) / 2)};
    return MB_OK;
}

static enum mb_status read_runs(struct fit *fit, const json_t *root)
{
    if (!json_is_array(root))
        return wrong(fit, 0, "no list");
    fit->runs = calloc(json_array_size(root) + 1, sizeof *fit->runs);
    for (size_t k = 0; k < KINDS; k++)
        fit->rest[k] = calloc(json_array_size(root) + 1, sizeof *fit->rest[k]);
    if (fit->runs == NULL || fit->rest[DECODE] == NULL || fit->rest[PREFILL] == NULL)
        return mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < json_array_size(root) && status == MB_OK; i++)
        status = read_run(fit, json_array_get(root, i), i);
    return status;
}

/* ---- the products of a file ---- */

static bool same_matrices(const struct mb_unit_source *a, const struct mb_unit_source *b,
                          size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(a[i].name, b[i].name) != 0 || a[i].n != b[i].n || a[i].k != b[i].k)
            return false;
    return true;
}

/* Every tensor as it is stored, at the residency that the file has, or one that was measured. */
static enum mb_status sum_products(const struct fit *fit, struct mb_unit_source *sources,
                                   size_t count, double total[MB_QUANTITY_COUNT])
{
    struct mb_device_info device = {.size = sizeof device};
    const bool of_cpu = mb_profile_is_of_cpu(fit->profile);
    const size_t threads = of_cpu ? fit->threads : MB_ACCELERATOR_THREADS;
    double bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (mb_format_info(sources[i].source) == NULL)
            return mb_error_set(&fit->cli->error, MB_ERR_UNSUPPORTED, -1,
                                "%s has a type that mixbit can't read", sources[i].name);
        sources[i].pinned = sources[i].source;
        if (!sources[i].is_embedding || sources[i].is_output)
            bytes +=
                (double)sources[i].n * (double)mb_format_row_bytes(sources[i].source, sources[i].k);
    }
    enum mb_status status = mb_device_info(&device);
    if (status != MB_OK)
        return status;
    const enum mb_residency home = mb_residency_of(&device, (size_t)bytes, fit->threads);
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++) {
        const struct mb_problem_options options = {
            .size = sizeof options,
            .sources = sources,
            .source_count = count,
            .formats = &sources[0].source,
            .format_count = 1,
            .profile = fit->profile,
            .threads = threads,
            .residency = (enum mb_residency)(((int)home + r) % MB_RESIDENCY_COUNT),
            .last_logits = 1,
        };
        struct mb_problem *problem;
        struct mb_error error = {0};
        status = mb_problem_build(&options, &problem, NULL, &error);
        if (r == 0 && status != MB_OK)
            fit->cli->error = error; /* of where it would be at home */
        if (status != MB_OK)
            continue;
        size_t *first = calloc(count, sizeof *first);
        if (first != NULL)
            mb_problem_totals(problem, first, total);
        free(first);
        mb_problem_free(problem);
        fit->cli->error = (struct mb_error){0};
        return first != NULL ? MB_OK : MB_ERR_MEMORY;
    }
    return status;
}

static enum mb_status products_of(const struct fit *fit, const char *file,
                                  double total[MB_QUANTITY_COUNT])
{
    struct mb_model *ran = NULL;
    size_t count, own_count;
    enum mb_status status = mb_step_open(fit->cli, file, &ran);
    if (status != MB_OK)
        return status;
    struct mb_unit_source *sources = mb_unit_sources(ran, &count),
                          *own = mb_unit_sources(fit->model, &own_count);
    if (sources == NULL || own == NULL)
        status = mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    else if (count == 0 || count != own_count || !same_matrices(sources, own, count))
        status = mb_error_set(&fit->cli->error, MB_ERR_ARGUMENT, -1,
                              "%s: '%s' was run, whose matrices are not those of --model: "
                              "llama-bench must run files of this model",
                              fit->path, file);
    else if (fit->profile != NULL)
        status = sum_products(fit, sources, count, total);
    free(sources);
    free(own);
    mb_model_close(ran);
    return status;
}

static enum mb_status take_rests(struct fit *fit)
{
    double total[MB_QUANTITY_COUNT] = {0};
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < fit->count && status == MB_OK; i++) {
        const struct run *run = &fit->runs[i];
        if (i == 0 || strcmp(run->file, run[-1].file) != 0)
            status = products_of(fit, run->file, total);
        if (status != MB_OK)
            break;
        const double products = total[quantity_of[run->kind]];
        fit->rest[run->kind][fit->rests[run->kind]++] = run->ns - products;
        if (fit->profile != NULL)
            mb_note(fit->cli, "%s, %s: %.1f us a token, of which products %.1f", run->file,
                    names[run->kind], run->ns / 1e3, products / 1e3);
    }
    return status;
}

/* Where files tell different things, the profile is of another phase of the machine, or of another
 * build of ggml. */
static double settle(const struct fit *fit, enum kind kind)
{
    double most = 0;
    for (size_t i = 0; i < fit->count; i++)
        most = fit->runs[i].kind == kind ? fmax(most, fit->runs[i].ns) : most;
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < fit->rests[kind]; i++) {
        low = fmin(low, fit->rest[kind][i]);
        high = fmax(high, fit->rest[kind][i]);
    }
    if (low < -0.05 * most || high - low > 0.2 * most)
        mb_warn(fit->cli,
                "%s: beside products %s takes %.1f to %.1f us a token by file: profile and "
                "llama-bench don't agree, were they measured on a quiet machine, one after the "
                "other?",
                fit->path, names[kind], low / 1e3, high / 1e3);
    return fmax(mb_median(fit->rest[kind], fit->rests[kind]), 0);
}

enum mb_status mb_step_llama_bench(struct mb_cli *cli, struct mb_model *model, const char *path,
                                   const struct mb_profile *profile, struct mb_fixed_cost *fixed)
{
    struct fit fit = {
        .cli = cli, .model = model, .profile = profile, .path = path, .threads = fixed->threads};
    json_t *root = NULL;
    enum mb_status status = mb_json_load(path, file_most_bytes, &root, &cli->error);
    if (status == MB_OK)
        status = read_runs(&fit, root);
    if (status == MB_OK)
        status = take_rests(&fit);
    if (status == MB_OK && (fit.rests[DECODE] == 0 || fit.rests[PREFILL] == 0))
        status = mb_error_set(&cli->error, MB_ERR_ARGUMENT, -1,
                              "%s: no run with %zu threads of a prompt and of generating (%zu have "
                              "another number): 'llama-bench -m FILE -p 512 -n 64 -t %zu -o json'",
                              path, fit.threads, fit.others, fit.threads);
    if (status == MB_OK && profile != NULL) {
        fixed->decode_ns = settle(&fit, DECODE);
        fixed->prefill_ns = settle(&fit, PREFILL);
        fixed->rough = 0;
        mb_note(cli,
                "beside products llama.cpp takes %.1f us a token in generating, %.1f in a prompt",
                fixed->decode_ns / 1e3, fixed->prefill_ns / 1e3);
    }
    json_decref(root);
    free(fit.runs);
    for (size_t k = 0; k < KINDS; k++)
        free(fit.rest[k]);
    return status;
}
