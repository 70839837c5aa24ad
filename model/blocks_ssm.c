/* SPDX-License-Identifier: Apache-2.0 */
/* Shared parts of architectures with state space layers: their sizes, and the block of Mamba-2.
 *
 *   [z, xBC, dt] = ssm_in(attn_norm(hidden))
 *   [x, B, C]    = silu(convolution of xBC over the last tokens)
 *   state        = exp(dt * A) * state + dt * x B^T      per head, dt = softplus(dt + bias)
 *   y            = state C + D * x
 *   hidden      += ssm_out(rms_norm(silu(z) * y))        the norm over each group of B and C */
#include "model/blocks.h"

#include <stdio.h>

enum { REGISTER = 16 };

static size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

enum mb_status mb_blocks_state_space(struct mb_network *w, bool has_heads, struct mb_error *error)
{
    enum { CHANNELS = 64 }; /* of Mamba that run together: B and C are read once for them */
    struct mb_state_space *ssm = &w->ssm;
    size_t heads = 0;
    MB_TRY(mb_graph_uint(w, "ssm.conv_kernel", 2, MB_MOST_TAPS, 0, &ssm->taps, error));
    MB_TRY(mb_graph_uint(w, "ssm.inner_size", 1, 1 << 20, 0, &ssm->inner, error));
    MB_TRY(mb_graph_uint(w, "ssm.state_size", 1, 1 << 12, 0, &ssm->states, error));
    ssm->groups = 1;
    w->slot_width[MB_SLOT_SCANNED] = ssm->inner;
    if (!has_heads) {
        ssm->channels = ssm->inner < CHANNELS ? round_up(ssm->inner, REGISTER) : CHANNELS;
        ssm->blocks = (ssm->inner + ssm->channels - 1) / ssm->channels;
        return MB_OK;
    }
    MB_TRY(mb_graph_uint(w, "ssm.time_step_rank", 1, ssm->inner, 0, &heads, error));
    MB_TRY(mb_graph_uint(w, "ssm.group_count", 1, heads, 0, &ssm->groups, error));
    if (ssm->inner % heads != 0 || heads % ssm->groups != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: %zu channels, %zu heads ('ssm.time_step_rank') and %zu groups of "
                            "state space layers do not divide evenly",
                            mb_model_path(w->model), ssm->inner, heads, ssm->groups);
    ssm->blocks = heads;
    ssm->channels = ssm->inner / heads;
    ssm->scalar_decay = true;
    return MB_OK;
}

/* A, and D for every channel of every head. */
static enum mb_status add_scan(struct mb_network *w, size_t layer, struct mb_error *error)
{
    const struct mb_state_space *ssm = &w->ssm;
    const size_t heads = ssm->blocks, both = ssm->groups * ssm->states,
                 stride = round_up(ssm->channels, REGISTER);
    struct mb_step scan = {.kind = MB_STEP_SCAN,
                           .in = MB_SLOT_CONVOLVED,
                           .out = MB_SLOT_SCANNED,
                           .layer = (int)layer,
                           .cached = w->scanning++,
                           .b = {MB_SLOT_CONVOLVED, ssm->inner},
                           .c = {MB_SLOT_CONVOLVED, ssm->inner + both},
                           .dt = {MB_SLOT_PROJECTED, 2 * ssm->inner + 2 * both}};
    MB_TRY(mb_blocks_table(w, layer, "ssm_a", (struct mb_graph_table){.n = heads, .k = 1},
                           &scan.vector, error));
    MB_TRY(mb_blocks_table(w, layer, "ssm_d",
                           (struct mb_graph_table){.n = heads, .k = 1, .pad = stride}, &scan.skip,
                           error));
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 1; i < ssm->channels; i++)
            w->vectors[scan.skip][h * stride + i] = w->vectors[scan.skip][h * stride];
    return mb_graph_step(w, scan, error);
}

/* What happens to z, xBC and dt before the scan. */
static enum mb_status add_inputs(struct mb_network *w, size_t layer, struct mb_error *error)
{
    const struct mb_state_space *ssm = &w->ssm;
    const size_t convolved = ssm->inner + 2 * ssm->groups * ssm->states, heads = ssm->blocks;
    char name[96];
    struct mb_step in = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &in, "ssm_in", ssm->inner + convolved + heads, w->width,
                             MB_SLOT_PROJECTED, error));
    MB_TRY(mb_graph_step(w, in, error));
    w->slot_width[MB_SLOT_CONVOLVED] = convolved;
    struct mb_step convolve = {.kind = MB_STEP_CONVOLVE,
                               .in = MB_SLOT_PROJECTED,
                               .out = MB_SLOT_CONVOLVED,
                               .layer = (int)layer,
                               .at = ssm->inner,
                               .cached = w->scanning};
    MB_TRY(
        mb_blocks_table(w, layer, "ssm_conv1d.weight",
                        (struct mb_graph_table){.n = convolved, .k = ssm->taps, .transposed = true},
                        &convolve.vector, error));
    mb_blocks_name(name, layer, "ssm_conv1d", ".bias");
    MB_TRY(mb_graph_vector(w, name, convolved, true, &convolve.bias, error));
    MB_TRY(mb_graph_step(w, convolve, error));
    struct mb_step softplus = {.kind = MB_STEP_SOFTPLUS,
                               .in = MB_SLOT_PROJECTED,
                               .out = MB_SLOT_PROJECTED,
                               .layer = (int)layer,
                               .at = ssm->inner + convolved,
                               .group = heads};
    mb_blocks_name(name, layer, "ssm_dt", ".bias");
    MB_TRY(mb_graph_vector(w, name, heads, false, &softplus.bias, error));
    return mb_graph_step(w, softplus, error);
}

enum mb_status mb_blocks_mamba2(struct mb_network *w, size_t layer, const struct mb_style *style,
                                struct mb_error *error)
{
    const struct mb_state_space *ssm = &w->ssm;
    const size_t group = ssm->inner / ssm->groups;
    MB_TRY(mb_blocks_norm(w, layer, "attn_norm", MB_SLOT_HIDDEN, MB_SLOT_NORMED, error));
    MB_TRY(add_inputs(w, layer, error));
    MB_TRY(add_scan(w, layer, error));
    struct mb_step gate = {
        .kind = MB_STEP_GATE, .in = MB_SLOT_PROJECTED, .out = MB_SLOT_SCANNED, .layer = (int)layer};
    MB_TRY(mb_graph_step(w, gate, error));
    struct mb_step norm = {.kind = MB_STEP_NORM,
                           .in = MB_SLOT_SCANNED,
                           .out = MB_SLOT_SCANNED,
                           .layer = (int)layer,
                           .group = group};
    MB_TRY(mb_blocks_table(w, layer, "ssm_norm.weight",
                           (struct mb_graph_table){.n = ssm->groups, .k = group}, &norm.vector,
                           error));
    MB_TRY(mb_graph_step(w, norm, error));
    return mb_blocks_mixed(w, layer, "ssm_out", MB_SLOT_SCANNED, style, error);
}
