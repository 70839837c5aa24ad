/* SPDX-License-Identifier: Apache-2.0 */
/* The loop bodies of gemv and gemm, written once on the verbs of an ISA. Rows,
 * registers of columns, coding, scale kind and largest code are constants
 * wherever these are called, so every branch on them folds.
 *
 * Both compute, group by group in ascending k (kernel.h, the canonical
 * numbers):
 *
 *   dot[row][column register]  starts from the bias sum, a broadcast; then one
 * dot per quad: codes in a register, four activations broadcast from memory
 *   one-level   f = fma(float(dot), d * as, f) and f = fma(min, ss, f)
 *   two-level   s = fma(float(dot), sc, s); at the end of the super-block f =
 * fma(s, d * as, f), and the minima as int16 pairs . activation sums, one
 * instruction per two groups
 *
 * Registers, AVX-512, gemm 6 x 2: 12 dots, 12 s (or f), 2 codes, 1 to 2
 * broadcasts, 2 scales of 32. In two-level kinds f would be 12 more: it lives
 * in memory and is touched once per super-block. AVX2, 3 x 2: 6 dots, 6 s or f,
 * 2 codes, broadcast and product, all 16. Limits per 16 rows, activation row
 * and group of 32 on the dot port: 8 dots, mul, fma (8/10 of the peak), with a
 * minimum 8/11; two-level 8/9, groups of 16 4/5. */
#ifndef MIXBIT_KERNELS_X86_MATMUL_H
#define MIXBIT_KERNELS_X86_MATMUL_H

#include "kernels/x86/decode.h"

enum {
    MB_MAX_ROWS = 12,
    MB_MAX_REGISTERS = 8
}; /* of any tile; more than one that big would spill */

/* One activation row, at the first k of the run. */
struct mb_row {
    const uint8_t *code;
    const float *x; /* f32 activations */
    const float *scale, *scaled_sum;
    const int16_t *sum; /* per group */
    const int32_t *bias;
};

/* Pointers into row `r` of the records, moved to weight k0. */
MB_INLINE struct mb_row mb_row_at(const uint8_t *records, const struct mb_activation_layout *layout,
                                  const int32_t *bias_sum, size_t bias_stride, size_t r, size_t k0,
                                  const enum mb_scale_kind scale)
{
    const uint8_t *record = records + r * layout->row_bytes;
    const unsigned group = mb_scale_group(scale);
    return (struct mb_row){
        .code = record + k0,
        .x = (const float *)(const void *)record + k0,
        .scale = (const float *)(const void *)(record + layout->scale) +
                 k0 / (mb_scale_two_level(scale) ? 256 : 32),
        .scaled_sum = (const float *)(const void *)(record + layout->scaled_sum) + k0 / 32,
        .sum = (const int16_t *)(const void *)(record +
                                               (group == 16 ? layout->sum16 : layout->sum32)) +
               k0 / group,
        .bias = bias_sum ? bias_sum + r * bias_stride + k0 / group : NULL,
    };
}

/* Whether dots start from bias sums: symmetric kinds, unless the ISA keeps
 * these codes signed. */
MB_INLINE bool mb_has_bias(const enum mb_scale_kind scale, const unsigned max_code)
{
    return !mb_scale_has_min(scale) && !(V_SIGNED_CODES && max_code > 63);
}

/* --- gemm: decoded panels x activation rows
 * -------------------------------------------------------------------------- */

