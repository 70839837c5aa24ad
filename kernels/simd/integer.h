/* SPDX-License-Identifier: Apache-2.0 */
/* The body of integer-only products (kernels/integer.h), written once on the verbs of an ISA.
 *
 * A panel's codes are what a dot reads, so for each nr columns every tile of rows goes through all
 * of k with its sums in registers, and comes out as int8. What a sum starts from differs: unsigned
 * codes stand 128 too high, which costs 128 times the sum of the activations, one number a row;
 * codes that are taken apart into sizes and signs leave a constant out, one number a column.
 *
 * Few rows read one panel at a time, as one rising stream, with several sums a column: the latency
 * of a dot would bound a single one. Many rows re-read nr columns from L2 for every tile, and keep
 * a block of activations there beside them. 64 k of a tile's rows at a time are copied to where
 * they lie side by side.
 *
 * Registers, 12 x 2 on AVX-512: 24 sums, 2 codes, 1 activation; 6 x 2 of ymm: 12, a code as size
 * and sign, an activation. Requantizing takes some 20 operations per register of outputs, against
 * k / 4 dots: 2 % at k = 4096. */
#ifndef MIXBIT_KERNELS_SIMD_INTEGER_H
#define MIXBIT_KERNELS_SIMD_INTEGER_H

#include "kernels/simd/gemv.h"

/* Rows of a block: 512 KB of activations, but enough rows to pay for reading the weights again. */
enum {
    MB_INTEGER_BLOCK = 256,
    MB_INTEGER_LEAST_BLOCK = 96,
    MB_INTEGER_BLOCK_BYTES = 512 * 1024,
    MB_INTEGER_CHAINS = 4,
    MB_INTEGER_FEW = 4,       /* rows up to which panels go one at a time */
    MB_INTEGER_AHEAD = 16384, /* bytes: as in gemv, where rows make the stream slow */
    MB_INTEGER_STEP_BYTES = MB_INTEGER_STEP * MB_PANEL_ROWS,
    MB_INTEGER_CHUNK = 64 /* bytes of a row that are brought near at once */
};

/* A block of rows, and what the sums of each start from. */
struct mb_integer_block {
    const struct mb_integer_args *args;
    size_t row0, m;
    int32_t start[MB_INTEGER_BLOCK];
};

MB_INLINE v_int mb_integer_dot(v_int sum, v_code code, v_act act)
{
    return V_FLIPPED_SIGNS ? v_dot_fold(sum, v_dot_flipped(code, act), 255)
                           : mb_dot(sum, code, act, 255);
}

typedef mb_tile_int mb_integer_sums[MB_INTEGER_CHAINS];

typedef uint8_t mb_integer_near[MB_TILE_ROWS][MB_INTEGER_CHUNK];

/* 16 k; `codes` points at those of the first panel, k counts from the start of what is near. */
MB_INLINE void mb_integer_step(const uint8_t *codes, size_t panel_bytes, mb_integer_near x,
                               size_t k, const unsigned rows, const unsigned registers,
                               const unsigned chains, mb_integer_sums sums)
{
    const unsigned count = V_FLIPPED_SIGNS ? 1 : v_dot_registers(registers);
    MB_EACH (q, MB_INTEGER_STEP / 4)
        MB_EACH (block, registers / count) {
            v_code code[MB_TILE_REGISTERS];
            MB_EACH (j, count) {
                const unsigned v = block * count + j;
                code[j] =
                    v_load(codes + v / V_PARTS * panel_bytes + q * 64 + v % V_PARTS * V_BYTES);
                if (V_SIGNED_CODES)
                    code[j] = v_xor(code[j], v_bytes(0x80));
            }
            MB_EACH (r, rows) {
                const v_act act = v_load_act(x[r] + k, q);
                MB_EACH (j, count) {
                    v_int *sum = &sums[q % chains][r][block * count + j];
                    *sum = mb_integer_dot(*sum, code[j], act);
                }
            }
        }
}

