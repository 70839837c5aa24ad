/* SPDX-License-Identifier: Apache-2.0 */
/* See gpu.h. Tiles: one lane is one output row, so what is to be chosen is how many activation rows
 * it takes, how many panels of 16 lanes make a work-group, and into how many parts k is split
 * (gemv: more reads in flight on a device that would not be full) or how many row tiles share
 * decoded codes (gemm). */
#include "dispatch/gpu.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    REVISION = 2, /* of all GPU kernels: raised when kernels/gpu changes its speed */
    GEMV_ROWS = 8,
    GEMV_MOST = 32, /* rows of activations up to which gemv is tried on NVIDIA's */
    AHEAD_ROWS = 8, /* of what is compiled ahead of time: larger tiles are a sixth of it */
    SPLIT_MOST = 64,
    /* Groups of 16 lanes that a compute unit should have in flight. NVIDIA's is eight others. */
    UNITS_WANTED = 16,
    UNITS_WANTED_NVIDIA = 48,  /* half as many where eight rows take the registers, */
    UNITS_WANTED_FLOATS = 128, /* and more of floats, whose reads are small */
    READ_GROUPS = 8,           /* a compute unit, of the read tile's 256 lanes */
};

const struct mb_gpu_tile mb_gpu_read_tile = {MB_GPU_READ, 1, 2, 8};

/* What a format decodes to: a codebook matrix to what q8_0 does. */
static enum mb_coding coding_of(const struct mb_format_info *info)
{
    return info->codebook ? MB_CODING_B8 : info->coding;
}
static enum mb_scale_kind scale_of(const struct mb_format_info *info)
{
    return info->codebook ? MB_SCALE_G32 : info->scale;
}

static size_t superblocks(const struct mb_format_info *info, size_t k)
{
    const size_t each = mb_scale_superblock_k(scale_of(info));
    return (k + each - 1) / each;
}

/* The arrays of matmul.cl; an argument may not be empty. */
size_t mb_gpu_group_bytes(const struct mb_format_info *info, const struct mb_gpu_tile *tile)
{
    const size_t block = mb_scale_superblock_k(scale_of(info));
    if (tile->op == MB_GPU_GEMM)
        return tile->panels * block * MB_PANEL_ROWS + (size_t)tile->rows * tile->split * block;
    const size_t parts = (size_t)(tile->split - 1) * tile->panels * MB_PANEL_ROWS * tile->rows;
    return parts > 0 ? parts * sizeof(float) : sizeof(float);
}

/* With the table of decoded values, or those of codebooks. */
static size_t local_bytes(const struct mb_format_info *info, const struct mb_gpu_tile *tile)
{
    return mb_gpu_group_bytes(info, tile) +
           (info->codebook ? (size_t)MB_GPU_CODEBOOK_TABLES : MB_PANEL_ROWS);
}

static bool fits(const struct mb_gpu_limits *limits, const struct mb_format_info *info, size_t k,
                 const struct mb_gpu_tile *tile)
{
    const bool floats = mb_coding_is_float(info->coding);
    const size_t parts = floats ? (k + MB_CHUNK_K - 1) / MB_CHUNK_K : superblocks(info, k);
    if (tile->op == MB_GPU_GEMV && tile->split > parts)
        return false;
    return (size_t)MB_PANEL_ROWS * tile->panels * tile->split <= limits->group_items &&
           local_bytes(info, tile) <= limits->local_bytes;
}

static bool same_tile(const struct mb_gpu_tile *a, const struct mb_gpu_tile *b)
{
    return a->op == b->op && a->rows == b->rows && a->panels == b->panels && a->split == b->split;
}

static unsigned split_most(const struct mb_gpu_limits *limits)
{
    return limits->is_cpu ? SPLIT_MOST / 4 : SPLIT_MOST;
}

