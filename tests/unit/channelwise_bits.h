/* SPDX-License-Identifier: Apache-2.0 */
/* An independent writer and reader of what a channel-wise encoding stores, for its tests: bits as
 * model/channelwise.h describes them. Include after cmocka.h. */
#ifndef MIXBIT_TESTS_CHANNELWISE_BITS_H
#define MIXBIT_TESTS_CHANNELWISE_BITS_H

#include "kernels/half.h"
#include "model/channelwise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state32 = 7;
static inline double uniform(void)
{
    return (double)((state32 = state32 * 1664525u + 1013904223u) >> 8) * 0x1p-24;
}

/* Roughly normal, with rows and columns of different size, as weights are. */
static inline float *make_rows(size_t n, size_t k)
{
    float *rows = malloc(n * k * sizeof *rows), *row = malloc(n * sizeof *row);
    for (size_t r = 0; r < n; r++)
        row[r] = (float)exp(0.3 * (uniform() + uniform() - 1));
    for (size_t i = 0; i < n * k; i++)
        rows[i] = row[i / k] * 0.05f *
                  (float)(uniform() + uniform() + uniform() + uniform() - 2 + (i % 97 == 0) * 3);
    free(row);
    return rows;
}

static inline float *make_activations(size_t k)
{
    float *a = malloc(k * sizeof *a);
    for (size_t c = 0; c < k; c++)
        a[c] = (float)exp(4 * uniform() - 2);
    return a;
}

static inline struct mb_channelwise encode(const float *rows, size_t n, size_t k,
                                           const float *activations,
                                           const struct mb_channelwise_options *options)
{
    struct mb_channelwise encoded;
    const enum mb_status status =
        mb_channelwise_encode(rows, n, k, activations, options, NULL, &encoded);
    if (status != MB_OK)
        fail_msg("%zu x %zu: %s", n, k, mb_status_string(status));
    return encoded;
}

/* ---- bits ---- */

struct bits {
    uint8_t *data;
    size_t at, room; /* bits, bytes */
};

static inline void put(struct bits *b, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++, b->at++) {
        if (b->at / 8 == b->room) {
            b->room = 2 * b->room + 64;
            b->data = realloc(b->data, b->room);
        }
        if (b->at % 8 == 0)
            b->data[b->at / 8] = 0;
        b->data[b->at / 8] |= (uint8_t)((value >> i & 1) << b->at % 8);
    }
}

static inline uint64_t get(struct bits *b, unsigned count)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < count; i++, b->at++)
        value |= (uint64_t)(b->data[b->at / 8] >> b->at % 8 & 1) << i;
    return value;
}

static inline void align(struct bits *b) { b->at = (b->at + 7) / 8 * 8; }

static inline unsigned map_bits(size_t widths)
{
    unsigned bits = 0;
    while ((size_t)1 << bits < widths)
        bits++;
    return bits;
}

static inline bool fitted(const struct mb_channelwise *c, unsigned bits)
{
    return bits < 8 && (c->options.codes == MB_CODES_KMEANS || c->options.codes == MB_CODES_LLOYD);
}

static inline void put_codebook(struct bits *b, const struct mb_channelwise *c, size_t cell,
                                unsigned bits)
{
    const float *levels = c->levels + c->first_level[cell];
    const bool min = c->options.codes == MB_CODES_UNIFORM_MIN ||
                     (bits == 8 && fitted(c, 2)); /* k-means has no 8-bit codebooks */
    if (fitted(c, bits) && !c->options.byte_codebook) {
        for (size_t i = 0; i < (size_t)1 << bits; i++)
            put(b, mb_half_from_float(levels[i]), 16);
        return;
    }
    put(b, c->step[cell][0], 16);
    if (min)
        put(b, c->step[cell][1], 16);
    const float step = mb_half_to_float(c->step[cell][0]);
    for (size_t i = 0; fitted(c, bits) && i < (size_t)1 << bits; i++)
        put(b, (uint8_t)(int8_t)(step > 0 ? lrintf(levels[i] / step) : 0), 8);
}

