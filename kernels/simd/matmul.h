/* SPDX-License-Identifier: Apache-2.0 */
/* The loop bodies of gemm and gemv, written once on the verbs of an ISA. Rows, registers of
 * columns, coding, scale kind and largest code are constants wherever these are called, so every
 * branch on them folds.
 *
 * Both compute, group by group in ascending k (the canonical numbers of kernel.h):
 *
 *   dot[row][register]  starts from the bias sum, a broadcast; then one dot instruction per quad:
 *                       codes in a register, four activations broadcast from memory
 *   one-level           f = fma(float(dot), d * as, f), then f = fma(min, ss, f)
 *   two-level           s = fma(float(dot), sc, s); once per super-block f = fma(s, d * as, f), and
 *                       the minima as int16 pairs times activation sums, one per two groups
 *
 * Registers, gemm 6 x 2 on AVX-512: 12 dots, 12 f (or s), 2 codes, 1 activation, 2 scales of 32. In
 * two-level kinds f would be 12 more: it stays in y and is touched once per super-block. 3 x 2 on
 * AVX2: 6 dots, 6 f (or s), 2 codes, activation and product, all 16. Floats have no dots: 12 x 2
 * and 6 x 2. ARM's plan is in kernels/arm/<level>.c.
 *
 * Limits, per 16 columns, row and group of 32, in slots of the dot and fma ports: 8 dots, a
 * multiplication and an fma (80 % of the peak), a minimum one more (73 %); two-level 8 + 1 (89 %),
 * groups of 16 8 + 2 (80 %). */
#ifndef MIXBIT_KERNELS_SIMD_MATMUL_H
#define MIXBIT_KERNELS_SIMD_MATMUL_H

#include "kernels/simd/decode.h"

/* Of every kernel made from these bodies: raise it when a change moves their speed. */
enum { MB_BODY_REVISION = 2 };

/* The largest tiles; arrays of this size live in registers, as far as a tile uses them. */
enum { MB_TILE_ROWS = 12, MB_TILE_REGISTERS = 8 };
typedef v_int mb_tile_int[MB_TILE_ROWS][MB_TILE_REGISTERS];
typedef v_partial mb_tile_partial[MB_TILE_ROWS][MB_TILE_REGISTERS];
typedef v_float mb_tile_float[MB_TILE_ROWS][MB_TILE_REGISTERS];

/* One activation row, at the first k of the run. */
struct mb_row {
    const uint8_t *code;
    const float *x; /* f32 activations */
    const float *scale, *scaled_sum;
    const int16_t *sum; /* per group */
    const int32_t *bias;
};

MB_INLINE struct mb_row mb_row_at(const uint8_t *records, const struct mb_activation_layout *layout,
                                  const int32_t *bias_sum, size_t bias_stride, size_t r, size_t k0,
                                  const enum mb_scale_kind scale)
{
    const uint8_t *record = records + r * layout->row_bytes;
    const unsigned group = mb_scale_group(scale);
    const size_t sum = group == 16 ? layout->sum16 : layout->sum32;
    return (struct mb_row){
        .code = record + k0,
        .x = (const float *)(const void *)record + k0,
        .scale = (const float *)(const void *)(record + layout->scale) +
                 k0 / mb_scale_activation_group(scale),
        .scaled_sum = (const float *)(const void *)(record + layout->scaled_sum) + k0 / 32,
        .sum = (const int16_t *)(const void *)(record + sum) + k0 / group,
        .bias = bias_sum ? bias_sum + r * bias_stride + k0 / group : NULL,
    };
}

MB_INLINE bool mb_has_bias(const enum mb_scale_kind scale, const unsigned max_code)
{
    return !mb_scale_has_min(scale) && !mb_is_signed(max_code);
}

/* Whether gemm takes signed codes apart into sizes and signs, having no signed multiplication. */
MB_INLINE bool mb_is_flipped(const unsigned max_code)
{
    return V_FLIPPED_SIGNS && mb_is_signed(max_code);
}

