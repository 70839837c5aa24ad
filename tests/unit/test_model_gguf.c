/* SPDX-License-Identifier: Apache-2.0 */
/* The GGUF reader: right files read right, wrong ones refused with a reason and the byte where it
 * went wrong. Oracles: models/README.md's account of the embedded models, files built byte by byte
 * here, and llama-quantize's dry run for what may be quantized (scripts/make_golden_roles.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mixbit/model.h"
#include "model/gguf.h"
#include "support/support.h"
#include "unit/gguf_builder.h"

static struct mb_model *open_model(const char *path)
{
    struct mb_model *model = NULL;
    struct mb_error error;
    if (mb_model_open(path, &model, &error) != MB_OK)
        fail_msg("%s", error.message);
    return model;
}

static const struct mb_tensor *find(const struct mb_model *model, const char *name)
{
    const struct mb_tensor *tensor = mb_model_tensor_find(model, name);
    if (tensor == NULL)
        fail_msg("no tensor %s", name);
    return tensor;
}

/* ---- the embedded models ---- */

static void test_tiny_llama(void **state)
{
    (void)state;
    struct mb_model *model = open_model("models/tiny-llama.f16.gguf");
    assert_string_equal(mb_model_path(model), "models/tiny-llama.f16.gguf");
    assert_string_equal(mb_model_architecture(model), "llama");
    assert_int_equal(mb_model_file_bytes(model), 11610912);
    assert_int_equal(mb_model_tensor_count(model), 57);
    assert_false(mb_model_tied(model));
    size_t weights = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        weights += tensor->n * tensor->k;
        assert_ptr_equal(find(model, tensor->name), tensor);
    }
    assert_int_equal(weights, 5770496);
    assert_null(mb_model_tensor_at(model, 57));
    assert_null(mb_model_tensor_find(model, "blk.6.attn_q.weight"));

    const struct mb_tensor *down = find(model, "blk.5.ffn_down.weight");
    assert_int_equal(down->dims, 2);
    assert_int_equal(down->k, 768);
    assert_int_equal(down->n, 256);
    assert_int_equal(down->bytes, 768 * 256 * 2);
    assert_int_equal(down->format, MB_FORMAT_F16);
    assert_int_equal(down->role, MB_ROLE_FFN_DOWN);
    assert_int_equal(down->layer, 5);
    assert_int_equal(find(model, "output_norm.weight")->format, MB_FORMAT_F32);
    assert_int_equal(find(model, "output.weight")->role, MB_ROLE_OUTPUT);
    assert_int_equal(find(model, "output.weight")->layer, -1);

    assert_int_equal(mb_model_uint(model, "llama.context_length", 0), 256);
    assert_int_equal(mb_model_uint(model, "llama.attention.head_count_kv", 0), 4);
    assert_int_equal(mb_model_uint(model, "tokenizer.ggml.add_bos_token", 7), 1);
    assert_true(mb_model_float(model, "llama.rope.freq_base", 0.0) == 10000.0);
    assert_true(mb_model_float(model, "llama.attention.layer_norm_rms_epsilon", 0.0) ==
                (double)1e-5f);
    assert_string_equal(mb_model_string(model, "tokenizer.ggml.pre", ""), "gpt-2");
    assert_int_equal(mb_model_array_count(model, "tokenizer.ggml.tokens"), 2048);
    size_t bytes = 0;
    assert_non_null(mb_model_array_string(model, "tokenizer.ggml.tokens", 2047, &bytes));
    assert_true(bytes > 0);
    assert_null(mb_model_array_string(model, "tokenizer.ggml.tokens", 2048, &bytes));
    /* a missing key, another type */
    assert_int_equal(mb_model_uint(model, "no.such.key", 42), 42);
    assert_int_equal(mb_model_uint(model, "tokenizer.ggml.pre", 43), 43);
    assert_string_equal(mb_model_string(model, "llama.context_length", "other"), "other");
    assert_int_equal(mb_model_array_count(model, "llama.context_length"), 0);
    mb_model_close(model);
}

