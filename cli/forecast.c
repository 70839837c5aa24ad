/* SPDX-License-Identifier: Apache-2.0 */
/* From a profile and a sensitivity table to predictions and plans. What a product costs depends on
 * where the weights are, and where they are depends on the plan's own size: so there is one problem
 * per residency class, each solved under its class's size bound, and the best plan that is not
 * larger than its class is kept. */
#include "cli/steps.h"
#include "tuner/accelerator.h"
#include "tuner/profile.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SPEED_REPEATS = 3, RAM_ROUNDS = 8, SOLVE_SECONDS = 30 };

enum mb_status mb_step_fixed_cost(struct mb_cli *cli, struct mb_model *model,
                                  struct mb_threads *threads,
                                  const struct mb_offload_target *target, size_t context,
                                  struct mb_fixed_cost *fixed)
{
    struct mb_network *network = NULL;
    struct mb_speed speed = {.size = sizeof speed};
    *fixed = (struct mb_fixed_cost){0};
    mb_stage_begin(cli, "timing attention, norms and embeddings");
    enum mb_status status =
        mb_network_create(model, MB_NUMERICS_KERNEL, threads, &network, &cli->error);
    if (status == MB_ERR_UNSUPPORTED) {
        mb_stage_end(cli);
        mb_warn(cli, "%s; speeds are of the matrix products alone", cli->error.message);
        cli->error = (struct mb_error){0};
        return MB_OK;
    }
    if (status == MB_OK)
        status = mb_network_offload(network, target, &cli->error);
    if (status == MB_OK)
        status = mb_network_speed(&network, 1, context, SPEED_REPEATS, mb_stage_progress(cli),
                                  &speed, &cli->error);
    mb_stage_end(cli);
    mb_network_destroy(network);
    if (status == MB_OK) {
        mb_step_check_quiet(cli, &speed);
        const double decode = speed.decode_ns - speed.decode_matmul_ns;
        const double prefill = speed.prefill_ns - speed.prefill_matmul_ns;
        *fixed = (struct mb_fixed_cost){.measured = true,
                                        .decode_ns = decode > 0 ? decode : 0,
                                        .prefill_ns = prefill > 0 ? prefill : 0,
                                        .kv_bytes = (double)speed.kv_bytes};
    }
    mb_speed_free(&speed);
    return status;
}

/* ---- building ---- */

/* Pin every unit whose name matches; a pin that matches nothing, or two pins that disagree, are
 * mistakes. */
static enum mb_status apply_pins(struct mb_cli *cli, const struct mb_texts *pins,
                                 struct mb_unit_source *sources, size_t count)
{
    for (size_t p = 0; pins != NULL && p < pins->count; p++) {
        char pattern[128];
        const char *equals = strrchr(pins->at[p], '=');
        const size_t length = equals != NULL ? (size_t)(equals - pins->at[p]) : 0;
        if (length == 0 || length >= sizeof pattern)
            return mb_usage(cli, "--pin: expected PATTERN=FORMAT, found '%.60s'", pins->at[p]);
        memcpy(pattern, pins->at[p], length);
        pattern[length] = '\0';
        enum mb_format format;
        enum mb_status status = mb_parse_format("--pin", equals + 1, &format, &cli->error);
        size_t matched = 0;
        for (size_t i = 0; status == MB_OK && i < count; i++) {
            if (fnmatch(pattern, sources[i].name, 0) != 0)
                continue;
            matched++;
            if (sources[i].pinned != MB_FORMAT_NONE && sources[i].pinned != format)
                status =
                    mb_usage(cli, "--pin: '%s' is pinned to both %s and %s", sources[i].name,
                             mb_format_info(sources[i].pinned)->name, mb_format_info(format)->name);
            sources[i].pinned = format;
        }
        if (status == MB_OK && matched == 0)
            status = mb_usage(cli,
                              "--pin: no quantizable tensor matches '%s'; quote the pattern, "
                              "names are like blk.0.ffn_down.weight",
                              pattern);
        if (status != MB_OK)
            return status;
    }
    return MB_OK;
}