/* Sums of a tile, once all of k is in them, to y. */
MB_INLINE void mb_integer_finish(const struct mb_integer_block *b, const uint8_t *panel,
                                 size_t column, size_t row, size_t count, const unsigned rows,
                                 const unsigned registers, const unsigned chains,
                                 mb_integer_sums sums)
{
    const struct mb_integer_args *a = b->args;
    MB_EACH (v, registers) {
        const struct mb_integer_header *header =
            (const void *)(panel + v / V_PARTS * a->panel_bytes);
        const size_t lane = v % V_PARTS * V_LANES, at = column + v * V_LANES;
        const v_int mantissa = v_load(header->mantissa + lane),
                    shift = v_load(header->shift + lane);
        MB_EACH (r, rows) {
            if (r >= count)
                continue;
            v_int sum = sums[0][r][v];
            MB_EACH (c, chains)
                sum = c > 0 ? v_int_add(sum, sums[c][r][v]) : sum;
            v_store_bytes(a->y + (b->row0 + row + r) * a->y_stride + at,
                          v_requantize(sum, mantissa, shift, a->zero), a->n > at ? a->n - at : 0);
        }
    }
}

/* A chunk of each row from k0 on, or the `left` bytes that there are, padded with zeros. Rows lie
 * wherever the caller has them, 4096 bytes apart for example, and then share a set of L1: read
 * dword by dword among 12 rows a line would come from L2 every time, at the cost of a fifth of the
 * rate on Zen 4. A chunk comes while the one before it is multiplied. */
MB_INLINE void mb_integer_bring(const uint8_t *const *x, size_t k0, size_t left,
                                const unsigned rows, mb_integer_near near)
{
    if (left >= MB_INTEGER_CHUNK) {
        MB_EACH (r, rows)
            memcpy(near[r], x[r] + k0, MB_INTEGER_CHUNK);
        return;
    }
    for (unsigned r = 0; r < rows; r++) {
        memset(near[r], 0, MB_INTEGER_CHUNK);
        memcpy(near[r], x[r] + k0, left);
    }
}

/* Rows [row, row + count) of a block times `panels` panels from `panel` on. `rows` is count rounded
 * up to a height that is compiled: the rows above repeat the last one and are not stored. */
MB_INLINE void mb_integer_tile(const struct mb_integer_block *b, const uint8_t *panel,
                               size_t column, size_t row, size_t count, const unsigned rows,
                               const unsigned panels)
{
    const struct mb_integer_args *a = b->args;
    const unsigned registers = panels * V_PARTS, chains = rows * registers <= 2 ? MB_INTEGER_CHAINS
                                                          : rows * registers <= 4 ? 2
                                                                                  : 1;
    const uint8_t *x[MB_TILE_ROWS];
    _Alignas(64) mb_integer_near near[2]; /* this chunk's and the next one's */
    mb_integer_sums sums;
    MB_EACH (r, rows) {
        const size_t at = row + (r < count ? r : count - 1);
        x[r] = (const uint8_t *)a->x + (b->row0 + at) * a->x_stride;
        MB_EACH (v, registers) {
            const struct mb_integer_header *header =
                (const void *)(panel + v / V_PARTS * a->panel_bytes);
            const size_t lane = v % V_PARTS * V_LANES;
            const v_int start = v_load(header->start + lane);
            sums[0][r][v] = v_int_add(start, V_FLIPPED_SIGNS  ? v_load(header->negatives + lane)
                                             : V_SIGNED_CODES ? v_zero()
                                                              : v_broadcast4(&b->start[at]));
            MB_EACH (c, chains)
                if (c > 0)
                    sums[c][r][v] = v_zero();
        }
    }
    const uint8_t *codes = panel + sizeof(struct mb_integer_header);
    mb_integer_bring(x, 0, a->k, rows, near[0]);
    for (size_t k0 = 0; k0 < a->k; k0 += MB_INTEGER_CHUNK) {
        const size_t rest = a->k - k0, left = rest < MB_INTEGER_CHUNK ? rest : MB_INTEGER_CHUNK;
        const size_t at = k0 / MB_INTEGER_CHUNK % 2;
        if (rest > MB_INTEGER_CHUNK)
            mb_integer_bring(x, k0 + MB_INTEGER_CHUNK, rest - MB_INTEGER_CHUNK, rows, near[1 - at]);
        for (size_t k = 0; k < left; k += MB_INTEGER_STEP, codes += MB_INTEGER_STEP_BYTES) {
            if (panels == 1 && rows > 1)
                MB_EACH (line, MB_INTEGER_STEP_BYTES / 64)
                    v_fetch(codes + MB_INTEGER_AHEAD + line * 64);
            mb_integer_step(codes, a->panel_bytes, near[at], k, rows, registers, chains, sums);
        }
    }
    mb_integer_finish(b, panel, column, row, count, rows, registers, chains, sums);
}

