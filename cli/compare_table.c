/* SPDX-License-Identifier: Apache-2.0 */
/* A comparison as people read it: rows by size, each beside the recommended one. */
#include "cli/compare.h"

#include <math.h>
#include <stdlib.h>

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
