/* SPDX-License-Identifier: Apache-2.0 */
/* The pool: every thread runs once per region, barriers order, work is shared out exactly once, and
 * nothing hangs when there are many more threads than processors. Built a second time with
 * ThreadSanitizer, which checks the orderings as well (test_dispatch_threads_races). */
#include "dispatch/dispatch.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { MOST = 24 };

struct count {
    size_t calls[MOST], threads;
};

static void count_call(void *arg, size_t index, size_t threads)
{
    struct count *count = arg;
    count->calls[index]++; /* not atomic: each index belongs to one thread at a time */
    if (index == 0)
        count->threads = threads;
}

static void test_every_thread_once_per_run(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, MOST};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct mb_threads *threads;
        struct count count = {0};
        const size_t runs = sizes[i] <= 2 ? 5000 : 300;
        assert_int_equal(mb_threads_create(sizes[i], &threads), MB_OK);
        assert_int_equal(mb_threads_count(threads), sizes[i]);
        for (size_t run = 0; run < runs; run++)
            mb_threads_run(threads, count_call, &count);
        assert_int_equal(count.threads, sizes[i]);
        for (size_t t = 0; t < MOST; t++)
            assert_int_equal(count.calls[t], t < sizes[i] ? runs : 0);
        mb_threads_destroy(threads);
    }
}

static void test_without_a_pool(void **state)
{
    (void)state;
    struct count count = {0};
    mb_threads_run(NULL, count_call, &count);
    assert_int_equal(count.calls[0], 1);
    assert_int_equal(count.threads, 1);
    assert_int_equal(mb_threads_count(NULL), 1);
    assert_null(mb_threads_scratch(NULL, 0, 64));
    mb_threads_destroy(NULL);
}

static void test_create_and_destroy(void **state)
{
    (void)state;
    struct mb_threads *threads;
    for (size_t i = 0; i < 50; i++) { /* idle, busy and never used pools all go away */
        struct count count = {0};
        assert_int_equal(mb_threads_create(1 + i % 4, &threads), MB_OK);
        if (i % 2 == 0)
            mb_threads_run(threads, count_call, &count);
        mb_threads_destroy(threads);
    }
    assert_int_equal(mb_threads_create(100000, &threads), MB_ERR_ARGUMENT);
    assert_int_equal(mb_threads_create(1, NULL), MB_ERR_ARGUMENT);
    struct mb_device_info info = {.size = sizeof info};
    assert_int_equal(mb_device_info(&info), MB_OK);
    assert_int_equal(mb_threads_create(0, &threads), MB_OK);
    assert_int_equal(mb_threads_count(threads), info.kinds[0].cores);
    mb_threads_destroy(threads);
}

/* Threads that sleep between regions are woken, threads that spin are met. */
static void test_wakes_after_any_pause(void **state)
{
    (void)state;
    struct mb_threads *threads;
    struct count count = {0};
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    for (size_t i = 0; i < 60; i++) {
        const struct timespec pause = {.tv_nsec = (long)(i * i * 1000)};
        nanosleep(&pause, NULL);
        mb_threads_run(threads, count_call, &count);
    }
    for (size_t t = 0; t < 3; t++)
        assert_int_equal(count.calls[t], 60);
    mb_threads_destroy(threads);
}

struct phases {
    struct mb_threads *threads;
    size_t written[MOST];
    _Atomic size_t errors;
};

/* What one thread writes before a barrier, all others see behind it. */
static void write_and_look(void *arg, size_t index, size_t count)
{
    struct phases *phases = arg;
    for (size_t round = 1; round <= 50; round++) {
        phases->written[index] = round;
        mb_threads_barrier(phases->threads);
        for (size_t t = 0; t < count; t++)
            if (phases->written[t] != round)
                atomic_fetch_add(&phases->errors, 1);
        mb_threads_barrier(phases->threads);
    }
}

static void test_barrier(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 5, MOST};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct phases phases = {0};
        assert_int_equal(mb_threads_create(sizes[i], &phases.threads), MB_OK);
        for (size_t run = 0; run < 5; run++)
            mb_threads_run(phases.threads, write_and_look, &phases);
        assert_int_equal(atomic_load(&phases.errors), 0);
        mb_threads_destroy(phases.threads);
    }
    mb_threads_barrier(NULL);
}

enum { UNITS = 1003 };

struct shared {
    struct mb_threads *threads;
    size_t step;
    _Atomic unsigned char taken[UNITS];
    _Atomic size_t pieces, slow;
};

