/* SPDX-License-Identifier: Apache-2.0 */
/* eval --schemes: one model, one network in f32, and one row for every scheme: real bits per
 * weight with all that they contain, and what the outputs lose. The schemes are schemes.def's and
 * the plain formats; activations of the calibration text guide all of them alike. */
#include "cli/schemes.h"

#include "cli/steps.h"
#include "model/schemes.h"
#include "model/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CALIBRATION_WINDOWS = 64, MOST_BITS = 32, NAME_BYTES = 64 };

/* In the place of activations: products by the kernels of a scheme, not simulated. */
static const char KERNEL[] = "kernel";

static const double usual_bits[] = {2.25, 2.5, 2.75, 3, 3.5, 4};

/* One row of the table. */
struct trial {
    char name[NAME_BYTES];
    const char *what;
    struct mb_weight_choice choice;
    struct mb_scheme_size size;
    double kl, low, high, perplexity, perplexity_error, same_top;
};

struct work {
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_windows windows, calibration;
    char *calibration_path;
    struct mb_simulation *simulation;
    struct mb_importance *importance;
    struct mb_ranges *ranges; /* of static activation scales; NULL: none is asked for */
    struct mb_integer_ranges *integer_ranges; /* likewise, of integer-only products */
    struct mb_network *calibrated;            /* of error feedback, whose weights stay; likewise */
    struct mb_moments *moments;
    struct mb_reference *reference;
    double reference_perplexity;
    double bits[MOST_BITS];
    size_t bit_count, count, room;
    struct trial *trials;
};

/* ---- what to measure ---- */

static enum mb_status read_bits(struct mb_cli *cli, struct work *work, const char *text)
{
    if (text == NULL) {
        work->bit_count = sizeof usual_bits / sizeof usual_bits[0];
        memcpy(work->bits, usual_bits, sizeof usual_bits);
        return MB_OK;
    }
    for (const char *at = text; at != NULL;) {
        char part[32];
        const char *comma = strchr(at, ',');
        (void)snprintf(part, sizeof part, "%.*s", (int)(comma ? comma - at : 31), at);
        at = comma ? comma + 1 : NULL;
        double bits;
        const enum mb_status status = mb_parse_number("--bits", part, &bits, &cli->error);
        if (status != MB_OK)
            return status;
        if (bits < 1 || bits > 16 || work->bit_count == MOST_BITS)
            return mb_usage(cli, "--bits: expected up to %d numbers from 1 to 16, found '%s'",
                            MOST_BITS, part);
        work->bits[work->bit_count++] = bits;
    }
    return MB_OK;
}

static enum mb_status add_trial(struct mb_cli *cli, struct work *work, const struct trial *trial)
{
    for (size_t i = 0; i < work->count; i++) {
        const struct mb_weight_choice *a = &work->trials[i].choice, *b = &trial->choice;
        if (a->scheme == b->scheme && a->format == b->format && a->bits == b->bits &&
            a->activations == b->activations && a->feed_forward == b->feed_forward &&
            a->integer == b->integer && a->kernel == b->kernel)
            return MB_OK;
    }
    if (work->count == work->room) {
        const size_t room = work->room ? 2 * work->room : 64;
        struct trial *trials = realloc(work->trials, room * sizeof *trials);
        if (trials == NULL)
            return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
        work->trials = trials;
        work->room = room;
    }
    work->trials[work->count++] = *trial;
    return MB_OK;
}

/* A row's name: "cmpq", "q8_0+a8-token". */
static void name_trial(struct trial *trial, const char *weights)
{
    const struct mb_rounding_scheme *activations = trial->choice.activations;
    const char *reads = trial->choice.kernel ? KERNEL : activations ? activations->name : "";
    (void)snprintf(trial->name, sizeof trial->name, "%s%s%s", weights, *reads ? "+" : "", reads);
}

/* Codes of one width are the same for all targets that round down to it. */
static enum mb_status add_scheme(struct mb_cli *cli, struct work *work,
                                 const struct mb_scheme *scheme,
                                 const struct mb_rounding_scheme *activations, bool kernel)
{
    enum mb_status status = MB_OK;
    for (size_t b = 0; b < work->bit_count && status == MB_OK; b++) {
        const double bits =
            scheme->one_width ? fmin(floor(work->bits[b]), MB_MOST_CODE_BITS) : work->bits[b];
        struct trial trial = {.what = scheme->what,
                              .choice = {.scheme = scheme,
                                         .format = MB_FORMAT_NONE,
                                         .feed_forward = MB_FORMAT_NONE,
                                         .bits = bits,
                                         .activations = activations,
                                         .kernel = kernel}};
        name_trial(&trial, scheme->name);
        status = add_trial(cli, work, &trial);
    }
    return status;
}

