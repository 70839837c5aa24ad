/* SPDX-License-Identifier: Apache-2.0 */
/* From a profile and a sensitivity table to the solver's problem: what each format costs each unit.
 *
 * Time per token is the sum of measured products at the exact shape, threads and residency: decode
 * is the m = 1 product, prefill the m = 512 product over 512. A product's measured time includes
 * preparing its activations, but a network prepares an input once and shares it: q, k and v read
 * one, gate and up another. Each of the sharing units is therefore charged its product without
 * preparation plus an equal part of one preparation, which adds up to exactly one when they take
 * the same activation type (with two types the sum is low by at most one preparation).
 *
 * A token goes through a few of a mixture's experts: so many products of one expert's size in
 * decoding; in prefill one per expert, of the rows that it gets when all get as many. */
#include "mixbit/plan.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL_TOKENS 512

/* Units that read the same activations: the layer's prefix and the endings that share it. */
static const char *const sharing[][3] = {{"attn_q.weight", "attn_k.weight", "attn_v.weight"},
                                         {"ffn_gate.weight", "ffn_up.weight", NULL},
                                         {"ffn_gate_exps.weight", "ffn_up_exps.weight", NULL}};

/* The length of "blk.N." when `name` is that followed by `ending`; 0 otherwise. */
static size_t prefix_before(const char *name, const char *ending)
{
    const size_t length = strlen(name), tail = strlen(ending);
    if (length <= tail || strcmp(name + length - tail, ending) != 0 ||
        name[length - tail - 1] != '.')
        return 0;
    return length - tail;
}

/* How many of the sources read the same input as source i, itself included. */
static size_t sharers(const struct mb_problem_options *options, size_t i)
{
    const char *name = options->sources[i].name;
    for (size_t group = 0; group < sizeof sharing / sizeof *sharing; group++) {
        size_t prefix = 0;
        for (size_t e = 0; prefix == 0 && e < 3 && sharing[group][e] != NULL; e++)
            prefix = prefix_before(name, sharing[group][e]);
        if (prefix == 0)
            continue;
        size_t count = 0;
        for (size_t other = 0; other < options->source_count; other++)
            for (size_t e = 0; e < 3 && sharing[group][e] != NULL; e++)
                if (options->sources[other].k == options->sources[i].k &&
                    prefix_before(options->sources[other].name, sharing[group][e]) == prefix &&
                    memcmp(options->sources[other].name, name, prefix) == 0)
                    count++;
        return count;
    }
    return 1;
}

/* Why a product has no time: nothing like it was measured, or another build's kernel was. */
static enum mb_status refuse(const struct mb_problem_options *options,
                             const struct mb_unit_source *source, enum mb_format format, size_t m,
                             struct mb_error *error)
{
    const char *name = mb_format_info(format)->name;
    for (size_t i = 0; i < mb_profile_count(options->profile); i++) {
        const struct mb_cost *cost = mb_profile_at(options->profile, i);
        if (cost->format == format && !mb_cost_is_current(cost))
            return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                                "the profile's times for %s are of kernels that this build does "
                                "not have, or has changed (%s, revision %u): run `mixbit tune` "
                                "again",
                                name, cost->kernel, cost->revision);
    }
    return mb_error_set(
        error, MB_ERR_ARGUMENT, -1,
        "the profile has no time for %s (%s, %zu x %zu, m %zu, %zu threads, weights in %s): "
        "run `mixbit tune` for this model",
        source->name, name, source->n, source->k, m, options->threads,
        mb_residency_name(options->residency));
}

/* The cost of m rows; where just so many were not timed, on the line between the nearest numbers
 * that were. */
