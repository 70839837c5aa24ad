/* SPDX-License-Identifier: Apache-2.0 */
/* The ggml that loaded this plug-in: its functions, its layout, its numbers. */
#ifndef MIXBIT_PLUGIN_GGML_HOST_H
#define MIXBIT_PLUGIN_GGML_HOST_H

#include "ggml_abi.h"
#include "mixbit/mixbit.h"

/* One row per function of libggml-base that is called: name, result, parameters. */
#define MB_GGML_FUNCTIONS(ROW)                                                                     \
    ROW(ggml_version, const char *, (void))                                                        \
    ROW(ggml_op_name, const char *, (int32_t op))                                                  \
    ROW(ggml_type_name, const char *, (int32_t type))                                              \
    ROW(ggml_type_size, size_t, (int32_t type))                                                    \
    ROW(ggml_blck_size, int64_t, (int32_t type))                                                   \
    ROW(ggml_nbytes, size_t, (const struct ggml_tensor *))                                         \
    ROW(ggml_tensor_overhead, size_t, (void))                                                      \
    ROW(ggml_graph_n_nodes, int, (struct ggml_graph *))                                            \
    ROW(ggml_graph_node, struct ggml_tensor *, (struct ggml_graph *, int i))                       \
    ROW(ggml_backend_cpu_buffer_type, struct ggml_buffer_type *, (void))                           \
    ROW(ggml_backend_buft_is_host, bool, (struct ggml_buffer_type *))                              \
    ROW(ggml_backend_buft_alloc_buffer, struct ggml_buffer *, (struct ggml_buffer_type *, size_t)) \
    ROW(ggml_backend_buffer_free, void, (struct ggml_buffer *))                                    \
    ROW(ggml_backend_buffer_get_type, struct ggml_buffer_type *, (struct ggml_buffer *))           \
    ROW(ggml_backend_buffer_get_size, size_t, (struct ggml_buffer *))                              \
    ROW(ggml_backend_buffer_init, struct ggml_buffer *, (void))

enum mb_ggml_op {
    MB_GGML_OP_OTHER,
    MB_GGML_OP_NOTHING, /* leaves and views */
    MB_GGML_OP_MUL_MAT,
    MB_GGML_OP_MUL_MAT_ID,
};

struct mb_ggml_host {
#define ROW(name, result, parameters) result(*name) parameters;
    MB_GGML_FUNCTIONS(ROW)
#undef ROW
    struct mb_ggml_layout layout;
};

/* Filled by mb_ggml_host_find; constant afterwards. */
extern struct mb_ggml_host mb_ggml_host;

/* Find the ggml that `caller`, an address in its code, belongs to, and check it; false, with the
 * reason logged: this plug-in does not know it. */
bool mb_ggml_host_find(const void *caller);

enum mb_ggml_op mb_ggml_op_of(const struct ggml_tensor *node);
/* The block format that the host stores under this type, as this library knows it; NULL: none, or
 * one whose name or size differs. */
const struct mb_format_info *mb_ggml_format_of(int32_t type);
/* To the host's log where it has one, else to stderr. */
void mb_ggml_log(int level, const char *format, ...) MB_PRINTF(2, 3);

#endif
