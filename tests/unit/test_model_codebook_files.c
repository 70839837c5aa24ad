/* SPDX-License-Identifier: Apache-2.0 */
/* Models stored as codebook matrices: the file is as large as what was counted, runs as the scheme
 * that it was made by does in a simulation, bit for bit, and is refused where it is damaged, and
 * by whoever needs weights to encode anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fuzz/exercise.h"
#include "gguf_builder.h"

#include "fuzz/mutations.h"
#include "model/channelwise_blob.h"
#include "model/encoder.h"
#include "model/gguf.h"
#include "model/importance.h"
#include "model/probe.h"
#include "model/schemes.h"
#include "moments_support.h"
#include <sys/stat.h>

#define EXPERTS_MODEL "tests/golden/logits/odd-qwen3moe.gguf"

static const char *const extra_keys[] = {"mixbit.version", "test", NULL};

static struct mb_scheme_size write_model(struct mb_model *model, const char *scheme, double bits,
                                         struct mb_threads *threads, const char *path)
{
    const struct mb_scheme_file_options options = {.scheme = mb_scheme_by_name(scheme),
                                                   .bits = bits,
                                                   .threads = threads,
                                                   .extra_keys = extra_keys};
    struct mb_scheme_size size;
    struct mb_error error;
    if (mb_convert_scheme(model, path, &options, &size, &error) != MB_OK)
        fail_msg("%s", error.message);
    return size;
}

/* ---- what is in the file ---- */

static void check_file(struct mb_model *model, const char *path, const struct mb_scheme_size *size)
{
    struct mb_model *out = ns_open(path);
    double stored = 0, weights = 0;
    assert_string_equal(mb_model_string(out, "general.architecture", ""), "mixbit");
    assert_string_equal(mb_model_architecture(out), mb_model_architecture(model));
    assert_int_equal(mb_model_uint(out, "mixbit.cmpq.version", 0), 1);
    assert_int_equal(mb_model_uint(out, "general.file_type", 99), 99);
    assert_int_equal(mb_model_tensor_count(out), mb_model_tensor_count(model));
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        const struct mb_tensor *a = mb_model_tensor_at(model, i), *b = mb_model_tensor_at(out, i);
        assert_string_equal(a->name, b->name);
        assert_true(a->n == b->n && a->k == b->k && a->dims == b->dims && a->role == b->role &&
                    a->layer == b->layer && a->quantizable == b->quantizable);
        assert_memory_equal(a->ne, b->ne, sizeof a->ne);
        assert_int_equal(mb_codebook_matrices(out, i), a->quantizable ? mb_tensor_matrices(a) : 0);
        if (!a->quantizable) {
            assert_true(a->type == b->type && a->bytes == b->bytes);
            assert_memory_equal(a->data, b->data, a->bytes);
            continue;
        }
        assert_true(b->type == 24 && b->format == MB_FORMAT_NONE);
        stored += (double)b->bytes;
        weights += (double)b->n * (double)b->k;
    }
    /* what the count said, and the tensors one behind the other with less than 32 bytes between */
    assert_true(8 * stored / weights == mb_scheme_bits(size));
    assert_true(size->weights == weights);
    const struct mb_gguf_part *part = &out->parts[0];
    for (size_t i = 0; i + 1 < out->tensor_count; i++)
        assert_int_equal((out->infos[i].offset + out->tensors[i].bytes + 31) / 32 * 32,
                         out->infos[i + 1].offset);
    const struct mb_tensor *last = &out->tensors[out->tensor_count - 1];
    const size_t end = (size_t)((const uint8_t *)last->data - part->mapping.data) + last->bytes;
    assert_int_equal(part->mapping.bytes, (end + 31) / 32 * 32);
    mb_model_close(out);
}

/* ---- how it runs ---- */

