/* SPDX-License-Identifier: Apache-2.0 */
/* What is checked of each operation. Shapes are odd on purpose: every m up to past the tile, n off
 * the panel and the tile, k of one block and of odd multiples. The reference's product of the
 * largest shape is computed once; rows and columns are independent of each other, so every smaller
 * shape must give its corner. */
#include "kernels/harness.h"

#include <math.h>

enum { MAX_PANELS_IN_FLIGHT = 8, MAX_SHAPES = 16 };

struct shapes {
    size_t count, value[MAX_SHAPES];
};

static void add_shape(struct shapes *shapes, size_t value)
{
    for (size_t i = 0; i < shapes->count; i++)
        if (shapes->value[i] == value)
            return;
    if (value > 0 && shapes->count < MAX_SHAPES)
        shapes->value[shapes->count++] = value;
}

static size_t largest(const struct shapes *shapes)
{
    size_t most = 0;
    for (size_t i = 0; i < shapes->count; i++)
        most = shapes->value[i] > most ? shapes->value[i] : most;
    return most;
}

/* Reductions: one block, several, odd multiples; floats have no block, so odd lengths. */
static struct shapes k_shapes(const struct mb_format_info *info)
{
    static const size_t blocks[] = {1, 2, 3, 7}, lengths[] = {1, 3, 64, 257};
    struct shapes shapes = {0};
    for (size_t i = 0; i < 4; i++)
        add_shape(&shapes, info->block_k > 1 ? blocks[i] * info->block_k : lengths[i]);
    if (info->block_k == 32)
        add_shape(&shapes, 37 * 32);
    return shapes;
}

/* Call `check` with data of every k, and of every fill at one k. */
static bool each_data(struct harness *harness, const struct mb_format_info *info, size_t m,
                      size_t n, bool (*check)(struct harness *harness, const struct data *data))
{
    const struct shapes ks = k_shapes(info);
    for (size_t i = 0; i < ks.count; i++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            if ((fill != FILL_RANDOM && i != 2) || (test_is_quick() && i != 0 && i != 2))
                continue;
            harness->at = (struct harness_case){
                .format = info->id, .fill = (enum fill)fill, .m = m, .n = n, .k = ks.value[i]};
            data_create(&harness->data, info, (enum fill)fill, m, n, ks.value[i], harness->seed);
            const bool good = check(harness, &harness->data);
            data_destroy(&harness->data);
            if (!good)
                return false;
        }
    return true;
}

/* Call `check` for every product that the kernel fits (decoding knows no activations: once a
 * format); a kernel that fits none is wrong as well. */
static bool each_product(struct harness *harness, size_t m, size_t n,
                         bool (*check)(struct harness *harness, const struct data *data))
{
    size_t fitting = 0;
    const struct mb_format_info *info;
    for (size_t i = 0; (info = data_product(i)) != NULL; i++) {
        const bool again = harness->kernel->op == MB_OP_DECODE &&
                           info->activation != mb_format_info(info->id)->activation;
        if (again || !mb_kernel_fits(harness->kernel, info))
            continue;
        fitting++;
        if (!each_data(harness, info, m, n, check))
            return false;
    }
    return fitting > 0 || harness_fail(harness, "fits no format");
}

/* y of m rows that ends at a guard page; stride beyond n leaves a gap of canaries between rows. */
static bool check_output(struct harness *harness, const struct guard *guard, const float *y,
                         size_t m, size_t n, size_t stride)
{
    const size_t bytes = ((m - 1) * stride + n) * sizeof(float);
    if (!guard_left_intact(guard, bytes))
        return harness_fail(harness, "wrote before y");
    for (size_t r = 0; r + 1 < m; r++)
        if (!guard_is_canary(y + r * stride + n, (stride - n) * sizeof(float)))
            return harness_fail(harness, "wrote behind row %zu of y", r);
    return true;
}

/* ---- gemv ---- */

