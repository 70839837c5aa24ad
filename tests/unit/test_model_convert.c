/* SPDX-License-Identifier: Apache-2.0 */
/* Writing models: what is kept, what is changed, what is refused, and that nothing is left behind
 * when it goes wrong. Values are checked against the source tensor with the formats' own error
 * bounds, the layout against the rules of the file format. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mixbit/model.h"
#include "model/gguf.h"
#include "unit/gguf_builder.h"

#define TINY "models/tiny-llama.f16.gguf"
#define HYBRID "models/tiny-hybrid.f16.gguf"

static struct mb_model *open_model(const char *path)
{
    struct mb_model *model = NULL;
    struct mb_error error;
    if (mb_model_open(path, &model, &error) != MB_OK)
        fail_msg("%s", error.message);
    return model;
}

static size_t files_in_scratch(void)
{
    size_t count = 0;
    DIR *folder = opendir(gb_scratch(""));
    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder))
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

static enum mb_format *uniform(const struct mb_model *model, enum mb_format format)
{
    const size_t count = mb_model_tensor_count(model);
    enum mb_format *formats = malloc(count * sizeof *formats);
    assert_non_null(formats);
    for (size_t i = 0; i < count; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        formats[i] = tensor->quantizable ? mb_format_fit(format, tensor->k) : MB_FORMAT_NONE;
    }
    return formats;
}

static void convert(struct mb_model *model, const enum mb_format *formats, const char *name,
                    const struct mb_convert_options *options)
{
    struct mb_error error;
    char path[600];
    (void)snprintf(path, sizeof path, "%s", gb_scratch(name));
    if (mb_convert(model, formats, path, options, &error) != MB_OK)
        fail_msg("%s", error.message);
}

static void expect_error(struct mb_model *model, const enum mb_format *formats, const char *path,
                         const struct mb_convert_options *options, enum mb_status status,
                         const char *wanted)
{
    struct mb_error error = {.message = ""};
    const enum mb_status got = mb_convert(model, formats, path, options, &error);
    if (got != status || strstr(error.message, wanted) == NULL)
        fail_msg("%s: '%s', wanted '%s'", mb_status_string(got), error.message, wanted);
    assert_int_equal(error.status, status);
}

/* ---- what the result holds ---- */

/* Tensors in the source's order, each at the next multiple of the alignment, the file ending with
 * the last one's padding. */
static void check_layout(const struct mb_model *out, const struct mb_model *in)
{
    assert_int_equal(out->tensor_count, in->tensor_count);
    assert_int_equal(out->alignment, in->alignment);
    size_t offset = 0;
    for (size_t i = 0; i < out->tensor_count; i++) {
        const struct mb_tensor *a = &out->tensors[i], *b = &in->tensors[i];
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->dims, b->dims);
        assert_memory_equal(a->ne, b->ne, sizeof a->ne);
        assert_int_equal(out->infos[i].offset, offset);
        offset += (a->bytes + out->alignment - 1) / out->alignment * out->alignment;
    }
    const uint8_t *start = out->tensors[0].data;
    assert_ptr_equal(start + offset, out->parts[0].mapping.data + out->parts[0].mapping.bytes);
}

static bool replaced(const char *key)
{
    return strcmp(key, "general.file_type") == 0 ||
           strcmp(key, "general.quantization_version") == 0 || strncmp(key, "mixbit.", 7) == 0 ||
           strncmp(key, "split.", 6) == 0;
}

/* All other pairs are there, in the same order and with the same bytes. */
static void check_metadata(const struct mb_model *out, const struct mb_model *in)
{
    size_t at = 0;
    for (size_t i = 0; i < in->pair_count; i++) {
        const struct mb_gguf_pair *pair = &in->pairs[i];
        if (replaced(pair->key))
            continue;
        assert_true(at < out->pair_count);
        assert_int_equal(out->pairs[at].raw_bytes, pair->raw_bytes);
        assert_memory_equal(out->pairs[at].raw, pair->raw, pair->raw_bytes);
        at++;
    }
    for (; at < out->pair_count; at++)
        assert_true(replaced(out->pairs[at].key) || strncmp(out->pairs[at].key, "test.", 5) == 0);
    assert_int_equal(mb_model_uint(out, "general.quantization_version", 0), 2);
    assert_string_equal(mb_model_string(out, "mixbit.version", ""), MIXBIT_VERSION);
}