static enum mb_status add_format(struct mb_cli *cli, struct work *work, enum mb_format format,
                                 const struct mb_rounding_scheme *activations)
{
    struct trial trial = {
        .what = activations ? activations->what : "format of llama.cpp",
        .choice = {.format = format, .feed_forward = MB_FORMAT_NONE, .activations = activations}};
    name_trial(&trial, format != MB_FORMAT_NONE ? mb_format_info(format)->name : "file");
    return add_trial(cli, work, &trial);
}

/* 8-bit weights that meet 8-bit activations beside 4-bit weights that meet floats. */
static enum mb_status add_hybrid(struct mb_cli *cli, struct work *work,
                                 const struct mb_rounding_scheme *activations)
{
    struct trial trial = {
        .what = "8-bit weights on rounded activations, feed-forward in 4 bits on floats",
        .choice = {.format = MB_FORMAT_Q8_0,
                   .feed_forward = MB_FORMAT_Q4_0,
                   .activations = activations ? activations : mb_rounding_by_name("a8-token")}};
    name_trial(&trial, "hybrid");
    return add_trial(cli, work, &trial);
}

/* The one scheme that is computed as it would be, by the kernels that are there for it. */
static enum mb_status add_integer(struct mb_cli *cli, struct work *work)
{
    struct trial trial = {
        .what = "int8 weights, inputs and outputs, products of integers alone",
        .choice = {.format = MB_FORMAT_NONE, .feed_forward = MB_FORMAT_NONE, .integer = true}};
    name_trial(&trial, "integer");
    return add_trial(cli, work, &trial);
}

/* What rounding of activations adds to weights as they are and in 8 bits, and the hybrid. */
static enum mb_status add_activations(struct mb_cli *cli, struct work *work)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < mb_rounding_count() && status == MB_OK; i++)
        status = add_format(cli, work, MB_FORMAT_NONE, mb_rounding_at(i));
    for (size_t i = 0; i < mb_rounding_count() && status == MB_OK; i++)
        status = add_format(cli, work, MB_FORMAT_Q8_0, mb_rounding_at(i));
    if (status == MB_OK)
        status = add_hybrid(cli, work, NULL);
    return status == MB_OK ? add_integer(cli, work) : status;
}

static enum mb_status unknown_scheme(struct mb_cli *cli, const char *name)
{
    const char *names[256];
    size_t count = 0;
    names[count++] = "integer";
    for (size_t i = 0; i < mb_scheme_count() && count < 128; i++)
        names[count++] = mb_scheme_at(i)->name;
    for (size_t i = 0; i < mb_rounding_count() && count < 160; i++)
        names[count++] = mb_rounding_at(i)->name;
    for (size_t i = 0; i < mb_format_count() && count < 256; i++)
        names[count++] = mb_format_at(i)->name;
    const char *near = mb_suggest(name, names, count);
    if (near != NULL)
        return mb_usage(cli, "--schemes: unknown scheme '%.40s', did you mean '%s'?", name, near);
    return mb_usage(cli,
                    "--schemes: unknown scheme '%.40s'; `mixbit eval --help` has the list, formats "
                    "have their own names",
                    name);
}

/* All of some kinds; false: `name` is no such word. */
static bool add_family(struct mb_cli *cli, struct work *work, const char *name,
                       enum mb_status *status)
{
    const bool all = strcmp(name, "all") == 0, formats = strcmp(name, "formats") == 0,
               activations = strcmp(name, "activations") == 0,
               weights = strcmp(name, "schemes") == 0;
    *status = MB_OK;
    for (size_t i = 0; i < mb_scheme_count() && (all || weights) && *status == MB_OK; i++)
        *status = add_scheme(cli, work, mb_scheme_at(i), NULL, false);
    for (size_t i = 0; i < mb_format_count() && (all || formats) && *status == MB_OK; i++)
        if (mb_format_at(i)->block_k > 1)
            *status = add_format(cli, work, mb_format_at(i)->id, NULL);
    if ((all || activations) && *status == MB_OK)
        *status = add_activations(cli, work);
    return all || formats || activations || weights;
}

static enum mb_status add_kernel(struct mb_cli *cli, struct work *work, const char *name)
{
    const struct mb_scheme *scheme = mb_scheme_by_name(name);
    if (scheme == NULL)
        return unknown_scheme(cli, name);
    if (!mb_scheme_has_kernel(scheme))
        return mb_usage(cli,
                        "--schemes: '%.40s' has no kernel; schemes of columns with a codebook for "
                        "each width or each column have (grouped, cmpq), formats are measured by "
                        "`mixbit eval` itself",
                        name);
    return add_scheme(cli, work, scheme, NULL, true);
}

