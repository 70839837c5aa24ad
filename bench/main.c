/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit-bench: the cases of `mixbit bench` under Google Benchmark, for its filters, repetitions,
 * JSON and compare tool. Weights, activations, copies and checks are the tuner's own, so the two
 * must agree; only the stopwatch differs.
 *
 *   mixbit-bench --shapes=bench/shapes/ci.txt --residency=memory --threads=2
 *                --benchmark_filter='q4_K.*m:1/' --benchmark_repetitions=9
 *
 * With --peers, every peer that is found has the same cases, named <peer>_<variant>; for ratios use
 * `mixbit bench --peers`, which lets them take turns. Integer-only products are called int8 where
 * others have a format, codebook matrices cb2, cb3, cb4, cb-mixed and the like of cc. A shapes file
 * has one matrix a line: n k m..., the rest after '#' is for people. */
#include "bench/codebook.h"
#include "bench/integer.h"
#include "bench/peers/match.h"
#include "bench/shim.h"
#include "tuner/space.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS_MOST = 16, LINE_MOST = 512 };

struct bench_case {
    enum mb_format format;                /* MB_FORMAT_NONE: weights of their own */
    const struct bench_codebook_mix *mix; /* of those; NULL: integer-only */
    size_t n, k, m;
    const struct mb_peer *peer; /* NULL: ours */
    size_t variant;
    struct shim_case shim;
};

static struct {
    struct mb_threads *threads;
    struct mb_device_info device;
    struct mb_limits limits;
    enum mb_residency residency;
    struct bench_case **cases; /* pointers: registered cases must not move */
    size_t count;
    /* The case that is set up: Google Benchmark asks for the same one several times. */
    const struct bench_case *ready;
    struct mb_workload workload;
    struct bench_integer integer;
    struct bench_codebook codebook;
    struct mb_arena arena;
    struct mb_match_peers peers;
    void *product; /* of the peer's case that is set up */
} bench = {.device = {.size = sizeof bench.device}, .residency = MB_RESIDENCY_MEMORY};

static void take_down(void)
{
    if (bench.ready == NULL)
        return;
    if (bench.ready->peer != NULL) {
        if (bench.ready->peer->rest != NULL && bench.product != NULL)
            bench.ready->peer->rest(bench.product);
        bench.ready->peer->destroy(bench.product);
    }
    mb_workload_free(&bench.workload);
    bench_integer_free(&bench.integer);
    bench_codebook_free(&bench.codebook);
    bench.product = NULL;
    bench.ready = NULL;
    (void)mb_match_wait_until_quiet();
}

static bool set_up_peer(const struct bench_case *c, char why[MB_PEER_TEXT])
{
    struct mb_peer_matrix matrix;
    void *blocks;
    double rms;
    if (mb_match_matrix(&bench.workload, &matrix, &blocks) == MB_OK)
        bench.product = c->peer->create(c->variant, &matrix, why);
    else
        (void)mb_peer_refuse(why, "out of memory");
    free(blocks);
    return bench.product != NULL &&
           mb_match_check(c->peer, bench.product, &bench.workload, &rms, why);
}

static const char *set_up_own(const struct bench_case *c, size_t set)
{
    const enum mb_status status =
        c->mix != NULL
            ? bench_codebook_create(&bench.codebook, c->mix, c->n, c->k, c->m, set, bench.threads)
            : bench_integer_create(&bench.integer, c->n, c->k, c->m, set, bench.threads);
    return status == MB_OK ? NULL : mb_status_string(status);
}

static void *set_up(void *arg, const char **why)
{
    static struct mb_error error;
    static char refused[MB_PEER_TEXT];
    struct bench_case *c = arg;
    if (bench.ready == c)
        return c;
    take_down();
    double rms;
    int failed;
    const size_t set =
        mb_working_set_bytes(&bench.device, bench.residency, mb_threads_count(bench.threads));
    if (c->format == MB_FORMAT_NONE) {
        *why = set_up_own(c, set);
        bench.ready = *why == NULL ? c : NULL;
        return *why == NULL ? c : NULL;
    }
    if (mb_workload_create(&bench.workload, c->format, c->n, c->k, c->m, set, bench.threads,
                           &bench.arena, &error) != MB_OK) {
        *why = error.message;
        return NULL;
    }
    bench.ready = c;
    if (c->peer != NULL && set_up_peer(c, refused))
        return c;
    if (c->peer == NULL && mb_workload_check(&bench.workload, &rms, &failed) == MB_OK && !failed)
        return c;
    *why = c->peer != NULL ? refused : "wrong results";
    take_down();
    return NULL;
}

