/* SPDX-License-Identifier: Apache-2.0 */
/* eval: perplexity, KL against a reference, speed, size and memory of one model, measured here. The
 * statistics are llama.cpp's, in llama.cpp's table layout, so that figures can be laid side by
 * side. */
#include "cli/option_rows.h"
#include "cli/schemes.h"
#include "dispatch/backend.h"
#include "model/gguf.h"

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

struct options {
    const char *reference, *text, *sensitivity, *profile, *device, *save_logits;
    const char *schemes, *bits, *calibration;
    int numerics;
    size_t context, window, windows, threads, repeats;
    bool no_speed, last_logits;
};

struct result {
    struct mb_evaluation evaluation;
    struct mb_speed speed;
    bool has_speed;
    size_t weight_bytes, resident_bytes;
    double bits_per_weight;
};

/* Largest resident set so far; taken before a reference is loaded. */
static size_t resident_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

static double stored_bits(const struct mb_model *model)
{
    double bytes = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (tensor->quantizable)
            bytes += (double)tensor->bytes;
    }
    const double weights = mb_quantizable_weights(model);
    return weights > 0 ? 8 * bytes / weights : NAN;
}

/* The text must not be one that the file's plan was sensed on, or that it was rounded by. */
static enum mb_status check_text(struct mb_cli *cli, struct mb_model *model,
                                 const struct options *options, const struct mb_windows *windows)
{
    struct mb_sensitivity *table = NULL;
    static const char *const seen[] = {"mixbit.sensed_text", "mixbit.importance_text",
                                       "mixbit.feedback_text", "mixbit.refine_text"};
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < sizeof seen / sizeof *seen && status == MB_OK; i++)
        status =
            mb_step_check_texts(cli, mb_model_string(model, seen[i], NULL), windows->text_hash);
    if (status == MB_OK && options->sensitivity != NULL) {
        status = mb_sensitivity_load(options->sensitivity, &table, &cli->error);
        if (status == MB_OK)
            status = mb_step_check_texts(cli, table->text_hash, windows->text_hash);
        mb_sensitivity_free(table);
    }
    return status;
}

/* ---- output ---- */

/* Where the tokens come from. */
static const char *text_of(const struct options *options)
{
    return options->text != NULL ? options->text : options->reference;
}

static void print_statistics(const struct mb_evaluation *e)
{
    (void)printf("\n====== Perplexity statistics ======\n");
    (void)printf("Mean PPL(Q)                   : %10.6f ± %10.6f\n", e->perplexity,
                 e->perplexity_error);
    if (!e->has_reference)
        return;
    const double ratio = exp(e->log_ratio);
    (void)printf("Mean PPL(base)                : %10.6f ± %10.6f\n", e->reference_perplexity,
                 e->reference_perplexity_error);
    (void)printf("Mean ln(PPL(Q)/PPL(base))     : %10.6f ± %10.6f\n", e->log_ratio,
                 e->log_ratio_error);
    (void)printf("Mean PPL(Q)/PPL(base)         : %10.6f ± %10.6f\n", ratio,
                 ratio * e->log_ratio_error);
    (void)printf("Mean PPL(Q)-PPL(base)         : %10.6f\n",
                 e->perplexity - e->reference_perplexity);
    const struct {
        const char *name;
        double value;
    } rows[] = {
        {"Maximum KLD:", e->kl_max},  {"99.9%   KLD:", e->kl_p999}, {"99.0%   KLD:", e->kl_p99},
        {"95.0%   KLD:", e->kl_p95},  {"90.0%   KLD:", e->kl_p90},  {"Median  KLD:", e->kl_median},
        {"10.0%   KLD:", e->kl_p10},  {" 5.0%   KLD:", e->kl_p05},  {" 1.0%   KLD:", e->kl_p01},
        {" 0.1%   KLD:", e->kl_p001}, {"Minimum KLD:", e->kl_min}};
    (void)printf("\n====== KL divergence statistics ======\n");
    (void)printf("Mean    KLD: %10.6f ± %10.6f\n", e->kl_mean, e->kl_error);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        (void)printf("%s %10.6f\n", rows[i].name, rows[i].value);
    (void)printf("\n====== Token probability statistics ======\n");
    (void)printf("Same top p: %6.3f ± %5.3f %%\n", 100 * e->same_top, 100 * e->same_top_error);
}

