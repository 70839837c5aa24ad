/* SPDX-License-Identifier: Apache-2.0 */
/* What a profile answers: whose it is, what a product costs, which kernels it makes the dispatch
 * layer use. Machines other than this one are made by editing a saved profile. */
#include "dispatch/matmul.h"
#include "tuner/profile.h"
#include "tuner/space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Kernels for q4_0 by name: of a level that is allowed, the i-th that can serve m rows. */
static const struct mb_kernel *kernel_for(size_t m, enum mb_op op, size_t skip)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (kernel->op == op && mb_space_fits(kernel, MB_FORMAT_Q4_0, m) &&
            (mb_isa_allowed_mask() >> kernel->isa & 1) != 0 && skip-- == 0)
            return kernel;
    return NULL;
}

static struct mb_profile *empty_profile(void)
{
    struct mb_profile *profile;
    assert_int_equal(mb_profile_create(&profile), MB_OK);
    return profile;
}

static struct mb_cost cost_of(const struct mb_kernel *kernel, size_t n, size_t k, size_t m,
                              double ns)
{
    struct mb_cost cost = {.revision = mb_space_revision(kernel, MB_FORMAT_Q4_0),
                           .format = MB_FORMAT_Q4_0,
                           .n = n,
                           .k = k,
                           .m = m,
                           .threads = 2,
                           .activation = MB_ACTIVATION_I8G32,
                           .residency = MB_RESIDENCY_L3,
                           .median_ns = ns,
                           .mad_ns = ns / 100,
                           .min_ns = ns / 2,
                           .prepare_ns = ns / 10,
                           .bytes = n * k / 32 * 18};
    snprintf(cost.kernel, sizeof cost.kernel, "%s", kernel->name);
    return cost;
}

static void put(struct mb_profile *profile, struct mb_cost cost)
{
    assert_int_equal(mb_profile_put(profile, &cost), MB_OK);
}

static enum mb_cost_quality ask(const struct mb_profile *profile, size_t n, size_t k, size_t m,
                                struct mb_cost *cost)
{
    return mb_profile_cost(profile, MB_FORMAT_Q4_0, n, k, m, 2, MB_RESIDENCY_L3, cost);
}

static void residency_follows_the_caches(void **state)
{
    (void)state;
    const struct mb_device_info device = {.l2_bytes = 1 << 20, .l3_bytes = 32 << 20};
    assert_int_equal(mb_residency_of(&device, 0, 2), MB_RESIDENCY_L2);
    assert_int_equal(mb_residency_of(&device, 1 << 20, 2), MB_RESIDENCY_L2);
    assert_int_equal(mb_residency_of(&device, (1 << 20) + 1, 2), MB_RESIDENCY_L3);
    assert_int_equal(mb_residency_of(&device, 1 << 20, 1), MB_RESIDENCY_L3);
    assert_int_equal(mb_residency_of(&device, 24 << 20, 2), MB_RESIDENCY_L3);
    assert_int_equal(mb_residency_of(&device, (24 << 20) + 1, 2), MB_RESIDENCY_MEMORY);
    const struct mb_device_info unknown = {.size = 0};
    assert_int_equal(mb_residency_of(&unknown, 1, 4), MB_RESIDENCY_MEMORY);
    assert_string_equal(mb_residency_name(MB_RESIDENCY_L2), "L2");
    assert_string_equal(mb_residency_name(MB_RESIDENCY_L3), "L3");
    assert_string_equal(mb_residency_name(MB_RESIDENCY_MEMORY), "memory");
    assert_null(mb_residency_name(MB_RESIDENCY_COUNT));
}

static void putting_replaces_by_key(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *kernel = kernel_for(1, MB_OP_GEMV, 0);
    struct mb_cost cost = cost_of(kernel, 768, 256, 1, 1000);
    put(profile, cost);
    put(profile, cost_of(kernel, 768, 256, 1, 900));
    assert_int_equal(mb_profile_count(profile), 1);
    assert_true(mb_profile_at(profile, 0)->median_ns == 900);
    /* Every part of the key makes another entry. */
    size_t expected = 1;
    for (size_t part = 0; part < 7; part++) {
        struct mb_cost other = cost;
        switch (part) {
        case 0: other.residency = MB_RESIDENCY_L2; break;
        case 1: other.m = 2; break;
        case 2: other.threads = 1; break;
        case 3: other.revision++; break;
        case 4: other.n = 1536, other.k = 128; break;
        case 5: other.knobs[MB_KNOB_STEP] = 2; break;
        default: snprintf(other.kernel, sizeof other.kernel, "another"); break;
        }
        put(profile, other);
        assert_int_equal(mb_profile_count(profile), ++expected);
    }
    mb_profile_free(profile);
}

