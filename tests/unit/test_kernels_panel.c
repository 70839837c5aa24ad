/* SPDX-License-Identifier: Apache-2.0 */
/* Packed panels, read bit by bit. The reader here was written from the text of kernels/panel.h
 * alone: it shares no layout function with the code under test, and what it reads has to give the
 * very values that mb_dequantize gives for the GGUF rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/half.h"
#include "kernels/panel.h"
#include "guard.h"
#include "read_golden.h"

static const size_t row_counts[] = {1, 15, 16, 17, 33};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

/* Numbers of blocks in a row: one, and odd and even numbers of them. */
static const size_t block_counts[] = {1, 2, 3, 7};
enum { BLOCK_COUNTS = sizeof block_counts / sizeof *block_counts };

/* The text's numbers for a kind of scale: weights and groups of a super-block, bytes of the arrays
 * that stand before the codes. */
struct kind {
    size_t weights, group, sub_scale_bytes, sub_min_bytes, d_bytes, dmin_bytes;
};

static struct kind kind_of(enum mb_scale_kind scale)
{
    switch (scale) {
    case MB_SCALE_G32: return (struct kind){64, 32, 0, 0, 64, 0};
    case MB_SCALE_G32MIN: return (struct kind){64, 32, 0, 0, 64, 64};
    case MB_SCALE_G16X2: return (struct kind){256, 16, 256, 0, 32, 0};
    case MB_SCALE_G16X2S6: return (struct kind){256, 16, 192, 0, 32, 0};
    case MB_SCALE_G16X2MIN: return (struct kind){256, 16, 256, 0, 32, 32};
    case MB_SCALE_G32X2: return (struct kind){256, 32, 128, 0, 32, 0};
    case MB_SCALE_G32X2MIN: return (struct kind){256, 32, 128, 128, 32, 32};
    case MB_SCALE_G256: return (struct kind){256, 256, 0, 0, 32, 0};
    case MB_SCALE_G32E8: return (struct kind){128, 32, 64, 0, 0, 0};
    case MB_SCALE_G16E4: return (struct kind){64, 16, 64, 0, 0, 0};
    default: fail(); return (struct kind){0};
    }
}

/* Widths of the planes of a coding, 0-terminated; together the bits of a code, the first one here
 * holding the lowest. In a chunk they stand the other way round. */
static const unsigned *planes_of(enum mb_coding coding)
{
    static const unsigned b2[] = {2, 0}, b3[] = {2, 1, 0}, b4[] = {4, 0}, b5[] = {4, 1, 0},
                          b6[] = {4, 2, 0}, b8[] = {8, 0};
    switch (coding) {
    case MB_CODING_B2: return b2;
    case MB_CODING_B3:
    case MB_CODING_GRID1:
    case MB_CODING_GRID2: return b3;
    case MB_CODING_B4:
    case MB_CODING_E2M1:
    case MB_CODING_GRID3:
    case MB_CODING_ODD4:
    case MB_CODING_LUT4: return b4;
    case MB_CODING_B5: return b5;
    case MB_CODING_B6: return b6;
    default: return b8;
    }
}

static size_t plane_bytes(enum mb_coding coding, size_t weights)
{
    size_t bits = 0;
    for (const unsigned *width = planes_of(coding); *width; width++)
        bits += *width;
    return bits * weights * 16 / 8;
}

static size_t superblock_bytes(const struct mb_format_info *info)
{
    const struct kind kind = kind_of(info->scale);
    const size_t bytes = plane_bytes(info->coding, kind.weights) + kind.sub_scale_bytes +
                         kind.sub_min_bytes + kind.d_bytes + kind.dmin_bytes;
    return (bytes + 63) / 64 * 64;
}

/* Everything that weight k of a row is made of, as stored. */
struct stored {
    unsigned code, sub_scale, sub_min;
    uint16_t d, dmin;
};

static uint16_t half_at(const uint8_t *array, size_t x, size_t lane)
{
    uint16_t half;
    memcpy(&half, array + 2 * (16 * x + lane), 2);
    return half;
}