/* ---- gemm: decoded panels x activation rows ---- */

/* Register v of row `group` of an array [groups][16] of a decoded panel. */
MB_INLINE v_float mb_tile_scale(const float *scale, size_t group, unsigned v)
{
    return v_load_float(scale + group * MB_PANEL_ROWS + v % V_PARTS * V_LANES);
}

/* Register v of row r of y, as far as it is inside the n columns. */
MB_INLINE v_float mb_tile_load(const struct mb_gemm_args *a, size_t r, unsigned v)
{
    const size_t column = v * V_LANES;
    return v_load_some(a->y + r * a->y_stride + column, a->n > column ? a->n - column : 0);
}
MB_INLINE void mb_tile_store(const struct mb_gemm_args *a, size_t r, unsigned v, v_float f)
{
    const size_t column = v * V_LANES;
    v_store_some(a->y + r * a->y_stride + column, f, a->n > column ? a->n - column : 0);
}

/* Where the dots of a group start. Flipped signs: sums that mb_sum_negatives left in `min`, as
 * int32. */
MB_INLINE v_int mb_tile_start(const struct mb_gemm_args *a, const struct mb_row *row, size_t group,
                              unsigned v, const enum mb_scale_kind scale, const unsigned max_code)
{
    if (mb_is_flipped(max_code))
        return v_load(a->panels[v / V_PARTS].min + group * MB_PANEL_ROWS + v % V_PARTS * V_LANES);
    return mb_has_bias(scale, max_code) ? v_broadcast4(row->bias + group) : v_zero();
}

/* One chain of dots: `chain` quads from first_quad of a group on, `count` registers from first on.
 */
MB_INLINE void mb_tile_chain(const struct mb_gemm_args *a, const struct mb_row *row,
                             size_t group_quad, const unsigned first_quad, const unsigned first,
                             const unsigned rows, const unsigned count, const unsigned chain,
                             const unsigned max_code, mb_tile_int dot)
{
    mb_tile_partial partial;
    MB_EACH (i, chain) {
        const unsigned quad = first_quad + i;
        v_code code[MB_TILE_REGISTERS];
        MB_EACH (j, count) {
            const unsigned v = first + j;
            code[j] = v_load(a->panels[v / V_PARTS].code + (group_quad + quad) * 64 +
                             v % V_PARTS * V_BYTES);
        }
        MB_EACH (r, rows) {
            const v_act act = v_load_act(row[r].code + group_quad * 4, quad);
            MB_EACH (j, count)
                partial[r][j] = i == 0 ? v_dot_first(dot[r][first + j], code[j], act, max_code)
                                       : v_dot_next(partial[r][j], code[j], act, max_code);
        }
    }
    MB_EACH (r, rows)
        MB_EACH (j, count)
            dot[r][first + j] = v_dot_fold(dot[r][first + j], partial[r][j], max_code);
}

/* Continues dot[r][v] with `quads` quads from number `quad` of the run on: a group, or 32 weights
 * of a wider one. */
MB_INLINE void mb_tile_quads(const struct mb_gemm_args *a, const struct mb_row *row, size_t quad,
                             const unsigned rows, const unsigned registers, const unsigned quads,
                             const unsigned max_code, mb_tile_int dot)
{
    const unsigned chain = v_dot_chain(max_code) < quads ? v_dot_chain(max_code) : quads;
    if (mb_is_flipped(max_code)) { /* one register of codes and its signs at a time: all that there
                                     is room for */
        MB_EACH (i, quads)
            MB_EACH (v, registers) {
                const v_code code =
                    v_load(a->panels[v / V_PARTS].code + (quad + i) * 64 + v % V_PARTS * V_BYTES);
                MB_EACH (r, rows) {
                    const v_partial product =
                        v_dot_flipped(code, v_load_act(row[r].code + quad * 4, i));
                    dot[r][v] = v_dot_fold(dot[r][v], product, max_code);
                }
            }
        return;
    }
    const unsigned count = v_dot_registers(registers);
    MB_EACH (v, registers / count)
        MB_EACH (link, quads / chain)
            mb_tile_chain(a, row, quad, link * chain, v * count, rows, count, chain, max_code, dot);
}

