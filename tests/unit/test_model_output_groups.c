/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of the output's rows and their second moments. Oracles: probabilities and sums in f64 over
 * the rows themselves, a row encoded alone, another limit of memory, other threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/encoder.h"
#include "model/importance.h"
#include "model/network.h"
#include "model/output_groups.h"
#include "unit/moments_support.h"

enum { WINDOWS = 6, WINDOW = 64, TOKENS = WINDOWS * WINDOW, K = 256 };

struct fixture {
    struct ms_calibration c;
    size_t tensor, n;
    float *w; /* [n][K] */
    struct mb_row_parts groups;
};

static void set_up(struct fixture *f, size_t threads, size_t limit)
{
    struct mb_error error;
    *f = (struct fixture){0};
    ms_set_up(&f->c, TINY_MODEL, WINDOWS, WINDOW, 64, threads, limit);
    f->tensor = ns_index_of(f->c.model, "output.weight");
    const struct mb_tensor *tensor = mb_model_tensor_at(f->c.model, f->tensor);
    f->n = tensor->n;
    assert_int_equal(tensor->k, K);
    f->w = malloc(f->n * K * sizeof *f->w);
    assert_non_null(f->w);
    assert_int_equal(mb_dequantize(tensor->format, tensor->data, f->n, K, f->w), MB_OK);
    mb_moments_divide(f->c.moments);
    assert_int_equal(mb_moments_parts(f->c.moments, f->tensor, &f->groups, &error), MB_OK);
}

static void tear_down(struct fixture *f)
{
    free(f->w);
    ms_tear_down(&f->c);
}

static const struct mb_second_moments *get(struct fixture *f, size_t matrix)
{
    const struct mb_second_moments *found;
    struct mb_error error;
    if (mb_moments_get(f->c.moments, f->tensor, matrix, NULL, 0, 1, &found, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_true(found != NULL && found->h != NULL);
    return found;
}

static size_t start_of(const struct fixture *f, size_t group)
{
    return group > 0 ? f->groups.ends[group - 1] : 0;
}

/* ---- which rows ---- */

/* Every row is in one group, in order within it; only the output has groups, and only when asked.
 */
static void test_groups(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 2, 0);
    assert_in_range(f.groups.count, 32, 64);
    bool *seen = calloc(f.n, sizeof *seen);
    assert_non_null(seen);
    for (size_t g = 0; g < f.groups.count; g++) {
        assert_true(f.groups.ends[g] > start_of(&f, g));
        for (size_t i = start_of(&f, g); i < f.groups.ends[g]; i++) {
            assert_true(f.groups.order[i] < f.n && !seen[f.groups.order[i]]);
            assert_true(i == start_of(&f, g) || f.groups.order[i] > f.groups.order[i - 1]);
            seen[f.groups.order[i]] = true;
        }
    }
    assert_int_equal(f.groups.ends[f.groups.count - 1], f.n);
    free(seen);
    struct mb_row_parts none;
    struct mb_error error;
    const size_t embedding = ns_index_of(f.c.model, "token_embd.weight");
    assert_int_equal(mb_moments_parts(f.c.moments, embedding, &none, &error), MB_OK);
    assert_true(none.count == 1 && none.order == NULL);
    struct mb_moments *whole;
    assert_int_equal(mb_moments_create(f.c.network, &f.c.windows, 0, &whole, &error), MB_OK);
    assert_int_equal(mb_moments_parts(whole, f.tensor, &none, &error), MB_OK);
    assert_true(none.count == 1 && none.order == NULL);
    mb_moments_destroy(whole);
    tear_down(&f);
}

/* Directions of a group lie closer to its mean than directions of all rows do to theirs. */
static void test_directions(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 0, 0);
    double all[K] = {0}, within = 0, without = 0;
    for (size_t r = 0; r < f.n; r++) {
        double length = 0;
        for (size_t c = 0; c < K; c++)
            length += (double)f.w[r * K + c] * (double)f.w[r * K + c];
        for (size_t c = 0; c < K; c++) {
            f.w[r * K + c] /= (float)sqrt(length);
            all[c] += (double)f.w[r * K + c];
        }
    }
    /* The sum of cosines to a mean direction is the length of the sum. */
    for (size_t g = 0; g < f.groups.count; g++) {
        double square = 0;
        for (size_t c = 0; c < K; c++) {
            double sum = 0;
            for (size_t i = start_of(&f, g); i < f.groups.ends[g]; i++)
                sum += (double)f.w[f.groups.order[i] * K + c];
            square += sum * sum;
        }
        within += sqrt(square);
    }
    for (size_t c = 0; c < K; c++)
        without += all[c] * all[c];
    assert_true(within > 1.3 * sqrt(without));
    tear_down(&f);
}

/* ---- the numbers ---- */

struct rows {
    size_t matrix, count;
    float *x;
};

