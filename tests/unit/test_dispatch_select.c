/* SPDX-License-Identifier: Apache-2.0 */
/* Selection: the order of levels, what restricts and what forces it, and the environment variables,
 * each in a process of its own since they are read once. */
#include "dispatch/dispatch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define FORCED "gemv_b4_g32_i8g32_8x16_reference"

static void lift_everything(void)
{
    assert_int_equal(mb_select_override(NULL), MB_OK);
    assert_int_equal(mb_isa_allow(NULL, NULL), MB_OK);
}

static void test_list_of_levels(void **state)
{
    (void)state;
    struct mb_error error = {0};
    const uint32_t all = mb_isa_allowed_mask(), reference = 1u << MB_ISA_REFERENCE;
    assert_int_equal(mb_isa_allow("reference", &error), MB_OK);
    assert_int_equal(mb_isa_allowed_mask(), reference);
    assert_int_equal(mb_isa_allow(" avx2, reference,,", &error), MB_OK);
    assert_int_equal(mb_isa_allowed_mask() & ~(reference | 1u << MB_ISA_AVX2), 0);
    const uint32_t before = mb_isa_allowed_mask();
    assert_int_equal(mb_isa_allow("avx2,avx3", &error), MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "'avx3'"));
    assert_non_null(strstr(error.message, "avx512vnni")); /* names the known ones */
    assert_int_equal(mb_isa_allow("AVX2", &error), MB_ERR_ARGUMENT);
    assert_int_equal(mb_isa_allow("avx", &error), MB_ERR_ARGUMENT);
    assert_int_equal(mb_isa_allowed_mask(), before); /* a refused list changes nothing */
    assert_int_equal(mb_isa_allow("", &error), MB_OK);
    assert_int_equal(mb_isa_allowed_mask(), all);
    mb_isa_set_allowed_mask(UINT32_MAX); /* clipped to what there is */
    assert_int_equal(mb_isa_allowed_mask(), all);
}

static void test_level_info(void **state)
{
    (void)state;
    struct mb_isa_info info;
    size_t count = 0;
    assert_int_equal(mb_isa_allow("reference", NULL), MB_OK);
    for (; mb_isa_info(count, &info) == MB_OK; count++) {
        assert_string_equal(info.name, mb_isa_name((enum mb_isa)count));
        assert_int_equal(info.allowed, count == MB_ISA_REFERENCE);
        assert_true(info.allowed ? info.why[0] == '\0' : info.why[0] != '\0');
        assert_true(info.supported || !info.allowed);
    }
    assert_int_equal(count, MB_ISA_COUNT);
    lift_everything();
}

/* The last supported and allowed level that has a kernel serves it. */
static void test_later_levels_win(void **state)
{
    (void)state;
    for (uint32_t top = 0; top < MB_ISA_COUNT; top++) {
        if (!mb_isa_is_supported((enum mb_isa)top))
            continue;
        mb_isa_set_allowed_mask((2u << top) - 1);
        for (size_t i = 0; i < mb_format_count(); i++) {
            const struct mb_format_info *info = mb_format_at(i);
            const struct mb_selection *s = mb_select(info->id);
            const struct mb_kernel *kernel;
            enum mb_isa best_gemv = MB_ISA_REFERENCE, best_gemm = MB_ISA_REFERENCE;
            for (size_t j = 0; (kernel = mb_registry_at(j)) != NULL; j++) {
                if (kernel->isa > top || !mb_isa_is_supported(kernel->isa) ||
                    !mb_kernel_fits(kernel, info))
                    continue;
                if (kernel->op == MB_OP_GEMV)
                    best_gemv = kernel->isa;
                if (kernel->op == MB_OP_GEMM)
                    best_gemm = kernel->isa;
            }
            assert_int_equal(s->gemm.gemm->isa, best_gemm);
            for (size_t j = 0; (kernel = mb_registry_at(j)) != NULL;
                 j++) /* the narrowest tile that takes the codes */
                if (kernel->op == MB_OP_GEMM && kernel->isa == best_gemm &&
                    mb_kernel_fits(kernel, info))
                    assert_true(s->gemm.gemm->max_code <= kernel->max_code);
            assert_int_equal(s->row_prefetch > 0,
                             best_gemv == MB_ISA_AVX2 && !mb_coding_is_float(info->coding));
            for (unsigned m = 1; m <= 8; m++) {
                const struct mb_kernel *taken = s->gemv[m - 1];
                assert_int_equal(taken->isa, best_gemv);
                /* no kernel of that level takes m rows with a smaller mr, or takes them at all when
                 * `taken` can't */
                for (size_t j = 0; (kernel = mb_registry_at(j)) != NULL; j++)
                    if (kernel->op == MB_OP_GEMV && kernel->isa == best_gemv &&
                        mb_kernel_fits(kernel, info) && kernel->mr >= m)
                        assert_true(taken->mr >= m && taken->mr <= kernel->mr);
            }
        }
    }
    lift_everything();
}

