/* SPDX-License-Identifier: Apache-2.0 */
/* The body of products with codebook matrices (kernels/codebook.h), written once on the verbs of an
 * ISA.
 *
 * A run is to the loops a super-block of kind g32, as long as it is, whose scales lie elsewhere:
 * its dots are gemv's. All widths of a matrix are in one body, which goes through a panel as one
 * rising stream and keeps its sums in registers: a width costs a jump per run of up to 128 k, and
 * every panel takes the same ones. For many rows the body only decodes, and gemm multiplies.
 *
 * Operations per register of codes on AVX-512, with VBMI: cb1 1.1, cb2 1.25, cb3 1.75, cb4 1.5, cb5
 * 3.4; without: cb1 2.9, cb2 2.75, cb3 3.25, cb4 2.5, cb5 5.4; by column cc1 2.9, cc2 2.75,
 * cc3 3.25 (VBMI), cc4 2.5 (VBMI), and a load of the tables. Beside those the dot; conversion,
 * scale and sum are 3 for 8 of them. */
#ifndef MIXBIT_KERNELS_SIMD_CODEBOOK_H
#define MIXBIT_KERNELS_SIMD_CODEBOOK_H

#include "kernels/simd/gemv.h"

enum { MB_CODEBOOK_REVISION = 6 }; /* as MB_BODY_REVISION */

enum { MB_CODEBOOK_PANELS = V_PARTS == 1 ? 4 : 2 }; /* in flight, with tables by column */

/* `run` by its coding as a constant: X(coding). */
#define MB_CODEBOOK_BY_COLUMN_CODING(run, X)                                                       \
    switch ((run)->coding) {                                                                       \
    case MB_CODING_CC1: X(MB_CODING_CC1); break;                                                   \
    case MB_CODING_CC2: X(MB_CODING_CC2); break;                                                   \
    case MB_CODING_CC3: X(MB_CODING_CC3); break;                                                   \
    case MB_CODING_CC4: X(MB_CODING_CC4); break;                                                   \
    default: X(MB_CODING_B8); break;                                                               \
    }
#define MB_CODEBOOK_BY_CODING(run, X)                                                              \
    switch ((run)->coding) {                                                                       \
    case MB_CODING_CB1: X(MB_CODING_CB1); break;                                                   \
    case MB_CODING_CB2: X(MB_CODING_CB2); break;                                                   \
    case MB_CODING_CB3: X(MB_CODING_CB3); break;                                                   \
    case MB_CODING_CB4: X(MB_CODING_CB4); break;                                                   \
    case MB_CODING_CB5: X(MB_CODING_CB5); break;                                                   \
    default: MB_CODEBOOK_BY_COLUMN_CODING(run, X)                                                  \
    }

MB_INLINE const uint8_t *mb_codebook_own_table(const struct mb_codebook *book,
                                               const struct mb_codebook_run *run,
                                               const enum mb_coding coding)
{
    return mb_coding_has_own_table(coding) ? mb_codebook_table(book, run) : NULL;
}

/* One run of `panels` panels into f[r][v]; table: of its coding. */
MB_INLINE void mb_codebook_multiply_run(const struct mb_codebook_args *a, const uint8_t *panel,
                                        const struct mb_codebook_run *run, const uint8_t *table,
                                        const struct mb_row *row, const unsigned rows,
                                        const unsigned panels, const enum mb_coding coding,
                                        mb_tile_float f)
{
    const unsigned registers = panels * V_PARTS;
    const struct mb_superblock at = mb_superblock_layout(coding, MB_SCALE_G32);
    const struct mb_stream w = {panel + run->codes - at.codes, a->panel_bytes, a->prefetch, table};
    v_float d[MB_TILE_REGISTERS];
    MB_EACH (v, registers) {
        const uint8_t *scales = panel + v / V_PARTS * a->panel_bytes + run->scale;
        if (v % V_PARTS == 0)
            mb_stream_prefetch(&w, scales, 1); /* scales are lines like others */
        d[v] = v_load_f16(scales + 2 * (v % V_PARTS) * V_LANES);
    }
    for (size_t c = 0; c < run->chunks; c++) {
        const size_t chunk = run->chunk + c, k = chunk * MB_CHUNK_K;
        mb_tile_int dot;
        mb_stream_start(row, k, rows, registers, coding, MB_SCALE_G32, dot);
        MB_EACH (p, panels)
            mb_stream_prefetch(&w, panel + p * a->panel_bytes + run->codes + c * at.chunk_bytes,
                               at.chunk_bytes);
        mb_stream_dots(&w, row, c, 0, k, rows, registers, coding, MB_SCALE_G32, dot);
        MB_EACH (r, rows) {
            const v_float as = v_broadcast_float(row[r].scale + chunk);
            MB_EACH (v, registers)
                f[r][v] = v_fma(v_to_float(dot[r][v]), v_mul(d[v], as), f[r][v]);
        }
    }
}

/* Runs [run, end) that share a table: what is made of it is made once. */
MB_INLINE void mb_codebook_multiply_runs(const struct mb_codebook_args *a, const uint8_t *panel,
                                         const struct mb_codebook_run *run,
                                         const struct mb_codebook_run *end,
                                         const struct mb_row *row, const unsigned rows,
                                         const unsigned panels, const enum mb_coding coding,
                                         mb_tile_float f)
{
    const uint8_t *table = mb_codebook_own_table(a->book, run, coding);
    for (; run < end; run++)
        mb_codebook_multiply_run(a, panel, run, table, row, rows, panels, coding, f);
}

