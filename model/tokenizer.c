/* SPDX-License-Identifier: Apache-2.0 */
/* Text to token ids, as llama.cpp's perplexity tool turns a whole file into them: BOS in front when
 * the model wants it, control tokens spelled out in the text are plain text, user-defined tokens
 * are cut out first (longer ones before shorter ones), what lies between goes to the encoder. */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT_BYTES = 1 << 29 }; /* symbols and their tripled UTF-8 are indexed by 32 bits */

static enum mb_status no_memory(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokenizer");
}

/* ---- token types ---- */

/* llama.cpp takes some tokens for control tokens by their text alone, whatever the file says, the
 * last group only when the file does not name such a token itself. */
static const struct {
    const char *text, *unless_key;
} control_texts[] = {
    {"<|eot_id|>", NULL},
    {"<|im_end|>", NULL},
    {"<|end|>", NULL},
    {"<|return|>", NULL},
    {"<|call|>", NULL},
    {"<|flush|>", NULL},
    {"<|calls|>", NULL},
    {"<end_of_turn>", NULL},
    {"<|endoftext|>", NULL},
    {"</s>", NULL},
    {"<|eom_id|>", NULL},
    {"<EOT>", NULL},
    {"_<EOT>", NULL},
    {"[EOT]", NULL},
    {"[EOS]", NULL},
    {"<|end_of_text|>", NULL},
    {"<end_of_utterance>", NULL},
    {"<eos>", NULL},
    {"<turn|>", NULL},
    {"<|tool_response>", NULL},
    {"[e~[", NULL},
    {"<|fim_prefix|>", "tokenizer.ggml.fim_pre_token_id"},
    {"<fim-prefix>", "tokenizer.ggml.fim_pre_token_id"},
    {"<fim_prefix>", "tokenizer.ggml.fim_pre_token_id"},
    {"<PRE>", "tokenizer.ggml.fim_pre_token_id"},
    {"<|code_prefix|>", "tokenizer.ggml.fim_pre_token_id"},
    {"<|fim_suffix|>", "tokenizer.ggml.fim_suf_token_id"},
    {"<fim-suffix>", "tokenizer.ggml.fim_suf_token_id"},
    {"<fim_suffix>", "tokenizer.ggml.fim_suf_token_id"},
    {"<SUF>", "tokenizer.ggml.fim_suf_token_id"},
    {"<|code_suffix|>", "tokenizer.ggml.fim_suf_token_id"},
    {"<|fim_middle|>", "tokenizer.ggml.fim_mid_token_id"},
    {"<fim-middle>", "tokenizer.ggml.fim_mid_token_id"},
    {"<fim_middle>", "tokenizer.ggml.fim_mid_token_id"},
    {"<MID>", "tokenizer.ggml.fim_mid_token_id"},
    {"<|code_middle|>", "tokenizer.ggml.fim_mid_token_id"},
    {"<|fim_pad|>", "tokenizer.ggml.fim_pad_token_id"},
    {"<fim-pad>", "tokenizer.ggml.fim_pad_token_id"},
    {"<fim_pad>", "tokenizer.ggml.fim_pad_token_id"},
    {"<PAD>", "tokenizer.ggml.fim_pad_token_id"},
    {"[PAD]", "tokenizer.ggml.fim_pad_token_id"},
    {"<|fim_repo|>", "tokenizer.ggml.fim_rep_token_id"},
    {"<|repo_name|>", "tokenizer.ggml.fim_rep_token_id"},
    {"<fim-repo>", "tokenizer.ggml.fim_rep_token_id"},
    {"<REPO>", "tokenizer.ggml.fim_rep_token_id"},
    {"<reponame>", "tokenizer.ggml.fim_rep_token_id"},
    {"<|file_sep|>", "tokenizer.ggml.fim_sep_token_id"},
};

/* And these for user-defined ones. */
static const char *const user_defined_texts[] = {"<|channel|>", "<|message|>", "<|start|>",
                                                 "<|constrain|>"};

static bool is_text(const char *text, size_t bytes, const char *other)
{
    return strlen(other) == bytes && memcmp(text, other, bytes) == 0;
}