struct gemv_guards {
    struct guard panels, activations, bias, y;
};

static bool run_gemv(struct harness *harness, const struct data *data,
                     const struct gemv_guards *guards, size_t m, size_t first, size_t n)
{
    const size_t stride = n + (m + n) % 4 * 3, panels = (n + 15) / 16;
    const size_t bytes = ((m - 1) * stride + n) * sizeof(float);
    harness->at.m = m;
    harness->at.n = n;
    const struct mb_gemv_args args = {
        .panels = guard_copy(&guards->panels, data->panels + first * data->panel_bytes,
                             panels * data->panel_bytes),
        .panel_bytes = data->panel_bytes,
        .superblocks = data->superblocks,
        .n = n,
        .activations =
            guard_copy(&guards->activations, data->activations, m * data->layout.row_bytes),
        .layout = &data->layout,
        .bias_sum = data->groups == 0
                        ? NULL
                        : guard_copy(&guards->bias, data->bias_sum, m * data->groups * 4),
        .bias_stride = data->groups,
        .m = m,
        .y = guard_output(&guards->y, bytes),
        .y_stride = stride,
    };
    for (int run = 0; run < 2; run++) {
        harness->at.what = run == 0 ? first == 0 ? NULL : "from the second panel" : "second run";
        harness->kernel->fn.gemv(&args);
        if (!check_output(harness, &guards->y, args.y, m, n, stride) ||
            !harness_compare(harness, args.y, stride, data->expected + first * 16, data->n, m, n))
            return false;
    }
    return true;
}

static struct shapes n_shapes(size_t nr)
{
    static const size_t fixed[] = {1, 15, 16, 17, 33, 48};
    struct shapes shapes = {0};
    for (size_t i = 0; i < (test_is_quick() ? 1 : sizeof fixed / sizeof *fixed); i++)
        add_shape(&shapes, fixed[i]);
    add_shape(&shapes, test_is_quick() ? 0 : nr);
    add_shape(&shapes, nr + 1);
    add_shape(&shapes, 2 * nr + 17);
    return shapes;
}

static bool check_gemv_data(struct harness *harness, const struct data *data)
{
    const struct gemv_guards guards = {
        guard_create((data->n + 15) / 16 * data->panel_bytes),
        guard_create(data->m * data->layout.row_bytes),
        guard_create(data->m * data->groups * 4),
        guard_create(data->m * (data->n + 16) * sizeof(float)),
    };
    const struct shapes ns = n_shapes(harness->kernel->nr);
    bool good = true;
    for (size_t i = 0; good && i < ns.count; i++)
        for (size_t m = 1; good && m <= harness->kernel->mr; m++) {
            good = run_gemv(harness, data, &guards, m, 0, ns.value[i]);
            if (good && ns.value[i] > 16)
                good = run_gemv(harness, data, &guards, m, 1, ns.value[i] - 16);
        }
    struct guard all[] = {guards.panels, guards.activations, guards.bias, guards.y};
    for (size_t i = 0; i < 4; i++)
        guard_destroy(&all[i]);
    return good;
}

/* ---- decode, and the decoded panels that gemm reads ---- */

enum { DECODED_ARRAYS = 5 };

/* Bytes of the arrays of struct mb_decoded for one super-block, in the order of the struct. */
static void decoded_bytes(const struct mb_format_info *info, size_t bytes[DECODED_ARRAYS])
{
    const size_t k = mb_scale_superblock_k(info->scale);
    const bool floats = mb_coding_is_float(info->coding), two = mb_scale_two_level(info->scale);
    const bool min = mb_scale_has_min(info->scale);
    const size_t groups = k / mb_scale_group(info->scale);
    bytes[0] = floats ? 0 : k * 16;
    bytes[1] = groups * 64;
    bytes[2] = two ? 64 : 0;
    bytes[3] = !min ? 0 : two ? 64 : groups * 64;
    bytes[4] = min && two ? groups / 2 * 64 : 0;
}

