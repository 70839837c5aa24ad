/* SPDX-License-Identifier: Apache-2.0 */
/* Candidates out of the registry, and the roofline that prunes them.
 *
 * The bound is optimistic on purpose: weights at the read bandwidth of their residency, products at
 * the peak of the kernel's level, the larger of the two. A candidate whose bound is above what
 * another one measured can't win, whatever it does, so it is never timed. */
#include "tuner/space.h"
#include "dispatch/alone.h"
#include "dispatch/matmul.h"

#include <stdlib.h>
#include <string.h>

/* Decoding a panel anew for every 8 rows may pay up to so many times the rows that are its share by
 * default. */
enum { GEMV_SLOTS = 8, GEMV_REACH = 8, VALUES_MOST = 6 };

/* The knobs: which kernels each of them is for, and where it may stand. */
static const struct dimension {
    const char *name;
    bool gemv, gemm;
    size_t m_least; /* rows from which on it matters */
    size_t count, values[VALUES_MOST];
} dimensions[MB_KNOB_COUNT] = {
    [MB_KNOB_K_BLOCK] = {"k_block", false, true, 2, 4, {256, 512, 1024, 2048}},
    [MB_KNOB_PREFETCH] = {"prefetch", true, false, 1, 6, {0, 1024, 4096, 8192, 16384, 32768}},
    [MB_KNOB_STEP] = {"step", true, true, 1, 4, {1, 2, 4, 8}},
    [MB_KNOB_SPLIT] = {"split", false, false, 1, 0, {0}}, /* of GPU kernels: they bring their own */
};

const char *mb_knob_name(enum mb_knob knob)
{
    return (unsigned)knob < MB_KNOB_COUNT ? dimensions[knob].name : NULL;
}

static bool applies(enum mb_knob knob, const struct mb_kernel *kernel, size_t m)
{
    const struct dimension *d = &dimensions[knob];
    return kernel->op != MB_OP_CODEBOOK && m >= d->m_least &&
           (kernel->op == MB_OP_GEMM ? d->gemm : d->gemv);
}

