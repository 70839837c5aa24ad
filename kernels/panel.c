/* SPDX-License-Identifier: Apache-2.0 */
/* Panels of a whole matrix, for every format at once: a block is split into its fields, and the
 * fields go where the layout of panel.h puts them; unpacking is the same walk backwards.
 *
 * A row owns 4 bytes of every 64-byte plane vector, so a row's 4 codes of a k-quad move as one
 * 32-bit word: mask, shift and or, whatever the plane's width. A row touches nothing but its own
 * lane; the bytes between a super-block's scales and its codes belong to no row and are written
 * with lane 0, which every panel has. */
#include "kernels/panel.h"

#include <string.h>

/* Everything the walk needs to know of a format. */
struct packing {
    const struct mb_format_info *info;
    const struct mb_format_ops *ops;
    struct mb_superblock at;
    size_t superblocks; /* of a panel */
    size_t panel_bytes;
    size_t row_bytes;         /* of a GGUF row */
    size_t scales_end;        /* where the padding before the codes starts */
    unsigned block_k, blocks; /* weights per block, blocks per super-block */
};

static struct packing packing_of(enum mb_format format, size_t k)
{
    struct packing p = {.info = mb_format_info(format), .ops = mb_format_ops(format)};
    p.at = mb_superblock_layout(p.info->coding, p.info->scale);
    p.panel_bytes = mb_panel_bytes(format, k);
    p.row_bytes = mb_format_row_bytes(format, k);
    p.superblocks = p.panel_bytes / p.at.bytes;
    p.block_k = p.info->block_k;
    p.blocks = p.at.k / p.block_k;
    p.scales_end = p.at.sub_min;
    if (p.info->scale == MB_SCALE_G32X2MIN)
        p.scales_end += (size_t)(p.at.k / mb_scale_group(p.info->scale)) * MB_PANEL_ROWS;
    return p;
}

size_t mb_panel_bytes(enum mb_format format, size_t k)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (!info || k % info->block_k)
        return 0;
    const struct mb_superblock at = mb_superblock_layout(info->coding, info->scale);
    const size_t superblocks = k / at.k + (k % at.k != 0);
    return superblocks > SIZE_MAX / at.bytes ? 0 : superblocks * at.bytes;
}

