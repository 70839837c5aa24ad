/* SPDX-License-Identifier: Apache-2.0 */
/* Architecture `llama`: pre-norm decoder, grouped-query attention with RoPE on consecutive pairs,
 * SwiGLU. Covers Llama 1 to 3, Mistral, SmolLM2 and their kin as GGUF names them.
 *
 *   hidden = token_embd[token]
 *   per layer: hidden += attn_output(attention(attn_norm(hidden)))
 *              hidden += ffn_down(silu(ffn_gate(n)) * ffn_up(n)),  n = ffn_norm(hidden)
 *   logits = output(output_norm(hidden)); output is token_embd when the file has none */
#include "model/network.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        const enum mb_status status_ = (call);                                                     \
        if (status_ != MB_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

static enum mb_status read_rope(struct mb_network *w, struct mb_error *error)
{
    const char *path = mb_model_path(w->model);
    TRY(mb_graph_uint(w, "rope.dimension_count", 2, w->head_dim, w->head_dim, &w->rope_dim, error));
    if (w->rope_dim % 2 != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: 'llama.rope.dimension_count' is %zu, expected an even number",
                            path, w->rope_dim);
    TRY(mb_graph_float(w, "rope.freq_base", 1.0, 1e12, 10000.0, &w->rope_base, error));
    const char *scaling = mb_model_string(w->model, "llama.rope.scaling.type", "linear");
    const bool linear = strcmp(scaling, "linear") == 0;
    if (!linear && strcmp(scaling, "none") != 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: RoPE scaling '%.32s' is not supported yet (supported: linear, "
                            "none, rope_freqs.weight)",
                            path, scaling);
    double factor, old;
    TRY(mb_graph_float(w, "rope.scale_linear", 0.0, 1e6, 0.0, &old, error));
    TRY(mb_graph_float(w, "rope.scaling.factor", 0.0, 1e6, old, &factor, error));
    w->rope_scale = linear && factor > 0 ? 1.0 / factor : 1.0;
    TRY(mb_graph_vector(w, "rope_freqs.weight", w->rope_dim / 2, true, &w->rope_factors, error));
    for (size_t i = 0; w->rope_factors != MB_NO_VECTOR && i < w->rope_dim / 2; i++)
        if (!(w->vectors[w->rope_factors][i] > 0 && w->vectors[w->rope_factors][i] < 1e9f))
            return mb_error_set(error, MB_ERR_FILE, -1,
                                "%s: entry %zu of 'rope_freqs.weight' is %g, expected a positive "
                                "factor",
                                path, i, (double)w->vectors[w->rope_factors][i]);
    return MB_OK;
}

static enum mb_status read_hyperparameters(struct mb_network *w, struct mb_error *error)
{
    const char *path = mb_model_path(w->model);
    size_t value_dim;
    const uint64_t experts = mb_model_uint(w->model, "llama.expert_count", 0);
    if (experts != 0)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: mixtures of experts are not supported yet (llama.expert_count is "
                            "%llu)",
                            path, (unsigned long long)experts);
    /* Every layer has tensors of its own, so their number bounds what a file may claim. */
    TRY(mb_graph_uint(w, "block_count", 1, mb_model_tensor_count(w->model), 0, &w->layers, error));
    TRY(mb_graph_uint(w, "embedding_length", 1, 1 << 20, 0, &w->width, error));
    TRY(mb_graph_uint(w, "attention.head_count", 1, 1 << 14, 0, &w->heads, error));
    TRY(mb_graph_uint(w, "attention.head_count_kv", 1, w->heads, w->heads, &w->kv_heads, error));
    if (w->heads % w->kv_heads != 0)
        return mb_error_set(error, MB_ERR_FILE, -1,
                            "%s: %zu attention heads cannot share %zu key/value heads evenly", path,
                            w->heads, w->kv_heads);
    const size_t even = w->width / w->heads;
    TRY(mb_graph_uint(w, "attention.key_length", 2, 1 << 12, even ? even : 1, &w->head_dim, error));
    TRY(mb_graph_uint(w, "attention.value_length", 2, 1 << 12, w->head_dim, &value_dim, error));
    if (w->head_dim % 2 != 0 || value_dim != w->head_dim)
        return mb_error_set(error, MB_ERR_UNSUPPORTED, -1,
                            "%s: heads of %zu for keys and %zu for values are not supported "
                            "(supported: one even number for both)",
                            path, w->head_dim, value_dim);
    TRY(mb_graph_uint(w, "context_length", 1, (size_t)1 << 32, 0, &w->context, error));
    double eps;
    TRY(mb_graph_float(w, "attention.layer_norm_rms_epsilon", 0.0, 1.0, NAN, &eps, error));
    w->eps = (float)eps;
    w->attention_scale = 1.0f / sqrtf((float)w->head_dim);
    return read_rope(w, error);
}

/* One product, its bias when the file has it. */
static enum mb_status add_product(struct mb_network *w, struct mb_step *step, const char *part,
                                  size_t n, size_t k, enum mb_slot out, struct mb_error *error)
{
    char name[64];
    struct mb_product *product = &step->products[step->product_count++];
    product->out = out;
    snprintf(name, sizeof name, "blk.%d.%s.weight", step->layer, part);
    TRY(mb_graph_matrix(w, name, n, k, &product->matrix, error));
    snprintf(name, sizeof name, "blk.%d.%s.bias", step->layer, part);
    return mb_graph_vector(w, name, w->matrices[product->matrix].n, true, &product->bias, error);
}

static enum mb_status add_norm(struct mb_network *w, int layer, const char *name,
                               struct mb_error *error)
{
    struct mb_step norm = {
        .kind = MB_STEP_NORM, .in = MB_SLOT_HIDDEN, .out = MB_SLOT_NORMED, .layer = layer};
    TRY(mb_graph_vector(w, name, w->width, false, &norm.vector, error));
    return mb_graph_step(w, norm, error);
}

static enum mb_status add_plain(struct mb_network *w, enum mb_step_kind kind, int layer,
                                enum mb_slot in, enum mb_slot out, struct mb_error *error)
{
    return mb_graph_step(w, (struct mb_step){.kind = kind, .in = in, .out = out, .layer = layer},
                         error);
}

static enum mb_status add_attention(struct mb_network *w, int layer, struct mb_error *error)
{
    const size_t q = w->heads * w->head_dim, kv = w->kv_heads * w->head_dim;
    char name[64];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    TRY(add_norm(w, layer, name, error));
    struct mb_step qkv = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = layer};
    TRY(add_product(w, &qkv, "attn_q", q, w->width, MB_SLOT_QUERY, error));
    TRY(add_product(w, &qkv, "attn_k", kv, w->width, MB_SLOT_KEY, error));
    TRY(add_product(w, &qkv, "attn_v", kv, w->width, MB_SLOT_VALUE, error));
    TRY(mb_graph_step(w, qkv, error));
    TRY(add_plain(w, MB_STEP_ROPE, layer, MB_SLOT_QUERY, MB_SLOT_QUERY, error));
    TRY(add_plain(w, MB_STEP_ROPE, layer, MB_SLOT_KEY, MB_SLOT_KEY, error));
    TRY(add_plain(w, MB_STEP_ATTEND, layer, MB_SLOT_QUERY, MB_SLOT_ATTENDED, error));
    /* Behind the last attention a position sees only itself: the others are done with. */
    if ((size_t)layer + 1 == w->layers)
        TRY(add_plain(w, MB_STEP_SCORE, layer, MB_SLOT_HIDDEN, MB_SLOT_HIDDEN, error));
    struct mb_step out = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_ATTENDED, .layer = layer};
    TRY(add_product(w, &out, "attn_output", w->width, q, MB_SLOT_DELTA, error));
    TRY(mb_graph_step(w, out, error));
    return add_plain(w, MB_STEP_ADD, layer, MB_SLOT_DELTA, MB_SLOT_HIDDEN, error);
}

