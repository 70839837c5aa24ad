/* SPDX-License-Identifier: Apache-2.0 */
/* Cuts a text into token windows the way llama.cpp's perplexity tool does: one newline at the very
 * end is dropped, windows are consecutive and independent, BOS overwrites the first token of each.
 */
#include "model/network.h"
#include "support/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USUAL_WINDOW = 512, MAX_TEXT_BYTES = 1 << 29 };

size_t mb_default_window(const struct mb_model *model)
{
    char key[160];
    (void)snprintf(key, sizeof key, "%.100s.context_length", mb_model_architecture(model));
    const uint64_t context = mb_model_uint(model, key, USUAL_WINDOW);
    return context > 0 && context < USUAL_WINDOW ? (size_t)context : USUAL_WINDOW;
}

static enum mb_status cut_windows(const int32_t *ids, size_t count, int32_t bos, size_t max_windows,
                                  const char *text_path, struct mb_windows *windows,
                                  struct mb_error *error)
{
    const size_t window = windows->window;
    windows->count = count / window;
    if (windows->count == 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s' has %zu tokens, at least %zu are needed (one window); give a "
                            "longer text or a smaller window",
                            text_path, count, window);
    if (max_windows > 0 && windows->count > max_windows)
        windows->count = max_windows;
    windows->tokens = malloc(windows->count * window * sizeof *windows->tokens);
    if (windows->tokens == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokens of '%s'",
                            text_path);
    memcpy(windows->tokens, ids, windows->count * window * sizeof *windows->tokens);
    for (size_t w = 0; w < windows->count && bos >= 0; w++)
        windows->tokens[w * window] = bos;
    return MB_OK;
}

enum mb_status mb_windows_load(const struct mb_model *model, const char *text_path, size_t window,
                               size_t max_windows, struct mb_windows *windows,
                               struct mb_error *error)
{
    *windows = (struct mb_windows){.window = window == 0 ? mb_default_window(model) : window};
    struct mb_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t bytes = 0, count = 0;
    int32_t *ids = NULL;
    enum mb_status status = mb_file_read(text_path, MAX_TEXT_BYTES, &text, &bytes, error);
    if (status == MB_OK)
        status = mb_tokenizer_create(model, &tokenizer, error);
    if (status != MB_OK)
        goto out;
    mb_hash_bytes(text, bytes, windows->text_hash);
    if (bytes > 0 && text[bytes - 1] == '\n')
        bytes--;
    status = mb_tokenize(tokenizer, text, bytes, &ids, &count, error);
    if (status == MB_OK)
        status = cut_windows(ids, count, mb_tokenizer_bos(tokenizer), max_windows, text_path,
                             windows, error);
out:
    mb_tokenizer_destroy(tokenizer);
    free(text);
    free(ids);
    if (status != MB_OK)
        mb_windows_free(windows);
    return status;
}

void mb_windows_free(struct mb_windows *windows)
{
    free(windows->tokens);
    *windows = (struct mb_windows){.count = 0};
}
