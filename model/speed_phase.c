/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller does with speeds: bring those of one turn to another's phase, and free them.
 * Machines change their frequency and share their memory with neighbours, for hours, and what took
 * turns at one time compares with what did at another only when that is taken out. */
#include "mixbit/model.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

void mb_speed_free(struct mb_speed *speed)
{
    free(speed->decode_rounds);
    free(speed->prefill_rounds);
    speed->decode_rounds = speed->prefill_rounds = NULL;
    speed->decode_round_count = speed->prefill_round_count = 0;
}

/* Geometric mean of the ratios of one figure, which stands at `offset` in both. */
static double mean_ratio(const struct mb_speed *again, const struct mb_speed *first, size_t count,
                         size_t offset)
{
    double sum = 0, known = 0;
    for (size_t i = 0; i < count; i++) {
        const double now = *(const double *)(const void *)((const char *)&again[i] + offset);
        const double then = *(const double *)(const void *)((const char *)&first[i] + offset);
        if (now > 0 && then > 0) {
            sum += log(now / then);
            known++;
        }
    }
    return known > 0 ? exp(sum / known) : 1;
}

static void divide(double *values, size_t count, double factor)
{
    for (size_t i = 0; i < count; i++)
        values[i] /= factor;
}

double mb_speed_bring_back(struct mb_speed *speeds, size_t count, const struct mb_speed *first,
                           const struct mb_speed *again, size_t known)
{
#define RATIO(field) mean_ratio(again, first, known, offsetof(struct mb_speed, field))
    const double decode = RATIO(decode_ns), decode_matmul = RATIO(decode_matmul_ns),
                 prefill = RATIO(prefill_ns), prefill_matmul = RATIO(prefill_matmul_ns);
#undef RATIO
    for (size_t i = 0; i < count; i++) {
        struct mb_speed *speed = &speeds[i];
        divide(&speed->decode_ns, 1, decode);
        divide(&speed->decode_mad_ns, 1, decode);
        divide(&speed->decode_matmul_ns, 1, decode_matmul);
        divide(speed->decode_rounds, speed->decode_round_count, decode);
        divide(&speed->prefill_ns, 1, prefill);
        divide(&speed->prefill_mad_ns, 1, prefill);
        divide(&speed->prefill_matmul_ns, 1, prefill_matmul);
        divide(speed->prefill_rounds, speed->prefill_round_count, prefill);
    }
    return decode;
}
