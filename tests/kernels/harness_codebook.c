/* SPDX-License-Identifier: Apache-2.0 */
/* What is checked of kernels for codebook matrices: every m up to the tile, n off the panel, runs
 * of every width in changing order and length, parts of them decoded, levels and activations at
 * their largest, odd scales, and what is kept beside the codes. */
#include "kernels/harness.h"

#include "kernels/half.h"

enum { PANELS = 6, MOST_N = 16 * PANELS - 11, RUNS = 18, MOST_CHUNKS = 80, OUTLIERS = 90 };

struct codebook_case {
    size_t m, n;
    enum fill fill;
    struct mb_codebook book;
    struct mb_codebook_run runs[RUNS];
    uint8_t *tables;
    size_t table_bytes;
    size_t panel_bytes;
    uint8_t *panels, *activations;
    struct mb_activation_layout layout;
    int32_t *bias;
    struct mb_codebook_outlier outliers[OUTLIERS];
    uint32_t outlier_first[PANELS + 1];
    float *x, *expected;
};

struct codebook_guards {
    struct guard panels, activations, bias, x, y, code, scale;
};

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (memory == NULL)
        abort();
    return memset(memory, 0, bytes);
}

/* All codings, some of them twice; pairs of runs share their 64 bytes of scales. Every other time a
 * width comes again it has the run before's table where that is of the same width. */
static void make_runs(struct codebook_case *c, bool by_column, struct rng *rng)
{
    static const enum mb_coding all[] = {
        MB_CODING_CC1, MB_CODING_CC2, MB_CODING_CC3, MB_CODING_CC4, MB_CODING_B8,
        MB_CODING_CB1, MB_CODING_CB2, MB_CODING_CB3, MB_CODING_CB4, MB_CODING_CB5,
    };
    const size_t count = by_column ? 5 : sizeof all / sizeof *all;
    uint32_t at = 0, chunk = 0, pair = 0, table = 0;
    for (size_t i = 0; i < RUNS; i++) {
        const unsigned before = i > 0 ? c->runs[i - 1].coding : MB_CODING_B8;
        const bool again =
            i > count && i % 2 == 1 && before >= MB_CODING_CB1 && before <= MB_CODING_CB5;
        const enum mb_coding coding =
            again ? (enum mb_coding)before : all[i < count ? i : rng_below(rng, count)];
        if (i % 2 == 0) {
            pair = at;
            at += MB_CODEBOOK_SCALES;
        }
        c->runs[i] = (struct mb_codebook_run){.scale = pair + (uint32_t)(i % 2) * 32,
                                              .codes = at,
                                              .chunk = chunk,
                                              .chunks = 1 + (uint32_t)rng_below(rng, 4),
                                              .table = again ? c->runs[i - 1].table : table,
                                              .coding = (uint16_t)coding,
                                              .bits = (uint16_t)mb_coding_bits(coding)};
        chunk += c->runs[i].chunks;
        table += mb_coding_has_column_tables(coding)
                     ? c->runs[i].chunks * MB_CHUNK_K / 4 * mb_coding_quad_table(coding)
                     : 64;
        at += c->runs[i].chunks * mb_superblock_layout(coding, MB_SCALE_G32).chunk_bytes;
    }
    c->panel_bytes = at;
    c->table_bytes = table;
    c->tables = allocate(table);
    c->book = (struct mb_codebook){c->runs, RUNS, c->tables, (size_t)chunk * MB_CHUNK_K, by_column};
}

/* What a code stands for is within 127 of 128, of 3 bits within 63, of fewer within 31. */
static uint8_t make_level(enum fill fill, unsigned bits, struct rng *rng)
{
    const unsigned most = bits < 3 ? 31 : bits == 3 ? 63 : 127;
    const unsigned random = 128 - most + (unsigned)rng_below(rng, 2 * most + 1);
    switch (fill) {
    case FILL_MAX_PLUS:
    case FILL_MAX_MINUS: return (uint8_t)(128 + most);
    case FILL_MAX_MIXED: return (uint8_t)(random < 128 ? 128 - most : 128 + most);
    case FILL_ZERO_CODES: return 128;
    default: return (uint8_t)random;
    }
}

