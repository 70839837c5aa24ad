/* SPDX-License-Identifier: Apache-2.0 */
/* How byte-level BPE cuts text into words before merging: regular expressions that
 * tokenizer.ggml.pre names, run by PCRE2 on Unicode properties.
 *
 * A rule has one to four patterns. Each cuts the pieces that the one before it left into its
 * matches and what lies between them; a piece's end is the end of the text to its pattern.
 * White space is spelled out, for PCRE2's \s counts one character more (U+180E) than the
 * tokenizers' own \s does; letters of contractions are spelled in both cases, for (?i) would let
 * U+017F pass for an s.
 * Source: the tokenizer.json files of the models, as llama.cpp groups them by name. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define WHITE "\\p{Z}\\t-\\r\\x{85}"
#define SPACES "[" WHITE "]+(?![^" WHITE "])|[" WHITE "]+"
#define SUFFIXES "'s|'t|'re|'ve|'m|'ll|'d"
#define SUFFIXES_ANY_CASE "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS " ?[^" WHITE "\\p{L}\\p{N}]+[\\r\\n]*"
#define LINES "[" WHITE "]*[\\r\\n]+"
/* Letters that are not small a-z, and letters that are not capital A-Z. */
#define NOT_SMALL "[^\\P{L}a-z]"
#define NOT_CAPITAL "[^\\P{L}A-Z]"
#define CASED_WORDS(end)                                                                           \
    "[^\\r\\n\\p{L}\\p{N}]?" NOT_SMALL "*" NOT_CAPITAL "+" end "|[^\\r\\n\\p{L}\\p{N}]?" NOT_SMALL \
    "+" NOT_CAPITAL "*" end
#define SIGNS_SLASH " ?[^" WHITE "\\p{L}\\p{N}]+[\\r\\n/]*"

#define GPT2 SUFFIXES "| ?\\p{L}+| ?\\p{N}+| ?[^" WHITE "\\p{L}\\p{N}]+|" SPACES
#define LLAMA3 SUFFIXES_ANY_CASE "|" LETTERS "|\\p{N}{1,3}|" SIGNS "|" LINES "|" SPACES
#define QWEN2 SUFFIXES_ANY_CASE "|" LETTERS "|\\p{N}|" SIGNS "|" LINES "|" SPACES
#define QWEN35                                                                                     \
    SUFFIXES_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"                              \
                      "| ?[^" WHITE "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES "|" SPACES
#define TEKKEN CASED_WORDS("") "|\\p{N}|" SIGNS_SLASH "|" LINES "|" SPACES
#define GPT4O                                                                                      \
    CASED_WORDS("(?:" SUFFIXES_ANY_CASE ")?") "|\\p{N}{1,3}|" SIGNS_SLASH "|" LINES "|" SPACES

static const struct mb_split_rule rules[] = {
    {"gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling",
     {GPT2},
     false,
     false,
     true},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
     {"\\p{N}", GPT2},
     false,
     false,
     true},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     {LLAMA3},
     true,
     true,
     true},
    {"dbrx smaug-bpe", {LLAMA3}, false, false, true},
    {"chatglm-bpe", {LLAMA3}, false, false, false},
    {"glm4 glm5", {LLAMA3}, true, false, false},
    {"qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2",
     {QWEN2},
     false,
     false,
     true},
    {"qwen35", {QWEN35}, false, false, true},
    {"tekken", {TEKKEN}, true, true, true},
    {"gpt-4o llama4 kanana2 minimax-m2", {GPT4O}, false, false, true},
    {"falcon", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, false, false, true},
    {"default",
     {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"},
     false,
     false,
     true},
};

enum { MAX_PATTERNS = sizeof rules[0].patterns / sizeof rules[0].patterns[0] };

struct mb_split {
    pcre2_code *codes[MAX_PATTERNS];
    size_t count;
};

