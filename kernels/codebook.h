/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices whose columns have codes of different widths, with levels that all columns of a width
 * share or that every column has for itself, and scales by row and group of columns:
 * w = scale * level[code].
 *
 * Columns are stored in an order of their own. Those of one width in one group that follow each
 * other are a run, padded to chunks of 32 k; activations come in that order, padded with zeros, as
 * i8g32 records, so the order costs a gather per row of activations and nothing per weight. A panel
 * is 16 rows, and its addresses only ever rise:
 *
 *   [ f16 [16]: scales of the first group ][ of the second ][ chunks of both ][ two more ][ ... ]
 *   chunk = the planes of coding cb1 to cb5, cc1 to cc4, or b8, as panel.h has them
 *
 * Levels are int8 in a unit of their codebook's. That of a width goes into the scales of the
 * activations, which are prepared for one matrix anyway, and so does the power of two that fits row
 * scales into f16; that of a column multiplies its activation before it is rounded. What a code
 * stands for is a byte, level + 128, from a table of 32 (cb1 to cb5) or of its column (cc1 to cc4);
 * b8 has that byte in its plane, which serves wider codes too. So a decoded chunk is one of q8_0,
 * and gemm is its.
 *
 * THE CANONICAL NUMBERS are kernel.h's for one level, over chunks in the order of storage; what is
 * kept beside the codes comes last, in ascending columns:
 *
 *   f = fma(float(dot), d * as, f);  then f = fma(value, x, f), x as floats
 *
 * Source: widths and codebooks by column are CMPQ's (arXiv 2410.13056), codes by table SqueezeLLM's
 * (arXiv 2306.07629); shared levels, scales and layout are ours. */
#ifndef MIXBIT_KERNELS_CODEBOOK_H
#define MIXBIT_KERNELS_CODEBOOK_H

#include "kernels/panel.h"

struct mb_activation_layout;
struct mb_decoded;

enum {
    MB_CODEBOOK_TABLE = 32,          /* bytes: entries for codes of up to 5 bits */
    MB_CODEBOOK_COLUMN_NARROW = 4,   /* bits of the widest codes with a table by column */
    MB_CODEBOOK_NARROW = 5,          /* bits of the widest codes that are looked up */
    MB_CODEBOOK_SCALES = 2 * 16 * 2, /* bytes of a pair of groups */
};

/* Chunks of one coding and one scale. */
struct mb_codebook_run {
    uint32_t scale, codes;  /* bytes from the start of a panel */
    uint32_t chunk, chunks; /* the first, of all of the panel; how many */
    uint32_t table;         /* bytes from the tables' start; of no account for b8 */
    uint16_t coding, bits;  /* enum mb_coding; those of a code, before it became a byte of b8 */
};

/* What all panels of a matrix have in common. */
struct mb_codebook {
    const struct mb_codebook_run *runs;
    size_t run_count;
    /* 64-byte aligned. One for a width: MB_CODEBOOK_TABLE entries. By column, those of a run behind
     * each other, mb_coding_quad_table() bytes for each four columns. */
    const uint8_t *tables;
    size_t k;       /* with padding: a multiple of 32, of 64 where gemm is to multiply */
    bool by_column; /* all runs are of cc1 to cc4 and b8 */
};

/* A weight beside the codes. */
struct mb_codebook_outlier {
    uint32_t place; /* 16 * column + row of its panel */
    float value;
};

/* y[r][j] for r < m and j < n. */
struct mb_codebook_args {
    const struct mb_codebook *book;
    const uint8_t *panels; /* 64-byte aligned */
    size_t panel_bytes;
    size_t n, m;
    const uint8_t *activations; /* i8g32 records of book->k */
    const struct mb_activation_layout *layout;
    const int32_t *bias_sum; /* [m][bias_stride]: -128 * sum of each chunk */
    size_t bias_stride;
    const struct mb_codebook_outlier *outliers; /* of all panels */
    const uint32_t *outlier_first;              /* [panels + 1]; NULL: there are none */
    const float *x;                             /* [m][x_stride]: activations by column */
    size_t x_stride;
    float *y;
    size_t y_stride;
    size_t prefetch; /* as in struct mb_gemv_args */
};

