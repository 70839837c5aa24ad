/* SPDX-License-Identifier: Apache-2.0 */
/* Append-only journals. One write and one sync per line: whatever stops the process, at most the
 * line that was being written is lost, and the next open cuts it off. */
#include "model/journal.h"

#include "support/support.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHECKSUM = 16, NUMBER = 16, FIXED = 4, MAX_FILE_BYTES = 1 << 28 };
static const char MAGIC[] = "mixbit-journal 1 ";

struct entry {
    char *tensor;
    enum mb_format format;
    struct mb_loss loss;
    double *values;
};

struct mb_journal {
    char *path;
    int descriptor; /* -1: in memory only */
    off_t bytes;
    struct entry *entries;
    size_t count, room, values;
};

static enum mb_status out_of_memory(struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for a journal");
}

static enum mb_status io_error(const struct mb_journal *journal, const char *verb,
                               struct mb_error *error)
{
    const int code = errno;
    return mb_error_set(error, MB_ERR_IO, -1,
                        "cannot %s the journal '%s': %s; free space, or name a journal in a folder "
                        "that can be written",
                        verb, journal->path, strerror(code));
}

/* ---- lines ---- */

static void checksum(const char *text, size_t bytes, char out[CHECKSUM + 1])
{
    char hex[33];
    mb_hash_bytes(text, bytes, hex);
    memcpy(out, hex, CHECKSUM);
    out[CHECKSUM] = '\0';
}

static bool plain(unsigned char c) { return c > ' ' && c < 0x7f && c != '%'; }

static void encode_name(const char *name, char *out)
{
    for (; *name; name++)
        if (plain((unsigned char)*name))
            *out++ = *name;
        else
            out += sprintf(out, "%%%02x", (unsigned)(unsigned char)*name);
    *out = '\0';
}

/* The line of an entry, its newline included; free() it. */
static char *format_entry(const char *tensor, enum mb_format format, const struct mb_loss *loss,
                          const double *values, size_t count)
{
    const struct mb_format_info *info = mb_format_info(format);
    const double numbers[] = {loss->mean, loss->low, loss->high, loss->weight_error};
    const size_t room = CHECKSUM + 1 + 32 + (FIXED + count) * (NUMBER + 1) + 3 * strlen(tensor) + 2;
    char *line = info ? malloc(room) : NULL;
    if (line == NULL)
        return NULL;
    char *at = line + CHECKSUM + 1;
    at += sprintf(at, "%s", info->name);
    for (size_t i = 0; i < FIXED + count; i++) {
        uint64_t bits;
        memcpy(&bits, i < FIXED ? &numbers[i] : &values[i - FIXED], sizeof bits);
        at += sprintf(at, " %016" PRIx64, bits);
    }
    *at++ = ' ';
    encode_name(tensor, at);
    const size_t body = strlen(line + CHECKSUM + 1);
    checksum(line + CHECKSUM + 1, body, line);
    line[CHECKSUM] = ' ';
    memcpy(line + CHECKSUM + 1 + body, "\n", 2);
    return line;
}

static char *format_header(const char *settings)
{
    const size_t body = strlen(MAGIC) + strlen(settings);
    char *line = malloc(CHECKSUM + 1 + body + 2);
    if (line == NULL)
        return NULL;
    sprintf(line + CHECKSUM + 1, "%s%s", MAGIC, settings);
    checksum(line + CHECKSUM + 1, body, line);
    line[CHECKSUM] = ' ';
    memcpy(line + CHECKSUM + 1 + body, "\n", 2);
    return line;
}

/* The part of a line that the checksum covers; NULL when they disagree. */
static const char *checked(const char *line, size_t bytes)
{
    char sum[CHECKSUM + 1];
    if (bytes < CHECKSUM + 1 || line[CHECKSUM] != ' ')
        return NULL;
    checksum(line + CHECKSUM + 1, bytes - CHECKSUM - 1, sum);
    return memcmp(sum, line, CHECKSUM) == 0 ? line + CHECKSUM + 1 : NULL;
}

static bool parse_number(const char *text, double *value)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < NUMBER; i++) {
        const char *digits = "0123456789abcdef", *digit = strchr(digits, text[i]);
        if (text[i] == '\0' || digit == NULL)
            return false;
        bits = bits << 4 | (uint64_t)(digit - digits);
    }
    memcpy(value, &bits, sizeof bits);
    return text[NUMBER] == ' ';
}

