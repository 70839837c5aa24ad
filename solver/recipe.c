/* SPDX-License-Identifier: Apache-2.0 */
/* A plan in the words of llama.cpp's and ik_llama.cpp's quantize tools.
 *
 * What the tools do with it, and so what is written: patterns are regular expressions searched for
 * anywhere in a name, the first or (in some versions) the last match wins: each is anchored at both
 * ends, so only one can match. llama.cpp lower-cases patterns and splits its file at white space;
 * it has no comments, and one bad word spoils the run. Overrides hold only over a quantized base
 * type, and some versions drop one that equals the base: the base is one the plan does not use.
 * Embedding and output have options of their own that beat patterns: both are given. What a tool
 * loads, converts and refuses is in runtime.c. */
#include "mixbit/plan.h"
#include "support/support.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
    char *data;
    size_t length, room;
    bool failed;
};

static void add(struct text *text, const char *format, ...) MB_PRINTF(2, 3);

static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int needed = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (needed < 0 || text->failed) {
        text->failed = true;
        return;
    }
    if (text->length + (size_t)needed + 1 > text->room) {
        const size_t room = 2 * (text->length + (size_t)needed + 1);
        char *data = realloc(text->data, room);
        if (data == NULL) {
            text->failed = true;
            return;
        }
        text->data = data;
        text->room = room;
    }
    va_start(arguments, format);
    vsnprintf(text->data + text->length, text->room - text->length, format, arguments);
    va_end(arguments);
    text->length += (size_t)needed;
}

static enum mb_status check_entry(const struct mb_plan_entry *entry, enum mb_runtime runtime,
                                  struct mb_error *error)
{
    const size_t length = strlen(entry->name);
    if (mb_format_info(entry->format) == NULL)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1, "recipe: %s has an unknown format",
                            entry->name);
    for (size_t i = 0; i < length; i++)
        if (strchr("abcdefghijklmnopqrstuvwxyz0123456789_.-", entry->name[i]) == NULL)
            return mb_error_set(
                error, MB_ERR_UNSUPPORTED, -1,
                "recipe: %s: a pattern cannot name this tensor (expected lower-case "
                "letters, digits, '_', '.' and '-')",
                entry->name);
    if (!mb_runtime_loads(runtime, entry->format))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "recipe: %s: %s has no format %s; solve with --runtime %s", entry->name,
                            mb_runtime_names[runtime], mb_format_info(entry->format)->name,
                            mb_runtime_names[runtime]);
    if (!mb_runtime_converts(runtime, entry->name))
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "recipe: %s: the quantize tool never converts this tensor; take it out "
                            "of the plan",
                            entry->name);
    return MB_OK;
}

/* A file type whose base format no entry has. Q1_0 is none of our formats, so there is one. */
static const char *base_type(const struct mb_plan *plan)
{
    static const struct {
        const char *name;
        enum mb_format format;
    } bases[] = {
        {"Q8_0", MB_FORMAT_Q8_0},     {"Q6_K", MB_FORMAT_Q6_K},   {"Q5_1", MB_FORMAT_Q5_1},
        {"Q5_K_S", MB_FORMAT_Q5_K},   {"Q5_0", MB_FORMAT_Q5_0},   {"Q4_1", MB_FORMAT_Q4_1},
        {"Q4_K_S", MB_FORMAT_Q4_K},   {"Q4_0", MB_FORMAT_Q4_0},   {"IQ4_NL", MB_FORMAT_IQ4_NL},
        {"IQ4_XS", MB_FORMAT_IQ4_XS}, {"Q3_K_S", MB_FORMAT_Q3_K}, {"IQ3_S", MB_FORMAT_IQ3_S}};
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        bool used = false;
        for (size_t i = 0; i < plan->count; i++)
            used = used || plan->entries[i].format == bases[b].format;
        if (!used)
            return bases[b].name;
    }
    return "Q1_0";
}

static void add_pattern(struct text *text, const struct mb_plan_entry *entry)
{
    add(text, "^");
    for (const char *c = entry->name; *c != '\0'; c++)
        add(text, *c == '.' ? "\\%c" : "%c", *c);
    add(text, "$=%s", mb_format_info(entry->format)->name);
}

/* ---- the command ---- */

/* In single quotes where a shell would otherwise read more than a word. */
static void add_quoted(struct text *text, const char *word)
{
    bool plain = *word != '\0' && *word != '-';
    for (const char *c = word; *c != '\0'; c++)
        plain = plain && (isalnum((unsigned char)*c) || strchr("_./+-", *c) != NULL);
    if (plain) {
        add(text, "%s", word);
        return;
    }
    add(text, "'");
    for (const char *c = word; *c != '\0'; c++)
        if (*c == '\'')
            add(text, "'\\''");
        else
            add(text, "%c", *c);
    add(text, "'");
}