static bool is_user_defined(const struct mb_model *model, const char *text, size_t bytes,
                            int32_t type)
{
    for (size_t i = 0; i < sizeof user_defined_texts / sizeof user_defined_texts[0]; i++)
        if (is_text(text, bytes, user_defined_texts[i]))
            return true;
    if (type != MB_TOKEN_USER_DEFINED)
        return false;
    for (size_t i = 0; i < sizeof control_texts / sizeof control_texts[0]; i++)
        if (is_text(text, bytes, control_texts[i].text) &&
            (control_texts[i].unless_key == NULL ||
             mb_gguf_find(model, control_texts[i].unless_key) == NULL))
            return false;
    return true;
}

static int compare_specials(const void *a, const void *b)
{
    const struct mb_special *left = a, *right = b;
    if (left->length != right->length)
        return left->length > right->length ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static enum mb_status find_specials(const struct mb_model *model,
                                    const struct mb_vocabulary *vocabulary,
                                    struct mb_tokenizer *tokenizer, struct mb_error *error)
{
    if (vocabulary->types == NULL)
        return MB_OK;
    for (int pass = 0; pass < 2; pass++) { /* count, then copy */
        size_t count = 0, used = 0;
        for (size_t i = 0; i < vocabulary->count; i++) {
            size_t bytes;
            const char *text = mb_gguf_element_string(vocabulary->tokens, i, &bytes);
            const int32_t type = (int32_t)mb_gguf_element_number(vocabulary->types, i);
            if (bytes == 0 || !is_user_defined(model, text, bytes, type))
                continue;
            if (pass == 1) {
                uint8_t *copy = tokenizer->special_arena + used;
                memcpy(copy, text, bytes);
                tokenizer->specials[count] = (struct mb_special){copy, bytes, (int32_t)i};
            }
            count++;
            used += bytes;
        }
        if (pass == 1 || count == 0)
            break;
        tokenizer->special_count = count;
        tokenizer->specials = malloc(count * sizeof *tokenizer->specials);
        tokenizer->special_arena = malloc(used);
        if (tokenizer->specials == NULL || tokenizer->special_arena == NULL)
            return no_memory(error);
    }
    if (tokenizer->special_count > 1)
        qsort(tokenizer->specials, tokenizer->special_count, sizeof *tokenizer->specials,
              compare_specials);
    return MB_OK;
}

/* ---- creating ---- */

static bool is_array_of(const struct mb_gguf_pair *pair, uint32_t a, uint32_t b)
{
    return pair->type == MB_GGUF_ARRAY && (pair->element == a || pair->element == b);
}

static enum mb_status read_vocabulary(const struct mb_model *model,
                                      struct mb_vocabulary *vocabulary, struct mb_error *error)
{
    *vocabulary = (struct mb_vocabulary){
        .path = mb_model_path(model),
        .tokens = mb_gguf_find(model, "tokenizer.ggml.tokens"),
        .scores = mb_gguf_find(model, "tokenizer.ggml.scores"),
        .types = mb_gguf_find(model, "tokenizer.ggml.token_type"),
    };
    const struct mb_vocabulary *v = vocabulary;
    if (v->tokens == NULL || !is_array_of(v->tokens, MB_GGUF_STRING, MB_GGUF_STRING) ||
        v->tokens->count == 0 || v->tokens->count > INT32_MAX)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s': tokenizer.ggml.tokens is missing, empty or no list of strings; "
                            "convert the model anew",
                            v->path);
    vocabulary->count = (size_t)v->tokens->count;
    if (v->scores != NULL &&
        (!is_array_of(v->scores, MB_GGUF_F32, MB_GGUF_I32) || v->scores->count < v->tokens->count))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s': tokenizer.ggml.scores is no list of one number per token; "
                            "convert the model anew",
                            v->path);
    if (v->types != NULL &&
        (!is_array_of(v->types, MB_GGUF_I32, MB_GGUF_I32) || v->types->count < v->tokens->count))
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s': tokenizer.ggml.token_type is no list of one int32 per token; "
                            "convert the model anew",
                            v->path);
    return MB_OK;
}

