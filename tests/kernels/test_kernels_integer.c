/* SPDX-License-Identifier: Apache-2.0 */
/* Integer-only products through their public functions, on every ISA level, against an oracle that
 * shares nothing with them: sums and requantization in 128 bits, by division instead of shifts,
 * from the codes, multipliers and biases themselves. Then what is refused, and what degenerate
 * scales do.
 */
#include "kernels/harness.h"
#include "mixbit/integer.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "kernels/alone.h"

__extension__ typedef __int128 wide;

/* ---- the oracle ---- */

/* floor(a / b) for b > 0. */
static wide floor_div(wide a, wide b) { return a / b - (a % b < 0); }

/* acc * mantissa / 2^shift to nearest, ties up, as floor of a quotient. */
static int oracle_requantize(wide acc, int64_t mantissa, int shift, int zero)
{
    const wide y = zero + floor_div(2 * acc * mantissa + ((wide)1 << shift), (wide)2 << shift);
    return (int)(y < -128 ? -128 : y > 127 ? 127 : y);
}

/* mantissa and shift of a multiplier, by doubling and halving it. */
static void oracle_multiplier(double multiplier, int64_t *mantissa, int *shift)
{
    *shift = 31;
    if (multiplier == 0) {
        *mantissa = 0;
        return;
    }
    for (; multiplier < 0.5; multiplier *= 2)
        ++*shift;
    for (; multiplier >= 1; multiplier /= 2)
        --*shift;
    *mantissa = (int64_t)nearbyint(multiplier * 2147483648.0);
    /* Outside of what a kernel holds, outputs are these. */
    if (*shift > 70)
        *mantissa = 0;
    while (*shift < 0) { /* as large as it needs to be to saturate */
        *shift = 1;
        *mantissa = (int64_t)1 << 31;
    }
}

struct product {
    size_t m, n, k;
    struct mb_integer_weights weights;
    int8_t *codes, *x, *expected;
    float *scales;
    int32_t *bias;
};

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
    assert_non_null(memory);
    return memset(memory, 0x5a, bytes + 64);
}

static void expect(struct product *p)
{
    for (size_t j = 0; j < p->n; j++) {
        int64_t mantissa;
        int shift;
        oracle_multiplier((double)p->weights.input.scale * (double)p->scales[j] /
                              (double)p->weights.output.scale,
                          &mantissa, &shift);
        for (size_t r = 0; r < p->m; r++) {
            wide acc = p->bias[j];
            for (size_t i = 0; i < p->k; i++)
                acc += (wide)p->codes[j * p->k + i] * (p->x[r * p->k + i] - p->weights.input.zero);
            p->expected[r * p->n + j] =
                (int8_t)oracle_requantize(acc, mantissa, shift, p->weights.output.zero);
        }
    }
}

/* spread: 0 outputs within int8, 1 most saturate, 2 powers of two, so that half of the odd sums are
 * ties. */
static void make_product(struct product *p, size_t m, size_t n, size_t k, int spread,
                         struct rng *rng)
{
    *p = (struct product){.m = m,
                          .n = n,
                          .k = k,
                          .codes = allocate(n * k),
                          .x = allocate(m * k),
                          .expected = allocate(m * n),
                          .scales = allocate(n * sizeof(float)),
                          .bias = allocate(n * sizeof(int32_t))};
    const struct mb_integer_grid input = {0.25f, (int32_t)rng_below(rng, 256) - 128},
                                 output = {0.5f, (int32_t)rng_below(rng, 256) - 128};
    size_t bytes;
    assert_int_equal(mb_integer_size(n, k, &bytes), MB_OK);
    assert_int_equal(mb_integer_init(&p->weights, n, k, &input, &output, allocate(bytes)), MB_OK);
    for (size_t i = 0; i < n * k; i++)
        p->codes[i] = (int8_t)((int)rng_below(rng, 255) - 127);
    for (size_t i = 0; i < m * k; i++)
        p->x[i] = (int8_t)((int)rng_below(rng, 256) - 128);
    for (size_t j = 0; j < n; j++) {
        const float one = (0.1f + (float)rng_below(rng, 1000) / 1000) / (40 * sqrtf((float)k));
        p->bias[j] = (int32_t)rng_below(rng, 4000) - 2000;
        p->scales[j] = spread == 0   ? one
                       : spread == 1 ? one * 1000
                                     : ldexpf(1, -(int)rng_below(rng, 8) - 4);
    }
    assert_int_equal(mb_integer_pack_codes(&p->weights, p->codes, p->scales, p->bias, 0, n), MB_OK);
    expect(p);
}