static void test_gemm_takes_all_codes(void **state)
{
    (void)state;
    const struct mb_kernel *gemm = mb_registry_find("gemm_u8_g32_i8g32_8x16_reference");
    assert_non_null(gemm);
    struct mb_kernel narrow = *gemm;
    narrow.max_code = 15;
    assert_true(mb_kernel_fits(&narrow, mb_format_info(MB_FORMAT_Q4_0)));
    assert_false(mb_kernel_fits(&narrow, mb_format_info(MB_FORMAT_Q5_0)));
    assert_false(mb_kernel_fits(&narrow, mb_format_info(MB_FORMAT_Q8_0)));
    assert_false(
        mb_kernel_fits(&narrow, mb_format_info(MB_FORMAT_IQ4_NL))); /* its table reaches 241 */
    assert_false(mb_kernel_fits(&narrow, mb_format_info(MB_FORMAT_Q4_1)));
    assert_true(mb_kernel_fits(gemm, mb_format_info(MB_FORMAT_IQ4_NL)));
    assert_false(mb_kernel_fits(gemm, mb_format_info(MB_FORMAT_F32)));
    const struct mb_kernel *two_level = mb_registry_find("gemm_u8_g16x2_i8g256_8x16_reference");
    assert_non_null(two_level);
    assert_true(
        mb_kernel_fits(two_level, mb_format_info(MB_FORMAT_Q3_K))); /* g16x2s6 decodes to g16x2 */
    assert_true(mb_kernel_fits(two_level, mb_format_info(MB_FORMAT_Q6_K)));
}

static void test_override_and_profile(void **state)
{
    (void)state;
    const struct mb_kernel *kernel = mb_registry_find(FORCED);
    assert_non_null(kernel);
    assert_int_equal(mb_select_override(kernel), MB_OK);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[0], kernel);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[7], kernel);
    assert_true(mb_select(MB_FORMAT_Q4_1)->gemv[0]->scale ==
                MB_SCALE_G32MIN); /* others are as they were */
    lift_everything();

    struct mb_selection chosen = *mb_select(MB_FORMAT_Q4_0);
    const struct mb_selection before = chosen;
    chosen.crossover = 7;
    chosen.gemv[0] = kernel;
    chosen.gemv[1] = NULL; /* keeps the default */
    mb_select_set(MB_FORMAT_Q4_0, &chosen);
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->crossover, 7);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[0], kernel);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[1], before.gemv[1]);
    assert_int_equal(mb_isa_allow("reference", NULL),
                     MB_OK); /* a profile cannot bring a level back */
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->gemv[2]->isa, MB_ISA_REFERENCE);
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->gemm.gemm->isa, MB_ISA_REFERENCE);
    lift_everything();
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    assert_memory_equal(mb_select(MB_FORMAT_Q4_0), &before, sizeof before);
    assert_null(mb_select((enum mb_format)9));
    assert_null(mb_select(MB_FORMAT_NONE));
}

static void test_kernel_for(void **state)
{
    (void)state;
    const struct mb_selection *s = mb_select(MB_FORMAT_Q4_K);
    assert_string_equal(mb_kernel_for(MB_FORMAT_Q4_K, 64, 512, 1), s->gemv[0]->name);
    assert_string_equal(mb_kernel_for(MB_FORMAT_Q4_K, 64, 512, 512), s->gemm.gemm->name);
    assert_null(mb_kernel_for(MB_FORMAT_Q4_K, 64, 500, 1));
    assert_null(mb_kernel_for(MB_FORMAT_Q4_K, 64, 512, 0));
    assert_null(mb_kernel_for(MB_FORMAT_NONE, 64, 512, 1));
}

static void count_lines(void *user, const char *text)
{
    size_t *counts = user;
    assert_null(strchr(text, '\n'));
    counts[0] += strstr(text, " taken") != NULL;
    counts[1] += strstr(text, " rejected: ") != NULL;
}

