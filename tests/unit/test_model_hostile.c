/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF files made to break a reader. Named cases must be refused with MB_ERR_FILE, the byte where
 * it went wrong and a line that says what; deterministic mutations (every truncation, every field
 * set to extreme values, 2000 flipped bits) must crash nothing, which the sanitizers watch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fuzz/exercise.h"
#include "unit/gguf_builder.h"

static const uint64_t shape[2] = {32, 2};

/* A tokenizer and two tensors, small enough for every byte of it to be tried. */
static void build_base(struct builder *b)
{
    static const char *const tokens[] = {"a",
                                         "b",
                                         "ab",
                                         "\xc4\xa0",
                                         "<s>",
                                         "\xc4\xa0"
                                         "a"};
    gb_header(b, 3, 2, 9);
    gb_pair_string(b, "general.architecture", "llama");
    gb_pair_u32(b, "general.alignment", 32);
    gb_pair_string(b, "tokenizer.ggml.model", "gpt2");
    gb_pair_string(b, "tokenizer.ggml.pre", "gpt-2");
    gb_array(b, "tokenizer.ggml.tokens", 8, 6);
    for (size_t i = 0; i < 6; i++)
        gb_string(b, tokens[i]);
    gb_array(b, "tokenizer.ggml.token_type", 5, 6);
    for (uint32_t i = 0; i < 6; i++)
        gb_u32(b, i == 4 ? 4 : 1);
    gb_array(b, "tokenizer.ggml.merges", 8, 2);
    gb_string(b, "a b"), gb_string(b, "\xc4\xa0 a");
    gb_pair_bool(b, "tokenizer.ggml.add_bos_token", true);
    gb_pair_u32(b, "tokenizer.ggml.bos_token_id", 4);
    gb_tensor(b, "token_embd.weight", 2, shape, 8, 0);
    gb_tensor(b, "blk.0.attn_q.weight", 2, shape, 2, 96);
    gb_pad(b, 32);
    for (size_t i = 0; i < 96 + 64; i++)
        gb_number(b, i, 1);
}

/* ---- named cases ---- */

static void refuse(const struct builder *b, const char *wanted, int64_t where)
{
    struct mb_model *model = NULL;
    struct mb_error error = {.message = "", .where = -2};
    const char *path = gb_scratch("case.gguf");
    gb_save(b, path);
    const enum mb_status status = mb_model_open(path, &model, &error);
    assert_null(model);
    if (status != MB_ERR_FILE || strstr(error.message, wanted) == NULL ||
        strstr(error.message, path) == NULL || strchr(error.message, '\n') != NULL ||
        (where >= 0 && error.where != where) || error.where < 0)
        fail_msg("status %d at %lld (wanted %lld): '%s' (wanted '%s')", (int)status,
                 (long long)error.where, (long long)where, error.message, wanted);
    assert_int_equal(remove(path), 0);
}

static void test_no_gguf(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", "G", "GGU", "GGUX", "<html>not found</html>", "PK\3\4", "ggml...."};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct builder b = {NULL, 0, 0};
        gb_bytes(&b, texts[i], strlen(texts[i]));
        refuse(&b, i == 0 ? "empty" : "not a GGUF file", 0);
        gb_free(&b);
    }
    struct mb_error error;
    struct mb_model *model = NULL;
    assert_int_equal(mb_model_open(gb_scratch("missing.gguf"), &model, &error), MB_ERR_IO);
    assert_int_equal(mb_model_open(gb_scratch(""), &model, &error), MB_ERR_IO); /* a folder */
}

