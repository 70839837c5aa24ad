/* SPDX-License-Identifier: Apache-2.0 */
/* Codes of 4 and 2 bits as ggml's blocks keep them: bits of several runs of weights lie on top of
 * each other, so that a vector of bytes holds whole runs. */
#ifndef MIXBIT_KERNELS_BITFIELDS_H
#define MIXBIT_KERNELS_BITFIELDS_H

#include <stdint.h>

/* In each run of bytes, bits 0-3 of byte j are weight j of 2 * run weights, bits 4-7 weight j +
 * run.
 */
static inline void mb_split_nibbles(const uint8_t *nibbles, unsigned bytes, unsigned run,
                                    uint8_t *code)
{
    for (unsigned i = 0; i < bytes; i += run)
        for (unsigned j = 0; j < run; j++) {
            code[2 * i + j] = nibbles[i + j] & 15;
            code[2 * i + run + j] = nibbles[i + j] >> 4;
        }
}

static inline void mb_join_nibbles(const uint8_t *code, unsigned bytes, unsigned run,
                                   uint8_t *nibbles)
{
    for (unsigned i = 0; i < bytes; i += run)
        for (unsigned j = 0; j < run; j++)
            nibbles[i + j] = (uint8_t)((code[2 * i + j] & 15) | code[2 * i + run + j] << 4);
}

/* 256 weights in 64 bytes: bits 2r .. 2r + 1 of byte 32 * h + l are weight 128 * h + 32 * r + l,
 * here bits `shift` and up of its code. Splitting adds them to the codes. */
static inline void mb_split_pairs(const uint8_t pairs[64], unsigned shift, uint8_t code[256])
{
    for (unsigned h = 0; h < 2; h++)
        for (unsigned r = 0; r < 4; r++)
            for (unsigned l = 0; l < 32; l++)
                code[128 * h + 32 * r + l] |= (uint8_t)((pairs[32 * h + l] >> 2 * r & 3) << shift);
}

static inline void mb_join_pairs(const uint8_t code[256], unsigned shift, uint8_t pairs[64])
{
    for (unsigned h = 0; h < 2; h++)
        for (unsigned l = 0; l < 32; l++) {
            unsigned bits = 0;
            for (unsigned r = 0; r < 4; r++)
                bits |= (code[128 * h + 32 * r + l] >> shift & 3u) << 2 * r;
            pairs[32 * h + l] = (uint8_t)bits;
        }
}

#endif