static struct stored read_stored(const struct mb_format_info *info, size_t k_padded,
                                 const uint8_t *panels, size_t row, size_t k)
{
    const struct kind kind = kind_of(info->scale);
    const size_t superblocks = k_padded / kind.weights, lane = row % 16;
    const uint8_t *at =
        panels + (row / 16 * superblocks + k / kind.weights) * superblock_bytes(info);
    const size_t in = k % kind.weights, quad = in % 32 / 4, byte = 4 * lane + in % 4;
    const size_t group = in / kind.group, x = kind.d_bytes == 64 ? group : 0;
    const uint8_t *codes =
        at + superblock_bytes(info) - plane_bytes(info->coding, kind.weights); /* they end it */
    struct stored s = {.d = kind.d_bytes > 0 ? half_at(at, x, lane) : 0};
    at += kind.d_bytes;
    if (kind.dmin_bytes > 0)
        s.dmin = half_at(at, x, lane);
    at += kind.dmin_bytes;
    switch (info->scale) {
    case MB_SCALE_G16X2S6:
        s.sub_scale = (at[group / 2 * 16 + lane] >> group % 2 * 4 & 15u) |
                      (at[128 + group / 4 * 16 + lane] >> group % 4 * 2 & 3u) << 4;
        break;
    case MB_SCALE_G16X2MIN:
        s.sub_scale = at[group / 2 * 32 + lane * 2 + group % 2] & 15u;
        s.sub_min = at[group / 2 * 32 + lane * 2 + group % 2] >> 4;
        break;
    case MB_SCALE_G16X2:
    case MB_SCALE_G32E8: /* one-level: the scales themselves */
    case MB_SCALE_G16E4:
    case MB_SCALE_G32X2: s.sub_scale = at[group * 16 + lane]; break;
    case MB_SCALE_G32X2MIN:
        s.sub_scale = at[group * 16 + lane];
        s.sub_min = at[128 + group / 2 * 32 + lane * 2 + group % 2];
        break;
    default: break;
    }
    const uint8_t *plane = codes + (in / 32 + 1) * plane_bytes(info->coding, 32);
    unsigned shift = 0;
    for (const unsigned *width = planes_of(info->coding); *width; width++) {
        plane -= 64 * *width;
        const size_t quads = 8 / *width; /* in one vector */
        const unsigned bits = plane[quad / quads * 64 + byte] >> quad % quads * *width;
        s.code |= (bits & ((1u << *width) - 1)) << shift;
        shift += *width;
    }
    return s;
}

/* The weight, as the text says: what to add to the stored sub-scale, the zero point, the sign of
 * the minimum. Operations in ggml's order, so that bits can be compared. */
static float value_of(const struct mb_format_info *info, struct stored s)
{
    static const int table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
    static const int e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static const int grid3[16] = {-62, -52, -44, -36, -28, -20, -12, -4,
                                  4,   12,  20,  28,  36,  44,  52,  62};
    static const int grid2[8] = {-43, -25, -8, 0, 0, 8, 25, 43};
    static const int grid1[8] = {-9, -7, -1, 0, 0, 1, 7, 9};
    const float d = mb_half_to_float(s.d), dmin = mb_half_to_float(s.dmin);
    const int code = (int)s.code;
    switch (info->id) {
    case MB_FORMAT_Q4_0: return d * (float)(code - 8);
    case MB_FORMAT_Q4_1:
    case MB_FORMAT_Q5_1: return d * (float)code + dmin;
    case MB_FORMAT_Q5_0: return d * (float)(code - 16);
    case MB_FORMAT_Q8_0: return d * (float)(code - 128);
    case MB_FORMAT_Q2_K:
    case MB_FORMAT_Q4_K:
    case MB_FORMAT_Q5_K: return d * (float)s.sub_scale * (float)code - dmin * (float)s.sub_min;
    case MB_FORMAT_Q3_K: return d * (float)((int)s.sub_scale - 32) * (float)(code - 4);
    case MB_FORMAT_Q6_K: return d * (float)(int8_t)s.sub_scale * (float)(code - 32);
    case MB_FORMAT_IQ4_NL: return d * (float)table[code];
    case MB_FORMAT_IQ4_XS: return d * (float)(int8_t)s.sub_scale * (float)table[code];
    case MB_FORMAT_IQ3_S: return d * (float)s.sub_scale * (float)(2 * code - 15);
    case MB_FORMAT_IQ3_XXS: return d * 0.25f * (float)s.sub_scale * (float)grid3[code];
    case MB_FORMAT_IQ2_S:
    case MB_FORMAT_IQ2_XS:
    case MB_FORMAT_IQ2_XXS: return d * 0.125f * (float)s.sub_scale * (float)grid2[code];
    case MB_FORMAT_IQ1_M:
    case MB_FORMAT_IQ1_S: return d * 0.125f * (float)s.sub_scale * (float)grid1[code];
    case MB_FORMAT_TQ1_0:
    case MB_FORMAT_TQ2_0: return d * (float)(code - 1);
    case MB_FORMAT_MXFP4: return mb_e8m0_to_float((uint8_t)s.sub_scale) * (float)e2m1[code];
    case MB_FORMAT_NVFP4: return mb_ue4m3_to_float((uint8_t)s.sub_scale) * (float)e2m1[code];
    default: fail(); return 0.0f;
    }
}

