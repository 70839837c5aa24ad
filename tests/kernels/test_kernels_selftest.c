/* SPDX-License-Identifier: Apache-2.0 */
/* The harness tested: kernels that are wrong on purpose, each in one way, must be caught; right
 * ones must pass. Every wrong kernel is the reference with one fault, so nothing but the fault can
 * be what is found. */
#include "kernels/harness.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct mb_kernel *right(const char *name)
{
    const struct mb_kernel *kernel = mb_registry_find(name);
    assert_non_null(kernel);
    return kernel;
}

#define GEMV "gemv_b4_g32_i8g32_8x16_reference"
#define GEMV_MIN "gemv_b4_g32x2min_i8g256_8x16_reference"
#define GEMV_B8 "gemv_b8_g32_i8g32_8x16_reference"
#define GEMM "gemm_u8_g32_i8g32_8x16_reference"
#define DECODE "decode_b4_g32_reference"
#define PREPARE "prepare_i8g32_reference"
#define INTEGER "integer_b8_1x16_reference"
#define CODEBOOK "codebook_i8g32_8x16_reference"

static void right_gemv(const struct mb_gemv_args *args) { right(GEMV)->fn.gemv(args); }

/* ---- gemv ---- */

static void gemv_wrong_last_row(const struct mb_gemv_args *args)
{
    right_gemv(args);
    if (args->m > 1)
        args->y[(args->m - 1) * args->y_stride] = args->y[0];
}

static void gemv_skips_row(const struct mb_gemv_args *args)
{
    struct mb_gemv_args fewer = *args;
    fewer.m = args->m > 1 ? args->m - 1 : 1;
    right_gemv(&fewer);
}

static void gemv_writes_one_more(const struct mb_gemv_args *args)
{
    right_gemv(args);
    for (size_t r = 0; r + 1 < args->m; r++)
        if (args->y_stride > args->n)
            args->y[r * args->y_stride + args->n] = 0;
}

static void gemv_writes_past_end(const struct mb_gemv_args *args)
{
    right_gemv(args);
    volatile float *y = args->y;
    y[(args->m - 1) * args->y_stride + args->n] = 0;
}

static void gemv_writes_before(const struct mb_gemv_args *args)
{
    right_gemv(args);
    args->y[-1] = 0;
}

static volatile uint8_t sink;

static void gemv_reads_past_activations(const struct mb_gemv_args *args)
{
    right_gemv(args);
    sink = args->activations[args->m * args->layout->row_bytes];
}

static void gemv_reads_past_panels(const struct mb_gemv_args *args)
{
    right_gemv(args);
    sink = args->panels[(args->n + 15) / 16 * args->panel_bytes];
}

static void gemv_reads_past_bias(const struct mb_gemv_args *args)
{
    right_gemv(args);
    sink = (uint8_t)((volatile const int32_t *)args->bias_sum)[args->m * args->bias_stride];
}

static void gemv_last_bit(const struct mb_gemv_args *args)
{
    right_gemv(args);
    if (args->n > 16)
        args->y[16] = nextafterf(args->y[16], INFINITY);
}

static void gemv_ignores_stride(const struct mb_gemv_args *args)
{
    struct mb_gemv_args packed = *args;
    packed.y_stride = args->n;
    right_gemv(&packed);
}

static void gemv_sometimes(const struct mb_gemv_args *args)
{
    static unsigned calls;
    right_gemv(args);
    if (++calls % 64 == 0)
        args->y[0] += 1;
}

static void gemv_accumulates(const struct mb_gemv_args *args)
{
    static float old[8];
    for (size_t r = 0; r < args->m; r++)
        old[r] = args->y[r * args->y_stride];
    right_gemv(args);
    for (size_t r = 0; r < args->m; r++)
        args->y[r * args->y_stride] += old[r];
}

static void gemv_illegal(const struct mb_gemv_args *args)
{
    if (args->m == 3)
        __builtin_trap();
    right_gemv(args);
}

static void gemv_drops_last_group(const struct mb_gemv_args *args)
{
    struct mb_gemv_args shorter = *args;
    shorter.superblocks = args->superblocks > 1 ? args->superblocks - 1 : 1;
    right_gemv(&shorter);
}

static void gemv_forgets_min(const struct mb_gemv_args *args)
{
    right(GEMV_MIN)->fn.gemv(args);
    for (size_t r = 0; r < args->m; r++) {
        const int8_t *q = (const int8_t *)args->activations + r * args->layout->row_bytes;
        int sum = 0;
        for (size_t k = 0; k < args->layout->padded_k; k++)
            sum += q[k];
        args->y[r * args->y_stride] += (float)sum * 1e-3f;
    }
}

