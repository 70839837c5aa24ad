/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece's byte-pair encoding (tokenizer.ggml.model "llama").
 *
 * Spaces become U+2581; symbols start as characters; of all adjacent pairs whose union is a token,
 * the one with the highest score is merged first. A character that is no token is spelled in byte
 * tokens <0xXX>. */
#include "model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t space_sign[3] = {0xe2, 0x96, 0x81};

static enum mb_status no_memory(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokenizer");
}

/* The token of a byte: <0xXX>, else the byte itself, else the unknown token. */
static void find_bytes(struct mb_tokenizer *tokenizer, int32_t unknown)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        (void)snprintf(name, sizeof name, "<0x%02X>", byte);
        const uint8_t itself = (uint8_t)byte;
        int32_t id = mb_text_table_get(&tokenizer->tokens, (const uint8_t *)name, 6, 0);
        if (id < 0)
            id = mb_text_table_get(&tokenizer->tokens, &itself, 1, 0);
        tokenizer->bytes[byte] = id < 0 ? unknown : id;
    }
}

enum mb_status mb_spm_create(const struct mb_model *model, const struct mb_vocabulary *vocabulary,
                             struct mb_tokenizer *tokenizer, struct mb_error *error)
{
    const struct mb_gguf_pair *tokens = vocabulary->tokens;
    tokenizer->scores = calloc(vocabulary->count, sizeof *tokenizer->scores);
    if (tokenizer->scores == NULL ||
        !mb_text_table_create(&tokenizer->tokens, vocabulary->count, tokens->value_bytes))
        return no_memory(error);
    for (size_t i = 0; i < vocabulary->count; i++) {
        size_t bytes;
        const char *text = mb_gguf_element_string(tokens, i, &bytes);
        if (bytes > 0)
            mb_text_table_put(&tokenizer->tokens, (const uint8_t *)text, bytes, 0, (int32_t)i,
                              true);
        if (vocabulary->scores != NULL)
            tokenizer->scores[i] = (float)mb_gguf_element_number(vocabulary->scores, i);
    }
    const uint64_t unknown = mb_model_uint(model, "tokenizer.ggml.unknown_token_id", 0);
    find_bytes(tokenizer, unknown < vocabulary->count ? (int32_t)unknown : 0);
    tokenizer->space_prefix = mb_model_uint(model, "tokenizer.ggml.add_space_prefix", 1) != 0;
    return MB_OK;
}

static bool score(const struct mb_tokenizer *tokenizer, const uint8_t *text, size_t left,
                  size_t length, double *priority)
{
    (void)left;
    const int32_t id = mb_text_table_get(&tokenizer->tokens, text, length, 0);
    if (id < 0)
        return false;
    *priority = (double)tokenizer->scores[id];
    return true;
}

/* Spaces replaced, one put in front when wanted; returns the new length. */
static size_t mark_spaces(const uint8_t *text, size_t bytes, bool prefix, uint8_t *out)
{
    size_t length = 0;
    if (prefix) {
        memcpy(out, space_sign, sizeof space_sign);
        length = sizeof space_sign;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            memcpy(out + length, space_sign, sizeof space_sign);
            length += sizeof space_sign;
        } else {
            out[length++] = text[i];
        }
    }
    return length;
}

enum mb_status mb_spm_encode(const struct mb_tokenizer *tokenizer, const uint8_t *text,
                             size_t bytes, struct mb_ids *ids, struct mb_error *error)
{
    struct mb_merger merger = {.priority = score, .tokenizer = tokenizer};
    size_t room;
    uint8_t *marked = mb_mul_size(bytes, sizeof space_sign, &room) ? malloc(room + 3) : NULL;
    enum mb_status status = MB_OK;
    if (marked == NULL)
        return no_memory(error);
    const size_t length = mark_spaces(text, bytes, tokenizer->space_prefix, marked);
    if (!mb_merge(&merger, marked, length, true)) {
        status = no_memory(error);
        goto out;
    }
    for (int32_t i = 0; i >= 0; i = merger.symbols[i].next) {
        const struct mb_symbol *symbol = &merger.symbols[i];
        const uint8_t *at = marked + symbol->start;
        const int32_t id = mb_text_table_get(&tokenizer->tokens, at, symbol->length, 0);
        bool added = true;
        if (id >= 0)
            added = mb_ids_add(ids, id);
        for (uint32_t b = 0; id < 0 && b < symbol->length && added; b++)
            added = mb_ids_add(ids, tokenizer->bytes[at[b]]);
        if (!added) {
            status = no_memory(error);
            goto out;
        }
    }
out:
    free(marked);
    mb_merger_free(&merger);
    return status;
}
