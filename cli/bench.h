/* SPDX-License-Identifier: Apache-2.0 */
/* What bench.c and bench_peers.c share. */
#ifndef MIXBIT_CLI_BENCH_H
#define MIXBIT_CLI_BENCH_H

#include "cli/cli.h"
#include "tuner/tuner.h"

struct mb_bench_options {
    struct mb_format_list formats;
    struct mb_counts m;
    size_t n, k, threads;
    int residency;
    int activation; /* of the choices; 0: the format's own, or the profile's */
    bool peers, tuned;
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

#endif
