/* SPDX-License-Identifier: Apache-2.0 */
/* y = x * w for every format, on any OpenCL device: one source, a kernel per build of it.
 *
 *   gemv   few rows. A work-group is [16 lanes][PANELS][SPLIT]: a lane owns one output row and ROWS
 *          activation rows, the parts of SPLIT take super-blocks in turn and are added at the end,
 *          in a fixed order, through local memory. Weights are read once and never shared: what
 *          counts is how many reads are in flight, so k is split until the device is full.
 *   gemm   many rows. [16 lanes][PANELS][SPLIT]: here SPLIT row tiles of ROWS rows each share the
 *          decoded codes and the activations of a super-block in local memory, so a code is decoded
 *          once for ROWS * SPLIT rows. k is not split.
 * Floats have gemv alone, in tiles of ROWS rows.
 *
 * The grid is [panels / PANELS][rows of activations / rows of a group]. Lanes past the last row or
 * panel compute the last one again and store nothing: barriers are met by all.
 *
 * With k in one part a result has the bits of kernels/reference.c: integer dots are exact and the
 * floats are summed in that order. Split, it is a sum of SPLIT such sums, which stays within the
 * bound of formats.def. */
#include "kernels/gpu/common.clh"

/* A build is for one tile, PANELS and SPLIT being options, or, with ANY_GROUP, ahead of time for
 * all tiles of ROWS rows: then the size of the group says which it is, and the host brings local
 * memory as the last argument. Subgroups of 16 are the lanes of a panel: what one reads is one
 * message. */
#ifdef ANY_GROUP
#define PANELS (uint) get_local_size(1)
#define SPLIT (uint) get_local_size(2)
#define KERNEL __kernel __attribute__((intel_reqd_sub_group_size(LANES))) void
#define GROUP_MEMORY , __local uint *group_memory
#define GROUP_ARRAY(type, name, count, behind)                                                     \
    __local type *name = (__local type *)group_memory + (behind)
#else
#define KERNEL __kernel __attribute__((reqd_work_group_size(LANES, PANELS, SPLIT))) void
#define GROUP_MEMORY
#define GROUP_ARRAY(type, name, count, behind) __local type name[count]
#endif

/* What the host passes as 32-bit numbers, in this order (dispatch/gpu.h, struct mb_gpu_arguments).
 * n and panels are of this buffer of weights, y starts at its first column. */
#define ARGUMENTS                                                                                  \
    __global const uchar *weights, __global const uchar *activations, __global float *y,           \
        uint y_offset, uint y_stride, uint n, uint panels, uint m, uint superblocks,               \
        uint row_bytes, uint scale_at, uint scaled_sum_at, uint sum_at GROUP_MEMORY

#if !FLOAT_BYTES
static inline struct record record_at(__global const uchar *row, uint scale_at, uint scaled_sum_at,
                                      uint sum_at)
{
    struct record record;
    record.codes = (__global const uint *)row;
    record.scale = (__global const float *)(row + scale_at);
    record.scaled_sum = (__global const float *)(row + scaled_sum_at);
    record.sum = (__global const short *)(row + sum_at);
    return record;
}
#endif

/* Row `r` of this work-item's tile, or the last there is. */
#define RECORD(r)                                                                                  \
    record_at(activations + (size_t)min(row0 + (r), m - 1) * row_bytes, scale_at, scaled_sum_at,   \
              sum_at)

/* The tile's rows, and nothing summed of them yet. */
#define START_SUMS                                                                                 \
    for (int r = 0; r < ROWS; r++) {                                                               \
        rows[r] = RECORD(r);                                                                       \
        sums[r].f = sums[r].s = 0;                                                                 \
        sums[r].minimum = sums[r].dot = 0;                                                         \
    }

/* Add the parts of k in ascending order and store. */
static inline void store(const float f[ROWS], __local float *parts, __global float *y,
                         uint y_stride, uint column, uint n, uint row0, uint m)
{
    const uint lane = get_local_id(0), panel = get_local_id(1), part = get_local_id(2);
    float total[ROWS];
    for (int r = 0; r < ROWS; r++)
        total[r] = f[r];
    if (SPLIT > 1) {
        __local float *mine = parts + (panel * LANES + lane) * ROWS;
        if (part > 0)
            for (int r = 0; r < ROWS; r++)
                mine[(part - 1) * PANELS * LANES * ROWS + r] = f[r];
        barrier(CLK_LOCAL_MEM_FENCE);
        if (part > 0)
            return;
        for (uint p = 0; p < SPLIT - 1; p++)
            for (int r = 0; r < ROWS; r++)
                total[r] += mine[p * PANELS * LANES * ROWS + r];
    }
    if (column >= n)
        return;
    for (int r = 0; r < ROWS; r++)
        if (row0 + r < m)
            y[(size_t)(row0 + r) * y_stride + column] = total[r];
}

#define PARTS_FLOATS (SPLIT > 1 ? (SPLIT - 1) * PANELS * LANES * ROWS : 1)

