/* SPDX-License-Identifier: Apache-2.0 */
/* bench: kernels against the limits of this machine. Each row is one product timed by the tuner's
 * own code, beside the limit that it runs into first. */
#include "cli/bench.h"
#include "cli/option_rows.h"
#include "cli/steps.h"
#include "dispatch/dispatch.h"
#include "tuner/tuner.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const residency_choices[] = {"L2", "L3", "memory", "auto", NULL};
enum { RESIDENCY_AUTO = 3 };
static const char *const activation_choices[] = {"default",
#define MB_ACTIVATION_ROW(id, name, ...) #name,
#include "mixbit/codings.def"
                                                 NULL};

struct mb_table *mb_bench_table(void)
{
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(table, "m", "m", MB_ALIGN_RIGHT);
    mb_table_column(table, "n", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "k", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "threads", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "residency", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "median_ns", "us", MB_ALIGN_RIGHT);
    mb_table_column(table, "gmacs", "GMAC/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "weight_gbps", "GB/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "limit", "limit", MB_ALIGN_LEFT);
    mb_table_column(table, "fraction", "of it", MB_ALIGN_RIGHT);
    mb_table_column(table, "error", "error", MB_ALIGN_RIGHT);
    mb_table_column(table, "kernel", "kernel", MB_ALIGN_LEFT);
    mb_table_column(table, "activation", NULL, MB_ALIGN_LEFT);
    return table;
}

void mb_bench_put(struct mb_table *table, const struct mb_bench_row *row, bool json)
{
    mb_table_text(table, mb_format_info(row->format)->name);
    mb_table_count(table, row->m);
    mb_table_count(table, row->n);
    mb_table_count(table, row->k);
    mb_table_count(table, row->threads);
    mb_table_text(table, mb_residency_name(row->residency));
    mb_table_number(table, json ? row->median_ns : row->median_ns / 1e3, "%.1f");
    mb_table_number(table, row->gmacs, "%.1f");
    mb_table_number(table, row->weight_gbps, "%.2f");
    mb_table_text(table, mb_limit_name(row->limit));
    /* a wrong product has no speed worth comparing */
    mb_table_number(table,
                    row->failed || row->fraction <= 0 ? NAN
                    : json                            ? row->fraction
                                                      : 100 * row->fraction,
                    "%.0f %%");
    mb_table_number(table, row->error, "%.5f");
    mb_table_text(table, row->kernel);
    mb_table_text(table, mb_activation_name(row->activation));
}

/* Where the weights of one matrix would be if it were all there is. */
enum mb_residency mb_bench_residency(const struct mb_bench_options *options, enum mb_format format,
                                     size_t threads)
{
    struct mb_device_info device = {.size = sizeof device};
    if (options->residency != RESIDENCY_AUTO)
        return (enum mb_residency)options->residency;
    if (mb_device_info(&device) != MB_OK)
        return MB_RESIDENCY_MEMORY;
    return mb_residency_of(&device, options->n * mb_format_row_bytes(format, options->k), threads);
}

static enum mb_status check_shape(struct mb_cli *cli, const struct mb_bench_options *options)
{
    for (size_t f = 0; f < options->formats.count; f++) {
        const struct mb_format_info *info = mb_format_info(options->formats.at[f]);
        size_t bytes;
        if (options->k % info->block_k != 0)
            return mb_usage(cli, "--k %zu does not fit %s, whose blocks hold %u weights",
                            options->k, info->name, (unsigned)info->block_k);
        if (!mb_mul_size(options->n, mb_format_row_bytes(info->id, options->k), &bytes) ||
            bytes > (size_t)1 << 36 || options->n > (size_t)1 << 32)
            return mb_usage(cli, "--n %zu --k %zu: the matrix would not fit into memory",
                            options->n, options->k);
    }
    for (size_t i = 0; i < options->m.count; i++)
        if (options->m.at[i] > 65536)
            return mb_usage(cli, "--m %zu: expected at most 65536 rows", options->m.at[i]);
    return MB_OK;
}