static bool decode_name(char *name)
{
    char *out = name;
    for (const char *at = name; *at; at++) {
        if (*at != '%') {
            *out++ = *at;
            continue;
        }
        unsigned byte;
        if (sscanf(at + 1, "%2x", &byte) != 1)
            return false;
        *out++ = (char)byte;
        at += 2;
    }
    *out = '\0';
    return true;
}

static enum mb_status remember(struct mb_journal *journal, const char *tensor,
                               enum mb_format format, const struct mb_loss *loss,
                               const double *values, struct mb_error *error)
{
    if (journal->count == journal->room) {
        const size_t room = journal->room ? 2 * journal->room : 64;
        struct entry *grown = realloc(journal->entries, room * sizeof *grown);
        if (grown == NULL)
            return out_of_memory(error);
        journal->entries = grown;
        journal->room = room;
    }
    char *copy = strdup(tensor);
    double *kept = malloc((journal->values + 1) * sizeof *kept);
    if (copy == NULL || kept == NULL) {
        free(copy);
        free(kept);
        return out_of_memory(error);
    }
    if (journal->values > 0)
        memcpy(kept, values, journal->values * sizeof *kept);
    journal->entries[journal->count++] = (struct entry){copy, format, *loss, kept};
    return MB_OK;
}

/* A line that does not parse is passed over: its probe is run again. */
static enum mb_status parse_entry(struct mb_journal *journal, const char *line, size_t bytes,
                                  struct mb_error *error)
{
    const char *body = checked(line, bytes);
    const char *space = body ? strchr(body, ' ') : NULL;
    const size_t count = FIXED + journal->values;
    if (space == NULL || space - body >= 32 || strlen(space + 1) < count * (NUMBER + 1))
        return MB_OK;
    char format[32];
    memcpy(format, body, (size_t)(space - body));
    format[space - body] = '\0';
    double *numbers = malloc(count * sizeof *numbers);
    char *name = strdup(space + 1 + count * (NUMBER + 1));
    bool sound = true;
    enum mb_status status = MB_OK;
    for (size_t i = 0; numbers != NULL && sound && i < count; i++)
        sound = parse_number(space + 1 + i * (NUMBER + 1), &numbers[i]);
    if (numbers == NULL || name == NULL) {
        status = out_of_memory(error);
    } else if (sound && decode_name(name) && mb_format_by_name(format) != MB_FORMAT_NONE) {
        const struct mb_loss loss = {1, numbers[0], numbers[1], numbers[2], numbers[3]};
        status = remember(journal, name, mb_format_by_name(format), &loss, numbers + FIXED, error);
    }
    free(numbers);
    free(name);
    return status;
}

/* ---- files ---- */

static enum mb_status write_line(struct mb_journal *journal, const char *line,
                                 struct mb_error *error)
{
    const size_t bytes = strlen(line);
    size_t done = 0;
    while (done < bytes) {
        const ssize_t step =
            pwrite(journal->descriptor, line + done, bytes - done, journal->bytes + (off_t)done);
        if (step < 0 && errno == EINTR)
            continue;
        if (step <= 0)
            break;
        done += (size_t)step;
    }
    if (done < bytes || (fdatasync(journal->descriptor) != 0 && errno != EINVAL)) {
        const enum mb_status status = io_error(journal, "write to", error);
        if (ftruncate(journal->descriptor, journal->bytes) != 0)
            return status; /* the torn line is cut off by the next open */
        return status;
    }
    journal->bytes += (off_t)bytes;
    return MB_OK;
}

static enum mb_status not_a_journal(const struct mb_journal *journal, struct mb_error *error)
{
    return mb_error_set(error, MB_ERR_FILE, 1,
                        "'%s' is not a mixbit journal, or its first line is damaged; name another "
                        "file, or delete it if it may go",
                        journal->path);
}

