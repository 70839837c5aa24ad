/* SPDX-License-Identifier: Apache-2.0 */
/* What bench.c, bench_peers.c and bench_device.c share. */
#ifndef MIXBIT_CLI_BENCH_H
#define MIXBIT_CLI_BENCH_H

#include "cli/cli.h"
#include "dispatch/backend.h"
#include "tuner/tuner.h"

struct mb_bench_options {
    struct mb_format_list formats;
    struct mb_counts m;
    size_t n, k, threads;
    int residency;
    int activation; /* of the choices; 0: the format's own, or the profile's */
    bool peers, tuned, search;
    const char *device;
};

/* Where the weights of one matrix are to be. */
enum mb_residency mb_bench_residency(const struct mb_bench_options *options, enum mb_format format,
                                     size_t threads);

/* `bench --peers` (bench_peers.c): fill a table of its own with ours and theirs. Returns as
 * mb_match_run, after all rows were taken. */
struct mb_table *mb_bench_peers_table(void);
enum mb_status mb_bench_peers(struct mb_cli *cli, const struct mb_bench_options *options,
                              struct mb_threads *threads, const struct mb_limits *limits,
                              struct mb_table *table);

/* Rows of ours as a table: columns, to which others may be added, and their cells. */
struct mb_table *mb_bench_table(void);
void mb_bench_put(struct mb_table *table, const struct mb_bench_row *row, bool json);

/* Print what was measured, if the status (of the measuring) says that it was: the heading, which is
 * for people, and the table. Returns the status, or what printing failed with. */
enum mb_status mb_bench_present(struct mb_cli *cli, struct mb_table *table, const char *heading,
                                enum mb_status status);

/* `bench --device` (bench_device.c): all of it but the check of shapes. */
enum mb_status mb_bench_device(struct mb_cli *cli, const struct mb_bench_options *options,
                               struct mb_accelerator *accelerator);

#endif
