/* SPDX-License-Identifier: Apache-2.0 */
/* Presets and uniform formats against what llama.cpp's quantize tool would store, tensor by tensor
 * (tests/golden/presets, made by scripts/make_golden_presets.py), on five models: both embedded
 * ones; SmolLM2, whose rows of 576 fall back; 80 layers of grouped heads; fused q, k and v. */
#include "mixbit/plan.h"
#include "solver_files.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#define MAX_TENSORS 1024
#define MAX_COLUMNS 32

struct golden {
    size_t layers, gqa, count;
    int tied;
    size_t presets, columns; /* presets first, then uniform formats */
    char column[MAX_COLUMNS][16];
    char types[26][16];
    struct mb_preset_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][64], stored[MAX_TENSORS][MAX_COLUMNS + 1];
};

static int role_of(const char *name)
{
    static const struct {
        const char *part;
        enum mb_role role;
    } roles[] = {{"token_embd.weight", MB_ROLE_EMBEDDING},
                 {"attn_qkv", MB_ROLE_ATTN_QKV},
                 {"attn_q.", MB_ROLE_ATTN_Q},
                 {"attn_k.", MB_ROLE_ATTN_K},
                 {"attn_v.", MB_ROLE_ATTN_V},
                 {"attn_output", MB_ROLE_ATTN_OUTPUT},
                 {"ffn_gate", MB_ROLE_FFN_GATE},
                 {"ffn_up", MB_ROLE_FFN_UP},
                 {"ffn_down", MB_ROLE_FFN_DOWN},
                 {"ssm_in", MB_ROLE_SSM_IN},
                 {"ssm_out", MB_ROLE_SSM_OUT},
                 {"output.weight", MB_ROLE_OUTPUT}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strstr(name, roles[i].part) != NULL)
            return roles[i].role;
    return MB_ROLE_OTHER;
}

static void read_columns(struct golden *golden, char *line)
{
    for (char *word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(golden->columns < MAX_COLUMNS);
        snprintf(golden->column[golden->columns++], sizeof golden->column[0], "%s", word);
    }
}

static void read_tensor(struct golden *golden, const char *line)
{
    char source[16];
    const size_t i = golden->count++;
    assert_true(i < MAX_TENSORS);
    struct mb_preset_tensor *tensor = &golden->tensors[i];
    assert_int_equal(
        sscanf(line, "%63s %zu %15s %32s", golden->names[i], &tensor->k, source, golden->stored[i]),
        4);
    assert_int_equal(strlen(golden->stored[i]), golden->columns);
    tensor->name = golden->names[i];
    tensor->role = role_of(tensor->name);
    tensor->layer = -1;
    sscanf(tensor->name, "blk.%d.", &tensor->layer);
    tensor->quantizable = 1;
    tensor->source = mb_format_by_name(source);
    assert_int_not_equal(tensor->source, MB_FORMAT_NONE);
}

static struct golden *golden_load(const char *model)
{
    char path[512];
    size_t tensors = 0;
    struct golden *golden = calloc(1, sizeof *golden);
    snprintf(path, sizeof path, "%s/tests/golden/presets/%s.txt", MIXBIT_SOURCE_DIR, model);
    char *text = text_read(path), *rest = text;
    assert_non_null(text);
    for (char *line = rest; line != NULL && *line != '\0'; line = rest) {
        rest = strchr(line, '\n');
        if (rest != NULL)
            *rest++ = '\0';
        if (sscanf(line, "model layers=%zu gqa=%zu tied=%d tensors=%zu", &golden->layers,
                   &golden->gqa, &golden->tied, &tensors) == 4)
            continue;
        if (strncmp(line, "presets ", 8) == 0) {
            read_columns(golden, line + 8);
            golden->presets = golden->columns;
        } else if (strncmp(line, "uniform ", 8) == 0) {
            read_columns(golden, line + 8);
        } else if (strncmp(line, "types ", 6) == 0) {
            for (char *word = strtok(line + 6, " "); word != NULL; word = strtok(NULL, " "))
                snprintf(golden->types[word[0] - 'a'], sizeof golden->types[0], "%s", word + 2);
        } else {
            read_tensor(golden, line);
        }
    }
    free(text);
    assert_int_equal(golden->count, tensors);
    return golden;
}

