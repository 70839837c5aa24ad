/* SPDX-License-Identifier: Apache-2.0 */
/* solve: from a profile and a sensitivity table to a plan within budgets, or to the whole trade-off
 * curve. */
#include "cli/option_rows.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

struct options {
    const char *profile, *sensitivity, *output;
    struct mb_format_list formats;
    struct mb_budget_options budget;
    size_t context, threads, points;
    bool front, last_logits;
    int against;
};

/* What is open while solving. */
struct work {
    struct mb_aim aim;
    struct mb_model *model;
    struct mb_threads *threads;
    struct mb_sensitivity *table;
    struct mb_profile *profile;
    struct mb_forecast forecast;
};

static enum mb_status check_options(struct mb_cli *cli, const struct options *options)
{
    if (options->sensitivity == NULL)
        return mb_usage(cli, "--sensitivity is missing: a table from 'mixbit sense'");
    if (options->front && options->output != NULL)
        return mb_usage(cli, "--front prints a curve; -o writes one plan: choose one of them");
    if (options->front && options->against == options->budget.minimize)
        return mb_usage(cli, "--front: --minimize and --against are the same quantity");
    if (options->front && (options->budget.weights != NULL || options->budget.allocator != 0))
        return mb_usage(cli, "--front trades two quantities; --weights and --allocator name one "
                             "mix: choose one of them");
    return MB_OK;
}

/* Without a profile sizes and losses can still be traded; speeds can't. */
static enum mb_status open_profile(struct mb_cli *cli, const struct options *options,
                                   const struct mb_aim *aim, struct mb_profile **profile)
{
    const double *weight = aim->weighting.weight;
    const struct mb_budget_options *budget = &options->budget;
    const enum mb_quantity minimize = mb_minimize_quantity(budget->minimize);
    const bool needs_times = budget->min_decode > 0 || budget->min_prefill > 0 ||
                             minimize == MB_QUANTITY_DECODE || minimize == MB_QUANTITY_PREFILL ||
                             weight[MB_QUANTITY_DECODE] > 0 || weight[MB_QUANTITY_PREFILL] > 0;
    char *path = options->profile == NULL ? mb_profile_default_path() : NULL;
    const bool none =
        options->profile == NULL && (path == NULL || access(path, F_OK) != 0) && !needs_times;
    free(path);
    if (none) {
        mb_warn(cli, "this machine has no profile, so speeds are unknown; 'mixbit tune --model "
                     "MODEL' measures one");
        return MB_OK;
    }
    const struct mb_profile_request request = {
        .path = options->profile, .must_exist = true, .any_kind = true};
    return mb_step_profile(cli, &request, profile, NULL);
}

static enum mb_status open_all(struct mb_cli *cli, const struct options *options, struct work *work)
{
    struct mb_fixed_cost fixed = {0};
    enum mb_status status = mb_aim_resolve(cli, &options->budget, &work->aim);
    if (status == MB_OK)
        status = mb_step_open(cli, cli->positionals[0], &work->model);
    if (status == MB_OK)
        status = mb_step_load_sensitivity(cli, work->model, options->sensitivity, &work->table);
    if (status == MB_OK)
        status = open_profile(cli, options, &work->aim, &work->profile);
    if (status == MB_OK && options->output != NULL)
        status = mb_step_check_output(cli, options->output);
    if (status == MB_OK)
        status = mb_step_threads(cli, options->threads, &work->threads);
    if (status == MB_OK && (work->profile != NULL || options->budget.max_ram.bytes > 0))
        status = mb_step_fixed_cost(cli, work->model, work->threads, work->profile, NULL,
                                    options->context, false, &fixed, NULL);
    if (status != MB_OK)
        return status;
    const struct mb_forecast_request request = {.table = work->table,
                                                .profile = work->profile,
                                                .formats = &options->formats,
                                                .constraints = &options->budget.constraints,
                                                .aim = &work->aim,
                                                .fixed = fixed,
                                                .last_logits = options->last_logits,
                                                .threads = mb_threads_count(work->threads)};
    status = mb_forecast_create(cli, work->model, &request, &work->forecast);
    if (status == MB_OK && work->profile != NULL) {
        size_t most = 0;
        for (int r = 0; r < MB_RESIDENCY_COUNT; r++)
            most = work->forecast.interpolated[r] > most ? work->forecast.interpolated[r] : most;
        if (most > 0)
            mb_warn(cli,
                    "%zu times were not measured at the exact shape and are interpolated; "
                    "'mixbit tune --model %s' measures them",
                    most, cli->positionals[0]);
    }
    return status;
}

static void close_all(struct work *work)
{
    mb_forecast_free(&work->forecast);
    mb_sensitivity_free(work->table);
    mb_profile_free(work->profile);
    mb_threads_destroy(work->threads);
    mb_model_close(work->model);
}

/* ---- output ---- */

static double rate(double ns) { return ns > 0 ? 1e9 / ns : NAN; }

