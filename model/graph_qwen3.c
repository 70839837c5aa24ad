/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `qwen3`: llama's layer with queries and keys normalized head by head before RoPE,
 * which turns pairs half a head apart.
 *
 *   hidden = token_embd[token]
 *   per layer: hidden += attn_output(attention(attn_norm(hidden)))
 *              q = rope(attn_q_norm(attn_q(n))), k = rope(attn_k_norm(attn_k(n))), v = attn_v(n)
 *              hidden += ffn_down(silu(ffn_gate(n)) * ffn_up(n)),  n = ffn_norm(hidden)
 *   logits = output(output_norm(hidden)); output is token_embd when the file has none */
#include "model/blocks.h"

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    const struct mb_style style = {.rotated = true, .query_key_norms = true};
    MB_TRY(mb_blocks_sizes(w, false, error));
    MB_TRY(mb_blocks_heads(w, 0, error));
    MB_TRY(mb_blocks_rope(w, 0, "rope.freq_base", true, true, error));
    MB_TRY(mb_blocks_embedding(w, 1.0, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        MB_TRY(mb_blocks_attention(w, layer, &style, error));
        MB_TRY(mb_blocks_feed_forward(w, layer, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_qwen3 = {"qwen3", build};
