/* SPDX-License-Identifier: Apache-2.0 */
/* Byte-level byte-pair encoding (tokenizer.ggml.model "gpt2").
 *
 * In the file a token's bytes are spelled as printable characters: bytes that print stand for
 * themselves, the other 68 for U+0100 and following. Here tokens and merges are turned back into
 * raw bytes once, so that text needs no spelling out: symbols are bytes of the text itself. */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static bool prints(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

/* byte[c]: the byte that character U+0000 + c spells, -1 for none. */
struct spelling {
    int16_t byte[0x144];
};

static struct spelling make_spelling(void)
{
    struct spelling s;
    for (size_t c = 0; c < 0x144; c++)
        s.byte[c] = -1;
    int16_t other = 0x100;
    for (int16_t byte = 0; byte < 256; byte++)
        s.byte[prints((unsigned)byte) ? byte : other++] = byte;
    return s;
}

/* The raw bytes of a spelled token; returns their number, or SIZE_MAX when some character spells no
 * byte (such a token is never found in text). */
static size_t unspell(const struct spelling *s, const uint8_t *text, size_t bytes, uint8_t *raw)
{
    size_t count = 0;
    for (size_t at = 0; at < bytes; at++) {
        unsigned c = text[at];
        if (c >= 0x80) {
            if (c < 0xc2 || c > 0xc5 || at + 1 == bytes || (text[at + 1] & 0xc0) != 0x80)
                return SIZE_MAX;
            c = (c & 0x1fu) << 6 | (text[++at] & 0x3fu);
        }
        if (c >= 0x144 || s->byte[c] < 0)
            return SIZE_MAX;
        raw[count++] = (uint8_t)s->byte[c];
    }
    return count;
}

static enum mb_status no_memory(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokenizer");
}

static bool add_tokens(const struct spelling *s, const struct mb_vocabulary *vocabulary,
                       struct mb_text_table *table)
{
    const struct mb_gguf_pair *pair = vocabulary->tokens;
    uint8_t *raw = malloc(pair->value_bytes + 1);
    if (raw == NULL || !mb_text_table_create(table, vocabulary->count, pair->value_bytes)) {
        free(raw);
        return false;
    }
    for (size_t i = 0; i < vocabulary->count; i++) {
        size_t bytes;
        const char *text = mb_gguf_element_string(pair, i, &bytes);
        const size_t length = unspell(s, (const uint8_t *)text, bytes, raw);
        if (length != SIZE_MAX && length > 0)
            mb_text_table_put(table, raw, length, 0, (int32_t)i, true);
    }
    free(raw);
    return true;
}

/* "left right" in the order of their ranks; the first of two equal ones counts. */
static bool add_merges(const struct spelling *s, const struct mb_gguf_pair *pair,
                       struct mb_text_table *table)
{
    uint8_t *raw = malloc(pair->value_bytes + 1);
    if (raw == NULL || !mb_text_table_create(table, (size_t)pair->count, pair->value_bytes)) {
        free(raw);
        return false;
    }
    for (size_t i = 0; i < pair->count; i++) {
        size_t bytes;
        const uint8_t *text = (const uint8_t *)mb_gguf_element_string(pair, i, &bytes);
        const uint8_t *space = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
        if (space == NULL)
            continue;
        const size_t left = unspell(s, text, (size_t)(space - text), raw);
        if (left == SIZE_MAX)
            continue;
        const size_t right = unspell(s, space + 1, bytes - (size_t)(space - text) - 1, raw + left);
        if (right != SIZE_MAX)
            mb_text_table_put(table, raw, left + right, (uint32_t)left, (int32_t)i, false);
    }
    free(raw);
    return true;
}

enum mb_status mb_bpe_create(const struct mb_model *model, const struct mb_vocabulary *vocabulary,
                             const struct mb_split_rule *rule, struct mb_tokenizer *tokenizer,
                             struct mb_error *error)
{
    const struct mb_gguf_pair *merges = mb_gguf_find(model, "tokenizer.ggml.merges");
    if (merges == NULL || merges->type != MB_GGUF_ARRAY || merges->element != MB_GGUF_STRING ||
        merges->count > INT32_MAX)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s': tokenizer.ggml.merges is missing or no list of strings; convert "
                            "the model anew",
                            vocabulary->path);
    const struct spelling s = make_spelling();
    if (!add_tokens(&s, vocabulary, &tokenizer->tokens) ||
        !add_merges(&s, merges, &tokenizer->merges))
        return no_memory(error);
    tokenizer->whole_words = rule->whole_words;
    return mb_split_create(rule, &tokenizer->split, error);
}