/* Blocks of random bytes; with `sane`, their f16 fields are finite (set through split and join,
 * which test_kernels_formats proves lossless). */
static uint8_t *random_rows(const struct mb_format_info *info, size_t blocks, uint64_t seed,
                            bool sane)
{
    uint8_t *bytes = malloc(blocks * info->block_bytes);
    assert_non_null(bytes);
    random_bytes(seed, bytes, blocks * info->block_bytes);
    const bool digits = info->id == MB_FORMAT_TQ1_0; /* some bytes are not: split and join */
    for (size_t b = 0; (sane || digits) && b < blocks; b++) {
        const struct mb_format_ops *ops = mb_format_ops(info->id);
        struct mb_block_fields fields = {0};
        ops->split(bytes + b * info->block_bytes, &fields);
        fields.d &= sane ? 0xbfff : 0xffff;
        fields.dmin &= 0xbfff;
        ops->join(&fields, bytes + b * info->block_bytes);
    }
    return bytes;
}

static size_t padded_k(const struct mb_format_info *info, size_t k)
{
    const size_t weights = kind_of(info->scale).weights;
    return (k + weights - 1) / weights * weights;
}

/* Run a check for every format, number of rows and row length. */
typedef void (*check_fn)(const struct mb_format_info *info, size_t n, size_t k);

static void for_each_shape(check_fn check, bool floats)
{
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        if (mb_coding_is_float(info->coding) == floats)
            for (size_t i = 0; i < ROW_COUNTS; i++)
                for (size_t j = 0; j < BLOCK_COUNTS; j++)
                    check(info, row_counts[i], block_counts[j] * info->block_k);
    }
}

static void check_layout(const struct mb_format_info *info, size_t n, size_t k)
{
    const size_t row_bytes = mb_format_row_bytes(info->id, k), full = padded_k(info, k);
    const size_t panel = full / kind_of(info->scale).weights * superblock_bytes(info);
    assert_int_equal(mb_panel_bytes(info->id, k), panel);
    uint8_t *rows = random_rows(info, n * k / info->block_k, n + k, true);
    uint8_t *panels = malloc((n + 15) / 16 * panel);
    float *values = malloc(n * k * sizeof(float));
    assert_true(panels != NULL && values != NULL);
    memset(panels, 0xff, (n + 15) / 16 * panel);
    mb_panel_pack_rows(info->id, n, k, rows, 0, n, panels);
    assert_int_equal(mb_dequantize(info->id, rows, n, k, values), MB_OK);
    assert_int_equal(row_bytes * n, n * k / info->block_k * info->block_bytes);
    for (size_t row = 0; row < (n + 15) / 16 * 16; row++)
        for (size_t i = 0; i < full; i++) {
            const struct stored s = read_stored(info, full, panels, row, i);
            if (row < n && i < k) {
                const float read = value_of(info, s);
                if (mb_float_bits(read) != mb_float_bits(values[row * k + i]))
                    fail_msg("%s %zux%zu: row %zu weight %zu is %.9g, not %.9g", info->name, n, k,
                             row, i, (double)read, (double)values[row * k + i]);
            } else if (s.code || s.d || s.dmin || (row >= n && (s.sub_scale || s.sub_min))) {
                fail_msg("%s %zux%zu: padding at row %zu weight %zu is not zero", info->name, n, k,
                         row, i);
            }
        }
    free(rows);
    free(panels);
    free(values);
}

