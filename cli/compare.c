/* SPDX-License-Identifier: Apache-2.0 */
/* Measuring assignments side by side: see compare.h.
 *
 * Loss is compared by pairs of windows, because the windows differ far more from each other than
 * two formats do on the same window: the interval of the difference is several times narrower than
 * either row's own. Speed is compared by pairs of rounds for the same reason. */
#include "cli/compare.h"
#include "model/statistics.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void mb_comparison_init(struct mb_comparison *comparison, struct mb_model *model)
{
    *comparison = (struct mb_comparison){.model = model};
}

void mb_comparison_free(struct mb_comparison *comparison)
{
    for (size_t i = 0; i < comparison->count; i++) {
        mb_mix_free(&comparison->rows[i].mix);
        mb_evaluation_free(&comparison->rows[i].evaluation);
        mb_speed_free(&comparison->rows[i].speed);
    }
    free(comparison->rows);
    *comparison = (struct mb_comparison){.model = NULL};
}

enum mb_status mb_comparison_add(struct mb_comparison *comparison, struct mb_mix *mix,
                                 enum mb_row_kind kind, const struct mb_forecast *forecast,
                                 size_t *index)
{
    for (size_t i = 0; i < comparison->count; i++) {
        if (mb_mix_same(comparison->model, &comparison->rows[i].mix, mix)) {
            mb_mix_free(mix);
            if (index)
                *index = i;
            return MB_OK;
        }
    }
    if (comparison->count == comparison->capacity) {
        const size_t capacity = comparison->capacity ? 2 * comparison->capacity : 32;
        struct mb_assignment *rows = realloc(comparison->rows, capacity * sizeof *rows);
        if (!rows) {
            mb_mix_free(mix);
            return MB_ERR_MEMORY;
        }
        comparison->rows = rows;
        comparison->capacity = capacity;
    }
    if (index)
        *index = comparison->count;
    struct mb_assignment *row = &comparison->rows[comparison->count++];
    *row = (struct mb_assignment){.mix = *mix, .kind = kind, .kl_search = NAN};
    *mix = (struct mb_mix){.formats = NULL};
    row->bytes = mb_mix_bytes(comparison->model, &row->mix);
    mb_forecast_mix(forecast, &row->mix, row->predicted);
    row->predicted_decode_matmul_ns =
        row->predicted[MB_QUANTITY_DECODE] - forecast->fixed.decode_ns;
    row->predicted_prefill_matmul_ns =
        row->predicted[MB_QUANTITY_PREFILL] - forecast->fixed.prefill_ns;
    return MB_OK;
}

/* ---- measuring
 * ------------------------------------------------------------------------------------------------
 */

/* Where a stage over rows stands. */
struct within {
    struct mb_cli *cli;
    size_t row, count;
};

static enum mb_status report_row(struct mb_cli *cli, double row, size_t count, const char *note)
{
    return mb_progress_report(mb_stage_progress(cli), row, (double)count * 1.25, note);
}

static int report_within(void *user, double done, double total, const char *note)
{
    const struct within *w = user;
    return report_row(w->cli, (double)w->row + 0.5 * done / fmax(total, 1.0), w->count, note) !=
           MB_OK;
}

/* A draft is for timing alone. */
enum draft { EVALUATED, DRAFT };

static enum mb_status create_network(struct mb_cli *cli, const struct mb_comparison *comparison,
                                     const struct mb_compare_options *options, size_t row,
                                     enum draft draft, struct mb_network **network)
{
    const enum mb_format *formats = comparison->rows[row].mix.formats;
    /* The stage's bar shows whole rows; encoding may take most of a row's time. */
    const struct within within = {cli, row, comparison->count};
    const struct mb_progress progress = {report_within, (void *)(uintptr_t)&within};
    enum mb_status status;
    if (comparison->encoder == NULL)
        status =
            mb_network_create_mix(comparison->model, formats, comparison->importance,
                                  MB_NUMERICS_KERNEL, options->threads, NULL, network, &cli->error);
    else if (draft == DRAFT)
        status = mb_network_create_draft(comparison->model, formats, comparison->encoder,
                                         options->threads, &progress, network, &cli->error);
    else
        status = mb_network_create_encoded(comparison->model, formats, comparison->encoder,
                                           MB_NUMERICS_KERNEL, options->threads, &progress, network,
                                           &cli->error);
    return status == MB_OK ? mb_network_offload(*network, options->target, &cli->error) : status;
}

