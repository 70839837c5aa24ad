/* SPDX-License-Identifier: Apache-2.0 */
/* The body of gemv: packed panels x a few activation rows, decoded in registers and read once. The
 * formula and the limits are in matmul.h; what bounds it in caches, in docs/measuring.md. */
#ifndef MIXBIT_KERNELS_SIMD_GEMV_H
#define MIXBIT_KERNELS_SIMD_GEMV_H

#include "kernels/simd/matmul.h"

struct mb_stream {
    const uint8_t *block; /* the current super-block of the first panel */
    size_t panel_bytes;
    size_t ahead;         /* bytes; 0: no prefetching */
    const uint8_t *table; /* of a coding with a table of the weights' own */
};

/* With several rows a line lasts longer than hardware prefetchers look ahead: ask L2 for the
 * stream, as far ahead as the selection says. With one row it depends on the CPU (select.c). */
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

/* Largest code as it is multiplied. */
MB_INLINE unsigned mb_dot_max(const enum mb_coding coding)
{
    return mb_coding_max(coding) - 2 * mb_codebook_spare(coding);
}

/* Where the dots of the group at weight k of the rows start. The bias is -128 times a sum; what
 * codes spare of the 128 leaves a half or a quarter. */
MB_INLINE void mb_stream_start(const struct mb_row *row, size_t k, const unsigned rows,
                               const unsigned registers, const enum mb_coding coding,
                               const enum mb_scale_kind scale, mb_tile_int dot)
{
    const unsigned spare = mb_codebook_spare(coding);
    MB_EACH (r, rows) {
        v_int start = mb_has_bias(scale, mb_dot_max(coding))
                          ? v_broadcast4(row[r].bias + k / mb_scale_group(scale))
                          : v_zero();
        if (spare > 0)
            start = v_int_sra(start, (unsigned)__builtin_ctz(128 / (128 - spare)));
        MB_EACH (v, registers)
            dot[r][v] = start;
    }
}

/* Whether odd quads are summed apart for the sake of latency: eight dots one behind the other, 32
 * cycles and more, are longer than what the schedulers hold of the chunks that follow. There have
 * to be registers left for tables and planes. */
MB_INLINE bool mb_is_halved(const unsigned quads, const unsigned sums)
{
    return V_WIDE_DOT && quads == MB_CHUNK_QUADS && 3 * sums + 16 <= V_REGISTERS;
}

/* Continues dot[r][v]: quads q0 .. of a chunk, weight k of the rows; a group, or 32 weights of a
 * wider one. */