static void run(void *ready, size_t iterations)
{
    const struct bench_case *c = ready;
    if (c->mix != NULL)
        bench_codebook_run(&bench.codebook, iterations);
    else if (c->format == MB_FORMAT_NONE)
        bench_integer_run(&bench.integer, iterations);
    else if (c->peer == NULL)
        mb_workload_run(&bench.workload, iterations);
    for (size_t i = 0; i < iterations && c->peer != NULL; i++)
        (void)c->peer->run(bench.product);
}

/* A case of n x k weights of `bytes`; NULL when out of memory. */
static struct bench_case *new_case(enum mb_format format, size_t n, size_t k, size_t m,
                                   size_t bytes)
{
    struct bench_case *c = calloc(1, sizeof *c);
    struct bench_case **grown = realloc(bench.cases, (bench.count + 1) * sizeof *grown);
    if (grown != NULL)
        bench.cases = grown;
    if (c == NULL || grown == NULL) {
        free(c);
        return NULL;
    }
    bench.cases[bench.count++] = c;
    *c = (struct bench_case){.format = format, .n = n, .k = k, .m = m};
    c->shim = (struct shim_case){.set_up = set_up,
                                 .run = run,
                                 .arg = c,
                                 .macs = (double)m * (double)n * (double)k,
                                 .bytes = (double)bytes};
    return c;
}

static void name_case(struct bench_case *c, const char *by, const char *weights)
{
    char name[256];
    snprintf(name, sizeof name, "%s/%s/m:%zu/n:%zu/k:%zu/%s/threads:%zu", by, weights, c->m, c->n,
             c->k, mb_residency_name(bench.residency), mb_threads_count(bench.threads));
    shim_register(name, &c->shim);
}

static int add_integer(size_t n, size_t k, size_t m)
{
    struct bench_case *c = new_case(MB_FORMAT_NONE, n, k, m, n * k);
    if (c != NULL)
        name_case(c, mb_integer_kernel(), "int8");
    return c == NULL;
}

/* All mixes. */
static int add_codebooks(size_t n, size_t k, size_t m)
{
    const struct bench_codebook_mix *mix;
    for (size_t i = 0; (mix = bench_codebook_mix(i)) != NULL; i++) {
        size_t bytes;
        if (bench_codebook_bytes(mix, n, k, &bytes) != MB_OK)
            return 1;
        struct bench_case *c = new_case(MB_FORMAT_NONE, n, k, m, bytes);
        if (c == NULL)
            return 1;
        c->mix = mix;
        name_case(c, mb_codebook_kernel(), mix->name);
    }
    return 0;
}

static int add_case(enum mb_format format, size_t n, size_t k, size_t m, const struct mb_peer *peer,
                    size_t variant)
{
    const char *kernel = mb_kernel_for(format, n, k, m);
    if (kernel == NULL)
        return 0; /* k does not fit the format */
    struct bench_case *c = new_case(format, n, k, m, n * mb_format_row_bytes(format, k));
    if (c == NULL)
        return 1;
    const struct mb_shape shape = {n, k};
    c->peer = peer;
    c->variant = variant;
    if (peer == NULL)
        c->shim.bound_s = 1e-9 * mb_space_bound_ns(mb_registry_find(kernel), format, &shape, m,
                                                   &bench.limits, bench.residency, NULL);
    char by[64];
    if (peer != NULL)
        snprintf(by, sizeof by, "%s_%s", peer->name, peer->variant_names[variant]);
    name_case(c, peer != NULL ? by : kernel, mb_format_info(format)->name);
    return 0;
}