static double bits_of(const struct work *work, const struct mb_plan *plan)
{
    const double weights = mb_quantizable_weights(work->model);
    return 8 * (plan->total[MB_QUANTITY_BYTES] - plan->fixed[MB_QUANTITY_BYTES]) / weights;
}

static void print_formats(const struct mb_plan *plan)
{
    struct mb_table *table = mb_table_create();
    double all = 0;
    mb_table_column(table, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(table, "tensors", "tensors", MB_ALIGN_RIGHT);
    mb_table_column(table, "bytes", "MB", MB_ALIGN_RIGHT);
    mb_table_column(table, "share", "of size", MB_ALIGN_RIGHT);
    for (size_t e = 0; e < plan->count; e++)
        all += plan->entries[e].bytes;
    const struct mb_format_info *info;
    for (size_t f = 0; (info = mb_any_format_at(f)) != NULL; f++) {
        size_t tensors = 0;
        double bytes = 0;
        for (size_t e = 0; e < plan->count; e++) {
            if (plan->entries[e].format == info->id) {
                tensors++;
                bytes += plan->entries[e].bytes;
            }
        }
        if (tensors == 0)
            continue;
        mb_table_text(table, info->name);
        mb_table_count(table, tensors);
        mb_table_number(table, bytes / 1e6, "%.2f");
        mb_table_number(table, 100 * bytes / all, "%.0f %%");
    }
    mb_table_print(table, stdout);
    mb_table_free(table);
}

static void print_plan(const struct work *work, const struct mb_plan *plan,
                       enum mb_residency residency)
{
    char size[32];
    if (work->aim.objective[0] != '\0')
        (void)printf("by %s\n", plan->objective);
    if (plan->groups[0] != '\0')
        (void)printf("one format each: %s\n", plan->groups);
    (void)printf("predicted: %s (%.2f bits per weight), KL %.5f",
                 mb_text_bytes(plan->total[MB_QUANTITY_BYTES], size), bits_of(work, plan),
                 plan->total[MB_QUANTITY_LOSS]);
    if (work->profile != NULL)
        (void)printf(", decode %.1f tok/s, prefill %.1f tok/s (weights in %s)",
                     rate(plan->total[MB_QUANTITY_DECODE]), rate(plan->total[MB_QUANTITY_PREFILL]),
                     mb_residency_name(residency));
    if (work->aim.greedy)
        (void)printf("; not proven\n\n");
    else if (plan->gap > 0)
        (void)printf("; proven within %.2f %% of the best\n\n", 100 * plan->gap);
    else
        (void)printf("; proven best\n\n");
    print_formats(plan);
}

/* A plan as the document that `-o` writes, by way of a file: plans are files to the library. */
static enum mb_status print_plan_json(struct mb_cli *cli, const struct mb_plan *plan,
                                      const char *written)
{
    char made[] = "/tmp/mixbit-plan-XXXXXX";
    const char *path = written;
    enum mb_status status = MB_OK;
    json_t *root = NULL;
    if (written == NULL) {
        const int descriptor = mkstemp(made);
        if (descriptor < 0)
            return mb_error_set(&cli->error, MB_ERR_IO, -1,
                                "cannot create a temporary file in /tmp; use -o FILE");
        (void)close(descriptor);
        path = made;
        status = mb_plan_save(plan, made, &cli->error);
    }
    if (status == MB_OK)
        status = mb_json_load(path, (size_t)256 << 20, &root, &cli->error);
    if (written == NULL)
        (void)remove(made);
    return status == MB_OK ? mb_print_json(cli, root) : status;
}

static enum mb_status print_front(struct mb_cli *cli, const struct options *options,
                                  const struct work *work, const struct mb_budget *budget)
{
    struct mb_plan **plans = NULL;
    size_t count = 0;
    const enum mb_status status = mb_forecast_front(
        cli, &work->forecast, mb_minimize_quantity(options->budget.minimize),
        mb_minimize_quantity(options->against), budget, options->points, &plans, &count);
    if (status != MB_OK)
        return status;
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "bytes", cli->common.json ? "bytes" : "MB", MB_ALIGN_RIGHT);
    mb_table_column(table, "bits_per_weight", "bits", MB_ALIGN_RIGHT);
    mb_table_column(table, "kl", "KL", MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_toks", "decode tok/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "prefill_toks", "prefill tok/s", MB_ALIGN_RIGHT);
    for (size_t p = 0; p < count; p++) {
        const double *total = plans[p]->total;
        const double bytes = total[MB_QUANTITY_BYTES];
        mb_table_number(table, cli->common.json ? bytes : bytes / 1e6, "%.2f");
        mb_table_number(table, bits_of(work, plans[p]), "%.2f");
        mb_table_number(table, total[MB_QUANTITY_LOSS], "%.5f");
        mb_table_number(table, work->profile != NULL ? rate(total[MB_QUANTITY_DECODE]) : NAN,
                        "%.1f");
        mb_table_number(table, work->profile != NULL ? rate(total[MB_QUANTITY_PREFILL]) : NAN,
                        "%.1f");
        mb_plan_free(plans[p]);
    }
    free(plans);
    enum mb_status printed = MB_OK;
    if (cli->common.json)
        printed = mb_print_json(cli, mb_table_json(table));
    else
        mb_table_print(table, stdout);
    mb_table_free(table);
    return printed;
}