MB_INLINE void mb_stream_dots(const struct mb_stream *w, const struct mb_row *row, size_t chunk,
                              const unsigned q0, size_t k, const unsigned rows,
                              const unsigned registers, const enum mb_coding coding,
                              const enum mb_scale_kind scale, mb_tile_int dot)
{
    const unsigned max_code = mb_dot_max(coding), group = mb_scale_group(scale),
                   quads = (group < MB_CHUNK_K ? group : MB_CHUNK_K) / 4;
    const unsigned chain = v_dot_chain(max_code) < quads ? v_dot_chain(max_code) : quads;
    const unsigned count = v_dot_registers(registers);
    const bool raise = mb_is_raised(coding) && 3 * rows * registers + 4 <= V_REGISTERS,
               apart = raise || mb_is_halved(quads, rows * registers);
    const struct mb_tables tables = mb_tables_of_dots(coding, w->table);
    struct mb_planes planes[MB_TILE_REGISTERS];
    mb_tile_int odd;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            odd[r][v] = v_zero();
    MB_EACH (block, registers / count)
        MB_EACH (link, quads / chain) {
            mb_tile_partial partial;
            MB_EACH (i, chain)
                MB_EACH (j, count) {
                    const unsigned q = q0 + link * chain + i, v = block * count + j;
                    mb_load_planes(&planes[v], mb_stream_block(w, v), chunk, q, q0, v % V_PARTS,
                                   coding, scale);
                    const struct mb_tables at =
                        mb_tables_at(&tables, chunk * MB_CHUNK_QUADS + q, coding);
                    const v_code code = mb_decode_quad(&planes[v], q, raise && q % 2, &at, coding);
                    MB_EACH (r, rows) {
                        const v_act act = v_load_act(row[r].code + k, q - q0);
                        if (apart && q % 2)
                            odd[r][v] = mb_dot(odd[r][v], code, act, max_code);
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
    if (apart)
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                dot[r][v] = v_int_add(dot[r][v], raise ? v_int_sra(odd[r][v], 4) : odd[r][v]);
}

/* One super-block at weight k of the rows, with one-level scales. Nested: f is the sum that takes
 * the activations' scale later. */
MB_INLINE void mb_stream_one_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   const enum mb_activation type, mb_tile_float f)
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
        const size_t at_k = k + g * group, as = at_k / mb_activation_group(type);
        const unsigned q0 = group < MB_CHUNK_K ? g * group % MB_CHUNK_K / 4 : 0;
        mb_tile_int dot;
        mb_stream_start(row, at_k, rows, registers, coding, scale, dot);
        for (unsigned i = 0; i < group; i += step) {
            const unsigned in = g * group + i;
            mb_stream_prefetch(w, w->block + in / step * share, share);
            mb_stream_dots(w, row, in / MB_CHUNK_K, q0, at_k + i, rows, registers, coding, scale,
                           dot);
        }
        MB_EACH (v, registers) {
            const v_float d = mb_decode_d(mb_stream_scale(w, at.d, g, v, scale), coding, scale);
            MB_EACH (r, rows) {
                const v_float factor =
                    mb_is_nested(scale, type) ? d : v_mul(d, v_broadcast_float(row[r].scale + as));
                f[r][v] = v_fma(v_to_float(dot[r][v]), factor, f[r][v]);
            }
            if (!mb_scale_has_min(scale))
                continue;
            const v_float min = v_load_f16(mb_stream_scale(w, at.dmin, g, v, scale));
            MB_EACH (r, rows)
                f[r][v] = v_fma(min, v_broadcast_float(row[r].scaled_sum + as), f[r][v]);
        }
    }
}

/* Nested sums of the b-th 256 weights into f, and from the start again. */
MB_INLINE void mb_stream_settle(const struct mb_row *row, size_t b, const unsigned rows,
                                const unsigned registers, mb_tile_float s, mb_tile_float f)
{
    MB_EACH (r, rows) {
        const v_float as = v_broadcast_float(row[r].scale + b);
        MB_EACH (v, registers) {
            f[r][v] = v_fma(s[r][v], as, f[r][v]);
            s[r][v] = v_zero_float();
        }
    }
}

/* The minima of a two-level super-block, register v. */
MB_INLINE void mb_stream_minima(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                const unsigned v, const unsigned rows, const enum mb_coding coding,
                                const enum mb_scale_kind scale, const enum mb_activation type,
                                mb_tile_float f)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned group = mb_scale_group(scale);
    const bool finer = mb_is_finer(scale, type);
    v_int sum[MB_TILE_ROWS];
    v_float scaled[MB_TILE_ROWS];
    MB_EACH (r, rows)
        sum[r] = v_zero(), scaled[r] = v_zero_float();
    MB_EACH (p, 256 / group / 2) {
        const v_int pair = mb_decode_min_pair(mb_stream_block(w, v), p, v % V_PARTS, coding, scale);
        const v_float even = v_to_float(v_int_and(pair, 0xffff)),
                      odd = v_to_float(v_int_sra(pair, 16));
        MB_EACH (r, rows) {
            const size_t first = k / group + 2 * p;
            if (finer) {
                const float *ss = row[r].scaled_sum + first;
                scaled[r] = v_fma(even, v_broadcast_float(ss), scaled[r]);
                scaled[r] = v_fma(odd, v_broadcast_float(ss + 1), scaled[r]);
            } else {
                sum[r] = v_dot2(sum[r], pair, v_broadcast4(row[r].sum + first));
            }
        }
    }
    const v_float dmin = v_load_f16(mb_stream_scale(w, at.dmin, 0, v, scale));
    MB_EACH (r, rows) {
        if (finer)
            f[r][v] = v_fnma(scaled[r], dmin, f[r][v]);
        else
            f[r][v] = v_fnma(v_to_float(sum[r]),
                             v_mul(dmin, v_broadcast_float(row[r].scale + k / 256)), f[r][v]);
    }
}

