/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs that every ARM level has in common: all but the dots. What decode.h, matmul.h and prepare.h
 * are written on is this and one of verbs_neon.h, verbs_dotprod.h, verbs_i8mm.h.
 *
 * One register is a quarter of a quad of a panel: 4 rows x 4 k of codes, 4 int32 or 4 f32. Byte
 * shifts leave no bits of the neighbour behind, and BIT merges a plane in one instruction, so a
 * register of codes costs b4 1, b2 1.5, lut4 2, b5 and b6 3, b3 3.5 operations. There are 32
 * registers. f16 is only converted, never added: ARMv8.0 has the conversions. */
#ifndef MIXBIT_KERNELS_ARM_VERBS_COMMON_H
#define MIXBIT_KERNELS_ARM_VERBS_COMMON_H

#include "kernels/kernel.h"
#include <arm_neon.h>
#include <string.h>

#define MB_INLINE static inline __attribute__((always_inline))

/* 16 codes, 4 int32 or 8 int16: one type, since to the loops a register is a register. */
typedef int32x4_t v_code;
typedef int32x4_t v_int;
typedef float32x4_t v_float;

/* Rows of a panel in one register, registers of one panel, bytes of a register, registers there
 * are. */
enum { V_LANES = 4, V_PARTS = 4, V_BYTES = 16, V_REGISTERS = 32 };

/* A byte shift needs no mask, so nothing is saved by codes that stand higher than they are. */
#define V_WIDE_DOT 0
#define V_LOW_DOT 0

/* Signed codes are multiplied as they are. */
#define V_FLIPPED_SIGNS 0

MB_INLINE uint8x16_t v_u8(v_int v) { return vreinterpretq_u8_s32(v); }
MB_INLINE int8x16_t v_s8(v_int v) { return vreinterpretq_s8_s32(v); }
MB_INLINE v_int v_from_u8(uint8x16_t v) { return vreinterpretq_s32_u8(v); }

/* Subnormal operands and results of floats count as zero (FPCR's FZ) until they are restored to
 * what is returned. */
MB_INLINE unsigned v_flush_subnormals(void)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1u << 24) : "memory");
    return (unsigned)before;
}
MB_INLINE void v_restore_subnormals(unsigned before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before) : "memory");
}

/* ---- memory ---- */

/* Bring a line into L1; ask L2 for one. */
MB_INLINE void v_touch(const void *p) { __builtin_prefetch(p, 0, 3); }
MB_INLINE void v_fetch(const void *p) { __builtin_prefetch(p, 0, 2); }

MB_INLINE v_code v_load(const void *p) { return v_from_u8(vld1q_u8(p)); }
/* Of loading a vector again and holding it the compiler takes the cheaper. */
MB_INLINE v_code v_keep(v_code v) { return v; }
MB_INLINE void v_store(void *p, v_code v) { vst1q_u8(p, v_u8(v)); }
MB_INLINE v_float v_load_float(const float *p) { return vld1q_f32(p); }
MB_INLINE void v_store_float(float *p, v_float v) { vst1q_f32(p, v); }

/* The first `count` floats only; nothing behind them is touched. */
MB_INLINE v_float v_load_some(const float *p, size_t count)
{
    const float32x2_t zero = vdup_n_f32(0);
    switch (count) {
    case 0: return vcombine_f32(zero, zero);
    case 1: return vcombine_f32(vld1_lane_f32(p, zero, 0), zero);
    case 2: return vcombine_f32(vld1_f32(p), zero);
    case 3: return vcombine_f32(vld1_f32(p), vld1_lane_f32(p + 2, zero, 0));
    default: return v_load_float(p);
    }
}
MB_INLINE void v_store_some(float *p, v_float v, size_t count)
{
    switch (count) {
    case 0: break;
    case 1: vst1q_lane_f32(p, v, 0); break;
    case 2: vst1_f32(p, vget_low_f32(v)); break;
    case 3:
        vst1_f32(p, vget_low_f32(v));
        vst1q_lane_f32(p + 2, v, 2);
        break;
    default: v_store_float(p, v);
    }
}