/* A run of decoded panels, by register of columns. */
MB_INLINE const uint8_t *mb_tile_code(const struct mb_gemm_args *a, unsigned v)
{
    return a->panels[v / V_PARTS].code + v % V_PARTS * V_BYTES;
}
MB_INLINE v_float mb_tile_scale(const float *scale, size_t group, unsigned v)
{
    return v_load_float(scale + group * 16 + v % V_PARTS * V_LANES);
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

/* dot[r][v] over one group: `quads` quads from quad number `quad` of the run, k
 * = 4 * quad. */
MB_INLINE void mb_tile_dots(const struct mb_gemm_args *a, const struct mb_row *row, size_t quad,
                            size_t group, const unsigned rows, const unsigned registers,
                            const unsigned quads, const enum mb_scale_kind scale,
                            const unsigned max_code, v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const unsigned chain = v_dot_chain(max_code) < quads ? v_dot_chain(max_code) : quads;
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        const v_int start =
            mb_has_bias(scale, max_code) ? v_broadcast4(row[r].bias + group) : v_zero();
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            dot[r][v] = start;
    }
    MB_UNROLL
    for (unsigned first = 0; first < quads; first += chain) {
        v_int partial[MB_MAX_ROWS][MB_MAX_REGISTERS];
        MB_UNROLL
        for (unsigned i = 0; i < chain; i++) {
            v_code code[MB_MAX_REGISTERS];
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++)
                code[v] = v_load(mb_tile_code(a, v) + (quad + first + i) * 64);
            MB_UNROLL
            for (unsigned r = 0; r < rows; r++) {
                const v_code act = v_broadcast4(row[r].code + (quad + first + i) * 4);
                MB_UNROLL
                for (unsigned v = 0; v < registers; v++)
                    partial[r][v] = i == 0 ? v_dot_first(dot[r][v], code[v], act, max_code)
                                           : v_dot_next(partial[r][v], code[v], act, max_code);
            }
        }
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            dot[r][v] = v_dot_fold(dot[r][v], partial[r][v], max_code);
    }
}

MB_INLINE void mb_tile_one_level(const struct mb_gemm_args *a, const struct mb_row *row,
                                 const unsigned rows, const unsigned registers,
                                 const enum mb_scale_kind scale, const unsigned max_code,
                                 v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const size_t groups = a->k / 32;
    for (size_t g = 0; g < groups; g++) {
        v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS];
        mb_tile_dots(a, row, g * 8, g, rows, registers, 8, scale, max_code, dot);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            const v_float as = v_broadcast_float(row[r].scale + g);
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++) {
                const v_float d = mb_tile_scale(a->panels[v / V_PARTS].scale, g, v);
                f[r][v] = v_fma(v_to_float(dot[r][v]), v_mul(d, as), f[r][v]);
            }
            if (!mb_scale_has_min(scale))
                continue;
            const v_float ss = v_broadcast_float(row[r].scaled_sum + g);
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++)
                f[r][v] = v_fma(mb_tile_scale(a->panels[v / V_PARTS].min, g, v), ss, f[r][v]);
        }
    }
}

/* The end of super-block b: y takes s, and the minima times the activation
 * sums. */
MB_INLINE void mb_tile_superblock(const struct mb_gemm_args *a, const struct mb_row *row,
                                  size_t row0, size_t count, size_t b, const unsigned rows,
                                  const unsigned registers, const enum mb_scale_kind scale,
                                  v_float s[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const unsigned pairs = 256 / mb_scale_group(scale) / 2;
    v_int sum[MB_MAX_ROWS][MB_MAX_REGISTERS];
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const v_float d = mb_tile_scale(a->panels[v / V_PARTS].d, b, v);
        const v_float factor = v_mul(d, v_broadcast_float(row[r].scale + b));
        if (r < count)
            mb_tile_store(a, row0 + r, v, v_fma(s[r][v], factor, mb_tile_load(a, row0 + r, v)));
        sum[r][v] = v_zero();
    }
    if (!mb_scale_has_min(scale))
        return;
    for (unsigned p = 0; p < pairs; p++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const int16_t *pair =
            a->panels[v / V_PARTS].min_pairs + ((b * pairs + p) * 16 + v % V_PARTS * V_LANES) * 2;
        const v_int min = v_load(pair);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            sum[r][v] = v_dot2(sum[r][v], min, v_broadcast4(row[r].sum + (b * pairs + p) * 2));
    }
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const v_float d = mb_tile_scale(a->panels[v / V_PARTS].min, b, v);
        const v_float factor = v_mul(d, v_broadcast_float(row[r].scale + b));
        if (r < count)
            mb_tile_store(a, row0 + r, v,
                          v_fnma(v_to_float(sum[r][v]), factor, mb_tile_load(a, row0 + r, v)));
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
        v_float s[MB_MAX_ROWS][MB_MAX_REGISTERS];
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            s[r][v] = v_zero_float();
        for (size_t g = b * groups; g < (b + 1) * groups; g++) {
            v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS];
            mb_tile_dots(a, row, g * (group / 4), g, rows, registers, group / 4, scale, max_code,
                         dot);
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++) {
                const v_float sc = mb_tile_scale(a->panels[v / V_PARTS].scale, g, v);
                MB_UNROLL
                for (unsigned r = 0; r < rows; r++)
                    s[r][v] = v_fma(v_to_float(dot[r][v]), sc, s[r][v]);
            }
        }
        mb_tile_superblock(a, row, row0, count, b, rows, registers, scale, s);
    }
}

