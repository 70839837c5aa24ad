/* SPDX-License-Identifier: Apache-2.0 */
/* Windows without a text: token ids from a file, random ones, or what the model says itself.
 *
 * For settings in which no text may be had. Random tokens need nothing but the vocabulary, and are
 * unlike anything that the model will see; what it says when it continues a random first token at
 * temperature 1 is from its own distribution (the way of LLM-QAT, arXiv 2305.17888, section 3.1).
 * How well losses on either agree with those on text: docs/sensing.md. */
#include "model/network.h"
#include "model/tokenizer.h"
#include "support/support.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN_FILE = 1 << 29 };

/* Tokens that stand for text: neither control nor unused ones. */
struct choice {
    int32_t *ids;
    size_t count;
    size_t vocabulary;
    int32_t bos; /* -1: none */
};

/* Tokens that there are; a file without a tokenizer has them in its embedding alone. */
static size_t vocabulary_of(const struct mb_model *model)
{
    const struct mb_tensor *embedding = mb_model_tensor_find(model, "token_embd.weight");
    const size_t named = mb_model_array_count(model, "tokenizer.ggml.tokens");
    return named > 0 || embedding == NULL ? named : embedding->n;
}

static enum mb_status find_bos(const struct mb_model *model, int32_t *bos, struct mb_error *error)
{
    struct mb_tokenizer *tokenizer;
    *bos = -1;
    if (mb_model_array_count(model, "tokenizer.ggml.tokens") == 0)
        return MB_OK;
    const enum mb_status status = mb_tokenizer_create(model, &tokenizer, error);
    if (status == MB_OK)
        *bos = mb_tokenizer_bos(tokenizer);
    mb_tokenizer_destroy(tokenizer);
    return status;
}

static enum mb_status choice_init(struct choice *choice, const struct mb_model *model,
                                  struct mb_error *error)
{
    *choice = (struct choice){.vocabulary = vocabulary_of(model)};
    const enum mb_status status = find_bos(model, &choice->bos, error);
    if (status != MB_OK)
        return status;
    choice->ids = malloc((choice->vocabulary + 1) * sizeof *choice->ids);
    if (choice->ids == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a vocabulary");
    const bool typed =
        mb_model_array_count(model, "tokenizer.ggml.token_type") >= choice->vocabulary;
    for (size_t id = 0; id < choice->vocabulary; id++) {
        const int type = typed ? (int)mb_model_array_number(model, "tokenizer.ggml.token_type", id)
                               : MB_TOKEN_NORMAL;
        if ((int32_t)id != choice->bos &&
            (type == MB_TOKEN_NORMAL || type == MB_TOKEN_USER_DEFINED || type == MB_TOKEN_BYTE))
            choice->ids[choice->count++] = (int32_t)id;
    }
    return choice->count > 0
               ? MB_OK
               : mb_error_set(error, MB_ERR_FILE, -1,
                              "'%s': its vocabulary has no token that stands for text",
                              mb_model_path(model));
}

static enum mb_status windows_init(struct mb_windows *windows, const struct mb_model *model,
                                   size_t window, size_t count, struct mb_error *error)
{
    *windows = (struct mb_windows){.window = window == 0 ? mb_default_window(model) : window,
                                   .count = count == 0 ? MB_MADE_WINDOWS : count};
    size_t tokens;
    if (mb_mul_size(windows->count, windows->window, &tokens) &&
        tokens <= SIZE_MAX / sizeof *windows->tokens)
        windows->tokens = malloc(tokens * sizeof *windows->tokens);
    return windows->tokens != NULL
               ? MB_OK
               : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu windows of %zu",
                              windows->count, windows->window);
}

static void seal(struct mb_windows *windows)
{
    mb_hash_bytes(windows->tokens, windows->count * windows->window * sizeof *windows->tokens,
                  windows->text_hash);
}

enum mb_status mb_windows_random(const struct mb_model *model, size_t window, size_t count,
                                 uint64_t seed, struct mb_windows *windows, struct mb_error *error)
{
    struct choice choice;
    *windows = (struct mb_windows){0};
    enum mb_status status = choice_init(&choice, model, error);
    if (status == MB_OK)
        status = windows_init(windows, model, window, count, error);
    for (size_t i = 0; status == MB_OK && i < windows->count * windows->window; i++)
        windows->tokens[i] = i % windows->window == 0 && choice.bos >= 0
                                 ? choice.bos
                                 : choice.ids[mb_random_below(&seed, choice.count)];
    if (status == MB_OK)
        seal(windows);
    free(choice.ids);
    return status;
}

/* ---- what the model says ---- */

/* A token by its probability, of those that are allowed. */
static int32_t draw(const struct choice *choice, const float *logits, uint64_t *state)
{
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < choice->count; i++)
        most = fmax(most, (double)logits[choice->ids[i]]);
    for (size_t i = 0; i < choice->count; i++)
        sum += exp((double)logits[choice->ids[i]] - most);
    double left = (double)(mb_random_next(state) >> 11) / 9007199254740992.0 * sum;
    for (size_t i = 0; i < choice->count; i++) {
        left -= exp((double)logits[choice->ids[i]] - most);
        if (left < 0)
            return choice->ids[i];
    }
    return choice->ids[choice->count - 1];
}