static double relative_error(const struct mb_tensor *a, const struct mb_tensor *b)
{
    const size_t count = a->n * a->k;
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y);
    assert_true(x != NULL && y != NULL);
    assert_int_equal(mb_dequantize(a->format, a->data, a->n, a->k, x), MB_OK);
    assert_int_equal(mb_dequantize(b->format, b->data, b->n, b->k, y), MB_OK);
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)y[i] * (double)y[i];
    }
    free(x);
    free(y);
    return sqrt(difference / size);
}

static void test_uniform(void **state)
{
    (void)state;
    /* Errors of Gaussian-like weights: half a step of 1/127, 1/15, 1/31 of the block's range. */
    static const struct {
        enum mb_format format;
        uint64_t file_type;
        double least, most;
    } rows[] = {
        {MB_FORMAT_Q8_0, 7, 0.002, 0.008}, {MB_FORMAT_Q4_0, 2, 0.06, 0.11},
        {MB_FORMAT_F32, 0, 0.0, 0.0},      {MB_FORMAT_F16, 1, 0.0, 0.0},
        {MB_FORMAT_BF16, 32, 1e-4, 3e-3},
    };
    struct mb_model *model = open_model(TINY);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        enum mb_format *formats = uniform(model, rows[r].format);
        convert(model, formats, "uniform.gguf", NULL);
        struct mb_model *out = open_model(gb_scratch("uniform.gguf"));
        check_layout(out, model);
        check_metadata(out, model);
        assert_int_equal(mb_model_uint(out, "general.file_type", 999), rows[r].file_type);
        for (size_t i = 0; i < out->tensor_count; i++) {
            const struct mb_tensor *a = &out->tensors[i], *b = &model->tensors[i];
            if (b->quantizable) {
                assert_int_equal(a->format, rows[r].format);
                const double error = relative_error(a, b);
                if (error < rows[r].least || error > rows[r].most)
                    fail_msg("%s as %s: error %g", a->name, mb_format_info(a->format)->name, error);
            } else {
                assert_int_equal(a->type, b->type);
                assert_memory_equal(a->data, b->data, a->bytes);
            }
        }
        mb_model_close(out);
        free(formats);
    }
    mb_model_close(model);
    assert_int_equal(remove(gb_scratch("uniform.gguf")), 0);
}

/* One f32 matrix of nearly Gaussian weights: the slow encoders need not see a whole model. */
static void save_gaussian(const char *name)
{
    const uint64_t ne[2] = {256, 64};
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 3, 1, 1);
    gb_pair_string(&b, "general.architecture", "small");
    gb_tensor(&b, "a.weight", 2, ne, 0, 0);
    gb_pad(&b, 32);
    uint32_t random = 1;
    for (size_t i = 0; i < 256 * 64; i++) {
        float sum = -6.0f;
        for (int part = 0; part < 12; part++) {
            random = random * 1664525u + 1013904223u;
            sum += (float)(random >> 8) / 16777216.0f;
        }
        uint32_t word;
        memcpy(&word, &sum, sizeof word);
        gb_u32(&b, word);
    }
    gb_save(&b, gb_scratch(name));
    gb_free(&b);
}

static void test_every_format(void **state)
{
    (void)state;
    save_gaussian("in.gguf");
    struct mb_model *model = open_model(gb_scratch("in.gguf"));
    for (size_t f = 0; f < mb_format_count(); f++) {
        const struct mb_format_info *info = mb_format_at(f);
        convert(model, &info->id, "out.gguf", NULL);
        struct mb_model *out = open_model(gb_scratch("out.gguf"));
        check_layout(out, model);
        assert_int_equal(out->tensors[0].format, info->id);
        assert_int_equal(mb_model_uint(out, "general.file_type", 999),
                         mb_ggml_type((int32_t)info->id)->file_type);
        /* half a step of the codes' range, the block's largest weight being some 2.5 deviations;
         * bits per weight include the scales, of floats some 8 are exponent */
        const double codes = info->block_k > 1 ? info->bits : info->bits - 8.0;
        const double error = relative_error(&out->tensors[0], &model->tensors[0]);
        if (error > 2.6 / (pow(2.0, floor(codes)) - 1.0))
            fail_msg("%s: error %g", info->name, error);
        mb_model_close(out);
    }
    mb_model_close(model);
    assert_int_equal(remove(gb_scratch("in.gguf")), 0);
    assert_int_equal(remove(gb_scratch("out.gguf")), 0);
}

