/* SPDX-License-Identifier: Apache-2.0 */
/* Vector arithmetic: every instruction set gives the same bits, and they are right. Oracle: the
 * definitions in f64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/vector.h"
#include <math.h>
#include <string.h>

static void assert_same_floats(const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("entry %zu: %.9g and %.9g", i, (double)a[i], (double)b[i]);
}

static void fill(float *x, size_t n, float scale, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) / (float)(1 << 23) - 1.0f) * scale;
    }
}

/* Two tokens through a block of n channels, rounded up; decays of either kind. */
static size_t run_scans(const struct mb_vector *set, const float *x, size_t n, float *out)
{
    enum { STATES = 5, MOST = 128 };
    const size_t channels = (n + 15) / 16 * 16;
    static float state[STATES * MOST], a[STATES * MOST], dt[MOST], b[STATES], c[STATES];
    size_t at = 0;
    fill(a, STATES * MOST, 3.0f, 5);
    fill(dt, MOST, 1.0f, 6);
    fill(b, STATES, 1.0f, 7);
    fill(c, STATES, 1.0f, 8);
    for (size_t i = 0; i < MOST; i++)
        dt[i] = fabsf(dt[i]);
    for (size_t kind = 0; kind < 2; kind++) {
        const struct mb_scan_token token = {.x = x,
                                            .dt = dt,
                                            .skip = a,
                                            .a = a,
                                            .b = b,
                                            .c = c,
                                            .a_stride = kind ? MOST : 0,
                                            .channels = channels,
                                            .states = STATES};
        fill(state, STATES * MOST, 1.0f, 9);
        for (size_t t = 0; t < 2; t++)
            set->scan(out + at, state, &token), at += channels;
        memcpy(out + at, state, STATES * channels * sizeof *state), at += STATES * channels;
    }
    return at;
}

/* Everything a set computes, in one array, to compare bits between sets. */
static size_t run_set(const struct mb_vector *set, size_t n, float *out)
{
    enum { ROWS = 3, KEYS = 64 };
    float x[256], y[256], keys[KEYS * 48], values[KEYS * 48], s[ROWS * KEYS];
    size_t at = 0;
    fill(x, 256, 4.0f, (uint32_t)n);
    fill(y, 256, 20.0f, (uint32_t)n + 1);
    fill(keys, KEYS * 48, 1.0f, 3);
    fill(values, KEYS * 48, 1.0f, 4);
    set->rms_norm(out + at, x, y, n, 1e-5f), at += n;
    memcpy(out + at, y, n * sizeof *y);
    set->swiglu(out + at, out + at, x, n), at += n;
    memcpy(out + at, x, n * sizeof *x);
    set->add(out + at, y, 0.7f, n), at += n;
    set->rms_norm(out + at, x, NULL, n, 1e-5f), at += n;
    set->geglu(out + at, y, x, n), at += n;
    memcpy(out + at, y, n * sizeof *y);
    set->softplus(out + at, x, n), at += n;
    memcpy(out + at, y, n * sizeof *y);
    set->softcap(out + at, 15.0f, n), at += n;
    const float *const in[] = {x, NULL, y};
    set->convolve(out + at, in, keys, 128, 3, values, n), at += n;
    at += run_scans(set, x, n, out + at);
    const size_t dim = n < 40 ? n : 40;
    for (size_t rows = 1; rows <= ROWS; rows++) {
        set->scores(s, KEYS, x, 40, rows, keys, dim, KEYS, 0.3f);
        for (size_t r = 0; r < rows; r++)
            set->softmax(s + r * KEYS, 40 + r, KEYS);
        memcpy(out + at, s, rows * KEYS * sizeof *s), at += rows * KEYS;
        set->weigh(out + at, 48, s, KEYS, rows, values, 48, dim, 50), at += rows * 48;
    }
    const double sum = set->log_sum_exp(y, n), cross = set->cross(y, sum, x, n);
    memcpy(out + at, &sum, sizeof sum), at += 2;
    memcpy(out + at, &cross, sizeof cross), at += 2;
    out[at++] = (float)set->argmax(y, n);
    return at;
}

static void test_vector_sets_agree(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 100; n += n < 40 ? 1 : 19)
        for (size_t i = 1; mb_vector_at(i) != NULL; i++) {
            static float a[4096], b[4096];
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            const size_t count = run_set(mb_vector_at(0), n, a);
            assert_true(count < 4096);
            run_set(mb_vector_at(i), n, b);
            assert_same_floats(a, b, count);
        }
}

static void test_vector_accuracy(void **state)
{
    (void)state;
    enum { N = 77 };
    const struct mb_vector *set = mb_vector();
    float x[N], w[N], up[N], out[N], padded[96];
    for (uint32_t seed = 1; seed < 50; seed++) {
        const float scale = (float)seed;
        double squares = 0, top = -INFINITY, sum = 0;
        fill(x, N, scale, seed);
        fill(w, N, 1.0f, seed + 1);
        fill(up, N, 1.0f, seed + 2);
        for (size_t i = 0; i < N; i++) {
            squares += (double)x[i] * (double)x[i];
            top = fmax(top, (double)x[i]);
        }
        for (size_t i = 0; i < N; i++)
            sum += exp((double)x[i] - top);
        set->rms_norm(out, x, w, N, 1e-5f);
        for (size_t i = 0; i < N; i++) {
            const double expected = (double)x[i] / sqrt(squares / N + 1e-5) * (double)w[i];
            assert_true(fabs((double)out[i] - expected) <= 5e-7 * fabs(expected));
        }
        set->swiglu(out, x, up, N);
        for (size_t i = 0; i < N; i++) {
            const double expected = (double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i];
            assert_true(fabs((double)out[i] - expected) <= 1e-6 * fabs(expected) + 1e-37);
        }
        memcpy(padded, x, sizeof x);
        set->softmax(padded, N, 96);
        for (size_t i = 0; i < 96; i++) {
            /* The difference itself is rounded to f32. */
            const double expected = i < N ? exp((double)(x[i] - (float)top)) / sum : 0.0;
            assert_true(fabs((double)padded[i] - expected) <= 1e-6 * expected + 1e-37);
        }
        assert_true(fabs(set->log_sum_exp(x, N) - (top + log(sum))) < 1e-13 * (1 + fabs(top)));
    }
}

