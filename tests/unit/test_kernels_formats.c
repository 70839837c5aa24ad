/* SPDX-License-Identifier: Apache-2.0 */
/* The table of formats, dequantization, splitting and joining. The oracles are GGUF's own numbers,
 * written here a second time, and the values that ggml reads from blocks of random bytes
 * (tests/golden/formats, made by scripts/make_golden_formats.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/encode.h"
#include "kernels/grids.h"
#include "kernels/half.h"
#include "kernels/panel.h"
#include "guard.h"
#include "read_golden.h"

#include <math.h>

/* GGUF's table: type id, name, weights and bytes per block, what llama.cpp falls back to. */
static const struct {
    int id;
    const char *name;
    unsigned block_k, block_bytes;
    const char *fallback;
} gguf_types[] = {
    {0, "f32", 1, 4, "f32"},
    {1, "f16", 1, 2, "f16"},
    {2, "q4_0", 32, 18, "f16"},
    {3, "q4_1", 32, 20, "f16"},
    {6, "q5_0", 32, 22, "f16"},
    {7, "q5_1", 32, 24, "f16"},
    {8, "q8_0", 32, 34, "f16"},
    {10, "q2_K", 256, 84, "q4_0"},
    {11, "q3_K", 256, 110, "q4_0"},
    {12, "q4_K", 256, 144, "q5_0"},
    {13, "q5_K", 256, 176, "q5_1"},
    {14, "q6_K", 256, 210, "q8_0"},
    {20, "iq4_nl", 32, 18, "f16"},
    {23, "iq4_xs", 256, 136, "iq4_nl"},
    {30, "bf16", 1, 2, "bf16"},
    {21, "iq3_s", 256, 110, "iq4_nl"},
    {18, "iq3_xxs", 256, 98, "iq4_nl"},
    {22, "iq2_s", 256, 82, "iq4_nl"},
    {17, "iq2_xs", 256, 74, "iq4_nl"},
    {16, "iq2_xxs", 256, 66, "iq4_nl"},
    {29, "iq1_m", 256, 56, "iq4_nl"},
    {19, "iq1_s", 256, 50, "iq4_nl"},
    {35, "tq2_0", 256, 66, "q4_0"},
    {34, "tq1_0", 256, 54, "q4_0"},
    {39, "mxfp4", 32, 17, "f16"},
    {40, "nvfp4", 64, 36, "f16"},
};
enum { TYPES = sizeof gguf_types / sizeof *gguf_types };

