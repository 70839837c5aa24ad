/* SPDX-License-Identifier: Apache-2.0 */
/* Candidates out of the registry, and the roofline that prunes them.
 *
 * The bound is optimistic on purpose: weights at the read bandwidth of their residency, products at
 * the peak of the kernel's level, the larger of the two. A candidate whose bound is above what
 * another one measured can't win, whatever it does, so it is never timed. */
#include "tuner/space.h"

#include <stdlib.h>
#include <string.h>

enum { GEMV_SLOTS = 8, GEMV_MOST_ROWS = 32 };

bool mb_space_fits(const struct mb_kernel *kernel, enum mb_format format, size_t m)
{
    const struct mb_format_info *info = mb_format_info(format);
    if (info == NULL || !mb_kernel_fits(kernel, info))
        return false;
    /* From 2 rows on decoding into a buffer may pay; below that gemm only adds a pass over memory.
     */
    if (kernel->op == MB_OP_GEMM)
        return m > 1;
    return kernel->op == MB_OP_GEMV && m <= GEMV_MOST_ROWS;
}

/* The helper body of a level; NULL when the level has none of its own. */
static const struct mb_kernel *helper(enum mb_op op, enum mb_isa isa,
                                      const struct mb_format_info *info)
{
    const struct mb_kernel *kernel;
    for (size_t i = 0; (kernel = mb_registry_at(i)) != NULL; i++)
        if (kernel->op == op && kernel->isa == isa && mb_kernel_fits(kernel, info))
            return kernel;
    return NULL;
}

bool mb_space_selection(const struct mb_kernel *kernel, enum mb_format format, size_t m,
                        struct mb_selection *selection)
{
    if (!mb_space_fits(kernel, format, m))
        return false;
    const struct mb_format_info *info = mb_format_info(format);
    *selection = *mb_select(format);
    if (kernel->op == MB_OP_GEMV) {
        for (size_t i = 0; i < GEMV_SLOTS; i++)
            if (i + 1 == m || m > GEMV_SLOTS)
                selection->gemv[i] = kernel;
        if (selection->crossover < m)
            selection->crossover = m;
        return true;
    }
    const struct mb_kernel *decode = helper(MB_OP_DECODE, kernel->isa, info);
    if (decode != NULL)
        selection->gemm.decode = decode;
    selection->gemm.gemm = kernel;
    if (selection->crossover >= m)
        selection->crossover = m - 1;
    return true;
}

unsigned mb_space_revision(const struct mb_kernel *kernel, enum mb_format format)
{
    const struct mb_format_info *info = mb_format_info(format);
    unsigned revision = kernel->revision;
    const struct mb_kernel *prepare = helper(MB_OP_PREPARE, kernel->isa, info);
    if (prepare != NULL)
        revision += prepare->revision;
    const struct mb_kernel *decode =
        kernel->op == MB_OP_GEMM ? helper(MB_OP_DECODE, kernel->isa, info) : NULL;
    if (decode != NULL)
        revision += decode->revision;
    return revision;
}

/* Codes up to 63 may be accumulated in int16 (pairs of products stay below 2^15), which
 * the faster of two chains of a level without 8-bit dot instructions needs. */
static double product_peak(const struct mb_kernel *kernel, const struct mb_format_info *info,
                           const struct mb_limits *limits)
{
    if (mb_coding_is_float(info->coding))
        return limits->fma_gmacs[kernel->isa];
    if (mb_coding_max(info->coding) > 63)
        return limits->dot_exact_gmacs[kernel->isa];
    return limits->dot_gmacs[kernel->isa];
}

double mb_space_bound_ns(const struct mb_kernel *kernel, enum mb_format format,
                         const struct mb_shape *shape, size_t m, const struct mb_limits *limits,
                         enum mb_residency residency, bool *reads)
{
    const struct mb_format_info *info = mb_format_info(format);
    const double read_gbps = limits->read_gbps[residency];
    const double peak = product_peak(kernel, info, limits);
    const double bytes = (double)shape->n * (double)mb_format_row_bytes(format, shape->k);
    const double products = (double)m * (double)shape->n * (double)shape->k;
    const double read_ns = read_gbps > 0 ? bytes / read_gbps : 0;
    const double product_ns = peak > 0 ? products / peak : 0;
    if (reads != NULL)
        *reads = read_ns >= product_ns;
    return read_ns >= product_ns ? read_ns : product_ns;
}

static int compare_bounds(const void *a, const void *b)
{
    const struct mb_tune_candidate *left = a, *right = b;
    return (left->bound_ns > right->bound_ns) - (left->bound_ns < right->bound_ns);
}

size_t mb_space_candidates(enum mb_format format, const struct mb_shape *shape, size_t m,
                           const struct mb_limits *limits, enum mb_residency residency,
                           struct mb_tune_candidate candidates[MB_CANDIDATES_MAX])
{
    const uint32_t mask = mb_isa_allowed_mask();
    size_t count = 0;
    /* From the last level down: the reference is first in the registry, and it is taken only when
     * no other level has a body for this. */
    for (size_t i = mb_registry_count(); i-- > 0 && count < MB_CANDIDATES_MAX;) {
        const struct mb_kernel *kernel = mb_registry_at(i);
        struct mb_tune_candidate *candidate = &candidates[count];
        if ((mask >> kernel->isa & 1) == 0 || (kernel->isa == MB_ISA_REFERENCE && count > 0) ||
            !mb_space_selection(kernel, format, m, &candidate->selection))
            continue;
        candidate->kernel = kernel;
        candidate->revision = mb_space_revision(kernel, format);
        candidate->bound_ns =
            limits != NULL ? mb_space_bound_ns(kernel, format, shape, m, limits, residency, NULL)
                           : 0;
        count++;
    }
    qsort(candidates, count, sizeof *candidates, compare_bounds);
    return count;
}
