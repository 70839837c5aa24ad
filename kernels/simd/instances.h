/* SPDX-License-Identifier: Apache-2.0 */
/* Turns instances.def into one level's functions and its kernel table. An ISA file includes its
 * verbs, defines what follows, then includes this:
 *
 *   MB_INSTANCE_ISA, MB_INSTANCE_ID      the level's name and its enum
 *   MB_GEMV_TILES(X, ...)                X(..., mr, nr) for every tile of integer gemv
 *   MB_GEMV_FLOAT_TILES(X, ...)          the same for floats
 *   MB_GEMM_TILE, MB_GEMM_FLOAT_TILE     mr, nr
 *   MB_INTEGER_TILE                      likewise, of integer-only products
 *   MB_CODEBOOK_TILE                     likewise, of codebook matrices; columns are 16
 *   MB_INSTANCE_TABLES_ONLY              for a level that differs only where codings have a table
 *   MB_INSTANCE_BF16_ONLY                for one that differs only in dots of bf16
 *   MB_INSTANCE_ENCODE                   for one whose registers are wider than those before it
 *
 * A row's words are pasted into the kernel's name and, through words.h, into the constants that its
 * inlined body folds on: the name says all that the code knows. */
#include "kernels/simd/codebook.h"
#include "kernels/simd/gemm.h"
#include "kernels/simd/gemv.h"
#include "kernels/simd/integer.h"
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
#define SYMBOL_INTEGER(coding, mr, nr) PASTE(integer_##coding##_##mr##x##nr, MB_INSTANCE_ISA)
#define SYMBOL_CODEBOOK(op, type, mr, nr) PASTE(op##_##type##_##mr##x##nr, MB_INSTANCE_ISA)
#define CODING(word) ((enum mb_coding)MB_CODING_OF_##word)
#define SCALE(word) ((enum mb_scale_kind)MB_SCALE_OF_##word)
#define ACTIVATION(word) ((enum mb_activation)MB_ACTIVATION_OF_##word)

#define GEMV_TILE(coding, kind, type, mr, nr) GEMV(coding, kind, type, mr, nr)
#define GEMM_TILE(...) GEMM_TILE2(__VA_ARGS__)
#define GEMM_TILE2(class, kind, type, mr, nr) GEMM(class, kind, type, mr, nr)
#define PAIR(coding, kind, type) DECODE(coding, kind) MB_GEMV_TILES(GEMV_TILE, coding, kind, type)
#if defined(MB_INSTANCE_TABLES_ONLY) || defined(MB_INSTANCE_BF16_ONLY)
#define FLOAT_GEMM
#define INTEGER_TILE
#else
#define FLOAT_GEMM GEMM_TILE(f32, none, f32, MB_GEMM_FLOAT_TILE)
#define INTEGER_TILE INTEGER_TILE2(b8, MB_INTEGER_TILE)
#endif
#define INTEGER_TILE2(...) INTEGER(__VA_ARGS__)
#if defined(MB_INSTANCE_BF16_ONLY)
#define CODEBOOK_TILE
#else
#define CODEBOOK_TILE CODEBOOK_TILE2(i8g32, MB_CODEBOOK_TILE)
#endif
#define CODEBOOK_TILE2(...) CODEBOOK(__VA_ARGS__)

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
        mb_gemv(args, mr, nr, CODING(coding), SCALE(kind), ACTIVATION(type));                      \
    }