/* All parts in turn, each from a byte on. The header's content is known to the reader here: its
 * size alone counts. */
static inline struct bits serialise(const struct mb_channelwise *c)
{
    struct bits b = {0};
    put(&b, 0, 64);
    put(&b, 0, 64);
    for (size_t i = 0; i < c->channels; i++)
        put(&b, c->width[i], map_bits(c->width_count));
    align(&b);
    for (size_t i = 0; i < c->channels; i++)
        for (size_t j = 0; j < c->length; j++)
            put(&b, c->codes[c->order[i] * c->length + j], c->widths[c->width[c->order[i]]]);
    align(&b);
    const size_t none = (size_t)-1;
    size_t before = none;
    for (size_t i = 0; i < c->channels; i++) {
        const size_t channel = c->order[i], first = c->first_cell[channel];
        if (first == before)
            continue; /* shared with the channel before */
        before = first;
        for (size_t j = 0; j < c->length; j += c->cell_length)
            put_codebook(&b, c, first + j / c->cell_length, c->widths[c->width[channel]]);
    }
    align(&b);
    if (c->options.scale_columns > 0)
        put(&b, mb_float_bits(c->scale_top), 32);
    for (size_t i = 0; i < c->n * c->scale_groups; i++)
        put(&b, c->scale_codes[i], c->options.scale_columns > 0 ? 8 : 16);
    size_t o = 0;
    for (size_t row = 0; c->outlier_count > 0 && row < c->n; row += 16) {
        size_t end = o;
        while (end < c->outlier_count && c->outliers[end].row < row + 16)
            end++;
        put(&b, end - o, 32);
        for (; o < end; o++) {
            put(&b, (c->outliers[o].row - row) * c->k + c->outliers[o].column,
                16 * c->k > 65536 ? 32 : 16);
            put(&b, c->outliers[o].half, 16);
        }
    }
    assert_int_equal(o, c->outlier_count);
    return b;
}

/* ---- reading back: from bits, shape and options alone ---- */

static inline void get_codebook(struct bits *b, const struct mb_channelwise *c, unsigned bits,
                                float *levels)
{
    const int count = 1 << bits;
    enum mb_code_kind kind = c->options.codes;
    if (bits == 8 && fitted(c, 2))
        kind = MB_CODES_UNIFORM_MIN;
    if (fitted(c, bits) && !c->options.byte_codebook) {
        for (int i = 0; i < count; i++)
            levels[i] = mb_half_to_float((uint16_t)get(b, 16));
        return;
    }
    const float step = mb_half_to_float((uint16_t)get(b, 16));
    const float low = kind == MB_CODES_UNIFORM_MIN ? mb_half_to_float((uint16_t)get(b, 16)) : 0;
    for (int i = 0; i < count; i++) {
        const int up = step < 0 ? count - 1 - i : i; /* code 0 is the lowest level */
        if (fitted(c, bits))
            levels[i] = step * (float)(int8_t)get(b, 8);
        else if (kind == MB_CODES_LOG)
            levels[i] = up < count / 2 ? -step * ldexpf(1, -up) : step * ldexpf(1, up + 1 - count);
        else
            levels[i] = step * (float)(kind == MB_CODES_UNIFORM ? up - count / 2 : up) + low;
    }
}

static inline float group_scale(float top, unsigned code)
{
    static const double root = 1.0442737824274138; /* 2^(1/16) */
    if (code == 0)
        return 0;
    double scale = (double)top;
    for (unsigned i = code; i < 255; i++)
        scale /= root;
    return (float)scale;
}