static void test_table(void **state)
{
    (void)state;
    assert_int_equal(mb_format_count(), TYPES);
    assert_null(mb_format_at(TYPES));
    for (size_t i = 0; i < TYPES; i++) {
        const struct mb_format_info *info = mb_format_at(i);
        assert_int_equal(info->id, gguf_types[i].id);
        assert_string_equal(info->name, gguf_types[i].name);
        assert_int_equal(info->block_k, gguf_types[i].block_k);
        assert_int_equal(info->block_bytes, gguf_types[i].block_bytes);
        assert_true(info->bits == 8.0 * gguf_types[i].block_bytes / gguf_types[i].block_k);
        assert_ptr_equal(mb_format_info(info->id), info);
        assert_int_equal(mb_format_by_name(info->name), info->id);
        assert_non_null(mb_format_ops(info->id));
        assert_int_equal(mb_format_ops(info->id)->split == NULL, mb_coding_is_float(info->coding));
    }
    const int strangers[] = {-1, 4, 5, 9, 15, 24, 28, 31, 36, 41, 1000, -1000};
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        assert_null(mb_format_info((enum mb_format)strangers[i]));
        assert_null(mb_format_ops((enum mb_format)strangers[i]));
        assert_int_equal(mb_format_row_bytes((enum mb_format)strangers[i], 256), 0);
        assert_int_equal(mb_format_fit((enum mb_format)strangers[i], 256), MB_FORMAT_NONE);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_int_equal(mb_format_by_name("Q4_K"), MB_FORMAT_Q4_K);
    assert_int_equal(mb_format_by_name("q4_k"), MB_FORMAT_Q4_K);
    assert_int_equal(mb_format_by_name("IQ4_xs"), MB_FORMAT_IQ4_XS);
    const char *const unknown[] = {"", "q4", "q4_K_M", " q4_K", "q4_K ", "iq4", "f", "f160"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_int_equal(mb_format_by_name(unknown[i]), MB_FORMAT_NONE);
    assert_int_equal(mb_format_by_name(NULL), MB_FORMAT_NONE);
    assert_string_equal(mb_coding_name(MB_CODING_LUT4), "lut4");
    assert_string_equal(mb_coding_name(MB_CODING_F32), "f32");
    assert_string_equal(mb_coding_name(MB_CODING_B8), "b8");
    assert_string_equal(mb_scale_kind_name(MB_SCALE_G16X2S6), "g16x2s6");
    assert_string_equal(mb_scale_kind_name(MB_SCALE_G32X2MIN), "g32x2min");
    assert_string_equal(mb_scale_kind_name(MB_SCALE_NONE), "none");
    assert_string_equal(mb_activation_name(MB_ACTIVATION_I8G256), "i8g256");
    assert_string_equal(mb_activation_name((enum mb_activation)77), "unknown");
}

/* Formats of codebook matrices have names, bits and numbers that GGUF has not, and no rows. */
static void test_codebooks(void **state)
{
    (void)state;
    const struct mb_format_info *info;
    size_t count = 0;
    double bits = 0;
    uint8_t bytes[64] = {0};
    float row[32] = {0};
    for (size_t i = 0; (info = mb_any_format_at(i)) != NULL; i++) {
        assert_ptr_equal(mb_format_info(info->id), info);
        assert_int_equal(mb_format_by_name(info->name), info->id);
        assert_int_equal(info->codebook, i >= TYPES);
        assert_int_equal(mb_format_is_codebook(info->id), i >= TYPES);
        if (!info->codebook) {
            assert_ptr_equal(mb_format_at(i), info);
            continue;
        }
        count++;
        assert_true(info->bits > bits && info->id >= 48 && (int)info->id < 64 && !info->candidate);
        bits = info->bits;
        assert_int_equal(mb_format_fit(info->id, 577), info->id);
        assert_int_equal(mb_format_row_bytes(info->id, 577), (size_t)(577 * bits / 8 + 0.999));
        assert_int_equal(mb_dequantize(info->id, bytes, 1, 32, row), MB_ERR_UNSUPPORTED);
    }
    assert_true(count > 4 && bits == 4);
    assert_int_equal(mb_format_by_name("CB2.25"), MB_FORMAT_CB2_25);
    assert_int_equal(mb_format_by_name("cb2."), MB_FORMAT_NONE);
}

static void test_row_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < TYPES; i++) {
        const enum mb_format format = (enum mb_format)gguf_types[i].id;
        const uint64_t k = gguf_types[i].block_k, bytes = gguf_types[i].block_bytes;
        assert_int_equal(mb_format_row_bytes(format, 0), 0);
        assert_int_equal(mb_format_row_bytes(format, 7 * k), 7 * bytes);
        if (k > 1) {
            assert_int_equal(mb_format_row_bytes(format, k - 1), 0);
            assert_int_equal(mb_format_row_bytes(format, 7 * k + 1), 0);
        }
        /* The most blocks that fit, and one more. */
        const uint64_t most = SIZE_MAX / bytes;
        if (most <= UINT64_MAX / k)
            assert_int_equal(mb_format_row_bytes(format, most * k), most * bytes);
        if (most < UINT64_MAX / k)
            assert_int_equal(mb_format_row_bytes(format, (most + 1) * k), 0);
    }
}