static void print_result(const struct mb_model *model, const struct options *options,
                         const struct result *result)
{
    char file[32], weights[32], kv[32], resident[32];
    const struct mb_evaluation *e = &result->evaluation;
    const char *scheme = mb_model_string(model, MB_CODEBOOK_SCHEME_KEY, NULL);
    (void)printf("model   %s (%s), file %s, %.2f bits per weight%s%s\n", mb_model_path(model),
                 mb_model_architecture(model),
                 mb_text_bytes((double)mb_model_file_bytes(model), file), result->bits_per_weight,
                 scheme != NULL ? ", codebook matrices: " : "",
                 scheme != NULL ? mb_printable(scheme).text : "");
    (void)printf("text    %s, %zu windows of %zu tokens, %zu scored, %s arithmetic\n",
                 text_of(options), e->windows, e->window, e->tokens,
                 mb_numerics_name((enum mb_numerics)options->numerics));
    if (result->has_speed) {
        const struct mb_speed *s = &result->speed;
        (void)printf("speed   decode %.1f tok/s at %zu tokens of context, prefill %.1f tok/s "
                     "(matrix products: %.0f %% and %.0f %% of the time)\n",
                     1e9 / s->decode_ns, s->context, 1e9 / s->prefill_ns,
                     100 * s->decode_matmul_ns / s->decode_ns,
                     100 * s->prefill_matmul_ns / s->prefill_ns);
        (void)printf("memory  packed weights %s, key-value cache %s, resident %s\n",
                     mb_text_bytes((double)result->weight_bytes, weights),
                     mb_text_bytes((double)s->kv_bytes, kv),
                     mb_text_bytes((double)result->resident_bytes, resident));
    } else {
        (void)printf("memory  packed weights %s, resident %s\n",
                     mb_text_bytes((double)result->weight_bytes, weights),
                     mb_text_bytes((double)result->resident_bytes, resident));
    }
    print_statistics(e);
}

static json_t *kl_json(const struct mb_evaluation *e)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "mean",
                     e->kl_mean, "error", e->kl_error, "max", e->kl_max, "p999", e->kl_p999, "p99",
                     e->kl_p99, "p95", e->kl_p95, "p90", e->kl_p90, "median", e->kl_median, "p10",
                     e->kl_p10, "p05", e->kl_p05, "p01", e->kl_p01, "p001", e->kl_p001, "min",
                     e->kl_min);
}