/* Kernels with signed_codes keep code - 128, which is the top bit flipped. */
static void make_signed(const struct mb_kernel *kernel, uint8_t *code, size_t bytes)
{
    for (size_t i = 0; kernel->signed_codes && i < bytes; i++)
        code[i] ^= 0x80;
}

static struct mb_decoded as_decoded(void *const part[DECODED_ARRAYS])
{
    return (struct mb_decoded){part[0], part[1], part[2], part[3], part[4]};
}

static bool run_decode(struct harness *harness, const struct data *data, size_t first,
                       size_t superblocks)
{
    static const char *const names[DECODED_ARRAYS] = {"code", "scale", "d", "min", "min_pairs"};
    const size_t block_bytes = mb_superblock_layout(data->info->coding, data->info->scale).bytes;
    size_t bytes[DECODED_ARRAYS];
    struct guard source = guard_create(superblocks * block_bytes), got[DECODED_ARRAYS],
                 want[DECODED_ARRAYS];
    void *got_at[DECODED_ARRAYS], *want_at[DECODED_ARRAYS];
    decoded_bytes(data->info, bytes);
    for (size_t i = 0; i < DECODED_ARRAYS; i++) {
        got[i] = guard_create(superblocks * bytes[i]);
        want[i] = guard_create(superblocks * bytes[i]);
        got_at[i] = guard_output(&got[i], superblocks * bytes[i]);
        want_at[i] = guard_output(&want[i], superblocks * bytes[i]);
    }
    const uint8_t *panel =
        guard_copy(&source, data->panels + first * block_bytes, superblocks * block_bytes);
    const struct mb_decoded out = as_decoded(got_at), expected = as_decoded(want_at);
    data_reference(MB_OP_DECODE, data->info)->fn.decode(panel, superblocks, &expected);
    make_signed(harness->kernel, expected.code, superblocks * bytes[0]);
    bool good = true;
    for (int run = 0; good && run < 2; run++) {
        harness->at.what = run == 0 ? NULL : "second run";
        harness->kernel->fn.decode(panel, superblocks, &out);
        for (size_t i = 0; good && i < DECODED_ARRAYS; i++) {
            if (!guard_left_intact(&got[i], superblocks * bytes[i]))
                good = harness_fail(harness, "wrote before %s", names[i]);
            else if (memcmp(got_at[i], want_at[i], superblocks * bytes[i]) != 0)
                good = harness_fail(harness, "%s differs", names[i]);
        }
    }
    guard_destroy(&source);
    for (size_t i = 0; i < DECODED_ARRAYS; i++) {
        guard_destroy(&got[i]);
        guard_destroy(&want[i]);
    }
    return good;
}

static bool check_decode_data(struct harness *harness, const struct data *data)
{
    for (size_t first = 0; first < data->superblocks; first += first < 3 ? 1 : 16)
        for (size_t count = 1; first + count <= data->superblocks; count += count < 5 ? 1 : 32) {
            harness->at.m = 0;
            if (!run_decode(harness, data, first, count))
                return false;
        }
    return true;
}

/* ---- gemm ---- */

/* What gemm reads of one super-block. */
static void gemm_bytes(const struct mb_format_info *info, size_t bytes[DECODED_ARRAYS])
{
    decoded_bytes(info, bytes);
    if (info->activation != MB_ACTIVATION_BF16)
        return;
    bytes[0] = mb_superblock_layout(info->coding, info->scale).bytes;
    bytes[1] = 0;
}

struct gemm_guards {
    struct guard parts[MAX_PANELS_IN_FLIGHT][DECODED_ARRAYS], activations, bias, y;
    struct mb_decoded panels[MAX_PANELS_IN_FLIGHT];
};

/* Decode super-blocks [first, first + count) of each panel so that every array ends at its guard
 * page; bf16 pairs stand there as they are. Panels beyond n hold NaN, as stale workspace may. */
