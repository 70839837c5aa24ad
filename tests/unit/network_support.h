/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the forward pass share: the small models, windows made by hand, plain f64
 * statistics to compare with. Include after cmocka.h. */
#ifndef MIXBIT_TESTS_NETWORK_SUPPORT_H
#define MIXBIT_TESTS_NETWORK_SUPPORT_H

#include "mixbit/model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ODD_MODEL "tests/golden/logits/odd-llama.gguf"
#define TINY_MODEL "models/tiny-llama.f16.gguf"
#define HYBRID_MODEL "models/tiny-hybrid.f16.gguf"

static inline struct mb_model *ns_open(const char *path)
{
    struct mb_model *model = NULL;
    struct mb_error error;
    if (mb_model_open(path, &model, &error) != MB_OK)
        fail_msg("%s", error.message);
    return model;
}

static inline size_t ns_index_of(const struct mb_model *model, const char *name)
{
    const struct mb_tensor *tensor = mb_model_tensor_find(model, name);
    assert_non_null(tensor);
    return (size_t)(tensor - mb_model_tensor_at(model, 0));
}

static inline struct mb_network *ns_network(struct mb_model *model, const enum mb_format *formats,
                                            enum mb_numerics numerics, struct mb_threads *threads)
{
    struct mb_network *network = NULL;
    struct mb_error error;
    if (mb_network_create_mix(model, formats, NULL, numerics, threads, NULL, &network, &error) !=
        MB_OK)
        fail_msg("%s", error.message);
    return network;
}

/* Windows of pseudo-random tokens below `vocabulary`; free with mb_windows_free. */
static inline struct mb_windows ns_windows(size_t count, size_t window, size_t vocabulary)
{
    struct mb_windows windows = {.count = count, .window = window, .text_hash = "hand-made"};
    uint32_t state = 5;
    windows.tokens = malloc(count * window * sizeof *windows.tokens);
    for (size_t i = 0; i < count * window; i++) {
        state = state * 1664525u + 1013904223u;
        windows.tokens[i] = (int32_t)((state >> 8) % vocabulary);
    }
    return windows;
}

/* Every tensor that may be quantized in one format, where its rows fit. */
static inline enum mb_format *ns_uniform(const struct mb_model *model, enum mb_format format)
{
    const size_t count = mb_model_tensor_count(model);
    enum mb_format *formats = malloc(count * sizeof *formats);
    for (size_t i = 0; i < count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        formats[i] = tensor->quantizable ? mb_format_fit(format, tensor->k) : MB_FORMAT_NONE;
    }
    return formats;
}

/* All logits from position `from` on, in one array. */
struct ns_logits {
    float *values;
    size_t per_window, vocabulary, from;
};
static inline int ns_keep(void *user, size_t window, size_t first, size_t count,
                          const float *logits, size_t vocabulary)
{
    struct ns_logits *all = user;
    all->vocabulary = vocabulary;
    memcpy(all->values + (window * all->per_window + first - all->from) * vocabulary, logits,
           count * vocabulary * sizeof *logits);
    return 0;
}
static inline float *ns_run(struct mb_network *network, const struct mb_windows *windows,
                            size_t from, size_t vocabulary)
{
    struct mb_error error;
    struct ns_logits all = {.per_window = windows->window - from, .from = from};
    all.values = calloc(windows->count * all.per_window * vocabulary, sizeof *all.values);
    if (mb_network_logits(network, windows, from, ns_keep, &all, &error) != MB_OK)
        fail_msg("%s", error.message);
    assert_int_equal(all.vocabulary, vocabulary);
    return all.values;
}

/* ln p of entry i, plainly. */
static inline double ns_log_p(const float *logits, size_t vocabulary, size_t i)
{
    double top = -INFINITY, sum = 0;
    for (size_t v = 0; v < vocabulary; v++)
        top = fmax(top, (double)logits[v]);
    for (size_t v = 0; v < vocabulary; v++)
        sum += exp((double)logits[v] - top);
    return (double)logits[i] - top - log(sum);
}

static inline double ns_kl(const float *p, const float *q, size_t vocabulary)
{
    double kl = 0;
    for (size_t v = 0; v < vocabulary; v++) {
        const double a = ns_log_p(p, vocabulary, v), b = ns_log_p(q, vocabulary, v);
        kl += exp(a) * (a - b);
    }
    return kl;
}

/* A name in the temporary folder that nothing is at yet. */
static inline void ns_temporary(char path[64])
{
    snprintf(path, 64, "%s", "/tmp/mixbit-test-XXXXXX");
    const int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    unlink(path);
}

#endif
