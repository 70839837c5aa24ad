/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `llama`: pre-norm decoder, grouped-query attention with RoPE on consecutive pairs,
 * SwiGLU. Covers Llama 1 to 3, Mistral, SmolLM2 and their kin as GGUF names them.
 *
 *   hidden = token_embd[token]
 *   per layer: hidden += attn_output(attention(attn_norm(hidden)))
 *              hidden += ffn_down(silu(ffn_gate(n)) * ffn_up(n)),  n = ffn_norm(hidden)
 *   logits = output(output_norm(hidden)); output is token_embd when the file has none */
#include "model/blocks.h"

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    const struct mb_style style = {.rotated = true};
    MB_TRY(mb_blocks_sizes(w, false, error));
    MB_TRY(mb_blocks_heads(w, 0, error));
    MB_TRY(mb_blocks_rope(w, 0, "rope.freq_base", true, false, error));
    MB_TRY(mb_blocks_embedding(w, 1.0, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        MB_TRY(mb_blocks_attention(w, layer, &style, error));
        MB_TRY(mb_blocks_feed_forward(w, layer, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_llama = {"llama", build};
