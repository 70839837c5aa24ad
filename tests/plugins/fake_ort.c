/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_ort.h. A slot that is not filled points to a function that ends the program. */
#include "fake_ort.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 412 };

struct fake_host fake;

struct ort_status *fake_error(int code, const char *message)
{
    struct ort_status *status = calloc(1, sizeof *status);
    status->code = code;
    (void)snprintf(status->message, sizeof status->message, "%s", message);
    fake.statuses++;
    return status;
}

static struct ort_status *CreateStatus(int code, const char *message)
{
    return fake_error(code, message);
}

static const char *GetErrorMessage(const struct ort_status *status) { return status->message; }

static void ReleaseStatus(struct ort_status *status)
{
    fake.statuses -= status != NULL;
    free(status);
}

/* ---- registration ---------------------------------------------------------------------------- */

static struct ort_status *CreateCustomOpDomain(const char *name, struct ort_domain **domain)
{
    *domain = calloc(1, sizeof **domain);
    (void)snprintf((*domain)->name, sizeof(*domain)->name, "%s", name);
    fake.domains++;
    return NULL;
}

static struct ort_status *CustomOpDomain_Add(struct ort_domain *domain,
                                             const struct ort_custom_op *op)
{
    domain->operators[domain->count++] = op;
    return NULL;
}

static struct ort_status *AddCustomOpDomain(struct ort_session_options *options,
                                            struct ort_domain *domain)
{
    options->domain = domain;
    return NULL;
}

static void ReleaseCustomOpDomain(struct ort_domain *domain)
{
    fake.domains--;
    free(domain);
}

static const char *find_entry(const struct ort_session_options *options, const char *key)
{
    for (size_t i = 0; i < FAKE_ENTRIES; i++)
        if (options->entries[i].key != NULL && strcmp(options->entries[i].key, key) == 0)
            return options->entries[i].value;
    return NULL;
}

static struct ort_status *HasSessionConfigEntry(const struct ort_session_options *options,
                                                const char *key, int *has)
{
    *has = find_entry(options, key) != NULL;
    return NULL;
}

/* Texts are copied where there is room for them and their end. */
static struct ort_status *give_text(const char *text, char *out, size_t *bytes)
{
    const size_t needed = strlen(text) + 1, room = *bytes;
    *bytes = needed;
    if (needed > room)
        return fake_error(ORT_INVALID_ARGUMENT, "the buffer is too small");
    memcpy(out, text, needed);
    return NULL;
}

static struct ort_status *GetSessionConfigEntry(const struct ort_session_options *options,
                                                const char *key, char *value, size_t *bytes)
{
    return give_text(find_entry(options, key), value, bytes);
}

/* ---- tensors and shapes ---------------------------------------------------------------------- */

size_t fake_elements(const struct ort_value *value)
{
    size_t elements = 1;
    for (size_t i = 0; i < value->rank; i++)
        elements *= (size_t)value->dimensions[i];
    return elements;
}

size_t fake_element_bytes(int type)
{
    return type == ORT_TYPE_UINT8 ? 1 : type == ORT_TYPE_FLOAT16 ? 2 : 4;
}

static struct ort_status *GetTensorMutableData(struct ort_value *value, void **data)
{
    *data = value->data;
    return NULL;
}

static struct ort_status *GetTensorTypeAndShape(const struct ort_value *value,
                                                struct ort_shape **shape)
{
    *shape = malloc(sizeof **shape);
    (*shape)->value = *value;
    fake.shapes++;
    return NULL;
}

static void ReleaseTensorTypeAndShapeInfo(struct ort_shape *shape)
{
    fake.shapes -= shape != NULL;
    free(shape);
}

static struct ort_status *GetTensorElementType(const struct ort_shape *shape, int *type)
{
    *type = shape->value.type;
    return NULL;
}

static struct ort_status *GetDimensionsCount(const struct ort_shape *shape, size_t *count)
{
    *count = shape->value.rank;
    return NULL;
}

static struct ort_status *GetDimensions(const struct ort_shape *shape, int64_t *dimensions,
                                        size_t count)
{
    memcpy(dimensions, shape->value.dimensions, count * sizeof *dimensions);
    return NULL;
}

/* ---- kernels --------------------------------------------------------------------------------- */

static struct ort_status *KernelInfoGetAttribute_int64(const struct ort_kernel_info *info,
                                                       const char *name, int64_t *value)
{
    for (size_t i = 0; i < FAKE_ATTRIBUTES; i++)
        if (info->attributes[i].name != NULL && strcmp(info->attributes[i].name, name) == 0) {
            *value = info->attributes[i].value;
            return NULL;
        }
    return fake_error(ORT_FAIL, "no such attribute");
}

