/* SPDX-License-Identifier: Apache-2.0 */
/* Codebooks by channel: one matrix quantized with a code width of its own for every channel, levels
 * that are fitted instead of fixed, and single weights kept in f16 beside the codes.
 *
 * CMPQ (arXiv 2410.13056) is one setting of these options, and so are the textbook schemes from one
 * scale per tensor to weight sharing. Every option costs bits, and all are counted: the encoder is
 * asked for bits per weight with everything in it, and finds how many channels can have the wider
 * codes. docs/method.md "Channel-wise mixed precision" says what is the paper's. Rows come out as
 * floats; with one codebook per width and widths by column, or one codebook per column, kernels
 * multiply by the codes (model/codebook_products.h). No kernel reads codebooks per row, group or
 * block.
 *
 * What is stored, part by part, is what struct mb_channelwise_bytes counts, and what files of such
 * matrices hold (channelwise_blob.h, docs/codebook-files.md):
 *   header      HEADER bytes: the options
 *   map         the width of every channel, as an index into the palette; by it channels are put
 *               in order: widest first, else as they were
 *   codes       of all channels in that order, channel by channel; code i is the i-th lowest level
 *   codebooks   k-means: an f16 per level, or an int8 per level and one f16 scale; uniform and
 *               logarithmic: an f16 step; with a minimum: an f16 more
 *   scales      by row: an f16; by group of columns (in that order, across widths): a byte,
 *               16 to the octave below an f32 of the tensor, 0 for a group of zeros
 *   outliers    for every 16 rows how many (u32), for each its place in them (u16, or u32 where
 *               16 k exceeds 65536) and an f16 that is added to what its code says */
#ifndef MIXBIT_MODEL_CHANNELWISE_H
#define MIXBIT_MODEL_CHANNELWISE_H

#include "mixbit/model.h"

#include <stdbool.h>
#include <stdint.h>

enum mb_channel_axis { MB_CHANNELS_OF_INPUT, MB_CHANNELS_OF_OUTPUT }; /* columns; rows */

enum mb_code_kind {
    MB_CODES_KMEANS,
    MB_CODES_LLOYD,       /* k-means by Lloyd's iteration, for comparison */
    MB_CODES_UNIFORM,     /* step * [-2^(b-1), 2^(b-1) - 1] */
    MB_CODES_UNIFORM_MIN, /* step * [0, 2^b - 1] + minimum */
    MB_CODES_LOG          /* step * +-2^-e, e in [0, 2^(b-1) - 1] */
};

/* What shares a codebook. */
enum mb_codebook_scope {
    MB_SCOPE_CHANNEL,
    MB_SCOPE_GROUP, /* scope_size weights of a channel that follow each other */
    MB_SCOPE_BLOCK, /* scope_size channels of one width that follow each other */
    MB_SCOPE_TENSOR /* all channels of one width */
};

enum mb_width_rule {
    MB_WIDTHS_BY_NORM, /* the channels of the largest activation norm have the wider codes */
    MB_WIDTHS_BY_ERROR /* those where a wider code takes most from the output's squared error */
};

enum { MB_MOST_WIDTHS = 8, MB_MOST_CODE_BITS = 8, MB_SCALE_OF_ROW = -1 };

/* Rows whose errors count by moments of their own. */
struct mb_row_groups {
    size_t count;
    const size_t *order, *ends; /* the rows, group after group; [count]: where a group ends */
    /* [k][k] of a group, valid until the next call; *h NULL: those of all rows. */
    enum mb_status (*moments)(void *user, size_t group, const float **h);
    void *user;
};