/* dot[r][v] over group g of the run. */
MB_INLINE void mb_tile_dots(const struct mb_gemm_args *a, const struct mb_row *row, size_t g,
                            const unsigned rows, const unsigned registers,
                            const enum mb_scale_kind scale, const unsigned max_code,
                            mb_tile_int dot)
{
    const unsigned group = mb_scale_group(scale), quads = (group < 32 ? group : 32) / 4;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            dot[r][v] = mb_tile_start(a, &row[r], g, v, scale, max_code);
    for (size_t q = 0; q < group / 4; q += quads)
        mb_tile_quads(a, row, g * (group / 4) + q, rows, registers, quads, max_code, dot);
}

MB_INLINE void mb_tile_one_level(const struct mb_gemm_args *a, const struct mb_row *row,
                                 const unsigned rows, const unsigned registers,
                                 const enum mb_scale_kind scale, const unsigned max_code,
                                 mb_tile_float f)
{
    const unsigned group = mb_scale_group(scale);
    for (size_t g = 0; g < a->k / group; g++) {
        mb_tile_int dot;
        mb_tile_dots(a, row, g, rows, registers, scale, max_code, dot);
        MB_EACH (r, rows) {
            const size_t at = g * group / mb_scale_activation_group(scale);
            const v_float as = v_broadcast_float(row[r].scale + at);
            MB_EACH (v, registers) {
                const v_float d = mb_tile_scale(a->panels[v / V_PARTS].scale, g, v);
                f[r][v] = v_fma(v_to_float(dot[r][v]), v_mul(d, as), f[r][v]);
            }
            if (!mb_scale_has_min(scale))
                continue;
            const v_float ss = v_broadcast_float(row[r].scaled_sum + g);
            MB_EACH (v, registers)
                f[r][v] = v_fma(mb_tile_scale(a->panels[v / V_PARTS].min, g, v), ss, f[r][v]);
        }
    }
}

/* The end of super-block b: y takes s, and the minima times the activation sums. */
MB_INLINE void mb_tile_superblock(const struct mb_gemm_args *a, const struct mb_row *row,
                                  size_t row0, size_t count, size_t b, const unsigned rows,
                                  const unsigned registers, const enum mb_scale_kind scale,
                                  mb_tile_float s)
{
    const unsigned pairs = 256 / mb_scale_group(scale) / 2;
    mb_tile_int sum;
    MB_EACH (r, rows) {
        const v_float as = v_broadcast_float(row[r].scale + b);
        MB_EACH (v, registers) {
            const v_float d = v_mul(mb_tile_scale(a->panels[v / V_PARTS].d, b, v), as);
            if (r < count)
                mb_tile_store(a, row0 + r, v, v_fma(s[r][v], d, mb_tile_load(a, row0 + r, v)));
            sum[r][v] = v_zero();
        }
    }
    if (!mb_scale_has_min(scale))
        return;
    for (size_t p = b * pairs; p < (b + 1) * pairs; p++)
        MB_EACH (v, registers) {
            const int16_t *pair = a->panels[v / V_PARTS].min_pairs + p * 2 * MB_PANEL_ROWS;
            const v_int min = v_load(pair + v % V_PARTS * 2 * V_LANES);
            MB_EACH (r, rows)
                sum[r][v] = v_dot2(sum[r][v], min, v_broadcast4(row[r].sum + 2 * p));
        }
    MB_EACH (r, rows) {
        const v_float as = v_broadcast_float(row[r].scale + b);
        MB_EACH (v, registers) {
            const v_float dmin = v_mul(mb_tile_scale(a->panels[v / V_PARTS].min, b, v), as);
            if (r < count)
                mb_tile_store(a, row0 + r, v,
                              v_fnma(v_to_float(sum[r][v]), dmin, mb_tile_load(a, row0 + r, v)));
        }
    }
}

