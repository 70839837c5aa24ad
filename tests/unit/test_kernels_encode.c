/* SPDX-License-Identifier: Apache-2.0 */
/* Quantization: against ggml's own encoder on the same inputs (its errors are golden data), and at
 * the edges of what floats can be. Errors are measured in f64 on what mb_dequantize reads back. */
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

enum { ROWS = 32, COLUMNS = 1024 };

/* Inputs, as scripts/make_golden_formats.py makes them. */
static float gaussian(uint64_t i) { return (float)(normal(1, i) * 0.02); }

static float student(uint64_t i)
{
    const double z0 = normal(2, 4 * i), z1 = normal(2, 4 * i + 1), z2 = normal(2, 4 * i + 2),
                 z3 = normal(2, 4 * i + 3);
    return (float)(z0 / sqrt((z1 * z1 + z2 * z2 + z3 * z3) / 3.0) * 0.01);
}

static float laplace(uint64_t i)
{
    const double x =
        (normal(3, 4 * i) * normal(3, 4 * i + 1) + normal(3, 4 * i + 2) * normal(3, 4 * i + 3)) *
        0.05;
    return (float)(uniform(4, i) < 1.0 / 256.0 ? x * 10.0 : x);
}

struct input {
    const char *name;
    size_t rows, columns;
    float *x;
};

static struct input make_input(const char *name, float (*value)(uint64_t))
{
    struct input input = {name, ROWS, COLUMNS, malloc(sizeof(float) * ROWS * COLUMNS)};
    assert_non_null(input.x);
    for (uint64_t i = 0; i < ROWS * COLUMNS; i++)
        input.x[i] = value(i);
    return input;
}

static struct input real_input(void)
{
    size_t bytes;
    char *halves = read_golden("formats/real_rows.f16.bin", &bytes);
    struct input input = {"real", bytes / 512, 256, malloc(2 * bytes)};
    assert_non_null(input.x);
    assert_int_equal(mb_dequantize(MB_FORMAT_F16, halves, input.rows, 256, input.x), MB_OK);
    free(halves);
    return input;
}

static float *make_importance(size_t columns)
{
    float *importance = malloc(sizeof(float) * columns);
    assert_non_null(importance);
    for (uint64_t i = 0; i < columns; i++) {
        const double z0 = normal(5, 2 * i), z1 = normal(5, 2 * i + 1);
        importance[i] = (float)(z0 * z0 * (z1 * z1) + 0.01);
    }
    return importance;
}

/* sqrt(sum w (x - y)^2 / sum w) after a round trip; w is 1 when `weights` is NULL. */
static double error_of(enum mb_format format, const struct input *in, const float *importance,
                       const float *weights)
{
    const size_t bytes = mb_format_row_bytes(format, in->columns);
    uint8_t *rows = malloc(in->rows * bytes);
    float *y = malloc(sizeof(float) * in->rows * in->columns);
    assert_true(rows != NULL && y != NULL);
    assert_int_equal(mb_quantize_with(&mb_encode_reference, format, in->x, in->rows, in->columns,
                                      importance, rows),
                     MB_OK);
    assert_int_equal(mb_dequantize(format, rows, in->rows, in->columns, y), MB_OK);
    double error = 0.0, weight = 0.0;
    for (size_t i = 0; i < in->rows * in->columns; i++) {
        const double w = weights != NULL ? (double)weights[i % in->columns] : 1.0;
        const double difference = (double)in->x[i] - (double)y[i];
        error += w * difference * difference;
        weight += w;
    }
    free(rows);
    free(y);
    return sqrt(error / weight);
}

/* The contract is 1 % above ggml's error. What is reached is below it, so anything above is a fault
 * somewhere: the limit here is ggml's own error. */