static enum mb_status add_feed_forward(struct mb_network *w, int layer, size_t *hidden,
                                       struct mb_error *error)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    TRY(add_norm(w, layer, name, error));
    struct mb_step wide = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_NORMED, .layer = layer};
    TRY(add_product(w, &wide, "ffn_gate", *hidden, w->width, MB_SLOT_GATE, error));
    *hidden = w->matrices[wide.products[0].matrix].n;
    TRY(add_product(w, &wide, "ffn_up", *hidden, w->width, MB_SLOT_UP, error));
    TRY(mb_graph_step(w, wide, error));
    TRY(add_plain(w, MB_STEP_SWIGLU, layer, MB_SLOT_UP, MB_SLOT_GATE, error));
    struct mb_step down = {.kind = MB_STEP_PRODUCTS, .in = MB_SLOT_GATE, .layer = layer};
    TRY(add_product(w, &down, "ffn_down", w->width, *hidden, MB_SLOT_DELTA, error));
    TRY(mb_graph_step(w, down, error));
    return add_plain(w, MB_STEP_ADD, layer, MB_SLOT_DELTA, MB_SLOT_HIDDEN, error);
}

static enum mb_status build(struct mb_network *w, struct mb_error *error)
{
    TRY(read_hyperparameters(w, error));
    TRY(mb_graph_matrix(w, "token_embd.weight", 0, w->width, &w->embedding, error));
    w->vocabulary = w->matrices[w->embedding].n;
    w->output = w->embedding;
    if (!mb_model_tied(w->model))
        TRY(mb_graph_matrix(w, "output.weight", w->vocabulary, w->width, &w->output, error));
    TRY(add_plain(w, MB_STEP_EMBED, -1, MB_SLOT_HIDDEN, MB_SLOT_HIDDEN, error));
    size_t hidden = 0; /* of the feed-forward block; the first layer's holds for all */
    for (size_t layer = 0; layer < w->layers; layer++) {
        TRY(add_attention(w, (int)layer, error));
        TRY(add_feed_forward(w, (int)layer, &hidden, error));
    }
    TRY(add_norm(w, -1, "output_norm.weight", error));
    const size_t q = w->heads * w->head_dim, kv = w->kv_heads * w->head_dim;
    const size_t widths[MB_SLOT_COUNT] = {w->width, w->width, q,      kv,    kv,
                                          q,        w->width, hidden, hidden};
    memcpy(w->slot_width, widths, sizeof widths);
    return MB_OK;
}

const struct mb_architecture mb_architecture_llama = {"llama", build};
