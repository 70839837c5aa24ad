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
 *   read   no product: n * 16 bytes of the weights, from y_offset * 16, are read, 16 by a lane and
 *          neighbours side by side, by as many groups as there are: what a gemv is compared with.
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
 * n and panels are of this buffer of weights, y starts at its first column. Of codebook matrices
 * scaled_sum_at is where activations as floats begin. */
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

/* NVIDIA's compiler keeps what loops leave rolled index in memory, and Intel's too in kernels as
 * large as those of codebook matrices. */
#if defined(DOT_PTX) || (defined(TABLES) && ROWS <= 4)
#define UNROLL_ROWS _Pragma("unroll")
#else
#define UNROLL_ROWS
#endif

/* Row `r` of this work-item's tile, or the last there is. */
#define ROW(r) (activations + (size_t)min(row0 + (r), m - 1) * row_bytes)
#define RECORD(r) record_at(ROW(r), scale_at, scaled_sum_at, sum_at)

/* Add what codebook matrices keep beside the codes: of a row of activations, every `step`-th. */
#ifdef TABLES
#define ADD_OUTLIERS(f, r, column, first, step)                                                    \
    f = add_outliers(f, weights, min(column, n - 1), first, step,                                  \
                     (__global const float *)(activations + scaled_sum_at) +                       \
                         (size_t)min(row0 + (r), m - 1) * HEAD_OF(weights)->k)
#else
#define ADD_OUTLIERS(f, r, column, first, step)
#endif

/* The tile's rows, and nothing summed of them yet. */
#define START_SUMS                                                                                 \
    UNROLL_ROWS                                                                                    \
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
/* What of the weights is on its way while other is multiplied, for a device that does not bring
 * reads forward itself: chunks, a number that divides CHUNKS; of floats super-blocks. Twice as much
 * gained nothing on an H100. */
#ifdef READ_AHEAD
#define AHEAD (FLOAT_BYTES > 0 ? 8 : 2)
#define UNROLL _Pragma("unroll")
#else
#define AHEAD (FLOAT_BYTES > 0 ? 1 : 0)
#define UNROLL
#endif

#if FLOAT_BYTES
KERNEL multiply(ARGUMENTS)
{
    GROUP_ARRAY(float, parts, PARTS_FLOATS, 0);
    const uint lane = get_local_id(0), part = get_local_id(2);
    const uint panel = get_group_id(0) * PANELS + get_local_id(1), row0 = get_group_id(1) * ROWS;
    const uint k = superblocks * SUPERBLOCK_K; /* what pads is 0 */
    __global const uchar *w = weights + (size_t)min(panel, panels - 1) * k * (LANES * FLOAT_BYTES);
    float f[ROWS];
    UNROLL_ROWS
    for (int r = 0; r < ROWS; r++)
        f[r] = 0;
    for (uint k0 = part * CHUNK_K; k0 < k; k0 += SPLIT * CHUNK_K)
        for (uint j = k0; j < min(k0 + CHUNK_K, k); j += AHEAD * SUPERBLOCK_K) {
            float_unit units[AHEAD];
            UNROLL
            for (int i = 0; i < AHEAD; i++)
                units[i] = load_unit(w, min(j / SUPERBLOCK_K + i, superblocks - 1), lane);
            UNROLL
            for (int i = 0; i < AHEAD * SUPERBLOCK_K; i++) {
                /* Of a pair the odd one is added first. */
                const int at = SUPERBLOCK_K == 2 ? i ^ 1 : i;
                if (j + at >= k)
                    continue;
                const float value = weight_of(units[at / SUPERBLOCK_K], at % SUPERBLOCK_K);
                UNROLL_ROWS
                for (int r = 0; r < ROWS; r++)
                    f[r] = fma(value, load_activation(ROW(r), j + at), f[r]);
            }
        }
    store(f, parts, y + y_offset, y_stride, panel * LANES + lane, n, row0, m);
}
#else
struct weights {
    struct chunk chunk;
    struct chunk_scales scales;
};

static inline void load_weights(block_at block, uint c, uint lane, struct weights *to)
{
    load_chunk(block, c, lane, &to->chunk);
    load_chunk_scales(block, c, lane, &to->scales);
}