/* How much longer the anchor's products take now than they did. */
struct drift {
    double decode, prefill;
};

static void warn_of_drift(struct mb_cli *cli, double drift)
{
    const double noticed = 1.1;
    if (drift > noticed || drift < 1 / noticed)
        mb_warn(cli,
                "this machine is %.0f %% %s than when the rows before were timed: speeds of rows "
                "that did not take turns don't compare",
                100 * fabs(drift - 1), drift > 1 ? "slower" : "faster");
}

/* `count` networks in turns, and with them the anchor, whose place is behind them. */
static enum mb_status time_batch(struct mb_cli *cli, struct mb_comparison *comparison,
                                 const struct mb_compare_options *options,
                                 struct mb_network **networks, size_t count,
                                 struct mb_speed *speeds, struct drift *drift)
{
    const size_t row = options->anchor != NULL ? *options->anchor : SIZE_MAX;
    const struct mb_assignment *anchor =
        row < comparison->count && comparison->rows[row].measured ? &comparison->rows[row] : NULL;
    enum mb_status status = MB_OK;
    *drift = (struct drift){1, 1};
    if (anchor != NULL)
        status = create_network(cli, comparison, options, row, DRAFT, &networks[count]);
    if (status != MB_OK)
        return status;
    for (size_t s = 0; s <= count; s++)
        speeds[s] = (struct mb_speed){.size = sizeof speeds[s]};
    status = mb_network_speed(networks, count + (anchor != NULL), options->context,
                              options->repeats, NULL, speeds, &cli->error);
    if (status != MB_OK)
        return status;
    comparison->turns++;
    if (anchor != NULL) {
        drift->decode = speeds[count].decode_matmul_ns / anchor->speed.decode_matmul_ns;
        drift->prefill = speeds[count].prefill_matmul_ns / anchor->speed.prefill_matmul_ns;
        warn_of_drift(cli, drift->decode);
        mb_speed_free(&speeds[count]);
    }
    return MB_OK;
}

/* The reference is run when the first row needs it. */
static enum mb_status run_reference(struct mb_cli *cli, const struct mb_comparison *comparison,
                                    const struct mb_compare_options *options,
                                    struct mb_reference **reference)
{
    struct mb_network *base = NULL;
    if (*reference != NULL)
        return MB_OK;
    enum mb_status status =
        mb_network_create(comparison->model, MB_NUMERICS_F32, options->threads, &base, &cli->error);
    if (status == MB_OK)
        status = mb_reference_create(base, options->windows, NULL, reference, &cli->error);
    mb_network_destroy(base);
    return status;
}

/* What a row loses that is rounded by `encoder`, and not known from before. */
static enum mb_status evaluate(struct mb_cli *cli, const struct mb_comparison *comparison,
                               const struct mb_compare_options *options,
                               const struct mb_assignment *row, const struct mb_encoder *encoder,
                               struct mb_network *network, struct mb_reference **reference,
                               struct mb_evaluation *evaluation)
{
    enum mb_status status = run_reference(cli, comparison, options, reference);
    if (status == MB_OK)
        status = mb_evaluate_against(network, *reference, options->windows, NULL, evaluation,
                                     &cli->error);
    if (status == MB_OK && comparison->losses != NULL)
        status =
            mb_losses_keep(comparison->losses, row->mix.formats, encoder, evaluation, &cli->error);
    return status;
}

static bool is_known(const struct mb_comparison *comparison, const struct mb_assignment *row,
                     const struct mb_encoder *encoder, struct mb_evaluation *evaluation)
{
    return comparison->losses != NULL &&
           mb_losses_find(comparison->losses, row->mix.formats, encoder, evaluation);
}

/* Rows [first, last) whose networks fit the memory limit together: evaluated one by one, timed in
 * turns. */
