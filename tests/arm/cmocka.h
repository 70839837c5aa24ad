/* SPDX-License-Identifier: Apache-2.0 */
/* As much of cmocka's interface as the kernel tests use, for cross builds: Debian and Ubuntu have
 * cmocka for arm64 only in a second architecture's package lists, which an Ubuntu amd64 machine
 * does not reach without new sources. A failed assertion ends its test; the group goes on, and the
 * number of failed tests is returned, as cmocka does. */
#ifndef MIXBIT_TESTS_ARM_CMOCKA_H
#define MIXBIT_TESTS_ARM_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test)(void **state);
};
#define cmocka_unit_test(function) ((struct CMUnitTest){#function, function})

static jmp_buf cmocka_end_of_test;

#define print_message(...) printf(__VA_ARGS__)
#define fail_msg(...)                                                                              \
    do {                                                                                           \
        printf("%s:%d: ", __FILE__, __LINE__);                                                     \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        longjmp(cmocka_end_of_test, 1);                                                            \
    } while (0)
#define fail() fail_msg("failed")
#define assert_true(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("not true: %s", #condition);                                                  \
    } while (0)
#define assert_false(condition) assert_true(!(condition))
#define assert_null(pointer) assert_true((pointer) == NULL)
#define assert_non_null(pointer) assert_true((pointer) != NULL)
#define assert_ptr_equal(a, b) assert_true((const void *)(a) == (const void *)(b))
#define assert_int_equal(a, b)                                                                     \
    do {                                                                                           \
        const long long cmocka_a = (long long)(a), cmocka_b = (long long)(b);                      \
        if (cmocka_a != cmocka_b)                                                                  \
            fail_msg("%s is %lld, not %lld (%s)", #a, cmocka_a, cmocka_b, #b);                     \
    } while (0)
#define assert_in_range(value, low, high)                                                          \
    assert_true((uintmax_t)(value) >= (uintmax_t)(low) && (uintmax_t)(value) <= (uintmax_t)(high))
#define assert_memory_equal(a, b, bytes) assert_true(memcmp(a, b, bytes) == 0)
#define assert_string_equal(a, b)                                                                  \
    do {                                                                                           \
        if (strcmp(a, b) != 0)                                                                     \
            fail_msg("%s is \"%s\", not \"%s\"", #a, a, b);                                        \
    } while (0)
#define assert_string_not_equal(a, b) assert_true(strcmp(a, b) != 0)

static inline int cmocka_run(const struct CMUnitTest *tests, size_t count)
{
    volatile int failed = 0;
    for (volatile size_t i = 0; i < count; i++) {
        printf("[ RUN    ] %s\n", tests[i].name);
        fflush(stdout);
        void *state = NULL;
        const int ended = setjmp(cmocka_end_of_test);
        if (ended == 0)
            tests[i].test(&state);
        failed += ended;
        printf("[ %s ] %s\n", ended ? "FAILED" : "    OK", tests[i].name);
    }
    printf("%zu tests, %d failed\n", count, failed);
    return failed;
}
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    ((void)(setup), (void)(teardown), cmocka_run(tests, sizeof(tests) / sizeof *(tests)))

#endif