/* What maddubs would do: pairs of products clipped to int16. Wrong for the extremes only. */
static void gemv_saturates(const struct mb_gemv_args *args)
{
    right(GEMV_B8)->fn.gemv(args);
    const int8_t *q = (const int8_t *)args->activations;
    const uint8_t *code = args->panels + mb_superblock_layout(MB_CODING_B8, MB_SCALE_G32).plane8;
    const int pair = code[0] * q[0] + code[1] * q[1];
    if (pair > INT16_MAX || pair < INT16_MIN)
        args->y[0] += 1;
}

/* ---- gemm, decode, prepare ---- */

static void gemm_ignores_first(const struct mb_gemm_args *args)
{
    struct mb_gemm_args other = *args;
    other.first = true;
    right(GEMM)->fn.gemm(&other);
}

static void gemm_ignores_k0(const struct mb_gemm_args *args)
{
    struct mb_gemm_args other = *args;
    other.k0 = 0;
    right(GEMM)->fn.gemm(&other);
}

static void gemm_whole_tiles(const struct mb_gemm_args *args)
{
    struct mb_gemm_args other = *args;
    other.m = args->m < 8 ? args->m : args->m / 8 * 8;
    right(GEMM)->fn.gemm(&other);
}

static void gemm_reads_past_codes(const struct mb_gemm_args *args)
{
    right(GEMM)->fn.gemm(args);
    sink = args->panels[0].code[args->k * 16];
}

static void decode_wrong_scale(const uint8_t *panel, size_t superblocks,
                               const struct mb_decoded *out)
{
    right(DECODE)->fn.decode(panel, superblocks, out);
    out->scale[superblocks * 32 - 1] = -out->scale[superblocks * 32 - 1];
}

static void decode_swaps_nibbles(const uint8_t *panel, size_t superblocks,
                                 const struct mb_decoded *out)
{
    right(DECODE)->fn.decode(panel, superblocks, out);
    const uint8_t last = out->code[superblocks * 1024 - 1];
    out->code[superblocks * 1024 - 1] = out->code[superblocks * 1024 - 65];
    out->code[superblocks * 1024 - 65] = last;
}

static void decode_writes_more(const uint8_t *panel, size_t superblocks,
                               const struct mb_decoded *out)
{
    right(DECODE)->fn.decode(panel, superblocks, out);
    ((volatile uint8_t *)out->code)[superblocks * 1024] = 0;
}

static void decode_reads_more(const uint8_t *panel, size_t superblocks,
                              const struct mb_decoded *out)
{
    right(DECODE)->fn.decode(panel, superblocks, out);
    sink = panel[superblocks * mb_superblock_layout(MB_CODING_B4, MB_SCALE_G32).bytes];
}

static void prepare_rounds_away(const float *x, size_t k, void *row)
{
    right(PREPARE)->fn.prepare(x, k, row);
    int8_t *q = row;
    for (size_t g = 0; g < k; g += 32) {
        float amax = 0;
        for (size_t i = g; i < g + 32; i++)
            amax = fmaxf(amax, fabsf(x[i]));
        for (size_t i = g; i < g + 32 && amax >= 1e-30f && isfinite(amax); i++)
            q[i] = (int8_t)roundf(x[i] * (127.0f / amax));
    }
}

static void prepare_forgets_sums(const float *x, size_t k, void *row)
{
    const struct mb_activation_layout layout = mb_activation_layout(MB_ACTIVATION_I8G32, k);
    right(PREPARE)->fn.prepare(x, k, row);
    memset((uint8_t *)row + layout.sum16, 0, layout.padded_k / 16 * 2);
}

static void prepare_forgets_padding(const float *x, size_t k, void *row)
{
    const struct mb_activation_layout layout = mb_activation_layout(MB_ACTIVATION_I8G32, k);
    right(PREPARE)->fn.prepare(x, k, row);
    memset((uint8_t *)row + k, 1, layout.padded_k - k);
}

static void prepare_reads_more(const float *x, size_t k, void *row)
{
    right(PREPARE)->fn.prepare(x, k, row);
    sink = ((volatile const uint8_t *)x)[4 * k];
}

/* ---- */

/* ---- integer-only ---- */

