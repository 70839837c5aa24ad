/* SPDX-License-Identifier: Apache-2.0 */
/* Files that appear whole or not at all, and files read whole.
 *
 * A writer fills a temporary neighbour ("name.tmp.XXXXXX", same folder, so rename cannot cross file
 * systems), syncs it and renames it over the target. Whatever goes wrong before the rename leaves
 * the target as it was and removes the neighbour; of a writer that was killed the next one of the
 * same file does. Write errors are kept and told once, by commit,
 * so that callers may write without checking each call. */
#include "support/support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 18 };

struct mb_file {
    int descriptor;
    int error;        /* first errno that a write met */
    uint64_t written; /* where the next byte goes */
    size_t buffered;
    char *path, *temporary;
    char buffer[BUFFER_BYTES];
};

/* What to do about an errno, as the end of a sentence. */
static const char *advice(int code)
{
    switch (code) {
    case ENOSPC:
    case EDQUOT: return "; free some space or choose another folder";
    case EACCES:
    case EPERM: return "; check the permissions or choose another folder";
    case EROFS: return "; choose a folder that can be written";
    case ENOENT: return "; check the path";
    case EFBIG: return "; the file system cannot hold a file of this size";
    default: return "";
    }
}

static enum mb_status io_error(struct mb_error *error, const char *verb, const char *path, int code)
{
    return mb_error_set(error, code == ENOMEM ? MB_ERR_MEMORY : MB_ERR_IO, -1,
                        "cannot %s '%s': %s%s", verb, path, strerror(code), advice(code));
}

/* The folder part of a path, "." when there is none; free() it. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        return strdup(".");
    return strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

/* mkstemp makes files of mode 0600; a finished file gets what open(..., 0666) would have given, or
 * keeps the mode of the file it replaces. */
static void set_mode(int descriptor, const struct stat *old)
{
    mode_t mode;
    if (old != NULL) {
        mode = old->st_mode & 0777;
    } else {
        const mode_t mask = umask(0);
        umask(mask);
        mode = 0666 & ~mask;
    }
    if (fchmod(descriptor, mode) != 0)
        return; /* some network file systems refuse; the content matters more */
}

static const char marker[] = ".tmp.";
enum { RANDOM_LETTERS = 6, ATTEMPTS = 8 };

/* Whether a name is that of a temporary neighbour of `base`. */
static bool is_temporary_of(const char *name, const char *base)
{
    const size_t length = strlen(base);
    return strncmp(name, base, length) == 0 &&
           strncmp(name + length, marker, sizeof marker - 1) == 0 &&
           strlen(name) == length + sizeof marker - 1 + RANDOM_LETTERS;
}

/* Remove a file unless somebody holds its lock. */
static void remove_unlocked(int folder, const char *name)
{
    struct stat info;
    const int descriptor = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return;
    if (fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
        flock(descriptor, LOCK_EX | LOCK_NB) == 0)
        (void)unlinkat(folder, name, 0);
    (void)close(descriptor);
}

/* What writers of the same file left behind when they were killed: a lock ends with its process. */
static void remove_left_behind(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash != NULL ? slash + 1 : path;
    char *folder = folder_of(path);
    DIR *directory = folder != NULL ? opendir(folder) : NULL;
    free(folder);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (is_temporary_of(entry->d_name, base))
            remove_unlocked(dirfd(directory), entry->d_name);
    (void)closedir(directory);
}

/* A locked temporary neighbour; -1 and errno. One that was taken for left behind between its making
 * and its locking is gone: then another. Where files can't be locked nobody takes any. */
static int create_temporary(const char *path, char *temporary)
{
    const size_t length = strlen(path);
    for (int i = 0; i < ATTEMPTS; i++) {
        struct stat info;
        memcpy(temporary, path, length);
        memcpy(temporary + length, ".tmp.XXXXXX", sizeof ".tmp.XXXXXX");
        const int descriptor = mkstemp(temporary);
        if (descriptor < 0)
            return -1;
        (void)flock(descriptor, LOCK_EX);
        if (fstat(descriptor, &info) != 0 || info.st_nlink > 0)
            return descriptor;
        (void)close(descriptor);
    }
    errno = EBUSY;
    return -1;
}

