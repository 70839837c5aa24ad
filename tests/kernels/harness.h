/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel harness: one call checks one kernel, bit for bit, against the reference.
 *
 * Whatever a kernel reads or writes ends at a guard page, outputs carry canaries, and a crash is a
 * failure like any other. The expected numbers come from the reference kernels, which
 * test_kernels_matmul.c holds against f64. The same seed gives the same inputs. */
#ifndef MIXBIT_TESTS_HARNESS_H
#define MIXBIT_TESTS_HARNESS_H

#include "dispatch/dispatch.h"
#include "guard.h"

/* ---- random numbers (harness_data.c) ---- */

struct rng {
    uint64_t state;
};
struct rng rng_seed(uint64_t seed);
uint64_t rng_next(struct rng *rng);
size_t rng_below(struct rng *rng, size_t limit);
float rng_gauss(struct rng *rng);
/* MIXBIT_TEST_SEED when it is set, else a fixed one. */
uint64_t rng_test_seed(void);

/* MIXBIT_TEST_QUICK is set: fewer shapes and levels, for emulated CPUs. Every kernel still meets 1,
 * 2, mr and (gemm) mr + 1 rows, odd n, and all that fill says. */
bool test_is_quick(void);

/* ---- inputs (harness_data.c) ---- */

enum fill {
    FILL_RANDOM,
    FILL_MAX_PLUS,  /* all codes at their largest, all activations at +127: what saturates int16 */
    FILL_MAX_MINUS, /* the same at -127 */
    FILL_MAX_MIXED, /* largest and smallest codes, activations +-127; floats: sums around the
                       smallest normal number */
    FILL_ZERO_CODES,
    FILL_ODD_SCALES, /* zero, negative, subnormal and largest f16 scales */
    FILL_COUNT
};
const char *fill_name(enum fill fill);

/* GGUF rows of a format made of chosen codes and scales; dst holds n rows. */
void data_make_rows(enum mb_format format, enum fill fill, size_t n, size_t k, struct rng *rng,
                    uint8_t *dst);
void data_make_activations(enum fill fill, size_t m, size_t k, struct rng *rng, float *x);

/* The i-th product that there are kernels for: a format's row with one of the activation types that
 * it can be multiplied by; NULL past the end. */
const struct mb_format_info *data_product(size_t i);

/* Operands of a product, and what the reference makes of them. */
struct data {
    const struct mb_format_info *info;
    enum fill fill;
    size_t m, n, k;
    size_t superblocks, panel_bytes, groups; /* groups 0: no bias */
    uint8_t *panels;
    struct mb_activation_layout layout;
    uint8_t *activations;
    int32_t *bias_sum;
    float *expected; /* [m][n] */
};
void data_create(struct data *data, const struct mb_format_info *info, enum fill fill, size_t m,
                 size_t n, size_t k, uint64_t seed);
void data_destroy(struct data *data);

/* The reference kernel for the product; op is not MB_OP_GEMM. */
const struct mb_kernel *data_reference(enum mb_op op, const struct mb_format_info *info);

/* ---- checking one kernel (harness.c) ---- */

/* Where the kernel under test is: told when it fails or crashes. */
struct harness_case {
    enum mb_format format;
    enum fill fill;
    size_t m, n, k;
    const char *what;
};

struct harness {
    const struct mb_kernel *kernel;
    uint64_t seed;
    struct harness_case at;
    char failure[512]; /* "" while all is well */
    struct data data;  /* operands of the case at hand; freed after a crash as well */
};

/* Record a failure of the case at hand; false, so that `return harness_fail(...)` reads well. */
bool harness_fail(struct harness *harness, const char *format, ...) MB_PRINTF(2, 3);

/* Check a kernel with every format it fits. False, with one line in harness->failure, when anything
 * is wrong; a crash is caught and told. */
bool harness_check(struct harness *harness, const struct mb_kernel *kernel, uint64_t seed);

/* Bitwise comparison of an m x n output with the expected one. */
bool harness_compare(struct harness *harness, const float *y, size_t y_stride,
                     const float *expected, size_t expected_stride, size_t m, size_t n);

/* One check per operation (harness_ops.c, harness_integer.c, harness_codebook.c). */
bool harness_check_prepare(struct harness *harness);
bool harness_check_decode(struct harness *harness);
bool harness_check_gemv(struct harness *harness);
bool harness_check_gemm(struct harness *harness);
bool harness_check_integer(struct harness *harness);
bool harness_check_codebook(struct harness *harness);

#endif
