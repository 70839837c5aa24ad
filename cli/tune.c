/* SPDX-License-Identifier: Apache-2.0 */
/* tune: time what is missing for a model's shapes and keep it in the machine's profile. */
#include "cli/option_rows.h"
#include "dispatch/backend.h"

#include <stddef.h>
#include <stdlib.h>

struct options {
    const char *model, *output, *device, *llama_bench;
    struct mb_format_list formats;
    size_t threads, context;
    double time_limit, max_error;
    bool fresh;
};

/* Formats that the profile runs with another type of activations than their own. */
static void print_activations(const struct mb_profile *profile)
{
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++) {
        const enum mb_activation activation = mb_profile_activation(profile, info->id);
        if (activation != info->activation)
            (void)printf("%s: activations are %s instead of %s\n", info->name,
                         mb_activation_name(activation), mb_activation_name(info->activation));
    }
}

/* So that predictions of whole tokens need no run of the model any more. */
static enum mb_status keep_fixed_cost(struct mb_cli *cli, const struct options *options,
                                      struct mb_model *model, struct mb_threads *threads,
                                      struct mb_accelerator *accelerator,
                                      struct mb_profile *profile, const char *path)
{
    const struct mb_offload_target target = {.accelerator = accelerator, .profile = profile};
    const size_t memory = mb_profile_device(profile)->memory_bytes;
    struct mb_fixed_cost fixed;
    bool measured = false;
    if (mb_profile_match(profile, NULL, 0) == MB_PROFILE_OTHER_MACHINE)
        return MB_OK; /* never written to */
    if (mb_model_file_bytes(model) > memory / 2) {
        mb_note(cli, "attention and norms are not timed: the model takes more than half of the "
                     "memory");
        return MB_OK;
    }
    enum mb_status status = mb_step_fixed_cost(cli, model, threads, profile, &target,
                                               options->context, true, &fixed, &measured);
    if (status == MB_OK && options->llama_bench != NULL) {
        status = mb_step_llama_bench(cli, model, options->llama_bench, profile, &fixed);
        if (status == MB_OK && mb_profile_put_fixed_cost(profile, &fixed) != MB_OK)
            status = mb_error_set(&cli->error, MB_ERR_FILE, -1, "%s: times that cannot be",
                                  options->llama_bench);
        measured = true;
    }
    return status == MB_OK && measured ? mb_profile_save(profile, path, &cli->error) : status;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct mb_model *model = NULL;
    struct mb_threads *threads = NULL;
    struct mb_profile *profile = NULL;
    struct mb_accelerator *accelerator = NULL;
    char *path = NULL;
    enum mb_status status = MB_OK;
    if (options->llama_bench != NULL && options->model == NULL)
        return mb_usage(cli, "--llama-bench: --model is missing, the model whose files it ran");
    if (options->llama_bench != NULL && options->output == NULL)
        return mb_usage(cli, "--llama-bench: -o is missing: a profile of llama.cpp's times is not "
                             "this machine's own");
    if (options->model != NULL)
        status = mb_step_open(cli, options->model, &model);
    if (status == MB_OK)
        status = mb_accelerator_open(options->device, &accelerator, &cli->error);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status == MB_OK && options->llama_bench != NULL) { /* before minutes of work */
        struct mb_fixed_cost fixed = {.threads = mb_threads_count(threads)};
        status = mb_step_llama_bench(cli, model, options->llama_bench, NULL, &fixed);
    }
    if (status == MB_OK) {
        const struct mb_profile_request request = {
            .path = options->output,
            .model = model,
            .formats = options->formats.count > 0 ? &options->formats : NULL,
            .threads = threads,
            .accelerator = accelerator,
            .time_limit_s = options->time_limit,
            .max_error = options->max_error,
            .fresh = options->fresh,
            .thread_counts = options->threads == 0,
        };
        status = mb_step_profile(cli, &request, &profile, &path);
    }
    if (status == MB_OK && model != NULL)
        status = keep_fixed_cost(cli, options, model, threads, accelerator, profile, path);
    if (status == MB_OK && cli->common.json) {
        json_t *root;
        status = mb_json_load(path, (size_t)256 << 20, &root, &cli->error);
        if (status == MB_OK)
            status = mb_print_json(cli, root);
    } else if (status == MB_OK) {
        (void)printf("%s: %zu measurements\n", path, mb_profile_count(profile));
        const size_t decode = mb_profile_threads(profile, 1),
                     prefill = mb_profile_threads(profile, 512);
        print_activations(profile);
        if (decode > 0 && prefill > 0)
            (void)printf("fastest number of threads: %zu for decoding, %zu for a prompt\n", decode,
                         prefill);
    }
    free(path);
    mb_profile_free(profile);
    mb_accelerator_close(accelerator);
    mb_threads_destroy(threads);
    mb_model_close(model);
    return status;
}

static const struct mb_option table[] = {
    {.name = "model",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, model),
     .value = "FILE",
     .help = "time this model's shapes (default: those of a model of 8 billion weights)"},
    MB_DEVICE_ROW(struct options, device, "device to measure"),
    MB_OUTPUT_ROW(struct options, output,
                  "profile to complete (default: this device's, in the cache folder)"),
    MB_FORMATS_ROW(struct options, formats, "formats, comma-separated (default: all)"),
    MB_THREADS_ROW(struct options, threads),
    MB_CONTEXT_ROW(struct options, context),
    {.name = "time-limit",
     .kind = MB_OPTION_NUMBER,
     .offset = offsetof(struct options, time_limit),
     .value = "SECONDS",
     .help = "stop timing after this long; what is missing is interpolated"},
    {.name = "max-error",
     .kind = MB_OPTION_NUMBER,
     .offset = offsetof(struct options, max_error),
     .value = "TIMES",
     .help = "try other types of activations too, and take the fastest whose error is at most so "
             "many times that of the format's own type: 1.5 for speed, 0.9 for accuracy (default: "
             "as before, at first 1, the own type alone)"},
    {.name = "llama-bench",
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, llama_bench),
     .value = "FILE",
     .help =
         "what 'llama-bench -o json' printed for files of this model: what a token takes beside "
         "its matrix products is then llama.cpp's, for 'solve' with this profile"},
    {.name = "fresh",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, fresh),
     .help = "forget what was measured before"},
    {0}};

const struct mb_verb mb_verb_tune = {
    .name = "tune",
    .summary = "search and time kernels on a model's shapes; write this machine's profile",
    .options = table,
    .options_bytes = sizeof(struct options),
    .details =
        "Kernels, their k-block, prefetch distance and step, and the number of rows from which "
        "on the buffered kernel wins are searched on one shape a format, then confirmed on "
        "the others; without --threads other numbers of threads are tried too. Entries "
        "that are present and current are kept, so a second run only adds what is missing, "
        "and an interrupted one goes on. With a model, what a token costs beside its matrix "
        "products is timed too.",
    .example = "mixbit tune --model model.gguf --time-limit 60",
    .run = run,
};