/* Ours, then every peer's variants. */
static int add_cases(enum mb_format format, size_t n, size_t k, size_t m)
{
    int failed = add_case(format, n, k, m, NULL, 0);
    for (size_t i = 0; i < bench.peers.count; i++) {
        const struct mb_match_peer *at = &bench.peers.at[i];
        for (size_t v = 0; v < at->peer->variants && at->found && !failed; v++)
            failed = at->peer->has(format) && add_case(format, n, k, m, at->peer, v);
    }
    return failed;
}

static void find_peers(void)
{
    mb_match_find_peers(&bench.peers);
    for (size_t i = 0; i < bench.peers.count; i++) {
        const struct mb_match_peer *at = &bench.peers.at[i];
        if (at->found)
            fprintf(stderr, "%s %s: %s\n  %s\n", at->peer->name, at->info.version, at->info.path,
                    at->info.system);
        else
            fprintf(stderr, "%s skipped: %s\n", at->peer->name, at->why);
    }
}

/* "n k m..." into numbers; 0 when the line holds none. */
static size_t parse_line(char *line, size_t values[2 + MS_MOST])
{
    size_t count = 0;
    line[strcspn(line, "#\n")] = '\0';
    for (char *at = line, *end; count < 2 + MS_MOST; at = end) {
        values[count] = strtoull(at, &end, 10);
        if (end == at)
            break;
        count++;
    }
    return count;
}

static int add_shapes(const char *path)
{
    char line[LINE_MOST];
    size_t values[2 + MS_MOST], number = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "mixbit-bench: cannot open '%s'; name a file with --shapes=\n", path);
        return 1;
    }
    int failed = 0;
    while (!failed && fgets(line, sizeof line, file) != NULL) {
        const size_t count = parse_line(line, values);
        number++;
        if (count == 0 && line[strspn(line, " \t")] == '\0')
            continue;
        if (count < 3 || values[0] == 0 || values[1] == 0 || values[2] == 0) {
            fprintf(stderr, "mixbit-bench: %s:%zu: expected 'n k m...'\n", path, number);
            failed = 1;
        }
        for (size_t i = 2; i < count && !failed; i++) {
            failed = add_integer(values[0], values[1], values[i]) ||
                     add_codebooks(values[0], values[1], values[i]);
            for (size_t f = 0; f < mb_format_count() && !failed; f++)
                failed = add_cases(mb_format_at(f)->id, values[0], values[1], values[i]);
        }
    }
    fclose(file);
    return failed;
}

/* The value of --name=value, or NULL. */
static const char *flag(int argc, char **argv, const char *name)
{
    const size_t length = strlen(name);
    const char *value = NULL;
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            value = argv[i] + length + 1;
    return value;
}

static int find_residency(const char *name)
{
    for (size_t r = 0; r < MB_RESIDENCY_COUNT; r++)
        if (strcmp(name, mb_residency_name((enum mb_residency)r)) == 0) {
            bench.residency = (enum mb_residency)r;
            return 1;
        }
    return 0;
}

int main(int argc, char **argv)
{
    shim_initialize(&argc, argv);
    const char *shapes = flag(argc, argv, "--shapes");
    const char *threads = flag(argc, argv, "--threads");
    const char *residency = flag(argc, argv, "--residency");
    int status = 1;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--peers") == 0)
            find_peers();
    if (residency != NULL && !find_residency(residency))
        fprintf(stderr, "mixbit-bench: no residency '%s'; there are L2, L3 and memory\n",
                residency);
    else if (mb_device_info(&bench.device) != MB_OK ||
             mb_threads_create(threads != NULL ? strtoul(threads, NULL, 10) : 0, &bench.threads) !=
                 MB_OK ||
             mb_limits_measure(bench.threads, 0, NULL, &bench.limits) != MB_OK)
        fprintf(stderr, "mixbit-bench: cannot set up threads or measure limits\n");
    else if (!add_shapes(shapes != NULL ? shapes : MIXBIT_SHAPES "/smoke.txt"))
        status = shim_run();
    take_down();
    mb_arena_free(&bench.arena);
    mb_threads_destroy(bench.threads);
    for (size_t i = 0; i < bench.count; i++)
        free(bench.cases[i]);
    free(bench.cases);
    return status;
}
