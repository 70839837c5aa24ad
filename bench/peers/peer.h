/* SPDX-License-Identifier: Apache-2.0 */
/* A peer: somebody else's library that multiplies by the same weights on this machine.
 *
 * Peers are found when they are asked for and opened with dlopen, so nothing here has to be there
 * to build or to install; what isn't found says why. An adapter knows its library's public C
 * interface and nothing of timing; match.c lets ours and theirs take turns. */
#ifndef MIXBIT_BENCH_PEER_H
#define MIXBIT_BENCH_PEER_H

#include "mixbit/format.h"

#include <stdbool.h>
#include <stddef.h>

enum { MB_PEER_TEXT = 400, MB_PEER_VARIANTS = 2, MB_PEER_PATH = 1024 };

/* What a peer says of itself once it is open. */
struct mb_peer_info {
    char version[64];
    char path[MB_PEER_PATH];   /* of the library that was opened */
    char system[MB_PEER_TEXT]; /* instruction sets it was built for or found, in its own words */
};

/* y[m][n] = x[m][k] * w[n][k]^T by `copies` equal matrices in turn. */
struct mb_peer_matrix {
    enum mb_format format;
    size_t n, k, copies;
    size_t threads;     /* the caller's included */
    const void *blocks; /* n rows of GGUF bytes; read by create only */
};

struct mb_peer {
    const char *name;
    const char *note; /* what a reader must know to compare; NULL: like for like */
    size_t variants;  /* ways to lay out weights, at most MB_PEER_VARIANTS; the better one counts */
    const char *const *variant_names;

    /* Find and open the library, once. false: `why` says what was looked for and what is wrong. */
    bool (*open)(struct mb_peer_info *info, char why[MB_PEER_TEXT]);
    bool (*has)(enum mb_format format);
    /* Copies of the weights in the layout of a variant; NULL: `why` says what is missing. */
    void *(*create)(size_t variant, const struct mb_peer_matrix *matrix, char why[MB_PEER_TEXT]);
    /* The next products read m rows of x and write m rows of y (64-byte aligned, the caller's). */
    bool (*bind)(void *product, const float *x, size_t m, float *y, char why[MB_PEER_TEXT]);
    /* One product with the next copy; false when the library reports a failure. */
    bool (*run)(void *product);
    /* Ask idle threads to sleep instead of polling; NULL: they do so by themselves. */
    void (*rest)(void *product);
    void (*destroy)(void *product); /* NULL allowed */
};

/* Every adapter, NULL behind the last. */
extern const struct mb_peer *const mb_peers[];
extern const struct mb_peer mb_peer_ggml, mb_peer_onnxruntime;
/* ggml behind the table of dispatch/backend.h, for mb_backend_register. */
struct mb_backend;
extern const struct mb_backend mb_backend_ggml;

/* ---- for adapters ---- */

struct mb_peer_symbol {
    const char *name;
    size_t offset; /* of the function pointer in the adapter's table */
};

/* Fill `functions` with the addresses of `symbols`; false: *missing is the first that isn't there.
 */
bool mb_peer_bind_symbols(void *library, const struct mb_peer_symbol *symbols, size_t count,
                          void *functions, const char **missing);

/* Folder of an installed Python package (not imported), e.g. ".../site-packages/llama_cpp". */
bool mb_peer_python_folder(const char *package, char path[MB_PEER_PATH]);

/* The first file in `folder` that begins with `prefix`, shortest name first. */
bool mb_peer_find_file(const char *folder, const char *prefix, char path[MB_PEER_PATH]);

bool mb_peer_is_folder(const char *path);

/* why = formatted text, cut to its size. Returns false, for `return mb_peer_refuse(...)`. */
bool mb_peer_refuse(char why[MB_PEER_TEXT], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