static void right_integer(const struct mb_integer_args *args) { right(INTEGER)->fn.integer(args); }

static int32_t sum_of(const struct mb_integer_args *args, size_t r, size_t j)
{
    const uint8_t *panel = args->panels + j / 16 * args->panel_bytes;
    const struct mb_integer_header *header = (const struct mb_integer_header *)(const void *)panel;
    int32_t acc = header->start[j % 16];
    for (size_t i = 0; i < args->k; i++)
        acc += (panel[sizeof *header + i / 4 * 64 + j % 16 * 4 + i % 4] - 128) *
               args->x[r * args->x_stride + i];
    return acc;
}

/* Ties away from 0, as two's complement magnitudes would be rounded. */
static void integer_ties_away(const struct mb_integer_args *args)
{
    right_integer(args);
    for (size_t r = 0; r < args->m; r++)
        for (size_t j = 0; j < args->n; j++) {
            const struct mb_integer_header *header =
                (const void *)(args->panels + j / 16 * args->panel_bytes);
            const int32_t acc = sum_of(args, r, j), mantissa = header->mantissa[j % 16];
            const int64_t product = (int64_t)acc * mantissa, half = INT64_C(1)
                                                                    << (header->shift[j % 16] - 1);
            if (product < 0 && -product % (2 * half) == half &&
                args->y[r * args->y_stride + j] > -128)
                args->y[r * args->y_stride + j]--;
        }
}

static void integer_forgets_zero(const struct mb_integer_args *args)
{
    struct mb_integer_args other = *args;
    other.zero = 0;
    right_integer(&other);
}

/* What a sign moved to the activation makes of -128. */
static void integer_wraps_the_least_input(const struct mb_integer_args *args)
{
    static int8_t x[700 * 1100];
    struct mb_integer_args other = *args;
    other.x = x;
    for (size_t i = 0; i < (args->m - 1) * args->x_stride + args->k; i++)
        x[i] = args->x[i] == -128 ? -127 : args->x[i];
    right_integer(&other);
}

static void integer_symmetric(const struct mb_integer_args *args)
{
    right_integer(args);
    for (size_t r = 0; r < args->m; r++)
        for (size_t j = 0; j < args->n; j++)
            if (args->y[r * args->y_stride + j] == -128)
                args->y[r * args->y_stride + j] = -127;
}

static void integer_reads_past_x(const struct mb_integer_args *args)
{
    right_integer(args);
    sink = (uint8_t)((const volatile int8_t *)args->x)[(args->m - 1) * args->x_stride + args->k];
}

static void integer_writes_behind_a_row(const struct mb_integer_args *args)
{
    right_integer(args);
    for (size_t r = 0; r + 1 < args->m; r++)
        if (args->y_stride > args->n)
            args->y[r * args->y_stride + args->n] = 0;
}

static void integer_reads_past_panels(const struct mb_integer_args *args)
{
    right_integer(args);
    sink = args->panels[(args->n + 15) / 16 * args->panel_bytes];
}

/* ---- codebooks ---- */

static const struct mb_codebook_ops *right_codebook(void) { return right(CODEBOOK)->fn.codebook; }

/* Every run has the first one's table. */
static void codebook_takes_the_first_table(const struct mb_codebook_args *args)
{
    struct mb_codebook_run runs[64];
    struct mb_codebook book = *args->book;
    struct mb_codebook_args other = *args;
    memcpy(runs, book.runs, book.run_count * sizeof *runs);
    for (size_t i = 0; i < book.run_count; i++)
        if (!mb_coding_has_column_tables((enum mb_coding)runs[i].coding))
            runs[i].table = runs[0].table;
    book.runs = runs;
    other.book = &book;
    right_codebook()->multiply(&other);
}

/* Columns 4 to 7 of a run have the tables of the first four. */
static void codebook_keeps_columns(const struct mb_codebook_args *args)
{
    uint8_t tables[1 << 16];
    struct mb_codebook book = *args->book;
    struct mb_codebook_args other = *args;
    for (size_t i = 0; i < book.run_count; i++) {
        const struct mb_codebook_run *run = &book.runs[i];
        const enum mb_coding coding = (enum mb_coding)run->coding;
        const size_t each = mb_coding_quad_table(coding);
        const bool by_column = mb_coding_has_column_tables(coding);
        const size_t size = by_column ? run->chunks * MB_CHUNK_K / 4 * each : MB_CODEBOOK_TABLE;
        memcpy(tables + run->table, book.tables + run->table, size);
        if (by_column)
            memcpy(tables + run->table + each, tables + run->table, each);
    }
    book.tables = tables;
    other.book = &book;
    right_codebook()->multiply(&other);
}

