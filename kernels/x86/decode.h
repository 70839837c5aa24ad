/* SPDX-License-Identifier: Apache-2.0 */
/* From packed panels to unsigned bytes and floats, written once on the verbs of
 * an ISA.
 *
 * A plane byte keeps sub-fields of successive quads (kernels/panel.h), so one
 * register of codes is shift, mask and at most one merge away from its plane.
 * Everything comes in chunks of 32 k, where each plane is whole registers:
 *
 *   plane8 8 x 64 bytes     plane4 4 x 64     plane2 2 x 64     plane1 1 x 64
 * -> 8 quads of 16 rows x 4 k
 *
 * gemv calls these for registers, mb_decode_panel stores the same registers for
 * gemm. Operations per register of codes (AVX-512; AVX2 has one more per
 * merge): b8 0, b4 1.5, b2 1.75, b3 3.75, b5 3.5, b6 3.5, lut4 2.5; the limit
 * is the shift port, and at m = 1 the bytes. Coding and scale kind are
 * constants wherever these are called. */
#ifndef MIXBIT_KERNELS_X86_DECODE_H
#define MIXBIT_KERNELS_X86_DECODE_H

#include "kernels/panel.h"

#define MB_UNROLL _Pragma("GCC unroll 16")

enum { MB_CHUNK_QUADS = MB_CHUNK_K / 4 };

/* Codes of quad q (0 .. 7) of a 32-k chunk, register `part` of the panel. */
MB_INLINE v_code mb_decode_quad(const uint8_t *superblock, size_t chunk, unsigned q, unsigned part,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const uint8_t *p = superblock + chunk * at.chunk_bytes + part * V_BYTES;
    v_code low = v_bytes(0), pairs = low, bits = low;
    if (mb_coding_plane4(coding))
        low = v_and(v_shift(v_load(p + at.plane4 + q / 2 * 64), q % 2 ? 4 : 0), v_bytes(15));
    if (mb_coding_plane2(coding))
        pairs = v_load(p + at.plane2 + q / 4 * 64);
    if (mb_coding_plane1(coding))
        bits = v_load(p + at.plane1);
    const int pair = 2 * (int)(q % 4), bit = (int)q;
    switch (coding) {
    case MB_CODING_B2: return v_and(v_shift(pairs, pair), v_bytes(3));
    case MB_CODING_B3:
        return v_or_and(v_and(v_shift(pairs, pair), v_bytes(3)), v_shift(bits, bit - 2),
                        v_bytes(4));
    case MB_CODING_B4: return low;
    case MB_CODING_B5: return v_or_and(low, v_shift(bits, bit - 4), v_bytes(16));
    case MB_CODING_B6: return v_or_and(low, v_shift(pairs, pair - 4), v_bytes(48));
    case MB_CODING_LUT4:
        return v_lookup(v_table(V_SIGNED_CODES ? (const void *)mb_lut4_iq4 : mb_lut4_iq4_biased),
                        low);
    default: break; /* b8 */
    }
    const v_code byte = v_load(p + at.plane8 + q * 64);
    return V_SIGNED_CODES ? v_xor(byte, v_bytes(0x80)) : byte;
}

/* The sixteen 6-bit sub-scales of a super-block (g16x2s6) as int8, even groups
 * first: out[g % 2][g / 2][row]. Two pairs of groups share 16 bytes of high
 * bits, so a ymm holds both: the upper lane's are 4 bits further up. */
MB_INLINE void mb_decode_sub_scales6(const uint8_t *sub_scale, int8_t out[2][8][16])
{
    const __m256i lane_shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
    const __m256i low_mask = _mm256_set1_epi8(0x0f), high_mask = _mm256_set1_epi8(0x30),
                  bias = _mm256_set1_epi8(32);
    MB_UNROLL
    for (unsigned i = 0; i < 4; i++) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(sub_scale + 32 * i));
        __m256i high = _mm256_broadcastsi128_si256(
            _mm_loadu_si128((const __m128i *)(const void *)(sub_scale + 128 + 16 * i)));
        high = _mm256_srlv_epi32(high, lane_shift);
        const __m256i even =
            _mm256_or_si256(_mm256_and_si256(low, low_mask),
                            _mm256_and_si256(_mm256_slli_epi16(high, 4), high_mask));
        const __m256i odd =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low, 4), low_mask),
                            _mm256_and_si256(_mm256_slli_epi16(high, 2), high_mask));
        _mm256_storeu_si256((__m256i *)(void *)out[0][2 * i], _mm256_sub_epi8(even, bias));
        _mm256_storeu_si256((__m256i *)(void *)out[1][2 * i], _mm256_sub_epi8(odd, bias));
    }
}

/* What has to be decoded once per super-block before its groups: 6-bit
 * sub-scales. The lines before the codes are touched in order, so that the
 * stream of a panel only ever rises. */
struct mb_header {
    int8_t sub_scale[2][8][16];
};
MB_INLINE void mb_decode_header(const uint8_t *superblock, struct mb_header *header,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    MB_UNROLL
    for (unsigned line = 0; line < at.codes; line += 64)
        _mm_prefetch((const char *)(superblock + line), _MM_HINT_T0);
    if (scale == MB_SCALE_G16X2S6)
        mb_decode_sub_scales6(superblock + at.sub_scale, header->sub_scale);
}