/* Logits of the scheme in a simulation, and of the file. */
static void check_runs(struct mb_model *model, const char *path, const char *scheme, double bits,
                       size_t vocabulary)
{
    struct mb_simulation *simulation;
    struct mb_error error;
    struct mb_windows windows = ns_windows(2, 24, vocabulary);
    struct mb_model *out = ns_open(path);
    struct mb_threads *threads;
    assert_int_equal(mb_threads_create(2, &threads), MB_OK);
    if (mb_simulation_create(model, NULL, &simulation, &error) != MB_OK)
        fail_msg("%s", error.message);
    for (int kernel = 0; kernel < 2; kernel++) {
        const struct mb_weight_choice choice = {.format = MB_FORMAT_NONE,
                                                .feed_forward = MB_FORMAT_NONE,
                                                .scheme = mb_scheme_by_name(scheme),
                                                .bits = bits,
                                                .kernel = kernel != 0};
        struct mb_scheme_size size;
        if (mb_simulation_store(simulation, &choice, NULL, NULL, &size, &error) != MB_OK)
            fail_msg("%s", error.message);
        float *expected = ns_run(mb_simulation_network(simulation), &windows, 0, vocabulary);
        struct mb_network *network =
            ns_network(out, NULL, kernel ? MB_NUMERICS_KERNEL : MB_NUMERICS_F32, threads);
        float *got = ns_run(network, &windows, 0, vocabulary);
        assert_memory_equal(got, expected, windows.count * 24 * vocabulary * sizeof *got);
        mb_network_destroy(network);
        free(got);
        free(expected);
    }
    mb_simulation_destroy(simulation);
    mb_threads_destroy(threads);
    mb_windows_free(&windows);
    mb_model_close(out);
}

static void check_model(const char *path, const char *scheme, double bits, size_t vocabulary)
{
    struct mb_model *model = ns_open(path);
    const char *out = gb_scratch("out.gguf");
    const struct mb_scheme_size size = write_model(model, scheme, bits, NULL, out);
    check_file(model, out, &size);
    check_runs(model, out, scheme, bits, vocabulary);
    mb_model_close(model);
    assert_int_equal(remove(out), 0);
}

static void test_models(void **unused)
{
    (void)unused;
    check_model(TINY_MODEL, "kmeans-g64", 3, 2048);
    check_model(HYBRID_MODEL, "packed", 2.5, 2048);        /* a tied output */
    check_model(EXPERTS_MODEL, "grouped-outliers", 4, 64); /* stacks */
}