/* Continues y, which holds f: registers have room for s and the dots only. */
MB_INLINE void mb_tile_two_level(const struct mb_gemm_args *a, const struct mb_row *row,
                                 size_t row0, size_t count, const unsigned rows,
                                 const unsigned registers, const enum mb_scale_kind scale,
                                 const unsigned max_code)
{
    const unsigned group = mb_scale_group(scale), groups = 256 / group;
    for (size_t b = 0; b < a->k / 256; b++) {
        mb_tile_float s;
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                s[r][v] = v_zero_float();
        for (size_t g = b * groups; g < (b + 1) * groups; g++) {
            mb_tile_int dot;
            mb_tile_dots(a, row, g, rows, registers, scale, max_code, dot);
            MB_EACH (v, registers) {
                const v_float sc = mb_tile_scale(a->panels[v / V_PARTS].scale, g, v);
                MB_EACH (r, rows)
                    s[r][v] = v_fma(v_to_float(dot[r][v]), sc, s[r][v]);
            }
        }
        mb_tile_superblock(a, row, row0, count, b, rows, registers, scale, s);
    }
}

MB_INLINE void mb_tile_floats(const struct mb_gemm_args *a, const struct mb_row *row,
                              const unsigned rows, const unsigned registers, mb_tile_float f)
{
#pragma GCC unroll 4
    for (size_t k = 0; k < a->k; k++) {
        v_float w[MB_TILE_REGISTERS];
        MB_EACH (v, registers)
            w[v] = mb_tile_scale(a->panels[v / V_PARTS].scale, k, v);
        MB_EACH (r, rows) {
            const v_float act = v_broadcast_float(row[r].x + k);
            MB_EACH (v, registers)
                f[r][v] = v_fma(w[v], act, f[r][v]);
        }
    }
}

/* One tile: y[row0 .. row0 + count)[0 .. n). `rows` is count rounded up to a height that is
 * compiled: the rows above count repeat the last one and are not stored. */
MB_INLINE void mb_tile(const struct mb_gemm_args *a, size_t row0, size_t count, const unsigned rows,
                       const unsigned registers, const enum mb_scale_kind scale,
                       const unsigned max_code)
{
    mb_tile_float f;
    struct mb_row row[MB_TILE_ROWS];
    MB_EACH (r, rows) {
        const size_t at = row0 + (r < count ? r : count - 1);
        row[r] =
            mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride, at, a->k0, scale);
        MB_EACH (v, registers)
            f[r][v] = a->first ? v_zero_float() : mb_tile_load(a, at, v);
    }
    if (scale == MB_SCALE_NONE)
        mb_tile_floats(a, row, rows, registers, f);
    else if (!mb_scale_two_level(scale))
        mb_tile_one_level(a, row, rows, registers, scale, max_code, f);
    if (!mb_scale_two_level(scale) || a->first)
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                if (r < count)
                    mb_tile_store(a, row0 + r, v, f[r][v]);
    if (mb_scale_two_level(scale))
        mb_tile_two_level(a, row, row0, count, rows, registers, scale, max_code);
}

/* Tiles of mr rows, then one of a third, two thirds or all of that height. */
MB_INLINE void mb_tile_rows(const struct mb_gemm_args *a, const unsigned mr,
                            const unsigned registers, const enum mb_scale_kind scale,
                            const unsigned max_code)
{
    const unsigned step = mr / 3;
    for (size_t row = 0; row < a->m; row += mr) {
        const size_t count = a->m - row < mr ? a->m - row : mr;
        if (count > 2 * step)
            mb_tile(a, row, count, 3 * step, registers, scale, max_code);
        else if (count > step)
            mb_tile(a, row, count, 2 * step, registers, scale, max_code);
        else
            mb_tile(a, row, count, step, registers, scale, max_code);
    }
}

