/* SPDX-License-Identifier: Apache-2.0 */
/* Status strings, error details, the log callback and progress: everything the library has to say,
 * without printing.
 *
 * Messages may quote what a hostile file holds. They are cut to one line here, at the one place
 * they pass through: control characters, which could drive a terminal, become '?'. */
#include "mixbit/status.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

const char *mb_status_string(enum mb_status status)
{
    switch (status) {
    case MB_OK: return "ok";
    case MB_ERR_ARGUMENT: return "argument out of range";
    case MB_ERR_SHAPE: return "shape does not fit the operation";
    case MB_ERR_UNSUPPORTED: return "not supported";
    case MB_ERR_FILE: return "malformed file";
    case MB_ERR_IO: return "input or output failed";
    case MB_ERR_MEMORY: return "out of memory";
    case MB_ERR_STALE: return "belongs to something else";
    case MB_ERR_DEVICE: return "device lost or failed";
    case MB_ERR_INFEASIBLE: return "no plan satisfies the budgets";
    case MB_ERR_INTERRUPTED: return "interrupted; state is saved";
    case MB_ERR_VERIFY: return "a measurement contradicts what was claimed";
    }
    return "unknown status";
}

/* One printable line in `line`. A text that was cut ends in "..." and never in half a UTF-8
 * character. */
static void print_line(char *line, size_t bytes, const char *format, va_list arguments)
{
    const int length = vsnprintf(line, bytes, format, arguments);
    if (length < 0) {
        line[0] = '\0';
        return;
    }
    if ((size_t)length >= bytes) {
        size_t end = bytes - sizeof "...";
        while (end && ((unsigned char)line[end] & 0xc0) == 0x80)
            end--;
        memcpy(line + end, "...", sizeof "...");
    }
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

enum mb_status mb_error_set(struct mb_error *error, enum mb_status status, int64_t where,
                            const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        /* An argument may be the old message itself ("%s: in tensor %s"): build beside, then copy.
         */
        char message[sizeof error->message];
        print_line(message, sizeof message, format, arguments);
        va_end(arguments);
        error->status = status;
        error->where = where;
        memcpy(error->message, message, sizeof message);
    }
    return status;
}

/* Two atomics, not one pair: the callback is installed once, before jobs start, so a reader never
 * sees half of it. */
static _Atomic(mb_log_fn) log_callback;
static _Atomic(void *) log_user;

void mb_log_set(mb_log_fn log, void *user)
{
    atomic_store(&log_user, user);
    atomic_store(&log_callback, log);
}

void mb_log(enum mb_log_level level, const char *format, ...)
{
    const mb_log_fn log = atomic_load(&log_callback);
    if (!log)
        return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    print_line(line, sizeof line, format, arguments);
    va_end(arguments);
    log(level, line, atomic_load(&log_user));
}

enum mb_status mb_progress_report(const struct mb_progress *progress, double done, double total,
                                  const char *note)
{
    if (progress && progress->report &&
        progress->report(progress->user, done, total, note ? note : ""))
        return MB_ERR_INTERRUPTED;
    return MB_OK;
}
