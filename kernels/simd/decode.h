/* SPDX-License-Identifier: Apache-2.0 */
/* From packed panels to unsigned bytes and floats, written once on the verbs of an ISA.
 *
 * A plane byte keeps sub-fields of successive quads (kernels/panel.h), so a register of codes is
 * shift, mask and at most one merge away from its plane. Everything comes in chunks of 32 k: 8
 * quads of 16 rows x 4 k, from 1, 2, 4 or 8 vectors of a plane. gemv calls these for registers,
 * mb_decode_panel stores the same registers for gemm.
 *
 * Operations per register of codes on AVX-512 (AVX2 has one more per merge): b8 0, b4 1.5 (1 in
 * gemv), b2 1.75, lut4 2.5 (1.5 with VBMI), b5 3.5, b6 3.5, b3 3.75; with tables of the weights'
 * own, simd/codebook.h. The limit is the shift port, and for one row from memory the bytes. Coding
 * and scale kind are constants wherever these are called. */
#ifndef MIXBIT_KERNELS_SIMD_DECODE_H
#define MIXBIT_KERNELS_SIMD_DECODE_H

#include "kernels/codebook.h"

/* for i in 0 .. n - 1, unrolled: arrays indexed by i stay in registers. */
#define MB_EACH(i, n) _Pragma("GCC unroll 64") for (unsigned i = 0; i < (n); i++)

enum { MB_CHUNK_QUADS = MB_CHUNK_K / 4 };

/* Whether an ISA keeps codes this large as int8 (code - 128); then there is no bias to start from.
 */
MB_INLINE bool mb_is_signed(const unsigned max_code) { return V_SIGNED_CODES && max_code > 127; }

/* Where a dot has no room for level + 128, what of it codebooks of few bits leave out: their levels
 * are small, and so is level + 32, or + 64 of 3 bits. 0: nothing. */
MB_INLINE unsigned mb_codebook_spare(const enum mb_coding coding)
{
    return V_LOW_DOT && mb_coding_has_own_table(coding)
               ? 127 - (unsigned)mb_codebook_largest(mb_coding_bits(coding))
               : 0;
}

/* What a coding's codes are looked up in, signed where codes are: 16 entries, and 16 more for 5
 * bits. Where a register is a table of 64, up[i] is the table for codes that stand i fields up, so
 * that neither shift nor mask takes them down. Tables of columns stay in memory. */
struct mb_tables {
    v_code low, high, up[3];
    const uint8_t *columns;
    bool spared; /* codes are to be less by mb_codebook_spare */
};
MB_INLINE v_code mb_decode_table(const uint8_t *table16, const enum mb_coding coding)
{
    const v_code table = v_table(table16);
    return mb_is_signed(mb_coding_max(coding)) ? v_xor(table, v_bytes(0x80)) : table;
}
/* `own`: the table of a coding that has none by itself, columns: that of the first four; else NULL.
 */
MB_INLINE struct mb_tables mb_tables_of(const enum mb_coding coding, const uint8_t *own)
{
    const uint8_t *table = mb_coding_has_own_table(coding) ? own : mb_coding_table(coding);
    struct mb_tables tables = {v_bytes(0), v_bytes(0), {v_bytes(0)}, own, false};
    if (mb_coding_has_column_tables(coding))
        return tables;
#if V_LOOKUP64
    if (mb_coding_has_own_table(coding)) {
        const unsigned bits = mb_coding_bits(coding);
        tables.low = v_spread32(own, 0, bits);
        MB_EACH (i, 3)
            tables.up[i] = v_spread32(own, (i + 1) * bits, bits);
        return tables;
    }
#endif
    if (mb_coding_table(coding) != NULL)
        tables.low = mb_decode_table(table, coding);
    if (mb_coding_table(coding) != NULL && mb_coding_bits(coding) > 4)
        tables.high = mb_decode_table(table + 16, coding);
    return tables;
}
/* The same for dots that are summed as they are decoded. */
MB_INLINE struct mb_tables mb_tables_of_dots(const enum mb_coding coding, const uint8_t *own)
{
    struct mb_tables tables = mb_tables_of(coding, own);
#if V_LOW_DOT
    const unsigned spare = mb_codebook_spare(coding);
    tables.spared = spare > 0;
    if (spare > 0 && !mb_coding_has_column_tables(coding))
        tables.low = v_code_sub(v_table(own), v_bytes((int)spare));
#endif
    return tables;
}
/* Of quad q of a run whose first quad `tables` is of. */
MB_INLINE struct mb_tables mb_tables_at(const struct mb_tables *tables, size_t q,
                                        const enum mb_coding coding)
{
    struct mb_tables at = *tables;
    if (mb_coding_has_column_tables(coding))
        at.columns += q * mb_coding_quad_table(coding);
    return at;
}

