/* SPDX-License-Identifier: Apache-2.0 */
/* A pool of threads for short parallel regions (a matmul of one token takes microseconds).
 *
 * Everything rests on one primitive, the gate: a counter that one side advances and the other waits
 * on, first spinning, then asleep on a condition variable. Advancing wakes nobody unless someone
 * sleeps, so a hot hand-over is one cache line each way. Spinning is bounded and left out when
 * there are more threads than processors: a spinner would then only delay the thread that it waits
 * for. */
#include "dispatch/dispatch.h"
#include "support/memory.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 1024, SPINS = 6000, CACHE_LINE = 64 }; /* 6000 pauses: some 80 to 250 us */

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

struct gate {
    _Alignas(CACHE_LINE) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
};

static void gate_init(struct gate *gate)
{
    atomic_init(&gate->value, 0);
    atomic_init(&gate->sleepers, 0);
    (void)pthread_mutex_init(&gate->mutex,
                             NULL); /* neither can fail with default attributes on Linux */
    (void)pthread_cond_init(&gate->changed, NULL);
}

static void gate_destroy(struct gate *gate)
{
    (void)pthread_cond_destroy(&gate->changed);
    (void)pthread_mutex_destroy(&gate->mutex);
}

static uint32_t gate_value(struct gate *gate)
{
    return atomic_load_explicit(&gate->value, memory_order_acquire);
}

/* Sequential consistency on both sides makes sure that either the advancer sees the sleeper or the
 * sleeper sees the new value (Dekker's pattern); neither can miss the other. */
static void gate_advance(struct gate *gate)
{
    atomic_fetch_add(&gate->value, 1);
    if (atomic_load(&gate->sleepers) == 0)
        return;
    (void)pthread_mutex_lock(&gate->mutex);
    (void)pthread_cond_broadcast(&gate->changed);
    (void)pthread_mutex_unlock(&gate->mutex);
}

static void gate_wait(struct gate *gate, uint32_t old, unsigned spins)
{
    for (unsigned i = 0; i < spins; i++) {
        if (gate_value(gate) != old)
            return;
        pause_cpu();
    }
    (void)pthread_mutex_lock(&gate->mutex);
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->value) == old)
        (void)pthread_cond_wait(&gate->changed, &gate->mutex);
    atomic_fetch_sub(&gate->sleepers, 1);
    (void)pthread_mutex_unlock(&gate->mutex);
}

/* A thread's share of the units of one run. */
struct share {
    _Alignas(CACHE_LINE) _Atomic size_t next;
    size_t end;
};

struct memory {
    void *data;
    size_t bytes;
};

struct worker {
    struct mb_threads *pool;
    size_t index;
    pthread_t thread;
};

/* A region is one run of a task. Its state is one word, so that entering, leaving and closing it
 * are single steps: its number in the upper half; below, whether it may be entered, whether
 * everyone has to, and how many are inside. */
enum { REGION_SHIFT = 32 };
static const uint64_t REGION_OPEN = 1u << 31, REGION_EVERYONE = 1u << 30;

struct mb_threads {
    struct gate start, done, meet;
    _Alignas(CACHE_LINE) _Atomic uint64_t region;
    _Alignas(CACHE_LINE) _Atomic size_t running, arrived;
    _Alignas(CACHE_LINE) void (*task)(void *arg, size_t index, size_t count);
    void *arg;
    mb_threads_host host; /* runs the tasks instead of workers; NULL: the pool's own */
    void *user;
    _Atomic bool stop;
    size_t count;
    unsigned spins;
    struct worker *workers; /* [count], the first unused: the caller is index 0 */
    struct share *shares;
    struct memory *scratch, *workspace;
};

static bool is_new(uint64_t region, uint32_t last)
{
    return (region & REGION_OPEN) != 0 && (uint32_t)(region >> REGION_SHIFT) != last;
}

static void finish_part(struct mb_threads *pool)
{
    if (atomic_fetch_sub(&pool->running, 1) == 1)
        gate_advance(&pool->done);
}

/* Take part in the region that is open, unless it is the one that this worker was in last. A region
 * for everyone stays until all have finished their part; one on offer may close at any moment, but
 * not while someone is inside. */
static void take_part(struct mb_threads *pool, size_t index, uint32_t *last)
{
    uint64_t region = atomic_load_explicit(&pool->region, memory_order_acquire);
    do {
        if (!is_new(region, *last))
            return;
        if ((region & REGION_EVERYONE) != 0)
            break;
    } while (!atomic_compare_exchange_weak(&pool->region, &region, region + 1));
    *last = (uint32_t)(region >> REGION_SHIFT);
    pool->task(pool->arg, index, pool->count);
    if ((region & REGION_EVERYONE) != 0)
        finish_part(pool);
    else if ((uint32_t)atomic_fetch_sub(&pool->region, 1) ==
             1) /* the last to leave a closed region */
        gate_advance(&pool->done);
}