static void test_threads_do_not_show(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_threads *threads;
    char *data[2];
    size_t bytes[2];
    assert_int_equal(mb_threads_create(3, &threads), MB_OK);
    for (size_t i = 0; i < 2; i++) {
        const char *path = gb_scratch("threads.gguf");
        (void)write_model(model, "packed", 3, i == 0 ? NULL : threads, path);
        assert_int_equal(mb_file_read(path, SIZE_MAX, &data[i], &bytes[i], NULL), MB_OK);
        assert_int_equal(remove(path), 0);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(data[0], data[1], bytes[0]);
    free(data[0]);
    free(data[1]);
    mb_threads_destroy(threads);
    mb_model_close(model);
}

/* ---- mixes ---- */

/* Every third quantizable tensor by codebooks, every third in rows of a format, the others stay. */
static enum mb_format *mix_of(const struct mb_model *model)
{
    enum mb_format *formats = ns_uniform(model, MB_FORMAT_CB3);
    size_t seen = 0;
    for (size_t i = 0; i < mb_model_tensor_count(model); i++) {
        if (formats[i] == MB_FORMAT_NONE)
            continue;
        seen++;
        if (seen % 3 != 0)
            formats[i] = seen % 3 == 1
                             ? mb_format_fit(MB_FORMAT_Q4_0, mb_model_tensor_at(model, i)->k)
                             : MB_FORMAT_NONE;
    }
    return formats;
}

/* The file of a mix runs as the mix does in memory, bit for bit, whoever encodes it. */
static void check_mix(const char *path, size_t vocabulary, bool feedback)
{
    struct ms_calibration c;
    struct mb_error error;
    struct mb_windows windows = ns_windows(2, 24, vocabulary);
    ms_set_up(&c, path, 4, 64, vocabulary, 2, 0);
    enum mb_format *formats = mix_of(c.model);
    struct mb_encoder *encoder =
        feedback ? mb_encoder_create(c.model, c.moments, NULL, 1, 0, c.threads) : NULL;
    const struct mb_convert_options options = {
        .size = sizeof options, .threads = c.threads, .extra_keys = extra_keys, .encoder = encoder};
    char out[700];
    (void)snprintf(out, sizeof out, "%s", gb_scratch("mix.gguf"));
    if (mb_convert(c.model, formats, out, &options, &error) != MB_OK)
        fail_msg("%s", error.message);
    struct mb_model *file = ns_open(out);
    size_t books = 0, rows = 0;
    for (size_t i = 0; i < mb_model_tensor_count(file); i++) {
        const struct mb_tensor *a = mb_model_tensor_at(c.model, i),
                               *b = mb_model_tensor_at(file, i);
        const bool by_codebooks = mb_format_is_codebook(formats[i]);
        assert_string_equal(a->name, b->name);
        assert_int_equal(mb_codebook_matrices(file, i), by_codebooks ? mb_tensor_matrices(a) : 0);
        if (!by_codebooks)
            assert_int_equal(b->format, formats[i] != MB_FORMAT_NONE ? formats[i] : a->format);
        books += by_codebooks;
        rows += b->format == MB_FORMAT_Q4_0;
    }
    assert_true(books > 1 && rows > 1);
    for (int kernel = 0; kernel < 2; kernel++) {
        const enum mb_numerics numerics = kernel ? MB_NUMERICS_KERNEL : MB_NUMERICS_F32;
        struct mb_network *mixed;
        if ((feedback ? mb_network_create_encoded(c.model, formats, encoder, numerics, c.threads,
                                                  NULL, &mixed, &error)
                      : mb_network_create_mix(c.model, formats, NULL, numerics, c.threads, NULL,
                                              &mixed, &error)) != MB_OK)
            fail_msg("%s", error.message);
        struct mb_network *network = ns_network(file, NULL, numerics, c.threads);
        float *expected = ns_run(network, &windows, 0, vocabulary);
        float *got = ns_run(mixed, &windows, 0, vocabulary);
        assert_memory_equal(got, expected, windows.count * 24 * vocabulary * sizeof *got);
        mb_network_destroy(mixed);
        mb_network_destroy(network);
        free(got);
        free(expected);
    }
    mb_model_close(file);
    mb_encoder_destroy(encoder);
    free(formats);
    mb_windows_free(&windows);
    ms_tear_down(&c);
    assert_int_equal(remove(out), 0);
}

static void test_mixes(void **unused)
{
    (void)unused;
    check_mix(TINY_MODEL, 2048, true);
    check_mix(HYBRID_MODEL, 2048, false);
    check_mix(EXPERTS_MODEL, 64, false);
}

/* A probe of one tensor by codebooks runs as the network with that tensor so does. */
static void test_probes(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(EXPERTS_MODEL);
    struct mb_error error;
    const size_t count = mb_model_tensor_count(model);
    for (int kernel = 0; kernel < 2; kernel++) {
        const enum mb_numerics numerics = kernel ? MB_NUMERICS_KERNEL : MB_NUMERICS_F32;
        struct mb_network *base = ns_network(model, NULL, MB_NUMERICS_F32, NULL);
        for (size_t m = 0; m < base->matrix_count; m++) {
            struct mb_requantized as;
            const size_t tensor = base->matrices[m].tensor, k = base->matrices[m].k;
            if (!mb_model_tensor_at(model, tensor)->quantizable)
                continue;
            if (mb_requantize(base, m, MB_FORMAT_CB4, numerics, NULL, NULL, NULL, 0, &as, &error) !=
                MB_OK)
                fail_msg("%s", error.message);
            assert_true(!as.exact && as.error > 1e-3 && as.error < 0.3);
            enum mb_format *formats = ns_uniform(model, MB_FORMAT_NONE);
            for (size_t i = 0; i < count; i++)
                formats[i] = i == tensor ? MB_FORMAT_CB4 : MB_FORMAT_NONE;
            struct mb_network *mixed = ns_network(model, formats, numerics, NULL);
            const struct mb_matrix *matrix = &mixed->matrices[m];
            const struct mb_codebook_weights *books = kernel ? as.weights.data : NULL;
            const struct mb_codebook_weights *own = kernel ? matrix->weights.data : NULL;
            for (size_t i = 0; books != NULL && own != NULL && own[i].size > 0; i++) {
                float *x = malloc(k * sizeof *x), *y = malloc(2 * own[i].n * sizeof *y);
                for (size_t column = 0; column < k; column++)
                    x[column] = (float)(column * 37 % 101) - 50;
                assert_int_equal(mb_codebook_matmul(NULL, &own[i], x, 1, k, y, own[i].n), MB_OK);
                assert_int_equal(
                    mb_codebook_matmul(NULL, &books[i], x, 1, k, y + own[i].n, own[i].n), MB_OK);
                assert_memory_equal(y, y + own[i].n, own[i].n * sizeof *y);
                free(x);
                free(y);
            }
            if (!kernel && as.weights.data != NULL) {
                float *rows = malloc(2 * matrix->n * k * sizeof *rows);
                assert_int_equal(mb_unpack_rows(&as.weights, 0, matrix->n, rows), MB_OK);
                assert_int_equal(
                    mb_unpack_rows(&matrix->weights, 0, matrix->n, rows + matrix->n * k), MB_OK);
                assert_memory_equal(rows, rows + matrix->n * k, matrix->n * k * sizeof *rows);
                free(rows);
            }
            mb_requantized_free(&as);
            mb_network_destroy(mixed);
            free(formats);
        }
        mb_network_destroy(base);
    }
    mb_model_close(model);
}

/* ---- what is refused ---- */

static void check_refused(enum mb_status status, enum mb_status expected,
                          const struct mb_error *error, const char *says)
{
    if (status != expected || strstr(error->message, says) == NULL)
        fail_msg("expected '%s', got %s: %s", says, mb_status_string(status), error->message);
}

static void test_verbs(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(EXPERTS_MODEL), *out;
    struct mb_windows windows = ns_windows(1, 8, 64);
    struct mb_error error;
    struct mb_network *network;
    struct mb_sensitivity *table;
    struct mb_simulation *simulation;
    struct mb_scheme_size size;
    char path[700];
    (void)snprintf(path, sizeof path, "%s", gb_scratch("packed.gguf"));
    (void)write_model(model, "packed", 3, NULL, path);
    out = ns_open(path);
    enum mb_format *formats = ns_uniform(out, MB_FORMAT_Q4_0);
    const struct mb_sense_options sense = {
        .size = sizeof sense, .windows = &windows, .formats = formats, .format_count = 1};
    struct mb_scheme_file_options options = {.scheme = mb_scheme_by_name("packed"), .bits = 3};
    check_refused(mb_convert(out, formats, gb_scratch("again.gguf"), NULL, &error),
                  MB_ERR_UNSUPPORTED, &error, "'mixbit eval'");
    check_refused(mb_convert_scheme(out, gb_scratch("again.gguf"), &options, &size, &error),
                  MB_ERR_UNSUPPORTED, &error, "(packed)");
    check_refused(
        mb_network_create_mix(out, formats, NULL, MB_NUMERICS_KERNEL, NULL, NULL, &network, &error),
        MB_ERR_UNSUPPORTED, &error, "codebook matrices");
    check_refused(mb_sense(out, &sense, &table, &error), MB_ERR_UNSUPPORTED, &error,
                  "codebook matrices");
    check_refused(mb_simulation_create(out, NULL, &simulation, &error), MB_ERR_UNSUPPORTED, &error,
                  "codebook matrices");
    options.scheme = mb_scheme_by_name("cmpq-output");
    check_refused(mb_convert_scheme(model, gb_scratch("again.gguf"), &options, &size, &error),
                  MB_ERR_UNSUPPORTED, &error, "'cmpq-output' cannot be stored");
    assert_int_not_equal(access(gb_scratch("again.gguf"), F_OK), 0);
    free(formats);
    mb_windows_free(&windows);
    mb_model_close(out);
    mb_model_close(model);
    assert_int_equal(remove(path), 0);
}

/* Tensors that have no place in such a file, and some that just have. */
static void test_unwritable(void **unused)
{
    (void)unused;
    static const struct {
        const char *name;
        uint32_t type, dims;
        uint64_t ne[4];
        size_t bytes;
        enum mb_status status;
        const char *says;
    } rows[] = {
        {"a234567890123456789012345678901234567890123456789012.weight",
         0,
         2,
         {8, 2},
         64,
         MB_ERR_UNSUPPORTED,
         "too long a name"},
        {"a23456789012345678901234567890123456789012345678901.weight", 0, 2, {8, 2}, 64, MB_OK, ""},
        {"a.weight", 0, 4, {8, 1, 1, 2}, 64, MB_ERR_UNSUPPORTED, "too many dimensions"},
        {"a.weight", 0, 4, {8, 2, 2, 1}, 128, MB_OK, ""},
        {"a.weight", 24, 2, {8, 2}, 16, MB_ERR_UNSUPPORTED, "stored as i8"},
        {"a.weight", 0, 2, {8, 2}, 64, MB_ERR_ARGUMENT, "infinite or undefined"},
    };
    const struct mb_scheme_file_options options = {.scheme = mb_scheme_by_name("packed"),
                                                   .bits = 3};
    char in[700], out[700];
    (void)snprintf(in, sizeof in, "%s", gb_scratch("in.gguf"));
    (void)snprintf(out, sizeof out, "%s", gb_scratch("out.gguf"));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct builder b = {NULL, 0, 0};
        struct mb_scheme_size size;
        struct mb_error error = {0};
        gb_header(&b, 3, 1, 1);
        gb_pair_string(&b, "general.architecture", "small");
        gb_tensor(&b, rows[i].name, rows[i].dims, rows[i].ne, rows[i].type, 0);
        gb_pad(&b, 32);
        for (size_t w = 0; w < rows[i].bytes / 4; w++)
            gb_u32(&b, rows[i].status == MB_ERR_ARGUMENT ? 0x7f800000 : 0x3f800000);
        gb_save(&b, in);
        gb_free(&b);
        struct mb_model *model = ns_open(in);
        check_refused(mb_convert_scheme(model, out, &options, &size, &error), rows[i].status,
                      &error, rows[i].says);
        mb_model_close(model);
        assert_int_equal(access(out, F_OK) == 0, rows[i].status == MB_OK);
        if (rows[i].status != MB_OK)
            continue;
        model = ns_open(out);
        assert_non_null(mb_model_tensor_find(model, rows[i].name));
        mb_model_close(model);
        assert_int_equal(remove(out), 0);
    }
    assert_int_equal(remove(in), 0);
}

