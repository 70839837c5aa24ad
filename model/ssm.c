/* SPDX-License-Identifier: Apache-2.0 */
/* State space layers: the causal convolution and the scan, over whole windows or one token behind a
 * cache.
 *
 * A scan is sequential in time, so the work is split over sequences and blocks of channels; a
 * block's state stays in the first cache while a thread walks its window. States lie
 * [state][channel]: lanes are channels, B and C are broadcast, and no sum crosses lanes. As in
 * attention, both cases run the same operations in the same order. Source: Mamba (arXiv 2312.00752)
 * and Mamba-2 (2405.21060), in the recurrent form. */
#include "model/network.h"

#include "model/vector.h"
#include "support/support.h"

#include <string.h>

enum { REGISTER = 16, MOST_TAPS = MB_MOST_TAPS };

static size_t padded(const struct mb_state_space *ssm)
{
    return (ssm->channels + REGISTER - 1) / REGISTER * REGISTER;
}

static size_t block_state(const struct mb_state_space *ssm) { return ssm->states * padded(ssm); }

size_t mb_scan_state(const struct mb_network *network)
{
    return network->ssm.blocks * block_state(&network->ssm);
}

/* A block's state, and its x, time steps and result. */
size_t mb_scan_scratch(const struct mb_network *network)
{
    return network->scanning ? block_state(&network->ssm) + 3 * padded(&network->ssm) : 0;
}

struct layer_task {
    struct mb_run *run;
    const struct mb_step *step;
};

/* ---- convolution ---- */

/* Inputs that a layer's convolution has kept of the tokens before, oldest first; NULL: none. */
static float *kept_inputs(const struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    const size_t rows = network->ssm.taps - 1, width = network->slot_width[step->out];
    return run->cache ? run->cache->inputs + step->cached * rows * width : NULL;
}

static void convolve_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct layer_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_step *step = task->step;
    const struct mb_network *network = run->network;
    const size_t taps = network->ssm.taps, width = network->slot_width[step->out],
                 stride = network->slot_width[step->in];
    const float *kept = run->past ? kept_inputs(run, step) : NULL;
    for (size_t row = first; row < last; row++) {
        const size_t t = row % run->tokens;
        const float *x = run->slots[step->in] + row * stride + step->at, *in[MOST_TAPS];
        for (size_t j = 0; j < taps; j++) {
            const size_t back = taps - 1 - j; /* tokens before this one */
            in[j] = back <= t      ? x - back * stride
                    : kept != NULL ? kept + (taps - 1 - (back - t)) * width
                                   : NULL;
        }
        run->vector->convolve(
            run->slots[step->out] + row * width, in, network->vectors[step->vector], width, taps,
            step->bias != MB_NO_VECTOR ? network->vectors[step->bias] : NULL, width);
    }
}

/* The newest inputs replace the oldest. */
static void keep_inputs(const struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    const size_t rows = network->ssm.taps - 1, width = network->slot_width[step->out],
                 stride = network->slot_width[step->in],
                 fresh = run->tokens < rows ? run->tokens : rows;
    float *kept = kept_inputs(run, step);
    const float *x = run->slots[step->in] + step->at;
    if (run->past == 0)
        memset(kept, 0, rows * width * sizeof *kept);
    memmove(kept, kept + fresh * width, (rows - fresh) * width * sizeof *kept);
    for (size_t i = 0; i < fresh; i++)
        memcpy(kept + (rows - fresh + i) * width, x + (run->tokens - fresh + i) * stride,
               width * sizeof *kept);
}

void mb_run_convolve(struct mb_run *run, const struct mb_step *step)
{
    const struct mb_network *network = run->network;
    struct layer_task task = {run, step};
    const size_t work = run->rows * network->slot_width[step->out] * (network->ssm.taps + 4);
    mb_split(network->threads, run->rows, work, convolve_rows, &task);
    if (run->cache != NULL)
        keep_inputs(run, step);
}

