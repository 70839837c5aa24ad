/* SPDX-License-Identifier: Apache-2.0 */
/* What a kernel is: a compiled body, its descriptor, and the numbers it must produce.
 *
 * Kernels own no threads, no memory and no policy. Four operations make a matmul, two more have
 * weights of their own:
 *   prepare  one row of f32 activations -> an activation row record (int8 codes, scales, sums)
 *   decode   super-blocks of one packed panel -> u8 codes, f32 scales in a caller's buffer (L1/L2)
 *   gemv     fused decode and multiply for few activation rows (m <= mr), reads the weights once
 *   gemm     decoded panels x many activation rows; knows nothing of codings
 *   integer  int8 in, int8 out, a whole product by itself (kernels/integer.h)
 *   codebook  columns of several widths, each with a table (kernels/codebook.h): gemv and decode
 *
 * THE CANONICAL NUMBERS. Every kernel gives the same bits as reference.c, on every ISA, for every
 * m, tile and thread count. Per output, groups g in ascending k, super-blocks B in ascending k, fma
 * = one rounding:
 *
 *   dot_g = sum (code - bias) * q, exact in int32
 *   one-level   f = fma(float(dot_g), d_g * as, f)       as: scale of the activations there
 *     min       then f = fma(min_g, ss_g, f)             ss_g = as_g * float(sum_g)
 *     nested    (as of 256 weights, groups narrower)  s = 0; for g in the 256:
 *               s = fma(float(dot_g), d_g, s);  f = fma(s, as, f)
 *   two-level   s = 0; for g in B: s = fma(float(dot_g), float(sc_g), s);
 *               f = fma(s, d_B * as_B, f)
 *     min       then: i = sum_g min_g * sum_g, exact in int32;
 *               f = fma(-float(i), dmin_B * as_B, f)
 *     as per 32 s = fma(float(dot_g), float(sc_g) * as_g, s);  f = fma(s, d_B, f);
 *               min: t = fma(float(min_g), ss_g, t);  f = fma(-t, dmin_B, f)
 *   floats      f = fma(w_k, x_k, f)
 *   bf16 pairs  f = fma(w_2i+1, x_2i+1, f);  f = fma(w_2i, x_2i, f), subnormal operands and results
 *               counting as zero of their sign: what VDPBF16PS does, whatever the control register
 *               says (Intel SDM; checked on Zen 4). Small is judged after rounding, as x86 does: on
 *               ARM sums within 2^-151 below 2^-126 are zero already.
 *
 * starting from f = 0. Padding super-blocks take part: codes of zero bytes times activations of 0.
 *
 * Activation rows (mb_activation_layout): amax over the group, scale = amax / 127, inverse = amax ?
 * 127 / amax : 0, q = round to nearest even (x * inverse); i8row: amax over the row, one scale in
 * every place. bf16: round to nearest even. Sums are of the q. amax below 2^-120
 * counts as 0 for the inverse alone (127 / amax would overflow): all q are 0 then. Non-finite x:
 * NaN takes no part in amax; a product that is NaN gives q = 0. */
#ifndef MIXBIT_KERNELS_KERNEL_H
#define MIXBIT_KERNELS_KERNEL_H

#include "kernels/codebook.h"
#include "kernels/integer.h"
#include "kernels/panel.h"

/* ISA levels are feature bundles, not a ladder; ids come from isa.def. */
enum mb_isa {
#define MB_ISA_ROW(id, name, ...) MB_ISA_##id,
#include "kernels/isa.def"
    MB_ISA_COUNT
};

/* CPU features an ISA level may require; detected (OS state included) in dispatch/cpu.c. */
enum mb_cpu_feature {
    MB_CPU_AVX2 = 1 << 0,
    MB_CPU_FMA = 1 << 1,
    MB_CPU_F16C = 1 << 2,
    MB_CPU_AVXVNNI = 1 << 3,
    MB_CPU_AVX512F = 1 << 4,
    MB_CPU_AVX512BW = 1 << 5,
    MB_CPU_AVX512VL = 1 << 6,
    MB_CPU_AVX512DQ = 1 << 7,
    MB_CPU_AVX512VNNI = 1 << 8,
    MB_CPU_AVX512VBMI = 1 << 9,
    MB_CPU_AVX512BF16 = 1 << 10,
    MB_CPU_AMX_INT8 = 1 << 11,
    MB_CPU_NEON = 1 << 16,
    MB_CPU_DOTPROD = 1 << 17,
    MB_CPU_I8MM = 1 << 18
};

enum mb_op { MB_OP_PREPARE, MB_OP_DECODE, MB_OP_GEMV, MB_OP_GEMM, MB_OP_INTEGER, MB_OP_CODEBOOK };

/* One activation row record: [ codes or floats ][ scales f32 ][ sums ], padded so that its length
 * is an odd multiple of 64 bytes: rows then never share L1 sets, whatever k is. Offsets are in
 * bytes from the row's start. */
struct mb_activation_layout {
    size_t padded_k;   /* column `run` of codings.def; what pads is 0 */
    size_t scale;      /* int8: f32 [padded_k / 32] or [padded_k / 256] */
    size_t scaled_sum; /* i8g32: f32 [padded_k / 32], scale * sum */
    size_t sum32;      /* int16 [padded_k / 32], int8 types */
    size_t sum16;      /* int16 [padded_k / 16], int8 types */
    size_t row_bytes;
};
struct mb_activation_layout mb_activation_layout(enum mb_activation type, size_t k);

