/* SPDX-License-Identifier: Apache-2.0 */
/* What every ISA level's encoders make of a row (search_blocks of kernels/encode.h) against what
 * every CPU of the architecture can run, bit for bit: all formats, rows of every kind and size,
 * with and without importance, one block or many. And each format against one sum for all
 * architectures: files must depend neither on the machine that writes them nor on the version.
 * MIXBIT_TEST_QUICK: the sums alone. */
#include "kernels/harness.h"

#include "kernels/encode.h"
#include "read_golden.h"

#include <math.h>

/* Of all rows, as the encoders made them before there were levels. Whoever changes what encoders
 * make takes the new ones from the failure. */
static const struct {
    const char *name;
    uint64_t sum;
} expected[] = {
    {"q4_0", 0x67620a6e2172aaccu},    {"q4_1", 0xd5ca5f6fda9e6951u},
    {"q5_0", 0x63598014a4bf6175u},    {"q5_1", 0x8bef924c8c6c9439u},
    {"q8_0", 0xdabcb79e535a86c9u},    {"q2_K", 0xb5002faae5c86d29u},
    {"q3_K", 0xd41e679bab913cdau},    {"q4_K", 0x999d9871d0d73ee8u},
    {"q5_K", 0xffdb0e20b169373cu},    {"q6_K", 0xbded4b3f199e089bu},
    {"iq4_nl", 0xa144fd24f23a87d9u},  {"iq4_xs", 0x02653d5410be6e5au},
    {"iq3_s", 0x3f05426d0282bbb5u},   {"iq3_xxs", 0xe0e5e7a0e573186fu},
    {"iq2_s", 0xde1c5ce2960f2bb9u},   {"iq2_xs", 0x142783c02f3074c0u},
    {"iq2_xxs", 0xaccd25457b534346u}, {"iq1_m", 0x5be4e59e9d06e2a6u},
    {"iq1_s", 0xf4ea793c1fe0a361u},   {"tq2_0", 0xd5f4b627265b84d2u},
    {"tq1_0", 0xe916530b192b8308u},   {"mxfp4", 0xd3d5fc2b0fb06d6du},
    {"nvfp4", 0x0ae6eb6db926a81fu},
};

/* More blocks of 256 than a register has lanes; rows differ, and importance does along a row. */
enum { ROWS = 11, K = 512 };

enum kind { RANDOM, HEAVY, EQUAL, ZERO, TINY, FAINT_AND_NOT, HUGE_ONES, ONE_SIGN, SPIKES, KINDS };
static const char *const kind_names[] = {"random", "heavy-tailed", "equal",    "zero",  "tiny",
                                         "faint",  "huge",         "one sign", "spikes"};

static float value_of(enum kind kind, size_t row, size_t i)
{
    const uint64_t at = row * K + i;
    const float z = (float)normal(1, at);
    switch (kind) {
    case RANDOM: return z * 0.02f;
    case HEAVY: return z * 0.01f / ((float)fabs(normal(2, at)) + 0.01f);
    case EQUAL: return row % 2 ? -0.75f : 0.3f * (float)(row + 1);
    case ZERO: return row % 2 ? -0.0f : 0.0f;
    /* From the smallest scales that f16 has to below all of them. */
    case TINY: return ldexpf(z, -14 - 3 * (int)row);
    case FAINT_AND_NOT: return row % 3 == 0 ? z : row % 3 == 1 ? z * 0x1p-43f : z * 0x1p-140f;
    case HUGE_ONES: return ldexpf(z / 8.0f, 127 - 11 * (int)row);
    case ONE_SIGN: return (row % 2 ? 1.0f : -1.0f) * (0.5f + (float)uniform(3, at));
    default: return i % 256 == 77 || i % 32 == row % 32 ? 50.0f * z : 0.001f * z;
    }
}

enum weighting { PLAIN, WEIGHTED, SPARSE, NOTHING, WEIGHTINGS };

static float importance_of(enum weighting weighting, size_t i)
{
    const float z = (float)normal(4, i), y = (float)normal(5, i);
    switch (weighting) {
    case WEIGHTED: return z * z * y * y + 0.01f;
    case SPARSE: return i % 16 == 5 || i < 40 ? z * z * 1e30f : 0.0f;
    default: return 0.0f;
    }
}

static const struct mb_encode_ops *level_at(size_t i)
{
    return i != MB_ISA_REFERENCE && i < MB_ISA_COUNT && mb_isa_is_supported((enum mb_isa)i)
               ? mb_registry_encode((enum mb_isa)i)
               : NULL;
}

