/* SPDX-License-Identifier: Apache-2.0 */
/* Progress and messages on stderr. One line at the bottom of a terminal is redrawn at most ten
 * times a second; when stderr is no terminal, a stage is one line, so that logs stay readable.
 * Everything is ASCII and cut to the terminal's width, so that a redraw never wraps. */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { REDRAW_NS = 100000000, LOG_SECONDS = 30, BAR = 24 };

/* The one stage under way. Progress is reported from the thread that runs the verb, so a plain
 * static does. */
static struct {
    bool active, drawn, terminal;
    char title[128];
    uint64_t begun_ns, redrawn_ns;
    double
        first_done; /* where the first report found the job: a resumed one starts in the middle */
    uint64_t first_ns;
} stage;

size_t mb_terminal_width(FILE *stream)
{
    struct winsize size;
    if (isatty(fileno(stream)) == 0)
        return SIZE_MAX;
    if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    const char *columns = getenv("COLUMNS");
    const unsigned long given = columns != NULL ? strtoul(columns, NULL, 10) : 0;
    return given > 0 ? given : 80;
}

bool mb_terminal_colours(FILE *stream)
{
    const char *no_colour = getenv("NO_COLOR");
    const char *kind = getenv("TERM");
    if (no_colour != NULL && no_colour[0] != '\0')
        return false;
    return isatty(fileno(stream)) != 0 && kind != NULL && strcmp(kind, "dumb") != 0;
}

static bool is_terminal(void)
{
    const char *kind = getenv("TERM");
    return isatty(STDERR_FILENO) != 0 && (kind == NULL || strcmp(kind, "dumb") != 0);
}

static void clear_line(void)
{
    if (stage.drawn)
        (void)fputs("\r\033[K", stderr);
    stage.drawn = false;
}

/* "4:05", "1:02:03". */
static void print_time(char *text, size_t text_bytes, double seconds)
{
    const unsigned long whole = seconds < 0 ? 0 : seconds > 1e7 ? 10000000 : (unsigned long)seconds;
    if (whole >= 3600)
        (void)snprintf(text, text_bytes, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60,
                       whole % 60);
    else
        (void)snprintf(text, text_bytes, "%lu:%02lu", whole / 60, whole % 60);
}

void mb_stage_begin(struct mb_cli *cli, const char *format, ...)
{
    mb_stage_end(cli);
    memset(&stage, 0, sizeof stage);
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(stage.title, sizeof stage.title, format, arguments);
    va_end(arguments);
    stage.active = true;
    stage.terminal = is_terminal();
    stage.begun_ns = stage.redrawn_ns = mb_now_ns();
    if (cli->common.quiet)
        return;
    (void)fprintf(stderr, "%s%s", stage.title, stage.terminal ? "" : "\n");
    stage.drawn = stage.terminal;
}

void mb_stage_end(struct mb_cli *cli)
{
    if (!stage.active)
        return;
    clear_line();
    const double seconds = (double)(mb_now_ns() - stage.begun_ns) * 1e-9;
    if (!cli->common.quiet && (stage.terminal || cli->common.verbose))
        (void)fprintf(stderr, "%s: %s, %.1f s\n", stage.title,
                      mb_interrupted() ? "stopped" : "done", seconds);
    stage.active = false;
}

static void draw(double share, double left, const char *note)
{
    char line[256], bar[BAR + 1], time[32] = "";
    const int filled = (int)(share * BAR);
    for (int i = 0; i < BAR; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR] = '\0';
    if (left >= 0)
        print_time(time, sizeof time, left);
    (void)snprintf(line, sizeof line, "%s [%s] %3.0f %% %s%s %s", stage.title, bar, 100 * share,
                   time, left >= 0 ? " left" : "", note != NULL ? note : "");
    const size_t width = mb_terminal_width(stderr);
    (void)fprintf(stderr, "\r\033[K%.*s", (int)(width > 1 && width < 255 ? width - 1 : 254), line);
    (void)fflush(stderr);
    stage.drawn = true;
}

static int report(void *user, double done, double total, const char *note)
{
    struct mb_cli *cli = user;
    const uint64_t now = mb_now_ns();
    const bool begins = stage.first_ns == 0;
    if (begins) {
        stage.first_ns = now;
        stage.first_done = done;
    }
    const double spent = (double)(now - stage.first_ns) * 1e-9, made = done - stage.first_done;
    const double left = made > 0 && spent > 0.5 ? spent / made * (total - done) : -1;
    double share = total > 0 ? done / total : 0;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    if (stage.active && !cli->common.quiet) {
        if (stage.terminal && (begins || now - stage.redrawn_ns >= REDRAW_NS)) {
            draw(share, left, note);
            stage.redrawn_ns = now;
        } else if (!stage.terminal && cli->common.verbose &&
                   now - stage.redrawn_ns >= (uint64_t)LOG_SECONDS * 1000000000) {
            char time[32] = "?";
            if (left >= 0)
                print_time(time, sizeof time, left);
            (void)fprintf(stderr, "%s: %.0f %%, %s left, %s\n", stage.title, 100 * share, time,
                          note != NULL ? note : "");
            stage.redrawn_ns = now;
        }
    }
    return mb_interrupted() ? 1 : 0;
}

const struct mb_progress *mb_stage_progress(struct mb_cli *cli)
{
    static struct mb_progress progress;
    progress = (struct mb_progress){report, cli};
    return &progress;
}

void mb_note(struct mb_cli *cli, const char *format, ...)
{
    if (cli->common.quiet)
        return;
    clear_line();
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}

void mb_warn(struct mb_cli *cli, const char *format, ...)
{
    clear_line();
    const bool colours = mb_terminal_colours(stderr);
    (void)fprintf(stderr, "mixbit %s: %swarning:%s ", cli->verb->name, colours ? "\033[33m" : "",
                  colours ? "\033[0m" : "");
    va_list arguments;
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}