MB_INLINE void mb_tile_floats(const struct mb_gemm_args *a, const struct mb_row *row,
                              const unsigned rows, const unsigned registers,
                              v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
#pragma GCC unroll 4
    for (size_t k = 0; k < a->k; k++) {
        v_float w[MB_MAX_REGISTERS];
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            w[v] = mb_tile_scale(a->panels[v / V_PARTS].scale, k, v);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++) {
            const v_float act = v_broadcast_float(row[r].x + k);
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++)
                f[r][v] = v_fma(w[v], act, f[r][v]);
        }
    }
}

/* One tile: y[row0 .. row0 + count)[0 .. n). `rows` is count rounded up to a
 * height that is compiled: the rows above count repeat the last one and are not
 * stored. */
MB_INLINE void mb_tile(const struct mb_gemm_args *a, size_t row0, size_t count, const unsigned rows,
                       const unsigned registers, const enum mb_scale_kind scale,
                       const unsigned max_code)
{
    v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS];
    struct mb_row row[MB_MAX_ROWS];
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        const size_t at = row0 + (r < count ? r : count - 1);
        row[r] =
            mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride, at, a->k0, scale);
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            f[r][v] = a->first ? v_zero_float() : mb_tile_load(a, at, v);
    }
    if (scale == MB_SCALE_NONE)
        mb_tile_floats(a, row, rows, registers, f);
    else if (!mb_scale_two_level(scale))
        mb_tile_one_level(a, row, rows, registers, scale, max_code, f);
    if (!mb_scale_two_level(scale) || a->first)
        MB_UNROLL
    for (unsigned r = 0; r < rows; r++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++)
        if (r < count)
            mb_tile_store(a, row0 + r, v, f[r][v]);
    if (mb_scale_two_level(scale))
        mb_tile_two_level(a, row, row0, count, rows, registers, scale, max_code);
}

/* The body of every gemm_* kernel: tiles of mr rows, then one of a third, two
 * thirds or all of that height. If the last columns are just one of two panels,
 * it is read twice and its second copy is not stored. */
MB_INLINE void mb_gemm(const struct mb_gemm_args *args, const unsigned mr, const unsigned nr,
                       const enum mb_scale_kind scale, const unsigned max_code)
{
    const struct mb_decoded twice[2] = {args->panels[0], args->panels[0]};
    struct mb_gemm_args a = *args;
    if (nr == 32 && a.n <= 16)
        a.panels = twice;
    const unsigned step = mr / 3;
    for (size_t row = 0; row < a.m; row += mr) {
        const size_t count = a.m - row < mr ? a.m - row : mr;
        if (count > 2 * step)
            mb_tile(&a, row, count, 3 * step, nr / V_LANES, scale, max_code);
        else if (count > step)
            mb_tile(&a, row, count, 2 * step, nr / V_LANES, scale, max_code);
        else
            mb_tile(&a, row, count, step, nr / V_LANES, scale, max_code);
    }
}

/* --- gemv: packed panels x a few activation rows
 * ------------------------------------------------------------------- */