/* A dword anywhere. */
typedef int32_t __attribute__((may_alias, aligned(1))) v_dword;
/* Four bytes, one float, in every lane. */
MB_INLINE v_code v_broadcast4(const void *p) { return vdupq_n_s32(*(const v_dword *)p); }
MB_INLINE v_float v_broadcast_float(const float *p) { return vdupq_n_f32(*p); }

/* ---- codes ---- */

MB_INLINE v_code v_bytes(int byte) { return v_from_u8(vdupq_n_u8((uint8_t)byte)); }
MB_INLINE v_code v_and(v_code a, v_code b) { return vandq_s32(a, b); }
MB_INLINE v_code v_xor(v_code a, v_code b) { return veorq_s32(a, b); }
/* a | (b & mask), where a has no bits of the mask: planes never overlap. */
MB_INLINE v_code v_or_and(v_code a, v_code b, v_code mask)
{
    return v_from_u8(vbslq_u8(v_u8(mask), v_u8(b), v_u8(a)));
}
/* Shift towards bit 0 by n, or away from it by -n, byte by byte. */
MB_INLINE v_code v_shift(v_code v, int n)
{
    return n > 0 ? v_from_u8(v_u8(v) >> n) : n < 0 ? v_from_u8(v_u8(v) << -n) : v;
}
/* The bits of `mask` after a shift towards bit 0, which leaves the topmost field alone. */
MB_INLINE v_code v_bits(v_code v, int n, int mask)
{
    return 0xff >> n == mask ? v_shift(v, n) : v_and(v_shift(v, n), v_bytes(mask));
}
MB_INLINE v_code v_table(const void *table16) { return v_load(table16); }
/* Indexes below 16; the four bits from bit n on. */
MB_INLINE v_code v_lookup(v_code table, v_code index)
{
    return v_from_u8(vqtbl1q_u8(v_u8(table), v_u8(index)));
}
MB_INLINE v_code v_lookup_bits4(v_code table, v_code v, int n)
{
    return v_lookup(table, v_bits(v, n, 15));
}
/* Indexes below 32, a table of 16 for each half of them. */
MB_INLINE v_code v_lookup32(v_code low, v_code high, v_code index)
{
    return v_from_u8(vqtbl2q_u8((uint8x16x2_t){{v_u8(low), v_u8(high)}}, v_u8(index)));
}
#define V_LOOKUP_BY_BIT7 0
#define V_LOOKUP64 0
/* Of byte i of every four: an index in [8 i, 8 i + 8) into a table in memory, in [16 i, 16 i + 16).
 */
MB_INLINE v_code v_lookup_columns8(const uint8_t *table32, v_code index)
{
    return v_from_u8(vqtbl2q_u8(vld1q_u8_x2(table32), v_u8(index)));
}
MB_INLINE v_code v_lookup_columns16(const uint8_t *table64, v_code index)
{
    return v_from_u8(vqtbl4q_u8(vld1q_u8_x4(table64), v_u8(index)));
}

/* ---- integers ---- */

/* sum + pairs of int16 . pairs of int16, for the minima. */
MB_INLINE v_int v_dot2(v_int sum, v_int a, v_int b)
{
    const int16x8_t p = vreinterpretq_s16_s32(a), q = vreinterpretq_s16_s32(b);
    const int32x4_t low = vmull_s16(vget_low_s16(p), vget_low_s16(q));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(p, q)));
}
MB_INLINE v_int v_int_add(v_int a, v_int b) { return vaddq_s32(a, b); }
MB_INLINE v_int v_int_sra(v_int v, unsigned n) { return v >> n; }
MB_INLINE v_int v_zero(void) { return vdupq_n_s32(0); }
MB_INLINE v_int v_int_and(v_int a, int b) { return vandq_s32(a, vdupq_n_s32(b)); }
MB_INLINE v_int v_int_shift(v_int v, unsigned n)
{
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(v) >> n);
}

