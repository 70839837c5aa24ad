/* SPDX-License-Identifier: Apache-2.0 */
/* See onnx_harness.h. */
#include "onnx_harness.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

int setup(void **state)
{
    (void)state;
    fake = (struct fake_host){.newest = 30, .loop_threads = 3};
    random_restart();
    return 0;
}

int teardown(void **state)
{
    (void)state;
    return fake.statuses == 0 && fake.shapes == 0 && fake.domains == 0 && fake.registries == 0 &&
                   fake.builders == 0 && fake.definitions == 0
               ? 0
               : -1;
}

void assert_error(struct ort_status *status, const char *text)
{
    assert_non_null(status);
    if (strstr(status->message, text) == NULL || strchr(status->message, '\n') != NULL)
        fail_msg("the message is '%s', not one line with '%s'", status->message, text);
    fake.statuses--;
    free(status);
}

void assert_ok(struct ort_status *status)
{
    if (status != NULL)
        fail_msg("%s", status->message);
}

void find_function(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    assert_non_null(symbol);
    memcpy(function, &symbol, sizeof symbol);
}

struct plugin open_plugin(void)
{
    struct plugin p = {.library = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL)};
    assert_non_null(p.library);
    find_function(p.library, "RegisterCustomOps", &p.register_ops);
    return p;
}

struct plugin load(const char *accuracy)
{
    struct plugin p = open_plugin();
    p.options.entries[0].key = accuracy != NULL ? "mixbit.accuracy" : NULL;
    p.options.entries[0].value = accuracy;
    assert_ok(p.register_ops(&p.options, &fake_base));
    return p;
}

void unload(const struct plugin *p) { assert_int_equal(dlclose(p->library), 0); }

const struct ort_custom_op *operator_of(const struct plugin *p, const struct node *node)
{
    return p->options.domain->operators[node->type == ORT_TYPE_FLOAT ? FLOATS : HALVES];
}

struct ort_status *create(const struct plugin *p, const struct node *node, void **kernel)
{
    const struct ort_custom_op *op = operator_of(p, node);
    return op->create_kernel_v2(op, fake_base.get_api(17), &node->info, kernel);
}
