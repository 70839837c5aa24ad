/* SPDX-License-Identifier: Apache-2.0 */
/* The record of docs/codebook-files.md. Where its parts lie follows from the header and the map by
 * the same count that the encoder aims with (mb_channelwise_count), so a record is as long as what
 * was counted, and one that was cut shows before anything is allocated for it. */
#include "model/channelwise_blob.h"

#include "kernels/half.h"
#include "model/channelwise_encoder.h"
#include "model/codebook_products.h"
#include "model/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FLAG_ROWS = 1 << 0,
    KIND_SHIFT = 1,
    KIND_MASK = 7,
    FLAG_BYTES = 1 << 4,
    FLAG_STACK = 1 << 5,
    FLAG_COLUMNS = 1 << 6, /* codebooks are the columns' own */
    FLAGS_KNOWN = FLAG_ROWS | KIND_MASK << KIND_SHIFT | FLAG_BYTES | FLAG_STACK | FLAG_COLUMNS,
    EACH_ROW = 65535 /* in place of how many columns share a scale */
};

/* By their number in the file. */
static const enum mb_code_kind kinds[] = {MB_CODES_KMEANS, MB_CODES_UNIFORM, MB_CODES_UNIFORM_MIN,
                                          MB_CODES_LOG};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

bool mb_blob_holds(const struct mb_channelwise_options *options, bool one_width)
{
    return mb_codebook_has_kernel(options, one_width) && options->scale_columns < EACH_ROW;
}

/* Places of the parts behind the header. */
struct places {
    size_t map, codes, codebooks, scales, outliers, end;
};

static struct places places_of(const struct mb_channelwise_bytes *bytes)
{
    struct places at = {.map = bytes->header};
    at.codes = at.map + bytes->map;
    at.codebooks = at.codes + bytes->codes;
    at.scales = at.codebooks + bytes->codebooks;
    at.outliers = at.scales + bytes->scales;
    at.end = at.outliers + bytes->outliers;
    return at;
}

static size_t outlier_place_bytes(const struct mb_channelwise *c)
{
    return MB_OUTLIER_ROWS * c->k > 65536 ? 4 : 2;
}

/* Whether the codebook of a width has fitted levels in it, not a step. */
static bool is_fitted(const struct mb_channelwise_options *options, unsigned bits)
{
    const enum mb_code_kind kind = mb_code_kind_of(options->codes, bits);
    return kind == MB_CODES_KMEANS || kind == MB_CODES_LLOYD;
}

/* ---- writing ---- */

static void put(uint8_t **at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        *(*at)++ = (uint8_t)(value >> (8 * i));
}

/* Bits behind those that there are, into memory that is zero. */
struct bit_writer {
    uint8_t *out;
    uint64_t at;
};

static void put_bits(struct bit_writer *w, unsigned value, unsigned bits)
{
    w->out[w->at / 8] |= (uint8_t)(value << w->at % 8);
    if (w->at % 8 + bits > 8)
        w->out[w->at / 8 + 1] |= (uint8_t)(value >> (8 - w->at % 8));
    w->at += bits;
}

static void write_header(const struct mb_channelwise *c, bool stacked, uint8_t *at)
{
    const struct mb_channelwise_options *o = &c->options;
    unsigned palette = 0, kind = 0;
    for (size_t w = 0; w < c->width_count; w++)
        palette |= 1u << (c->widths[w] - 1);
    for (unsigned i = 0; i < KINDS; i++)
        if (kinds[i] == o->codes)
            kind = i;
    put(&at, c->n, 4);
    put(&at, c->k, 4);
    put(&at, palette, 1);
    put(&at,
        (o->axis == MB_CHANNELS_OF_OUTPUT ? FLAG_ROWS : 0) | kind << KIND_SHIFT |
            (o->byte_codebook ? FLAG_BYTES : 0) | (stacked ? FLAG_STACK : 0) |
            (o->scope == MB_SCOPE_CHANNEL ? FLAG_COLUMNS : 0),
        1);
    put(&at, o->scale_columns == MB_SCALE_OF_ROW ? EACH_ROW : (uint64_t)o->scale_columns, 2);
    put(&at, c->outlier_count, 4);
}

