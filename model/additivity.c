/* SPDX-License-Identifier: Apache-2.0 */
/* A line through measured losses over summed ones: see additivity.h. */
#include "model/additivity.h"

#include "model/statistics.h"

#include <math.h>
#include <stdbool.h>

enum { LEAST = 3 };

/* Dividing by the sum turns the weighted line into an ordinary one: measured / sum = scale + offset
 * * (1 / sum). */
static void fit_line(struct mb_additivity *fit, const double *sums, const double *measured,
                     size_t count)
{
    double u = 0, r = 0, uu = 0, ur = 0;
    for (size_t i = 0; i < count; i++) {
        u += 1 / sums[i];
        r += measured[i] / sums[i];
        uu += 1 / sums[i] / sums[i];
        ur += measured[i] / sums[i] / sums[i];
    }
    const double n = (double)count, spread = uu - u * u / n;
    fit->offset = spread > 1e-9 * uu ? (ur - u * r / n) / spread : 0;
    if (!(fit->offset > 0)) /* activations never gain; what looks like it is noise */
        fit->offset = 0;
    fit->scale = (r - fit->offset * u) / n;
    if (!(fit->scale > 0)) {
        fit->offset = 0;
        fit->scale = r / n;
    }
}

struct mb_additivity mb_additivity_fit(const double *sums, const double *measured, size_t count)
{
    struct mb_additivity fit = {.scale = 1, .error = (double)INFINITY, .count = count};
    bool sound = count >= LEAST;
    for (size_t i = 0; sound && i < count; i++)
        sound = sums[i] > 0 && measured[i] > 0 && isfinite(sums[i]) && isfinite(measured[i]);
    if (!sound)
        return fit;
    fit_line(&fit, sums, measured, count);
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        const double off = measured[i] / mb_additivity_predict(&fit, sums[i]) - 1;
        squares += off * off;
    }
    fit.degrees = count - 2;
    fit.error = sqrt(squares / (double)fit.degrees);
    return fit;
}

double mb_additivity_predict(const struct mb_additivity *fit, double sum)
{
    return fit->offset + fit->scale * sum;
}

double mb_additivity_half(const struct mb_additivity *fit, double sum, double sum_half)
{
    if (fit->degrees == 0)
        return (double)INFINITY;
    const double more = sqrt(1 + 2.0 / (double)fit->count);
    const double model =
        mb_student(fit->degrees) * fit->error * more * mb_additivity_predict(fit, sum);
    return hypot(model, fit->scale * sum_half);
}