static enum mb_status measure_batch(struct mb_cli *cli, struct mb_comparison *comparison,
                                    const struct mb_compare_options *options,
                                    struct mb_reference **reference, size_t first, size_t *last)
{
    enum { BATCH = 64 };
    struct mb_network *networks[BATCH + 1] = {NULL}; /* the anchor last */
    struct mb_speed speeds[BATCH + 1];
    size_t batch[BATCH], count = 0, bytes = 0;
    enum mb_status status = MB_OK;
    struct drift drift;
    size_t i = first;
    for (; i < comparison->count && count < BATCH; i++) {
        struct mb_assignment *row = &comparison->rows[i];
        if (row->measured)
            continue;
        if (count && bytes + (size_t)row->bytes > options->memory_limit_bytes)
            break;
        row->evaluation.size = sizeof row->evaluation;
        const bool known = is_known(comparison, row, comparison->encoder, &row->evaluation);
        status = create_network(cli, comparison, options, i, known ? DRAFT : EVALUATED,
                                &networks[count]);
        if (status != MB_OK)
            goto out;
        batch[count] = i;
        bytes += mb_network_bytes(networks[count]);
        if (!known)
            status = evaluate(cli, comparison, options, row, comparison->encoder, networks[count],
                              reference, &row->evaluation);
        count++;
        if (status == MB_OK)
            status = report_row(cli, (double)(i + 1), comparison->count, row->mix.name);
        if (status != MB_OK)
            goto out;
    }
    *last = i;
    if (!count)
        goto out;
    status = time_batch(cli, comparison, options, networks, count, speeds, &drift);
    for (size_t s = 0; s < count && status == MB_OK; s++) {
        comparison->rows[batch[s]].decode_drift = drift.decode;
        comparison->rows[batch[s]].prefill_drift = drift.prefill;
        comparison->rows[batch[s]].speed = speeds[s];
        comparison->rows[batch[s]].measured = 1;
        comparison->rows[batch[s]].turn = comparison->turns;
    }
out:
    for (size_t s = 0; s <= count; s++)
        if (networks[s])
            mb_network_destroy(networks[s]);
    return status;
}

enum mb_status mb_comparison_measure(struct mb_cli *cli, struct mb_comparison *comparison,
                                     const struct mb_compare_options *options)
{
    struct mb_reference *reference = NULL;
    size_t due = 0;
    for (size_t i = 0; i < comparison->count; i++)
        due += !comparison->rows[i].measured;
    if (due == 0)
        return MB_OK;
    mb_stage_begin(cli, "measuring %zu assignments", due);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < comparison->count && status == MB_OK;)
        status = measure_batch(cli, comparison, options, &reference, i, &i);
    mb_reference_destroy(reference);
    mb_stage_end(cli);
    /* They took turns: what one met, all did. */
    if (status == MB_OK && comparison->count > 0)
        mb_step_check_quiet(cli, &comparison->rows[comparison->count - 1].speed);
    return status;
}

static bool is_searched(const struct mb_assignment *row, double most_bytes)
{
    return (row->kind == MB_ROW_UNIFORM || row->kind == MB_ROW_PRESET) && row->bytes <= most_bytes;
}

static enum mb_status evaluate_search(struct mb_cli *cli, const struct mb_comparison *comparison,
                                      const struct mb_compare_options *options,
                                      struct mb_reference **reference, struct mb_assignment *row)
{
    struct mb_network *network = NULL;
    struct mb_evaluation evaluation = {.size = sizeof evaluation};
    enum mb_status status = MB_OK;
    if (!is_known(comparison, row, NULL, &evaluation)) {
        status = mb_network_create_mix(comparison->model, row->mix.formats, comparison->importance,
                                       MB_NUMERICS_KERNEL, options->threads, NULL, &network,
                                       &cli->error);
        if (status == MB_OK)
            status = evaluate(cli, comparison, options, row, NULL, network, reference, &evaluation);
    }
    if (status == MB_OK)
        row->kl_search = evaluation.kl_mean;
    mb_evaluation_free(&evaluation);
    mb_network_destroy(network);
    return status;
}