/* One unit per quantizable tensor; NULL when out of memory. */
static struct mb_unit_source *collect_sources(const struct mb_model *model, size_t *count)
{
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

static enum mb_status check_types(struct mb_cli *cli, const struct mb_model *model,
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
    const size_t threads = request->profile == NULL || mb_profile_is_of_cpu(request->profile)
                               ? request->threads
                               : MB_ACCELERATOR_THREADS;
    *forecast = (struct mb_forecast){
        .model = model, .profile = request->profile, .threads = threads, .fixed = request->fixed};
    memcpy(forecast->importance_hash, request->table->importance_hash,
           sizeof forecast->importance_hash);
    struct mb_unit_source *sources = collect_sources(model, &count);
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
    };
    options.fixed[MB_QUANTITY_BYTES] = mb_fixed_bytes(model);
    options.fixed[MB_QUANTITY_DECODE] = request->fixed.decode_ns;
    options.fixed[MB_QUANTITY_PREFILL] = request->fixed.prefill_ns;
    enum mb_status status = check_types(cli, model, sources, count);
    if (status == MB_OK)
        status = apply_pins(cli, request->pins, sources, count);
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
    *forecast = (struct mb_forecast){0};
}

/* ---- residency ---- */

/* Bytes a token's pass walks through, for a choice of formats. */
static double walked_bytes(const struct mb_problem *problem, const size_t *choice)
{
    double bytes = 0;
    for (size_t u = 0; u < problem->unit_count; u++)
        if (!problem->units[u].is_embedding || problem->units[u].is_output)
            bytes += problem->units[u].candidates[choice[u]].bytes;
    return bytes;
}

static enum mb_residency residency_of(const struct mb_forecast *forecast, double bytes)
{
    struct mb_device_info device = {.size = sizeof device};
    if (mb_device_info(&device) != MB_OK)
        return MB_RESIDENCY_MEMORY;
    return mb_residency_of(&device, (size_t)bytes, forecast->threads);
}