/* The table that starts at a byte is that of the last run which does. */
static void make_tables(struct codebook_case *c, struct rng *rng)
{
    for (size_t r = 0; r < RUNS; r++) {
        const size_t end = r + 1 < RUNS ? c->runs[r + 1].table : c->table_bytes;
        for (size_t i = c->runs[r].table; i < (end > c->runs[r].table ? end : c->table_bytes); i++)
            c->tables[i] = make_level(c->fill, c->runs[r].bits, rng);
    }
}

static uint16_t make_scale(enum fill fill, struct rng *rng)
{
    static const uint16_t odd[] = {0, 0x8000, 1, 0x03ff, 0x8001, 0x7bff, 0xbc00, 0x3c00};
    return fill == FILL_ODD_SCALES ? odd[rng_below(rng, 8)]
                                   : mb_half_from_float(0.01f + (float)rng_below(rng, 999) / 512);
}

static void make_panels(struct codebook_case *c, struct rng *rng)
{
    uint8_t code[MOST_CHUNKS * MB_CHUNK_K];
    c->panels = allocate(PANELS * c->panel_bytes);
    make_tables(c, rng);
    for (size_t row = 0; row < 16 * PANELS; row++) {
        uint8_t *panel = c->panels + row / 16 * c->panel_bytes, *to = code;
        for (size_t i = 0; i < RUNS; i++) {
            mb_codebook_pack_scale(panel + c->runs[i].scale, row % 16, make_scale(c->fill, rng));
            for (size_t j = 0; j < c->runs[i].chunks * MB_CHUNK_K; j++)
                *to++ = c->runs[i].coding == MB_CODING_B8
                            ? make_level(c->fill, 8, rng)
                            : (uint8_t)rng_below(rng, (size_t)1 << c->runs[i].bits);
        }
        mb_codebook_pack_lane(&c->book, panel, row % 16, code);
    }
}

static void make_activations(struct codebook_case *c, struct rng *rng)
{
    const size_t k = c->book.k, chunks = k / MB_CHUNK_K;
    c->layout = mb_activation_layout(MB_ACTIVATION_I8G32, k);
    c->x = allocate(c->m * k * sizeof(float));
    c->activations = allocate(c->m * c->layout.row_bytes);
    c->bias = allocate(c->m * chunks * sizeof(int32_t));
    data_make_activations(c->fill, c->m, k, rng, c->x);
    for (size_t r = 0; r < c->m; r++) {
        uint8_t *record = c->activations + r * c->layout.row_bytes;
        mb_registry_find("prepare_i8g32_reference")->fn.prepare(c->x + r * k, k, record);
        for (size_t i = 0; i < k; i++)
            c->bias[r * chunks + i / MB_CHUNK_K] -= 128 * (int8_t)record[i];
    }
}

static void make_outliers(struct codebook_case *c, struct rng *rng)
{
    for (size_t p = 0, i = 0; p < PANELS; p++) {
        c->outlier_first[p] = (uint32_t)i;
        for (; i < OUTLIERS * (p + 1) / PANELS; i++)
            c->outliers[i] = (struct mb_codebook_outlier){(uint32_t)rng_below(rng, 16 * c->book.k),
                                                          rng_gauss(rng)};
        c->outlier_first[p + 1] = (uint32_t)i;
    }
}

static struct mb_codebook_args args_of(const struct codebook_case *c)
{
    return (struct mb_codebook_args){.book = &c->book,
                                     .panels = c->panels,
                                     .panel_bytes = c->panel_bytes,
                                     .n = c->n,
                                     .m = c->m,
                                     .activations = c->activations,
                                     .layout = &c->layout,
                                     .bias_sum = c->bias,
                                     .bias_stride = c->book.k / MB_CHUNK_K,
                                     .outliers = c->outliers,
                                     .outlier_first = c->outlier_first,
                                     .x = c->x,
                                     .x_stride = c->book.k,
                                     .y = c->expected,
                                     .y_stride = c->n};
}

