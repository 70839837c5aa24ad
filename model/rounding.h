/* SPDX-License-Identifier: Apache-2.0 */
/* Activations of 8 bits, simulated: what products read is rounded to int8 times a scale and back,
 * then multiplied in f32. Dynamic scales come from the values themselves, static ones were fixed on
 * a calibration text before. */
#ifndef MIXBIT_MODEL_ROUNDING_H
#define MIXBIT_MODEL_ROUNDING_H

#include "model/network.h"

enum mb_rounding_kind { MB_ROUNDING_TOKEN, MB_ROUNDING_GROUP, MB_ROUNDING_STATIC };

/* One way to round. */
struct mb_rounding_scheme {
    const char *name, *what;
    enum mb_rounding_kind kind;
    size_t group;    /* columns that share a dynamic scale */
    double quantile; /* static: this share of the calibration's magnitudes is within the range */
};
size_t mb_rounding_count(void);
const struct mb_rounding_scheme *mb_rounding_at(size_t i);
const struct mb_rounding_scheme *mb_rounding_by_name(const char *name); /* NULL: none */

/* Magnitudes that the input of every matrix had. */
struct mb_ranges;
enum mb_status mb_ranges_collect(struct mb_network *network, const struct mb_windows *windows,
                                 const struct mb_progress *progress, struct mb_ranges **ranges,
                                 struct mb_error *error);
void mb_ranges_free(struct mb_ranges *ranges);
/* The magnitude that `quantile` of them are within, to 1.6 %; 1 and above: the largest, exactly; 0
 * for a matrix that nothing reached. */
float mb_ranges_quantile(const struct mb_ranges *ranges, size_t matrix, double quantile);

/* Round x[k] to int8 in [-127, 127] times a scale, to nearest even; range 0: its own largest
 * magnitude. Values beyond the range are cut to it. */
void mb_round_int8(const float *x, size_t k, float range, float *out);

/* Which matrix these weights are, or are part of; matrix_count: none. */
size_t mb_rounding_matrix(const struct mb_network *network, const struct mb_weights *weights);
/* The row of `whole` that a view of it begins with, which is the first of a panel. */
size_t mb_rounding_row(const struct mb_weights *whole, const struct mb_weights *view);

/* A rounder for a network: state lives here, `rounding` is what the network points to. */
struct mb_rounder {
    struct mb_rounding rounding;
    const struct mb_network *network;
    const struct mb_rounding_scheme *scheme;
    const struct mb_ranges *ranges; /* of static schemes */
    const bool *rounded;            /* per matrix; NULL: all */
};
void mb_rounder_init(struct mb_rounder *rounder, const struct mb_network *network,
                     const struct mb_rounding_scheme *scheme, const struct mb_ranges *ranges,
                     const bool *rounded);

#endif