/* Largest size that still has residency r or a faster one. */
static double residency_limit(const struct mb_forecast *forecast, enum mb_residency r, double most)
{
    double low = 0, high = most;
    if (residency_of(forecast, most) <= r)
        return most;
    for (int i = 0; i < 60 && high - low > 1; i++) {
        const double middle = (low + high) / 2;
        if (residency_of(forecast, middle) <= r)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The problem for residency r, or the nearest slower one that there is, or the nearest at all. */
static const struct mb_problem *problem_for(const struct mb_forecast *forecast, enum mb_residency r)
{
    for (int i = (int)r; i < MB_RESIDENCY_COUNT; i++)
        if (forecast->problem[i] != NULL)
            return forecast->problem[i];
    for (int i = (int)r; i >= 0; i--)
        if (forecast->problem[i] != NULL)
            return forecast->problem[i];
    return NULL;
}

static bool choose(const struct mb_problem *problem, const struct mb_forecast *forecast,
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
    const struct mb_problem *problem = problem_for(forecast, MB_RESIDENCY_MEMORY);
    size_t *choice = problem != NULL ? calloc(problem->unit_count + 1, sizeof *choice) : NULL;
    if (choice != NULL && choose(problem, forecast, mix, choice)) {
        problem = problem_for(forecast, residency_of(forecast, walked_bytes(problem, choice)));
        if (choose(problem, forecast, mix, choice)) {
            mb_problem_totals(problem, choice, total);
            total[MB_QUANTITY_BYTES] = mb_mix_bytes(forecast->model, mix);
        }
    }
    free(choice);
}

/* ---- solving ---- */

static void mix_of_plan(const struct mb_forecast *forecast, const struct mb_problem *problem,
                        const struct mb_solution *solution, struct mb_mix *mix)
{
    for (size_t i = 0; i < mix->count; i++)
        mix->formats[i] = MB_FORMAT_NONE;
    for (size_t u = 0; u < problem->unit_count; u++) {
        const struct mb_unit *unit = &problem->units[u];
        const enum mb_format format = unit->candidates[solution->choice[u]].format;
        if (format != mb_model_tensor_at(forecast->model, unit->tensor)->format)
            mix->formats[unit->tensor] = format;
    }
}

/* What a solution takes in memory: packed weights and the key-value cache. */
static double ram_of(const struct mb_forecast *forecast, const struct mb_problem *problem,
                     const struct mb_solution *solution, struct mb_mix *mix)
{
    mix_of_plan(forecast, problem, solution, mix);
    return mb_mix_packed_bytes(forecast->model, mix) + forecast->fixed.kv_bytes;
}

/* Say what --max-ram would have to be: what the smallest mix within the other budgets takes. */
static enum mb_status ram_infeasible(struct mb_cli *cli, const struct mb_forecast *forecast,
                                     const struct mb_problem *problem,
                                     const struct mb_budget *budget, double max_ram_bytes,
                                     struct mb_mix *mix)
{
    struct mb_solution smallest = {0};
    const enum mb_status status = mb_solve(problem, MB_QUANTITY_BYTES, budget, 0, SOLVE_SECONDS,
                                           &smallest, NULL, &cli->error);
    if (status != MB_OK)
        return status;
    const double needed = ram_of(forecast, problem, &smallest, mix);
    mb_solution_free(&smallest);
    return mb_error_set(&cli->error, MB_ERR_INFEASIBLE, -1,
                        "no mix fits --max-ram %.3f MB: the smallest takes %.3f MB, of which the "
                        "key-value cache is %.3f MB; raise the limit or lower --ctx",
                        max_ram_bytes / 1e6, needed / 1e6, forecast->fixed.kv_bytes / 1e6);
}

/* Solve one class; with a memory limit, again under a smaller size until the packed weights fit:
 * packing pads, by an amount that depends on the formats chosen. */
static enum mb_status solve_class(struct mb_cli *cli, const struct mb_forecast *forecast,
                                  enum mb_residency r, enum mb_quantity minimize,
                                  const struct mb_budget *budget, double max_ram_bytes,
                                  struct mb_solution *solution)
{
    const struct mb_problem *problem = forecast->problem[r];
    struct mb_budget limits = *budget;
    const size_t count = mb_model_tensor_count(forecast->model);
    struct mb_mix mix = {.count = count, .formats = calloc(count + 1, sizeof *mix.formats)};
    if (mix.formats == NULL)
        return mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
    enum mb_status status = MB_ERR_INFEASIBLE;
    for (int round = 0;; round++) {
        const bool hopeless = round == RAM_ROUNDS || limits.max[MB_QUANTITY_BYTES] < 0;
        if (!hopeless)
            status =
                mb_solve(problem, minimize, &limits, 0, SOLVE_SECONDS, solution, NULL, &cli->error);
        if (round > 0 && (hopeless || status == MB_ERR_INFEASIBLE))
            status = ram_infeasible(cli, forecast, problem, budget, max_ram_bytes, &mix);
        if (hopeless || status != MB_OK || max_ram_bytes <= 0)
            break;
        const double over = ram_of(forecast, problem, solution, &mix) - max_ram_bytes;
        if (over <= 0)
            break;
        limits.max[MB_QUANTITY_BYTES] = solution->total[MB_QUANTITY_BYTES] - over;
        if (limits.max[MB_QUANTITY_BYTES] == 0)
            limits.max[MB_QUANTITY_BYTES] = -1; /* 0 would mean no limit */
        mb_solution_free(solution);
    }
    mb_mix_free(&mix);
    return status;
}

/* A solution that turned out smaller than its class is predicted where its own size puts it. The
 * problems differ in times only, so a choice means the same in each. */
static enum mb_residency settle(const struct mb_forecast *forecast, enum mb_residency r,
                                struct mb_solution *solution)
{
    const double bytes = walked_bytes(forecast->problem[r], solution->choice);
    const enum mb_residency own = residency_of(forecast, bytes);
    if (own == r || forecast->problem[own] == NULL)
        return r;
    mb_problem_totals(forecast->problem[own], solution->choice, solution->total);
    return own;
}

/* The user's limits, and the size that keeps a mix within class r. Slower classes have larger
 * mixes. */
static struct mb_budget class_limits(const struct mb_forecast *forecast, enum mb_residency r,
                                     const struct mb_budget *budget)
{
    const double unlimited = 1e15;
    struct mb_budget limits = *budget;
    const double fixed = forecast->problem[r]->fixed[MB_QUANTITY_BYTES];
    const double bound = residency_limit(forecast, r, unlimited);
    double *bytes = &limits.max[MB_QUANTITY_BYTES];
    if (bound < unlimited && (*bytes == 0 || *bytes > fixed + bound))
        *bytes = fixed + bound;
    return limits;
}

static enum mb_status make_plan(struct mb_cli *cli, const struct mb_forecast *forecast,
                                enum mb_residency r, enum mb_quantity minimize,
                                const struct mb_budget *budget, const struct mb_solution *solution,
                                struct mb_plan **plan)
{
    enum mb_status status = mb_plan_from_solution(forecast->problem[r], solution, plan);
    if (status != MB_OK)
        return mb_error_set(&cli->error, status, -1, "cannot make a plan: %s",
                            mb_status_string(status));
    (*plan)->budget = *budget;
    static const char *const objectives[MB_QUANTITY_COUNT] = {"kl", "decode", "prefill", "size"};
    (void)snprintf((*plan)->model_hash, sizeof(*plan)->model_hash, "%s",
                   mb_model_hash(forecast->model));
    (void)snprintf((*plan)->objective, sizeof(*plan)->objective, "%s", objectives[minimize]);
    memcpy((*plan)->importance_hash, forecast->importance_hash, sizeof(*plan)->importance_hash);
    if (forecast->profile != NULL)
        (void)snprintf((*plan)->device_key, sizeof(*plan)->device_key, "%s",
                       mb_profile_device(forecast->profile)->key);
    return MB_OK;
}

enum mb_status mb_forecast_solve(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, const struct mb_budget *budget,
                                 double max_ram_bytes, struct mb_plan **plan,
                                 enum mb_residency *residency)
{
    enum mb_status result = MB_ERR_INFEASIBLE;
    struct mb_error reason = {0};
    double best = INFINITY;
    *plan = NULL;
    for (int i = MB_RESIDENCY_COUNT - 1; i >= 0; i--) { /* slow to fast: large mixes first */
        const enum mb_residency r = (enum mb_residency)i;
        struct mb_solution solution = {0};
        if (forecast->problem[r] == NULL)
            continue;
        const struct mb_budget limits = class_limits(forecast, r, budget);
        enum mb_status status =
            solve_class(cli, forecast, r, minimize, &limits, max_ram_bytes, &solution);
        if (status == MB_ERR_INFEASIBLE) {
            if (reason.status == MB_OK) /* the class of large mixes says it for the user's budget */
                reason = cli->error;
            continue;
        }
        const enum mb_residency own = status == MB_OK ? settle(forecast, r, &solution) : r;
        if (status == MB_OK && solution.total[minimize] < best) {
            best = solution.total[minimize];
            mb_plan_free(*plan);
            *plan = NULL;
            status = make_plan(cli, forecast, own, minimize, budget, &solution, plan);
            *residency = own;
            result = status;
        }
        mb_solution_free(&solution);
        if (status != MB_OK) {
            mb_plan_free(*plan);
            *plan = NULL;
            return status;
        }
    }
    if (result == MB_ERR_INFEASIBLE)
        cli->error = reason;
    else
        cli->error = (struct mb_error){0};
    return result;
}

/* ---- the trade-off curve ---- */

struct curve {
    struct mb_plan **plans;
    size_t count;
};

/* Insertion sort: a curve has tens of points. */
static void sort_curve(struct curve *curve, enum mb_quantity against)
{
    for (size_t i = 1; i < curve->count; i++)
        for (size_t j = i;
             j > 0 && curve->plans[j]->total[against] < curve->plans[j - 1]->total[against]; j--) {
            struct mb_plan *held = curve->plans[j];
            curve->plans[j] = curve->plans[j - 1];
            curve->plans[j - 1] = held;
        }
}

/* Drop what costs more in `against` without being better in `minimize`. */
static void drop_dominated(struct curve *curve, enum mb_quantity minimize)
{
    double best = INFINITY;
    size_t kept = 0;
    for (size_t i = 0; i < curve->count; i++) {
        if (curve->plans[i]->total[minimize] < best) {
            best = curve->plans[i]->total[minimize];
            curve->plans[kept++] = curve->plans[i];
        } else {
            mb_plan_free(curve->plans[i]);
        }
    }
    curve->count = kept;
}

static enum mb_status add_class(struct mb_cli *cli, const struct mb_forecast *forecast,
                                enum mb_residency r, enum mb_quantity minimize,
                                enum mb_quantity against, const struct mb_budget *budget,
                                size_t points, struct curve *curve)
{
    struct mb_solution *solutions = NULL;
    size_t count = 0;
    const struct mb_budget limits = class_limits(forecast, r, budget);
    enum mb_status status = mb_solve_front(forecast->problem[r], minimize, against, &limits, points,
                                           &solutions, &count, &cli->error);
    struct mb_plan **grown = NULL;
    if (status == MB_OK) {
        grown = realloc(curve->plans, (curve->count + count + 1) * sizeof(struct mb_plan *));
        if (grown == NULL)
            status = mb_error_set(&cli->error, MB_ERR_MEMORY, -1, "out of memory");
        else
            curve->plans = grown;
    }
    for (size_t i = 0; i < count; i++) {
        if (status == MB_OK) {
            const enum mb_residency own = settle(forecast, r, &solutions[i]);
            status = make_plan(cli, forecast, own, minimize, budget, &solutions[i],
                               &curve->plans[curve->count]);
            curve->count += status == MB_OK;
        }
        mb_solution_free(&solutions[i]);
    }
    free(solutions);
    return status;
}

enum mb_status mb_forecast_front(struct mb_cli *cli, const struct mb_forecast *forecast,
                                 enum mb_quantity minimize, enum mb_quantity against,
                                 const struct mb_budget *budget, size_t points,
                                 struct mb_plan ***plans, size_t *count)
{
    struct curve curve = {0};
    struct mb_error reason = {0};
    enum mb_status status = MB_OK;
    for (int i = MB_RESIDENCY_COUNT - 1; i >= 0 && status == MB_OK; i--) {
        if (forecast->problem[i] == NULL)
            continue;
        status = add_class(cli, forecast, (enum mb_residency)i, minimize, against, budget, points,
                           &curve);
        if (status == MB_ERR_INFEASIBLE) {
            reason = reason.status == MB_OK ? cli->error : reason;
            status = MB_OK;
        }
    }
    if (status == MB_OK && curve.count == 0) {
        cli->error = reason;
        status = MB_ERR_INFEASIBLE;
    }
    if (status != MB_OK) {
        for (size_t i = 0; i < curve.count; i++)
            mb_plan_free(curve.plans[i]);
        free(curve.plans);
        return status;
    }
    cli->error = (struct mb_error){0};
    sort_curve(&curve, against);
    drop_dominated(&curve, minimize);
    *plans = curve.plans;
    *count = curve.count;
    return MB_OK;
}