bool mb_space_fits(const struct mb_kernel *kernel, enum mb_format format, size_t m)
{
    if (mb_format_is_codebook(format)) /* one a level, and nothing to choose by */
        return kernel == mb_select_alone(MB_OP_CODEBOOK);
    if (!mb_matmul_supports(format, kernel->activation))
        return false;
    const struct mb_format_info as = mb_format_as(format, kernel->activation);
    if (!mb_kernel_fits(kernel, &as))
        return false;
    /* From 2 rows on decoding into a buffer may pay; below that gemm only adds a pass over memory.
     */
    if (kernel->op == MB_OP_GEMM)
        return m > 1;
    return kernel->op == MB_OP_GEMV &&
           m <= GEMV_REACH * mb_select_default(format, kernel->activation).crossover;
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

void mb_space_knobs(const struct mb_selection *selection, const struct mb_kernel *kernel, size_t m,
                    size_t knobs[MB_KNOB_COUNT])
{
    const size_t values[MB_KNOB_COUNT] = {
        [MB_KNOB_K_BLOCK] = selection->gemm.k_block,
        [MB_KNOB_PREFETCH] = mb_selection_prefetch(selection, m),
        [MB_KNOB_STEP] = mb_kernel_step(kernel, kernel->op == MB_OP_GEMM ? selection->gemm_step
                                                                         : selection->gemv_step),
    };
    for (size_t i = 0; i < MB_KNOB_COUNT; i++)
        knobs[i] = applies((enum mb_knob)i, kernel, m) ? values[i] : 0;
}

/* Of prefetching 0 means something. */
static void turn_knobs(struct mb_selection *selection, const struct mb_kernel *kernel, size_t m,
                       const size_t knobs[MB_KNOB_COUNT])
{
    size_t *step = kernel->op == MB_OP_GEMM ? &selection->gemm_step : &selection->gemv_step;
    if (applies(MB_KNOB_K_BLOCK, kernel, m) && knobs[MB_KNOB_K_BLOCK] != 0)
        selection->gemm.k_block = knobs[MB_KNOB_K_BLOCK];
    if (applies(MB_KNOB_PREFETCH, kernel, m))
        *(m == 1 ? &selection->row_prefetch : &selection->prefetch) = knobs[MB_KNOB_PREFETCH];
    if (knobs[MB_KNOB_STEP] != 0)
        *step = knobs[MB_KNOB_STEP];
}

bool mb_space_selection(const struct mb_kernel *kernel, enum mb_format format, size_t m,
                        const size_t knobs[MB_KNOB_COUNT], struct mb_selection *selection)
{
    if (!mb_space_fits(kernel, format, m))
        return false;
    const struct mb_format_info as = mb_format_as(format, kernel->activation);
    *selection = mb_select_default(format, kernel->activation);
    if (kernel->op == MB_OP_CODEBOOK)
        return true;
    if (knobs != NULL)
        turn_knobs(selection, kernel, m, knobs);
    if (kernel->op == MB_OP_GEMV) {
        for (size_t i = 0; i < GEMV_SLOTS; i++)
            if (i + 1 == m || m > GEMV_SLOTS)
                selection->gemv[i] = kernel;
        if (selection->crossover < m)
            selection->crossover = m;
        return true;
    }
    const struct mb_kernel *decode = helper(MB_OP_DECODE, kernel->isa, &as);
    if (decode != NULL)
        selection->gemm.decode = decode;
    selection->gemm.gemm = kernel;
    if (selection->crossover >= m)
        selection->crossover = m - 1;
    return true;
}

unsigned mb_space_revision(const struct mb_kernel *kernel, enum mb_format format)
{
    const struct mb_format_info as = mb_format_as(format, kernel->activation);
    unsigned revision = kernel->revision;
    const struct mb_kernel *prepare = helper(MB_OP_PREPARE, kernel->isa, &as);
    if (prepare != NULL)
        revision += prepare->revision;
    const struct mb_kernel *decode =
        kernel->op == MB_OP_GEMM ? helper(MB_OP_DECODE, kernel->isa, &as) : NULL;
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

bool mb_space_candidate(const struct mb_kernel *kernel, enum mb_format format,
                        const struct mb_shape *shape, size_t m, const size_t knobs[MB_KNOB_COUNT],
                        const struct mb_limits *limits, enum mb_residency residency,
                        struct mb_tune_candidate *candidate)
{
    if (!mb_space_selection(kernel, format, m, knobs, &candidate->selection))
        return false;
    mb_space_knobs(&candidate->selection, kernel, m, candidate->knobs);
    candidate->kernel = kernel;
    candidate->revision = mb_space_revision(kernel, format);
    candidate->bound_ns =
        limits != NULL ? mb_space_bound_ns(kernel, format, shape, m, limits, residency, NULL) : 0;
    return true;
}

/* Whether two values of a knob can tell at this shape: a run is not longer than k, and a thread's
 * share of the panels is not smaller than what it takes at once. */
static bool differ(enum mb_knob knob, size_t a, size_t b, const struct mb_shape *shape,
                   size_t threads)
{
    const size_t panels = (shape->n + MB_PANEL_ROWS - 1) / MB_PANEL_ROWS;
    size_t most = SIZE_MAX;
    if (knob == MB_KNOB_K_BLOCK)
        most = shape->k;
    else if (knob == MB_KNOB_STEP)
        most = threads > 1 ? panels / threads : 1;
    return (a < most ? a : most) != (b < most ? b : most);
}

size_t mb_space_variants(const struct mb_tune_candidate *from, enum mb_knob knob,
                         enum mb_format format, const struct mb_shape *shape, size_t m,
                         size_t threads, struct mb_tune_candidate variants[MB_CANDIDATES_MAX])
{
    const struct dimension *d = &dimensions[knob];
    size_t count = 0;
    if (!applies(knob, from->kernel, m))
        return 0;
    for (size_t i = 0; i < d->count; i++) {
        struct mb_tune_candidate *variant = &variants[count];
        *variant = *from;
        variant->knobs[knob] = d->values[i];
        (void)mb_space_selection(from->kernel, format, m, variant->knobs, &variant->selection);
        mb_space_knobs(&variant->selection, from->kernel, m, variant->knobs);
        bool fresh = differ(knob, variant->knobs[knob], from->knobs[knob], shape, threads);
        for (size_t j = 0; j < count && fresh; j++)
            fresh = differ(knob, variant->knobs[knob], variants[j].knobs[knob], shape, threads);
        count += fresh;
    }
    return count;
}

static int compare_bounds(const void *a, const void *b)
{
    const struct mb_tune_candidate *left = a, *right = b;
    return (left->bound_ns > right->bound_ns) - (left->bound_ns < right->bound_ns);
}

size_t mb_space_candidates(enum mb_format format, enum mb_activation activation,
                           const struct mb_shape *shape, size_t m, const struct mb_limits *limits,
                           enum mb_residency residency,
                           struct mb_tune_candidate candidates[MB_CANDIDATES_MAX])
{
    const uint32_t mask = mb_isa_allowed_mask();
    size_t count = 0;
    /* From the last level down: the reference is first in the registry, and it is taken only when
     * no other level has a body for this. */
    for (size_t i = mb_registry_count(); i-- > 0 && count < MB_CANDIDATES_MAX;) {
        const struct mb_kernel *kernel = mb_registry_at(i);
        struct mb_tune_candidate *candidate = &candidates[count];
        if (kernel->activation != activation || (mask >> kernel->isa & 1) == 0 ||
            (kernel->isa == MB_ISA_REFERENCE && count > 0) ||
            !mb_space_candidate(kernel, format, shape, m, NULL, limits, residency, candidate))
            continue;
        count++;
    }
    qsort(candidates, count, sizeof *candidates, compare_bounds);
    return count;
}