/* ---- floats ---- */

MB_INLINE v_float v_zero_float(void) { return vdupq_n_f32(0); }
MB_INLINE v_float v_to_float(v_int v) { return vcvtq_f32_s32(v); }
MB_INLINE v_float v_mul(v_float a, v_float b) { return vmulq_f32(a, b); }
MB_INLINE v_float v_fma(v_float a, v_float b, v_float c) { return vfmaq_f32(c, a, b); }
MB_INLINE v_float v_fnma(v_float a, v_float b, v_float c) { return vfmsq_f32(c, a, b); }

/* ---- widening loads: V_LANES elements ---- */

MB_INLINE v_float v_load_f16(const void *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
/* The halves of dwords that are pairs of bf16. BFDOT rounds otherwise (to odd), so there is no dot.
 */
#define V_PAIR_DOT 0
MB_INLINE v_float v_pair_low(v_code v) { return vreinterpretq_f32_s32(v << 16); }
MB_INLINE v_float v_pair_high(v_code v)
{
    return vreinterpretq_f32_s32(vandq_s32(v, vdupq_n_s32((int)0xffff0000)));
}
MB_INLINE v_int v_load_u16(const void *p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }
MB_INLINE uint8x8_t v_load_4_bytes(const void *p)
{
    return vreinterpret_u8_s32(vset_lane_s32(*(const v_dword *)p, vdup_n_s32(0), 0));
}
MB_INLINE v_int v_load_u8(const void *p)
{
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(v_load_4_bytes(p)))));
}
MB_INLINE v_int v_load_i8(const void *p)
{
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(v_load_4_bytes(p)))));
}
/* Scales of one byte (kernels/half.h): 2^(e - 128), subnormal for e < 2; half of a UE4M3. */
MB_INLINE v_float v_load_e8m0(const void *p)
{
    const int32x4_t e = v_load_u8(p);
    const int32x4_t normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23);
    const int32x4_t subnormal = vshlq_s32(vdupq_n_s32(0x00200000), e);
    return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), subnormal, normal));
}
MB_INLINE v_float v_load_ue4m3(const void *p)
{
    const uint16x4_t byte = vget_low_u16(vmovl_u8(v_load_4_bytes(p)));
    const uint16x4_t half = vshl_n_u16(vand_u16(byte, vdup_n_u16(0x7f)), 7);
    const uint16x4_t is_zero = vceq_u16(byte, vdup_n_u16(0x7f));
    const float16x4_t value = vreinterpret_f16_u16(vbic_u16(half, is_zero));
    return vmulq_n_f32(vcvt_f32_f16(value), 128);
}
/* [V_LANES][2] bytes -> [V_LANES][2] int16 */
MB_INLINE v_int v_load_u8_pairs(const void *p)
{
    return vreinterpretq_s32_u16(vmovl_u8(vld1_u8(p)));
}
/* The same of the high nibbles. */
MB_INLINE v_int v_load_high_pairs(const void *p)
{
    return vreinterpretq_s32_u16(vmovl_u8(vshr_n_u8(vld1_u8(p), 4)));
}
/* The sixteen 6-bit sub-scales of a super-block (g16x2s6) as int8, even groups first: out[g % 2][g
 * / 2][row]. Two pairs of groups share 16 bytes of high bits. */