enum mb_status mb_file_create(const char *path, struct mb_file **file, struct mb_error *error)
{
    *file = NULL;
    if (path == NULL || path[0] == '\0')
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "an output file needs a name");
    struct stat old;
    const bool exists = stat(path, &old) == 0;
    if (exists && S_ISDIR(old.st_mode))
        return mb_error_set(error, MB_ERR_IO, -1, "cannot write '%s': it is a folder; name a file",
                            path);
    if (exists && !S_ISREG(old.st_mode))
        return mb_error_set(
            error, MB_ERR_IO, -1,
            "cannot write '%s': it is not a regular file; name a new or a regular file", path);

    struct mb_file *f = malloc(sizeof *f);
    const size_t room = strlen(path) + sizeof ".tmp.XXXXXX";
    if (f == NULL)
        return io_error(error, "write", path, ENOMEM);
    *f = (struct mb_file){.descriptor = -1, .path = strdup(path), .temporary = malloc(room)};
    if (f->path == NULL || f->temporary == NULL) {
        mb_file_abandon(f);
        return io_error(error, "write", path, ENOMEM);
    }
    remove_left_behind(path);
    f->descriptor = create_temporary(path, f->temporary);
    if (f->descriptor < 0) {
        const int code = errno;
        mb_file_abandon(f);
        return io_error(error, "write", path, code);
    }
    set_mode(f->descriptor, exists ? &old : NULL);
    *file = f;
    return MB_OK;
}

static void write_through(struct mb_file *file, const char *data, size_t bytes)
{
    while (bytes > 0 && file->error == 0) {
        const size_t step = bytes < ((size_t)1 << 30) ? bytes : (size_t)1 << 30;
        const ssize_t done = write(file->descriptor, data, step);
        if (done < 0) {
            if (errno != EINTR)
                file->error = errno;
            continue;
        }
        if (done == 0) {
            file->error = ENOSPC;
            continue;
        }
        data += done;
        bytes -= (size_t)done;
    }
}

static void flush(struct mb_file *file)
{
    write_through(file, file->buffer, file->buffered);
    file->buffered = 0;
}

enum mb_status mb_file_write(struct mb_file *file, const void *data, size_t bytes)
{
    file->written += bytes;
    if (bytes > BUFFER_BYTES - file->buffered)
        flush(file);
    if (bytes >= BUFFER_BYTES) {
        write_through(file, data, bytes);
    } else if (bytes > 0) {
        memcpy(file->buffer + file->buffered, data, bytes);
        file->buffered += bytes;
    }
    return file->error == 0 ? MB_OK : MB_ERR_IO;
}

uint64_t mb_file_tell(const struct mb_file *file) { return file->written; }

void mb_file_seek(struct mb_file *file, uint64_t at)
{
    flush(file);
    if (lseek(file->descriptor, (off_t)at, SEEK_SET) < 0 && file->error == 0)
        file->error = errno;
    file->written = at;
}

/* A rename is durable once its folder is synced; a file system that cannot sync folders is no
 * reason to fail. */
static void sync_folder(const char *path)
{
    char *folder = folder_of(path);
    if (folder == NULL)
        return;
    const int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        (void)fsync(descriptor);
        (void)close(descriptor);
    }
    free(folder);
}

enum mb_status mb_file_commit(struct mb_file *file, struct mb_error *error)
{
    flush(file);
    if (file->error == 0 && fsync(file->descriptor) != 0 && errno != EINVAL)
        file->error = errno;
    if (close(file->descriptor) != 0 && file->error == 0)
        file->error = errno;
    file->descriptor = -1;
    if (file->error == 0 && rename(file->temporary, file->path) != 0)
        file->error = errno;
    if (file->error != 0) {
        const enum mb_status status = io_error(error, "write", file->path, file->error);
        (void)unlink(file->temporary);
        file->temporary[0] = '\0';
        mb_file_abandon(file);
        return status;
    }
    sync_folder(file->path);
    file->temporary[0] = '\0';
    mb_file_abandon(file);
    return MB_OK;
}