/* A chunk's scale is that of the run before it. */
static void codebook_keeps_a_scale(const struct mb_codebook_args *args)
{
    struct mb_codebook_run runs[64];
    struct mb_codebook book = *args->book;
    struct mb_codebook_args other = *args;
    memcpy(runs, book.runs, book.run_count * sizeof *runs);
    runs[book.run_count - 1].scale = runs[0].scale;
    book.runs = runs;
    other.book = &book;
    right_codebook()->multiply(&other);
}

static void codebook_forgets_outliers(const struct mb_codebook_args *args)
{
    struct mb_codebook_args other = *args;
    other.outlier_first = NULL;
    right_codebook()->multiply(&other);
}

/* As sums that saturate would be: one off where all products are as large as they get. */
static void codebook_saturates(const struct mb_codebook_args *args)
{
    const int8_t *q = (const int8_t *)args->activations;
    right_codebook()->multiply(args);
    for (size_t i = 0; i < args->book->k && q[i] == 127; i++)
        if (i + 1 == args->book->k)
            args->y[0] += fabsf(args->y[0]) * 0x1p-20f;
}

static void codebook_reads_past_panels(const struct mb_codebook_args *args)
{
    right_codebook()->multiply(args);
    sink = args->panels[(args->n + 15) / 16 * args->panel_bytes];
}

static void codebook_writes_behind_a_row(const struct mb_codebook_args *args)
{
    right_codebook()->multiply(args);
    for (size_t r = 0; r + 1 < args->m; r++)
        if (args->y_stride > args->n)
            args->y[r * args->y_stride + args->n] = 0;
}

/* The first chunk instead of the one asked for. */
static void codebook_decodes_from_the_start(const struct mb_codebook *book, const uint8_t *panel,
                                            size_t chunk0, size_t chunks,
                                            const struct mb_decoded *out)
{
    (void)chunk0;
    right_codebook()->decode(book, panel, 0, chunks, out);
}

static void codebook_adds_outliers_once(const struct mb_codebook_args *args)
{
    struct mb_codebook_args other = *args;
    other.m = 1;
    right_codebook()->add_outliers(&other);
}

static const struct {
    const char *name, *of;
    mb_gemv_fn gemv;
    mb_gemm_fn gemm;
    mb_decode_fn decode;
    mb_prepare_fn prepare;
    mb_integer_fn integer;
    struct mb_codebook_ops codebook;
} wrong[] = {
    {"takes the last row from the first", GEMV, .gemv = gemv_wrong_last_row},
    {"skips the last row", GEMV, .gemv = gemv_skips_row},
    {"writes one float behind a row", GEMV, .gemv = gemv_writes_one_more},
    {"writes past the end of y", GEMV, .gemv = gemv_writes_past_end},
    {"writes before y", GEMV, .gemv = gemv_writes_before},
    {"reads past the activations", GEMV, .gemv = gemv_reads_past_activations},
    {"reads past the panels", GEMV, .gemv = gemv_reads_past_panels},
    {"reads past the bias sums", GEMV, .gemv = gemv_reads_past_bias},
    {"differs in the last bit of one column", GEMV, .gemv = gemv_last_bit},
    {"ignores y_stride", GEMV, .gemv = gemv_ignores_stride},
    {"is wrong once in 64 calls", GEMV, .gemv = gemv_sometimes},
    {"adds to what y held", GEMV, .gemv = gemv_accumulates},
    {"executes an illegal instruction", GEMV, .gemv = gemv_illegal},
    {"drops the last super-block", GEMV, .gemv = gemv_drops_last_group},
    {"gets the mins wrong", GEMV_MIN, .gemv = gemv_forgets_min},
    {"saturates at the extremes", GEMV_B8, .gemv = gemv_saturates},
    {"ignores `first`", GEMM, .gemm = gemm_ignores_first},
    {"ignores k0", GEMM, .gemm = gemm_ignores_k0},
    {"does whole tiles only", GEMM, .gemm = gemm_whole_tiles},
    {"reads past the decoded codes", GEMM, .gemm = gemm_reads_past_codes},
    {"negates the last scale", DECODE, .decode = decode_wrong_scale},
    {"swaps two codes", DECODE, .decode = decode_swaps_nibbles},
    {"writes past the codes", DECODE, .decode = decode_writes_more},
    {"reads past the panel", DECODE, .decode = decode_reads_more},
    {"rounds halves away from zero", PREPARE, .prepare = prepare_rounds_away},
    {"leaves the sums out", PREPARE, .prepare = prepare_forgets_sums},
    {"leaves rubbish in the padding", PREPARE, .prepare = prepare_forgets_padding},
    {"reads past x", PREPARE, .prepare = prepare_reads_more},
    {"rounds ties away from 0", INTEGER, .integer = integer_ties_away},
    {"forgets the zero point", INTEGER, .integer = integer_forgets_zero},
    {"takes -128 for -127", INTEGER, .integer = integer_wraps_the_least_input},
    {"never gives -128", INTEGER, .integer = integer_symmetric},
    {"reads past x", INTEGER, .integer = integer_reads_past_x},
    {"writes behind a row of bytes", INTEGER, .integer = integer_writes_behind_a_row},
    {"reads past integer panels", INTEGER, .integer = integer_reads_past_panels},
    {"has one table", CODEBOOK, .codebook.multiply = codebook_takes_the_first_table},
    {"stays with columns", CODEBOOK, .codebook.multiply = codebook_keeps_columns},
    {"has one scale too few", CODEBOOK, .codebook.multiply = codebook_keeps_a_scale},
    {"forgets outliers", CODEBOOK, .codebook.multiply = codebook_forgets_outliers},
    {"saturates", CODEBOOK, .codebook.multiply = codebook_saturates},
    {"reads past codebook panels", CODEBOOK, .codebook.multiply = codebook_reads_past_panels},
    {"writes behind a row", CODEBOOK, .codebook.multiply = codebook_writes_behind_a_row},
    {"decodes from the start", CODEBOOK, .codebook.decode = codebook_decodes_from_the_start},
    {"adds outliers to a row", CODEBOOK, .codebook.add_outliers = codebook_adds_outliers_once},
};

