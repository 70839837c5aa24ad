/* SPDX-License-Identifier: Apache-2.0 */
/* A match: ours and every peer that has the format, on the same weights and activations, taking
 * turns in one process.
 *
 * Every library keeps threads that poll for a while after their last product. So before each timed
 * sample all others are put to rest, and the match waits until none of their threads runs; then
 * the one whose turn it is runs untimed until its threads are awake and its weights are where they
 * belong. Samples last milliseconds, so what waking costs is not in them. */
#ifndef MIXBIT_BENCH_MATCH_H
#define MIXBIT_BENCH_MATCH_H

#include "bench/peers/peer.h"
#include "tuner/tuner.h"
#include "tuner/workload.h"

enum { MB_MATCH_PEERS = 8 };

/* The peers of this machine; those that aren't there say why. */
struct mb_match_peers {
    size_t count;
    struct mb_match_peer {
        const struct mb_peer *peer;
        bool found;
        struct mb_peer_info info;
        char why[MB_PEER_TEXT];
    } at[MB_MATCH_PEERS];
};
void mb_match_find_peers(struct mb_match_peers *peers);

struct mb_match_case {
    enum mb_format format;
    size_t n, k;
    const size_t *m; /* [m_count] rows of activations, one comparison each */
    size_t m_count;
    enum mb_residency residency;
    struct mb_arena *arena; /* of our copies; kept between matches */
};

/* One contestant at one m. Ours has peer NULL and comes first. */
struct mb_match_row {
    const struct mb_match_peer *peer;
    const char *variant;
    struct mb_bench_row bench; /* a peer's has no kernel, activation, limit or fraction */
    double ratio;              /* its time over ours: above 1, ours is faster; 1 for ours */
    bool best;                 /* of this peer's variants: the one to quote */
    bool restless;             /* others kept polling beside it: its time is too long */
    char why[MB_PEER_TEXT];    /* not empty: skipped or refused, and no figures */
};

typedef bool mb_match_taker(void *user, const struct mb_match_row *row); /* false: stop */

/**
 * Compare at every m in turn; `take_row` gets each row (m 0: for all m). A peer whose results are
 * wrong is refused, not timed. Returns as mb_bench_run: MB_ERR_VERIFY when ours is wrong or exceeds
 * its limit. Memory  as many working sets as there are contestants, at most half of the machine's
 * memory.
 */
enum mb_status mb_match_run(const struct mb_match_case *match, const struct mb_match_peers *peers,
                            struct mb_threads *threads, const struct mb_limits *limits,
                            mb_match_taker *take_row, void *user, struct mb_error *error);

/* ---- the pieces, for mixbit-bench ---- */

/* What a peer's create needs to make the same copies as the workload has. Free *blocks after it. */
enum mb_status mb_match_matrix(const struct mb_workload *workload, struct mb_peer_matrix *matrix,
                               void **blocks);

/* Bind a product to the workload's rows and judge what it computes; false: `why` it is refused. */
bool mb_match_check(const struct mb_peer *peer, void *product, struct mb_workload *workload,
                    double *error, char why[MB_PEER_TEXT]);

/* Wait until no other thread of this process runs; false when that doesn't happen in half a second,
 * or the system doesn't tell. */
bool mb_match_wait_until_quiet(void);

#endif