/* Flipped signs: sums[group][16], int32, of |code| over the negative codes of each group of 32;
 * what v_dot_flipped leaves out is the same for every activation row. */
MB_INLINE void mb_sum_negatives(const uint8_t *code, size_t groups, int32_t *sums)
{
    for (size_t i = 0; i < groups; i++)
        MB_EACH (part, V_PARTS) {
            v_int sum = v_zero();
            MB_EACH (q, 8)
                sum = v_sum_negatives(sum, v_load(code + (i * 8 + q) * 64 + part * V_BYTES));
            v_store(sums + i * MB_PANEL_ROWS + part * V_LANES, sum);
        }
}

/* The body of every gemm_* kernel. If the last columns are just one of two panels, it is read twice
 * and its second copy is not stored. Flipped signs go in runs short enough for their sums to stay
 * in L1. */
MB_INLINE void mb_gemm(const struct mb_gemm_args *args, const unsigned mr, const unsigned nr,
                       const enum mb_scale_kind scale, const unsigned max_code)
{
    enum { SIGNED_K = 2048 };
    _Alignas(64) int32_t sums[V_FLIPPED_SIGNS ? SIGNED_K / 32 * MB_PANEL_ROWS : 1];
    struct mb_decoded panels[2] = {args->panels[0], args->panels[nr == 32 && args->n > 16]};
    struct mb_gemm_args a = *args;
    a.panels = panels;
    if (!mb_is_flipped(max_code)) {
        mb_tile_rows(&a, mr, nr / V_LANES, scale, max_code);
        return;
    }
    panels[0].min = (float *)(void *)sums; /* free: no kind with a minimum has signed codes */
    for (size_t done = 0; done < args->k; done += a.k, a.k0 += a.k, a.first = false) {
        a.k = args->k - done < SIGNED_K ? args->k - done : SIGNED_K;
        mb_sum_negatives(panels[0].code, a.k / 32, sums);
        mb_tile_rows(&a, mr, nr / V_LANES, scale, max_code);
        panels[0].code += a.k * MB_PANEL_ROWS;
        panels[0].scale += a.k / 32 * MB_PANEL_ROWS;
        if (mb_scale_two_level(scale))
            panels[0].d += a.k / 256 * MB_PANEL_ROWS;
    }
}

/* ---- gemv: packed panels x a few activation rows ---- */

struct mb_stream {
    const uint8_t *block; /* the current super-block of the first panel */
    size_t panel_bytes;
    size_t ahead; /* bytes; 0: no prefetching */
};

/* With several rows a line lasts longer than hardware prefetchers look ahead: ask L2 for the
 * stream, as far ahead as the selection says. One row does best alone, as a plain rising stream:
 * asking would hide the misses that train the hardware, and cost a quarter of the rate. */
MB_INLINE void mb_stream_prefetch(const struct mb_stream *w, const uint8_t *p, const unsigned bytes)
{
    if (w->ahead == 0)
        return;
    MB_EACH (line, (bytes + 63) / 64)
        v_fetch(p + w->ahead + line * 64);
}

/* The part of register v of the stream: panel and half. */
MB_INLINE const uint8_t *mb_stream_block(const struct mb_stream *w, unsigned v)
{
    return w->block + v / V_PARTS * w->panel_bytes;
}
/* Where register v of the array of scales [x][16] at byte `offset` of the super-block is. */
MB_INLINE const uint8_t *mb_stream_scale(const struct mb_stream *w, unsigned offset, size_t x,
                                         unsigned v, const enum mb_scale_kind scale)
{
    return mb_stream_block(w, v) + offset +
           (x * MB_PANEL_ROWS + v % V_PARTS * V_LANES) * mb_scale_bytes(scale);
}

/* One dot, to its end. */
MB_INLINE v_int mb_dot(v_int sum, v_code code, v_act act, const unsigned max_code)
{
    return v_dot_fold(sum, v_dot_first(sum, code, act, max_code), max_code);
}

