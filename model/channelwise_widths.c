/* SPDX-License-Identifier: Apache-2.0 */
/* Which channel gets which width, so that codes, codebooks, scales, map and outliers together come
 * nearest to the bits that were asked for.
 *
 * A rule makes a chain of assignments, each with one wider channel more than the one before. What
 * an assignment takes follows from how many channels it has of each width, and it only grows along
 * the chain, so the place that meets the target is found by halving. */
#include "model/channelwise_encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what it takes ---- */

static size_t parts(size_t count, size_t size) { return (count + size - 1) / size; }

size_t mb_map_bits(size_t widths) { return widths > 4 ? 3 : widths > 2 ? 2 : widths - 1; }

static size_t codebooks_of(const struct mb_channelwise *out, size_t channels)
{
    switch (out->options.scope) {
    case MB_SCOPE_CHANNEL: return channels;
    case MB_SCOPE_GROUP: return channels * parts(out->length, out->cell_length);
    case MB_SCOPE_BLOCK: return parts(channels, out->options.scope_size);
    default: return channels > 0;
    }
}

struct mb_channelwise_bytes mb_channelwise_count(const struct mb_channelwise *out,
                                                 const size_t *counts, size_t outliers)
{
    const struct mb_channelwise_options *o = &out->options;
    struct mb_channelwise_bytes bytes = {.header = MB_HEADER_BYTES};
    size_t codes = 0, codebooks = 0;
    for (size_t w = 0; w < out->width_count; w++) {
        codes += counts[w] * out->length * out->widths[w];
        codebooks += codebooks_of(out, counts[w]) *
                     mb_codebook_bits(o->codes, o->byte_codebook, out->widths[w]);
    }
    bytes.map = parts(out->channels * mb_map_bits(out->width_count), 8);
    bytes.codes = parts(codes, 8);
    bytes.codebooks = parts(codebooks, 8);
    if (o->scale_columns == MB_SCALE_OF_ROW)
        bytes.scales = 2 * out->n;
    else if (o->scale_columns > 0)
        bytes.scales = 4 + parts(out->k, (size_t)o->scale_columns) * out->n;
    if (outliers > 0)
        bytes.outliers = 4 * parts(out->n, MB_OUTLIER_ROWS) +
                         outliers * (MB_OUTLIER_ROWS * out->k > 65536 ? 6 : 4);
    return bytes;
}

/* ---- chains ---- */

struct step {
    uint32_t channel;
    uint8_t from, to;
    double gain; /* error taken away per bit */
};

/* The steps of a chain, or the ranks that one is made of. */
struct chain {
    struct mb_encoder *e;
    uint32_t *rank; /* channels, highest score first */
    struct step *steps;
    size_t count;
};

struct ranked {
    double score;
    uint32_t channel;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->channel > y->channel) - (x->channel < y->channel);
}

static int by_gain(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->gain != y->gain)
        return x->gain < y->gain ? 1 : -1;
    if (x->channel != y->channel)
        return x->channel < y->channel ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

static bool rank_channels(struct chain *chain)
{
    const size_t channels = chain->e->out->channels;
    struct ranked *ranked = malloc(channels * sizeof *ranked);
    chain->rank = malloc(channels * sizeof *chain->rank);
    if (ranked != NULL && chain->rank != NULL) {
        for (size_t c = 0; c < channels; c++)
            ranked[c] = (struct ranked){chain->e->score[c], (uint32_t)c};
        qsort(ranked, channels, sizeof *ranked, by_score);
        for (size_t c = 0; c < channels; c++)
            chain->rank[c] = ranked[c].channel;
    }
    free(ranked);
    chain->count = channels * (chain->e->out->width_count - 1);
    return chain->rank != NULL;
}

static double step_bits(const struct mb_channelwise *out, size_t from, size_t to)
{
    const struct mb_channelwise_options *o = &out->options;
    const double own =
        o->scope == MB_SCOPE_CHANNEL || o->scope == MB_SCOPE_GROUP
            ? (double)codebooks_of(out, 1) *
                  ((double)mb_codebook_bits(o->codes, o->byte_codebook, out->widths[to]) -
                   (double)mb_codebook_bits(o->codes, o->byte_codebook, out->widths[from]))
            : 0;
    return own + (double)out->length * (double)(out->widths[to] - out->widths[from]);
}

