/* SPDX-License-Identifier: Apache-2.0 */
/* What every ISA level has for encoding with second moments (kernels/feedback.h) against what every
 * CPU of the architecture can run, bit for bit: sums and factors, blocks made with feedback, blocks
 * refined from these, from nothing and from noise. And all of it against one sum for all
 * architectures, since files must not depend on the machine that writes them. MIXBIT_TEST_QUICK:
 * the few rows that this sum is of, no more. */
#include "kernels/harness.h"

#include "kernels/encode.h"
#include "kernels/feedback.h"
#include "kernels/gram.h"
#include "read_golden.h"

#include <math.h>

/* Of moments and few rows, as the reference makes them. Whoever changes what encoders with feedback
 * make takes the new one from the failure. */
static const uint64_t expected_sum = 0x4fa78e8016fdcd55u;

enum { ROWS = 16, FEW_ROWS = 6, TOKENS = 150, SWEEPS = 2 };
static const size_t few_columns[] = {64, 160, 192}, many_columns[] = {256, 512};

static uint64_t add_bytes(uint64_t sum, const void *bytes, size_t count)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < count; i++)
        sum = (sum ^ at[i]) * 0x100000001b3u;
    return sum;
}

static void *get(size_t bytes)
{
    void *memory = calloc(1, bytes + 64);
    if (memory == NULL)
        exit(99);
    return memory;
}

/* Second moments of columns that hang together, made by one level. */
struct moments {
    float *h, *factor, *variances;
    float *cross, *solved; /* of the rows' first 16 columns by all; what H makes them of */
    struct mb_second_moments all;
};

static void factor(const struct mb_encode_ops *ops, float *h, size_t k, float *packed)
{
    for (size_t row1 = k, row0; row1 > 0; row1 = row0) {
        row0 = row1 > MB_GRAM_ROWS ? row1 - MB_GRAM_ROWS : 0;
        if (!ops->gram_factor_rows(h, k, row0, row1)) {
            printf("FAILED no factor of %zu columns\n", k);
            exit(1);
        }
        mb_gram_pack(h + row0 * k, k, row1 - row0, row0, packed);
        ops->gram_add(h, k, row0, packed, row1 - row0, -1.0f, 0, row0 ? mb_gram_pairs(row0) : 0);
    }
    mb_gram_unit(h, k);
}

static struct moments make_moments(const struct mb_encode_ops *ops, size_t k)
{
    struct moments m = {.h = get(k * k * sizeof(float)),
                        .factor = get(k * k * sizeof(float)),
                        .variances = get(k * sizeof(float)),
                        .cross = get(MB_GRAM_PANEL * k * sizeof(float)),
                        .solved = get(MB_GRAM_PANEL * k * sizeof(float))};
    float *x = get(TOKENS * k * sizeof *x), *packed = get(mb_gram_packed(k, TOKENS) * sizeof *x);
    for (size_t i = 0; i < TOKENS * k; i++)
        x[i] = (float)normal(1, i) + (i % k > 0 ? 0.7f * x[i - 1] : 0.0f);
    const size_t pairs = mb_gram_pairs(k), middle = pairs / 2;
    mb_gram_pack(x, k, TOKENS, k, packed);
    ops->gram_add(m.h, k, k, packed, TOKENS, 1.0f, 0, middle);
    ops->gram_add(m.h, k, k, packed, TOKENS, 1.0f, middle, pairs);
    ops->gram_cross(m.cross, k, packed, packed, TOKENS, 0, 1);
    for (size_t i = 0; i < k; i++)
        m.h[i * k + i] += 1.0f;
    mb_gram_mirror(m.h, k);
    memcpy(m.factor, m.h, k * k * sizeof *m.h);
    free(packed);
    packed = get(mb_gram_packed(k, MB_GRAM_ROWS) * sizeof *packed);
    factor(ops, m.factor, k, packed);
    for (size_t i = 0; i < k; i++)
        m.variances[i] = m.factor[i * k + i];
    m.all =
        (struct mb_second_moments){.k = k, .h = m.h, .factor = m.factor, .variances = m.variances};
    memcpy(m.solved, m.cross, MB_GRAM_PANEL * k * sizeof *m.solved); /* any numbers do */
    ops->gram_solve(m.factor, k, m.solved);
    free(packed);
    free(x);
    return m;
}

static void free_moments(struct moments *m)
{
    free(m->h);
    free(m->factor);
    free(m->variances);
    free(m->cross);
    free(m->solved);
}

/* What one level makes of some rows. */
enum { START_FEEDBACK, START_ZERO, START_NOISE, STARTS };
struct result {
    uint8_t *made, *refined[STARTS]; /* blocks */
    double errors[STARTS][ROWS];
    struct guard guard;
};

static struct result encode(const struct mb_encode_ops *ops, enum mb_format format,
                            const struct mb_second_moments *moments, const float *w, size_t rows)
{
    const size_t bytes = rows * mb_format_row_bytes(format, moments->k);
    struct result r = {.guard = guard_create((STARTS + 1) * bytes)};
    float *scratch = get(mb_feedback_scratch(moments->k) * sizeof *scratch);
    r.made = guard_at(&r.guard, bytes);
    ops->feedback_rows(format, w, rows, moments, r.made, scratch);
    for (size_t s = 0; s < STARTS; s++) {
        r.refined[s] = r.made - (s + 1) * bytes;
        if (s == START_NOISE)
            random_bytes(rows, r.refined[s], bytes);
        else if (s == START_ZERO)
            memset(r.refined[s], 0, bytes);
        else
            memcpy(r.refined[s], r.made, bytes);
        ops->refine_rows(format, w, rows, moments, SWEEPS, r.refined[s], r.errors[s], scratch);
    }
    free(scratch);
    return r;
}

