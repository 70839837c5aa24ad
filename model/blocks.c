/* SPDX-License-Identifier: Apache-2.0 */
/* Shared parts of architectures: sizes, heads, RoPE, embedding, attention, feed-forward.
 *
 * Every size that a file claims is bounded by a tensor that it holds before anything is allocated
 * from it: the number of layers by that of tensors, widths by rows and columns. */
#include "model/blocks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- hyperparameters ---- */

enum mb_status mb_blocks_sizes(struct mb_network *w, bool mixture, struct mb_error *error)
{
    enum { NONE = 1 << 16 }; /* a fallback that no file may give */
    size_t experts;
    double eps;
    MB_TRY(mb_graph_uint(w, "expert_count", 0, NONE, NONE, &experts, error));
    if (!mixture && experts != 0 && experts != NONE)
        return mb_error_set(
            error, MB_ERR_UNSUPPORTED, -1,
            "%s: mixtures of experts are not supported yet (%s.expert_count is %zu)",
            mb_model_path(w->model), mb_model_architecture(w->model), experts);
    /* Every layer has tensors of its own, so their number bounds what a file may claim. */
    MB_TRY(
        mb_graph_uint(w, "block_count", 1, mb_model_tensor_count(w->model), 0, &w->layers, error));
    MB_TRY(mb_graph_uint(w, "embedding_length", 1, 1 << 20, 0, &w->width, error));
    MB_TRY(mb_graph_uint(w, "context_length", 1, (size_t)1 << 32, 0, &w->context, error));
    MB_TRY(mb_graph_float(w, "attention.layer_norm_rms_epsilon", 0.0, 1.0, NAN, &eps, error));
    w->eps = (float)eps;
    w->slot_width[MB_SLOT_HIDDEN] = w->slot_width[MB_SLOT_NORMED] = w->slot_width[MB_SLOT_DELTA] =
        w->width;
    return MB_OK;
}

enum mb_status mb_blocks_heads(struct mb_network *w, size_t kv_heads, struct mb_error *error)
{
    const char *path = mb_model_path(w->model);
    size_t value_dim;
    MB_TRY(mb_graph_uint(w, "attention.head_count", 1, 1 << 14, 0, &w->heads, error));
    w->kv_heads = kv_heads;
    if (kv_heads == 0)
        MB_TRY(mb_graph_uint(w, "attention.head_count_kv", 1, w->heads, w->heads, &w->kv_heads,
                             error));
    if (w->heads % w->kv_heads != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: %zu attention heads cannot share %zu key/value heads evenly", path,
                            w->heads, w->kv_heads);
    const size_t even = w->width / w->heads;
    MB_TRY(
        mb_graph_uint(w, "attention.key_length", 2, 1 << 12, even ? even : 1, &w->head_dim, error));
    MB_TRY(mb_graph_uint(w, "attention.value_length", 2, 1 << 12, w->head_dim, &value_dim, error));
    if (w->head_dim % 2 != 0 || value_dim != w->head_dim)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: heads of %zu for keys and %zu for values are not supported "
                            "(supported: one even number for both)",
                            path, w->head_dim, value_dim);
    w->attention_scale = 1.0f / sqrtf((float)w->head_dim);
    w->slot_width[MB_SLOT_ATTENDED] = w->heads * w->head_dim;
    return MB_OK;
}

static enum mb_status read_factors(struct mb_network *w, struct mb_rope *rope,
                                   struct mb_error *error)
{
    MB_TRY(mb_graph_vector(w, "rope_freqs.weight", rope->dim / 2, true, &rope->factors, error));
    for (size_t i = 0; rope->factors != MB_NO_VECTOR && i < rope->dim / 2; i++)
        if (!(w->vectors[rope->factors][i] > 0 && w->vectors[rope->factors][i] < 1e9f))
            return mb_error_set(error, MB_ERR_FILE, -1,
                                "%s: entry %zu of 'rope_freqs.weight' is %g, expected a positive "
                                "factor",
                                mb_model_path(w->model), i, (double)w->vectors[rope->factors][i]);
    return MB_OK;
}

