/* SPDX-License-Identifier: Apache-2.0 */
/* The body of gemm: decoded panels x activation rows, in tiles that fill the registers. The
 * formula, the register plan and the limits are in matmul.h. */
#ifndef MIXBIT_KERNELS_SIMD_GEMM_H
#define MIXBIT_KERNELS_SIMD_GEMM_H

#include "kernels/simd/matmul.h"

/* Whether gemm takes signed codes apart into sizes and signs, having no signed multiplication. */
MB_INLINE bool mb_is_flipped(const unsigned max_code)
{
    return V_FLIPPED_SIGNS && mb_is_signed(max_code);
}

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
                                 const enum mb_scale_kind scale, const enum mb_activation type,
                                 const unsigned max_code, mb_tile_float f)
{
    const unsigned group = mb_scale_group(scale);
    for (size_t g = 0; g < a->k / group; g++) {
        mb_tile_int dot;
        mb_tile_dots(a, row, g, rows, registers, scale, max_code, dot);
        MB_EACH (r, rows) {
            const size_t at = g * group / mb_activation_group(type);
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

/* ---- sums of 256 weights, added to y: registers have room for them and the dots only ---- */

/* Whether f stays in y. */
MB_INLINE bool mb_is_in_y(const enum mb_scale_kind scale, const enum mb_activation type)
{
    return mb_scale_two_level(scale) || mb_is_nested(scale, type);
}

/* What the sums of the b-th 256 weights, or of their minima, still have to be multiplied by;
 * `stored` holds the weights' part. */
MB_INLINE v_float mb_tile_factor(const float *stored, const struct mb_row *row, size_t b,
                                 unsigned v, const enum mb_scale_kind scale,
                                 const enum mb_activation type)
{
    if (mb_is_nested(scale, type))
        return v_broadcast_float(row->scale + b);
    const v_float d = mb_tile_scale(stored, b, v);
    return mb_is_finer(scale, type) ? d : v_mul(d, v_broadcast_float(row->scale + b));
}

/* The minima of super-block b: int32 sums, exact, or floats where activations are finer. */
MB_INLINE void mb_tile_minima(const struct mb_gemm_args *a, const struct mb_row *row, size_t row0,
                              size_t count, size_t b, const unsigned rows, const unsigned registers,
                              const enum mb_scale_kind scale, const enum mb_activation type)
{
    const unsigned pairs = 256 / mb_scale_group(scale) / 2;
    const bool finer = mb_is_finer(scale, type);
    mb_tile_int sum;
    mb_tile_float scaled;
    MB_EACH (r, rows)
        MB_EACH (v, registers)
            sum[r][v] = v_zero(), scaled[r][v] = v_zero_float();
    for (size_t p = b * pairs; p < (b + 1) * pairs; p++)
        MB_EACH (v, registers) {
            const int16_t *pair = a->panels[v / V_PARTS].min_pairs + p * 2 * MB_PANEL_ROWS;
            const v_int min = v_load(pair + v % V_PARTS * 2 * V_LANES);
            const v_float even = v_to_float(v_int_and(min, 0xffff)),
                          odd = v_to_float(v_int_sra(min, 16));
            MB_EACH (r, rows) {
                if (!finer) {
                    sum[r][v] = v_dot2(sum[r][v], min, v_broadcast4(row[r].sum + 2 * p));
                    continue;
                }
                const float *ss = row[r].scaled_sum + 2 * p;
                scaled[r][v] = v_fma(even, v_broadcast_float(ss), scaled[r][v]);
                scaled[r][v] = v_fma(odd, v_broadcast_float(ss + 1), scaled[r][v]);
            }
        }
    MB_EACH (r, rows)
        MB_EACH (v, registers) {
            const v_float minima = finer ? scaled[r][v] : v_to_float(sum[r][v]);
            const v_float dmin =
                mb_tile_factor(a->panels[v / V_PARTS].min, &row[r], b, v, scale, type);
            if (r < count)
                mb_tile_store(a, row0 + r, v, v_fnma(minima, dmin, mb_tile_load(a, row0 + r, v)));
        }
}

MB_INLINE void mb_tile_sums(const struct mb_gemm_args *a, const struct mb_row *row, size_t row0,
                            size_t count, const unsigned rows, const unsigned registers,
                            const enum mb_scale_kind scale, const enum mb_activation type,
                            const unsigned max_code)
{
    const unsigned group = mb_scale_group(scale), groups = 256 / group;
    const size_t all = a->k / group; /* nested rows may end within 256 */
    for (size_t b = 0; b * groups < all; b++) {
        mb_tile_float s;
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                s[r][v] = v_zero_float();
        for (size_t g = b * groups; g < (b + 1) * groups && g < all; g++) {
            mb_tile_int dot;
            mb_tile_dots(a, row, g, rows, registers, scale, max_code, dot);
            MB_EACH (v, registers) {
                const v_float sc = mb_tile_scale(a->panels[v / V_PARTS].scale, g, v);
                MB_EACH (r, rows) {
                    const float *as = row[r].scale + g * group / 32;
                    const v_float factor =
                        mb_is_finer(scale, type) ? v_mul(sc, v_broadcast_float(as)) : sc;
                    s[r][v] = v_fma(v_to_float(dot[r][v]), factor, s[r][v]);
                }
            }
        }
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                if (r < count)
                    mb_tile_store(
                        a, row0 + r, v,
                        v_fma(s[r][v],
                              mb_tile_factor(a->panels[v / V_PARTS].d, &row[r], b, v, scale, type),
                              mb_tile_load(a, row0 + r, v)));
        if (mb_scale_has_min(scale))
            mb_tile_minima(a, row, row0, count, b, rows, registers, scale, type);
    }
}

/* ---- floats ---- */

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

MB_INLINE void mb_tile_pairs(const struct mb_gemm_args *a, const struct mb_row *row,
                             const unsigned rows, const unsigned registers, mb_tile_float f)
{
#pragma GCC unroll 2
    for (size_t pair = 0; pair < a->k / 2; pair++)
        MB_EACH (step, MB_PAIR_STEPS) {
            v_code w[MB_TILE_REGISTERS];
            MB_EACH (v, registers)
                w[v] = v_load(a->panels[v / V_PARTS].code + pair * 4 * MB_PANEL_ROWS +
                              v % V_PARTS * V_BYTES);
            MB_EACH (r, rows) {
                const v_code act = v_broadcast4(row[r].code + 4 * pair);
                MB_EACH (v, registers)
                    f[r][v] = mb_pair_step(f[r][v], w[v], act, step);
            }
        }
}

/* One tile: y[row0 .. row0 + count)[0 .. n). `rows` is count rounded up to a height that is
 * compiled: the rows above count repeat the last one and are not stored. */
MB_INLINE void mb_tile(const struct mb_gemm_args *a, size_t row0, size_t count, const unsigned rows,
                       const unsigned registers, const enum mb_scale_kind scale,
                       const enum mb_activation type, const unsigned max_code)
{
    const bool in_y = mb_is_in_y(scale, type);
    mb_tile_float f;
    struct mb_row row[MB_TILE_ROWS];
    MB_EACH (r, rows) {
        const size_t at = row0 + (r < count ? r : count - 1);
        row[r] = mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride, at, a->k0, scale,
                           type);
        MB_EACH (v, registers)
            f[r][v] = a->first ? v_zero_float() : mb_tile_load(a, at, v);
    }
    if (type == MB_ACTIVATION_BF16)
        mb_tile_pairs(a, row, rows, registers, f);
    else if (type == MB_ACTIVATION_F32)
        mb_tile_floats(a, row, rows, registers, f);
    else if (!in_y)
        mb_tile_one_level(a, row, rows, registers, scale, type, max_code, f);
    if (!in_y || a->first)
        MB_EACH (r, rows)
            MB_EACH (v, registers)
                if (r < count)
                    mb_tile_store(a, row0 + r, v, f[r][v]);
    if (in_y)
        mb_tile_sums(a, row, row0, count, rows, registers, scale, type, max_code);
}

/* Tiles of mr rows, then one of a third, two thirds or all of that height. */
MB_INLINE void mb_tile_rows(const struct mb_gemm_args *a, const unsigned mr,
                            const unsigned registers, const enum mb_scale_kind scale,
                            const enum mb_activation type, const unsigned max_code)
{
    const unsigned step = mr / 3;
    for (size_t row = 0; row < a->m; row += mr) {
        const size_t count = a->m - row < mr ? a->m - row : mr;
        if (count > 2 * step)
            mb_tile(a, row, count, 3 * step, registers, scale, type, max_code);
        else if (count > step)
            mb_tile(a, row, count, 2 * step, registers, scale, type, max_code);
        else
            mb_tile(a, row, count, step, registers, scale, type, max_code);
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
                       const enum mb_scale_kind scale, const enum mb_activation type,
                       const unsigned max_code)
{
    enum { SIGNED_K = 2048 };
    _Alignas(64) int32_t sums[V_FLIPPED_SIGNS ? SIGNED_K / 32 * MB_PANEL_ROWS : 1];
    struct mb_decoded panels[2] = {args->panels[0], args->panels[nr == 32 && args->n > 16]};
    struct mb_gemm_args a = *args;
    a.panels = panels;
    if (!mb_is_flipped(max_code)) {
        const unsigned before = mb_enter(type);
        mb_tile_rows(&a, mr, nr / V_LANES, scale, type, max_code);
        mb_leave(type, before);
        return;
    }
    panels[0].min = (float *)(void *)sums; /* free: no kind with a minimum has signed codes */
    for (size_t done = 0; done < args->k; done += a.k, a.k0 += a.k, a.first = false) {
        a.k = args->k - done < SIGNED_K ? args->k - done : SIGNED_K;
        mb_sum_negatives(panels[0].code, a.k / 32, sums);
        mb_tile_rows(&a, mr, nr / V_LANES, scale, type, max_code);
        panels[0].code += a.k * MB_PANEL_ROWS;
        panels[0].scale += a.k / 32 * MB_PANEL_ROWS;
        if (mb_scale_two_level(scale))
            panels[0].d += a.k / 256 * MB_PANEL_ROWS;
    }
}

#endif