/* Sub-scale of group `g` (0 .. 1) of a chunk as floats; g is 0 where groups are
 * 32 wide. */
MB_INLINE v_float mb_decode_sub_scale(const uint8_t *superblock, const struct mb_header *header,
                                      size_t chunk, unsigned g, unsigned part,
                                      const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const uint8_t *p = superblock + mb_superblock_layout(coding, scale).sub_scale;
    if (scale == MB_SCALE_G16X2S6)
        return v_to_float(v_load_i8(header->sub_scale[g][chunk] + part * 8));
    if (scale == MB_SCALE_G16X2MIN) {
        const v_int pair = v_load_u16(p + chunk * 32 + part * 16);
        return v_to_float(v_int_and(v_int_shift(pair, 8 * g), 15));
    }
    p += (chunk * (MB_CHUNK_K / mb_scale_group(scale)) + g) * 16 + part * 8;
    return v_to_float(scale == MB_SCALE_G32X2MIN ? v_load_u8(p) : v_load_i8(p));
}

/* Sub-minima of groups 2 * pair and 2 * pair + 1 as pairs of int16. */
MB_INLINE v_int mb_decode_min_pair(const uint8_t *superblock, size_t pair, unsigned part,
                                   const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    return scale == MB_SCALE_G32X2MIN
               ? v_load_u8_pairs(superblock + at.sub_min + pair * 32 + part * 16)
               : v_load_high_pairs(superblock + at.sub_scale + pair * 32 + part * 16);
}

MB_INLINE v_float mb_decode_float(const uint8_t *p, const enum mb_coding coding)
{
    return coding == MB_CODING_F16    ? v_load_f16(p)
           : coding == MB_CODING_BF16 ? v_load_bf16(p)
                                      : v_load_float((const float *)(const void *)p);
}

MB_INLINE void mb_decode_floats(const uint8_t *panel, size_t k, const struct mb_decoded *out,
                                const enum mb_coding coding)
{
    const size_t bytes = coding == MB_CODING_F32 ? 4 : 2;
    for (size_t i = 0; i < k * MB_PANEL_ROWS; i += V_LANES)
        v_store_float(out->scale + i, mb_decode_float(panel + i * bytes, coding));
}

/* One panel's super-blocks into a decoded panel: the body of every decode_*
 * kernel. */
MB_INLINE void mb_decode_panel(const uint8_t *panel, size_t superblocks,
                               const struct mb_decoded *out, const enum mb_coding coding,
                               const enum mb_scale_kind scale)
{
    if (mb_coding_is_float(coding)) {
        mb_decode_floats(panel, superblocks, out, coding);
        return;
    }
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned chunks = at.k / MB_CHUNK_K, groups = at.k / mb_scale_group(scale);
    for (size_t b = 0; b < superblocks; b++, panel += at.bytes) {
        uint8_t *code = out->code + b * at.k * MB_PANEL_ROWS;
        float *s = out->scale + b * groups * MB_PANEL_ROWS;
        struct mb_header header;
        mb_decode_header(panel, &header, coding, scale);
        for (unsigned c = 0; c < chunks; c++) {
            MB_UNROLL
            for (unsigned q = 0; q < MB_CHUNK_QUADS; q++)
                MB_UNROLL
            for (unsigned part = 0; part < V_PARTS; part++)
                v_store(code + (c * 8 + q) * 64 + part * V_BYTES,
                        mb_decode_quad(panel, c, q, part, coding, scale));
        }
        MB_UNROLL
        for (unsigned part = 0; part < V_PARTS; part++) {
            const unsigned row = part * V_LANES;
            if (!mb_scale_two_level(scale)) {
                for (unsigned g = 0; g < groups; g++) {
                    v_store_float(s + g * 16 + row, v_load_f16(panel + at.d + g * 32 + 2 * row));
                    if (mb_scale_has_min(scale))
                        v_store_float(out->min + (b * groups + g) * 16 + row,
                                      v_load_f16(panel + at.dmin + g * 32 + 2 * row));
                }
                continue;
            }
            for (unsigned c = 0; c < chunks; c++)
                MB_UNROLL
            for (unsigned g = 0; g < groups / chunks; g++)
                v_store_float(s + (c * (groups / chunks) + g) * 16 + row,
                              mb_decode_sub_scale(panel, &header, c, g, part, coding, scale));
            v_store_float(out->d + b * 16 + row, v_load_f16(panel + at.d + 2 * row));
            if (mb_scale_has_min(scale)) {
                v_store_float(out->min + b * 16 + row, v_load_f16(panel + at.dmin + 2 * row));
                for (unsigned pair = 0; pair < groups / 2; pair++)
                    v_store(out->min_pairs + ((b * groups / 2 + pair) * 16 + row) * 2,
                            mb_decode_min_pair(panel, pair, part, coding, scale));
            }
        }
    }
}

#endif