static enum mb_status speak(struct mb_run *run, const struct choice *choice, float *logits,
                            uint64_t *state, int32_t *tokens, size_t window)
{
    enum mb_status status = MB_OK;
    size_t given = 0;
    memset(run->cache->data, 0, run->cache->bytes);
    if (choice->bos >= 0)
        tokens[given++] = choice->bos;
    if (given < window)
        tokens[given++] = choice->ids[mb_random_below(state, choice->count)];
    for (size_t t = 0; t + 1 < window && status == MB_OK; t++) {
        run->ids = tokens + t;
        run->past = t;
        status = mb_run_steps(run, 0, run->network->step_count);
        if (status != MB_OK || t + 1 < given)
            continue;
        status = mb_run_head(run, 0, 1, logits);
        tokens[t + 1] = draw(choice, logits, state);
    }
    return status;
}

enum mb_status mb_windows_generate(struct mb_network *network, size_t window, size_t count,
                                   uint64_t seed, const struct mb_progress *progress,
                                   struct mb_windows *windows, struct mb_error *error)
{
    struct choice choice;
    struct mb_run *run = NULL;
    struct mb_cache cache = {0};
    float *logits = mb_alloc_aligned(network->vocabulary * sizeof *logits);
    *windows = (struct mb_windows){0};
    enum mb_status status = choice_init(&choice, network->model, error);
    if (status == MB_OK && choice.vocabulary > network->vocabulary)
        status = mb_error_set(
            error, MB_ERR_FILE, -1, "'%s': the tokenizer has %zu tokens, the output %zu",
            mb_model_path(network->model), choice.vocabulary, network->vocabulary);
    if (status == MB_OK)
        status = windows_init(windows, network->model, window, count, error);
    if (status == MB_OK)
        status = mb_run_create(network, 1, windows->window, &run, error);
    if (status == MB_OK &&
        (logits == NULL || mb_cache_create(network, windows->window, &cache) != MB_OK))
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a model's own text");
    for (size_t w = 0; w < windows->count && status == MB_OK; w++) {
        run->cache = &cache;
        run->sequences = run->tokens = 1;
        if (mb_progress_report(progress, (double)w, (double)windows->count, "") != MB_OK) {
            status = mb_error_set(error, MB_ERR_INTERRUPTED, -1,
                                  "interrupted while the model wrote its text");
            break;
        }
        status = speak(run, &choice, logits, &seed, windows->tokens + w * windows->window,
                       windows->window);
        if (status != MB_OK)
            (void)mb_error_set(error, status, -1, "cannot run the model: %s",
                               mb_status_string(status));
    }
    if (status == MB_OK)
        seal(windows);
    else
        mb_windows_free(windows);
    mb_cache_free(&cache);
    mb_run_destroy(run);
    mb_free_aligned(logits);
    free(choice.ids);
    return status;
}

/* ---- token files ---- */

/* Numbers in decimal, with anything but digits between them; how many. */
static size_t read_ids(const char *text, size_t vocabulary, int32_t *ids, size_t *wrong)
{
    size_t count = 0;
    *wrong = 0;
    while (*(text += strcspn(text, "-0123456789")) != '\0') {
        char *end;
        errno = 0;
        const long long id = strtoll(text, &end, 10);
        if (end == text || errno != 0 || id < 0 || (unsigned long long)id >= vocabulary) {
            *wrong = count + 1;
            return count;
        }
        ids[count++] = (int32_t)id;
        text = end;
    }
    return count;
}

enum mb_status mb_windows_load_tokens(const struct mb_model *model, const char *path, size_t window,
                                      size_t max_windows, struct mb_windows *windows,
                                      struct mb_error *error)
{
    char *text = NULL;
    size_t bytes, wrong;
    const size_t vocabulary = vocabulary_of(model);
    *windows = (struct mb_windows){.window = window == 0 ? mb_default_window(model) : window};
    enum mb_status status = mb_file_read(path, MAX_TOKEN_FILE, &text, &bytes, error);
    if (status != MB_OK)
        return status;
    windows->tokens = malloc((bytes / 2 + 1) * sizeof *windows->tokens);
    if (windows->tokens == NULL) {
        free(text);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokens of '%s'", path);
    }
    mb_hash_bytes(text, bytes, windows->text_hash);
    const size_t count = read_ids(text, vocabulary, windows->tokens, &wrong);
    windows->count = count / windows->window;
    if (wrong > 0)
        status = mb_error_set(error, MB_ERR_FILE, -1,
                              "'%s': token %zu is no id of the model's vocabulary of %zu", path,
                              wrong, vocabulary);
    else if (windows->count == 0)
        status = mb_error_set(error, MB_ERR_FILE, -1,
                              "'%s' has %zu tokens, at least %zu are needed (one window)", path,
                              count, windows->window);
    if (max_windows > 0 && windows->count > max_windows)
        windows->count = max_windows;
    free(text);
    if (status != MB_OK)
        mb_windows_free(windows);
    return status;
}