/* Where the dots of the group at weight k of the rows start. */
MB_INLINE void mb_stream_start(const struct mb_row *row, size_t k, const unsigned rows,
                               const unsigned registers, const enum mb_coding coding,
                               const enum mb_scale_kind scale, mb_tile_int dot)
{
    MB_EACH (r, rows) {
        const v_int start = mb_has_bias(scale, mb_coding_max(coding))
                                ? v_broadcast4(row[r].bias + k / mb_scale_group(scale))
                                : v_zero();
        MB_EACH (v, registers)
            dot[r][v] = start;
    }
}

/* Continues dot[r][v]: quads q0 .. of a chunk, weight k of the rows; a group, or 32 weights of a
 * wider one. */
MB_INLINE void mb_stream_dots(const struct mb_stream *w, const struct mb_row *row, size_t chunk,
                              const unsigned q0, size_t k, const unsigned rows,
                              const unsigned registers, const enum mb_coding coding,
                              const enum mb_scale_kind scale, mb_tile_int dot)
{
    const unsigned max_code = mb_coding_max(coding), group = mb_scale_group(scale),
                   quads = (group < MB_CHUNK_K ? group : MB_CHUNK_K) / 4;
    const unsigned chain = v_dot_chain(max_code) < quads ? v_dot_chain(max_code) : quads;
    const unsigned count = v_dot_registers(registers);
    const bool raise = mb_is_raised(coding) && 3 * rows * registers + 4 <= V_REGISTERS;
    struct mb_planes planes[MB_TILE_REGISTERS];
    mb_tile_int raised;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            raised[r][v] = v_zero();
    MB_EACH (block, registers / count)
        MB_EACH (link, quads / chain) {
            mb_tile_partial partial;
            MB_EACH (i, chain)
                MB_EACH (j, count) {
                    const unsigned q = q0 + link * chain + i, v = block * count + j;
                    const bool up = raise && q % 2;
                    mb_load_planes(&planes[v], mb_stream_block(w, v), chunk, q, q0, v % V_PARTS,
                                   coding, scale);
                    const v_code code = mb_decode_quad(&planes[v], q, up, coding);
                    MB_EACH (r, rows) {
                        const v_act act = v_load_act(row[r].code + k, q - q0);
                        if (up)
                            raised[r][v] = mb_dot(raised[r][v], code, act, max_code);
                        else
                            partial[r][j] = i == 0 ? v_dot_first(dot[r][v], code, act, max_code)
                                                   : v_dot_next(partial[r][j], code, act, max_code);
                    }
                }
            MB_EACH (r, rows)
                MB_EACH (j, count) {
                    const unsigned v = block * count + j;
                    dot[r][v] = v_dot_fold(dot[r][v], partial[r][j], max_code);
                }
        }
    if (raise)
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                dot[r][v] = v_int_add(dot[r][v], v_int_sra(raised[r][v], 4));
}

/* One super-block at weight k of the rows, with one-level scales. */
MB_INLINE void mb_stream_one_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   mb_tile_float f)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned group = mb_scale_group(scale), groups = at.k / group,
                   step =
                       group < MB_CHUNK_K ? group : MB_CHUNK_K, /* weights of one chain of dots */
        share = at.bytes * step / at.k; /* of the super-block, header included */
    struct mb_header header;
    MB_EACH (p, registers / V_PARTS)
        mb_decode_header(mb_stream_block(w, p * V_PARTS), &header, coding, scale);
    MB_EACH (g, groups) {
        const size_t at_k = k + g * group, as = at_k / mb_scale_activation_group(scale);
        const unsigned q0 = group < MB_CHUNK_K ? g * group % MB_CHUNK_K / 4 : 0;
        mb_tile_int dot;
        mb_stream_start(row, at_k, rows, registers, coding, scale, dot);
        for (unsigned i = 0; i < group; i += step) {
            const unsigned in = g * group + i;
            if (rows > 1)
                mb_stream_prefetch(w, w->block + in / step * share, share);
            mb_stream_dots(w, row, in / MB_CHUNK_K, q0, at_k + i, rows, registers, coding, scale,
                           dot);
        }
        MB_EACH (v, registers) {
            const v_float d = mb_decode_d(mb_stream_scale(w, at.d, g, v, scale), coding, scale);
            MB_EACH (r, rows)
                f[r][v] = v_fma(v_to_float(dot[r][v]),
                                v_mul(d, v_broadcast_float(row[r].scale + as)), f[r][v]);
            if (!mb_scale_has_min(scale))
                continue;
            const v_float min = v_load_f16(mb_stream_scale(w, at.dmin, g, v, scale));
            MB_EACH (r, rows)
                f[r][v] = v_fma(min, v_broadcast_float(row[r].scaled_sum + as), f[r][v]);
        }
    }
}

