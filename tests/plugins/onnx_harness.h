/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the ONNX Runtime plug-in share: loading it, and the statuses of its calls. */
#ifndef MIXBIT_TEST_ONNX_HARNESS_H
#define MIXBIT_TEST_ONNX_HARNESS_H

#include "onnx_node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* A session that has the plug-in's operators. */
struct plugin {
    void *library;
    struct ort_status *(*register_ops)(struct ort_session_options *, const struct ort_base *);
    struct ort_session_options options;
};

enum { FLOATS, HALVES }; /* operators of a registration */

/* A test begins with a host that has lent nothing, and ends with one. */
int setup(void **state);
int teardown(void **state);

/* The status is released; its message is one line with `text` in it. */
void assert_error(struct ort_status *status, const char *text);
void assert_ok(struct ort_status *status);

/* A function that the library exports into *function, a pointer to one. */
void find_function(void *library, const char *name, void *function);
struct plugin open_plugin(void);
/* With the operators registered; `accuracy` as in mixbit.accuracy, NULL: not set. */
struct plugin load(const char *accuracy);
void unload(const struct plugin *p);

/* The operator that serves a node, and a kernel of it. */
const struct ort_custom_op *operator_of(const struct plugin *p, const struct node *node);
struct ort_status *create(const struct plugin *p, const struct node *node, void **kernel);

#endif