static json_t *result_json(const struct mb_model *model, const struct options *options,
                           const struct result *result)
{
    const struct mb_evaluation *e = &result->evaluation;
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "model",
        mb_model_path(model), "architecture", mb_model_architecture(model), "file_bytes",
        (json_int_t)mb_model_file_bytes(model), "weight_bytes", (json_int_t)result->weight_bytes,
        "resident_bytes", (json_int_t)result->resident_bytes, "text", text_of(options), "numerics",
        mb_numerics_name((enum mb_numerics)options->numerics), "windows", (json_int_t)e->windows,
        "window", (json_int_t)e->window, "tokens", (json_int_t)e->tokens, "perplexity",
        e->perplexity, "perplexity_error", e->perplexity_error);
    (void)json_object_set_new(root, "bits_per_weight", json_real(result->bits_per_weight));
    const char *scheme = mb_model_string(model, MB_CODEBOOK_SCHEME_KEY, NULL);
    if (scheme != NULL)
        (void)json_object_set_new(root, "scheme", json_string(mb_printable(scheme).text));
    if (e->has_reference) {
        (void)json_object_set_new(root, "reference", json_string(options->reference));
        (void)json_object_set_new(root, "reference_perplexity", json_real(e->reference_perplexity));
        (void)json_object_set_new(root, "reference_perplexity_error",
                                  json_real(e->reference_perplexity_error));
        (void)json_object_set_new(root, "kl", kl_json(e));
        (void)json_object_set_new(root, "log_ratio", json_real(e->log_ratio));
        (void)json_object_set_new(root, "log_ratio_error", json_real(e->log_ratio_error));
        (void)json_object_set_new(root, "same_top", json_real(e->same_top));
        (void)json_object_set_new(root, "same_top_error", json_real(e->same_top_error));
    }
    if (result->has_speed) {
        const struct mb_speed *s = &result->speed;
        (void)json_object_set_new(
            root, "speed",
            json_pack("{s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:b}", "context",
                      (json_int_t)s->context, "decode_ns", s->decode_ns, "decode_mad_ns",
                      s->decode_mad_ns, "decode_matmul_ns", s->decode_matmul_ns, "prefill_ns",
                      s->prefill_ns, "prefill_mad_ns", s->prefill_mad_ns, "prefill_matmul_ns",
                      s->prefill_matmul_ns, "decode_toks", 1e9 / s->decode_ns, "prefill_toks",
                      1e9 / s->prefill_ns, "kv_bytes", (json_int_t)s->kv_bytes, "last_logits",
                      s->last_logits));
    }
    return root;
}

/* ---- measuring ---- */

/* What is open while measuring. At most one reference is: a model, or log-probabilities kept. */
struct work {
    struct mb_model *model, *reference_model;
    struct mb_reference *kept;
    struct mb_threads *threads;
    struct mb_profile *profile; /* of the device; NULL: this machine's was applied */
    struct mb_offload_target target;
    struct mb_windows windows;
};

static enum mb_status evaluate(struct mb_cli *cli, const struct options *options,
                               const struct work *work, struct mb_network *network,
                               struct mb_evaluation *evaluation)
{
    struct mb_network *reference = NULL;
    enum mb_status status = MB_OK;
    if (work->reference_model != NULL)
        status = mb_network_create(work->reference_model, MB_NUMERICS_F32, work->threads,
                                   &reference, &cli->error);
    if (status == MB_OK) {
        const struct mb_evaluate_options how = {.size = sizeof how,
                                                .windows = &work->windows,
                                                .reference_network = reference,
                                                .reference = work->kept,
                                                .save_path = options->save_logits,
                                                .progress = mb_stage_progress(cli)};
        mb_stage_begin(cli, "evaluating %zu windows of %zu tokens", work->windows.count,
                       work->windows.window);
        status = mb_evaluate_with(network, &how, evaluation, &cli->error);
        mb_stage_end(cli);
    }
    mb_network_destroy(reference);
    return status;
}

static enum mb_status measure(struct mb_cli *cli, const struct options *options,
                              const struct work *work, struct result *result)
{
    struct mb_network *network = NULL;
    enum mb_status status = mb_network_create(work->model, (enum mb_numerics)options->numerics,
                                              work->threads, &network, &cli->error);
    if (status == MB_OK)
        status = mb_network_offload(network, &work->target, &cli->error);
    if (status != MB_OK) {
        mb_network_destroy(network);
        return status;
    }
    result->weight_bytes = mb_network_bytes(network);
    if (!options->no_speed) {
        mb_stage_begin(cli, "timing decode and prefill");
        status =
            mb_network_speed(&network, 1,
                             &(struct mb_speed_options){.size = sizeof(struct mb_speed_options),
                                                        .context = options->context,
                                                        .repeats = options->repeats,
                                                        .progress = mb_stage_progress(cli)},
                             &result->speed, &cli->error);
        mb_stage_end(cli);
        result->has_speed = status == MB_OK;
        if (result->has_speed)
            mb_step_check_quiet(cli, &result->speed);
    }
    result->resident_bytes = resident_bytes();
    if (status == MB_OK)
        status = evaluate(cli, options, work, network, &result->evaluation);
    mb_network_destroy(network);
    return status;
}

