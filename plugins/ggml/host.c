/* SPDX-License-Identifier: Apache-2.0 */
/* Who loaded this plug-in, and whether its interface is one that is known.
 *
 * A host may have its libraries in the global scope or not (Python's extensions), under any path
 * and name, and a process may hold several copies. So nothing is linked: the object that called the
 * entry point is found, its libggml-base lies beside it, and functions are looked up there. Then
 * nothing is believed on a version's word alone: the size of a tensor is asked for, and the number
 * of slots in a buffer is read off one of the host's own buffers. */
#include "host.h"

#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mb_ggml_host mb_ggml_host;

enum { PATH_BYTES = 1024, OPS_SEARCHED = 64, OBJECT_BYTES = 32 };

static const char *const nothing_ops[] = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"};
static uint8_t ops[OPS_SEARCHED];
static bool known_types[256];
static void (*host_log)(int level, const char *format, ...);

void mb_ggml_log(int level, const char *format, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (host_log != NULL)
        host_log(level, "ggml-mixbit: %s\n", line);
    else
        (void)fprintf(stderr, "ggml-mixbit: %s\n", line);
}

/* ---- libraries --------------------------------------------------------------------------- */

struct search {
    char beside[PATH_BYTES]; /* the caller's folder, with its last slash */
    char found[PATH_BYTES];
    bool is_beside;
    size_t count;
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int look_at(struct dl_phdr_info *info, size_t bytes, void *argument)
{
    (void)bytes;
    struct search *search = argument;
    const char *path = info->dlpi_name, *name = base_name(path);
    if (strncmp(name, "libggml-base", 12) != 0 || strlen(path) >= PATH_BYTES || search->is_beside)
        return 0;
    search->is_beside = search->beside[0] != '\0' &&
                        strncmp(path, search->beside, strlen(search->beside)) == 0 &&
                        (size_t)(name - path) == strlen(search->beside);
    search->count++;
    (void)snprintf(search->found, sizeof search->found, "%s", path);
    return 0;
}

/* A handle to look functions up in; NULL: not to be told. RTLD_DEFAULT serves hosts that have ggml
 * inside the program itself. */
static bool find_library(const void *caller, void **library)
{
    struct search search = {.count = 0};
    Dl_info info;
    *library = RTLD_DEFAULT;
    if (dladdr(caller, &info) != 0 && info.dli_fname != NULL) {
        const int length = (int)(base_name(info.dli_fname) - info.dli_fname);
        (void)snprintf(search.beside, sizeof search.beside, "%.*s", length, info.dli_fname);
    }
    (void)dl_iterate_phdr(look_at, &search);
    if (search.count == 0)
        return true;
    if (search.count > 1 && !search.is_beside) {
        mb_ggml_log(GGML_LOG_ERROR,
                    "%zu copies of libggml-base are loaded, and none lies beside the library that "
                    "loads this plug-in: load one copy only",
                    search.count);
        return false;
    }
    /* Counted once more than it was; it stays loaded anyway, since ggml never unloads itself. */
    *library = dlopen(search.found, RTLD_LAZY | RTLD_NOLOAD);
    if (*library == NULL)
        *library = RTLD_DEFAULT;
    return true;
}

static bool find_functions(void *library)
{
    const char *missing = NULL;
    /* ISO C has no conversion from dlsym's result to a function: the bytes are copied. */
#define ROW(function, result, parameters)                                                          \
    {                                                                                              \
        void *symbol = dlsym(library, #function);                                                  \
        memcpy(&mb_ggml_host.function, &symbol, sizeof symbol);                                    \
        missing = symbol == NULL ? #function : missing;                                            \
    }
    MB_GGML_FUNCTIONS(ROW)
#undef ROW
    void *symbol = dlsym(library, "ggml_log_internal");
    memcpy(&host_log, &symbol, sizeof symbol);
    if (missing == NULL)
        return true;
    mb_ggml_log(GGML_LOG_ERROR,
                "this ggml has no function %s, so it is older than 0.9.1 or statically linked; "
                "needed is a llama.cpp of ggml 0.9.1 to 0.25.3 built with shared libraries",
                missing);
    return false;
}

/* ---- layout ------------------------------------------------------------------------------- */

static int parse_version(const char *text)
{
    int major, minor, patch;
    if (text == NULL || sscanf(text, "%d.%d.%d", &major, &minor, &patch) != 3 || major < 0 ||
        minor < 0 || patch < 0 || major > 99 || minor > 99 || patch > 99)
        return -1;
    return major * 10000 + minor * 100 + patch;
}

static bool find_layout(void)
{
    static const struct mb_ggml_layout layouts[] = {
#define ROW(...) {__VA_ARGS__},
        MB_GGML_LAYOUTS(ROW)
#undef ROW
    };
    const char *text = mb_ggml_host.ggml_version();
    const int version = parse_version(text);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (version >= layouts[i].first && version <= layouts[i].last) {
            mb_ggml_host.layout = layouts[i];
            return true;
        }
    mb_ggml_log(GGML_LOG_ERROR,
                "ggml %s is not one of the versions whose interface is known (0.9.1 to 0.25.3); "
                "look for a newer mixbit, or use such a llama.cpp",
                text != NULL ? text : "of unknown version");
    return false;
}

/* A buffer of the host's own holds its slots, then its type, its context and its size. */
static bool check_layout(void)
{
    enum { PROBE_BYTES = 4096 };
    const struct mb_ggml_host *host = &mb_ggml_host;
    struct ggml_buffer_type *type = host->ggml_backend_cpu_buffer_type();
    struct ggml_buffer *buffer =
        type != NULL ? host->ggml_backend_buft_alloc_buffer(type, PROBE_BYTES) : NULL;
    if (buffer == NULL) {
        mb_ggml_log(GGML_LOG_ERROR, "the host gives no buffer of %d bytes", (int)PROBE_BYTES);
        return false;
    }
    const uintptr_t *words = (const uintptr_t *)(const void *)buffer;
    int slots = 0;
    while (slots <= BUFFER_SLOTS && words[slots] != (uintptr_t)type)
        slots++;
    host->ggml_backend_buffer_free(buffer);
    const size_t tensor = host->ggml_tensor_overhead() - OBJECT_BYTES;
    if (slots == host->layout.buffer_slots && tensor == sizeof(struct ggml_tensor))
        return true;
    mb_ggml_log(GGML_LOG_ERROR,
                "ggml %s has another interface than that version has upstream (%d functions of a "
                "buffer, expected %d; a tensor of %zu bytes, expected %zu): a patched copy?",
                host->ggml_version(), slots, host->layout.buffer_slots, tensor,
                sizeof(struct ggml_tensor));
    return false;
}

/* The numbers of operations move with every new one, their names stay. The search ends at the last
 * that is wanted, so it never runs past the host's list. */
static bool find_ops(void)
{
    int wanted = 2 + (int)(sizeof nothing_ops / sizeof *nothing_ops);
    for (int op = 0; op < OPS_SEARCHED && wanted > 0; op++) {
        const char *name = mb_ggml_host.ggml_op_name(op);
        if (name == NULL)
            break;
        ops[op] = strcmp(name, "MUL_MAT") == 0      ? MB_GGML_OP_MUL_MAT
                  : strcmp(name, "MUL_MAT_ID") == 0 ? MB_GGML_OP_MUL_MAT_ID
                                                    : MB_GGML_OP_OTHER;
        for (size_t i = 0; i < sizeof nothing_ops / sizeof *nothing_ops; i++)
            if (strcmp(name, nothing_ops[i]) == 0)
                ops[op] = MB_GGML_OP_NOTHING;
        wanted -= ops[op] != MB_GGML_OP_OTHER;
    }
    if (wanted != 0)
        mb_ggml_log(GGML_LOG_ERROR, "this ggml lacks operations that every known version has");
    return wanted == 0;
}

static void find_types(void)
{
    const struct mb_format_info *info;
    for (size_t i = 0; (info = mb_format_at(i)) != NULL; i++) {
        const char *name = mb_ggml_host.ggml_type_name(info->id);
        if (info->block_k == 1 || name == NULL || strcmp(name, info->name) != 0)
            continue; /* floats are left to the host; an older host lacks the youngest types */
        known_types[info->id] = mb_ggml_host.ggml_type_size(info->id) == info->block_bytes &&
                                mb_ggml_host.ggml_blck_size(info->id) == (int64_t)info->block_k;
    }
}

bool mb_ggml_host_find(const void *caller)
{
    void *library;
    if (!find_library(caller, &library) || !find_functions(library) || !find_layout() ||
        !check_layout() || !find_ops())
        return false;
    find_types();
    return true;
}

enum mb_ggml_op mb_ggml_op_of(const struct ggml_tensor *node)
{
    return node->op >= 0 && node->op < OPS_SEARCHED ? (enum mb_ggml_op)ops[node->op]
                                                    : MB_GGML_OP_OTHER;
}

const struct mb_format_info *mb_ggml_format_of(int32_t type)
{
    const bool known = type >= 0 && (size_t)type < sizeof known_types && known_types[(size_t)type];
    return known ? mb_format_info((enum mb_format)type) : NULL;
}