/* ---- time steps ---- */

static void softplus_rows(void *arg, size_t first, size_t last, size_t thread)
{
    (void)thread;
    const struct layer_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_step *step = task->step;
    const size_t stride = run->network->slot_width[step->out];
    const float *bias = step->bias != MB_NO_VECTOR ? run->network->vectors[step->bias] : NULL;
    for (size_t row = first; row < last; row++)
        run->vector->softplus(run->slots[step->out] + row * stride + step->at, bias, step->group);
}

void mb_run_softplus(struct mb_run *run, const struct mb_step *step)
{
    struct layer_task task = {run, step};
    mb_split(run->network->threads, run->rows, run->rows * step->group * 8, softplus_rows, &task);
}

/* ---- scan ---- */

static const float *columns(const struct mb_run *run, const struct mb_columns *at, size_t row)
{
    return run->slots[at->slot] + row * run->network->slot_width[at->slot] + at->at;
}

/* All tokens of one sequence through one block. scratch is [3][padded channels]. */
static void scan_block(const struct mb_run *run, const struct mb_step *step, size_t sequence,
                       size_t block, float *state, float *scratch)
{
    const struct mb_network *network = run->network;
    const struct mb_state_space *ssm = &network->ssm;
    const size_t width = padded(ssm), first = block * ssm->channels, left = ssm->inner - first,
                 count = left < ssm->channels ? left : ssm->channels,
                 group = block * ssm->groups / ssm->blocks * ssm->states;
    float *x = scratch, *dt = x + width, *out = dt + width;
    const struct mb_columns x_at = {step->in, first};
    const struct mb_scan_token token = {.x = x,
                                        .dt = dt,
                                        .skip = network->vectors[step->skip] + block * width,
                                        .a = network->vectors[step->vector] +
                                             (ssm->scalar_decay ? block : block * width),
                                        .a_stride = ssm->scalar_decay ? 0 : ssm->blocks * width,
                                        .channels = width,
                                        .states = ssm->states};
    memset(scratch, 0, 2 * width * sizeof *scratch);
    for (size_t t = 0; t < run->tokens; t++) {
        const size_t row = sequence * run->tokens + t;
        struct mb_scan_token now = token;
        const float *steps = columns(run, &step->dt, row);
        now.b = columns(run, &step->b, row) + group;
        now.c = columns(run, &step->c, row) + group;
        memcpy(x, columns(run, &x_at, row), count * sizeof *x);
        for (size_t i = 0; i < count; i++)
            dt[i] = ssm->scalar_decay ? steps[block] : steps[first + i];
        run->vector->scan(out, state, &now);
        memcpy(run->slots[step->out] + row * ssm->inner + first, out, count * sizeof *out);
    }
}

static void scan_blocks(void *arg, size_t first, size_t last, size_t thread)
{
    const struct layer_task *task = arg;
    const struct mb_run *run = task->run;
    const struct mb_network *network = run->network;
    const size_t blocks = network->ssm.blocks, size = block_state(&network->ssm);
    float *scratch = run->scratch + thread * run->scratch_floats;
    for (size_t i = first; i < last; i++) {
        float *state = scratch + 3 * padded(&network->ssm);
        if (run->cache != NULL)
            state = run->cache->states + (task->step->cached * blocks + i % blocks) * size;
        if (run->past == 0)
            memset(state, 0, size * sizeof *state);
        scan_block(run, task->step, i / blocks, i % blocks, state, scratch);
    }
}

void mb_run_scan(struct mb_run *run, const struct mb_step *step)
{
    const struct mb_state_space *ssm = &run->network->ssm;
    struct layer_task task = {run, step};
    mb_split(run->network->threads, run->sequences * ssm->blocks,
             run->rows * ssm->inner * ssm->states * (ssm->scalar_decay ? 2 : 8), scan_blocks,
             &task);
}
