/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory there is to be had. The kernel grants any size and kills later: a buffer larger
 * than what is left has to be refused when it is asked for. */
#include "buffer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The number behind `key` in a file of lines, or the first one when key is NULL; 0: none. */
static unsigned long long read_number(const char *path, const char *key)
{
    unsigned long long value = 0;
    char line[256], word[64];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    while (value == 0 && fgets(line, sizeof line, file) != NULL)
        if (key == NULL) {
            if (sscanf(line, "%llu", &value) != 1)
                break;
        } else if (sscanf(line, "%63[^:]: %llu", word, &value) != 2 || strcmp(word, key) != 0) {
            value = 0;
        }
    (void)fclose(file);
    return value;
}

void mb_ggml_memory(size_t *available, size_t *total)
{
    *total = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    *available = (size_t)read_number("/proc/meminfo", "MemAvailable") * 1024;
    if (*available == 0)
        *available = *total;
    const size_t limit = (size_t)read_number("/sys/fs/cgroup/memory.max", NULL);
    if (limit == 0 || limit >= *total)
        return; /* "max", or no such group */
    const size_t used = (size_t)read_number("/sys/fs/cgroup/memory.current", NULL);
    const size_t left = used < limit ? limit - used : 0;
    *total = limit;
    *available = left < *available ? left : *available;
}
