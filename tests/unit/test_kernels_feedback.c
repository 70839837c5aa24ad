/* SPDX-License-Identifier: Apache-2.0 */
/* Second moments, their factor, rounding with feedback and coordinate descent. The oracle solves
 * linear systems in f64 and knows nothing of factors: given the errors of the columns to the left,
 * the best that a column can do while all columns to its right are free is a least squares problem.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "guard.h"
#include "kernels/encode.h"
#include "kernels/feedback.h"
#include "kernels/gram.h"
#include "kernels/half.h"
#include "read_golden.h"

#include <math.h>

enum { ROWS = 16, TOKENS = 400, MOST = 512 };

static const enum mb_format by_code[] = {
    MB_FORMAT_Q4_0,  MB_FORMAT_Q4_1,  MB_FORMAT_Q5_0,   MB_FORMAT_Q5_1,
    MB_FORMAT_Q8_0,  MB_FORMAT_Q2_K,  MB_FORMAT_Q3_K,   MB_FORMAT_Q4_K,
    MB_FORMAT_Q5_K,  MB_FORMAT_Q6_K,  MB_FORMAT_IQ4_NL, MB_FORMAT_IQ4_XS,
    MB_FORMAT_MXFP4, MB_FORMAT_NVFP4, MB_FORMAT_TQ1_0,  MB_FORMAT_TQ2_0};
static const enum mb_format by_grid[] = {MB_FORMAT_IQ1_S,  MB_FORMAT_IQ1_M, MB_FORMAT_IQ2_XXS,
                                         MB_FORMAT_IQ2_XS, MB_FORMAT_IQ2_S, MB_FORMAT_IQ3_XXS,
                                         MB_FORMAT_IQ3_S};
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Weights, moments of correlated activations, and all that follows from them. */
struct sample {
    size_t k, blocks_bytes;
    float *w, *h, *factor, *variances, *scratch;
    struct mb_second_moments moments;
};

static void *get(size_t bytes)
{
    void *memory = calloc(1, bytes);
    assert_non_null(memory);
    return memory;
}

/* Rows that hang together: each column has much of the one before and of one factor for all. */
static float *make_rows(size_t rows, size_t k)
{
    float *x = get(rows * k * sizeof *x);
    for (size_t r = 0; r < rows; r++) {
        const double common = normal(11, r);
        for (size_t c = 0; c < k; c++) {
            const double before = c > 0 ? (double)x[r * k + c - 1] : 0.0;
            x[r * k + c] = (float)(0.6 * before + 0.4 * common + normal(12, r * k + c)) *
                           (c % 37 == 5 ? 4.0f : 1.0f);
        }
    }
    return x;
}

static float *sum_rows(const float *x, size_t rows, size_t k, size_t parts)
{
    float *h = get(k * k * sizeof *h), *packed = get(mb_gram_packed(k, rows) * sizeof *packed);
    const size_t pairs = mb_gram_pairs(k);
    mb_gram_pack(x, k, rows, k, packed);
    for (size_t p = 0; p < parts; p++)
        mb_gram_add(h, k, k, packed, rows, 1.0f, pairs * p / parts, pairs * (p + 1) / parts);
    mb_gram_mirror(h, k);
    free(packed);
    return h;
}

static bool factor(float *h, size_t k)
{
    float *packed = get(mb_gram_packed(k, MB_GRAM_ROWS) * sizeof *packed);
    bool positive = true;
    for (size_t row1 = k; row1 > 0 && positive;) {
        const size_t row0 = row1 > MB_GRAM_ROWS ? row1 - MB_GRAM_ROWS : 0;
        positive = mb_gram_factor_rows(h, k, row0, row1);
        mb_gram_pack(h + row0 * k, k, row1 - row0, row0, packed);
        mb_gram_add(h, k, row0, packed, row1 - row0, -1.0f, 0, row0 ? mb_gram_pairs(row0) : 0);
        row1 = row0;
    }
    free(packed);
    if (positive)
        mb_gram_unit(h, k);
    return positive;
}

