/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of integer-only products, and their scalar kernel: the numbers of integer.h written out.
 */
#include "kernels/integer.h"

#include <math.h>

void mb_integer_multiplier(double multiplier, int32_t *mantissa, int32_t *shift)
{
    int exponent;
    const double fraction = frexp(multiplier, &exponent); /* in [1/2, 1), or 0 */
    int64_t rounded = llrint(ldexp(fraction, 31));
    if (rounded == INT64_C(1) << 31) {
        rounded >>= 1;
        exponent++;
    }
    const bool none = multiplier <= 0 || 31 - exponent > MB_INTEGER_LARGEST_SHIFT;
    const bool all = 31 - exponent < MB_INTEGER_LEAST_SHIFT;
    *mantissa = none || all ? 1 << 30 : (int32_t)rounded;
    *shift = none ? MB_INTEGER_LARGEST_SHIFT : all ? MB_INTEGER_LEAST_SHIFT : 31 - exponent;
}

/* Sums of a row's positive codes and of the sizes of its negative ones. */
static void sum_sides(const int8_t *codes, size_t k, int64_t *positives, int64_t *negatives)
{
    *positives = *negatives = 0;
    for (size_t i = 0; i < k; i++)
        *(codes[i] < 0 ? negatives : positives) += codes[i] < 0 ? -codes[i] : codes[i];
}

bool mb_integer_fits(const int8_t *codes, size_t k, int64_t bias, int32_t input_zero)
{
    int64_t positives, negatives;
    sum_sides(codes, k, &positives, &negatives);
    const int64_t above = 127 - input_zero, below = 128 + input_zero; /* how far x - zx goes */
    return bias + positives * above + negatives * below <= INT32_MAX &&
           bias - positives * below - negatives * above >= INT32_MIN;
}

static uint8_t *codes_of(uint8_t *panel, size_t lane)
{
    return panel + sizeof(struct mb_integer_header) + 4 * lane;
}

void mb_integer_pack_lane(uint8_t *panel, size_t lane, const int8_t *codes, size_t k, int32_t bias,
                          int32_t input_zero, double multiplier)
{
    struct mb_integer_header *header = (struct mb_integer_header *)(void *)panel;
    uint8_t *to = codes_of(panel, lane);
    int64_t positives, negatives;
    sum_sides(codes, k, &positives, &negatives);
    header->start[lane] = (int32_t)(bias - input_zero * (positives - negatives));
    header->negatives[lane] = (int32_t)negatives;
    mb_integer_multiplier(multiplier, &header->mantissa[lane], &header->shift[lane]);
    for (size_t i = 0; i < mb_integer_padded_k(k); i++)
        to[i / 4 * 4 * MB_INTEGER_ROWS + i % 4] = (uint8_t)((i < k ? codes[i] : 0) + 128);
}

void mb_integer_clear_lane(uint8_t *panel, size_t lane, size_t k)
{
    mb_integer_pack_lane(panel, lane, NULL, 0, 0, 0, 0);
    for (size_t i = 0; i < mb_integer_padded_k(k); i++)
        codes_of(panel, lane)[i / 4 * 4 * MB_INTEGER_ROWS + i % 4] = 128;
}

void mb_integer_reference(const struct mb_integer_args *args)
{
    for (size_t j = 0; j < args->n; j++) {
        const uint8_t *panel = args->panels + j / MB_INTEGER_ROWS * args->panel_bytes;
        const struct mb_integer_header *header =
            (const struct mb_integer_header *)(const void *)panel;
        const size_t lane = j % MB_INTEGER_ROWS;
        const uint8_t *codes = panel + sizeof *header + 4 * lane;
        for (size_t r = 0; r < args->m; r++) {
            const int8_t *x = args->x + r * args->x_stride;
            int64_t acc = header->start[lane];
            for (size_t i = 0; i < args->k; i++)
                acc += (codes[i / 4 * 4 * MB_INTEGER_ROWS + i % 4] - 128) * x[i];
            args->y[r * args->y_stride + j] = mb_integer_requantize(
                (int32_t)acc, header->mantissa[lane], header->shift[lane], args->zero);
        }
    }
}