static void create(struct codebook_case *c, size_t m, enum fill fill, bool by_column, uint64_t seed)
{
    struct rng rng = rng_seed(seed + (uint64_t)fill);
    *c = (struct codebook_case){.m = m, .n = MOST_N, .fill = fill};
    make_runs(c, by_column, &rng);
    make_panels(c, &rng);
    make_activations(c, &rng);
    make_outliers(c, &rng);
    c->expected = allocate(c->m * c->n * sizeof(float));
    const struct mb_codebook_args args = args_of(c);
    mb_codebook_reference.multiply(&args);
}

static void destroy(struct codebook_case *c)
{
    free(c->tables);
    free(c->panels);
    free(c->activations);
    free(c->bias);
    free(c->x);
    free(c->expected);
    *c = (struct codebook_case){.panels = NULL};
}

static bool check_output(struct harness *harness, const struct codebook_case *c,
                         const struct guard *guard, const float *y, size_t m, size_t n,
                         size_t stride)
{
    if (!guard_left_intact(guard, ((m - 1) * stride + n) * sizeof *y))
        return harness_fail(harness, "wrote before y");
    for (size_t r = 0; r + 1 < m; r++)
        if (!guard_is_canary(y + r * stride + n, (stride - n) * sizeof *y))
            return harness_fail(harness, "wrote behind row %zu of y", r);
    return harness_compare(harness, y, stride, c->expected, c->n, m, n);
}

/* The first m rows and n columns, every operand ending at a guard page. */
static bool multiply(struct harness *harness, const struct codebook_case *c,
                     const struct codebook_guards *g, size_t m, size_t n)
{
    const size_t stride = n + (m + n) % 4 * 3, chunks = c->book.k / MB_CHUNK_K;
    harness->at = (struct harness_case){
        .format = MB_FORMAT_NONE, .fill = c->fill, .m = m, .n = n, .k = c->book.k};
    struct mb_codebook_args args = args_of(c);
    args.m = m;
    args.n = n;
    args.panels = guard_copy(&g->panels, c->panels, (n + 15) / 16 * c->panel_bytes);
    args.activations = guard_copy(&g->activations, c->activations, m * c->layout.row_bytes);
    args.bias_sum = guard_copy(&g->bias, c->bias, m * chunks * sizeof *c->bias);
    args.x = guard_copy(&g->x, c->x, m * c->book.k * sizeof *c->x);
    args.y = guard_output(&g->y, ((m - 1) * stride + n) * sizeof *args.y);
    args.y_stride = stride;
    harness->kernel->fn.codebook->multiply(&args);
    return check_output(harness, c, &g->y, args.y, m, n, stride);
}

/* Outliers on top of what the reference makes without them. */
static bool add_outliers(struct harness *harness, const struct codebook_case *c,
                         const struct codebook_guards *g, size_t m, size_t n)
{
    harness->at = (struct harness_case){.format = MB_FORMAT_NONE,
                                        .fill = c->fill,
                                        .m = m,
                                        .n = n,
                                        .k = c->book.k,
                                        .what = "outliers"};
    struct mb_codebook_args args = args_of(c);
    args.m = m;
    args.n = n;
    args.x = guard_copy(&g->x, c->x, m * c->book.k * sizeof *c->x);
    args.y = guard_output(&g->y, m * n * sizeof *args.y);
    args.y_stride = n;
    args.outlier_first = NULL;
    mb_codebook_reference.multiply(&args);
    args.outlier_first = c->outlier_first;
    harness->kernel->fn.codebook->add_outliers(&args);
    return check_output(harness, c, &g->y, args.y, m, n, n);
}

