/* SPDX-License-Identifier: Apache-2.0 */
/* A host that stands in for ONNX Runtime: the slots of its table that the plug-in calls, filled at
 * their numbers and nowhere else. It counts what it has lent. */
#ifndef MIXBIT_TEST_FAKE_ORT_H
#define MIXBIT_TEST_FAKE_ORT_H

#include "plugins/onnxruntime/ort_provider_abi.h"

enum {
    FAKE_INPUTS = 6,
    FAKE_RANK = 10,
    FAKE_ATTRIBUTES = 8,
    FAKE_OPERATORS = 4,
    FAKE_ENTRIES = 2,
    FAKE_TEXT = 512
};

struct fake_host {
    uint32_t newest;     /* version of the table that it has */
    bool loop_fails;     /* KernelContext_ParallelFor returns an error */
    size_t loop_threads; /* of KernelContext_ParallelFor */
    bool output_fails;
    char log[FAKE_TEXT]; /* the last message */
    size_t logged;
    _Atomic size_t loops;
    bool has_no_providers; /* GetEpApi returns NULL */
    size_t empty_slot;     /* of the table for providers; 0: none */
    bool add_fails;        /* KernelRegistry_AddKernel returns an error */
    /* Alive. */
    _Atomic long statuses, shapes, domains, registries, builders, definitions;
};
extern struct fake_host fake;
extern const struct ort_base fake_base;

struct ort_status {
    int code;
    char message[FAKE_TEXT];
};

struct ort_value {
    int type;
    size_t rank;
    int64_t dimensions[FAKE_RANK];
    void *data;
};

struct ort_domain {
    char name[64];
    const struct ort_custom_op *operators[FAKE_OPERATORS];
    size_t count;
};

struct ort_session_options {
    struct {
        const char *key, *value; /* NULL: none */
    } entries[FAKE_ENTRIES];
    struct ort_domain *domain;
};

struct ort_kernel_info {
    const char *name;
    struct {
        const char *name;
        int64_t value;
    } attributes[FAKE_ATTRIBUTES];
    const struct ort_value *inputs[FAKE_INPUTS]; /* NULL: left out */
    bool is_constant[FAKE_INPUTS];
    size_t count;
};

struct ort_kernel_context {
    const struct ort_value *inputs[FAKE_INPUTS];
    size_t count;
    struct ort_value output; /* its data are allocated when asked for */
};

struct ort_shape {
    struct ort_value value; /* its data are not looked at */
};

/* See fake_ort_provider.h. */
void fake_fill_graph_slots(void (**slots)(void));
struct ort_status *fake_error(int code, const char *message);
void fake_not_there(void); /* stands in every slot that is not filled */

size_t fake_elements(const struct ort_value *value);
size_t fake_element_bytes(int type);

#endif