static enum mb_cost_quality cost_of_rows(const struct mb_problem_options *options,
                                         enum mb_format format, size_t n, size_t k, size_t m,
                                         struct mb_cost *cost)
{
    static const size_t timed[] = {1, 8, 16, 32, 64, 128, 256, 512};
    const struct mb_profile *profile = options->profile;
    struct mb_cost below = {.m = 0}, above;
    const enum mb_cost_quality quality =
        mb_profile_cost(profile, format, n, k, m, options->threads, options->residency, cost);
    if (quality != MB_COST_NONE)
        return quality;
    for (size_t i = 0; i < sizeof timed / sizeof *timed; i++) {
        if (mb_profile_cost(profile, format, n, k, timed[i], options->threads, options->residency,
                            &above) == MB_COST_NONE)
            continue;
        if (timed[i] < m) {
            below = above;
            continue;
        }
        const double at = below.m > 0 ? (double)(m - below.m) / (double)(above.m - below.m)
                                      : (double)m / (double)above.m;
        *cost = above;
        cost->m = m;
        cost->median_ns = below.median_ns + at * (above.median_ns - below.median_ns);
        cost->prepare_ns = below.prepare_ns + at * (above.prepare_ns - below.prepare_ns);
        return MB_COST_INTERPOLATED;
    }
    return MB_COST_NONE;
}

/* The products that m tokens mean for a unit. */
struct load {
    size_t n, rows;
    double products;
};

static struct load load_of(const struct mb_unit_source *source, size_t m)
{
    if (source->experts < 2 || source->used == 0)
        return (struct load){source->n, m, 1};
    const size_t all = m * source->used, experts = source->experts;
    const size_t reached = all < experts ? all : experts;
    return (struct load){source->n / experts, (all + reached / 2) / reached, (double)reached};
}

/* ns that m tokens take, shared preparation counted in part; adds 1 to *interpolated when that was
 * not measured. */
static enum mb_status product_ns(const struct mb_problem_options *options,
                                 const struct mb_unit_source *source, enum mb_format format,
                                 size_t m, size_t share, double *ns, size_t *interpolated,
                                 struct mb_error *error)
{
    struct mb_cost cost;
    memset(&cost, 0, sizeof cost);
    const struct load load = load_of(source, m);
    const enum mb_cost_quality quality =
        cost_of_rows(options, format, load.n, source->k, load.rows, &cost);
    if (quality == MB_COST_NONE || !isfinite(cost.median_ns) || cost.median_ns < 0)
        return refuse(options, source, format, m, error);
    if (quality == MB_COST_INTERPOLATED)
        (*interpolated)++;
    double prepare = cost.prepare_ns;
    if (!(prepare >= 0) || prepare > cost.median_ns)
        prepare = 0;
    *ns = load.products * (cost.median_ns - prepare + prepare / (double)share);
    return MB_OK;
}

static double scale_of(const struct mb_problem_options *options, enum mb_quantity quantity)
{
    return options->scale[quantity] > 0 ? options->scale[quantity] : 1;
}

/* The loss of a unit in `format` (what `asked` falls back to). A table may name either. */
static enum mb_status unit_loss(const struct mb_problem_options *options,
                                const struct mb_unit_source *source, enum mb_format asked,
                                struct mb_candidate *candidate, struct mb_error *error)
{
    /* Every value of ours is an f32 value, so these two lose nothing. */
    if (candidate->format == source->source || candidate->format == MB_FORMAT_F32)
        return MB_OK;
    const enum mb_format columns[] = {candidate->format, asked};
    for (size_t i = 0; options->sensitivity != NULL && i < 2; i++) {
        const struct mb_loss *loss =
            mb_sensitivity_at(options->sensitivity, source->name, columns[i]);
        if (loss == NULL || !loss->known)
            continue;
        candidate->loss = loss->mean;
        candidate->loss_low = loss->low;
        candidate->loss_high = loss->high;
        return MB_OK;
    }
    return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                        "the sensitivity table has no entry for %s in %s: sense that format too, "
                        "or leave it out of the candidates",
                        source->name, mb_format_info(candidate->format)->name);
}

