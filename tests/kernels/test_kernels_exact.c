/* SPDX-License-Identifier: Apache-2.0 */
/* Every kernel of the registry against the reference, bit for bit, once, level by level in the
 * order of isa.def (twins, the same body under the name of another activation type, go with the
 * first). The run goes on after a failure; each one comes with a line that repeats it
 * alone: MIXBIT_TEST_KERNEL  check only kernels whose name holds this text MIXBIT_TEST_SEED inputs
 * of this seed */
#include "kernels/harness.h"

#include <stdio.h>

static const struct mb_kernel *next_of_level(enum mb_isa isa, size_t *at)
{
    const struct mb_kernel *kernel;
    while ((kernel = mb_registry_at((*at)++)) != NULL)
        if (kernel->isa == isa)
            return kernel;
    return NULL;
}

/* Whether an earlier kernel of the list has the same body, under another type's name. */
static bool is_twin(const struct mb_kernel *kernel)
{
    const struct mb_kernel *other;
    for (size_t i = 0; (other = mb_registry_at(i)) != kernel; i++)
        if (other->op == kernel->op && other->fn.gemv == kernel->fn.gemv)
            return true;
    return false;
}

static size_t check_level(enum mb_isa isa, const char *wanted, uint64_t seed, size_t *checked)
{
    size_t failed = 0, at = 0;
    const struct mb_kernel *kernel;
    while ((kernel = next_of_level(isa, &at)) != NULL) {
        static struct harness harness; /* outlives a jump out of the check */
        if (wanted != NULL ? strstr(kernel->name, wanted) == NULL : is_twin(kernel))
            continue;
        ++*checked;
        if (harness_check(&harness, kernel, seed))
            continue;
        failed++;
        printf("FAILED %s\n       repeat: MIXBIT_TEST_SEED=%llu MIXBIT_TEST_KERNEL=%s "
               "test_kernels_exact\n",
               harness.failure, (unsigned long long)seed, kernel->name);
        fflush(stdout);
    }
    return failed;
}

int main(void)
{
    const char *wanted = getenv("MIXBIT_TEST_KERNEL");
    const uint64_t seed = rng_test_seed();
    size_t checked = 0, failed = 0, skipped = 0;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < MB_ISA_COUNT; i++) {
        const enum mb_isa isa = (enum mb_isa)i;
        struct mb_isa_info info;
        const size_t before = checked;
        mb_isa_info((size_t)i, &info);
        if (!info.supported) {
            skipped += mb_registry_level_count(isa);
            printf("%-12s %zu kernels skipped: %s\n", info.name, mb_registry_level_count(isa),
                   info.why);
            continue;
        }
        const size_t wrong = check_level(isa, wanted, seed, &checked);
        failed += wrong;
        printf("%-12s %zu kernels checked, %zu failed\n", info.name, checked - before, wrong);
    }
    printf("%zu kernels checked, %zu skipped, %zu failed\n", checked, skipped, failed);
    if (checked == 0) {
        printf("FAILED nothing was checked\n");
        return 1;
    }
    return failed == 0 ? 0 : 1;
}
