/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets as people say them (file size, memory, tokens per second, nats) turned into the solver's
 * limits on totals (bytes, ns per token, loss). */
#include "cli/steps.h"

#include <math.h>
#include <stdlib.h>

const char *const mb_minimize_names[] = {"kl", "decode", "prefill", "size", NULL};

static const double DEFAULT_BITS = 4.5, FASTEST_BITS = 4;

enum mb_quantity mb_minimize_quantity(int minimize)
{
    static const enum mb_quantity quantities[] = {MB_QUANTITY_LOSS, MB_QUANTITY_DECODE,
                                                  MB_QUANTITY_PREFILL, MB_QUANTITY_BYTES};
    return quantities[minimize];
}

bool mb_budget_given(const struct mb_budget_options *options)
{
    return options->max_size.bytes > 0 || options->max_size.bits_per_weight > 0 ||
           options->max_ram.bytes > 0 || options->max_ram.bits_per_weight > 0 ||
           options->min_decode > 0 || options->min_prefill > 0 || options->max_kl > 0 ||
           options->weights != NULL;
}

/* Bits per weight count the weights of the tensors that are quantized; the rest of the file is
 * fixed and comes on top. */
static double bytes_of_bits(const struct mb_model *model, double bits)
{
    return mb_fixed_bytes(model) + mb_quantizable_weights(model) * bits / 8;
}

enum mb_status mb_budget_resolve(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 const struct mb_budget_options *options, struct mb_budget *budget)
{
    const bool timed = forecast->profile != NULL;
    *budget = (struct mb_budget){{0}};
    if (options->max_ram.bits_per_weight > 0)
        return mb_usage(cli, "--max-ram: expected bytes like 80M or 80Mi; bits per weight go with "
                             "--max-size");
    if (!timed && (options->min_decode > 0 || options->min_prefill > 0))
        return mb_usage(cli, "--min-decode and --min-prefill need a profile");
    double bytes = options->max_size.bytes;
    if (options->max_size.bits_per_weight > 0)
        bytes = bytes_of_bits(forecast->model, options->max_size.bits_per_weight);
    budget->max[MB_QUANTITY_BYTES] = bytes;
    if (options->min_decode > 0)
        budget->max[MB_QUANTITY_DECODE] = 1e9 / options->min_decode;
    if (options->min_prefill > 0)
        budget->max[MB_QUANTITY_PREFILL] = 1e9 / options->min_prefill;
    budget->max[MB_QUANTITY_LOSS] = options->max_kl;
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        if (!isfinite(budget->max[q]))
            return mb_usage(cli, "a budget is so small or large that it can't be computed with");
    return MB_OK;
}

void mb_budget_default(const struct mb_model *model, struct mb_budget *budget)
{
    *budget = (struct mb_budget){{0}};
    budget->max[MB_QUANTITY_BYTES] = bytes_of_bits(model, DEFAULT_BITS);
}

bool mb_budget_may_refer(const struct mb_mix *mix, double bytes, const struct mb_budget *budget)
{
    const double slack = 5e-4; /* padding and metadata of a file */
    const struct mb_format_info *info = mb_format_info(mb_format_by_name(mix->name));
    return mix->kind == MB_MIX_UNIFORM && info != NULL && info->bits >= FASTEST_BITS &&
           bytes <= budget->max[MB_QUANTITY_BYTES] * (1 + slack);
}
