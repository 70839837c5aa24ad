/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `gemma3`: norms before and behind every block, queries and keys normalized head by
 * head, GeGLU, and two kinds of attention: most layers see a window of recent positions and turn by
 * one RoPE base, every sixth sees all positions and turns by another.
 *
 *   hidden = sqrt(width) * token_embd[token]
 *   per layer: hidden += post_attention_norm(attn_output(attention(attn_norm(hidden))))
 *              hidden += post_ffw_norm(ffn_down(gelu(ffn_gate(n)) * ffn_up(n))), n =
 * ffn_norm(hidden) logits = output(output_norm(hidden)), bent to +-cap when the file names one */
#include "model/blocks.h"

#include <math.h>

enum { GLOBAL, LOCAL }; /* ropes */

#define PATTERN "attention.sliding_window_pattern"

/* Whether a layer sees a window only: an entry per layer, or all but every n-th. */
static enum mb_status read_local(const struct mb_network *w, size_t layer, bool *local,
                                 struct mb_error *error)
{
    size_t value;
    if (mb_model_array_count(w->model, "gemma3." PATTERN) > 0) {
        MB_TRY(mb_graph_layer_uint(w, PATTERN, layer, 0, 1, 0, &value, error));
        *local = value != 0;
        return MB_OK;
    }
    MB_TRY(mb_graph_uint(w, PATTERN, 0, 1 << 16, 6, &value, error));
    *local = value == 0 || layer % value + 1 < value;
    return MB_OK;
}

static enum mb_status read_hyperparameters(struct mb_network *w, size_t *window,
                                           struct mb_error *error)
{
    enum { LAYERS_27B = 62, NONE = 1 << 24 };
    double cap;
    MB_TRY(mb_blocks_sizes(w, false, error));
    MB_TRY(mb_blocks_heads(w, 0, error));
    /* The file doesn't say it: the largest model scales by its width, not by its heads. */
    if (w->layers == LAYERS_27B)
        w->attention_scale = 1.0f / sqrtf((float)(w->width / w->heads));
    MB_TRY(mb_graph_uint(w, "attention.sliding_window", 0, NONE, NONE, window, error));
    if (*window == NONE)
        *window = 0;
    MB_TRY(mb_blocks_rope(w, GLOBAL, "rope.freq_base", true, true, error));
    if (*window > 0)
        MB_TRY(mb_blocks_rope(w, LOCAL, "rope.freq_base_swa", false, true, error));
    MB_TRY(mb_graph_float(w, "final_logit_softcapping", 0.0, 1e9, 0.0, &cap, error));
    w->logit_cap = (float)cap;
    return MB_OK;
}

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    size_t window;
    MB_TRY(read_hyperparameters(w, &window, error));
    MB_TRY(mb_blocks_embedding(w, (double)sqrtf((float)w->width), error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        bool local = false;
        if (window > 0)
            MB_TRY(read_local(w, layer, &local, error));
        const struct mb_style style = {.rotated = true,
                                       .query_key_norms = true,
                                       .post_norms = true,
                                       .rope = local ? LOCAL : GLOBAL,
                                       .window = local ? window : 0,
                                       .gelu = true};
        MB_TRY(mb_blocks_attention(w, layer, &style, error));
        MB_TRY(mb_blocks_feed_forward(w, layer, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_gemma3 = {"gemma3", build};
