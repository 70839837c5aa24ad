/* SPDX-License-Identifier: Apache-2.0 */
/* Recipes against golden ones, and those against what llama.cpp's quantize tool made of them
 * (scripts/make_golden_presets.py --recipe): the plan's formats, tensor by tensor. */
#include "mixbit/plan.h"
#include "solver_files.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#define GOLDEN MIXBIT_SOURCE_DIR "/tests/golden/presets/"

/* Every quantizable tensor of tiny-llama, formats dealt out in turn. */
static struct mb_plan make_plan(void)
{
    static const char *const parts[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                        "ffn_gate", "ffn_up", "ffn_down"};
    static const enum mb_format formats[] = {
        MB_FORMAT_Q2_K, MB_FORMAT_Q3_K, MB_FORMAT_Q4_K, MB_FORMAT_Q5_K,   MB_FORMAT_Q6_K,
        MB_FORMAT_Q4_0, MB_FORMAT_Q4_1, MB_FORMAT_Q5_0, MB_FORMAT_IQ4_NL, MB_FORMAT_IQ4_XS,
        MB_FORMAT_F16,  MB_FORMAT_BF16, MB_FORMAT_F32};
    struct mb_plan plan = {.count = 2 + 6 * 7};
    plan.entries = calloc(plan.count, sizeof *plan.entries);
    strcpy(plan.entries[0].name, "token_embd.weight");
    plan.entries[0].format = MB_FORMAT_IQ4_XS;
    for (size_t i = 0; i < 6 * 7; i++) {
        struct mb_plan_entry *entry = &plan.entries[1 + i];
        snprintf(entry->name, sizeof entry->name, "blk.%zu.%s.weight", i / 7, parts[i % 7]);
        entry->format = formats[i * 5 % 13];
    }
    strcpy(plan.entries[plan.count - 1].name, "output.weight");
    plan.entries[plan.count - 1].format = MB_FORMAT_Q6_K;
    return plan;
}

static void compare_text(const char *path, const char *golden)
{
    char *found = text_read(path), *expected = text_read(golden);
    assert_non_null(expected);
    assert_string_equal(found, expected);
    free(found);
    free(expected);
}

static void recipes_are_the_golden_ones(void **unused)
{
    (void)unused;
    struct mb_plan plan = make_plan();
    char room[128], *command;
    const char *path = scratch_path("RECIPE", room);
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, NULL), MB_OK);
    compare_text(path, GOLDEN "tiny-llama.recipe.txt");
    char *expected = text_read(GOLDEN "tiny-llama.command.txt");
    char *here = text_replace(expected, "RECIPE", path);
    here[strcspn(here, "\n")] = '\0';
    assert_string_equal(command, here);
    free(here);
    free(expected);
    free(command);
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_IK_LLAMA_CPP, path, &command, NULL), MB_OK);
    compare_text(path, GOLDEN "tiny-llama.ik-recipe.txt");
    assert_non_null(strstr(command, "--custom-q \"$(cat "));
    assert_non_null(strstr(command, "--token-embedding-type iq4_xs --output-tensor-type q6_K"));
    free(command);
    free(plan.entries);
    unlink(path);
}

/* What the tool said it would store, given that recipe and that command. */
static void the_tool_made_the_plan_of_it(void **unused)
{
    (void)unused;
    struct mb_plan plan = make_plan();
    char *types = text_read(GOLDEN "tiny-llama.recipe-types.txt");
    assert_non_null(types);
    for (size_t i = 0; i < plan.count; i++) {
        char line[128];
        snprintf(line, sizeof line, "%s %s\n", plan.entries[i].name,
                 mb_format_info(plan.entries[i].format)->name);
        const char *at = strstr(types, line);
        if (at == NULL || (at != types && at[-1] != '\n'))
            fail_msg("the tool does not store %s", line);
    }
    free(types);
    free(plan.entries);
}