/* Rows are cut into batches and batches into threads' shares: the bytes must not show it. */
static void test_threads_and_importance(void **state)
{
    (void)state;
    struct mb_model *model = open_model(TINY);
    const size_t count = mb_model_tensor_count(model);
    enum mb_format *formats = uniform(model, MB_FORMAT_Q4_K);
    float **importance = calloc(count, sizeof *importance);
    assert_non_null(importance);
    for (size_t i = 0; i < count; i++) {
        const struct mb_tensor *t = mb_model_tensor_at(model, i);
        if (t->layer > 1 || t->role == MB_ROLE_OUTPUT) /* enough is enough */
            formats[i] = MB_FORMAT_NONE;
        if (formats[i] == MB_FORMAT_NONE || i % 2 == 0)
            continue;
        importance[i] = malloc(t->k * sizeof **importance);
        assert_non_null(importance[i]);
        for (size_t k = 0; k < t->k; k++)
            importance[i][k] = (float)(1 + k % 7) * (k % 16 == 3 ? 50.0f : 1.0f);
    }
    struct mb_threads *threads = NULL;
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    struct mb_convert_options options = {
        .size = sizeof options, .threads = threads, .importance = (const float *const *)importance};
    convert(model, formats, "threads.gguf", &options);
    struct mb_model *out = open_model(gb_scratch("threads.gguf"));
    size_t weighted = 0;
    for (size_t i = 0; i < count; i++) {
        const struct mb_tensor *t = mb_model_tensor_at(model, i), *o = mb_model_tensor_at(out, i);
        if (formats[i] == MB_FORMAT_NONE)
            continue;
        float *floats = malloc(t->n * t->k * sizeof *floats);
        uint8_t *plain = malloc(o->bytes), *expected = malloc(o->bytes);
        assert_true(floats != NULL && plain != NULL && expected != NULL);
        assert_int_equal(mb_dequantize(t->format, t->data, t->n, t->k, floats), MB_OK);
        assert_int_equal(mb_quantize(o->format, floats, t->n, t->k, importance[i], expected),
                         MB_OK);
        assert_int_equal(mb_quantize(o->format, floats, t->n, t->k, NULL, plain), MB_OK);
        assert_memory_equal(o->data, expected, o->bytes);
        weighted += importance[i] != NULL && memcmp(o->data, plain, o->bytes) != 0;
        free(floats);
        free(plain);
        free(expected);
        free(importance[i]);
    }
    assert_true(weighted > 3);
    mb_threads_destroy(threads);
    mb_model_close(out);
    mb_model_close(model);
    free(importance);
    free(formats);
    assert_int_equal(remove(gb_scratch("threads.gguf")), 0);
}

