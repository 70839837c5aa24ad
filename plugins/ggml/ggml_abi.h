/* SPDX-License-Identifier: Apache-2.0 */
/* What this plug-in knows of ggml's binary interface, as far as it uses it, and for which versions.
 *
 * ggml installs no header of its backend interface, and the interface changes between versions that
 * carry one API number: against a user's headers a plug-in would serve that user's build only. So
 * the few structs are restated here, and the tables of functions, which is what changes, are
 * arrays of slots that are filled by number. One binary then serves every version in
 * MB_GGML_LAYOUTS; what can be asked of the host at run time (numbers of operations, names and
 * sizes of types) is asked (host.c), and any other host is refused. */
#ifndef MIXBIT_PLUGIN_GGML_ABI_H
#define MIXBIT_PLUGIN_GGML_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A function of any type: cast to the right one before a call. */
typedef void (*mb_ggml_fn)(void);

enum {
    GGML_API_VERSION = 2,
    GGML_DEVICE_ACCEL = 3, /* 0 CPU, 1 GPU, 2 integrated GPU */
    GGML_USAGE_WEIGHTS = 1,
    GGML_OK = 0,
    GGML_FAILED = -1,
    GGML_NO_MEMORY = -2,
    GGML_ABORTED = 1,
    GGML_LOG_INFO = 2,
    GGML_LOG_WARN = 3,
    GGML_LOG_ERROR = 4,
    GGML_TYPE_F32 = 0,
    GGML_TYPE_I32 = 26,
    GGML_FLAG_COMPUTE = 16,
    GGML_DIMS = 4,
    GGML_SOURCES = 10,
    /* Longest tables of all versions. */
    BUFFER_SLOTS = 11,
    BACKEND_SLOTS = 16,
};

struct ggml_buffer;
struct ggml_graph;

struct ggml_tensor {
    int32_t type;
    struct ggml_buffer *buffer;
    int64_t ne[GGML_DIMS]; /* elements, the innermost dimension first */
    size_t nb[GGML_DIMS];  /* strides in bytes */
    int32_t op;
    int32_t op_params[16];
    int32_t flags;
    struct ggml_tensor *src[GGML_SOURCES];
    struct ggml_tensor *view_src;
    size_t view_offs;
    void *data;
    char name[64];
    void *extra;
    char padding[8];
};

/* Tables whose slots are the same in all versions. */
struct ggml_buffer_type {
    const char *(*get_name)(struct ggml_buffer_type *);
    struct ggml_buffer *(*alloc_buffer)(struct ggml_buffer_type *, size_t size);
    size_t (*get_alignment)(struct ggml_buffer_type *);
    size_t (*get_max_size)(struct ggml_buffer_type *);
    size_t (*get_alloc_size)(struct ggml_buffer_type *, const struct ggml_tensor *);
    bool (*is_host)(struct ggml_buffer_type *);
    struct ggml_device *device;
    void *context;
};

/* The head of a record that the host has cleared; what follows are capabilities, all false. */
struct ggml_device_props {
    const char *name, *description;
    size_t memory_free, memory_total;
    int32_t type;
    const char *device_id;
};

struct ggml_device {
    const char *(*get_name)(struct ggml_device *);
    const char *(*get_description)(struct ggml_device *);
    void (*get_memory)(struct ggml_device *, size_t *free, size_t *total);
    int32_t (*get_type)(struct ggml_device *);
    void (*get_props)(struct ggml_device *, struct ggml_device_props *);
    void *(*init_backend)(struct ggml_device *, const char *params);
    struct ggml_buffer_type *(*get_buffer_type)(struct ggml_device *);
    struct ggml_buffer_type *(*get_host_buffer_type)(struct ggml_device *);
    mb_ggml_fn buffer_from_host_ptr;
    bool (*supports_op)(struct ggml_device *, const struct ggml_tensor *op);
    bool (*supports_buft)(struct ggml_device *, struct ggml_buffer_type *);
    bool (*offload_op)(struct ggml_device *, const struct ggml_tensor *op);
    mb_ggml_fn event_new, event_free, event_synchronize;
    struct ggml_reg *reg;
    void *context;
};

struct ggml_reg {
    int32_t api_version;
    const char *(*get_name)(struct ggml_reg *);
    size_t (*get_device_count)(struct ggml_reg *);
    struct ggml_device *(*get_device)(struct ggml_reg *, size_t index);
    mb_ggml_fn (*get_proc_address)(struct ggml_reg *, const char *name);
    void *context;
};

/* The functions of a buffer: passed by value, so their number is part of the call. */
struct ggml_buffer_9 {
    mb_ggml_fn slot[9];
};
struct ggml_buffer_11 {
    mb_ggml_fn slot[11];
};

/* A backend starts with its identity; the table is followed by two pointers. */
struct ggml_backend_head {
    uint8_t (*guid)[16];
    mb_ggml_fn slot[BACKEND_SLOTS + 2]; /* then device and context, right behind the last slot */
};

/* Slots with the same number everywhere. */
enum { SLOT_FREE_BUFFER, SLOT_GET_BASE, SLOT_INIT_TENSOR, SLOT_MEMSET, SLOT_SET, SLOT_GET };
enum { SLOT_BACKEND_NAME, SLOT_BACKEND_FREE };

/* One row per run of ggml versions with one layout: first and last version (major * 10000 + minor *
 * 100 + patch), slots of a buffer and its `clear`; slots of a backend and its `graph_compute`;
 * whether nodes say that they are to be computed. Read in the sources of every release from 0.9.1
 * to 0.21.0, of 0.15.1 and 0.25.3 as llama.cpp carries them; run with 0.25.3. 0.10.0 put transfers
 * of rows into the middle of both tables. */
#define MB_GGML_LAYOUTS(ROW)                                                                       \
    ROW(901, 905, 9, 7, 14, 10, false)                                                             \
    ROW(906, 911, 9, 7, 14, 10, true)                                                              \
    ROW(1000, 2503, 11, 9, 16, 12, true)

struct mb_ggml_layout {
    int first, last;
    int buffer_slots, clear;
    int backend_slots, graph_compute;
    bool compute_flag;
};

#endif