static struct sample make_sample(size_t k, uint64_t seed)
{
    struct sample s = {.k = k, .w = get(ROWS * k * sizeof(float))};
    float *x = make_rows(TOKENS, k);
    s.h = sum_rows(x, TOKENS, k, 1);
    for (size_t i = 0; i < k; i++)
        s.h[i * k + i] += 0.01f * (float)TOKENS;
    s.factor = get(k * k * sizeof *s.factor);
    memcpy(s.factor, s.h, k * k * sizeof *s.factor);
    assert_true(factor(s.factor, k));
    s.variances = get(k * sizeof *s.variances);
    for (size_t i = 0; i < k; i++)
        s.variances[i] = s.factor[i * k + i];
    for (size_t i = 0; i < ROWS * k; i++)
        s.w[i] = (float)(normal(seed, i) * 0.02);
    s.scratch = get(mb_feedback_scratch(k) * sizeof *s.scratch);
    s.moments =
        (struct mb_second_moments){.k = k, .h = s.h, .factor = s.factor, .variances = s.variances};
    free(x);
    return s;
}

static void free_sample(struct sample *s)
{
    free(s->w);
    free(s->h);
    free(s->factor);
    free(s->variances);
    free(s->scratch);
}

/* e H e of a row, in f64. */
static double error_of(const struct sample *s, enum mb_format format, const float *w,
                       const void *row)
{
    float *q = get(s->k * sizeof *q);
    double error = 0.0;
    assert_int_equal(mb_dequantize(format, row, 1, s->k, q), MB_OK);
    for (size_t i = 0; i < s->k; i++)
        for (size_t j = 0; j < s->k; j++)
            error += ((double)w[i] - (double)q[i]) * (double)s->h[i * s->k + j] *
                     ((double)w[j] - (double)q[j]);
    free(q);
    return error;
}

/* ---- sums and factors ---- */

/* made[n][k] = a^T b over rows of n and of k, in f64. */
static void check_sums(const float *a, size_t n, const float *b, size_t k, size_t rows,
                       const float *made)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++) {
            double sum = 0.0, size = 0.0;
            for (size_t r = 0; r < rows; r++) {
                const double term = (double)a[r * n + i] * (double)b[r * k + j];
                sum += term;
                size += fabs(term);
            }
            assert_true(fabs(sum - (double)made[i * k + j]) <= 1e-5 * size);
        }
}

static void test_gram(void **state)
{
    (void)state;
    enum { K = 80, MANY = 77 };
    float *x = make_rows(MANY, K), *whole = sum_rows(x, MANY, K, 1),
          *parts = sum_rows(x, MANY, K, 3);
    assert_memory_equal(whole, parts, K * K * sizeof *whole);
    check_sums(x, K, x, K, MANY, whole);
    free(x);
    free(whole);
    free(parts);
}

/* What one set of columns says of another, in parts; n is no k. */
static void test_cross(void **state)
{
    (void)state;
    enum { K = 48, N = 80, MANY = 77 };
    float *x = make_rows(MANY, K), *other = make_rows(MANY, N), *made = get(N * K * sizeof *made);
    float *left = get(mb_gram_packed(N, MANY) * sizeof *left),
          *right = get(mb_gram_packed(K, MANY) * sizeof *right);
    memset(made, 0, N * K * sizeof *made);
    mb_gram_pack(other, N, MANY, N, left);
    mb_gram_pack(x, K, MANY, K, right);
    mb_gram_cross(made, K, left, right, MANY, 0, 2);
    mb_gram_cross(made, K, left, right, MANY, 2, N / MB_GRAM_PANEL);
    check_sums(other, N, x, K, MANY, made);
    free(x);
    free(other);
    free(made);
    free(left);
    free(right);
}

/* H x is v again. */
static void test_solve(void **state)
{
    (void)state;
    enum { SIDES = MB_GRAM_PANEL };
    struct sample s = make_sample(320, 3);
    float *v = get(s.k * SIDES * sizeof *v), *x = get(s.k * SIDES * sizeof *x);
    for (size_t i = 0; i < s.k * SIDES; i++)
        v[i] = (float)normal(21, i);
    memcpy(x, v, s.k * SIDES * sizeof *x);
    mb_gram_solve(s.factor, s.k, x);
    for (size_t i = 0; i < s.k; i++)
        for (size_t c = 0; c < SIDES; c++) {
            double sum = 0.0, size = 0.0;
            for (size_t j = 0; j < s.k; j++) {
                sum += (double)s.h[i * s.k + j] * (double)x[j * SIDES + c];
                size += fabs((double)s.h[i * s.k + j] * (double)x[j * SIDES + c]);
            }
            assert_true(fabs(sum - (double)v[i * SIDES + c]) <= 1e-5 * size + 1e-4);
        }
    free(v);
    free(x);
    free_sample(&s);
}