static enum mb_status add_candidate(const struct mb_problem_options *options,
                                    const struct mb_unit_source *source, enum mb_format asked,
                                    size_t share, struct mb_unit *unit, size_t *interpolated,
                                    struct mb_error *error)
{
    if (mb_format_info(asked) == NULL)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1, "unknown format id %d for %s", (int)asked,
                            source->name);
    struct mb_candidate candidate = {.format = mb_format_fit(asked, source->k)};
    if (source->excluded >> (unsigned)candidate.format & 1)
        return MB_OK;
    for (size_t i = 0; i < unit->candidate_count; i++)
        if (unit->candidates[i].format == candidate.format)
            return MB_OK;
    size_t bytes;
    if (!mb_mul_size(source->n, mb_format_row_bytes(candidate.format, source->k), &bytes) ||
        bytes == 0)
        return mb_error_set(error, MB_ERR_SHAPE, -1, "%s: %zu x %zu weights cannot be stored in %s",
                            source->name, source->n, source->k,
                            mb_format_info(candidate.format)->name);
    candidate.bytes = (double)bytes;
    enum mb_status status = unit_loss(options, source, asked, &candidate, error);
    const bool looked_up_only = source->is_embedding && !source->is_output;
    if (status == MB_OK && options->profile != NULL && !looked_up_only) {
        status = product_ns(options, source, candidate.format, 1, share, &candidate.decode_ns,
                            interpolated, error);
        if (options->last_logits && source->is_output)
            candidate.prefill_ns = candidate.decode_ns;
        else if (status == MB_OK)
            status = product_ns(options, source, candidate.format, PREFILL_TOKENS, share,
                                &candidate.prefill_ns, interpolated, error);
        candidate.prefill_ns *= scale_of(options, MB_QUANTITY_PREFILL) / PREFILL_TOKENS;
        candidate.decode_ns *= scale_of(options, MB_QUANTITY_DECODE);
    }
    if (status == MB_OK)
        unit->candidates[unit->candidate_count++] = candidate;
    return status;
}

static enum mb_status build_unit(const struct mb_problem_options *options, size_t i,
                                 struct mb_unit *unit, size_t *interpolated, struct mb_error *error)
{
    const struct mb_unit_source *source = &options->sources[i];
    const bool pinned = source->pinned != MB_FORMAT_NONE;
    const size_t count = pinned ? 1 : options->format_count;
    if (snprintf(unit->name, sizeof unit->name, "%s", source->name) >= (int)sizeof unit->name)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "tensor name of more than %zu characters: %s", sizeof unit->name - 1,
                            source->name);
    unit->tensor = source->tensor;
    unit->n = source->n;
    unit->k = source->k;
    unit->is_embedding = source->is_embedding;
    unit->is_output = source->is_output;
    unit->candidates = calloc(count, sizeof *unit->candidates);
    if (unit->candidates == NULL)
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu candidates", count);
    const size_t share = sharers(options, i);
    enum mb_status status = MB_OK;
    for (size_t c = 0; status == MB_OK && c < count; c++)
        status = add_candidate(options, source, pinned ? source->pinned : options->formats[c],
                               share, unit, interpolated, error);
    if (status == MB_OK && unit->candidate_count == 0)
        status = mb_error_set(error, MB_ERR_ARGUMENT, -1, "%s: every candidate format is excluded",
                              source->name);
    return status;
}

enum mb_status mb_problem_build(const struct mb_problem_options *options,
                                struct mb_problem **problem, size_t *interpolated,
                                struct mb_error *error)
{
    *problem = NULL;
    size_t estimated = 0;
    if (options->source_count == 0 || options->format_count == 0)
        return mb_error_set(error, MB_ERR_ARGUMENT, -1,
                            "nothing to solve: %zu tensors to quantize, %zu formats to choose from",
                            options->source_count, options->format_count);
    struct mb_problem *made = calloc(1, sizeof *made);
    if (made != NULL)
        made->units = calloc(options->source_count, sizeof *made->units);
    if (made == NULL || made->units == NULL) {
        mb_problem_free(made);
        return mb_error_set(error, MB_ERR_MEMORY, -1, "out of memory for %zu units",
                            options->source_count);
    }
    made->unit_count = options->source_count;
    memcpy(made->fixed, options->fixed, sizeof made->fixed);
    enum mb_status status = MB_OK;
    for (size_t i = 0; status == MB_OK && i < options->source_count; i++)
        status = build_unit(options, i, &made->units[i], &estimated, error);
    if (status != MB_OK) {
        mb_problem_free(made);
        return status;
    }
    if (interpolated != NULL)
        *interpolated = estimated;
    *problem = made;
    return MB_OK;
}

void mb_problem_free(struct mb_problem *problem)
{
    if (problem == NULL)
        return;
    for (size_t i = 0; problem->units != NULL && i < problem->unit_count; i++)
        free(problem->units[i].candidates);
    free(problem->units);
    free(problem);
}