/* The lower convex hull of a channel's errors over its bits: each step is to the width from which
 * the most is gained per bit, so gains fall along the channel and steps stay in order when all are
 * sorted. */
static bool hull_steps(struct chain *chain, const double *errors)
{
    const struct mb_channelwise *out = chain->e->out;
    const size_t widths = out->width_count;
    chain->steps = malloc(out->channels * widths * sizeof *chain->steps);
    if (chain->steps == NULL)
        return false;
    for (size_t c = 0; c < out->channels; c++) {
        const double *error = errors + c * widths;
        for (size_t at = 0; at + 1 < widths;) {
            struct step best = {(uint32_t)c, (uint8_t)at, 0, -INFINITY};
            for (size_t to = at + 1; to < widths; to++) {
                const double gain = (error[at] - error[to]) / step_bits(out, at, to);
                if (gain > best.gain) {
                    best.gain = gain;
                    best.to = (uint8_t)to;
                }
            }
            chain->steps[chain->count++] = best;
            at = best.to;
        }
    }
    qsort(chain->steps, chain->count, sizeof *chain->steps, by_gain);
    return true;
}

/* The nearest multiple of what widths are to change at; the channels that there are at most. */
static size_t aligned(const struct mb_channelwise *out, size_t channels)
{
    const size_t align = out->options.align, rounded = (channels + align / 2) / align * align;
    return rounded < out->channels ? rounded : out->channels;
}

/* Widths of place t, each width and those above it for a multiple of `align` channels: those of
 * wider codes, then the first that come to this width along the chain. */
static void take_aligned(const struct chain *chain, size_t t)
{
    struct mb_channelwise *out = chain->e->out;
    size_t wider = 0; /* channels that have their width */
    memset(out->width, 0, out->channels);
    for (size_t w = out->width_count; --w > 0;) {
        size_t wanted = 0;
        for (size_t s = 0; s < t; s++)
            wanted += chain->steps[s].from < w && chain->steps[s].to >= w;
        wanted = aligned(out, wanted);
        for (size_t s = 0; s < chain->count && wider < wanted; s++) {
            const struct step *step = &chain->steps[s];
            if (step->from >= w || step->to < w || out->width[step->channel] > 0)
                continue;
            out->width[step->channel] = (uint8_t)w;
            wider++;
        }
    }
}

/* Widths of place t of the chain. */
static void take(const struct chain *chain, size_t t)
{
    struct mb_channelwise *out = chain->e->out;
    const size_t channels = out->channels, top = out->width_count - 1;
    if (chain->steps != NULL && out->options.align > 0) {
        take_aligned(chain, t);
        return;
    }
    if (chain->steps != NULL) {
        memset(out->width, 0, channels);
        for (size_t s = 0; s < t; s++)
            if (chain->steps[s].to > out->width[chain->steps[s].channel])
                out->width[chain->steps[s].channel] = chain->steps[s].to;
        return;
    }
    const size_t ends = (size_t)(out->options.spread * (double)channels),
                 wider = out->options.align > 0 ? aligned(out, t % channels) : t % channels;
    for (size_t r = 0; r < channels; r++) {
        size_t width = t / channels + (r < wider);
        if (r < ends && width < top)
            width++;
        else if (r >= channels - ends && width > 0)
            width--;
        out->width[chain->rank[r]] = (uint8_t)width;
    }
}

static double bits_at(const struct chain *chain, size_t t, size_t outliers)
{
    const struct mb_channelwise *out = chain->e->out;
    size_t counts[MB_MOST_WIDTHS] = {0};
    take(chain, t);
    for (size_t c = 0; c < out->channels; c++)
        counts[out->width[c]]++;
    const struct mb_channelwise_bytes bytes = mb_channelwise_count(out, counts, outliers);
    return 8 * (double)mb_channelwise_total(&bytes) / ((double)out->n * (double)out->k);
}

/* The last place within the bits, or the one behind it when that is nearer and allowed. */
static void find_place(struct chain *chain, size_t outliers)
{
    struct mb_channelwise *out = chain->e->out;
    const double wanted = out->options.bits;
    size_t low = 0, high = chain->count; /* the last place within the bits is in [low, high] */
    while (low < high) {
        const size_t middle = high - (high - low) / 2;
        if (bits_at(chain, middle, outliers) <= wanted)
            low = middle;
        else
            high = middle - 1;
    }
    double off = fabs(bits_at(chain, low, outliers) - wanted);
    if (!out->options.within && low < chain->count &&
        fabs(bits_at(chain, low + 1, outliers) - wanted) < off)
        off = fabs(bits_at(chain, ++low, outliers) - wanted);
    const bool at_end = low == 0 || low == chain->count;
    out->reached = !at_end || off <= 0.01;
    take(chain, low);
}