/* Errors of noise may be no numbers, and what bits those have is the CPU's own business. */
static bool same_errors(const struct result *a, const struct result *b, size_t rows)
{
    for (size_t s = 0; s < STARTS; s++)
        for (size_t r = 0; r < rows; r++)
            if (isnan(a->errors[s][r]) != isnan(b->errors[s][r]) ||
                (!isnan(a->errors[s][r]) &&
                 memcmp(&a->errors[s][r], &b->errors[s][r], sizeof(double)) != 0))
                return false;
    return true;
}

/* The levels under test. */
static const struct mb_encode_ops *level_at(size_t i)
{
    return i != MB_ISA_REFERENCE && i < MB_ISA_COUNT && mb_isa_is_supported((enum mb_isa)i)
               ? mb_registry_encode((enum mb_isa)i)
               : NULL;
}

static size_t check_moments(const struct moments *wanted, size_t k, uint64_t *sum)
{
    size_t failed = 0;
    *sum = add_bytes(*sum, wanted->h, k * k * sizeof *wanted->h);
    for (size_t i = 0; i < k; i++)
        *sum = add_bytes(*sum, wanted->factor + i * k, (i + 1) * sizeof *wanted->factor);
    for (size_t i = 0; i < MB_ISA_COUNT; i++) {
        if (level_at(i) == NULL)
            continue;
        struct moments m = make_moments(level_at(i), k);
        if (memcmp(m.h, wanted->h, k * k * sizeof *m.h) != 0 ||
            memcmp(m.factor, wanted->factor, k * k * sizeof *m.factor) != 0 ||
            memcmp(m.cross, wanted->cross, MB_GRAM_PANEL * k * sizeof *m.cross) != 0 ||
            memcmp(m.solved, wanted->solved, MB_GRAM_PANEL * k * sizeof *m.solved) != 0) {
            printf("FAILED %s: moments of %zu columns\n", mb_isa_name((enum mb_isa)i), k);
            failed++;
        }
        free_moments(&m);
    }
    return failed;
}

static size_t check_rows(const struct mb_format_info *info, const struct moments *m, const float *w,
                         size_t rows, uint64_t *sum)
{
    const size_t bytes = rows * mb_format_row_bytes(info->id, m->all.k);
    size_t failed = 0;
    struct result wanted = encode(&mb_encode_reference, info->id, &m->all, w, rows);
    if (rows <= FEW_ROWS) {
        *sum = add_bytes(*sum, wanted.made, bytes);
        *sum = add_bytes(*sum, wanted.refined[STARTS - 1], STARTS * bytes);
    }
    for (size_t i = 0; i < MB_ISA_COUNT; i++) {
        if (level_at(i) == NULL)
            continue;
        struct result got = encode(level_at(i), info->id, &m->all, w, rows);
        bool same = memcmp(got.made, wanted.made, bytes) == 0 && same_errors(&got, &wanted, rows);
        for (size_t s = 0; s < STARTS; s++)
            same = same && memcmp(got.refined[s], wanted.refined[s], bytes) == 0;
        if (!same) {
            printf("FAILED %s: %s, %zu rows of %zu\n", mb_isa_name((enum mb_isa)i), info->name,
                   rows, m->all.k);
            failed++;
        }
        guard_destroy(&got.guard);
    }
    guard_destroy(&wanted.guard);
    return failed;
}

/* Formats whose block is at most (or more than) 64 weights, with all numbers of rows. */
static size_t check_columns(size_t k, size_t turn, size_t turns, bool many, size_t *checked,
                            uint64_t *sum)
{
    struct moments m = make_moments(&mb_encode_reference, k);
    float *w = get(ROWS * k * sizeof *w);
    for (size_t i = 0; i < ROWS * k; i++)
        w[i] = (float)(normal(2, i) * 0.02) * (i / k == 5 ? 1e-12f : i / k == 9 ? 0.0f : 1.0f);
    const size_t most = test_is_quick() ? FEW_ROWS : ROWS;
    size_t failed = check_moments(&m, k, sum);
    const struct mb_format_info *info;
    for (size_t f = 0; (info = mb_format_at(f)) != NULL; f++)
        if (mb_feedback_by_code(info->id) && (info->block_k > 64) == many && k % info->block_k == 0)
            for (size_t rows = 1 + turn; rows <= most; rows += turns, ++*checked)
                failed += check_rows(info, &m, w + (ROWS - rows) * k, rows, sum);
    free(w);
    free_moments(&m);
    return failed;
}

int main(void)
{
    uint64_t sum = 0xcbf29ce484222325u;
    size_t checked = 0, failed = 0, levels = 0;
    for (size_t i = 0; i < MB_ISA_COUNT; i++)
        levels += level_at(i) != NULL;
    for (size_t i = 0; i < 3; i++)
        failed += check_columns(few_columns[i], i, 3, false, &checked, &sum);
    for (size_t i = 0; i < 2; i++)
        failed += check_columns(many_columns[i], i, 2, true, &checked, &sum);
    printf("%zu sets of rows, %zu levels beside the reference, %zu failed\n", checked, levels,
           failed);
    if (sum != expected_sum) {
        printf("FAILED the sum is 0x%016llx, not 0x%016llx\n", (unsigned long long)sum,
               (unsigned long long)expected_sum);
        failed++;
    }
    return checked > 0 && failed == 0 ? 0 : 1;
}