/* What the rows are to run with: a profile's choices, or one type of activations. */
static enum mb_status prepare_selections(struct mb_cli *cli, const struct mb_bench_options *options)
{
    if (options->tuned)
        return mb_step_apply_profile(cli, NULL, true);
    for (size_t f = 0; f < options->formats.count && options->activation > 0; f++) {
        const enum mb_activation activation = (enum mb_activation)(options->activation - 1);
        const enum mb_format format = options->formats.at[f];
        if (!mb_matmul_supports(format, activation))
            return mb_usage(cli, "--activation %s: there are no kernels for %s with it",
                            mb_activation_name(activation), mb_format_info(format)->name);
        const struct mb_selection selection = mb_select_default(format, activation);
        mb_select_set(format, &selection);
    }
    return MB_OK;
}

/* One row that contradicts its limit fails the run, but only after all rows were printed. */
static enum mb_status measure(struct mb_cli *cli, const struct mb_bench_options *options,
                              struct mb_threads *threads, const struct mb_limits *limits,
                              struct mb_table *table)
{
    const double total = (double)(options->formats.count * options->m.count);
    const struct mb_progress *progress = mb_stage_progress(cli);
    struct mb_error first = {0};
    double done = 0;
    for (size_t f = 0; f < options->formats.count; f++) {
        for (size_t i = 0; i < options->m.count; i++, done++) {
            const struct mb_format_info *info = mb_format_info(options->formats.at[f]);
            const struct mb_bench_case bench = {
                .format = info->id,
                .n = options->n,
                .k = options->k,
                .m = options->m.at[i],
                .residency = mb_bench_residency(options, info->id, mb_threads_count(threads))};
            struct mb_bench_row row = {0};
            struct mb_error error = {0};
            if (mb_progress_report(progress, done, total, info->name) != MB_OK)
                return mb_error_set(&cli->error, MB_ERR_INTERRUPTED, -1, "stopped");
            const enum mb_status status = mb_bench_run(&bench, threads, limits, 0, &row, &error);
            if (status != MB_OK && status != MB_ERR_VERIFY) {
                cli->error = error;
                return status;
            }
            if (status == MB_ERR_VERIFY) {
                mb_warn(cli, "%s", error.message);
                first = first.status == MB_OK ? error : first;
            }
            mb_bench_put(table, &row, cli->common.json);
        }
    }
    cli->error = first;
    return first.status;
}

enum mb_status mb_bench_present(struct mb_cli *cli, struct mb_table *table, const char *heading,
                                enum mb_status status)
{
    if (status != MB_OK && status != MB_ERR_VERIFY)
        return status;
    if (!cli->common.json) {
        (void)printf("%s\n", heading);
        mb_table_print(table, stdout);
        return status;
    }
    const enum mb_status printed = mb_print_json(cli, mb_table_json(table));
    return status == MB_OK ? printed : status;
}