static void free_product(struct product *p)
{
    free(p->weights.data);
    free(p->codes);
    free(p->x);
    free(p->expected);
    free(p->scales);
    free(p->bias);
}

static void compare(const struct product *p, const int8_t *y, size_t stride, size_t n0, size_t n1)
{
    for (size_t r = 0; r < p->m; r++)
        for (size_t j = n0; j < n1; j++)
            if (y[r * stride + j] != p->expected[r * p->n + j])
                fail_msg("%s, m=%zu n=%zu k=%zu: y[%zu][%zu] is %d, not %d", mb_integer_kernel(),
                         p->m, p->n, p->k, r, j, y[r * stride + j], p->expected[r * p->n + j]);
}

/* ---- numbers ---- */

static void check_level(uint64_t seed)
{
    static const size_t shapes[][3] = {{1, 1, 1},    {1, 16, 16},  {2, 17, 33},  {3, 31, 64},
                                       {5, 48, 100}, {7, 33, 257}, {13, 50, 48}, {25, 67, 31}};
    struct rng rng = rng_seed(seed);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int spread = 0; spread < 3; spread++) {
            struct product p;
            make_product(&p, shapes[s][0], shapes[s][1], shapes[s][2], spread, &rng);
            const size_t stride = p.n + 3, cut = p.n / 32 * 16;
            int8_t *y = allocate(p.m * stride);
            assert_int_equal(mb_integer_range(&p.weights, p.x, p.m, p.k, cut, p.n, y, stride),
                             MB_OK);
            compare(&p, y, stride, cut, p.n);
            for (size_t r = 0; r < p.m; r++) /* columns of others stay */
                for (size_t j = 0; j < stride; j++)
                    assert_true((j >= cut && j < p.n) || y[r * stride + j] == 0x5a);
            assert_int_equal(mb_integer_range(&p.weights, p.x, p.m, p.k, 0, cut, y, stride), MB_OK);
            compare(&p, y, stride, 0, p.n);
            free(y);
            free_product(&p);
        }
}

