/* SPDX-License-Identifier: Apache-2.0 */
/* Peak and read loops for x86: 12 independent accumulators, so that an instruction of latency 4 or
 * 5 can issue twice a cycle, and operands from registers or as a broadcast from memory (the form
 * that kernels use; it takes no shuffle port).
 *
 * Functions carry their target as an attribute, since this file is compiled for the baseline; they
 * run only on levels that the machine supports. */
#include "tuner/peaks.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { STREAM_STEP = 256, ACCUMULATORS = 12 };

#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define TARGET_BF16 __attribute__((target("avx512f,avx512bw,avx512bf16")))

/* One instruction on each accumulator (%0 to %11), with operands %12 and %13. */
#define LINE(instruction, source, i) instruction " " source ", %13, %" #i "\n\t"
#define ON_12(instruction, source)                                                                 \
    LINE(instruction, source, 0)                                                                   \
    LINE(instruction, source, 1)                                                                   \
    LINE(instruction, source, 2)                                                                   \
    LINE(instruction, source, 3)                                                                   \
    LINE(instruction, source, 4)                                                                   \
    LINE(instruction, source, 5)                                                                   \
    LINE(instruction, source, 6)                                                                   \
    LINE(instruction, source, 7)                                                                   \
    LINE(instruction, source, 8)                                                                   \
    LINE(instruction, source, 9)                                                                   \
    LINE(instruction, source, 10)                                                                  \
    LINE(instruction, source, 11)

/* Chains without a multiply-add instruction: six accumulators, %6 to %11 hold the products. */
#define ON_6(chain) chain(0, 6) chain(1, 7) chain(2, 8) chain(3, 9) chain(4, 10) chain(5, 11)
#define PRODUCT_I16(sum, product) "vpmaddubsw %12, %13, %" #product "\n\t"
#define SUM_I16(sum, product) "vpaddw %" #product ", %" #sum ", %" #sum "\n\t"
#define CHAIN_I16(sum, product) PRODUCT_I16(sum, product) SUM_I16(sum, product)
#define CHAIN_I32(sum, product)                                                                    \
    "vpmaddubsw %12, %13, %" #product "\n\tvpmaddwd %12, %" #product ", %" #product                \
    "\n\tvpaddd %" #product ", %" #sum ", %" #sum "\n\t"
#define CHAIN_WIDE(sum, product)                                                                   \
    "vpmaddwd %12, %13, %" #product "\n\tvpaddd %" #product ", %" #sum ", %" #sum "\n\t"

/* `iterations` times `text`; the loop's own two instructions issue beside it. */
#define LOOP(vector, text, in_out, source_constraint, source, factor_constraint, factor)           \
    do {                                                                                           \
        vector a[ACCUMULATORS] = {{0}};                                                            \
        for (size_t i = 0; i < iterations; i++)                                                    \
            __asm__ volatile(text                                                                  \
                             : in_out(a[0]), in_out(a[1]), in_out(a[2]), in_out(a[3]),             \
                               in_out(a[4]), in_out(a[5]), in_out(a[6]), in_out(a[7]),             \
                               in_out(a[8]), in_out(a[9]), in_out(a[10]), in_out(a[11])            \
                             : source_constraint(source), factor_constraint(factor));              \
    } while (0)

TARGET_AVX512 static void avx512_dot(size_t iterations)
{
    const __m512i codes = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(5);
    LOOP(__m512i, ON_12("vpdpbusd", "%12"), "+v", "v", activations, "v", codes);
}

TARGET_AVX512 static void avx512_dot_memory(size_t iterations)
{
    const __m512i codes = _mm512_set1_epi8(3);
    const int32_t activations = 0x05050505;
    LOOP(__m512i, ON_12("vpdpbusd", "%12%{1to16%}"), "+v", "m", activations, "v", codes);
}

TARGET_AVX512 static void avx512_fma(size_t iterations)
{
    const __m512 w = _mm512_set1_ps(0.5f), x = _mm512_set1_ps(0.25f);
    LOOP(__m512, ON_12("vfmadd231ps", "%12"), "+v", "v", x, "v", w);
}

