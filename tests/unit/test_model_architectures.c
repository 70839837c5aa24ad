/* SPDX-License-Identifier: Apache-2.0 */
/* Architectures against files that lie: every hyperparameter that is read, out of range or at odds
 * with the tensors, must be refused in one line that names it; extreme values must crash nothing,
 * which the sanitizers watch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/gguf.h"
#include "support/support.h"
#include "unit/network_support.h"

static enum mb_status create(const char *path, struct mb_error *error)
{
    struct mb_model *model = NULL;
    struct mb_network *network = NULL;
    enum mb_status status = mb_model_open(path, &model, error);
    if (status == MB_OK)
        status = mb_network_create(model, MB_NUMERICS_KERNEL, NULL, &network, error);
    mb_network_destroy(network);
    mb_model_close(model);
    return status;
}

struct damage {
    const char *architecture;
    const char *key;  /* what to find in the file */
    size_t skip;      /* bytes from its end to where to write */
    const char *with; /* what to write */
    size_t bytes;
    enum mb_status status;
    const char *says;
};

/* Scalars stand 4 bytes (their type) behind their key, array entries 16. */
#define U32(a, k, v, status, says)                                                                 \
    {                                                                                              \
        a, a "." k, 4, v, 4, status, says                                                          \
    }
#define ENTRY(a, k, i, v, status, says)                                                            \
    {                                                                                              \
        a, a "." k, 16 + 4 * (i), v, 4, status, says                                               \
    }
