/* SPDX-License-Identifier: Apache-2.0 */
/* What every row of instances.def becomes in a level, twice: as functions, then as descriptors
 * (instances.h redefines PREPARE, DECODE, GEMV and GEMM between). No include guard for that reason.
 * Levels whose dot takes any u8 x s8 need one gemm per scale kind; those that sum products in int16
 * one per class of codes. */
#if !defined(MB_INSTANCE_TABLES_ONLY)
#define MB_BF16_ROW(coding, kind, type)                                                            \
    MB_GEMV_FLOAT_TILES(GEMV_TILE, coding, kind, type)                                             \
    GEMM_TILE(coding, kind, type, MB_GEMM_FLOAT_TILE)
#endif
#if !defined(MB_INSTANCE_TABLES_ONLY) && !defined(MB_INSTANCE_BF16_ONLY)
#define MB_PREPARE_ROW(type) PREPARE(type)
#define MB_FLOAT_ROW(coding, kind, type)                                                           \
    DECODE(coding, kind) MB_GEMV_FLOAT_TILES(GEMV_TILE, coding, kind, type)
#define MB_PAIR_ROW(coding, kind, type) PAIR(coding, kind, type)
#define MB_OTHER_ROW(coding, kind, type) MB_GEMV_TILES(GEMV_TILE, coding, kind, type)
#if V_SIGNED_CODES
#define MB_GEMM_CLASS_ROW(class, kind, type) GEMM_TILE(class, kind, type, MB_GEMM_TILE)
#else
#define MB_GEMM_ROW(kind, type) GEMM_TILE(u8, kind, type, MB_GEMM_TILE)
#endif
#endif
#if !defined(MB_INSTANCE_BF16_ONLY)
#define MB_TABLE_PAIR_ROW(coding, kind, type) PAIR(coding, kind, type)
#define MB_OTHER_TABLE_ROW(coding, kind, type) MB_GEMV_TILES(GEMV_TILE, coding, kind, type)
#endif
#include "kernels/instances.def"