static enum mb_status choose_bos(const struct mb_model *model,
                                 const struct mb_vocabulary *vocabulary, bool wanted,
                                 uint64_t usual, int32_t *bos, struct mb_error *error)
{
    *bos = -1;
    if (mb_model_uint(model, "tokenizer.ggml.add_bos_token", wanted) == 0)
        return MB_OK;
    const uint64_t id = mb_model_uint(model, "tokenizer.ggml.bos_token_id", usual);
    if (id >= vocabulary->count)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "'%s' wants a BOS token, but tokenizer.ggml.bos_token_id is missing or "
                            "outside of the %zu tokens; convert the model anew",
                            vocabulary->path, vocabulary->count);
    *bos = (int32_t)id;
    return MB_OK;
}

static enum mb_status create_bpe(const struct mb_model *model,
                                 const struct mb_vocabulary *vocabulary,
                                 struct mb_tokenizer *tokenizer, struct mb_error *error)
{
    const char *pre = mb_model_string(model, "tokenizer.ggml.pre", NULL);
    if (pre == NULL || pre[0] == '\0') {
        mb_log(MB_LOG_WARNING,
               "'%s' names no tokenizer.ggml.pre; the 'default' rule is used, as "
               "llama.cpp does",
               vocabulary->path);
        pre = "default";
    }
    const struct mb_split_rule *rule = mb_split_find(pre);
    if (rule == NULL)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "'%s' splits its text by the rule '%s' (tokenizer.ggml.pre), which is "
                            "not supported; token ids would be a guess",
                            vocabulary->path, mb_printable(pre).text);
    tokenizer->is_bpe = true;
    const enum mb_status status = choose_bos(
        model, vocabulary, rule->adds_bos, rule->has_bos ? 11 : UINT64_MAX, &tokenizer->bos, error);
    return status == MB_OK ? mb_bpe_create(model, vocabulary, rule, tokenizer, error) : status;
}

enum mb_status mb_tokenizer_create(const struct mb_model *model, struct mb_tokenizer **tokenizer,
                                   struct mb_error *error)
{
    *tokenizer = NULL;
    const char *kind = mb_model_string(model, "tokenizer.ggml.model", "");
    const bool is_bpe = strcmp(kind, "gpt2") == 0;
    if (!is_bpe && strcmp(kind, "llama") != 0) {
        if (kind[0] == '\0')
            return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                "'%s' holds no tokenizer (no tokenizer.ggml.model); text cannot be "
                                "turned into tokens",
                                mb_model_path(model));
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "'%s' uses the tokenizer '%s' (tokenizer.ggml.model); supported are "
                            "gpt2 and llama",
                            mb_model_path(model), mb_printable(kind).text);
    }
    struct mb_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return no_memory(error);
    struct mb_vocabulary vocabulary;
    enum mb_status status = read_vocabulary(model, &vocabulary, error);
    if (status == MB_OK && is_bpe) {
        status = create_bpe(model, &vocabulary, t, error);
    } else if (status == MB_OK) {
        status = choose_bos(model, &vocabulary, true, 1, &t->bos, error);
        if (status == MB_OK)
            status = mb_spm_create(model, &vocabulary, t, error);
    }
    if (status == MB_OK)
        status = find_specials(model, &vocabulary, t, error);
    if (status != MB_OK) {
        mb_tokenizer_destroy(t);
        return status;
    }
    *tokenizer = t;
    return MB_OK;
}

void mb_tokenizer_destroy(struct mb_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    mb_text_table_free(&tokenizer->tokens);
    mb_text_table_free(&tokenizer->merges);
    mb_split_destroy(tokenizer->split);
    free(tokenizer->specials);
    free(tokenizer->special_arena);
    free(tokenizer->scores);
    free(tokenizer);
}

int32_t mb_tokenizer_bos(const struct mb_tokenizer *tokenizer) { return tokenizer->bos; }

/* ---- encoding ---- */