/* A type equal to the base is ignored by some versions: the base is always another. */
static void the_base_is_none_of_the_formats(void **unused)
{
    (void)unused;
    enum { MAX_FORMATS = 64 };
    static const struct {
        enum mb_format format;
        const char *base;
    } cases[] = {{MB_FORMAT_Q4_K, "Q8_0"}, {MB_FORMAT_Q8_0, "Q6_K"}};
    struct mb_plan_entry entries[MAX_FORMATS] = {{.name = "blk.0.ffn_up.weight"}};
    struct mb_plan plan = {.count = 1, .entries = entries};
    char room[128], *command;
    const char *path = scratch_path("a recipe's file", room);
    for (size_t i = 0; i < 2; i++) {
        entries[0].format = cases[i].format;
        assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, NULL), MB_OK);
        const char *last = strrchr(command, ' ');
        assert_string_equal(last + 1, cases[i].base);
        assert_non_null(strstr(command, "a recipe'\\''s file' MODEL.gguf"));
        free(command);
    }
    assert_true(mb_format_count() <= MAX_FORMATS);
    for (size_t i = 0; i < mb_format_count(); i++) {
        snprintf(entries[i].name, sizeof entries[i].name, "blk.%zu.ffn_up.weight", i);
        entries[i].format = mb_format_at(i)->id;
    }
    plan.count = mb_format_count();
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, NULL), MB_OK);
    assert_string_equal(strrchr(command, ' ') + 1, "Q1_0");
    free(command);
    unlink(path);
}

/* What the tool refuses without an importance matrix, and what the runtime doesn't have. */
static void the_command_has_what_the_formats_need(void **unused)
{
    (void)unused;
    struct mb_plan_entry entry = {.name = "blk.0.ffn_up.weight", .format = MB_FORMAT_IQ3_XXS};
    struct mb_plan plan = {.count = 1, .entries = &entry};
    char room[128], *command;
    const char *path = scratch_path("RECIPE", room);
    struct mb_error error;
    for (int r = 0; r < MB_RUNTIME_COUNT; r++) {
        assert_int_equal(mb_recipe_write(&plan, (enum mb_runtime)r, path, &command, NULL), MB_OK);
        assert_int_equal(strstr(command, "--imatrix IMATRIX.gguf") != NULL,
                         r == MB_RUNTIME_LLAMA_CPP);
        free(command);
    }
    strcpy(entry.name, "output.weight");
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, NULL), MB_OK);
    assert_null(strstr(command, "imatrix"));
    free(command);
    unlink(path);
    entry.format = MB_FORMAT_NVFP4;
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_IK_LLAMA_CPP, path, &command, &error),
                     MB_ERR_UNSUPPORTED);
    assert_non_null(strstr(error.message, "ik_llama.cpp has no format nvfp4"));
    assert_int_equal(access(path, F_OK), -1);
}

static void what_no_pattern_can_say_is_refused(void **unused)
{
    (void)unused;
    static const char *const names[] = {"blk.0.ffn up.weight",       "blk.0.FFN.weight",
                                        "blk.0.ffn=up.weight",       "blk.0.attn_q.bias",
                                        "blk.0.attn_norm.weight",    "blk.0.ssm_conv1d.weight",
                                        "blk.0.ffn_gate_inp.weight", "blk.0.shortconv.conv.weight"};
    struct mb_plan_entry entry;
    struct mb_plan plan = {.count = 1, .entries = &entry};
    char room[128], *command;
    const char *path = scratch_path("RECIPE", room);
    struct mb_error error;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memset(&entry, 0, sizeof entry);
        strcpy(entry.name, names[i]);
        entry.format = MB_FORMAT_Q4_K;
        assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, &error),
                         MB_ERR_UNSUPPORTED);
        assert_non_null(strstr(error.message, names[i]));
        assert_null(command);
        assert_int_equal(access(path, F_OK), -1);
    }
    plan.count = 0;
    assert_int_equal(mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, path, &command, &error),
                     MB_ERR_ARGUMENT);
    plan.count = 1;
    strcpy(entry.name, "output.weight");
    assert_int_equal(
        mb_recipe_write(&plan, MB_RUNTIME_LLAMA_CPP, "/no/such/folder/recipe", &command, &error),
        MB_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(recipes_are_the_golden_ones),
                                       cmocka_unit_test(the_tool_made_the_plan_of_it),
                                       cmocka_unit_test(the_base_is_none_of_the_formats),
                                       cmocka_unit_test(the_command_has_what_the_formats_need),
                                       cmocka_unit_test(what_no_pattern_can_say_is_refused)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
