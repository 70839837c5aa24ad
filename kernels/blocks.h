/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF's weight blocks, byte for byte as they lie in a file (little-endian).
 *
 * Every member is an array of bytes, so a block needs no alignment and no byte swap: multi-byte
 * members are read with mb_load_u16 and written with mb_store_u16 (u32 likewise). What the bytes
 * mean is told in the family's own file (format_legacy.c, format_k.c ...). */
#ifndef MIXBIT_KERNELS_BLOCKS_H
#define MIXBIT_KERNELS_BLOCKS_H

#include <assert.h>
#include <stdint.h>

static inline uint16_t mb_load_u16(const uint8_t bytes[2])
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline void mb_store_u16(uint8_t bytes[2], uint16_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

static inline uint32_t mb_load_u32(const uint8_t bytes[4])
{
    return (uint32_t)mb_load_u16(bytes) | (uint32_t)mb_load_u16(bytes + 2) << 16;
}

static inline void mb_store_u32(uint8_t bytes[4], uint32_t value)
{
    mb_store_u16(bytes, (uint16_t)value);
    mb_store_u16(bytes + 2, (uint16_t)(value >> 16));
}

/* 32 weights */
struct mb_block_q4_0 {
    uint8_t d[2];
    uint8_t nibbles[16];
};
struct mb_block_q4_1 {
    uint8_t d[2], min[2];
    uint8_t nibbles[16];
};
struct mb_block_q5_0 {
    uint8_t d[2];
    uint8_t high[4];
    uint8_t nibbles[16];
};
struct mb_block_q5_1 {
    uint8_t d[2], min[2];
    uint8_t high[4];
    uint8_t nibbles[16];
};
struct mb_block_q8_0 {
    uint8_t d[2];
    uint8_t codes[32];
};
struct mb_block_iq4_nl {
    uint8_t d[2];
    uint8_t nibbles[16];
};

struct mb_block_mxfp4 {
    uint8_t e;
    uint8_t nibbles[16];
};

/* 64 weights */
struct mb_block_nvfp4 {
    uint8_t scales[4];
    uint8_t nibbles[32];
};

/* 256 weights */
struct mb_block_q2_K {
    uint8_t scales[16];
    uint8_t pairs[64];
    uint8_t d[2], dmin[2];
};
struct mb_block_q3_K {
    uint8_t high[32];
    uint8_t pairs[64];
    uint8_t scales[12];
    uint8_t d[2];
};
struct mb_block_q4_K {
    uint8_t d[2], dmin[2];
    uint8_t scales[12];
    uint8_t nibbles[128];
};
struct mb_block_q5_K {
    uint8_t d[2], dmin[2];
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t nibbles[128];
};
struct mb_block_q6_K {
    uint8_t nibbles[128];
    uint8_t pairs[64];
    uint8_t scales[16];
    uint8_t d[2];
};
struct mb_block_iq4_xs {
    uint8_t d[2];
    uint8_t scales_high[2];
    uint8_t scales_low[4];
    uint8_t nibbles[128];
};
struct mb_block_tq1_0 {
    uint8_t fives[48];
    uint8_t fours[4];
    uint8_t d[2];
};
struct mb_block_tq2_0 {
    uint8_t pairs[64];
    uint8_t d[2];
};
struct mb_block_iq1_s {
    uint8_t d[2];
    uint8_t index[32];
    uint8_t high[8][2];
};
struct mb_block_iq1_m {
    uint8_t index[32];
    uint8_t high[16];
    uint8_t scales[4][2];
};
struct mb_block_iq2_xxs {
    uint8_t d[2];
    struct {
        uint8_t index[4];
        uint8_t signs[4];
    } group[8];
};
struct mb_block_iq2_xs {
    uint8_t d[2];
    uint8_t index[32][2];
    uint8_t scales[8];
};
struct mb_block_iq2_s {
    uint8_t d[2];
    uint8_t index[32];
    uint8_t signs[32];
    uint8_t high[8];
    uint8_t scales[8];
};
struct mb_block_iq3_xxs {
    uint8_t d[2];
    uint8_t index[64];
    uint8_t signs[8][4];
};
struct mb_block_iq3_s {
    uint8_t d[2];
    uint8_t index[64];
    uint8_t high[8];
    uint8_t signs[32];
    uint8_t scales[4];
};

static_assert(sizeof(struct mb_block_q4_0) == 18, "q4_0 block");
static_assert(sizeof(struct mb_block_q4_1) == 20, "q4_1 block");
static_assert(sizeof(struct mb_block_q5_0) == 22, "q5_0 block");
static_assert(sizeof(struct mb_block_q5_1) == 24, "q5_1 block");
static_assert(sizeof(struct mb_block_q8_0) == 34, "q8_0 block");
static_assert(sizeof(struct mb_block_iq4_nl) == 18, "iq4_nl block");
static_assert(sizeof(struct mb_block_q2_K) == 84, "q2_K block");
static_assert(sizeof(struct mb_block_q3_K) == 110, "q3_K block");
static_assert(sizeof(struct mb_block_q4_K) == 144, "q4_K block");
static_assert(sizeof(struct mb_block_q5_K) == 176, "q5_K block");
static_assert(sizeof(struct mb_block_q6_K) == 210, "q6_K block");
static_assert(sizeof(struct mb_block_iq4_xs) == 136, "iq4_xs block");
static_assert(sizeof(struct mb_block_mxfp4) == 17, "mxfp4 block");
static_assert(sizeof(struct mb_block_nvfp4) == 36, "nvfp4 block");
static_assert(sizeof(struct mb_block_tq1_0) == 54, "tq1_0 block");
static_assert(sizeof(struct mb_block_tq2_0) == 66, "tq2_0 block");
static_assert(sizeof(struct mb_block_iq1_s) == 50, "iq1_s block");
static_assert(sizeof(struct mb_block_iq1_m) == 56, "iq1_m block");
static_assert(sizeof(struct mb_block_iq2_xxs) == 66, "iq2_xxs block");
static_assert(sizeof(struct mb_block_iq2_xs) == 74, "iq2_xs block");
static_assert(sizeof(struct mb_block_iq2_s) == 82, "iq2_s block");
static_assert(sizeof(struct mb_block_iq3_xxs) == 98, "iq3_xxs block");
static_assert(sizeof(struct mb_block_iq3_s) == 110, "iq3_s block");

#endif