static const struct damage damages[] = {
    {"llama", "general.architecture", 12, "lxema", 5, MB_ERR_UNSUPPORTED,
     "architecture 'lxema' is not supported yet (supported: llama, "},
    U32("llama", "attention.head_count", "\0\0\0\0", MB_ERR_FILE, "head_count"),
    U32("llama", "attention.head_count", "\xff\xff\xff\xff", MB_ERR_FILE, "head_count"),
    U32("llama", "attention.head_count", "\x08\0\0\0", MB_ERR_FILE, "attn_q"),
    U32("llama", "attention.head_count_kv", "\x03\0\0\0", MB_ERR_FILE, "evenly"),
    U32("llama", "attention.head_count_kv", "\x04\0\0\0", MB_ERR_FILE, "attn_k"),
    U32("llama", "attention.head_count_kv", "\x08\0\0\0", MB_ERR_FILE, "head_count_kv"),
    U32("llama", "attention.key_length", "\x0e\0\0\0", MB_ERR_UNSUPPORTED, "heads of 14"),
    U32("llama", "attention.key_length", "\x01\0\0\0", MB_ERR_FILE, "key_length"),
    U32("llama", "attention.value_length", "\0\0\0\x80", MB_ERR_FILE, "value_length"),
    U32("llama", "block_count", "\xff\xff\xff\x7f", MB_ERR_FILE, "block_count"),
    U32("llama", "block_count", "\x03\0\0\0", MB_ERR_FILE, "blk.2.attn_norm"),
    U32("llama", "block_count", "\x01\0\0\0", MB_ERR_UNSUPPORTED, "blk.1."),
    U32("llama", "embedding_length", "\x30\0\0\0", MB_ERR_FILE, "token_embd"),
    U32("llama", "embedding_length", "\0\0\0\0", MB_ERR_FILE, "embedding_length"),
    U32("llama", "rope.dimension_count", "\x0b\0\0\0", MB_ERR_FILE, "even"),
    U32("llama", "rope.dimension_count", "\x0e\0\0\0", MB_ERR_FILE, "dimension_count"),
    U32("llama", "rope.dimension_count", "\x0a\0\0\0", MB_ERR_FILE, "rope_freqs"),
    U32("llama", "rope.freq_base", "\0\0\xc0\x7f", MB_ERR_FILE, "freq_base"), /* NaN */
    U32("llama", "rope.freq_base", "\0\0\x80\xff", MB_ERR_FILE, "freq_base"), /* -infinity */
    U32("llama", "rope.scaling.factor", "\0\0\x80\xbf", MB_ERR_FILE, "scaling.factor"),
    U32("llama", "attention.layer_norm_rms_epsilon", "\0\0\x80\xbf", MB_ERR_FILE, "epsilon"),
    U32("llama", "attention.layer_norm_rms_epsilon", "\0\0\xc0\x7f", MB_ERR_FILE, "epsilon"),
    U32("llama", "context_length", "\0\0\0\0", MB_ERR_FILE, "context_length"),
    {"llama", "llama.attention.head_coun", 0, "u", 1, MB_ERR_FILE, "missing"},
    {"llama", "llama.rope.scaling.type", 12, "yarnly", 6, MB_ERR_UNSUPPORTED, "yarnly"},
    {"llama", "blk.1.ffn_up.weigh", 0, "s", 1, MB_ERR_FILE, "blk.1.ffn_up.weight"},
    {"llama", "blk.1.ffn_up.bia", 0, "z", 1, MB_ERR_UNSUPPORTED, "blk.1.ffn_up.biaz"},

    /* qwen3 */
    {"qwen3", "blk.1.attn_q_norm.weigh", 0, "s", 1, MB_ERR_FILE, "blk.1.attn_q_norm.weight"},
    U32("qwen3", "rope.dimension_count", "\x0b\0\0\0", MB_ERR_FILE, "even"),
    U32("qwen3", "attention.key_length", "\x0a\0\0\0", MB_ERR_UNSUPPORTED, "heads of 10"),
    U32("qwen3", "attention.head_count_kv", "\x03\0\0\0", MB_ERR_FILE, "evenly"),
    /* qwen3moe */
    U32("qwen3moe", "expert_count", "\0\0\0\0", MB_ERR_FILE, "expert_count"),
    U32("qwen3moe", "expert_count", "\xff\xff\xff\xff", MB_ERR_FILE, "expert_count"),
    U32("qwen3moe", "expert_count", "\x04\0\0\0", MB_ERR_FILE, "ffn_gate_inp"),
    U32("qwen3moe", "expert_used_count", "\0\0\0\0", MB_ERR_FILE, "expert_used_count"),
    U32("qwen3moe", "expert_used_count", "\x06\0\0\0", MB_ERR_FILE, "expert_used_count"),
    U32("qwen3moe", "expert_feed_forward_length", "\x10\0\0\0", MB_ERR_FILE, "ffn_gate_exps"),
    U32("qwen3moe", "expert_feed_forward_length", "\x21\0\0\0", MB_ERR_UNSUPPORTED, "32 x 33"),
    {"qwen3moe", "blk.1.ffn_down_exps.weigh", 0, "s", 1, MB_ERR_FILE, "blk.1.ffn_down_exps.weight"},
    /* gemma3 */
    U32("gemma3", "attention.sliding_window", "\xff\xff\xff\xff", MB_ERR_FILE, "sliding_window"),
    U32("gemma3", "attention.sliding_window_pattern", "\0\0\0\x7f", MB_ERR_FILE, "pattern"),
    U32("gemma3", "rope.freq_base_swa", "\0\0\xc0\x7f", MB_ERR_FILE, "freq_base_swa"),
    U32("gemma3", "final_logit_softcapping", "\0\0\x80\xbf", MB_ERR_FILE, "softcapping"),
    {"gemma3", "blk.0.post_ffw_norm.weigh", 0, "s", 1, MB_ERR_FILE, "blk.0.post_ffw_norm.weight"},
    /* mamba */
    U32("mamba", "ssm.conv_kernel", "\x01\0\0\0", MB_ERR_FILE, "conv_kernel"),
    U32("mamba", "ssm.conv_kernel", "\x11\0\0\0", MB_ERR_FILE, "conv_kernel"),
    U32("mamba", "ssm.conv_kernel", "\x05\0\0\0", MB_ERR_FILE, "ssm_conv1d"),
    U32("mamba", "ssm.inner_size", "\0\0\0\0", MB_ERR_FILE, "inner_size"),
    U32("mamba", "ssm.inner_size", "\x51\0\0\0", MB_ERR_FILE, "ssm_in"),
    U32("mamba", "ssm.inner_size", "\xff\xff\xff\xff", MB_ERR_FILE, "inner_size"),
    U32("mamba", "ssm.state_size", "\0\0\0\0", MB_ERR_FILE, "state_size"),
    U32("mamba", "ssm.state_size", "\x0b\0\0\0", MB_ERR_FILE, "ssm_x"),
    U32("mamba", "ssm.state_size", "\0\0\0\x7f", MB_ERR_FILE, "state_size"),
    U32("mamba", "ssm.time_step_rank", "\0\0\0\0", MB_ERR_FILE, "time_step_rank"),
    U32("mamba", "ssm.time_step_rank", "\x05\0\0\0", MB_ERR_FILE, "ssm_x"),
    /* What it takes from one size and gives to another must meet its other tensors. */
    {"mamba", "blk.1.ssm_", 0, "b", 1, MB_ERR_FILE, "blk.1.ssm_"},
    /* mamba2 */
    U32("mamba2", "ssm.group_count", "\0\0\0\0", MB_ERR_FILE, "group_count"),
    U32("mamba2", "ssm.group_count", "\x03\0\0\0", MB_ERR_FILE, "evenly"),
    U32("mamba2", "ssm.group_count", "\x04\0\0\0", MB_ERR_FILE, "ssm_in"),
    U32("mamba2", "ssm.group_count", "\x05\0\0\0", MB_ERR_FILE, "group_count"),
    U32("mamba2", "ssm.time_step_rank", "\x05\0\0\0", MB_ERR_FILE, "evenly"),
    U32("mamba2", "ssm.time_step_rank", "\x02\0\0\0", MB_ERR_FILE, "ssm_in"),
    U32("mamba2", "ssm.time_step_rank", "\xff\xff\xff\xff", MB_ERR_FILE, "time_step_rank"),
    U32("mamba2", "ssm.state_size", "\x11\0\0\0", MB_ERR_FILE, "ssm_in"),
    U32("mamba2", "ssm.inner_size", "\x64\0\0\0", MB_ERR_FILE, "ssm_in"),
    {"mamba2", "blk.0.ssm_conv1d.weigh", 0, "s", 1, MB_ERR_FILE, "blk.0.ssm_conv1d.weight"},
    {"mamba2", "blk.1.ssm_dt.bia", 0, "z", 1, MB_ERR_FILE, "blk.1.ssm_dt.bias"},
    /* granitehybrid */
    ENTRY("granitehybrid", "attention.head_count_kv", 3, "\x04\0\0\0", MB_ERR_UNSUPPORTED,
          "layer 3 has 4 key/value heads, an earlier one 2"),
    ENTRY("granitehybrid", "attention.head_count_kv", 1, "\xff\xff\xff\x7f", MB_ERR_FILE,
          "entry 1 of 'granitehybrid.attention.head_count_kv'"),
    ENTRY("granitehybrid", "attention.head_count_kv", 1, "\xff\xff\xff\xff", MB_ERR_FILE,
          "entry 1 of 'granitehybrid.attention.head_count_kv'"),
    ENTRY("granitehybrid", "attention.head_count_kv", 0, "\x02\0\0\0", MB_ERR_FILE, "blk.0.attn_q"),
    ENTRY("granitehybrid", "attention.head_count_kv", 1, "\0\0\0\0", MB_ERR_FILE, "blk.1.ssm_in"),
    {"granitehybrid", "granitehybrid.attention.head_count_kv", 8, "\x03", 1, MB_ERR_FILE, ""},
    U32("granitehybrid", "block_count", "\x03\0\0\0", MB_ERR_FILE, "one for each of 3 layers"),
    U32("granitehybrid", "logit_scale", "\0\0\x80\xbf", MB_ERR_FILE, "logit_scale"),
    U32("granitehybrid", "residual_scale", "\0\0\xc0\x7f", MB_ERR_FILE, "residual_scale"),
    U32("granitehybrid", "embedding_scale", "\0\0\x80\x7f", MB_ERR_FILE, "embedding_scale"),
    U32("granitehybrid", "attention.scale", "\0\0\x80\xff", MB_ERR_FILE, "attention.scale"),
};

