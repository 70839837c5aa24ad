/* SPDX-License-Identifier: Apache-2.0 */
/* JSON errors say file, line and key; what is saved is sorted, whole and reads back the same. */
#include "support/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char path[] = "/tmp/mixbit-json-XXXXXX";

static int setup(void **state)
{
    (void)state;
    const int descriptor = mkstemp(path);
    return descriptor < 0 ? -1 : close(descriptor);
}

static int teardown(void **state)
{
    (void)state;
    return remove(path);
}

static enum mb_status load(const char *text, size_t bytes, json_t **root, struct mb_error *error)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    return mb_json_load(path, 1 << 20, root, error);
}

static void assert_says(const struct mb_error *error, const char *part)
{
    assert_null(strchr(error->message, '\n'));
    assert_non_null(strstr(error->message, path));
    if (strstr(error->message, part) == NULL)
        fail_msg("expected '%s' in: %s", part, error->message);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "{",
                                      "{\"a\": 1",
                                      "[1,]",
                                      "{\"a\": 1}\n{\"b\": 2}",
                                      "{\"a\": 1, \"a\": 2}",
                                      "nul",
                                      "{\"a\": 1e999}",
                                      "\xff\xfe"};
    struct mb_error error;
    json_t *root;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&error, 0, sizeof error);
        assert_int_equal(load(bad[i], strlen(bad[i]), &root, &error), MB_ERR_FILE);
        assert_null(root);
        assert_int_equal(error.status, MB_ERR_FILE);
        assert_says(&error, "not valid JSON");
    }
    assert_int_equal(load("{\n\"a\":\n oops}", 13, &root, &error), MB_ERR_FILE);
    assert_int_equal(error.where, 3);
    assert_int_equal(load("{}\0{}", 5, &root, &error), MB_ERR_FILE); /* a NUL is no end of file */
    assert_int_equal(mb_json_load("/nonexistent/x.json", 10, &root, &error), MB_ERR_IO);
    assert_int_equal(load("{\"a\": [1, 2, 3]}", 16, &root, &error), MB_OK);
    json_decref(root);
    assert_int_equal(mb_json_load(path, 8, &root, &error), MB_ERR_FILE);
    assert_says(&error, "larger than");
}

/* Brackets nested without end must not exhaust the stack. */
static void test_deep_nesting(void **state)
{
    (void)state;
    static char text[500000];
    json_t *root;
    struct mb_error error;
    memset(text, '[', sizeof text);
    assert_int_equal(load(text, sizeof text, &root, &error), MB_ERR_FILE);
}

static void test_typed_access(void **state)
{
    (void)state;
    static const char text[] = "{\"n\": 1.5, \"i\": 42, \"neg\": -1, \"s\": \"text\", \"o\": {}, "
                               "\"z\": null, \"t\": true}";
    json_t *root;
    struct mb_error error;
    double number = 0;
    size_t size = 0;
    const char *string = NULL;
    assert_int_equal(load(text, strlen(text), &root, &error), MB_OK);
    assert_int_equal(mb_json_number(root, "n", &number, path, &error), MB_OK);
    assert_true(number == 1.5);
    assert_int_equal(mb_json_number(root, "i", &number, path, &error), MB_OK);
    assert_true(number == 42);
    assert_int_equal(mb_json_size(root, "i", &size, path, &error), MB_OK);
    assert_int_equal(size, 42);
    assert_int_equal(mb_json_string(root, "s", &string, path, &error), MB_OK);
    assert_string_equal(string, "text");

    assert_int_equal(mb_json_number(root, "s", &number, path, &error), MB_ERR_FILE);
    assert_says(&error, "key 's': expected a number, found a string");
    assert_int_equal(mb_json_number(root, "missing", &number, path, &error), MB_ERR_FILE);
    assert_says(&error, "key 'missing': expected a number, found nothing");
    assert_int_equal(mb_json_number(root, "z", &number, path, &error), MB_ERR_FILE);
    assert_says(&error, "found null");
    assert_int_equal(mb_json_size(root, "n", &size, path, &error), MB_ERR_FILE);
    assert_int_equal(mb_json_size(root, "neg", &size, path, &error), MB_ERR_FILE);
    assert_says(&error, "found -1");
    assert_int_equal(mb_json_size(root, "t", &size, path, &error), MB_ERR_FILE);
    assert_says(&error, "found a boolean");
    assert_int_equal(mb_json_string(root, "o", &string, path, &error), MB_ERR_FILE);
    assert_says(&error, "key 'o': expected a string, found an object");
    assert_int_equal(mb_json_string(json_object_get(root, "i"), "x", &string, path, &error),
                     MB_ERR_FILE);
    assert_int_equal(mb_json_string(NULL, "x", &string, path, NULL), MB_ERR_FILE);
    assert_true(number == 42); /* a failed access changes nothing */
    assert_int_equal(size, 42);
    json_decref(root);
}

static void test_save_is_sorted_and_exact(void **state)
{
    (void)state;
    json_t *root = json_pack("{s:f, s:i, s:[i,i], s:s}", "tenth", 0.1, "answer", 42, "list", 1, 2,
                             "name", "q4_K \xc3\xa9");
    assert_non_null(root);
    struct mb_error error;
    char *text;
    size_t bytes;
    json_t *again;
    assert_int_equal(mb_json_save(path, root, &error), MB_OK);
    assert_int_equal(mb_file_read(path, 1 << 20, &text, &bytes, &error), MB_OK);
    assert_string_equal(
        text,
        "{\n  \"answer\": 42,\n  \"list\": [\n    1,\n    2\n  ],\n  \"name\": \"q4_K \xc3\xa9\",\n"
        "  \"tenth\": 0.10000000000000001\n}\n");
    free(text);
    assert_int_equal(mb_json_load(path, 1 << 20, &again, &error), MB_OK);
    assert_true(json_equal(root, again));
    json_decref(again);
    assert_int_equal(mb_json_save("/nonexistent/x.json", root, &error), MB_ERR_IO);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_typed_access),
        cmocka_unit_test(test_save_is_sorted_and_exact),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
