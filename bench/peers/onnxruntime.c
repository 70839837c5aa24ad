/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX Runtime through its C interface: MatMulNBits with groups of 32, int8 activations
 * (accuracy_level 4) and no zero points, which holds exactly the weights of q4_0 and q8_0.
 *
 * The interface is one table of function pointers that only ever grows at its end, asked for by
 * version: a slot that existed in the version asked for stays where it is. `slots` below names
 * those that are called. A session holds one copy of the weights, packed by the library; all
 * sessions share one pool of threads, as products of one model do. */
#include "bench/peers/onnx_model.h"
#include "bench/peers/peer.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    API_VERSION = 17,    /* the first with MatMulNBits on the CPU */
    SESSIONS_MOST = 512, /* a session takes megabytes and tens of milliseconds whatever it holds */
    LOG_ERRORS = 3,
    ELEMENT_FLOAT = 1,
    ALLOCATOR_ARENA = 1,
    MEMORY_DEFAULT = 0,
};

/* MB_EACH_SLOT(X): X(index, result, name, parameters). A status is NULL or has to be released. */
#define MB_EACH_SLOT(X)                                                                            \
    X(2, const char *, GetErrorMessage, (const void *status))                                      \
    X(8, void *, CreateSessionFromArray,                                                           \
      (void *environment, const void *model, size_t bytes, void *options, void **session))         \
    X(9, void *, Run,                                                                              \
      (void *session, const void *options, const char *const *input_names,                         \
       const void *const *inputs, size_t input_count, const char *const *output_names,             \
       size_t output_count, void **outputs))                                                       \
    X(10, void *, CreateSessionOptions, (void **options))                                          \
    X(49, void *, CreateTensorWithDataAsOrtValue,                                                  \
      (void *memory, void *data, size_t bytes, const int64_t *shape, size_t rank, int element,     \
       void **value))                                                                              \
    X(69, void *, CreateCpuMemoryInfo, (int allocator, int type, void **memory))                   \
    X(92, void, ReleaseEnv, (void *environment))                                                   \
    X(93, void, ReleaseStatus, (void *status))                                                     \
    X(95, void, ReleaseSession, (void *session))                                                   \
    X(96, void, ReleaseValue, (void *value))                                                       \
    X(100, void, ReleaseSessionOptions, (void *options))                                           \
    X(119, void *, CreateEnvWithGlobalThreadPools,                                                 \
      (int level, const char *name, const void *threading, void **environment))                    \
    X(120, void *, DisablePerSessionThreads, (void *options))                                      \
    X(121, void *, CreateThreadingOptions, (void **threading))                                     \
    X(122, void, ReleaseThreadingOptions, (void *threading))                                       \
    X(130, void *, AddSessionConfigEntry, (void *options, const char *key, const char *value))     \
    X(147, void *, SetGlobalIntraOpNumThreads, (void *threading, int threads))                     \
    X(148, void *, SetGlobalInterOpNumThreads, (void *threading, int threads))                     \
    X(254, const char *, GetBuildInfoString, (void))

#define MB_FIELD(index, result, name, parameters) result(*name) parameters;
#define MB_SLOT(index, result, name, parameters) {index, offsetof(struct functions, name)},
struct functions {
    MB_EACH_SLOT(MB_FIELD)
};
static const struct {
    size_t index, offset;
} slots[] = {MB_EACH_SLOT(MB_SLOT)};

struct api_base {
    const void *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};
struct entry {
    const struct api_base *(*get_base)(void);
};
static const struct mb_peer_symbol symbols[] = {
    {"OrtGetApiBase", offsetof(struct entry, get_base)}};

static struct {
    struct functions f;
    void *environment, *options, *memory;
    size_t threads;
} ort;

struct product {
    struct mb_peer_matrix matrix;
    void **sessions; /* [copies] */
    void *x, *y;
    size_t cursor;
};