static void take_units(void *arg, size_t index, size_t count)
{
    struct shared *shared = arg;
    size_t begin, end;
    (void)count;
    while (mb_threads_claim(shared->threads, index, shared->step, &begin, &end)) {
        atomic_fetch_add(&shared->pieces, 1);
        for (size_t u = begin; u < end; u++)
            atomic_fetch_add(&shared->taken[u], 1);
        if (index == 1 &&
            shared->slow != 0) { /* a thread that lost its processor: others finish its share */
            const struct timespec pause = {.tv_nsec = 2000000};
            nanosleep(&pause, NULL);
        }
    }
}

static void test_work_is_shared_out_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, MOST}, totals[] = {0, 1, 2, 7, 64, UNITS};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 6; j++)
            for (size_t step = 1; step <= 4; step += 3) {
                struct shared shared = {.step = step, .slow = i == 1};
                assert_int_equal(mb_threads_create(sizes[i], &shared.threads), MB_OK);
                mb_threads_split(shared.threads, totals[j]);
                if (j % 2 == 0)
                    mb_threads_run(shared.threads, take_units, &shared);
                else
                    mb_threads_offer(shared.threads, take_units, &shared);
                for (size_t u = 0; u < UNITS; u++)
                    assert_int_equal(atomic_load(&shared.taken[u]), u < totals[j]);
                mb_threads_destroy(shared.threads);
            }
}

struct offered {
    _Atomic size_t calls, inside;
    size_t plain; /* written by index 0 alone */
    long nap_ns;
};

static void take_part(void *arg, size_t index, size_t count)
{
    struct offered *offered = arg;
    (void)count;
    atomic_fetch_add(&offered->inside, 1);
    atomic_fetch_add(&offered->calls, 1);
    if (index == 0)
        offered->plain++;
    if (index != 0 && offered->nap_ns > 0) {
        const struct timespec pause = {.tv_nsec = offered->nap_ns};
        nanosleep(&pause, NULL);
    }
    atomic_fetch_sub(&offered->inside, 1);
}

/* Whoever takes part has left when an offer returns, nobody takes part twice, and later regions are
 * not disturbed. */
static void test_offers(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 2, 3, MOST};
    for (size_t i = 0; i < 4; i++)
        for (int naps = 0; naps < 2; naps++) {
            struct mb_threads *threads;
            struct offered offered = {.nap_ns = naps * 50000};
            struct count count = {0};
            const size_t runs = naps ? 100 : 3000 / sizes[i];
            assert_int_equal(mb_threads_create(sizes[i], &threads), MB_OK);
            for (size_t run = 0; run < runs; run++) {
                atomic_store(&offered.calls, 0);
                mb_threads_offer(threads, take_part, &offered);
                assert_int_equal(atomic_load(&offered.inside), 0);
                assert_true(atomic_load(&offered.calls) >= 1 &&
                            atomic_load(&offered.calls) <= sizes[i]);
                assert_int_equal(offered.plain, run + 1);
                if (run % 3 == 0)
                    mb_threads_run(threads, count_call, &count);
            }
            for (size_t t = 0; t < sizes[i]; t++)
                assert_int_equal(count.calls[t], (runs + 2) / 3);
            mb_threads_destroy(threads);
        }
}

static void test_scratch(void **state)
{
    (void)state;
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    unsigned char *memory[3];
    for (size_t t = 0; t < 3; t++) {
        memory[t] = mb_threads_scratch(threads, t, 1000);
        assert_non_null(memory[t]);
        assert_int_equal((uintptr_t)memory[t] % 64, 0);
        memset(memory[t], (int)t, 1000);
    }
    for (size_t t = 0; t < 3; t++) {
        assert_ptr_equal(mb_threads_scratch(threads, t, 500),
                         memory[t]); /* kept, content and all */
        assert_int_equal(memory[t][999], t);
        assert_ptr_not_equal(mb_threads_workspace(threads, t, 10), memory[t]);
        assert_non_null(mb_threads_scratch(threads, t, 5 << 20));
    }
    assert_null(mb_threads_scratch(threads, 3, 64));
    assert_null(mb_threads_scratch(threads, 0, SIZE_MAX - 10));
    assert_non_null(mb_threads_scratch(threads, 0, 64)); /* and it recovers */
    mb_threads_destroy(threads);
}

