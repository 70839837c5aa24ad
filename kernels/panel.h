/* SPDX-License-Identifier: Apache-2.0 */
/* The packed layouts that kernels read.
 *
 * Integer formats: P16K4. A panel is 16 output rows; inside it super-blocks follow each other along
 * k (64 to 256 weights, codings.def), each a multiple of 64 bytes, so a thread reads one aligned
 * stream.
 *
 *   super-block = [ d ][ dmin ][ sub-scales ][ sub-mins ][ pad to 64 ][ chunk of 32 k ][ chunk ]
 * ... chunk       = [ its plane1 ][ its plane2 ][ its plane3 ][ its plane4 ][ its plane8 ]
 *
 * A kernel needs the parts in just that order, so addresses only ever rise: one stream that a
 * hardware prefetcher follows. (Planes a super-block long, each a stream of its own inside one
 * page, halved the rate from memory on Zen 4.)
 *
 * A decoded k-quad (4 consecutive k of 16 rows) is 64 bytes: byte 4 * row + kk. Planes keep
 * sub-fields of those bytes, in 64-byte vectors whose byte positions are already right, so decoding
 * is shift and mask, never a shuffle. In a chunk, quads 0 to 7:
 *
 *   plane8  8 vectors, vector i = quad i
 *   plane4  4 vectors, vector i: bits 0-3 = quad 2i, bits 4-7 = quad 2i + 1
 *   plane3  3 vectors, vector i: bits 0-2 = quad 2i, bits 3-5 = quad 2i + 1; bits 6-7 = bits 2i to
 *           2i + 1 of quad 6 with quad 7 above it
 *   plane2  2 vectors, vector i: bits 2j .. 2j + 1 = quad 4i + j
 *   plane1  1 vector: bit j = quad j
 *
 *   b8: plane8           (stored + 128: q8_0's int8 xor 0x80)
 *   b4, lut4, e2m1, odd4, grid3: plane4     b2: plane2
 *   b5: plane4, plane1 (bit 4)      b6: plane4, plane2 (bits 4-5)
 *   b3, grid2, grid1: plane2, plane1 (bit 2)
 *   cb3, cc3: plane3; other cb1 to cb5, cc1 to cc4: as those of as many bits (kernels/codebook.h)
 *
 * Scales ([x][16]: for each x, the 16 rows one after the other):
 *   g32       d f16 [2][16]
 *   g32min    d f16 [2][16], min f16 [2][16] (added: w = d * code + min)
 *   g256      d f16 [16]
 *   g32e8     d E8M0 [4][16]        g16e4     d UE4M3 [4][16]       (bytes: kernels/half.h)
 *   g16x2     sub-scale i8 [16][16], d f16 [16]
 *   g16x2s6   sub-scale plus 32 in 6 bits, as q3_K stores it: low nibbles u8 [8][16] (bits 0-3
 *             group 2i, 4-7 group 2i + 1), then high pairs u8 [4][16] (bits 2j .. 2j + 1 group
 *             4i + j), d f16 [16]
 *   g16x2min  u8 [8 pairs][16][2]: bits 0-3 sub-scale, bits 4-7 sub-min; d, dmin f16 [16] each
 *   g32x2     sub-scale i8 [8][16] (already minus 32), d f16 [16]
 *   g32x2min  sub-scale u8 [8][16], sub-min u8 [4 pairs][16][2], d f16 [16], dmin f16 [16]
 *             (subtracted: w = d * sc * code - dmin * min)
 *
 * n is padded to 16 and k to the super-block with zero bytes. Floats: panels of 16 rows x 1 k,
 * [k][16] in the stored width, super-block = 1 k; bf16 (kind pair): [k / 2][16][2], super-block = 2
 * k, what a dot product of pairs reads and what halves of a dword are floats of. Source: BLIS-style
 * panels with a 4-deep k for u8 x s8 dot products (Intel SDM, VPDPBUSD). */
#ifndef MIXBIT_KERNELS_PANEL_H
#define MIXBIT_KERNELS_PANEL_H

#include "mixbit/format.h"
#include <stdbool.h>