static void write_codebooks(const struct mb_channelwise *c, uint8_t *at)
{
    size_t last = SIZE_MAX;
    for (size_t i = 0; i < c->channels; i++) {
        const size_t cell = c->first_cell[c->order[i]];
        const unsigned bits = c->widths[c->width[c->order[i]]];
        const float *levels = c->levels + c->first_level[cell];
        if (cell == last)
            continue;
        last = cell;
        const bool fitted = is_fitted(&c->options, bits), steps = c->options.byte_codebook;
        if (!fitted || steps)
            put(&at, c->step[cell][0], 2);
        if (mb_code_kind_of(c->options.codes, bits) == MB_CODES_UNIFORM_MIN)
            put(&at, c->step[cell][1], 2);
        const float d = mb_half_to_float(c->step[cell][0]);
        for (size_t level = 0; fitted && level < (size_t)1 << bits; level++)
            put(&at,
                !steps  ? mb_half_from_float(levels[level])
                : d > 0 ? (uint8_t)(int8_t)rintf(levels[level] / d)
                        : 0,
                steps ? 1 : 2);
    }
}

static void write_scales(const struct mb_channelwise *c, uint8_t *at)
{
    const bool rows = c->options.scale_columns == MB_SCALE_OF_ROW;
    if (c->scale_groups == 0)
        return;
    if (!rows)
        put(&at, mb_float_bits(c->scale_top), 4);
    for (size_t i = 0; i < c->n * c->scale_groups; i++)
        put(&at, c->scale_codes[i], rows ? 2 : 1);
}

static void write_outliers(const struct mb_channelwise *c, uint8_t *at)
{
    size_t first = 0;
    uint8_t *counts = at;
    at += (c->n + MB_OUTLIER_ROWS - 1) / MB_OUTLIER_ROWS * 4;
    for (size_t row = 0; c->outlier_count > 0 && row < c->n; row += MB_OUTLIER_ROWS) {
        size_t end = first;
        for (; end < c->outlier_count && c->outliers[end].row < row + MB_OUTLIER_ROWS; end++) {
            const struct mb_outlier *o = &c->outliers[end];
            put(&at, (uint64_t)(o->row - row) * c->k + o->column, outlier_place_bytes(c));
            put(&at, o->half, 2);
        }
        put(&counts, end - first, 4);
        first = end;
    }
}

void mb_blob_write(const struct mb_channelwise *c, bool stacked, uint8_t *out)
{
    const struct places at = places_of(&c->bytes);
    struct bit_writer map = {out + at.map, 0}, codes = {out + at.codes, 0};
    memset(out, 0, at.end);
    write_header(c, stacked, out);
    for (size_t channel = 0; channel < c->channels; channel++)
        put_bits(&map, c->width[channel], (unsigned)mb_map_bits(c->width_count));
    for (size_t i = 0; i < c->channels; i++)
        for (size_t j = 0; j < c->length; j++)
            put_bits(&codes, c->codes[c->order[i] * c->length + j],
                     c->widths[c->width[c->order[i]]]);
    write_codebooks(c, out + at.codebooks);
    write_scales(c, out + at.scales);
    write_outliers(c, out + at.outliers);
}

/* ---- header and map ---- */

static uint64_t get(const uint8_t *at, size_t bytes) { return mb_gguf_little_endian(at, bytes); }

static unsigned map_at(const uint8_t *map, size_t bits, size_t channel)
{
    unsigned value = 0;
    for (size_t i = 0; i < bits; i++) {
        const size_t at = channel * bits + i;
        value |= (map[at / 8] >> at % 8 & 1u) << i;
    }
    return value;
}

/* Bits of a part's last byte beyond those in use. */
static bool is_padded(const uint8_t *part, uint64_t bits)
{
    return bits % 8 == 0 || part[bits / 8] >> bits % 8 == 0;
}

static enum mb_status fail(struct mb_error *error, size_t where, const char *what)
{
    return mb_error_set(error, MB_ERR_FILE, (int64_t)where, "%s", what);
}

