/* SPDX-License-Identifier: Apache-2.0 */
/* Codebooks of an encoding: points are gathered over what a codebook reaches, levels fitted, codes
 * assigned. Strips are independent of each other and are split over the threads. */
#include "model/channelwise_encoder.h"

#include "kernels/kmeans.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Weights [from, to) of channels[count]. */
struct reach {
    const uint32_t *channels;
    size_t count, from, to;
};

struct job {
    struct mb_encoder *e;
    double *errors;             /* of mb_channel_errors */
    const float *const *shared; /* levels of each width; NULL: every channel has its own */
    atomic_int status;
};

static float square(float x) { return x * x; }

/* The scaled value of weight i of a channel. */
static float value_at(const struct mb_encoder *e, size_t channel, size_t i, float scale)
{
    return scale > 0 ? e->x[channel * e->out->length + i] / scale : 0;
}

static float scale_at(const struct mb_encoder *e, size_t channel, size_t i)
{
    return mb_scale_at(e->out, mb_row_of(e, channel, i), mb_column_of(e, channel, i));
}

static void find_range(const struct mb_encoder *e, const struct reach *reach, double *low,
                       double *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (size_t j = 0; j < reach->count; j++)
        for (size_t i = reach->from; i < reach->to; i++) {
            const size_t channel = reach->channels[j];
            if (e->outlier[channel * e->out->length + i])
                continue;
            const double x = (double)value_at(e, channel, i, scale_at(e, channel, i));
            *low = x < *low ? x : *low;
            *high = x > *high ? x : *high;
        }
}

/* A weight's error counts as its column does, by the square of its scale: the largest scale counts
 * as 1. */
static void gather(const struct mb_encoder *e, const struct reach *reach,
                   struct mb_codebook_room *room)
{
    const struct mb_channelwise *out = e->out;
    const size_t points = reach->count * (reach->to - reach->from);
    const float top = out->scale_groups > 0 && out->scale_top > 0 ? out->scale_top : 1;
    double low = 0, high = 0;
    if (points > MB_CODEBOOK_POINTS)
        find_range(e, reach, &low, &high);
    mb_codebook_begin(room, points, low, high);
    for (size_t j = 0; j < reach->count; j++)
        for (size_t i = reach->from; i < reach->to; i++) {
            const size_t channel = reach->channels[j];
            if (e->outlier[channel * out->length + i])
                continue;
            const float scale = scale_at(e, channel, i);
            const float weight = e->fitted[mb_column_of(e, channel, i)] *
                                 (out->scale_groups > 0 ? square(scale / top) : 1.0f);
            mb_codebook_add(room, value_at(e, channel, i, scale), weight);
        }
}

static enum mb_status fit(const struct mb_encoder *e, const struct reach *reach, unsigned bits,
                          struct mb_codebook_room *room, float *levels, uint16_t step[2])
{
    const struct mb_channelwise_options *o = &e->out->options;
    gather(e, reach, room);
    return mb_codebook_fit(room, o->codes, o->byte_codebook, bits, levels, step);
}

static void fit_strips(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    struct mb_encoder *e = job->e;
    struct mb_channelwise *out = e->out;
    const size_t cells = out->cell_count / e->strips;
    struct mb_codebook_room *room = mb_codebook_room_create(out->widths[out->width_count - 1]);
    enum mb_status status = room ? MB_OK : MB_ERR_MEMORY;
    for (size_t s = first; s < last && status == MB_OK; s++) {
        struct reach reach = {.channels = out->order + e->strip_first[s],
                              .count = e->strip_first[s + 1] - e->strip_first[s]};
        const unsigned bits = out->widths[out->width[reach.channels[0]]];
        for (size_t c = 0; c < cells && status == MB_OK; c++) {
            const size_t cell = s * cells + c;
            reach.from = c * out->cell_length;
            reach.to = reach.from + out->cell_length < out->length ? reach.from + out->cell_length
                                                                   : out->length;
            status =
                fit(e, &reach, bits, room, out->levels + out->first_level[cell], out->step[cell]);
        }
    }
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
    mb_codebook_room_free(room);
}

