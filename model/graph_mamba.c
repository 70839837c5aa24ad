/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `mamba`: selective state space layers (arXiv 2312.00752). Covers Mamba and, with
 * ssm.dt_b_c_rms, FalconMamba.
 *
 *   hidden = token_embd[token]
 *   per layer: [x, z]    = ssm_in(attn_norm(hidden))
 *              x         = silu(convolution of x over the last tokens)
 *              [r, B, C] = ssm_x(x)                      each normalized when dt_b_c_rms
 *              dt        = softplus(ssm_dt(r) + bias)    per channel
 *              state     = exp(dt * A) * state + dt * x B     per channel, A of each state
 *              hidden   += ssm_out(silu(z) * (state C + D * x))
 *   logits = output(output_norm(hidden)); output is token_embd when the file has none */
#include "model/blocks.h"

struct mamba {
    size_t rank;     /* of the time step */
    bool normalized; /* r, B and C */
};

static enum mb_status add_convolution(struct mb_network *w, size_t layer, struct mb_error *error)
{
    const size_t inner = w->ssm.inner;
    char name[96];
    struct mb_step in = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &in, "ssm_in", 2 * inner, w->width, MB_SLOT_PROJECTED, error));
    MB_TRY(mb_graph_step(w, in, error));
    w->slot_width[MB_SLOT_CONVOLVED] = inner;
    struct mb_step convolve = {.kind = MB_STEP_CONVOLVE,
                               .in = MB_SLOT_PROJECTED,
                               .out = MB_SLOT_CONVOLVED,
                               .layer = (int)layer,
                               .cached = w->scanning};
    MB_TRY(
        mb_blocks_table(w, layer, "ssm_conv1d.weight",
                        (struct mb_graph_table){.n = inner, .k = w->ssm.taps, .transposed = true},
                        &convolve.vector, error));
    mb_blocks_name(name, layer, "ssm_conv1d", ".bias");
    MB_TRY(mb_graph_vector(w, name, inner, true, &convolve.bias, error));
    return mb_graph_step(w, convolve, error);
}

/* Time step, B and C from x. */
static enum mb_status add_selection(struct mb_network *w, size_t layer, const struct mamba *mamba,
                                    struct mb_error *error)
{
    const size_t inner = w->ssm.inner, states = w->ssm.states;
    char name[96];
    struct mb_step select = {
        .kind = MB_STEP_PRODUCTS, .in = MB_SLOT_CONVOLVED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &select, "ssm_x", mamba->rank + 2 * states, inner, MB_SLOT_SELECTED,
                             error));
    MB_TRY(mb_graph_step(w, select, error));
    const struct mb_step norms[] = {
        {.at = 0, .group = mamba->rank, .groups = 1},
        {.at = mamba->rank, .group = states, .groups = 2},
    };
    for (size_t i = 0; mamba->normalized && i < sizeof norms / sizeof norms[0]; i++) {
        struct mb_step norm = norms[i];
        norm.kind = MB_STEP_NORM;
        norm.in = norm.out = MB_SLOT_SELECTED;
        norm.layer = (int)layer;
        norm.vector = MB_NO_VECTOR;
        MB_TRY(mb_graph_step(w, norm, error));
    }
    struct mb_step time = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_SELECTED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &time, "ssm_dt", inner, mamba->rank, MB_SLOT_TIME, error));
    struct mb_step softplus = {.kind = MB_STEP_SOFTPLUS,
                               .in = MB_SLOT_TIME,
                               .out = MB_SLOT_TIME,
                               .layer = (int)layer,
                               .bias = time.products[0].bias,
                               .group = inner};
    time.products[0].bias = MB_NO_VECTOR;
    mb_blocks_name(name, layer, "ssm_dt", ".bias");
    if (softplus.bias == MB_NO_VECTOR)
        MB_TRY(mb_graph_vector(w, name, inner, false, &softplus.bias, error));
    MB_TRY(mb_graph_step(w, time, error));
    return mb_graph_step(w, softplus, error);
}

static enum mb_status add_scan(struct mb_network *w, size_t layer, size_t rank,
                               struct mb_error *error)
{
    const struct mb_state_space *ssm = &w->ssm;
    struct mb_step scan = {.kind = MB_STEP_SCAN,
                           .in = MB_SLOT_CONVOLVED,
                           .out = MB_SLOT_SCANNED,
                           .layer = (int)layer,
                           .cached = w->scanning++,
                           .b = {MB_SLOT_SELECTED, rank},
                           .c = {MB_SLOT_SELECTED, rank + ssm->states},
                           .dt = {MB_SLOT_TIME, 0}};
    const struct mb_graph_table a = {
        .n = ssm->inner, .k = ssm->states, .pad = ssm->channels, .transposed = true};
    const struct mb_graph_table d = {.n = 1, .k = ssm->inner, .pad = ssm->channels};
    MB_TRY(mb_blocks_table(w, layer, "ssm_a", a, &scan.vector, error));
    MB_TRY(mb_blocks_table(w, layer, "ssm_d", d, &scan.skip, error));
    MB_TRY(mb_graph_step(w, scan, error));
    return mb_graph_step(w,
                         (struct mb_step){.kind = MB_STEP_GATE,
                                          .in = MB_SLOT_PROJECTED,
                                          .out = MB_SLOT_SCANNED,
                                          .layer = (int)layer,
                                          .at = ssm->inner},
                         error);
}

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    enum { NONE = 2 };
    const struct mb_style style = {.rotated = false};
    struct mamba mamba;
    size_t normalized;
    MB_TRY(mb_blocks_sizes(w, false, error));
    MB_TRY(mb_blocks_state_space(w, false, error));
    MB_TRY(mb_graph_uint(w, "ssm.time_step_rank", 1, 1 << 20, 0, &mamba.rank, error));
    MB_TRY(mb_graph_uint(w, "ssm.dt_b_c_rms", 0, NONE, NONE, &normalized, error));
    mamba.normalized = normalized == 1;
    MB_TRY(mb_blocks_embedding(w, 1.0, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        MB_TRY(mb_blocks_norm(w, layer, "attn_norm", MB_SLOT_HIDDEN, MB_SLOT_NORMED, error));
        MB_TRY(add_convolution(w, layer, error));
        MB_TRY(add_selection(w, layer, &mamba, error));
        MB_TRY(add_scan(w, layer, mamba.rank, error));
        MB_TRY(mb_blocks_mixed(w, layer, "ssm_out", MB_SLOT_SCANNED, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_mamba = {"mamba", build};