static void check_float_layout(const struct mb_format_info *info, size_t n, size_t k)
{
    /* Pairs: two k of a row side by side, a zero behind an odd row. */
    const size_t width = info->block_bytes, together = info->scale == MB_SCALE_PAIR ? 2 : 1;
    const size_t padded = (k + together - 1) / together * together, panel = 16 * padded * width;
    assert_int_equal(mb_panel_bytes(info->id, k), panel);
    uint8_t *rows = random_rows(info, n * k, n + k, false);
    uint8_t *panels = malloc((n + 15) / 16 * panel), zeros[4] = {0};
    assert_non_null(panels);
    memset(panels, 0xff, (n + 15) / 16 * panel);
    mb_panel_pack_rows(info->id, n, k, rows, 0, n, panels);
    for (size_t row = 0; row < (n + 15) / 16 * 16; row++)
        for (size_t i = 0; i < padded; i++) {
            const size_t at = (i / together * 16 + row % 16) * together + i % together;
            assert_memory_equal(panels + row / 16 * panel + at * width,
                                row < n && i < k ? rows + (row * k + i) * width : zeros, width);
        }
    free(rows);
    free(panels);
}

/* Any bytes survive, in exactly the memory that is theirs. */
static void check_round_trip(const struct mb_format_info *info, size_t n, size_t k)
{
    const size_t row_bytes = mb_format_row_bytes(info->id, k);
    const size_t packed_bytes = (n + 15) / 16 * mb_panel_bytes(info->id, k);
    uint8_t *rows = random_rows(info, n * k / info->block_k, 3 * n + k, false);
    struct guard in = guard_create(n * row_bytes), out = guard_create(n * row_bytes),
                 packed = guard_create(packed_bytes);
    uint8_t *panels = guard_output(&packed, packed_bytes);
    mb_panel_pack_rows(info->id, n, k, guard_copy(&in, rows, n * row_bytes), 0, n, panels);
    assert_true(guard_left_intact(&packed, packed_bytes));
    uint8_t *back = guard_output(&out, n * row_bytes);
    mb_panel_unpack_rows(info->id, n, k, panels, 0, n, back);
    assert_memory_equal(back, rows, n * row_bytes);
    assert_true(guard_left_intact(&out, n * row_bytes));
    /* Any range of rows */
    for (size_t row0 = 0; row0 < n; row0 += 5) {
        const size_t row1 = row0 + 7 < n ? row0 + 7 : n;
        back = guard_output(&out, (row1 - row0) * row_bytes);
        mb_panel_unpack_rows(info->id, n, k, panels, row0, row1, back);
        assert_memory_equal(back, rows + row0 * row_bytes, (row1 - row0) * row_bytes);
        assert_true(guard_left_intact(&out, (row1 - row0) * row_bytes));
    }
    guard_destroy(&in);
    guard_destroy(&out);
    guard_destroy(&packed);
    free(rows);
}

/* Ranges in any order, into memory with anything in it, give the bytes of the whole. */
static void check_chunks(const struct mb_format_info *info, size_t n, size_t k)
{
    const size_t row_bytes = mb_format_row_bytes(info->id, k);
    const size_t bytes = (n + 15) / 16 * mb_panel_bytes(info->id, k);
    uint8_t *rows = random_rows(info, n * k / info->block_k, 5 * n + k, false);
    uint8_t *whole = malloc(bytes), *parts = malloc(bytes);
    assert_true(whole != NULL && parts != NULL);
    memset(whole, 0xa5, bytes);
    mb_panel_pack_rows(info->id, n, k, rows, 0, n, whole);
    for (size_t step = 1; step <= 21; step += 4) {
        const size_t chunks = (n + step - 1) / step;
        memset(parts, (int)(0x11 * step), bytes);
        for (size_t i = 0; i < chunks; i++) {
            /* the odd ones forwards, then the even ones backwards */
            const size_t odd = chunks / 2;
            const size_t chunk = i < odd ? 2 * i + 1 : 2 * (chunks - 1 - i);
            const size_t row0 = chunk * step, row1 = row0 + step < n ? row0 + step : n;
            mb_panel_pack_rows(info->id, n, k, rows + row0 * row_bytes, row0, row1, parts);
        }
        assert_memory_equal(parts, whole, bytes);
    }
    free(rows);
    free(whole);
    free(parts);
}

