/* SPDX-License-Identifier: Apache-2.0 */
/* What llama.cpp takes for a token beside its matrix products, from llama-bench's own figures.
 *
 * A profile of ggml's products says what a choice of formats changes; attention, norms and the
 * handling of a graph are llama.cpp's, and nothing that calls single products meets them. So a line
 * is fitted through a few uniform files of the model: llama-bench's time of a token over the time
 * that the products of the very file take by the profile. Where it begins is what every mix takes
 * beside them, and its slope what passing through a whole model makes of products timed alone.
 *
 * llama-bench reads a prompt as runtimes do, with the logits of its last token alone: that is how
 * products of its prompt are counted here, and how `solve --last-logits` predicts others. */
#include "cli/forecast.h"
#include "support/support.h"
#include "tuner/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_TOKENS = 512, ENTRIES_MOST = 10000 };
static const size_t file_most_bytes = (size_t)64 << 20;
static const double spread_least = 1.2, slope_least = 0.8, slope_most = 1.5, disagreement = 0.1;

enum kind { DECODE, PREFILL, KINDS };
static const enum mb_quantity quantity_of[KINDS] = {MB_QUANTITY_DECODE, MB_QUANTITY_PREFILL};
static const char *const names[KINDS] = {"generating", "prompt"};

/* An entry of the document that says something. */
struct run {
    const char *file;
    enum kind kind;
    double ns; /* per token */
};

/* A run, per token: the products of its file by the profile, and all that it took. */
struct point {
    double products_ns, ns;
};

struct fit {
    struct mb_cli *cli;
    struct mb_model *model;
    const struct mb_profile *profile;
    const char *path;
    size_t threads, others; /* threads; runs with another number of them */
    struct run *runs;
    size_t count;
    struct point *points[KINDS];
    size_t point_count[KINDS];
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
    const json_int_t p = json_integer_value(prompt), g = json_integer_value(generated);
    const double ns = median_ns(entry);
    if (!(ns > 0) || !isfinite(ns) || p < 0 || g < 0 || p > 1 << 30 || g > 1 << 30)
        return wrong(fit, i, "a time or a number of tokens that cannot be");
    if ((g > 0) == (p > 0) || (p > 0 && p % PROMPT_TOKENS != 0))
        return MB_OK; /* both at once, or rows that the profile does not have */
    if (json_integer_value(threads) != (json_int_t)fit->threads) {
        fit->others++;
        return MB_OK;
    }
    fit->runs[fit->count++] = (struct run){
        .file = file, .kind = g > 0 ? DECODE : PREFILL, .ns = ns / (double)(g > 0 ? g : p)};
    return MB_OK;
}

static enum mb_status read_runs(struct fit *fit, const json_t *root)
{
    if (!json_is_array(root))
        return wrong(fit, 0, "no list");
    if (json_array_size(root) > ENTRIES_MOST)
        return wrong(fit, ENTRIES_MOST, "too many of them");
    fit->runs = calloc(json_array_size(root) + 1, sizeof *fit->runs);
    for (size_t k = 0; k < KINDS; k++)
        fit->points[k] = calloc(json_array_size(root) + 1, sizeof *fit->points[k]);
    if (fit->runs == NULL || fit->points[DECODE] == NULL || fit->points[PREFILL] == NULL)
        return mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < json_array_size(root) && status == MB_OK; i++)
        status = read_run(fit, json_array_get(root, i), i);
    return status;
}

/* ---- the products of a file ---- */