/* Options that mean nothing together. */
static enum mb_status check_choice(struct mb_cli *cli, const struct mb_bench_options *options,
                                   bool on_device)
{
    if (options->tuned && options->activation > 0)
        return mb_usage(cli, "--activation and --tuned: the profile says which activations");
    if (options->search && !on_device)
        return mb_usage(cli, "--search: of a --device other than the CPU; for the CPU there are "
                             "'mixbit tune' and --tuned");
    const char *of_cpu = options->peers                         ? "--peers"
                         : options->tuned                       ? "--tuned"
                         : options->activation > 0              ? "--activation"
                         : options->threads > 0                 ? "--threads"
                         : options->residency != RESIDENCY_AUTO ? "--residency"
                                                                : NULL;
    if (on_device && of_cpu != NULL)
        return mb_usage(cli, "%s and --device %s: only the CPU has a choice there", of_cpu,
                        options->device);
    return MB_OK;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct mb_bench_options *options = given;
    struct mb_threads *threads = NULL;
    struct mb_limits limits = {0};
    struct mb_accelerator *accelerator = NULL;
    char heading[128];
    enum mb_status status = check_shape(cli, options);
    if (status == MB_OK)
        status = mb_accelerator_open(options->device, &accelerator, &cli->error);
    if (status == MB_OK)
        status = check_choice(cli, options, accelerator != NULL);
    if (accelerator != NULL) {
        if (status == MB_OK)
            status = mb_bench_device(cli, options, accelerator);
        mb_accelerator_close(accelerator);
        return status;
    }
    if (status == MB_OK)
        status = prepare_selections(cli, options);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &threads);
    if (status != MB_OK)
        return status;
    struct mb_table *table = options->peers ? mb_bench_peers_table() : mb_bench_table();
    mb_stage_begin(cli, "measuring bandwidth and peaks");
    status = mb_limits_measure(threads, 0, mb_stage_progress(cli), &limits);
    mb_stage_end(cli);
    if (status != MB_OK) {
        (void)mb_error_set(&cli->error, status, -1, "measuring this machine's limits: %s",
                           mb_status_string(status));
        goto out;
    }
    mb_stage_begin(cli, "timing %zu formats", options->formats.count);
    status = options->peers ? mb_bench_peers(cli, options, threads, &limits, table)
                            : measure(cli, options, threads, &limits, table);
    mb_stage_end(cli);
    (void)snprintf(heading, sizeof heading,
                   "n %zu, k %zu, %zu threads; y = x * w, x has m rows; error is against f64",
                   options->n, options->k, mb_threads_count(threads));
    status = mb_bench_present(cli, table, heading, status);
out:
    mb_table_free(table);
    mb_threads_destroy(threads);
    return status;
}

static const struct mb_option table[] = {
    {.name = "formats",
     .kind = MB_OPTION_FORMATS,
     .offset = offsetof(struct mb_bench_options, formats),
     .value = "LIST",
     .help = "formats, comma-separated, or all",
     .fallback = "all"},
    {.name = "m",
     .letter = 'm',
     .kind = MB_OPTION_COUNTS,
     .offset = offsetof(struct mb_bench_options, m),
     .value = "LIST",
     .help = "rows of activations, comma-separated",
     .fallback = "1,128",
     .minimum = 1},
    {.name = "n",
     .letter = 'n',
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct mb_bench_options, n),
     .value = "N",
     .help = "output features",
     .fallback = "4096",
     .minimum = 1},
    {.name = "k",
     .letter = 'k',
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct mb_bench_options, k),
     .value = "N",
     .help = "reduction length",
     .fallback = "4096",
     .minimum = 1},
    MB_THREADS_ROW(struct mb_bench_options, threads),
    {.name = "residency",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct mb_bench_options, residency),
     .choices = residency_choices,
     .help = "where the weights are; auto: where one such matrix would stay",
     .fallback = "auto"},
    {.name = "activation",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct mb_bench_options, activation),
     .choices = activation_choices,
     .help = "what activations become before they are multiplied; default: the format's own type",
     .fallback = "default"},
    {.name = "tuned",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct mb_bench_options, tuned),
     .help = "with what this machine's profile found best (kernels, knobs, activations) instead of "
             "the default kernels"},
    MB_DEVICE_ROW(struct mb_bench_options, device, "device to measure"),
    {.name = "search",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct mb_bench_options, search),
     .help = "on a --device: try every kernel it has for a product, and show the fastest"},
    {.name = "peers",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct mb_bench_options, peers),
     .help = "against ggml and ONNX Runtime, where they are found (MIXBIT_GGML and "
             "MIXBIT_ONNXRUNTIME name other places)"},
    {0}};

const struct mb_verb mb_verb_bench = {
    .name = "bench",
    .summary = "kernels of every format against this machine's limits, and against peers",
    .options = table,
    .options_bytes = sizeof(struct mb_bench_options),
    .example = "mixbit bench --formats q4_K,iq4_nl --m 1,512 --n 4096 --k 4096",
    .run = run,
};