static void place_panels(const struct mb_kernel *kernel, struct gemm_guards *guards,
                         const struct data *data, size_t panels, size_t first, size_t count)
{
    const size_t block_bytes = mb_superblock_layout(data->info->coding, data->info->scale).bytes;
    size_t bytes[DECODED_ARRAYS];
    gemm_bytes(data->info, bytes);
    for (size_t p = 0; p < panels; p++) {
        void *part[DECODED_ARRAYS];
        for (size_t i = 0; i < DECODED_ARRAYS; i++)
            part[i] =
                memset(guard_at(&guards->parts[p][i], count * bytes[i]), 0xff, count * bytes[i]);
        guards->panels[p] = as_decoded(part);
        if (p >= (data->n + 15) / 16)
            continue;
        if (kernel->activation == MB_ACTIVATION_BF16) {
            memcpy(guards->panels[p].code,
                   data->panels + p * data->panel_bytes + first * block_bytes, count * block_bytes);
            continue;
        }
        data_reference(MB_OP_DECODE, data->info)
            ->fn.decode(data->panels + p * data->panel_bytes + first * block_bytes, count,
                        &guards->panels[p]);
        make_signed(kernel, guards->panels[p].code, count * bytes[0]);
    }
}

/* The product in runs of at most `run` super-blocks. */
static bool run_gemm(struct harness *harness, const struct data *data, struct gemm_guards *guards,
                     size_t m, size_t n, size_t run)
{
    const size_t stride = n + (m + n) % 4 * 3, bytes = ((m - 1) * stride + n) * sizeof(float);
    const size_t block_k = mb_scale_superblock_k(data->info->scale),
                 panels = harness->kernel->nr / 16;
    harness->at.m = m;
    harness->at.n = n;
    harness->at.what = run < data->superblocks ? "in several runs of k" : NULL;
    float *y = guard_output(&guards->y, bytes);
    for (size_t at = 0; at < data->superblocks; at += run) {
        const size_t count = data->superblocks - at < run ? data->superblocks - at : run;
        if (at > 0 || run < data->superblocks)
            place_panels(harness->kernel, guards, data, panels, at, count);
        const struct mb_gemm_args args = {
            .panels = guards->panels,
            .k0 = at * block_k,
            .k = count * block_k,
            .activations =
                guard_copy(&guards->activations, data->activations, m * data->layout.row_bytes),
            .layout = &data->layout,
            .bias_sum = data->groups == 0 || harness->kernel->signed_codes
                            ? NULL
                            : guard_copy(&guards->bias, data->bias_sum, m * data->groups * 4),
            .bias_stride = data->groups,
            .m = m,
            .y = y,
            .y_stride = stride,
            .n = n,
            .first = at == 0,
        };
        harness->kernel->fn.gemm(&args);
    }
    return check_output(harness, &guards->y, y, m, n, stride) &&
           harness_compare(harness, y, stride, data->expected, data->n, m, n);
}

static bool check_gemm_shapes(struct harness *harness, const struct data *data,
                              struct gemm_guards *guards)
{
    const size_t nr = harness->kernel->nr;
    const size_t edges[] = {nr, nr - 1, 1, 15, 16, 17, nr - 16, nr - 15};
    struct shapes ns = {0};
    for (size_t i = 0; i < (test_is_quick() ? 2 : sizeof edges / sizeof *edges); i++)
        add_shape(&ns, edges[i] <= nr ? edges[i] : 0);
    place_panels(harness->kernel, guards, data, nr / 16, 0, data->superblocks);
    for (int run = 0; run < 2; run++) /* twice: the same bits */
        for (size_t i = 0; i < ns.count; i++)
            for (size_t m = 1; m <= data->m; m++)
                if (!run_gemm(harness, data, guards, m, ns.value[i], data->superblocks))
                    return false;
    const size_t step = mb_run_step(data->info->scale, data->info->activation) /
                        mb_scale_superblock_k(data->info->scale);
    for (size_t split = step; split < data->superblocks && split < 4 * step; split += step)
        if (data->superblocks / split < 64) /* floats: a super-block is one or two k */
            if (!run_gemm(harness, data, guards, data->m, nr, split) ||
                !run_gemm(harness, data, guards, 1, 1, split))
                return false;
    if (data->superblocks >= 64 && step == 1)
        return run_gemm(harness, data, guards, data->m, nr, data->superblocks / 3 | 1);
    return true;
}