/* `panels` panels, m <= rows rows: those above repeat the last one and are not stored. Several at
 * once read the tables of columns once. */
MB_INLINE void mb_codebook_multiply_panels(const struct mb_codebook_args *a, size_t p,
                                           const unsigned rows, const unsigned panels)
{
    const unsigned registers = panels * V_PARTS;
    const uint8_t *panel = a->panels + p * a->panel_bytes;
    mb_tile_float f;
    struct mb_row row[MB_TILE_ROWS];
    MB_EACH (r, rows) {
        row[r] = mb_row_at(a->activations, a->layout, a->bias_sum, a->bias_stride,
                           r < a->m ? r : a->m - 1, 0, MB_SCALE_G32, MB_ACTIVATION_I8G32);
        MB_EACH (v, registers)
            f[r][v] = v_zero_float();
    }
    const struct mb_codebook_run *run = a->book->runs, *last = run + a->book->run_count;
    for (const struct mb_codebook_run *end; run < last; run = end) {
        for (end = run + 1; end < last && end->coding == run->coding && end->table == run->table;)
            end++;
#define MB_CODEBOOK_STEP(coding)                                                                   \
    mb_codebook_multiply_runs(a, panel, run, end, row, rows, panels, coding, f)
        if (panels > 1) {
            MB_CODEBOOK_BY_COLUMN_CODING(run, MB_CODEBOOK_STEP)
        } else {
            MB_CODEBOOK_BY_CODING(run, MB_CODEBOOK_STEP)
        }
#undef MB_CODEBOOK_STEP
    }
    MB_EACH (r, rows)
        MB_EACH (v, registers) {
            const size_t column = p * MB_PANEL_ROWS + v * V_LANES;
            if (r < a->m)
                v_store_some(a->y + r * a->y_stride + column, f[r][v],
                             a->n > column ? a->n - column : 0);
        }
    for (size_t i = 0; i < panels && a->outlier_first != NULL; i++)
        mb_codebook_add(a, p + i);
}

MB_INLINE void mb_codebook_multiply_rows(const struct mb_codebook_args *a, const unsigned rows)
{
    const size_t panels = (a->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    size_t p = 0;
    if (rows == 1 && a->book->by_column)
        for (; p + MB_CODEBOOK_PANELS <= panels; p += MB_CODEBOOK_PANELS)
            mb_codebook_multiply_panels(a, p, 1, MB_CODEBOOK_PANELS);
    for (; p < panels; p++)
        mb_codebook_multiply_panels(a, p, rows, 1);
}

/* The body of every codebook_* kernel: m <= mr rows. 3 rows run as 4, 5 to 7 as 8. */
MB_INLINE void mb_codebook_multiply(const struct mb_codebook_args *a, const unsigned mr)
{
    if (a->m == 1)
        mb_codebook_multiply_rows(a, 1);
    else if (a->m == 2)
        mb_codebook_multiply_rows(a, 2);
    else if (mr <= 4 || a->m <= 4)
        mb_codebook_multiply_rows(a, 4);
    else
        mb_codebook_multiply_rows(a, 8);
}

/* Chunks [c0, c1) of a run, the first of them being number `to` of what is decoded. */
MB_INLINE void mb_codebook_decode_run(const struct mb_codebook *book, const uint8_t *panel,
                                      const struct mb_codebook_run *run, size_t c0, size_t c1,
                                      size_t to, const struct mb_decoded *out,
                                      const enum mb_coding coding)
{
    const struct mb_tables tables = mb_tables_of(coding, mb_codebook_own_table(book, run, coding));
    const uint8_t *superblock =
        panel + run->codes - mb_superblock_layout(coding, MB_SCALE_G32).codes;
    for (size_t c = c0; c < c1; c++, to++) {
        MB_EACH (part, V_PARTS)
            v_store_float(out->scale + to * MB_PANEL_ROWS + part * V_LANES,
                          v_load_f16(panel + run->scale + 2 * part * V_LANES));
        mb_decode_chunk(superblock, c, out->code + to * MB_CHUNK_QUADS * 64, &tables, coding,
                        MB_SCALE_G32);
    }
}

MB_INLINE void mb_codebook_decode(const struct mb_codebook *book, const uint8_t *panel,
                                  size_t chunk0, size_t chunks, const struct mb_decoded *out)
{
    const size_t end = chunk0 + chunks;
    for (size_t i = 0; i < book->run_count; i++) {
        const struct mb_codebook_run *run = &book->runs[i];
        const size_t last = run->chunk + run->chunks,
                     from = run->chunk < chunk0 ? chunk0 : run->chunk,
                     stop = last < end ? last : end;
        if (from >= stop)
            continue;
#define MB_CODEBOOK_STEP(coding)                                                                   \
    mb_codebook_decode_run(book, panel, run, from - run->chunk, stop - run->chunk, from - chunk0,  \
                           out, coding)
        MB_CODEBOOK_BY_CODING(run, MB_CODEBOOK_STEP)
#undef MB_CODEBOOK_STEP
    }
}

#endif