enum { MB_PANEL_ROWS = 16, MB_QUAD_BYTES = 64, MB_CHUNK_K = 32 };

/* What a coding and a scale kind fix. Inline so that kernels fold them; usable with run-time values
 * as well. */

/* Columns of codings.def. Each is a switch of its own that returns a number: with a constant coding
 * the compiler folds it before it decides which loops to unroll. */
extern const uint8_t mb_table_iq4[16], mb_table_e2m1[16], mb_table_odd[16], mb_table_grid3[16],
    mb_table_grid2[16], mb_table_grid1[16],
    mb_table_own[16]; /* never read: stands for a table that comes with the weights */
#define MB_CASE(constant, value)                                                                   \
    case constant:                                                                                 \
        return value;
#define MB_TABLE_none NULL
#define MB_TABLE_iq4 mb_table_iq4
#define MB_TABLE_e2m1 mb_table_e2m1
#define MB_TABLE_odd mb_table_odd
#define MB_TABLE_grid3 mb_table_grid3
#define MB_TABLE_grid2 mb_table_grid2
#define MB_TABLE_grid1 mb_table_grid1
#define MB_TABLE_own mb_table_own
static inline const uint8_t *mb_coding_table(enum mb_coding c) /* 16 decoded codes, or NULL */
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, p1, max, bias, unit, table)                        \
    MB_CASE(MB_CODING_##id, MB_TABLE_##table)
#include "mixbit/codings.def"
    default: return NULL;
    }
}
static inline bool mb_coding_has_own_table(enum mb_coding c)
{
    return c >= MB_CODING_CB1 && c <= MB_CODING_CC4;
}
/* One for every column of its own. */
static inline bool mb_coding_has_column_tables(enum mb_coding c)
{
    return c >= MB_CODING_CC1 && c <= MB_CODING_CC4;
}
/* 1 where bits of the code lie in the 8-, 4-, 3-, 2- and 1-bit plane. */
static inline unsigned mb_coding_plane8(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, ...) MB_CASE(MB_CODING_##id, p8)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_coding_plane4(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, ...) MB_CASE(MB_CODING_##id, p4)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_coding_plane3(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, ...) MB_CASE(MB_CODING_##id, p3)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_coding_plane2(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, ...) MB_CASE(MB_CODING_##id, p2)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_coding_plane1(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, p1, ...) MB_CASE(MB_CODING_##id, p1)
#include "mixbit/codings.def"
    default: return 0;
    }
}
/* Largest decoded code: what classifies a coding for int16 accumulation. */
static inline unsigned mb_coding_max(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, p1, max, ...) MB_CASE(MB_CODING_##id, max)
#include "mixbit/codings.def"
    default: return 0;
    }
}
/* What the stored scale is multiplied by. */
static inline float mb_coding_unit(enum mb_coding c)
{
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, p1, max, bias, unit, ...)                          \
    MB_CASE(MB_CODING_##id, unit)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline bool mb_coding_is_float(enum mb_coding c)
{
    return c == MB_CODING_F32 || c == MB_CODING_F16 || c == MB_CODING_BF16;
}
/* Bits of a code as it is stored. */
static inline unsigned mb_coding_bits(enum mb_coding c)
{
    return 8 * mb_coding_plane8(c) + 4 * mb_coding_plane4(c) + 3 * mb_coding_plane3(c) +
           2 * mb_coding_plane2(c) + mb_coding_plane1(c);
}

/* Bytes of the tables of four columns, [4][2^bits], where a coding has them by column; no fewer
 * than 16. */
static inline unsigned mb_coding_quad_table(enum mb_coding c)
{
    return mb_coding_bits(c) < 2 ? 16 : 4u << mb_coding_bits(c);
}
/* [bits]: what tells an index the table of its column. */
extern const uint8_t mb_column_numbers[5][4];

/* Weights per (sub-)scale. */
static inline unsigned mb_scale_group(enum mb_scale_kind s)
{
    switch (s) {
#define MB_SCALE_ROW(id, name, group, ...) MB_CASE(MB_SCALE_##id, group)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_scale_superblock_k(enum mb_scale_kind s)
{
    switch (s) {
#define MB_SCALE_ROW(id, name, group, superblock, ...) MB_CASE(MB_SCALE_##id, superblock)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline bool mb_scale_two_level(enum mb_scale_kind s)
{
    switch (s) {
#define MB_SCALE_ROW(id, name, group, superblock, two_level, ...) MB_CASE(MB_SCALE_##id, two_level)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline bool mb_scale_has_min(enum mb_scale_kind s)
{
    switch (s) {
#define MB_SCALE_ROW(id, name, group, superblock, two_level, min, ...) MB_CASE(MB_SCALE_##id, min)
#include "mixbit/codings.def"
    default: return 0;
    }
}
/* How scales are stored, and in how many bytes. */
enum mb_scale_number { MB_NUMBER_F16, MB_NUMBER_E8M0, MB_NUMBER_UE4M3 };
static inline enum mb_scale_number mb_scale_number(enum mb_scale_kind s)
{
    switch (s) {
#define MB_SCALE_ROW(id, name, group, superblock, two_level, min, number)                          \
    MB_CASE(MB_SCALE_##id, MB_NUMBER_##number)
#include "mixbit/codings.def"
    default: return MB_NUMBER_F16;
    }
}
static inline unsigned mb_scale_bytes(enum mb_scale_kind s)
{
    return mb_scale_number(s) == MB_NUMBER_F16 ? 2 : 1;
}
/* Columns of codings.def for activations. */
static inline unsigned mb_activation_group(enum mb_activation a)
{
    switch (a) {
#define MB_ACTIVATION_ROW(id, name, group, ...) MB_CASE(MB_ACTIVATION_##id, group)
#include "mixbit/codings.def"
    default: return 0;
    }
}
static inline unsigned mb_activation_step(enum mb_activation a)
{
    switch (a) {
#define MB_ACTIVATION_ROW(id, name, group, step, ...) MB_CASE(MB_ACTIVATION_##id, step)
#include "mixbit/codings.def"
    default: return 1;
    }
}
static inline unsigned mb_activation_run(enum mb_activation a)
{
    switch (a) {
#define MB_ACTIVATION_ROW(id, name, group, step, run) MB_CASE(MB_ACTIVATION_##id, run)
#include "mixbit/codings.def"
    default: return 1;
    }
}
/* Whether one-level sums of groups are added up in the weights' scales alone, and take the scale of
 * the activations, which is that of many groups, once per 256 weights. */
static inline bool mb_is_nested(enum mb_scale_kind s, enum mb_activation a)
{
    return !mb_scale_two_level(s) && mb_activation_group(a) == 256 && mb_scale_group(s) < 256;
}
/* Weights that a run of a product must be a multiple of, its end excepted. */
static inline unsigned mb_run_step(enum mb_scale_kind s, enum mb_activation a)
{
    return mb_is_nested(s, a) ? 256 : mb_scale_superblock_k(s);
}

/* Zero point of the unsigned codes: w = d * unit * (code - bias) for scale kinds without a minimum;
 * 0 with one. */
static inline int mb_coding_bias(enum mb_coding c, enum mb_scale_kind s)
{
    if (mb_scale_has_min(s))
        return 0;
    switch (c) {
#define MB_CODING_ROW(id, name, p8, p4, p3, p2, p1, max, bias, ...) MB_CASE(MB_CODING_##id, bias)
#include "mixbit/codings.def"
    default: return 0;
    }
}

/* Byte offsets inside a super-block. */
struct mb_superblock {
    unsigned k;                  /* weights per row */
    unsigned d, dmin;            /* one-level kinds: arrays [groups][16] */
    unsigned sub_scale, sub_min; /* two-level kinds */
    unsigned codes;              /* the first chunk */
    unsigned plane1, plane2, plane3, plane4,
        plane8;           /* in the first chunk, where the coding has the plane */
    unsigned chunk_bytes; /* from a chunk to the next: 64 per bit of code */
    unsigned bytes;       /* a multiple of 64 (floats: 16 x element size) */
};

static inline struct mb_superblock mb_superblock_layout(enum mb_coding c, enum mb_scale_kind s)
{
    struct mb_superblock b = {0};
    b.k = mb_scale_superblock_k(s);
    if (mb_coding_is_float(c)) {
        b.bytes = b.k * MB_PANEL_ROWS * (c == MB_CODING_F32 ? 4u : 2u);
        return b;
    }
    const unsigned groups = b.k / mb_scale_group(s);
    const unsigned scales = /* bytes of d, of dmin */
        (mb_scale_two_level(s) ? 1 : groups) * MB_PANEL_ROWS * mb_scale_bytes(s);
    b.dmin = scales;
    b.sub_scale = b.dmin + (mb_scale_has_min(s) ? scales : 0);
    b.sub_min = b.sub_scale;
    if (s == MB_SCALE_G16X2S6)
        b.sub_min += 192;
    else if (mb_scale_two_level(s))
        b.sub_min += groups * MB_PANEL_ROWS;
    const unsigned end = b.sub_min + (s == MB_SCALE_G32X2MIN ? groups * MB_PANEL_ROWS : 0);
    b.codes = (end + 63) / 64 * 64;
    b.plane1 = b.codes;
    b.plane2 = b.plane1 + mb_coding_plane1(c) * MB_QUAD_BYTES;
    b.plane3 = b.plane2 + mb_coding_plane2(c) * 2 * MB_QUAD_BYTES;
    b.plane4 = b.plane3 + mb_coding_plane3(c) * 3 * MB_QUAD_BYTES;
    b.plane8 = b.plane4 + mb_coding_plane4(c) * 4 * MB_QUAD_BYTES;
    b.chunk_bytes = b.plane8 + mb_coding_plane8(c) * 8 * MB_QUAD_BYTES - b.codes;
    b.bytes = b.codes + b.k / MB_CHUNK_K * b.chunk_bytes;
    return b;
}

/* One block of a format taken apart: what packing needs, and what unpacking puts together again
 * without loss. */
struct mb_block_fields {
    uint8_t code[256];     /* block_k codes as the panel stores them (b8: xor 0x80; lut4: the 4-bit
                              index) */
    int16_t sub_scale[16]; /* per group, signed where the kind is (g16x2s6: already minus 32);
                              scales of one byte: that byte */
    int16_t sub_min[16];
    uint16_t d, dmin; /* f16 bits, where scales are f16; for g32min dmin holds the min */
};

/* The codes of one row in whole super-blocks of k, as the panel stores them, into the planes and
 * back; `lane` points at its first byte of the first vector of codes or before, `at` counts from
 * there. */
void mb_panel_put_codes(const struct mb_superblock *at, enum mb_coding coding, const uint8_t *code,
                        uint8_t *lane);
void mb_panel_get_codes(const struct mb_superblock *at, enum mb_coding coding, const uint8_t *lane,
                        uint8_t *code);

struct mb_search;

/* Per-format functions, one row per format in format.c. Float formats have no split and join. */
struct mb_format_ops {
    void (*dequantize_row)(const void *src, float *dst, size_t k);
    void (*quantize_row)(const float *src, void *dst, size_t k); /* of floats; NULL for blocks */
    const struct mb_search *search; /* how blocks are encoded (kernels/encode.h); NULL for floats */
    void (*split)(const void *block, struct mb_block_fields *fields);
    void (*join)(const struct mb_block_fields *fields, void *block);
};
const struct mb_format_ops *mb_format_ops(enum mb_format format);

/* Panels of a whole matrix, portable C (panel.c). Rows [row0, row1) of `src` (GGUF rows, row0
 * first) go to their lanes of `panels`; packing the last row also zeroes the padding lanes, so any
 * order of ranges gives the same bytes. Two threads must not pack rows of the same panel at once.
 */
size_t mb_panel_bytes(enum mb_format format, size_t k); /* one panel of 16 rows; 0 on overflow */
void mb_panel_pack_rows(enum mb_format format, size_t n, size_t k, const void *src, size_t row0,
                        size_t row1, uint8_t *panels);
void mb_panel_unpack_rows(enum mb_format format, size_t n, size_t k, const uint8_t *panels,
                          size_t row0, size_t row1, void *dst);

#endif
