/* SPDX-License-Identifier: Apache-2.0 */
/* See pack.h. A row is turned into the GGUF blocks of its format, and these are packed by the
 * library's public call: blocks are f16 d [f16 min] [u32 fifth bits] and codes, 4-bit codes of
 * columns i and i + 16 in one byte. */
#include "pack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    ALIGNMENT = 64,
    HUGE_PAGE = 1 << 21,
    PARTS = 32, /* what a matrix is divided into, unless parts become too small or too large */
    PART_LEAST = 64,
    PART_MOST = 512,
};

/* One row's scales. */
struct row {
    float *scale, *zero;              /* [blocks]; zero: the zero point */
    uint16_t *d, *half_offset, *fine; /* [blocks], f16 */
    float *exact;   /* [blocks]: scale times the row's power of two, then as f16 */
    float *offset;  /* [blocks] */
    uint8_t *bytes; /* in the format's blocks */
    float row_scale;
};

struct packer {
    const struct mb_ort_node *node;
    const struct mb_ort_inputs *inputs;
    struct mb_ort_weights *weights;
    bool has_zeros; /* that are not all in the middle */
    struct row row;
    void *memory;
};

/* ---- scales of a row ------------------------------------------------------------------------- */

static size_t zero_row_bytes(const struct mb_ort_node *node)
{
    return (node->blocks * node->bits + 7) / 8;
}

static float middle(const struct mb_ort_node *node) { return (float)(1u << (node->bits - 1)); }

static void read_floats(const struct mb_ort_tensor *tensor, size_t first, size_t count, float *out)
{
    mb_ort_read_floats(tensor->type,
                       (const uint8_t *)tensor->data + first * mb_ort_float_bytes(tensor->type),
                       count, out);
}

static void read_zeros(const struct packer *p, size_t r)
{
    const struct mb_ort_node *node = p->node;
    const struct mb_ort_tensor *zeros = &p->inputs->zero_points;
    if (zeros->value != NULL && !mb_ort_has_packed_zeros(p->inputs)) {
        read_floats(zeros, r * node->blocks, node->blocks, p->row.zero);
        return;
    }
    const uint8_t *packed =
        zeros->value != NULL ? (const uint8_t *)zeros->data + r * zero_row_bytes(node) : NULL;
    for (size_t b = 0; b < node->blocks; b++)
        p->row.zero[b] = packed != NULL ? (float)mb_ort_code(packed, node->bits, b) : middle(node);
}

/* What is stored per block besides a scale: q4_1's minimum, or the shift. */
static float offset_of(const struct packer *p, size_t block)
{
    const float zero = p->row.zero[block], scale = p->row.scale[block];
    if (p->weights->format == MB_FORMAT_Q4_1)
        return -zero * scale;
    return p->weights->has_shift ? scale * (middle(p->node) - zero) : 0.0f;
}

/* A power of two that brings a row's scales, and offsets, to where f16 is precise; 1 where they are
 * there. The smaller ones of a row may still lie low: they add little to it. */
static float power_for(const struct packer *p)
{
    float most = 0.0f;
    int exponent = 0;
    for (size_t b = 0; b < p->node->blocks; b++) {
        const float scale = fabsf(p->row.scale[b]);
        const float offset = fabsf(offset_of(p, b));
        const float larger = scale > offset ? scale : offset;
        if (larger > most && isfinite(larger))
            most = larger;
    }
    if (most == 0.0f || (most >= 0x1p-9f && most <= 0x1p14f))
        return 1.0f;
    (void)frexpf(most, &exponent);
    return ldexpf(1.0f, exponent < -100 ? 100 : exponent > 100 ? -100 : -exponent);
}

static void read_row(struct packer *p, size_t r)
{
    const struct mb_ort_node *node = p->node;
    struct row *row = &p->row;
    read_floats(&p->inputs->scales, r * node->blocks, node->blocks, row->scale);
    read_zeros(p, r);
    const float power = power_for(p);
    row->row_scale = 1.0f / power;
    for (size_t b = 0; b < node->blocks; b++) {
        row->offset[b] = offset_of(p, b) * power;
        row->exact[b] = row->scale[b] * power;
    }
    (void)mb_quantize(MB_FORMAT_F16, row->offset, 1, node->blocks, NULL, row->half_offset);
    (void)mb_quantize(MB_FORMAT_F16, row->exact, 1, node->blocks, NULL, row->d);
}