static enum mb_status read_options(const uint8_t *data, size_t bytes, struct mb_channelwise *c,
                                   bool *stacked, struct mb_error *error)
{
    if (bytes < MB_HEADER_BYTES)
        return fail(error, bytes, "the header of a matrix is cut off");
    const unsigned flags = data[9], kind = flags >> KIND_SHIFT & KIND_MASK;
    const size_t scale_columns = (size_t)get(data + 10, 2);
    const uint64_t n = get(data, 4), k = get(data + 4, 4);
    *c = (struct mb_channelwise){.n = (size_t)n, .k = (size_t)k};
    if (n == 0 || n > INT32_MAX)
        return fail(error, 0, "no such number of rows is possible");
    if (k == 0 || k > INT32_MAX)
        return fail(error, 4, "no such number of columns is possible");
    /* A weight takes a bit at least; no size of what follows overflows then. */
    if (n * k / 8 > bytes)
        return fail(error, 0, "the matrix has more weights than its tensor has bits");
    if (data[8] == 0)
        return fail(error, 8, "the palette of widths is empty");
    if ((flags & ~(unsigned)FLAGS_KNOWN) != 0 || kind >= KINDS)
        return fail(error, 9, "the matrix is stored in a way that this version does not know");
    const struct mb_channelwise_options options = {
        .axis = flags & FLAG_ROWS ? MB_CHANNELS_OF_OUTPUT : MB_CHANNELS_OF_INPUT,
        .palette = (unsigned)data[8] << 1,
        .codes = kinds[kind],
        .scope = flags & FLAG_COLUMNS ? MB_SCOPE_CHANNEL : MB_SCOPE_TENSOR,
        .byte_codebook = (flags & FLAG_BYTES) != 0,
        .scale_columns = scale_columns == EACH_ROW ? MB_SCALE_OF_ROW : (int)scale_columns};
    *stacked = (flags & FLAG_STACK) != 0;
    mb_channelwise_settle(c, &options);
    if (!mb_blob_holds(&options, c->width_count == 1))
        return fail(error, 8, "rows of several widths or codebooks, which no kernel reads");
    c->outlier_count = (size_t)get(data + 12, 4);
    return c->outlier_count > c->n * c->k ? fail(error, 12, "there are more outliers than weights")
                                          : MB_OK;
}

/* Options, and c->bytes: all of them are there. Nothing is allocated. */
static enum mb_status read_front(const uint8_t *data, size_t bytes, struct mb_channelwise *c,
                                 bool *stacked, struct mb_error *error)
{
    const enum mb_status status = read_options(data, bytes, c, stacked, error);
    if (status != MB_OK)
        return status;
    const size_t bits = mb_map_bits(c->width_count);
    const uint8_t *map = data + MB_HEADER_BYTES;
    if ((c->channels * bits + 7) / 8 > bytes - MB_HEADER_BYTES)
        return fail(error, bytes, "the map of widths is cut off");
    size_t counts[MB_MOST_WIDTHS] = {0};
    for (size_t channel = 0; channel < c->channels; channel++) {
        const unsigned width = map_at(map, bits, channel);
        if (width >= c->width_count)
            return fail(error, MB_HEADER_BYTES + channel * bits / 8,
                        "a channel has a width that is not in the palette");
        counts[width]++;
    }
    if (!is_padded(map, c->channels * bits))
        return fail(error, MB_HEADER_BYTES + c->channels * bits / 8,
                    "the map of widths ends in bits that are not 0");
    c->bytes = mb_channelwise_count(c, counts, c->outlier_count);
    return mb_channelwise_total(&c->bytes) > bytes
               ? fail(error, bytes, "the matrix is cut off: its parts need more bytes")
               : MB_OK;
}

enum mb_status mb_blob_measure(const uint8_t *data, size_t bytes, struct mb_blob_shape *shape,
                               struct mb_error *error)
{
    struct mb_channelwise c;
    bool stacked = false;
    const enum mb_status status = read_front(data, bytes, &c, &stacked, error);
    if (status == MB_OK)
        *shape = (struct mb_blob_shape){c.n, c.k, mb_channelwise_total(&c.bytes), stacked};
    return status;
}

/* ---- the other parts ---- */

struct reader {
    const uint8_t *data;
    struct mb_channelwise *c;
    struct places at;
    struct mb_error *error;
};

