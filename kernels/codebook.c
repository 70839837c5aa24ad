/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of codebook matrices, and their scalar kernel: the numbers of codebook.h written out. */
#include "kernels/codebook.h"

#include "kernels/half.h"
#include "kernels/kernel.h"

#include <math.h>
#include <string.h>

const uint8_t mb_table_own[16] = {0};
const uint8_t mb_column_numbers[5][4] = {
    {0}, {0, 2, 4, 6}, {0, 4, 8, 12}, {0, 8, 16, 24}, {0, 16, 32, 48}};

/* ---- levels ---- */

static double misfit(const float *levels, size_t count, double unit)
{
    double error = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = (double)levels[i] - unit * rint((double)levels[i] / unit);
        error += off * off;
    }
    return error;
}

float mb_codebook_unit(const float *levels, unsigned bits)
{
    const size_t count = (size_t)1 << bits;
    const int most = mb_codebook_largest(bits);
    double largest = 0;
    for (size_t i = 0; i < count; i++) /* no fmax: gcc 12 for ARM fails at a chain of those */
        largest = fabs((double)levels[i]) > largest ? fabs((double)levels[i]) : largest;
    if (largest == 0)
        return 1;
    double best = largest / most, least = misfit(levels, count, best);
    for (int steps = most - 1; steps > most / 2; steps--) {
        const double unit = largest / steps, error = misfit(levels, count, unit);
        if (error < least) {
            least = error;
            best = unit;
        }
    }
    return fmaxf((float)best, 0x1p-126f); /* levels of subnormals have fewer steps */
}

uint8_t mb_codebook_level(float level, float unit, unsigned bits)
{
    const double steps = rint((double)level / (double)unit), most = mb_codebook_largest(bits);
    return (uint8_t)(128 + (int)(steps > most ? most : steps < -most ? -most : steps));
}

/* ---- packing ---- */

/* A chunk by itself. */
static struct mb_superblock chunk_of(const struct mb_codebook_run *run)
{
    struct mb_superblock at = mb_superblock_layout((enum mb_coding)run->coding, MB_SCALE_G32);
    at.k = MB_CHUNK_K;
    return at;
}

void mb_codebook_pack_lane(const struct mb_codebook *book, uint8_t *panel, size_t lane,
                           const uint8_t *code)
{
    for (size_t i = 0; i < book->run_count; i++) {
        const struct mb_codebook_run *run = &book->runs[i];
        const struct mb_superblock at = chunk_of(run);
        uint8_t *to = panel + mb_codebook_superblock(run) + 4 * lane;
        for (uint32_t c = 0; c < run->chunks; c++, to += at.chunk_bytes, code += MB_CHUNK_K)
            mb_panel_put_codes(&at, (enum mb_coding)run->coding, code, to);
    }
}

void mb_codebook_pack_scale(uint8_t *scales, size_t lane, uint16_t half)
{
    memcpy(scales + 2 * lane, &half, sizeof half);
}

/* ---- the scalar kernel ---- */

/* The bytes that chunk c of a run stands for in one lane, and its scale. */
static float decode_chunk(const struct mb_codebook *book, const struct mb_codebook_run *run,
                          const uint8_t *panel, uint32_t c, size_t lane, uint8_t level[MB_CHUNK_K])
{
    const struct mb_superblock at = chunk_of(run);
    uint16_t half;
    mb_panel_get_codes(&at, (enum mb_coding)run->coding,
                       panel + mb_codebook_superblock(run) + c * at.chunk_bytes + 4 * lane, level);
    for (size_t i = 0; i < MB_CHUNK_K && run->coding != MB_CODING_B8; i++)
        level[i] = mb_codebook_entries(book, run, c * MB_CHUNK_K + i)[level[i]];
    memcpy(&half, panel + run->scale + 2 * lane, sizeof half);
    return mb_half_to_float(half);
}

static void multiply_lane(const struct mb_codebook_args *a, const uint8_t *panel, size_t j)
{
    for (size_t r = 0; r < a->m; r++)
        a->y[r * a->y_stride + j] = 0;
    for (size_t i = 0; i < a->book->run_count; i++) {
        const struct mb_codebook_run *run = &a->book->runs[i];
        for (uint32_t c = 0; c < run->chunks; c++) {
            uint8_t level[MB_CHUNK_K];
            const float d = decode_chunk(a->book, run, panel, c, j % MB_PANEL_ROWS, level);
            const size_t chunk = run->chunk + c;
            for (size_t r = 0; r < a->m; r++) {
                const uint8_t *record = a->activations + r * a->layout->row_bytes;
                const int8_t *q = (const int8_t *)record + chunk * MB_CHUNK_K;
                const float *as = (const float *)(const void *)(record + a->layout->scale);
                float *y = &a->y[r * a->y_stride + j];
                int32_t dot = 0;
                for (size_t k = 0; k < MB_CHUNK_K; k++)
                    dot += (level[k] - 128) * q[k];
                *y = fmaf((float)dot, d * as[chunk], *y);
            }
        }
    }
}

static void multiply(const struct mb_codebook_args *args)
{
    for (size_t j = 0; j < args->n; j++)
        multiply_lane(args, args->panels + j / MB_PANEL_ROWS * args->panel_bytes, j);
    mb_codebook_add_all(args);
}

static void decode(const struct mb_codebook *book, const uint8_t *panel, size_t chunk0,
                   size_t chunks, const struct mb_decoded *out)
{
    for (size_t i = 0; i < book->run_count; i++) {
        const struct mb_codebook_run *run = &book->runs[i];
        for (uint32_t c = 0; c < run->chunks; c++)
            for (size_t lane = 0; lane < MB_PANEL_ROWS; lane++) {
                const size_t to = run->chunk + c - chunk0; /* wraps below chunk0 */
                uint8_t level[MB_CHUNK_K];
                if (to >= chunks)
                    continue;
                out->scale[to * MB_PANEL_ROWS + lane] =
                    decode_chunk(book, run, panel, c, lane, level);
                for (size_t k = 0; k < MB_CHUNK_K; k++)
                    out->code[(to * MB_CHUNK_K + k / 4 * 4) * MB_PANEL_ROWS + 4 * lane + k % 4] =
                        level[k];
            }
    }
}

const struct mb_codebook_ops mb_codebook_reference = {multiply, decode, mb_codebook_add_all};