static void test_wrong_kernels_are_caught(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        static struct harness harness;
        struct mb_kernel kernel = *right(wrong[i].of);
        struct mb_codebook_ops ops = mb_codebook_reference;
        kernel.name = wrong[i].name;
        if (wrong[i].codebook.multiply != NULL)
            ops.multiply = wrong[i].codebook.multiply;
        if (wrong[i].codebook.decode != NULL)
            ops.decode = wrong[i].codebook.decode;
        if (wrong[i].codebook.add_outliers != NULL)
            ops.add_outliers = wrong[i].codebook.add_outliers;
        if (wrong[i].gemv != NULL)
            kernel.fn.gemv = wrong[i].gemv;
        else if (wrong[i].gemm != NULL)
            kernel.fn.gemm = wrong[i].gemm;
        else if (wrong[i].decode != NULL)
            kernel.fn.decode = wrong[i].decode;
        else if (wrong[i].integer != NULL)
            kernel.fn.integer = wrong[i].integer;
        else if (kernel.op == MB_OP_CODEBOOK)
            kernel.fn.codebook = &ops;
        else
            kernel.fn.prepare = wrong[i].prepare;
        if (harness_check(&harness, &kernel, rng_test_seed()))
            fail_msg("not caught: a kernel that %s", wrong[i].name);
        print_message("caught: %s\n", harness.failure);
        assert_non_null(strstr(harness.failure, wrong[i].name));
    }
}

static void test_right_kernels_pass(void **state)
{
    (void)state;
    static const char *const names[] = {GEMV,   GEMV_MIN, GEMV_B8, GEMM,
                                        DECODE, PREPARE,  INTEGER, CODEBOOK};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        static struct harness harness;
        if (!harness_check(&harness, right(names[i]), rng_test_seed()))
            fail_msg("%s", harness.failure);
    }
}

static void test_bad_descriptors_are_caught(void **state)
{
    (void)state;
    static struct harness harness;
    struct mb_kernel kernel = *right(GEMV);
    kernel.mr = 0;
    assert_false(harness_check(&harness, &kernel, 1));
    kernel = *right(GEMV);
    kernel.nr = 24;
    assert_false(harness_check(&harness, &kernel, 1));
    kernel = *right(GEMV);
    kernel.scale = MB_SCALE_G16X2S6; /* no format pairs b4 with it */
    assert_false(harness_check(&harness, &kernel, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_kernels_pass),
        cmocka_unit_test(test_wrong_kernels_are_caught),
        cmocka_unit_test(test_bad_descriptors_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
