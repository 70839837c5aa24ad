/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of the interface, exported from the test program: a buffer is a table of slots, a
 * type, a context and a size, as in ggml. */
#include "fake_ggml.h"
#include "mixbit/format.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct fake_settings fake = {FAKE_VERSION, sizeof(struct ggml_tensor), false, -1};
char fake_log[16384];

void fake_log_clear(void) { fake_log[0] = '\0'; }

EXPORT void ggml_log_internal(int level, const char *format, ...);
void ggml_log_internal(int level, const char *format, ...)
{
    (void)level;
    const size_t used = strlen(fake_log);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(fake_log + used, sizeof fake_log - used, format, arguments);
    va_end(arguments);
}

EXPORT const char *ggml_version(void);
const char *ggml_version(void) { return fake.version; }

EXPORT const char *ggml_op_name(int32_t op);
const char *ggml_op_name(int32_t op)
{
    static const char *const views[] = {"CONT", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"};
    if (op == FAKE_OP_NONE)
        return "NONE";
    if (op == FAKE_OP_MUL_MAT && !fake.lacks_mul_mat)
        return "MUL_MAT";
    if (op == FAKE_OP_MUL_MAT_ID)
        return "MUL_MAT_ID";
    if (op >= FAKE_OP_VIEW - 2 && op <= FAKE_OP_VIEW + 2)
        return views[op - FAKE_OP_VIEW + 2];
    return op < 90 ? "OTHER" : NULL;
}

EXPORT const char *ggml_type_name(int32_t type);
const char *ggml_type_name(int32_t type)
{
    const struct mb_format_info *info = mb_format_info((enum mb_format)type);
    return type == fake.renamed_type ? "q9_K" : info != NULL ? info->name : "NONE";
}

EXPORT size_t ggml_type_size(int32_t type);
size_t ggml_type_size(int32_t type)
{
    const struct mb_format_info *info = mb_format_info((enum mb_format)type);
    return info != NULL ? info->block_bytes : 4;
}

EXPORT int64_t ggml_blck_size(int32_t type);
int64_t ggml_blck_size(int32_t type)
{
    const struct mb_format_info *info = mb_format_info((enum mb_format)type);
    return info != NULL ? (int64_t)info->block_k : 1;
}

EXPORT size_t ggml_nbytes(const struct ggml_tensor *tensor);
size_t ggml_nbytes(const struct ggml_tensor *tensor)
{
    return tensor->nb[3] * (size_t)tensor->ne[3];
}

EXPORT size_t ggml_tensor_overhead(void);
size_t ggml_tensor_overhead(void) { return fake.tensor_bytes + 32; }

EXPORT int ggml_graph_n_nodes(struct ggml_graph *graph);
int ggml_graph_n_nodes(struct ggml_graph *graph)
{
    return ((struct fake_graph *)(void *)graph)->count;
}

EXPORT struct ggml_tensor *ggml_graph_node(struct ggml_graph *graph, int i);
struct ggml_tensor *ggml_graph_node(struct ggml_graph *graph, int i)
{
    return ((struct fake_graph *)(void *)graph)->nodes[i];
}

/* ---- buffers ------------------------------------------------------------------------------ */

/* Table, type, context, size, usage. */
static void **words_of(struct ggml_buffer *buffer) { return (void **)(void *)buffer; }

mb_ggml_fn fake_buffer_slot(struct ggml_buffer *buffer, int i)
{
    mb_ggml_fn function;
    memcpy(&function, words_of(buffer) + i, sizeof function);
    return function;
}

static struct ggml_buffer *make_buffer(struct ggml_buffer_type *type, const mb_ggml_fn *slots,
                                       int count, void *context, size_t size)
{
    void **words = calloc((size_t)count + 4, sizeof *words);
    if (words == NULL)
        return NULL;
    memcpy(words, slots, (size_t)count * sizeof *words);
    words[count] = type;
    words[count + 1] = context;
    memcpy(&words[count + 2], &size, sizeof size);
    return (struct ggml_buffer *)(void *)words;
}

EXPORT struct ggml_buffer *ggml_backend_buffer_init(struct ggml_buffer_type *type, fake_table table,
                                                    void *context, size_t size);
struct ggml_buffer *ggml_backend_buffer_init(struct ggml_buffer_type *type, fake_table table,
                                             void *context, size_t size)
{
    return make_buffer(type, table.slot, FAKE_SLOTS, context, size);
}

EXPORT void ggml_backend_buffer_free(struct ggml_buffer *buffer);
void ggml_backend_buffer_free(struct ggml_buffer *buffer)
{
    if (buffer == NULL)
        return;
    const mb_ggml_fn function = fake_buffer_slot(buffer, SLOT_FREE_BUFFER);
    if (function != NULL)
        ((void (*)(struct ggml_buffer *))function)(buffer);
    free(buffer);
}

EXPORT struct ggml_buffer_type *ggml_backend_buffer_get_type(struct ggml_buffer *buffer);
struct ggml_buffer_type *ggml_backend_buffer_get_type(struct ggml_buffer *buffer)
{
    return words_of(buffer)[FAKE_SLOTS];
}

EXPORT size_t ggml_backend_buffer_get_size(struct ggml_buffer *buffer);
size_t ggml_backend_buffer_get_size(struct ggml_buffer *buffer)
{
    return (size_t)words_of(buffer)[FAKE_SLOTS + 2];
}

static struct ggml_buffer *alloc_host(struct ggml_buffer_type *type, size_t size)
{
    static const mb_ggml_fn none[FAKE_SLOTS];
    return make_buffer(type, none, FAKE_SLOTS, NULL, size);
}

static bool yes(struct ggml_buffer_type *type)
{
    (void)type;
    return true;
}

EXPORT struct ggml_buffer_type *ggml_backend_cpu_buffer_type(void);
struct ggml_buffer_type *ggml_backend_cpu_buffer_type(void)
{
    static struct ggml_buffer_type type = {.alloc_buffer = alloc_host, .is_host = yes};
    return &type;
}

EXPORT bool ggml_backend_buft_is_host(struct ggml_buffer_type *type);
bool ggml_backend_buft_is_host(struct ggml_buffer_type *type)
{
    return type->is_host != NULL && type->is_host(type);
}

EXPORT struct ggml_buffer *ggml_backend_buft_alloc_buffer(struct ggml_buffer_type *type,
                                                          size_t size);
struct ggml_buffer *ggml_backend_buft_alloc_buffer(struct ggml_buffer_type *type, size_t size)
{
    return type->alloc_buffer(type, size);
}

struct ggml_buffer *fake_host_buffer(size_t size)
{
    return alloc_host(ggml_backend_cpu_buffer_type(), size);
}

struct ggml_tensor fake_tensor(int32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
    const size_t block = ggml_type_size(type);
    struct ggml_tensor t = {.type = type, .ne = {n0, n1, n2, n3}, .flags = GGML_FLAG_COMPUTE};
    t.nb[0] = block;
    t.nb[1] = block * (size_t)(n0 / ggml_blck_size(type));
    t.nb[2] = t.nb[1] * (size_t)n1;
    t.nb[3] = t.nb[2] * (size_t)n2;
    return t;
}
