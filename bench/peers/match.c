/* SPDX-License-Identifier: Apache-2.0 */
/* See match.h. */
#include "bench/peers/match.h"
#include "support/support.h"
#include "tuner/measure.h"
#include "tuner/workload.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PLAYERS_MOST = 1 + MB_MATCH_PEERS * MB_PEER_VARIANTS };

static const double sample_ns = 5e6, effort_ns = 100e6;
static const size_t samples_most = 24;

/* Activations in int8 cost some percent, in f16 less; a peer beyond this computes something else.
 */
static const double peer_error_most = 0.05;

enum { QUIET_STEP_NS = 500000, QUIET_STEPS = 1000 };

void mb_match_find_peers(struct mb_match_peers *peers)
{
    *peers = (struct mb_match_peers){0};
    for (size_t i = 0; mb_peers[i] != NULL && i < MB_MATCH_PEERS; i++) {
        struct mb_match_peer *at = &peers->at[peers->count++];
        at->peer = mb_peers[i];
        at->found = at->peer->open(&at->info, at->why);
    }
}

struct player {
    struct match *match;
    const struct mb_match_peer *peer; /* NULL: ours */
    size_t variant;
    void *product; /* NULL: not taking part at this m */
    bool failed;
    struct mb_match_row row;
};

struct match {
    const struct mb_match_case *asked;
    struct mb_workload workload;
    size_t warm_products;
    size_t count;
    struct player players[PLAYERS_MOST];
};

/* ---- turns ---- */

/* State of a thread ("R": it has or wants a processor) from /proc/self/task/<name>/stat, whose
 * third field follows the last ')'; 0: it has ended. */
static char state_of(const char *name)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/task/%.20s/stat", name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    const size_t length = fread(line, 1, sizeof line - 1, file);
    (void)fclose(file);
    line[length] = '\0';
    const char *name_end = strrchr(line, ')');
    return name_end != NULL && name_end[1] == ' ' ? name_end[2] : 0;
}

/* Threads of this process that run, the caller included; SIZE_MAX when the system doesn't tell. The
 * processor time of a process would not do: other threads' shares are only added at ticks. */
static size_t count_running(void)
{
    size_t count = 0;
    DIR *threads = opendir("/proc/self/task");
    if (threads == NULL)
        return SIZE_MAX;
    for (struct dirent *entry; (entry = readdir(threads)) != NULL;)
        count += entry->d_name[0] != '.' && state_of(entry->d_name) == 'R';
    (void)closedir(threads);
    return count;
}

bool mb_match_wait_until_quiet(void)
{
    const struct timespec step = {.tv_nsec = QUIET_STEP_NS};
    for (size_t i = 0; i < QUIET_STEPS; i++) {
        if (count_running() <= 1)
            return true;
        (void)nanosleep(&step, NULL);
    }
    return false;
}

static void run_player(void *arg, size_t iterations)
{
    struct player *player = arg;
    if (player->peer == NULL) {
        mb_workload_run(&player->match->workload, iterations);
        return;
    }
    for (size_t i = 0; i < iterations; i++)
        player->failed = !player->peer->peer->run(player->product) || player->failed;
}

static void enter(void *arg)
{
    struct player *player = arg;
    const struct match *match = player->match;
    for (size_t i = 0; i < match->count; i++) {
        const struct player *other = &match->players[i];
        if (other != player && other->product != NULL && other->peer->peer->rest != NULL)
            other->peer->peer->rest(other->product);
    }
    if (!mb_match_wait_until_quiet())
        player->row.restless = true;
    run_player(player, match->warm_products);
}

/* ---- setting up ---- */

enum mb_status mb_match_matrix(const struct mb_workload *workload, struct mb_peer_matrix *matrix,
                               void **blocks)
{
    const struct mb_workload *w = workload;
    *blocks = malloc(w->n * mb_format_row_bytes(w->format, w->k));
    *matrix = (struct mb_peer_matrix){.format = w->format,
                                      .n = w->n,
                                      .k = w->k,
                                      .copies = w->copies,
                                      .threads = mb_threads_count(w->threads),
                                      .blocks = *blocks};
    return *blocks == NULL ? MB_ERR_MEMORY : mb_unpack_rows(&w->weights, 0, w->n, *blocks);
}

static bool join(struct match *match, const struct mb_match_peer *peer, size_t variant,
                 const struct mb_peer_matrix *matrix, char why[MB_PEER_TEXT])
{
    void *product = peer->peer->create(variant, matrix, why);
    if (product == NULL)
        return false;
    match->players[match->count++] =
        (struct player){.match = match, .peer = peer, .variant = variant, .product = product};
    return true;
}

