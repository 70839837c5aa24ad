/* SPDX-License-Identifier: Apache-2.0 */
/* Files appear whole or not at all; every refusal is one clear line and leaves nothing behind. */
#include "support/support.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = "/tmp/mixbit-file-XXXXXX";
static char path[256];

static char *in_folder(const char *name)
{
    static char text[512];
    snprintf(text, sizeof text, "%s/%s", folder, name);
    return text;
}

static size_t entries(void)
{
    size_t count = 0;
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

static void empty_folder(void)
{
    DIR *directory = opendir(folder);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.')
            assert_int_equal(remove(in_folder(entry->d_name)), 0);
    closedir(directory);
}

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/file", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    empty_folder();
    return rmdir(folder);
}

static void write_file(const char *name, const void *data, size_t bytes)
{
    struct mb_file *file;
    struct mb_error error = {0};
    assert_int_equal(mb_file_create(name, &file, &error), MB_OK);
    assert_int_equal(mb_file_write(file, data, bytes), MB_OK);
    assert_int_equal(mb_file_tell(file), bytes);
    assert_int_equal(mb_file_commit(file, &error), MB_OK);
}

static void assert_content(const char *name, const void *data, size_t bytes)
{
    char *got;
    size_t got_bytes;
    assert_int_equal(mb_file_read(name, SIZE_MAX, &got, &got_bytes, NULL), MB_OK);
    assert_int_equal(got_bytes, bytes);
    assert_memory_equal(got, data, bytes);
    assert_int_equal(got[bytes], 0);
    free(got);
}

static void assert_one_line(const struct mb_error *error, const char *part)
{
    assert_null(strchr(error->message, '\n'));
    if (strstr(error->message, part) == NULL)
        fail_msg("expected '%s' in: %s", part, error->message);
}

static void test_commit_replaces_and_abandon_leaves(void **state)
{
    (void)state;
    write_file(path, "first", 5);
    assert_content(path, "first", 5);
    struct mb_file *file;
    assert_int_equal(mb_file_create(path, &file, NULL), MB_OK);
    mb_file_write(file, "second", 6);
    assert_content(path, "first", 5); /* nothing shows before commit */
    mb_file_abandon(file);
    assert_content(path, "first", 5);
    assert_int_equal(entries(), 1); /* the temporary neighbour is gone */
    write_file(path, "", 0);
    assert_content(path, "", 0);
    mb_file_abandon(NULL);
    empty_folder();
}

/* Many small and a few large writes meet the buffer in every way. */
/* A writer that is killed leaves its temporary file; the next one of the same name removes it, but
 * not what a living writer holds, nor what only looks alike. */
static void test_left_behind(void **state)
{
    (void)state;
    struct mb_file *living, *next;
    struct mb_error error;
    for (int i = 0; i < 2; i++) {
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct mb_file *file;
            if (mb_file_create(path, &file, NULL) != MB_OK || mb_file_write(file, "x", 1) != MB_OK)
                _exit(1);
            _exit(0);
        }
        int how = -1;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_int_equal(how, 0);
    }
    assert_int_equal(entries(), 1); /* the second child removed what the first one left */
    static const char *const alike[] = {"file.tmp.12345", "file.tmp.1234567", "other.tmp.123456"};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(fclose(fopen(in_folder(alike[i]), "w")), 0);
    assert_int_equal(mb_file_create(path, &living, &error), MB_OK);
    assert_int_equal(entries(), 1 + 3);
    assert_int_equal(mb_file_create(path, &next, &error), MB_OK);
    assert_int_equal(entries(), 2 + 3);
    assert_int_equal(mb_file_write(living, "living", 6), MB_OK);
    assert_int_equal(mb_file_commit(living, &error), MB_OK);
    mb_file_abandon(next);
    assert_int_equal(entries(), 1 + 3);
    empty_folder();
}

