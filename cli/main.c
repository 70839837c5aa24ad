/* SPDX-License-Identifier: Apache-2.0 */
/* mixbit's entry: find the verb, parse its options, run it, turn its status into one line and an
 * exit status. The first Ctrl-C only sets a flag that long jobs see through their progress
 * callback, so that they save their state; the default action is back for the second one. */
#include "bench/peers/peer.h"
#include "cli/cli.h"
#include "dispatch/backend.h"
#include "dispatch/dispatch.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct mb_verb *const verbs[] = {
#define MB_VERB_ROW(name) &mb_verb_##name,
#include "cli/verbs.def"
};
enum { VERB_COUNT = sizeof verbs / sizeof verbs[0] };

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

bool mb_interrupted(void) { return interrupted != 0; }

/* A file size limit should be an error like any full disk, not the end of the program.
 * SA_RESETHAND gives the second signal its default action; SA_RESTART lets writes and reads that
 * the first one hits go on. A signal that was ignored when we started (nohup) stays ignored. */
static void catch_signals(void)
{
    (void)signal(SIGXFSZ, SIG_IGN);
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old, action = {0};
        action.sa_handler = on_signal;
        action.sa_flags = (int)(SA_RESETHAND | SA_RESTART);
        (void)sigemptyset(&action.sa_mask);
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &action, NULL);
    }
}

int mb_exit_of(enum mb_status status)
{
    switch (status) {
    case MB_OK: return MB_EXIT_DONE;
    case MB_ERR_ARGUMENT: return MB_EXIT_USAGE;
    case MB_ERR_INFEASIBLE: return MB_EXIT_INFEASIBLE;
    case MB_ERR_VERIFY: return MB_EXIT_VERIFY;
    case MB_ERR_INTERRUPTED: return MB_EXIT_INTERRUPTED;
    default: return MB_EXIT_FAILED;
    }
}

/* ---- help and version ---- */

static void print_help(FILE *out)
{
    (void)fprintf(out,
                  "mixbit measures this machine, then gives every tensor of a model the bit width "
                  "that suits both.\n\nUsage: mixbit VERB [arguments] [options]\n\nVerbs:\n");
    for (int i = 0; i < VERB_COUNT; i++)
        (void)fprintf(out, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    (void)fprintf(out, "\n'mixbit VERB --help' shows a verb's options and an example.\n"
                       "Options of every verb: --json --force --verbose --quiet --help. "
                       "'mixbit --version' shows the ISA levels.\n"
                       "Exit status: 0 done, 1 failed, 2 wrong usage, 3 infeasible budget, "
                       "4 a verification failed, 130 interrupted.\n");
}

static void print_version(bool json)
{
    struct mb_isa_info isa;
    struct mb_device_info device = {.size = sizeof device};
    if (mb_device_info(&device) != MB_OK)
        device = (struct mb_device_info){.size = sizeof device};
    if (json) {
        json_t *levels = json_array();
        for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++)
            (void)json_array_append_new(levels,
                                        json_pack("{s:s, s:b, s:b}", "name", isa.name, "supported",
                                                  isa.supported, "allowed", isa.allowed));
        json_t *root = json_pack("{s:s, s:s, s:o}", "version", mb_version(), "build", device.build,
                                 "isa", levels);
        char *text = json_dumps(root, JSON_INDENT(2));
        (void)printf("%s\n", text != NULL ? text : "{}");
        free(text);
        json_decref(root);
        return;
    }
    (void)printf("mixbit %s\nbuild: %s\nISA levels:", mb_version(), device.build);
    for (size_t i = 0; mb_isa_info(i, &isa) == MB_OK; i++)
        (void)printf(" %s%s", isa.name,
                     isa.allowed     ? ""
                     : isa.supported ? " (not allowed)"
                                     : " (not on this machine)");
    (void)printf("\n");
}