static void test_no_worse_than_ggml(void **state)
{
    (void)state;
    struct input inputs[] = {make_input("gaussian", gaussian), make_input("student", student),
                             make_input("laplace", laplace), real_input()};
    float *wide = make_importance(COLUMNS), *narrow = make_importance(256);
    size_t bytes, compared = 0;
    char *text = read_golden("formats/errors.txt", &bytes), *line = text;
    while (*line) {
        char format[16], name[16], weighting[16];
        double ggml;
        if (*line != '#') {
            assert_int_equal(sscanf(line, "%15s %15s %15s %lf", format, name, weighting, &ggml), 4);
            const bool weighted = strcmp(weighting, "importance") == 0;
            for (size_t i = 0; i < 4; i++) {
                if (strcmp(inputs[i].name, name) != 0)
                    continue;
                const float *w = !weighted ? NULL : inputs[i].columns == 256 ? narrow : wide;
                const double ours = error_of(mb_format_by_name(format), &inputs[i], w, w);
                if (!(ours <= ggml))
                    fail_msg("%s on %s, %s: error %.6g, ggml's %.6g", format, name, weighting, ours,
                             ggml);
                compared++;
            }
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    assert_int_equal(compared, 12 * 4 * 2 + 7 * 4 * 2 + 4 * 4); /* four need importance in ggml */
    for (size_t i = 0; i < 4; i++)
        free(inputs[i].x);
    free(wide);
    free(narrow);
    free(text);
}

static void test_importance_lowers_weighted_error(void **state)
{
    (void)state;
    struct input in = make_input("student", student);
    float *importance = make_importance(COLUMNS);
    for (size_t f = 0; f < mb_format_count(); f++) {
        const enum mb_format format = mb_format_at(f)->id;
        if (mb_coding_is_float(mb_format_at(f)->coding))
            continue;
        assert_true(error_of(format, &in, importance, importance) <
                    0.99 * error_of(format, &in, NULL, importance));
    }
    free(in.x);
    free(importance);
}

/* Codes that an encoder may write, and how far apart neighbouring values are where they are widest,
 * as a part of the peak; more than a step where a grid lacks some combinations. */
static unsigned code_count(const struct mb_format_info *info)
{
    return info->scale == MB_SCALE_G256 ? 3 : 1u << mb_coding_bits(info->coding);
}

static double widest_step(const struct mb_format_info *info)
{
    switch (info->coding) {
    case MB_CODING_E2M1: return 4.0 / 12.0;
    case MB_CODING_ODD4:
    case MB_CODING_GRID3: return 0.3;
    case MB_CODING_GRID2: return 0.75;
    case MB_CODING_GRID1: return 1.3;
    default: return 2.0 / code_count(info);
    }
}

/* Formats whose weights share a code: a weight's own code cannot be chosen alone. */
static bool is_grid(const struct mb_format_info *info)
{
    return info->coding == MB_CODING_ODD4 || info->coding == MB_CODING_GRID3 ||
           info->coding == MB_CODING_GRID2 || info->coding == MB_CODING_GRID1;
}

/* Run `check` for every block format on a row of 512 weights. */
static void for_each_block_format(void (*check)(const struct mb_format_info *info))
{
    for (size_t f = 0; f < mb_format_count(); f++)
        if (!mb_coding_is_float(mb_format_at(f)->coding))
            check(mb_format_at(f));
}

enum { K = 512 };

static void round_trip(const struct mb_format_info *info, const float *x, const float *importance,
                       float *y)
{
    uint8_t row[1024];
    assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 1, K, importance, row),
                     MB_OK);
    assert_int_equal(mb_dequantize(info->id, row, 1, K, y), MB_OK);
}

static void check_zero(const struct mb_format_info *info)
{
    const float zeros[K] = {0};
    float tiny[K], y[K];
    round_trip(info, zeros, NULL, y);
    for (size_t i = 0; i < K; i++)
        assert_true(y[i] == 0.0f);
    for (size_t i = 0; i < K; i++)
        tiny[i] = i % 3 ? 1e-30f : -1e-42f;
    round_trip(info, tiny, zeros, y);
    for (size_t i = 0; i < K; i++)
        assert_true(y[i] == 0.0f);
}

/* Values whose scale fits f16 keep their relative error whatever their size; outside of that the
 * result saturates or fades, and stays finite. */
static void check_magnitudes(const struct mb_format_info *info)
{
    for (int exponent = -148; exponent <= 127; exponent += 5) {
        float x[K], y[K];
        double error = 0.0, square = 0.0;
        for (size_t i = 0; i < K; i++) {
            const double z = normal(6, i) / 6.0;
            x[i] = (float)ldexp(z, exponent);
            assert_true(isfinite(x[i]));
        }
        round_trip(info, x, NULL, y);
        for (size_t i = 0; i < K; i++) {
            assert_true(isfinite(y[i]));
            error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            square += (double)x[i] * (double)x[i];
        }
        const bool ternary = info->scale == MB_SCALE_G256 || info->coding == MB_CODING_GRID1;
        if (exponent >= 0 && exponent <= (info->scale == MB_SCALE_G16E4 ? 11 : 16))
            assert_true(error < (ternary ? 0.25 : 0.12) * square);
        else {
            if (!(error <= 1.0001 * square))
                fail_msg("%s, 2^%d: error %g of %g", info->name, exponent, error, square);
        }
    }
}

