/* SPDX-License-Identifier: Apache-2.0 */
/* bench --device: a device's kernels by its own clock against how fast it reads memory, and beside
 * it what a host waits for. */
#include "cli/bench.h"
#include "cli/steps.h"
#include "tuner/accelerator.h"

#include <math.h>

static void put(struct mb_table *table, const struct mb_accelerator_row *row, bool json)
{
    mb_bench_put(table, &row->bench, json);
    mb_table_count(table, row->split);
    mb_table_count(table, row->kernels);
    mb_table_number(table,
                    row->read_ns <= 0 ? NAN
                    : json            ? row->read_ns
                                      : row->read_ns / 1e3,
                    "%.1f");
    mb_table_number(table, json ? row->queued_ns : row->queued_ns / 1e3, "%.1f");
    mb_table_number(table, json ? row->call_ns : row->call_ns / 1e3, "%.1f");
}

/* A wrong kernel fails the run, but only after all rows were printed. */
static enum mb_status measure(struct mb_cli *cli, const struct mb_bench_options *options,
                              struct mb_accelerator *accelerator, double read_gbps,
                              struct mb_table *table)
{
    const double total = (double)(options->formats.count * options->m.count);
    struct mb_arena arena = {NULL, 0};
    struct mb_error first = {0};
    enum mb_status status = MB_OK;
    double done = 0;
    for (size_t f = 0; f < options->formats.count && status == MB_OK; f++)
        for (size_t i = 0; i < options->m.count && status == MB_OK; i++, done++) {
            const struct mb_bench_case bench = {.format = options->formats.at[f],
                                                .n = options->n,
                                                .k = options->k,
                                                .m = options->m.at[i],
                                                .arena = &arena};
            const char *name = mb_format_info(bench.format)->name;
            struct mb_accelerator_row row = {0};
            if (mb_progress_report(mb_stage_progress(cli), done, total, name) != MB_OK) {
                status = mb_error_set(&cli->error, MB_ERR_INTERRUPTED, -1, "stopped");
                break;
            }
            struct mb_error error = {0};
            status =
                mb_accelerator_bench(accelerator, &bench, options->search, read_gbps, &row, &error);
            if (status == MB_ERR_VERIFY) {
                mb_warn(cli, "%s", error.message);
                first = first.status == MB_OK ? error : first;
                status = MB_OK;
            } else if (status != MB_OK) {
                cli->error = error;
                break;
            }
            put(table, &row, cli->common.json);
        }
    mb_arena_free(&arena);
    if (status != MB_OK)
        return status;
    cli->error = first;
    return first.status;
}

enum mb_status mb_bench_device(struct mb_cli *cli, const struct mb_bench_options *options,
                               struct mb_accelerator *accelerator)
{
    struct mb_table *table = mb_bench_table();
    double read_gbps = 0;
    char heading[320], limit[64] = "";
    mb_table_column(table, "split", "split", MB_ALIGN_RIGHT);
    mb_table_column(table, "kernels", NULL, MB_ALIGN_RIGHT);
    mb_table_column(table, "read_ns", "us to read as much", MB_ALIGN_RIGHT);
    mb_table_column(table, "queued_ns", "us queued", MB_ALIGN_RIGHT);
    mb_table_column(table, "call_ns", "us for the host", MB_ALIGN_RIGHT);
    mb_stage_begin(cli, "measuring how fast %s reads memory", accelerator->info.name);
    enum mb_status status = mb_accelerator_read_gbps(accelerator, 0, &read_gbps, &cli->error);
    mb_stage_end(cli);
    if (read_gbps > 0)
        (void)snprintf(limit, sizeof limit, "\nit reads its memory at %.1f GB/s", read_gbps);
    if (status == MB_OK) {
        mb_stage_begin(cli, "timing %zu formats", options->formats.count);
        status = measure(cli, options, accelerator, read_gbps, table);
        mb_stage_end(cli);
    }
    (void)snprintf(heading, sizeof heading,
                   "%s, n %zu, k %zu; y = x * w, x has m rows; times are the device's own, error "
                   "is against f64%s",
                   accelerator->info.name, options->n, options->k, limit);
    status = mb_bench_present(cli, table, heading, status);
    mb_table_free(table);
    return status;
}