#define GEMM(class, kind, type, mr, nr)                                                            \
    static void SYMBOL_MATMUL(gemm, class, kind, type, mr, nr)(const struct mb_gemm_args *args)    \
    {                                                                                              \
        mb_gemm(args, mr, nr, SCALE(kind), ACTIVATION(type), MB_MAX_CODE_OF_##class);              \
    }
#define INTEGER(coding, mr, nr)                                                                    \
    static void SYMBOL_INTEGER(coding, mr, nr)(const struct mb_integer_args *args)                 \
    {                                                                                              \
        mb_integer(args, mr, nr);                                                                  \
    }
#define CODEBOOK(type, mr, nr)                                                                     \
    static void SYMBOL_CODEBOOK(multiply, type, mr, nr)(const struct mb_codebook_args *args)       \
    {                                                                                              \
        mb_codebook_multiply(args, mr);                                                            \
    }                                                                                              \
    static void SYMBOL_CODEBOOK(unpack, type, mr, nr)(const struct mb_codebook *book,              \
                                                      const uint8_t *panel, size_t chunk0,         \
                                                      size_t chunks, const struct mb_decoded *out) \
    {                                                                                              \
        mb_codebook_decode(book, panel, chunk0, chunks, out);                                      \
    }                                                                                              \
    static void SYMBOL_CODEBOOK(outliers, type, mr, nr)(const struct mb_codebook_args *args)       \
    {                                                                                              \
        mb_codebook_add_all(args);                                                                 \
    }                                                                                              \
    static const struct mb_codebook_ops SYMBOL_CODEBOOK(codebook, type, mr, nr) = {                \
        SYMBOL_CODEBOOK(multiply, type, mr, nr), SYMBOL_CODEBOOK(unpack, type, mr, nr),            \
        SYMBOL_CODEBOOK(outliers, type, mr, nr)};
#include "kernels/simd/rows.h"
FLOAT_GEMM
INTEGER_TILE
CODEBOOK_TILE

/* ---- their descriptors ---- */

#undef PREPARE
#undef DECODE
#undef GEMV
#undef GEMM
#undef INTEGER
#undef CODEBOOK
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
#define GEMV(coding, kind, type, mr, nr)                                                           \
    GEMV_OF(coding, kind, mr, nr, type, type) MB_TWIN_OF_##type(GEMV_OF, coding, kind, mr, nr)
#define GEMM(class, kind, type, mr, nr)                                                            \
    GEMM_OF(class, kind, mr, nr, type, type) MB_TWIN_OF_##type(GEMM_OF, class, kind, mr, nr)
#define GEMV_OF(coding_, kind, mr_, nr_, type, record)                                             \
    {.name = TEXT(SYMBOL_MATMUL(gemv, coding_, kind, type, mr_, nr_)),                             \
     .op = MB_OP_GEMV,                                                                             \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = CODING(coding_),                                                                    \
     .scale = SCALE(kind),                                                                         \
     .activation = ACTIVATION(type),                                                               \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.gemv = SYMBOL_MATMUL(gemv, coding_, kind, record, mr_, nr_)},
#define GEMM_OF(class, kind, mr_, nr_, type, record)                                               \
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
     .fn.gemm = SYMBOL_MATMUL(gemm, class, kind, record, mr_, nr_)},
#define INTEGER(coding_, mr_, nr_)                                                                 \
    {.name = TEXT(SYMBOL_INTEGER(coding_, mr_, nr_)),                                              \
     .op = MB_OP_INTEGER,                                                                          \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = CODING(coding_),                                                                    \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = MB_BODY_REVISION,                                                                 \
     .fn.integer = SYMBOL_INTEGER(coding_, mr_, nr_)},
#define CODEBOOK(type, mr_, nr_)                                                                   \
    {.name = TEXT(SYMBOL_CODEBOOK(codebook, type, mr_, nr_)),                                      \
     .op = MB_OP_CODEBOOK,                                                                         \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = MB_CODING_B8,                                                                       \
     .scale = MB_SCALE_G32,                                                                        \
     .activation = ACTIVATION(type),                                                               \
     .signed_codes = V_SIGNED_CODES,                                                               \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = MB_CODEBOOK_REVISION,                                                             \
     .fn.codebook = &SYMBOL_CODEBOOK(codebook, type, mr_, nr_)},
enum {
#define MB_CODING_ROW(id, word, p8, p4, p3, p2, p1, max, ...)                                      \
    mb_is_signed_##word = V_SIGNED_CODES && (max) > 127,
#include "mixbit/codings.def"
};
static const struct mb_kernel kernels[] = {
/* clang-format off */
#include "kernels/simd/rows.h"
    FLOAT_GEMM
    INTEGER_TILE
    CODEBOOK_TILE
    /* clang-format on */
};

/* ---- encoding ---- */

#if defined(MB_INSTANCE_ENCODE)
#include "kernels/simd/encode.h"
#include "kernels/simd/feedback.h"
#include "kernels/simd/gram.h"
#include "kernels/simd/refine.h"
static const struct mb_encode_ops encode_ops = {
    search_blocks, gram_add, gram_cross, gram_factor_rows, gram_solve, feedback_rows, refine_rows};
#define ENCODE_OPS &encode_ops
#else
#define ENCODE_OPS NULL
#endif

const struct mb_kernel_table PASTE(mb_kernels, MB_INSTANCE_ISA) = {
    kernels, sizeof kernels / sizeof *kernels, ENCODE_OPS};
