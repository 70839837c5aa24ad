/* SPDX-License-Identifier: Apache-2.0 */
/* Vector arithmetic that the forward pass needs beside matrix products: norms, activations,
 * softmax, attention's two small products, convolution and scan of state space layers, log-sum-exp
 * over the vocabulary.
 *
 * The bodies (vector_body.h) are compiled once per instruction set and all give the same bits:
 * lanes are fixed (16 of f32, 8 of f64), products and sums are rounded separately, and remainders
 * go through the same lanes. So results never depend on the CPU, which resumed and shared
 * sensitivity runs rely on. */
#ifndef MIXBIT_MODEL_VECTOR_H
#define MIXBIT_MODEL_VECTOR_H

#include <stddef.h>

/* Attention works on blocks of this many queries, and on keys in steps of this many. */
enum { MB_QUERY_BLOCK = 4, MB_KEY_BLOCK = 32 };

/* One token of a block of channels, a multiple of 16 of them: s[n][i] = exp(dt[i] * a[n][i]) *
 * s[n][i] + dt[i] * x[i] * b[n] over the states n. */
struct mb_scan_token {
    const float *x, *dt, *skip; /* [channels] */
    const float *a;             /* [states][a_stride]; stride 0: one number for the whole block */
    const float *b, *c;         /* [states] */
    size_t a_stride, channels, states;
};

/* For p = softmax(x), q = softmax(y). */
struct mb_vector_difference {
    double reverse;        /* KL(q || p) */
    double jensen_shannon; /* (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 */
    double noise;          /* sum (x - y)^2 */
    double xx, yy;         /* sum x^2, sum y^2 */
    double coded; /* sum e^p (p - ln q): what a "KL" gets that is handed p where it expects ln p */
};

struct mb_vector {
    /* out = x / sqrt(mean(x^2) + eps) * weight (NULL: 1); out may be x. */
    void (*rms_norm)(float *out, const float *x, const float *weight, size_t n, float eps);
    /* out = silu(gate) * up, out = gelu(gate) * up (the tanh form); out may be either. */
    void (*swiglu)(float *out, const float *gate, const float *up, size_t n);
    void (*geglu)(float *out, const float *gate, const float *up, size_t n);
    /* sum += scale * x. */
    void (*add)(float *sum, const float *x, float scale, size_t n);
    /* x = cap * tanh(x / cap). */
    void (*softcap)(float *x, float cap, size_t n);
    /* x = ln(1 + exp(x + bias)); bias NULL: 0. */
    void (*softplus)(float *x, const float *bias, size_t n);
    /* out[i] = silu(bias[i] + sum_j in[j][i] * taps[j][i]); a row in[j] that is NULL is zero, so is
     * bias. taps is [count][stride]. */
    void (*convolve)(float *out, const float *const *in, const float *taps, size_t stride,
                     size_t count, const float *bias, size_t n);
    /* The recurrence in place on state[states][channels], then out[i] = sum_n c[n] * state[n][i] +
     * skip[i] * x[i]. */
    void (*scan)(float *out, float *state, const struct mb_scan_token *token);
    /* s[r][j] = scale * sum_c q[r][c] * key_j[c] for r < rows <= MB_QUERY_BLOCK and j < count;
     * count is a multiple of MB_KEY_BLOCK. keys is [count / MB_KEY_BLOCK][dim][MB_KEY_BLOCK]. */
    void (*scores)(float *s, size_t s_stride, const float *q, size_t q_stride, size_t rows,
                   const float *keys, size_t dim, size_t count, float scale);
    /* Softmax of the first `length` scores in place; the rest up to `padded` (a multiple of 16)
     * becomes 0. */
    void (*softmax)(float *s, size_t length, size_t padded);
    /* out[r][c] = sum_j s[r][j] * values[j][c]; values is [count][values_stride], values_stride a
     * multiple of 16 and at least dim. */
    void (*weigh)(float *out, size_t out_stride, const float *s, size_t s_stride, size_t rows,
                  const float *values, size_t values_stride, size_t dim, size_t count);
    /* ln sum exp(x), in f64. */
    double (*log_sum_exp)(const float *x, size_t n);
    /* sum_i exp(x_i - log_sum) * (x_i - y_i), in f64: KL(x || y) but for the two normalizers. */
    double (*cross)(const float *x, double log_sum, const float *y, size_t n);
    /* How two rows of logits differ, given their log-sum-exps, all in f64: see
     * mb_vector_difference. */
    void (*differ)(const float *x, double x_sum, const float *y, double y_sum, size_t n,
                   struct mb_vector_difference *difference);
    /* The first position of the largest value. */
    size_t (*argmax)(const float *x, size_t n);
    /* sum[c] += x[c]^2, in f64. */
    void (*add_squares)(double *sum, const float *x, size_t n);
};

/* The fastest set that this CPU and MIXBIT_ISA allow. */
const struct mb_vector *mb_vector(void);
/* The i-th set (0: the baseline), NULL past the end or where the CPU lacks it: tests compare them.
 */
const struct mb_vector *mb_vector_at(size_t i);

#endif