struct mb_codebook_ops {
    /* m <= mr, outliers included. */
    void (*multiply)(const struct mb_codebook_args *args);
    /* Chunks [chunk0, chunk0 + chunks) of a panel, as those of b8 with scales of kind g32. */
    void (*decode)(const struct mb_codebook *book, const uint8_t *panel, size_t chunk0,
                   size_t chunks, const struct mb_decoded *out);
    /* y += what is kept beside the codes, any m. */
    void (*add_outliers)(const struct mb_codebook_args *args);
};

static inline const uint8_t *mb_codebook_table(const struct mb_codebook *book,
                                               const struct mb_codebook_run *run)
{
    return book->tables + run->table;
}
/* What codes of column i of a run stand for. */
static inline const uint8_t *mb_codebook_entries(const struct mb_codebook *book,
                                                 const struct mb_codebook_run *run, size_t i)
{
    const enum mb_coding coding = (enum mb_coding)run->coding;
    const uint8_t *table = mb_codebook_table(book, run);
    return mb_coding_has_column_tables(coding)
               ? table + i / 4 * mb_coding_quad_table(coding) + (i % 4 << mb_coding_bits(coding))
               : table;
}

/* Where a run's codes lie, if it is read as a super-block of kind g32. */
static inline size_t mb_codebook_superblock(const struct mb_codebook_run *run)
{
    return run->codes - mb_superblock_layout((enum mb_coding)run->coding, MB_SCALE_G32).codes;
}

/* fma is one rounding, in hardware where the caller is compiled for it. */
static inline void mb_codebook_add(const struct mb_codebook_args *a, size_t panel)
{
    const uint32_t *first = a->outlier_first + panel;
    float *y = a->y + panel * MB_PANEL_ROWS;
    for (uint32_t i = first[0]; i < first[1]; i++) {
        const struct mb_codebook_outlier o = a->outliers[i];
        float *to = y + o.place % MB_PANEL_ROWS;
        const float *x = a->x + o.place / MB_PANEL_ROWS;
        if (panel * MB_PANEL_ROWS + o.place % MB_PANEL_ROWS >= a->n)
            continue;
        for (size_t r = 0; r < a->m; r++)
            to[r * a->y_stride] = __builtin_fmaf(o.value, x[r * a->x_stride], to[r * a->y_stride]);
    }
}

static inline void mb_codebook_add_all(const struct mb_codebook_args *a)
{
    for (size_t p = 0; a->outlier_first != NULL && p * MB_PANEL_ROWS < a->n; p++)
        mb_codebook_add(a, p);
}

/* The largest level of a codebook of so many bits, in its unit. Few levels are far apart and need
 * few steps: what rounding them adds is about the same for all, and sums of small numbers fit
 * int16, which is what products are made in without VNNI. */
static inline int mb_codebook_largest(unsigned bits)
{
    return bits <= 2 ? 31 : bits == 3 ? 63 : 127;
}
/* The unit in which 2^bits levels are nearest to whole numbers, of those in which the largest is
 * mb_codebook_largest or down to half of that; 1 where all are 0. */
float mb_codebook_unit(const float *levels, unsigned bits);
/* level + 128, in that unit. */
uint8_t mb_codebook_level(float level, float unit, unsigned bits);

/* One row into its lane of a panel: code[k], bytes of wide runs and codes of narrow ones, in the
 * order of storage, padding included. */
void mb_codebook_pack_lane(const struct mb_codebook *book, uint8_t *panel, size_t lane,
                           const uint8_t *code);
/* Its scale of group `group`, as f16. */
void mb_codebook_pack_scale(uint8_t *scales, size_t lane, uint16_t half);

/* The meaning of all kernels of this kind. */
extern const struct mb_codebook_ops mb_codebook_reference;

#endif
