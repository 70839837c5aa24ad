/* SPDX-License-Identifier: Apache-2.0 */
/* What is checked of integer-only kernels: every m up to past the tile, n off the panel and the
 * tile, k off the step, the sums that come closest to saturating what is narrower than int32, and
 * multipliers from those that give nothing but zero points to those that saturate everything. */
#include "kernels/harness.h"

#include <math.h>

enum { MOST_N = 16 * 5 + 3, MOST_K = 1040 };

struct integer_case {
    size_t m, n, k;
    enum fill fill;
    int32_t input_zero, output_zero;
    uint8_t *panels;
    int8_t *x;
    int8_t *expected;
};

static int8_t code_of(enum fill fill, struct rng *rng)
{
    const int random = (int)rng_below(rng, 255) - 127;
    switch (fill) {
    case FILL_MAX_PLUS:
    case FILL_MAX_MINUS: return 127;
    case FILL_MAX_MIXED: return random < 0 ? -127 : 127;
    case FILL_ZERO_CODES: return 0;
    default: return (int8_t)random;
    }
}

static int8_t x_of(enum fill fill, struct rng *rng)
{
    const int random = (int)rng_below(rng, 256) - 128;
    switch (fill) {
    case FILL_MAX_PLUS: return 127;
    case FILL_MAX_MINUS: return -128;
    case FILL_MAX_MIXED: return random < 0 ? -128 : 127;
    default: return (int8_t)random;
    }
}

/* FILL_ODD_SCALES: any magnitude; else outputs that spread over int8. */
static double multiplier_of(enum fill fill, size_t k, struct rng *rng)
{
    if (fill == FILL_ODD_SCALES)
        return rng_below(rng, 8) == 0
                   ? 0
                   : ldexp(1 + rng_below(rng, 1000) / 1000.0, (int)rng_below(rng, 90) - 60);
    const double middle = 1 / (60 * sqrt((double)k));
    if (rng_below(rng, 2) == 0) /* a power of two: some sums are ties */
        return ldexp(1, ilogb(middle));
    return (0.5 + (double)rng_below(rng, 1000) / 1000) * middle;
}

static void create(struct integer_case *c, uint64_t seed)
{
    struct rng rng = rng_seed(seed + c->k);
    const size_t panel_bytes = mb_integer_panel_bytes(c->k), panels = (c->n + 15) / 16;
    int8_t codes[MOST_K];
    c->panels = aligned_alloc(64, panels * panel_bytes);
    c->x = malloc(c->m * c->k);
    c->expected = malloc(c->m * c->n);
    for (size_t j = 0; j < panels * 16; j++) {
        uint8_t *panel = c->panels + j / 16 * panel_bytes;
        for (size_t i = 0; i < c->k; i++)
            codes[i] = code_of(c->fill, &rng);
        if (j < c->n)
            mb_integer_pack_lane(panel, j % 16, codes, c->k,
                                 (int32_t)rng_below(&rng, 20000) - 10000, c->input_zero,
                                 multiplier_of(c->fill, c->k, &rng));
        else
            mb_integer_clear_lane(panel, j % 16, c->k);
    }
    for (size_t i = 0; i < c->m * c->k; i++)
        c->x[i] = x_of(c->fill, &rng);
    mb_integer_reference(&(struct mb_integer_args){.panels = c->panels,
                                                   .panel_bytes = panel_bytes,
                                                   .k = c->k,
                                                   .n = c->n,
                                                   .m = c->m,
                                                   .x = c->x,
                                                   .x_stride = c->k,
                                                   .zero = c->output_zero,
                                                   .y = c->expected,
                                                   .y_stride = c->n});
}

static void destroy(struct integer_case *c)
{
    free(c->panels);
    free(c->x);
    free(c->expected);
    *c = (struct integer_case){.panels = NULL};
}