enum mb_status mb_comparison_search(struct mb_cli *cli, struct mb_comparison *comparison,
                                    const struct mb_compare_options *options, double most_bytes)
{
    struct mb_reference *reference = NULL;
    size_t due = 0;
    for (size_t i = 0; i < comparison->count && comparison->encoder != NULL; i++)
        due += is_searched(&comparison->rows[i], most_bytes);
    if (due == 0)
        return MB_OK;
    mb_stage_begin(cli, "measuring %zu of them as search rounds them", due);
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < comparison->count && status == MB_OK; i++) {
        struct mb_assignment *row = &comparison->rows[i];
        if (is_searched(row, most_bytes))
            status = evaluate_search(cli, comparison, options, &reference, row);
        if (status == MB_OK)
            status = mb_progress_report(mb_stage_progress(cli), (double)(i + 1),
                                        (double)comparison->count, row->mix.name);
    }
    mb_reference_destroy(reference);
    mb_stage_end(cli);
    return status;
}

enum mb_status mb_comparison_decode_again(struct mb_cli *cli, struct mb_comparison *comparison,
                                          const struct mb_compare_options *options,
                                          const size_t *rows, size_t count)
{
    struct mb_network **networks = calloc(count + 1, sizeof *networks);
    struct mb_speed *speeds = calloc(count + 1, sizeof *speeds);
    enum mb_status status = networks && speeds ? MB_OK : MB_ERR_MEMORY;
    double bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += comparison->rows[rows[i]].bytes;
    if (status != MB_OK || bytes > (double)options->memory_limit_bytes)
        goto out;
    mb_stage_begin(cli, "timing the %zu that are close to each other", count);
    for (size_t i = 0; i < count && status == MB_OK; i++)
        status = create_network(cli, comparison, options, rows[i], DRAFT, &networks[i]);
    for (size_t i = 0; i < count; i++)
        speeds[i] = comparison->rows[rows[i]].speed;
    if (status == MB_OK)
        status = mb_network_decode_again(networks, count, options->context, options->repeats,
                                         mb_stage_progress(cli), speeds, &cli->error);
    comparison->turns++;
    for (size_t i = 0; i < count && status == MB_OK; i++) {
        comparison->rows[rows[i]].speed = speeds[i];
        comparison->rows[rows[i]].turn = comparison->turns;
    }
    mb_stage_end(cli);
out:
    for (size_t i = 0; networks && i < count; i++)
        mb_network_destroy(networks[i]);
    free(networks);
    free(speeds);
    return status;
}

/* ---- judging
 * --------------------------------------------------------------------------------------------------
 */

static void mean_interval(const double *values, size_t count, double *mean, double *low,
                          double *high)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    *mean = count ? sum / (double)count : NAN;
    const double half = count > 1 ? mb_interval(values, count) : INFINITY;
    *low = *mean - half;
    *high = *mean + half;
}

void mb_compare_kl(const struct mb_assignment *a, const struct mb_assignment *b, double *difference,
                   double *low, double *high)
{
    const size_t windows = a->evaluation.windows;
    double *differences = malloc((windows + 1) * sizeof *differences);
    for (size_t i = 0; differences && i < windows; i++)
        differences[i] = a->evaluation.window_kl[i] - b->evaluation.window_kl[i];
    mean_interval(differences, differences ? windows : 0, difference, low, high);
    free(differences);
}

/* A speed that changes for seconds moves both rows of a pair; the median of the ratios is deaf to
 * the single rounds in which only one of them was disturbed. */
void mb_compare_decode(const struct mb_assignment *a, const struct mb_assignment *b, double *ratio,
                       double *low, double *high)
{
    const size_t rounds = a->speed.decode_round_count < b->speed.decode_round_count
                              ? a->speed.decode_round_count
                              : b->speed.decode_round_count;
    double *ratios = malloc((rounds + 1) * sizeof *ratios);
    for (size_t i = 0; ratios && i < rounds; i++)
        ratios[i] = a->speed.decode_rounds[i] / b->speed.decode_rounds[i];
    *ratio = mb_median(ratios, ratios ? rounds : 0);
    mb_median_interval(ratios, ratios ? rounds : 0, low, high);
    free(ratios);
}

bool mb_decodes_no_slower(const struct mb_assignment *a, const struct mb_assignment *b)
{
    double ratio, low, high;
    mb_compare_decode(a, b, &ratio, &low, &high);
    return low <= 1;
}