/* Whether a call succeeded; its message goes to why (NULL allowed). */
static bool is_ok(void *status, char *why)
{
    if (status == NULL)
        return true;
    if (why != NULL)
        (void)mb_peer_refuse(why, "%s", ort.f.GetErrorMessage(status));
    ort.f.ReleaseStatus(status);
    return false;
}

static bool find_library(char path[MB_PEER_PATH], char why[MB_PEER_TEXT])
{
    static const char prefix[] = "libonnxruntime.so";
    const char *given = getenv("MIXBIT_ONNXRUNTIME");
    char package[MB_PEER_PATH - 8], folder[MB_PEER_PATH];
    if (given != NULL && given[0] != '\0') {
        if (mb_peer_is_folder(given) && !mb_peer_find_file(given, prefix, path))
            return mb_peer_refuse(why, "MIXBIT_ONNXRUNTIME=%s holds no libonnxruntime.so", given);
        if (!mb_peer_is_folder(given))
            snprintf(path, MB_PEER_PATH, "%s", given);
        return true;
    }
    if (mb_peer_python_folder("onnxruntime", folder)) {
        snprintf(package, sizeof package, "%.*s", (int)sizeof package - 1, folder);
        snprintf(folder, sizeof folder, "%s/capi", package);
        if (mb_peer_find_file(folder, prefix, path))
            return true;
    }
    return mb_peer_refuse(why, "not found: no Python package onnxruntime; install it, or set "
                               "MIXBIT_ONNXRUNTIME to libonnxruntime.so or its folder");
}

static bool open_onnxruntime(struct mb_peer_info *info, char why[MB_PEER_TEXT])
{
    struct entry entry;
    const char *missing;
    if (!find_library(info->path, why))
        return false;
    void *library = dlopen(info->path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return mb_peer_refuse(why, "cannot be opened: %s", dlerror());
    /* Never closed: the library keeps threads. */
    if (!mb_peer_bind_symbols(library, symbols, 1, &entry, &missing))
        return mb_peer_refuse(why, "%s is no ONNX Runtime: %s is missing", info->path, missing);
    const struct api_base *base = entry.get_base();
    const char *version = base->get_version();
    snprintf(info->version, sizeof info->version, "%s", version);
    unsigned major = 0, minor = 0;
    if (sscanf(version, "%u.%u", &major, &minor) != 2 || major != 1 || minor < API_VERSION)
        return mb_peer_refuse(why, "%s is version %s; this adapter needs 1.%d or a later 1.x",
                              info->path, version, API_VERSION);
    const char *api = base->get_api(API_VERSION);
    if (api == NULL)
        return mb_peer_refuse(why, "%s does not offer version %d of its interface", info->path,
                              API_VERSION);
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++)
        memcpy((char *)&ort.f + slots[i].offset, api + slots[i].index * sizeof(void *),
               sizeof(void *));
    snprintf(info->system, sizeof info->system, "%s; kernels chosen by CPUID at run time",
             ort.f.GetBuildInfoString());
    return true;
}

static bool has(enum mb_format format) { return mb_onnx_bits(format) != 0; }

/* The environment with its pool of threads, and how sessions are made. */
static bool start_threads(size_t threads, char why[MB_PEER_TEXT])
{
    void *threading = NULL;
    if (ort.environment != NULL && ort.threads == threads)
        return true;
    if (ort.environment != NULL)
        ort.f.ReleaseEnv(ort.environment);
    ort.environment = NULL;
    ort.threads = threads;
    bool ok = is_ok(ort.f.CreateThreadingOptions(&threading), why) &&
              is_ok(ort.f.SetGlobalIntraOpNumThreads(threading, (int)threads), why) &&
              is_ok(ort.f.SetGlobalInterOpNumThreads(threading, 1), why) &&
              is_ok(ort.f.CreateEnvWithGlobalThreadPools(LOG_ERRORS, "bench", threading,
                                                         &ort.environment),
                    why);
    if (threading != NULL)
        ort.f.ReleaseThreadingOptions(threading);
    if (ok && ort.options == NULL)
        ok = is_ok(ort.f.CreateCpuMemoryInfo(ALLOCATOR_ARENA, MEMORY_DEFAULT, &ort.memory), why) &&
             is_ok(ort.f.CreateSessionOptions(&ort.options), why) &&
             is_ok(ort.f.DisablePerSessionThreads(ort.options), why) &&
             /* weights outside the arena, which rounds up to powers of two */
             is_ok(ort.f.AddSessionConfigEntry(
                       ort.options, "session.use_device_allocator_for_initializers", "1"),
                   why);
    return ok;
}

