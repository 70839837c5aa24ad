/* SPDX-License-Identifier: Apache-2.0 */
/* From a profile and a sensitivity table to predictions. What a product costs depends on where the
 * weights are, and where they are depends on the mix's own size: so there is one problem per
 * residency class, and a mix is predicted by the one that its size is in. */
#include "cli/forecast.h"
#include "model/importance.h"
#include "tuner/accelerator.h"
#include "tuner/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPEED_REPEATS = 3 };

static bool has_floats(const struct mb_model *model)
{
    bool found = false;
    for (size_t i = 0; i < mb_model_tensor_count(model) && !found; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        const struct mb_format_info *info = mb_format_info(tensor->format);
        found = tensor->quantizable && info != NULL && info->block_k == 1;
    }
    return found;
}

/* Keys and values are read faster the less the weights push them out of the caches, and floats push
 * three to four times as hard as what a plan makes of them: those are timed as 4 bits, rounded
 * quickly. */
static enum mb_status create_typical(struct mb_cli *cli, struct mb_model *model,
                                     struct mb_threads *threads, struct mb_network **network)
{
    struct mb_mix mix;
    if (!has_floats(model))
        return mb_network_create(model, MB_NUMERICS_KERNEL, threads, network, &cli->error);
    enum mb_status status = mb_mix_uniform(cli, model, MB_FORMAT_Q4_0, &mix);
    if (status != MB_OK)
        return status;
    status = mb_network_create_mix(model, mix.formats, NULL, MB_NUMERICS_KERNEL, threads,
                                   mb_stage_progress(cli), network, &cli->error);
    mb_mix_free(&mix);
    return status;
}

static enum mb_status measure_fixed_cost(struct mb_cli *cli, struct mb_model *model,
                                         struct mb_threads *threads,
                                         const struct mb_offload_target *target,
                                         struct mb_fixed_cost *fixed, bool *measured)
{
    struct mb_network *network = NULL;
    struct mb_speed speed = {.size = sizeof speed};
    mb_stage_begin(cli, "timing attention, norms and embeddings");
    enum mb_status status = create_typical(cli, model, threads, &network);
    if (status == MB_ERR_UNSUPPORTED) {
        mb_stage_end(cli);
        mb_warn(cli, "%s; speeds are of the matrix products alone", cli->error.message);
        cli->error = (struct mb_error){0};
        return MB_OK;
    }
    if (status == MB_OK)
        status = mb_network_offload(network, target, &cli->error);
    if (status == MB_OK)
        status =
            mb_network_speed(&network, 1,
                             &(struct mb_speed_options){.size = sizeof(struct mb_speed_options),
                                                        .context = fixed->context,
                                                        .repeats = SPEED_REPEATS,
                                                        .progress = mb_stage_progress(cli)},
                             &speed, &cli->error);
    mb_stage_end(cli);
    mb_network_destroy(network);
    if (status == MB_OK) {
        fixed->rough = !mb_step_check_quiet(cli, &speed);
        *measured = true;
        fixed->decode_ns = fmax(speed.decode_ns - speed.decode_matmul_ns, 0);
        fixed->prefill_ns = fmax(speed.prefill_ns - speed.prefill_matmul_ns, 0);
        fixed->kv_bytes = (double)speed.kv_bytes;
    }
    mb_speed_free(&speed);
    return status;
}

