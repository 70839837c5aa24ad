/* SPDX-License-Identifier: Apache-2.0 */
/* llama.cpp's own mixes as tables, so that a plan is compared with what people use today.
 *
 * A preset has a base format; rules lift some roles above it, by the tensor's place among its kind.
 * Source: llama.cpp's src/llama-quant.cpp, without an importance matrix (llama_tensor_get_type_impl
 * for the rules, tensor_type_fallback for row lengths); golden data from `llama-quantize --dry-run`
 * hold the two together. Left out: presets that store IQ1, IQ2, IQ3, TQ or MXFP4, whose rules are
 * not written here; and Q2_K_S, whose q2_K tensors llama.cpp refuses to make without an importance
 * matrix. Mixtures of experts have further rules there and are not covered. */
#include "mixbit/plan.h"

#include <string.h>
#include <strings.h>

enum preset {
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_0,
    Q4_1,
    Q4_K_S,
    Q4_K_M,
    Q5_0,
    Q5_1,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    Q8_0,
    IQ4_NL,
    IQ4_XS,
    PRESET_COUNT
};

static const struct {
    const char *name;
    enum mb_format base;
} presets[PRESET_COUNT] = {
    [Q2_K] = {"Q2_K", MB_FORMAT_Q2_K},       [Q3_K_S] = {"Q3_K_S", MB_FORMAT_Q3_K},
    [Q3_K_M] = {"Q3_K_M", MB_FORMAT_Q3_K},   [Q3_K_L] = {"Q3_K_L", MB_FORMAT_Q3_K},
    [Q4_0] = {"Q4_0", MB_FORMAT_Q4_0},       [Q4_1] = {"Q4_1", MB_FORMAT_Q4_1},
    [Q4_K_S] = {"Q4_K_S", MB_FORMAT_Q4_K},   [Q4_K_M] = {"Q4_K_M", MB_FORMAT_Q4_K},
    [Q5_0] = {"Q5_0", MB_FORMAT_Q5_0},       [Q5_1] = {"Q5_1", MB_FORMAT_Q5_1},
    [Q5_K_S] = {"Q5_K_S", MB_FORMAT_Q5_K},   [Q5_K_M] = {"Q5_K_M", MB_FORMAT_Q5_K},
    [Q6_K] = {"Q6_K", MB_FORMAT_Q6_K},       [Q8_0] = {"Q8_0", MB_FORMAT_Q8_0},
    [IQ4_NL] = {"IQ4_NL", MB_FORMAT_IQ4_NL}, [IQ4_XS] = {"IQ4_XS", MB_FORMAT_IQ4_XS},
};

/* Names llama.cpp knows whose rules are not written here, or that need an importance matrix. */
static const char *const foreign[] = {"Q1_0",   "Q2_0",  "Q2_K_S", "IQ1_S",    "IQ1_M",  "IQ2_XXS",
                                      "IQ2_XS", "IQ2_S", "IQ2_M",  "IQ3_XXS",  "IQ3_XS", "IQ3_S",
                                      "IQ3_M",  "TQ1_0", "TQ2_0",  "MXFP4_MOE"};

/* Which tensors of a kind a rule is for. */
enum place {
    ANY,
    FIRST_TWO,
    FIRST_FOUR,
    FIRST_EIGHTH,
    FIRST_SIXTEENTH,
    ENDS_AND_THIRDS, /* the first and last eighth, and every third in between */
    SHARED_HEADS     /* any, in a model with four or more query heads per key head */
};

enum kind { VALUE, DOWN, ATTENTION_OUTPUT, OTHER };

/* The first rule that fits a tensor decides; none: the base format. */
static const struct {
    enum preset preset;
    enum kind kind;
    enum place place;
    enum mb_format format;
} rules[] = {
    {Q2_K, VALUE, SHARED_HEADS, MB_FORMAT_Q4_K},
    {Q2_K, VALUE, ANY, MB_FORMAT_Q3_K},
    {Q2_K, DOWN, ANY, MB_FORMAT_Q3_K},
    {Q2_K, ATTENTION_OUTPUT, ANY, MB_FORMAT_Q3_K},
    {Q3_K_M, VALUE, FIRST_TWO, MB_FORMAT_Q5_K},
    {Q3_K_M, VALUE, ANY, MB_FORMAT_Q4_K},
    {Q3_K_M, DOWN, FIRST_SIXTEENTH, MB_FORMAT_Q5_K},
    {Q3_K_M, DOWN, ANY, MB_FORMAT_Q4_K},
    {Q3_K_M, ATTENTION_OUTPUT, ANY, MB_FORMAT_Q4_K},
    {Q3_K_L, VALUE, ANY, MB_FORMAT_Q5_K},
    {Q3_K_L, DOWN, ANY, MB_FORMAT_Q5_K},
    {Q3_K_L, ATTENTION_OUTPUT, ANY, MB_FORMAT_Q5_K},
    {Q4_K_S, VALUE, FIRST_FOUR, MB_FORMAT_Q5_K},
    {Q4_K_S, DOWN, FIRST_EIGHTH, MB_FORMAT_Q5_K},
    {Q4_K_M, VALUE, ENDS_AND_THIRDS, MB_FORMAT_Q6_K},
    {Q4_K_M, DOWN, ENDS_AND_THIRDS, MB_FORMAT_Q6_K},
    {Q5_K_M, VALUE, ENDS_AND_THIRDS, MB_FORMAT_Q6_K},
    {Q5_K_M, DOWN, ENDS_AND_THIRDS, MB_FORMAT_Q6_K},
    {IQ4_NL, VALUE, SHARED_HEADS, MB_FORMAT_Q5_K},
    {IQ4_NL, DOWN, FIRST_EIGHTH, MB_FORMAT_Q5_K},
    {IQ4_XS, VALUE, SHARED_HEADS, MB_FORMAT_Q5_K},
    {IQ4_XS, DOWN, FIRST_EIGHTH, MB_FORMAT_Q5_K},
};