enum mb_status mb_blocks_rope(struct mb_network *w, size_t index, const char *base_key, bool scaled,
                              bool halves, struct mb_error *error)
{
    struct mb_rope *rope = &w->ropes[index];
    size_t dim;
    double factor, old;
    *rope = (struct mb_rope){.scale = 1.0, .factors = MB_NO_VECTOR, .halves = halves};
    MB_TRY(mb_graph_uint(w, "rope.dimension_count", 2, w->head_dim, w->head_dim, &dim, error));
    if (dim % 2 != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: 'rope.dimension_count' is %zu, expected an even number",
                            mb_model_path(w->model), dim);
    rope->dim = dim;
    MB_TRY(mb_graph_float(w, base_key, 1.0, 1e12, 10000.0, &rope->base, error));
    if (!scaled)
        return MB_OK;
    const char *scaling = mb_graph_string(w, "rope.scaling.type", "linear");
    const bool linear = strcmp(scaling, "linear") == 0;
    if (!linear && strcmp(scaling, "none") != 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: RoPE scaling '%.32s' is not supported yet (supported: linear, "
                            "none, rope_freqs.weight)",
                            mb_model_path(w->model), scaling);
    MB_TRY(mb_graph_float(w, "rope.scale_linear", 0.0, 1e6, 0.0, &old, error));
    MB_TRY(mb_graph_float(w, "rope.scaling.factor", 0.0, 1e6, old, &factor, error));
    rope->scale = linear && factor > 0 ? 1.0 / factor : 1.0;
    return read_factors(w, rope, error);
}

/* ---- what blocks are made of ---- */

void mb_blocks_name(char name[96], size_t layer, const char *part, const char *suffix)
{
    snprintf(name, 96, "blk.%zu.%.32s%.16s", layer, part, suffix);
}

enum mb_status mb_blocks_product(struct mb_network *w, struct mb_step *step, const char *part,
                                 size_t n, size_t k, enum mb_slot out, struct mb_error *error)
{
    char name[96];
    struct mb_product *product = &step->products[step->product_count++];
    product->out = out;
    mb_blocks_name(name, (size_t)step->layer, part, ".weight");
    MB_TRY(mb_graph_matrix(w, name, n ? n : w->slot_width[out], k, &product->matrix, error));
    w->slot_width[out] = w->matrices[product->matrix].n;
    mb_blocks_name(name, (size_t)step->layer, part, ".bias");
    return mb_graph_vector(w, name, w->slot_width[out], true, &product->bias, error);
}

enum mb_status mb_blocks_norm(struct mb_network *w, size_t layer, const char *part, enum mb_slot in,
                              enum mb_slot out, struct mb_error *error)
{
    char name[96];
    struct mb_step norm = {.kind = MB_STEP_NORM, .in = in, .out = out, .layer = (int)layer};
    mb_blocks_name(name, layer, part, ".weight");
    MB_TRY(mb_graph_vector(w, name, w->slot_width[in], false, &norm.vector, error));
    return mb_graph_step(w, norm, error);
}

enum mb_status mb_blocks_add(struct mb_network *w, size_t layer, const char *post_norm,
                             const struct mb_style *style, struct mb_error *error)
{
    if (style->post_norms)
        MB_TRY(mb_blocks_norm(w, layer, post_norm, MB_SLOT_DELTA, MB_SLOT_DELTA, error));
    return mb_graph_step(w,
                         (struct mb_step){.kind = MB_STEP_ADD,
                                          .in = MB_SLOT_DELTA,
                                          .out = MB_SLOT_HIDDEN,
                                          .layer = (int)layer,
                                          .scale = style->residual_scale},
                         error);
}

enum mb_status mb_blocks_mixed(struct mb_network *w, size_t layer, const char *part,
                               enum mb_slot in, const struct mb_style *style,
                               struct mb_error *error)
{
    /* Behind the last mixer a position sees only itself: the others are done with. */
    if (layer + 1 == w->layers)
        MB_TRY(mb_graph_step(
            w,
            (struct mb_step){
                .kind = MB_STEP_SCORE, .in = in, .out = MB_SLOT_HIDDEN, .layer = (int)layer},
            error));
    struct mb_step out = {.kind = MB_STEP_PRODUCTS, .in = in, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &out, part, w->width, w->slot_width[in], MB_SLOT_DELTA, error));
    MB_TRY(mb_graph_step(w, out, error));
    return mb_blocks_add(w, layer, "post_attention_norm", style, error);
}

/* ---- blocks ---- */

enum mb_status mb_blocks_embedding(struct mb_network *w, double scale, struct mb_error *error)
{
    MB_TRY(mb_graph_matrix(w, "token_embd.weight", 0, w->width, &w->embedding, error));
    w->vocabulary = w->matrices[w->embedding].n;
    w->output = w->embedding;
    if (!mb_model_tied(w->model))
        MB_TRY(mb_graph_matrix(w, "output.weight", w->vocabulary, w->width, &w->output, error));
    return mb_graph_step(
        w,
        (struct mb_step){
            .kind = MB_STEP_EMBED, .out = MB_SLOT_HIDDEN, .layer = -1, .scale = (float)scale},
        error);
}