/* A word for many, or WEIGHTS, WEIGHTS+ACTIVATIONS, ACTIVATIONS. */
static enum mb_status add_named(struct mb_cli *cli, struct work *work, const char *name)
{
    char weights[NAME_BYTES];
    const char *plus = strchr(name, '+');
    enum mb_status status;
    if (add_family(cli, work, name, &status))
        return status;
    if (strcmp(name, "integer") == 0)
        return add_integer(cli, work);
    (void)snprintf(weights, sizeof weights, "%.*s", (int)(plus ? plus - name : NAME_BYTES - 1),
                   name);
    if (plus != NULL && strcmp(plus + 1, KERNEL) == 0)
        return add_kernel(cli, work, weights);
    const struct mb_rounding_scheme *activations = mb_rounding_by_name(plus ? plus + 1 : name);
    if (plus != NULL && activations == NULL)
        return unknown_scheme(cli, plus + 1);
    if ((plus == NULL && activations != NULL) || strcmp(weights, "file") == 0)
        return add_format(cli, work, MB_FORMAT_NONE, activations);
    if (strcmp(weights, "hybrid") == 0)
        return add_hybrid(cli, work, activations);
    const struct mb_scheme *scheme = mb_scheme_by_name(weights);
    if (scheme != NULL)
        return add_scheme(cli, work, scheme, activations, false);
    const enum mb_format format = mb_format_by_name(weights);
    if (mb_format_is_codebook(format))
        return mb_usage(cli,
                        "--schemes: %s is scheme '%s' with --bits %g here, by its kernels '%s+%s'",
                        mb_format_info(format)->name, mb_scheme_of_codebooks(false)->name,
                        mb_format_info(format)->bits, mb_scheme_of_codebooks(false)->name, KERNEL);
    return format != MB_FORMAT_NONE ? add_format(cli, work, format, activations)
                                    : unknown_scheme(cli, weights);
}

static enum mb_status read_schemes(struct mb_cli *cli, struct work *work, const char *text)
{
    enum mb_status status = MB_OK;
    for (const char *at = text; at != NULL && status == MB_OK;) {
        char part[NAME_BYTES];
        const char *comma = strchr(at, ',');
        (void)snprintf(part, sizeof part, "%.*s", (int)(comma ? comma - at : NAME_BYTES - 1), at);
        at = comma ? comma + 1 : NULL;
        status = add_named(cli, work, part);
    }
    return status;
}

/* ---- measuring ---- */

static enum mb_status open_inputs(struct mb_cli *cli, const struct mb_scheme_request *request,
                                  struct work *work)
{
    enum mb_status status = mb_step_open(cli, cli->positionals[0], &work->model);
    if (status == MB_OK)
        status = mb_step_text(cli, request->calibration, "calib.txt", "--calibration",
                              &work->calibration_path);
    if (status == MB_OK)
        status = mb_step_windows(cli, work->model, request->text, request->window, request->windows,
                                 &work->windows);
    if (status == MB_OK)
        status = mb_step_windows(cli, work->model, work->calibration_path, request->window,
                                 CALIBRATION_WINDOWS, &work->calibration);
    if (status == MB_OK)
        status = mb_step_check_texts(cli, work->calibration.text_hash, work->windows.text_hash);
    return status == MB_OK ? mb_step_threads(cli, request->threads, &work->threads) : status;
}

static bool wants_ranges(const struct work *work)
{
    for (size_t i = 0; i < work->count; i++) {
        const struct mb_rounding_scheme *activations = work->trials[i].choice.activations;
        if (activations != NULL && activations->kind == MB_ROUNDING_STATIC)
            return true;
    }
    return false;
}

static bool wants_moments(const struct work *work)
{
    for (size_t i = 0; i < work->count; i++) {
        const struct mb_scheme *scheme = work->trials[i].choice.scheme;
        if (scheme != NULL && scheme->options.feedback)
            return true;
    }
    return false;
}

static bool wants_integer(const struct work *work)
{
    bool wants = false;
    for (size_t i = 0; i < work->count; i++)
        wants = wants || work->trials[i].choice.integer;
    return wants;
}

