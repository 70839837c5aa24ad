/* SPDX-License-Identifier: Apache-2.0 */
/* Turns instances.def into one level's functions and its kernel table. An ISA file includes its
 * verbs, defines what follows, then includes this:
 *
 *   MB_INSTANCE_ISA, MB_INSTANCE_ID      the level's name and its enum
 *   MB_GEMV_TILES(X, ...)                X(..., mr, nr) for every tile of integer gemv
 *   MB_GEMV_FLOAT_TILES(X, ...)          the same for floats
 *   MB_GEMM_TILE, MB_GEMM_FLOAT_TILE     mr, nr
 *
 * A row's words are pasted into the kernel's name and, through words.h, into the constants that its
 * inlined body folds on: the name says all that the code knows. */
#include "kernels/simd/matmul.h"
#include "kernels/simd/prepare.h"
#include "kernels/words.h"

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define SYMBOL_PREPARE(type) PASTE(prepare_##type, MB_INSTANCE_ISA)
#define SYMBOL_DECODE(coding, kind) PASTE(decode_##coding##_##kind, MB_INSTANCE_ISA)
#define SYMBOL_MATMUL(op, word, kind, type, mr, nr)                                                \
    PASTE(op##_##word##_##kind##_##type##_##mr##x##nr, MB_INSTANCE_ISA)
#define CODING(word) ((enum mb_coding)MB_CODING_OF_##word)
#define SCALE(word) ((enum mb_scale_kind)MB_SCALE_OF_##word)
#define ACTIVATION(word) ((enum mb_activation)MB_ACTIVATION_OF_##word)

/* What every row becomes. Levels whose dot takes any u8 x s8 need one gemm per scale kind; those
 * that sum products in int16 one per class of codes. */
#define MB_FLOAT_ROW(coding) DECODE(coding, none) MB_GEMV_FLOAT_TILES(GEMV_TILE, coding, none, f32)
#define MB_PAIR_ROW(coding, kind, type)                                                            \
    DECODE(coding, kind) MB_GEMV_TILES(GEMV_TILE, coding, kind, type)
#define GEMV_TILE(coding, kind, type, mr, nr) GEMV(coding, kind, type, mr, nr)
#define GEMM_TILE(...) GEMM_TILE2(__VA_ARGS__)
#define GEMM_TILE2(class, kind, type, mr, nr) GEMM(class, kind, type, mr, nr)
#define MB_PREPARE_ROW(type) PREPARE(type)

/* ---- functions ---- */

#define PREPARE(type)                                                                              \
    static void SYMBOL_PREPARE(type)(const float *x, size_t k, void *row)                          \
    {                                                                                              \
        mb_prepare(x, k, row, ACTIVATION(type));                                                   \
    }
#define DECODE(coding, kind)                                                                       \
    static void SYMBOL_DECODE(coding, kind)(const uint8_t *panel, size_t superblocks,              \
                                            const struct mb_decoded *out)                          \
    {                                                                                              \
        mb_decode_panel(panel, superblocks, out, CODING(coding), SCALE(kind));                     \
    }
#define GEMV(coding, kind, type, mr, nr)                                                           \
    static void SYMBOL_MATMUL(gemv, coding, kind, type, mr, nr)(const struct mb_gemv_args *args)   \
    {                                                                                              \
        mb_gemv(args, mr, nr, CODING(coding), SCALE(kind));                                        \
    }
#define GEMM(class, kind, type, mr, nr)                                                            \
    static void SYMBOL_MATMUL(gemm, class, kind, type, mr, nr)(const struct mb_gemm_args *args)    \
    {                                                                                              \
        mb_gemm(args, mr, nr, SCALE(kind), MB_MAX_CODE_OF_##class);                                \
    }
#if V_SIGNED_CODES
#define MB_GEMM_CLASS_ROW(class, kind, type) GEMM_TILE(class, kind, type, MB_GEMM_TILE)
#else
#define MB_GEMM_ROW(kind, type) GEMM_TILE(u8, kind, type, MB_GEMM_TILE)
#endif
#include "kernels/instances.def"
GEMM_TILE(f32, none, f32, MB_GEMM_FLOAT_TILE)

/* ---- their descriptors ---- */

#undef PREPARE
#undef DECODE
#undef GEMV
#undef GEMM
#define PREPARE(type)                                                                              \
    {.name = TEXT(SYMBOL_PREPARE(type)),                                                           \
     .op = MB_OP_PREPARE,                                                                          \
     .isa = MB_INSTANCE_ID,                                                                        \
     .activation = ACTIVATION(type),                                                               \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.prepare = SYMBOL_PREPARE(type)},
#define DECODE(coding_, kind)                                                                      \
    {.name = TEXT(SYMBOL_DECODE(coding_, kind)),                                                   \
     .op = MB_OP_DECODE,                                                                           \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = CODING(coding_),                                                                    \
     .scale = SCALE(kind),                                                                         \
     .signed_codes = mb_is_signed_##coding_,                                                       \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.decode = SYMBOL_DECODE(coding_, kind)},
#define GEMV(coding_, kind, type, mr_, nr_)                                                        \
    {.name = TEXT(SYMBOL_MATMUL(gemv, coding_, kind, type, mr_, nr_)),                             \
     .op = MB_OP_GEMV,                                                                             \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = CODING(coding_),                                                                    \
     .scale = SCALE(kind),                                                                         \
     .activation = ACTIVATION(type),                                                               \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.gemv = SYMBOL_MATMUL(gemv, coding_, kind, type, mr_, nr_)},
#define GEMM(class, kind, type, mr_, nr_)                                                          \
    {.name = TEXT(SYMBOL_MATMUL(gemm, class, kind, type, mr_, nr_)),                               \
     .op = MB_OP_GEMM,                                                                             \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = MB_MAX_CODE_OF_##class ? MB_CODING_B8 : MB_CODING_F32,                              \
     .scale = SCALE(kind),                                                                         \
     .activation = ACTIVATION(type),                                                               \
     .max_code = MB_MAX_CODE_OF_##class,                                                           \
     .signed_codes = V_SIGNED_CODES && MB_MAX_CODE_OF_##class > 127,                               \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.gemm = SYMBOL_MATMUL(gemm, class, kind, type, mr_, nr_)},
enum {
#define MB_CODING_ROW(id, word, p8, p4, p2, p1, max, ...)                                          \
    mb_is_signed_##word = V_SIGNED_CODES && (max) > 127,
#include "mixbit/codings.def"
};
#define MB_PREPARE_ROW(type) PREPARE(type)
#define MB_FLOAT_ROW(coding) DECODE(coding, none) MB_GEMV_FLOAT_TILES(GEMV_TILE, coding, none, f32)
#define MB_PAIR_ROW(coding, kind, type)                                                            \
    DECODE(coding, kind) MB_GEMV_TILES(GEMV_TILE, coding, kind, type)
#if V_SIGNED_CODES
#define MB_GEMM_CLASS_ROW(class, kind, type) GEMM_TILE(class, kind, type, MB_GEMM_TILE)
#else
#define MB_GEMM_ROW(kind, type) GEMM_TILE(u8, kind, type, MB_GEMM_TILE)
#endif
static const struct mb_kernel kernels[] = {
/* clang-format off */
#include "kernels/instances.def"
    GEMM_TILE(f32, none, f32, MB_GEMM_FLOAT_TILE)
    /* clang-format on */
};

const struct mb_kernel_table PASTE(mb_kernels,
                                   MB_INSTANCE_ISA) = {kernels, sizeof kernels / sizeof *kernels};