static void the_best_usable_entry_is_the_cost(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *kernel = kernel_for(1, MB_OP_GEMV, 0);
    const struct mb_kernel *second = kernel_for(1, MB_OP_GEMV, 1);
    struct mb_cost cost;
    assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_NONE);
    put(profile, cost_of(kernel, 768, 256, 1, 1000));
    if (second != NULL)
        put(profile, cost_of(second, 768, 256, 1, 700));
    const double best = second != NULL ? 700 : 1000;
    assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_EXACT);
    assert_true(cost.median_ns == best);

    /* Faster, but unusable: wrong results, an older revision, a kernel that is gone. */
    const struct mb_kernel *third = kernel_for(1, MB_OP_GEMV, 2);
    struct mb_cost failed = cost_of(third != NULL ? third : kernel, 768, 256, 1, 10);
    failed.failed = 1;
    if (third != NULL)
        put(profile, failed);
    struct mb_cost old = cost_of(kernel, 768, 256, 1, 20);
    old.revision += 1;
    put(profile, old);
    struct mb_cost gone = cost_of(kernel, 768, 256, 1, 30);
    snprintf(gone.kernel, sizeof gone.kernel, "gemv_b4_g32_i8g32_8x16_vacuum");
    put(profile, gone);
    assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_EXACT);
    assert_true(cost.median_ns == best);

    /* Another m, thread count or residency says nothing. */
    assert_int_equal(ask(profile, 768, 256, 2, &cost), MB_COST_NONE);
    assert_int_equal(
        mb_profile_cost(profile, MB_FORMAT_Q4_0, 768, 256, 1, 1, MB_RESIDENCY_L3, &cost),
        MB_COST_NONE);
    assert_int_equal(
        mb_profile_cost(profile, MB_FORMAT_Q4_0, 768, 256, 1, 2, MB_RESIDENCY_L2, &cost),
        MB_COST_NONE);
    assert_int_equal(
        mb_profile_cost(profile, MB_FORMAT_Q8_0, 768, 256, 1, 2, MB_RESIDENCY_L3, &cost),
        MB_COST_NONE);
    mb_profile_free(profile);
}

static void failed_entries_alone_are_no_cost(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    struct mb_cost cost = cost_of(kernel_for(1, MB_OP_GEMV, 0), 768, 256, 1, 1000);
    cost.failed = 1;
    put(profile, cost);
    assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_NONE);
    assert_int_equal(ask(profile, 1536, 256, 1, &cost), MB_COST_NONE);
    mb_profile_free(profile);
}

static void a_level_that_is_not_allowed_is_left_out(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *last = NULL, *kernel;
    for (size_t i = 0; (kernel = kernel_for(1, MB_OP_GEMV, i)) != NULL; i++)
        last = kernel;
    if (last->isa != MB_ISA_REFERENCE) {
        struct mb_cost cost;
        put(profile, cost_of(kernel_for(1, MB_OP_GEMV, 0), 768, 256, 1, 1000));
        put(profile, cost_of(last, 768, 256, 1, 100));
        assert_int_equal(mb_isa_allow("reference", NULL), MB_OK);
        assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_EXACT);
        assert_true(cost.median_ns == 1000);
        assert_int_equal(mb_isa_allow(NULL, NULL), MB_OK);
        assert_int_equal(ask(profile, 768, 256, 1, &cost), MB_COST_EXACT);
        assert_true(cost.median_ns == 100);
    }
    mb_profile_free(profile);
}