/* Rows 20 to 30 of 64 lie in panel 1: nothing else changes, and of panel 1 only their lanes. */
static void test_touches_own_lanes_only(void **state)
{
    (void)state;
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        const size_t n = 64, k = 3 * info->block_k, panel = mb_panel_bytes(info->id, k);
        const size_t row_bytes = mb_format_row_bytes(info->id, k);
        uint8_t *rows = random_rows(info, n * 3, 1, false),
                *other = random_rows(info, n * 3, 2, false);
        uint8_t *panels = malloc(4 * panel), *before = malloc(4 * panel),
                *back = malloc(n * row_bytes);
        assert_true(panels != NULL && before != NULL && back != NULL);
        mb_panel_pack_rows(info->id, n, k, rows, 0, n, panels);
        memcpy(before, panels, 4 * panel);
        mb_panel_pack_rows(info->id, n, k, other + 20 * row_bytes, 20, 30, panels);
        assert_memory_equal(panels, before, panel);
        assert_memory_equal(panels + 2 * panel, before + 2 * panel, 2 * panel);
        memcpy(rows + 20 * row_bytes, other + 20 * row_bytes, 10 * row_bytes);
        mb_panel_unpack_rows(info->id, n, k, panels, 0, n, back);
        assert_memory_equal(back, rows, n * row_bytes);
        /* An empty range does nothing. */
        memcpy(before, panels, 4 * panel);
        mb_panel_pack_rows(info->id, n, k, rows, 17, 17, panels);
        assert_memory_equal(panels, before, 4 * panel);
        free(rows);
        free(other);
        free(panels);
        free(before);
        free(back);
    }
}

static void test_panel_bytes(void **state)
{
    (void)state;
    /* By hand from the text: planes; sub-scales, sub-mins, d, dmin up to a multiple of 64. */
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q4_0, 64), 512 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q4_0, 32), 512 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q5_1, 96), 2 * (512 + 128 + 64 + 64));
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q8_0, 64), 1024 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q2_K, 256), 1024 + 256 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q3_K, 256), 1024 + 512 + 192 + 32 + 32);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q4_K, 512), 2 * (2048 + 256 + 64));
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q6_K, 256), 2048 + 1024 + 256 + 32 + 32);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_IQ4_XS, 256), 2048 + 128 + 32 + 32);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_IQ3_S, 256), 2048 + 128 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_IQ2_XXS, 256), 1024 + 512 + 128 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_IQ1_M, 512), 2 * (1024 + 512 + 256 + 64));
    assert_int_equal(mb_panel_bytes(MB_FORMAT_TQ1_0, 256), 1024 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_MXFP4, 32), 1024 + 64);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_NVFP4, 128), 2 * (512 + 64));
    assert_int_equal(mb_panel_bytes(MB_FORMAT_BF16, 5), 6 * 16 * 2);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_F16, 5), 5 * 16 * 2);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q4_0, 33), 0);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_NONE, 256), 0);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_F32, SIZE_MAX / 64 + 1), 0);
    assert_int_equal(mb_panel_bytes(MB_FORMAT_Q8_0, SIZE_MAX / 32 * 32), 0);
}

/* What packing costs in memory: nothing but padding, unless codes are wider than in the file. The
 * ratios stand in docs/adding-a-format.md. */
static void test_packed_size(void **state)
{
    (void)state;
    static const struct {
        enum mb_format format;
        double most;
    } widened[] = {{MB_FORMAT_TQ1_0, 1.26}, {MB_FORMAT_IQ3_S, 1.28},  {MB_FORMAT_IQ3_XXS, 1.43},
                   {MB_FORMAT_IQ2_S, 1.42}, {MB_FORMAT_IQ2_XS, 1.57}, {MB_FORMAT_IQ2_XXS, 1.64},
                   {MB_FORMAT_IQ1_M, 2.08}, {MB_FORMAT_IQ1_S, 2.161}};
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        double most = 1.0304;
        for (size_t i = 0; i < sizeof widened / sizeof *widened; i++)
            if (widened[i].format == info->id)
                most = widened[i].most;
        const double ratio = (double)mb_panel_bytes(info->id, 2048) /
                             (16.0 * (double)mb_format_row_bytes(info->id, 2048));
        if (!(ratio <= most && ratio >= 1.0))
            fail_msg("%s: packed %.4f of the file's bytes, at most %.4f", info->name, ratio, most);
    }
}

static void test_layout(void **state) { (void)state, for_each_shape(check_layout, false); }
static void test_float_layout(void **state)
{
    (void)state, for_each_shape(check_float_layout, true);
}

static void test_round_trip(void **state)
{
    (void)state;
    for_each_shape(check_round_trip, false);
    for_each_shape(check_round_trip, true);
}

static void test_chunks(void **state)
{
    (void)state;
    for_each_shape(check_chunks, false);
    for_each_shape(check_chunks, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_panel_bytes),
        cmocka_unit_test(test_packed_size),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_float_layout),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_touches_own_lanes_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