static void test_writes_of_all_sizes(void **state)
{
    (void)state;
    const size_t total = 3 << 20;
    unsigned char *data = malloc(total);
    assert_non_null(data);
    for (size_t i = 0; i < total; i++)
        data[i] = (unsigned char)(i * 2654435761u >> 24);
    struct mb_file *file;
    assert_int_equal(mb_file_create(path, &file, NULL), MB_OK);
    size_t at = 0, step = 1;
    while (at < total) {
        const size_t bytes = step < total - at ? step : total - at;
        assert_int_equal(mb_file_write(file, data + at, bytes), MB_OK);
        at += bytes;
        step = step * 3 % 700001 + 1;
        assert_int_equal(mb_file_tell(file), at);
    }
    assert_int_equal(mb_file_commit(file, NULL), MB_OK);
    assert_content(path, data, total);
    free(data);
    empty_folder();
}

/* What is written anew replaces what was there, and the rest stays. */
static void test_seek(void **state)
{
    (void)state;
    struct mb_file *file;
    const size_t bytes = 300000; /* more than is buffered */
    char *data = malloc(bytes);
    assert_non_null(data);
    memset(data, 'a', bytes);
    assert_int_equal(mb_file_create(path, &file, NULL), MB_OK);
    assert_int_equal(mb_file_write(file, data, bytes), MB_OK);
    mb_file_seek(file, 10);
    assert_int_equal(mb_file_tell(file), 10);
    assert_int_equal(mb_file_write(file, "bcd", 3), MB_OK);
    assert_int_equal(mb_file_tell(file), 13);
    mb_file_seek(file, bytes - 1);
    assert_int_equal(mb_file_write(file, "ef", 2), MB_OK);
    mb_file_seek(file, 0);
    assert_int_equal(mb_file_commit(file, NULL), MB_OK);
    memcpy(data + 10, "bcd", 3);
    data = realloc(data, bytes + 1);
    assert_non_null(data);
    memcpy(data + bytes - 1, "ef", 2);
    assert_content(path, data, bytes + 1);
    free(data);
    empty_folder();
}

static void test_modes(void **state)
{
    (void)state;
    struct stat info;
    const mode_t old = umask(027);
    write_file(path, "x", 1);
    umask(old);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_int_equal(chmod(path, 0604), 0);
    write_file(path, "y", 1); /* a replaced file keeps its mode */
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0604);
    empty_folder();
}

static void test_refusals(void **state)
{
    (void)state;
    struct mb_file *file;
    struct mb_error error;
    assert_int_equal(mb_file_create("", &file, &error), MB_ERR_ARGUMENT);
    assert_int_equal(mb_file_create(folder, &file, &error), MB_ERR_IO);
    assert_one_line(&error, "it is a folder");
    assert_int_equal(mb_file_create("/dev/null", &file, &error), MB_ERR_IO);
    assert_one_line(&error, "not a regular file");
    assert_int_equal(mb_file_create(in_folder("no/such/file"), &file, &error), MB_ERR_IO);
    assert_one_line(&error, "No such file");
    assert_null(file);
    if (geteuid() != 0) { /* permissions do not stop root */
        assert_int_equal(chmod(folder, 0555), 0);
        assert_int_equal(mb_file_create(path, &file, &error), MB_ERR_IO);
        assert_one_line(&error, "check the permissions");
        assert_int_equal(chmod(folder, 0755), 0);
    }
    assert_int_equal(entries(), 0);
}

/* A limit on file sizes stands in for a full disk: write fails half-way with an errno. */
static void test_failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    static char data[1 << 20];
    write_file(path, "old", 3);
    struct rlimit old, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 300000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct mb_file *file;
    struct mb_error error = {0};
    assert_int_equal(mb_file_create(path, &file, &error), MB_OK);
    const enum mb_status written = mb_file_write(file, data, sizeof data),
                         later = mb_file_write(file, data, 1);
    const enum mb_status committed = mb_file_commit(file, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(written, MB_ERR_IO);
    assert_int_equal(later, MB_ERR_IO);
    assert_int_equal(committed, MB_ERR_IO);
    assert_one_line(&error, "cannot write");
    assert_one_line(&error, path);
    assert_content(path, "old", 3);
    assert_int_equal(entries(), 1);
    empty_folder();
}