size_t mb_preset_count(void) { return PRESET_COUNT; }

const char *mb_preset_name(size_t i) { return i < PRESET_COUNT ? presets[i].name : NULL; }

static enum kind kind_of(const struct mb_preset_tensor *tensor)
{
    switch (tensor->role) {
    case MB_ROLE_ATTN_V:
    case MB_ROLE_ATTN_QKV: return VALUE; /* a fused q, k, v counts as v */
    case MB_ROLE_FFN_DOWN: return DOWN;
    case MB_ROLE_ATTN_OUTPUT: return ATTENTION_OUTPUT;
    default: return OTHER;
    }
}

/* llama.cpp walks tensors by layer, then by name, whatever their order in the file. */
static int comes_before(const struct mb_preset_tensor *a, const struct mb_preset_tensor *b)
{
    return a->layer != b->layer ? a->layer < b->layer : strcmp(a->name, b->name) < 0;
}

static int is_at(enum place place, size_t i, size_t n, size_t gqa)
{
    switch (place) {
    case ANY: return 1;
    case FIRST_TWO: return i < 2;
    case FIRST_FOUR: return i < 4;
    case FIRST_EIGHTH: return i < n / 8;
    case FIRST_SIXTEENTH: return i < n / 16;
    case ENDS_AND_THIRDS: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case SHARED_HEADS: return gqa >= 4;
    }
    return 0;
}

static enum mb_format format_by_rule(enum preset preset, enum kind kind, size_t i, size_t n,
                                     size_t gqa)
{
    for (size_t rule = 0; rule < sizeof rules / sizeof *rules; rule++)
        if (rules[rule].preset == preset && rules[rule].kind == kind &&
            is_at(rules[rule].place, i, n, gqa))
            return rules[rule].format;
    return presets[preset].base;
}

/* The matrix that makes the logits: q6_K, or q8_0 where the base is, or rows do not fit it. */
static enum mb_format output_format(enum preset preset, size_t k)
{
    const struct mb_format_info *base = mb_format_info(presets[preset].base);
    return base->id == MB_FORMAT_Q8_0 || k % base->block_k != 0 ? MB_FORMAT_Q8_0 : MB_FORMAT_Q6_K;
}

static enum mb_status find_preset(const char *name, enum preset *preset, struct mb_error *error)
{
    for (int i = 0; i < PRESET_COUNT; i++)
        if (strcasecmp(name, presets[i].name) == 0) {
            *preset = (enum preset)i;
            return MB_OK;
        }
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strcasecmp(name, foreign[i]) == 0)
            return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                                "preset %s has rules that mixbit does not know, or needs an "
                                "importance matrix; name one such as Q4_K_M or IQ4_XS",
                                foreign[i]);
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "unknown preset '%.40s': expected a llama.cpp name such as Q4_K_M, Q5_K_S, "
                        "IQ4_XS or Q8_0",
                        name);
}

enum mb_status mb_preset_formats(const char *preset_name, const struct mb_preset_tensor *tensors,
                                 size_t count, size_t layers, size_t gqa, int tied,
                                 enum mb_format *formats, struct mb_error *error)
{
    enum preset preset = Q8_0;
    const enum mb_status status = find_preset(preset_name, &preset, error);
    if (status != MB_OK)
        return status;
    size_t values = 0;
    for (size_t i = 0; i < count; i++)
        values += kind_of(&tensors[i]) == VALUE;
    for (size_t i = 0; i < count; i++) {
        const struct mb_preset_tensor *tensor = &tensors[i];
        formats[i] = MB_FORMAT_NONE;
        if (!tensor->quantizable)
            continue;
        const enum kind kind = kind_of(tensor);
        size_t place = 0;
        for (size_t j = 0; kind != OTHER && j < count; j++)
            place += tensors[j].quantizable && kind_of(&tensors[j]) == kind &&
                     comes_before(&tensors[j], tensor);
        enum mb_format format =
            format_by_rule(preset, kind, place, kind == VALUE ? values : layers, gqa);
        /* The 70B and 72B models of 80 layers: v is small there, and worth more bits. */
        if (kind == VALUE && layers == 80 && gqa > 1 &&
            (format == MB_FORMAT_Q3_K || format == MB_FORMAT_Q4_K))
            format = MB_FORMAT_Q5_K;
        if (tensor->role == MB_ROLE_OUTPUT || (tied && tensor->role == MB_ROLE_EMBEDDING))
            format = output_format(preset, tensor->k);
        format = mb_format_fit(format, tensor->k);
        if (format != tensor->source)
            formats[i] = format;
    }
    return MB_OK;
}

void mb_uniform_formats(enum mb_format format, const struct mb_preset_tensor *tensors, size_t count,
                        enum mb_format *formats)
{
    for (size_t i = 0; i < count; i++) {
        formats[i] = MB_FORMAT_NONE;
        if (!tensors[i].quantizable)
            continue;
        const enum mb_format fitting = mb_format_fit(format, tensors[i].k);
        if (fitting != tensors[i].source)
            formats[i] = fitting;
    }
}
