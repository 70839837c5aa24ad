/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `granitehybrid`: layers of Mamba-2 and, where attention.head_count_kv is not 0, of
 * grouped-query attention, each with a SwiGLU block behind; multipliers on embedding, residual
 * stream, attention scores and logits. Covers Granite 4 (the dense ones).
 *
 *   hidden = embedding_scale * token_embd[token]
 *   per layer: hidden += residual_scale * mixer(attn_norm(hidden))
 *              hidden += residual_scale * ffn_down(silu(ffn_gate(n)) * ffn_up(n)), n =
 * ffn_norm(hidden) logits = output(output_norm(hidden)) / logit_scale
 *
 * rope.scaling.finetuned = false is how a file says that attention has no position encoding. */
#include "model/blocks.h"

/* Key/value heads of a layer, 0: none, and that all layers with attention have as many. */
static enum mb_status read_attending(struct mb_network *w, size_t layer, size_t *kv_heads,
                                     size_t *found, struct mb_error *error)
{
    MB_TRY(mb_graph_layer_uint(w, "attention.head_count_kv", layer, 0, 1 << 14, 0, found, error));
    if (*found == 0 || *found == *kv_heads)
        return MB_OK;
    if (*kv_heads != 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: layer %zu has %zu key/value heads, an earlier one %zu; different "
                            "numbers are not supported",
                            mb_model_path(w->model), layer, *found, *kv_heads);
    *kv_heads = *found;
    return MB_OK;
}

/* A multiplier; files leave out those that are 1. */
static enum mb_status read_scale(struct mb_network *w, const char *key, float *scale,
                                 struct mb_error *error)
{
    double value;
    MB_TRY(mb_graph_float(w, key, 0.0, 1e9, 0.0, &value, error));
    *scale = (float)value;
    return MB_OK;
}

static enum mb_status read_hyperparameters(struct mb_network *w, struct mb_style *style,
                                           float *embedding_scale, struct mb_error *error)
{
    size_t kv_heads = 0, found, scans = 0;
    float attention = 0, logits = 0;
    MB_TRY(mb_blocks_sizes(w, false, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        MB_TRY(read_attending(w, layer, &kv_heads, &found, error));
        scans += found == 0;
    }
    if (kv_heads > 0)
        MB_TRY(mb_blocks_heads(w, kv_heads, error));
    if (scans > 0)
        MB_TRY(mb_blocks_state_space(w, true, error));
    size_t rotated;
    MB_TRY(mb_graph_uint(w, "rope.scaling.finetuned", 0, 1, 1, &rotated, error));
    style->rotated = rotated && kv_heads > 0;
    if (style->rotated)
        MB_TRY(mb_blocks_rope(w, 0, "rope.freq_base", true, false, error));
    MB_TRY(read_scale(w, "embedding_scale", embedding_scale, error));
    MB_TRY(read_scale(w, "residual_scale", &style->residual_scale, error));
    MB_TRY(read_scale(w, "attention.scale", &attention, error));
    MB_TRY(read_scale(w, "logit_scale", &logits, error));
    if (attention > 0)
        w->attention_scale = attention;
    w->logit_scale = logits > 0 ? 1.0f / logits : 0.0f;
    return MB_OK;
}

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    struct mb_style style = {.rotated = false};
    float embedding_scale = 0;
    MB_TRY(read_hyperparameters(w, &style, &embedding_scale, error));
    MB_TRY(mb_blocks_embedding(w, (double)embedding_scale, error));
    for (size_t layer = 0; layer < w->layers; layer++) {
        size_t kv_heads = w->kv_heads, attends;
        MB_TRY(read_attending(w, layer, &kv_heads, &attends, error));
        MB_TRY(attends ? mb_blocks_attention(w, layer, &style, error)
                       : mb_blocks_mamba2(w, layer, &style, error));
        MB_TRY(mb_blocks_feed_forward(w, layer, &style, error));
    }
    return mb_blocks_end(w, error);
}

const struct mb_architecture mb_architecture_granitehybrid = {"granitehybrid", build};