static int by_name(const void *a, const void *b)
{
    const struct mb_unit_source *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* In whatever order: llama-quantize puts tensors in one of its own. NULL: out of memory. */
static const struct mb_unit_source **sorted(const struct mb_unit_source *sources, size_t count)
{
    const struct mb_unit_source **list = malloc((count + 1) * sizeof *list);
    for (size_t i = 0; list != NULL && i < count; i++)
        list[i] = &sources[i];
    if (list != NULL)
        qsort(list, count, sizeof *list, by_name);
    return list;
}

static enum mb_status compare_matrices(const struct mb_unit_source *a,
                                       const struct mb_unit_source *b, size_t count, bool *same)
{
    const struct mb_unit_source **x = sorted(a, count), **y = sorted(b, count);
    const enum mb_status status = x != NULL && y != NULL ? MB_OK : MB_ERR_MEMORY;
    *same = status == MB_OK;
    for (size_t i = 0; i < count && *same; i++)
        *same = strcmp(x[i]->name, y[i]->name) == 0 && x[i]->n == y[i]->n && x[i]->k == y[i]->k;
    free(x);
    free(y);
    return status;
}

/* Every tensor as it is stored, at the residency that `solve` would see such a mix in. */
static enum mb_status sum_products(const struct fit *fit, const struct mb_model *ran,
                                   struct mb_unit_source *sources, size_t count,
                                   double total[MB_QUANTITY_COUNT])
{
    struct mb_forecast forecast = {.threads = mb_cost_threads(fit->profile, fit->threads)};
    struct mb_problem_options options = {.size = sizeof options,
                                         .sources = sources,
                                         .source_count = count,
                                         .formats = &sources[0].source,
                                         .format_count = 1,
                                         .profile = fit->profile,
                                         .threads = forecast.threads,
                                         .last_logits = 1};
    enum mb_status status = mb_check_sources(fit->cli, ran, sources, count);
    for (size_t i = 0; i < count; i++)
        sources[i].pinned = sources[i].source;
    for (int r = 0; r < MB_RESIDENCY_COUNT && status == MB_OK; r++) {
        options.residency = (enum mb_residency)r;
        const enum mb_status made =
            mb_problem_build(&options, &forecast.problem[r], NULL, &fit->cli->error);
        status = made == MB_ERR_ARGUMENT ? MB_OK : made; /* no times there */
    }
    const struct mb_problem *problem = mb_forecast_problem(&forecast, MB_RESIDENCY_MEMORY);
    if (status == MB_OK && problem == NULL) /* the last reason stands */
        status = fit->cli->error.status;
    size_t *first = calloc(count, sizeof *first);
    if (status == MB_OK && first == NULL)
        status = mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    if (status == MB_OK) {
        fit->cli->error = (struct mb_error){0};
        problem = mb_forecast_problem(
            &forecast, mb_forecast_residency(&forecast, mb_walked_bytes(problem, first)));
        mb_problem_totals(problem, first, total);
    }
    free(first);
    mb_forecast_free(&forecast);
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
    bool same = false;
    if (sources == NULL || own == NULL ||
        (count == own_count && compare_matrices(sources, own, count, &same) != MB_OK))
        status = mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    else if (count == 0 || !same)
        status = mb_error_set(&fit->cli->error, MB_ERR_ARGUMENT, -1,
                              "%s: '%s' was run, whose matrices are not those of --model: "
                              "llama-bench must run files of this model",
                              fit->path, file);
    else if (fit->profile != NULL)
        status = sum_products(fit, ran, sources, count, total);
    free(sources);
    free(own);
    mb_model_close(ran);
    return status;
}

static bool same_case(const struct run *a, const struct run *b)
{
    return a->kind == b->kind && strcmp(a->file, b->file) == 0;
}

/* The median over all runs like run i; 0: an earlier one has it already. */
static double time_of(const struct fit *fit, size_t i)
{
    double *values = calloc(fit->count + 1, sizeof *values), ns = fit->runs[i].ns;
    size_t count = 0;
    bool first = true;
    for (size_t j = 0; j < fit->count; j++)
        if (same_case(&fit->runs[i], &fit->runs[j])) {
            first = first && j >= i;
            if (values != NULL)
                values[count++] = fit->runs[j].ns;
        }
    if (values != NULL)
        ns = mb_median(values, count);
    free(values);
    return first ? ns : 0;
}

static enum mb_status take_points(struct fit *fit)
{
    double total[MB_QUANTITY_COUNT] = {0};
    const char *file = NULL;
    for (size_t i = 0; i < fit->count; i++) {
        const struct run *run = &fit->runs[i];
        struct point *point = &fit->points[run->kind][fit->point_count[run->kind]];
        point->ns = time_of(fit, i);
        if (point->ns <= 0)
            continue;
        if (file == NULL || strcmp(run->file, file) != 0) {
            const enum mb_status status = products_of(fit, run->file, total);
            if (status != MB_OK)
                return status;
            file = run->file;
        }
        point->products_ns = total[quantity_of[run->kind]];
        fit->point_count[run->kind]++;
        if (fit->profile != NULL)
            mb_note(fit->cli, "%s, %s: %.1f us a token, of which products %.1f", run->file,
                    names[run->kind], point->ns / 1e3, point->products_ns / 1e3);
    }
    return MB_OK;
}

/* Products of a model may take longer than each alone: others' weights pass through the caches in
 * between. Files of different sizes tell by how much; of less than three, or of one size, none. */
static double slope(const struct point *points, size_t count)
{
    double low = INFINITY, high = 0, mean_x = 0, mean_y = 0, xy = 0, xx = 0;
    for (size_t i = 0; i < count; i++) {
        low = fmin(low, points[i].products_ns);
        high = fmax(high, points[i].products_ns);
        mean_x += points[i].products_ns / (double)count;
        mean_y += points[i].ns / (double)count;
    }
    if (count < 3 || high < low * spread_least)
        return 1;
    for (size_t i = 0; i < count; i++) {
        xy += (points[i].products_ns - mean_x) * (points[i].ns - mean_y);
        xx += (points[i].products_ns - mean_x) * (points[i].products_ns - mean_x);
    }
    return fmin(fmax(xy / xx, slope_least), slope_most);
}

/* The line through all files. Where it does not go through them, the profile is of another phase of
 * the machine, or of another build of ggml. */
static enum mb_status settle(const struct fit *fit, enum kind kind, double *fixed_ns, double *scale)
{
    const struct point *points = fit->points[kind];
    const size_t count = fit->point_count[kind];
    double *rests = calloc(count + 1, sizeof *rests), worst = 0;
    if (rests == NULL)
        return mb_error_set(&fit->cli->error, MB_ERR_MEMORY, -1, "out of memory");
    *scale = slope(points, count);
    for (size_t i = 0; i < count; i++)
        rests[i] = points[i].ns - *scale * points[i].products_ns;
    *fixed_ns = fmax(mb_median(rests, count), 0);
    free(rests);
    for (size_t i = 0; i < count; i++)
        worst = fmax(worst, fabs((*fixed_ns + *scale * points[i].products_ns) / points[i].ns - 1));
    mb_note(fit->cli,
            "%s: %.1f us a token beside products, which take %.2f of what they take alone; "
            "off by at most %.1f %%",
            names[kind], *fixed_ns / 1e3, *scale, 100 * worst);
    if (worst > disagreement)
        mb_warn(fit->cli,
                "%s: %s: profile and llama-bench don't agree; were they measured on a quiet "
                "machine, one right after the other?",
                fit->path, names[kind]);
    return MB_OK;
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
        status = take_points(&fit);
    if (status == MB_OK && (fit.point_count[DECODE] == 0 || fit.point_count[PREFILL] == 0))
        status = mb_error_set(&cli->error, MB_ERR_ARGUMENT, -1,
                              "%s: no run with %zu threads of a prompt and of generating (%zu have "
                              "another number): 'llama-bench -m FILE -p 512 -n 64 -t %zu -o json'",
                              path, fit.threads, fit.others, fit.threads);
    if (status == MB_OK && profile != NULL)
        status = settle(&fit, DECODE, &fixed->decode_ns, &fixed->decode_scale);
    if (status == MB_OK && profile != NULL)
        status = settle(&fit, PREFILL, &fixed->prefill_ns, &fixed->prefill_scale);
    if (status == MB_OK)
        fixed->rough = 0;
    json_decref(root);
    free(fit.runs);
    for (size_t k = 0; k < KINDS; k++)
        free(fit.points[k]);
    return status;
}