/* The model as it is: importance, the reference's logits and its own perplexity. */
static enum mb_status measure_base(struct mb_cli *cli, struct work *work)
{
    struct mb_evaluation base = {.size = sizeof base};
    enum mb_status status =
        mb_simulation_create(work->model, work->threads, &work->simulation, &cli->error);
    if (status != MB_OK)
        return status;
    struct mb_network *network = mb_simulation_network(work->simulation);
    mb_stage_begin(cli, "running the model as it is over %zu + %zu windows of %zu tokens",
                   work->calibration.count, work->windows.count, work->windows.window);
    status = mb_importance_collect(network, &work->calibration, mb_stage_progress(cli),
                                   &work->importance, &cli->error);
    if (status == MB_OK && wants_ranges(work))
        status = mb_ranges_collect(network, &work->calibration, mb_stage_progress(cli),
                                   &work->ranges, &cli->error);
    if (status == MB_OK && wants_integer(work))
        status = mb_integer_ranges_collect(network, &work->calibration, mb_stage_progress(cli),
                                           &work->integer_ranges, &cli->error);
    if (status == MB_OK && wants_moments(work))
        status = mb_network_create(work->model, MB_NUMERICS_F32, work->threads, &work->calibrated,
                                   &cli->error);
    if (status == MB_OK && work->calibrated != NULL)
        status =
            mb_moments_create(work->calibrated, &work->calibration, 0, &work->moments, &cli->error);
    mb_simulation_calibrate(work->simulation, work->ranges, work->integer_ranges, work->moments);
    if (status == MB_OK)
        status = mb_reference_create(network, &work->windows, mb_stage_progress(cli),
                                     &work->reference, &cli->error);
    if (status == MB_OK)
        status = mb_evaluate_against(network, work->reference, &work->windows,
                                     mb_stage_progress(cli), &base, &cli->error);
    mb_stage_end(cli);
    work->reference_perplexity = base.perplexity;
    mb_evaluation_free(&base);
    return status;
}

static enum mb_status measure(struct mb_cli *cli, struct work *work, struct trial *trial)
{
    struct mb_evaluation e = {.size = sizeof e};
    enum mb_status status =
        mb_simulation_store(work->simulation, &trial->choice, mb_step_weights(work->importance),
                            mb_stage_progress(cli), &trial->size, &cli->error);
    if (status == MB_OK)
        status = mb_evaluate_against(mb_simulation_network(work->simulation), work->reference,
                                     &work->windows, mb_stage_progress(cli), &e, &cli->error);
    if (status != MB_OK)
        return status;
    const double half = e.windows > 1 ? mb_interval(e.window_kl, e.windows) : NAN;
    trial->kl = e.kl_mean;
    trial->low = e.kl_mean - half;
    trial->high = e.kl_mean + half;
    trial->perplexity = e.perplexity;
    trial->perplexity_error = e.perplexity_error;
    trial->same_top = e.same_top;
    mb_evaluation_free(&e);
    return MB_OK;
}

/* ---- output ---- */

static int by_bits(const void *a, const void *b)
{
    const struct trial *x = a, *y = b;
    const double p = mb_scheme_bits(&x->size), q = mb_scheme_bits(&y->size);
    return p != q ? (p > q) - (p < q) : strcmp(x->name, y->name);
}

static double part_bits(const struct trial *trial, size_t part)
{
    return 8 * trial->size.bytes[part] / trial->size.weights;
}

/* "codes 2.21, scales 0.13": what bits per weight are made of, from a thousandth on. */
static void write_parts(const struct trial *trial, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t p = 0; p < MB_SCHEME_PARTS; p++) {
        if (part_bits(trial, p) < 0.0005)
            continue;
        const char *part = trial->choice.kernel && p == 0 ? "packed"
                           : trial->choice.scheme         ? mb_scheme_parts[p]
                                                          : "blocks";
        const int wrote = snprintf(text + used, bytes - used, "%s%s %.3f", used > 0 ? ", " : "",
                                   part, part_bits(trial, p));
        used += wrote > 0 && (size_t)wrote < bytes - used ? (size_t)wrote : 0;
    }
}

static const char *activations_of(const struct trial *trial)
{
    return trial->choice.integer       ? "integer"
           : trial->choice.kernel      ? KERNEL
           : trial->choice.activations ? trial->choice.activations->name
                                       : "float";
}

