/* SPDX-License-Identifier: Apache-2.0 */
/* A library of operators for ONNX Runtime: com.microsoft::MatMulNBits on this library's kernels, in
 * place of the built-in one.
 *
 *   options.register_custom_ops_library("libonnxruntime-mixbit.so")
 *
 * An operator that is declared by a library hides the host's whole definition of that name, so the
 * declaration here has all six inputs and both types of activations: what it left out would not go
 * back to the host but be an invalid model. zero_points are declared without a type, since they may
 * be packed or floats; which, shows when a node is created. */
#include "kernel.h"
#include "settings.h"

#include <pthread.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT struct ort_status *RegisterCustomOps(struct ort_session_options *options,
                                            const struct ort_base *base);

enum { TYPES = 2 };

struct registration;

struct declared {
    struct ort_custom_op table; /* first: the host hands out pointers to it */
    int type;                   /* of activations */
    const struct registration *registration;
};

/* What one call of RegisterCustomOps leaves: sessions point into it until the library goes. */
struct registration {
    struct declared operators[TYPES];
    struct ort_api api;
    enum mb_ort_accuracy wish;
    struct ort_domain *domain;
    struct registration *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct registration *registrations;

/* ---- the operator ---------------------------------------------------------------------------- */

static const struct declared *operator_of(const struct ort_custom_op *op)
{
    return (const struct declared *)(const void *)op;
}

static int float_type(const struct ort_custom_op *op) { return operator_of(op)->type; }

static const char *get_name(const struct ort_custom_op *op)
{
    (void)op;
    return "MatMulNBits";
}

static const char *get_provider(const struct ort_custom_op *op)
{
    (void)op;
    return "CPUExecutionProvider";
}

static int get_input_type(const struct ort_custom_op *op, size_t index)
{
    switch (index) {
    case MB_ORT_B: return ORT_TYPE_UINT8;
    case MB_ORT_ZERO_POINTS: return ORT_TYPE_UNDEFINED;
    case MB_ORT_GROUPS: return ORT_TYPE_INT32;
    default: return float_type(op);
    }
}

static size_t get_input_count(const struct ort_custom_op *op)
{
    (void)op;
    return MB_ORT_INPUTS;
}

static int get_output_type(const struct ort_custom_op *op, size_t index)
{
    (void)index;
    return float_type(op);
}

static size_t get_output_count(const struct ort_custom_op *op)
{
    (void)op;
    return 1;
}

static int get_input_characteristic(const struct ort_custom_op *op, size_t index)
{
    (void)op;
    return index >= MB_ORT_ZERO_POINTS ? ORT_OPTIONAL : ORT_REQUIRED;
}

static int get_output_characteristic(const struct ort_custom_op *op, size_t index)
{
    (void)op;
    (void)index;
    return ORT_REQUIRED;
}

static int get_input_memory_type(const struct ort_custom_op *op, size_t index)
{
    (void)op;
    (void)index;
    return ORT_MEMORY_DEFAULT;
}

/* About variadic inputs and outputs, of which there are none. */
static int get_variadic(const struct ort_custom_op *op)
{
    (void)op;
    return 0;
}

static int get_version(const struct ort_custom_op *op)
{
    (void)op;
    return 1;
}

static struct ort_status *create_kernel(const struct ort_custom_op *op,
                                        const struct ort_table *table,
                                        const struct ort_kernel_info *info, void **kernel)
{
    const struct declared *self = operator_of(op);
    return mb_ort_create_kernel(table, info, self->type, self->registration->wish, true, kernel);
}

/* ---- registration ---------------------------------------------------------------------------- */

/* Without a function for shapes: up to 1.22 and maybe later, the host's own code in front of it
 * takes a missing optional input for a present one, and crashes. Types it finds by itself. */
static const struct ort_custom_op operator_table = {
    .version = ORT_VERSION,
    .get_name = get_name,
    .get_provider = get_provider,
    .get_input_type = get_input_type,
    .get_input_count = get_input_count,
    .get_output_type = get_output_type,
    .get_output_count = get_output_count,
    .destroy_kernel = mb_ort_destroy_kernel,
    .get_input_characteristic = get_input_characteristic,
    .get_output_characteristic = get_output_characteristic,
    .get_input_memory_type = get_input_memory_type,
    .get_variadic_input_least = get_variadic,
    .get_variadic_input_alike = get_variadic,
    .get_variadic_output_least = get_variadic,
    .get_variadic_output_alike = get_variadic,
    .create_kernel_v2 = create_kernel,
    .compute_v2 = mb_ort_compute,
    .get_first_version = get_version,
    .get_last_version = get_version,
};

/* Declare the operators to the session. */
static struct ort_status *declare(struct registration *r, struct ort_session_options *options)
{
    static const int types[TYPES] = {ORT_TYPE_FLOAT, ORT_TYPE_FLOAT16};
    struct ort_status *status = r->api.CreateCustomOpDomain("com.microsoft", &r->domain);
    for (size_t i = 0; i < TYPES && status == NULL; i++) {
        r->operators[i] = (struct declared){operator_table, types[i], r};
        status = r->api.CustomOpDomain_Add(r->domain, &r->operators[i].table);
    }
    return status != NULL ? status : r->api.AddCustomOpDomain(options, r->domain);
}

struct ort_status *RegisterCustomOps(struct ort_session_options *options,
                                     const struct ort_base *base)
{
    struct ort_api api;
    const struct ort_table *table;
    struct ort_status *status = mb_ort_connect(base, ORT_VERSION, "mixbit", &table, &api);
    if (status == NULL)
        status = mb_ort_try_product(&api);
    if (status != NULL)
        return status;
    struct registration *r = calloc(1, sizeof *r);
    if (r == NULL)
        return mb_ort_error(&api, ORT_FAIL, "mixbit: out of memory");
    r->api = api;
    status = mb_ort_read_accuracy(&api, options, NULL, &r->wish);
    if (status == NULL)
        status = declare(r, options);
    if (status != NULL) {
        if (r->domain != NULL)
            api.ReleaseCustomOpDomain(r->domain);
        free(r);
        return status;
    }
    (void)pthread_mutex_lock(&lock);
    r->next = registrations;
    registrations = r;
    (void)pthread_mutex_unlock(&lock);
    return NULL;
}

/* The host unloads the library behind the last session and the last options that point here. */
__attribute__((destructor)) static void unload(void)
{
    while (registrations != NULL) {
        struct registration *next = registrations->next;
        registrations->api.ReleaseCustomOpDomain(registrations->domain);
        free(registrations);
        registrations = next;
    }
}
