/* SPDX-License-Identifier: Apache-2.0 */
/* The parts that architectures share: hyperparameters of one subject, the steps of one block. An
 * architecture (graph_<name>.c) is the order in which it calls these and the style it calls them
 * with; what only one architecture has stays in its own file. */
#ifndef MIXBIT_MODEL_BLOCKS_H
#define MIXBIT_MODEL_BLOCKS_H

#include "model/network.h"

#define MB_TRY(call)                                                                               \
    do {                                                                                           \
        const enum mb_status status_ = (call);                                                     \
        if (status_ != MB_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

/* What varies between architectures in a layer; all zero is llama's without RoPE. */
struct mb_style {
    bool rotated;         /* queries and keys, by ropes[rope] */
    bool query_key_norms; /* attn_q_norm, attn_k_norm over each head */
    bool post_norms; /* post_attention_norm, post_ffw_norm before a block joins the residual stream
                      */
    size_t rope, window;
    bool gelu;            /* the feed-forward's activation; else silu */
    float residual_scale; /* of what blocks add; 0: 1 */
};

/* ---- hyperparameters ---- */

/* Layers, width, context, epsilon; a mixture of experts is refused unless the architecture has one.
 */
enum mb_status mb_blocks_sizes(struct mb_network *w, bool mixture, struct mb_error *error);
/* Heads and their size. kv_heads 0: as the file says, for all layers alike. */
enum mb_status mb_blocks_heads(struct mb_network *w, size_t kv_heads, struct mb_error *error);
/* ropes[index] from the file's dimension, `base_key`, and, when scaled, its scaling and factors. */
enum mb_status mb_blocks_rope(struct mb_network *w, size_t index, const char *base_key, bool scaled,
                              bool halves, struct mb_error *error);
/* Sizes of state space layers; heads 1 to `inner`, 0 for Mamba, which has channels instead. */
enum mb_status mb_blocks_state_space(struct mb_network *w, bool has_heads, struct mb_error *error);

/* ---- steps ---- */

/* token_embd, output when the file has one, and the first step. */
enum mb_status mb_blocks_embedding(struct mb_network *w, double scale, struct mb_error *error);
/* attn_norm, attention, its output added to the residual stream. */
enum mb_status mb_blocks_attention(struct mb_network *w, size_t layer, const struct mb_style *style,
                                   struct mb_error *error);
/* ffn_norm, the gated feed-forward block, added. */
enum mb_status mb_blocks_feed_forward(struct mb_network *w, size_t layer,
                                      const struct mb_style *style, struct mb_error *error);
/* ffn_norm, a mixture of gated feed-forward blocks of `hidden` each, added. */
enum mb_status mb_blocks_experts(struct mb_network *w, size_t layer, size_t hidden,
                                 const struct mb_style *style, struct mb_error *error);
/* attn_norm, a Mamba-2 block, added. */
enum mb_status mb_blocks_mamba2(struct mb_network *w, size_t layer, const struct mb_style *style,
                                struct mb_error *error);
/* output_norm: the last step. */
enum mb_status mb_blocks_end(struct mb_network *w, struct mb_error *error);

/* ---- what blocks are made of ---- */

/* "blk.<layer>.<part><suffix>" */
void mb_blocks_name(char name[96], size_t layer, const char *part, const char *suffix);
/* Weights of the norm `part`, which is as wide as `in`. */
enum mb_status mb_blocks_norm(struct mb_network *w, size_t layer, const char *part, enum mb_slot in,
                              enum mb_slot out, struct mb_error *error);
/* One more product of a step, with its bias when the file has it. n 0: any number of rows, the same
 * in all layers. Sets the width of `out`. */
enum mb_status mb_blocks_product(struct mb_network *w, struct mb_step *step, const char *part,
                                 size_t n, size_t k, enum mb_slot out, struct mb_error *error);
/* A table of the layer (mb_graph_table without its name). */
enum mb_status mb_blocks_table(struct mb_network *w, size_t layer, const char *part,
                               struct mb_graph_table table, int *vector, struct mb_error *error);
/* GATE = the style's gate of UP and GATE. */
enum mb_status mb_blocks_gate(struct mb_network *w, size_t layer, const struct mb_style *style,
                              struct mb_error *error);
/* A block's result in DELTA joins the residual stream, behind `post_norm` where the style has it.
 */
enum mb_status mb_blocks_add(struct mb_network *w, size_t layer, const char *post_norm,
                             const struct mb_style *style, struct mb_error *error);
/* The end of a layer's mixer: in the last layer keep the scored rows, then `part`, then add. */
enum mb_status mb_blocks_mixed(struct mb_network *w, size_t layer, const char *part,
                               enum mb_slot in, const struct mb_style *style,
                               struct mb_error *error);

#endif
