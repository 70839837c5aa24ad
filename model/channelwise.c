/* SPDX-License-Identifier: Apache-2.0 */
/* The channel-wise encoder from end to end: see channelwise.h for what comes out.
 *
 * Large weights of loud columns leave first; widths are chosen so that everything together meets
 * the wanted bits; codebooks and scales are fitted in turns; what is then farthest off leaves too,
 * and the fit is made once more without it. */
#include "model/channelwise_encoder.h"

#include "kernels/half.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define USUAL_PALETTE (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)

size_t mb_channelwise_total(const struct mb_channelwise_bytes *b)
{
    return b->header + b->map + b->codes + b->codebooks + b->scales + b->outliers;
}

double mb_channelwise_bits(const struct mb_channelwise *c)
{
    return 8 * (double)mb_channelwise_total(&c->bytes) / ((double)c->n * (double)c->k);
}

void mb_channelwise_free(struct mb_channelwise *c)
{
    free(c->width);
    free(c->order);
    free(c->codes);
    free(c->first_bit);
    free(c->first_cell);
    free(c->step);
    free(c->first_level);
    free(c->levels);
    free(c->scale_of);
    free(c->scale_codes);
    free(c->scales);
    free(c->outliers);
    *c = (struct mb_channelwise){0};
}

void mb_channelwise_decode(const struct mb_channelwise *c, size_t row0, size_t row1, float *rows)
{
    const bool columns = c->options.axis == MB_CHANNELS_OF_INPUT;
    for (size_t row = row0; row < row1; row++) {
        float *out = rows + (row - row0) * c->k;
        for (size_t column = 0; column < c->k; column++) {
            const size_t channel = columns ? column : row, i = columns ? row : column;
            const float level = mb_levels_at(c, channel, i)[mb_code_at(c, channel, i)];
            out[column] = c->scale_groups > 0 ? level * mb_scale_at(c, row, column) : level;
        }
    }
    size_t at = 0, end = c->outlier_count; /* the first outlier of row0 on */
    while (at < end) {
        const size_t middle = at + (end - at) / 2;
        if (c->outliers[middle].row < row0)
            at = middle + 1;
        else
            end = middle;
    }
    for (; at < c->outlier_count && c->outliers[at].row < row1; at++)
        rows[(c->outliers[at].row - row0) * c->k + c->outliers[at].column] +=
            mb_half_to_float(c->outliers[at].half);
}

/* ---- what comes in ---- */

static bool in_range(double value, double most) { return value >= 0 && value <= most; }

static bool check_options(const struct mb_channelwise_options *o)
{
    const bool sized = o->scope == MB_SCOPE_GROUP || o->scope == MB_SCOPE_BLOCK;
    return o->bits > 0 && o->bits <= 32 && (o->palette & ~0x1feu) == 0 &&
           in_range(o->spread, 0.5) && (!sized || o->scope_size > 0) &&
           o->scale_columns >= MB_SCALE_OF_ROW && in_range(o->activation_outliers, 0.5) &&
           in_range(o->outlier_channels, 1) && in_range(o->error_outliers, 0.5);
}

void mb_channelwise_settle(struct mb_channelwise *out, const struct mb_channelwise_options *options)
{
    struct mb_channelwise_options *o = &out->options;
    *o = *options;
    o->palette = o->palette ? o->palette : USUAL_PALETTE;
    o->outlier_channels = o->outlier_channels > 0 ? o->outlier_channels : 0.1;
    o->rounds = o->rounds ? o->rounds : 2;
    for (unsigned b = 1; b <= MB_MOST_CODE_BITS; b++)
        if (o->palette & 1u << b)
            out->widths[out->width_count++] = b;
    out->channels = o->axis == MB_CHANNELS_OF_INPUT ? out->k : out->n;
    out->length = o->axis == MB_CHANNELS_OF_INPUT ? out->n : out->k;
    out->cell_length = o->scope == MB_SCOPE_GROUP ? o->scope_size : out->length;
}

static enum mb_status allocate(struct mb_encoder *e)
{
    struct mb_channelwise *out = e->out;
    const size_t weights = out->n * out->k;
    e->x = malloc(weights * sizeof *e->x);
    e->outlier = calloc(weights, 1);
    e->effect = malloc(out->k * sizeof *e->effect);
    e->fitted = malloc(out->k * sizeof *e->fitted);
    e->score = malloc(out->channels * sizeof *e->score);
    e->strip_first = malloc((out->channels + 1) * sizeof *e->strip_first);
    e->columns = malloc(out->k * sizeof *e->columns);
    e->group_first = malloc((out->k + 1) * sizeof *e->group_first);
    out->codes = malloc(weights);
    out->width = calloc(out->channels, 1);
    out->order = malloc(out->channels * sizeof *out->order);
    out->first_cell = malloc(out->channels * sizeof *out->first_cell);
    return e->x && e->outlier && e->effect && e->fitted && e->score && e->strip_first &&
                   e->columns && e->group_first && out->codes && out->width && out->order &&
                   out->first_cell
               ? MB_OK
               : MB_ERR_MEMORY;
}

static void encoder_free(struct mb_encoder *e)
{
    free(e->x);
    free(e->outlier);
    free(e->effect);
    free(e->fitted);
    free(e->score);
    free(e->strip_first);
    free(e->columns);
    free(e->group_first);
}

/* Weights by channel, what columns do to the output, and a score for every channel: the activation
 * norm of a column, what a row adds to the output. */
