/* SPDX-License-Identifier: Apache-2.0 */
/* From weights to the fields of a block: least squares, weighted by importance when there is one.
 *
 * Encoders know formats only by their numbers - levels, group, range of the sub-scales - so one
 * search serves a whole family. `x` is one block (32 to 256 weights, finite), `importance` as many
 * non-negative weights or NULL. Every search ends with d rounded to f16 and codes assigned under
 * exactly the values a reader will compute. */
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
#define MB_LEVELS_INTEGER(low, high) ((struct mb_levels){MB_LEVELS_OF_INTEGERS, low, high})
#define MB_LEVELS_IQ4 ((struct mb_levels){MB_LEVELS_OF_IQ4, -127, 113})
#define MB_LEVELS_E2M1 ((struct mb_levels){MB_LEVELS_OF_E2M1, -12, 12})

/* w = d * level, 32 weights: q4_0, q5_0, q8_0, iq4_nl. */
void mb_encode_scale(const float *x, const float *importance, struct mb_levels levels,
                     struct mb_block_fields *fields);

/* w = d * code + min with codes [0, high], 32 weights: q4_1, q5_1. */
void mb_encode_min(const float *x, const float *importance, int high,
                   struct mb_block_fields *fields);

/* w = d * sc * level with sc in [-sub_limit, sub_limit - 1], 256 weights in groups of `group`:
 * q3_K, q6_K, iq4_xs. */
void mb_encode_scale_x2(const float *x, const float *importance, struct mb_levels levels,
                        unsigned group, int sub_limit, struct mb_block_fields *fields);

/* w = d * sc * code - dmin * m with sc, m in [0, sub_high], 256 weights: q2_K, q4_K, q5_K. */
void mb_encode_min_x2(const float *x, const float *importance, int high, unsigned group,
                      int sub_high, struct mb_block_fields *fields);

/* w = scale * level of E2M1, the scales one byte: 32 weights with an E8M0, 64 with a UE4M3 for each
 * 16. */
void mb_encode_e8m0(const float *x, const float *importance, struct mb_block_fields *fields);
void mb_encode_ue4m3(const float *x, const float *importance, struct mb_block_fields *fields);

/* w = d * (code - 1) with codes 0 to 2, 256 weights: tq1_0, tq2_0. */
void mb_encode_ternary(const float *x, const float *importance, struct mb_block_fields *fields);

/* w = d * sc * level with odd sc and levels from a grid, 256 weights. */
enum mb_grid_format {
    MB_GRID_IQ1_S,
    MB_GRID_IQ1_M,
    MB_GRID_IQ2_XXS,
    MB_GRID_IQ2_XS,
    MB_GRID_IQ2_S,
    MB_GRID_IQ3_XXS,
    MB_GRID_IQ3_S
};
void mb_encode_grid(const float *x, const float *importance, enum mb_grid_format format,
                    struct mb_block_fields *fields);

/* A row of blocks: what a format's quantize_row is, given its join and an expression that fills
 * `fields` from `x` and `importance`. */
#define MB_DEFINE_QUANTIZE_ROW(name, weights, encode)                                              \
    static void name##_quantize_row(const float *src, const float *row_importance, void *dst,      \
                                    size_t k)                                                      \
    {                                                                                              \
        struct mb_block_##name *block = dst;                                                       \
        struct mb_block_fields fields;                                                             \
        for (size_t i = 0; i < k; i += (weights), block++) {                                       \
            const float *x = src + i;                                                              \
            const float *importance = row_importance ? row_importance + i : NULL;                  \
            encode;                                                                                \
            name##_join(&fields, block);                                                           \
        }                                                                                          \
    }

#endif