static bool check_gemm_data(struct harness *harness, const struct data *data)
{
    const size_t panels = harness->kernel->nr / 16;
    size_t bytes[DECODED_ARRAYS];
    struct gemm_guards guards = {.activations = guard_create(data->m * data->layout.row_bytes),
                                 .bias = guard_create(data->m * data->groups * 4),
                                 .y = guard_create(data->m * (data->n + 16) * sizeof(float))};
    gemm_bytes(data->info, bytes);
    for (size_t p = 0; p < panels; p++)
        for (size_t i = 0; i < DECODED_ARRAYS; i++)
            guards.parts[p][i] = guard_create(data->superblocks * bytes[i]);
    const bool good = check_gemm_shapes(harness, data, &guards);
    for (size_t p = 0; p < panels; p++)
        for (size_t i = 0; i < DECODED_ARRAYS; i++)
            guard_destroy(&guards.parts[p][i]);
    guard_destroy(&guards.activations);
    guard_destroy(&guards.bias);
    guard_destroy(&guards.y);
    return good;
}

/* ---- prepare ---- */

enum prepare_fill {
    GAUSS,
    ZEROS,
    SUBNORMAL,
    SMALLEST,
    LARGEST,
    TIES,
    OUTLIER,
    NOT_FINITE,
    PREPARE_FILLS
};

static float prepare_value(enum prepare_fill fill, size_t i, struct rng *rng)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, 1.0f, 3e38f};
    switch (fill) {
    case ZEROS: return i % 2 == 0 ? 0.0f : -0.0f;
    case SUBNORMAL: return rng_gauss(rng) * 1e-41f;
    case SMALLEST:
        return rng_gauss(rng) * 0x1p-121f; /* around the limit that kernel.h sets for 127 / amax */
    case LARGEST: return (rng_below(rng, 2) == 0 ? 1.0f : -1.0f) * 3.4028235e38f;
    case TIES: return i % 16 == 0 ? 127.0f : (float)((int)rng_below(rng, 253) - 126) + 0.5f;
    case OUTLIER: return i % 97 == 5 ? 1e4f : rng_gauss(rng);
    case NOT_FINITE: return odd[rng_below(rng, sizeof odd / sizeof *odd)];
    default: return rng_gauss(rng);
    }
}

