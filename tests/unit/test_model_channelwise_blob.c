/* SPDX-License-Identifier: Apache-2.0 */
/* Records of encoded matrices: what is read is what was encoded, bit for bit, in as many bytes as
 * were counted; the layout is the one of docs/codebook-files.md; and whatever is wrong with the
 * bytes is told, with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guard.h"
#include "model/channelwise_blob.h"
#include "model/codebook_products.h"
#include "made_up_rows.h"
#include "model/schemes.h"
#include "support/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct record {
    struct mb_channelwise encoded;
    uint8_t *data; /* ends where the memory does */
    size_t bytes;
};

static struct record make_record(const float *rows, size_t n, size_t k,
                                 const struct mb_channelwise_options *options, bool stacked)
{
    struct record r;
    assert_int_equal(mb_channelwise_encode(rows, n, k, NULL, options, NULL, &r.encoded), MB_OK);
    assert_true(mb_blob_holds(options, r.encoded.width_count == 1));
    r.bytes = mb_channelwise_total(&r.encoded.bytes);
    r.data = malloc(r.bytes);
    assert_non_null(r.data);
    memset(r.data, 0xff, r.bytes);
    mb_blob_write(&r.encoded, stacked, r.data);
    return r;
}

static void free_record(struct record *r)
{
    mb_channelwise_free(&r->encoded);
    free(r->data);
}

/* ---- there and back ---- */

static void assert_same_products(const struct mb_channelwise *a, const struct mb_channelwise *b)
{
    struct mb_codebook_weights packed[2];
    size_t bytes[2];
    assert_int_equal(mb_codebook_pack_encoded(a, NULL, &packed[0], &bytes[0]), MB_OK);
    assert_int_equal(mb_codebook_pack_encoded(b, NULL, &packed[1], &bytes[1]), MB_OK);
    assert_int_equal(bytes[0], bytes[1]);
    float *x = make_rows(3, a->k), *y[2];
    for (size_t i = 0; i < 2; i++) {
        y[i] = malloc(3 * a->n * sizeof *y[i]);
        assert_int_equal(mb_codebook_matmul(NULL, &packed[i], x, 3, a->k, y[i], a->n), MB_OK);
    }
    assert_memory_equal(y[0], y[1], 3 * a->n * sizeof *y[0]);
    for (size_t i = 0; i < 2; i++) {
        free(y[i]);
        mb_free_aligned(packed[i].data);
    }
    free(x);
}

