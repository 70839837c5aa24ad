/* SPDX-License-Identifier: Apache-2.0 */
/* The loop nest of the buffered GEMM, for every ISA.
 *
 *   for each block of rows
 *     for each run of k              the block's activations of this run stay in L2
 *       for each nr columns of y     decode nr / 16 panels of the run into the workspace: L1, L2
 *         all rows of the block      the ISA's tile
 *
 * A code is decoded once per block of rows, so decoding costs 1 / rows of the multiplication, and
 * the workspace is a few tens of KB. f32 needs no decoding: its panels are what a tile reads. */
#include "kernels/kernel.h"

/* Rows of a block: about half an L2 of records, but enough to pay for decoding. */
enum { MAX_PANELS = 4, BLOCK_BYTES = 512 * 1024, MIN_BLOCK_ROWS = 96 };

/* Where a decoded panel's arrays stand in its part of the workspace; all are multiples of 64. */
struct offsets {
    size_t scale, d, min, min_pairs, bytes;
};

static bool in_place(const struct mb_gemm_plan *plan)
{
    return plan->decode == NULL || plan->decode->coding == MB_CODING_F32 ||
           plan->gemm->activation == MB_ACTIVATION_BF16;
}

/* What stands in place is floats of the gemm's own kind. */
static enum mb_scale_kind scale_of(const struct mb_gemm_plan *plan)
{
    return in_place(plan) ? plan->gemm->scale : plan->decode->scale;
}

/* Weights per run: whole super-blocks, at least one. */
static size_t run_k(const struct mb_gemm_plan *plan)
{
    const size_t step = mb_run_step(scale_of(plan), plan->gemm->activation);
    return plan->k_block < step ? step : plan->k_block / step * step;
}

static struct offsets panel_offsets(const struct mb_gemm_plan *plan)
{
    const size_t k = run_k(plan), line = MB_PANEL_ROWS * sizeof(float);
    const enum mb_scale_kind scale = plan->decode->scale;
    if (mb_coding_is_float(plan->decode->coding))
        return (struct offsets){.bytes = k * line};
    const size_t groups = k / mb_scale_group(scale), superblocks = k / mb_scale_superblock_k(scale);
    const bool two_level = mb_scale_two_level(scale), has_min = mb_scale_has_min(scale);
    struct offsets at = {.scale = k * MB_PANEL_ROWS};
    at.d = at.scale + groups * line;
    at.min = at.d + (two_level ? superblocks * line : 0);
    at.min_pairs = at.min + (has_min ? (two_level ? superblocks : groups) * line : 0);
    at.bytes = at.min_pairs + (two_level && has_min ? groups / 2 * line : 0);
    return at;
}

size_t mb_gemm_workspace_bytes(const struct mb_gemm_plan *plan)
{
    return in_place(plan) ? 0 : plan->gemm->nr / MB_PANEL_ROWS * panel_offsets(plan).bytes;
}

/* AVX2 wants codes beyond 63 signed, others unsigned: a plan that mixes ISAs flips the top bit. */
static void flip_codes(uint8_t *code, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        code[i] ^= 0x80;
}

/* Decode `count` panels' super-blocks [k0, k0 + k) and say where they are. */
static void decode_run(const struct mb_gemm_plan *plan, const uint8_t *panels, size_t panel_bytes,
                       size_t count, size_t k0, size_t k, uint8_t *workspace,
                       struct mb_decoded out[MAX_PANELS])
{
    if (in_place(plan)) {
        for (size_t p = 0; p < count; p++) {
            const size_t width =
                plan->gemm->activation == MB_ACTIVATION_BF16 ? sizeof(uint16_t) : sizeof(float);
            union {
                const uint8_t *packed;
                uint8_t *code;
                float *scale;
            } at = {panels + p * panel_bytes + k0 * MB_PANEL_ROWS * width};
            out[p] = (struct mb_decoded){.code = at.code, .scale = at.scale};
        }
        return;
    }
    const struct mb_kernel *decode = plan->decode;
    const struct mb_superblock block = mb_superblock_layout(decode->coding, decode->scale);
    const struct offsets at = panel_offsets(plan);
    for (size_t p = 0; p < count; p++, workspace += at.bytes) {
        out[p] = (struct mb_decoded){
            .code = workspace,
            .scale = (float *)(void *)(workspace + at.scale),
            .d = (float *)(void *)(workspace + at.d),
            .min = (float *)(void *)(workspace + at.min),
            .min_pairs = (int16_t *)(void *)(workspace + at.min_pairs),
        };
        if (plan->codebook != NULL)
            decode->fn.codebook->decode(plan->codebook, panels + p * panel_bytes, k0 / MB_CHUNK_K,
                                        k / MB_CHUNK_K, &out[p]);
        else
            decode->fn.decode(panels + p * panel_bytes + k0 / block.k * block.bytes, k / block.k,
                              &out[p]);
        if (decode->signed_codes != plan->gemm->signed_codes && mb_coding_max(decode->coding) > 127)
            flip_codes(out[p].code, k * MB_PANEL_ROWS);
    }
}

void mb_gemm_run(const struct mb_gemm_plan *plan, const struct mb_gemv_args *args, void *workspace)
{
    const size_t k = plan->codebook != NULL
                         ? plan->codebook->k
                         : args->superblocks * mb_scale_superblock_k(scale_of(plan));
    const size_t run = run_k(plan), nr = plan->gemm->nr;
    const size_t run_bytes =
        run * (plan->gemm->activation == MB_ACTIVATION_F32 ? sizeof(float) : 1);
    const size_t most =
        BLOCK_BYTES / run_bytes > MIN_BLOCK_ROWS ? BLOCK_BYTES / run_bytes : MIN_BLOCK_ROWS;
    const size_t blocks = (args->m + most - 1) / most;
    struct mb_decoded panels[MAX_PANELS];
    struct mb_gemm_args tile = {.panels = panels,
                                .layout = args->layout,
                                .bias_stride = args->bias_stride,
                                .y_stride = args->y_stride};
    for (size_t b = 0, row = 0; b < blocks; b++, row += tile.m) {
        tile.m = (args->m - row + blocks - b - 1) / (blocks - b); /* nearly equal */
        tile.activations = args->activations + row * args->layout->row_bytes;
        tile.bias_sum = args->bias_sum != NULL ? args->bias_sum + row * args->bias_stride : NULL;
        for (tile.k0 = 0; tile.k0 < k; tile.k0 += run) {
            tile.k = k - tile.k0 < run ? k - tile.k0 : run;
            tile.first = tile.k0 == 0;
            for (size_t j = 0; j < args->n; j += nr) {
                tile.n = args->n - j < nr ? args->n - j : nr;
                tile.y = args->y + row * args->y_stride + j;
                decode_run(plan, args->panels + j / MB_PANEL_ROWS * args->panel_bytes,
                           args->panel_bytes, (tile.n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS, tile.k0,
                           tile.k, workspace, panels);
                plan->gemm->fn.gemm(&tile);
            }
        }
    }
}
