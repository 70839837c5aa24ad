/* SPDX-License-Identifier: Apache-2.0 */
/* The bodies of vector.h, included by vector.c once per instruction set. The includer defines
 * MB_LANES (floats per register), MB_CLONE(name), which gives each copy its own names, and
 * MB_TARGET and MB_INLINE, which select the instructions.
 *
 * Where lanes don't meet (exponentials, attention) a loop goes by registers. Where they are summed,
 * 16 lanes of f32 or 8 of f64 are kept in as many registers as that takes and folded in one order,
 * so every copy rounds alike. */

typedef float MB_CLONE(vfloat) __attribute__((vector_size(MB_LANES * 4), may_alias));
typedef int MB_CLONE(vint) __attribute__((vector_size(MB_LANES * 4), may_alias));
typedef double MB_CLONE(vdouble) __attribute__((vector_size(MB_LANES * 4), may_alias));
typedef long long MB_CLONE(vlong) __attribute__((vector_size(MB_LANES * 4), may_alias));
typedef float MB_CLONE(vfloat_any)
    __attribute__((vector_size(MB_LANES * 4), aligned(4), may_alias));
typedef float MB_CLONE(vhalf_any) __attribute__((vector_size(MB_LANES * 2), aligned(4), may_alias));
#define vfloat MB_CLONE(vfloat)
#define vint MB_CLONE(vint)
#define vdouble MB_CLONE(vdouble)
#define vlong MB_CLONE(vlong)
#define LOAD(p) ((vfloat) * (const MB_CLONE(vfloat_any) *)(p))
#define STORE(p, v) (*(MB_CLONE(vfloat_any) *)(p) = (v))
#define LOAD_WIDE(p) __builtin_convertvector(*(const MB_CLONE(vhalf_any) *)(p), vdouble)
enum { MB_CLONE(parts) = 16 / MB_LANES, MB_CLONE(wide) = MB_LANES / 2 };
#define PARTS MB_CLONE(parts)
#define WIDE MB_CLONE(wide)

/* a where the mask is set, else b. */
#define CHOOSE(type, itype, mask, a, b) ((type)(((mask) & (itype)(a)) | (~(mask) & (itype)(b))))
#define CHOOSE_FLOAT(mask, a, b) CHOOSE(vfloat, vint, mask, a, b)
#define CHOOSE_DOUBLE(mask, a, b) CHOOSE(vdouble, vlong, mask, a, b)

/* *x = e^x. e^x = 2^n * e^r, |r| <= ln 2 / 2; Taylor to r^7 leaves 5e-9. Adding 1.5 * 2^23 rounds
 * to an integer and leaves it in the low bits. Clamped where 2^n is a normal number; NaN stays. */
