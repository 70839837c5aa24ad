/* SPDX-License-Identifier: Apache-2.0 */
/* Rounding of activations, and the ranges that static scales are made of: a histogram of magnitudes
 * by the leading bits of a float, so that it needs no range beforehand. */
#include "model/rounding.h"

#include "kernels/half.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BIN_SHIFT = 17, BINS = 1 << (31 - BIN_SHIFT) }; /* 64 bins to the octave */

static const struct mb_rounding_scheme schemes[] = {
#define MB_ROUNDING_ROW(scheme_name, says, scheme_kind, columns, share)                            \
    {scheme_name, says, MB_ROUNDING_##scheme_kind, columns, share},
#include "model/schemes.def"
};

size_t mb_rounding_count(void) { return sizeof schemes / sizeof schemes[0]; }

const struct mb_rounding_scheme *mb_rounding_at(size_t i) { return &schemes[i]; }

const struct mb_rounding_scheme *mb_rounding_by_name(const char *name)
{
    for (size_t i = 0; i < mb_rounding_count(); i++)
        if (strcmp(schemes[i].name, name) == 0)
            return &schemes[i];
    return NULL;
}

/* ---- ranges ---- */

struct range {
    float most;
    uint64_t *bins, count;
};

struct mb_ranges {
    size_t count;
    struct range *matrix;
};

void mb_ranges_free(struct mb_ranges *ranges)
{
    if (ranges == NULL)
        return;
    for (size_t i = 0; ranges->matrix != NULL && i < ranges->count; i++)
        free(ranges->matrix[i].bins);
    free(ranges->matrix);
    free(ranges);
}

static struct mb_ranges *create(size_t matrices)
{
    struct mb_ranges *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->count = matrices;
    made->matrix = calloc(matrices + 1, sizeof *made->matrix);
    bool complete = made->matrix != NULL;
    for (size_t i = 0; complete && i < matrices; i++)
        complete = (made->matrix[i].bins = calloc(BINS, sizeof(uint64_t))) != NULL;
    if (complete)
        return made;
    mb_ranges_free(made);
    return NULL;
}

static void see(void *user, struct mb_run *run, size_t matrix, size_t expert, const float *x,
                size_t stride, size_t rows)
{
    struct mb_ranges *ranges = user;
    struct range *range = &ranges->matrix[matrix];
    const size_t k = run->network->matrices[matrix].k;
    (void)expert;
    for (size_t row = 0; row < rows; row++)
        for (size_t c = 0; c < k; c++) {
            const float magnitude = fabsf(x[row * stride + c]);
            range->most = magnitude > range->most ? magnitude : range->most;
            range->bins[mb_float_bits(magnitude) >> BIN_SHIFT]++;
        }
    range->count += rows * k;
}

enum mb_status mb_ranges_collect(struct mb_network *network, const struct mb_windows *windows,
                                 const struct mb_progress *progress, struct mb_ranges **ranges,
                                 struct mb_error *error)
{
    *ranges = NULL;
    enum mb_status status = mb_windows_check(network, windows, error);
    if (status != MB_OK)
        return status;
    struct mb_ranges *made = create(network->matrix_count);
    status = made != NULL
                 ? mb_observe(network, windows, network->step_count, see, made, progress, error)
                 : mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for activation ranges");
    if (status == MB_OK)
        *ranges = made;
    else
        mb_ranges_free(made);
    return status;
}

float mb_ranges_quantile(const struct mb_ranges *ranges, size_t matrix, double quantile)
{
    const struct range *range = &ranges->matrix[matrix];
    const double wanted = quantile * (double)range->count;
    uint64_t below = 0;
    if (quantile >= 1 || range->count == 0)
        return range->most;
    for (uint32_t bin = 0; bin < BINS; bin++) {
        below += range->bins[bin];
        const float edge = mb_float_from_bits((bin + 1) << BIN_SHIFT);
        if ((double)below >= wanted)
            return edge < range->most ? edge : range->most;
    }
    return range->most;
}

/* ---- rounding ---- */

void mb_round_int8(const float *x, size_t k, float range, float *out)
{
    float most = range;
    for (size_t c = 0; range == 0 && c < k; c++)
        most = fabsf(x[c]) > most ? fabsf(x[c]) : most;
    const float scale = most / 127;
    for (size_t c = 0; c < k; c++) {
        const float code = scale > 0 ? rintf(x[c] / scale) : 0;
        out[c] = scale * (code > 127 ? 127 : code < -127 ? -127 : code);
    }
}

size_t mb_rounding_matrix(const struct mb_network *network, const struct mb_weights *weights)
{
    const uintptr_t at = (uintptr_t)weights->data;
    for (size_t i = 0; i < network->matrix_count; i++) {
        const struct mb_weights *all = &network->matrices[i].weights;
        const uintptr_t begin = (uintptr_t)all->data;
        size_t bytes;
        if (all->data != NULL && mb_pack_size(all->format, all->n, all->k, &bytes) == MB_OK &&
            at >= begin && at < begin + bytes)
            return i;
    }
    return network->matrix_count;
}

size_t mb_rounding_row(const struct mb_weights *whole, const struct mb_weights *view)
{
    enum { ROWS = 16 };
    size_t panel = 1;
    (void)mb_pack_size(whole->format, ROWS, whole->k, &panel);
    return (size_t)((const uint8_t *)view->data - (const uint8_t *)whole->data) / panel * ROWS;
}

struct task {
    const struct mb_rounder *rounder;
    const float *x;
    size_t stride, k;
    float range, *out;
};

static void round_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct task *t = arg;
    const size_t group =
        t->rounder->scheme->kind == MB_ROUNDING_GROUP ? t->rounder->scheme->group : t->k;
    for (size_t row = first; row < last; row++)
        for (size_t c = 0; c < t->k; c += group)
            mb_round_int8(t->x + row * t->stride + c, t->k - c < group ? t->k - c : group, t->range,
                          t->out + row * t->k + c);
}

static bool round_inputs(void *user, const struct mb_weights *weights, const float *x,
                         size_t stride, size_t rows, float *out)
{
    const struct mb_rounder *rounder = user;
    const size_t matrix = mb_rounding_matrix(rounder->network, weights);
    if (matrix == rounder->network->matrix_count ||
        (rounder->rounded != NULL && !rounder->rounded[matrix]))
        return false;
    const float range = rounder->scheme->kind == MB_ROUNDING_STATIC
                            ? mb_ranges_quantile(rounder->ranges, matrix, rounder->scheme->quantile)
                            : 0;
    struct task task = {rounder, x, stride, weights->k, range, out};
    mb_split(rounder->network->threads, rows, 8 * rows * weights->k, round_rows, &task);
    return true;
}

void mb_rounder_init(struct mb_rounder *rounder, const struct mb_network *network,
                     const struct mb_rounding_scheme *scheme, const struct mb_ranges *ranges,
                     const bool *rounded)
{
    *rounder = (struct mb_rounder){.rounding = {.round = round_inputs, .user = rounder},
                                   .network = network,
                                   .scheme = scheme,
                                   .ranges = ranges,
                                   .rounded = rounded};
}