/* A command grows word by word, for a shell or for exec: there each word ends with a NUL. */
struct command {
    struct text text;
    bool shell;
};

static void add_word(struct command *command, const char *word)
{
    if (!command->shell) {
        add(&command->text, "%s%c", word, '\0');
        return;
    }
    add(&command->text, "%s", command->text.length > 0 ? " " : "");
    if (strncmp(word, "--", 2) == 0)
        add(&command->text, "%s", word);
    else
        add_quoted(&command->text, word);
}

static void add_role_option(struct command *command, const struct mb_plan *plan, const char *tensor,
                            const char *option)
{
    for (size_t i = 0; i < plan->count; i++)
        if (strcmp(plan->entries[i].name, tensor) == 0) {
            add_word(command, option);
            add_word(command, mb_format_info(plan->entries[i].format)->name);
        }
}

/* What both the user's command and a dry run say of the plan. */
static void add_types(struct command *command, const struct mb_plan *plan, enum mb_runtime runtime,
                      const char *path)
{
    add_role_option(command, plan, "token_embd.weight", "--token-embedding-type");
    add_role_option(command, plan, "output.weight", "--output-tensor-type");
    if (runtime == MB_RUNTIME_LLAMA_CPP) {
        add_word(command, "--tensor-type-file");
        add_word(command, path);
        return;
    }
    add(&command->text, " --custom-q \"$(cat ");
    add_quoted(&command->text, path);
    add(&command->text, ")\"");
}

static struct text user_command(const struct mb_plan *plan, enum mb_runtime runtime,
                                const char *path)
{
    struct command command = {.shell = true};
    bool importance = plan->importance_hash[0] != '\0';
    for (size_t i = 0; i < plan->count; i++)
        importance = importance || mb_runtime_needs_importance(runtime, plan->entries[i].name,
                                                               plan->entries[i].format);
    add_word(&command, "llama-quantize");
    add_word(&command, "--allow-requantize");
    if (importance) {
        add_word(&command, "--imatrix");
        add_word(&command, "IMATRIX.gguf");
    }
    add_types(&command, plan, runtime, path);
    add_word(&command, "MODEL.gguf");
    add_word(&command, "MIXED.gguf");
    add_word(&command, base_type(plan));
    return command.text;
}

char *mb_recipe_dry_run(const struct mb_plan *plan, const char *tool, const char *path,
                        const char *model)
{
    struct command command = {.shell = false};
    add_word(&command, tool);
    add_word(&command, "--allow-requantize");
    add_word(&command, "--dry-run");
    add_types(&command, plan, MB_RUNTIME_LLAMA_CPP, path);
    add_word(&command, model);
    add_word(&command, base_type(plan));
    add_word(&command, "");
    if (command.text.failed)
        free(command.text.data);
    return command.text.failed ? NULL : command.text.data;
}

static enum mb_status write_text(const char *path, const struct text *text, struct mb_error *error)
{
    struct mb_file *file;
    const enum mb_status status = mb_file_create(path, &file, error);
    if (status != MB_OK)
        return status;
    mb_file_write(file, text->data, text->length);
    return mb_file_commit(file, error);
}

enum mb_status mb_recipe_write(const struct mb_plan *plan, enum mb_runtime runtime,
                               const char *path, char **command, struct mb_error *error)
{
    struct text recipe = {0};
    *command = NULL;
    if (plan->count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "recipe: the plan has no tensors");
    for (size_t i = 0; i < plan->count; i++) {
        const enum mb_status status = check_entry(&plan->entries[i], runtime, error);
        if (status != MB_OK)
            return status;
    }
    /* One pattern per line for llama.cpp; one argument, split at commas, for ik_llama.cpp. */
    for (size_t i = 0; i < plan->count; i++) {
        if (runtime == MB_RUNTIME_IK_LLAMA_CPP && i > 0)
            add(&recipe, ",");
        add_pattern(&recipe, &plan->entries[i]);
        if (runtime == MB_RUNTIME_LLAMA_CPP || i + 1 == plan->count)
            add(&recipe, "\n");
    }
    struct text line = user_command(plan, runtime, path);
    enum mb_status status;
    if (recipe.failed || line.failed)
        status = mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory while writing '%s'", path);
    else
        status = write_text(path, &recipe, error);
    free(recipe.data);
    if (status == MB_OK) {
        *command = line.data;
        line.data = NULL;
    }
    free(line.data);
    return status;
}
