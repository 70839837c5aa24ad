/* SPDX-License-Identifier: Apache-2.0 */
/* Turns one ISA's rows of instances.def into functions and its kernel table. An ISA file includes
 * its verbs, defines MB_INSTANCE_ISA (the level's name), MB_INSTANCE_ID (its enum) and
 * MB_INSTANCES_<name>, then includes this.
 *
 * A row's words are pasted into the kernel's name and, through the aliases below, into the
 * constants that its inlined body folds on: the name says all that the code knows. */
#include "kernels/x86/matmul.h"
#include "kernels/x86/prepare.h"

/* What the words of a row stand for. */
enum {
    WORD_f32 = MB_CODING_F32,
    WORD_f16 = MB_CODING_F16,
    WORD_bf16 = MB_CODING_BF16,
    WORD_b2 = MB_CODING_B2,
    WORD_b3 = MB_CODING_B3,
    WORD_b4 = MB_CODING_B4,
    WORD_b5 = MB_CODING_B5,
    WORD_b6 = MB_CODING_B6,
    WORD_b8 = MB_CODING_B8,
    WORD_lut4 = MB_CODING_LUT4,
    WORD_u4 = MB_CODING_B4,
    WORD_u5 = MB_CODING_B5,
    WORD_u6 = MB_CODING_B6,
    WORD_u8 = MB_CODING_B8,
};
enum {
    KIND_none = MB_SCALE_NONE,
    KIND_g32 = MB_SCALE_G32,
    KIND_g32min = MB_SCALE_G32MIN,
    KIND_g16x2 = MB_SCALE_G16X2,
    KIND_g16x2s6 = MB_SCALE_G16X2S6,
    KIND_g16x2min = MB_SCALE_G16X2MIN,
    KIND_g32x2 = MB_SCALE_G32X2,
    KIND_g32x2min = MB_SCALE_G32X2MIN,
};
enum {
    ACT_f32 = MB_ACTIVATION_F32,
    ACT_i8g32 = MB_ACTIVATION_I8G32,
    ACT_i8g256 = MB_ACTIVATION_I8G256
};
enum { GROUP_i8g32 = 32, GROUP_i8g256 = 256 };
#define MAX_CODE_f32 0
#define MAX_CODE_u4 15
#define MAX_CODE_u5 31
#define MAX_CODE_u6 63
#define MAX_CODE_u8 255
#define PREPARE_BODY_f32(x, k, row) mb_prepare_f32(x, k, row)
#define PREPARE_BODY_i8g32(x, k, row) mb_prepare_i8(x, k, row, 32)
#define PREPARE_BODY_i8g256(x, k, row) mb_prepare_i8(x, k, row, 256)

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define SYMBOL_PREPARE(activation) PASTE(prepare_##activation, MB_INSTANCE_ISA)
#define SYMBOL_DECODE(coding, kind) PASTE(decode_##coding##_##kind, MB_INSTANCE_ISA)
#define SYMBOL_MATMUL(op, coding, kind, activation, mr, nr)                                        \
    PASTE(op##_##coding##_##kind##_##activation##_##mr##x##nr, MB_INSTANCE_ISA)

#define MB_PREPARE_ROW(activation)                                                                 \
    static void SYMBOL_PREPARE(activation)(const float *x, size_t k, void *row)                    \
    {                                                                                              \
        PREPARE_BODY_##activation(x, k, row);                                                      \
    }
#define MB_DECODE_ROW(coding, kind)                                                                \
    static void SYMBOL_DECODE(coding, kind)(const uint8_t *panel, size_t superblocks,              \
                                            const struct mb_decoded *out)                          \
    {                                                                                              \
        mb_decode_panel(panel, superblocks, out, (enum mb_coding)WORD_##coding,                    \
                        (enum mb_scale_kind)KIND_##kind);                                          \
    }
#define MB_GEMV_ROW(coding, kind, activation, mr, nr)                                              \
    static void SYMBOL_MATMUL(gemv, coding, kind, activation, mr,                                  \
                              nr)(const struct mb_gemv_args *args)                                 \
    {                                                                                              \
        mb_gemv(args, mr, nr, (enum mb_coding)WORD_##coding, (enum mb_scale_kind)KIND_##kind);     \
    }
#define MB_GEMM_ROW(class, kind, activation, mr, nr)                                               \
    static void SYMBOL_MATMUL(gemm, class, kind, activation, mr,                                   \
                              nr)(const struct mb_gemm_args *args)                                 \
    {                                                                                              \
        mb_gemm(args, mr, nr, (enum mb_scale_kind)KIND_##kind, MAX_CODE_##class);                  \
    }
#include "kernels/instances.def"

/* Codes beyond 63 are signed where the ISA says so. */
#define SIGNED_CODES(word)                                                                         \
    (V_SIGNED_CODES && ((int)WORD_##word == MB_CODING_B8 || (int)WORD_##word == MB_CODING_LUT4))

#define MB_PREPARE_ROW(activation_)                                                                \
    {.name = TEXT(SYMBOL_PREPARE(activation_)),                                                    \
     .op = MB_OP_PREPARE,                                                                          \
     .isa = MB_INSTANCE_ID,                                                                        \
     .activation = (enum mb_activation)ACT_##activation_,                                          \
     .revision = 1,                                                                                \
     .fn.prepare = SYMBOL_PREPARE(activation_)},
#define MB_DECODE_ROW(coding_, kind)                                                               \
    {.name = TEXT(SYMBOL_DECODE(coding_, kind)),                                                   \
     .op = MB_OP_DECODE,                                                                           \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = (enum mb_coding)WORD_##coding_,                                                     \
     .scale = (enum mb_scale_kind)KIND_##kind,                                                     \
     .signed_codes = SIGNED_CODES(coding_),                                                        \
     .revision = 1,                                                                                \
     .fn.decode = SYMBOL_DECODE(coding_, kind)},
#define MB_GEMV_ROW(coding_, kind, activation_, mr_, nr_)                                          \
    {.name = TEXT(SYMBOL_MATMUL(gemv, coding_, kind, activation_, mr_, nr_)),                      \
     .op = MB_OP_GEMV,                                                                             \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = (enum mb_coding)WORD_##coding_,                                                     \
     .scale = (enum mb_scale_kind)KIND_##kind,                                                     \
     .activation = (enum mb_activation)ACT_##activation_,                                          \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = 1,                                                                                \
     .fn.gemv = SYMBOL_MATMUL(gemv, coding_, kind, activation_, mr_, nr_)},
#define MB_GEMM_ROW(class, kind, activation_, mr_, nr_)                                            \
    {.name = TEXT(SYMBOL_MATMUL(gemm, class, kind, activation_, mr_, nr_)),                        \
     .op = MB_OP_GEMM,                                                                             \
     .isa = MB_INSTANCE_ID,                                                                        \
     .coding = (enum mb_coding)WORD_##class,                                                       \
     .scale = (enum mb_scale_kind)KIND_##kind,                                                     \
     .activation = (enum mb_activation)ACT_##activation_,                                          \
     .max_code = MAX_CODE_##class,                                                                 \
     .signed_codes = SIGNED_CODES(class),                                                          \
     .mr = mr_,                                                                                    \
     .nr = nr_,                                                                                    \
     .revision = 1,                                                                                \
     .fn.gemm = SYMBOL_MATMUL(gemm, class, kind, activation_, mr_, nr_)},
static const struct mb_kernel kernels[] = {
#include "kernels/instances.def"
};

const struct mb_kernel_table PASTE(mb_kernels,
                                   MB_INSTANCE_ISA) = {kernels, sizeof kernels / sizeof *kernels};