static void test_header(void **state)
{
    (void)state;
    static const struct {
        size_t at, bytes;
        uint64_t value;
        const char *wanted;
    } rows[] = {
        {4, 4, 1, "version 1"},
        {4, 4, 4, "version 4"},
        {4, 4, 0x03000000, "big-endian"},
        {8, 8, (uint64_t)1 << 60, "1152921504606846976 tensors"},
        {8, 8, UINT64_MAX, "tensors"},
        {8, 8, 1000, "claims 1000 tensors"},
        {16, 8, (uint64_t)1 << 60, "1152921504606846976 metadata pairs"},
        {16, 8, UINT64_MAX, "metadata pairs"},
        {16, 8, 10000, "claims 10000 metadata pairs"},
        {16, 8, 100, "claims 100 metadata pairs"}, /* fewer than bytes, more than fit */
        {8, 8, 37, "claims 37 tensors"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct builder b = {NULL, 0, 0};
        build_base(&b);
        gb_poke(&b, rows[i].at, rows[i].value, rows[i].bytes);
        refuse(&b, rows[i].wanted, (int64_t)rows[i].at);
        gb_free(&b);
    }
}

/* A file whose only pair is written by hand after the header; `where` counts from its first byte.
 */
struct bad_pair {
    const char *wanted;
    int64_t where;
    void (*build)(struct builder *b);
};

static void key_length(struct builder *b) { gb_u64(b, UINT64_MAX), gb_u64(b, 0); }
static void key_empty(struct builder *b) { gb_string(b, ""), gb_u32(b, 4), gb_u32(b, 0); }
static void key_zero(struct builder *b) { gb_text(b, "a\0b", 3), gb_u32(b, 4), gb_u32(b, 0); }
static void key_type(struct builder *b) { gb_key(b, "key", 13), gb_u64(b, 0); }
static void text_length(struct builder *b) { gb_key(b, "key", 8), gb_u64(b, (uint64_t)1 << 40); }
static void text_wraps(struct builder *b) { gb_key(b, "key", 8), gb_u64(b, UINT64_MAX - 3); }
static void array_nested(struct builder *b)
{
    gb_array(b, "key", 9, 1), gb_u32(b, 4), gb_u64(b, 0);
}
static void array_type(struct builder *b) { gb_array(b, "key", 99, 1); }
static void array_long(struct builder *b) { gb_array(b, "key", 0, (uint64_t)1 << 61); }
static void array_wraps(struct builder *b) { gb_array(b, "key", 10, ((uint64_t)1 << 61) + 1); }
/* More elements than the bytes that are left hold, fewer than those bytes. */
static void array_wide(struct builder *b)
{
    gb_array(b, "key", 10, 30);
    for (size_t i = 0; i < 20; i++)
        gb_u64(b, i);
}
static void strings_many(struct builder *b) { gb_array(b, "key", 8, UINT64_MAX / 8 + 2); }
static void strings_long(struct builder *b)
{
    gb_array(b, "key", 8, 2), gb_string(b, "x"), gb_u64(b, UINT64_MAX - 8), gb_u64(b, 0);
}
static void alignment_zero(struct builder *b) { gb_pair_u32(b, "general.alignment", 0); }
static void alignment_odd(struct builder *b) { gb_pair_u32(b, "general.alignment", 48); }
static void alignment_type(struct builder *b) { gb_pair_string(b, "general.alignment", "32"); }
static void value_cut(struct builder *b) { gb_key(b, "longer key", 10), gb_u32(b, 0); }

static void test_pairs(void **state)
{
    (void)state;
    static const struct bad_pair cases[] = {
        {"a metadata key has 18446744073709551615 bytes", 0, key_length},
        {"has 0 bytes", 0, key_empty},
        {"zero byte", 0, key_zero},
        {"value type 13", 11, key_type},
        {"claims 1099511627776 bytes", 15, text_length},
        {"claims 18446744073709551612 bytes", 15, text_wraps},
        {"array of arrays", 15, array_nested},
        {"unknown type (type 99)", 15, array_type},
        {"claims 2305843009213693952 elements", 15, array_long},
        {"claims 2305843009213693953 elements", 15, array_wraps},
        {"claims 30 elements", 15, array_wide},
        {"elements", 15, strings_many},
        {"string 1 of key 'key' claims", 15 + 12 + 9, strings_long},
        {"general.alignment is 0", 0, alignment_zero},
        {"general.alignment is 48", 0, alignment_odd},
        {"another type than uint32", 0, alignment_type},
        {"ends inside the value of 'longer key'", 22, value_cut},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct builder b = {NULL, 0, 0};
        gb_header(&b, 3, 0, 1);
        cases[i].build(&b);
        refuse(&b, cases[i].wanted, 24 + cases[i].where);
        gb_free(&b);
    }
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 0, 3);
    gb_pair_u32(&b, "same", 1), gb_pair_u32(&b, "other", 1);
    const size_t second = b.bytes;
    gb_pair_u32(&b, "same", 2);
    refuse(&b, "key 'same' occurs twice", (int64_t)second);
    gb_free(&b);
}

struct bad_tensor {
    const char *wanted;
    uint32_t dims, type;
    uint64_t ne[5], offset;
};