static void test_read(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    struct mb_error error;
    write_file(path, "0123456789", 10);
    assert_int_equal(mb_file_read(path, 9, &data, &bytes, &error), MB_ERR_FILE);
    assert_one_line(&error, "larger than the 9 bytes");
    assert_null(data);
    assert_int_equal(mb_file_read(path, 10, &data, &bytes, &error), MB_OK);
    assert_int_equal(bytes, 10);
    free(data);
    assert_int_equal(mb_file_read(folder, SIZE_MAX, &data, &bytes, &error), MB_ERR_IO);
    assert_int_equal(mb_file_read(in_folder("missing"), SIZE_MAX, &data, &bytes, &error),
                     MB_ERR_IO);
    assert_one_line(&error, "missing");
    empty_folder();
}

/* Sizes are not known in advance on a pipe. */
static void test_read_grows(void **state)
{
    (void)state;
    int ends[2];
    char name[64], *data;
    size_t bytes;
    static char sent[60000];
    memset(sent, 'a', sizeof sent);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], sent, sizeof sent), sizeof sent);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(mb_file_read(name, 1 << 20, &data, &bytes, NULL), MB_OK);
    assert_int_equal(bytes, sizeof sent);
    assert_memory_equal(data, sent, sizeof sent);
    free(data);
    close(ends[0]);
    assert_int_equal(pipe(ends), 0); /* nor is the limit met before reading */
    assert_int_equal(write(ends[1], sent, sizeof sent), sizeof sent);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(mb_file_read(name, sizeof sent - 1, &data, &bytes, NULL), MB_ERR_FILE);
    assert_null(data);
    close(ends[0]);
}

static void test_mapping(void **state)
{
    (void)state;
    struct mb_mapping mapping;
    struct mb_error error;
    write_file(path, "mapped", 6);
    assert_int_equal(mb_mapping_open(path, &mapping, &error), MB_OK);
    assert_int_equal(mapping.bytes, 6);
    assert_memory_equal(mapping.data, "mapped", 6);
    mb_mapping_close(&mapping);
    assert_null(mapping.data);
    mb_mapping_close(&mapping);
    write_file(path, "", 0);
    assert_int_equal(mb_mapping_open(path, &mapping, &error), MB_OK);
    assert_null(mapping.data);
    assert_int_equal(mapping.bytes, 0);
    mb_mapping_close(&mapping);
    assert_int_equal(mb_mapping_open(folder, &mapping, &error), MB_ERR_IO);
    assert_one_line(&error, "a folder");
    assert_int_equal(mb_mapping_open("/dev/null", &mapping, &error), MB_ERR_IO);
    assert_int_equal(mb_mapping_open(in_folder("missing"), &mapping, &error), MB_ERR_IO);
    empty_folder();
}

static void test_directories(void **state)
{
    (void)state;
    struct stat info;
    struct mb_error error;
    char deep[300];
    snprintf(deep, sizeof deep, "%s/a//b/c/", folder);
    assert_int_equal(mb_directory_create(deep, &error), MB_OK);
    assert_int_equal(mb_directory_create(deep, &error), MB_OK);
    assert_int_equal(stat(deep, &info), 0);
    assert_true(S_ISDIR(info.st_mode));
    assert_int_equal(mb_directory_create("/", &error), MB_OK);
    write_file(path, "x", 1);
    assert_int_equal(mb_directory_create(in_folder("file/below"), &error), MB_ERR_IO);
    assert_one_line(&error, "Not a directory");
    assert_int_equal(remove(in_folder("a/b/c")), 0);
    assert_int_equal(remove(in_folder("a/b")), 0);
    empty_folder();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_replaces_and_abandon_leaves),
        cmocka_unit_test(test_left_behind),
        cmocka_unit_test(test_writes_of_all_sizes),
        cmocka_unit_test(test_seek),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_failed_write_leaves_the_old_file),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_grows),
        cmocka_unit_test(test_mapping),
        cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