/* One super-block at weight k of the rows: 256 weights with two-level scales. */
MB_INLINE void mb_stream_two_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   const enum mb_activation type, mb_tile_float f)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned group = mb_scale_group(scale), chunks = 256 / MB_CHUNK_K,
                   share = at.bytes / chunks;
    const bool finer = mb_is_finer(scale, type);
    struct mb_header header[MB_TILE_REGISTERS / V_PARTS];
    mb_tile_float s;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            s[r][v] = v_zero_float();
    MB_EACH (p, registers / V_PARTS)
        mb_decode_header(mb_stream_block(w, p * V_PARTS), &header[p], coding, scale);
    for (size_t c = 0; c < chunks; c++) {
        mb_stream_prefetch(w, w->block + c * share, share);
        MB_EACH (g, MB_CHUNK_K / group) {
            const size_t at_k = k + c * MB_CHUNK_K + g * group;
            mb_tile_int dot;
            mb_stream_start(row, at_k, rows, registers, coding, scale, dot);
            mb_stream_dots(w, row, c, g * (group / 4), at_k, rows, registers, coding, scale, dot);
            MB_EACH (v, registers) {
                const v_float sc = mb_decode_sub_scale(mb_stream_block(w, v), &header[v / V_PARTS],
                                                       c, g, v % V_PARTS, coding, scale);
                MB_EACH (r, rows) {
                    const v_float factor =
                        finer ? v_mul(sc, v_broadcast_float(row[r].scale + at_k / 32)) : sc;
                    s[r][v] = v_fma(v_to_float(dot[r][v]), factor, s[r][v]);
                }
            }
        }
    }
    MB_EACH (v, registers) {
        const v_float d = mb_decode_d(mb_stream_scale(w, at.d, 0, v, scale), coding, scale);
        MB_EACH (r, rows) {
            const v_float factor = finer ? d : v_mul(d, v_broadcast_float(row[r].scale + k / 256));
            f[r][v] = v_fma(s[r][v], factor, f[r][v]);
        }
        if (mb_scale_has_min(scale))
            mb_stream_minima(w, row, k, v, rows, coding, scale, type, f);
    }
}

/* `count` k of float panels from k on, or of bf16 pairs with bf16 activations. */
MB_INLINE void mb_stream_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                const unsigned count, const unsigned rows, const unsigned registers,
                                const enum mb_coding coding, mb_tile_float f)
{
    MB_EACH (i, count)
        MB_EACH (v, registers) {
            const v_float weight =
                mb_decode_float(mb_stream_block(w, v), k + i, v % V_PARTS, coding);
            MB_EACH (r, rows)
                f[r][v] = v_fma(weight, v_broadcast_float(row[r].x + k + i), f[r][v]);
        }
}
MB_INLINE void mb_stream_pairs(const struct mb_stream *w, const struct mb_row *row, size_t k,
                               const unsigned count, const unsigned rows, const unsigned registers,
                               mb_tile_float f)
{
    MB_EACH (i, count / 2)
        MB_EACH (v, registers) {
            const size_t pair = k / 2 + i;
            const v_code weights =
                v_load(mb_stream_block(w, v) + pair * 4 * MB_PANEL_ROWS + v % V_PARTS * V_BYTES);
            MB_EACH (step, MB_PAIR_STEPS)
                MB_EACH (r, rows)
                    f[r][v] =
                        mb_pair_step(f[r][v], weights, v_broadcast4(row[r].code + 4 * pair), step);
        }
}

MB_INLINE void mb_stream_some_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                     const unsigned count, const unsigned rows,
                                     const unsigned registers, const enum mb_coding coding,
                                     const enum mb_activation type, mb_tile_float f)
{
    if (type == MB_ACTIVATION_BF16)
        mb_stream_pairs(w, row, k, count, rows, registers, f);
    else
        mb_stream_floats(w, row, k, count, rows, registers, coding, f);
}