static void test_factor(void **state)
{
    (void)state;
    struct sample s = make_sample(320, 1); /* more than two batches of rows */
    const size_t k = s.k;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0.0;
            for (size_t t = i; t < k; t++) {
                const double left = t == i ? 1.0 : (double)s.factor[t * k + i];
                const double right = t == j ? 1.0 : (double)s.factor[t * k + j];
                sum += left * (double)s.variances[t] * right;
            }
            const double scale = sqrt((double)s.h[i * k + i] * (double)s.h[j * k + j]);
            assert_true(fabs(sum - (double)s.h[i * k + j]) < 1e-5 * scale);
        }
    free_sample(&s);
}

/* Of rank one, not a number, or with an empty column: no factor, and no trouble. */
static void test_factor_refuses(void **state)
{
    (void)state;
    enum { K = 32 };
    float h[K * K];
    for (size_t i = 0; i < K * K; i++)
        h[i] = 1.0f;
    assert_false(factor(h, K));
    memset(h, 0, sizeof h);
    for (size_t i = 0; i < K; i++)
        h[i * K + i] = i == 7 ? 0.0f : 1.0f;
    assert_false(factor(h, K));
    for (size_t i = 0; i < K; i++)
        h[i * K + i] = i == 7 ? NAN : 1.0f;
    assert_false(factor(h, K));
}

/* ---- feedback ---- */

/* Solves a x = b, n <= MOST, a symmetric and positive: Gaussian elimination, a and b overwritten.
 */
static void solve(double *a, double *b, size_t n)
{
    for (size_t p = 0; p < n; p++)
        for (size_t i = p + 1; i < n; i++) {
            const double f = a[i * n + p] / a[p * n + p];
            if (f == 0.0)
                continue;
            for (size_t j = p; j < n; j++)
                a[i * n + j] -= f * a[p * n + j];
            b[i] -= f * b[p];
        }
    for (size_t p = n; p-- > 0;) {
        for (size_t j = p + 1; j < n; j++)
            b[p] -= a[p * n + j] * b[j];
        b[p] /= a[p * n + p];
    }
}

/* What column c should be, given the errors before it and columns behind it that are free. */
static double target_of(const struct sample *s, const float *w, const double *error, size_t c)
{
    const size_t n = s->k - c;
    double *a = get(n * n * sizeof *a), *b = get(n * sizeof *b);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            a[i * n + j] = (double)s->h[(c + i) * s->k + c + j];
        for (size_t j = 0; j < c; j++)
            b[i] -= (double)s->h[(c + i) * s->k + j] * error[j];
    }
    solve(a, b, n);
    const double target = (double)w[c] - b[0];
    free(a);
    free(b);
    return target;
}

/* The smallest distance from `target` to a value that the block can have at `c` under its scales:
 * every code is put there, joined and read back. */
static double least_distance(enum mb_format format, const uint8_t *row, size_t c, double target)
{
    const struct mb_format_info *info = mb_format_info(format);
    const struct mb_format_ops *ops = mb_format_ops(format);
    const uint8_t *block = row + c / info->block_k * info->block_bytes;
    const unsigned codes = info->scale == MB_SCALE_G256 ? 3 : 1u << mb_coding_bits(info->coding);
    uint8_t changed[256];
    float values[256];
    double least = INFINITY;
    struct mb_block_fields fields;
    ops->split(block, &fields);
    for (unsigned code = 0; code < codes; code++) {
        fields.code[c % info->block_k] = (uint8_t)code;
        ops->join(&fields, changed);
        ops->dequantize_row(changed, values, info->block_k);
        least = fmin(least, fabs(target - (double)values[c % info->block_k]));
    }
    return least;
}