/* Constant rows, all weights of one sign, single outliers: no weight errs by more than a step of
 * the codes when they span the peak on both sides of zero. */
static void check_shapes(const struct mb_format_info *info)
{
    for (int shape = 0; shape < 6; shape++) {
        float x[K], y[K];
        for (size_t i = 0; i < K; i++) {
            const float u = (float)uniform(7, i);
            x[i] = shape == 0   ? 0.75f
                   : shape == 1 ? -0.75f
                   : shape == 2 ? 0.5f + 0.5f * u
                   : shape == 3 ? -0.5f - 0.5f * u
                   : shape == 4 ? (i % 256 == 77 ? 100.0f : 0.0f)
                                : (i % 32 == 31 ? -1.0f : 0.01f * u);
        }
        round_trip(info, x, NULL, y);
        const double peak = shape == 4 ? 100.0 : 1.0;
        const double most = widest_step(info) * peak;
        for (size_t i = 0; i < K; i++)
            if (!(fabs((double)x[i] - (double)y[i]) <= most))
                fail_msg("%s, shape %d: %.9g became %.9g", info->name, shape, (double)x[i],
                         (double)y[i]);
    }
}

static void check_importance(const struct mb_format_info *info)
{
    float x[K], y[K], plain[K], importance[K] = {0};
    for (size_t i = 0; i < K; i++)
        x[i] = student(i);
    /* None, or equal for all at any magnitude: the same as no importance. */
    round_trip(info, x, NULL, plain);
    round_trip(info, x, importance, y);
    assert_memory_equal(y, plain, sizeof y);
    const float same[] = {1e-38f, 0.25f, 1024.0f, 2e38f};
    for (size_t s = 0; s < 4; s++) {
        for (size_t i = 0; i < K; i++)
            importance[i] = same[s];
        round_trip(info, x, importance, y);
        assert_memory_equal(y, plain, sizeof y);
    }
    /* Only one weight of 32 counts: it must be met almost exactly, as far as scales are free. */
    const bool coarse = info->scale == MB_SCALE_G32E8 || info->coding == MB_CODING_GRID1;
    const double most = info->scale == MB_SCALE_G256 ? 1.0 : coarse ? 0.12 : 0.05;
    for (size_t i = 0; i < K; i++)
        importance[i] = i % 32 == 5 ? 1.0f : 0.0f;
    round_trip(info, x, importance, y);
    double wanted = 0.0, missed = 0.0, missed_plain = 0.0;
    for (size_t i = 5; i < K; i += 32) {
        wanted += fabs((double)x[i]);
        missed += fabs((double)x[i] - (double)y[i]);
        missed_plain += fabs((double)x[i] - (double)plain[i]);
    }
    if (!(missed < most * wanted && missed < missed_plain))
        fail_msg("%s: misses %g of %g, %g without importance", info->name, missed, wanted,
                 missed_plain);
}

static void check_refusals(const struct mb_format_info *info)
{
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    const size_t bytes = mb_format_row_bytes(info->id, K);
    for (size_t b = 0; b < 4; b++) {
        float x[3 * K], importance[K];
        uint8_t rows[3 * 1024], first[1024];
        for (size_t i = 0; i < 3 * K; i++)
            x[i] = gaussian(i);
        for (size_t i = 0; i < K; i++)
            importance[i] = 1.0f;
        memset(rows, GUARD_CANARY, sizeof rows);
        assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 1, K, NULL, first),
                         MB_OK);
        x[2 * K - 1] = bad[b];
        assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 3, K, NULL, rows),
                         MB_ERR_ARGUMENT);
        assert_memory_equal(rows, first, bytes);
        assert_true(guard_is_canary(rows + bytes, sizeof rows - bytes));
        memset(rows, GUARD_CANARY, sizeof rows);
        importance[K - 1] = b == 3 ? -1e-9f : bad[b];
        assert_int_equal(
            mb_quantize_with(&mb_encode_reference, info->id, x, 1, K, importance, rows),
            MB_ERR_ARGUMENT);
        assert_true(guard_is_canary(rows, sizeof rows));
    }
}

