/* SPDX-License-Identifier: Apache-2.0 */
/* A network whose products are integer-only (mixbit/integer.h): every matrix has an int8 grid for
 * its input and one for its output, both fixed on a calibration text, and int8 weights with a scale
 * per row. What lies between two products (norms, attention, activation functions) stays in floats,
 * so inputs are rounded before a product and outputs read back behind it. */
#ifndef MIXBIT_MODEL_INTEGER_H
#define MIXBIT_MODEL_INTEGER_H

#include "mixbit/integer.h"
#include "model/network.h"

/* Least and largest values that the input and the output of every matrix had. */
struct mb_integer_ranges;
enum mb_status mb_integer_ranges_collect(struct mb_network *network,
                                         const struct mb_windows *windows,
                                         const struct mb_progress *progress,
                                         struct mb_integer_ranges **ranges, struct mb_error *error);
void mb_integer_ranges_free(struct mb_integer_ranges *ranges);

/* Matrices that are packed so; `rounding` is what the network points to. Others multiply as usual.
 */
struct mb_integer_products;
enum mb_status mb_integer_products_create(const struct mb_network *network,
                                          const struct mb_integer_ranges *ranges,
                                          struct mb_integer_products **products);
void mb_integer_products_free(struct mb_integer_products *products);
const struct mb_rounding *mb_integer_products_rounding(const struct mb_integer_products *products);
/* Pack matrix `matrix` from rows[n][k]. MB_ERR_UNSUPPORTED: no text reached it, or it is longer
 * than such products may be. */
enum mb_status mb_integer_products_store(struct mb_integer_products *products, size_t matrix,
                                         const float *rows);

#endif