static void test_every_level_gives_the_oracles_bits(void **state)
{
    (void)state;
    for (int isa = 0; isa < MB_ISA_COUNT; isa++) {
        const char *name = mb_isa_name((enum mb_isa)isa);
        if (!mb_isa_is_supported((enum mb_isa)isa)) {
            print_message("skipped: %s is not supported here\n", name);
            continue;
        }
        mb_isa_set_allowed_mask(1u << isa);
        const size_t length = strlen(mb_integer_kernel());
        print_message("%s: %s\n", name, mb_integer_kernel());
        /* Levels without a body of their own leave it to the reference here. */
        assert_true(length > strlen(name));
        check_level(rng_test_seed() + (uint64_t)isa);
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
}

static const struct alone integers = {MB_OP_INTEGER,
                                      "integer_",
                                      "integer_b8_1x16_reference",
                                      "gemv_b4_g32_i8g32_8x16_reference",
                                      mb_integer_kernel,
                                      mb_integer_explain};

static void test_levels_have_a_kernel(void **state)
{
    (void)state;
    check_levels_have(&integers);
}

static void test_choice(void **state)
{
    (void)state;
    check_choice(&integers);
}

static void test_threads_give_the_same(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    struct mb_threads *threads;
    struct product p;
    make_product(&p, 9, 333, 70, 0, &rng);
    int8_t *y = allocate(p.m * p.n);
    for (size_t count = 1; count <= 3; count++) {
        assert_int_equal(mb_threads_create(count, &threads), MB_OK);
        memset(y, 0, p.m * p.n);
        assert_int_equal(mb_integer_matmul(threads, &p.weights, p.x, p.m, p.k, y, p.n), MB_OK);
        compare(&p, y, p.n, 0, p.n);
        mb_threads_destroy(threads);
    }
    memset(y, 0, p.m * p.n);
    assert_int_equal(mb_integer_matmul(NULL, &p.weights, p.x, p.m, p.k, y, p.n), MB_OK);
    compare(&p, y, p.n, 0, p.n);
    free(y);
    free_product(&p);
}

/* The rule by itself: sums at and beside ties, both signs, every shift, the ends of int32. */
static void test_requantization(void **state)
{
    (void)state;
    static const int32_t mantissas[] = {1 << 30, (1 << 30) + 1, 1518500250, INT32_MAX};
    struct rng rng = rng_seed(rng_test_seed());
    for (int shift = MB_INTEGER_LEAST_SHIFT; shift <= MB_INTEGER_LARGEST_SHIFT; shift++)
        for (size_t i = 0; i < 4; i++)
            for (int step = 0; step < 400; step++) {
                const int32_t ends[] = {INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 1, 0};
                /* acc * mantissa / 2^shift = about (2 step - 400 + 1) / 2 */
                const double tie = ldexp(step - 199.5, shift) / mantissas[i];
                const int32_t near = fabs(tie) < 2e9 ? (int32_t)tie + (int)rng_below(&rng, 3) - 1
                                                     : (int32_t)rng_next(&rng);
                const int32_t acc = step < 5 ? ends[step] : near;
                const int zero = (int)rng_below(&rng, 256) - 128;
                assert_int_equal(mb_integer_requantize(acc, mantissas[i], shift, zero),
                                 oracle_requantize(acc, mantissas[i], shift, zero));
            }
    /* By hand: ties go up, on both sides of 0. */
    assert_int_equal(mb_integer_requantize(1, 1 << 30, 31, 0), 1);
    assert_int_equal(mb_integer_requantize(-1, 1 << 30, 31, 0), 0);
    assert_int_equal(mb_integer_requantize(3, 1 << 30, 31, 0), 2);
    assert_int_equal(mb_integer_requantize(-3, 1 << 30, 31, 0), -1);
    assert_int_equal(mb_integer_requantize(-5, 1 << 30, 31, 100), 98);
    assert_int_equal(mb_integer_requantize(INT32_MIN, 1 << 30, 30, 127), -128);
    assert_int_equal(mb_integer_requantize(INT32_MAX, 1 << 30, 30, -128), 127);
}

static void test_multipliers(void **state)
{
    (void)state;
    struct rng rng = rng_seed(rng_test_seed());
    int32_t mantissa, shift;
    for (int i = 0; i < 20000; i++) {
        const double multiplier = ldexp(0.5 + (double)rng_below(&rng, 1u << 30) / (1u << 31),
                                        (int)rng_below(&rng, 40) - 30);
        mb_integer_multiplier(multiplier, &mantissa, &shift);
        assert_true(mantissa >= 1 << 30);
        assert_true(fabs(ldexp(mantissa, -shift) / multiplier - 1) <= 0x1p-31);
    }
    static const double none[] = {0, 0x1p-34, DBL_TRUE_MIN}, all[] = {512, 1e30, DBL_MAX};
    for (size_t i = 0; i < 3; i++) {
        mb_integer_multiplier(none[i], &mantissa, &shift);
        assert_int_equal(mb_integer_requantize(INT32_MAX, mantissa, shift, 3), 3);
        assert_int_equal(mb_integer_requantize(INT32_MIN, mantissa, shift, 3), 3);
        mb_integer_multiplier(all[i], &mantissa, &shift);
        assert_int_equal(mb_integer_requantize(0, mantissa, shift, -128), -128);
        assert_int_equal(mb_integer_requantize(1, mantissa, shift, -128), 127);
        assert_int_equal(mb_integer_requantize(-1, mantissa, shift, 127), -128);
    }
    mb_integer_multiplier(nextafter(1, 0), &mantissa, &shift); /* rounds up to a power of two */
    assert_int_equal(mantissa, 1 << 30);
    assert_int_equal(shift, 30);
}

/* ---- from floats ---- */

/* Outputs are within half a step of the output grid of the exact product of the quantized input,
 * but for what quantizing the weights loses: half of a row's step times the sum of |x|. */
static void test_floats_are_what_was_meant(void **state)
{
    (void)state;
    enum { M = 4, N = 37, K = 190 };
    struct rng rng = rng_seed(rng_test_seed());
    static float w[N * K], bias[N];
    static int8_t x[M * K], y[M * N];
    for (size_t i = 0; i < N * K; i++)
        w[i] = rng_gauss(&rng) / 16;
    for (size_t j = 0; j < N; j++)
        bias[j] = rng_gauss(&rng);
    memset(w + 3 * K, 0, K * sizeof *w); /* nothing but its bias */
    for (size_t i = 0; i < K; i++)
        w[5 * K + i] = 1e-30f * rng_gauss(&rng); /* beside its bias next to nothing */
    bias[7] = 0;
    const struct mb_integer_grid input = {0.02f, -7}, output = {0.03f, 10};
    struct mb_integer_weights weights;
    size_t bytes;
    assert_int_equal(mb_integer_size(N, K, &bytes), MB_OK);
    assert_int_equal(mb_integer_init(&weights, N, K, &input, &output, allocate(bytes)), MB_OK);
    assert_int_equal(mb_integer_pack_rows(&weights, w + 16 * K, bias + 16, 16, N), MB_OK);
    assert_int_equal(mb_integer_pack_rows(&weights, w, bias, 0, 16), MB_OK);
    for (size_t i = 0; i < M * K; i++)
        x[i] = (int8_t)((int)rng_below(&rng, 256) - 128);
    assert_int_equal(mb_integer_range(&weights, x, M, K, 0, N, y, N), MB_OK);
    for (size_t r = 0; r < M; r++)
        for (size_t j = 0; j < N; j++) {
            double exact = (double)bias[j], sum = 0, largest = 0;
            for (size_t i = 0; i < K; i++) {
                const double real = (double)input.scale * (x[r * K + i] - input.zero);
                exact += real * (double)w[j * K + i];
                sum += fabs(real);
                largest = fmax(largest, fabs((double)w[j * K + i]));
            }
            const double clipped = fmax(-138 * 0.03, fmin(117 * 0.03, exact));
            const double got = 0.03 * (y[r * N + j] - 10);
            assert_true(fabs(got - clipped) <= 0.015 + 1e-3 + sum * largest / 254);
        }
    free(weights.data);
}

static void test_degenerate_scales(void **state)
{
    (void)state;
    enum { K = 20 };
    const int8_t codes[2 * K] = {1}, x[K] = {1, 2, 3};
    const float scales[] = {0, FLT_MAX};
    const int32_t bias[] = {1000, 0};
    const struct mb_integer_grid input = {FLT_MAX, 0}, output = {FLT_TRUE_MIN, -5};
    struct mb_integer_weights weights;
    size_t bytes;
    int8_t y[2];
    assert_int_equal(mb_integer_size(2, K, &bytes), MB_OK);
    assert_int_equal(mb_integer_init(&weights, 2, K, &input, &output, allocate(bytes)), MB_OK);
    assert_int_equal(mb_integer_pack_codes(&weights, codes, scales, bias, 0, 2), MB_OK);
    assert_int_equal(mb_integer_range(&weights, x, 1, K, 0, 2, y, 2), MB_OK);
    assert_int_equal(y[0], -5); /* a scale of 0 */
    assert_int_equal(y[1], -5); /* a sum of 0, whatever the scale */
    weights.input.scale = FLT_TRUE_MIN, weights.output.scale = FLT_MAX;
    assert_int_equal(mb_integer_pack_codes(&weights, codes, (float[]){1, 1}, bias, 0, 2), MB_OK);
    assert_int_equal(mb_integer_range(&weights, x, 1, K, 0, 2, y, 2), MB_OK);
    assert_int_equal(y[0], -5); /* too small for a step */
    const float smallest[K] = {FLT_TRUE_MIN, -FLT_TRUE_MIN}, largest[K] = {FLT_MAX, -FLT_MAX},
                biases[] = {FLT_MAX};
    assert_int_equal(mb_integer_pack_rows(&weights, smallest, biases, 0, 1), MB_OK);
    assert_int_equal(mb_integer_range(&weights, x, 1, K, 0, 2, y, 2), MB_OK);
    assert_int_equal(y[0], -4); /* FLT_MAX is one step */
    assert_int_equal(mb_integer_pack_rows(&weights, largest, NULL, 1, 2), MB_OK);
    assert_int_equal(mb_integer_range(&weights, x, 1, K, 0, 2, y, 2), MB_OK);
    assert_int_equal(y[1], -5);
    free(weights.data);
}

static void test_grids(void **state)
{
    (void)state;
    struct mb_integer_grid grid;
    const float x[] = {0, 1, -1, 2, 100, -100, NAN, 0.0039f};
    int8_t codes[8];
    float back[8];
    assert_int_equal(mb_integer_grid_of(-1, 1, &grid), MB_OK);
    assert_int_equal(mb_integer_quantize(&grid, x, 8, codes), MB_OK);
    assert_int_equal(mb_integer_dequantize(&grid, codes, 8, back), MB_OK);
    assert_true(back[0] == 0 && back[6] == 0); /* 0 is a code, NaN becomes it */
    assert_true(fabsf(back[1] - 1) < 0.0041f && fabsf(back[2] + 1) < 0.0041f);
    assert_true(codes[3] == 127 && codes[4] == 127 && codes[5] == -128);
    assert_int_equal(mb_integer_grid_of(0.5f, 2, &grid), MB_OK);
    assert_int_equal(grid.zero, -128);
    assert_int_equal(mb_integer_grid_of(-2, -0.5f, &grid), MB_OK);
    assert_int_equal(grid.zero, 127);
    assert_int_equal(mb_integer_grid_of(0, 0, &grid), MB_OK);
    assert_true(grid.scale == 1 && grid.zero == 0);
    assert_int_equal(mb_integer_grid_of(-FLT_MAX, FLT_MAX, &grid), MB_OK);
    assert_true(isfinite(grid.scale));
    assert_int_equal(mb_integer_grid_of(0, FLT_TRUE_MIN, &grid), MB_OK);
    assert_true(grid.scale > 0);
    assert_int_equal(mb_integer_grid_of(1, -1, &grid), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_grid_of(NAN, 1, &grid), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_grid_of(0, INFINITY, &grid), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_quantize(&(struct mb_integer_grid){0, 0}, x, 1, codes),
                     MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_dequantize(&(struct mb_integer_grid){1, 200}, codes, 1, back),
                     MB_ERR_ARGUMENT);
}

/* ---- what is refused ---- */

static void test_overflow_is_refused(void **state)
{
    (void)state;
    enum { K = MB_INTEGER_MOST_K };
    const struct mb_integer_grid input = {1, -128}, output = {1e6f, 0};
    struct mb_integer_weights weights;
    size_t bytes;
    assert_int_equal(mb_integer_size(1, K + 1, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_size(1, K, &bytes), MB_OK);
    assert_int_equal(mb_integer_init(&weights, 1, K, &input, &output, allocate(bytes)), MB_OK);
    int8_t *codes = allocate(K), *x = allocate(K), y;
    memset(codes, 127, K);
    memset(x, 127, K);
    const float scale = 1;
    const int32_t most = INT32_MAX - 127 * 255 * K;
    /* The largest sum there is fits; with one more in the bias it does not. */
    assert_int_equal(mb_integer_pack_codes(&weights, codes, &scale, &most, 0, 1), MB_OK);
    for (int isa = 0; isa < MB_ISA_COUNT; isa++) {
        if (!mb_isa_is_supported((enum mb_isa)isa))
            continue;
        mb_isa_set_allowed_mask(1u << isa);
        y = 0;
        assert_int_equal(mb_integer_range(&weights, x, 1, K, 0, 1, &y, 1), MB_OK);
        assert_int_equal(y, 127);
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
    memset(weights.data, 0x5a, bytes);
    const int32_t above = most + 1, below = INT32_MIN;
    assert_int_equal(mb_integer_pack_codes(&weights, codes, &scale, &above, 0, 1), MB_ERR_ARGUMENT);
    memset(codes, -127, K);
    assert_int_equal(mb_integer_pack_codes(&weights, codes, &scale, &below, 0, 1), MB_ERR_ARGUMENT);
    for (size_t i = 0; i < bytes; i++)
        assert_int_equal(((uint8_t *)weights.data)[i], 0x5a);
    free(codes);
    free(x);
    free(weights.data);
}

static void test_refusals(void **state)
{
    (void)state;
    enum { N = 33, K = 10 };
    const struct mb_integer_grid good = {1, 0}, bad[] = {{0, 0},        {-1, 0},   {NAN, 0},
                                                         {INFINITY, 0}, {1, -129}, {1, 128}};
    struct mb_integer_weights weights, other;
    size_t bytes;
    static int8_t codes[N * K], x[2 * K], y[2 * N];
    static float scales[N], rows[N * K], bias[N];
    assert_int_equal(mb_integer_size(N, K, &bytes), MB_OK);
    uint8_t *data = allocate(bytes);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(mb_integer_init(&weights, N, K, &bad[i], &good, data), MB_ERR_ARGUMENT);
        assert_int_equal(mb_integer_init(&weights, N, K, &good, &bad[i], data), MB_ERR_ARGUMENT);
    }
    assert_int_equal(mb_integer_init(&weights, N, K, &good, &good, data + 4), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_init(&weights, 0, K, &good, &good, data), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_init(&weights, N, 0, &good, &good, data), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_size(SIZE_MAX, 65536, &bytes), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_init(&weights, N, K, &good, &good, data), MB_OK);
    /* packing */
    codes[3] = -128;
    assert_int_equal(mb_integer_pack_codes(&weights, codes, scales, NULL, 0, N), MB_ERR_ARGUMENT);
    codes[3] = 0;
    static const float wrong[] = {-1, NAN, INFINITY};
    for (size_t i = 0; i < 3; i++) {
        scales[N - 1] = wrong[i];
        assert_int_equal(mb_integer_pack_codes(&weights, codes, scales, NULL, 0, N),
                         MB_ERR_ARGUMENT);
    }
    scales[N - 1] = 0;
    assert_int_equal(mb_integer_pack_codes(&weights, codes, NULL, NULL, 0, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_pack_codes(&weights, NULL, scales, NULL, 0, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_pack_codes(&weights, codes, scales, NULL, 0, N + 1), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_pack_codes(&weights, codes, scales, NULL, 2, 1), MB_ERR_SHAPE);
    rows[7] = NAN;
    assert_int_equal(mb_integer_pack_rows(&weights, rows, NULL, 0, N), MB_ERR_ARGUMENT);
    rows[7] = 0, bias[2] = INFINITY;
    assert_int_equal(mb_integer_pack_rows(&weights, rows, bias, 0, N), MB_ERR_ARGUMENT);
    for (size_t i = 0; i < bytes && i < 64; i++)
        assert_int_equal(data[i], 0x5a);
    assert_int_equal(mb_integer_pack_rows(&weights, rows, NULL, 0, N), MB_OK);
    /* multiplying */
    memset(y, 0x5a, sizeof y);
    assert_int_equal(mb_integer_range(&weights, x, 0, K, 0, N, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, x, 2, K - 1, 0, N, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, x, 2, K, 0, N, y, N - 1), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, x, 2, K, 8, N, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, x, 2, K, 0, 17, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, x, 2, K, 0, N + 1, y, N), MB_ERR_SHAPE);
    assert_int_equal(mb_integer_range(&weights, NULL, 2, K, 0, N, y, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_range(&weights, x, 2, K, 0, N, NULL, N), MB_ERR_ARGUMENT);
    assert_int_equal(mb_integer_range(NULL, x, 2, K, 0, N, y, N), MB_ERR_ARGUMENT);
    other = weights;
    other.size--;
    assert_int_equal(mb_integer_matmul(NULL, &other, x, 2, K, y, N), MB_ERR_ARGUMENT);
    for (size_t i = 0; i < sizeof y; i++)
        assert_int_equal(y[i], 0x5a);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requantization),
        cmocka_unit_test(test_multipliers),
        cmocka_unit_test(test_every_level_gives_the_oracles_bits),
        cmocka_unit_test(test_levels_have_a_kernel),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_threads_give_the_same),
        cmocka_unit_test(test_floats_are_what_was_meant),
        cmocka_unit_test(test_degenerate_scales),
        cmocka_unit_test(test_grids),
        cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