static void test_activation_accuracy(void **state)
{
    (void)state;
    enum { N = 77 };
    const struct mb_vector *set = mb_vector();
    float x[N], up[N], bias[N], out[N];
    for (uint32_t seed = 1; seed < 50; seed++) {
        fill(x, N, (float)seed, seed);
        fill(up, N, 1.0f, seed + 2);
        fill(bias, N, 1.0f, seed + 3);
        set->geglu(out, x, up, N);
        for (size_t i = 0; i < N; i++) {
            const double v = (double)x[i], cube = v * v * v;
            const double bent = tanh(sqrt(2 / acos(-1.0)) * (v + 0.044715 * cube));
            const double expected = 0.5 * v * (1 + bent) * (double)up[i];
            /* Where gelu is next to nothing, the exponent's own rounding shows. */
            assert_true(fabs((double)out[i] - expected) <= 2e-6 * fabs(expected) + 1e-7);
        }
        memcpy(out, x, sizeof out);
        set->softplus(out, bias, N);
        for (size_t i = 0; i < N; i++) {
            const double v = (double)(x[i] + bias[i]);
            const double expected = v > 0 ? v + log1p(exp(-v)) : log1p(exp(v));
            assert_true(fabs((double)out[i] - expected) <= 5e-7 * expected + 1e-37);
        }
        memcpy(out, x, sizeof out);
        set->softcap(out, 7.0f, N);
        for (size_t i = 0; i < N; i++)
            assert_true(fabs((double)out[i] - 7 * tanh((double)x[i] / 7)) <= 3e-6);
    }
}

/* Against the definitions in f64. */
static void test_scan_accuracy(void **state)
{
    (void)state;
    enum { CHANNELS = 80, STATES = 9, TOKENS = 40, TAPS = 3 };
    const struct mb_vector *set = mb_vector();
    static float x[TOKENS][CHANNELS], dt[TOKENS][CHANNELS], b[TOKENS][STATES], c[TOKENS][STATES],
        a[STATES][CHANNELS], skip[CHANNELS], s[STATES * CHANNELS], out[CHANNELS];
    static double exact[STATES][CHANNELS];
    fill(&x[0][0], TOKENS * CHANNELS, 1.0f, 1);
    fill(&dt[0][0], TOKENS * CHANNELS, 1.0f, 2);
    fill(&b[0][0], TOKENS * STATES, 1.0f, 3);
    fill(&c[0][0], TOKENS * STATES, 1.0f, 4);
    fill(&a[0][0], STATES * CHANNELS, 1.0f, 5);
    fill(skip, CHANNELS, 1.0f, 6);
    for (size_t i = 0; i < STATES * CHANNELS; i++) /* decays, not growth */
        (&a[0][0])[i] = -fabsf((&a[0][0])[i]);
    for (size_t kind = 0; kind < 2; kind++) {
        memset(s, 0, sizeof s);
        memset(exact, 0, sizeof exact);
        for (size_t t = 0; t < TOKENS; t++) {
            for (size_t i = 0; i < CHANNELS; i++)
                dt[t][i] = fabsf(dt[t][kind ? i : 0]);
            const struct mb_scan_token token = {
                x[t],     dt[t], skip, kind ? a[0] : &a[1][1], b[t], c[t], kind ? CHANNELS : 0,
                CHANNELS, STATES};
            set->scan(out, s, &token);
            for (size_t i = 0; i < CHANNELS; i++) {
                double y = (double)skip[i] * (double)x[t][i];
                for (size_t n = 0; n < STATES; n++) {
                    const double decay = (double)(kind ? a[n][i] : a[1][1]);
                    exact[n][i] = exp((double)dt[t][i] * decay) * exact[n][i] +
                                  (double)dt[t][i] * (double)x[t][i] * (double)b[t][n];
                    y += exact[n][i] * (double)c[t][n];
                }
                const double size = fabs(y) + 1;
                assert_true(fabs((double)out[i] - y) < 2e-6 * size);
            }
        }
    }
    static const float taps[TAPS][CHANNELS] = {{0.5f, -1.0f}, {2.0f, 0.25f}, {1.5f, 3.0f}};
    const float *const in[TAPS] = {NULL, x[0], x[1]};
    set->convolve(out, in, taps[0], CHANNELS, TAPS, skip, 2);
    for (size_t i = 0; i < 2; i++) {
        const double sum = (double)(taps[1][i] * x[0][i] + taps[2][i] * x[1][i] + skip[i]);
        assert_true(fabs((double)out[i] - sum / (1 + exp(-sum))) < 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vector_sets_agree),
        cmocka_unit_test(test_vector_accuracy),
        cmocka_unit_test(test_activation_accuracy),
        cmocka_unit_test(test_scan_accuracy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