static void *work(void *argument)
{
    const struct worker *self = argument;
    struct mb_threads *pool = self->pool;
    uint32_t seen = 0, last = 0;
    for (;;) {
        gate_wait(&pool->start, seen, pool->spins);
        seen = gate_value(&pool->start); /* regions that came and went meanwhile are missed */
        if (atomic_load(&pool->stop))
            return NULL;
        take_part(pool, self->index, &last);
    }
}

/* Open a region of the given kind and do the caller's part of it. Returns what the done gate stood
 * at before. */
static uint32_t open_region(struct mb_threads *pool,
                            void (*task)(void *arg, size_t index, size_t count), void *arg,
                            uint64_t kind)
{
    const uint64_t number =
        (atomic_load_explicit(&pool->region, memory_order_relaxed) >> REGION_SHIFT) + 1;
    const uint32_t before = gate_value(&pool->done);
    pool->task = task;
    pool->arg = arg;
    atomic_store_explicit(&pool->running, pool->count, memory_order_relaxed);
    atomic_store_explicit(&pool->region, number << REGION_SHIFT | kind, memory_order_release);
    gate_advance(&pool->start);
    task(arg, 0, pool->count);
    return before;
}

void mb_threads_run(struct mb_threads *threads, void (*task)(void *arg, size_t index, size_t count),
                    void *arg)
{
    if (threads == NULL || threads->count == 1) {
        task(arg, 0, 1);
        return;
    }
    if (threads->host != NULL) {
        threads->host(threads->user, task, arg, threads->count);
        return;
    }
    const uint32_t before = open_region(threads, task, arg, REGION_OPEN | REGION_EVERYONE);
    finish_part(threads);
    gate_wait(&threads->done, before, threads->spins);
}

void mb_threads_offer(struct mb_threads *threads,
                      void (*task)(void *arg, size_t index, size_t count), void *arg)
{
    if (threads == NULL || threads->count == 1) {
        task(arg, 0, 1);
        return;
    }
    if (threads->host != NULL) { /* a team that the host starts and joins as a whole */
        threads->host(threads->user, task, arg, threads->count);
        return;
    }
    const uint32_t before = open_region(threads, task, arg, REGION_OPEN);
    if ((atomic_fetch_and(&threads->region, ~REGION_OPEN) & (REGION_EVERYONE - 1)) != 0)
        gate_wait(&threads->done, before, threads->spins);
}

void mb_threads_barrier(struct mb_threads *threads)
{
    if (threads == NULL || threads->count == 1)
        return;
    const uint32_t before = gate_value(&threads->meet);
    if (atomic_fetch_add(&threads->arrived, 1) + 1 == threads->count) {
        atomic_store_explicit(&threads->arrived, 0, memory_order_relaxed);
        gate_advance(&threads->meet);
    } else {
        gate_wait(&threads->meet, before, threads->spins);
    }
}

/* Cores of the fastest kind: slower ones would hold back every region that is split evenly. */
static size_t default_count(const struct mb_device_info *info)
{
    const size_t cores = info->kinds[0].cores;
    return cores == 0 ? 1 : cores;
}