struct mb_stream {
    const uint8_t *block; /* the current super-block of the first panel */
    size_t panel_bytes;
};

/* With several rows a line lasts longer than hardware prefetchers look ahead:
 * ask L2 for the stream, far ahead (on Zen 4 4 rows go from 100 to 145 GMAC/s a
 * core; closer, or into L1, is worse). One row does best alone, as a plain
 * rising stream: asking would hide the misses that train the hardware and cost
 * a quarter of the rate. */
enum { MB_GEMV_PREFETCH_BYTES = 16384 };
MB_INLINE void mb_stream_prefetch(const uint8_t *p, const unsigned bytes)
{
    MB_UNROLL
    for (unsigned line = 0; line < bytes; line += 64)
        _mm_prefetch((const char *)(p + MB_GEMV_PREFETCH_BYTES + line), _MM_HINT_T1);
}

MB_INLINE v_code mb_stream_quad(const struct mb_stream *w, size_t chunk, unsigned q, unsigned v,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    return mb_decode_quad(w->block + v / V_PARTS * w->panel_bytes, chunk, q, v % V_PARTS, coding,
                          scale);
}

/* dot[r][v] over one group: quads q0 .. q0 + quads of a chunk. */
MB_INLINE void mb_stream_dots(const struct mb_stream *w, const struct mb_row *row, size_t chunk,
                              unsigned q0, size_t k, const unsigned rows, const unsigned registers,
                              const enum mb_coding coding, const enum mb_scale_kind scale,
                              v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const unsigned max_code = mb_coding_max(coding), quads = mb_scale_group(scale) / 4;
    const unsigned chain = v_dot_chain(max_code) < quads ? v_dot_chain(max_code) : quads;
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        const v_int start =
            mb_has_bias(scale, max_code) ? v_broadcast4(row[r].bias + k / (4 * quads)) : v_zero();
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            dot[r][v] = start;
    }
    MB_UNROLL
    for (unsigned first = 0; first < quads; first += chain) {
        v_int partial[MB_MAX_ROWS][MB_MAX_REGISTERS];
        MB_UNROLL
        for (unsigned i = 0; i < chain; i++)
            MB_UNROLL
        for (unsigned v = 0; v < registers; v++) {
            const v_code code = mb_stream_quad(w, chunk, q0 + first + i, v, coding, scale);
            MB_UNROLL
            for (unsigned r = 0; r < rows; r++) {
                const v_code act = v_broadcast4(row[r].code + k + (first + i) * 4);
                partial[r][v] = i == 0 ? v_dot_first(dot[r][v], code, act, max_code)
                                       : v_dot_next(partial[r][v], code, act, max_code);
            }
        }
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            dot[r][v] = v_dot_fold(dot[r][v], partial[r][v], max_code);
    }
}

/* f16 scales [x][16] at byte `offset` of the super-block. */
MB_INLINE v_float mb_stream_f16(const struct mb_stream *w, unsigned offset, size_t x, unsigned v)
{
    return v_load_f16(w->block + v / V_PARTS * w->panel_bytes + offset + x * 32 +
                      v % V_PARTS * 2 * V_LANES);
}

/* One super-block at weight k of the rows: 64 weights with one-level scales. */
MB_INLINE void mb_stream_one_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned chunk_bytes =
        at.bytes / (64 / MB_CHUNK_K); /* its share of the header included */
    struct mb_header header;
    MB_UNROLL
    for (unsigned p = 0; p < registers / V_PARTS; p++)
        mb_decode_header(w->block + p * w->panel_bytes, &header, coding, scale);
    MB_UNROLL
    for (unsigned c = 0; c < 64 / MB_CHUNK_K; c++) {
        v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS];
        if (rows > 1)
            mb_stream_prefetch(w->block + c * chunk_bytes, chunk_bytes);
        mb_stream_dots(w, row, c, 0, k + c * 32, rows, registers, coding, scale, dot);
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++) {
            const v_float d = mb_stream_f16(w, at.d, c, v);
            MB_UNROLL
            for (unsigned r = 0; r < rows; r++)
                f[r][v] = v_fma(v_to_float(dot[r][v]),
                                v_mul(d, v_broadcast_float(row[r].scale + k / 32 + c)), f[r][v]);
            if (!mb_scale_has_min(scale))
                continue;
            const v_float min = mb_stream_f16(w, at.dmin, c, v);
            MB_UNROLL
            for (unsigned r = 0; r < rows; r++)
                f[r][v] = v_fma(min, v_broadcast_float(row[r].scaled_sum + k / 32 + c), f[r][v]);
        }
    }
}

