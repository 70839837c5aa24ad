/* SPDX-License-Identifier: Apache-2.0 */
/* A recipe held against the tool that it is for: llama-quantize says in a dry run what it would
 * make of every tensor, without converting any, and that has to be the plan. Its patterns,
 * fall-backs and tables change between versions; what the user has installed is what counts. */
#include "cli/recipe.h"
#include "cli/steps.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTPUT_MOST = 64 << 20, WORDS_MOST = 64 };

/* The tool in MIXBIT_LLAMA_BIN, else the name, for PATH; free(). */
static char *find_tool(void)
{
    const char *folder = getenv("MIXBIT_LLAMA_BIN");
    return folder != NULL && folder[0] != '\0' ? mb_path_join(folder, "llama-quantize")
                                               : strdup("llama-quantize");
}

/* Everything that the program prints, ended by a NUL; NULL: out of memory, or too much. */
static char *read_all(int descriptor)
{
    size_t length = 0, room = 1 << 16;
    char *text = malloc(room);
    while (text != NULL) {
        const ssize_t got = read(descriptor, text + length, room - length - 1);
        if (got < 0 && errno == EINTR && !mb_interrupted())
            continue;
        if (got <= 0)
            break;
        length += (size_t)got;
        if (length + 1 < room)
            continue;
        char *grown = room < OUTPUT_MOST ? realloc(text, 2 * room) : NULL;
        if (grown == NULL)
            free(text);
        text = grown;
        room *= 2;
    }
    if (text != NULL)
        text[length] = '\0';
    return text;
}

static int start(char *const *words, int output, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    extern char **environ;
    int failed = posix_spawn_file_actions_init(&actions);
    if (failed != 0)
        return failed;
    failed = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (failed == 0)
        failed = posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    if (failed == 0)
        failed = posix_spawnp(child, words[0], &actions, NULL, words, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    return failed;
}

/* The last line that says something, for a message. */
static const char *last_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' '))
        text[--length] = '\0';
    const char *line = strrchr(text, '\n');
    return line != NULL ? line + 1 : text;
}

/* What the tool prints, both streams; free(). */
static enum mb_status run_tool(struct mb_cli *cli, char *const *words, char **text)
{
    int ends[2], status = 0;
    pid_t child;
    *text = NULL;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return mb_error_set(&cli->error, MB_ERR_IO, errno, "cannot create a pipe: %s",
                            strerror(errno));
    const int failed = start(words, ends[1], &child);
    (void)close(ends[1]);
    if (failed != 0) {
        (void)close(ends[0]);
        return mb_error_set(
            &cli->error, MB_ERR_IO, failed,
            "cannot run '%s': %s; --check needs llama.cpp's llama-quantize, in PATH "
            "or in the folder that MIXBIT_LLAMA_BIN names",
            words[0], strerror(failed));
    }
    *text = read_all(ends[0]);
    (void)close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (mb_interrupted())
        return mb_error_set(&cli->error, MB_ERR_INTERRUPTED, -1, "interrupted");
    if (*text == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "no memory for what '%s' prints",
                            words[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return mb_error_set(&cli->error, MB_ERR_FILE, -1, "'%s --dry-run' failed: %s", words[0],
                            last_line(*text));
    return MB_OK;
}

/* One line of the tool's list,
 *
 *   [ 33/ 57] blk.3.attn_q.weight - [ 256, 256, 1, 1], type = f16, size = 0.12 MiB -> 0.04 MiB
 * (q4_K)
 *
 * where what is kept has no arrow. The line is cut into pieces. */
struct line {
    const char *name, *type;
    bool converted;
};

static bool read_line(char *text, struct line *line)
{
    char *name = text[0] == '[' ? strchr(text, ']') : NULL;
    char *type = name != NULL ? strstr(name, "type = ") : NULL;
    if (type == NULL)
        return false;
    name += 1 + strspn(name + 1, " ");
    type += strlen("type = ");
    type += strspn(type, " ");
    char *arrow = strstr(type, "->"), *made = arrow != NULL ? strchr(arrow, '(') : NULL;
    name[strcspn(name, " ")] = '\0';
    type[strcspn(type, ", ")] = '\0';
    *line = (struct line){.name = name, .type = type, .converted = made != NULL};
    if (made != NULL) {
        made[strcspn(made, ")")] = '\0';
        line->type = made + 1;
    }
    return true;
}

static enum mb_status note(struct mb_recipe_check *check, const char *tensor, const char *planned,
                           const char *made)
{
    json_t *difference =
        json_pack("{s:s, s:s*, s:s*}", "tensor", tensor, "planned", planned, "made", made);
    return json_array_append_new(check->differences, difference) == 0 ? MB_OK : MB_ERR_MEMORY;
}

static enum mb_status compare(const struct mb_plan *plan, char *text, struct mb_recipe_check *check)
{
    enum mb_status status = MB_OK;
    bool *seen = calloc(plan->count, sizeof *seen);
    if (seen == NULL)
        return MB_ERR_MEMORY;
    for (char *next, *at = text; status == MB_OK && at != NULL; at = next) {
        struct line line;
        next = strchr(at, '\n');
        if (next != NULL)
            *next++ = '\0';
        if (!read_line(at, &line))
            continue;
        size_t i = 0;
        while (i < plan->count && strcmp(plan->entries[i].name, line.name) != 0)
            i++;
        check->listed++;
        const char *planned =
            i < plan->count ? mb_format_info(plan->entries[i].format)->name : NULL;
        if (i < plan->count)
            seen[i] = true;
        if (planned != NULL ? strcasecmp(planned, line.type) != 0 : line.converted)
            status = note(check, line.name, planned, line.type);
    }
    for (size_t i = 0; i < plan->count && status == MB_OK; i++)
        if (!seen[i])
            status = note(check, plan->entries[i].name,
                          mb_format_info(plan->entries[i].format)->name, NULL);
    free(seen);
    return status;
}

enum mb_status mb_recipe_check(struct mb_cli *cli, const struct mb_plan *plan, const char *path,
                               const char *model, struct mb_recipe_check *check)
{
    char *words[WORDS_MOST + 1] = {0}, *text = NULL;
    char *tool = find_tool();
    char *command = tool != NULL ? mb_recipe_dry_run(plan, tool, path, model) : NULL;
    *check = (struct mb_recipe_check){.differences = json_array()};
    size_t count = 0;
    for (char *word = command; word != NULL && word[0] != '\0' && count < WORDS_MOST;
         word += strlen(word) + 1)
        words[count++] = word;
    enum mb_status status = command != NULL && check->differences != NULL ? MB_OK : MB_ERR_MEMORY;
    if (status == MB_OK)
        status = run_tool(cli, words, &text);
    if (status == MB_OK)
        status = compare(plan, text, check);
    if (status == MB_OK && check->listed == 0)
        status = mb_error_set(&cli->error, MB_ERR_FILE, -1,
                              "'%s --dry-run' lists no tensors: its version is not one that mixbit "
                              "understands",
                              tool);
    else if (status == MB_ERR_MEMORY)
        status = mb_error_set(&cli->error, status, -1, "out of memory while checking the recipe");
    free(text);
    free(command);
    free(tool);
    return status;
}