struct rows {
    const struct mb_format_info *info;
    size_t blocks, bytes;
    float *x, importance[K];
    const float *weights; /* importance, or NULL */
    const char *kind;
    size_t weighting;
};

/* The first `blocks` blocks by one level, where a byte too many is seen. */
static bool same_blocks(const struct rows *r, const struct mb_encode_ops *ops, size_t blocks,
                        const uint8_t *wanted)
{
    const size_t bytes = blocks * r->info->block_bytes;
    struct guard out = guard_create(bytes);
    uint8_t *made = guard_output(&out, bytes);
    ops->search_blocks(r->info->id, r->x, blocks, r->weights, K, made);
    const bool same = memcmp(made, wanted, bytes) == 0 && guard_left_intact(&out, bytes);
    guard_destroy(&out);
    return same;
}

static size_t check_level(const struct rows *r, const char *name, const struct mb_encode_ops *ops,
                          const uint8_t *wanted)
{
    const size_t most = r->blocks < 18 ? r->blocks : 18; /* more than a register has lanes */
    size_t failed = 0;
    for (size_t blocks = 1; blocks <= most; blocks++)
        failed += !same_blocks(r, ops, blocks, wanted);
    failed += !same_blocks(r, ops, r->blocks, wanted);
    if (failed > 0)
        printf("FAILED %s: %s, %s rows, weighting %zu: %zu numbers of blocks\n", name,
               r->info->name, r->kind, r->weighting, failed);
    return failed;
}

static uint64_t add_bytes(uint64_t sum, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sum = (sum ^ bytes[i]) * 0x100000001b3u;
    return sum;
}

static size_t check_rows(struct rows *r, enum kind kind, enum weighting weighting, uint64_t *sum)
{
    uint8_t *wanted = malloc(r->bytes);
    struct guard in = guard_create(ROWS * K * sizeof *r->x);
    if (wanted == NULL)
        exit(99);
    r->x = guard_at(&in, ROWS * K * sizeof *r->x);
    r->kind = kind_names[kind];
    r->weighting = weighting;
    for (size_t i = 0; i < ROWS * K; i++)
        r->x[i] = value_of(kind, i / K, i % K);
    for (size_t i = 0; i < K; i++)
        r->importance[i] = importance_of(weighting, i);
    r->weights = weighting == PLAIN ? NULL : r->importance;
    mb_encode_reference.search_blocks(r->info->id, r->x, r->blocks, r->weights, K, wanted);
    *sum = add_bytes(*sum, wanted, r->bytes);
    size_t failed = 0;
    for (size_t i = 0; i < MB_ISA_COUNT && !test_is_quick(); i++)
        if (i == MB_ISA_REFERENCE)
            failed += check_level(r, "reference", &mb_encode_reference, wanted);
        else if (level_at(i) != NULL)
            failed += check_level(r, mb_isa_name((enum mb_isa)i), level_at(i), wanted);
    guard_destroy(&in);
    free(wanted);
    return failed;
}

static uint64_t expected_of(const char *name)
{
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (strcmp(expected[i].name, name) == 0)
            return expected[i].sum;
    return 0;
}

int main(void)
{
    size_t formats = 0, failed = 0, levels = 0;
    const struct mb_format_info *info;
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        levels += level_at(i) != NULL;
    for (size_t f = 0; (info = mb_format_at(f)) != NULL; f++) {
        if (mb_coding_is_float(info->coding))
            continue;
        struct rows r = {.info = info, .blocks = ROWS * K / info->block_k};
        uint64_t sum = 0xcbf29ce484222325u;
        r.bytes = r.blocks * info->block_bytes;
        for (size_t kind = 0; kind < KINDS; kind++)
            for (size_t weighting = 0; weighting < WEIGHTINGS; weighting++)
                failed += check_rows(&r, (enum kind)kind, (enum weighting)weighting, &sum);
        if (sum != expected_of(info->name)) {
            printf("FAILED the sum is not as it was: {\"%s\", 0x%016llxu},\n", info->name,
                   (unsigned long long)sum);
            failed++;
        }
        formats++;
    }
    printf("%zu formats, %zu levels beside the reference%s, %zu failed\n", formats,
           test_is_quick() ? 0 : levels, test_is_quick() ? " (quick: sums alone)" : "", failed);
    return formats > 0 && failed == 0 ? 0 : 1;
}