static struct ort_status *KernelInfo_GetInputCount(const struct ort_kernel_info *info,
                                                   size_t *count)
{
    *count = info->count;
    return NULL;
}

static struct ort_status *KernelInfo_GetInputName(const struct ort_kernel_info *info, size_t index,
                                                  char *name, size_t *bytes)
{
    return give_text(info->inputs[index] != NULL ? "input" : "", name, bytes);
}

static struct ort_status *KernelInfo_GetNodeName(const struct ort_kernel_info *info, char *name,
                                                 size_t *bytes)
{
    return give_text(info->name, name, bytes);
}

static struct ort_status *KernelInfo_GetLogger(const struct ort_kernel_info *info,
                                               const struct ort_logger **logger)
{
    (void)info;
    *logger = (const struct ort_logger *)(const void *)&fake;
    return NULL;
}

static struct ort_status *Logger_LogMessage(const struct ort_logger *logger, int level,
                                            const char *message, const char *file, int line,
                                            const char *function)
{
    (void)logger;
    (void)level;
    (void)file;
    (void)line;
    (void)function;
    (void)snprintf(fake.log, sizeof fake.log, "%s", message);
    fake.logged++;
    return NULL;
}

static struct ort_status *KernelInfoGetConstantInput_tensor(const struct ort_kernel_info *info,
                                                            size_t index, int *is_constant,
                                                            const struct ort_value **value)
{
    *is_constant = info->is_constant[index] && info->inputs[index] != NULL;
    *value = *is_constant != 0 ? info->inputs[index] : NULL;
    return NULL;
}

static struct ort_status *KernelContext_GetInputCount(const struct ort_kernel_context *context,
                                                      size_t *count)
{
    *count = context->count;
    return NULL;
}

static struct ort_status *KernelContext_GetInput(const struct ort_kernel_context *context,
                                                 size_t index, const struct ort_value **value)
{
    *value = context->inputs[index];
    return NULL;
}

static struct ort_status *KernelContext_GetOutput(struct ort_kernel_context *context, size_t index,
                                                  const int64_t *dimensions, size_t count,
                                                  struct ort_value **value)
{
    (void)index;
    if (fake.output_fails)
        return fake_error(ORT_FAIL, "no memory for an output");
    struct ort_value *y = &context->output;
    y->type = context->inputs[0]->type;
    y->rank = count;
    memcpy(y->dimensions, dimensions, count * sizeof *dimensions);
    y->data = malloc(fake_elements(y) * fake_element_bytes(y->type) + 1);
    *value = y;
    return NULL;
}

/* ---- loops ----------------------------------------------------------------------------------- */

struct loop {
    void (*task)(void *arg, size_t index);
    void *arg;
    atomic_size_t left; /* tasks run from the last to the first: any order is allowed */
};

static void *run_loop(void *argument)
{
    struct loop *loop = argument;
    for (size_t left = atomic_load(&loop->left); left > 0;)
        if (atomic_compare_exchange_weak(&loop->left, &left, left - 1)) {
            loop->task(loop->arg, left - 1);
            left = atomic_load(&loop->left);
        }
    return NULL;
}

static struct ort_status *KernelContext_ParallelFor(const struct ort_kernel_context *context,
                                                    void (*task)(void *arg, size_t index),
                                                    size_t total, size_t batches, void *arg)
{
    (void)context;
    (void)batches;
    struct loop loop = {.task = task, .arg = arg, .left = total};
    pthread_t threads[8];
    if (fake.loop_fails)
        return fake_error(ORT_FAIL, "no loops in this build");
    fake.loops++;
    for (size_t i = 1; i < fake.loop_threads; i++)
        (void)pthread_create(&threads[i], NULL, run_loop, &loop);
    (void)run_loop(&loop);
    for (size_t i = 1; i < fake.loop_threads; i++)
        (void)pthread_join(threads[i], NULL);
    return NULL;
}

/* ---- the table ------------------------------------------------------------------------------- */

void fake_not_there(void)
{
    (void)fprintf(stderr, "a slot was called that the plug-in says it does not use\n");
    abort();
}

static const struct ort_table *get_api(uint32_t version)
{
    static void (*slots[SLOTS])(void);
    for (size_t i = 0; i < SLOTS; i++)
        slots[i] = fake_not_there;
#define ROW(slot, result, name, parameters)                                                        \
    {                                                                                              \
        result(*function) parameters = name;                                                       \
        memcpy(&slots[slot], &function, sizeof function);                                          \
    }
    MB_ORT_SLOTS(ROW)
#undef ROW
    fake_fill_graph_slots(slots);
    return version <= fake.newest ? (const struct ort_table *)(const void *)slots : NULL;
}

static const char *get_version(void) { return "1.9.8"; }

const struct ort_base fake_base = {get_api, get_version};