void mb_kl_interval(const struct mb_assignment *row, double *low, double *high)
{
    double mean;
    mean_interval(row->evaluation.window_kl, row->evaluation.windows, &mean, low, high);
}

const struct mb_assignment *mb_comparison_beats(const struct mb_comparison *comparison,
                                                const struct mb_assignment *plan)
{
    const struct mb_assignment *best = NULL;
    for (size_t i = 0; i < comparison->count; i++) {
        const struct mb_assignment *row = &comparison->rows[i];
        if (row == plan || !row->measured || !plan->measured ||
            (row->kind != MB_ROW_UNIFORM && row->kind != MB_ROW_PRESET))
            continue;
        double difference, low, high;
        mb_compare_kl(plan, row, &difference, &low, &high);
        if (difference <= 0 || row->bytes > plan->bytes || !mb_decodes_no_slower(row, plan))
            continue;
        /* Rows whose loss was predicted are made of candidates; they come first. */
        const bool candidate = !isnan(row->predicted[MB_QUANTITY_LOSS]);
        const bool best_candidate = best && !isnan(best->predicted[MB_QUANTITY_LOSS]);
        if (!best || (candidate && !best_candidate) ||
            (candidate == best_candidate && row->evaluation.kl_mean < best->evaluation.kl_mean))
            best = row;
    }
    return best;
}

/* ---- output
 * ---------------------------------------------------------------------------------------------------
 */

static double rate(double ns) { return ns > 0 ? 1e9 / ns : NAN; }

static int by_bytes(const void *a, const void *b)
{
    const struct mb_assignment *const *x = a, *const *y = b;
    return ((*x)->bytes > (*y)->bytes) - ((*x)->bytes < (*y)->bytes);
}

/* Row pointers in the order people read: by size. */
static const struct mb_assignment **sorted_rows(const struct mb_comparison *comparison)
{
    const struct mb_assignment **rows = malloc((comparison->count + 1) * sizeof *rows);
    if (!rows)
        return NULL;
    for (size_t i = 0; i < comparison->count; i++)
        rows[i] = &comparison->rows[i];
    qsort(rows, comparison->count, sizeof *rows, by_bytes);
    return rows;
}

/* A row beside the recommended one: loss minus its loss, decode time over its decode time, with
 * paired intervals; NaN for that row itself and where there is none. */
struct against {
    double kl, kl_low, kl_high, decode, decode_low, decode_high;
};

static struct against against_plan(const struct mb_assignment *row,
                                   const struct mb_assignment *plan)
{
    struct against a = {NAN, NAN, NAN, NAN, NAN, NAN};
    if (plan && row != plan) {
        mb_compare_kl(row, plan, &a.kl, &a.kl_low, &a.kl_high);
        if (row->turn == plan->turn) /* or no round of one lies beside one of the other */
            mb_compare_decode(row, plan, &a.decode, &a.decode_low, &a.decode_high);
    }
    return a;
}

static const struct mb_assignment *recommended(const struct mb_comparison *comparison)
{
    for (size_t i = 0; i < comparison->count; i++)
        if (comparison->rows[i].recommended)
            return &comparison->rows[i];
    return NULL;
}