static void unbind(struct product *p)
{
    if (p->x != NULL)
        ort.f.ReleaseValue(p->x);
    if (p->y != NULL)
        ort.f.ReleaseValue(p->y);
    p->x = p->y = NULL;
}

static void destroy(void *product)
{
    struct product *p = product;
    if (p == NULL)
        return;
    unbind(p);
    for (size_t i = 0; p->sessions != NULL && i < p->matrix.copies; i++)
        if (p->sessions[i] != NULL)
            ort.f.ReleaseSession(p->sessions[i]);
    free(p->sessions);
    free(p);
}

static void *create(size_t variant, const struct mb_peer_matrix *matrix, char why[MB_PEER_TEXT])
{
    unsigned char *model = NULL;
    size_t bytes;
    (void)variant;
    if (matrix->copies > SESSIONS_MOST) {
        (void)mb_peer_refuse(why,
                             "%zu copies of so small a matrix would take as many sessions, at most "
                             "%d: use a larger shape or --residency L2",
                             matrix->copies, SESSIONS_MOST);
        return NULL;
    }
    struct product *p = calloc(1, sizeof *p);
    bool ok = p != NULL && start_threads(matrix->threads, why);
    if (ok) {
        p->matrix = *matrix;
        p->sessions = calloc(matrix->copies, sizeof *p->sessions);
        ok = p->sessions != NULL &&
             mb_onnx_matmul(matrix->format, matrix->n, matrix->k, matrix->blocks, &model, &bytes);
        if (!ok)
            (void)mb_peer_refuse(why, "out of memory");
    }
    for (size_t i = 0; ok && i < matrix->copies; i++)
        ok = is_ok(ort.f.CreateSessionFromArray(ort.environment, model, bytes, ort.options,
                                                &p->sessions[i]),
                   why);
    free(model);
    if (ok)
        return p;
    destroy(p);
    return NULL;
}

static bool wrap(const float *values, size_t rows, size_t columns, void **value, char *why)
{
    const int64_t shape[] = {(int64_t)rows, (int64_t)columns};
    return is_ok(ort.f.CreateTensorWithDataAsOrtValue(ort.memory, (void *)(uintptr_t)values,
                                                      rows * columns * sizeof *values, shape, 2,
                                                      ELEMENT_FLOAT, value),
                 why);
}

static bool bind(void *product, const float *x, size_t m, float *y, char why[MB_PEER_TEXT])
{
    struct product *p = product;
    unbind(p);
    p->cursor = 0;
    return wrap(x, m, p->matrix.k, &p->x, why) && wrap(y, m, p->matrix.n, &p->y, why);
}

static bool run(void *product)
{
    static const char *const input = "x", *const output = "y";
    struct product *p = product;
    void *session = p->sessions[p->cursor];
    const void *inputs[] = {p->x};
    void *outputs[] = {p->y};
    p->cursor = p->cursor + 1 < p->matrix.copies ? p->cursor + 1 : 0;
    return is_ok(ort.f.Run(session, NULL, &input, inputs, 1, &output, 1, outputs), NULL);
}

static const char *const variant_names[] = {"MatMulNBits"};

const struct mb_peer mb_peer_onnxruntime = {
    .name = "onnxruntime",
    .note = "MatMulNBits of 4 and 8 bits beside q4_0 and q8_0: the same groups of 32, codes and "
            "scales; its scales take 32 bits, ours 16",
    .variants = 1,
    .variant_names = variant_names,
    .open = open_onnxruntime,
    .has = has,
    .create = create,
    .bind = bind,
    .run = run,
    .destroy = destroy,
};
