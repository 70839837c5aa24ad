/* SPDX-License-Identifier: Apache-2.0 */
/* What every GPU backend does alike on the host: which tiles serve a product, the build options
 * that make the one source of kernels/gpu into a kernel, the grid and the arguments of a launch.
 * A backend adds the calls of its interface, nothing else. */
#ifndef MIXBIT_DISPATCH_GPU_H
#define MIXBIT_DISPATCH_GPU_H

#include "dispatch/backend.h"
#include "kernels/kernel.h"

/* kernels/gpu/matmul.cl with its includes, as text (made by cmake/embed.cmake). */
extern const char mb_gpu_source[];

/* What a build of matmul.cl is for: a device's own compiler, without or with products of packed
 * bytes, NVIDIA's, or clang, ahead of time, which knows neither the device nor the size of its
 * groups. */
enum mb_gpu_build { MB_GPU_PLAIN, MB_GPU_PACKED_DOT, MB_GPU_NVIDIA, MB_GPU_SPIRV };

/* What a device allows and is good at. */
struct mb_gpu_limits {
    size_t group_items;   /* work-items of a group, at most */
    size_t local_bytes;   /* local memory of a group */
    size_t compute_units; /* groups that run at once, roughly */
    bool is_cpu;          /* an OpenCL device that runs a group's items one after the other */
    enum mb_gpu_build build;
};

/* Numbers that a kernel is built with: ROWS, PANELS and SPLIT of matmul.cl. */
enum mb_gpu_op { MB_GPU_GEMV, MB_GPU_GEMM, MB_GPU_READ };
struct mb_gpu_tile {
    enum mb_gpu_op op;
    unsigned rows, panels, split;
};

/* Tiles worth trying for a product, the default one first. Returns how many. */
enum { MB_GPU_TILES_MAX = 32 };
size_t mb_gpu_tiles(const struct mb_gpu_limits *limits, const struct mb_format_info *info, size_t n,
                    size_t k, size_t m, struct mb_gpu_tile tiles[MB_GPU_TILES_MAX]);

/* Name, revision and knobs: gemv_b4_g32_i8g32_1x32_opencl, split in the knob of that name. */
void mb_gpu_describe(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                     const char *backend, struct mb_backend_kernel *kernel);
/* is_current of a GPU backend. */
bool mb_gpu_is_current(const char *kernel, unsigned revision, enum mb_format format,
                       const char *backend);
struct mb_gpu_tile mb_gpu_tile_of(const struct mb_backend_kernel *kernel);

/* Options of a build. */
enum { MB_GPU_OPTIONS_BYTES = 1024 };
void mb_gpu_options(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                    enum mb_gpu_build build, char options[MB_GPU_OPTIONS_BYTES]);

/* A kernel as SPIR-V, for all tiles of an operation and a number of rows. kernels/gpu/spirv has a
 * file of each name; the table is made of them (cmake/embed_words.cmake) and ends with a NULL. */
struct mb_gpu_module {
    const char *name; /* gemv_b4_g32_i8g32_4: the last number is `rows` of its tiles */
    const uint32_t *words;
    size_t bytes;
};
extern const struct mb_gpu_module mb_gpu_modules[];
enum { MB_GPU_MODULE_NAME_BYTES = 72 };
/* Whether there is to be one for such a tile. */
bool mb_gpu_is_ahead(const struct mb_gpu_tile *tile);
void mb_gpu_module_name(const struct mb_format_info *info, const struct mb_gpu_tile *tile,
                        char name[MB_GPU_MODULE_NAME_BYTES]);
/* NULL: not in this build. */
const struct mb_gpu_module *mb_gpu_module(const struct mb_format_info *info,
                                          const struct mb_gpu_tile *tile);
/* Local memory that such a kernel takes as an argument. */
size_t mb_gpu_group_bytes(const struct mb_format_info *info, const struct mb_gpu_tile *tile);

/* Which planes a coding has, as PLANES of common.clh. */
unsigned mb_gpu_planes(enum mb_coding coding);

/* ---- codebook matrices (gpu_codebook.c) ---- */

struct mb_codebook_weights;

/* Bytes of the tables of widths that kernels look up. */
enum { MB_GPU_CODEBOOK_TABLES = 5 * 64 };

/* What stands in a buffer of weights in front of panels [panel0, panel1) of a codebook matrix
 * (codebook.clh); the panels follow as they are. 0: more than a GPU takes. */
size_t mb_gpu_codebook_bytes(const struct mb_codebook_weights *weights, size_t panel0,
                             size_t panel1);
void mb_gpu_codebook_write(const struct mb_codebook_weights *weights, size_t panel0, size_t panel1,
                           uint8_t *to);

/* The kernel's arguments behind the three buffers, in the order of matmul.cl. */
struct mb_gpu_arguments {
    uint32_t y_offset, y_stride, n, panels, m, superblocks, row_bytes, scale_at, scaled_sum_at,
        sum_at;
};
enum { MB_GPU_ARGUMENTS = sizeof(struct mb_gpu_arguments) / sizeof(uint32_t) };

struct mb_gpu_launch {
    size_t global[3], local[3];
    struct mb_gpu_arguments arguments;
};
/* Outputs [n0, n1) of n, whose panels start the buffer: n0 is a multiple of 16. */
struct mb_gpu_launch mb_gpu_launch(const struct mb_format_info *info,
                                   const struct mb_gpu_tile *tile, size_t n, size_t k, size_t m,
                                   size_t n0, size_t n1);

/* Reading memory and nothing else: the tile, of the format f32 (which is as good as another), and
 * the launch for `bytes` of the buffer of weights from `at`, both multiples of 16. */
enum { MB_GPU_READ_BYTES = 16 };
extern const struct mb_gpu_tile mb_gpu_read_tile;
struct mb_gpu_launch mb_gpu_read_launch(const struct mb_gpu_limits *limits, size_t at,
                                        size_t bytes);

/* Whether a product can be put in 32-bit arguments: MB_ERR_SHAPE and the reason. */
enum mb_status mb_gpu_check_shape(size_t n, size_t k, size_t m, struct mb_error *error);

#endif