static void keep_rows(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                      size_t stride, size_t rows)
{
    struct rows *kept = user;
    (void)run;
    (void)expert;
    for (size_t r = 0; matrix == kept->matrix && r < rows; r++)
        memcpy(kept->x + kept->count++ * K, x + r * stride, K * sizeof *x);
}

/* shares[g] = the mean of p (1 - p) over the rows of group g at input x. */
static void share_out(const struct fixture *f, const float *x, double *z, double *shares)
{
    double highest = -INFINITY, sum = 0;
    for (size_t r = 0; r < f->n; r++) {
        z[r] = 0;
        for (size_t c = 0; c < K; c++)
            z[r] += (double)f->w[r * K + c] * (double)x[c];
        highest = z[r] > highest ? z[r] : highest;
    }
    for (size_t r = 0; r < f->n; r++)
        sum += exp(z[r] - highest);
    for (size_t g = 0; g < f->groups.count; g++) {
        shares[g] = 0;
        for (size_t i = start_of(f, g); i < f->groups.ends[g]; i++) {
            const double p = exp(z[f->groups.order[i]] - highest) / sum;
            shares[g] += p * (1 - p) / (double)(f->groups.ends[g] - start_of(f, g));
        }
    }
}

static double damped(const double *h, size_t i, size_t j)
{
    return h[i * K + j] + (i == j ? ms_damping(h, K + 1, K, TOKENS, i) : 0);
}

static void test_against_rows(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 0, 0);
    struct mb_error error;
    struct rows rows = {.matrix = f.c.network->output, .x = malloc(TOKENS * K * sizeof *rows.x)};
    double *z = malloc(f.n * sizeof *z), *shares = malloc(TOKENS * 64 * sizeof *shares),
           *h = malloc(K * K * sizeof *h), *whole = calloc(K * K, sizeof *whole);
    assert_true(rows.x != NULL && z != NULL && shares != NULL && h != NULL && whole != NULL);
    assert_int_equal(mb_observe(f.c.network, &f.c.windows, f.c.network->step_count, keep_rows,
                                &rows, NULL, &error),
                     MB_OK);
    assert_int_equal(rows.count, TOKENS);
    for (size_t t = 0; t < TOKENS; t++) {
        share_out(&f, rows.x + t * K, z, shares + t * 64);
        for (size_t i = 0; i < K * K; i++)
            whole[i] += (double)rows.x[t * K + i / K] * (double)rows.x[t * K + i % K] / TOKENS;
    }
    for (size_t g = 0; g < f.groups.count; g += 9) {
        double weight = 0, squares = 0, met = 0;
        memset(h, 0, K * K * sizeof *h);
        for (size_t t = 0; t < TOKENS; t++) {
            const double share = shares[t * 64 + g];
            met += share;
            if (share < 0.1 * met / (double)(t + 1))
                continue; /* counts for too little to be added */
            weight += share;
            squares += share * share;
            for (size_t i = 0; i < K * K; i++)
                h[i] += share * (double)rows.x[t * K + i / K] * (double)rows.x[t * K + i % K];
        }
        for (size_t i = 0; i < K * K; i++)
            h[i] /= weight;
        const double met_rows = weight * weight / squares, own = met_rows / (met_rows + K);
        const struct mb_second_moments *found = get(&f, 1 + g);
        for (size_t i = 0; i < K; i++)
            for (size_t j = 0; j < K; j++) {
                const double expected = own * damped(h, i, j) + (1 - own) * damped(whole, i, j);
                const double scale =
                    sqrt((double)found->diagonal[i]) * sqrt((double)found->diagonal[j]);
                assert_true(fabs(expected - (double)found->h[i * K + j]) < 5e-4 * scale);
            }
    }
    free(rows.x);
    free(z);
    free(shares);
    free(h);
    free(whole);
    tear_down(&f);
}

/* A limit of next to nothing makes passes, not other groups or numbers; neither do threads. */
static void test_limit_and_threads(void **state)
{
    (void)state;
    struct fixture all, few;
    set_up(&all, 0, 0);
    set_up(&few, 3, 1);
    assert_int_equal(all.groups.count, few.groups.count);
    assert_memory_equal(all.groups.order, few.groups.order, all.n * sizeof *all.groups.order);
    for (size_t matrix = 0; matrix <= all.groups.count; matrix += 10) {
        const struct mb_second_moments *a = get(&all, matrix), *b = get(&few, matrix);
        assert_memory_equal(a->h, b->h, K * K * sizeof *a->h);
        assert_memory_equal(a->factor, b->factor, K * K * sizeof *a->factor);
    }
    assert_int_equal(mb_moments_passes(all.c.moments), 1);
    assert_true(mb_moments_passes(few.c.moments) > 3);
    tear_down(&all);
    tear_down(&few);
}

/* ---- blocks ---- */