static void test_fit(void **state)
{
    (void)state;
    for (size_t i = 0; i < TYPES; i++) {
        const enum mb_format format = (enum mb_format)gguf_types[i].id;
        assert_int_equal(mb_format_fit(format, 512), format);
        assert_int_equal(mb_format_info(format)->fallback,
                         mb_format_by_name(gguf_types[i].fallback));
        if (gguf_types[i].block_k == 256)
            assert_int_equal(mb_format_fit(format, 96), mb_format_by_name(gguf_types[i].fallback));
        if (gguf_types[i].block_k > 1)
            assert_int_equal(mb_format_fit(format, 33), MB_FORMAT_F16);
    }
    assert_int_equal(mb_format_fit(MB_FORMAT_BF16, 33), MB_FORMAT_BF16);
    assert_int_equal(mb_format_fit(MB_FORMAT_F32, 33), MB_FORMAT_F32);
}

/* Golden blocks of a format: *blocks points at them, *values at ggml's f32. */
static size_t load_blocks(const struct mb_format_info *info, char **blocks, const float **values)
{
    char name[64];
    size_t bytes;
    (void)snprintf(name, sizeof name, "formats/%s.blocks.bin", info->name);
    *blocks = read_golden(name, &bytes);
    const size_t count = bytes / (info->block_bytes + info->block_k * sizeof(float));
    assert_int_equal(count * (info->block_bytes + info->block_k * sizeof(float)), bytes);
    assert_int_equal(count * info->block_bytes % sizeof(float), 0);
    *values = (const float *)(const void *)(*blocks + count * info->block_bytes);
    return count;
}

static void test_dequantize_equals_ggml(void **state)
{
    (void)state;
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        if (mb_coding_is_float(info->coding))
            continue;
        char *blocks;
        const float *expected;
        const size_t count = load_blocks(info, &blocks, &expected);
        const size_t k = count / 2 * info->block_k, row_bytes = mb_format_row_bytes(info->id, k);
        /* Two rows, from an odd address to one that ends at a guard page. */
        struct guard in = guard_create(2 * row_bytes), out = guard_create(2 * k * sizeof(float));
        const void *src = guard_copy(&in, blocks, 2 * row_bytes);
        float *dst = guard_output(&out, 2 * k * sizeof(float));
        assert_int_equal(mb_dequantize(info->id, src, 2, k, dst), MB_OK);
        for (size_t i = 0; i < 2 * k; i++)
            if (mb_float_bits(dst[i]) != mb_float_bits(expected[i]))
                fail_msg("%s weight %zu of block %zu: %.9g, ggml %.9g", info->name,
                         i % info->block_k, i / info->block_k, (double)dst[i], (double)expected[i]);
        assert_true(guard_left_intact(&out, 2 * k * sizeof(float)));
        uint8_t *odd = in.start + 1;
        memmove(odd, src, row_bytes);
        assert_int_equal(mb_dequantize(info->id, odd, 1, k, dst), MB_OK);
        assert_memory_equal(dst, expected, k * sizeof(float));
        guard_destroy(&in);
        guard_destroy(&out);
        free(blocks);
    }
}

/* Every bit of every block is a field's: any bytes survive. But for tq1_0: 13 of 256 bytes are no
 * digits of base 3; they read as others, which then survive. */