/* Whether odd quads may stay in the upper half of their byte, 16 times the code: their dots are
 * summed apart and shifted down once per group, which saves a shift per register. A dot that may
 * not saturate can do that. */
MB_INLINE bool mb_is_raised(const enum mb_coding coding)
{
    return V_WIDE_DOT && mb_coding_bits(coding) == 4 && mb_coding_table(coding) == NULL;
}

/* The plane vectors that a quad's codes lie in, each loaded once: left to itself the compiler reads
 * a vector again for every quad in it, and on Zen 4 a 512-bit load takes the whole load port. */
struct mb_planes {
    v_code plane8, plane4, plane3[3], plane2, plane1;
};
/* Before quad q (0 .. 7) of a chunk, in ascending order from `first` on; register `part` of the
 * panel. */
MB_INLINE void mb_load_planes(struct mb_planes *planes, const uint8_t *superblock, size_t chunk,
                              unsigned q, unsigned first, unsigned part,
                              const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const uint8_t *p = superblock + chunk * at.chunk_bytes + part * V_BYTES;
    if (mb_coding_plane8(coding))
        planes->plane8 = v_load(p + at.plane8 + q * 64);
    if (mb_coding_plane4(coding) && (q % 2 == 0 || q == first))
        planes->plane4 = v_keep(v_load(p + at.plane4 + q / 2 * 64));
    if (mb_coding_plane3(coding) && q % 2 == 0 && q < 6)
        planes->plane3[q / 2] = v_keep(v_load(p + at.plane3 + q / 2 * 64));
    if (mb_coding_plane2(coding) && (q % 4 == 0 || q == first))
        planes->plane2 = v_keep(v_load(p + at.plane2 + q / 4 * 64));
    if (mb_coding_plane1(coding) && q == first)
        planes->plane1 = v_keep(v_load(p + at.plane1));
}

/* Quads 6 and 7 of plane3, as 0 and 1 are in its first vector. */
MB_INLINE v_code mb_plane3_last(const struct mb_planes *planes)
{
    const v_code two = v_bits(planes->plane3[0], 6, 3),
                 four = v_or_and(two, v_shift(planes->plane3[1], 4), v_bytes(0x0c));
    return v_or_and(four, v_shift(planes->plane3[2], 2), v_bytes(0x30));
}

/* Of the widest plane below 8: its bits, the vector that quad q lies in, and from which bit on. */
MB_INLINE unsigned mb_plane_bits(const enum mb_coding coding)
{
    return mb_coding_plane4(coding)   ? 4
           : mb_coding_plane3(coding) ? 3
           : mb_coding_plane2(coding) ? 2
                                      : 1;
}
MB_INLINE v_code mb_plane_of(const struct mb_planes *planes, unsigned q,
                             const enum mb_coding coding)
{
    return mb_coding_plane4(coding)   ? planes->plane4
           : mb_coding_plane3(coding) ? (q < 6 ? planes->plane3[q / 2] : mb_plane3_last(planes))
           : mb_coding_plane2(coding) ? planes->plane2
                                      : planes->plane1;
}
MB_INLINE unsigned mb_plane_bit(unsigned q, const enum mb_coding coding)
{
    const unsigned bits = mb_plane_bits(coding); /* quads share a vector, 8 / bits of them */
    return q % (8 / bits) * bits;
}