static uint32_t load_word(const uint8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static void store_word(uint8_t *bytes, uint32_t word) { memcpy(bytes, &word, sizeof word); }

/* `bits` of every byte of a word. */
static uint32_t byte_mask(unsigned bits) { return 0x01010101u * ((1u << bits) - 1); }

/* From a plane's first vector to the one that holds weight k: a chunk has `bits` of them. */
static inline size_t vector_offset(const struct mb_superblock *at, unsigned k, unsigned bits)
{
    return (size_t)(k / MB_CHUNK_K) * at->chunk_bytes +
           (size_t)(k % MB_CHUNK_K * bits / MB_CHUNK_K) * MB_QUAD_BYTES;
}

/* Write bits [low, low + bits) of the codes of one row to a plane of `bits` bits; lane points into
 * its first vector. */
static inline void put_plane(const struct mb_superblock *at, const uint8_t *code, unsigned bits,
                             unsigned low, uint8_t *lane)
{
    const unsigned quads = 8 / bits; /* quads that share a vector */
    const uint32_t mask = byte_mask(bits);
    for (unsigned i = 0; i < at->k; i += 4 * quads) {
        uint32_t word = 0;
        for (unsigned j = 0; j < quads; j++)
            word |= (load_word(code + i + 4 * j) >> low & mask) << bits * j;
        store_word(lane + vector_offset(at, i, bits), word);
    }
}

/* The inverse: or the plane's bits into the codes. */
static inline void get_plane(const struct mb_superblock *at, const uint8_t *lane, unsigned bits,
                             unsigned low, uint8_t *code)
{
    const unsigned quads = 8 / bits;
    const uint32_t mask = byte_mask(bits);
    for (unsigned i = 0; i < at->k; i += 4 * quads) {
        const uint32_t word = load_word(lane + vector_offset(at, i, bits));
        for (unsigned j = 0; j < quads; j++) {
            uint8_t *quad = code + i + 4 * j;
            store_word(quad, load_word(quad) | (word >> bits * j & mask) << low);
        }
    }
}

/* Three bits in as many vectors to a chunk: six quads in twos, and the seventh and eighth in what
 * those leave free. */
static void put_plane3(const struct mb_superblock *at, const uint8_t *code, uint8_t *lane)
{
    for (unsigned k = 0; k < at->k; k += MB_CHUNK_K, lane += at->chunk_bytes) {
        const uint8_t *from = code + k;
        const uint32_t last = load_word(from + 24) | load_word(from + 28) << 3;
        for (unsigned i = 0; i < 3; i++)
            store_word(lane + i * MB_QUAD_BYTES, load_word(from + 8 * i) |
                                                     load_word(from + 8 * i + 4) << 3 |
                                                     (last >> 2 * i & byte_mask(2)) << 6);
    }
}

static void get_plane3(const struct mb_superblock *at, const uint8_t *lane, uint8_t *code)
{
    for (unsigned k = 0; k < at->k; k += MB_CHUNK_K, lane += at->chunk_bytes) {
        uint32_t last = 0;
        for (unsigned i = 0; i < 3; i++) {
            const uint32_t word = load_word(lane + i * MB_QUAD_BYTES);
            store_word(code + k + 8 * i, word & byte_mask(3));
            store_word(code + k + 8 * i + 4, word >> 3 & byte_mask(3));
            last |= (word >> 6 & byte_mask(2)) << 2 * i;
        }
        store_word(code + k + 24, last & byte_mask(3));
        store_word(code + k + 28, last >> 3 & byte_mask(3));
    }
}

void mb_panel_put_codes(const struct mb_superblock *at, enum mb_coding c, const uint8_t *code,
                        uint8_t *lane)
{
    if (mb_coding_plane8(c))
        put_plane(at, code, 8, 0, lane + at->plane8);
    if (mb_coding_plane4(c))
        put_plane(at, code, 4, 0, lane + at->plane4);
    if (mb_coding_plane3(c))
        put_plane3(at, code, lane + at->plane3);
    if (mb_coding_plane2(c))
        put_plane(at, code, 2, 4 * mb_coding_plane4(c), lane + at->plane2);
    if (mb_coding_plane1(c))
        put_plane(at, code, 1, 4 * mb_coding_plane4(c) + 2 * mb_coding_plane2(c),
                  lane + at->plane1);
}

void mb_panel_get_codes(const struct mb_superblock *at, enum mb_coding c, const uint8_t *lane,
                        uint8_t *code)
{
    memset(code, 0, at->k);
    if (mb_coding_plane8(c))
        get_plane(at, lane + at->plane8, 8, 0, code);
    if (mb_coding_plane4(c))
        get_plane(at, lane + at->plane4, 4, 0, code);
    if (mb_coding_plane3(c))
        get_plane3(at, lane + at->plane3, code);
    if (mb_coding_plane2(c))
        get_plane(at, lane + at->plane2, 2, 4 * mb_coding_plane4(c), code);
    if (mb_coding_plane1(c))
        get_plane(at, lane + at->plane1, 1, 4 * mb_coding_plane4(c) + 2 * mb_coding_plane2(c),
                  code);
}

/* f16 arrays [x][16] are read by kernels in the machine's byte order. */
static void put_half(uint8_t *array, unsigned x, unsigned row, uint16_t half)
{
    memcpy(array + (MB_PANEL_ROWS * x + row) * sizeof half, &half, sizeof half);
}

static uint16_t get_half(const uint8_t *array, unsigned x, unsigned row)
{
    uint16_t half;
    memcpy(&half, array + (MB_PANEL_ROWS * x + row) * sizeof half, sizeof half);
    return half;
}

/* Sub-scales and sub-mins of a two-level super-block; `row` is the lane, 0 to 15. */
static void put_sub_scales(const struct packing *p, const struct mb_block_fields *f, unsigned row,
                           uint8_t *superblock)
{
    uint8_t *scale = superblock + p->at.sub_scale;
    const unsigned groups = p->at.k / mb_scale_group(p->info->scale);
    if (p->info->scale == MB_SCALE_G16X2S6) {
        uint8_t *high = scale + 8 * MB_PANEL_ROWS;
        unsigned low_bits = 0, high_bits = 0;
        for (unsigned g = 0; g < groups; g++) {
            const unsigned stored = (unsigned)(f->sub_scale[g] + 32) & 63;
            low_bits |= (stored & 15) << g % 2 * 4;
            high_bits |= stored >> 4 << g % 4 * 2;
            if (g % 2 == 1)
                scale[MB_PANEL_ROWS * (g / 2) + row] = (uint8_t)low_bits, low_bits = 0;
            if (g % 4 == 3)
                high[MB_PANEL_ROWS * (g / 4) + row] = (uint8_t)high_bits, high_bits = 0;
        }
    } else if (p->info->scale == MB_SCALE_G16X2MIN) {
        for (unsigned g = 0; g < groups; g++)
            scale[g / 2 * 2 * MB_PANEL_ROWS + 2 * row + g % 2] =
                (uint8_t)(f->sub_scale[g] | f->sub_min[g] << 4);
    } else {
        for (unsigned g = 0; g < groups; g++)
            scale[MB_PANEL_ROWS * g + row] = (uint8_t)f->sub_scale[g];
    }
    if (p->info->scale == MB_SCALE_G32X2MIN)
        for (unsigned g = 0; g < groups; g++)
            superblock[p->at.sub_min + g / 2 * 2 * MB_PANEL_ROWS + 2 * row + g % 2] =
                (uint8_t)f->sub_min[g];
}

static void get_sub_scales(const struct packing *p, const uint8_t *superblock, unsigned row,
                           struct mb_block_fields *f)
{
    const uint8_t *scale = superblock + p->at.sub_scale;
    const unsigned groups = p->at.k / mb_scale_group(p->info->scale);
    for (unsigned g = 0; g < groups; g++) {
        if (p->info->scale == MB_SCALE_G16X2S6) {
            const unsigned low = scale[MB_PANEL_ROWS * (g / 2) + row] >> g % 2 * 4 & 15;
            const unsigned high = scale[MB_PANEL_ROWS * (8 + g / 4) + row] >> g % 4 * 2 & 3;
            f->sub_scale[g] = (int16_t)((int)(low | high << 4) - 32);
        } else if (p->info->scale == MB_SCALE_G16X2MIN) {
            const unsigned both = scale[g / 2 * 2 * MB_PANEL_ROWS + 2 * row + g % 2];
            f->sub_scale[g] = (int16_t)(both & 15);
            f->sub_min[g] = (int16_t)(both >> 4);
        } else if (p->info->scale == MB_SCALE_G32X2MIN) {
            f->sub_scale[g] = scale[MB_PANEL_ROWS * g + row];
            f->sub_min[g] = superblock[p->at.sub_min + g / 2 * 2 * MB_PANEL_ROWS + 2 * row + g % 2];
        } else {
            f->sub_scale[g] = (int8_t)scale[MB_PANEL_ROWS * g + row];
        }
    }
}

/* The fields whose packed form is all zero bytes: padding. */
static void clear_fields(enum mb_scale_kind kind, struct mb_block_fields *fields)
{
    memset(fields, 0, sizeof *fields);
    if (kind == MB_SCALE_G16X2S6)
        for (unsigned g = 0; g < 16; g++)
            fields->sub_scale[g] = -32;
}

/* One row of one super-block from its blocks; `count` of them exist (0 for padding lanes), missing
 * ones are zero. */
static void pack_lane(const struct packing *p, const uint8_t *src, unsigned count, unsigned row,
                      uint8_t *superblock)
{
    struct mb_block_fields fields;
    uint8_t code[256] = {0};
    const unsigned groups = p->block_k / mb_scale_group(p->info->scale);
    for (unsigned b = 0; b < p->blocks; b++) {
        if (b < count)
            p->ops->split(src + b * p->info->block_bytes, &fields);
        else
            clear_fields(p->info->scale, &fields);
        memcpy(code + b * p->block_k, fields.code, p->block_k);
        if (mb_scale_bytes(p->info->scale) == 2)
            put_half(superblock + p->at.d, b, row, fields.d);
        else
            for (unsigned g = 0; g < groups; g++)
                superblock[p->at.d + (b * groups + g) * MB_PANEL_ROWS + row] =
                    (uint8_t)fields.sub_scale[g];
        if (mb_scale_has_min(p->info->scale))
            put_half(superblock + p->at.dmin, b, row, fields.dmin);
    }
    mb_panel_put_codes(&p->at, p->info->coding, code, superblock + 4 * row);
    if (mb_scale_two_level(p->info->scale))
        put_sub_scales(p, &fields, row, superblock);
    if (row == 0)
        memset(superblock + p->scales_end, 0, p->at.codes - p->scales_end);
}

static void unpack_lane(const struct packing *p, const uint8_t *superblock, unsigned count,
                        unsigned row, uint8_t *dst)
{
    struct mb_block_fields fields;
    uint8_t code[256];
    const unsigned groups = p->block_k / mb_scale_group(p->info->scale);
    mb_panel_get_codes(&p->at, p->info->coding, superblock + 4 * row, code);
    if (mb_scale_two_level(p->info->scale))
        get_sub_scales(p, superblock, row, &fields);
    for (unsigned b = 0; b < count; b++) {
        memcpy(fields.code, code + b * p->block_k, p->block_k);
        if (mb_scale_bytes(p->info->scale) == 2)
            fields.d = get_half(superblock + p->at.d, b, row);
        else
            for (unsigned g = 0; g < groups; g++)
                fields.sub_scale[g] = superblock[p->at.d + (b * groups + g) * MB_PANEL_ROWS + row];
        if (mb_scale_has_min(p->info->scale))
            fields.dmin = get_half(superblock + p->at.dmin, b, row);
        p->ops->join(&fields, dst + b * p->info->block_bytes);
    }
}

/* Floats: element kk of a row goes to [kk][lane] of its panel; `count` elements, padding is NULL.
 */
static inline void pack_elements(const uint8_t *src, size_t count, size_t width, uint8_t *lane)
{
    for (size_t kk = 0; kk < count; kk++, lane += MB_PANEL_ROWS * width) {
        if (src)
            memcpy(lane, src + kk * width, width);
        else
            memset(lane, 0, width);
    }
}

static inline void unpack_elements(const uint8_t *lane, size_t count, size_t width, uint8_t *dst)
{
    for (size_t kk = 0; kk < count; kk++, lane += MB_PANEL_ROWS * width)
        memcpy(dst + kk * width, lane, width);
}

/* The width is a constant in each call, so that copies become single moves. A pair of halves is an
 * element of 4 bytes; an odd row's last one has a zero behind it. */
static void pack_float_row(const struct packing *p, size_t k, const uint8_t *src, unsigned row,
                           uint8_t *panel)
{
    const size_t whole = k / p->at.k, lane_bytes = p->at.bytes / MB_PANEL_ROWS;
    uint8_t *lane = panel + lane_bytes * row;
    if (lane_bytes == 4)
        pack_elements(src, whole, 4, lane);
    else
        pack_elements(src, whole, 2, lane);
    if (whole == p->superblocks)
        return;
    memset(lane + whole * p->at.bytes, 0, lane_bytes);
    if (src)
        memcpy(lane + whole * p->at.bytes, src + whole * lane_bytes, p->info->block_bytes);
}

static void unpack_float_row(const struct packing *p, size_t k, const uint8_t *panel, unsigned row,
                             uint8_t *dst)
{
    const size_t whole = k / p->at.k, lane_bytes = p->at.bytes / MB_PANEL_ROWS;
    const uint8_t *lane = panel + lane_bytes * row;
    if (lane_bytes == 4)
        unpack_elements(lane, whole, 4, dst);
    else
        unpack_elements(lane, whole, 2, dst);
    if (whole < p->superblocks)
        memcpy(dst + whole * lane_bytes, lane + whole * p->at.bytes, p->info->block_bytes);
}

/* Blocks that a row of k weights has in super-block s. */
static unsigned blocks_in(const struct packing *p, size_t k, size_t s)
{
    const size_t left = k / p->block_k - s * p->blocks;
    return left < p->blocks ? (unsigned)left : p->blocks;
}

/* Lanes [lane0, lane1) of one panel; src is the GGUF row of lane0, NULL for padding. */
static void pack_lanes(const struct packing *p, size_t k, const uint8_t *src, unsigned lane0,
                       unsigned lane1, uint8_t *panel)
{
    if (mb_coding_is_float(p->info->coding)) {
        for (unsigned lane = lane0; lane < lane1; lane++)
            pack_float_row(p, k, src ? src + (lane - lane0) * p->row_bytes : NULL, lane, panel);
        return;
    }
    /* Super-blocks outside, rows inside: the 64-byte vectors of a super-block stay in L1 while its
     * lanes fill. */
    for (size_t s = 0; s < p->superblocks; s++) {
        const unsigned count = src ? blocks_in(p, k, s) : 0;
        const size_t offset = s * p->blocks * p->info->block_bytes;
        for (unsigned lane = lane0; lane < lane1; lane++)
            pack_lane(p, count ? src + (lane - lane0) * p->row_bytes + offset : NULL, count, lane,
                      panel + s * p->at.bytes);
    }
}

void mb_panel_pack_rows(enum mb_format format, size_t n, size_t k, const void *src, size_t row0,
                        size_t row1, uint8_t *panels)
{
    const struct packing p = packing_of(format, k);
    const uint8_t *rows = src;
    for (size_t row = row0; row < row1;) {
        uint8_t *panel = panels + row / MB_PANEL_ROWS * p.panel_bytes;
        const unsigned lane0 = row % MB_PANEL_ROWS;
        const unsigned lane1 =
            row1 - row < MB_PANEL_ROWS - lane0 ? lane0 + (unsigned)(row1 - row) : MB_PANEL_ROWS;
        pack_lanes(&p, k, rows + (row - row0) * p.row_bytes, lane0, lane1, panel);
        row += lane1 - lane0;
        if (row == n && lane1 < MB_PANEL_ROWS)
            pack_lanes(&p, k, NULL, lane1, MB_PANEL_ROWS, panel);
    }
}

void mb_panel_unpack_rows(enum mb_format format, size_t n, size_t k, const uint8_t *panels,
                          size_t row0, size_t row1, void *dst)
{
    (void)n;
    const struct packing p = packing_of(format, k);
    uint8_t *rows = dst;
    for (size_t row = row0; row < row1; row++, rows += p.row_bytes) {
        const uint8_t *panel = panels + row / MB_PANEL_ROWS * p.panel_bytes;
        const unsigned lane = row % MB_PANEL_ROWS;
        if (mb_coding_is_float(p.info->coding)) {
            unpack_float_row(&p, k, panel, lane, rows);
            continue;
        }
        for (size_t s = 0; s < p.superblocks; s++)
            unpack_lane(&p, panel + s * p.at.bytes, blocks_in(&p, k, s), lane,
                        rows + s * p.blocks * p.info->block_bytes);
    }
}
