/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit-bench: the cases of `mixbit bench` under Google Benchmark, for its filters, repetitions,
 * JSON and compare tool. Weights, activations, copies and checks are the tuner's own, so the two
 * must agree; only the stopwatch differs.
 *
 *   mixbit-bench --shapes=bench/shapes/ci.txt --residency=memory --threads=2
 *                --benchmark_filter='q4_K.*m:1/' --benchmark_repetitions=9
 *
 * A shapes file has one matrix a line: n k m..., the rest after '#' is for people. */
#include "bench/shim.h"
#include "tuner/space.h"
#include "tuner/workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS_MOST = 16, LINE_MOST = 512 };

struct bench_case {
    enum mb_format format;
    size_t n, k, m;
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
    struct mb_arena arena;
} bench = {.device = {.size = sizeof bench.device}, .residency = MB_RESIDENCY_MEMORY};

static void *set_up(void *arg, const char **why)
{
    static struct mb_error error;
    const struct bench_case *c = arg;
    if (bench.ready == c)
        return &bench.workload;
    if (bench.ready != NULL)
        mb_workload_free(&bench.workload);
    bench.ready = NULL;
    double rms;
    int failed;
    const size_t set =
        mb_working_set_bytes(&bench.device, bench.residency, mb_threads_count(bench.threads));
    if (mb_workload_create(&bench.workload, c->format, c->n, c->k, c->m, set, bench.threads,
                           &bench.arena, &error) != MB_OK) {
        *why = error.message;
        return NULL;
    }
    bench.ready = c;
    if (mb_workload_check(&bench.workload, &rms, &failed) != MB_OK || failed) {
        *why = "wrong results";
        return NULL;
    }
    return &bench.workload;
}

static void run(void *ready, size_t iterations) { mb_workload_run(ready, iterations); }

static int add_case(enum mb_format format, size_t n, size_t k, size_t m)
{
    const char *kernel = mb_kernel_for(format, n, k, m);
    if (kernel == NULL)
        return 0; /* k does not fit the format */
    struct bench_case *c = calloc(1, sizeof *c);
    struct bench_case **grown = realloc(bench.cases, (bench.count + 1) * sizeof *grown);
    if (grown != NULL)
        bench.cases = grown;
    if (c == NULL || grown == NULL) {
        free(c);
        return 1;
    }
    bench.cases[bench.count++] = c;
    const struct mb_shape shape = {n, k};
    *c = (struct bench_case){.format = format, .n = n, .k = k, .m = m};
    c->shim = (struct shim_case){.set_up = set_up,
                                 .run = run,
                                 .arg = c,
                                 .macs = (double)m * (double)n * (double)k,
                                 .bytes = (double)n * (double)mb_format_row_bytes(format, k)};
    c->shim.bound_s = 1e-9 * mb_space_bound_ns(mb_registry_find(kernel), format, &shape, m,
                                               &bench.limits, bench.residency, NULL);
    char name[256];
    snprintf(name, sizeof name, "%s/%s/m:%zu/n:%zu/k:%zu/%s/threads:%zu", kernel,
             mb_format_info(format)->name, m, n, k, mb_residency_name(bench.residency),
             mb_threads_count(bench.threads));
    shim_register(name, &c->shim);
    return 0;
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
        for (size_t i = 2; i < count && !failed; i++)
            for (size_t f = 0; f < mb_format_count() && !failed; f++)
                failed = add_case(mb_format_at(f)->id, values[0], values[1], values[i]);
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
    if (bench.ready != NULL)
        mb_workload_free(&bench.workload);
    mb_arena_free(&bench.arena);
    mb_threads_destroy(bench.threads);
    for (size_t i = 0; i < bench.count; i++)
        free(bench.cases[i]);
    free(bench.cases);
    return status;
}
