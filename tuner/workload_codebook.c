/* SPDX-License-Identifier: Apache-2.0 */
/* Workloads of codebook matrices. Which columns are wide makes no difference to time, how many of
 * each width does: widths follow a curve like that of columns by their error, about the mean that
 * leaves room for scales. */
#include "support/support.h"
#include "tuner/made_columns.h"
#include "tuner/workload.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 128, STEP = 32, WIDEST = 5 };
static const double scale_bits = 8.0 / GROUP;
static const double spread = 2.0; /* of widths, from the mean to either end */

/* splitmix64. */
static uint64_t next_bits(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static double width_at(double middle, double place)
{
    const double from = 1 - 2 * place, off = copysign(pow(fabs(from), 1.5), from) * spread;
    const double width = rint(middle + off);
    return width < 1 ? 1 : width > WIDEST ? WIDEST : width;
}

static double mean_width(double middle, size_t steps)
{
    double sum = 0;
    for (size_t i = 0; i < steps; i++)
        sum += width_at(middle, ((double)i + 0.5) / (double)steps);
    return sum / (double)steps;
}

struct curve {
    double middle;
    size_t steps;
};

static unsigned curve_width(const void *arg, size_t column)
{
    const struct curve *c = arg;
    return (unsigned)width_at(c->middle, ((double)(column / STEP) + 0.5) / (double)c->steps);
}

/* The curve whose mean is nearest above what is wanted. */
static struct curve curve_of(enum mb_format format, size_t k)
{
    const double wanted = mb_format_info(format)->bits - scale_bits;
    const size_t steps = (k + STEP - 1) / STEP;
    double low = 1 - spread, high = WIDEST + spread;
    for (int i = 0; i < 50; i++) {
        const double middle = (low + high) / 2;
        *(mean_width(middle, steps) < wanted ? &low : &high) = middle;
    }
    return (struct curve){high, steps};
}

/* Distinct rows of codes and scales, packed over and over, and what they come to exactly. */
static enum mb_status fill(struct mb_workload *w, const struct mb_made_columns *l)
{
    const size_t k = w->k, groups = l->columns.groups;
    const size_t rows = w->n < MB_WORKLOAD_WEIGHT_PERIOD ? w->n : MB_WORKLOAD_WEIGHT_PERIOD;
    uint64_t state = 1;
    uint8_t *codes = malloc(rows * k);
    float *scales = malloc(rows * groups * sizeof *scales);
    float *values = malloc(rows * k * sizeof *values);
    enum mb_status status = codes && scales && values ? MB_OK : MB_ERR_MEMORY;
    for (size_t i = 0; status == MB_OK && i < rows * groups; i++)
        scales[i] = 0.5f + (float)(next_bits(&state) >> 40) * 0x1p-25f;
    for (size_t i = 0; status == MB_OK && i < rows * k; i++) {
        const size_t column = i % k, bits = l->bits[column];
        codes[i] = (uint8_t)(next_bits(&state) >> (64 - bits));
        values[i] = scales[i / k * groups + l->group[column]] * l->levels[bits][codes[i]];
    }
    for (size_t j = 0; j < w->n && status == MB_OK; j += rows)
        status =
            mb_codebook_pack_rows(&w->books, codes, scales, j, j + rows < w->n ? j + rows : w->n);
    if (status == MB_OK)
        mb_workload_fill_exact(w, values, rows);
    free(codes);
    free(scales);
    free(values);
    return status;
}

static enum mb_status make(struct mb_workload *w, const struct mb_made_columns *l,
                           size_t working_set, struct mb_arena *arena)
{
    size_t packed;
    enum mb_status status = mb_codebook_size(&l->columns, &packed);
    if (status == MB_OK)
        status = mb_workload_room(w, packed, working_set, arena);
    if (status == MB_OK)
        status = mb_codebook_init(&w->books, &l->columns, arena->data);
    w->weights =
        (struct mb_weights){sizeof w->weights, w->format, w->n, w->k, arena->data}; /* the bytes */
    if (status == MB_OK)
        status = fill(w, l);
    size_t bytes = 0;
    if (status == MB_OK)
        status = mb_codebook_activations_size(&w->books, w->m_capacity, &bytes);
    if (status == MB_OK) {
        w->activations.data = mb_alloc_aligned(bytes);
        status = w->activations.data != NULL ? MB_OK : MB_ERR_MEMORY;
    }
    return status;
}

enum mb_status mb_workload_make_books(struct mb_workload *w, size_t working_set,
                                      struct mb_arena *arena)
{
    struct mb_made_columns made = {.bits = NULL};
    const struct curve curve = curve_of(w->format, w->k);
    enum mb_status status = mb_columns_make(&made, w->n, w->k, false, curve_width, &curve);
    if (status == MB_OK)
        status = make(w, &made, working_set, arena);
    mb_columns_free(&made);
    return status;
}