/* Order, and room for all else. */
static enum mb_status lay_out(const struct reader *r)
{
    struct mb_channelwise *c = r->c;
    const size_t bits = mb_map_bits(c->width_count);
    struct mb_encoder e = {.out = c,
                           .strip_first = malloc((c->channels + 1) * sizeof *e.strip_first),
                           .columns = malloc(c->k * sizeof *e.columns),
                           .group_first = malloc((c->k + 1) * sizeof *e.group_first)};
    c->width = malloc(c->channels);
    c->order = malloc(c->channels * sizeof *c->order);
    c->first_cell = malloc(c->channels * sizeof *c->first_cell);
    c->first_bit = malloc(c->channels * sizeof *c->first_bit);
    c->outliers = malloc((c->outlier_count + 1) * sizeof *c->outliers);
    enum mb_status status = e.strip_first && e.columns && e.group_first && c->width && c->order &&
                                    c->first_cell && c->first_bit && c->outliers
                                ? MB_OK
                                : MB_ERR_MEMORY;
    for (size_t channel = 0; status == MB_OK && channel < c->channels; channel++)
        c->width[channel] = (uint8_t)map_at(r->data + r->at.map, bits, channel);
    if (status == MB_OK)
        status = mb_lay_out(&e);
    free(e.strip_first);
    free(e.columns);
    free(e.group_first);
    return status == MB_OK ? MB_OK
                           : mb_error_set(r->error, status, -1, "out of memory for its parts");
}

static enum mb_status find_codes(const struct reader *r)
{
    struct mb_channelwise *c = r->c;
    uint64_t at = 0;
    for (size_t i = 0; i < c->channels; i++) {
        c->first_bit[c->order[i]] = at;
        at += (uint64_t)c->length * c->widths[c->width[c->order[i]]];
    }
    c->stream = r->data + r->at.codes;
    return is_padded(c->stream, at) ? MB_OK
                                    : fail(r->error, r->at.codes + (size_t)(at / 8),
                                           "the codes end in bits that are not 0");
}

static bool is_finite_half(uint64_t half) { return (half & 0x7fff) < 0x7c00; }

/* One codebook; *at moves behind it. */
static enum mb_status read_codebook(const struct reader *r, size_t cell, unsigned bits, size_t *at)
{
    struct mb_channelwise *c = r->c;
    const size_t begin = *at, count = (size_t)1 << bits;
    const enum mb_code_kind kind = mb_code_kind_of(c->options.codes, bits);
    const bool fitted = is_fitted(&c->options, bits), steps = c->options.byte_codebook;
    float *levels = c->levels + c->first_level[cell];
    uint16_t *step = c->step[cell];
    for (size_t i = 0; i < (kind == MB_CODES_UNIFORM_MIN ? 2 : !fitted || steps ? 1 : 0); i++) {
        step[i] = (uint16_t)get(r->data + *at, 2);
        if (!is_finite_half(step[i]))
            return fail(r->error, *at, "the step of a codebook is not finite");
        *at += 2;
    }
    if (!fitted)
        mb_codebook_levels(kind, bits, step, levels);
    for (size_t i = 0; fitted && i < count; i++) {
        const uint16_t value = (uint16_t)get(r->data + *at, steps ? 1 : 2);
        if (steps ? value == 0x80 : !is_finite_half(value))
            return fail(r->error, *at, "a level is out of range");
        levels[i] =
            steps ? mb_half_to_float(step[0]) * (float)(int8_t)value : mb_half_to_float(value);
        *at += steps ? 1 : 2;
    }
    for (size_t i = 1; i < count; i++)
        if (levels[i] < levels[i - 1])
            return fail(r->error, begin, "the levels of a codebook do not ascend");
    return MB_OK;
}

static enum mb_status read_codebooks(const struct reader *r)
{
    const struct mb_channelwise *c = r->c;
    size_t at = r->at.codebooks, last = SIZE_MAX;
    enum mb_status status = MB_OK;
    for (size_t i = 0; i < c->channels && status == MB_OK; i++) {
        const size_t cell = c->first_cell[c->order[i]];
        if (cell != last)
            status = read_codebook(r, cell, c->widths[c->width[c->order[i]]], &at);
        last = cell;
    }
    return status;
}