/* One super-block at weight k of the rows: 256 weights with two-level scales.
 */
MB_INLINE void mb_stream_two_level(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                   const unsigned rows, const unsigned registers,
                                   const enum mb_coding coding, const enum mb_scale_kind scale,
                                   v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    const unsigned group = mb_scale_group(scale), chunk_bytes = at.bytes / (256 / MB_CHUNK_K);
    v_float s[MB_MAX_ROWS][MB_MAX_REGISTERS];
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++)
        s[r][v] = v_zero_float();
    struct mb_header header[MB_MAX_REGISTERS / V_PARTS];
    MB_UNROLL
    for (unsigned p = 0; p < registers / V_PARTS; p++)
        mb_decode_header(w->block + p * w->panel_bytes, &header[p], coding, scale);
    for (size_t c = 0; c < 256 / MB_CHUNK_K; c++) {
        if (rows > 1)
            mb_stream_prefetch(w->block + c * chunk_bytes, chunk_bytes);
        MB_UNROLL
        for (unsigned g = 0; g < MB_CHUNK_K / group; g++) {
            v_int dot[MB_MAX_ROWS][MB_MAX_REGISTERS];
            mb_stream_dots(w, row, c, g * (group / 4), k + c * 32 + g * group, rows, registers,
                           coding, scale, dot);
            MB_UNROLL
            for (unsigned v = 0; v < registers; v++) {
                const v_float sc =
                    mb_decode_sub_scale(w->block + v / V_PARTS * w->panel_bytes,
                                        &header[v / V_PARTS], c, g, v % V_PARTS, coding, scale);
                MB_UNROLL
                for (unsigned r = 0; r < rows; r++)
                    s[r][v] = v_fma(v_to_float(dot[r][v]), sc, s[r][v]);
            }
        }
    }
    MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const v_float d = mb_stream_f16(w, at.d, 0, v);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            f[r][v] = v_fma(s[r][v], v_mul(d, v_broadcast_float(row[r].scale + k / 256)), f[r][v]);
        if (!mb_scale_has_min(scale))
            continue;
        v_int sum[MB_MAX_ROWS];
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            sum[r] = v_zero();
        MB_UNROLL
        for (unsigned p = 0; p < 256 / group / 2; p++) {
            const v_int pair = mb_decode_min_pair(w->block + v / V_PARTS * w->panel_bytes, p,
                                                  v % V_PARTS, coding, scale);
            MB_UNROLL
            for (unsigned r = 0; r < rows; r++)
                sum[r] = v_dot2(sum[r], pair, v_broadcast4(row[r].sum + k / group + 2 * p));
        }
        const v_float dmin = mb_stream_f16(w, at.dmin, 0, v);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            f[r][v] = v_fnma(v_to_float(sum[r]),
                             v_mul(dmin, v_broadcast_float(row[r].scale + k / 256)), f[r][v]);
    }
}

MB_INLINE void mb_stream_floats(const struct mb_stream *w, const struct mb_row *row, size_t k,
                                const unsigned rows, const unsigned registers,
                                const enum mb_coding coding,
                                v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS])
{
    const size_t bytes = mb_superblock_layout(coding, MB_SCALE_NONE).bytes;
    MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const uint8_t *p =
            w->block + k * bytes + v / V_PARTS * w->panel_bytes + v % V_PARTS * (bytes / V_PARTS);
        const v_float weight = mb_decode_float(p, coding);
        MB_UNROLL
        for (unsigned r = 0; r < rows; r++)
            f[r][v] = v_fma(weight, v_broadcast_float(row[r].x + k), f[r][v]);
    }
}

