/* SPDX-License-Identifier: Apache-2.0 */
/* Which type of activations a profile runs a format with: within the error limit, clearly faster,
 * wherever both were measured; and that selection, costs and the file follow. */
#include "dispatch/dispatch.h"
#include "support/memory.h"
#include "tuner/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const struct mb_kernel *kernel_of(enum mb_format format, enum mb_activation activation,
                                         enum mb_op op, size_t m)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (kernel->op == op && kernel->activation == activation &&
            kernel->isa == MB_ISA_REFERENCE && mb_space_fits(kernel, format, m))
            return kernel;
    fail_msg("no kernel of %s for %s", mb_format_info(format)->name,
             mb_activation_name(activation));
    return NULL;
}

static void put(struct mb_profile *profile, enum mb_format format, enum mb_activation activation,
                size_t m, size_t n, double ns, double error)
{
    const struct mb_kernel *kernel =
        kernel_of(format, activation, m == 1 ? MB_OP_GEMV : MB_OP_GEMM, m);
    const struct mb_selection usual = mb_select_default(format, activation);
    struct mb_cost cost = {.revision = mb_space_revision(kernel, format),
                           .format = format,
                           .n = n,
                           .k = 256,
                           .m = m,
                           .threads = 1,
                           .activation = activation,
                           .residency = MB_RESIDENCY_L2,
                           .median_ns = ns,
                           .mad_ns = 1,
                           .min_ns = ns,
                           .prepare_ns = 1,
                           .bytes = n * mb_format_row_bytes(format, 256),
                           .error = error};
    mb_space_knobs(&usual, kernel, m, cost.knobs);
    snprintf(cost.kernel, sizeof cost.kernel, "%s", kernel->name);
    assert_int_equal(mb_profile_put(profile, &cost), MB_OK);
}

/* q4_0 is faster with coarser activations, and less exact; q4_K slower with finer ones. */
static struct mb_profile *make_profile(double max_error)
{
    struct mb_profile *profile;
    assert_int_equal(mb_profile_create(&profile), MB_OK);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, 1, 64, 100, 0.005);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, 512, 64, 1000, 0.005);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, 1, 64, 100, 0.007);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, 512, 64, 900, 0.007);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8ROW, 1, 64, 90, 0.008);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8ROW, 512, 64, 890, 0.008);
    put(profile, MB_FORMAT_Q4_K, MB_ACTIVATION_I8G256, 1, 64, 100, 0.007);
    put(profile, MB_FORMAT_Q4_K, MB_ACTIVATION_I8G32, 1, 64, 110, 0.005);
    profile->max_error = max_error;
    mb_profile_settle(profile);
    return profile;
}

static void test_limits(void **state)
{
    (void)state;
    static const struct {
        double max_error;
        enum mb_activation q4_0, q4_k;
    } expected[] = {
        {0, MB_ACTIVATION_I8G32, MB_ACTIVATION_I8G256},
        {1, MB_ACTIVATION_I8G32, MB_ACTIVATION_I8G256},
        {1.3, MB_ACTIVATION_I8G32, MB_ACTIVATION_I8G256},
        {1.5, MB_ACTIVATION_I8G256, MB_ACTIVATION_I8G256},
        {1.7, MB_ACTIVATION_I8ROW, MB_ACTIVATION_I8G256},
        {0.8, MB_ACTIVATION_I8G32, MB_ACTIVATION_I8G32}, /* nothing meets it for q4_0 */
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct mb_profile *profile = make_profile(expected[i].max_error);
        assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_0), expected[i].q4_0);
        assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_K), expected[i].q4_k);
        assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q8_0), MB_ACTIVATION_I8G32);
        mb_profile_free(profile);
    }
}