static struct mb_match_row row_of(const struct match *match, const struct mb_match_peer *peer,
                                  size_t variant, size_t m)
{
    const struct mb_match_case *asked = match->asked;
    return (struct mb_match_row){.peer = peer,
                                 .variant =
                                     peer != NULL ? peer->peer->variant_names[variant] : NULL,
                                 .ratio = NAN,
                                 .bench = {.format = asked->format,
                                           .m = m,
                                           .n = asked->n,
                                           .k = asked->k,
                                           .threads = mb_threads_count(match->workload.threads),
                                           .residency = asked->residency,
                                           .activation = mb_matmul_activation(asked->format)}};
}

/* Every variant of every peer that has the format; a peer with none gives one row that says why. */
static enum mb_status invite(struct match *match, const struct mb_match_peers *peers,
                             mb_match_taker *take_row, void *user)
{
    const struct mb_match_case *asked = match->asked;
    struct mb_peer_matrix matrix;
    void *blocks;
    enum mb_status status = mb_match_matrix(&match->workload, &matrix, &blocks);
    for (size_t i = 0; i < peers->count && status == MB_OK; i++) {
        const struct mb_match_peer *peer = &peers->at[i];
        const size_t before = match->count;
        struct mb_match_row row = row_of(match, peer, 0, 0);
        if (!peer->found || !peer->peer->has(asked->format))
            continue;
        for (size_t v = 0; v < peer->peer->variants; v++)
            (void)join(match, peer, v, &matrix, row.why);
        row.variant = NULL;
        if (match->count == before && !take_row(user, &row))
            status = MB_ERR_INTERRUPTED;
    }
    free(blocks);
    return status;
}

/* ---- one m ---- */

bool mb_match_check(const struct mb_peer *peer, void *product, struct mb_workload *workload,
                    double *error, char why[MB_PEER_TEXT])
{
    struct mb_workload *w = workload;
    double worst;
    memset(w->y, 0xff, w->m * w->n * sizeof *w->y);
    if (!peer->bind(product, w->x, w->m, w->y, why))
        return false;
    if (!peer->run(product))
        return mb_peer_refuse(why, "refused: it reports a failure");
    mb_workload_compare(w, w->y, error, &worst);
    return *error <= peer_error_most ||
           mb_peer_refuse(why, "refused: wrong results, relative error %.2g", *error);
}

static void fill_times(struct mb_bench_row *bench, const struct mb_measurement *result)
{
    const double row_bytes = (double)mb_format_row_bytes(bench->format, bench->k);
    bench->median_ns = result->median_ns;
    bench->mad_ns = result->mad_ns;
    bench->min_ns = result->min_ns;
    bench->gmacs = (double)bench->m * (double)bench->n * (double)bench->k / bench->median_ns;
    bench->weight_gbps = (double)bench->n * row_bytes / bench->median_ns;
}

static enum mb_status measure_in_turns(struct match *match)
{
    struct mb_timed timed[PLAYERS_MOST];
    struct mb_measurement results[PLAYERS_MOST];
    struct player *playing[PLAYERS_MOST];
    const struct mb_measure_options options = {.sample_ns = sample_ns,
                                               .budget_ns = effort_ns,
                                               .samples_max = samples_most,
                                               .enter = enter};
    size_t count = 0;
    for (size_t i = 0; i < match->count; i++)
        if (match->players[i].row.why[0] == '\0') {
            playing[count] = &match->players[i];
            timed[count++] = (struct mb_timed){.run = run_player, .arg = &match->players[i]};
        }
    const enum mb_status status = mb_measure(timed, count, &options, results);
    if (status != MB_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        fill_times(&playing[i]->row.bench, &results[i]);
        playing[i]->row.ratio =
            playing[i]->row.bench.median_ns / match->players[0].row.bench.median_ns;
        if (playing[i]->failed)
            (void)mb_peer_refuse(playing[i]->row.why, "refused: it reports a failure");
    }
    return match->workload.status;
}

/* The faster variant of each peer is quoted; a peer without figures is quoted once. */
static void mark_best(struct match *match)
{
    for (size_t i = 0; i < match->count; i++) {
        struct player *player = &match->players[i];
        player->row.best = true;
        for (size_t j = 0; j < match->count; j++) {
            const struct mb_match_row *other = &match->players[j].row;
            if (j == i || other->peer != player->peer)
                continue;
            const bool has_figures = player->row.why[0] == '\0', beaten = other->why[0] == '\0';
            if ((beaten && (!has_figures || other->ratio < player->row.ratio)) ||
                (!beaten && !has_figures && j < i))
                player->row.best = false;
        }
    }
}