enum mb_status mb_step_fixed_cost(struct mb_cli *cli, struct mb_model *model,
                                  struct mb_threads *threads, struct mb_profile *profile,
                                  const struct mb_offload_target *target, size_t context,
                                  bool again, struct mb_fixed_cost *fixed, bool *measured)
{
    bool fresh = false;
    const char *hash = mb_model_hash(model);
    *fixed = (struct mb_fixed_cost){
        .threads = mb_threads_count(threads), .context = context, .revision = MB_GRAPH_REVISION};
    if (hash == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    (void)snprintf(fixed->model, sizeof fixed->model, "%s", hash);
    const struct mb_fixed_cost *known =
        profile != NULL ? mb_profile_fixed_cost(profile, fixed) : NULL;
    enum mb_status status = MB_OK;
    if (known != NULL && !(known->rough && again))
        *fixed = *known;
    else
        status = measure_fixed_cost(cli, model, threads, target, fixed, &fresh);
    if (status == MB_OK && fresh && profile != NULL)
        status = mb_profile_put_fixed_cost(profile, fixed);
    if (measured != NULL)
        *measured = fresh;
    return status;
}

/* ---- building ---- */

/* Of a mixture's experts, those that a token goes through; 0: the file does not say. */
static size_t experts_used(const struct mb_model *model)
{
    char key[128];
    (void)snprintf(key, sizeof key, "%.100s.expert_used_count", mb_model_architecture(model));
    return (size_t)mb_model_uint(model, key, 0);
}

struct mb_unit_source *mb_unit_sources(const struct mb_model *model, size_t *count)
{
    const size_t used = experts_used(model);
    const size_t tensors = mb_model_tensor_count(model);
    struct mb_unit_source *sources = calloc(tensors + 1, sizeof *sources);
    *count = 0;
    for (size_t i = 0; sources != NULL && i < tensors; i++) {
        const struct mb_tensor *tensor = mb_model_tensor_at(model, i);
        if (!tensor->quantizable)
            continue;
        const bool embedding = tensor->role == MB_ROLE_EMBEDDING;
        sources[(*count)++] = (struct mb_unit_source){
            .name = tensor->name,
            .tensor = i,
            .n = tensor->n,
            .k = tensor->k,
            .is_embedding = embedding,
            .is_output = tensor->role == MB_ROLE_OUTPUT || (embedding && mb_model_tied(model)),
            .source = tensor->format,
            .pinned = MB_FORMAT_NONE,
            .experts = mb_tensor_matrices(tensor),
            .used = used,
        };
    }
    return sources;
}

/* What the table has, and the file's own format where that is one float format throughout: keeping
 * a tensor in it is a choice that costs no loss. */
static void candidate_formats(const struct mb_forecast_request *request,
                              const struct mb_unit_source *sources, size_t count,
                              struct mb_format_list *formats)
{
    *formats = (struct mb_format_list){0};
    if (request->formats != NULL && request->formats->count > 0) {
        *formats = *request->formats;
        return;
    }
    const size_t columns = request->table->format_count;
    for (size_t f = 0; f < columns && f < 63; f++)
        formats->at[formats->count++] = request->table->formats[f];
    enum mb_format source = count > 0 ? sources[0].source : MB_FORMAT_NONE;
    for (size_t i = 1; i < count; i++)
        source = sources[i].source == source ? source : MB_FORMAT_NONE;
    const struct mb_format_info *info = mb_format_info(source);
    if (info != NULL && info->block_k == 1)
        formats->at[formats->count++] = source;
}

size_t mb_cost_threads(const struct mb_profile *profile, size_t threads)
{
    return profile == NULL || mb_profile_is_of_cpu(profile) ? threads : MB_ACCELERATOR_THREADS;
}

enum mb_status mb_check_sources(struct mb_cli *cli, const struct mb_model *model,
                                const struct mb_unit_source *sources, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (sources[i].source == MB_FORMAT_NONE)
            return mb_error_set(&cli->error, MB_ERR_UNSUPPORTED, -1,
                                "tensor '%s' has ggml type %d, which mixbit can't read yet",
                                sources[i].name,
                                (int)mb_model_tensor_at(model, sources[i].tensor)->type);
    return MB_OK;
}

enum mb_status mb_forecast_create(struct mb_cli *cli, struct mb_model *model,
                                  const struct mb_forecast_request *request,
                                  struct mb_forecast *forecast)
{
    size_t count;
    const size_t threads = mb_cost_threads(request->profile, request->threads);
    *forecast = (struct mb_forecast){
        .model = model, .profile = request->profile, .threads = threads, .fixed = request->fixed};
    memcpy(forecast->importance_hash, request->table->importance_hash,
           sizeof forecast->importance_hash);
    memcpy(forecast->feedback_hash, request->table->feedback_hash, sizeof forecast->feedback_hash);
    if (request->aim != NULL)
        forecast->aim = *request->aim;
    struct mb_unit_source *sources = mb_unit_sources(model, &count);
    if (sources == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    struct mb_format_list formats;
    candidate_formats(request, sources, count, &formats);
    struct mb_problem_options options = {
        .size = sizeof options,
        .sources = sources,
        .source_count = count,
        .formats = formats.at,
        .format_count = formats.count,
        .sensitivity = request->table,
        .profile = request->profile,
        .threads = threads,
        .last_logits = request->last_logits,
    };
    options.fixed[MB_QUANTITY_BYTES] = mb_fixed_bytes(model);
    options.fixed[MB_QUANTITY_DECODE] = request->fixed.decode_ns;
    options.fixed[MB_QUANTITY_PREFILL] = request->fixed.prefill_ns;
    options.scale[MB_QUANTITY_DECODE] = request->fixed.decode_scale;
    options.scale[MB_QUANTITY_PREFILL] = request->fixed.prefill_scale;
    enum mb_status status = mb_check_sources(cli, model, sources, count);
    if (status == MB_OK)
        status = mb_constraints_apply(cli, request->constraints,
                                      request->table->importance_hash[0] != '\0', &formats, sources,
                                      count, &forecast->group);
    size_t built = 0;
    for (int r = 0; status == MB_OK && r < MB_RESIDENCY_COUNT; r++) {
        options.residency = (enum mb_residency)r;
        const enum mb_status made = mb_problem_build(&options, &forecast->problem[r],
                                                     &forecast->interpolated[r], &cli->error);
        built += made == MB_OK;
        if (made != MB_OK && made != MB_ERR_ARGUMENT)
            status = made;
    }
    free(sources);
    if (status == MB_OK && built == 0) /* the last reason stands: a format or a time is missing */
        status = cli->error.status = MB_ERR_STALE;
    if (status == MB_OK)
        cli->error = (struct mb_error){0};
    else
        mb_forecast_free(forecast);
    return status;
}

void mb_forecast_free(struct mb_forecast *forecast)
{
    for (int r = 0; r < MB_RESIDENCY_COUNT; r++)
        mb_problem_free(forecast->problem[r]);
    free(forecast->group);
    *forecast = (struct mb_forecast){0};
}

/* ---- residency ---- */

double mb_walked_bytes(const struct mb_problem *problem, const size_t *choice)
{
    double bytes = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        if (!problem->units[u].is_embedding || problem->units[u].is_output)
            bytes += problem->units[u].candidates[choice[u]].bytes;
    return bytes;
}

enum mb_residency mb_forecast_residency(const struct mb_forecast *forecast, double bytes)
{
    struct mb_device_info device = {.size = sizeof device};
    if (mb_device_info(&device) != MB_OK)
        return MB_RESIDENCY_MEMORY;
    return mb_residency_of(&device, (size_t)bytes, forecast->threads);
}

const struct mb_problem *mb_forecast_problem(const struct mb_forecast *forecast,
                                             enum mb_residency r)
{
    for (int i = (int)r; i < MB_RESIDENCY_COUNT; i++)
        if (forecast->problem[i] != NULL)
            return forecast->problem[i];
    for (int i = (int)r; i >= 0; i--)
        if (forecast->problem[i] != NULL)
            return forecast->problem[i];
    return NULL;
}

bool mb_forecast_choice(const struct mb_forecast *forecast, const struct mb_problem *problem,
                        const struct mb_mix *mix, size_t *choice)
{
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = mb_mix_format(forecast->model, mix, unit->tensor);
        size_t c = 0;
        while (c < unit->candidate_count && unit->candidates[c].format != format)
            c++;
        if (c == unit->candidate_count)
            return false;
        choice[u] = c;
    }
    return true;
}

void mb_forecast_mix(const struct mb_forecast *forecast, const struct mb_mix *mix,
                     double total[MB_QUANTITY_COUNT])
{
    for (int q = 0; q < MB_QUANTITY_COUNT; q++)
        total[q] = NAN;
    total[MB_QUANTITY_BYTES] = mb_mix_bytes(forecast->model, mix);
    const struct mb_problem *problem = mb_forecast_problem(forecast, MB_RESIDENCY_MEMORY);
    size_t *choice = problem != NULL ? calloc(problem->unit_count + 1, sizeof *choice) : NULL;
    if (choice != NULL && mb_forecast_choice(forecast, problem, mix, choice)) {
        problem = mb_forecast_problem(
            forecast, mb_forecast_residency(forecast, mb_walked_bytes(problem, choice)));
        if (mb_forecast_choice(forecast, problem, mix, choice)) {
            mb_problem_totals(problem, choice, total);
            total[MB_QUANTITY_BYTES] = mb_mix_bytes(forecast->model, mix);
        }
    }
    free(choice);
}

bool mb_forecast_allows(const struct mb_forecast *forecast, const struct mb_mix *mix)
{
    const struct mb_problem *problem = mb_forecast_problem(forecast, MB_RESIDENCY_MEMORY);
    if (problem == NULL)
        return false;
    struct mb_grouping grouping;
    size_t *choice = calloc(2 * problem->unit_count + 1, sizeof *choice);
    bool allowed = choice != NULL && mb_forecast_choice(forecast, problem, mix, choice);
    if (allowed && forecast->group != NULL) {
        allowed = mb_group_units(problem, forecast->group, &grouping, NULL) == MB_OK;
        if (allowed)
            allowed = mb_grouping_merge(problem, &grouping, choice, choice + problem->unit_count);
        mb_grouping_free(&grouping);
    }
    free(choice);
    return allowed;
}