TARGET_AVX512 static void avx512_fma_memory(size_t iterations)
{
    const __m512 w = _mm512_set1_ps(0.5f);
    const float x = 0.25f;
    LOOP(__m512, ON_12("vfmadd231ps", "%12%{1to16%}"), "+v", "m", x, "v", w);
}

/* Pairs of bf16: what the level's float products are made of. */
TARGET_BF16 static void bf16_pairs(size_t iterations)
{
    const __m512i w = _mm512_set1_epi32(0x3f003f00), x = _mm512_set1_epi32(0x3e803e80);
    LOOP(__m512, ON_12("vdpbf16ps", "%12"), "+v", "v", x, "v", w);
}

TARGET_BF16 static void bf16_pairs_memory(size_t iterations)
{
    const __m512i w = _mm512_set1_epi32(0x3f003f00);
    const int32_t x = 0x3e803e80;
    LOOP(__m512, ON_12("vdpbf16ps", "%12%{1to16%}"), "+v", "m", x, "v", w);
}

TARGET_AVX2 static void avx2_dot(size_t iterations)
{
    const __m256i codes = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(5);
    LOOP(__m256i, ON_6(CHAIN_I16), "+x", "x", activations, "x", codes);
}

TARGET_AVX2 static void avx2_dot_exact(size_t iterations)
{
    const __m256i codes = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(5);
    LOOP(__m256i, ON_6(CHAIN_I32), "+x", "x", activations, "x", codes);
}

/* The same work with the products first: some schedulers spread this order better over the ports.
 */
TARGET_AVX2 static void avx2_dot_apart(size_t iterations)
{
    const __m256i codes = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(5);
    LOOP(__m256i, ON_6(PRODUCT_I16) ON_6(SUM_I16), "+x", "x", activations, "x", codes);
}

/* Codes widened to 16 bits beforehand: half the products per instruction, one instruction less. */
TARGET_AVX2 static void avx2_dot_wide(size_t iterations)
{
    const __m256i codes = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(5);
    LOOP(__m256i, ON_6(CHAIN_WIDE), "+x", "x", activations, "x", codes);
}

TARGET_AVX2 static void avx2_fma(size_t iterations)
{
    const __m256 w = _mm256_set1_ps(0.5f), x = _mm256_set1_ps(0.25f);
    LOOP(__m256, ON_12("vfmadd231ps", "%12"), "+x", "x", x, "x", w);
}

/* {vex}: without it the assembler takes the AVX-512 encoding. Its target has no AVX-VNNI, which the
 * assembler does not mind. */
TARGET_AVX2 static void avxvnni_dot(size_t iterations)
{
    const __m256i codes = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(5);
    LOOP(__m256i, ON_12("%{vex%} vpdpbusd", "%12"), "+x", "x", activations, "x", codes);
}

/* A 512-bit level: what its dots and fmas reach with operands from registers and from memory. */
#define PEAKS_512(isa)                                                                             \
    {isa, MB_PEAK_DOT, avx512_dot, 12 * 64}, {isa, MB_PEAK_DOT, avx512_dot_memory, 12 * 64},       \
        {isa, MB_PEAK_DOT_EXACT, avx512_dot, 12 * 64},                                             \
    {                                                                                              \
        isa, MB_PEAK_DOT_EXACT, avx512_dot_memory, 12 * 64                                         \
    }
#define PEAKS_FMA_512(isa)                                                                         \
    {isa, MB_PEAK_FMA, avx512_fma, 12 * 16}, { isa, MB_PEAK_FMA, avx512_fma_memory, 12 * 16 }