static bool is_right(struct harness *harness, const struct integer_case *c,
                     const struct guard *guard, const int8_t *y, size_t m, size_t n, size_t stride)
{
    if (!guard_left_intact(guard, (m - 1) * stride + n))
        return harness_fail(harness, "wrote before y");
    for (size_t r = 0; r < m; r++) {
        if (r + 1 < m && !guard_is_canary(y + r * stride + n, stride - n))
            return harness_fail(harness, "wrote behind row %zu of y", r);
        for (size_t j = 0; j < n; j++)
            if (y[r * stride + j] != c->expected[r * c->n + j])
                return harness_fail(harness, "y[%zu][%zu] is %d, expected %d", r, j,
                                    y[r * stride + j], c->expected[r * c->n + j]);
    }
    return true;
}

/* The first m rows and n columns, every operand ending at a guard page. */
static bool run(struct harness *harness, const struct integer_case *c, struct guard guards[3],
                size_t m, size_t n)
{
    const size_t panel_bytes = mb_integer_panel_bytes(c->k), stride = n + (m + n) % 4 * 3,
                 x_stride = c->k + (m + n) % 3;
    harness->at =
        (struct harness_case){.format = MB_FORMAT_NONE, .fill = c->fill, .m = m, .n = n, .k = c->k};
    int8_t *x = guard_output(&guards[1], (m - 1) * x_stride + c->k);
    for (size_t r = 0; r < m; r++)
        memcpy(x + r * x_stride, c->x + r * c->k, c->k);
    int8_t *y = guard_output(&guards[2], (m - 1) * stride + n);
    harness->kernel->fn.integer(&(struct mb_integer_args){
        .panels = guard_copy(&guards[0], c->panels, (n + 15) / 16 * panel_bytes),
        .panel_bytes = panel_bytes,
        .k = c->k,
        .n = n,
        .m = m,
        .x = x,
        .x_stride = x_stride,
        .zero = c->output_zero,
        .y = y,
        .y_stride = stride});
    return is_right(harness, c, &guards[2], y, m, n, stride);
}

static bool check_case(struct harness *harness, struct integer_case *c, bool all_shapes)
{
    const unsigned mr = harness->kernel->mr;
    struct guard guards[3] = {guard_create(6 * mb_integer_panel_bytes(c->k)),
                              guard_create(c->m * (c->k + 3)), guard_create(c->m * (c->n + 10))};
    create(c, harness->seed);
    bool good = true;
    for (size_t m = 1; m <= c->m && good; m++)
        if (all_shapes || m == 1 || m == 2 || m == mr + 1 || m == c->m)
            good = run(harness, c, guards, m, m % 2 ? c->n : 1 + (7 * m) % c->n);
    for (size_t n = 1; n <= c->n && good && all_shapes; n++)
        good = run(harness, c, guards, n % 3 ? 1 : mr, n);
    destroy(c);
    for (size_t i = 0; i < 3; i++)
        guard_destroy(&guards[i]);
    return good;
}

bool harness_check_integer(struct harness *harness)
{
    static const size_t ks[] = {1, 3, 16, 17, 61, 512, MOST_K - 1, MOST_K};
    static const int32_t zeros[][2] = {{0, 0}, {-128, 127}, {127, -128}, {-3, 11}};
    static struct integer_case c; /* outlives a jump out of the check */
    destroy(&c);
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            if (test_is_quick() && i != 1 && i != 3 && i != 4) /* short sums have most ties */
                continue;
            const size_t pair = (i + (size_t)fill) % 4;
            c = (struct integer_case){.m = 2 * harness->kernel->mr + 1,
                                      .n = MOST_N,
                                      .k = ks[i],
                                      .fill = (enum fill)fill,
                                      .input_zero = zeros[pair][0],
                                      .output_zero = zeros[pair][1]};
            if (!check_case(harness, &c, i == 4 && fill == FILL_RANDOM))
                return false;
        }
    /* More rows than a block has. */
    c = (struct integer_case){.m = 300, .n = 35, .k = 50, .fill = FILL_RANDOM, .input_zero = 5};
    return check_case(harness, &c, false);
}