MB_INLINE void v_sub_scales6(const uint8_t *sub_scale, int8_t out[2][8][16])
{
    const uint8x16_t low_mask = vdupq_n_u8(0x0f), all = vdupq_n_u8(0x3f);
    const int8x16_t bias = vdupq_n_s8(32);
    for (unsigned i = 0; i < 4; i++) {
        uint8x16_t high = vld1q_u8(sub_scale + 128 + 16 * i);
        for (unsigned half = 0; half < 2; half++, high = vshrq_n_u8(high, 4)) {
            const uint8x16_t low = vld1q_u8(sub_scale + 32 * i + 16 * half);
            const uint8x16_t even = vbslq_u8(low_mask, low, vshlq_n_u8(high, 4));
            const uint8x16_t odd = vbslq_u8(low_mask, vshrq_n_u8(low, 4), vshlq_n_u8(high, 2));
            vst1q_s8(out[0][2 * i + half],
                     vsubq_s8(vreinterpretq_s8_u8(vandq_u8(even, all)), bias));
            vst1q_s8(out[1][2 * i + half], vsubq_s8(vreinterpretq_s8_u8(vandq_u8(odd, all)), bias));
        }
    }
}

/* ---- integer-only outputs ---- */

/* In every lane zero + floor((acc * mantissa + 2^(shift - 1)) / 2^shift), saturated to int8
 * (kernels/integer.h): SRSHL shifts 64 bits to the right, rounded, where its count is negative. */
MB_INLINE v_int v_requantize(v_int acc, v_int mantissa, v_int shift, int32_t zero)
{
    const int32x4_t back = vnegq_s32(shift);
    const int64x2_t low = vrshlq_s64(vmull_s32(vget_low_s32(acc), vget_low_s32(mantissa)),
                                     vmovl_s32(vget_low_s32(back)));
    const int64x2_t high = vrshlq_s64(vmull_high_s32(acc, mantissa), vmovl_high_s32(back));
    const int32x4_t y = vqmovn_high_s64(vqmovn_s64(low), high);
    const int32x4_t clamped =
        vmaxq_s32(vminq_s32(y, vdupq_n_s32(127 - zero)), vdupq_n_s32(-128 - zero));
    return vaddq_s32(clamped, vdupq_n_s32(zero));
}
/* The first `count` lanes as bytes. */
MB_INLINE void v_store_bytes(int8_t *p, v_int v, size_t count)
{
    const int16x4_t words = vmovn_s32(v);
    int8_t some[8];
    vst1_s8(some, vmovn_s16(vcombine_s16(words, words)));
    memcpy(p, some, count < V_LANES ? count : V_LANES);
}

/* ---- preparing activations ---- */

/* V_LANES floats as bf16, round to nearest even; a NaN stays one, quiet. */
MB_INLINE void v_store_bf16(void *p, v_float x)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16);
    const uint32x4_t sum = bits + (vdupq_n_u32(0x7fff) + (upper & vdupq_n_u32(1)));
    const uint32x4_t quiet = upper | vdupq_n_u32(0x40);
    vst1_u16(p, vmovn_u32(vbslq_u32(vceqq_f32(x, x), vshrq_n_u32(sum, 16), quiet)));
}

/* A comparison, not FMAXNM: what is no number, signalling or not, takes no part. */
MB_INLINE v_float v_abs_max(v_float x, v_float max)
{
    const float32x4_t size = vabsq_f32(x);
    return vbslq_f32(vcgtq_f32(size, max), size, max);
}
MB_INLINE float v_reduce_max(v_float v) { return vmaxvq_f32(v); }
/* 16 floats -> 16 int8 at p, round to nearest even; FCVTNS makes 0 of what is no number. Returns
 * their sum. */
MB_INLINE int v_quantize16(const float *x, float inverse, int8_t *p)
{
    int32x4_t q[4];
    for (unsigned i = 0; i < 4; i++)
        q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse));
    const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    const int8x16_t codes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(p, codes);
    return vaddlvq_s8(codes);
}

/* ---- signs taken apart: never reached, V_FLIPPED_SIGNS is 0 ---- */

MB_INLINE v_int v_sum_negatives(v_int sum, v_code code) { return (void)code, sum; }

#endif