static void test_tiny_hybrid(void **state)
{
    (void)state;
    struct mb_model *model = open_model("models/tiny-hybrid.f16.gguf");
    assert_string_equal(mb_model_architecture(model), "granitehybrid");
    assert_int_equal(mb_model_file_bytes(model), 10387744);
    assert_true(mb_model_tied(model));
    const struct mb_tensor *in = find(model, "blk.0.ssm_in.weight");
    assert_int_equal(in->n, 1288);
    assert_int_equal(in->role, MB_ROLE_SSM_IN);
    assert_true(in->quantizable);
    assert_int_equal(find(model, "blk.4.ssm_out.weight")->role, MB_ROLE_SSM_OUT);
    assert_int_equal(find(model, "blk.0.ssm_conv1d.weight")->role, MB_ROLE_SSM_OTHER);
    /* layers 2 and 5 attend: head_count_kv is an array */
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(mb_model_array_number(model, "granitehybrid.attention.head_count_kv", i),
                         i == 2 || i == 5 ? 4 : 0);
    mb_model_close(model);
}

static void test_hash(void **state)
{
    (void)state;
    char *data = NULL;
    size_t bytes = 0;
    assert_int_equal(mb_file_read("models/tiny-llama.f16.gguf", 1 << 26, &data, &bytes, NULL),
                     MB_OK);
    struct mb_model *model = open_model("models/tiny-llama.f16.gguf");
    char first[33];
    memcpy(first, mb_model_hash(model), 33);
    assert_int_equal(strspn(first, "0123456789abcdef"), 32);
    assert_string_equal(mb_model_hash(model), first);
    mb_model_close(model);
    const char *path = gb_scratch("copy.gguf");
    for (int changed = 0; changed < 2; changed++) {
        data[bytes - 1] = (char)(data[bytes - 1] ^ changed);
        gb_save_bytes(path, (const uint8_t *)data, bytes);
        model = open_model(path);
        assert_int_equal(strcmp(mb_model_hash(model), first) != 0, changed);
        mb_model_close(model);
    }
    free(data);
    assert_int_equal(remove(path), 0);
}

/* ---- built files ---- */

static const uint64_t shape[4] = {64, 3, 1, 1};

/* Every value type once, then two tensors: f16 64 x 3 (384 bytes) and f32 64. */
static void build_small(struct builder *b, uint32_t version, uint32_t alignment)
{
    gb_header(b, version, 2, 17);
    gb_pair_string(b, "general.architecture", "test");
    gb_pair_u32(b, "general.alignment", alignment);
    gb_key(b, "u8", 0), gb_number(b, 200, 1);
    gb_key(b, "i8", 1), gb_number(b, (uint64_t)-100, 1);
    gb_key(b, "u16", 2), gb_number(b, 60000, 2);
    gb_key(b, "i16", 3), gb_number(b, (uint64_t)-30000, 2);
    gb_key(b, "i32", 5), gb_number(b, (uint64_t)-2000000000, 4);
    gb_key(b, "f32", 6), gb_u32(b, 0xc0490fdb); /* -pi */
    gb_pair_bool(b, "bool", true);
    gb_key(b, "u64", 10), gb_u64(b, UINT64_MAX);
    gb_key(b, "i64", 11), gb_u64(b, (uint64_t)INT64_MIN);
    gb_key(b, "f64", 12), gb_u64(b, 0x3ff8000000000000u); /* 1.5 */
    gb_array(b, "empty", 4, 0);
    gb_array(b, "words", 8, 3);
    gb_string(b, "one"), gb_string(b, ""), gb_text(b, "a\0b", 3);
    gb_array(b, "shorts", 3, 2), gb_number(b, (uint64_t)-1, 2), gb_number(b, 2, 2);
    gb_array(b, "flags", 7, 2), gb_number(b, 0, 1), gb_number(b, 1, 1);
    gb_array(b, "reals", 6, 1), gb_u32(b, 0x3f000000);
    gb_tensor(b, "blk.3.attn_q.weight", 2, shape, 1, 0);
    gb_tensor(b, "norm", 1, shape, 0, 384 + (alignment - 384 % alignment) % alignment);
    gb_pad(b, alignment);
    for (size_t i = 0; i < 384; i++)
        gb_number(b, i, 1);
    gb_pad(b, alignment);
    for (size_t i = 0; i < 256; i++)
        gb_number(b, 7, 1);
}

