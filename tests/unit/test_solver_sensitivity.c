/* SPDX-License-Identifier: Apache-2.0 */
/* Sensitivity tables: what is written is read back bit for bit, and a file with anything wrong in
 * it loads nothing and says what. */
#include "mixbit/sensitivity.h"
#include "solver_files.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>

static struct mb_sensitivity *make_table(void)
{
    static const char *const names[] = {"token_embd.weight", "blk.0.attn_q.weight",
                                        "blk.11.ffn_down.weight"};
    static const enum mb_format formats[] = {MB_FORMAT_Q4_K, MB_FORMAT_IQ4_NL};
    struct mb_sensitivity *table;
    assert_int_equal(mb_sensitivity_create(3, names, 2, formats, &table), MB_OK);
    strcpy(table->model_hash, "00112233445566778899aabbccddeeff");
    strcpy(table->text_hash, "ffeeddccbbaa99887766554433221100");
    strcpy(table->method, "kl");
    strcpy(table->numerics, "f32");
    table->windows = 16;
    table->window = 256;
    table->tokens = 2032;
    table->noise_floor = 1.0 / 3e9;
    *mb_sensitivity_at(table, "blk.0.attn_q.weight", MB_FORMAT_Q4_K) =
        (struct mb_loss){1, 0.1, 0.1 / 3, 0x1.fffffffffffffp-3, 1e-300};
    *mb_sensitivity_at(table, "blk.11.ffn_down.weight", MB_FORMAT_IQ4_NL) =
        (struct mb_loss){1, 0, 0, 5e-324, 12};
    return table;
}

static void rows_and_columns_are_found(void **unused)
{
    (void)unused;
    struct mb_sensitivity *table = make_table();
    assert_ptr_equal(mb_sensitivity_at(table, "token_embd.weight", MB_FORMAT_Q4_K),
                     &table->losses[0]);
    assert_ptr_equal(mb_sensitivity_at(table, "blk.11.ffn_down.weight", MB_FORMAT_IQ4_NL),
                     &table->losses[5]);
    assert_null(mb_sensitivity_at(table, "token_embd.weight", MB_FORMAT_Q5_K));
    assert_null(mb_sensitivity_at(table, "blk.1.attn_q.weight", MB_FORMAT_Q4_K));
    assert_int_equal(table->losses[0].known, 0);
    mb_sensitivity_free(table);
    mb_sensitivity_free(NULL);
}

static void a_table_comes_back_bit_for_bit(void **unused)
{
    (void)unused;
    struct mb_sensitivity *table = make_table(), *read = NULL;
    char room[128];
    const char *path = scratch_path("table.json", room);
    assert_int_equal(mb_sensitivity_save(table, path, NULL), MB_OK);
    assert_int_equal(mb_sensitivity_load(path, &read, NULL), MB_OK);
    assert_string_equal(read->model_hash, table->model_hash);
    assert_string_equal(read->text_hash, table->text_hash);
    assert_string_equal(read->method, "kl");
    assert_string_equal(read->numerics, "f32");
    assert_int_equal(read->windows, 16);
    assert_int_equal(read->window, 256);
    assert_int_equal(read->tokens, 2032);
    assert_true(read->noise_floor == table->noise_floor);
    assert_int_equal(read->unit_count, 3);
    assert_int_equal(read->format_count, 2);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(read->units[i], table->units[i]);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(read->formats[i], table->formats[i]);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(read->losses[i].known, table->losses[i].known);
        assert_true(read->losses[i].mean == table->losses[i].mean);
        assert_true(read->losses[i].low == table->losses[i].low);
        assert_true(read->losses[i].high == table->losses[i].high);
        assert_true(read->losses[i].weight_error == table->losses[i].weight_error);
    }
    mb_sensitivity_free(read);
    mb_sensitivity_free(table);
    unlink(path);
}

static void what_cannot_be_read_back_is_not_written(void **unused)
{
    (void)unused;
    struct mb_sensitivity *table = make_table();
    struct mb_error error;
    char room[128];
    const char *path = scratch_path("table.json", room);
    table->losses[2].mean = NAN;
    assert_int_equal(mb_sensitivity_save(table, path, &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "blk.0.attn_q.weight"));
    assert_non_null(strstr(error.message, "q4_K"));
    table->losses[2].mean = -1e-9;
    assert_int_equal(mb_sensitivity_save(table, path, &error), MB_ERR_ARGUMENT);
    assert_int_equal(access(path, F_OK), -1);
    mb_sensitivity_free(table);
}

static void refuse(const char *text, const char *from, const char *to, const char *said)
{
    struct mb_sensitivity *read = (struct mb_sensitivity *)&read;
    struct mb_error error = {.message = ""};
    char room[128];
    const char *path = scratch_path("changed.json", room);
    char *changed = text_replace(text, from, to);
    text_write(path, changed, strlen(changed));
    assert_int_equal(mb_sensitivity_load(path, &read, &error), MB_ERR_FILE);
    assert_null(read);
    if (strstr(error.message, said) == NULL)
        fail_msg("expected '%s' in: %s", said, error.message);
    free(changed);
    unlink(path);
}

static void a_file_with_anything_wrong_loads_nothing(void **unused)
{
    (void)unused;
    struct mb_sensitivity *table = make_table(), *read;
    char room[128];
    const char *path = scratch_path("table.json", room);
    assert_int_equal(mb_sensitivity_save(table, path, NULL), MB_OK);
    mb_sensitivity_free(table);
    char *text = text_read(path);
    refuse(text, "mixbit-sensitivity", "mixbit-plan", "mixbit-plan");
    refuse(text, "\"version\": 1", "\"version\": 2", "version 2");
    refuse(text, "iq4_nl", "q9_9", "q9_9");
    refuse(text, "iq4_nl", "q4_K", "twice");
    refuse(text, "blk.0.attn_q.weight", "token_embd.weight", "twice");
    refuse(text, "12.0", "-0.5", "blk.11.ffn_down.weight in iq4_nl");
    refuse(text, "12.0", "1e999", "not valid JSON");
    refuse(text, "12.0", "\"12\"", "blk.11.ffn_down.weight in iq4_nl");
    refuse(text, "12.0", "12.0, 1", "blk.11.ffn_down.weight in iq4_nl");
    refuse(text, "null", "null, null", "token_embd.weight");
    refuse(text, "\"tokens\": 2032", "\"tokens\": -1", "tokens");
    refuse(text, "\"tokens\": 2032", "\"other\": 1", "tokens");
    refuse(text, "00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff0", "model");
    refuse(text, "\"noise_floor\": ", "\"noise_floor\": -", "noise_floor");
    refuse(text, "\"units\"", "\"unit\"", "units");
    /* The closing newline alone may be missing. */
    for (size_t bytes = 0; bytes + 2 < strlen(text); bytes += 7) {
        text_write(path, text, bytes);
        assert_int_equal(mb_sensitivity_load(path, &read, NULL), MB_ERR_FILE);
        assert_null(read);
    }
    unlink(path);
    assert_int_equal(mb_sensitivity_load(path, &read, NULL), MB_ERR_IO);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_and_columns_are_found),
                                       cmocka_unit_test(a_table_comes_back_bit_for_bit),
                                       cmocka_unit_test(what_cannot_be_read_back_is_not_written),
                                       cmocka_unit_test(a_file_with_anything_wrong_loads_nothing)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