enum mb_status mb_choose_widths(struct mb_encoder *e, const double *errors, size_t outliers)
{
    struct chain chain = {.e = e};
    const bool made = errors ? hull_steps(&chain, errors) : rank_channels(&chain);
    if (made)
        find_place(&chain, outliers);
    free(chain.rank);
    free(chain.steps);
    return made ? MB_OK : MB_ERR_MEMORY;
}

/* ---- the order of storage ---- */

/* Codebooks lie strip by strip; a strip is what one codebook reaches, or a channel with its own. */
static void cut_strips(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    const enum mb_codebook_scope scope = out->options.scope;
    size_t size = 1, cells = 1;
    if (scope == MB_SCOPE_BLOCK)
        size = out->options.scope_size;
    else if (scope == MB_SCOPE_TENSOR)
        size = out->channels;
    else
        cells = parts(out->length, out->cell_length);
    e->strips = 0;
    size_t begun = 0;
    for (size_t at = 0; at < out->channels; at++) {
        const uint32_t channel = out->order[at];
        const bool fresh =
            at == 0 || at - begun == size || out->width[channel] != out->width[out->order[at - 1]];
        if (fresh) {
            begun = at;
            e->strip_first[e->strips++] = (uint32_t)at;
        }
        out->first_cell[channel] = (uint32_t)((e->strips - 1) * cells);
    }
    e->strip_first[e->strips] = (uint32_t)out->channels;
    out->cell_count = e->strips * cells;
}

static void cut_groups(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    const bool columns = out->options.axis == MB_CHANNELS_OF_INPUT;
    const size_t size =
        out->options.scale_columns > 0 ? (size_t)out->options.scale_columns : out->k;
    out->scale_groups = 0;
    for (size_t at = 0; at < out->k && out->options.scale_columns != 0; at++) {
        const uint32_t column = columns ? out->order[at] : (uint32_t)at;
        if (at % size == 0)
            e->group_first[out->scale_groups++] = (uint32_t)at;
        e->columns[at] = column;
        out->scale_of[column] = (uint32_t)(out->scale_groups - 1);
    }
    e->group_first[out->scale_groups] = (uint32_t)out->k;
}

enum mb_status mb_lay_out(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    size_t at = 0, levels = 0;
    for (size_t w = out->width_count; w-- > 0;)
        for (size_t c = 0; c < out->channels; c++)
            if (out->width[c] == w)
                out->order[at++] = (uint32_t)c;
    cut_strips(e);
    free(out->scale_of);
    free(out->scales);
    free(out->scale_codes);
    free(out->step);
    free(out->first_level);
    free(out->levels);
    out->levels = NULL;
    out->scales = NULL;
    out->scale_codes = NULL;
    out->scale_of = malloc(out->k * sizeof *out->scale_of);
    out->step = calloc(out->cell_count, sizeof *out->step);
    out->first_level = malloc((out->cell_count + 1) * sizeof *out->first_level);
    if (!out->scale_of || !out->step || !out->first_level)
        return MB_ERR_MEMORY;
    cut_groups(e);
    const size_t cells = out->cell_count / e->strips;
    for (size_t s = 0; s < e->strips; s++)
        for (size_t cell = 0; cell < cells; cell++) {
            out->first_level[s * cells + cell] = levels;
            levels += (size_t)1 << out->widths[out->width[out->order[e->strip_first[s]]]];
        }
    out->first_level[out->cell_count] = levels;
    out->levels = malloc(levels * sizeof *out->levels);
    if (out->scale_groups > 0) {
        out->scales = malloc(out->n * out->scale_groups * sizeof *out->scales);
        out->scale_codes = calloc(out->n * out->scale_groups, sizeof *out->scale_codes);
    }
    const bool scaled = out->scale_groups == 0 || (out->scales && out->scale_codes);
    return out->levels && scaled ? MB_OK : MB_ERR_MEMORY;
}
