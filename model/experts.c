/* SPDX-License-Identifier: Apache-2.0 */
/* Mixtures of experts: which experts a row goes to, and the products of those.
 *
 * A matrix holds all experts one behind the other, so packing, quantizing and replacing it are
 * those of any matrix, and an expert is a view of some of its panels. A product gathers the rows of
 * one expert after the other. A row's results are added in the order of the experts, so what is
 * beside it never shows. Which experts a row has is told by the weights in its ROUTED row: those
 * not 0. */
#include "mixbit/codebook.h"
#include "model/network.h"

#include "model/vector.h"
#include "support/support.h"

#include <string.h>

enum { PANEL_ROWS = 16 };

struct step_task {
    struct mb_run *run;
    const struct mb_step *step;
};

/* ---- routing ---- */

static size_t padded(size_t n) { return (n + 15) / 16 * 16; }

size_t mb_route_scratch(const struct mb_network *network) { return padded(network->experts); }

/* Softmax over all experts, then the best `used`, which sum to 1. weights has room to be padded. */
static void route_row(const struct mb_network *network, const struct mb_vector *vector, float *row,
                      float *weights)
{
    const size_t experts = network->experts;
    float sum = 0;
    memcpy(weights, row, experts * sizeof *row);
    memset(row, 0, experts * sizeof *row);
    vector->softmax(weights, experts, padded(experts));
    for (size_t i = 0; i < network->experts_used; i++) {
        size_t best = experts;
        for (size_t e = 0; e < experts; e++) /* the first of equals; taken ones are negative */
            if (!(weights[e] < 0) && (best == experts || weights[e] > weights[best]))
                best = e;
        row[best] = weights[best];
        sum += weights[best];
        weights[best] = -1.0f;
    }
    for (size_t e = 0; e < experts; e++)
        row[e] = row[e] / (sum < 0x1p-14f ? 0x1p-14f : sum);
}

static void route_rows(void *arg, size_t first, size_t last, size_t thread)
{
    const struct step_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    for (size_t row = first; row < last; row++)
        route_row(network, run->vector, run->slots[task->step->out] + row * network->experts,
                  run->scratch + thread * run->scratch_floats);
}

void mb_run_route(struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    struct step_task task = {run, step};
    mb_split(network->threads, run->rows,
             run->rows * network->experts * (network->experts_used + 8), route_rows, &task);
}

/* ---- products ---- */

/* An expert's rows of a packed matrix; experts start at whole panels. */
static struct mb_weights expert_of(const struct mb_weights *all, size_t expert, size_t n)
{
    struct mb_weights view = *all;
    size_t panel_bytes = 0;
    view.n = n;
    if (all->format == MB_FORMAT_NONE) { /* codebooks: each expert was packed by itself */
        view.data = (struct mb_codebook_weights *)all->data + expert;
        return view;
    }
    (void)mb_pack_size(all->format, PANEL_ROWS, all->k, &panel_bytes); /* all of it was packed */
    view.data = (uint8_t *)all->data + expert * (n / PANEL_ROWS) * panel_bytes;
    return view;
}

static bool grow_gathered(struct mb_run *run, size_t floats)
{
    if (floats > run->gathered_room) {
        mb_free_aligned(run->gathered);
        run->gathered = mb_alloc_aligned(floats * sizeof *run->gathered);
        run->gathered_room = run->gathered ? floats : 0;
    }
    return run->gathered != NULL;
}

/* The next row from `row` on that goes to an expert, and its place among the row's experts. */
static size_t next_row(const struct mb_run *run, size_t row, size_t expert, size_t *place)
{
    const size_t experts = run->network->experts;
    for (; row < run->rows; row++) {
        const float *weights = run->slots[MB_SLOT_ROUTED] + row * experts;
        if (weights[expert] == 0.0f)
            continue;
        *place = 0;
        for (size_t e = 0; e < expert; e++)
            *place += weights[e] != 0.0f;
        if (*place < run->network->experts_used)
            break;
    }
    return row;
}

/* What one expert adds to one product's out. */
static void scatter(struct mb_run *run, const struct mb_step *step, enum mb_slot slot,
                    size_t expert, const float *y, size_t n)
{
    const struct mb_network *network = run->network;
    const size_t width = network->slot_width[slot];
    size_t place;
    for (size_t row = next_row(run, 0, expert, &place); row < run->rows;
         row = next_row(run, row + 1, expert, &place), y += n) {
        float *out = run->slots[slot] + row * width;
        if (step->combined)
            run->vector->add(out, y, run->slots[MB_SLOT_ROUTED][row * network->experts + expert],
                             n);
        else
            memcpy(out + place * n, y, n * sizeof *y);
    }
}

/* One expert's rows through the products of `mask`. x and y are in `gathered`. */
static enum mb_status run_expert(struct mb_run *run, const struct mb_step *step, unsigned mask,
                                 size_t expert)
{
    const struct mb_network *network = run->network;
    const struct mb_weights *weights[MB_MAX_PRODUCTS];
    struct mb_weights views[MB_MAX_PRODUCTS];
    float *y[MB_MAX_PRODUCTS], *x = run->gathered;
    enum mb_slot slots[MB_MAX_PRODUCTS];
    size_t rows = 0, place, count = 0;
    const size_t k = network->matrices[step->products[0].matrix].k,
                 width = network->slot_width[step->in];
    for (size_t row = next_row(run, 0, expert, &place); row < run->rows;
         row = next_row(run, row + 1, expert, &place))
        memcpy(x + rows++ * k,
               run->slots[step->in] + row * width + (step->combined ? place * k : 0),
               k * sizeof *x);
    if (rows == 0)
        return MB_OK;
    float *out = x + run->rows * k;
    for (size_t i = 0; i < step->product_count; i++) {
        const size_t matrix = step->products[i].matrix,
                     n = network->matrices[matrix].n / network->experts;
        if (!(mask & 1u << i))
            continue;
        if (run->observe != NULL)
            run->observe(run->observe_user, run, matrix, expert, x, k, rows);
        views[count] = expert_of(mb_run_weights(run, matrix), expert, n);
        weights[count] = &views[count];
        slots[count] = step->products[i].out;
        y[count++] = out;
        out += run->rows * n;
    }
    const enum mb_status status = mb_run_multiply(run, x, k, rows, count, weights, y);
    for (size_t i = 0; i < count && status == MB_OK; i++)
        scatter(run, step, slots[i], expert, y[i], views[i].n);
    return status;
}

enum mb_status mb_run_experts(struct mb_run *run, const struct mb_step *step, unsigned mask)
{
    const struct mb_network *network = run->network;
    size_t floats = run->rows * network->matrices[step->products[0].matrix].k;
    for (size_t i = 0; i < step->product_count; i++) {
        floats += run->rows * network->matrices[step->products[i].matrix].n / network->experts;
        if (mask & 1u << i) /* what fewer experts leave out must not be what was there before */
            memset(run->slots[step->products[i].out], 0,
                   run->rows * network->slot_width[step->products[i].out] * sizeof(float));
    }
    enum mb_status status = grow_gathered(run, floats) ? MB_OK : MB_ERR_MEMORY;
    for (size_t e = 0; e < network->experts && status == MB_OK; e++)
        status = run_expert(run, step, mask, e);
    return status;
}