static enum mb_status load(struct mb_encoder *e, const float *rows, const float *activations)
{
    const struct mb_channelwise *out = e->out;
    float most = 0;
    for (size_t c = 0; c < out->k; c++) {
        const float a = activations ? activations[c] : 1.0f;
        if (!isfinite(a) || a < 0)
            return MB_ERR_ARGUMENT;
        most = a > most ? a : most;
    }
    for (size_t c = 0; c < out->k; c++) {
        e->effect[c] = activations && most > 0 ? activations[c] / most : 1.0f;
        e->fitted[c] = out->options.plain ? 1.0f : e->effect[c];
    }
    for (size_t c = 0; c < out->channels; c++) {
        double sum = 0;
        for (size_t i = 0; i < out->length; i++) {
            const size_t row = mb_row_of(e, c, i), column = mb_column_of(e, c, i);
            const float w = rows[row * out->k + column];
            if (!isfinite(w))
                return MB_ERR_ARGUMENT;
            e->x[c * out->length + i] = w;
            sum += (double)e->effect[column] * (double)w * (double)w;
        }
        e->score[c] = out->options.axis == MB_CHANNELS_OF_INPUT ? (double)e->effect[c] : sum;
    }
    return MB_OK;
}

/* ---- from end to end ---- */

/* Codebooks before there are widths, to see what each channel would lose. */
static enum mb_status choose_widths(struct mb_encoder *e, size_t outliers)
{
    struct mb_channelwise *out = e->out;
    double *errors = NULL;
    enum mb_status status = MB_OK;
    if (out->options.rule == MB_WIDTHS_BY_ERROR && out->width_count > 1) {
        errors = malloc(out->channels * out->width_count * sizeof *errors);
        status = errors ? mb_lay_out(e) : MB_ERR_MEMORY;
        if (status == MB_OK) {
            mb_begin_scales(e);
            status = mb_channel_errors(e, errors);
        }
    }
    if (status == MB_OK)
        status = mb_choose_widths(e, errors, outliers);
    free(errors);
    return status == MB_OK ? mb_lay_out(e) : status;
}

static enum mb_status fit(struct mb_encoder *e, size_t rounds, int reach)
{
    const bool scaled = e->out->scale_groups > 0;
    enum mb_status status = MB_OK;
    for (size_t r = 0; status == MB_OK && r < (scaled ? rounds : 1); r++) {
        status = mb_fit_codebooks(e);
        if (status == MB_OK && scaled)
            mb_refine_scales(e, r == 0 ? reach : 3);
    }
    if (status == MB_OK)
        mb_assign_codes(e);
    return status;
}

/* What the outputs lose: columns weigh as their activations. */
static void measure(struct mb_encoder *e, const float *rows)
{
    struct mb_channelwise *out = e->out;
    double error = 0, square = 0;
    float *row = e->x; /* no longer read */
    for (size_t r = 0; r < out->n; r++) {
        mb_channelwise_decode(out, r, r + 1, row);
        for (size_t c = 0; c < out->k; c++) {
            const double w = (double)rows[r * out->k + c], off = w - (double)row[c];
            error += (double)e->effect[c] * off * off;
            square += (double)e->effect[c] * w * w;
        }
    }
    out->error = square > 0 ? sqrt(error / square) : 0;
}

static enum mb_status encode(struct mb_encoder *e, const float *rows, const float *activations)
{
    struct mb_channelwise *out = e->out;
    const double weights = (double)out->n * (double)out->k;
    const size_t largest = (size_t)(out->options.activation_outliers * weights);
    const size_t farthest = (size_t)(out->options.error_outliers * weights);
    enum mb_status status = load(e, rows, activations);
    if (status == MB_OK)
        status = mb_mark_largest(e, largest);
    if (status == MB_OK)
        status = choose_widths(e, largest + farthest);
    if (status != MB_OK)
        return status;
    mb_begin_scales(e);
    status = fit(e, out->options.rounds, 9);
    if (status == MB_OK && farthest > 0) {
        status = mb_mark_farthest(e, farthest);
        if (status == MB_OK)
            status = fit(e, 1, 3);
    }
    if (status == MB_OK && out->options.feedback && out->options.moments != NULL)
        status = mb_assign_with_feedback(e);
    if (status == MB_OK)
        status = mb_list_outliers(e);
    out->options.moments = NULL; /* the caller's */
    out->options.groups = NULL;
    if (status != MB_OK)
        return status;
    size_t counts[MB_MOST_WIDTHS] = {0};
    for (size_t c = 0; c < out->channels; c++)
        counts[out->width[c]]++;
    out->bytes = mb_channelwise_count(out, counts, out->outlier_count);
    measure(e, rows);
    return MB_OK;
}

enum mb_status mb_channelwise_encode(const float *rows, size_t n, size_t k,
                                     const float *activations,
                                     const struct mb_channelwise_options *options,
                                     struct mb_threads *threads, struct mb_channelwise *encoded)
{
    struct mb_encoder e = {.out = encoded, .threads = threads};
    *encoded = (struct mb_channelwise){.n = n, .k = k};
    size_t bytes;
    if (n == 0 || k == 0 || n > INT32_MAX || k > INT32_MAX || !mb_mul_size(n, k, &bytes) ||
        !mb_mul_size(bytes, 32, &bytes))
        return MB_ERR_SHAPE;
    if (!check_options(options))
        return MB_ERR_ARGUMENT;
    mb_channelwise_settle(encoded, options);
    enum mb_status status = allocate(&e);
    if (status == MB_OK)
        status = encode(&e, rows, activations);
    encoder_free(&e);
    if (status != MB_OK)
        mb_channelwise_free(encoded);
    return status;
}
