/* SPDX-License-Identifier: Apache-2.0 */
/* Prints what is compiled ahead of time, one "name options" a line: every kernel that some format
 * wants for some tile. scripts/make_spirv and the tests of SPIR-V read it, so there is no list of
 * kernels but the one that tables of formats and tiles give. With the argument `nvidia` options are
 * those of the device's own compiler, for one tile of each name. */
#include "dispatch/gpu.h"

#include <stdio.h>
#include <string.h>

enum { NAMES_MOST = 1024 };
static char names[NAMES_MOST][MB_GPU_MODULE_NAME_BYTES];
static size_t name_count;
static enum mb_gpu_build build = MB_GPU_SPIRV;

static bool is_new(const char *name)
{
    for (size_t i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return false;
    return true;
}

/* False when there is no room for another name. */
static bool print(const struct mb_format_info *info, const struct mb_gpu_tile *tile)
{
    char options[MB_GPU_OPTIONS_BYTES], name[MB_GPU_MODULE_NAME_BYTES];
    mb_gpu_module_name(info, tile, name);
    if (!is_new(name))
        return true;
    if (name_count == NAMES_MOST)
        return false;
    memcpy(names[name_count++], name, sizeof name);
    mb_gpu_options(info, tile, build, options);
    return printf("%s %s\n", name, options) > 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "nvidia") == 0)
        build = MB_GPU_NVIDIA;
    static const struct mb_gpu_limits roomy = {
        .group_items = 1024, .local_bytes = 65536, .compute_units = 32};
    bool good = print(mb_format_info(MB_FORMAT_F32), &mb_gpu_read_tile);
    for (size_t f = 0; mb_any_format_at(f) != NULL; f++)
        for (size_t m = 1; m <= 64; m++) {
            const struct mb_format_info *info = mb_any_format_at(f);
            struct mb_gpu_tile tiles[MB_GPU_TILES_MAX];
            const size_t count = mb_gpu_tiles(&roomy, info, 4096, 4096, m, tiles);
            for (size_t t = 0; t < count && good; t++)
                good = !mb_gpu_is_ahead(&tiles[t]) || print(info, &tiles[t]);
        }
    return good ? 0 : 1;
}