static void test_tensors(void **state)
{
    (void)state;
    static const uint64_t big = (uint64_t)1 << 32, huge = (uint64_t)1 << 63;
    const struct bad_tensor cases[] = {
        {"5 dimensions", 5, 0, {1, 1, 1, 1, 1}, 0},
        {"4294967295 dimensions", UINT32_MAX, 0, {1}, 0},
        {"dimension of 0", 2, 0, {32, 0}, 0},
        {"dimension of 0", 1, 0, {0}, 0},
        {"impossible dimension", 2, 0, {big, big}, 0},
        {"impossible dimension", 4, 0, {65536, 65536, 65536, 65536}, 0},
        {"impossible dimension", 3, 0, {huge, 2, 1}, 0},
        {"overflows", 1, 0, {huge}, 0},
        {"beyond the file", 1, 0, {big}, 0},
        {"beyond the file", 1, 0, {9}, 0},
        {"beyond the file", 1, 0, {8}, 32},
        {"beyond the file", 1, 0, {8}, (uint64_t)1 << 40},
        {"beyond the file", 1, 0, {8}, UINT64_MAX - 31},
        {"no multiple of the alignment", 1, 0, {4}, 8},
        {"no multiple of q8_0's block of 32", 2, 8, {33, 1}, 0},
        {"no multiple of q4_K's block of 256", 2, 12, {128, 2}, 0},
        {"ggml type 4,", 1, 4, {32}, 0},
        {"ggml type 31,", 1, 31, {32}, 0},
        {"ggml type 99,", 1, 99, {32}, 0},
        {"ggml type -1,", 1, UINT32_MAX, {32}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t written = cases[i].dims > 5 ? 1 : cases[i].dims;
        struct builder b = {NULL, 0, 0};
        gb_header(&b, 3, 1, 0);
        gb_tensor(&b, "t.weight", written, cases[i].ne, cases[i].type, cases[i].offset);
        gb_poke(&b, 24 + 8 + 8, cases[i].dims, 4);
        gb_pad(&b, 32);
        for (size_t byte = 0; byte < 32; byte++)
            gb_number(&b, 1, 1);
        refuse(&b, cases[i].wanted, cases[i].dims > 4 ? 24 + 8 + 8 : 24);
        gb_free(&b);
    }
}

static void test_tensor_pairs(void **state)
{
    (void)state;
    static const struct {
        const char *wanted, *second;
        uint64_t offset;
    } cases[] = {
        {"tensor 'one' occurs twice", "one", 32},
        {"tensor 'two' overlaps", "two", 0},
        {"zero byte", "t\0o", 32},
    };
    const uint64_t ne[1] = {8};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct builder b = {NULL, 0, 0};
        gb_header(&b, 3, 2, 0);
        gb_tensor(&b, "one", 1, ne, 0, 0);
        const size_t second = b.bytes;
        gb_text(&b, cases[i].second, 3), gb_u32(&b, 1), gb_u64(&b, 8), gb_u32(&b, 0);
        gb_u64(&b, cases[i].offset);
        gb_pad(&b, 32);
        for (size_t byte = 0; byte < 64; byte++)
            gb_number(&b, 1, 1);
        refuse(&b, cases[i].wanted, (int64_t)second);
        gb_free(&b);
    }
    /* An enormous alignment only moves the data section out of the file. */
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 1, 1);
    gb_pair_u32(&b, "general.alignment", (uint32_t)1 << 31);
    gb_tensor(&b, "one", 1, ne, 0, 0);
    gb_pad(&b, 64);
    refuse(&b, "beyond the file", -1);
    gb_free(&b);
}

/* What a terminal would obey never reaches the message. */
static void test_names_are_printable(void **state)
{
    (void)state;
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 0, 1);
    gb_key(&b,
           "\x1b[2J\nkey\xff"
           "0123456789012345678901234567890123456789012345678901234567890",
           77);
    refuse(&b, "key '?[2J?key?0123456789", -1);
    gb_free(&b);
}

