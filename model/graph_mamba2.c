/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `mamba2`: Mamba-2 blocks and nothing else (arXiv 2405.21060). The block itself is in
 * blocks_ssm.c.
 *
 *   hidden = token_embd[token]
 *   per layer: hidden += mamba2(attn_norm(hidden))
 *   logits = output(output_norm(hidden)); output is token_embd when the file has none */
#include "model/blocks.h"

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    const struct mb_style style = {.rotated = false};
    MB_TRY(mb_blocks_sizes(w, false, error));
    MB_TRY(mb_blocks_state_space(w, true, error));
    MB_TRY(mb_blocks_embedding(w, 1.0, error));
    for (size_t layer = 0; layer < w->layers; layer++)
        MB_TRY(mb_blocks_mamba2(w, layer, &style, error));
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_mamba2 = {"mamba2", build};
