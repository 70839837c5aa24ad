/* SPDX-License-Identifier: Apache-2.0 */
/* Inputs for the harness: rows built from chosen codes and scales (never from an encoder, which
 * would not produce the extremes), and the reference's product of them. */
#include "kernels/harness.h"

#include "kernels/half.h"
#include "support/memory.h"

#include <math.h>

struct rng rng_seed(uint64_t seed)
{
    return (struct rng){seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u};
}

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t rng_below(struct rng *rng, size_t limit) { return (size_t)(rng_next(rng) >> 11) % limit; }

float rng_gauss(struct rng *rng)
{
    const double u = ((double)(rng_next(rng) >> 11) + 0.5) * 0x1p-53,
                 v = (double)(rng_next(rng) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

uint64_t rng_test_seed(void)
{
    const char *text = getenv("MIXBIT_TEST_SEED");
    return text != NULL ? strtoull(text, NULL, 0) : 20261122u;
}

bool test_is_quick(void) { return getenv("MIXBIT_TEST_QUICK") != NULL; }

const char *fill_name(enum fill fill)
{
    static const char *const names[FILL_COUNT] = {"random",          "max codes, +127",
                                                  "max codes, -127", "max and min, +-127",
                                                  "zero codes",      "odd scales"};
    return names[fill];
}

static uint16_t make_scale(enum fill fill, struct rng *rng)
{
    static const uint16_t odd[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400,
                                   0x7bff, 0xfbff, 0x3c00, 0xbc00, 0x1234};
    if (fill == FILL_ODD_SCALES)
        return odd[rng_below(rng, sizeof odd / sizeof *odd)];
    return mb_half_from_float(0.02f * rng_gauss(rng));
}

/* One byte, of the number that the kind stores: any, or far enough from the ends of f32 for
 * products to stay finite. */
static uint8_t make_byte_scale(enum mb_scale_kind kind, enum fill fill, struct rng *rng)
{
    static const uint8_t odd_e8m0[] = {0, 1, 2, 3, 127, 128, 190},
                         odd_ue4m3[] = {0, 1, 7, 8, 0x7e, 0x7f, 0x80, 0xff};
    const bool e8m0 = mb_scale_number(kind) == MB_NUMBER_E8M0;
    if (fill == FILL_ODD_SCALES)
        return e8m0 ? odd_e8m0[rng_below(rng, sizeof odd_e8m0)]
                    : odd_ue4m3[rng_below(rng, sizeof odd_ue4m3)];
    return (uint8_t)(e8m0 ? 118 + rng_below(rng, 12) : rng_below(rng, 256));
}

static int between(struct rng *rng, int low, int high)
{
    return low + (int)rng_below(rng, (size_t)(high - low + 1));
}

/* Sub-scales and sub-mins over the whole range that the kind can store. */
static void make_sub_scales(enum mb_scale_kind kind, enum fill fill, struct rng *rng,
                            struct mb_block_fields *fields)
{
    for (size_t g = 0; g < 16; g++) {
        switch (kind) {
        case MB_SCALE_G32E8:
        case MB_SCALE_G16E4: fields->sub_scale[g] = make_byte_scale(kind, fill, rng); break;
        case MB_SCALE_G16X2: fields->sub_scale[g] = (int16_t)between(rng, -128, 127); break;
        case MB_SCALE_G16X2S6:
        case MB_SCALE_G32X2: fields->sub_scale[g] = (int16_t)between(rng, -32, 31); break;
        case MB_SCALE_G16X2MIN: fields->sub_scale[g] = (int16_t)between(rng, 0, 15); break;
        default: fields->sub_scale[g] = (int16_t)between(rng, 0, 63); break;
        }
        fields->sub_min[g] = (int16_t)between(rng, 0, kind == MB_SCALE_G16X2MIN ? 15 : 63);
    }
}

/* The code of the largest or the smallest decoded value. */
static uint8_t extreme_code(enum mb_coding coding, bool largest)
{
    const uint8_t *table = mb_coding_table(coding);
    unsigned best = 0;
    for (unsigned c = 1; c < 1u << mb_coding_bits(coding); c++) {
        const unsigned value = table != NULL ? table[c] : c,
                       most = table != NULL ? table[best] : best;
        best = (largest ? value > most : value < most) ? c : best;
    }
    return (uint8_t)best;
}

static uint8_t make_code(enum mb_coding coding, enum fill fill, struct rng *rng)
{
    switch (fill) {
    case FILL_MAX_PLUS:
    case FILL_MAX_MINUS: return extreme_code(coding, true);
    case FILL_MAX_MIXED: return extreme_code(coding, rng_below(rng, 4) != 0);
    case FILL_ZERO_CODES: return 0;
    default: return (uint8_t)rng_below(rng, (size_t)1 << mb_coding_bits(coding));
    }
}

/* A grid may have no entry of largest codes alone, but a kernel has to take them: set every bit of
 * the panels' codes, where that is the largest one. */
static void set_all_codes(struct data *data)
{
    const struct mb_superblock at = mb_superblock_layout(data->info->coding, data->info->scale);
    for (size_t panel = 0; panel < (data->n + 15) / 16; panel++)
        for (size_t b = 0; b < data->superblocks; b++)
            memset(data->panels + panel * data->panel_bytes + b * at.bytes + at.codes, 0xff,
                   at.bytes - at.codes);
}

static void make_floats(enum mb_coding coding, enum fill fill, size_t count, struct rng *rng,
                        uint8_t *dst)
{
    static const float odd[] = {0.0f, -0.0f, 1e-42f, -1e-39f, 3e4f, -1.0f, 0x1p-24f};
    for (size_t i = 0; i < count; i++) {
        const float value = fill == FILL_ODD_SCALES ? odd[rng_below(rng, sizeof odd / sizeof *odd)]
                            : fill == FILL_ZERO_CODES ? 0.0f
                            : fill == FILL_MAX_MIXED  ? rng_gauss(rng) * 0x1p-126f
                                                      : rng_gauss(rng);
        const uint32_t bits = mb_float_bits(value);
        const uint16_t half =
            coding == MB_CODING_F16 ? mb_half_from_float(value) : (uint16_t)(bits >> 16);
        if (coding == MB_CODING_F32)
            memcpy(dst + 4 * i, &bits, 4);
        else
            memcpy(dst + 2 * i, &half, 2);
    }
}

void data_make_rows(enum mb_format format, enum fill fill, size_t n, size_t k, struct rng *rng,
                    uint8_t *dst)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (mb_coding_is_float(info->coding)) {
        make_floats(info->coding, fill, n * k, rng, dst);
        return;
    }
    for (size_t i = 0; i < n * k / info->block_k; i++) {
        struct mb_block_fields fields = {.d = make_scale(fill, rng), .dmin = make_scale(fill, rng)};
        make_sub_scales(info->scale, fill, rng, &fields);
        for (size_t j = 0; j < info->block_k; j++)
            fields.code[j] = make_code(info->coding, fill, rng);
        mb_format_ops(format)->join(&fields, dst + i * info->block_bytes);
    }
}

void data_make_activations(enum fill fill, size_t m, size_t k, struct rng *rng, float *x)
{
    for (size_t i = 0; i < m * k; i++) {
        switch (fill) {
        case FILL_MAX_PLUS: x[i] = 0.75f; break;
        case FILL_MAX_MINUS: x[i] = -0.75f; break;
        case FILL_MAX_MIXED: x[i] = rng_below(rng, 2) == 0 ? 0.75f : -0.75f; break;
        default: x[i] = rng_gauss(rng) * (rng_below(rng, 100) == 0 ? 20.0f : 1.0f);
        }
    }
}

const struct mb_format_info *data_product(size_t i)
{
    enum { MOST = 256 };
    static struct mb_format_info products[MOST];
    static size_t count;
    for (size_t f = 0; count < MOST && f < mb_format_count(); f++) {
        if (f == 0 && count > 0) /* listed before */
            break;
        for (int a = 0; a < MB_ACTIVATION_COUNT && count < MOST; a++) {
            const struct mb_format_info as =
                mb_format_as(mb_format_at(f)->id, (enum mb_activation)a);
            if (data_reference(MB_OP_GEMV, &as) != NULL)
                products[count++] = as;
        }
    }
    return i < count ? &products[i] : NULL;
}

const struct mb_kernel *data_reference(enum mb_op op, const struct mb_format_info *info)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (kernel->isa == MB_ISA_REFERENCE && kernel->op == op && mb_kernel_fits(kernel, info))
            return kernel;
    return NULL;
}