static char *read_odd(const char *architecture, size_t *bytes)
{
    char path[96], *data;
    struct mb_error error;
    snprintf(path, sizeof path, "tests/golden/logits/odd-%s.gguf", architecture);
    assert_int_equal(mb_file_read(path, 1 << 20, &data, bytes, &error), MB_OK);
    return data;
}

/* Create a network from the good file with some bytes replaced. */
static enum mb_status create_damaged(const char *path, const char *good, size_t bytes, size_t at,
                                     const char *with, size_t count, struct mb_error *error)
{
    char *bad = malloc(bytes);
    assert_true(at + count <= bytes);
    memcpy(bad, good, bytes);
    memcpy(bad + at, with, count);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bad, 1, bytes, file), bytes);
    fclose(file);
    free(bad);
    error->message[0] = '\0';
    return create(path, error);
}

static void test_hostile_hyperparameters(void **state)
{
    (void)state;
    char path[64];
    ns_temporary(path);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        const struct damage *d = &damages[i];
        struct mb_error error;
        size_t bytes;
        char *good = read_odd(d->architecture, &bytes);
        const char *key = memmem(good, bytes, d->key, strlen(d->key));
        assert_non_null(key);
        const size_t at = (size_t)(key - good) + strlen(d->key) + d->skip;
        const enum mb_status status =
            create_damaged(path, good, bytes, at, d->with, d->bytes, &error);
        if (status != d->status || strstr(error.message, d->says) == NULL ||
            strchr(error.message, '\n') != NULL)
            fail_msg("damage %zu (%s): status %d, %s", i, d->key, (int)status, error.message);
        free(good);
    }
    unlink(path);
}