/* Every code is the one nearest to what the errors before it ask for. */
static void test_codes(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(by_code); f++) {
        const struct mb_format_info *info = mb_format_info(by_code[f]);
        const size_t k = info->block_k < 96 ? 192 / info->block_k * info->block_k : info->block_k;
        struct sample s = make_sample(k, 20 + f);
        const size_t row_bytes = mb_format_row_bytes(info->id, k);
        uint8_t *rows = get(ROWS * row_bytes);
        float *q = get(k * sizeof *q);
        double *error = get(k * sizeof *error);
        mb_feedback_rows(info->id, s.w, ROWS, &s.moments, rows, s.scratch);
        const size_t row = f % ROWS, step = k > 200 ? 5 : 1;
        assert_int_equal(mb_dequantize(info->id, rows + row * row_bytes, 1, k, q), MB_OK);
        for (size_t c = 0; c < k; c++)
            error[c] = (double)s.w[row * k + c] - (double)q[c];
        for (size_t c = 0; c < k; c += step) {
            const double target = target_of(&s, s.w + row * k, error, c);
            const double here = fabs(target - (double)q[c]);
            assert_true(here <= least_distance(info->id, rows + row * row_bytes, c, target) + 2e-5);
        }
        free(rows);
        free(q);
        free(error);
        free_sample(&s);
    }
}

/* All formats: less error at the outputs than the search that knows the diagonal. */
static void check_gain(enum mb_format format, double most)
{
    struct sample s = make_sample(MOST, 3);
    const size_t row_bytes = mb_format_row_bytes(format, s.k);
    uint8_t *with = get(ROWS * row_bytes), *without = get(ROWS * row_bytes);
    float *diagonal = get(s.k * sizeof *diagonal);
    double before = 0.0, after = 0.0;
    for (size_t i = 0; i < s.k; i++)
        diagonal[i] = s.h[i * s.k + i];
    assert_int_equal(
        mb_quantize_with(&mb_encode_reference, format, s.w, ROWS, s.k, diagonal, without), MB_OK);
    mb_feedback_rows(format, s.w, ROWS, &s.moments, with, s.scratch);
    for (size_t r = 0; r < ROWS; r++) {
        before += error_of(&s, format, s.w + r * s.k, without + r * row_bytes);
        after += error_of(&s, format, s.w + r * s.k, with + r * row_bytes);
    }
    if (!(after < most * before))
        fail_msg("%s: %g with feedback, %g without", mb_format_info(format)->name, after, before);
    free(with);
    free(without);
    free(diagonal);
    free_sample(&s);
}

static void test_gain(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(by_code); f++) {
        assert_true(mb_feedback_by_code(by_code[f]));
        check_gain(by_code[f], 0.8);
    }
    for (size_t f = 0; f < COUNT(by_grid); f++)
        assert_false(mb_feedback_by_code(by_grid[f]));
}

/* ---- coordinate descent ---- */

/* From what search, feedback and chance leave: no row gets worse, what search leaves much better,
 * and the errors are those that are told. */
static void test_refine_never_worse(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(by_code); f++) {
        const enum mb_format format = by_code[f];
        struct sample s = make_sample(MOST, 40 + f);
        const size_t row_bytes = mb_format_row_bytes(format, s.k);
        uint8_t *old = get(ROWS * row_bytes), *made = get(ROWS * row_bytes);
        double sums[2][2] = {{0}}, told[ROWS];
        for (int start = 0; start < 3; start++) {
            if (start == 0)
                assert_int_equal(
                    mb_quantize_with(&mb_encode_reference, format, s.w, ROWS, s.k, NULL, old),
                    MB_OK);
            else if (start == 1)
                mb_feedback_rows(format, s.w, ROWS, &s.moments, old, s.scratch);
            else
                random_bytes(f, old, ROWS * row_bytes);
            memcpy(made, old, ROWS * row_bytes);
            mb_refine_rows(format, s.w, ROWS, &s.moments, 2, made, told, s.scratch);
            for (size_t r = 0; r < ROWS; r++) {
                const double before = error_of(&s, format, s.w + r * s.k, old + r * row_bytes),
                             after = error_of(&s, format, s.w + r * s.k, made + r * row_bytes);
                if (!isfinite(before)) {
                    assert_memory_equal(old + r * row_bytes, made + r * row_bytes, row_bytes);
                    continue;
                }
                assert_true(after <= before * (1 + 1e-4));
                if (start < 2)
                    assert_true(fabs(after - told[r]) <= 0.01 * after);
                if (start < 2)
                    sums[start][0] += before, sums[start][1] += after;
            }
        }
        assert_true(sums[0][1] < 0.5 * sums[0][0] && sums[1][1] < sums[1][0]);
        free(old);
        free(made);
        free_sample(&s);
    }
}