static bool rank(const struct mb_tokenizer *tokenizer, const uint8_t *text, size_t left,
                 size_t length, double *priority)
{
    const int32_t found = mb_text_table_get(&tokenizer->merges, text, length, (uint32_t)left);
    *priority = -(double)found;
    return found >= 0;
}

/* A symbol that is no token: its printing ASCII characters may be tokens, the rest is lost, as in
 * llama.cpp. Vocabularies that hold all 256 bytes never come here. */
static bool add_bytes(const struct mb_tokenizer *tokenizer, const uint8_t *text, size_t bytes,
                      struct mb_ids *ids)
{
    for (size_t i = 0; i < bytes; i++) {
        const int32_t id = text[i] < 0x80 && prints(text[i])
                               ? mb_text_table_get(&tokenizer->tokens, text + i, 1, 0)
                               : -1;
        if (id >= 0 && !mb_ids_add(ids, id))
            return false;
    }
    return true;
}

static bool encode_word(const struct mb_tokenizer *tokenizer, struct mb_merger *merger,
                        const uint8_t *word, size_t bytes, struct mb_ids *ids)
{
    if (tokenizer->whole_words) {
        const int32_t id = mb_text_table_get(&tokenizer->tokens, word, bytes, 0);
        if (id >= 0)
            return mb_ids_add(ids, id);
    }
    if (!mb_merge(merger, word, bytes, false))
        return false;
    for (int32_t i = 0; i >= 0; i = merger->symbols[i].next) {
        const struct mb_symbol *symbol = &merger->symbols[i];
        const uint8_t *text = word + symbol->start;
        const int32_t id = mb_text_table_get(&tokenizer->tokens, text, symbol->length, 0);
        if (!(id >= 0 ? mb_ids_add(ids, id) : add_bytes(tokenizer, text, symbol->length, ids)))
            return false;
    }
    return true;
}

/* ---- UTF-8 ---- */

/* One character, leniently: overlong forms and surrogates pass; anything else that is malformed is
 * one byte long and reads as U+FFFD. */
static uint32_t take_character(const uint8_t *text, size_t bytes, size_t *at)
{
    const uint8_t lead = text[(*at)++];
    if (lead < 0x80)
        return lead;
    const size_t more = lead < 0xc0 || lead >= 0xf8 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (more == 0 || more > bytes - *at)
        return 0xfffd;
    uint32_t c = lead & (0x3fu >> more);
    for (size_t i = 0; i < more; i++) {
        if ((text[*at + i] & 0xc0) != 0x80)
            return 0xfffd;
        c = c << 6 | (text[*at + i] & 0x3fu);
    }
    *at += more;
    return c <= 0x10ffff ? c : 0xfffd;
}

static size_t put_character(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    const size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (uint8_t)(lead[more] | c >> (6 * more));
    for (size_t i = 1; i <= more; i++)
        out[i] = (uint8_t)(0x80 | (c >> (6 * (more - i)) & 0x3f));
    return more + 1;
}

/* The text as the vocabulary sees it, and as PCRE2 may see it: there, lone surrogates (equally
 * long, equally neither letter, number nor space) are U+FFFD. Returns the length of both. */
static size_t clean_text(const uint8_t *text, size_t bytes, uint8_t *seen, uint8_t *matched)
{
    size_t length = 0;
    for (size_t at = 0; at < bytes;) {
        const uint32_t c = take_character(text, bytes, &at);
        (void)put_character(c >= 0xd800 && c < 0xe000 ? 0xfffd : c, matched + length);
        length += put_character(c, seen + length);
    }
    return length;
}

enum mb_status mb_bpe_encode(const struct mb_tokenizer *tokenizer, const uint8_t *text,
                             size_t bytes, struct mb_ids *ids, struct mb_error *error)
{
    struct mb_merger merger = {.priority = rank, .tokenizer = tokenizer};
    struct mb_span *spans = NULL;
    size_t count = 0, room;
    uint8_t *seen = NULL, *matched = NULL;
    enum mb_status status = MB_OK;
    if (mb_mul_size(bytes, 3, &room)) { /* a stray byte becomes U+FFFD's three */
        seen = malloc(room + 1);
        matched = malloc(room + 1);
    }
    if (seen == NULL || matched == NULL) {
        status = no_memory(error);
        goto out;
    }
    const size_t length = clean_text(text, bytes, seen, matched);
    status = mb_split_text(tokenizer->split, matched, length, &spans, &count, error);
    for (size_t i = 0; i < count && status == MB_OK; i++)
        if (!encode_word(tokenizer, &merger, seen + spans[i].start, spans[i].end - spans[i].start,
                         ids))
            status = no_memory(error);
out:
    free(seen);
    free(matched);
    free(spans);
    mb_merger_free(&merger);
    return status;
}