/* Rows from bits; `c` gives shape and options only, and group scales to compare with. */
static inline float *read_back(struct bits *b, const struct mb_channelwise *c)
{
    const bool columns = c->options.axis == MB_CHANNELS_OF_INPUT;
    const bool grouped = c->options.scale_columns > 0;
    float *rows = malloc(c->n * c->k * sizeof *rows);
    uint8_t *width = malloc(c->channels), *codes = malloc(c->n * c->k);
    size_t *order = malloc(c->channels * sizeof *order), at = 0;
    b->at = 8 * 16;
    for (size_t i = 0; i < c->channels; i++)
        width[i] = (uint8_t)c->widths[get(b, map_bits(c->width_count))];
    align(b);
    for (unsigned bits = 8; bits > 0; bits--)
        for (size_t i = 0; i < c->channels; i++)
            if (width[i] == bits)
                order[at++] = i;
    assert_int_equal(at, c->channels);
    for (size_t i = 0; i < c->channels; i++)
        for (size_t j = 0; j < c->length; j++)
            codes[order[i] * c->length + j] = (uint8_t)get(b, width[order[i]]);
    align(b);
    const size_t cell = c->options.scope == MB_SCOPE_GROUP ? c->options.scope_size : c->length;
    const size_t share = c->options.scope == MB_SCOPE_BLOCK    ? c->options.scope_size
                         : c->options.scope == MB_SCOPE_TENSOR ? c->channels
                                                               : 1;
    float levels[256];
    for (size_t i = 0, end; i < c->channels; i = end) {
        for (end = i; end < c->channels && end - i < share && width[order[end]] == width[order[i]];)
            end++;
        for (size_t from = 0; from < c->length; from += cell) {
            get_codebook(b, c, width[order[i]], levels);
            for (size_t s = i; s < end; s++)
                for (size_t j = from; j < from + cell && j < c->length; j++)
                    rows[columns ? j * c->k + order[s] : order[s] * c->k + j] =
                        levels[codes[order[s] * c->length + j]];
        }
    }
    align(b);
    float top = 0;
    if (grouped)
        top = mb_float_from_bits((uint32_t)get(b, 32));
    for (size_t r = 0; c->options.scale_columns != 0 && r < c->n; r++)
        for (size_t i = 0, end; i < c->k; i = end) {
            const size_t size = grouped ? (size_t)c->options.scale_columns : c->k;
            end = i + size < c->k ? i + size : c->k;
            const unsigned code = (unsigned)get(b, grouped ? 8 : 16);
            const size_t first = columns ? order[i] : i;
            const float held = c->scales[r * c->scale_groups + c->scale_of[first]];
            const float scale = grouped ? group_scale(top, code) : mb_half_to_float((uint16_t)code);
            assert_true(fabsf(scale - held) <= 1e-6f * held);
            for (size_t j = i; j < end; j++)
                rows[r * c->k + (columns ? order[j] : j)] *= held;
        }
    for (size_t row = 0; c->outlier_count > 0 && row < c->n; row += 16)
        for (size_t left = get(b, 32); left > 0; left--) {
            const size_t place = get(b, 16 * c->k > 65536 ? 32 : 16);
            rows[row * c->k + place] += mb_half_to_float((uint16_t)get(b, 16));
        }
    free(width);
    free(codes);
    free(order);
    return rows;
}

static inline void check_stored(const struct mb_channelwise *c)
{
    struct bits b = serialise(c);
    align(&b);
    assert_int_equal(b.at / 8, mb_channelwise_total(&c->bytes));
    const size_t end = b.at;
    float *rows = read_back(&b, c), *decoded = malloc(c->n * c->k * sizeof *decoded);
    align(&b);
    assert_int_equal(b.at, end);
    mb_channelwise_decode(c, 0, c->n, decoded);
    for (size_t i = 0; i < c->n * c->k; i++)
        if (rows[i] != decoded[i])
            fail_msg("row %zu, column %zu: %g from the bits, %g decoded", i / c->k, i % c->k,
                     (double)rows[i], (double)decoded[i]);
    free(rows);
    free(decoded);
    free(b.data);
}

#endif