/* Rows are independent of each other and of addresses; nothing is read or written beyond them. */
static void check_rows(const struct mb_format_info *info)
{
    const size_t bytes = mb_format_row_bytes(info->id, K);
    struct guard in = guard_create(3 * K * sizeof(float)), out = guard_create(3 * bytes);
    float *x = guard_at(&in, 3 * K * sizeof(float));
    uint8_t row[1025];
    for (size_t i = 0; i < 3 * K; i++)
        x[i] = laplace(i);
    uint8_t *rows = guard_output(&out, 3 * bytes);
    assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 3, K, NULL, rows), MB_OK);
    assert_true(guard_left_intact(&out, 3 * bytes));
    for (size_t r = 3; r-- > 0;) {
        assert_int_equal(
            mb_quantize_with(&mb_encode_reference, info->id, x + r * K, 1, K, NULL, row + 1),
            MB_OK);
        assert_memory_equal(row + 1, rows + r * bytes, bytes);
    }
    guard_destroy(&in);
    guard_destroy(&out);
}

/* What the encoder wrote, as fields, with the values of every code: value[c][i] is weight i if its
 * code were c and all else stayed. Brute force, through join and dequantize alone. */
enum { CODES = 256, BLOCK = 256 };

static void value_table(const struct mb_format_info *info, struct mb_block_fields fields,
                        float (*value)[BLOCK])
{
    const struct mb_format_ops *ops = mb_format_ops(info->id);
    for (unsigned c = 0; c < code_count(info); c++) {
        uint8_t block[256];
        memset(fields.code, (int)c, sizeof fields.code);
        ops->join(&fields, block);
        ops->dequantize_row(block, value[c], info->block_k);
    }
}

/* The least squared error of `count` weights from `first` on, each at its best code. */
static double least_error(const struct mb_format_info *info, const float *x, float (*value)[BLOCK],
                          size_t first, size_t count)
{
    const unsigned codes = code_count(info);
    double sum = 0.0;
    for (size_t i = first; i < first + count; i++) {
        double least = INFINITY;
        for (unsigned c = 0; c < codes; c++)
            least = fmin(least, fabs((double)x[i] - (double)value[c][i]));
        sum += least * least;
    }
    return sum;
}

static double squared_error(const float *x, const float *y, size_t count, double factor)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double difference = (double)x[i] - factor * (double)y[i];
        sum += difference * difference;
    }
    return sum;
}

/* How many sub-scales one up or down would be better than those chosen, with their own best codes.
 */
static void try_neighbours(const struct mb_format_info *info, const float *x, const float *y,
                           const struct mb_block_fields *fields, size_t *tried, size_t *better)
{
    static float value[CODES][BLOCK];
    const size_t group = mb_scale_group(info->scale);
    const bool is_byte = mb_scale_bytes(info->scale) == 1;
    const int most = is_byte                            ? 254
                     : info->scale == MB_SCALE_G16X2    ? 127
                     : info->scale == MB_SCALE_G16X2MIN ? 15
                     : info->scale == MB_SCALE_G32X2MIN ? 63
                                                        : 31;
    const int least = is_byte || mb_scale_has_min(info->scale) ? 0 : -most - 1;
    for (size_t g = 0; g < info->block_k / group; g++)
        for (int step = -1; step <= 1; step += 2) {
            struct mb_block_fields other = *fields;
            other.sub_scale[g] = (int16_t)(fields->sub_scale[g] + step);
            if (other.sub_scale[g] < least || other.sub_scale[g] > most)
                continue;
            value_table(info, other, value);
            ++*tried;
            *better += least_error(info, x, value, g * group, group) <
                       0.9999 * squared_error(x + g * group, y + g * group, group, 1.0);
        }
}

/* A block is a local optimum: every code is the nearest; a neighbouring sub-scale is (nearly
 * always) worse; so is any other factor on the whole, where scales are finer than a byte. Codes of
 * a grid are not free; that theirs are the best entries is test_grid_entries. */
