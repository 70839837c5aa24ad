/* SPDX-License-Identifier: Apache-2.0 */
/* One codebook: levels of a kind fitted to weighted points.
 *
 * Levels come out exactly as a reader computes them from what is stored, so codes are chosen under
 * the values that count. */
#ifndef MIXBIT_MODEL_CODEBOOK_H
#define MIXBIT_MODEL_CODEBOOK_H

#include "model/channelwise.h"

/* Beyond so many points, points are gathered into as many bins of equal width first: what that
 * loses is far below a level's distance. */
enum { MB_CODEBOOK_POINTS = 4096 };

/* Points to fit to, added one by one; more than fit become bins. */
struct mb_points {
    size_t count, binned; /* binned: bins in use, 0 for single points */
    float *values, *weights;
    double low, high, *sums, *sums_weight; /* of bins */
};

struct mb_codebook_room;
/* Scratch for fitting codebooks of up to `bits`; one per thread. NULL: out of memory. */
struct mb_codebook_room *mb_codebook_room_create(unsigned bits);
void mb_codebook_room_free(struct mb_codebook_room *room);

/* Start anew: `expected` points in [low, high] will be added at most. */
void mb_codebook_begin(struct mb_codebook_room *room, size_t expected, double low, double high);
void mb_codebook_add(struct mb_codebook_room *room, float value, float weight);
/* levels[2^bits], ascending, and what is stored of them beside k-means levels: an f16 step or scale
 * and an f16 minimum. Without points all levels are 0. Numeric  finite points only; values beyond
 * f16 are cut to its range. */
enum mb_status mb_codebook_fit(struct mb_codebook_room *room, enum mb_code_kind kind,
                               bool byte_codebook, unsigned bits, float *levels, uint16_t step[2]);
/* The kind that codes of so many bits have in an encoding of `kind`. */
enum mb_code_kind mb_code_kind_of(enum mb_code_kind kind, unsigned bits);
/* Bits that one codebook takes. */
size_t mb_codebook_bits(enum mb_code_kind kind, bool byte_codebook, unsigned bits);
/* Levels from what is stored: those of kinds that have a step. */
void mb_codebook_levels(enum mb_code_kind kind, unsigned bits, const uint16_t step[2],
                        float *levels);

#endif