struct mb_table *mb_comparison_table(const struct mb_comparison *comparison)
{
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "name", "assignment", MB_ALIGN_LEFT);
    mb_table_column(table, "kind", "kind", MB_ALIGN_LEFT);
    mb_table_column(table, "megabytes", "MB", MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_tok_s", "decode tok/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted_decode_tok_s", "predicted", MB_ALIGN_RIGHT);
    mb_table_column(table, "prefill_tok_s", "prefill tok/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted_prefill_tok_s", "predicted", MB_ALIGN_RIGHT);
    mb_table_column(table, "kl", "KL", MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted_kl", "predicted", MB_ALIGN_RIGHT);
    if (comparison->encoder != NULL)
        mb_table_column(table, "kl_search", "KL by search", MB_ALIGN_RIGHT);
    mb_table_column(table, "perplexity", "perplexity", MB_ALIGN_RIGHT);
    mb_table_column(table, "bytes", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_low", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_high", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_matmul_ns", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted_decode_matmul_ns", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "prefill_matmul_ns", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "predicted_prefill_matmul_ns", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_over_plan", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_over_plan_low", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "kl_over_plan_high", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_time_over_plan", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_time_over_plan_low", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "decode_time_over_plan_high", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "recommended", NULL, MB_ALIGN_RIGHT);
    const struct mb_assignment **rows = sorted_rows(comparison), *plan = recommended(comparison);
    for (size_t i = 0; rows && i < comparison->count; i++) {
        const struct mb_assignment *row = rows[i];
        double low, high;
        mb_kl_interval(row, &low, &high);
        mb_table_text(table, row->mix.name);
        mb_table_text(table, mb_row_kind_names[row->kind]);
        mb_table_number(table, row->bytes / 1e6, "%.3f");
        mb_table_number(table, rate(row->speed.decode_ns), "%.1f");
        mb_table_number(table, rate(row->predicted[MB_QUANTITY_DECODE]), "%.1f");
        mb_table_number(table, rate(row->speed.prefill_ns), "%.0f");
        mb_table_number(table, rate(row->predicted[MB_QUANTITY_PREFILL]), "%.0f");
        mb_table_number(table, row->evaluation.kl_mean, "%.5f");
        mb_table_number(table, row->predicted[MB_QUANTITY_LOSS], "%.5f");
        if (comparison->encoder != NULL)
            mb_table_number(table, row->kl_search, "%.5f");
        mb_table_number(table, row->evaluation.perplexity, "%.3f");
        mb_table_number(table, row->bytes, "%.0f");
        mb_table_number(table, low, "%.5f");
        mb_table_number(table, high, "%.5f");
        mb_table_number(table, row->speed.decode_matmul_ns, "%.0f");
        mb_table_number(table, row->predicted_decode_matmul_ns, "%.0f");
        mb_table_number(table, row->speed.prefill_matmul_ns, "%.0f");
        mb_table_number(table, row->predicted_prefill_matmul_ns, "%.0f");
        const struct against against = against_plan(row, plan);
        mb_table_number(table, against.kl, "%.5f");
        mb_table_number(table, against.kl_low, "%.5f");
        mb_table_number(table, against.kl_high, "%.5f");
        mb_table_number(table, against.decode, "%.3f");
        mb_table_number(table, against.decode_low, "%.3f");
        mb_table_number(table, against.decode_high, "%.3f");
        mb_table_count(table, (size_t)row->recommended);
        if (row->recommended)
            mb_table_mark(table);
    }
    free(rows);
    return table;
}

struct mb_report_row *mb_comparison_report_rows(const struct mb_comparison *comparison)
{
    const struct mb_assignment **rows = sorted_rows(comparison), *plan = recommended(comparison);
    struct mb_report_row *report = calloc(comparison->count + 1, sizeof *report);
    for (size_t i = 0; rows && report && i < comparison->count; i++) {
        const struct mb_assignment *row = rows[i];
        struct mb_report_row *out = &report[i];
        *out = (struct mb_report_row){
            .kind = row->kind,
            .bytes = row->bytes,
            .decode_ns = row->speed.decode_ns,
            .prefill_ns = row->speed.prefill_ns,
            .kl = row->evaluation.kl_mean,
            .perplexity = row->evaluation.perplexity,
            .predicted_decode_ns = row->predicted[MB_QUANTITY_DECODE],
            .predicted_prefill_ns = row->predicted[MB_QUANTITY_PREFILL],
            .predicted_kl = row->predicted[MB_QUANTITY_LOSS],
            .kl_search = row->kl_search,
            .decode_matmul_ns = row->speed.decode_matmul_ns,
            .prefill_matmul_ns = row->speed.prefill_matmul_ns,
            .predicted_decode_matmul_ns = row->predicted_decode_matmul_ns,
            .predicted_prefill_matmul_ns = row->predicted_prefill_matmul_ns,
            .recommended = row->recommended,
        };
        const struct against against = against_plan(row, plan);
        out->worse_low = against.kl_low;
        out->worse_high = against.kl_high;
        out->slower_low = against.decode_low;
        out->slower_high = against.decode_high;
        snprintf(out->name, sizeof out->name, "%s", row->mix.name);
        mb_kl_interval(row, &out->kl_low, &out->kl_high);
    }
    free(rows);
    return report;
}
