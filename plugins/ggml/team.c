/* SPDX-License-Identifier: Apache-2.0 */
/* One team of threads for the host's operations and for ours.
 *
 * In a graph the host's operations and these products take turns, every few microseconds when one
 * token is generated. Threads that have just finished a region wait for the next one by spinning: a
 * second pool would find the cores taken by spinners of the first, and the other way round. ggml is
 * usually built with OpenMP, whose runtime keeps one team per thread that starts regions; this
 * thread is the same for both backends. So where the host's CPU backend is linked with an OpenMP
 * runtime, products run as regions of that very runtime, of as many threads: the team is woken,
 * not doubled. GCC's entry points are called by name (LLVM's runtime has them too), because the
 * runtime has to be the one that is loaded, and there may be none.
 *
 * Other hosts (ggml's own thread pool) get a pool of this library: its threads spin for some 100 us
 * and sleep then. MIXBIT_GGML_THREADS=own asks for that pool everywhere. */
#include "team.h"
#include "host.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct openmp {
    void (*parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
    int (*thread_num)(void);
    int (*num_threads)(void);
};

struct region {
    void (*task)(void *arg, size_t index, size_t count);
    void *arg;
    size_t count;
    atomic_bool too_few;
};

static struct openmp openmp;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The first library that carries ggml's CPU operations. */
static int find_cpu(struct dl_phdr_info *info, size_t bytes, void *argument)
{
    (void)bytes;
    const char *slash = strrchr(info->dlpi_name, '/');
    if (strncmp(slash != NULL ? slash + 1 : info->dlpi_name, "libggml-cpu", 11) != 0)
        return 0;
    *(void **)argument = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    return *(void **)argument != NULL;
}

/* Looked up through the CPU backend: a handle's search covers what that library was linked with, so
 * the runtime found is the one in use, and none is found where the backend does without. */
static void find_openmp(void)
{
    const char *wish = getenv("MIXBIT_GGML_THREADS");
    if (wish != NULL && strcmp(wish, "own") == 0)
        return;
    void *cpu = NULL;
    (void)dl_iterate_phdr(find_cpu, &cpu);
    void *library = cpu != NULL ? cpu : RTLD_DEFAULT;
    void *parallel = dlsym(library, "GOMP_parallel"),
         *thread_num = dlsym(library, "omp_get_thread_num"),
         *num_threads = dlsym(library, "omp_get_num_threads");
    if (parallel != NULL && thread_num != NULL && num_threads != NULL) {
        memcpy(&openmp.thread_num, &thread_num, sizeof thread_num);
        memcpy(&openmp.num_threads, &num_threads, sizeof num_threads);
        memcpy(&openmp.parallel, &parallel, sizeof parallel);
    }
    if (cpu != NULL)
        (void)dlclose(cpu);
}

static void body(void *argument)
{
    struct region *region = argument;
    const int index = openmp.thread_num();
    if ((size_t)openmp.num_threads() < region->count)
        atomic_store(&region->too_few, true);
    else if ((size_t)index < region->count)
        region->task(region->arg, (size_t)index, region->count);
}

static void run_region(void *user, void (*task)(void *arg, size_t index, size_t count), void *arg,
                       size_t count)
{
    (void)user;
    struct region region = {.task = task, .arg = arg, .count = count};
    openmp.parallel(body, &region, (unsigned)count, 0);
    if (atomic_load(&region.too_few)) /* OMP_THREAD_LIMIT, or inside another region */
        task(arg, 0, 1);
}

struct mb_threads *mb_ggml_team_pool(struct mb_ggml_team *team, size_t count)
{
    for (size_t i = 0; i < 2; i++)
        if (team->pools[i] != NULL && count == mb_threads_count(team->pools[i])) {
            struct mb_threads *pool = team->pools[i];
            team->pools[i] = team->pools[0];
            team->pools[0] = pool;
            return pool;
        }
    (void)pthread_once(&once, find_openmp);
    struct mb_threads *pool = NULL;
    const enum mb_status status = openmp.parallel != NULL && count != 0
                                      ? mb_threads_create_hosted(count, run_region, NULL, &pool)
                                      : mb_threads_create(count, &pool);
    if (status != MB_OK) {
        mb_ggml_log(GGML_LOG_WARN, "no pool of %zu threads (%s): products run on one thread", count,
                    mb_status_string(status));
        return NULL;
    }
    mb_threads_destroy(team->pools[1]);
    team->pools[1] = team->pools[0];
    team->pools[0] = pool;
    return pool;
}

void mb_ggml_team_end(struct mb_ggml_team *team)
{
    for (size_t i = 0; i < 2; i++)
        mb_threads_destroy(team->pools[i]);
    *team = (struct mb_ggml_team){.pools = {NULL, NULL}};
}