/* Rows of the output are those that each alone makes under its group's moments, in their places. */
static void test_rows(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 2, 0);
    struct mb_error error;
    const enum mb_format format = MB_FORMAT_Q3_K;
    const struct mb_tensor *tensor = mb_model_tensor_at(f.c.model, f.tensor);
    const size_t bytes = mb_format_row_bytes(format, K);
    struct mb_encoder *encoder = mb_encoder_create(f.c.model, f.c.moments, NULL, 1, 0, f.c.threads);
    const void *rows;
    uint8_t expected[512];
    assert_non_null(encoder);
    assert_true(bytes <= sizeof expected);
    assert_int_equal(mb_encoder_rows(encoder, f.tensor, format, NULL, 0, 1, &rows, &error), MB_OK);
    for (size_t g = 0; g < f.groups.count; g += 7) {
        const struct mb_encoding encoding = {.moments = get(&f, 1 + g), .sweeps = 1};
        for (size_t i = start_of(&f, g); i < f.groups.ends[g]; i += 5) {
            const size_t row = f.groups.order[i];
            assert_int_equal(
                mb_quantize_rows(tensor, format, &encoding, row, row + 1, f.w + row * K, expected),
                MB_OK);
            assert_memory_equal((const uint8_t *)rows + row * bytes, expected, bytes);
        }
    }
    mb_encoder_destroy(encoder);
    tear_down(&f);
}

/* A refined output has the rows that refining each alone makes of them, under its group's moments.
 */
static void test_refined(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 2, 0);
    struct mb_error error;
    struct mb_model *made[2];
    char path[2][64];
    enum mb_format *formats = calloc(mb_model_tensor_count(f.c.model), sizeof *formats);
    assert_non_null(formats);
    for (size_t i = 0; i < mb_model_tensor_count(f.c.model); i++)
        formats[i] = MB_FORMAT_NONE;
    formats[f.tensor] = MB_FORMAT_Q4_0;
    for (size_t i = 0; i < 2; i++) {
        struct mb_convert_options options = {.size = sizeof options, .threads = f.c.threads};
        if (i == 1) {
            options.moments = f.c.moments;
            options.source = f.c.model;
            options.sweeps = 1;
            formats[f.tensor] = MB_FORMAT_NONE;
        }
        ns_temporary(path[i]);
        if (mb_convert(i == 0 ? f.c.model : made[0], formats, path[i], &options, &error) != MB_OK)
            fail_msg("%s", error.message);
        made[i] = ns_open(path[i]);
    }
    const struct mb_tensor *before = mb_model_tensor_at(made[0], f.tensor),
                           *after = mb_model_tensor_at(made[1], f.tensor);
    const size_t bytes = mb_format_row_bytes(MB_FORMAT_Q4_0, K);
    uint8_t expected[512];
    size_t changed = 0;
    assert_true(bytes <= sizeof expected && after->bytes == f.n * bytes);
    for (size_t g = 0; g < f.groups.count; g += 7) {
        const struct mb_encoding encoding = {.moments = get(&f, 1 + g), .sweeps = 1};
        for (size_t i = start_of(&f, g); i < f.groups.ends[g]; i += 5) {
            const size_t row = f.groups.order[i];
            memcpy(expected, (const uint8_t *)before->data + row * bytes, bytes);
            assert_int_equal(
                mb_refine_stored(MB_FORMAT_Q4_0, &encoding, 1, f.w + row * K, expected), MB_OK);
            assert_memory_equal((const uint8_t *)after->data + row * bytes, expected, bytes);
            changed += memcmp((const uint8_t *)before->data + row * bytes, expected, bytes) != 0;
        }
    }
    assert_true(changed > 0);
    for (size_t i = 0; i < 2; i++) {
        mb_model_close(made[i]);
        unlink(path[i]);
    }
    free(formats);
    tear_down(&f);
}

static int stop_later(void *user, double done, double total, const char *note)
{
    (void)done;
    (void)total;
    (void)note;
    return --*(int *)user < 0;
}

/* Interrupted in the pass or between groups: nothing is kept, and the next call makes the rows. */
static void test_interrupt(void **state)
{
    (void)state;
    struct fixture f;
    set_up(&f, 2, 0);
    struct mb_error error;
    struct mb_encoder *encoder = mb_encoder_create(f.c.model, f.c.moments, NULL, 0, 0, f.c.threads);
    const void *rows;
    assert_non_null(encoder);
    for (int patience = 0; patience < 20; patience += 9) {
        int left = patience;
        const struct mb_progress progress = {stop_later, &left};
        assert_int_equal(
            mb_encoder_rows(encoder, f.tensor, MB_FORMAT_Q4_0, &progress, 0, 1, &rows, &error),
            MB_ERR_INTERRUPTED);
    }
    assert_int_equal(mb_encoder_rows(encoder, f.tensor, MB_FORMAT_Q4_0, NULL, 0, 1, &rows, &error),
                     MB_OK);
    mb_encoder_destroy(encoder);
    tear_down(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),       cmocka_unit_test(test_directions),
        cmocka_unit_test(test_against_rows), cmocka_unit_test(test_limit_and_threads),
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_refined),
        cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