static void check_small(const struct mb_model *model)
{
    assert_int_equal(mb_model_uint(model, "u8", 0), 200);
    assert_int_equal(mb_model_uint(model, "i8", 5), 5); /* negative: no uint */
    assert_true(mb_model_float(model, "i8", 0.0) == -100.0);
    assert_int_equal(mb_model_uint(model, "u16", 0), 60000);
    assert_true(mb_model_float(model, "i16", 0.0) == -30000.0);
    assert_true(mb_model_float(model, "i32", 0.0) == -2000000000.0);
    assert_true(mb_model_float(model, "f32", 0.0) == (double)-3.14159274f);
    assert_int_equal(mb_model_uint(model, "f32", 9), 9);
    assert_int_equal(mb_model_uint(model, "bool", 0), 1);
    assert_true(mb_model_uint(model, "u64", 0) == UINT64_MAX);
    assert_true(mb_model_float(model, "i64", 0.0) == -9223372036854775808.0);
    assert_true(mb_model_float(model, "f64", 0.0) == 1.5);
    assert_int_equal(mb_model_array_count(model, "empty"), 0);
    assert_int_equal(mb_model_array_count(model, "words"), 3);
    size_t bytes = 9;
    assert_memory_equal(mb_model_array_string(model, "words", 0, &bytes), "one", 3);
    assert_int_equal(bytes, 3);
    assert_non_null(mb_model_array_string(model, "words", 1, &bytes));
    assert_int_equal(bytes, 0);
    assert_memory_equal(mb_model_array_string(model, "words", 2, &bytes), "a\0b", 3);
    assert_true(mb_model_array_number(model, "shorts", 0) == -1.0);
    assert_true(mb_model_array_number(model, "shorts", 1) == 2.0);
    assert_true(mb_model_array_number(model, "shorts", 2) == 0.0);
    assert_true(mb_model_array_number(model, "flags", 1) == 1.0);
    assert_true(mb_model_array_number(model, "reals", 0) == 0.5);
    assert_true(mb_model_array_number(model, "words", 0) == 0.0);
    const struct mb_tensor *q = find(model, "blk.3.attn_q.weight");
    assert_int_equal(q->n, 3);
    assert_int_equal(((const uint8_t *)q->data)[383], 383 % 256);
    assert_int_equal(((const uint8_t *)find(model, "norm")->data)[0], 7);
    assert_false(mb_model_tied(model));
}

static void test_versions_and_alignments(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {1, 8, 32, 256, 4096};
    const char *path = gb_scratch("small.gguf");
    for (uint32_t version = 2; version <= 3; version++)
        for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
            struct builder b = {NULL, 0, 0};
            build_small(&b, version, alignments[i]);
            gb_save(&b, path);
            gb_free(&b);
            struct mb_model *model = open_model(path);
            check_small(model);
            mb_model_close(model);
        }
    assert_int_equal(remove(path), 0);
}

/* Block sizes of every type: (bits per weight x 256) for 256 weights, from ggml's documentation of
 * its formats; ours come from formats.def. */
static void test_types(void **state)
{
    (void)state;
    static const struct {
        int32_t id;
        size_t bytes; /* of 256 weights */
    } types[] = {{9, 288}, {15, 292}, {16, 66},  {17, 74},   {18, 98},   {19, 50},   {21, 110},
                 {22, 82}, {24, 256}, {25, 512}, {26, 1024}, {27, 2048}, {28, 2048}, {29, 56},
                 {34, 54}, {35, 66},  {39, 136}, {40, 144},  {41, 36},   {42, 72}};
    static const int32_t removed[] = {-1, 4, 5, 31, 32, 33, 36, 37, 38, 43, 1000, INT32_MAX};
    for (size_t i = 0; i < mb_format_count(); i++) {
        const struct mb_format_info *format = mb_format_at(i);
        const struct mb_ggml_type *type = mb_ggml_type((int32_t)format->id);
        assert_non_null(type);
        assert_string_equal(type->name, format->name);
        assert_int_equal(type->block_k, format->block_k);
        assert_int_equal(type->block_bytes, format->block_bytes);
    }
    for (size_t i = 0; i < sizeof removed / sizeof removed[0]; i++)
        assert_null(mb_ggml_type(removed[i]));
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const uint64_t ne[2] = {256, 2};
        const char *path = gb_scratch("type.gguf");
        struct builder b = {NULL, 0, 0};
        gb_header(&b, 3, 1, 0);
        gb_tensor(&b, "t.weight", 2, ne, (uint32_t)types[i].id, 0);
        gb_pad(&b, 32);
        for (size_t byte = 0; byte < 2 * types[i].bytes; byte++)
            gb_number(&b, 0, 1);
        gb_save(&b, path);
        struct mb_model *model = open_model(path);
        assert_int_equal(mb_model_tensor_at(model, 0)->bytes, 2 * types[i].bytes);
        assert_int_equal(mb_model_tensor_at(model, 0)->type, types[i].id);
        const bool ours = mb_format_info((enum mb_format)types[i].id) != NULL;
        assert_int_equal(mb_model_tensor_at(model, 0)->format, ours ? types[i].id : MB_FORMAT_NONE);
        mb_model_close(model);
        /* one byte fewer is too few: the size was not underestimated */
        gb_save_bytes(path, b.data, b.bytes - 1);
        assert_int_equal(mb_model_open(path, &model, NULL), MB_ERR_FILE);
        gb_free(&b);
        assert_int_equal(remove(path), 0);
    }
}

