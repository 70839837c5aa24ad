/* SPDX-License-Identifier: Apache-2.0 */
/* The grids of ggml's formats below 4 bits: a few bits name a whole vector of 4 or 8 levels.
 *
 * Kernels never see a grid. A panel holds each weight's own code (codings grid1, grid2, grid3,
 * odd4: 3 or 4 bits into a table), so decoding is that of any table; what a grid saves in the file
 * is spent again in memory. Split looks an entry up, join finds its number by bisection. */
#ifndef MIXBIT_KERNELS_GRIDS_H
#define MIXBIT_KERNELS_GRIDS_H

#include <stdbool.h>
#include <stdint.h>

struct mb_grid {
    const uint16_t *entries; /* rising; the level of weight j in bits [bits * j, bits * (j + 1)) */
    const uint16_t *runs;    /* first entry of each run with the same upper half, then count */
    uint16_t count, run_count;
    uint8_t weights, bits; /* per entry, per weight: 8 x 2 or 4 x 3 */
};

/* Levels: iq2 8, 25, 43 of an eighth; iq3_xxs 4, 12 .. 44, 52, 62 of a quarter; iq3_s 1, 3 .. 15;
 * iq1 -1, 0, 1. */
extern const struct mb_grid mb_grid_iq2_xxs, mb_grid_iq2_xs, mb_grid_iq2_s, mb_grid_iq3_xxs,
    mb_grid_iq3_s, mb_grid_iq1_s;

/* The number of an entry. What is no entry gets the number of a neighbour: only blocks that split
 * never gave can ask for it. */
static inline unsigned mb_grid_find(const struct mb_grid *grid, unsigned entry)
{
    unsigned low = 0, count = grid->count;
    while (count > 1) {
        const unsigned half = count / 2;
        if (grid->entries[low + half] <= entry)
            low += half;
        count -= half;
    }
    return low;
}

/* Codes of levels with a sign, in the order of their values: level m is the first code above the
 * middle plus m, a negative one the same from below. grid3, odd4: 8 magnitudes, 16 codes; grid2: 3
 * magnitudes of 8 codes, the two in the middle not used. */
static inline unsigned mb_grid_middle(const struct mb_grid *grid)
{
    return grid->bits == 3 ? 8 : 5;
}
static inline unsigned mb_grid_top(const struct mb_grid *grid) { return grid->bits == 3 ? 15 : 7; }

static inline uint8_t mb_grid_code(const struct mb_grid *grid, unsigned level, bool negative)
{
    const unsigned positive = mb_grid_middle(grid) + level;
    return (uint8_t)(negative ? positive ^ mb_grid_top(grid) : positive);
}

/* Entry number `index` with `signs` (bit j: weight j is negative) to codes. */
static inline void mb_grid_split(const struct mb_grid *grid, unsigned index, unsigned signs,
                                 uint8_t *code)
{
    const unsigned entry = grid->entries[index], mask = (1u << grid->bits) - 1;
    for (unsigned j = 0; j < grid->weights; j++)
        code[j] = mb_grid_code(grid, entry >> grid->bits * j & mask, signs >> j & 1);
}

/* The inverse: the entry's number, and its signs. */
static inline unsigned mb_grid_join(const struct mb_grid *grid, const uint8_t *code,
                                    unsigned *signs)
{
    const unsigned middle = mb_grid_middle(grid), top = mb_grid_top(grid);
    unsigned entry = 0;
    *signs = 0;
    for (unsigned j = 0; j < grid->weights; j++) {
        const unsigned negative = code[j] <= top / 2;
        const unsigned positive = negative ? code[j] ^ top : code[j];
        entry |= (positive >= middle ? positive - middle : 0) << grid->bits * j;
        *signs |= negative << j;
    }
    return mb_grid_find(grid, entry);
}

/* Some formats spend 7 bits on 8 signs: the number of minuses is even, the last bit follows. */
static inline unsigned mb_signs_from_seven(unsigned seven)
{
    unsigned parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    return seven | ((parity ^ parity >> 1) & 1) << 7;
}

/* iq1: level t of weights that are all shifted up or down by 1/8 is 8 t +- 1 of an eighth: codes in
 * the order of the values, odd ones are shifted up. */
static inline void mb_grid1_split(unsigned index, bool down, uint8_t *code)
{
    static const uint8_t code_of[2][4] = {{1, 5, 7, 0}, {0, 2, 6, 0}};
    const unsigned entry = mb_grid_iq1_s.entries[index];
    for (unsigned j = 0; j < 8; j++)
        code[j] = code_of[down][entry >> 2 * j & 3];
}

static inline unsigned mb_grid1_join(const uint8_t *code, bool *down)
{
    static const uint8_t level_of[8] = {0, 0, 1, 0, 0, 1, 2, 2};
    unsigned entry = 0;
    for (unsigned j = 0; j < 8; j++)
        entry |= (unsigned)level_of[code[j] & 7] << 2 * j;
    *down = code[0] % 2 == 0;
    return mb_grid_find(&mb_grid_iq1_s, entry);
}

#endif