static void check_optimum(const struct mb_format_info *info)
{
    const bool is_byte = mb_scale_bytes(info->scale) == 1;
    static float value[CODES][BLOCK];
    const struct mb_format_ops *ops = mb_format_ops(info->id);
    const size_t k = info->block_k;
    size_t tried = 0, better = 0;
    double reached = 0.0, rescaled = 0.0;
    for (uint64_t b = 0; b < 8; b++) {
        float x[BLOCK], y[BLOCK];
        uint8_t block[256];
        struct mb_block_fields fields = {0};
        for (size_t i = 0; i < k; i++)
            x[i] = student(b * BLOCK + i);
        assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 1, k, NULL, block),
                         MB_OK);
        ops->dequantize_row(block, y, k);
        ops->split(block, &fields);
        value_table(info, fields, value);
        double xy = 0.0, yy = 0.0;
        for (size_t i = 0; i < k; i++) {
            const double error = (double)x[i] - (double)y[i];
            assert_true(is_grid(info) ||
                        error * error <= 1.0001 * least_error(info, x, value, i, 1) + 1e-15);
            xy += (double)x[i] * (double)y[i];
            yy += (double)y[i] * (double)y[i];
        }
        reached += squared_error(x, y, k, 1.0);
        rescaled += squared_error(x, y, k, xy / yy);
        if ((mb_scale_two_level(info->scale) || is_byte) && !is_grid(info))
            try_neighbours(info, x, y, &fields, &tried, &better);
    }
    if (better * 50 > tried)
        fail_msg("%s: %zu of %zu neighbouring sub-scales are better", info->name, better, tried);
    if (!is_byte && rescaled < 0.9985 * reached)
        fail_msg("%s: rescaling lowers the error from %g to %g", info->name, reached, rescaled);
}

/* The vector that a grid's block holds is the best entry under its scales: no other one, with the
 * same signs, comes nearer. The entries are read back from blocks, 8 or 4 weights at a time. */
static void check_entries(const struct mb_format_info *info, const struct mb_grid *grid)
{
    const struct mb_format_ops *ops = mb_format_ops(info->id);
    for (uint64_t b = 0; b < 4; b++) {
        float x[BLOCK], y[BLOCK], z[BLOCK];
        uint8_t block[256];
        struct mb_block_fields fields = {0};
        for (size_t i = 0; i < BLOCK; i++)
            x[i] = student(b * BLOCK + i);
        assert_int_equal(mb_quantize_with(&mb_encode_reference, info->id, x, 1, BLOCK, NULL, block),
                         MB_OK);
        ops->dequantize_row(block, y, BLOCK);
        ops->split(block, &fields);
        for (size_t at = 0; at < BLOCK; at += 8 * grid->weights) {
            unsigned signs;
            struct mb_block_fields other = fields;
            (void)mb_grid_join(grid, fields.code + at, &signs);
            for (unsigned e = 0; e < grid->count; e++) {
                mb_grid_split(grid, e, signs, other.code + at);
                ops->join(&other, block);
                ops->dequantize_row(block, z, BLOCK);
                assert_true(squared_error(x + at, z + at, grid->weights, 1.0) >=
                            0.9999 * squared_error(x + at, y + at, grid->weights, 1.0));
            }
        }
    }
}

static void test_grid_entries(void **state)
{
    (void)state;
    check_entries(mb_format_info(MB_FORMAT_IQ3_S), &mb_grid_iq3_s);
    check_entries(mb_format_info(MB_FORMAT_IQ3_XXS), &mb_grid_iq3_xxs);
    check_entries(mb_format_info(MB_FORMAT_IQ2_S), &mb_grid_iq2_s);
    check_entries(mb_format_info(MB_FORMAT_IQ2_XS), &mb_grid_iq2_xs);
    check_entries(mb_format_info(MB_FORMAT_IQ2_XXS), &mb_grid_iq2_xxs);
}

static void test_optimum(void **state) { (void)state, for_each_block_format(check_optimum); }
static void test_zero(void **state) { (void)state, for_each_block_format(check_zero); }
static void test_magnitudes(void **state) { (void)state, for_each_block_format(check_magnitudes); }
static void test_shapes(void **state) { (void)state, for_each_block_format(check_shapes); }
static void test_importance(void **state) { (void)state, for_each_block_format(check_importance); }
static void test_non_finite(void **state) { (void)state, for_each_block_format(check_refusals); }
static void test_rows(void **state) { (void)state, for_each_block_format(check_rows); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_worse_than_ggml),
        cmocka_unit_test(test_importance_lowers_weighted_error),
        cmocka_unit_test(test_optimum),
        cmocka_unit_test(test_grid_entries),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_magnitudes),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_importance),
        cmocka_unit_test(test_non_finite),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