/* Found by fuzzing: token types as unsigned numbers beyond what an int holds. */
static void test_unsigned_token_types(void **state)
{
    (void)state;
    static const char key[] = "tokenizer.ggml.token_type";
    struct builder b = {NULL, 0, 0};
    build_base(&b);
    size_t at = 0;
    while (memcmp(b.data + at, key, sizeof key - 1) != 0)
        at++;
    at += sizeof key - 1 + 4; /* the elements' type, their number, the elements */
    gb_poke(&b, at, 4, 4);
    gb_poke(&b, at + 12, UINT32_MAX - 5, 4);
    const char *path = gb_scratch("case.gguf");
    gb_save(&b, path);
    gb_free(&b);
    struct mb_model *model = NULL;
    struct mb_tokenizer *tokenizer = NULL;
    struct mb_error error = {.message = ""};
    assert_int_equal(mb_model_open(path, &model, &error), MB_OK);
    assert_int_equal(mb_tokenizer_create(model, &tokenizer, &error), MB_ERR_FILE);
    assert_non_null(strstr(error.message, key));
    mb_model_close(model);
    assert_int_equal(remove(path), 0);
}

/* ---- mutations ---- */

static size_t try_bytes(const uint8_t *data, size_t bytes)
{
    const char *path = gb_scratch("mutated.gguf");
    gb_save_bytes(path, data, bytes);
    const size_t accepted = (size_t)exercise_file(path);
    (void)remove(path);
    return accepted;
}

static void test_base_is_accepted(void **state)
{
    (void)state;
    struct builder b = {NULL, 0, 0};
    build_base(&b);
    assert_int_equal(try_bytes(b.data, b.bytes), 1);
    gb_free(&b);
}

/* The fuzzer's seeds, files that once crashed something among them. */
static void test_seeds(void **state)
{
    (void)state;
    static const char *const seeds[] = {"gpt2-default", "gpt2-llama-bpe", "spm", "codebooks",
                                        "token-types-unsigned"};
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) {
        char path[128];
        (void)snprintf(path, sizeof path, "tests/fuzz/seeds/%s.gguf", seeds[i]);
        assert_int_equal(exercise_file(path), 1);
    }
}

/* The file's last tensor ends 28 bytes before its end: only those may be missing. */
static void test_truncations(void **state)
{
    (void)state;
    struct builder b = {NULL, 0, 0};
    build_base(&b);
    size_t accepted = 0;
    for (size_t bytes = 0; bytes < b.bytes; bytes++)
        accepted += try_bytes(b.data, bytes);
    assert_int_equal(accepted, 28);
    gb_free(&b);
}

static void test_extreme_fields(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,          1,
                                      0x7fffffff, 0x80000000,
                                      UINT32_MAX, (uint64_t)1 << 60,
                                      INT64_MAX,  (uint64_t)1 << 63,
                                      UINT64_MAX};
    struct builder b = {NULL, 0, 0};
    build_base(&b);
    uint8_t *copy = malloc(b.bytes);
    assert_non_null(copy);
    size_t accepted = 0, tried = 0;
    for (size_t at = 4; at + 8 < b.bytes - 160; at++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++)
            for (size_t bytes = 4; bytes <= 8; bytes += 4) {
                struct builder changed = {copy, b.bytes, b.bytes};
                memcpy(copy, b.data, b.bytes);
                gb_poke(&changed, at, values[v], bytes);
                accepted += try_bytes(copy, b.bytes);
                tried++;
            }
    assert_true(accepted > 0 && accepted < tried / 2);
    free(copy);
    gb_free(&b);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    struct builder b = {NULL, 0, 0};
    build_base(&b);
    uint64_t random = 20260417; /* splitmix64, so that every run tries the same bits */
    for (size_t i = 0; i < 2000; i++) {
        const size_t flips = 1 + i % 3;
        uint8_t *copy = malloc(b.bytes);
        assert_non_null(copy);
        memcpy(copy, b.data, b.bytes);
        for (size_t f = 0; f < flips; f++) {
            random += 0x9e3779b97f4a7c15u;
            uint64_t mixed = (random ^ random >> 30) * 0xbf58476d1ce4e5b9u;
            mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
            mixed ^= mixed >> 31;
            copy[mixed / 8 % b.bytes] ^= (uint8_t)(1u << mixed % 8);
        }
        (void)try_bytes(copy, b.bytes);
        free(copy);
    }
    gb_free(&b);
}

static int remove_scratch(void **state)
{
    (void)state;
    return remove(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_gguf),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_tensor_pairs),
        cmocka_unit_test(test_names_are_printable),
        cmocka_unit_test(test_unsigned_token_types),
        cmocka_unit_test(test_base_is_accepted),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_extreme_fields),
        cmocka_unit_test(test_flipped_bits),
    };
    return cmocka_run_group_tests_name("model_hostile", tests, NULL, remove_scratch);
}