static void compare_column(const struct golden *golden, size_t column, const char *model,
                           const enum mb_format *formats)
{
    for (size_t i = 0; i < golden->count; i++) {
        const char *expected = golden->types[golden->stored[i][column] - 'a'];
        const enum mb_format stored =
            formats[i] == MB_FORMAT_NONE ? golden->tensors[i].source : formats[i];
        if (mb_format_by_name(expected) != stored)
            fail_msg("%s, %s: %s: llama.cpp stores %s, we %s", model, golden->column[column],
                     golden->names[i], expected, mb_format_info(stored)->name);
    }
}

static void compare_model(const char *model)
{
    struct golden *golden = golden_load(model);
    enum mb_format formats[MAX_TENSORS];
    assert_int_equal(golden->presets, mb_preset_count());
    for (size_t column = 0; column < golden->columns; column++) {
        if (column < golden->presets) {
            assert_int_equal(mb_preset_formats(golden->column[column], golden->tensors,
                                               golden->count, golden->layers, golden->gqa,
                                               golden->tied, formats, NULL),
                             MB_OK);
        } else {
            const enum mb_format format = mb_format_by_name(golden->column[column]);
            assert_int_not_equal(format, MB_FORMAT_NONE);
            mb_uniform_formats(format, golden->tensors, golden->count, formats);
        }
        compare_column(golden, column, model, formats);
    }
    print_message("%s: %zu tensors x %zu columns\n", model, golden->count, golden->columns);
    free(golden);
}

static void tiny_llama(void **unused)
{
    (void)unused;
    compare_model("tiny-llama");
}

static void tiny_hybrid(void **unused)
{
    (void)unused;
    compare_model("tiny-hybrid");
}

static void smollm2(void **unused)
{
    (void)unused;
    compare_model("smollm2");
}

static void eighty_layers(void **unused)
{
    (void)unused;
    compare_model("llama-80");
}

static void fused_qkv(void **unused)
{
    (void)unused;
    compare_model("phi3-24");
}

static void presets_are_known_by_name(void **unused)
{
    (void)unused;
    const struct mb_preset_tensor tensor = {"blk.0.ffn_up.weight", MB_ROLE_FFN_UP, 0, 1, 256,
                                            MB_FORMAT_F16};
    const struct mb_preset_tensor norm = {
        "blk.0.ffn_norm.weight", MB_ROLE_OTHER, 0, 0, 256, MB_FORMAT_F32};
    enum mb_format format;
    struct mb_error error;
    for (size_t i = 0; i < mb_preset_count(); i++) {
        assert_int_equal(mb_preset_formats(mb_preset_name(i), &tensor, 1, 1, 1, 0, &format, NULL),
                         MB_OK);
        assert_int_equal(mb_preset_formats(mb_preset_name(i), &norm, 1, 1, 1, 0, &format, NULL),
                         MB_OK);
        assert_int_equal(format, MB_FORMAT_NONE);
    }
    assert_null(mb_preset_name(mb_preset_count()));
    assert_int_equal(mb_preset_formats("q4_k_m", &tensor, 1, 8, 1, 0, &format, NULL), MB_OK);
    assert_int_equal(format, MB_FORMAT_Q4_K);
    assert_int_equal(mb_preset_formats("IQ2_XS", &tensor, 1, 1, 1, 0, &format, &error),
                     MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_preset_formats("Q2_K_S", &tensor, 1, 1, 1, 0, &format, &error),
                     MB_ERR_UNSUPPORTED);
    assert_int_equal(mb_preset_formats("Q4_K_XL", &tensor, 1, 1, 1, 0, &format, &error),
                     MB_ERR_ARGUMENT);
    assert_non_null(strstr(error.message, "Q4_K_XL"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_llama), cmocka_unit_test(tiny_hybrid),
        cmocka_unit_test(smollm2),    cmocka_unit_test(eighty_layers),
        cmocka_unit_test(fused_qkv),  cmocka_unit_test(presets_are_known_by_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
