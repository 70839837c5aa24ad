/* SPDX-License-Identifier: Apache-2.0 */
/* The block of a mixture of experts: a router gives every row a few of the experts, each a gated
 * feed-forward block; their results are added by the router's weights. */
#include "model/blocks.h"

/* All experts of `part` as one matrix. */
static enum mb_status add_experts(struct mb_network *w, struct mb_step *step, const char *part,
                                  size_t n, size_t k, enum mb_slot out, struct mb_error *error)
{
    char name[96];
    struct mb_product *product = &step->products[step->product_count++];
    product->out = out;
    product->bias = MB_NO_VECTOR;
    mb_blocks_name(name, (size_t)step->layer, part, ".weight");
    return mb_graph_experts(w, name, w->experts, n, k, &product->matrix, error);
}

enum mb_status mb_blocks_experts(struct mb_network *w, size_t layer, size_t hidden,
                                 const struct mb_style *style, struct mb_error *error)
{
    MB_TRY(mb_blocks_norm(w, layer, "ffn_norm", MB_SLOT_HIDDEN, MB_SLOT_NORMED, error));
    struct mb_step router = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(
        mb_blocks_product(w, &router, "ffn_gate_inp", w->experts, w->width, MB_SLOT_ROUTED, error));
    MB_TRY(mb_graph_step(w, router, error));
    MB_TRY(mb_graph_step(w,
                         (struct mb_step){.kind = MB_STEP_ROUTE,
                                          .in = MB_SLOT_ROUTED,
                                          .out = MB_SLOT_ROUTED,
                                          .layer = (int)layer},
                         error));
    w->slot_width[MB_SLOT_GATE] = w->slot_width[MB_SLOT_UP] = w->experts_used * hidden;
    struct mb_step wide = {.kind = MB_STEP_EXPERTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(add_experts(w, &wide, "ffn_gate_exps", hidden, w->width, MB_SLOT_GATE, error));
    MB_TRY(add_experts(w, &wide, "ffn_up_exps", hidden, w->width, MB_SLOT_UP, error));
    MB_TRY(mb_graph_step(w, wide, error));
    MB_TRY(mb_blocks_gate(w, layer, style, error));
    struct mb_step down = {
        .kind = MB_STEP_EXPERTS, .in = MB_SLOT_GATE, .layer = (int)layer, .combined = true};
    MB_TRY(add_experts(w, &down, "ffn_down_exps", w->width, hidden, MB_SLOT_DELTA, error));
    MB_TRY(mb_graph_step(w, down, error));
    return mb_blocks_add(w, layer, "post_ffw_norm", style, error);
}