static struct mb_table *make_table(const struct work *work)
{
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "scheme", "scheme", MB_ALIGN_LEFT);
    mb_table_column(table, "asked", "asked", MB_ALIGN_RIGHT);
    mb_table_column(table, "bits_per_weight", "bits", MB_ALIGN_RIGHT);
    mb_table_column(table, "kl", "KL", MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_low", "from", MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_high", "to", MB_ALIGN_RIGHT);
    mb_table_column(table, "perplexity", "perplexity", MB_ALIGN_RIGHT);
    mb_table_column(table, "output_error", "output error", MB_ALIGN_RIGHT);
    mb_table_column(table, "counted", "counted", MB_ALIGN_LEFT);
    mb_table_column(table, "what", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "activations", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "perplexity_error", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "same_top", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "weights", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "unreached", NULL, MB_ALIGN_RIGHT);
    static char keys[MB_SCHEME_PARTS][24];
    for (size_t p = 0; p < MB_SCHEME_PARTS; p++) {
        (void)snprintf(keys[p], sizeof keys[p], "%s_bytes", mb_scheme_parts[p]);
        mb_table_column(table, keys[p], NULL, MB_ALIGN_RIGHT);
    }
    for (size_t i = 0; i < work->count; i++) {
        const struct trial *trial = &work->trials[i];
        char parts[160];
        write_parts(trial, parts, sizeof parts);
        mb_table_text(table, trial->name);
        mb_table_number(table, trial->choice.scheme ? trial->choice.bits : NAN, "%g");
        mb_table_number(table, mb_scheme_bits(&trial->size), "%.3f");
        mb_table_number(table, trial->kl, "%.4f");
        mb_table_number(table, trial->low, "%.4f");
        mb_table_number(table, trial->high, "%.4f");
        mb_table_number(table, trial->perplexity, "%.2f");
        mb_table_number(table, trial->size.error, "%.4f");
        mb_table_text(table, parts);
        mb_table_text(table, trial->what);
        mb_table_text(table, activations_of(trial));
        mb_table_number(table, trial->perplexity_error, "%.4f");
        mb_table_number(table, trial->same_top, "%.4f");
        mb_table_number(table, trial->size.weights, "%.0f");
        mb_table_count(table, trial->size.unreached);
        for (size_t p = 0; p < MB_SCHEME_PARTS; p++)
            mb_table_number(table, trial->size.bytes[p], "%.0f");
    }
    return table;
}

static enum mb_status print_result(struct mb_cli *cli, const struct mb_scheme_request *request,
                                   struct work *work)
{
    qsort(work->trials, work->count, sizeof *work->trials, by_bits);
    struct mb_table *table = make_table(work);
    enum mb_status status = MB_OK;
    if (cli->common.json) {
        json_t *root =
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f}", "model", mb_model_path(work->model),
                      "text", request->text, "calibration", work->calibration_path,
                      "calibration_windows", (json_int_t)work->calibration.count, "windows",
                      (json_int_t)work->windows.count, "window", (json_int_t)work->windows.window,
                      "reference_perplexity", work->reference_perplexity);
        (void)json_object_set_new(root, "schemes", mb_table_json(table));
        status = mb_print_json(cli, root);
    } else {
        (void)printf("model        %s (%s), as it is: perplexity %.2f\n",
                     mb_model_path(work->model), mb_model_architecture(work->model),
                     work->reference_perplexity);
        (void)printf("text         %s, %zu windows of %zu tokens\n", request->text,
                     work->windows.count, work->windows.window);
        (void)printf("calibration  %s, %zu windows\n\n", work->calibration_path,
                     work->calibration.count);
        mb_table_print(table, stdout);
    }
    mb_table_free(table);
    return status;
}

enum mb_status mb_eval_schemes(struct mb_cli *cli, const struct mb_scheme_request *request)
{
    struct work work = {0};
    enum mb_status status = request->text == NULL
                                ? mb_usage(cli, "--text is missing: a file of plain text to "
                                                "evaluate on")
                                : read_bits(cli, &work, request->bits);
    if (status == MB_OK)
        status = read_schemes(cli, &work, request->schemes);
    if (status == MB_OK)
        status = open_inputs(cli, request, &work);
    if (status == MB_OK)
        status = measure_base(cli, &work);
    for (size_t i = 0; i < work.count && status == MB_OK; i++) {
        mb_stage_begin(cli, "%s (%zu of %zu)", work.trials[i].name, i + 1, work.count);
        status = measure(cli, &work, &work.trials[i]);
        mb_stage_end(cli);
    }
    if (status == MB_OK)
        status = print_result(cli, request, &work);
    free(work.trials);
    mb_reference_destroy(work.reference);
    mb_importance_free(work.importance);
    mb_ranges_free(work.ranges);
    mb_integer_ranges_free(work.integer_ranges);
    mb_moments_destroy(work.moments);
    mb_network_destroy(work.calibrated);
    mb_simulation_destroy(work.simulation);
    mb_windows_free(&work.windows);
    mb_windows_free(&work.calibration);
    mb_threads_destroy(work.threads);
    mb_model_close(work.model);
    free(work.calibration_path);
    return status;
}