/* Chunks [chunk0, chunk0 + chunks) of the last panel. */
static bool decode(struct harness *harness, const struct codebook_case *c,
                   const struct codebook_guards *g, size_t chunk0, size_t chunks)
{
    const size_t codes = chunks * MB_CHUNK_K * 16, scales = chunks * 16;
    struct mb_decoded right = {.code = allocate(codes), .scale = allocate(scales * sizeof(float))};
    struct mb_decoded out = {.code = guard_output(&g->code, codes),
                             .scale = guard_output(&g->scale, scales * sizeof(float))};
    harness->at = (struct harness_case){.format = MB_FORMAT_NONE,
                                        .fill = c->fill,
                                        .n = chunk0,
                                        .k = chunks * MB_CHUNK_K,
                                        .what = "decoded from chunk n"};
    const uint8_t *panel = c->panels + (PANELS - 1) * c->panel_bytes;
    mb_codebook_reference.decode(&c->book, panel, chunk0, chunks, &right);
    panel = guard_copy(&g->panels, panel, c->panel_bytes);
    harness->kernel->fn.codebook->decode(&c->book, panel, chunk0, chunks, &out);
    bool good =
        guard_left_intact(&g->code, codes) && guard_left_intact(&g->scale, scales * sizeof(float));
    if (!good)
        harness_fail(harness, "wrote before its output");
    for (size_t i = 0; i < codes && good; i++)
        if ((out.code[i] ^ (harness->kernel->signed_codes ? 0x80 : 0)) != right.code[i])
            good =
                harness_fail(harness, "code %zu is %d, expected %d", i, out.code[i], right.code[i]);
    if (good && memcmp(out.scale, right.scale, scales * sizeof(float)) != 0)
        good = harness_fail(harness, "scales differ");
    free(right.code);
    free(right.scale);
    return good;
}

static bool check_case(struct harness *harness, const struct codebook_case *c,
                       const struct codebook_guards *g)
{
    const size_t chunks = c->book.k / MB_CHUNK_K, mr = harness->kernel->mr;
    bool good = true;
    for (size_t m = 1; m <= mr && good; m++)
        good = multiply(harness, c, g, m, m % 2 ? c->n : 1 + 7 * m % c->n);
    for (size_t n = 1; n <= c->n && good && c->fill == FILL_RANDOM && !test_is_quick(); n++)
        good = multiply(harness, c, g, n % 3 ? 1 : mr, n);
    good = good && add_outliers(harness, c, g, c->m, c->n) &&
           add_outliers(harness, c, g, 1, c->n / 16 * 16);
    for (size_t chunk = 0; chunk < chunks && good; chunk++)
        good = decode(harness, c, g, chunk, 1 + chunk % (chunks - chunk));
    return good && decode(harness, c, g, 0, chunks);
}

bool harness_check_codebook(struct harness *harness)
{
    static struct codebook_case c; /* outlives a jump out of the check */
    destroy(&c);
    const size_t m = 2 * harness->kernel->mr + 1, k = MOST_CHUNKS * MB_CHUNK_K;
    bool good = true;
    for (int fill = 0; fill < FILL_COUNT && good; fill++)
        for (uint64_t round = 0; round < 4 && good; round++) {
            create(&c, m, (enum fill)fill, round % 2, harness->seed + 100 * round);
            struct codebook_guards g = {
                .panels = guard_create(PANELS * c.panel_bytes),
                .activations = guard_create(m * c.layout.row_bytes),
                .bias = guard_create(m * c.book.k / 8),
                .x = guard_create(m * c.book.k * sizeof(float)),
                .y = guard_create(m * (c.n + 10) * sizeof(float)),
                .code = guard_create(k * 16),
                .scale = guard_create(k / 32 * 16 * sizeof(float)),
            };
            good = check_case(harness, &c, &g);
            struct guard *all[] = {&g.panels, &g.activations, &g.bias, &g.x,
                                   &g.y,      &g.code,        &g.scale};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                guard_destroy(all[i]);
            destroy(&c);
            if (test_is_quick() && round % 2)
                break;
        }
    return good;
}