/* Too inexact anywhere is too inexact; and 1 % is no gain. */
static void test_every_place_counts(void **state)
{
    (void)state;
    struct mb_profile *profile = make_profile(1.5);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32, 1, 128, 200, 0.004);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, 1, 128, 20, 0.0061);
    mb_profile_settle(profile);
    assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_0), MB_ACTIVATION_I8G32);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, 1, 128, 20, 0.0059);
    mb_profile_settle(profile);
    assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_0), MB_ACTIVATION_I8G256);
    put(profile, MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, 1, 128, 218, 0.0059);
    mb_profile_settle(profile);
    assert_int_equal(mb_profile_activation(profile, MB_FORMAT_Q4_0), MB_ACTIVATION_I8G32);
    mb_profile_free(profile);
}

static void test_selection_and_costs_follow(void **state)
{
    (void)state;
    struct mb_profile *profile = make_profile(1.5);
    struct mb_cost cost;
    assert_int_equal(
        mb_profile_cost(profile, MB_FORMAT_Q4_0, 64, 256, 512, 1, MB_RESIDENCY_L2, &cost),
        MB_COST_EXACT);
    assert_true(cost.median_ns == 900 && cost.activation == MB_ACTIVATION_I8G256);
    assert_int_equal(mb_matmul_activation(MB_FORMAT_Q4_0), MB_ACTIVATION_I8G32);
    mb_profile_apply(profile);
    assert_int_equal(mb_matmul_activation(MB_FORMAT_Q4_0), MB_ACTIVATION_I8G256);
    assert_int_equal(mb_matmul_activation(MB_FORMAT_Q4_K), MB_ACTIVATION_I8G256);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[0],
                     kernel_of(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G256, MB_OP_GEMV, 1));
    /* Who prepares other activations still gets them multiplied. */
    assert_int_equal(mb_select_as(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32)->activation,
                     MB_ACTIVATION_I8G32);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    assert_int_equal(mb_matmul_activation(MB_FORMAT_Q4_0), MB_ACTIVATION_I8G32);
    mb_profile_free(profile);
}

static void test_the_limit_is_kept_in_the_file(void **state)
{
    (void)state;
    char path[] = "/tmp/mixbit-activation-XXXXXX";
    const int file = mkstemp(path);
    assert_true(file >= 0);
    (void)close(file);
    struct mb_profile *profile = make_profile(1.7), *loaded;
    assert_int_equal(mb_profile_save(profile, path, NULL), MB_OK);
    assert_int_equal(mb_profile_load(path, &loaded, NULL), MB_OK);
    assert_true(loaded->max_error == 1.7);
    assert_int_equal(mb_profile_activation(loaded, MB_FORMAT_Q4_0), MB_ACTIVATION_I8ROW);
    mb_profile_free(loaded);
    mb_profile_free(profile);
    (void)unlink(path);
}

static void test_what_is_supported(void **state)
{
    (void)state;
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++)
        assert_true(mb_matmul_supports(info->id, info->activation));
    assert_true(mb_matmul_supports(MB_FORMAT_Q6_K, MB_ACTIVATION_I8ROW));
    assert_true(mb_matmul_supports(MB_FORMAT_BF16, MB_ACTIVATION_F32));
    assert_false(mb_matmul_supports(MB_FORMAT_Q4_0, MB_ACTIVATION_BF16));
    assert_false(mb_matmul_supports(MB_FORMAT_F16, MB_ACTIVATION_BF16));
    assert_false(mb_matmul_supports(MB_FORMAT_IQ2_S, MB_ACTIVATION_I8G32)); /* gemm only */
    assert_false(mb_matmul_supports(MB_FORMAT_NONE, MB_ACTIVATION_F32));
    assert_false(mb_matmul_supports(MB_FORMAT_F32, MB_ACTIVATION_COUNT));
    assert_null(mb_select_as((enum mb_format)9, MB_ACTIVATION_F32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_every_place_counts),
        cmocka_unit_test(test_selection_and_costs_follow),
        cmocka_unit_test(test_the_limit_is_kept_in_the_file),
        cmocka_unit_test(test_what_is_supported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