static void test_explain(void **state)
{
    (void)state;
    for (size_t i = 0; i < mb_format_count(); i++)
        for (size_t m = 1; m <= 512; m += 511) {
            size_t counts[2] = {0};
            mb_kernel_explain(mb_format_at(i)->id, m, count_lines, counts);
            assert_int_equal(counts[0],
                             m == 1 ? 2 : 3); /* prepare and gemv; prepare, decode and gemm */
        }
    size_t counts[2] = {0};
    assert_int_equal(mb_isa_allow("reference", NULL), MB_OK);
    mb_kernel_explain(MB_FORMAT_Q4_0, 1, count_lines, counts);
    assert_int_equal(counts[1] > 0, mb_registry_level_count(MB_ISA_AVX2) > 0);
    mb_kernel_explain(MB_FORMAT_NONE, 1, count_lines, counts);
    lift_everything();
}

/* ---- environment, in child processes ---- */

static char logged[512];
static void keep_line(enum mb_log_level level, const char *line, void *user)
{
    (void)level;
    (void)user;
    snprintf(logged, sizeof logged, "%s", line);
}

/* Exit status of `check` in a child with one variable set. */
static int in_child(const char *name, const char *value, int (*check)(void))
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setenv(name, value, 1);
        mb_log_set(keep_line, NULL);
        _exit(check());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int multiply_once(void)
{
    static _Alignas(64) uint8_t packed[4096], rows[18];
    static float x[32], y[1];
    struct mb_weights weights;
    if (mb_weights_init(&weights, MB_FORMAT_Q4_0, 1, 32, packed) != MB_OK ||
        mb_pack_rows(&weights, rows, 0, 1) != MB_OK)
        return MB_ERR_VERIFY;
    return mb_matmul(NULL, &weights, x, 1, 32, y, 1);
}

static int check_unknown(void)
{
    struct mb_error error = {0};
    if (multiply_once() != MB_ERR_ARGUMENT || multiply_once() != MB_ERR_ARGUMENT)
        return 1;
    if (strstr(logged, "nonsense") == NULL)
        return 2;
    if (mb_select_environment(&error) != MB_ERR_ARGUMENT ||
        strstr(error.message, "nonsense") == NULL)
        return 3;
    return mb_kernel_for(MB_FORMAT_Q4_0, 16, 32, 1) == NULL ? 0 : 4;
}

static int check_reference_only(void)
{
    if (mb_isa_allowed_mask() != 1u << MB_ISA_REFERENCE || multiply_once() != MB_OK)
        return 1;
    return strcmp(mb_kernel_for(MB_FORMAT_Q4_0, 16, 32, 1), FORCED) == 0 ? 0 : 2;
}

static int check_forced(void)
{
    if (multiply_once() != MB_OK || strcmp(mb_kernel_for(MB_FORMAT_Q4_0, 16, 32, 1), FORCED) != 0)
        return 1;
    return mb_select_environment(NULL) == MB_OK ? 0 : 2;
}

static int check_lifted(void)
{
    const uint32_t before = mb_isa_allowed_mask();
    mb_isa_allow(NULL, NULL); /* the caller's word comes after the environment's */
    return before == 1u << MB_ISA_REFERENCE &&
                   mb_isa_is_supported(MB_ISA_AVX2) == (mb_isa_allowed_mask() != before)
               ? 0
               : 1;
}

static void test_environment(void **state)
{
    (void)state;
    assert_int_equal(in_child("MIXBIT_ISA", "nonsense", check_unknown), 0);
    assert_int_equal(in_child("MIXBIT_ISA", "avx2,nonsense", check_unknown), 0);
    assert_int_equal(in_child("MIXBIT_KERNEL", "nonsense", check_unknown), 0);
    assert_int_equal(in_child("MIXBIT_KERNEL", "gemv_b4_g32_i8g32_8x16_nonsense", check_unknown),
                     0);
    assert_int_equal(in_child("MIXBIT_ISA", "reference", check_reference_only), 0);
    assert_int_equal(in_child("MIXBIT_ISA", "reference", check_lifted), 0);
    assert_int_equal(in_child("MIXBIT_KERNEL", FORCED, check_forced), 0);
    assert_int_equal(in_child("MIXBIT_ISA", "", multiply_once), MB_OK);
}

int main(void)
{
    unsetenv("MIXBIT_ISA");
    unsetenv("MIXBIT_KERNEL");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_environment), /* first: children must not inherit an environment already read */
        cmocka_unit_test(test_list_of_levels),
        cmocka_unit_test(test_level_info),
        cmocka_unit_test(test_later_levels_win),
        cmocka_unit_test(test_gemm_takes_all_codes),
        cmocka_unit_test(test_override_and_profile),
        cmocka_unit_test(test_kernel_for),
        cmocka_unit_test(test_explain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
