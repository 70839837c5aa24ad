/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan aims at where that isn't one quantity: weights as people type them, and the choice of
 * allocator. Each is checked before any work, and said in words for the plan file. */
#include "cli/steps.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const mb_allocator_names[] = {"exact", "kl-lens-a", "kl-lens-b", NULL};

/* Names of weights. `latency` is decode, unless decode or prefill are named. */
static const struct {
    const char *name;
    enum mb_quantity quantity;
} weights[] = {{"memory", MB_QUANTITY_BYTES},
               {"latency", MB_QUANTITY_DECODE},
               {"accuracy", MB_QUANTITY_LOSS},
               {"decode", MB_QUANTITY_DECODE},
               {"prefill", MB_QUANTITY_PREFILL}};
enum { LATENCY = 1, DECODE = 3, PREFILL = 4, WEIGHT_COUNT = 5 };

static enum mb_status parse_weight(struct mb_cli *cli, const char *part, size_t length,
                                   bool given[WEIGHT_COUNT], double weight[MB_QUANTITY_COUNT])
{
    char text[64];
    const char *names[WEIGHT_COUNT];
    if (length >= sizeof text)
        return mb_usage(cli, "--weights: expected NAME=NUMBER, found '%.60s'", part);
    memcpy(text, part, length);
    text[length] = '\0';
    char *equals = strchr(text, '=');
    if (equals == NULL)
        return mb_usage(cli, "--weights: expected NAME=NUMBER, found '%s'", text);
    *equals = '\0';
    size_t w = 0;
    for (; w < WEIGHT_COUNT && strcmp(text, weights[w].name) != 0; w++)
        names[w] = weights[w].name;
    if (w == WEIGHT_COUNT) {
        const char *near = mb_suggest(text, names, WEIGHT_COUNT);
        return mb_usage(cli,
                        "--weights: unknown name '%s'%s%s%s; names are memory, latency (or decode "
                        "and prefill) and accuracy",
                        text, near != NULL ? ", did you mean '" : "", near != NULL ? near : "",
                        near != NULL ? "'?" : "");
    }
    if (given[w])
        return mb_usage(cli, "--weights: '%s' is there twice", text);
    given[w] = true;
    char *end;
    const char *number = equals + 1;
    errno = 0;
    const double value = strtod(number, &end);
    if (end == number || *end != '\0' || strpbrk(number, "xXnN \t") != NULL || !isfinite(value) ||
        value < 0)
        return mb_usage(cli, "--weights: %s: expected a number of 0 or more, found '%s'", text,
                        number);
    weight[weights[w].quantity] = value;
    return MB_OK;
}

static enum mb_status parse_weights(struct mb_cli *cli, const char *text, struct mb_aim *aim)
{
    bool given[WEIGHT_COUNT] = {false};
    double *weight = aim->weighting.weight, most = 0;
    for (const char *at = text; at != NULL;) {
        const char *comma = strchr(at, ',');
        const size_t length = comma != NULL ? (size_t)(comma - at) : strlen(at);
        const enum mb_status status = parse_weight(cli, at, length, given, weight);
        if (status != MB_OK)
            return status;
        at = comma != NULL ? comma + 1 : NULL;
    }
    if (given[LATENCY] && (given[DECODE] || given[PREFILL]))
        return mb_usage(cli, "--weights: latency is decode; give decode and prefill in its place, "
                             "not beside it");
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        most = fmax(most, weight[q]);
    if (most <= 0)
        return mb_usage(cli, "--weights: all weights are 0; something has to matter");
    size_t used = (size_t)snprintf(aim->objective, sizeof aim->objective, "weights ");
    for (size_t w = 0, told = 0; w < WEIGHT_COUNT; w++)
        if (given[w])
            used += (size_t)snprintf(aim->objective + used, sizeof aim->objective - used, "%s%s=%g",
                                     told++ > 0 ? "," : "", weights[w].name,
                                     weight[weights[w].quantity]);
    return MB_OK;
}