static enum mb_status run(struct mb_cli *cli, const void *given)
{
    const struct options *options = given;
    struct work work = {0};
    struct mb_budget budget;
    struct mb_plan *plan = NULL;
    enum mb_residency residency = MB_RESIDENCY_MEMORY;
    enum mb_status status = check_options(cli, options);
    if (status != MB_OK)
        return status;
    status = open_all(cli, options, &work);
    if (status == MB_OK)
        status = mb_budget_resolve(cli, &work.forecast, &options->budget, &budget);
    if (status == MB_OK && options->front) {
        status = print_front(cli, options, &work, &budget);
        close_all(&work);
        return status;
    }
    if (status == MB_OK && !mb_budget_given(&options->budget) && options->budget.minimize == 0 &&
        !work.aim.greedy)
        status = mb_usage(cli, "no budget: the best plan under none is the model as it is; give "
                               "--max-size, --min-decode or another one, or use 'mixbit plan'");
    if (status == MB_OK)
        status =
            mb_forecast_solve(cli, &work.forecast, mb_minimize_quantity(options->budget.minimize),
                              &budget, options->budget.max_ram.bytes, &plan, &residency);
    if (status == MB_OK && options->output != NULL)
        status = mb_plan_save(plan, options->output, &cli->error);
    if (status == MB_OK && cli->common.json) {
        status = print_plan_json(cli, plan, options->output);
    } else if (status == MB_OK) {
        print_plan(&work, plan, residency);
        if (options->output != NULL)
            (void)printf("\n%s\n", options->output);
    }
    mb_plan_free(plan);
    close_all(&work);
    return status;
}

static const struct mb_option table[] = {
    {.name = "sensitivity",
     .letter = 's',
     .kind = MB_OPTION_TEXT,
     .offset = offsetof(struct options, sensitivity),
     .value = "FILE",
     .help = "table from 'mixbit sense'"},
    MB_PROFILE_ROW(struct options, profile, "profile from 'mixbit tune' (default: this machine's)"),
    MB_BUDGET_OPTION_ROWS(struct options, budget),
    MB_FORMATS_ROW(struct options, formats,
                   "candidates, comma-separated (default: all that were sensed)"),
    {.name = "allocator",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct options, budget.allocator),
     .choices = mb_allocator_names,
     .fallback = "exact",
     .help = "for comparison: KL Lens's two allocators, greedy by loss alone (reconstructions)"},
    {.name = "gamma",
     .kind = MB_OPTION_NUMBER,
     .offset = offsetof(struct options, budget.gamma),
     .value = "X",
     .fallback = "1.10",
     .help = "kl-lens-a: perplexity, predicted, over its reference that a step may reach"},
    {.name = "fixed-reference",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, budget.fixed_reference),
     .help = "kl-lens-a: the reference stays the start's instead of moving with each step"},
    {.name = "cuts",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, budget.cuts),
     .value = "N",
     .fallback = "10",
     .minimum = 1,
     .help = "kl-lens-b: into how many parts the list is cut"},
    {.name = "cut",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, budget.cut),
     .value = "I",
     .minimum = 1,
     .help = "kl-lens-b: take what is before this cut (default: the first that fits --max-size)"},
    {.name = "front",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, front),
     .help = "print the trade-off curve instead of one plan"},
    {.name = "against",
     .kind = MB_OPTION_CHOICE,
     .offset = offsetof(struct options, against),
     .choices = mb_minimize_names,
     .help = "the curve's other quantity",
     .fallback = "size"},
    {.name = "points",
     .kind = MB_OPTION_COUNT,
     .offset = offsetof(struct options, points),
     .value = "N",
     .help = "points on the curve",
     .fallback = "24",
     .minimum = 2},
    MB_CONTEXT_ROW(struct options, context),
    {.name = "last-logits",
     .kind = MB_OPTION_FLAG,
     .offset = offsetof(struct options, last_logits),
     .help = "predict prefill with the logits of the last token alone, as runtimes read a prompt"},
    MB_OUTPUT_ROW(struct options, output, "write the plan there"),
    MB_THREADS_ROW(struct options, threads),
    {0}};

const struct mb_verb mb_verb_solve = {
    .name = "solve",
    .summary = "find the best format for every tensor within budgets",
    .positionals = "MODEL",
    .min_positionals = 1,
    .max_positionals = 1,
    .options = table,
    .options_bytes = sizeof(struct options),
    .details = "Minimises one quantity, or a weighted sum of memory, latency and accuracy, under "
               "limits on the others, to proven optimality. A budget that can't be met ends with "
               "exit status 3 and the nearest one that can. Weights are over what there is to gain "
               "in the whole model; with --granularity layer over each layer's own range, our "
               "reconstruction of APreQEL (docs/method.md).",
    .example = "mixbit solve model.f16.gguf -s sensitivity.json --max-size 4.25bpw -o plan.json",
    .run = run,
};