/* Decoded super-blocks of one panel, all in the caller's workspace, 64-byte aligned. */
struct mb_decoded {
    uint8_t *code; /* [k / 4][16][4]; floats: unused */
    float *scale;  /* one-level: d f32 [groups][16]; two-level: sub-scale as f32 [groups][16];
                      floats: w [k][16]; bf16 pairs stay packed, in `code` */
    float *d;      /* two-level: [superblocks][16] */
    float *min; /* one-level with min: [groups][16]; two-level with min: dmin [superblocks][16] */
    int16_t *min_pairs; /* two-level with min: [groups / 2][16][2] */
};

typedef void (*mb_prepare_fn)(const float *x, size_t k, void *row);
typedef void (*mb_decode_fn)(const uint8_t *panel, size_t superblocks,
                             const struct mb_decoded *out);

/* gemv: y[r][j] for r < m <= mr and j < n, weights read once. bias_sum holds -bias * sum_g as int32
 * [m][groups], what an accumulator starts from (NULL when the scale kind has a min, or for floats).
 * y has room for exactly n floats a row: the tail panel is stored with a mask. */
struct mb_gemv_args {
    const uint8_t *panels;
    size_t panel_bytes;
    size_t superblocks;
    size_t n;
    const uint8_t *activations; /* m row records */
    const struct mb_activation_layout *layout;
    const int32_t *bias_sum;
    size_t bias_stride; /* int32 elements between rows */
    size_t m;
    float *y;
    size_t y_stride; /* floats */
    size_t prefetch; /* bytes ahead of the stream to ask for; 0: none */
};
typedef void (*mb_gemv_fn)(const struct mb_gemv_args *args);

/* gemm: m rows x (nr / 16) decoded panels over a run of k; continues from y unless `first`.
 * Activation pointers are of the whole record; `k0` says where the run starts. n <= nr columns are
 * stored. */
struct mb_gemm_args {
    const struct mb_decoded *panels; /* nr / 16 of them */
    size_t k0, k;                    /* multiples of the super-block */
    const uint8_t *activations;
    const struct mb_activation_layout *layout;
    const int32_t *bias_sum;
    size_t bias_stride;
    size_t m;
    float *y;
    size_t y_stride;
    size_t n;
    bool first;
};
typedef void (*mb_gemm_fn)(const struct mb_gemm_args *args);

/* The descriptor. `name` is the identity everywhere: <op>_<coding>_<scale
 * kind>_<activation>_<MRxNR>_<isa> (prepare_<activation>_<isa> and decode_<coding>_<scale
 * kind>_<isa>, integer_<coding>_<MRxNR>_<isa> and codebook_<activation>_<MRxNR>_<isa> have fewer
 * parts, since nothing else applies). */
struct mb_kernel {
    const char *name;
    enum mb_op op;
    enum mb_isa isa;
    enum mb_coding coding;    /* gemv, decode: the packed coding. gemm: see max_code */
    enum mb_scale_kind scale; /* gemm: G16X2S6 is served by G16X2, G32E8 by G32, PAIR by NONE where
                                 activations are f32 */
    enum mb_activation activation;
    unsigned max_code; /* gemm: largest decoded code it takes exactly (15 for u4, 31 u5, 63 u6, 255
                          u8) */
    bool signed_codes; /* decode, gemm: codes up to 255 stand as int8, code - 128, and the bias sum
                          is not used (AVX2: u8 x s8 could saturate). Such a gemm fits codings that
                          reach 255 only; mb_gemm_run converts when decode and gemm differ. */
    unsigned mr, nr;
    unsigned revision; /* raised when a body changes its speed: profile entries of older ones are
                          unused */
    union {
        mb_prepare_fn prepare;
        mb_decode_fn decode;
        mb_gemv_fn gemv;
        mb_gemm_fn gemm;
        mb_integer_fn integer;
        const struct mb_codebook_ops *codebook; /* coding b8, scale g32: what it decodes to */
    } fn;
};

struct mb_encode_ops; /* kernels/encode.h */
/* Every ISA file defines one table; a level that the compiler's target lacks has count 0. */
struct mb_kernel_table {
    const struct mb_kernel *kernels;
    size_t count;
    const struct mb_encode_ops *encode; /* NULL: no faster than a level before it */
};
#define MB_ISA_ROW(id, name, ...) extern const struct mb_kernel_table mb_kernels_##name;
#include "kernels/isa.def"

/* The loop nest of the buffered GEMM, written once for all ISAs (gemm.c): for each nr columns, for
 * each k-block, decode, then all rows. f32 panels and bf16 pairs are multiplied where they stand,
 * decode is not called (and may be NULL). Workspace bytes for it. */
struct mb_gemm_plan {
    const struct mb_kernel *decode, *gemm;
    const struct mb_codebook *codebook; /* what the panels are, where decode is of a codebook */
    size_t k_block;                     /* weights per decoded run; rounded to mb_run_step */
};
size_t mb_gemm_workspace_bytes(const struct mb_gemm_plan *plan);
void mb_gemm_run(const struct mb_gemm_plan *plan, const struct mb_gemv_args *args, void *workspace);

#endif