/* A stretch of text, or a token that was cut out of it (id >= 0). */
struct fragment {
    const uint8_t *text;
    size_t bytes;
    int32_t id;
};

struct fragments {
    struct fragment *list;
    size_t count, room;
};

static bool add_fragment(struct fragments *fragments, struct fragment fragment)
{
    if (fragment.bytes == 0)
        return true;
    if (fragments->count == fragments->room) {
        const size_t room = fragments->room == 0 ? 64 : fragments->room * 2;
        struct fragment *larger = realloc(fragments->list, room * sizeof *larger);
        if (larger == NULL)
            return false;
        fragments->list = larger;
        fragments->room = room;
    }
    fragments->list[fragments->count++] = fragment;
    return true;
}

static bool occurs(const struct fragments *fragments, const struct mb_special *special)
{
    for (size_t i = 0; i < fragments->count; i++)
        if (fragments->list[i].id < 0 && memmem(fragments->list[i].text, fragments->list[i].bytes,
                                                special->text, special->length) != NULL)
            return true;
    return false;
}

static bool cut_fragment(struct fragments *out, struct fragment fragment,
                         const struct mb_special *special)
{
    const uint8_t *at = fragment.text, *end = fragment.text + fragment.bytes;
    while (fragment.id < 0 && at < end) {
        const uint8_t *found = memmem(at, (size_t)(end - at), special->text, special->length);
        if (found == NULL)
            break;
        if (!add_fragment(out, (struct fragment){at, (size_t)(found - at), -1}) ||
            !add_fragment(out, (struct fragment){found, special->length, special->id}))
            return false;
        at = found + special->length;
    }
    return add_fragment(out, (struct fragment){at, (size_t)(end - at), fragment.id});
}

static bool cut_specials(const struct mb_tokenizer *tokenizer, struct fragments *fragments)
{
    for (size_t s = 0; s < tokenizer->special_count; s++) {
        if (!occurs(fragments, &tokenizer->specials[s]))
            continue;
        struct fragments finer = {NULL, 0, 0};
        bool ok = true;
        for (size_t i = 0; i < fragments->count && ok; i++)
            ok = cut_fragment(&finer, fragments->list[i], &tokenizer->specials[s]);
        free(fragments->list);
        *fragments = finer;
        if (!ok)
            return false;
    }
    return true;
}

static enum mb_status encode(const struct mb_tokenizer *tokenizer,
                             const struct fragments *fragments, struct mb_ids *ids,
                             struct mb_error *error)
{
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < fragments->count && status == MB_OK; i++) {
        const struct fragment *f = &fragments->list[i];
        if (f->id >= 0)
            status = mb_ids_add(ids, f->id) ? MB_OK : no_memory(error);
        else if (tokenizer->is_bpe)
            status = mb_bpe_encode(tokenizer, f->text, f->bytes, ids, error);
        else
            status = mb_spm_encode(tokenizer, f->text, f->bytes, ids, error);
    }
    return status;
}

enum mb_status mb_tokenize(const struct mb_tokenizer *tokenizer, const char *text, size_t bytes,
                           int32_t **ids, size_t *count, struct mb_error *error)
{
    *ids = NULL;
    *count = 0;
    if (bytes > MAX_TEXT_BYTES)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "the text has %zu bytes, at most %d can be tokenized at once; split it",
                            bytes, MAX_TEXT_BYTES);
    struct mb_ids out = {NULL, 0, 0};
    struct fragments fragments = {NULL, 0, 0};
    enum mb_status status = MB_OK;
    if ((tokenizer->bos >= 0 && !mb_ids_add(&out, tokenizer->bos)) ||
        !add_fragment(&fragments, (struct fragment){(const uint8_t *)text, bytes, -1}) ||
        !cut_specials(tokenizer, &fragments))
        status = no_memory(error);
    if (status == MB_OK)
        status = encode(tokenizer, &fragments, &out, error);
    free(fragments.list);
    if (status != MB_OK) {
        free(out.ids);
        return status;
    }
    *ids = out.ids;
    *count = out.count;
    return MB_OK;
}