/* Whether `names`, separated by spaces, contains `name`. */
static bool lists(const char *names, const char *name)
{
    const size_t length = strlen(name);
    for (const char *at = names; length > 0 && (at = strstr(at, name)) != NULL; at += length)
        if ((at == names || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

const struct mb_split_rule *mb_split_find(const char *pre)
{
    if (strchr(pre, ' ') != NULL)
        return NULL;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (lists(rules[i].names, pre))
            return &rules[i];
    return NULL;
}

enum mb_status mb_split_create(const struct mb_split_rule *rule, struct mb_split **split,
                               struct mb_error *error)
{
    struct mb_split *s = calloc(1, sizeof *s);
    if (s == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for the tokenizer");
    for (; s->count < MAX_PATTERNS && rule->patterns[s->count] != NULL; s->count++) {
        int code = 0;
        PCRE2_SIZE where = 0;
        s->codes[s->count] =
            pcre2_compile((PCRE2_SPTR)rule->patterns[s->count], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);
        if (s->codes[s->count] == NULL) {
            mb_split_destroy(s);
            return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                "this PCRE2 library cannot compile the tokenizer's pattern (error "
                                "%d); it needs Unicode support",
                                code);
        }
        /* Without a just-in-time compiler the same code is interpreted. */
        (void)pcre2_jit_compile(s->codes[s->count], PCRE2_JIT_COMPLETE);
    }
    *split = s;
    return MB_OK;
}

void mb_split_destroy(struct mb_split *split)
{
    if (split == NULL)
        return;
    for (size_t i = 0; i < MAX_PATTERNS; i++)
        pcre2_code_free(split->codes[i]);
    free(split);
}

struct spans {
    struct mb_span *spans;
    size_t count, room;
};

static bool add_span(struct spans *list, size_t start, size_t end)
{
    if (start == end)
        return true;
    if (list->count == list->room) {
        const size_t room = list->room == 0 ? 1024 : list->room * 2;
        struct mb_span *larger = realloc(list->spans, room * sizeof *larger);
        if (larger == NULL)
            return false;
        list->spans = larger;
        list->room = room;
    }
    list->spans[list->count++] = (struct mb_span){start, end};
    return true;
}

/* Cut one piece. NO_UTF_CHECK: the caller made the text well-formed, and checking it again for
 * every match would take quadratic time. */
static enum mb_status cut(pcre2_code *code, pcre2_match_data *data, const uint8_t *text,
                          struct mb_span piece, struct spans *out)
{
    const uint8_t *subject = text + piece.start;
    const size_t bytes = piece.end - piece.start;
    size_t at = 0;
    while (at < bytes) {
        const int found = pcre2_match(code, subject, bytes, at, PCRE2_NO_UTF_CHECK, data, NULL);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        const PCRE2_SIZE *match = pcre2_get_ovector_pointer(data);
        if (found < 0 || match[1] <= at) /* an empty match would never end */
            return MB_ERR_UNSUPPORTED;
        if (!add_span(out, piece.start + at, piece.start + match[0]) ||
            !add_span(out, piece.start + match[0], piece.start + match[1]))
            return MB_ERR_MEMORY;
        at = match[1];
    }
    return add_span(out, piece.start + at, piece.end) ? MB_OK : MB_ERR_MEMORY;
}

enum mb_status mb_split_text(const struct mb_split *split, const uint8_t *text, size_t bytes,
                             struct mb_span **spans, size_t *count, struct mb_error *error)
{
    struct spans pieces = {NULL, 0, 0};
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    enum mb_status status = data != NULL && add_span(&pieces, 0, bytes) ? MB_OK : MB_ERR_MEMORY;
    for (size_t p = 0; p < split->count && status == MB_OK; p++) {
        struct spans finer = {NULL, 0, 0};
        for (size_t i = 0; i < pieces.count && status == MB_OK; i++)
            status = cut(split->codes[p], data, text, pieces.spans[i], &finer);
        free(pieces.spans);
        pieces = finer;
    }
    pcre2_match_data_free(data);
    if (status != MB_OK) {
        free(pieces.spans);
        return mb_error_set(error, status, -1, "cannot split the text into words: %s",
                            status == MB_ERR_MEMORY ? "out of memory"
                                                    : "the regular expression gave up");
    }
    *spans = pieces.spans;
    *count = pieces.count;
    return MB_OK;
}