static void *allocate(size_t bytes)
{
    void *memory = mb_alloc_aligned(bytes + 64);
    if (memory == NULL)
        abort();
    return memset(memory, 0, bytes + 64);
}

static void make_bias(struct data *data)
{
    const size_t group = mb_scale_group(data->info->scale);
    data->bias_sum = allocate(data->m * data->groups * sizeof(int32_t));
    for (size_t r = 0; r < data->m; r++)
        for (size_t g = 0; g < data->groups; g++) {
            const int8_t *q =
                (const int8_t *)data->activations + r * data->layout.row_bytes + g * group;
            int32_t sum = 0;
            for (size_t i = 0; i < group; i++)
                sum += q[i];
            data->bias_sum[r * data->groups + g] =
                -mb_coding_bias(data->info->coding, data->info->scale) * sum;
        }
}

static void make_expected(struct data *data)
{
    const struct mb_kernel *gemv = data_reference(MB_OP_GEMV, data->info);
    data->expected = allocate(data->m * data->n * sizeof(float));
    for (size_t r = 0; r < data->m; r += gemv->mr) {
        const size_t rows = data->m - r < gemv->mr ? data->m - r : gemv->mr;
        const struct mb_gemv_args args = {
            .panels = data->panels,
            .panel_bytes = data->panel_bytes,
            .superblocks = data->superblocks,
            .n = data->n,
            .activations = data->activations + r * data->layout.row_bytes,
            .layout = &data->layout,
            .bias_sum = data->groups > 0 ? data->bias_sum + r * data->groups : NULL,
            .bias_stride = data->groups,
            .m = rows,
            .y = data->expected + r * data->n,
            .y_stride = data->n,
        };
        gemv->fn.gemv(&args);
    }
}