/* What f16 has left of the scales: into `fine`; whether that is anything. */
static bool read_fine(struct packer *p)
{
    struct row *row = &p->row;
    const size_t blocks = p->node->blocks;
    bool any = false;
    (void)mb_dequantize(MB_FORMAT_F16, row->d, 1, blocks, row->scale);
    for (size_t b = 0; b < blocks; b++) {
        row->exact[b] = (row->exact[b] - row->scale[b]) * MB_ORT_FINE;
        any = any || row->exact[b] != 0.0f;
    }
    (void)mb_quantize(MB_FORMAT_F16, row->exact, 1, blocks, NULL, row->fine);
    return any;
}

/* ---- codes of a row -------------------------------------------------------------------------- */

static void read_codes(const struct packer *p, const uint8_t *row, size_t group, uint8_t code[32])
{
    const struct mb_ort_columns *columns = &p->weights->columns;
    const size_t bits = p->node->bits, first = group * MB_ORT_GROUP;
    if (columns->source != NULL) {
        for (size_t i = 0; i < MB_ORT_GROUP; i++) {
            const uint32_t source = columns->source[first + i];
            code[i] = source == MB_ORT_NOTHING ? 0 : (uint8_t)mb_ort_code(row, bits, source);
        }
        return;
    }
    const uint8_t *from = row + first * bits / 8;
    if (bits == 8)
        memcpy(code, from, MB_ORT_GROUP);
    for (size_t i = 0; i < MB_ORT_GROUP / 2 && bits == 4; i++) {
        code[2 * i] = from[i] & 15;
        code[2 * i + 1] = from[i] >> 4;
    }
    for (size_t i = 0; i < MB_ORT_GROUP && bits == 2; i++)
        code[i] = (uint8_t)(from[i / 4] >> 2 * (i % 4) & 3);
}

/* What is added to a code of `block` so that the format's own zero point is the node's. */
static int code_offset_of(const struct packer *p, size_t block)
{
    const enum mb_format format = p->weights->format;
    const float zero = p->weights->has_shift ? middle(p->node) : p->row.zero[block];
    if (format == MB_FORMAT_Q4_1)
        return 0;
    return (format == MB_FORMAT_Q4_0 ? 8 : format == MB_FORMAT_Q5_0 ? 16 : 0) - (int)zero;
}

static void write_nibbles(const uint8_t code[32], uint8_t out[16])
{
    for (size_t i = 0; i < 16; i++)
        out[i] = (uint8_t)((code[i] & 15) | (code[i + 16] & 15) << 4);
}

static uint8_t *write_codes(enum mb_format format, const uint8_t code[32], uint8_t *out)
{
    if (format == MB_FORMAT_Q8_0) {
        memcpy(out, code, 32);
        return out + 32;
    }
    if (format == MB_FORMAT_Q5_0) {
        uint32_t fifth = 0;
        for (size_t i = 0; i < 32; i++)
            fifth |= (uint32_t)(code[i] >> 4 & 1) << i;
        for (size_t i = 0; i < 4; i++)
            *out++ = (uint8_t)(fifth >> 8 * i);
    }
    write_nibbles(code, out);
    return out + 16;
}