static int stop(void *user, double done, double total, const char *note)
{
    (void)total;
    (void)note;
    return done > *(double *)user;
}

static void test_interrupted(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(TINY_MODEL);
    double after = 100000;
    const struct mb_progress progress = {stop, &after};
    const struct mb_scheme_file_options options = {
        .scheme = mb_scheme_by_name("packed"), .bits = 3, .progress = &progress};
    struct mb_scheme_size size;
    struct mb_error error;
    char folder[700];
    check_refused(mb_convert_scheme(model, gb_scratch("never.gguf"), &options, &size, &error),
                  MB_ERR_INTERRUPTED, &error, "nothing was written");
    (void)snprintf(folder, sizeof folder, "%s", gb_scratch(""));
    assert_int_equal(rmdir(folder), 0); /* empty: no temporary neighbour either */
    assert_int_equal(mkdir(folder, 0700), 0);
    mb_model_close(model);
}

/* ---- containers by hand ---- */

/* 2 rows of 3 columns, codes of 2 bits and uniform levels: the smallest record there is. */
static const uint8_t plain[] = {2, 0, 0, 0, 3, 0, 0,    0,    0x02, 0x02,
                                0, 0, 0, 0, 0, 0, 0x1b, 0x0e, 0x00, 0x3c};

struct container {
    uint32_t version, type, dims;
    const char *name, *other; /* other: of a second tensor, of the same bytes; NULL: none */
    size_t records, more;     /* bytes behind the records */
    uint8_t flags[3];         /* of each record */
    uint8_t rows[3];
    const char *says; /* NULL: it is right */
};