/* The kernels to run with: of a device's profile, or of this machine's, which is applied. */
static enum mb_status open_kernels(struct mb_cli *cli, const struct options *options,
                                   struct work *work)
{
    struct mb_offload_target *target = &work->target;
    const enum mb_status status =
        mb_accelerator_open(options->device, &target->accelerator, &cli->error);
    if (status != MB_OK)
        return status;
    if (target->accelerator == NULL)
        return mb_step_apply_profile(cli, options->profile, false);
    const enum mb_status loaded =
        mb_step_device_profile(cli, target->accelerator, options->profile, &work->profile);
    target->profile = work->profile;
    return loaded;
}

/* What to evaluate on and to compare with. Log-probabilities of another run bring their tokens:
 * which text those are of is not known. */
static enum mb_status open_inputs(struct mb_cli *cli, const struct options *options,
                                  struct work *work)
{
    if (options->reference != NULL && mb_reference_is_file(options->reference)) {
        if (options->text != NULL || options->window > 0)
            return mb_usage(cli,
                            "'%s' holds log-probabilities, whose tokens and windows are the ones "
                            "to evaluate on: leave out --text and --window",
                            options->reference);
        return mb_reference_open(options->reference, work->model, options->windows, &work->windows,
                                 &work->kept, &cli->error);
    }
    if (options->text == NULL)
        return mb_usage(cli, "--text is missing: a file of plain text to evaluate on");
    enum mb_status status = MB_OK;
    if (options->reference != NULL)
        status = mb_model_open(options->reference, &work->reference_model, &cli->error);
    if (status == MB_OK)
        status = mb_step_windows(cli, work->model, options->text, options->window, options->windows,
                                 &work->windows);
    return status == MB_OK ? check_text(cli, work->model, options, &work->windows) : status;
}

static enum mb_status run_schemes(struct mb_cli *cli, const struct options *options)
{
    const struct mb_scheme_request request = {.schemes = options->schemes,
                                              .bits = options->bits,
                                              .text = options->text,
                                              .calibration = options->calibration,
                                              .window = options->window,
                                              .windows = options->windows,
                                              .threads = options->threads};
    if (options->schemes == NULL)
        return mb_usage(cli, "--bits and --calibration go with --schemes");
    if (options->reference != NULL || options->save_logits != NULL || options->device != NULL ||
        options->profile != NULL || options->sensitivity != NULL)
        return mb_usage(cli, "--schemes compares with the model itself, simulated in f32: leave "
                             "out --reference, --save-logits, --device, --profile and "
                             "--sensitivity");
    return mb_eval_schemes(cli, &request);
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    if (options->schemes != NULL || options->bits != NULL || options->calibration != NULL)
        return run_schemes(cli, options);
    struct work work = {0};
    struct result result = {
        .evaluation = {.size = sizeof result.evaluation},
        .speed = {.size = sizeof result.speed, .last_logits = options->last_logits}};
    enum mb_status status = mb_model_open(cli->positionals[0], &work.model, &cli->error);
    if (status == MB_OK)
        status = open_inputs(cli, options, &work);
    if (status == MB_OK && options->save_logits != NULL)
        status = mb_step_check_output(cli, options->save_logits);
    if (status == MB_OK)
        status = open_kernels(cli, options, &work);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &work.threads);
    if (status == MB_OK) {
        result.bits_per_weight = stored_bits(work.model);
        status = measure(cli, options, &work, &result);
    }
    if (status == MB_OK && cli->common.json)
        status = mb_print_json(cli, result_json(work.model, options, &result));
    else if (status == MB_OK)
        print_result(work.model, options, &result);
    mb_evaluation_free(&result.evaluation);
    mb_speed_free(&result.speed);
    mb_reference_destroy(work.kept);
    mb_windows_free(&work.windows);
    mb_accelerator_close(work.target.accelerator);
    mb_profile_free(work.profile);
    mb_threads_destroy(work.threads);
    mb_model_close(work.reference_model);
    mb_model_close(work.model);
    return status;
}