static void test_split_join_lossless(void **state)
{
    (void)state;
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        const struct mb_format_ops *ops = mb_format_ops(info->id);
        if (ops->split == NULL)
            continue;
        struct guard in = guard_create(info->block_bytes), out = guard_create(info->block_bytes);
        for (uint64_t round = 0; round < 200 + 8 * info->block_bytes; round++) {
            uint8_t bytes[256] = {0};
            struct mb_block_fields fields;
            memset(&fields, 0xee, sizeof fields); /* join must not need what split does not give */
            if (round < 200)
                random_bytes(100 * f + round, bytes, info->block_bytes);
            else /* a single bit */
                bytes[(round - 200) / 8] = (uint8_t)(1 << round % 8);
            if (info->id == MB_FORMAT_TQ1_0) {
                ops->split(bytes, &fields);
                ops->join(&fields, bytes);
                memset(&fields, 0xee, sizeof fields);
            }
            ops->split(guard_copy(&in, bytes, info->block_bytes), &fields);
            for (unsigned i = 0; i < info->block_k; i++)
                assert_true(fields.code[i] <= mb_coding_max(info->coding));
            uint8_t *joined = guard_output(&out, info->block_bytes);
            ops->join(&fields, joined);
            assert_memory_equal(joined, bytes, info->block_bytes);
            assert_true(guard_left_intact(&out, info->block_bytes));
        }
        guard_destroy(&in);
        guard_destroy(&out);
    }
}

/* Every index of every grid comes back, so entries are distinct and bisection finds each; what is
 * no entry does no harm. */
static void test_grids(void **state)
{
    (void)state;
    const struct mb_grid *const grids[] = {&mb_grid_iq1_s, &mb_grid_iq2_xxs, &mb_grid_iq2_xs,
                                           &mb_grid_iq2_s, &mb_grid_iq3_xxs, &mb_grid_iq3_s};
    for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
        const struct mb_grid *grid = grids[g];
        const unsigned half = grid->bits * grid->weights / 2;
        for (unsigned i = 0; i < grid->count; i++)
            assert_int_equal(mb_grid_find(grid, grid->entries[i]), i);
        for (unsigned e = 0; e < 65536; e++)
            assert_true(mb_grid_find(grid, e) < grid->count);
        assert_int_equal(grid->runs[grid->run_count], grid->count);
        for (unsigned r = 0; r < grid->run_count; r++)
            for (unsigned i = grid->runs[r]; i < grid->runs[r + 1]; i++)
                assert_int_equal(grid->entries[i] >> half, grid->entries[grid->runs[r]] >> half);
    }
    for (unsigned seven = 0; seven < 128; seven++) {
        const unsigned signs = mb_signs_from_seven(seven);
        assert_int_equal(signs & 127, seven);
        assert_int_equal(__builtin_popcount(signs) % 2, 0);
    }
}

/* Scales of one byte by their definitions, halved; ggml reads the two bytes that are NaN elsewhere
 * as numbers (the golden blocks hold them as well). */
static void test_byte_scales(void **state)
{
    (void)state;
    for (unsigned byte = 0; byte < 256; byte++) {
        assert_true((double)mb_e8m0_to_float((uint8_t)byte) == ldexp(1.0, (int)byte - 128));
        const int exponent = (int)(byte >> 3 & 15);
        const double value = exponent ? ldexp(8 + (byte & 7), exponent - 10) : ldexp(byte & 7, -9);
        const double expected = byte == 0x7f ? 0.0 : value / 2;
        assert_true((double)mb_ue4m3_to_float((uint8_t)byte) == expected);
    }
}

/* What the bits of an f16 say, by the definition of the format. */
static double half_value(unsigned bits)
{
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    const int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
    if (exponent == 31)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    return exponent ? sign * ldexp(1024 + fraction, exponent - 25) : sign * ldexp(fraction, -24);
}

static void test_half_to_float(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 65536; bits++) {
        const float value = mb_half_to_float((uint16_t)bits);
        if (isnan(half_value(bits))) {
            assert_true(isnan(value));
            assert_true(isnan(mb_half_to_float(mb_half_from_float(value))));
        } else {
            assert_true((double)value == half_value(bits));
            assert_int_equal(signbit(value) != 0, bits >> 15);
            assert_int_equal(mb_half_from_float(value), bits);
        }
    }
}