/* `panels` panels from `panel` on, all k: columns `column` and after of y,
 * count <= rows rows (as in mb_tile). */
MB_INLINE void mb_stream_panels(const struct mb_gemv_args *a, const uint8_t *panel, size_t column,
                                const unsigned rows, const unsigned panels,
                                const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const unsigned registers = panels * V_PARTS;
    const struct mb_superblock at = mb_superblock_layout(coding, scale);
    struct mb_stream w = {panel, a->panel_bytes};
    v_float f[MB_MAX_ROWS][MB_MAX_REGISTERS];
    struct mb_row row[MB_MAX_ROWS];
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++) {
        row[r] = mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride,
                           r < a->m ? r : a->m - 1, 0, scale);
        MB_UNROLL
        for (unsigned v = 0; v < registers; v++)
            f[r][v] = v_zero_float();
    }
    if (scale == MB_SCALE_NONE) {
        size_t k = 0;
        for (; k + 4 <= a->superblocks; k += 4) {
            MB_UNROLL
            for (unsigned p = 0; rows > 1 && p < panels; p++)
                mb_stream_prefetch(panel + p * a->panel_bytes + k * at.bytes, 4 * at.bytes);
            MB_UNROLL
            for (unsigned i = 0; i < 4; i++)
                mb_stream_floats(&w, row, k + i, rows, registers, coding, f);
        }
        for (; k < a->superblocks; k++)
            mb_stream_floats(&w, row, k, rows, registers, coding, f);
    } else {
        for (size_t b = 0; b < a->superblocks; b++, w.block += at.bytes)
            if (mb_scale_two_level(scale))
                mb_stream_two_level(&w, row, b * 256, rows, registers, coding, scale, f);
            else
                mb_stream_one_level(&w, row, b * 64, rows, registers, coding, scale, f);
    }
    MB_UNROLL
    for (unsigned r = 0; r < rows; r++)
        MB_UNROLL
    for (unsigned v = 0; v < registers; v++) {
        const size_t at_column = column + v * V_LANES,
                     left = a->n > at_column ? a->n - at_column : 0;
        if (r < a->m)
            v_store_some(a->y + r * a->y_stride + at_column, f[r][v], left);
    }
}

MB_INLINE void mb_gemv_rows(const struct mb_gemv_args *a, const unsigned rows,
                            const unsigned panels, const enum mb_coding coding,
                            const enum mb_scale_kind scale)
{
    const size_t count = (a->n + 15) / 16;
    size_t p = 0;
    for (; p + panels <= count; p += panels)
        mb_stream_panels(a, a->panels + p * a->panel_bytes, p * 16, rows, panels, coding, scale);
    if (panels > 1)
        for (; p < count; p++)
            mb_stream_panels(a, a->panels + p * a->panel_bytes, p * 16, rows, 1, coding, scale);
}

/* The body of every gemv_* kernel: m <= mr rows, nr / 16 panels in flight. */
MB_INLINE void mb_gemv(const struct mb_gemv_args *a, const unsigned mr, const unsigned nr,
                       const enum mb_coding coding, const enum mb_scale_kind scale)
{
    const unsigned panels = nr / 16;
    if (mr == 1)
        mb_gemv_rows(a, 1, panels, coding, scale);
    else if (a->m <= 2)
        mb_gemv_rows(a, 2, panels, coding, scale);
    else if (a->m == 3)
        mb_gemv_rows(a, 3, panels, coding, scale);
    else if (mr <= 4 || a->m == 4)
        mb_gemv_rows(a, 4, panels, coding, scale);
    else if (a->m <= 6)
        mb_gemv_rows(a, 6, panels, coding, scale);
    else
        mb_gemv_rows(a, 8, panels, coding, scale);
}

#endif