static void save_container(const struct container *c, const char *path)
{
    struct builder b = {NULL, 0, 0};
    const uint64_t bytes = c->records * sizeof plain + c->more;
    const uint64_t ne[2] = {c->type == 24 ? bytes : bytes / sizeof(float), 1};
    gb_header(&b, 3, c->other != NULL ? 2 : 1, 3);
    gb_pair_string(&b, "general.architecture", "mixbit");
    gb_pair_string(&b, "mixbit.architecture", "llama");
    gb_pair_u32(&b, "mixbit.cmpq.version", c->version);
    gb_tensor(&b, c->name, c->dims, ne, c->type, 0);
    if (c->other != NULL)
        gb_tensor(&b, c->other, c->dims, ne, c->type, (bytes + 31) / 32 * 32);
    for (int copy = 0; copy < (c->other != NULL ? 2 : 1); copy++) {
        gb_pad(&b, 32);
        for (size_t i = 0; i < c->records; i++) {
            const size_t at = b.bytes;
            gb_bytes(&b, plain, sizeof plain);
            gb_poke(&b, at, c->rows[i], 1);
            gb_poke(&b, at + 9, 0x02u | c->flags[i], 1);
        }
        for (size_t i = 0; i < c->more; i++)
            gb_number(&b, 0, 1);
    }
    gb_save(&b, path);
    gb_free(&b);
}