/* k is a multiple of the super-block's. */
MB_INLINE void mb_stream_all_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                    const unsigned rows, const unsigned registers,
                                    const enum mb_coding coding, const enum mb_scale_kind scale,
                                    const enum mb_activation type, mb_tile_float f)
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const size_t bytes = at.bytes / at.k;
    size_t i = 0;
    for (; i + 4 <= k; i += 4) {
        MB_EACH (p, registers / V_PARTS)
            mb_stream_prefetch(w, mb_stream_block(w, p * V_PARTS) + i * bytes, 4 * bytes);
        mb_stream_some_floats(w, row, i, 4, rows, registers, coding, type, f);
    }
    for (; i < k; i += at.k)
        mb_stream_some_floats(w, row, i, at.k, rows, registers, coding, type, f);
}

/* `panels` panels from `panel` on, all k: columns `column` and after of y, m <= rows rows (as in
 * mb_tile). */
MB_INLINE void mb_stream_panels(const struct mb_gemv_args *a, const uint8_t *panel, size_t column,
                                const unsigned rows, const unsigned panels,
                                const enum mb_coding coding, const enum mb_scale_kind scale,
                                const enum mb_activation type)
{
    const unsigned registers = panels * V_PARTS, block_k = mb_scale_superblock_k(scale);
    struct mb_stream w = {panel, a->panel_bytes, a->prefetch, NULL};
    mb_tile_float f, s; /* s: nested sums */
    struct mb_row row[MB_TILE_ROWS];
    MB_EACH (r, rows) {
        const size_t at = r < a->m ? r : a->m - 1;
        row[r] =
            mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride, at, 0, scale, type);
        MB_EACH (v, registers)
            f[r][v] = s[r][v] = v_zero_float();
    }
    if (mb_coding_is_float(coding))
        mb_stream_all_floats(&w, row, a->superblocks * block_k, rows, registers, coding, scale,
                             type, f);
    else
        for (size_t k = 0; k < a->superblocks * block_k;
             k += block_k, w.block += mb_superblock_layout(coding, scale).bytes) {
            if (mb_scale_two_level(scale)) {
                mb_stream_two_level(&w, row, k, rows, registers, coding, scale, type, f);
                continue;
            }
            const bool nested = mb_is_nested(scale, type);
            mb_stream_one_level(&w, row, k, rows, registers, coding, scale, type, nested ? s : f);
            if (nested && ((k + block_k) % 256 == 0 || k / block_k + 1 == a->superblocks))
                mb_stream_settle(row, k / 256, rows, registers, s, f);
        }
    MB_EACH (r, rows)
        MB_EACH (v, registers) {
            const size_t at = column + v * V_LANES;
            if (r < a->m)
                v_store_some(a->y + r * a->y_stride + at, f[r][v], a->n > at ? a->n - at : 0);
        }
}

MB_INLINE void mb_stream_rows(const struct mb_gemv_args *a, const unsigned rows,
                              const unsigned panels, const enum mb_coding coding,
                              const enum mb_scale_kind scale, const enum mb_activation type)
{
    const size_t count = (a->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    size_t p = 0;
    for (; p + panels <= count; p += panels)
        mb_stream_panels(a, a->panels + p * a->panel_bytes, p * MB_PANEL_ROWS, rows, panels, coding,
                         scale, type);
    if (panels > 1)
        for (; p < count; p++)
            mb_stream_panels(a, a->panels + p * a->panel_bytes, p * MB_PANEL_ROWS, rows, 1, coding,
                             scale, type);
}

/* The body of every gemv_* kernel: m <= mr rows, nr / 16 panels in flight. 5 and 7 rows run as 6
 * and 8. */
MB_INLINE void mb_gemv(const struct mb_gemv_args *a, const unsigned mr, const unsigned nr,
                       const enum mb_coding coding, const enum mb_scale_kind scale,
                       const enum mb_activation type)
{
    const unsigned panels = nr / MB_PANEL_ROWS, before = mb_enter(type);
    if (mr == 1)
        mb_stream_rows(a, 1, panels, coding, scale, type);
    else if (a->m <= 2)
        mb_stream_rows(a, 2, panels, coding, scale, type);
    else if (a->m == 3)
        mb_stream_rows(a, 3, panels, coding, scale, type);
    else if (mr <= 4 || a->m == 4)
        mb_stream_rows(a, 4, panels, coding, scale, type);
    else if (a->m <= 6)
        mb_stream_rows(a, 6, panels, coding, scale, type);
    else
        mb_stream_rows(a, 8, panels, coding, scale, type);
    mb_leave(type, before);
}

#endif