enum mb_status mb_fit_codebooks(struct mb_encoder *e)
{
    struct job job = {.e = e};
    mb_split(e->threads, e->strips, 64 * e->out->n * e->out->k, fit_strips, &job);
    return (enum mb_status)atomic_load(&job.status);
}

static void assign_channels(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct mb_encoder *e = arg;
    const struct mb_channelwise *out = e->out;
    for (size_t c = first; c < last; c++) {
        const size_t levels = (size_t)1 << out->widths[out->width[c]];
        for (size_t i = 0; i < out->length; i++)
            out->codes[c * out->length + i] = (uint8_t)mb_nearest_centroid(
                mb_levels_at(out, c, i), levels, value_at(e, c, i, scale_at(e, c, i)));
    }
}

void mb_assign_codes(struct mb_encoder *e)
{
    mb_split(e->threads, e->out->channels, 16 * e->out->n * e->out->k, assign_channels, e);
}

/* ---- what a width would lose ---- */

/* Squared error of weights [from, to) of a channel, as the output sees it. */
static double error_of(const struct mb_encoder *e, size_t channel, size_t from, size_t to,
                       const float *levels, size_t count)
{
    double error = 0;
    for (size_t i = from; i < to; i++) {
        if (e->outlier[channel * e->out->length + i])
            continue;
        const float scale = scale_at(e, channel, i), x = value_at(e, channel, i, scale);
        const float off = scale * (x - levels[mb_nearest_centroid(levels, count, x)]);
        error += (double)e->effect[mb_column_of(e, channel, i)] * (double)square(off);
    }
    return error;
}

static void channel_errors(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    struct job *job = arg;
    const struct mb_encoder *e = job->e;
    const struct mb_channelwise *out = e->out;
    const unsigned most = out->widths[out->width_count - 1];
    struct mb_codebook_room *room = mb_codebook_room_create(most);
    enum mb_status status = room ? MB_OK : MB_ERR_MEMORY;
    float levels[1 << MB_MOST_CODE_BITS];
    for (size_t c = first; c < last; c++)
        for (size_t w = 0; w < out->width_count; w++) {
            const size_t count = (size_t)1 << out->widths[w];
            double error = 0;
            for (size_t from = 0; from < out->length && status == MB_OK; from += out->cell_length) {
                const size_t end = from + out->cell_length;
                const uint32_t channel = (uint32_t)c;
                const struct reach reach = {&channel, 1, from,
                                            end < out->length ? end : out->length};
                uint16_t step[2];
                if (job->shared == NULL)
                    status = fit(e, &reach, out->widths[w], room, levels, step);
                if (status == MB_OK)
                    error += error_of(e, c, reach.from, reach.to,
                                      job->shared ? job->shared[w] : levels, count);
            }
            job->errors[c * out->width_count + w] = error;
        }
    if (status != MB_OK)
        atomic_store(&job->status, (int)status);
    mb_codebook_room_free(room);
}

/* Codebooks that channels share depend on which channels have their width; one over all of them
 * stands in for those. */
enum mb_status mb_channel_errors(struct mb_encoder *e, double *errors)
{
    const struct mb_channelwise *out = e->out;
    const enum mb_codebook_scope scope = out->options.scope;
    const struct reach all = {out->order, out->channels, 0, out->length};
    float levels[MB_MOST_WIDTHS][1 << MB_MOST_CODE_BITS];
    const float *shared[MB_MOST_WIDTHS];
    struct job job = {.e = e, .errors = errors};
    if (scope == MB_SCOPE_BLOCK || scope == MB_SCOPE_TENSOR) {
        struct mb_codebook_room *room = mb_codebook_room_create(out->widths[out->width_count - 1]);
        enum mb_status status = room ? MB_OK : MB_ERR_MEMORY;
        for (size_t w = 0; w < out->width_count && status == MB_OK; w++) {
            uint16_t step[2];
            status = fit(e, &all, out->widths[w], room, levels[w], step);
            shared[w] = levels[w];
        }
        mb_codebook_room_free(room);
        if (status != MB_OK)
            return status;
        job.shared = shared;
    }
    mb_split(e->threads, out->channels, 64 * out->n * out->k, channel_errors, &job);
    return (enum mb_status)atomic_load(&job.status);
}