static void test_containers(void **unused)
{
    (void)unused;
    static const struct container containers[] = {
        {1, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {2}, NULL},
        {1, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0x20}, {2}, NULL},
        {1, 24, 1, "a.weight.cmpq", NULL, 3, 0, {0x20, 0x20, 0x20}, {2, 2, 2}, NULL},
        {1, 24, 1, "a.weight.cmpq", "b.weight.cmpq", 1, 0, {0}, {2}, NULL},
        {1, 24, 1, "a.weight.cmpq", "cmpq", 1, 0, {0}, {2}, NULL}, /* no codebook tensor */
        {0, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {2}, "version 0"},
        {2, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {2}, "version 2"},
        {1, 0, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {2}, "one-dimensional tensor of I8"},
        {1, 24, 2, "a.weight.cmpq", NULL, 1, 0, {0}, {2}, "one-dimensional tensor of I8"},
        {1, 24, 1, "a.weight.cmpq", NULL, 1, 1, {0}, {2}, "byte 21 of it: the header"},
        {1, 24, 1, "a.weight.cmpq", NULL, 2, 0, {0}, {2, 2}, "byte 20 of it: what follows"},
        {1, 24, 1, "a.weight.cmpq", NULL, 2, 0, {0x20, 0}, {2, 2}, "none of its stack"},
        {1, 24, 1, "a.weight.cmpq", NULL, 2, 0, {0x20, 0x20}, {2, 1}, "none of its stack"},
        {1, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {200}, "byte 0 of it: the matrix has more"},
        {1, 24, 1, "a.weight.cmpq", NULL, 1, 0, {0}, {9}, "cut off"},
        {1, 24, 1, "a.weight.cmpq", "a.weight", 1, 0, {0}, {2}, "occurs twice"},
    };
    char path[700];
    (void)snprintf(path, sizeof path, "%s", gb_scratch("container.gguf"));
    for (size_t i = 0; i < sizeof containers / sizeof containers[0]; i++) {
        const struct container *c = &containers[i];
        struct mb_model *model;
        struct mb_error error = {0};
        save_container(c, path);
        const enum mb_status status = mb_model_open(path, &model, &error);
        if (c->says != NULL) {
            check_refused(status, MB_ERR_FILE, &error, c->says);
            continue;
        }
        if (status != MB_OK)
            fail_msg("container %zu: %s", i, error.message);
        const struct mb_tensor *t = mb_model_tensor_find(model, "a.weight");
        assert_non_null(t);
        assert_true(t->k == 3 && t->n == 2 * c->records && t->ne[1] == 2);
        assert_int_equal(t->dims, c->flags[0] ? 3 : 2);
        assert_true(t->quantizable);
        mb_model_close(model);
    }
    assert_int_equal(remove(path), 0);
}