static void test_mix_from_quantized(void **state)
{
    (void)state;
    struct mb_model *model = open_model(HYBRID);
    enum mb_format *formats = uniform(model, MB_FORMAT_Q8_0);
    convert(model, formats, "q8.gguf", NULL);
    struct mb_model *middle = open_model(gb_scratch("q8.gguf"));
    /* embedding and one more as they are, the rest alternating: q4_0 has more weights than q6_K */
    size_t index = 0;
    for (size_t i = 0; i < middle->tensor_count; i++) {
        const struct mb_tensor *t = &middle->tensors[i];
        const bool keep = !t->quantizable || t->role == MB_ROLE_EMBEDDING ||
                          strcmp(t->name, "blk.5.attn_q.weight") == 0;
        formats[i] = keep ? MB_FORMAT_NONE : index++ % 3 == 0 ? MB_FORMAT_Q6_K : MB_FORMAT_Q4_0;
    }
    static const char *const extra[] = {"mixbit.plan", "a plan", "test.note", "", NULL};
    const struct mb_convert_options options = {.size = sizeof options, .extra_keys = extra};
    convert(middle, formats, "mix.gguf", &options);
    struct mb_model *out = open_model(gb_scratch("mix.gguf"));
    check_layout(out, model);
    check_metadata(out, model);
    assert_int_equal(mb_model_uint(out, "general.file_type", 0), 2);
    assert_string_equal(mb_model_string(out, "mixbit.plan", ""), "a plan");
    assert_string_equal(mb_model_string(out, "test.note", "none"), "");
    for (size_t i = 0; i < out->tensor_count; i++) {
        const struct mb_tensor *o = &out->tensors[i], *m = &middle->tensors[i];
        if (formats[i] == MB_FORMAT_NONE) {
            assert_int_equal(o->type, m->type);
            assert_memory_equal(o->data, m->data, m->bytes);
        } else {
            assert_int_equal(o->format, formats[i]);
            assert_true(relative_error(o, &model->tensors[i]) < 0.12);
        }
    }
    /* what an earlier run said about its file is not said about the next one */
    for (size_t i = 0; i < out->tensor_count; i++)
        formats[i] = MB_FORMAT_NONE;
    convert(out, formats, "copy.gguf", NULL);
    struct mb_model *copy = open_model(gb_scratch("copy.gguf"));
    assert_string_equal(mb_model_string(copy, "mixbit.plan", "gone"), "gone");
    assert_string_equal(mb_model_string(copy, "test.note", "none"), "");
    assert_int_equal(mb_model_uint(copy, "general.file_type", 0), 2);
    for (size_t i = 0; i < out->tensor_count; i++)
        assert_memory_equal(copy->tensors[i].data, out->tensors[i].data, out->tensors[i].bytes);
    mb_model_close(copy);
    mb_model_close(out);
    mb_model_close(middle);
    mb_model_close(model);
    free(formats);
    assert_int_equal(remove(gb_scratch("q8.gguf")), 0);
    assert_int_equal(remove(gb_scratch("mix.gguf")), 0);
    assert_int_equal(remove(gb_scratch("copy.gguf")), 0);
}

/* ---- small models built here ---- */

/* Two tensors in one or two parts: "a.weight" of f32 with a value of choice, "b.weight" of type 41
 * (q1_0, none of our formats). */
static void save_small(const char *name, uint32_t value, uint32_t alignment, unsigned part,
                       unsigned parts)
{
    const uint64_t ne[2] = {256, 2};
    struct builder b = {NULL, 0, 0};
    gb_header(&b, 2, parts == 1 ? 2 : 1, 3 + 2 * (parts > 1));
    gb_pair_string(&b, "general.architecture", "small");
    gb_pair_u32(&b, "general.alignment", alignment);
    gb_pair_string(&b, "test.kept", "bytes \x01\xff");
    if (parts > 1) {
        gb_key(&b, "split.no", 2), gb_number(&b, part, 2);
        gb_key(&b, "split.count", 2), gb_number(&b, parts, 2);
    }
    if (part == 0)
        gb_tensor(&b, "a.weight", 2, ne, 0, 0);
    if (part + 1 == parts)
        gb_tensor(&b, "b.weight", 2, ne, 41, parts == 1 ? 2048 : 0);
    gb_pad(&b, alignment);
    for (size_t i = 0; i < 512 && part == 0; i++)
        gb_u32(&b, i == 300 ? value : 0x3f800000 + (uint32_t)i * 7919);
    for (size_t i = 0; i < 72 && part + 1 == parts; i++)
        gb_number(&b, i, 1);
    gb_save(&b, gb_scratch(name));
    gb_free(&b);
}

static void test_split_input_becomes_one_file(void **state)
{
    (void)state;
    save_small("s-00001-of-00002.gguf", 0, 128, 0, 2);
    save_small("s-00002-of-00002.gguf", 0, 32, 1, 2);
    struct mb_model *model = open_model(gb_scratch("s-00001-of-00002.gguf"));
    const enum mb_format formats[] = {MB_FORMAT_Q4_K, MB_FORMAT_NONE};
    convert(model, formats, "whole.gguf", NULL);
    struct mb_model *out = open_model(gb_scratch("whole.gguf"));
    check_layout(out, model);
    check_metadata(out, model);
    assert_int_equal(out->alignment, 128);
    assert_null(mb_gguf_find(out, "split.count"));
    assert_int_equal(out->tensors[0].format, MB_FORMAT_Q4_K);
    assert_int_equal(out->tensors[1].type, 41);
    assert_memory_equal(out->tensors[1].data, model->tensors[1].data, 72);
    mb_model_close(out);
    mb_model_close(model);
    assert_int_equal(remove(gb_scratch("whole.gguf")), 0);
    assert_int_equal(remove(gb_scratch("s-00001-of-00002.gguf")), 0);
    assert_int_equal(remove(gb_scratch("s-00002-of-00002.gguf")), 0);
}