/* One super-block at weight k of the rows: 256 weights with two-level scales. */
MB_INLINE void mb_stream_two_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   mb_tile_float f)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned group = mb_scale_group(scale), chunks = 256 / MB_CHUNK_K,
                   share = at.bytes / chunks;
    struct mb_header header[MB_TILE_REGISTERS / V_PARTS];
    mb_tile_float s;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            s[r][v] = v_zero_float();
    MB_EACH (p, registers / V_PARTS)
        mb_decode_header(mb_stream_block(w, p * V_PARTS), &header[p], coding, scale);
    for (size_t c = 0; c < chunks; c++) {
        if (rows > 1)
            mb_stream_prefetch(w, w->block + c * share, share);
        MB_EACH (g, MB_CHUNK_K / group) {
            const size_t at_k = k + c * MB_CHUNK_K + g * group;
            mb_tile_int dot;
            mb_stream_start(row, at_k, rows, registers, coding, scale, dot);
            mb_stream_dots(w, row, c, g * (group / 4), at_k, rows, registers, coding, scale, dot);
            MB_EACH (v, registers) {
                const v_float sc = mb_decode_sub_scale(mb_stream_block(w, v), &header[v / V_PARTS],
                                                       c, g, v % V_PARTS, coding, scale);
                MB_EACH (r, rows)
                    s[r][v] = v_fma(v_to_float(dot[r][v]), sc, s[r][v]);
            }
        }
    }
    MB_EACH (v, registers) {
        const v_float d = mb_decode_d(mb_stream_scale(w, at.d, 0, v, scale), coding, scale);
        MB_EACH (r, rows)
            f[r][v] = v_fma(s[r][v], v_mul(d, v_broadcast_float(row[r].scale + k / 256)), f[r][v]);
        if (!mb_scale_has_min(scale))
            continue;
        v_int sum[MB_TILE_ROWS];
        MB_EACH (r, rows)
            sum[r] = v_zero();
        MB_EACH (p, 256 / group / 2) {
            const v_int pair =
                mb_decode_min_pair(mb_stream_block(w, v), p, v % V_PARTS, coding, scale);
            MB_EACH (r, rows)
                sum[r] = v_dot2(sum[r], pair, v_broadcast4(row[r].sum + k / group + 2 * p));
        }
        const v_float dmin = v_load_f16(mb_stream_scale(w, at.dmin, 0, v, scale));
        MB_EACH (r, rows)
            f[r][v] = v_fnma(v_to_float(sum[r]),
                             v_mul(dmin, v_broadcast_float(row[r].scale + k / 256)), f[r][v]);
    }
}

/* One k of float panels. */
MB_INLINE void mb_stream_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                const unsigned rows, const unsigned registers,
                                const enum mb_coding coding, mb_tile_float f)
{
    const size_t bytes = mb_superblock_layout(coding, MB_SCALE_NONE).bytes;
    MB_EACH (v, registers) {
        const v_float weight = mb_decode_float(
            mb_stream_block(w, v) + k * bytes + v % V_PARTS * (bytes / V_PARTS), coding);
        MB_EACH (r, rows)
            f[r][v] = v_fma(weight, v_broadcast_float(row[r].x + k), f[r][v]);
    }
}