static void test_halves_equal_ggml(void **state)
{
    (void)state;
    size_t bytes;
    char *data = read_golden("formats/halves.bin", &bytes);
    const size_t count = bytes / 8;
    const float *x = (const float *)(void *)data;
    const uint16_t *f16 = (const uint16_t *)(const void *)(x + count), *bf16 = f16 + count;
    for (size_t i = 0; i < count; i++) {
        if (mb_half_from_float(x[i]) != f16[i])
            fail_msg("f16 of %a: %04x, ggml %04x", (double)x[i], mb_half_from_float(x[i]), f16[i]);
        if (mb_bf16_from_float(x[i]) != bf16[i])
            fail_msg("bf16 of %a: %04x, ggml %04x", (double)x[i], mb_bf16_from_float(x[i]),
                     bf16[i]);
        assert_true(mb_float_bits(mb_bf16_to_float(bf16[i])) == (uint32_t)bf16[i] << 16);
    }
    /* A NaN whose payload sits in the bits that are cut off must not become an infinity. */
    assert_true(isnan(mb_half_to_float(mb_half_from_float(mb_float_from_bits(0x7f800001)))));
    assert_true(isnan(mb_bf16_to_float(mb_bf16_from_float(mb_float_from_bits(0xff800001)))));
    free(data);
}

static void test_floats_round_trip(void **state)
{
    (void)state;
    const float x[6] = {0.0f, -0.0f, 1.5f, -65504.0f, INFINITY, NAN};
    const enum mb_format floats[] = {MB_FORMAT_F32, MB_FORMAT_F16, MB_FORMAT_BF16};
    for (size_t f = 0; f < 3; f++) {
        uint8_t rows[1 + sizeof x];
        float y[6];
        assert_int_equal(mb_quantize_with(&mb_encode_reference, floats[f], x, 2, 3, NULL, rows + 1),
                         MB_OK);
        assert_int_equal(mb_dequantize(floats[f], rows + 1, 2, 3, y), MB_OK);
        for (size_t i = 0; i < 5; i++)
            assert_true((floats[f] == MB_FORMAT_BF16 && i == 3) ||
                        mb_float_bits(y[i]) == mb_float_bits(x[i]));
        assert_true(isnan(y[5]));
    }
}

static void test_refusals(void **state)
{
    (void)state;
    float x[512] = {0};
    uint8_t rows[1024];
    memset(rows, GUARD_CANARY, sizeof rows);
    assert_int_equal(mb_dequantize((enum mb_format)4, rows, 1, 256, x), MB_ERR_ARGUMENT);
    assert_int_equal(mb_quantize_with(&mb_encode_reference, MB_FORMAT_NONE, x, 1, 256, NULL, rows),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_dequantize(MB_FORMAT_Q4_K, rows, 1, 255, x), MB_ERR_SHAPE);
    assert_int_equal(mb_quantize_with(&mb_encode_reference, MB_FORMAT_Q4_0, x, 1, 48, NULL, rows),
                     MB_ERR_SHAPE);
    assert_int_equal(
        mb_quantize_with(&mb_encode_reference, MB_FORMAT_Q4_0, x, SIZE_MAX / 16, 32, NULL, rows),
        MB_ERR_SHAPE);
    assert_int_equal(mb_dequantize(MB_FORMAT_Q4_0, rows, 1, SIZE_MAX / 64 * 32, x), MB_ERR_SHAPE);
    assert_int_equal(mb_dequantize(MB_FORMAT_Q4_0, rows, 0, 32, x), MB_OK);
    assert_true(guard_is_canary(rows, sizeof rows));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_codebooks),
        cmocka_unit_test(test_row_bytes),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_dequantize_equals_ggml),
        cmocka_unit_test(test_split_join_lossless),
        cmocka_unit_test(test_grids),
        cmocka_unit_test(test_byte_scales),
        cmocka_unit_test(test_half_to_float),
        cmocka_unit_test(test_halves_equal_ggml),
        cmocka_unit_test(test_floats_round_trip),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
