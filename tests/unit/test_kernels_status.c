/* SPDX-License-Identifier: Apache-2.0 */
/* Status strings, error messages (one clean line, whatever was put in), log and progress. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mixbit/status.h"

#include <string.h>

static void test_strings(void **state)
{
    (void)state;
    for (int i = MB_OK; i <= MB_ERR_VERIFY; i++) {
        assert_string_not_equal(mb_status_string((enum mb_status)i), "unknown status");
        for (int j = MB_OK; j < i; j++)
            assert_string_not_equal(mb_status_string((enum mb_status)i),
                                    mb_status_string((enum mb_status)j));
    }
    assert_string_equal(mb_status_string((enum mb_status)(MB_ERR_VERIFY + 1)), "unknown status");
    assert_string_equal(mb_status_string((enum mb_status) - 1), "unknown status");
}

static void test_error(void **state)
{
    (void)state;
    struct mb_error error;
    memset(&error, 0xee, sizeof error);
    assert_int_equal(mb_error_set(&error, MB_ERR_FILE, 77, "tensor %s: %d bytes", "x", 5),
                     MB_ERR_FILE);
    assert_int_equal(error.status, MB_ERR_FILE);
    assert_int_equal(error.where, 77);
    assert_string_equal(error.message, "tensor x: 5 bytes");
    /* A message may be built from itself. */
    assert_int_equal(mb_error_set(&error, MB_ERR_IO, -1, "a.gguf: %s", error.message), MB_ERR_IO);
    assert_string_equal(error.message, "a.gguf: tensor x: 5 bytes");
    assert_int_equal(mb_error_set(NULL, MB_ERR_MEMORY, 0, "%d", 1), MB_ERR_MEMORY);
}

/* Text from hostile files: no line breaks, no escapes, no half characters, never past the end. */
static void test_error_hostile_text(void **state)
{
    (void)state;
    struct {
        struct mb_error error;
        char canary[8];
    } guarded;
    memset(&guarded, 'c', sizeof guarded);
    mb_error_set(&guarded.error, MB_ERR_FILE, 0, "%s", "a\nb\x1b[31m\tc\x7f\xc3\xa4");
    assert_string_equal(guarded.error.message, "a?b?[31m?c?\xc3\xa4");
    char longer[2000];
    for (size_t shift = 0; shift < 3; shift++) {
        const size_t room = sizeof guarded.error.message;
        memset(longer, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof longer; i += 3)
            memcpy(longer + i, "\xe2\x82\xac", 4); /* the euro sign */
        mb_error_set(&guarded.error, MB_ERR_FILE, 0, "%s", longer);
        const size_t length = strlen(guarded.error.message);
        assert_in_range(length, room - 6, room - 1);
        assert_string_equal(guarded.error.message + length - 3, "...");
        assert_int_equal((length - 3 - shift) % 3, 0);
        assert_memory_equal(guarded.canary, "cccccccc", 8);
    }
}

static char logged[2000];
static enum mb_log_level logged_level;
static int log_calls;

static void record(enum mb_log_level level, const char *line, void *user)
{
    assert_ptr_equal(user, logged);
    logged_level = level;
    strcpy(logged, line);
    log_calls++;
}

static void test_log(void **state)
{
    (void)state;
    mb_log(MB_LOG_WARNING, "nobody %s", "listens");
    mb_log_set(record, logged);
    mb_log(MB_LOG_WARNING, "%d tensors\n", 3);
    assert_int_equal(log_calls, 1);
    assert_int_equal(logged_level, MB_LOG_WARNING);
    assert_string_equal(logged, "3 tensors?");
    mb_log(MB_LOG_DEBUG, "%1500d", 7);
    assert_int_equal(log_calls, 2);
    assert_in_range(strlen(logged), 1000, 1500);
    mb_log_set(NULL, NULL);
    mb_log(MB_LOG_INFO, "gone");
    assert_int_equal(log_calls, 2);
}

struct report {
    double done, total;
    const char *note;
    int stop;
};

static int report(void *user, double done, double total, const char *note)
{
    struct report *r = user;
    *r = (struct report){done, total, note, r->stop};
    return r->stop;
}

static void test_progress(void **state)
{
    (void)state;
    struct report r = {0};
    const struct mb_progress progress = {report, &r}, silent = {0};
    assert_int_equal(mb_progress_report(NULL, 1, 2, "x"), MB_OK);
    assert_int_equal(mb_progress_report(&silent, 1, 2, "x"), MB_OK);
    assert_int_equal(mb_progress_report(&progress, 3, 4, "here"), MB_OK);
    assert_true(r.done == 3 && r.total == 4);
    assert_string_equal(r.note, "here");
    r.stop = 1;
    assert_int_equal(mb_progress_report(&progress, 4, 4, NULL), MB_ERR_INTERRUPTED);
    assert_string_equal(r.note, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_error_hostile_text),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
