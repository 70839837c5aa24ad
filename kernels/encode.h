/* SPDX-License-Identifier: Apache-2.0 */
/* From weights to blocks: least squares, weighted by importance when there is one; and what else
 * takes time when a model is encoded.
 *
 * Encoders know formats only by their numbers - levels, group, range of the sub-scales - so one
 * search serves a whole family (kernels/simd/encode_*.h). Every search ends with d rounded to f16
 * and codes assigned under exactly the values a reader will compute. */
#ifndef MIXBIT_KERNELS_ENCODE_H
#define MIXBIT_KERNELS_ENCODE_H

#include "kernels/panel.h"

/* The levels a code may stand for: the integers [low, high], stored as code = level - low; or those
 * of a table. */
enum mb_level_kind { MB_LEVELS_OF_INTEGERS, MB_LEVELS_OF_IQ4, MB_LEVELS_OF_E2M1 };
struct mb_levels {
    enum mb_level_kind kind;
    float low, high;
};

enum mb_grid_format {
    MB_GRID_IQ1_S,
    MB_GRID_IQ1_M,
    MB_GRID_IQ2_XXS,
    MB_GRID_IQ2_XS,
    MB_GRID_IQ2_S,
    MB_GRID_IQ3_XXS,
    MB_GRID_IQ3_S
};

enum mb_search_kind {
    MB_SEARCHES_SCALE,    /* w = d * level */
    MB_SEARCHES_MIN,      /* w = d * code + min, codes [0, high] */
    MB_SEARCHES_SCALE_X2, /* w = d * sc * level, sc in [-sub_limit, sub_limit - 1] */
    MB_SEARCHES_MIN_X2,   /* w = d * sc * code - dmin * m, sc and m in [0, sub_limit] */
    MB_SEARCHES_E8M0,     /* w = scale * level of E2M1, the scale one byte */
    MB_SEARCHES_UE4M3,
    MB_SEARCHES_TERNARY, /* w = d * (code - 1), codes [0, 2] */
    MB_SEARCHES_GRID     /* w = d * sc * level, odd sc, levels from a grid */
};

/* What a format's encoder is: a row of numbers. */
struct mb_search {
    enum mb_search_kind kind;
    struct mb_levels levels;
    unsigned group; /* weights that share a scale */
    int sub_limit;
    enum mb_grid_format grid;
};
#define MB_LEVELS_INTEGER(low, high)                                                               \
    {                                                                                              \
        MB_LEVELS_OF_INTEGERS, low, high                                                           \
    }
#define MB_LEVELS_IQ4                                                                              \
    {                                                                                              \
        MB_LEVELS_OF_IQ4, -127, 113                                                                \
    }
#define MB_LEVELS_E2M1                                                                             \
    {                                                                                              \
        MB_LEVELS_OF_E2M1, -12, 12                                                                 \
    }
#define MB_SEARCH(kind_, group_, limit, ...)                                                       \
    (&(const struct mb_search){                                                                    \
        .kind = (kind_), .levels = __VA_ARGS__, .group = (group_), .sub_limit = (limit)})
#define MB_SEARCH_SCALE(...) MB_SEARCH(MB_SEARCHES_SCALE, 32, 0, __VA_ARGS__)
#define MB_SEARCH_MIN(high) MB_SEARCH(MB_SEARCHES_MIN, 32, 0, MB_LEVELS_INTEGER(0, high))
#define MB_SEARCH_SCALE_X2(group, limit, ...)                                                      \
    MB_SEARCH(MB_SEARCHES_SCALE_X2, group, limit, __VA_ARGS__)
#define MB_SEARCH_MIN_X2(high, group, limit)                                                       \
    MB_SEARCH(MB_SEARCHES_MIN_X2, group, limit, MB_LEVELS_INTEGER(0, high))
#define MB_SEARCH_E8M0 MB_SEARCH(MB_SEARCHES_E8M0, 32, 0, MB_LEVELS_E2M1)
#define MB_SEARCH_UE4M3 MB_SEARCH(MB_SEARCHES_UE4M3, 16, 0, MB_LEVELS_E2M1)
#define MB_SEARCH_TERNARY MB_SEARCH(MB_SEARCHES_TERNARY, 256, 0, MB_LEVELS_INTEGER(-1, 1))
#define MB_SEARCH_GRID(grid_, group_)                                                              \
    (&(const struct mb_search){                                                                    \
        .kind = MB_SEARCHES_GRID, .group = (group_), .grid = MB_GRID_##grid_})

struct mb_second_moments; /* kernels/feedback.h */

/* What takes time when a model is encoded, compiled for an ISA level; all levels give the same
 * bits.
 *
 * search_blocks makes `blocks` blocks of a format from as many times its block_k weights, finite,
 * one after the other in memory whatever row they are of: importance, [k] or NULL, begins anew
 * after k weights, a multiple of block_k, and is not negative. A level takes as many blocks at once
 * as a register has lanes: the more there are, the better. The others: kernels/gram.h,
 * kernels/feedback.h. */
struct mb_encode_ops {
    void (*search_blocks)(enum mb_format format, const float *x, size_t blocks,
                          const float *importance, size_t k, void *dst);
    void (*gram_add)(float *h, size_t stride, size_t k, const float *packed, size_t rows,
                     float sign, size_t first, size_t last);
    void (*gram_cross)(float *c, size_t k, const float *left, const float *right, size_t rows,
                       size_t first, size_t last);
    bool (*gram_factor_rows)(float *h, size_t k, size_t row0, size_t row1);
    void (*gram_solve)(const float *factor, size_t k, float *v);
    void (*feedback_rows)(enum mb_format format, const float *w, size_t rows,
                          const struct mb_second_moments *moments, void *dst, float *scratch);
    void (*refine_rows)(enum mb_format format, const float *w, size_t rows,
                        const struct mb_second_moments *moments, size_t sweeps, void *blocks,
                        double *errors, float *scratch);
};
/* What every CPU of the architecture can run. */
extern const struct mb_encode_ops mb_encode_reference;

/* mb_quantize with the operations of a level. */
enum mb_status mb_quantize_with(const struct mb_encode_ops *ops, enum mb_format format,
                                const float *src, size_t rows, size_t k, const float *importance,
                                void *dst);

#endif
