/* SPDX-License-Identifier: Apache-2.0 */
/* bench --peers: ours and theirs in one table, each row of theirs with the ratio of times, and at
 * the end the geometric mean of the ratios per m. The text quotes the better variant of a peer; the
 * JSON holds every variant. */
#include "bench/peers/match.h"
#include "cli/bench.h"
#include "cli/steps.h"

#include <math.h>

struct mb_table *mb_bench_peers_table(void)
{
    struct mb_table *table = mb_table_create();
    mb_table_column(table, "format", "format", MB_ALIGN_LEFT);
    mb_table_column(table, "m", "m", MB_ALIGN_RIGHT);
    mb_table_column(table, "n", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "k", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "threads", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "residency", "in", MB_ALIGN_LEFT);
    mb_table_column(table, "peer", "by", MB_ALIGN_LEFT);
    mb_table_column(table, "peer_version", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "median_ns", "us", MB_ALIGN_RIGHT);
    mb_table_column(table, "mad_ns", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "gmacs", "GMAC/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "weight_gbps", "GB/s", MB_ALIGN_RIGHT);
    mb_table_column(table, "limit", "limit", MB_ALIGN_LEFT);
    mb_table_column(table, "fraction", "of it", MB_ALIGN_RIGHT);
    mb_table_column(table, "error", "error", MB_ALIGN_RIGHT);
    mb_table_column(table, "ratio", "ours faster by", MB_ALIGN_RIGHT);
    mb_table_column(table, "kernel", "kernel, variant", MB_ALIGN_LEFT);
    mb_table_column(table, "activation", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "quoted", NULL, MB_ALIGN_LEFT);
    mb_table_column(table, "skipped", NULL, MB_ALIGN_LEFT);
    return table;
}

/* Logarithms of the ratios of one peer at one m. */
struct mean {
    double sum;
    size_t count;
};

struct taking {
    struct mb_cli *cli;
    const struct mb_bench_options *options;
    struct mb_table *table;
    const struct mb_match_peers *peers;
    struct mean means[MB_MATCH_PEERS][MB_LIST_LENGTH];
    double done, total;
    bool restless;
};

/* A count that may be unknown. */
static void put_count(struct mb_table *table, size_t count)
{
    if (count > 0)
        mb_table_count(table, count);
    else
        mb_table_none(table);
}

static void put_text(struct mb_table *table, const char *text)
{
    if (text != NULL && text[0] != '\0')
        mb_table_text(table, text);
    else
        mb_table_none(table);
}

/* Text and JSON differ in units, and in where a reason is: people find it where the variant is. */
static void put_row(struct taking *taking, const char *format, const struct mb_match_row *row)
{
    struct mb_table *table = taking->table;
    const struct mb_bench_row *bench = &row->bench;
    const bool json = taking->cli->common.json, ours = row->peer == NULL;
    const bool limited = ours && bench->fraction > 0;
    char text[MB_PEER_TEXT + 16];
    snprintf(text, sizeof text, "skipped: %s", row->why);
    put_text(table, format);
    put_count(table, bench->m);
    put_count(table, bench->n);
    put_count(table, bench->k);
    put_count(table, bench->threads);
    put_text(table, bench->n > 0 ? mb_residency_name(bench->residency) : NULL);
    put_text(table, ours ? "mixbit" : row->peer->peer->name);
    put_text(table, ours ? MIXBIT_VERSION : row->peer->info.version);
    const double none = bench->median_ns > 0 && row->why[0] == '\0' ? 1 : NAN;
    mb_table_number(table, none * (json ? bench->median_ns : bench->median_ns / 1e3), "%.1f");
    mb_table_number(table, none * bench->mad_ns, "%.1f");
    mb_table_number(table, none * bench->gmacs, "%.1f");
    mb_table_number(table, none * bench->weight_gbps, "%.2f");
    put_text(table, limited ? mb_limit_name(bench->limit) : NULL);
    mb_table_number(table, limited ? (json ? 1 : 100) * bench->fraction : NAN, "%.0f %%");
    mb_table_number(table, none * bench->error, "%.5f");
    mb_table_number(table, ours ? NAN : row->ratio, "%.2f");
    put_text(table, row->why[0] != '\0' ? (json ? NULL : text)
                    : ours              ? bench->kernel
                                        : row->variant);
    put_text(table,
             ours && bench->kernel[0] != '\0' ? mb_activation_name(bench->activation) : NULL);
    put_text(table, row->best ? "yes" : "no");
    put_text(table, row->why);
}

static bool take_row(void *user, const struct mb_match_row *row)
{
    struct taking *taking = user;
    const struct mb_format_info *info = mb_format_info(row->bench.format);
    struct mb_cli *cli = taking->cli;
    taking->restless = taking->restless || row->restless;
    if (row->best || cli->common.json || row->why[0] != '\0')
        put_row(taking, info->name, row);
    if (row->best && row->peer != NULL && row->why[0] == '\0')
        for (size_t i = 0; i < taking->options->m.count; i++)
            if (taking->options->m.at[i] == row->bench.m) {
                struct mean *mean = &taking->means[row->peer - taking->peers->at][i];
                mean->sum += log(row->ratio);
                mean->count++;
            }
    if (row->peer == NULL)
        taking->done++;
    return mb_progress_report(mb_stage_progress(cli), taking->done, taking->total, info->name) ==
           MB_OK;
}

/* What was found: to people on stdout above the table, in JSON a row for each that is missing. */
static void present_peers(struct taking *taking)
{
    for (size_t i = 0; i < taking->peers->count; i++) {
        const struct mb_match_peer *at = &taking->peers->at[i];
        if (!at->found) {
            struct mb_match_row row = {.peer = at, .ratio = NAN};
            snprintf(row.why, sizeof row.why, "%s", at->why);
            put_row(taking, NULL, &row);
            continue;
        }
        if (taking->cli->common.json)
            continue;
        (void)printf("%s %s: %s\n  %s\n", at->peer->name, at->info.version, at->info.path,
                     at->info.system);
        if (at->peer->note != NULL)
            (void)printf("  %s\n", at->peer->note);
    }
}

static void put_means(struct taking *taking)
{
    for (size_t p = 0; p < taking->peers->count; p++)
        for (size_t i = 0; i < taking->options->m.count; i++) {
            const struct mean *mean = &taking->means[p][i];
            char text[64];
            if (mean->count == 0)
                continue;
            snprintf(text, sizeof text, "%zu formats", mean->count);
            const struct mb_match_row row = {.peer = &taking->peers->at[p],
                                             .variant = text,
                                             .bench = {.m = taking->options->m.at[i]},
                                             .ratio = exp(mean->sum / (double)mean->count),
                                             .best = true};
            put_row(taking, "geometric mean", &row);
        }
}

enum mb_status mb_bench_peers(struct mb_cli *cli, const struct mb_bench_options *options,
                              struct mb_threads *threads, const struct mb_limits *limits,
                              struct mb_table *table)
{
    static struct mb_match_peers peers;
    struct taking taking = {.cli = cli,
                            .options = options,
                            .table = table,
                            .peers = &peers,
                            .total = (double)(options->formats.count * options->m.count)};
    struct mb_arena arena = {NULL, 0};
    struct mb_error first = {0};
    enum mb_status status = MB_OK;
    mb_match_find_peers(&peers);
    present_peers(&taking);
    for (size_t f = 0; f < options->formats.count && status != MB_ERR_INTERRUPTED; f++) {
        const enum mb_format format = options->formats.at[f];
        const struct mb_match_case match = {
            .format = format,
            .n = options->n,
            .k = options->k,
            .m = options->m.at,
            .m_count = options->m.count,
            .residency = mb_bench_residency(options, format, mb_threads_count(threads)),
            .arena = &arena};
        struct mb_error error = {0};
        status = mb_match_run(&match, &peers, threads, limits, take_row, &taking, &error);
        if (status == MB_ERR_VERIFY)
            mb_warn(cli, "%s", error.message);
        first = first.status == MB_OK && status != MB_OK ? error : first;
        if (status != MB_OK && status != MB_ERR_VERIFY)
            break;
    }
    if (taking.restless)
        mb_warn(cli, "a library's threads kept polling while another was timed: the ratios are not "
                     "to be trusted (OMP_WAIT_POLICY=active?)");
    put_means(&taking);
    mb_arena_free(&arena);
    cli->error = first;
    return first.status;
}