/* All rows of a block: tiles of mr rows, then one of 1, 2, a third, two thirds or all of that. */
MB_INLINE void mb_integer_rows(const struct mb_integer_block *b, const uint8_t *panel,
                               size_t column, const unsigned mr, const unsigned panels)
{
    const unsigned third = mr / 3;
    for (size_t row = 0; row < b->m; row += mr) {
        const size_t count = b->m - row < mr ? b->m - row : mr;
        if (count > 2 * third)
            mb_integer_tile(b, panel, column, row, count, 3 * third, panels);
        else if (count > third && count > 2)
            mb_integer_tile(b, panel, column, row, count, 2 * third, panels);
        else if (count > 2)
            mb_integer_tile(b, panel, column, row, count, third, panels);
        else if (count == 2)
            mb_integer_tile(b, panel, column, row, count, 2, panels);
        else
            mb_integer_tile(b, panel, column, row, count, 1, panels);
    }
}

/* Starts of a block's rows. */
MB_INLINE void mb_integer_begin(struct mb_integer_block *b)
{
    const struct mb_integer_args *a = b->args;
    for (size_t r = 0; r < b->m; r++) {
        const int8_t *x = a->x + (b->row0 + r) * a->x_stride;
        int32_t sum = 0;
        for (size_t i = 0; i < a->k && !V_SIGNED_CODES; i++)
            sum += x[i];
        b->start[r] = -128 * sum;
    }
}

/* The body of every integer_* kernel. */
MB_INLINE void mb_integer(const struct mb_integer_args *a, const unsigned mr, const unsigned nr)
{
    const size_t fit = MB_INTEGER_BLOCK_BYTES / (a->k + 1);
    const size_t most = fit < MB_INTEGER_LEAST_BLOCK ? MB_INTEGER_LEAST_BLOCK
                        : fit > MB_INTEGER_BLOCK     ? MB_INTEGER_BLOCK
                                                     : fit;
    const size_t blocks = (a->m + most - 1) / most;
    struct mb_integer_block block = {.args = a};
    for (size_t i = 0; i < blocks; i++, block.row0 += block.m) {
        block.m = (a->m - block.row0 + blocks - i - 1) / (blocks - i); /* nearly equal */
        mb_integer_begin(&block);
        size_t j = 0;
        for (; nr > MB_PANEL_ROWS && block.m > MB_INTEGER_FEW && j + MB_PANEL_ROWS < a->n; j += nr)
            mb_integer_rows(&block, a->panels + j / MB_PANEL_ROWS * a->panel_bytes, j, mr,
                            nr / MB_PANEL_ROWS);
        for (; j < a->n; j += MB_PANEL_ROWS)
            mb_integer_rows(&block, a->panels + j / MB_PANEL_ROWS * a->panel_bytes, j, mr, 1);
    }
}

#endif