/* Every number of every model's metadata, one at a time. */
static void test_extreme_hyperparameters(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen3",  "qwen3moe",     "gemma3",
                                        "mamba", "mamba2", "granitehybrid"};
    static const char extremes[][4] = {{0},
                                       {1},
                                       {2},
                                       {'\xff', '\xff'},
                                       {'\xff', '\xff', '\xff', '\x7f'},
                                       {'\0', '\0', '\0', '\x80'},
                                       {'\xff', '\xff', '\xff', '\xff'},
                                       {'\0', '\0', '\x80', '\x7f'}};
    char path[64];
    size_t tried = 0, refused = 0;
    ns_temporary(path);
    for (size_t m = 0; m < sizeof names / sizeof names[0]; m++) {
        size_t bytes;
        char *good = read_odd(names[m], &bytes);
        const size_t prefix = strlen(names[m]);
        for (size_t at = 8; at + 64 < bytes && at < 4096; at++) {
            uint64_t length;
            memcpy(&length, good + at - 8, sizeof length);
            if (length > 60 || memcmp(good + at, names[m], prefix) != 0 || good[at + prefix] != '.')
                continue;
            for (size_t e = 0; e < sizeof extremes / sizeof extremes[0]; e++) {
                struct mb_error error;
                const bool array = good[at + length] == 9;
                tried++;
                refused += create_damaged(path, good, bytes, at + length + (array ? 16 : 4),
                                          extremes[e], 4, &error) != MB_OK;
            }
        }
        free(good);
    }
    unlink(path);
    assert_true(tried > 500 && refused > tried / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_hyperparameters),
        cmocka_unit_test(test_extreme_hyperparameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
