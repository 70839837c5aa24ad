/* SPDX-License-Identifier: Apache-2.0 */
/* The scalar kernels: every operation for every format, from the format's descriptor alone.
 *
 * This file is the meaning of kernel.h's canonical numbers; whatever is faster must give the same
 * bits. A super-block is decoded into plain arrays (struct mb_decoded), one routine multiplies
 * decoded super-blocks with activation rows, and both gemv and gemm are that routine. fmaf is one
 * rounding wherever it runs, in hardware or not. */
#include "kernels/encode.h"
#include "kernels/half.h"
#include "kernels/words.h"

#include <math.h>
#include <string.h>

enum { ROWS = MB_PANEL_ROWS, MAX_K = 256, MAX_GROUPS = 16, MR = 8 };

/* ---- prepare ---- */

static float largest_magnitude(const float *x, size_t count)
{
    float amax = 0;
    for (size_t i = 0; i < count; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    return amax;
}

/* Codes of one scale group, or of 256 values of a row that has one scale; values past `count` are
 * padding. */
static float quantize_group(const float *x, size_t count, float amax, size_t group, int8_t *q)
{
    const float inverse = amax >= 0x1p-120f && isfinite(amax) ? 127.0f / amax : 0.0f;
    for (size_t i = 0; i < group; i++) {
        const float scaled = i < count ? x[i] * inverse : 0.0f;
        q[i] = (int8_t)(fabsf(scaled) <= 127.5f ? nearbyintf(scaled)
                                                : 0.0f); /* NaN fails the comparison */
    }
    return amax / 127.0f;
}

static int16_t sum_codes(const int8_t *q, size_t count)
{
    int sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += q[i];
    return (int16_t)sum;
}

static void prepare_int8(enum mb_activation type, const float *x, size_t k, void *row)
{
    const size_t group = mb_activation_group(type);
    const float row_amax = largest_magnitude(x, k);
    const struct mb_activation_layout layout = mb_activation_layout(type, k);
    uint8_t *bytes = row;
    int8_t *q = (int8_t *)bytes;
    float *scale = (float *)(void *)(bytes + layout.scale);
    for (size_t at = 0; at < layout.padded_k; at += group) {
        const size_t left = at < k ? k - at : 0, count = left < group ? left : group;
        const float *from = x + (left > 0 ? at : 0);
        const float amax = type == MB_ACTIVATION_I8ROW ? row_amax : largest_magnitude(from, count);
        scale[at / group] = quantize_group(from, count, amax, group, q + at);
    }
    int16_t *sum16 = (int16_t *)(void *)(bytes + layout.sum16);
    int16_t *sum32 = (int16_t *)(void *)(bytes + layout.sum32);
    for (size_t g = 0; g < layout.padded_k / 16; g++)
        sum16[g] = sum_codes(q + 16 * g, 16);
    for (size_t g = 0; g < layout.padded_k / 32; g++)
        sum32[g] = sum_codes(q + 32 * g, 32);
    if (type != MB_ACTIVATION_I8G32)
        return;
    float *scaled_sum = (float *)(void *)(bytes + layout.scaled_sum);
    for (size_t g = 0; g < layout.padded_k / 32; g++)
        scaled_sum[g] = scale[g] * (float)sum32[g];
}

static void prepare(enum mb_activation type, const float *x, size_t k, void *row)
{
    const size_t padded_k = mb_activation_layout(type, k).padded_k;
    if (type == MB_ACTIVATION_F32) {
        float *out = row;
        for (size_t i = 0; i < padded_k; i++)
            out[i] = i < k ? x[i] : 0;
    } else if (type == MB_ACTIVATION_BF16) {
        uint16_t *out = row;
        for (size_t i = 0; i < padded_k; i++)
            out[i] = i < k ? mb_bf16_from_float(x[i]) : 0;
    } else {
        prepare_int8(type, x, k, row);
    }
}

/* ---- decode ---- */

static uint16_t load_u16(const uint8_t *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static float load_half(const uint8_t *from) { return mb_half_to_float(load_u16(from)); }

/* Code of weight `k` of row `lane`: its byte position is the same in every plane, only the bits
 * differ. */
static uint8_t decode_code(enum mb_coding coding, const struct mb_superblock *layout,
                           const uint8_t *block, size_t k, size_t lane)
{
    const size_t quad = k % MB_CHUNK_K / 4, byte = 4 * lane + k % 4;
    const uint8_t *chunk = block + k / MB_CHUNK_K * layout->chunk_bytes + byte;
    if (mb_coding_plane8(coding))
        return chunk[layout->plane8 + quad * MB_QUAD_BYTES];
    unsigned code = 0, bits = 0;
    if (mb_coding_plane4(coding)) {
        code = chunk[layout->plane4 + quad / 2 * MB_QUAD_BYTES] >> 4 * (quad % 2) & 15;
        bits = 4;
    }
    if (mb_coding_plane2(coding)) {
        code |= (chunk[layout->plane2 + quad / 4 * MB_QUAD_BYTES] >> 2 * (quad % 4) & 3u) << bits;
        bits += 2;
    }
    if (mb_coding_plane1(coding))
        code |= (chunk[layout->plane1] >> quad & 1u) << bits;
    const uint8_t *table = mb_coding_table(coding);
    return table != NULL ? table[code] : (uint8_t)code;
}

static int decode_sub_scale(enum mb_scale_kind kind, const uint8_t *from, size_t group, size_t lane)
{
    switch (kind) {
    case MB_SCALE_G16X2S6: {
        const unsigned low = from[group / 2 * ROWS + lane] >> 4 * (group % 2) & 15;
        const unsigned high = from[128 + group / 4 * ROWS + lane] >> 2 * (group % 4) & 3;
        return (int)(low | high << 4) - 32;
    }
    case MB_SCALE_G16X2MIN: return from[(group / 2 * ROWS + lane) * 2 + group % 2] & 15;
    case MB_SCALE_G32X2MIN: return from[group * ROWS + lane];
    default: return (int8_t)from[group * ROWS + lane];
    }
}

static int decode_sub_min(enum mb_scale_kind kind, const struct mb_superblock *layout,
                          const uint8_t *block, size_t group, size_t lane)
{
    const size_t at = (group / 2 * ROWS + lane) * 2 + group % 2;
    return kind == MB_SCALE_G16X2MIN ? block[layout->sub_scale + at] >> 4
                                     : block[layout->sub_min + at];
}

static float load_scale(enum mb_scale_kind kind, const uint8_t *from)
{
    switch (mb_scale_number(kind)) {
    case MB_NUMBER_E8M0: return mb_e8m0_to_float(*from);
    case MB_NUMBER_UE4M3: return mb_ue4m3_to_float(*from);
    default: return load_half(from);
    }
}

/* The scales of super-block number `index` of a run. */
static void decode_scales(enum mb_coding coding, enum mb_scale_kind kind,
                          const struct mb_superblock *layout, const uint8_t *block, size_t index,
                          const struct mb_decoded *out)
{
    const float unit = mb_coding_unit(coding);
    const size_t groups = layout->k / mb_scale_group(kind), first = index * groups;
    for (size_t g = 0; g < groups; g++)
        for (size_t lane = 0; lane < ROWS; lane++) {
            const size_t to = (first + g) * ROWS + lane,
                         from = mb_scale_bytes(kind) * (g * ROWS + lane);
            if (!mb_scale_two_level(kind)) {
                out->scale[to] = load_scale(kind, block + layout->d + from) * unit;
                if (mb_scale_has_min(kind))
                    out->min[to] = load_scale(kind, block + layout->dmin + from);
                continue;
            }
            out->scale[to] = (float)decode_sub_scale(kind, block + layout->sub_scale, g, lane);
            if (mb_scale_has_min(kind))
                out->min_pairs[((first + g) / 2 * ROWS + lane) * 2 + g % 2] =
                    (int16_t)decode_sub_min(kind, layout, block, g, lane);
        }
    if (!mb_scale_two_level(kind))
        return;
    for (size_t lane = 0; lane < ROWS; lane++) {
        out->d[index * ROWS + lane] = load_half(block + layout->d + 2 * lane) * unit;
        if (mb_scale_has_min(kind))
            out->min[index * ROWS + lane] = load_half(block + layout->dmin + 2 * lane);
    }
}

static float load_weight(enum mb_coding coding, const uint8_t *from)
{
    if (coding == MB_CODING_F16)
        return load_half(from);
    if (coding == MB_CODING_BF16)
        return mb_bf16_to_float(load_u16(from));
    float value;
    memcpy(&value, from, sizeof value);
    return value;
}

static void decode(enum mb_coding coding, enum mb_scale_kind kind, const uint8_t *panel,
                   size_t superblocks, const struct mb_decoded *out)
{
    const struct mb_superblock layout = mb_superblock_layout(coding, kind);
    if (mb_coding_is_float(coding)) {
        const size_t width = layout.bytes / layout.k / ROWS;
        for (size_t k = 0; k < superblocks * layout.k; k++)
            for (size_t lane = 0; lane < ROWS; lane++)
                out->scale[k * ROWS + lane] =
                    load_weight(coding, panel + k / layout.k * layout.bytes +
                                            (lane * layout.k + k % layout.k) * width);
        return;
    }
    for (size_t b = 0; b < superblocks; b++) {
        const uint8_t *block = panel + b * layout.bytes;
        uint8_t *code = out->code + b * layout.k * ROWS;
        for (size_t k = 0; k < layout.k; k++)
            for (size_t lane = 0; lane < ROWS; lane++)
                code[(k / 4 * ROWS + lane) * 4 + k % 4] =
                    decode_code(coding, &layout, block, k, lane);
        decode_scales(coding, kind, &layout, block, b, out);
    }
}

/* ---- multiply ---- */

/* One activation row, as the multiplication reads it. */
struct activation {
    enum mb_activation type;
    const int8_t *q;
    const uint16_t *pairs; /* bf16 */
    const float *x, *scale, *scaled_sum;
    const int16_t *sum; /* at the granularity of the weights' groups */
    const int32_t *bias_sum;
};

static struct activation activation_row(enum mb_scale_kind kind, enum mb_activation type,
                                        const uint8_t *row,
                                        const struct mb_activation_layout *layout,
                                        const int32_t *bias_sum)
{
    const size_t sum = mb_scale_group(kind) == 16 ? layout->sum16 : layout->sum32;
    return (struct activation){
        .type = type,
        .pairs = (const uint16_t *)(const void *)row,
        .q = (const int8_t *)row,
        .x = (const float *)(const void *)row,
        .scale = (const float *)(const void *)(row + layout->scale),
        .scaled_sum = (const float *)(const void *)(row + layout->scaled_sum),
        .sum = (const int16_t *)(const void *)(row + sum),
        .bias_sum = bias_sum,
    };
}

/* sum (code - bias) * q over group `group` of the row; `in` is that group's number inside the
 * decoded run. */
static int32_t dot(const struct mb_decoded *w, const struct activation *a, size_t group, size_t in,
                   size_t size, size_t lane)
{
    int32_t sum = a->bias_sum != NULL ? a->bias_sum[group] : 0;
    for (size_t i = 0; i < size; i++) {
        const size_t k = in * size + i;
        sum += w->code[(k / 4 * ROWS + lane) * 4 + k % 4] * a->q[group * size + i];
    }
    return sum;
}

static float add_one_level(enum mb_scale_kind kind, const struct mb_decoded *w,
                           const struct activation *a, size_t group, size_t in, size_t lane,
                           float f)
{
    const size_t at = in * ROWS + lane, size = mb_scale_group(kind);
    if (mb_is_nested(kind, a->type))
        return fmaf((float)dot(w, a, group, in, size, lane), w->scale[at], f);
    const float scale = a->scale[group * size / mb_activation_group(a->type)];
    f = fmaf((float)dot(w, a, group, in, size, lane), w->scale[at] * scale, f);
    return kind == MB_SCALE_G32MIN ? fmaf(w->min[at], a->scaled_sum[group], f) : f;
}

static float add_two_level(enum mb_scale_kind kind, const struct mb_decoded *w,
                           const struct activation *a, size_t block, size_t in, size_t lane,
                           float f)
{
    const size_t size = mb_scale_group(kind), groups = MAX_K / size;
    const bool finer = mb_activation_group(a->type) < MAX_K;
    float s = 0, scaled_minimum = 0;
    int32_t minimum = 0;
    for (size_t g = 0; g < groups; g++) {
        const size_t group = block * groups + g, local = in * groups + g;
        const float sub_scale = w->scale[local * ROWS + lane];
        s = fmaf((float)dot(w, a, group, local, size, lane),
                 finer ? sub_scale * a->scale[group * size / 32] : sub_scale, s);
        if (!mb_scale_has_min(kind))
            continue;
        const int32_t sub_min = w->min_pairs[(local / 2 * ROWS + lane) * 2 + local % 2];
        if (finer)
            scaled_minimum = fmaf((float)sub_min, a->scaled_sum[group], scaled_minimum);
        else
            minimum += sub_min * a->sum[group];
    }
    if (finer) {
        f = fmaf(s, w->d[in * ROWS + lane], f);
        return mb_scale_has_min(kind) ? fmaf(-scaled_minimum, w->min[in * ROWS + lane], f) : f;
    }
    f = fmaf(s, w->d[in * ROWS + lane] * a->scale[block], f);
    if (mb_scale_has_min(kind))
        f = fmaf(-(float)minimum, w->min[in * ROWS + lane] * a->scale[block], f);
    return f;
}

/* Zero of its sign where a number is subnormal. */
static float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }

/* a * b + c in one rounding, with subnormal operands and results as zero. A result is judged as if
 * its exponent had no end: what rounds up to 2^-126 from below that place's last bit is zero. */
static float flushed_fma(float a, float b, float c)
{
    const float x = flush(a), y = flush(b), z = flush(c), f = fmaf(x, y, z);
    const bool small = fabs((double)x * y + z) < 0x1p-126 * (1 - 0x1p-25);
    return small ? copysignf(0.0f, f) : f;
}

/* Two k of bf16 weights, packed, and bf16 activations. */
static float add_pair(const uint8_t *panel, const struct activation *a, size_t pair, size_t in,
                      size_t lane, float f)
{
    const uint8_t *w = panel + (in * ROWS + lane) * 4;
    f = flushed_fma(mb_bf16_to_float(load_u16(w + 2)), mb_bf16_to_float(a->pairs[2 * pair + 1]), f);
    return flushed_fma(mb_bf16_to_float(load_u16(w)), mb_bf16_to_float(a->pairs[2 * pair]), f);
}

/* Continue f[16] with groups [0, count) of one-level super-blocks, 256 weights at a time. */
static void multiply_nested(enum mb_scale_kind kind, const struct mb_decoded *w, size_t count,
                            const struct activation *a, size_t first, size_t lane, float *f)
{
    const size_t per_scale = 256 / mb_scale_group(kind);
    for (size_t g = 0; g < count; g += per_scale) {
        float s = 0;
        for (size_t i = g; i < g + per_scale && i < count; i++)
            s = add_one_level(kind, w, a, first + i, i, lane, s);
        *f = fmaf(s, a->scale[(first + g) / per_scale], *f);
    }
}

/* Continue f[16] with `superblocks` decoded ones, the first of which is number `first` of the row
 * (nested kinds: that of a whole 256). */
static void multiply(enum mb_scale_kind kind, const struct mb_decoded *w, size_t superblocks,
                     const struct activation *a, size_t first, float f[ROWS])
{
    const size_t block_k = mb_scale_superblock_k(kind), groups = block_k / mb_scale_group(kind);
    if (mb_is_nested(kind, a->type)) {
        for (size_t lane = 0; lane < ROWS; lane++)
            multiply_nested(kind, w, superblocks * groups, a, first * groups, lane, &f[lane]);
        return;
    }
    for (size_t b = 0; b < superblocks; b++)
        for (size_t lane = 0; lane < ROWS; lane++) {
            if (a->type == MB_ACTIVATION_BF16) {
                f[lane] = add_pair(w->code, a, first + b, b, lane, f[lane]);
            } else if (a->type == MB_ACTIVATION_F32) {
                for (size_t k = b * block_k; k < (b + 1) * block_k; k++)
                    f[lane] = fmaf(w->scale[k * ROWS + lane], a->x[first * block_k + k], f[lane]);
            } else if (mb_scale_two_level(kind)) {
                f[lane] = add_two_level(kind, w, a, first + b, b, lane, f[lane]);
            } else {
                for (size_t g = 0; g < groups; g++)
                    f[lane] = add_one_level(kind, w, a, (first + b) * groups + g, b * groups + g,
                                            lane, f[lane]);
            }
        }
}

static const int32_t *bias_row(const int32_t *bias_sum, size_t stride, size_t row)
{
    return bias_sum != NULL ? bias_sum + row * stride : NULL;
}

/* Super-blocks [b, b + count) of a panel, ready to be multiplied; bf16 pairs stay packed. */
static struct mb_decoded decoded(enum mb_coding coding, enum mb_scale_kind kind,
                                 enum mb_activation type, uint8_t *panel, size_t b, size_t count,
                                 const struct mb_decoded *room)
{
    uint8_t *block = panel + b * mb_superblock_layout(coding, kind).bytes;
    if (type == MB_ACTIVATION_BF16)
        return (struct mb_decoded){.code = block};
    decode(coding, kind, block, count, room);
    return *room;
}

static void gemv(enum mb_coding coding, enum mb_scale_kind kind, enum mb_activation type,
                 const struct mb_gemv_args *args)
{
    uint8_t code[MAX_K * ROWS];
    float scale[MAX_GROUPS * ROWS], d[ROWS], min[MAX_GROUPS * ROWS];
    int16_t min_pairs[MAX_GROUPS * ROWS];
    const struct mb_decoded room = {code, scale, d, min, min_pairs};
    const size_t step = mb_run_step(kind, type) / mb_scale_superblock_k(kind);
    for (size_t j = 0; j < args->n; j += ROWS) {
        union {
            const uint8_t *packed;
            uint8_t *code;
        } panel = {args->panels + j / ROWS * args->panel_bytes};
        float f[MR][ROWS] = {{0}};
        for (size_t b = 0; b < args->superblocks; b += step) {
            const size_t count = args->superblocks - b < step ? args->superblocks - b : step;
            const struct mb_decoded w = decoded(coding, kind, type, panel.code, b, count, &room);
            for (size_t r = 0; r < args->m; r++) {
                const struct activation a =
                    activation_row(kind, type, args->activations + r * args->layout->row_bytes,
                                   args->layout, bias_row(args->bias_sum, args->bias_stride, r));
                multiply(kind, &w, count, &a, b, f[r]);
            }
        }
        const size_t columns = args->n - j < ROWS ? args->n - j : ROWS;
        for (size_t r = 0; r < args->m; r++)
            memcpy(args->y + r * args->y_stride + j, f[r], columns * sizeof(float));
    }
}

static void gemm(enum mb_scale_kind kind, enum mb_activation type, const struct mb_gemm_args *args)
{
    const size_t block = mb_scale_superblock_k(kind);
    for (size_t r = 0; r < args->m; r++) {
        const struct activation a =
            activation_row(kind, type, args->activations + r * args->layout->row_bytes,
                           args->layout, bias_row(args->bias_sum, args->bias_stride, r));
        float f[ROWS] = {0}, *y = args->y + r * args->y_stride;
        if (!args->first)
            memcpy(f, y, args->n * sizeof(float));
        multiply(kind, args->panels, args->k / block, &a, args->k0 / block, f);
        memcpy(y, f, args->n * sizeof(float));
    }
}

/* ---- instances: every row of instances.def ---- */

#define MB_PREPARE_ROW(type)                                                                       \
    static void prepare_##type##_reference(const float *x, size_t k, void *row)                    \
    {                                                                                              \
        prepare((enum mb_activation)MB_ACTIVATION_OF_##type, x, k, row);                           \
    }
#define CODING(word) ((enum mb_coding)MB_CODING_OF_##word)
#define SCALE(word) ((enum mb_scale_kind)MB_SCALE_OF_##word)
#define ACTIVATION(word) ((enum mb_activation)MB_ACTIVATION_OF_##word)
#define GEMV(coding, kind, type)                                                                   \
    static void gemv_##coding##_##kind##_##type##_reference(const struct mb_gemv_args *args)       \
    {                                                                                              \
        gemv(CODING(coding), SCALE(kind), ACTIVATION(type), args);                                 \
    }
#define DECODE(coding, kind)                                                                       \
    static void decode_##coding##_##kind##_reference(const uint8_t *panel, size_t superblocks,     \
                                                     const struct mb_decoded *out)                 \
    {                                                                                              \
        decode(CODING(coding), SCALE(kind), panel, superblocks, out);                              \
    }
#define GEMM(class, kind, type)                                                                    \
    static void gemm_##class##_##kind##_##type##_reference(const struct mb_gemm_args *args)        \
    {                                                                                              \
        gemm(SCALE(kind), ACTIVATION(type), args);                                                 \
    }
#define MB_FLOAT_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_BF16_ROW(coding, kind, type) GEMV(coding, kind, type) GEMM(coding, kind, type)
#define MB_PAIR_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_TABLE_PAIR_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_OTHER_ROW(coding, kind, type) GEMV(coding, kind, type)
#define MB_OTHER_TABLE_ROW(coding, kind, type) GEMV(coding, kind, type)
#define MB_GEMM_ROW(kind, type) GEMM(u8, kind, type)
GEMM(f32, none, f32)
#include "kernels/instances.def"
#undef GEMV
#undef DECODE
#undef GEMM

#define MB_PREPARE_ROW(type)                                                                       \
    {.name = "prepare_" #type "_reference",                                                        \
     .op = MB_OP_PREPARE,                                                                          \
     .isa = MB_ISA_REFERENCE,                                                                      \
     .activation = ACTIVATION(type),                                                               \
     .mr = 1,                                                                                      \
     .revision = 1,                                                                                \
     .fn.prepare = prepare_##type##_reference},
#define DECODE(coding_, kind)                                                                      \
    {.name = "decode_" #coding_ "_" #kind "_reference",                                            \
     .op = MB_OP_DECODE,                                                                           \
     .isa = MB_ISA_REFERENCE,                                                                      \
     .coding = CODING(coding_),                                                                    \
     .scale = SCALE(kind),                                                                         \
     .nr = ROWS,                                                                                   \
     .revision = 1,                                                                                \
     .fn.decode = decode_##coding_##_##kind##_reference},
/* `record`: the type whose records are read, if it is another's. */
#define GEMV_OF(coding_, kind, type, record)                                                       \
    {.name = "gemv_" #coding_ "_" #kind "_" #type "_8x16_reference",                               \
     .op = MB_OP_GEMV,                                                                             \
     .isa = MB_ISA_REFERENCE,                                                                      \
     .coding = CODING(coding_),                                                                    \
     .scale = SCALE(kind),                                                                         \
     .activation = ACTIVATION(type),                                                               \
     .mr = MR,                                                                                     \
     .nr = ROWS,                                                                                   \
     .revision = 1,                                                                                \
     .fn.gemv = gemv_##coding_##_##kind##_##record##_reference},
#define GEMM_OF(class, kind, type, record)                                                         \
    {.name = "gemm_" #class "_" #kind "_" #type "_8x16_reference",                                 \
     .op = MB_OP_GEMM,                                                                             \
     .isa = MB_ISA_REFERENCE,                                                                      \
     .coding = MB_MAX_CODE_OF_##class ? MB_CODING_B8 : MB_CODING_F32,                              \
     .scale = SCALE(kind),                                                                         \
     .activation = ACTIVATION(type),                                                               \
     .max_code = MB_MAX_CODE_OF_##class,                                                           \
     .mr = MR,                                                                                     \
     .nr = ROWS,                                                                                   \
     .revision = 1,                                                                                \
     .fn.gemm = gemm_##class##_##kind##_##record##_reference},
#define GEMV(coding, kind, type)                                                                   \
    GEMV_OF(coding, kind, type, type) MB_TWIN_OF_##type(GEMV_OF, coding, kind)
#define GEMM(class, kind, type)                                                                    \
    GEMM_OF(class, kind, type, type) MB_TWIN_OF_##type(GEMM_OF, class, kind)
#define MB_FLOAT_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_BF16_ROW(coding, kind, type) GEMV(coding, kind, type) GEMM(coding, kind, type)
#define MB_PAIR_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_TABLE_PAIR_ROW(coding, kind, type) DECODE(coding, kind) GEMV(coding, kind, type)
#define MB_OTHER_ROW(coding, kind, type) GEMV(coding, kind, type)
#define MB_OTHER_TABLE_ROW(coding, kind, type) GEMV(coding, kind, type)
#define MB_GEMM_ROW(kind, type) GEMM(u8, kind, type)

static const struct mb_kernel kernels[] = {
    /* clang-format off */
    GEMM(f32, none, f32)
#include "kernels/instances.def"
    {.name = "integer_b8_1x16_reference",
     .op = MB_OP_INTEGER,
     .isa = MB_ISA_REFERENCE,
     .coding = MB_CODING_B8,
     .mr = 1,
     .nr = ROWS,
     .revision = 1,
     .fn.integer = mb_integer_reference},
    {.name = "codebook_i8g32_8x16_reference",
     .op = MB_OP_CODEBOOK,
     .isa = MB_ISA_REFERENCE,
     .coding = MB_CODING_B8,
     .scale = MB_SCALE_G32,
     .activation = MB_ACTIVATION_I8G32,
     .mr = MR,
     .nr = ROWS,
     .revision = 1,
     .fn.codebook = &mb_codebook_reference},
    /* clang-format on */
};

const struct mb_kernel_table mb_kernels_reference = {kernels, sizeof kernels / sizeof *kernels,
                                                     &mb_encode_reference};
