/* SPDX-License-Identifier: Apache-2.0 */
/* What every row of instances.def becomes in a level, twice: as functions, then as descriptors
 * (instances.h redefines PREPARE, DECODE, GEMV and GEMM between). No include guard for that reason.
 * Levels whose dot takes any u8 x s8 need one gemm per scale kind; those that sum products in int16
 * one per class of codes. */
#if !defined(MB_INSTANCE_TABLES_ONLY)
#define MB_PREPARE_ROW(type) PREPARE(type)
#define MB_FLOAT_ROW(coding) DECODE(coding, none) MB_GEMV_FLOAT_TILES(GEMV_TILE, coding, none, f32)
#define MB_PAIR_ROW(coding, kind, type) PAIR(coding, kind, type)
#if V_SIGNED_CODES
#define MB_GEMM_CLASS_ROW(class, kind, type) GEMM_TILE(class, kind, type, MB_GEMM_TILE)
#else
#define MB_GEMM_ROW(kind, type) GEMM_TILE(u8, kind, type, MB_GEMM_TILE)
#endif
#endif
#define MB_TABLE_PAIR_ROW(coding, kind, type) PAIR(coding, kind, type)
#include "kernels/instances.def"
