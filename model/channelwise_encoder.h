/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the channel-wise encoder: what its parts (widths, scales, codebooks, outliers) work on
 * together. A channel is a row of `x`, whichever axis it lies on. */
#ifndef MIXBIT_MODEL_CHANNELWISE_ENCODER_H
#define MIXBIT_MODEL_CHANNELWISE_ENCODER_H

#include "model/channelwise.h"
#include "model/codebook.h"
#include "model/network.h"

enum { MB_HEADER_BYTES = 16, MB_OUTLIER_ROWS = 16 };

struct mb_encoder {
    struct mb_channelwise *out;
    struct mb_threads *threads;
    float *x;         /* [channels][length] */
    float *effect;    /* [k]: mean squared activations, the largest is 1 */
    float *fitted;    /* [k]: what columns weigh when levels and scales are fitted */
    double *score;    /* [channels]: what widths go by */
    uint8_t *outlier; /* [channels][length]: 1: kept beside the codes, no say in a fit */
    /* Channels in the order of storage, cut where a codebook's reach ends. */
    size_t strips;
    uint32_t *strip_first; /* [strips + 1] */
    /* Columns of a row in the order that scales go by; a group is [group_first[g], ..[g + 1]). */
    uint32_t *columns, *group_first;
};

static inline size_t mb_row_of(const struct mb_encoder *e, size_t channel, size_t i)
{
    return e->out->options.axis == MB_CHANNELS_OF_INPUT ? i : channel;
}

static inline size_t mb_column_of(const struct mb_encoder *e, size_t channel, size_t i)
{
    return e->out->options.axis == MB_CHANNELS_OF_INPUT ? channel : i;
}

/* 1 without scales. */
static inline float mb_scale_at(const struct mb_channelwise *c, size_t row, size_t column)
{
    return c->scale_groups > 0 ? c->scales[row * c->scale_groups + c->scale_of[column]] : 1.0f;
}

static inline const float *mb_levels_at(const struct mb_channelwise *c, size_t channel, size_t i)
{
    return c->levels + c->first_level[c->first_cell[channel] + i / c->cell_length];
}

/* Where a weight, its code and whether it is an outlier lie. */
static inline size_t mb_place_of(const struct mb_channelwise *c, size_t row, size_t column)
{
    return c->options.axis == MB_CHANNELS_OF_INPUT ? column * c->length + row
                                                   : row * c->length + column;
}

/* Which of all levels a weight has. */
static inline size_t mb_level_of(const struct mb_channelwise *c, size_t row, size_t column)
{
    const bool columns = c->options.axis == MB_CHANNELS_OF_INPUT;
    const size_t channel = columns ? column : row, i = columns ? row : column;
    return c->first_level[c->first_cell[channel] + i / c->cell_length] +
           c->codes[mb_place_of(c, row, column)];
}

/* errors[k] of a row's codes, where none of its weights is an outlier. */
static inline void mb_read_errors(const struct mb_encoder *e, size_t row, float *errors)
{
    const struct mb_channelwise *c = e->out;
    for (size_t column = 0; column < c->k; column++)
        errors[column] = e->x[mb_place_of(c, row, column)] -
                         mb_scale_at(c, row, column) * c->levels[mb_level_of(c, row, column)];
}

/* ---- options (channelwise.c) ---- */

/* Options with their defaults, and what follows from them: widths, channels, their length. */
void mb_channelwise_settle(struct mb_channelwise *out,
                           const struct mb_channelwise_options *options);

/* ---- widths (channelwise_widths.c) ---- */

/* Bits of a channel in the map, where a palette has so many widths. */
size_t mb_map_bits(size_t widths);

/* What an encoding takes whose channels have these widths: counts[] by index into the palette. */
struct mb_channelwise_bytes mb_channelwise_count(const struct mb_channelwise *out,
                                                 const size_t *counts, size_t outliers);
/* Fill out->width so that the total is nearest to the bits wanted. errors[channels][widths] is what
 * each channel would lose, for MB_WIDTHS_BY_ERROR. */
enum mb_status mb_choose_widths(struct mb_encoder *e, const double *errors, size_t outliers);
/* order, groups of scales and strips for the widths as they are. Of the encoder only out,
 * strip_first, columns and group_first are used. */
enum mb_status mb_lay_out(struct mb_encoder *e);

/* ---- codebooks (channelwise_codebooks.c) ---- */

/* errors[channels][widths], under a codebook of the scope's kind for each width. */
enum mb_status mb_channel_errors(struct mb_encoder *e, double *errors);
enum mb_status mb_fit_codebooks(struct mb_encoder *e);
void mb_assign_codes(struct mb_encoder *e);

/* The same by options.moments (channelwise_feedback.c). */
enum mb_status mb_assign_with_feedback(struct mb_encoder *e);

/* ---- levels by whole rows' errors (channelwise_refit.c) ---- */

/* Whether there is anything to refit: fitted levels of widths, no outliers. */
bool mb_can_refit(const struct mb_encoder *e);
struct mb_refit;
struct mb_refit *mb_refit_create(struct mb_encoder *e); /* NULL: out of memory */
/* Rows, or as many from the first on, whose errors count by h[k][k]. */
enum mb_status mb_refit_add(struct mb_refit *refit, const float *h, const size_t *rows,
                            size_t count);
/* Move the levels to where they are best for the codes that there are; false: they stay. */
bool mb_refit_apply(struct mb_refit *refit);
void mb_refit_free(struct mb_refit *refit);

/* ---- scales (channelwise_scales.c) ---- */

/* What a byte of a tensor's scales stands for. */
float mb_scale_of_code(float top, int code);
/* The code nearest to a scale, which no other than a group of zeros has 0 for; giving it to a
 * group.
 */
int mb_nearest_scale(const struct mb_channelwise *out, float scale);
void mb_set_scale(struct mb_channelwise *out, size_t at, int code);
/* The RMS of every group. */
void mb_begin_scales(struct mb_encoder *e);
/* The best scales for the codebooks as they are, within `reach` sixteenths of an octave. */
void mb_refine_scales(struct mb_encoder *e, int reach);

/* ---- outliers (channelwise_outliers.c) ---- */

/* Mark `count` more weights: the largest within the columns of largest activation norm, or those
 * that their codes are farthest from. */
enum mb_status mb_mark_largest(struct mb_encoder *e, size_t count);
enum mb_status mb_mark_farthest(struct mb_encoder *e, size_t count);
/* Fill out->outliers with what is marked. */
enum mb_status mb_list_outliers(struct mb_encoder *e);

#endif