/* The fields of two records; what pads a record to its length is nobody's. */
static bool compare_records(struct harness *harness, const struct mb_activation_layout *layout,
                            const uint8_t *got, const uint8_t *want)
{
    const enum mb_activation type = harness->kernel->activation;
    const size_t padded = layout->padded_k, group = mb_activation_group(type);
    const struct {
        const char *name;
        size_t at, bytes;
    } fields[] = {
        {"x", 0, type == MB_ACTIVATION_F32 ? padded * 4 : 0},
        {"bf16 x", 0, type == MB_ACTIVATION_BF16 ? padded * 2 : 0},
        {"q", 0, group == 0 ? 0 : padded},
        {"scale", layout->scale, group == 0 ? 0 : padded / group * 4},
        {"scaled_sum", layout->scaled_sum, type == MB_ACTIVATION_I8G32 ? padded / 32 * 4 : 0},
        {"sum32", layout->sum32, group == 0 ? 0 : padded / 32 * 2},
        {"sum16", layout->sum16, group == 0 ? 0 : padded / 16 * 2},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        for (size_t b = 0; b < fields[i].bytes; b++)
            if (got[fields[i].at + b] != want[fields[i].at + b])
                return harness_fail(harness, "%s differs at byte %zu: %d, expected %d",
                                    fields[i].name, b, got[fields[i].at + b],
                                    want[fields[i].at + b]);
    return true;
}

static bool run_prepare(struct harness *harness, enum prepare_fill fill, size_t k,
                        mb_prepare_fn reference)
{
    static const char *const names[PREPARE_FILLS] = {"Gaussian x", "zero x",          "subnormal x",
                                                     "smallest x", "largest x",       "ties",
                                                     "an outlier", "NaN and infinity"};
    const struct mb_activation_layout layout = mb_activation_layout(harness->kernel->activation, k);
    struct rng rng = rng_seed(harness->seed ^ k ^ (uint64_t)fill << 40);
    struct guard x_guard = guard_create(k * 4), got = guard_create(layout.row_bytes),
                 want = guard_create(layout.row_bytes);
    float *x = guard_at(&x_guard, k * 4);
    for (size_t i = 0; i < k; i++)
        x[i] = prepare_value(fill, i, &rng);
    harness->at =
        (struct harness_case){.format = MB_FORMAT_NONE, .m = 1, .k = k, .what = names[fill]};
    bool good = true;
    for (int run = 0; good && run < 2; run++) {
        uint8_t *row = guard_output(&got, layout.row_bytes),
                *expected = guard_output(&want, layout.row_bytes);
        harness->kernel->fn.prepare(x, k, row);
        reference(x, k, expected);
        if (!guard_left_intact(&got, layout.row_bytes))
            good = harness_fail(harness, "wrote before the row");
        else if (fill != NOT_FINITE) /* any record will do, as long as nothing traps */
            good = compare_records(harness, &layout, row, expected);
    }
    guard_destroy(&x_guard);
    guard_destroy(&got);
    guard_destroy(&want);
    return good;
}

bool harness_check_prepare(struct harness *harness)
{
    static const size_t blocks[] = {1, 2, 3, 4, 5, 7, 8, 9, 17, 33},
                        lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 100, 1000};
    const enum mb_activation type = harness->kernel->activation;
    const size_t block = mb_activation_group(type) > 0 ? 32 : 0; /* the last group may be short */
    mb_prepare_fn reference = NULL;
    const struct mb_format_info *info;
    for (size_t i = 0; reference == NULL && (info = data_product(i)) != NULL; i++)
        if (info->activation == type)
            reference = data_reference(MB_OP_PREPARE, info)->fn.prepare;
    if (reference == NULL)
        return harness_fail(harness, "no product reads its activations");
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (int fill = 0; fill < PREPARE_FILLS; fill++)
            if (!run_prepare(harness, (enum prepare_fill)fill,
                             block > 0 ? blocks[i] * block : lengths[i], reference))
                return false;
    return true;
}

/* ---- entry points ---- */

bool harness_check_decode(struct harness *harness)
{
    return each_product(harness, 1, 16, check_decode_data);
}

static bool tile_is_sound(struct harness *harness)
{
    const struct mb_kernel *kernel = harness->kernel;
    if (kernel->mr == 0 || kernel->nr == 0 || kernel->nr % 16 != 0 ||
        kernel->nr / 16 > MAX_PANELS_IN_FLIGHT)
        return harness_fail(harness, "tile %ux%u: nr must be 16 to 128, a multiple of 16",
                            kernel->mr, kernel->nr);
    return true;
}

bool harness_check_gemv(struct harness *harness)
{
    const struct shapes ns = n_shapes(harness->kernel->nr);
    return tile_is_sound(harness) &&
           each_product(harness, harness->kernel->mr, largest(&ns), check_gemv_data);
}

bool harness_check_gemm(struct harness *harness)
{
    return tile_is_sound(harness) &&
           each_product(harness, 2 * harness->kernel->mr + 1, harness->kernel->nr, check_gemm_data);
}
