/* SPDX-License-Identifier: Apache-2.0 */
/* The list of adapters, and how they find libraries: by folder, by file, or through Python, which
 * is where most machines have them. */
#include "bench/peers/peer.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const struct mb_peer *const mb_peers[] = {&mb_peer_ggml, &mb_peer_onnxruntime, NULL};

bool mb_peer_bind_symbols(void *library, const struct mb_peer_symbol *symbols, size_t count,
                          void *functions, const char **missing)
{
    for (size_t i = 0; i < count; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (address == NULL) {
            *missing = symbols[i].name;
            return false;
        }
        memcpy((char *)functions + symbols[i].offset, &address, sizeof address);
    }
    return true;
}

bool mb_peer_python_folder(const char *package, char path[MB_PEER_PATH])
{
    char command[256];
    snprintf(command, sizeof command,
             "python3 -c \"import importlib.util as u; print(u.find_spec('%s')"
             ".submodule_search_locations[0])\" 2>/dev/null",
             package);
    FILE *pipe = popen(command, "r");
    if (pipe == NULL)
        return false;
    const bool found = fgets(path, MB_PEER_PATH, pipe) != NULL;
    if (pclose(pipe) != 0 || !found)
        return false;
    path[strcspn(path, "\n")] = '\0';
    return path[0] == '/';
}

bool mb_peer_find_file(const char *folder, const char *prefix, char path[MB_PEER_PATH])
{
    size_t best = 0;
    DIR *directory = opendir(folder);
    if (directory == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        const size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || (best != 0 && length >= best))
            continue;
        const int written = snprintf(path, MB_PEER_PATH, "%s/%s", folder, entry->d_name);
        if (written > 0 && written < MB_PEER_PATH)
            best = length;
    }
    (void)closedir(directory);
    return best != 0;
}

bool mb_peer_is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool mb_peer_refuse(char why[MB_PEER_TEXT], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why, MB_PEER_TEXT, format, arguments);
    va_end(arguments);
    return false;
}