#ifdef GEMV
#if FLOAT_BYTES
KERNEL multiply(ARGUMENTS)
{
    GROUP_ARRAY(float, parts, PARTS_FLOATS, 0);
    const uint lane = get_local_id(0), part = get_local_id(2);
    const uint panel = get_group_id(0) * PANELS + get_local_id(1), row0 = get_group_id(1) * ROWS;
    const uint k = superblocks * SUPERBLOCK_K; /* what pads is 0 */
    __global const uchar *w = weights + (size_t)min(panel, panels - 1) * k * (LANES * FLOAT_BYTES);
    float f[ROWS];
    for (int r = 0; r < ROWS; r++)
        f[r] = 0;
    for (uint k0 = part * CHUNK_K; k0 < k; k0 += SPLIT * CHUNK_K)
        for (uint j = k0; j < min(k0 + CHUNK_K, k); j++) {
            const uint i = SUPERBLOCK_K == 2 ? j ^ 1 : j; /* of a pair the odd one is added first */
            const float value = load_weight(w, i, lane);
            for (int r = 0; r < ROWS; r++)
                f[r] =
                    fma(value,
                        load_activation(activations + (size_t)min(row0 + r, m - 1) * row_bytes, i),
                        f[r]);
        }
    store(f, parts, y + y_offset, y_stride, panel * LANES + lane, n, row0, m);
}
#else
KERNEL multiply(ARGUMENTS)
{
    DECLARE_TABLE;
    GROUP_ARRAY(float, parts, PARTS_FLOATS, 0);
    const uint lane = get_local_id(0), part = get_local_id(2);
    const uint panel = get_group_id(0) * PANELS + get_local_id(1), row0 = get_group_id(1) * ROWS;
    __global const uchar *w = weights + (size_t)min(panel, panels - 1) * superblocks * BLOCK_BYTES;
    struct record rows[ROWS];
    struct sum sums[ROWS];
    FILL_TABLE;
    START_SUMS;
    for (uint b = part; b < superblocks; b += SPLIT) {
        __global const uchar *block = w + (size_t)b * BLOCK_BYTES;
        for (uint c = 0; c < CHUNKS; c++) {
            uint codes[QUADS], q[QUADS];
            struct chunk_scales scales;
            decode_chunk(block, c, lane, TABLE_OF, codes);
            load_chunk_scales(block, c, lane, &scales);
            const uint chunk = b * CHUNKS + c;
            for (int r = 0; r < ROWS; r++) {
                for (int i = 0; i < QUADS; i++)
                    q[i] = rows[r].codes[chunk * QUADS + i];
                add_chunk(&sums[r], codes, q, &scales, &rows[r], chunk);
            }
        }
        for (int r = 0; r < ROWS; r++)
            add_superblock(&sums[r], block, lane, &rows[r], b);
    }
    float f[ROWS];
    for (int r = 0; r < ROWS; r++)
        f[r] = sums[r].f;
    store(f, parts, y + y_offset, y_stride, panel * LANES + lane, n, row0, m);
}
#endif
#endif

#ifdef GEMM
#define TILE_ROWS (ROWS * SPLIT)
#define ITEMS (LANES * PANELS * SPLIT)
#define ROW_DWORDS (SUPERBLOCK_K / 4)
#define PANEL_DWORDS (ROW_DWORDS * LANES)

KERNEL multiply(ARGUMENTS)
{
    DECLARE_TABLE;
    GROUP_ARRAY(uint, tile_codes, PANELS * PANEL_DWORDS, 0);
    GROUP_ARRAY(uint, tile_q, TILE_ROWS * ROW_DWORDS, PANELS * PANEL_DWORDS);
    const uint lane = get_local_id(0), own = get_local_id(1), tile = get_local_id(2);
    const uint item = (tile * PANELS + own) * LANES + lane;
    __local uint *own_codes = tile_codes + own * PANEL_DWORDS + lane;
    const uint panel = get_group_id(0) * PANELS + own;
    const uint first = get_group_id(1) * TILE_ROWS, row0 = first + tile * ROWS;
    __global const uchar *w = weights + (size_t)min(panel, panels - 1) * superblocks * BLOCK_BYTES;
    struct record rows[ROWS];
    struct sum sums[ROWS];
    FILL_TABLE;
    START_SUMS;
    for (uint b = 0; b < superblocks; b++) {
        __global const uchar *block = w + (size_t)b * BLOCK_BYTES;
        for (uint c = tile; c < CHUNKS; c += SPLIT) {
            uint codes[QUADS];
            decode_chunk(block, c, lane, TABLE_OF, codes);
            for (int i = 0; i < QUADS; i++)
                own_codes[(c * QUADS + i) * LANES] = codes[i];
        }
        for (uint i = item; i < TILE_ROWS * ROW_DWORDS; i += ITEMS) {
            const uint row = min(first + i / ROW_DWORDS, m - 1);
            __global const uint *q = (__global const uint *)(activations + (size_t)row * row_bytes);
            tile_q[i] = q[b * ROW_DWORDS + i % ROW_DWORDS];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint c = 0; c < CHUNKS; c++) {
            uint codes[QUADS], q[QUADS];
            struct chunk_scales scales;
            load_chunk_scales(block, c, lane, &scales);
            for (int i = 0; i < QUADS; i++)
                codes[i] = own_codes[(c * QUADS + i) * LANES];
            for (int r = 0; r < ROWS; r++) {
                for (int i = 0; i < QUADS; i++)
                    q[i] = tile_q[(tile * ROWS + r) * ROW_DWORDS + c * QUADS + i];
                add_chunk(&sums[r], codes, q, &scales, &rows[r], b * CHUNKS + c);
            }
        }
        for (int r = 0; r < ROWS; r++)
            add_superblock(&sums[r], block, lane, &rows[r], b);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (panel * LANES + lane < n)
        for (int r = 0; r < ROWS; r++)
            if (row0 + r < m)
                y[y_offset + (size_t)(row0 + r) * y_stride + panel * LANES + lane] = sums[r].f;
}
#endif