/* Codes of own tables, as they stand in their plane: the upper two bits of an index are ignored,
 * and a table that repeats itself makes bits around a code irrelevant. */
#if V_LOOKUP64
MB_INLINE v_code mb_decode_in_place(const struct mb_planes *planes, unsigned q,
                                    const struct mb_tables *tables, const enum mb_coding coding)
{
    const unsigned bits = mb_coding_bits(coding);
    v_code index = mb_plane_of(planes, q, coding);
    unsigned at = mb_plane_bit(q, coding);
    if (bits == 5)
        index = v_select(v_bytes(16), v_shift(planes->plane1, (int)q - 4), v_shift(index, (int)at));
    if (bits == 4)
        index = v_shift(index, (int)at);
    if (bits > 3)
        return v_lookup64(tables->low, index);
    if (bits == 2 && q % 4 == 3)
        index = v_shift(index, 2), at = 4;
    if (bits == 1 && q > 3)
        index = v_shift(index, 4), at -= 4;
    return v_lookup64(at ? tables->up[at / bits - 1] : tables->low, index);
}
#endif

/* Those of tables by column: an index is the code, with the column above it. */
MB_INLINE v_code mb_decode_columns(const struct mb_planes *planes, unsigned q,
                                   const struct mb_tables *tables, const enum mb_coding coding)
{
    const unsigned bits = mb_coding_bits(coding);
    const v_code plane = mb_plane_of(planes, q, coding),
                 index = v_or_and(v_broadcast4(mb_column_numbers[bits]),
                                  v_shift(plane, (int)mb_plane_bit(q, coding)),
                                  v_bytes((1 << bits) - 1)),
                 code = bits == 4   ? v_lookup_columns16(tables->columns, index)
                        : bits == 3 ? v_lookup_columns8(tables->columns, index)
                                    : v_lookup(v_table(tables->columns), index);
#if V_LOW_DOT
    if (tables->spared)
        return v_code_sub(code, v_bytes((int)mb_codebook_spare(coding)));
#endif
    return mb_is_signed(mb_coding_max(coding)) ? v_xor(code, v_bytes(0x80)) : code;
}

/* Codes of quad q, whose planes are loaded; raised: an odd quad of mb_is_raised. */
MB_INLINE v_code mb_decode_quad(const struct mb_planes *planes, unsigned q, const bool raised,
                                const struct mb_tables *tables, const enum mb_coding coding)
{
    const bool has_table = mb_coding_table(coding) != NULL;
    if (raised)
        return v_and(planes->plane4, v_bytes(0xf0));
    if (mb_coding_plane8(coding))
        return mb_is_signed(mb_coding_max(coding)) ? v_xor(planes->plane8, v_bytes(0x80))
                                                   : planes->plane8;
    if (mb_coding_has_column_tables(coding))
        return mb_decode_columns(planes, q, tables, coding);
#if V_LOOKUP64
    if (mb_coding_has_own_table(coding))
        return mb_decode_in_place(planes, q, tables, coding);
#endif
    /* The widest plane gives the low bits, each narrower one goes on top. */
    const int at = (int)mb_plane_bit(q, coding);
    if (has_table && mb_coding_bits(coding) == 4)
        return v_lookup_bits4(tables->low, planes->plane4, at);
    int bits = (int)mb_plane_bits(coding);
    v_code code = v_bits(mb_plane_of(planes, q, coding), at, (1 << bits) - 1);
    if (mb_coding_plane2(coding) && bits > 2) {
        code = v_or_and(code, v_shift(planes->plane2, 2 * (int)(q % 4) - bits), v_bytes(3 << bits));
        bits += 2;
    }
#if V_LOOKUP_BY_BIT7
    if (has_table && mb_coding_bits(coding) > 4)
        return v_lookup_by_bit7(tables->low, tables->high, code,
                                v_shift(planes->plane1, (int)q - 7));
#endif
    if (mb_coding_plane1(coding) && bits > 1)
        code = v_or_and(code, v_shift(planes->plane1, (int)q - bits), v_bytes(1 << bits));
    if (!has_table)
        return code;
#if !V_LOOKUP_BY_BIT7
    if (mb_coding_bits(coding) > 4)
        return v_lookup32(tables->low, tables->high, code);
#endif
    return v_lookup(tables->low, code);
}