static void test_refused_requests(void **state)
{
    (void)state;
    save_small("in.gguf", 0, 32, 0, 1);
    char out[600];
    (void)snprintf(out, sizeof out, "%s", gb_scratch("out.gguf"));
    struct mb_model *model = open_model(gb_scratch("in.gguf"));
    const size_t before = files_in_scratch();
    const enum mb_format foreign[] = {MB_FORMAT_NONE, MB_FORMAT_Q8_0};
    expect_error(model, foreign, out, NULL, MB_ERR_UNSUPPORTED, "q1_0");
    const enum mb_format unknown[] = {(enum mb_format)77, MB_FORMAT_NONE};
    expect_error(model, unknown, out, NULL, MB_ERR_ARGUMENT, "77 is no format");
    const enum mb_format none[] = {MB_FORMAT_NONE, MB_FORMAT_NONE};
    static const char *const bad[][5] = {{"", "x", NULL},
                                         {"general.alignment", "64", NULL},
                                         {"a", "1", "a", "2", NULL},
                                         {"general.file_type", "x", NULL}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const struct mb_convert_options options = {.size = sizeof options, .extra_keys = bad[i]};
        expect_error(model, none, out, &options, MB_ERR_ARGUMENT, "extra metadata key");
    }
    mb_model_close(model);
    struct mb_model *tiny = open_model(HYBRID);
    enum mb_format *formats = uniform(tiny, MB_FORMAT_NONE);
    const struct mb_tensor *conv = mb_model_tensor_find(tiny, "blk.0.ssm_conv1d.weight");
    formats[conv - tiny->tensors] = MB_FORMAT_Q8_0;
    expect_error(tiny, formats, out, NULL, MB_ERR_SHAPE, "rows of 4 weights");
    formats[conv - tiny->tensors] = MB_FORMAT_NONE;
    const struct mb_tensor *norm = mb_model_tensor_find(tiny, "output_norm.weight");
    formats[norm - tiny->tensors] = MB_FORMAT_Q8_0;
    expect_error(tiny, formats, out, NULL, MB_ERR_ARGUMENT, "output_norm.weight");
    free(formats);
    mb_model_close(tiny);
    assert_int_equal(files_in_scratch(), before);
    assert_int_equal(remove(gb_scratch("in.gguf")), 0);
}

static void test_values_that_are_not_finite(void **state)
{
    (void)state;
    static const uint32_t words[] = {0x7f800000, 0xff800000, 0x7fc00000};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        save_small("in.gguf", words[i], 32, 0, 1);
        struct mb_model *model = open_model(gb_scratch("in.gguf"));
        const enum mb_format blocks[] = {MB_FORMAT_Q4_0, MB_FORMAT_NONE};
        const size_t before = files_in_scratch();
        char out[600];
        (void)snprintf(out, sizeof out, "%s", gb_scratch("out.gguf"));
        expect_error(model, blocks, out, NULL, MB_ERR_FILE, "not finite");
        assert_int_equal(files_in_scratch(), before);
        mb_model_close(model);
    }
    assert_int_equal(remove(gb_scratch("in.gguf")), 0);
}

/* ---- the target ---- */