static const struct mb_option table[] = {
    MB_TEXT_ROW(struct options, text, "plain text to evaluate on; not the one used for sensing"),
    {.name = "reference",
     .letter = 'r',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, reference),
     .value = "MODEL|FILE",
     .help = "compare with this model, run in f32, or with a file of log-probabilities that "
             "--save-logits or llama-perplexity wrote: KL divergence and perplexity ratio"},
    {.name = "save-logits",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, save_logits),
     .value = "FILE",
     .help = "write the log-probabilities of scored tokens, as llama-perplexity "
             "--kl-divergence-base reads them"},
    MB_NUMERICS_ROW(struct options, numerics,
                    "each format's own kernels, or dequantized weights in f32", "kernel"),
    MB_DEVICE_ROW(struct options, device, "device that matrix products run on"),
    MB_CONTEXT_ROW(struct options, context),
    MB_WINDOW_ROW(struct options, window, "512, or the model's context"),
    MB_WINDOWS_ROW(struct options, windows, "windows at most (default: the whole text)", 1),
    {.name = "sensitivity",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, sensitivity),
     .value = "FILE",
     .help = "refuse the text that this table was sensed on"},
    MB_PROFILE_ROW(struct options, profile,
                   "run with the kernels that this profile found best (default: this machine's)"),
    {.name = "no-speed",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, no_speed),
     .help = "leave out the timing"},
    {.name = "last-logits",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, last_logits),
     .help = "time prefill with the logits of the last token alone, as runtimes read a prompt"},
    {.name = "schemes",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, schemes),
     .value = "LIST",
     .help = "instead, simulate ways to quantize the model, in f32, and print what each costs: "
             "names of schemes or formats, or 'schemes', 'formats', 'all'"},
    {.name = "bits",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, bits),
     .value = "LIST",
     .help = "with --schemes: bits per weight to reach, all included (default: "
             "2.25,2.5,2.75,3,3.5,4)"},
    {.name = "calibration",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, calibration),
     .value = "FILE",
     .help = "with --schemes: text that activations are taken from (default: the one that comes "
             "with mixbit)"},
    MB_REPEATS_ROW(struct options, repeats, "5"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

/* The names that --schemes takes, from their table. */
#define MB_SCHEME_ROW(name, one_width, what, ...) "\n" name ": " what
#define MB_ROUNDING_ROW(name, what, ...) "\n" name ": " what
static const char schemes_help[] =
    "--schemes takes formats by their names, 'file' for weights as they are, 'hybrid' (8-bit "
    "weights "
    "on rounded activations, feed-forward weights of 4 bits on floats), WEIGHTS+ACTIVATIONS "
    "(q4_0+a8-token), 'activations' for all ways to round those and 'integer', int8 weights, "
    "inputs and outputs with calibrated scales in products of integers alone, computed and not "
    "simulated, NAME+kernel for the kernels of a scheme instead of floats (those of columns with a "
    "codebook for each width or each column), 'schemes', 'formats', 'all', and:"
#include "model/schemes.def"
    ;

const struct mb_verb mb_verb_eval = {
    .name = "eval",
    .summary = "perplexity, KL divergence, speed, size and memory of a model",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = schemes_help,
    .example = "mixbit eval mixed.gguf --reference model.f16.gguf --text heldout.txt\n"
               "  mixbit eval model.f16.gguf --schemes grouped,cmpq,q2_K --bits 2.5,3 --text "
               "heldout.txt",
    .run = run,
};
