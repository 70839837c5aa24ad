/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes, error details and the log callback that every other header uses.
 *
 * Functions return enum mb_status by value and give results through their last pointers. The
 * library never aborts, exits or prints: what a person should read goes into a struct mb_error or
 * to the log callback. */
#ifndef MIXBIT_STATUS_H
#define MIXBIT_STATUS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MB_API __attribute__((visibility("default")))
#define MB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define MB_API
#define MB_PRINTF(format_index, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum mb_status {
    MB_OK = 0,
    MB_ERR_ARGUMENT = 1,    /* an argument is out of its documented range */
    MB_ERR_SHAPE = 2,       /* m, n, k, a range or a stride does not fit the operation */
    MB_ERR_UNSUPPORTED = 3, /* no kernel, architecture, tokenizer or device feature for this */
    MB_ERR_FILE = 4,        /* a file is malformed, truncated or of another kind */
    MB_ERR_IO = 5,         /* the operating system refused: no such file, no space, no permission */
    MB_ERR_MEMORY = 6,     /* out of memory */
    MB_ERR_STALE = 7,      /* a profile, journal or table belongs to something else */
    MB_ERR_DEVICE = 8,     /* the device was lost or failed */
    MB_ERR_INFEASIBLE = 9, /* no plan satisfies the budgets */
    MB_ERR_INTERRUPTED =
        10, /* the interrupt callback asked to stop; state is saved, the job can be resumed */
    MB_ERR_VERIFY = 11 /* a measurement contradicts what was claimed */
};

/** The name and meaning of a status, a static string; unknown values give "unknown status". */
MB_API const char *mb_status_string(enum mb_status status);

/** Details of a failure, filled by loaders, parsers and solvers when the caller passes one (NULL is
 * always allowed). */
struct mb_error {
    enum mb_status status;
    int64_t where; /* byte offset (binary files) or line (text files); -1 when neither applies */
    char message[512]; /* one line: what was found, what was expected, what to do */
};

/** Fill *error (NULL allowed) from a printf format; returns status, so `return mb_error_set(...)`
 * reads well. */
MB_API enum mb_status mb_error_set(struct mb_error *error, enum mb_status status, int64_t where,
                                   const char *format, ...) MB_PRINTF(4, 5);

enum mb_log_level { MB_LOG_DEBUG = 0, MB_LOG_INFO = 1, MB_LOG_WARNING = 2 };

/** Receives one line without a newline. Called from the thread that runs the public function. */
typedef void (*mb_log_fn)(enum mb_log_level level, const char *line, void *user);

/** Install the process-wide log callback; NULL (the default) drops messages. */
MB_API void mb_log_set(mb_log_fn log, void *user);
MB_API void mb_log(enum mb_log_level level, const char *format, ...) MB_PRINTF(2, 3);

/**
 * Long jobs report through this. `done` of `total` units of work; `note` says what is going on
 * ("blk.3.ffn_up q4_K"). Return non-zero to stop: the job saves its state and returns
 * MB_ERR_INTERRUPTED.
 */
struct mb_progress {
    int (*report)(void *user, double done, double total, const char *note);
    void *user;
};

/** Report to *progress (NULL allowed); MB_ERR_INTERRUPTED when the callback asks to stop, else
 * MB_OK. */
MB_API enum mb_status mb_progress_report(const struct mb_progress *progress, double done,
                                         double total, const char *note);

#ifdef __cplusplus
}
#endif
#endif