/* A stack, uniform levels, scales by row and by group, an outlier, all in some 500 bytes. */
static int read_file(const char *path, const void *user)
{
    (void)user;
    return exercise_file(path);
}

static void test_mutations(void **unused)
{
    (void)unused;
    char *data;
    size_t bytes;
    struct mb_model *model = ns_open("tests/fuzz/seeds/codebooks.gguf");
    assert_int_equal(mb_codebook_matrices(model, 0), 2);
    assert_int_equal(mb_model_tensor_find(model, "c.weight")->n, 2);
    mb_model_close(model);
    assert_int_equal(mb_file_read("tests/fuzz/seeds/codebooks.gguf", SIZE_MAX, &data, &bytes, NULL),
                     MB_OK);
    const struct mutations m = {.data = (const uint8_t *)data, .bytes = bytes, .run = read_file};
    assert_int_equal(mutation_try(&m, m.data, m.bytes), 1);
    assert_int_equal(mutation_truncate(&m), 32 - 30); /* the padding at the end */
    mutation_extremes(&m);
    mutation_flips(&m);
    free(data);
}

/* A file with one byte of a tensor changed is opened, and refused when the matrix is packed; a
 * vector is no matrix of codebooks. */
static void test_damaged_model(void **unused)
{
    (void)unused;
    struct mb_model *model = ns_open(EXPERTS_MODEL), *out;
    struct mb_network *network;
    struct mb_error error;
    char path[700], *data;
    size_t bytes;
    (void)snprintf(path, sizeof path, "%s", gb_scratch("damaged.gguf"));
    (void)write_model(model, "packed", 3, NULL, path);
    out = ns_open(path);
    const struct mb_tensor *t = mb_model_tensor_find(out, "blk.1.attn_q.weight");
    const uint8_t *record = t->data;
    struct mb_channelwise c;
    assert_int_equal(mb_blob_read(record, t->bytes, &c, &error), MB_OK);
    const size_t scales = c.bytes.header + c.bytes.map + c.bytes.codes + c.bytes.codebooks;
    const size_t at = (size_t)(record - out->parts[0].mapping.data) + scales;
    mb_channelwise_free(&c);
    mb_model_close(out);
    assert_int_equal(mb_file_read(path, SIZE_MAX, &data, &bytes, NULL), MB_OK);
    memset(data + at, 0xff, 4);
    gb_save_bytes(path, (const uint8_t *)data, bytes);
    free(data);
    out = ns_open(path);
    for (int numerics = MB_NUMERICS_KERNEL; numerics <= MB_NUMERICS_F32; numerics++) {
        check_refused(mb_network_create(out, (enum mb_numerics)numerics, NULL, &network, &error),
                      MB_ERR_FILE, &error, "blk.1.attn_q.weight");
        assert_non_null(strstr(error.message, "top of the scales"));
        assert_int_equal(error.where, scales);
    }
    mb_model_close(out);
    mb_model_close(model);
    assert_int_equal(remove(path), 0);
}

static int teardown(void **unused)
{
    (void)unused;
    return rmdir(gb_scratch(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),      cmocka_unit_test(test_threads_do_not_show),
        cmocka_unit_test(test_mixes),       cmocka_unit_test(test_probes),
        cmocka_unit_test(test_verbs),       cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_interrupted), cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_containers),  cmocka_unit_test(test_damaged_model),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
