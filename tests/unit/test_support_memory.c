/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned memory, sizes that cannot wrap, hashes against values published with xxHash, and the
 * clock's direction. */
#include "support/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void test_alignment(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4097, (2 << 20) - 1, 2 << 20, (5 << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *memory = mb_alloc_aligned(sizes[i]);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        memset(memory, 1, sizes[i]);
        mb_free_aligned(memory);
    }
    assert_null(mb_alloc_aligned(SIZE_MAX));
    assert_null(mb_alloc_aligned(SIZE_MAX - 100));
    mb_free_aligned(NULL);
}

static void test_sizes_do_not_wrap(void **state)
{
    (void)state;
    const size_t half = (size_t)1 << (sizeof(size_t) * 4);
    size_t result = 7;
    assert_true(mb_mul_size(6, 7, &result));
    assert_int_equal(result, 42);
    assert_true(mb_mul_size(0, SIZE_MAX, &result));
    assert_int_equal(result, 0);
    assert_true(mb_mul_size(SIZE_MAX, 1, &result));
    assert_true(result == SIZE_MAX);
    assert_false(mb_mul_size(half, half, &result));
    assert_false(mb_mul_size(SIZE_MAX, 2, &result));
    assert_true(mb_mul_size(half, half - 1, &result));
    assert_true(mb_add_size(SIZE_MAX, 0, &result));
    assert_false(mb_add_size(SIZE_MAX, 1, &result));
    assert_false(mb_add_size(half, SIZE_MAX - half + 1, &result));
    assert_true(mb_add_size(2, 3, &result));
    assert_int_equal(result, 5);
}

static void test_hash(void **state)
{
    (void)state;
    char hex[33];
    mb_hash_bytes("", 0, hex); /* XXH3-128 of nothing, as in xxHash's own test vectors */
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    mb_hash_bytes("abc", 3, hex);
    assert_string_equal(hex, "06b05ab6733a618578af5f94892f3950");
}

static void test_clock(void **state)
{
    (void)state;
    const uint64_t first = mb_now_ns();
    assert_true(mb_now_ns() >= first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_sizes_do_not_wrap),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
