/* SPDX-License-Identifier: Apache-2.0 */
/* A host that stands in for ggml: the functions that the plug-in looks up. FAKE_SLOTS is the layout
 * that the program is compiled with, 9 (ggml 0.9) or 11; what it says of itself is a test's choice.
 */
#ifndef MIXBIT_TEST_FAKE_GGML_H
#define MIXBIT_TEST_FAKE_GGML_H

#include "plugins/ggml/ggml_abi.h"

#if FAKE_SLOTS == 9
#define FAKE_VERSION "0.9.7"
#define FAKE_OTHER_VERSION "0.25.3"
typedef struct ggml_buffer_9 fake_table;
#else
#define FAKE_VERSION "0.25.3"
#define FAKE_OTHER_VERSION "0.9.7"
typedef struct ggml_buffer_11 fake_table;
#endif

struct fake_settings {
    const char *version;
    size_t tensor_bytes;
    bool lacks_mul_mat;
    int32_t renamed_type; /* its name is another one here; -1: none */
};

extern struct fake_settings fake;
/* What the plug-in has logged since the last call of fake_log_clear. */
extern char fake_log[16384];
void fake_log_clear(void);

enum {
    FAKE_OP_NONE = 0,
    FAKE_OP_ADD = 2,
    FAKE_OP_MUL_MAT = 29,
    FAKE_OP_MUL_MAT_ID,
    FAKE_OP_VIEW = 38,
};

struct fake_graph {
    struct ggml_tensor *nodes[32];
    int count;
};

/* Slot `i` of a buffer. */
mb_ggml_fn fake_buffer_slot(struct ggml_buffer *buffer, int i);
/* A buffer of the host's own, without memory. */
struct ggml_buffer *fake_host_buffer(size_t size);
/* A tensor of the given shape, contiguous, not allocated. */
struct ggml_tensor fake_tensor(int32_t type, int64_t n0, int64_t n1, int64_t n2, int64_t n3);

#endif