static enum mb_status resolve_weights(struct mb_cli *cli, const struct mb_budget_options *options,
                                      struct mb_aim *aim)
{
    const bool by_layer = options->constraints.granularity > 0;
    aim->weighting.contribution = MB_FORMAT_NONE;
    if (options->contribution != NULL && (options->weights == NULL || !by_layer))
        return mb_usage(cli, "--contribution goes with --weights and --granularity layer");
    if (options->weights == NULL)
        return MB_OK;
    if (options->minimize != 0)
        return mb_usage(cli, "--weights and --minimize both say what to make small; choose one");
    const bool sized = options->max_size.bytes > 0 || options->max_size.bits_per_weight > 0 ||
                       options->max_ram.bytes > 0;
    if (sized && options->min_decode > 0 && options->min_prefill > 0 && options->max_kl > 0)
        return mb_usage(cli, "--weights goes with budgets on three of size, decode, prefill and "
                             "loss; leave one out");
    aim->weighted = true;
    aim->weighting.normalization = by_layer ? MB_NORMALIZE_UNIT : MB_NORMALIZE_MODEL;
    enum mb_status status = parse_weights(cli, options->weights, aim);
    if (status == MB_OK && options->contribution != NULL) {
        status = mb_parse_format("--contribution", options->contribution,
                                 &aim->weighting.contribution, &cli->error);
        const size_t used = strlen(aim->objective);
        if (status == MB_OK)
            (void)snprintf(aim->objective + used, sizeof aim->objective - used, ", contribution %s",
                           mb_format_info(aim->weighting.contribution)->name);
    }
    return status;
}

static enum mb_status resolve_allocator(struct mb_cli *cli, const struct mb_budget_options *options,
                                        struct mb_aim *aim)
{
    const char *name = mb_allocator_names[options->allocator];
    struct mb_kl_lens_options *kl_lens = &aim->kl_lens;
    if (options->allocator == 0) {
        if (options->cut > 0 || options->fixed_reference)
            return mb_usage(cli, "--cut and --fixed-reference go with --allocator kl-lens-a or "
                                 "kl-lens-b");
        return MB_OK;
    }
    if (options->weights != NULL || options->minimize != 0 || options->min_decode > 0 ||
        options->min_prefill > 0 || options->max_kl > 0 || options->max_ram.bytes > 0)
        return mb_usage(cli, "--allocator %s knows losses and --max-size only", name);
    *kl_lens = (struct mb_kl_lens_options){
        .kind = options->allocator == 1 ? MB_KL_LENS_A : MB_KL_LENS_B,
        .gamma = options->gamma,
        .fixed_reference = options->fixed_reference,
        .cuts = options->cuts,
        .cut = options->cut,
    };
    const bool sized = options->max_size.bytes > 0 || options->max_size.bits_per_weight > 0;
    if (kl_lens->kind == MB_KL_LENS_B && kl_lens->cut == 0 && !sized)
        return mb_usage(cli, "--allocator kl-lens-b needs --cut or --max-size");
    if (kl_lens->cut > kl_lens->cuts)
        return mb_usage(cli, "--cut: expected at most %zu, as many as --cuts", kl_lens->cuts);
    if (kl_lens->gamma < 1)
        return mb_usage(cli, "--gamma: expected 1 or more: perplexity over its reference");
    aim->greedy = true;
    if (kl_lens->kind == MB_KL_LENS_A)
        (void)snprintf(aim->objective, sizeof aim->objective, "%s gamma %g%s", name, kl_lens->gamma,
                       kl_lens->fixed_reference ? ", fixed reference" : "");
    else if (kl_lens->cut > 0)
        (void)snprintf(aim->objective, sizeof aim->objective, "%s cut %zu of %zu", name,
                       kl_lens->cut, kl_lens->cuts);
    else
        (void)snprintf(aim->objective, sizeof aim->objective, "%s first cut of %zu that fits", name,
                       kl_lens->cuts);
    return MB_OK;
}

enum mb_status mb_aim_resolve(struct mb_cli *cli, const struct mb_budget_options *options,
                              struct mb_aim *aim)
{
    *aim = (struct mb_aim){.weighted = false};
    enum mb_status status = resolve_weights(cli, options, aim);
    if (status == MB_OK)
        status = resolve_allocator(cli, options, aim);
    mb_constraints_groups(&options->constraints, aim->groups, sizeof aim->groups);
    return status;
}