/* Take over what a file holds; journal->bytes ends behind its last whole line. */
static enum mb_status parse(struct mb_journal *journal, char *text, size_t bytes,
                            const char *header, struct mb_error *error)
{
    char *end = memchr(text, '\n', bytes);
    if (end == NULL) /* empty, or stopped while the very first line was written */
        return bytes < strlen(header) && memcmp(text, header, bytes) == 0
                   ? MB_OK
                   : not_a_journal(journal, error);
    *end = '\0';
    const char *body = checked(text, (size_t)(end - text));
    if (body == NULL || strncmp(body, MAGIC, strlen(MAGIC)) != 0)
        return not_a_journal(journal, error);
    if ((size_t)(end - text) != strlen(header) - 1 ||
        memcmp(text, header, (size_t)(end - text)) != 0)
        return mb_error_set(error, MB_ERR_STALE, 1,
                            "the journal '%s' belongs to another job (%.160s); delete it to start "
                            "over, or name another",
                            journal->path, body + strlen(MAGIC));
    enum mb_status status = MB_OK;
    char *line = end + 1;
    for (; status == MB_OK; line = end + 1) {
        end = memchr(line, '\n', bytes - (size_t)(line - text));
        if (end == NULL)
            break;
        *end = '\0';
        status = parse_entry(journal, line, (size_t)(end - line), error);
    }
    journal->bytes = (off_t)(line - text);
    return status;
}

static enum mb_status open_file(struct mb_journal *journal, const char *header,
                                struct mb_error *error)
{
    struct stat info;
    journal->descriptor = open(journal->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (journal->descriptor < 0 || fstat(journal->descriptor, &info) != 0)
        return io_error(journal, "open", error);
    if (!S_ISREG(info.st_mode))
        return mb_error_set(error, MB_ERR_IO, -1,
                            "cannot use '%s' as a journal: it is not a regular file",
                            journal->path);
    if (flock(journal->descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return mb_error_set(error, MB_ERR_IO, -1,
                            "the journal '%s' is in use by another process; wait for it, or name "
                            "another journal",
                            journal->path);
    char *text;
    size_t bytes;
    enum mb_status status = mb_file_read(journal->path, MAX_FILE_BYTES, &text, &bytes, error);
    if (status != MB_OK)
        return status;
    status = parse(journal, text, bytes, header, error);
    free(text);
    if (status != MB_OK)
        return status;
    if (ftruncate(journal->descriptor, journal->bytes) != 0)
        return io_error(journal, "repair", error);
    return journal->bytes == 0 ? write_line(journal, header, error) : MB_OK;
}

enum mb_status mb_journal_open(const char *path, const char *settings, size_t values,
                               struct mb_journal **journal, struct mb_error *error)
{
    *journal = NULL;
    struct mb_journal *made = calloc(1, sizeof *made);
    if (made == NULL)
        return out_of_memory(error);
    made->descriptor = -1;
    made->values = values;
    enum mb_status status = MB_OK;
    if (path != NULL) {
        char *header = format_header(settings);
        made->path = strdup(path);
        status = header && made->path ? open_file(made, header, error) : out_of_memory(error);
        free(header);
    }
    if (status != MB_OK) {
        mb_journal_close(made);
        return status;
    }
    *journal = made;
    return MB_OK;
}

void mb_journal_close(struct mb_journal *journal)
{
    if (journal == NULL)
        return;
    if (journal->descriptor >= 0)
        (void)close(journal->descriptor); /* drops the lock as well */
    for (size_t i = 0; i < journal->count; i++) {
        free(journal->entries[i].tensor);
        free(journal->entries[i].values);
    }
    free(journal->entries);
    free(journal->path);
    free(journal);
}

static const struct entry *find(const struct mb_journal *journal, const char *tensor,
                                enum mb_format format)
{
    for (size_t i = 0; i < journal->count; i++)
        if (journal->entries[i].format == format && strcmp(journal->entries[i].tensor, tensor) == 0)
            return &journal->entries[i];
    return NULL;
}

const struct mb_loss *mb_journal_find(const struct mb_journal *journal, const char *tensor,
                                      enum mb_format format)
{
    const struct entry *entry = find(journal, tensor, format);
    return entry != NULL ? &entry->loss : NULL;
}

const double *mb_journal_values(const struct mb_journal *journal, const char *tensor,
                                enum mb_format format)
{
    const struct entry *entry = find(journal, tensor, format);
    return entry != NULL && journal->values > 0 ? entry->values : NULL;
}

size_t mb_journal_count(const struct mb_journal *journal) { return journal->count; }

enum mb_status mb_journal_append(struct mb_journal *journal, const char *tensor,
                                 enum mb_format format, const struct mb_loss *loss,
                                 const double *values, struct mb_error *error)
{
    if (journal->descriptor >= 0) {
        char *line = format_entry(tensor, format, loss, values, journal->values);
        if (line == NULL)
            return out_of_memory(error);
        const enum mb_status status = write_line(journal, line, error);
        free(line);
        if (status != MB_OK)
            return status;
    }
    return remember(journal, tensor, format, loss, values, error);
}
