/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel's name is its identity in profiles, benches and logs, so it has to say what its
 * descriptor says: prepare_<activation>_<isa> decode_<coding>_<scale kind>_<isa>
 *   gemv_<coding>_<scale kind>_<activation>_<MRxNR>_<isa>
 *   gemm_<u4 u5 u6 u8 f32 bf16>_<scale kind>_<activation>_<MRxNR>_<isa>
 *   integer_<coding>_<MRxNR>_<isa>
 *   codebook_<activation>_<MRxNR>_<isa>
 * The names are taken apart here and each part is held against its field. */
#include "kernels/harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MAX_PARTS = 8 };

struct parts {
    size_t count;
    char text[MAX_PARTS][24];
};

static bool split(const char *name, struct parts *parts)
{
    parts->count = 0;
    for (const char *at = name;; at++) {
        const size_t length = strcspn(at, "_");
        if (length == 0 || length >= sizeof parts->text[0] || parts->count == MAX_PARTS)
            return false;
        memcpy(parts->text[parts->count], at, length);
        parts->text[parts->count++][length] = '\0';
        at += length;
        if (*at == '\0')
            return true;
    }
}

static bool is_tile(const char *text, unsigned mr, unsigned nr)
{
    char expected[24];
    snprintf(expected, sizeof expected, "%ux%u", mr, nr);
    return strcmp(text, expected) == 0;
}

static bool is_decoded_width(const char *text, const struct mb_kernel *kernel)
{
    if (kernel->scale == MB_SCALE_NONE || kernel->scale == MB_SCALE_PAIR)
        return strcmp(text, mb_activation_name(kernel->activation)) == 0;
    const int bits = text[0] == 'u' && strlen(text) == 2 ? text[1] - '0' : 0;
    return bits > 0 && bits <= 8 && kernel->max_code == (1u << bits) - 1;
}

static bool is_named_well(const struct mb_kernel *kernel)
{
    static const char *const ops[] = {"prepare", "decode", "gemv", "gemm", "integer", "codebook"};
    struct parts p;
    if (!split(kernel->name, &p) || strcmp(p.text[0], ops[kernel->op]) != 0 ||
        strcmp(p.text[p.count - 1], mb_isa_name(kernel->isa)) != 0)
        return false;
    switch (kernel->op) {
    case MB_OP_PREPARE:
        return p.count == 3 && strcmp(p.text[1], mb_activation_name(kernel->activation)) == 0;
    case MB_OP_DECODE:
        return p.count == 4 && strcmp(p.text[1], mb_coding_name(kernel->coding)) == 0 &&
               strcmp(p.text[2], mb_scale_kind_name(kernel->scale)) == 0;
    case MB_OP_GEMV:
    case MB_OP_GEMM:
        return p.count == 6 &&
               (kernel->op == MB_OP_GEMV ? strcmp(p.text[1], mb_coding_name(kernel->coding)) == 0
                                         : is_decoded_width(p.text[1], kernel)) &&
               strcmp(p.text[2], mb_scale_kind_name(kernel->scale)) == 0 &&
               strcmp(p.text[3], mb_activation_name(kernel->activation)) == 0 &&
               is_tile(p.text[4], kernel->mr, kernel->nr);
    case MB_OP_INTEGER:
        return p.count == 4 && strcmp(p.text[1], mb_coding_name(kernel->coding)) == 0 &&
               is_tile(p.text[2], kernel->mr, kernel->nr);
    case MB_OP_CODEBOOK:
        return p.count == 4 && strcmp(p.text[1], mb_activation_name(kernel->activation)) == 0 &&
               is_tile(p.text[2], kernel->mr, kernel->nr);
    }
    return false;
}

static void test_names_say_what_descriptors_say(void **state)
{
    (void)state;
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++) {
        if (!is_named_well(kernel))
            fail_msg("%s does not say what its descriptor says", kernel->name);
        if (mb_registry_find(kernel->name) != kernel)
            fail_msg("%s is the name of two kernels", kernel->name);
    }
}