static void test_targets(void **state)
{
    (void)state;
    save_small("in.gguf", 0, 32, 0, 1);
    struct mb_model *model = open_model(gb_scratch("in.gguf"));
    const enum mb_format formats[] = {MB_FORMAT_Q8_0, MB_FORMAT_NONE};
    const struct mb_convert_options force = {.size = sizeof force, .force = 1};
    char path[600], in[600];
    (void)snprintf(in, sizeof in, "%s", gb_scratch("in.gguf"));

    /* itself, by the same and by another name, forced or not */
    expect_error(model, formats, in, NULL, MB_ERR_IO, "being read");
    expect_error(model, formats, in, &force, MB_ERR_IO, "being read");
    (void)snprintf(path, sizeof path, "%s", gb_scratch("link.gguf"));
    assert_int_equal(symlink(in, path), 0);
    expect_error(model, formats, path, &force, MB_ERR_IO, "being read");
    assert_int_equal(remove(path), 0);

    /* somebody else's: a text, and a model */
    (void)snprintf(path, sizeof path, "%s", gb_scratch("theirs.gguf"));
    gb_save_bytes(path, (const uint8_t *)"thesis", 6);
    expect_error(model, formats, path, NULL, MB_ERR_IO, "not written by mixbit");
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 6);
    save_small("theirs.gguf", 0, 32, 0, 1);
    expect_error(model, formats, path, NULL, MB_ERR_IO, "not written by mixbit");
    convert(model, formats, "theirs.gguf", &force);
    /* now it is ours */
    convert(model, formats, "theirs.gguf", NULL);
    assert_int_equal(remove(path), 0);

    /* no such folder, a folder, a device */
    (void)snprintf(path, sizeof path, "%s", gb_scratch("none/out.gguf"));
    expect_error(model, formats, path, NULL, MB_ERR_IO, "none/out.gguf");
    (void)snprintf(path, sizeof path, "%s", gb_scratch(""));
    expect_error(model, formats, path, NULL, MB_ERR_IO, "folder");
    expect_error(model, formats, "/dev/full", NULL, MB_ERR_IO, "/dev/full");
    expect_error(model, formats, "", NULL, MB_ERR_ARGUMENT, "name");
    assert_int_equal(files_in_scratch(), 1);
    mb_model_close(model);
    assert_int_equal(remove(in), 0);
}

/* A file size limit stands for a full disk: the write fails half way. */
static void test_no_space(void **state)
{
    (void)state;
    struct mb_model *model = open_model(TINY);
    enum mb_format *formats = uniform(model, MB_FORMAT_Q8_0);
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 3 << 20;
    (void)signal(SIGXFSZ, SIG_IGN);
    char out[600];
    (void)snprintf(out, sizeof out, "%s", gb_scratch("full.gguf"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct mb_error error = {.message = ""};
    const enum mb_status status = mb_convert(model, formats, out, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(status, MB_ERR_IO);
    assert_non_null(strstr(error.message, "full.gguf"));
    assert_int_equal(files_in_scratch(), 0);
    free(formats);
    mb_model_close(model);
}

struct watch {
    int stop_at, calls;
    double last, total;
};

static int watch_progress(void *user, double done, double total, const char *note)
{
    struct watch *watch = user;
    assert_true(done >= watch->last && done <= total * 1.000001);
    assert_true(note != NULL && note[0] != '\0');
    watch->last = done;
    watch->total = total;
    return ++watch->calls == watch->stop_at;
}

static void test_progress_and_interruption(void **state)
{
    (void)state;
    struct mb_model *model = open_model(TINY);
    enum mb_format *formats = uniform(model, MB_FORMAT_Q4_0);
    struct watch watch = {0, 0, 0.0, 0.0};
    struct mb_progress progress = {watch_progress, &watch};
    struct mb_convert_options options = {.size = sizeof options, .progress = &progress};
    convert(model, formats, "progress.gguf", &options);
    assert_true(watch.total == 5770496.0 && fabs(watch.last - watch.total) < 1.0);
    const int calls = watch.calls;
    assert_true(calls >= 57);
    char out[600];
    (void)snprintf(out, sizeof out, "%s", gb_scratch("stopped.gguf"));
    for (int stop = 1; stop <= calls; stop += 1 + stop) {
        watch = (struct watch){.stop_at = stop};
        expect_error(model, formats, out, &options, MB_ERR_INTERRUPTED, "stopped");
        assert_int_equal(files_in_scratch(), 1);
    }
    /* a file that was there before stays as it was */
    (void)snprintf(out, sizeof out, "%s", gb_scratch("progress.gguf"));
    struct stat before, after;
    assert_int_equal(stat(out, &before), 0);
    watch = (struct watch){.stop_at = 5};
    expect_error(model, formats, out, &options, MB_ERR_INTERRUPTED, "stopped");
    assert_int_equal(stat(out, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_size == after.st_size);
    free(formats);
    mb_model_close(model);
    assert_int_equal(remove(out), 0);
}

static int remove_scratch(void **state)
{
    (void)state;
    return remove(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_every_format),
        cmocka_unit_test(test_threads_and_importance),
        cmocka_unit_test(test_mix_from_quantized),
        cmocka_unit_test(test_split_input_becomes_one_file),
        cmocka_unit_test(test_refused_requests),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_progress_and_interruption),
    };
    return cmocka_run_group_tests_name("model_convert", tests, NULL, remove_scratch);
}
