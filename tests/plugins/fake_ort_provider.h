/* SPDX-License-Identifier: Apache-2.0 */
/* What the host of fake_ort.h has for execution providers: graphs that they look at, and a registry
 * of their kernels. */
#ifndef MIXBIT_TEST_FAKE_ORT_PROVIDER_H
#define MIXBIT_TEST_FAKE_ORT_PROVIDER_H

#include "fake_ort.h"

enum { FAKE_NODES = 8, FAKE_DEFINITIONS = 4 };

struct ort_device {
    int type;
};

struct ort_provider_device {
    const struct ort_factory *factory;
    const struct ort_device *device;
};

struct ort_value_info {
    const struct ort_value *value;
    bool is_constant, is_outer;
};

/* A node of a graph: of a kernel's description, the attributes and the inputs. */
struct ort_node {
    const char *type, *domain;
    const struct ort_kernel_info *info;
    struct ort_value_info inputs[FAKE_INPUTS];
    size_t count;
};

struct ort_graph {
    const struct ort_node *nodes[FAKE_NODES];
    size_t count;
};

struct ort_data_type {
    int type;
};

struct ort_definition {
    char type[32], domain[32], provider[32], constraint[8];
    int first, last, element_type;
};

struct ort_registry {
    struct {
        struct ort_definition definition;
        struct ort_status *(*create)(void *state, const struct ort_kernel_info *,
                                     struct ort_kernel **);
        void *state;
    } rows[FAKE_DEFINITIONS];
    size_t count;
};

struct ort_support {
    const struct ort_registry *registry;
    const struct ort_node *claimed[FAKE_NODES];
    size_t count;
};

/* The node of a graph that a kernel is described by. */
struct ort_node fake_node_of(const struct ort_kernel_info *info);

#endif