static void other_shapes_are_interpolated_by_weights(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *kernel = kernel_for(1, MB_OP_GEMV, 0);
    struct mb_cost cost;
    put(profile, cost_of(kernel, 256, 256, 1, 1000));
    put(profile, cost_of(kernel, 1024, 256, 1, 3000));

    /* A third of the way from 65536 to 262144 weights. */
    assert_int_equal(ask(profile, 512, 256, 1, &cost), MB_COST_INTERPOLATED);
    assert_true(fabs(cost.median_ns - (1000 + 2000.0 / 3)) < 1e-9);
    assert_true(cost.n == 512 && cost.k == 256 && cost.bytes == 512 * 256 / 32 * 18);
    assert_string_equal(cost.kernel, kernel->name);
    /* Preparing goes with k: as long as that of the nearest shape, whose k is the same. */
    assert_true(fabs(cost.prepare_ns - 100) < 1e-9);

    /* The same weights in another shape: proportional, which here is equal. */
    assert_int_equal(ask(profile, 128, 512, 1, &cost), MB_COST_INTERPOLATED);
    assert_true(fabs(cost.median_ns - 1000) < 1e-9);
    assert_true(fabs(cost.prepare_ns - 200) < 1e-9);

    /* Outside: proportional to the nearest. */
    assert_int_equal(ask(profile, 4096, 256, 1, &cost), MB_COST_INTERPOLATED);
    assert_true(fabs(cost.median_ns - 12000) < 1e-9);
    assert_int_equal(ask(profile, 64, 256, 1, &cost), MB_COST_INTERPOLATED);
    assert_true(fabs(cost.median_ns - 250) < 1e-9);

    /* Too far, or no shape at all. */
    assert_int_equal(ask(profile, 1024 * 65, 256, 1, &cost), MB_COST_NONE);
    assert_int_equal(ask(profile, 256, 33, 1, &cost), MB_COST_NONE);

    /* Of two shapes with equal weights the cheaper one counts. */
    put(profile, cost_of(kernel, 512, 128, 1, 600));
    assert_int_equal(ask(profile, 128, 512, 1, &cost), MB_COST_INTERPOLATED);
    assert_true(fabs(cost.median_ns - 600) < 1e-9);
    mb_profile_free(profile);
}

static void applicability_is_exact_stale_or_of_another_machine(void **state)
{
    (void)state;
    char why[256];
    struct mb_profile *profile = empty_profile();
    assert_int_equal(mb_profile_match(profile, why, sizeof why), MB_PROFILE_EXACT);
    assert_int_equal(mb_profile_match(profile, NULL, 0), MB_PROFILE_EXACT);

    struct mb_device_info *device = &profile->device;
    const struct mb_device_info good = *device;
    snprintf(device->os, sizeof device->os, "Plan 9");
    assert_int_equal(mb_profile_match(profile, why, sizeof why), MB_PROFILE_STALE);
    assert_non_null(strstr(why, "Plan 9"));
    *device = good;
    snprintf(device->build, sizeof device->build, "mixbit 0.0.0");
    assert_int_equal(mb_profile_match(profile, why, sizeof why), MB_PROFILE_STALE);
    assert_non_null(strstr(why, "mixbit 0.0.0"));

    static const char *const expected[] = {"processor",  "vendor",  "features", "stepping",
                                           "core count", "L3 size", "key"};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        *device = good;
        switch (i) {
        case 0: snprintf(device->name, sizeof device->name, "Z80"); break;
        case 1: snprintf(device->vendor, sizeof device->vendor, "Zilog"); break;
        case 2: snprintf(device->features, sizeof device->features, "none"); break;
        case 3: device->stepping++; break;
        case 4: device->cores++; break;
        case 5: device->l3_bytes++; break;
        default: device->key[0] = 'x'; break;
        }
        assert_int_equal(mb_profile_match(profile, why, sizeof why), MB_PROFILE_OTHER_MACHINE);
        if (strstr(why, expected[i]) == NULL || strchr(why, '\n') != NULL)
            fail_msg("'%s' lacks '%s'", why, expected[i]);
    }
    mb_profile_free(profile);
}

static void applying_makes_the_measured_best_the_choice(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    /* The slowest level wins on paper, so that only the profile can be the reason. */
    const struct mb_kernel *gemv = kernel_for(1, MB_OP_GEMV, 0);
    const struct mb_kernel *gemm = NULL, *kernel;
    for (size_t i = 0; (kernel = kernel_for(512, MB_OP_GEMM, i)) != NULL; i++)
        if (kernel->isa == MB_ISA_REFERENCE)
            gemm = kernel;
    assert_non_null(gemm);
    assert_int_equal(gemv->isa, MB_ISA_REFERENCE);
    const struct mb_selection usual = *mb_select(MB_FORMAT_Q4_0);
    for (size_t i = 0; (kernel = kernel_for(1, MB_OP_GEMV, i)) != NULL; i++)
        put(profile, cost_of(kernel, 256, 256, 1, kernel == gemv ? 500 : 1000));
    for (size_t i = 0; (kernel = kernel_for(512, MB_OP_GEMM, i)) != NULL; i++)
        put(profile, cost_of(kernel, 256, 256, 512, kernel == gemm ? 500e3 : 900e3));

    profile->device.stepping++; /* another machine's: nothing happens */
    mb_profile_apply(profile);
    assert_memory_equal(&usual, mb_select(MB_FORMAT_Q4_0), sizeof usual);
    profile->device.stepping--;

    mb_profile_apply(profile);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[0], gemv);
    assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemm.gemm, gemm);
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->crossover, usual.crossover);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    assert_memory_equal(&usual, mb_select(MB_FORMAT_Q4_0), sizeof usual);
    mb_profile_free(profile);
}

