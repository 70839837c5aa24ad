/* SPDX-License-Identifier: Apache-2.0 */
/* How kernels are chosen that have weights of their own and serve no format (dispatch/alone.h): the
 * same checks for each kind. */
#ifndef MIXBIT_TESTS_ALONE_H
#define MIXBIT_TESTS_ALONE_H

#include "dispatch/dispatch.h"

#include <string.h>

struct alone {
    enum mb_op op;
    const char *prefix;            /* of their names */
    const char *reference, *other; /* the lowest, and a kernel of another kind */
    const char *(*chosen)(void);
    void (*explain)(void (*line)(void *user, const char *text), void *user);
};
struct alone_count {
    const struct alone *kind;
    size_t taken;
};

static void alone_count_taken(void *user, const char *text)
{
    struct alone_count *count = user;
    const char *name = count->kind->chosen();
    const bool is_taken = strstr(text, " taken") != NULL;
    count->taken += is_taken;
    assert_true(strncmp(text, count->kind->prefix, strlen(count->kind->prefix)) == 0);
    if (is_taken)
        assert_true(strncmp(text, name, strlen(name)) == 0);
}

/* Every level that has a gemm for bytes has one of these. */
static void check_levels_have(const struct alone *kind)
{
    const struct mb_kernel *kernel, *other;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++) {
        bool found = kernel->op != MB_OP_GEMM || kernel->max_code < 255;
        for (size_t j = 0; !found && (other = mb_registry_at(j)) != NULL; j++)
            found = other->op == kind->op && other->isa == kernel->isa;
        if (!found)
            fail_msg("%s has no kernel %s", mb_isa_name(kernel->isa), kind->prefix);
    }
}

/* MIXBIT_KERNEL and the tuner force a kernel; what serves is what is said to. */
static void check_choice(const struct alone *kind)
{
    struct alone_count count = {kind, 0};
    const char *before = kind->chosen();
    kind->explain(alone_count_taken, &count);
    assert_int_equal(count.taken, 1);
    assert_int_equal(mb_select_override(mb_registry_find(kind->reference)), MB_OK);
    assert_string_equal(kind->chosen(), kind->reference);
    assert_int_equal(mb_select_override(mb_registry_find(kind->other)), MB_OK);
    assert_string_equal(kind->chosen(), before);
    assert_int_equal(mb_select_override(NULL), MB_OK);
}

#endif