KERNEL multiply(ARGUMENTS)
{
    DECLARE_TABLE;
    GROUP_ARRAY(float, parts, PARTS_FLOATS, 0);
    const uint lane = get_local_id(0), part = get_local_id(2);
    const uint panel = get_group_id(0) * PANELS + get_local_id(1), row0 = get_group_id(1) * ROWS;
    const block_at w = first_block(weights, min(panel, panels - 1), superblocks);
    struct record rows[ROWS];
    struct sum sums[ROWS];
    FILL_TABLE;
    START_SUMS;
#if AHEAD
    struct weights ahead[AHEAD];
    if (part < superblocks)
        for (uint c = 0; c < AHEAD; c++)
            load_weights(block_behind(w, part), c, lane, &ahead[c]);
#endif
    for (uint b = part; b < superblocks; b += SPLIT) {
        const block_at block = block_behind(w, b);
        struct block_scales block_scales;
        load_block_scales(block, lane, &block_scales);
        UNROLL
        for (uint c = 0; c < CHUNKS; c++) {
            uint codes[QUADS], q[QUADS];
            struct weights now;
#if AHEAD
            now = ahead[c % AHEAD];
            if (c + AHEAD < CHUNKS)
                load_weights(block, c + AHEAD, lane, &ahead[c % AHEAD]);
            else if (b + SPLIT < superblocks)
                load_weights(block_behind(block, SPLIT), c + AHEAD - CHUNKS, lane,
                             &ahead[c % AHEAD]);
#else
            load_weights(block, c, lane, &now);
#endif
            decode_chunk(&now.chunk, TABLE_OF, codes);
            const uint chunk = b * CHUNKS + c;
            UNROLL_ROWS
            for (int r = 0; r < ROWS; r++) {
                load_quads(&rows[r], chunk, q);
                add_chunk(&sums[r], codes, q, &now.scales, &rows[r], chunk);
            }
        }
        UNROLL_ROWS
        for (int r = 0; r < ROWS; r++)
            add_superblock(&sums[r], &block_scales, &rows[r], b);
    }
    float f[ROWS];
    UNROLL_ROWS
    for (int r = 0; r < ROWS; r++) {
        f[r] = sums[r].f;
        ADD_OUTLIERS(f[r], r, panel * LANES + lane, part, SPLIT);
    }
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
    const block_at w = first_block(weights, min(panel, panels - 1), superblocks);
    struct record rows[ROWS];
    struct sum sums[ROWS];
    FILL_TABLE;
    START_SUMS;
    for (uint b = 0; b < superblocks; b++) {
        const block_at block = block_behind(w, b);
        for (uint c = tile; c < CHUNKS; c += SPLIT) {
            uint codes[QUADS];
            struct chunk chunk;
            load_chunk(block, c, lane, &chunk);
            decode_chunk(&chunk, TABLE_OF, codes);
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
            UNROLL_ROWS
            for (int r = 0; r < ROWS; r++) {
                for (int i = 0; i < QUADS; i++)
                    q[i] = tile_q[(tile * ROWS + r) * ROW_DWORDS + c * QUADS + i];
                add_chunk(&sums[r], codes, q, &scales, &rows[r], b * CHUNKS + c);
            }
        }
        struct block_scales block_scales;
        load_block_scales(block, lane, &block_scales);
        UNROLL_ROWS
        for (int r = 0; r < ROWS; r++)
            add_superblock(&sums[r], &block_scales, &rows[r], b);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const uint column = panel * LANES + lane;
    UNROLL_ROWS
    for (int r = 0; r < ROWS; r++) {
        ADD_OUTLIERS(sums[r].f, r, column, 0, 1);
        if (column < n && row0 + r < m)
            y[y_offset + (size_t)(row0 + r) * y_stride + column] = sums[r].f;
    }
}
#endif

#ifdef READ
#define READS 8 /* in flight, a lane */
KERNEL multiply(ARGUMENTS)
{
    __global const uint4 *from = (__global const uint4 *)weights + y_offset;
    const size_t in_group = (get_local_id(2) * PANELS + get_local_id(1)) * LANES + get_local_id(0);
    const size_t group = LANES * PANELS * SPLIT, step = group * get_num_groups(0);
    uint4 sum = (uint4)(0);
    size_t i = get_group_id(0) * group + in_group;
    for (; i + (READS - 1) * step < n; i += READS * step) {
        uint4 read[READS];
        for (int j = 0; j < READS; j++)
            read[j] = from[i + j * step];
        for (int j = 0; j < READS; j++)
            sum ^= read[j];
    }
    for (; i < n; i += step)
        sum ^= from[i];
    /* Never so, but no compiler knows. */
    if (as_float(sum.x ^ sum.y) == 1 && as_float(sum.z ^ sum.w) == 2 && sum.x == sum.z)
        y[0] = 1;
}
#endif