static void a_failed_winner_is_never_applied(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *kernel;
    const struct mb_kernel *first = kernel_for(1, MB_OP_GEMV, 0);
    size_t count = 0;
    for (; (kernel = kernel_for(1, MB_OP_GEMV, count)) != NULL; count++) {
        struct mb_cost cost = cost_of(kernel, 256, 256, 1, 100 + 10 * (double)count);
        cost.failed = kernel == first; /* the fastest of all */
        put(profile, cost);
    }
    mb_profile_apply(profile);
    if (count > 1)
        assert_ptr_equal(mb_select(MB_FORMAT_Q4_0)->gemv[0], kernel_for(1, MB_OP_GEMV, 1));
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_profile_free(profile);
}

static void the_crossover_lies_between_what_was_measured(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *gemv = kernel_for(1, MB_OP_GEMV, 0);
    const struct mb_kernel *gemm = kernel_for(8, MB_OP_GEMM, 0);
    const size_t usual = mb_select(MB_FORMAT_Q4_0)->crossover;
    /* gemv wins at 1 and at usual + 2, gemm from usual + 4: the default lies too low. */
    const struct {
        size_t m;
        double gemv_ns, gemm_ns;
    } high[] = {{2, 100, 200}, {usual + 2, 500, 600}, {usual + 4, 900, 700}};
    for (size_t i = 0; i < 3; i++) {
        put(profile, cost_of(gemv, 256, 256, high[i].m, high[i].gemv_ns));
        put(profile, cost_of(gemm, 256, 256, high[i].m, high[i].gemm_ns));
    }
    mb_profile_apply(profile);
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->crossover, usual + 2);
    mb_profile_free(profile);

    /* gemm wins at 2 already: the default lies too high. */
    profile = empty_profile();
    put(profile, cost_of(gemv, 256, 256, 2, 500));
    put(profile, cost_of(gemm, 256, 256, 2, 400));
    mb_profile_apply(profile);
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->crossover, 1);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_profile_free(profile);
}

/* The same kernel at its default knobs and at others. */
static void put_knobs(struct mb_profile *profile, const struct mb_kernel *kernel, size_t m,
                      enum mb_knob knob, size_t value, double ns)
{
    const struct mb_selection usual = mb_select_default(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32);
    struct mb_cost cost = cost_of(kernel, 256, 4096, m, ns);
    mb_space_knobs(&usual, kernel, m, cost.knobs);
    if (value != SIZE_MAX)
        cost.knobs[knob] = value;
    put(profile, cost);
}

static void knobs_are_turned_when_that_gains_enough(void **state)
{
    (void)state;
    const struct mb_kernel *gemv = kernel_for(8, MB_OP_GEMV, 0);
    const struct mb_kernel *gemm = kernel_for(512, MB_OP_GEMM, 0);
    const struct mb_selection usual = mb_select_default(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32);
    for (int enough = 0; enough < 2; enough++) {
        const double gain = enough ? 0.95 : 0.99;
        struct mb_profile *profile = empty_profile();
        put_knobs(profile, gemv, 1, MB_KNOB_STEP, SIZE_MAX, 100);
        put_knobs(profile, gemv, 1, MB_KNOB_STEP, 4, 100 * gain);
        put_knobs(profile, gemv, 8, MB_KNOB_PREFETCH, SIZE_MAX, 300);
        put_knobs(profile, gemv, 8, MB_KNOB_PREFETCH, 0, 300 * gain);
        put_knobs(profile, gemv, 8, MB_KNOB_PREFETCH, 4096, 400);
        put_knobs(profile, gemm, 512, MB_KNOB_K_BLOCK, SIZE_MAX, 9000);
        put_knobs(profile, gemm, 512, MB_KNOB_K_BLOCK, 512, 9000 * gain);
        mb_profile_apply(profile);
        const struct mb_selection *s = mb_select(MB_FORMAT_Q4_0);
        assert_int_equal(s->gemv_step, enough ? 4 : usual.gemv_step);
        assert_int_equal(s->prefetch, enough ? 0 : usual.prefetch);
        assert_int_equal(s->gemm.k_block, enough ? 512 : usual.gemm.k_block);
        assert_int_equal(mb_kernel_step(gemm, s->gemm_step), mb_kernel_step(gemm, 1));
        mb_select_set(MB_FORMAT_Q4_0, NULL);
        mb_profile_free(profile);
    }
}