/* Afterwards no code lowers the error by itself. */
static void test_refine_is_done(void **state)
{
    (void)state;
    static const enum mb_format formats[] = {MB_FORMAT_Q4_0, MB_FORMAT_Q2_K, MB_FORMAT_IQ4_XS,
                                             MB_FORMAT_NVFP4, MB_FORMAT_TQ2_0};
    for (size_t f = 0; f < COUNT(formats); f++) {
        const struct mb_format_info *info = mb_format_info(formats[f]);
        struct sample s = make_sample(256, 60 + f);
        const size_t row_bytes = mb_format_row_bytes(info->id, s.k);
        uint8_t *rows = get(ROWS * row_bytes);
        float q[256];
        double told[ROWS];
        assert_int_equal(
            mb_quantize_with(&mb_encode_reference, info->id, s.w, ROWS, s.k, NULL, rows), MB_OK);
        mb_refine_rows(info->id, s.w, ROWS, &s.moments, 40, rows, told, s.scratch);
        for (size_t r = 0; r < ROWS; r++) {
            assert_int_equal(mb_dequantize(info->id, rows + r * row_bytes, 1, s.k, q), MB_OK);
            for (size_t c = 0; c < s.k; c++) {
                double gradient = 0.0;
                for (size_t j = 0; j < s.k; j++)
                    gradient +=
                        (double)s.h[c * s.k + j] * ((double)s.w[r * s.k + j] - (double)q[j]);
                const double target = (double)q[c] + gradient / (double)s.h[c * s.k + c];
                assert_true(fabs(target - (double)q[c]) <=
                            least_distance(info->id, rows + r * row_bytes, c, target) + 2e-6);
            }
        }
        free(rows);
        free_sample(&s);
    }
}

/* ---- edges ---- */

/* Rows that are zero, one value, one weight, tiny or huge: values stay finite, no row is worse
 * than zero by far, and a row does not depend on those beside it. */
static void test_odd_rows(void **state)
{
    (void)state;
    struct sample s = make_sample(MOST, 5);
    double told[ROWS];
    for (size_t c = 0; c < s.k; c++) {
        s.w[0 * s.k + c] = 0.0f;
        s.w[1 * s.k + c] = 0.25f;
        s.w[2 * s.k + c] = c == 100 ? 1.0f : 0.0f;
        s.w[3 * s.k + c] *= 1e-12f;
        s.w[4 * s.k + c] *= 1e5f;
        s.w[5 * s.k + c] = -0.125f;
    }
    for (size_t f = 0; f < COUNT(by_code); f++) {
        const enum mb_format format = by_code[f];
        const size_t row_bytes = mb_format_row_bytes(format, s.k);
        struct guard guard = guard_create(ROWS * row_bytes);
        uint8_t *rows = guard.end - ROWS * row_bytes, *one = get(row_bytes);
        float *q = get(ROWS * s.k * sizeof *q);
        mb_feedback_rows(format, s.w, ROWS, &s.moments, rows, s.scratch);
        mb_refine_rows(format, s.w, ROWS, &s.moments, 2, rows, told, s.scratch);
        assert_int_equal(mb_dequantize(format, rows, ROWS, s.k, q), MB_OK);
        for (size_t i = 0; i < ROWS * s.k; i++)
            assert_true(isfinite(q[i]));
        for (size_t c = 0; c < s.k; c++)
            assert_true(q[c] == 0.0f);
        for (size_t r = 0; r < ROWS; r += 3) {
            mb_feedback_rows(format, s.w + r * s.k, 1, &s.moments, one, s.scratch);
            mb_refine_rows(format, s.w + r * s.k, 1, &s.moments, 2, one, told, s.scratch);
            assert_memory_equal(one, rows + r * row_bytes, row_bytes);
        }
        free(one);
        free(q);
        guard_destroy(&guard);
    }
    free_sample(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gram),           cmocka_unit_test(test_factor),
        cmocka_unit_test(test_cross),          cmocka_unit_test(test_solve),
        cmocka_unit_test(test_factor_refuses), cmocka_unit_test(test_codes),
        cmocka_unit_test(test_gain),           cmocka_unit_test(test_refine_never_worse),
        cmocka_unit_test(test_refine_is_done), cmocka_unit_test(test_odd_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
