/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `qwen3moe`: qwen3's attention; the feed-forward block is a mixture of experts.
 *
 *   hidden = token_embd[token]
 *   per layer: hidden += attn_output(attention(attn_norm(hidden))), queries and keys as in qwen3
 *              p       = softmax(ffn_gate_inp(n)), n = ffn_norm(hidden); the best few, summing to 1
 *              hidden += sum of p[e] * ffn_down_exps[e](silu(ffn_gate_exps[e](n)) *
 * ffn_up_exps[e](n)) logits = output(output_norm(hidden)); output is token_embd when the file has
 * none */
#include "model/blocks.h"

static enum mb_status read_experts(struct mb_network *w, size_t *hidden, struct mb_error *error)
{
    enum { MOST_EXPERTS = 1 << 12 };
    size_t groups, all;
    MB_TRY(mb_graph_uint(w, "expert_count", 1, MOST_EXPERTS, 0, &w->experts, error));
    MB_TRY(mb_graph_uint(w, "expert_used_count", 1, w->experts, 0, &w->experts_used, error));
    MB_TRY(mb_graph_uint(w, "expert_group_count", 0, MOST_EXPERTS, 1, &groups, error));
    if (groups > 1)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: experts in %zu groups are not supported (expert_group_count)",
                            mb_model_path(w->model), groups);
    MB_TRY(mb_graph_uint(w, "feed_forward_length", 1, 1 << 24, 1 << 24, &all, error));
    const size_t even = all / w->experts_used;
    MB_TRY(
        mb_graph_uint(w, "expert_feed_forward_length", 1, 1 << 24, even ? even : 1, hidden, error));
    if (*hidden % 16 != 0 || w->width % 16 != 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: experts of %zu x %zu are not supported (multiples of 16 are)",
                            mb_model_path(w->model), w->width, *hidden);
    return MB_OK;
}

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    const struct mb_style style = {.rotated = true, .query_key_norms = true};
    size_t hidden;
    MB_TRY(mb_blocks_sizes(w, true, error));
    MB_TRY(mb_blocks_heads(w, 0, error));
    MB_TRY(mb_blocks_rope(w, 0, "rope.freq_base", true, true, error));
    MB_TRY(read_experts(w, &hidden, error));
    MB_TRY(mb_blocks_embedding(w, 1.0, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        MB_TRY(mb_blocks_attention(w, layer, &style, error));
        MB_TRY(mb_blocks_experts(w, layer, hidden, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_qwen3moe = {"qwen3moe", build};