MB_INLINE void mb_stream_all_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                    const unsigned rows, const unsigned registers,
                                    const enum mb_coding coding, mb_tile_float f)
{
    const size_t bytes = mb_superblock_layout(coding, MB_SCALE_NONE).bytes;
    size_t i = 0;
    for (; i + 4 <= k; i += 4) {
        if (rows > 1)
            MB_EACH (p, registers / V_PARTS)
                mb_stream_prefetch(w, mb_stream_block(w, p * V_PARTS) + i * bytes, 4 * bytes);
        MB_EACH (j, 4)
            mb_stream_floats(w, row, i + j, rows, registers, coding, f);
    }
    for (; i < k; i++)
        mb_stream_floats(w, row, i, rows, registers, coding, f);
}

/* `panels` panels from `panel` on, all k: columns `column` and after of y, m <= rows rows (as in
 * mb_tile). */
MB_INLINE void mb_stream_panels(const struct mb_gemv_args *a, const uint8_t *panel, size_t column,
                                const unsigned rows, const unsigned panels,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const unsigned registers = panels * V_PARTS;
    struct mb_stream w = {panel, a->panel_bytes, a->prefetch};
    mb_tile_float f;
    struct mb_row row[MB_TILE_ROWS];
    MB_EACH (r, rows) {
        const size_t at = r < a->m ? r : a->m - 1;
        row[r] = mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride, at, 0, scale);
        MB_EACH (v, registers)
            f[r][v] = v_zero_float();
    }
    if (scale == MB_SCALE_NONE)
        mb_stream_all_floats(&w, row, a->superblocks, rows, registers, coding, f);
    else
        for (size_t b = 0; b < a->superblocks;
             b++, w.block += mb_superblock_layout(coding, scale).bytes)
            if (mb_scale_two_level(scale))
                mb_stream_two_level(&w, row, b * 256, rows, registers, coding, scale, f);
            else
                mb_stream_one_level(&w, row, b * mb_scale_superblock_k(scale), rows, registers,
                                    coding, scale, f);
    MB_EACH (r, rows)
        MB_EACH (v, registers) {
            const size_t at = column + v * V_LANES;
            if (r < a->m)
                v_store_some(a->y + r * a->y_stride + at, f[r][v], a->n > at ? a->n - at : 0);
        }
}

MB_INLINE void mb_stream_rows(const struct mb_gemv_args *a, const unsigned rows,
                              const unsigned panels, const enum mb_coding coding,
                              const enum mb_scale_kind scale)
{
    const size_t count = (a->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    size_t p = 0;
    for (; p + panels <= count; p += panels)
        mb_stream_panels(a, a->panels + p * a->panel_bytes, p * MB_PANEL_ROWS, rows, panels, coding,
                         scale);
    if (panels > 1)
        for (; p < count; p++)
            mb_stream_panels(a, a->panels + p * a->panel_bytes, p * MB_PANEL_ROWS, rows, 1, coding,
                             scale);
}

/* The body of every gemv_* kernel: m <= mr rows, nr / 16 panels in flight. 5 and 7 rows run as 6
 * and 8. */
MB_INLINE void mb_gemv(const struct mb_gemv_args *a, const unsigned mr, const unsigned nr,
                       const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const unsigned panels = nr / MB_PANEL_ROWS;
    if (mr == 1)
        mb_stream_rows(a, 1, panels, coding, scale);
    else if (a->m <= 2)
        mb_stream_rows(a, 2, panels, coding, scale);
    else if (a->m == 3)
        mb_stream_rows(a, 3, panels, coding, scale);
    else if (mr <= 4 || a->m == 4)
        mb_stream_rows(a, 4, panels, coding, scale);
    else if (a->m <= 6)
        mb_stream_rows(a, 6, panels, coding, scale);
    else
        mb_stream_rows(a, 8, panels, coding, scale);
}

#endif