struct mb_channelwise_options {
    double bits; /* per weight, all included, that the widths are chosen for, */
    bool within; /* which are not to be exceeded, as far as the narrowest widths allow */
    enum mb_channel_axis axis;
    unsigned palette; /* bit b set: codes of b bits may be used, 1 to 8; 0: 2, 3, 4 and 8 bits */
    enum mb_width_rule rule;
    double spread; /* share of channels, at either end of the order, that get one width more or less
                      than `rule` says; in [0, 0.5] */
    size_t align;  /* widths change at multiples of so many channels, of those in order of storage:
                      what kernels pad to (codebook.h: 32); 0: anywhere */
    enum mb_code_kind codes; /* widths of 8 bits have uniform codes with a minimum for k-means:
                                256 centroids would be a codebook larger than what it saves */
    enum mb_codebook_scope scope;
    size_t scope_size;
    bool byte_codebook; /* k-means: int8 levels with an f16 scale, else f16 */
    int scale_columns;  /* weights are divided by a scale of their row's (MB_SCALE_OF_ROW) or of its
                           groups of so many columns before they share a codebook; 0: not */
    bool plain;         /* codebooks and scales are fitted as if all columns mattered alike */
    double
        activation_outliers; /* share of weights kept beside the codes: the largest of those in */
    double outlier_channels; /* this share of the columns of largest activation norm (0: 0.1) */
    double error_outliers;   /* share kept because their codes are farthest off */
    size_t rounds;           /* of fitting codebooks and scales in turns; 0: 2 */
    bool feedback;           /* with moments: codes make up for the errors of others */
    const float *moments;    /* [k][k]: mean products of activations, k a multiple of 16; NULL:
                                not known */
    const struct mb_row_groups *groups; /* with moments; NULL: they are those of every row */
};

struct mb_channelwise_bytes {
    size_t header, map, codes, codebooks, scales, outliers;
};
size_t mb_channelwise_total(const struct mb_channelwise_bytes *bytes);

struct mb_outlier {
    uint32_t row, column;
    uint16_t half; /* f16, added */
};

struct mb_channelwise {
    size_t n, k, channels, length; /* length: weights of a channel */
    struct mb_channelwise_options options;
    bool reached; /* false: even all widths lowest (or highest) miss the wanted bits */
    size_t width_count;
    unsigned widths[MB_MOST_WIDTHS]; /* the palette, ascending */
    uint8_t *width;                  /* [channels]: index into widths */
    uint32_t *order;                 /* [channels]: as they are stored */
    uint8_t *codes;                  /* [channels][length]; NULL: they stay where they were read */
    const uint8_t *stream;           /* from: one behind the other, */
    uint64_t *first_bit;             /* [channels]: from this bit on */
    /* Weight i of channel c reads codebook first_cell[c] + i / cell_length. */
    size_t cell_count, cell_length;
    uint32_t *first_cell;
    uint16_t (*step)[2]; /* [cells]: f16 step (or scale) and minimum where the kind has them */
    size_t *first_level; /* [cells + 1] */
    float *levels;       /* ascending within a cell */
    /* The scale of row r, column c is scales[r * scale_groups + scale_of[c]]. */
    size_t scale_groups; /* 0: none */
    uint32_t *scale_of;
    uint16_t *scale_codes;
    float scale_top; /* of groups: scale of code 255 */
    float *scales;
    size_t outlier_count;
    struct mb_outlier *outliers; /* by row, then column */
    struct mb_channelwise_bytes bytes;
    double error; /* RMS(w - w') / RMS(w) of the products: columns weigh as their activations */
};

/* Code i of a channel. */
static inline uint8_t mb_code_at(const struct mb_channelwise *c, size_t channel, size_t i)
{
    if (c->codes != NULL)
        return c->codes[channel * c->length + i];
    const unsigned bits = c->widths[c->width[channel]];
    const uint64_t at = c->first_bit[channel] + (uint64_t)i * bits;
    const uint8_t *byte = c->stream + at / 8;
    unsigned window = byte[0];
    if (at % 8 + bits > 8)
        window |= (unsigned)byte[1] << 8;
    return (uint8_t)(window >> at % 8 & ((1u << bits) - 1));
}

/**
 * Encode rows[n][k]. `activations` holds the mean squared activation of every column; NULL: 1 each.
 *
 * Memory   some 8 bytes per weight while it works, 1 when it is done.
 * Threads  `threads` (NULL: this one); the result does not depend on them.
 * @return MB_OK; MB_ERR_ARGUMENT: an option is out of range, a weight is not finite or an
 * activation is negative or not finite; MB_ERR_SHAPE: n or k is 0 or exceeds 2^31; MB_ERR_MEMORY.
 * Nothing is to be freed then.
 */
enum mb_status mb_channelwise_encode(const float *rows, size_t n, size_t k,
                                     const float *activations,
                                     const struct mb_channelwise_options *options,
                                     struct mb_threads *threads, struct mb_channelwise *encoded);
/* Rows [row0, row1) as they are read back. */
void mb_channelwise_decode(const struct mb_channelwise *encoded, size_t row0, size_t row1,
                           float *rows);
void mb_channelwise_free(struct mb_channelwise *encoded);
double mb_channelwise_bits(const struct mb_channelwise *encoded); /* per weight, all included */

#endif