/* What is decoded once per super-block, before its groups. The lines before the codes are touched
 * in order, so that the addresses of a panel's stream only ever rise. */
struct mb_header {
    int8_t sub_scale[2][8][16];
};
MB_INLINE void mb_decode_header(const uint8_t *superblock, struct mb_header *header,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    MB_EACH (line, at.codes / 64)
        v_touch(superblock + line * 64);
    if (scale == MB_SCALE_G16X2S6)
        v_sub_scales6(superblock + at.sub_scale, header->sub_scale);
}

/* Sub-scale of group g (0 .. 1) of a chunk as floats; g is 0 where groups are 32 wide. */
MB_INLINE v_float mb_decode_sub_scale(const uint8_t *superblock, const struct mb_header *header,
                                      size_t chunk, unsigned g, unsigned part,
                                      const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const uint8_t *p = superblock + mb_superblock_layout(coding, scale).sub_scale;
    if (scale == MB_SCALE_G16X2S6)
        return v_to_float(v_load_i8(header->sub_scale[g][chunk] + part * V_LANES));
    if (scale == MB_SCALE_G16X2MIN) {
        const v_int pair = v_load_u16(p + chunk * 32 + part * 2 * V_LANES);
        return v_to_float(v_int_and(v_int_shift(pair, 8 * g), 15));
    }
    p += (chunk * (MB_CHUNK_K / mb_scale_group(scale)) + g) * MB_PANEL_ROWS + part * V_LANES;
    return v_to_float(scale == MB_SCALE_G32X2MIN ? v_load_u8(p) : v_load_i8(p));
}

/* Sub-minima of groups 2 * pair and 2 * pair + 1 as pairs of int16. */
MB_INLINE v_int mb_decode_min_pair(const uint8_t *superblock, size_t pair, unsigned part,
                                   const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    return scale == MB_SCALE_G32X2MIN
               ? v_load_u8_pairs(superblock + at.sub_min + pair * 32 + part * 2 * V_LANES)
               : v_load_high_pairs(superblock + at.sub_scale + pair * 32 + part * 2 * V_LANES);
}

/* Register `part` of the weights at k of a float panel. */
MB_INLINE v_float mb_decode_float(const uint8_t *panel, size_t k, const unsigned part,
                                  const enum mb_coding coding)
{
    const size_t lane = part * V_LANES;
    if (coding == MB_CODING_F32)
        return v_load_float((const float *)(const void *)panel + k * MB_PANEL_ROWS + lane);
    if (coding == MB_CODING_F16)
        return v_load_f16(panel + 2 * (k * MB_PANEL_ROWS + lane));
    const v_code pairs = v_load(panel + k / 2 * 4 * MB_PANEL_ROWS + 4 * lane);
    return k % 2 ? v_pair_high(pairs) : v_pair_low(pairs);
}

/* Stored scales in the coding's unit. */
MB_INLINE v_float mb_decode_d(const uint8_t *p, const enum mb_coding coding,
                              const enum mb_scale_kind scale)
{
    const float unit = mb_coding_unit(coding);
    const enum mb_scale_number number = mb_scale_number(scale);
    const v_float d = number == MB_NUMBER_E8M0    ? v_load_e8m0(p)
                      : number == MB_NUMBER_UE4M3 ? v_load_ue4m3(p)
                                                  : v_load_f16(p);
    return unit == 1.0f ? d : v_mul(d, v_broadcast_float(&unit));
}