static MB_INLINE void MB_CLONE(exp_float)(vfloat *x)
{
    const vfloat zero = {0};
    vfloat v = *x;
    v = CHOOSE_FLOAT(v > 88.0f, zero + 88.0f, v);
    v = CHOOSE_FLOAT(v < -87.0f, zero - 87.0f, v);
    const vfloat shifted = v * 0x1.715476p+0f + 0x1.8p23f;
    const vfloat n = shifted - 0x1.8p23f;
    const vfloat r = (v - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    vfloat p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    *x = p * (vfloat)(((vint)shifted + 127) << 23);
}

/* As above in f64: Taylor to r^11 leaves 7e-15. */
static MB_INLINE void MB_CLONE(exp_double)(vdouble *x)
{
    const vdouble zero = {0};
    vdouble v = *x;
    v = CHOOSE_DOUBLE(v > 700.0, zero + 700.0, v);
    v = CHOOSE_DOUBLE(v < -700.0, zero - 700.0, v);
    const vdouble shifted = v * 0x1.71547652b82fep+0 + 0x1.8p52;
    const vdouble n = shifted - 0x1.8p52;
    const vdouble r = (v - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
    vdouble p = r * (1.0 / 39916800) + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    *x = p * (vdouble)(((vlong)shifted + 1023) << 52);
}

/* Lanes are folded in halves, always the same way. */
static MB_INLINE float MB_CLONE(sum_float)(const vfloat *v)
{
    float a[16];
    memcpy(a, v, sizeof a);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            a[i] += a[i + half];
    return a[0];
}

static MB_INLINE double MB_CLONE(sum_double)(const vdouble *v)
{
    double a[8];
    memcpy(a, v, sizeof a);
    for (size_t half = 4; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            a[i] += a[i + half];
    return a[0];
}

/* The largest of n floats; NaN is passed over unless it comes first. */
MB_TARGET static float MB_CLONE(maximum)(const float *x, size_t n)
{
    float max = x[0];
    size_t i = 0;
    if (n >= MB_LANES) {
        vfloat top = LOAD(x);
        for (i = MB_LANES; i + MB_LANES <= n; i += MB_LANES) {
            const vfloat v = LOAD(x + i);
            top = CHOOSE_FLOAT(v > top, v, top);
        }
        max = top[0];
        for (size_t l = 1; l < MB_LANES; l++)
            max = top[l] > max ? top[l] : max;
    }
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

MB_TARGET static void MB_CLONE(rms_norm)(float *out, const float *x, const float *weight, size_t n,
                                         float eps)
{
    vfloat squares[PARTS] = {{0}};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t p = 0; p < PARTS; p++) {
            const vfloat v = LOAD(x + i + p * MB_LANES);
            squares[p] += v * v;
        }
    if (i < n) {
        float tail[16] = {0};
        memcpy(tail, x + i, (n - i) * sizeof *x);
        for (size_t p = 0; p < PARTS; p++) {
            const vfloat v = LOAD(tail + p * MB_LANES);
            squares[p] += v * v;
        }
    }
    const float scale = 1.0f / sqrtf(MB_CLONE(sum_float)(squares) / (float)n + eps);
    for (i = 0; i + MB_LANES <= n; i += MB_LANES)
        STORE(out + i, weight ? LOAD(x + i) * scale * LOAD(weight + i) : LOAD(x + i) * scale);
    for (; i < n; i++)
        out[i] = weight ? x[i] * scale * weight[i] : x[i] * scale;
}

static MB_INLINE void MB_CLONE(silu)(vfloat *x)
{
    vfloat e = -*x;
    MB_CLONE(exp_float)(&e);
    *x = *x / (e + 1.0f);
}

/* gelu(x) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) * (x + 0.044715 x^3). */
static MB_INLINE void MB_CLONE(gelu)(vfloat *x)
{
    const vfloat v = *x;
    vfloat e = v * (v * v * 0.044715f + 1.0f) * -1.5957691216f;
    MB_CLONE(exp_float)(&e);
    *x = v / (e + 1.0f);
}

/* out = f(gate) * up with `left` <= MB_LANES entries at the end. */
#define GATED(name, f)                                                                             \
    MB_TARGET static void MB_CLONE(name)(float *out, const float *gate, const float *up, size_t n) \
    {                                                                                              \
        size_t i = 0;                                                                              \
        for (; i + MB_LANES <= n; i += MB_LANES) {                                                 \
            vfloat g = LOAD(gate + i);                                                             \
            f(&g);                                                                                 \
            STORE(out + i, g * LOAD(up + i));                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            float tail[MB_LANES] = {0}, other[MB_LANES] = {0};                                     \
            memcpy(tail, gate + i, (n - i) * sizeof *gate);                                        \
            memcpy(other, up + i, (n - i) * sizeof *up);                                           \
            vfloat g = LOAD(tail);                                                                 \
            f(&g);                                                                                 \
            STORE(tail, g *LOAD(other));                                                           \
            memcpy(out + i, tail, (n - i) * sizeof *out);                                          \
        }                                                                                          \
    }
GATED(swiglu, MB_CLONE(silu))
GATED(geglu, MB_CLONE(gelu))
#undef GATED

MB_TARGET static void MB_CLONE(add)(float *sum, const float *x, float scale, size_t n)
{
    size_t i = 0;
    for (; i + MB_LANES <= n; i += MB_LANES)
        STORE(sum + i, LOAD(sum + i) + LOAD(x + i) * scale);
    for (; i < n; i++)
        sum[i] += x[i] * scale;
}

/* tanh(u) = 1 - 2 / (exp(2 u) + 1). */
MB_TARGET static void MB_CLONE(softcap)(float *x, float cap, size_t n)
{
    const float twice = 2.0f / cap;
    for (size_t i = 0; i < n; i += MB_LANES) {
        const size_t lanes = n - i < MB_LANES ? n - i : MB_LANES;
        float part[MB_LANES] = {0};
        memcpy(part, x + i, lanes * sizeof *x);
        vfloat e = LOAD(part) * twice;
        MB_CLONE(exp_float)(&e);
        STORE(part, (1.0f - 2.0f / (e + 1.0f)) * cap);
        memcpy(x + i, part, lanes * sizeof *x);
    }
}

/* ln(1 + e^x) = max(x, 0) + ln(1 + t), t = e^-|x|; ln(1 + t) = 2 artanh(z), z = t / (2 + t) <= 1/3:
 * its series to z^15 leaves 2e-9. */
MB_TARGET static void MB_CLONE(softplus)(float *x, const float *bias, size_t n)
{
    const vfloat zero = {0};
    for (size_t i = 0; i < n; i += MB_LANES) {
        const size_t lanes = n - i < MB_LANES ? n - i : MB_LANES;
        float part[MB_LANES] = {0}, more[MB_LANES] = {0};
        memcpy(part, x + i, lanes * sizeof *x);
        if (bias != NULL)
            memcpy(more, bias + i, lanes * sizeof *bias);
        const vfloat v = LOAD(part) + LOAD(more);
        vfloat t = CHOOSE_FLOAT(v > zero, -v, v);
        MB_CLONE(exp_float)(&t);
        const vfloat z = t / (t + 2.0f), q = z * z;
        vfloat p = q * (1.0f / 15) + 1.0f / 13;
        p = p * q + 1.0f / 11;
        p = p * q + 1.0f / 9;
        p = p * q + 1.0f / 7;
        p = p * q + 1.0f / 5;
        p = p * q + 1.0f / 3;
        p = p * q + 1.0f;
        STORE(part, CHOOSE_FLOAT(v > zero, v, zero) + z * p * 2.0f);
        memcpy(x + i, part, lanes * sizeof *x);
    }
}

MB_TARGET static void MB_CLONE(convolve)(float *out, const float *const *in, const float *taps,
                                         size_t stride, size_t count, const float *bias, size_t n)
{
    for (size_t i = 0; i < n; i += MB_LANES) {
        const size_t lanes = n - i < MB_LANES ? n - i : MB_LANES;
        float part[MB_LANES] = {0}, weight[MB_LANES] = {0};
        vfloat sum = {0};
        for (size_t j = 0; j < count; j++)
            if (in[j] != NULL && lanes == MB_LANES) {
                sum += LOAD(in[j] + i) * LOAD(taps + j * stride + i);
            } else if (in[j] != NULL) {
                memcpy(part, in[j] + i, lanes * sizeof *part);
                memcpy(weight, taps + j * stride + i, lanes * sizeof *weight);
                sum += LOAD(part) * LOAD(weight);
            }
        memset(part, 0, sizeof part);
        if (bias != NULL)
            memcpy(part, bias + i, lanes * sizeof *part);
        sum += LOAD(part);
        MB_CLONE(silu)(&sum);
        memcpy(out + i, &sum, lanes * sizeof *out);
    }
}

/* `count` registers of channels; lanes are channels, so nothing is summed across them. */
static MB_INLINE void MB_CLONE(scan_lanes)(float *out, float *state,
                                           const struct mb_scan_token *token, size_t first,
                                           size_t count)
{
    vfloat sum[4] = {{0}}, input[4], step[4], decay[4];
    for (size_t r = 0; r < count; r++) {
        const size_t at = first + r * MB_LANES;
        step[r] = LOAD(token->dt + at);
        input[r] = LOAD(token->x + at) * step[r];
        decay[r] = step[r] * token->a[0];
        if (token->a_stride == 0)
            MB_CLONE(exp_float)(&decay[r]);
    }
    for (size_t n = 0; n < token->states; n++)
        for (size_t r = 0; r < count; r++) {
            const size_t at = first + r * MB_LANES;
            float *s = state + n * token->channels + at;
            if (token->a_stride != 0) {
                decay[r] = step[r] * LOAD(token->a + n * token->a_stride + at);
                MB_CLONE(exp_float)(&decay[r]);
            }
            const vfloat next = LOAD(s) * decay[r] + input[r] * token->b[n];
            STORE(s, next);
            sum[r] += next * token->c[n];
        }
    for (size_t r = 0; r < count; r++) {
        const size_t at = first + r * MB_LANES;
        STORE(out + at, sum[r] + LOAD(token->skip + at) * LOAD(token->x + at));
    }
}

MB_TARGET static void MB_CLONE(scan)(float *out, float *state, const struct mb_scan_token *token)
{
    size_t i = 0;
    for (; i + 4 * MB_LANES <= token->channels; i += 4 * MB_LANES)
        MB_CLONE(scan_lanes)(out, state, token, i, 4);
    for (; i < token->channels; i += MB_LANES)
        MB_CLONE(scan_lanes)(out, state, token, i, 1);
}

/* `rows` queries x two registers of keys stay in registers; keys are read once per block of
 * queries. A block of keys is read in columns, not as it lies, so each read asks for the same place
 * of the next block. */
static MB_INLINE void MB_CLONE(scores_of)(float *s, size_t s_stride, const float *const *q,
                                          const size_t rows, const float *keys, size_t dim,
                                          size_t count, float scale)
{
    for (size_t j = 0; j < count; j += 2 * MB_LANES) {
        const float *k = keys + j / MB_KEY_BLOCK * MB_KEY_BLOCK * dim + j % MB_KEY_BLOCK;
        const float *ahead = k + MB_KEY_BLOCK * dim;
        vfloat a[MB_QUERY_BLOCK] = {{0}}, b[MB_QUERY_BLOCK] = {{0}};
        for (size_t c = 0; c < dim; c++, k += MB_KEY_BLOCK, ahead += MB_KEY_BLOCK) {
            const vfloat k0 = LOAD(k), k1 = LOAD(k + MB_LANES);
            __builtin_prefetch(ahead);
            if (MB_LANES == 16)
                __builtin_prefetch(ahead + 16);
            _Pragma("GCC unroll 4") for (size_t r = 0; r < rows; r++)
            {
                a[r] += k0 * q[r][c];
                b[r] += k1 * q[r][c];
            }
        }
        _Pragma("GCC unroll 4") for (size_t r = 0; r < rows; r++)
        {
            STORE(s + r * s_stride + j, a[r] * scale);
            STORE(s + r * s_stride + j + MB_LANES, b[r] * scale);
        }
    }
}

MB_TARGET static void MB_CLONE(scores)(float *s, size_t s_stride, const float *q, size_t q_stride,
                                       size_t rows, const float *keys, size_t dim, size_t count,
                                       float scale)
{
    const float *of[MB_QUERY_BLOCK];
    for (size_t r = 0; r < MB_QUERY_BLOCK; r++)
        of[r] = q + (r < rows ? r : 0) * q_stride;
    switch (rows) {
    case 1: MB_CLONE(scores_of)(s, s_stride, of, 1, keys, dim, count, scale); break;
    case 2: MB_CLONE(scores_of)(s, s_stride, of, 2, keys, dim, count, scale); break;
    case 3: MB_CLONE(scores_of)(s, s_stride, of, 3, keys, dim, count, scale); break;
    default: MB_CLONE(scores_of)(s, s_stride, of, 4, keys, dim, count, scale); break;
    }
}

MB_TARGET static void MB_CLONE(softmax)(float *s, size_t length, size_t padded)
{
    const float max = MB_CLONE(maximum)(s, length);
    for (size_t i = length; i < padded; i++)
        s[i] = -INFINITY;
    const vfloat zero = {0};
    vfloat sum[PARTS] = {{0}};
    for (size_t i = 0; i < padded; i += 16)
        for (size_t p = 0; p < PARTS; p++) {
            float *at = s + i + p * MB_LANES;
            const vfloat v = LOAD(at) - max;
            vfloat e = v;
            MB_CLONE(exp_float)(&e);
            e = CHOOSE_FLOAT(v < -87.0f, zero, e);
            STORE(at, e);
            sum[p] += e;
        }
    const float inverse = 1.0f / MB_CLONE(sum_float)(sum);
    for (size_t i = 0; i < padded; i += MB_LANES)
        STORE(s + i, LOAD(s + i) * inverse);
}

/* The first `lanes` floats from p. */
static MB_INLINE void MB_CLONE(load_some)(vfloat *v, const float *p, size_t lanes)
{
    if (lanes >= MB_LANES)
        *v = LOAD(p);
    else
        memcpy(v, p, lanes * sizeof *p);
}
static MB_INLINE void MB_CLONE(store_some)(float *p, const vfloat *v, size_t lanes)
{
    if (lanes >= MB_LANES)
        STORE(p, *v);
    else
        memcpy(p, v, lanes * sizeof *p);
}

/* Some positions at a time, so that values are read about as they lie; sums go on in `out`, which
 * costs more the fewer they are. */
static MB_INLINE void MB_CLONE(weigh_of)(float *out, size_t out_stride, const float *const *s,
                                         const size_t rows, const float *values,
                                         size_t values_stride, size_t dim, size_t count)
{
    const size_t some = 64;
    for (size_t first = 0; first < count; first += some) {
        const size_t last = count - first < some ? count : first + some;
        for (size_t c = 0; c < dim; c += 2 * MB_LANES) {
            const size_t left = dim - c, more = left > MB_LANES ? left - MB_LANES : 0;
            /* Values are padded to 16 floats, not to two registers: the second may be the first
             * again. */
            const size_t next = more > 0 ? MB_LANES : 0;
            vfloat a[MB_QUERY_BLOCK] = {{0}}, b[MB_QUERY_BLOCK] = {{0}};
            _Pragma("GCC unroll 4") for (size_t r = 0; r < rows && first > 0; r++)
            {
                MB_CLONE(load_some)(&a[r], out + r * out_stride + c, left);
                MB_CLONE(load_some)(&b[r], out + r * out_stride + c + MB_LANES, more);
            }
            const float *v = values + first * values_stride + c;
            const float *ahead = v + some * values_stride;
            for (size_t j = first; j < last; j++, v += values_stride, ahead += values_stride) {
                const vfloat v0 = LOAD(v), v1 = LOAD(v + next);
                __builtin_prefetch(ahead);
                if (MB_LANES == 16)
                    __builtin_prefetch(ahead + next);
                _Pragma("GCC unroll 4") for (size_t r = 0; r < rows; r++)
                {
                    a[r] += v0 * s[r][j];
                    b[r] += v1 * s[r][j];
                }
            }
            _Pragma("GCC unroll 4") for (size_t r = 0; r < rows; r++)
            {
                MB_CLONE(store_some)(out + r * out_stride + c, &a[r], left);
                MB_CLONE(store_some)(out + r * out_stride + c + MB_LANES, &b[r], more);
            }
        }
    }
}

MB_TARGET static void MB_CLONE(weigh)(float *out, size_t out_stride, const float *s,
                                      size_t s_stride, size_t rows, const float *values,
                                      size_t values_stride, size_t dim, size_t count)
{
    const float *of[MB_QUERY_BLOCK];
    for (size_t r = 0; r < MB_QUERY_BLOCK; r++)
        of[r] = s + (r < rows ? r : 0) * s_stride;
    switch (rows) {
    case 1: MB_CLONE(weigh_of)(out, out_stride, of, 1, values, values_stride, dim, count); break;
    case 2: MB_CLONE(weigh_of)(out, out_stride, of, 2, values, values_stride, dim, count); break;
    case 3: MB_CLONE(weigh_of)(out, out_stride, of, 3, values, values_stride, dim, count); break;
    default: MB_CLONE(weigh_of)(out, out_stride, of, 4, values, values_stride, dim, count); break;
    }
}

MB_TARGET static double MB_CLONE(log_sum_exp)(const float *x, size_t n)
{
    const double max = (double)MB_CLONE(maximum)(x, n);
    vdouble sum[PARTS] = {{0}};
    for (size_t i = 0; i < n; i += 8) {
        float tail[8] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY,
                         -INFINITY, -INFINITY, -INFINITY, -INFINITY};
        const float *at = x + i;
        if (n - i < 8)
            at = memcpy(tail, at, (n - i) * sizeof *x);
        for (size_t p = 0; p < PARTS; p++) {
            vdouble e = LOAD_WIDE(at + p * WIDE) - max;
            MB_CLONE(exp_double)(&e);
            sum[p] += e;
        }
    }
    return max + log(MB_CLONE(sum_double)(sum));
}

MB_TARGET static double MB_CLONE(cross)(const float *x, double log_sum, const float *y, size_t n)
{
    vdouble sum[PARTS] = {{0}};
    for (size_t i = 0; i < n; i += 8) {
        float x_tail[8] = {0}, y_tail[8] = {0}; /* equal in the unused lanes: they add nothing */
        const float *x_at = x + i, *y_at = y + i;
        if (n - i < 8) {
            x_at = memcpy(x_tail, x_at, (n - i) * sizeof *x);
            y_at = memcpy(y_tail, y_at, (n - i) * sizeof *y);
        }
        for (size_t p = 0; p < PARTS; p++) {
            const vdouble a = LOAD_WIDE(x_at + p * WIDE);
            vdouble weight = a - log_sum;
            MB_CLONE(exp_double)(&weight);
            sum[p] += weight * (a - LOAD_WIDE(y_at + p * WIDE));
        }
    }
    return MB_CLONE(sum_double)(sum);
}

/* *x = ln(1 + x) for x in [0, 1]: 2 artanh(z) with z = x / (2 + x) <= 1/3; the series to z^31
 * leaves 2e-17. */
static MB_INLINE void MB_CLONE(log1p_double)(vdouble *x)
{
    const vdouble z = *x / (*x + 2.0), square = z * z;
    vdouble p = square * (1.0 / 31) + 1.0 / 29;
    for (int odd = 27; odd > 0; odd -= 2)
        p = p * square + 1.0 / odd;
    *x = 2.0 * z * p;
}

/* With d = ln q - ln p: ln(m / p) = softplus(d) - ln 2 and ln(m / q) = softplus(-d) - ln 2, where
 * softplus(d) = max(d, 0) + ln(1 + e^-|d|). */
MB_TARGET static void MB_CLONE(differ)(const float *x, double x_sum, const float *y, double y_sum,
                                       size_t n, struct mb_vector_difference *difference)
{
    vdouble reverse[PARTS] = {{0}}, shannon[PARTS] = {{0}}, noise[PARTS] = {{0}};
    vdouble xx[PARTS] = {{0}}, yy[PARTS] = {{0}}, coded[PARTS] = {{0}};
    const vdouble zero = {0};
    const double ln2 = 0x1.62e42fefa39efp-1;
    for (size_t i = 0; i < n; i += 8) {
        float x_tail[8] = {0}, y_tail[8] = {0};
        const float *x_at = x + i, *y_at = y + i;
        const size_t left = n - i < 8 ? n - i : 8;
        if (left < 8) {
            x_at = memcpy(x_tail, x_at, left * sizeof *x);
            y_at = memcpy(y_tail, y_at, left * sizeof *y);
        }
        for (size_t part = 0; part < PARTS; part++) {
            const vdouble a = LOAD_WIDE(x_at + part * WIDE), b = LOAD_WIDE(y_at + part * WIDE);
            const vdouble ln_p = a - x_sum, ln_q = b - y_sum, d = ln_q - ln_p;
            vdouble p = ln_p, q = ln_q, up = CHOOSE_DOUBLE(d > 0.0, d, zero), power;
            vdouble soft = up + up - d; /* |d| */
            soft = -soft;
            MB_CLONE(exp_double)(&p);
            MB_CLONE(exp_double)(&q);
            MB_CLONE(exp_double)(&soft);
            MB_CLONE(log1p_double)(&soft);
            power = p;
            MB_CLONE(exp_double)(&power);
            vdouble terms[] = {q * d, 0.5 * (p * (ln2 - (up + soft)) + q * (ln2 - (up - d + soft))),
                               power * (p - ln_q)};
            for (size_t lane = 0; left < 8 && lane < WIDE; lane++)
                if (part * WIDE + lane >= left)
                    terms[0][lane] = terms[1][lane] = terms[2][lane] = 0;
            reverse[part] += terms[0];
            shannon[part] += terms[1];
            coded[part] += terms[2];
            noise[part] += (a - b) * (a - b);
            xx[part] += a * a;
            yy[part] += b * b;
        }
    }
    *difference = (struct mb_vector_difference){
        MB_CLONE(sum_double)(reverse), MB_CLONE(sum_double)(shannon), MB_CLONE(sum_double)(noise),
        MB_CLONE(sum_double)(xx),      MB_CLONE(sum_double)(yy),      MB_CLONE(sum_double)(coded)};
}

MB_TARGET static size_t MB_CLONE(argmax)(const float *x, size_t n)
{
    const float max = MB_CLONE(maximum)(x, n);
    for (size_t i = 0; i < n; i++)
        if (x[i] == max)
            return i;
    return 0;
}

MB_TARGET static void MB_CLONE(add_squares)(double *sum, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += (double)x[i] * (double)x[i];
}

static const struct mb_vector MB_CLONE(set) = {
    .rms_norm = MB_CLONE(rms_norm),
    .swiglu = MB_CLONE(swiglu),
    .geglu = MB_CLONE(geglu),
    .add = MB_CLONE(add),
    .softcap = MB_CLONE(softcap),
    .softplus = MB_CLONE(softplus),
    .convolve = MB_CLONE(convolve),
    .scan = MB_CLONE(scan),
    .scores = MB_CLONE(scores),
    .softmax = MB_CLONE(softmax),
    .weigh = MB_CLONE(weigh),
    .log_sum_exp = MB_CLONE(log_sum_exp),
    .cross = MB_CLONE(cross),
    .differ = MB_CLONE(differ),
    .argmax = MB_CLONE(argmax),
    .add_squares = MB_CLONE(add_squares),
};

#undef vfloat
#undef vint
#undef vdouble
#undef vlong
#undef LOAD
#undef STORE
#undef LOAD_WIDE
#undef PARTS
#undef WIDE
#undef CHOOSE
#undef CHOOSE_FLOAT
#undef CHOOSE_DOUBLE