/* Workers block all signals: a handler of the program runs on the program's own thread. */
static _Atomic size_t handled;
static pthread_t main_thread;
static void on_signal(int number)
{
    (void)number;
    if (pthread_equal(pthread_self(), main_thread))
        atomic_fetch_add(&handled, 1);
}

static void test_signals_stay_with_the_program(void **state)
{
    (void)state;
    struct mb_threads *threads;
    main_thread = pthread_self();
    signal(SIGUSR1, on_signal);
    assert_int_equal(mb_threads_create(4, &threads), MB_OK);
    for (size_t i = 0; i < 20; i++)
        kill(getpid(), SIGUSR1);
    mb_threads_destroy(threads);
    signal(SIGUSR1, SIG_DFL);
    assert_true(atomic_load(&handled) > 0);
}

/* A host with threads of its own: started anew for every region, or, when it is short of them, the
 * calling one alone. */
struct host {
    size_t regions;
    bool is_short;
};

struct part {
    void (*task)(void *arg, size_t index, size_t count);
    void *arg;
    size_t index, count;
};

static void *run_part(void *argument)
{
    const struct part *part = argument;
    part->task(part->arg, part->index, part->count);
    return NULL;
}

static void run_hosted(void *user, void (*task)(void *arg, size_t index, size_t count), void *arg,
                       size_t count)
{
    struct host *host = user;
    struct part parts[MOST];
    pthread_t threads[MOST];
    host->regions++;
    if (host->is_short) {
        task(arg, 0, 1);
        return;
    }
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct part){task, arg, i, count};
    for (size_t i = 1; i < count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_part, &parts[i]), 0);
    (void)run_part(&parts[0]);
    for (size_t i = 1; i < count; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static void test_threads_of_the_host(void **state)
{
    (void)state;
    enum { N = 272, K = 256, M = 24 };
    struct host host = {0};
    struct mb_threads *threads, *own;
    struct count count = {0};
    assert_int_equal(mb_threads_create_hosted(3, NULL, &host, &threads), MB_ERR_ARGUMENT);
    assert_int_equal(mb_threads_create_hosted(0, run_hosted, &host, &threads), MB_ERR_ARGUMENT);
    assert_int_equal(mb_threads_create_hosted(3, run_hosted, &host, &threads), MB_OK);
    assert_int_equal(mb_threads_count(threads), 3);
    mb_threads_run(threads, count_call, &count);
    assert_int_equal(count.threads, 3);
    assert_int_equal(host.regions, 1);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(count.calls[i], 1);

    /* A product with a barrier in it: the bits of a pool's own threads, short of threads or not. */
    static float rows[N * K], x[M * K], expected[M * N], y[M * N];
    static uint8_t source[N * K], packed[4 * N * K];
    for (size_t i = 0; i < N * K; i++)
        rows[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
    for (size_t i = 0; i < M * K; i++)
        x[i] = (float)(i * 40503u % 1000) / 500 - 1;
    struct mb_weights weights;
    uint8_t *data = packed + (64 - (uintptr_t)packed % 64) % 64;
    size_t bytes;
    assert_int_equal(mb_pack_size(MB_FORMAT_Q4_K, N, K, &bytes), MB_OK);
    assert_true(bytes + 64 <= sizeof packed);
    assert_int_equal(mb_quantize(MB_FORMAT_Q4_K, rows, N, K, NULL, source), MB_OK);
    assert_int_equal(mb_weights_init(&weights, MB_FORMAT_Q4_K, N, K, data), MB_OK);
    assert_int_equal(mb_pack_rows(&weights, source, 0, N), MB_OK);
    assert_int_equal(mb_threads_create(3, &own), MB_OK);
    assert_int_equal(mb_matmul(own, &weights, x, M, K, expected, N), MB_OK);
    for (int is_short = 0; is_short < 2; is_short++) {
        const size_t regions = host.regions;
        host.is_short = is_short;
        memset(y, 0xff, sizeof y);
        assert_int_equal(mb_matmul(threads, &weights, x, M, K, y, N), MB_OK);
        assert_true(host.regions > regions);
        assert_memory_equal(y, expected, sizeof y);
    }
    mb_threads_destroy(own);
    mb_threads_destroy(threads);
}

int main(void)
{
    alarm(300); /* a deadlock ends the test */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_thread_once_per_run),
        cmocka_unit_test(test_without_a_pool),
        cmocka_unit_test(test_create_and_destroy),
        cmocka_unit_test(test_wakes_after_any_pause),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_work_is_shared_out_once),
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_signals_stay_with_the_program),
        cmocka_unit_test(test_threads_of_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
