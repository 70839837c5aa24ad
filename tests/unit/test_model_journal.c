/* SPDX-License-Identifier: Apache-2.0 */
/* Journals: what was appended is found again bit for bit, a torn or damaged line is as if it had
 * never been written, and files of others are left alone. Damage is done to the bytes on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/journal.h"
#include "support/support.h"
#include "unit/network_support.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const struct mb_loss losses[] = {
    {1, 0.1, 1.0 / 3.0, 5e-324, 0.25},
    {1, 0.0, 0.0, 1e300, 1e-17},
    {1, 0.7, 0.6, 0.8, 0.01},
};
static const char *const names[] = {"blk.0.attn_q.weight", "a name with spaces\n%41\x80", "c"};

static struct mb_journal *open_journal(const char *path, const char *settings)
{
    struct mb_journal *journal = NULL;
    struct mb_error error;
    if (mb_journal_open(path, settings, 0, &journal, &error) != MB_OK)
        fail_msg("%s", error.message);
    return journal;
}

static void append_all(struct mb_journal *journal)
{
    struct mb_error error;
    for (size_t i = 0; i < 3; i++)
        if (mb_journal_append(journal, names[i], MB_FORMAT_Q4_K, &losses[i], NULL, &error) != MB_OK)
            fail_msg("%s", error.message);
}

static bool holds(const struct mb_journal *journal, size_t i)
{
    const struct mb_loss *loss = mb_journal_find(journal, names[i], MB_FORMAT_Q4_K);
    if (loss == NULL)
        return false;
    assert_int_equal(loss->known, 1);
    assert_memory_equal(&loss->mean, &losses[i].mean, 4 * sizeof(double));
    return true;
}

static char *read_file(const char *path, size_t *bytes)
{
    char *text;
    struct mb_error error;
    if (mb_file_read(path, 1 << 20, &text, bytes, &error) != MB_OK)
        fail_msg("%s", error.message);
    return text;
}

static void write_file(const char *path, const char *text, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
}

static void test_round_trip(void **state)
{
    (void)state;
    char path[64];
    ns_temporary(path);
    for (int memory = 0; memory < 2; memory++) {
        struct mb_journal *journal = open_journal(memory ? NULL : path, "a job");
        assert_int_equal(mb_journal_count(journal), 0);
        append_all(journal);
        if (!memory) {
            mb_journal_close(journal);
            journal = open_journal(path, "a job");
        }
        assert_int_equal(mb_journal_count(journal), 3);
        for (size_t i = 0; i < 3; i++)
            assert_true(holds(journal, i));
        assert_null(mb_journal_find(journal, names[0], MB_FORMAT_Q5_K));
        assert_null(mb_journal_find(journal, "c ", MB_FORMAT_Q4_K));
        mb_journal_close(journal);
    }
    unlink(path);
    mb_journal_close(NULL);
}

/* Cut the file at every length: never an error, whole lines kept, and it goes on from there. */
static void test_torn(void **state)
{
    (void)state;
    char path[64];
    size_t bytes, header, after;
    ns_temporary(path);
    struct mb_journal *journal = open_journal(path, "a job");
    mb_journal_close(journal);
    free(read_file(path, &header));
    journal = open_journal(path, "a job");
    append_all(journal);
    mb_journal_close(journal);
    char *whole = read_file(path, &bytes);
    for (size_t cut = 0; cut <= bytes; cut++) {
        size_t lines = 0;
        for (size_t i = header; i < cut; i++)
            lines += whole[i] == '\n';
        write_file(path, whole, cut);
        journal = open_journal(path, "a job");
        assert_int_equal(mb_journal_count(journal), lines);
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(holds(journal, i), i < lines);
        append_all(journal);
        mb_journal_close(journal);
        journal = open_journal(path, "a job");
        assert_int_equal(mb_journal_count(journal), lines + 3);
        mb_journal_close(journal);
        char *again = read_file(path, &after);
        assert_memory_equal(again + after - (bytes - header), whole + header, bytes - header);
        free(again);
    }
    free(whole);
    unlink(path);
}

/* Any one byte of an entry damaged: that line alone is lost. */
static void test_damaged(void **state)
{
    (void)state;
    char path[64];
    size_t bytes;
    ns_temporary(path);
    struct mb_journal *journal = open_journal(path, "a job");
    append_all(journal);
    mb_journal_close(journal);
    char *whole = read_file(path, &bytes);
    size_t line = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (whole[i] == '\n') {
            line++;
            continue;
        }
        if (line == 0)
            continue;
        whole[i] ^= 1;
        write_file(path, whole, bytes);
        journal = open_journal(path, "a job");
        for (size_t e = 0; e < 3; e++)
            assert_int_equal(holds(journal, e), e != line - 1);
        mb_journal_close(journal);
        whole[i] ^= 1;
    }
    assert_int_equal(line, 4);
    free(whole);
    unlink(path);
}

static void assert_refused(const char *path, const char *settings, enum mb_status status,
                           const char *says)
{
    struct mb_journal *journal = NULL;
    struct mb_error error = {.message = ""};
    struct stat before = {0}, after = {0};
    stat(path, &before);
    const enum mb_status found = mb_journal_open(path, settings, 0, &journal, &error);
    stat(path, &after);
    assert_null(journal);
    if (found != status || strstr(error.message, says) == NULL)
        fail_msg("status %d, %s", (int)found, error.message);
    assert_int_equal(before.st_size, after.st_size);
}

static void test_foreign(void **state)
{
    (void)state;
    char path[64];
    ns_temporary(path);
    struct mb_journal *journal = open_journal(path, "model a, text b");
    append_all(journal);
    assert_refused(path, "model a, text b", MB_ERR_IO, "another process");
    mb_journal_close(journal);
    assert_refused(path, "model a, text c", MB_ERR_STALE, "model a, text b");
    assert_refused(path, "model a, text ", MB_ERR_STALE, "delete it");

    static const char *const others[] = {"# my notes\nimportant\n", "no newline", "\n", "{}\n"};
    for (size_t i = 0; i < 4; i++) {
        write_file(path, others[i], strlen(others[i]));
        assert_refused(path, "model a, text b", MB_ERR_FILE, "not a mixbit journal");
    }
    unlink(path);
    assert_refused("/tmp", "a", MB_ERR_IO, "/tmp");
    assert_refused("/dev/null", "a", MB_ERR_IO, "regular");
    assert_refused("/nonexistent/journal", "a", MB_ERR_IO, "/nonexistent/journal");
}

/* Killed in the middle of writing: whatever instant it was, what is there is a journal. */
static void test_killed(void **state)
{
    (void)state;
    char path[64];
    ns_temporary(path);
    size_t least = 0;
    for (int round = 0; round < 8; round++) {
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct mb_journal *journal;
            if (mb_journal_open(path, "a job", 0, &journal, NULL) != MB_OK)
                _exit(1);
            for (size_t i = 0;; i++)
                if (mb_journal_append(journal, names[i % 3], MB_FORMAT_Q4_K, &losses[i % 3], NULL,
                                      NULL) != MB_OK)
                    _exit(2);
        }
        usleep(20000u + 3777u * (unsigned)round);
        int status;
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        struct mb_journal *journal = open_journal(path, "a job");
        assert_true(mb_journal_count(journal) >= least);
        least = mb_journal_count(journal);
        mb_journal_close(journal);
    }
    assert_true(least > 0);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_torn),
        cmocka_unit_test(test_damaged),    cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
