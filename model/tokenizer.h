/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the tokenizers: the pieces that byte-level BPE and SentencePiece share.
 *
 * Both start from small symbols and repeatedly merge the best adjacent pair. They differ in what
 * is best (a merge's rank, a token's score), in how the text is split beforehand, and in what
 * happens to symbols that are no tokens. */
#ifndef MIXBIT_TOKENIZER_H
#define MIXBIT_TOKENIZER_H

#include "mixbit/model.h"
#include "model/gguf.h"

/* A set of byte strings with numbers: (bytes, salt) -> value. Bytes are kept in one arena. */
struct mb_text_entry {
    size_t offset;
    uint32_t length, salt, hash;
    int32_t value; /* -1: a free slot */
};
struct mb_text_table {
    struct mb_text_entry *entries; /* a power of two, at most half full */
    size_t capacity;
    uint8_t *arena;
    size_t arena_used, arena_bytes;
    uint32_t longest;
};
/* Room for `count` entries of `bytes` in all; false when out of memory. */
bool mb_text_table_create(struct mb_text_table *table, size_t count, size_t bytes);
void mb_text_table_free(struct mb_text_table *table);
void mb_text_table_put(struct mb_text_table *table, const uint8_t *bytes, size_t length,
                       uint32_t salt, int32_t value, bool replace);
int32_t mb_text_table_get(const struct mb_text_table *table, const uint8_t *bytes, size_t length,
                          uint32_t salt); /* -1: absent */

/* Token ids, growing. */
struct mb_ids {
    int32_t *ids;
    size_t count, room;
};
bool mb_ids_add(struct mb_ids *ids, int32_t id);

/* How a pre-split name cuts text and what else llama.cpp ties to that name. */
struct mb_split_rule {
    const char *names; /* of tokenizer.ggml.pre, separated by spaces */
    const char *patterns[4];
    bool whole_words; /* a piece that is a token is not taken apart */
    bool adds_bos;    /* when the file does not say */
    bool has_bos;     /* a BOS id may be assumed when the file names none */
};
const struct mb_split_rule *mb_split_find(const char *pre);

/* Compiled patterns. */
struct mb_split;
enum mb_status mb_split_create(const struct mb_split_rule *rule, struct mb_split **split,
                               struct mb_error *error);
void mb_split_destroy(struct mb_split *split);
struct mb_span {
    size_t start, end;
};
/* Cut well-formed UTF-8 into spans that cover it; free(*spans). */
enum mb_status mb_split_text(const struct mb_split *split, const uint8_t *text, size_t bytes,
                             struct mb_span **spans, size_t *count, struct mb_error *error);

enum mb_token_type {
    MB_TOKEN_NORMAL = 1,
    MB_TOKEN_UNKNOWN = 2,
    MB_TOKEN_CONTROL = 3,
    MB_TOKEN_USER_DEFINED = 4,
    MB_TOKEN_UNUSED = 5,
    MB_TOKEN_BYTE = 6
};

/* A token that is cut out of the text before anything else. */
struct mb_special {
    const uint8_t *text; /* in mb_tokenizer.special_arena */
    size_t length;
    int32_t id;
};

struct mb_tokenizer {
    bool is_bpe;
    struct mb_text_table tokens; /* BPE: as raw bytes; SentencePiece: as in the file */
    int32_t bos;
    struct mb_special *specials; /* longest first */
    size_t special_count;
    uint8_t *special_arena;
    /* BPE */
    struct mb_text_table merges; /* salt: length of the left part; value: rank */
    struct mb_split *split;
    bool whole_words;
    /* SentencePiece */
    float *scores;
    int32_t bytes[256]; /* the token of each byte, or the unknown token */
    bool space_prefix;
};

/* What the vocabulary's arrays hold, checked against each other. */
struct mb_vocabulary {
    const char *path;
    const struct mb_gguf_pair *tokens, *scores, *types; /* scores, types may be NULL */
    size_t count;
};

/* tokenizer_bpe.c, tokenizer_spm.c: fill the tokenizer; encode one stretch of text. */
enum mb_status mb_bpe_create(const struct mb_model *model, const struct mb_vocabulary *vocabulary,
                             const struct mb_split_rule *rule, struct mb_tokenizer *tokenizer,
                             struct mb_error *error);
enum mb_status mb_bpe_encode(const struct mb_tokenizer *tokenizer, const uint8_t *text,
                             size_t bytes, struct mb_ids *ids, struct mb_error *error);
enum mb_status mb_spm_create(const struct mb_model *model, const struct mb_vocabulary *vocabulary,
                             struct mb_tokenizer *tokenizer, struct mb_error *error);
/* The text's begin or a token that was cut out precedes each stretch, so each gets the prefix. */
enum mb_status mb_spm_encode(const struct mb_tokenizer *tokenizer, const uint8_t *text,
                             size_t bytes, struct mb_ids *ids, struct mb_error *error);

/* tokenizer_merge.c: merge adjacent symbols of a text, best first, until none can be merged;
 * O(n log n). */
struct mb_symbol {
    uint32_t start, length;
    int32_t previous, next; /* -1: none */
};
struct mb_candidate {
    double priority;
    int32_t left, right;
    uint32_t length; /* of both; a candidate whose symbols have changed since is stale */
};
struct mb_merger {
    struct mb_symbol *symbols;
    size_t symbol_room;
    struct mb_candidate *heap;
    size_t heap_count, heap_room;
    /* Whether text[0..length), cut at `left`, may be merged; higher priorities merge earlier. */
    bool (*priority)(const struct mb_tokenizer *tokenizer, const uint8_t *text, size_t left,
                     size_t length, double *priority);
    const struct mb_tokenizer *tokenizer;
};
/* Symbols: one per byte, or one per UTF-8 character (told from lead bytes alone). The result is the
 * list that starts at symbol 0. False when out of memory. */
bool mb_merge(struct mb_merger *merger, const uint8_t *text, size_t bytes, bool by_character);
void mb_merger_free(struct mb_merger *merger);

#endif