/* Fewest parts of k that fill the device. An OpenCL CPU is full with one group per core. */
static unsigned default_split(const struct mb_gpu_limits *limits, bool floats, size_t n, size_t m,
                              unsigned rows)
{
    const size_t panels = (n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS * ((m + rows - 1) / rows);
    const size_t wanted = limits->build != MB_GPU_NVIDIA ? UNITS_WANTED
                          : floats                       ? UNITS_WANTED_FLOATS
                          : rows < GEMV_ROWS             ? UNITS_WANTED_NVIDIA
                                                         : UNITS_WANTED_NVIDIA / 2;
    unsigned split = 1;
    while (!limits->is_cpu && split < split_most(limits) &&
           panels * split < wanted * limits->compute_units)
        split *= 2;
    return split;
}

struct tiles {
    struct mb_gpu_tile *at;
    size_t count;
};

static void add_tile(struct tiles *tiles, const struct mb_gpu_limits *limits,
                     const struct mb_format_info *info, size_t k, struct mb_gpu_tile tile)
{
    if (tiles->count == MB_GPU_TILES_MAX || !fits(limits, info, k, &tile))
        return;
    for (size_t i = 0; i < tiles->count; i++)
        if (same_tile(&tiles->at[i], &tile))
            return;
    tiles->at[tiles->count++] = tile;
}

/* Tiles of gemv, the default one first. */
static void add_gemv_tiles(struct tiles *tiles, const struct mb_gpu_limits *limits,
                           const struct mb_format_info *info, size_t n, size_t k, size_t m)
{
    static const unsigned panels[] = {2, 1, 4};
    const bool floats = mb_coding_is_float(info->coding);
    unsigned rows = 1;
    while (rows < m && rows < GEMV_ROWS)
        rows *= 2;
    /* The wanted split, or the largest smaller one that fits. */
    for (unsigned split = default_split(limits, floats, n, m, rows); split > 0 && tiles->count == 0;
         split /= 2)
        for (size_t p = 0; p < 2 && tiles->count == 0; p++)
            add_tile(tiles, limits, info, k,
                     (struct mb_gpu_tile){MB_GPU_GEMV, rows, panels[p], split});
    for (size_t p = 0; p < 3; p++)
        for (unsigned split = 1; split <= split_most(limits); split *= 2)
            add_tile(tiles, limits, info, k,
                     (struct mb_gpu_tile){MB_GPU_GEMV, rows, panels[p], split});
}

size_t mb_gpu_tiles(const struct mb_gpu_limits *limits, const struct mb_format_info *info, size_t n,
                    size_t k, size_t m, struct mb_gpu_tile at[MB_GPU_TILES_MAX])
{
    static const struct mb_gpu_tile many[] = {
        {MB_GPU_GEMM, 8, 2, 4},  {MB_GPU_GEMM, 8, 2, 2}, {MB_GPU_GEMM, 16, 2, 2},
        {MB_GPU_GEMM, 16, 2, 4}, {MB_GPU_GEMM, 8, 4, 2}, {MB_GPU_GEMM, 8, 4, 4},
        {MB_GPU_GEMM, 4, 2, 4},  {MB_GPU_GEMM, 4, 1, 4}, {MB_GPU_GEMM, 8, 1, 1}};
    struct tiles tiles = {.at = at};
    const bool floats = mb_coding_is_float(info->coding);
    const bool few = m <= GEMV_ROWS || (limits->build == MB_GPU_NVIDIA && m <= GEMV_MOST);
    if (floats || few)
        add_gemv_tiles(&tiles, limits, info, n, k, m);
    for (size_t i = m <= 16 ? 1 : 0; i < sizeof many / sizeof many[0] && !floats && m > GEMV_ROWS;
         i++)
        add_tile(&tiles, limits, info, k, many[i]);
    return tiles.count;
}

/* What the names of all tiles of a format begin with; its length. */
static int start_name(char *name, size_t bytes, const struct mb_format_info *info,
                      enum mb_gpu_op op)
{
    static const char *const ops[] = {"gemv", "gemm", "read"};
    return snprintf(name, bytes, "%s_%s_%s_%s_", ops[op],
                    info->codebook ? "codebook" : mb_coding_name(info->coding),
                    mb_scale_kind_name(scale_of(info)), mb_activation_name(info->activation));
}

void mb_gpu_describe(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                     const char *backend, struct mb_backend_kernel *kernel)
{
    const bool gemm = tile->op == MB_GPU_GEMM;
    *kernel = (struct mb_backend_kernel){
        .revision = REVISION, .own = {(unsigned)tile->op, tile->rows, tile->panels, tile->split}};
    kernel->knobs[MB_KNOB_SPLIT] = tile->split;
    const size_t at = (size_t)start_name(kernel->name, sizeof kernel->name, info, tile->op);
    (void)snprintf(kernel->name + at, sizeof kernel->name - at, "%ux%u_%s",
                   gemm ? tile->rows * tile->split : tile->rows, tile->panels * MB_PANEL_ROWS,
                   backend);
}

bool mb_gpu_is_current(const char *kernel, unsigned revision, enum mb_format format,
                       const char *backend)
{
    const struct mb_format_info *info = mb_format_info(format);
    const char *last = strrchr(kernel, '_');
    if (info == NULL || last == NULL || revision != REVISION || strcmp(last + 1, backend) != 0)
        return false;
    for (int op = MB_GPU_GEMV; op <= MB_GPU_GEMM; op++) {
        char start[72];
        const int length = start_name(start, sizeof start, info, (enum mb_gpu_op)op);
        if (strncmp(kernel, start, (size_t)length) == 0)
            return true;
    }
    return false;
}

struct mb_gpu_tile mb_gpu_tile_of(const struct mb_backend_kernel *kernel)
{
    return (struct mb_gpu_tile){(enum mb_gpu_op)kernel->own[0], kernel->own[1], kernel->own[2],
                                kernel->own[3]};
}

/* printf onto the end; the room is for every row of codings.def (a test makes them all). */
#define APPEND(text, ...)                                                                          \
    (void)snprintf((text) + strlen(text), MB_GPU_OPTIONS_BYTES - strlen(text), __VA_ARGS__)

unsigned mb_gpu_planes(enum mb_coding c)
{
    return mb_coding_plane1(c) | mb_coding_plane2(c) << 1 | mb_coding_plane3(c) << 2 |
           mb_coding_plane4(c) << 3 | mb_coding_plane8(c) << 4;
}

static void append_layout(const struct mb_format_info *info, char *text)
{
    const enum mb_coding c = coding_of(info);
    const enum mb_scale_kind s = scale_of(info);
    const struct mb_superblock at = mb_superblock_layout(c, s);
    if (info->codebook)
        APPEND(text, " -DTABLES=%d", MB_GPU_CODEBOOK_TABLES);
    else
        APPEND(text, " -DPLANES=%u", mb_gpu_planes(c));
    APPEND(text, " -DDMIN_AT=%u -DSUB_SCALE_AT=%u -DSUB_MIN_AT=%u -DCODES_AT=%u", at.dmin,
           at.sub_scale, at.sub_min, at.codes);
    APPEND(text, " -DCHUNK_BYTES=%u -DBLOCK_BYTES=%u", at.chunk_bytes, at.bytes);
    APPEND(text, " -DGROUP=%u -DTWO_LEVEL=%d -DHAS_MIN=%d -DNUMBER=%d", mb_scale_group(s),
           mb_scale_two_level(s), mb_scale_has_min(s), (int)mb_scale_number(s));
    APPEND(text, " -DBIAS=%d -DUNIT=%.4ff", mb_coding_bias(c, s), (double)mb_coding_unit(c));
    const uint8_t *table = mb_coding_table(c);
    for (size_t i = 0; table != NULL && i < 16; i++)
        APPEND(text, "%s%u", i == 0 ? " -DTABLE=" : ",", table[i]);
}

void mb_gpu_options(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                    enum mb_gpu_build build, char options[MB_GPU_OPTIONS_BYTES])
{
    static const char *const ops[] = {"GEMV", "GEMM", "READ"};
    /* OpenCL C 1.2 where it will do: newer ones are optional for a device to take. */
    static const char *const of_build[] = {"CL1.2 -DREAD_AHEAD", "CL3.0 -DREAD_AHEAD -DDOT_PACKED",
                                           "CL1.2 -DREAD_AHEAD -DDOT_PTX",
                                           "CL3.0 -DANY_GROUP -DDOT_VECTOR"};
    const bool floats = mb_coding_is_float(info->coding);
    options[0] = '\0';
    APPEND(options, "-cl-std=%s -D%s -DROWS=%u", of_build[build], ops[tile->op], tile->rows);
    if (build != MB_GPU_SPIRV)
        APPEND(options, " -DPANELS=%u -DSPLIT=%u", tile->panels, tile->split);
    /* So that two groups of 512 lanes share a unit. */
    if (build == MB_GPU_NVIDIA && tile->rows == 1)
        APPEND(options, " -cl-nv-maxrregcount=64");
    APPEND(options, " -DCODING_%s -DKIND_%s -DACTIVATION_%s", mb_coding_name(coding_of(info)),
           mb_scale_kind_name(scale_of(info)), mb_activation_name(info->activation));
    const struct mb_superblock at = mb_superblock_layout(coding_of(info), scale_of(info));
    APPEND(options, " -DFLOAT_BYTES=%u -DSUPERBLOCK_K=%u",
           floats ? at.bytes / at.k / MB_PANEL_ROWS : 0, at.k);
    if (!floats)
        append_layout(info, options);
}

bool mb_gpu_is_ahead(const struct mb_gpu_tile *tile) { return tile->rows <= AHEAD_ROWS; }

void mb_gpu_module_name(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                        char name[MB_GPU_MODULE_NAME_BYTES])
{
    const size_t at = (size_t)start_name(name, MB_GPU_MODULE_NAME_BYTES, info, tile->op);
    (void)snprintf(name + at, MB_GPU_MODULE_NAME_BYTES - at, "%u", tile->rows);
}

const struct mb_gpu_module *mb_gpu_module(const struct mb_format_info *info,
                                          const struct mb_gpu_tile *tile)
{
    char name[MB_GPU_MODULE_NAME_BYTES];
    mb_gpu_module_name(info, tile, name);
    for (const struct mb_gpu_module *m = mb_gpu_modules; m->name != NULL; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

struct mb_gpu_launch mb_gpu_launch(const struct mb_format_info *info,
                                   const struct mb_gpu_tile *tile, size_t n, size_t k, size_t m,
                                   size_t n0, size_t n1)
{
    const struct mb_activation_layout row = mb_activation_layout(info->activation, k);
    const bool floats = mb_coding_is_float(info->coding);
    const size_t panels = (n1 - n0 + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    const size_t rows = tile->op == MB_GPU_GEMM ? (size_t)tile->rows * tile->split : tile->rows;
    const bool sums_of_16 = !floats && mb_scale_group(scale_of(info)) == 16;
    return (struct mb_gpu_launch){
        .global = {MB_PANEL_ROWS * ((panels + tile->panels - 1) / tile->panels),
                   tile->panels * ((m + rows - 1) / rows), tile->split},
        .local = {MB_PANEL_ROWS, tile->panels, tile->split},
        .arguments = {.y_offset = (uint32_t)n0,
                      .y_stride = (uint32_t)n,
                      .n = (uint32_t)(n1 - n0),
                      .panels = (uint32_t)panels,
                      .m = (uint32_t)m,
                      .superblocks = (uint32_t)superblocks(info, k),
                      .row_bytes = (uint32_t)row.row_bytes,
                      .scale_at = (uint32_t)row.scale,
                      .scaled_sum_at = (uint32_t)row.scaled_sum,
                      .sum_at = (uint32_t)(sums_of_16 ? row.sum16 : row.sum32)}};
}

struct mb_gpu_launch mb_gpu_read_launch(const struct mb_gpu_limits *limits, size_t at, size_t bytes)
{
    const struct mb_gpu_tile tile = mb_gpu_read_tile;
    const size_t groups = limits->compute_units * READ_GROUPS;
    return (struct mb_gpu_launch){.global = {MB_PANEL_ROWS * groups, tile.panels, tile.split},
                                  .local = {MB_PANEL_ROWS, tile.panels, tile.split},
                                  .arguments = {.y_offset = (uint32_t)(at / MB_GPU_READ_BYTES),
                                                .n = (uint32_t)(bytes / MB_GPU_READ_BYTES)}};
}

enum mb_status mb_gpu_check_shape(size_t n, size_t k, size_t m, struct mb_error *error)
{
    const size_t most = (size_t)1 << 28; /* records of k floats stay within 32 bits */
    if (n > 0 && k > 0 && m > 0 && n <= most && k <= most && m <= most)
        return MB_OK;
    return mb_error_set(error, MB_ERR_SHAPE, -1,
                        "a product of m %zu, n %zu, k %zu: a GPU takes 1 to %zu of each", m, n, k,
                        most);
}