static enum mb_status play(struct match *match, size_t m, const struct mb_limits *limits,
                           struct mb_error *error)
{
    struct mb_workload *w = &match->workload;
    w->m = m;
    for (size_t i = 0; i < match->count; i++)
        match->players[i].row = row_of(match, match->players[i].peer, match->players[i].variant, m);
    struct mb_bench_row *ours = &match->players[0].row.bench;
    snprintf(ours->kernel, sizeof ours->kernel, "%s", mb_kernel_for(w->format, w->n, w->k, m));
    enum mb_status status = mb_workload_check(w, &ours->error, &ours->failed);
    for (size_t i = 1; i < match->count && status == MB_OK; i++)
        (void)mb_match_check(match->players[i].peer->peer, match->players[i].product, w,
                             &match->players[i].row.bench.error, match->players[i].row.why);
    if (status == MB_OK)
        status = measure_in_turns(match);
    if (status != MB_OK)
        return mb_error_set(error, status, -1, "cannot measure %s at m %zu: %s",
                            mb_format_info(w->format)->name, m, mb_status_string(status));
    mark_best(match);
    if (ours->failed)
        return mb_error_set(error, MB_ERR_VERIFY, -1,
                            "%s gives wrong results for %s at m %zu: relative error %.2g",
                            ours->kernel, mb_format_info(w->format)->name, m, ours->error);
    /* A second look times ours alone; the comparison keeps the figure taken in turns. */
    struct mb_bench_row looked_at = *ours;
    status = mb_workload_judge(w, limits, 0, &(struct mb_beside){0}, &looked_at, error);
    ours->limit = looked_at.limit;
    ours->fraction = looked_at.fraction;
    return status;
}

/* Every m in turn. What contradicts a limit is kept for the end, so that all rows are seen. */
static enum mb_status play_all(struct match *match, const struct mb_limits *limits,
                               mb_match_taker *take_row, void *user, struct mb_error *error)
{
    struct mb_error first = {0};
    for (size_t i = 0; i < match->asked->m_count; i++) {
        struct mb_error own = {0};
        const enum mb_status status = play(match, match->asked->m[i], limits, &own);
        if (status != MB_OK && status != MB_ERR_VERIFY) {
            *error = own;
            return status;
        }
        first = first.status == MB_OK ? own : first;
        for (size_t j = 0; j < match->count; j++)
            if (!take_row(user, &match->players[j].row))
                return mb_error_set(error, MB_ERR_INTERRUPTED, -1, "stopped");
    }
    if (first.status != MB_OK)
        *error = first;
    return first.status;
}

/* Bytes that each contestant's copies take. */
static size_t share_of_memory(const struct mb_match_case *asked, const struct mb_match_peers *peers,
                              size_t threads)
{
    struct mb_device_info device = {.size = sizeof device};
    size_t contestants = 1;
    (void)mb_device_info(&device);
    for (size_t i = 0; i < peers->count; i++)
        if (peers->at[i].found && peers->at[i].peer->has(asked->format))
            contestants += peers->at[i].peer->variants;
    const size_t set = mb_working_set_bytes(&device, asked->residency, threads);
    const size_t most = device.memory_bytes / 2 / contestants;
    return most > 0 && set > most ? most : set;
}

enum mb_status mb_match_run(const struct mb_match_case *asked, const struct mb_match_peers *peers,
                            struct mb_threads *threads, const struct mb_limits *limits,
                            mb_match_taker *take_row, void *user, struct mb_error *error)
{
    size_t m_most = 0;
    for (size_t i = 0; i < asked->m_count; i++)
        m_most = asked->m[i] > m_most ? asked->m[i] : m_most;
    struct match *match = calloc(1, sizeof *match);
    if (match == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory");
    match->asked = asked;
    match->count = 1;
    match->players[0].match = match;
    enum mb_status status = mb_select_environment(error);
    if (status == MB_OK)
        status = mb_workload_create(&match->workload, asked->format, asked->n, asked->k, m_most,
                                    share_of_memory(asked, peers, mb_threads_count(threads)),
                                    threads, asked->arena, error);
    if (status != MB_OK)
        goto out;
    match->warm_products = asked->residency == MB_RESIDENCY_MEMORY ? 2 : match->workload.copies;
    status = invite(match, peers, take_row, user);
    if (status == MB_OK)
        status = play_all(match, limits, take_row, user, error);
    else
        (void)mb_error_set(error, status, -1, "cannot set up the peers: %s",
                           mb_status_string(status));
    for (size_t i = 1; i < match->count; i++)
        match->players[i].peer->peer->destroy(match->players[i].product);
    mb_workload_free(&match->workload);
out:
    free(match);
    return status;
}