enum mb_status mb_blocks_end(struct mb_network *w, struct mb_error *error)
{
    struct mb_step norm = {
        .kind = MB_STEP_NORM, .in = MB_SLOT_HIDDEN, .out = MB_SLOT_NORMED, .layer = -1};
    MB_TRY(mb_graph_vector(w, "output_norm.weight", w->width, false, &norm.vector, error));
    return mb_graph_step(w, norm, error);
}

/* Norm and rotation of queries or keys. */
static enum mb_status place_heads(struct mb_network *w, size_t layer, const char *norm,
                                  enum mb_slot slot, const struct mb_style *style,
                                  struct mb_error *error)
{
    struct mb_step step = {.kind = MB_STEP_NORM,
                           .in = slot,
                           .out = slot,
                           .layer = (int)layer,
                           .group = w->head_dim,
                           .shared = true};
    char name[96];
    mb_blocks_name(name, layer, norm, ".weight");
    if (style->query_key_norms) {
        MB_TRY(mb_graph_vector(w, name, w->head_dim, false, &step.vector, error));
        MB_TRY(mb_graph_step(w, step, error));
    }
    step = (struct mb_step){
        .kind = MB_STEP_ROPE, .in = slot, .out = slot, .layer = (int)layer, .rope = style->rope};
    return style->rotated ? mb_graph_step(w, step, error) : MB_OK;
}

enum mb_status mb_blocks_attention(struct mb_network *w, size_t layer, const struct mb_style *style,
                                   struct mb_error *error)
{
    const size_t q = w->heads * w->head_dim, kv = w->kv_heads * w->head_dim;
    MB_TRY(mb_blocks_norm(w, layer, "attn_norm", MB_SLOT_HIDDEN, MB_SLOT_NORMED, error));
    struct mb_step qkv = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &qkv, "attn_q", q, w->width, MB_SLOT_QUERY, error));
    MB_TRY(mb_blocks_product(w, &qkv, "attn_k", kv, w->width, MB_SLOT_KEY, error));
    MB_TRY(mb_blocks_product(w, &qkv, "attn_v", kv, w->width, MB_SLOT_VALUE, error));
    MB_TRY(mb_graph_step(w, qkv, error));
    MB_TRY(place_heads(w, layer, "attn_q_norm", MB_SLOT_QUERY, style, error));
    MB_TRY(place_heads(w, layer, "attn_k_norm", MB_SLOT_KEY, style, error));
    MB_TRY(mb_graph_step(w,
                         (struct mb_step){.kind = MB_STEP_ATTEND,
                                          .in = MB_SLOT_QUERY,
                                          .out = MB_SLOT_ATTENDED,
                                          .layer = (int)layer,
                                          .window = style->window,
                                          .cached = w->attending++},
                         error));
    return mb_blocks_mixed(w, layer, "attn_output", MB_SLOT_ATTENDED, style, error);
}

enum mb_status mb_blocks_table(struct mb_network *w, size_t layer, const char *part,
                               struct mb_graph_table table, int *vector, struct mb_error *error)
{
    char name[96];
    mb_blocks_name(name, layer, part, "");
    table.name = name;
    return mb_graph_table(w, &table, vector, error);
}

enum mb_status mb_blocks_gate(struct mb_network *w, size_t layer, const struct mb_style *style,
                              struct mb_error *error)
{
    return mb_graph_step(w,
                         (struct mb_step){.kind = style->gelu ? MB_STEP_GEGLU : MB_STEP_SWIGLU,
                                          .in = MB_SLOT_UP,
                                          .out = MB_SLOT_GATE,
                                          .layer = (int)layer},
                         error);
}

enum mb_status mb_blocks_feed_forward(struct mb_network *w, size_t layer,
                                      const struct mb_style *style, struct mb_error *error)
{
    MB_TRY(mb_blocks_norm(w, layer, "ffn_norm", MB_SLOT_HIDDEN, MB_SLOT_NORMED, error));
    struct mb_step wide = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &wide, "ffn_gate", 0, w->width, MB_SLOT_GATE, error));
    MB_TRY(mb_blocks_product(w, &wide, "ffn_up", w->slot_width[MB_SLOT_GATE], w->width, MB_SLOT_UP,
                             error));
    MB_TRY(mb_graph_step(w, wide, error));
    MB_TRY(mb_blocks_gate(w, layer, style, error));
    struct mb_step down = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_GATE, .layer = (int)layer};
    MB_TRY(mb_blocks_product(w, &down, "ffn_down", w->width, w->slot_width[MB_SLOT_GATE],
                             MB_SLOT_DELTA, error));
    MB_TRY(mb_graph_step(w, down, error));
    return mb_blocks_add(w, layer, "post_ffw_norm", style, error);
}