static void test_descriptors_are_complete(void **state)
{
    (void)state;
    const struct mb_kernel *kernel;
    assert_true(mb_registry_count() > 0);
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++) {
        assert_non_null(kernel->fn.gemv);
        assert_true(kernel->isa < MB_ISA_COUNT);
        assert_true(kernel->revision >= 1);
        if (kernel->op >= MB_OP_GEMV) {
            assert_true(kernel->mr >= 1);
            assert_true(kernel->nr >= 16 && kernel->nr % 16 == 0);
        }
    }
    assert_null(mb_registry_at(mb_registry_count()));
    assert_null(mb_registry_find("gemv_b4_g32_i8g32_1x16_none"));
}

static void test_wrong_names_are_noticed(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "gemv_b5_g32_i8g32_8x16_reference",
        "gemv_b4_g32min_i8g32_8x16_reference",
        "gemv_b4_g32_i8g256_8x16_reference",
        "gemv_b4_g32_i8g32_4x16_reference",
        "gemv_b4_g32_i8g32_8x32_reference",
        "gemv_b4_g32_i8g32_8x16_avx2",
        "gemm_b4_g32_i8g32_8x16_reference",
        "gemv_b4_g32_i8g32_reference",
        "gemv_b4_g32_i8g32_8x16_",
        "gemv__b4_g32_i8g32_8x16_reference",
        "gemv_b4_g32_i8g32_8x16_reference_2",
        "",
        "gemv_b4_g32_i8g32_08x16_reference",
    };
    struct mb_kernel kernel = *mb_registry_find("gemv_b4_g32_i8g32_8x16_reference");
    assert_true(is_named_well(&kernel));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        kernel.name = wrong[i];
        assert_false(is_named_well(&kernel));
    }
}

/* The reference has every operation of every format: there is never an empty slot. */
static void test_reference_fills_every_slot(void **state)
{
    (void)state;
    mb_isa_set_allowed_mask(0);
    const struct mb_format_info *info;
    for (size_t i = 0; (info = data_product(i)) != NULL; i++) {
        const struct mb_selection *s = mb_select_as(info->id, info->activation);
        assert_int_equal(s->activation, info->activation);
        assert_non_null(s->prepare);
        assert_non_null(s->gemm.decode);
        assert_non_null(s->gemm.gemm);
        assert_int_equal(s->prepare->isa, MB_ISA_REFERENCE);
        assert_int_equal(s->gemm.gemm->isa, MB_ISA_REFERENCE);
        for (size_t m = 0; m < 8; m++) {
            assert_non_null(s->gemv[m]);
            assert_int_equal(s->gemv[m]->isa, MB_ISA_REFERENCE);
        }
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
}

/* A level that is used at all serves every format: nothing falls back to scalar code on a vector
 * machine. */
static void test_levels_leave_nothing_to_the_reference(void **state)
{
    (void)state;
    for (int isa = MB_ISA_REFERENCE + 1; isa < MB_ISA_COUNT; isa++) {
        if (!mb_isa_is_supported((enum mb_isa)isa)) {
            print_message("skipped: %s is not supported here\n", mb_isa_name((enum mb_isa)isa));
            continue;
        }
        mb_isa_set_allowed_mask((2u << isa) - 1); /* this level and those before it */
        const struct mb_format_info *info;
        for (size_t i = 0; (info = data_product(i)) != NULL; i++) {
            const struct mb_selection *s = mb_select_as(info->id, info->activation);
            const struct mb_kernel *used[] = {s->prepare, s->gemv[0], s->gemv[7], s->gemm.decode,
                                              s->gemm.gemm};
            for (size_t j = 0; j < sizeof used / sizeof *used; j++)
                if (used[j]->isa == MB_ISA_REFERENCE &&
                    (used[j]->op != MB_OP_DECODE || used[j]->coding != MB_CODING_F32))
                    fail_msg("%s on %s is served by %s", info->name, mb_isa_name((enum mb_isa)isa),
                             used[j]->name);
        }
    }
    mb_isa_set_allowed_mask(UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_say_what_descriptors_say),
        cmocka_unit_test(test_descriptors_are_complete),
        cmocka_unit_test(test_wrong_names_are_noticed),
        cmocka_unit_test(test_reference_fills_every_slot),
        cmocka_unit_test(test_levels_leave_nothing_to_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