static enum mb_status read_scales(const struct reader *r)
{
    struct mb_channelwise *c = r->c;
    const bool rows = c->options.scale_columns == MB_SCALE_OF_ROW;
    size_t at = r->at.scales;
    float largest = c->scale_groups > 0 ? 0 : 1, most = 0;
    if (c->scale_groups > 0 && !rows) {
        c->scale_top = mb_float_from_bits((uint32_t)get(r->data + at, 4));
        if (!isfinite(c->scale_top) || signbit(c->scale_top))
            return fail(r->error, at, "the top of the scales is negative or not finite");
        at += 4;
    }
    for (size_t i = 0; i < c->n * c->scale_groups; i++, at += rows ? 2 : 1) {
        const uint16_t code = (uint16_t)get(r->data + at, rows ? 2 : 1);
        if (rows && (!is_finite_half(code) || code > 0x7fff))
            return fail(r->error, at, "a scale is negative or not finite");
        c->scale_codes[i] = code;
        c->scales[i] = rows ? mb_half_to_float(code) : mb_scale_of_code(c->scale_top, code);
        largest = c->scales[i] > largest ? c->scales[i] : largest;
    }
    for (size_t i = 0; i < c->first_level[c->cell_count]; i++)
        most = fabsf(c->levels[i]) > most ? fabsf(c->levels[i]) : most;
    return isfinite(most * largest) ? MB_OK
                                    : fail(r->error, r->at.scales, "scaled levels overflow");
}

/* Those of rows [row, row + 16), from place *at on. */
static enum mb_status read_panel(const struct reader *r, size_t row, size_t count, size_t *used,
                                 size_t *at)
{
    struct mb_channelwise *c = r->c;
    const size_t rows = c->n - row < MB_OUTLIER_ROWS ? c->n - row : MB_OUTLIER_ROWS;
    const size_t place_bytes = outlier_place_bytes(c);
    uint64_t next = 0; /* the least place that may follow */
    for (size_t i = 0; i < count; i++, *at += place_bytes + 2) {
        const uint64_t place = get(r->data + *at, place_bytes);
        const uint16_t half = (uint16_t)get(r->data + *at + place_bytes, 2);
        if (place >= (uint64_t)rows * c->k)
            return fail(r->error, *at, "an outlier is beyond its rows");
        if (place < next)
            return fail(r->error, *at, "outliers are out of order");
        if (!is_finite_half(half))
            return fail(r->error, *at + place_bytes, "an outlier is not finite");
        next = place + 1;
        c->outliers[(*used)++] = (struct mb_outlier){(uint32_t)(row + (size_t)place / c->k),
                                                     (uint32_t)((size_t)place % c->k), half};
    }
    return MB_OK;
}

static enum mb_status read_outliers(const struct reader *r)
{
    struct mb_channelwise *c = r->c;
    size_t counts = r->at.outliers, used = 0;
    size_t at = counts + (c->n + MB_OUTLIER_ROWS - 1) / MB_OUTLIER_ROWS * 4;
    enum mb_status status = MB_OK;
    for (size_t row = 0; c->outlier_count > 0 && status == MB_OK && row < c->n;
         row += MB_OUTLIER_ROWS, counts += 4) {
        const size_t count = (size_t)get(r->data + counts, 4);
        if (count > c->outlier_count - used)
            return fail(r->error, counts, "counts of outliers exceed their number");
        status = read_panel(r, row, count, &used, &at);
    }
    return status == MB_OK && used < c->outlier_count
               ? fail(r->error, r->at.outliers, "counts of outliers are less than their number")
               : status;
}

enum mb_status mb_blob_read(const uint8_t *data, size_t bytes, struct mb_channelwise *encoded,
                            struct mb_error *error)
{
    struct reader r = {.data = data, .c = encoded, .error = error};
    bool stacked = false;
    enum mb_status status = read_front(data, bytes, encoded, &stacked, error);
    if (status != MB_OK)
        return status;
    r.at = places_of(&encoded->bytes);
    enum mb_status (*const parts[])(const struct reader *r) = {lay_out, find_codes, read_codebooks,
                                                               read_scales, read_outliers};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && status == MB_OK; i++)
        status = parts[i](&r);
    if (status != MB_OK)
        mb_channelwise_free(encoded);
    return status;
}