static const struct mb_verb *find_verb(const char *name)
{
    for (int i = 0; i < VERB_COUNT; i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

static int unknown_verb(const char *typed)
{
    const char *names[VERB_COUNT + 1];
    for (int i = 0; i < VERB_COUNT; i++)
        names[i] = verbs[i]->name;
    names[VERB_COUNT] = "help";
    const char *near = mb_suggest(typed, names, VERB_COUNT + 1);
    if (near != NULL)
        (void)fprintf(stderr, "mixbit: error: unknown verb '%.60s', did you mean '%s'?\n", typed,
                      near);
    else
        (void)fprintf(stderr, "mixbit: error: unknown verb '%.60s'; see 'mixbit --help'\n", typed);
    return MB_EXIT_USAGE;
}

/* ---- one run ---- */

/* What the environment asks of the library: a name nobody knows is the user's mistake, not a
 * default. */
static enum mb_status check_environment(struct mb_error *error)
{
    const char *isa = getenv("MIXBIT_ISA");
    const char *kernel = getenv("MIXBIT_KERNEL");
    if (isa != NULL && isa[0] != '\0') {
        struct mb_error reason;
        const enum mb_status status = mb_isa_allow(isa, &reason);
        if (status != MB_OK)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1, "MIXBIT_ISA: %.400s", reason.message);
    }
    if (kernel != NULL && kernel[0] != '\0') {
        const struct mb_kernel *found = mb_registry_find(kernel);
        if (found == NULL)
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "MIXBIT_KERNEL: no kernel is named '%.80s'; 'mixbit probe --why' "
                                "lists them",
                                kernel);
    }
    return MB_OK;
}

static void log_line(enum mb_log_level level, const char *line, void *user)
{
    struct mb_cli *cli = user;
    if (level == MB_LOG_WARNING)
        mb_warn(cli, "%s", line);
    else if (cli->common.verbose)
        mb_note(cli, "%s", line);
}

/* Bytes that stdout could not take are a failure too: `mixbit probe --json > /dev/full`. */
static enum mb_status finish_output(struct mb_cli *cli, enum mb_status status)
{
    const bool failed = fflush(stdout) != 0 || ferror(stdout) != 0;
    if (status == MB_OK && failed)
        return mb_error_set(&cli->error, MB_ERR_IO, -1,
                            "cannot write to standard output; is the disk full?");
    return status;
}

static void print_error(const struct mb_cli *cli, enum mb_status status)
{
    const char *reason =
        cli->error.message[0] != '\0' ? cli->error.message : mb_status_string(status);
    const bool bold = mb_terminal_colours(stderr);
    (void)fprintf(stderr, "mixbit %s: %s%s:%s %s\n", cli->verb->name, bold ? "\033[1;31m" : "",
                  status == MB_ERR_INTERRUPTED ? "interrupted" : "error", bold ? "\033[0m" : "",
                  reason);
}

static int run_verb(const struct mb_verb *verb, int argc, char *const *argv)
{
    struct mb_cli cli = {.verb = verb};
    void *options = calloc(1, verb->options_bytes > 0 ? verb->options_bytes : 1);
    enum mb_status status = MB_ERR_MEMORY;
    if (options != NULL)
        status = mb_options_parse(&cli, argc, argv, options);
    if (status == MB_OK && cli.common.help) {
        mb_options_help(verb, stdout);
    } else if (status == MB_OK) {
        mb_log_set(log_line, &cli);
        catch_signals();
        status = check_environment(&cli.error);
        if (status == MB_OK)
            status = verb->run(&cli, options);
        mb_stage_end(&cli);
        mb_log_set(NULL, NULL);
    }
    status = finish_output(&cli, status);
    if (status != MB_OK)
        print_error(&cli, status);
    free(options);
    return mb_exit_of(status);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return MB_EXIT_USAGE;
    }
    const char *name = argv[1];
    const bool help =
        strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;
    if (help && argc == 2) {
        print_help(stdout);
        return fflush(stdout) == 0 ? MB_EXIT_DONE : MB_EXIT_FAILED;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        print_version(argc > 2 && strcmp(argv[2], "--json") == 0);
        return fflush(stdout) == 0 ? MB_EXIT_DONE : MB_EXIT_FAILED;
    }
    mb_backend_register(&mb_backend_ggml);
    const struct mb_verb *verb = find_verb(help ? argv[2] : name);
    if (verb == NULL && !help && name[0] == '-') {
        (void)fprintf(stderr,
                      "mixbit: error: the verb comes first, not '%.60s'; see 'mixbit "
                      "--help'\n",
                      name);
        return MB_EXIT_USAGE;
    }
    if (verb == NULL)
        return unknown_verb(help ? argv[2] : name);
    if (help) {
        mb_options_help(verb, stdout);
        return fflush(stdout) == 0 ? MB_EXIT_DONE : MB_EXIT_FAILED;
    }
    return run_verb(verb, argc - 2, argv + 2);
}