static void one_row_and_several_ask_ahead_by_distances_of_their_own(void **state)
{
    (void)state;
    struct mb_profile *profile = empty_profile();
    const struct mb_kernel *one = kernel_for(1, MB_OP_GEMV, 0);
    const struct mb_kernel *several = kernel_for(8, MB_OP_GEMV, 0);
    put_knobs(profile, one, 1, MB_KNOB_PREFETCH, SIZE_MAX, 100);
    put_knobs(profile, one, 1, MB_KNOB_PREFETCH, 8192, 60);
    put_knobs(profile, several, 8, MB_KNOB_PREFETCH, SIZE_MAX, 300);
    put_knobs(profile, several, 8, MB_KNOB_PREFETCH, 32768, 200);
    mb_profile_apply(profile);
    const struct mb_selection *s = mb_select(MB_FORMAT_Q4_0);
    assert_int_equal(mb_selection_prefetch(s, 1), 8192);
    assert_int_equal(mb_selection_prefetch(s, 2), 32768);
    assert_int_equal(mb_selection_prefetch(s, 8), 32768);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_profile_free(profile);
}

/* Knobs that were tried at one shape only are out of the running at the others. */
static void knobs_must_have_been_confirmed(void **state)
{
    (void)state;
    const struct mb_kernel *gemm = kernel_for(512, MB_OP_GEMM, 0);
    struct mb_profile *profile = empty_profile();
    put_knobs(profile, gemm, 512, MB_KNOB_K_BLOCK, SIZE_MAX, 9000);
    put_knobs(profile, gemm, 512, MB_KNOB_K_BLOCK, 512, 6000);
    struct mb_cost elsewhere = *mb_profile_at(profile, 0);
    elsewhere.residency = MB_RESIDENCY_MEMORY;
    put(profile, elsewhere);
    mb_profile_apply(profile);
    const size_t usual = mb_select_default(MB_FORMAT_Q4_0, MB_ACTIVATION_I8G32).gemm.k_block;
    assert_int_equal(mb_select(MB_FORMAT_Q4_0)->gemm.k_block, usual);
    mb_select_set(MB_FORMAT_Q4_0, NULL);
    mb_profile_free(profile);
}

static void the_fewest_of_equally_fast_threads_are_advised(void **state)
{
    (void)state;
    const struct mb_kernel *kernel = kernel_for(1, MB_OP_GEMV, 0);
    struct mb_profile *profile = empty_profile();
    struct mb_cost cost = cost_of(kernel, 256, 256, 1, 1000);
    put(profile, cost);
    assert_int_equal(mb_profile_threads(profile, 1), 0); /* nothing to compare */
    const struct {
        size_t threads;
        double ns;
        size_t best;
    } steps[] = {{1, 1500, 2}, {4, 990, 2}, {8, 700, 8}, {16, 710, 8}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        cost.threads = steps[i].threads;
        cost.median_ns = steps[i].ns;
        put(profile, cost);
        assert_int_equal(mb_profile_threads(profile, 1), steps[i].best);
    }
    assert_int_equal(mb_profile_threads(profile, 512), 0);
    mb_profile_free(profile);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residency_follows_the_caches),
        cmocka_unit_test(putting_replaces_by_key),
        cmocka_unit_test(the_best_usable_entry_is_the_cost),
        cmocka_unit_test(failed_entries_alone_are_no_cost),
        cmocka_unit_test(a_level_that_is_not_allowed_is_left_out),
        cmocka_unit_test(other_shapes_are_interpolated_by_weights),
        cmocka_unit_test(applicability_is_exact_stale_or_of_another_machine),
        cmocka_unit_test(applying_makes_the_measured_best_the_choice),
        cmocka_unit_test(a_failed_winner_is_never_applied),
        cmocka_unit_test(the_crossover_lies_between_what_was_measured),
        cmocka_unit_test(knobs_are_turned_when_that_gains_enough),
        cmocka_unit_test(one_row_and_several_ask_ahead_by_distances_of_their_own),
        cmocka_unit_test(knobs_must_have_been_confirmed),
        cmocka_unit_test(the_fewest_of_equally_fast_threads_are_advised),
    };
    return cmocka_run_group_tests_name("tuner profile", tests, NULL, NULL);
}