static const struct mb_peak peaks[] = {
    {MB_ISA_AVX2, MB_PEAK_DOT, avx2_dot, 6 * 32},
    {MB_ISA_AVX2, MB_PEAK_DOT, avx2_dot_apart, 6 * 32},
    {MB_ISA_AVX2, MB_PEAK_DOT_EXACT, avx2_dot_exact, 6 * 32},
    {MB_ISA_AVX2, MB_PEAK_DOT_EXACT, avx2_dot_wide, 6 * 16},
    {MB_ISA_AVX2, MB_PEAK_FMA, avx2_fma, 12 * 8},
    {MB_ISA_AVXVNNI, MB_PEAK_DOT, avxvnni_dot, 12 * 32},
    {MB_ISA_AVXVNNI, MB_PEAK_DOT_EXACT, avxvnni_dot, 12 * 32},
    {MB_ISA_AVXVNNI, MB_PEAK_FMA, avx2_fma, 12 * 8},
    PEAKS_512(MB_ISA_AVX512VNNI),
    PEAKS_FMA_512(MB_ISA_AVX512VNNI),
    PEAKS_512(MB_ISA_AVX512VBMI),
    PEAKS_FMA_512(MB_ISA_AVX512VBMI),
    PEAKS_512(MB_ISA_AVX512BF16),
    {MB_ISA_AVX512BF16, MB_PEAK_FMA, bf16_pairs, 12 * 32},
    {MB_ISA_AVX512BF16, MB_PEAK_FMA, bf16_pairs_memory, 12 * 32},
};
const struct mb_peak_table mb_peaks_x86 = {peaks, sizeof peaks / sizeof peaks[0]};

/* Loads into registers that nobody reads: a dependent instruction would only take an issue slot. */
TARGET_AVX512 static void read_avx512(const uint8_t *data, size_t bytes, size_t streams,
                                      size_t ahead)
{
    const size_t each = bytes / streams;
    for (size_t at = 0; at < each; at += STREAM_STEP)
        for (size_t s = 0; s < streams; s++) {
            const uint8_t *p = data + s * each + at;
            if (ahead > 0)
                __asm__ volatile("prefetcht0 (%0)\n\tprefetcht0 64(%0)\n\tprefetcht0 128(%0)\n\t"
                                 "prefetcht0 192(%0)"
                                 :
                                 : "r"(p + ahead));
            __asm__ volatile("vmovdqu64 (%0), %%zmm0\n\tvmovdqu64 64(%0), %%zmm1\n\t"
                             "vmovdqu64 128(%0), %%zmm2\n\tvmovdqu64 192(%0), %%zmm3"
                             :
                             : "r"(p)
                             : "xmm0", "xmm1", "xmm2", "xmm3");
        }
}

TARGET_AVX2 static void read_avx2(const uint8_t *data, size_t bytes, size_t streams, size_t ahead)
{
    const size_t each = bytes / streams;
    for (size_t at = 0; at < each; at += STREAM_STEP)
        for (size_t s = 0; s < streams; s++) {
            const uint8_t *p = data + s * each + at;
            if (ahead > 0)
                __asm__ volatile("prefetcht0 (%0)\n\tprefetcht0 64(%0)\n\tprefetcht0 128(%0)\n\t"
                                 "prefetcht0 192(%0)"
                                 :
                                 : "r"(p + ahead));
            __asm__ volatile("vmovdqu (%0), %%ymm0\n\tvmovdqu 32(%0), %%ymm1\n\t"
                             "vmovdqu 64(%0), %%ymm2\n\tvmovdqu 96(%0), %%ymm3\n\t"
                             "vmovdqu 128(%0), %%ymm4\n\tvmovdqu 160(%0), %%ymm5\n\t"
                             "vmovdqu 192(%0), %%ymm6\n\tvmovdqu 224(%0), %%ymm7"
                             :
                             : "r"(p)
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
        }
}

mb_read_fn mb_read_loop_x86(enum mb_isa isa)
{
    switch (isa) {
    case MB_ISA_AVX2:
    case MB_ISA_AVXVNNI: return read_avx2;
    case MB_ISA_AVX512VNNI:
    case MB_ISA_AVX512VBMI:
    case MB_ISA_AVX512BF16: return read_avx512;
    default: return NULL;
    }
}

#else

const struct mb_peak_table mb_peaks_x86 = {NULL, 0};

mb_read_fn mb_read_loop_x86(enum mb_isa isa)
{
    (void)isa;
    return NULL;
}

#endif