/* Scales of super-block b of a decoded panel. */
MB_INLINE void mb_decode_scales(const uint8_t *superblock, size_t b, const struct mb_decoded *out,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned chunks = at.k / MB_CHUNK_K, groups = at.k / mb_scale_group(scale),
                   per_chunk = groups / chunks, width = mb_scale_bytes(scale);
    struct mb_header header;
    mb_decode_header(superblock, &header, coding, scale);
    MB_EACH (part, V_PARTS) {
        const size_t row = part * V_LANES;
        if (!mb_scale_two_level(scale)) {
            MB_EACH (g, groups) {
                const size_t to = (b * groups + g) * MB_PANEL_ROWS + row,
                             from = width * (g * MB_PANEL_ROWS + row);
                v_store_float(out->scale + to,
                              mb_decode_d(superblock + at.d + from, coding, scale));
                if (mb_scale_has_min(scale))
                    v_store_float(out->min + to, v_load_f16(superblock + at.dmin + from));
            }
            continue;
        }
        v_store_float(out->d + b * MB_PANEL_ROWS + row,
                      mb_decode_d(superblock + at.d + 2 * row, coding, scale));
        for (size_t c = 0; c < chunks; c++)
            MB_EACH (g, per_chunk)
                v_store_float(out->scale + (b * groups + c * per_chunk + g) * MB_PANEL_ROWS + row,
                              mb_decode_sub_scale(superblock, &header, c, g, part, coding, scale));
        if (!mb_scale_has_min(scale))
            continue;
        v_store_float(out->min + b * MB_PANEL_ROWS + row,
                      v_load_f16(superblock + at.dmin + 2 * row));
        for (size_t pair = 0; pair < groups / 2; pair++)
            v_store(out->min_pairs + ((b * groups / 2 + pair) * MB_PANEL_ROWS + row) * 2,
                    mb_decode_min_pair(superblock, pair, part, coding, scale));
    }
}

/* The codes of a chunk: 8 quads. */
MB_INLINE void mb_decode_chunk(const uint8_t *superblock, size_t chunk, uint8_t *code,
                               const struct mb_tables *tables, const enum mb_coding coding,
                               const enum mb_scale_kind scale)
{
    MB_EACH (part, V_PARTS) {
        struct mb_planes planes;
        MB_EACH (q, MB_CHUNK_QUADS) {
            const struct mb_tables at = mb_tables_at(tables, chunk * MB_CHUNK_QUADS + q, coding);
            mb_load_planes(&planes, superblock, chunk, q, 0, part, coding, scale);
            v_store(code + q * 64 + part * V_BYTES, mb_decode_quad(&planes, q, false, &at, coding));
        }
    }
}

/* One panel's super-blocks into a decoded panel: the body of every decode_* kernel. */
MB_INLINE void mb_decode_panel(const uint8_t *panel, size_t superblocks,
                               const struct mb_decoded *out, const enum mb_coding coding,
                               const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    if (mb_coding_is_float(coding)) {
        for (size_t k = 0; k < superblocks * at.k; k += at.k)
            MB_EACH (i, at.k)
                MB_EACH (part, V_PARTS)
                    v_store_float(out->scale + (k + i) * MB_PANEL_ROWS + part * V_LANES,
                                  mb_decode_float(panel, k + i, part, coding));
        return;
    }
    const struct mb_tables tables = mb_tables_of(coding, NULL);
    uint8_t *code = out->code;
    for (size_t b = 0; b < superblocks; b++, panel += at.bytes) {
        mb_decode_scales(panel, b, out, coding, scale);
        for (size_t c = 0; c < at.k / MB_CHUNK_K; c++, code += MB_CHUNK_QUADS * 64)
            mb_decode_chunk(panel, c, code, &tables, coding, scale);
    }
}

#endif