static void write_half(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

/* The row in the format's blocks, with `d` for scales. */
static void write_row(const struct packer *p, size_t r, const uint16_t *d)
{
    const struct mb_ort_weights *w = p->weights;
    const uint8_t *codes = (const uint8_t *)p->inputs->b.data + r * p->node->row;
    uint8_t *out = p->row.bytes, code[MB_ORT_GROUP];
    for (size_t g = 0; g < w->columns.count / MB_ORT_GROUP; g++) {
        const size_t block = w->columns.block[g];
        const uint8_t offset = (uint8_t)code_offset_of(p, block);
        read_codes(p, codes, g, code);
        for (size_t i = 0; i < MB_ORT_GROUP; i++)
            code[i] = (uint8_t)(code[i] + offset);
        write_half(out, d[block]);
        out += 2;
        if (w->format == MB_FORMAT_Q4_1) {
            write_half(out, p->row.half_offset[block]);
            out += 2;
        }
        out = write_codes(w->format, code, out);
    }
}

/* ---- the whole matrix ------------------------------------------------------------------------ */

/* Zero points that are all in the middle are none. */
static bool has_zeros(const struct packer *p)
{
    const struct mb_ort_node *node = p->node;
    const uint8_t *row = p->inputs->zero_points.data;
    if (!mb_ort_has_packed_zeros(p->inputs))
        return p->inputs->zero_points.value != NULL;
    for (size_t r = 0; r < node->n; r++, row += zero_row_bytes(node))
        for (size_t b = 0; b < node->blocks; b++)
            if (mb_ort_code(row, node->bits, b) != 1u << (node->bits - 1))
                return true;
    return false;
}

/* The table in pack.h. */
static void choose(struct packer *p)
{
    struct mb_ort_weights *w = p->weights;
    const size_t bits = p->node->bits;
    const bool integers = !p->has_zeros || mb_ort_has_packed_zeros(p->inputs);
    const bool better = p->node->accuracy != MB_ORT_INT8;
    w->format = MB_FORMAT_Q4_0;
    if (bits == 8) {
        w->format = MB_FORMAT_Q8_0;
        w->has_shift = p->has_zeros;
    } else if (!integers && better) {
        w->has_shift = true;
    } else if (!integers || (p->has_zeros && bits == 4)) {
        w->format = better ? MB_FORMAT_Q5_0 : MB_FORMAT_Q4_1;
    }
    for (size_t r = 0; r < p->node->n && p->node->accuracy >= MB_ORT_INT16 && !w->has_fine &&
                       p->node->type == ORT_TYPE_FLOAT;
         r++) {
        read_row(p, r);
        w->has_fine = read_fine(p);
    }
}

/* Beside int8 activations, f16 is precise enough. */
static enum mb_format shift_format(const struct mb_ort_node *node)
{
    return node->accuracy == MB_ORT_INT8 ? MB_FORMAT_F16 : MB_FORMAT_F32;
}

static size_t part_rows(size_t n)
{
    const size_t rows = mb_ort_round_up(n / PARTS, PART_LEAST);
    return rows < PART_LEAST ? PART_LEAST : rows > PART_MOST ? PART_MOST : rows;
}

/* Bytes of a packed part, and of the rows behind it. */
static bool part_bytes(enum mb_format format, size_t n, size_t k, size_t *bytes)
{
    const bool ok = mb_pack_size(format, n, k, bytes) == MB_OK && *bytes <= SIZE_MAX / 8;
    *bytes = ok ? mb_ort_round_up(*bytes, ALIGNMENT) : 0;
    return ok;
}

/* Parts of one matrix in [*at, ...), *at moved behind them. */
static bool place(struct mb_ort_weights *w, struct mb_weights *parts, enum mb_format format,
                  size_t k, uint8_t **at)
{
    for (size_t i = 0; i < w->parts; i++) {
        size_t bytes;
        if (!part_bytes(format, mb_ort_part_rows(w, i), k, &bytes) ||
            mb_weights_init(&parts[i], format, mb_ort_part_rows(w, i), k, *at) != MB_OK)
            return false;
        *at += bytes;
    }
    return true;
}

/* A stream of tens of GB/s would walk page tables otherwise. */
static void *allocate_packed(size_t bytes)
{
    void *memory = NULL;
    const bool large = bytes >= 2 * (size_t)HUGE_PAGE;
    if (posix_memalign(&memory, large ? HUGE_PAGE : ALIGNMENT, bytes) != 0)
        return NULL;
    if (large)
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

static bool allocate_weights(const struct mb_ort_node *node, struct mb_ort_weights *w)
{
    size_t main_bytes, shift_bytes, total;
    w->n = node->n;
    w->blocks = node->blocks;
    w->part_rows = part_rows(node->n);
    w->parts = (node->n + w->part_rows - 1) / w->part_rows;
    w->main = calloc(3 * w->parts, sizeof *w->main);
    w->row_scale = malloc(node->n * sizeof *w->row_scale);
    if (w->main == NULL || w->row_scale == NULL ||
        !part_bytes(w->format, w->part_rows, w->columns.count, &main_bytes) ||
        !part_bytes(shift_format(node), w->part_rows, w->blocks, &shift_bytes) ||
        !mb_ort_multiply(w->parts,
                         main_bytes * (w->has_fine ? 2 : 1) + (w->has_shift ? shift_bytes : 0),
                         &total))
        return false;
    w->fine = w->main + w->parts;
    w->shift = w->fine + w->parts;
    w->memory = allocate_packed(total);
    uint8_t *at = w->memory;
    return at != NULL && place(w, w->main, w->format, w->columns.count, &at) &&
           (!w->has_fine || place(w, w->fine, w->format, w->columns.count, &at)) &&
           (!w->has_shift || place(w, w->shift, shift_format(node), w->blocks, &at));
}

static bool allocate_row(struct packer *p)
{
    const size_t blocks = p->node->blocks, floats = blocks * sizeof(float);
    const size_t bytes = p->weights->columns.count / MB_ORT_GROUP * (2 + 32);
    uint8_t *at = malloc(4 * floats + 3 * blocks * sizeof(uint16_t) + bytes);
    p->memory = at;
    if (at == NULL)
        return false;
    float **const arrays[] = {&p->row.scale, &p->row.zero, &p->row.exact, &p->row.offset};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++, at += floats)
        *arrays[i] = (float *)(void *)at;
    uint16_t **const halves[] = {&p->row.d, &p->row.half_offset, &p->row.fine};
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++, at += blocks * sizeof(uint16_t))
        *halves[i] = (uint16_t *)(void *)at;
    p->row.bytes = at;
    return true;
}