/* ---- roles ---- */

static void check_quantizable(const char *golden)
{
    char *text = NULL;
    size_t bytes = 0, lines = 0, quantizable = 0;
    assert_int_equal(mb_file_read(golden, 1 << 20, &text, &bytes, NULL), MB_OK);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char name[128];
        unsigned long long ne[4];
        int expected;
        assert_int_equal(sscanf(line, "%127s %llux%llux%llux%llu %d", name, &ne[0], &ne[1], &ne[2],
                                &ne[3], &expected),
                         6);
        struct mb_tensor tensor = {.name = name, .k = ne[0], .n = ne[1] * ne[2] * ne[3]};
        mb_tensor_classify(&tensor, "llama");
        if (tensor.quantizable != expected)
            fail_msg("%s: quantizable is %d, llama-quantize says %d", name, tensor.quantizable,
                     expected);
        lines++;
        quantizable += (size_t)expected;
    }
    assert_true(lines > 50 && quantizable > 20 && quantizable < lines);
    free(text);
}

static void test_quantizable(void **state)
{
    (void)state;
    check_quantizable("tests/golden/roles/names.txt");
    check_quantizable("tests/golden/roles/tiny-llama.txt");
    check_quantizable("tests/golden/roles/tiny-hybrid.txt");
    check_quantizable("tests/golden/roles/smollm2.txt");
}

static void test_roles(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum mb_role role;
        int layer;
    } rows[] = {
        {"token_embd.weight", MB_ROLE_EMBEDDING, -1},
        {"token_embd_norm.weight", MB_ROLE_OTHER, -1},
        {"output.weight", MB_ROLE_OUTPUT, -1},
        {"output_norm.weight", MB_ROLE_OTHER, -1},
        {"blk.0.attn_q.weight", MB_ROLE_ATTN_Q, 0},
        {"blk.10.attn_k.weight", MB_ROLE_ATTN_K, 10},
        {"blk.123.attn_v.weight", MB_ROLE_ATTN_V, 123},
        {"blk.1.attn_v.bias", MB_ROLE_OTHER, 1},
        {"blk.1.attn_qkv.weight", MB_ROLE_ATTN_QKV, 1},
        {"blk.1.attn_output.weight", MB_ROLE_ATTN_OUTPUT, 1},
        {"blk.1.attn_output_norm.weight", MB_ROLE_OTHER, 1},
        {"blk.1.attn_q_norm.weight", MB_ROLE_OTHER, 1},
        {"blk.1.ffn_gate.weight", MB_ROLE_FFN_GATE, 1},
        {"blk.1.ffn_gate_inp.weight", MB_ROLE_OTHER, 1},
        {"blk.1.ffn_gate_exps.weight", MB_ROLE_FFN_GATE, 1},
        {"blk.1.ffn_up_shexp.weight", MB_ROLE_FFN_UP, 1},
        {"blk.1.ffn_down.weight", MB_ROLE_FFN_DOWN, 1},
        {"blk.1.ssm_in.weight", MB_ROLE_SSM_IN, 1},
        {"blk.1.ssm_out.weight", MB_ROLE_SSM_OUT, 1},
        {"blk.1.ssm_a", MB_ROLE_SSM_OTHER, 1},
        {"blk.1.ssm_norm.weight", MB_ROLE_SSM_OTHER, 1},
        {"blk.99999999999999.attn_q.weight", MB_ROLE_ATTN_Q, -1},
        {"blk.x.attn_q.weight", MB_ROLE_ATTN_Q, -1},
        {"blk..attn_q.weight", MB_ROLE_ATTN_Q, -1},
        {"blk.7", MB_ROLE_OTHER, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mb_tensor tensor = {.name = rows[i].name, .n = 4, .k = 4};
        mb_tensor_classify(&tensor, "llama");
        if (tensor.role != rows[i].role || tensor.layer != rows[i].layer)
            fail_msg("%s: role %d, layer %d", rows[i].name, (int)tensor.role, tensor.layer);
    }
}