static void check_round_trip(const struct mb_channelwise_options *options, size_t n, size_t k,
                             bool zeros)
{
    float *rows = make_rows(n, k), *back[2];
    if (zeros)
        memset(rows, 0, n * k * sizeof *rows);
    struct record r = make_record(rows, n, k, options, n % 2 != 0);
    struct mb_blob_shape shape;
    struct mb_channelwise read;
    struct mb_error error = {0};
    assert_int_equal(mb_blob_measure(r.data, r.bytes, &shape, &error), MB_OK);
    assert_true(shape.n == n && shape.k == k && shape.bytes == r.bytes);
    assert_true(shape.stacked == (n % 2 != 0));
    if (mb_blob_read(r.data, r.bytes, &read, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_memory_equal(&read.bytes, &r.encoded.bytes, sizeof read.bytes);
    assert_null(read.codes);
    for (size_t i = 0; i < 2; i++) {
        back[i] = malloc(n * k * sizeof *back[i]);
        mb_channelwise_decode(i == 0 ? &r.encoded : &read, 0, n, back[i]);
    }
    for (size_t i = 0; i < n * k; i++)
        assert_true(back[0][i] == back[1][i]); /* a level of int8 may be -0 before it is stored */
    assert_same_products(&r.encoded, &read);
    mb_channelwise_free(&read);
    free_record(&r);
    free(back[0]);
    free(back[1]);
    free(rows);
}

static void test_schemes(void **unused)
{
    (void)unused;
    static const size_t shapes[][2] = {{48, 160}, {35, 97}, {1, 40}, {20, 1}, {17, 4200}};
    size_t stored = 0;
    for (size_t i = 0; i < mb_scheme_count(); i++) {
        const struct mb_scheme *scheme = mb_scheme_at(i);
        struct mb_channelwise_options options = scheme->options;
        assert_int_equal(mb_blob_holds(&options, scheme->one_width), mb_scheme_has_kernel(scheme));
        if (!mb_scheme_has_kernel(scheme))
            continue;
        stored++;
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
            for (unsigned bits = 2; bits <= 4; bits++) {
                options.bits = bits + 0.5;
                if (scheme->one_width)
                    options.palette = 1u << bits;
                check_round_trip(&options, shapes[s][0], shapes[s][1], false);
            }
        check_round_trip(&options, 18, 33, true);
    }
    assert_true(stored >= 9);
}

/* Every kind of codebook and of scales, in all widths, whether a scheme has it or not. */
static void test_options(void **unused)
{
    (void)unused;
    for (int kind = MB_CODES_KMEANS; kind <= MB_CODES_LOG; kind++)
        for (int scales = MB_SCALE_OF_ROW; scales <= 32; scales += scales < 1 ? 1 : 31)
            for (int bytes = 0; bytes < 2; bytes++) {
                struct mb_channelwise_options options = {.bits = 4.5,
                                                         .axis = MB_CHANNELS_OF_INPUT,
                                                         .palette = 0x1fe,
                                                         .codes = (enum mb_code_kind)kind,
                                                         .scope = MB_SCOPE_TENSOR,
                                                         .byte_codebook = bytes != 0,
                                                         .scale_columns = scales,
                                                         .error_outliers = 0.01};
                check_round_trip(&options, 40, 70, false);
                options.axis = MB_CHANNELS_OF_OUTPUT;
                options.palette = 1u << 8;
                check_round_trip(&options, 40, 70, false);
                options.palette = 1u << 1;
                check_round_trip(&options, 5, 70, true);
            }
}

/* A record by hand, from nothing but the documentation: 2 rows, 3 columns, the middle one of 2
 * bits, the others of 1; scales by row; an outlier. */
static void test_layout(void **unused)
{
    (void)unused;
    static const uint8_t record[] = {
        2, 0, 0, 0, 3, 0, 0, 0,             /* n, k */
        0x03, 0x00, 0xff, 0xff, 1, 0, 0, 0, /* 1 and 2 bits; columns, fitted; by row; 1 outlier */
        0x02,                               /* widths 0, 1, 0 */
        /* column 1: codes 3, 0; column 0: 1, 0; column 2: 0, 1 */
        0x93, 0x00, 0xc0, 0x00, 0xbc, 0x00, 0x3c, 0x00, 0x40, /* -2 -1 1 2 */
        0x00, 0xb8, 0x00, 0x38,                               /* -0.5 0.5 */
        0x00, 0x3c, 0x00, 0x44,                               /* 1, 4 */
        1, 0, 0, 0, 5, 0, 0x00, 0x3e                          /* row 1, column 2: 1.5 */
    };
    static const float expected[] = {0.5f, 2, -0.5f, -2, -8, 2 + 1.5f};
    struct mb_channelwise c;
    struct mb_error error = {0};
    float rows[6];
    if (mb_blob_read(record, sizeof record, &c, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_int_equal(mb_channelwise_total(&c.bytes), sizeof record);
    mb_channelwise_decode(&c, 0, 2, rows);
    for (size_t i = 0; i < 6; i++)
        assert_true(rows[i] == expected[i]);
    mb_channelwise_free(&c);
}

/* ---- damage ---- */

static void check_damage(const struct record *r, size_t at, uint64_t value, size_t bytes,
                         const char *says, size_t where)
{
    uint8_t *copy = malloc(r->bytes);
    struct mb_channelwise c;
    struct mb_error error = {0};
    memcpy(copy, r->data, r->bytes);
    for (size_t i = 0; i < bytes; i++)
        copy[at + i] = (uint8_t)(value >> (8 * i));
    const enum mb_status status = mb_blob_read(copy, r->bytes, &c, &error);
    if (status != MB_ERR_FILE || strstr(error.message, says) == NULL ||
        error.where != (int64_t)where)
        fail_msg("byte %zu = %llx: expected '%s' at %zu, got %s, '%s' at %lld", at,
                 (unsigned long long)value, says, where, mb_status_string(status), error.message,
                 (long long)error.where);
    free(copy);
}

static void test_damage(void **unused)
{
    (void)unused;
    enum { N = 35, K = 97 };
    const struct mb_channelwise_options options = {.bits = 3.5,
                                                   .axis = MB_CHANNELS_OF_INPUT,
                                                   .palette = 1u << 2 | 1u << 3 | 1u << 5,
                                                   .scope = MB_SCOPE_TENSOR,
                                                   .scale_columns = 32,
                                                   .error_outliers = 0.01};
    float *rows = make_rows(N, K);
    struct record r = make_record(rows, N, K, &options, false);
    const struct mb_channelwise_bytes *b = &r.encoded.bytes;
    const size_t map = 16, codes = map + b->map, books = codes + b->codes,
                 scales = books + b->codebooks, outliers = scales + b->scales,
                 first = outliers + 12;
    assert_true(r.encoded.outlier_count > 4 && b->map == 25);
    const struct {
        size_t at;
        uint64_t value;
        size_t bytes;
        const char *says;
        size_t where;
    } damages[] = {
        {0, 0, 4, "number of rows", 0},
        {0, 0x80000000, 4, "number of rows", 0},
        {0, 0x7fffffff, 4, "more weights than", 0},
        {4, 0, 4, "number of columns", 4},
        {4, 0xffffffff, 4, "number of columns", 4},
        {4, 0x7fffffff, 4, "more weights than", 0},
        {0, 0x7fffffff7fffffff, 8, "more weights than", 0},
        {8, 0, 1, "palette", 8},
        {9, 1, 1, "rows of several widths", 8},
        {9, 4 << 1, 1, "does not know", 9},
        {9, 0x80, 1, "does not know", 9},
        {9, 0x41, 1, "which no kernel reads", 8},
        {9, 0x80, 1, "does not know", 9},
        {10, 1, 2, "cut off", r.bytes},
        {12, N * K + 1, 4, "more outliers than weights", 12},
        {12, r.encoded.outlier_count - 1, 4, "counts of outliers exceed", outliers + 8},
        {12, r.encoded.outlier_count + 1, 4, "cut off", r.bytes},
        {map, 0x03, 1, "not in the palette", map},
        {map + 24, 0xfc | (r.data[map + 24] & 3), 1, "bits that are not 0", map + 24},
        {books - 1, 0xff, 1, "bits that are not 0", books - 1},
        {books, 0x7c00, 2, "level is out of range", books},
        {books, 0xfe00, 2, "level is out of range", books},
        {books, 0x7bff, 2, "do not ascend", books},
        {scales, 0x7f800000, 4, "top of the scales", scales},
        {scales, 0x7fc00000, 4, "top of the scales", scales},
        {scales, 0xbf800000, 4, "top of the scales", scales},
        {scales, 0x80000000, 4, "top of the scales", scales},
        {scales, 0x7f7fffff, 4, "overflow", scales},
        {outliers, 0xffffffff, 4, "counts of outliers exceed", outliers},
        {first, 16 * K, 2, "beyond its rows", first},
        {first + 4, 0, 2, "out of order", first + 4},
        {first + 2, 0x7c00, 2, "not finite", first + 2},
        {first + 2, 0xffff, 2, "not finite", first + 2},
    };
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++)
        check_damage(&r, damages[i].at, damages[i].value, damages[i].bytes, damages[i].says,
                     damages[i].where);
    free_record(&r);
    free(rows);
}

/* Kinds of which test_damage has none: f16 scales by row, int8 levels, steps, places of 4 bytes. */
static void test_damage_of_other_kinds(void **unused)
{
    (void)unused;
    struct mb_channelwise_options options = {.bits = 4,
                                             .axis = MB_CHANNELS_OF_INPUT,
                                             .palette = 1u << 2 | 1u << 4,
                                             .scope = MB_SCOPE_TENSOR,
                                             .byte_codebook = true,
                                             .scale_columns = MB_SCALE_OF_ROW,
                                             .error_outliers = 0.01};
    enum { N = 17, K = 4200 };
    float *rows = make_rows(N, K);
    struct record r = make_record(rows, N, K, &options, false);
    const struct mb_channelwise_bytes *b = &r.encoded.bytes;
    size_t books = b->header + b->map + b->codes, scales = books + b->codebooks,
           outliers = scales + b->scales, first = outliers + 8;
    check_damage(&r, books, 0x7c00, 2, "step of a codebook", books);
    check_damage(&r, books + 2, 0x80, 1, "level is out of range", books + 2);
    check_damage(&r, books + 2, 0x7f, 1, "do not ascend", books);
    check_damage(&r, books, 0x8000 | (r.data[books] | r.data[books + 1] << 8), 2, "do not ascend",
                 books);
    check_damage(&r, scales, 0x7c00, 2, "scale is negative or not finite", scales);
    check_damage(&r, scales, 0x8001, 2, "scale is negative or not finite", scales);
    check_damage(&r, first, 16 * K, 4, "beyond its rows", first);
    check_damage(&r, first, 0xffffffff, 4, "beyond its rows", first);
    free_record(&r);
    options.codes = MB_CODES_UNIFORM_MIN;
    r = make_record(rows, N, K, &options, false);
    books = r.encoded.bytes.header + r.encoded.bytes.map + r.encoded.bytes.codes;
    check_damage(&r, books + 2, 0xfc00, 2, "step of a codebook", books + 2);
    free_record(&r);
    free(rows);
}

/* Nothing beyond the bytes is read, however few there are. */
static void test_truncation(void **unused)
{
    (void)unused;
    struct mb_channelwise_options wanted = mb_scheme_by_name("grouped-outliers")->options;
    struct mb_channelwise c;
    struct mb_blob_shape shape;
    struct mb_error error;
    wanted.bits = 3;
    wanted.error_outliers = 0.01;
    float *rows = make_rows(20, 40);
    struct record r = make_record(rows, 20, 40, &wanted, true);
    assert_true(r.encoded.outlier_count > 0);
    struct guard memory = guard_create(r.bytes);
    for (size_t bytes = 0; bytes < r.bytes; bytes++) {
        const uint8_t *cut = guard_copy(&memory, r.data, bytes);
        assert_int_equal(mb_blob_read(cut, bytes, &c, &error), MB_ERR_FILE);
        assert_true(error.where <= (int64_t)bytes);
        assert_int_equal(mb_blob_measure(cut, bytes, &shape, &error), MB_ERR_FILE);
    }
    guard_destroy(&memory);
    free_record(&r);
    free(rows);
}

/* Whatever byte is changed: refused, or an encoding that decodes to numbers and can be packed. */
static void test_every_byte(void **unused)
{
    (void)unused;
    static const char *const names[] = {"grouped-outliers", "cmpq-tensor", "kmeans-g64",
                                        "uniform-tensor"};
    static const uint8_t changes[] = {0x01, 0x80, 0xff, 0x10};
    size_t refused = 0, taken = 0;
    for (size_t s = 0; s < sizeof names / sizeof names[0]; s++) {
        const struct mb_scheme *scheme = mb_scheme_by_name(names[s]);
        struct mb_channelwise_options options = scheme->options;
        options.bits = 3;
        options.palette = scheme->one_width ? 1u << 3 : options.palette;
        float *rows = make_rows(20, 40);
        struct record r = make_record(rows, 20, 40, &options, false);
        struct guard memory = guard_create(r.bytes);
        for (size_t i = 0; i < r.bytes * sizeof changes; i++) {
            struct mb_channelwise c;
            struct mb_error error = {0};
            uint8_t *data = guard_copy(&memory, r.data, r.bytes);
            data[i / sizeof changes] ^= changes[i % sizeof changes];
            const enum mb_status status = mb_blob_read(data, r.bytes, &c, &error);
            refused += status != MB_OK;
            taken += status == MB_OK;
            if (status != MB_OK) {
                assert_int_equal(status, MB_ERR_FILE);
                assert_true(error.where >= 0 && error.where <= (int64_t)r.bytes);
                continue;
            }
            struct mb_codebook_weights packed;
            size_t bytes;
            float *back = malloc(c.n * c.k * sizeof *back);
            mb_channelwise_decode(&c, 0, c.n, back);
            for (size_t w = 0; w < c.n * c.k; w++)
                assert_true(isfinite(back[w]));
            assert_int_equal(mb_codebook_pack_encoded(&c, NULL, &packed, &bytes), MB_OK);
            mb_free_aligned(packed.data);
            free(back);
            mb_channelwise_free(&c);
        }
        guard_destroy(&memory);
        free_record(&r);
        free(rows);
    }
    assert_true(refused > 100 && taken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damage_of_other_kinds),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
