/* SPDX-License-Identifier: Apache-2.0 */
/* What a tensor does in the network, told from its GGUF name, and whether llama.cpp would quantize
 * it: names end in "weight", it is a matrix (or a stack of them), and no exception applies.
 * Source: llama.cpp's quantization tool; the exceptions are small tensors, tables that are looked
 * up by position, and tensors whose operators exist for floats only. */
#include "model/gguf.h"

#include <stdlib.h>
#include <string.h>

struct rule {
    const char *part; /* of the name */
    enum mb_role role;
};

/* The first match counts, so longer names stand before those that they contain. */
static const struct rule roles[] = {
    {"attn_qkv", MB_ROLE_ATTN_QKV},
    {"attn_kv_b", MB_ROLE_ATTN_V}, /* presets treat the latent values' matrix as they do attn_v */
    {"attn_q_a", MB_ROLE_ATTN_Q},
    {"attn_q_b", MB_ROLE_ATTN_Q},
    {"attn_q.", MB_ROLE_ATTN_Q},
    {"attn_k.", MB_ROLE_ATTN_K},
    {"attn_v.", MB_ROLE_ATTN_V},
    {"attn_output", MB_ROLE_ATTN_OUTPUT},
    {"ffn_gate_inp", MB_ROLE_OTHER}, /* the router of a mixture of experts */
    {"ffn_gate", MB_ROLE_FFN_GATE},
    {"ffn_up", MB_ROLE_FFN_UP},
    {"ffn_down", MB_ROLE_FFN_DOWN},
    {"ssm_in.", MB_ROLE_SSM_IN},
    {"ssm_out.", MB_ROLE_SSM_OUT},
    {"ssm_", MB_ROLE_SSM_OTHER},
};

static const char *const never_quantized[] = {
    "_norm.weight",
    /* routers and routing tables */
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    /* small matrices of Gemma 3n */
    "altup",
    "laurel",
    "per_layer_model_proj",
    /* short convolutions */
    "ssm_conv1d",
    "shortconv.conv.weight",
    /* low-rank parts of RWKV's time mixing */
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    /* positions, patches and codebooks */
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
};

static const char *const never_quantized_whole_names[] = {
    "position_embd.weight",
    "token_types.weight",
};

/* GLM 5's sparse attention: its indexers and low-rank gates stay as they are. */
static const char *const never_quantized_glm5[] = {
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static bool contains_any(const char *name, const char *const *parts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strstr(name, parts[i]) != NULL)
            return true;
    return false;
}

static bool ends_in_weight(const char *name)
{
    static const char end[] = "weight";
    const size_t length = strlen(name);
    return length >= sizeof end - 1 && strcmp(name + length - (sizeof end - 1), end) == 0;
}

static bool is_quantizable(const struct mb_tensor *tensor, const char *architecture)
{
    /* Trailing dimensions of 1 do not make a matrix. */
    if (tensor->n < 2 || !ends_in_weight(tensor->name))
        return false;
    for (size_t i = 0; i < COUNT(never_quantized_whole_names); i++)
        if (strcmp(tensor->name, never_quantized_whole_names[i]) == 0)
            return false;
    if (contains_any(tensor->name, never_quantized, COUNT(never_quantized)))
        return false;
    return strcmp(architecture, "glm5-next") != 0 ||
           !contains_any(tensor->name, never_quantized_glm5, COUNT(never_quantized_glm5));
}

static enum mb_role find_role(const char *name)
{
    if (!ends_in_weight(name) || strstr(name, "_norm.") != NULL)
        return strstr(name, ".ssm_") != NULL ? MB_ROLE_SSM_OTHER : MB_ROLE_OTHER;
    if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0)
        return MB_ROLE_EMBEDDING;
    if (strcmp(name, "output.weight") == 0)
        return MB_ROLE_OUTPUT;
    for (size_t i = 0; i < COUNT(roles); i++)
        if (strstr(name, roles[i].part) != NULL)
            return roles[i].role;
    return MB_ROLE_OTHER;
}

/* N of "blk.N."; -1 for other names and numbers that no model has. */
static int find_layer(const char *name)
{
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return -1;
    int layer = 0;
    for (const char *at = name + 4; *at != '.'; at++) {
        if (*at < '0' || *at > '9' || layer > 99999)
            return -1;
        layer = layer * 10 + (*at - '0');
    }
    return layer;
}

void mb_tensor_classify(struct mb_tensor *tensor, const char *architecture)
{
    tensor->role = find_role(tensor->name);
    tensor->layer = find_layer(tensor->name);
    tensor->quantizable = is_quantizable(tensor, architecture);
}