/* Workers leave signals to the threads of the program. */
static size_t start_workers(struct mb_threads *pool)
{
    sigset_t all, old;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    size_t started = 1;
    while (started < pool->count) {
        struct worker *worker = &pool->workers[started];
        worker->pool = pool;
        worker->index = started;
        if (pthread_create(&worker->thread, NULL, work, worker) != 0)
            break;
        started++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    return started;
}

/* Join the first `started` threads and free everything. */
static void tear_down(struct mb_threads *pool, size_t started)
{
    atomic_store(&pool->stop, true);
    gate_advance(&pool->start);
    for (size_t i = 1; i < started; i++)
        (void)pthread_join(pool->workers[i].thread, NULL);
    for (size_t i = 0; i < pool->count; i++) {
        mb_free_aligned(pool->scratch != NULL ? pool->scratch[i].data : NULL);
        mb_free_aligned(pool->workspace != NULL ? pool->workspace[i].data : NULL);
    }
    gate_destroy(&pool->start);
    gate_destroy(&pool->done);
    gate_destroy(&pool->meet);
    free(pool->scratch);
    free(pool->workspace);
    free(pool->workers);
    mb_free_aligned(pool->shares);
    mb_free_aligned(pool);
}

static enum mb_status create_pool(size_t count, mb_threads_host host, void *user,
                                  struct mb_threads **threads)
{
    *threads = NULL;
    struct mb_device_info info = {.size = sizeof info};
    (void)mb_device_info(&info);
    if (count == 0)
        count = default_count(&info);
    struct mb_threads *pool = mb_alloc_aligned(sizeof *pool);
    if (pool == NULL)
        return MB_ERR_MEMORY;
    memset(pool, 0, sizeof *pool);
    pool->count = count;
    pool->host = host;
    pool->user = user;
    pool->spins = count <= info.threads ? SPINS : 0;
    gate_init(&pool->start);
    gate_init(&pool->done);
    gate_init(&pool->meet);
    pool->workers = calloc(count, sizeof *pool->workers);
    pool->scratch = calloc(count, sizeof *pool->scratch);
    pool->workspace = calloc(count, sizeof *pool->workspace);
    pool->shares = mb_alloc_aligned(count * sizeof *pool->shares);
    if (pool->workers == NULL || pool->scratch == NULL || pool->workspace == NULL ||
        pool->shares == NULL) {
        tear_down(pool, 1);
        return MB_ERR_MEMORY;
    }
    memset(pool->shares, 0, count * sizeof *pool->shares);
    const size_t started = host != NULL ? count : start_workers(pool);
    if (started < count) {
        tear_down(pool, started);
        return MB_ERR_MEMORY;
    }
    *threads = pool;
    return MB_OK;
}

enum mb_status mb_threads_create(size_t count, struct mb_threads **threads)
{
    if (threads == NULL || count > MAX_THREADS)
        return MB_ERR_ARGUMENT;
    return create_pool(count, NULL, NULL, threads);
}

enum mb_status mb_threads_create_hosted(size_t count, mb_threads_host host, void *user,
                                        struct mb_threads **threads)
{
    if (threads == NULL || host == NULL || count == 0 || count > MAX_THREADS)
        return MB_ERR_ARGUMENT;
    return create_pool(count, host, user, threads);
}

void mb_threads_destroy(struct mb_threads *threads)
{
    if (threads != NULL)
        tear_down(threads, threads->host != NULL ? 1 : threads->count);
}

size_t mb_threads_count(const struct mb_threads *threads)
{
    return threads == NULL ? 1 : threads->count;
}

/* Grown, never shrunk; the old content is not kept. */
static void *at_least(struct memory *memory, size_t bytes)
{
    if (memory->bytes < bytes || memory->data == NULL) {
        mb_free_aligned(memory->data);
        memory->data = mb_alloc_aligned(bytes);
        memory->bytes = memory->data == NULL ? 0 : bytes;
    }
    return memory->data;
}

void *mb_threads_scratch(struct mb_threads *threads, size_t index, size_t bytes)
{
    return threads == NULL || index >= threads->count ? NULL
                                                      : at_least(&threads->scratch[index], bytes);
}

void *mb_threads_workspace(struct mb_threads *threads, size_t index, size_t bytes)
{
    return threads == NULL || index >= threads->count ? NULL
                                                      : at_least(&threads->workspace[index], bytes);
}

void mb_threads_split(struct mb_threads *threads, size_t total)
{
    const size_t each = total / threads->count, more = total % threads->count;
    size_t begin = 0;
    for (size_t i = 0; i < threads->count; i++) {
        struct share *share = &threads->shares[i];
        share->end = begin + each + (i < more);
        atomic_store_explicit(&share->next, begin, memory_order_relaxed);
        begin = share->end;
    }
}

/* Take a piece from the front of a share: half of what is left for its owner, a quarter for others,
 * in whole steps. The units themselves were published by the gate that started the run, so the
 * counter carries no ordering. */
static bool take(struct share *share, bool own, size_t step, size_t *begin, size_t *end)
{
    size_t next = atomic_load_explicit(&share->next, memory_order_relaxed), size;
    do {
        if (next >= share->end)
            return false;
        const size_t left = share->end - next, large = left / (own ? 2 : 4) / step * step;
        size = large > step ? large : step;
        size = size < left ? size : left;
    } while (!atomic_compare_exchange_weak_explicit(&share->next, &next, next + size,
                                                    memory_order_relaxed, memory_order_relaxed));
    *begin = next;
    *end = next + size;
    return true;
}

bool mb_threads_claim(struct mb_threads *threads, size_t index, size_t step, size_t *begin,
                      size_t *end)
{
    for (size_t i = 0; i < threads->count; i++) {
        const size_t owner = index + i < threads->count ? index + i : index + i - threads->count;
        if (take(&threads->shares[owner], i == 0, step, begin, end))
            return true;
    }
    return false;
}