static void pack_rows(struct packer *p)
{
    struct mb_ort_weights *w = p->weights;
    for (size_t r = 0; r < w->n; r++) {
        const size_t part = r / w->part_rows, row = r % w->part_rows;
        read_row(p, r);
        w->row_scale[r] = p->row.row_scale;
        w->is_scaled = w->is_scaled || p->row.row_scale != 1.0f;
        write_row(p, r, p->row.d);
        (void)mb_pack_rows(&w->main[part], p->row.bytes, row, row + 1);
        if (w->has_shift)
            (void)mb_pack_rows(&w->shift[part],
                               shift_format(p->node) == MB_FORMAT_F16
                                   ? (const void *)p->row.half_offset
                                   : p->row.offset,
                               row, row + 1);
        if (!w->has_fine)
            continue;
        (void)read_fine(p);
        write_row(p, r, p->row.fine);
        (void)mb_pack_rows(&w->fine[part], p->row.bytes, row, row + 1);
    }
}

struct ort_status *mb_ort_pack(const struct ort_api *api, const struct mb_ort_node *node,
                               const struct mb_ort_inputs *inputs, struct mb_ort_weights *weights)
{
    struct packer p = {.node = node, .inputs = inputs, .weights = weights};
    *weights = (struct mb_ort_weights){.format = MB_FORMAT_NONE};
    bool ok = mb_ort_make_columns(node, inputs->groups.value != NULL ? inputs->groups.data : NULL,
                                  &weights->columns) &&
              allocate_row(&p);
    if (ok) {
        p.has_zeros = has_zeros(&p);
        choose(&p);
        ok = allocate_weights(node, weights);
    }
    if (ok)
        pack_rows(&p);
    else
        mb_ort_free_weights(weights);
    free(p.memory);
    return ok ? NULL
              : mb_ort_error(api, ORT_FAIL,
                             "MatMulNBits '%s': out of memory for %zu x %zu packed weights",
                             node->name, node->n, node->k);
}

void mb_ort_free_weights(struct mb_ort_weights *weights)
{
    mb_ort_free_columns(&weights->columns);
    free(weights->main);
    free(weights->row_scale);
    free(weights->memory);
    *weights = (struct mb_ort_weights){.format = MB_FORMAT_NONE};
}