void mb_file_abandon(struct mb_file *file)
{
    if (file == NULL)
        return;
    if (file->descriptor >= 0) {
        (void)close(file->descriptor);
        (void)unlink(file->temporary);
    }
    free(file->temporary);
    free(file->path);
    free(file);
}

static enum mb_status too_large(struct mb_error *error, const char *path, size_t max_bytes)
{
    return mb_error_set(
        error, MB_ERR_FILE, -1,
        "'%s' is larger than the %zu bytes allowed here; check that it is the file you meant", path,
        max_bytes);
}

/* Read to the end, growing: works for pipes as well as for files. */
static enum mb_status read_all(int descriptor, const char *path, size_t max_bytes, char **data,
                               size_t *bytes, struct mb_error *error)
{
    struct stat info;
    size_t room = 1 << 16;
    if (fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
        if ((uint64_t)info.st_size > max_bytes)
            return too_large(error, path, max_bytes);
        room = (size_t)info.st_size + 2;
    }
    size_t used = 0;
    char *memory = malloc(room);
    while (memory != NULL) {
        const ssize_t got = read(descriptor, memory + used, room - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            const int code = errno;
            free(memory);
            return io_error(error, "read", path, code);
        }
        used += (size_t)got;
        if (used > max_bytes) {
            free(memory);
            return too_large(error, path, max_bytes);
        }
        if (got == 0) {
            memory[used] = '\0';
            *data = memory;
            *bytes = used;
            return MB_OK;
        }
        if (used + 1 == room) {
            char *grown = mb_mul_size(room, 2, &room) ? realloc(memory, room) : NULL;
            if (grown == NULL)
                free(memory);
            memory = grown;
        }
    }
    return io_error(error, "read", path, ENOMEM);
}

enum mb_status mb_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes,
                            struct mb_error *error)
{
    *data = NULL;
    *bytes = 0;
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return io_error(error, "read", path, errno);
    const enum mb_status status = read_all(descriptor, path, max_bytes, data, bytes, error);
    (void)close(descriptor);
    return status;
}

enum mb_status mb_mapping_open(const char *path, struct mb_mapping *mapping, struct mb_error *error)
{
    *mapping = (struct mb_mapping){NULL, 0};
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return io_error(error, "read", path, errno);
    enum mb_status status = MB_OK;
    struct stat info;
    if (fstat(descriptor, &info) != 0) {
        status = io_error(error, "read", path, errno);
    } else if (!S_ISREG(info.st_mode)) {
        status =
            mb_error_set(error, MB_ERR_IO, -1, "cannot read '%s': it is %s; name a regular file",
                         path, S_ISDIR(info.st_mode) ? "a folder" : "not a regular file");
    } else if (info.st_size > 0) {
        void *memory = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (memory == MAP_FAILED)
            status = io_error(error, "map", path, errno);
        else
            *mapping = (struct mb_mapping){memory, (size_t)info.st_size};
    }
    (void)close(descriptor);
    return status;
}

void mb_mapping_close(struct mb_mapping *mapping)
{
    union {
        const uint8_t *read_only;
        void *any;
    } data = {.read_only = mapping->data}; /* munmap takes a pointer to non-const */
    if (mapping->data != NULL)
        (void)munmap(data.any, mapping->bytes);
    *mapping = (struct mb_mapping){NULL, 0};
}

enum mb_status mb_directory_create(const char *path, struct mb_error *error)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return io_error(error, "create the folder", path, ENOMEM);
    enum mb_status status = MB_OK;
    for (char *at = copy + (copy[0] == '/'); status == MB_OK; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        const char end = *at;
        *at = '\0';
        struct stat info;
        if (copy[0] != '\0' && mkdir(copy, 0777) != 0) {
            const int code =
                errno; /* EROFS and EACCES also come for folders that are there already */
            if (stat(copy, &info) != 0)
                status = io_error(error, "create the folder", copy, code);
            else if (!S_ISDIR(info.st_mode))
                status = io_error(error, "create the folder", copy, ENOTDIR);
        }
        *at = end;
        if (end == '\0')
            break;
    }
    free(copy);
    return status;
}