/* ---- split models ---- */

static void save_part(const char *name, unsigned number, unsigned count, unsigned tensors)
{
    char tensor[32];
    const uint64_t ne[2] = {8, number + 1};
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 1, number == 0 ? 4 : 3);
    if (number == 0)
        gb_pair_string(&b, "general.architecture", "split");
    gb_key(&b, "split.no", 2), gb_number(&b, number, 2);
    gb_key(&b, "split.count", 2), gb_number(&b, count, 2);
    gb_key(&b, "split.tensors.count", 5), gb_u32(&b, tensors);
    (void)snprintf(tensor, sizeof tensor, "blk.%u.attn_q.weight", number);
    gb_tensor(&b, tensor, 2, ne, 0, 0);
    gb_pad(&b, 32);
    for (size_t i = 0; i < 32 * (number + 1); i++)
        gb_number(&b, number + 1, 1);
    gb_save(&b, gb_scratch(name));
    gb_free(&b);
}

static void expect_open_error(const char *name, enum mb_status status, const char *wanted)
{
    struct mb_model *model = NULL;
    struct mb_error error = {.message = ""};
    const enum mb_status got = mb_model_open(gb_scratch(name), &model, &error);
    assert_null(model);
    if (got != status || strstr(error.message, wanted) == NULL)
        fail_msg("%s: %s (%s), wanted '%s'", name, error.message, mb_status_string(got), wanted);
    if (status == MB_ERR_FILE)
        assert_true(error.where >= 0);
}

static void test_split_models(void **state)
{
    (void)state;
    save_part("m-00001-of-00003.gguf", 0, 3, 3);
    save_part("m-00002-of-00003.gguf", 1, 3, 3);
    save_part("m-00003-of-00003.gguf", 2, 3, 3);
    struct mb_model *model = open_model(gb_scratch("m-00001-of-00003.gguf"));
    assert_string_equal(mb_model_architecture(model), "split");
    assert_int_equal(mb_model_tensor_count(model), 3);
    for (unsigned i = 0; i < 3; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        assert_int_equal(tensor->layer, i);
        assert_int_equal(tensor->bytes, 32 * (i + 1));
        assert_int_equal(((const uint8_t *)tensor->data)[tensor->bytes - 1], i + 1);
    }
    assert_true(mb_model_file_bytes(model) > 3 * 100 + 32 * 6);
    char hash[33];
    memcpy(hash, mb_model_hash(model), 33);
    mb_model_close(model);

    expect_open_error("m-00002-of-00003.gguf", MB_ERR_FILE, "part 2 of 3");
    save_part("m-00003-of-00003.gguf", 1, 3, 3); /* part 2 again */
    expect_open_error("m-00001-of-00003.gguf", MB_ERR_FILE, "part 2 of 3, expected 3 of 3");
    save_part("m-00003-of-00003.gguf", 2, 4, 3);
    expect_open_error("m-00001-of-00003.gguf", MB_ERR_FILE, "do not belong together");
    save_part("m-00001-of-00003.gguf", 0, 3, 4);
    save_part("m-00003-of-00003.gguf", 2, 3, 4);
    expect_open_error("m-00001-of-00003.gguf", MB_ERR_FILE, "announces 4 tensors");
    assert_int_equal(remove(gb_scratch("m-00002-of-00003.gguf")), 0);
    expect_open_error("m-00001-of-00003.gguf", MB_ERR_IO, "m-00002-of-00003.gguf");
    gb_save_bytes(gb_scratch("m-00002-of-00003.gguf"), (const uint8_t *)"GG", 2);
    expect_open_error("m-00001-of-00003.gguf", MB_ERR_FILE, "not a GGUF file");
    save_part("m.gguf", 0, 3, 3);
    expect_open_error("m.gguf", MB_ERR_FILE, "-00001-of-00003.gguf");
    static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                        "m-00003-of-00003.gguf", "m.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(remove(gb_scratch(names[i])), 0);
}

static int remove_scratch(void **state)
{
    (void)state;
    return remove(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_llama), cmocka_unit_test(test_tiny_hybrid),
        cmocka_unit_test(test_hash),       cmocka_unit_test(test_versions_and_alignments),
        cmocka_unit_test(test_types),      cmocka_unit_test(test_quantizable),
        cmocka_unit_test(test_roles),      cmocka_unit_test(test_split_models),
    };
    return cmocka_run_group_tests_name("model_gguf", tests, NULL, remove_scratch);
}