void data_create(struct data *data, const struct mb_format_info *info, enum fill fill, size_t m,
                 size_t n, size_t k, uint64_t seed)
{
    const enum mb_format format = info->id;
    struct rng rng = rng_seed(seed ^ (uint64_t)format << 32 ^ (uint64_t)fill << 40 ^ k);
    const size_t superblock = mb_scale_superblock_k(info->scale);
    const bool biased = mb_coding_bias(info->coding, info->scale) != 0;
    *data = (struct data){.info = info, .fill = fill, .m = m, .n = n, .k = k};
    data->superblocks = (k + superblock - 1) / superblock;
    data->panel_bytes = mb_panel_bytes(format, k);
    data->groups = biased ? data->superblocks * superblock / mb_scale_group(info->scale) : 0;
    data->panels = allocate((n + 15) / 16 * data->panel_bytes);
    uint8_t *rows = allocate(n * mb_format_row_bytes(format, k));
    data_make_rows(format, fill, n, k, &rng, rows);
    mb_panel_pack_rows(format, n, k, rows, 0, n, data->panels);
    mb_free_aligned(rows);
    if ((fill == FILL_MAX_PLUS || fill == FILL_MAX_MINUS) && !mb_coding_is_float(info->coding) &&
        extreme_code(info->coding, true) == (1u << mb_coding_bits(info->coding)) - 1)
        set_all_codes(data);

    float *x = allocate(m * k * sizeof(float));
    data_make_activations(fill, m, k, &rng, x);
    data->layout = mb_activation_layout(info->activation, k);
    data->activations = allocate(m * data->layout.row_bytes);
    const struct mb_kernel *prepare = data_reference(MB_OP_PREPARE, info);
    for (size_t r = 0; r < m; r++)
        prepare->fn.prepare(x + r * k, k, data->activations + r * data->layout.row_bytes);
    mb_free_aligned(x);
    make_bias(data);
    make_expected(data);
}

void data_destroy(struct data *data)
{
    mb_free_aligned(data->panels);
    mb_free_aligned(data->activations);
    mb_free_aligned(data->bias_sum);
    mb_free_aligned(data->expected);
    *data = (struct data){0};
}
